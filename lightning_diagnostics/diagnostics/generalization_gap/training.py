"""The training side of the comparison: which data is read, how much of it, and what keeps it from being read."""

import contextlib
import math
import operator
import time
from collections.abc import Iterator
from typing import Any

import torch

from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.callback.undisturbed import (
    CannotRestoreError,
    ExchangeError,
    LearningError,
    WritingError,
    undisturbed,
)
from lightning_diagnostics.callback.undisturbed.guards import signals_later
from lightning_diagnostics.diagnostics.generalization_gap import metrics
from lightning_diagnostics.diagnostics.generalization_gap.data import TrainingData, UnreadableError, find
from lightning_diagnostics.diagnostics.generalization_gap.measure import FEWEST_BATCHES
from lightning_diagnostics.diagnostics.generalization_gap.passing import Pass, Passed, Plan, StepError
from lightning_diagnostics.diagnostics.generalization_gap.validating import Validation

FREE_SECONDS = 0.5
"""A pass may take that long whatever the budget says, and it may read as many batches as a band takes."""

LONGEST_PERIOD = 20
"""Validations for one pass at the most."""

OTHER_DATA = "give the module or the data module a method train_eval_dataloader(), or set train_pass='off'."
OFF = "set train_pass='off', which turns this off, or keep that out of validation_step."


class TrainingSide:
    """Runs passes over training data while that is possible, and says why if it is not.

    Args:
        train_pass: ``"subset"``, ``"full"`` or ``"off"``.
    """

    def __init__(self, train_pass: str) -> None:
        self._much = train_pass
        self._data: TrainingData | None = None
        self._loaders: list[Any] = []  # that it was made from
        self._most: int | None = None  # samples that the budget allows
        self._fewest = 1  # that are read whatever it says
        self._period = 1  # validations for one pass
        self._turn = 0  # validations since the last
        self._modes: dict[str, bool] = {}  # of the modules in training, when the two modes were compared last
        self._ended = time.perf_counter()
        self.differ = True
        """Whether the two modes come to different numbers, as far as is known; if not, only one is run."""
        self.reason: str | None = "" if train_pass == "off" else None
        """Why no pass is made any more; empty if none was asked for, None while passes are made."""
        self.remedy = OFF

    @property
    def augments(self) -> bool:
        """Whether reading a sample twice gives two different ones."""
        return self._data is not None and self._data.augments

    def give_up(self, reason: str, remedy: str = OFF) -> None:
        """Make no pass any more in this run."""
        self.reason, self.remedy = reason, remedy

    def begin(self) -> None:
        """Training begins: the time until the first pass is counted from here."""
        self._ended = time.perf_counter()

    def rests(self) -> bool:
        """Whether this validation has no pass, for the sake of the budget; asked once in each."""
        self._turn += 1
        if self._turn < self._period:
            return True
        self._turn = 0
        return False

    def elapsed(self) -> float:
        """Seconds since the last pass."""
        return time.perf_counter() - self._ended

    @signals_later()  # until the metrics are back, too
    def run(self, trainer: Trainer, pl_module: LightningModule, validation: Validation) -> Passed | None:
        """One pass; None if it is not possible, and ``reason`` says why."""
        try:
            self._data = self._current(trainer, pl_module, validation)
            with self._progress(trainer) as watch:
                plan = self._plan(trainer, pl_module, validation, watch)
                return Pass(trainer, pl_module, self._data, plan).run()
        except UnreadableError as fault:
            self.give_up(fault.reason, fault.remedy)
        except CannotRestoreError as fault:
            self.give_up(f"not all of it could be put back: {fault}")
        except (LearningError, ExchangeError, WritingError) as fault:
            self.give_up(f"validation_step does what cannot be undone: {fault}")
        except StepError as fault:
            self.give_up(f"validation_step does not take training batches ({fault})", OTHER_DATA)
        finally:
            self._ended = time.perf_counter()
        return None

    def _current(self, trainer: Trainer, pl_module: LightningModule, validation: Validation) -> TrainingData:
        """The training data; found once, and again if the Trainer has made new loaders."""
        loaders = [loader for loader, _ in insides.training_loaders(trainer)]
        same = len(loaders) == len(self._loaders) and all(map(operator.is_, loaders, self._loaders))
        if self._data is not None and same:
            return self._data
        self._loaders = loaders
        return self._found(trainer, pl_module, validation)

    def _found(self, trainer: Trainer, pl_module: LightningModule, validation: Validation) -> TrainingData:
        """The training data, after a look at two samples of it."""
        if insides.takes_an_iterator(trainer):
            raise UnreadableError("validation_step reads from an iterator by itself", OFF)
        if insides.validation_loaders(trainer) is None:
            raise UnreadableError("each validation batch is made of batches of several loaders", OFF)
        with metrics.set_aside(pl_module), torch.no_grad():  # what they have gathered is not copied
            with undisturbed(trainer, pl_module, guard=False):  # a hook is the user's code, too
                data = find(trainer, pl_module, batch_size=validation.batch_size, like=validation.form)
            with undisturbed(trainer, pl_module, data=data.datasets, guard=False):
                data.probe()
        return data

    def _plan(self, trainer: Trainer, pl_module: LightningModule, validation: Validation, watch: Any) -> Plan:
        most = [each for each in (self._most,) if each is not None]
        whole = self._much == "full"
        samples = {
            loader: None if whole else min([count * insides.process_count(trainer), *most])
            for loader, count in validation.samples.items()
        }
        compiled = insides.is_compiled(pl_module)  # which would be compiled once more for training without gradients
        modes = {} if compiled else insides.training_modes(trainer)
        self.differ = self.differ or modes != self._modes
        self._modes = modes
        self._fewest = FEWEST_BATCHES * (validation.batch_size or 1)
        return Plan(samples, modes if self.differ else {}, form=validation.form, watch=watch)

    def adapt(self, seconds: float, elapsed: float, samples: int, budget: float) -> None:
        """Read fewer samples from now on if the last pass took too long, or make fewer passes.

        Half as many samples, or a quarter and so on, and never more again: those of different samples do not compare.

        Args:
            seconds: That the pass took.
            elapsed: Seconds between the pass before and this one.
            samples: That it read for one validation loader, of all processes.
            budget: The share of that time that it may take.
        """
        allowed = max(FREE_SECONDS, budget * elapsed)
        if self._much == "full" or seconds <= allowed:
            return
        if samples > self._fewest:
            self._most = max(self._fewest, samples // 2 ** math.ceil(math.log2(seconds / allowed)))
        else:
            self._period = min(LONGEST_PERIOD, math.ceil(self._period * seconds / allowed))

    @contextlib.contextmanager
    def _progress(self, trainer: Trainer) -> Iterator[Any]:
        """With ``"full"`` a progress bar beside the Trainer's own."""
        bar: Any = trainer.progress_bar_callback
        if self._much != "full" or bar is None or not getattr(bar, "is_enabled", False):
            yield lambda _: None
            return
        from tqdm import tqdm

        total = None if self._data is None else self._data.share(None)
        with tqdm(total=total, desc="Training data", unit="samples", leave=False) as shown:
            yield shown.update
