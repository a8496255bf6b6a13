"""A small network learns to read digits, with five mistakes that its diagnostics notice.

``python examples/digits.py`` trains it five times, with one mistake each: ``leaking`` loses memory with every step,
``dying`` loses most units of a layer, ``forgetting`` is validated in training mode, ``forgotten`` has a layer that no
optimizer trains, and ``overfitting`` learns a hundred pictures by heart, wrong labels and all. ``python
examples/digits.py healthy normed`` trains it without them, without and with batch norm. With ``--clip 0.5`` gradients
are clipped, with ``--per-class`` the scores of each digit are drawn, and with ``--plot memory.png`` the memory in use,
read back from what was logged.
"""

import argparse
import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, max_pool2d, relu
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_diagnostics import Diagnostics

Batch = tuple[Tensor, Tensor]


class Head(nn.Module):
    """From features to the scores of the ten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Conv2d(64, 64, 3, padding=1)
        self.linear = nn.Linear(64 * 4 * 4, 10)

    def forward(self, features: Tensor) -> Tensor:
        shapes = relu(self.conv(max_pool2d(features, 2)))
        return self.linear(shapes.flatten(1))


class Digits(LightningModule):
    """Two convolutions and a linear layer; logs how large its features are, as a mean over the run."""

    learning_rate = 0.001
    few = False  # pictures to learn from

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.ReLU())
        self.head = Head()
        self.norm_sum = torch.zeros(())

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        features = self.features(images)
        self.watch(features)
        loss = cross_entropy(self.head(features), labels)
        self.log("train_loss", loss)
        return loss

    def watch(self, features: Tensor) -> None:
        """Add up the norm of the features."""
        self.norm_sum += features.norm().detach()
        self.log("feature_norm", self.norm_sum / (self.global_step + 1))

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        answers = self(images).argmax(1)
        self.log("val_acc", (answers == labels).float().mean(), prog_bar=True)
        return {"preds": answers, "target": labels}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class LeakingDigits(Digits):
    """The same network, which keeps the graph of every step by mistake."""

    def watch(self, features: Tensor) -> None:
        self.norm_sum += features.norm()
        self.log("feature_norm", self.norm_sum / (self.global_step + 1))


class DyingDigits(Digits):
    """The same network with a learning rate that would suit SGD; for Adam it is far too large."""

    learning_rate = 0.03


class ForgottenDigits(Digits):
    """The same network, of which only the head is given to the optimizer."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.head.parameters(), lr=self.learning_rate)


class OverfittingDigits(Digits):
    """The same network, with a hundred pictures to learn from, thirty of them labelled by lot; logs its loss, too."""

    few = True

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        self.log("val_loss", cross_entropy(self(images), labels))
        return super().validation_step(batch, batch_idx)


class NormedDigits(Digits):
    """The same with batch norm; logs in validation how many answers stay when pictures move by a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.features.insert(1, nn.BatchNorm2d(64))
        self.head.conv = nn.Sequential(self.head.conv, nn.BatchNorm2d(64))

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        self.log("val_steady", self.steadiness(batch[0]))
        return super().validation_step(batch, batch_idx)

    def steadiness(self, images: Tensor) -> Tensor:
        """The share of pictures that are read alike when they are moved by one pixel."""
        was_training = self.training
        self.eval()
        answers, moved = self(images).argmax(1), self(images.roll(1, dims=3)).argmax(1)
        self.train(was_training)
        return (answers == moved).float().mean()


class ForgettingDigits(NormedDigits):
    """The same, which leaves training mode behind: a habit from training loops that are written by hand."""

    def steadiness(self, images: Tensor) -> Tensor:
        self.eval()
        answers, moved = self(images).argmax(1), self(images.roll(1, dims=3)).argmax(1)
        self.train()
        return (answers == moved).float().mean()


NETWORKS = {
    "healthy": Digits,
    "leaking": LeakingDigits,
    "dying": DyingDigits,
    "normed": NormedDigits,
    "forgetting": ForgettingDigits,
    "forgotten": ForgottenDigits,
    "overfitting": OverfittingDigits,
}


def loaders(*, few: bool = False) -> tuple[DataLoader, DataLoader]:
    """Training and validation batches of scikit-learn's 1,797 digits of 8 x 8 pixels."""
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    digits = TensorDataset(images, torch.tensor(labels))
    train, val = random_split(digits, [0.8, 0.2], generator=torch.Generator().manual_seed(0))
    if few:
        images, labels = digits[train.indices[:100]]
        labels[:30] = torch.randint(10, (30,), generator=torch.Generator().manual_seed(0))
        train = TensorDataset(images, labels)
    size = 8 if few else 32
    return DataLoader(train, size, shuffle=True), DataLoader(val, size)


def fit(
    network: type[Digits],
    *,
    name: str,
    logdir: str,
    epochs: int,
    clip: float | None = None,
    per_class: bool = False,
) -> Path:
    """Train a network under all diagnostics; returns the folder of the run."""
    seed_everything(0, verbose=False)
    rounds = 4 if network.few else 1  # of few pictures an epoch is short
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs * rounds,
        check_val_every_n_epoch=rounds,
        logger=TensorBoardLogger(logdir, name=name),
        log_every_n_steps=10,
        gradient_clip_val=clip,
        callbacks=[Diagnostics(generalization_gap={"per_class": per_class})],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(network(), *loaders(few=network.few))
    print(f"{name}: val_acc {trainer.callback_metrics['val_acc']:.3f}")
    return Path(str(trainer.log_dir))


def curve(run: Path, tag: str) -> tuple[list[int], list[float]]:
    """Steps and values of a scalar in a run's event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload().Scalars(tag)
    return [event.step for event in events], [event.value for event in events]


def plot(runs: dict[str, Path], file: str) -> None:
    """Draw the memory and the graphs of the runs over their steps."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for axis, tag, title in zip(
        axes,
        ("graph_leak/memory_in_use", "graph_leak/graphs_alive"),
        ("memory in use, growth since the first step (MiB)", "graphs of earlier steps that are alive"),
        strict=True,
    ):
        for label, run in runs.items():
            steps, values = curve(run, tag)
            start = values[0] if "memory" in tag else 0
            axis.plot(steps, [value - start for value in values], label=label)
        axis.set(title=title, xlabel="step")
        axis.title.set_fontsize("medium")
        axis.legend()
    figure.savefig(file, dpi=110)
    print(f"drawn: {file}")


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="network", help=f"any of {', '.join(NETWORKS)}")
    parser.add_argument("--plot", metavar="FILE", help="draw the memory of the runs")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--clip", type=float, metavar="NORM", help="clip gradients to this norm")
    parser.add_argument("--per-class", action="store_true", help="draw the scores of each digit")
    parser.add_argument("--logdir", default="lightning_logs")
    args = parser.parse_args()
    chosen = args.networks or ["leaking", "dying", "forgetting", "forgotten", "overfitting"]
    if unknown := set(chosen) - set(NETWORKS):
        parser.error(f"{', '.join(unknown)}: allowed are {', '.join(NETWORKS)}")
    warnings.filterwarnings("ignore", module="lightning")  # its advice on workers: 45 batches need none

    how = {"logdir": args.logdir, "epochs": args.epochs, "clip": args.clip, "per_class": args.per_class}
    runs = {name: fit(NETWORKS[name], name=name, **how) for name in chosen}
    if args.plot:
        plot(runs, args.plot)
    print(f"Look at the runs with: tensorboard --logdir {args.logdir}")


if __name__ == "__main__":
    main()
