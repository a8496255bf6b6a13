"""The base of every diagnostic: common arguments, the life of a run, and the promise that no fault of ours ends it."""

import contextlib
import functools
import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Literal, TypeVar, get_args

from typing_extensions import override

from lightning_diagnostics import tensorboard
from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.arguments import ConfigurationError, explained, one_of, wide
from lightning_diagnostics.callback.namespaces import Callback, LightningModule, Trainer, adopt
from lightning_diagnostics.callback.order import Place, restore_order
from lightning_diagnostics.callback.run import Run
from lightning_diagnostics.findings import (
    Diagnosis,
    Finding,
    FindingError,
    Rule,
    Selection,
    Severity,
    TooEarly,
    override_limits,
)

logger = logging.getLogger("lightning_diagnostics")

OnFinding = Literal["report", "stop", "raise"]
At = Literal["warning", "error"]
Result = TypeVar("Result")


def check_common(on_finding: object, at: object, strict: object) -> None:
    """Check the arguments that every diagnostic has.

    Raises:
        ValueError: if a word is not known.
        TypeError: if ``strict`` is neither True nor False.
    """
    one_of("on_finding", on_finding, get_args(OnFinding))
    one_of("at", at, get_args(At))
    if not isinstance(strict, bool):
        raise TypeError(f"strict={strict!r}: allowed are True and False")


