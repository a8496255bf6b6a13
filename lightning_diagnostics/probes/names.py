"""What layers are called: the paths of modules, and the places in a program where a function is called."""

import os
import sys
import weakref
from collections.abc import Sequence
from types import FrameType

import torch
from torch import nn

from lightning_diagnostics.probes.kinds import COMPILED, ROOT

_SEPARATOR = " < "


class Names:
    """The names of modules and of call sites, the same from pass to pass.

    Args:
        known: The names given so far, by what tells the places apart, as one text; taken up and added to.
    """

    def __init__(self, known: dict[str, str]) -> None:
        self.known = known
        self._claimed: set[str] = set()  # places that were seen in this process
        self._paths: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        self._root: weakref.ref[nn.Module] | None = None
        self.end_pass()

    def begin(self, root: nn.Module) -> None:
        """Name the modules of a model, unless it is the one that was named last."""
        if self._root is None or self._root() is not root:
            self._root = weakref.ref(root)
            self._name_modules(root)

    @property
    def root(self) -> nn.Module | None:
        """The model that was named last, while it lives."""
        return self._root() if self._root is not None else None

    def end_pass(self) -> None:
        """Forget the modules outside of the model."""
        self._renamed = False
        self._foreign: dict[int, tuple[nn.Module, str]] = {}  # holds them, lest a number be used again
        self._turns: dict[str, int] = {}

    def path(self, module: nn.Module, within: Sequence[nn.Module]) -> str:
        """The path of a module in the model; one that is not registered in it goes by its class.

        Args:
            module: The module.
            within: The modules whose forward is running, outermost first.
        """
        path = self._paths.get(module)
        root = self.root
        if path is None and root is not None and not self._renamed:
            self._renamed = True  # once a pass: walking the model takes longer than the rest
            self._name_modules(root)  # it may have come since
            path = self._paths.get(module)
        return self._foreign_path(module, within) if path is None else path

    def knows(self, module: nn.Module) -> bool:
        """Whether a module is registered in the model; to be asked after its `path`."""
        return module in self._paths

    def owner(self, buffer: object) -> str | None:
        """The path of the module of the model that has a tensor among its buffers."""
        for module, path in self._paths.items():
            if buffer is not None and any(each is buffer for each in module._buffers.values()):
                return path
        return None

    def site(self, path: str, place: str, follows: str, *, functional: bool) -> str:
        """The path, and from the second place on a number: kept for every place as it was first given.

        A name from before a resume goes on where only the line has changed: the file was edited.

        Args:
            path: Of the module, or of the module that makes the call, a slash and the function.
            place: Where it is called, see `source`.
            follows: What it is called after.
            functional: Whether it is a call.
        """
        text = _SEPARATOR.join((path, place, follows))
        if text not in self.known:
            unclaimed = [old for old in self.known if old not in self._claimed]
            moved = [old for old in unclaimed if _without_line(old) == _without_line(text)]
            self.known[text] = self.known.pop(moved[0]) if moved else self._new_name(path, functional)
        self._claimed.add(text)
        return self.known[text]

    def _new_name(self, path: str, functional: bool) -> str:
        taken = set(self.known.values())
        number, name = 1, path
        while name in taken:
            number += 1
            name = f"{path}.{number}" if functional else f"{path}/{number}"
        return name

    def _foreign_path(self, module: nn.Module, within: Sequence[nn.Module]) -> str:
        """What a module outside of the model goes by: its class, and its turn in this pass (it may be made anew)."""
        if id(module) not in self._foreign:
            outer = next((p for m in reversed(within) if (p := self._paths.get(m)) is not None), ROOT)
            path = f"{outer}/{type(module).__name__}"
            turn = self._turns[path] = self._turns.get(path, 0) + 1
            self._foreign[id(module)] = module, path if turn == 1 else f"{path}.{turn}"
        return self._foreign[id(module)][1]

    def _name_modules(self, root: nn.Module) -> None:
        for path, module in root.named_modules():
            self._paths[module] = ".".join(part for part in path.split(".") if part != COMPILED) or ROOT


def _without_line(text: str) -> tuple[str, ...]:
    """What tells a place from others, but for the line of the call."""
    path, place, follows = text.split(_SEPARATOR)
    return path, place.rpartition(":")[0], follows


_OURS = os.path.dirname(__file__) + os.sep
_TORCH = os.path.dirname(torch.__file__) + os.sep
_PASSED_THROUGH = frozenset(
    _TORCH + file
    for file in (
        *("overrides.py", "_tensor.py", "_jit_internal.py", "functional.py", os.path.join("nn", "functional.py")),
        *(os.path.join("nn", "modules", "module.py"), os.path.join("utils", "_contextlib.py")),
    )
)
_CONTAINERS = _TORCH + os.path.join("nn", "modules", "container.py")


def source() -> tuple[str, str]:
    """File and line of the call that is being seen, for a reader, and the place that tells it from other calls.

    A container is a place, but its line tells a reader nothing. In a place the line is counted from where its function
    begins, so that it does not change when something is written above the function.
    """
    frame: FrameType | None = sys._getframe(1)
    place = None
    while frame is not None:
        file = frame.f_code.co_filename
        if file not in _PASSED_THROUGH and not file.startswith(_OURS):
            name, code = os.path.basename(file), frame.f_code
            place = place or f"{name} {code.co_name}:{frame.f_lineno - code.co_firstlineno}"
            if file != _CONTAINERS:
                return f"{name}:{frame.f_lineno}", place
        frame = frame.f_back
    return "unknown", place or "unknown"
