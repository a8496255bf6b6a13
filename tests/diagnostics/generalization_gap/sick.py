"""Programs with one realistic mistake each, and their repaired twins."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from tests.diagnostics.generalization_gap import networks_data as data
from tests.diagnostics.generalization_gap.networks_data import Program, Rows, of, split
from tests.diagnostics.generalization_gap.networks_kinds import Learner, adam, adamw, cnn, mlp, sgd

# Too few samples, or wrong ones.


def few(samples: int, *, wrong: float = 0.0, validation: int = 600) -> Any:
    """Loaders of a few digits to train on, some of them with a label that is drawn anew, and many to validate on."""
    (inputs, labels), (others, truth) = split(data.digits(), 0.6)
    inputs, labels = inputs[:samples], mislabelled(labels[:samples], wrong)
    return data.loaders_of((inputs, labels), (others[:validation], truth[:validation]), 20, 32)


def mislabelled(labels: Tensor, share: float) -> Tensor:
    """Labels of which a share is replaced by wrong ones."""
    wrong = torch.rand(len(labels)) < share
    return torch.where(wrong, (labels + torch.randint(1, 10, labels.shape)) % 10, labels)


def noisy_training(*, clean_validation: bool) -> Any:
    """Loaders of digits with 30 % wrong labels in training, and in validation or not."""
    training, (inputs, labels) = split(data.digits())
    ill = (training[0], mislabelled(training[1], 0.3))
    return data.loaders_of(ill, (inputs, labels if clean_validation else mislabelled(labels, 0.3)), 64, 16)


def easy_duplicates(*, ill: bool) -> Any:
    """Validation on those of the training samples that are of three easy classes, or on other samples."""
    training, validation = split(data.digits())
    inputs, labels = training
    easy = torch.isin(labels, torch.tensor([0, 4, 6]))
    return data.loaders_of(training, (inputs[easy], labels[easy]) if ill else validation, 64, 16)


# Modes.


class ForeignStatistics(nn.BatchNorm2d):
    """Keeps the running statistics of the data that another network was trained on."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=0.0)
        assert self.running_mean is not None
        assert self.running_var is not None
        nn.init.constant_(self.running_mean, 2.0)
        nn.init.constant_(self.running_var, 9.0)


def with_foreign_statistics(*, ill: bool) -> nn.Module:
    """Convolutions whose norms do not follow the data, or do."""
    net = cnn(norm=True)
    if ill:
        for index, channels in ((1, 16), (4, 32)):
            net[index] = ForeignStatistics(channels)
    return net


class Scaled(nn.Module):
    """Multiplies its input by four in training, and forgets to in evaluation, or does it always."""

    def __init__(self, *, ill: bool) -> None:
        super().__init__()
        self.ill = ill

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * 4 if self.training or not self.ill else inputs


def scaled(*, ill: bool) -> nn.Module:
    """A dense network whose classes are told apart by such a part."""
    return nn.Sequential(mlp(64, 64, 10), Scaled(ill=ill))


# Nothing is learned.


