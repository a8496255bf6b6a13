"""What steps add up to: moments against exact arithmetic, what is left out, excursions, noise, a resume anywhere."""

import json
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from lightning_diagnostics import GradientNormMonitor
from lightning_diagnostics.diagnostics.gradients.history import FEW, History, Taken
from lightning_diagnostics.diagnostics.gradients.measure import Excursions, OptimizerGradients
from lightning_diagnostics.diagnostics.gradients.rules import Limits, exploding_gradient
from lightning_diagnostics.findings import Diagnosis

NAN, INF = float("nan"), float("inf")
WINDOW, FACTOR, PAST = 12, 10.0, 5


def taken(norm: float | None, step: int = 0, **more: Any) -> Taken:
    """A step with this norm before clipping, and after it unless told otherwise."""
    square = None if norm is None else norm * norm
    words: dict[str, Any] = {"before": square, "after": square, "each": {}, "named": (), **more}
    return Taken("SGD", step, step, **words)


def history(window: int = WINDOW) -> History:
    return History("SGD", window, FACTOR, PAST)


def after(steps: Sequence[Taken], *, window: int = WINDOW) -> History:
    made = history(window)
    for step in steps:
        made.take(step)
    return made


def of_norms(*norms: float, window: int = WINDOW, **more: Any) -> OptimizerGradients:
    return after([taken(norm, index, **more) for index, norm in enumerate(norms)], window=window).measured()


def of_losses(norms: Sequence[float], losses: Sequence[float | None], *, window: int = WINDOW) -> History:
    pairs = enumerate(zip(norms, losses, strict=True))
    return after([taken(norm, index, loss=loss) for index, (norm, loss) in pairs], window=window)


# Moments.


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("window", [10, 17])
def test_moments_are_those_of_the_last_steps_in_exact_arithmetic(seed: int, window: int) -> None:
    draw = random.Random(seed)
    norms = [draw.randint(1, 1000) for _ in range(draw.randint(10, 40))]
    found, recent = of_norms(*map(float, norms), window=window), [Fraction(norm) for norm in norms[-window:]]
    mean, variance = statistics.mean(recent), statistics.variance(recent)
    assert found.values == len(recent)
    assert found.mean == pytest.approx(float(mean), rel=1e-12)
    assert found.variance == pytest.approx(float(variance), rel=1e-12)
    assert found.cv == pytest.approx(math.sqrt(variance) / mean, rel=1e-12)
    assert found.lower == pytest.approx(max(0.0, float(mean) - math.sqrt(variance)), rel=1e-12)
    assert found.upper == pytest.approx(float(mean) + math.sqrt(variance), rel=1e-12)

    decay, average, spread = 1 - Fraction(2, window + 1), Fraction(norms[0]), Fraction(0)
    for norm in norms[1:]:
        spread = decay * (spread + (1 - decay) * (norm - average) ** 2)
        average += (1 - decay) * (norm - average)
    assert found.average == pytest.approx(float(average), rel=1e-12)
    assert found.average_variance == pytest.approx(float(spread), rel=1e-12)


def test_a_band_does_not_reach_below_zero() -> None:
    found = of_norms(*[0.0] * 11, 12.0)
    assert found.mean == 1.0
    assert found.lower == 0.0
    assert found.upper == pytest.approx(1 + math.sqrt(12))


@pytest.mark.parametrize("count", [1, FEW - 1, FEW])
def test_a_variance_takes_ten_steps_and_an_average_one(count: int) -> None:
    found = of_norms(*[2.0] * count)
    drawn = (found.mean, found.lower, found.upper, found.variance, found.cv, found.average_variance)
    assert drawn == ((2.0, 2.0, 2.0, 0.0, 0.0, 0.0) if count >= FEW else (None,) * 6)
    assert (found.values, found.average) == (count, 2.0)


def test_norms_of_zero_have_no_coefficient_of_variation() -> None:
    found = of_norms(*[0.0] * 10)
    assert (found.mean, found.variance, found.cv, found.zero_steps) == (0.0, 0.0, None, 10)


