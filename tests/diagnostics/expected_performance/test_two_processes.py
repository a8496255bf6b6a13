"""Two processes: one record, by rank zero, of the whole job."""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from torch.multiprocessing.spawn import ProcessRaisedException

from lightning_diagnostics.diagnostics.expected_performance.alive import is_lost
from lightning_diagnostics.diagnostics.expected_performance.records import read
from tests.diagnostics.expected_performance.models import Scripted, expected, files, record, rounded, rows, trainer


@pytest.fixture(autouse=True)
def _no_child_left() -> Iterator[None]:
    yield
    assert torch.multiprocessing.active_children() == []


class Ranked(Scripted):
    """Each rank has a score of its own, and their mean is logged."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.fault("validation_step")
        self.log("val_acc", self.score + 0.25 * self.global_rank, sync_dist=True)


class Tells(Callback):
    """Writes down what its process knows."""

    def __init__(self, folder: Path, callback: Any, checkpoint: Any) -> None:
        self.folder, self.callback, self.checkpoint = folder, callback, checkpoint

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        trial = self.callback.trial
        told = (trial.run_id, trial.score, os.getpid(), self.checkpoint.best_model_score.item())
        (self.folder / f"rank{trainer.global_rank}.pickle").write_bytes(pickle.dumps(told))


def both(module: Scripted, folder: Path, *callbacks: Any, validation: int = 8, **settings: Any) -> None:
    """Train in two processes."""
    strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=30))
    logger = CSVLogger(folder, name="runs")
    run = trainer(None, folder, *callbacks, devices=2, strategy=strategy, logger=logger, **settings)
    run.fit(module, rows(16), rows(validation))


@pytest.mark.filterwarnings("ignore:.*find_unused_parameters.*")
def test_rank_zero_alone_writes_and_counts_the_whole_job(tmp_path: Path) -> None:
    callback = expected(monitor=None)
    checkpoint = ModelCheckpoint(tmp_path / "saved", monitor="val_acc", mode="max")
    both(Ranked(), tmp_path, callback, checkpoint, Tells(tmp_path, callback, checkpoint), enable_checkpointing=True)
    told = [pickle.loads((tmp_path / f"rank{rank}.pickle").read_bytes()) for rank in range(2)]
    plain = record(tmp_path)
    assert (plain["run_id"], plain["pid"]) == (told[0][0], told[0][2])
    assert plain["score"] == told[0][1] == told[0][3] == rounded(0.625)
    assert (plain["status"], plain["devices"]) == ("completed", 2)
    assert (plain["training_samples"], plain["validation_samples"]) == (16, 8)
    assert plain["score_step"] == 2 * 2 - 1  # two batches an epoch on each rank
    assert len(files(tmp_path)) == 1


def test_validation_samples_that_fill_up_the_ranks_are_not_counted_twice(tmp_path: Path) -> None:
    both(Ranked(), tmp_path, expected(), validation=7, max_epochs=1)
    assert record(tmp_path)["validation_samples"] == 7


class Fails(Ranked):
    """One rank fails in its second epoch."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.failing = rank

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1 and self.global_rank == self.failing:
            raise RuntimeError("a fault")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_whose_processes_lightning_has_forked_is_lost_when_one_fails(rank: int, tmp_path: Path) -> None:
    """There Lightning calls ``on_exception`` in the parent alone, which has trained nothing."""
    with pytest.raises(ProcessRaisedException, match="a fault"):
        both(Fails(rank), tmp_path, expected())
    (found,) = read(str(tmp_path)).trials
    assert is_lost(found, now=time.time(), silence=1800.0)


PROGRAM = """
from pathlib import Path
from tests.diagnostics.expected_performance.models import expected, rows, trainer
from tests.diagnostics.expected_performance.test_two_processes import Fails

trainer(expected(), Path("."), devices=2, strategy="ddp").fit(Fails(0), rows(16), rows(8))
"""


@pytest.mark.slow
def test_a_run_in_processes_of_its_own_fails_with_rank_zero(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, env=environment, capture_output=True, check=False)
    plain = record(tmp_path)
    assert (plain["status"], plain["reason"], plain["devices"]) == ("failed", "RuntimeError", 2)
    assert plain["score"] == rounded(0.225)
