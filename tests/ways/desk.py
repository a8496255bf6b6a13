"""A user's desk: a folder with his scripts in it, a way to run them, and what a run leaves there."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from lightning_diagnostics import catalogue
from lightning_diagnostics.findings.records import FINDINGS_FILE, RECORD_FILE

SCRIPTS = Path(__file__).parent / "scripts"
VARIABLE = "LIGHTNING_DIAGNOSTICS"
SUITE = "--trainer.callbacks+=lightning_diagnostics.Diagnostics"
EVERY = tuple(catalogue.names().values())
"""The diagnostics in the order in which the suite puts them into a Trainer's list."""

KINDS = catalogue.callbacks()
IN_LIGHT = tuple(name for name in EVERY if KINDS[name].presets.get("light", {}) is not None)
"""Those of the light preset."""

OURS = {"Diagnostics", *EVERY}
KNOWN = {("ACT101", "net.1", 0), ("MEM101", "model.running_loss", 0)}
"""What is wrong with the network of the scripts, by code, place and first step; other diagnostics may find more."""

Run = Callable[..., tuple[int, str, str]]


def listed(*names: str) -> list[str]:
    """A Trainer's list while it trains: what goes before all others stands first, wherever it was put."""
    return sorted(names, key=lambda name: not (name in KINDS and KINDS[name].goes_first))


@dataclass(frozen=True)
class Done:
    """What a script said, and what it left in its folder."""

    folder: Path
    status: int
    out: str
    err: str

    def said(self, word: str) -> list[str]:
        """The words after ``word:`` at the start of a line of the output, of all such lines."""
        return [each for line in self.out.splitlines() if line.startswith(f"{word}:") for each in line.split()[1:]]

    @property
    def ours(self) -> list[str]:
        """The lines that came from our logger."""
        mark = "lightning_diagnostics "
        return [line.removeprefix(mark) for line in self.err.splitlines() if line.startswith(mark)]

    @property
    def first(self) -> str:
        """The first line of what was said of an error."""
        quiet = ("Seed set to", "GPU available", "TPU available", "💡", "Adding ")
        return next((line for line in self.err.splitlines() if line and not line.startswith(quiet)), "")

    @property
    def children(self) -> list[str]:
        """Our diagnostics in the Trainer's list while it trained."""
        return [name for name in self.said("while") if name in EVERY]

    def _files(self, name: str) -> list[Path]:
        return sorted(self.folder.rglob(name))

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The records of the runs."""
        return [json.loads(path.read_text()) for path in self._files(RECORD_FILE)]

    @cached_property
    def record(self) -> dict[str, Any]:
        """The record of the one run."""
        (record,) = self.records
        return record

    @property
    def settings(self) -> dict[str, Any]:
        """The settings in the record, but for what every record says."""
        return {name: value for name, value in self.record["settings"].items() if name not in ("on_finding", "at")}

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that Lightning saved with the run."""
        (path,) = self._files("config.yaml")
        return yaml.safe_load(path.read_text())

    @property
    def found(self) -> set[tuple[str, str | None, int]]:
        """Code, place and first step of what was found in a run that we watched."""
        assert self.record["status"] == "finished"
        lines = [json.loads(line) for path in self._files(FINDINGS_FILE) for line in path.read_text().splitlines()]
        return {(line["code"], line["where"], line["first_step"]) for line in lines if "code" in line}


@dataclass
class Desk:
    """Runs each script in a new folder with all of them."""

    home: Path
    how: Run
    package: str = "lightning.pytorch"
    files: dict[str, str] = field(default_factory=dict)
    _runs: int = 0

    def run(self, script: str, *words: str, env: Mapping[str, str] | None = None) -> Done:
        """Run ``python script.py WORDS``; ``script`` may be the text of one."""
        self._runs += 1
        folder = self.home / f"desk{self._runs}"
        shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
        if "\n" in script:
            (folder / "script.py").write_text(script)
            script = "script.py"
        for name, text in self.files.items():
            (folder / name).write_text(text)
        for path in folder.iterdir():
            path.write_text(path.read_text().replace("lightning.pytorch", self.package))
        return Done(folder, *self.how(folder, script, *words, env=env))

    def good(self, script: str, *words: str, env: Mapping[str, str] | None = None) -> Done:
        """Run a script that ends well."""
        done = self.run(script, *words, env=env)
        assert done.status == 0, done.err
        return done
