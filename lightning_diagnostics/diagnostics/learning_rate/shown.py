"""Lightning's ``LearningRateMonitor`` logs the rates that are used, wherever it stands among the callbacks."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.optim import Optimizer

_HOOKS = ("on_train_batch_start", "on_train_epoch_start")
"""In which it reads the rates of the next step."""


class Shown:
    """Has monitors read the rates of the next step as they will be used; between their hooks nothing is changed.

    Args:
        monitors: The callbacks.
        optimizers: Gives the optimizers of the run.
        factors: Gives the factor of each group of an optimizer at its next step; None if it cannot.
        prepare: Is given the arguments of the hook before: the monitor may stand before us.
    """

    def __init__(
        self,
        monitors: Sequence[Any],
        optimizers: Callable[[], Sequence[Any]],
        factors: Callable[[Optimizer], Sequence[float] | None],
        prepare: Callable[..., object],
    ) -> None:
        self._optimizers, self._factors, self._prepare = optimizers, factors, prepare
        self._put_back: list[Callable[[], object]] = []
        for monitor in monitors:
            for name in _HOOKS:
                self._wrap(monitor, name)

    def stop(self) -> None:
        """Let go of the monitors."""
        for put_back in self._put_back:
            put_back()
        self._put_back = []

    def _wrap(self, monitor: Any, name: str) -> None:
        own, hook = vars(monitor).get(name), getattr(monitor, name)

        @functools.wraps(hook)
        def reads(*args: Any, **kwargs: Any) -> Any:
            self._prepare(*args)
            with self._as_used():
                return hook(*args, **kwargs)

        setattr(monitor, name, reads)
        self._put_back.append(
            functools.partial(setattr, monitor, name, own)
            if own is not None
            else functools.partial(vars(monitor).pop, name, None)
        )

    @contextlib.contextmanager
    def _as_used(self) -> Iterator[None]:
        """Within it the optimizers' groups have the rates of the next step; a tensor is replaced, not written to."""
        replaced: list[tuple[dict[str, Any], Any, Any]] = []
        try:
            for optimizer in self._optimizers():
                if isinstance(optimizer, Optimizer):
                    for group, factor in zip(optimizer.param_groups, self._factors(optimizer) or (), strict=False):
                        if group.get("lr") is not None and factor != 1.0:
                            used = group["lr"] * factor
                            replaced.append((group, group["lr"], used))
                            group["lr"] = used
            yield
        finally:
            for group, own, used in replaced:
                if group["lr"] is used:
                    group["lr"] = own
