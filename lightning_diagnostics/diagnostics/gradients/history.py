"""What the steps of one optimizer add up to, on the host: moments, shares, and the noise scale."""

import math
import statistics as plain
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_diagnostics.diagnostics.gradients.measure import Excursions, OptimizerGradients
from lightning_diagnostics.statistics import ExponentialMoments, gradient_noise, spread

FEW = 10
"""Steps that a variance takes at least."""

NOISE_DECAY = 0.99
"""Of the averages of noise and signal, whose quotient is the noise scale."""

_NOT_CLIPPED = 0.99999
"""What rounding leaves of a norm that was computed twice."""


@dataclass(frozen=True)
class Taken:
    """One optimizer step in plain numbers, of this process or of all of them.

    Attributes:
        name: Of the optimizer.
        step: On the axis of ``self.log``.
        batch: Training batches before it, in this process.
        before: The squared norm before clipping; None if it was not seen.
        after: The squared norm of what the optimizer was given; None if it was not seen.
        each: The squared norms of the gradients by parameter; empty if they were not kept.
        named: The parameters that had a gradient.
        loss: The last loss before the step.
        first: The squared norm of the first micro-batch, its samples, and those of all.
        scaled: Whether a gradient scaler was at work.
        stepped: Whether the optimizer ran.
    """

    name: str
    step: int
    batch: int
    before: float | None
    after: float | None
    each: Mapping[str, float]
    named: tuple[str, ...]
    loss: float | None = None
    first: tuple[float, int, int] | None = None
    scaled: bool = False
    stepped: bool = True

    @property
    def norm(self) -> float:
        """The norm before clipping, or of what the optimizer was given where that was not seen; NaN if neither was."""
        square = self.before if self.before is not None else self.after
        return math.nan if square is None else math.sqrt(square)

    @property
    def factor(self) -> float | None:
        """What clipping left of the norm; None if it is not known."""
        if self.before is None or self.after is None or not math.isfinite(self.before):
            return None
        return math.sqrt(self.after / self.before) if self.before else 1.0

    @property
    def skipped(self) -> bool:
        """Whether the scaler skipped it: optimizers that unscale by themselves are run, and do nothing."""
        return self.scaled and (not self.stepped or not math.isfinite(self.norm))

    def summed(self, others: Sequence["Taken"]) -> "Taken":
        """The step of all processes, of which each has its part of every parameter."""
        every = [self, *others]
        names = dict.fromkeys(name for one in every for name in one.each)
        return Taken(
            self.name,
            self.step,
            self.batch,
            total([one.before for one in every]),
            total([one.after for one in every]),
            {name: total([one.each.get(name, 0.0) for one in every]) or 0.0 for name in names},
            tuple(dict.fromkeys(name for one in every for name in one.named)),
            self.loss,
            None,
            self.scaled,
            self.stepped,
        )


