"""Who holds a graph: a search through the objects of a run for tensors that have one, each with a path to it."""

import functools
import itertools
import keyword
import math
import os
import site
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_diagnostics.probes import grad_fn

Kind = Literal["attribute", "closure", "global", "metric", "gradient"]

MOST_OBJECTS = 50_000
"""Objects that one search opens at the most; many items of a container count as one."""

_ITEMS_AN_OBJECT = 64  # an item is passed over that much faster than an object is opened
_PLAIN_CONTAINERS = (list, tuple, dict, set, frozenset, deque)
_DEEPEST = 16
_HEAD, _TAIL = 64, 1_984  # of a long container: a leak appends, so its end tells more than its beginning
LONGEST = _HEAD + _TAIL
"""Elements of one container that a search looks at: all of a shorter one, else the first few and the last."""

_ATOMS = (int, float, complex, str, bytes, bytearray, type(None), types.ModuleType, torch.dtype, torch.device)
_MODULE_INTERNALS = frozenset(vars(nn.Module())) | {"_trainer", "_fabric", "_compiler_ctx"}
_NUMBERS = [str(number) for number in range(10_000)]
_MODULE_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks"))
_LIBRARIES = (
    *("torch.optim", "torch._C", "torch.cuda", "torch.distributed", "torch.amp", "torch.autograd", "builtins"),
    *("lightning", "lightning_fabric", "pytorch_lightning", "lightning_diagnostics", "tensorboard", "tensorboardX"),
    *("logging", "threading", "multiprocessing", "concurrent", "asyncio", "weakref", "numpy", "pandas", "matplotlib"),
    *("pytest", "_pytest"),
)


@functools.cache
def _of_a_library(module: str, also: tuple[str, ...] = ()) -> bool:
    """Whether a module belongs to a library whose objects are not opened."""
    return any(module == library or module.startswith(library + ".") for library in (*_LIBRARIES, *also))


@dataclass(frozen=True)
class Spot:
    """Where an object sits, as a Python expression in pieces.

    Attributes:
        pieces: Joined, they evaluate to the object where ``model``, ``trainer`` and ``sys`` are defined.
        anchor: How many of them lead to the attribute or variable; what follows is inside of its value.
        home: How many of them lead to the outermost such attribute, in which the closure or object may sit.
        kind: What sort of thing holds the object.
        name: The attribute or variable.
    """

    pieces: tuple[str, ...]
    anchor: int = 0
    home: int = 0
    kind: Kind = "attribute"
    name: str = ""

    def attribute(self, name: str, kind: Kind | None = None, owner: type = object) -> "Spot":
        """An attribute of the object here; inside of a container it does not move the anchor.

        One that a property of the owner's class stands in front of is read from ``__dict__``.
        """
        readable = name.isidentifier() and not keyword.iskeyword(name) and not _shadowed(owner, name)
        pieces = (*self.pieces, f".{name}" if readable else f".__dict__[{name!r}]")
        if self.anchor and self.anchor < len(self.pieces):
            return Spot(pieces, self.anchor, self.home, kind or self.kind, self.name)
        return Spot(pieces, len(pieces), len(pieces), kind or self.kind, name)

    def raw(self, name: str) -> "Spot":
        """A class attribute as it stands in the class, before its descriptor answers for it."""
        pieces = (*self.pieces, f".__dict__[{name!r}]")
        return Spot(pieces, len(pieces), len(pieces), self.kind, name)

    def variable(self, piece: str, name: str, kind: Kind) -> "Spot":
        """A variable that is not an attribute: a closure's cell, a default argument."""
        pieces = (*self.pieces, piece)
        return Spot(pieces, len(pieces), self.home or len(pieces), kind, name)

    def item(self, key: str) -> "Spot":
        """An element of the container here."""
        anchor = self.anchor or len(self.pieces)
        return Spot((*self.pieces, f"[{key}]"), anchor, self.home or anchor, self.kind, self.name)

    def child(self, name: str, *, numbered: bool) -> "Spot":
        """A submodule of the module here; ``numbered`` if it is one of a sequence."""
        if name.isidentifier() and not keyword.iskeyword(name):
            return Spot((*self.pieces, f".{name}"), kind=self.kind)
        return Spot((*self.pieces, f"[{name}]" if numbered else f"._modules[{name!r}]"), kind=self.kind)


def _shadowed(owner: type, name: str) -> bool:
    """Whether a class answers to an attribute's name itself, as a property does."""
    found = next((vars(parent)[name] for parent in owner.__mro__ if name in vars(parent)), None)
    return hasattr(type(found), "__set__") and not isinstance(found, types.MemberDescriptorType)


