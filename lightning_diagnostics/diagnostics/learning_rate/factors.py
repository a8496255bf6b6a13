"""The factors of a run: the plan as it is now, and where the run is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch.optim import Optimizer

from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.namespaces import Trainer
from lightning_diagnostics.callback.trainer import Axis
from lightning_diagnostics.diagnostics.learning_rate.names import beta2
from lightning_diagnostics.diagnostics.learning_rate.plan import BY_TIME, Curve, Plan, Started, Wish


class Factors:
    """What the rates of a run are multiplied with, at its next step.

    Args:
        wish: What was asked for.
        started: A cooldown that was begun by hand before a resume.
        late: Whether the end of the run was not known when its first step was made, before a resume.
    """

    def __init__(self, wish: Wish, started: Started | None, *, late: bool = False) -> None:
        self.plan = Plan(wish, (Axis(insides.STEPS, math.inf),), started, late)
        self._clock: Callable[[], float] | None = None
        self._share = 0.0
        self._paced: tuple[int, float] | None = None  # place and time when the first batch was over
        self._end: float | None = None  # by the time of the run
        self._timed: tuple[Plan, float, Plan] | None = None  # the plan, that end, and the plan with it
        self._batch: tuple[int, int] | None = None
        self._limits: tuple[object, ...] = ()
        self._curved, self._curves = self.plan, dict[float | None, Curve]()
        self._is_known = False  # whether the end of the run was computed within a batch

    @property
    def is_timed(self) -> bool:
        """Whether the time of the run is limited."""
        return self._clock is not None

    def begin(self, trainer: Trainer) -> None:
        """Training starts."""
        self._clock = insides.time_share(trainer)
        self._take_axes(trainer, None)

    def begin_epoch(self, trainer: Trainer) -> None:
        """An epoch begins: take up where the run ends."""
        self._take_axes(trainer, None)

    def begin_batch(self, trainer: Trainer, batch_idx: int, *, acts: bool) -> None:
        """A batch begins: take up where the run ends, if it is the first of an epoch or its limits have changed.

        Several processes take the time where they meet, so that all have the same (`paced_end`, `take_end`). What is
        told twice of a batch is taken up once.
        """
        batch = (trainer.current_epoch, batch_idx)
        if batch == self._batch:
            return
        self._batch = batch
        if batch_idx == 0 or not self._is_known or insides.limits(trainer) != self._limits:
            self._take_axes(trainer, batch_idx)
        if insides.place(trainer, self.plan.axes[0].unit) == 0:
            self.plan = replace(self.plan, late=all(axis.end == math.inf for axis in self.plan.axes))
        if self._clock is None or not acts:
            return
        before, self._share = self._share, self._clock()
        if before and self._paced is None:  # the first batch, in which much is set up, tells nothing of the pace
            self._paced = (insides.place(trainer, self.plan.axes[0].unit), self._share)
        if insides.process_count(trainer) == 1:
            self.take_end(self.paced_end(trainer))

    def paced_end(self, trainer: Trainer) -> float | None:
        """Where the run ends on its first axis if it goes on at the pace so far; None if that is not known."""
        if self._paced is None:
            return None
        place, (first, share) = insides.place(trainer, self.plan.axes[0].unit), self._paced
        if place <= first or self._share <= share:
            return None
        return place + (1 - self._share) * (place - first) / (self._share - share)

    def take_end(self, end: float | None) -> None:
        """The run's time is over there; None if nobody knows."""
        self._end = end

    def start_cooldown(self, trainer: Trainer, steps: int | None) -> Started:
        """A cooldown begins at the next step.

        Args:
            trainer: The Trainer.
            steps: How long it takes; as long as was asked for if None.
        """
        plan = self._of_now()
        at = insides.place(trainer, plan.axes[0].unit)
        end = min((axis.end for axis in plan.axes if axis.unit == plan.axes[0].unit), default=math.inf)
        wanted = plan.wish.cooldown if steps is None else steps
        if isinstance(wanted, float) and wanted < 1:
            # Of a run without an end: of the steps made so far and those of the cooldown.
            length = wanted * end if end < math.inf else at * wanted / (1 - wanted)
        elif isinstance(wanted, int):
            length = wanted
        else:
            length = end - at if end < math.inf else at
        started = Started(at, max(1, round(min(length, end - at))))
        self.plan = replace(self.plan, started=started)
        return started

    def of(self, optimizer: Optimizer, trainer: Trainer, made: int) -> Sequence[float]:
        """The factor of each group of an optimizer at its next step.

        Args:
            optimizer: The optimizer.
            trainer: The Trainer.
            made: Steps that it has made, in manual optimisation.
        """
        plan = self._of_now()
        if plan is not self._curved:
            self._curved, self._curves = plan, {}
        places = [insides.place(trainer, axis.unit) for axis in plan.axes]
        own = places[0] if trainer.lightning_module.automatic_optimization else made
        known: dict[float | None, float] = {}
        factors: list[float] = []
        for group in optimizer.param_groups:
            rate2 = beta2(optimizer, group)
            if rate2 not in known:
                if rate2 not in self._curves:
                    self._curves[rate2] = plan.curve(rate2)
                known[rate2] = self._curves[rate2].factor(own, places)
            factors.append(known[rate2])
        return factors

    def _take_axes(self, trainer: Trainer, batch_idx: int | None) -> None:
        self._is_known = batch_idx is not None
        self._limits = insides.limits(trainer)
        axes = tuple(insides.axes(trainer, batch_idx))
        if axes != self.plan.axes:
            self.plan = replace(self.plan, axes=axes)

    def _of_now(self) -> Plan:
        """The plan; where the run's time is limited, with the end that the pace so far makes likely."""
        if self._end is None:
            return self.plan
        if self._timed is None or self._timed[:2] != (self.plan, self._end):
            axes = (*self.plan.axes, Axis(self.plan.axes[0].unit, self._end, BY_TIME))
            self._timed = (self.plan, self._end, replace(self.plan, axes=axes))
        return self._timed[2]
