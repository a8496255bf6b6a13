"""`start_cooldown()`: the cooldown begins at the next step, and takes the place of the one at the end."""

from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

from lightning_diagnostics import WarmupCooldownScheduler
from lightning_diagnostics.statistics import cooldown_factor, warmup_factor
from tests import helpers
from tests.diagnostics.learning_rate.models import (
    ByHand,
    Program,
    Used,
    Validated,
    codes,
    data,
    schedule,
    train,
)
from tests.diagnostics.learning_rate.test_horizon import Stop


class Ask(Callback):
    """Asks for a cooldown in a hook of some batches."""

    def __init__(self, callback: WarmupCooldownScheduler, hook: str = "on_train_batch_end", **how: Any) -> None:
        self.callback, self.hook, self.batches = callback, hook, how.pop("batches", (11,))
        self.how = how

    def ask(self, hook: str, trainer: Trainer) -> None:
        if hook == self.hook and trainer.fit_loop.epoch_loop.batch_progress.total.ready - 1 in self.batches:
            self.callback.start_cooldown(**self.how)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.ask("on_train_batch_end", trainer)

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.ask("on_train_batch_start", trainer)

    def on_before_optimizer_step(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.ask("on_before_optimizer_step", trainer)

    def on_train_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self.hook == "on_train_start":
            self.callback.start_cooldown(**self.how)


def begun(at: int, length: int, *, steps: int = 30, warmup: int = 6, floor: float = 0.0) -> Used:
    """The rates of a run whose cooldown began by hand."""
    falls = [cooldown_factor((step - at) / length, floor=floor) for step in range(steps)]
    return [(step, 0.1 * (warmup_factor(step, warmup) * fall)) for step, fall in enumerate(falls)]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("hook", "at"), [("on_train_batch_end", 12), ("on_train_batch_start", 11), ("on_before_optimizer_step", 11)]
)
def test_begins_at_the_next_step(hook: str, at: int, first: bool) -> None:
    program, callback = Program(), schedule()
    ask = Ask(callback, hook)
    train(program, *([ask, callback] if first else [callback, ask]), max_epochs=3)
    assert program.used == begun(at, 8)
    assert program.used[at + 1][1] < 0.1


def test_the_other_cooldown_is_gone() -> None:
    program, callback = Program(), schedule(floor=0.5)
    train(program, callback, Ask(callback), max_epochs=3)
    assert program.used == begun(12, 8, floor=0.5)
    assert program.used[-1][1] == 0.05
    assert "LR107" not in codes(callback)


def test_a_run_that_goes_on_after_it_is_accused() -> None:
    program, callback = Program(), schedule()
    train(program, callback, Ask(callback), max_epochs=3)
    (found,) = (finding for finding in callback.findings if finding.code == "LR107")
    assert found.evidence == {"began": 12, "ended": 20}
    assert program.used[20:] == [(step, 0.0) for step in range(20, 30)]


def test_a_run_that_ends_with_it_is_not_accused() -> None:
    program, callback = Program(), schedule()
    train(program, callback, Ask(callback), Stop(20), max_epochs=3)
    assert program.used == begun(12, 8, steps=20)
    assert "LR107" not in codes(callback)


def test_a_fraction_is_one_of_the_run() -> None:
    program, callback = Program(), schedule(cooldown=0.2)
    train(program, callback, Ask(callback), max_epochs=3)
    assert program.used == begun(12, 6)


@pytest.mark.parametrize("cooldown", [0.2, 0.25])
def test_a_fraction_of_a_run_without_an_end_is_one_of_what_will_have_been(cooldown: float) -> None:
    program, callback = Program(), schedule(cooldown=cooldown)
    length = {0.2: 3, 0.25: 4}[cooldown]  # of 15 and of 16
    train(program, callback, Ask(callback), Stop(12 + length), max_epochs=-1)
    assert program.used == begun(12, length, steps=12 + length)


def test_as_long_as_is_said() -> None:
    program, callback = Program(), schedule()
    train(program, callback, Ask(callback, steps=5), max_epochs=3)
    assert program.used == begun(12, 5)


def test_ends_with_the_run_at_the_latest() -> None:
    program, callback = Program(), schedule()
    train(program, callback, Ask(callback, steps=100), max_epochs=3)
    assert program.used == begun(12, 18)
    assert "LR107" not in codes(callback)


def test_where_nothing_is_said_but_the_rest_it_is_the_rest() -> None:
    program, callback = Program(), schedule(cooldown=0.2, preset="linear_to_zero")
    train(program, callback, Ask(callback, batches=(2,)), max_epochs=3)
    falls = [cooldown_factor((step - 3) / 27, shape="linear") for step in range(30)]
    assert program.used == [(s, 0.1 * (warmup_factor(s, 6) * fall)) for s, fall in enumerate(falls)]