@pytest.mark.parametrize("broken", [NAN, INF])
def test_norms_that_are_not_finite_are_left_out(broken: float) -> None:
    whole = [float(norm) for norm in range(1, 11)]
    found, plain = of_norms(*whole[:4], broken, *whole[4:], broken, window=12), of_norms(*whole)
    assert found.values == 10
    for name in ("mean", "variance", "cv", "average", "average_variance", "largest"):
        assert getattr(found, name) == getattr(plain, name), name
    assert found.norm is not None
    assert not math.isfinite(found.norm)


def test_of_norms_that_are_none_of_them_finite_there_is_nothing_but_the_steps() -> None:
    found = of_norms(*[NAN] * 12)
    assert (found.values, found.mean, found.average, found.largest, found.first_mean) == (0, None, None, None, None)


def test_the_window_has_the_last_steps_and_says_since_when() -> None:
    found = of_norms(*map(float, range(15)), window=10)
    assert (found.since, found.step, found.values, found.window) == (5, 14, 10, 10)
    assert after([taken(1.0, 5), taken(1.0, 9)]).since == 5


def test_zero_steps_are_those_with_a_gradient_of_exactly_zero() -> None:
    assert of_norms(0.0, 1e-30, 0.0, NAN, 1.0).zero_steps == 2


# Clipping.


def test_a_clip_factor_is_the_quotient_of_the_norms() -> None:
    assert taken(4.0, after=1.0).factor == 0.25
    assert taken(4.0).factor == 1.0
    assert taken(0.0).factor == 1.0
    assert taken(4.0, after=None).factor is None
    assert taken(None, after=4.0).factor is None
    assert taken(INF, after=4.0).factor is None
    assert taken(NAN, after=4.0).factor is None


def test_the_norm_is_that_before_clipping_or_else_that_after_it() -> None:
    assert taken(4.0, after=1.0).norm == 4.0
    assert taken(None, after=9.0).norm == 3.0
    assert math.isnan(taken(None, after=None).norm)


@pytest.mark.parametrize(("factor", "clipped"), [(0.9, True), (0.99998, True), (0.999995, False), (1.0, False)])
def test_what_rounding_leaves_of_a_norm_is_not_called_clipped(factor: float, clipped: bool) -> None:
    found = of_norms(2.0, 2.0, after=(2.0 * factor) ** 2)
    assert found.clipped_share == float(clipped)
    assert found.clip_factor == (pytest.approx(factor) if clipped else 1.0)


def test_the_share_of_clipped_steps_is_of_those_of_which_it_is_known() -> None:
    steps = [taken(2.0, after=1.0), taken(2.0), taken(2.0, after=None), taken(None, after=1.0), taken(INF, after=1.0)]
    found = after(steps).measured()
    assert (found.clipped_share, found.median_factor, found.judged) == (0.5, 0.75, 2)
    assert found.clip_factor is None
    nothing = after(steps[2:4]).measured()
    assert (nothing.clipped_share, nothing.median_factor, nothing.judged) == (None, None, 0)


def test_the_norm_after_clipping_is_none_of_a_step_that_was_not_made() -> None:
    found = after([taken(2.0, after=1.0), taken(3.0, after=None, stepped=False, scaled=True)]).measured()
    assert (found.norm, found.norm_after) == (3.0, None)
    assert after([taken(2.0, after=1.0)]).measured().norm_after == 1.0


# Skipped steps.


@pytest.mark.parametrize(
    ("words", "skipped"),
    [
        ({"scaled": True, "stepped": False}, True),
        ({"scaled": True, "stepped": True}, False),
        ({"scaled": False, "stepped": True}, False),
        ({"scaled": False, "stepped": False}, False),
    ],
)
def test_a_scaler_skips_steps_that_are_not_made(words: dict[str, bool], skipped: bool) -> None:
    assert taken(1.0, **words).skipped is skipped


