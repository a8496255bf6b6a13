"""Trials and sweeps that are made, not trained."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning_diagnostics.diagnostics.expected_performance.curve import TuningCurve, tuning_curve
from lightning_diagnostics.diagnostics.expected_performance.records import write
from lightning_diagnostics.diagnostics.expected_performance.trials import Trial

NOW = 1_900_000_000.0
"""The time at which sweeps are looked at, in seconds since 1970: in 2030."""


def trial(number: int = 0, score: float | None = None, status: str = "completed", **more: Any) -> Trial:
    """A trial of another machine that was heard of just now; one with a score has read its metric."""
    known = {"metric": "val_acc", "mode": "max", "started": f"2030-01-01T00:00:{number:06d}", "beat": NOW}
    known |= {"readings": int(score is not None), "number": str(number), "host": "elsewhere"}
    return Trial(**{"run_id": f"run-{number}", **known, "score": score, "status": status, **more})


def trials(scores: Iterable[float], **more: Any) -> list[Trial]:
    """Trials that have completed, one for each score."""
    return [trial(number, score, **more) for number, score in enumerate(scores)]


def curve(some: Iterable[Trial], **more: Any) -> TuningCurve:
    """Their curve at that time, by the largest accuracy unless told otherwise."""
    return tuning_curve(some, **{"metric": "val_acc", "mode": "max", "now": NOW, **more})


def keep(some: Sequence[Trial], folder: Path) -> Path:
    """Write the record of each trial into a run of its own below a folder."""
    for place, each in enumerate(some):
        write(each, str(folder / f"version_{place}"))
    return folder
