"""What is remembered of a loss: the onset, the patience, what counts as better, and that a resume forgets nothing."""

import json
import math
import random
from statistics import fmean
from typing import Any

import pytest

from lightning_diagnostics import statistics
from lightning_diagnostics.diagnostics.generalization_gap.history import MOST, NOISE_OF, Moment, Streak, Watched
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


def _large(values: list[float], training: list[float | None] | None = None) -> Watched:
    """A metric that shall be large."""
    curve = Watched("val_acc", 3, 0.125, "patience", 2, large=True)
    for index, value in enumerate(values):
        curve.add(Moment(10 * (index + 1), _value(value, 4), None if training is None else training[index]), None)
    return curve


def _onset(curve: Watched, **more: Any) -> Onset:
    onset = curve.onset(share=more.get("share", False), fewest=4)
    assert onset is not None
    return onset


def test_before_any_validation_there_is_no_onset() -> None:
    assert Watched("val_loss", 3, 0.1, "patience", 2).onset(share=False, fewest=4) is None


def test_the_onset_is_the_validation_at_which_the_loss_was_best() -> None:
    onset = _onset(_watched([4.0, 1.0, 2.0, 3.0]))
    assert (onset.step, onset.best, onset.since, onset.validations) == (20, 1.0, 2, 4)
    assert (onset.training_best, onset.partner, onset.partner_best, onset.score) == (0.5, None, None, None)


@pytest.mark.parametrize(
    ("losses", "last", "now", "training"),
    [
        ([1.0], 1, 1.0, 1.0),
        ([1.0, 2.0], 1, 2.0, 0.5),
        ([1.0, 2.0, 4.0], 2, 3.0, 0.375),
        ([1.0, 9.0, 2.0, 3.0, 7.0], 3, 4.0, (0.25 + 0.125 + 0.0625) / 3),
    ],
    ids=str,
)
def test_now_is_the_mean_of_the_validations_of_the_patience_and_of_none_before_the_onset(
    losses: list[float], last: int, now: float, training: float
) -> None:
    onset = _onset(_watched(losses, beside=[8 * each for each in losses], direction="min"))
    assert (onset.last, onset.now, onset.training_now, onset.partner_now) == (last, now, training, 8 * now)


def test_validations_without_a_pass_do_not_count_for_the_training_loss() -> None:
    curve = Watched("val_loss", 3, 0.125, "patience", 2)
    for step, training in enumerate([None, 1.0, None, 0.5]):
        curve.add(Moment(step, _value(1.0 + step), training), None, samples=0 if training is None else 80)
        if not step:
            assert _onset(curve).training_best is _onset(curve).training_now is None
    assert (_onset(curve).training_best, _onset(curve).training_now, _onset(curve).now) == (1.0, 0.75, 3.0)


# How much a curve varies.


def test_the_noise_is_the_standard_deviation_around_the_course() -> None:
    draw = random.Random(1)
    found: list[float] = []
    for _ in range(100):
        course = [5.0 - 0.01 * step + draw.gauss(0.0, 0.25) for step in range(NOISE_OF)]
        found.append(_onset(_watched(course, minimum=0.0)).noise)
    assert fmean(found) == pytest.approx(0.25, rel=0.1)


