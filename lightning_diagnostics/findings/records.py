"""What a run has written into its folder, read back: how it stands, who watched it, and what was found."""

import contextlib
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from lightning_diagnostics.findings.finding import Finding, Severity
from lightning_diagnostics.findings.journal import in_order

FINDINGS_FILE = "findings.jsonl"
"""The findings of a run; one event a line, of which the last one per code and place wins."""

RECORD_FILE = "diagnostics.json"
"""How a run stands and who watches it; a run without findings has this file alone."""

RUNNING = "running"
"""The status of a run that has not said how it ended: it goes on, or it was killed."""

EVENTS = ("opened", "worsened", "reopened", "closed", "carried", "ended")
"""What a line of the findings file is about."""

_DEPTH = 4  # how far below a folder runs are looked for: lightning_logs/version_3 of one project among some
_MOST_FOLDERS = 10_000  # the folder may hold a data set of millions of files
_NAMED = 3  # how many runs an error names


@dataclass(frozen=True)
class RunRecord:
    """One run as its folder tells it; None is what the folder does not tell.

    Attributes:
        folder: Where it was read, as the user wrote it.
        findings: All of them: open before closed, worst first, oldest first.
        lines: For each finding's key, the line of the findings file that it was read from (the first is 1).
        status: ``"running"``, ``"finished"``, or how it ended, e.g. ``"ended by KeyboardInterrupt"``.
        step: The last training step that was written down.
        started: When, in ISO 8601 and UTC.
        ended: When, in ISO 8601 and UTC.
        enabled_by: What switched the diagnostics on.
        settings: The arguments of the suite.
        diagnostics: What each diagnostic watches, by its name.
    """

    folder: str
    findings: tuple[Finding, ...]
    lines: Mapping[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    status: str | None = None
    step: int | None = None
    started: str | None = None
    ended: str | None = None
    enabled_by: str | None = None
    settings: Mapping[str, Any] | None = None
    diagnostics: Mapping[str, Any] | None = None


_KINDS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("status", "started", "ended", "enabled_by"), (str, "a text")),
    **dict.fromkeys(("settings", "diagnostics"), (dict, "an object")),
    **dict.fromkeys(("step", "first_line"), (int, "a whole number")),
}


def read_run(folder: str | os.PathLike[str]) -> RunRecord:
    """Read what a run has written so far; it may go on meanwhile.

    Args:
        folder: The run's folder, or the findings file in it.

    Raises:
        OSError: if there is no such folder, or it cannot be read.
        ValueError: if it is not the folder of a run with diagnostics, or a file in it is broken.
    """
    path = _folder(os.fspath(folder))
    record = _read_record(os.path.join(path, RECORD_FILE))
    first = (record or {}).pop("first_line", None) or 1  # lines before it are of an earlier run
    found = _read_findings(os.path.join(path, FINDINGS_FILE), first=first)
    if record is None and found is None:
        raise ValueError(_no_run(path))
    found = found or {}
    findings = tuple(in_order(finding for finding, _ in found.values()))
    lines = {key: number for key, (_, number) in found.items()}
    if record is not None and record["status"] == RUNNING:  # the record has the step at which training started
        record["step"] = max([record["step"] or 0, *(finding.last_step for finding in findings)])
    return RunRecord(path, findings, lines, **(record or {}))


def _folder(path: str) -> str:
    """The folder that is meant, if it is one."""
    if "://" in path:
        raise ValueError(f"run folder {path!r} is an address: copy {RECORD_FILE} and {FINDINGS_FILE} to a folder here")
    if os.path.isfile(path):
        if os.path.basename(path) != FINDINGS_FILE:
            raise NotADirectoryError(
                f"run folder {path!r} is a file: allowed are a run's folder and its {FINDINGS_FILE}"
            )
        return os.path.dirname(path) or "."
    if not os.path.isdir(path):
        above = os.path.dirname(path.rstrip(os.sep))
        below = _runs_below(above) if above and os.path.isdir(above) else []
        hint = _newest(below, repr(above)) if below else "a run's folder is where its logger writes"
        raise FileNotFoundError(f"run folder {path!r}: no such folder; {hint}")
    return os.path.normpath(path)