@pytest.mark.parametrize("steps", [3, None])
def test_one_that_is_asked_for_within_the_other_never_raises_the_rate(steps: int | None) -> None:
    program, callback = Program(), schedule()
    train(program, callback, Ask(callback, steps=steps, batches=(24,)), max_epochs=3)
    falls = [min(cooldown_factor((s - 22) / 8), cooldown_factor((s - 25) / (steps or 5))) for s in range(30)]
    assert program.used == [(s, 0.1 * (warmup_factor(s, 6) * fall)) for s, fall in enumerate(falls)]


def test_during_the_warmup_both_are_multiplied() -> None:
    program, callback = Program(), schedule(warmup=20)
    train(program, callback, Ask(callback), max_epochs=3)
    assert program.used == begun(12, 8, warmup=20)


def test_before_the_first_step() -> None:
    program, callback = Program(), schedule(warmup=None)
    train(program, callback, Ask(callback, "on_train_start"), max_epochs=3)
    assert program.used == begun(0, 8, warmup=0)


@pytest.mark.parametrize("steps", [5, None])
def test_the_second_call_does_nothing(steps: int | None) -> None:
    program, callback = Program(), schedule()
    train(program, callback, Ask(callback, steps=5, batches=(11, 13, 25)), Ask(callback, steps=steps), max_epochs=3)
    assert program.used == begun(12, 5)


@pytest.mark.parametrize("acts", [{"warmup": 6}, {"warmup": None}])
def test_a_callback_that_was_to_cool_nothing_down_can_be_asked(acts: dict[str, Any]) -> None:
    program, callback = Program(), schedule(cooldown=None, **acts)
    train(program, callback, Ask(callback, steps=5), max_epochs=3)
    assert program.used == begun(12, 5, warmup=acts["warmup"] or 0)


def test_by_hand_it_is_counted_in_batches() -> None:
    def twice(program: ByHand, batch: Any, batch_idx: int) -> None:
        for _ in range(2):
            program.go(program.optimizers(), batch)

    program, callback = ByHand(None, twice), schedule()
    train(program, callback, Ask(callback), max_epochs=3)
    falls = [cooldown_factor((batch - 12) / 8) for batch in range(30)]
    expected = [0.1 * (warmup_factor(step, 6) * falls[step // 2]) for step in range(60)]
    assert [rate for _, rate in program.used] == expected


def test_with_accumulation_it_is_counted_in_steps() -> None:
    program, callback = Program(), schedule()
    train(program, callback, Ask(callback, batches=(25,)), max_epochs=6, accumulate_grad_batches=2)
    assert program.used == begun(13, 8)


class Impatient(Program):
    """Asks for the cooldown in `training_step`."""

    callback: Any = None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == 12:
            self.callback.start_cooldown()
        return super().training_step(batch, batch_idx)


def test_in_training_step_it_begins_with_the_step_of_that_batch() -> None:
    program, callback = Impatient(), schedule()
    vars(program)["callback"] = callback
    train(program, callback, max_epochs=3)
    assert program.used == begun(12, 8)


def test_the_next_run_is_not_cooled_down() -> None:
    program, callback = Program(), schedule()
    train(program, callback, Ask(callback), max_epochs=2)
    program.used.clear()
    train(program, callback, max_epochs=3)
    assert program.used == begun(22, 8)


# Refusals.


def test_without_a_run_there_is_nothing_to_cool_down() -> None:
    callback = schedule()
    with pytest.raises(RuntimeError, match="no training is under way"):
        callback.start_cooldown()
    train(Program(), callback, max_epochs=1)
    with pytest.raises(RuntimeError, match="no training is under way"):
        callback.start_cooldown()


class AsksInVain(Validated):
    """Asks for the cooldown while it is only evaluated."""

    callback: Any = None

    def on_validation_end(self) -> None:
        with pytest.raises(RuntimeError, match="no training is under way"):
            self.callback.start_cooldown()
        self.used.append((0, 0.0))


def test_an_evaluation_is_no_run() -> None:
    program, callback = AsksInVain(), schedule()
    vars(program)["callback"] = callback
    helpers.trainer(callback).validate(program, data(2), verbose=False)
    assert len(program.used) == 1


@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        (0, ValueError, "steps=0"),
        (-3, ValueError, "steps=-3"),
        (1.5, TypeError, "steps=1.5"),
        (True, TypeError, "True"),
    ],
)
def test_steps_are_a_whole_number(steps: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        schedule().start_cooldown(steps=steps)


def test_nobody_knows_how_long() -> None:
    with pytest.raises(ValueError, match=r"cooldown=None: start_cooldown\(\) needs steps"):
        schedule(cooldown=None).start_cooldown()
