"""Numbers that a module gathers in lists, batch by batch, for a hook of its own at the end of the validation."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_diagnostics.diagnostics.generalization_gap.tally import transferred


@dataclass(frozen=True)
class Gathered:
    """The numbers of one list, or those under one key of the mappings in it.

    Attributes:
        total: Their sum.
        count: How many there are.
    """

    total: float
    count: int


def mean(parts: list[Gathered]) -> float | None:
    """The mean of the numbers of all processes; None if there are none."""
    count = sum(each.count for each in parts)
    value = math.fsum(each.total for each in parts) / count if count else math.nan
    return value if math.isfinite(value) else None


def lengths(module: nn.Module) -> dict[str, int]:
    """How long the lists of a module are, by their path."""
    return {path: len(each) for path, each in _lists(module)}


def gathered(module: nn.Module, *, behind: Mapping[str, int] | None = None) -> dict[str, Gathered]:
    """What is in the lists of a module, by the path that evaluates to it; nothing of lists with other things in them.

    Args:
        module: The module.
        behind: How long the lists were; only what came after is taken.
    """
    columns: dict[str, list[Any]] = {}
    for path, each in _lists(module):
        columns |= _columns(path, each[(behind or {}).get(path, 0) :])
    columns = {path: each for path, each in columns.items() if each and all(map(_is_number, each))}
    flat = [each for column in columns.values() for each in column]
    read = transferred([each if isinstance(each, Tensor) else None for each in flat])
    values = iter([one if isinstance(each, Tensor) else float(each) for each, one in zip(flat, read, strict=True)])
    return {path: Gathered(math.fsum(next(values) for _ in column), len(column)) for path, column in columns.items()}


def _lists(module: nn.Module) -> Iterator[tuple[str, list[Any]]]:
    """The lists among the attributes of a module, and those in a dict there."""
    for name, value in vars(module).items():
        if name.startswith("_"):
            continue
        if isinstance(value, list):
            yield name, value  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        elif isinstance(value, dict):
            for key, each in value.items():  # pyright: ignore[reportUnknownVariableType]
                if isinstance(key, str | int) and isinstance(each, list):
                    yield f"{name}[{key!r}]", each  # pyright: ignore[reportUnknownVariableType]


def _columns(path: str, items: list[Any]) -> dict[str, list[Any]]:
    """A list by itself, or one for each key of the mappings in it."""
    if not items or not all(isinstance(each, Mapping) for each in items):
        return {path: items}
    keys = [key for key in items[0] if isinstance(key, str) and all(key in each for each in items)]
    return {f"{path}[:][{key!r}]": [each[key] for each in items] for key in keys}


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, int | float) and not isinstance(value, bool)
