"""Two processes with unequal shares: their numbers are of all samples, they agree, and none waits for ever."""

import csv
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC
from typing_extensions import override

from lightning_diagnostics import GeneralizationGapMonitor
from tests.diagnostics.generalization_gap import models
from tests.diagnostics.generalization_gap.brute import everything
from tests.diagnostics.generalization_gap.models import CLASSES, Batch, Samples, differences, training, validation

TRAINING, VALIDATION = 41, 23

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders"),
    pytest.mark.filterwarnings("ignore:`broadcast_buffers` is deprecated"),
    pytest.mark.filterwarnings("ignore:torch.distributed.nn.functional.all_gather is deprecated"),
    pytest.mark.filterwarnings("ignore:It is recommended to use `self.log"),
]


@pytest.fixture(autouse=True)
def _no_child_left() -> Iterator[None]:
    before = set(torch.multiprocessing.active_children())  # a loader of another test may keep its workers for a while
    yield
    assert set(torch.multiprocessing.active_children()) <= before


class Diary(models.Record):
    """Writes down what came of its process, which has no other way to bring it home.

    Args:
        folder: Where.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.brute: dict[str, dict[str, float]] = {}
        self.gaps: list[dict[str, float]] = []

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        models.seed(2)  # Python's own generator is seeded anew in a forked process

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        own = Samples(VALIDATION, seed=1)
        padded = [*range(VALIDATION), 0]  # what the sampler of Lightning gives so that all have as many
        of_all = {"training": (Samples(TRAINING), range(TRAINING)), "validation": (own, padded)}
        self.brute = {
            name: everything(pl_module, models.batches(samples, indices, 64))
            for name, (samples, indices) in of_all.items()
        }
        self.gaps.append({name: float(value) for name, value in trainer.callback_metrics.items() if "gap" in name})

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        callbacks: list[Any] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        monitors = [each for each in callbacks if isinstance(each, GeneralizationGapMonitor)]
        told = {
            "published": {name: float(value) for name, value in trainer.callback_metrics.items()},
            "brute": self.brute,
            "gaps": self.gaps,
            "epoch": trainer.current_epoch,
            "moments": {**self.moments, "batches": self.batches},
            "findings": [(each.code, each.message) for monitor in monitors for each in monitor.findings],
        }
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(told))


def both(make: Callable[[], LightningModule], folder: Path, *callbacks: Any, **settings: Any) -> list[dict[str, Any]]:
    """Run in two processes; gives what each wrote down."""
    folder.mkdir(exist_ok=True)
    strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=30))
    more = {"devices": 2, "strategy": strategy, "num_sanity_val_steps": 0, **settings}
    models.run(make, folder, *callbacks, Diary(folder), data=lambda: (training(TRAINING), validation()), **more)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def _monitor(**more: Any) -> GeneralizationGapMonitor:
    return GeneralizationGapMonitor(strict=True, **more)


class Merged(models.Small):
    """Means, objects of torchmetrics with sums and with lists, and one that the hook computes."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro")
        self.ranking = MulticlassAUROC(CLASSES)
        self.hooked = MulticlassAUROC(CLASSES)

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        self.log("val_twice", 2 * functional.cross_entropy(logits, batch[1]), sync_dist=True, on_step=True)
        self.accuracy.update(logits, batch[1])
        self.log("val_acc", self.accuracy)
        self.ranking.update(logits, batch[1])
        self.log("val_auroc", self.ranking)
        self.hooked.update(logits, batch[1])

    @override
    def on_validation_epoch_end(self) -> None:
        self.log("val_hooked_auroc", self.hooked.compute(), sync_dist=True)
        self.hooked.reset()


def test_the_numbers_are_of_all_samples_on_both(tmp_path: Path) -> None:
    for told in both(Merged, tmp_path, _monitor(train_pass="full")):
        brute, published = told["brute"], told["published"]
        same = {"val_hooked_auroc": "val_auroc"}
        for name in ("val_loss", "val_twice", "val_acc", "val_auroc", "val_hooked_auroc"):
            train, val = (brute[side][same.get(name, name)] for side in ("training", "validation"))
            assert published[f"gap/training/{name}"] == pytest.approx(train, rel=1e-5)
            gap = val - train if name in ("val_loss", "val_twice") else train - val
            assert published[f"gap/{name}"] == pytest.approx(gap, rel=1e-4, abs=1e-5)
        assert [each for each in told["findings"] if each[0] == "GAP901"] == []


