"""How a run ended, and what is recorded of it in every mode."""

import logging
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import BatchSizeFinder, EarlyStopping, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.tuner.tuning import Tuner
from torch import Tensor

from lightning_diagnostics import Diagnostics, Severity
from lightning_diagnostics.diagnostics.expected_performance import recording
from lightning_diagnostics.diagnostics.expected_performance import records as store
from tests.diagnostics.expected_performance.models import (
    BATCHES,
    RISING,
    VALIDATED,
    Scripted,
    expected,
    files,
    fit,
    record,
    records,
    rounded,
    rows,
    trainer,
)
from tests.helpers import heard


def raising(error: BaseException, after: int = 0) -> Callable[[], None]:
    """Raises an error, after so many calls without one."""
    calls: list[int] = []

    def act() -> None:
        calls.append(1)
        if len(calls) > after:
            raise error

    return act


class TrialPruned(Exception):  # noqa: N818  # as Optuna calls it
    """Named as Optuna's."""


class MyPruned(TrialPruned):
    pass


def codes(callback: Any) -> list[str]:
    """The codes of what was found, notes too."""
    return sorted(found.code for found in callback.findings)


# How it ended.


@pytest.mark.parametrize(
    ("place", "after", "score"),
    [
        ("setup", 0, None),
        ("configure_optimizers", 0, None),
        ("sanity_check", 0, None),
        ("training_step", 0, None),
        ("training_step", BATCHES + 1, RISING[0]),
        ("validation_step", 0, None),
        ("validation_step", 5, max(RISING)),
        ("on_validation_epoch_end", 1, RISING[0]),
    ],
)
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("a fault"), "failed"),
        (torch.OutOfMemoryError("CUDA out of memory"), "failed"),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), "failed"),
        (MyPruned(), "pruned"),
        (KeyboardInterrupt(), "pruned"),
        (SystemExit(3), "failed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_an_error_ends_a_trial(
    place: str, after: int, score: float | None, error: BaseException, status: str, tmp_path: Path
) -> None:
    callback = expected()
    run = trainer(callback, tmp_path, num_sanity_val_steps=1)
    with pytest.raises(BaseException) as raised:  # noqa: PT011  # which one is asked below
        fit(run, Scripted(faults={place: raising(error, after)}))
    assert raised.value is error or (isinstance(error, KeyboardInterrupt) and isinstance(raised.value, SystemExit))
    plain = record(tmp_path)
    assert (plain["status"], plain["reason"]) == (status, type(error).__name__)
    assert plain["score"] == (None if score is None else rounded(score))
    assert callback.trial is not None
    assert callback.trial.status == status


