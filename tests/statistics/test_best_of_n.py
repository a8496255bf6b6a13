"""The best of n trials: reference numbers, every draw enumerated, a second implementation, and bands that cover."""

import itertools
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from lightning_diagnostics.statistics import (
    LARGEST_EXACT,
    BandMethod,
    Estimator,
    best_of_n_spread,
    cdf_band,
    expected_validation_performance,
    tuning_curve_band,
)
from lightning_diagnostics.statistics.best_of_n import ld_pointwise_coverage

# Computed elsewhere: curves in rationals, over all draws; critical values by Steck's determinant with 60 and 90 digits.
REFERENCE: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "best_of_n.json").read_text(encoding="utf-8")
)
METHODS: tuple[BandMethod, ...] = get_args(BandMethod)
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
MEANS: tuple[Estimator, ...] = ("plugin", "unbiased")

every_mode = pytest.mark.parametrize("mode", ["min", "max"])
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)
every_method = pytest.mark.parametrize("method", METHODS)


def every(kind: str) -> Any:
    return pytest.mark.parametrize("case", REFERENCE[kind], ids=lambda case: case.get("id") or f"of {case['count']}")


def numbers(values: Sequence[Any]) -> list[float]:
    """JSON has no infinity, and a trial that failed has no number."""
    return [math.nan if value == "failed" else float(value) for value in values]


def same(found: Any, expected: Sequence[Any]) -> None:
    """Equal to the last bit, and NaN where that is expected."""
    np.testing.assert_array_equal(found, numbers(expected))


# Reference numbers.


@every("curves")
def test_the_means_are_those_of_the_reference(case: dict[str, Any]) -> None:
    for estimator in MEANS:
        found = expected_validation_performance(case["scores"], mode=case["mode"], estimator=estimator)
        assert found.tolist() == pytest.approx(case[estimator], rel=1e-9, abs=1e-12)


@every("curves")
def test_the_spread_is_the_root_of_the_variance_of_the_reference(case: dict[str, Any]) -> None:
    found = best_of_n_spread(case["scores"], mode=case["mode"]) ** 2
    rounding = 1e-6 if case["id"] == "decimals_scale" else 1e-12  # scores of a million
    assert found.tolist() == pytest.approx(case["variance"], rel=1e-9, abs=rounding)


@every("curves")
def test_the_median_is_the_very_score_of_the_reference(case: dict[str, Any]) -> None:
    same(expected_validation_performance(case["scores"], mode=case["mode"], estimator="median"), case["median"])