def user_modules(objects: Iterable[object]) -> dict[str, types.ModuleType]:
    """The imported modules that are the user's own.

    They are neither the standard library's nor an installed package's, or belong to the package in which one of
    ``objects`` was written (a user may have installed his own).
    """
    libraries = _library_folders()
    homes = {type(each).__module__.partition(".")[0] for each in objects}
    own: dict[str, types.ModuleType] = {}
    for name, module in list(sys.modules.items()):
        package, file = name.partition(".")[0], _namespace(module).get("__file__")
        if package == "torch" or _of_a_library(package):
            continue
        written_here = isinstance(file, str) and not _plain_path(file).startswith(libraries)
        if written_here or name == "__main__" or package in homes:
            own[name] = module
    return own


def _namespace(module: object) -> dict[str, Any]:
    """A module's variables, read without its ``__getattr__`` (a lazy module is loaded by that)."""
    try:
        return object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {}


@functools.cache
def _library_folders() -> tuple[str, ...]:
    folders = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple({_plain_path(folder) + os.sep for folder in folders})


@functools.lru_cache(maxsize=10_000)
def _plain_path(path: str) -> str:
    return os.path.normcase(os.path.realpath(path))


def search(roots: Mapping[str, object], visited: dict[tuple[str, ...], object]) -> Iterator[tuple[Spot, Tensor]]:
    """Every tensor with a ``grad_fn`` that is reached from the roots, nearest first, with its spot.

    No code of the user runs: ``__dict__``, slots, cells and containers are read directly, never properties or
    ``__getattr__``. The tensors are handed out one by one; whoever keeps one becomes a holder himself.

    Args:
        roots: Objects to start from, by the expression that evaluates to them.
        visited: Takes up the containers and objects that were opened, by the pieces of their path.
    """
    starts = [(Spot((expression,)), value) for expression, value in roots.items()]
    seen = {id(value) for _, value in starts}
    queue = deque(start for start in starts if not issubclass(type(start[1]), types.ModuleType))
    last = deque(start for start in starts if issubclass(type(start[1]), types.ModuleType))
    left = MOST_OBJECTS
    with torch._C.DisableTorchFunctionSubclass():  # what a subclass of Tensor does is code of the user
        while (queue or last) and left > 0:
            if not queue:  # the run's own objects first, lest a large package use up what may be opened
                queue, last = last, queue
            spot, value = queue.popleft()
            left -= 1 + min(length(value), LONGEST) // _ITEMS_AN_OBJECT
            visited[spot.pieces] = value
            try:
                children = [
                    each for each in _children(spot, value, type(value)) if not issubclass(type(each[1]), _ATOMS)
                ]
            except Exception:  # noqa: BLE001  # an object that cannot be read holds nothing that we could name
                continue
            for where, child in children:
                if id(child) in seen or len(where.pieces) >= _DEEPEST:
                    continue
                seen.add(id(child))
                tensor = issubclass(type(child), Tensor)
                if tensor:
                    yield from _tensor(where, child)
                if not tensor or getattr(child, "__dict__", None):
                    queue.append((where, child))


def length(value: Any) -> int:
    """How many items a built-in container has; 0 for anything else, whose ``__len__`` is not ours to call."""
    return len(value) if type(value) in _PLAIN_CONTAINERS else 0


def container(kind: type) -> str:
    """The name of the built-in container that a type is or derives from; empty for any other type."""
    return next((base.__name__ for base in _PLAIN_CONTAINERS if issubclass(kind, base)), "")


def _tensor(spot: Spot, tensor: Tensor) -> Iterator[tuple[Spot, Tensor]]:
    if grad_fn(tensor) is not None:
        yield spot, tensor
    elif issubclass(type(tensor), nn.Parameter) and tensor.grad is not None and tensor.grad.grad_fn is not None:
        yield spot.attribute("grad", "gradient"), tensor.grad


def _children(spot: Spot, value: Any, kind: type) -> Iterator[tuple[Spot, Any]]:
    """What an object holds, by kind of object (``type``, not ``isinstance``, which would ask a proxy for its class)."""
    if issubclass(kind, Tensor):
        yield from ((spot.attribute(name), item) for name, item in list(value.__dict__.items()))
    elif issubclass(kind, nn.Module):
        yield from _of_module(spot, value)
    elif issubclass(kind, dict):
        yield from _of_dict(spot, value)
        yield from _of_object(spot, value)
    elif issubclass(kind, list | tuple | deque):
        yield from _of_sequence(spot, value, kind)
        yield from _of_object(spot, value)
    elif issubclass(kind, set | frozenset):
        base = set if issubclass(kind, set) else frozenset
        yield from ((spot.item("..."), item) for item in itertools.islice(base.__iter__(value), LONGEST))
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
    elif not _of_a_library(kind.__module__):
        yield from _of_object(spot, value)


