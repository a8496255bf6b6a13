"""What the module's own schedulers will do, found out on a stand-in for the optimizer before the first step."""

import copy
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
)
from typing_extensions import override

from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.namespaces import Trainer
from lightning_diagnostics.callback.trainer import Scheduled

_SECONDS, _MORE = 2.0, 1e-5  # that a run is foreseen for, and for each of its steps; one takes some 4 us
_MOST, _START = 1_000_000, 100_000  # steps of a run that is foreseen whole, and that one which is longer begins with
_POINTS = 200  # of a curve


class UnforeseeableError(RuntimeError):
    """A scheduler cannot be stepped ahead."""


@dataclass(frozen=True)
class Counts:
    """How often something will have happened when the run ends, what came before a resume included.

    Attributes:
        steps: Optimizer steps.
        batches: Training batches.
        epochs: Epochs.
    """

    steps: int
    batches: int
    epochs: int


@dataclass(frozen=True)
class Seen:
    """What is foreseen of one scheduler.

    Attributes:
        name: Of its class.
        optimizer: The place of its optimizer.
        interval: ``"step"`` or ``"epoch"``.
        length: Its own steps after which it is through; None if it has no such length.
        whole: Whether that is by its nature the length of a run, and not of a part of one.
        periodic: Whether it rises again beyond that.
        calls: How often it will have been stepped when the run ends.
        run: What else happens as often as that.
        raises_at: The optimizer step after which it raises an error; None if it does not.
        error: What it says.
    """

    name: str
    optimizer: int
    interval: str
    length: int | None
    whole: bool
    periodic: bool
    calls: int
    run: Counts
    raises_at: int | None = None
    error: str = ""


@dataclass(frozen=True)
class Foreseen:
    """What is foreseen of a run.

    Attributes:
        first: The optimizer step that it begins at.
        until: The step up to which it is foreseen.
        steps: Some steps, from the first to the last that is foreseen.
        rates: Before each of them, the rates of the groups of each optimizer, as the program sets them.
        schedulers: What was found out of each scheduler; empty if the end of the run is not foreseen.
        unknown: What cannot be foreseen.
    """

    first: int
    until: int
    steps: list[int] = field(default_factory=list)
    rates: list[list[list[float]]] = field(default_factory=list)
    schedulers: list[Seen] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def foresee(trainer: Trainer, end: float) -> Foreseen:
    """Step copies of the schedulers as Lightning will step them, in automatic optimisation.

    The functions of the program that schedulers call are called; random numbers that they draw are the caller's care.

    Args:
        trainer: The Trainer, before its first batch.
        end: The optimizer steps of the run (in manual optimisation its batches); ``inf`` if nobody knows.

    Raises:
        UnforeseeableError: if a function of the program's fails when it is called ahead.
    """
    twins = [_twin(each) for each in trainer.optimizers]
    shared = (trainer, *trainer.lightning_module.modules())  # that a function of the program's may belong to
    memo: dict[int, Any] = {id(each): each for each in shared}
    for real, twin in zip(trainer.optimizers, twins, strict=True):
        if twin is None:
            continue
        memo |= {id(real): twin, id(real.param_groups): twin.param_groups}
        memo |= {id(one): other for one, other in zip(real.param_groups, twin.param_groups, strict=True)}
    unknown: list[str] = []
    actors: list[_Actor] = []
    for one in insides.scheduled(trainer):
        name = type(one.scheduler).__name__
        if one.plateau:
            unknown.append(f"{name}, which waits for a metric")
        elif not insides.steps_schedulers_itself(trainer):
            unknown.append(f"{name}, which the module steps by itself")
        elif id(one.optimizer) not in memo:
            unknown.append(f"{name}, whose optimizer the Trainer does not have")
        else:
            try:
                place = next(place for place, each in enumerate(trainer.optimizers) if each is one.optimizer)
                actors.append(_Actor(one, copy.deepcopy(one.scheduler, memo), place))
            except Exception as fault:  # noqa: BLE001  # what cannot be copied cannot be foreseen
                unknown.append(f"{name}, of which no copy can be made ({type(fault).__name__})")
    now = [_rates(twin) for twin in twins]
    if not actors or end == math.inf:
        return replace(_constant(trainer, end, now), unknown=unknown)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _played(trainer, int(end), actors, lambda: [_rates(twin) for twin in twins])
    return replace(found, unknown=unknown + found.unknown)


