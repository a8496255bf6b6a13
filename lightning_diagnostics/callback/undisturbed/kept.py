"""Copies of what a step may change, and putting it back."""

import functools
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_diagnostics.callback.undisturbed.errors import CannotRestoreError
from lightning_diagnostics.callback.undisturbed.guards import storage
from lightning_diagnostics.callback.undisturbed.things import (
    SCALARS,
    Restore,
    access,
    all_of,
    is_data,
    is_database,
    is_namespace,
    is_users,
    nothing,
    parts,
    refilling,
    refilling_cell,
    refilling_slots,
    same,
    slots,
)

DEPTH = 6
"""Of containers and objects in each other."""
LONG = 10_000
GATHERED = 64
"""A list with more things in it is one that outputs are gathered in: what is large in it is not copied."""
SMALL = 1 << 10
"""Bytes of a tensor or an array that are copied wherever it is."""

_NO_CONTENTS = (type(None), *SCALARS)
_MOST_BYTES, _MOST_ITEMS = 512 << 20, 100_000
_TORCH_OWN = frozenset({"_parameters", "_buffers", "_modules", "_trainer", "_fabric", "_jit_module"})


class Kept:
    """Copies of what a step may change, up to a size."""

    what = "the module"

    def __init__(self) -> None:
        self._seen: dict[int, Any] = {}  # holds them, lest a number be used again
        self._bytes = 0
        self._moved: list[Callable[[], bool]] = []  # of each generator
        self._gathered = 0  # how many long lists we are in

    def share(self, other: "Kept") -> None:
        """Count the generators that another keeps as this one's, and this one's as the other's."""
        self._moved = other._moved

    def new(self, root: nn.Module) -> list[nn.Module]:
        """The modules in one that were not seen yet."""
        found = [module for module in root.modules() if id(module) not in self._seen]
        self._seen.update({id(module): module for module in found})
        return found

    def generator(self, get: Callable[[], Any], put: Callable[[Any], object]) -> Restore:
        """What puts a generator of random numbers back."""
        before = get()
        self._moved.append(lambda: not _equal(before, get()))
        return functools.partial(_call, put, before)

    def drew(self) -> bool:
        """Whether any generator has moved."""
        return any(moved() for moved in self._moved)

    def module(self, module: nn.Module) -> Restore:
        """What puts the attributes and buffers of a module back."""
        if isinstance(module, torch.jit.ScriptModule):
            return self._scripted(module)
        homes: list[dict[str, Any]] = [module._parameters, module._modules]
        registered = [(each, dict(each)) for each in homes]
        weights = [(each, each.data, each.requires_grad) for each in module._parameters.values() if each is not None]
        names, buffers = dict(module._buffers), [each for each in module._buffers.values() if each is not None]
        values = self.tensors(buffers)
        own = {name: value for name, value in vars(module).items() if is_state(name)}
        contents = all_of(self.contents(value) for value in own.values() if not isinstance(value, _NO_CONTENTS))

        def restore() -> None:
            for known, old in registered:
                if not same(known, old):
                    known.clear()
                    known.update(old)
            for weight, data, learns in weights:
                if weight.requires_grad != learns:
                    weight.requires_grad_(learns)
                if not torch.nn.parameter.is_lazy(weight) and storage(weight) != storage(data):
                    weight.data = data
            values()
            module._buffers.clear()
            module._buffers.update(names)
            contents()
            known = vars(module)
            for name in [name for name in known if is_state(name) and name not in own]:
                del known[name]
            known.update(own)

        return restore

    def _scripted(self, module: nn.Module) -> Restore:
        """What puts the buffers and the mode of a scripted module back."""
        values, training = self.tensors(list(module.buffers(recurse=False))), getattr(module, "training", None)

        def restore() -> None:
            values()
            if training is not None and module.training != training:
                module.training = training

        return restore

    def contents(self, value: Any, depth: int = DEPTH) -> Restore:
        """What puts the contents of an attribute back."""
        try:
            return self._contents(value, depth)
        except CannotRestoreError:
            raise
        except Exception as fault:  # an object that does not let itself be looked at
            raise CannotRestoreError(f"an attribute of {self.what} cannot be copied ({fault})") from fault

    def _contents(self, value: Any, depth: int) -> Restore:
        if isinstance(value, _NO_CONTENTS) or id(value) in self._seen or not depth:
            return nothing
        if isinstance(value, nn.Module):  # of a list, say: a metric that is not registered
            return all_of(self.module(module) for module in self.new(value))
        self._seen[id(value)] = value
        if len(self._seen) > _MOST_ITEMS:
            return self.too_many()
        if isinstance(value, Tensor):
            return self.tensors([value])
        if isinstance(value, np.ndarray):
            return self.array(value)
        if isinstance(value, list | deque | set | dict | bytearray):
            if is_namespace(value):
                return nothing
            return all_of([self.container(value, depth), self.attributes(value, depth)])
        if isinstance(value, tuple):
            return all_of([self.contents(each, depth - 1) for each in value])
        if isinstance(value, types.CellType):
            return refilling_cell(value, lambda each: self.contents(each, depth))
        generator = access(value)
        if generator is not None:
            return self.generator(*generator)
        if isinstance(value, Optimizer):
            return self.optimizer(value)
        if isinstance(value, Iterator):
            return self.iterator(value)
        if is_database(value):
            return self.database(value)
        if not self.goes_into(value):
            return nothing
        brought = parts(value)
        if brought is not None:
            return all_of([self.contents(each, depth - 1) for each in brought])
        return self.attributes(value, depth)

    def goes_into(self, value: Any) -> bool:
        """Whether the attributes of an object are looked at."""
        if parts(value) is not None or isinstance(value, LRScheduler):
            return True
        return is_users(value) and not is_data(value)

    def attributes(self, value: Any, depth: int) -> Restore:
        """What puts the attributes of an object back."""
        own = self.container(vars(value), depth) if hasattr(value, "__dict__") else nothing
        return all_of(
            [own, refilling_slots(value), *(self.contents(each, depth - 1) for each in slots(value).values())]
        )

    def too_many(self) -> Restore:
        """There are more things than may be looked at."""
        raise CannotRestoreError(f"{self.what} has more than {_MOST_ITEMS:,} things in its attributes")

    def iterator(self, value: Any) -> Restore:
        """What cannot be put back."""
        raise CannotRestoreError(f"{self.what} has an iterator among its attributes ({type(value).__name__})")

    def database(self, value: Any) -> Restore:
        """What cannot be put back either."""
        raise CannotRestoreError(f"{self.what} has a database among its attributes ({type(value).__name__})")

    def array(self, value: Any) -> Restore:
        """What puts the values of an array back."""
        if self._gathered and value.nbytes > SMALL:
            return nothing
        self._count(value.nbytes)
        return functools.partial(np.copyto, value, value.copy()) if value.flags.writeable else nothing

    def optimizer(self, value: Optimizer) -> Restore:
        """What puts the options of an optimizer back, such as its learning rates; its state only a step changes."""
        groups = value.param_groups
        restores = [refilling(each) for each in (groups, *groups, *(group["params"] for group in groups))]
        options = [each for group in groups for name, each in group.items() if name != "params"]
        return all_of([*restores, *(self.contents(each) for each in options)])

    def tensors(self, values: list[Tensor]) -> Restore:
        """What puts the values of tensors back, of those that were written to."""
        values = [each for each in values if not torch.nn.parameter.is_lazy(each)]
        if self._gathered and any(map(_is_large, values)):
            few = [each for each in values if not _is_large(each)]
            return all_of([self._witness([each for each in values if _is_large(each)]), self.tensors(few)])
        if not values:
            return nothing
        self._count(sum(map(_bytes, values)))
        copies = [(each, each.detach().clone(), _version(each)) for each in values]

        def restore() -> None:
            with torch.no_grad():
                for each, old, version in copies:
                    if each.shape != old.shape:
                        each.set_(old.clone())  # pyright: ignore[reportCallIssue, reportArgumentType]  # one tensor will do
                    elif version is None or _version(each) != version or _is_other(each, old):
                        (each.detach() if _is_dense(each) else each).copy_(old)  # a sparse one is not shared

        return restore

    def _witness(self, values: list[Tensor]) -> Restore:
        """What sees that values of tensors were not written to, where there are too many for copies."""
        versions = [(each, _version(each)) for each in values]

        def check() -> None:
            if any(_version(each) != version for each, version in versions):
                raise CannotRestoreError(f"a tensor in a long list of {self.what} was written to")

        return check

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > _MOST_BYTES:
            raise CannotRestoreError(f"{self.what} has more than {_MOST_BYTES >> 20} MiB in its buffers and attributes")

    def container(self, value: Any, depth: int) -> Restore:
        """What puts a container back, and what is in it."""
        restore = refilling(value)
        items = list(value.values() if isinstance(value, dict) else value)
        plain = len(items) > LONG and isinstance(items[0], SCALARS)  # all of them, then: a list of paths, of numbers
        more = () if plain else (each for each in items if not isinstance(each, _NO_CONTENTS))
        gathered = isinstance(value, list | deque) and len(items) > GATHERED
        self._gathered += gathered
        try:
            return all_of([restore, *(self.contents(each, depth - 1) for each in more)])
        finally:
            self._gathered -= gathered


