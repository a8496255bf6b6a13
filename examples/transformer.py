"""A small transformer learns to write Python, with a rate that it bears only after a warmup.

``python examples/transformer.py`` trains it twice for 400 steps on the source of Python's own standard library,
character by character: ``plain`` begins with the full learning rate, and its loss spikes to a multiple of the first;
``warmup`` comes to the same rate over the first tenth of the run (``WarmupCooldownScheduler(warmup="auto")``), and its
loss falls from the first step on. All else is the same, the cooldown over the last fifth too. With ``--seed 1`` both
begin with other weights, and ``--plot warmup.png`` draws their losses and rates, read back from what was logged.
"""

import argparse
import importlib
import inspect
import warnings
from pathlib import Path
from statistics import fmean

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention
from torch.utils.data import DataLoader, TensorDataset

from lightning_diagnostics import WarmupCooldownScheduler

MODULES = ("argparse", "ast", "json.decoder", "logging", "pathlib", "tarfile", "textwrap", "typing", "zipfile")
CHARACTERS, WINDOW, WIDTH, BLOCKS, HEADS = 128, 64, 64, 4, 4


class Block(nn.Module):
    """Attention and a network of two layers; what goes into each is normed, what comes out is added ("pre-norm")."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.attention(self.norm1(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(seen)
        return x + self.down(gelu(self.up(self.norm2(x))))


class Writer(LightningModule):
    """Says of each character which one comes next. No norm stands before its head, so nothing bounds what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(CHARACTERS, WIDTH), nn.Parameter(torch.zeros(WINDOW, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.head = nn.Linear(WIDTH, CHARACTERS)

    def forward(self, text: Tensor) -> Tensor:
        return self.head(self.blocks(self.letters(text) + self.places))

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        (text,) = batch
        loss = cross_entropy(self(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.025, betas=(0.9, 0.95))


def loader() -> DataLoader:
    """Pieces of the standard library, in batches of eight."""
    text = "".join(inspect.getsource(importlib.import_module(name)) for name in MODULES)
    codes = torch.tensor(list(text.encode("ascii", "replace")))
    return DataLoader(TensorDataset(codes.unfold(0, WINDOW + 1, WINDOW)), 8, shuffle=True, drop_last=True)


def fit(name: str, *, seed: int, steps: int, logdir: str) -> Path:
    """Train with a warmup or without one; returns the folder of the run."""
    seed_everything(seed, verbose=False)
    schedule = WarmupCooldownScheduler(warmup="auto" if name == "warmup" else None, cooldown=0.2)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=TensorBoardLogger(logdir, name=name),
        log_every_n_steps=1,
        callbacks=[LearningRateMonitor(), schedule],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Writer(), loader())
    return Path(str(trainer.log_dir))


def curve(run: Path, tag: str) -> list[float]:
    """A scalar at every step of a run, from its event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload().Scalars(tag)
    return list({event.step: event.value for event in events}.values())  # the first rate is logged twice


def smooth(values: list[float], over: int) -> list[float]:
    """The mean of each value and those before it."""
    return [fmean(values[max(0, end - over) : end]) for end in range(1, len(values) + 1)]


def described(losses: list[float]) -> str:
    """What came of a run, in words."""
    largest = max(losses[: len(losses) // 10])
    late = max((step for step, loss in enumerate(smooth(losses, 20)) if loss > 2.5), default=0)
    return (
        f"largest loss of the first tenth {largest / losses[0]:.2f} times the first, at step {losses.index(largest)}; "
        f"over 2.5 until step {late}; {fmean(losses[-20:]):.2f} at the end"
    )


def plot(runs: dict[str, Path], file: str) -> None:
    """Draw losses and rates over the steps."""
    import matplotlib.pyplot as plt

    labels = {"plain": "without warmup", "warmup": 'warmup="auto"'}
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 5), sharex=True, height_ratios=(3, 1), layout="constrained")
    for color, (name, run) in zip(("tab:red", "tab:blue"), runs.items(), strict=False):
        losses = curve(run, "train_loss")
        above.plot(losses, color=color, alpha=0.2)
        above.plot(smooth(losses, 5), color=color, label=labels[name])
        below.plot(curve(run, "lr-AdamW"), color=color)
    above.set(ylabel="training loss (nats a character)", yscale="log")
    above.set_yticks([2, 3, 5, 10, 20], ["2", "3", "5", "10", "20"])
    above.minorticks_off()
    above.legend()
    below.set(ylabel="learning rate used", xlabel="step")
    figure.savefig(file, dpi=110)
    print(f"drawn: {file}")


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="run", help="plain or warmup; both if none is named")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--plot", metavar="FILE", help="draw losses and rates of the runs")
    parser.add_argument("--logdir", default="lightning_logs")
    args = parser.parse_args()
    if unknown := set(args.runs) - {"plain", "warmup"}:
        parser.error(f"{', '.join(unknown)}: allowed are plain, warmup")
    if args.steps < 20:
        parser.error(f"--steps {args.steps}: allowed is 20 or more")
    warnings.filterwarnings("ignore", module="lightning")  # its advice on workers: slices of a tensor need none

    torch.set_num_threads(1)  # the network is too small to be shared
    runs: dict[str, Path] = {}
    for name in args.runs or ["plain", "warmup"]:
        runs[name] = fit(name, seed=args.seed, steps=args.steps, logdir=args.logdir)
        print(f"{name}: {described(curve(runs[name], 'train_loss'))}")
    if args.plot:
        plot(runs, args.plot)


if __name__ == "__main__":
    main()
