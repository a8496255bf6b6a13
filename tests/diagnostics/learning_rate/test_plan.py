"""Lengths and factors of a plan: those of the pure function; presets, words, and what is refused at construction."""

import math
import re
from typing import Any, get_args

import pytest

from lightning_diagnostics import WarmupCooldownScheduler
from lightning_diagnostics.callback.trainer import ALL_STEPS, BATCHES, STEPS, Axis
from lightning_diagnostics.diagnostics.learning_rate.plan import Plan, Preset, Started, Wish, described, wish
from lightning_diagnostics.statistics import (
    CooldownShape,
    WarmupShape,
    cooldown_factor,
    untuned_warmup_steps,
    warmup_cooldown_factor,
    warmup_factor,
)

ADAM, SGD = 0.999, None
"""The second beta of an Adam with its defaults, and of an optimizer that has none."""


def asked(**arguments: Any) -> Wish:
    """What is asked for with these arguments of the callback, and no others."""
    nothing = {"warmup": None, "cooldown": None} if "preset" not in arguments else {"warmup": None, "cooldown": 0.2}
    every = {"warmup_shape": "linear", "cooldown_shape": "1-sqrt", "floor": 0.0, "preset": None}
    return wish(**{**nothing, **every, **arguments})


def plan(end: float = 1000, *, started: Started | None = None, unit: str = STEPS, **arguments: Any) -> Plan:
    """The plan of a run that is counted in one way."""
    return Plan(asked(**arguments), (Axis(unit, end, "max_steps" if end < math.inf else ""),), started)


def factors(planned: Plan, steps: range, beta2: float | None = SGD) -> list[float]:
    """In automatic optimisation, where the run makes a step whenever the optimizer does."""
    curve = planned.curve(beta2)
    return [curve.factor(step, [step]) for step in steps]


def warmup(planned: Plan, beta2: float | None = SGD) -> float:
    return planned.warmup_steps(planned.main, beta2)


def cooldown(planned: Plan, beta2: float | None = SGD) -> float:
    return planned.cooldown_steps(planned.main, beta2)


# Lengths.


@pytest.mark.parametrize(
    ("wanted", "end", "steps"),
    [
        (None, 1000, 0),
        (0, 1000, 0),
        (7, 1000, 7),
        (7, 3, 7),  # which LR101 is about
        (7, math.inf, 7),
        (0.05, 1000, 50),
        (0.0149, 100, 1),
        (0.001, 100, 0),
        (0.05, math.inf, 0),
    ],
)
def test_the_length_of_a_warmup(wanted: float | None, end: float, steps: int) -> None:
    for beta2 in (ADAM, SGD):
        assert warmup(plan(end, warmup=wanted), beta2) == steps


@pytest.mark.parametrize(
    ("beta2", "end", "steps"),
    [
        (0.999, 100_000, 2000),
        (0.999, 20_000, 2000),
        (0.999, 19_999, 1999),
        (0.999, 1000, 100),
        (0.999, 19, 1),
        (0.999, 9, 0),
        (0.999, math.inf, 2000),
        (0.95, 1000, 40),
        (0.95, 399, 39),
        (SGD, 1000, 0),
        (SGD, math.inf, 0),
    ],
)
def test_the_automatic_warmup_is_that_of_the_paper_or_a_tenth_of_the_run(
    beta2: float | None, end: float, steps: int
) -> None:
    assert warmup(plan(end, warmup="auto"), beta2) == steps


@pytest.mark.parametrize(
    ("wanted", "end", "steps"),
    [
        (None, 1000, 0),
        (0, 1000, 0),
        (30, 1000, 30),
        (30, 20, 20),
        (0.2, 1000, 200),
        (0.25, 9, 2),
        (1.0, 1000, 1000),
        (0.001, 100, 0),
        (30, math.inf, 0),
        (0.2, math.inf, 0),
    ],
)
def test_the_length_of_a_cooldown(wanted: float | None, end: float, steps: int) -> None:
    assert cooldown(plan(end, cooldown=wanted)) == steps


