"""Tuning curves of runs that are kept in folders, and of searches that other libraries keep."""

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from lightning_diagnostics.diagnostics.expected_performance.curve import Failed, TuningCurve, tuning_curve
from lightning_diagnostics.diagnostics.expected_performance.records import read
from lightning_diagnostics.diagnostics.expected_performance.sweeps import searcher
from lightning_diagnostics.diagnostics.expected_performance.trials import Mode, Status, Trial
from lightning_diagnostics.diagnostics.expected_performance.values import plain
from lightning_diagnostics.statistics import BandMethod


def from_folder(
    folder: str | os.PathLike[str],
    *,
    metric: str | None = None,
    mode: Mode | None = None,
    sweep: str | None = None,
    failed: Failed = "worst",
    confidence: float = 0.8,
    band: BandMethod = "ld",
    min_trials: int = 5,
) -> TuningCurve:
    """The tuning curve of the runs below a folder that `ExpectedValidationPerformance` has recorded.

    Args:
        folder: Where they are, up to nine folders down, but in none that is called ``checkpoints`` or begins with a
            dot; an address such as ``s3://...``, too.
        metric: What the scores are of; may be left out if all runs have the same.
        mode: ``"min"`` or ``"max"``; may be left out if all runs have the same.
        sweep: Which sweep, if there are several; the empty text stands for the runs of none.
        failed: What a failed trial counts as: ``"worst"``, ``"drop"``, or a number: that score.
        confidence: Of the band.
        band: Its method, as in `lightning_diagnostics.statistics.cdf_band`.
        min_trials: How many scores a curve takes.

    Raises:
        OSError: if there is no such folder, or it cannot be read.
        TypeError: if it is no path.
        ValueError: if there is no record, if there are several metrics, modes or sweeps to choose from, or an argument
            is not allowed.
    """
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"folder={folder!r}: expected a path")
    root = os.fspath(folder)
    records = read(root)
    trials = records.trials
    if not trials:
        broken = f" ({len(records.unreadable)} files are no records)" if records.unreadable else ""
        raise ValueError(f"folder {root!r} has no record of a run below it{broken}: see ExpectedValidationPerformance")
    trials = _one(trials, "sweep", sweep, lambda trial: trial.sweep or "", root)
    trials = _one(trials, "metric", metric, lambda trial: trial.metric, root)
    trials = _one(trials, "mode", mode, lambda trial: trial.mode, root)
    first = trials[0]
    curve = tuning_curve(
        trials,
        name=first.sweep or os.path.basename(os.path.abspath(root) if "://" not in root else root.rstrip("/")) or root,
        metric=first.metric,
        mode=first.mode,
        failed=failed,
        confidence=confidence,
        band=band,
        min_trials=min_trials,
    )
    return replace(curve, unreadable=tuple(f"{name} {what}" for name, what in records.unreadable.items()))


def _one(
    trials: tuple[Trial, ...], what: str, asked: str | None, of: Callable[[Trial], str], root: str
) -> tuple[Trial, ...]:
    """The trials that have one value of something: the one that is asked for, or the only one that there is."""
    counts = Counter(map(of, trials))
    there = ", ".join(
        f"{value!r} ({'no sweep: ' if not value else ''}{number})" for value, number in sorted(counts.items())
    )
    if asked is None and len(counts) > 1:
        raise ValueError(f"the runs below {root!r} have more than one {what}: allowed is {what}= one of {there}")
    if asked is not None and asked not in counts:
        raise ValueError(f"{what}={asked!r}: allowed for the runs below {root!r} is one of {there}")
    return tuple(trial for trial in trials if asked is None or of(trial) == asked)


def from_optuna(
    study: Any,
    *,
    failed: Failed = "worst",
    confidence: float = 0.8,
    band: BandMethod = "ld",
    min_trials: int = 5,
    objective: int = 0,
) -> TuningCurve:
    """The tuning curve of a study of Optuna, wherever it is stored (SQLite, PostgreSQL, a journal).

    The score of a trial is its value, so the study has to return the best of a trial, as a checkpoint has it. Trials
    that failed or gave no finite value count as ``failed`` says; pruned ones, whose last value is that of a part of
    the training, do not count.

    Optuna does not store how a study was searched: the sampler is that of the object. Load a study with the sampler
    that it was run with (``optuna.load_study(..., sampler=...)``), or a random search is taken for one by TPE.

    Args:
        study: An ``optuna.Study``.
        failed: What a failed trial counts as: ``"worst"``, ``"drop"``, or a number: that score.
        confidence: Of the band.
        band: Its method, as in `lightning_diagnostics.statistics.cdf_band`.
        min_trials: How many scores a curve takes.
        objective: Which of the values, where a study has several.

    Raises:
        TypeError: if it is no study.
        ValueError: if an argument is not allowed.
    """
    # Validate the arguments.
    if not (hasattr(study, "get_trials") and hasattr(study, "directions")):
        raise TypeError(f"study={study!r}: expected a study of Optuna")
    directions = study.directions
    if not 0 <= objective < len(directions):
        raise ValueError(f"objective={objective!r}: allowed is 0 to {len(directions) - 1}")

    # Translate its trials.
    mode: Mode = "max" if directions[objective].name == "MAXIMIZE" else "min"
    names = getattr(study, "metric_names", None)
    metric = names[objective] if names else "value"
    found = [_of_optuna(each, objective, metric, mode, searcher(study.sampler)) for each in study.get_trials()]
    return tuning_curve(
        (each for each in found if each is not None),
        name=study.study_name,
        metric=metric,
        mode=mode,
        failed=failed,
        confidence=confidence,
        band=band,
        min_trials=min_trials,
    )


_OPTUNA = {"COMPLETE": "completed", "FAIL": "failed", "PRUNED": "pruned", "RUNNING": "running"}