def _constant(trainer: Trainer, end: float, rates: list[list[float]]) -> Foreseen:
    """A run whose program leaves its rates alone, as far as can be foreseen; in manual optimisation in batches."""
    automatic = trainer.lightning_module.automatic_optimization
    first = insides.place(trainer, insides.STEPS if automatic else insides.BATCHES)
    last = int(end) if math.isfinite(end) else first
    if last <= first:
        return Foreseen(first, first, [first], [rates])
    every = max(1, (last - first) // _POINTS)
    steps = sorted({*range(first, last, every), last - 1})
    return Foreseen(first, last, steps, [rates] * len(steps))


def _played(
    trainer: Trainer, last: int, actors: "Sequence[_Actor]", rates: Callable[[], list[list[float]]]
) -> Foreseen:
    first = step = trainer.global_step
    found = Foreseen(first, last, [first], [rates()])
    before = batches = epochs = 0
    every, stop = max(1, (last - first) // _POINTS), time.monotonic() + _SECONDS
    until = last if last - first <= _MOST else first + _START
    for batch, ends, epoch in insides.steps_ahead(trainer, last):
        step += 1
        batches, epochs = batches + batch - before, epochs + ends
        before = 0 if ends else batch
        for actor in actors:
            actor.go_on(step, batch, epoch if ends else None)
        if step < last and ((step - first) % every == 0 or step == last - 1):
            found.steps.append(step)
            found.rates.append(rates())
        if until <= step < last or time.monotonic() > stop + _MORE * (step - first):
            return replace(found, until=step, unknown=[f"the schedule after step {step}, for the time it takes"])
    run = Counts(step, insides.place(trainer, insides.BATCHES) + batches, trainer.current_epoch + epochs)
    return replace(found, schedulers=[actor.seen(run) for actor in actors])


class _Actor:
    """A copy of a scheduler, on a stand-in for its optimizer."""

    def __init__(self, one: Scheduled, twin: Any, place: int) -> None:
        self._one, self._twin, self._place = one, twin, place
        self._calls = max(0, int(getattr(one.scheduler, "last_epoch", 0) or 0))
        self._raised: tuple[int, str] | None = None

    def go_on(self, step: int, batch: int, epoch: int | None) -> None:
        """An optimizer step has been made.

        Args:
            step: How many have been made.
            batch: How many batches of its epoch.
            epoch: How many epochs; None if this one goes on.
        """
        count = batch if self._one.interval == "step" else epoch
        if count is None or count % self._one.frequency or self._raised is not None:
            return
        self._calls += 1
        try:
            self._twin.step()
        except Exception as fault:
            if not _is_of_torch(fault):  # a function of the program's, which may need what only the run has
                raise UnforeseeableError(f"{type(self._twin).__name__} ({type(fault).__name__}: {fault})") from fault
            self._raised = (step, f"{type(fault).__name__}: {fault}")

    def seen(self, run: Counts) -> Seen:
        """What came of it."""
        scheduler = self._one.scheduler
        raised, error = self._raised or (None, "")
        return Seen(
            type(scheduler).__name__,
            self._place,
            self._one.interval,
            own_length(scheduler),
            is_whole(scheduler),
            isinstance(scheduler, CosineAnnealingLR),
            self._calls,
            run,
            raised,
            error,
        )


def own_length(scheduler: Any) -> int | None:
    """The steps of a scheduler of torch's after which it is through; None if it has no such length."""
    if isinstance(scheduler, OneCycleLR):
        return int(scheduler.total_steps)
    if isinstance(scheduler, CosineAnnealingLR):
        return int(scheduler.T_max)
    if isinstance(scheduler, LinearLR | ConstantLR | PolynomialLR):
        return int(scheduler.total_iters)
    if isinstance(scheduler, SequentialLR):
        last = own_length(scheduler._schedulers[-1])
        return None if last is None else int(scheduler._milestones[-1]) + last
    return None


def is_whole(scheduler: Any) -> bool:
    """Whether the length of a scheduler is by its nature that of a run, and not of a part of one."""
    if isinstance(scheduler, SequentialLR):
        return is_whole(scheduler._schedulers[-1])
    return isinstance(scheduler, CosineAnnealingLR | OneCycleLR | PolynomialLR)


def _is_of_torch(fault: BaseException) -> bool:
    """Whether an error was raised by a scheduler of torch's itself, and not by a function that it was given."""
    trace = fault.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") == "torch.optim.lr_scheduler"


class StandIn(Optimizer):
    """An optimizer without weights; one of torch's own classes would have its step hooked, for all of the process."""

    @override
    def step(self, closure: Any = None) -> Any:
        """It never steps."""


def _twin(optimizer: Any) -> Optimizer | None:
    """An optimizer with the same options and no weights; None of one that is none of torch's, or has no groups."""
    if not isinstance(optimizer, Optimizer) or not optimizer.param_groups:
        return None
    twin = StandIn([{"params": [torch.zeros(1)]} for _ in optimizer.param_groups], {"lr": 0.1})
    for group, real in zip(twin.param_groups, optimizer.param_groups, strict=True):
        group.update({name: _option(value) for name, value in real.items() if name != "params"})
    twin.defaults = {**optimizer.defaults}
    vars(twin)["_opt_called"] = True  # what a scheduler asks for before it is stepped
    return twin


def _option(value: Any) -> Any:
    """An option of a group: a number for a tensor of one element, a copy of a list, and what else there is as it is."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return float(value.detach())
    return copy.copy(value) if isinstance(value, list | dict) else value


def _rates(optimizer: Optimizer | None) -> list[float]:
    return [] if optimizer is None else [float(group.get("lr") or 0.0) for group in optimizer.param_groups]
