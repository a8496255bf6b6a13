"""A user's network with two mistakes, his data, and a callback of his."""

import hashlib
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Net(LightningModule):
    def __init__(self, width: int = 8, rate: float = 0.01) -> None:
        super().__init__()
        self.rate = rate
        self.net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 1))
        self.running_loss: Any = 0.0
        with torch.no_grad():
            self.net[0].bias.fill_(-30.0)  # no unit is ever on

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.mse_loss(self.net(batch[0]).squeeze(-1), batch[1])
        self.running_loss = self.running_loss + loss  # keeps the graph of every step
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]).squeeze(-1), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def loader(rows: int, batch_size: int = 64) -> DataLoader:
    inputs = torch.randn(rows, 4, generator=torch.Generator().manual_seed(7))
    return DataLoader(TensorDataset(inputs, inputs.sum(dim=1)), batch_size=batch_size)


class Data(LightningDataModule):
    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        return loader(640, self.batch_size)

    def val_dataloader(self) -> DataLoader:
        return loader(64, self.batch_size)


class Roll(Callback):
    """Prints who is in the Trainer's list while it trains and after, and what the weights were at the end."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            print("while:", *(type(callback).__name__ for callback in trainer.callbacks))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            weights = b"".join(tensor.numpy().tobytes() for tensor in pl_module.state_dict().values())
            print("weights:", hashlib.sha256(weights).hexdigest())