class RandomLabels(Dataset):
    """Gives each image the label of another that is drawn anew, or its own."""

    def __init__(self, rows: Rows, *, ill: bool) -> None:
        self.rows, self.ill = rows, ill

    def __len__(self) -> int:
        return len(self.rows[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        other = int(torch.randint(len(self), ())) if self.ill else index
        return self.rows[0][index], self.rows[1][other]


def random_labels(*, ill: bool) -> Any:
    """Loaders of such digits."""
    training, validation = split(data.digits())
    _, plain = data.loaders_of(training, validation, 64, 32)
    return DataLoader(RandomLabels(training, ill=ill), 64, shuffle=True, drop_last=True), plain


def dead(net: nn.Sequential, *, ill: bool) -> nn.Module:
    """A network whose last ReLU lets nothing through."""
    layer = net[-3]
    assert isinstance(layer, nn.Linear)
    if ill:
        nn.init.constant_(layer.bias, -100.0)
    return net


def rare_hidden(*, ill: bool) -> Any:
    """Two classes, 95 to 5, whose inputs are scaled to next to nothing, or not."""
    training, validation = split(data.rare())
    scale = 1e-6 if ill else 1.0
    return data.loaders_of((training[0] * scale, training[1]), (validation[0] * scale, validation[1]), 64, 32)


@dataclass(frozen=True)
class Case:
    """A sick program and what is to be found.

    Attributes:
        label: What it is called.
        codes: Of the findings or notes, one of which has to be there.
        where: The metrics that may be named.
        make: Gives the network, ``ill=True`` or not.
        data: Gives the loaders, ``ill=True`` or not.
        epochs: How long it is trained.
        twin_epochs: How long the twin is, if that is the mistake.
        bar: The score of the twin.
        score: Which metric that is.
        others: Codes that follow from it.
    """

    label: str
    codes: frozenset[str]
    where: frozenset[str]
    make: Callable[..., LightningModule]
    data: Callable[..., Any]
    epochs: int = 15
    twin_epochs: int = 0
    bar: float = 0.9
    score: str = "val_acc"
    others: frozenset[str] = frozenset()

    def program(self, *, sick: bool) -> Program:
        """As the sweep trains it."""
        epochs = self.epochs if sick else self.twin_epochs or self.epochs
        make, loaders = partial(self.make, ill=sick), partial(self.data, ill=sick)
        return Program(self.label, make, loaders, epochs, self.bar, self.score)

    def __str__(self) -> str:
        return self.label


def whatever(make: Callable[[], Any]) -> Callable[..., Any]:
    """What is the same for the sick one and its twin."""
    return lambda *, ill: make()


LOSS, BOTH = frozenset({"val_loss"}), frozenset({"val_loss", "val_acc"})
DIGITS, IMAGES = whatever(of(data.digits)), whatever(of(data.images))
DIGITS_OF_16 = whatever(of(data.digits, 16))
TOO_GOOD, MODES, UNDER = frozenset({"GAP102"}), frozenset({"GAP103"}), frozenset({"GAP104"})


def wide(*, ill: bool, scored: bool = True) -> Learner:
    """A wide network, for many samples with weights that decay."""
    if ill:
        return Learner(mlp(64, 256, 256, 256, 10), adam(2e-3), scored=scored)
    return Learner(mlp(64, 256, 10), adamw(3e-3, 1.0), scored=scored)


CASES = (
    Case(
        "hundred_samples",
        frozenset({"GAP101", "GAP801"}),
        LOSS,
        wide,
        lambda *, ill: few(100 if ill else 1000),
        60,
        15,
    ),
    Case(
        "hundred_samples_loss_alone",
        frozenset({"GAP101"}),
        LOSS,
        partial(wide, scored=False),
        lambda *, ill: few(100 if ill else 1000),
        60,
        15,
        0.4,
        "val_loss",
    ),
    Case(
        "wrong_labels",
        frozenset({"GAP101"}),
        LOSS,
        wide,
        lambda *, ill: few(300, wrong=0.3) if ill else few(1000),
        40,
        15,
        0.85,
        others=TOO_GOOD,
    ),
    Case(
        "diabetes_large",
        frozenset({"GAP101"}),
        LOSS,
        lambda *, ill: Learner(
            mlp(10, 256, 256, 1) if ill else mlp(10, 8, 1),
            adam(1e-3) if ill else adamw(1e-3, 0.1),
            functional.mse_loss,
            scored=False,
        ),
        whatever(of(data.diabetes, 32, 8)),
        40,
        20,
        1.0,
        "val_loss",
    ),
    Case(
        "clean_validation",
        TOO_GOOD,
        BOTH,
        whatever(lambda: Learner(mlp(64, 32, 10), adam(1e-3))),
        lambda *, ill: noisy_training(clean_validation=ill),
        10,
        bar=0.5,
    ),
    Case(
        "easy_duplicates",
        TOO_GOOD,
        BOTH,
        whatever(lambda: Learner(mlp(64, 32, 10), adam(1e-3))),
        lambda *, ill: easy_duplicates(ill=ill),
        10,
        bar=0.8,
    ),
    Case(
        "norm_that_lags",
        MODES,
        LOSS,
        lambda *, ill: Learner(cnn(norm=True, momentum=1e-4 if ill else 0.1)),
        IMAGES,
        8,
    ),
    Case(
        "foreign_statistics",
        MODES,
        LOSS,
        lambda *, ill: Learner(with_foreign_statistics(ill=ill)),
        IMAGES,
        8,
    ),
    Case("forgotten_scale", MODES, LOSS, lambda *, ill: Learner(scaled(ill=ill), sgd(0.01)), DIGITS_OF_16, 10),
    Case(
        "rate_next_to_nothing",
        UNDER,
        BOTH,
        lambda *, ill: Learner(mlp(64, 64, 10), sgd(1e-9 if ill else 0.1)),
        DIGITS,
    ),
    Case(
        "random_labels",
        UNDER,
        BOTH,
        whatever(lambda: Learner(mlp(64, 32, 10), adam(1e-3))),
        lambda *, ill: random_labels(ill=ill),
        20,
    ),
    Case(
        "dead_head",
        UNDER,
        BOTH,
        lambda *, ill: Learner(dead(mlp(64, 64, 10), ill=ill)),
        DIGITS,
    ),
    Case(
        "always_majority",
        UNDER,
        BOTH,
        whatever(lambda: Learner(mlp(20, 32, 2), sgd(0.1))),
        lambda *, ill: rare_hidden(ill=ill),
        15,
        bar=0.95,
    ),
    Case(
        "collapsed_regression",
        UNDER,
        LOSS,
        lambda *, ill: Learner(dead(mlp(10, 64, 1), ill=ill), adam(), functional.mse_loss, scored=False),
        whatever(of(data.friedman, 32, 16)),
        15,
        bar=0.1,
        score="val_loss",
    ),
)
