"""Two sweeps at equal budget, where it is known at how many trials the band of one leaves that of the other."""

import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest

from lightning_diagnostics.diagnostics.expected_performance.comparison import Lead, compare
from lightning_diagnostics.diagnostics.expected_performance.curve import TuningCurve
from tests.diagnostics.expected_performance.made import curve, trial, trials

HOUR = 3600.0
EPSILON = math.sqrt(math.log(2 / 0.2) / (2 * 10))
"""The margin of the band around ten scores, 0.339."""


def sweep(name: str, scores: list[float], *, mode: Any = "max", **more: Any) -> TuningCurve:
    """A sweep with the band that has a closed form."""
    metric = "val_acc" if mode == "max" else "val_loss"
    some = trials(scores, metric=metric, mode=mode, **more)
    return curve(some, name=name, metric=metric, mode=mode, band="dkw")


def halves(name: str = "A", **more: Any) -> TuningCurve:
    """Ten trials, the median of whose best is known to be 0.9 where 0.5 ** (1 / n) is above 1/2 + 0.339."""
    return sweep(name, [0.3] * 5 + [0.9] * 5, **more)


def level(count: int, name: str = "B", **more: Any) -> TuningCurve:
    """So many trials, all of which are worth 0.5; the more of them, the longer that is known of the best of n."""
    return sweep(name, [0.5] * count, **more)


def known_up_to(count: int) -> int:
    """The largest n of which the band around so many scores has an upper end that is one of them."""
    return math.floor(math.log(0.5) / math.log(1 - math.sqrt(math.log(2 / 0.2) / (2 * count))))


FIRST = math.floor(math.log(0.5) / math.log(0.5 + EPSILON)) + 1


def test_the_crossing_is_where_it_was_put() -> None:
    assert FIRST == 4
    assert [known_up_to(count) for count in (400, 2000)] == [12, 28]


def test_the_better_sweep_is_ahead_from_the_crossing_on() -> None:
    found = compare(halves(), level(400))
    assert found.trials == (Lead("A", "B", FIRST, 10),)
    assert (found.most_trials, found.hours, found.most_hours) == (10, None, None)
    assert str(found) == (
        "At equal budget A beats B from n = 4 on (to n = 10); the bands overlap until then.\n"
        "(Both bands, by trials, hold at once in at least 64% of such sweeps.)"
    )


def test_which_of_the_two_is_given_first_does_not_matter() -> None:
    assert compare(level(400), halves()).trials == compare(halves(), level(400)).trials
    assert str(compare(level(400), halves())) == str(compare(halves(), level(400)))


def test_of_a_loss_the_smaller_one_is_ahead() -> None:
    found = compare(sweep("A", [0.7] * 5 + [0.1] * 5, mode="min"), level(400, mode="min"))
    assert found.trials == (Lead("A", "B", FIRST, 10),)


def test_a_lead_that_nothing_is_known_of_any_more_ends() -> None:
    many = compare(sweep("A", [0.3] * 240 + [0.9] * 160), level(400))
    assert many.trials == (Lead("B", "A", 1, 1), Lead("A", "B", 2, 12))
    assert str(many).startswith(
        "At equal budget B beats A at n = 1; A beats B from n = 2 to n = 12; "
        "elsewhere up to n = 400 the bands overlap.\n"
    )


def test_a_sweep_that_is_ahead_from_the_first_trial_on_is_so_everywhere() -> None:
    found = str(compare(sweep("A", [0.9] * 10), level(400)))
    assert found.startswith("At equal budget A beats B from n = 1 on (to n = 10), everywhere.\n")


def test_where_the_bands_overlap_neither_beats_the_other() -> None:
    for one, other in ((halves(), halves("B")), (halves(), level(6)), (level(10, "A"), level(400))):
        found = compare(one, other)
        assert found.trials == ()
        most = found.most_trials
        words = f"At equal budget the bands of A and B overlap up to n = {most}: neither beats the other.\n"
        assert str(found).startswith(words)


def test_no_lead_is_seen_beyond_the_trials_that_both_have() -> None:
    assert compare(halves(), level(400)).most_trials == compare(level(400), halves()).most_trials == 10
    assert compare(level(400, "A"), level(20)).most_trials == 20


