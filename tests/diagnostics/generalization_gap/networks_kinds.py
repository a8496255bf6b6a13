"""The kinds of modules of the sweep: one that most programs are made of, and those that are written another way."""

import copy
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from tests.diagnostics.generalization_gap.networks_data import Batch, images, split

Loss = Callable[[Tensor, Tensor], Tensor]
cross_entropy: Loss = functional.cross_entropy


def mlp(*sizes: int, norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    net = nn.Sequential()
    for first, second in pairwise(sizes[:-1]):
        net.append(nn.Linear(first, second))
        if norm:
            net.append(nn.BatchNorm1d(second))
        net.append(nn.ReLU())
        if dropout:
            net.append(nn.Dropout(dropout))
    return net.append(nn.Linear(sizes[-2], sizes[-1]))


def cnn(*, norm: bool = False, dropout: float = 0.0, momentum: float = 0.1) -> nn.Sequential:
    """Two strided convolutions and a linear layer."""
    net = nn.Sequential()
    for first, second in ((1, 16), (16, 32)):
        net.append(nn.Conv2d(first, second, 3, stride=2, padding=1))
        if norm:
            net.append(nn.BatchNorm2d(second, momentum=momentum))
        net.append(nn.ReLU())
        if dropout:
            net.append(nn.Dropout2d(dropout))
    return net.extend([nn.Flatten(), nn.Linear(128, 10)])


def adam(rate: float = 2e-3, **more: Any) -> Callable[..., Any]:
    """An optimizer."""
    return partial(torch.optim.Adam, lr=rate, **more)


def adamw(rate: float = 2e-3, decay: float = 0.01) -> Callable[..., Any]:
    """An optimizer."""
    return partial(torch.optim.AdamW, lr=rate, weight_decay=decay)


def sgd(rate: float, momentum: float = 0.0, **more: Any) -> Callable[..., Any]:
    """An optimizer."""
    return partial(torch.optim.SGD, lr=rate, momentum=momentum, **more)


class Learner(LightningModule):
    """What most programs are: one network, one loss, one optimizer.

    Args:
        net: The network.
        optimizer: Given the parameters that learn.
        loss: Of outputs and targets.
        scored: Whether the share of right classes is logged.
        cosine: Over how many steps the rate falls to nothing; 0 for a constant one.
        training_loss: The loss that is trained on, if it is another one.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[..., Any] | None = None,
        loss: Loss = cross_entropy,
        *,
        scored: bool = True,
        cosine: int = 0,
        training_loss: Loss | None = None,
    ) -> None:
        super().__init__()
        self.net, self.optimizer, self.loss = net, optimizer or adam(), loss
        self.scored, self.cosine, self.training_loss = scored, cosine, training_loss or loss

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.net(inputs)
        return outputs[:, 0] if outputs.shape[1:] == (1,) else outputs

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.training_loss(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        outputs = self(batch[0])
        self.log("val_loss", self.loss(outputs, batch[1]))
        if self.scored:
            found = outputs > 0 if outputs.dim() == 1 else outputs.argmax(1)
            self.log("val_acc", (found == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([each for each in self.parameters() if each.requires_grad])
        if not self.cosine:
            return optimizer
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.cosine)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Mixup(Learner):
    """Trains on mixtures of two samples."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        (inputs, labels), share = batch, float(torch.distributions.Beta(0.4, 0.4).sample())
        order = torch.randperm(len(inputs))
        outputs = self(share * inputs + (1 - share) * inputs[order])
        return share * self.loss(outputs, labels) + (1 - share) * self.loss(outputs, labels[order])


class NoisyInputs(Learner):
    """Adds noise to its inputs in training."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.loss(self(batch[0] + 0.5 * torch.randn_like(batch[0])), batch[1])


class WithMetrics(Learner):
    """Logs objects of torchmetrics."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.accuracy, self.mean = MulticlassAccuracy(10, average="micro"), MeanMetric()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        outputs = self(batch[0])
        self.accuracy.update(outputs, batch[1])
        self.mean.update(self.loss(outputs, batch[1]), len(batch[1]))
        self.log("val_acc", self.accuracy)
        self.log("val_loss", self.mean)


class Averaged(Learner):
    """Validates a moving average of its weights."""

    def __init__(self, net: nn.Module, *, share: float) -> None:
        super().__init__(net)
        self.share = share
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        for slow, fast in zip(self.average.parameters(), self.net.parameters(), strict=True):
            slow.lerp_(fast.detach(), self.share)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs) if self.training else self.average(inputs)


