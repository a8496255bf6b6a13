"""What is remembered of the validations of a run: the best, and how the curves went."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from lightning_diagnostics import statistics
from lightning_diagnostics.callback.directions import Direction
from lightning_diagnostics.diagnostics.generalization_gap.measure import Onset, Value, difference, rise
from lightning_diagnostics.diagnostics.generalization_gap.tally import Series

MOST = 2_000
"""Validations whose values are kept, before the older half is dropped."""

NOISE_OF = 60
"""Validations that tell how much a curve varies from one to the next."""


@dataclass
class Streak:
    """In how many validations in a row something held.

    Attributes:
        count: How many.
        since: The step of the first of them.
        missed: In how many validations in a row it has not held.
    """

    count: int = 0
    since: int = -1
    missed: int = 0

    def update(self, holds: bool, *, step: int) -> bool:
        """One more validation; whether it holds."""
        self.since = step if holds and not self.count else self.since
        self.count = self.count + 1 if holds else 0
        self.missed = 0 if holds else self.missed + 1
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
        large: Whether it shall be large, as an accuracy; then its negative is what is followed.
    """

    metric: str
    patience: int
    minimum: float
    criterion: Any
    strip: int
    large: bool = False
    best: Moment | None = None
    now: Moment | None = None
    count: int = 0
    since: int = 0
    direction: Direction | None = None
    reference: float | None = None
    samples: int = 0
    steady: list[tuple[bool, bool]] = field(default_factory=list[tuple[bool, bool]])
    validation: list[float] = field(default_factory=list[float])
    training: list[float | None] = field(default_factory=list["float | None"])
    beside: list[float | None] = field(default_factory=list["float | None"])

    def add(self, moment: Moment, direction: Direction | None, *, samples: int = 0) -> bool:
        """One more validation; whether it is the best so far, or cannot be compared with the best.

        Args:
            moment: The validation.
            direction: Which way the metric beside it is better.
            samples: How many training samples the twin is of.
        """
        self.now, self.direction = moment, direction
        self.count += 1
        self.validation.append(self._cost(moment.loss.value))
        self.training.append(None if moment.training is None else self._cost(moment.training))
        self.beside.append(None if moment.beside is None else moment.beside.value)
        if len(self.validation) > MOST:
            cut = MOST // 2 // self.strip * self.strip
            self.validation, self.training = self.validation[cut:], self.training[cut:]
            self.beside = self.beside[cut:]
        best, cost = self.best, self.validation[-1]
        if best is not None and best.partner == moment.partner:
            lowest = self._cost(best.loss.value)
            if cost >= lowest - self.minimum * abs(lowest):
                self.since += 1
                self.steady = [*self.steady, (cost > lowest, self._is_worse(best, moment))][-self.patience :]
                self._refer(samples)
                return False
        self.best, self.since, self.steady, self.samples = moment, 0, [], samples
        self.reference = self.training[-1]
        return True

    def _cost(self, value: float) -> float:
        """A metric so that it shall be small."""
        return -value if self.large else value

    def _refer(self, samples: int) -> None:
        """Twins of other samples are not compared: begin anew with the training loss."""
        if samples and (samples != self.samples or self.reference is None):
            self.reference, self.samples = self.training[-1], samples

    def _is_worse(self, best: Moment, now: Moment) -> bool:
        if best.beside is None or now.beside is None:
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
        last = max(1, min(self.patience, self.since))
        ends = (now.loss.series, best.loss.series)
        band = rise(*(reversed(ends) if self.large else ends), fewest=fewest)
        low = None
        if now.beside is not None and best.beside is not None:
            low = self._lowest(now.beside, best.beside, share=share, fewest=fewest)
        whole = len(self.steady) >= self.patience
        return Onset(
            metric=self.metric,
            large=self.large,
            step=best.step,
            validations=self.count,
            since=self.since,
            patience=self.patience,
            last=last,
            criterion=self.criterion,
            score=self._score(best),
            best=self._cost(best.loss.value),
            now=_mean(self.validation[-last:]) or 0.0,
            noise=_noise(self.validation),
            low=None if band is None else band.low,
            steady=whole and all(above for above, _ in self.steady),
            training_best=self.reference,
            training_now=_mean([each for each in self.training[-last:] if each is not None]),
            partner=now.partner,
            partner_best=None if best.beside is None else best.beside.value,
            partner_now=_mean(self.beside[-last:]),
            partner_noise=_noise([each for each in self.beside if each is not None]),
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
        series = [self._cost(best.loss.value), *self.validation]
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
            "beside": list(self.beside),
            "reference": self.reference,
            "samples": self.samples,
            "large": self.large,
        }

    def load(self, plain: Mapping[str, Any]) -> None:
        """Take up what `plain` wrote."""
        self.best, self.now = (plain[name] and Moment.of(plain[name]) for name in ("best", "now"))
        self.count, self.since, self.direction = plain["count"], plain["since"], plain["direction"]
        self.steady = [(above, worse) for above, worse in plain["steady"]]
        self.validation, self.training = list(plain["validation"]), list(plain["training"])
        self.beside, self.reference, self.samples = list(plain["beside"]), plain["reference"], plain["samples"]
        self.large = plain["large"]


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None if one is unknown."""
    known = [each for each in values if each is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _noise(values: list[float]) -> float:
    """The standard deviation of a curve around its course, from its second differences; 0 with too few of them.

    The median of their sizes, over 0.6745 for a normal distribution, over the root of six for what they are made of.
    """
    recent = values[-NOISE_OF:]
    bends = [
        abs(after - 2 * here + before) for before, here, after in zip(recent, recent[1:], recent[2:], strict=False)
    ]
    return median(bends) / 0.6745 / math.sqrt(6) if len(bends) > 1 else 0.0


def _plain(value: Value) -> list[Any]:
    return [value.value, value.samples, value.series and value.series.plain()]


def _value(plain: list[Any]) -> Value:
    number, samples, series = plain
    return Value(number, samples, series and Series.of(series))
