"""What a diagnosis is: one illness at one place of one run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

Plain = str | int | float | bool | None
"""A value that JSON, and a checkpoint loaded with ``weights_only=True``, can hold."""


class Severity(IntEnum):
    """How bad a finding is: ``INFO < WARNING < ERROR``. INFO is a note: it accuses nobody and no gate counts it."""

    INFO = 10
    WARNING = 20
    ERROR = 30

    def __str__(self) -> str:
        return self.name

    @property
    def level(self) -> str:
        """As reports and the gate call it: ``"note"``, ``"warning"`` or ``"error"``."""
        return "note" if self is Severity.INFO else self.name.lower()

    @classmethod
    def parse(cls, word: str) -> "Severity":
        """The severity named by ``word`` in any case; ``"note"``, as reports call it, is INFO.

        Raises:
            ValueError: if there is no such severity.
        """
        try:
            return cls.INFO if word.lower() == cls.INFO.level else cls[word.upper()]
        except (KeyError, AttributeError):
            allowed = ", ".join(repr(member.name.lower()) for member in cls)
            raise ValueError(f"unknown severity {word!r}: allowed are {allowed}") from None


@dataclass(frozen=True)
class Finding:
    """One illness (``code``, ``name``) at one place (``where``) of one run.

    Attributes:
        code: Stable for ever, e.g. ``"MEM101"``.
        name: The illness in the field's words, e.g. ``"retained-graph"``.
        severity: How bad it is.
        where: Module path, parameter name or attribute path; None for the run as a whole.
        first_step: Training step it began at, on the axis of Lightning's ``self.log``.
        last_step: Training step it was last seen at, on the same axis.
        status: ``"open"``, or ``"closed"`` once it has been gone for long enough.
        evidence: The numbers behind it by name, with the limits they crossed.
        message: What is wrong, in one or two sentences.
        remedy: What to do about this very case.
    """

    code: str
    name: str
    severity: Severity
    where: str | None
    first_step: int
    last_step: int
    message: str
    remedy: str
    status: Literal["open", "closed"] = "open"
    evidence: Mapping[str, Plain] = field(default_factory=dict[str, Plain])

    @property
    def key(self) -> tuple[str, str]:
        """Code and place, which make two findings the same one."""
        return self.code, self.where or ""

    @property
    def label(self) -> str:
        """The severity as it is shown: ``"note"``, ``"WARNING"`` or ``"ERROR"``."""
        return "note" if self.severity is Severity.INFO else str(self.severity)

    def line(self) -> str:
        """The finding in one line of text."""
        place = f" at {self.where}" if self.where else ""
        return f"{self.code} {self.name}{place} (since step {self.first_step}): {self.message} Fix: {self.remedy}"

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON and for checkpoints."""
        return {
            "code": self.code,
            "name": self.name,
            "severity": self.severity.name,
            "where": self.where,
            "first_step": self.first_step,
            "last_step": self.last_step,
            "status": self.status,
            "evidence": dict(self.evidence),
            "message": self.message,
            "remedy": self.remedy,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Finding":
        """The finding that `to_dict` wrote; keys of a later version are passed over."""
        names = ("code", "name", "where", "first_step", "last_step", "status", "message", "remedy")
        known = {name: plain[name] for name in names}
        return cls(severity=Severity.parse(plain["severity"]), evidence=dict(plain["evidence"]), **known)


class FindingError(RuntimeError):
    """Raised by ``on_finding="raise"``, and by nothing else.

    Attributes:
        finding: What was found.
    """

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.line())
        self.finding = finding

    def __reduce__(self) -> tuple[type["FindingError"], tuple[Finding]]:
        return type(self), (self.finding,)


def count(findings: Sequence[Finding]) -> str:
    """How many findings and notes there are, in words, e.g. ``"2 findings, 1 note"``."""
    notes = sum(finding.severity is Severity.INFO for finding in findings)
    accused = len(findings) - notes
    words = f"{accused} finding{'s' * (accused != 1)}" if accused else "no findings"
    return words + (f", {notes} note{'s' * (notes != 1)}" if notes else "")
