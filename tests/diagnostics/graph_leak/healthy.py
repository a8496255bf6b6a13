"""Programs that look as if they kept graphs and do not, or keep a few on purpose."""

import copy
from collections import deque
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from tests.diagnostics.graph_leak.sick import Classifier


class KeepsTheLast(Classifier):
    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.last, self.last_logits = loss, logits


class Logs(Classifier):
    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)


class DetachedAverage(Classifier):
    average: Any = 0.0

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.average = 0.9 * self.average + 0.1 * loss.detach()


class Items(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.losses.append(loss.item())


class ShortWindow(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.window: deque[Tensor] = deque(maxlen=5)

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.window.append(loss)


class Recurrent(Classifier):
    """Truncated back-propagation over one batch, the state cut after each."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(8, 8, batch_first=True)
        self.hidden: Any = None

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        features, hidden = self.rnn(batch[0][:, None], self.hidden)
        self.hidden = hidden.detach()
        return functional.cross_entropy(self.net(features[:, 0]), batch[1])


class RecurrentOverFive(Recurrent):
    """Truncated back-propagation over five batches."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.total: Any = 0.0

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        features, self.hidden = self.rnn(batch[0][:, None], self.hidden)
        self.total = self.total + functional.cross_entropy(self.net(features[:, 0]), batch[1])
        if batch_idx % 5 == 4:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.total)
            optimizer.step()
            self.hidden, self.total = self.hidden.detach(), 0.0


class MeanTeacher(Classifier):
    """A teacher made by deepcopy in the first step."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if "teacher" not in self.__dict__:
            self.__dict__["teacher"] = copy.deepcopy(self.net)
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 0.01)
            target = self.teacher(batch[0])
        logits = self.net(batch[0])
        return functional.cross_entropy(logits, batch[1]) + functional.mse_loss(logits, target)


class Metrics(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.accuracy, self.mean = MulticlassAccuracy(3), MeanMetric()

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.accuracy(logits, torch.zeros(len(logits), dtype=torch.long))
        self.mean(loss)
        self.log("accuracy", self.accuracy)
        self.log("mean", self.mean)


class Gan(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))
        self.critic = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(), nn.Linear(16, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.fake = self.generator(torch.randn(len(batch[0]), 4))
        critic = functional.softplus(-self.critic(batch[0])) + functional.softplus(self.critic(self.fake.detach()))
        for index, optimizer in reversed(list(enumerate(self.optimizers()))):
            loss = critic.mean() if index else functional.softplus(-self.critic(self.fake)).mean()
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(net.parameters()) for net in (self.generator, self.critic)]


class GradientPenalty(Classifier):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        inputs = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.net(inputs).sum(), inputs, create_graph=True)
        return functional.cross_entropy(self.net(inputs), batch[1]) + slope.square().mean()


class SecondOrder(Classifier):
    """backward(create_graph=True) with gradients cleared before each."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx), create_graph=True)
        optimizer.step()


class Checkpointed(Classifier):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        hidden = checkpoint(self.net[1], self.net[0](batch[0]), use_reentrant=False)
        return functional.cross_entropy(self.net[2](hidden), batch[1])


class CheckpointedReentrant(Classifier):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        hidden = checkpoint(self.net[1], self.net[0](batch[0]), use_reentrant=True)
        return functional.cross_entropy(self.net[2](hidden), batch[1])


class Cycles(Classifier):
    """Objects that refer to themselves: freed by the collector, some time."""

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        cycle: list[Any] = [loss, logits]
        cycle.append(cycle)


class CachedSubgraph(Classifier):
    """A part of the graph is computed once and used in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.eye(8))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if "projection" not in self.__dict__:
            self.__dict__["projection"] = self.basis @ self.basis
        return functional.cross_entropy(self.net(batch[0] @ self.projection), batch[1])

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward(retain_graph=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.01)


class Lbfgs(Classifier):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), max_iter=3)


class Compiled(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend="aot_eager")


class NoneSometimes(Classifier):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss if batch_idx % 3 else None


class Episodes(Classifier):
    """Collects the losses of twenty steps for one backward pass, as policy gradients do."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.episode: list[Tensor] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.episode.append(functional.cross_entropy(self.net(batch[0]), batch[1]))
        if len(self.episode) == 20:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(torch.stack(self.episode).mean())
            optimizer.step()
            self.episode.clear()


class RawEpisodes(Episodes):
    """The same, calling backward itself."""

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward()


HEALTHY = (
    *(Classifier, KeepsTheLast, Logs, DetachedAverage, Items, ShortWindow, Recurrent, RecurrentOverFive, MeanTeacher),
    *(Metrics, Gan, GradientPenalty, SecondOrder, Checkpointed, CheckpointedReentrant, Cycles, CachedSubgraph, Lbfgs),
    *(Compiled, NoneSometimes, Episodes, RawEpisodes),
)