@pytest.mark.parametrize(
    ("rising", "falling", "left"), [(600, 500, 400), (1000, 500, 0), (2000, 500, 0), (0.9, 500, 100)]
)
def test_where_both_do_not_fit_the_cooldown_begins_where_the_warmup_ends(
    rising: float, falling: int, left: int
) -> None:
    planned = plan(warmup=rising, cooldown=falling)
    assert cooldown(planned) == left
    assert planned.cooldown_wanted(planned.main, SGD) == falling


# Factors.

END = 200
ASKED: list[dict[str, Any]] = [
    {"warmup": 10},
    {"warmup": 0.1, "cooldown": 0.2},
    {"warmup": "auto", "cooldown": 0.2},
    {"warmup": "auto", "cooldown": None},
    {"warmup": 1, "cooldown": 1},
    {"cooldown": 50, "floor": 0.1},
    {"warmup": 0.5, "cooldown": 0.5},
    {"cooldown": 1.0},
]


@pytest.mark.parametrize("beta2", [SGD, 0.9, 0.95, ADAM])
@pytest.mark.parametrize("fall", get_args(CooldownShape))
@pytest.mark.parametrize("rise", get_args(WarmupShape))
@pytest.mark.parametrize("arguments", ASKED, ids=str)
def test_in_automatic_optimisation_the_factor_is_that_of_the_pure_function(
    arguments: dict[str, Any], rise: WarmupShape, fall: CooldownShape, beta2: float | None
) -> None:
    planned = plan(END, **arguments, warmup_shape=rise, cooldown_shape=fall)
    rising, falling = warmup(planned, beta2), cooldown(planned, beta2)
    expected = [
        warmup_cooldown_factor(
            step,
            total_steps=END,
            warmup_steps=rising,
            cooldown_steps=falling,
            warmup_shape=rise,
            cooldown_shape=fall,
            floor=arguments.get("floor", 0.0),
        )
        for step in range(END + 10)
    ]
    assert factors(planned, range(END + 10), beta2) == expected
    assert len(set(expected)) > 1 or beta2 is SGD


def test_nothing_asked_for_is_a_factor_of_one() -> None:
    assert factors(plan(), range(1100)) == [1.0] * 1100
    assert not asked().acts
    assert not asked(warmup=0, cooldown=0).acts
    assert asked(warmup="auto").acts
    assert asked(cooldown=0.1).acts


def test_a_run_without_a_known_end_warms_up_and_stays_there() -> None:
    endless = plan(math.inf, warmup=4, cooldown=0.2)
    assert factors(endless, range(6)) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert factors(plan(math.inf, warmup=0.1, cooldown=0.2), range(3)) == [1.0] * 3


def test_each_group_has_the_automatic_warmup_of_its_own_betas() -> None:
    planned = plan(100_000, warmup="auto")
    assert [factors(planned, range(30, 31), beta2)[0] for beta2 in (SGD, 0.9, 0.95, ADAM)] == [
        1.0,
        1.0,
        31 / 40,
        31 / 2000,
    ]


def test_by_hand_the_warmup_counts_the_optimizers_own_steps_and_the_end_the_batches() -> None:
    curve = plan(100, unit=BATCHES, warmup=10, cooldown=20).curve(SGD)
    for own, batch in ((0, 0), (3, 30), (9, 79), (12, 81), (3, 99), (400, 90)):
        expected = warmup_factor(own, 10) * cooldown_factor((batch - 80) / 20)
        assert curve.factor(own, [batch]) == expected


def test_by_hand_a_fraction_and_a_tenth_are_of_the_batches() -> None:
    share = plan(100, unit=BATCHES, warmup=0.2).curve(ADAM)
    assert [share.factor(own, [4]) for own in (0, 1000)] == [5 / 20] * 2
    # Of 2000 steps and a tenth of the batches, the warmup that is further on holds.
    automatic = plan(100, unit=BATCHES, warmup="auto").curve(ADAM)
    assert [automatic.factor(own, [4]) for own in (0, 999, 1199)] == [5 / 10, 5 / 10, 1200 / 2000]


