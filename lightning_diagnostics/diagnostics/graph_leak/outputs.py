"""Graphs of steps that call backward themselves, seen through the outputs of the modules."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lightning_diagnostics.callback.namespaces import Trainer
from lightning_diagnostics.probes import GraphMarks, grad_fn

_NODES = 2  # of each output; the rest hangs on them


class OutputWatch:
    """Marks the graph behind every module's output while it is switched on, by one hook of the whole process.

    The hook never raises into the user's step: a fault in it is raised by `stop`.
    """

    def __init__(self, marks: GraphMarks) -> None:
        self._marks = marks
        self._handle: RemovableHandle | None = None
        self._faults: list[Exception] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}  # the hook is the original's: a copy must not remove it

    def start(self, trainer: Trainer) -> None:
        """Watch until `stop`, or until the run breaks off and nobody says so."""
        self.stop()
        marks, faults, running = self._marks, self._faults, weakref.ref(trainer)

        def mark(module: torch.nn.Module, args: Any, output: Any) -> None:
            if torch.compiler.is_compiling():  # first, and so all that a compiler sees of this
                return
            trainer = running()
            if trainer is None or trainer.interrupted or not trainer.training:
                handle.remove()
                return
            try:
                if torch._C._current_graph_task_id() == -1:  # not in the recomputation of a checkpoint
                    for tensor in _tensors(output):
                        marks.mark_output(grad_fn(tensor), most=_NODES)
            except Exception as fault:  # noqa: BLE001  # see the class
                handle.remove()
                faults.append(fault)

        handle = self._handle = torch.nn.modules.module.register_module_forward_hook(mark)

    def stop(self) -> None:
        """Take the hook down, and raise what went wrong in it."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        if self._faults:
            raise self._faults.pop()


def _tensors(output: Any) -> list[Tensor]:
    """The tensors in a module's output: itself, or the items of a tuple, list or dict.

    A subclass may do anything in its own ``__iter__`` or ``values``, so the built-in's are called.
    """
    items: Any = (output,)
    if isinstance(output, dict):
        items = dict.values(output)
    elif isinstance(output, tuple):
        items = tuple.__iter__(output)
    elif isinstance(output, list):
        items = list.__iter__(output)
    return [item for item in items if isinstance(item, Tensor)]
