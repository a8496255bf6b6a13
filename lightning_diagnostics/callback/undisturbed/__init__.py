"""Making calls of the user's modules once more, as if they had never been made: what they touch is put back."""

import contextlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.callback.undisturbed.errors import (
    CannotRestoreError,
    ExchangeError,
    LearningError,
    WritingError,
)
from lightning_diagnostics.callback.undisturbed.guards import (
    alone,
    no_writing,
    refuse_checkpoint,
    refuse_logs,
    refuse_step,
    signals_later,
)
from lightning_diagnostics.callback.undisturbed.kept import Kept
from lightning_diagnostics.callback.undisturbed.surroundings import Data, generators, programs, schedules
from lightning_diagnostics.callback.undisturbed.things import nothing, run_all

__all__ = [
    "CannotRestoreError",
    "ExchangeError",
    "LearningError",
    "Traces",
    "WritingError",
    "alone",
    "undisturbed",
]


class Traces:
    """What has been left so far, and taking it back before the end.

    Args:
        kept: Copies of what may change.
        restores: What puts it back.
    """

    def __init__(self, kept: Kept, restores: list[Callable[[], None]]) -> None:
        self._kept, self._restores = kept, restores

    def drew(self) -> bool:
        """Whether a random number has been drawn, from any generator that is put back."""
        return self._kept.drew()

    def restore(self) -> None:
        """Put back generators, buffers, attributes, and what else is put back at the end but for gradients."""
        run_all(self._restores)


@contextlib.contextmanager
def undisturbed(
    trainer: Trainer,
    pl_module: LightningModule,
    *others: nn.Module,
    data: Iterable[object] = (),
    logs: bool = False,
    guard: bool = True,
) -> Iterator[Traces]:
    """Within it the module, and others that are no part of it, may run; afterwards nothing of the run has changed.

    Put back are the generators of random numbers, buffers, gradients, and what the module and its submodules have as
    attributes: numbers, tensors, lists, dicts, sets, objects of the user's classes and the states of metrics; the
    options of optimizers and the state of schedulers; plain values (numbers, strings, lists, dicts, sets) of the
    modules' classes, and of the Python module with the class of the whole, where these are no library's.
    ``self.log`` does nothing, loggers are stood in for, and nothing is printed. An operation that would write to
    weights, or an optimizer that would step, raises `LearningError` before it does; one that waits for other processes
    raises `ExchangeError`, and what opens a file for writing, moves or removes one, or starts work in another thread,
    `WritingError`. Handlers of signals wait for the end.
    What is done elsewhere is done: by other threads and processes, to an open file. Not put back are attributes of the
    Trainer, attributes of classes that are no modules', other Python modules, memory that processes share, and tensors
    and arrays of more than 1 KiB in lists of more than 64 things.

    Args:
        trainer: The Trainer.
        pl_module: The module.
        *others: Modules that are no part of it.
        data: Datasets, data modules and the like, whose small state is put back, too: generators of random numbers,
            numbers, strings, containers of up to 10,000 items, objects of the user's classes, functions with what
            they bring along, tensors and arrays of up to 1 KiB.
        logs: Leave ``self.log`` as it is: the caller stands in for what Lightning keeps of it.
        guard: Refuse what writes to weights or waits for other processes; see `alone`, for a part of the time.

    Raises:
        CannotRestoreError: before anything has run, if not everything could be put back.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals_later())
        kept, small = Kept(), Data()
        small.share(kept)
        modules = [module for root in (pl_module, *others) for module in kept.new(root)]
        for logger in insides.loggers_of(modules):
            stack.callback(_attribute(logger, "log_metrics", refuse_logs(logger)))
        restores = [
            generators(trainer, kept),
            *(kept.module(module) for module in modules),
            schedules(trainer, kept),
            *(small.contents(each) for each in data),
            programs(pl_module, modules, small),
        ]
        traces = Traces(kept, restores)
        stack.callback(traces.restore)
        for root in (pl_module, *others):
            stack.callback(_gradients(root))
        stack.callback(register_optimizer_step_pre_hook(refuse_step).remove)
        for module in () if logs else pl_module.modules():
            for name in ("log", "log_dict") if isinstance(module, LightningModule) else ():
                stack.callback(_attribute(module, name, nothing))
        stack.enter_context(insides.without_loggers(trainer))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        stack.enter_context(no_writing())
        stack.callback(_attribute(trainer, "save_checkpoint", refuse_checkpoint))  # it begins with another file
        if guard:
            stack.enter_context(alone(pl_module, *others))
        yield traces


def _gradients(module: nn.Module) -> Callable[[], None]:
    """Set the gradients aside; gives what puts them back."""
    before = [(parameter, parameter.grad) for parameter in module.parameters()]
    for parameter, _ in before:
        parameter.grad = None

    def restore() -> None:
        for parameter, gradient in before:
            parameter.grad = gradient

    return restore


def _attribute(owner: object, name: str, value: Any) -> Callable[[], None]:
    """Set an attribute of the object alone; gives what puts it back."""
    own = vars(owner)
    had, old = name in own, own.get(name)
    own[name] = value

    def restore() -> None:
        own.pop(name, None)
        if had:
            own[name] = old

    return restore