def test_of_two_ends_the_nearer_one_holds() -> None:
    both = Plan(asked(cooldown=0.2, cooldown_shape="linear"), (Axis(BATCHES, 100), Axis(ALL_STEPS, 1000)))
    curve = both.curve(SGD)
    assert [curve.factor(0, places) for places in ([50, 500], [90, 500], [50, 900], [90, 950])] == [
        1.0,
        0.5,
        0.5,
        0.25,
    ]


def test_the_main_way_of_counting_is_the_first_with_an_end() -> None:
    endless, known = Axis(BATCHES, math.inf), Axis(ALL_STEPS, 1000, "max_steps")
    assert Plan(asked(), (endless, known)).main is known
    assert Plan(asked(), (endless,)).main is endless
    assert Plan(asked(), (Axis(BATCHES, 5), known)).main.end == 5


def test_a_cooldown_that_was_begun_by_hand_falls_from_there_and_stays_at_its_floor() -> None:
    begun = plan(1000, cooldown=0.2, cooldown_shape="linear", floor=0.1, started=Started(100, 10))
    assert factors(begun, range(100, 112)) == [
        cooldown_factor((step - 100) / 10, shape="linear", floor=0.1) for step in range(100, 112)
    ]
    assert factors(begun, range(500, 502)) == [0.1, 0.1]


def test_a_cooldown_begun_by_hand_within_that_at_the_end_does_not_have_the_rate_rise() -> None:
    late = plan(100, cooldown=20, cooldown_shape="linear", started=Started(90, 10))
    assert factors(late, range(89, 91)) == [cooldown_factor(step, shape="linear") for step in (9 / 20, 10 / 20)]
    falling = factors(late, range(80, 101))
    assert falling == sorted(falling, reverse=True)


def test_a_plan_comes_back_from_a_checkpoint_as_it_was() -> None:
    begun = Started(3, 4)
    for planned in (plan(math.inf, warmup="auto"), plan(100, preset="linear_to_zero", started=begun)):
        plain = planned.to_dict()
        assert all(type(value) in (dict, list, bool) for value in plain.values())
        assert Plan.from_dict(plain, planned.started) == planned


# Presets.


@pytest.mark.parametrize(
    ("preset", "falling", "fall"),
    [("wsd", 40, "1-sqrt"), ("trapezoid", 40, "linear"), ("linear_to_zero", 180, "linear")],
)
def test_a_preset_is_a_cooldown_and_its_shape(preset: Preset, falling: int, fall: CooldownShape) -> None:
    planned = plan(END, warmup=20, preset=preset)
    assert cooldown(planned) == falling
    assert factors(planned, range(END + 1)) == [
        warmup_cooldown_factor(step, total_steps=END, warmup_steps=20, cooldown_steps=falling, cooldown_shape=fall)
        for step in range(END + 1)
    ]


def test_linear_to_zero_begins_where_the_warmup_of_each_optimizer_ends() -> None:
    planned = plan(10_000, warmup="auto", preset="linear_to_zero")
    assert [cooldown(planned, beta2) for beta2 in (ADAM, 0.95, SGD)] == [9000, 9960, 10_000]
    assert [planned.cooldown_wanted(planned.main, beta2) for beta2 in (ADAM, SGD)] == [9000, 10_000]
    assert cooldown(plan(100, warmup=200, preset="linear_to_zero")) == 0
    assert cooldown(plan(math.inf, warmup=20, preset="linear_to_zero")) == 0


# Words.


