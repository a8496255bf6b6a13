"""Prechelt's criteria and patience: known curves in exact arithmetic, and errors that quote what was wrong."""

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import pytest

from lightning_diagnostics.statistics import (
    generalization_loss,
    progress_quotient,
    since_improvement,
    successive_rises,
    training_progress,
)


class Curve(NamedTuple):
    """A textbook curve, with the epochs (from 1) at which each criterion stops."""

    validation: tuple[str, ...]
    training: tuple[str, ...]
    strip: int
    gl: dict[float, int | None]
    pq: dict[float, int | None]
    up: dict[int, int | None]
    patience: dict[tuple[int, float], tuple[int | None, int]]  # patience and share: fires at, and onset


def _values(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CURVES = {
    "classic": Curve(
        _values("1.00 0.80 0.68 0.60 0.57 0.56 0.57 0.59 0.62 0.66 0.70 0.75 0.81 0.86 0.92"),
        _values("1.00 0.78 0.63 0.52 0.44 0.38 0.33 0.29 0.25 0.22 0.19 0.17 0.15 0.13 0.12"),
        5,
        {1: 7, 2: 8, 5: 8, 10: 9},
        {0.5: None, 1: None, 2: None},
        {1: 10, 2: 15, 3: None},
        {(3, 0): (9, 6), (3, 0.01): (9, 6), (5, 0.001): (11, 6)},
    ),
    "no overfitting": Curve(
        _values("1.0 0.9 0.82 0.75 0.7 0.66 0.63 0.61 0.6 0.59"),
        _values("0.98 0.88 0.8 0.73 0.68 0.64 0.61 0.59 0.58 0.57"),
        5,
        {1: None, 5: None},
        {0.5: None},
        {1: None, 2: None},
        {(3, 0): (None, 10), (3, 0.01): (None, 10), (5, 0.001): (None, 10)},
    ),
    "noisy": Curve(
        _values("0.9 0.7 0.75 0.66 0.71 0.64 0.69 0.65 0.64 0.70"),
        _values("0.8 0.65 0.6 0.55 0.5 0.5 0.47 0.45 0.44 0.42"),
        2,
        {3: 3, 5: 3, 8: 10},
        {0.2: 10},
        {1: 8, 2: 10},
        {(3, 0): (9, 6), (3, 0.01): (9, 6), (5, 0.001): (None, 6)},
    ),
}
by_curve = pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES.keys())


def _floats(values: tuple[str, ...]) -> list[float]:
    return [float(value) for value in values]


@by_curve
def test_loss_progress_and_quotient_are_those_of_exact_arithmetic_at_every_epoch(curve: Curve) -> None:
    for epoch in range(1, len(curve.validation) + 1):
        validation, training = ([Fraction(v) for v in each[:epoch]] for each in (curve.validation, curve.training))
        loss = 100 * (validation[-1] / min(validation) - 1)
        assert generalization_loss(_floats(curve.validation[:epoch])) == pytest.approx(float(loss), rel=1e-9, abs=1e-12)
        progress = training_progress(_floats(curve.training[:epoch]), strip=curve.strip)
        quotient = progress_quotient(
            _floats(curve.validation[:epoch]), _floats(curve.training[:epoch]), strip=curve.strip
        )
        if epoch < curve.strip:
            assert (progress, quotient) == (None, None)
            continue
        last = training[-curve.strip :]
        exact = 1000 * (sum(last, Fraction()) / (curve.strip * min(last)) - 1)
        assert progress == pytest.approx(float(exact), rel=1e-9, abs=1e-12)
        assert quotient == (pytest.approx(float(loss / exact), rel=1e-9, abs=1e-12) if exact else None)


@pytest.mark.parametrize(
    ("curve", "epoch", "loss", "progress", "quotient"),
    [
        ("classic", 5, 0.0, 531.8181818181819, 0.0),
        ("classic", 7, 1.7857142857142858, 393.93939393939394, 0.004532967032967033),
        ("classic", 15, 64.28571428571429, 266.6666666666667, 0.24107142857142858),
        ("no overfitting", 10, 0.0, 49.12280701754386, 0.0),
        ("noisy", 3, 7.142857142857143, 41.666666666666664, 0.17142857142857143),
        ("noisy", 6, 0.0, 0.0, None),
        ("noisy", 10, 9.375, 23.80952380952381, 0.39375),
    ],
)
def test_known_numbers_of_known_curves(
    curve: str, epoch: int, loss: float, progress: float, quotient: float | None
) -> None:
    validation, training = (_floats(each[:epoch]) for each in (CURVES[curve].validation, CURVES[curve].training))
    strip = CURVES[curve].strip
    assert generalization_loss(validation) == pytest.approx(loss, rel=1e-9)
    assert training_progress(training, strip=strip) == pytest.approx(progress, rel=1e-9)
    found = progress_quotient(validation, training, strip=strip)
    assert found == (None if quotient is None else pytest.approx(quotient, rel=1e-9))


def _first(epochs: Any, fires: Callable[[int], bool]) -> int | None:
    return next((epoch for epoch in epochs if fires(epoch)), None)


