"""Learning-rate schedulers as Lightning steps them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from lightning_diagnostics.callback.namespaces import Trainer
from lightning_diagnostics.callback.trainer.horizon import batches_before, epoch_steps
from lightning_diagnostics.callback.trainer.module import is_overridden


@dataclass(frozen=True)
class Scheduled:
    """A scheduler of the run.

    Attributes:
        scheduler: The scheduler itself.
        optimizer: Whose rates it sets.
        interval: ``"step"`` or ``"epoch"``: after what Lightning steps it.
        frequency: Batches or epochs between two of its steps.
        plateau: Whether it waits for a metric.
    """

    scheduler: Any
    optimizer: Optimizer
    interval: str
    frequency: int
    plateau: bool


def scheduled(trainer: Trainer) -> list[Scheduled]:
    """The schedulers of the run."""
    return [
        Scheduled(each.scheduler, each.scheduler.optimizer, each.interval, each.frequency, each.reduce_on_plateau)
        for each in trainer.lr_scheduler_configs
    ]


def steps_schedulers_itself(trainer: Trainer) -> bool:
    """Whether Lightning steps the schedulers, by their ``step()``, and not the module."""
    module = trainer.lightning_module
    return module.automatic_optimization and not is_overridden(module, "lr_scheduler_step")


def steps_ahead(trainer: Trainer, end: float) -> Iterator[tuple[int, bool, int]]:
    """The optimizer steps to come, in automatic optimisation.

    Args:
        trainer: The Trainer, before its first batch of this run.
        end: The number of steps at which the run ends.

    Yields:
        Of each step: the batches of its epoch up to and with it, whether the epoch ends with it, and the epochs up to
        and with its own.
    """
    step, epoch, batch = trainer.global_step, trainer.current_epoch, batches_before(trainer)
    while step < end:
        batches, accumulate = epoch_steps(trainer, epoch)
        while batch < batches and step < end:
            batch = min((batch // accumulate + 1) * accumulate, batches)
            yield int(batch), batch >= batches, epoch + 1
            step += 1
        epoch, batch = epoch + 1, 0
        if batches <= 0:
            return
