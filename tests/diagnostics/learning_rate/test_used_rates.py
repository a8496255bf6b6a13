"""The rate that is used is the program's own times the factor, exactly, whatever sets the program's own."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, GradientAccumulationScheduler
from torch import Tensor
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, ExponentialLR, LambdaLR, LinearLR, StepLR

from lightning_diagnostics.statistics import cooldown_factor, warmup_factor
from tests.diagnostics.learning_rate.models import (
    BATCHES,
    ByHand,
    Program,
    by_hand,
    codes,
    factor,
    own_rates,
    rates,
    same,
    scaler,
    schedule,
    times,
    train,
    weights,
)

EPOCHS = 3
TOTAL = EPOCHS * BATCHES
SKIPPED = (0, 4, 9)
"""Batches of each epoch of which the gradient is infinite."""

Make = Callable[[Optimizer], Any]
slow = pytest.mark.slow


def _slower(count: int) -> float:
    return 1 / (1 + count // 2 + count % 2)


SCHEDULES: dict[str, Make] = {
    "StepLR": lambda o: StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 7, 20], 0.3),
    "ExponentialLR": lambda o: ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: CosineAnnealingLR(o, TOTAL),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4, 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=TOTAL + 1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=5),
    "LambdaLR": lambda o: LambdaLR(o, _slower),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, TOTAL, 2.0),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [LinearLR(o, 0.1, total_iters=3), CosineAnnealingLR(o, TOTAL)], [3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [ConstantLR(o, 0.3, total_iters=4), ExponentialLR(o, 0.95)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.7),
}


def scheduled(make: Make, *, tensor: bool = False, **how: Any) -> Callable[[Program], Any]:
    """SGD with two groups and a scheduler."""

    def configure(program: Program) -> Any:
        first, second = (torch.tensor(rate) if tensor else rate for rate in (0.1, 0.02))
        optimizer = program.spied(params=program.groups(lr=second), lr=first, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": make(optimizer), **how}}

    return configure


def compare(
    plain: Program, ours: Program, *, total: int = TOTAL, more: Callable[[], Any] = list, **settings: Any
) -> None:
    """Train without the callback and with it: the rates that are used, and those that the program sees."""
    train(plain, *more(), max_epochs=EPOCHS, **settings)
    trainer = train(ours, schedule(warmup=4), *more(), max_epochs=EPOCHS, **settings)
    assert {step for step, _ in plain.used} == set(range(total))
    assert ours.used == times(plain.used, total, warmup=4)
    assert ours.read == plain.read
    assert own_rates(trainer) == own_rates(plain.trainer)


# Schedulers.


@pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using:RuntimeWarning")
@pytest.mark.parametrize("frequency", [1, pytest.param(2, marks=slow)])
@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_composes_with_a_schedule(name: str, interval: str, frequency: int) -> None:
    configure = scheduled(SCHEDULES[name], interval=interval, frequency=frequency, monitor="metric")
    plain, ours = Program(configure), Program(configure)
    compare(plain, ours)
    assert len(set(rates(plain.used))) > 2 or (interval == "epoch" and frequency == 2)  # the schedule does something


def test_composes_with_no_schedule() -> None:
    plain, ours = Program(), Program()
    compare(plain, ours)
    assert ours.used == [(step, 0.1 * factor(step, TOTAL, warmup=4)) for step in range(TOTAL)]


@pytest.mark.parametrize("name", ["StepLR", "OneCycleLR", "CosineAnnealingLR"])
def test_a_tensor_is_multiplied_in_place(name: str) -> None:
    configure = scheduled(SCHEDULES[name], tensor=True, interval="step")
    plain, ours = Program(configure), Program(configure)
    train(plain, max_epochs=EPOCHS)
    trainer = train(ours, schedule(), max_epochs=EPOCHS)
    base = [(step, torch.tensor(rate)) for step, rate in plain.used]
    assert ours.used == [(step, float(rate * factor(step, TOTAL))) for step, rate in base]
    assert ours.read == plain.read
    assert own_rates(trainer) == own_rates(plain.trainer)


def test_a_tensor_that_groups_share_is_multiplied_once() -> None:
    held: list[Tensor] = []

    def configure(program: Program) -> Any:
        held.append(torch.tensor(0.1))
        return program.spied(params=program.groups(), lr=held[-1])

    program = Program(configure)
    trainer = train(program, schedule(), max_epochs=EPOCHS)
    once = [float(torch.tensor(0.1) * factor(step, TOTAL)) for step in range(TOTAL)]
    assert rates(program.used) == [rate for rate in once for _ in range(2)]
    assert all(group["lr"] is held[0] for group in trainer.optimizers[0].param_groups)
    assert torch.equal(held[0], torch.tensor(0.1))


KINDS: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (SGD, {"foreach": True, "momentum": 0.9, "nesterov": True}),
    (SGD, {"fused": True}),
    (Adam, {"foreach": True}),
    (Adam, {"fused": True}),
    (AdamW, {"foreach": False, "amsgrad": True}),
    (AdamW, {"fused": True, "lr": torch.tensor(0.05)}),
    (AdamW, {"lr": torch.tensor(0.05), "foreach": False}),
    (torch.optim.RMSprop, {"lr": 0.01}),
    (torch.optim.Adagrad, {}),
    (torch.optim.NAdam, {}),
    (LBFGS, {"lr": 0.5, "max_iter": 3, "history_size": 2}),
    (LBFGS, {"lr": 0.5, "max_iter": 4, "line_search_fn": "strong_wolfe"}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=[f"{k.__name__}-{'-'.join(o)}" for k, o in KINDS])
def test_trains_as_a_schedule_of_the_same_factors(kind: type[Optimizer], options: dict[str, Any]) -> None:
    def own(options: dict[str, Any], program: Program) -> Any:
        copies = {name: value.clone() if isinstance(value, Tensor) else value for name, value in options.items()}
        return kind(program.parameters(), **{"lr": 0.1, **copies})  # pyright: ignore[reportCallIssue]  # any class

    def known(program: Program) -> Any:
        optimizer = own(options, program)
        one = LambdaLR(optimizer, lambda step: factor(step, TOTAL))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": one, "interval": "step"}}

    twin, ours = Program(known), Program(lambda program: own(options, program))
    train(twin, max_epochs=EPOCHS)
    train(ours, schedule(), max_epochs=EPOCHS)
    assert same(weights(ours), weights(twin))
    left = Program(lambda program: own(options, program))
    train(left, max_epochs=EPOCHS)
    assert not same(weights(left), weights(twin))


# Groups.


def test_each_group_has_the_automatic_warmup_of_its_beta() -> None:
    def configure(program: Program) -> Any:
        return program.spied(Adam, params=program.groups(lr=0.03, betas=(0.9, 0.8)), betas=(0.9, 0.5))

    program = Program(configure)
    train(program, schedule(warmup="auto", cooldown=None), max_epochs=12)
    expected = [
        (step, rate * warmup_factor(step, min(length, 12)))
        for step in range(120)
        for rate, length in ((0.1, 4), (0.03, 10))
    ]
    assert program.used == expected


class Thaw(BaseFinetuning):
    """Gives the second layer to the optimizer after the first epoch."""

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.net[2])  # pyright: ignore[reportArgumentType, reportIndexIssue]  # a Program's

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[2], optimizer, lr=0.03)  # pyright: ignore[reportArgumentType, reportIndexIssue]


@pytest.mark.parametrize("first", [True, False])
def test_a_group_that_is_added_in_mid_run_is_multiplied(first: bool) -> None:
    def configure(program: Program) -> Any:
        return program.spied(params=program.net[0].parameters(), momentum=0.9)

    plain, ours = Program(configure), Program(configure)
    train(plain, Thaw(), max_epochs=EPOCHS)
    callbacks = [schedule(), Thaw()] if first else [Thaw(), schedule()]
    train(ours, *callbacks, max_epochs=EPOCHS)
    assert len(plain.used) == TOTAL + 2 * BATCHES
    assert ours.used == times(plain.used, TOTAL)


class Grows(Program):
    """Gives its second layer to the optimizer in `training_step`."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        if self.trainer.global_step == 3:
            self.trainer.optimizers[0].add_param_group({"params": list(self.net[2].parameters()), "lr": 0.03})
        return super().training_step(batch, batch_idx)


