"""A tiny program whose optimizers tell every rate they compute with, and runs of it with and without the callback."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from lightning_diagnostics import WarmupCooldownScheduler
from lightning_diagnostics.statistics import cooldown_factor, warmup_cooldown_factor, warmup_factor
from tests import helpers

BATCHES = 10
"""In an epoch."""

Used = list[tuple[int, float]]
"""The value of ``trainer.global_step`` and the rate, whenever an optimizer computes the update of a group."""


class Program(LightningModule):
    """A regression in automatic optimisation.

    Args:
        configure: Gives what `configure_optimizers` gives.
    """

    def __init__(self, configure: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        self.configure = configure or (lambda program: program.spied())
        self.used: Used = []
        self.read: list[list[float]] = []
        """The rates that the program itself reads, in each batch."""

    def spied(self, kind: type[Optimizer] = SGD, params: Any = None, **options: Any) -> Any:
        """An optimizer of torch's that tells the rate of each group where it computes its update."""
        return spied(kind, self.note)(self.parameters() if params is None else params, **{"lr": 0.1, **options})

    def note(self, rate: float) -> None:
        self.used.append((self.trainer.global_step, rate))

    def groups(self, **options: Any) -> list[dict[str, Any]]:
        """A group for each layer, of which the second has the options."""
        return [{"params": self.net[0].parameters()}, {"params": self.net[2].parameters(), **options}]

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]).squeeze(-1), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        self.read.append(own_rates(self.trainer))
        self.log("metric", 1.0)  # of which a plateau can be known before
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return self.configure(self)


class Validated(Program):
    """A regression that can be validated and tested, too."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    test_step = validation_step


class ByHand(Program):
    """A regression in manual optimisation.

    Args:
        configure: Gives what `configure_optimizers` gives.
        act: Makes the steps of a batch.
    """

    def __init__(
        self, configure: Callable[[Any], Any] | None = None, act: Callable[[Any, Any, int], None] | None = None
    ) -> None:
        super().__init__(configure)
        self.automatic_optimization = False
        self.act = act or step_each

    def training_step(self, batch: Any, batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        self.act(self, batch, batch_idx)

    def go(self, optimizer: Any, batch: Any) -> None:
        """One step."""
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


def step_each(program: ByHand, batch: Any, batch_idx: int) -> None:
    """One step of each optimizer."""
    optimizers: Any = program.optimizers()
    for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
        program.go(optimizer, batch)


def spied(kind: type[Optimizer], note: Callable[[float], None]) -> Any:
    """A class of optimizer that tells the rate of each group where it computes its update."""

    class Spied(kind):  # pyright: ignore[reportGeneralTypeIssues]  # any class of optimizer
        def _init_group(self, group: dict[str, Any], *args: Any) -> Any:
            note(float(group["lr"]))
            return super()._init_group(group, *args)  # pyright: ignore[reportAttributeAccessIssue]  # each of torch's has it

    Spied.__name__ = kind.__name__
    return Spied


def own_rates(trainer: Trainer) -> list[float]:
    """The rates of all groups, as the program reads them."""
    return [float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]


def data(batches: int = BATCHES) -> DataLoader:
    """The same batches of two rows in the same order, always."""
    draw = torch.Generator().manual_seed(3)
    inputs = torch.randn(2 * batches, 3, generator=draw)
    return DataLoader(TensorDataset(inputs, inputs.sum(dim=1)), batch_size=2)


def train(program: Program, *callbacks: Any, batches: int = BATCHES, **settings: Any) -> Trainer:
    """Train from the same weights always; gives the Trainer."""
    run = helpers.trainer(*callbacks, **settings)
    restart(program)
    run.fit(program, data(batches))
    return run


def restart(program: nn.Module) -> None:
    """Give a program the weights that all begin with."""
    seed_everything(1, verbose=False)
    for parameter in program.parameters():
        nn.init.normal_(parameter, std=0.3)


def schedule(**arguments: Any) -> WarmupCooldownScheduler:
    """The callback, with a warmup and a cooldown of a few steps unless told otherwise."""
    return WarmupCooldownScheduler(
        **{"strict": True, "every_n_train_steps": 3, "warmup": 6, "cooldown": 8, **arguments}
    )


def factor(step: float, total: float, *, warmup: float = 6, cooldown: float = 8, **shapes: Any) -> float:
    """The factor of a step, by the function that users have."""
    return warmup_cooldown_factor(step, total_steps=total, warmup_steps=warmup, cooldown_steps=cooldown, **shapes)


def by_hand(own: float, place: float, end: float, *, warmup: float = 6, cooldown: float = 8) -> float:
    """The factor in manual optimisation: a warmup of the optimizer's own steps, and a cooldown of the run's batches."""
    return warmup_factor(own, warmup) * cooldown_factor((place - (end - cooldown)) / cooldown)


def times(base: Used, total: float, **lengths: Any) -> Used:
    """The rates that should be used where those of a run without the callback are these."""
    return [(step, rate * factor(step, total, **lengths)) for step, rate in base]


def rates(used: Used) -> list[float]:
    """Without the steps."""
    return [rate for _, rate in used]


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether weights are equal, to the bit."""
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def scaler(**options: Any) -> dict[str, Any]:
    """Settings of a Trainer that trains in fp16 with a real gradient scaler, on the CPU."""
    return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", **options))]}


def codes(callback: WarmupCooldownScheduler) -> set[str]:
    """Of all findings, notes included."""
    return {finding.code for finding in callback.findings}


class Notebook(Logger):
    """Keeps what is logged, by name: step and value."""

    def __init__(self) -> None:
        super().__init__()
        self.curves: dict[str, list[tuple[int, float]]] = {}

    @property
    def name(self) -> str:
        return "notebook"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self.curves.setdefault(name, []).append((step or 0, value))

    def values(self, name: str) -> Sequence[float]:
        return [value for _, value in self.curves[name]]
