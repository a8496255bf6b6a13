"""Who holds a graph: a search through the objects of a run for tensors that have one, each with a path to it."""

import functools
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["attribute", "closure", "global", "metric", "gradient"]

MOST_OBJECTS = 50_000
"""Objects that one search visits at the most."""

_DEEPEST = 16
_HEAD, _TAIL = 64, 1_984  # of a long container: a leak appends, so its end tells more than its beginning
LONGEST = _HEAD + _TAIL
"""Elements of one container that a search looks at: all of a shorter one, else the first few and the last."""

_ATOMS = (int, float, complex, str, bytes, bytearray, type(None), types.ModuleType, torch.dtype, torch.device)
_MODULE_INTERNALS = frozenset(vars(nn.Module())) | {"_trainer", "_fabric", "_compiler_ctx"}
_MODULE_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks"))
_LIBRARIES = (
    *("torch.optim", "torch.utils", "torch._", "torch.cuda", "torch.distributed", "torch.amp", "torch.autograd"),
    *("lightning.", "lightning_fabric.", "pytorch_lightning.", "lightning_diagnostics.", "tensorboard", "tensorboardX"),
    *("logging", "threading", "multiprocessing", "concurrent.", "asyncio", "weakref", "numpy", "pandas", "matplotlib"),
)


@dataclass(frozen=True)
class Spot:
    """Where an object sits, as a Python expression in pieces.

    Attributes:
        pieces: Joined, they evaluate to the object where ``model``, ``trainer`` and ``sys`` are defined.
        anchor: How many of them lead to the attribute or variable; what follows is inside of its value.
        kind: What sort of thing holds the object.
        name: The attribute or variable.
    """

    pieces: tuple[str, ...]
    anchor: int = 0
    kind: Kind = "attribute"
    name: str = ""

    def attribute(self, name: str, kind: Kind | None = None) -> "Spot":
        """An attribute of the object here; inside of a container it does not move the anchor."""
        piece = f".{name}" if name.isidentifier() else f".__dict__[{name!r}]"
        if self.anchor and self.anchor < len(self.pieces):
            return Spot((*self.pieces, piece), self.anchor, kind or self.kind, self.name)
        return Spot((*self.pieces, piece), len(self.pieces) + 1, kind or self.kind, name)

    def variable(self, piece: str, name: str, kind: Kind) -> "Spot":
        """A variable that is not an attribute: a closure's cell, a default argument."""
        return Spot((*self.pieces, piece), len(self.pieces) + 1, kind, name)

    def item(self, key: str) -> "Spot":
        """An element of the container here."""
        return Spot((*self.pieces, f"[{key}]"), self.anchor or len(self.pieces), self.kind, self.name)

    def child(self, name: str) -> "Spot":
        """A submodule of the module here."""
        piece = f".{name}" if name.isidentifier() else f"[{int(name)}]" if name.isdigit() else f"._modules[{name!r}]"
        return Spot((*self.pieces, piece), 0, self.kind)


def user_modules() -> dict[str, types.ModuleType]:
    """The imported modules that are the user's own: neither the standard library's nor an installed package's."""
    library = sysconfig.get_path("stdlib")
    own: dict[str, types.ModuleType] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        installed = not isinstance(file, str) or file.startswith(library) or "-packages" in file
        if name == "__main__" or not (installed or name.partition(".")[0] == "lightning_diagnostics"):
            own[name] = module
    return own


def search(roots: Mapping[str, object], visited: dict[tuple[str, ...], object]) -> Iterator[tuple[Spot, Tensor]]:
    """Every tensor with a ``grad_fn`` that is reached from the roots, nearest first, with its spot.

    No code of the user runs: ``__dict__``, slots, cells and containers are read directly, never properties or
    ``__getattr__``. The tensors are handed out one by one; whoever keeps one becomes a holder himself.

    Args:
        roots: Objects to start from, by the expression that evaluates to them.
        visited: Takes up the containers and objects that were opened, by the pieces of their path.
    """
    queue = deque((Spot((expression,)), value) for expression, value in roots.items())
    seen = {id(value) for _, value in queue}
    left = MOST_OBJECTS
    with torch._C.DisableTorchFunctionSubclass():
        while queue and left > 0:
            spot, value = queue.popleft()
            left -= 1
            visited[spot.pieces] = value
            try:
                children = list(_children(spot, value, type(value)))
            except Exception:  # noqa: BLE001  # an object that cannot be read holds nothing that we could name
                continue
            for where, child in children:
                if issubclass(type(child), Tensor):
                    yield from _tensor(where, child, seen)
                elif not issubclass(type(child), _ATOMS) and id(child) not in seen and len(where.pieces) < _DEEPEST:
                    seen.add(id(child))
                    queue.append((where, child))


def _tensor(spot: Spot, tensor: Tensor, seen: set[int]) -> Iterator[tuple[Spot, Tensor]]:
    if id(tensor) in seen:
        return
    seen.add(id(tensor))
    if tensor.grad_fn is not None:
        yield spot, tensor
    elif tensor.is_leaf and tensor.grad is not None and tensor.grad.grad_fn is not None:
        yield spot.attribute("grad", "gradient"), tensor.grad
    for name, value in list(getattr(tensor, "__dict__", {}).items()):
        if isinstance(value, Tensor):
            yield from _tensor(spot.attribute(name), value, seen)


