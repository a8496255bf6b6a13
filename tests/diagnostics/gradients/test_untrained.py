"""Parameters that wait for a gradient, and those that get one in vain."""

import json
from typing import Any

import pytest

from lightning_diagnostics.diagnostics.gradients.measure import Untrained
from lightning_diagnostics.diagnostics.gradients.parameters import Parameter
from lightning_diagnostics.diagnostics.gradients.untrained import Missing, Unoptimized


def parameter(name: str, elements: int = 10, *, trains: bool = True, matrix: bool = True) -> Parameter:
    return Parameter(name, name.rpartition(".")[0], elements, matrix=matrix, table=False, trains=trains, half_ulp=None)


NAMES = ("a.0.weight", "a.0.bias", "a.1.weight", "b.weight")
KNOWN = {name: parameter(name, 10 ** (1 + index)) for index, name in enumerate(NAMES)}
ALL = dict.fromkeys(NAMES, "SGD")


# Missing.


def waiting(missing: Missing, *, batches: int = 20, steps: int = 20, known: Any = KNOWN) -> list[Untrained]:
    return missing.measured(known, batches=batches, steps={"SGD": steps, "Adam": 7})


def test_what_was_expected_and_never_received_waits_by_its_outermost_module() -> None:
    missing = Missing()
    missing.expect(ALL, step=3, batches=4, steps={"SGD": 2})
    missing.receive(["b.weight"])
    assert waiting(missing) == [Untrained("a", ("a.0.weight", "a.0.bias", "a.1.weight"), 1110, "SGD", 16, 18, 3)]
    missing.receive(["a.1.weight"])
    assert waiting(missing) == [Untrained("a.0", ("a.0.weight", "a.0.bias"), 110, "SGD", 16, 18, 3)]
    missing.receive(["a.0.weight"])
    assert waiting(missing) == [Untrained("a.0.bias", ("a.0.bias",), 100, "SGD", 16, 18, 3)]
    missing.receive(["a.0.bias"])
    assert waiting(missing) == []


def test_what_was_received_before_it_was_expected_does_not_wait() -> None:
    missing = Missing()
    missing.receive(NAMES)
    missing.expect(ALL, step=0, batches=0, steps={})
    assert waiting(missing) == []


def test_expecting_again_does_not_begin_anew() -> None:
    missing = Missing()
    missing.expect(ALL, step=1, batches=2, steps={"SGD": 1})
    missing.receive(["a.0.weight", "a.0.bias", "b.weight"])
    missing.expect(ALL, step=10, batches=12, steps={"SGD": 10})
    assert waiting(missing) == [Untrained("a.1", ("a.1.weight",), 1000, "SGD", 18, 19, 1)]


def test_a_parameter_that_is_unfrozen_later_has_time_from_then_on() -> None:
    missing = Missing()
    missing.expect({"b.weight": "SGD"}, step=0, batches=0, steps={})
    missing.receive(["b.weight"])
    missing.expect({"b.weight": "SGD", "a.1.weight": "SGD"}, step=50, batches=15, steps={"SGD": 15})
    assert waiting(missing) == [Untrained("a", ("a.1.weight",), 1000, "SGD", 5, 5, 50)]


def test_what_is_frozen_or_taken_from_the_optimizer_waits_no_more_and_then_begins_anew() -> None:
    missing = Missing()
    missing.expect(ALL, step=0, batches=0, steps={})
    missing.receive(["a.0.weight", "a.0.bias", "a.1.weight"])
    missing.expect(dict.fromkeys(NAMES[:3], "SGD"), step=9, batches=9, steps={"SGD": 9})
    assert waiting(missing) == []
    missing.expect(ALL, step=12, batches=12, steps={"SGD": 12})
    assert waiting(missing) == [Untrained("b", ("b.weight",), 10000, "SGD", 8, 8, 12)]


def test_those_of_one_module_wait_as_long_as_the_last_of_them() -> None:
    missing = Missing()
    missing.expect({"a.0.weight": "SGD", "b.weight": "SGD"}, step=2, batches=2, steps={})
    missing.expect({"a.0.weight": "SGD", "a.0.bias": "Adam", "b.weight": "SGD"}, step=6, batches=6, steps={"Adam": 3})
    missing.receive(["b.weight"])
    assert waiting(missing) == [Untrained("a", ("a.0.weight", "a.0.bias"), 110, "SGD, Adam", 14, 4, 6)]


def test_an_optimizer_that_rests_proves_nothing() -> None:
    missing = Missing()
    missing.expect(ALL, step=0, batches=0, steps={})
    assert [each.steps for each in missing.measured(KNOWN, batches=20, steps={})] == [0]


