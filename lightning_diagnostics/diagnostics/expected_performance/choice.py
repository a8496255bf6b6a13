"""Which metric a run is scored by, and which way it is better."""

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.arguments import ConfigurationError
from lightning_diagnostics.callback.directions import direction
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.callback.order import callbacks_named
from lightning_diagnostics.diagnostics.expected_performance.trials import Mode

_WATCHERS = ("ModelCheckpoint", "EarlyStopping")  # in this order
_STEPS = ("validation_step", "on_validation_epoch_end", "on_validation_batch_end", "on_train_epoch_end")


@dataclass(frozen=True)
class Choice:
    """What a run is scored by.

    Attributes:
        metric: As in ``trainer.callback_metrics``.
        mode: Whether it shall be ``"min"`` or ``"max"``.
    """

    metric: str
    mode: Mode


def choose(trainer: Trainer, module: LightningModule, monitor: str | None, mode: Mode | None) -> Choice:
    """The metric that the user names, else that of the ModelCheckpoint, else that of the EarlyStopping.

    Raises:
        ConfigurationError: if there is none, or more than one, or its mode is not known; the choices are named.
    """
    watched = [_watched(callbacks_named(trainer, kind)) for kind in _WATCHERS]
    if monitor is None:
        found = next((each for each in watched if each), {})
        if not found:
            raise ConfigurationError(
                "monitor=None: no ModelCheckpoint and no EarlyStopping says which metric a run is scored by; "
                f"name it, e.g. monitor={next(iter(_logged(module)), 'val_loss')!r}{_choices(_logged(module))}"
            )
        if len(found) > 1:
            raise ConfigurationError(f"monitor=None: callbacks watch several metrics{_choices(found)}; name one")
        monitor = next(iter(found))
    known = {name: one for each in reversed(watched) for name, one in each.items() if one is not None}
    chosen = mode or direction(monitor, told={}, watched=known)
    if chosen is None:
        raise ConfigurationError(
            f"mode=None: whether {monitor!r} shall be large or small is not known from its name or from a callback "
            f"that watches it; allowed are 'min' and 'max'{_choices(_logged(module), 'validation logs')}"
        )
    return Choice(monitor, chosen)


def _watched(callbacks: Iterable[Any]) -> dict[str, str | None]:
    """The metrics that callbacks watch, with their modes."""
    found: dict[str, str | None] = {}
    for each in callbacks:
        if isinstance(getattr(each, "monitor", None), str):
            found[each.monitor] = each.mode if getattr(each, "mode", None) in ("min", "max") else None
    return found


def _logged(module: LightningModule) -> list[str]:
    """The names that the module logs in validation, as far as its source tells them."""
    found: dict[str, None] = {}
    for step in _STEPS:
        if not insides.is_overridden(module, step):
            continue
        try:
            source = inspect.getsource(getattr(type(module), step))
        except (AttributeError, OSError, TypeError):
            continue
        found |= dict.fromkeys(re.findall(r"""\.log\(\s*["']([^"']+)["']""", source))
    return list(found)


def _choices(names: Iterable[str] | Mapping[str, Any], what: str = "there are") -> str:
    words = ", ".join(map(repr, names))
    return f" ({what} {words})" if words else ""