def test_optunas_own_word_is_known(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    with pytest.raises(optuna.TrialPruned):
        fit(trainer(expected(), tmp_path), Scripted(faults={"on_validation_epoch_end": raising(optuna.TrialPruned())}))
    assert (record(tmp_path)["status"], record(tmp_path)["reason"]) == ("pruned", "TrialPruned")


def test_an_error_in_a_test_after_it_changes_nothing(tmp_path: Path) -> None:
    class Fails(Scripted):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            raise RuntimeError("a fault")

    module = Fails()
    run = fit(trainer(expected(), tmp_path), module)
    before = record(tmp_path)
    with pytest.raises(RuntimeError, match="a fault"):
        run.test(module, rows(VALIDATED), verbose=False)
    assert record(tmp_path) == before


def test_a_second_fit_that_fails_before_it_trains_has_failed(tmp_path: Path) -> None:
    module = Scripted()
    run = fit(trainer(expected(), tmp_path), module)
    module.faults["configure_optimizers"] = raising(RuntimeError("a fault"))
    run.fit_loop.max_epochs = 4
    with pytest.raises(RuntimeError, match="a fault"):
        fit(run, module)
    plain = record(tmp_path)
    assert (plain["status"], plain["reason"], plain["score"]) == ("failed", "RuntimeError", rounded(0.5))


def test_early_stopping_completes_a_trial(tmp_path: Path) -> None:
    stopping = EarlyStopping("val_acc", patience=1, mode="max")
    run = fit(trainer(expected(monitor=None), tmp_path, stopping, max_epochs=9), Scripted((0.5, 0.4, 0.3, 0.2)))
    assert run.current_epoch < 9
    assert (record(tmp_path)["status"], record(tmp_path)["score"]) == ("completed", rounded(0.5))


class Stops(Callback):
    def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == BATCHES + 1:
            trainer.should_stop = True


def test_a_wish_to_stop_completes_a_trial(tmp_path: Path) -> None:
    fit(trainer(expected(), tmp_path, Stops(), max_epochs=9), Scripted((0.1,)))
    assert (record(tmp_path)["status"], record(tmp_path)["score"]) == ("completed", rounded(0.1))


def test_the_end_of_the_time_completes_a_trial(tmp_path: Path) -> None:
    run = trainer(expected(), tmp_path, max_epochs=-1, max_time=timedelta(seconds=0.2))
    fit(run, Scripted((0.3,)))
    plain = record(tmp_path)
    assert (plain["status"], plain["score"]) == ("completed", rounded(0.3))


# Modes.


def test_manual_optimisation(tmp_path: Path) -> None:
    class ByHand(Scripted):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            optimizer: Any = self.optimizers()
            loss = super().training_step(batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            return loss

    fit(trainer(expected(), tmp_path), ByHand())
    assert (record(tmp_path)["score"], record(tmp_path)["score_step"]) == (rounded(0.5), 2 * BATCHES - 1)


@pytest.mark.parametrize(("monitor", "best"), [("val_acc/dataloader_idx_0", 0.5), ("val_acc/dataloader_idx_1", 10.5)])
def test_several_loaders(monitor: str, best: float, tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "saved", monitor=monitor, mode="max")
    run = trainer(expected(monitor=None), tmp_path, checkpoint, enable_checkpointing=True)
    run.fit(Scripted(), rows(8), [rows(4), rows(4)])
    assert checkpoint.best_model_score is not None
    assert record(tmp_path)["score"] == checkpoint.best_model_score.item() == rounded(best)


@pytest.mark.parametrize("validated", [False, True])
def test_a_metric_of_training_alone(validated: bool, tmp_path: Path) -> None:
    class Trains(Scripted):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.log("train_acc", RISING[self.current_epoch] + batch_idx, on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    checkpoint = ModelCheckpoint(tmp_path / "saved", monitor="train_acc", mode="max")
    settings = {"enable_checkpointing": True, "limit_val_batches": 1.0 if validated else 0}
    fit(trainer(expected(monitor=None), tmp_path, checkpoint, **settings), Trains())
    plain = record(tmp_path)
    assert checkpoint.best_model_score is not None
    assert plain["score"] == checkpoint.best_model_score.item()
    assert plain["score_step"] == 2 * BATCHES - 1
    assert plain["validation_samples"] is None


def test_a_metric_logged_at_the_end_of_the_training_epoch(tmp_path: Path) -> None:
    class AtEnd(Scripted):
        def on_train_epoch_end(self) -> None:
            self.log("val_own", RISING[self.current_epoch])

    checkpoint = ModelCheckpoint(tmp_path / "saved", monitor="val_own", mode="max", save_on_train_epoch_end=True)
    run = trainer(expected(monitor=None), tmp_path, checkpoint, enable_checkpointing=True)
    fit(run, AtEnd())
    assert checkpoint.best_model_score is not None
    assert record(tmp_path)["score"] == checkpoint.best_model_score.item() == rounded(0.5)


def test_validation_in_mid_epoch(tmp_path: Path) -> None:
    run = trainer(expected(), tmp_path, max_epochs=1, val_check_interval=0.34)
    fit(run, Scripted((0.1, 0.5, 0.3)))
    assert (record(tmp_path)["score"], record(tmp_path)["score_step"]) == (rounded(0.5), 1)


def test_validation_every_second_epoch(tmp_path: Path) -> None:
    fit(trainer(expected(), tmp_path, max_epochs=4, check_val_every_n_epoch=2), Scripted((0.5, 0.1)))
    assert (record(tmp_path)["score"], record(tmp_path)["score_step"]) == (rounded(0.5), 2 * BATCHES - 1)


def test_no_validation(tmp_path: Path) -> None:
    callback = expected()
    fit(trainer(callback, tmp_path, limit_val_batches=0), Scripted())
    assert (record(tmp_path)["status"], record(tmp_path)["score"]) == ("completed", None)
    assert codes(callback) == ["EVP901"]


def test_several_optimizer_steps_a_batch_leave_the_step_that_of_the_log(tmp_path: Path) -> None:
    class Two(Scripted):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.01) for _ in range(2)]

        def training_step(self, batch: Any, batch_idx: int) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            optimizers: Any = self.optimizers()
            for each in optimizers:
                each.step()

    run = fit(trainer(expected(), tmp_path), Two())
    assert run.global_step == 6 * BATCHES
    assert record(tmp_path)["score_step"] == 2 * BATCHES - 1


# Folders.


def test_no_logger_is_noted(tmp_path: Path) -> None:
    callback = expected()
    fit(trainer(callback, tmp_path, logger=False, default_root_dir=tmp_path), Scripted())
    assert list(tmp_path.rglob("*")) == []
    (finding,) = (found for found in callback.findings if found.code == "EVP901")
    assert "This run has no folder to keep its record in" in finding.message
    assert callback.trial is not None
    assert callback.trial.score == rounded(0.5)


def test_no_logger_but_a_folder(tmp_path: Path) -> None:
    callbacks = [expected(folder=str(tmp_path / "records")) for _ in range(2)]
    for callback in callbacks:
        fit(trainer(callback, tmp_path, logger=False), Scripted())
    assert [file.parents[1] for file in files(tmp_path)] == [tmp_path / "records"] * 2
    assert [len(callback.curve.trials) for callback in callbacks if callback.curve] == [1, 2]
    assert codes(callbacks[1]) == ["EVP801"]


def test_a_folder_beside_the_run_has_the_record(tmp_path: Path) -> None:
    fit(trainer(expected(folder=tmp_path / "elsewhere"), tmp_path / "own"), Scripted())
    (file,) = files(tmp_path)
    assert file.parents[1] == tmp_path / "elsewhere"


def test_a_folder_above_the_run_leaves_the_record_with_it(tmp_path: Path) -> None:
    fit(trainer(expected(folder=tmp_path), tmp_path / "own"), Scripted())
    (file,) = files(tmp_path)
    assert file.parents[1] == tmp_path / "own" / "runs" / "version_0"


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda root: TensorBoardLogger(root, name=None), "version_0"),
        (lambda root: TensorBoardLogger(root, name="runs", version="a"), "runs/a"),
        (lambda root: TensorBoardLogger(root, name="runs", sub_dir="sub"), "runs/version_0/sub"),
        (lambda root: CSVLogger(root, name=""), "version_0"),
        (lambda root: [CSVLogger(root, name="csv"), TensorBoardLogger(root, name="tb")], "csv/version_0"),
    ],
    ids=("no-name", "version", "sub-dir", "csv", "several"),
)
def test_folders_of_loggers(make: Callable[[Path], Any], place: str, tmp_path: Path) -> None:
    for number in (1, 2):
        callback = expected()
        fit(trainer(callback, tmp_path, logger=make(tmp_path)), Scripted())
        assert len(records(tmp_path)) == number
        assert callback.curve is not None
        assert len(callback.curve.trials) == number
    assert tmp_path / place in {file.parents[1] for file in files(tmp_path)}


