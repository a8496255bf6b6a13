"""The pass over training data: the module's own ``validation_step``, as if it had never been made."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.callback.undisturbed import (
    ExchangeError,
    LearningError,
    Traces,
    WritingError,
    undisturbed,
)
from lightning_diagnostics.diagnostics.generalization_gap import metrics
from lightning_diagnostics.diagnostics.generalization_gap.baseline import Targets
from lightning_diagnostics.diagnostics.generalization_gap.data import TrainingData, UnreadableError, batch_form
from lightning_diagnostics.diagnostics.generalization_gap.forms import rows
from lightning_diagnostics.diagnostics.generalization_gap.gathered import Gathered, gathered, lengths
from lightning_diagnostics.diagnostics.generalization_gap.tally import Series, Tally

MODE_BATCHES = 8
"""Training batches that are run in training mode, too; the differences of the two modes are of one batch each."""


@dataclass
class Snapshot:
    """What a pass has logged, or a part of it, in one process.

    Attributes:
        series: Of values, by name.
        objects: The paths of the objects of torchmetrics that were logged, by name.
        states: The states of all metrics that saw something, by path; of None it cannot be told.
        gathered: What the module has gathered in lists, by path.
    """

    series: dict[str, Series] = field(default_factory=dict[str, Series])
    objects: dict[str, str] = field(default_factory=dict[str, str])
    states: dict[str, metrics.State | None] = field(default_factory=dict[str, "metrics.State | None"])
    gathered: dict[str, Gathered] = field(default_factory=dict[str, Gathered])

    def apart(self) -> "Snapshot":
        """With copies of states, which metrics go on to write to."""
        return replace(self, states={path: each and metrics.copied(each) for path, each in self.states.items()})

    def portable(self) -> "Snapshot":
        """For other processes: states on the CPU, those that are too large left out."""
        states = {path: None if each is None else metrics.portable(each) for path, each in self.states.items()}
        return replace(self, states=states)


@dataclass
class Passed:
    """What the pass of one process has come to.

    Attributes:
        samples: How many there were, by the index of the validation loader that they stand for.
        evaluation: What was logged in evaluation mode.
        modes: The first batches in training mode and in evaluation mode; None if that was not asked or not possible.
        targets: The targets of the samples, as `Targets` tells them.
        seconds: How long it took.
    """

    samples: dict[int, int]
    evaluation: Snapshot
    modes: tuple[Snapshot, Snapshot] | None = None
    targets: dict[str, Any] | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What to do in a pass.

    Attributes:
        samples: How many samples to read for each validation loader, by its index; None for all.
        training: The mode of each module in training, by its path; empty if training mode is not asked.
        mode_batches: How many batches are run in training mode.
        form: Of validation batches on the device, which training batches have to have.
        watch: What is told of each batch, and of how many samples it was.
    """

    samples: Mapping[int, int | None]
    training: Mapping[str, bool]
    form: Any = None
    mode_batches: int = MODE_BATCHES
    watch: Callable[[int], None] = lambda _: None


_REFUSED = (ExchangeError, LearningError, WritingError)


class StepError(Exception):
    """The user's step, or a hook that brings a batch to the device, failed on a training batch."""

    def __init__(self, fault: Exception) -> None:
        super().__init__(f"{type(fault).__name__}: {fault}")