def test_a_group_that_is_added_in_training_step_is_multiplied_in_that_very_step() -> None:
    program = Grows(lambda program: program.spied(params=program.net[0].parameters()))
    train(program, schedule(), max_epochs=EPOCHS)
    bases = [(step, rate) for step in range(TOTAL) for rate in (0.1, 0.03)[: 1 + (step >= 3)]]
    assert program.used == times(bases, TOTAL)


# Accumulation and precision.


def test_an_accumulated_step_is_one_step_and_an_incomplete_window_too() -> None:
    configure = scheduled(SCHEDULES["StepLR"], interval="step")
    plain, ours = Program(configure), Program(configure)
    compare(plain, ours, total=4 * EPOCHS, accumulate_grad_batches=3)
    assert {step for step, _ in ours.used} == set(range(4 * EPOCHS))


def test_accumulation_that_changes_by_epoch_is_counted_in_steps() -> None:
    plain, ours = Program(), Program()
    scheduling = lambda: [GradientAccumulationScheduler({0: 1, 1: 3, 2: 4})]  # noqa: E731
    compare(plain, ours, total=10 + 4 + 3, more=scheduling)


class Overflows(Program):
    """Has an infinite gradient in some batches."""

    def loss(self, batch: Any) -> Tensor:
        value = super().loss(batch)
        return value * math.inf if self.trainer.fit_loop.batch_idx in SKIPPED else value


