"""The summary at the end of a run, with and without rich."""

import sys
from typing import Any

import pytest

from lightning_diagnostics import Finding, Severity
from lightning_diagnostics.callback import terminal


def _finding(severity: Severity, **more: Any) -> Finding:
    words: dict[str, Any] = {"where": None, "first_step": 3, "last_step": 9, "message": "Sick.", "remedy": "mend it."}
    return Finding(**{"code": "TST101", "name": "some-illness", "severity": severity, **words, **more})


@pytest.fixture(params=[True, False], ids=["rich", "no rich"])
def with_rich(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setitem(sys.modules, "rich", None)  # as where it is not installed
    return request.param


def test_the_summary_is_a_table_of_all_findings_and_counts_what_it_accuses(with_rich: bool) -> None:
    odd = "model.outs['[red]|x']"
    findings = [_finding(Severity.ERROR, where=odd), _finding(Severity.INFO, status="closed")]
    head, *lines = terminal.summary(findings, steps=12, undecided=[], ending="finished").splitlines()
    assert head == "Run finished at step 12: 1 finding, 1 note:"
    rows = [[cell.strip() for cell in line.strip(" ┃│").replace("┃", "│").split("│")] for line in lines]
    if not with_rich:
        rows = [[cell.strip() for cell in line.split(" | ")] for line in lines]
    assert ["severity", "finding", "where", "steps", "status"] in rows
    assert ["ERROR", "TST101 some-illness", odd, "3-9", "open"] in rows
    assert ["note", "TST101 some-illness", "the run", "3-9", "closed"] in rows
    assert lines[-2:] == [f"Fix for {odd}: mend it.", "Note TST101: Sick."]
    assert ("┃" in lines[1]) == with_rich


@pytest.mark.parametrize(("count", "words"), [(0, "no findings."), (1, "1 finding:"), (2, "2 findings:")])
def test_findings_are_counted_in_words(count: int, words: str) -> None:
    findings = [_finding(Severity.WARNING)] * count
    assert terminal.summary(findings, steps=7, undecided=[], ending="finished").splitlines()[0].endswith(f"7: {words}")


def test_notes_alone_are_no_findings() -> None:
    text = terminal.summary([_finding(Severity.INFO)], steps=7, undecided=["a"], ending="finished")
    assert text.splitlines()[0] == "Run finished at step 7: no findings, 1 note:"
    assert text.splitlines()[-1] == "Too early to say: a."
