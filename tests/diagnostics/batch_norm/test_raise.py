"""``on_finding="raise"``: a metric of a wrong mode is in no logger and nowhere else."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed
import torch.multiprocessing
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_diagnostics import BatchNormGuard
from lightning_diagnostics.findings import FindingError
from tests.diagnostics.batch_norm import sick
from tests.diagnostics.batch_norm.sick import Patient
from tests.helpers import trainer

pytestmark = pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")

AT_ONCE = (
    sick.TrainsInTheStep,
    sick.TrainsAndPutsBack,
    sick.TrainsOnePart,
    sick.LeavesModesAlone,
    sick.TrainsAtTheStart,
    sick.TrainsAtTheEpochStart,
    sick.TrainsAtEveryBatch,
    sick.NormThatTrains,
    sick.DropsAlways,
    sick.CentresOverTheBatch,
)
"""Wrong in the first batch."""

makes = pytest.mark.parametrize("make", AT_ONCE, ids=lambda kind: kind.__name__)


def csv_names(folder: Path) -> set[str]:
    """The columns that a CSV logger has written."""
    return {name for file in folder.rglob("metrics.csv") for name in file.read_text().splitlines()[0].split(",")}


def tensorboard_names(folder: Path) -> set[str]:
    """The curves that a TensorBoard logger has written."""
    events = EventAccumulator(str(folder / "tensorboard" / "version_0"))
    events.Reload()
    return set(events.Tags()["scalars"])


def _loggers(folder: Path) -> list[Any]:
    return [CSVLogger(folder, name="csv", version=0), TensorBoardLogger(folder, name="tensorboard", version=0)]


def _of(names: set[str], stage: str) -> set[str]:
    return {name for name in names if name.startswith(stage)}


@makes
def test_no_validation_metric_is_logged(make: Callable[..., Patient], tmp_path: Path) -> None:
    guard = BatchNormGuard(strict=True, on_finding="raise")
    run = trainer(guard, logger=_loggers(tmp_path), max_epochs=1, num_sanity_val_steps=0)
    with pytest.raises(FindingError):
        run.fit(sick.made(make, sick=True), *sick.digits())
    for logger in run.loggers:
        logger.finalize("failed")
    assert "train_loss" in csv_names(tmp_path)
    assert "train_loss" in tensorboard_names(tmp_path)
    assert _of(csv_names(tmp_path), "val") == set()
    assert _of(tensorboard_names(tmp_path), "val") == set()
    assert _of(set(run.callback_metrics), "val") == set()
    assert _of(set(run.logged_metrics), "val") == set()


def test_the_healthy_twin_logs_all_of_them(tmp_path: Path) -> None:
    guard = BatchNormGuard(strict=True, on_finding="raise")
    run = trainer(guard, logger=_loggers(tmp_path), max_epochs=1, num_sanity_val_steps=0)
    run.fit(sick.made(sick.TrainsInTheStep, sick=False), *sick.digits())
    assert _of(csv_names(tmp_path), "val") == {"val_loss_step", "val_loss_epoch"}
    assert _of(tensorboard_names(tmp_path), "val") == {"val_loss_step", "val_loss_epoch"}
    assert _of(set(run.callback_metrics), "val") == {"val_loss", "val_loss_epoch"}


@makes
@pytest.mark.parametrize("entry", [pytest.param("validate", marks=pytest.mark.slow), "test"])
def test_no_metric_of_an_evaluation_alone_is_logged(make: Callable[..., Patient], entry: str, tmp_path: Path) -> None:
    stage = {"validate": "val", "test": "test"}[entry]
    run = trainer(BatchNormGuard(strict=True, on_finding="raise"), logger=_loggers(tmp_path))
    module, (_, loader) = sick.made(make, sick=True), sick.digits()
    with pytest.raises(FindingError):
        getattr(run, entry)(module, loader, verbose=False)
    for logger in run.loggers:
        logger.finalize("failed")
    assert _of(csv_names(tmp_path), stage) == set()
    assert _of(tensorboard_names(tmp_path), stage) == set()
    assert _of(set(run.callback_metrics), stage) == set()


def test_a_mode_that_goes_wrong_later_leaves_only_the_batches_before_it(tmp_path: Path) -> None:
    guard = BatchNormGuard(strict=True, on_finding="raise")
    run = trainer(guard, logger=CSVLogger(tmp_path), max_epochs=1, num_sanity_val_steps=0)
    with pytest.raises(FindingError, match="in batch 2"):
        run.fit(sick.made(sick.TrainsInALaterBatch, sick=True), *sick.digits())
    run.loggers[0].finalize("failed")
    assert _of(csv_names(tmp_path), "val") == {"val_loss_step"}, "two right batches"
    assert "val_loss_epoch" not in run.callback_metrics


def test_the_sanity_check_raises_before_any_training(tmp_path: Path) -> None:
    run = trainer(BatchNormGuard(strict=True, on_finding="raise"), logger=CSVLogger(tmp_path))
    with pytest.raises(FindingError, match="sanity check"):
        run.fit(sick.made(sick.TrainsInTheStep, sick=True), *sick.digits())
    assert run.global_step == 0


def test_a_prediction_raises_too() -> None:
    run = trainer(BatchNormGuard(strict=True, on_finding="raise"))
    with pytest.raises(FindingError, match="prediction"):
        run.predict(sick.made(sick.TrainsAtTheStart, sick=True), sick.digits()[1])


def test_no_checkpoint_of_a_wrong_metric_is_kept(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path / "best", monitor="val_loss_epoch")
    guard = BatchNormGuard(strict=True, on_finding="raise")
    run = trainer(guard, best, enable_checkpointing=True, logger=False, num_sanity_val_steps=0)
    with pytest.raises(FindingError):
        run.fit(sick.made(sick.TrainsInTheStep, sick=True), *sick.digits())
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_a_warning_raises_nothing_at_the_severity_of_errors() -> None:
    guard = BatchNormGuard(strict=True, on_finding="raise", at="error")
    run = sick.run(sick.made(sick.DropsAlways, sick=True), guard)
    assert run.state.finished
    assert [finding.code for finding in guard.findings] == ["BN108"]


def test_what_is_mended_is_raised_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(FindingError, match="has put it right"):
        sick.run(sick.made(sick.TrainsInTheStep, sick=True), BatchNormGuard(fix=True, on_finding="raise"))


def test_modes_are_put_back_when_it_raises() -> None:
    without, mended = sick.made(sick.TrainsAtTheStart, sick=True), sick.made(sick.TrainsAtTheStart, sick=True)
    with pytest.raises(FindingError):
        sick.run(without, BatchNormGuard(on_finding="raise"))
    with pytest.raises(FindingError):
        sick.run(mended, BatchNormGuard(on_finding="raise", fix=True))
    assert [each.training for each in mended.modules()] == [each.training for each in without.modules()]


# Two processes.


class Diary(Callback):
    """Writes down how its process ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, trainer: Trainer, ending: str) -> None:
        """Into a file of the rank."""
        told = {"ending": ending}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(told))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.write(trainer, "finished")


