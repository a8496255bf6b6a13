"""Healthy networks of many kinds: zero-initialised branches, rare tokens, experts, adversaries, policies, teachers."""

import copy
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.diagnostics.activations.data import (
    centred_images,
    characters,
    diabetes,
    explained,
    images,
    standardised_digits,
)
from tests.diagnostics.activations.dense import stack
from tests.diagnostics.activations.sequences import Gpt
from tests.diagnostics.activations.unusual import Adversarial, Contrastive, Triplet
from tests.diagnostics.gradients.networks_data import Batch, Classifier, Loaders, Program, digits
from tests.diagnostics.gradients.networks_training import Scheduled, Transferred

# Branches that begin at zero.


class ReZeroBlock(nn.Module):
    """The branch has a scale of zero (Bachlechner et al. 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.scale * self.branch(inputs)


class ReZero(Classifier):
    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), *(ReZeroBlock(64) for _ in range(8)), nn.Linear(64, 10))


class ReZeroSgd(ReZero):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class ZeroNormBlock(nn.Module):
    """The last norm of a branch begins at zero (Goyal et al. 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.relu(inputs + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(inputs))))))


class ZeroNorm(Classifier):
    def build(self) -> nn.Module:
        body = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), ZeroNormBlock(16), ZeroNormBlock(16), ZeroNormBlock(16)]
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class ZeroHead(Classifier):
    """The last layer begins at zero: in the first step nothing else has a gradient."""

    def build(self) -> nn.Module:
        net = stack([64, 128, 128, 10])
        nn.init.zeros_(net[-1].weight)
        nn.init.zeros_(net[-1].bias)
        return net


class ZeroHeadDeep(Scheduled):
    """Six layers below it, and a warmup so long that it stays small for epochs: they learn once it has grown."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__(lambda share: min(1.0, share / 1.5 + 0.002), optimizer)
        self.net = stack([64, *[96] * 6, 10])
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.net[-1].weight)


class Adapter(nn.Module):
    """A frozen layer and a product of two thin matrices, of which one begins at zero (Hu et al. 2021)."""

    def __init__(self, layer: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, layer.in_features) / math.sqrt(layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) + inputs @ self.down.T @ self.up.T


class LoRa(Transferred):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            *(Adapter(layer) if isinstance(layer, nn.Linear) else layer for layer in self.backbone)
        )

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(filter(lambda weight: weight.requires_grad, self.parameters()), lr=5e-3)


class LoRaSgd(LoRa):
    """All weights are in the optimizer."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


# Depth.


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.net = nn.LayerNorm(width), stack([width, width, width])

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.net(self.norm(inputs))


def thirty_residual_blocks() -> Classifier:
    net = nn.Sequential(nn.Linear(64, 48), *(Residual(48) for _ in range(30)), nn.Linear(48, 10))
    return Classifier(net, partial(torch.optim.AdamW, lr=1e-3))


def twelve_tanh_layers_sgd() -> Classifier:
    net = stack([64, *[64] * 12, 10], act=nn.Tanh)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight, gain=nn.init.calculate_gain("tanh"))
            nn.init.zeros_(layer.bias)
    return Classifier(net, partial(torch.optim.SGD, lr=0.05))


def twenty_relu_layers_sgd() -> Classifier:
    net = stack([64, *[96] * 20, 10])
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return Classifier(net, partial(torch.optim.SGD, lr=0.005, momentum=0.9))


def eight_relu_layers_default_sgd() -> Classifier:
    """Torch's own initialisation, which lets gradients shrink: the first layers are slow at first, and learn."""
    return Classifier(stack([64, *[128] * 6, 10]), partial(torch.optim.SGD, lr=0.1, momentum=0.9))


def four_sigmoid_layers_sgd() -> Classifier:
    """Weights are four times as large as for tanh, whose slope is four times that of a sigmoid."""
    net = stack([64, 96, 96, 96, 10], act=nn.Sigmoid)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight, gain=4.0)
    return Classifier(net, partial(torch.optim.SGD, lr=0.1, momentum=0.9))