def test_a_model_that_waits_as_a_whole_is_called_the_model() -> None:
    missing = Missing()
    missing.expect(ALL, step=0, batches=0, steps={})
    assert [each.where for each in waiting(missing)] == ["self"]


def test_parameters_that_the_model_no_longer_has_are_left_out() -> None:
    missing = Missing()
    missing.expect(ALL, step=0, batches=0, steps={})
    missing.receive(["a.0.weight"])
    known = {name: KNOWN[name] for name in NAMES[:2]}
    assert waiting(missing, known=known) == [Untrained("a.0.bias", ("a.0.bias",), 100, "SGD", 20, 20, 0)]


def test_after_a_resume_it_waits_on() -> None:
    missing, resumed = Missing(), Missing()
    missing.expect(ALL, step=3, batches=4, steps={"SGD": 2})
    missing.receive(["b.weight"])
    resumed.load(json.loads(json.dumps(missing.state())))
    for each in (missing, resumed):
        each.expect(ALL, step=30, batches=16, steps={"SGD": 9})
        each.receive(["a.1.weight"])
    assert waiting(resumed) == waiting(missing) != []
    assert resumed.state() == missing.state()


WITH_BIASES = {**KNOWN, "a.0.bias": parameter("a.0.bias", 100, matrix=False)}


def of_biases(*received: str, known: Any = WITH_BIASES) -> list[str]:
    """The parameters that are said to wait where these have received a gradient."""
    missing = Missing()
    missing.expect(ALL, step=0, batches=0, steps={})
    missing.receive(received)
    return [name for each in waiting(missing, known=known) for name in each.parameters]


def test_the_bias_of_a_layer_that_learns_may_have_no_gradient() -> None:
    assert of_biases("a.0.weight", "a.1.weight", "b.weight") == []
    assert of_biases("a.1.weight", "b.weight") == ["a.0.weight", "a.0.bias"]  # another layer's does not count
    assert of_biases("a.0.weight", "b.weight") == ["a.1.weight"]


def test_a_matrix_of_a_layer_that_learns_has_a_gradient() -> None:
    assert of_biases("a.0.weight", "a.1.weight", "b.weight", known=KNOWN) == ["a.0.bias"]
    assert of_biases("a.0.bias", "a.1.weight", "b.weight") == ["a.0.weight"]


def test_a_parameter_that_is_neither_a_matrix_nor_a_bias_has_a_gradient() -> None:
    known = {**KNOWN, "a.0.scale": parameter("a.0.scale", 100, matrix=False)}
    missing = Missing()
    missing.expect(dict.fromkeys(known, "SGD"), step=0, batches=0, steps={})
    missing.receive(NAMES)
    assert [each.parameters for each in waiting(missing, known=known)] == [("a.0.scale",)]


@pytest.mark.parametrize(("now", "moved"), [(4.0, False), (4.000003, False), (4.000005, True), (3.999995, True)])
def test_a_norm_that_rounding_changes_does_not_move(now: float, moved: bool) -> None:
    missing = Missing()
    missing.expect(ALL, step=0, batches=0, steps={})
    missing.see({"b.weight": 4.0})
    missing.see({"b.weight": now})
    assert ("b.weight" not in missing.waiting) is moved


def test_what_moves_without_a_gradient_is_an_average_of_other_weights() -> None:
    missing = Missing()
    missing.expect(ALL, step=3, batches=4, steps={"SGD": 2})
    missing.receive(["b.weight"])
    assert missing.waiting == {"a.0.weight", "a.0.bias", "a.1.weight"}
    missing.see({"a.0.weight": 1.0, "a.0.bias": 2.0, "a.1.weight": 3.0})
    assert missing.waiting == {"a.0.weight", "a.0.bias", "a.1.weight"}
    missing.see({"a.0.weight": 1.0, "a.0.bias": 2.0, "a.1.weight": 3.00001})
    assert missing.waiting == {"a.0.weight", "a.0.bias"}
    assert waiting(missing) == [Untrained("a.0", ("a.0.weight", "a.0.bias"), 110, "SGD", 16, 18, 3)]
    missing.see({"a.1.weight": 3.0, "a.0.bias": float("nan")})  # back again, and broken
    assert missing.waiting == {"a.0.weight"}


def test_what_moves_from_its_first_value_is_seen_however_slowly() -> None:
    missing = Missing()
    missing.expect(ALL, step=0, batches=0, steps={})
    missing.see({"b.weight": 1.0})
    missing.see({})  # another look, at which it was not read
    missing.see({"b.weight": 1.5})
    assert "b.weight" not in missing.waiting


