"""The tuning curve of a sweep: what the best of n of its trials is worth, from the records of its runs."""

import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, get_args

from lightning_diagnostics.diagnostics.expected_performance.alive import is_certain, is_lost
from lightning_diagnostics.diagnostics.expected_performance.trials import Mode, Trial
from lightning_diagnostics.statistics import (
    LARGEST_EXACT,
    BandMethod,
    best_of_n_spread,
    expected_validation_performance,
    tuning_curve_band,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Failed = Literal["worst", "drop"] | float
"""What a failed trial counts as: worse than all others, nothing, or a score."""

SILENCE = 1800.0
"""Seconds without a sign of life after which a run of another machine is taken for lost."""

_ROUNDING = 1e-6  # of a share in single precision
_LEAST_GRID = 6  # draws from so many combinations are all different with a chance of 6! / 6**6, one in sixty

_SHARES = frozenset(
    (
        *("acc", "accuracy", "f1", "f1score", "auc", "auroc", "auprc", "precision", "recall", "iou", "miou", "dice"),
        *("ap", "map", "jaccard", "sensitivity", "specificity", "top1", "top5", "hit", "ndcg", "mrr"),
    )
)
_PERCENT = frozenset(("acc", "accuracy", "f1", "auc", "auroc", "precision", "recall", "iou", "miou", "top1", "top5"))
_LOSSES = frozenset(
    (
        *("loss", "err", "error", "mse", "mae", "rmse", "mape", "perplexity", "ppl", "wer", "cer", "ce", "bce"),
        *("entropy", "brier", "ece", "hinge", "fid"),
    )
)


@dataclass(frozen=True, repr=False)
class TuningCurve:
    """What the best of n trials of a sweep is worth, n from 1 up to the number of trials that were run.

    Attributes:
        name: What the sweep is called.
        metric: What the scores are of.
        mode: Whether they shall be ``"min"`` or ``"max"``.
        trials: All of the sweep, also those that do not count, the oldest first.
        scores: Those that count, in the order of the trials; a failed one has the score that the policy gives it.
        n_failed: Trials that failed, diverged or were lost for certain.
        n_pruned: Trials that were stopped before their end; they do not count.
        n_running: Trials that still run; they do not count.
        n_lost: Trials that stopped without a word; those that are lost for certain are among the failed ones, too.
        n_unscored: Trials that ended without a value of the metric; they do not count.
        failed: What a failed trial counts as.
        confidence: Of the band.
        band: The method of the band, as in `lightning_diagnostics.statistics.cdf_band`.
        mean: Expected best of n (plug-in), in the unit of the metric. With ``failed="worst"`` and ``"drop"`` of trials
            that do not fail, since no mean has a failure.
        mean_unbiased: The unbiased estimate of the same.
        spread: The standard deviation of the best of n.
        median: The median best of n; None where that is a failed trial.
        low: The lower end of its band; None where that is a failed trial or without a bound.
        high: The upper end of its band.
        hours_per_trial: Device-hours of all trials (failed and pruned ones included) for each that counts; None if no
            trial tells its time.
        searches: How trials were chosen, as far as known, e.g. ``"random"``, ``"TPESampler"``, ``"grid"``.
        min_trials: How many scores a curve takes.
        failures: Those that failed.
        unreadable: Files beside the trials that are no record of a run, with what is wrong with each.
    """

    name: str
    metric: str
    mode: Mode
    trials: tuple[Trial, ...]
    scores: tuple[float, ...]
    n_failed: int
    n_pruned: int
    n_running: int
    n_lost: int
    n_unscored: int
    failed: Failed
    confidence: float
    band: BandMethod
    mean: tuple[float, ...]
    mean_unbiased: tuple[float, ...]
    spread: tuple[float, ...]
    median: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    hours_per_trial: float | None
    searches: tuple[str, ...]
    min_trials: int
    failures: tuple[Trial, ...] = ()
    unreadable: tuple[str, ...] = ()

    @property
    def is_enough(self) -> bool:
        """Whether there are so many scores that a curve says more than a list of them."""
        return self.n_scored >= self.min_trials

    @property
    def n_scored(self) -> int:
        """Trials that have completed with a score of their own."""
        return sum(trial.status == "completed" and trial.score is not None for trial in self.trials)

    @property
    def n_trials(self) -> int:
        """Trials that count: those with a score, and those that failed unless these are dropped."""
        return len(self.median)

    @property
    def is_random(self) -> bool | None:
        """Whether all trials are independent draws, as the curve takes them to be; None if that is not known of all."""
        if any(search != "random" for search in self.searches):
            return False
        ended = [trial for trial in self.trials if trial.status != "running"]
        return True if ended and all(trial.search == "random" for trial in ended) else None

    @property
    def best(self) -> Trial | None:
        """The trial with the best score; None if there is none with a score."""
        scored = [trial for trial in self.trials if trial.score is not None and trial.status == "completed"]
        sign = 1 if self.mode == "max" else -1
        return max(scored, key=lambda trial: sign * (trial.score or 0.0), default=None)

    def hours(self, n: int) -> float | None:
        """Device-hours of n trials."""
        return None if self.hours_per_trial is None else n * self.hours_per_trial

    def __repr__(self) -> str:
        from lightning_diagnostics.diagnostics.expected_performance.report import headline

        return f"<TuningCurve: {headline(self)}>"

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON: see ``lightning-diagnostics tuning-curve --format json``."""
        from lightning_diagnostics.diagnostics.expected_performance.report import plain

        return plain(self)

    def __str__(self) -> str:
        from lightning_diagnostics.diagnostics.expected_performance.report import text

        return text(self)

    def figure(self) -> "Figure":
        """A picture of the curve and its band (needs matplotlib).

        Raises:
            ImportError: if matplotlib is not installed.
        """
        from lightning_diagnostics.diagnostics.expected_performance.figure import figure

        return figure([self])


def tuning_curve(
    trials: Iterable[Trial],
    *,
    name: str = "",
    metric: str,
    mode: Mode,
    failed: Failed = "worst",
    confidence: float = 0.8,
    band: BandMethod = "ld",
    min_trials: int = 5,
    silence: float = SILENCE,
    now: float | None = None,
) -> TuningCurve:
    """The curve of the trials of one sweep, of those whose metric and mode these are.

    Args:
        trials: Of the sweep.
        name: What the sweep is called.
        metric: What the scores are of.
        mode: Whether they shall be ``"min"`` or ``"max"``.
        failed: What a failed trial counts as: ``"worst"``: worse than all others for the median, and no part of the
            mean; ``"drop"``: nothing; a number: that score.
        confidence: Of the band.
        band: Its method, as in `lightning_diagnostics.statistics.cdf_band`; with more than `LARGEST_EXACT` trials
            ``"ks"``.
        min_trials: How many scores a curve takes.
        silence: Seconds without a sign of life after which a run of another machine is taken for lost.
        now: The time, in seconds since 1970; by default that of the clock.

    Raises:
        ValueError: if an argument is outside of that.
    """
    # Validate the arguments.
    check_failed(failed)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r}: allowed is more than 0 and less than 1")
    if band not in get_args(BandMethod):
        raise ValueError(f"band={band!r}: allowed are {', '.join(map(repr, get_args(BandMethod)))}")
    now = time.time() if now is None else now

    # Sort the trials by what became of them.
    mine = [_standing(t, now, silence) for t in trials if (t.metric, t.mode) == (metric, mode)]
    gone = [t for t in mine if t.status == "failed" or (t.status == "lost" and is_certain(t, now=now))]
    gone += [t for t in mine if t.status == "completed" and t.diverged]
    number = failed if not isinstance(failed, str) else None
    lost = {id(t) for t in gone}
    scores = [
        number if id(t) in lost else t.score
        for t in mine
        if (t.status == "completed" and t.score is not None) or (id(t) in lost and number is not None)
    ]
    counted = [float(score) for score in scores if score is not None]
    worst = len(gone) if failed == "worst" else 0
    statuses = Counter(t.status for t in mine)
    total = len(counted) + worst
    method: BandMethod = "ks" if band.startswith("ld") and total > LARGEST_EXACT else band

    # Compute the curves.
    mean = unbiased = spread = median = low = high = ()
    if counted:
        mean = expected_validation_performance(counted, mode=mode)
        unbiased = expected_validation_performance(counted, mode=mode, estimator="unbiased")
        spread = best_of_n_spread(counted, mode=mode)
        median = expected_validation_performance(counted, mode=mode, estimator="median", failed=worst)
        low, high = tuning_curve_band(
            counted,
            mode=mode,
            confidence=confidence,
            method=method,
            support=support(metric, counted),
            failed=worst,
        )
    return TuningCurve(
        name=name,
        metric=metric,
        mode=mode,
        trials=tuple(mine),
        scores=tuple(counted),
        n_failed=len(gone),
        n_pruned=statuses["pruned"],
        n_running=statuses["running"],
        n_lost=statuses["lost"],
        n_unscored=sum(t.status == "completed" and t.score is None and not t.diverged for t in mine),
        failed=failed,
        confidence=confidence,
        band=method,
        mean=tuple(map(float, mean)),
        mean_unbiased=tuple(map(float, unbiased)),
        spread=tuple(map(float, spread)),
        median=_finite(median),
        low=_finite(low),
        high=_finite(high),
        hours_per_trial=_hours(mine, total),
        searches=searches(mine),
        min_trials=min_trials,
        failures=tuple(gone),
    )


def check_failed(failed: object) -> None:
    """Check what a failed trial shall count as.

    Raises:
        ValueError: if it is neither ``"worst"`` nor ``"drop"`` nor a finite number.
    """
    number = isinstance(failed, int | float) and not isinstance(failed, bool) and math.isfinite(failed)
    if not (number or failed in ("worst", "drop")):
        raise ValueError(f"failed={failed!r}: allowed are 'worst', 'drop', and a finite number, the score it counts as")


def _standing(trial: Trial, now: float, silence: float) -> Trial:
    """A trial as it stands at a time: one that does not live any more is lost."""
    return replace(trial, status="lost") if is_lost(trial, now=now, silence=silence) else trial


def _finite(values: Iterable[float]) -> tuple[float | None, ...]:
    return tuple(float(value) if math.isfinite(value) else None for value in values)


def _hours(trials: Sequence[Trial], counted: int) -> float | None:
    """Device-hours of all trials that are over, for each that counts."""
    spent = sum(t.seconds * t.devices for t in trials if t.status != "running") / 3600
    return spent / counted if counted and spent > 0 else None


def support(metric: str, scores: Sequence[float]) -> tuple[float, float]:
    """The values that a metric can have, as far as its name tells and its scores do not contradict."""
    plain = metric.partition("/dataloader_idx_")[0]
    words = set(re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", plain).lower()))
    least, largest = min(scores), max(scores)
    if least < 0:
        return -math.inf, math.inf
    if words & _LOSSES or any(word.endswith("loss") for word in words):
        return 0.0, math.inf
    for most, kinds in ((1.0, _SHARES | _PERCENT), (100.0, _PERCENT)):
        if words & kinds and largest <= most * (1 + _ROUNDING):
            return 0.0, max(most, largest)
    return -math.inf, math.inf


def searches(trials: Sequence[Trial]) -> tuple[str, ...]:
    """How trials were chosen: as they say, ``"grid"`` where their settings are all combinations, and ``"pruning"``."""
    known = {trial.search for trial in trials if trial.search is not None}
    if not known and is_grid([trial.hyperparameters for trial in trials]):
        known = {"grid"}
    if any(trial.status == "pruned" for trial in trials):  # the others were chosen by how they began
        known.add("pruning")
    return tuple(sorted(known))


def is_grid(settings: Sequence[Mapping[str, Any]]) -> bool:
    """Whether settings are all combinations of two or more values of each of two or more hyperparameters, each once."""
    if len(settings) < _LEAST_GRID:
        return False
    names = sorted({name for setting in settings for name in setting})
    values = {name: {repr(setting.get(name)) for setting in settings} for name in names}
    varied = [name for name in names if len(values[name]) > 1]
    if len(varied) < 2 or math.prod(len(values[name]) for name in varied) != len(settings):
        return False
    found = {tuple(repr(setting.get(name)) for name in varied) for setting in settings}
    return found == set(product(*(values[name] for name in varied)))
