"""The numbers of a pass are those of plain torch over the same samples, in what is published and in what is drawn."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score, MulticlassPrecision
from typing_extensions import override

from lightning_diagnostics import statistics
from tests.diagnostics.generalization_gap import models
from tests.diagnostics.generalization_gap.brute import Brute, drawn, everything, mean_loss, run, scores, share
from tests.diagnostics.generalization_gap.models import CLASSES, Batch, Samples, Small, training, validation

# What is logged in the step.


class Everything(Small):
    """Logs in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro")
        self.called = MulticlassAccuracy(CLASSES, average="micro", top_k=2)
        self.ranking = MulticlassAUROC(CLASSES)
        kinds = {"val_precision": MulticlassPrecision(CLASSES), "val_f1": MulticlassF1Score(CLASSES)}
        self.several = MetricCollection(kinds)  # pyright: ignore[reportArgumentType]

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        loss = functional.cross_entropy(logits, batch[1])
        self.log("val_plain", loss, batch_size=1)
        self.log("val_total", loss * len(logits), reduce_fx="sum")
        self.log("val_least", loss, reduce_fx="min")
        self.log("val_most", loss, reduce_fx=torch.max)
        self.log_dict({"val_twice": 2 * loss, "val_square": loss**2})
        self.log("val_both", loss, on_step=True, on_epoch=True)
        self.accuracy(logits, batch[1])
        self.log("val_acc", self.accuracy)
        self.log("val_called_acc", self.called(logits, batch[1]))
        self.ranking.update(logits, batch[1])
        self.log("val_auroc", self.ranking)
        self.several.update(logits, batch[1])
        self.log_dict(self.several)


LARGE = ("val_acc", "val_called_acc", "val_auroc", "val_precision", "val_f1")


@pytest.mark.parametrize(("train_pass", "samples"), [("subset", models.VALIDATION), ("full", None)])
def test_every_way_of_logging_has_a_twin(train_pass: str, samples: int | None, tmp_path: Path) -> None:
    brute = Brute(everything, samples)
    monitor = run(Everything, tmp_path, brute, train_pass=train_pass)
    count = samples or models.TRAINING
    for name in brute.training[0]:
        scale = models.VALIDATION / count if name == "val_total" else 1.0  # of as many samples as the validation has
        assert brute.agrees(name, scale=scale, large=name in LARGE) == 4
    assert [finding for finding in monitor.findings if finding.code == "GAP901"] == []
    assert drawn(tmp_path, "gap/training_samples") == [count] * 4
    assert drawn(tmp_path, "gap/validation_samples") == [models.VALIDATION] * 4
    assert [len(inputs) for inputs, _ in brute.batches][-1] != models.BATCH  # a smaller one at the end


def test_a_full_pass_is_over_all_samples_and_a_subset_over_a_part_of_them(tmp_path: Path) -> None:
    own = Samples(models.TRAINING)
    whole = Brute(lambda module, data: {"val_loss": mean_loss(module, data)}, None)
    whole.expected = lambda module, data: {
        "val_loss": mean_loss(module, data if sum(len(each[1]) for each in data) < 43 else [(own.inputs, own.targets)])
    }
    run(Small, tmp_path / "full", whole, train_pass="full")
    assert whole.agrees("val_loss") == 4
    part = Brute(lambda module, data: {"val_loss": mean_loss(module, data)})
    run(Small, tmp_path / "subset", part)
    rows = torch.cat([inputs for inputs, _ in part.batches])
    numbers = [int((own.inputs == row).all(1).nonzero()) for row in rows]
    assert len(set(numbers)) == models.VALIDATION
    assert numbers != sorted(numbers)


def test_the_precision_is_that_of_the_run(tmp_path: Path) -> None:
    def expected(module: Any, data: list[Any]) -> dict[str, float]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return {"val_loss": mean_loss(module, data)}

    brute = Brute(expected)
    run(Small, tmp_path, brute, precision="bf16-mixed")
    assert brute.agrees("val_loss") == 4
    module = Small()
    single, half = mean_loss(module, brute.batches), expected(module, brute.batches)["val_loss"]
    assert abs(single - half) > 1e-5 * single  # the test could tell


# The two modes.


class Normed(Small):
    """Batch norm alone tells its modes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.net[3] = nn.Identity()


class Linear(Small):
    """The same in both modes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(models.FEATURES, CLASSES))


def in_both_modes(module: Any, data: list[Any]) -> dict[str, float]:
    """How much worse evaluation mode is on the first eight batches."""
    first = data[:8]
    evaluated = mean_loss(module, first)
    statistics_before = [each.clone() for each in module.buffers()]
    module.net.train()
    trained = mean_loss(module, first)
    module.net.eval()
    for each, old in zip(module.buffers(), statistics_before, strict=True):
        each.copy_(old)
    return {"more": evaluated - trained}


