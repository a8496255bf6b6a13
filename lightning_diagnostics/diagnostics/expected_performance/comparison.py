"""Two sweeps at equal budget: from where on the band of one lies above that of the other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_diagnostics.diagnostics.expected_performance.curve import TuningCurve, support
from lightning_diagnostics.diagnostics.expected_performance.report import many, printable, time

_MOST_BUDGETS = 1000


@dataclass(frozen=True)
class Lead:
    """One sweep is ahead of another over a range of budgets.

    Attributes:
        winner: The name of the sweep that is ahead.
        loser: The name of the other.
        first: The smallest budget of the range.
        last: The largest.
    """

    winner: str
    loser: str
    first: float
    last: float


@dataclass(frozen=True)
class Comparison:
    """Two sweeps at equal budget, by the bands around the median best.

    Attributes:
        one: The first sweep.
        other: The second.
        trials: Where the bands lie apart, by number of trials.
        most_trials: The largest number of trials that both have.
        known_trials: The largest number at which a band could lie above the other; beyond it nothing bounds how good
            the best of either may be.
        hours: Where they lie apart, by device-hours; None if one does not tell its time.
        most_hours: The largest budget in device-hours that both have.
        confidence: With which both bands hold: the product, since sweeps are independent of one another.
    """

    one: TuningCurve
    other: TuningCurve
    trials: tuple[Lead, ...]
    most_trials: int
    known_trials: int
    hours: tuple[Lead, ...] | None
    most_hours: float | None
    confidence: float

    def __str__(self) -> str:
        lines = [_words(self.trials, 1, self.most_trials, "n = {:g}".format, self)]
        if self.hours is not None and self.most_hours is not None:
            least = max(self.one.hours_per_trial or 0.0, self.other.hours_per_trial or 0.0)
            lines.append(_words(self.hours, least, self.most_hours, _device_time, self))
        if self.known_trials < self.most_trials:
            nothing = f"Beyond n = {self.known_trials} nothing" if self.known_trials else "Nothing"
            lines.append(f"({nothing} can be said: so few trials do not bound how good the best of n may be.)")
        lines.append(f"(Both bands, by trials, hold at once in at least {self.confidence:.0%} of such sweeps.)")
        return "\n".join(map(printable, lines))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "words": str(self),
            "by_trials": [vars(lead) for lead in self.trials],
            "most_trials": self.most_trials,
            "known_trials": self.known_trials,
            "by_hours": None if self.hours is None else [vars(lead) for lead in self.hours],
            "most_hours": self.most_hours,
            "confidence": self.confidence,
        }


def compare(one: TuningCurve, other: TuningCurve) -> Comparison:
    """Two sweeps of the same metric at equal budget.

    Raises:
        ValueError: if their metrics or modes differ, or one has too few trials for a curve.
    """
    # Validate the arguments.
    if (one.metric, one.mode) != (other.metric, other.mode):
        raise ValueError(
            f"{one.name!r} has {one.metric!r} ({one.mode}) and {other.name!r} has {other.metric!r} ({other.mode}): "
            "allowed are two sweeps of one metric and mode"
        )
    for each in (one, other):
        if not each.is_enough:
            raise ValueError(
                f"{each.name!r} has {many(len(each.scores), 'score')}: "
                f"allowed is {each.min_trials} or more (min_trials)"
            )

    ranges = {support(each.metric, each.scores): each for each in (one, other)}
    if ranges.keys() == {(0.0, 1.0), (0.0, 100.0)} and min(ranges[0.0, 100.0].scores) > 1:
        shares, percents = ranges[0.0, 1.0], ranges[0.0, 100.0]
        raise ValueError(f"{shares.name!r} has shares and {percents.name!r} has per cent: allowed is one unit for both")
    if one.name == other.name:
        one, other = replace(one, name=f"{one.name} (1)"), replace(other, name=f"{other.name} (2)")

    # Compare by number of trials.
    most = min(one.n_trials, other.n_trials)
    budgets = range(1, most + 1)
    trials = _leads(one, other, [(n, n, n) for n in budgets])

    # Compare by device-hours, at each budget where one of the two can afford one trial more.
    hours, most_hours = None, None
    if one.hours_per_trial and other.hours_per_trial:
        a, b = one.hours_per_trial, other.hours_per_trial
        most_hours = min(one.n_trials * a, other.n_trials * b)
        steps = sorted({n * cost for cost in (a, b) for n in range(1, int(most_hours / cost * (1 + 1e-9)) + 1)})
        both = [(hour, int(hour / a * (1 + 1e-9)), int(hour / b * (1 + 1e-9))) for hour in steps if hour >= max(a, b)]
        stride = math.ceil(len(both) / _MOST_BUDGETS) or 1
        hours = _leads(one, other, both[::stride] + both[-1:]) if both else ()
    known = max((n for n in budgets if _may_lead(one, other, n) or _may_lead(other, one, n)), default=0)
    return Comparison(one, other, trials, most, known, hours, most_hours, one.confidence * other.confidence)


def _leads(one: TuningCurve, other: TuningCurve, budgets: Sequence[tuple[float, int, int]]) -> tuple[Lead, ...]:
    """The ranges over which one of the two is ahead.

    Args:
        one: The first sweep.
        other: The second.
        budgets: With the number of trials that each of the two can afford.
    """
    found: list[Lead] = []
    before: str | None = None
    for budget, n, m in budgets:
        winner = _ahead(one, n, other, m)
        if winner is not None and winner == before:
            found[-1] = Lead(winner, found[-1].loser, found[-1].first, budget)
        elif winner is not None:
            found.append(Lead(winner, other.name if winner == one.name else one.name, budget, budget))
        before = winner
    return tuple(found)


def _ahead(one: TuningCurve, n: int, other: TuningCurve, m: int) -> str | None:
    """The name of the sweep whose band lies wholly on the better side of the other's."""
    n, m = min(n, one.n_trials), min(m, other.n_trials)
    if _worst(one, n) > _best(other, m):
        return one.name
    return other.name if _worst(other, m) > _best(one, n) else None


