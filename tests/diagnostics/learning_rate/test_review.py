"""What a review and an attack have found: small real runs that hold it."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, LearningRateMonitor
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, SequentialLR, StepLR

from lightning_diagnostics import Diagnostics
from lightning_diagnostics.callback import trainer as insides
from tests import helpers
from tests.diagnostics.learning_rate.models import (
    BATCHES,
    ByHand,
    Notebook,
    Program,
    by_hand,
    data,
    factor,
    own_rates,
    rates,
    restart,
    schedule,
    train,
)
from tests.diagnostics.learning_rate.test_horizon import Scripted, planned, streamed

TOTAL = 30


def notes(callback: Any) -> list[str]:
    """What is said to be out of sight."""
    return [finding.message for finding in callback.findings if finding.code == "LR901"]


# Where the run ends.


class Ends(Callback):
    """Asks in each batch where the run ends, and ends it after some."""

    def __init__(self, after: int | None = None) -> None:
        self.after, self.seen = after, list[float]()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append(insides.axes(trainer)[0].end)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seen.append(insides.axes(trainer, batch_idx)[0].end)
        trainer.should_stop = len(self.seen) == self.after


CHANGES = {0: 1, 2: 3, 4: 4, 5: 10, 6: 11, 7: 2}


def test_the_steps_of_epochs_that_accumulate_differently_are_added_up() -> None:
    ends, counting = Ends(), GradientAccumulationScheduler(CHANGES)
    trainer = train(Program(), counting, ends, max_epochs=9)
    assert trainer.global_step == 10 + 10 + 4 + 4 + 3 + 1 + 1 + 5 + 5
    assert ends.seen == [trainer.global_step] * (1 + 9 * BATCHES)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        (None, 10 * 10**9),
        ({0: 2}, 5 * 10**9),
        ({0: 1, 2: 3, 10**8: 4}, 20 + 4 * (10**8 - 2) + 3 * (10**9 - 10**8)),
    ],
    ids=str,
)
def test_the_end_of_a_run_of_very_many_epochs_is_known_at_once(changes: dict[int, int] | None, steps: int) -> None:
    ends, callback = Ends(after=12), schedule()
    counting = [] if changes is None else [GradientAccumulationScheduler(changes)]
    program = Program()
    train(program, *counting, callback, ends, max_epochs=10**9)
    assert ends.seen == [steps] * 12
    made = len(program.used)
    assert program.used == planned(steps, steps=made)
    assert made >= 5


class Raises(Callback):
    """Gives the run more steps within an epoch."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == 8:
            trainer.fit_loop.epoch_loop.max_steps = 20


@pytest.mark.parametrize("first", [True, False])
def test_a_run_that_gets_more_steps_within_an_epoch_goes_on_for_them(first: bool) -> None:
    program, callback = Program(), schedule(warmup=3, cooldown=4)
    callbacks = [Raises(), callback] if first else [callback, Raises()]
    train(program, *callbacks, batches=100, max_steps=10, max_epochs=-1)
    lengths = {"warmup": 3, "cooldown": 4}
    assert program.used == planned(10, **lengths)[:8] + planned(20, **lengths)[8:]


class SlowStart(Scripted):
    """The first batch takes eighty seconds more."""

    def time_elapsed(self, *args: Any, **kwargs: Any) -> float:
        return self.batches + (80.0 if self.batches else 0.0)


def test_a_slow_first_batch_takes_nothing_from_the_warmup() -> None:
    program = Program()
    train(program, schedule(warmup=10, cooldown=8), SlowStart(120), max_steps=TOTAL, max_epochs=-1)
    assert program.used == planned(TOTAL, warmup=10)


# What the program sees.


class Hooked(Program):
    """Steps its schedule by a hook of its own, as soon as the optimizer has made a step."""

    def __init__(self) -> None:
        super().__init__(self.hooked)
        self.seen: list[float] = []

    def hooked(self, program: Program) -> Any:
        optimizer = program.spied()
        decay = StepLR(optimizer, 4, 0.5)
        optimizer.register_step_pre_hook(lambda *_: self.look(optimizer))
        optimizer.register_step_post_hook(lambda *_: self.look(optimizer))
        optimizer.register_step_post_hook(lambda *_: decay.step())
        return optimizer

    def look(self, optimizer: Any) -> None:
        self.seen.append(optimizer.param_groups[0]["lr"])


class HookedByHand(Hooked, ByHand):
    """Does so by hand."""

    def __init__(self) -> None:
        ByHand.__init__(self)
        self.configure, self.seen = self.hooked, []


