"""Healthy networks of convolutions: pools, norms, strides, gates, residual branches, patches."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.diagnostics.activations.data import (
    Batch,
    Classifier,
    Program,
    centred_images,
    explained,
    images,
    small_batches_of_images,
)

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


class PoolAfterRelu(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(128, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.max_pool2d(functional.relu(self.conv1(inputs)), 2)
        hidden = functional.max_pool2d(functional.relu(self.conv2(hidden)), 2)
        return self.fc2(functional.relu(self.fc1(hidden.flatten(1))))


class NormBeforeRelu(Classifier):
    """Convolution, batch norm, ReLU, pool; SGD with momentum and weight decay."""

    def build(self) -> nn.Module:
        def block(narrow: int, wide: int) -> list[nn.Module]:
            conv = nn.Conv2d(narrow, wide, 3, padding=1, bias=False)
            return [conv, nn.BatchNorm2d(wide), nn.ReLU(inplace=True), nn.MaxPool2d(2)]

        return nn.Sequential(*block(1, 16), *block(16, 32), nn.Flatten(), nn.Linear(128, 10))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)


class GroupNormStrided(Classifier):
    def build(self) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GroupNorm(4, 32), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.GroupNorm(4, 32), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
        )


class Depthwise(Classifier):
    """Separable convolutions with ReLU6, as MobileNet has them."""

    def build(self) -> nn.Module:
        def block(narrow: int, wide: int, stride: int) -> list[nn.Module]:
            return [
                nn.Conv2d(narrow, narrow, 3, stride, 1, groups=narrow, bias=False),
                *(nn.BatchNorm2d(narrow), nn.ReLU6(inplace=True)),
                nn.Conv2d(narrow, wide, 1, bias=False),
                *(nn.BatchNorm2d(wide), nn.ReLU6(inplace=True)),
            ]

        stem = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True)]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)]
        return nn.Sequential(*stem, *block(16, 32, 2), *block(32, 48, 2), *head)


class HardswishNet(Classifier):
    """Strided convolutions with Hardswish, as MobileNetV3 has them."""

    def build(self) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Hardswish()),
            *(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.Hardswish()),
            *(nn.Flatten(), nn.Linear(512, 64), nn.Hardswish(), nn.Linear(64, 10)),
        )


class SqueezeAndExcite(nn.Module):
    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, reduced, 1), nn.Conv2d(reduced, channels, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        pooled = inputs.mean((2, 3), keepdim=True)
        return inputs * torch.sigmoid(self.expand(torch.relu(self.reduce(pooled))))


class ChannelAttention(Classifier):
    """The squeeze-and-excite of most repositories: linear layers, a view, and ``expand_as``."""

    def build(self) -> nn.Module:
        self.conv = nn.Conv2d(1, 16, 3, padding=1)
        self.fc = nn.Sequential(nn.Linear(16, 4), nn.ReLU(inplace=True), nn.Linear(4, 16), nn.Sigmoid())
        return nn.Linear(256, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.relu(self.conv(inputs))
        scale = self.fc(hidden.mean((2, 3))).view(len(inputs), 16, 1, 1)
        return self.net(functional.max_pool2d(hidden * scale.expand_as(hidden), 2).flatten(1))


class Excited(Classifier):
    """Squeeze-and-excite blocks with narrow middles."""

    def build(self) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), SqueezeAndExcite(16, 4)),
            *(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), SqueezeAndExcite(32, 8)),
            *(nn.Conv2d(32, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), SqueezeAndExcite(32, 2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
        )


class PostActivation(nn.Module):
    def __init__(self, narrow: int, wide: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(narrow, wide, 3, stride, 1, bias=False), nn.BatchNorm2d(wide)
        self.conv2, self.bn2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False), nn.BatchNorm2d(wide)
        self.shortcut = nn.Conv2d(narrow, wide, 1, stride) if stride > 1 or narrow != wide else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.bn1(self.conv1(inputs)))
        return torch.relu(self.bn2(self.conv2(hidden)) + self.shortcut(inputs))


class ResNet(Classifier):
    def build(self) -> nn.Module:
        blocks = [PostActivation(1, 16), PostActivation(16, 16), PostActivation(16, 32, 2), PostActivation(32, 32)]
        return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class PreActivation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.conv1(functional.relu(self.bn1(inputs)))
        return inputs + self.conv2(functional.relu(self.bn2(hidden)))


class PreActResNet(Classifier):
    def build(self) -> nn.Module:
        blocks = [PreActivation(16) for _ in range(5)]
        end = [nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
        return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), *blocks, *end)


class ScaledBranch(nn.Module):
    """Without a norm: the branch starts at zero and has a scale of its own (Zhang et al. 2019)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.zeros_(self.conv2.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.relu(inputs + self.scale * self.conv2(torch.relu(self.conv1(inputs))))


class NormFreeResNet(Classifier):
    def build(self) -> nn.Module:
        blocks = [ScaledBranch(16) for _ in range(6)]
        stem = nn.Conv2d(1, 16, 3, 2, 1)
        return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


class Inverted(nn.Module):
    """A ConvNeXt block: depthwise convolution, norm, and an MLP over channels that lie last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.act = nn.GELU()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-2))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.depthwise(inputs).permute(0, 2, 3, 1))
        hidden = self.gamma * self.narrow(self.act(self.wide(hidden)))
        return inputs + hidden.permute(0, 3, 1, 2)


class ConvNeXt(Classifier):
    def build(self) -> nn.Module:
        body = [nn.Conv2d(1, 24, 2, 2), Inverted(24), Inverted(24), Inverted(24)]
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(24), nn.Linear(24, 10))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=4e-3, weight_decay=0.05)


class UNet(Classifier):
    """Takes noise off images; skips from the way down to the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, 2, 1)
        self.middle = nn.Conv2d(32, 32, 3, padding=1)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.out = nn.Conv2d(32, 1, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        first = functional.relu(self.down1(inputs))
        second = functional.relu(self.down2(first))
        second = functional.relu(self.middle(second))
        return self.out(torch.cat([first, functional.relu(self.up(second))], dim=1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        noisy = batch[0] + 0.3 * torch.randn_like(batch[0])
        return functional.mse_loss(self(noisy), batch[0])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        noisy = batch[0] + 0.3 * torch.randn_like(batch[0])
        self.log("score", explained(self(noisy), batch[0]))


class VisionTransformer(Classifier):
    """Patches of two by two pixels, a class token, norm first, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 2, 2)
        self.token = nn.Parameter(torch.zeros(1, 1, 32))
        self.places = nn.Parameter(0.02 * torch.randn(1, 17, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(32), enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        patches = self.patches(inputs).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(inputs), -1, -1), patches], dim=1) + self.places
        return self.head(self.encoder(tokens)[:, 0])


class Mixer(nn.Module):
    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.tokens = nn.Sequential(nn.Linear(tokens, 32), nn.GELU(), nn.Linear(32, tokens))
        self.channels = nn.Sequential(nn.Linear(channels, 64), nn.GELU(), nn.Linear(64, channels))

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs + self.tokens(self.norm1(inputs).transpose(1, 2)).transpose(1, 2)
        return inputs + self.channels(self.norm2(inputs))


class MlpMixer(Classifier):
    """Linear layers over the tokens, and over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 2, 2)
        self.blocks = nn.Sequential(Mixer(16, 32), Mixer(16, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(inputs).flatten(2).transpose(1, 2)).mean(1))


class ManyPlainConvolutions(Classifier):
    """Eight convolutions with torch's own initialisation and no norm."""

    def build(self) -> nn.Module:
        convs = [nn.Conv2d(1 if i == 0 else 16, 16, 3, stride=2 if i == 4 else 1, padding=1) for i in range(8)]
        body = [part for conv in convs for part in (conv, nn.ReLU())]
        return nn.Sequential(*body, nn.Flatten(), nn.Linear(256, 10))


PROGRAMS = (
    Program(PoolAfterRelu, images, 8, 0.9),
    Program(NormBeforeRelu, images, 6, 0.96),
    Program(GroupNormStrided, images, 10, 0.93),
    Program(Depthwise, small_batches_of_images, 6, 0.92),
    Program(HardswishNet, images, 6, 0.95),
    Program(ChannelAttention, images, 8, 0.88),
    Program(Excited, images, 8, 0.94),
    Program(ResNet, images, 5, 0.94),
    Program(PreActResNet, images, 5, 0.93),
    Program(NormFreeResNet, centred_images, 12, 0.85),
    Program(ConvNeXt, images, 8, 0.9),
    Program(UNet, images, 6, 0.7),
    Program(VisionTransformer, centred_images, 12, 0.88),
    Program(MlpMixer, centred_images, 8, 0.9),
    Program(ManyPlainConvolutions, images, 10, 0.9),
)
