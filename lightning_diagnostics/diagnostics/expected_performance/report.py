"""A tuning curve as text, JSON and markdown."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_diagnostics.diagnostics.expected_performance.trials import Trial

if TYPE_CHECKING:
    from lightning_diagnostics.diagnostics.expected_performance.curve import TuningCurve

VERSION = 1
"""The version of the JSON's form."""

_ALL_ROWS = 20  # so many n are all listed
_LISTED = 20  # of so many trials the scores are listed where there is no curve
_NAMED = 5  # how many hyperparameters a line names
_LETTERS = 30  # of the value of each
_ALIKE = 1.2  # times as many validation samples: the parts of a cross-validation differ by less


def text(curve: "TuningCurve") -> str:
    """A curve for a terminal."""
    lines = [headline(curve), *remarks(curve), "", *(_table(curve) if curve.is_enough else listing(curve))]
    return "\n".join(map(printable, lines))


def printable(line: str) -> str:
    """A line without what moves the cursor: names and reasons are of other people."""
    return "".join(each if each.isprintable() else "?" for each in line)


def markdown(curve: "TuningCurve") -> str:
    """A curve for TensorBoard's Text tab."""
    head = [headline(curve), "\n".join(f"- {line}" for line in remarks(curve))]
    if not curve.is_enough:
        return "\n\n".join([*head, "\n".join(f"    {line}" for line in listing(curve))])
    rows = [("n", *_HEADS), ("---",) * (len(_HEADS) + 1), *_rows(curve)]
    return "\n\n".join([*head, "\n".join(f"| {' | '.join(row)} |" for row in rows)])


def as_json(curves: "Sequence[TuningCurve]", comparison: Mapping[str, Any] | None = None) -> str:
    """Curves for programs: an object of a form that only grows.

    Its keys: ``version`` (1), ``curves`` (see `plain`) and ``comparison`` (null for one sweep).
    """
    whole = {
        "version": VERSION,
        "curves": [plain(curve) for curve in curves],
        "comparison": comparison,
    }
    return json.dumps(whole, indent=2, allow_nan=False)


def plain(curve: "TuningCurve") -> dict[str, Any]:
    """A curve as plain values.

    The keys are the attributes of `TuningCurve`; ``curve`` has one object for each n, with ``n``, ``hours``, ``mean``,
    ``mean_unbiased``, ``spread``, ``median``, ``low`` and ``high`` (null where there is none), and is empty where there
    are too few trials. ``trials`` has the records of the runs.
    """
    same = ("name", "metric", "mode", "n_trials", "n_failed", "n_pruned", "n_running", "n_lost", "n_unscored")
    same += ("failed", "confidence", "band", "hours_per_trial", "is_random", "min_trials")
    numbers = range(1, curve.n_trials + 1) if curve.is_enough else ()
    best = curve.best
    return {
        **{name: getattr(curve, name) for name in same},
        "searches": list(curve.searches),
        "best": None if best is None else {"score": best.score, "run_id": best.run_id, "folder": best.folder},
        "scores": list(curve.scores),
        "unreadable": list(curve.unreadable),
        "curve": [{"n": n, "hours": curve.hours(n), **_at(curve, n)} for n in numbers],
        "trials": [_record(trial) for trial in curve.trials],
    }


def _record(trial: Trial) -> dict[str, Any]:
    whole = {**trial.to_dict(), "folder": trial.folder}
    return {name: value for name, value in whole.items() if name not in ("batch_means", "batch_sizes")}


def headline(curve: "TuningCurve") -> str:
    """What a curve comes to, in a line."""
    name = f"Sweep {curve.name}: " if curve.name else ""
    counts = f"{many(len(curve.trials), 'trial')}, {curve.metric} ({curve.mode})"
    best = curve.best
    if best is None or best.score is None:
        return f"{name}{counts}, no score."
    by, worth = f"trial {best.number}" if best.number else best.name, ""
    if curve.is_enough:
        n = len(curve.mean)
        worth = f"; the expected best of {n} is {curve.mean[n - 1]:.6g}, that of one trial {curve.mean[0]:.6g}"
    return f"{name}{counts}, best {best.score:.6g} ({by}){worth}."


