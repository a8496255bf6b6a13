"""The running statistics of a model's norms at one moment, in one piece."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_diagnostics.probes.norms import running_statistics

Statistics = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Means and variances by channel."""


def same_statistics(one: Statistics, other: Statistics) -> bool:
    """Whether means and variances are equal; NaN is the same as NaN."""
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


class RunningStatistics:
    """A copy of the running means and variances of some norms, which stays on their device.

    Args:
        layers: The norms by path; those without running statistics are left out.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        found = {path: both for path, norm in layers.items() if (both := running_statistics(norm)) is not None}
        self._sizes = {path: len(mean) for path, (mean, _) in found.items()}
        parts = [_whole(mean) for mean, _ in found.values()] + [_whole(variance) for _, variance in found.values()]
        device = parts[0].device if parts else torch.device("cpu")
        exact = torch.float32 if device.type in ("cuda", "mps") else torch.float64
        self._values = torch.cat([part.to(device, exact) for part in parts]) if parts else torch.zeros(0)

    def same(self, other: "RunningStatistics") -> bool:
        """Whether all are as they were; one transfer. NaN is the same as NaN."""
        if self._sizes != other._sizes:
            return False
        equal = (self._values == other._values) | (self._values.isnan() & other._values.isnan())
        return bool(equal.all())

    def read(self) -> dict[str, Statistics]:
        """By path; one transfer."""
        return self._split(self._values)

    def read_with(self, other: "RunningStatistics") -> tuple[dict[str, Statistics], dict[str, Statistics]]:
        """This moment and another; one transfer."""
        both = torch.cat([self._values, other._values.to(self._values.device)]).cpu()
        half = len(self._values)
        return self._split(both[:half]), other._split(both[half:])

    def _split(self, tensor: Tensor) -> dict[str, Statistics]:
        values = tensor.cpu().double().numpy()
        found: dict[str, Statistics] = {}
        half, start = len(values) // 2, 0
        for path, size in self._sizes.items():
            found[path] = values[start : start + size], values[half + start : half + start + size]
            start += size
        return found


def _whole(tensor: Any) -> Tensor:
    """A plain tensor, without gradient; of a sharded one its local part."""
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach()
