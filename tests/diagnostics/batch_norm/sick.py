"""Networks on digits with one mistake each about modes, statistics or batches, and their repaired twins."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.helpers import trainer

Batch = list[Tensor]
Loaders = tuple[DataLoader[Any], DataLoader[Any]]


# Data.


@cache
def _digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(images, dtype=torch.float32)[order], torch.tensor(labels)[order]


def digits(*, batch: int = 64, batches: int = 12, rows: int | None = None, scale: float = 16.0) -> Loaders:
    """Rows of 64 pixels between 0 and 1; 200 rows to validate on, in four batches of which the last is short.

    Args:
        batch: Rows of a training batch.
        batches: Training batches, if ``rows`` is not given.
        rows: Rows to train on.
        scale: What the pixels of the validation are divided by: 16, as those of the training are, if all is well.
    """
    inputs, labels = _digits()
    count = batch * batches if rows is None else rows
    training = TensorDataset(inputs[200 : 200 + count] / 16, labels[200 : 200 + count])
    validation = TensorDataset(inputs[:200] / scale, labels[:200])
    return DataLoader(training, batch, shuffle=True), DataLoader(validation, 64)


# What all have in common.


class Patient(LightningModule):
    """A classifier with batch norm and dropout, and a mistake in a subclass.

    Args:
        sick: Whether the mistake is made.
    """

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__()
        self.sick = sick
        self.net = self.build()

    def build(self) -> nn.Module:
        """The network."""
        return nn.Sequential(
            *(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2)),
            *(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10)),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        loss = functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        """The step of every evaluation."""
        loss = functional.cross_entropy(self(batch[0]), batch[1])
        self.log(f"{name}_loss", loss, on_step=True, on_epoch=True, sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.score("val", batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.score("test", batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([each for each in self.parameters() if each.requires_grad], lr=0.1)


NORMS = ("net.1", "net.5")
DROPOUT = "net.3"


# Training mode in evaluation.


class TrainsInTheStep(Patient):
    """``self.train()`` at the start of ``validation_step``."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        if self.sick:
            self.train()
        super().score(name, batch, batch_idx)


class TrainsInALaterBatch(Patient):
    """The same, from the third batch on."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        if self.sick and batch_idx == 2:
            self.train()
        super().score(name, batch, batch_idx)


class TrainsAndPutsBack(Patient):
    """The same, with ``self.eval()`` at the end, so that from outside nothing is to be seen."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        if self.sick:
            self.train()
        super().score(name, batch, batch_idx)
        self.eval()


class TrainsOnePart(Patient):
    """The mode of one norm alone."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        if self.sick:
            self.net[5].train()
        super().score(name, batch, batch_idx)


class LeavesModesAlone(Patient):
    """The hooks of the mode are overridden, and forget ``self.eval()``."""

    def on_validation_model_eval(self) -> None:
        if not self.sick:
            self.eval()

    def on_test_model_eval(self) -> None:
        if not self.sick:
            self.eval()

    def on_predict_model_eval(self) -> None:
        if not self.sick:
            self.eval()


class TrainsAtTheStart(Patient):
    """``self.train()`` in ``on_validation_start``."""

    def on_validation_start(self) -> None:
        if self.sick:
            self.train()

    on_test_start = on_predict_start = on_validation_start


class TrainsAtTheEpochStart(Patient):
    """``self.train()`` in ``on_validation_epoch_start``."""

    def on_validation_epoch_start(self) -> None:
        if self.sick:
            self.train()

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start


class TrainsAtEveryBatch(Patient):
    """``self.train()`` in ``on_validation_batch_start``."""

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if self.sick:
            self.train()

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start


class TrainsBetweenBatches(Patient):
    """``self.train()`` in ``on_validation_batch_end`` of the first batch."""

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if self.sick and batch_idx == 0:
            self.train()


class TrainsByACallback(Patient):
    """A callback puts the model into training mode."""

    class Puts(Callback):
        """The callback."""

        def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.train()

    def configure_callbacks(self) -> list[Callback]:
        return [self.Puts()] if self.sick else []


class KeepsNormsInAList(Patient):
    """Blocks in a plain list, which ``eval()`` does not reach."""

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__(sick=sick)
        blocks = [nn.BatchNorm1d(64), nn.Dropout(0.3)]
        self.blocks: Any = blocks if sick else nn.ModuleList(blocks)

    def forward(self, inputs: Tensor) -> Tensor:
        for block in self.blocks:
            inputs = block(inputs)
        return self.net(inputs)


class FunctionThatTrains(Patient):
    """``F.batch_norm(training=True)`` with statistics of the module's own."""

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__(sick=sick)
        self.register_buffer("mean", torch.zeros(64))
        self.register_buffer("variance", torch.ones(64))

    def forward(self, inputs: Tensor) -> Tensor:
        training = True if self.sick else self.training
        return self.net(functional.batch_norm(inputs, self.mean, self.variance, training=training))


