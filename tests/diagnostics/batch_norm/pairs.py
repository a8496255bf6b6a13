"""Healthy programs that see samples more than once or in pairs: adversarial, contrastive, generative, routed."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional

from tests.diagnostics.activations.data import explained
from tests.diagnostics.activations.unusual import likeness
from tests.diagnostics.batch_norm.data import Batch, Classifier, Program, digits, images
from tests.diagnostics.batch_norm.plain import cnn, mlp


def tower(narrow: int, wide: int, out: int) -> nn.Sequential:
    """Two layers with batch norm in between."""
    return nn.Sequential(nn.Linear(narrow, wide), nn.BatchNorm1d(wide), nn.ReLU(), nn.Linear(wide, out))


def centred(inputs: Tensor) -> Tensor:
    """Pixels between -1 and 1."""
    return inputs * 2 - 1


class Adversarial(Classifier):
    """Batch norm in generator and discriminator; optimizers are toggled, and the discriminator is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(
            *(nn.Linear(16, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Unflatten(1, (16, 4, 4))),
            *(nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1)),
            nn.Tanh(),
        )
        self.discriminator = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32)),
            *(nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(128, 1)),
        )

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        real = batch[0]
        opt_g, opt_d = self.optimizers()
        self.toggle_optimizer(opt_d)
        fake = self.generator(torch.randn(len(real), 16)).detach()
        loss = (
            functional.softplus(-self.discriminator(real)).mean() + functional.softplus(self.discriminator(fake)).mean()
        )
        opt_d.zero_grad()
        self.manual_backward(loss)
        opt_d.step()
        self.untoggle_optimizer(opt_d)
        self.toggle_optimizer(opt_g)
        loss = functional.softplus(-self.discriminator(self.generator(torch.randn(len(real), 16)))).mean()
        opt_g.zero_grad()
        self.manual_backward(loss)
        opt_g.step()
        self.untoggle_optimizer(opt_g)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        fake = self.generator(torch.randn(len(batch[0]), 16))
        self.log("real", self.discriminator(batch[0]).mean())
        self.log("fake", self.discriminator(fake).mean())
        self.log("score", likeness(fake, batch[0]))

    def configure_optimizers(self) -> Any:
        both = (self.generator, self.discriminator)
        return [torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.5, 0.999)) for net in both]


class Variational(Classifier):
    """Batch norm in encoder and decoder; codes are drawn in the validation as well."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = tower(64, 96, 16), tower(8, 96, 64)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_scale = self.encoder(inputs).chunk(2, 1)
        code = mean + log_scale.exp() * torch.randn_like(mean)
        return torch.sigmoid(self.decoder(code)), mean, log_scale

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, mean, log_scale = self(batch[0])
        divergence = torch.distributions.kl_divergence(Normal(mean, log_scale.exp()), Normal(0.0, 1.0)).sum(1).mean()
        return functional.binary_cross_entropy(image, batch[0], reduction="sum") / len(image) + divergence

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", explained(self(batch[0])[0], batch[0]))


class Autoencoder(Classifier):
    def build(self) -> nn.Module:
        return nn.Sequential(tower(64, 64, 16), tower(16, 64, 64))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return functional.mse_loss(self(batch[0]), batch[0])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", explained(self(batch[0]), batch[0]))


class Embedding(Classifier):
    """What metric learning shares: the nearest neighbour in the batch is of the same class."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(tower(64, 96, 48), nn.BatchNorm1d(48), nn.ReLU())
        self.project = tower(48, 48, 24)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.project(self.encoder(inputs))

    def view(self, inputs: Tensor) -> Tensor:
        """A noisy view."""
        return inputs + 0.15 * torch.randn_like(inputs)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        codes = functional.normalize(self(batch[0]), dim=1)
        near = (codes @ codes.T).fill_diagonal_(-2.0).argmax(1)
        self.log("score", (batch[1][near] == batch[1]).float().mean())


class Triplet(Embedding):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        codes = functional.normalize(self(batch[0]), dim=1)
        far = torch.cdist(codes, codes)
        same = batch[1][:, None] == batch[1]
        return functional.relu((far * same).amax(1) - far.masked_fill(same, 9.0).amin(1) + 0.5).mean()


