"""Ways in which people train, each as what differs from a plain run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from tests.patients import BATCHES, ROWS, LossList, Rows, Student, loader

ACTIVATIONS = frozenset({"activations"})
MODES = frozenset({"batch_norm"})
GRADIENTS = frozenset({"gradients"})
PERFORMANCE = frozenset({"expected_performance"})
RATES = frozenset({"learning_rate"})


@dataclass
class Situation:
    """What differs from a plain run.

    Attributes:
        kind: The network, whose sick form keeps graphs, has dead units, or trains in the validation.
        settings: Of the Trainer.
        data: Of ``fit``; the usual loaders if empty.
        prepare: What is done to the network; gives what is passed to ``fit``.
        enough: Whether there is enough training to be seen for a verdict on it.
        unseen: Rooms whose illness cannot be seen, or is none, in this situation.
    """

    kind: type[Student] = LossList
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Student], Any] = lambda module: module
    enough: bool = True
    unseen: frozenset[str] = frozenset()


# Networks.


class TwoOptimizers(LossList):
    """Manual optimisation of two halves, as in a GAN."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "manual": True})

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            loss = nn.functional.mse_loss(self(batch[0]).squeeze(-1), batch[1])
            self.keep(loss, loss)
            self.toggle_optimizer(optimizer)
            self.manual_backward(loss)
            self.untoggle_optimizer(optimizer)
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(self.net[:2].parameters()), torch.optim.SGD(self.net[4].parameters(), lr=0.01)]


class SometimesNone(LossList):
    """Skips every third batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return super().training_step(batch, batch_idx) if batch_idx % 3 else None


class AlwaysNone(Student):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        return None


class NoParameters(Student):
    """A baseline with nothing to learn."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "manual": True})
        self.net = nn.Identity()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.log("train_loss", batch[1].square().mean())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", batch[1].square().mean())

    def configure_optimizers(self) -> None:
        return None


class FrozenBackbone(LossList):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.net[0].requires_grad_(False)
        self.net[1].requires_grad_(False).eval()


class Lbfgs(LossList):
    """The optimizer calls its closure several times a step."""

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.01, max_iter=2)


class DictLoss(LossList):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": super().training_step(batch, batch_idx), "more": batch[0]}


class TwoLoaders(LossList):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch["a"], batch_idx)


class TwoValidationLoaders(LossList):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)


class LogsOutsideTheGraph(LossList):
    """The compiler of torch 2.13 cannot trace Lightning's ``self.log``, with or without us."""

    log = torch.compiler.disable(LightningModule.log)


class Module(LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return loader()


class Endless(IterableDataset):
    """Rows without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rows = Rows()
        yield from (rows[index] for index in range(len(rows)))


def _compiled_net(module: Student) -> Student:
    module.net = torch.compile(module.net, backend="eager")
    return module


def _compiled_in_place(module: Student) -> Student:
    module.net.compile(backend="eager")
    return module


def _compiled_part_in_place(module: Student) -> Student:
    module.net[0].compile(backend="eager")
    return module


def _endless() -> dict[str, Any]:
    return {"train_dataloaders": DataLoader(Endless(), batch_size=ROWS)}


def situations(folder: Path) -> dict[str, Situation]:
    """By name; what writes, writes into ``folder``."""
    validated = {"train_dataloaders": loader(), "val_dataloaders": loader(2, shuffle=False)}
    tensorboard = TensorBoardLogger(folder / "tensorboard")
    return {
        "plain": Situation(),
        "compiled module": Situation(
            LogsOutsideTheGraph, prepare=lambda m: torch.compile(m, backend="eager"), unseen=ACTIVATIONS
        ),
        "compiled net": Situation(prepare=_compiled_net, unseen=ACTIVATIONS),
        "net compiled in place": Situation(prepare=_compiled_in_place, unseen=ACTIVATIONS),
        "layer compiled in place": Situation(prepare=_compiled_part_in_place),
        "CSV logger": Situation(settings={"logger": CSVLogger(folder)}),
        "TensorBoard logger": Situation(settings={"logger": tensorboard}),
        "several loggers": Situation(settings={"logger": [CSVLogger(folder / "csv"), tensorboard]}),
        "Lightning's own logger": Situation(settings={"logger": True, "default_root_dir": folder}),
        "no length": Situation(data=_endless(), unseen=MODES),
        "no length, checked in mid-epoch": Situation(
            settings={"val_check_interval": 3}, data={**_endless(), "val_dataloaders": loader(2, shuffle=False)}
        ),
        "no validation loader": Situation(kind=LossList, data={"train_dataloaders": loader()}, unseen=MODES),
        "fast_dev_run": Situation(settings={"fast_dev_run": True}, enough=False, unseen=RATES | PERFORMANCE),
        "fast_dev_run of many batches": Situation(
            settings={"fast_dev_run": 12}, data=validated, unseen=RATES | PERFORMANCE
        ),
        "barebones": Situation(settings={"barebones": True}),
        "sanity check of everything": Situation(settings={"num_sanity_val_steps": -1}),
        "no sanity check": Situation(settings={"num_sanity_val_steps": 0}),
        "checked in mid-epoch": Situation(settings={"val_check_interval": 0.25}),
        "checked every 3 steps over epochs": Situation(
            settings={"val_check_interval": 3, "check_val_every_n_epoch": None}
        ),
        "two optimizers": Situation(kind=TwoOptimizers),
        "accumulation": Situation(settings={"accumulate_grad_batches": 3}),
        "clipping": Situation(settings={"gradient_clip_val": 0.1}),
        "double precision": Situation(settings={"precision": "64-true"}),
        "anomaly mode": Situation(settings={"detect_anomaly": True}),
        "None sometimes": Situation(kind=SometimesNone),
        "None always": Situation(kind=AlwaysNone, enough=False),
        "no parameters": Situation(kind=NoParameters, enough=False, unseen=MODES | RATES | PERFORMANCE),
        "frozen backbone": Situation(kind=FrozenBackbone, unseen=ACTIVATIONS | GRADIENTS),
        "LBFGS": Situation(kind=Lbfgs),
        "a dict with the loss": Situation(kind=DictLoss),
        "two training loaders": Situation(
            kind=TwoLoaders, data={"train_dataloaders": {"a": loader(), "b": loader(4)}}, unseen=MODES
        ),
        "two validation loaders": Situation(
            kind=TwoValidationLoaders,
            data={**validated, "val_dataloaders": [loader(1, shuffle=False), loader(2, shuffle=False)]},
        ),
        "data module": Situation(data={"datamodule": Module()}, unseen=MODES),
        "max_steps": Situation(settings={"max_steps": 17, "max_epochs": -1}),
        "one batch an epoch": Situation(settings={"limit_train_batches": 1, "max_epochs": 12}),
        "no batch at all": Situation(settings={"limit_train_batches": 0}, enough=False, unseen=RATES),
        "overfit_batches": Situation(settings={"overfit_batches": 4, "max_epochs": 3}),
        "loaders made anew": Situation(settings={"reload_dataloaders_every_n_epochs": 1}),
        "early stopping": Situation(settings={"callbacks": [EarlyStopping("val_loss", patience=0)], "max_epochs": 4}),
        "weight averaging": Situation(
            settings={"callbacks": [StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)], "max_epochs": 3},
            unseen=RATES,  # which has a scheduler of its own
        ),
        "progress bar": Situation(settings={"enable_progress_bar": True, "enable_model_summary": True}),
        "profiler": Situation(settings={"profiler": "simple"}),
        "many batches": Situation(data={**validated, "train_dataloaders": loader(8 * BATCHES)}),
    }
