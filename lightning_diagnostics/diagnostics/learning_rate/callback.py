"""`WarmupCooldownScheduler`: warmup and cooldown on top of any schedule, and a look at the plan before step 0."""

import logging
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar, Literal

from torch.optim import Optimizer
from typing_extensions import override

from lightning_diagnostics.callback import At, DiagnosticCallback, OnFinding, is_look, whole_number
from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.callback.order import callbacks_named, callbacks_of
from lightning_diagnostics.callback.undisturbed import CannotRestoreError, undisturbed
from lightning_diagnostics.diagnostics.learning_rate import rules as room
from lightning_diagnostics.diagnostics.learning_rate.checking import course, doubled, fit, scheduler_plans
from lightning_diagnostics.diagnostics.learning_rate.drawing import planned, used
from lightning_diagnostics.diagnostics.learning_rate.factors import Factors
from lightning_diagnostics.diagnostics.learning_rate.foresight import Foreseen, UnforeseeableError, foresee
from lightning_diagnostics.diagnostics.learning_rate.measure import Changed, Course, Endless, Planned, Spent, Stepping
from lightning_diagnostics.diagnostics.learning_rate.names import beta2, optimizer_names
from lightning_diagnostics.diagnostics.learning_rate.plan import Plan, Preset, Started, described, wish
from lightning_diagnostics.diagnostics.learning_rate.range_test import curves, range_tests, summary
from lightning_diagnostics.diagnostics.learning_rate.scaling import Scaling
from lightning_diagnostics.diagnostics.learning_rate.shown import Shown
from lightning_diagnostics.findings import FindingError
from lightning_diagnostics.statistics import CooldownShape, WarmupShape

logger = logging.getLogger("lightning_diagnostics")

