"""Schedules with one realistic mistake each: the right finding at the right place, in time; and silence on the twin."""

import dataclasses
from typing import Any

import pytest
from lightning.pytorch import Callback
from typing_extensions import override

from lightning_diagnostics import Finding, Severity, WarmupCooldownScheduler
from tests.diagnostics.learning_rate import sick
from tests.diagnostics.learning_rate.networks_data import train

pytestmark = pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using 'interval'")  # Lightning's own word

every_case = pytest.mark.parametrize("case", sick.CASES, ids=str)


class Seen(Callback):
    """Tells when a finding was there first, and at which step the run failed."""

    def __init__(self, code: str) -> None:
        self.code, self.ours, self.batches = code, list[WarmupCooldownScheduler](), 0
        self.since: int | None = None
        self.failed: int | None = None

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.batches, self.since = 0, None

    @override
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.since is None and any(finding.code == self.code for finding in self.ours[-1].findings):
            self.since = self.batches
        self.batches += 1

    @override
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.failed = trainer.global_step

    def make(self, case: sick.Case, *, ill: bool) -> WarmupCooldownScheduler:
        self.ours.append(case.schedule(sick=ill))
        return self.ours[-1]


def run(case: sick.Case, *, ill: bool) -> Seen:
    """Train the program or its twin."""
    seen, program = Seen(case.code), case.program(sick=ill)
    program = dataclasses.replace(program, callbacks=lambda: [*case.callbacks(sick=ill), seen])
    if case.raises is not None and ill:
        with pytest.raises(ValueError, match="Tried to step"):
            train(program, case.size, lambda: seen.make(case, ill=ill))
    else:
        train(program, case.size, lambda: seen.make(case, ill=ill))
    return seen


def about(case: sick.Case, callback: WarmupCooldownScheduler) -> list[Finding]:
    """Findings, and notes that are the case's own."""
    return [f for f in callback.findings if f.severity > Severity.INFO or f.code == case.code]


@every_case
def test_a_mistake_is_found_where_it_is_and_in_time_and_nothing_else_is(case: sick.Case) -> None:
    seen = run(case, ill=True)
    *before, ours = seen.ours
    assert [finding for each in before for finding in about(case, each)] == []
    (right,) = [finding for finding in ours.findings if finding.code == case.code]
    assert (right.where, right.severity, right.status) == (case.where, case.severity, "open")
    assert right.first_step == case.since
    assert seen.since == case.made
    assert {finding.code for finding in about(case, ours)} <= {case.code, *case.others}


@every_case
def test_the_repaired_twin_is_left_in_peace(case: sick.Case) -> None:
    seen = run(case, ill=False)
    assert [finding for each in seen.ours for finding in about(case, each)] == []
    assert seen.batches > 0


@pytest.mark.parametrize("case", sick.OVERRUNS, ids=str)
def test_a_scheduler_that_overruns_ends_the_run_at_the_very_step_that_was_named(case: sick.Case) -> None:
    seen = run(case, ill=True)
    (finding,) = [finding for finding in seen.ours[-1].findings if finding.code == "LR103"]
    assert finding.evidence["raises_at"] == seen.failed == case.raises
    assert f"after optimizer step {case.raises} of {case.size.steps}: ValueError: Tried to step" in finding.message