class OverflowsByHand(ByHand, Overflows):
    """Has an infinite gradient in some batches, by hand."""


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_that_the_scaler_skips_has_a_factor_too(accumulate: int) -> None:
    configure = scheduled(SCHEDULES["StepLR"], interval="step")
    plain, ours = Overflows(configure), Overflows(configure)
    total = EPOCHS * math.ceil(BATCHES / accumulate)
    settings = {"max_epochs": EPOCHS, "accumulate_grad_batches": accumulate}
    train(plain, **settings, **scaler())
    trainer = train(ours, schedule(warmup=4), **settings, **scaler())
    assert trainer.global_step == total
    assert 0 < len(ours.used) < 2 * total
    assert ours.used == times(plain.used, total, warmup=4)
    assert ours.read == plain.read


def test_a_scaler_that_begins_too_high_and_grows() -> None:
    program = Program()
    train(
        program, schedule(), max_epochs=EPOCHS, **scaler(init_scale=2.0**30, growth_factor=2.0**12, growth_interval=4)
    )
    skipped = set(range(TOTAL)) - {step for step, _ in program.used}
    assert min(skipped) < 6  # of the warmup
    assert max(skipped) >= TOTAL - 8  # of the cooldown
    assert program.used == [(step, 0.1 * factor(step, TOTAL)) for step, _ in program.used]


def test_an_optimizer_that_unscales_by_itself() -> None:
    def configure(program: Program) -> Any:
        return program.spied(Adam, fused=True)

    program = Overflows(configure)
    trainer = train(program, schedule(), max_epochs=EPOCHS, **scaler())
    assert program.used == [(step, 0.1 * factor(step, TOTAL)) for step, _ in program.used]
    assert own_rates(trainer) == [0.1]


def test_half_precision() -> None:
    plain, ours = Program(), Program()
    compare(plain, ours, precision="bf16-mixed")


# By hand.


def test_by_hand() -> None:
    def steps_first(program: ByHand, batch: Any, batch_idx: int) -> None:
        scheduler: Any = program.lr_schedulers()
        if batch_idx:
            scheduler.step()
        program.go(program.optimizers(), batch)

    configure = scheduled(SCHEDULES["CosineAnnealingLR"])
    plain, ours = ByHand(configure, steps_first), ByHand(configure, steps_first)
    train(plain, max_epochs=EPOCHS)
    train(ours, schedule(), max_epochs=EPOCHS)
    assert len(plain.used) == 2 * TOTAL
    assert ours.used == [(step, rate * by_hand(step, step, TOTAL)) for step, rate in plain.used]
    assert ours.read == plain.read


def test_a_step_without_lightning() -> None:
    def raw(program: ByHand, batch: Any, batch_idx: int) -> None:
        optimizer: Any = program.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        program.loss(batch).backward()
        optimizer.step()

    program = ByHand(None, raw)
    trainer = train(program, schedule(), max_epochs=EPOCHS)
    assert trainer.global_step == 0
    assert rates(program.used) == [0.1 * by_hand(step, step, TOTAL) for step in range(TOTAL)]


def adversaries(program: Program) -> Any:
    critic = program.spied(Adam, program.net[0].parameters(), lr=0.01, betas=(0.5, 0.9))
    generator = program.spied(Adam, program.net[2].parameters(), lr=0.02, betas=(0.9, 0.8))
    return critic, generator


def five_to_one(program: ByHand, batch: Any, batch_idx: int) -> None:
    critic, generator = program.optimizers()  # pyright: ignore[reportGeneralTypeIssues]  # there are two
    for _ in range(5):
        program.go(critic, batch)
    program.go(generator, batch)


