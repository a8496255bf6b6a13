"""Floor 3: findings, the rules that make them, and the journal of a run. Standard library only."""

from lightning_diagnostics.findings.baseline import read_baseline, write_baseline
from lightning_diagnostics.findings.finding import Finding, FindingError, Severity, count
from lightning_diagnostics.findings.journal import Change, Journal
from lightning_diagnostics.findings.limits import Limit, limit, limit_key, limit_table, override_limits
from lightning_diagnostics.findings.rule import Diagnosis, Rule, TooEarly, Verdict, rule
from lightning_diagnostics.findings.selection import Choice, Selection, choices, family, is_rule, unknown_word

__all__ = [
    "Change",
    "Choice",
    "Diagnosis",
    "Finding",
    "FindingError",
    "Journal",
    "Limit",
    "Rule",
    "Selection",
    "Severity",
    "TooEarly",
    "Verdict",
    "choices",
    "count",
    "family",
    "is_rule",
    "limit",
    "limit_key",
    "limit_table",
    "override_limits",
    "read_baseline",
    "rule",
    "unknown_word",
    "write_baseline",
]
