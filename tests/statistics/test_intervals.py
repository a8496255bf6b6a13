"""Intervals: values from 50 digits of arithmetic and a second implementation, and errors that quote what is wrong."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import scipy.stats

from lightning_diagnostics.statistics import (
    accuracy_difference_interval,
    accuracy_interval,
    mean_difference_interval,
    mean_of_batches,
    paired_difference_interval,
    samples_for_half_width,
    t_quantile,
)


def exactly(value: Any) -> Any:
    return pytest.approx(value, rel=1e-9, abs=1e-12)


# Correct, total, confidence, Wilson, Clopper-Pearson: by bisection with 50 digits.
PROPORTIONS = [
    (50, 100, 0.95, (0.4038315303659956, 0.5961684696340044), (0.39832112950330095, 0.601678870496699)),
    (0, 10, 0.95, (0.0, 0.27753279986288926), (0.0, 0.30849710781876083)),
    (10, 10, 0.95, (0.7224672001371107, 1.0), (0.6915028921812392, 1.0)),
    (90, 100, 0.95, (0.8256343384950865, 0.9447708629393249), (0.8237774022599773, 0.9509953107785141)),
    (950, 1000, 0.95, (0.9346861797557492, 0.9618697376072511), (0.9346095120845064, 0.9626646023953382)),
    (9912, 10000, 0.95, (0.9891715358948607, 0.9928512241057866), (0.9891692386654206, 0.9929363313072402)),
    (1, 1, 0.95, (0.2065493143772374, 1.0), (0.025, 1.0)),
    (7, 20, 0.9, (0.202260040056761, 0.5334873111515284), (0.1773109175744491, 0.5580345113154888)),
    (3, 5, 0.99, (0.16865619801943219, 0.9172921377751659), (0.08282918720147679, 0.9771187786246456)),
    (4000, 5000, 0.68, (0.7943154150567261, 0.8055659348332184), (0.7942142603582182, 0.8056645282799078)),
    (500, 1000, 0.95, (0.4690696003681042, 0.5309303996318958), (0.46854917297179194, 0.531450827028208)),
    (5000, 10000, 0.95, (0.49020206181540477, 0.5097979381845952), (0.4901513805899805, 0.5098486194100195)),
]


@pytest.mark.parametrize(("correct", "total", "confidence", "wilson", "exact"), PROPORTIONS)
def test_the_interval_of_an_accuracy_is_that_of_fifty_digits(
    correct: int, total: int, confidence: float, wilson: tuple[float, float], exact: tuple[float, float]
) -> None:
    assert accuracy_interval(correct, total, confidence=confidence) == exactly(wilson)
    found = accuracy_interval(correct, total, confidence=confidence, method="clopper-pearson")
    assert found == exactly(exact)


@pytest.mark.parametrize("method", ["wilson", "clopper-pearson"])
@pytest.mark.parametrize("confidence", [1e-300, 0.5, 0.95, 1 - 1e-15])
@pytest.mark.parametrize("total", [1, 2, 7, 1000, 10**9])
def test_an_interval_has_the_accuracy_in_it_and_stays_between_none_and_all(
    total: int, confidence: float, method: Any
) -> None:
    for correct in {0, 1, total // 2, total - 1, total}:
        low, high = accuracy_interval(correct, total, confidence=confidence, method=method)
        share = correct / total
        assert 0 <= low <= share * (1 + 1e-12)
        assert share * (1 - 1e-12) <= high <= 1
        assert (low == 0) == (correct == 0)
        mirrored = accuracy_interval(total - correct, total, confidence=confidence, method=method)
        assert (1 - high, 1 - low) == pytest.approx(mirrored, rel=1e-6, abs=1e-12)


DIFFERENCES = [
    ((980, 1000, 90, 100), (0.03397059222471779, 0.15469591900820803)),
    ((58800, 60000, 9700, 10000), (0.006630032234943487, 0.013692652587458333)),
    ((500, 1000, 500, 1000), (-0.04374219064904685, 0.04374219064904685)),
    ((100, 100, 40, 50), (0.10494364677617629, 0.33037105932225413)),
    ((45, 50, 44, 50), (-0.11030344820705276, 0.15088300307951394)),
]


@pytest.mark.parametrize(("counts", "interval"), DIFFERENCES)
def test_the_interval_of_a_difference_of_accuracies_is_that_of_fifty_digits(
    counts: tuple[int, int, int, int], interval: tuple[float, float]
) -> None:
    low, high = accuracy_difference_interval(*counts)
    assert (low, high) == exactly(interval)
    swapped = accuracy_difference_interval(*counts[2:], *counts[:2])
    assert swapped == pytest.approx((-high, -low), rel=1e-12)


def test_a_difference_of_all_and_none_does_not_leave_what_is_possible() -> None:
    low, high = accuracy_difference_interval(5, 5, 0, 5, confidence=0.99)
    assert 0 < low < high == 1.0
    assert accuracy_difference_interval(0, 5, 5, 5, confidence=0.99) == (-high, -low)


# Means of batches.


@pytest.mark.parametrize(
    ("values", "mean", "error", "interval"),
    [
        (
            [0.5, 0.7, 0.2, 1.1, 0.9, 0.4],
            0.6333333333333333,
            0.13581032524975575,
            (0.28422177815445115, 0.9824448885122156),
        ),
        ([2.0, 2.0, 2.0, 3.0], 2.25, 0.25, (1.4543884236790725, 3.0456115763209275)),
    ],
)
@pytest.mark.parametrize("weight", [1, 8, 0.25])
def test_batches_of_one_size_are_single_values(
    values: list[float], mean: float, error: float, interval: tuple[float, float], weight: float
) -> None:
    weights = [weight] * len(values)
    found = mean_of_batches(values, weights)
    assert found[:2] == exactly((mean, error))
    assert found[2] == len(values) - 1
    zeros = [0.0] * len(values)
    assert paired_difference_interval(values, zeros, weights) == exactly((mean, *interval))


def test_batches_of_other_sizes_have_the_error_of_their_samples() -> None:
    """Of k batches of independent samples the squared error is unbiased: weights times variance is that of a sample."""
    mean, error, degrees = mean_of_batches([1.0, 5.0, 4.0], [6, 3, 1])
    assert (mean, degrees) == (2.5, 2)
    assert error**2 == pytest.approx((6 * 1.5**2 + 3 * 2.5**2 + 1.5**2) / (2 * 10))


def test_no_spread_is_lost_beside_a_large_mean() -> None:
    assert mean_of_batches([1e9 + 1, 1e9 + 2, 1e9 + 4], [8, 8, 4])[1] == pytest.approx(math.sqrt(24 / 40), rel=1e-9)


def test_the_difference_of_two_means_is_that_of_welchs_test() -> None:
    one, other = [0.5, 0.7, 0.2, 1.1, 0.9, 0.4], [2.0, 2.5, 2.0, 3.0]
    test = scipy.stats.ttest_ind(one, other, equal_var=False)
    interval = test.confidence_interval(0.9)
    found = mean_difference_interval((one, [8] * 6), (other, [3] * 4), confidence=0.9)
    assert found == pytest.approx((sum(one) / 6 - sum(other) / 4, interval.low, interval.high), rel=1e-9)


def test_the_difference_over_the_same_batches_is_that_of_the_paired_test() -> None:
    one, other = [0.5, 0.7, 0.2, 1.1, 0.9], [0.45, 0.62, 0.25, 0.9, 0.7]
    interval = scipy.stats.ttest_rel(one, other).confidence_interval(0.99)
    found = paired_difference_interval(one, other, [4] * 5, confidence=0.99)
    assert found[1:] == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_what_does_not_vary_has_an_interval_without_width_and_leaves_the_other_its_degrees() -> None:
    still, moving = ([2.0, 2.0], [4, 4]), ([0.5, 1.0, 1.5], [1, 1, 1])
    assert mean_difference_interval(still, ([1.5, 1.5, 1.5], [1, 1, 1])) == (0.5, 0.5, 0.5)
    assert paired_difference_interval([3.0, 4.0], [1.0, 2.0], [5, 9]) == (2.0, 2.0, 2.0)
    half = 4.302652729911275 * 0.5 / math.sqrt(3)  # two degrees
    assert mean_difference_interval(still, moving) == pytest.approx((1.0, 1 - half, 1 + half), rel=1e-9)


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(5, 2.5705818356363155), (3, 3.1824463052837095), (1, 12.706204736174698)]
)
def test_quantiles_of_students_t(degrees: int, quantile: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(quantile, rel=1e-9)
    assert t_quantile(0.025, degrees) == pytest.approx(-quantile, rel=1e-9)


def test_an_interval_of_nearly_certainty_is_wide_and_finite() -> None:
    _, low, high = paired_difference_interval([1.0, 2.0, 4.0], [0.0] * 3, [1] * 3, confidence=1 - 2**-53)
    assert -math.inf < low < -1e6
    assert 1e6 < high < math.inf


# Samples needed.


@pytest.mark.parametrize(("width", "accuracy", "needed"), [(0.2, 0.5, 97), (0.02, 0.5, 9604), (0.01, 0.9, 13830)])
@pytest.mark.parametrize("total", [1, 100, 12345])
def test_so_many_samples_make_the_interval_as_narrow(total: int, width: float, accuracy: float, needed: int) -> None:
    half = 1.9599639845400543 * math.sqrt(accuracy * (1 - accuracy) / total)
    assert samples_for_half_width(total, half, width / 2) == needed


def test_rounding_asks_for_no_sample_more() -> None:
    assert samples_for_half_width(100, 0.1 * 3, 0.1) == 900  # 0.1 * 3 is above 0.3
    assert samples_for_half_width(100, 0.3, 0.1) == 900
    assert samples_for_half_width(100, 0.2, 0.1) == 400
    assert samples_for_half_width(100, 0.2 * (1 + 1e-9), 0.1) == 401


def test_a_width_that_is_narrow_enough_needs_fewer_samples_but_one() -> None:
    assert samples_for_half_width(100, 0.1, 0.2) == 25
    assert samples_for_half_width(100, 0.0, 0.2) == 1
    assert samples_for_half_width(4, 1e200, 1e-200) > 10**800


# What cannot be.

ONE = ([1.0, 2.0], [1, 1])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: accuracy_interval(0, 0), "total=0: allowed is a finite number, 1 or more"),
        (lambda: accuracy_interval(0, math.inf), "total=inf: allowed is a finite number, 1 or more"),
        (lambda: accuracy_interval(11, 10), "correct=11: allowed is 0 to total=10"),
        (lambda: accuracy_interval(-1, 10), "correct=-1: allowed is 0 to total=10"),
        (lambda: accuracy_interval(math.nan, 10), "correct=nan: allowed is 0 to total=10"),
        (
            lambda: accuracy_interval(1, 2, method="wald"),  # pyright: ignore[reportArgumentType]
            'method=\'wald\': allowed is "wilson" or "clopper-pearson"',
        ),
        (lambda: accuracy_difference_interval(1, 2, 3, 2), "other_correct=3: allowed is 0 to other_total=2"),
        (lambda: accuracy_difference_interval(1, 2, 3, 0), "other_total=0: allowed is a finite number, 1 or more"),
        (lambda: accuracy_difference_interval(3, 2, 1, 2), "correct=3: allowed is 0 to total=2"),
        (lambda: mean_of_batches([1.0], [1]), "means=[1.0]: expected two batches or more"),
        (lambda: mean_of_batches([1.0, 2.0], [1]), "2 means and 1 weights: expected as many of one as of the other"),
        (lambda: mean_of_batches([1.0, math.nan], [1, 1]), "means[1]=nan: allowed is a finite number"),
        (lambda: mean_of_batches([1.0, 2.0], [1, 0]), "weights[1]=0: allowed is a finite number, more than 0"),
        (lambda: mean_difference_interval(([], []), ONE), "one[0]=[]: expected two batches or more"),
        (lambda: mean_difference_interval(ONE, ([1.0], [1])), "other[0]=[1.0]: expected two batches or more"),
        (
            lambda: mean_difference_interval(ONE, ([1.0, 1.0], [1, -2])),
            "other[1][1]=-2: allowed is a finite number, more than 0",
        ),
        (
            lambda: paired_difference_interval([1.0, 2.0], [1.0] * 3, [1, 1]),
            "3 other and 2 weights: expected as many of one as of the other",
        ),
        (
            lambda: paired_difference_interval([math.inf, 2.0], [1.0, 1.0], [1, 1]),
            "one[0]=inf: allowed is a finite number",
        ),
        (lambda: t_quantile(0.5, 0), "degrees=0: allowed is more than 0"),
        (lambda: t_quantile(1.0, 3), "share=1.0: allowed is more than 0 and less than 1"),
        (lambda: samples_for_half_width(0, 0.1, 0.1), "total=0: allowed is 1 or more"),
        (lambda: samples_for_half_width(1, -0.1, 0.1), "half_width=-0.1: allowed is a finite number, 0 or more"),
        (lambda: samples_for_half_width(1, math.nan, 0.1), "half_width=nan: allowed is a finite number, 0 or more"),
        (lambda: samples_for_half_width(1, 0.1, 0.0), "wanted=0.0: allowed is a finite number, more than 0"),
    ],
)
def test_what_cannot_be_is_quoted(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        call()


@pytest.mark.parametrize("value", [0, 1, 95, math.nan])
def test_a_confidence_that_is_none_is_quoted(value: float) -> None:
    for call in (
        lambda: accuracy_interval(1, 2, confidence=value),
        lambda: accuracy_difference_interval(1, 2, 1, 2, confidence=value),
        lambda: mean_difference_interval(ONE, ONE, confidence=value),
        lambda: paired_difference_interval(ONE[0], ONE[0], ONE[1], confidence=value),
    ):
        with pytest.raises(ValueError, match=f"^confidence={value!r}: allowed is more than 0 and less than 1$"):
            call()