@pytest.mark.parametrize("size", [8, 2])
def test_the_part_of_the_mode_is_of_the_first_eight_batches(size: int, tmp_path: Path) -> None:
    brute = Brute(in_both_modes)
    run(Normed, tmp_path, brute, data=lambda: (training(), validation(batch_size=size)), inference_mode=False)
    assert drawn(tmp_path, "gap/mode/val_loss") == pytest.approx([each["more"] for each in brute.training], rel=1e-4)
    assert all(abs(each["more"]) > 1e-3 for each in brute.training)
    assert len(brute.batches) == math.ceil(models.VALIDATION / size)


def test_without_modules_that_know_modes_there_is_no_such_part(tmp_path: Path) -> None:
    run(Linear, tmp_path, Brute(in_both_modes), inference_mode=False)
    assert drawn(tmp_path, "gap/mode/val_loss") == [0.0] * 4


def test_dropout_and_norm_are_restored_between_the_modes(tmp_path: Path) -> None:
    brute = Brute(lambda module, data: {"val_loss": mean_loss(module, data)})
    run(Small, tmp_path, brute)
    assert brute.agrees("val_loss") == 4
    assert len(drawn(tmp_path, "gap/mode/val_loss")) == 4


# Bands.


class Shares(Small):
    """Logs an accuracy by batch."""

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        self.log("val_acc", (logits.argmax(1) == batch[1]).float().mean())


def test_bands_are_those_of_the_batches(tmp_path: Path) -> None:
    bands: list[tuple[float, float]] = []
    shares: list[tuple[float, float]] = []

    class Bands(Brute):
        @override
        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            super().on_validation_epoch_end(trainer, pl_module)
            if trainer.sanity_checking:
                return
            val: Any = list(trainer.val_dataloaders)  # pyright: ignore[reportArgumentType]
            parts = [[(loss, len(targets)) for _, targets, loss in scores(pl_module, d)] for d in (val, self.batches)]
            one, other = ([list(column) for column in zip(*part, strict=True)] for part in parts)
            bands.append(statistics.mean_difference_interval((one[0], one[1]), (other[0], other[1]))[1:])
            right = [round(share(pl_module, data) * models.VALIDATION) for data in (self.batches, val)]
            count = models.VALIDATION
            shares.append(statistics.accuracy_difference_interval(right[0], count, right[1], count))

    brute = Bands(lambda module, data: {"val_loss": mean_loss(module, data), "val_acc": share(module, data)})
    run(Shares, tmp_path, brute, data=lambda: (training(), validation(batch_size=2)))
    assert brute.agrees("val_loss") == brute.agrees("val_acc", large=True) == 4
    for end, name in enumerate(("low", "high")):
        assert drawn(tmp_path, f"gap/{name}/val_loss") == pytest.approx([band[end] for band in bands], rel=1e-4)
        assert drawn(tmp_path, f"gap/{name}/val_acc") == pytest.approx([band[end] for band in shares], rel=1e-4)


def test_of_few_batches_there_is_no_band(tmp_path: Path) -> None:
    run(Small, tmp_path, Brute(lambda module, data: {"val_loss": 0.0}))
    assert drawn(tmp_path, "gap/val_loss") != []
    assert drawn(tmp_path, "gap/low/val_loss") == []


# What is written.


def test_the_event_file_has_what_is_published_at_the_steps_of_the_users_own_curve(tmp_path: Path) -> None:
    brute = Brute(lambda module, data: {"val_loss": mean_loss(module, data)})
    logger = TensorBoardLogger(tmp_path, name="tensorboard", version=0)
    run(Small, tmp_path, brute, logger=logger)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "version_0"), size_guidance={"scalars": 0}).Reload()
    steps = [each.step for each in events.Scalars("val_loss")]
    assert len(steps) == 4
    for tag in ("gap/val_loss", "gap/training/val_loss"):
        assert [each.step for each in events.Scalars(tag)] == steps
        assert [each.value for each in events.Scalars(tag)] == pytest.approx([p[tag] for p in brute.published])
    values = [each.value for each in events.Scalars("gap/validation/val_loss")]
    assert values == pytest.approx([each.value for each in events.Scalars("val_loss")])
    changes = [each.value for each in events.Scalars("gap/training_change/val_loss")]
    twins = [each["val_loss"] for each in brute.training]
    assert changes == pytest.approx([now - before for before, now in itertools.pairwise(twins)], abs=1e-6)