class SimSiam(Embedding):
    """Two views through one network, and no gradient for one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = tower(24, 12, 24)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        one, other = self(self.view(batch[0])), self(self.view(batch[0]))
        near = functional.cosine_similarity(self.predict(one), other.detach())
        return -(near + functional.cosine_similarity(self.predict(other), one.detach())).mean()


class Byol(SimSiam):
    """The target's weights follow those of the network; it is in training mode, under ``no_grad``."""

    def __init__(self) -> None:
        super().__init__()
        self.target = nn.Sequential(copy.deepcopy(self.encoder), copy.deepcopy(self.project)).requires_grad_(False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        views = [self.view(batch[0]) for _ in range(2)]
        with torch.no_grad():
            goals = [self.target(view) for view in reversed(views)]
        pairs = zip(views, goals, strict=True)
        return -sum(functional.cosine_similarity(self.predict(self(view)), goal).mean() for view, goal in pairs)

    @torch.no_grad()
    def on_train_batch_end(self, *_: Any) -> None:
        fast = [*self.encoder.parameters(), *self.project.parameters()]
        for slow, new in zip(self.target.parameters(), fast, strict=True):
            slow.lerp_(new, 0.05)


class Contrastive(Embedding):
    """Two views, and the logits of their likeness over the batch; the loss is logged in the validation too."""

    def loss(self, inputs: Tensor) -> Tensor:
        """How well views of one image find each other."""
        one, other = (functional.normalize(self(self.view(inputs)), dim=1) for _ in range(2))
        return functional.cross_entropy(one @ other.T / 0.2, torch.arange(len(one)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.loss(batch[0])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch[0]))
        super().validation_step(batch, batch_idx)


class TwoTowers(Classifier):
    """Upper and lower halves of images find each other: ``forward`` gives logits of all pairs of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower = tower(32, 96, 24), tower(32, 96, 24)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, upper: Tensor, lower: Tensor) -> Tensor:
        one, other = functional.normalize(self.upper(upper), dim=1), functional.normalize(self.lower(lower), dim=1)
        return self.scale.exp() * one @ other.T

    def shared_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss of both directions, and how many are found."""
        logits = self(*batch[0].split(32, 1))
        labels = torch.arange(len(logits), device=logits.device)
        loss = functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)
        return loss, (logits.argmax(1) == labels).float().mean()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.shared_step(batch)[0]

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, found = self.shared_step(batch)
        self.log("score", found)
        return loss


class TowersInModules(TwoTowers):
    """The logits of all pairs are made by a module of its own, which has a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = TwoTowers()
        del self.upper, self.lower, self.scale

    def forward(self, upper: Tensor, lower: Tensor) -> Tensor:
        return self.inner(upper, lower)


class Multitask(Classifier):
    """A class and the brightness from one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(tower(64, 96, 48), nn.BatchNorm1d(48), nn.ReLU())
        self.heads = nn.ModuleDict({"class": nn.Linear(48, 10), "brightness": tower(48, 16, 1)})

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        hidden = self.trunk(inputs)
        return {name: head(hidden) for name, head in self.heads.items()}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        out = self(batch[0])
        bright = functional.mse_loss(out["brightness"][:, 0], batch[0].mean(1))
        return functional.cross_entropy(out["class"], batch[1]) + bright

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        out = self(batch[0])
        self.log("score", (out["class"].argmax(1) == batch[1]).float().mean())
        return out


class SoftExperts(Classifier):
    """All experts are weighted by a soft router."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(64, 4)
        self.experts = nn.ModuleList(tower(64, 32, 10) for _ in range(4))

    def forward(self, inputs: Tensor) -> Tensor:
        weights = self.router(inputs).softmax(1)
        return torch.stack([expert(inputs) for expert in self.experts], 1).mul(weights[..., None]).sum(1)


class TestTimeViews(Classifier):
    """Predictions are a mean over shifted views, the same ones for every image, stacked along the batch."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        views = [batch[0].roll(shift, 3) for shift in (-1, 0, 1)]
        logits = self(torch.cat(views)).view(3, len(batch[0]), 10).mean(0)
        self.log("score", (logits.argmax(1) == batch[1]).float().mean())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        shift = int(torch.randint(-1, 2, ()))
        return super().training_step([batch[0].roll(shift, 3), batch[1]], batch_idx)

    def build(self) -> nn.Module:
        return cnn()


class Mixup(Classifier):
    def build(self) -> nn.Module:
        return mlp()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        share, order = float(torch.rand(())), torch.randperm(len(batch[0]))
        logits = self(share * batch[0] + (1 - share) * batch[0][order])
        loss = share * functional.cross_entropy(logits, batch[1])
        return loss + (1 - share) * functional.cross_entropy(logits, batch[1][order])


PROGRAMS = (
    Program(Adversarial, images(scale=centred), 6, -1.0),
    Program(Variational, digits(), 6, 0.3),
    Program(Autoencoder, digits(), 6, 0.4),
    Program(Triplet, digits(), 5, 0.85),
    Program(SimSiam, digits(), 5, 0.55),
    Program(Byol, digits(), 5, 0.55),
    Program(Contrastive, digits(), 5, 0.7),
    Program(TwoTowers, digits(32, valid=32), 5, 0.2),
    Program(TowersInModules, digits(32, valid=32), 5, 0.2),
    Program(Multitask, digits(), 5),
    Program(SoftExperts, digits(), 5),
    Program(TestTimeViews, images(), 5, 0.8),
    Program(Mixup, digits(), 6, 0.85),
)
