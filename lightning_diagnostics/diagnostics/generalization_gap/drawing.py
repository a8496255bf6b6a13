"""Which samples of a dataset a training loader can draw, known without drawing any."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_diagnostics.callback import trainer as insides


@dataclass(frozen=True)
class Batching:
    """How a loader makes batches.

    Attributes:
        sampler: What draws samples; None if that is not known.
        size: Samples in a batch; None if each sample is given as it is, or the loader does not say.
        drop_last: Whether a last batch that is not full is left out.
        way: ``"collated"``: samples are put together; ``"listed"``: the dataset is asked for a list of samples;
            ``"single"``: it is asked for one, which may well be a batch.
    """

    sampler: Any
    size: int | None
    drop_last: bool
    way: str


@dataclass(frozen=True)
class Drawn:
    """The samples that a loader can draw.

    Attributes:
        count: How many.
        indices: Which, each once; None for the first ``count`` of the dataset.
        note: What there is to say about the choice; may be empty.
    """

    count: int
    indices: Tensor | None = None
    note: str = ""


def batching(loader: DataLoader) -> Batching:
    """How a loader makes batches."""
    batches = loader.batch_sampler
    if batches is None:
        if isinstance(loader.sampler, BatchSampler):
            inner = loader.sampler
            return Batching(inner.sampler, inner.batch_size, inner.drop_last, "listed")
        return Batching(loader.sampler, None, False, "single")
    size = getattr(batches, "batch_size", None)
    sampler = getattr(batches, "sampler", None)
    dropped = _is_plain(batches, BatchSampler) and bool(getattr(batches, "drop_last", False))
    return Batching(sampler, size if isinstance(size, int) else None, dropped, "collated")


def drawn(loader: DataLoader, *, most: float | None) -> Drawn:
    """The samples that a loader can draw.

    Samplers are asked for what they are, never for samples, which could move them on.

    Args:
        loader: A loader of a dataset with indices.
        most: How many batches are taken of it in an epoch, at most; None for all samples, a last batch that is not
            full included.

    Raises:
        TypeError: if the dataset has no length and the sampler tells no indices.
    """
    made = batching(loader)
    sampler = _inner(made.sampler)
    indices = _listed(sampler)
    if indices is not None:
        spread = made.sampler if isinstance(made.sampler, DistributedSampler) else None
        random = isinstance(sampler, SubsetRandomSampler | WeightedRandomSampler) or (spread and spread.shuffle)
        parts = spread.num_replicas if spread else 1
        count = len(indices) if random else _reached(len(indices), made, loader, most, parts)
        indices = indices[:count].unique()
        return Drawn(len(indices), indices, "" if len(indices) == _length(loader.dataset) else "those of its sampler")
    whole = _length(loader.dataset)
    if whole is None:
        raise TypeError("the dataset has no length")
    if _is_plain(sampler, SequentialSampler, RandomSampler):
        whole = min(whole, len(sampler.data_source))
    if _is_plain(sampler, SequentialSampler):
        return _first(_reached(whole, made, loader, most, 1), whole)
    if isinstance(sampler, DistributedSampler) and _is_distributed(sampler):
        whole = min(whole, _length(sampler.dataset) or 0)
        parts = sampler.num_replicas
        return (
            Drawn(whole) if sampler.shuffle else _first(_reached(sampler.total_size, made, loader, most, parts), whole)
        )
    if _is_plain(sampler, RandomSampler):
        return Drawn(whole)
    name = type(loader.batch_sampler if sampler is None else sampler).__name__
    return Drawn(whole, note=f"all of it, since what {name} draws is not known")


def _inner(sampler: Any) -> Any:
    """The user's own sampler, which Lightning may have wrapped."""
    while (inner := insides.users_sampler(sampler)) is not sampler:
        sampler = inner
    return sampler


def _listed(sampler: Any) -> Tensor | None:
    """The indices that a sampler holds, in their order; None if it holds none."""
    if _is_plain(sampler, SubsetRandomSampler):
        sampler = sampler.indices
    elif _is_plain(sampler, WeightedRandomSampler):
        return torch.as_tensor(sampler.weights).cpu().nonzero().flatten()
    if isinstance(sampler, list | tuple | range | Tensor):
        found = torch.as_tensor(sampler if isinstance(sampler, Tensor) else list(sampler)).cpu()
        return found.to(torch.int64) if found.dim() == 1 and not found.is_floating_point() else None
    return None


def _is_plain(sampler: Any, *kinds: type) -> bool:
    """Whether a sampler draws as one of torch's kinds does: a subclass may draw otherwise."""
    return any(isinstance(sampler, kind) and type(sampler).__iter__ is kind.__iter__ for kind in kinds)


def _is_distributed(sampler: Any) -> bool:
    home = type(sampler).__iter__.__module__
    return _is_plain(sampler, DistributedSampler) or home.startswith(("lightning.", "lightning_fabric.", "pytorch_"))


def _reached(length: int, made: Batching, loader: DataLoader, most: float | None, parts: int) -> int:
    """How many of ``length`` samples, in their order, an epoch of all processes comes to."""
    if most is None or (made.way == "collated" and not _is_plain(loader.batch_sampler, BatchSampler)):
        return length
    size, own = made.size or 1, -(-length // parts)
    batches = min(own // size if made.drop_last else -(-own // size), most)
    return min(length, int(batches) * size * parts)


def _first(count: int, whole: int) -> Drawn:
    return (
        Drawn(whole) if count >= whole else Drawn(count, note=f"its first {count:,} samples, the others are not used")
    )


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset) if isinstance(dataset, Sized) else None
    except (TypeError, NotImplementedError):
        return None
