"""What the command ``lightning-diagnostics tuning-curve`` shows."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lightning_diagnostics.diagnostics.expected_performance import drawing, report
from lightning_diagnostics.diagnostics.expected_performance.comparison import Comparison, compare
from lightning_diagnostics.diagnostics.expected_performance.curve import Failed, TuningCurve
from lightning_diagnostics.diagnostics.expected_performance.engines import from_folder

_MOST = 2  # sweeps that are compared


def places(folders: Sequence[str], sweeps: Sequence[str]) -> list[tuple[str, str | None]]:
    """Which sweeps are meant: each a folder, and the name of a sweep in it if one is given.

    Raises:
        ValueError: if they are more than two.
    """
    if len(folders) == 1:
        folders = [folders[0]] * max(1, len(sweeps))
    names: Sequence[str | None] = sweeps or [None] * len(folders)
    if len(names) != len(folders):
        raise ValueError(f"--sweep is given {len(sweeps)} times: allowed is as often as there are folders, or never")
    if len(folders) > _MOST:
        raise ValueError(f"{len(folders)} sweeps are given: allowed are one, or two to compare")
    found = list(zip(folders, names, strict=True))
    if len({(os.path.realpath(folder), name) for folder, name in found}) < len(found):
        raise ValueError(f"{folders[0]!r} is given twice: allowed are two different sweeps")
    return found


def policy(word: str) -> Failed:
    """What a failed trial counts as.

    Raises:
        ValueError: if the word is neither known nor a number.
    """
    if word in ("worst", "drop"):
        return word
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"--failed {word!r}: allowed are 'worst', 'drop', and a number") from None


def curves(places: Sequence[tuple[str, str | None]], **options: Any) -> tuple[list[TuningCurve], Comparison | None]:
    """The curves of one sweep or two, and how they compare (None for one).

    Raises:
        OSError: if a folder cannot be read.
        ValueError: if it has no runs, or they are no sweep.
    """
    found = [from_folder(folder, sweep=sweep, **options) for folder, sweep in places]
    if len(found) == 1:
        return found, None
    if found[0].name == found[1].name:  # two folders of one name
        found = [replace(each, name=os.path.normpath(folder)) for each, (folder, _) in zip(found, places, strict=True)]
    return found, compare(*found)


def text(curves: Sequence[TuningCurve], comparison: Comparison | None) -> str:
    """All of it for a terminal."""
    parts = [report.text(curve) for curve in curves]
    return "\n\n".join([*parts, *([] if comparison is None else [str(comparison)])])


def json(curves: Sequence[TuningCurve], comparison: Comparison | None) -> str:
    """All of it for programs."""
    return report.as_json(curves, None if comparison is None else comparison.to_dict())


def png(curves: Sequence[TuningCurve]) -> bytes:
    """The picture as a file.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    from lightning_diagnostics.diagnostics.expected_performance import figure

    return figure.png(curves)


def write(curves: Sequence[TuningCurve], folder: str) -> None:
    """Write each curve into a run of its own below a folder, for TensorBoard.

    Raises:
        OSError: if it cannot be written.
    """
    names = [re.sub(r"[^\w.-]+", "_", curve.name) for curve in curves]
    if len(set(names)) < len(names):
        names = [f"{place}_{name}" for place, name in enumerate(names, start=1)]
    for name, curve in zip(names, curves, strict=True):
        place = folder if len(curves) == 1 else os.path.join(folder, name)
        drawing.draw(curve, place)