def test_noise_is_that_of_the_last_validations() -> None:
    restless = [5.0 + (-1) ** step for step in range(2 * NOISE_OF)]
    assert _onset(_watched(restless)).noise == pytest.approx(4 / 0.6745 / math.sqrt(6))
    assert _onset(_watched([*restless, *([5.0] * NOISE_OF)])).noise == 0.0
    assert _onset(_watched([*restless, *([5.0] * (NOISE_OF // 2 - 2))])).noise > 0.0


@pytest.mark.parametrize("losses", [[1.0], [1.0, 2.0], [1.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0, 0.0]], ids=str)
def test_a_straight_course_and_one_too_short_have_no_noise(losses: list[float]) -> None:
    assert _onset(_watched(losses)).noise == 0.0


def test_one_leap_is_no_noise() -> None:
    assert _onset(_watched([1.0] * 10 + [5.0] * 10)).noise == 0.0


def test_the_metric_beside_has_a_noise_of_its_own() -> None:
    onset = _onset(_watched([1.0] * 10, beside=[0.5 + 0.25 * (step % 2) for step in range(10)]))
    assert onset.noise == 0.0
    assert onset.partner_noise == pytest.approx(0.5 / 0.6745 / math.sqrt(6))


# What shall be large.


def test_of_a_metric_that_shall_be_large_the_best_is_the_largest() -> None:
    onset = _onset(_large([0.25, 0.75, 0.625, 0.5], [0.25, 0.5, 0.75, 1.0]))
    assert (onset.step, onset.since, onset.steady) == (20, 2, False)
    assert (onset.best, onset.now, onset.training_best, onset.training_now) == (-0.75, -0.5625, -0.5, -0.875)
    assert (onset.shown(onset.best), onset.shown(onset.now), onset.shown(None)) == (0.75, 0.5625, None)
    assert onset.low == pytest.approx(0.25)  # each batch has fallen by that


@pytest.mark.parametrize(("value", "better"), [(0.5625, False), (0.563, True), (0.25, False)])
def test_of_a_metric_that_shall_be_large_better_is_more(value: float, better: bool) -> None:
    curve = _large([0.5])
    assert curve.add(Moment(20, _value(value), None), None) == better


def test_a_small_metric_is_shown_as_it_is() -> None:
    assert _onset(_watched([1.0, 2.0])).shown(0.5) == 0.5


# What the training loss is compared with.


def test_training_losses_of_other_samples_are_not_compared() -> None:
    curve = Watched("val_loss", 3, 0.125, "patience", 2)
    for step, (training, samples) in enumerate([(1.0, 80), (0.75, 80), (0.5, 40), (0.25, 40)]):
        curve.add(Moment(step, _value(1.0 + step), training), None, samples=samples)
        if step == 1:
            assert _onset(curve).training_best == 1.0
    onset = _onset(curve)
    assert (onset.step, onset.best, onset.training_best) == (0, 1.0, 0.5)


def test_a_new_best_has_a_new_reference() -> None:
    curve = Watched("val_loss", 3, 0.125, "patience", 2)
    for step, (loss, training) in enumerate([(2.0, 1.0), (1.0, 0.75), (3.0, 0.5)]):
        curve.add(Moment(step, _value(loss), training), None, samples=80)
    assert _onset(curve).training_best == 0.75


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
    assert (onset.partner, onset.partner_best, onset.partner_now) == ("val_acc", accuracies[0], fmean(accuracies[1:]))
    assert onset.partner_steady == steady


@pytest.mark.parametrize(("before", "after"), [("val_acc", "val_f1"), (None, "val_acc"), ("val_acc", None)])
def test_another_metric_beside_it_starts_over(before: str | None, after: str | None) -> None:
    curve = Watched("val_loss", 3, 0.125, "patience", 2)
    beside = {name: None if name is None else _value(0.5) for name in (before, after)}
    assert curve.add(Moment(1, _value(1.0), 1.0, before, beside[before]), "max")
    assert curve.add(Moment(2, _value(2.0), 0.5, after, beside[after]), "max")
    onset = _onset(curve)
    assert (onset.step, onset.since, onset.best, onset.training_best, onset.partner) == (2, 0, 2.0, 0.5, after)
    assert not curve.add(Moment(3, _value(2.0), 0.25, after, beside[after]), "max")


def test_a_rise_of_the_same_batches_is_told_from_their_differences() -> None:
    steep = _onset(_watched([1.0, 2.0], batches=4))
    assert steep.low == pytest.approx(1.0)  # each batch has risen by one
    assert _onset(_watched([1.0, 2.0], batches=3)).low is None  # too few


def test_batches_of_other_sizes_are_not_the_same_batches() -> None:
    curve = _watched([1.0], batches=4)
    other = Series("mean", 2.0, 80.0, (1.75, 2.25, 1.75, 2.25), (30.0, 20.0, 20.0, 10.0))
    curve.add(Moment(20, Value(2.0, 80, other), 0.5), None)
    assert _onset(curve).low is None


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
    assert len(curve.validation) == len(curve.training) == len(curve.beside) <= MOST
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
    for step, holds in enumerate([True, True, False, False, True, True, False]):
        assert streak.update(holds, step=step) == holds
        told.append((streak.count, streak.since, streak.missed))
    assert told == [(1, 0, 0), (2, 0, 0), (0, 0, 1), (0, 0, 2), (1, 4, 0), (2, 4, 0), (0, 4, 1)]
