"""Trying the calls of an evaluation's step again, with other samples: with what the Trainer has to do for it."""

import contextlib
import time
from collections.abc import Mapping

import torch
from torch.nn.parameter import is_lazy

from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.callback.undisturbed import CannotRestoreError, undisturbed
from lightning_diagnostics.diagnostics.batch_norm.dependence import (
    SECONDS,
    CannotTryError,
    Dependence,
    Samples,
    TooSlowError,
    Trial,
    find_samples,
)
from lightning_diagnostics.probes import CallKeeper


class Trying:
    """One batch of an evaluation that is tried: its calls are kept while the step runs, and made again after it.

    Args:
        trainer: The Trainer.
        pl_module: The model.
        batch: The batch, on its device.
        loader: Index of its loader.
        names: The names of modules outside of the model, as they were given.

    Raises:
        CannotTryError: if it cannot be tried, with the reason.
    """

    def __init__(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, loader: int, names: Mapping[str, str]
    ) -> None:
        if insides.is_sharded(trainer):
            raise CannotTryError("the weights are spread over processes, which would have to try it together")
        if any(is_lazy(each) for each in (*pl_module.parameters(), *pl_module.buffers())):
            raise CannotTryError("there are lazy modules that have not run yet")
        if insides.is_compiled(pl_module):
            raise CannotTryError("calls of compiled modules cannot be kept")
        loading = insides.loading(trainer, pl_module, loader)
        self._samples: Samples = find_samples(batch, batch_size=loading.batch_size, stacked=loading.stacked)
        self._names = dict(names)
        self._keeper = CallKeeper(dict(names), self._samples.kept)
        stage = str(trainer.state.stage.value) if trainer.state.stage is not None else ""
        self._keeper.start(pl_module, functional=False, running=insides.in_stage(trainer, stage))

    def unhook(self) -> None:
        """Keep nothing more."""
        self._keeper.unhook()

    def compare(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> Dependence | None:
        """The step has run: whether predictions depend on what else is in the batch; None if not.

        Raises:
            CannotTryError: if that cannot be told, with the reason.
        """
        self._keeper.unhook()
        calls = list(self._keeper.calls)
        self._keeper.stop()
        if not calls:
            raise CannotTryError("the step calls no module with one row of numbers per sample")
        context = contextlib.nullcontext() if torch.is_inference_mode_enabled() else torch.no_grad()
        reason: CannotTryError | None = None
        worst: Dependence | None = None
        tried = 0
        try:
            others = (call.module for call in calls)
            with insides.evaluation_context(trainer), context, undisturbed(trainer, pl_module, *others) as traces:
                begun = time.perf_counter()
                for call in calls:
                    if tried and time.perf_counter() - begun > SECONDS:
                        break  # each takes little, all together not
                    trial = Trial(
                        pl_module, call, traces, stage, self._names, self._samples.count, self._samples.stacked
                    )
                    try:
                        found = trial.compare()
                    except TooSlowError as fault:
                        reason = fault
                        break
                    except CannotTryError as fault:
                        reason = reason or fault
                        continue
                    tried += 1
                    if found is not None and (worst is None or found.change > worst.change):
                        worst = found
        except CannotRestoreError as fault:
            raise CannotTryError(str(fault)) from fault
        if reason is not None and not tried:
            raise reason
        return worst
