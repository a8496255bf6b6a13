"""Healthy schedules as recipes have them, and healthy runs that are shorter or longer than planned."""

import itertools
import math
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    StochasticWeightAveraging,
    Timer,
)
from torch.optim import Optimizer, lr_scheduler
from typing_extensions import override

from tests.diagnostics.learning_rate.networks_data import (
    SIZES,
    ByHand,
    ByHandEachEpoch,
    Program,
    Regression,
    Size,
    stream,
    table,
)

PLANNED = 10_000
"""Steps of a run for which the schedule of a short one was made."""


def adam(module: Regression, rate: float = 1e-2) -> Optimizer:
    return torch.optim.AdamW(module.parameters(), lr=rate)


def momentum(module: Regression, rate: float = 2e-2) -> Optimizer:
    return torch.optim.SGD(module.parameters(), lr=rate, momentum=0.9)


def by(optimizer: Optimizer, scheduler: Any, interval: str = "epoch", **more: Any) -> dict[str, Any]:
    """What Lightning is given."""
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval, **more}}


def steps(module: Regression) -> int:
    return int(module.trainer.estimated_stepping_batches)


# Stepped after each epoch.


def no_scheduler(module: Regression) -> Any:
    return adam(module)


def step_30_60_90(module: Regression) -> Any:
    optimizer = momentum(module)
    return [optimizer], [lr_scheduler.StepLR(optimizer, max(1, module.size.epochs // 3), 0.1)]


def multi_step(module: Regression) -> Any:
    optimizer, epochs = momentum(module), module.size.epochs
    milestones = [epochs // 2, epochs * 3 // 4, epochs * 9 // 10]
    return [optimizer], [lr_scheduler.MultiStepLR(optimizer, milestones, 0.2)]


def exponential(module: Regression) -> Any:
    optimizer = adam(module)
    return [optimizer], [lr_scheduler.ExponentialLR(optimizer, 0.95)]


def cosine_by_epoch(module: Regression) -> Any:
    optimizer = momentum(module)
    return by(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, module.size.epochs))


def cosine_with_floor(module: Regression) -> Any:
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, module.size.epochs, eta_min=1e-5))


def cosine_every_other_epoch(module: Regression) -> Any:
    optimizer = momentum(module)
    return by(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, module.size.epochs // 2), frequency=2)


def warmup_over_five_epochs(module: Regression) -> Any:
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.LinearLR(optimizer, 0.1, total_iters=min(5, module.size.epochs // 2)))


def warmup_then_cosine_by_epoch(module: Regression) -> Any:
    optimizer, warmup = adam(module), max(1, module.size.epochs // 10)
    parts = [
        lr_scheduler.LinearLR(optimizer, 0.01, total_iters=warmup),
        lr_scheduler.CosineAnnealingLR(optimizer, module.size.epochs - warmup),
    ]
    return by(optimizer, lr_scheduler.SequentialLR(optimizer, parts, [warmup]))


def plateau(module: Regression) -> Any:
    optimizer = adam(module)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)
    return by(optimizer, scheduler, monitor="end_loss")


def plateau_and_warmup(module: Regression) -> Any:
    optimizer = adam(module)
    waits = {"scheduler": lr_scheduler.ReduceLROnPlateau(optimizer, patience=1), "monitor": "end_loss"}
    rises = {"scheduler": lr_scheduler.LinearLR(optimizer, 0.1, total_iters=20), "interval": "step"}
    return [optimizer], [waits, rises]


def waves_by_epoch(module: Regression) -> Any:
    """Ups and downs on purpose."""
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, max(1, module.size.epochs // 6), eta_min=1e-4))


# Stepped after each step.


def cosine_by_step(module: Regression) -> Any:
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, steps(module)), "step")


def waves_by_step(module: Regression) -> Any:
    """Ups and downs on purpose."""
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps(module) // 7), eta_min=1e-4), "step")


def wave_an_epoch(module: Regression) -> Any:
    """Down in one epoch, up in the next, as snapshot ensembles and model soups have it."""
    optimizer, size = adam(module), module.size
    down = math.ceil(size.batches / size.accumulate)
    return by(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, down, eta_min=1e-4), "step")


def warm_restarts(module: Regression) -> Any:
    optimizer = adam(module)
    scheduler = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, max(1, steps(module) // 7), T_mult=2)
    return by(optimizer, scheduler, "step")


def warm_restarts_by_epoch(module: Regression) -> Any:
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.CosineAnnealingWarmRestarts(optimizer, max(1, module.size.epochs // 4)))


def one_cycle(module: Regression) -> Any:
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=steps(module)), "step")


def one_cycle_three_phases(module: Regression) -> Any:
    optimizer, size = momentum(module), module.size
    each = math.ceil(size.batches / size.accumulate)
    scheduler = lr_scheduler.OneCycleLR(
        optimizer, 4e-2, epochs=size.epochs, steps_per_epoch=each, three_phase=True, anneal_strategy="linear"
    )
    return by(optimizer, scheduler, "step")


def one_cycle_longer(module: Regression) -> Any:
    """Made for every batch and a little more, so that it is sure never to be over."""
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=steps(module) + 10), "step")


def cyclic(module: Regression) -> Any:
    optimizer = momentum(module)
    return by(optimizer, lr_scheduler.CyclicLR(optimizer, 1e-3, 3e-2, step_size_up=15), "step")


def polynomial(module: Regression) -> Any:
    optimizer = momentum(module)
    return by(optimizer, lr_scheduler.PolynomialLR(optimizer, steps(module), power=0.9), "step")


def linear_to_zero(module: Regression) -> Any:
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps(module)), "step")


