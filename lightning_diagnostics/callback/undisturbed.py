"""Making calls of the user's modules once more, as if they had never been made: what they touch is put back."""

import contextlib
import copy
import functools
import io
import logging
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer

_DEPTH = 6  # of containers and objects in each other
_MOST_BYTES, _MOST_ITEMS = 512 << 20, 100_000
_LONG = 10_000
_SCALARS = (bool, int, float, str, bytes)
_TORCH_OWN = frozenset({"_parameters", "_buffers", "_modules", "_trainer", "_fabric", "_jit_module"})
_LIBRARIES = frozenset({"torch", "lightning", "pytorch_lightning", "numpy"} | sys.stdlib_module_names) - {
    *("__main__", "types", "argparse"),  # what is plain
}


class CannotRestoreError(RuntimeError):
    """There is more to put back than may be copied, or something that cannot be put back."""


class LearningError(RuntimeError):
    """The step would have changed weights."""


class ExchangeError(RuntimeError):
    """The step would have exchanged something with other processes, which may not be in such a step now."""


class Traces:
    """What has been left so far, and taking it back before the end.

    Args:
        kept: Copies of what may change.
        restores: What puts it back.
    """

    def __init__(self, kept: "_Kept", restores: list[Callable[[], None]]) -> None:
        self._kept, self._restores = kept, restores

    def drew(self) -> bool:
        """Whether a random number has been drawn, from any generator that is put back."""
        return self._kept.drew()

    def restore(self) -> None:
        """Put back generators, buffers and attributes."""
        _all(self._restores)


@contextlib.contextmanager
def undisturbed(trainer: Trainer, pl_module: LightningModule, *others: nn.Module) -> Iterator[Traces]:
    """Within it the module, and others that are no part of it, may run; afterwards nothing of the run has changed.

    Put back are the generators of random numbers, buffers, gradients, and what the module and its submodules have as
    attributes: numbers, tensors, lists, dicts, sets, objects of the user's classes and the states of metrics.
    ``self.log`` does nothing, loggers are stood in for, and nothing is printed. An operation that would write to
    weights, or an optimizer that would step, raises `LearningError` before it does; one that waits for other processes
    raises `ExchangeError`. What is done elsewhere (a file, a variable of a Python module) is done.

    Raises:
        CannotRestoreError: before anything has run, if not everything could be put back.
    """
    with contextlib.ExitStack() as stack:
        kept = _Kept()
        modules = (module for root in (pl_module, *others) for module in kept.new(root))
        restores = [_generators(trainer, kept), *(_state(module, kept) for module in modules)]
        traces = Traces(kept, restores)
        stack.callback(traces.restore)
        for root in (pl_module, *others):
            stack.callback(_gradients(root))
        stack.callback(register_optimizer_step_pre_hook(_refuse).remove)
        for module in pl_module.modules():
            for name in ("log", "log_dict") if isinstance(module, LightningModule) else ():
                stack.callback(_attribute(module, name, _nothing))
        stack.enter_context(insides.without_loggers(trainer))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        stack.enter_context(_Alone(pl_module, *others))
        yield traces


def _nothing(*args: Any, **kwargs: Any) -> None:
    """What stands in for ``self.log``."""


