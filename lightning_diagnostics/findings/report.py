"""The findings of a run as text, markdown and JSON."""

import importlib.util
import io
import json
import re
from collections.abc import Iterator, Sequence

from lightning_diagnostics.findings.baseline import Baseline, is_known
from lightning_diagnostics.findings.finding import Finding, Severity, count
from lightning_diagnostics.findings.records import RUNNING, RunRecord

VERSION = 1
"""The version of the JSON's form."""

_HEADS = ("severity", "finding", "where", "steps", "status")
_WIDTH = 100  # the table is never narrower: cut-up names cannot be searched for


def text(record: RunRecord, *, baseline: Baseline | None = None) -> str:
    """The report for a terminal.

    Args:
        record: What was read from the run's folder.
        baseline: What is known; it is marked.
    """
    head = f"Run {record.folder}{_standing(record)}: {count(record.findings)}"
    watched = [f"Watched by {name}: {what}." for name, what in (record.diagnostics or {}).items()]
    enabled = [f"Enabled by {record.enabled_by}."] if record.enabled_by else []
    known = [f"Known to the baseline: {f.code} {f.name} at {f.where or 'the run'}." for f in _known(record, baseline)]
    return "\n".join([head + (":" if record.findings else "."), *listing(record.findings), *known, *watched, *enabled])


def markdown(record: RunRecord, *, baseline: Baseline | None = None) -> str:
    """The report in markdown, for a page or a comment (the arguments are those of `text`)."""
    parts = [f"## Run <code>{escaped(record.folder)}</code>{_standing(record)}", findings_table(record.findings)]
    items = [f"known to the baseline: {f.code} {_place(f)}" for f in _known(record, baseline)]
    items += [f"watched by {name}: {escaped(str(what))}" for name, what in (record.diagnostics or {}).items()]
    items += [f"enabled by {escaped(record.enabled_by)}"] if record.enabled_by else []
    return "\n\n".join([*parts, *(["\n".join(f"- {item}" for item in items)] if items else [])])


def as_json(record: RunRecord, *, baseline: Baseline | None = None) -> str:
    """The report for programs: an object of a form that only grows.

    Its keys: ``version`` (1), ``folder``, ``status``, ``step``, ``started``, ``ended``, ``enabled_by``,
    ``diagnostics`` (each null where unknown), ``counts`` (of the open findings the numbers ``error``, ``warning`` and
    ``note``, and how many are ``closed``) and ``findings``: open first and worst first, each with the keys of
    `Finding.to_dict` and ``known`` (whether the baseline has it; false without one). The arguments are those of `text`.
    """
    opened = [finding for finding in record.findings if finding.status == "open"]
    worst_first = sorted(Severity, reverse=True)
    counts = {severity.level: sum(f.severity is severity for f in opened) for severity in worst_first}
    report = {
        "version": VERSION,
        **{name: getattr(record, name) for name in ("folder", "status", "step", "started", "ended", "enabled_by")},
        "diagnostics": record.diagnostics,
        "counts": {**counts, "closed": len(record.findings) - len(opened)},
        "findings": [{**f.to_dict(), "known": is_known(f, baseline or {})} for f in record.findings],
    }
    return json.dumps(report, indent=2, allow_nan=False)


def listing(findings: Sequence[Finding]) -> list[str]:
    """The findings as a table, and below it for each what to do; nothing if there are none."""
    return [_table(findings), *map(_advice, findings)] if findings else []


def findings_table(findings: Sequence[Finding]) -> str:
    """The findings in markdown, in the order given but notes last: a table of two columns for each.

    TensorBoard breaks words to fit a table into its page, so one with a column for each attribute cannot be read.
    """
    if not findings:
        return "No findings."
    notes_last = sorted(findings, key=lambda finding: finding.severity is Severity.INFO)
    parts = [count(findings)] if len(findings) > 1 else []
    return "\n\n".join([*parts, *map(_finding_table, notes_last)])


_MARKUP = re.compile(r"[\\`*<&|]|\](?=\()|(?<![^\W_])_")
"""What markdown takes for markup. Of underscores only one before a word is, so that most names can be searched for."""


def escaped(text: str) -> str:
    """Text that is shown letter for letter in a cell of a markdown table, ``__dict__`` and ``a | b`` included."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", " ".join(text.split()))


def _finding_table(finding: Finding) -> str:
    """What, where, when, and then words; on the left only words that are short enough never to be broken."""
    first, last = finding.first_step, finding.last_step
    steps = f"step {first}" if first == last else f"steps {first} to {last}"
    rows = [
        ("name", f"{finding.label}: {finding.code} {finding.name}"),
        ("---", "---"),
        ("where", _place(finding)),
        ("when", f"{steps} ({finding.status})"),
        ("what is wrong", escaped(finding.message)),
        ("what to do", escaped(finding.remedy)),
        ("how we know", escaped(", ".join(f"{name} = {value}" for name, value in finding.evidence.items()))),
    ]
    return "\n".join(f"| {left} | {right} |" for left, right in rows)


def _place(finding: Finding) -> str:
    return f"<code>{escaped(finding.where)}</code>" if finding.where else "the run"


def _standing(record: RunRecord) -> str:
    """How a run stands, as what follows its name."""
    at = f" at step {record.step}" if record.step is not None else ""
    if record.status == RUNNING:
        return f" goes on (or was killed){at}"
    return f" {record.status}{at}" if record.status else at


def _known(record: RunRecord, baseline: Baseline | None) -> Iterator[Finding]:
    return (f for f in record.findings if f.status == "open" and is_known(f, baseline or {}))


def _advice(finding: Finding) -> str:
    """The fix in a line of its own, so that it can be copied; of a note what it says."""
    if finding.severity is Severity.INFO:
        place = f" at {finding.where}" if finding.where else ""
        return f"Note {finding.code}{place}: {finding.message}"
    return f"Fix for {finding.where or finding.name}: {finding.remedy}"


def _table(findings: Sequence[Finding]) -> str:
    """The findings as a table, by ``rich`` where it is installed."""
    rows = [
        (f.label, f"{f.code} {f.name}", f.where or "the run", f"{f.first_step}-{f.last_step}", f.status)
        for f in findings
    ]
    if importlib.util.find_spec("rich") is None:
        return "\n".join("  " + " | ".join(row) for row in (_HEADS, *rows))
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for head in _HEADS:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(file=io.StringIO(), width=max(Console().width, _WIDTH), color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()