@every("levels")
def test_the_levels_of_all_bands_are_those_of_the_reference(case: dict[str, Any]) -> None:
    count, confidence = case["count"], case["confidence"]
    levels = np.arange(count + 1) / count
    rough: dict[BandMethod, float] = {"dkw": 1e-12, "ks": 1e-9}
    for method, rounding in rough.items():
        lower, upper = cdf_band(count, confidence=confidence, method=method)
        np.testing.assert_allclose(lower, np.clip(levels - case[method], 0, 1), rtol=0, atol=rounding)
        np.testing.assert_allclose(upper, np.clip(levels + case[method], 0, 1), rtol=0, atol=rounding)
    for method in ("ld", "ld-highest-density"):
        lower, upper = cdf_band(count, confidence=confidence, method=method)
        np.testing.assert_allclose(lower, case[method]["lower"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(upper, case[method]["upper"], rtol=0, atol=1e-6)
        coverage = ld_pointwise_coverage(count, confidence, equal_tailed=method == "ld")
        assert coverage == pytest.approx(case[method]["coverage"], rel=0, abs=1e-7)


@every("coverages")
def test_the_critical_values_are_those_of_ninety_digits(case: dict[str, Any]) -> None:
    expected = {float(confidence): value for confidence, value in case.items() if confidence != "count"}
    assert set(expected) == {0.5, 0.8, 0.9, 0.95, 0.99}
    for confidence, coverage in expected.items():
        assert ld_pointwise_coverage(case["count"], confidence) == pytest.approx(coverage, rel=0, abs=1e-7)


@every_method
@every("bands")
def test_the_bands_of_the_median_are_those_of_the_reference(case: dict[str, Any], method: BandMethod) -> None:
    least, largest = numbers(case["support"])
    low, high = tuning_curve_band(
        case["scores"], mode=case["mode"], confidence=case["confidence"], method=method, support=(least, largest)
    )
    expected = case["bands"][method]
    same(low, expected["lower"])
    same(high, expected["upper"])
    same(expected_validation_performance(case["scores"], mode=case["mode"], estimator="median"), expected["median"])


@every("failed")
def test_failed_trials_are_dropped_ranked_worst_or_imputed_as_in_the_reference(case: dict[str, Any]) -> None:
    mode, scores = case["mode"], numbers(case["scores"])
    good = [score for score in scores if math.isfinite(score)]
    value = float(case["imputed"]["failed_value"])
    imputed = [score if math.isfinite(score) else value for score in scores]
    for kept, expected in ((good, case["drop"]), (imputed, case["imputed"])):
        plugin = expected_validation_performance(kept, mode=mode)
        unbiased = expected_validation_performance(kept, mode=mode, estimator="unbiased")
        assert plugin.tolist() == pytest.approx(expected["V"], rel=1e-9)
        assert unbiased.tolist() == pytest.approx(expected["U"], rel=1e-9)
    same(expected_validation_performance(imputed, mode=mode, estimator="median"), case["imputed"]["median"])
    worst = expected_validation_performance(good, mode=mode, estimator="median", failed=len(scores) - len(good))
    same(worst, case["worst"])


# Every draw enumerated, in rationals.


def _sweeps() -> list[list[Fraction]]:
    draw = random.Random(0)
    sizes = [1, 2, 2, 3, 3, 4, 4, 5, 5]
    return [[Fraction(draw.randint(-9, 9), draw.randint(1, 7)) for _ in range(size)] for size in sizes]


def _median(outcomes: Sequence[Fraction]) -> Fraction:
    """The smallest value that half of the outcomes or more are at most."""
    return next(x for x in sorted(outcomes) if 2 * sum(y <= x for y in outcomes) >= len(outcomes))


@every_mode
@pytest.mark.parametrize("scores", _sweeps(), ids=str)
def test_all_draws_one_by_one_give_the_same(scores: list[Fraction], mode: Any) -> None:
    best: Callable[[Sequence[Fraction]], Fraction] = max if mode == "max" else min
    floats = [float(score) for score in scores]
    curves = {each: expected_validation_performance(floats, mode=mode, estimator=each) for each in ESTIMATORS}
    spread = best_of_n_spread(floats, mode=mode)
    for n in range(1, len(scores) + 1):
        drawn = [best(some) for some in itertools.product(scores, repeat=n)]
        chosen = [best(some) for some in itertools.combinations(scores, n)]
        mean = sum(drawn, Fraction()) / len(drawn)
        variance = sum(((each - mean) ** 2 for each in drawn), Fraction()) / len(drawn)
        assert curves["plugin"][n - 1] == pytest.approx(float(mean), rel=1e-13, abs=1e-14)
        assert curves["unbiased"][n - 1] == pytest.approx(float(sum(chosen) / len(chosen)), rel=1e-13, abs=1e-14)
        assert curves["median"][n - 1] == float(_median(drawn))
        assert spread[n - 1] == pytest.approx(math.sqrt(variance), rel=1e-7, abs=1e-8)


@every_mode
@pytest.mark.parametrize("failed", [1, 2])
def test_the_median_with_failures_is_that_of_all_draws(failed: int, mode: Any) -> None:
    scores, sign = [0.2, 0.5, 0.5], 1 if mode == "max" else -1
    worst = -sign * math.inf
    expected: list[float] = []
    for n in range(1, len(scores) + failed + 1):
        drawn = [
            max(some, key=lambda x: sign * x) for some in itertools.product([*scores, *[worst] * failed], repeat=n)
        ]
        middle = _median(drawn)  # pyright: ignore[reportArgumentType]  # infinity is no fraction
        expected.append(math.nan if math.isinf(middle) else float(middle))
    same(expected_validation_performance(scores, mode=mode, estimator="median", failed=failed), expected)


# A second implementation, with its faults.


@every_mode
@pytest.mark.parametrize("count", [1, 2, 3, 7, 12, 20, 100])
def test_opda_has_the_same_curves_and_our_median_is_right_where_it_is_not(count: int, mode: Any) -> None:
    opda = pytest.importorskip("opda.nonparametric")
    scores = np.random.default_rng(count).normal(size=count)
    theirs, ns, minimize = opda.EmpiricalDistribution(scores), np.arange(1, count + 1), mode == "min"
    for estimator, curve in zip(MEANS, (theirs.v_tuning_curve, theirs.u_tuning_curve), strict=True):
        found = expected_validation_performance(scores, mode=mode, estimator=estimator)
        np.testing.assert_allclose(found, curve(ns, minimize=minimize), rtol=1e-12, atol=1e-13)
    found = expected_validation_performance(scores, mode=mode, estimator="median")
    medians = theirs.quantile_tuning_curve(ns, minimize=minimize)
    different = [n for n, one, other in zip(ns, found, medians, strict=True) if one != other]
    assert different in ([], [1])  # its cumulative sum of 1 / N falls short of a half, e.g. with 12 and 20
    assert found[0] == np.sort(scores)[(count - 1) // 2]


@every_mode
@pytest.mark.parametrize(
    "method", ["dkw", "ks", *(pytest.param(m, marks=pytest.mark.slow) for m in ("ld", "ld-highest-density"))]
)
@pytest.mark.parametrize("count", [3, 7, 15])
def test_opda_has_the_same_bands(count: int, method: BandMethod, mode: Any) -> None:
    opda = pytest.importorskip("opda.nonparametric")
    scores = np.random.default_rng(count).uniform(size=count)
    generator, name = np.random.default_rng(0), {"ld": "ld_equal_tailed"}.get(method, method.replace("-", "_"))
    lower, _, upper = opda.EmpiricalDistribution.confidence_bands(
        scores, 0.8, 0.0, 1.0, generator=generator, method=name, n_jobs=1
    )
    low, high = tuning_curve_band(scores, mode=mode, method=method, support=(0.0, 1.0))
    ns = np.arange(1, count + 1)
    same(low, upper.quantile_tuning_curve(ns, minimize=mode == "min").tolist())
    same(high, lower.quantile_tuning_curve(ns, minimize=mode == "min").tolist())


# What holds of all curves.


SAMPLES = {
    "normal": lambda draw: [draw.gauss(0, 1) for _ in range(23)],
    "ties": lambda draw: [float(draw.randint(0, 3)) for _ in range(17)],
    "far from zero": lambda draw: [1e9 + draw.random() for _ in range(12)],
    "outlier": lambda draw: [*(draw.random() for _ in range(9)), 1e6],
    "one": lambda draw: [0.3],
    "two": lambda draw: [0.3, -0.1],
    "all the same": lambda draw: [0.1] * 6,
}
every_sample = pytest.mark.parametrize("scores", [make(random.Random(3)) for make in SAMPLES.values()], ids=SAMPLES)


@every_estimator
@every_mode
@every_sample
def test_a_curve_only_gets_better_and_stays_between_the_worst_and_the_best(
    scores: list[float], mode: Any, estimator: Estimator
) -> None:
    curve = expected_validation_performance(scores, mode=mode, estimator=estimator)
    assert curve.shape == (len(scores),)
    steps = np.diff(curve if mode == "max" else -curve)
    assert (steps >= 0).all()
    assert min(scores) <= curve.min() <= curve.max() <= max(scores)


@every_mode
@every_sample
def test_a_curve_begins_at_the_mean_and_the_unbiased_one_ends_at_the_best(scores: list[float], mode: Any) -> None:
    plugin, unbiased = (
        expected_validation_performance(scores, mode=mode, estimator=estimator) for estimator in ("plugin", "unbiased")
    )
    mean = float(np.mean(scores))
    assert (plugin[0], unbiased[0]) == (pytest.approx(mean, rel=1e-13), pytest.approx(mean, rel=1e-13))
    best = max(scores) if mode == "max" else min(scores)
    assert unbiased[-1] == best
    assert (plugin[-1] == best) == (len(set(scores)) == 1)
    assert (plugin <= unbiased + 1e-12 * abs(best)).all() if mode == "max" else (plugin >= unbiased - 1e-12).all()
    assert best_of_n_spread(scores, mode=mode)[0] == pytest.approx(np.std(scores), rel=1e-6, abs=1e-12)


@every_estimator
@every_mode
@every_sample
def test_neither_the_order_nor_the_unit_of_the_scores_matters(
    scores: list[float], mode: Any, estimator: Estimator
) -> None:
    curve = expected_validation_performance(scores, mode=mode, estimator=estimator)
    shuffled = random.Random(1).sample(scores, len(scores))
    same(expected_validation_performance(shuffled, mode=mode, estimator=estimator), curve.tolist())
    moved = expected_validation_performance([3 * x + 7 for x in scores], mode=mode, estimator=estimator)
    np.testing.assert_allclose(moved, 3 * curve + 7, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        best_of_n_spread([3 * x + 7 for x in shuffled], mode=mode),
        3 * best_of_n_spread(scores, mode=mode),
        rtol=1e-6,
        atol=1e-9,
    )


@pytest.mark.parametrize("estimator", MEANS)
@every_sample
def test_the_smallest_is_the_largest_of_what_is_negated(scores: list[float], estimator: Estimator) -> None:
    negated = expected_validation_performance([-x for x in scores], mode="max", estimator=estimator)
    same(-expected_validation_performance(scores, mode="min", estimator=estimator), negated.tolist())
    same(best_of_n_spread(scores, mode="min"), best_of_n_spread([-x for x in scores]).tolist())


@every_method
@every_sample
def test_the_band_of_the_smallest_is_that_of_the_largest_of_what_is_negated(
    scores: list[float], method: BandMethod
) -> None:
    low, high = tuning_curve_band(scores, mode="min", method=method, support=(-5.0, 2e9))
    below, above = tuning_curve_band([-x for x in scores], mode="max", method=method, support=(-2e9, 5.0))
    # A median of an even number is the lower one of two either way: where it lies on a level, ends may differ by one.
    order = sorted([-5.0, *scores, 2e9])
    for one, other in ((low, -above), (high, -below)):
        places = np.searchsorted(order, one), np.searchsorted(order, other)
        assert np.abs(places[0] - places[1]).max() <= 1
        assert (one == other).mean() > 0.9


@every_method
@every_mode
@every_sample
def test_a_band_has_the_median_in_it_and_ends_within_the_support(
    scores: list[float], mode: Any, method: BandMethod
) -> None:
    low, high = tuning_curve_band(scores, mode=mode, method=method, support=(-5.0, 2e9))
    median = expected_validation_performance(scores, mode=mode, estimator="median")
    assert (low <= median).all()
    assert (median <= high).all()
    assert -5 <= low.min() <= high.max() <= 2e9
    wider = tuning_curve_band(scores, mode=mode, method=method, support=(-5.0, 2e9), confidence=0.99)
    assert (wider[0] <= low).all()
    assert (wider[1] >= high).all()


@every_method
@pytest.mark.parametrize("count", [1, 2, 3, 5, 30, 200])
def test_levels_are_shares_that_rise_around_the_steps_and_are_the_same_from_above(
    count: int, method: BandMethod
) -> None:
    lower, upper = cdf_band(count, method=method)
    levels = np.arange(count + 1) / count
    assert lower.shape == upper.shape == (count + 1,)
    for each in (lower, upper):
        assert (np.diff(each) >= 0).all()
        assert 0 <= each[0] <= each[-1] <= 1
    assert (lower <= levels).all()
    assert (levels <= upper).all()
    np.testing.assert_allclose(upper, 1 - lower[::-1], rtol=0, atol=1e-9)


def test_one_trial_is_its_own_curve_and_nothing_is_known_around_it() -> None:
    for estimator in ESTIMATORS:
        same(expected_validation_performance([0.3], estimator=estimator), [0.3])
    same(best_of_n_spread([0.3]), [0.0])
    low, high = tuning_curve_band([0.3], support=(0.0, 1.0))
    assert (low.tolist(), high.tolist()) == ([0.0], [1.0])
    low, high = tuning_curve_band([0.3])
    assert (low.tolist(), high.tolist()) == ([-math.inf], [math.inf])


@every_mode
def test_where_all_have_failed_there_is_no_median_and_no_mean(mode: Any) -> None:
    assert np.isnan(expected_validation_performance([], mode=mode, estimator="median", failed=3)).tolist() == [True] * 3
    low, high = tuning_curve_band([], mode=mode, failed=3, support=(0.0, 1.0))
    worse, better = (low, high) if mode == "max" else (high, low)
    assert np.isnan(worse).tolist() == [True] * 3
    assert better[-1] == (1.0 if mode == "max" else 0.0)


# Bands that cover: simulation, with a fixed seed.


def _shares_of_bands_that_hold(count: int, method: BandMethod, repeats: int) -> float:
    """Of draws between 0 and 1, sorted: the distribution jumps at each, from one pair of levels to the next."""
    draws = np.sort(np.random.default_rng(0).random((repeats, count)), axis=1)
    lower, upper = cdf_band(count, method=method)
    return float(((lower[1:] <= draws) & (draws <= upper[:-1])).all(axis=1).mean())


@pytest.mark.parametrize("method", ["ld", "ld-highest-density", "ks"])
@pytest.mark.parametrize("count", [1, 2, 5, 20, 100])
def test_an_exact_band_holds_as_often_as_it_says(count: int, method: BandMethod) -> None:
    repeats = 20_000
    assert _shares_of_bands_that_hold(count, method, repeats) == pytest.approx(
        0.8, abs=4 * math.sqrt(0.8 * 0.2 / repeats)
    )


@pytest.mark.parametrize("count", [1, 2, 5, 20, 100])
def test_the_band_of_the_inequality_holds_at_least_as_often(count: int) -> None:
    assert 0.8 <= _shares_of_bands_that_hold(count, "dkw", 20_000) <= 1


@every_mode
@pytest.mark.parametrize("rate", [0.0, 0.3], ids=["none fail", "some fail"])
@pytest.mark.parametrize("kind", ["continuous", "tied"])
def test_the_band_has_the_true_median_at_all_n_at_once_as_often_as_it_says(kind: str, rate: float, mode: Any) -> None:
    count, repeats = 8, 1500
    draw, ns = np.random.default_rng(1), np.arange(1, count + 1)
    share = 0.5 ** (1 / ns) if mode == "max" else 1 - 0.5 ** (1 / ns)
    if mode == "max":
        failing, good = share <= rate, (share - rate) / (1 - rate)
    else:
        failing, good = share > 1 - rate, share / (1 - rate)
    true = np.where(failing, math.nan, good if kind == "continuous" else np.ceil(good * 5 - 1e-9) / 5)
    held = 0
    for _ in range(repeats):
        scores = draw.random(count - (failed := draw.binomial(count, rate)))
        scores = scores if kind == "continuous" else np.ceil(scores * 5) / 5
        low, high = tuning_curve_band(scores, mode=mode, failed=failed, support=(0.0, 1.0))
        worst = -math.inf if mode == "max" else math.inf
        low, high, middle = (np.where(np.isnan(each), worst, each) for each in (low, high, true))
        held += bool(((low <= middle) & (middle <= high)).all())
    assert held / repeats >= 0.8 - 4 * math.sqrt(0.8 * 0.2 / repeats)


# Ten thousand trials.


def test_the_curves_of_ten_thousand_trials_are_those_of_the_published_weights() -> None:
    count = 10_000
    scores = np.sort(np.random.default_rng(0).normal(size=count))
    ranks = np.arange(1, count + 1)
    plugin = expected_validation_performance(scores)
    unbiased = expected_validation_performance(scores, estimator="unbiased")
    for n in (1, 2, 50, 5000, 10_000):
        weights = (ranks / count) ** n - ((ranks - 1) / count) ** n
        assert plugin[n - 1] == pytest.approx(float(weights @ scores), rel=1e-9)
        logs = [math.lgamma(i) - math.lgamma(n) - math.lgamma(i - n + 1) for i in range(n, count + 1)]
        whole = math.lgamma(count + 1) - math.lgamma(n + 1) - math.lgamma(count - n + 1)
        weights = np.exp(np.array(logs) - whole)
        assert unbiased[n - 1] == pytest.approx(float(weights @ scores[n - 1 :]), rel=1e-7)
    assert unbiased[-1] == scores[-1]


@pytest.mark.parametrize("method", ["ld", pytest.param("ld-highest-density", marks=pytest.mark.slow)])
def test_the_exact_band_of_ten_thousand_trials_holds_as_often_as_it_says(method: BandMethod) -> None:
    repeats = 500
    share = _shares_of_bands_that_hold(LARGEST_EXACT, method, repeats)
    assert share == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / repeats))


# What cannot be.


def _curve(*arguments: Any, **more: Any) -> Any:
    return lambda: expected_validation_performance(*arguments, **more)


def _band(*arguments: Any, **more: Any) -> Any:
    return lambda: tuning_curve_band(*arguments, **more)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_curve([]), "scores=[]: allowed is one score or more"),
        (_curve([0.1, math.nan]), "scores[1]=nan: allowed is a finite number"),
        (_curve([-math.inf]), "scores[0]=-inf: allowed is a finite number"),
        (_curve([0.1], mode="best"), "mode='best': allowed are 'min', 'max'"),
        (_curve([0.1], estimator="v"), "estimator='v': allowed are 'plugin', 'unbiased', 'median'"),
        (_curve([0.1], estimator="median", failed=-1), "failed=-1: allowed is 0 or more"),
        (_curve([0.1], estimator="median", failed=True), "failed=True: allowed is 0 or more"),
        (
            _curve([0.1], failed=2),
            "failed=2: allowed is 0 with estimator='plugin', since no mean has a failure",
        ),
        (lambda: best_of_n_spread([]), "scores=[]: allowed is one score or more"),
        (lambda: best_of_n_spread([math.inf]), "scores[0]=inf: allowed is a finite number"),
        (lambda: best_of_n_spread([1.0], mode="x"), "mode='x': allowed are 'min', 'max'"),  # pyright: ignore[reportArgumentType]
        (_band([]), "scores=[]: allowed is one score or more"),
        (_band([0.1, math.nan]), "scores[1]=nan: allowed is a finite number"),
        (_band([0.1], confidence=1), "confidence=1: allowed is more than 0 and less than 1"),
        (_band([0.1], confidence=math.nan), "confidence=nan: allowed is more than 0 and less than 1"),
        (_band([0.1], method="bca"), "method='bca': allowed are 'ld', 'ld-highest-density', 'ks', 'dkw'"),
        (
            _band([0.1, 1.2], support=(0.0, 1.0)),
            "support=(0.0, 1.0): allowed is a pair of numbers with all scores between them",
        ),
        (
            _band([], failed=1, support=(1.0, 0.0)),
            "support=(1.0, 0.0): allowed is a pair of numbers with all scores between them",
        ),
        (
            _band([0.1], support=(math.nan, 1.0)),
            "support=(nan, 1.0): allowed is a pair of numbers with all scores between them",
        ),
        (lambda: cdf_band(0), "count=0: allowed is 1 or more"),
        (lambda: cdf_band(True), "count=True: allowed is 1 or more"),
        (lambda: cdf_band(3, confidence=0.0), "confidence=0.0: allowed is more than 0 and less than 1"),
        (lambda: cdf_band(10_001), "count=10001: allowed is at most 10000 with method='ld'; take 'ks'"),
        (lambda: ld_pointwise_coverage(0, 0.8), "count=0: allowed is 1 to 10000"),
        (lambda: ld_pointwise_coverage(10_001, 0.8), "count=10001: allowed is 1 to 10000"),
        (lambda: ld_pointwise_coverage(5, 1.5), "confidence=1.5: allowed is more than 0 and less than 1"),
    ],
)
def test_what_is_not_allowed_is_quoted_with_what_is(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


def test_more_than_ten_thousand_trials_have_a_band_by_the_other_methods() -> None:
    for method in ("ks", "dkw"):
        lower, upper = cdf_band(LARGEST_EXACT + 1, method=method)
        assert 0 < (upper - lower).max() < 0.03