def _of_optuna(trial: Any, objective: int, metric: str, mode: Mode, search: str) -> Trial | None:
    """A trial of Optuna as one of ours; None if it has not begun."""
    status = _OPTUNA.get(trial.state.name)
    if status is None:
        return None
    values = trial.values
    value = float(values[objective]) if values else None
    marks = trial.system_attrs  # what a trial knows of itself, whichever sampler the study is loaded with
    search = "enqueued" if "fixed_params" in marks else "GridSampler" if "grid_id" in marks else search
    return Trial(
        run_id=f"optuna-{trial.number}",
        metric=metric,
        mode=mode,
        status=status,  # pyright: ignore[reportArgumentType]  # one of its words
        reason="FAIL" if status == "failed" else "",
        score=value if value is not None and math.isfinite(value) and status == "completed" else None,
        readings=int(value is not None),
        number=str(trial.number),
        search=search,
        started=trial.datetime_start.isoformat() if trial.datetime_start else "",
        seconds=trial.duration.total_seconds() if trial.duration else 0.0,
        hyperparameters=plain(trial.params),
        beat=time.time(),  # that it runs is the storage's word
    )


def from_ray(
    results: Any,
    *,
    metric: str | None = None,
    mode: Mode | None = None,
    failed: Failed = "worst",
    confidence: float = 0.8,
    band: BandMethod = "ld",
    min_trials: int = 5,
) -> TuningCurve:
    """The tuning curve of a search of Ray Tune.

    The score of a trial is its best reported value. Whether Ray's scheduler stopped a trial early is not in its
    results: with ASHA and the like the scores of whole trainings and of parts of them are mixed.

    Args:
        results: A ``ray.tune.ResultGrid``, or the folder of the experiment, which takes Ray.
        metric: What the scores are of; by default what the search was told, which a folder does not say.
        mode: ``"min"`` or ``"max"``; the same.
        failed: What a failed trial counts as: ``"worst"``, ``"drop"``, or a number: that score.
        confidence: Of the band.
        band: Its method, as in `lightning_diagnostics.statistics.cdf_band`.
        min_trials: How many scores a curve takes.

    Raises:
        ImportError: if a folder is given and Ray is not installed.
        TypeError: if it is neither.
        ValueError: if the metric or the mode is not known, an argument is not allowed, or a folder is of no experiment.
    """
    # Validate the arguments.
    name = ""
    if isinstance(results, str | os.PathLike):
        try:
            from ray.tune import ExperimentAnalysis, ResultGrid  # pyright: ignore[reportMissingImports]  # an extra
        except ImportError:
            raise ImportError("a folder of Ray Tune needs Ray: pip install 'ray[tune]'") from None
        folder = os.path.abspath(results) if "://" not in os.fspath(results) else os.fspath(results)
        name = os.path.basename(folder.rstrip("/"))
        results = ResultGrid(ExperimentAnalysis(folder))
    if not hasattr(results, "get_dataframe"):
        raise TypeError(f"results={results!r}: expected a ResultGrid of Ray Tune, or the folder of its experiment")
    metric = metric or getattr(results, "_metric", None) or _told(results, "default_metric")
    mode = mode or getattr(results, "_mode", None) or _told(results, "default_mode")
    if metric is None:
        raise ValueError("metric=None: it is not known what the search was told; name one that its trials report")
    if mode not in ("min", "max"):
        raise ValueError(f"mode={mode!r}: allowed are 'min' and 'max'")

    # Translate its trials.
    states = [each.status for each in getattr(getattr(results, "_experiment_analysis", None), "trials", None) or ()]
    states = states if len(states) == len(results) else ["TERMINATED"] * len(results)
    pairs = enumerate(zip(results, states, strict=True))
    found = [_of_ray(each, index, metric, mode, _RAY[state]) for index, (each, state) in pairs if state in _RAY]
    return tuning_curve(
        sorted(found, key=lambda trial: trial.number or ""),
        name=name or os.path.basename(str(getattr(results, "experiment_path", "")).rstrip("/")),
        metric=metric,
        mode=mode,
        failed=failed,
        confidence=confidence,
        band=band,
        min_trials=min_trials,
    )


_RAY: dict[str, Status] = {
    **dict.fromkeys(("TERMINATED", "ERROR"), "completed"),  # an error is known by itself
    **dict.fromkeys(("RUNNING", "PAUSED"), "running"),
}


def _told(results: Any, name: str) -> Any:
    return getattr(getattr(results, "_experiment_analysis", None), name, None)


def _of_ray(result: Any, index: int, metric: str, mode: Mode, status: Status) -> Trial:
    """A result of Ray Tune as a trial of ours."""
    frame, last = result.metrics_dataframe, result.metrics or {}
    series: Iterable[Any] = frame[metric] if frame is not None and metric in frame else [last.get(metric)]
    values = [float(value) for value in series if value is not None]
    finite = [value for value in values if math.isfinite(value)]
    score = (max(finite) if mode == "max" else min(finite)) if finite else None
    failed = result.error is not None
    seconds = float(last.get("time_total_s") or 0.0)
    began = datetime.fromtimestamp(last["timestamp"] - seconds, timezone.utc) if "timestamp" in last else None
    return Trial(
        run_id=str(last.get("trial_id", f"ray-{index}")),
        metric=metric,
        mode=mode,
        status="failed" if failed else status,
        reason=type(getattr(result.error, "cause", None) or result.error).__name__ if failed else "",
        score=None if failed else score,
        readings=len(values),
        number=str(last.get("trial_id", index)),
        started=began.isoformat(timespec="seconds") if began else "",
        seconds=seconds,
        hyperparameters=plain(result.config or {}),
        beat=time.time(),
        folder=str(result.path or ""),
    )
