"""Rows that know their number, a module that writes down what it trains on, and a callback that reads in between."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_diagnostics.callback.undisturbed import undisturbed
from lightning_diagnostics.diagnostics.generalization_gap.data import TrainingData, find
from tests.helpers import trainer

COUNT = 61


class Rows(Dataset):
    """Row i is (i, noise), with a label; the noise is drawn anew each time, if any."""

    def __init__(self, count: int = COUNT, *, noise: float = 0.0) -> None:
        self.count, self.noise = count, noise

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = self.noise * torch.randn(()) if self.noise else torch.zeros(())
        return torch.stack([torch.tensor(float(index)), noise]), torch.tensor(index % 2)


class Stream(IterableDataset):
    """The same rows, one after the other."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (Rows()[index] for index in range(COUNT))


class Scribe(LightningModule):
    """Trains on whatever has rows in it, and writes down their numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.trained: list[list[int]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.trained.append(numbers(batch))
        return self.layer(_first_rows(batch)).square().mean() * 1e-6

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch[0]).square().mean(), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-6)


class Reader(Callback):
    """Reads training data at the end of every validation, within `undisturbed`."""

    def __init__(self, samples: int | None = None, *, batch_size: int | None = None, like: Any = None) -> None:
        self.samples, self.batch_size, self.like = samples, batch_size, like
        self.found: list[TrainingData] = []
        self.read: list[list[Any]] = []
        self.shares: list[int | None] = []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            with undisturbed(trainer, pl_module):
                data = find(trainer, pl_module, batch_size=self.batch_size, like=self.like)
                data.probe()
                self.read.append(list(data.batches(self.samples)))
                self.shares.append(data.share(self.samples))
            self.found.append(data)

    @property
    def rows(self) -> list[int]:
        """The numbers of the rows that were read first."""
        return [number for batch in self.read[0] for number in numbers(batch)]

    @property
    def sizes(self) -> list[int]:
        """Those of the batches."""
        return [len(numbers(batch)) for batch in self.read[0]]


def _first_rows(batch: Any) -> Tensor:
    while not isinstance(batch, Tensor):
        parts = batch.values() if isinstance(batch, dict) else batch
        batch = next(each for each in parts if each is not None and not isinstance(each, int))
    return batch.reshape(-1, 2)


def numbers(batch: Any) -> list[int]:
    """The numbers of the rows of a batch."""
    return [int(each) for each in _first_rows(batch)[:, 0]]


def fit(reader: Callback | None, train: Any, module: Scribe | None = None, **settings: Any) -> Scribe:
    """Train for one epoch; gives the module."""
    torch.manual_seed(3)
    module = module or Scribe()
    run = trainer(*([reader] if reader else []), **{"max_epochs": 1, **settings})
    more = {"datamodule": train} if hasattr(train, "prepare_data") else {"train_dataloaders": train}
    validation = {} if hasattr(train, "val_dataloader") else {"val_dataloaders": DataLoader(Rows(4), batch_size=2)}
    run.fit(module, **more, **validation)
    return module


def with_hook(hook: Callable[[], Any]) -> Scribe:
    """A module that has the hook."""
    module = Scribe()
    module.train_eval_dataloader = hook  # type: ignore[assignment]  # as a method would be
    return module
