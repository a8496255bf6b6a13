"""A program on Lightning's command line that knows nothing of diagnostics.

``python examples/digits_cli.py fit --config examples/digits_cli.yaml`` trains a small network on scikit-learn's digits,
with the callbacks that stand in the file. Flags, YAML and the environment variable switch the diagnostics on; see
``docs/switch-on.md``.
"""

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, random_split

Batch = tuple[Tensor, Tensor]


class Digits(LightningDataModule):
    """Scikit-learn's 1,797 digits of 8 x 8 pixels, which come with it.

    Args:
        batch_size: Pictures in a batch.
    """

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        """Split the pictures into those to train on and those to validate on."""
        images, labels = load_digits(return_X_y=True)
        digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
        self.train, self.val = random_split(digits, [0.8, 0.2], generator=torch.Generator().manual_seed(0))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch_size)


class Classifier(LightningModule):
    """Two hidden layers.

    Args:
        width: Units of a hidden layer.
        learning_rate: Of Adam.
    """

    def __init__(self, width: int = 64, learning_rate: float = 0.001) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.layers = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        loss = cross_entropy(self.layers(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        self.log("val_acc", (self.layers(images).argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


if __name__ == "__main__":
    LightningCLI(Classifier, Digits, seed_everything_default=0)