class Guard(BatchNormGuard):
    """Has its end by a finding written down: in a forked child Lightning calls no ``on_exception``."""

    def _meet(self, trainer: Trainer, pl_module: Any) -> None:
        try:
            super()._meet(trainer, pl_module)
        except FindingError as error:
            (diary,) = (c for c in trainer.callbacks if isinstance(c, Diary))
            diary.write(trainer, f"FindingError {error.finding.code}")
            torch.distributed.barrier()  # a child that is gone has the launcher end the others
            raise


class TrainsOnARank(Patient):
    """One process alone is in training mode."""

    rank = 0

    def score(self, name: str, batch: Any, batch_idx: int) -> None:
        if self.sick and self.global_rank == self.rank:
            self.net[5].train()
        super().score(name, batch, batch_idx)


@pytest.fixture
def _no_child_left() -> Iterator[None]:
    yield
    assert torch.multiprocessing.active_children() == []


@pytest.mark.usefixtures("_no_child_left")
@pytest.mark.parametrize(
    ("rank", "entry"),
    [
        *((0, "fit"), (1, "validate")),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in ((1, "fit"), (0, "validate"), (0, "test"), (1, "test"))
        ),
    ],
)
def test_two_processes_both_raise_before_the_metric_of_the_epoch_is_logged(
    rank: int, entry: str, tmp_path: Path
) -> None:
    strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=30))
    guard = Guard(strict=True, on_finding="raise")
    quiet = {"max_epochs": 1, "num_sanity_val_steps": 0, "devices": 2, "strategy": strategy}
    run = trainer(guard, Diary(tmp_path), logger=CSVLogger(tmp_path, name="csv"), **quiet)
    module = sick.made(TrainsOnARank, sick=True)
    module.rank = rank
    loaders = sick.digits()
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="FindingError"):
        run.fit(module, *loaders) if entry == "fit" else getattr(run, entry)(module, loaders[1])
    told = [json.loads((tmp_path / f"rank{each}.json").read_text()) for each in range(2)]
    assert [each["ending"] for each in told] == ["FindingError BN101"] * 2
    name = "test_loss_epoch" if entry == "test" else "val_loss_epoch"
    assert name not in csv_names(tmp_path)