def total(values: Sequence[float | None]) -> float | None:
    """The sum of the parts of several processes, NaN or infinite if one is; None if a part is not known."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return math.fsum(known) if all(map(math.isfinite, known)) else sum(known)


@dataclass(frozen=True)
class _Seen:
    """What the window keeps of a step."""

    step: int
    norm: float
    factor: float | None
    skipped: bool
    loss: float | None


@dataclass(eq=False)
class History:
    """The steps of one optimizer.

    Args:
        name: Of the optimizer.
        window: Steps that moments and shares are of.
        factor: How far above the median of its past a norm is an excursion.
        past: Steps that such a past has at least.
        surge: How far above the largest loss so far the next loss is after a surge, of which one is enough.
        surge_past: Steps before a surge, at least.
    """

    name: str
    window: int
    factor: float
    past: int
    surge: float = 10.0
    surge_past: int = 5
    steps: int = 0
    since: int | None = None
    last_finite: int | None = None

    def __post_init__(self) -> None:
        self.past = min(self.past, self.window)
        self._recent: deque[_Seen] = deque(maxlen=self.window)
        self._average = ExponentialMoments(1 - 2 / (self.window + 1))
        self._scaled = False
        self._noise = self._signal = 0.0
        self._noises = 0
        self._largest: float | None = None
        self._first_mean: float | None = None
        self._first_loss: float | None = None
        self._earlier: deque[float] = deque(maxlen=self.window)  # losses that have left the window
        self._away: deque[_Away] = deque(maxlen=self.window)
        self._largest_loss: float | None = None  # of the whole run
        self.last: Taken | None = None

    def take(self, taken: Taken) -> None:
        """Take up the next step."""
        self.steps += 1
        self.since = taken.step if self.since is None else self.since
        self.last = taken
        self._scaled = self._scaled or taken.scaled
        norm = taken.norm
        if self._away and self._away[-1].step == self._last_step() and taken.loss is not None:
            self._away[-1].after = taken.loss
        if math.isfinite(norm):
            self.last_finite = taken.step
            self._average = self._average.update(norm)
            self._largest = norm if self._largest is None else max(self._largest, norm)
            self._watch_for_excursions(taken, norm)
        if taken.loss is not None and math.isfinite(taken.loss):
            self._largest_loss = taken.loss if self._largest_loss is None else max(self._largest_loss, taken.loss)
        if taken.first is not None and math.isfinite(norm) and math.isfinite(taken.first[0]):
            small, samples, of = taken.first
            self.take_noise(small, norm**2, small=samples, big=of)
        if len(self._recent) == self.window and (left := self._recent[0].loss) is not None:
            self._earlier.append(left)
        self._recent.append(_Seen(taken.step, norm, taken.factor, taken.skipped, taken.loss))
        if self._first_mean is None and len(self._recent) == self.window:
            finite = self._norms()
            self._first_mean = plain.fmean(finite) if finite else None
            self._first_loss = _mean(seen.loss for seen in self._recent)

    def take_noise(self, small_square: float, big_square: float, *, small: float, big: float) -> None:
        """Take up what one step tells of the noise."""
        signal, noise = gradient_noise(small_square, big_square, small=small, big=big)
        self._signal = NOISE_DECAY * self._signal + (1 - NOISE_DECAY) * signal
        self._noise = NOISE_DECAY * self._noise + (1 - NOISE_DECAY) * noise
        self._noises += 1

    def _watch_for_excursions(self, taken: Taken, norm: float) -> None:
        """A step stands out if its norm is far above the median, and the loss then, or next, above all before it."""
        known = [seen.norm for seen in self._recent if math.isfinite(seen.norm)]
        losses = [seen.loss for seen in self._recent if seen.loss is not None and math.isfinite(seen.loss)]
        past = min(len(known), len(losses))
        if past < min(self.past, self.surge_past, self.window) or taken.loss is None:
            return
        if norm <= self.factor * min(known):  # nor above the median, then; to sort takes longer than the rest
            return
        median = plain.median(known)
        if norm > self.factor * median > 0:
            most = self._largest_loss if self._largest_loss is not None else math.inf
            self._away.append(_Away(taken.step, norm, median, taken.loss, max(losses), most, past))

    def _last_step(self) -> int | None:
        return self._recent[-1].step if self._recent else None

    def excursions(self) -> Excursions:
        """The steps of the window that stand out."""
        first = self._recent[0].step if self._recent else 0
        recent = [away for away in self._away if away.step >= first]
        out = [away for away in recent if away.past >= self.past and not away.loss <= away.earlier_loss]
        surges = [away for away in recent if away.past >= self.surge_past and away.is_surge(self.surge)]
        worst = max(surges or out, key=lambda away: away.norm, default=None)
        return Excursions(
            self.name,
            tuple(away.step for away in out),
            worst.norm if worst else 0.0,
            worst.median if worst else 0.0,
            worst.loss if worst else 0.0,
            0.0 if worst is None else worst.largest_loss if surges else worst.earlier_loss,
            tuple(away.step for away in surges),
            any(seen.factor is not None and seen.factor < _NOT_CLIPPED for seen in self._recent),
        )

    def measured(self, *, zero_share: float | None = None, rate: float | None = None) -> OptimizerGradients:
        """What is drawn of the last step and of the window, and judged of it."""
        assert self.last is not None
        last, norms = self.last, self._norms()
        factors = [seen.factor for seen in self._recent if seen.factor is not None]
        enough = len(norms) >= FEW
        mean, variance, cv = spread(norms) if norms else (None, None, None)
        sd = math.sqrt(variance) if enough and variance is not None else None
        scale = self._noise / self._signal if self._signal > 0 <= self._noise and self._noises >= FEW else None
        return OptimizerGradients(
            layer=self.name,
            step=last.step,
            since=self._recent[0].step,
            window=self.window,
            values=len(norms),
            judged=len(factors),
            median_factor=plain.median(factors) if factors else None,
            first_mean=self._first_mean,
            first_loss=self._first_loss,
            loss=_mean(seen.loss for seen in self._recent),
            earlier_loss=_mean(self._earlier) if len(self._earlier) == self.window else None,
            zero_steps=sum(norm == 0 for norm in norms),
            norm=_root(last.before),
            norm_after=_root(last.after) if last.stepped else None,
            mean=mean if enough else None,  # TensorBoard draws a band only where all three have the same steps
            lower=max(0.0, mean - sd) if sd is not None and mean is not None else None,
            upper=mean + sd if sd is not None and mean is not None else None,
            variance=variance if enough else None,
            cv=cv if enough else None,
            average=self._average.mean if self._average.count else None,
            average_variance=self._average.variance if self._average.count >= FEW else None,
            largest=self._largest,
            clipped_share=_share([factor < _NOT_CLIPPED for factor in factors]),
            clip_factor=last.factor if last.factor is None or last.factor < _NOT_CLIPPED else 1.0,
            skipped_share=_share([seen.skipped for seen in self._recent]) if self._scaled else None,
            zero_share=zero_share,
            noise_scale=scale,
            rate=rate,
        )

    def drawn(self) -> None:
        """It has been drawn: the largest norm is that of the steps from here on."""
        self._largest = None

    def _norms(self) -> list[float]:
        return [seen.norm for seen in self._recent if math.isfinite(seen.norm)]

    # Resuming.

    def state(self) -> dict[str, Any]:
        """All of it in plain values."""
        return {
            "steps": self.steps,
            "since": self.since,
            "last_finite": self.last_finite,
            "recent": [[s.step, s.norm, s.factor, s.skipped, s.loss] for s in self._recent],
            "average": [self._average.mean, self._average.variance, self._average.count],
            "scaled": self._scaled,
            "noise": [self._noise, self._signal, self._noises],
            "first": [self._first_mean, self._first_loss],
            "earlier": list(self._earlier),
            "away": [[a.step, a.norm, a.median, a.own, a.earlier_loss, a.most, a.past, a.after] for a in self._away],
            "largest_loss": self._largest_loss,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave; of a longer window the last steps."""
        self.steps, self.since, self.last_finite = state["steps"], state["since"], state["last_finite"]
        self._recent.extend(_Seen(*values) for values in state["recent"])
        self._average = ExponentialMoments(self._average.decay, *state["average"])
        self._scaled = state["scaled"]
        self._noise, self._signal, self._noises = state["noise"]
        self._first_mean, self._first_loss = state["first"]
        self._earlier.extend(state["earlier"])
        self._away.extend(_Away(*values) for values in state["away"])
        self._largest_loss = state["largest_loss"]


@dataclass(eq=False)
class _Away:
    """A step whose norm is far above the median before it."""

    step: int
    norm: float
    median: float
    own: float  # the loss at that step
    earlier_loss: float
    most: float  # the largest loss of the run before it
    past: int  # steps that it was compared with
    after: float | None = None  # the loss at the next step

    @property
    def loss(self) -> float:
        """The loss at that step or the next, whichever is larger."""
        return self.own if self.after is None else _larger(self.own, self.after)

    @property
    def largest_loss(self) -> float:
        """The largest of the run up to that step."""
        return max(self.most, self.own)

    def is_surge(self, factor: float) -> bool:
        """Whether the step itself threw the loss up: a batch that is unlike the rest has a large loss at that step."""
        return self.after is not None and self.most > 0 and not self.after <= factor * self.largest_loss


def _larger(one: float, other: float) -> float:
    """The larger of two losses, of which NaN is the largest."""
    return one if math.isnan(one) or one > other else other


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return plain.fmean(known) if known else None


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def _root(square: float | None) -> float | None:
    return None if square is None else math.sqrt(square)