def remarks(curve: "TuningCurve") -> list[str]:
    """What has to be known to read a curve."""
    lines: list[str] = []
    if curve.unreadable:
        records = many(len(curve.unreadable), "record")
        lines.append(f"Left out since they cannot be read: {records}, e.g. {curve.unreadable[0]}.")
    if curve.n_failed:
        policy = _policy(curve) if curve.is_enough else "no scores of their own"
        lines.append(f"{many(curve.n_failed, 'trial')} failed ({reasons(curve.failures)}): {policy}.")
    if curve.n_pruned:
        lines.append(f"{many(curve.n_pruned, 'trial')} pruned: not counted, but for the time spent.")
    if curve.n_running:
        lines.append(f"{many(curve.n_running, 'trial')} still running: not counted.")
    if curve.n_lost:
        lines.append(f"{many(curve.n_lost, 'trial')} lost: stopped without a word.")
    if curve.n_unscored:
        lines.append(f"{many(curve.n_unscored, 'trial')} ended without a value of {curve.metric}: not counted.")
    if not curve.is_enough:
        lines.append(f"Too few scores for a curve ({curve.n_scored} of {curve.min_trials}): they are listed instead.")
        return lines
    if curve.is_random is False:
        found = ", ".join(each for each in curve.searches if each != "random")
        lines.append(
            f"The search was not random ({found}): a curve takes trials for independent draws, so read it with care."
        )
    elif curve.is_random is None:
        lines.append("Takes the trials for independent draws, as those of a random search are (not known here).")
    methods = {"ld": "exact, Learned-Miller and DeStefano", "ks": "Kolmogorov-Smirnov", "dkw": "DKW"}
    method = methods.get(curve.band, curve.band)
    lines.append(
        f"The band is around the median best of n, for all n at once, at {curve.confidence:.0%} or more ({method})."
    )
    samples = sorted({t.validation_samples for t in curve.trials if t.score is not None and t.validation_samples})
    if samples and samples[-1] > _ALIKE * samples[0]:
        lines.append(
            f"The scores are of {samples[0]} to {samples[-1]} validation samples: if the data differ, so do the scores."
        )
    if curve.hours_per_trial is not None:
        spent = " (that of failed and pruned ones included)" if curve.n_failed or curve.n_pruned else ""
        lines.append(f"Each trial that counts costs {time(curve.hours_per_trial)} of a device on average{spent}.")
    return lines


def reasons(failures: Iterable[Trial]) -> str:
    """Why trials failed, the most frequent reason first."""
    words = Counter(map(reason, failures)).most_common(3)
    return ", ".join(f"{number} x {word}" if number > 1 else word for word, number in words)


def reason(trial: Trial) -> str:
    """Why a trial failed."""
    if trial.status == "lost":
        return "killed"
    return trial.reason or (f"{trial.metric} was never finite" if trial.diverged else "unknown")


def _became(curve: "TuningCurve", trial: Trial) -> str:
    """What became of a trial, as the curve counts it."""
    return "failed" if trial.status == "completed" and trial in curve.failures else trial.status


def listing(curve: "TuningCurve") -> list[str]:
    """The trials themselves, the best first."""
    sign = -1 if curve.mode == "max" else 1
    ordered = sorted(curve.trials, key=lambda t: (t.score is None, sign * (t.score or 0.0)))
    lines = [
        f"{_number(trial.score):>12}  {_became(curve, trial):<9}  {trial.name}{_settings(trial)}"
        for trial in ordered[:_LISTED]
    ]
    more = len(ordered) - _LISTED
    return lines + ([f"... and {more} more"] if more > 0 else [])


_HEADS = ("device time", "mean", "unbiased", "spread", "median", "band")


def _table(curve: "TuningCurve") -> list[str]:
    rows = [("n", *_HEADS), *_rows(curve)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _rows(curve: "TuningCurve") -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for n in shown(curve.n_trials, _ALL_ROWS):
        at = _at(curve, n)
        ends = f"{_number(at['low'])} to {_number(at['high'])}"
        values = (_number(at[name]) for name in ("mean", "mean_unbiased", "spread", "median"))
        hours = curve.hours(n)
        rows.append((str(n), "-" if hours is None else time(hours), *values, ends))
    return rows


def shown(count: int, most: int) -> list[int]:
    """Numbers of trials from 1 to ``count``: all of them if there are at most ``most``, else ever fewer."""
    if count <= most:
        return list(range(1, count + 1))
    ratio = count ** (1 / (most - 1))
    return sorted({min(count, max(1, round(ratio**power))) for power in range(most)} | {count})


def _at(curve: "TuningCurve", n: int) -> dict[str, float | None]:
    """The numbers of a curve at one n."""
    names = ("mean", "mean_unbiased", "spread", "median", "low", "high")
    values = {name: getattr(curve, name) for name in names}
    return {name: series[n - 1] if n <= len(series) else None for name, series in values.items()}


def _policy(curve: "TuningCurve") -> str:
    if curve.failed == "worst":
        return "worse than all others for the median and its band; the means are of those with a score"
    if curve.failed == "drop":
        return "dropped, which is optimistic"
    best = curve.best
    sign = 1 if curve.mode == "max" else -1
    flatters = best is not None and best.score is not None and sign * (float(curve.failed) - best.score) > 0
    return f"counted as {curve.failed:g}" + (", which is better than the best score" if flatters else "")


def _settings(trial: Trial) -> str:
    items = [
        f"{name}={value:.5g}" if isinstance(value, float) else f"{name}={_cut(value)}"
        for name, value in trial.hyperparameters.items()
    ]
    more = ", ..." if len(items) > _NAMED else ""
    return f"  ({', '.join(items[:_NAMED])}{more})" if items else ""


def _cut(value: object) -> str:
    words = str(value)
    return words if len(words) <= _LETTERS else words[: _LETTERS - 3] + "..."


def time(hours: float) -> str:
    """Device-hours in words, e.g. ``"2.5 h"`` or ``"40 s"``."""
    if hours >= 1:
        return f"{hours:.4g} h"
    return f"{60 * hours:.3g} min" if hours >= 1 / 60 else f"{3600 * hours:.3g} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def many(number: int, thing: str) -> str:
    """A number of things, e.g. ``"2 trials"``."""
    return f"{number} {thing}{'s' * (number != 1)}"
