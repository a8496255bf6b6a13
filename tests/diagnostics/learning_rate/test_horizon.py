"""Where a run ends, however that is said, and what is done where nobody says it."""

import math
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Timer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_diagnostics.statistics import cooldown_factor, warmup_factor
from tests import helpers
from tests.diagnostics.learning_rate.models import (
    ByHand,
    Program,
    Used,
    Validated,
    by_hand,
    codes,
    data,
    factor,
    own_rates,
    restart,
    schedule,
    train,
)


class Stop(Callback):
    """Ends a run after some batches."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        trainer.should_stop = trainer.fit_loop.epoch_loop.total_batch_idx + 1 >= self.after


def planned(total: int, *, steps: int | None = None, **lengths: Any) -> Used:
    """The rates of a run of so many steps, or of its first."""
    return [(step, 0.1 * factor(step, total, **lengths)) for step in range(total if steps is None else steps)]


@pytest.mark.parametrize(
    ("settings", "total"),
    [
        ({"max_steps": 25, "max_epochs": None}, 25),
        ({"max_steps": 25, "max_epochs": -1}, 25),
        ({"max_steps": 25, "max_epochs": 3}, 25),
        ({"max_steps": 40, "max_epochs": 3}, 30),
        ({"max_epochs": 5, "limit_train_batches": 4}, 20),
        ({"max_epochs": 5, "limit_train_batches": 0.5}, 25),
        ({"max_epochs": 9, "overfit_batches": 2}, 18),
        ({"max_steps": 15, "max_epochs": 4, "accumulate_grad_batches": 2}, 15),
    ],
    ids=str,
)
def test_the_end_is_that_which_comes_first(settings: dict[str, Any], total: int) -> None:
    program, callback = Program(), schedule()
    train(program, callback, **settings)
    assert program.used == planned(total)
    assert "LR804" not in codes(callback)


@pytest.mark.parametrize("fast", [True, 3])
def test_a_trial_of_a_few_batches_is_all_warmup(fast: bool | int) -> None:
    program, callback = Program(), schedule()
    train(program, callback, fast_dev_run=fast)
    assert program.used == [(step, 0.1 * warmup_factor(step, 6)) for step in range(int(fast))]
    assert not codes(callback)


def test_fractions_are_of_the_steps() -> None:
    program = Program()
    train(program, schedule(warmup=0.1, cooldown=0.25), max_epochs=3)
    assert program.used == planned(30, warmup=3, cooldown=8)  # a quarter of 30 is rounded to the even


# Runs that nobody ends.


@pytest.mark.parametrize("warmup", [6, 0.2])
def test_a_run_without_an_end_has_no_cooldown_and_says_so(warmup: float) -> None:
    program, callback = Program(), schedule(warmup=warmup, cooldown=0.2)
    with helpers.heard() as records:
        train(program, callback, Stop(25), max_epochs=-1, max_steps=-1)
    steps = [1.0 if warmup < 1 else warmup_factor(step, 6) for step in range(25)]
    assert program.used == [(step, 0.1 * rise) for step, rise in enumerate(steps)]
    (note,) = (finding for finding in callback.findings if finding.code == "LR804")
    assert "the cooldown of 0.2" in note.message
    assert ("the warmup of 0.2" in note.message) == (warmup < 1)
    text = "\n".join(record.getMessage() for record in records)
    assert "as the end of the run is not known" in text


class Stream(IterableDataset):
    """Rows of which nobody knows the number."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from data().dataset  # pyright: ignore[reportReturnType, reportGeneralTypeIssues]  # of pairs


def streamed(program: Program, *callbacks: Any, **settings: Any) -> None:
    restart(program)
    helpers.trainer(*callbacks, **settings).fit(program, DataLoader(Stream(), batch_size=2))


def test_a_loader_without_a_length_is_known_from_its_second_epoch_on() -> None:
    program, callback = Program(), schedule(warmup=15, cooldown=8)
    streamed(program, callback, max_epochs=3)
    assert program.used == planned(30, warmup=15)
    (note,) = (finding for finding in callback.findings if finding.code == "LR804")
    assert note.message.endswith("without the cooldown of 8 until its first epoch has ended.")


def test_a_warmup_does_not_begin_when_the_end_comes_to_be_known() -> None:
    program, callback = Program(), schedule(warmup=0.5, cooldown=8)
    streamed(program, callback, max_epochs=3)
    assert program.used == planned(30, warmup=0)
    (note,) = (finding for finding in callback.findings if finding.code == "LR804")
    assert note.message.endswith("without the warmup of 0.5 and the cooldown of 8.")


def test_a_loader_without_a_length_by_hand() -> None:
    program = ByHand()
    streamed(program, schedule(), max_epochs=3)
    assert program.used == [(step, 0.1 * by_hand(step, step, 30)) for step in range(30)]


def test_a_loader_without_a_length_ends_with_max_steps() -> None:
    program, callback = Program(), schedule()
    streamed(program, callback, max_steps=25, max_epochs=-1)
    assert program.used == planned(25)
    assert "LR804" not in codes(callback)


def test_a_loader_without_a_length_that_is_limited_is_known() -> None:
    program, callback = Program(), schedule()
    streamed(program, callback, max_epochs=4, limit_train_batches=5)
    assert program.used == planned(20)
    assert "LR804" not in codes(callback)


# Epochs that end early.


