"""The findings of a run in SARIF 2.1.0, which code-scanning pages and editors read.

Of the standard: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lightning_diagnostics.findings.baseline import Baseline, is_known
from lightning_diagnostics.findings.finding import Finding
from lightning_diagnostics.findings.records import FINDINGS_FILE, RunRecord
from lightning_diagnostics.findings.rule import Rule

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
FINGERPRINT = "codeAndPlace/v1"
"""The name of the fingerprint by which readers tell that two runs have the same finding."""


def sarif(record: RunRecord, rules: Iterable[Rule], *, version: str, baseline: Baseline | None = None) -> str:
    """The open findings of a run as a SARIF log.

    Closed findings are left out: to a reader of SARIF a result is a problem that there is. A finding that the baseline
    knows is a result that is suppressed. The place in the model is a logical location; the physical one, which some
    readers ask for, is the line of the findings file, relative if the folder is.

    Args:
        record: What was read from the run's folder.
        rules: All that are known, for their pages; a finding of another package's version may have none.
        version: Of this package.
        baseline: What is known.
    """
    opened = [finding for finding in record.findings if finding.status == "open"]
    pages = {rule.code: rule for rule in rules}
    descriptors = {f.code: _descriptor(f, pages.get(f.code)) for f in sorted(opened, key=lambda f: f.code)}
    index = {code: number for number, code in enumerate(descriptors)}
    driver = {"name": "lightning-diagnostics", "version": version, "rules": list(descriptors.values())}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [{"ruleIndex": index[f.code], **_result(record, f, baseline or {})} for f in opened],
        "properties": {"folder": record.folder, "status": record.status, "step": record.step},
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, allow_nan=False)


def _descriptor(finding: Finding, rule: Rule | None) -> dict[str, Any]:
    """A rule as SARIF describes it."""
    if rule is None:
        return {"id": finding.code, "name": finding.name}
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": " ".join(rule.section("What it means").split())},
        "help": {"text": rule.page, "markdown": rule.page},
        "defaultConfiguration": {"level": max(rule.severities).level},
    }


def _result(record: RunRecord, finding: Finding, baseline: Baseline) -> dict[str, Any]:
    """A finding as SARIF describes it."""
    place = {"fullyQualifiedName": finding.where, "kind": "member"} if finding.where else {"name": "the run"}
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "level": finding.severity.level,
        "message": {"text": f"{finding.message} Fix: {finding.remedy}"},
        "locations": [{"physicalLocation": _physical(record, finding), "logicalLocations": [place]}],
        "partialFingerprints": {FINGERPRINT: _fingerprint(finding)},
        "properties": {
            "evidence": dict(finding.evidence),
            **{name: getattr(finding, name) for name in ("first_step", "last_step", "status")},
        },
    }
    if is_known(finding, baseline):
        result["suppressions"] = [{"kind": "external", "justification": "known to the baseline"}]
    return result


def _physical(record: RunRecord, finding: Finding) -> Mapping[str, Any]:
    """The line of the findings file."""
    path = Path(record.folder, FINDINGS_FILE)
    uri = path.as_uri() if path.is_absolute() else quote(path.as_posix())
    location: dict[str, Any] = {"artifactLocation": {"uri": uri}}
    line = record.lines.get(finding.key)
    return location if line is None else {**location, "region": {"startLine": line}}


def _fingerprint(finding: Finding) -> str:
    """Of code and place alone: steps and numbers differ from run to run."""
    return hashlib.sha256("\0".join(finding.key).encode(errors="backslashreplace")).hexdigest()
