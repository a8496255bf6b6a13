"""The pure functions: values from exact arithmetic, and errors that quote what was wrong."""

import itertools
import math
import random
import re
import statistics
from bisect import bisect_right
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from lightning_diagnostics.statistics import (
    ExponentialMoments,
    Moments,
    false_silence,
    gradient_noise,
    ks_distance,
    merge_histograms,
    projected_share,
    samples_needed,
    silence_bound,
    spread,
    statistics_mismatch,
)

SEEDS = range(20)


@pytest.mark.parametrize(("per_step", "steps", "free"), [(3, 7, 84), (1, 1, 3), (10, 1, 1), (2**20, 2**20, 2**41)])
def test_the_share_is_what_exact_arithmetic_gives(per_step: int, steps: int, free: int) -> None:
    assert projected_share(per_step, steps=steps, free=free) == float(Fraction(per_step * steps, free))


def test_growth_takes_exactly_all_just_below_all_or_just_above_all_that_is_free() -> None:
    assert projected_share(1.0, steps=100, free=100) == 1.0
    assert projected_share(1.0, steps=100, free=101) < 1.0
    assert projected_share(1.0, steps=100, free=99) > 1.0


@pytest.mark.parametrize("free", [0.0, 1.0, math.inf])
def test_what_does_not_grow_takes_nothing_even_for_ever_and_of_nothing(free: float) -> None:
    assert projected_share(0.0, steps=math.inf, free=free) == 0.0
    assert projected_share(0.0, steps=5, free=free) == 0.0


@pytest.mark.parametrize("per_step", [1.0, math.inf])
@pytest.mark.parametrize("free", [0.0, 1.0])
def test_a_run_that_is_over_takes_nothing(per_step: float, free: float) -> None:
    assert projected_share(per_step, steps=0, free=free) == 0.0


def test_any_growth_over_a_run_without_an_end_takes_everything() -> None:
    assert projected_share(1e-9, steps=math.inf, free=1e12) == math.inf


def test_any_growth_where_nothing_is_free_is_without_bound() -> None:
    assert projected_share(1e-9, steps=1, free=0.0) == math.inf


@pytest.mark.parametrize("value", [-1.0, -1e-9, -math.inf, math.nan])
@pytest.mark.parametrize("name", ["per_step", "steps", "free"])
def test_a_value_that_is_not_allowed_is_quoted_with_its_name(name: str, value: float) -> None:
    arguments = {"per_step": 0.0, "steps": 0.0, "free": 1.0, name: value}
    with pytest.raises(ValueError, match=rf"^{name}={value!r}: allowed is 0 or more$"):
        projected_share(arguments.pop("per_step"), **arguments)


# Moments.


def _moments(values: list[Fraction]) -> Moments:
    """In one pass, exactly."""
    mean = sum(values, Fraction()) / len(values)
    return Moments(Fraction(len(values)), mean, sum(((value - mean) ** 2 for value in values), Fraction()))


def _split(values: list[Any], draw: random.Random) -> list[list[Any]]:
    """Into parts of at least one, at random places."""
    cuts = sorted(draw.sample(range(1, len(values)), draw.randint(1, min(6, len(values) - 1))))
    return [values[low:high] for low, high in zip([0, *cuts], [*cuts, len(values)], strict=True)]


