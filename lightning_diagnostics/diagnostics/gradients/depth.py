"""How gradients and updates change with depth, over the last looks."""

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_diagnostics.diagnostics.gradients.looking import ParameterLook
from lightning_diagnostics.diagnostics.gradients.measure import Depth
from lightning_diagnostics.diagnostics.gradients.parameters import Parameter

_SPARSE = 0.5  # share of zero gradients from which on a weight is read as a table
_TINY = 1e-8
"""A norm of weights that is too small to divide by."""

_GROWING = 0.1
"""Root mean square of weights over the median one, below which they are still to grow, as a head that began at zero."""


def update_ratio(look: ParameterLook | None) -> float | None:
    """The norm of the change of a weight over its norm before; None if not measured, or if the weight is nothing."""
    if look is None or look.weight is None or look.update is None or not look.weight > _TINY**2:
        return None
    return math.sqrt(look.update / look.weight)


class DepthHistory:
    """The weights of one optimizer that are nearest to the loss and furthest from it, at the last looks.

    Args:
        name: Of the optimizer.
        looks: How many.
        apart: Steps between them at least; what is seen in between counts for the one before.
    """

    def __init__(self, name: str, looks: int, apart: int = 1) -> None:
        self._name = name
        self._apart = apart
        self._looks: deque[tuple[int, float, float, float]] = deque(maxlen=looks)
        self._ends: tuple[str, str, int] | None = None

    def take(
        self, step: int, each: Mapping[str, float], looks: Mapping[str, ParameterLook], weights: Sequence[Parameter]
    ) -> None:
        """Take up a look.

        Args:
            step: On the axis of ``self.log``.
            each: Squared norms of gradients by parameter.
            looks: What was read of each.
            weights: The model's weights, furthest from the loss first.
        """
        judged = [w for w in weights if w.matrix and not w.table and w.trains and w.name in each]
        if len(judged) < 2:
            return
        first, last = judged[0], judged[-1]
        ends = (first.name, last.name, len(judged))
        if ends != self._ends:
            self._ends = ends
            self._looks.clear()
        ratios = [ratio for w in judged if (ratio := update_ratio(looks.get(w.name))) is not None]
        own = update_ratio(looks.get(first.name))
        if own is None or not ratios:
            return
        near = each[last.name] / last.elements
        gradient = math.sqrt(each[first.name] / first.elements / near) if near > 0 else math.nan
        middle = statistics.median(each[w.name] / w.elements for w in judged)
        middle = math.sqrt(middle / near) if near > 0 else math.nan
        if looks[first.name].zeros > _SPARSE * first.elements:  # a table, of which a batch uses some rows
            gradient = math.nan
        usual = max(statistics.median(ratios), _of_grown(last, judged, looks))  # the median may vanish, too
        update = own / usual if usual > 0 else math.nan
        now = (gradient, update, middle)
        if not all(map(math.isfinite, now)):
            self._looks.clear()
        elif self._looks and step - self._looks[-1][0] < self._apart:
            start, *before = self._looks.pop()
            gradient, update, middle = map(max, before, now)
            self._looks.append((start, gradient, update, middle))
        else:
            self._looks.append((step, *now))

    def measured(self) -> Depth | None:
        """What is to be judged; None before there was a look."""
        if self._ends is None or not self._looks:
            return None
        steps, ratios, updates, middles = zip(*self._looks, strict=True)
        return Depth(self._name, *self._ends, ratios, updates, steps[0], middles)

    def state(self) -> dict[str, Any]:
        """All of it in plain values."""
        return {"ends": list(self._ends) if self._ends else None, "looks": [list(look) for look in self._looks]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self._ends = tuple(state["ends"]) if state["ends"] else None
        self._looks.extend((step, gradient, update, middle) for step, gradient, update, middle in state["looks"])


def _of_grown(weight: Parameter, others: Sequence[Parameter], looks: Mapping[str, ParameterLook]) -> float:
    """The update ratio of a weight; zero if it is not known, or large only because the weight is small as yet."""
    sizes = {
        each.name: look.weight / each.elements
        for each in others
        if (look := looks.get(each.name)) is not None and look.weight is not None
    }
    if weight.name not in sizes or not sizes[weight.name] >= _GROWING**2 * statistics.median(sizes.values()):
        return 0.0
    return update_ratio(looks[weight.name]) or 0.0
