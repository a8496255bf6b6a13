"""The journal of a run: which findings there are, and what changed when one more verdict came in."""

from collections.abc import Iterable
from dataclasses import replace
from enum import Enum

from lightning_diagnostics.findings.finding import Finding
from lightning_diagnostics.findings.rule import Diagnosis, Rule


class Change(Enum):
    """What a verdict did to the journal."""

    OPENED = "opened"
    WORSENED = "worsened"
    REOPENED = "reopened"
    UPDATED = "updated"
    CLOSED = "closed"


class Journal:
    """The findings of one run, one for each code and place.

    A finding that comes back is the same finding: it keeps its first step, and whoever shows findings learns from the
    `Change` whether there is anything to say that has not been said.
    """

    def __init__(self) -> None:
        self._findings: dict[tuple[str, str], Finding] = {}

    @property
    def findings(self) -> list[Finding]:
        """All findings, in the order they are read in."""
        return in_order(self._findings.values())

    def record(self, rule: Rule, diagnosis: Diagnosis, *, step: int) -> tuple[Finding, Change]:
        """Enter a verdict made at ``step``; the severity of an open finding only rises."""
        return self.merge(
            Finding(
                code=rule.code,
                name=rule.name,
                severity=diagnosis.severity,
                where=diagnosis.where,
                first_step=diagnosis.first_step,
                last_step=step,
                evidence=dict(diagnosis.evidence),
                message=diagnosis.message,
                remedy=diagnosis.remedy,
            )
        )

    def merge(self, new: Finding) -> tuple[Finding, Change]:
        """Enter a finding that may be known: the first step is the earliest, the words are the latest."""
        old = self._findings.get(new.key)
        if old is None:
            change, merged = Change.OPENED, new
        else:
            change = _change(old, new)
            merged = replace(
                new,
                severity=max(old.severity, new.severity),
                first_step=min(old.first_step, new.first_step),
                last_step=max(old.last_step, new.last_step),
            )
        self._findings[new.key] = merged
        return merged, change

    def seen(self, finding: Finding, *, step: int) -> None:
        """Note that an open finding still holds at ``step``."""
        known = self._findings[finding.key]
        self._findings[finding.key] = replace(known, last_step=max(known.last_step, step))

    def close(self, finding: Finding) -> tuple[Finding, Change]:
        """Take a finding back: what it says no longer holds."""
        closed = replace(self._findings[finding.key], status="closed")
        self._findings[finding.key] = closed
        return closed, Change.CLOSED

    def adopt(self, findings: Iterable[Finding]) -> None:
        """Take over the findings of a checkpoint, as if they had been made here."""
        for finding in findings:
            self.merge(finding)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Findings as they are read: open before closed, worst first, oldest first."""
    return sorted(findings, key=lambda f: (f.status == "closed", -f.severity, f.first_step, f.code, f.where or ""))


def _change(old: Finding, new: Finding) -> Change:
    """What entering ``new`` does to the finding of the same key."""
    if new.status == "closed":
        return Change.CLOSED if old.status == "open" else Change.UPDATED
    if new.severity > old.severity:
        return Change.WORSENED
    if old.status == "closed":
        return Change.REOPENED
    return Change.UPDATED
