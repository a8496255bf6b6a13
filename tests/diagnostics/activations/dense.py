"""Healthy networks of plain layers: widths, depths, norms, optimizers and activations."""

import itertools
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.diagnostics.activations.data import (
    Batch,
    Classifier,
    Program,
    cancer,
    diabetes,
    digits,
    explained,
    raw_digits,
    standardised_digits,
    wine,
)

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def stack(sizes: list[int], act: Any = nn.ReLU, norm: Any = None, dropout: float = 0.0) -> nn.Sequential:
    """Linear, norm, activation, dropout; and a linear layer at the end."""

    def parts() -> Iterator[nn.Module]:
        for narrow, wide in itertools.pairwise(sizes[:-1]):
            yield nn.Linear(narrow, wide)
            if norm is not None:
                yield norm(wide)
            yield act()
            if dropout:
                yield nn.Dropout(dropout)
        yield nn.Linear(*sizes[-2:])

    return nn.Sequential(*parts())


def tiny_mlp() -> Classifier:
    return Classifier(stack([64, 16, 10]), partial(torch.optim.Adam, lr=1e-2))


def three_layers_adamw() -> Classifier:
    return Classifier(stack([64, 128, 128, 128, 10]), partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1))


def wide_and_sparse() -> Classifier:
    return Classifier(stack([64, 2048, 10]))


def two_wide_layers_adam_high_rate() -> Classifier:
    return Classifier(stack([64, 512, 512, 10]), partial(torch.optim.Adam, lr=3e-3))


def eight_plain_layers() -> Classifier:
    return Classifier(stack([64, *[64] * 8, 10]), partial(torch.optim.Adam, lr=2e-3))


def ten_plain_layers_sgd() -> Classifier:
    net = stack([64, *[96] * 10, 10])
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return Classifier(net, partial(torch.optim.SGD, lr=0.02, momentum=0.9))


def ten_plain_layers_default_init() -> Classifier:
    return Classifier(stack([64, *[128] * 10, 10]), partial(torch.optim.Adam, lr=1e-3))


def sixteen_plain_layers() -> Classifier:
    return Classifier(stack([64, *[128] * 16, 10]), partial(torch.optim.Adam, lr=1e-3))


def ten_tanh_layers() -> Classifier:
    return Classifier(stack([64, *[64] * 10, 10], act=nn.Tanh), partial(torch.optim.Adam, lr=2e-3))


def batch_norm_sgd() -> Classifier:
    return Classifier(stack([64, 128, 128, 10], norm=nn.BatchNorm1d), partial(SGD, weight_decay=5e-4))


def layer_norm_deep() -> Classifier:
    return Classifier(stack([64, *[64] * 6, 10], norm=nn.LayerNorm))


def dropout_half() -> Classifier:
    return Classifier(stack([64, 256, 256, 10], dropout=0.5))


def raw_inputs() -> Classifier:
    return Classifier(stack([64, 128, 64, 10]), partial(torch.optim.Adam, lr=1e-3))


def gelu_net() -> Classifier:
    return Classifier(stack([64, 128, 128, 10], act=nn.GELU))


def silu_net() -> Classifier:
    return Classifier(stack([64, 128, 128, 10], act=nn.SiLU), SGD)


def mish_net() -> Classifier:
    return Classifier(stack([64, 96, 96, 96, 10], act=nn.Mish, norm=nn.LayerNorm))


def elu_net() -> Classifier:
    return Classifier(stack([64, 64, 64, 10], act=nn.ELU))


def selu_net() -> Classifier:
    net = stack([64, *[64] * 6, 10], act=nn.SELU)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            nn.init.zeros_(layer.bias)
    return Classifier(net)


def prelu_net() -> Classifier:
    return Classifier(stack([64, 64, 64, 10], act=nn.PReLU))


def leaky_net() -> Classifier:
    return Classifier(stack([64, 64, 64, 64, 10], act=partial(nn.LeakyReLU, 0.1)))


def softplus_net() -> Classifier:
    return Classifier(stack([64, 64, 64, 10], act=nn.Softplus))


def tanh_xavier() -> Classifier:
    net = stack([64, 64, 64, 64, 10], act=nn.Tanh)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("tanh"))
    return Classifier(net)


def tanh_on_raw_inputs() -> Classifier:
    return Classifier(stack([64, 64, 10], act=nn.Tanh))


def sigmoid_net() -> Classifier:
    return Classifier(stack([64, 64, 64, 10], act=nn.Sigmoid), partial(torch.optim.Adam, lr=1e-2))


def dark_inputs_raw_sgd() -> Classifier:
    return Classifier(stack([64, 100, 10]), partial(torch.optim.SGD, lr=1e-2))


def tumours() -> Classifier:
    return Classifier(stack([30, 32, 16, 2]), partial(torch.optim.Adam, lr=5e-3))


def wines() -> Classifier:
    return Classifier(stack([13, 32, 3]), partial(torch.optim.Adam, lr=1e-2))


class DiabetesRegression(Classifier):
    def build(self) -> nn.Module:
        return stack([10, 32, 32, 1])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return functional.mse_loss(self(batch[0])[:, 0], batch[1])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", explained(self(batch[0])[:, 0], batch[1]))


class ReluInALoop(Classifier):
    """``F.relu`` in a loop over a list of layers."""

    def build(self) -> nn.Module:
        return nn.ModuleList([nn.Linear(64, 96), nn.Linear(96, 96), nn.Linear(96, 96), nn.Linear(96, 10)])

    def forward(self, inputs: Tensor) -> Tensor:
        *hidden, last = self.net
        for layer in hidden:
            inputs = functional.relu(layer(inputs))
        return last(inputs)


