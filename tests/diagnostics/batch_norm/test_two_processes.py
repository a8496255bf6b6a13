"""Two processes: what each sees is brought together, statistics are of the batches of both, and none waits for ever."""

import csv
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_diagnostics import BatchNormGuard
from tests.contracts.cells import digest
from tests.diagnostics.batch_norm import sick
from tests.diagnostics.batch_norm.sick import NORMS, Batch, Loaders, Patient
from tests.helpers import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders"),
    pytest.mark.filterwarnings("ignore:`broadcast_buffers` is deprecated"),
]

SLOW = pytest.mark.slow


class Diary(Callback):
    """Writes down what came of its process: a forked child has no other way to bring it home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        guards = [each for each in trainer.callbacks if isinstance(each, BatchNormGuard)]
        told = {
            "findings": [finding.to_dict() for guard in guards for finding in guard.findings],
            "state": digest(pl_module.state_dict()),
            "metrics": digest(dict(trainer.callback_metrics)),
            "modes": [each.training for each in pl_module.modules()],
            "random": digest(torch.get_rng_state()),
        }
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(told))


@pytest.fixture(autouse=True)
def _no_child_left() -> Iterator[None]:
    yield
    assert torch.multiprocessing.active_children() == []


def both(
    module: Patient,
    folder: Path,
    *guards: BatchNormGuard,
    data: Loaders | None = None,
    entry: str = "fit",
    ddp: dict[str, Any] | None = None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Run in two processes; gives what each wrote down."""
    folder.mkdir(exist_ok=True)
    strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=30), **(ddp or {}))
    quiet = {"max_epochs": 1, "num_sanity_val_steps": 0, "devices": 2, "strategy": strategy}
    logger = CSVLogger(folder, name="csv", version=0)
    run = trainer(*guards, Diary(folder), **{**quiet, "logger": logger, **settings})
    loaders = data or sick.digits(batch=32)
    seed_everything(1, verbose=False)
    run.fit(module, *loaders) if entry == "fit" else getattr(run, entry)(module, loaders[1])
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def found(told: dict[str, Any], *codes: str) -> list[tuple[str, str, str]]:
    """Code, place and severity of what a process has found."""
    every = [(each["code"], each["where"], each["severity"]) for each in told["findings"]]
    return [each for each in every if not codes or each[0] in codes]


def guard(**more: Any) -> BatchNormGuard:
    """One that raises its own faults."""
    return BatchNormGuard(strict=True, **more)


# Running statistics that differ.


class TwoDomains(Patient):
    """Each process has data of its own kind: brighter on the second."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return super().training_step([batch[0] + 2.0 * self.global_rank, batch[1]], batch_idx)


LOCAL = {"broadcast_buffers": False}


def test_statistics_that_each_process_keeps_for_itself_are_found_on_both(tmp_path: Path) -> None:
    for told in both(sick.made(TwoDomains, sick=True), tmp_path, guard(), ddp=LOCAL):
        assert [each for each in found(told) if each[2] != "INFO"] == [("BN106", "net.1", "WARNING")]


def test_with_data_of_one_kind_that_is_a_note(tmp_path: Path) -> None:
    for told in both(sick.made(Patient, sick=True), tmp_path, guard(), ddp=LOCAL, data=sick.digits(batches=11)):
        assert {each for each in found(told) if each[2] != "INFO"} == set()
        assert {where for _, where, _ in found(told, "BN106")} == set(NORMS)


@pytest.mark.parametrize("make", [Patient, TwoDomains])
def test_buffers_that_are_broadcast_are_the_same(make: Any, tmp_path: Path) -> None:
    for told in both(sick.made(make, sick=False), tmp_path, guard()):
        assert found(told, "BN106") == []


def test_healthy_training_is_left_in_peace_on_both(tmp_path: Path) -> None:
    for told in both(sick.made(Patient, sick=False), tmp_path, guard(), num_sanity_val_steps=2, max_epochs=2):
        assert told["findings"] == []


class Averages(Patient):
    """Local statistics that are averaged before each validation."""

    def on_validation_start(self) -> None:
        for name, each in self.named_buffers():
            if each.is_floating_point():
                torch.distributed.all_reduce(each)
                each /= 2
            else:
                assert "num_batches" in name


def test_buffers_that_are_averaged_before_the_validation_are_the_same(tmp_path: Path) -> None:
    for told in both(sick.made(Averages, sick=False), tmp_path, guard(), ddp=LOCAL):
        assert found(told, "BN106") == []


class MovesOnItsOwn(Patient):
    """Training mode in the validation moves the statistics of each process, and drives them apart."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        self.net[1].train()
        super().score(name, batch, batch_idx)


def test_statistics_that_the_validation_itself_drives_apart_are_one_finding(tmp_path: Path) -> None:
    for told in both(sick.made(MovesOnItsOwn, sick=True), tmp_path, guard()):
        assert found(told, "BN101", "BN106") == [("BN101", "net.1", "ERROR")]


# What one process alone sees.


class TrainsOnARank(Patient):
    """One process alone is in training mode."""

    rank = 0

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        if self.sick and self.global_rank == self.rank:
            self.net[5].train()
        super().score(name, batch, batch_idx)


@pytest.mark.parametrize(
    ("rank", "entry"),
    [(0, "fit"), (1, "fit"), *(pytest.param(rank, e, marks=SLOW) for rank in (0, 1) for e in ("validate", "test"))],
)
def test_what_one_process_alone_does_is_told_by_rank_zero(rank: int, entry: str, tmp_path: Path) -> None:
    module = sick.made(TrainsOnARank, sick=True)
    module.rank = rank
    zero, _ = both(module, tmp_path, guard(), entry=entry)
    assert found(zero, "BN101") == [("BN101", "net.5", "ERROR")]
    (finding,) = (each for each in zero["findings"] if each["code"] == "BN101")
    assert finding["evidence"].get("global_rank", 0) == rank


