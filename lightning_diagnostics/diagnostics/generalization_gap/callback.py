"""`GeneralizationGapMonitor`: training and validation measured on the same footing, and the onset of overfitting."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import torch
from typing_extensions import override

from lightning_diagnostics.callback import At, DiagnosticCallback, OnFinding, whole_number
from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.arguments import one_of
from lightning_diagnostics.callback.budget import Budget
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.diagnostics.generalization_gap import measure, metrics
from lightning_diagnostics.diagnostics.generalization_gap.baseline import constant
from lightning_diagnostics.diagnostics.generalization_gap.caption import caption
from lightning_diagnostics.diagnostics.generalization_gap.classes import ClassTally, picture
from lightning_diagnostics.diagnostics.generalization_gap.classes import scores as scores_of_classes
from lightning_diagnostics.diagnostics.generalization_gap.course import Around, Course, Question, Settings
from lightning_diagnostics.diagnostics.generalization_gap.measure import ConfusionMatrix, MetricGap
from lightning_diagnostics.diagnostics.generalization_gap.names import Names
from lightning_diagnostics.diagnostics.generalization_gap.rules import RULES, Limits, overconfident, overfitting
from lightning_diagnostics.diagnostics.generalization_gap.scoring import Score, Scoring, hooked, passed_samples
from lightning_diagnostics.diagnostics.generalization_gap.training import OFF, TrainingSide
from lightning_diagnostics.diagnostics.generalization_gap.validating import Known, Validation
from lightning_diagnostics.findings import Finding, Rule

TrainPass = Literal["subset", "full", "off"]
Criterion = Literal["patience", "GL", "PQ", "UP"]

MOST_METRICS = 12
"""Metrics that are drawn."""


class GeneralizationGapMonitor(DiagnosticCallback):
    """Measures training data as validation data is measured, and tells overfitting from what only looks like it.

    The training loss that is usually plotted is an average over an epoch of changing weights, with dropout and
    augmentation; the validation loss is that of the end of the epoch without them. At the end of every validation this
    callback runs the module's own ``validation_step`` over training data, in evaluation mode, with the weights of that
    moment, so that each validation metric gets a training twin, and a gap with a 95 % band, under its own name. Some
    batches are run in training mode, too: how much worse evaluation mode is on the same data is the other part of the
    difference between the usual curves. The module, its metrics, lists and counters, the loaders, the loggers and all
    generators of random numbers are afterwards as they were.

    What it costs: with ``train_pass="subset"`` about what the validation costs, once more, and eight training batches
    in both modes; less where ``time_budget`` says so. Between validations nothing.

    What is drawn, at each validation, for up to twelve metrics: ``gap/<metric>`` with its band, the training twin, the
    validation metric, the part of the mode, and how each changed; ``gap/training_samples`` and
    ``gap/validation_samples``. ``trainer.callback_metrics`` has ``gap/<metric>`` and ``gap/training/<metric>``, in time
    for ``ModelCheckpoint`` and ``EarlyStopping`` wherever they are in the list of callbacks.

    Findings: ``overfitting`` (GAP101), ``validation-too-good`` (GAP102), ``mode-gap`` (GAP103), ``underfitting``
    (GAP104); notes ``overconfident`` (GAP801), ``gap-within-noise`` (GAP802), ``unmeasured-gap`` (GAP901).

    Args:
        train_pass: ``"subset"`` reads a fixed random subset of the training data, as large as the validation data;
            ``"full"`` all of it, with a progress bar; ``"off"`` none: then there is neither a gap nor a finding. A
            method ``train_eval_dataloader()`` of the module or the data module gives the loader to read, if there is
            one; else one is made from the data set of the training loader.
        monitor: The validation metric whose onset of overfitting is looked for; by default the validation loss (of
            each loader one).
        directions: Which way a metric is better, ``{"val_score": "max"}``; by default told from the callbacks that
            watch it, from torchmetrics, or from its name. A metric of which it is not known is drawn, not judged.
        criterion: When overfitting is declared: after the ``"patience"``, or when, beside it, one of Prechelt's (1998)
            holds: ``"GL"`` (generalization loss), ``"PQ"`` (its quotient with training progress), ``"UP"`` (successive
            rises). Their thresholds are limits; with ``patience=1`` they are what he describes.
        patience: Validations without a better one after which overfitting is declared; no verdict before.
        min_relative_improvement: What counts as better, as a share of the best.
        strip: Validations in one strip of ``"PQ"`` and ``"UP"``.
        time_budget: The share of the time between two validations that a subset pass may take; if one took longer than
            that (and than half a second), the next ones read half as many samples, or a quarter and so on; if
            ten batches take too long, not every validation has a pass. The number is drawn; rank zero decides.
        per_class: Draw precision and recall of each class and the confusion matrix, if ``validation_step`` returns
            predictions and targets (a mapping with ``"preds"`` or ``"logits"`` and ``"target"``, say).
        on_finding: What to do about a finding: ``"report"`` it, ``"stop"`` training after the batch, or ``"raise"`` a
            ``FindingError``. With several processes the ranks agree on it at the end of the epoch or of a validation.
            ``"stop"`` on overfitting is early stopping with patience and relative improvement.
        at: The severity from which ``"stop"`` and ``"raise"`` act: ``"warning"`` or ``"error"``.
        limits: Limits to override, by name, e.g. ``{"overfitting.rise": 0.1}``.
        strict: Raise our own faults instead of switching off (for tests).

    Raises:
        ValueError: if a word or a limit is not known, or a value is not allowed.
        TypeError: if a value is of the wrong kind.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.callbacks import ModelCheckpoint
        >>> from lightning_diagnostics import GeneralizationGapMonitor
        >>> best = ModelCheckpoint(monitor="gap/val_loss")
        >>> trainer = Trainer(callbacks=[best, GeneralizationGapMonitor(patience=3)], logger=False)
    """

    rules = RULES[:-1]
    blind_rule = RULES[-1]
    default_limits = Limits()
    goes_first = True
    state_outlives_run = True
    presets: ClassVar[Mapping[str, Mapping[str, Any] | None]] = {
        "light": None,
        "thorough": {"per_class": True, "time_budget": 1.0},
    }

    def __init__(
        self,
        *,
        train_pass: TrainPass = "subset",
        monitor: str | None = None,
        directions: dict[str, str] | None = None,
        criterion: Criterion = "patience",
        patience: int = 5,
        min_relative_improvement: float = 0.001,
        strip: int = 5,
        time_budget: float = 0.05,
        per_class: bool = False,
        on_finding: OnFinding = "report",
        at: At = "warning",
        limits: dict[str, float] | None = None,
        strict: bool = False,
    ) -> None:
        # Validate the arguments.
        one_of("train_pass", train_pass, get_args(TrainPass))
        one_of("criterion", criterion, get_args(Criterion))
        whole_number("patience", patience, low=1)
        whole_number("strip", strip, low=2)
        _share("min_relative_improvement", min_relative_improvement, low=0.0)
        _share("time_budget", time_budget, low=1e-6)
        _check_directions(directions)
        if not isinstance(per_class, bool):  # pyright: ignore[reportUnnecessaryIsInstance]  # users have no type checker
            raise TypeError(f"per_class={per_class!r}: allowed are True and False")
        if not (monitor is None or isinstance(monitor, str)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"monitor={monitor!r}: expected the name of a metric, or None")
        super().__init__(on_finding=on_finding, at=at, limits=limits, strict=strict)

        # Set up a monitor that has seen nothing.
        self.train_pass: TrainPass = train_pass
        self.monitor = monitor
        self.directions = dict(directions or {})
        self.criterion: Criterion = criterion
        self.patience = patience
        self.min_relative_improvement = min_relative_improvement
        self.strip = strip
        self.time_budget = time_budget
        self.per_class = per_class
        self._reset()

    def _reset(self) -> None:
        """Forget everything about the validations of this run."""
        how = Settings(
            self.monitor, self.directions, self.criterion, self.patience, self.min_relative_improvement, self.strip
        )
        self._course = Course(how, self._limits)
        self._start_over()

    def _start_over(self) -> None:
        """Forget everything about this process."""
        self._side = TrainingSide(self.train_pass)
        self._names = Names()
        self._said: set[str] = set()  # notes on what cannot be measured
        self._published: set[str] = set()  # names that callbacks can watch
        self._validation: Validation | None = None
        self._mine: Known | None = None  # for the other processes
        self._known: list[Known] = []
        self._drawn = Budget(MOST_METRICS)

    # The life of a run.

    @override
    def forget(self) -> None:
        self._reset()

    @override
    def attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._side.begin()
        if self.train_pass != "off" and insides.is_sharded(trainer):
            self._side.give_up(f"{type(trainer.strategy).__name__} spreads the weights over the processes", OFF)

    @override
    def detach(self) -> None:
        self._start_over()

    @override
    def watching(self, trainer: Trainer, pl_module: LightningModule) -> str:
        if self.train_pass == "off":
            return "the generalization gap is not measured (train_pass='off'): blind"
        if not insides.is_overridden(pl_module, "validation_step") or not trainer.enable_validation:
            return "no validation, so no generalization gap: blind"
        much = "all training data" if self.train_pass == "full" else "a subset of the training data"
        return f"{much} in evaluation mode at each validation"

    @override
    def undecided(self) -> list[str]:
        return self._course.undecided()

    # A validation.

    @override
    def evaluation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation = Validation(per_class=self.per_class) if trainer.state.fn == "fit" else None
        self._mine, self._known = None, []

    @override
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._validation is not None:
            self._validation.begin(trainer, pl_module, batch, dataloader_idx)

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
        if self._validation is not None:
            self._validation.note(insides.logged(trainer), outputs, batch, dataloader_idx)

    @override
    def evaluation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All batches are done, and the module's own hook comes next, which may empty what was gathered."""
        validation = self._validation
        if validation is None:
            return
        seen = validation.read(pl_module, insides.logged(trainer), states=self._names.wanted)
        elapsed = self._side.elapsed()
        passed = None
        if not trainer.sanity_checking and self._side.reason is None and not self._side.rests():
            passed = self._side.run(trainer, pl_module, validation)
        classes = validation.classes
        confusion = None if classes is None else classes.state()
        problem = None if classes is None else classes.problem
        reason, remedy = self._side.reason, self._side.remedy
        self._mine = Known(seen, validation.samples, passed, reason, remedy, elapsed, confusion, problem)
        self._known = [self._mine]  # of several processes `take_in` brings those of all

    @override
    def share(self) -> Any:
        return None if self._mine is None else self._mine.portable()

    @override
    def take_in(self, trainer: Trainer, pl_module: LightningModule, shared: list[Any]) -> None:
        if self._mine is not None:
            self._mine, self._known = None, shared

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The user's hook has run and all metrics are final; nobody has asked for them yet, since we come first."""
        validation, known = self._validation, self._known
        self._validation, self._mine, self._known = None, None, []
        if validation is None or not known:
            return
        if len(known) < insides.process_count(trainer):
            known = [replace(each, passed=None, reason=_APART, remedy=_TOGETHER) for each in known]
        ended, found = insides.logged(trainer), metrics.found(pl_module)
        if trainer.sanity_checking and insides.process_count(trainer) > 1:
            return  # the ranks do not meet in it
        own = hooked(ended, {name for each in known for name in each.validation.series})
        own = {name: _number(trainer.callback_metrics.get(name), value) for name, value in own.items()}  # exchanged
        seen = [each.validation for each in known]
        self._names.learn(own, found, seen, pl_module.device, rank=min(trainer.global_rank, len(seen) - 1))
        if trainer.sanity_checking:
            return
        samples = insides.validation_samples(trainer, [each.samples for each in known])
        scoring = Scoring(known, found, self._names, pl_module.device, samples)
        scores = scoring.scores(ended, trainer.callback_metrics)
        self._conclude(trainer, scores, known)

    def _conclude(self, trainer: Trainer, scores: list[Score], known: list[Known]) -> None:
        """Draw, publish and judge one validation."""
        step = insides.log_step(trainer)
        passed = [each.passed for each in known if each.passed is not None]
        whole = passed if len(passed) == len(known) else []  # of all processes, or it says nothing
        best = constant([each.targets for each in whole])
        around = Around(step, insides.monitored(trainer), best, self._side.augments, self._side.differ)
        gaps = self._course.add(scores, around)
        self._say_blind(trainer, scores, known)
        values = _published(gaps)
        rested = all(each.passed is None and each.reason is None for each in known)
        twins = {name for each in whole for name in (*each.evaluation.series, *each.evaluation.objects)}
        self._published |= set(values) | {f"{of}{name}" for name in twins for of in ("gap/", "gap/training/")}
        gone = set() if rested else self._published - set(values)  # lest those who watch them take the last for these
        insides.publish(trainer, {**values, **dict.fromkeys(gone, math.nan)})
        self._draw(trainer, gaps, known, step=step)
        for question in self._course.questions(scores, around):
            self._ask(trainer, question, step=step)
        self._settle(known, scores)

    def _ask(self, trainer: Trainer, question: Question, *, step: int) -> None:
        """Put a question to its rule; a finding that does not hold any more is taken back."""
        rule, where = question.rule, question.where
        asked = question.measured is not None
        verdict = self.judge(trainer, rule, question.measured, step=step) if asked else None
        if verdict is None and not question.lasting:
            self._close(rule, where, step=step)
        if isinstance(verdict, Finding) and rule in (overfitting, overconfident):  # it is not the other one, then
            self._close(overconfident if rule is overfitting else overfitting, where, step=step)

    def _close(self, rule: Rule, where: str, *, step: int) -> None:
        for finding in self.findings:
            if finding.code == rule.code and finding.where == where and finding.status == "open":
                self.close(finding, step=step)

    def _say_blind(self, trainer: Trainer, scores: list[Score], known: list[Known]) -> None:
        """Say, once, why there is no pass, or which metrics have no twin."""
        reasons = [each for each in known if each.reason]
        if reasons and "reason" not in self._said:
            self._said.add("reason")
            reason = reasons[0].reason or ""
            message = f"Training data are not measured as validation data are: {reason}."
            self.note_blind(trainer, message, reasons[0].remedy)
        wrong = self._course.unknown()
        if wrong is not None and "monitor" not in self._said:
            self._said.add("monitor")
            self.note_blind(
                trainer, f"The onset of overfitting is not looked for: {wrong}.", "name a metric that is logged."
            )
        lone = [each.name for each in scores if each.training is None]
        measured = all(each.passed is not None for each in known)
        if lone and measured and "lone" not in self._said and self._course.validations > 1:
            self._said.add("lone")
            self.note_blind(
                trainer,
                f"{', '.join(lone)} cannot be measured on training data: made at the end of the validation, from what "
                "cannot be followed.",
                "log a torchmetrics object, or the value of each batch, in validation_step.",
            )

    # Drawing.

    def _draw(self, trainer: Trainer, gaps: list[MetricGap], known: list[Known], *, step: int) -> None:
        own = {code.code for code in self.rules}
        ill = {each.where or "" for each in self.findings if each.status == "open" and each.code in own}
        chosen = self._drawn.choose({each.layer: 0.0 for each in gaps}, ill)
        shown = [each for each in gaps if each.layer in chosen]
        validation = insides.validation_samples(trainer, [each.samples for each in known])
        samples = measure.Samples(
            training=max(_training_samples(known).values(), default=None),
            validation=max(validation.values(), default=None),
        )
        words = caption(shown, self._course.widths, self._course.samples, samples)
        classes = self._classes(trainer, known) if self.per_class else []
        self.draw(trainer, samples, *shown, *classes, words, step=step)
        self.lay_out("generalization gap", *shown, *classes)

    def _classes(self, trainer: Trainer, known: list[Known]) -> list[object]:
        """What is drawn of the classes; none if predictions could not be counted."""
        confusion = ClassTally.merge([each.confusion for each in known])
        problem = next((each.uncounted for each in known if each.uncounted), None)
        if confusion is None:
            if problem and "classes" not in self._said:
                self._said.add("classes")
                message = f"There are no scores of each class: {problem}."
                self.note_blind(trainer, message, "return {'preds': ..., 'target': ...} from validation_step.")
            return []
        names = insides.class_names(trainer)
        return [*scores_of_classes(confusion, names), ConfusionMatrix(picture(confusion))]

    def _settle(self, known: list[Known], scores: list[Score]) -> None:
        """Settle what the next pass does; every process comes to the same, since all know the same."""
        reasons = [each for each in known if each.reason is not None]
        if reasons:  # none goes on alone
            self._side.give_up(reasons[0].reason or "", reasons[0].remedy)
        last = passed_samples(known)
        if last is not None:
            self._side.adapt(last[1], last[2], last[0], self.time_budget)
        pairs = [each.modes for each in scores if each.modes is not None]
        if pairs:
            self._side.differ = any(one.value != other.value for one, other in pairs)

    # Resuming.

    @override
    def room_state(self) -> dict[str, Any]:
        return self._course.plain()

    @override
    def load_room_state(self, state: Mapping[str, Any]) -> None:
        self._course.load(state)


