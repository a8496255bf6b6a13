"""Four training steps to measure against: wide, deep, convolutional, attentive."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """A basic block of ResNet-18."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        same = inside == outside and stride == 1
        self.skip = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(784, 512),
        nn.ReLU(),
        *(layer for _ in range(2) for layer in (nn.Linear(512, 512), nn.ReLU())),
        nn.Linear(512, 10),
    )


def deep50() -> nn.Module:
    return nn.Sequential(*(layer for _ in range(50) for layer in (nn.Linear(64, 64), nn.ReLU())), nn.Linear(64, 10))


def resnet18(width: int = 16) -> nn.Module:
    blocks, inside = [], width
    for stage in range(4):
        for repeat in range(2):
            outside = width * 2**stage
            blocks.append(Residual(inside, outside, 2 if stage and not repeat else 1))
            inside = outside
    stem = (nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10))


def gpt() -> nn.Module:
    block = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True, norm_first=True)
    return nn.Sequential(nn.Embedding(1000, 256), nn.TransformerEncoder(block, 6, enable_nested_tensor=False), Last())


class Last(nn.Module):
    """The prediction at the last token."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x[:, -1])


@dataclass(frozen=True)
class Workload:
    """A network and one batch for it.

    Attributes:
        network: Makes the network.
        inputs: Makes the inputs of a batch.
        steps: Training steps that take a second or so.
    """

    network: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    steps: int


WORKLOADS = {
    "MLP": Workload(mlp, lambda: torch.randn(256, 784), 150),
    "deep50": Workload(deep50, lambda: torch.randn(64, 64), 150),
    "ResNet-18": Workload(resnet18, lambda: torch.randn(32, 3, 32, 32), 30),
    "GPT": Workload(gpt, lambda: torch.randint(0, 1000, (8, 64)), 30),
}
