"""Schedules that are sick by one realistic mistake each, and their repaired twins."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.optim import lr_scheduler
from typing_extensions import override

from lightning_diagnostics import Severity, WarmupCooldownScheduler
from tests.diagnostics.learning_rate.networks import adam, by, by_function, hugging_face_linear, momentum, steps
from tests.diagnostics.learning_rate.networks_data import (
    ByHand,
    ByHandEachEpoch,
    Program,
    Regression,
    Size,
    stream,
)

LONG, MANY, ACCUMULATED = Size(4, 60), Size(30, 8), Size(8, 160, 8)


def one_cycle(module: Regression, *, sick: bool) -> Any:
    """Made for the steps of the run, and stepped after each epoch."""
    optimizer = adam(module)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=steps(module))
    return by(optimizer, scheduler, "epoch" if sick else "step")


def one_cycle_of_epochs(module: Regression, *, sick: bool) -> Any:
    """The same, by its other two arguments."""
    optimizer, size = adam(module), module.size
    scheduler = lr_scheduler.OneCycleLR(optimizer, 2e-2, epochs=size.epochs, steps_per_epoch=size.batches)
    return by(optimizer, scheduler, "epoch" if sick else "step")


def warmup_then_cosine(module: Regression, *, sick: bool) -> Any:
    """A sequence that counts steps, returned as a list, which Lightning steps after each epoch."""
    optimizer, warmup = adam(module), steps(module) // 10
    parts = [
        lr_scheduler.LinearLR(optimizer, 0.01, total_iters=warmup),
        lr_scheduler.CosineAnnealingLR(optimizer, steps(module) - warmup),
    ]
    scheduler = lr_scheduler.SequentialLR(optimizer, parts, [warmup])
    return ([optimizer], [scheduler]) if sick else by(optimizer, scheduler, "step")


def cosine(module: Regression, *, sick: bool) -> Any:
    """Made for the epochs of the run, and stepped after each step."""
    optimizer = momentum(module)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, module.size.epochs)
    return by(optimizer, scheduler, "step" if sick else "epoch")


def batches(module: Regression, *, sick: bool) -> Any:
    """Made for the batches of the run, of which eight make a step."""
    optimizer, size = adam(module), module.size
    total = size.epochs * size.batches if sick else steps(module)
    return by(optimizer, lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=total), "step")


def too_short(module: Regression, *, sick: bool) -> Any:
    """Forgets the last batch of an epoch, which is not full."""
    optimizer, size = adam(module), module.size
    each = size.batches - 1 if sick else size.batches
    return by(optimizer, lr_scheduler.OneCycleLR(optimizer, 2e-2, epochs=size.epochs, steps_per_epoch=each), "step")


def made_for_half(module: Regression, *, sick: bool) -> Any:
    """Made for half of the epochs, as the first part of the run had them; the twin's is made for all."""
    optimizer, size = adam(module), module.size
    total = size.steps // 2 if sick else size.steps
    return by(optimizer, lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=total), "step")


class Forgets(ByHand):
    """Steps its optimizer by hand, and not its scheduler."""

    @override
    def after_step(self) -> None:
        pass


class Overrides(Regression):
    """Takes the stepping of schedulers upon itself, and does not do it."""

    @override
    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        pass


class OverridesWell(Regression):
    """Takes it upon itself."""

    @override
    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step()


def cosine_of_steps(module: Regression, *, sick: bool) -> Any:
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, module.size.steps), "step")


def decay_by_step(module: Regression, *, sick: bool) -> Any:
    """A decay that is meant for epochs, after each step."""
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.ExponentialLR(optimizer, 0.95), "step" if sick else "epoch")


def decay_to_zero(module: Regression, *, sick: bool) -> Any:
    """To zero at a tenth of the run."""
    optimizer, share = adam(module), 0.1 if sick else 1.0
    total = round(steps(module) * share)
    return by(optimizer, lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / total)), "step")


def no_rate(module: Regression, *, sick: bool) -> Any:
    return torch.optim.SGD(module.parameters(), lr=0.0 if sick else 2e-2, momentum=0.9)


def warmup_all_along(module: Regression, *, sick: bool) -> Any:
    optimizer = adam(module)
    warmup = steps(module) if sick else steps(module) // 10
    return by(optimizer, lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup)), "step")