_APART = "not every process has this callback, or it was switched off in one"
_TOGETHER = "give every process the same callbacks; the log says why one was switched off."


def _number(published: Any, value: float) -> float:
    """What callbacks are told of a metric, or else what one process has logged."""
    return float(published) if isinstance(published, torch.Tensor) and published.numel() == 1 else value


def _published(gaps: Iterable[MetricGap]) -> dict[str, float]:
    """What callbacks can watch."""
    values: dict[str, float] = {}
    for each in gaps:
        if each.gap is not None and each.training is not None:
            values |= {f"gap/{each.layer}": each.gap, f"gap/training/{each.layer}": each.training}
    return values


def _training_samples(known: list[Known]) -> dict[int, int]:
    """Samples of the pass, of all processes, by the index of the validation loader."""
    found: dict[int, int] = {}
    for each in known:
        for loader, number in each.passed.samples.items() if each.passed is not None else ():
            found[loader] = found.get(loader, 0) + number
    return found


def _share(name: str, value: object, *, low: float) -> None:
    """Check a share of something."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={value!r}: expected a number")
    if not low <= value <= 1:
        raise ValueError(f"{name}={value!r}: allowed is {low:g} to 1")


def _check_directions(told: object) -> None:
    if told is None:
        return
    if not isinstance(told, Mapping):
        raise TypeError(f"directions={told!r}: expected a mapping from the name of a metric to 'min' or 'max'")
    for name, way in told.items():
        if way not in ("min", "max"):
            raise ValueError(f"directions: {name!r} is {way!r}: allowed are 'min' and 'max'")
