"""Metrics that the user's own hook computes at the end of a validation: where each name comes from."""

import math
from collections.abc import Mapping

import torch
from torchmetrics import Metric

from lightning_diagnostics.diagnostics.generalization_gap import metrics
from lightning_diagnostics.diagnostics.generalization_gap.gathered import mean
from lightning_diagnostics.diagnostics.generalization_gap.passing import Snapshot


class Names:
    """Learns, from their values, which metrics are logged under which names in a hook.

    ``self.log("val_acc", self.accuracy.compute())`` in ``on_validation_epoch_end``, or
    ``self.log("val_loss", torch.stack(self.losses).mean())``, logs a number of which nobody knows where it comes from.
    It is of the object, or the mean of the list, that comes to the same number, at every validation so far.
    """

    def __init__(self) -> None:
        self._candidates: dict[str, list[str]] = {}
        self._asked = False

    @property
    def wanted(self) -> bool:
        """Whether the states of the metrics are needed at the end of the next validation."""
        return not self._asked or any(len(paths) > 1 for paths in self._candidates.values())

    def path(self, name: str) -> str | None:
        """The metric that is logged under a name; None if there is none. Of several that have agreed so far, one."""
        return next(iter(self._candidates.get(name, [])), None)

    def learn(
        self,
        values: Mapping[str, float],
        found: Mapping[str, Metric],
        seen: list[Snapshot],
        device: torch.device,
    ) -> None:
        """One more validation.

        Args:
            values: What the hook has logged, by name.
            found: The metrics of the module by path.
            seen: What each process knew before the hook.
            device: Where to compute.
        """
        fresh = [name for name in values if name not in self._candidates]
        if values and (fresh or self.wanted):
            known = [path for path in found if all(each.states.get(path) is not None for each in seen)]
            computed = {path: _computed(found[path], [each.states[path] for each in seen], device) for path in known}
            lists = [path for path in seen[0].gathered if all(path in each.gathered for each in seen)]
            computed |= {path: mean([each.gathered[path] for each in seen]) for path in lists}
            for name, value in values.items():
                before = self._candidates.get(name, list(computed))
                self._candidates[name] = [path for path in before if _is_same(computed.get(path), value)]
        self._asked = True


def _computed(metric: Metric, states: list["metrics.State | None"], device: torch.device) -> float | None:
    try:
        return metrics.value(metric, [each for each in states if each is not None], device)
    except Exception:  # noqa: BLE001  # a metric that cannot be computed now is not the one
        return None


def _is_same(one: float | None, other: float) -> bool:
    return one is not None and math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-7)