def by_epochs(module: Regression, *, sick: bool) -> Any:
    """A function of the step, stepped after each epoch."""
    optimizer = adam(module)
    warmup = steps(module) // 10
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
    return by(optimizer, scheduler, "epoch" if sick else "step")


def plain(module: Regression, *, sick: bool) -> Any:
    return adam(module)


def warms_up_itself(module: Regression, *, sick: bool) -> Any:
    return by_function(hugging_face_linear, module)


def unfinished(module: Regression, *, sick: bool) -> Any:
    optimizer = adam(module)
    longer = 2 if sick else 1
    return by(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, longer * module.size.epochs))


def beyond(module: Regression, *, sick: bool) -> Any:
    optimizer = adam(module)
    shorter = 2 if sick else 1
    return by(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, module.size.epochs // shorter, eta_min=1e-4))


class CoolsDown(Callback):
    """Begins a cooldown at a batch, and ends the run with it or does not."""

    def __init__(self, *, sick: bool) -> None:
        self.sick = sick

    @override
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        ours = next(each for each in trainer.callbacks if isinstance(each, WarmupCooldownScheduler))
        if trainer.global_step == 40:
            ours.start_cooldown(steps=20)
        if trainer.global_step == 60 and not self.sick:
            trainer.should_stop = True


def _nothing(size: Size) -> dict[str, Any]:
    return {}


def _endless(size: Size) -> dict[str, Any]:
    return {"max_epochs": -1, "max_steps": -1}


class _Ends(Callback):
    """By hand, as somebody who has seen enough."""

    @override
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = trainer.global_step >= 150


@dataclass(frozen=True)
class Case:
    """A mistake, and what is to be found of it.

    Attributes:
        configure: Gives what ``configure_optimizers`` returns, of the sick program or of its twin.
        code: Of the finding.
        where: Its place.
        size: How long the run is.
        severity: Of the finding.
        others: Codes that may come with it.
        kind: The module's class.
        twin: The twin's.
        acting: Arguments with which the callback acts; it only watches if None.
        repaired: Those of the twin; the same if None.
        settings: Further arguments of the Trainer.
        healthy: Those of the twin.
        callbacks: Further callbacks of the Trainer.
        data: The training loader.
        since: The step that the finding is dated to.
        made: The batch by whose start it was made at the latest; 0: before the first step.
        first: Epochs of a first run, of which this one is the continuation.
        raises: The step after which the run itself ends with an error.
    """

    configure: Callable[..., Any]
    code: str
    where: str | None = "AdamW"
    size: Size = LONG
    severity: Severity = Severity.WARNING
    others: tuple[str, ...] = ()
    kind: type[Regression] = Regression
    twin: type[Regression] | None = None
    acting: dict[str, Any] | None = None
    repaired: dict[str, Any] | None = None
    settings: Callable[[Size], dict[str, Any]] = _nothing
    healthy: Callable[[Size], dict[str, Any]] | None = None
    callbacks: Callable[..., list[Callback]] = field(default=lambda *, sick: [])
    data: Callable[[Size], Any] | None = None
    since: int = 0
    made: int | None = 0
    first: Callable[[Size], int] | None = None
    raises: int | None = None

    def __str__(self) -> str:
        way = f"-{self.kind.__name__}" if self.kind is not Regression else ""
        acts = "" if self.acting is None else "-acting" + "".join(f"-{k}={v}" for k, v in self.acting.items())
        return f"{self.configure.__name__}{way}-{self.size}{acts}-{self.code}"

    def program(self, *, sick: bool) -> Program:
        """The sick program, or its twin."""
        more: dict[str, Any] = {} if self.data is None else {"data": self.data}
        return Program(
            partial(self.configure, sick=sick),
            self.kind if sick or self.twin is None else self.twin,
            label=str(self),
            settings=self.settings if sick or self.healthy is None else self.healthy,
            callbacks=partial(self.callbacks, sick=sick),
            first=self.first,
            **more,
        )

    def schedule(self, *, sick: bool, **more: Any) -> WarmupCooldownScheduler:
        """The callback."""
        acting = self.acting if sick or self.repaired is None else self.repaired
        arguments = dict(WarmupCooldownScheduler.only_watching) if acting is None else acting
        return WarmupCooldownScheduler(strict=True, **arguments, **more)


def _half(size: Size) -> int:
    return size.epochs // 2


def _of_steps(count: int) -> Callable[[Size], dict[str, Any]]:
    return lambda size: {"max_epochs": -1, "max_steps": count}


WRONG_UNIT = (
    Case(one_cycle, "LR102"),
    Case(one_cycle, "LR102", size=MANY),
    Case(one_cycle_of_epochs, "LR102"),
    Case(warmup_then_cosine, "LR102"),
    Case(warmup_then_cosine, "LR102", size=MANY),
    Case(one_cycle, "LR102", acting={}),
    Case(cosine, "LR102", "SGD", MANY),
    Case(cosine, "LR102", "SGD", Size(10, 60)),
    Case(batches, "LR102", size=ACCUMULATED),
)
OVERRUNS = (
    Case(too_short, "LR103", severity=Severity.ERROR, raises=4 * 59 + 1),
    Case(too_short, "LR103", size=MANY, severity=Severity.ERROR, raises=30 * 7 + 1),
    Case(made_for_half, "LR103", size=LONG, severity=Severity.ERROR, first=_half, raises=121),
)
NEVER_STEPPED = (
    Case(cosine_of_steps, "LR104", kind=Forgets, twin=ByHand, made=None, others=("LR901",)),
    Case(cosine_of_steps, "LR104", size=MANY, kind=Forgets, twin=ByHand, made=10 * 8, others=("LR901",)),
    Case(decay_by_step, "LR104", size=MANY, kind=Forgets, twin=ByHandEachEpoch, made=10 * 8, others=("LR901",)),
    Case(cosine_of_steps, "LR104", size=MANY, kind=Overrides, twin=OverridesWell, made=10 * 8, others=("LR901",)),
)
VANISHED = (
    Case(decay_by_step, "LR105", size=Size(4, 120)),
    Case(decay_to_zero, "LR105"),
    Case(decay_to_zero, "LR105", size=MANY),
    Case(no_rate, "LR105", "SGD", made=100),
    Case(no_rate, "LR105", "SGD", MANY, made=100, acting={"warmup": 20}),
)
NEVER_ENDS = (
    Case(warmup_all_along, "LR101"),
    Case(warmup_all_along, "LR101", size=MANY),
    Case(by_epochs, "LR101", size=Size(10, 60)),
    Case(plain, "LR101", acting={"warmup": 240, "cooldown": None}, repaired={"warmup": 24, "cooldown": None}),
    Case(plain, "LR101", acting={"warmup": 400, "cooldown": None}, repaired={"warmup": 0.1, "cooldown": None}),
)
TOO_LONG = (
    Case(
        *(plain, "LR106", None),
        others=("LR101",),
        acting={"warmup": 2000, "cooldown": 0.2},
        repaired={"warmup": "auto", "cooldown": 0.2},
        settings=_of_steps(500),
    ),
    Case(plain, "LR106", None, acting={"warmup": 200, "cooldown": 100}, repaired={"warmup": 100, "cooldown": 100}),
)
OVER = (Case(plain, "LR107", None, acting={}, callbacks=lambda *, sick: [CoolsDown(sick=sick)], since=60, made=60),)
NOTES = (
    Case(unfinished, "LR801", severity=Severity.INFO),
    Case(unfinished, "LR801", severity=Severity.INFO, size=MANY),
    Case(beyond, "LR802", severity=Severity.INFO),
    Case(beyond, "LR802", severity=Severity.INFO, size=MANY),
    Case(
        *(warms_up_itself, "LR803", "AdamW", LONG, Severity.INFO),
        acting={"warmup": 20, "cooldown": None},
        repaired={"warmup": None, "cooldown": None},
    ),
    Case(
        *(warms_up_itself, "LR803", "AdamW", LONG, Severity.INFO),
        acting={"warmup": None, "cooldown": 0.2},
        repaired={"warmup": None, "cooldown": None},
    ),
    Case(
        *(plain, "LR804", None, LONG, Severity.INFO),
        acting={},
        settings=_endless,
        healthy=_of_steps(150),
        callbacks=lambda *, sick: [_Ends()],
    ),
    Case(
        *(plain, "LR804", None, LONG, Severity.INFO),
        acting={},
        data=stream,
        healthy=_of_steps(150),
        callbacks=lambda *, sick: [_Ends()],
    ),
)
CASES = (*WRONG_UNIT, *OVERRUNS, *NEVER_STEPPED, *VANISHED, *NEVER_ENDS, *TOO_LONG, *OVER, *NOTES)
"""All of them."""
