"""`WarmupCooldownScheduler`: warmup and cooldown on top of any schedule, and a look at the plan before step 0."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_diagnostics.callback import At, DiagnosticCallback, OnFinding, is_look, whole_number
from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.callback.order import callbacks_named, callbacks_of
from lightning_diagnostics.callback.trainer import Axis
from lightning_diagnostics.callback.undisturbed import CannotRestoreError, undisturbed
from lightning_diagnostics.diagnostics.learning_rate import rules as room
from lightning_diagnostics.diagnostics.learning_rate.foresight import Foreseen, foresee
from lightning_diagnostics.diagnostics.learning_rate.measure import (
    Changed,
    Course,
    Doubled,
    Endless,
    Fit,
    Planned,
    SchedulerPlan,
    Spent,
    Stepping,
    Used,
)
from lightning_diagnostics.diagnostics.learning_rate.names import beta2, group_names, optimizer_names
from lightning_diagnostics.diagnostics.learning_rate.plan import Plan, Preset, Started, Wish, described, wish
from lightning_diagnostics.diagnostics.learning_rate.range_test import curves, range_tests, summary
from lightning_diagnostics.diagnostics.learning_rate.scaling import Scaling
from lightning_diagnostics.diagnostics.learning_rate.shown import Shown
from lightning_diagnostics.statistics import CooldownShape, WarmupShape

logger = logging.getLogger("lightning_diagnostics")

_DRAWN_GROUPS = 12  # of all optimizers together, evenly spread: some programs have one for each layer
_CATEGORY = "Learning rate"


class WarmupCooldownScheduler(DiagnosticCallback):
    """Warms the learning rate up and cools it down, on top of whatever the module configured, and checks the plan.

    The rate of every group of every optimizer is multiplied by a factor that depends on the step alone, while the
    optimizer steps, and at no other time. So the rate that is used is the one that the module's schedulers set (none,
    ``StepLR``, cosine, ``OneCycleLR``, ``LambdaLR``, ``ReduceLROnPlateau``, ...) times the factor, exactly; schedulers,
    checkpoints and the module itself only ever see their own. Lightning's ``LearningRateMonitor`` logs the rates that
    are used, wherever it stands in the list. Momentum is left alone. The factor is
    `lightning_diagnostics.statistics.warmup_cooldown_factor`.

    The length of the run is that of ``max_steps`` or ``max_epochs``, whichever ends first, in optimizer steps, and of
    ``max_time`` (``Timer``), by the pace so far. Where none of these tells (no limit, or a loader without a length in
    its first epoch) there is no cooldown and a note says so; ``start_cooldown()`` begins one at any time.
    In automatic optimisation a step is one of ``trainer.global_step``, also if a gradient scaler skips it. In manual
    optimisation the warmup counts the steps that each optimizer makes, and the end of the run is counted in training
    batches, or, by ``max_steps``, in steps of all optimizers. A run that is resumed, with the same length or another,
    has the factors of a run that was never interrupted.

    Before the first step the module's own schedulers are stepped ahead on a copy, and the planned rate is drawn; at
    looks the rate that is used is drawn over it (``learning_rate/planned``, ``learning_rate/used``, and the factor).
    The result of Lightning's ``LearningRateFinder`` is drawn, too. With ``warmup=None, cooldown=None`` this is all
    that it does.

    Between looks a step costs two hooks of the optimizer, which compute the factor and write one number for each group;
    a rate that is a tensor is multiplied on its device. Nothing is transferred. With ``max_time`` and several processes
    each batch takes one exchange, so that all have the same time.

    Findings: ``warmup-never-ends`` (LR101), ``schedule-in-wrong-unit`` (LR102), ``scheduler-overruns`` (LR103),
    ``scheduler-never-stepped`` (LR104), ``vanished-rate`` (LR105), ``overlapping-plan`` (LR106), ``cooldown-over``
    (LR107); notes ``unfinished-schedule`` (LR801), ``restarting-schedule`` (LR802), ``doubled-schedule`` (LR803),
    ``no-end`` (LR804), ``changed-plan`` (LR805), ``unwatched-rate`` (LR901).

    Args:
        warmup: Optimizer steps (a whole number), a fraction of the run (more than 0, less than 1), None for no warmup,
            or ``"auto"``: ``2 / (1 - beta2)`` steps, as Ma & Yarats (2021) found for Adam, at most a tenth of the run;
            no warmup for an optimizer without such an average of squared gradients (SGD).
        warmup_shape: ``"linear"``, ``"exponential"`` or ``"cosine"``.
        cooldown: A fraction of the run (its last), optimizer steps, or None for no cooldown.
        cooldown_shape: ``"1-sqrt"`` (Haegele et al. 2024), ``"linear"``, ``"cosine"``, ``"square"`` or
            ``"mirror-cosine"``.
        floor: The factor at the end of the cooldown, from 0 to 1.
        preset: Cooldown and its shape together: ``"wsd"`` is the last fifth as ``1-sqrt``, ``"trapezoid"`` the last
            fifth linearly, ``"linear_to_zero"`` linearly from the end of the warmup to the end of the run.
        every_n_train_steps: The rate is drawn at least this often, counted in batches within the epoch.
        on_finding: What to do about a finding: ``"report"`` it, ``"stop"`` training after the batch, or ``"raise"`` a
            ``FindingError``. With several processes the ranks agree on it at the end of the epoch or of a validation.
        at: The severity from which ``"stop"`` and ``"raise"`` act: ``"warning"`` or ``"error"``.
        limits: Limits to override, by name, e.g. ``{"warmup-never-ends.rise": 10}``.
        strict: Raise our own faults instead of switching off (for tests).

    Raises:
        ValueError: if a word or a limit is not known, a value is not allowed, or arguments contradict each other.
        TypeError: if a value is of the wrong kind.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_diagnostics import WarmupCooldownScheduler
        >>> schedule = WarmupCooldownScheduler(warmup="auto", cooldown=0.2)
        >>> trainer = Trainer(callbacks=[schedule], max_steps=1000, logger=False, enable_checkpointing=False)
    """

    rules = room.RULES[:-1]
    blind_rule = room.unwatched_rate
    default_limits = room.Limits()
    state_outlives_run = True
    only_watching: ClassVar[Mapping[str, Any]] = {"warmup": None, "cooldown": None}
    presets: ClassVar[Mapping[str, Mapping[str, Any] | None]] = {
        "light": {"every_n_train_steps": 500},
        "thorough": {"every_n_train_steps": 10},
    }

    def __init__(
        self,
        *,
        warmup: int | float | Literal["auto"] | None = "auto",
        warmup_shape: WarmupShape = "linear",
        cooldown: int | float | None = 0.2,
        cooldown_shape: CooldownShape = "1-sqrt",
        floor: float = 0.0,
        preset: Preset | None = None,
        every_n_train_steps: int = 50,
        on_finding: OnFinding = "report",
        at: At = "warning",
        limits: dict[str, float] | None = None,
        strict: bool = False,
    ) -> None:
        # Validate the arguments.
        self._wish = wish(warmup, warmup_shape, cooldown, cooldown_shape, floor, preset)
        whole_number("every_n_train_steps", every_n_train_steps, low=1)
        super().__init__(on_finding=on_finding, at=at, limits=limits, strict=strict)

        # Set up a scheduler that belongs to no run yet.
        self.warmup, self.warmup_shape = warmup, warmup_shape
        self.cooldown, self.cooldown_shape, self.floor = cooldown, cooldown_shape, floor
        self.preset = preset
        self.every_n_train_steps = every_n_train_steps
        self.forget()
        self._reset()

    def _reset(self) -> None:
        """Forget everything about the optimizers of this process."""
        self._scaling = Scaling(self._factors_of, self._safely)
        self._shown: Shown | None = None
        self._names: list[str] = []
        self._plan = Plan(self._wish, (Axis(insides.STEPS, math.inf),), self._started)
        self._clock: Any = None
        self._share = 0.0
        self._fresh = True  # whether the end of the run was computed in no batch yet
        self._step = 0
        self._blind: list[str] = []
        self._began: dict[int, int | None] = {}  # steps of the schedulers when the run began, by their place
        self._steps_before = self._epochs = 0
        self._tests: set[int] = set()  # range tests that are drawn

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no part in the optimizers of this process."""
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        twin._reset()
        return vars(twin)

    # What the user calls.

    def start_cooldown(self, *, steps: int | None = None) -> None:
        """Begin the cooldown now, at the next step: it takes the place of the one at the end of the run.

        With several processes every rank has to call it, or any: it begins where they next meet, at the end of the
        epoch or of a validation, so that all have the same rate. A second call does nothing.

        Args:
            steps: How long it takes; as long as ``cooldown`` says if None. It ends with the run at the latest. Of a run
                without an end, a fraction is one of the steps made so far and those of the cooldown.

        Raises:
            RuntimeError: if no training is under way.
            ValueError: if neither ``steps`` nor ``cooldown`` tells how long it takes.
            TypeError: if ``steps`` is not a whole number.
        """
        if steps is not None:
            whole_number("steps", steps, low=1)
        if steps is None and not self._wish.cooldown:
            raise ValueError(f"cooldown={self.cooldown!r}: start_cooldown() needs steps=..., a whole number of steps")
        trainer = self._run.trainer if self._run is not None and self._joined else None
        if trainer is None or trainer.state.fn != "fit":
            raise RuntimeError("start_cooldown(): no training is under way; call it from a hook or a callback of one")
        if self._started is not None or self._asked is not None:
            return
        self._asked = steps or 0
        if insides.process_count(trainer) == 1:
            self._begin_cooldown(trainer)

    # The life of a run.

    @override
    def forget(self) -> None:
        self._started: Started | None = None
        self._asked: int | None = None  # steps of a cooldown that is to begin; 0 if nobody said
        self._steps_made: dict[int, int] = {}  # steps of each optimizer before this process
        self._old: Mapping[str, Any] | None = None  # the plan of the checkpoint that is resumed

    @override
    def attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._let_go()
        self._reset()
        self._names = optimizer_names(trainer.optimizers)
        self._clock = insides.time_share(trainer)
        self._compute_end(trainer, None)
        self._take_up(trainer)
        if self._wish.acts or self._started is not None:
            monitors = callbacks_named(trainer, "LearningRateMonitor")
            self._shown = Shown(monitors, lambda: trainer.optimizers, self._factors_of)
        self._began = {place: _count(one.scheduler) for place, one in enumerate(insides.scheduled(trainer))}
        self._steps_before = trainer.global_step
        self._draw_range_tests(trainer)
        self._look_ahead(trainer, pl_module)
        self._compare(trainer)

    @override
    def wind_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and self._names:
            self._judge_stepping(trainer, ended=True)
        self._draw_range_tests(trainer)

    @override
    def detach(self) -> None:
        self._steps_made = dict(self._scaling.made)
        self._let_go()

    def _let_go(self) -> None:
        self._scaling.stop()
        if self._shown is not None:
            self._shown.stop()
            self._shown = None

    @override
    def watching(self, trainer: Trainer, pl_module: LightningModule) -> str:
        text = "the plan of the learning rates"
        if not self._wish.acts:
            return text
        optimizers = [each for each in trainer.optimizers if isinstance(each, Optimizer)]
        plans: dict[str, list[str]] = {}
        for name, optimizer in zip(self._names, optimizers, strict=False):
            plans.setdefault(described(self._plan, beta2(optimizer, optimizer.param_groups[0])), []).append(name)
        return "; ".join(f"{text} of {', '.join(names)}, multiplied: {plan}" for plan, names in plans.items()) or text

    @override
    def room_state(self) -> dict[str, Any]:
        axes = [asdict(axis) for axis in self._plan.axes]
        return {
            "made": dict(self._scaling.made or self._steps_made),
            "started": None if self._started is None else asdict(self._started),
            "asked": self._asked,
            "plan": {"wish": asdict(self._wish), "axes": axes},
        }

    @override
    def load_room_state(self, state: Mapping[str, Any]) -> None:
        self._steps_made = dict(state["made"])
        self._started = None if state["started"] is None else Started(**state["started"])
        self._asked = state["asked"]
        self._old = state["plan"]

    # A step.

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._scaling.settle()
        if not self._scaling.serves(trainer.optimizers):
            self._names = optimizer_names(trainer.optimizers)
            self._take_up(trainer)
        if batch_idx == 0 or self._fresh:
            self._compute_end(trainer, batch_idx)
        if self._clock is not None:
            self._share = insides.gather(trainer, self._clock())[0]
        self._step = insides.log_step(trainer)
        if is_look(batch_idx, batches=insides.batches_per_epoch(trainer), every=self.every_n_train_steps):
            self._scaling.looks = True
            if not self._wish.acts and self._started is None:
                rates = {place: [group.get("lr") for group in each.param_groups] for place, each in self._each(trainer)}
                self._draw_used(trainer, rates)
        if self._started is not None:
            place = insides.place(trainer, self._plan.axes[0].unit)
            ended = self._started.at + self._started.length
            self.judge(trainer, room.cooldown_over, Spent(self._started.at, ended, place, self.floor), step=self._step)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._scaling.settle()
        if self._scaling.used:
            rates, self._scaling.used, self._scaling.looks = self._scaling.used, {}, False
            self._draw_used(trainer, rates)
        for place in self._scaling.overwritten:
            self._blind_once(
                trainer, f"{self._names[place]} sets its rate by itself in its step", "leave the rate alone in step()"
            )

    @override
    def epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epochs += 1
        self._judge_stepping(trainer)

    # Where the ranks meet.

    @override
    def share(self) -> Any:
        return self._asked

    @override
    def take_in(self, trainer: Trainer, pl_module: LightningModule, shared: list[Any]) -> None:
        asked = [each for each in shared if each is not None]
        if asked and self._started is None:
            self._asked = asked[0]
            self._begin_cooldown(trainer)

    def _begin_cooldown(self, trainer: Trainer) -> None:
        """Begin the cooldown that was asked for, at the next step."""
        axis = self._plan.axes[0]
        at, wanted = insides.place(trainer, axis.unit), self._asked or self._wish.cooldown
        self._asked = None
        if isinstance(wanted, float) and axis.end == math.inf:
            steps = round(at * wanted / (1 - wanted)) if wanted < 1 else at  # a share of what will have been
        elif isinstance(wanted, float):
            steps = round(axis.end * wanted)
        else:
            steps = int(wanted) if isinstance(wanted, int) else int(axis.end - at) if axis.end < math.inf else at
        steps = int(max(1, min(steps, axis.end - at)))
        self._started = Started(at, steps)
        self._plan = Plan(self._wish, self._plan.axes, self._started)
        if self._shown is None:
            monitors = callbacks_named(trainer, "LearningRateMonitor")
            self._shown = Shown(monitors, lambda: trainer.optimizers, self._factors_of)
        logger.info("a cooldown of %d %s begins at %d", steps, axis.unit, at)

    # The factor.

    def _compute_end(self, trainer: Trainer, batch_idx: int | None) -> None:
        """Take up where the run ends, at its first batch and at the first of every epoch."""
        self._fresh = batch_idx is None
        axes = insides.axes(trainer, batch_idx)
        if tuple(axes) != self._plan.axes:
            self._plan = Plan(self._wish, tuple(axes), self._started)

    def _factors_of(self, optimizer: Optimizer) -> Sequence[float]:
        """The factor of each group of an optimizer at its next step."""
        trainer = self._run.trainer if self._run is not None else None
        if trainer is None or not any(each is self for each in callbacks_of(trainer)):  # a range test has its own
            return [1.0] * len(optimizer.param_groups)
        plan = self._plan_of_now(trainer)
        places = [insides.place(trainer, axis.unit) for axis in plan.axes]
        own = places[0]
        if not trainer.lightning_module.automatic_optimization:
            own = self._scaling.made.get(self._scaling.place_of(optimizer), 0)
        known: dict[float | None, float] = {}
        factors: list[float] = []
        for group in optimizer.param_groups:
            rate = beta2(optimizer, group)
            if rate not in known:
                known[rate] = plan.factor(own, places, rate)
            factors.append(known[rate])
        return factors

    def _plan_of_now(self, trainer: Trainer) -> Plan:
        """The plan; where the run's time is limited, with the end that the pace so far makes likely."""
        if self._clock is None or self._share <= 0:
            return self._plan
        first = self._plan.axes[0]
        end = (insides.place(trainer, first.unit) + 1) / self._share
        return Plan(self._wish, (*self._plan.axes, Axis(first.unit, end, "max_time")), self._started)

    def _take_up(self, trainer: Trainer) -> None:
        """Take up the optimizers of the run."""
        made = self._scaling.made or self._steps_made
        if not made and trainer.global_step and not trainer.lightning_module.automatic_optimization:
            each = trainer.global_step // max(1, len(trainer.optimizers))  # of a run that was begun without us
            made = dict.fromkeys(range(len(trainer.optimizers)), each)
        if self._wish.acts or self._started is not None or made:
            self._scaling.start(trainer.optimizers, made)
        for place in self._scaling.unreachable:
            what = f"{self._names[place]} has no hooks, so that its rate is not multiplied"
            self._blind_once(trainer, what, "derive it from torch.optim.Optimizer")

    # The plan.

    def _each(self, trainer: Trainer) -> list[tuple[int, Optimizer]]:
        """The optimizers of torch's, with their places."""
        return [(place, each) for place, each in enumerate(trainer.optimizers) if isinstance(each, Optimizer)]

    def _look_ahead(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out what the run's rates will be, draw it, and judge it."""
        axis = self._plan.axes[0]
        foreseen = self._foreseen(trainer, pl_module, axis.end)
        if foreseen is None:
            return
        for what in foreseen.unknown:
            self._blind_once(trainer, f"not foreseen: {what}", "see the chart of the rates that are used")
        self._draw_plan(trainer, foreseen)
        if not insides.is_trial(trainer):
            self._judge_plan(trainer, foreseen)

    def _foreseen(self, trainer: Trainer, pl_module: LightningModule, end: float) -> Foreseen | None:
        steps_itself = insides.steps_schedulers_itself(trainer)
        if not steps_itself or all(each.plateau for each in insides.scheduled(trainer)):
            return foresee(trainer, end)
        try:
            with undisturbed(trainer, pl_module, guard=False):  # a schedule may call functions of the program
                return foresee(trainer, end)
        except CannotRestoreError as fault:
            self._blind_once(trainer, f"not foreseen: the schedule ({fault})", "see the chart of the rates in use")
            return None

    def _draw_plan(self, trainer: Trainer, foreseen: Foreseen) -> None:
        """Draw the planned rate at some steps before the first is made, where the end of the run is known."""
        if foreseen.until <= foreseen.first or not trainer.is_global_zero or not trainer.loggers:
            return
        now = insides.log_step(trainer)
        points: dict[int, list[Planned]] = {}
        for place, name, index in self._drawn_groups(trainer):
            optimizer = trainer.optimizers[place]
            rate2 = beta2(optimizer, optimizer.param_groups[index])
            for step, rates in zip(foreseen.steps, foreseen.rates, strict=True):
                planned = Planned(name, rates[place][index] * self._ahead(step, rate2))
                points.setdefault(now + step - foreseen.first, []).append(planned)
        self.draw_ahead(points)
        self.lay_out(_CATEGORY, *(points.get(now, ())))

    def _ahead(self, step: int, rate2: float | None) -> float:
        """The factor of a later step, as far as it is known now."""
        axis = self._plan.axes[0]
        return Plan(self._wish, (axis,), self._started).factor(step, [step], rate2)

    def _judge_plan(self, trainer: Trainer, foreseen: Foreseen) -> None:
        now, axis = insides.log_step(trainer), self._plan.axes[0]
        wrong: set[int] = set()  # optimizers whose schedule is in the wrong unit: what follows from it is not said
        for seen in foreseen.schedulers:
            run = seen.run
            plan = SchedulerPlan(
                *(seen.name, self._names[seen.optimizer], seen.interval, seen.length, seen.whole, seen.periodic),
                *(seen.calls, run.steps, run.batches, run.epochs, seen.raises_at, seen.error),
            )
            if self.judge(trainer, room.schedule_in_wrong_unit, plan, step=now) is not None:
                wrong.add(seen.optimizer)
            self.judge(trainer, room.scheduler_overruns, plan, step=now)
            if seen.optimizer not in wrong:
                self.judge(trainer, room.unfinished_schedule, plan, step=now)
                self.judge(trainer, room.restarting_schedule, plan, step=now)
        for place, optimizer in self._each(trainer):
            rate2 = beta2(optimizer, optimizer.param_groups[0])
            fit = Fit(
                self._plan.warmup_steps(axis, rate2), self._plan.cooldown_wanted(axis, rate2), axis.end, axis.unit
            )
            self.judge(trainer, room.overlapping_plan, fit, step=now)
            if foreseen.until > foreseen.first and foreseen.until == axis.end and place not in wrong:
                self._judge_course(trainer, foreseen, place, optimizer)
        if self._wish.acts and axis.end == math.inf and len(self._plan.axes) == 1 and self._clock is None:
            self.judge(trainer, room.no_end, self._endless(trainer), step=now)

    def _judge_course(self, trainer: Trainer, foreseen: Foreseen, place: int, optimizer: Optimizer) -> None:
        now, axis = insides.log_step(trainer), self._plan.axes[0]
        groups = optimizer.param_groups
        factors = [[self._ahead(step, beta2(optimizer, group)) for group in groups] for step in foreseen.steps]
        rates = tuple(
            max(own * factor for own, factor in zip(at[place], by, strict=True))
            for at, by in zip(foreseen.rates, factors, strict=True)
        )
        own = [max(at[place]) for at in foreseen.rates]
        cause = "its schedule is multiplied by warmup and cooldown" if self._wish.acts else "its schedule"
        course = Course(self._names[place], tuple(foreseen.steps), rates, int(axis.end), cause)
        self.judge(trainer, room.warmup_never_ends, course, step=now)
        self.judge(trainer, room.vanished_rate, course, step=now)
        rate2 = beta2(optimizer, groups[0])
        warmup, cooldown = self._plan.warmup_steps(axis, rate2), self._plan.cooldown_steps(axis, rate2)
        warm = next((rate for step, rate in zip(foreseen.steps, own, strict=True) if step >= warmup), own[-1])
        cool = next((rate for step, rate in zip(foreseen.steps, own, strict=True) if step >= axis.end - cooldown), 0.0)
        doubled = Doubled(self._names[place], warmup, cooldown, _over(warm, own[0]), _over(own[-1], cool))
        self.judge(trainer, room.doubled_schedule, doubled, step=now)

    def _endless(self, trainer: Trainer) -> Endless:
        why = "neither max_steps nor max_epochs nor max_time is set"
        if insides.batches_per_epoch(trainer) is None:
            why = "the training loader has no length, and max_steps and max_time are not set"
        cooldown = f"the cooldown of {self._wish.cooldown}" if self._wish.cooldown else ""
        warmup = f"the warmup of {self._wish.warmup}" if isinstance(self._wish.warmup, float) else ""
        return Endless(cooldown, warmup, why)

    def _compare(self, trainer: Trainer) -> None:
        """Whether a run that is resumed had another plan."""
        old, self._old = self._old, None
        if old is None:
            return
        before = Plan(Wish(**old["wish"]), tuple(Axis(**axis) for axis in old["axes"]), self._started)
        place = insides.place(trainer, self._plan.axes[0].unit)
        optimizers = [optimizer for _, optimizer in self._each(trainer)]
        rate2 = beta2(optimizers[0], optimizers[0].param_groups[0]) if optimizers else None
        first = Plan(before.wish, before.axes[:1], self._started)
        changed = Changed(
            insides.log_step(trainer),
            first.factor(place, [place], rate2),
            self._ahead(place, rate2),
            described(before, rate2),
            described(self._plan, rate2),
        )
        self.judge(trainer, room.changed_plan, changed, step=insides.log_step(trainer))

    def _judge_stepping(self, trainer: Trainer, *, ended: bool = False) -> None:
        """Whether the schedulers that the module steps by itself are stepped at all."""
        if insides.steps_schedulers_itself(trainer) or insides.is_trial(trainer):
            return
        optimizers = {id(each): place for place, each in self._each(trainer)}
        made = self._scaling.made
        for place, one in enumerate(insides.scheduled(trainer)):
            count, began = _count(one.scheduler), self._began.get(place)
            if count is None or began is None or one.plateau or id(one.optimizer) not in optimizers:
                continue
            which = optimizers[id(one.optimizer)]
            steps = max(trainer.global_step - self._steps_before, made.get(which, 0) - self._steps_made.get(which, 0))
            stepping = Stepping(
                type(one.scheduler).__name__, self._names[which], count != began, steps, self._epochs, ended
            )
            self.judge(trainer, room.scheduler_never_stepped, stepping, step=insides.epoch_end_step(trainer))

    # What is drawn.

    def _drawn_groups(self, trainer: Trainer) -> list[tuple[int, str, int]]:
        """The groups that are drawn: place of the optimizer, name of the group, and its index."""
        every = [
            (place, name, index)
            for place, optimizer in self._each(trainer)
            for index, name in enumerate(group_names(self._names[place], optimizer.param_groups))
        ]
        if len(every) <= _DRAWN_GROUPS:
            return every
        return [every[round(i * (len(every) - 1) / (_DRAWN_GROUPS - 1))] for i in range(_DRAWN_GROUPS)]

    def _draw_used(self, trainer: Trainer, rates: Mapping[int, Sequence[Any]]) -> None:
        if not trainer.is_global_zero or not trainer.loggers:
            return
        drawn: list[Used] = []
        for place, name, index in self._drawn_groups(trainer):
            used = rates.get(place, ())
            rate = used[index] if index < len(used) else None
            if rate is not None:
                factor = self._scaling.last.get(place, ()) if self._wish.acts or self._started is not None else ()
                number = float(rate.item()) if isinstance(rate, Tensor) else float(rate)
                drawn.append(Used(name, number, factor[index] if index < len(factor) else None))
        self.draw(trainer, *drawn, step=self._step)
        self.lay_out(_CATEGORY, *drawn)

    def _draw_range_tests(self, trainer: Trainer) -> None:
        """Draw what Lightning's own range test has found, once for each."""
        for result in range_tests(callbacks_named(trainer, "LearningRateFinder")):
            if id(result) in self._tests or not trainer.is_global_zero or not trainer.loggers:
                continue
            self._tests.add(id(result))
            found = curves(result)
            self.draw_ahead({step: [each] for step, each in found.items()})
            self.draw(trainer, summary(result, step=insides.log_step(trainer)), step=insides.log_step(trainer))
            if found:
                self.lay_out(_CATEGORY, found[0])

    def _blind_once(self, trainer: Trainer, what: str, remedy: str) -> None:
        if what not in self._blind:
            self._blind.append(what)
            self.note_blind(trainer, "; ".join(self._blind) + ".", remedy)


def _count(scheduler: Any) -> int | None:
    """How often a scheduler has been stepped; None if it does not tell."""
    count = getattr(scheduler, "last_epoch", None)
    return count if isinstance(count, int) else None


def _over(value: float, base: float) -> float:
    return value / base if base else math.inf if value else 1.0
