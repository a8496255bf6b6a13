"""Baselines: the findings of a project that are known, so that a gate asks about what is new or has become worse."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, cast

from lightning_diagnostics.findings.files import write_whole
from lightning_diagnostics.findings.finding import Finding, Severity

VERSION = 1
"""The version of the file's form."""

Baseline = Mapping[tuple[str, str], Severity]
"""By the key of a finding, the severity up to which it is known."""

_HOW = "lightning-diagnostics report RUN_FOLDER --write-baseline {}"


def write_baseline(
    path: str | os.PathLike[str], findings: Iterable[Finding], *, at: Severity = Severity.WARNING
) -> int:
    """Write the open findings as a baseline: one a line and sorted, so that a difference reads well.

    Args:
        path: The file; one that is there is replaced.
        findings: Of one run. Closed ones are left out: what has gone is not known if it comes back.
        at: The mildest severity that is written. Notes accuse nobody, so a gate need not know them.

    Returns:
        How many findings were written.

    Raises:
        OSError: if the file cannot be written.
    """
    target = os.path.realpath(path)  # a link stays a link
    if os.path.exists(target) and not os.path.isfile(target):
        raise _error(path, OSError, f"is {_kind(target)}; a baseline is a file")
    listed = sorted((f for f in findings if f.status == "open" and f.severity >= at), key=lambda f: f.key)
    lines = ",\n".join("    " + _entry(finding) for finding in listed)
    text = f'{{\n  "version": {VERSION},\n  "findings": [{f"{chr(10)}{lines}{chr(10)}  " if listed else ""}]\n}}\n'
    try:
        write_whole(target, text)
    except OSError as error:
        raise _error(path, type(error), f"cannot be written ({error.strerror})") from None
    return len(listed)


def read_baseline(path: str | os.PathLike[str]) -> dict[tuple[str, str], Severity]:
    """The severity up to which each finding is known, by `Finding.key`.

    Args:
        path: A file that `write_baseline` wrote, or of its form; extra keys (a reason, say) are passed over.

    Raises:
        OSError: if there is no such file, or it cannot be read.
        TypeError: if it is no path.
        ValueError: if it is no baseline, or one of a version that is not known.
    """
    if not isinstance(path, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]  # 1 is the standard output
        raise TypeError(f"baseline={path!r}: expected the path of a file")
    try:
        with open(path, encoding="utf-8-sig") as file:
            plain: Any = json.load(file)
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        reason = "no such file" if isinstance(error, FileNotFoundError) else reason
        reason = "is a folder" if isinstance(error, IsADirectoryError) else reason
        raise _error(path, type(error), f"{reason}; write one with: {_HOW.format('FILE')}") from None
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"is not JSON ({error})") from None
    if not isinstance(plain, dict):
        raise _bad(path, f"holds {_short(plain)}: expected an object with 'version' and 'findings'")
    content = cast(dict[str, Any], plain)
    if content.get("version") != VERSION:
        raise _bad(path, f"has the version {_short(content.get('version'))}: allowed is {VERSION}")
    entries = content.get("findings")
    if not isinstance(entries, list):
        raise _bad(path, f"has the findings {_short(entries)}: expected a list")
    known: dict[tuple[str, str], Severity] = {}
    for number, entry in enumerate(cast(list[Any], entries), start=1):
        try:
            key, severity = _parsed(entry)
        except ValueError as error:
            raise _bad(path, f"finding {number}: {error}") from None
        known[key] = max(severity, known.get(key, severity))
    return known


def is_known(finding: Finding, baseline: Baseline) -> bool:
    """Whether a baseline has the finding, at this severity or a worse one."""
    return finding.key in baseline and finding.severity <= baseline[finding.key]


def _entry(finding: Finding) -> str:
    plain = finding.to_dict()
    return json.dumps({name: plain[name] for name in ("code", "name", "where", "severity")}, ensure_ascii=False)


def _parsed(entry: object) -> tuple[tuple[str, str], Severity]:
    """Key and severity of one entry."""
    if not isinstance(entry, dict):
        raise ValueError(f"{_short(entry)}: expected an object with 'code', 'where' and 'severity'")
    words = cast(dict[str, Any], entry)
    code, where = words.get("code"), words.get("where")
    if not isinstance(code, str) or not code:
        raise ValueError(f"code is {_short(code)}: expected one such as 'ACT101'")
    if where is not None and not isinstance(where, str):
        raise ValueError(f"where is {_short(where)}: expected a place such as 'block1.act', or null for the run")
    return (code, where or ""), Severity.parse(words.get("severity", ""))


def _bad(path: str | os.PathLike[str], reason: str) -> Exception:
    return _error(path, ValueError, f"{reason}; write it anew with: {_HOW.format(os.fspath(path))}")


def _error(path: str | os.PathLike[str], kind: type[Exception], reason: str) -> Exception:
    return kind(f"baseline {os.fspath(path)!r}: {reason}")


def _kind(path: str) -> str:
    return "a folder" if os.path.isdir(path) else "a device or a pipe"


def _short(value: object) -> str:
    """A value as Python shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
