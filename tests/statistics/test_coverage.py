"""Intervals cover what they say: accuracies by summing over every outcome, means of batches by simulation."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from lightning_diagnostics.statistics import (
    accuracy_difference_interval,
    accuracy_interval,
    mean_difference_interval,
    mean_of_batches,
    paired_difference_interval,
)

Z = NormalDist().inv_cdf(0.975)
Interval = Callable[[int, int], tuple[float, float]]


def _wilson(correct: int, total: int) -> tuple[float, float]:
    return accuracy_interval(correct, total)


def _clopper_pearson(correct: int, total: int) -> tuple[float, float]:
    return accuracy_interval(correct, total, method="clopper-pearson")


def _wald(correct: int, total: int) -> tuple[float, float]:
    share = correct / total
    half = Z * math.sqrt(share * (1 - share) / total)
    return share - half, share + half


# Accuracies: the coverage is a sum over all outcomes, so it is known and not estimated.


def _coverage(interval: Interval, total: int, shares: np.ndarray) -> np.ndarray:
    """The probability that the interval covers the share, for each share."""
    low, high = (np.array(ends)[:, None] for ends in zip(*(interval(k, total) for k in range(total + 1)), strict=True))
    chance = binom.pmf(np.arange(total + 1)[:, None], total, shares)
    return np.sum(chance * ((low <= shares) & (shares <= high)), axis=0)


few_and_slowly_many = pytest.mark.parametrize(
    "total", [5, 20, 100, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3, 10, 50, 300, 1000, 3000))]
)
SHARES = np.linspace(0.0005, 0.9995, 1999)


@few_and_slowly_many
def test_clopper_pearson_covers_every_accuracy_at_least_as_often_as_it_says(total: int) -> None:
    assert np.min(_coverage(_clopper_pearson, total, SHARES)) >= 0.95


@few_and_slowly_many
def test_wilson_covers_on_average_as_often_as_it_says_and_wald_does_not(total: int) -> None:
    assert 0.95 <= np.mean(_coverage(_wilson, total, SHARES)) < 0.97
    assert np.mean(_coverage(_wald, total, SHARES)) < 0.95


@few_and_slowly_many
def test_wilson_covers_no_accuracy_much_less_often_than_it_says(total: int) -> None:
    """It is lowest near 0 and 1, where the expected count is below one."""
    middle = SHARES[(total * SHARES >= 1) & (total * (1 - SHARES) >= 1)]
    assert np.min(_coverage(_wilson, total, SHARES)) > 0.79
    if len(middle):
        assert np.min(_coverage(_wilson, total, middle)) > 0.89
    assert _coverage(_wald, total, np.array([0.05 / total])) < 0.05  # none is correct: no width


def _difference_coverage(interval: Callable[..., tuple[float, float]], sizes: tuple[int, int], share: Any) -> float:
    chances = [binom.pmf(np.arange(n + 1), n, p) for n, p in zip(sizes, share, strict=True)]
    covered = 0.0
    for one, chance in enumerate(chances[0]):
        for other, second in enumerate(chances[1]):
            if chance * second > 1e-9:
                low, high = interval(one, sizes[0], other, sizes[1])
                covered += chance * second * (low <= share[0] - share[1] <= high)
    return covered


def _wald_difference(one: int, total: int, other: int, other_total: int) -> tuple[float, float]:
    share, rest = one / total, other / other_total
    half = Z * math.sqrt(share * (1 - share) / total + rest * (1 - rest) / other_total)
    return share - rest - half, share - rest + half


@pytest.mark.parametrize(
    "sizes",
    [(30, 20), (100, 25), *(pytest.param(n, marks=pytest.mark.slow) for n in ((10, 10), (200, 60), (60, 60)))],
)
def test_newcombe_covers_differences_of_accuracies_and_wald_does_not(sizes: tuple[int, int]) -> None:
    shares = [(a, b) for a in (0.99, 0.95, 0.9, 0.7, 0.5) for b in (0.97, 0.9, 0.6)]
    newcombe = [_difference_coverage(accuracy_difference_interval, sizes, each) for each in shares]
    wald = [_difference_coverage(_wald_difference, sizes, each) for each in shares]
    assert np.mean(newcombe) >= 0.95
    assert min(newcombe) > 0.92
    assert np.mean(wald) < 0.945
    assert min(wald) < 0.91


# Means of batches: losses of independent samples.

DRAWS = {
    "exponential": lambda draw, n: draw.exponential(size=n),
    "lognormal": lambda draw, n: draw.lognormal(0.0, 1.0, size=n),
    "normal": lambda draw, n: draw.normal(size=n),
}
Sample = tuple[list[float], list[int]]


def _batches(losses: np.ndarray, size: int) -> Sample:
    parts = np.split(losses, range(size, len(losses), size))
    return [float(np.mean(part)) for part in parts], [len(part) for part in parts]


def _share_covered(draw_interval: Callable[[np.random.Generator], tuple[float, float]], runs: int) -> float:
    """How often the interval that is drawn has 0 in it."""
    draw = np.random.default_rng(7)
    return sum(low <= 0 <= high for low, high in (draw_interval(draw) for _ in range(runs))) / runs


def _welch(kind: str, samples: tuple[int, int], size: int, *, quantile: bool) -> Callable[..., tuple[float, float]]:
    """The interval of the difference of two sets of one distribution; with a normal quantile as the control."""

    def interval(draw: np.random.Generator) -> tuple[float, float]:
        one, other = (_batches(DRAWS[kind](draw, n), size) for n in samples)
        if quantile:
            return mean_difference_interval(one, other)[1:]
        mean, error, _ = mean_of_batches(*one)
        rest, other_error, _ = mean_of_batches(*other)
        half = Z * math.hypot(error, other_error)
        return mean - rest - half, mean - rest + half

    return interval


@pytest.mark.parametrize(
    ("kind", "samples", "size"),
    [
        ("exponential", (320, 2030), 32),
        ("lognormal", (320, 320), 32),
        *(
            pytest.param(kind, samples, size, marks=pytest.mark.slow)
            for kind in DRAWS
            for samples, size in [((320, 320), 32), ((2030, 310), 32), ((1000, 1000), 16), ((640, 2000), 32)]
        ),
    ],
)
def test_welch_on_means_of_batches_covers_what_it_says(kind: str, samples: tuple[int, int], size: int) -> None:
    assert 0.935 < _share_covered(_welch(kind, samples, size, quantile=True), 3000) < 0.97


def test_a_normal_quantile_of_few_batches_does_not_cover_what_it_says() -> None:
    assert _share_covered(_welch("exponential", (320, 2030), 32, quantile=False), 3000) < 0.935


@pytest.mark.slow
def test_welch_on_few_losses_with_a_long_tail_covers_as_much_as_its_docstring_says() -> None:
    assert _share_covered(_welch("lognormal", (80, 512), 8, quantile=True), 20000) == pytest.approx(0.93, abs=0.005)


def _paired(kind: str, samples: int, size: int, way: str) -> Callable[..., tuple[float, float]]:
    """Two passes over the same samples, whose difficulty is far from even; the losses of the second are noisier."""

    def interval(draw: np.random.Generator) -> tuple[float, float]:
        before = 10 * DRAWS[kind](draw, samples)
        change = DRAWS[kind](draw, samples) - DRAWS[kind](draw, samples)
        one, other = _batches(before + change, size), _batches(before, size)
        if way == "unpaired":
            return mean_difference_interval(one, other)[1:]
        middle, low, high = paired_difference_interval(one[0], other[0], one[1])
        if way == "normal":
            _, half, _ = mean_of_batches([a - b for a, b in zip(one[0], other[0], strict=True)], one[1])
            return middle - Z * half, middle + Z * half
        return low, high

    return interval


@pytest.mark.parametrize(
    ("kind", "samples", "size"),
    [
        ("exponential", 310, 32),
        ("lognormal", 640, 64),
        *(
            pytest.param(kind, samples, size, marks=pytest.mark.slow)
            for kind in DRAWS
            for samples, size in [(300, 32), (640, 32), (1000, 16), (50, 8)]
        ),
    ],
)
def test_a_paired_interval_covers_what_it_says(kind: str, samples: int, size: int) -> None:
    assert 0.935 < _share_covered(_paired(kind, samples, size, "paired"), 3000) < 0.97


def test_a_normal_quantile_of_ten_pairs_or_forgotten_pairs_do_not() -> None:
    assert _share_covered(_paired("exponential", 320, 32, "normal"), 3000) < 0.93
    assert _share_covered(_paired("exponential", 320, 32, "unpaired"), 1000) > 0.99
