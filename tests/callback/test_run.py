"""The findings file: what stands in it, when, and where."""

import json
import logging
import os
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from typing_extensions import override

from lightning_diagnostics import Finding, Severity
from lightning_diagnostics.callback.record import Record
from lightning_diagnostics.findings.records import RECORD_FILE
from tests.callback.scripted import Other, Reader, Scripted, blind, close, diagnose, still
from tests.helpers import fit, heard, trainer
from tests.patients import BATCHES, Student

FILE = "findings.jsonl"
SCRIPT = {
    1: [diagnose(where="model.a")],
    3: [diagnose(where="model.b", first_step=2), blind],
    4: [diagnose(where="model.a", message="It is still sick.")],
    5: [diagnose(Severity.ERROR, where="model.a", first_step=0)],
    7: [close],
    9: [diagnose(where="model.b", first_step=8)],
    11: [still],
}
EVENTS = [
    *(("opened", "model.a"), ("opened", "model.b"), ("opened", None), ("worsened", "model.a")),
    *(("closed", "model.a"), ("closed", "model.b"), ("closed", None), ("reopened", "model.b")),
    *(("ended", "model.b"), ("ended", "model.a"), ("ended", None)),
]


class Elsewhere(Logger):
    """A user's own logger: no event files, and a folder that he names."""

    def __init__(self, folder: Any) -> None:
        super().__init__()
        self._folder = folder

    @property
    @override
    def log_dir(self) -> Any:
        return self._folder

    @property
    @override
    def name(self) -> str:
        return "elsewhere"

    @property
    @override
    def version(self) -> int:
        return 0

    @override
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Drawn nowhere."""

    @override
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Noted nowhere."""


