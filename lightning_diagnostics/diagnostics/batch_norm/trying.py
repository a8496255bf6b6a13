"""Trying a batch of the evaluation that is running with other samples: with what the Trainer has to do for it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.callback.undisturbed import CannotRestoreError, undisturbed
from lightning_diagnostics.diagnostics.batch_norm.dependence import CannotTryError, Dependence, Trial, find_axes
from lightning_diagnostics.diagnostics.batch_norm.evaluation import Evaluation


def try_batch(
    trainer: Trainer,
    pl_module: LightningModule,
    evaluation: Evaluation,
    batch: Any,
    place: tuple[int, int],
    *,
    names: Mapping[str, str],
    mends: Callable[[str], bool] | None,
) -> Dependence | None:
    """Whether predictions depend on what else is in the batch; None if not.

    Args:
        trainer: The Trainer.
        pl_module: The model.
        evaluation: The evaluation that is running.
        batch: The batch, on its device.
        place: Index of the batch, and of the loader.
        names: The names of modules outside of the model, as they were given.
        mends: Which modules are put into evaluation mode; None if none is.

    Raises:
        CannotTryError: if that cannot be tried, with the reason.
    """
    modules = evaluation.modes.everything
    if insides.is_sharded(trainer):
        raise CannotTryError("the weights are spread over processes, which would have to try it together")
    if any(is_lazy(each) for each in (*pl_module.parameters(), *pl_module.buffers())):
        raise CannotTryError("there are lazy modules that have not run yet")
    loading = insides.loading(trainer, pl_module, place[1])
    axes = find_axes(batch, batch_size=loading.batch_size, stacked=loading.stacked)
    try:
        step = insides.evaluation_step(trainer, pl_module, *place)
    except ValueError as fault:
        raise CannotTryError(str(fault)) from fault
    compiled = insides.is_compiled(pl_module)

    @contextlib.contextmanager
    def alone() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(undisturbed(trainer, pl_module))
            if compiled:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield

    def put_right(_: nn.Module) -> None:
        for path, module in modules.items():
            module.training = module.training and not (mends is not None and mends(path))

    mend = put_right if mends is not None else None
    if compiled and not hasattr(torch.compiler, "set_stance"):
        raise CannotTryError("the model is compiled, which can be stepped around from torch 2.6 on")
    trial = Trial(pl_module, step, alone, evaluation.stage, evaluation.step_name, dict(names), mend)
    try:
        return trial.compare(batch, axes)
    except CannotRestoreError as fault:
        raise CannotTryError(str(fault)) from fault
    except CannotTryError:
        if axes.samples == axes.length:
            raise
        return trial.compare(batch, replace(axes, samples=axes.length))  # its step may want whole batches
