"""The curve of trials that are made: what counts, what it costs, and what is said of the rest."""

import json
import math
import os
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from lightning_diagnostics.diagnostics.expected_performance.alive import here
from lightning_diagnostics.diagnostics.expected_performance.curve import is_grid, support
from lightning_diagnostics.statistics import (
    LARGEST_EXACT,
    best_of_n_spread,
    expected_validation_performance,
    tuning_curve_band,
)
from tests.diagnostics.expected_performance.made import NOW, curve, trial, trials
from tests.statistics.test_best_of_n import REFERENCE

SCORES = [0.5, 0.7, 0.4, 0.6, 0.8]
HOUR = 3600.0


def lost(number: int, *, silent: float, **more: Any) -> Any:
    """A trial that says it runs, and was last heard of so many seconds ago."""
    return trial(number, 0.9, "running", beat=NOW - silent, **more)


# What counts.


def test_a_curve_is_that_of_the_scores() -> None:
    found = curve(trials(SCORES), name="mine")
    assert (found.name, found.scores, found.n_trials, found.is_enough) == ("mine", tuple(SCORES), 5, True)
    assert found.mean == tuple(expected_validation_performance(SCORES))
    assert found.mean_unbiased == tuple(expected_validation_performance(SCORES, estimator="unbiased"))
    assert found.median == tuple(expected_validation_performance(SCORES, estimator="median"))
    assert found.spread == tuple(best_of_n_spread(SCORES))
    low, high = tuning_curve_band(SCORES, support=(0.0, 1.0))
    assert (found.low, found.high) == (tuple(low), tuple(high))
    assert (found.band, found.confidence, found.failed, found.min_trials) == ("ld", 0.8, "worst", 5)
    assert [found.n_failed, found.n_pruned, found.n_running, found.n_lost, found.n_unscored] == [0] * 5
    assert json.loads(json.dumps(found.to_dict()))["scores"] == SCORES


def test_the_smallest_is_best_where_it_shall_be() -> None:
    found = curve([replace(t, mode="min", metric="val_loss") for t in trials(SCORES)], metric="val_loss", mode="min")
    assert found.mean_unbiased[-1] == min(SCORES)
    assert found.best is not None
    assert found.best.name == "2"
    assert found.low[0] == 0  # a loss is at least 0
    assert found.high[0] is None  # and may be as large as it likes


@pytest.mark.parametrize("status", ["pruned", "running", "failed"])
def test_the_score_of_a_trial_that_has_not_completed_does_not_count(status: str) -> None:
    found = curve([*trials(SCORES), trial(5, 0.99, status)], failed="drop")
    assert found.scores == tuple(SCORES)
    assert found.mean == curve(trials(SCORES)).mean
    assert found.best is not None
    assert found.best.score == 0.8
    assert Counter(pruned=found.n_pruned, running=found.n_running, failed=found.n_failed) == Counter([status])


@pytest.mark.parametrize(
    "gone",
    [
        trial(7, None, "failed", reason="ValueError"),
        trial(7, 0.9, "failed"),
        trial(7, None, readings=3),
        lost(7, silent=25 * HOUR),
    ],
    ids=["failed", "failed late", "diverged", "lost for a day"],
)
def test_a_failed_trial_counts_as_the_policy_says(gone: Any) -> None:
    some = [*trials(SCORES)[:3], gone, *trials(SCORES)[3:]]
    worst, dropped, number = (curve(some, failed=failed) for failed in ("worst", "drop", 0.1))
    assert [each.n_failed for each in (worst, dropped, number)] == [1, 1, 1]

    assert (worst.scores, worst.n_trials, len(worst.mean)) == (tuple(SCORES), 6, 5)
    assert worst.median == tuple(expected_validation_performance(SCORES, estimator="median", failed=1))
    low, high = tuning_curve_band(SCORES, support=(0.0, 1.0), failed=1)
    assert worst.low == tuple(None if math.isnan(value) else value for value in low)
    assert worst.high == tuple(high)
    assert worst.low[0] is None  # the one of the failed trial

    assert (dropped.scores, dropped.n_trials) == (tuple(SCORES), 5)
    assert dropped.median == curve(trials(SCORES)).median

    imputed = [0.5, 0.7, 0.4, 0.1, 0.6, 0.8]
    assert (number.scores, number.n_trials) == (tuple(imputed), 6)
    assert number.mean == tuple(expected_validation_performance(imputed))


@pytest.mark.parametrize("case", REFERENCE["failed"], ids=lambda case: case["id"])
def test_failures_are_those_of_the_reference(case: dict[str, Any]) -> None:
    scores = [float(score) for score in case["scores"]]
    some = [
        trial(n, score if math.isfinite(score) else None, readings=1, metric="it", mode=case["mode"])
        for n, score in enumerate(scores)
    ]
    more = {"metric": "it", "mode": case["mode"]}
    assert curve(some, failed="drop", **more).mean == pytest.approx(case["drop"]["V"], rel=1e-9)
    assert curve(some, failed="drop", **more).mean_unbiased == pytest.approx(case["drop"]["U"], rel=1e-9)
    medians = [None if value == "failed" else value for value in case["worst"]]
    assert list(curve(some, **more).median) == medians
    value = float(case["imputed"]["failed_value"])
    assert curve(some, failed=value, **more).mean == pytest.approx(case["imputed"]["V"], rel=1e-9)


