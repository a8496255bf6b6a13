"""Hyperparameters as plain values, whatever they are and whoever has them."""

import enum
import math
from collections.abc import Iterator, Mapping
from typing import Any

_OF_THE_COMMAND_LINE = ("_instantiator", "_class_path")  # by which Lightning's CLI makes an object again
_MOST_NAMES = 1000
_MOST_LETTERS = 1000


def plain(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Hyperparameters by name, as values that JSON has; nested ones as one, in the order of their names."""
    return {name: _one(value) for name, value in sorted(dict(_flat(values)).items())[:_MOST_NAMES]}


def _flat(values: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as one, with the names that loggers give them."""
    for name, value in values.items():
        if not above and name in _OF_THE_COMMAND_LINE:
            continue
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", value


def _one(value: Any) -> Any:
    """A value that JSON has."""
    if value is None or type(value) in (bool, int):
        return value
    if type(value) is str:
        return value[:_MOST_LETTERS]
    if type(value) is float:
        return value if math.isfinite(value) else str(value)
    try:
        if callable(getattr(value, "item", None)) and getattr(value, "ndim", None) == 0:  # a number of numpy or torch
            return _one(value.item())
        if isinstance(value, enum.Enum):
            return str(value)
        for kind in (str, int, float):  # of a class of its own, which no file has
            if isinstance(value, kind):
                return _one(kind(value))
        if isinstance(value, list | tuple):
            return str([_one(each) for each in value])[:_MOST_LETTERS]
        return str(value)[:_MOST_LETTERS]
    except Exception:  # noqa: BLE001  # an object of the user's without a text
        return type(value).__name__
