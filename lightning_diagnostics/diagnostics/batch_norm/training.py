"""What the looks of training say of each norm: its batches, its statistics, and whether it drifts while frozen."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_diagnostics.diagnostics.batch_norm.measure import Drift, SmallBatch, of_update
from lightning_diagnostics.diagnostics.batch_norm.modes import Modes
from lightning_diagnostics.probes import NormCalls, RunningStatistics, Statistics, kind_of, same_statistics
from lightning_diagnostics.statistics import statistics_mismatch

_RECENT = 8  # looks that the statistics of training batches are the median of


@dataclass(eq=False)
class _Frozen:
    """A norm whose weights are frozen.

    Attributes:
        weight: A copy of one of its parameters.
        start: Its running statistics when it was first seen.
        looks: At how many looks they moved.
        step: When it was first seen to.
        shift: How far they have come.
    """

    weight: Tensor
    start: Statistics
    looks: int = 0
    step: int = 0
    shift: float = 0.0


@dataclass(eq=False)
class TrainingLooks:
    """What the looks of an epoch have seen.

    Attributes:
        trained: Norms that were seen to move in training.
        rows: By norm, the rows of its batches at the looks of the epoch, and the step of each.
        shifts: By norm, how far its last batches were from the running statistics.
        calls: By norm, how often it is called in a step, if more than once.
        drifting: Norms that moved in this epoch while their weights stood still.
    """

    trained: set[str] = field(default_factory=set[str])
    rows: dict[str, list[tuple[int, int]]] = field(default_factory=dict[str, list[tuple[int, int]]])
    shifts: dict[str, list[tuple[float, float]]] = field(default_factory=dict[str, list[tuple[float, float]]])
    calls: dict[str, int] = field(default_factory=dict[str, int])
    drifting: set[str] = field(default_factory=set[str])
    _frozen: dict[str, _Frozen] = field(default_factory=dict[str, _Frozen])
    _moved_now: set[str] = field(default_factory=set[str])
    _thawed: set[str] = field(default_factory=set[str])

    def take(
        self,
        modes: Modes,
        before: RunningStatistics,
        after: RunningStatistics,
        seen: Mapping[str, NormCalls],
        *,
        step: int,
        passes: int = 1,
        written: Mapping[str, int] | None = None,
    ) -> None:
        """Take up a look.

        Args:
            modes: Of the model.
            before: Running statistics before the batch.
            after: And after it.
            seen: The calls in between.
            step: On the axis of ``self.log``.
            passes: How often the optimizer had the step run (LBFGS: several times).
            written: How often each norm's count of batches was written to, a checkpoint's second forward pass included;
                None if others write to it too.
        """
        self._moved_now = set()
        for path, calls in seen.items():
            by_sample = isinstance(modes.norms.get(path), nn.modules.instancenorm._InstanceNorm)
            if calls.by_batch and calls.rows is not None and not by_sample:
                self.rows.setdefault(path, []).append((calls.rows, step))
            each = calls.by_batch // passes
            if each > 1 and not calls.designed:
                self.calls[path] = max(self.calls.get(path, 0), each)
        old, new = before.read_with(after)
        for path in (each for each in modes.norms if each in old and each in new):
            if old[path][0].shape == new[path][0].shape and not same_statistics(old[path], new[path]):
                self.trained.add(path)
                if written is None or written.get(path, 0) <= 1:
                    self._take_update(path, modes.norms[path], old[path], new[path], seen.get(path))
                self._take_frozen(path, modes, old[path], new[path], step)

    def _take_update(
        self, path: str, norm: nn.Module, old: Statistics, new: Statistics, calls: NormCalls | None
    ) -> None:
        momentum, once = momentum_of(norm), calls is None or calls.calls == 1
        if once and momentum is not None and 0 < momentum <= 1:
            found = of_update(old, new, momentum=momentum, eps=epsilon(norm))
            if np.isfinite(found).all():
                self.shifts[path] = [*self.shifts.get(path, []), found][-_RECENT:]

    def _take_frozen(self, path: str, modes: Modes, old: Statistics, new: Statistics, step: int) -> None:
        """A norm moved: whether its weights stand still while it does."""
        weights = modes.weights(path)
        if path in self._thawed or not modes.is_frozen(path):
            self._frozen.pop(path, None)
            return
        weight = min(weights, key=Tensor.numel)
        known = self._frozen.get(path)
        if known is None:
            known = self._frozen[path] = _Frozen(weight.detach().clone(), old, step=step)
        elif known.weight.shape != weight.shape or not torch.equal(known.weight, weight.detach()):
            self._thawed.add(path)  # the weights of a teacher follow those of its student
            del self._frozen[path]
            return
        self.drifting.add(path)
        self._moved_now.add(path)
        known.looks += 1
        known.shift = statistics_mismatch(*known.start, *new, eps=epsilon(modes.norms[path]))[0]

    def drifts(self, modes: Modes) -> list[Drift]:
        """The norms that moved at the last look while their weights stood still."""
        return [
            Drift(path, (path,), each.looks, each.shift, modes.follows_learning(path), each.step)
            for path, each in self._frozen.items()
            if path in self._moved_now
        ]

    def small_batches(self, modes: Modes, processes: int) -> list[SmallBatch]:
        """How few rows each norm had at the looks of the epoch."""
        found: list[SmallBatch] = []
        for path, seen in self.rows.items():
            rows = [count for count, _ in seen]
            together = processes if path in modes.norms and "Sync" in kind_of(modes.norms[path]) else 1
            step = next(step for count, step in seen if count == min(rows))
            found.append(SmallBatch(path, (path,), min(rows), statistics.median(rows), len(rows), together, step))
        return found


def recent(seen: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """How far the last training batches were from the running statistics of a norm; None if that was not seen."""
    if not seen:
        return None
    return statistics.median(shift for shift, _ in seen), statistics.median(ratio for _, ratio in seen)


def momentum_of(norm: nn.Module) -> float | None:
    """The weight of a new batch in the running statistics; None for a cumulative average, or if it is not known."""
    momentum: Any = getattr(norm, "momentum", None)
    return float(momentum) if isinstance(momentum, int | float) else None


def updates(norms: Mapping[str, nn.Module]) -> dict[str, int]:
    """How often the running statistics of norms were updated, of those that count it; one transfer."""
    counts = {path: getattr(norm, "num_batches_tracked", None) for path, norm in norms.items()}
    known = {path: count for path, count in counts.items() if isinstance(count, Tensor) and count.numel() == 1}
    if not known:
        return {}
    device = next(iter(known.values())).device
    values = torch.stack([count.detach().reshape(()).to(device, torch.int64) for count in known.values()]).tolist()
    return dict(zip(known, values, strict=True))


def epsilon(norm: nn.Module) -> float:
    """What a norm adds to a variance."""
    eps: Any = getattr(norm, "eps", None)
    return float(eps) if isinstance(eps, int | float) and eps > 0 else 1e-5
