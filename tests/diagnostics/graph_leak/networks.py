"""Healthy networks of many kinds, each with the habits of its kind: states, queues, teachers, inner loops."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from tests.diagnostics.graph_leak.sick import Classifier

Batch = list[Tensor]


class Convolutional(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(inplace=True)),
            *(nn.MaxPool1d(2), nn.Dropout(), nn.Flatten(), nn.Linear(32, 3)),
        )


class Residual(Classifier):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        hidden = self.net[0](batch[0])
        for _ in range(3):
            hidden = hidden + torch.relu(hidden)
        return functional.cross_entropy(self.net[2](hidden), batch[1])


class Transformer(Classifier):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return functional.cross_entropy(self.net(self.encoder(batch[0][:, None]).mean(1)), batch[1])


class StatefulLstm(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.state: Any = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        features, state = self.lstm(batch[0][:, None], self.state)
        self.state = tuple(part.detach() for part in state)
        return functional.cross_entropy(self.net(features[:, 0]), batch[1])


class Variational(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(4, 8)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        mean, log_scale = self.encoder(batch[0]).chunk(2, dim=1)
        self.posterior = torch.distributions.Normal(mean, log_scale.exp())
        code = self.posterior.rsample()
        prior = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
        divergence = torch.distributions.kl_divergence(self.posterior, prior).sum(1)
        return functional.mse_loss(self.decoder(code), batch[0]) + 0.01 * divergence.mean()


class MemoryBank(Classifier):
    """Contrast against a queue of detached keys."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.randn(32, 3))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        query = functional.normalize(self.net(batch[0]), dim=1)
        self.queue = torch.cat([self.queue, query.detach()])[-32:]
        return torch.logsumexp(query @ self.queue.T, dim=1).mean() - query.square().sum(1).mean()


class Siamese(Classifier):
    """Two views, the gradient of one side stopped."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        first, second = (self.net(batch[0] + 0.1 * torch.randn_like(batch[0])) for _ in range(2))
        return -functional.cosine_similarity(first, second.detach()).mean()


class MixtureOfExperts(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Linear(8, 3) for _ in range(4))
        self.load: list[int] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        weights, chosen = self.gate(batch[0]).softmax(1).max(1)
        outputs = torch.stack([self.experts[int(index)](x) for index, x in zip(chosen, batch[0], strict=True)])
        self.load.append(int(chosen.bincount(minlength=4).max()))
        return functional.cross_entropy(weights[:, None] * outputs, batch[1])


class InnerLoop(Classifier):
    """Two steps of gradient descent inside of each step, differentiated through."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        weights = dict(self.net.named_parameters())
        for _ in range(2):
            loss = functional.cross_entropy(functional_call(self.net, weights, (batch[0][:4],)), batch[1][:4])
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            weights = {name: w - 0.1 * s for (name, w), s in zip(weights.items(), slopes, strict=True)}
        self.fast_weights = weights
        return functional.cross_entropy(functional_call(self.net, weights, (batch[0][4:],)), batch[1][4:])


class SecondDerivative(Classifier):
    """A network that solves an equation, as physics-informed ones do."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        place = batch[0].clone().requires_grad_()
        value = self.net(place).sum()
        (slope,) = torch.autograd.grad(value, place, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), place, create_graph=True)
        return (slope + bend - batch[0]).square().mean()


class Distillation(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.target = self.teacher(batch[0])
        return functional.mse_loss(self.net(batch[0]), self.target)


class SeveralBackwards(Classifier):
    """Several losses of one graph, each sent back by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        logits = self.net(batch[0])
        self.manual_backward(functional.cross_entropy(logits, batch[1]), retain_graph=True)
        self.manual_backward(0.01 * logits.square().mean())
        optimizer.step()


class NormedWeights(Classifier):
    def __init__(self) -> None:
        super().__init__()
        weight_norm(self.net[0])
        spectral_norm(self.net[2])


class Denoiser(Classifier):
    """Predicts the noise, and keeps an average of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.denoise = nn.Sequential(nn.Linear(9, 16), nn.SiLU(), nn.Linear(16, 8))
        self.average = copy.deepcopy(self.denoise).requires_grad_(False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        time, noise = torch.rand(len(batch[0]), 1), torch.randn_like(batch[0])
        noisy = (1 - time) * batch[0] + time * noise
        for slow, fast in zip(self.average.parameters(), self.denoise.parameters(), strict=True):
            slow.lerp_(fast.detach(), 0.01)
        return functional.mse_loss(self.denoise(torch.cat([noisy, time], dim=1)), noise)


class Sparse(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 8, sparse=True)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return functional.cross_entropy(self.net(batch[0] + self.table(batch[1])), batch[1])


NETWORKS = (
    *(Convolutional, Residual, Transformer, StatefulLstm, Variational, MemoryBank, Siamese, MixtureOfExperts),
    *(InnerLoop, SecondDerivative, Distillation, SeveralBackwards, NormedWeights, Denoiser, Sparse),
)
