"""What each kind of logger is given: numbers all of them, histograms and the findings those that have a place for them.

Kinds are told apart by the loggers' own objects, so that nothing is imported that the run does not use anyway.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from math import ceil, isfinite
from typing import Any

from lightning_diagnostics import tensorboard
from lightning_diagnostics.callback.trainer import plain_writer
from lightning_diagnostics.findings import Finding, Severity
from lightning_diagnostics.tensorboard import FINDINGS_TAG, Histogram

WANDB_BUCKETS = 512
"""The most buckets that ``wandb.Histogram`` takes."""

COLUMNS = (
    *("severity", "finding", "where", "status", "first step", "last step"),
    *("what is wrong", "what to do", "how we know"),
)
"""The columns of the findings in Weights & Biases, which can sort and filter them."""


def draw(logger: Any, values: Mapping[str, float | Histogram], *, step: int) -> None:
    """Draw to one logger: to TensorBoard's in one record, to others as they take it."""
    if tensorboard.write_values(plain_writer(logger), values, step=step):
        return
    experiment = getattr(logger, "experiment", None)
    if _is_finished(experiment):
        return
    if _is_wandb(logger, experiment):
        logger.log_metrics({tag: _for_wandb(value) for tag, value in values.items()}, step=step)
        return
    logger.log_metrics(tensorboard.scalars(values), step=step)
    prefix = getattr(logger, "_prefix", "")
    prefixed = {f"{prefix}{logger.LOGGER_JOIN_CHAR}{tag}": value for tag, value in values.items()} if prefix else values
    tensorboard.write_histograms(experiment, prefixed, step=step)


def write_findings(logger: Any, findings: Sequence[Finding], *, step: int) -> None:
    """Show all findings as they are now: a text in TensorBoard, a table in W&B, two artifacts in MLflow."""
    experiment: Any = getattr(logger, "experiment", None)
    if _is_finished(experiment):
        return
    if _is_wandb(logger, experiment):
        logger.log_metrics({FINDINGS_TAG: _table(findings)}, step=step)
    elif _is_mlflow(logger, experiment):
        events = [finding.to_dict() for finding in findings]
        text = json.dumps(events, allow_nan=False, default=str, indent=2)
        experiment.log_text(logger.run_id, tensorboard.findings_table(findings), f"{FINDINGS_TAG}.md")
        experiment.log_text(logger.run_id, text, f"{FINDINGS_TAG}.json")
    else:
        tensorboard.write_findings(tensorboard.text_writers([experiment]), findings, step=step)


def _is_wandb(logger: Any, experiment: object) -> bool:
    """Whether it is Lightning's logger of W&B, of either package: it takes more than numbers."""
    return _is_made_by("wandb", experiment) and callable(getattr(type(logger), "log_table", None))


def _is_mlflow(logger: Any, experiment: object) -> bool:
    return _is_made_by("mlflow", experiment) and isinstance(getattr(logger, "run_id", None), str)


def _is_made_by(package: str, thing: object) -> bool:
    return any(kind.__module__.partition(".")[0] == package for kind in type(thing).__mro__)


def _is_finished(experiment: object) -> bool:
    """Whether the user has ended his W&B run: that is no fault, but whatever comes later would be one."""
    return _is_made_by("wandb", experiment) and getattr(experiment, "_is_finished", False) is True


def _for_wandb(value: float | Histogram) -> Any:
    if not isinstance(value, Histogram):
        return value
    return sys.modules["wandb"].Histogram(np_histogram=bounded(value))


def bounded(histogram: Histogram) -> tuple[list[float], list[float]]:
    """Counts and edges as W&B takes them: neighbours are added up if there are too many, and no edge is infinite."""
    size = ceil(len(histogram.counts) / WANDB_BUCKETS)
    counts = [sum(histogram.counts[start : start + size]) for start in range(0, len(histogram.counts), size)]
    inner = histogram.edges[size:-1:size]
    first = _finite(histogram.edges[0], histogram.low, inner[0] if inner else 0.0)
    last = _finite(histogram.edges[-1], histogram.high, inner[-1] if inner else first)
    return counts, [first, *inner, last]


def _finite(*edges: float) -> float:
    """The first that is finite: the edge, the outermost value, the edge that is next."""
    return next((edge for edge in edges if isfinite(edge)), 0.0)


def _table(findings: Sequence[Finding]) -> Any:
    """The findings as a table of W&B, in the order given but notes last."""
    rows = [
        [
            *(finding.label, f"{finding.code} {finding.name}", finding.where or "the run", finding.status),
            *(finding.first_step, finding.last_step, finding.message, finding.remedy),
            ", ".join(f"{name} = {value}" for name, value in finding.evidence.items()),
        ]
        for finding in sorted(findings, key=lambda finding: finding.severity is Severity.INFO)
    ]
    return sys.modules["wandb"].Table(columns=list(COLUMNS), data=rows)
