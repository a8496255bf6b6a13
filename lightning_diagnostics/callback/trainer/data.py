"""Training data."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from lightning_diagnostics.callback.namespaces import Trainer


def training_loaders(trainer: Trainer) -> list[tuple[Any, float]]:
    """The training loaders as Lightning made them, and how many batches of each an epoch takes at most."""
    combined: Any = trainer.fit_loop._combined_loader
    if combined is None:
        return []
    limits = combined.limits or [math.inf] * len(combined.flattened)
    most = min(limits) if combined._mode == "min_size" else max(limits)
    return [(loader, most) for loader in combined.flattened]


def users_sampler(sampler: Any) -> Any:
    """What Lightning has wrapped so that each process gets its part; itself if nothing is."""
    return getattr(getattr(sampler, "dataset", None), "_sampler", sampler)


def shard(trainer: Trainer) -> tuple[int, int]:
    """Which part of the data is this process's, from 0, and how many parts there are."""
    parts = trainer.distributed_sampler_kwargs or {}
    return int(parts.get("rank", trainer.global_rank)), int(parts.get("num_replicas", trainer.world_size))


def batch_size(trainer: Trainer, batch: Any) -> int | None:
    """Samples in a training batch; None if it is not certain (no loader that says it, or another number)."""
    combined: Any = trainer.fit_loop._combined_loader
    loaders = combined.flattened if combined is not None else []
    size = getattr(loaders[0], "batch_size", None) if len(loaders) == 1 else None
    tensors = list(_tensors(batch))
    return size if isinstance(size, int) and tensors and all(len(each) == size for each in tensors) else None


def _tensors(batch: Any) -> Iterator[torch.Tensor]:
    """The tensors of a batch, those of no dimension left out."""
    if isinstance(batch, torch.Tensor):
        if batch.dim():
            yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from _tensors(value)
