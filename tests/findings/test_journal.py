"""The journal: what each verdict changes, and in which order findings are read."""

import itertools
from dataclasses import replace
from typing import Any

import pytest

from lightning_diagnostics.findings import Change, Diagnosis, Finding, Journal, Rule, Severity, Verdict, rule

INFO, WARNING, ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR


@rule(code="TST101", name="some-illness", severities=(INFO, WARNING, ERROR))
def some_illness(measured: object, limits: object) -> Verdict:
    """Something is wrong.

    ## What it means
    It is wrong.

    ## Why it matters
    It hurts.

    ## What to do
    Mend it.

    ## When it is wrong
    Never.
    """


def _diagnosis(severity: Severity = WARNING, **more: Any) -> Diagnosis:
    words = {"where": "model.a", "first_step": 3, "message": "Sick.", "remedy": "mend it.", "evidence": {"n": 1}}
    return Diagnosis(severity, **{**words, **more})


def _record(journal: Journal, diagnosis: Diagnosis, *, step: int = 10, by: Rule = some_illness) -> Change:
    return journal.record(by, diagnosis, step=step)[1]


def _found(where: str | None, **more: Any) -> Finding:
    words: dict[str, Any] = {"name": "n", "last_step": 9, "message": "m", "remedy": "r", "first_step": 0}
    return Finding(**{"code": "TST101", "severity": WARNING, "where": where, **words, **more})


def test_the_first_verdict_opens_a_finding_with_all_that_was_said() -> None:
    journal = Journal()
    finding, change = journal.record(some_illness, _diagnosis(), step=10)
    assert change is Change.OPENED
    assert journal.findings == [finding]
    assert finding == Finding(
        *("TST101", "some-illness", WARNING, "model.a", 3, 10, "Sick.", "mend it.", "open"), evidence={"n": 1}
    )


def test_the_same_verdict_again_is_no_second_finding_and_brings_the_newest_words() -> None:
    journal = Journal()
    _record(journal, _diagnosis())
    assert _record(journal, _diagnosis(message="Sicker.", evidence={"n": 2}), step=20) is Change.UPDATED
    (finding,) = journal.findings
    assert (finding.message, finding.evidence, finding.last_step) == ("Sicker.", {"n": 2}, 20)


@pytest.mark.parametrize(("later", "first"), [(2, 2), (3, 3), (4, 3)])
def test_the_first_step_is_the_earliest_of_all_verdicts(later: int, first: int) -> None:
    journal = Journal()
    _record(journal, _diagnosis(first_step=3))
    _record(journal, _diagnosis(first_step=later))
    assert journal.findings[0].first_step == first


def test_a_verdict_that_comes_late_does_not_move_the_last_step_back() -> None:
    journal = Journal()
    _record(journal, _diagnosis(), step=10)
    _record(journal, _diagnosis(), step=7)
    assert journal.findings[0].last_step == 10


@pytest.mark.parametrize(("old", "new"), [*itertools.product(Severity, Severity)])
def test_while_it_is_open_a_finding_only_gets_worse_and_says_so(old: Severity, new: Severity) -> None:
    journal = Journal()
    _record(journal, _diagnosis(old))
    change = _record(journal, _diagnosis(new))
    assert change is (Change.WORSENED if new > old else Change.UPDATED)
    assert journal.findings[0].severity is max(old, new)


def test_another_place_or_another_rule_is_another_finding() -> None:
    journal = Journal()
    other = replace(some_illness, code="TST102")
    places = ["model.a", "model.b", None]
    changes = [_record(journal, _diagnosis(where=where), by=by) for where in places for by in (some_illness, other)]
    assert changes == [Change.OPENED] * 6
    assert len(journal.findings) == 6


def test_a_finding_that_is_closed_keeps_what_it_said_and_when_it_was_last_seen() -> None:
    journal = Journal()
    opened, _ = journal.record(some_illness, _diagnosis(), step=10)
    closed, change = journal.close(opened)
    assert change is Change.CLOSED
    assert closed == replace(opened, status="closed")
    assert journal.findings == [closed]


def test_a_finding_that_comes_back_is_reopened_under_its_first_step() -> None:
    journal = Journal()
    opened, _ = journal.record(some_illness, _diagnosis(first_step=3), step=10)
    journal.close(opened)
    assert _record(journal, _diagnosis(first_step=90), step=99) is Change.REOPENED
    (finding,) = journal.findings
    assert (finding.status, finding.first_step, finding.last_step) == ("open", 3, 99)
    assert _record(journal, _diagnosis(first_step=90), step=100) is Change.UPDATED


def test_a_finding_that_comes_back_worse_is_news() -> None:
    journal = Journal()
    journal.close(journal.record(some_illness, _diagnosis(WARNING), step=10)[0])
    assert _record(journal, _diagnosis(ERROR), step=99) is Change.WORSENED
    assert (journal.findings[0].status, journal.findings[0].severity) == ("open", ERROR)


def test_that_a_finding_still_holds_moves_its_last_step_on_and_nothing_else() -> None:
    journal = Journal()
    opened, _ = journal.record(some_illness, _diagnosis(), step=10)
    journal.seen(opened, step=25)
    assert journal.findings == [replace(opened, last_step=25)]
    journal.seen(opened, step=12)
    assert journal.findings == [replace(opened, last_step=25)]


def test_a_closed_finding_of_another_journal_closes_the_open_one_once() -> None:
    journal = Journal()
    opened, _ = journal.record(some_illness, _diagnosis(), step=10)
    closed = replace(opened, status="closed")
    assert journal.merge(closed) == (closed, Change.CLOSED)
    assert journal.merge(closed) == (closed, Change.UPDATED)


def test_findings_are_read_open_before_closed_then_worst_then_oldest_then_by_code_and_place() -> None:
    expected = [
        _found("z", severity=ERROR, first_step=9),
        _found("y", first_step=1, code="TST199"),
        _found(None, first_step=2),
        _found("a", first_step=2),
        _found("b", first_step=2),
        _found("a", first_step=2, code="TST102"),
        _found("a", severity=INFO, first_step=0, code="TST901"),
        _found("x", severity=ERROR, status="closed"),
        _found("w", severity=INFO, status="closed"),
    ]
    for order in (expected, expected[::-1], expected[1::2] + expected[::2]):
        journal = Journal()
        for finding in order:
            journal.merge(finding)
        assert journal.findings == expected


def test_what_a_checkpoint_carries_is_adopted_as_it_is() -> None:
    journal = Journal()
    carried = [_found("a"), _found("b", status="closed")]
    journal.adopt(iter(carried))
    assert journal.findings == carried


def test_what_is_found_again_after_a_resume_is_no_news() -> None:
    journal = Journal()
    journal.adopt([_found("model.a", first_step=1)])
    assert _record(journal, _diagnosis(first_step=8), step=20) is Change.UPDATED
    assert journal.findings[0].first_step == 1


def test_what_a_checkpoint_carries_joins_what_was_found_since() -> None:
    journal = Journal()
    _record(journal, _diagnosis(WARNING, first_step=8), step=20)
    journal.adopt([_found("model.a", first_step=1, severity=ERROR, last_step=5)])
    (finding,) = journal.findings
    assert (finding.first_step, finding.last_step, finding.severity) == (1, 20, ERROR)


def test_the_list_of_findings_is_a_copy() -> None:
    journal = Journal()
    _record(journal, _diagnosis())
    journal.findings.clear()
    assert len(journal.findings) == 1
