"""What the rules are given about a sweep, from its trials."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping

from lightning_diagnostics.diagnostics.expected_performance.alive import is_alive, is_lost
from lightning_diagnostics.diagnostics.expected_performance.curve import TuningCurve, support
from lightning_diagnostics.diagnostics.expected_performance.measure import CurvePoint, Lead, Reading, Standing
from lightning_diagnostics.diagnostics.expected_performance.report import reason
from lightning_diagnostics.diagnostics.expected_performance.trials import Trial

_ROUNDING = 1e-6  # of a share: a mean of batches in single precision
_MOST_ROUNDING = 0.1  # of a sample
_OF_A_TWIN = ("batch_means", "hyperparameters", "seed")
_NAMED = 3  # how many hyperparameters stand for a set of them


def reading(curve: TuningCurve, every: Iterable[Trial], *, step: int, silence: float) -> Reading:
    """A sweep as its rules see it.

    Args:
        curve: Of the trials that have the metric of this run.
        every: All trials of the sweep.
        step: The training step.
        silence: Seconds without a sign of life after which a run of another machine is taken for lost.
    """
    now, trials = time.time(), list(every)
    lost = [t for t in trials if is_lost(t, now=now, silence=silence)]
    others = Counter(f"{t.metric} ({t.mode})" for t in trials if (t.metric, t.mode) != (curve.metric, curve.mode))
    scored = [t for t in curve.trials if t.status == "completed" and t.score is not None]
    best = curve.best
    return Reading(
        step=step,
        metric=curve.metric,
        mode=curve.mode,
        scored=len(scored),
        needed=curve.min_trials,
        failed=tuple(map(reason, curve.failures)),
        lost=tuple(t.name for t in lost),
        gone=sum(is_alive(t) is False for t in lost),
        silent=now - max((t.beat for t in lost), default=now),
        others=dict(others),
        spaces=_spaces(curve.trials),
        searches=() if curve.is_random in (True, None) else curve.searches,
        tested=sum(t.tests > 0 for t in trials),
        total=len(trials),
        best="" if best is None else best.name,
        leads=_leads(curve, scored),
    )


def _leads(curve: TuningCurve, scored: list[Trial]) -> tuple[Lead, ...]:
    """By how much the best trial is ahead of each other, the next best first."""
    best = curve.best
    if best is None or best.score is None:
        return ()
    found: list[Lead] = []
    for other in scored:
        if other.run_id == best.run_id or other.score is None:
            continue
        same = best.validation_samples == other.validation_samples
        samples = best.validation_samples if same else None
        paired, correct = None, None
        if len(best.batch_means) > 1 and all(getattr(best, name) == getattr(other, name) for name in _OF_A_TWIN):
            continue  # the same network once more, and no rival
        if len(best.batch_means) > 1 and best.batch_sizes == other.batch_sizes:
            paired = tuple(best.batch_means), tuple(other.batch_means), tuple(best.batch_sizes)
        if samples is not None and support(curve.metric, [best.score, other.score]) == (0.0, 1.0):
            right, others = _whole(best.score, samples), _whole(other.score, samples)
            correct = None if right is None or others is None else (right, others)
        found.append(Lead(other.name, abs(best.score - other.score), paired, correct, samples))
    return tuple(sorted(found, key=lambda lead: lead.by))


def _whole(score: float, samples: int) -> int | None:
    """The samples that a score stands for; None if it is no whole number of them, as an F1 is not."""
    number = round(score * samples)
    return number if abs(score * samples - number) < min(_MOST_ROUNDING, _ROUNDING * samples) else None


def _spaces(trials: Iterable[Trial]) -> Mapping[str, int]:
    """How many trials have each set of names of hyperparameters, by what not all of them have."""
    sets = Counter(frozenset(t.hyperparameters) for t in trials)
    common = frozenset.intersection(*sets) if sets else frozenset[str]()
    found: dict[str, int] = {}
    for names, number in sets.items():
        own = sorted(names - common)
        words = ", ".join(own[:_NAMED]) + (", ..." if len(own) > _NAMED else "") or "none of these"
        found[words] = found.get(words, 0) + number
    return found


def point(curve: TuningCurve, n: int) -> CurvePoint:
    """What is drawn of a curve at one number of trials."""
    names = ("median", "mean", "mean_unbiased", "spread")
    series = {**{name: getattr(curve, name) for name in names}, "median_low": curve.low, "median_high": curve.high}
    at = {name: values[n - 1] if n <= len(values) else None for name, values in series.items()}
    return CurvePoint(**at, hours=curve.hours(n))


def standing(curve: TuningCurve, score: float | None) -> Standing:
    """What is drawn of a sweep at the training step at which one of its runs ends.

    Args:
        curve: As of then.
        score: Of the run.
    """
    best, random = curve.best, curve.is_random
    ended = curve.n_failed + sum(t.status == "completed" and t.score is not None for t in curve.trials)
    return Standing(
        score=score,
        best=None if best is None else best.score,
        expected_best=curve.mean[-1] if curve.is_enough else None,
        n_trials=curve.n_trials,
        n_failed=curve.n_failed,
        n_pruned=curve.n_pruned,
        failure_rate=curve.n_failed / ended if ended else None,
        iid_assumption=None if random is None else float(random),
    )