@pytest.mark.parametrize("seed", SEEDS)
def test_moments_merged_in_any_order_are_exactly_those_of_one_pass(seed: int) -> None:
    draw = random.Random(seed)
    values = [Fraction(draw.randint(-1000, 1000), draw.randint(1, 50)) for _ in range(draw.randint(2, 40))]
    parts = [_moments(part) for part in _split(values, draw)]
    draw.shuffle(parts)
    while len(parts) > 1:  # two and two, as in a tree
        first, second = parts.pop(draw.randrange(len(parts))), parts.pop()
        parts.append(first.merge(second))
    assert parts[0] == _moments(values)
    assert parts[0].variance == sum((v - parts[0].mean) ** 2 for v in values) / len(values)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_moments_of_arrays_merge_element_by_element(seed: int, offset: float) -> None:
    draw = np.random.default_rng(seed)
    values = draw.normal(offset, draw.uniform(0.1, 10, size=5), size=(50, 5))
    parts = np.split(values, sorted(draw.choice(np.arange(1, 50), size=3, replace=False)))
    merged = None
    for part in parts:
        own = Moments(len(part), part.mean(axis=0), np.square(part - part.mean(axis=0)).sum(axis=0))
        merged = own if merged is None else merged.merge(own)
    assert merged is not None
    assert merged.count == 50
    np.testing.assert_allclose(merged.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(merged.variance, values.var(axis=0), rtol=1e-9)


def test_merging_changes_neither_of_the_two() -> None:
    one, other = Moments(2, np.array([1.0]), np.array([2.0])), Moments(1, np.array([4.0]), np.array([0.0]))
    one.merge(other)
    assert (one.mean.tolist(), one.squares.tolist(), other.mean.tolist()) == ([1.0], [2.0], [4.0])


# How much silence proves. The expected values were computed in exact arithmetic.


@pytest.mark.parametrize(
    ("activity", "samples", "units", "unit_looks_dead", "any_looks_dead"),
    [
        (0.5, 32, 512, 2.3283064365386963e-10, 1.1920928245923196e-07),
        (0.1, 32, 512, 0.03433683820292512, 0.9999999829885992),
        (0.01, 256, 512, 0.07631498390659397, 1.0),
        (0.01, 1000, 512, 4.317124741065825e-05, 0.021861649046530613),
        (0.001, 1000, 4096, 0.36769542477096406, 1.0),
        (0.001, 10000, 4096, 4.517334597704865e-05, 0.16892414313537615),
        (0.05, 128, 64, 0.0014080610235352234, 0.08623276793231557),
    ],
)
def test_the_chance_that_a_healthy_unit_looks_dead(
    activity: float, samples: int, units: int, unit_looks_dead: float, any_looks_dead: float
) -> None:
    assert false_silence(1, samples, activity=activity) == pytest.approx(unit_looks_dead, rel=1e-9)
    assert false_silence(units, samples, activity=activity) == pytest.approx(any_looks_dead, rel=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_chance_of_a_false_silence_is_that_of_exact_arithmetic(seed: int) -> None:
    draw = random.Random(seed)
    units, samples, activity = draw.randint(1, 30), draw.randint(0, 30), draw.uniform(0.01, 0.99)
    exact = 1 - (1 - (1 - Fraction(activity)) ** samples) ** units
    assert false_silence(units, samples, activity=activity) == pytest.approx(float(exact), rel=1e-12)


def test_a_chance_below_what_a_float_can_tell_from_one_is_not_lost() -> None:
    exact = 1 - (1 - (1 - Fraction(0.5)) ** 200) ** 3
    assert false_silence(3, 200, activity=0.5) == pytest.approx(float(exact), rel=1e-12)
    assert float(exact) < 1e-59


def test_without_a_sample_every_unit_looks_dead() -> None:
    assert false_silence(4, 0, activity=0.9) == 1.0


@pytest.mark.parametrize(
    ("activity", "alpha", "units", "samples"),
    [
        *((0.01, 0.05, 1, 299), (0.01, 0.05, 512, 917), (0.001, 0.05, 1, 2995)),
        *((0.001, 0.05, 4096, 11283), (0.1, 0.01, 100, 88), (0.005, 0.05, 1000, 1971)),
    ],
)
def test_the_samples_that_a_verdict_takes(activity: float, alpha: float, units: int, samples: int) -> None:
    assert samples_needed(units, activity=activity, alpha=alpha) == samples


@pytest.mark.parametrize("seed", SEEDS)
def test_one_sample_less_would_not_do(seed: int) -> None:
    draw = random.Random(seed)
    units, activity = draw.choice([1, 4, 64, 512, 4096]), draw.uniform(0.001, 0.5)
    alpha = draw.uniform(0.001, 0.2)
    needed = samples_needed(units, activity=activity, alpha=alpha)
    with localcontext() as context:
        context.prec = 60
        chance = [1 - (1 - (1 - Decimal(activity)) ** n) ** units for n in (needed - 1, needed)]
    assert chance[1] <= Decimal(alpha) < chance[0]


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5])
def test_a_chance_of_exactly_alpha_is_enough(samples: int) -> None:
    assert samples_needed(1, activity=0.5, alpha=0.5**samples) == samples


def test_no_verdict_rests_on_less_than_one_sample() -> None:
    assert samples_needed(1, activity=0.99, alpha=0.99) == 1


