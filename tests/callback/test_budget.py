"""What is drawn of all that is measured: how often, and which layers."""

from collections.abc import Iterable

import pytest

from lightning_diagnostics.callback.budget import Budget, Pace


def drawn(steps: Iterable[int], *, first: int, every: int) -> list[int]:
    pace = Pace(first=first, every=every)
    return [step for step in steps if pace.take(step)]


# How often.


def test_the_first_times_are_drawn_at_once() -> None:
    assert drawn(range(10), first=4, every=1000) == [0, 1, 2, 3]


@pytest.mark.parametrize("between", [1, 3, 7, 50, 120])
def test_after_the_first_times_it_is_one_in_so_many_steps_on_average(between: int) -> None:
    steps = drawn(range(0, 10_000, between), first=8, every=50)
    at_first = 8 if between < 50 else 0
    assert abs(len(steps) - at_first - 10_000 / max(50, between)) <= 1
    for low in range(0, 9_000, 500):
        assert len([step for step in steps if low <= step < low + 500]) <= 8 + 500 / 50 + 1


def test_looks_that_are_further_apart_than_the_pace_are_all_drawn() -> None:
    steps = range(0, 5000, 51)
    assert drawn(steps, first=1, every=50) == list(steps)


def test_a_pause_saves_up_no_more_than_the_first_times() -> None:
    steps = drawn([*range(10), *range(100_000, 100_100)], first=4, every=1000)
    assert steps == [0, 1, 2, 3, 100_000, 100_001, 100_002, 100_003]


def test_several_looks_at_one_step_are_no_more_time() -> None:
    assert drawn([5] * 10, first=2, every=1) == [5, 5]


def test_the_pace_is_a_function_of_the_steps_alone() -> None:
    steps = [3 * step + step % 7 for step in range(500)]
    assert drawn(steps, first=5, every=20) == drawn(steps, first=5, every=20)


# Which layers.


def layers(number: int, prefix: str = "l", **badness: float) -> dict[str, float]:
    names = [f"{prefix}{index}" for index in range(number)]
    return {name: badness.get(name, 0.0) for name in names}


def test_as_many_layers_as_may_be_are_all_drawn() -> None:
    for number in (0, 1, 5):
        assert Budget(5).choose(layers(number), ()) == [f"l{index}" for index in range(number)]


def test_of_more_layers_the_worst_half_is_drawn_and_others_over_the_depth_in_their_order() -> None:
    chosen = Budget(6).choose(layers(30, l7=0.2, l8=0.9, l20=0.5, l21=0.4, l3=0.1), ())
    assert len(chosen) == 6
    assert {"l8", "l20", "l21"} <= set(chosen)
    assert chosen == sorted(chosen, key=lambda name: int(name[1:]))
    others = [int(name[1:]) for name in chosen if name not in ("l8", "l20", "l21")]
    assert min(others[1] - others[0], others[2] - others[1]) >= 9


def test_where_nothing_is_bad_the_layers_are_spread_over_the_depth() -> None:
    assert Budget(4).choose(layers(40), ()) == ["l0", "l10", "l20", "l30"]


def test_one_layer_may_be_all_that_is_drawn() -> None:
    assert Budget(1).choose(layers(9, l4=0.5), ()) == ["l4"]
    assert Budget(1).choose(layers(9), ()) == ["l0"]


def test_the_worst_are_drawn() -> None:
    some = {"a": 0.0, "b": 0.0, "c": 0.7, "d": 0.1, "e": 0.0}
    assert "c" in Budget(1).choose(some, ())
    assert set(Budget(3).choose(some, ())) >= {"c", "d"}


def test_the_choice_stays_whatever_becomes_worse() -> None:
    budget = Budget(4)
    first = budget.choose(layers(20, l1=0.5, l2=0.4), ())
    assert budget.choose(layers(20, l11=0.9, l12=0.9, l13=0.9, l14=0.9), ()) == first


def test_a_layer_that_falls_ill_is_drawn_in_place_of_a_healthy_one() -> None:
    budget = Budget(4)
    first = budget.choose(layers(20, l1=0.5, l2=0.4), ())
    assert "l13" not in first
    second = budget.choose(layers(20), {"l13"})
    assert "l13" in second
    assert len(second) == 4
    assert len(set(first) - set(second)) == 1
    assert budget.choose(layers(20), ()) == second  # and stays when it is well again


def test_a_layer_that_is_ill_does_not_give_way_to_another() -> None:
    budget = Budget(2)
    assert set(budget.choose(layers(20), {"l5", "l6"})) == {"l5", "l6"}
    assert set(budget.choose(layers(20), {"l5", "l6", "l7"})) == {"l5", "l6"}
    assert set(budget.choose(layers(20), {"l6", "l7"})) == {"l6", "l7"}


def test_an_illness_of_a_layer_that_was_not_called_changes_nothing() -> None:
    budget = Budget(2)
    first = budget.choose(layers(20), ())
    assert budget.choose(layers(20), {"elsewhere"}) == first


def test_layers_that_are_called_in_turns_do_not_take_each_others_places() -> None:
    budget = Budget(2)
    one, other = layers(6), layers(6, "m")
    first = [budget.choose(one, ()), budget.choose(other, ())]
    worse = [layers(6, l1=0.9, l2=0.8), {f"m{index}": index / 10 for index in range(6)}]
    assert [budget.choose(each, ()) for each in worse] == first
