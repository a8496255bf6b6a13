"""What a program of this sweep consists of, and how it is trained: a small regression under a schedule."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_diagnostics import WarmupCooldownScheduler
from tests.helpers import trainer

ROWS, WIDTH = 8, 6


@dataclass(frozen=True)
class Size:
    """How long a run is.

    Attributes:
        epochs: Its epochs.
        batches: Batches of each.
        accumulate: Batches of an optimizer step.
    """

    epochs: int
    batches: int
    accumulate: int = 1

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return self.epochs * math.ceil(self.batches / self.accumulate)

    def __str__(self) -> str:
        return f"{self.epochs}x{self.batches}" + (f"/{self.accumulate}" if self.accumulate > 1 else "")


SIZES = (Size(4, 60), Size(30, 8), Size(12, 40, 4))
"""Few long epochs, many short ones, and accumulated gradients."""


class Regression(LightningModule):
    """A regression whose optimizers and schedulers a function gives.

    Args:
        configure: Gives what ``configure_optimizers`` returns.
        size: How long it is trained.
    """

    def __init__(self, configure: Callable[..., Any], size: Size) -> None:
        super().__init__()
        self.configure, self.size = configure, size
        self.net = nn.Sequential(nn.Linear(WIDTH, 12), nn.Tanh(), nn.Linear(12, 1))

    def loss(self, batch: Sequence[Tensor]) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0])[:, 0], batch[1])

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
        return self.loss(batch)

    def on_train_epoch_end(self) -> None:
        self.log("end_loss", self.loss(table(64)))

    def configure_optimizers(self) -> Any:
        return self.configure(self)


class ByHand(Regression):
    """The same in manual optimisation, with as many optimizers as there are; the schedulers are stepped at batches."""

    def __init__(self, configure: Callable[..., Any], size: Size) -> None:
        super().__init__(configure, size)
        self.automatic_optimization = False

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        for optimizer in _listed(self.optimizers()):
            self.toggle_optimizer(optimizer)
            self.manual_backward(self.loss(batch) / self.size.accumulate)
            self.untoggle_optimizer(optimizer)
        if (batch_idx + 1) % self.size.accumulate == 0 or self.trainer.is_last_batch:
            for optimizer in _listed(self.optimizers()):
                optimizer.step()
                optimizer.zero_grad()
            self.after_step()

    def after_step(self) -> None:
        for scheduler in _listed(self.lr_schedulers()):
            scheduler.step()


class ByHandEachEpoch(ByHand):
    """The schedulers are stepped at the end of an epoch."""

    def after_step(self) -> None:
        pass

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        for scheduler in _listed(self.lr_schedulers()):
            scheduler.step()


def _listed(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found] if found is not None else []


def table(rows: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets."""
    inputs = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(5))
    return inputs, inputs[:, 0] * inputs[:, 1].sign() + inputs[:, 2:].sum(dim=1)


def rows(size: Size) -> DataLoader[Any]:
    """A loader with a length."""
    return DataLoader(TensorDataset(*table(ROWS * size.batches)), ROWS)


class _Stream(IterableDataset[Any]):
    def __init__(self, size: Size) -> None:
        self.rows = table(ROWS * size.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(zip(*self.rows, strict=True)))


def stream(size: Size) -> DataLoader[Any]:
    """A loader without one."""
    return DataLoader(_Stream(size), ROWS)


def _nothing(size: Size) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Program:
    """A schedule, what it is on top of, and how it is trained.

    Attributes:
        configure: Gives what ``configure_optimizers`` returns, given the module.
        kind: The module's class.
        bar: What the loss falls to, as a share of that of before training, if the program is healthy.
        label: What it is called; the name of ``configure`` if empty.
        sizes: How long it is trained.
        settings: Further arguments of the Trainer, given the size.
        callbacks: Gives further callbacks of the Trainer.
        data: Gives the training loader.
        acting: Arguments with which the callback acts on it.
        first: Epochs of a first run, of which this one is the continuation.
    """

    configure: Callable[..., Any]
    kind: type[Regression] = Regression
    bar: float = 0.8
    label: str = ""
    sizes: tuple[Size, ...] = SIZES
    settings: Callable[[Size], dict[str, Any]] = _nothing
    callbacks: Callable[[], list[Callback]] = list
    data: Callable[[Size], DataLoader[Any]] = rows
    acting: dict[str, Any] = field(default_factory=dict)
    first: Callable[[Size], int] | None = None

    @property
    def name(self) -> str:
        """What it is called in tests and tables."""
        return self.label or self.configure.__name__


def train(program: Program, size: Size, make: Callable[[], WarmupCooldownScheduler]) -> tuple[float, list[Any]]:
    """Train; gives what the loss fell to, as a share of that of before, and the callback of each run."""
    torch.manual_seed(0)
    module = program.kind(program.configure, size)
    before = module.loss(table(64)).item()
    if program.first is None:
        ours = [make()]
        _run(program, size, ours[0]).fit(module, program.data(size))
    else:
        ours = [make(), make()]
        with TemporaryDirectory() as folder:
            checkpoint = Path(folder) / "half.ckpt"
            half = _run(program, size, ours[0], max_epochs=program.first(size))
            half.fit(module, program.data(size))
            half.save_checkpoint(checkpoint)
            module = program.kind(program.configure, size)
            _run(program, size, ours[1]).fit(module, program.data(size), ckpt_path=checkpoint)
    return module.loss(table(64)).item() / before, ours


def _run(program: Program, size: Size, ours: WarmupCooldownScheduler, **more: Any) -> Trainer:
    lengths = {"max_epochs": size.epochs}
    if not issubclass(program.kind, ByHand):
        lengths["accumulate_grad_batches"] = size.accumulate
    return trainer(ours, *program.callbacks(), **{**lengths, **program.settings(size), **more})