@pytest.mark.parametrize(
    ("planned", "beta2", "words"),
    [
        (plan(), ADAM, "no warmup, no cooldown"),
        (
            plan(100_000, warmup="auto", cooldown=0.2),
            ADAM,
            "linear warmup over 2000 steps (2 / (1 - beta2) of 0.999, Ma & Yarats 2021), "
            "1-sqrt cooldown from 80000 to 100000 by max_steps",
        ),
        (plan(1000, warmup="auto"), ADAM, "linear warmup over 100 steps (a tenth of the run), no cooldown"),
        (plan(1000, warmup="auto"), SGD, "no automatic warmup, which is Adam's (give steps), no cooldown"),
        (plan(5, warmup="auto"), ADAM, "no warmup, no cooldown"),
        (
            plan(1000, warmup=0.1, warmup_shape="cosine", cooldown=100, cooldown_shape="square", floor=0.1),
            SGD,
            "cosine warmup over 100 steps, square cooldown from 900 to 1000 by max_steps to 0.1",
        ),
        (
            plan(1000, warmup=20, preset="linear_to_zero", unit=BATCHES),
            ADAM,
            "linear warmup over 20 steps of each optimizer, linear cooldown from 20 to 1000 by max_steps",
        ),
        (
            plan(math.inf, warmup=0.1, cooldown=0.2),
            ADAM,
            "no warmup (of 0.1 of a run whose steps are not known: give steps), "
            "no cooldown as the end of the run is not known",
        ),
        (
            plan(1000, cooldown=0.2, started=Started(7, 50)),
            ADAM,
            "no warmup, 1-sqrt cooldown from 7 over 50 steps, begun by hand",
        ),
    ],
    ids=str,
)
def test_a_plan_in_words(planned: Plan, beta2: float | None, words: str) -> None:
    assert described(planned, beta2) == words


@pytest.mark.parametrize(
    ("planned", "words"),
    [
        (
            plan(math.inf, warmup=0.1, cooldown=0.2),
            "no warmup (of 0.1 of a run whose steps are not known: give steps), "
            "1-sqrt cooldown over the last 0.2 of max_time",
        ),
        (plan(100, cooldown=0.2), "no warmup, 1-sqrt cooldown from 80 to 100 by max_steps or max_time"),
        (plan(math.inf), "no warmup, no cooldown"),
    ],
    ids=str,
)
def test_a_plan_of_limited_time_in_words(planned: Plan, words: str) -> None:
    assert described(planned, SGD, timed=True) == words


def test_the_words_do_not_call_a_warmup_capped_that_is_exactly_as_long() -> None:
    assert untuned_warmup_steps(0.95) == 40
    assert "Ma & Yarats" in described(plan(400, warmup="auto"), 0.95)
    assert "a tenth" in described(plan(399, warmup="auto"), 0.95)


# What is refused at construction.

