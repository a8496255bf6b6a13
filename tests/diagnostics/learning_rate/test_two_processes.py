"""Two processes: both use the same rates at each step, and end with the same weights."""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.optim import Adam

from lightning_diagnostics import WarmupCooldownScheduler
from tests import helpers
from tests.diagnostics.learning_rate.models import (
    BATCHES,
    ByHand,
    Program,
    Used,
    by_hand,
    data,
    factor,
    own_rates,
    restart,
    same,
    scaler,
    schedule,
    weights,
)
from tests.diagnostics.learning_rate.test_start_cooldown import begun

TOTAL = 30


@pytest.fixture(autouse=True)
def _no_child_left() -> Iterator[None]:
    yield
    assert torch.multiprocessing.active_children() == []


@dataclass
class Told:
    """What one process tells of its run."""

    used: Used
    weights: dict[str, Tensor]
    own: list[float]
    codes: set[str]


class Tells(Callback):
    """Writes down the run of its process: another process has no other way to bring it home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Program)
        callbacks: Any = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]  # Lightning types callbacks by a mixin
        (ours,) = (each for each in callbacks if isinstance(each, WarmupCooldownScheduler))
        told = Told(pl_module.used, weights(pl_module), own_rates(trainer), {found.code for found in ours.findings})
        (self.folder / f"rank{trainer.global_rank}.pickle").write_bytes(pickle.dumps(told))


def both(program: Program, folder: Path, *callbacks: Any, **settings: Any) -> list[Told]:
    """Train in two processes; what each tells, of which the weights and the program's own rates are the same."""
    strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=30))
    trainer = helpers.trainer(
        *callbacks, Tells(folder), **{"max_epochs": 3, "devices": 2, "strategy": strategy, **settings}
    )
    restart(program)
    trainer.fit(program, data(2 * BATCHES))
    told = [pickle.loads((folder / f"rank{rank}.pickle").read_bytes()) for rank in range(2)]
    assert same(told[0].weights, told[1].weights)
    assert told[0].own == told[1].own
    return told


def test_automatic(tmp_path: Path) -> None:
    for told in both(Program(), tmp_path, schedule()):
        assert told.used == [(step, 0.1 * factor(step, TOTAL)) for step in range(TOTAL)]
        assert told.own == [0.1]


@pytest.mark.slow
def test_accumulation_and_a_scaler(tmp_path: Path) -> None:
    settings = {"accumulate_grad_batches": 2, "max_epochs": 6, **scaler(init_scale=256.0)}
    for told in both(Program(), tmp_path, schedule(), **settings):
        assert told.used == [(step, 0.1 * factor(step, TOTAL)) for step in range(TOTAL)]


@pytest.mark.slow
def test_by_hand(tmp_path: Path) -> None:
    for told in both(ByHand(lambda program: program.spied(Adam, lr=0.05)), tmp_path, schedule()):
        assert told.used == [(step, 0.05 * by_hand(step, step, TOTAL)) for step in range(TOTAL)]


class AskOne(Callback):
    """Asks for the cooldown on one rank, in the middle of the first epoch; or on both, of different lengths."""

    def __init__(self, callback: WarmupCooldownScheduler, ranks: dict[int, int | None]) -> None:
        self.callback, self.ranks = callback, ranks

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == 4 and trainer.global_rank in self.ranks:
            self.callback.start_cooldown(steps=self.ranks[trainer.global_rank])


@pytest.mark.parametrize(
    ("ranks", "length"), [({1: None}, 8), ({0: None}, 8), ({1: 15}, 15), ({0: 12, 1: 15}, 12)], ids=str
)
@pytest.mark.parametrize("kind", [Program, pytest.param(ByHand, marks=pytest.mark.slow)])
def test_a_cooldown_that_one_rank_asks_for_begins_on_both_at_the_end_of_the_epoch(
    kind: type[Program], ranks: dict[int, int | None], length: int, tmp_path: Path
) -> None:
    callback = schedule()
    told = both(kind(), tmp_path, callback, AskOne(callback, ranks))
    for each in told:
        assert each.used == begun(BATCHES, length)


class Uneven(Timer):
    """On the second rank time is later."""

    def __init__(self) -> None:
        super().__init__(timedelta(seconds=1000), verbose=False)
        self.batches, self.late = 0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.late = 200 * trainer.global_rank

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.batches += 1
        super().on_train_batch_end(*args, **kwargs)

    def time_elapsed(self, *args: Any, **kwargs: Any) -> float:
        return 25.0 * self.batches + self.late


def test_both_have_the_time_of_the_first(tmp_path: Path) -> None:
    first, second = both(Program(), tmp_path, schedule(warmup=None), Uneven())
    assert first.used == second.used
    assert first.used[20] == (20, 0.1)
    assert first.used[-1][1] < 0.1
