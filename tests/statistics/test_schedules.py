"""Warmup and cooldown: reference schedules, what every shape has in common, and errors that quote what was wrong."""

import itertools
import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, get_args

import pytest

from lightning_diagnostics.statistics import (
    CooldownShape,
    WarmupShape,
    cooldown_factor,
    untuned_warmup_steps,
    warmup_cooldown_factor,
    warmup_factor,
)

RISES: tuple[WarmupShape, ...] = get_args(WarmupShape)
FALLS: tuple[CooldownShape, ...] = get_args(CooldownShape)
every_rise = pytest.mark.parametrize("rise", RISES)
every_fall = pytest.mark.parametrize("fall", FALLS)
every_floor = pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])

# A run of 20 steps at a rate of 0.1, of which the first 4 warm up, as it is computed elsewhere to 1e-9: name, cooldown
# (steps, shape, floor), the rates of the steps from the first that cools down on, and the rate that comes after them.
REFERENCE = {
    "linear": ((5, "linear", 0.0), [0.1, 0.08, 0.06, 0.04, 0.02], 0.0),
    "cosine": (
        (5, "cosine", 0.0),
        [0.1, 0.09045084971874737, 0.06545084971874737, 0.034549150281252626, 0.009549150281252628],
        0.0,
    ),
    "1-sqrt": (
        (5, "1-sqrt", 0.0),
        [0.1, 0.055278640450004204, 0.036754446796632416, 0.02254033307585166, 0.010557280900008412],
        0.0,
    ),
    "square": ((5, "square", 0.0), [0.1, 0.096, 0.084, 0.064, 0.036], 0.0),
    "mirror-cosine": (
        (5, "mirror-cosine", 0.0),
        [0.1, 0.06954915028125262, 0.05454915028125263, 0.04545084971874737, 0.030450849718747373],
        0.0,
    ),
    "1-sqrt to a tenth": (
        (5, "1-sqrt", 0.1),
        [0.1, 0.059750776405003786, 0.04307900211696917, 0.030286299768266495, 0.01950155281000757],
        0.01,
    ),
    "linear to zero": ((16, "linear", 0.0), [0.1 - 0.00625 * step for step in range(16)], 0.0),
    "none": ((0, "linear", 0.0), [], 0.1),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_the_whole_schedule_is_that_of_the_reference(name: str) -> None:
    (cooldown, shape, floor), last, after = REFERENCE[name]
    rates = [0.1 * _factor(step, cooldown_steps=cooldown, cooldown_shape=shape, floor=floor) for step in range(21)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1], rel=1e-12)
    assert rates[4 : 20 - cooldown] == [0.1] * (16 - cooldown)
    assert rates[20 - cooldown : 20] == pytest.approx(last, rel=1e-9)
    assert rates[20] == pytest.approx(after, rel=1e-9, abs=1e-15)


def _factor(step: float, **more: Any) -> float:
    """The factor in a run of 20 steps whose first 4 warm up, unless told otherwise."""
    return warmup_cooldown_factor(step, **{"total_steps": 20, "warmup_steps": 4, **more})


# The untuned warmup of Ma & Yarats (2021): its length, the factor of some steps (from 1) of the exponential one as it
# is computed elsewhere, and the steps that each of them takes away.
UNTUNED = {
    0.95: (40, {1: 0.04877057549928599, 8: 0.329679953964, 9: -math.expm1(-0.45)}, 19.5, 19.50416649306589),
    0.98: (100, {1: -math.expm1(-0.02)}, 49.5, 1 / math.expm1(0.02)),
    0.99: (200, {1: 0.009950166250831947, 5: 0.04877057549928599}, 99.5, 99.50083333194445),
    0.999: (2000, {1: 0.0009995001666250082, 7: 0.006975557066764895}, 999.5, 999.500083333332),
}


@pytest.mark.parametrize("beta2", UNTUNED)
def test_the_untuned_warmup_is_that_of_the_paper(beta2: float) -> None:
    steps, exponential, linear_lost, exponential_lost = UNTUNED[beta2]
    assert untuned_warmup_steps(beta2) == steps
    for step in range(3 * steps):
        exactly = min(Fraction(1), Fraction(step + 1, steps))
        assert warmup_factor(step, steps) == pytest.approx(float(exactly), rel=1e-15)
    for step, factor in exponential.items():
        assert warmup_factor(step - 1, steps, shape="exponential") == pytest.approx(factor, rel=1e-9)
    lost = [math.fsum(1 - warmup_factor(t, steps, shape=shape) for t in range(40 * steps)) for shape in RISES[:2]]
    assert lost == pytest.approx([linear_lost, exponential_lost], rel=1e-9)


@pytest.mark.parametrize(("beta2", "steps"), [(0.5, 4), (0.9, 20), (0.995, 400), (0.9999, 20_000), (0.1, 2)])
def test_the_untuned_length_is_rounded_and_not_cut(beta2: float, steps: int) -> None:
    assert untuned_warmup_steps(beta2) == steps


