"""What a predictor comes to that does not look at its input, from the targets in the batches."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_diagnostics.statistics import Moments

NAMES = ("target", "targets", "label", "labels", "y", "y_true")
"""Keys under which targets are looked for in a batch that is a mapping."""

MOST_CLASSES = 10_000
"""Targets with more classes are not counted."""


@dataclass(frozen=True)
class Constant:
    """The best predictor that always says the same.

    Attributes:
        share: Its accuracy; None where there are no classes.
        cross_entropy: In nats; None where there are no classes.
        squared_error: None where there are classes.
    """

    share: float | None = None
    cross_entropy: float | None = None
    squared_error: float | None = None


class Targets:
    """Counts the targets of a pass, from batches of inputs and targets; what else a batch may be is passed over."""

    def __init__(self) -> None:
        self._classes: Counter[int] = Counter()
        self._moments: Moments | None = None
        self._unknown = False

    def update(self, batch: Any) -> None:
        """Count those of one batch, which is on no device yet."""
        targets = _targets(batch)
        if targets is None or not targets.dim() or not targets.numel() or self._unknown:
            self._unknown = True
        elif targets.is_floating_point() and not _is_binary(targets):
            self._unknown |= targets.numel() != len(targets)  # of several outputs each has a constant of its own
            self._add(targets.detach().double())
        elif targets.is_floating_point():
            self._unknown |= targets.numel() != len(targets)
            self._count(targets.detach().long())
        else:
            self._count(targets.detach())

    def state(self) -> dict[str, Any] | None:
        """As plain values, for other processes; None if targets are unknown."""
        kinds = bool(self._classes) + (self._moments is not None)
        if self._unknown or kinds != 1:
            return None
        if self._classes:
            return {"classes": dict(self._classes)}
        assert self._moments is not None
        return {"moments": [self._moments.count, self._moments.mean, self._moments.squares]}

    def _count(self, targets: Tensor) -> None:
        labels, numbers = torch.unique(targets[targets >= 0], return_counts=True)  # less than none: not to be predicted
        self._classes.update(dict(zip(labels.tolist(), numbers.tolist(), strict=True)))
        self._unknown |= len(self._classes) > MOST_CLASSES

    def _add(self, targets: Tensor) -> None:
        mean = targets.mean()
        one = Moments(targets.numel(), float(mean), float(((targets - mean) ** 2).sum()))
        self._moments = one if self._moments is None else self._moments.merge(one)


def constant(states: list[dict[str, Any] | None]) -> Constant:
    """The best constant predictor for the targets of all processes."""
    known = [each for each in states if each is not None]
    if len(known) < len(states) or not known:
        return Constant()
    if all("moments" in each for each in known):
        moments = [Moments(*each["moments"]) for each in known]
        whole = moments[0]
        for each in moments[1:]:
            whole = whole.merge(each)
        return Constant(squared_error=float(whole.variance))
    if not all("classes" in each for each in known):
        return Constant()
    counts: Counter[int] = Counter()
    for each in known:
        counts.update(each["classes"])
    total = sum(counts.values())
    entropy = -math.fsum(number / total * math.log(number / total) for number in counts.values())
    return Constant(share=max(counts.values()) / total, cross_entropy=entropy)


def _is_binary(targets: Tensor) -> bool:
    """Whether numbers are two classes, as a binary cross entropy wants them."""
    return bool(((targets == 0) | (targets == 1)).all())


def _targets(batch: Any) -> Tensor | None:
    """The targets of a batch, if it is certain which they are."""
    if isinstance(batch, Mapping):
        found = [each for name, each in batch.items() if name in NAMES]  # pyright: ignore[reportUnknownVariableType]
        target = found[0] if len(found) == 1 else None  # pyright: ignore[reportUnknownArgumentType]
    else:
        target = batch[1] if isinstance(batch, list | tuple) and len(batch) == 2 else None  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return target if isinstance(target, Tensor) and not target.is_complex() else None
