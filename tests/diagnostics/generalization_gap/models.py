"""Small networks with all that a validation may touch, the data they are given, and what a run of them leaves."""

import copy
import csv
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score, MulticlassPrecision
from torchmetrics.wrappers import ClasswiseWrapper, MinMaxMetric
from typing_extensions import override

from tests import helpers
from tests.contracts.cells import digest

TRAINING, VALIDATION, BATCH = 43, 23, 8
FEATURES, CLASSES = 6, 3

Batch = Any


class Samples(Dataset):
    """Rows with a class that can be learned; each is the same every time, or noise is added to it.

    Args:
        count: How many.
        seed: Of the rows.
        noise: Where it is drawn from: ``"torch"``, ``"numpy"``, ``"random"``, ``"own"``, or nothing.
    """

    def __init__(self, count: int = TRAINING, *, seed: int = 0, noise: str = "") -> None:
        drawn = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(count, FEATURES, generator=drawn)
        self.targets = (self.inputs[:, :CLASSES] + 0.5 * torch.randn(count, CLASSES, generator=drawn)).argmax(1)
        self.noise, self.own, self.asked = noise, np.random.default_rng(seed), 0

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        draw = {"torch": lambda: torch.rand(()), "numpy": np.random.rand, "random": random.random}
        self.asked += 1
        noise = {**draw, "own": self.own.random, "": float}[self.noise]()
        return self.inputs[index] + 0.1 * noise, self.targets[index]


def training(count: int = TRAINING, *, noise: str = "", **settings: Any) -> DataLoader:
    """A loader of training data."""
    return DataLoader(Samples(count, noise=noise), **{"batch_size": BATCH, "shuffle": True, **settings})


def validation(count: int = VALIDATION, *, seed: int = 1, **settings: Any) -> DataLoader:
    """A loader of validation data."""
    return DataLoader(Samples(count, seed=seed), **{"batch_size": BATCH, **settings})


def batches(samples: Samples, indices: Any, size: int = BATCH) -> list[tuple[Tensor, Tensor]]:
    """Some samples in batches, without a loader."""
    parts = torch.as_tensor(list(indices)).split(size)
    return [(samples.inputs[part], samples.targets[part]) for part in parts]


class Small(LightningModule):
    """A classifier with batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, 3)
        )

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        loss = functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    @override
    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        logits = self(batch[0])
        self.log("val_loss", functional.cross_entropy(logits, batch[1]), sync_dist=True)
        self.score(logits, batch, batch_idx)

    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        """What else is done with a batch."""

    @override
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.02)


class Frozen(Small):
    """Its batch norm is kept in evaluation mode."""

    @override
    def on_train_epoch_start(self) -> None:
        self.net[1].eval()


class Appends(Small):
    """Gathers predictions, and empties what it gathered at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Tensor] = []
        self.by_batch: dict[int, float] = {}
        self.seen: Counter[int] = Counter()
        self.calls = 0

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        self.rows.append(logits.detach())
        self.by_batch[batch_idx] = float(logits.detach().sum())
        self.seen.update(batch[1].tolist())
        self.calls += 1

    @override
    def on_validation_epoch_end(self) -> None:
        self.log("val_rows", float(sum(map(len, self.rows))))
        self.log("val_sum", torch.cat(self.rows).float().sum())
        self.rows.clear()


class Computes(Small):
    """Metrics that are computed and emptied in the hook."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro")
        self.mean = MeanMetric()

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        self.accuracy.update(logits, batch[1])
        self.mean.update(logits.detach().square().mean(), weight=len(logits))

    @override
    def on_validation_epoch_end(self) -> None:
        self.log("val_acc", self.accuracy.compute())
        self.log("val_mean", self.mean.compute())
        self.accuracy.reset()
        self.mean.reset()


class Logs(Small):
    """A metric that is logged as an object, one that is called and logged, and one with states in lists."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro")
        self.called = MulticlassAccuracy(CLASSES, average="micro", top_k=2)
        self.ranking = MulticlassAUROC(CLASSES)

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        self.accuracy(logits, batch[1])
        self.log("val_acc", self.accuracy)
        self.called(logits, batch[1])
        self.log("val_top", self.called, on_step=True, on_epoch=True)
        self.ranking.update(logits.float(), batch[1])
        self.log("val_auroc", self.ranking)


