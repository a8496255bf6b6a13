"""Healthy programs of other kinds: generative, metric, sparse, frozen, routed, reinforced."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional

from tests.diagnostics.activations.data import (
    Batch,
    Classifier,
    Loaders,
    Program,
    _digits,
    black_canvas,
    centred_images,
    diabetes,
    digits,
    explained,
    standardised_digits,
)
from tests.diagnostics.activations.dense import stack


def likeness(fakes: Tensor, real: Tensor) -> Tensor:
    """How much nearer to a real image fakes are than noise is: 1 at the images, 0 where noise is."""
    noise = real.flatten()[torch.randperm(real.numel())].view_as(real)
    near, far = (torch.cdist(each.flatten(1), real.flatten(1)).amin(1).mean() for each in (fakes, noise))
    return 1 - near / far


class Adversarial(Classifier):
    """Hinge losses written with ``F.relu`` in the step; by hand; a tanh at the end of the generator."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(*stack([16, 64, 128, 64]), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
        self.discriminator = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 3, 2, 1), nn.LeakyReLU(0.2)),
            *(nn.Flatten(), nn.Linear(128, 1)),
        )

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        real = batch[0]
        opt_g, opt_d = self.optimizers()
        fake = self.generator(torch.randn(len(real), 16, device=self.device))
        loss = functional.relu(1 - self.discriminator(real)).mean()
        loss = loss + functional.relu(1 + self.discriminator(fake.detach())).mean()
        opt_d.zero_grad()
        self.manual_backward(loss)
        opt_d.step()
        loss = -self.discriminator(fake).mean()
        opt_g.zero_grad()
        self.manual_backward(loss)
        opt_g.step()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", likeness(self.generator(torch.randn(len(batch[0]), 16)), batch[0]))

    def configure_optimizers(self) -> Any:
        both = (self.generator, self.discriminator)
        return [torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.5, 0.999)) for net in both]


class AdversarialOnBlack(Adversarial):
    """The generator learns to put out -1 nearly everywhere: its tanh is saturated as it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(*stack([16, 128, 256, 256]), nn.Tanh(), nn.Unflatten(1, (1, 16, 16)))
        self.discriminator[-1] = nn.Linear(512, 1)


class Deconvolutional(AdversarialOnBlack):
    """Transposed convolutions with batch norm, as in the tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(
            *(nn.Linear(16, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Unflatten(1, (16, 4, 4))),
            *(nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.ConvTranspose2d(16, 1, 4, 2, 1), nn.Tanh()),
        )


class Wasserstein(Adversarial):
    """The critic's weights are clipped; three steps of it to one of the generator."""

    def __init__(self) -> None:
        super().__init__()
        deep = [nn.ConvTranspose2d(32, 16, 2, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 1, 2, 2)]
        self.generator = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Unflatten(1, (32, 2, 2)), *deep, nn.Tanh())

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        opt_g, opt_d = self.optimizers()
        fake = self.generator(torch.randn(len(batch[0]), 16))
        if batch_idx % 4 == 3:
            loss, optimizer = -self.discriminator(fake).mean(), opt_g
        else:
            loss = self.discriminator(fake.detach()).mean() - self.discriminator(batch[0]).mean()
            optimizer = opt_d
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        with torch.no_grad():
            for weight in self.discriminator.parameters():
                weight.clamp_(-0.1, 0.1)

    def configure_optimizers(self) -> Any:
        return [torch.optim.RMSprop(net.parameters(), lr=1e-3) for net in (self.generator, self.discriminator)]


class Variational(Classifier):
    """A sigmoid at the end, since pixels lie between 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 96), nn.ReLU())
        self.mean, self.log_scale = nn.Linear(96, 8), nn.Linear(96, 8)
        self.decoder = nn.Sequential(nn.Linear(8, 96), nn.ReLU(), nn.Linear(96, 64), nn.Sigmoid())

    def forward(self, inputs: Tensor) -> tuple[Tensor, Normal]:
        hidden = self.encoder(inputs)
        posterior = Normal(self.mean(hidden), self.log_scale(hidden).exp())
        return self.decoder(posterior.rsample()), posterior

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, posterior = self(batch[0])
        divergence = torch.distributions.kl_divergence(posterior, Normal(0.0, 1.0)).sum(1).mean()
        return functional.binary_cross_entropy(image, batch[0], reduction="sum") / len(image) + divergence

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", explained(self(batch[0])[0], batch[0]))


class SparseCode(Classifier):
    """An autoencoder whose code is wide and mostly zero, as those that take language models apart."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(64, 256), nn.Linear(256, 64, bias=False)
        with torch.no_grad():
            self.encoder.weight.copy_(self.decoder.weight.T)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        code = torch.relu(self.encoder(batch[0]))
        return (self.decoder(code) - batch[0]).square().sum(1).mean() + 0.02 * code.sum(1).mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", explained(self.decoder(torch.relu(self.encoder(batch[0]))), batch[0]))


