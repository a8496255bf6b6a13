"""`ExpectedValidationPerformance`: a record of each run, and the tuning curve over the runs of a sweep."""

import contextlib
import math
import os
from collections.abc import Mapping
from typing import Any, ClassVar, get_args

from typing_extensions import override

from lightning_diagnostics.callback import At, DiagnosticCallback, OnFinding, whole_number
from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.arguments import ConfigurationError, one_of
from lightning_diagnostics.callback.directions import direction
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.diagnostics.expected_performance import drawing, facts, records, sweeps
from lightning_diagnostics.diagnostics.expected_performance.batches import Batches
from lightning_diagnostics.diagnostics.expected_performance.choice import Choice, choose
from lightning_diagnostics.diagnostics.expected_performance.curve import (
    Failed,
    TuningCurve,
    check_failed,
    tuning_curve,
)
from lightning_diagnostics.diagnostics.expected_performance.places import Places, places
from lightning_diagnostics.diagnostics.expected_performance.reading import reading, standing
from lightning_diagnostics.diagnostics.expected_performance.recording import Recording
from lightning_diagnostics.diagnostics.expected_performance.rules import RULES, Limits
from lightning_diagnostics.diagnostics.expected_performance.trials import Mode, Status, Trial
from lightning_diagnostics.findings import Finding, FindingError
from lightning_diagnostics.statistics import BandMethod

_NAMED = 12  # metrics that a note names
_READING = 60.0  # seconds that the end of a run may wait for the records of the others
_HASTE = 5.0  # the same where somebody waits for the end
_HASTY = (KeyboardInterrupt, SystemExit)
_TOLD_TO_END = ("SIGTERMException",)
_BEST = {"min": "the lowest", "max": "the highest"}
_PRUNED = ("TrialPruned", "KeyboardInterrupt")  # stopped by the judgement of the search, or of a person


