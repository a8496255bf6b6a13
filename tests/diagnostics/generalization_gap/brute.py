"""A pass by hand, in plain torch, beside that of a monitor."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from lightning_diagnostics import GeneralizationGapMonitor
from lightning_diagnostics.diagnostics.generalization_gap.data import find
from tests.diagnostics.generalization_gap import models
from tests.diagnostics.generalization_gap.models import CLASSES

Expected = Callable[[Any, list[Any]], dict[str, float]]


def scores(module: Any, data: list[Any]) -> list[tuple[Tensor, Tensor, float]]:
    """Logits, targets and loss of each batch, in the mode that the module is in."""
    with torch.no_grad():
        found = [(module.net(inputs), targets) for inputs, targets in data]
    return [(logits, targets, float(functional.cross_entropy(logits, targets))) for logits, targets in found]


def mean_loss(module: Any, data: list[Any]) -> float:
    """Of samples, not of batches."""
    found = scores(module, data)
    return sum(loss * len(targets) for _, targets, loss in found) / sum(len(targets) for _, targets, _ in found)


def share(module: Any, data: list[Any], top: int = 1) -> float:
    """Of samples whose class is among the first."""
    hits = [(logits.topk(top).indices == targets[:, None]).any(1) for logits, targets, _ in scores(module, data)]
    return float(torch.cat(hits).double().mean())


class Brute(Callback):
    """Scores the same samples at the end of each validation, by hand.

    Args:
        expected: Gives the numbers of the module on batches.
        samples: How many training samples; None for all.
        loader: Of validation.
    """

    def __init__(self, expected: Expected, samples: int | None = models.VALIDATION, *, loader: int = 0) -> None:
        self.expected, self.samples, self.loader = expected, samples, loader
        self.training: list[dict[str, float]] = []
        self.validation: list[dict[str, float]] = []
        self.published: list[dict[str, float]] = []
        self.batches: list[Any] = []

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        loaders: Any = trainer.val_dataloaders
        own = loaders[self.loader] if isinstance(loaders, list) else loaders
        found = find(trainer, pl_module, batch_size=own.batch_size)
        state = torch.get_rng_state()
        self.batches = list(found.batches(self.samples))
        self.training.append(self.expected(pl_module, self.batches))
        self.validation.append(self.expected(pl_module, list(own)))
        torch.set_rng_state(state)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.published.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def agrees(self, name: str, expected: str = "", *, scale: float = 1.0, large: bool = False) -> int:
        """Check the twin and the gap of a metric at every validation; gives how many there were."""
        expected = expected or name
        for one, other, published in zip(self.training, self.validation, self.published, strict=True):
            train, val = one[expected] * scale, other[expected]
            assert published[name] == pytest.approx(val, rel=1e-5), "this test's own numbers"
            assert published[f"gap/training/{name}"] == pytest.approx(train, rel=1e-5)
            gap = train - val if large else val - train
            assert published[f"gap/{name}"] == pytest.approx(gap, rel=1e-5, abs=1e-5)
        return len(self.published)


def run(make: Callable[[], LightningModule], folder: Path, brute: Brute, **settings: Any) -> GeneralizationGapMonitor:
    """Fit with a monitor; gives it."""
    more = {name: settings.pop(name) for name in ("train_pass", "directions") if name in settings}
    monitor = GeneralizationGapMonitor(strict=True, **more)
    models.run(make, folder, monitor, brute, **{"val_check_interval": 3, **settings})
    return monitor


def drawn(folder: Path, name: str) -> list[float]:
    """What was written under a name."""
    with (folder / "csv" / "version_0" / "metrics.csv").open(encoding="utf-8", newline="") as lines:
        return [float(row[name]) for row in csv.DictReader(lines) if row.get(name)]


def everything(module: Any, data: list[Any]) -> dict[str, float]:
    """The numbers of `Everything`."""
    found = scores(module, data)
    losses = [loss for *_, loss in found]
    sizes = [len(targets) for _, targets, _ in found]
    logits, targets = torch.cat([one for one, *_ in found]), torch.cat([one for _, one, _ in found])
    guesses, count = logits.argmax(1), sum(sizes)
    precisions, f1s, areas = [], [], []
    for each in range(CLASSES):
        right = int(((guesses == each) & (targets == each)).sum())
        guessed, there = int((guesses == each).sum()), int((targets == each).sum())
        precisions.append(right / guessed if guessed else 0.0)
        f1s.append(2 * right / (guessed + there) if guessed + there else 0.0)
        odds = logits.softmax(1)[:, each]
        pairs = odds[targets == each][:, None] - odds[targets != each][None]
        areas.append(float(((pairs > 0).double() + 0.5 * (pairs == 0).double()).mean()))
    tops = [share(module, [batch], top=2) for batch in data]

    def mean(values: list[float]) -> float:
        return sum(value * size for value, size in zip(values, sizes, strict=True)) / count

    return {
        "val_loss": mean(losses),
        "val_plain": sum(losses) / len(losses),
        "val_total": mean(losses) * count,
        "val_least": min(losses),
        "val_most": max(losses),
        "val_twice": 2 * mean(losses),
        "val_square": mean([loss**2 for loss in losses]),
        "val_both": mean(losses),
        "val_acc": float((guesses == targets).double().mean()),
        "val_called_acc": mean(tops),
        "val_auroc": sum(areas) / CLASSES,
        "val_precision": sum(precisions) / CLASSES,
        "val_f1": sum(f1s) / CLASSES,
    }
