"""How far the training is, and how it goes on."""

import math

from lightning_diagnostics.callback.namespaces import Trainer


def log_step(trainer: Trainer) -> int:
    """The step at which Lightning's ``self.log`` draws values of the current batch (it is not ``global_step``)."""
    return int(getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step))


def epoch_end_step(trainer: Trainer) -> int:
    """The step at which ``self.log`` draws values of the epoch that just ended."""
    return max(0, log_step(trainer) - 1)


def batches_per_epoch(trainer: Trainer) -> int | None:
    """Training batches in an epoch; None for loaders without a length."""
    batches = trainer.num_training_batches
    return None if batches == math.inf else int(batches)


def batches_left(trainer: Trainer) -> float:
    """Training batches still to come by ``max_epochs`` and ``max_steps``; ``inf`` when neither bounds the run.

    ``max_steps`` counts optimizer steps, of which this run has so far made ``global_step`` in its batches.
    """
    loop = trainer.fit_loop
    done = max(loop.epoch_loop.total_batch_idx + 1, 1)
    left = math.inf
    if loop.max_epochs is not None and loop.max_epochs >= 0:
        left = trainer.num_training_batches * loop.max_epochs - done
    if loop.max_steps >= 0:
        stepped = trainer.global_step / done
        left = min(left, (loop.max_steps - trainer.global_step) / stepped if stepped else math.inf)
    return max(0.0, left)


def accumulation(trainer: Trainer, batch_idx: int) -> tuple[int, int]:
    """The place of a batch among those whose gradients are accumulated, from 0, and how many these are."""
    of = trainer.accumulate_grad_batches
    return batch_idx % of, of


def is_trial(trainer: Trainer) -> bool:
    """Whether a few batches are run, only to see that the program works (``fast_dev_run``)."""
    return bool(getattr(trainer, "fast_dev_run", False))


def stop(trainer: Trainer) -> None:
    """Ask for an end after the current batch."""
    trainer.should_stop = True
