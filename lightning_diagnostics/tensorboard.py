"""Floor 4: what a measurement's fields are called on the screen, and the one writer of event files."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, cast

from lightning_diagnostics.findings import Finding, Severity, count

FINDINGS_TAG = "diagnostics/findings"
"""The tag of the findings in TensorBoard's Text tab."""


@dataclass(frozen=True)
class Quantity:
    """What a number on the screen is: the tag it is drawn under, its unit, and how it is computed."""

    tag: str
    unit: str
    how: str


def quantity(*, tag: str, unit: str, how: str) -> Any:
    """A field of a measurement that is drawn as a scalar (the arguments are those of `Quantity`)."""
    return field(metadata={"quantity": Quantity(tag, unit, how)})


def quantities(measurement: Any) -> dict[str, Quantity]:
    """The drawn fields of a measurement, or of its class, by field name."""
    return {f.name: cast(Quantity, f.metadata["quantity"]) for f in fields(measurement) if "quantity" in f.metadata}


def scalars(measurement: Any) -> dict[str, float]:
    """The values of a measurement by tag; a field that is None could not be measured and is left out."""
    values = ((drawn.tag, getattr(measurement, name)) for name, drawn in quantities(measurement).items())
    return {tag: float(value) for tag, value in values if value is not None}


class TextWriter(Protocol):
    """What is used of a ``SummaryWriter`` (of torch or of tensorboardX)."""

    def add_text(self, tag: str, text_string: str, global_step: int | None = ...) -> None:
        """Write markdown under a tag."""
        ...

    def flush(self) -> None:
        """Bring everything to the disk."""
        ...


def text_writers(experiments: Iterable[object]) -> list[TextWriter]:
    """Those of the loggers' experiments that are SummaryWriters.

    Lightning's stand-in on other ranks answers to every name, so the class is asked, not the object.
    """
    return [cast(TextWriter, e) for e in experiments if callable(getattr(type(e), "add_text", None))]


def write_findings(writers: Sequence[TextWriter], findings: Sequence[Finding], *, step: int) -> None:
    """Draw the findings.

    TensorBoard keeps a sample of the records of a tag and always the last, so each record has all of them.
    """
    for writer in writers:
        writer.add_text(FINDINGS_TAG, findings_table(findings), step)
        writer.flush()


def findings_table(findings: Sequence[Finding]) -> str:
    """The findings in markdown, in the order given but notes last: a table of two columns for each.

    TensorBoard breaks words to fit a table into its page, so one with a column for each attribute cannot be read.
    """
    if not findings:
        return "No findings."
    notes_last = sorted(findings, key=lambda finding: finding.severity is Severity.INFO)
    parts = [count(findings)] if len(findings) > 1 else []
    return "\n\n".join([*parts, *map(_finding_table, notes_last)])


def _finding_table(finding: Finding) -> str:
    """What, where, when, and then words; on the left only words that are short enough never to be broken."""
    first, last = finding.first_step, finding.last_step
    steps = f"step {first}" if first == last else f"steps {first} to {last}"
    rows = [
        ("finding", f"{finding.label}: {finding.code} {finding.name}"),
        ("---", "---"),
        ("where", f"<code>{_escaped(finding.where)}</code>" if finding.where else "the run"),
        ("when", f"{steps} ({finding.status})"),
        ("what is wrong", _escaped(finding.message)),
        ("what to do", _escaped(finding.remedy)),
        ("how we know", _escaped(", ".join(f"{name} = {value}" for name, value in finding.evidence.items()))),
    ]
    return "\n".join(f"| {left} | {right} |" for left, right in rows)


_MARKUP = re.compile(r"[\\`*<&|]|\](?=\()|(?<![^\W_])_")
"""What markdown takes for markup. Of underscores only one before a word is, so that most names can be searched for."""


def _escaped(text: str) -> str:
    """Text that is shown letter for letter in a cell of a markdown table, ``__dict__`` and ``a | b`` included."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", " ".join(text.split()))