def four_sigmoid_layers_adam() -> Classifier:
    return Classifier(stack([64, 96, 96, 96, 96, 10], act=nn.Sigmoid), partial(torch.optim.Adam, lr=5e-3))


class Stochastic(Classifier):
    """Blocks that are left out by chance, the later the more often (Huang et al. 2016)."""

    def __init__(self, last: float = 0.5) -> None:
        super().__init__(nn.ModuleList(Residual(64) for _ in range(8)))
        self.head, self.last = nn.Linear(64, 10), last

    def forward(self, inputs: Tensor) -> Tensor:
        for index, block in enumerate(self.net):
            left_out = self.last * (index + 1) / len(self.net)
            if self.training and torch.rand(()) < left_out:
                continue
            inputs = block(inputs) if self.training else inputs + (1 - left_out) * (block(inputs) - inputs)
        return self.head(inputs)


# Sequences.


class Tied(Gpt):
    """Letters are embedded and told apart by the same table."""

    def __init__(self) -> None:
        super().__init__(width=32, layers=1)
        self.lm_head.weight = self.wte.weight


class Transformer(Classifier):
    """Rows of pixels as tokens, with a warmup."""

    def __init__(self, norm_first: bool, layers: int = 4, optimizer: Any = None) -> None:
        super().__init__(optimizer=optimizer or partial(torch.optim.AdamW, lr=2e-3))
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 10)
        self.places = nn.Parameter(torch.randn(1, 8, 32) / 10)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(inputs.view(-1, 8, 8)) + self.places).mean(1))

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 40))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Pixels(Classifier):
    """A recurrent network over the pixels in their order, several at a time."""

    def __init__(self, cell: Any, width: int = 4, optimizer: Any = None, summed: bool = False) -> None:
        super().__init__(optimizer=optimizer)
        self.cell, self.head = cell(width, 48, batch_first=True), nn.Linear(48, 10)
        self.width, self.summed = width, summed

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.cell(inputs.view(len(inputs), -1, self.width))[0][:, -1])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * len(batch[0]) if self.summed else loss


class SummedOverTime(Classifier):
    """A language model whose loss is the sum over all letters: norms are in the hundreds, and clipped to 5."""

    def __init__(self) -> None:
        super().__init__(optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9))
        self.embed, self.rnn = nn.Embedding(128, 32), nn.RNN(32, 96, batch_first=True)
        self.head = nn.Linear(96, 128)

    def forward(self, codes: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(codes))[0])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]).flatten(0, 1), batch[1].flatten(), reduction="sum")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", (self(batch[0]).argmax(-1) == batch[1]).float().mean())


# Tables.


def rare_words() -> Loaders:
    """Eight words of a vocabulary of 5,000 as Zipf has it; the class is that of most of the words."""
    drawn = torch.Generator().manual_seed(0)
    chances = 1 / torch.arange(1, 5001).float()
    words = torch.multinomial(chances, 2000 * 8, replacement=True, generator=drawn).view(2000, 8)
    labels = ((words % 4).unsqueeze(-1) == torch.arange(4)).sum(1).argmax(1)
    cut = 1600
    training, validation = (TensorDataset(words[part], labels[part]) for part in (slice(cut), slice(cut, None)))
    return DataLoader(training, 32, shuffle=True), DataLoader(validation, 400)


class RareWords(Classifier):
    """Most rows of the table have no gradient at most steps."""

    def __init__(self, sparse: bool = False) -> None:
        super().__init__(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)))
        self.table, self.sparse = nn.Embedding(5000, 16, sparse=sparse), sparse

    def forward(self, words: Tensor) -> Tensor:
        return self.net(self.table(words).mean(1))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0) if self.sparse else self.adam(self.parameters())


class RareWordsTwoOptimizers(RareWords):
    """SparseAdam for the table, and Adam for the rest."""

    def __init__(self) -> None:
        super().__init__(sparse=True)
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        both = self.optimizers()
        for optimizer in both:
            optimizer.zero_grad()
        self.manual_backward(functional.cross_entropy(self(batch[0]), batch[1]))
        for optimizer in both:
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SparseAdam(self.table.parameters(), lr=1e-2), self.adam(self.net.parameters())]


