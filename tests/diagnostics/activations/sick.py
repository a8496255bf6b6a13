"""Networks on digits that are sick by one realistic mistake each, and their repaired twins."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.diagnostics.activations.data import (
    Batch,
    Classifier,
    Loaders,
    Program,
    digits,
    images,
    standardised_digits,
)
from tests.diagnostics.activations.dense import stack


class Patient(Classifier):
    """A classifier with a mistake in it, or without."""

    def __init__(self, *, sick: bool) -> None:
        self.__dict__["sick"] = sick
        super().__init__()
        self.spoil()

    @torch.no_grad()
    def spoil(self) -> None:
        """Make the mistake, if it is one of the weights."""


# Dead units.


class RateTooLarge(Patient):
    """A learning rate a hundred times too large."""

    def build(self) -> nn.Module:
        return stack([64, 128, 128, 10])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=10.0 if self.sick else 0.1)


class NegativeBias(Patient):
    """The bias of one convolution is filled with the wrong constant."""

    def build(self) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)),
        )

    def spoil(self) -> None:
        if self.sick:
            nn.init.constant_(self.net[3].bias, -5.0)


class Branch(nn.Module):
    """A residual block whose activations are calls."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.bn1(self.conv1(inputs)))
        return torch.relu(inputs + self.bn2(self.conv2(hidden)))


class DeadBranch(Patient):
    """The norm in a residual branch begins far below zero; the network learns around it."""

    def build(self) -> nn.Module:
        body = [nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), Branch(16), Branch(16)]
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

    def spoil(self) -> None:
        if self.sick:
            nn.init.constant_(self.net[4].bn1.bias, -12.0)


class DeadFeedForward(Patient):
    """The first layer of a transformer's feed-forward is never on, which the residual stream hides."""

    def build(self) -> nn.Module:
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 10)
        self.places = nn.Parameter(torch.randn(1, 8, 32) / 10)
        return nn.ModuleList(nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True) for _ in range(2))

    def spoil(self) -> None:
        if self.sick:
            nn.init.constant_(self.net[1].linear1.bias, -12.0)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.embed(inputs.view(-1, 8, 8)) + self.places
        for layer in self.net:
            tokens = layer(tokens)
        return self.head(tokens.mean(1))


# Other illnesses of units.


class SaturatedTanh(Patient):
    """Weights drawn from a standard normal, whatever the width."""

    def build(self) -> nn.Module:
        return stack([64, 128, 128, 10], act=nn.Tanh)

    def spoil(self) -> None:
        if self.sick:
            nn.init.normal_(self.net[2].weight, std=5.0)


