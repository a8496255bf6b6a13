"""The record of a run in its folder: who watches it, which way that was switched on, and how it stands."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from lightning_diagnostics import __version__
from lightning_diagnostics.findings.records import RECORD_FILE, RUNNING

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

    def write(self, folder: str | None) -> None:
        """Write the file whole, beside the old one, and rename it; nothing where a run has no folder."""
        if folder is None:
            return
        text = json.dumps(asdict(self), indent=2, default=_plain) + "\n"
        if "://" in folder:
            import fsspec

            files, path = fsspec.core.url_to_fs(f"{folder.rstrip('/')}/{RECORD_FILE}")
            files.pipe_file(path, text.encode())
            return
        os.makedirs(folder, exist_ok=True)
        target = os.path.join(folder, RECORD_FILE)
        with open(f"{target}.tmp", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(f"{target}.tmp", target)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _plain(value: object) -> object:
    """What JSON has for a value that it does not know."""
    return dict(value) if isinstance(value, Mapping) else str(value)
