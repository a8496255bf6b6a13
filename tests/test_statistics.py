"""The pure functions: values from exact arithmetic, and errors that quote what was wrong."""

import math
from fractions import Fraction

import pytest

from lightning_diagnostics.statistics import projected_share


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
