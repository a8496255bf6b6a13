"""Networks on digits that are sick by one realistic mistake each, and their repaired twins."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.nn import functional

from lightning_diagnostics import Severity
from tests.diagnostics.activations.data import explained, standardised_digits
from tests.diagnostics.activations.dense import stack
from tests.diagnostics.gradients.networks_data import Batch, Classifier, Loaders, Program, digits


class Patient(Classifier):
    """A classifier with a mistake in it, or without."""

    def __init__(self, *, sick: bool) -> None:
        self.__dict__["sick"] = sick
        super().__init__()


# Depth and time.


class DeepSigmoid(Patient):
    """Seven layers of sigmoids, each of which lets through a quarter of the gradient at the most."""

    def build(self) -> nn.Module:
        net = stack([64, *[64] * 7, 10], act=nn.Sigmoid if self.sick else nn.ReLU)
        if not self.sick:
            for layer in net:
                if isinstance(layer, nn.Linear):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        return net

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class FiveSigmoids(Patient):
    """The same with fewer layers and plain SGD; as a twin the same with norms between the layers."""

    def build(self) -> nn.Module:
        return stack([64, *[64] * 5, 10], act=nn.Sigmoid, norm=None if self.sick else nn.BatchNorm1d)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class DeepTanh(Patient):
    """Sixteen layers of tanh whose weights are five times too small: all gradients vanish but those of the last."""

    def build(self) -> nn.Module:
        net = stack([64, *[64] * 16, 10], act=nn.Tanh)
        for layer in net:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight, gain=0.3 if self.sick else nn.init.calculate_gain("tanh"))
                nn.init.zeros_(layer.bias)
        return net

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Recurrent(Patient):
    """A regression on pixels in pairs: the state's gain is above one, and nothing clips its gradient."""

    def build(self) -> nn.Module:
        self.rnn = nn.RNN(2, 64, batch_first=True)
        nn.init.orthogonal_(self.rnn.weight_hh_l0, gain=1.2)
        return nn.Linear(64, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(self.rnn(inputs.view(len(inputs), -1, 2))[0][:, -1])[:, 0]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return functional.mse_loss(self(batch[0]), batch[1] - 4.5)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", explained(self(batch[0]), batch[1] - 4.5))

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **settings: Any) -> None:
        if not self.sick:
            self.clip_gradients(optimizer, 1.0, "norm")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.03)


class ReluRecurrent(Recurrent):
    """Nothing bounds the state of ReLU: a single step is enough, and the next loss is beyond float32."""

    gain, rate = 1.0, 0.15

    def build(self) -> nn.Module:
        self.rnn = nn.RNN(2, 64, batch_first=True, nonlinearity="relu")
        nn.init.orthogonal_(self.rnn.weight_hh_l0, gain=self.gain)
        return nn.Linear(64, 1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class ReluRecurrentSteep(ReluRecurrent):
    """It may be the first twenty steps, in which there is no window to compare with."""

    gain, rate = 1.2, 0.07


class RateTooLarge(Patient):
    """A regression whose warmup goes to ten times the rate that it bears."""

    def build(self) -> nn.Module:
        return stack([64, 64, 1], act=nn.Tanh)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return functional.mse_loss(self(batch[0])[:, 0], batch[1] - 4.5)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", explained(self(batch[0])[:, 0], batch[1] - 4.5))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.2 if self.sick else 0.02)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 60))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


# Parameters that are left out.


class TwoParts(Patient):
    """A backbone below a head."""

    def __init__(self, *, sick: bool) -> None:
        super().__init__(sick=sick)
        self.backbone = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU())
        self.head = nn.Linear(96, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.backbone(inputs))


class ForgottenBackbone(TwoParts):
    """The optimizer has the head alone."""

    def configure_optimizers(self) -> Any:
        return self.adam((self.head if self.sick else self).parameters())