class ExpectedValidationPerformance(DiagnosticCallback):
    """Keeps a record of each run of a search, and draws what the best of n of its trials is worth.

    The best of fifty trials is not comparable with the best of five. Dodge et al. (2019) ask to report the expected
    best validation score as a function of the number of trials: the tuning curve. This callback writes one small file
    for each run, below the run's own folder, that says how it went: the metric and its best value, whether the run
    completed, failed, was pruned or killed, its time, devices, hyperparameters, seed and sizes of the data. When a run
    ends, however it ends, it reads the records of the others of its sweep, and draws the curve as of then into its own
    folder:

    - ``evp/median`` with a band that holds for all n at once, ``evp/mean`` (expected validation performance),
      ``evp/mean_unbiased``, ``evp/spread`` and ``evp/hours`` over the number of trials n, in a run of their own,
      ``<run folder>/expected_performance/<id>``; beside them a table and, with matplotlib, a picture;
    - ``evp/score``, ``evp/best``, ``evp/expected_best``, ``evp/n_trials``, ``evp/n_failed``, ``evp/n_pruned``,
      ``evp/failure_rate`` and ``evp/iid_assumption`` at the last step of the run, in every logger but that for CSV;
    - the score as ``hp_metric`` on TensorBoard's HParams page, where Lightning has put a -1 (NaN if there is none).

    ``lightning-diagnostics tuning-curve FOLDER`` gives the curve of all runs at any time, and compares two sweeps.

    What it costs: a file of one or two kilobytes when the run begins, at each new best score and once a minute; a look
    at the clock in each training batch, a running sum in each batch of validation and one transfer from the device at
    its end; and at the end of the run the reading of the others' files, a minute at most (in an object store after the
    list of all files, which has no limit of time). No run reads them before. Many processes may write at the same time,
    on network file systems too: each file has one writer, and is renamed when it is whole. With several processes rank
    zero alone writes.

    Findings: ``lost-trials`` (EVP101); notes ``too-few-trials`` (EVP801), ``failed-trials`` (EVP802), ``mixed-metrics``
    (EVP803), ``test-set-reused`` (EVP804), ``best-within-noise`` (EVP805), ``mixed-search-spaces`` (EVP806),
    ``non-random-search`` (EVP807), ``unrecorded-trial`` (EVP901).

    Args:
        monitor: The validation metric that a run is scored by, by its best value; by default that of the
            ModelCheckpoint, else of the EarlyStopping.
        mode: ``"min"`` or ``"max"``: which way it is better; by default what callbacks that watch it say, else
            told from its name.
        sweep: What the sweep is called; a trial of Optuna does, too. By default the environment variable
            ``LIGHTNING_DIAGNOSTICS_SWEEP_ID``, else what Optuna, Ray Tune, W&B, Hydra or SLURM call it, else the runs
            right in the folder in which the logger keeps its versions (or all below ``folder``) that have no name of a
            sweep.
        folder: Where the runs of the sweep are looked for; by default where the engine keeps them, else the folder in
            which the logger keeps its versions. A run whose own folder is not below it keeps its record there.
        min_trials: How many scores a curve takes; fewer are listed.
        failed: What a failed trial counts as: ``"worst"``: worse than all others for the median and its band, and left
            out of the means, which have no value for it; ``"drop"``: nothing; a number: that score.
        confidence: Of the band, for all n at once.
        band: Its method: ``"ld"`` (exact), ``"ld-highest-density"``, ``"ks"`` or ``"dkw"``; see
            ``lightning_diagnostics.statistics.cdf_band``.
        pool_folder: Whether runs that nothing but their folder puts together are a sweep. The suite passes False: a run
            of no sweep is then recorded, and no curve is drawn for it.
        on_finding: What to do about a finding: ``"report"`` it, ``"stop"`` training after the batch, or ``"raise"`` a
            ``FindingError``. The findings are made when the run is over, so there is nothing left to stop.
        at: The severity from which ``"stop"`` and ``"raise"`` act: ``"warning"`` or ``"error"``.
        limits: Limits to override, by name, e.g. ``{"lost-trials.silence": 7200}``.
        strict: Raise our own faults instead of switching off (for tests).

    Raises:
        ValueError: if a word or a limit is not known, or a value is not allowed; and, when a run is set up, if nothing
            says what it is scored by, and ``pool_folder`` is True (else it is a note).
        TypeError: if a value is of the wrong kind.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_diagnostics import ExpectedValidationPerformance
        >>> trainer = Trainer(callbacks=[ExpectedValidationPerformance(monitor="val_acc")], logger=False)
    """

    rules = RULES[:-1]
    blind_rule = RULES[-1]
    default_limits = Limits()
    state_outlives_run = True
    only_watching: ClassVar[Mapping[str, Any]] = {"pool_folder": False}

    def __init__(
        self,
        *,
        monitor: str | None = None,
        mode: Mode | None = None,
        sweep: Any = None,
        folder: str | None = None,
        min_trials: int = 5,
        failed: Failed = "worst",
        confidence: float = 0.8,
        band: BandMethod = "ld",
        pool_folder: bool = True,
        on_finding: OnFinding = "report",
        at: At = "warning",
        limits: dict[str, float] | None = None,
        strict: bool = False,
    ) -> None:
        # Validate the arguments.
        _text("monitor", monitor, "the name of a metric")
        if mode is not None:
            one_of("mode", mode, get_args(Mode))
        if not sweeps.is_optunas(sweep):
            _text("sweep", sweep, "the name of a sweep, a trial of Optuna")
        folder = os.fspath(folder) if isinstance(folder, os.PathLike) else folder
        _text("folder", folder, "the path of a folder")
        folder = os.path.expanduser(folder) if folder is not None and "://" not in folder else folder
        whole_number("min_trials", min_trials, low=1)
        failed = _number(failed)
        check_failed(failed)
        if isinstance(confidence, bool) or not isinstance(confidence, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]  # users have no type checker
            raise TypeError(f"confidence={confidence!r}: expected a number")
        if not 0 < confidence < 1:
            raise ValueError(f"confidence={confidence!r}: allowed is more than 0 and less than 1")
        one_of("band", band, get_args(BandMethod))
        if not isinstance(pool_folder, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"pool_folder={pool_folder!r}: allowed are True and False")
        super().__init__(on_finding=on_finding, at=at, limits=limits, strict=strict)

        # Set up a callback that has recorded nothing.
        self.monitor = monitor
        self.mode: Mode | None = mode
        known = None if isinstance(sweep, str | None) else sweeps.find(sweep, [])  # a frozen trial has no study
        self.sweep = sweep if isinstance(sweep, str | None) else known.name if known is not None else None
        self.folder = folder
        self.min_trials = min_trials
        self.failed: Failed = failed
        self.confidence = confidence
        self.band: BandMethod = band
        self.pool_folder = pool_folder
        self._known = known if known is not None and known.name is not None else None
        self.forget()

    @property
    def trial(self) -> Trial | None:
        """The record of this run as it stands; None if there is none. On rank zero it is in the run's folder, too."""
        return None if self._recording is None else self._recording.trial

    @property
    def curve(self) -> TuningCurve | None:
        """The tuning curve as of the end of this run; None before, and where there is no sweep. On rank zero only."""
        return self._curve

    # The life of a run.

    @override
    def detach(self) -> None:
        self._batches = None
        if self._recording is not None:
            with contextlib.suppress(OSError):
                self._recording.give_up()  # nothing to do where the run has ended in the usual way

    @override
    def forget(self) -> None:
        self._batches: Batches | None = None
        self._recording: Recording | None = None
        self._carried: Mapping[str, Any] = {}
        self._choice: Choice | None = None
        self._nothing = ""  # why the run has no score
        self._sweep = sweeps.Sweep()
        self._curve: TuningCurve | None = None
        self._is_missing = False
        self._is_validated = False
        self._is_trained = False
        self._is_concluded = False
        self._is_hasty = False
        self._places = Places(None, None, None)
        self._unlogged: Finding | None = None

    @override
    def set_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_trained = self._is_concluded = self._is_hasty = False
        if insides.is_trial(trainer):
            return
        self._sweep = self._known or sweeps.find(self.sweep, trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue]  # Lightning types callbacks by a mixin
        try:
            self._choice, self._nothing = choose(trainer, pl_module, self.monitor, self.mode), ""
        except ConfigurationError as error:
            if self.pool_folder:
                raise
            self._choice, self._nothing = None, str(error)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_recording(trainer, pl_module)

    @override
    def watching(self, trainer: Trainer, pl_module: LightningModule) -> str:
        if self._recording is None or not self._recording.is_on:
            return "no score of this run, which is not recorded: blind"
        sweep = f"sweep {self._sweep.name}" if self._sweep.name else "its folder"
        trial = self._recording.trial
        by_name = direction(trial.metric, told={}, watched={})
        doubt = f" (by its name {_BEST[by_name]} would be best)" if by_name and by_name != trial.mode else ""
        return f"{_BEST[trial.mode]} {trial.metric} of this run{doubt}, a trial of {sweep}"

    @override
    def attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._choice is None and self._nothing and self._sweep.name is not None:
            self.note_blind(trainer, f"This run is not recorded as a trial. {self._nothing}.", "name the metric.")
        self._take_up_late(trainer, pl_module)
        if self._recording is not None and self._recording.is_on:
            self._recording.know(training_samples=facts.training_samples(trainer))

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._recording is not None:
            self._store(trainer, self._recording.beat)

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._recording is None:
            return
        self._store(trainer, self._recording.beat)
        if self._batches is not None:
            sums = insides.running_sums(trainer, self._recording.trial.metric)
            if sums is not None:
                self._batches.note(*sums)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What training itself has logged for the epoch before is final now."""
        self._read(trainer, validation=False)
        if self._is_validated and trainer.current_epoch:
            self._say_unlogged(trainer)

    @override
    def evaluation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_on = self._recording is not None and self._recording.is_on
        alone = trainer.world_size == 1  # else the parts are not all samples of the score
        self._batches = Batches() if is_on and alone and not trainer.sanity_checking else None

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._read(trainer, validation=True)
            self._is_validated = True
        self._batches = None

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read(trainer, validation=False)
        self._say_unlogged(trainer)
        if self._recording is not None:
            self._is_trained = True
            self._store(trainer, self._recording.end, "completed")

    @override
    def wind_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        recording = self._recording
        if recording is None or self._is_concluded:
            return
        self._is_concluded = True
        self._store(trainer, recording.end, "completed")
        if trainer.is_global_zero:
            failing = "The curve of the sweep cannot be read or drawn"
            self._store(trainer, self._conclude, trainer, recording.trial, failing=failing)

    @override
    def break_off(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._is_trained:  # what failed came after the training
            return
        if self._recording is None or not self._recording.is_on:  # it failed before the first batch
            self._begin_recording(trainer, pl_module)
        if self._recording is not None:
            self._is_hasty = isinstance(exception, _HASTY) or type(exception).__name__ in _TOLD_TO_END
            status, reason = self._ending(trainer, exception)
            if status == "completed" and trainer.validating:  # the callback that reports to Ray may stand before this
                self._read(trainer, validation=True)
            self._store(trainer, self._recording.end, status, reason)

    def _ending(self, trainer: Trainer, exception: BaseException) -> tuple[Status, str]:
        """What an exception that ends the run makes of it, and the reason."""
        kinds = [kind.__name__ for kind in type(exception).__mro__]
        # Ray's schedulers end a trial by an exit without a fault, in its last epoch too.
        if self._sweep.engine == "Ray" and isinstance(exception, SystemExit) and not exception.code:
            last = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
            return ("completed", "") if last else ("pruned", "ended by Ray")
        return "pruned" if any(kind in _PRUNED for kind in kinds) else "failed", kinds[0]

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._recording is not None and self._run is not None and self._run.serves(trainer):
            self._store(trainer, self._recording.tested)

    @override
    def room_state(self) -> dict[str, Any]:
        return {} if self._recording is None else {"trial": self._recording.state()}

    @override
    def load_room_state(self, state: Mapping[str, Any]) -> None:
        self._carried = dict(state.get("trial", {}))

    # The record of this run.

    def _begin_recording(self, trainer: Trainer, module: LightningModule) -> None:
        """Write that the run runs."""
        if self._choice is None or insides.is_trial(trainer):
            return
        identity = self._identity(trainer, module)
        recording = self._recording
        if recording is None:
            self._recording = recording = Recording(self._choice.metric, self._choice.mode)
            recording.take_up(self._carried, identity)
        home = None
        if trainer.is_global_zero:
            own, versions = insides.run_folder(trainer), insides.versions_folder(trainer)
            self._places = places(own, versions, self.folder, self._sweep)
            home = self._places.home
        if trainer.is_global_zero and home is None:
            self.note_blind(
                trainer,
                "This run has no folder to keep its record in: the Trainer has no logger that writes files.",
                "give the Trainer a logger, or ExpectedValidationPerformance(folder=...).",
            )
        more = {"sweep_from": self._sweep.said_by, "search": self._sweep.search, "devices": facts.devices(trainer)}
        self._store(trainer, lambda: recording.begin(home, **identity, **more))

    def _take_up_late(self, trainer: Trainer, module: LightningModule) -> None:
        """Go on with the record of a checkpoint that came after the run had begun, as strategies that shard load it."""
        recording, carried = self._recording, self._carried
        if recording is not None and recording.is_on and carried and carried.get("run_id") != recording.trial.run_id:
            self._store(trainer, recording.take_up, carried, self._identity(trainer, module))
            self._carried = {}

    def _identity(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """What a run has in common with the one that it resumes, and with no other trial."""
        assert self._choice is not None
        return {
            "metric": self._choice.metric,
            "mode": self._choice.mode,
            "sweep": self._sweep.name,
            "number": self._sweep.number,
            "hyperparameters": facts.hyperparameters(trainer, module, self._sweep.parameters),
            "seed": facts.seed(),
        }

    def _store(
        self, trainer: Trainer, act: Any, *arguments: Any, failing: str = "The record of this run cannot be written"
    ) -> None:
        """Write the record; a disk that is full is said once, and the run goes on."""
        try:
            act(*arguments)
        except OSError as error:
            if not self._is_missing:
                self._is_missing = True
                self.note_blind(
                    trainer,
                    f"{failing} ({type(error).__name__}: {error}).",
                    "see that its folder can be written; else the curve lacks this run.",
                )

    def _read(self, trainer: Trainer, *, validation: bool) -> None:
        """Take the value of the metric, if there is one."""
        recording = self._recording
        if recording is None or not recording.is_on or not trainer.is_global_zero:
            return
        value = insides.final_metrics(trainer).get(recording.trial.metric)
        if value is None:
            return
        if self._unlogged is not None:
            self.close(self._unlogged, step=insides.log_step(trainer))
            self._unlogged = None
        samples = (
            facts.validation_samples(trainer, recording.trial.metric)
            if validation
            else recording.trial.validation_samples
        )
        step = insides.log_step(trainer) if validation else insides.epoch_end_step(trainer)
        self._store(trainer, lambda: recording.read(float(value), step, samples=samples, batches=self._batches))

    def _say_unlogged(self, trainer: Trainer) -> None:
        """Say, once training and validation have logged what they log, that nothing has the name of the metric."""
        recording = self._recording
        if recording is None or not recording.is_on or recording.trial.readings or self._unlogged is not None:
            return
        if not trainer.is_global_zero:  # what has been read is known there alone
            return
        names = ", ".join(map(repr, list(insides.final_metrics(trainer))[:_NAMED]))
        self._unlogged = self.note_blind(
            trainer,
            f"No value of {recording.trial.metric!r} is logged, so this run has no score"
            + (f"; there are {names}." if names else "."),
            "give monitor= the name under which validation_step logs the metric.",
        )

    # The sweep.

    def _conclude(self, trainer: Trainer, mine: Trial) -> None:
        """Read the records of the sweep, draw the curve, and say what is to be said about it."""
        self._fill_hp_metric(trainer, mine)
        root, shown = self._places.root, self._places.shown
        if root is None or not (self._sweep.name is not None or self.pool_folder):
            return
        within = _HASTE if self._is_hasty else _READING
        found = records.read(root, within=within)
        if not found.is_whole:
            self.note_blind(
                trainer,
                f"The records below {root} could not all be read within {within:.0f} seconds, so no curve is drawn.",
                f"see it by: lightning-diagnostics tuning-curve {root}; or say by folder= where the runs are.",
            )
            return
        if found.unreadable:
            name, what = next(iter(found.unreadable.items()))
            number = len(found.unreadable)
            self.note_blind(
                trainer,
                f"{number} record{'s' * (number != 1)} below {root} cannot be read; {name}: {what}.",
                "delete them, or update this package if a later version wrote them.",
            )
        every = [trial for trial in found.trials if trial.sweep == mine.sweep and self._places.has(trial)]
        self._curve = curve = tuning_curve(
            every,
            name=self._sweep.name or os.path.basename(root.rstrip("/")) or root,
            metric=mine.metric,
            mode=mine.mode,
            failed=self.failed,
            confidence=self.confidence,
            band=self.band,
            min_trials=self.min_trials,
            silence=self._limits.silence,
        )
        step = insides.epoch_end_step(trainer)
        self.draw(trainer, standing(curve, mine.score), step=step, late=True)
        if len(every) > 1 or self._sweep.name is not None:
            if shown is not None:  # a place that no other run has
                drawing.draw(curve, f"{shown.rstrip('/')}/{records.FOLDER}/{mine.run_id[:8]}")
            self._judge_sweep(trainer, curve, every, step)

    def _judge_sweep(self, trainer: Trainer, curve: TuningCurve, every: list[Trial], step: int) -> None:
        """Put the sweep before all rules."""
        # What is found of a sweep began at no step of this run: at 0, whether or not the run was stopped and resumed.
        measured = reading(curve, every, step=0, silence=self._limits.silence)
        for rule in self.rules:
            with contextlib.suppress(FindingError):  # the run is over: nothing is left to be ended by it
                self.judge(trainer, rule, measured, step=step)

    def _fill_hp_metric(self, trainer: Trainer, mine: Trial) -> None:
        """Show the score on TensorBoard's HParams page; a run without one has no number there, and not a -1."""
        if self._run is not None and "hp_metric" not in insides.final_metrics(trainer):
            score = math.nan if mine.score is None else mine.score
            self._run.fill_hp_metric(score, step=insides.epoch_end_step(trainer))


def _text(name: str, value: object, what: str) -> None:
    """Check an argument that is a text, or None."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name}={value!r}: expected {what}, or None")
    if value == "":
        raise ValueError(f"{name}={value!r}: allowed is {what}, or None")


def _number(value: Any) -> Any:
    """The number that a text is: a parser of command lines may leave one as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