class RisingRate(Patient):
    """A rate that grows in every step and is never taken back."""

    def build(self) -> nn.Module:
        return stack([64, 128, 128, 10])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9 if self.sick else 0.0)
        growth = 1.01 if self.sick else 1.0
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, growth)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class PenaltyTooStrong(Patient):
    """A penalty on the activations that makes code sparse, a hundred times too strong: units fall silent for good."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        code = self.net[:2](batch[0])
        penalty = code.sum(1).mean()
        return functional.cross_entropy(self.net[2](code), batch[1]) + (0.1 if self.sick else 0.001) * penalty

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


# Scale over depth.


class TinyWeights(Patient):
    """``std=0.01`` for all, as in papers of 2012, in a net of eight layers."""

    def build(self) -> nn.Module:
        return stack([64, *[64] * 8, 10])

    def spoil(self) -> None:
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01 if self.sick else math.sqrt(2 / 64))
                nn.init.zeros_(layer.bias)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class TinyWeightsAdam(TinyWeights):
    """The same; Adam moves the biases, and units die on top of it."""

    def configure_optimizers(self) -> Any:
        return self.adam(self.parameters())


class HugeWeights(TinyWeightsAdam):
    """A standard normal for all."""

    def spoil(self) -> None:
        super().spoil()
        for layer in self.net:
            if self.sick and isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight)


class TinyWeightsGelu(TinyWeights):
    """The same with an activation under which no unit dies."""

    def build(self) -> nn.Module:
        return stack([64, *[64] * 8, 10], act=nn.GELU)


class TinyWeightsTanh(TinyWeights):
    """The same with tanh, which is the identity for signals that small."""

    def build(self) -> nn.Module:
        return stack([64, *[64] * 8, 10], act=nn.Tanh)


# Numbers that are not finite.


class LogOfZero(Patient):
    """The logarithm of a chance that is zero, since softmax and logarithm are taken apart, at a low temperature."""

    def build(self) -> nn.Module:
        return stack([64, 64, 10])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self(batch[0]) / 0.01
        chances = torch.log(logits.softmax(1)) if self.sick else logits.log_softmax(1)
        return -(functional.one_hot(batch[1], 10) * chances).sum(1).mean()


class ExpOverflows(Patient):
    """A rate is the exponential of an output that nothing bounds."""

    def build(self) -> nn.Module:
        return stack([64, 64, 1])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        log_rate = self(batch[0])[:, 0]
        if not self.sick:
            log_rate = log_rate.clamp(max=4)
        return (log_rate.exp() - batch[1] * log_rate).mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        rate = self(batch[0])[:, 0].clamp(max=4).exp()
        self.log("score", (rate - batch[1]).square().mean().neg())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0 if self.sick else 1e-4)


class NanInBatch(Patient):
    """One pixel of one image of one batch is missing."""

    at = 30

    def build(self) -> nn.Module:
        return stack([64, 64, 64, 10])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs, labels = batch
        if self.sick and self.global_step == self.at:
            inputs = inputs.clone()
            inputs[3, 5] = float("nan")
        return super().training_step([inputs, labels], batch_idx)


class BrokenWeights(NanInBatch):
    """The same in a batch that is not looked at: the weights are NaN from then on."""

    at = 31


@dataclass(frozen=True)
class Case:
    """A sick network and what is to be found.

    Attributes:
        make: The network, with ``sick=True`` or without.
        code: Of the finding.
        where: The layers that it may name.
        data: What it is trained on.
        epochs: How long.
        bar: The score of the twin at the least.
        others: Codes that follow from it elsewhere.
    """

    make: Callable[..., Patient]
    code: str
    where: tuple[str, ...]
    data: Callable[[], Loaders]
    epochs: int
    bar: float
    others: frozenset[str] = field(default_factory=frozenset)

    def program(self, *, sick: bool) -> Program:
        """As the sweep trains it."""
        return Program(lambda: self.make(sick=sick), self.data, self.epochs, self.bar)

    def __str__(self) -> str:
        return self.make.__name__


CASES = (
    Case(RateTooLarge, "ACT101", ("net.1", "net.3"), digits, 6, 0.8),
    Case(NegativeBias, "ACT101", ("net.4",), images, 6, 0.9),
    Case(DeadBranch, "ACT101", ("net.4/relu",), images, 6, 0.9),
    Case(DeadFeedForward, "ACT101", ("net.1/relu",), digits, 6, 0.85),
    Case(PenaltyTooStrong, "ACT101", ("net.1",), digits, 20, 0.9, frozenset({"ACT102"})),
    Case(RisingRate, "ACT102", ("net.1",), digits, 13, 0.8),
    Case(SaturatedTanh, "ACT103", ("net.3",), standardised_digits, 6, 0.9),
    Case(HugeWeights, "ACT104", ("net.13", "net.15"), standardised_digits, 6, 0.9),
    Case(TinyWeights, "ACT105", ("net.7", "net.9"), standardised_digits, 6, 0.85, frozenset({"ACT101"})),
    Case(TinyWeightsAdam, "ACT105", ("net.7", "net.9"), digits, 6, 0.85, frozenset({"ACT101"})),
    Case(TinyWeightsGelu, "ACT105", ("net.7", "net.9"), standardised_digits, 6, 0.85),
    Case(TinyWeightsTanh, "ACT105", ("net.7", "net.9"), standardised_digits, 6, 0.85),
)
