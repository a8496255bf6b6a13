"""What an optimizer's step is made of: how often its hooks run, and the learning rates it uses."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.optim import Optimizer

_factors: WeakKeyDictionary[Optimizer, Callable[[], Sequence[float]]] = WeakKeyDictionary()


def steps_within(optimizer: Optimizer) -> int:
    """How often the hooks of a step run in it: once for every class that has a step of its own and has been hooked."""
    return max(1, sum(hasattr(vars(kind).get("step"), "hooked") for kind in type(optimizer).__mro__))


def will_scale(optimizer: Optimizer, factors: Callable[[], Sequence[float]] | None) -> None:
    """Say that the learning rates of an optimizer are multiplied while it steps; None: no longer.

    Args:
        optimizer: The optimizer.
        factors: Gives the factor of each group at the step that is made next, or is being made; it holds nothing.
    """
    if factors is None:
        _factors.pop(optimizer, None)
    else:
        _factors[optimizer] = factors


def used_rates(optimizer: Optimizer) -> list[float | Tensor]:
    """The learning rates with which an optimizer's next step is made, outside of one or where it begins.

    A tensor is a copy, and nothing waits for it.
    """
    groups: list[dict[str, Any]] = optimizer.param_groups
    known = _factors.get(optimizer)
    factors = known() if known is not None else ()
    rates: list[float | Tensor] = []
    for index, group in enumerate(groups):
        rate = group.get("lr")
        if rate is not None:
            factor = factors[index] if index < len(factors) else 1.0
            rates.append(rate.detach() * factor if isinstance(rate, Tensor) else float(rate) * factor)
    return rates