_CATEGORY = "learning rate"
_CHANGE_RATES = ("StochasticWeightAveraging", "BaseFinetuning")  # callbacks of Lightning


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
    a rate that is a tensor is multiplied on its device. Nothing is transferred. Several processes
    exchange what the time tells where they meet, at the end of an epoch or of a validation.

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
        self._factors = Factors(self._wish, self._started, late=self._late)
        self._scaling = Scaling(self._factors_of, self._safely)
        self._shown: Shown | None = None
        self._names: list[str] = []
        self._step = 0
        self._blind: list[str] = []
        self._points: dict[int, list[Planned]] = {}  # of the plan, that are yet to be drawn
        self._zero: dict[int, Course] = {}  # plans of optimizers without a rate, which the program may yet set
        self._zero_since = 0  # training batches before this run
        self._tests: list[Any] = []  # range tests that are drawn

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no part in the optimizers of this process."""
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        twin._reset()
        return {name: value for name, value in vars(twin).items() if name != "_scaling"}  # which knows whose it is

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._scaling = Scaling(self._factors_of, self._safely)

    # What the user calls.

    def start_cooldown(self, *, steps: int | None = None) -> None:
        """Begin the cooldown now, at the next step. Should the one at the end of the run be further on, that one holds.

        With several processes it begins where they next meet, at the end of the epoch or of a validation, so that all
        have the same rate; it is enough if one of them calls it. A second call does nothing.

        Args:
            steps: How long it takes; as long as ``cooldown`` says if None. It ends with the run at the latest. Of a run
                without an end, a fraction is one of the steps made so far and those of the cooldown.

        Raises:
            RuntimeError: if no training is under way.
            TypeError: if ``steps`` is not a whole number.
            ValueError: if it is less than 1, or neither ``steps`` nor ``cooldown`` tells how long it takes.
        """
        if steps is not None:
            whole_number("steps", steps, low=1)
        elif not self._wish.cooldown:
            raise ValueError(f"cooldown={self.cooldown!r}: start_cooldown() needs steps=..., a whole number of steps")
        trainer = self._run.trainer if self._run is not None and self._joined else None
        if trainer is None or trainer.state.fn != "fit" or not self._names:
            raise RuntimeError("start_cooldown(): no training is under way; call it from a hook or a callback of one")
        if self._started is None and not self._asked:
            self._asked, self._asked_steps = True, steps
            if insides.process_count(trainer) == 1:
                self._begin_cooldown(trainer, steps)

    # The life of a run.

    @override
    def forget(self) -> None:
        self._started: Started | None = None
        self._asked, self._asked_steps = False, None  # whether a cooldown is to begin, and how long
        self._steps_made: dict[int, int] = {}  # of each optimizer, before this process
        self._began: dict[int, int | None] = {}  # steps of the schedulers when the run began, by their place
        self._epochs = self._batches = 0  # since then
        self._late = False  # whether the end was not known when the first step was made, before this process
        self._plan_before: Mapping[str, Any] | None = None  # that of the checkpoint which is resumed

    @override
    def attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._let_go()
        self._reset()
        self._names = optimizer_names(trainer.optimizers)
        self._factors.begin(trainer)
        counts = {place: _count(one.scheduler) for place, one in enumerate(insides.scheduled(trainer))}
        if counts.keys() != self._began.keys():
            self._began, self._epochs, self._batches = counts, 0, 0
        self._zero_since = self._batches
        if self._acts:
            self._take_up(trainer)
        self._aside(self._draw_range_tests, trainer)
        self._aside(self._look_ahead, trainer, pl_module)

    @override
    def wind_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._names:
            self._judge_stepping(trainer, ended=True)
        self._draw_range_tests(trainer)  # of one that ended the run when it was through
        self._let_go()

    @override
    def detach(self) -> None:
        self._steps_made = self._scaling.made or self._steps_made
        self._let_go()

    def _let_go(self) -> None:
        self._scaling.stop()
        if self._shown is not None:
            self._shown.stop()
            self._shown = None

    @override
    def watching(self, trainer: Trainer, pl_module: LightningModule) -> str:
        text = "the plan of the learning rates"
        if not self._acts:
            return text
        plans: dict[str, list[str]] = {}
        for place, optimizer in _each(trainer).items():
            rate2 = beta2(optimizer, optimizer.param_groups[0])
            words = described(self._factors.plan, rate2, timed=self._factors.is_timed)
            plans.setdefault(words, []).append(self._names[place])
        parts = [f"{' and '.join(names)}: {words}" for words, names in plans.items()]
        return f"{text} ({'; '.join(parts)})" if parts else text

    @override
    def room_state(self) -> dict[str, Any]:
        return {
            "made": dict(self._scaling.made or self._steps_made),
            "started": None if self._started is None else asdict(self._started),
            "asked": self._asked,
            "asked_steps": self._asked_steps,
            "plan": self._factors.plan.to_dict(),
            "stepping": {"began": dict(self._began), "epochs": self._epochs, "batches": self._batches},
        }

    @override
    def load_room_state(self, state: Mapping[str, Any]) -> None:
        self._steps_made = dict(state["made"])
        self._started = None if state["started"] is None else Started(**state["started"])
        self._asked, self._asked_steps = state["asked"], state["asked_steps"]
        self._plan_before, stepping = state["plan"], state["stepping"]
        self._late = state["plan"]["late"]
        self._began, self._epochs, self._batches = dict(stepping["began"]), stepping["epochs"], stepping["batches"]

    # A step.

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._scaling.settle()
        self._step = insides.log_step(trainer)
        self._batches += 1
        if self._acts and not self._scaling.serves(trainer.optimizers):
            self._names = optimizer_names(trainer.optimizers)
            self._take_up(trainer)
        self._factors.begin_batch(trainer, batch_idx, acts=self._acts)
        if self._points:  # not where training starts: after a resume Lightning moves its axis on before the first batch
            self.draw_ahead({self._step + step: each for step, each in self._points.items()})
            self.lay_out(_CATEGORY, *self._points.get(0, ()))
            self._points = {}
        if self._zero and self._batches - self._zero_since > self._limits.warmup_steps:
            self._judge_zero(trainer)
        self._aside(self._compare, trainer)
        if is_look(batch_idx, batches=insides.batches_per_epoch(trainer), every=self.every_n_train_steps):
            self._scaling.looks = self._acts
            if not self._acts and len(self._names) == len(trainer.optimizers):
                optimizers = _each(trainer)
                rates = {place: [group.get("lr") for group in each.param_groups] for place, each in optimizers.items()}
                self._aside(self._draw_used, trainer, rates, {})
        if self._started is not None:
            place = insides.place(trainer, self._factors.plan.axes[0].unit)
            spent = Spent(self._started.at, self._started.at + self._started.length, place, self.floor)
            self.judge(trainer, room.cooldown_over, spent, step=self._step)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._scaling.settle()
        if self._scaling.used:
            rates, self._scaling.used, self._scaling.looks = self._scaling.used, {}, False
            self._aside(self._draw_used, trainer, rates, self._scaling.last)
        for place in self._scaling.overwritten:
            self._blind_once(
                trainer, f"{self._names[place]} sets its rate by itself in its step", "leave it alone there"
            )

    @override
    def epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for place in _each(trainer) if self._acts and not insides.is_trial(trainer) else ():
            if place not in self._scaling.unreachable and not self._scaling.made.get(place):
                what = f"{self._names[place]} has made no step of its own, so that no rate is multiplied"
                self._blind_once(trainer, what, "call its step(), and not that of an optimizer that it wraps")
        self._epochs += trainer.is_last_batch  # one that is cut short may be stepped at its end
        self._judge_stepping(trainer)

    # Where the ranks meet.

    @override
    def share(self) -> Any:
        trainer = self._run.trainer if self._run is not None else None
        end = self._factors.paced_end(trainer) if trainer is not None and self._names else None
        return {"asked": self._asked, "steps": self._asked_steps, "end": end}

    @override
    def take_in(self, trainer: Trainer, pl_module: LightningModule, shared: list[Any]) -> None:
        if shared and self._names:
            self._factors.take_end(shared[0]["end"])
        asked = [each["steps"] for each in shared if each["asked"]]
        if asked and self._started is None and len(shared) == insides.process_count(trainer):
            self._begin_cooldown(trainer, asked[0])

    # The factors.

    @property
    def _acts(self) -> bool:
        """Whether rates are multiplied."""
        return self._wish.acts or self._started is not None

    def _factors_of(self, optimizer: Optimizer) -> Sequence[float]:
        """The factor of each group of an optimizer at its next step."""
        trainer = self._run.trainer if self._run is not None else None
        if trainer is None or not any(each is self for each in callbacks_of(trainer)):  # a range test has its own
            return [1.0] * len(optimizer.param_groups)
        return self._factors.of(optimizer, trainer, self._scaling.made_by(optimizer))

    def _prepare(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        """A monitor is about to read the rates, at the beginning of an epoch, or of a batch with its index."""
        if batch:
            self._factors.begin_batch(trainer, batch[-1], acts=self._acts)
        else:
            self._factors.begin_epoch(trainer)

    def _take_up(self, trainer: Trainer) -> None:
        """Take up the optimizers of the run, and those who show their rates."""
        made = self._scaling.made or self._steps_made
        if not made and trainer.global_step:  # of a run that was begun without us
            each = trainer.global_step // max(1, len(trainer.optimizers))
            made = dict.fromkeys(range(len(trainer.optimizers)), each)
        self._scaling.start(trainer.optimizers, made)
        if self._shown is None:
            monitors = callbacks_named(trainer, "LearningRateMonitor")
            self._shown = Shown(
                monitors,
                partial(_optimizers_of, weakref.ref(trainer)),
                partial(self._safely, self._factors_of),
                partial(self._safely, self._prepare),
            )
        rated = _each(trainer)
        for place, optimizer in enumerate(trainer.optimizers):
            if place not in rated and place not in self._scaling.unreachable and optimizer.param_groups:
                self._blind_once(trainer, f"{self._names[place]} has no learning rate", "give its groups an lr")
        for place in self._scaling.unreachable:
            what = f"{self._names[place]} has no hooks, so that its rate is not multiplied"
            self._blind_once(trainer, what, "derive it from torch.optim.Optimizer")

    def _begin_cooldown(self, trainer: Trainer, steps: int | None) -> None:
        """Begin the cooldown that was asked for, at the next step."""
        acted = self._acts
        self._started = self._factors.start_cooldown(trainer, steps)
        if not acted:
            self._take_up(trainer)
        unit = self._factors.plan.axes[0].unit
        logger.info("a cooldown begins at %d and takes %d %s", self._started.at, self._started.length, unit)

    # The plan.

    def _look_ahead(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out what the run's rates will be, draw it, and judge it."""
        foreseen = self._foreseen(trainer, pl_module)
        if foreseen is None:
            return
        changing = [name for name in _CHANGE_RATES if callbacks_named(trainer, name)]
        for what in (*foreseen.unknown, *(f"what {name} does to the rates" for name in changing)):
            self._blind_once(trainer, f"not foreseen: {what}", "see the chart of the rates that are used")
        if foreseen.until > foreseen.first and trainer.is_global_zero and trainer.loggers:
            self._points = planned(foreseen, self._factors.plan, _each(trainer), self._names)
        if not insides.is_trial(trainer):
            self._judge_plan(trainer, foreseen)

    def _foreseen(self, trainer: Trainer, pl_module: LightningModule) -> Foreseen | None:
        end = self._factors.plan.axes[0].end
        steps_itself = insides.steps_schedulers_itself(trainer)
        if not steps_itself or all(each.plateau for each in insides.scheduled(trainer)):
            return foresee(trainer, end)
        try:
            with undisturbed(trainer, pl_module, guard=False):  # a schedule may call functions of the program
                return foresee(trainer, end)
        except (CannotRestoreError, UnforeseeableError) as fault:
            self._blind_once(trainer, f"not foreseen: the schedule ({fault})", "see the chart of the rates in use")
            return None

    def _judge_plan(self, trainer: Trainer, foreseen: Foreseen) -> None:
        now, plan = insides.log_step(trainer), self._factors.plan
        steps_itself = insides.steps_schedulers_itself(trainer) or not trainer.lr_scheduler_configs
        wrong: set[str] = set()  # optimizers whose schedule is in the wrong unit: what follows from it is not said
        unfinished: set[str] = set()  # and those of which the run is a part only
        open_ended = self._factors.is_timed or bool(callbacks_named(trainer, "EarlyStopping"))
        for one in scheduler_plans(foreseen, self._names, open_ended=open_ended):
            self.judge(trainer, room.scheduler_overruns, one, step=now)
            self.judge(trainer, room.schedule_in_wrong_unit, one, step=now)
            if room.schedule_in_wrong_unit.check(one, self._limits) is not None:  # said or not
                wrong.add(one.optimizer)
            else:
                self.judge(trainer, room.unfinished_schedule, one, step=now)
                counts_steps = one.interval == "step" or (one.length or 0) < one.steps
                if counts_steps and room.unfinished_schedule.check(one, self._limits) is not None:
                    unfinished.add(one.optimizer)
                self.judge(trainer, room.restarting_schedule, one, step=now)
        for place, optimizer in _each(trainer).items():
            name = self._names[place]
            if plan.main.unit == insides.STEPS or not isinstance(self._wish.warmup, int):  # else they are not alike
                self.judge(trainer, room.overlapping_plan, fit(plan, optimizer), step=now)
            rates2 = [beta2(optimizer, group) for group in optimizer.param_groups]
            if self._wish.warmup == "auto" and not any(rates2):
                self._blind_once(trainer, f"{name} has no automatic warmup, which is Adam's", "give warmup in steps")
            if foreseen.first < foreseen.until == plan.axes[0].end and name not in wrong:
                ahead = course(foreseen, plan, place, optimizer, name)
                if name not in unfinished:
                    self.judge(trainer, room.warmup_never_ends, ahead, step=now)
                if any(ahead.rates):
                    if not open_ended:
                        self.judge(trainer, room.vanished_rate, ahead, step=now)
                elif steps_itself:
                    self._zero[place] = ahead
                twice = doubled(foreseen, plan, place, optimizer, name)
                self.judge(trainer, room.doubled_schedule, twice, step=now)
        if plan.main.end == math.inf:
            without = self._wish.cooldown and not self._factors.is_timed
            cooldown = f"the cooldown of {self._wish.cooldown}" if without else ""
            warmup = f"the warmup of {self._wish.warmup}" if isinstance(self._wish.warmup, float) else ""
            endless = Endless(cooldown, warmup, insides.epochs_tell(trainer))
            self.judge(trainer, room.no_end, endless, step=now)

    def _judge_zero(self, trainer: Trainer) -> None:
        """Whether a rate that was planned to be zero still is."""
        optimizers = _each(trainer)
        for place, ahead in self._zero.items():
            if place in optimizers and not any(float(group["lr"] or 0) for group in optimizers[place].param_groups):
                self.judge(trainer, room.vanished_rate, ahead, step=self._step)
        self._zero = {}

    def _compare(self, trainer: Trainer) -> None:
        """Whether a run that is resumed had another plan."""
        optimizers = _each(trainer)
        if self._plan_before is None or not optimizers:
            return
        old, now = Plan.from_dict(self._plan_before, self._started), self._factors.plan
        self._plan_before = None
        place, first = next(iter(optimizers.items()))
        rate2 = beta2(first, first.param_groups[0])
        automatic = trainer.lightning_module.automatic_optimization

        def factor(plan: Plan) -> float:
            places = [insides.place(trainer, axis.unit) for axis in plan.axes]
            return plan.curve(rate2).factor(places[0] if automatic else self._steps_made.get(place, 0), places)

        step = insides.log_step(trainer)
        changed = Changed(step, factor(old), factor(now), described(old, rate2), described(now, rate2))
        self.judge(trainer, room.changed_plan, changed, step=step)

    def _judge_stepping(self, trainer: Trainer, *, ended: bool = False) -> None:
        """Whether the schedulers that the module steps by itself are stepped at all."""
        if insides.steps_schedulers_itself(trainer) or insides.is_trial(trainer):
            return
        for place, one in enumerate(insides.scheduled(trainer)):
            count, began = _count(one.scheduler), self._began.get(place)
            which = next((each for each, optimizer in _each(trainer).items() if optimizer is one.optimizer), None)
            if count is None or began is None or one.plateau or which is None:
                continue
            steps = self._batches if getattr(one.optimizer, "_opt_called", False) else 0
            kind = type(one.scheduler).__name__
            stepping = Stepping(kind, self._names[which], count != began, steps, self._epochs, ended)
            step = insides.epoch_end_step(trainer)
            self.judge(trainer, room.scheduler_never_stepped, stepping, step=step)
            for finding in self.findings if stepping.stepped else ():
                made = (finding.code, finding.where) == (room.scheduler_never_stepped.code, stepping.optimizer)
                if made and finding.status == "open":
                    self.close(finding, step=step)

    # What is drawn.

    def _draw_used(
        self, trainer: Trainer, rates: Mapping[int, Sequence[Any]], factors: Mapping[int, Sequence[float]]
    ) -> None:
        if trainer.is_global_zero and trainer.loggers:
            drawn = used(rates, factors, _each(trainer), self._names)
            self.draw(trainer, *drawn, step=self._step)
            self.lay_out(_CATEGORY, *drawn)

    def _draw_range_tests(self, trainer: Trainer) -> None:
        """Draw what Lightning's own range test has found, once for each."""
        for result in range_tests(callbacks_named(trainer, "LearningRateFinder")):
            if any(each is result for each in self._tests) or not trainer.is_global_zero or not trainer.loggers:
                continue
            self._tests.append(result)
            found, step = curves(result), insides.log_step(trainer)
            self.draw_ahead({at: [each] for at, each in found.items()})
            self.draw(trainer, summary(result, step=step), step=step)
            self.lay_out(_CATEGORY, *found.values())

    def _aside(self, act: Callable[..., object], *args: Any) -> None:
        """Draw or judge: a fault in it is reported once, and the rates are multiplied as before.

        Otherwise it would end a warmup in its middle, on one of several processes maybe.
        """
        try:
            act(*args)
        except FindingError:
            raise
        except Exception as fault:
            if self.strict:
                raise
            if act.__name__ not in self._failed:
                self._failed.add(act.__name__)
                self._report(act.__name__, fault)

    def _blind_once(self, trainer: Trainer, what: str, remedy: str) -> None:
        if what not in self._blind:
            self._blind.append(what)
            self.note_blind(trainer, "; ".join(self._blind) + ".", remedy)


def _each(trainer: Trainer) -> dict[int, Optimizer]:
    """The optimizers of torch's that have a learning rate, by their place."""
    return {place: each for place, each in enumerate(trainer.optimizers) if _has_rate(each)}


def _has_rate(optimizer: Any) -> bool:
    if not isinstance(optimizer, Optimizer):
        return False
    return any(group.get("lr") is not None for group in optimizer.param_groups)


def _optimizers_of(trainer: weakref.ref[Trainer]) -> Sequence[Any]:
    alive = trainer()
    return [] if alive is None else alive.optimizers


def _count(scheduler: Any) -> int | None:
    """How often a scheduler has been stepped; None if it does not tell."""
    count = getattr(scheduler, "last_epoch", None)
    return count if isinstance(count, int) else None
