"""What is done about a finding when the user asked for it: real runs in one process."""

import pickle
from typing import Any

import pytest

from lightning_diagnostics import GraphLeakDetector, Severity
from lightning_diagnostics.callback import At, OnFinding
from lightning_diagnostics.findings import FindingError
from tests.callback.scripted import Other, Scripted, blind, close, diagnose, still
from tests.helpers import fit, heard, trainer
from tests.patients import BATCHES, RunningLoss, Student

ALL = 2 * BATCHES
FOUND = 3
"""The step at which something is found."""

at_and_severity = pytest.mark.parametrize(
    ("at", "severity", "acts"),
    [
        ("warning", Severity.INFO, False),
        ("warning", Severity.WARNING, True),
        ("warning", Severity.ERROR, True),
        ("error", Severity.INFO, False),
        ("error", Severity.WARNING, False),
        ("error", Severity.ERROR, True),
    ],
)


def _script(severity: Severity) -> dict[int, list[Any]]:
    return {FOUND: [diagnose(severity)]}


@at_and_severity
def test_stop_ends_the_run_after_the_batch_from_the_severity_asked_for_on(
    at: At, severity: Severity, acts: bool
) -> None:
    scripted = Scripted(_script(severity), on_finding="stop", at=at)
    with heard() as records:
        run = fit(trainer(scripted), Student())
    assert run.global_step == (FOUND + 1 if acts else ALL)
    assert len(scripted.findings) == 1
    assert records[-1].getMessage().startswith(f"Run finished at step {FOUND if acts else ALL - 1}: ")


@at_and_severity
def test_raise_ends_the_run_at_once_with_the_finding(at: At, severity: Severity, acts: bool) -> None:
    scripted = Scripted(_script(severity), on_finding="raise", at=at)
    run = trainer(scripted)
    if not acts:
        assert fit(run, Student()).global_step == ALL
        return
    with heard() as records, pytest.raises(FindingError) as caught:
        fit(run, Student())
    assert run.global_step == FOUND
    assert [caught.value.finding] == scripted.findings
    assert str(caught.value) == caught.value.finding.line()
    assert pickle.loads(pickle.dumps(caught.value)).finding == caught.value.finding
    assert records[-1].getMessage().startswith(f"Run ended by FindingError at step {FOUND}: 1 finding:")
    assert [record for record in records if record.exc_info] == [], "it is no fault of ours"


@pytest.mark.parametrize("at", ["warning", "error"])
def test_report_ends_no_run(at: At) -> None:
    assert fit(trainer(Scripted(_script(Severity.ERROR), at=at)), Student()).global_step == ALL


@pytest.mark.parametrize("strict", [True, False])
def test_raise_is_no_fault_that_switches_a_diagnostic_off(strict: bool) -> None:
    with pytest.raises(FindingError):
        fit(trainer(Scripted(_script(Severity.WARNING), on_finding="raise", strict=strict)), Student())


def test_a_finding_that_gets_worse_acts_when_it_reaches_the_severity_asked_for() -> None:
    script = {2: [diagnose(Severity.WARNING)], 5: [diagnose(Severity.ERROR)]}
    assert fit(trainer(Scripted(script, on_finding="stop", at="error")), Student()).global_step == 6


def test_what_was_raised_before_a_second_fit_is_raised_in_it_again() -> None:
    scripted = Scripted({FOUND: [diagnose()]}, on_finding="raise")
    for _ in range(2):
        run = trainer(scripted)
        with pytest.raises(FindingError):
            fit(run, Student())
        assert run.global_step == FOUND


def test_a_note_never_acts() -> None:
    assert fit(trainer(Scripted({FOUND: [blind, still, close]}, on_finding="raise")), Student()).global_step == ALL


def test_only_the_diagnostic_that_was_told_to_acts_on_its_own_findings() -> None:
    class Told(Other):
        pass

    run = trainer(Scripted(_script(Severity.ERROR)), Told({}, on_finding="raise"))
    assert fit(run, Student()).global_step == ALL


@pytest.mark.parametrize(("on_finding", "steps"), [("report", ALL), ("stop", 7)])
def test_a_leak_stops_the_run_in_its_seventh_step(on_finding: OnFinding, steps: int) -> None:
    detector = GraphLeakDetector(on_finding=on_finding, strict=True)
    assert fit(trainer(detector), RunningLoss(sick=True)).global_step == steps
    assert len(detector.findings) == 1


def test_a_leak_that_would_take_the_memory_raises_at_error_and_another_does_not() -> None:
    detector = GraphLeakDetector(
        on_finding="raise", at="error", limits={"retained-graph.share_of_free": 0.0}, strict=True
    )
    run = trainer(detector)
    with pytest.raises(FindingError, match=r"MEM101 retained-graph at model\.running_loss"):
        fit(run, RunningLoss(sick=True))
    assert run.global_step == 6
    mild = GraphLeakDetector(on_finding="raise", at="error", strict=True)
    assert fit(trainer(mild), RunningLoss(sick=True)).global_step == ALL
    assert [finding.severity for finding in mild.findings] == [Severity.WARNING]


@pytest.mark.parametrize("word", ["ignore", "Stop", "", None, True])
def test_an_unknown_act_is_quoted_beside_those_that_there_are(word: Any) -> None:
    with pytest.raises(ValueError, match=r"^on_finding=") as caught:
        Scripted({}, on_finding=word)
    assert str(caught.value) == f"on_finding={word!r}: allowed are 'report', 'stop', 'raise'"


@pytest.mark.parametrize("word", ["info", "ERROR", None])
def test_an_unknown_severity_to_act_at_is_quoted_beside_those_that_there_are(word: Any) -> None:
    with pytest.raises(ValueError, match=r"^at=") as caught:
        Scripted({}, at=word)
    assert str(caught.value) == f"at={word!r}: allowed are 'warning', 'error'"


@pytest.mark.parametrize("value", [1, "yes", None])
def test_strict_is_true_or_false(value: Any) -> None:
    with pytest.raises(TypeError) as caught:
        Scripted({}, strict=value)
    assert str(caught.value) == f"strict={value!r}: allowed are True and False"
