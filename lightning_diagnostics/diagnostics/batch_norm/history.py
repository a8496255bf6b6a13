"""What is known of each norm since the run began: its weights, its running statistics, and how often they moved."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_diagnostics.diagnostics.batch_norm.measure import LayerStatistics, Part, of_batches, without_start
from lightning_diagnostics.diagnostics.batch_norm.modes import Modes
from lightning_diagnostics.diagnostics.batch_norm.training import TrainingLooks, epsilon, momentum_of, updates
from lightning_diagnostics.probes import RunningStatistics, Statistics, kind_of


class History:
    """How the norms of a model stood when the run began.

    Args:
        modes: Of the model.
    """

    def __init__(self, modes: Modes) -> None:
        self._modes = modes
        norms = {path: modes.weights(path) for path in modes.norms}
        known = {path: weights for path, weights in norms.items() if weights and not any(map(is_lazy, weights))}
        smallest = {path: min(weights, key=Tensor.numel) for path, weights in known.items()}
        self._weights = {path: each.detach().clone() for path, each in smallest.items()}
        self._start = RunningStatistics(modes.norms).read()
        self._counts = {path: updates(norm) for path, norm in modes.norms.items()}

    def layer(
        self,
        path: str,
        running: Statistics,
        parts: Sequence[Part],
        looks: TrainingLooks,
        *,
        rows: int,
        trained: bool,
        step: int,
    ) -> LayerStatistics:
        """The statistics of a norm at an evaluation.

        Args:
            path: Of the norm.
            running: Its running statistics.
            parts: The statistics of the batches that were looked at.
            looks: What the looks of training have seen.
            rows: Behind the parts.
            trained: Whether it was seen to move in training.
            step: On the axis of ``self.log``.
        """
        norm = self._modes.norms[path]
        shift, ratio = of_batches(running, parts, eps=epsilon(norm))
        training = looks.recent(path)
        count = None if updates(norm) == 0 and trained else updates(norm)  # a ``forward`` of the user's may not count
        since = self._since(path, count)
        settled = self._settled(path, norm, running, parts, since)
        sizes = [size for size, _ in looks.rows.get(path, [])]
        return LayerStatistics(
            path,
            kind_of(norm),
            shift,
            ratio,
            None if training is None else training[0],
            None if training is None else training[1],
            min(sizes) if sizes else None,
            count,
            momentum_of(norm),
            rows,
            averaged=not trained and self._is_averaged(path),
            stale=self._is_stale(path, running),
            trained=trained,
            settled_shift=None if settled is None else settled[0],
            settled_ratio=None if settled is None else settled[1],
            since=since,
            step=step,
        )

    def _since(self, path: str, now: int | None) -> int | None:
        """How often a norm was updated in this run; all that it counts, if it has begun to count anew."""
        start = self._counts.get(path)
        return now if start is None or now is None or now < start else now - start

    def _settled(
        self, path: str, norm: nn.Module, running: Statistics, parts: Sequence[Part], since: int | None
    ) -> tuple[float, float] | None:
        """What `of_batches` gives without the values at the start of the run, if they are known to weigh something."""
        start, momentum = self._start.get(path), momentum_of(norm)
        if start is None or start[0].shape != running[0].shape or not since or momentum is None:
            return None
        if not 0 < momentum < 1:
            return None
        return of_batches(without_start(running, start, (1 - momentum) ** since), parts, eps=epsilon(norm))

    def _is_averaged(self, path: str) -> bool:
        """Whether the weights of a norm have moved in this run, without a gradient."""
        known, weights = self._weights.get(path), self._modes.weights(path)
        if known is None or any(each.requires_grad for each in weights):
            return False
        weight = min(weights, key=Tensor.numel)
        return weight.shape == known.shape and not torch.equal(weight.detach(), known.to(weight.device))

    def _is_stale(self, path: str, running: Statistics) -> bool:
        start = self._start.get(path)
        return start is not None and all(map(np.array_equal, start, running))
