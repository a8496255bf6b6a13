"""What a validation logs."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.callback.order import callbacks_of
from lightning_diagnostics.callback.trainer.evaluation import evaluation_context, evaluation_loop


@dataclass(frozen=True)
class Logged:
    """What has been logged under one name so far, in the validation that is running.

    Attributes:
        name: As in ``trainer.callback_metrics``.
        hook: What logged it, such as ``"validation_step"``.
        loader: The index of the loader it belongs to; 0 if there is one.
        reduction: ``"mean"``, ``"sum"``, ``"min"``, ``"max"``, or ``"metric"`` for an object of torchmetrics.
        total: The running sum of values times weights (or their sum, least or largest), on its device.
        weight: The running sum of weights, which are the sizes of the batches; None where there are none.
        metric: The object of torchmetrics.
    """

    name: str
    hook: str
    loader: int
    reduction: str
    total: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    metric: Any = None


def logged(trainer: Trainer) -> list[Logged]:
    """What the validation that is running has logged so far for its end. Waits for no device."""
    return _logged(evaluation_loop(trainer)._results)


def _logged(results: Any) -> list[Logged]:
    found: list[Logged] = []
    for each in results.values():
        meta = each.meta
        if each.has_reset or not meta.on_epoch:
            continue
        apart = meta.add_dataloader_idx and meta.dataloader_idx is not None
        name = f"{meta.name}/dataloader_idx_{meta.dataloader_idx}" if apart else str(meta.name)
        common = (name, str(meta.fx).partition(".")[0], int(meta.dataloader_idx or 0))
        if not each.is_tensor:
            found.append(Logged(*common, "metric", metric=each.value))
        elif each.value.numel() == 1:
            kinds = {"mean": meta.is_mean_reduction, "sum": meta.is_sum_reduction, "max": meta.is_max_reduction}
            reduction = next((kind for kind, holds in kinds.items() if holds), "min")
            weight = each.cumulated_batch_size if meta.is_mean_reduction else None
            found.append(Logged(*common, reduction, each.value, weight))
    return found


class Apart:
    """The user's ``validation_step`` run by us, with what it logs kept apart from the validation's own values."""

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self._trainer, self._module, self._loop = trainer, module, evaluation_loop(trainer)
        self.fresh()

    def fresh(self) -> None:
        """Forget what was logged."""
        self._results = self._loop._results = _quiet(type(self._loop._results))(training=False)
        self._count = 0

    def moved(self, batch: Any, loader: int) -> Any:
        """A batch on the device, as the hooks of the module and the data module make it."""
        batch = self._trainer.precision_plugin.convert_input(batch)
        batch = self._module._on_before_batch_transfer(batch, dataloader_idx=loader)
        return self._trainer.strategy.batch_to_device(batch, dataloader_idx=loader)

    def step(self, batch: Any, loader: int) -> Any:
        """One call, for a batch that is on the device; gives what the step returns."""
        trainer, module, loop, results = self._trainer, self._module, self._loop, self._results
        index = loader if loop._is_sequential and loop.num_dataloaders > 1 else None
        arguments = loop._build_step_args_from_hook_kwargs(
            loop._build_kwargs(batch, self._count, index), "validation_step"
        )
        results.batch, results.batch_size, results.dataloader_idx = batch, None, index
        trainer._logger_connector._current_fx = module._current_fx_name = "validation_step"
        try:
            with evaluation_context(trainer):
                return module.validation_step(*arguments)
        finally:
            self._count += 1
            results.batch = results.batch_size = None

    def logged(self) -> list[Logged]:
        """What was logged since the last `fresh`."""
        return _logged(self._results)


@contextlib.contextmanager
def logging_apart(trainer: Trainer, module: LightningModule) -> Iterator[Apart]:
    """Within it ``validation_step`` can be run again; what the validation has logged is as it was afterwards."""
    loop, connector = evaluation_loop(trainer), trainer._logger_connector
    results, current, name = loop._results, connector._current_fx, module._current_fx_name
    try:
        yield Apart(trainer, module)
    finally:
        loop._results, connector._current_fx, module._current_fx_name = results, current, name


@cache
def _quiet(kind: Any) -> Any:
    """Lightning's record of logged values, but one that exchanges nothing with other processes."""
    if getattr(kind, "exchanges_nothing", False):
        return kind

    class Quiet(kind):
        exchanges_nothing = True

        def log(self, *arguments: Any, **options: Any) -> None:
            super().log(*arguments, **{**options, "sync_dist": False})

    return Quiet


def publish(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Give values to those who watch a metric, such as ``EarlyStopping`` and ``ModelCheckpoint``."""
    metrics = trainer._logger_connector._callback_metrics
    metrics.update({name: torch.tensor(value, device=trainer.strategy.root_device) for name, value in values.items()})


def monitored(trainer: Trainer) -> dict[str, str]:
    """What callbacks watch, and whether it shall be ``"min"`` or ``"max"``."""
    found: dict[str, str] = {}
    for each in callbacks_of(trainer):
        name, mode = getattr(each, "monitor", None), getattr(each, "mode", None)
        if isinstance(name, str) and mode in ("min", "max"):
            found.setdefault(name, mode)
    return found


def running_sums(trainer: Trainer, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Of a mean that ``validation_step`` logs, the sums so far of values times sizes of batches, and of these sizes.

    None where it is no such mean. Waits for no device.
    """
    for each in evaluation_loop(trainer)._results.values():
        meta = each.meta
        if each.has_reset or not meta.on_epoch or not each.is_tensor or not meta.is_mean_reduction:
            continue
        apart = meta.add_dataloader_idx and meta.dataloader_idx is not None
        if name == (f"{meta.name}/dataloader_idx_{meta.dataloader_idx}" if apart else meta.name):
            return (each.value, each.cumulated_batch_size) if each.value.numel() == 1 else None
    return None


def final_metrics(trainer: Trainer) -> Mapping[str, Any]:
    """The metrics that callbacks watch, as the last validation or epoch has left them; nothing is computed for it.

    ``trainer.callback_metrics`` would reduce what is being logged right now, over the processes too.
    """
    return trainer._logger_connector._callback_metrics
