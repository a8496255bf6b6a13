"""`ActivationMonitor`: dead, dying and saturated units, the scale of activations by depth, and the first NaN."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isnan
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from lightning_diagnostics.callback import At, DiagnosticCallback, OnFinding, is_look, one_of, whole_number
from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.budget import Budget, Pace
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.diagnostics.activations import rules as room
from lightning_diagnostics.diagnostics.activations.looking import Looking
from lightning_diagnostics.diagnostics.activations.measure import (
    Layer,
    LayerActivations,
    LayerReading,
    Look,
    NonFinite,
    Overview,
)
from lightning_diagnostics.diagnostics.activations.nonfinite import Origin, broken_weights
from lightning_diagnostics.diagnostics.activations.window import RECENT, Window
from lightning_diagnostics.findings import Finding, Rule, TooEarly

Compiled = Literal["skip", "eager"]

_DRAWN_AT_FIRST, _HISTOGRAMS_AT_FIRST = 40, 8  # looks that are drawn before the cadence sets the pace
_HISTOGRAM_STEPS = 50  # a histogram takes 1 kB in the event file
_KEPT_APART = 16  # looks of a rank that wait for the others; of more, two and two are put together
_EMPTY = 3  # looks that saw nothing, before that is said (a step may return None before its forward pass)
_CLOSES_AFTER = 3  # verdicts in a row that find nothing
_OF_LAYERS = (room.dead_units, room.dying_units, room.saturated_units, room.dead_at_init)
_OF_DEPTH = (room.exploding_activations, room.vanishing_activations)


class ActivationMonitor(DiagnosticCallback):
    """Watches the activations of training batches: dead, dying and saturated units, their scale by depth, NaN and Inf.

    It sees activation modules and functional calls alike (``nn.ReLU``, ``F.relu``, ``x.relu_()``, ``clamp(min=0)``,
    GELU, SiLU, tanh, ... ). A layer is the path of the module (``block1.act``) or of the module that makes the call, a
    slash and the function (``block1/relu``); calls at other lines, and after other layers, are layers of their own
    (``block1/relu.2``). A unit is a feature, or a channel at all of its positions. It is dead if it was off on every
    training sample of the window, which spans as many looks (and epochs) as it takes to tell a dead unit from a rare
    one; on several ranks it is dead if it is so on all of them.

    Looks are the first batch and the last of every epoch, at least eight spread over it, and one every
    ``every_n_train_steps``. Between looks nothing is done at all: no hook, no function mode. At a look two hooks of the
    process and a function mode see the calls of the forward pass, the arithmetic is done on the device, and one
    transfer brings its results (a few numbers a unit, and the loss) to the host; in manual optimisation each backward
    pass of the step is one more, for its loss. No output is
    kept; small ones are copied, up to 4 MB. With several processes the numbers are those of all of them, so they are
    drawn and judged where the ranks meet: at the end of an epoch and after a validation.

    What is drawn, under ``activations/<quantity>/<layer>``: dead share, zeros, mean, standard deviation, extremes,
    signal, saturated share, drift between epochs, and a histogram with 64 buckets; in TensorBoard also as charts on the
    Custom Scalars page. The first forty looks (eight of the histograms) are drawn, and then one every
    ``every_n_train_steps`` on average.

    Findings: ``dead-units`` (ACT101), ``dying-units`` (ACT102), ``saturated-units`` (ACT103), ``exploding-activations``
    (ACT104), ``vanishing-activations`` (ACT105), ``nonfinite-activation`` (ACT106); notes ``dead-at-init`` (ACT801),
    ``unwatched-activations`` (ACT901).

    Args:
        every_n_train_steps: A batch is looked at at least this often, counted within the epoch.
        include: Patterns of layer names, as in a shell (``"encoder*"``); only layers that match one are watched. All
            if None.
        exclude: Patterns of layer names that are not watched.
        max_layers: Layers that are drawn at the most: the worst, and others spread over the depth. All are judged.
        histograms: Whether to draw histograms.
        compiled: ``"skip"`` leaves compiled modules alone and says so; ``"eager"`` runs the steps that are looked at
            without compiled code, whose numerics may differ in the last bits.
        on_finding: What to do about a finding: ``"report"`` it, ``"stop"`` training after the batch, or ``"raise"`` a
            ``FindingError``. With several processes the ranks agree on it at the end of the epoch or of a validation.
        at: The severity from which ``"stop"`` and ``"raise"`` act: ``"warning"`` or ``"error"``.
        limits: Limits to override, by name, e.g. ``{"dead-units.share": 0.7}``.
        strict: Raise our own faults instead of switching off (for tests).

    Raises:
        ValueError: if a word or a limit is not known, or a value is not allowed.
        TypeError: if a value is of the wrong kind.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_diagnostics import ActivationMonitor
        >>> trainer = Trainer(callbacks=[ActivationMonitor()], logger=False, enable_checkpointing=False)
    """

    rules = room.RULES[:-1]
    blind_rule = room.unwatched_activations
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
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        max_layers: int = 30,
        histograms: bool = True,
        compiled: Compiled = "skip",
        on_finding: OnFinding = "report",
        at: At = "warning",
        limits: dict[str, float] | None = None,
        strict: bool = False,
    ) -> None:
        # Validate the arguments.
        whole_number("every_n_train_steps", every_n_train_steps, low=1)
        whole_number("max_layers", max_layers, low=1)
        one_of("compiled", compiled, get_args(Compiled))
        if compiled == "eager" and not hasattr(torch.compiler, "set_stance"):
            raise ValueError(f"compiled={compiled!r}: with torch {torch.__version__} allowed is 'skip' (needs 2.6)")
        if not isinstance(histograms, bool):
            raise TypeError(f"histograms={histograms!r}: allowed are True and False")
        self.include = _patterns("include", include)
        self.exclude = _patterns("exclude", exclude)
        super().__init__(on_finding=on_finding, at=at, limits=limits, strict=strict)

        # Set up a monitor that has seen nothing.
        self.every_n_train_steps = every_n_train_steps
        self.max_layers = max_layers
        self.histograms = histograms
        self.compiled: Compiled = compiled
        self.forget()
        self._reset()

    def _reset(self) -> None:
        """Forget everything about the steps of this process."""
        eager = self.compiled == "eager"
        self._looking = Looking(include=self.include, exclude=self.exclude, eager=eager, names=self._names)
        self._draws = Pace(first=_DRAWN_AT_FIRST, every=self.every_n_train_steps)
        self._histogram_draws = Pace(first=_HISTOGRAMS_AT_FIRST, every=max(_HISTOGRAM_STEPS, self.every_n_train_steps))
        self._budget = Budget(self.max_layers)
        self._step = 0
        self._drawn = self._first_of_epoch = False
        self._waiting: list[tuple[Look, bool]] = []  # looks that other ranks have not met yet, and which begin an epoch
        self._layers: dict[str, Layer] = {}
        self._finite_at: int | None = None  # the last look at which all was finite
        self._blind = ""
        self._blind_note: Finding | None = None
        self._empty_looks = 0
        self._last: Look | None = None
        self._read: set[str] = set()  # layers, since the last verdict
        self._undrawn: Look | None = None  # the last look, if it was not drawn

    @property
    @override
    def state_key(self) -> str:
        """Several monitors of one Trainer, for different layers, are told apart by their patterns."""
        patterns = {"include": self.include, "exclude": self.exclude}
        return self._generate_state_key(**patterns) if any(patterns.values()) else super().state_key

    # The life of a run.

    @override
    def forget(self) -> None:
        self._names: dict[str, str] = {}
        known = self._limits
        self._window = Window(activity=known.activity, alpha=known.alpha, saturated=known.saturated_share)
        self._looks = 0
        self._module: int | None = None
        self._quiet: dict[tuple[str, str], int] = {}  # verdicts in a row that did not repeat an open finding
        self._early: dict[str, TooEarly] = {}
        self._places: dict[str, str] = {}  # where a stretch of layers was first reported

    @override
    def attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._module not in (None, id(pl_module)):  # the same Trainer fits another model
            for finding in self.findings:
                if finding.status == "open":
                    self.close(finding, step=insides.log_step(trainer))
            self.forget()
        self._module = id(pl_module)
        self._reset()

    @override
    def detach(self) -> None:
        self._looking.cancel()
        self._waiting = []
        self._last = self._undrawn = None

    @override
    def watching(self, trainer: Trainer, pl_module: LightningModule) -> str:
        return self._looking.prepare(pl_module)

    @override
    def undecided(self) -> list[str]:
        if not self._early:
            return []
        name, verdict = min(self._early.items(), key=lambda item: item[1].have / item[1].need)
        more = f" (and {len(self._early) - 1} more layers)" if len(self._early) > 1 else ""
        return [f"units of {name}{more}: {verdict.have} of the {verdict.need} {verdict.unit} that a verdict needs"]

    # A step.

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._looking.cancel()
        length = insides.batches_per_epoch(trainer)
        if not is_look(batch_idx, batches=length, every=self.every_n_train_steps):
            return
        self._step = insides.log_step(trainer)
        self._first_of_epoch = batch_idx == 0
        self._drawn = self._draws.take(self._step)
        histogram = self._drawn and self._histogram_draws.take(self._step)
        histograms = self.histograms and bool(trainer.loggers) and (histogram or self._first_of_epoch)
        self._looking.begin(trainer, pl_module, batch, first=self._first_of_epoch, histograms=histograms)
        if not self._looking.on:  # all of the model is compiled
            self._note_blindness(trainer, Look(self._step, False, {}))

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if not self._looking.on:
            return
        if pl_module.automatic_optimization:
            self._end_look(trainer, pl_module, loss)
        else:  # there may be more to come in this step
            self._looking.see_loss(pl_module, loss, scaled=trainer.scaler is not None)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._looking.on:
            self._end_look(trainer, pl_module)

    def _end_look(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor | None = None) -> None:
        scaled = trainer.scaler is not None
        look, layers, origin = self._looking.end(pl_module, loss, step=self._step, drawn=self._drawn, scaled=scaled)
        self._note_blindness(trainer, look)
        self._judge_finite(trainer, pl_module, look, layers, origin)
        self._layers |= layers
        self._waiting.append((look, self._first_of_epoch))
        if insides.process_count(trainer) == 1:
            self._take_up(trainer, [(self._layers, self._waiting)])
            self._waiting = []
        elif len(self._waiting) > _KEPT_APART:
            self._waiting = _in_pairs(self._waiting, self._layers)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._undrawn is not None:  # the curves end where the run does
            self._draw(trainer, self._undrawn)

    # Where the ranks meet.

    @override
    def share(self) -> Any:
        mine, self._waiting = (dict(self._layers), self._waiting), []
        return mine

    @override
    def take_in(self, trainer: Trainer, pl_module: LightningModule, shared: list[Any]) -> None:
        self._take_up(trainer, shared)
        self._judge(trainer)

    @override
    def epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._looking.cancel()
        if insides.process_count(trainer) == 1:
            self._judge(trainer)

    def _take_up(
        self, trainer: Trainer, shared: Sequence[tuple[Mapping[str, Layer], Sequence[tuple[Look, bool]]]]
    ) -> None:
        """Take up looks, those of all ranks at one step together."""
        for layers, _ in shared:
            self._window.know(layers)
        for together in zip(*(looks for _, looks in shared), strict=False):
            look, first = _merged([self._fitting(look) for look, _ in together], self._window.layers), together[0][1]
            self._window.update(look)
            if first:
                self._window.begin_epoch(look)
            self._looks += 1
            self._read |= look.readings.keys()
            self._last = look
            if self._looks % RECENT == 0:
                self._judge(trainer)
            if look.drawn:
                self._draw(trainer, look)
            self._undrawn = None if look.drawn else look

    def _fitting(self, look: Look) -> Look:
        """A look without layers that have another number of units than before, or on another rank."""
        layers = self._window.layers
        other = {name for name, reading in look.readings.items() if len(reading.count) != layers[name].units}
        if not other:
            return look
        self._looking.varying |= other
        return replace(look, readings={n: reading for n, reading in look.readings.items() if n not in other})

    # Verdicts.

    def _judge(self, trainer: Trainer) -> None:
        """Put every layer before its rules, and take back what no longer holds."""
        if self._last is None:
            return
        step, found = self._last.step, set[tuple[str, str]]()
        seen, self._read = self._read, set()  # what was not read since the last verdict is left as it is
        self._window.remember(sorted(seen))
        self._early = {}
        for name in sorted(seen):
            measured = self._window.layer(name)
            for rule in _OF_LAYERS:
                self._ask(trainer, rule, measured, step, found)
        for depth in self._window.depths(seen):
            for rule in _OF_DEPTH:
                place = f"{rule.code} {depth.layers[0]}"
                known = replace(depth, reported_at=self._places.get(place))
                finding = self._ask(trainer, rule, known, step, found)
                if finding is not None and finding.where is not None:
                    self._places[place] = finding.where
        for finding in self._judged():
            if finding.where not in seen:
                continue
            self._close_if_quiet(finding, found=finding.key in found, step=step)

    def _close_if_quiet(self, finding: Finding, *, found: bool, step: int) -> None:
        quiet = 0 if found else self._quiet.get(finding.key, 0) + 1
        self._quiet[finding.key] = quiet
        if quiet >= _CLOSES_AFTER:
            self.close(finding, step=step)

    def _ask(
        self, trainer: Trainer, rule: Rule, measured: Any, step: int, found: set[tuple[str, str]]
    ) -> Finding | None:
        verdict = self.judge(trainer, rule, measured, step=step)
        if isinstance(verdict, Finding):
            found.add(verdict.key)
        elif isinstance(verdict, TooEarly) and isinstance(measured, LayerActivations):
            self._early[measured.layer] = verdict
        return verdict if isinstance(verdict, Finding) else None

    def _judged(self) -> list[Finding]:
        """The open findings that verdicts on units and depth may take back."""
        own = {rule.code for rule in (*_OF_LAYERS, *_OF_DEPTH)}
        return [finding for finding in self.findings if finding.status == "open" and finding.code in own]

    def _judge_finite(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        look: Look,
        layers: Mapping[str, Layer],
        origin: Origin | None,
    ) -> None:
        """Report the first output that is not finite, from the graph of the loss or else from what was read.

        What comes after it (weights that are NaN by now) is no finding of its own.
        """
        known = [f for f in self.findings if f.code == room.nonfinite_activation.code and f.status == "open"]
        if origin is None:
            broken = [name for name, reading in look.readings.items() if not reading.finite]
            on_purpose = self._looking.announced and any(layers[name].trains for name in broken)  # no harm to the loss
            if not broken or on_purpose:
                self._finite_at = look.step if not broken else self._finite_at
                for finding in known if not broken else ():
                    self._close_if_quiet(finding, found=False, step=look.step)
                return
            where = min(broken, key=lambda name: layers[name].order)
            reading = look.readings[where]
            what = "NaN" if isnan(reading.low) or isnan(reading.high) else "Inf"
            origin = broken_weights(pl_module) or Origin(where, True, what)
        if known:
            for finding in known:
                self._close_if_quiet(finding, found=True, step=look.step)
                self.still(finding, step=look.step)
            return
        self.judge(
            trainer,
            room.nonfinite_activation,
            NonFinite(**vars(origin), step=look.step, before=self._finite_at),
            step=look.step,
        )

    def _note_blindness(self, trainer: Trainer, look: Look) -> None:
        """Say, as a note, what cannot be seen, when that is first known and when there is more of it."""
        blind = self._looking.blind
        self._empty_looks = 0 if look.readings or self._window.seen else self._empty_looks + 1
        if self._empty_looks >= _EMPTY and not blind:
            blind = ["these steps: no activation was called, or none that include and exclude leave"]
        text = "; ".join(blind)
        if text == self._blind:
            return
        self._blind = text
        if text:
            remedy = 'compiled models: compiled="eager"; else nothing, where these parts are known to be well.'
            self._blind_note = self.note_blind(trainer, f"blind in {text}.", remedy)
        elif self._blind_note is not None:
            self.close(self._blind_note, step=look.step)

    # Drawing.

    def _draw(self, trainer: Trainer, look: Look) -> None:
        if not (trainer.is_global_zero and trainer.loggers):
            return
        layers = [self._window.layer(name, reading) for name, reading in look.readings.items()]
        ill = {finding.where for finding in self._judged() if finding.where is not None}
        chosen = set(self._budget.choose({layer.layer: _badness(layer) for layer in layers}, ill))
        shares = [layer.dead_share for layer in layers if layer.dead_share is not None]
        overview = Overview(len(layers), len(layers) - len(chosen), max(shares, default=None))
        drawn = [layer for layer in layers if layer.layer in chosen]
        self.draw(trainer, overview, *drawn, step=look.step)
        if any(layer.histogram is not None for layer in drawn) or not self.histograms:
            self.lay_out("activations", overview, *drawn)

    # Asking and resuming.

    def units(self, layer: str) -> dict[str, list[int | None]]:
        """When the units of a layer died and came back.

        Args:
            layer: Its name, as in the charts and findings.

        Returns:
            ``"onset"``: of every unit the step of its first silent look, None if it is not dead now; ``"revival"``: the
            step at which it last came back to life, None if it never did. Steps on the axis of ``self.log``.

        Raises:
            ValueError: if no such layer was seen.
        """
        if layer not in self._window.seen:
            known = ", ".join(map(repr, self._window.seen)) or "none yet"
            raise ValueError(f"layer={layer!r}: known are {known}")
        onset, revival = self._window.units(layer)
        return {"onset": onset, "revival": revival}

    @override
    def room_state(self) -> dict[str, Any]:
        return {
            "names": dict(self._names),
            "window": self._window.state(),
            "looks": self._looks,
            "places": dict(self._places),
            "quiet": [[*key, count] for key, count in self._quiet.items()],
        }

    @override
    def load_room_state(self, state: Mapping[str, Any]) -> None:
        self._names.update(state["names"])
        self._window.load(state["window"])
        self._looks = state["looks"]
        self._places = dict(state["places"])
        self._quiet = {(code, where): count for code, where, count in state["quiet"]}


def _patterns(name: str, value: Sequence[str] | None) -> tuple[str, ...]:
    """Patterns as a tuple; one string alone would be read letter by letter."""
    if value is None:
        return ()
    listed = isinstance(value, list | tuple)
    if not listed or not all(isinstance(each, str) and each for each in value):
        raise TypeError(f"{name}={value!r}: expected a list of patterns such as ['encoder*']")
    return tuple(value)


def _badness(layer: LayerActivations) -> float:
    return max(layer.dead_share or 0.0, layer.saturated_share or 0.0)


def _merged(looks: Sequence[Look], layers: Mapping[str, Layer]) -> Look:
    """The looks of several ranks at one step (or of one rank at several) as one."""
    merged: dict[str, LayerReading] = {}
    for look in looks:
        for name, reading in look.readings.items():
            signed = layers[name].family != "rectifier"
            merged[name] = merged[name].merge(reading, signed=signed) if name in merged else reading
    return Look(looks[0].step, any(look.drawn for look in looks), merged)


def _in_pairs(waiting: Sequence[tuple[Look, bool]], layers: Mapping[str, Layer]) -> list[tuple[Look, bool]]:
    """Half as many looks, two and two as one: which are put together depends on their number alone."""
    pairs = [waiting[index : index + 2] for index in range(0, len(waiting), 2)]
    return [(_merged([look for look, _ in pair], layers), any(first for _, first in pair)) for pair in pairs]