class DiagnosticCallback(Callback):
    """Base of every diagnostic.

    A room subclasses it, names its ``rules``, ``blind_rule`` and ``default_limits``, implements `attach`, `detach` and
    `watching`, and adds the Lightning hooks that it needs. Every hook that a subclass defines is guarded: an exception
    in it is logged once with its traceback, the diagnostic switches itself off, and training goes on.

    Args:
        on_finding: What to do about a finding: ``"report"`` it, ``"stop"`` training after the batch, or ``"raise"`` a
            `FindingError`. With several processes the ranks agree on it at the end of the epoch or of a validation.
        at: The severity from which ``"stop"`` and ``"raise"`` act: ``"warning"`` or ``"error"``.
        limits: Limits to override, by name, e.g. ``{"retained-graph.steps": 8}``.
        strict: Raise our own faults instead of switching off (for tests).

    Raises:
        ValueError: if a word or a limit is not known, or a value is not allowed.
        TypeError: if a value is of the wrong kind.
    """

    rules: ClassVar[tuple[Rule, ...]]
    blind_rule: ClassVar[Rule]
    default_limits: ClassVar[Any]
    presets: ClassVar[Mapping[str, Mapping[str, Any] | None]] = {}
    """What the suite's presets set other than the defaults, by preset; None leaves the diagnostic out."""
    stages: ClassVar[frozenset[str]] = frozenset({"fit"})
    """Of the Trainer, that it takes part in: ``"fit"`` (validations too), ``"validate"``, ``"test"``, ``"predict"``."""
    goes_first: ClassVar[bool] = False
    """Whether its hooks come before those of all other callbacks during a run, wherever it is listed."""
    only_watching: ClassVar[Mapping[str, Any]] = {}
    """Arguments that the suite sets unless the user does: it acts on nothing then, and takes nothing for granted."""
    state_outlives_run: ClassVar[bool] = False  # whether `room_state` is still right after `detach`

    def __init__(
        self,
        *,
        on_finding: OnFinding = "report",
        at: At = "warning",
        limits: dict[str, float] | None = None,
        strict: bool = False,
    ) -> None:
        # Validate the arguments.
        check_common(on_finding, at, strict)
        adopt()

        # Set up a callback that belongs to no run yet.
        self.on_finding = on_finding
        self.at = at
        self.strict = strict
        self._limits = override_limits(self.default_limits, limits, rules=self.rules)
        self._selection = Selection()
        self._run: Run | None = None
        self._joined = False
        self._place = Place()
        self._off = False
        self._failed: set[str] = set()  # what failed and was said to
        self._room_at_end: dict[str, Any] | None = None  # what a checkpoint saved after the run holds
        self._made: set[tuple[str, str]] = set()  # findings of this process, not only carried into it
        self._acted: set[tuple[str, str]] = set()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = explained(cls.__init__)
            cls.__init__.__signature__ = wide(cls.__init__)  # pyright: ignore[reportFunctionMemberAccess]  # what inspect reads
        for name, hook in list(vars(cls).items()):
            if name.startswith("on_") and hasattr(Callback, name):
                setattr(cls, name, _guarded(hook))

    # What a room implements.

    def set_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run is set up: what the arguments lack may be refused here, by a `ConfigurationError`."""

    def attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training starts: take up what is needed for the run."""

    def wind_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run is over, however it ended, and everything is still there: take up what waits. No collectives."""

    def break_off(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The run ends by an exception; `wind_up` comes next. Its device may not answer any more."""

    def detach(self) -> None:
        """The run is over, however it ended: let go of everything. Called more than once."""

    def watching(self, trainer: Trainer, pl_module: LightningModule) -> str:
        """What is watched and what cannot be seen, for the line at the start."""
        raise NotImplementedError

    def forget(self) -> None:
        """Another run begins: forget what was kept for a resume of the last one."""

    def epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The training epoch ends, on every rank, before the module's own hook."""

    def evaluation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation (or sanity check), test or prediction begins, on every rank, before the module's own hook."""

    def evaluation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation (or sanity check), test or prediction has run, on every rank; its metrics are not logged yet."""

    def share(self) -> Any:
        """What this rank tells the others where all ranks meet (the end of an epoch, of a validation)."""
        return None

    def take_in(self, trainer: Trainer, pl_module: LightningModule, shared: list[Any]) -> None:
        """Take up what the ranks shared, in their order; ranks that are switched off or shared None are left out."""

    def undecided(self) -> list[str]:
        """What it was too early to say when the run ended."""
        return []

    def room_state(self) -> dict[str, Any]:
        """What the room needs after a resume: plain values and CPU tensors only."""
        return {}

    def load_room_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `room_state` wrote."""

    # What the suite uses.

    def restrict(self, selection: Selection) -> None:
        """Ask only the rules, and make only the findings, that are wanted."""
        self._selection = selection

    def tell(self, *, enabled_by: str, settings: Mapping[str, Any]) -> None:
        """Pass on to the run which way the suite was switched on, and with what."""
        if self._run is not None:
            self._always(self._run.tell, enabled_by, settings)

    @property
    def table(self) -> list[Finding] | None:
        """All findings of the run, those of other diagnostics too; None if there was no run."""
        return None if self._run is None else self._run.journal.findings

    # What a room uses.

    @property
    def findings(self) -> list[Finding]:
        """What this diagnostic has found, open before closed and worst first."""
        if self._run is None:
            return []
        own = {rule.code for rule in (*self.rules, self.blind_rule)}
        return [finding for finding in self._run.journal.findings if finding.code in own]

    def judge(self, trainer: Trainer, rule: Rule, measured: object, *, step: int) -> Finding | TooEarly | None:
        """Put a measurement before a rule, enter what it says, and act on it; None if it is healthy or not asked for.

        A preview is asked only if it was selected.
        """
        if not self._selection.asks(rule):
            return None
        verdict = rule.check(measured, self._limits)
        if not isinstance(verdict, Diagnosis):
            return verdict
        if not self._selection.wants(rule, verdict.where, verdict.severity):
            return None
        return self._enter(trainer, rule, verdict, step=step)

    def note_blind(self, trainer: Trainer, message: str, remedy: str, *, since: int | None = None) -> Finding | None:
        """Say, as a note, what cannot be seen here (from step ``since`` on, or from now); None if it is ignored."""
        step = insides.log_step(trainer)
        verdict = Diagnosis(Severity.INFO, None, step if since is None else since, message, remedy)
        if not self._selection.wants(self.blind_rule, None, Severity.INFO, always=True):
            return None
        return self._enter(trainer, self.blind_rule, verdict, step=step)

    def still(self, finding: Finding, *, step: int) -> None:
        """An open finding still holds; nothing is known here of one that another rank has made."""
        assert self._run is not None
        if self._run.is_own(finding):
            self._run.journal.seen(finding, step=step)

    def close(self, finding: Finding, *, step: int) -> None:
        """A finding no longer holds; one that another rank has made is taken back by that rank alone."""
        assert self._run is not None
        if self._run.is_own(finding):
            self._run.show(*self._run.journal.close(finding), step=step)

    def draw(self, trainer: Trainer, *measurements: object, step: int, late: bool = False) -> None:
        """Send the drawn fields of measurements to every logger.

        What is drawn late, when the run has logged all that it logs, does not go to loggers of a table: a column more
        makes them write their file anew, and another process that has been given the same file breaks that.
        """
        assert self._run is not None
        values: dict[str, tensorboard.Drawable] = {}
        for measurement in measurements:
            values |= tensorboard.drawn(measurement)
        self._run.draw(values, step=step, late=late)

    def draw_ahead(self, measurements: Mapping[int, Sequence[object]]) -> None:
        """Draw what is planned at later steps, by step; to TensorBoard only, since other loggers do not go back."""
        assert self._run is not None
        for step, each in measurements.items():
            values: dict[str, tensorboard.Drawable] = {}
            for measurement in each:
                values |= tensorboard.drawn(measurement)
            self._run.draw_ahead(values, step=step)

    def lay_out(self, category: str, *measurements: object) -> None:
        """Arrange the curves of measurements on TensorBoard's custom-scalars page, in charts that have any."""
        assert self._run is not None
        every = tensorboard.layout(*dict.fromkeys(map(type, measurements)))
        self._run.lay_out(category, every, filled=tensorboard.layout(*measurements))

    # The life of a run.

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage in self.stages:
            self._safely(self._join, trainer)
            if self.goes_first:
                self._always(self._place.leave, trainer, self)
            self._safely(self.set_up, trainer, pl_module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, pl_module)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_evaluation(trainer, pl_module)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_evaluation(trainer, pl_module)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_evaluation(trainer, pl_module)

    def _begin_evaluation(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._joined:
            return
        if trainer.state.fn != "fit":
            self._begin(trainer, pl_module)
        self._safely(self.evaluation_start, trainer, pl_module)

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What the run is for begins: take up what is needed, and say what is watched."""
        self._safely(self.attach, trainer, pl_module)
        if self._run is not None:
            text = self._safely(self.watching, trainer, pl_module) or f"{type(self).__name__}: switched off"
            self._always(self._run.announce, self.state_key, text, insides.log_step(trainer))
            self._always(self._run.is_whole, self.state_key)  # that it is not is said at the start

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._safely(self.epoch_end, trainer, pl_module)
        self._meet(trainer, pl_module)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_evaluation_epoch(trainer, pl_module)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_evaluation_epoch(trainer, pl_module)

    @override
    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_evaluation_epoch(trainer, pl_module)

    def _end_evaluation_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before metrics are logged, so that a finding can be raised before they are."""
        if not self._joined:
            return
        self._safely(self.evaluation_end, trainer, pl_module)
        if not trainer.sanity_checking or "validate" in self.stages:
            self._meet(trainer, pl_module)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._always(restore_order, trainer)
        self._finish(trainer, pl_module, "finished", step=insides.epoch_end_step(trainer))

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._always(restore_order, trainer)
        if self._joined:
            self._safely(self.break_off, trainer, pl_module, exception)
        ending = f"ended by {type(exception).__name__}"
        lost = insides.is_device_lost(exception)
        self._finish(trainer, None if lost else pl_module, ending, step=insides.log_step(trainer))

    @override
    def state_dict(self) -> dict[str, Any]:
        room = self._room_at_end if self._room_at_end is not None else self._safely(self.room_state) or {}
        return {"findings": [finding.to_dict() for finding in self.findings], "room": room}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._safely(self._load, state_dict)

    def _join(self, trainer: Trainer) -> None:
        """Take part in the run of this Trainer, which the first diagnostic to be set up makes."""
        self._off = False
        self._failed = set()
        self._room_at_end = None
        self._made, self._acted = set(), set()
        if self._run is None or not self._run.serves(trainer):
            if self._joined:  # nobody told us of that run's end: a callback before ours failed in its on_exception
                self._always(self.detach)
                self._joined = False
            peers = (c._run for c in trainer.callbacks if isinstance(c, DiagnosticCallback))  # pyright: ignore[reportAttributeAccessIssue]  # Lightning types callbacks by a mixin
            self._run = next((run for run in peers if run is not None and run.serves(trainer)), None) or Run(trainer)
            self.forget()
        if not self._joined:
            self._run.join(self.state_key, self._terms())
            self._joined = True

    def _terms(self) -> str:
        """A digest of the arguments: by it the processes of a run know whether they were told the same."""
        given = {name: getattr(self, name, None) for name in inspect.signature(type(self)).parameters}
        plain = json.dumps([given, asdict(self._limits)], default=lambda value: type(value).__name__, skipkeys=True)
        return hashlib.sha256(plain.encode()).hexdigest()[:16]

    def _load(self, state: Mapping[str, Any]) -> None:
        if self._run is not None:
            carried = [Finding.from_dict(plain) for plain in state["findings"]]
            self._run.carry([finding for finding in carried if self._keeps(finding)])
        self._room_at_end = None
        if state["room"]:  # of a diagnostic that was switched off it is empty
            self.load_room_state(state["room"])

    def _finish(self, trainer: Trainer, pl_module: LightningModule | None, ending: str, *, step: int) -> None:
        """The run is over; whatever happens in here, nothing of ours is left behind.

        Without a module nothing is taken up any more: its device would not answer.
        """
        if not self._joined:
            return
        self._joined = False
        if pl_module is not None:
            with contextlib.suppress(FindingError):  # the run is over: nothing is left to be ended by it
                self._safely(self.wind_up, trainer, pl_module)
        undecided = [] if self._off else self._safely(self.undecided) or []
        if not self.state_outlives_run:
            self._room_at_end = self._safely(self.room_state) or {}
        self._always(self.detach)
        if self._run is not None:
            self._always(self._run.leave, self.state_key, step, undecided, ending)

    # Findings.

    def _keeps(self, finding: Finding) -> bool:
        """Whether a finding of a checkpoint is wanted still."""
        blind = finding.code == self.blind_rule.code
        rule = next((rule for rule in (*self.rules, self.blind_rule) if rule.code == finding.code), None)
        if rule is None:  # of a version that had more rules
            return True
        if not (blind or self._selection.asks(rule)):
            return False
        return self._selection.wants(rule, finding.where, finding.severity, always=blind)

    def _enter(self, trainer: Trainer, rule: Rule, diagnosis: Diagnosis, *, step: int) -> Finding:
        assert self._run is not None
        finding, change = self._run.journal.record(rule, diagnosis, step=step)
        self._made.add(finding.key)
        self._run.show(finding, change, step=step)
        if insides.process_count(trainer) == 1:
            self._act(trainer, [finding])
        return finding

    def _meet(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring together what all ranks know. Collective: it runs whether this rank is switched off or not."""
        if self._run is None or insides.process_count(trainer) == 1:
            return
        if not self._run.is_whole(self.state_key):
            mine = self._safely(self.share)
            self._safely(self.take_in, trainer, pl_module, [] if mine is None else [mine])
            return
        shared = [each for each in insides.gather(trainer, self._safely(self.share)) if each is not None]
        self._safely(self.take_in, trainer, pl_module, shared)
        made = insides.gather(trainer, [finding.to_dict() for finding in self.findings if finding.key in self._made])
        everyone = [[Finding.from_dict(plain) for plain in plains] for plains in made]
        for rank, theirs in enumerate(everyone):
            self._always(self._run.adopt, theirs, rank)
        self._act(trainer, [finding for theirs in everyone for finding in theirs if finding.status == "open"])

    def _act(self, trainer: Trainer, findings: list[Finding]) -> None:
        """Stop or raise, once for each finding, if the user asked for it."""
        if self.on_finding == "report":
            return
        for finding in findings:
            if finding.severity < Severity.parse(self.at) or finding.key in self._acted:
                continue
            self._acted.add(finding.key)
            if self.on_finding == "raise":
                raise FindingError(finding)
            insides.stop(trainer)

    # Faults of our own.

    def _safely(self, act: Callable[..., Result], *args: Any) -> Result | None:
        """Call ``act``; a fault in it switches this diagnostic off and never reaches the run."""
        if self._off:
            return None
        try:
            return act(*args)
        except (ConfigurationError, FindingError):
            raise
        except Exception as fault:  # noqa: BLE001  # promise 2: it never kills the run
            self._switch_off(act.__name__, fault)
            return None

    def _always(self, act: Callable[..., Any], *args: Any) -> None:
        """Call what has to be done whether this diagnostic is switched off or not; no fault in it reaches the run."""
        try:
            act(*args)
        except Exception as fault:  # promise 2: it never kills the run
            if self.strict:
                raise
            if act.__name__ not in self._failed:
                self._failed.add(act.__name__)
                self._report(act.__name__, fault)

    def _switch_off(self, place: str, fault: Exception) -> None:
        """Report a fault of our own once and fall silent; under ``strict`` raise it instead."""
        if self.strict:
            raise fault
        self._off = True
        self._report(place, fault)
        self._always(self.detach)

    def _report(self, place: str, fault: Exception) -> None:
        """Put a fault of our own into the log, with its traceback, and into the findings, as a note."""
        name = type(self).__name__
        outcome = "is switched off" if self._off else "goes on"
        with contextlib.suppress(Exception):  # a handler of the user's may raise
            logger.error("%s failed in %s and %s; training goes on", name, place, outcome, exc_info=fault)
        trainer = self._run.trainer if self._run is not None else None
        if trainer is None:
            return
        what = f"{name} failed in {place} ({type(fault).__name__}: {fault}) and {outcome}."
        with contextlib.suppress(Exception):  # it stands in the log already
            self.note_blind(trainer, what, "Please report it with the traceback in the log.")


def _guarded(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook whose faults switch its diagnostic off."""

    @functools.wraps(hook)
    def call(self: DiagnosticCallback, *args: Any, **kwargs: Any) -> Any:
        if self._off:
            return None
        try:
            return hook(self, *args, **kwargs)
        except (ConfigurationError, FindingError):
            raise
        except Exception as fault:  # noqa: BLE001  # promise 2: it never kills the run
            self._switch_off(hook.__name__, fault)
            return None

    return call