class Finetuned(Learner):
    """A network that was trained before on the same kind of images."""

    def __init__(self, *, frozen: bool) -> None:
        net = cnn(norm=True)
        inputs, labels = split(images())[0]
        optimizer = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(60):
            chosen = torch.randint(len(inputs), (64,))
            optimizer.zero_grad()
            functional.cross_entropy(net(inputs[chosen]), labels[chosen] // 2).backward()
            optimizer.step()
        net[-1] = nn.Linear(128, 10)
        if frozen:
            for each in list(net.children())[:-1]:
                each.requires_grad_(False)
        super().__init__(net, adam(2e-3))


class GaussianRegression(Learner):
    """Predicts a mean and a variance; its loss goes below zero."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 64, 2), adam(3e-3), scored=False)
        self.loss = self.training_loss = self.likelihood

    @staticmethod
    def likelihood(outputs: Tensor, targets: Tensor) -> Tensor:
        """Of the mean of the right half of the image, given all of it."""
        return functional.gaussian_nll_loss(outputs[:, 0], targets, outputs[:, 1].exp() + 1e-4)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.likelihood(self(batch[0]), batch[0].view(-1, 8, 8)[..., 4:].mean((1, 2)))

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.likelihood(self(batch[0]), batch[0].view(-1, 8, 8)[..., 4:].mean((1, 2))))


class Autoencoder(Learner):
    """Learns what it is shown, through eight numbers."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(mlp(64, 64, 8), mlp(8, 64, 64)), adam(3e-3), scored=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return functional.mse_loss(self(batch[0]), batch[0])

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", functional.mse_loss(self(batch[0]), batch[0]))


class Variational(Learner):
    """The same with a distribution of the code, which is drawn from in training alone."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 64, 16), adam(3e-3), scored=False)
        self.back = mlp(8, 64, 64)

    def bound(self, inputs: Tensor) -> Tensor:
        """The negative lower bound of the likelihood, over the number of pixels."""
        mean, spread = self(inputs).chunk(2, 1)
        code = mean + torch.randn_like(mean) * (spread / 2).exp() if self.training else mean
        again = functional.binary_cross_entropy_with_logits(self.back(code), inputs)
        return again - 0.5 * (1 + spread - mean.square() - spread.exp()).sum(1).mean() / 64

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.bound(batch[0])

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.bound(batch[0]))


class Contrastive(Learner):
    """Brings together two noisy views of one image, and keeps apart those of others."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 64, 16), adam(2e-3), scored=False)

    def contrast(self, inputs: Tensor) -> Tensor:
        """The loss of two views with the others of the batch against them."""
        one, other = (self(inputs + 0.3 * torch.randn_like(inputs)) for _ in range(2))
        alike = functional.normalize(one) @ functional.normalize(other).T / 0.2
        return functional.cross_entropy(alike, torch.arange(len(inputs)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.contrast(batch[0])

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.contrast(batch[0]))


class TwoTasks(Learner):
    """Names the digit and draws it again: the loss, a sum, comes to stay at the entropy of the classes."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 64, 74), adam(5e-4), scored=False)

    def both(self, batch: Batch) -> Tensor:
        """The sum."""
        outputs = self(batch[0])
        drawn = functional.binary_cross_entropy_with_logits(outputs[:, 10:], batch[0])
        return functional.cross_entropy(outputs[:, :10], batch[1]) + 7.2 * drawn

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.both(batch)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.both(batch))


class Adversarial(LightningModule):
    """Two networks that learn against each other; what is logged is how far the generated mean image is off."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(mlp(8, 64, 64, norm=True), nn.Sigmoid())
        self.critic = mlp(64, 64, 1, dropout=0.3)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        first, second = self.optimizers()  # pyright: ignore[reportGeneralTypeIssues]
        fake = self.generator(torch.randn(len(batch[0]), 8))
        real, made = self.critic(batch[0]), self.critic(fake.detach())
        first.zero_grad()
        self.manual_backward(functional.softplus(-real).mean() + functional.softplus(made).mean())
        first.step()
        second.zero_grad()
        self.manual_backward(functional.softplus(-self.critic(fake)).mean())
        second.step()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        fake = self.generator(torch.randn(256, 8))
        self.log("val_critic_loss", functional.softplus(-self.critic(batch[0])).mean())
        self.log("val_distance", (fake.mean(0) - batch[0].mean(0)).abs().mean())

    def configure_optimizers(self) -> Any:
        rates = ((self.critic, 1e-3), (self.generator, 1e-3))
        return [torch.optim.Adam(net.parameters(), rate, betas=(0.5, 0.999)) for net, rate in rates]


class Recurrent(nn.Module):
    """Says the next letter from those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(128, 32), nn.GRU(32, 64, batch_first=True)
        self.head = nn.Linear(64, 128)

    def forward(self, codes: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(codes))[0]).transpose(1, 2)


class Transformer(nn.Module):
    """Says the next letter from those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.place = nn.Embedding(128, 32), nn.Parameter(torch.randn(32, 32) * 0.02)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 128)

    def forward(self, codes: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(codes.shape[1])
        return self.head(self.layers(self.embedding(codes) + self.place, mask, is_causal=True)).transpose(1, 2)
