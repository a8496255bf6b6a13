"""Programs in which the monitor once was wrong, or left something behind."""

import copy
import math
import os
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from typing_extensions import override

from lightning_diagnostics import GeneralizationGapMonitor
from lightning_diagnostics.diagnostics.generalization_gap.passing import MODE_BATCHES
from tests import helpers
from tests.diagnostics.generalization_gap import models
from tests.diagnostics.generalization_gap.brute import Brute, drawn, mean_loss, run, share
from tests.diagnostics.generalization_gap.models import CLASSES, FEATURES, Batch, Samples, Small, differences
from tests.diagnostics.generalization_gap.test_odd_modules import blind

# What others do meanwhile.

ASKED: queue.Queue[int] = queue.Queue()
NOTES: list[int] = []
"""What a thread of the program's writes down, of which nothing may be lost."""


class Tells(Small):
    """Has a thread write down each batch, and waits for it."""

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        ASKED.put(batch_idx)
        ASKED.join()


def _work(written: list[int]) -> None:
    while (number := ASKED.get()) >= 0:
        NOTES.append(number)
        written.append(number)
        ASKED.task_done()
    ASKED.task_done()


def _thread(written: list[int]) -> Callable[[], Any]:
    thread = threading.Thread(target=_work, args=(written,), daemon=True)
    thread.start()
    return thread.join


def _timer(written: list[int]) -> Callable[[], Any]:
    timer = threading.Timer(0.0, _work, (written,))
    timer.start()
    return timer.join


def _pool(written: list[int]) -> Callable[[], Any]:
    pool = ThreadPoolExecutor(1)
    pool.submit(_work, written)
    return pool.shutdown


@pytest.mark.parametrize("begin", [_thread, _timer, _pool])
def test_what_a_thread_of_the_users_writes_down_meanwhile_is_kept(
    begin: Callable[[list[int]], Callable[[], Any]], tmp_path: Path
) -> None:
    written: list[int] = []
    NOTES.clear()
    join = begin(written)
    try:
        record, _ = models.run(Tells, tmp_path, GeneralizationGapMonitor(strict=True))
    finally:
        ASKED.put(-1)
        join()
    assert "gap/val_loss" in record.published
    assert len(written) > 2 + 3 * 2, "the thread has worked for passes, too"
    assert written == NOTES


class Signals(models.Computes):
    """Is sent a signal in the midst of each validation, and of each pass."""

    def states(self) -> list[Any]:
        """Those of its metrics."""
        return [self.accuracy.update_count, float(self.accuracy.compute()), float(self.mean.mean_value)]

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        super().score(logits, batch, batch_idx)
        if batch_idx == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    @override
    def on_validation_epoch_end(self) -> None:
        SEEN.put(("hook", self.states()))
        super().on_validation_epoch_end()


SEEN: queue.Queue[tuple[str, list[Any]]] = queue.Queue()


def test_a_handler_of_a_signal_finds_the_metrics_of_the_validation(tmp_path: Path) -> None:
    modules: list[Signals] = []

    def make() -> Signals:
        modules.append(Signals())
        return modules[0]

    before = signal.signal(signal.SIGUSR1, lambda *_: SEEN.put(("handler", modules[0].states())))
    try:
        models.run(make, tmp_path, GeneralizationGapMonitor(strict=True), num_sanity_val_steps=0)
    finally:
        signal.signal(signal.SIGUSR1, before)
    told = [SEEN.get() for _ in range(SEEN.qsize())]
    assert [who for who, _ in told] == ["handler", "handler", "handler", "hook"] * 2
    for validation in (told[:4], told[4:]):
        states = [each for _, each in validation]
        assert states[0] != states[3] == states[2] == states[1], "in both modes the handler came when all was back"


# What a step does to its module, its batch and its data.


class WritesLater(Small):
    """Changes a weight by hand, but not at the first batch."""

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        if batch_idx:
            self.net[0].bias.data.add_(0.001)  # pyright: ignore[reportCallIssue]