# Parts that take turns.


class TopOne(Classifier):
    """Each row goes to one expert, which is called only if it has any; a penalty keeps them in balance."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(64, 8)
        self.experts = nn.ModuleList(stack([64, 48, 10]) for _ in range(8))

    def forward(self, inputs: Tensor) -> Tensor:
        chances = self.router(inputs).softmax(1)
        weight, chosen = chances.max(1)
        out = inputs.new_zeros(len(inputs), 10)
        for index, expert in enumerate(self.experts):
            mine = (chosen == index).nonzero()[:, 0]
            if len(mine):
                out = out.index_copy(0, mine, weight[mine, None] * expert(inputs[mine]))
        share = functional.one_hot(chosen, 8).float().mean(0)
        self.__dict__["balance"] = 8 * (share * chances.mean(0)).sum()
        return out

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + 0.05 * self.__dict__["balance"]


class OneHeadPerBatch(Classifier):
    """Three tasks, of which each batch is of one."""

    def __init__(self, chances: tuple[float, ...] = (0.5, 0.3, 0.2)) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 96), nn.ReLU()))
        self.heads = nn.ModuleList(nn.Linear(96, size) for size in (10, 2, 5))
        self.chances = torch.tensor(chances)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.heads[0](self.net(inputs))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        which = int(torch.multinomial(self.chances, 1))
        goal = (batch[1], batch[1] % 2, batch[1] // 2)[which]
        return functional.cross_entropy(self.heads[which](self.net(batch[0])), goal)


class SecondPhase(OneHeadPerBatch):
    """A second task, from the third epoch on; until then its head requires no gradient."""

    def __init__(self) -> None:
        super().__init__()
        del self.heads[2]
        self.heads[1].requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        self.heads[1].requires_grad_(self.current_epoch >= 2)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        hidden = self.net(batch[0])
        loss = functional.cross_entropy(self.heads[0](hidden), batch[1])
        if self.current_epoch >= 2:
            loss = loss + functional.cross_entropy(self.heads[1](hidden), batch[1] % 2)
        return loss


class Toggled(Adversarial):
    """Each optimizer has its own half of the gradients, and the discriminator steps twice as often."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        opt_g, opt_d = self.optimizers()
        real, fake = batch[0], self.generator(torch.randn(len(batch[0]), 16))
        self.toggle_optimizer(opt_d)
        loss = functional.relu(1 - self.discriminator(real)).mean()
        loss = loss + functional.relu(1 + self.discriminator(fake.detach())).mean()
        opt_d.zero_grad()
        self.manual_backward(loss)
        opt_d.step()
        self.untoggle_optimizer(opt_d)
        if batch_idx % 2 == 1:
            self.toggle_optimizer(opt_g)
            opt_g.zero_grad()
            self.manual_backward(-self.discriminator(fake).mean())
            opt_g.step()
            self.untoggle_optimizer(opt_g)


class Penalised(Adversarial):
    """The critic's slope is held near one, which takes a second backward pass (Gulrajani et al. 2017)."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        opt_g, opt_d = self.optimizers()
        real, fake = batch[0], self.generator(torch.randn(len(batch[0]), 16))
        share = torch.rand(len(real), 1, 1, 1)
        between = (share * real + (1 - share) * fake.detach()).requires_grad_()
        (slope,) = torch.autograd.grad(self.discriminator(between).sum(), between, create_graph=True)
        loss = self.discriminator(fake.detach()).mean() - self.discriminator(real).mean()
        opt_d.zero_grad()
        self.manual_backward(loss + 10 * (slope.flatten(1).norm(dim=1) - 1).square().mean())
        opt_d.step()
        if batch_idx % 3 == 2:
            opt_g.zero_grad()
            self.manual_backward(-self.discriminator(fake).mean())
            opt_g.step()


# Teachers.


class Teacher(Classifier):
    """A copy that follows slowly; nobody has told it that it needs no gradient."""

    def __init__(self) -> None:
        super().__init__(stack([64, 128, 64, 10]))
        self.teacher = copy.deepcopy(self.net)

    def goal(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return self.teacher(inputs).softmax(1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 0.05)
        logits = self(batch[0])
        goal = self.goal(batch[0] + 0.1 * torch.randn_like(batch[0]))
        return functional.cross_entropy(logits, batch[1]) + functional.mse_loss(logits.softmax(1), goal)

    def configure_optimizers(self) -> Any:
        return self.adam(self.net.parameters())


class TeacherInOptimizer(Teacher):
    """The same, with the teacher frozen and all weights in the optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher.requires_grad_(False)

    def configure_optimizers(self) -> Any:
        return self.adam(self.parameters())