class Alone(models.Small):
    """Does not have its own value exchanged."""

    @override
    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", functional.cross_entropy(self(batch[0]), batch[1]))


def test_what_the_user_does_not_exchange_is_of_all_samples_too(tmp_path: Path) -> None:
    zero, one = both(Alone, tmp_path, _monitor(train_pass="full"))
    assert zero["published"]["val_loss"] != one["published"]["val_loss"]
    for told in (zero, one):
        train, val = (told["brute"][side]["val_loss"] for side in ("training", "validation"))
        assert told["published"]["gap/training/val_loss"] == pytest.approx(train, rel=1e-5)
        assert told["published"]["gap/val_loss"] == pytest.approx(val - train, rel=1e-4, abs=1e-5)


def test_those_who_watch_the_gap_stop_together(tmp_path: Path) -> None:
    stopping = EarlyStopping("gap/val_loss", patience=1, mode="min")
    zero, one = both(Merged, tmp_path, stopping, _monitor(), max_epochs=12)
    assert zero["gaps"] == one["gaps"]
    assert zero["epoch"] == one["epoch"] < 12
    losses = [each["gap/val_loss"] for each in zero["gaps"]]
    assert losses == [*sorted(losses[:-1], reverse=True), losses[-1]]
    assert losses[-1] >= losses[-2]


class RaisesOnOne(Merged):
    """One of the processes cannot take training batches; which, and from which on, is told by the class."""

    rank, number = 1, 1

    def __init__(self) -> None:
        super().__init__()
        self.known = set(Samples(VALIDATION, seed=1).inputs[:, 0].tolist())

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        known = float(batch[0][0, 0]) in self.known
        if not known and self.global_rank == self.rank and batch_idx >= self.number:
            raise RuntimeError("no such sample")
        super().score(logits, batch, batch_idx)


@pytest.mark.parametrize("rank", [0, 1])
def test_when_the_pass_of_one_process_fails_none_waits(rank: int, tmp_path: Path) -> None:
    class Raises(RaisesOnOne):
        pass

    Raises.rank = rank
    zero, one = both(Raises, tmp_path, _monitor(), max_epochs=3)
    assert zero["epoch"] == one["epoch"] == 3
    for told in (zero, one):
        assert told["gaps"] == [{}, {}, {}]
        assert "val_auroc" in told["published"]
    (note,) = (message for code, message in zero["findings"] if code == "GAP901")
    assert "no such sample" in note


class Gathers(Merged):
    """Its step exchanges something with the other process."""

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        gathered: Any = self.all_gather(logits)
        super().score(gathered[self.global_rank], batch, batch_idx)


def test_a_step_that_exchanges_is_a_note_on_both(tmp_path: Path) -> None:
    for told in both(Gathers, tmp_path, _monitor()):
        assert told["gaps"] == [{}, {}]
        (note,) = (message for code, message in told["findings"] if code == "GAP901")
        assert "exchanges data with other processes" in note


def test_a_subset_is_of_both_processes_and_read_once(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="csv", version=0)
    both(Merged, tmp_path, _monitor(), logger=logger)
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open(encoding="utf-8") as lines:
        drawn = [(row["gap/training_samples"], row["gap/validation_samples"]) for row in csv.DictReader(lines)]
    assert [(float(one), float(other)) for one, other in drawn if one] == [(24.0, 23.0)] * 2


@pytest.mark.parametrize(
    "make", [Merged, *(pytest.param(each, marks=pytest.mark.slow) for each in (models.Appends, models.Collects))]
)
def test_the_run_is_the_same_to_the_last_bit_on_both(make: Any, tmp_path: Path) -> None:
    without = both(make, tmp_path / "without", val_check_interval=2)
    having = both(make, tmp_path / "with", _monitor(), val_check_interval=2)
    for one, other in zip(without, having, strict=True):
        assert differences(one["moments"], other["moments"]) == set()
        assert other["gaps"][-1] != {}
    assert without[0]["moments"]["batches"] != without[1]["moments"]["batches"]