@pytest.mark.parametrize("norm", [NAN, INF])
def test_an_optimizer_that_unscales_by_itself_does_nothing_if_the_norm_is_not_finite(norm: float) -> None:
    assert taken(norm, scaled=True).skipped
    assert not taken(norm, scaled=False).skipped


def test_the_share_of_skipped_steps_is_drawn_from_the_first_scaler_on() -> None:
    assert of_norms(1.0, 1.0).skipped_share is None
    steps = [taken(1.0), taken(1.0, scaled=True), taken(INF, scaled=True, stepped=False), taken(1.0)]
    assert after(steps[:1]).measured().skipped_share is None
    assert after(steps[:2]).measured().skipped_share == 0.0
    assert after(steps).measured().skipped_share == 0.25


# The largest norm, since it was last drawn.


def test_the_largest_norm_is_that_of_the_steps_since_the_last_drawing() -> None:
    made = after([taken(5.0), taken(3.0)])
    assert made.measured().largest == 5.0
    made.drawn()
    assert made.measured().largest is None
    made.take(taken(2.0))
    made.take(taken(4.0))
    made.take(taken(NAN))
    assert made.measured().largest == 4.0


# The first window, and the one before.


def test_the_first_window_is_that_of_the_run_and_stays() -> None:
    norms, losses = [float(n) for n in range(1, 26)], [float(2 * n) for n in range(1, 26)]
    early = of_losses(norms[:9], losses[:9], window=10).measured()
    assert (early.first_mean, early.first_loss) == (None, None)
    for count in (10, 25):
        found = of_losses(norms[:count], losses[:count], window=10).measured()
        assert (found.first_mean, found.first_loss) == (5.5, 11.0)


def test_the_loss_is_compared_with_that_of_the_window_before_once_it_is_full() -> None:
    losses = [float(n) for n in range(25)]
    for count, earlier in ((10, None), (19, None), (20, 4.5), (25, 9.5)):
        found = of_losses([1.0] * count, losses[:count], window=10).measured()
        assert found.loss == statistics.fmean(losses[:count][-10:])
        assert found.earlier_loss == earlier


def test_losses_that_are_not_seen_or_not_finite_are_left_out() -> None:
    found = of_losses([1.0] * 5, [1.0, None, NAN, INF, 3.0]).measured()
    assert found.loss == 2.0
    assert of_losses([1.0] * 2, [None, NAN]).measured().loss is None


# Excursions.


def excursions(norms: Sequence[float], losses: Sequence[float | None]) -> Excursions:
    return of_losses(norms, losses).excursions()


CALM = [1.0] * PAST


@pytest.mark.parametrize(("norm", "away"), [(9.9, False), (10.0, False), (10.1, True), (NAN, False), (INF, False)])
@pytest.mark.parametrize(("loss", "risen"), [(0.9, False), (1.0, False), (1.1, True), (NAN, True), (INF, True)])
def test_a_step_stands_out_by_its_norm_and_its_loss(norm: float, away: bool, loss: float, risen: bool) -> None:
    found = excursions([*CALM, norm], [*CALM, loss])
    assert found.steps == ((PAST,) if away and risen else ())
    if found.steps:
        assert (found.largest, found.median, found.earlier_loss) == (norm, 1.0, 1.0)
        assert found.loss == loss or math.isnan(loss)


@pytest.mark.parametrize(("later", "away"), [(1.0, False), (1.1, True), (NAN, True), (None, False)])
def test_the_loss_may_rise_at_the_next_step(later: float | None, away: bool) -> None:
    found = excursions([*CALM, 20.0, 1.0], [*CALM, 0.5, later])
    assert found.steps == ((PAST,) if away else ())


def test_a_loss_that_rises_two_steps_later_is_of_another_cause() -> None:
    assert excursions([*CALM, 20.0, 1.0, 1.0], [*CALM, 0.5, 0.5, 9.0]).steps == ()


