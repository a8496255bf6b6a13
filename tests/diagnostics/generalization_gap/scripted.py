"""A module that logs given numbers, others for training data than for validation data."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from lightning_diagnostics import GeneralizationGapMonitor
from tests import helpers

Curve = Sequence[float | None]

SAMPLES, BATCH = 48, 4


class Scripted(LightningModule):
    """Logs the numbers of each epoch, a little more for one batch than for another.

    Args:
        curves: Of each metric those of validation and of training; None is not logged.
    """

    def __init__(self, curves: Mapping[str, tuple[Curve, Curve]]) -> None:
        super().__init__()
        self.layer, self.curves = nn.Linear(1, 1), curves

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch[0]).square().mean()

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        is_training = bool(batch[0][0, 0] > 0)
        for name, both in self.curves.items():
            number = both[is_training][self.current_epoch]
            if number is not None:
                self.log(name, number * (1 + 0.001 * (-1) ** batch_idx))

    @override
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(
    curves: Mapping[str, tuple[Curve, Curve]], *callbacks: Any, more: Mapping[str, Any] | None = None, **settings: Any
) -> GeneralizationGapMonitor:
    """Train as many epochs as there are numbers, with a monitor; gives it.

    Args:
        curves: As for `Scripted`.
        *callbacks: To train with.
        more: Arguments of the monitor.
        **settings: Of the Trainer.
    """
    monitor = GeneralizationGapMonitor(strict=True, **(more or {}))
    epochs = len(next(iter(curves.values()))[0])
    training, validation = (TensorDataset(torch.full((SAMPLES, 1), sign)) for sign in (1.0, -1.0))
    loaders: list[Any] = [DataLoader(training, BATCH, shuffle=True), DataLoader(validation, BATCH)]
    run = helpers.trainer(*callbacks, monitor, **{"max_epochs": epochs, **settings})
    run.fit(Scripted(curves), *loaders)
    return monitor


def alike(*values: float | None) -> tuple[Curve, Curve]:
    """The same numbers for both."""
    return values, values


def rising(epochs: int, *, best: int = 3) -> tuple[Curve, Curve]:
    """A validation loss that is best at an epoch, and a training loss that goes on falling."""
    return [1.0 + 0.25 * abs(epoch - best) for epoch in range(epochs)], [0.875**epoch for epoch in range(epochs)]