def warmup_then_cosine_by_step(module: Regression) -> Any:
    optimizer, warmup = adam(module), steps(module) // 10
    parts = [
        lr_scheduler.LinearLR(optimizer, 1e-3, total_iters=warmup),
        lr_scheduler.CosineAnnealingLR(optimizer, steps(module) - warmup),
    ]
    return by(optimizer, lr_scheduler.SequentialLR(optimizer, parts, [warmup]), "step")


def warmup_of_ten_steps(module: Regression) -> Any:
    """As many as one of the runs has epochs."""
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.LinearLR(optimizer, 0.1, total_iters=10), "step")


def warmup_times_decay(module: Regression) -> Any:
    optimizer = adam(module)
    parts = [
        lr_scheduler.LinearLR(optimizer, 0.1, total_iters=12),
        lr_scheduler.ExponentialLR(optimizer, 0.995),
    ]
    return by(optimizer, lr_scheduler.ChainedScheduler(parts), "step")


def two_intervals(module: Regression) -> Any:
    """A warmup that is stepped after each step, and a decay after each epoch."""
    optimizer = adam(module)
    rises = {"scheduler": lr_scheduler.LinearLR(optimizer, 0.1, total_iters=20), "interval": "step"}
    return [optimizer], [rises, lr_scheduler.StepLR(optimizer, max(1, module.size.epochs // 2), 0.5)]


def step_lr_by_step(module: Regression) -> Any:
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.StepLR(optimizer, 25, 0.7), "step")


def cosine_every_tenth_step(module: Regression) -> Any:
    optimizer, each = adam(module), math.ceil(module.size.batches / module.size.accumulate)
    calls = module.size.epochs * (each // 4)
    return by(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, calls), "step", frequency=4 * module.size.accumulate)


# Functions of the step.


def by_function(factor: Callable[[float, float], float], module: Regression, rate: float = 1e-2) -> Any:
    """A function of the step and of the steps of the run."""
    optimizer, total = adam(module, rate), float(steps(module))
    return by(optimizer, lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, total)), "step")


def hugging_face_linear(step: float, total: float) -> float:
    warmup = total // 10
    return step / max(1, warmup) if step < warmup else max(0.0, (total - step) / (total - warmup))


def hugging_face_cosine(step: float, total: float) -> float:
    warmup = total // 20
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2)


def inverse_square_root(step: float, total: float) -> float:
    """Noam."""
    warmup = total // 8
    return min((step + 1) / warmup, math.sqrt(warmup / (step + 1)))


def warmup_stable_decay(step: float, total: float) -> float:
    warmup, decay = total // 20, total // 5
    return min(1.0, (step + 1) / warmup, max(0.0, (total - step) / decay))


def long_warmup(step: float, total: float) -> float:
    """Nearly half of the run, as some recipes of fine-tuning have it."""
    return min((step + 1) / (0.45 * total), 1.0)