def test_a_trial_that_ended_without_a_word_of_its_metric_is_told_and_does_not_count() -> None:
    found = curve([*trials(SCORES), trial(5)])
    assert (found.n_unscored, found.n_failed, found.n_trials) == (1, 0, 5)


@pytest.mark.parametrize(
    ("silent", "more", "is_lost", "is_certain"),
    [
        (1799, {}, False, False),
        (1801, {}, True, False),
        (5999, {"silence": 600.0}, False, False),
        (6001, {"silence": 600.0}, True, False),
        (24 * HOUR - 1, {}, True, False),
        (24 * HOUR + 1, {}, True, True),
    ],
)
def test_a_silent_trial_of_another_machine_is_lost_and_after_a_day_it_has_failed(
    silent: float, more: dict[str, Any], is_lost: bool, is_certain: bool
) -> None:
    found = curve([*trials(SCORES), lost(5, silent=silent, **more)])
    assert (found.n_lost, found.n_failed, found.n_running) == (is_lost, is_certain, not is_lost)
    assert found.n_trials == 5 + is_certain
    assert found.trials[-1].status == ("lost" if is_lost else "running")


def test_a_trial_of_this_machine_is_lost_at_once_where_its_process_is_gone_and_never_where_it_lives() -> None:
    mine = here()
    if not mine["kernel"]:
        pytest.skip("this system does not tell of processes")
    living = lost(5, silent=0, **mine)
    reborn = lost(6, silent=0, **{**mine, "born": mine["born"] + 1})
    gone = lost(7, silent=0, **{**mine, "pid": 2**22 + 1})
    found = curve([*trials(SCORES), living, reborn, gone])
    assert (found.n_running, found.n_lost, found.n_failed, found.n_trials) == (1, 2, 2, 7)
    assert mine["pid"] == os.getpid()


def test_trials_of_another_metric_or_mode_are_never_pooled() -> None:
    others = [trial(8, 0.99, metric="val_f1"), trial(9, 0.99, mode="min"), trial(10, None, "failed", mode="min")]
    assert curve([*trials(SCORES), *others]) == curve(trials(SCORES))
    assert curve(others, mode="min").scores == (0.99,)


def test_too_few_scores_are_no_curve_and_min_trials_says_how_many_these_are() -> None:
    assert [curve(trials(SCORES[:n])).is_enough for n in (0, 1, 4, 5)] == [False, False, False, True]
    assert [curve(trials(SCORES[:n]), min_trials=2).is_enough for n in (1, 2)] == [False, True]
    failed = [trial(9, None, "failed")] * 3
    assert not curve([*trials(SCORES[:4]), *failed]).is_enough
    assert not curve([*trials(SCORES[:4]), *failed], failed=0.1).is_enough  # what it counts as is no score of its own


def test_a_sweep_without_a_score_has_no_curve_and_no_best() -> None:
    for some in ([], [trial(0, None, "failed")], [trial(0, 0.5, "running")], [trial(0, None, "pruned")]):
        found = curve(some)
        assert (found.best, found.mean, found.median, found.is_enough) == (None, (), (), False)
        assert str(found).splitlines()[0].endswith("no score.")


def test_of_two_that_are_as_good_the_older_is_the_best() -> None:
    found = curve(trials([0.3, 0.8, 0.8, -0.1]))
    assert found.best is not None
    assert found.best.name == "1"
    worse = curve(trials([-0.3, -0.1, -0.2]))
    assert worse.best is not None
    assert worse.best.score == -0.1


def test_more_trials_than_the_exact_band_takes_have_that_of_kolmogorov_and_smirnov() -> None:
    some = trials(number / (LARGEST_EXACT + 1) for number in range(LARGEST_EXACT + 1))
    found = curve(some)
    assert (found.band, found.n_trials, len(found.low)) == ("ks", LARGEST_EXACT + 1, LARGEST_EXACT + 1)
    assert curve(some, band="dkw").band == "dkw"


# What it costs.


def test_hours_are_those_of_all_that_are_over_on_all_devices_for_each_that_counts() -> None:
    some = [
        *trials([0.5, 0.6], seconds=HOUR, devices=2),
        trial(2, None, "failed", seconds=HOUR / 2),
        trial(3, 0.9, "pruned", seconds=HOUR / 4),
        trial(4, None, seconds=HOUR / 8),
        lost(5, silent=2 * HOUR, seconds=HOUR / 16),
        trial(6, 0.9, "running", seconds=100 * HOUR),
    ]
    spent = 4 + 1 / 2 + 1 / 4 + 1 / 8 + 1 / 16
    for failed, counted in (("worst", 3), ("drop", 2), (0.1, 3)):
        found = curve(some, failed=failed)
        assert found.n_trials == counted
        assert found.hours_per_trial == pytest.approx(spent / counted)
        assert found.hours(3) == pytest.approx(3 * spent / counted)


