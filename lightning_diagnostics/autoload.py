"""What Lightning calls whenever a Trainer is made: the suite, if ``LIGHTNING_DIAGNOSTICS`` asks for it.

Nothing is imported until it does, and nothing that is wrong with it keeps a Trainer from being made.
"""

import os
from typing import Any

VARIABLE = "LIGHTNING_DIAGNOSTICS"
"""The environment variable."""

_refused: set[str] = set()  # values that were reported


def callbacks() -> list[Any]:
    """The callbacks that the environment asks for; none if it asks for none, or for what there is not."""
    value = os.environ.get(VARIABLE, "").strip()
    if not value:
        return []
    try:
        return _made(value)
    except (OSError, TypeError, ValueError) as fault:
        _report(value, str(fault))
    except Exception as fault:  # noqa: BLE001  # a fault of ours must not keep a Trainer from being made
        _report(value, f"{type(fault).__name__}: {fault}", fault)
    return []


def _made(value: str) -> list[Any]:
    from lightning_diagnostics import settings

    arguments = settings.parse(value)
    if arguments is None:
        return []
    from lightning_diagnostics.callback.suite import Diagnostics

    suite = Diagnostics(**arguments)
    suite.enabled_by = f"{VARIABLE}={value}"
    return [suite]


def _report(value: str, why: str, fault: Exception | None = None) -> None:
    """Say once, in the first of several processes, that the value is not understood."""
    if value in _refused:
        return
    _refused.add(value)
    import logging
    from contextlib import suppress

    with suppress(Exception):  # nothing that fails here is worth a run
        from lightning_utilities.core.rank_zero import rank_zero_only

        if getattr(rank_zero_only, "rank", 0) != 0:
            return
    with suppress(Exception):
        from lightning_diagnostics.callback import terminal

        terminal.set_up()
    with suppress(Exception):
        logger = logging.getLogger("lightning_diagnostics")
        logger.error("%s=%s: %s; training goes on without diagnostics", VARIABLE, value, why, exc_info=fault)