@pytest.mark.parametrize("epochs", [3, 15])
def test_two_optimizers_warm_up_by_their_own_steps(epochs: int) -> None:
    program, total = ByHand(adversaries, five_to_one), epochs * BATCHES
    train(program, schedule(warmup="auto"), max_epochs=epochs)
    expected: list[float] = []
    for batch in range(total):
        cooling, shared = cooldown_factor((batch - (total - 8)) / 8), warmup_factor(batch, total // 10)
        expected += [0.01 * (max(warmup_factor(5 * batch + k, 20), shared) * cooling) for k in range(5)]
        expected += [0.02 * (max(warmup_factor(batch, 10), shared) * cooling)]
    assert rates(program.used) == expected


def test_two_optimizers_end_with_the_steps_of_both() -> None:
    program = ByHand(adversaries, five_to_one)
    train(program, schedule(warmup=None), max_epochs=EPOCHS, max_steps=120)
    ends = [(step, cooldown_factor((step - 112) / 8)) for step in range(120)]  # far before the end of the batches
    assert program.used == [(step, (0.02 if step % 6 == 5 else 0.01) * end) for step, end in ends]


def test_a_step_by_hand_that_the_scaler_skips_is_none_of_the_optimizer() -> None:
    program = OverflowsByHand()
    trainer = train(program, schedule(), max_epochs=EPOCHS, **scaler(init_scale=256.0))
    assert trainer.global_step == TOTAL
    assert len(program.used) == EPOCHS * (BATCHES - len(SKIPPED))
    assert program.used == [(step, 0.1 * by_hand(own, step, TOTAL)) for own, (step, _) in enumerate(program.used)]


def test_accumulation_by_hand_counts_the_steps_of_the_optimizer() -> None:
    def each_third(program: ByHand, batch: Any, batch_idx: int) -> None:
        program.manual_backward(program.loss(batch))
        if batch_idx % 3 == 2 or batch_idx == BATCHES - 1:
            optimizer: Any = program.optimizers()
            optimizer.step()
            optimizer.zero_grad()

    program = ByHand(None, each_third)
    train(program, schedule(), max_epochs=EPOCHS)
    batches = [epoch * BATCHES + batch for epoch in range(EPOCHS) for batch in (2, 5, 8, 9)]
    assert program.used == [(own, 0.1 * by_hand(own, batch, TOTAL)) for own, batch in enumerate(batches)]


# What the program reads and writes.


class Rewrites(Program):
    """Halves its rate in the middle of the run, in `training_step`."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        loss = super().training_step(batch, batch_idx)
        if self.trainer.global_step in (3, 15, 25):
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = group["lr"] / 2
        return loss


@pytest.mark.parametrize("tensor", [False, True])
def test_a_rate_that_training_step_assigns_is_the_programs_own(tensor: bool) -> None:
    def configure(program: Program) -> Any:
        return program.spied(lr=torch.tensor(0.125) if tensor else 0.125)

    plain, ours = Rewrites(configure), Rewrites(configure)
    train(plain, max_epochs=EPOCHS)
    trainer = train(ours, schedule(), max_epochs=EPOCHS)
    assert own_rates(trainer) == [0.125 / 8]
    assert ours.read == plain.read
    if tensor:
        assert ours.used == [(s, float(torch.tensor(rate) * factor(s, TOTAL))) for s, rate in plain.used]
    else:
        assert ours.used == times(plain.used, TOTAL)


class Asks(Program):
    """Sets the rate between backward and step."""

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.read.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.param_groups[0]["lr"] = 0.1 + 0.01 * self.trainer.global_step


def test_a_rate_that_is_set_before_the_step_is_the_programs_own() -> None:
    plain, ours = Asks(), Asks()
    compare(plain, ours)
    assert rates(plain.used)[:3] == [0.1, 0.11, 0.12000000000000001]


def test_without_warmup_and_cooldown_nothing_is_multiplied() -> None:
    plain, ours = Program(), Program()
    train(plain, max_epochs=EPOCHS)
    callback = schedule(warmup=None, cooldown=None)
    trainer: Trainer = train(ours, callback, max_epochs=EPOCHS)
    assert ours.used == plain.used
    assert same(weights(ours), weights(plain))
    assert not trainer.optimizers[0]._optimizer_step_pre_hooks
    assert not codes(callback)


@pytest.mark.parametrize("cooldown_shape", ["1-sqrt", "linear", "cosine", "square", "mirror-cosine"])
@pytest.mark.parametrize("warmup_shape", ["linear", "exponential", "cosine"])
def test_shapes(warmup_shape: str, cooldown_shape: str) -> None:
    program, shapes = Program(), {"warmup_shape": warmup_shape, "cooldown_shape": cooldown_shape, "floor": 0.1}
    train(program, schedule(**shapes), max_epochs=EPOCHS)
    assert program.used == [(step, 0.1 * factor(step, TOTAL, **shapes)) for step in range(TOTAL)]


PRESETS = {"wsd": (6, "1-sqrt"), "trapezoid": (6, "linear"), "linear_to_zero": (24, "linear")}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset: str) -> None:
    program = Program()
    train(program, schedule(preset=preset, cooldown=0.2), max_epochs=EPOCHS)
    cooldown, shape = PRESETS[preset]
    assert program.used == [
        (step, 0.1 * factor(step, TOTAL, cooldown=cooldown, cooldown_shape=shape)) for step in range(TOTAL)
    ]
