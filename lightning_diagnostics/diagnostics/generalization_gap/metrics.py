"""Objects of torchmetrics: found on a module, set aside and put back, and computed over the states of all processes."""

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

MOST_BYTES = 16 << 20
"""The states of a metric are exchanged between processes up to this size."""

_CONTAINERS = 3  # lists and dicts in each other that are searched for metrics

State = dict[str, Any]
"""The state of a metric: tensors, or lists of tensors, by name."""


def found(module: nn.Module) -> dict[str, Metric]:
    """Every metric of a module by its path, those in plain lists and dicts too."""
    metrics: dict[str, Metric] = {}
    for path, each in module.named_modules():
        if isinstance(each, Metric):
            metrics[path] = each
        elif not isinstance(each, MetricCollection):
            for name, value in vars(each).items():
                if isinstance(value, list | tuple | dict) and not name.startswith("_"):
                    metrics |= _contained(f"{path}.{name}" if path else name, value, _CONTAINERS)
    return metrics


def _contained(path: str, value: Any, depth: int) -> dict[str, Metric]:
    if isinstance(value, nn.Module):
        own = {f"{path}.{name}" if name else path: each for name, each in value.named_modules()}
        return {name: each for name, each in own.items() if isinstance(each, Metric)}
    if not depth or not isinstance(value, list | tuple | dict) or len(value) > 100:  # pyright: ignore[reportUnknownArgumentType]
        return {}
    items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return {name: each for key, one in items for name, each in _contained(f"{path}[{key!r}]", one, depth - 1).items()}


@contextlib.contextmanager
def set_aside(module: nn.Module) -> Iterator[None]:
    """Within it every metric is as new; afterwards each is as it was, its states the very same objects."""
    metrics = found(module).values()
    collections = [each for each in module.modules() if isinstance(each, MetricCollection)]
    kept = [(each, dict(vars(each))) for each in (*metrics, *collections)]
    try:
        for metric in metrics:
            renew(metric)
        yield
    finally:
        for each, own in kept:
            vars(each).clear()
            vars(each).update(own)


def renew(metric: Metric) -> None:
    """Make a metric as new, without emptying the lists it has."""
    for name, default in metric._defaults.items():
        if isinstance(default, list):
            object.__setattr__(metric, name, [])
    Metric.reset(metric)


def refer(module: nn.Module) -> None:
    """Give the metrics of each collection the states that one of them keeps for several."""
    for each in module.modules():
        if isinstance(each, MetricCollection):
            list(each.items(keep_base=True, copy_state=False))


def is_updated(metric: Metric) -> bool:
    """Whether a metric has seen anything since it was last reset."""
    return metric.update_called and bool(metric._defaults)


def state(metric: Metric) -> State:
    """The state of a metric, by reference."""
    return {name: _copied(getattr(metric, name)) for name in metric._defaults}


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def copied(state: State) -> State:
    """A state whose tensors are copies."""
    return {
        name: [each.clone() for each in value] if isinstance(value, list) else value.clone()
        for name, value in state.items()
    }


def portable(state: State) -> State | None:
    """A state on the CPU; None if it is too large, or of a kind, to be exchanged."""
    tensors = [each for value in state.values() for each in (value if isinstance(value, list) else [value])]
    if not all(isinstance(each, Tensor) for each in tensors):
        return None
    if sum(each.numel() * each.element_size() for each in tensors) > MOST_BYTES:
        return None
    return {
        name: [each.detach().cpu() for each in value] if isinstance(value, list) else value.detach().cpu()
        for name, value in state.items()
    }


def value(metric: Metric, states: list[State], device: torch.device) -> float | None:
    """What a metric comes to over the states of all processes; None if that is no number. The metric is left as it was.

    Without an exchange of its own: its states are put together as torchmetrics does it. None for a metric of metrics:
    it would have those compute, from what they hold now and with an exchange of theirs.
    """
    if any(isinstance(each, Metric) for each in metric.modules() if each is not metric):
        return None
    own = dict(vars(metric))
    try:
        for name, merged in _merged(metric, states, device).items():
            object.__setattr__(metric, name, merged)
        metric._computed = None
        metric._update_count = 1
        metric._to_sync = metric._should_unsync = False
        metric.compute_on_cpu = False
        with warnings.catch_warnings():  # it says to the user what concerns us alone
            warnings.simplefilter("ignore")
            computed = metric.compute()
        numbers = computed if isinstance(computed, Tensor) else None
        return float(numbers) if numbers is not None and numbers.numel() == 1 else None
    finally:
        vars(metric).clear()
        vars(metric).update(own)


def _merged(metric: Metric, states: list[State], device: torch.device) -> Mapping[str, Any]:
    merged: dict[str, Any] = {}
    for name, reduction in metric._reductions.items():
        values = [state[name] for state in states]
        if isinstance(values[0], list):
            merged[name] = [each.to(device) for one in values for each in one]
        elif len(values) == 1:
            merged[name] = values[0]
        elif not callable(reduction):
            raise TypeError(f"the state {name!r} of {type(metric).__name__} has no reduction over processes")
        else:
            merged[name] = reduction(torch.stack([each.to(device) for each in values]))
    return merged