def to_a_thousandth(step: float, total: float) -> float:
    return 0.001 ** (step / total)


def twice_to_zero(step: float, total: float) -> float:
    return 1 - (2 * step / total) % 1


def slowly_rising(step: float, total: float) -> float:
    """An anti-decay of continual learning."""
    return 0.7 + 0.3 * step / total


def a_last_stretch_of_zero(step: float, total: float) -> float:
    """The rounding of a length leaves a few steps without a rate."""
    return max(0.0, 1 - step / (0.95 * total))


def multiplicative(module: Regression) -> Any:
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: 0.9))


# Groups.


def layer_wise_decay(module: Regression) -> Any:
    first, _, last = module.net
    groups = [
        {"params": [each], "lr": 1e-2 * 0.5**place, "name": f"layer{place}"}
        for place, each in enumerate((*last.parameters(), *first.parameters()))
    ]
    optimizer = torch.optim.AdamW(groups)
    return by(optimizer, lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch))


def a_frozen_group(module: Regression) -> Any:
    first, _, last = module.net
    groups = [{"params": first.parameters(), "lr": 0.0}, {"params": last.parameters(), "lr": 1e-2}]
    optimizer = torch.optim.Adam(groups)
    return by(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, steps(module)), "step")


def a_head_that_is_thawed(module: Regression) -> Any:
    """One group has no rate for the first half."""
    first, _, last = module.net
    optimizer = torch.optim.Adam([{"params": first.parameters()}, {"params": last.parameters()}], lr=1e-2)
    half = steps(module) / 2
    functions = [lambda step: float(step >= half), lambda step: 1.0]
    return by(optimizer, lr_scheduler.LambdaLR(optimizer, functions), "step")


def tensor_rates(module: Regression) -> Any:
    optimizer = torch.optim.Adam(module.parameters(), lr=torch.tensor(1e-2), foreach=False)
    return by(optimizer, lr_scheduler.StepLR(optimizer, max(1, module.size.epochs // 3), 0.5))


def lbfgs(module: Regression) -> Any:
    optimizer = torch.optim.LBFGS(module.parameters(), lr=0.1, max_iter=4, line_search_fn="strong_wolfe")
    return by(optimizer, lr_scheduler.ExponentialLR(optimizer, 0.95))


# The program steps its schedulers, or sets its rates, by itself.


class OwnTable(Regression):
    """Writes the rate of each step by itself, over one of zero that nobody means."""

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        total = steps(self)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = 2e-2 * (1 + math.cos(math.pi * self.trainer.global_step / total)) / 2


def zero_at_first(module: Regression) -> Any:
    return torch.optim.SGD(module.parameters(), lr=0.0, momentum=0.9)


class WarmupOfTheDocs(Regression):
    """The warmup of Lightning's documentation, in ``optimizer_step``."""

    @override
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.trainer.global_step < 30:
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * min(1.0, (self.trainer.global_step + 1) / 30)


class Timm:
    """A scheduler as timm has them: none of torch's, and told the epoch."""

    def __init__(self, optimizer: Optimizer, epochs: int) -> None:
        self.optimizer, self.epochs = optimizer, epochs
        self.base = [group["lr"] for group in optimizer.param_groups]

    def step(self, epoch: int, metric: Any = None) -> None:
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = base * (1 + math.cos(math.pi * epoch / self.epochs)) / 2

    def state_dict(self) -> dict[str, Any]:
        return {"base": self.base}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.base = state["base"]


class StepsByTheEpoch(Regression):
    @override
    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step(epoch=self.current_epoch)


def timm_cosine(module: Regression) -> Any:
    optimizer = adam(module)
    return by(optimizer, Timm(optimizer, module.size.epochs))


def adversaries(module: Regression) -> Any:
    first = torch.optim.Adam(module.net[0].parameters(), lr=1e-2, betas=(0.5, 0.999))
    second = torch.optim.Adam(module.net[2].parameters(), lr=1e-2, betas=(0.5, 0.999))
    calls = module.size.epochs * (1 if isinstance(module, ByHandEachEpoch) else math.ceil(module.size.batches))
    return [first, second], [lr_scheduler.LinearLR(each, 1.0, 0.1, total_iters=calls) for each in (first, second)]


def by_hand_cosine(module: Regression) -> Any:
    optimizer = adam(module)
    return [optimizer], [lr_scheduler.CosineAnnealingLR(optimizer, module.size.steps)]


class EveryFifthEpoch(ByHandEachEpoch):
    """As Lightning's page on manual optimisation has it."""

    @override
    def on_train_epoch_end(self) -> None:
        if (self.current_epoch + 1) % 5 == 0:
            super().on_train_epoch_end()


class AtTheLastBatch(ByHand):
    """The other way of that page."""

    @override
    def after_step(self) -> None:
        if self.trainer.is_last_batch:
            super().after_step()


class OnlyTheLossSteps(ByHandEachEpoch):
    """A scheduler that waits for a metric, by hand."""

    @override
    def on_train_epoch_end(self) -> None:
        scheduler: Any = self.lr_schedulers()
        scheduler.step(self.loss(table(64)).item())


def plateau_by_hand(module: Regression) -> Any:
    optimizer = adam(module)
    return {"optimizer": optimizer, "lr_scheduler": lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)}


# Made for another length than that of the run.


def planned_one_cycle(module: Regression) -> Any:
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=PLANNED), "step")


