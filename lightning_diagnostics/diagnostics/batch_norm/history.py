"""What is known of each norm since the run began: its weights, its running statistics, and how often they moved."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_diagnostics.diagnostics.batch_norm.measure import LayerStatistics, Part, of_batches, without_start
from lightning_diagnostics.diagnostics.batch_norm.modes import Modes
from lightning_diagnostics.diagnostics.batch_norm.training import epsilon, momentum_of, recent, updates
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
        self._now: dict[str, int] = {}
        self._start = RunningStatistics(modes.norms).read()
        self._counts: dict[str, int] = updates(modes.norms)

    def begin(self) -> None:
        """An evaluation is about to be taken up: how often norms were updated is read; one transfer."""
        self._now = updates(self._modes.norms)

    def layer(
        self,
        path: str,
        running: Statistics,
        parts: Sequence[Part],
        shifts: Sequence[tuple[float, float]],
        *,
        rows: int,
        smallest: int | None,
        trained: bool,
        step: int,
    ) -> LayerStatistics:
        """The statistics of a norm at an evaluation.

        Args:
            path: Of the norm.
            running: Its running statistics.
            parts: The statistics of the batches that were looked at.
            shifts: How far training batches were from the running statistics.
            rows: Behind the parts.
            smallest: Rows of the smallest training batch.
            trained: Whether it was seen to move in training.
            step: On the axis of ``self.log``.
        """
        norm = self._modes.norms[path]
        shift, ratio = of_batches(running, parts, eps=epsilon(norm))
        training = recent(shifts)
        count = self._now.get(path)
        count = None if count == 0 and trained else count  # a ``forward`` of the user's may not count
        since = self._since(path, count)
        settled = self._settled(path, norm, running, parts, since)
        return LayerStatistics(
            path,
            kind_of(norm),
            shift,
            ratio,
            None if training is None else training[0],
            None if training is None else training[1],
            smallest,
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

    # Resuming: a run that is resumed began where the first did.

    def state(self) -> dict[str, Any]:
        """How the norms stood when the run began, as plain values."""
        return {
            "counts": dict(self._counts),
            "start": {path: [_packed(each) for each in both] for path, both in self._start.items()},
            "weights": {path: _packed(each.cpu().double().numpy()) for path, each in self._weights.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self._counts |= state["counts"]
        for path, (mean, variance) in state["start"].items():
            if path in self._start and self._start[path][0].shape == _unpacked(mean).shape:
                self._start[path] = _unpacked(mean), _unpacked(variance)
        for path, text in state["weights"].items():
            own = self._weights.get(path)
            values = torch.from_numpy(_unpacked(text).copy())
            if own is not None and own.numel() == values.numel():
                self._weights[path] = values.reshape(own.shape).to(own.device, own.dtype)


def _packed(values: NDArray[np.float64]) -> str:
    """Numbers as text, which every checkpoint can hold."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=np.float64).reshape(-1).tobytes()).decode()


def _unpacked(text: str) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text), dtype=np.float64)
