"""Real data that needs no network, split anew for every seed, and what a healthy program of this sweep consists of."""

import inspect
import json
import random
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from sklearn import datasets
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler, default_collate

from lightning_diagnostics import GeneralizationGapMonitor
from tests.helpers import trainer

Batch = list[Tensor]
Rows = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Program:
    """A network, what it is trained on, and how.

    Attributes:
        label: What it is called in tests and tables.
        make: Gives a LightningModule that logs ``score`` while it is validated.
        data: Gives the loaders of training and validation.
        epochs: How long it is trained, with a validation after each unless the settings say otherwise.
        bar: The score that a healthy one reaches: at least if it is an accuracy, else at most.
        score: The metric that says whether it has learned.
        settings: Further arguments of the Trainer.
        callbacks: Gives further callbacks of the Trainer.
    """

    label: str
    make: Callable[[], LightningModule]
    data: Callable[[], Any]
    epochs: int = 12
    bar: float = 0.9
    score: str = "val_acc"
    settings: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Callback]] = list

    @property
    def name(self) -> str:
        """What it is called in tests and tables."""
        return self.label

    def learned(self, score: float) -> bool:
        """Whether a score is that of a healthy one."""
        return score >= self.bar if "acc" in self.score else score <= self.bar


def train(program: Program, seed: int, *monitors: Callback) -> float:
    """Train with a monitor; gives the score."""
    torch.manual_seed(seed)
    random.seed(seed)
    module, loaders = program.make(), program.data()
    quiet = {"max_epochs": program.epochs, "num_sanity_val_steps": 0}
    run = trainer(*monitors, *program.callbacks(), **{**quiet, **program.settings})
    run.fit(module, *loaders)
    return float(run.callback_metrics[program.score])


def monitor(**more: Any) -> GeneralizationGapMonitor:
    """The monitor as the sweep has it: what it reads shall not hang on how fast the machine is."""
    return GeneralizationGapMonitor(strict=True, time_budget=1.0, **more)


# Rows.


@cache
def _digits() -> Rows:
    images, labels = datasets.load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)


def digits() -> Rows:
    """64 pixels between 0 and 1, of ten digits."""
    return _digits()


def images() -> Rows:
    """One channel of eight by eight pixels."""
    inputs, labels = _digits()
    return inputs.view(-1, 1, 8, 8), labels


def _table(load: Callable[..., Any]) -> Rows:
    inputs, targets = load(return_X_y=True)
    rows = torch.tensor(inputs, dtype=torch.float32)
    return (rows - rows.mean(0)) / rows.std(0), torch.tensor(targets)


@cache
def cancer() -> Rows:
    """30 measurements of 569 tumours, standardised; two classes."""
    return _table(datasets.load_breast_cancer)


def cancer_as_numbers() -> Rows:
    """The same with the classes as 0.0 and 1.0."""
    inputs, labels = cancer()
    return inputs, labels.float()


@cache
def wine() -> Rows:
    """13 measurements of 178 wines, standardised; three classes."""
    return _table(datasets.load_wine)


@cache
def diabetes() -> Rows:
    """10 measurements of 442 patients and how the disease went on, all standardised."""
    inputs, targets = _table(datasets.load_diabetes)
    return inputs, ((targets - targets.mean()) / targets.std()).float()


def raw_diabetes() -> Rows:
    """The same with the target as it comes, 25 to 346."""
    inputs, targets = diabetes()
    return inputs, targets * 77.1 + 152.1


@cache
def friedman() -> Rows:
    """A made-up function of ten numbers, with noise; the target has a standard deviation of a half."""
    inputs, targets = datasets.make_friedman1(1200, random_state=0)
    goal = torch.tensor(targets, dtype=torch.float32)
    return torch.tensor(inputs, dtype=torch.float32) * 2 - 1, (goal - goal.mean()) / goal.std() / 2


@cache
def rare() -> Rows:
    """Two made-up classes, 95 to 5, that can be told apart well."""
    inputs, labels = datasets.make_classification(
        2000, 20, n_informative=8, weights=[0.95], class_sep=1.5, flip_y=0, random_state=0
    )
    return torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels)


