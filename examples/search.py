"""A random search of twenty trials over a small network that reads digits, by Optuna, in two processes at once.

``python examples/search.py`` runs it, with the study in a file on disk. Each trial is a ``trainer.fit`` with
``ExpectedValidationPerformance`` in its list, and nothing more of this package. At the end the curve of what the best
of n trials is worth is printed twice: from the records that the runs have kept, and from the study. With ``--seed 1``
it adds other trials to those that are there already.
"""

import argparse
import logging
import multiprocessing
import warnings
from itertools import pairwise
from pathlib import Path

import optuna
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_diagnostics import ExpectedValidationPerformance, from_folder, from_optuna

STUDY = "digits"
EPOCHS = 8

Batch = tuple[Tensor, Tensor]


class Digits(LightningModule):
    """A perceptron, which says so when its loss is no number any more."""

    def __init__(self, learning_rate: float, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        sizes = [64, *[width] * layers]
        parts = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout))]
        self.network = nn.Sequential(*parts, nn.Linear(width, 10))
        self.learning_rate = learning_rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        loss = cross_entropy(self.network(images), labels)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss:g} with learning_rate={self.learning_rate:.3g}")
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        self.log("val_acc", (self.network(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)


def loaders() -> tuple[DataLoader, DataLoader]:
    """Training and validation batches of scikit-learn's 1,797 digits of 8 x 8 pixels."""
    images, labels = load_digits(return_X_y=True)
    digits = TensorDataset(torch.tensor(images, dtype=torch.float32), torch.tensor(labels))
    train, val = random_split(digits, [0.8, 0.2], generator=torch.Generator().manual_seed(0))
    return DataLoader(train, 64, shuffle=True), DataLoader(val, len(val))


def objective(trial: optuna.Trial, logdir: Path) -> float:
    """Train a network with the hyperparameters of a trial; returns the accuracy of its best checkpoint."""
    seed_everything(trial.number, verbose=False)
    network = Digits(
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 10.0, log=True),
        width=trial.suggest_int("width", 16, 128, log=True),
        layers=trial.suggest_int("layers", 1, 3),
        dropout=trial.suggest_float("dropout", 0.0, 0.5),
    )
    checkpoint = ModelCheckpoint(monitor="val_acc", mode="max")
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        # A name of its own: two loggers that look for the next version at the same time may find the same.
        logger=TensorBoardLogger(logdir, name=STUDY, version=f"trial_{trial.number}"),
        log_every_n_steps=10,
        callbacks=[checkpoint, ExpectedValidationPerformance()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(network, *loaders())
    assert checkpoint.best_model_score is not None
    return checkpoint.best_model_score.item()


def study(logdir: Path, seed: int) -> optuna.Study:
    """The study on disk, which is made if there is none."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    logdir.mkdir(parents=True, exist_ok=True)
    found = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(logdir / "study.log"))),
        study_name=STUDY,
        sampler=optuna.samplers.RandomSampler(seed=seed),
        direction="maximize",
        load_if_exists=True,
    )
    found.set_metric_names(["val_acc"])  # an accuracy is 1 at most, which bounds the band
    return found


def search(logdir: Path, trials: int, seed: int) -> None:
    """Run some trials of the study; several processes may do so at the same time."""
    warnings.filterwarnings("ignore", module="lightning")  # its advice on workers: 23 batches need none
    for name in ("lightning.pytorch", "lightning_diagnostics"):  # whose notes after each run are those of the curve
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_num_threads(1)
    # A trial that fails is part of the search: it is recorded, and the search goes on.
    study(logdir, seed).optimize(lambda trial: objective(trial, logdir), trials, catch=FloatingPointError)


def main() -> None:
    """Read the command line, search, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logdir", type=Path, default=Path("lightning_logs"))
    args = parser.parse_args()
    study(args.logdir, args.seed)

    context = multiprocessing.get_context("spawn")
    processes = []
    for index in range(args.processes):
        share = len(range(index, args.trials, args.processes))
        seed = args.seed * args.processes + index
        processes.append(context.Process(target=search, args=(args.logdir, share, seed)))
        processes[-1].start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a process of the search has failed")

    runs = args.logdir / STUDY
    records, trials = from_folder(runs), from_optuna(study(args.logdir, args.seed))
    print(f"From the records of the runs below {runs}:\n\n{records}\n")
    print(f"From the study in {args.logdir / 'study.log'}:\n\n{trials}\n")
    names = ("n_failed", "mean", "mean_unbiased", "spread", "median", "low", "high")
    different = [name for name in names if getattr(records, name) != getattr(trials, name)]
    print(f"They differ in {', '.join(different)}." if different else "They agree; only Optuna's times are longer.")
    print(f"The same from the command line: lightning-diagnostics tuning-curve {runs}")
    print(f"Look at the runs and the curve with: tensorboard --logdir {runs}")


if __name__ == "__main__":
    main()