class Collects(Small):
    """A collection of metrics that share their states."""

    def __init__(self) -> None:
        super().__init__()
        self.several = MetricCollection(
            {
                "val_accuracy": MulticlassAccuracy(CLASSES),
                "val_precision": MulticlassPrecision(CLASSES),
                "val_f1": MulticlassF1Score(CLASSES),
            }
        )

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        self.several.update(logits, batch[1])
        self.log_dict(self.several)


class CollectsInTheHook(Collects):
    """The same, computed in the hook."""

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        self.several.update(logits, batch[1])

    @override
    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.several.compute())
        self.several.reset()


class Wraps(Small):
    """Metrics of metrics, computed in the hook."""

    def __init__(self) -> None:
        super().__init__()
        self.by_class = ClasswiseWrapper(MulticlassAccuracy(CLASSES, average=None), prefix="val_acc_")
        self.extremes = MinMaxMetric(MulticlassAccuracy(CLASSES))
        self.sum = MeanMetric() + 1

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        self.by_class.update(logits, batch[1])
        self.extremes.update(logits, batch[1])
        self.sum.update(logits.detach().mean())

    @override
    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.by_class.compute())
        self.log_dict({f"val_{name}": value for name, value in self.extremes.compute().items()})
        self.log("val_sum", self.sum.compute())
        for metric in (self.by_class, self.extremes, self.sum):
            metric.reset()


class Manual(Small):
    """Optimizes by hand, with two optimizers and a schedule."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        loss = functional.cross_entropy(self(batch[0]), batch[1])
        for optimizer in self.optimizers():  # pyright: ignore[reportGeneralTypeIssues]  # there are two
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():  # pyright: ignore[reportGeneralTypeIssues]
            optimizer.step()

    @override
    def configure_optimizers(self) -> Any:
        one = torch.optim.Adam(self.net[:2].parameters(), lr=0.02)
        other = torch.optim.SGD(self.net[4].parameters(), lr=0.02, momentum=0.9)
        return [one, other], [torch.optim.lr_scheduler.StepLR(one, 2, gamma=0.7)]


class Schedules(Manual):
    """Steps its schedule in the validation."""

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        self.lr_schedulers().step()  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue, reportCallIssue]


class Draws(Small):
    """Draws random numbers in the validation, from every generator there is."""

    def __init__(self) -> None:
        super().__init__()
        self.own = torch.Generator().manual_seed(3)
        self.numpys = np.random.default_rng(3)

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        noise = torch.rand(()) + np.random.rand() + random.random() + torch.rand((), generator=self.own)
        self.log("val_noise", noise + self.numpys.random())


class Checkpointed(Small):
    """Computes the activations of its first layers once more on the way back."""

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        inner: Any = checkpoint(self.net[:4], inputs, use_reentrant=False)
        return self.net[4](inner)


class Compiled(Small):
    """Its network is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.net[0] = torch.compile(self.net[0], backend="aot_eager")  # pyright: ignore[reportArgumentType]


class Several(Small):
    """Trains on batches of several loaders."""

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return sum(functional.cross_entropy(self(each[0]), each[1]) for each in batch.values())


class Averages(Callback):
    """Validates with averaged weights."""

    def __init__(self) -> None:
        self.average: dict[str, Tensor] | None = None
        self.own: dict[str, Tensor] | None = None

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        now = copy.deepcopy(dict(pl_module.state_dict()))
        old = self.average
        self.average = (
            now if old is None else {name: torch.lerp(old[name].float(), now[name].float(), 0.5) for name in now}
        )

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.average is not None:
            self.own = copy.deepcopy(dict(pl_module.state_dict()))
            pl_module.load_state_dict(self.average)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.own is not None:
            pl_module.load_state_dict(self.own)
            self.own = None


# What a run leaves.