class TeacherWithGradient(Teacher):
    """The goal is not detached, so that gradients reach the teacher, which an average moves."""

    def goal(self, inputs: Tensor) -> Tensor:
        return self.teacher(inputs).softmax(1)


class Momentum(Contrastive):
    """Keys are of an encoder that follows slowly, and others wait in a queue (He et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.key = copy.deepcopy(nn.Sequential(self.net, nn.ReLU(), self.project))
        self.register_buffer("queue", functional.normalize(torch.randn(256, 16), dim=1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        views = [batch[0] + 0.15 * torch.randn_like(batch[0]) for _ in range(2)]
        query = functional.normalize(self.project(torch.relu(self(views[0]))), dim=1)
        with torch.no_grad():
            fast = [*self.net.parameters(), *self.project.parameters()]
            for slow, quick in zip(self.key.parameters(), fast, strict=True):
                slow.lerp_(quick, 0.02)
            keys = functional.normalize(self.key(views[1]), dim=1)
            self.queue.copy_(torch.cat([keys, self.queue])[:256])
        logits = query @ torch.cat([keys, self.queue[len(keys) :]]).T / 0.2
        return functional.cross_entropy(logits, torch.arange(len(query)))

    def configure_optimizers(self) -> Any:
        return self.adam([*self.net.parameters(), *self.project.parameters()])


class StopGradient(Triplet):
    """Two views, of which one is detached on purpose (Chen and He 2021)."""

    def build(self) -> nn.Module:
        self.predict = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
        return stack([64, 128, 16], norm=nn.BatchNorm1d)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        one, other = (self(batch[0] + 0.1 * torch.randn_like(batch[0])) for _ in range(2))
        near = [functional.cosine_similarity(self.predict(a), b.detach()) for a, b in ((one, other), (other, one))]
        return -torch.stack(near).mean()


class Bootstrap(StopGradient):
    """The goal is of a copy that follows slowly and is in the optimizer with the rest (Grill et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = copy.deepcopy(self.net)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 0.03)
        views = [batch[0] + 0.1 * torch.randn_like(batch[0]) for _ in range(2)]
        with torch.no_grad():
            goals = [self.slow(view) for view in reversed(views)]
        guesses = [self.predict(self(view)) for view in views]
        near = [functional.cosine_similarity(guess, goal).mean() for guess, goal in zip(guesses, goals, strict=True)]
        return -torch.stack(near).mean()

    def configure_optimizers(self) -> Any:
        return self.adam(self.parameters())


# Policies.


class Reinforce(Classifier):
    """A label is drawn from the policy, and only whether it is right is told (Williams 1992)."""

    def __init__(self) -> None:
        super().__init__(stack([64, 128, 10]))
        self.value = 0.1

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        policy = torch.distributions.Categorical(logits=self(batch[0]))
        action = policy.sample()
        reward = (action == batch[1]).float()
        self.value = 0.95 * self.value + 0.05 * float(reward.mean())
        return -(policy.log_prob(action) * (reward - self.value)).mean() - 0.01 * policy.entropy().mean()


