"""What a run writes of itself, against what an independent count says."""

import math
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset

from lightning_diagnostics.diagnostics.expected_performance import recording
from lightning_diagnostics.diagnostics.expected_performance.records import read
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


@pytest.fixture(autouse=True)
def _seed_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier test has seeded is not taken for this test's."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "")


def drawn(folder: Path, name: str) -> dict[int, float]:
    """The values of a metric by step, as Lightning's own logger has them."""
    (file,) = folder.rglob("metrics.csv")
    head, *lines = [line.split(",") for line in file.read_text().splitlines()]
    at, step = head.index(name), head.index("step")
    return {int(line[step]): float(line[at]) for line in lines if line[at]}


def test_a_whole_record(tmp_path: Path) -> None:
    seed_everything(7, verbose=False)
    before, began = time.time(), time.monotonic()
    callback = expected()
    fit(trainer(callback, tmp_path), Scripted(saved={"lr": 0.1, "layers": 3}))
    took = time.monotonic() - began
    plain = record(tmp_path)
    (file,) = files(tmp_path)
    assert file == tmp_path / "runs" / "version_0" / "expected_performance" / f"{plain['run_id']}.json"
    assert 0 < plain.pop("seconds") <= took
    assert before <= plain.pop("beat") <= time.time()
    assert 0 <= plain.pop("silence") <= took
    assert plain.pop("born") > 0
    assert plain.pop("kernel").startswith(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    assert plain.pop("started").endswith("+00:00")
    wanted = {
        "version": 1,
        "run_id": file.stem,
        "metric": "val_acc",
        "mode": "max",
        "status": "completed",
        "reason": "",
        "score": rounded(0.5),
        "score_step": 2 * BATCHES - 1,
        "sweep": None,
        "sweep_from": "folder",
        "number": None,
        "search": None,
        "devices": 1,
        "hyperparameters": {"layers": 3, "lr": 0.1},
        "seed": 7,
        "training_samples": 4 * BATCHES,
        "validation_samples": VALIDATED,
        "tests": 0,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    assert {name: plain[name] for name in wanted} == wanted
    assert callback.trial is not None
    assert callback.trial.to_dict() == {**record(tmp_path)}


@pytest.mark.parametrize(("mode", "best"), [("max", 0.5), ("min", 0.1)])
@pytest.mark.parametrize("every", [{}, {"val_check_interval": 0.34, "max_epochs": 1}, {"accumulate_grad_batches": 3}])
def test_the_score_and_its_step_are_those_of_checkpoints_and_loggers(
    mode: Any, best: float, every: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "saved", monitor="val_acc", mode=mode)
    fit(trainer(expected(monitor=None), tmp_path, checkpoint, enable_checkpointing=True, **every), Scripted())
    plain, values = record(tmp_path), drawn(tmp_path, "val_acc")
    assert checkpoint.best_model_score is not None
    assert plain["score"] == checkpoint.best_model_score.item() == rounded(best)
    assert plain["mode"] == mode
    assert values[plain["score_step"]] == pytest.approx(best)


def test_a_score_of_64_bits_is_kept_to_the_last(tmp_path: Path) -> None:
    class Exact(Scripted):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val_acc", torch.tensor(1 / 3, dtype=torch.float64))

    checkpoint = ModelCheckpoint(tmp_path / "saved", monitor="val_acc", mode="max")
    fit(trainer(expected(monitor=None), tmp_path, checkpoint, enable_checkpointing=True), Exact())
    assert checkpoint.best_model_score is not None
    assert record(tmp_path)["score"] == checkpoint.best_model_score.item()


def test_infinite_values_are_no_score(tmp_path: Path) -> None:
    fit(trainer(expected(), tmp_path), Scripted([math.inf, 0.2, math.nan]))
    assert (record(tmp_path)["score"], record(tmp_path)["status"]) == (rounded(0.2), "completed")


def test_a_metric_that_is_never_finite_has_diverged(tmp_path: Path) -> None:
    fit(trainer(expected(), tmp_path), Scripted([math.nan]))
    plain = record(tmp_path)
    assert (plain["status"], plain["score"], plain["score_step"]) == ("completed", None, None)
    assert plain["readings"] >= 3
    (trial,) = read(str(tmp_path)).trials
    assert trial.diverged


def test_a_metric_that_is_never_logged_is_noted(tmp_path: Path) -> None:
    callback = expected(monitor="val_auc")
    fit(trainer(callback, tmp_path), Scripted())
    plain = record(tmp_path)
    assert (plain["status"], plain["score"], plain["readings"]) == ("completed", None, 0)
    (finding,) = (found for found in callback.findings if found.code == "EVP901")
    assert finding.message == "No value of 'val_auc' is logged, so this run has no score; there are 'val_acc'."


# Hyperparameters.


class Data(LightningDataModule):
    """Data with hyperparameters of their own."""

    def __init__(self, saved: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters(saved, logger=False)

    def train_dataloader(self) -> Any:
        return rows(4 * BATCHES)

    def val_dataloader(self) -> Any:
        return rows(VALIDATED)


class Thing:
    def __str__(self) -> str:
        return "thing"


def test_hyperparameters_of_all_kinds_are_plain(tmp_path: Path) -> None:
    saved = {
        "optimizer": {"name": "sgd", "options": {"lr": 0.1}, "none": {}},
        "number": torch.tensor(3),
        "many": torch.tensor([1, 2]),
        "list": [1, "a", None, math.inf],
        "nothing": None,
        "infinite": math.inf,
        "undefined": math.nan,
        "thing": Thing(),
        "yes": True,
        "text": "a" * 5000,
        "half": "\ud800",
        7: "seven",
    }
    run = trainer(expected(), tmp_path, logger=Silent(tmp_path, name="runs"))
    run.fit(Scripted(saved=saved), datamodule=Data({"size": 8, "yes": False}))
    assert record(tmp_path)["hyperparameters"] == {
        "optimizer/name": "sgd",
        "optimizer/options/lr": 0.1,
        "optimizer/none": "{}",
        "number": 3,
        "many": "tensor([1, 2])",
        "list": "[1, 'a', None, 'inf']",
        "nothing": None,
        "infinite": "inf",
        "undefined": "nan",
        "thing": "thing",
        "yes": True,  # the module's
        "text": "a" * 1000,
        "half": "\ud800",
        "7": "seven",
        "size": 8,
    }


class Speechless:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Silent(CSVLogger):
    """Does not take hyperparameters, which not every logger can."""

    def log_hyperparams(self, params: Any = None) -> None:
        pass


def test_a_hyperparameter_whose_text_fails_costs_that_one_alone(tmp_path: Path) -> None:
    run = trainer(expected(), tmp_path, logger=Silent(tmp_path, name="runs"))
    fit(run, Scripted(saved={"bad": Speechless(), "list": [Speechless()], "lr": 0.1}))
    assert record(tmp_path)["hyperparameters"] == {"bad": "Speechless", "list": "['Speechless']", "lr": 0.1}


def test_what_training_changes_in_them_is_not_recorded(tmp_path: Path) -> None:
    module = Scripted(saved={"lr": 0.1})
    module.faults["training_step"] = lambda: module.hparams.update(lr=0.2)
    fit(trainer(expected(), tmp_path), module)
    assert record(tmp_path)["hyperparameters"] == {"lr": 0.1}


# Sizes of the data.


class Stream(IterableDataset[Any]):
    """Eight samples without a length."""

    def __iter__(self) -> Iterator[Any]:
        yield from ([torch.ones(2)] for _ in range(8))


class Combined(Scripted):
    """Has a batch of each training loader."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch[0], batch_idx)


@pytest.mark.parametrize(
    ("training", "validation", "settings", "sizes"),
    [
        (rows(10), rows(7), {}, (10, 7)),
        (rows(10, drop_last=True), rows(7, drop_last=True), {}, (8, 4)),
        (rows(12), rows(12), {"limit_val_batches": 2, "limit_train_batches": 1}, (4, 8)),
        (rows(12), rows(12), {"limit_val_batches": 0.34}, (12, 4)),
        (rows(12), [rows(7), rows(6)], {}, (12, 7)),
        ([rows(12), rows(8)], rows(4), {}, (20, 4)),
        (DataLoader(Stream(), batch_size=4), DataLoader(Stream(), batch_size=4), {}, (None, None)),
        (DataLoader(Stream(), batch_size=4), rows(4), {}, (None, 4)),
        (rows(12, batch_size=5), rows(12, batch_size=5), {}, (12, 12)),
    ],
    ids=("uneven", "drop-last", "limited", "share", "several", "combined", "stream", "stream-in-training", "rest"),
)
def test_sizes(training: Any, validation: Any, settings: dict[str, Any], sizes: Any, tmp_path: Path) -> None:
    name = "val_acc/dataloader_idx_0" if isinstance(validation, list) else "val_acc"
    module = Combined() if isinstance(training, list) else Scripted()
    trainer(expected(monitor=name), tmp_path, max_epochs=1, **settings).fit(module, training, validation)
    plain = record(tmp_path)
    assert plain["score"] is not None
    assert (plain["training_samples"], plain["validation_samples"]) == sizes


# When it is written.


class Reads(Callback):
    """Reads the record in mid-run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[tuple[str, Any, Any, float]] = []

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        plain = record(self.folder)
        self.seen.append((plain["status"], plain["score"], plain["training_samples"], plain["beat"]))


def test_it_stands_there_from_the_first_batch_and_at_each_new_best(tmp_path: Path) -> None:
    reads = Reads(tmp_path)
    fit(trainer(expected(), tmp_path, reads), Scripted())
    scores = [None, rounded(0.1), rounded(0.5)]
    assert [each[:2] for each in reads.seen] == [("running", score) for score in scores for _ in range(BATCHES)]
    assert len({each[3] for each in reads.seen}) == 3  # and not at every batch


def test_it_beats_while_batches_go_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "BEAT", 0.0)
    reads = Reads(tmp_path)
    fit(trainer(expected(), tmp_path, reads, max_epochs=1), Scripted())
    assert len({each[3] for each in reads.seen}) == BATCHES
    assert reads.seen[-1][2] == 4 * BATCHES


def test_it_beats_in_a_long_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "BEAT", 0.0)
    beats: list[float] = []
    module = Scripted(faults={"validation_step": lambda: beats.append(record(tmp_path)["beat"])})
    run = trainer(expected(), tmp_path, max_epochs=1)
    run.fit(module, rows(4), rows(16))
    assert len(beats) == len(set(beats)) == 4


def test_its_longest_silence_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(recording.time, "monotonic", lambda: now[0])
    kept = recording.Recording("val_acc", "max")
    kept.begin(str(tmp_path))
    for later in (130.0, 190.0, 1000.0, 1061.0):
        now[0] = later
        kept.beat()
    kept.end("completed")
    plain = record(tmp_path)
    assert (plain["silence"], plain["seconds"]) == (810.0, 961.0)


def test_nothing_of_the_run_is_held_by_it(tmp_path: Path) -> None:
    from tests.helpers import held

    callback = expected()
    fit(trainer(callback, tmp_path), Scripted(saved={"a": torch.ones(2)}))
    assert held(callback.trial) == []


def test_a_run_of_a_few_batches_writes_nothing(tmp_path: Path) -> None:
    callback = expected()
    fit(trainer(callback, tmp_path, fast_dev_run=True), Scripted())
    assert list(tmp_path.rglob("*.json")) == []
    assert callback.trial is None


def test_validation_alone_writes_nothing(tmp_path: Path) -> None:
    callback = expected()
    run = trainer(callback, tmp_path)
    run.validate(Scripted(), rows(VALIDATED), verbose=False)
    run.test(Scripted(), rows(VALIDATED), verbose=False)
    assert records(tmp_path) == []


def test_tests_after_the_run_are_counted(tmp_path: Path) -> None:
    for counted in ([1], [1, 2]):
        module = Scripted()
        run = fit(trainer(expected(), tmp_path / str(len(counted))), module)
        for number in counted:
            run.test(module, rows(VALIDATED), verbose=False)
            assert record(tmp_path / str(len(counted)))["tests"] == number
    assert {plain["status"] for plain in records(tmp_path)} == {"completed"}


def test_test_data_that_two_trials_have_seen_are_noted(tmp_path: Path) -> None:
    codes: list[set[str]] = []
    for _ in range(3):
        callback, module = expected(), Scripted()
        run = fit(trainer(callback, tmp_path), module)
        run.test(module, rows(VALIDATED), verbose=False)
        codes.append({found.code for found in callback.findings})
    assert ["EVP804" in each for each in codes] == [False, False, True]


def test_a_validation_after_the_run_changes_nothing(tmp_path: Path) -> None:
    module = Scripted((0.1, 0.2, 0.3, 0.9))
    run = fit(trainer(expected(), tmp_path), module)
    before = record(tmp_path)
    run.validate(module, rows(VALIDATED), verbose=False)
    assert record(tmp_path) == before


def test_a_sanity_check_is_no_score(tmp_path: Path) -> None:
    class Boasts(Scripted):
        @property
        def score(self) -> float:
            return 0.99 if self.trainer.sanity_checking else super().score

    fit(trainer(expected(), tmp_path, num_sanity_val_steps=2), Boasts())
    assert record(tmp_path)["score"] == rounded(max(RISING))


def test_devices_are_those_of_the_whole_job(tmp_path: Path) -> None:
    from lightning_diagnostics.diagnostics.expected_performance import facts

    class Job:
        num_devices, num_nodes = 4, 2

    job: Any = Job()
    assert facts.devices(job) == 8
    run: Trainer = trainer(None, tmp_path)
    assert facts.devices(run) == 1