_STEPS_OR_FRACTION = "a whole number of steps, a fraction of the run (more than 0, {most})"
_WARMUP = _STEPS_OR_FRACTION.format(most="less than 1") + ", 'auto', None"
_COOLDOWN = _STEPS_OR_FRACTION.format(most="1 or less") + ", None"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"warmup": -1}, ValueError, f"warmup=-1: allowed are {_WARMUP}"),
        ({"warmup": -0.1}, ValueError, f"warmup=-0.1: allowed are {_WARMUP}"),
        ({"warmup": 0.0}, ValueError, f"warmup=0.0: allowed are {_WARMUP}"),
        ({"warmup": 1.0}, ValueError, f"warmup=1.0: allowed are {_WARMUP}"),
        ({"warmup": 100.0}, ValueError, f"warmup=100.0: allowed are {_WARMUP}"),
        ({"warmup": math.nan}, ValueError, f"warmup=nan: allowed are {_WARMUP}"),
        ({"warmup": math.inf}, ValueError, f"warmup=inf: allowed are {_WARMUP}"),
        ({"warmup": "Auto"}, ValueError, f"warmup='Auto': allowed are {_WARMUP}"),
        ({"warmup": "3"}, ValueError, f"warmup='3': allowed are {_WARMUP}"),
        ({"warmup": True}, TypeError, f"warmup=True: expected {_WARMUP}"),
        ({"warmup": [3]}, TypeError, f"warmup=[3]: expected {_WARMUP}"),
        ({"cooldown": -1}, ValueError, f"cooldown=-1: allowed are {_COOLDOWN}"),
        ({"cooldown": 0.0}, ValueError, f"cooldown=0.0: allowed are {_COOLDOWN}"),
        ({"cooldown": 1.5}, ValueError, f"cooldown=1.5: allowed are {_COOLDOWN}"),
        ({"cooldown": math.nan}, ValueError, f"cooldown=nan: allowed are {_COOLDOWN}"),
        ({"cooldown": "auto"}, ValueError, f"cooldown='auto': allowed are {_COOLDOWN}"),
        ({"cooldown": "rest"}, ValueError, f"cooldown='rest': allowed are {_COOLDOWN}"),
        ({"cooldown": False}, TypeError, f"cooldown=False: expected {_COOLDOWN}"),
        (
            {"warmup_shape": "square"},
            ValueError,
            "warmup_shape='square': allowed are 'linear', 'exponential', 'cosine'",
        ),
        (
            {"cooldown_shape": "sqrt"},
            ValueError,
            "cooldown_shape='sqrt': allowed are '1-sqrt', 'linear', 'cosine', 'square', 'mirror-cosine'",
        ),
        ({"floor": -0.1}, ValueError, "floor=-0.1: allowed is 0 to 1"),
        ({"floor": 1.5}, ValueError, "floor=1.5: allowed is 0 to 1"),
        ({"floor": math.nan}, ValueError, "floor=nan: allowed is 0 to 1"),
        ({"floor": "0"}, TypeError, "floor='0': expected a number from 0 to 1"),
        ({"floor": True}, TypeError, "floor=True: expected a number from 0 to 1"),
        (
            {"preset": "WSD"},
            ValueError,
            "preset='WSD': allowed are 'wsd', 'linear_to_zero', 'trapezoid', None",
        ),
        (
            {"preset": "wsd", "cooldown": 0.1},
            ValueError,
            "preset='wsd' with cooldown=0.1 and cooldown_shape='1-sqrt': "
            "a preset sets these two; give the one or the others",
        ),
        (
            {"preset": "trapezoid", "cooldown_shape": "cosine"},
            ValueError,
            "preset='trapezoid' with cooldown=0.2 and cooldown_shape='cosine': "
            "a preset sets these two; give the one or the others",
        ),
        (
            {"warmup": 0.6, "cooldown": 0.5},
            ValueError,
            "warmup=0.6 and cooldown=0.5: allowed are together at most 1, the whole run",
        ),
        (
            {"warmup": 0.9, "preset": "wsd"},
            ValueError,
            "warmup=0.9 and cooldown=0.2: allowed are together at most 1, the whole run",
        ),
    ],
    ids=str,
)
def test_what_is_wrong_is_quoted_at_construction(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        WarmupCooldownScheduler(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"warmup": 0, "cooldown": 0},
        {"warmup": 0.5, "cooldown": 0.5},
        {"warmup": 0.9, "cooldown": 500},  # which depends on the run
        {"warmup": None, "cooldown": 1.0, "floor": 1},
        {"warmup": 0.9, "preset": "linear_to_zero"},
        {"preset": "wsd", "floor": 0.1},
    ],
    ids=str,
)
def test_what_is_allowed_is_taken(arguments: dict[str, Any]) -> None:
    made = WarmupCooldownScheduler(**arguments)
    assert {name: getattr(made, name) for name in arguments} == arguments


def test_by_default_it_warms_up_automatically_and_cools_down_over_the_last_fifth() -> None:
    made = WarmupCooldownScheduler()
    kept = (made.warmup, made.warmup_shape, made.cooldown, made.cooldown_shape, made.floor, made.preset)
    assert kept == ("auto", "linear", 0.2, "1-sqrt", 0.0, None)