class Pass:
    """One pass over training data.

    Args:
        trainer: In a validation whose last batch is done.
        pl_module: Its module, in evaluation mode.
        data: The training data.
        plan: What to do.
    """

    def __init__(self, trainer: Trainer, pl_module: LightningModule, data: TrainingData, plan: Plan) -> None:
        self._trainer, self._module, self._data, self._plan = trainer, pl_module, data, plan

    def run(self) -> Passed:
        """Run it; the module, the trainer and the data are afterwards as they were.

        Raises:
            StepError: if the module's step fails.
            UnreadableError: if the data cannot be read, or are of another form than validation data.
            RuntimeError: as `undisturbed` does, if the step does what cannot be undone, or not all can be put back.
        """
        begun = time.perf_counter()
        with (
            metrics.set_aside(self._module),
            undisturbed(self._trainer, self._module, data=self._touched(), logs=True) as traces,
            insides.logging_apart(self._trainer, self._module) as apart,
            torch.no_grad(),
        ):
            self._apart, self._lengths = apart, lengths(self._module)
            in_training = self._in_training_mode(traces)
            passed = self._in_evaluation_mode(in_training)
        passed.seconds = time.perf_counter() - begun
        return passed

    def _in_training_mode(self, traces: Traces) -> Snapshot | None:
        """The first batches in the modes of training; None if that is not asked, or is more than the module can do."""
        if not self._plan.training:
            return None
        loader = next(iter(self._plan.samples))
        tally, batches = Tally(), self._batches(loader, most=self._plan.mode_batches)
        try:
            for path, module in self._module.named_modules():
                module.training = self._plan.training.get(path, module.training)
            for _ in self._steps(batches, loader, tally):
                pass
            return self._snapshot(tally).apart()
        except (StepError, *_REFUSED):  # one sample, say, where batch norm wants two
            return None
        finally:
            traces.restore()
            self._renew()

    def _in_evaluation_mode(self, in_training: Snapshot | None) -> Passed:
        passed = Passed({}, Snapshot())
        targets = Targets()
        for loader in self._plan.samples:
            self._renew()
            tally, first = Tally(), loader == next(iter(self._plan.samples))
            batches = self._noted(self._batches(loader), passed, loader, targets if first else None)
            known = None if self._data.unbatched else self._data.share(self._plan.samples[loader])
            for number, _ in enumerate(self._steps(batches, loader, tally), 1):
                if first and number == self._plan.mode_batches and in_training is not None:
                    passed.modes = in_training, self._snapshot(tally).apart()
            passed.samples[loader] = passed.samples.get(loader, 0) if known is None else known
            snapshot = self._snapshot(tally)
            if first and in_training is not None and passed.modes is None:
                passed.modes = in_training, snapshot
            passed.evaluation.series |= snapshot.series
            passed.evaluation.states |= {_of(loader, path): each for path, each in snapshot.states.items()}
            passed.evaluation.gathered |= {_of(loader, path): each for path, each in snapshot.gathered.items()}
            passed.evaluation.objects |= {name: _of(loader, path) for name, path in snapshot.objects.items()}
        passed.targets = targets.state()
        return passed

    def _batches(self, loader: int, most: int | None = None) -> Iterator[Any]:
        for number, batch in enumerate(self._data.batches(self._plan.samples[loader])):
            if number == most:
                return
            yield batch

    def _noted(self, batches: Iterator[Any], passed: Passed, loader: int, targets: Targets | None) -> Iterator[Any]:
        """Count the samples and the targets of batches, before a step may change them."""
        for batch in batches:
            size = rows(batch)
            passed.samples[loader] = passed.samples.get(loader, 0) + size
            if targets is not None:
                targets.update(batch)
            yield batch
            self._plan.watch(size)

    def _touched(self) -> list[object]:
        """What reading and moving batches may change."""
        return [*self._data.datasets, *(each for each in (getattr(self._trainer, "datamodule", None),) if each)]

    def _steps(self, batches: Iterator[Any], loader: int, tally: Tally) -> Iterator[None]:
        """Run the step on each batch."""
        for batch in batches:
            self._step(batch, loader)
            tally.note(self._apart.logged())
            yield

    def _step(self, batch: Any, loader: int) -> None:
        try:
            moved = self._apart.moved(batch, loader)
            if self._plan.form is not None and batch_form(moved) != self._plan.form:
                raise UnreadableError("training batches are of another form than validation batches")
            self._apart.step(moved, loader)
        except (UnreadableError, *_REFUSED):
            raise
        except Exception as fault:
            raise StepError(fault) from fault

    def _snapshot(self, tally: Tally) -> Snapshot:
        return snapshot(self._module, self._apart.logged(), tally.read(), behind=self._lengths)

    def _renew(self) -> None:
        self._apart.fresh()
        self._lengths = lengths(self._module)
        for metric in metrics.found(self._module).values():
            metrics.renew(metric)


def snapshot(
    module: nn.Module,
    logged: list[insides.Logged],
    series: dict[str, Series],
    *,
    behind: Mapping[str, int] | None = None,
) -> Snapshot:
    """What has been logged, with the states of the module's metrics and what it has gathered in lists.

    Args:
        module: The module.
        logged: What it has logged.
        series: Those of it that are values.
        behind: How long its lists were before.
    """
    metrics.refer(module)
    found = metrics.found(module)
    paths = {id(metric): path for path, metric in found.items()}
    named = {each.name: paths[id(each.metric)] for each in logged if id(each.metric) in paths}
    seen = {path: metric for path, metric in found.items() if metrics.is_updated(metric)}
    states: dict[str, metrics.State | None] = {path: metrics.state(metric) for path, metric in seen.items()}
    return Snapshot(series, named, states, gathered(module, behind=behind))


def _of(loader: int, path: str) -> str:
    """The path of a metric, for one of several loaders."""
    return f"{path}@{loader}" if loader else path