def _refuse(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    raise LearningError(f"the step lets {type(optimizer).__name__} change weights")


class _Alone(TorchDispatchMode):
    """Raises before anything is exchanged with other processes, or written to a module's weights."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        weights = (weight for module in modules for weight in module.parameters())
        self._weights = {number for weight in weights if (number := _storage(weight)) is not None}

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            raise ExchangeError(f"the step exchanges data with other processes ({func.name()})")
        if func._schema.is_mutable and any(
            _storage(each) in self._weights for each in _written(func, args, kwargs or {})
        ):
            raise LearningError(f"the step writes to weights ({func.name()})")
        return func(*args, **(kwargs or {}))


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Any]:
    """The tensors that an operation writes to."""
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            yield from value if isinstance(value, list | tuple) else (value,)


def _storage(value: Any) -> int | None:
    """What tells the memory of a tensor from that of others; None for what has none of its own."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or torch.nn.parameter.is_lazy(value):
        return None
    try:
        return value.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # a wrapper
        return None


def _generators(trainer: Trainer, kept: "_Kept") -> Callable[[], None]:
    """What puts the generators of random numbers back."""
    device = trainer.strategy.root_device
    restores = [
        kept.generator(torch.get_rng_state, torch.set_rng_state),
        kept.generator(np.random.get_state, np.random.set_state),
        kept.generator(random.getstate, random.setstate),
    ]
    if device.type == "cuda":
        restores.append(
            kept.generator(lambda: torch.cuda.get_rng_state(device), lambda s: torch.cuda.set_rng_state(s, device))
        )
    elif device.type == "mps":
        restores.append(kept.generator(torch.mps.get_rng_state, torch.mps.set_rng_state))
    return functools.partial(_all, restores)


def _gradients(module: nn.Module) -> Callable[[], None]:
    """Set the gradients aside; gives what puts them back."""
    before = [(parameter, parameter.grad) for parameter in module.parameters()]
    for parameter, _ in before:
        parameter.grad = None

    def restore() -> None:
        for parameter, gradient in before:
            parameter.grad = gradient

    return restore


def _attribute(module: nn.Module, name: str, value: Any) -> Callable[[], None]:
    """Set an attribute of the object alone; gives what puts it back."""
    own = vars(module)
    had, old = name in own, own.get(name)
    own[name] = value

    def restore() -> None:
        own.pop(name, None)
        if had:
            own[name] = old

    return restore


def _state(module: nn.Module, kept: "_Kept") -> Callable[[], None]:
    """What puts the attributes and buffers of a module back."""
    if isinstance(module, torch.jit.ScriptModule):
        return _scripted(module, kept)
    homes: list[dict[str, Any]] = [module._parameters, module._modules]
    registered = [(each, dict(each)) for each in homes]
    weights = [(each, each.data, each.requires_grad) for each in module._parameters.values() if each is not None]
    names, buffers = dict(module._buffers), [each for each in module._buffers.values() if each is not None]
    values = kept.tensors(buffers)
    own = {name: value for name, value in vars(module).items() if _is_state(name)}
    contents = [kept.contents(value, _DEPTH) for value in own.values()]

    def restore() -> None:
        for known, old in registered:
            if not _same(known, old):
                known.clear()
                known.update(old)
        for weight, data, learns in weights:
            if weight.requires_grad != learns:
                weight.requires_grad_(learns)
            if not torch.nn.parameter.is_lazy(weight) and _storage(weight) != _storage(data):
                weight.data = data
        values()
        module._buffers.clear()
        module._buffers.update(names)
        for each in contents:
            each()
        known = vars(module)
        for name in [name for name in known if _is_state(name) and name not in own]:
            del known[name]
        known.update(own)

    return restore


def _scripted(module: nn.Module, kept: "_Kept") -> Callable[[], None]:
    """What puts the buffers and the mode of a scripted module back."""
    values, training = kept.tensors(list(module.buffers(recurse=False))), getattr(module, "training", None)

    def restore() -> None:
        values()
        if training is not None and module.training != training:
            module.training = training

    return restore


def _is_state(name: str) -> bool:
    return name not in _TORCH_OWN and "_hooks" not in name and name not in ("log", "log_dict")


class _Kept:
    """Copies of what a step may change, up to a size."""

    def __init__(self) -> None:
        self._seen: dict[int, Any] = {}  # holds them, lest a number be used again
        self._bytes = 0
        self._moved: list[Callable[[], bool]] = []  # of each generator

    def new(self, root: nn.Module) -> list[nn.Module]:
        """The modules in one that were not seen yet."""
        found = [module for module in root.modules() if id(module) not in self._seen]
        self._seen.update({id(module): module for module in found})
        return found

    def generator(self, get: Callable[[], Any], put: Callable[[Any], object]) -> Callable[[], None]:
        """What puts a generator of random numbers back."""
        before = get()
        self._moved.append(lambda: not _equal(before, get()))
        return functools.partial(_call, put, before)

    def drew(self) -> bool:
        """Whether any generator has moved."""
        return any(moved() for moved in self._moved)

    def contents(self, value: Any, depth: int) -> Callable[[], None]:
        """What puts the contents of an attribute back."""
        try:
            return self._contents(value, depth)
        except CannotRestoreError:
            raise
        except Exception as fault:  # an object that does not let itself be looked at
            raise CannotRestoreError(f"an attribute of the module cannot be copied ({fault})") from fault

    def _contents(self, value: Any, depth: int) -> Callable[[], None]:
        if value is None or isinstance(value, _SCALARS) or id(value) in self._seen or not depth:
            return _nothing
        if isinstance(value, nn.Module):  # of a list, say: a metric that is not registered
            return functools.partial(_all, [_state(module, self) for module in self.new(value)])
        self._seen[id(value)] = value
        if len(self._seen) > _MOST_ITEMS:
            raise CannotRestoreError(f"the module has more than {_MOST_ITEMS:,} things in its attributes")
        if isinstance(value, Tensor):
            return self.tensors([value])
        if isinstance(value, np.ndarray):
            self._count(value.nbytes)
            return functools.partial(np.copyto, value, value.copy()) if value.flags.writeable else _nothing
        if isinstance(value, torch.Generator):
            return self.generator(value.get_state, value.set_state)
        if isinstance(value, np.random.Generator):
            bits = value.bit_generator
            return self.generator(lambda: bits.state, lambda state: setattr(bits, "state", state))
        if isinstance(value, np.random.RandomState):
            return self.generator(value.get_state, value.set_state)
        if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
            return self.generator(value.getstate, value.setstate)
        if isinstance(value, Iterator):
            raise CannotRestoreError(f"the module has an iterator among its attributes ({type(value).__name__})")
        if isinstance(value, list | deque | set | dict | bytearray):
            return self._container(value, depth)
        if isinstance(value, tuple):
            return functools.partial(_all, [self.contents(each, depth - 1) for each in value])
        return self._container(vars(value), depth) if _is_users(value) else _nothing

    def tensors(self, values: list[Tensor]) -> Callable[[], None]:
        """What puts the values of tensors back, of those that were written to."""
        values = [each for each in values if not torch.nn.parameter.is_lazy(each)]
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

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > _MOST_BYTES:
            raise CannotRestoreError(f"the module has more than {_MOST_BYTES >> 20} MiB in its buffers and attributes")

    def _container(self, value: Any, depth: int) -> Callable[[], None]:
        old: Any = dict(value) if isinstance(value, dict) else copy.copy(value)
        items = list(old.values() if isinstance(old, dict) else old)
        plain = len(items) > _LONG and isinstance(items[0], _SCALARS)  # all of them, then: a list of paths, of numbers
        inner = [] if plain else [self.contents(each, depth - 1) for each in items]

        def restore() -> None:
            if not _same(value, old):
                value.clear()
                value.extend(old) if isinstance(value, list | deque | bytearray) else value.update(old)
            _all(inner)

        return restore


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


def _all(acts: Iterable[Callable[[], None]]) -> None:
    """Do everything; what goes wrong with one of them does not keep the others from it."""
    faults: list[Exception] = []
    for act in acts:
        try:
            act()
        except Exception as fault:  # noqa: BLE001, PERF203  # raised below
            faults.append(fault)
    if faults:
        raise faults[0]


def _same(one: Any, other: Any) -> bool:
    """Whether two containers hold the very same things."""
    if len(one) != len(other):
        return False
    if isinstance(one, dict):
        return all(a is b and one[a] is other[b] for a, b in zip(one, other, strict=True))
    return one == other if isinstance(one, set | bytearray) else all(a is b for a, b in zip(one, other, strict=True))


def _is_users(value: Any) -> bool:
    """Whether it is an object of a class of the user's, such as a running average; not a module, nor data."""
    kind = type(value)
    data = isinstance(value, Dataset | DataLoader) or hasattr(kind, "train_dataloader")
    if data or isinstance(value, nn.Module | type) or not hasattr(value, "__dict__"):
        return False
    return kind.__module__.partition(".")[0] not in _LIBRARIES


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