@pytest.mark.parametrize(
    ("samples", "confidence", "bound"),
    [
        *((100, 0.95, 0.029513049607039935), (300, 0.95, 0.009936081944457713), (1000, 0.95, 0.0029912495450952962)),
        *((3000, 0.99, 0.0015338791317190338), (30, 0.95, 0.09503385285530414)),
    ],
)
def test_the_activity_that_silence_leaves_room_for(samples: int, confidence: float, bound: float) -> None:
    assert silence_bound(samples, confidence=confidence) == pytest.approx(bound, rel=1e-9)


def test_a_unit_at_the_bound_is_silent_just_as_often_as_the_confidence_allows() -> None:
    for samples in (1, 7, 917, 100_000):
        bound = silence_bound(samples, confidence=0.9)
        assert false_silence(1, samples, activity=bound) == pytest.approx(0.1, rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, 1.5, math.nan, math.inf])
def test_a_probability_that_is_none_is_quoted_with_its_name(value: float) -> None:
    said = re.escape(f"={value!r}: allowed is more than 0 and less than 1")
    with pytest.raises(ValueError, match=f"^confidence{said}$"):
        silence_bound(3, confidence=value)
    with pytest.raises(ValueError, match=f"^activity{said}$"):
        false_silence(3, 3, activity=value)
    with pytest.raises(ValueError, match=f"^activity{said}$"):
        samples_needed(3, activity=value)
    with pytest.raises(ValueError, match=f"^alpha{said}$"):
        samples_needed(3, alpha=value)


@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_a_count_that_is_none_is_quoted_with_its_name(value: Any) -> None:
    for name, low, call in (
        ("samples", 1, lambda: silence_bound(value)),
        ("units", 1, lambda: samples_needed(value)),
        ("units", 1, lambda: false_silence(value, 3, activity=0.5)),
        ("samples", 0, lambda: false_silence(3, value, activity=0.5)),
    ):
        if value == 0 and low == 0:
            continue
        with pytest.raises(ValueError, match=f"^{re.escape(f'{name}={value!r}')}: allowed is {low} or more$"):
            call()


# Histograms.


def _counts(values: list[float], exponent: int, *, signed: bool, size: int = 16) -> list[int]:
    """By comparison with every edge."""
    start = -(2.0**exponent) if signed else 0.0
    edges = [start + (2.0**exponent - start) * index / size for index in range(1, size)]
    counts = [0] * size
    for value in values:
        counts[bisect_right(edges, value)] += 1
    return counts


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_merged_histograms_count_what_the_values_counted_at_the_wide_end_would(seed: int, signed: bool) -> None:
    draw = random.Random(seed)
    ends = [draw.randint(-12, 12), draw.randint(-12, 12)]
    values = [[draw.uniform(-1 if signed else 0, 1) * 2.0**end for _ in range(50)] for end in ends]
    values[0] += [0.0, 2.0 ** ends[0] * 0.5]  # on edges
    one, other = ((end, _counts(v, end, signed=signed)) for end, v in zip(ends, values, strict=True))
    exponent, counts = merge_histograms(one, other, signed=signed)
    assert exponent == max(ends)
    assert counts == _counts([*values[0], *values[1]], max(ends), signed=signed)
    assert merge_histograms(other, one, signed=signed) == (exponent, counts)


def test_histograms_whose_ends_are_far_apart_merge_into_the_buckets_at_zero() -> None:
    assert merge_histograms((-2000, [1, 2, 3, 4]), (2000, [0, 0, 0, 1]), signed=True) == (2000, [0, 3, 7, 1])
    assert merge_histograms((-2000, [1, 2, 3, 4]), (2000, [0, 0, 0, 1]), signed=False) == (2000, [10, 0, 0, 1])


def test_merging_histograms_changes_neither() -> None:
    one, other = (0, [1, 2]), (3, [5, 6])
    merge_histograms(one, other, signed=False)
    assert (one, other) == ((0, [1, 2]), (3, [5, 6]))


def test_histograms_of_different_sizes_cannot_be_merged_or_compared() -> None:
    with pytest.raises(ValueError, match=r"^4 and 2 buckets: expected as many of one as of the other$"):
        merge_histograms((0, [1, 2, 3, 4]), (0, [1, 2]), signed=False)
    with pytest.raises(ValueError, match=r"^1 and 2 buckets: expected as many of one as of the other$"):
        ks_distance([1], [1, 2])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_distance_of_two_histograms_is_that_of_their_values(seed: int) -> None:
    draw = random.Random(seed)
    one, other = ([draw.choice([0, 0, 1, 5]) for _ in range(8)] + [1] for _ in range(2))
    values = [[index for index, count in enumerate(counts) for _ in range(count)] for counts in (one, other)]
    exact = max(
        abs(Fraction(sum(v <= at for v in values[0]), sum(one)) - Fraction(sum(v <= at for v in values[1]), sum(other)))
        for at in range(9)
    )
    assert ks_distance(one, other) == pytest.approx(float(exact), abs=1e-15)
    assert ks_distance(one, other) == ks_distance(other, one)
    assert ks_distance(one, [7 * count for count in one]) == 0.0