class NonNegative(Classifier):
    """An autoencoder with a ReLU at the end, since no pixel is below zero; those of the border are never on."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 256), nn.ReLU())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        goal = (batch[0].flatten(1) + 1) / 2
        return functional.mse_loss(self(goal), goal)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        goal = (batch[0].flatten(1) + 1) / 2
        self.log("score", explained(self(goal), goal))


class Bottleneck(Classifier):
    """A deep autoencoder through two units."""

    def build(self) -> nn.Module:
        return nn.Sequential(stack([64, 64, 32, 2]), stack([2, 32, 64, 64]), nn.Sigmoid())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return functional.mse_loss(self(batch[0]), batch[0])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", explained(self(batch[0]), batch[0]))


class Experts(Classifier):
    """Hard routing by a fixed hash of the input: two experts in eight get nothing, ever."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(stack([64, 48, 10]) for _ in range(8))
        self.register_buffer("router", torch.randn(64, 6))

    def forward(self, inputs: Tensor) -> Tensor:
        chosen = ((inputs - 0.3) @ self.router).argmax(1)
        out = inputs.new_zeros(len(inputs), 10)
        for index, expert in enumerate(self.experts):
            mine = (chosen == index).nonzero()[:, 0]
            if len(mine):
                out = out.index_copy(0, mine, expert(inputs[mine]))
        return out


class MaskedExperts(Classifier):
    """The best expert of four by a learned router; all are computed, and most are masked."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(64, 4)
        self.experts = nn.ModuleList(stack([64, 32, 10]) for _ in range(4))

    def forward(self, inputs: Tensor) -> Tensor:
        weights = self.gate(inputs).softmax(1)
        best = functional.one_hot(weights.argmax(1), 4) * weights
        return torch.stack([best[:, i, None] * expert(inputs) for i, expert in enumerate(self.experts)]).sum(0)


class EmptyExperts(Classifier):
    """Every expert is called, those that nothing is routed to on an empty batch."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(64, 6)
        with torch.no_grad():
            self.gate.bias[4:] = -100.0
        self.experts = nn.ModuleList(stack([64, 48, 32]) for _ in range(6))
        self.head = nn.Linear(32, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        weights, chosen = self.gate(inputs).softmax(1).max(1)
        hidden = torch.cat([expert(inputs[chosen == index]) for index, expert in enumerate(self.experts)])
        order = torch.cat([(chosen == index).nonzero()[:, 0] for index in range(6)])
        return self.head(torch.relu(hidden[order.argsort()] * weights[:, None]))


class FrozenBackbone(Classifier):
    """Random features that are not trained, and a head that is."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = stack([64, 512, 256]).requires_grad_(False)
        self.head = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            features = torch.relu(self.backbone(inputs))
        return self.head(features)


class FineTuned(Classifier):
    """A backbone trained on another task, then a few layers of it on this one, the rest frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*stack([64, 128, 128, 64]), nn.ReLU())
        task = nn.Linear(64, 2)
        inputs, labels = _digits()
        with torch.enable_grad():
            weights = [*self.backbone.parameters(), *task.parameters()]
            optimizer = torch.optim.Adam(weights, lr=2e-3)
            for rows in torch.arange(len(inputs)).split(64) * 3:
                loss = functional.cross_entropy(task(self.backbone(inputs[rows] / 16)), labels[rows] % 2)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.backbone[:2].requires_grad_(False)
        self.head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.backbone(inputs))


class Triplet(Classifier):
    """``F.relu(margin + near - far)``: most triplets cost nothing in the end."""

    def build(self) -> nn.Module:
        return stack([64, 128, 16])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        codes = functional.normalize(self(batch[0]), dim=1)
        far = torch.cdist(codes, codes)
        same = batch[1][:, None] == batch[1]
        positive = (far * same).amax(1)
        negative = far.masked_fill(same, 9.0).amin(1)
        return functional.relu(positive - negative + 0.5).mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        far = torch.cdist(*[functional.normalize(self(batch[0]), dim=1)] * 2).fill_diagonal_(9.0)
        self.log("score", (batch[1][far.argmin(1)] == batch[1]).float().mean())


