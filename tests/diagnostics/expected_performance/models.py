"""Runs whose validation scores are written down beforehand, and what their records must be."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from lightning_diagnostics import ExpectedValidationPerformance
from lightning_diagnostics.diagnostics.expected_performance.records import FOLDER
from lightning_diagnostics.diagnostics.expected_performance.trials import Trial
from tests import helpers

BATCHES = 3
"""Training batches in an epoch."""

VALIDATED = 8
"""Validation samples."""

BY_VALUES: dict[str, Any] = {"weights_only": True} if "weights_only" in signature(Trainer.fit).parameters else {}
"""That a checkpoint is read as plain values, where Lightning takes that as an argument."""

RISING = (0.1, 0.5, 0.3)
"""Scores of three validations, the best in the middle."""


class Scripted(LightningModule):
    """Learns next to nothing, and logs the scores that it is given, one for each validation.

    Args:
        scores: Of the validations in their order, the sanity check not counted; the last one stays.
        name: Under which name they are logged; None logs nothing.
        faults: What to call, by the name of the hook or step that calls it.
        saved: What is saved as hyperparameters.
    """

    def __init__(
        self,
        scores: Iterable[float] = RISING,
        *,
        name: str | None = "val_acc",
        faults: Mapping[str, Callable[[], object]] | None = None,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.scores, self.name, self.faults = list(scores), name, dict(faults or {})
        if saved is not None:
            self.save_hyperparameters(dict(saved))
        self.net = nn.Linear(2, 1)
        self.validations = 0

    def fault(self, place: str) -> None:
        """Call what shall be called there."""
        if place in self.faults:
            self.faults[place]()

    def setup(self, stage: str) -> None:
        self.fault("setup")

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        self.fault("training_step")
        return self.net(batch[0]).square().mean()

    @property
    def score(self) -> float:
        """Of the validation that is running."""
        return self.scores[min(self.validations, len(self.scores) - 1)]

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.fault("sanity_check" if self.trainer.sanity_checking else "validation_step")
        if self.name is not None:
            self.log(self.name, self.score + 10 * dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.validations += 1
            self.fault("on_validation_epoch_end")

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self.log("test_acc", 0.5)

    def configure_optimizers(self) -> SGD:
        self.fault("configure_optimizers")
        return SGD(self.parameters(), lr=0.01)


def rows(count: int, *, batch_size: int = 4, **more: Any) -> DataLoader[tuple[Tensor, ...]]:
    """A loader of so many samples."""
    return DataLoader(TensorDataset(torch.ones(count, 2)), batch_size=batch_size, **more)


def expected(**more: Any) -> ExpectedValidationPerformance:
    """The callback, strict, with a metric."""
    return ExpectedValidationPerformance(**{"monitor": "val_acc", "strict": True, **more})


def trainer(callback: Any, folder: Path, *callbacks: Any, **settings: Any) -> Trainer:
    """A Trainer for three epochs whose logger writes below a folder."""
    own = {"max_epochs": 3, "logger": CSVLogger(folder, name="runs"), "num_sanity_val_steps": 0}
    return helpers.trainer(*([] if callback is None else [callback]), *callbacks, **{**own, **settings})


def fit(run: Trainer, module: LightningModule, **more: Any) -> Trainer:
    """Train and validate; gives the Trainer."""
    run.fit(module, rows(4 * BATCHES), rows(VALIDATED), **more)
    return run


def files(folder: Path) -> list[Path]:
    """All records below a folder."""
    return sorted(folder.rglob(f"{FOLDER}/*.json"))


def records(folder: Path) -> list[dict[str, Any]]:
    """What stands in all records below a folder, those that were begun first in front."""
    return sorted((json.loads(file.read_text()) for file in files(folder)), key=lambda plain: plain["started"])


def record(folder: Path) -> dict[str, Any]:
    """What stands in the only record below a folder."""
    (plain,) = records(folder)
    return plain


def rounded(score: float) -> float:
    """A score as Lightning keeps it, in 32 bits."""
    return float(torch.tensor(score, dtype=torch.float32))


def trial(name: str = "a", **facts: Any) -> Trial:
    """A trial that has completed."""
    return Trial(**{"run_id": name, "metric": "val_acc", "mode": "max", "status": "completed", "score": 0.5, **facts})
