"""Faults planted into a diagnostic: where there is room for one, and classes that carry it."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lightning.pytorch import Callback

from lightning_diagnostics.callback import DiagnosticCallback
from tests.helpers import AT_WORK

TEMPLATES = (
    "set_up",
    "attach",
    "wind_up",
    "detach",
    "watching",
    "epoch_end",
    "undecided",
    "room_state",
    "load_room_state",
)
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

_AROUND_MEETINGS = {"set_up", "attach", "epoch_end", *EVALUATION, *WHERE_RANKS_MEET}
"""What is called before ranks meet: whichever of them fails, none may wait for another."""


def _rank_sites() -> Iterator[Any]:
    meeting = ((member, name) for member in AT_WORK for name in WHERE_RANKS_MEET)
    for (member, name), rank in itertools.product((*SITES, *meeting), (0, 1)):
        slow = member.acts or (rank == 0 and name not in _AROUND_MEETINGS)
        yield pytest.param(member, name, rank, marks=pytest.mark.slow if slow else (), id=f"{member}-{name}-{rank}")


RANK_SITES = tuple(_rank_sites())
"""The same with several processes, and which fails, as test parameters: by default rank one, and rank zero too where
ranks meet; of callbacks that act at the slow level."""


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