def test_disjoint_histograms_are_as_far_apart_as_can_be() -> None:
    assert ks_distance([3, 0, 0], [0, 0, 2]) == 1.0


@pytest.mark.parametrize(("one", "other"), [([0, 0], [1, 0]), ([1, 0], [0, 0]), ([math.nan, 1], [1, 1])])
def test_an_empty_histogram_has_no_distance(one: list[float], other: list[float]) -> None:
    said = re.escape(f"counts that sum to {sum(one)!r} and {sum(other)!r}: expected at least one in each histogram")
    with pytest.raises(ValueError, match=f"^{said}$"):
        ks_distance(one, other)


# Statistics of a norm.


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("channels", [1, 2, 5, 8])
def test_a_mismatch_is_the_median_over_channels_of_what_each_has(seed: int, channels: int) -> None:
    draw = random.Random(seed)
    means, met_means = ([draw.gauss(0, 3) for _ in range(channels)] for _ in range(2))
    variances, met = ([draw.uniform(0, 4) for _ in range(channels)] for _ in range(2))
    shifts = [abs(b - a) / math.sqrt(v + 0.1) for a, b, v in zip(means, met_means, variances, strict=True)]
    ratios = [abs(math.log((b + 0.1) / (a + 0.1))) for a, b in zip(variances, met, strict=True)]
    found = statistics_mismatch(means, variances, met_means, met, eps=0.1)
    assert found == pytest.approx((statistics.median(shifts), statistics.median(ratios)), rel=1e-12)


def test_statistics_that_are_the_same_do_not_differ() -> None:
    assert statistics_mismatch([1.0, -2.0], [0.0, 3.0], [1.0, -2.0], [0.0, 3.0], eps=1e-5) == (0.0, 0.0)


def test_a_variance_that_is_smaller_counts_as_one_that_is_larger() -> None:
    one, other = (statistics_mismatch([0.0], [a], [0.0], [b], eps=1e-9)[1] for a, b in ((1, 4), (4, 1)))
    assert one == pytest.approx(other) == pytest.approx(math.log(4))


def test_a_channel_that_is_off_for_most_inputs_does_not_decide() -> None:
    shift, ratio = statistics_mismatch([0.0] * 3, [1.0, 1.0, 0.0], [0.1, 0.2, 100.0], [1.0, 1.0, 9.0], eps=1e-5)
    assert (shift, ratio) == pytest.approx((0.2, 0.0), abs=1e-4)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_channels_that_are_not_finite_are_left_out(broken: float) -> None:
    shift, ratio = statistics_mismatch([0.0, broken], [1.0, 1.0], [3.0, 0.0], [1.0, 1.0], eps=1e-9)
    assert (shift, ratio) == pytest.approx((3.0, 0.0))
    shift, ratio = statistics_mismatch([0.0, 0.0], [1.0, 1.0], [3.0, 5.0], [4.0, broken], eps=1e-9)
    assert (shift, ratio) == pytest.approx((4.0, math.log(4)))


def test_where_no_channel_is_finite_there_is_no_number() -> None:
    shift, ratio = statistics_mismatch([math.nan], [math.nan], [0.0], [1.0], eps=1e-5)
    assert math.isnan(shift)
    assert math.isnan(ratio)
    shift, ratio = statistics_mismatch([math.nan], [1.0], [0.0], [1.0], eps=1e-5)
    assert math.isnan(shift)
    assert ratio == 0.0


def test_statistics_are_compared_in_64_bits() -> None:
    tiny = np.array([1e-30], dtype=np.float32)
    shift, ratio = statistics_mismatch([0.0], [0.0], [0.0], tiny, eps=1e-30)
    assert (shift, ratio) == pytest.approx((0.0, math.log(2)))


@pytest.mark.parametrize("eps", [0, 0.0, -1e-5, math.nan])
def test_an_eps_that_is_none_is_quoted(eps: float) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'eps={eps!r}: allowed is more than 0')}$"):
        statistics_mismatch([0.0], [1.0], [0.0], [1.0], eps=eps)