@cache
def rare_and_hard() -> Rows:
    """Two made-up classes, 95 to 5, of which the rare one is seldom the more likely."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4000, 10, generator=generator)
    odds = inputs[:, :4].sum(1) * 0.7 - 4.0
    return inputs, (torch.rand(4000, generator=generator) < odds.sigmoid()).long()


@cache
def _codes() -> Tensor:
    text = inspect.getsource(textwrap) + inspect.getsource(json) + inspect.getsource(inspect)[:30_000]
    return torch.tensor([min(ord(letter), 127) for letter in text])


def characters() -> Rows:
    """Stretches of 32 characters of Python's own library, and the same shifted by one."""
    codes = _codes()
    windows = codes[: len(codes) // 33 * 33].view(-1, 33)
    return windows[:, :-1], windows[:, 1:]


# Splits and loaders.


def split(rows: Rows, fraction: float = 0.8) -> tuple[Rows, Rows]:
    """Rows to train on and rows to validate on, as the seed says."""
    inputs, targets = rows
    order = torch.randperm(len(inputs))
    cut = int(len(order) * fraction)
    return (inputs[order[:cut]], targets[order[:cut]]), (inputs[order[cut:]], targets[order[cut:]])


def loaders_of(training: Rows, validation: Rows, batch: int, validation_batch: int = 16) -> Any:
    """Loaders of two sets of rows."""
    return (
        DataLoader(TensorDataset(*training), batch, shuffle=True, drop_last=True),
        DataLoader(TensorDataset(*validation), validation_batch),
    )


def of(rows: Callable[[], Rows], batch: int = 64, validation_batch: int = 32) -> Callable[[], Any]:
    """Loaders of four fifths and a fifth of some rows."""
    return lambda: loaders_of(*split(rows()), batch, validation_batch)


def validated_on(
    samples: int, batch: int, rows: Callable[[], Rows] = digits, training_batch: int = 64
) -> Callable[[], Any]:
    """Loaders with a small validation set."""

    def make() -> Any:
        training, (inputs, targets) = split(rows())
        return loaders_of(training, (inputs[:samples], targets[:samples]), training_batch, batch)

    return make


class Augmented(Dataset):
    """Images that are shifted by a pixel, or covered by noise, anew each time they are read."""

    def __init__(self, rows: Rows, how: str) -> None:
        self.rows, self.how = rows, how

    def __len__(self) -> int:
        return len(self.rows[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.rows[0][index]
        if self.how == "shifts":
            moved = torch.roll(image, (random.randint(-1, 1), random.randint(-1, 1)), (-2, -1))
        else:
            moved = image + 0.5 * torch.randn_like(image)
        return moved, self.rows[1][index]


def augmented(how: str) -> Callable[[], Any]:
    """Loaders whose training dataset draws random numbers."""

    def make() -> Any:
        training, validation = split(images())
        _, plain = loaders_of(training, validation, 64, 32)
        return DataLoader(Augmented(training, how), 64, shuffle=True, drop_last=True), plain

    return make


def noisy(samples: list[Any]) -> list[Tensor]:
    """A batch with noise on its inputs."""
    inputs, targets = default_collate(samples)
    return [inputs + 0.8 * torch.randn_like(inputs), targets]


def noisy_batches() -> Any:
    """Loaders whose collate function draws random numbers, in training alone."""
    training, validation = split(digits())
    _, plain = loaders_of(training, validation, 64, 32)
    return DataLoader(TensorDataset(*training), 64, shuffle=True, drop_last=True, collate_fn=noisy), plain


def rare_drawn_as_often() -> Any:
    """Loaders that draw each class of a rare one and a frequent one as often."""
    training, validation = split(rare())
    _, plain = loaders_of(training, validation, 64, 32)
    weights = torch.where(training[1] > 0, 19.0, 1.0)
    sampler = WeightedRandomSampler(weights.tolist(), len(weights))
    return DataLoader(TensorDataset(*training), 64, sampler=sampler, drop_last=True), plain


def two_validations() -> Any:
    """Two validation loaders: other rows, and some of those that are trained on."""
    training, validation = split(digits())
    loader, first = loaders_of(training, validation, 64, 32)
    second = DataLoader(TensorDataset(training[0][:300], training[1][:300]), 32)
    return loader, [first, second]


def three_small_validations() -> Any:
    """Three validation loaders of 120 samples each."""
    training, (inputs, labels) = split(digits())
    loader, _ = loaders_of(training, (inputs, labels), 64)
    parts = [TensorDataset(inputs[first::3], labels[first::3]) for first in range(3)]
    return loader, [DataLoader(part, 20) for part in parts]