def planned_warmup_and_cosine(module: Regression) -> Any:
    optimizer, warmup = adam(module), PLANNED // 20
    parts = [
        lr_scheduler.LinearLR(optimizer, 1e-3, total_iters=warmup),
        lr_scheduler.CosineAnnealingLR(optimizer, PLANNED - warmup),
    ]
    return by(optimizer, lr_scheduler.SequentialLR(optimizer, parts, [warmup]), "step")


def planned_hugging_face(module: Regression) -> Any:
    optimizer = adam(module)
    factor = partial(hugging_face_linear, total=PLANNED)
    return by(optimizer, lr_scheduler.LambdaLR(optimizer, factor), "step")


def twice_as_long(module: Regression) -> Any:
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=2 * steps(module)), "step")


def cosine_twice_as_long(module: Regression) -> Any:
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, 2 * module.size.epochs))


def whole_one_cycle(module: Regression) -> Any:
    """Of the whole run, in each of its parts."""
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=module.size.steps), "step")


EQUAL = (Size(16, 16), Size(20, 20), Size(22, 20))
"""As many epochs as batches in each: a length agrees with both."""
TEN = (Size(10, 20), Size(10, 40, 2), Size(11, 30))


def by_chance(module: Regression) -> Any:
    """A wave over each epoch, on purpose."""
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, module.size.batches, eta_min=1e-4), "step")


def by_chance_by_epoch(module: Regression) -> Any:
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, module.size.batches))


def named(label: str, configure: Any, **more: Any) -> Program:
    return Program(configure, label=label, **more)


def by_functions(*factors: Callable[[float, float], float]) -> tuple[Program, ...]:
    return tuple(named(each.__name__, partial(by_function, each)) for each in factors)


def halves(size: Size) -> int:
    return size.epochs // 2


def short(steps: int) -> Callable[[Size], dict[str, Any]]:
    return lambda size: {"max_steps": steps}


def not_reported(size: Size) -> dict[str, Any]:
    return {"fast_dev_run": 3}