def test_by_hours_the_cheaper_sweep_has_more_trials() -> None:
    found = compare(halves(seconds=HOUR, devices=2), level(2000, seconds=HOUR))
    assert found.trials == (Lead("A", "B", FIRST, 10),)
    assert found.most_hours == pytest.approx(20)
    assert found.hours is not None
    (lead,) = found.hours
    assert (lead.winner, lead.loser, lead.first, lead.last) == ("A", "B", pytest.approx(2 * FIRST), pytest.approx(20))
    words = "At equal budget A beats B from 8 h of a device on (to 20 h of a device); the bands overlap until then."
    assert str(found).splitlines()[1] == words


def test_by_hours_the_lead_ends_with_what_is_known_of_the_cheaper_one() -> None:
    found = compare(halves(seconds=2 * HOUR), level(400, seconds=HOUR)).hours
    assert found is not None
    (lead,) = found
    assert (lead.first, lead.last) == (pytest.approx(2 * FIRST), pytest.approx(12))
    dear = compare(halves(seconds=HOUR), level(400, seconds=5 * HOUR))  # B: 1 trial at 5 hours, where A has its 5th
    assert dear.hours is not None
    assert [(lead.winner, lead.first, lead.last) for lead in dear.hours] == [("A", 5, 10)]
    assert str(dear).splitlines()[1].endswith("A beats B from 5 h of a device on (to 10 h of a device), everywhere.")


def test_without_the_time_of_both_there_are_no_hours() -> None:
    for one, other in ((halves(seconds=HOUR), level(400)), (halves(), level(400, seconds=HOUR))):
        found = compare(one, other)
        assert (found.hours, found.most_hours) == (None, None)
        assert len(str(found).splitlines()) == 2


def test_a_budget_that_buys_no_trial_of_the_dearer_sweep_is_no_budget() -> None:
    found = compare(halves(seconds=HOUR), level(400, seconds=11 * HOUR))
    assert (found.hours, found.most_hours) == ((), pytest.approx(10))


def test_many_trials_by_hours_are_compared_at_the_last_budget_too() -> None:
    cheap, dear = level(1993, "A", seconds=0.01 * HOUR), sweep("B", [0.1] * 2000, seconds=HOUR)
    found = compare(cheap, dear)
    assert found.hours is not None
    (lead,) = found.hours
    assert (lead.winner, lead.first) == ("A", pytest.approx(1, rel=0.05))
    assert lead.last == found.most_hours == pytest.approx(19.93)


def test_a_band_that_ends_at_a_failed_trial_beats_nothing() -> None:
    good, failing = [0.9] * 10, [trial(50 + n, None, "failed") for n in range(9)]
    half = curve([*trials(good), *failing], name="A", band="dkw")
    assert half.median[0] == 0.9
    assert half.low[0] is None
    found = compare(half, level(400))
    assert found.trials[0].first > 1
    assert compare(sweep("A", good), level(400)).trials[0].first == 1


def test_for_programs_it_is_plain_values() -> None:
    plain = json.loads(json.dumps(compare(halves(seconds=HOUR), level(400, seconds=HOUR)).to_dict()))
    lead = {"winner": "A", "loser": "B", "first": 4, "last": 10}
    assert plain.pop("words").startswith("At equal budget A beats B from n = 4 on")
    assert plain == {
        "by_trials": [lead],
        "most_trials": 10,
        "known_trials": 10,
        "by_hours": [pytest.approx(lead)],
        "most_hours": pytest.approx(10),
        "confidence": pytest.approx(0.64),
    }


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (
            halves(),
            level(10, mode="min"),
            "'A' has 'val_acc' (max) and 'B' has 'val_loss' (min): allowed are two sweeps of one metric and mode",
        ),
        (
            halves(),
            replace(level(10), mode="min"),
            "'A' has 'val_acc' (max) and 'B' has 'val_acc' (min): allowed are two sweeps of one metric and mode",
        ),
        (halves(), level(4), "'B' has 4 scores: allowed is 5 or more (min_trials)"),
        (level(0, "A"), halves("B"), "'A' has 0 scores: allowed is 5 or more (min_trials)"),
    ],
)
def test_what_cannot_be_compared_is_said(one: TuningCurve, other: TuningCurve, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        compare(one, other)