class OwnNorm(nn.BatchNorm1d):
    """A norm of the user's own, whose forward does not ask for its mode."""

    sick = False

    def forward(self, inputs: Tensor) -> Tensor:
        by_batch = True if self.sick else self.training
        return functional.batch_norm(
            inputs, self.running_mean, self.running_var, self.weight, self.bias, by_batch, self.momentum or 0.1
        )


class NormThatTrains(Patient):
    """A subclass of batch norm with ``training=True`` written out."""

    def build(self) -> nn.Module:
        net = super().build()
        net[1] = OwnNorm(32)
        net[1].sick = self.sick
        return net


class ByHand(nn.Module):
    """Batch norm by hand."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.sick = False

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training or self.sick:
            with torch.no_grad():
                self.running_mean.lerp_(inputs.mean(0), 0.1)
                self.running_var.lerp_(inputs.var(0), 0.1)
        return (inputs - self.running_mean) / (self.running_var + 1e-5).sqrt()


class NormByHand(Patient):
    """A norm of the user's own that moves its statistics in every mode."""

    def build(self) -> nn.Module:
        net = super().build()
        net[1] = ByHand(32)
        net[1].sick = self.sick
        return net


class MovesBuffers(Patient):
    """The step of the validation writes into the running statistics."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        super().score(name, batch, batch_idx)
        if self.sick:
            self.net[5].running_mean.mul_(0.9)


class OfKind(Patient):
    """A norm of another kind than `nn.BatchNorm1d`, in training mode in the step."""

    def norm(self) -> nn.Module:
        """The norm."""
        raise NotImplementedError

    def build(self) -> nn.Module:
        self.spot = self.norm()
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(self.spot(inputs.view(self.shape(len(inputs)))))

    def shape(self, rows: int) -> tuple[int, ...]:
        """What the pixels are seen as."""
        return rows, 1, 8, 8

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        if self.sick:
            self.spot.train()
        super().score(name, batch, batch_idx)


class OfImages(OfKind):
    """`nn.BatchNorm2d`."""

    def norm(self) -> nn.Module:
        return nn.BatchNorm2d(1)


class OfVolumes(OfKind):
    """`nn.BatchNorm3d`."""

    def norm(self) -> nn.Module:
        return nn.BatchNorm3d(2)

    def shape(self, rows: int) -> tuple[int, ...]:
        return rows, 2, 2, 4, 4


class Synchronised(OfKind):
    """`nn.SyncBatchNorm`, which in a single process is an ordinary one."""

    def norm(self) -> nn.Module:
        return nn.SyncBatchNorm(1)


class Lazy(OfKind):
    """`nn.LazyBatchNorm1d`, which is made in the first batch."""

    def norm(self) -> nn.Module:
        return nn.LazyBatchNorm1d()

    def shape(self, rows: int) -> tuple[int, ...]:
        return rows, 64

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


class OfInstances(OfKind):
    """`nn.InstanceNorm1d` with running statistics."""

    def norm(self) -> nn.Module:
        return nn.InstanceNorm1d(8, track_running_stats=True)

    def shape(self, rows: int) -> tuple[int, ...]:
        return rows, 8, 8


class Scripted(OfKind):
    """A scripted norm."""

    def norm(self) -> nn.Module:
        return torch.jit.script(nn.Sequential(nn.BatchNorm1d(64), nn.ReLU()))

    def shape(self, rows: int) -> tuple[int, ...]:
        return rows, 64

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.jit.optimized_execution(False):  # else it fails in inference mode once it has run with gradients
            return super().forward(inputs)


# Evaluation mode in training.


class EvaluatesInTheStep(Patient):
    """``self.eval()`` in the training step, for a prediction, and no ``self.train()``."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        if batch_idx == 4:
            self.eval()
            with torch.no_grad():
                self(batch[0][:2])
            if not self.sick:
                self.train()
        return super().training_step(batch, batch_idx)


