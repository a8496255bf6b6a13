"""Networks with one realistic mistake each: the right finding at the right place and step, and silence on the twin."""

import pytest

from lightning_diagnostics import Finding, GradientNormMonitor, Severity
from tests.diagnostics.gradients import sick
from tests.diagnostics.gradients.networks_data import train
from tests.helpers import accusations

SEEDS = (0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow))

every_case = pytest.mark.parametrize("case", sick.CASES, ids=str)
every_seed = pytest.mark.parametrize("seed", SEEDS)


def found(case: sick.Case, seed: int, *, ill: bool) -> tuple[list[Finding], float]:
    """Findings, and notes that are the case's own; and the score."""
    monitor = GradientNormMonitor(strict=True)
    score = train(case.program(sick=ill), seed, monitor)
    return [f for f in monitor.findings if f.severity > Severity.INFO or f.code == case.code], score


@every_seed
@every_case
def test_a_mistake_is_found_where_and_when_it_was_made_and_nothing_else_is(case: sick.Case, seed: int) -> None:
    findings, _ = found(case, seed, ill=True)
    (right,) = [finding for finding in findings if finding.code == case.code]
    assert (right.where, right.severity, right.status) == (case.where, case.severity, "open")
    assert case.first[0] <= right.first_step <= case.first[1]
    assert {finding.code for finding in findings} <= {case.code, *case.others}


@every_seed
@every_case
def test_the_repaired_twin_learns_and_is_left_in_peace(case: sick.Case, seed: int) -> None:
    findings, score = found(case, seed, ill=False)
    assert findings == []
    assert score >= case.bar


def test_an_explosion_is_dated_before_the_numbers_that_are_not_finite() -> None:
    case = next(case for case in sick.CASES if case.make is sick.Recurrent)
    first = {finding.code: finding.first_step for finding in found(case, 0, ill=True)[0]}
    assert first["GRD105"] < first["GRD101"]


def test_an_explosion_within_the_first_steps_takes_one_that_the_next_loss_tells_of() -> None:
    case = next(case for case in sick.CASES if case.make is sick.ReluRecurrentSteep)
    (right,) = [finding for finding in found(case, 1, ill=True)[0] if finding.code == case.code]
    assert right.first_step < 20
    assert str(right.evidence["steps"]).startswith(str(right.first_step))
    assert "after which the loss went to" in right.message


@pytest.mark.slow
@every_case
def test_a_mistake_is_found_when_every_step_is_looked_at(case: sick.Case) -> None:
    monitor = GradientNormMonitor(strict=True, every_n_train_steps=1)
    train(case.program(sick=True), 0, monitor)
    assert (case.code, case.where) in {(finding.code, finding.where) for finding in monitor.findings}
    twin = GradientNormMonitor(strict=True, every_n_train_steps=1)
    train(case.program(sick=False), 0, twin)
    assert accusations(twin) == []
