"""The record of a run in its folder: who watches it, which way that was switched on, and how it stands."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from lightning_diagnostics import __version__
from lightning_diagnostics.findings.files import write_whole
from lightning_diagnostics.findings.records import FINDINGS_FILE, RECORD_FILE, RUNNING

VERSION = 1
"""The version of the file's form."""


@dataclass
class Record:
    """What `lightning_diagnostics.findings.records` reads; times are ISO 8601 in UTC.

    Attributes:
        enabled_by: What switched the diagnostics on.
        settings: The arguments of the suite, if there is one.
        diagnostics: What each diagnostic watches, by its name.
        status: ``"running"``, ``"finished"`` or how else it ended.
        step: The last step that is known.
        first_line: Of the findings file, of those that are of this run.
        started: When training started.
        ended: When it ended; None while it goes on.
        version: Of the file's form.
        package: Of this package.
    """

    enabled_by: str = "the callbacks of the Trainer"
    settings: Mapping[str, Any] | None = None
    diagnostics: dict[str, str] = field(default_factory=dict[str, str])
    status: str = RUNNING
    step: int | None = None
    first_line: int | None = None
    started: str = ""
    ended: str | None = None
    version: int = VERSION
    package: str = __version__

    def start(self, step: int) -> None:
        """Training starts."""
        self.status, self.step, self.started, self.ended = RUNNING, step, _now(), None

    def end(self, ending: str, step: int) -> None:
        """The run is over."""
        self.status, self.step, self.ended = ending, step, _now()

    def begin(self, folder: str) -> None:
        """Note, once, where the lines of this run begin: an earlier run may have written into the same folder.

        What that run was killed in the middle of is ended here, so that our first line is not glued to it.
        """
        if self.first_line is None:
            before = _read(folder)
            if before and not before.endswith(b"\n"):
                append(folder, "\n")
                before += b"\n"
            self.first_line = 1 + before.count(b"\n")

    def write(self, folder: str) -> None:
        """Write the file, which nobody reads half of."""
        self.begin(folder)
        text = json.dumps(asdict(self), indent=2, default=_plain) + "\n"
        if "://" in folder:
            files, path = _remote(folder, RECORD_FILE)
            files.pipe_file(path, text.encode())
            return
        os.makedirs(folder, exist_ok=True)
        write_whole(os.path.join(folder, RECORD_FILE), text)


def append(folder: str, text: str) -> None:
    """Append to the findings file; object stores know no appending, so there the file is written anew."""
    if "://" in folder:
        files, path = _remote(folder, FINDINGS_FILE)
        files.pipe_file(path, _read(folder) + text.encode())
        return
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, FINDINGS_FILE), "a", encoding="utf-8") as file:
        file.write(text)


def _read(folder: str) -> bytes:
    """The findings file as it stands; nothing of what is no file, since a device or a pipe may have no end."""
    if "://" in folder:
        files, path = _remote(folder, FINDINGS_FILE)
        return files.cat_file(path) if files.exists(path) else b""
    path = os.path.join(folder, FINDINGS_FILE)
    if not os.path.isfile(path):
        return b""
    with open(path, "rb") as file:
        return file.read()


def _remote(folder: str, name: str) -> tuple[Any, str]:
    """The file system of a folder with an address, and the path of a file in it."""
    import fsspec

    return fsspec.core.url_to_fs(f"{folder.rstrip('/')}/{name}")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _plain(value: object) -> object:
    """What JSON has for a value that it does not know."""
    return dict(value) if isinstance(value, Mapping) else str(value)
