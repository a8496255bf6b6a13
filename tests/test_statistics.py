"""The pure functions: values from exact arithmetic, and errors that quote what was wrong."""

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
    Moments,
    false_silence,
    ks_distance,
    merge_histograms,
    projected_share,
    samples_needed,
    silence_bound,
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