def _plain(value: Any, depth: int = 5) -> Any:
    """What is in a value, in plain values and tensors."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return [(str(key), _plain(each, depth)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(each, depth) for each in value]
    if isinstance(value, Dataset) and depth:
        return _plain(vars(value), depth - 1)
    return value if isinstance(value, str | int | float | Tensor | None) else type(value).__name__


def _own(module: nn.Module) -> Any:
    """What a module has as its own attributes; of a metric its states."""
    if isinstance(module, Metric):
        names = (*module._defaults, "_update_count", "_computed")
        return _plain({name: getattr(module, name) for name in names})
    return _plain({name: each for name, each in vars(module).items() if not name.startswith("_")})


def _state(trainer: Trainer, module: LightningModule) -> dict[str, str]:
    """Fingerprints of everything that there is at a moment, by name."""
    for each in module.modules():
        if isinstance(each, MetricCollection):  # which gives its metrics the states they share once it is asked
            list(each.items(keep_base=True, copy_state=False))
    parts: dict[str, Any] = {f"state.{name}": value for name, value in module.state_dict().items()}
    parts |= {f"own.{path}": _own(each) for path, each in module.named_modules()}
    parts |= {f"gradient.{name}": each.grad for name, each in module.named_parameters() if each.grad is not None}
    parts |= {f"optimizer.{i}": _plain(each.state_dict()) for i, each in enumerate(trainer.optimizers)}
    parts |= {
        f"schedule.{i}": _plain(each.scheduler.state_dict()) for i, each in enumerate(trainer.lr_scheduler_configs)
    }
    numpys = np.random.get_state()
    parts |= {"rng.torch": torch.get_rng_state(), "rng.numpy": _plain(numpys), "rng.python": random.getstate()}
    for name in ("callback_metrics", "logged_metrics", "progress_bar_metrics"):
        values = getattr(trainer, name)
        parts[name] = {each: value for each, value in values.items() if not each.startswith("gap/")}
    loaders = [each for each in tree_leaves(trainer.train_dataloader) if each is not None]
    for index, each in enumerate(loaders):
        parts |= {f"data.{index}": _plain(each.dataset), f"order.{index}": _plain(each.generator)}
    parts |= {"modes": [each.training for each in module.modules()], "steps": trainer.global_step}
    parts |= {"grad": [each.requires_grad for each in module.parameters()], "stop": trainer.should_stop}
    return {name: digest(value) for name, value in parts.items()}


class Record(Callback):
    """Writes down every batch, and what there is after each validation's last batch and at the end."""

    def __init__(self) -> None:
        self.moments: dict[str, str] = {}
        self.batches: list[str] = []
        self.ends = 0
        self.published: dict[str, float] = {}

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.batches.append(digest(tree_leaves(batch)))

    @override
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.batches.append(digest(tree_leaves(batch)))

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ends += 1
        self._note(f"validation {self.ends}", trainer, pl_module)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(f"after {self.ends}", trainer, pl_module)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note("end", trainer, pl_module)
        self.published = {name: float(value) for name, value in trainer.callback_metrics.items()}

    def _note(self, when: str, trainer: Trainer, pl_module: LightningModule) -> None:
        self.moments |= {f"{when} {name}": value for name, value in _state(trainer, pl_module).items()}

    def told(self, folder: Path) -> dict[str, Any]:
        """All of it."""
        return {**self.moments, "batches": self.batches, "csv": written(folder)}


def written(folder: Path) -> list[tuple[str, str, str]]:
    """Step, name and value of what a CSV logger has of the user's."""
    file = folder / "csv" / "version_0" / "metrics.csv"
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    cells = ((row["step"], name, value) for row in rows for name, value in sorted(row.items()))
    return [cell for cell in cells if cell[2] and not cell[1].startswith(("gap/", "step"))]


def differences(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """The names of what is not the same."""
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def seed(number: int = 0) -> None:
    """Every generator of the process."""
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


def run(
    make: Callable[[], LightningModule], folder: Path, *callbacks: Any, data: Any = None, **settings: Any
) -> tuple[Record, Trainer]:
    """Fit from fixed seeds; gives the record and the Trainer."""
    seed()
    module, record = make(), Record()
    loaders: Any = (training(), validation()) if data is None else data()
    logger = CSVLogger(folder, name="csv", version=0)
    fitting = helpers.trainer(*callbacks, record, **{"logger": logger, **settings})
    seed(1)
    fitting.fit(module, *loaders)
    return record, fitting
