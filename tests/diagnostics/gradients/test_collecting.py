"""From slots to plain numbers by name, of one process and of several."""

import math

import pytest
import torch

from lightning_diagnostics.diagnostics.gradients.collecting import Collected, collect
from lightning_diagnostics.diagnostics.gradients.history import Taken
from lightning_diagnostics.diagnostics.gradients.looking import Look, ParameterLook, Picture
from lightning_diagnostics.diagnostics.gradients.parameters import Parameter
from lightning_diagnostics.diagnostics.gradients.steps import Measured, OptimizerStep
from lightning_diagnostics.probes import Deferred, Slot

KNOWN = {key: Parameter(name, name, 4, True, False, True, None) for key, name in ((1, "a"), (2, "b"))}


def put(deferred: Deferred, *values: float) -> Slot:
    return deferred.put(torch.tensor(values, dtype=torch.float64))


def measured(
    deferred: Deferred, norms: tuple[float, ...], keys: tuple[int, ...], vector: tuple[float, ...]
) -> Measured:
    slots = tuple(put(deferred, norm) for norm in norms)
    return Measured(keys, slots, ((put(deferred, *vector), keys),) if vector else (), ())


def test_a_step_comes_to_squares_by_name() -> None:
    deferred = Deferred()
    before = measured(deferred, (3.0, 4.0), (1, 2), (2.0, 1.0))  # on two devices
    after = measured(deferred, (0.5,), (1, 2), (0.4, 0.3))
    loss, micro = put(deferred, 1.5), (put(deferred, 2.0),)
    step = OptimizerStep("SGD", 7, 5, before, after, loss, (micro, 4, 8, 32), scaled=True, stepped=True)
    (found,) = collect([step], deferred.fetch(), KNOWN, shares={})
    assert found == Collected(
        Taken("SGD", 7, 5, 25.0, 0.25, {"a": 4.0, "b": 1.0}, ("a", "b"), 1.5, (4.0 * 16, 8, 32), True, True)
    )


def test_where_the_norm_before_clipping_was_not_seen_parameters_have_that_after_it() -> None:
    deferred = Deferred()
    step = OptimizerStep("SGD", 7, 5, None, measured(deferred, (5.0,), (1, 2), (4.0, 3.0)), stepped=True)
    (found,) = collect([step], deferred.fetch(), KNOWN, shares={})
    assert found.taken == Taken("SGD", 7, 5, None, 25.0, {"a": 16.0, "b": 9.0}, ("a", "b"))


def test_without_norms_of_single_parameters_their_names_are_known() -> None:
    deferred = Deferred()
    step = OptimizerStep("SGD", 7, 5, measured(deferred, (5.0,), (1, 2), ()))
    (found,) = collect([step], deferred.fetch(), KNOWN, shares={})
    assert (found.taken.each, found.taken.named) == ({}, ("a", "b"))


def test_a_parameter_that_the_model_does_not_have_goes_by_its_place() -> None:
    deferred = Deferred()
    step = OptimizerStep("SGD", 7, 5, measured(deferred, (5.0,), (9, 1), (4.0, 3.0)))
    (found,) = collect([step], deferred.fetch(), KNOWN, shares={})
    assert found.taken.each == {"SGD[0]": 16.0, "a": 9.0}


def test_what_is_not_finite_stays_so() -> None:
    deferred = Deferred()
    step = OptimizerStep("SGD", 7, 5, measured(deferred, (math.inf,), (1, 2), (math.inf, math.nan)))
    (found,) = collect([step], deferred.fetch(), KNOWN, shares={})
    assert found.taken.before == math.inf
    assert found.taken.each["a"] == math.inf
    assert math.isnan(found.taken.each["b"])


def test_a_process_counts_its_share_of_what_others_have_too() -> None:
    deferred = Deferred()
    look = Look({1: put(deferred, 3.0), 2: put(deferred, 2.0)}, rates=[0.25, 0.5])
    look.weights, look.updates = {1: put(deferred, 4.0)}, {1: put(deferred, 2.0)}
    step = OptimizerStep("SGD", 7, 5, measured(deferred, (5.0,), (1, 2), (4.0, 3.0)), look=look)
    (found,) = collect([step], deferred.fetch(), KNOWN, shares={1: 0.25})
    assert found.taken.each == {"a": 4.0, "b": 9.0}
    assert found.looks == {"a": ParameterLook(0.75, 4.0, 1.0), "b": ParameterLook(2.0)}
    assert found.rate == 0.5


def test_looks_of_all_processes_are_added_up_without_histograms() -> None:
    shown = Picture(0, 0.0, 1.0, 1.0, 1.0, (1.0,))
    taken = Taken("SGD", 7, 5, 9.0, 9.0, {"a": 9.0}, ("a",))
    one = Collected(taken, {"a": ParameterLook(1.0, 4.0, 1.0, shown, shown), "b": ParameterLook(1.0, 1.0, 1.0)}, 0.5)
    c = ParameterLook(3.0, 1.0, 1.0)
    other = Collected(taken, {"a": ParameterLook(2.0, 5.0, math.inf), "b": ParameterLook(1.0), "c": c}, 0.5)
    found = one.summed([other])
    assert found.taken.before == 18.0
    assert found.rate == 0.5
    assert found.looks is not None
    assert list(found.looks) == ["a", "b", "c"]
    assert found.looks["b"] == ParameterLook(2.0, None, None)  # of the other's part nothing is known
    assert found.looks["c"] == ParameterLook(3.0, 1.0, 1.0)
    a = found.looks["a"]
    assert (a.zeros, a.weight, a.gradients, a.weights) == (3.0, 9.0, None, None)
    assert a.update is not None
    assert a.update == math.inf


@pytest.mark.parametrize("others", [0, 1])
def test_a_step_that_was_not_looked_at_has_no_looks(others: int) -> None:
    one = Collected(Taken("SGD", 7, 5, 9.0, 9.0, {}, ()))
    assert one.summed([one] * others).looks is None