class SharedRelu(Classifier):
    """One ``nn.ReLU`` for all layers."""

    def build(self) -> nn.Module:
        self.act = nn.ReLU()
        return nn.ModuleDict({"one": nn.Linear(64, 128), "two": nn.Linear(128, 64), "three": nn.Linear(64, 10)})

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.act(self.net["one"](inputs))
        return self.net["three"](self.act(self.net["two"](hidden)))


class InPlaceCosine(Classifier):
    """In-place activations, and a rate that falls as a cosine."""

    def build(self) -> nn.Module:
        return stack([64, 128, 128, 10], act=partial(nn.ReLU, inplace=True))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class OneCycle(Classifier):
    """A rate that rises tenfold and falls again."""

    def build(self) -> nn.Module:
        return stack([64, 128, 128, 128, 10], norm=nn.BatchNorm1d)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ClampedAndSquared(Classifier):
    """A hand-written ReLU, and its square."""

    def build(self) -> nn.Module:
        return nn.ModuleList([nn.Linear(64, 128), nn.Linear(128, 128), nn.Linear(128, 10)])

    def forward(self, inputs: Tensor) -> Tensor:
        first, second, last = self.net
        hidden = first(inputs).clamp(min=0)
        hidden = torch.relu(second(hidden)).square()
        return last(hidden)


class Highway(Classifier):
    """Gates that let through what came in (Srivastava et al. 2015)."""

    def build(self) -> nn.Module:
        self.ways = nn.ModuleList(nn.Linear(64, 64) for _ in range(6))
        self.gates = nn.ModuleList(nn.Linear(64, 64) for _ in range(6))
        for gate in self.gates:
            nn.init.constant_(gate.bias, -2.0)
        return nn.Linear(64, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        for way, gate in zip(self.ways, self.gates, strict=True):
            share = torch.sigmoid(gate(inputs))
            inputs = share * functional.relu(way(inputs)) + (1 - share) * inputs
        return self.net(inputs)


class FourierFeatures(Classifier):
    """Sine and cosine of random projections, then ReLU layers."""

    def build(self) -> nn.Module:
        self.register_buffer("waves", torch.randn(64, 64) / math.sqrt(64))
        return stack([128, 64, 64, 64, 10])

    def forward(self, inputs: Tensor) -> Tensor:
        phase = inputs @ self.waves
        return self.net(torch.cat([phase.sin(), phase.cos()], dim=1))


class L1OnCode(Classifier):
    """A penalty on the size of the hidden units, which makes most of them silent most of the time."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs, labels = batch
        code = self.net[:2](inputs)
        return functional.cross_entropy(self.net[2](code), labels) + 1e-4 * code.abs().sum(1).mean()


class WeightDecayOnAll(Classifier):
    """Strong decay of weights and biases alike."""

    def build(self) -> nn.Module:
        return stack([64, 128, 128, 10])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


PROGRAMS = (
    Program(tiny_mlp, digits, 10, 0.88),
    Program(three_layers_adamw, digits, 10, 0.93),
    Program(wide_and_sparse, digits, 8, 0.95),
    Program(two_wide_layers_adam_high_rate, digits, 8, 0.95),
    Program(eight_plain_layers, digits, 25, 0.85),
    Program(ten_plain_layers_sgd, standardised_digits, 10, 0.9),
    Program(ten_plain_layers_default_init, standardised_digits, 25, 0.85),
    Program(sixteen_plain_layers, standardised_digits, 25, 0.7),
    Program(ten_tanh_layers, standardised_digits, 20, 0.75),
    Program(batch_norm_sgd, digits, 8, 0.95),
    Program(layer_norm_deep, digits, 8, 0.93),
    Program(dropout_half, digits, 10, 0.94),
    Program(raw_inputs, raw_digits, 8, 0.94),
    Program(dark_inputs_raw_sgd, raw_digits, 8, 0.9),
    Program(gelu_net, digits, 8, 0.93),
    Program(silu_net, standardised_digits, 8, 0.93),
    Program(mish_net, digits, 8, 0.93),
    Program(elu_net, digits, 8, 0.93),
    Program(selu_net, standardised_digits, 8, 0.93),
    Program(prelu_net, digits, 8, 0.92),
    Program(leaky_net, digits, 8, 0.92),
    Program(softplus_net, digits, 10, 0.85),
    Program(tanh_xavier, standardised_digits, 8, 0.93),
    Program(tanh_on_raw_inputs, raw_digits, 8, 0.9),
    Program(sigmoid_net, standardised_digits, 10, 0.9),
    Program(tumours, cancer, 15, 0.93),
    Program(wines, wine, 20, 0.9),
    Program(DiabetesRegression, diabetes, 15, 0.4),
    Program(ReluInALoop, digits, 8, 0.92),
    Program(SharedRelu, digits, 8, 0.92),
    Program(InPlaceCosine, digits, 8, 0.93),
    Program(OneCycle, digits, 8, 0.94),
    Program(ClampedAndSquared, digits, 8, 0.93),
    Program(Highway, digits, 8, 0.92),
    Program(FourierFeatures, digits, 12, 0.85),
    Program(L1OnCode, digits, 10, 0.92),
    Program(WeightDecayOnAll, digits, 8, 0.93),
)
