"""Floor 4: what a measurement's fields are called on the screen, and the one writer of event files."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, cast

from lightning_diagnostics.findings import Finding, Severity

FINDINGS_TAG = "diagnostics/findings"
"""The tag of the findings table in TensorBoard's Text tab."""


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
    """Draw the findings table.

    TensorBoard keeps a sample of the records of a tag and always the last, so each record is the whole table.
    """
    for writer in writers:
        writer.add_text(FINDINGS_TAG, findings_table(findings), step)
        writer.flush()


def findings_table(findings: Sequence[Finding]) -> str:
    """The findings as a markdown table, worst first and notes last."""
    if not findings:
        return "No findings."
    rows = [
        (
            "note" if f.severity is Severity.INFO else str(f.severity),
            f"{f.code} {f.name}",
            f"<code>{_escaped(f.where)}</code>" if f.where else "the run",
            str(f.first_step),
            f"{f.last_step} ({f.status})",
            _escaped(f.message),
            _escaped(", ".join(f"{name} = {value}" for name, value in f.evidence.items())),
            _escaped(f.remedy),
        )
        for f in findings
    ]
    head = ("severity", "finding", "where", "since step", "last seen", "what is wrong", "how we know", "what to do")
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


_MARKUP = re.compile(r"[\\`*<&|]|\](?=\()|(?<![^\W_])_")
"""What markdown takes for markup. Of underscores only one before a word is, so that most names can be searched for."""


def _escaped(text: str) -> str:
    """Text that is shown letter for letter in a cell of a markdown table, ``__dict__`` and ``a | b`` included."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", " ".join(text.split()))
