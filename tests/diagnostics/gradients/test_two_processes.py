"""Two processes that average their gradients: norms are of the joint batch, on both, and the ranks tell the noise."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from lightning.pytorch import LightningDataModule, seed_everything
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_diagnostics import GradientNormMonitor
from tests import helpers
from tests.diagnostics.gradients.reference import (
    Batch,
    Clip,
    Diary,
    Gradients,
    Notebook,
    Regression,
    Run,
    Step,
    Twin,
    add,
    by_norm,
    compare,
    compare_histories,
    data,
    estimates,
    norm_of,
    told_by,
)

RANKS = 2


@pytest.fixture(autouse=True)
def _no_child_left() -> Iterator[None]:
    yield
    assert torch.multiprocessing.active_children() == []


class Halves(LightningDataModule):
    """Every other row of the joint batches for each rank, in their order (of itself Lightning would shuffle them)."""

    def __init__(self, joint: Sequence[Batch]) -> None:
        super().__init__()
        self.rows = TensorDataset(*(torch.cat(parts) for parts in zip(*joint, strict=True)))
        self.size = len(joint[0][0]) // RANKS

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        sampler = DistributedSampler(self.rows, RANKS, self.trainer.global_rank, shuffle=False)
        return DataLoader(self.rows, self.size, sampler=sampler)


def both(module: Regression, joint: Sequence[Batch], folder: Path, *, every: int = 1, **settings: Any) -> list[Run]:
    """Train in two processes, of which each has every other row of the joint batches."""
    strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=30))
    monitor = GradientNormMonitor(every_n_train_steps=every, window=100, histograms=False, strict=True)
    more: dict[str, Any] = {"max_epochs": 1, "devices": RANKS, "strategy": strategy, **settings}
    trainer = helpers.trainer(monitor, Diary(folder), logger=Notebook(), **more)
    seed_everything(5, verbose=False)
    trainer.fit(module, datamodule=Halves(joint))
    return told_by(folder)


def part(batch: Batch, rank: int) -> Batch:
    """What a rank gets of a joint batch."""
    return [tensor[rank::RANKS] for tensor in batch]


def plainly(module: Regression, joint: Sequence[Batch], *, of: int = 1, clip: Clip | None = None) -> list[list[Step]]:
    """The steps of the twin on joint batches, as each rank should have them, with the noise that it can know."""
    twin = Twin(module, lambda m: {"SGD": m.optimizer()})
    summed: Gradients = {}
    firsts: list[float] = []
    found: list[list[Step]] = [[], []]
    for index, batch in twin.batches(joint):
        if index % of == 0:
            own = [twin.gradients(twin.module.loss(part(batch, rank))) for rank in range(RANKS)]
            firsts = [norm_of(list(each.values())) ** 2 for each in own]
        summed = add(summed, twin.gradients(twin.module.loss(batch)), 1 / of)
        if (index + 1) % of == 0:
            step = twin.step("SGD", summed, at=len(twin.steps), clip=clip)
            for rank in range(RANKS):
                first = firsts[rank] if of > 1 else sum(firsts) / RANKS
                found[rank].append(Step(**{**vars(step), "first": (first, 8, 8 * of * RANKS)}))
            summed = {}
    return found


def noise_of(steps: Sequence[Step]) -> list[float]:
    """Averages of noise and signal, and how many they are of."""
    each = [estimates(*step.first, step.norm**2) for step in steps if step.first is not None]
    signal, noise = (sum(0.01 * 0.99 ** (len(each) - 1 - i) * one[k] for i, one in enumerate(each)) for k in (0, 1))
    return [noise, signal, len(each)]


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_norms_are_of_the_joint_batch(clip: float, tmp_path: Path) -> None:
    module, joint = Regression(), data(20, rows=16)
    steps = plainly(module, joint, clip=by_norm(clip) if clip else None)
    runs = both(module, joint, tmp_path, gradient_clip_val=clip or None)
    for run, own in zip(runs, steps, strict=True):
        compare_histories(run, own)
        assert not run.blind
        assert not run.accused
        assert run.histories["SGD"]["noise"] == pytest.approx(noise_of(own), rel=1e-4)
    compare(runs[0], [Step(**{**vars(step), "first": None}) for step in steps[0]])  # ranks meet when all is drawn
    assert not runs[1].curves


def test_the_noise_of_the_ranks_is_that_of_the_looks(tmp_path: Path) -> None:
    module, joint = Regression(), data(40, rows=16)
    steps, _ = plainly(module, joint)
    for run in both(module, joint, tmp_path, every=50):
        compare_histories(run, steps)
        looked = [step for step in steps if step.at % 5 == 0 or step.at == 39]
        assert run.histories["SGD"]["noise"] == pytest.approx(noise_of(looked), rel=1e-4)


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_accumulation(clip: float, tmp_path: Path) -> None:
    module, joint = Regression(), data(24, rows=16)
    steps = plainly(module, joint, of=2, clip=by_norm(clip) if clip else None)
    runs = both(module, joint, tmp_path, accumulate_grad_batches=2, gradient_clip_val=clip or None)
    for run, own in zip(runs, steps, strict=True):
        compare_histories(run, own)
        assert run.histories["SGD"]["noise"] == pytest.approx(noise_of(own), rel=1e-4)
        assert not run.blind
    compare(runs[0], steps[0])


class ByHand(Regression):
    """Manual optimisation, clipped."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        self.clip_gradients(optimizer, gradient_clip_val=0.5)
        optimizer.step()


def test_manual_optimisation(tmp_path: Path) -> None:
    module, joint = ByHand(), data(12, rows=16)
    steps = plainly(module, joint, clip=by_norm(0.5))
    runs = both(module, joint, tmp_path)
    for run, own in zip(runs, steps, strict=True):
        compare_histories(run, own)
        assert run.histories["SGD"]["noise"][2] == 0
    compare(runs[0], [Step(**{**vars(step), "first": None}) for step in steps[0]])


class Given(Regression):
    """The gradient is the mean of what the batch holds."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ParameterList([torch.zeros(2)])

    def loss(self, batch: Batch) -> Tensor:
        return (batch[0] @ self.net[0]).mean()


def test_the_noise_scale_of_two_ranks_of_two(tmp_path: Path) -> None:
    """Signal 7/2 and noise 9/2: the mean squared norm of both is 23/4, and that of their mean 37/8."""
    rows = torch.tensor([[1.0, 0.0], [-1.0, 4.0], [3.0, 2.0], [2.0, 1.0]])  # ranks take turns
    monitor = GradientNormMonitor(every_n_train_steps=1, strict=True)
    strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=30))
    settings: dict[str, Any] = {"max_epochs": 2, "devices": RANKS, "strategy": strategy, "logger": Notebook()}
    helpers.trainer(monitor, Diary(tmp_path), **settings).fit(Given(), datamodule=Halves([[rows, rows]] * 10))
    zero, one = told_by(tmp_path)
    assert zero.histories["SGD"]["noise"] == one.histories["SGD"]["noise"]
    drawn = zero.curves["gradients/noise_scale/SGD"]
    assert list(drawn) == list(range(10, 20))  # the ranks met at the end of the first epoch
    assert list(drawn.values()) == pytest.approx([9 / 7] * 10, rel=1e-6)
