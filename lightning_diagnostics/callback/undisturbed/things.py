"""What attributes are, what they hold, and putting back which things a container holds."""

import collections
import functools
import random
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

Restore = Callable[[], None]
SCALARS = (bool, int, float, complex, str, bytes)
LIBRARIES = frozenset(
    {"torch", "lightning", "pytorch_lightning", "numpy", "lightning_diagnostics"} | sys.stdlib_module_names
) - {
    *("__main__", "types", "argparse"),  # what is plain
}
_CONTAINERS: tuple[Any, ...] = (collections.OrderedDict, dict, list, set, collections.deque, bytearray)
_MISSING = object()


def nothing(*args: Any, **kwargs: Any) -> None:
    """What stands in for ``self.log``, and for putting back what cannot change."""


def run_all(acts: Iterable[Callable[[], None]]) -> None:
    """Do everything; what goes wrong with one of them does not keep the others from it."""
    faults: list[Exception] = []
    for act in acts:
        try:
            act()
        except Exception as fault:  # noqa: BLE001, PERF203  # raised below
            faults.append(fault)
    if faults:
        raise faults[0]


def all_of(restores: Iterable[Restore]) -> Restore:
    """One that does them all."""
    some = [restore for restore in restores if restore is not nothing]
    return functools.partial(run_all, some) if some else nothing


def refilling(value: Any) -> Restore:
    """What puts back which things a container holds, whatever methods its class may have."""
    kind: Any = next(kind for kind in _CONTAINERS if isinstance(value, kind))
    old = _held(kind, value)

    def restore() -> None:
        if same(_held(kind, value), old):
            return
        if issubclass(kind, list | bytearray):
            kind.__setitem__(value, slice(None), old)
            return
        kind.clear(value)
        if issubclass(kind, dict):
            for key, each in old.items():
                kind.__setitem__(value, key, each)
        else:
            (kind.update if kind is set else kind.extend)(value, old)

    return restore


def _held(kind: Any, value: Any) -> Any:
    """What a container of a kind holds, as a plain one."""
    if issubclass(kind, dict):
        return dict(kind.items(value))
    if kind is set:
        return set.copy(value)
    return list(kind.__iter__(value)) if kind is collections.deque else kind.__getitem__(value, slice(None))


def access(value: Any) -> tuple[Callable[[], Any], Callable[[Any], object]] | None:
    """What gives and what sets the state of a generator of random numbers; None for other things."""
    if isinstance(value, torch.Generator):
        return value.get_state, value.set_state
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        return lambda: bits.state, lambda state: setattr(bits, "state", state)
    if isinstance(value, np.random.RandomState):
        return value.get_state, value.set_state
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return value.getstate, value.setstate
    return None


def same(one: Any, other: Any) -> bool:
    """Whether two containers hold the very same things."""
    if len(one) != len(other):
        return False
    if isinstance(one, dict):
        return all(a is b and one[a] is other[b] for a, b in zip(one, other, strict=True))
    return one == other if isinstance(one, set | bytearray) else all(a is b for a, b in zip(one, other, strict=True))


def slots(value: Any) -> dict[Any, Any]:
    """What an object of a class of the user's has in slots, by the slot."""
    kinds = [kind for kind in type(value).__mro__ if "__slots__" in vars(kind) and not is_librarys(kind)]
    found = [each for kind in kinds for each in vars(kind).values() if isinstance(each, types.MemberDescriptorType)]
    return {slot: slot.__get__(value) if hasattr(value, slot.__name__) else _MISSING for slot in found}


def refilling_slots(value: Any) -> Restore:
    """What puts back which things an object has in slots."""
    old = slots(value)

    def restore() -> None:
        now = slots(value)
        for slot, each in old.items():
            if now[slot] is not each:
                slot.__delete__(value) if each is _MISSING else slot.__set__(value, each)

    return restore


def refilling_cell(cell: types.CellType, contents: Callable[[Any], Restore]) -> Restore:
    """What puts back a variable of a function around another, and what it holds."""
    try:
        old = cell.cell_contents
    except ValueError:  # it is empty
        return nothing
    return all_of([functools.partial(setattr, cell, "cell_contents", old), contents(old)])


def parts(value: Any) -> list[Any] | None:
    """What a function of the user's, a method or a partial one brings along; None for other things."""
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, types.BuiltinMethodType):
        return [value.__self__]
    if isinstance(value, types.FunctionType) and is_of_a_program(value):
        return [value.__defaults__, value.__kwdefaults__, vars(value), *(value.__closure__ or ())]
    return None


def is_librarys(kind: type) -> bool:
    """Whether a class is torch's, Lightning's, numpy's, ours or one of Python's."""
    return kind.__module__.partition(".")[0] in LIBRARIES


def is_users(value: Any) -> bool:
    """Whether it is an object of a class of the user's, such as a running average; not a module."""
    if isinstance(value, nn.Module | type) or is_librarys(type(value)):
        return False
    return hasattr(value, "__dict__") or bool(slots(value))


def is_namespace(value: Any) -> bool:
    """Whether it is that of a Python module; torch.compile puts that of builtins among the globals of a program."""
    name = value.get("__name__") if isinstance(value, dict) else None
    return isinstance(name, str) and getattr(sys.modules.get(name), "__dict__", None) is value


def is_data(value: Any) -> bool:
    """Whether it is data: a dataset, a loader, a data module."""
    return isinstance(value, Dataset | DataLoader) or hasattr(type(value), "train_dataloader")


def is_database(value: Any) -> bool:
    """Whether it is a connection to one, of sqlite3."""
    return any((kind.__module__, kind.__name__) == ("sqlite3", "Connection") for kind in type(value).__mro__)


def is_of_a_program(kind: Any) -> bool:
    """Whether a class or a function stands in a Python module that is no library's."""
    return is_program(getattr(kind, "__module__", None) or "")


def is_program(name: str) -> bool:
    """Whether a Python module is no library's."""
    home = sys.modules.get(name)
    if home is None or name.partition(".")[0] in LIBRARIES:
        return False
    file = getattr(home, "__file__", None)
    return file is None or not any(Path(file).is_relative_to(folder) for folder in _library_folders())


@functools.cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(dict.fromkeys(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")))