def is_state(name: str) -> bool:
    """Whether an attribute of a module is its own state, not torch's or Lightning's."""
    hooks = name.startswith("_") and "_hooks" in name
    return name not in _TORCH_OWN and not hooks and name not in ("log", "log_dict")


def _call(act: Callable[[Any], object], value: Any) -> None:
    act(value)


def _equal(one: Any, other: Any) -> bool:
    """Whether two states of a generator are the same."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return all(map(_equal, one, other))
    return bool(np.array_equal(one, other))


def small(tensor: Tensor) -> bool:
    """Whether a tensor is copied wherever it is: not one that processes share."""
    return storage(tensor) is not None and not _is_large(tensor) and (tensor.is_cuda or not tensor.is_shared())


def _is_large(tensor: Tensor) -> bool:
    return _bytes(tensor) > SMALL


def _bytes(tensor: Tensor) -> int:
    if _is_dense(tensor) or tensor.is_nested:
        return tensor.numel() * tensor.element_size()
    return tensor._nnz() * (tensor.element_size() + 8 * tensor.dim())


def _is_dense(tensor: Tensor) -> bool:
    return not tensor.is_nested and tensor.layout == torch.strided


def _is_other(tensor: Tensor, old: Tensor) -> bool:
    """Whether the values are others, or may be: some are written to without a new version (batch norm, sparse)."""
    if not _is_dense(tensor):
        return True  # torch compares no others
    if tensor.is_meta or torch.equal(tensor, old):
        return False
    return not bool(((tensor == old) | ((tensor != tensor) & (old != old))).all())  # NaN is NaN


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version
