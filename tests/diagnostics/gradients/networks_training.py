"""Healthy ways to train: optimizers, rates, schedules, clipping, batches, precision, what is frozen and when."""

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from lightning.pytorch.callbacks import BackboneFinetuning, StochasticWeightAveraging
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from tests.diagnostics.activations.data import _digits, explained
from tests.diagnostics.activations.dense import stack
from tests.diagnostics.gradients.networks_data import Batch, Classifier, Loaders, Program, digits

SGD, ADAM = partial(torch.optim.SGD, lr=0.1), partial(torch.optim.Adam, lr=2e-3)
MOMENTUM = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def dense(optimizer: Any = None) -> Classifier:
    return Classifier(stack([64, 128, 128, 10]), optimizer)


def rows(*, batch: int, count: int = 0, noise: float = 0.0) -> Callable[[], Loaders]:
    """Digits, of which some rows, in batches of a size, some with a label drawn by chance."""

    def load() -> Loaders:
        training, validation = digits()
        inputs, labels = (tensor[: count or None] for tensor in training.dataset.tensors)
        drawn = torch.Generator().manual_seed(1)
        wrong = torch.rand(len(labels), generator=drawn) < noise
        labels = torch.where(wrong, torch.randint(10, labels.shape, generator=drawn), labels)
        return DataLoader(TensorDataset(inputs, labels), batch, shuffle=True, drop_last=True), validation

    return load


def _with(name: str, how: Any, epochs: int = 6, bar: float = 0.85, data: Any = digits, **settings: Any) -> Program:
    return Program(partial(dense, how), data, epochs, bar, name, settings)


# Schedules.