def test_a_step_that_writes_to_weights_at_a_later_batch_is_refused(tmp_path: Path) -> None:
    monitor, told = GeneralizationGapMonitor(strict=True), list[dict[str, Any]]()
    for callbacks in ([], [monitor]):
        folder = tmp_path / str(len(callbacks))
        record, _ = models.run(WritesLater, folder, *callbacks, val_check_interval=3)
        told.append(record.told(folder))
    assert differences(*told) == set()
    (note,) = blind(monitor)
    assert "writes to weights" in note.message


class Named(Dataset):
    """Samples as mappings."""

    def __init__(self, count: int, seed: int) -> None:
        self.inner = Samples(count, seed=seed)

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        inputs, target = self.inner[index]
        return {"x": inputs, "y": target}


class Pops(Small):
    """Takes the targets out of its batch."""

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return functional.cross_entropy(self(batch["x"]), batch.pop("y"))

    @override
    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        targets = batch.pop("y")
        self.log("val_loss", functional.cross_entropy(self(batch["x"]), targets), batch_size=len(targets))


def _of_names() -> Any:
    return [DataLoader(Named(count, seed), models.BATCH) for seed, count in enumerate((43, 23))]


def test_a_step_that_takes_the_targets_out_of_its_batch_is_measured(tmp_path: Path) -> None:
    monitor = GeneralizationGapMonitor(strict=True)
    record, _ = models.run(Pops, tmp_path, monitor, data=_of_names)
    assert blind(monitor) == []
    assert math.isfinite(record.published["gap/val_loss"])
    assert drawn(tmp_path, "gap/training_samples") == drawn(tmp_path, "gap/validation_samples") == [23.0] * 2


class Pictures(Dataset):
    """Pictures of several sizes, each with its boxes."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        picture = torch.full((3, 4 + index % 3, 5), float(index % 5))
        return picture, {"boxes": torch.zeros(1 + index % 2, 4), "labels": torch.zeros(1 + index % 2, dtype=torch.long)}


class Detects(Small):
    """Is given lists of pictures and of targets."""

    def _loss(self, batch: Batch) -> Tensor:
        pictures, _ = batch
        rows = torch.stack([each.mean((1, 2)).repeat(2) for each in pictures])
        return self(rows).square().mean()

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return self._loss(batch)

    @override
    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self._loss(batch), batch_size=len(batch[0]))


def _listed(samples: list[Any]) -> Any:
    return tuple(list(each) for each in zip(*samples, strict=True))


@pytest.mark.parametrize("size", [4, 2])
def test_lists_of_pictures_are_counted(size: int, tmp_path: Path) -> None:
    def data() -> Any:
        return [DataLoader(Pictures(count), size, collate_fn=_listed) for count in (40, 22)]

    monitor = GeneralizationGapMonitor(strict=True)
    models.run(Detects, tmp_path, monitor, data=data)
    assert blind(monitor) == []
    assert drawn(tmp_path, "gap/training_samples") == drawn(tmp_path, "gap/validation_samples") == [22.0] * 2


class Counts(LightningDataModule):
    """Counts the batches that it has moved."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.seen = 0, list[int]()

    @override
    def train_dataloader(self) -> Any:
        return models.training()

    @override
    def val_dataloader(self) -> Any:
        return models.validation()

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.count += 1
        self.seen.append(len(batch[0]))
        return batch


def test_what_the_data_module_keeps_of_batches_is_put_back() -> None:
    kept: list[Any] = []
    for callbacks in ([], [GeneralizationGapMonitor(strict=True)]):
        models.seed()
        data = Counts()
        trainer = helpers.trainer(*callbacks)
        trainer.fit(Small(), datamodule=data)
        kept.append((data.count, data.seen))
    assert "gap/val_loss" in trainer.callback_metrics
    assert kept[0] == kept[1]


# Metrics that a hook computes.


