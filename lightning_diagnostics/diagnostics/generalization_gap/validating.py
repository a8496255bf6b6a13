"""The validation itself, as it is seen from its batches."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.callback.trainer import Logged, loading, samples_read
from lightning_diagnostics.diagnostics.generalization_gap.classes import ClassTally, Confusion
from lightning_diagnostics.diagnostics.generalization_gap.forms import batch_form, rows
from lightning_diagnostics.diagnostics.generalization_gap.passing import Passed, Snapshot, snapshot
from lightning_diagnostics.diagnostics.generalization_gap.tally import Tally


class Validation:
    """One validation in one process.

    Args:
        per_class: Whether predictions are counted by class.
    """

    def __init__(self, *, per_class: bool) -> None:
        self.samples: dict[int, int] = {}
        self.form: Any = None
        self.batch_size: int | None = None
        self.classes = ClassTally() if per_class else None
        self._tally = Tally()
        self._batches: dict[int, int] = {}  # by loader
        self._sizes: dict[int, int] = {}  # of a full batch, by loader; 0 if the loader does not say

    def begin(self, trainer: Trainer, pl_module: LightningModule, batch: Any, loader: int) -> None:
        """A batch comes, which the step may change."""
        size = rows(batch)
        self._batches[loader] = self._batches.get(loader, 0) + 1
        said = samples_read(trainer, loader, self._batches[loader])
        self.samples[loader] = self.samples.get(loader, 0) + size if said is None else said
        if loader not in self._sizes:
            self._sizes[loader] = loading(trainer, pl_module, loader).batch_size or 0
        self.batch_size = self._sizes[loader] or max(self.batch_size or 0, size)
        if self.form is None:
            self.form = batch_form(batch)

    def note(self, entries: Iterable[Logged], outputs: Any, batch: Any, loader: int) -> None:
        """A batch is done."""
        self._tally.note(entries)
        if self.classes is not None and not loader:
            self.classes.update(outputs, batch)

    def read(self, module: nn.Module, entries: list[Logged], *, states: bool) -> Snapshot:
        """What was logged; with the states of the metrics if they are needed."""
        self._tally.finish(entries)
        series = self._tally.read()
        if states:
            return snapshot(module, entries, series)
        return Snapshot(series)


@dataclass
class Known:
    """What one process knows when the last batch of a validation is done.

    Attributes:
        validation: What was logged.
        samples: How many samples it was of, by the index of the loader.
        passed: The pass over training data; None if there was none.
        reason: Why there was none.
        remedy: What to do about it.
        elapsed: Seconds since the last pass.
        confusion: How many samples of a class (row) were predicted to be of a class (column), if that was asked.
        uncounted: Why that is not known.
    """

    validation: Snapshot
    samples: dict[int, int]
    passed: Passed | None = None
    reason: str | None = None
    remedy: str = ""
    elapsed: float = 0.0
    confusion: Confusion | None = None
    uncounted: str | None = None

    def portable(self) -> "Known":
        """For other processes: tensors on the CPU, and none that is too large."""
        passed = self.passed
        if passed is not None:
            modes = passed.modes and (passed.modes[0].portable(), passed.modes[1].portable())
            passed = Passed(passed.samples, passed.evaluation.portable(), modes, passed.targets, passed.seconds)
        return replace(self, validation=self.validation.portable(), passed=passed)