@pytest.mark.parametrize("cut", [1, 2])
def test_after_a_resume_movement_without_a_gradient_is_still_seen(cut: int) -> None:
    missing, resumed = Missing(), Missing()
    seen = [{"a.0.weight": 1.0, "a.1.weight": 3.0}, {"a.0.weight": 1.5, "a.1.weight": 3.0}]
    missing.expect(ALL, step=0, batches=0, steps={})
    missing.receive(["b.weight"])
    for values in seen[:cut]:
        missing.see(values)
    resumed.load(json.loads(json.dumps(missing.state())))
    for values in [*seen[cut:], {"a.0.weight": 1.0, "a.1.weight": 3.0}]:
        missing.see(values)
        resumed.see(values)
    assert resumed.waiting == missing.waiting == {"a.0.bias", "a.1.weight"}
    assert resumed.state() == missing.state()


# Unoptimized.


def see(unoptimized: Unoptimized, step: int, *, optimized: tuple[str, ...] = ("b.weight",), **values: float) -> None:
    named = {name.replace("_", "."): value for name, value in values.items()}
    unoptimized.see(named, step=step, batches=step, optimized=optimized)


def vain(unoptimized: Unoptimized, *, batches: int = 20, known: Any = KNOWN) -> list[Untrained]:
    return unoptimized.measured(known, batches=batches)


def test_what_has_a_gradient_in_vain_is_told_by_its_outermost_module() -> None:
    unoptimized = Unoptimized()
    see(unoptimized, 3, a_0_weight=1.0, a_0_bias=2.0, a_1_weight=3.0)
    assert vain(unoptimized) == [Untrained("a", NAMES[:3], 1110, None, 17, 0, 3)]


def test_nothing_is_seen_before_anything_is() -> None:
    assert vain(Unoptimized()) == []


@pytest.mark.parametrize("moved", [2.5, float("nan")])
def test_values_that_move_are_moved_by_somebody(moved: float) -> None:
    unoptimized = Unoptimized()
    see(unoptimized, 3, a_0_weight=1.0, a_0_bias=2.0)
    see(unoptimized, 4, a_0_weight=1.0, a_0_bias=moved)
    assert vain(unoptimized) == [Untrained("a.0.weight", ("a.0.weight",), 10, None, 17, 0, 3)]
    see(unoptimized, 5, a_0_weight=1.0, a_0_bias=2.0)  # back again
    assert [each.where for each in vain(unoptimized)] == ["a.0.weight"]


def test_what_an_optimizer_has_by_now_is_not_in_vain() -> None:
    unoptimized = Unoptimized()
    see(unoptimized, 3, a_0_weight=1.0, a_0_bias=2.0)
    see(unoptimized, 9, optimized=("b.weight", "a.0.weight"), a_0_bias=2.0)
    assert vain(unoptimized) == [Untrained("a.0.bias", ("a.0.bias",), 100, None, 17, 0, 3)]


def test_what_is_seen_later_rests_on_less() -> None:
    unoptimized = Unoptimized()
    see(unoptimized, 3, a_0_weight=1.0)
    see(unoptimized, 12, a_0_weight=1.0, a_0_bias=2.0)
    assert vain(unoptimized) == [Untrained("a.0", ("a.0.weight", "a.0.bias"), 110, None, 8, 0, 12)]


def test_what_is_frozen_by_now_is_not_accused() -> None:
    unoptimized = Unoptimized()
    see(unoptimized, 3, a_0_weight=1.0, a_0_bias=2.0, a_1_weight=3.0)
    known = {**KNOWN, "a.0.bias": parameter("a.0.bias", trains=False)}
    assert [(each.where, each.parameters) for each in vain(unoptimized, known=known)] == [
        ("a", ("a.0.weight", "a.1.weight"))
    ]


def test_after_a_resume_movement_is_still_seen() -> None:
    unoptimized, resumed = Unoptimized(), Unoptimized()
    see(unoptimized, 3, a_0_weight=1.0, a_0_bias=2.0, a_1_weight=3.0)
    see(unoptimized, 4, a_0_weight=1.5, a_0_bias=2.0, a_1_weight=3.0)
    resumed.load(json.loads(json.dumps(unoptimized.state())))
    for each in (unoptimized, resumed):
        see(each, 5, a_0_weight=1.5, a_0_bias=2.5, a_1_weight=3.0)
    assert vain(resumed) == vain(unoptimized) == [Untrained("a.1", ("a.1.weight",), 1000, None, 17, 0, 3)]
    assert resumed.state() == unoptimized.state()
