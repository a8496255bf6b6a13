"""What is drawn of learning rates: the plan before the first step, and the rates that are used."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lightning_diagnostics.diagnostics.learning_rate.foresight import Foreseen
from lightning_diagnostics.diagnostics.learning_rate.measure import Planned, Used
from lightning_diagnostics.diagnostics.learning_rate.names import beta2, group_names
from lightning_diagnostics.diagnostics.learning_rate.plan import Plan

_GROUPS = 12  # of all optimizers together, evenly spread: some programs have one for each layer


def drawn_groups(optimizers: Mapping[int, Optimizer], names: Sequence[str]) -> list[tuple[int, int, str]]:
    """The groups that are drawn: place of the optimizer, index of the group, and its name."""
    every = [
        (place, index, name)
        for place, optimizer in optimizers.items()
        for index, name in enumerate(group_names(names[place], optimizer.param_groups))
    ]
    if len(every) <= _GROUPS:
        return every
    return [every[round(i * (len(every) - 1) / (_GROUPS - 1))] for i in range(_GROUPS)]


def planned(
    foreseen: Foreseen, plan: Plan, optimizers: Mapping[int, Optimizer], names: Sequence[str]
) -> dict[int, list[Planned]]:
    """The planned rates by step, counted from the step that the run begins at."""
    points: dict[int, list[Planned]] = {}
    for place, index, name in drawn_groups(optimizers, names):
        curve = plan.ahead(beta2(optimizers[place], optimizers[place].param_groups[index]))
        for step, rates in zip(foreseen.steps, foreseen.rates, strict=True):
            one = Planned(name, rates[place][index] * curve.factor(step, [step]))
            points.setdefault(step - foreseen.first, []).append(one)
    return points


def used(
    rates: Mapping[int, Sequence[Any]],
    factors: Mapping[int, Sequence[float]],
    optimizers: Mapping[int, Optimizer],
    names: Sequence[str],
) -> list[Used]:
    """The rates of one step; a tensor is transferred.

    Args:
        rates: Of the groups of optimizers, by the place of the optimizer.
        factors: With which they were multiplied; empty if they were not.
        optimizers: By their place.
        names: Of the optimizers.
    """
    found: list[Used] = []
    for place, index, name in drawn_groups(optimizers, names):
        of, by = rates.get(place, ()), factors.get(place, ())
        rate: Any = of[index] if index < len(of) else None
        if rate is not None:
            number = rate.item() if isinstance(rate, Tensor) else rate
            found.append(Used(name, float(number), by[index] if index < len(by) else None))
    return found