def test_runs_of_another_name_are_no_siblings(tmp_path: Path) -> None:
    for name in ("a", "b"):
        callback = expected()
        fit(trainer(callback, tmp_path, logger=CSVLogger(tmp_path, name=name)), Scripted())
        assert callback.curve is not None
        assert len(callback.curve.trials) == 1


@pytest.fixture
def bucket() -> Iterator[str]:
    """A folder of its own in an object store."""
    name = uuid.uuid4().hex
    yield f"memory://{name}"
    memory = fsspec.filesystem("memory")
    if memory.exists(f"/{name}"):
        memory.rm(f"/{name}", recursive=True)


class Elsewhere(CSVLogger):
    """Writes its own files here, and says that the run's folder is at an address."""

    def __init__(self, folder: Path, address: str, number: int) -> None:
        super().__init__(folder)
        self._address = f"{address}/version_{number}"

    @property
    def log_dir(self) -> str:
        return self._address

    @property
    def root_dir(self) -> str:
        return self._address.rpartition("/")[0]

    @property
    def experiment(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        pass

    def log_hyperparams(self, params: Any = None) -> None:
        pass

    def save(self) -> None:
        pass


def test_an_object_store_keeps_the_records(bucket: str, tmp_path: Path) -> None:
    callbacks = [expected() for _ in range(5)]
    for number, callback in enumerate(callbacks):
        fit(trainer(callback, tmp_path, logger=Elsewhere(tmp_path, bucket, number)), Scripted((number / 10,)))
    found = store.read(bucket)
    assert found.unreadable == {}
    assert [each.score for each in found.trials] == [rounded(number / 10) for number in range(5)]
    assert {each.folder for each in found.trials} == {f"{bucket}/version_{number}" for number in range(5)}
    curve = callbacks[-1].curve
    assert curve is not None
    assert len(curve.scores) == 5
    memory = fsspec.filesystem("memory")
    mine = found.trials[-1]
    drawn = memory.ls(f"{mine.folder.removeprefix('memory:/')}/expected_performance/{mine.run_id[:8]}", detail=False)
    assert sorted(name.rpartition(".")[2] for name in drawn) == ["layout", "run"]


# Faults of the disk.


def test_a_folder_that_cannot_be_written_costs_a_note(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    callback = expected(folder=str(tmp_path / "file" / "records"))
    with heard() as said:
        run = fit(trainer(callback, tmp_path), Scripted())
    assert run.global_step == 3 * BATCHES
    assert [each for each in said if each.levelno > logging.INFO] == []
    (finding,) = callback.findings
    assert finding.code == "EVP901"
    assert finding.message.startswith("The record of this run cannot be written (NotADirectoryError")
    assert callback.trial is not None
    assert callback.trial.score == rounded(0.5)


class Cuts(Callback):
    """Takes the run's folder away in mid-run, and puts a file in its place."""

    def on_train_epoch_start(self, trainer: Any, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            folder = Path(trainer.logger.log_dir) / store.FOLDER
            shutil.rmtree(folder)
            folder.write_text("no folder")


def test_a_disk_that_fails_in_mid_run_costs_a_note(tmp_path: Path) -> None:
    callback = expected()
    with heard() as said:
        run = fit(trainer(callback, tmp_path, Cuts()), Scripted())
    assert run.global_step == 3 * BATCHES
    assert [each for each in said if each.levelno > logging.INFO] == []
    assert [found.code for found in callback.findings if "cannot be written" in found.message] == ["EVP901"]


@pytest.mark.parametrize("first", [0, BATCHES + 1, 3 * BATCHES - 1])
def test_a_disk_that_is_full_for_a_while_costs_a_note_and_the_record_is_right(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes fail from a batch on, and again succeed at the end of the run."""
    write, full = store.write, [False]

    def maybe(*arguments: Any) -> None:
        if full[0]:
            raise OSError(28, "No space left on device")
        write(*arguments)

    class Fills(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
            full[0] = trainer.global_step >= first

        def on_train_end(self, trainer: Any, pl_module: LightningModule) -> None:
            full[0] = False

    monkeypatch.setattr(store, "write", maybe)
    monkeypatch.setattr(recording, "BEAT", 0.0)
    callback = expected()
    fit(trainer(callback, tmp_path, Fills()), Scripted())
    plain = record(tmp_path)
    assert (plain["status"], plain["score"]) == ("completed", rounded(0.5))
    (finding,) = (found for found in callback.findings if found.code == "EVP901")
    assert "No space left on device" in finding.message


# Searches for settings before the run.


@pytest.mark.parametrize("first", [False, True])
def test_a_learning_rate_finder_leaves_the_record_to_the_run(first: bool, tmp_path: Path) -> None:
    class Tuned(Scripted):
        def __init__(self) -> None:
            super().__init__(saved={"lr": 0.1})
            self.lr = 0.1

        def on_train_start(self) -> None:
            self.validations = 0  # those of the search are not of the script

    callback = expected()
    finder = LearningRateFinder(num_training_steps=10)
    with heard() as said:
        fit(
            trainer(None, tmp_path, *((callback, finder) if first else (finder, callback)), default_root_dir=tmp_path),
            Tuned(),
        )
    assert [each for each in said if each.levelno > logging.INFO] == []
    plain = record(tmp_path)
    assert (plain["status"], plain["score"], plain["score_step"]) == ("completed", rounded(0.5), 2 * BATCHES - 1)


class Sized(Scripted):
    """Has a batch size that can be searched."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size, self.lr = 2, 0.01

    def train_dataloader(self) -> Any:
        return rows(4 * BATCHES, batch_size=self.batch_size)

    def val_dataloader(self) -> Any:
        return rows(VALIDATED)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.filterwarnings("ignore:.*batch.size.*")
def test_a_batch_size_finder_leaves_the_record_to_the_run(first: bool, tmp_path: Path) -> None:
    callback, module = expected(), Sized()
    finder = BatchSizeFinder(max_trials=2, steps_per_trial=1, init_val=2)
    order = (callback, finder) if first else (finder, callback)
    trainer(None, tmp_path, *order, default_root_dir=tmp_path).fit(module)
    plain = record(tmp_path)
    assert (plain["status"], plain["score"]) == ("completed", rounded(0.5))


@pytest.mark.parametrize("what", ["lr_find", "scale_batch_size"])
def test_a_tuner_leaves_no_record_and_the_run_after_it_a_right_one(what: str, tmp_path: Path) -> None:
    callback, module = expected(), Sized()
    run = trainer(callback, tmp_path, default_root_dir=tmp_path)
    tuner = Tuner(run)
    if what == "lr_find":
        tuner.lr_find(module, num_training=10)
    else:
        tuner.scale_batch_size(module, max_trials=2, steps_per_trial=1)
    assert records(tmp_path) == []
    module.validations = 0
    run.fit(module)
    assert (record(tmp_path)["status"], record(tmp_path)["score"]) == ("completed", rounded(0.5))


# Ways in.


def test_the_suite_records_a_run_of_no_sweep_and_says_nothing_of_others(tmp_path: Path) -> None:
    for _ in range(2):
        suite = Diagnostics(strict=True)
        checkpoint = ModelCheckpoint(monitor="val_acc", mode="max")
        fit(trainer(suite, tmp_path, checkpoint, enable_checkpointing=True), Scripted())
        assert [found for found in suite.findings if found.code.startswith("EVP")] == []
    assert [plain["score"] for plain in records(tmp_path)] == [rounded(0.5)] * 2
    assert [path.name for path in tmp_path.rglob("expected_performance/*") if path.is_dir()] == []


def test_the_suite_in_a_named_sweep_draws_its_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_DIAGNOSTICS_SWEEP_ID", "a")
    for number in (1, 2):
        suite = Diagnostics(strict=True)
        checkpoint = ModelCheckpoint(monitor="val_acc", mode="max")
        fit(trainer(suite, tmp_path, checkpoint, enable_checkpointing=True), Scripted())
        (finding,) = (found for found in suite.findings if found.code.startswith("EVP"))
        assert (finding.code, finding.severity) == ("EVP801", Severity.INFO)
        assert finding.evidence["scores"] == number
    assert {plain["sweep"] for plain in records(tmp_path)} == {"a"}


@pytest.mark.parametrize(("sweep", "notes"), [(None, []), ("a", ["EVP901"])])
def test_the_suite_without_a_metric_goes_on(
    sweep: str | None, notes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sweep is not None:
        monkeypatch.setenv("LIGHTNING_DIAGNOSTICS_SWEEP_ID", sweep)
    suite = Diagnostics(strict=True)
    run = fit(trainer(suite, tmp_path), Scripted())
    assert run.global_step == 3 * BATCHES
    assert records(tmp_path) == []
    assert [found.code for found in suite.findings if found.code.startswith("EVP")] == notes


PROGRAM = """
from lightning.pytorch.cli import LightningCLI
from tests.diagnostics.expected_performance.models import Scripted, rows

class Program(Scripted):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(saved={"lr": lr})

    def train_dataloader(self):
        return rows(12)

    def val_dataloader(self):
        return rows(8)

LightningCLI(Program, save_config_callback=None)
"""


@pytest.mark.slow
def test_flags_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    flags = [
        *("--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.logger=CSVLogger"),
        *("--trainer.logger.save_dir=out", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1"),
        "--trainer.callbacks+=lightning_diagnostics.ExpectedValidationPerformance",
        *("--trainer.callbacks.failed=0.1", "--trainer.callbacks.sweep=a", "--trainer.callbacks.monitor=val_acc"),
        "--model.lr=0.3",
    ]
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "program.py", "fit", *flags],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    plain = record(tmp_path)
    assert (plain["sweep"], plain["sweep_from"], plain["status"]) == ("a", "sweep=", "completed")
    assert plain["hyperparameters"]["lr"] == 0.3