class DeepQ(Classifier):
    """Steps on a ring of 16 places, of which one earns; the goal is of a copy that is renewed every 20 steps."""

    def __init__(self) -> None:
        super().__init__(stack([16, 64, 2]))
        self.target = copy.deepcopy(self.net)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.global_step % 20 == 0:
            self.target.load_state_dict(self.net.state_dict())
        place, action = torch.randint(16, (64,)), torch.randint(2, (64,))
        after = (place + 2 * action - 1) % 16
        with torch.no_grad():
            best = self.target(functional.one_hot(after, 16).float()).amax(1)
        goal = (after == 0).float() + 0.9 * best * (after != 0)
        value = self(functional.one_hot(place, 16).float()).gather(1, action[:, None])[:, 0]
        return functional.smooth_l1_loss(value, goal)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        best = self(torch.eye(16)).argmax(1)
        self.log("score", torch.cat([best[1:8] == 0, best[9:] == 1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.net.parameters(), lr=3e-3)


class DeepQInOptimizer(DeepQ):
    """The optimizer has the copy as well."""

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class SparseReward(Classifier):
    """A walk along 20 places, of which the last earns: until it is first met the network learns that nothing does."""

    places, reward = 20, 10.0

    def __init__(self) -> None:
        super().__init__(stack([self.places, 64, 2]))
        self.target = copy.deepcopy(self.net)
        self.memory: list[tuple[int, int, int]] = []

    def play(self, place: int) -> int:
        """One step, of which half are drawn by chance."""
        with torch.no_grad():
            action = int(self(functional.one_hot(torch.tensor(place), self.places).float()).argmax())
        if torch.rand(()) < 0.5:
            action = int(torch.randint(2, ()))
        after = min(max(place + 2 * action - 1, 0), self.places - 1)
        self.memory.append((place, action, after))
        return 0 if after == self.places - 1 else after

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.global_step % 50 == 0:
            self.target.load_state_dict(self.net.state_dict())
        place = self.memory[-1][2] % (self.places - 1) if self.memory else 0
        for _ in range(4):
            place = self.play(place)
        chosen = torch.tensor(self.memory)[torch.randint(len(self.memory), (32,))]
        place, action, after = chosen.unbind(1)
        end = after == self.places - 1
        with torch.no_grad():
            best = self.target(functional.one_hot(after, self.places).float()).amax(1)
        goal = self.reward * end.float() + 0.9 * best * ~end
        value = self(functional.one_hot(place, self.places).float()).gather(1, action[:, None])[:, 0]
        return functional.mse_loss(value, goal)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", self(torch.eye(self.places)).argmax(1)[-10:-1].float().mean())

    def configure_optimizers(self) -> Any:
        return self.adam(self.parameters())


# Derivatives of derivatives, and functions that have none.


class Curvature(Classifier):
    """The second derivative is that of a sine, and so are the values at both ends (Raissi et al. 2019)."""

    def __init__(self) -> None:
        super().__init__(stack([1, 32, 32, 1], act=nn.Tanh), partial(torch.optim.Adam, lr=5e-3))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        place = (2 * torch.rand(64, 1) - 1).requires_grad_()
        value = self(math.pi * place)
        (slope,) = torch.autograd.grad(value.sum(), place, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), place, create_graph=True)
        inside = (bend / math.pi**2 + (math.pi * place).sin()).square().mean()
        return inside + self(torch.tensor([[-math.pi], [math.pi]])).square().mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        place = torch.linspace(-3, 3, 50)[:, None]
        self.log("score", explained(self(place), place.sin()))


class Potential(Classifier):
    """A force is the slope of a potential, whose level is of no consequence: a last bias has no gradient."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__(nn.Sequential(*stack([10, 32, 32, 1], act=nn.Tanh)[:-1], nn.Linear(32, 1, bias=bias)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        place = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(self(place).sum(), place, create_graph=True)
        return (slope - place.detach().cos()).square().mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        with torch.enable_grad(), torch.inference_mode(False):
            place = batch[0].clone().requires_grad_()
            (slope,) = torch.autograd.grad(self(place).sum(), place)
        self.log("score", explained(slope, place.detach().cos()))


class Quantised(Classifier):
    """Weights are rounded to fifteen levels, as if that had a slope of one."""

    def build(self) -> nn.Module:
        return nn.ModuleList([nn.Linear(64, 128), nn.Linear(128, 128), nn.Linear(128, 10)])

    def forward(self, inputs: Tensor) -> Tensor:
        for index, layer in enumerate(self.net):
            step = layer.weight.detach().abs().max() / 7
            rounded = layer.weight + ((layer.weight / step).round() * step - layer.weight).detach()
            inputs = functional.linear(inputs if index == 0 else torch.relu(inputs), rounded, layer.bias)
        return inputs


class Binary(Classifier):
    """Hidden units are on or off, with the slope of a clipped line."""

    def build(self) -> nn.Module:
        return nn.ModuleList([nn.Linear(64, 256), nn.Linear(256, 256), nn.Linear(256, 10)])

    def forward(self, inputs: Tensor) -> Tensor:
        first, second, last = self.net
        for layer in (first, second):
            soft = layer(inputs).clamp(-1, 1)
            inputs = soft + (soft.sign() - soft).detach()
        return last(inputs)


class Codebook(Classifier):
    """An autoencoder through the nearest of 64 codes, with detached halves of the loss (van den Oord et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = stack([64, 64, 16]), stack([16, 64, 64])
        self.codes = nn.Parameter(torch.randn(64, 16) / 4)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.encoder(inputs)
        code = self.codes[torch.cdist(seen, self.codes).argmin(1)]
        kept = functional.mse_loss(code, seen.detach()) + 0.25 * functional.mse_loss(seen, code.detach())
        return self.decoder(seen + (code - seen).detach()), kept

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        shown, kept = self(batch[0])
        return functional.mse_loss(shown, batch[0]) + kept

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", explained(self(batch[0])[0], batch[0]))


class Diffusion(Classifier):
    """Predicts the noise in an image, given how much of it there is."""

    def build(self) -> nn.Module:
        return stack([65, 256, 256, 64])

    def noisy(self, images: Tensor) -> tuple[Tensor, Tensor]:
        level, noise = torch.rand(len(images), 1), torch.randn_like(images)
        return torch.cat([(1 - level).sqrt() * images + level.sqrt() * noise, level], 1), noise

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs, noise = self.noisy(batch[0])
        return functional.mse_loss(self(inputs), noise)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        inputs, noise = self.noisy(batch[0])
        self.log("score", explained(self(inputs), noise))


class FastWeights(Classifier):
    """Sines of any phase: one step on five points, whose gradient is itself differentiated (Finn et al. 2017)."""

    def __init__(self) -> None:
        super().__init__(stack([1, 40, 40, 1]), partial(torch.optim.Adam, lr=3e-3))

    def after_a_step(self, phase: Tensor, *, train: bool) -> Tensor:
        names = [name for name, _ in self.net.named_parameters()]
        weights = dict(zip(names, self.net.parameters(), strict=True))
        near, far = 6 * torch.rand(10, 1) - 3, 6 * torch.rand(20, 1) - 3
        loss = functional.mse_loss(torch.func.functional_call(self.net, weights, (near,)), (near + phase).sin())
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=train)
        moved = {n: w - 0.1 * s for (n, w), s in zip(weights.items(), slopes, strict=True)}
        return functional.mse_loss(torch.func.functional_call(self.net, moved, (far,)), (far + phase).sin())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return torch.stack([self.after_a_step(6 * torch.rand(()), train=True) for _ in range(8)]).mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        with torch.enable_grad(), torch.inference_mode(False):
            losses = [float(self.after_a_step(6 * torch.rand(()), train=False).detach()) for _ in range(50)]
        self.log("score", 1 - 2 * sum(losses) / len(losses))


class Deep(Classifier):
    """A head at each depth, whose losses add up (Lee et al. 2015)."""

    def __init__(self) -> None:
        super().__init__(nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(4)))
        self.heads = nn.ModuleList(nn.Linear(64, 10) for _ in range(4))

    def each(self, inputs: Tensor) -> list[Tensor]:
        out = []
        for layer, head in zip(self.net, self.heads, strict=True):
            inputs = layer(inputs)
            out.append(head(inputs))
        return out

    def forward(self, inputs: Tensor) -> Tensor:
        return self.each(inputs)[-1]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return torch.stack([functional.cross_entropy(logits, batch[1]) for logits in self.each(batch[0])]).sum()