@pytest.mark.parametrize("past", [PAST - 1, PAST])
def test_an_excursion_takes_a_past(past: int) -> None:
    found = excursions([*[1.0] * past, 20.0], [*[1.0] * past, 2.0])
    assert found.steps == ((past,) if past >= PAST else ())


@pytest.mark.parametrize("window", [10, 12, 100])
def test_in_a_window_that_is_shorter_than_the_past_several_steps_can_stand_out(window: int) -> None:
    limits = Limits()
    assert (limits.exploding_past, limits.exploding_steps) == (20, 8)
    made = GradientNormMonitor(window=window)._new_history("SGD")
    rising = [1.01**k for k in range(30)]
    norms = [1.0] * 20 + [4.0**k for k in range(30)]
    for index, (norm, loss) in enumerate(zip(norms, [1.0] * 20 + rising, strict=True)):
        made.take(taken(norm, index, loss=loss))
    found = made.excursions()
    assert found.surges == ()
    assert len(found.steps) >= 8
    verdict = exploding_gradient.check(found, limits)
    assert isinstance(verdict, Diagnosis)
    assert verdict.message.startswith(f"At {len(found.steps)} steps the gradient norm was more than 100 times")


@pytest.mark.parametrize("calm", [9, 10])
def test_in_a_short_window_a_whole_window_is_past_enough(calm: int) -> None:
    made = GradientNormMonitor(window=10)._new_history("SGD")
    for index, (norm, loss) in enumerate([(1.0, 1.0)] * calm + [(500.0, 2.0)]):
        made.take(taken(norm, index, loss=loss))
    assert made.excursions().steps == ((10,) if calm == 10 else ())


def test_a_past_is_of_finite_norms_and_losses() -> None:
    norms = [1.0, NAN, 1.0, 1.0, 1.0, 20.0]
    assert excursions(norms, [1.0] * 5 + [2.0]).steps == ()
    assert excursions([*norms[:5], 1.0, 20.0], [1.0] * 6 + [2.0]).steps == (6,)
    assert excursions([1.0] * 5 + [20.0], [1.0, 1.0, None, NAN, 1.0, 2.0]).steps == ()


def test_without_a_loss_no_step_stands_out() -> None:
    assert excursions([*CALM, 20.0], [*CALM, None]).steps == ()


def test_a_past_of_zeros_has_no_median_to_compare_with() -> None:
    assert excursions([0.0] * 5 + [1.0], [1.0] * 5 + [2.0]).steps == ()


def test_the_worst_of_the_window_is_told_and_older_ones_leave_it() -> None:
    norms, losses = [1.0] * 30, [1.0] * 30
    for index, norm, loss in ((6, 20.0, 2.0), (9, 40.0, 3.0), (11, 30.0, 4.0)):
        norms[index], losses[index] = norm, loss
    found = excursions(norms[:15], losses[:15])
    assert found.steps == (6, 9, 11)
    assert (found.largest, found.median, found.loss, found.earlier_loss) == (40.0, 1.0, 3.0, 2.0)
    assert excursions(norms[:20], losses[:20]).steps == (9, 11)
    assert excursions(norms[:22], losses[:22]).steps == (11,)
    assert excursions(norms, losses).steps == ()


# Surges, of which one is enough.

SURGE, SURGE_PAST = 4.0, 3


def surges(
    norms: Sequence[float], losses: Sequence[float | None], *, past: int = PAST, window: int = WINDOW
) -> Excursions:
    made = History("SGD", window, FACTOR, past, surge=SURGE, surge_past=SURGE_PAST)
    for index, (norm, loss) in enumerate(zip(norms, losses, strict=True)):
        made.take(taken(norm, index, loss=loss))
    return made.excursions()


