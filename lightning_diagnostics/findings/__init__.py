"""Floor 3: findings, the rules that make them, and the journal of a run. Standard library only."""

from lightning_diagnostics.findings.baseline import read_baseline, write_baseline
from lightning_diagnostics.findings.finding import Finding, FindingError, Severity, count
from lightning_diagnostics.findings.journal import Change, Journal
from lightning_diagnostics.findings.limits import Limit, limit, limit_table, override_limits
from lightning_diagnostics.findings.rule import Diagnosis, Rule, TooEarly, Verdict, rule

__all__ = [
    "Change",
    "Diagnosis",
    "Finding",
    "FindingError",
    "Journal",
    "Limit",
    "Rule",
    "Severity",
    "TooEarly",
    "Verdict",
    "count",
    "limit",
    "limit_table",
    "override_limits",
    "read_baseline",
    "rule",
    "write_baseline",
]
