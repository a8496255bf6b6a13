"""Where a run keeps its record, and where those of its sweep are looked for."""

import os
from dataclasses import dataclass

from lightning_diagnostics.diagnostics.expected_performance.sweeps import Sweep
from lightning_diagnostics.diagnostics.expected_performance.trials import Trial


@dataclass(frozen=True)
class Places:
    """The folders of a run.

    Attributes:
        home: In which it keeps its record; None if there is none.
        shown: In which its curve is drawn: its own, unless that is one that nobody keeps.
        root: Below which the runs of its sweep are; None if there is none.
        is_shallow: Whether only the runs right below the root are of the sweep: those that the logger counts. Other
            experiments may have folders beside them.
    """

    home: str | None
    shown: str | None
    root: str | None
    is_shallow: bool = False

    def has(self, trial: Trial) -> bool:
        """Whether a record that was read below the root lies where the runs of the sweep do."""
        if not self.is_shallow or self.home is None or self.root is None:
            return True
        return _depth(trial.folder, self.root) == _depth(self.home, self.root)


def places(own: str | None, versions: str | None, folder: str | None, sweep: Sweep) -> Places:
    """Where a run keeps its record, and where those of its sweep are looked for.

    Args:
        own: The folder of the run, that of its logger; None if there is none.
        versions: The folder in which the logger keeps its versions.
        folder: What the user has said.
        sweep: What is known of the sweep.
    """
    own, versions, folder = _settled(own), _settled(versions), _settled(folder)
    if folder is not None:
        return Places(own if own is not None and is_below(own, folder) else folder, own or folder, folder)
    if sweep.folder is not None and own is not None and is_below(own, sweep.folder):
        return Places(own, own, sweep.folder)
    if sweep.folder is not None and sweep.place is not None:  # an engine that gives each trial a folder of its own
        return Places(sweep.place, sweep.place, sweep.folder)
    return Places(own, own, versions, is_shallow=sweep.name is None)


def _settled(folder: str | None) -> str | None:
    """A folder that is the same one where the program has gone to another, and by whichever address it is given."""
    folder = folder if folder is None else folder.removeprefix("file://")
    return folder if folder is None or "://" in folder else os.path.abspath(folder)


def is_below(folder: str, root: str) -> bool:
    """Whether a folder is another one, or lies below it."""
    if "://" in folder or "://" in root:
        return f"{folder.rstrip('/')}/".startswith(f"{root.rstrip('/')}/")
    own, above = os.path.realpath(folder), os.path.realpath(root)
    return own == above or own.startswith(above.rstrip(os.sep) + os.sep)


def _depth(folder: str, root: str) -> int:
    """How many folders deep one lies below another."""
    if "://" in folder:
        return folder.rstrip("/").count("/") - root.rstrip("/").count("/")
    return os.path.realpath(folder).count(os.sep) - os.path.realpath(root).rstrip(os.sep).count(os.sep)
