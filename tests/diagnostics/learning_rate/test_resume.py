"""A run that is resumed is the run that was never interrupted: rates and weights, to the bit."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

from tests import helpers
from tests.diagnostics.learning_rate.models import (
    ByHand,
    Program,
    by_hand,
    codes,
    data,
    factor,
    own_rates,
    restart,
    same,
    schedule,
    train,
    weights,
)
from tests.diagnostics.learning_rate.test_start_cooldown import Ask, begun
from tests.diagnostics.learning_rate.test_used_rates import adversaries, five_to_one

pytestmark = pytest.mark.filterwarnings(
    "ignore:You're resuming from a checkpoint that ended before the epoch ended:UserWarning",
    "ignore:Using ModelCheckpoint with manual optimization and every_n_train_steps:UserWarning",
    "ignore:Be aware that when using `ckpt_path`:UserWarning",
    "ignore:Checkpoint directory .* exists and is not empty:UserWarning",
)

EPOCHS, TOTAL = 3, 30


class Fixed(Program):
    """Has the same batches at the same places of an epoch, also of one that is resumed."""

    def loss(self, batch: Any) -> Tensor:
        rows = data().dataset
        place = 2 * self.trainer.fit_loop.epoch_loop.batch_progress.current.completed
        inputs, targets = rows[place : place + 2]
        return super().loss((inputs, targets))


class FixedByHand(ByHand, Fixed):
    """The same in manual optimisation."""


def cosine(program: Program) -> Any:
    optimizer = program.spied(Adam, program.groups(lr=0.02), lr=0.05)
    scheduler = CosineAnnealingLR(optimizer, TOTAL)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def steps(program: Program) -> Any:
    optimizer = program.spied(momentum=0.9, lr=torch.tensor(0.1))
    return [optimizer], [StepLR(optimizer, 1, 0.5)]


class Save(Callback):
    """Saves a checkpoint in a hook of a batch."""

    def __init__(self, hook: str, batch: int, path: Path) -> None:
        self.batch, self.path, self.kept = batch, path, False
        setattr(self, hook, self.save)

    def save(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if not self.kept and trainer.fit_loop.epoch_loop.batch_progress.total.completed == self.batch:
            trainer.save_checkpoint(self.path)
            self.kept = True


def resumed(program: Program, path: Path, *callbacks: Any, **settings: Any) -> Trainer:
    """Go on from a checkpoint, with other weights to begin with."""
    trainer = helpers.trainer(*callbacks, **{"max_epochs": EPOCHS, **settings})
    trainer.fit(program, data(), ckpt_path=path)
    return trainer


def goes_on(whole: Program, rest: Program, trainer: Trainer) -> None:
    """The second program ends as the first, with the same steps from somewhere on."""
    assert 0 < len(rest.used) < len(whole.used)
    assert rest.used == whole.used[-len(rest.used) :]
    assert same(weights(rest), weights(whole))
    assert own_rates(trainer) == own_rates(whole.trainer)


WHERE = [
    ("on_train_batch_start", 3),
    ("on_train_batch_end", 3),
    ("on_train_batch_end", 9),
    ("on_train_batch_end", 24),
    ("on_before_optimizer_step", 25),
    ("on_before_zero_grad", 4),
]
"""Hooks and batches, in the middle of the warmup and in the middle of the cooldown; and at the end of an epoch."""


@pytest.mark.parametrize(("hook", "batch"), WHERE)
@pytest.mark.parametrize("configure", [cosine, pytest.param(steps, marks=pytest.mark.slow)])
def test_wherever_the_checkpoint_was_saved(
    configure: Callable[[Program], Any], hook: str, batch: int, tmp_path: Path
) -> None:
    whole, rest, path = Fixed(configure), Fixed(configure), tmp_path / "kept.ckpt"
    train(whole, schedule(), Save(hook, batch, path), max_epochs=EPOCHS)
    callback = schedule()
    goes_on(whole, rest, resumed(rest, path, callback))
    assert len({step for step, _ in rest.used}) == TOTAL - batch - (hook == "on_train_batch_end")
    assert "LR805" not in codes(callback)


@pytest.mark.parametrize(("hook", "batch"), [each for each in WHERE if each[0] != "on_before_zero_grad"])
@pytest.mark.parametrize("configure", [pytest.param(cosine, marks=pytest.mark.slow), steps])
def test_wherever_the_checkpoint_was_saved_by_hand(
    configure: Callable[[Program], Any], hook: str, batch: int, tmp_path: Path
) -> None:
    def twice(program: ByHand, batch: Any, batch_idx: int) -> None:
        program.go(program.optimizers(), batch)
        if batch_idx % 2:
            program.go(program.optimizers(), batch)
        scheduler: Any = program.lr_schedulers()
        scheduler.step()

    def plain(program: Program) -> Any:
        found = configure(program)
        return ([found["optimizer"]], [found["lr_scheduler"]["scheduler"]]) if isinstance(found, dict) else found

    whole, rest, path = FixedByHand(plain, twice), FixedByHand(plain, twice), tmp_path / "kept.ckpt"
    train(whole, schedule(), Save(hook, batch, path), max_epochs=EPOCHS)
    goes_on(whole, rest, resumed(rest, path, schedule()))


def test_each_optimizer_goes_on_with_its_own_steps(tmp_path: Path) -> None:
    whole, rest = FixedByHand(adversaries, five_to_one), FixedByHand(adversaries, five_to_one)
    train(whole, schedule(warmup=40), Save("on_train_batch_end", 3, tmp_path / "kept.ckpt"), max_epochs=EPOCHS)
    goes_on(whole, rest, resumed(rest, tmp_path / "kept.ckpt", schedule(warmup=40)))


KEEPERS: list[tuple[dict[str, Any], Sequence[str]]] = [
    ({"every_n_train_steps": 4}, ("epoch=0-step=4.ckpt", "epoch=2-step=24.ckpt")),
    ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, ("epoch=0-step=10.ckpt", "epoch=1-step=20.ckpt")),
]


@pytest.mark.parametrize(("how", "names"), KEEPERS, ids=["by step", "by epoch"])
@pytest.mark.parametrize("kind", [Fixed, FixedByHand])
@pytest.mark.parametrize("first", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_checkpoints_of_lightning(
    kind: type[Fixed], how: dict[str, Any], names: Sequence[str], first: bool, tmp_path: Path
) -> None:
    def keeper() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path, save_top_k=-1, **how)

    def plain(program: Program) -> Any:
        return program.spied(Adam, lr=0.05)

    whole = kind(plain)
    both = [keeper(), schedule()]
    train(whole, *(both if first else both[::-1]), max_epochs=EPOCHS, enable_checkpointing=True)
    for name in names:
        rest = kind(plain)
        goes_on(whole, rest, resumed(rest, tmp_path / name, keeper(), schedule(), enable_checkpointing=True))


@pytest.mark.parametrize("kind", [Fixed, FixedByHand])
def test_a_cooldown_that_was_begun_by_hand_goes_on(kind: type[Fixed], tmp_path: Path) -> None:
    whole, rest, path = kind(), kind(), tmp_path / "kept.ckpt"
    callback = schedule()
    train(whole, callback, Ask(callback), Save("on_train_batch_end", 15, path), max_epochs=EPOCHS)
    assert whole.used == begun(12, 8)
    goes_on(whole, rest, resumed(rest, path, schedule()))


def test_a_cooldown_that_began_where_nothing_was_to_act_goes_on(tmp_path: Path) -> None:
    whole, rest, path = Fixed(), Fixed(), tmp_path / "kept.ckpt"
    callback = schedule(warmup=None, cooldown=None)
    train(whole, callback, Ask(callback, steps=15), Save("on_train_batch_end", 15, path), max_epochs=EPOCHS)
    assert whole.used == begun(12, 15, warmup=0)
    goes_on(whole, rest, resumed(rest, path, schedule(warmup=None, cooldown=None)))


# Another length.


@pytest.mark.parametrize("settings", [{"max_steps": 40, "max_epochs": -1}, {"max_epochs": 4}])
def test_a_longer_run_has_the_factors_of_one_that_was_longer_from_the_start(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "kept.ckpt"
    train(Fixed(), schedule(), Save("on_train_batch_end", 25, path), max_epochs=EPOCHS)
    program, callback = Fixed(), schedule()
    resumed(program, path, callback, **settings)
    assert program.used == [(step, 0.1 * factor(step, 40)) for step in range(26, 40)]
    (note,) = (finding for finding in callback.findings if finding.code == "LR805")
    assert note.evidence == {"factor_before": factor(26, 30), "factor_now": 1.0}


def test_a_longer_run_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "kept.ckpt"
    train(FixedByHand(), schedule(), Save("on_train_batch_end", 25, path), max_epochs=EPOCHS)
    program, callback = FixedByHand(), schedule()
    resumed(program, path, callback, max_epochs=4)
    assert program.used == [(step, 0.1 * by_hand(step, step, 40)) for step in range(26, 40)]
    assert "LR805" in codes(callback)


def test_a_shorter_run(tmp_path: Path) -> None:
    path = tmp_path / "kept.ckpt"
    train(Fixed(), schedule(), Save("on_train_batch_end", 13, path), max_epochs=EPOCHS)
    program, callback = Fixed(), schedule()
    resumed(program, path, callback, max_epochs=2)
    assert program.used == [(step, 0.1 * factor(step, 20)) for step in range(14, 20)]
    assert "LR805" in codes(callback)


def test_another_length_that_changes_nothing_yet_is_not_noted(tmp_path: Path) -> None:
    path = tmp_path / "kept.ckpt"
    train(Fixed(), schedule(), Save("on_train_batch_end", 11, path), max_epochs=EPOCHS)
    program, callback = Fixed(), schedule()
    resumed(program, path, callback, max_epochs=4)
    assert program.used == [(step, 0.1 * factor(step, 40)) for step in range(12, 40)]
    assert "LR805" not in codes(callback)


def test_a_warmup_that_is_a_fraction_grows_with_the_run(tmp_path: Path) -> None:
    path = tmp_path / "kept.ckpt"
    train(Fixed(), schedule(warmup=0.2), Save("on_train_batch_end", 4, path), max_epochs=EPOCHS)
    program, callback = Fixed(), schedule(warmup=0.2)
    resumed(program, path, callback, max_epochs=6)
    assert program.used == [(step, 0.1 * factor(step, 60, warmup=12)) for step in range(5, 60)]
    (note,) = (finding for finding in callback.findings if finding.code == "LR805")
    assert note.evidence == {"factor_before": 1.0, "factor_now": 0.5}


def test_other_arguments_are_those_of_the_new_run(tmp_path: Path) -> None:
    path = tmp_path / "kept.ckpt"
    train(Fixed(), schedule(), Save("on_train_batch_end", 25, path), max_epochs=EPOCHS)
    program, callback = Fixed(), schedule(cooldown=None)
    resumed(program, path, callback)
    assert [rate for _, rate in program.used] == [0.1] * 4
    assert "LR805" in codes(callback)


@pytest.mark.parametrize("kind", [Fixed, FixedByHand])
def test_a_run_that_was_begun_without_the_callback(kind: type[Fixed], tmp_path: Path) -> None:
    path = tmp_path / "kept.ckpt"
    train(kind(), Save("on_train_batch_end", 3, path), max_epochs=EPOCHS)
    program, callback = kind(), schedule()
    resumed(program, path, callback)
    assert program.used == [(step, 0.1 * by_hand(step, step, TOTAL)) for step in range(4, TOTAL)]
    assert "LR805" not in codes(callback)


def test_a_checkpoint_holds_the_programs_own_rates(tmp_path: Path) -> None:
    program, path = Fixed(), tmp_path / "kept.ckpt"
    restart(program)
    train(program, schedule(), Save("on_before_optimizer_step", 2, path), max_epochs=EPOCHS)
    kept = torch.load(path)
    assert kept["optimizer_states"][0]["param_groups"][0]["lr"] == 0.1
