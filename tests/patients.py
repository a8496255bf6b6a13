"""Small sick networks, each with its healthy twin and exactly known findings. Knows torch and Lightning only."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

BATCHES = 8
"""Training batches in an epoch of `loader`, in one process."""

ROWS = 64
"""Rows in a batch: in `BATCHES` of them, as many as a verdict on the units of a `Student` takes (503)."""


class Rows(Dataset):
    """A regression whose rows are augmented with draws from all three global generators."""

    def __init__(self, rows: int = ROWS * BATCHES) -> None:
        draw = torch.Generator().manual_seed(7)
        self.inputs = torch.randn(rows, 4, generator=draw)
        self.targets = self.inputs.sum(dim=1)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(4) + float(np.random.rand())
        return self.inputs[index] + 0.01 * noise, self.targets[index]


def loader(batches: int = BATCHES, *, shuffle: bool = True, **more: Any) -> DataLoader:
    """Batches of `ROWS` rows; the loader has no generator of its own, so it draws from the global one."""
    return DataLoader(Rows(ROWS * batches), batch_size=ROWS, shuffle=shuffle, **more)


class Student(LightningModule):
    """A healthy regression with BatchNorm and dropout, in automatic or manual optimisation.

    Args:
        sick: Whether a subclass falls ill. A `Student` itself is healthy.
        manual: Manual optimisation.
        accumulate: Batches per optimizer step of the manual optimisation (the Trainer counts them in the automatic).
    """

    def __init__(self, *, sick: bool = False, manual: bool = False, accumulate: int = 1) -> None:
        super().__init__()
        self.sick = sick
        self.automatic_optimization = not manual
        self.accumulate = accumulate
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def keep(self, loss: Tensor, output: Tensor) -> None:
        """What a subclass stores of a training step."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        output = self(batch[0])
        loss = nn.functional.mse_loss(output.squeeze(-1).float(), batch[1])
        self.keep(loss, output)
        self.log("train_loss", loss)
        if self.automatic_optimization:
            return loss
        self.step_by_hand(loss, batch_idx)
        return None

    def step_by_hand(self, loss: Tensor, batch_idx: int) -> None:
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        self.manual_backward(loss / self.accumulate)
        if (batch_idx + 1) % self.accumulate == 0:
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self(batch[0]).squeeze(-1), batch[1]), sync_dist=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", nn.functional.mse_loss(self(batch[0]).squeeze(-1), batch[1]))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class ByHand(Student):
    """Healthy too; calls ``loss.backward()`` and the optimizer itself, so that Lightning announces nothing."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "manual": True})

    def step_by_hand(self, loss: Tensor, batch_idx: int) -> None:
        loss.backward()
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        optimizer.step()
        optimizer.zero_grad()


class RunningLoss(Student):
    """``self.running_loss += loss``: one graph a step, each hanging on the one before."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.running_loss: Any = 0.0

    def keep(self, loss: Tensor, output: Tensor) -> None:
        self.running_loss = self.running_loss + (loss if self.sick else loss.detach())


class LossList(Student):
    """``self.losses.append(loss)``: one graph a step, side by side."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.losses: list[Any] = []

    def keep(self, loss: Tensor, output: Tensor) -> None:
        self.losses.append(loss if self.sick else loss.item())


class OutputList(Student):
    """``self.outputs.append(output)``: the activations of every batch pile up, with their graphs."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.outputs: list[Tensor] = []

    def keep(self, loss: Tensor, output: Tensor) -> None:
        self.outputs.append(output if self.sick else output.detach())


class MovingAverage(Student):
    """An exponential moving average without ``detach``: a scalar with a history as long as the run."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.average: Any = 0.0

    def keep(self, loss: Tensor, output: Tensor) -> None:
        self.average = 0.9 * self.average + 0.1 * (loss if self.sick else loss.detach())


class SaturatedTanh(Student):
    """A tanh whose inputs are a thousand times too large: all of its outputs are -1 or 1."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.net[2] = nn.Tanh()
        if self.sick:
            with torch.no_grad():
                self.net[1].weight.fill_(1000.0)


class DeadReLU(Student):
    """A ReLU whose inputs are negative by far, for every sample: none of its units is ever on."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.sick:
            kill_units(self)


def kill_units(module: Student) -> None:
    """Make the bias before the ReLU of a `Student` strongly negative."""
    with torch.no_grad():
        module.net[1].bias.fill_(-30.0)


class TrainsInValidation(Student):
    """Batch norm is put into training mode before the second validation batch."""

    def on_validation_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.sick and batch_idx == 1:
            self.net[1].train()


class ForgetsTrain(Student):
    """``self.eval()`` in the training step, and no ``self.train()``."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        if self.sick:
            self.eval()
        return super().training_step(batch, batch_idx)


class FrozenWeights(Student):
    """The first layer and its norm are frozen, and the running statistics of the norm move."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.sick:
            self.net[:2].requires_grad_(False)


class AlwaysDrops(Student):
    """``F.dropout`` without ``training=``, whose default is True."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.net[0](inputs)
        hidden = nn.functional.dropout(hidden) if self.sick else nn.functional.dropout(hidden, training=self.training)
        return self.net[1:](hidden)


