"""What is remembered of the validations of a run: the best, and how the curves went."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_diagnostics import statistics
from lightning_diagnostics.diagnostics.generalization_gap.directions import Direction
from lightning_diagnostics.diagnostics.generalization_gap.measure import Onset, Value, difference, rise
from lightning_diagnostics.diagnostics.generalization_gap.tally import Series

MOST = 2_000
"""Validations whose values are kept, before the older half is dropped."""


@dataclass
class Streak:
    """In how many validations in a row something held.

    Attributes:
        count: How many.
        since: The step of the first of them.
    """

    count: int = 0
    since: int = -1

    def update(self, holds: bool, *, step: int) -> bool:
        """One more validation; whether it holds."""
        self.since = step if holds and not self.count else self.since
        self.count = self.count + 1 if holds else 0
        return holds


@dataclass(frozen=True)
class Moment:
    """One validation of a loss and the metric beside it.

    Attributes:
        step: Of the validation.
        loss: The validation loss.
        training: Its training twin.
        partner: The name of the metric beside it.
        beside: That metric.
    """

    step: int
    loss: Value
    training: float | None
    partner: str | None = None
    beside: Value | None = None

    def plain(self) -> list[Any]:
        """As plain values, for a checkpoint."""
        return [self.step, _plain(self.loss), self.training, self.partner, self.beside and _plain(self.beside)]

    @classmethod
    def of(cls, plain: list[Any]) -> "Moment":
        """What `plain` wrote."""
        step, loss, training, partner, beside = plain
        return cls(step, _value(loss), training, partner, beside and _value(beside))


@dataclass
class Watched:
    """A validation loss over the run.

    Attributes:
        metric: Its name.
        patience: Validations without a better one after which it is asked.
        minimum: What counts as better, as a share of the best.
        criterion: How it is asked.
        strip: Validations in one of Prechelt's strips.
    """

    metric: str
    patience: int
    minimum: float
    criterion: Any
    strip: int
    best: Moment | None = None
    now: Moment | None = None
    count: int = 0
    since: int = 0
    direction: Direction | None = None
    steady: list[tuple[bool, bool]] = field(default_factory=list[tuple[bool, bool]])
    validation: list[float] = field(default_factory=list[float])
    training: list[float | None] = field(default_factory=list["float | None"])

    def add(self, moment: Moment, direction: Direction | None) -> bool:
        """One more validation; whether it is the best so far."""
        self.now, self.direction = moment, direction
        self.count += 1
        self.validation.append(moment.loss.value)
        self.training.append(moment.training)
        if len(self.validation) > MOST:
            cut = MOST // 2 // self.strip * self.strip
            self.validation, self.training = self.validation[cut:], self.training[cut:]
        best = self.best
        if best is None or moment.loss.value < best.loss.value - self.minimum * abs(best.loss.value):
            self.best, self.since, self.steady = moment, 0, []
            return True
        self.since += 1
        above = moment.loss.value > best.loss.value
        self.steady = [*self.steady, (above, self._is_worse(best, moment))][-self.patience :]
        return False

    def _is_worse(self, best: Moment, now: Moment) -> bool:
        if best.beside is None or now.beside is None or best.partner != now.partner:
            return False
        change = now.beside.value - best.beside.value
        return change > 0 if self.direction == "min" else change < 0

    def onset(self, *, share: bool, fewest: int) -> Onset | None:
        """What the rules are asked with; None before there is anything.

        Args:
            share: Whether the metric beside the loss is a share of samples.
            fewest: Batches from which on a rise is told from noise.
        """
        best, now = self.best, self.now
        if best is None or now is None:
            return None
        band = rise(now.loss.series, best.loss.series, fewest=fewest)
        beside, worst = (now.beside, best.beside) if best.partner == now.partner else (None, None)
        low = None if beside is None or worst is None else self._lowest(beside, worst, share=share, fewest=fewest)
        whole = len(self.steady) >= self.patience
        return Onset(
            metric=self.metric,
            step=best.step,
            validations=self.count,
            since=self.since,
            patience=self.patience,
            criterion=self.criterion,
            score=self._score(best),
            best=best.loss.value,
            now=now.loss.value,
            low=None if band is None else band.low,
            steady=whole and all(above for above, _ in self.steady),
            training_best=best.training,
            training_now=now.training,
            partner=None if beside is None or worst is None else now.partner,
            partner_best=None if worst is None else worst.value,
            partner_now=None if beside is None else beside.value,
            partner_low=low,
            partner_steady=whole and all(worse for _, worse in self.steady),
        )

    def _lowest(self, now: Value, best: Value, *, share: bool, fewest: int) -> float | None:
        """The least by which the metric beside the loss has got worse."""
        band = rise(now.series, best.series, fewest=fewest) or difference(now, best, share=share)
        if band is None:
            return None
        return band.low if self.direction == "min" else -band.high

    def _score(self, best: Moment) -> float | None:
        """What Prechelt's criterion comes to; None if it cannot be told."""
        if self.criterion == "patience":
            return None
        series = [best.loss.value, *self.validation]
        if self.criterion == "UP":
            return float(statistics.successive_rises(self.validation, strip=self.strip))
        if min(series) <= 0:
            return None
        if self.criterion == "GL":
            return statistics.generalization_loss(series)
        training = [each for each in self.training[-self.strip :] if each is not None]
        if len(training) < self.strip or min(training) <= 0 or len(self.validation) % self.strip:
            return None
        return statistics.progress_quotient(series, training, strip=self.strip)

    def plain(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        return {
            "best": self.best and self.best.plain(),
            "now": self.now and self.now.plain(),
            "count": self.count,
            "since": self.since,
            "direction": self.direction,
            "steady": [list(each) for each in self.steady],
            "validation": list(self.validation),
            "training": list(self.training),
        }

    def load(self, plain: Mapping[str, Any]) -> None:
        """Take up what `plain` wrote."""
        self.best, self.now = (plain[name] and Moment.of(plain[name]) for name in ("best", "now"))
        self.count, self.since, self.direction = plain["count"], plain["since"], plain["direction"]
        self.steady = [(above, worse) for above, worse in plain["steady"]]
        self.validation, self.training = list(plain["validation"]), list(plain["training"])


def _plain(value: Value) -> list[Any]:
    return [value.value, value.samples, value.series and value.series.plain()]


def _value(plain: list[Any]) -> Value:
    number, samples, series = plain
    return Value(number, samples, series and Series.of(series))
