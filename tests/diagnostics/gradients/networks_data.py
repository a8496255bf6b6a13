"""What a healthy program of this sweep consists of, and how it is trained."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule

from lightning_diagnostics import GradientNormMonitor
from tests.diagnostics.activations import data as shared
from tests.diagnostics.activations.data import Batch, Classifier, Loaders, digits
from tests.helpers import trainer

__all__ = ["Batch", "Classifier", "Loaders", "Program", "digits", "reused", "train"]


@dataclass(frozen=True)
class Program:
    """A network, what it is trained on, and how.

    Attributes:
        make: Gives a LightningModule that logs a ``score`` while it is validated, the higher the better.
        data: Gives the loaders of training and validation.
        epochs: How long it is trained.
        bar: The score that a healthy one has at least.
        label: What it is called; the name of ``make`` if empty.
        settings: Further arguments of the Trainer.
        callbacks: Gives further callbacks of the Trainer.
    """

    make: Callable[[], LightningModule]
    data: Callable[[], Any] = digits
    epochs: int = 6
    bar: float = 0.85
    label: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Callback]] = list

    @property
    def name(self) -> str:
        """What it is called in tests and tables."""
        return self.label or self.make.__name__


def reused(program: shared.Program) -> Program:
    """A program of the sweep of another room."""
    return Program(program.make, program.data, program.epochs, program.bar, settings=program.settings)


def train(program: Program, seed: int, monitor: GradientNormMonitor) -> float:
    """Train with a monitor; gives the score."""
    torch.manual_seed(seed)
    module = program.make()
    epochs = program.epochs
    quiet = {"max_epochs": epochs, "check_val_every_n_epoch": epochs, "num_sanity_val_steps": 0}
    run = trainer(monitor, *program.callbacks(), **{**quiet, **program.settings})
    run.fit(module, *program.data())
    return float(run.callback_metrics["score"])
