"""Healthy networks of plain layers and convolutions: optimizers, momenta, sizes of batches, places of the norms."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.diagnostics.activations import images as convolutions
from tests.diagnostics.activations.data import characters_of_two_modules
from tests.diagnostics.batch_norm.data import Batch, Classifier, Data, Program, digits, images

FAST = partial(torch.optim.SGD, lr=0.5, momentum=0.9)
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=1e-2)
ADAMW = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.05)


def mlp(momentum: float | None = 0.1, *, before: bool = True, wide: int = 96, **more: Any) -> nn.Sequential:
    """Three layers with batch norm before the activation, or after it."""

    def block(narrow: int) -> list[nn.Module]:
        norm = nn.BatchNorm1d(wide, momentum=momentum, **more)
        return [nn.Linear(narrow, wide), *((norm, nn.ReLU()) if before else (nn.ReLU(), norm))]

    return nn.Sequential(*block(64), *block(wide), nn.Linear(wide, 10))


def cnn(momentum: float | None = 0.1, *, before: bool = True, wide: int = 16) -> nn.Sequential:
    """Three convolutions with batch norm before the activation, or after it."""

    def block(narrow: int, wide: int, stride: int) -> list[nn.Module]:
        norm = nn.BatchNorm2d(wide, momentum=momentum)
        conv = nn.Conv2d(narrow, wide, 3, stride, 1, bias=False)
        return [conv, *((norm, nn.ReLU()) if before else (nn.ReLU(), norm))]

    body = [*block(1, wide, 1), *block(wide, 2 * wide, 2), *block(2 * wide, 2 * wide, 2)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * wide, 10))


def mobile(momentum: float = 0.01) -> nn.Sequential:
    """Separable convolutions, with the momentum that MobileNet has."""

    def block(narrow: int, wide: int, stride: int) -> list[nn.Module]:
        depthwise = nn.Conv2d(narrow, narrow, 3, stride, 1, groups=narrow, bias=False)
        parts = [(depthwise, narrow), (nn.Conv2d(narrow, wide, 1, bias=False), wide)]
        return [
            each for conv, size in parts for each in (conv, nn.BatchNorm2d(size, momentum=momentum), nn.Hardswish())
        ]

    stem = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16, momentum=momentum), nn.Hardswish()]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)]
    return nn.Sequential(*stem, *block(16, 32, 2), *block(32, 48, 2), *end)


class RareLetters(Classifier):
    """Counts of letters, most of which are in few stretches of text, go into a batch norm."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(128), nn.Linear(128, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(functional.one_hot(inputs, 128).sum(1).float())


class MostlyConstant(Classifier):
    """Three quarters of the channels that go into a batch norm are the same for every sample, and always zero."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(256), nn.Linear(256, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 10))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(functional.pad(inputs, (0, 192)))


class SmallInputs(Classifier):
    """What goes into the first norm has a variance of a ten-thousandth."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(64), mlp())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs * 0.02)


class RarelyActive(Classifier):
    """Channels behind a ReLU that is on for few inputs go into a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(64, 128)
        nn.init.normal_(self.inward.weight, std=0.3)
        nn.init.constant_(self.inward.bias, -2.0)
        self.norm = nn.BatchNorm1d(128)
        self.head = nn.Linear(128, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.norm(torch.relu(self.inward(inputs))))


class InputNorm(Classifier):
    """Batch norm is the first layer: pixels of the border, which are never on, go into it too."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(64, affine=False), mlp())


class InstanceNorms(Classifier):
    """Instance norm, one with running statistics and one without."""

    def __init__(self, *, track: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.InstanceNorm2d(16, track_running_stats=track, affine=True)),
            *(nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1)),
            *(nn.InstanceNorm2d(32, track_running_stats=track, affine=True), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(512, 10)),
        )


class MixedNorms(Classifier):
    """Group norm, layer norm, RMS norm, local response norm and batch norm in one network."""

    def build(self) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.LocalResponseNorm(3)),
            *(nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(256, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64), nn.RMSNorm(64), nn.Linear(64, 10)),
        )