class Leaves(Program):
    """Leaves an epoch after five batches."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 5 else None


class LeavesByHand(ByHand, Leaves):
    """Leaves an epoch after five batches, by hand."""


def test_an_epoch_that_the_program_leaves_brings_the_end_nearer() -> None:
    program = Leaves()
    train(program, schedule(), max_epochs=4)
    ends = [40, 35, 30, 25]
    assert program.used == [(step, 0.1 * factor(step, ends[step // 5])) for step in range(20)]


def test_an_epoch_that_the_program_leaves_by_hand() -> None:
    program = LeavesByHand()
    train(program, schedule(), max_epochs=4)
    batches = program.trainer.fit_loop.epoch_loop.batch_progress.total
    ends = [40, 35, 30, 25]
    assert batches.completed == 20
    assert program.used == [(step, 0.1 * by_hand(step, step, ends[step // 5])) for step in range(20)]


# Time.


class Scripted(Timer):
    """A batch takes a second."""

    def __init__(self, seconds: int) -> None:
        super().__init__(timedelta(seconds=seconds), verbose=False)
        self.batches = 0

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.batches += 1
        super().on_train_batch_end(*args, **kwargs)

    def time_elapsed(self, *args: Any, **kwargs: Any) -> float:
        return float(self.batches)


def by_time(step: int, seconds: int, wanted: float) -> float:
    """The factor of a cooldown by the pace so far."""
    if step == 0:
        return 1.0
    end = step / (step / seconds)
    length = round(wanted * end) if wanted < 1 else wanted
    return cooldown_factor((step - (end - length)) / length)


@pytest.mark.parametrize("cooldown", [8, 0.25])
@pytest.mark.parametrize("timer_first", [False, True])
def test_a_run_ends_with_its_time(cooldown: float, timer_first: bool) -> None:
    program, callback, timer = Program(), schedule(cooldown=cooldown), Scripted(24)
    callbacks = [timer, callback] if timer_first else [callback, timer]
    train(program, *callbacks, max_epochs=-1)
    falls = [by_time(step, 24, cooldown) for step in range(24)]
    assert program.used == [(step, 0.1 * (warmup_factor(step, 6) * fall)) for step, fall in enumerate(falls)]
    assert falls[:15] == [1.0] * 15
    assert falls[15:] == sorted(falls[15:], reverse=True)
    assert falls[-1] == pytest.approx(cooldown_factor(5 / 6 if cooldown < 1 else 7 / 8))
    assert "LR804" not in codes(callback)


@pytest.mark.parametrize("seconds", [24, 50])
def test_of_time_and_epochs_what_comes_first_ends_the_run(seconds: int) -> None:
    program = Program()
    train(program, schedule(), Scripted(seconds), max_epochs=3)
    steps = min(seconds, 30)
    falls = [min(cooldown_factor((step - 22) / 8), by_time(step, seconds, 8)) for step in range(steps)]
    assert program.used == [(step, 0.1 * (warmup_factor(step, 6) * fall)) for step, fall in enumerate(falls)]


def test_time_by_hand() -> None:
    program = ByHand()
    train(program, schedule(), Scripted(24), max_epochs=-1)
    expected = [warmup_factor(step, 6) * by_time(step, 24, 8) for step in range(24)]
    assert program.used == [(step, 0.1 * each) for step, each in enumerate(expected)]


def test_a_real_clock() -> None:
    program, callback = Program(), schedule(warmup=None, cooldown=0.5)
    train(program, callback, max_time=timedelta(seconds=1), max_epochs=-1)
    used = [rate for _, rate in program.used]
    assert len(used) > 20
    assert used[0] == 0.1
    assert used[-1] < 0.05
    assert math.isclose(sum(rate == 0.1 for rate in used) / len(used), 0.5, abs_tol=0.35)


# Several runs.


def test_the_second_fit_of_a_trainer_goes_on() -> None:
    program, callback = Program(), schedule()
    trainer = train(program, callback, max_epochs=3)
    trainer.fit_loop.max_epochs = 5
    trainer.fit(program, data())
    assert program.used == planned(30) + planned(50)[30:]
    assert own_rates(trainer) == [0.1]


def test_the_second_fit_by_hand_goes_on() -> None:
    program, callback = ByHand(), schedule(warmup=25)
    trainer = train(program, callback, max_epochs=2)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(program, data())
    first = [by_hand(step, step, 20, warmup=25, cooldown=1) for step in range(20)]
    second = [by_hand(step, step, 40, warmup=25) for step in range(20, 40)]
    assert program.used == [(step, 0.1 * each) for step, each in enumerate(first + second)]


def test_a_new_trainer_begins_anew() -> None:
    program, callback = Program(), schedule()
    train(program, callback, max_epochs=3)
    train(program, callback, max_epochs=2)
    assert program.used == planned(30) + planned(20)


@pytest.mark.parametrize("alone", ["validate", "test"])
def test_a_program_that_is_only_evaluated_is_left_alone(alone: str) -> None:
    program, callback = Validated(), schedule()
    trainer = helpers.trainer(callback)
    getattr(trainer, alone)(program, data(), verbose=False)
    assert not codes(callback)
    assert not program.used


def test_an_evaluation_after_the_run_changes_nothing() -> None:
    program, callback = Validated(), schedule()
    trainer = helpers.trainer(callback, max_epochs=3, num_sanity_val_steps=2, val_check_interval=5)
    restart(program)
    trainer.fit(program, data(), data(2))
    trainer.validate(program, data(2), verbose=False)
    assert program.used == planned(30)
    assert own_rates(trainer) == [0.1]
    optimizer: Any = trainer.optimizers[0]
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not optimizer._optimizer_state_dict_post_hooks
    assert isinstance(optimizer, torch.optim.SGD)
