"""What is remembered of a loss: the onset, the patience, what counts as better, and that a resume forgets nothing."""

import json
from typing import Any

import pytest

from lightning_diagnostics import statistics
from lightning_diagnostics.diagnostics.generalization_gap.history import MOST, Moment, Streak, Watched
from lightning_diagnostics.diagnostics.generalization_gap.measure import Onset, Value
from lightning_diagnostics.diagnostics.generalization_gap.tally import Series


def _value(number: float, batches: int = 0) -> Value:
    """A number over 80 samples, with or without the means of batches that are alike but for their offsets."""
    if not batches:
        return Value(number, 80)
    offsets = [0.25 if index % 2 else -0.25 for index in range(batches)]
    means = tuple(number + offset for offset in offsets)
    return Value(number, 80, Series("mean", number, 80.0, means, (80 / batches,) * batches))


def _watched(losses: list[float], *, batches: int = 0, patience: int = 3, **more: Any) -> Watched:
    """A loss over validations at steps 10, 20, ..., while training goes from 1 to 0.5, 0.25, ..."""
    curve = Watched("val_loss", patience, more.pop("minimum", 0.125), more.pop("criterion", "patience"), 2)
    beside = more.pop("beside", None)
    for index, loss in enumerate(losses):
        other = (None, None) if beside is None else ("val_acc", _value(beside[index]))
        curve.add(Moment(10 * (index + 1), _value(loss, batches), 2.0**-index, *other), more.get("direction", "max"))
    return curve


def _onset(curve: Watched, **more: Any) -> Onset:
    onset = curve.onset(share=more.get("share", False), fewest=4)
    assert onset is not None
    return onset


def test_before_any_validation_there_is_no_onset() -> None:
    assert Watched("val_loss", 3, 0.1, "patience", 2).onset(share=False, fewest=4) is None


def test_the_onset_is_the_validation_at_which_the_loss_was_best() -> None:
    onset = _onset(_watched([4.0, 1.0, 2.0, 3.0]))
    assert (onset.step, onset.best, onset.now, onset.since, onset.validations) == (20, 1.0, 3.0, 2, 4)
    assert (onset.training_best, onset.training_now) == (0.5, 0.125)
    assert onset.partner is onset.partner_best is onset.score is None


@pytest.mark.parametrize(
    ("loss", "better"), [(0.875, False), (0.874, True), (1.0, False)], ids=["the limit itself", "below", "equal"]
)
def test_better_is_what_is_so_by_a_share_of_the_best(loss: float, better: bool) -> None:
    curve = _watched([1.0])
    assert curve.add(Moment(20, _value(loss), 0.5), None) == better
    assert (curve.best is curve.now, curve.since) == (better, 0 if better else 1)


def test_of_a_negative_loss_it_is_a_share_of_its_size() -> None:
    curve = _watched([-1.0])
    assert not curve.add(Moment(20, _value(-1.125), 0.5), None)
    assert curve.add(Moment(30, _value(-1.126), 0.5), None)


def test_a_new_best_starts_over() -> None:
    onset = _onset(_watched([2.0, 3.0, 4.0, 5.0, 1.0]))
    assert (onset.step, onset.since, onset.steady, onset.validations) == (50, 0, False, 5)


@pytest.mark.parametrize(
    ("losses", "steady"),
    [([1.0, 2, 2, 2], True), ([1.0, 2, 2], False), ([1.0, 2, 1, 2], False), ([1.0, 1, 2, 2, 2], True)],
)
def test_steady_is_what_was_worse_at_each_validation_of_the_patience(losses: list[float], steady: bool) -> None:
    assert _onset(_watched(losses)).steady == steady


@pytest.mark.parametrize(
    ("accuracies", "direction", "steady"),
    [
        ([8, 7, 7, 7], "max", True),
        ([8, 7, 8, 7], "max", False),
        ([8, 9, 9, 9], "max", False),
        ([8, 9, 9, 9], "min", True),
    ],
)
def test_the_metric_beside_it_is_worse_in_its_own_direction(
    accuracies: list[float], direction: str, steady: bool
) -> None:
    onset = _onset(_watched([1.0, 2.0, 2.0, 2.0], beside=accuracies, direction=direction))
    assert (onset.partner, onset.partner_best, onset.partner_now) == ("val_acc", accuracies[0], accuracies[-1])
    assert onset.partner_steady == steady


def test_a_metric_that_was_another_one_at_the_onset_does_not_count() -> None:
    curve = Watched("val_loss", 3, 0.125, "patience", 2)
    curve.add(Moment(1, _value(1.0), 1.0, "val_acc", _value(0.5)), "max")
    curve.add(Moment(2, _value(2.0), 0.5, "val_f1", _value(0.25)), "max")
    onset = _onset(curve)
    assert (onset.partner, onset.partner_best, onset.partner_now, onset.partner_low) == (None, None, None, None)