class Segmentation(Classifier):
    """A class for each pixel: whether there is a stroke nearby, from a noisy image; skips by concatenation."""

    def __init__(self) -> None:
        super().__init__()

        def block(narrow: int, wide: int, stride: int = 1) -> nn.Module:
            return nn.Sequential(nn.Conv2d(narrow, wide, 3, stride, 1), nn.BatchNorm2d(wide), nn.ReLU())

        self.down1, self.down2, self.middle = block(1, 16), block(16, 32, 2), block(32, 32)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.out = nn.Sequential(block(32, 16), nn.Conv2d(16, 2, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        first = self.down1(inputs)
        deep = self.up(self.middle(self.down2(first)))
        return self.out(torch.cat([first, deep], 1))

    def pair(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """A noisy image and the classes of its pixels."""
        return batch[0] + 0.2 * torch.randn_like(batch[0]), (batch[0][:, 0] > 0.5).long()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        noisy, classes = self.pair(batch)
        return functional.cross_entropy(self(noisy), classes)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        noisy, classes = self.pair(batch)
        self.log("score", (self(noisy).argmax(1) == classes).float().mean())


def brighter(inputs: Tensor) -> Tensor:
    """Pixels from 0 to 16, as they come."""
    return inputs * 16


def _net(label: str, make: Any, data: Data, epochs: int = 4, bar: float = 0.9, optimizer: Any = None) -> Program:
    """A network in the usual classifier."""
    return Program(lambda: Classifier(make(), optimizer), data, epochs, bar, label)


PROGRAMS = (
    _net("mlp", mlp, digits()),
    _net("mlp_sgd_0.5", mlp, digits(), 6, 0.85, FAST),
    _net("mlp_adam_0.01", mlp, digits(), 6, 0.9, ADAM),
    _net("mlp_adamw", mlp, digits(), 6, 0.9, ADAMW),
    _net("mlp_norm_after", partial(mlp, before=False), digits()),
    _net("mlp_batch_8", mlp, digits(8, valid=8), 2),
    _net("mlp_batch_16", mlp, digits(16, valid=16), 2),
    _net("mlp_batch_256", mlp, digits(256, valid=256), 12),
    _net("mlp_epochs_of_5", mlp, digits(64, rows=320), 14, 0.8),
    _net("mlp_no_affine", partial(mlp, affine=False), digits()),
    _net("mlp_cumulative", partial(mlp, None), digits(), 6),
    _net("mlp_raw_pixels", mlp, digits(scale=brighter)),
    _net("mlp_wide_momentum_0.5", partial(mlp, 0.5, wide=256), digits()),
    _net("cnn", cnn, images()),
    _net("cnn_sgd", cnn, images(), 5, 0.9, SGD),
    _net("cnn_sgd_0.5", cnn, images(), 8, 0.8, FAST),
    _net("cnn_adam_0.01", cnn, images(32), 5, 0.85, ADAM),
    _net("cnn_norm_after", partial(cnn, before=False), images()),
    _net("cnn_batch_8", cnn, images(8, valid=8), 2, 0.85),
    _net("cnn_cumulative", partial(cnn, None), images(), 6, 0.85),
    _net("cnn_momentum_0.01", partial(cnn, 0.01), images(16), 8, 0.9),
    _net("cnn_momentum_0.5", partial(cnn, 0.5), images(), 5, 0.85),
    _net("mobile", mobile, images(16), 8, 0.9),
    _net("mobile_sgd_0.5", mobile, images(16), 10, 0.8, FAST),
    _net("few_validation_rows", cnn, images(valid=16), 4, 0.7),
    Program(convolutions.ResNet, images(), 5, 0.9),
    Program(convolutions.PreActResNet, images(), 5, 0.85),
    Program(convolutions.Depthwise, images(32), 5, 0.85),
    Program(RareLetters, characters_of_two_modules, 5, 0.65),
    Program(MostlyConstant, digits(), 8, 0.85),
    Program(SmallInputs, digits(32), 4, 0.85),
    Program(RarelyActive, digits(), 5, 0.85),
    Program(InputNorm, digits()),
    Program(InstanceNorms, images(), 5, 0.8),
    Program(partial(InstanceNorms, track=True), images(), 5, 0.6, "InstanceNormsThatTrack"),
    Program(MixedNorms, images(), 5, 0.85),
    Program(Segmentation, images(), 3, 0.85),
)
