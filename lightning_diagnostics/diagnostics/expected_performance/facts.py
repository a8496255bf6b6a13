"""What a record says of its run beside the score: hyperparameters, sizes of the data, seed, devices."""

import math
import os
from collections.abc import Mapping
from typing import Any

from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.diagnostics.expected_performance.values import plain


def hyperparameters(trainer: Trainer, module: LightningModule, proposed: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a run by name, as plain values: those that it has saved, else those that were proposed."""
    found: dict[str, Any] = {}
    for each in (getattr(trainer, "datamodule", None), module):
        found |= plain(getattr(each, "hparams_initial", None) or {})
    return dict(sorted((found or plain(proposed)).items()))


def seed() -> int | None:
    """The seed that ``seed_everything`` was given."""
    word = os.environ.get("PL_GLOBAL_SEED", "")
    return int(word) if word.isdecimal() else None


def training_samples(trainer: Trainer) -> int | None:
    """Samples in an epoch of training; None if the loaders do not say."""
    counts: list[int] = []
    for loader, most in insides.training_loaders(trainer):
        size, sampler = getattr(loader, "batch_size", None), getattr(loader, "sampler", None)
        length = getattr(sampler, "__len__", None)
        if not isinstance(size, int) or length is None:
            return None
        whole = int(length()) * trainer.world_size  # each process has its part
        counts.append(whole if most == math.inf else min(whole, int(most) * size * trainer.world_size))
    return sum(counts) if counts else None


def validation_samples(trainer: Trainer, metric: str) -> int | None:
    """Samples behind a metric of the validation that is running; None if the loaders do not say.

    With several loaders these are those of the metric's own, as its name says, else of all.
    """
    own = metric.rpartition("/dataloader_idx_")[2]
    counts: list[int] = []
    for index, loader in enumerate(insides.validation_loaders(trainer) or ()):
        if own.isdecimal() and metric != own and index != int(own):
            continue
        batches = insides.evaluation_batches(trainer, index)
        read = None if batches is None else insides.samples_read(trainer, index, batches)
        if read is None:
            return None
        whole = getattr(getattr(loader, "dataset", None), "__len__", None)
        read *= trainer.world_size
        counts.append(min(read, int(whole())) if whole is not None and trainer.world_size > 1 else read)
    return sum(counts) if counts else None


def devices(trainer: Trainer) -> int:
    """How many devices train."""
    return max(1, int(trainer.num_devices) * int(trainer.num_nodes))