class Detached(TwoParts):
    """Features are detached on their way to the head."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.backbone(inputs)
        return self.head(features.detach() if self.sick else features)


class NoGrad(TwoParts):
    """Features are computed without gradients, as if the backbone were frozen."""

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.sick and torch.is_grad_enabled()):
            features = self.backbone(inputs)
        return self.head(features)


class NeverCalled(TwoParts):
    """A block is built and left out of the forward pass."""

    def __init__(self, *, sick: bool) -> None:
        super().__init__(sick=sick)
        self.neck = nn.Sequential(nn.Linear(96, 96), nn.LayerNorm(96), nn.ReLU())

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.backbone(inputs)
        return self.head(features if self.sick else self.neck(features))


class ReplacedLater(TwoParts):
    """A new head is made when training starts, after the optimizer was."""

    def on_train_start(self) -> None:
        if self.sick:
            self.head = nn.Linear(96, 10)


class HalfForgotten(TwoParts):
    """One of two optimizers is given the wrong half."""

    def __init__(self, *, sick: bool) -> None:
        super().__init__(sick=sick)
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        both = self.optimizers()
        for optimizer in both:
            optimizer.zero_grad()
        self.manual_backward(functional.cross_entropy(self(batch[0]), batch[1]))
        for optimizer in both:
            optimizer.step()

    def configure_optimizers(self) -> Any:
        second = self.backbone[0] if self.sick else self.backbone
        return [self.adam(self.head.parameters()), torch.optim.SGD(second.parameters(), lr=0.05)]


# Numbers that are not finite.


class RootOfZero(Patient):
    """From a step on a pair of images is one image twice, whose distance is a root of zero: its slope is infinite."""

    at = 30

    def build(self) -> nn.Module:
        self.head = nn.Linear(32, 10)
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.net(inputs))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        codes = self.net(batch[0])
        other = codes.roll(1, 0)
        if self.global_step == self.at:
            other = torch.cat([codes[:1], other[1:]])
        squares = (codes - other).square().sum(1)
        far = (squares if self.sick else squares + 1e-12).sqrt()
        return functional.cross_entropy(self.head(codes), batch[1]) + 0.01 * far.mean()


class LogOfZero(Patient):
    """The loss of one batch is the logarithm of zero."""

    at = 30

    def build(self) -> nn.Module:
        return stack([64, 64, 10])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        chances = self(batch[0]).softmax(1)
        if self.global_step == self.at:
            chances = functional.one_hot((batch[1] + 1) % 10, 10) * chances
        if not self.sick:
            chances = chances.clamp(min=1e-6)
        return -(functional.one_hot(batch[1], 10) * chances.log()).sum(1).mean()


# Steps that do nothing, or something else.


class DeadUnits(Patient):
    """The last hidden layer is never on: all gradients below the last bias are zero, and that is not in use."""

    def build(self) -> nn.Module:
        net = nn.Sequential(*stack([64, 64, 64, 64])[:-1], nn.Linear(64, 10, bias=False))
        nn.init.constant_(net[2].bias, -20.0 if self.sick else 0.0)
        return net


class ScaledClipping(TwoParts):
    """Manual optimisation in 16 bits: gradients are clipped while they are still multiplied with the loss scale."""

    def __init__(self, *, sick: bool) -> None:
        super().__init__(sick=sick)
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(functional.cross_entropy(self(batch[0]).float(), batch[1]))
        scale = 1.0 if self.sick else self.trainer.scaler.get_scale()
        nn.utils.clip_grad_norm_(self.parameters(), 1.0 * scale)
        optimizer.step()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def sixteen_bits() -> dict[str, Any]:
    """Mixed precision with a gradient scaler, on the CPU."""
    return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]}


@dataclass(frozen=True)
class Case:
    """A sick network and what is to be found.

    Attributes:
        make: The network, with ``sick=True`` or without.
        code: Of the finding.
        where: The place that it names.
        first: Its first step, at least and at most.
        severity: How severe it is.
        others: Codes that follow from it.
        data: What it is trained on.
        epochs: How long.
        bar: The score of the twin at the least.
        settings: Gives further arguments of the Trainer.
    """

    make: Callable[..., Patient]
    code: str
    where: str
    first: tuple[int, int] = (0, 0)
    severity: Severity = Severity.WARNING
    others: frozenset[str] = frozenset()
    data: Callable[[], Loaders] = digits
    epochs: int = 5
    bar: float = 0.85
    settings: Callable[[], dict[str, Any]] = dict

    def program(self, *, sick: bool) -> Program:
        """As the sweep trains it."""
        make = partial(self.make, sick=sick)
        return Program(make, self.data, self.epochs, self.bar, str(self), self.settings())

    def __str__(self) -> str:
        return self.make.__name__


BROKEN = frozenset({"GRD101"})

CASES = (
    Case(DeepSigmoid, "GRD104", "net.0.weight", data=standardised_digits),
    Case(FiveSigmoids, "GRD104", "net.0.weight", data=standardised_digits),
    Case(DeepTanh, "GRD104", "net.0.weight", (0, 20), data=standardised_digits),
    Case(Recurrent, "GRD105", "SGD", (20, 120), others=BROKEN, epochs=8, bar=0.25),
    Case(ReluRecurrent, "GRD105", "SGD", (5, 105), others=BROKEN, bar=0.2),
    Case(ReluRecurrentSteep, "GRD105", "SGD", (5, 60), others=BROKEN, bar=0.2),
    Case(RateTooLarge, "GRD105", "SGD", (20, 120), others=BROKEN, epochs=6, bar=0.3),
    Case(ForgottenBackbone, "GRD103", "backbone"),
    Case(ReplacedLater, "GRD103", "head"),
    Case(HalfForgotten, "GRD103", "backbone.2"),
    Case(Detached, "GRD102", "backbone"),
    Case(NoGrad, "GRD102", "backbone"),
    Case(NeverCalled, "GRD102", "neck"),
    Case(RootOfZero, "GRD101", "net.2.bias", (30, 30), Severity.ERROR),
    Case(LogOfZero, "GRD101", "net.2.bias", (30, 30), Severity.ERROR),
    Case(ScaledClipping, "GRD803", "SGD", (1, 1), epochs=6, bar=0.8, settings=sixteen_bits),
    Case(DeadUnits, "GRD801", "Adam", severity=Severity.INFO),
)