class ForgottenBackbone(Student):
    """Only the head is given to the optimizer."""

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam((self.net[4] if self.sick else self).parameters(), lr=1e-2)


class ForgottenScheduler(Student):
    """A scheduler that is the module's own to step, in either way of optimisation, and that it never steps."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if not self.sick:
            scheduler.step()

    def on_train_epoch_end(self) -> None:
        if not self.automatic_optimization:
            self.lr_scheduler_step(self.lr_schedulers(), None)


class OtherUnits(Student):
    """In evaluation mode the predictions are scaled back to units in which the targets are not."""

    def forward(self, inputs: Tensor) -> Tensor:
        output = super().forward(inputs)
        return output * 10 + 100 if self.sick and not self.training else output


class OneOfASweep(Student):
    """Five other runs of its sweep are over; in the sick form a sixth was killed, and its record says that it runs."""

    def on_fit_start(self) -> None:
        put_into_a_sweep(self)


def put_into_a_sweep(module: Student) -> None:
    """Write records of other runs where the callbacks of the Trainer look for them; if sick, of a killed one too."""
    if not module.trainer.is_global_zero:
        return
    places = [getattr(callback, "folder", None) for callback in module.trainer.callbacks]
    for folder in (Path(place) for place in places if isinstance(place, str)):
        for number in range(5):
            _write_record(folder, f"over{number}", status="completed", score=0.5 + number / 10, seconds=60.0)
        if module.sick:
            _write_record(folder, "killed", status="running", search="TPESampler")


def _write_record(folder: Path, name: str, **more: Any) -> None:
    """The record of a run that another machine has trained, and that was last heard of in 1970."""
    texts = {"run_id": name, "metric": "val_loss", "mode": "min", "sweep_from": "folder", "reason": "", "started": ""}
    numbers = {"readings": 1, "devices": 1, "tests": 0, "seconds": 0.0, "beat": 0.0, "silence": 0.0, "pid": 1}
    process = {"host": "elsewhere", "kernel": "", "born": 0}
    unknown = ("score", "score_step", "sweep", "number", "seed", "training_samples", "validation_samples")
    what = {**texts, **numbers, **process, **dict.fromkeys(unknown), "search": "random", "hyperparameters": {}}
    path = folder / name / "expected_performance" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": 1, **what, **more}))


Diagnosed = tuple[str, str | None, int]
"""Code, place and first step of a finding."""


@dataclass(frozen=True, eq=False)  # each is itself, whatever its settings hold
class Patient:
    """An illness, whom it concerns, and what is to be found.

    Attributes:
        room: The folder of the diagnostic that knows the illness.
        make: ``make(sick=..., manual=..., accumulate=...)`` gives the network or its healthy twin.
        findings: What is to be found in the sick one, after `BATCHES` or more training batches.
        settings: Of the Trainer, that it takes to see the illness in as few.
    """

    room: str
    make: Callable[..., Student]
    findings: frozenset[Diagnosed]
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.make.__name__


def _patient(room: str, make: Callable[..., Student], *findings: Diagnosed, **settings: Any) -> Patient:
    return Patient(room, make, frozenset(findings), settings)


PATIENTS = (
    _patient("activations", DeadReLU, ("ACT101", "net.2", 0)),
    _patient("activations", SaturatedTanh, ("ACT103", "net.2", 0)),
    _patient("batch_norm", TrainsInValidation, ("BN101", "net.1", 0)),
    _patient("batch_norm", ForgetsTrain, ("BN102", "net.1", 0), ("BN102", "net.3", 0)),
    _patient("batch_norm", FrozenWeights, ("BN103", "net.1", 0)),
    _patient("batch_norm", AlwaysDrops, ("BN108", "self/dropout", 0)),
    _patient("expected_performance", OneOfASweep, ("EVP101", None, 0)),
    _patient("generalization_gap", OtherUnits, ("GAP103", "val_loss", 0), val_check_interval=1),
    _patient("gradients", ForgottenBackbone, ("GRD103", "net.0", 0), ("GRD103", "net.1", 0)),
    _patient("graph_leak", RunningLoss, ("MEM101", "model.running_loss", 0)),
    _patient("graph_leak", LossList, ("MEM101", "model.losses", 0)),
    _patient("graph_leak", OutputList, ("MEM102", "model.outputs", 0)),
    _patient("graph_leak", MovingAverage, ("MEM101", "model.average", 0)),
    _patient("learning_rate", ForgottenScheduler, ("LR104", "Adam", 0)),
)
"""One per line; the first of a room stands for it where one is enough."""

LIMITS: dict[str, float] = {"scheduler-never-stepped.epochs": 2}
"""Limits of diagnostics with which runs as short as these are long enough for a verdict."""


def of_room(room: str) -> list[Patient]:
    """The patients of a diagnostic."""
    return [patient for patient in PATIENTS if patient.room == room]