HEAVY_BALL = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
WITH_GRADIENTS = {"inference_mode": False}
CLIPPED = {"gradient_clip_val": 1.0}

PROGRAMS = (
    Program(ReZero, epochs=8),
    Program(ReZeroSgd, epochs=8),
    Program(ZeroNorm, images, 6, 0.7),
    Program(ZeroHead),
    Program(partial(ZeroHeadDeep, partial(torch.optim.Adam, lr=1e-3)), standardised_digits, 15, label="deep_zero_head"),
    Program(
        partial(ZeroHeadDeep, partial(torch.optim.SGD, lr=0.1)), standardised_digits, 15, label="deep_zero_head_sgd"
    ),
    Program(LoRa, epochs=8, bar=0.75),
    Program(LoRaSgd, epochs=8, bar=0.7),
    Program(thirty_residual_blocks, epochs=4),
    Program(twelve_tanh_layers_sgd, standardised_digits, 8, 0.85),
    Program(twenty_relu_layers_sgd, standardised_digits, 12, 0.5),
    Program(eight_relu_layers_default_sgd, standardised_digits, 15, 0.85),
    Program(four_sigmoid_layers_sgd, standardised_digits, 15, 0.8),
    Program(four_sigmoid_layers_adam, standardised_digits, 15, 0.8),
    Program(Stochastic),
    Program(partial(Stochastic, 0.8), epochs=8, bar=0.8, label="stochastic_most_left_out"),
    Program(Tied, characters, 3, 0.25),
    Program(partial(Transformer, False), epochs=8, label="norm_last"),
    Program(partial(Transformer, True), epochs=8, label="norm_first"),
    Program(partial(Transformer, True, 2, HEAVY_BALL), epochs=10, label="attention_sgd"),
    Program(partial(Pixels, nn.LSTM), epochs=12, bar=0.6, label="lstm", settings=CLIPPED),
    Program(partial(Pixels, nn.GRU, 2), epochs=10, bar=0.5, label="gru_long"),
    Program(partial(Pixels, nn.RNN), epochs=10, bar=0.7, label="rnn", settings=CLIPPED),
    Program(
        *(partial(Pixels, nn.RNN, 4, partial(torch.optim.SGD, lr=0.05), True), digits, 12, 0.6, "rnn_clipped_from_100"),
        settings=CLIPPED,
    ),
    Program(SummedOverTime, characters, 6, 0.4, settings={"gradient_clip_val": 5.0}),
    Program(RareWords, rare_words, 8, 0.45),
    Program(partial(RareWords, True), rare_words, 12, 0.45, "RareWordsSparse"),
    Program(RareWordsTwoOptimizers, rare_words, 8, 0.45),
    Program(TopOne, epochs=10),
    Program(OneHeadPerBatch, epochs=8),
    Program(partial(OneHeadPerBatch, (0.85, 0.1, 0.05)), epochs=8, label="heads_that_are_rare"),
    Program(SecondPhase),
    Program(Toggled, centred_images, 15, 0.1),
    Program(Penalised, centred_images, 12, 0.2),
    Program(Teacher),
    Program(TeacherInOptimizer),
    Program(TeacherWithGradient),
    Program(Momentum, digits, 8, 0.85),
    Program(StopGradient, digits, 8, 0.7),
    Program(Bootstrap, digits, 8, 0.7),
    Program(Reinforce, epochs=20, bar=0.6),
    Program(DeepQ, epochs=20, bar=0.85),
    Program(DeepQInOptimizer, epochs=20, bar=0.85),
    Program(SparseReward, epochs=25, bar=0.6),
    Program(Curvature, epochs=20, bar=0.7),
    Program(Potential, diabetes, 15, 0.45, settings=WITH_GRADIENTS),
    Program(partial(Potential, True), diabetes, 15, 0.45, "potential_with_last_bias", WITH_GRADIENTS),
    Program(Quantised),
    Program(Binary, standardised_digits, 8, 0.8),
    Program(Codebook, epochs=15, bar=0.3),
    Program(Diffusion, standardised_digits, 15, 0.3),
    Program(FastWeights, epochs=12, bar=0.2, settings=WITH_GRADIENTS),
    Program(Deep),
)
