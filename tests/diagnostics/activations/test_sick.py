"""Networks on digits with one realistic mistake each: the right finding at the right place, and silence on the twin."""

import pytest

from lightning_diagnostics import ActivationMonitor, Finding, Severity
from tests.diagnostics.activations import sick
from tests.diagnostics.activations.data import Program, digits, raw_digits, train
from tests.helpers import accusations

SEEDS = (0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow))

every_case = pytest.mark.parametrize("case", sick.CASES, ids=str)
every_seed = pytest.mark.parametrize("seed", SEEDS)


# Units and depth.


@every_seed
@every_case
def test_a_mistake_is_found_where_it_was_made_and_nothing_else_is(case: sick.Case, seed: int) -> None:
    monitor = ActivationMonitor(strict=True)
    train(case.program(sick=True), seed, monitor)
    found = accusations(monitor)
    right = [finding for finding in found if finding.code == case.code]
    assert right
    assert {finding.where for finding in right} <= set(case.where)
    assert any(finding.status == "open" for finding in right)
    assert {finding.code for finding in found} <= {case.code, *case.others}


@every_seed
@every_case
def test_the_repaired_twin_learns_and_is_left_in_peace(case: sick.Case, seed: int) -> None:
    monitor = ActivationMonitor(strict=True)
    score = train(case.program(sick=False), seed, monitor)
    assert accusations(monitor) == []
    assert score >= case.bar


# Numbers that are not finite.


def broken(make: type[sick.Patient], *, every: int = 1, ill: bool = True) -> list[Finding]:
    """What is found in three epochs."""
    monitor = ActivationMonitor(strict=True, every_n_train_steps=every)
    data = raw_digits if make in (sick.ExpOverflows, sick.LogOfZero) else digits
    train(Program(lambda: make(sick=ill), data, 3, 0.0), 0, monitor)
    return accusations(monitor)


def test_the_logarithm_of_zero_is_found() -> None:
    (finding,) = broken(sick.LogOfZero)
    assert (finding.code, finding.severity, finding.where) == ("ACT106", Severity.ERROR, "net.2")
    assert finding.evidence["operation"] == "log"
    assert finding.evidence["input_min"] == 0.0
    assert "clamp(min=eps)" in finding.remedy


def test_the_overflow_of_an_exponential_is_found() -> None:
    (finding,) = broken(sick.ExpOverflows)
    assert (finding.code, finding.where, finding.evidence["operation"]) == ("ACT106", "net.2", "exp")
    assert finding.evidence["value"] == "Inf"


@pytest.mark.parametrize("every", [1, 50])
def test_a_missing_value_in_a_batch_is_told_from_a_fault_of_the_network(every: int) -> None:
    (finding,) = broken(sick.NanInBatch, every=every)
    assert (finding.code, finding.where, finding.first_step) == ("ACT106", "net.0", 30)
    assert "batch" in finding.message
    assert "look at the data" in finding.remedy


def test_weights_that_are_broken_already_are_named_with_the_last_step_that_was_well() -> None:
    (finding,) = broken(sick.BrokenWeights, every=50)
    assert (finding.code, finding.where) == ("ACT106", "net.0")
    assert finding.evidence["weights"] == "net.0.weight"
    assert finding.evidence["last_finite_look"] < 31 < finding.first_step


@pytest.mark.parametrize("make", [sick.LogOfZero, sick.ExpOverflows, sick.NanInBatch, sick.BrokenWeights])
def test_the_twin_of_one_that_breaks_is_left_in_peace(make: type[sick.Patient]) -> None:
    assert broken(make, ill=False) == []