class ForgetsTrainAtTheEpochEnd(Patient):
    """``self.eval()`` at the end of an epoch, and no ``self.train()``."""

    def on_train_epoch_end(self) -> None:
        self.eval()
        if not self.sick:
            self.train()


class ForgetsTrainOfAPart(Patient):
    """The same with one norm alone, in ``on_train_batch_start``."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.net[1].train(not (self.sick and batch_idx > 3))


class ForgetsTrainAfterValidation(Patient):
    """``on_validation_model_train`` is overridden, and forgets ``self.train()``."""

    def on_validation_model_train(self) -> None:
        if not self.sick:
            self.train()


# Statistics.


class Frozen(Patient):
    """A backbone whose weights are frozen; its norm too, in the healthy one."""

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__(sick=sick)
        self.net[:2].requires_grad_(False)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if not self.sick:
            self.net[1].eval()
        return self

    def on_fit_start(self) -> None:
        self.train()


class SlowMomentum(Patient):
    """A momentum so small that the statistics never arrive."""

    def build(self) -> nn.Module:
        net = super().build()
        net.insert(0, nn.Identity())
        net.insert(1, nn.BatchNorm1d(64, momentum=1e-5 if self.sick else 0.1))
        return net


class Averaged(Patient):
    """A copy of the network follows it, as an exponential moving average, and is validated.

    In the sick one, only the parameters follow: the statistics of the copy are what they were at the start.
    """

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__(sick=sick)
        self.copied = copy.deepcopy(self.net).requires_grad_(False)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.copied.eval()
        return self

    def on_fit_start(self) -> None:
        self.train()

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        for old, new in zip(self.copied.parameters(), self.net.parameters(), strict=True):
            old.lerp_(new, 0.1)
        if not self.sick:
            for old, new in zip(self.copied.buffers(), self.net.buffers(), strict=True):
                old.copy_(new)

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        self.log(f"{name}_loss", functional.cross_entropy(self.copied(batch[0] + 0.0), batch[1]))


def shifted(*, sick: bool) -> Loaders:
    """Validation pixels are not divided by 16, as those of the training are."""
    return digits(batches=20, scale=1.0 if sick else 16.0)


def many(*, sick: bool) -> Loaders:
    """Twenty batches in an epoch."""
    del sick
    return digits(batches=20)


class NormFirst(Patient):
    """A norm that sees the pixels themselves."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


def tiny(*, sick: bool) -> Loaders:
    """Batches of two."""
    return digits(batch=2 if sick else 16, batches=12)


def short_end(*, sick: bool) -> Loaders:
    """The last batch has two rows."""
    return digits(batch=64, rows=64 * 11 + (2 if sick else 32))


# Predictions that depend on the batch.


class Mixing(Patient):
    """Something between two layers that mixes samples."""

    def build(self) -> nn.Module:
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)
        return nn.Identity()

    def mix(self, hidden: Tensor) -> Tensor:
        """What is done."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.mix(self.first(inputs).relu()))


class CentresOverTheBatch(Mixing):
    """Mean over axis 0 in place of axis 1."""

    def mix(self, hidden: Tensor) -> Tensor:
        return hidden - hidden.mean(0 if self.sick else 1, keepdim=True)


class SoftmaxOverTheBatch(Mixing):
    """Softmax over axis 0 in place of axis 1."""

    def mix(self, hidden: Tensor) -> Tensor:
        return hidden * hidden.softmax(0 if self.sick else 1)


class Reshapes(Mixing):
    """``reshape`` where ``transpose`` is meant, of samples and features."""

    def mix(self, hidden: Tensor) -> Tensor:
        if self.sick:
            return hidden.reshape(64, -1).t().reshape(-1, 64).sin()
        return hidden.t().contiguous().t().sin()


class MixesInAModule(Patient):
    """A module of the user's own mixes; it is to be named."""

    class Mixer(nn.Module):
        """The module."""

        def __init__(self, axis: int) -> None:
            super().__init__()
            self.axis = axis

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs / (1e-3 + inputs.norm(dim=self.axis, keepdim=True))

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), self.Mixer(0 if self.sick else 1), nn.Linear(32, 10))


