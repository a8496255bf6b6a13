"""`GradientNormMonitor`: gradient norms before and after clipping, their variance, and what they do to the weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_diagnostics.callback import At, DiagnosticCallback, OnFinding, is_look, whole_number
from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.budget import Budget, Pace
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.diagnostics.gradients import rules as room
from lightning_diagnostics.diagnostics.gradients.collecting import Collected, collect
from lightning_diagnostics.diagnostics.gradients.depth import DepthHistory, update_ratio
from lightning_diagnostics.diagnostics.gradients.filters import filters, first_convolution
from lightning_diagnostics.diagnostics.gradients.history import History, Taken
from lightning_diagnostics.diagnostics.gradients.looking import Looking, ParameterLook, norms_by_key
from lightning_diagnostics.diagnostics.gradients.measure import (
    Filters,
    LayerGradients,
    NonFinite,
    OptimizerGradients,
    Untrained,
    picture,
)
from lightning_diagnostics.diagnostics.gradients.parameters import Parameter, by_layer, parameters_of
from lightning_diagnostics.diagnostics.gradients.steps import OptimizerStep, StepWatch
from lightning_diagnostics.diagnostics.gradients.untrained import Missing, Unoptimized
from lightning_diagnostics.findings import Finding, Rule, TooEarly
from lightning_diagnostics.probes import Arrivals, Deferred, Slot, copies_of, is_sharded, numbers_of

_DRAWN_AT_FIRST, _PICTURED_AT_FIRST = 40, 4  # looks that are drawn before the cadence sets the pace
_PICTURE_STEPS = 200  # histograms of fifteen layers take 33 kB in the event file
_PICTURED = 15
_OPTIMIZERS = 8  # that are drawn and judged at the most: some programs have one for each parameter
_CLOSES_AFTER = 3  # verdicts in a row that find nothing
_ALIKE = 1e-2  # relative: what torch's own norm, and clipping in 16 bits, leave of a norm that is computed from it
_SAME = 1e-5  # relative: what rounding leaves of a norm that was computed twice
_FINITE = 24  # optimizer steps in a row with finite gradients
_UNFINISHED = 500  # batches after which parameters are judged without waiting for the end of the epoch
_NOTES = (room.stuck_gradient, room.bouncing_gradient, room.always_clipped)
_OF_PARAMETERS = (room.missing_gradient, room.parameter_not_optimized)


class GradientNormMonitor(DiagnosticCallback):
    """Watches gradient norms and their variance, clipping, updates, and gradients that are missing or broken.

    A norm is the L2 norm of all gradients of one optimizer at one of its steps: unscaled, after the reduction over
    ranks, of whole (unsharded) parameters, and never of a part of an accumulation. Before clipping and after it are two
    numbers, both measured: in automatic optimisation around Lightning's clipping; in manual optimisation after
    ``self.manual_backward`` and where the optimizer steps. What cannot be measured rightly is not drawn, and a note
    says so: the norm before clipping where the program calls ``loss.backward()`` itself, the norm after it of LBFGS,
    any norm under FSDP 1 and DeepSpeed.

    Every optimizer step costs one fused norm, which stays on its device, and a second one where gradients were changed
    after the first (clipping), where micro-batches are accumulated (for the noise scale), or where parameters are
    sharded; in manual optimisation each backward pass costs one for each optimizer whose gradients it changed. Two
    hooks of torch's optimizers see the steps; nothing is transferred between looks.

    Looks are the first optimizer step at or after the first batch and the last of every epoch, at least eight spread
    over it, and one every ``every_n_train_steps``. At a look the numbers of all steps since the last one come to the
    host in one transfer, weights are copied before the step (16 million at the most; of a larger model the parameters
    take turns) and let go after it, and zero gradients are counted. With sharded parameters each rank has its part, so
    numbers are drawn and judged where the ranks meet: at the end of an epoch and after a validation.

    What is drawn, under ``gradients/<quantity>/<optimizer or layer>``: the norm before and after clipping, its mean,
    variance and coefficient of variation over the window and as an exponential average, the share of steps clipped and
    skipped, zeros, the gradient noise scale where accumulation or ranks give it, the learning rate; by layer the norm
    and the update-to-weight ratio; histograms of gradients and weights; the filters of the first convolution. In
    TensorBoard also as charts on the Custom Scalars page.

    Findings: ``nonfinite-gradient`` (GRD101), ``missing-gradient`` (GRD102), ``parameter-not-optimized`` (GRD103),
    ``vanishing-gradient`` (GRD104), ``exploding-gradient`` (GRD105); notes ``stuck-gradient`` (GRD801),
    ``bouncing-gradient`` (GRD802), ``always-clipped`` (GRD803), ``unwatched-gradients`` (GRD901).

    Args:
        every_n_train_steps: A batch is looked at at least this often, counted within the epoch.
        window: Optimizer steps that mean, variance and shares are taken over; 10 or more.
        max_layers: Layers that are drawn at the most, spread over the model. All are judged.
        histograms: Whether to draw histograms of gradients and weights.
        on_finding: What to do about a finding: ``"report"`` it, ``"stop"`` training after the batch, or ``"raise"`` a
            ``FindingError``. With several processes the ranks agree on it at the end of the epoch or of a validation.
        at: The severity from which ``"stop"`` and ``"raise"`` act: ``"warning"`` or ``"error"``.
        limits: Limits to override, by name, e.g. ``{"exploding-gradient.factor": 1000}``.
        strict: Raise our own faults instead of switching off (for tests).

    Raises:
        ValueError: if a word or a limit is not known, or a value is not allowed.
        TypeError: if a value is of the wrong kind.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_diagnostics import GradientNormMonitor
        >>> trainer = Trainer(callbacks=[GradientNormMonitor()], logger=False, enable_checkpointing=False)
    """

    rules = room.RULES[:-1]
    blind_rule = room.unwatched_gradients
    default_limits = room.Limits()
    state_outlives_run = True
    presets: ClassVar[Mapping[str, Mapping[str, Any] | None]] = {
        "light": {"every_n_train_steps": 500, "max_layers": 10, "histograms": False},
        "thorough": {"every_n_train_steps": 10, "max_layers": 100},
    }

    def __init__(
        self,
        *,
        every_n_train_steps: int = 50,
        window: int = 100,
        max_layers: int = 30,
        histograms: bool = True,
        on_finding: OnFinding = "report",
        at: At = "warning",
        limits: dict[str, float] | None = None,
        strict: bool = False,
    ) -> None:
        # Validate the arguments.
        whole_number("every_n_train_steps", every_n_train_steps, low=1)
        whole_number("window", window, low=10)
        whole_number("max_layers", max_layers, low=1)
        if not isinstance(histograms, bool):
            raise TypeError(f"histograms={histograms!r}: allowed are True and False")
        super().__init__(on_finding=on_finding, at=at, limits=limits, strict=strict)

        # Set up a monitor that has seen nothing.
        self.every_n_train_steps = every_n_train_steps
        self.window = window
        self.max_layers = max_layers
        self.histograms = histograms
        self.forget()
        self._reset()

    def _reset(self) -> None:
        """Forget everything about the steps of this process."""
        self._deferred = Deferred()
        self._looking = Looking(self._deferred)
        self._watch = StepWatch(self._deferred, self._looking)
        self._arrivals = Arrivals()
        self._parameters: dict[int, Parameter] = {}
        self._shares: dict[int, float] = {}
        self._order: dict[str, int] = {}  # in which gradients arrived, by parameter
        self._draws = Pace(first=_DRAWN_AT_FIRST, every=self.every_n_train_steps)
        self._pictures = Pace(first=_PICTURED_AT_FIRST, every=max(_PICTURE_STEPS, self.every_n_train_steps))
        self._filters = Pace(first=_PICTURED_AT_FIRST, every=max(_PICTURE_STEPS, self.every_n_train_steps))
        self._budget = Budget(self.max_layers)
        self._hidden = ""
        self._clip_norm: float | None = None  # to which Lightning clips, if nothing else changes gradients
        self._averaged = False  # whether ranks average gradients of the whole model
        self._look = self._drawn = False
        self._step = 0
        self._values: dict[str, Slot] = {}  # norms of weights that are in no optimizer, or wait for a gradient
        self._local: list[tuple[int, Slot, int]] = []  # batch, norm of this rank alone, samples
        self._shared: list[tuple[int, float, int]] = []
        self._whole: dict[int, tuple[str, float]] = {}  # by batch: optimizer and squared norm of all ranks together
        self._waiting: list[Collected] = []  # of a model that is spread over ranks
        self._micro: list[int | None] = []  # samples of the micro-batches of this step
        self._undrawn: tuple[list[tuple[Collected, OptimizerGradients]], int] | None = None
        self._blind = ""

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no part in the modules and tensors of this process."""
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        twin._reset()
        twin._module = None
        return vars(twin)

    # The life of a run.

    @override
    def forget(self) -> None:
        self._histories: dict[str, History] = {}
        self._depths: dict[str, DepthHistory] = {}
        self._missing, self._unoptimized = Missing(), Unoptimized()
        self._batches = self._judged_at = 0
        self._module: int | None = None
        self._quiet: dict[tuple[str, str], int] = {}  # verdicts in a row that did not repeat an open finding
        self._early: dict[str, TooEarly] = {}

    @override
    def attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._module not in (None, id(pl_module)):  # the same Trainer fits another model
            for finding in self.findings:
                if finding.status == "open":
                    self.close(finding, step=insides.log_step(trainer))
            self.forget()
        self._module = id(pl_module)
        self._watch.stop()  # of a run of whose end nobody told
        self._arrivals.end()
        self._reset()
        self._hidden = insides.hidden_gradients(trainer)
        if self._hidden:
            self._watch.blind.setdefault(f"any gradient, as {self._hidden} keeps them where they cannot be read whole")
            self._note_blindness(trainer)
            return
        self._know(pl_module)
        processes = insides.process_count(trainer)
        sharded = processes > 1 and any(is_sharded(parameter) for parameter in pl_module.parameters())
        self._watch.automatic = pl_module.automatic_optimization
        self._watch.clips, self._clip_norm = insides.clips(trainer, pl_module), insides.clip_norm(trainer, pl_module)
        self._watch.scaled = trainer.scaler is not None
        self._watch.processes, self._watch.sharded = processes, sharded
        one = pl_module.automatic_optimization and len(trainer.optimizers) == 1
        self._averaged = one and insides.averages_over_ranks(trainer)
        if sharded:
            copies = {id(p): copies_of(p, processes=processes) for p in pl_module.parameters()}
            self._shares = {key: 1 / copy for key, copy in copies.items() if copy}
        self._watch.start(trainer.optimizers, frozenset(self._parameters), guard=self._safely)

    @override
    def wind_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch.settle()
        if self._watch.waits:  # what came after the last look, and may be what ended the run
            self._collect(trainer, pl_module)

    @override
    def detach(self) -> None:
        self._watch.stop()
        self._arrivals.end()
        self._arrivals = Arrivals()
        self._waiting, self._local, self._undrawn = [], [], None
        self._values = {}

    @override
    def watching(self, trainer: Trainer, pl_module: LightningModule) -> str:
        if self._hidden:
            return f"no gradients: {self._hidden} keeps them where they cannot be read whole: blind"
        names = list(self._watch.names.values())
        optimizers = ", ".join(names[:_OPTIMIZERS]) or "any optimizer"
        trained = sum(parameter.trains for parameter in self._parameters.values())
        text = f"the gradients of {optimizers} ({trained} of {len(self._parameters)} parameters require one)"
        if not pl_module.automatic_optimization:
            text += "; before clipping where manual_backward is called, else as the optimizer gets them"
        return text

    @override
    def undecided(self) -> list[str]:
        return [
            f"{name}: {verdict.have} of the {verdict.need} {verdict.unit} that a verdict needs"
            for name, verdict in self._early.items()
        ]

    # A step.

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._hidden:
            return
        self._arrivals.end()
        self._step = insides.log_step(trainer)
        length = insides.batches_per_epoch(trainer)
        self._look = is_look(batch_idx, batches=length, every=self.every_n_train_steps)
        place, of = insides.accumulation(trainer, batch_idx)
        self._micro = [*(self._micro if place else []), insides.batch_size(trainer, batch) if of > 1 else None]
        if self._look:
            self._know(pl_module)
            self._drawn = self._draws.take(self._step)
            self._looking.pictured = frozenset(self._pictured()) if self._wants_pictures(trainer) else frozenset()
            if not self._watch.sharded and not insides.is_compiled(pl_module):
                alone = self._averaged and of == 1
                watched = _parameters_in(trainer.optimizers[0]) if alone else pl_module.parameters()
                self._arrivals.begin(watched, local=alone)
        self._watch.divided = of if pl_module.automatic_optimization else 1
        self._watch.begin_batch(self._step, look=self._look)

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if not self._hidden:
            self._watch.see_loss(loss, insides.loss_scale(trainer))

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._hidden:
            return
        scale = insides.loss_scale(trainer)
        if pl_module.automatic_optimization:
            samples = self._micro[0] if len(self._micro) == 1 else None
            if samples is not None and len(trainer.optimizers) == 1 and not self._watch.sharded:
                self._watch.see_micro_batch(trainer.optimizers[0], scale)
        else:
            self._watch.see_backward(scale)
        if self._look:
            self._see_values(pl_module)
            self._arrivals.divide(scale)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if not self._hidden:
            self._watch.before_step(optimizer, insides.loss_scale(trainer))

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._hidden:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and not pl_module.automatic_optimization:
            self._watch.see_loss_late(loss)
        _, of = insides.accumulation(trainer, batch_idx)
        samples = self._micro[0] if self._micro else None
        if len(self._micro) == of > 1 and samples is not None and set(self._micro) == {samples}:
            self._watch.complete(of, samples=samples, of=samples * of * insides.process_count(trainer))
        self._batches += insides.process_count(trainer)
        self._end_look(trainer, pl_module, batch)
        self._watch.end_batch()

    def _end_look(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        if self._look and self._arrivals.on:
            self._arrivals.end()
            order = self._arrivals.order
            self._order |= {
                self._parameters[key].name: place for key, place in order.items() if key in self._parameters
            }
            local, size = self._arrivals.local_norm(), insides.batch_size(trainer, batch)
            if local is not None and size is not None:
                slot = self._deferred.put(local)
                self._local.append((self._watch.batch, slot, size))
        if self._look and not self._values:
            self._see_values(pl_module)
        accumulates = insides.accumulation(trainer, 0)[1] > 1  # then the step to be looked at is still to come
        self._watch.settle()
        if self._watch.looked or (self._look and not accumulates):
            self._collect(trainer, pl_module)

    def _collect(self, trainer: Trainer, pl_module: LightningModule, *, keep: bool = False) -> None:
        """Bring home what waits, in one transfer, and take it up; ``keep``: in the middle of a step, which waits on."""
        steps, self._watch.steps = self._watch.steps, []
        for step in steps:
            if step.loss is None:
                self._watch.blind.setdefault(f"{step.name}: the loss, so exploding-gradient is not judged")
        waits = self._deferred.size > 0
        numbers = self._deferred.fetch(keep=keep) if waits else None
        if numbers is not None:
            values = {name: numbers[slot][0] for name, slot in self._values.items()}
            optimized = {self._parameters[key].name for key in self._optimized() if key in self._parameters}
            before = self._batches - insides.process_count(trainer)  # this batch is the first of those it rests on
            self._missing.see({name: norm for name, norm in values.items() if name in optimized})
            vain = {name: norm for name, norm in values.items() if name not in optimized}
            self._unoptimized.see(vain, step=self._step, batches=before, optimized=optimized)
            self._shared += [(index, numbers[slot][0] ** 2, size) for index, slot, size in self._local]
        self._values, self._local = {}, []
        collected = collect(steps, numbers, self._parameters, shares=self._shares) if numbers is not None else []
        collected = [replace(one, drawn=self._drawn) for one in collected]
        collected = [self._doubted(step, one) for step, one in zip(steps, collected, strict=True)]
        self._expect()
        if self._watch.sharded:
            self._waiting += [one.trimmed() for one in collected]
        else:
            self._take_up(trainer, collected)
        if self._batches - self._judged_at >= _UNFINISHED * self._watch.processes and not self._watch.sharded:
            self._judge_parameters(trainer, self._step)
        self._note_blindness(trainer)

    def _doubted(self, step: OptimizerStep, one: Collected) -> Collected:
        """A step whose norm after clipping is left out if it turns out to be something else."""
        factor, taken = one.taken.factor, one.taken
        if factor is None:
            return one
        if step.doubted and abs(factor - 1) > _SAME:  # changed without a trace: measured twice from here on
            self._watch.distrusted.add(step.name)
            if step.name in self._histories:
                text = f"the norm after clipping before step {step.step}, as gradients are written into by .data"
                self._watch.blind.setdefault(f"{step.name}: {text}")
        elif self._watch.automatic and not self._watch.sharded:  # read when the optimizer's step was over
            expected = 1.0
            if self._clip_norm is not None:
                expected = min(1.0, self._clip_norm / (taken.norm + 1e-6))
            unlike = abs(factor / expected - 1) > _ALIKE if self._clip_norm is not None else factor > 1 + _SAME
            if unlike:
                self._watch.blind.setdefault(
                    f"{step.name}: the norm after clipping, as its step writes into the gradients"
                )
                return replace(one, taken=replace(taken, after=None))
        return one

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._undrawn is not None:  # the curves end where the run does
            self._draw(trainer, *self._undrawn)
        self._watch.stop()

    @override
    def epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._hidden:
            return
        self._arrivals.end()
        self._watch.settle()
        if self._watch.waits:  # an epoch that was cut short does not end with a look
            self._collect(trainer, pl_module)
        self._expect()
        if not self._watch.sharded:
            self._judge_parameters(trainer, insides.epoch_end_step(trainer))
        step = insides.epoch_end_step(trainer)
        if trainer.is_global_zero and trainer.loggers and self._filters.take(step):
            found = first_convolution(pl_module)
            drawn = filters(found[1]) if found is not None else None
            if found is not None and drawn is not None:
                self.draw(trainer, Filters(found[0], drawn), step=step)

    # Where the ranks meet.

    @override
    def share(self) -> Any:
        mine = {"steps": self._waiting, "local": self._shared}
        self._waiting, self._shared = [], []
        return mine

    @override
    def take_in(self, trainer: Trainer, pl_module: LightningModule, shared: list[Any]) -> None:
        if self._hidden:
            return
        if self._watch.sharded and len(shared) < self._watch.processes:  # a part of every parameter is missing
            self._watch.blind.setdefault("any gradient, as this diagnostic is switched off on another rank")
            self._note_blindness(trainer)
        elif self._watch.sharded:
            together = [each for each in zip(*(one["steps"] for one in shared), strict=False) if _is_one(each)]
            self._take_up(trainer, [first.summed(others) for first, *others in together])
            self._judge_parameters(trainer, insides.epoch_end_step(trainer))
        self._take_noise(shared)

    def _take_noise(self, shared: Sequence[Any]) -> None:
        """Take up what the ranks' own gradients tell of the noise, where all had as many samples."""
        ranks = [{index: (square, size) for index, square, size in one["local"]} for one in shared]
        for index, (name, big) in self._whole.items():
            together = [rank[index] for rank in ranks if index in rank]
            sizes = {size for _, size in together}
            if len(together) < self._watch.processes or len(together) < 2 or len(sizes) > 1:
                continue
            small = sum(square for square, _ in together) / len(together)
            if name in self._histories and math.isfinite(small) and math.isfinite(big):
                size = sizes.pop()
                self._histories[name].take_noise(small, big, small=size, big=size * len(together))
        self._whole = {}

    # What is known.

    def _know(self, pl_module: LightningModule) -> None:
        self._parameters = parameters_of(pl_module)
        self._watch.know(frozenset(self._parameters))

    def _optimized(self) -> set[int]:
        return {id(p) for optimizer in self._watch.known() for group in optimizer.param_groups for p in group["params"]}

    def _expect(self) -> None:
        """Note which parameters are in an optimizer and wait for a gradient."""
        wanted: dict[str, str] = {}
        for optimizer in self._watch.known():
            name = self._watch.names[id(optimizer)]
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    known = self._parameters.get(id(parameter))
                    if known is not None and parameter.requires_grad:
                        wanted[known.name] = name
        self._missing.expect(wanted, step=self._step, batches=self._batches, steps=self._steps())

    def _steps(self) -> dict[str, int]:
        return {name: history.steps for name, history in self._histories.items()}

    def _see_values(self, pl_module: LightningModule) -> None:
        """Note the values of parameters that no optimizer has but that have a gradient, and of those that wait for one.

        What moves all the same is moved by the program.
        """
        if not self._watch.known():
            return
        optimized, waiting = self._optimized(), self._missing.waiting
        if self._parameters.keys() <= optimized and not waiting:
            return
        values: dict[str, Tensor] = {}
        for parameter in pl_module.parameters():
            known = self._parameters.get(id(parameter))
            if known is None or not parameter.requires_grad:
                continue
            wanted = known.name in waiting if id(parameter) in optimized else parameter.grad is not None
            numbers = numbers_of(parameter) if wanted else None
            if numbers is not None:
                values[known.name] = numbers.detach()
        if values:
            self._values = norms_by_key(self._deferred, values)

    # Taking up.

    def _take_up(self, trainer: Trainer, collected: Sequence[Collected]) -> None:
        """Take up steps in their order, judge them, and draw those that were looked at."""
        looked: list[tuple[Collected, OptimizerGradients]] = []
        for one in collected:
            if looked and looked[0][0].taken.step != one.taken.step:
                self._end_of_look(trainer, looked)
                looked = []
            measured = self._take_one(trainer, one)
            if measured is not None:
                looked.append((one, measured))
        if looked:
            self._end_of_look(trainer, looked)

    def _take_one(self, trainer: Trainer, one: Collected) -> OptimizerGradients | None:
        """Take up a step; what is to be drawn of it, if it was looked at."""
        taken = one.taken
        self._missing.receive(taken.named)
        history = self._histories.get(taken.name)
        self._judge_finite(trainer, taken, history.last_finite if history is not None else None)
        if history is None and len(self._histories) >= _OPTIMIZERS:
            self._watch.blind[f"optimizers beyond the first {_OPTIMIZERS}, but for gradients that are not finite"] = (
                None
            )
            return None
        history = self._histories.setdefault(taken.name, self._new_history(taken.name))
        history.take(taken)
        if one.looks is None or taken.skipped:
            return None
        if self._averaged and taken.before is not None:
            self._whole[taken.batch] = (taken.name, taken.norm**2)
        depth = self._depths.setdefault(taken.name, self._new_depth(taken.name))
        depth.take(taken.step, taken.each, one.looks, self._from_afar())
        measured = self._measured(history, one)
        if one.drawn:
            history.drawn()
        return measured

    def _end_of_look(self, trainer: Trainer, looked: list[tuple[Collected, OptimizerGradients]]) -> None:
        one, step = looked[0][0], looked[0][0].taken.step
        self._judge(trainer, step)
        self._undrawn = None if one.drawn else (looked, step)
        if one.drawn:
            self._draw(trainer, looked, step)

    def _new_history(self, name: str) -> History:
        limits = self._limits
        past = {"past": limits.exploding_past, "surge_past": limits.exploding_surge_past}
        return History(name, self.window, limits.exploding_factor, surge=limits.exploding_surge, **past)

    def _new_depth(self, name: str) -> DepthHistory:
        looks = self._limits.vanishing_looks
        return DepthHistory(name, looks, max(1, self._limits.vanishing_steps // looks))

    def _from_afar(self) -> list[Parameter]:
        """The parameters, furthest from the loss first: gradients arrive there last."""
        known = list(self._parameters.values())
        if not self._order:
            return known
        return sorted(known, key=lambda parameter: -self._order.get(parameter.name, -1))

    # Verdicts.

    def _judge_finite(self, trainer: Trainer, taken: Taken, before: int | None) -> None:
        """Report the first step that an optimizer made with a gradient that is not finite."""
        given = taken.after if taken.after is not None else taken.before
        code = room.nonfinite_gradient.code
        known = [f for f in self.findings if f.code == code and f.evidence["optimizer"] == taken.name]
        known = [finding for finding in known if finding.status == "open"]
        if given is None or taken.skipped or not taken.stepped:
            return
        if math.isfinite(given):
            for finding in known:
                self._close_if_quiet(finding, found=False, step=taken.step, after=_FINITE)
            return
        if known:
            for finding in known:
                self._close_if_quiet(finding, found=True, step=taken.step)
                self.still(finding, step=taken.step)
            return
        broken = [name for name, square in taken.each.items() if not math.isfinite(square)]
        place = {parameter.name: index for index, parameter in enumerate(self._from_afar())}
        where = max(broken, key=lambda name: place.get(name, -1), default=None)
        clipping = taken.before is not None and math.isfinite(taken.before)
        measured = NonFinite(taken.name, taken.step, where, len(broken), len(taken.each), taken.loss, before, clipping)
        self.judge(trainer, room.nonfinite_gradient, measured, step=taken.step)

    def _judge(self, trainer: Trainer, step: int) -> None:
        """Put what the steps add up to before the rules, and take back what no longer holds."""
        found = set[tuple[str, str]]()
        asked = (*_NOTES, room.vanishing_gradient, room.exploding_gradient)
        for name, history in self._histories.items():
            if history.last is None:
                continue
            measured = history.measured()
            for rule in _NOTES:
                self._ask(trainer, rule, measured, step, found)
            self._ask(trainer, room.exploding_gradient, history.excursions(), step, found)
            depth = self._depths[name].measured() if name in self._depths else None
            if depth is not None:
                self._ask(trainer, room.vanishing_gradient, depth, step, found)
        self._take_back(asked, found, step)

    def _judge_parameters(self, trainer: Trainer, step: int) -> None:
        self._judged_at = self._batches
        found = set[tuple[str, str]]()
        named = {parameter.name: parameter for parameter in self._parameters.values()}
        steps = self._steps()
        groups: tuple[tuple[Rule, list[Untrained]], ...] = (
            (room.missing_gradient, self._missing.measured(named, batches=self._batches, steps=steps)),
            (room.parameter_not_optimized, self._unoptimized.measured(named, batches=self._batches)),
        )
        self._early = {}
        for rule, measured in groups:
            for each in measured:
                verdict = self._ask(trainer, rule, each, step, found)
                if isinstance(verdict, TooEarly):
                    self._early[f"{rule.name} of {each.where}"] = verdict
        for finding in self.findings:  # at once: what has a gradient now is not missing one
            if (
                finding.status == "open"
                and finding.code in {r.code for r in _OF_PARAMETERS}
                and finding.key not in found
            ):
                self.close(finding, step=step)

    def _ask(
        self, trainer: Trainer, rule: Rule, measured: Any, step: int, found: set[tuple[str, str]]
    ) -> Finding | TooEarly | None:
        verdict = self.judge(trainer, rule, measured, step=step)
        if isinstance(verdict, Finding):
            found.add(verdict.key)
        return verdict

    def _take_back(self, rules: Sequence[Rule], found: set[tuple[str, str]], step: int) -> None:
        codes = {rule.code for rule in rules}
        for finding in self.findings:
            if finding.status == "open" and finding.code in codes:
                self._close_if_quiet(finding, found=finding.key in found, step=step)

    def _close_if_quiet(self, finding: Finding, *, found: bool, step: int, after: int = _CLOSES_AFTER) -> None:
        quiet = 0 if found else self._quiet.get(finding.key, 0) + 1
        self._quiet[finding.key] = quiet
        if quiet >= after:
            self.close(finding, step=step)

    def _note_blindness(self, trainer: Trainer) -> None:
        """Say, as a note, what cannot be measured, when that is first known and when there is more of it."""
        text = "; ".join(self._watch.blind)
        if text == self._blind:
            return
        self._blind = text
        remedy = "nothing, where these numbers are not needed; see the page of this note."
        self.note_blind(trainer, f"not measured: {text}.", remedy)

    # Drawing.

    def _wants_pictures(self, trainer: Trainer) -> bool:
        drawn = self.histograms and self._drawn and bool(trainer.loggers) and trainer.is_global_zero
        return drawn and not self._watch.sharded and self._pictures.take(self._step)

    def _pictured(self) -> list[int]:
        """The largest parameter of each layer whose histograms are drawn."""
        largest: dict[str, tuple[int, int]] = {}
        for key, parameter in self._parameters.items():
            if parameter.trains and (
                parameter.layer not in largest or parameter.elements > largest[parameter.layer][0]
            ):
                largest[parameter.layer] = (parameter.elements, key)
        layers = list(largest)
        chosen = min(_PICTURED, self.max_layers)
        if len(layers) > chosen:
            layers = [layers[index * len(layers) // chosen] for index in range(chosen)]
        return [largest[layer][1] for layer in layers]

    def _measured(self, history: History, one: Collected) -> OptimizerGradients:
        """What is drawn of a step that was looked at; others may come before it is."""
        elements = {parameter.name: parameter.elements for parameter in self._parameters.values()}
        looks = one.looks or {}
        of = sum(elements.get(name, 0) for name in looks)
        share = sum(look.zeros for look in looks.values()) / of if of else None
        return history.measured(zero_share=share, rate=one.rate)

    def _draw(self, trainer: Trainer, collected: Sequence[tuple[Collected, OptimizerGradients]], step: int) -> None:
        if not (trainer.is_global_zero and trainer.loggers):
            return
        drawn: list[OptimizerGradients | LayerGradients] = []
        each: dict[str, float] = {}
        looks: dict[str, ParameterLook] = {}
        for one, measured in collected:
            drawn.append(measured)
            each |= one.taken.each
            looks |= one.looks or {}
        layers = [
            measured
            for layer, parameters in by_layer(self._parameters).items()
            if (measured := _layer(layer, parameters, each, looks)) is not None
        ]
        ill = {finding.where for finding in self.findings if finding.status == "open" and finding.where is not None}
        chosen = self._budget.choose({layer.layer: 0.0 for layer in layers}, ill)
        drawn += [layer for layer in layers if layer.layer in set(chosen)]
        self.draw(trainer, *drawn, step=step)
        self.lay_out("gradients", *drawn)

    # Resuming.

    @override
    def room_state(self) -> dict[str, Any]:
        trainer = self._run.trainer if self._run is not None else None
        if trainer is not None and self._watch.steps and not self._watch.sharded:  # what came since the last look
            self._collect(trainer, trainer.lightning_module, keep=True)
        return {
            "histories": {name: history.state() for name, history in self._histories.items()},
            "depths": {name: depth.state() for name, depth in self._depths.items()},
            "missing": self._missing.state(),
            "unoptimized": self._unoptimized.state(),
            "batches": self._batches,
            "quiet": [[*key, count] for key, count in self._quiet.items()],
        }

    @override
    def load_room_state(self, state: Mapping[str, Any]) -> None:
        for name, saved in state["histories"].items():
            self._histories[name] = self._new_history(name)
            self._histories[name].load(saved)
        for name, saved in state["depths"].items():
            self._depths[name] = self._new_depth(name)
            self._depths[name].load(saved)
        self._missing.load(state["missing"])
        self._unoptimized.load(state["unoptimized"])
        self._batches = self._judged_at = state["batches"]
        self._quiet = {(code, where): count for code, where, count in state["quiet"]}


def _parameters_in(optimizer: Optimizer) -> list[Any]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _is_one(steps: Sequence[Collected]) -> bool:
    """Whether these are the parts of one step."""
    return len({(one.taken.batch, one.taken.name) for one in steps}) == 1


def _layer(
    layer: str, parameters: Sequence[Parameter], each: Mapping[str, float], looks: Mapping[str, ParameterLook]
) -> LayerGradients | None:
    """What is drawn of a layer; None if none of its parameters had a gradient."""
    own = [parameter for parameter in parameters if parameter.name in each]
    if not own:
        return None
    read = [(parameter, looks[parameter.name]) for parameter in own if parameter.name in looks]
    elements = sum(parameter.elements for parameter, _ in read)
    moved = [(parameter, look) for parameter, look in read if parameter.matrix and update_ratio(look) is not None]
    before = sum(look.weight or 0.0 for _, look in moved)
    change = sum(look.update or 0.0 for _, look in moved)
    ulps = [parameter.half_ulp for parameter, _ in moved if parameter.half_ulp is not None]
    shown = looks.get(max(own, key=lambda parameter: parameter.elements).name)
    return LayerGradients(
        layer,
        norm=math.sqrt(sum(each[parameter.name] for parameter in own)),
        zero_share=sum(look.zeros for _, look in read) / elements if elements else None,
        update_ratio=math.sqrt(change / before) if moved else None,
        half_ulp=max(ulps, default=None),
        gradients=picture(shown.gradients if shown is not None else None),
        weights=picture(shown.weights if shown is not None else None),
    )