@by_curve
def test_each_criterion_stops_at_the_epoch_where_it_should(curve: Curve) -> None:
    validation, training = _floats(curve.validation), _floats(curve.training)
    epochs = range(1, len(validation) + 1)
    ends = range(curve.strip, len(validation) + 1, curve.strip)
    for limit, epoch in curve.gl.items():
        assert _first(epochs, lambda t, limit=limit: generalization_loss(validation[:t]) > limit) == epoch
    for limit, epoch in curve.pq.items():
        at = _first(
            ends,
            lambda t, limit=limit: (progress_quotient(validation[:t], training[:t], strip=curve.strip) or 0.0) > limit,
        )
        assert at == epoch
    for strips, epoch in curve.up.items():
        at = _first(ends, lambda t, s=strips: successive_rises(validation[:t], strip=curve.strip) >= s)
        assert at == epoch


@by_curve
def test_patience_ends_where_it_should_and_names_the_best(curve: Curve) -> None:
    values = _floats(curve.validation)
    for (patience, minimum), (fires, onset) in curve.patience.items():
        at = _first(
            range(1, len(values) + 1),
            lambda t, p=patience, m=minimum: since_improvement(values[:t], minimum=m)[1] >= p,
        )
        assert at == fires
        assert since_improvement(values[: at or len(values)], minimum=minimum)[0] + 1 == onset


def _up(validation: list[float], strips: int, end: int, strip: int) -> bool:
    """UP_s as Prechelt defines it, with epochs from 1."""
    if end - strip < 1 or not validation[end - 1] > validation[end - strip - 1]:
        return False
    return strips == 1 or _up(validation, strips - 1, end - strip, strip)


@pytest.mark.parametrize("strip", [1, 2, 3])
def test_rises_are_as_many_as_the_recursive_definition_allows(strip: int) -> None:
    for seed in range(200):
        validation = [float((seed >> (index % 8)) * (index * 7 + seed) % 5) - 2 for index in range(seed % 17)]
        end = len(validation) // strip * strip
        found = successive_rises(validation, strip=strip)
        held = [s for s in range(1, 20) if _up(validation, s, end, strip)]
        assert held == list(range(1, found + 1))


def test_losses_after_the_last_whole_strip_do_not_count() -> None:
    assert successive_rises([1.0, 2.0, 3.0], strip=2) == 0
    assert successive_rises([9.0, 1.0, 9.0, 2.0, 0.0], strip=2) == 1
    assert successive_rises([], strip=2) == 0
    assert successive_rises([1.0, 1.0, 1.0], strip=1) == 0
    assert successive_rises([-3.0, -2.0, -1.0], strip=1) == 2


def test_a_training_that_stands_still_makes_the_quotient_infinite_or_none() -> None:
    still = [0.1] * 10  # the sum of which is not ten times the lowest in floats
    assert training_progress(still, strip=10) == 0.0
    assert progress_quotient([1.0, 2.0], still) == math.inf
    assert progress_quotient([2.0, 1.0], still) is None
    assert progress_quotient([1.0, 2.0], still[:4]) is None


def test_a_loss_that_is_the_lowest_by_a_repeat_has_not_risen() -> None:
    assert generalization_loss([0.3, 0.1, 0.7, 0.1]) == 0.0
    assert generalization_loss([0.3]) == 0.0


@pytest.mark.parametrize(
    ("values", "minimum", "found"),
    [
        ([1.0], 0.001, (0, 0)),
        ([1.0, 1.0, 1.0], 0.0, (0, 2)),
        ([1.0, 0.75, 0.5], 0.25, (2, 0)),  # 0.75 is at the limit and does not count
        ([4.0, 3.5, 3.25, 2.75], 0.25, (3, 0)),  # by little each time, but more and more
        ([-1.0, -1.1, -1.2], 0.15, (2, 0)),
        ([-1.0, -0.9, -0.8], 0.15, (0, 2)),  # a limit of best * (1 - minimum) would take these for better
        ([0.0, -1e-9], 0.5, (1, 0)),
        ([math.nan, 2.0, math.nan, 3.0], 0.1, (1, 2)),
        ([math.inf, 5.0, math.inf], 0.1, (1, 1)),
        ([1.0, -math.inf, -5.0], 0.1, (1, 1)),
    ],
)
def test_the_best_is_what_was_better_by_enough(values: list[float], minimum: float, found: tuple[int, int]) -> None:
    assert since_improvement(values, minimum=minimum) == found


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: generalization_loss([]), "validation=[]: expected one number or more"),
        (lambda: generalization_loss([1.0, 0.0]), "validation[1]=0.0: allowed is a finite number, more than 0"),
        (lambda: generalization_loss([-0.5, 1.0]), "validation[0]=-0.5: allowed is a finite number, more than 0"),
        (lambda: generalization_loss([math.nan]), "validation[0]=nan: allowed is a finite number, more than 0"),
        (lambda: training_progress([1.0, -2.0]), "training[1]=-2.0: allowed is a finite number, more than 0"),
        (lambda: training_progress([1.0], strip=0), "strip=0: allowed is 1 or more"),
        (lambda: progress_quotient([0.0], [1.0]), "validation[0]=0.0: allowed is a finite number, more than 0"),
        (lambda: progress_quotient([1.0], [0.0]), "training[0]=0.0: allowed is a finite number, more than 0"),
        (lambda: successive_rises([1.0], strip=-1), "strip=-1: allowed is 1 or more"),
        (lambda: successive_rises([math.inf]), "validation[0]=inf: allowed is a finite number"),
        (lambda: since_improvement([]), "values=[]: expected one number or more"),
        (lambda: since_improvement([1.0], minimum=1.0), "minimum=1.0: allowed is 0 or more and less than 1"),
        (lambda: since_improvement([1.0], minimum=math.nan), "minimum=nan: allowed is 0 or more and less than 1"),
    ],
)
def test_what_cannot_be_is_quoted(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        call()