@pytest.mark.parametrize(("norm", "away"), [(9.9, False), (10.0, False), (10.1, True), (NAN, False), (INF, False)])
@pytest.mark.parametrize(
    ("after", "up"), [(3.9, False), (4.0, False), (4.1, True), (NAN, True), (INF, True), (-9.0, False), (None, False)]
)
def test_a_step_is_a_surge_by_its_norm_and_the_next_loss(
    norm: float, away: bool, after: float | None, up: bool
) -> None:
    found = surges([*CALM, norm, 1.0], [*CALM, 0.5, after])
    assert found.surges == ((PAST,) if away and up else ())
    if found.surges:
        assert (found.largest, found.median, found.earlier_loss) == (norm, 1.0, 1.0)
        assert after is not None
        assert found.loss == after or math.isnan(after)


@pytest.mark.parametrize("norm", [NAN, INF, 1e9, 0.0])
def test_the_step_after_a_surge_may_have_any_norm(norm: float) -> None:
    assert surges([*CALM, 20.0, norm], [*CALM, 1.0, NAN]).surges == (PAST,)


def test_before_the_next_step_it_is_no_surge() -> None:
    assert surges([*CALM, 20.0], [*CALM, 99.0]).surges == ()


def test_a_loss_that_is_large_at_that_step_is_of_its_batch() -> None:
    assert surges([*CALM, 20.0, 1.0], [*CALM, 99.0, 99.0]).surges == ()
    assert surges([*CALM, 20.0, 1.0], [*CALM, 99.0, 396.0]).surges == ()
    found = surges([*CALM, 20.0, 1.0], [*CALM, 99.0, 397.0])
    assert (found.surges, found.loss, found.earlier_loss) == ((PAST,), 397.0, 99.0)


def test_a_loss_that_leaps_two_steps_later_is_of_another_cause() -> None:
    assert surges([*CALM, 20.0, 1.0, 1.0], [*CALM, 1.0, 1.0, NAN]).surges == ()


def test_the_largest_loss_is_of_the_whole_run() -> None:
    calm = [1.0] * 30
    for first, up in ((9.9, True), (10.0, False), (NAN, True), (INF, True)):
        found = surges([*calm, 20.0, 1.0], [first, *calm[1:], 1.0, 40.0])
        assert (found.surges == (30,)) is up, first


@pytest.mark.parametrize("loss", [-1.0, 0.0])
def test_losses_that_are_not_above_zero_have_no_multiple(loss: float) -> None:
    quiet = [loss] * PAST
    assert surges([*CALM, 20.0, 1.0], [*quiet, loss, 1e9]).surges == ()
    assert surges([*CALM, 20.0, 1.0], [*quiet, loss, NAN]).surges == ()
    assert surges([*CALM, 20.0, 1.0], [*quiet[1:], 0.1, loss, NAN]).surges == (PAST,)


@pytest.mark.parametrize(("past", "up"), [(SURGE_PAST - 1, False), (SURGE_PAST, True)])
def test_a_surge_takes_a_shorter_past_than_an_excursion_that_is_counted(past: int, up: bool) -> None:
    calm = [1.0] * past
    found = surges([*calm, 20.0, 1.0], [*calm, 1.0, 9.0])
    assert (found.surges, found.steps) == ((past,) if up else (), ())
    assert surges([*calm, 20.0, 1.0], [None, *calm[1:], 1.0, 9.0]).surges == ()
    assert surges([NAN, *calm[1:], 20.0, 1.0], [*calm, 1.0, 9.0]).surges == ()


def test_a_surge_takes_its_past_where_those_that_are_counted_take_less() -> None:
    found = surges([1.0, 1.0, 20.0, 1.0], [1.0, 1.0, 1.0, 9.0], past=2)
    assert (found.surges, found.steps) == ((), (2,))
    assert surges([1.0, 1.0, 1.0, 20.0, 1.0], [1.0, 1.0, 1.0, 1.0, 9.0], past=2).surges == (3,)