@pytest.mark.parametrize(
    "make",
    [sick.TrainsInTheStep, *(pytest.param(m, marks=SLOW) for m in (sick.LeavesModesAlone, sick.TrainsAtTheStart))],
)
def test_a_mistake_that_all_make_is_found_on_all(make: Any, tmp_path: Path) -> None:
    for told in both(sick.made(make, sick=True), tmp_path, guard()):
        assert [where for _, where, _ in found(told, "BN101")] == list(NORMS)


@pytest.mark.parametrize("make", [sick.DropsAlways, sick.CentresOverTheBatch, sick.ForgetsTrainAtTheEpochEnd])
def test_the_other_rules_work_in_two_processes_too(make: Any, tmp_path: Path) -> None:
    code = {sick.DropsAlways: "BN108", sick.CentresOverTheBatch: "BN107"}.get(make, "BN102")
    for told in both(sick.made(make, sick=True), tmp_path, guard(), max_epochs=2):
        assert found(told, code) != []
        assert {each[0] for each in found(told) if each[2] != "INFO"} == {code}


# Batches.


def test_the_batch_of_each_process_is_what_is_tiny(tmp_path: Path) -> None:
    for told in both(sick.made(Patient, sick=False), tmp_path, guard(), data=sick.digits(batch=4)):
        assert set(found(told, "BN105")) == {("BN105", where, "WARNING") for where in NORMS}
        assert all(each["evidence"]["median_rows"] == 4 for each in told["findings"] if each["code"] == "BN105")


def test_twice_as_many_rows_per_process_are_enough(tmp_path: Path) -> None:
    for told in both(sick.made(Patient, sick=False), tmp_path, guard(), data=sick.digits(batch=8)):
        assert found(told, "BN105") == []


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="SyncBatchNorm exchanges statistics between GPUs only")
def test_synchronised_norms_have_the_rows_of_both(tmp_path: Path) -> None:
    more = {"accelerator": "gpu", "sync_batchnorm": True, "strategy": "ddp_fork"}
    for told in both(sick.made(Patient, sick=False), tmp_path, guard(), data=sick.digits(batch=4), **more):
        assert found(told, "BN105", "BN106") == []


# Statistics of all processes.


class First(Patient):
    """A norm that sees the pixels, so that its statistics are those of the data."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 2))


def test_what_is_drawn_is_of_the_batches_of_both(tmp_path: Path) -> None:
    inputs = torch.arange(64, dtype=torch.float32)[:, None]
    rows = TensorDataset(inputs, torch.zeros(64, dtype=torch.long))
    loaders = DataLoader(rows, 16, shuffle=True), DataLoader(rows, 16)
    module = First()
    with torch.no_grad():
        module.net[0].running_mean.fill_(0.0)
        module.net[0].running_var.fill_(4.0)
    both(module, tmp_path, guard(), data=loaders, entry="validate")
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open(encoding="utf-8") as lines:
        drawn = [row["batch_norm/mean_shift/net.0"] for row in csv.DictReader(lines)]
    # The mean of all rows is 31.5; the first process has the even ones, with a mean of 31.
    assert [float(value) for value in drawn if value] == [pytest.approx(31.5 / 2, rel=1e-4)]


# Mending, and a run as without us.


@pytest.mark.parametrize(
    "make", [sick.TrainsInTheStep, sick.TrainsAtTheStart, pytest.param(sick.LeavesModesAlone, marks=SLOW)]
)
def test_fix_gives_the_correct_program_on_both(make: Any, tmp_path: Path) -> None:
    right = both(sick.made(make, sick=False), tmp_path / "right", num_sanity_val_steps=2)
    mended = both(sick.made(make, sick=True), tmp_path / "mended", guard(fix=True), num_sanity_val_steps=2)
    for rank in range(2):
        assert [right[rank][name] for name in ("state", "metrics", "random")] == [
            mended[rank][name] for name in ("state", "metrics", "random")
        ]
        assert all("fix=True" in each["message"] for each in mended[rank]["findings"] if each["code"] != "BN107")


class Meets(Patient):
    """The step of the validation exchanges something with the other process, so it cannot be tried alone."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        mean = self(batch[0]).mean()
        torch.distributed.all_reduce(mean)
        self.log(f"{name}_mean", mean, sync_dist=True)
        loss = functional.cross_entropy(self(batch[0]), batch[1])
        self.log(f"{name}_loss", loss, sync_dist=True, on_epoch=True)


@pytest.mark.parametrize(
    "make",
    [
        *(Patient, Meets, sick.TrainsInTheStep),
        *(pytest.param(m, marks=SLOW) for m in (sick.TrainsAtTheStart, sick.DropsAlways, sick.LeavesModesAlone)),
    ],
)
@pytest.mark.parametrize("ddp", [{}, pytest.param(LOCAL, marks=SLOW)], ids=["broadcast", "local"])
def test_the_run_is_the_same_to_the_last_bit_on_both(make: Any, ddp: dict[str, Any], tmp_path: Path) -> None:
    without = both(sick.made(make, sick=True), tmp_path / "without", num_sanity_val_steps=2, ddp=ddp)
    having = both(sick.made(make, sick=True), tmp_path / "with", guard(), num_sanity_val_steps=2, ddp=ddp)
    assert [{**each, "findings": []} for each in having] == [{**each, "findings": []} for each in without]


def test_a_step_that_exchanges_something_is_no_obstacle(tmp_path: Path) -> None:
    for told in both(sick.made(Meets, sick=False), tmp_path, guard()):
        assert told["findings"] == []