class Recurrent(Patient):
    """A recurrent layer without ``batch_first=True``, which walks over the samples."""

    def build(self) -> nn.Module:
        self.rnn = nn.GRU(8, 16, batch_first=not self.sick)
        return nn.Linear(16, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(self.rnn(inputs.view(-1, 8, 8))[0][:, -1])


class Attends(Patient):
    """Attention without ``batch_first=True``, in which samples see each other."""

    def build(self) -> nn.Module:
        self.attention = nn.MultiheadAttention(8, 2, batch_first=not self.sick)
        return nn.Linear(64, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.view(-1, 8, 8)
        return self.net(self.attention(rows, rows, rows)[0].flatten(1))


# Noise in evaluation.


class DropsAlways(Patient):
    """``F.dropout`` without ``training=``."""

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = functional.dropout(inputs) if self.sick else functional.dropout(inputs, training=self.training)
        return self.net(inputs)


class DropsInAttention(Patient):
    """``scaled_dot_product_attention(dropout_p=0.1)``, which knows no mode."""

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.view(-1, 8, 8)
        chance = 0.1 if self.sick or self.training else 0.0
        rows = functional.scaled_dot_product_attention(rows, rows, rows, dropout_p=chance)
        return self.net(rows.flatten(1))


class DropoutTrains(Patient):
    """The mode of the dropout alone, e.g. a left-over of Monte Carlo dropout."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        if self.sick:
            self.net[3].train()
        super().score(name, batch, batch_idx)


class RecurrentDropout(Patient):
    """The dropout between two recurrent layers."""

    def build(self) -> nn.Module:
        self.rnn = nn.LSTM(8, 16, 2, batch_first=True, dropout=0.3)
        return nn.Linear(16, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(self.rnn(inputs.view(-1, 8, 8))[0][:, -1])

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        if self.sick:
            self.rnn.train()
        super().score(name, batch, batch_idx)


# Notes.


class Reuses(Patient):
    """One norm for two inputs."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.net(inputs)
        return hidden + self.net(1 - inputs) if self.sick else hidden


class NoStatistics(Patient):
    """``track_running_stats=False``."""

    def build(self) -> nn.Module:
        net = super().build()
        net[1] = nn.BatchNorm1d(32, track_running_stats=not self.sick)
        return net


class OtherMomentum(Patient):
    """``momentum=0.99``, as it is called in another library."""

    def build(self) -> nn.Module:
        net = super().build()
        net[1] = nn.BatchNorm1d(32, momentum=0.99 if self.sick else 0.01)
        return net


# The table.


@dataclass(frozen=True)
class Case:
    """An illness and what is to be found.

    Attributes:
        make: ``make(sick=...)``.
        code: Of the finding.
        where: Its places.
        others: Codes that may be found besides, since they follow from it.
        place: What its message says of where the mode flipped.
        epochs: How long it is trained.
        every: Epochs between validations; as many as it is trained if zero.
        data: ``data(sick=...)`` gives the loaders.
        note: Whether the finding is a note.
    """

    make: Callable[..., Patient]
    code: str
    where: tuple[str, ...]
    others: tuple[str, ...] = ()
    place: str = ""
    epochs: int = 1
    every: int = 0
    data: Callable[..., Loaders] = field(default=lambda *, sick: digits())
    note: bool = False

    def __str__(self) -> str:
        return f"{self.make.__name__}-{getattr(self.data, '__name__', '')}".removesuffix("-<lambda>")


def run(make: Patient, *callbacks: Any, data: Loaders | None = None, seed: int = 0, **settings: Any) -> Trainer:
    """Train and validate, once unless told otherwise; gives the Trainer."""
    fitting = trainer(*callbacks, **{"max_epochs": 1, "num_sanity_val_steps": 0, **settings})
    seed_everything(seed, verbose=False)
    fitting.fit(make, *(data or digits()))
    return fitting


def made(make: Callable[..., Patient], *, sick: bool, seed: int = 0) -> Patient:
    """A network, or its twin: with the same weights."""
    seed_everything(seed, verbose=False)
    return make(sick=sick)


_both = ("BN107",)  # training mode makes predictions depend on the batch
_all = ("BN107", "BN108")

CASES = (
    Case(TrainsInTheStep, "BN101", NORMS, _all, "inside validation_step, in batch 0"),
    Case(TrainsInALaterBatch, "BN101", NORMS, _all, "inside validation_step, in batch 2"),
    Case(TrainsAndPutsBack, "BN101", NORMS, _all, "inside validation_step, in batch 0, and put back"),
    Case(TrainsOnePart, "BN101", ("net.5",), _both, "inside validation_step, in batch 0"),
    Case(LeavesModesAlone, "BN101", NORMS, _all, "on_validation_model_eval is overridden and leaves it so"),
    Case(TrainsAtTheStart, "BN101", NORMS, _all, "before the first batch"),
    Case(TrainsAtTheEpochStart, "BN101", NORMS, _all, "before the first batch"),
    Case(TrainsAtEveryBatch, "BN101", NORMS, _all),
    Case(TrainsBetweenBatches, "BN101", NORMS, _all, "between batches 0 and 1"),
    Case(TrainsByACallback, "BN101", NORMS, _all, "before the first batch"),
    Case(KeepsNormsInAList, "BN101", ("self/BatchNorm1d",), _all, "no part of the model"),
    Case(FunctionThatTrains, "BN101", ("self",), _both),
    Case(NormThatTrains, "BN101", ("net.1",), _both),
    Case(NormByHand, "BN101", ("net.1",), _both),
    Case(MovesBuffers, "BN101", ("net.5",)),
    Case(NormByHand, "BN101", ("net.1",), _both, epochs=4, data=many),
    Case(OfImages, "BN101", ("spot",), _both),
    Case(OfVolumes, "BN101", ("spot",), _both),
    Case(Synchronised, "BN101", ("spot",), _both),
    Case(Lazy, "BN101", ("spot",), _both),
    Case(OfInstances, "BN101", ("spot",), _both),
    Case(Scripted, "BN101", ("spot.0",), _both),
    Case(EvaluatesInTheStep, "BN102", (*NORMS, DROPOUT), (), "inside training_step, in batch 4"),
    Case(ForgetsTrainAtTheEpochEnd, "BN102", (*NORMS, DROPOUT), (), "before this epoch began", 2),
    Case(ForgetsTrainOfAPart, "BN102", ("net.1",), ()),
    Case(ForgetsTrainAfterValidation, "BN102", (*NORMS, DROPOUT), (), epochs=2, every=1),
    Case(Frozen, "BN103", ("net.1",)),
    Case(NormFirst, "BN104", ("net.1",), epochs=3, data=shifted),
    Case(SlowMomentum, "BN104", ("net.1",), epochs=26, data=many),
    Case(Averaged, "BN104", ("copied.1",), epochs=4, data=many),
    Case(Patient, "BN105", NORMS, data=tiny),
    Case(Patient, "BN105", NORMS, data=short_end, note=True),
    Case(CentresOverTheBatch, "BN107", ("self",)),
    Case(SoftmaxOverTheBatch, "BN107", ("self",)),
    Case(Reshapes, "BN107", ("self",)),
    Case(MixesInAModule, "BN107", ("net.2",)),
    Case(Recurrent, "BN107", ("rnn",)),
    Case(Attends, "BN107", ("attention",)),
    Case(DropsAlways, "BN108", ("self/dropout",)),
    Case(DropsInAttention, "BN108", ("self/scaled_dot_product_attention",)),
    Case(DropoutTrains, "BN108", ("net.3",), (), "inside validation_step, in batch 0"),
    Case(RecurrentDropout, "BN108", ("rnn",), (), "inside validation_step, in batch 0"),
    Case(KeepsNormsInAList, "BN108", ("self/Dropout",), ("BN101", "BN107"), "no part of the model"),
    Case(Reuses, "BN801", NORMS, note=True),
    Case(NoStatistics, "BN802", ("net.1",), note=True),
    Case(OtherMomentum, "BN803", ("net.1",), note=True),
)
"""One per line."""
