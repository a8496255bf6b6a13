"""`BatchNormGuard`: wrong modes, running statistics that do not fit, and predictions that depend on the batch."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_diagnostics.callback import At, DiagnosticCallback, OnFinding, is_look, one_of, whole_number
from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.budget import Budget
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.diagnostics.batch_norm import rules as room
from lightning_diagnostics.diagnostics.batch_norm.asleep import Asleep
from lightning_diagnostics.diagnostics.batch_norm.dependence import (
    CannotTryError,
    Dependence,
    TooSlowError,
)
from lightning_diagnostics.diagnostics.batch_norm.evaluation import STAGES, Evaluated, Evaluation
from lightning_diagnostics.diagnostics.batch_norm.history import History
from lightning_diagnostics.diagnostics.batch_norm.measure import (
    LayerStatistics,
    Momentum,
    Overview,
    RankDifference,
    Reuse,
    far_apart,
    together,
)
from lightning_diagnostics.diagnostics.batch_norm.modes import Flip, Modes, versions
from lightning_diagnostics.diagnostics.batch_norm.training import TrainingLooks, momentum_of, updates
from lightning_diagnostics.diagnostics.batch_norm.trying import Trying
from lightning_diagnostics.findings import Diagnosis, Finding, Rule, Severity
from lightning_diagnostics.probes import NormWatch, RunningStatistics, by_design

BatchDependence = Literal["once", "every", "off"]

_CLOSES_AFTER = 2  # evaluations, or looks, in a row that do not repeat a finding
_FAILURES = 9  # trials that could not be made, after which no more is begun
_TRIES = 3  # batches of an evaluation that are tried with other samples, until one can be
_EVALUATION_LOOKS = (0, 1, 2)  # and the middle and the last batch


class BatchNormGuard(DiagnosticCallback):
    """Watches the modes of batch norm and dropout, running statistics, and whether predictions depend on the batch.

    It watches every kind of batch norm (``SyncBatchNorm``, lazy and scripted ones, instance norm with running
    statistics, modules of yours that have a ``running_mean``), dropout of every kind, and calls of ``F.batch_norm``,
    ``F.dropout`` and attention with ``dropout_p``; in training, sanity check, validation, test and prediction.

    What it costs: in every batch the modes of these modules are compared, which is some microseconds of Python and no
    operation of torch. At looks (in training the first batch and the last of every epoch, at least eight spread over it
    and one every ``every_n_train_steps``; in an evaluation up to five batches) two hooks of the process see the calls,
    running statistics are compared before and after, and their values are brought to the host. With ``fix=True`` the
    hooks are on in every batch of an evaluation. Once in a run for each kind of evaluation, the calls of modules that
    the step of a batch has made are made again after it, five times (seven to name the guilty module) on up to 31 of
    its samples, with other samples in the places of some: a prediction should not change. Generators of random numbers,
    buffers, metrics, lists and other attributes of the module are put back; the step itself is not run again.

    What is drawn, at every validation, under ``batch_norm/<quantity>/<layer>``: shift of the mean and log ratio of the
    variance between running statistics and validation batches, and training batches; rows of the smallest batch;
    updates. With several processes it is of all of their batches.

    Findings: ``train-mode-in-evaluation`` (BN101), ``eval-mode-in-training`` (BN102), ``frozen-but-drifting`` (BN103),
    ``statistics-mismatch`` (BN104), ``tiny-batch`` (BN105), ``ranks-differ`` (BN106), ``batch-dependent-prediction``
    (BN107), ``dropout-in-evaluation`` (BN108); notes ``reused-norm`` (BN801), ``batch-statistics-in-evaluation``
    (BN802), ``extreme-momentum`` (BN803), ``unwatched-modes`` (BN901).

    With ``on_finding="raise"`` a wrong mode is raised at the end of the batch that shows it, before the metrics of the
    evaluation are logged; with several processes at the end of the evaluation, before they are logged too.

    Args:
        fix: Put modules into the right mode. In an evaluation all modules are put into evaluation mode as soon as one
            is met that is not, and put back after it; in training, those that fell into evaluation mode since the first
            batch are put back at the start of the next. What is frozen on purpose stays so. It says what it mends.
        batch_dependence: When to try a batch with other samples: ``"once"`` for each kind of evaluation, in ``"every"``
            evaluation, or ``"off"``.
        every_n_train_steps: A training batch is looked at at least this often, counted within the epoch.
        max_layers: Norms that are drawn at the most. All are judged.
        on_finding: What to do about a finding: ``"report"`` it, ``"stop"`` training after the batch, or ``"raise"`` a
            ``FindingError``. With several processes the ranks agree on it at the end of the epoch or of a validation.
        at: The severity from which ``"stop"`` and ``"raise"`` act: ``"warning"`` or ``"error"``.
        limits: Limits to override, by name, e.g. ``{"statistics-mismatch.shift": 2.0}``.
        strict: Raise our own faults instead of switching off (for tests).

    Raises:
        ValueError: if a word or a limit is not known, or a value is not allowed.
        TypeError: if a value is of the wrong kind.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_diagnostics import BatchNormGuard
        >>> trainer = Trainer(callbacks=[BatchNormGuard()], logger=False, enable_checkpointing=False)
    """

    rules = room.RULES[:-1]
    blind_rule = room.unwatched_modes
    default_limits = room.Limits()
    stages = frozenset({"fit", "validate", "test", "predict"})
    presets: ClassVar[Mapping[str, Mapping[str, Any] | None]] = {
        "light": {"every_n_train_steps": 500, "max_layers": 10},
        "thorough": {"every_n_train_steps": 10, "max_layers": 100, "batch_dependence": "every"},
    }

    def __init__(
        self,
        *,
        fix: bool = False,
        batch_dependence: BatchDependence = "once",
        every_n_train_steps: int = 50,
        max_layers: int = 30,
        on_finding: OnFinding = "report",
        at: At = "warning",
        limits: dict[str, float] | None = None,
        strict: bool = False,
    ) -> None:
        # Validate the arguments.
        if not isinstance(fix, bool):
            raise TypeError(f"fix={fix!r}: allowed are True and False")
        one_of("batch_dependence", batch_dependence, get_args(BatchDependence))
        whole_number("every_n_train_steps", every_n_train_steps, low=1)
        whole_number("max_layers", max_layers, low=1)
        super().__init__(on_finding=on_finding, at=at, limits=limits, strict=strict)

        # Set up a guard that has seen nothing.
        self.fix = fix
        self.batch_dependence: BatchDependence = batch_dependence
        self.every_n_train_steps = every_n_train_steps
        self.max_layers = max_layers
        self.forget()
        self._reset()

    # The life of a run.

    @override
    def forget(self) -> None:
        self._names: dict[str, str] = {}
        self._tried: set[str] = set()  # kinds of evaluation that were tried with other samples
        self._trained: set[str] = set()
        self._quiet: dict[tuple[str, str], int] = {}  # evaluations or looks in a row that did not repeat a finding
        self._reused: set[str] = set()
        self._module: weakref.ref[LightningModule] | None = None
        self._carried: dict[str, Any] | None = None  # of the history of the run that is resumed

    def _reset(self) -> None:
        """Forget everything about the modules of this process."""
        self._modes = Modes()
        self._watch: NormWatch | None = None
        self._evaluation: Evaluation | None = None
        self._looks = TrainingLooks()
        self._before: RunningStatistics | None = None
        self._versions: dict[str, int] = {}
        self._passes = 0  # how often the optimizer has had the step run in this batch
        self._asleep = Asleep(self._modes)
        self._slept = True  # whether there may be a finding of it to be taken back
        self._history = History(self._modes)
        self._begun = False  # the first training batch
        self._budget = Budget(self.max_layers)
        self._found: set[tuple[str, str]] = set()  # code and place, in this evaluation
        self._shown: set[tuple[str, str]] = set()  # code and module, in this evaluation
        self._change: float | None = None
        self._trying: Trying | None = None
        self._failures = 0  # of trials, in this process
        self._evaluated: Evaluated | None = None
        self._cannot: dict[str, str] = {}  # why a batch could not be tried, by kind of evaluation
        self._tries = 0
        self._blind = ""
        self._blind_note: Finding | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no part in the modules and tensors of this process."""
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        twin._reset()
        twin._module = None
        return vars(twin)

    @override
    def attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._recognise(trainer, pl_module)
        if not self._modes.everything:  # else the sanity check has done it
            self._take_up(pl_module)
        self._history = History(self._modes)
        if self._carried is not None:
            self._history.load(self._carried)
            self._carried = None

    @override
    def detach(self) -> None:
        watch, self._watch = self._watch, None
        for each in (watch, self._trying):
            if each is not None:
                each.unhook()
        self._modes.restore()
        self._reset()

    @override
    def watching(self, trainer: Trainer, pl_module: LightningModule) -> str:
        norms, noises = len(self._modes.norms), len(self._modes.noises)
        text = f"{norms} batch norm{'s' * (norms != 1)} and {noises} dropout{'s' * (noises != 1)}"
        frozen = [path for path in self._modes.norms if not self._modes.norms[path].training]
        if frozen and trainer.state.fn == "fit":
            text += f", {len(frozen)} norms in evaluation mode from the start ({_listed(frozen)})"
        blind = self._blindness(pl_module)
        return "; ".join([text, *(f"blind in {what}" for what in blind)])

    @override
    def undecided(self) -> list[str]:
        return [f"whether predictions depend on the batch: {why}" for why in self._cannot.values()][:1]

    def _recognise(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the model before, if the same Trainer runs another one now."""
        known = None if self._module is None else self._module()
        if self._module is not None and known is not pl_module:
            for finding in self.findings:
                if finding.status == "open":
                    self.close(finding, step=insides.log_step(trainer))
            self.forget()
            self._reset()
        self._module = weakref.ref(pl_module)

    def _take_up(self, pl_module: LightningModule) -> None:
        """Look which modules there are now."""
        self._modes.take_up(pl_module)
        self._watch = self._watch or NormWatch(self._names, self._mend_one if self.fix else None)

    def _blindness(self, pl_module: LightningModule) -> list[str]:
        """What cannot be seen, in words."""
        found: list[str] = []
        if insides.is_compiled(pl_module):
            found.append("calls inside of compiled code: modes and statistics are compared around them")
        scripted = [path for path, each in self._modes.everything.items() if isinstance(each, torch.jit.ScriptModule)]
        if scripted:
            found.append(f"calls inside of scripted code ({_listed(scripted[:1])}): modes and statistics are compared")
        return found

    def _note_blindness(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say, as a note, what cannot be seen, when that is first known and when it changes."""
        cannot = [f"whether predictions depend on the batch: {why}" for why in self._cannot.values()]
        text = "; ".join([*self._blindness(pl_module), *cannot])
        if text == self._blind:
            return
        self._blind = text
        if text:
            remedy = "nothing, where these parts are known to be well."
            self._blind_note = self.note_blind(trainer, f"blind in {text}.", remedy)
        elif self._blind_note is not None:
            self.close(self._blind_note, step=insides.log_step(trainer))

    # Training.

    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._recognise(trainer, pl_module)
        self._take_up(pl_module)
        self._modes.begin_sanity_check()

    @override
    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._modes.end_sanity_check()

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._take_up(pl_module)
        modes = self._modes
        since = f"between training batches {batch_idx - 1} and {batch_idx}" if batch_idx else "before this epoch began"
        modes.note(Flip(f"set {since}", "between", insides.log_step(trainer)))
        if not self._begun:
            self._begun = True
            modes.begin_training()
        if self.fix and self._asks(room.eval_mode_in_training):
            for measured in self._asleep.wake():
                self.judge(trainer, room.eval_mode_in_training, measured, step=insides.log_step(trainer))
        self._asleep.begin()
        self._before, self._passes = None, 0
        if is_look(batch_idx, batches=insides.batches_per_epoch(trainer), every=self.every_n_train_steps):
            self._before, self._versions = RunningStatistics(modes.norms), versions(modes.norms)
            if self._watch is not None and not insides.is_compiled(pl_module):
                self._watch.moments = False
                self._watch.start(pl_module, functional=False, running=insides.in_stage(trainer, "train"))

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._passes += pl_module.automatic_optimization

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, looked = insides.log_step(trainer), self._before is not None
        place = f"set inside {insides.steps(pl_module, 'training_step', 'on_train_batch_start')}, in batch {batch_idx}"
        self._modes.note(Flip(place, "inside", step))
        if self._before is not None:
            before, self._before = self._before, None
            norms = {} if self._watch is None else self._watch.norms
            if self._watch is not None and not insides.is_compiled(pl_module):
                slept = {path for path, calls in norms.items() if not calls.by_batch}
                self._asleep.see(slept | self._unseen(), set(self._watch.noises))
            after, passes = RunningStatistics(self._modes.norms), max(1, self._passes)
            now, alone = versions(self._modes.norms), insides.process_count(trainer) == 1  # else buffers are broadcast
            written = {path: count - self._versions.get(path, count) for path, count in now.items()} if alone else None
            self._looks.take(self._modes, before, after, norms, step=step, passes=passes, written=written)
            self._trained |= self._looks.trained
            if self._watch is not None:
                self._watch.stop()
        still, due = self._asleep.end(limit=self._limits.batches)
        for measured in due:
            self.judge(trainer, room.eval_mode_in_training, measured, step=step)
        if still or self._slept:
            self._slept = self._settle(room.eval_mode_in_training, still, step)
        if looked:
            self._judge_drift(trainer)
            self._judge_reuse(trainer, step)

    def _unseen(self) -> set[str]:
        """Norms whose calls are not seen."""
        return {path for path, norm in self._modes.norms.items() if isinstance(norm, torch.jit.ScriptModule)}

    def _settle(self, rule: Rule, still: set[str], step: int) -> bool:
        """Take back what was found of a rule and is gone, after some times; gives whether any of it is open."""
        is_open = False
        for finding in self.findings:
            if finding.code == rule.code and finding.status == "open":
                is_open = True
                names = str(finding.evidence.get("names", finding.where)).split(", ")
                self._close_if_quiet(finding, found=bool(still & set(names)), step=step)
        return is_open

    def _judge_drift(self, trainer: Trainer) -> None:
        drifts = self._looks.drifts(self._modes)
        for group in self._alike(drifts, room.frozen_but_drifting):
            self.judge(trainer, room.frozen_but_drifting, group, step=insides.log_step(trainer))

    def _alike(self, measured: Sequence[Any], rule: Rule) -> Iterator[Any]:
        """What a rule finds at many norms, put together by its severity: the first of them, for all."""
        if not self._asks(rule):
            return
        found: dict[Severity, list[Any]] = {}
        for each in measured:
            verdict = rule.check(each, self._limits)
            if isinstance(verdict, Diagnosis):
                found.setdefault(verdict.severity, []).append(each)
        for members in found.values():
            by_path = {each.layers[0] if each.layers else each.layer: each for each in members}
            for where, layers in together(list(by_path)):
                yield replace(by_path[layers[0]], where=where, layers=layers)

    def _judge_reuse(self, trainer: Trainer, step: int) -> None:
        new = [path for path in self._looks.calls if path not in self._reused]
        self._reused |= set(new)
        for where, layers in together(new):
            measured = Reuse(where, layers, self._looks.calls[layers[0]], step)
            self.judge(trainer, room.reused_norm, measured, step=step)

    @override
    def epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = insides.epoch_end_step(trainer)
        processes = insides.process_count(trainer)
        small = list(self._alike(self._looks.small_batches(self._modes, processes), room.tiny_batch))
        for group in small:
            self.judge(trainer, room.tiny_batch, group, step=step)
        self._settle(room.tiny_batch, {layer for group in small for layer in group.layers}, step)
        self._settle(room.frozen_but_drifting, self._looks.drifting, step)
        self._looks.rows, self._looks.drifting = {}, set()
        self._judge_momentum(trainer, step)
        self._note_blindness(trainer, pl_module)

    def _judge_momentum(self, trainer: Trainer, step: int) -> None:
        known = {path: norm for path, norm in self._modes.norms.items() if path in self._looks.trained}
        given = [(path, momentum_of(norm)) for path, norm in known.items()]
        extreme = [each for each in given if each[1] is not None and not self._is_usual(each[1])]
        counts = updates(known) if extreme else {}
        found = [Momentum(path, (path,), momentum or 0.0, counts.get(path, 0), 0) for path, momentum in extreme]
        for group in self._alike(found, room.extreme_momentum):
            self.judge(trainer, room.extreme_momentum, group, step=step)

    def _is_usual(self, momentum: float) -> bool:
        return self._limits.momentum_low <= momentum <= self._limits.momentum_high

    # Evaluation: the same for each kind.

    @override
    def evaluation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stage = str(trainer.state.stage.value) if trainer.state.stage is not None else "validate"
        hook = insides.STAGES[stage]
        self._recognise(trainer, pl_module)
        self._take_up(pl_module)
        self._found, self._shown = set(), set()
        self._change = None
        self._tries = 0
        self._evaluation = Evaluation(
            self._modes,
            stage=STAGES[stage],
            hook=hook,
            inside=insides.steps(pl_module, f"{hook}_step", f"on_{hook}_batch_start"),
            overridden=insides.is_overridden(pl_module, f"on_{hook}_model_eval"),
            watch=None if insides.is_compiled(pl_module) else self._watch,
            broadcast=insides.process_count(trainer) > 1,
        )

    @override
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._begin_batch(trainer, pl_module, batch, batch_idx, dataloader_idx)

    @override
    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._begin_batch(trainer, pl_module, batch, batch_idx, dataloader_idx)

    @override
    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._begin_batch(trainer, pl_module, batch, batch_idx, dataloader_idx)

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
        self._end_batch(trainer, pl_module, batch_idx)

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._end_batch(trainer, pl_module, batch_idx)

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._end_batch(trainer, pl_module, batch_idx)

    @override
    def evaluation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        evaluation = self._evaluation
        if evaluation is None:
            return
        step = insides.log_step(trainer)
        stage = evaluation.stage
        before = "sanity check" if stage == "validation" else stage  # which does not come again
        for rule in (room.train_mode_in_evaluation, room.dropout_in_evaluation):
            of_rule = {finding.key for finding in self.findings if finding.code == rule.code}
            of_stage = [f for f in self.findings if f.key in of_rule and f.evidence.get("stage") in (stage, before)]
            for finding in of_stage:
                self._close_if_quiet(finding, found=finding.key in self._found, step=step)
        if evaluation.stage != "sanity check":
            running, parts = evaluation.statistics()
            wrong = bool(self._wrong())
            self._evaluated = Evaluated(running, parts, evaluation.rows, dict(self._looks.shifts), wrong)
            if insides.process_count(trainer) == 1:
                self._take_up_statistics(trainer, [self._evaluated], step)
                self._evaluated = None
        self._note_blindness(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_evaluation()

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_evaluation()

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_evaluation()

    def _begin_batch(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, loader: int
    ) -> None:
        evaluation = self._evaluation
        if evaluation is None:
            return
        batches = insides.evaluation_batches(trainer, loader)
        look = batch_idx in _EVALUATION_LOOKS or (batches is not None and batch_idx in (batches // 2, batches - 1))
        evaluation.begin(batch_idx, look=look)
        if self.fix:
            self._mend(evaluation)
        if evaluation.watch is not None and (look or self.fix):
            evaluation.watch.moments = look and evaluation.stage != "sanity check"
            stage = trainer.state.stage.value if trainer.state.stage is not None else ""
            running = insides.in_stage(trainer, str(stage))
            evaluation.watch.start(pl_module, functional=look and batch_idx == 0, running=running)
        self._begin_trying(trainer, pl_module, batch, loader)  # last, so that it sees what was mended

    def _end_batch(self, trainer: Trainer, pl_module: LightningModule, batch_idx: int) -> None:
        evaluation = self._evaluation
        if evaluation is None:
            return
        step = insides.log_step(trainer)
        seen = evaluation.end(batch_idx, step=step)
        for rule, wrong in ((room.train_mode_in_evaluation, seen.norms), (room.dropout_in_evaluation, seen.noises)):
            for measured in wrong:
                self._judge_once(trainer, rule, measured, step)
        for measured in seen.designs:
            self._judge_once(trainer, room.batch_statistics_in_evaluation, measured, step)
        self._end_trying(trainer, pl_module, evaluation)

    def _wrong(self) -> tuple[str, ...]:
        """Where batch norm was found in training mode in this evaluation."""
        return tuple(where for code, where in self._found if code == room.train_mode_in_evaluation.code)

    def _judge_once(self, trainer: Trainer, rule: Rule, measured: Any, step: int) -> None:
        """Judge what the first batch of an evaluation has shown, and not again what the others show too."""
        layers = {(rule.code, layer) for layer in measured.layers}
        if not layers <= self._shown:
            self._shown |= layers
            self._found.add((rule.code, measured.where))
            self.judge(trainer, rule, measured, step=step)

    def _end_evaluation(self) -> None:
        self._modes.restore()
        if self._evaluation is not None:
            self._evaluation.close()
        self._evaluation = None

    def _close_if_quiet(self, finding: Finding, *, found: bool, step: int) -> None:
        if finding.status != "open":
            return
        self._quiet[finding.key] = 0 if found else self._quiet.get(finding.key, 0) + 1
        if found:
            self.still(finding, step=step)
        elif self._quiet[finding.key] >= _CLOSES_AFTER:
            self.close(finding, step=step)

    # Mending.

    def _mend(self, evaluation: Evaluation) -> None:
        """Put modules into evaluation mode at the start of a batch."""
        wrong = self._modes.training()
        if wrong or any(module.training for module in self._modes.everything.values()):
            for path in wrong:
                if self._mends(path):
                    evaluation.mended[path] = evaluation.flip(path)
            self._modes.mend(self._mends)

    def _mend_one(self, module: nn.Module) -> None:
        """A module in training mode is about to run; all are put right, lest the step itself asks for its mode."""
        if self._evaluation is not None:
            self._evaluation.note_inside()
            self._mend(self._evaluation)

    def _mends(self, path: str) -> bool:
        """Whether a module is to be put right: what is not to be found is not to be mended."""
        if path in self._modes.noises:
            return self._asks(room.dropout_in_evaluation)
        return path not in self._modes.norms or self._asks(room.train_mode_in_evaluation)

    def _asks(self, rule: Rule) -> bool:
        return self._selection.asks(rule)

    # Whether predictions depend on the batch.

    def _begin_trying(self, trainer: Trainer, pl_module: LightningModule, batch: Any, loader: int) -> None:
        """Keep the calls of this batch, if it is time to make them again with other samples."""
        evaluation = self._evaluation
        if evaluation is None or evaluation.stage == "sanity check" or self._tries >= _TRIES:
            return
        due = self.batch_dependence == "every" or evaluation.hook not in self._tried
        if self.batch_dependence == "off" or not due or not self._asks(room.batch_dependent_prediction):
            return
        self._tries += 1
        try:
            self._trying = Trying(trainer, pl_module, batch, loader, self._names)
        except CannotTryError as fault:
            self._cannot_try(evaluation, fault)

    def _end_trying(self, trainer: Trainer, pl_module: LightningModule, evaluation: Evaluation) -> None:
        trying, self._trying = self._trying, None
        if trying is None:
            return
        try:
            found = trying.compare(trainer, pl_module, evaluation.stage)
        except CannotTryError as fault:
            self._cannot_try(evaluation, fault)
            return
        self._tries = _TRIES
        self._tried.add(evaluation.hook)
        self._cannot.pop(evaluation.hook, None)
        self._change = 0.0 if found is None else found.change
        self._judge_dependence(trainer, evaluation, found)

    def _cannot_try(self, evaluation: Evaluation, why: CannotTryError) -> None:
        """Remember why; what has failed often enough, or takes too long, is not tried again in this run."""
        self._cannot[evaluation.hook] = str(why)
        self._failures += 1
        if isinstance(why, TooSlowError) or self._failures >= _FAILURES:
            self._tries = _TRIES
            self._tried.add(evaluation.hook)

    def _judge_dependence(self, trainer: Trainer, evaluation: Evaluation, found: Dependence | None) -> None:
        """Judge what a trial has found, when the modes of the batch are known; take back what it has not."""
        step, rule = insides.log_step(trainer), room.batch_dependent_prediction
        where = None
        if found is not None:
            designed = tuple(path for path, norm in self._modes.norms.items() if by_design(norm))
            known = replace(found, step=step, designed=designed, wrong=self._wrong())
            verdict = self.judge(trainer, rule, known, step=step)
            where = verdict.where if isinstance(verdict, Finding) else None
        for finding in self.findings:
            if finding.code == rule.code and finding.evidence.get("stage") == evaluation.stage:
                self._close_if_quiet(finding, found=finding.where == where, step=step)

    # Statistics, where the ranks meet.

    @override
    def share(self) -> Any:
        mine, self._evaluated = self._evaluated, None
        return mine

    @override
    def take_in(self, trainer: Trainer, pl_module: LightningModule, shared: list[Any]) -> None:
        if not shared:
            return
        step = insides.log_step(trainer)
        self._take_up_statistics(trainer, shared, step)
        if any(each.wrong for each in shared):  # each process has moved its own in the evaluation
            return
        apart = far_apart([each.running for each in shared])
        found = [RankDifference(path, (path,), shift, len(shared), step) for path, shift in apart.items()]
        for group in self._alike(found, room.ranks_differ):
            self.judge(trainer, room.ranks_differ, group, step=step)
        self._settle(room.ranks_differ, set(apart), step)

    def _take_up_statistics(self, trainer: Trainer, evaluated: Sequence[Evaluated], step: int) -> None:
        """Draw and judge the statistics of an evaluation."""
        running = evaluated[0].running
        layers: list[LayerStatistics] = []
        self._history.begin()
        for path in self._modes.norms:
            parts = [part for each in evaluated for part in each.parts.get(path, [])]
            if path not in running or not parts:
                continue
            sizes = [size for size, _ in self._looks.rows.get(path, [])]
            layers.append(
                self._history.layer(
                    path,
                    running[path],
                    parts,
                    [shift for each in evaluated for shift in each.shifts.get(path, [])],
                    rows=sum(each.rows.get(path, 0) for each in evaluated),
                    smallest=min(sizes, default=None),
                    trained=path in self._trained,
                    step=step,
                )
            )
        settling = any(room.is_settling(layer, self._limits) for layer in layers)  # what comes after it is off as well
        if trainer.state.fn == "fit" and not settling:
            rule = room.statistics_mismatch
            off = [layer for layer in layers if isinstance(rule.check(layer, self._limits), Diagnosis)]
            for first in off[:1]:  # those behind it get what it makes of its inputs
                measured = replace(first, where=first.layer, layers=tuple(layer.layer for layer in off))
                self.judge(trainer, rule, measured, step=step)
            for finding in self.findings:
                if finding.code == rule.code:
                    self._close_if_quiet(finding, found=finding.where in {each.layer for each in off}, step=step)
        self._draw(trainer, layers, step)

    def _draw(self, trainer: Trainer, layers: Sequence[LayerStatistics], step: int) -> None:
        if not (trainer.is_global_zero and trainer.loggers):
            return
        shifts = {layer.layer: layer.mean_shift or 0.0 for layer in layers}
        ill = {finding.where for finding in self.findings if finding.status == "open" and finding.where is not None}
        chosen = set(self._budget.choose(shifts, ill))
        overview = Overview(self._change, max(shifts.values(), default=None))
        drawn = [layer for layer in layers if layer.layer in chosen]
        self.draw(trainer, overview, *drawn, step=step)
        if drawn:
            self.lay_out("batch norm", overview, *drawn)

    # Resuming.

    @override
    def room_state(self) -> dict[str, Any]:
        return {
            "names": dict(self._names),
            "tried": sorted(self._tried),
            "trained": sorted(self._trained),
            "reused": sorted(self._reused),
            "history": self._history.state(),
            "quiet": [[*key, count] for key, count in self._quiet.items()],
        }

    @override
    def load_room_state(self, state: Mapping[str, Any]) -> None:
        self._names.update(state["names"])
        self._tried = set(state["tried"])
        self._trained = set(state["trained"])
        self._carried = dict(state["history"])
        self._reused = set(state["reused"])
        self._quiet = {(code, where): count for code, where, count in state["quiet"]}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f", and {len(names) - 3} more" if len(names) > 3 else "")
