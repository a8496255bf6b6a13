"""From what waits on the devices to plain numbers by the names of parameters, of one process or of all of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lightning_diagnostics.diagnostics.gradients.history import Taken, total
from lightning_diagnostics.diagnostics.gradients.looking import ParameterLook, fetched
from lightning_diagnostics.diagnostics.gradients.parameters import Parameter
from lightning_diagnostics.diagnostics.gradients.steps import Measured, OptimizerStep
from lightning_diagnostics.probes import Fetched, Slot


@dataclass(frozen=True)
class Collected:
    """One optimizer step, and what a look has read of it.

    Attributes:
        taken: The step.
        looks: By parameter; None if the step was not looked at.
        rate: The learning rate; None if the step was not looked at.
        drawn: Whether it is to be drawn.
    """

    taken: Taken
    looks: Mapping[str, ParameterLook] | None = None
    rate: float | None = None
    drawn: bool = False

    def trimmed(self) -> "Collected":
        """Without what only a look, or a gradient that is not finite, is asked for."""
        taken = self.taken
        if self.looks is not None or not all(map(math.isfinite, taken.each.values())):
            return self
        return replace(self, taken=replace(taken, each={}))

    def summed(self, others: Sequence["Collected"]) -> "Collected":
        """The step of all processes, of which each has its part of every parameter; without histograms."""
        looks = None
        if self.looks is not None:
            names = dict.fromkeys(name for one in (self, *others) for name in one.looks or ())
            looks = {name: _summed([(one.looks or {}).get(name) for one in (self, *others)]) for name in names}
        return Collected(self.taken.summed([other.taken for other in others]), looks, self.rate, self.drawn)


def collect(
    steps: Sequence[OptimizerStep],
    numbers: Fetched,
    parameters: Mapping[int, Parameter],
    *,
    shares: Mapping[int, float],
) -> list[Collected]:
    """What the steps come to.

    Args:
        steps: In their order.
        numbers: What they have waiting.
        parameters: Of the model, by ``id``.
        shares: Of every parameter, what part of its numbers is this process's to count; 1 if left out.
    """
    return [_collected(step, numbers, parameters, shares) for step in steps]


def _collected(
    step: OptimizerStep, numbers: Fetched, parameters: Mapping[int, Parameter], shares: Mapping[int, float]
) -> Collected:
    gradients = step.gradients
    keys = gradients.keys if gradients is not None else ()
    names = {key: parameters[key].name if key in parameters else f"{step.name}[{i}]" for i, key in enumerate(keys)}
    each: dict[str, float] = {}
    for slot, members in gradients.vector if gradients is not None else ():
        for key, norm in zip(members, numbers[slot], strict=True):
            each[names[key]] = norm * norm * shares.get(key, 1.0)
    first = None
    if step.first is not None:
        slots, batches, samples, of = step.first
        first = (_square(slots, numbers) * batches**2, samples, of)
    taken = Taken(
        step.name,
        step.step,
        step.batch,
        _squared(step.before, numbers),
        _squared(step.after, numbers),
        each,
        tuple(names.values()),
        numbers[step.loss][0] * step.divided if step.loss is not None else None,
        first,
        step.scaled,
        step.stepped,
    )
    if step.look is None:
        return Collected(taken)
    read, rate = fetched(step.look, numbers)
    looks = {names[key]: _shared(look, shares.get(key, 1.0)) for key, look in read.items() if key in names}
    return Collected(taken, looks, rate)


def _squared(measured: Measured | None, numbers: Fetched) -> float | None:
    return None if measured is None else _square(measured.norm, numbers)


def _square(slots: Sequence[Slot], numbers: Fetched) -> float:
    return sum(number * number for slot in slots for number in numbers[slot])


def _shared(look: ParameterLook, share: float) -> ParameterLook:
    """What of it is this process's to count."""
    if share == 1.0:
        return look
    return replace(look, zeros=look.zeros * share, weight=_times(look.weight, share), update=_times(look.update, share))


def _summed(looks: Sequence[ParameterLook | None]) -> ParameterLook:
    known = [look for look in looks if look is not None]
    return ParameterLook(
        sum(look.zeros for look in known),
        total([look.weight for look in known]),
        total([look.update for look in known]),
    )


def _times(value: float | None, share: float) -> float | None:
    return None if value is None else value * share
