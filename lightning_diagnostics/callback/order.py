"""The order of a Trainer's callbacks: some of ours stand at the front while a run lasts, wherever they were listed."""

import weakref
from typing import Any, cast

from lightning_diagnostics.callback.namespaces import Trainer


def callbacks_of(trainer: Trainer) -> list[Any]:
    """The Trainer's own list, not a copy."""
    return cast(Any, trainer).callbacks


def callbacks_named(trainer: Trainer, name: str) -> list[Any]:
    """Callbacks of one of Lightning's classes, or of one derived from it, in either of its packages."""
    return [
        each
        for each in callbacks_of(trainer)
        if any(kind.__name__ == name and _is_lightnings(kind) for kind in type(each).__mro__)
    ]


def _is_lightnings(kind: type) -> bool:
    return kind.__module__.startswith(("lightning.pytorch.callbacks.", "pytorch_lightning.callbacks."))


class Place:
    """Where one callback was listed, while it stands at the front instead. A copy of it knows of no list."""

    def __init__(self) -> None:
        self._trainer: weakref.ref[Trainer] | None = None
        self._behind: list[weakref.ref[Any]] = []  # what the callback was listed behind

    def __getstate__(self) -> dict[str, Any]:
        return {"_trainer": None, "_behind": []}  # a weak reference cannot be pickled

    def is_left(self, trainer: Trainer) -> bool:
        """Whether the callback stands at the front of that Trainer's list, instead of where it was listed."""
        return self._trainer is not None and self._trainer() is trainer

    def leave(self, trainer: Trainer, callback: object) -> None:
        """Put a callback at the front, behind others of its kind, in the middle of ``setup``.

        Lightning goes along this very list then: what comes after the callback stays at its index.
        """
        callbacks = callbacks_of(trainer)
        here = next((place for place, each in enumerate(callbacks) if each is callback), 0)
        front = next((place for place, each in enumerate(callbacks) if not _goes_first(each)), here)
        if here <= front:
            return
        self._trainer, self._behind = weakref.ref(trainer), [weakref.ref(each) for each in callbacks[:here]]
        callbacks.insert(front, callbacks.pop(here))

    def put_back(self, into: list[Any], callback: object) -> None:
        """Insert the callback behind what it was listed behind."""
        known = {id(each()) for each in self._behind}
        places = [place for place, each in enumerate(into) if id(each) in known]
        into.insert(max(places, default=-1) + 1, callback)

    def forget(self) -> None:
        """The callback stands where it was listed."""
        self._trainer, self._behind = None, []


def as_listed(trainer: Trainer) -> list[Any]:
    """The callbacks in the order in which they were listed, with those that came and went since."""
    callbacks = callbacks_of(trainer)
    away = {id(each): place for each in callbacks if (place := _place(each)) is not None and place.is_left(trainer)}
    listed = [each for each in callbacks if id(each) not in away]
    for each in callbacks:  # they went to the front in the order in which they were listed
        if id(each) in away:
            away[id(each)].put_back(listed, each)
    return listed


def restore_order(trainer: Trainer) -> None:
    """Have the Trainer's callbacks as they were listed.

    It gets a new list, since Lightning may be on its way along the old one, and would leave out what moves forward.
    """
    listed = as_listed(trainer)
    if all(one is other for one, other in zip(listed, callbacks_of(trainer), strict=True)):
        return
    cast(Any, trainer).callbacks = listed
    for each in listed:
        place = _place(each)
        if place is not None and place.is_left(trainer):
            place.forget()


def _place(callback: object) -> Place | None:
    """The place of a callback of ours; None for others."""
    place = getattr(callback, "_place", None)
    return place if isinstance(place, Place) else None


def _goes_first(callback: Any) -> bool:
    return _place(callback) is not None and callback.goes_first