# What all shapes have in common.


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100])
@every_rise
def test_a_warmup_rises_from_more_than_zero(rise: WarmupShape, steps: int) -> None:
    factors = [warmup_factor(step, steps, shape=rise) for step in range(2 * steps)]
    assert factors[0] > 0
    assert all(earlier <= later <= 1 for earlier, later in itertools.pairwise(factors))
    assert all(earlier < later for earlier, later in itertools.pairwise(factors[:steps]))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("rise", ["linear", "cosine"])
def test_a_warmup_is_over_with_the_last_of_its_steps_and_not_before(rise: WarmupShape, steps: int) -> None:
    factors = [warmup_factor(step, steps, shape=rise) for step in range(2 * steps)]
    assert factors[steps - 1 :] == [1.0] * (steps + 1)
    assert all(factor < 1 for factor in factors[: steps - 1])


def test_an_exponential_warmup_has_come_to_its_share_and_goes_on() -> None:
    assert warmup_factor(99, 100, shape="exponential") == pytest.approx(1 - math.exp(-2), rel=1e-15)
    assert warmup_factor(199, 100, shape="exponential") == pytest.approx(1 - math.exp(-4), rel=1e-15)


def test_a_cosine_warmup_is_half_way_in_the_middle() -> None:
    assert [warmup_factor(step, 4, shape="cosine") for step in range(4)] == pytest.approx(
        [(1 - math.sqrt(0.5)) / 2, 0.5, (1 + math.sqrt(0.5)) / 2, 1.0], rel=1e-15
    )


@every_rise
def test_no_warmup_is_one_and_one_without_an_end_is_zero(rise: WarmupShape) -> None:
    assert [warmup_factor(step, 0, shape=rise) for step in (0, 1, 10**9)] == [1.0] * 3
    assert [warmup_factor(step, math.inf, shape=rise) for step in (0, 1, 10**9)] == [0.0] * 3


@every_floor
@every_fall
def test_a_cooldown_falls_from_one_to_its_floor(fall: CooldownShape, floor: float) -> None:
    factors = [cooldown_factor(step / 100, shape=fall, floor=floor) for step in range(101)]
    assert (factors[0], factors[-1]) == (1.0, floor)
    assert all(floor <= later <= earlier <= 1 for earlier, later in itertools.pairwise(factors))
    if floor < 1:
        assert all(later < earlier for earlier, later in itertools.pairwise(factors))
    assert [cooldown_factor(before, shape=fall, floor=floor) for before in (-math.inf, -1, -1e-9)] == [1.0] * 3
    assert [cooldown_factor(after, shape=fall, floor=floor) for after in (1 + 1e-9, 2, math.inf)] == [floor] * 3


@every_fall
def test_a_floor_stretches_a_cooldown_and_cuts_nothing_off(fall: CooldownShape) -> None:
    for progress in (0.01, 0.3, 0.5, 0.99):
        plain = cooldown_factor(progress, shape=fall)
        assert cooldown_factor(progress, shape=fall, floor=0.25) == pytest.approx(0.25 + 0.75 * plain, rel=1e-15)


@pytest.mark.parametrize(
    ("fall", "half"),
    [("1-sqrt", 1 - math.sqrt(0.5)), ("linear", 0.5), ("cosine", 0.5), ("square", 0.75), ("mirror-cosine", 0.5)],
)
def test_the_shapes_half_way(fall: CooldownShape, half: float) -> None:
    assert cooldown_factor(0.5, shape=fall) == pytest.approx(half, rel=1e-15)


def test_cosine_and_its_mirror_are_as_far_from_the_line_on_either_side() -> None:
    for progress in (0.1, 0.25, 0.7, 0.9):
        both = [cooldown_factor(progress, shape=shape) for shape in ("cosine", "mirror-cosine")]
        assert sum(both) / 2 == pytest.approx(1 - progress, rel=1e-15)
        assert both[0] != pytest.approx(both[1], rel=1e-3)


# A whole run.

LENGTHS = [(1, 1, 0), (1, 0, 1), (2, 1, 1), (20, 4, 5), (20, 20, 0), (20, 0, 20), (20, 7, 13), (1000, 100, 200)]


@pytest.mark.parametrize(("total", "warmup", "cooldown"), LENGTHS)
@every_fall
@every_rise
def test_within_a_run_no_factor_is_zero_and_it_rises_until_it_falls(
    rise: WarmupShape, fall: CooldownShape, total: int, warmup: int, cooldown: int
) -> None:
    lengths: dict[str, Any] = {"warmup_steps": warmup, "cooldown_steps": cooldown}
    shapes: dict[str, Any] = {"warmup_shape": rise, "cooldown_shape": fall}
    factors = [warmup_cooldown_factor(step, total_steps=total, **lengths, **shapes) for step in range(total + 1)]
    begins = total - cooldown  # at whose step nothing has fallen yet
    assert all(0 < factor <= 1 for factor in factors[:-1])
    assert all(earlier <= later for earlier, later in itertools.pairwise(factors[: begins + 1]))
    if cooldown:
        assert factors[-1] == 0
    if rise != "exponential":  # which goes on to rise while the run cools down
        assert factors[max(0, warmup - 1) : begins + 1] == [1.0] * (begins + 1 - max(0, warmup - 1))
        assert all(later < earlier for earlier, later in itertools.pairwise(factors[begins:]))


