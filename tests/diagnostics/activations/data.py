"""Real data that needs no network, and what a healthy program consists of."""

import inspect
import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from lightning.pytorch import LightningModule
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_diagnostics import ActivationMonitor
from tests.helpers import trainer

Batch = list[Tensor]
Loaders = tuple[DataLoader[Any], DataLoader[Any]]


@dataclass(frozen=True)
class Program:
    """A network and what it is trained on, for long enough to be healthy.

    Attributes:
        make: Gives a LightningModule that logs a ``score`` while it is validated, the higher the better.
        data: Gives the loaders of training and validation.
        epochs: How long it is trained.
        bar: The score that a healthy one has at least.
        settings: Further arguments of the Trainer.
    """

    make: Callable[[], LightningModule]
    data: Callable[[], Loaders]
    epochs: int
    bar: float
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called in tests and tables."""
        return self.make.__name__


def train(program: Program, seed: int, monitor: ActivationMonitor) -> float:
    """Train with a monitor; gives the score."""
    torch.manual_seed(seed)
    module = program.make()
    epochs = program.epochs
    quiet = {"max_epochs": epochs, "check_val_every_n_epoch": epochs, "num_sanity_val_steps": 0}
    run = trainer(monitor, **quiet, **program.settings)
    run.fit(module, *program.data())
    return float(run.callback_metrics["score"])


# Data.


def _loaders(inputs: Tensor, targets: Tensor, batch: int) -> Loaders:
    """Four fifths to train on, one to validate on, drawn once and for all."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    cut = len(order) * 4 // 5
    training, validation = (TensorDataset(inputs[part], targets[part]) for part in (order[:cut], order[cut:]))
    return DataLoader(training, batch, shuffle=True, drop_last=True), DataLoader(validation, len(validation))


@cache
def _digits() -> tuple[Tensor, Tensor]:
    images, labels = datasets.load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32), torch.tensor(labels)


def digits() -> Loaders:
    """Rows of 64 pixels between 0 and 1."""
    inputs, labels = _digits()
    return _loaders(inputs / 16, labels, 64)


def standardised_digits() -> Loaders:
    """Mean 0 and variance 1, over all pixels."""
    inputs, labels = _digits()
    return _loaders((inputs - inputs.mean()) / inputs.std(), labels, 64)


def raw_digits() -> Loaders:
    """As they come: pixels from 0 to 16."""
    return _loaders(*_digits(), 64)


def images() -> Loaders:
    """One channel of eight by eight pixels."""
    inputs, labels = _digits()
    return _loaders(inputs.view(-1, 1, 8, 8) / 16, labels, 64)


def small_batches_of_images() -> Loaders:
    """The same in batches of 32."""
    inputs, labels = _digits()
    return _loaders(inputs.view(-1, 1, 8, 8) / 16, labels, 32)


def centred_images() -> Loaders:
    """One channel of eight by eight pixels between -1 and 1."""
    inputs, labels = _digits()
    return _loaders(inputs.view(-1, 1, 8, 8) / 8 - 1, labels, 64)


def black_canvas() -> Loaders:
    """Strokes of one on a canvas of minus one, sixteen by sixteen, of which they cover a twelfth."""
    inputs, labels = _digits()
    strokes = (inputs.view(-1, 1, 8, 8) > 8).float()
    return _loaders(functional.pad(strokes, (4, 4, 4, 4)) * 2 - 1, labels, 64)


def _table(load: Callable[..., Any], batch: int) -> Loaders:
    inputs, targets = load(return_X_y=True)
    rows = torch.tensor(inputs, dtype=torch.float32)
    return _loaders((rows - rows.mean(0)) / rows.std(0), torch.tensor(targets), batch)


def cancer() -> Loaders:
    """30 measurements of 569 tumours, standardised; two classes."""
    return _table(datasets.load_breast_cancer, 32)


def wine() -> Loaders:
    """13 measurements of 178 wines, standardised; three classes."""
    return _table(datasets.load_wine, 32)


def diabetes() -> Loaders:
    """10 measurements of 442 patients; the target is standardised too."""
    inputs, targets = datasets.load_diabetes(return_X_y=True)
    rows, goal = torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32)
    return _loaders(rows / rows.std(0), (goal - goal.mean()) / goal.std(), 32)


@cache
def _characters() -> Tensor:
    text = inspect.getsource(textwrap) + inspect.getsource(json) + inspect.getsource(inspect)[:30_000]
    return torch.tensor([min(ord(letter), 127) for letter in text])


def characters() -> Loaders:
    """Stretches of 32 characters of Python's own library, and the same shifted by one."""
    codes = _characters()
    windows = codes[: len(codes) // 33 * 33].view(-1, 33)
    return _loaders(windows[:, :-1], windows[:, 1:], 64)


def characters_of_two_modules() -> Loaders:
    """Stretches of 32 characters; the target is which half of the sources they are from."""
    codes = _characters()
    windows = codes[: len(codes) // 32 * 32].view(-1, 32)
    return _loaders(windows, (torch.arange(len(windows)) >= len(windows) // 2).long(), 64)


# What most programs share.


class Classifier(LightningModule):
    """A classifier as most are written."""

    def __init__(self, net: nn.Module | None = None, optimizer: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.net = net if net is not None else self.build()
        self.optimizer = optimizer

    def build(self) -> nn.Module:
        """The network, of those that are not told."""
        return nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs, labels = batch
        loss = functional.cross_entropy(self(inputs), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        inputs, labels = batch
        self.log("score", (self(inputs).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        return (self.optimizer or self.adam)(self.parameters())

    @staticmethod
    def adam(parameters: Any) -> torch.optim.Optimizer:
        """What is used unless told otherwise."""
        return torch.optim.Adam(parameters, lr=2e-3)


def explained(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of the variance that a prediction explains."""
    return 1 - functional.mse_loss(outputs, targets) / targets.var()
