"""Every validation metric beside its training twin, from what all processes know."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torchmetrics import Metric

from lightning_diagnostics.callback.trainer import Logged
from lightning_diagnostics.diagnostics.generalization_gap import metrics
from lightning_diagnostics.diagnostics.generalization_gap.gathered import mean
from lightning_diagnostics.diagnostics.generalization_gap.measure import Value
from lightning_diagnostics.diagnostics.generalization_gap.names import Names
from lightning_diagnostics.diagnostics.generalization_gap.passing import Passed, Snapshot
from lightning_diagnostics.diagnostics.generalization_gap.tally import Series, Tally, together
from lightning_diagnostics.diagnostics.generalization_gap.validating import Known


@dataclass(frozen=True)
class Score:
    """One metric.

    Attributes:
        name: As it is logged.
        loader: The index of its validation loader.
        validation: Over validation data.
        training: Over training data, in evaluation mode; None if it has no twin.
        modes: Of the same few training batches, in training mode and in evaluation mode.
        metric: The object of torchmetrics, if it is one.
    """

    name: str
    loader: int
    validation: Value
    training: Value | None = None
    modes: tuple[Value, Value] | None = None
    metric: Metric | None = None


class Scoring:
    """Puts together what the processes know of one validation.

    Args:
        known: Of each process.
        found: The metrics of the module by path.
        names: Which of them belongs to a name that a hook has logged.
        device: Where to compute.
        samples: How many validation samples there are without padding, by the index of the loader.
    """

    def __init__(
        self,
        known: list[Known],
        found: Mapping[str, Metric],
        names: Names,
        device: torch.device,
        samples: Mapping[int, int],
    ) -> None:
        self._known, self._found, self._names, self._device, self._samples = known, found, names, device, samples
        passed = [each.passed for each in known]
        self._passed = [each for each in passed if each is not None] if None not in passed else []

    def scores(self, ended: list[Logged], published: Mapping[str, Any]) -> list[Score]:
        """Every metric that is a finite number, in the order of logging.

        Args:
            ended: What has been logged when the validation is over.
            published: What callbacks are told.
        """
        found = (self._score(entry, published) for entry in ended)
        return [each for each in found if each is not None and math.isfinite(each.validation.value)]

    def _score(self, entry: Logged, published: Mapping[str, Any]) -> Score | None:
        validation = self._validation(entry, published)
        if validation is None:
            return None
        path = self._path(entry.name)
        training = self._over([each.evaluation for each in self._passed], entry, path, self._training_samples(entry))
        return Score(
            entry.name,
            entry.loader,
            validation,
            training,
            self._modes(entry, path),
            self._found.get((path or "").partition("@")[0]),
        )

    def _validation(self, entry: Logged, published: Mapping[str, Any]) -> Value | None:
        samples = self._samples.get(entry.loader, 0)
        series = [each.validation.series[entry.name] for each in self._known if entry.name in each.validation.series]
        if entry.reduction != "metric" and len(series) == len(self._known):
            whole = together(series)
            return Value(whole.value, samples, whole if whole.reduction == "mean" else None)
        number = published.get(entry.name)
        if isinstance(number, torch.Tensor) and number.numel() == 1:
            return Value(float(number), samples)
        return None

    def _path(self, name: str) -> str | None:
        """The metric behind a name, or the list, in the snapshots of the pass."""
        logged = [each.evaluation.objects for each in self._passed]
        return next((each[name] for each in logged if name in each), None) or self._names.path(name)

    def _training_samples(self, entry: Logged) -> int:
        return sum(each.samples.get(entry.loader, 0) for each in self._passed)

    def _over(self, parts: list[Snapshot], entry: Logged, path: str | None, samples: int) -> Value | None:
        """A metric over one set of samples of all processes."""
        if not parts:
            return None
        series = [each.series[entry.name] for each in parts if entry.name in each.series]
        if len(series) == len(parts):
            return self._mean(together(series), entry, samples)
        lists = [each.gathered[path] for each in parts if path in each.gathered]
        if len(lists) == len(parts):
            number = mean(lists)
            return None if number is None else Value(number, samples)
        states = [each.states.get(path or "") for each in parts]
        metric = self._found.get((path or "").partition("@")[0])
        known = [each for each in states if each is not None]
        if metric is None or len(known) < len(states):
            return None
        try:
            number = metrics.value(metric, known, self._device)
        except Exception:  # noqa: BLE001  # a metric of the user's that is not defined on these samples
            return None
        return None if number is None or not math.isfinite(number) else Value(number, samples)

    def _mean(self, whole: Series, entry: Logged, samples: int) -> Value | None:
        if not math.isfinite(whole.value):
            return None
        if whole.reduction == "sum":  # of as many samples as the validation has
            scale = self._samples.get(entry.loader, 0) / samples if samples else math.nan
            return Value(whole.value * scale, samples) if math.isfinite(scale) else None
        return Value(whole.value, samples, whole if whole.reduction == "mean" else None)

    def _modes(self, entry: Logged, path: str | None) -> tuple[Value, Value] | None:
        pairs = [each.modes for each in self._passed if each.modes is not None]
        if not pairs or len(pairs) < len(self._passed):
            return None
        plain = (path or "").partition("@")[0] or None
        both = tuple(self._over([pair[index] for pair in pairs], entry, plain, 0) for index in (0, 1))
        return None if both[0] is None or both[1] is None else (both[0], both[1])


def hooked(ended: list[Logged], step: Collection[str]) -> dict[str, float]:
    """What the user's own hook has logged at the end of a validation, by name."""
    own = [each for each in ended if each.name not in step and each.reduction != "metric"]
    tally = Tally()
    tally.note(own)
    return {name: each.value for name, each in tally.read().items()}


def passed_samples(known: list[Known]) -> tuple[int, float, float] | None:
    """Samples of the pass for one loader, its seconds, and those since the pass before; None if there was none."""
    passes: list[Passed | None] = [each.passed for each in known]
    first = passes[0] if passes else None
    if first is None or None in passes:
        return None
    loaders = list(first.samples)
    most = max(sum(each.samples.get(loader, 0) for each in passes if each is not None) for loader in loaders)
    return most, first.seconds, known[0].elapsed
