"""How far a run has come, and where it ends: by its steps, its epochs and its time."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_diagnostics.callback.namespaces import Trainer
from lightning_diagnostics.callback.order import callbacks_named

STEPS, BATCHES, ALL_STEPS = "steps", "batches", "steps of all optimizers"


@dataclass(frozen=True)
class Axis:
    """One way to count how far a run is.

    Attributes:
        unit: `STEPS` (of the optimizer), `BATCHES` (training batches) or `ALL_STEPS`.
        end: Where the run ends on it; ``inf`` if nobody knows.
        source: What tells of the end.
    """

    unit: str
    end: float
    source: str = ""


def axes(trainer: Trainer, batch_idx: int | None = None) -> list[Axis]:
    """Where a run ends, by ``max_epochs`` and ``max_steps``; the first is what it is counted in.

    In automatic optimisation these are optimizer steps, which Lightning counts. In manual optimisation nobody can know
    how many steps a batch makes: batches are counted, and where ``max_steps`` is set, also the steps of all optimizers.

    Args:
        trainer: The Trainer.
        batch_idx: The batch of the epoch that comes next or has just begun; None before the first.
    """
    loop = trainer.fit_loop
    steps, batches = _ahead(trainer, batch_idx)
    most = float(loop.max_steps) if loop.max_steps >= 0 else math.inf
    if trainer.lightning_module.automatic_optimization:
        end = trainer.global_step + steps
        return [Axis(STEPS, most, "max_steps") if most < end else Axis(STEPS, end, "max_epochs")]
    counted = Axis(BATCHES, place(trainer, BATCHES) + batches, "max_epochs")
    return [counted, Axis(ALL_STEPS, most, "max_steps")] if most < math.inf else [counted]


def place(trainer: Trainer, unit: str) -> int:
    """How much of that unit is done before the step that is made next."""
    if unit == BATCHES:
        return int(trainer.fit_loop.epoch_loop.batch_progress.total.completed) + _ended(trainer)
    return trainer.global_step


def batches_before(trainer: Trainer) -> int:
    """Batches of the epoch that were done before training started: those of a run that is resumed within an epoch."""
    loop = trainer.fit_loop
    return int(loop.epoch_loop.batch_progress.current.completed) + _ended(trainer) if loop.restarting else 0


def _ended(trainer: Trainer) -> int:
    """1 in the hooks at the end of a batch, which is done then, and where a checkpoint of one of them is resumed."""
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current  # Lightning types it by its base class
    return int(batches.processed - batches.completed)


def epochs_tell(trainer: Trainer) -> bool:
    """Whether the end of a run is known when its first epoch has ended: its epochs are counted, its batches are not."""
    last = trainer.fit_loop.max_epochs
    return last is not None and last > 1 and trainer.num_training_batches == math.inf


def time_share(trainer: Trainer) -> Callable[[], float] | None:
    """What tells how much of the run's time is over, from 0 to 1; None if its time is not limited."""
    timers = [each for each in callbacks_named(trainer, "Timer") if getattr(each, "_duration", None)]
    if not timers:
        return None
    return lambda: max(timer.time_elapsed("train") / timer._duration for timer in timers)


def epoch_steps(trainer: Trainer, epoch: int) -> tuple[float, int]:
    """Training batches of an epoch (``inf`` if unknown), and how many of them make an optimizer step."""
    counting = callbacks_named(trainer, "GradientAccumulationScheduler")
    accumulate = counting[0].get_accumulate_grad_batches(epoch) if counting else trainer.accumulate_grad_batches
    return _batches(trainer), int(accumulate)


def _batches(trainer: Trainer) -> float:
    """Training batches in an epoch; of a loader without a length, as many as its epochs had so far."""
    known = float(trainer.num_training_batches)
    total, epochs = trainer.fit_loop.epoch_loop.batch_progress.total.completed, trainer.fit_loop.epoch_progress.current
    return round(total / epochs.completed) if known == math.inf and epochs.completed else known


def _ahead(trainer: Trainer, batch_idx: int | None) -> tuple[float, float]:
    """Optimizer steps and batches that are still to come by ``max_epochs``."""
    loop = trainer.fit_loop
    first, last = trainer.current_epoch, loop.max_epochs
    batches = _batches(trainer)
    if last is None or last < 0 or batches == math.inf:
        return math.inf, math.inf
    if last <= first:
        return 0, 0
    gone = min(batches_before(trainer) if batch_idx is None else batch_idx, batches)
    counting = callbacks_named(trainer, "GradientAccumulationScheduler")
    changes = sorted({first, *(epoch for each in counting[:1] for epoch in each.scheduling if first < epoch < last)})
    steps = 0.0
    for epoch, until in zip(changes, [*changes[1:], last], strict=True):
        _, accumulate = epoch_steps(trainer, epoch)
        every = math.ceil(batches / accumulate)  # the last batch of an epoch makes a step, however many came before
        steps += every * (until - epoch)
        if epoch == first:
            steps -= gone // accumulate if gone < batches else every
    return steps, batches * (last - first) - gone


def limits(trainer: Trainer) -> tuple[object, ...]:
    """What tells of the end of the run, to see whether it has changed."""
    return trainer.fit_loop.max_steps, trainer.fit_loop.max_epochs, trainer.num_training_batches
