"""What each kind of logger is given: numbers all of them, the rest those that have a place for it.

Kinds are told apart by the loggers' own objects, so that nothing is imported that the run does not use anyway.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from math import ceil, isfinite
from typing import Any
from weakref import WeakKeyDictionary

from lightning_diagnostics import tensorboard
from lightning_diagnostics.callback.trainer import plain_writer
from lightning_diagnostics.findings import Finding, Severity
from lightning_diagnostics.tensorboard import FINDINGS_TAG, Drawable, Histogram, Image, Text

WANDB_BUCKETS = 512
"""The most buckets that ``wandb.Histogram`` takes."""

WANDB_AXIS = "step"
"""The last part of the name of the axis of our curves in W&B: ``activations/step`` for those of ``activations/``."""

COLUMNS = (
    *("severity", "finding", "where", "status", "first step", "last step"),
    *("what is wrong", "what to do", "how we know"),
)
"""The columns of the findings in W&B, which can sort and filter them."""

_with_axis: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()  # by run of W&B: the tags that it has been told of


def draw(logger: Any, values: Mapping[str, Drawable], *, step: int) -> None:
    """Draw to one logger: to TensorBoard's in one record, to others as they take it."""
    if tensorboard.write_values(plain_writer(logger), values, step=step):
        return
    experiment = getattr(logger, "experiment", None)
    if _is_ended(experiment):
        return
    if _is_made_by("wandb", experiment):
        _draw_in_wandb(experiment, _prefixed(logger, values), step)
        return
    if _is_made_by("mlflow", experiment):
        values = {_apart(tag): value for tag, value in values.items()}
    logger.log_metrics(tensorboard.scalars(values), step=step)
    tensorboard.write_histograms(experiment, _prefixed(logger, values), step=step)
    tensorboard.write_texts(experiment, _prefixed(logger, values), step=step)


def draw_ahead(logger: Any, values: Mapping[str, Drawable], *, step: int) -> None:
    """Draw what is planned for a later step, where steps may come in any order."""
    tensorboard.write_values(plain_writer(logger), values, step=step)


def fill_hp_metric(logger: Any, value: float, *, step: int) -> None:
    """Put a score where Lightning's TensorBoard logger has put -1, the column ``hp_metric`` of the HParams page.

    Only where that placeholder stands: hyperparameters were logged, and the logger was left to make the column.
    """
    if getattr(logger, "hparams", None) and getattr(logger, "_default_hp_metric", False):
        tensorboard.write_values(plain_writer(logger), {"hp_metric": value}, step=step)


def write_findings(logger: Any, findings: Sequence[Finding], *, step: int) -> None:
    """Show all findings as they are now: a text in TensorBoard, a table in W&B, two artifacts in MLflow."""
    experiment: Any = getattr(logger, "experiment", None)
    if _is_ended(experiment):
        return
    if _is_made_by("wandb", experiment):
        _ride_along(experiment, {FINDINGS_TAG: _table(findings)})
    elif _is_made_by("mlflow", experiment) and isinstance(getattr(logger, "run_id", None), str):
        plain = [finding.to_dict() for finding in findings]
        experiment.log_text(logger.run_id, tensorboard.findings_table(findings), f"{FINDINGS_TAG}.md")
        experiment.log_text(
            logger.run_id, json.dumps(plain, allow_nan=False, default=str, indent=2), f"{FINDINGS_TAG}.json"
        )
    else:
        tensorboard.write_findings(tensorboard.text_writers([experiment]), findings, step=step)


def is_table(logger: Any) -> bool:
    """Whether a logger keeps one file with a column for each name (Lightning's for CSV)."""
    return any(kind.__name__ == "CSVLogger" for kind in type(logger).__mro__)


def bounded(histogram: Histogram) -> tuple[list[float], list[float]]:
    """Counts and edges as W&B takes them: neighbours are added up if there are too many, and no edge is infinite."""
    size = ceil(len(histogram.counts) / WANDB_BUCKETS)
    counts = [sum(histogram.counts[start : start + size]) for start in range(0, len(histogram.counts), size)]
    inner = histogram.edges[size:-1:size]
    first = _finite(histogram.edges[0], histogram.low, *inner)
    last = _finite(histogram.edges[-1], histogram.high, *reversed(inner), first)
    return counts, [first, *inner, last]


def _is_made_by(package: str, thing: object) -> bool:
    return any(kind.__module__.partition(".")[0] == package for kind in type(thing).__mro__)


def _is_ended(experiment: object) -> bool:
    """Whether it is a run of W&B that the user has finished, which is no fault; what comes later would be one."""
    return _is_made_by("wandb", experiment) and getattr(experiment, "_is_finished", False) is True


def _prefixed(logger: Any, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values under the tags that the logger's own ``log_metrics`` would give them."""
    prefix = getattr(logger, "_prefix", "")
    return {f"{prefix}{logger.LOGGER_JOIN_CHAR}{tag}": value for tag, value in values.items()} if prefix else values


def _apart(tag: str) -> str:
    """A tag in a store of MLflow, where what stands before a slash may be a folder.

    With a folder ``activations`` of ours, MLflow would end a run that logs a number under that very name.
    """
    return tag.replace("/", ".", 1)


def _draw_in_wandb(experiment: Any, values: Mapping[str, Drawable], step: int) -> None:
    values = {tag: value for tag, value in values.items() if not isinstance(value, Text)}
    if not values:
        return
    known = _with_axis.setdefault(experiment, set())
    for tag in values.keys() - known:
        experiment.define_metric(tag, step_metric=_axis(tag))
        known.add(tag)
    plain = {tag: _in_wandb(value) for tag, value in values.items()}
    _ride_along(experiment, {**plain, **{_axis(tag): step for tag in values}})


def _in_wandb(value: Drawable) -> Any:
    if isinstance(value, Histogram):
        return sys.modules["wandb"].Histogram(np_histogram=bounded(value))
    if isinstance(value, Image):
        import numpy as np

        pixels = np.frombuffer(value.pixels, dtype=np.uint8)
        return sys.modules["wandb"].Image(pixels.reshape(value.height, value.width, 3))
    return value


def _axis(tag: str) -> str:
    return f"{tag.partition('/')[0]}/{WANDB_AXIS}"


def _ride_along(experiment: Any, values: Mapping[str, Any]) -> None:
    """Put values into the row of W&B that is open, which the run's own next ``log`` closes (or its end).

    A row of ours would move the counter of rows on, and W&B drops what is logged to a row that has been passed:
    every value of a program that logs with ``step=self.global_step`` would be lost.
    """
    experiment.log(dict(values), commit=False)


def _finite(*edges: float) -> float:
    """The first that is finite."""
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
