"""Metrics that the user's own hook computes at the end of a validation: where each name comes from."""

import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torchmetrics import Metric

from lightning_diagnostics.diagnostics.generalization_gap import metrics
from lightning_diagnostics.diagnostics.generalization_gap.gathered import mean
from lightning_diagnostics.diagnostics.generalization_gap.passing import Snapshot

PROVEN = 10
"""Validations after which a name that has always fitted one metric is not checked again."""

Part = TypeVar("Part")


class Names:
    """Learns, from their values, which metrics are logged under which names in a hook.

    ``self.log("val_acc", self.accuracy.compute())`` in ``on_validation_epoch_end``, or
    ``self.log("val_loss", torch.stack(self.losses).mean())``, logs a number of which nobody knows where it comes from.
    It is of the object, or the mean of the list, that comes to the same number, at every validation so far.
    """

    def __init__(self) -> None:
        self._candidates: dict[str, list[str]] = {}
        self._asked = 0  # validations in which they were compared
        self.wanted = True
        """Whether the states of the metrics are needed at the end of the next validation."""

    def path(self, name: str) -> str | None:
        """The metric that is logged under a name; None if there is none. Of several that have agreed so far, one."""
        return next(iter(self._candidates.get(name, [])), None)

    def learn(
        self,
        values: Mapping[str, float],
        found: Mapping[str, Metric],
        seen: list[Snapshot],
        device: torch.device,
        *,
        rank: int = 0,
    ) -> None:
        """One more validation.

        Args:
            values: What the hook has logged, by name.
            found: The metrics of the module by path.
            seen: What each process knew before the hook.
            device: Where to compute.
            rank: Which of them is this one, whose own number the hook may have logged.
        """
        fresh = [name for name in values if name not in self._candidates]
        if self.wanted:
            self._compare(values, found, seen, device, rank)
            self._asked += 1
            open_ends = any(len(paths) > 1 for paths in self._candidates.values())
            self.wanted = bool(self._candidates) and (self._asked < PROVEN or open_ends)
        elif fresh:
            self.wanted = True  # at the next one

    def _compare(
        self,
        values: Mapping[str, float],
        found: Mapping[str, Metric],
        seen: list[Snapshot],
        device: torch.device,
        rank: int,
    ) -> None:
        """Leave those candidates that come to what was logged."""
        if not values:
            return
        known = {path for path in found if all(each.states.get(path) is not None for each in seen)}
        lists = {path for path in seen[0].gathered if all(path in each.gathered for each in seen)}
        asked = {path for name in values for path in self._candidates.get(name, [*known, *lists])}
        computed: dict[str, list[float | None]] = {}
        for path in asked & known:
            states = [each.states[path] for each in seen]
            computed[path] = [_computed(found[path], some, device) for some in _ways(states, rank)]
        for path in asked & lists:
            computed[path] = [mean(some) for some in _ways([each.gathered[path] for each in seen], rank)]
        for name, value in values.items():
            before = self._candidates.get(name, [*(path for path in found if path in known), *sorted(lists)])
            self._candidates[name] = [
                path for path in before if any(_is_same(one, value) for one in computed.get(path, []))
            ]


def _ways(parts: list[Part], rank: int) -> list[list[Part]]:
    """What a hook may have computed with: what all processes know, or what its own does."""
    return [parts] if len(parts) == 1 else [parts, [parts[rank]]]


def _computed(metric: Metric, states: list["metrics.State | None"], device: torch.device) -> float | None:
    try:
        return metrics.value(metric, [each for each in states if each is not None], device)
    except Exception:  # noqa: BLE001  # a metric that cannot be computed now is not the one
        return None


def _is_same(one: float | None, other: float) -> bool:
    return one is not None and math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-7)