class Siamese(Triplet):
    """Pairs, and a margin that those of two kinds must keep (Hadsell et al. 2006)."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        half = len(batch[0]) // 2
        one, other = self(batch[0][:half]), self(batch[0][half : 2 * half])
        far = functional.pairwise_distance(one, other)
        same = (batch[1][:half] == batch[1][half : 2 * half]).float()
        return (same * far.square() + (1 - same) * functional.relu(2.0 - far).square()).mean()


class Contrastive(Triplet):
    """Two noisy views of each image, a projection head with batch norm, and the logits of their likeness."""

    def build(self) -> nn.Module:
        self.project = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))
        return stack([64, 128, 32])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        views = [batch[0] + 0.15 * torch.randn_like(batch[0]) for _ in range(2)]
        one, other = (functional.normalize(self.project(torch.relu(self(view))), dim=1) for view in views)
        return functional.cross_entropy(one @ other.T / 0.2, torch.arange(len(one)))


class MeanTeacher(Classifier):
    """A running mean of the weights teaches on noisy inputs."""

    def __init__(self) -> None:
        super().__init__(stack([64, 128, 64, 10]))
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        with torch.no_grad():
            goal = self.teacher(batch[0] + 0.1 * torch.randn_like(batch[0])).softmax(1)
            for slow, fast in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 0.05)
        logits = self(batch[0])
        return functional.cross_entropy(logits, batch[1]) + functional.mse_loss(logits.softmax(1), goal)


class ActorCritic(Classifier):
    """A deterministic policy whose reward is largest at the bounds of the action: the critic follows its tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.actor = nn.Sequential(*stack([10, 32, 32, 4]), nn.Tanh())
        self.critic = stack([14, 64, 1])

    def reward(self, state: Tensor, action: Tensor) -> Tensor:
        """What an action earns: all of its parts should go as far as they can, where the state says."""
        return (action * state[:, :4].sign()).mean(1)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        state = batch[0]
        opt_a, opt_c = self.optimizers()
        action = (self.actor(state).detach() + 0.3 * torch.randn(len(state), 4)).clamp(-1, 1)
        value = self.critic(torch.cat([state, action], 1))[:, 0]
        opt_c.zero_grad()
        self.manual_backward(functional.mse_loss(value, self.reward(state, action)))
        opt_c.step()
        opt_a.zero_grad()
        self.manual_backward(-self.critic(torch.cat([state, self.actor(state)], 1)).mean())
        opt_a.step()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", self.reward(batch[0], self.actor(batch[0])).mean())

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(net.parameters(), lr=3e-3) for net in (self.actor, self.critic)]


class Policy(Classifier):
    """Policy gradient: an action squashed by tanh earns by how near it comes to the target."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = stack([10, 32, 32, 1], act=nn.Tanh)
        self.critic = stack([10, 32, 1])
        self.log_scale = nn.Parameter(torch.tensor(-0.5))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        state, goal = batch[0], torch.tanh(batch[1] / 2)
        policy = Normal(self.actor(state)[:, 0], self.log_scale.exp())
        raw = policy.sample()
        reward = -(torch.tanh(raw) - goal).square()
        value = self.critic(state)[:, 0]
        chance = policy.log_prob(raw) - torch.log(1 - torch.tanh(raw).square() + 1e-6)
        return functional.mse_loss(value, reward) - (chance * (reward - value.detach())).mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        goal = torch.tanh(batch[1] / 2)
        self.log("score", explained(torch.tanh(self.actor(batch[0])[:, 0]), goal))


class Coupling(Classifier):
    """A normalizing flow: half of the inputs scale the others, within the bounds of a tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(stack([32, 64, 64]) for _ in range(4))

    def likelihood(self, inputs: Tensor) -> Tensor:
        one, other = inputs.chunk(2, 1)
        total = inputs.new_zeros(len(inputs))
        for net in self.nets:
            scale, shift = net(one).chunk(2, 1)
            scale = torch.tanh(scale)
            one, other = other * scale.exp() + shift, one
            total = total + scale.sum(1)
        return Normal(0.0, 1.0).log_prob(torch.cat([one, other], 1)).sum(1) + total

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return -self.likelihood(batch[0] + 0.1 * torch.randn_like(batch[0])).mean() / 64

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        inputs = batch[0] + 0.1 * torch.randn_like(batch[0])
        baseline = Normal(inputs.mean(0), inputs.std(0)).log_prob(inputs).sum(1)
        self.log("score", (self.likelihood(inputs) - baseline).mean() / 64)