def _parsed(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def _read(folder: Any) -> list[dict[str, Any]]:
    path = Path(folder) / FILE
    return _parsed(path.read_text(encoding="utf-8")) if path.exists() else []


def _events(lines: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    return [(line["event"], line["where"]) for line in lines]


def _last(lines: list[dict[str, Any]]) -> dict[tuple[str, str], Finding]:
    """The last line of each code and place, as a finding."""
    return {finding.key: finding for finding in map(Finding.from_dict, lines)}


def test_every_change_is_a_line_and_the_last_one_of_each_finding_is_what_is_true(tmp_path: Path) -> None:
    scripted = Scripted(SCRIPT)
    fit(trainer(scripted, logger=Elsewhere(tmp_path)), Student())
    lines = _read(tmp_path)
    assert _events(lines) == EVENTS
    assert _last(lines) == {finding.key: finding for finding in scripted.findings}
    reopened = _last(lines)["TST101", "model.b"]
    assert (reopened.status, reopened.first_step, reopened.last_step) == ("open", 2, 11)


def test_while_the_run_goes_on_whole_lines_stand_there_and_none_of_them_changes(tmp_path: Path) -> None:
    module = Reader(lambda run: (tmp_path / FILE).read_bytes() if (tmp_path / FILE).exists() else b"")
    fit(trainer(Scripted(SCRIPT), logger=Elsewhere(tmp_path)), module)
    known = {1: 1, 3: 3, 5: 4, 7: 7, 9: 8}
    counts = [max([0, *(count for step, count in known.items() if step <= at)]) for at in range(2 * BATCHES)]
    assert [content.count(b"\n") for content in module.seen] == counts
    for earlier, later in pairwise([*module.seen, (tmp_path / FILE).read_bytes()]):
        assert later.startswith(earlier)


def test_diagnostics_of_one_run_write_into_one_file_and_show_their_own_findings(tmp_path: Path) -> None:
    first, second = Scripted({2: [diagnose(where="model.a")]}), Other({3: [diagnose(where="model.b")]})
    fit(trainer(first, second, logger=Elsewhere(tmp_path)), Student())
    ended = [("ended", "model.a"), ("ended", "model.b")]
    assert _events(_read(tmp_path)) == [("opened", "model.a"), ("opened", "model.b"), *ended]


def test_a_healthy_run_leaves_its_record_and_no_findings(tmp_path: Path) -> None:
    fit(trainer(Scripted({}), logger=Elsewhere(tmp_path)), Student())
    assert [path.name for path in tmp_path.iterdir()] == [RECORD_FILE]


@pytest.mark.parametrize("kind", [TensorBoardLogger, CSVLogger])
def test_the_file_lies_where_the_logger_writes(kind: type[Any], tmp_path: Path) -> None:
    logger = kind(tmp_path, name="name")
    fit(trainer(Scripted(SCRIPT), logger=logger), Student())
    assert [path.parent for path in tmp_path.rglob(FILE)] == [tmp_path / "name" / "version_0"] == [Path(logger.log_dir)]


class Peeking(Elsewhere):
    """Notes how the record says that the run stands, whenever the findings are shown in this logger."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seen: list[tuple[str, str]] = []

    @property
    def experiment(self) -> None:
        if (self._folder / FILE).is_file() and (self._folder / RECORD_FILE).is_file():
            status = json.loads((self._folder / RECORD_FILE).read_text(encoding="utf-8"))["status"]
            self.seen.append((_read(self._folder)[-1]["event"], status))


def test_that_the_run_is_over_is_written_when_all_else_is(tmp_path: Path) -> None:
    logger = Peeking(tmp_path)
    fit(trainer(Scripted(SCRIPT), logger=logger), Student())
    assert logger.seen[-1] == ("ended", "running")
    assert {status for _, status in logger.seen} == {"running"}
    assert json.loads((tmp_path / RECORD_FILE).read_text(encoding="utf-8"))["status"] == "finished"


def test_of_several_loggers_the_first_that_has_a_folder_gets_the_file(tmp_path: Path) -> None:
    loggers = [Elsewhere(None), Elsewhere(tmp_path / "first"), Elsewhere(tmp_path / "second")]
    fit(trainer(Scripted(SCRIPT), logger=loggers), Student())
    assert [path.parent.name for path in tmp_path.rglob(FILE)] == ["first"]


def test_without_a_logger_there_is_no_file_and_the_findings_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scripted = Scripted(SCRIPT)
    with heard() as records:
        fit(trainer(scripted, logger=False), Student())
    assert list(tmp_path.rglob("*")) == []
    assert [finding.where for finding in scripted.findings] == ["model.b", "model.a", None]
    assert [record.levelname for record in records] == ["INFO", "WARNING", "WARNING", "ERROR", "INFO"]


def test_a_resumed_run_first_writes_what_it_carries(tmp_path: Path) -> None:
    first = fit(trainer(Scripted(SCRIPT), max_epochs=1), Student())
    first.save_checkpoint(tmp_path / "first.ckpt")
    second, folder = Scripted(SCRIPT), tmp_path / "second"
    fit(trainer(second, logger=Elsewhere(folder)), Student(), ckpt_path=tmp_path / "first.ckpt")
    lines = _read(folder)
    assert _events(lines) == [
        *(("carried", "model.a"), ("carried", "model.b"), ("carried", None), ("reopened", "model.b")),
        *(("ended", "model.b"), ("ended", "model.a"), ("ended", None)),
    ]
    assert [line["status"] for line in lines[:3]] == ["closed"] * 3
    assert _last(lines) == {finding.key: finding for finding in second.findings}


@pytest.fixture
def bucket() -> Iterator[str]:
    """A folder of its own in an object store."""
    name = uuid.uuid4().hex
    yield f"memory://{name}"
    files = fsspec.filesystem("memory")
    if files.exists(f"/{name}"):
        files.rm(f"/{name}", recursive=True)


def test_a_folder_in_an_object_store_gets_the_same_lines_while_the_run_goes_on(bucket: str, tmp_path: Path) -> None:
    def read(run: Trainer) -> int:
        files, path = fsspec.core.url_to_fs(f"{bucket}/run/{FILE}")
        return len(_parsed(files.cat_file(path).decode())) if files.exists(path) else 0

    fit(trainer(Scripted(SCRIPT), logger=Elsewhere(tmp_path)), Student())
    module = Reader(read)
    run = fit(trainer(Scripted(SCRIPT), logger=Elsewhere(f"{bucket}/run")), module)
    files, path = fsspec.core.url_to_fs(f"{bucket}/run/{FILE}")
    assert _parsed(files.cat_file(path).decode()) == _read(tmp_path)
    assert module.seen[:6] == [0, 1, 1, 3, 3, 4]
    assert read(run) == len(EVENTS)


def test_a_folder_that_cannot_be_written_is_told_of_once_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    scripted = Scripted(SCRIPT)
    with heard() as records:
        run = fit(trainer(scripted, logger=Elsewhere(tmp_path / "file" / "run")), Student())
    faults = [record for record in records if record.exc_info]
    assert [record.levelno for record in faults] == [logging.ERROR]
    assert faults[0].getMessage() == "the run's folder cannot be written and is switched off; training goes on"
    assert run.global_step == 2 * BATCHES
    assert len(scripted.findings) == 3


@pytest.mark.timeout(30)
def test_what_stands_in_place_of_the_findings_and_has_no_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "findings.jsonl")
    record = Record()
    record.begin(str(tmp_path))
    assert record.first_line == 1
