"""The gate: whether the open findings of a run let it pass."""

from dataclasses import dataclass

from lightning_diagnostics.findings.baseline import Baseline, is_known
from lightning_diagnostics.findings.finding import Finding, Severity
from lightning_diagnostics.findings.records import RUNNING, RunRecord

_NAMED = 5  # how many findings the sentence names


@dataclass(frozen=True)
class Gate:
    """What was decided about a run.

    Attributes:
        at: The mildest severity that fails; None if nothing does.
        failing: The open findings that fail it.
        known: Those that would, and are known to the baseline.
        goes_on: Whether the run has not ended, so that there may be more findings.
    """

    at: Severity | None
    failing: tuple[Finding, ...]
    known: tuple[Finding, ...]
    goes_on: bool

    @property
    def passed(self) -> bool:
        """Whether nothing fails."""
        return not self.failing

    def words(self) -> str:
        """The decision in a sentence or two."""
        if self.at is None:
            return "Gate: off, nothing fails."
        what = f"Gate ({self.at.level}{'' if self.at is max(Severity) else ' or worse'}): "
        if self.failing:
            what += f"failed by {_places(self.failing)}."
        else:
            what += "passed so far; the run goes on." if self.goes_on else "passed."
        if self.known:
            what += f" Known to the baseline: {len(self.known)}."
        return what


def gate(record: RunRecord, *, at: Severity | None, baseline: Baseline | None = None) -> Gate:
    """Decide about a run.

    Args:
        record: What was read from its folder.
        at: The mildest severity that fails; None lets every run pass.
        baseline: What is known, and so does not fail unless it is more severe here.
    """
    known = baseline or {}
    counted = [f for f in record.findings if at is not None and f.status == "open" and f.severity >= at]
    return Gate(
        at=at,
        failing=tuple(finding for finding in counted if not is_known(finding, known)),
        known=tuple(finding for finding in counted if is_known(finding, known)),
        goes_on=record.status == RUNNING,
    )


def _places(findings: tuple[Finding, ...]) -> str:
    """How many findings there are and the first of them, each with its place."""
    named = [f"{f.code} {f.name}{f' at {f.where}' if f.where else ''}" for f in findings[:_NAMED]]
    more = [f"{len(findings) - _NAMED} more"] if len(findings) > _NAMED else []
    return f"{len(findings)} open finding{'s' * (len(findings) > 1)}: {', '.join([*named, *more])}"