def _children(spot: Spot, value: Any, kind: type) -> Iterator[tuple[Spot, Any]]:
    """What an object holds, by kind of object (``type``, not ``isinstance``, which would ask a proxy for its class)."""
    if issubclass(kind, nn.Module):
        yield from _of_module(spot, value)
    elif issubclass(kind, dict):
        yield from _of_dict(spot, value)
    elif issubclass(kind, list | tuple | deque):
        yield from _of_sequence(spot, value)
    elif issubclass(kind, set | frozenset):
        yield from ((spot.item("..."), item) for item in list(value))
    elif kind is types.FunctionType:
        yield from _of_function(spot, value)
    elif kind is types.MethodType:
        yield spot.attribute("__self__"), value.__self__
        yield spot.attribute("__func__"), value.__func__
    elif issubclass(kind, staticmethod | classmethod):
        yield spot.attribute("__func__"), value.__func__
    elif issubclass(kind, functools.partial):
        yield spot.attribute("func"), value.func
        yield spot.attribute("args"), value.args
        yield spot.attribute("keywords"), value.keywords
    elif issubclass(kind, type):
        yield from _of_namespace(spot, value, spot.kind)
    elif issubclass(kind, types.ModuleType):
        yield from _of_namespace(spot, value, "global")
    elif not kind.__module__.startswith(_LIBRARIES):
        yield from _of_object(spot, value)


def _of_module(spot: Spot, module: nn.Module) -> Iterator[tuple[Spot, Any]]:
    kind: Kind = "metric" if _is_metric(module) else spot.kind
    attributes = {k: v for k, v in list(module.__dict__.items()) if k not in _MODULE_INTERNALS}
    for name, value in (*attributes.items(), *module._buffers.items(), *module._parameters.items()):
        yield spot.attribute(name, kind), value
    for name, part in module._modules.items():
        yield spot.child(name), part
    for hooks in _MODULE_HOOKS:
        for key, hook in list(module.__dict__.get(hooks, {}).items()):
            if callable(hook):
                yield spot.attribute(hooks).item(repr(key)), hook


def _of_dict(spot: Spot, value: dict[Any, Any]) -> Iterator[tuple[Spot, Any]]:
    for key, item in _ends(list(dict.items(value))):
        plain = isinstance(key, str | int | float | bool | None)
        yield spot.item(repr(key) if plain else "..."), item


def _of_sequence(spot: Spot, value: Any) -> Iterator[tuple[Spot, Any]]:
    items = [*enumerate(list(value))]
    for index, item in _ends(items):
        yield spot.item(str(index)), item


def _ends(items: list[Any]) -> list[Any]:
    return items if len(items) <= LONGEST else items[:_HEAD] + items[-_TAIL:]


def _of_function(spot: Spot, function: Any) -> Iterator[tuple[Spot, Any]]:
    if str(function.__module__).startswith(("torch.", *_LIBRARIES)):
        return
    for index, cell in enumerate(function.__closure__ or ()):
        try:
            inside = cell.cell_contents
        except ValueError:  # a variable that has no value yet
            continue
        name = function.__code__.co_freevars[index]
        yield spot.variable(f".__closure__[{index}].cell_contents", name, "closure"), inside
    code, defaults = function.__code__, function.__defaults__ or ()
    for index, default in enumerate(defaults):
        name = code.co_varnames[code.co_argcount - len(defaults) + index]
        yield spot.variable(f".__defaults__[{index}]", name, "closure"), default
    for name, item in list(function.__dict__.items()):
        yield spot.attribute(name), item


def _of_namespace(spot: Spot, namespace: Any, kind: Kind) -> Iterator[tuple[Spot, Any]]:
    """Of a module or a class: its variables, and the functions and classes that were written there."""
    home = namespace.__name__ if isinstance(namespace, types.ModuleType) else namespace.__module__
    if isinstance(namespace, type) and str(home).startswith(("torch", "builtins", *_LIBRARIES)):
        return
    for name, value in list(vars(namespace).items()):
        code = isinstance(value, type | types.FunctionType)
        if not (name.startswith("__") or (code and value.__module__ != home)):
            yield spot.attribute(name, kind), value


def _of_object(spot: Spot, value: Any) -> Iterator[tuple[Spot, Any]]:
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        attributes = {}
    if isinstance(attributes, dict):
        for name, item in list(attributes.items()):
            yield spot.attribute(str(name)), item
    for parent in type(value).__mro__:
        for name, slot in list(vars(parent).items()):
            if isinstance(slot, types.MemberDescriptorType):
                try:
                    yield spot.attribute(name), slot.__get__(value)
                except AttributeError:  # a slot that was never filled
                    continue


def _is_metric(module: nn.Module) -> bool:
    return any(c.__name__ == "Metric" and c.__module__.startswith("torchmetrics") for c in type(module).__mro__)
