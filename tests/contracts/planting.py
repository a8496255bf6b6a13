"""Faults planted into a diagnostic: where there is room for one, and classes that carry it."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from lightning.pytorch import Callback

from lightning_diagnostics.callback import DiagnosticCallback
from tests.helpers import AT_WORK

TEMPLATES = ("attach", "wind_up", "detach", "watching", "epoch_end", "undecided", "room_state", "load_room_state")
"""What a room implements beside Lightning's hooks."""

WHERE_RANKS_MEET = ("share", "take_in")
"""What it implements beside them for several processes."""

HOOKS = tuple(name for name in vars(Callback) if not name.startswith("_") and name != "state_key")


def own_hooks(kind: type[DiagnosticCallback]) -> list[str]:
    """Lightning's hooks that the room defines itself."""
    return [name for name in HOOKS if getattr(kind, name) is not getattr(DiagnosticCallback, name)]


EVALUATION = ("evaluation_start", "evaluation_end")
"""What a room implements that looks at evaluations, too."""


def own_templates(kind: type[DiagnosticCallback]) -> list[str]:
    """The templates that the room fills in; those of evaluations only if it does."""
    own = [name for name in EVALUATION if getattr(kind, name) is not getattr(DiagnosticCallback, name)]
    return [*TEMPLATES, *own]


SITES = tuple((member, name) for member in AT_WORK for name in (*own_hooks(member.kind), *own_templates(member.kind)))
"""Every place where a registered callback may fail."""

_MEETING = tuple((member, name) for member in AT_WORK for name in WHERE_RANKS_MEET)
RANK_SITES = tuple(
    pytest.param(member, name, marks=pytest.mark.slow if member.acts else ()) for member, name in (*SITES, *_MEETING)
)
"""The same with several processes, as test parameters; of those that act at the slow level."""


class PlantedError(RuntimeError):
    """The fault that was planted."""


def planted(
    kind: type[Any], name: str, *, fault: type[BaseException] = PlantedError, when: Callable[[], bool] = lambda: True
) -> type[Any]:
    """A subclass of ``kind`` whose method ``name`` raises; its ``raised`` counts how often that happened."""

    @functools.wraps(getattr(kind, name))
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not when():
            return getattr(super(faulty, self), name)(*args, **kwargs)
        faulty.raised += 1
        raise fault(f"planted in {name}")

    # Of the same name, so that the checkpoint of the sound class is resumed by it.
    faulty: Any = type(kind.__name__, (kind,), {name: method, "raised": 0})
    return faulty