def half_of_it(size: Size) -> dict[str, Any]:
    return {"max_epochs": size.epochs // 2}


def endless(size: Size) -> dict[str, Any]:
    return {"max_epochs": -1, "max_steps": -1}


def by_steps(size: Size) -> dict[str, Any]:
    return {"max_epochs": -1, "max_steps": size.steps}


def stops() -> list[Any]:
    return [EarlyStopping("end_loss", patience=3, min_delta=0.01)]


def soon() -> list[Any]:
    return [Timer(duration=timedelta(seconds=0.4))]


def more_and_more() -> list[Any]:
    return [GradientAccumulationScheduler({0: 1, 2: 2, 3: 4})]


def averaged() -> list[Any]:
    return [StochasticWeightAveraging(swa_lrs=5e-3)]


UNACCUMULATED = (Size(4, 60), Size(30, 8), Size(8, 25))

_SHORT = tuple(
    named(f"{configure.__name__}_for_{count}_steps", configure, settings=short(count), bar=math.inf)
    for configure, count in itertools.product(
        (planned_one_cycle, planned_warmup_and_cosine, planned_hugging_face), (10, 50)
    )
)
_PRESETS = tuple(
    named(f"{program.name}_with_{preset}", program.configure, acting={"preset": preset})
    for program, preset in itertools.product(
        (
            Program(no_scheduler),
            Program(step_30_60_90),
            Program(cosine_by_epoch),
            Program(one_cycle),
            named("hugging_face_linear", partial(by_function, hugging_face_linear)),
        ),
        ("wsd", "trapezoid", "linear_to_zero"),
    )
)

NETWORKS: tuple[Program, ...] = (
    *map(Program, (no_scheduler, step_30_60_90, multi_step, exponential, cosine_by_epoch, cosine_with_floor)),
    *map(Program, (cosine_every_other_epoch, warmup_over_five_epochs, warmup_then_cosine_by_epoch)),
    *map(Program, (plateau, plateau_and_warmup, waves_by_epoch, cosine_by_step, waves_by_step, wave_an_epoch)),
    *map(Program, (warm_restarts, warm_restarts_by_epoch, one_cycle, one_cycle_three_phases, one_cycle_longer)),
    *map(Program, (cyclic, polynomial, linear_to_zero, warmup_then_cosine_by_step, warmup_of_ten_steps)),
    *map(Program, (warmup_times_decay, two_intervals, step_lr_by_step, cosine_every_tenth_step, multiplicative)),
    *by_functions(hugging_face_linear, hugging_face_cosine, inverse_square_root, warmup_stable_decay, long_warmup),
    *by_functions(to_a_thousandth, twice_to_zero, slowly_rising, a_last_stretch_of_zero),
    *map(Program, (layer_wise_decay, a_frozen_group, a_head_that_is_thawed, tensor_rates, lbfgs)),
    Program(zero_at_first, OwnTable, label="own_table"),
    Program(no_scheduler, WarmupOfTheDocs, label="warmup_of_the_docs"),
    Program(timm_cosine, StepsByTheEpoch),
    Program(adversaries, ByHand, label="adversaries_by_step"),
    Program(adversaries, ByHandEachEpoch, label="adversaries_by_epoch"),
    Program(by_hand_cosine, ByHand),
    Program(exponential, EveryFifthEpoch, label="by_hand_every_fifth_epoch", sizes=(Size(11, 20), *SIZES[1:])),
    Program(exponential, AtTheLastBatch, label="by_hand_at_the_last_batch"),
    Program(exponential, AtTheLastBatch, label="by_hand_half_an_epoch", settings=short(120), sizes=(Size(4, 300),) * 3),
    Program(plateau_by_hand, OnlyTheLossSteps),
    named("stream", cosine_by_epoch, data=stream),
    named("stream_by_steps", one_cycle, data=stream, settings=by_steps),
    named("by_steps", warmup_then_cosine_by_step, settings=by_steps),
    named("endless", warm_restarts_by_epoch, settings=endless, callbacks=soon, sizes=UNACCUMULATED),
    named("early_stopping", one_cycle, callbacks=stops),
    named("monitored", cosine_by_step, callbacks=lambda: [LearningRateMonitor()], settings=lambda _: {"logger": True}),
    named("averaged", cosine_by_epoch, callbacks=averaged, sizes=UNACCUMULATED),
    named("more_and_more", cosine_by_step, callbacks=more_and_more, sizes=UNACCUMULATED),
    named("fast_dev_run", one_cycle, settings=not_reported, bar=math.inf),
    named("half_of_a_one_cycle", twice_as_long),
    named("half_of_a_cosine", cosine_twice_as_long),
    named("half_of_a_recipe", whole_one_cycle, settings=half_of_it),
    named("resumed_one_cycle", whole_one_cycle, first=halves),
    named("resumed_cosine", cosine_by_epoch, first=halves),
    named("by_chance", by_chance, sizes=EQUAL),
    named("by_chance_by_epoch", by_chance_by_epoch, sizes=EQUAL),
    named("ten_epochs_and_ten_steps", warmup_of_ten_steps, sizes=TEN),
    *_SHORT,
    *_PRESETS,
)
"""All healthy programs of the sweep."""