def _no_run(folder: str) -> str:
    """Why a folder is no run's, and which runs lie below it."""
    text = f"run folder {folder!r} has neither {RECORD_FILE} nor {FINDINGS_FILE}: "
    below = _runs_below(folder)
    if not below:
        return f"{text}no run with diagnostics has written into it or below it"
    return text + _newest(below, "it")


def _newest(runs: list[str], place: str) -> str:
    names = ", ".join(repr(os.path.normpath(at)) for at in runs)
    return f"the newest run{'s' * (len(runs) > 1)} below {place}: {names}"


def _runs_below(folder: str) -> list[str]:
    """The folders of the newest runs below a folder."""
    newest: dict[str, float] = {}
    depth = folder.rstrip(os.sep).count(os.sep)
    for at, folders, files in itertools.islice(os.walk(folder), _MOST_FOLDERS):
        deep_enough = at.count(os.sep) - depth >= _DEPTH
        folders[:] = [] if deep_enough else [name for name in folders if not name.startswith(".")]
        for name in {RECORD_FILE, FINDINGS_FILE}.intersection(files):
            with contextlib.suppress(OSError):
                newest[at] = max(os.path.getmtime(os.path.join(at, name)), newest.get(at, 0.0))
    return sorted(newest, key=lambda at: (-newest[at], at))[:_NAMED]


def _read_record(path: str) -> dict[str, Any] | None:
    """The fields of the run's record; None if there is none. Keys of a later version are passed over."""
    content = _read(path)
    if content is None:
        return None
    try:
        plain: Any = json.loads(content.decode(), parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path!r} is not JSON ({error}): expected the record of a run") from None
    if not isinstance(plain, dict):
        raise ValueError(f"{path!r} holds {plain!r}: expected an object, the record of a run")
    record = cast(dict[str, Any], plain)
    for name, (kind, words) in _KINDS.items():
        value = record.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"{path!r}: {name} is {value!r}: expected {words} or null")
    return {name: record.get(name) for name in _KINDS}


def _read_findings(path: str, *, first: int) -> dict[tuple[str, str], tuple[Finding, int]] | None:
    """The last state of each finding from a line on, with its line; None if there is no file."""
    content = _read(path)
    if content is None:
        return None
    found: dict[tuple[str, str], tuple[Finding, int]] = {}
    *lines, last = content.split(b"\n")
    for number, line in enumerate([*lines, last], start=1):
        if number < first:
            continue
        try:
            finding = _parsed(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            if number > len(lines):  # without its line's end it is still being written, or never will be
                break
            raise ValueError(f"{path!r}, line {number}: {error}; take the line out to read the others") from None
        if finding is not None:
            found[finding.key] = finding, number
    return found


def _read(path: str) -> bytes | None:
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):  # a device or a pipe may have no end
        raise ValueError(f"{path!r} is no file: expected what a run has written")
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise type(error)(f"{path!r} cannot be read ({error.strerror})") from None


def _parsed(line: bytes) -> Finding | None:
    """The finding of a line; None for an event of a later version that is about no finding."""
    try:
        plain: Any = json.loads(line.decode(), parse_constant=str)  # what JSON lacks (NaN) stays a word
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(plain, dict):
        raise ValueError(f"holds {plain!r}: expected an object, the event of a finding")
    words = cast(dict[str, Any], plain)
    if "code" not in words and words.get("event") not in EVENTS:
        return None
    for name in ("code", "name", "message", "remedy"):
        _expect(words, name, isinstance(words.get(name), str), "a text")
    _expect(words, "where", isinstance(words.get("where"), str | None), "a text or null")
    for name in ("first_step", "last_step"):
        _expect(words, name, type(words.get(name)) is int, "a whole number")
    _expect(words, "status", words.get("status") in ("open", "closed"), "'open' or 'closed'")
    _expect(words, "evidence", isinstance(words.get("evidence"), dict), "an object")
    severity = Severity.parse(words.get("severity", ""))
    return Finding.from_dict({"where": None, **words, "severity": severity.name})


def _expect(words: Mapping[str, Any], name: str, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {words.get(name)!r}: expected {allowed}")