def _may_lead(one: TuningCurve, other: TuningCurve, n: int) -> bool:
    """Whether the band of one can lie above that of the other: both have an end where they would part."""
    return math.isfinite(_worst(one, n)) and math.isfinite(_best(other, n))


def _worst(curve: TuningCurve, n: int) -> float:
    """The worse end of a band, larger is better; minus infinity where it is no score, or a trial that failed."""
    end = curve.low[n - 1] if curve.mode == "max" else curve.high[n - 1]
    return -math.inf if end is None or _is_bound(curve, end) else end if curve.mode == "max" else -end


def _best(curve: TuningCurve, n: int) -> float:
    """The better end of a band, larger is better; infinite where it is no score."""
    end = curve.high[n - 1] if curve.mode == "max" else curve.low[n - 1]
    return math.inf if end is None or _is_bound(curve, end) else end if curve.mode == "max" else -end


def _is_bound(curve: TuningCurve, end: float) -> bool:
    """Whether an end is what the metric is bounded by, as its name says: that is a guess, and no evidence."""
    return end in support(curve.metric, curve.scores)


def _device_time(hours: float) -> str:
    return f"{time(hours)} of a device"


def _words(
    leads: Sequence[Lead], least: float, most: float, unit: Callable[[float], str], comparison: Comparison
) -> str:
    """What the ranges say, e.g. that one beats the other from n = 7 on, and that the bands overlap until then."""
    budget = "At equal budget"
    if least > most:
        return f"{budget} up to {unit(most)} one of the two has not a single trial: they cannot be compared by it."
    names = f"{comparison.one.name} and {comparison.other.name}"
    if not leads:
        return f"{budget} the bands of {names} overlap up to {unit(most)}: neither beats the other."
    last = leads[-1]
    if len(leads) == 1 and last.last >= most * (1 - 1e-9):
        if last.first <= least:
            return f"{budget} {last.winner} beats {last.loser} from {unit(least)} on (to {unit(most)}), everywhere."
        start = f"from {unit(last.first)} on (to {unit(most)})"
        return f"{budget} {last.winner} beats {last.loser} {start}; the bands overlap until then."
    ranges = "; ".join(
        f"{lead.winner} beats {lead.loser} "
        + (f"from {unit(lead.first)} to {unit(lead.last)}" if lead.first < lead.last else f"at {unit(lead.first)}")
        for lead in leads
    )
    return f"{budget} {ranges}; elsewhere up to {unit(most)} the bands overlap."