class Scheduled(Classifier):
    """A rate that a function of the step over all steps gives."""

    def __init__(self, factor: Callable[[float], float], optimizer: Any = MOMENTUM) -> None:
        super().__init__(stack([64, 128, 128, 10]), optimizer)
        self.factor = factor

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        steps = float(self.trainer.estimated_stepping_batches)
        schedule = lr_scheduler.LambdaLR(optimizer, lambda step: self.factor(step / steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def cosine(share: float) -> float:
    return (1 + math.cos(math.pi * min(share, 1.0))) / 2


def warmup(share: float) -> float:
    return min(1.0, share / 0.2) * cosine(share)


def long_tail(share: float) -> float:
    """Zero for the second half."""
    return max(0.0, 1 - 2 * share)


def restarts(share: float) -> float:
    return cosine((3 * share) % 1)


class LayerWise(Classifier):
    """A smaller rate for each layer further from the loss (Howard and Ruder 2018)."""

    def __init__(self, decay: float, optimizer: Any = torch.optim.SGD) -> None:
        super().__init__(stack([64, *[96] * 5, 10]))
        self.decay, self.kind = decay, optimizer
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def configure_optimizers(self) -> Any:
        layers = [layer for layer in self.net if isinstance(layer, nn.Linear)]
        rate = 0.1 if self.kind is torch.optim.SGD else 3e-3
        groups = [
            {"params": list(layer.parameters()), "lr": rate * self.decay**index}
            for index, layer in enumerate(reversed(layers))
        ]
        return self.kind(groups, **({"momentum": 0.9} if self.kind is torch.optim.SGD else {}))


# Frozen parts.


def pretrained() -> nn.Sequential:
    """Layers that were trained on another task."""
    backbone, task = nn.Sequential(*stack([64, 128, 128, 64]), nn.ReLU()), nn.Linear(64, 5)
    inputs, labels = _digits()
    optimizer = torch.optim.Adam([*backbone.parameters(), *task.parameters()], lr=2e-3)
    for part in torch.arange(len(inputs)).split(64) * 6:
        loss = functional.cross_entropy(task(backbone(inputs[part] / 16)), labels[part] // 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return backbone


class Transferred(Classifier):
    """A pretrained backbone below a new head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = pretrained()
        self.head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.backbone(inputs))


class FrozenInOptimizer(Transferred):
    """The optimizer has all weights, and those of the backbone require no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone.requires_grad_(False)


class Unfrozen(FrozenInOptimizer):
    """The same, until the third epoch."""

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 3:
            self.backbone.requires_grad_(True)


class HeadOnly(Transferred):
    """The optimizer has what requires a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone.requires_grad_(False)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(filter(lambda weight: weight.requires_grad, self.parameters()), lr=2e-3)


class Finetuned(Transferred):
    """For lightning's BackboneFinetuning, which adds the backbone to the optimizer in mid-run."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(filter(lambda weight: weight.requires_grad, self.parameters()), lr=2e-3)
        return {"optimizer": optimizer, "lr_scheduler": lr_scheduler.StepLR(optimizer, 100)}


class UnusedHead(Classifier):
    """A head of another task stays in the module, and requires no gradient."""

    def __init__(self) -> None:
        super().__init__(stack([64, 128, 10]))
        self.spare = nn.Linear(64, 1000).requires_grad_(False)


class FineRates(Transferred):
    """The backbone moves a hundred times slower than the head."""

    def configure_optimizers(self) -> Any:
        groups = [{"params": self.backbone.parameters(), "lr": 1e-3}, {"params": self.head.parameters()}]
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


# Losses near zero, and far from it.


class Interpolating(Classifier):
    """Trained until nothing is left to learn; the score is minus the logarithm of the loss."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__(stack([64, 256, 256, 10]), optimizer)
        self.last = 1.0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.last = 0.9 * self.last + 0.1 * float(loss.detach())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", -math.log10(max(self.last, 1e-12)))


class Scaled(Classifier):
    """A loss in another unit."""

    def __init__(self, scale: float) -> None:
        super().__init__(stack([64, 128, 128, 10]), ADAM)
        self.scale = scale

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.scale * super().training_step(batch, batch_idx)


class HeavyTails(Classifier):
    """A regression whose targets have outliers, with a squared loss."""

    def __init__(self, freedom: float = 2.0) -> None:
        super().__init__(stack([64, 64, 1]))
        self.noise = torch.distributions.StudentT(freedom)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        noise = self.noise.sample(batch[1].shape)
        return functional.mse_loss(self(batch[0])[:, 0], batch[1] + noise)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", explained(self(batch[0])[:, 0], batch[1].float()))


class NewTask(Classifier):
    """In the middle of the run the pixels are permuted, and half of the labels change."""

    def __init__(self) -> None:
        super().__init__(stack([64, 128, 128, 10]), MOMENTUM)
        self.register_buffer("order", torch.randperm(64))

    def changed(self, batch: Batch) -> Batch:
        """The batch, as it is by now."""
        return [batch[0][:, self.order], batch[1]] if self.current_epoch >= 5 else batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return super().training_step(self.changed(batch), batch_idx)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        super().validation_step(self.changed(batch), batch_idx)


# Loops by hand.


class ByHand(Classifier):
    """Manual optimisation as in the documentation, with a clipping of its own."""

    def __init__(self) -> None:
        super().__init__(stack([64, 128, 128, 10]))
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(functional.cross_entropy(self(batch[0]), batch[1]))
        self.clip_gradients(optimizer, 0.5, "norm")
        optimizer.step()


class SharpnessAware(ByHand):
    """Two backward passes a step, the second at weights that were moved uphill (Foret et al. 2021)."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer, weights = self.optimizers(), list(self.parameters())
        optimizer.zero_grad()
        self.manual_backward(functional.cross_entropy(self(batch[0]), batch[1]))
        with torch.no_grad():
            length = torch.stack([weight.grad.norm() for weight in weights]).norm() + 1e-12
            moves = [0.05 * weight.grad / length for weight in weights]
            for weight, move in zip(weights, moves, strict=True):
                weight.add_(move)
        optimizer.zero_grad()
        self.manual_backward(functional.cross_entropy(self(batch[0]), batch[1]))
        with torch.no_grad():
            for weight, move in zip(weights, moves, strict=True):
                weight.sub_(move)
        optimizer.step()


class RawBackward(ByHand):
    """``loss.backward()`` and the bare optimizer."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        functional.cross_entropy(self(batch[0]), batch[1]).backward()
        optimizer.step()


class SharedByTwo(ByHand):
    """The trunk is in two optimizers, each of which has a head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU())
        self.digit, self.parity = nn.Linear(96, 10), nn.Linear(96, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.digit(self.net(inputs))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        goals = (self.digit, batch[1]), (self.parity, batch[1] % 2)
        for optimizer, (head, goal) in zip(self.optimizers(), goals, strict=True):
            optimizer.zero_grad()
            self.manual_backward(functional.cross_entropy(head(self.net(batch[0])), goal))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([*self.net.parameters(), *h.parameters()], lr=0.1) for h in (self.digit, self.parity)]


class TwoOptimizers(ByHand):
    """Trunk and head have an optimizer each, and one backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Sequential(nn.Linear(64, 96), nn.ReLU()), nn.Linear(96, 10)
        self.net = nn.Sequential(self.trunk, self.head)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        both = self.optimizers()
        for optimizer in both:
            optimizer.zero_grad()
        self.manual_backward(functional.cross_entropy(self(batch[0]), batch[1]))
        for optimizer in both:
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [ADAM(self.trunk.parameters()), torch.optim.SGD(self.head.parameters(), lr=0.1)]


class OfEveryWeight(Classifier):
    """Weights without decay, matrices with it, in groups of one optimizer."""

    def build(self) -> nn.Module:
        return stack([64, 128, 128, 10], norm=nn.LayerNorm)

    def configure_optimizers(self) -> Any:
        def of(few: bool) -> Iterator[Tensor]:
            yield from (weight for weight in self.parameters() if (weight.dim() < 2) == few)

        groups = [{"params": list(of(False)), "weight_decay": 0.1}, {"params": list(of(True)), "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=2e-3)


class CopyInTheFirstStep(Classifier):
    """A mean of the weights by hand, made by ``deepcopy`` once training has begun; nobody freezes it."""

    def __init__(self) -> None:
        super().__init__(stack([64, 128, 64, 10]))
        self.average: nn.Module | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.average is None:
            self.average = copy.deepcopy(self.net)
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 0.1)
        return super().training_step(batch, batch_idx)


FAST, SPIKY = partial(torch.optim.Adam, lr=1e-2), partial(torch.optim.Adam, lr=3e-3)
WOLFE = partial(torch.optim.LBFGS, lr=1.0, max_iter=10, line_search_fn="strong_wolfe")

PROGRAMS = (
    _with("sgd", SGD, 10),
    _with("sgd_high_rate", partial(torch.optim.SGD, lr=0.5)),
    _with("sgd_low_rate", partial(torch.optim.SGD, lr=3e-3, momentum=0.9), 12, 0.65),
    _with("momentum", MOMENTUM),
    _with("momentum_high_rate", partial(torch.optim.SGD, lr=0.3, momentum=0.9), 10, 0.85),
    _with("nesterov", partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)),
    _with("adam_high_rate", partial(torch.optim.Adam, lr=2e-2), 8),
    _with("adam_low_rate", partial(torch.optim.Adam, lr=1e-4), 12, 0.75),
    _with("adamw_strong_decay", partial(torch.optim.AdamW, lr=2e-3, weight_decay=1.0)),
    _with("adagrad", partial(torch.optim.Adagrad, lr=0.02)),
    _with("rmsprop", partial(torch.optim.RMSprop, lr=1e-3)),
    _with("adadelta", partial(torch.optim.Adadelta, lr=1.0)),
    _with("nadam", partial(torch.optim.NAdam, lr=2e-3)),
    _with("adamax", partial(torch.optim.Adamax, lr=4e-3)),
    _with("rprop", partial(torch.optim.Rprop, lr=1e-3), 40, 0.85, rows(batch=1437)),
    _with("lbfgs", partial(torch.optim.LBFGS, lr=0.5, max_iter=5), 20, 0.85, rows(batch=1437)),
    _with("lbfgs_wolfe", WOLFE, 10, 0.85, rows(batch=1437)),
    _with("lbfgs_small_batches", partial(WOLFE, max_iter=4, lr=0.2), 4, 0.8, rows(batch=359)),
    Program(partial(Scheduled, cosine), epochs=8, bar=0.9, label="cosine"),
    Program(partial(Scheduled, cosine, ADAM), epochs=14, bar=0.9, label="cosine_adam_long"),
    Program(partial(Scheduled, lambda share: max(0.0, 1 - share)), epochs=8, bar=0.9, label="linear_to_zero"),
    Program(partial(Scheduled, long_tail), epochs=16, bar=0.9, label="zero_for_half_of_the_run"),
    Program(partial(Scheduled, warmup, ADAM), epochs=8, bar=0.9, label="warmup_and_cosine"),
    Program(partial(Scheduled, restarts), epochs=12, bar=0.9, label="warm_restarts"),
    Program(partial(LayerWise, 0.4), epochs=10, label="layer_wise_rates"),
    Program(partial(LayerWise, 0.2), epochs=12, bar=0.8, label="layer_wise_rates_steep"),
    Program(partial(LayerWise, 0.4, torch.optim.Adam), epochs=8, bar=0.8, label="layer_wise_rates_adam"),
    _with("clipped", ADAM, gradient_clip_val=1.0),
    _with("clipped_hard", MOMENTUM, 10, 0.8, gradient_clip_val=0.05),
    _with("clipped_by_value", MOMENTUM, gradient_clip_val=0.01, gradient_clip_algorithm="value"),
    _with("batches_of_one", partial(torch.optim.SGD, lr=0.01), 3, 0.7, rows(batch=1, count=500)),
    _with("batches_of_one_adam", partial(torch.optim.Adam, lr=5e-4), 3, 0.8, rows(batch=1, count=400)),
    _with("batches_of_two", partial(torch.optim.SGD, lr=0.02), 4, 0.8, rows(batch=2, count=600)),
    _with("batches_of_four", partial(torch.optim.SGD, lr=0.02, momentum=0.9), 6, 0.85, rows(batch=4, count=700)),
    _with("full_batch", partial(torch.optim.SGD, lr=0.5), 150, 0.85, rows(batch=1437)),
    _with("full_batch_few_rows", ADAM, 200, 0.7, rows(batch=200, count=200)),
    _with("accumulated", ADAM, 8, 0.85, rows(batch=16), accumulate_grad_batches=4),
    _with("label_noise", ADAM, 15, 0.6, rows(batch=64, noise=0.4)),
    _with("label_noise_small_batches", MOMENTUM, 4, 0.5, rows(batch=8, noise=0.3)),
    _with("few_wrong_labels", ADAM, 15, 0.85, rows(batch=16, noise=0.01, count=800)),
    _with("bf16", ADAM, precision="bf16-mixed"),
    _with("bf16_true", ADAM, 8, 0.8, precision="bf16-true"),
    Program(partial(Interpolating, FAST), rows(batch=25, count=100), 200, 4.5, "interpolating"),
    Program(partial(Interpolating, SGD), rows(batch=4, count=320), 15, 1.5, "interpolating_small_batches"),
    Program(partial(Interpolating, SPIKY), rows(batch=4, count=320), 16, 1.5, "interpolating_with_spikes"),
    Program(partial(Scaled, 1e4), bar=0.9, label="loss_times_10000"),
    Program(partial(Scaled, 1e-5), bar=0.85, label="loss_over_100000"),
    Program(HeavyTails, epochs=12, bar=0.3),
    Program(partial(HeavyTails, 1.5), epochs=20, bar=0.1, label="heavier_tails"),
    Program(NewTask, epochs=12, bar=0.85),
    Program(Transferred, bar=0.8),
    Program(FrozenInOptimizer, epochs=10, bar=0.8),
    Program(Unfrozen, epochs=8, bar=0.8),
    Program(HeadOnly, epochs=10, bar=0.8),
    Program(Finetuned, epochs=8, bar=0.8, callbacks=lambda: [BackboneFinetuning(3, lambda epoch: 1.5)]),
    Program(FineRates, epochs=8, bar=0.8),
    Program(UnusedHead),
    Program(ByHand),
    Program(SharpnessAware),
    Program(RawBackward),
    Program(SharedByTwo, epochs=8, bar=0.8),
    Program(TwoOptimizers),
    Program(OfEveryWeight),
    Program(CopyInTheFirstStep),
    Program(
        *(partial(dense, MOMENTUM), digits, 8, 0.9, "stochastic_weight_averaging"),
        callbacks=lambda: [StochasticWeightAveraging(0.02, swa_epoch_start=4)],
    ),
)
