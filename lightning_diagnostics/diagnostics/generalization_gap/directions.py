"""Which metrics are judged together."""

import re
from collections.abc import Collection, Iterable, Mapping

from lightning_diagnostics.callback.directions import Direction


def losses(directions: Mapping[str, Direction | None], monitor: str | None, watched: Collection[str] = ()) -> list[str]:
    """The metrics whose onset of overfitting is looked for: of each loader one.

    Args:
        directions: Of every metric, in the order of logging.
        monitor: The one that the user has named; by default it is a loss that callbacks watch, else the one that is
            called just that, else the first.
        watched: What callbacks watch.
    """
    if monitor is not None:
        chosen = [name for name, one in directions.items() if one and is_named(name, monitor)]
    else:
        small = [name for name, one in directions.items() if one == "min"]
        chosen = sorted(small, key=lambda name: ("loss" not in name.lower(), name not in watched, not _is_plain(name)))
    found: dict[str, str] = {}
    for name in chosen:
        found.setdefault(_loader(name), name)
    return list(found.values())


def is_named(name: str, monitor: str | None) -> bool:
    """Whether a metric is the one that the user has named, for one loader or for all."""
    return monitor is not None and monitor in (name, name.partition("/dataloader_idx_")[0])


def _is_plain(name: str) -> bool:
    """Whether it is the loss, and not a part of it."""
    words = re.split(r"[^a-z]+", name.partition("/dataloader_idx_")[0].lower())
    return set(words) <= {"loss", "val", "valid", "validation", "dev", "eval", "epoch"}


def partner(loss: str, directions: Mapping[str, Direction | None], watched: Iterable[str]) -> str | None:
    """The metric that has to get worse, too: one that callbacks watch, else an accuracy, else one to be large."""
    same = {name: one for name, one in directions.items() if name != loss and one and _loader(name) == _loader(loss)}
    large = [name for name, one in same.items() if one == "max"]
    ordered = [*(name for name in watched if name in same), *sorted(large, key=lambda name: "acc" not in name.lower())]
    return ordered[0] if ordered else None


def _loader(name: str) -> str:
    return name.partition("/dataloader_idx_")[2]