def test_the_largest_of_the_surges_is_told_though_others_went_further() -> None:
    norms, losses = [1.0] * 20, [1.0] * 20
    for index, norm, after in ((6, 20.0, 5.0), (9, 30.0, 21.0), (12, 40.0, 22.0)):
        norms[index], losses[index + 1] = norm, after
    found = surges(norms, losses)
    assert (found.steps, found.surges) == ((9, 12), (9,))
    assert (found.largest, found.loss, found.earlier_loss) == (30.0, 21.0, 5.0)


def test_surges_leave_the_window() -> None:
    for rest, up in ((WINDOW - 2, True), (WINDOW - 1, False)):
        tail = [1.0] * rest
        assert bool(surges([*CALM, 20.0, 1.0, *tail], [*CALM, 1.0, NAN, *tail]).surges) is up


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_surge_is_seen_after_a_resume_anywhere(cut: int) -> None:
    words: dict[str, Any] = {"surge": SURGE, "surge_past": SURGE_PAST}
    steps = [taken(norm, index, loss=loss) for index, (norm, loss) in enumerate(zip(*LEAP, strict=True))]
    made = History("SGD", WINDOW, FACTOR, PAST, **words)
    for step in steps[:cut]:
        made.take(step)
    resumed = History("SGD", WINDOW, FACTOR, PAST, **words)
    resumed.load(through_a_file(made.state()))
    for step in steps[cut:]:
        resumed.take(step)
    found = resumed.excursions()
    assert (found.surges, found.loss, found.earlier_loss) == ((5,), 9.0, 2.0)


LEAP = ([1.0] * 5 + [20.0, 1.0, 1.0], [2.0, 1.0, 1.0, 1.0, 1.0, 0.5, 9.0, 1.0])
"""Norms and losses of steps of which the sixth throws the loss up."""


# Noise.


def test_the_noise_scale_is_the_quotient_of_averages_and_takes_ten_steps() -> None:
    draw = random.Random(0)
    pairs = [(9.0 + draw.random(), 4.0 + draw.random()) for _ in range(30)]
    for count in (9, 10, 30):
        made, signal, noise = after([taken(1.0)]), Fraction(0), Fraction(0)
        for small, big in pairs[:count]:
            made.take_noise(small, big, small=2, big=8)
            s, n = Fraction(small), Fraction(big)
            signal = Fraction(99, 100) * signal + Fraction(1, 100) * (8 * n - 2 * s) / 6
            noise = Fraction(99, 100) * noise + Fraction(1, 100) * (s - n) / (Fraction(1, 2) - Fraction(1, 8))
        expected = None if count < FEW else pytest.approx(float(noise / signal), rel=1e-9)
        assert made.measured().noise_scale == expected


@pytest.mark.parametrize(("small", "big"), [(40.0, 5.0), (4.0, 5.0)], ids=["signal", "noise"])
def test_there_is_no_noise_scale_of_a_negative_signal_or_noise(small: float, big: float) -> None:
    made = after([taken(1.0)])
    for _ in range(20):
        made.take_noise(small, big, small=2, big=8)
    assert made.measured().noise_scale is None


def test_no_noise_at_all_is_a_scale_of_zero() -> None:
    made = after([taken(1.0)])
    for _ in range(10):
        made.take_noise(4.0, 4.0, small=2, big=8)
    assert made.measured().noise_scale == 0.0


def test_the_first_micro_batch_of_a_step_tells_of_the_noise() -> None:
    made, other = history(), after([taken(2.0)])
    for _ in range(10):
        made.take(taken(2.0, first=(5.0, 2, 8)))
        other.take_noise(5.0, 4.0, small=2, big=8)
    assert made.measured().noise_scale == other.measured().noise_scale
    assert made.measured().noise_scale is not None


@pytest.mark.parametrize(
    "step", [taken(INF, first=(5.0, 2, 8)), taken(2.0, first=(INF, 2, 8)), taken(2.0, first=(NAN, 2, 8))]
)
def test_what_is_not_finite_tells_nothing_of_the_noise(step: Taken) -> None:
    good = [taken(2.0, first=(5.0, 2, 8))] * 10
    assert after([*good, step]).measured().noise_scale == after(good).measured().noise_scale


