"""Parameters that never received a gradient, and those that receive one but that no optimizer has."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from lightning_diagnostics.diagnostics.gradients.measure import Untrained
from lightning_diagnostics.diagnostics.gradients.parameters import Parameter, outermost

_ROUNDING = 1e-6


class Missing:
    """Which parameters of optimizers wait for their first gradient, and since when."""

    def __init__(self) -> None:
        self._received: set[str] = set()
        self._waiting: dict[str, tuple[str, int, int, int]] = {}  # optimizer, step, batches and steps at that time
        self._values: dict[str, float] = {}  # the norm of the values of those that wait, when it was first seen
        self._moved: set[str] = set()

    def receive(self, names: Iterable[str]) -> None:
        """These had a gradient."""
        self._received.update(names)

    def expect(self, wanted: Mapping[str, str], *, step: int, batches: int, steps: Mapping[str, int]) -> None:
        """These are in an optimizer and require a gradient now.

        Args:
            wanted: The optimizer by parameter.
            step: On the axis of ``self.log``.
            batches: Training batches so far.
            steps: Optimizer steps so far, by optimizer.
        """
        self._waiting = {
            name: self._waiting.get(name, (optimizer, step, batches, steps.get(optimizer, 0)))
            for name, optimizer in wanted.items()
        }

    def see(self, values: Mapping[str, float]) -> None:
        """The norms of the values of some that wait: what moves without a gradient is an average of other weights."""
        for name, norm in values.items():
            if _moves(self._values.setdefault(name, norm), norm):
                self._moved.add(name)

    @property
    def waiting(self) -> set[str]:
        """Those that wait still."""
        return self._waiting.keys() - self._received - self._moved

    def measured(
        self, parameters: Mapping[str, Parameter], *, batches: int, steps: Mapping[str, int]
    ) -> list[Untrained]:
        """Those that still wait, by the outermost module that they make up."""
        learns = {parameters[name].layer for name in self._received if name in parameters}
        silent = self.waiting
        waiting = [
            name
            for name in self._waiting
            if name in silent and name in parameters and not _is_idle(parameters[name], learns)
        ]
        trainable = [name for name in self._waiting if name in parameters]
        found: list[Untrained] = []
        for where, names in outermost(waiting, trainable).items():
            known = [self._waiting[name] for name in names]
            rested = (
                min(batches - at for _, _, at, _ in known),
                min(steps.get(optimizer, 0) - at for optimizer, _, _, at in known),
            )
            elements = sum(parameters[name].elements for name in names)
            optimizers = ", ".join(dict.fromkeys(optimizer for optimizer, *_ in known))
            found.append(
                Untrained(where, tuple(names), elements, optimizers, *rested, max(at for _, at, _, _ in known))
            )
        return found

    def state(self) -> dict[str, Any]:
        """All of it in plain values."""
        return {
            "received": sorted(self._received),
            "waiting": {name: list(values) for name, values in self._waiting.items()},
            "values": dict(self._values),
            "moved": sorted(self._moved),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self._received = set(state["received"])
        self._waiting = {name: tuple(values) for name, values in state["waiting"].items()}
        self._values, self._moved = dict(state["values"]), set(state["moved"])


def _moves(before: float, now: float) -> bool:
    """Whether a norm is another one, and not the same as another device computes it."""
    return not abs(now - before) <= _ROUNDING * abs(before)


def _is_idle(parameter: Parameter, learns: Collection[str]) -> bool:
    """Whether it is a bias of a layer that learns: what is trained by its derivative alone has none for its last."""
    return not parameter.matrix and parameter.name.endswith("bias") and parameter.layer in learns


class Unoptimized:
    """Which parameters receive gradients in vain: in no optimizer, and never moved."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int, float]] = {}  # step and batches at first, and the norm of the values
        self._now: set[str] = set()
        self._moved: set[str] = set()

    def see(self, values: Mapping[str, float], *, step: int, batches: int, optimized: Collection[str]) -> None:
        """These have a gradient and are in no optimizer.

        Args:
            values: The norm of their values, by name.
            step: On the axis of ``self.log``.
            batches: Training batches so far.
            optimized: The names of those that an optimizer has by now.
        """
        for name, norm in values.items():
            first = self._seen.setdefault(name, (step, batches, norm))
            if _moves(first[2], norm):
                self._moved.add(name)
        self._now = (self._now | set(values)) - set(optimized)

    def measured(self, parameters: Mapping[str, Parameter], *, batches: int) -> list[Untrained]:
        """Those, by the outermost module that they make up."""
        found: list[Untrained] = []
        trainable = [name for name, parameter in parameters.items() if parameter.trains]
        affected = [name for name in trainable if name in self._now - self._moved]
        for where, names in outermost(affected, trainable).items():
            known = [self._seen[name] for name in names]
            elements = sum(parameters[name].elements for name in names)
            rested = min(batches - at for _, at, _ in known)
            since = max(step for step, _, _ in known)
            found.append(Untrained(where, tuple(names), elements, None, rested, 0, since))
        return found

    def state(self) -> dict[str, Any]:
        """All of it in plain values."""
        seen = {name: list(first) for name, first in self._seen.items()}
        return {"seen": seen, "now": sorted(self._now), "moved": sorted(self._moved)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self._seen = {name: tuple(first) for name, first in state["seen"].items()}
        self._now, self._moved = set(state["now"]), set(state["moved"])
