"""What batches have in common, or not: their structure, how many samples they hold, and whether they are equal."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_DEPTH = 6  # of objects in each other


def batch_form(batch: Any) -> tuple[Any, ...]:
    """The structure of a batch, as something hashable: containers, keys, dimensions and dtypes, but no sizes.

    Args:
        batch: What a loader gives, on any device.

    Returns:
        What is equal for batches of one structure. A list of one entry per sample counts without its length,
        and a tuple as a list.

    Example:
        >>> image, label = torch.zeros(8, 3, 4, 4), torch.zeros(8, dtype=torch.long)
        >>> batch_form([image, label]) == batch_form([image[:2], label[:2]])
        True
        >>> batch_form([image, label]) == batch_form([image, image])
        False
    """
    return _form(batch, nested=False)


def without_widths(form: Any) -> Any:
    """A form in which all floating-point types are one, as they are before a precision plugin has changed them."""
    if isinstance(form, tuple):
        return tuple(without_widths(each) for each in form)
    return "float" if isinstance(form, torch.dtype) and form.is_floating_point else form


def rows(batch: Any) -> int:
    """How many samples a batch holds: the first axis of its first tensor, or the length of a list of samples.

    Example:
        >>> rows({"x": torch.zeros(3, 2)}), rows([{"x": torch.zeros(2)}] * 4)
        (3, 4)
    """
    return _rows(batch, nested=False) or 1


def alike(one: Any, other: Any) -> bool:
    """Whether two batches hold the same values. What cannot be compared counts as the same."""
    return _alike(one, other, _DEPTH)


def _form(value: Any, *, nested: bool) -> tuple[Any, ...]:
    if isinstance(value, Tensor):
        return "tensor", value.dim(), value.dtype
    if isinstance(value, np.ndarray):
        return "array", value.ndim, str(value.dtype)
    kind = type(value)
    if isinstance(value, Mapping):
        items = sorted(value.items(), key=lambda item: str(item[0]))
        return kind, tuple((key, _form(each, nested=True)) for key, each in items)
    if isinstance(value, list | tuple):
        parts = tuple(_form(each, nested=True) for each in value)
        return list if kind is tuple else kind, parts[:1] if _is_of_samples(parts, nested=nested) else parts
    return (kind,)


def _is_of_samples(parts: tuple[Any, ...], *, nested: bool) -> bool:
    """Whether a list is one of samples: its entries are alike, and it is not the outermost list, of tensors."""
    return len(set(parts)) == 1 and (nested or parts[0][0] != "tensor")


def _rows(value: Any, *, nested: bool) -> int | None:
    if isinstance(value, Tensor | np.ndarray):
        return value.shape[0] if value.ndim else None
    if isinstance(value, list | tuple):
        if _is_of_samples(tuple(_form(each, nested=True) for each in value), nested=nested):
            return len(value)
    elif not isinstance(value, Mapping):
        return None
    parts = value.values() if isinstance(value, Mapping) else value
    return next((found for each in parts if (found := _rows(each, nested=True)) is not None), None)


def _alike(one: Any, other: Any, depth: int) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and _values(torch.equal, one, other)
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and one.dtype == other.dtype and _values(np.array_equal, one, other)
    if not depth or isinstance(one, weakref.ReferenceType):
        return True
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key], depth - 1) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_alike(a, b, depth - 1) for a, b in zip(one, other, strict=True))
    if type(one).__eq__ is object.__eq__:
        return _alike(getattr(one, "__dict__", {}), getattr(other, "__dict__", {}), depth - 1)
    try:
        return bool(one == other) or bool(one != one and other != other)  # NaN is NaN
    except Exception:  # noqa: BLE001  # values of the user's own kind
        return True


def _values(equal: Callable[[Any, Any], bool], one: Any, other: Any) -> bool:
    """Whether two arrays hold the same values, NaN where NaN is."""
    if equal(one, other):
        return True
    numbers = one.dtype.is_floating_point if isinstance(one, Tensor) else one.dtype.kind == "f"
    return numbers and bool(((one == other) | ((one != one) & (other != other))).all())
