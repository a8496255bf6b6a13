"""Runs that end without a word, and who takes them for lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_diagnostics.diagnostics.expected_performance import alive
from lightning_diagnostics.diagnostics.expected_performance.alive import LOST_AFTER, is_certain, is_lost
from lightning_diagnostics.diagnostics.expected_performance.engines import from_folder
from lightning_diagnostics.diagnostics.expected_performance.records import read
from lightning_diagnostics.diagnostics.expected_performance.trials import Trial
from tests.diagnostics.expected_performance.models import Scripted, expected, files, fit, record, trainer, trial

PROGRAM = """
import time
from pathlib import Path
from tests.diagnostics.expected_performance.models import Scripted, expected, fit, trainer

class Waits(Scripted):
    def on_train_epoch_start(self):
        if self.current_epoch == 2:
            Path("waits").touch()
            time.sleep(60)

fit(trainer(expected(), Path(".")), Waits())
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    """A run in a process of its own, that waits in its third epoch."""
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not (folder / "waits").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(process.communicate()[1].decode())
        time.sleep(0.02)
    return process


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run that goes on."""
    started = start(tmp_path)
    yield started
    started.kill()
    started.communicate()


def lost(folder: Path) -> bool:
    """Whether the only run below a folder is taken for lost now."""
    (found,) = read(str(folder)).trials
    assert found.status == "running"
    return is_lost(found, now=time.time(), silence=1800.0)


def test_a_run_that_is_killed_is_lost_at_once_and_counts_as_failed(
    process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert not lost(tmp_path)
    assert record(tmp_path)["score"] == 0.5
    process.send_signal(signal.SIGSTOP)
    assert not lost(tmp_path)  # it stands still, and may go on
    process.kill()
    deadline = time.monotonic() + 10  # until the kernel has made it a zombie: nobody has waited for it yet
    while not lost(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert Path(f"/proc/{process.pid}/stat").exists()
    assert lost(tmp_path)
    process.wait()
    assert not Path(f"/proc/{process.pid}/stat").exists()
    assert lost(tmp_path)
    curve = from_folder(tmp_path, min_trials=1)
    assert (curve.n_lost, curve.n_failed, curve.n_running) == (1, 1, 0)
    assert [each.status for each in curve.trials] == ["lost"]
    callback = expected()
    fit(trainer(callback, tmp_path), Scripted())
    assert [found.code for found in callback.findings] == ["EVP101", "EVP801", "EVP802"]
    assert callback.findings[0].evidence["lost"] == 1
    (file, _) = files(tmp_path)
    assert not list(file.parent.glob("*.tmp"))


def mine(**facts: Any) -> Trial:
    """The record of a run of this very process."""
    return trial(status="running", beat=time.time(), **{**alive.here(), **facts})


def test_a_number_that_another_process_has_by_now_is_no_sign_of_life() -> None:
    alive = mine()
    assert not is_lost(alive, now=time.time(), silence=1800.0)
    assert is_lost(replace(alive, born=alive.born - 1), now=time.time(), silence=1800.0)


def test_a_zombie_lives_no_more() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    deadline = time.monotonic() + 10
    while alive._process(child)[0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.01)
    state, born = alive._process(child)
    assert state == "Z"
    assert is_lost(mine(pid=child, born=born), now=time.time(), silence=1800.0)
    os.waitpid(child, 0)
    assert is_lost(mine(pid=child, born=born), now=time.time(), silence=1800.0)


@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"kernel": "another boot"}, {"kernel": ""}])
def test_elsewhere_silence_alone_tells(elsewhere: dict[str, Any]) -> None:
    far = mine(pid=2**22 + 1, **elsewhere)
    now = far.beat
    assert not is_lost(far, now=now + 1799, silence=1800.0)
    assert is_lost(far, now=now + 1801, silence=1800.0)
    slow = replace(far, silence=400.0)  # a batch has taken that long before
    assert not is_lost(slow, now=now + 3999, silence=1800.0)
    assert is_lost(slow, now=now + 4001, silence=1800.0)
    assert not is_certain(far, now=now + LOST_AFTER - 1)
    assert is_certain(far, now=now + LOST_AFTER + 1)


def test_here_it_is_certain_at_once() -> None:
    gone = mine(born=0)
    assert is_certain(gone, now=gone.beat)


@pytest.mark.parametrize("status", ["completed", "failed", "pruned"])
def test_who_has_said_how_it_ended_is_not_lost(status: Any) -> None:
    ended = replace(mine(born=0), status=status)
    assert not is_lost(ended, now=ended.beat + 10 * LOST_AFTER, silence=1800.0)
