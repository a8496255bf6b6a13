"""What a healthy program with a validation consists of, and its data, which need no network."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_diagnostics import BatchNormGuard
from tests.diagnostics.activations.data import Batch, Classifier, Loaders, _digits
from tests.helpers import trainer

__all__ = ["Batch", "Classifier", "Data", "Loaders", "Program", "digits", "images", "split", "train"]

Data = Callable[[], tuple[Any, Any]]
"""Gives a loader to train on, and one or several to validate on."""


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
    data: Data
    epochs: int = 4
    bar: float = 0.9
    label: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Callback]] = list

    @property
    def name(self) -> str:
        """What it is called in tests and tables."""
        return self.label or self.make.__name__


def train(program: Program, seed: int, guard: BatchNormGuard) -> float:
    """Train with a guard; gives the score."""
    torch.manual_seed(seed)
    module = program.make()
    run = trainer(guard, *program.callbacks(), **{"max_epochs": program.epochs, **program.settings})
    try:
        run.fit(module, *program.data())
    finally:
        _forget_compiled()
    return float(run.callback_metrics["score"])


def _forget_compiled() -> None:
    """What was compiled here is not to blind what comes after it."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is not None and dynamo.counters["frames"]["total"]:
        torch.compiler.reset()
        dynamo.counters.clear()


@cache
def split(*, image: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs and labels to train on, and the same to validate on; pixels are between 0 and 1."""
    inputs, labels = _digits()
    inputs = inputs.view(-1, 1, 8, 8) / 16 if image else inputs / 16
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    cut = len(order) * 4 // 5
    return inputs[order[:cut]], labels[order[:cut]], inputs[order[cut:]], labels[order[cut:]]


def loaders(
    batch: int, image: bool, valid: int, by_class: bool, scale: Callable[[Tensor], Tensor] | None, rows: int
) -> Loaders:
    """Digits in batches; see `digits`."""
    inputs, labels, new, known = split(image=image)
    inputs, labels = inputs[: rows or None], labels[: rows or None]
    if scale is not None:
        inputs, new = scale(inputs), scale(new)
    if by_class:
        order = known.argsort()
        new, known = new[order], known[order]
    training = DataLoader(TensorDataset(inputs, labels), batch, shuffle=True, drop_last=True)
    return training, DataLoader(TensorDataset(new, known), valid)


def digits(
    batch: int = 64,
    *,
    image: bool = False,
    valid: int = 64,
    by_class: bool = False,
    scale: Callable[[Tensor], Tensor] | None = None,
    rows: int = 0,
) -> Data:
    """Rows of 64 pixels, or images of eight by eight; the validation sorted by class, the training cut to some rows."""
    return partial(loaders, batch, image, valid, by_class, scale, rows)


def images(batch: int = 64, **more: Any) -> Data:
    """Images of one channel and eight by eight pixels."""
    return digits(batch, image=True, **more)