TIMED = [case for case in REFERENCE["curves"] if "durations" in case]


@pytest.mark.parametrize("case", TIMED, ids=lambda case: case["id"])
def test_hours_are_those_of_the_reference(case: dict[str, Any]) -> None:
    pairs = zip(case["scores"], case["durations"], strict=True)
    found = curve(trial(n, score, seconds=float(seconds)) for n, (score, seconds) in enumerate(pairs))
    assert [found.hours(n + 1) for n in range(len(case["hours"]))] == pytest.approx(case["hours"], rel=1e-9)


def test_where_no_trial_tells_its_time_there_are_no_hours() -> None:
    found = curve(trials(SCORES))
    assert (found.hours_per_trial, found.hours(3)) == (None, None)


# What is known of the metric, and of the search.


@pytest.mark.parametrize(
    ("metric", "scores", "ends"),
    [
        ("val_acc", [0.2, 1.0], (0, 1)),
        ("val/Accuracy", [0.2], (0, 1)),
        ("valAccuracy", [0.2], (0, 1)),
        ("val_f1/dataloader_idx_1", [0.2], (0, 1)),
        ("map@50", [0.2], (0, 1)),
        ("val_acc", [20.0, 99.0], (0, 100)),
        ("val_acc", [101.0], (-math.inf, math.inf)),
        ("val_acc", [-0.1, 0.5], (-math.inf, math.inf)),
        ("val_loss", [0.2, 700.0], (0, math.inf)),
        ("valLoss", [0.2], (0, math.inf)),
        ("floss", [0.2], (0, math.inf)),
        ("error_rate", [0.2], (0, math.inf)),
        ("val_loss", [-0.2, 0.7], (-math.inf, math.inf)),
        ("reward", [0.2], (-math.inf, math.inf)),
        ("glossy", [0.2], (-math.inf, math.inf)),
        ("facct", [0.2], (-math.inf, math.inf)),
    ],
)
def test_the_values_that_a_metric_can_have_are_told_from_its_name_unless_scores_contradict(
    metric: str, scores: list[float], ends: tuple[float, float]
) -> None:
    assert support(metric, scores) == ends


def settings(*pairs: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"lr": lr, "depth": depth, "name": "same"} for lr, depth in pairs]


GRID = settings(*((lr, depth) for lr in (0.1, 0.2, 0.3) for depth in (1, 2)))


def test_a_grid_is_all_combinations_each_once() -> None:
    assert is_grid(GRID)
    assert is_grid(GRID[::-1])
    assert is_grid([{**each, "more": [1, 2]} for each in GRID])
    assert not is_grid([])
    assert not is_grid([*GRID, GRID[0]])
    assert not is_grid(GRID[:-1])
    assert not is_grid([*GRID[:-1], GRID[0]])
    assert not is_grid(settings((1, 1), (1, 2), (2, 1), (2, 2)))  # of four there is one chance in ten
    assert not is_grid([{"lr": lr} for lr in range(8)])  # one hyperparameter: all draws differ
    assert not is_grid([{"lr": lr, "depth": lr} for lr in range(8)])


@pytest.mark.parametrize(
    ("searches", "random"),
    [
        (["random"], True),
        ([None], None),
        (["random", None], None),
        (["TPESampler"], False),
        (["random", "TPESampler"], False),
        (["grid"], False),
    ],
)
def test_trials_are_independent_draws_where_every_search_is_random(searches: list[Any], random: bool | None) -> None:
    some = [replace(each, search=searches[place % len(searches)]) for place, each in enumerate(trials(SCORES))]
    found = curve(some)
    assert found.is_random is random
    assert found.searches == tuple(sorted({each for each in searches if each}))


def test_a_grid_is_recognized_where_the_search_is_not_known() -> None:
    some = [trial(place, 0.1 * place, hyperparameters=each) for place, each in enumerate(GRID)]
    assert curve(some).searches == ("grid",)
    assert curve(some).is_random is False
    random = curve([replace(each, search="random") for each in some])
    assert (random.searches, random.is_random) == (("random",), True)  # that was said


# What cannot be.


@pytest.mark.parametrize(
    ("more", "message"),
    [
        *(
            (
                {"failed": failed},
                f"failed={failed!r}: allowed are 'worst', 'drop', and a finite number, the score it counts as",
            )
            for failed in ("best", math.nan, math.inf, True, None, [0.1])
        ),
        ({"confidence": 1.0}, "confidence=1.0: allowed is more than 0 and less than 1"),
        ({"confidence": math.nan}, "confidence=nan: allowed is more than 0 and less than 1"),
        ({"band": "bca"}, "band='bca': allowed are 'ld', 'ld-highest-density', 'ks', 'dkw'"),
    ],
)
def test_what_is_not_allowed_is_quoted_with_what_is(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        curve(trials(SCORES), **more)