@pytest.mark.parametrize("kind", [Hooked, HookedByHand])
def test_a_hook_of_the_programs_that_steps_a_schedule_sees_its_own_rates(kind: type[Hooked]) -> None:
    plain, program, callback = kind(), kind(), schedule()
    train(plain, max_epochs=3)
    trainer = train(program, callback, max_epochs=3)
    assert program.seen == plain.seen == [0.1 * 0.5 ** (step // 4) for step in range(TOTAL) for _ in range(2)]
    assert program.used == [(step, rate * by_hand(step, step, TOTAL)) for step, rate in plain.used]
    assert own_rates(trainer) == [0.1 * 0.5**7]
    assert not any("sets its rate" in note for note in notes(callback))


def test_numbers_of_numpy_leave_a_checkpoint_that_can_be_loaded(tmp_path: Any) -> None:
    program = Program()
    callback = schedule(warmup=np.float64(0.2), cooldown=np.float64(0.25), floor=np.float64(0.5))
    trainer = train(program, callback, max_epochs=3)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert any("WarmupCooldownScheduler" in key for key in saved["callbacks"])
    assert program.used == planned(TOTAL, warmup=6, cooldown=8, floor=0.5)


# Optimizers.


class Slowly(Optimizer):
    """Goes around another, as many do that look ahead, and is not made as an optimizer of torch's."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.param_groups, self.defaults, self.state = optimizer.param_groups, optimizer.defaults, optimizer.state

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)


def test_a_wrapper_that_is_not_made_as_an_optimizer_is_noted_and_the_others_are_multiplied() -> None:
    program, callback = ByHand(lambda program: [Slowly(program.spied()), program.spied(lr=0.05)]), schedule()
    train(program, callback, max_epochs=3)
    assert rates(program.used)[::2] == [0.1] * TOTAL
    assert rates(program.used)[1::2] == [0.05 * by_hand(step, step, TOTAL) for step in range(TOTAL)]
    assert notes(callback) == ["Slowly has no hooks, so that its rate is not multiplied."]


class Plain(Optimizer):
    """Descends, by a rate that may be a tensor or its own."""

    def __init__(self, params: Any, note: Callable[[float], None], **options: Any) -> None:
        super().__init__(params, options)
        self.note = note

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # one of torch's overloads
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            rate = group.get("lr", None)
            number = 0.01 if rate is None else torch.as_tensor(rate, dtype=torch.float64).item()
            self.note(number)
            for place in group["params"]:
                place.sub_(number * place.grad)
        return loss


class Unread(ByHand):
    """Reads no rates, as there may be none."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.act(self, batch, batch_idx)


@pytest.mark.parametrize("options", [{}, {"lr": None}], ids=str)
def test_an_optimizer_without_a_rate_is_noted_and_the_others_are_multiplied(options: dict[str, Any]) -> None:
    program = Unread(lambda program: [Plain(program.parameters(), program.note, **options), program.spied(lr=0.05)])
    callback = schedule()
    train(program, callback, max_epochs=3)
    assert rates(program.used)[::2] == [0.01] * TOTAL
    assert rates(program.used)[1::2] == [0.05 * by_hand(step, step, TOTAL) for step in range(TOTAL)]
    assert notes(callback) == ["Plain has no learning rate."]


class TwoSteps(Optimizer):
    """Climbs in a first step and descends in a second, by an optimizer inside; its own step is never called."""

    def __init__(self, base: Any) -> None:
        super().__init__(base.param_groups, {})
        self.base, self.param_groups = base, base.param_groups

    def second_step(self) -> None:
        self.base.step()


def two_steps(program: ByHand, batch: Any, batch_idx: int) -> None:
    optimizer: Any = program.optimizers()
    program.manual_backward(program.loss(batch))
    optimizer.second_step()
    optimizer.zero_grad()


@pytest.mark.parametrize("epochs", [1, 3])
def test_an_optimizer_whose_own_step_is_never_made_is_noted_after_an_epoch(epochs: int) -> None:
    program, callback = ByHand(lambda program: TwoSteps(program.spied()), two_steps), schedule()
    train(program, callback, max_epochs=epochs)
    assert rates(program.used) == [0.1] * BATCHES * epochs
    assert notes(callback) == ["TwoSteps has made no step of its own, so that no rate is multiplied."]
    train(ByHand(), callback := schedule(), max_epochs=epochs)
    assert not notes(callback)


def test_an_option_that_cannot_be_copied_stays_where_it_is() -> None:
    lock = threading.Lock()

    def configure(program: Program) -> Any:
        optimizer = program.spied(params=program.groups(lock=lock))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": StepLR(optimizer, 7), "interval": "step"}}

    program, callback = Program(configure), schedule()
    trainer = train(program, callback, max_epochs=3)
    expected = [0.1 * 0.1 ** (step // 7) * factor(step, TOTAL) for step in range(TOTAL) for _ in range(2)]
    assert rates(program.used) == pytest.approx(expected)
    assert trainer.optimizers[0].param_groups[1]["lock"] is lock
    assert not notes(callback)


class Learned(Program):
    """Has a rate that is learned, which no number is made of."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)


@pytest.mark.parametrize("leaf", [True, False])
def test_a_rate_that_is_learned_is_multiplied_and_put_back(leaf: bool) -> None:
    raw = torch.tensor(0.125, requires_grad=True)
    rate = raw if leaf else raw * 2
    program, callback = Learned(lambda program: Plain(program.parameters(), program.note, lr=rate)), schedule()
    trainer = train(program, callback, max_epochs=3)
    own = 0.125 if leaf else 0.25
    assert rates(program.used) == pytest.approx([own * factor(step, TOTAL) for step in range(TOTAL)], rel=1e-6)
    assert trainer.optimizers[0].param_groups[0]["lr"] is rate
    assert rate.item() == own
    assert rate._version == 0
    assert not notes(callback)


def test_an_automatic_warmup_that_there_is_none_of_is_noted() -> None:
    program, callback = Program(), schedule(warmup="auto")
    train(program, callback, max_epochs=3)
    assert program.used == planned(TOTAL, warmup=0)
    assert notes(callback) == ["SGD has no automatic warmup, which is Adam's."]
    adam, callback = Program(lambda program: program.spied(Adam)), schedule(warmup="auto")
    train(adam, callback, max_epochs=3)
    assert not notes(callback)


# Lightning's monitor, listed before the callback.


@pytest.mark.parametrize(("interval", "every"), [("step", 1), ("epoch", BATCHES)])
def test_the_monitor_before_us_logs_what_is_used_where_time_is_limited(interval: Any, every: int) -> None:
    program, notebook = Program(), Notebook()
    train(program, LearningRateMonitor(interval), Scripted(24), schedule(cooldown=18), max_epochs=-1, logger=notebook)
    assert len(program.used) == 24
    assert rates(program.used)[20] < 0.02  # the first step of an epoch, in the cooldown
    told = rates(program.used)[::every]
    if interval == "epoch":  # read a moment before the batch, by the clock of the batch before
        assert notebook.values("lr-SGD") == pytest.approx(told)
    else:
        assert notebook.values("lr-SGD") == told


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(("interval", "every"), [("step", 1), ("epoch", BATCHES)])
def test_the_monitor_logs_what_is_used_when_the_end_comes_to_be_known(interval: Any, every: int, before: bool) -> None:
    program, notebook = Program(), Notebook()
    monitor, callback = LearningRateMonitor(interval), schedule(warmup=None, cooldown=15)
    streamed(program, *([monitor, callback] if before else [callback, monitor]), max_epochs=2, logger=notebook)
    assert program.used == planned(10, warmup=0, cooldown=0) + planned(20, warmup=0, cooldown=15)[10:]
    assert notebook.values("lr-SGD") == rates(program.used)[::every]


# What is foreseen and judged.


class Gain(nn.Module):
    """A part of the program that a schedule asks, and that is too big to be copied."""

    copies = 0

    def forward(self, step: int) -> float:
        return 1 / (1 + step)

    def __deepcopy__(self, memo: Any) -> Any:
        type(self).copies += 1
        return self


@pytest.mark.parametrize("asks", [lambda gain: gain, lambda gain: gain.forward], ids=["itself", "a method"])
def test_a_part_of_the_program_that_a_schedule_refers_to_is_not_copied(
    asks: Callable[[Gain], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gain, "copies", 0)

    def configure(program: Any) -> Any:
        optimizer = program.spied()
        scheduler = LambdaLR(optimizer, asks(program.part[0]))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    program, callback = Program(configure), schedule()
    program.part = nn.Sequential(Gain())
    train(program, callback, max_epochs=3)
    assert program.used == [(step, 0.1 * (1 / (1 + step)) * factor(step, TOTAL)) for step in range(TOTAL)]
    assert Gain.copies == 0
    assert not notes(callback)


def far_too_long(program: Program) -> Any:
    optimizer = program.spied()
    parts = [LinearLR(optimizer, 0.1, total_iters=400), CosineAnnealingLR(optimizer, 600)]
    scheduler = SequentialLR(optimizer, parts, [400])
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def in_the_wrong_unit(program: Program) -> Any:
    optimizer = program.spied()
    parts = [LinearLR(optimizer, 0.01, total_iters=100), CosineAnnealingLR(optimizer, 200)]
    return {"optimizer": optimizer, "lr_scheduler": SequentialLR(optimizer, parts, [100])}


@pytest.mark.parametrize(("configure", "code"), [(far_too_long, "LR801"), (in_the_wrong_unit, "LR102")])
def test_what_is_ignored_brings_nothing_else_instead(configure: Callable[[Any], Any], code: str) -> None:
    found: list[set[str]] = []
    for ignored in ([], [code]):
        suite = Diagnostics(strict=True, select=["LR"], ignore=ignored)
        program = Program(configure)
        run = helpers.trainer(suite, max_epochs=1 if code == "LR801" else 30)
        restart(program)
        run.fit(program, data(300 if code == "LR801" else BATCHES))
        found.append({finding.code for finding in suite.findings if finding.code.startswith("LR")})
    assert code in found[0]
    assert found[1] == found[0] - {code}
