"""The sums of what a pass through data logs, read off at places along it: means, and how they vary."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_diagnostics.callback.trainer import Logged

MOST_BLOCKS = 128
"""Batches in a row are put together in blocks so that a pass has no more of them, however long it is."""


@dataclass(frozen=True)
class Series:
    """What one name had logged in a pass: a mean, and the means of blocks of batches that it is made of.

    Attributes:
        reduction: ``"mean"``, ``"sum"``, ``"min"`` or ``"max"``.
        value: Of the whole pass; a mean is weighted by the sizes of the batches.
        weight: The sum of the weights; for what is no mean, 0.
        means: Of each block; empty for what is no mean.
        weights: Of each block.
        loader: The index of the loader it belongs to.
    """

    reduction: str
    value: float
    weight: float
    means: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    loader: int = 0

    @property
    def finite(self) -> bool:
        """Whether neither it nor a part of it is NaN or infinite."""
        return math.isfinite(self.value) and all(map(math.isfinite, self.means))

    def plain(self) -> list[Any]:
        """As plain values, for other processes and for a checkpoint."""
        return [self.reduction, self.value, self.weight, list(self.means), list(self.weights), self.loader]

    @classmethod
    def of(cls, plain: list[Any]) -> "Series":
        """The series that `plain` wrote."""
        reduction, value, weight, means, weights, loader = plain
        return cls(reduction, value, weight, tuple(means), tuple(weights), loader)


def together(parts: Iterable[Series]) -> Series:
    """The series of all processes: a mean is that of all samples, and the blocks of one follow those of another."""
    parts = list(parts)
    first = parts[0]
    values = [each.value for each in parts]
    if first.reduction != "mean":
        value = {"sum": math.fsum, "min": min, "max": max}[first.reduction](values)
        return Series(first.reduction, value, 0.0, loader=first.loader)
    weight = math.fsum(each.weight for each in parts)
    value = math.fsum(each.value * each.weight for each in parts) / weight if weight else math.nan
    means = tuple(mean for each in parts for mean in each.means)
    weights = tuple(one for each in parts for one in each.weights)
    return Series("mean", value, weight, means, weights, first.loader)


class Tally:
    """Keeps the running sums at the ends of blocks, on their device, until they are read in one transfer."""

    def __init__(self) -> None:
        self._batches, self._stride = 0, 1
        self._ends: list[dict[str, Logged]] = []
        self._last: dict[str, Logged] = {}

    def note(self, entries: Iterable[Logged]) -> None:
        """A batch is done: what has been logged so far (objects of torchmetrics are passed over)."""
        self.finish(entries)
        self._batches += 1
        if self._batches % self._stride:
            return
        self._ends.append(self._last)
        if len(self._ends) > MOST_BLOCKS:
            self._stride *= 2
            self._ends = self._ends[1::2]

    def finish(self, entries: Iterable[Logged]) -> None:
        """What has been logged by now, by hooks after the last batch, too."""
        self._last = {each.name: each for each in entries if each.total is not None}

    def read(self) -> dict[str, Series]:
        """What each name has come to."""
        ends = [*self._ends, *([self._last] if not self._ends or self._ends[-1] is not self._last else [])]
        flat = [number for end in ends for each in end.values() for number in (each.total, each.weight)]
        values = iter(transferred(flat))
        sums: dict[str, list[tuple[float, float]]] = {}
        for end in ends:
            for name in end:
                sums.setdefault(name, []).append((next(values), next(values)))
        return {name: _series(self._last[name], sums[name]) for name in self._last}


def transferred(numbers: list[Tensor | None]) -> list[float]:
    """Numbers from their device, in one transfer for each device; None stays NaN."""
    found = [math.nan] * len(numbers)
    devices: dict[torch.device, list[int]] = {}
    for index, number in enumerate(numbers):
        if number is not None:
            devices.setdefault(number.device, []).append(index)
    for device, indices in devices.items():
        on_device = [numbers[index] for index in indices]
        kind = torch.float32 if device.type == "mps" else torch.float64  # which MPS does not know
        stacked = torch.stack([each.detach().reshape(()).to(kind) for each in on_device if each is not None])
        for index, value in zip(indices, stacked.tolist(), strict=True):
            found[index] = value
    return found


def _series(entry: Logged, sums: list[tuple[float, float]]) -> Series:
    total, weight = sums[-1]
    if entry.reduction != "mean":
        return Series(entry.reduction, total, 0.0, loader=entry.loader)
    means: list[float] = []
    weights: list[float] = []
    before = (0.0, 0.0)
    for end in sums:
        size = end[1] - before[1]
        if size > 0:  # else the batches of another loader
            means.append((end[0] - before[0]) / size)
            weights.append(size)
            before = end
    value = total / weight if weight else math.nan
    return Series("mean", value, weight, tuple(means), tuple(weights), entry.loader)