@every_floor
@every_fall
def test_the_floor_is_reached_when_the_run_is_over_and_not_before(fall: CooldownShape, floor: float) -> None:
    shape: dict[str, Any] = {"cooldown_steps": 5, "cooldown_shape": fall, "floor": floor}
    assert _factor(20, **shape) == _factor(10**6, **shape) == floor
    assert _factor(15, **shape) == 1.0
    if floor < 1:
        assert floor < _factor(19, **shape) < _factor(16, **shape) < 1


def test_warmup_and_cooldown_are_multiplied() -> None:
    both = warmup_cooldown_factor(
        8, total_steps=10, warmup_steps=5, cooldown_steps=5, warmup_shape="exponential", cooldown_shape="linear"
    )
    assert both == pytest.approx((1 - math.exp(-2 * 9 / 5)) * (1 - 3 / 5), rel=1e-15)


def test_a_run_without_an_end_warms_up_and_stays_there() -> None:
    factors = [warmup_cooldown_factor(step, total_steps=math.inf, warmup_steps=4) for step in (0, 1, 2, 3, 4, 10**9)]
    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_how_far_a_run_is_may_be_told_in_parts_of_a_step() -> None:
    lengths: dict[str, Any] = {"total_steps": 10.5, "warmup_steps": 2.5, "cooldown_steps": 4.2}
    assert warmup_cooldown_factor(0.5, **lengths) == pytest.approx(1.5 / 2.5, rel=1e-15)
    assert warmup_cooldown_factor(8.4, **lengths, cooldown_shape="linear") == pytest.approx(0.5, rel=1e-12)


# What is not allowed.

BAD: list[tuple[Callable[[], Any], str]] = [
    *(
        (lambda beta2=beta2: untuned_warmup_steps(beta2), f"beta2={beta2!r}: allowed is more than 0 and less than 1")
        for beta2 in (0.0, 1.0, -0.5, 1.5, math.nan)
    ),
    (lambda: warmup_factor(-1, 4), "step=-1: allowed is 0 or more"),
    (lambda: warmup_factor(math.nan, 4), "step=nan: allowed is 0 or more"),
    (lambda: warmup_factor(0, -4), "warmup_steps=-4: allowed is 0 or more"),
    (lambda: warmup_factor(0, math.nan), "warmup_steps=nan: allowed is 0 or more"),
    (
        lambda: warmup_factor(0, 4, shape="square"),  # type: ignore[arg-type]  # what it refuses
        "warmup_shape='square': allowed are 'linear', 'exponential', 'cosine'",
    ),
    (lambda: cooldown_factor(math.nan), "progress=nan: allowed is a number"),
    (
        lambda: cooldown_factor(0.5, shape="sqrt"),  # type: ignore[arg-type]  # what it refuses
        "cooldown_shape='sqrt': allowed are '1-sqrt', 'linear', 'cosine', 'square', 'mirror-cosine'",
    ),
    *(
        (lambda floor=floor: cooldown_factor(0.5, floor=floor), f"floor={floor!r}: allowed is 0 to 1")
        for floor in (-0.1, 1.1, math.nan)
    ),
    (lambda: _factor(-1), "step=-1: allowed is 0 or more"),
    (lambda: _factor(0, total_steps=-20), "total_steps=-20: allowed is 0 or more"),
    (lambda: _factor(0, total_steps=math.nan), "total_steps=nan: allowed is 0 or more"),
    (lambda: _factor(0, warmup_steps=-4), "warmup_steps=-4: allowed is 0 or more"),
    (lambda: _factor(0, cooldown_steps=-5), "cooldown_steps=-5: allowed is 0 or more"),
    (
        lambda: _factor(0, cooldown_steps=17),
        "warmup_steps=4 and cooldown_steps=17: allowed are together at most total_steps=20",
    ),
    (
        lambda: _factor(0, warmup_steps=21),
        "warmup_steps=21 and cooldown_steps=0: allowed are together at most total_steps=20",
    ),
    (
        lambda: _factor(0, total_steps=math.inf, cooldown_steps=5),
        "cooldown_steps=5: allowed is 0 where total_steps=inf",
    ),
    (lambda: _factor(0, cooldown_steps=5, floor=2), "floor=2: allowed is 0 to 1"),
]


@pytest.mark.parametrize(("act", "message"), BAD, ids=[message for _, message in BAD])
def test_what_is_not_allowed_is_quoted(act: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        act()