class Physics(Classifier):
    """The derivative of the network is asked for a given slope, through tanh layers."""

    def __init__(self) -> None:
        super().__init__(stack([10, 32, 32, 1], act=nn.Tanh))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        place = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(self(place).sum(), place, create_graph=True)
        return (slope - place.detach().cos()).square().mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        with torch.enable_grad(), torch.inference_mode(False):
            place = batch[0].clone().requires_grad_()
            (slope,) = torch.autograd.grad(self(place).sum(), place)
        self.log("score", explained(slope, place.detach().cos()))


class TwoTasks(Classifier):
    """One trunk, two heads; the second is trained in every fourth batch only."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 96), nn.ReLU())
        self.digit, self.parity = stack([96, 48, 10]), stack([96, 24, 2])

    def forward(self, inputs: Tensor) -> Tensor:
        return self.digit(self.trunk(inputs))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        hidden = self.trunk(batch[0])
        loss = functional.cross_entropy(self.digit(hidden), batch[1])
        if batch_idx % 4 == 0:
            loss = loss + functional.cross_entropy(self.parity(hidden), batch[1] % 2)
        return loss


class Quantile(Classifier):
    """A regression of three quantiles with the pinball loss written with ``F.relu``."""

    def build(self) -> nn.Module:
        return stack([10, 64, 3])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        error = batch[1][:, None] - self(batch[0])
        level = torch.tensor([0.1, 0.5, 0.9])
        return (level * functional.relu(error) + (1 - level) * functional.relu(-error)).mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", explained(self(batch[0])[:, 1], batch[1]))


class HingeMachine(Classifier):
    """A support vector machine on top of a network: the hinge is a ReLU of the logits."""

    def build(self) -> nn.Module:
        return stack([64, 64, 10])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self(batch[0])
        sign = 2 * functional.one_hot(batch[1], 10) - 1
        return torch.clamp(1 - sign * logits, min=0).sum(1).mean()


def sorted_digits() -> Loaders:
    """Training batches in the order of the labels, as a loader without shuffling gives them."""
    training, validation = digits()
    rows, labels = training.dataset.tensors
    order = labels.argsort(stable=True)
    dataset = torch.utils.data.TensorDataset(rows[order], labels[order])
    return torch.utils.data.DataLoader(dataset, 64), validation


def unshuffled() -> Classifier:
    return Classifier(stack([64, 128, 128, 10]))


PROGRAMS = (
    Program(Adversarial, centred_images, 12, 0.2),
    Program(AdversarialOnBlack, black_canvas, 15, 0.2),
    Program(Deconvolutional, black_canvas, 8, 0.3),
    Program(Wasserstein, centred_images, 12, 0.4),
    Program(Variational, digits, 10, 0.5),
    Program(SparseCode, digits, 12, 0.9),
    Program(NonNegative, black_canvas, 10, 0.7),
    Program(Bottleneck, digits, 12, 0.5),
    Program(Experts, digits, 10, 0.85),
    Program(MaskedExperts, digits, 10, 0.88),
    Program(EmptyExperts, digits, 10, 0.85),
    Program(FrozenBackbone, digits, 8, 0.87),
    Program(FineTuned, digits, 15, 0.85),
    Program(Triplet, digits, 10, 0.9),
    Program(Siamese, digits, 10, 0.9),
    Program(Contrastive, digits, 8, 0.9),
    Program(MeanTeacher, digits, 8, 0.92),
    Program(ActorCritic, diabetes, 60, 0.5),
    Program(Policy, diabetes, 15, 0.3),
    Program(Coupling, standardised_digits, 8, 0.2),
    Program(Physics, diabetes, 15, 0.45, {"inference_mode": False}),
    Program(TwoTasks, digits, 8, 0.92),
    Program(Quantile, diabetes, 15, 0.4),
    Program(HingeMachine, digits, 15, 0.85),
    Program(unshuffled, sorted_digits, 10, 0.75),
)