def test_statistics_of_no_channel_are_quoted() -> None:
    with pytest.raises(ValueError, match=f"^{re.escape('mean=[]: expected one channel or more')}$"):
        statistics_mismatch([], [], [], [], eps=1e-5)


# Exponential moments, spread and gradient noise.


def _weighted(values: list[Fraction], decay: Fraction) -> tuple[Fraction, Fraction]:
    """Mean and variance from the weights alone: each value has ``1 - decay`` of what is left, the first all of it."""
    count = len(values)
    weights = [(1 - decay) * decay ** (count - 1 - index) for index in range(count)]
    weights[0] = decay ** (count - 1)
    assert sum(weights) == 1
    mean = sum((w * x for w, x in zip(weights, values, strict=True)), Fraction())
    return mean, sum((w * (x - mean) ** 2 for w, x in zip(weights, values, strict=True)), Fraction())


@pytest.mark.parametrize("seed", SEEDS)
def test_exponential_moments_are_those_of_the_weights_in_exact_arithmetic(seed: int) -> None:
    draw = random.Random(seed)
    decay = Fraction(draw.randint(1, 99), 100)
    values = [Fraction(draw.randint(-1000, 1000), 64) for _ in range(draw.randint(1, 40))]
    found = ExponentialMoments(float(decay))
    for value in values:
        found = found.update(float(value))
    mean, variance = _weighted(values, decay)
    assert found.count == len(values)
    assert found.mean == pytest.approx(float(mean), rel=1e-12, abs=1e-12)
    assert found.variance == pytest.approx(float(variance), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize(
    ("decay", "values", "means", "variances"),
    [
        (
            0.9,
            [1, 2, 4, 3, 0.5, 1.5],
            [1.0, 1.1, 1.39, 1.551, 1.4459, 1.45131],
            [0.0, 0.09, 0.8379, 0.987399, 0.98807319, 0.8895292839],
        ),
        (0.99, [10, 9, 8, 7], [10.0, 9.99, 9.9701, 9.940399], [0.0, 0.0099, 0.04900599, 0.135848720799]),
    ],
)
def test_exponential_moments_of_known_series(
    decay: float, values: list[float], means: list[float], variances: list[float]
) -> None:
    moments = [ExponentialMoments(decay)]
    for value in values:
        moments.append(moments[-1].update(value))
    assert [each.mean for each in moments[1:]] == pytest.approx(means, rel=1e-9)
    assert [each.variance for each in moments[1:]] == pytest.approx(variances, rel=1e-9)


def test_exponential_moments_of_nothing_have_no_mean_and_an_update_changes_none_but_the_new_ones() -> None:
    empty = ExponentialMoments(0.5)
    assert math.isnan(empty.mean)
    assert (empty.variance, empty.count) == (0.0, 0)
    one = empty.update(3)
    assert (one.mean, one.variance, one.count) == (3.0, 0.0, 1)
    assert one.update(5.0) == ExponentialMoments(0.5, 4.0, 1.0, 2)
    assert (one.mean, one.count, empty.count) == (3.0, 1, 0)


def test_the_exponential_variance_does_not_cancel_beside_a_large_mean() -> None:
    moments = ExponentialMoments(0.9)
    for value in (1.0, 2.0, 4.0, 3.0, 0.5, 1.5):
        moments = moments.update(1e9 + value)
    assert moments.mean - 1e9 == pytest.approx(1.45131, abs=1e-6)
    assert moments.variance == pytest.approx(0.8895292839, rel=1e-6)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_decay_that_is_none_is_quoted(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"^decay={decay!r}: allowed is more than 0 and less than 1$"):
        ExponentialMoments(decay)


NORMS = [1.0, 1.2, 0.9, 1.1, 5.0, 1.3, 1.0, 0.8, 1.1, 1.05]


@pytest.mark.parametrize(
    ("last", "mean", "variance", "cv"),
    [
        (1, 1.0, None, None),
        (2, 1.1, 0.02, 0.128564869306645),
        (3, 1.0333333333333334, 0.023333333333333334, 0.14782502241793033),
        (4, 1.05, 0.016666666666666666, 0.12295185226055291),
        (5, 2.05, 3.8833333333333333, 0.9612768295191839),
        (6, 2.075, 3.8291666666666666, 0.9430485112167629),
        (10, 0.9875, 0.017291666666666667, 0.13316231086970043),
    ],
)
def test_the_spread_of_a_window_of_four(last: int, mean: float, variance: float | None, cv: float | None) -> None:
    found = spread(NORMS[:last][-4:])
    assert found[0] == pytest.approx(mean, rel=1e-9)
    assert found[1:] == ((None, None) if variance is None else pytest.approx((variance, cv), rel=1e-9))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_spread_is_what_exact_arithmetic_gives_beside_any_mean(seed: int) -> None:
    draw = random.Random(seed)
    base = draw.choice([0, 1, 10**6, 10**12])
    values = [Fraction(base * 64 + draw.randint(1, 64), 64) for _ in range(draw.randint(2, 50))]
    mean, variance, cv = spread([float(value) for value in values])
    assert mean == pytest.approx(float(statistics.mean(values)), rel=1e-15)
    assert variance == pytest.approx(float(statistics.variance(values)), rel=1e-3 if base == 10**12 else 1e-12)
    assert variance is not None
    assert cv == math.sqrt(variance) / mean


def test_a_spread_around_zero_has_no_coefficient() -> None:
    assert spread([0.0, 0.0]) == (0.0, 0.0, None)
    assert spread([-1.0, 1.0]) == (0.0, 2.0, None)
    assert spread([2.0, 2.0]) == (2.0, 0.0, 0.0)


def test_the_spread_of_nothing_is_an_error_in_whole_words() -> None:
    with pytest.raises(ValueError, match=r"^values=\[\]: expected one number or more$"):
        spread([])


Rows = list[tuple[int, ...]]


def _mean_square(rows: Rows) -> Fraction:
    """The squared norm of their mean."""
    return sum((Fraction(sum(column), len(rows)) ** 2 for column in zip(*rows, strict=True)), Fraction())


@pytest.mark.parametrize(
    ("rows", "parts", "signal", "noise"),
    [
        ([(1, 0), (3, 2), (-1, 4), (2, 1)], [[0, 1], [2, 3]], Fraction(7, 2), Fraction(9, 2)),
        ([(1,), (2,), (3,), (6,)], [[0], [1], [2], [3]], Fraction(47, 6), Fraction(14, 3)),
        ([(1,), (2,), (3,), (6,)], [[0]], Fraction(35, 3), Fraction(-32, 3)),
        ([(1, 1)] * 4, [[0, 1], [2, 3]], Fraction(2), Fraction(0)),
        ([(1,), (-1,), (1,), (-1,)], [[0, 2], [1, 3]], Fraction(-1), Fraction(4)),
    ],
)
def test_signal_and_noise_of_known_gradients(
    rows: Rows, parts: list[list[int]], signal: Fraction, noise: Fraction
) -> None:
    small = statistics.mean(_mean_square([rows[index] for index in part]) for part in parts)
    found = gradient_noise(float(small), float(_mean_square(rows)), small=len(parts[0]), big=len(rows))
    assert found == pytest.approx((float(signal), float(noise)), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("size", [1, 2])
def test_signal_and_noise_are_unbiased_over_every_draw(size: int) -> None:
    population = [(1, 0), (0, 2), (3, 1)]
    draws = list(itertools.product(population, repeat=2 * size))
    found = [
        gradient_noise(
            float((_mean_square(list(draw[:size])) + _mean_square(list(draw[size:]))) / 2),
            float(_mean_square(list(draw))),
            small=size,
            big=2 * size,
        )
        for draw in draws
    ]
    true = _mean_square(population)
    trace = statistics.mean(Fraction(a * a + b * b) for a, b in population) - true
    assert statistics.fmean(signal for signal, _ in found) == pytest.approx(float(true), rel=1e-12)
    assert statistics.fmean(noise for _, noise in found) == pytest.approx(float(trace), rel=1e-12)


@pytest.mark.parametrize("small", [0, -1, math.nan])
def test_a_small_batch_that_is_none_is_quoted(small: float) -> None:
    with pytest.raises(ValueError, match=rf"^small={small!r}: allowed is more than 0$"):
        gradient_noise(1.0, 1.0, small=small, big=4)


@pytest.mark.parametrize("big", [2, 1, math.nan])
def test_a_big_batch_that_is_not_bigger_is_quoted_with_the_small_one(big: float) -> None:
    with pytest.raises(ValueError, match=rf"^big={big!r}: allowed is more than small=2$"):
        gradient_noise(1.0, 1.0, small=2, big=big)