# Several processes.


def test_the_parts_of_a_step_are_added_up() -> None:
    one = taken(None, before=9.0, after=4.0, each={"a": 5.0, "b": 4.0}, named=("a", "b"), loss=1.0, first=(1.0, 2, 8))
    other = replace(one, before=16.0, after=5.0, each={"a": 1.0, "c": 15.0}, named=("a", "c"), loss=2.0)
    found = one.summed([other])
    assert (found.before, found.after, found.norm) == (25.0, 9.0, 5.0)
    assert found.each == {"a": 6.0, "b": 4.0, "c": 15.0}
    assert found.named == ("a", "b", "c")
    assert (found.loss, found.first, found.step) == (1.0, None, 0)


@pytest.mark.parametrize("broken", [NAN, INF])
def test_a_part_that_is_not_finite_spoils_the_sum_and_one_that_is_unknown_leaves_it_unknown(broken: float) -> None:
    one = taken(3.0)
    spoilt = one.summed([replace(one, before=broken)])
    assert spoilt.before is not None
    assert str(spoilt.before) == str(broken)
    assert spoilt.after == 18.0
    assert one.summed([replace(one, before=None)]).before is None
    assert replace(one, before=None).summed([replace(one, before=broken)]).before is None


# A resume.


def wild(draw: random.Random, count: int) -> list[Taken]:
    """Steps with everything in them."""
    steps: list[Taken] = []
    for index in range(count):
        norm = draw.choice([1.0, 2.0, 3.0, 0.0, 50.0, NAN])
        words: dict[str, Any] = {"loss": draw.choice([1.0, 2.0, 5.0, None]), "scaled": draw.random() < 0.5}
        words["stepped"] = not words["scaled"] or draw.random() < 0.7
        words["after"] = draw.choice([norm * norm, norm, None])
        words["first"] = draw.choice([None, (norm * norm + 3, 2, 8)])
        steps.append(taken(norm, index, **words))
    return steps


def through_a_file(state: Any) -> Any:
    return json.loads(json.dumps(state))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("change", [through_a_file, lambda state: state], ids=["through a file", "at once"])
def test_a_history_that_was_resumed_goes_on_as_an_unbroken_one(seed: int, change: Callable[[Any], Any]) -> None:
    draw = random.Random(seed)
    steps = wild(draw, 60)
    cut = draw.randint(1, 59)
    unbroken, resumed = after(steps[:cut]), history()
    resumed.load(change(unbroken.state()))
    assert repr(resumed.state()) == repr(unbroken.state())
    for made in (unbroken, resumed):  # at a look, which both have had
        made.drawn()
    for step in steps[cut:]:
        unbroken.take(step)
        resumed.take(step)
        assert repr(resumed.measured()) == repr(unbroken.measured())  # NaN is not equal to itself
        assert repr(resumed.excursions()) == repr(unbroken.excursions())
    assert (resumed.steps, resumed.since, resumed.last_finite) == (60, unbroken.since, unbroken.last_finite)


def test_a_shorter_window_takes_the_last_steps_of_what_was_saved() -> None:
    longer, shorter = after([taken(float(index), index) for index in range(12)]), history(10)
    shorter.load(longer.state())
    shorter.take(taken(12.0, 12))
    found = shorter.measured()
    assert (found.since, found.values, found.mean) == (3, 10, statistics.fmean(range(3, 13)))


def test_a_state_holds_plain_values_alone() -> None:
    state = after(wild(random.Random(0), 40)).state()
    kinds = {type(value) for values in state.values() for value in (values if isinstance(values, list) else [values])}
    assert kinds <= {int, float, bool, list, type(None)}


def test_steps_are_counted_and_the_last_finite_one_is_known() -> None:
    made = after([taken(1.0, 3), taken(1.0, 5), taken(NAN, 8)])
    assert (made.steps, made.since, made.last_finite) == (3, 3, 5)
    assert after([taken(NAN, 8)]).last_finite is None
