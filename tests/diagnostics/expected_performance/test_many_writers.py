"""Many runs that write at the same time, and what reads them meanwhile."""

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_diagnostics.diagnostics.expected_performance.engines import from_folder
from lightning_diagnostics.diagnostics.expected_performance.recording import Recording
from lightning_diagnostics.diagnostics.expected_performance.records import FOLDER, read
from tests.diagnostics.expected_performance.models import Scripted, expected, files, fit, rounded, trainer, trial

PROCESSES = 16


def record_itself(folder: str, number: int, writes: int) -> None:
    """What one run writes: each new value is better, and the text of the file is longer or shorter than before."""
    kept = Recording("val_acc", "max")
    kept.begin(folder, number=str(number))
    for step in range(1, writes + 1):
        kept.know(hyperparameters={"padding": "x" * ((step * 997) % 5000)})
        kept.read(number + step / writes, step, samples=None, batches=None)
    kept.end("completed")


@pytest.mark.parametrize("together", [False, True], ids=("own-folders", "one-folder"))
def test_sixteen_processes_lose_nothing_and_nobody_reads_half_a_record(together: bool, tmp_path: Path) -> None:
    fork, writes = multiprocessing.get_context("fork"), 40
    processes = [
        fork.Process(
            target=record_itself,
            args=(str(tmp_path / ("version_0" if together else f"version_{number}")), number, writes),
        )
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    readings = 0
    while any(process.is_alive() for process in processes):
        found = read(str(tmp_path))
        assert found.unreadable == {}
        for each in found.trials:
            assert each.score is None or int(str(each.number)) < each.score <= int(str(each.number)) + 1
        readings += len(found.trials)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    assert readings > 0
    found = read(str(tmp_path))
    assert sorted(int(str(each.number)) for each in found.trials) == list(range(PROCESSES))
    assert {(each.status, each.score) for each in found.trials} == {
        ("completed", number + 1.0) for number in range(PROCESSES)
    }
    assert len(files(tmp_path)) == PROCESSES
    assert not list(tmp_path.rglob("*.tmp"))


def train(folder: Path, number: int) -> None:
    """A run in a process of its own; runs that begin together may get one version folder."""
    fit(trainer(expected(), folder, enable_progress_bar=False), Scripted((number / 100,)))


@pytest.mark.slow
def test_sixteen_runs_at_once_are_all_recorded(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=train, args=(tmp_path, number)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = read(str(tmp_path))
    assert found.unreadable == {}
    assert sorted(each.score or 0.0 for each in found.trials) == [rounded(number / 100) for number in range(PROCESSES)]
    assert len(from_folder(tmp_path).scores) == PROCESSES


def test_runs_of_one_version_folder_have_a_record_each(tmp_path: Path) -> None:
    for number in range(3):
        callback = expected()
        fit(trainer(callback, tmp_path, logger=TensorBoardLogger(tmp_path, version=0)), Scripted((number / 10,)))
    assert len(files(tmp_path)) == 3
    assert callback.curve is not None  # pyright: ignore[reportPossiblyUnboundVariable]
    assert sorted(callback.curve.scores) == [rounded(number / 10) for number in range(3)]  # pyright: ignore[reportPossiblyUnboundVariable]


# When others are read.

_opened: list[tuple[str, str]] = []
_heard: list[bool] = []


def _hear(event: str, arguments: Any) -> None:
    if _heard and event in ("open", "os.listdir", "os.scandir"):
        _opened.append((event, os.fspath(arguments[0]) if isinstance(arguments[0], str | os.PathLike) else ""))


@contextmanager
def opened() -> Iterator[list[tuple[str, str]]]:
    """Every file that is opened and every folder that is listed."""
    if not hasattr(sys, "_tests_hear_opened"):
        sys.addaudithook(_hear)
        sys._tests_hear_opened = True  # pyright: ignore[reportAttributeAccessIssue]  # a hook cannot be taken away
    _opened.clear()
    _heard.append(True)
    try:
        yield _opened
    finally:
        _heard.clear()


class Counts(Callback):
    """Notes how much was opened when training ended."""

    def __init__(self) -> None:
        self.seen = 0

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen = len(_opened)


def test_no_run_reads_another_before_its_end(tmp_path: Path) -> None:
    fit(trainer(expected(), tmp_path), Scripted())
    (other,) = files(tmp_path)
    counts = Counts()
    with opened() as events:
        fit(trainer(expected(), tmp_path, counts, max_epochs=4), Scripted())
    before, after = events[: counts.seen], events[counts.seen :]
    assert any(FOLDER in path for _, path in before)  # its own is written
    assert not [path for _, path in before if str(other.parent) in path]
    assert ("open", str(other)) in after


# Many records.


def filled(folder: Path, number: int) -> None:
    """So many records, as runs leave them, with what else is in their folders."""
    for index in range(number):
        home = folder / f"version_{index}"
        plain = trial(
            f"{index:032x}", score=(index * 7919 % number) / number, seconds=60.0, hyperparameters={"lr": index}
        )
        (home / FOLDER).mkdir(parents=True)
        (home / FOLDER / f"{plain.run_id}.json").write_text(json.dumps(plain.to_dict()))


def test_many_records_are_read(tmp_path: Path) -> None:
    filled(tmp_path, 300)
    found = read(str(tmp_path))
    assert sorted(each.score or 0.0 for each in found.trials) == [index / 300 for index in range(300)]


@pytest.mark.slow
def test_ten_thousand_records_are_read_and_drawn(tmp_path: Path) -> None:
    filled(tmp_path, 10_000)
    assert len(read(str(tmp_path)).trials) == 10_000
    callback = expected()
    fit(trainer(callback, tmp_path.parent, logger=CSVLogger(tmp_path, name="")), Scripted())
    assert callback.curve is not None
    assert len(callback.curve.scores) == 10_001