def _of_module(spot: Spot, module: nn.Module) -> Iterator[tuple[Spot, Any]]:
    kind: Kind = "metric" if _is_metric(module) else spot.kind
    attributes = {k: v for k, v in list(module.__dict__.items()) if k not in _MODULE_INTERNALS}
    for name, value in (*attributes.items(), *module._buffers.items(), *module._parameters.items()):
        yield spot.attribute(name, kind, type(module) if name in attributes else object), value
    numbered = (
        isinstance(module, nn.Sequential | nn.ModuleList) and list(module._modules) == _NUMBERS[: len(module._modules)]
    )
    for name, part in module._modules.items():
        yield spot.child(name, numbered=numbered), part
    for hooks in _MODULE_HOOKS:
        for key, hook in list(module.__dict__.get(hooks, {}).items()):
            if callable(hook):
                yield spot.attribute(hooks).item(repr(key)), hook


def _of_dict(spot: Spot, value: dict[Any, Any]) -> Iterator[tuple[Spot, Any]]:
    items = dict.items(value)
    ends = itertools.islice(items, LONGEST)
    if len(items) > LONGEST:
        ends = itertools.chain(itertools.islice(items, _HEAD), reversed([*itertools.islice(reversed(items), _TAIL)]))
    for key, item in ends:
        if not issubclass(type(item), _ATOMS):
            yield spot.item(repr(key) if _written_as_is(key) else "..."), item


def _written_as_is(key: object) -> bool:
    """Whether a key's ``repr`` is Python for it: of an Enum, a NumPy number or infinity it is not."""
    return type(key) in (str, int, bool, type(None)) or (type(key) is float and math.isfinite(key))


def _of_sequence(spot: Spot, value: Any, kind: type) -> Iterator[tuple[Spot, Any]]:
    base = next(each for each in (list, tuple, deque) if issubclass(kind, each))  # a subclass may run code of its own
    count = base.__len__(value)
    ends = range(count) if count <= LONGEST else itertools.chain(range(_HEAD), range(count - _TAIL, count))
    for index in ends:
        item = base.__getitem__(value, index)
        if not issubclass(type(item), _ATOMS):
            yield spot.item(str(index)), item


def _of_function(spot: Spot, function: Any) -> Iterator[tuple[Spot, Any]]:
    if _of_a_library(str(function.__module__), also=("torch",)):
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
    for name, default in (function.__kwdefaults__ or {}).items():
        yield spot.variable(f".__kwdefaults__[{name!r}]", name, "closure"), default
    for name, item in list(function.__dict__.items()):
        yield spot.attribute(name), item


def _of_namespace(spot: Spot, namespace: Any, kind: Kind) -> Iterator[tuple[Spot, Any]]:
    """Of a module or a class: its variables, and the functions and classes that were written there."""
    is_class = issubclass(type(namespace), type)
    variables = vars(namespace) if is_class else _namespace(namespace)
    home = namespace.__module__ if is_class else variables.get("__name__")
    if is_class and _of_a_library(str(home), also=("torch",)):
        return
    for name, value in list(variables.items()):
        code = issubclass(type(value), type | types.FunctionType)
        if not (name.startswith("__") or (code and value.__module__ != home)):
            raw = is_class and issubclass(type(value), staticmethod | classmethod)
            yield (spot.raw(name) if raw else spot.attribute(name, kind)), value


def _of_object(spot: Spot, value: Any) -> Iterator[tuple[Spot, Any]]:
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        attributes = {}
    if isinstance(attributes, dict):
        for name, item in list(attributes.items()):
            if isinstance(name, str) and not issubclass(type(item), _ATOMS):
                yield spot.attribute(name, owner=type(value)), item
    for parent in type(value).__mro__:
        for name, slot in list(vars(parent).items()):
            if isinstance(slot, types.MemberDescriptorType):
                try:
                    yield spot.attribute(name), slot.__get__(value)
                except AttributeError:  # a slot that was never filled
                    continue


def _is_metric(module: nn.Module) -> bool:
    return any(c.__name__ == "Metric" and c.__module__.startswith("torchmetrics") for c in type(module).__mro__)