def test_a_rise_of_the_same_batches_is_told_from_their_differences() -> None:
    steep = _onset(_watched([1.0, 2.0], batches=4))
    assert steep.low == pytest.approx(1.0)  # each batch has risen by one
    assert _onset(_watched([1.0, 2.0], batches=3)).low is None  # too few


def test_the_least_worsening_of_a_share_is_newcombes() -> None:
    onset = _onset(_watched([1.0, 2.0], beside=[0.75, 0.5]), share=True)
    low, _ = statistics.accuracy_difference_interval(60, 80, 40, 80)
    assert onset.partner_low == pytest.approx(low, abs=1e-9)


# Prechelt's criteria.


def test_the_criteria_are_those_of_the_statistics() -> None:
    losses = [2.0, 1.0, 1.5, 1.75, 2.0, 2.25]
    scores = {name: _onset(_watched(losses, criterion=name)).score for name in ("patience", "GL", "UP", "PQ")}
    assert scores["patience"] is None
    assert scores["GL"] == pytest.approx(125.0)  # 100 (2.25 / 1 - 1)
    assert scores["UP"] == statistics.successive_rises(losses, strip=2) == 2
    progress = 1000 * ((2**-4 + 2**-5) / (2 * 2**-5) - 1)  # of the last strip of training losses
    assert scores["PQ"] == pytest.approx(125.0 / progress)


@pytest.mark.parametrize("losses", [[1.0, -2.0], [1.0, 0.0]], ids=str)
def test_losses_that_are_not_positive_have_no_generalization_loss(losses: list[float]) -> None:
    assert _onset(_watched(losses, criterion="GL")).score is None
    assert _onset(_watched(losses, criterion="PQ")).score is None


@pytest.mark.parametrize("last", [None, 0.0, -1.0])
def test_without_training_losses_above_none_there_is_no_progress(last: float | None) -> None:
    curve = Watched("val_loss", 3, 0.125, "PQ", 2)
    for step, training in enumerate([1.0, last]):
        curve.add(Moment(step, _value(1.0 + step), training), None)
    assert _onset(curve).score is None


def test_between_strips_there_is_no_progress() -> None:
    assert _onset(_watched([1.0, 2.0, 3.0], criterion="PQ")).score is None


# For long.


@pytest.mark.parametrize("criterion", ["GL", "UP", "PQ"])
def test_what_is_dropped_of_a_long_run_changes_no_verdict(criterion: str) -> None:
    losses = [1.0, *(2.0 + index / MOST for index in range(MOST + 7))]
    curve = _watched(losses, criterion=criterion)
    assert len(curve.validation) == len(curve.training) <= MOST
    onset = _onset(curve)
    assert (onset.step, onset.validations, onset.best) == (10, len(losses), 1.0)
    if criterion == "GL":
        assert onset.score == pytest.approx(100 * (losses[-1] - 1))
    if criterion == "UP":
        assert onset.score is not None
        assert onset.score >= MOST // 2 // 2 - 1
    assert (len(losses) - len(curve.validation)) % 2 == 0, "whole strips are dropped"


@pytest.mark.parametrize("cut", [1, 2, 4, 6])
def test_a_resumed_curve_goes_on_as_if_it_had_never_been_away(cut: int) -> None:
    losses, beside = [3.0, 1.0, 1.5, 2.0, 1.25, 2.5, 2.0], [0.5, 0.75, 0.5, 0.25, 0.75, 0.5, 0.25]
    whole = _watched(losses, beside=beside, batches=4, criterion="GL")
    first = _watched(losses[:cut], beside=beside[:cut], batches=4, criterion="GL")
    resumed = Watched("val_loss", 3, 0.125, "GL", 2)
    resumed.load(json.loads(json.dumps(first.plain())))
    assert _onset(resumed) == _onset(first)
    for index in range(cut, len(losses)):
        moment = Moment(10 * (index + 1), _value(losses[index], 4), 2.0**-index, "val_acc", _value(beside[index]))
        resumed.add(moment, "max")
    assert resumed == whole


def test_a_curve_that_has_seen_nothing_can_be_saved() -> None:
    empty, resumed = (Watched("val_loss", 3, 0.125, "patience", 2) for _ in range(2))
    resumed.load(json.loads(json.dumps(empty.plain())))
    assert resumed == empty


def test_a_streak_counts_what_held_without_a_break() -> None:
    streak, told = Streak(), []
    for step, holds in enumerate([True, True, False, True, True, True]):
        assert streak.update(holds, step=step) == holds
        told.append((streak.count, streak.since))
    assert told == [(1, 0), (2, 0), (0, 0), (1, 3), (2, 3), (3, 3)]