class Best(Small):
    """Logs the best accuracy so far, as templates do; from the second epoch on its logits are turned over."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy, self.best = MulticlassAccuracy(CLASSES, average="micro"), MaxMetric()

    @override
    def on_train_start(self) -> None:
        self.accuracy.reset()
        self.best.reset()

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        self.accuracy(-logits if self.current_epoch else logits, batch[1])
        self.log("val_acc", self.accuracy)

    @override
    def on_validation_epoch_end(self) -> None:
        self.best(self.accuracy.compute())
        self.log("val_acc_best", self.best.compute())


def test_the_best_so_far_has_no_twin_though_it_was_the_accuracy_once(tmp_path: Path) -> None:
    brute = Brute(lambda module, data: {"val_loss": mean_loss(module, data)})
    monitor = run(Best, tmp_path, brute, max_epochs=3, val_check_interval=1.0)
    accuracies, best = ([each[name] for each in brute.published] for name in ("val_acc", "val_acc_best"))
    assert accuracies[0] == best[0] > accuracies[1]
    assert [math.isnan(each.get("gap/val_acc_best", math.nan)) for each in brute.published[1:]] == [True, True]
    assert all(math.isfinite(each["gap/val_acc"]) for each in brute.published)
    (note,) = blind(monitor)
    assert note.message.startswith("val_acc_best cannot be measured on training data")


class NotInSanity(models.Computes):
    """Logs nothing while it is only tried."""

    @override
    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.log("val_acc", self.accuracy.compute())
        self.accuracy.reset()


def test_what_is_not_logged_while_it_is_tried_has_a_twin_from_the_second_validation_on(tmp_path: Path) -> None:
    brute = Brute(lambda module, data: {"val_acc": share(module, data)})
    monitor = run(NotInSanity, tmp_path, brute)
    assert "gap/val_acc" not in brute.published[0]
    assert len(brute.published) == 4
    for published, training, validation in list(zip(brute.published, brute.training, brute.validation, strict=True))[
        1:
    ]:
        assert published["gap/training/val_acc"] == pytest.approx(training["val_acc"])
        assert published["gap/val_acc"] == pytest.approx(training["val_acc"] - validation["val_acc"], abs=1e-6)
    assert blind(monitor) == []


# The two modes.


class Normed(Small):
    """Batch norm tells its modes apart; its metrics add in place."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        self.mean, self.overlap = MeanMetric(), MulticlassJaccardIndex(CLASSES)

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        self.mean.update(logits.square().mean(), weight=len(logits))
        self.overlap.update(logits, batch[1])
        self.log_dict({"val_mean": self.mean, "val_jaccard": self.overlap})


def modes(module: Any, data: list[Any]) -> dict[str, float]:
    """How much larger the metrics of the first batches are in evaluation mode."""
    found: list[tuple[float, float]] = []
    for training in (True, False):
        net = copy.deepcopy(module.net).train(training)
        with torch.no_grad():
            logits = torch.cat([net(inputs) for inputs, _ in data[:MODE_BATCHES]])
        targets, guesses = torch.cat([targets for _, targets in data[:MODE_BATCHES]]), logits.argmax(1)
        parts: list[float] = []
        for each in range(CLASSES):
            both = int(((guesses == each) & (targets == each)).sum())
            parts.append(both / int(((guesses == each) | (targets == each)).sum()))
        found.append((float(logits.square().mean()), sum(parts) / CLASSES))
    return dict(zip(("val_mean", "val_jaccard"), (one - other for other, one in zip(*found, strict=True)), strict=True))


def _many() -> Any:
    return models.training(80, batch_size=4), models.validation(56, batch_size=4)


def test_metrics_that_add_in_place_have_the_modes_of_the_first_batches(tmp_path: Path) -> None:
    brute = Brute(modes, 56)
    run(Normed, tmp_path, brute, data=_many, val_check_interval=5, directions={"val_mean": "min"})
    assert len(brute.batches) > MODE_BATCHES
    for name, sign in (("val_mean", 1.0), ("val_jaccard", -1.0)):
        expected = [sign * each[name] for each in brute.training]
        assert all(expected)
        assert drawn(tmp_path, f"gap/mode/{name}") == pytest.approx(expected, rel=1e-4, abs=1e-6)


class DropsLater(Small):
    """Its dropout is switched on in the third epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))

    @override
    def on_train_epoch_start(self) -> None:
        self.net[2].train(self.current_epoch >= 2)


def test_the_modes_are_compared_anew_when_they_may_differ(tmp_path: Path) -> None:
    brute = Brute(lambda module, data: {"val_loss": mean_loss(module, data)})
    run(DropsLater, tmp_path, brute, max_epochs=4, val_check_interval=1.0)
    found = drawn(tmp_path, "gap/mode/val_loss")
    assert [each != 0 for each in found] == [False, False, True, True]
