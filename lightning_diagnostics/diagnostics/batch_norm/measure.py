"""From what was seen to plain numbers: what is drawn of a norm, and what its rules judge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_diagnostics.probes import Statistics, same_statistics
from lightning_diagnostics.statistics import Moments, statistics_mismatch
from lightning_diagnostics.tensorboard import quantity


@dataclass(frozen=True)
class WrongMode:
    """Modules that were in the wrong mode at one place.

    Attributes:
        where: The module; of many, the one that they are all in.
        layers: The modules by path.
        kind: The class of the first.
        stage: ``"training"``, ``"sanity check"``, ``"validation"``, ``"test"`` or ``"prediction"``.
        step_name: The hook whose step it is, e.g. ``"validation_step"``.
        place: Where the mode flipped, as the end of a sentence; empty if that is not known.
        cause: ``"before"`` the first batch, ``"inside"`` the step, ``"between"`` two batches, ``"hook"`` of the mode
            overridden, ``"unregistered"`` module, ``"hard-coded"`` argument, ``"values"`` that moved in evaluation
            mode, or ``"unknown"``.
        source: File and line of a function; empty for a module.
        batch: Index of the batch in which it was found.
        batches: In how many training batches in a row; 1 in evaluation.
        moved: Whether running statistics moved meanwhile.
        mended: Whether it was put into the right mode.
        step: At which it began, on the axis of ``self.log``.
    """

    where: str
    layers: tuple[str, ...]
    kind: str
    stage: str
    step_name: str
    place: str
    cause: str
    step: int
    source: str = ""
    batch: int = 0
    batches: int = 1
    moved: bool = False
    mended: bool = False


@dataclass(frozen=True)
class Drift:
    """A norm whose weights stand still while its running statistics move.

    Attributes:
        where: The module; of many, the one that they are all in.
        layers: The norms by path.
        looks: At how many looks they moved.
        shift: How far the means are from where they were at the first look, in standard deviations (median).
        alone: Whether the module before it learns, so that its own weights are all that is frozen.
        step: At which it was first seen.
    """

    where: str
    layers: tuple[str, ...]
    looks: int
    shift: float
    alone: bool
    step: int


@dataclass(frozen=True)
class LayerStatistics:
    """The statistics of one norm, at a validation.

    Attributes:
        layer: Its path.
        kind: Its class.
        where: The place of a finding, if it stands for many norms: the module that they are all in.
        layers: These norms by path.
        mean_shift: See the tag.
        log_variance_ratio: See the tag.
        train_mean_shift: See the tag.
        train_log_variance_ratio: See the tag.
        smallest_batch: See the tag.
        updates: See the tag.
        momentum: The weight of a new batch in the running statistics; None for a cumulative average.
        samples: Rows behind the shift in the validation.
        averaged: Whether its weights moved in this run without a gradient, as those of an average of weights do.
        stale: Whether its running statistics are what they were when the run began.
        trained: Whether it was seen to normalise by the batch in training.
        settled_shift: The mean shift without what the values at the start of the run still weigh in the running
            statistics; None if that is not known.
        settled_ratio: The log ratio of variances without it.
        since: Updates in this run, if they are counted.
        step: On the axis of ``self.log``.
    """

    layer: str
    kind: str
    mean_shift: float | None = quantity(
        tag="batch_norm/mean_shift/{layer}",
        unit="standard deviations",
        how="median over channels of |mean of the validation batches looked at - running mean| / "
        "sqrt(running variance + eps)",
        chart="running mean against validation batches",
    )
    log_variance_ratio: float | None = quantity(
        tag="batch_norm/log_variance_ratio/{layer}",
        unit="natural logarithm",
        how="median over channels of |log((variance of the validation batches looked at + eps) / "
        "(running variance + eps))|",
        chart="running variance against validation batches",
    )
    train_mean_shift: float | None = quantity(
        tag="batch_norm/train_mean_shift/{layer}",
        unit="standard deviations",
        how="the same for training batches, from what one update moves: (new - old) / momentum",
        chart="running mean against training batches",
    )
    train_log_variance_ratio: float | None = quantity(
        tag="batch_norm/train_log_variance_ratio/{layer}",
        unit="natural logarithm",
        how="the same for training batches, from what one update moves: (new - old) / momentum",
        chart="running variance against training batches",
    )
    smallest_batch: int | None = quantity(
        tag="batch_norm/smallest_batch/{layer}",
        unit="rows",
        how="the smallest first axis of its inputs at the looks of the epoch, per process",
    )
    updates: int | None = quantity(
        tag="batch_norm/updates/{layer}",
        unit="updates",
        how="num_batches_tracked: how often the running statistics were updated",
    )
    momentum: float | None = None
    samples: int = 0
    averaged: bool = False
    stale: bool = False
    trained: bool = False
    settled_shift: float | None = None
    settled_ratio: float | None = None
    since: int | None = None
    step: int = 0
    where: str = ""
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Overview:
    """The model as a whole, at a validation."""

    prediction_change: float | None = quantity(
        tag="batch_norm/prediction_change",
        unit="share of the spread",
        how="root mean square change of predictions when other samples of the batch are replaced, over their standard "
        "deviation; 0 where they do not change",
    )
    worst_mean_shift: float | None = quantity(
        tag="batch_norm/worst_mean_shift",
        unit="standard deviations",
        how="the largest mean_shift of all norms",
        chart="largest shift of a running mean",
    )


@dataclass(frozen=True)
class SmallBatch:
    """How few rows a norm had to compute statistics from.

    Attributes:
        where: The module; of many, the one that they are all in.
        layers: The norms by path.
        smallest: Rows of the smallest batch, per process.
        usual: Rows of the median batch.
        looks: Looks behind it.
        synchronized: Processes whose batches are put together by ``SyncBatchNorm``; 1 without.
        step: Of the smallest batch.
    """

    where: str
    layers: tuple[str, ...]
    smallest: int
    usual: float
    looks: int
    synchronized: int
    step: int


@dataclass(frozen=True)
class RankDifference:
    """Running statistics that are not the same on all ranks while they evaluate.

    Attributes:
        where: The module; of many, the one that they are all in.
        layers: The norms by path.
        shift: The largest difference from rank zero: of means in standard deviations, or log ratio of variances, median
            over channels.
        ranks: How many processes there are.
        step: On the axis of ``self.log``.
    """

    where: str
    layers: tuple[str, ...]
    shift: float
    ranks: int
    step: int


@dataclass(frozen=True)
class Reuse:
    """A norm that is called more than once in a training step.

    Attributes:
        where: The module; of many, the one that they are all in.
        layers: The norms by path.
        calls: How often.
        step: On the axis of ``self.log``.
    """

    where: str
    layers: tuple[str, ...]
    calls: int
    step: int


@dataclass(frozen=True)
class Design:
    """A norm that can but normalise by the batch, in evaluation too.

    Attributes:
        where: The module; of many, the one that they are all in.
        layers: The norms by path.
        kind: Its class, or the function.
        source: File and line of a function; empty for a module.
        stage: Of which evaluation.
        step: On the axis of ``self.log``.
    """

    where: str
    layers: tuple[str, ...]
    kind: str
    source: str
    stage: str
    step: int


@dataclass(frozen=True)
class Momentum:
    """How fast the running statistics of a norm follow.

    Attributes:
        where: The module; of many, the one that they are all in.
        layers: The norms by path.
        momentum: The weight of a new batch.
        updates: How many there were.
        step: On the axis of ``self.log``.
    """

    where: str
    layers: tuple[str, ...]
    momentum: float
    updates: int
    step: int


Part = tuple[int, NDArray[np.float64], NDArray[np.float64]]
"""Of one batch: positions, and by channel the mean and the mean squared difference from it."""


def of_batches(running: Statistics, parts: Sequence[Part], *, eps: float) -> tuple[float, float]:
    """How far batches are from running statistics: shift of the mean and log ratio of variances, medians over channels.

    Args:
        running: Means and variances.
        parts: Of the batches.
        eps: Of the norm.
    """
    whole = None
    for count, mean, variance in parts:
        part = Moments(count, mean, variance * count)
        whole = part if whole is None else whole.merge(part)
    assert whole is not None
    return statistics_mismatch(*running, whole.mean, whole.variance, eps=eps)


def without_start(running: Statistics, start: Statistics, left: float) -> Statistics:
    """Running statistics without what those at the start still weigh in them, less than all."""
    mean, variance = ((now - left * then) / (1 - left) for now, then in zip(running, start, strict=True))
    return mean, np.maximum(variance, 0.0)


def of_update(before: Statistics, after: Statistics, *, momentum: float, eps: float) -> tuple[float, float]:
    """The same for the batch of one update, from what it moved: new = (1 - momentum) old + momentum batch."""
    mean = before[0] + (after[0] - before[0]) / momentum
    variance = np.maximum(before[1] + (after[1] - before[1]) / momentum, 0.0)
    return statistics_mismatch(*before, mean, variance, eps=eps)


def together(layers: Sequence[str], most: int = 4) -> list[tuple[str, tuple[str, ...]]]:
    """Layers as places of findings: each its own, or, if they are many, all of them the module that they are in."""
    if len(layers) <= most:
        return [(layer, (layer,)) for layer in layers]
    parts = [layer.split(".") for layer in layers]
    shared: list[str] = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return [(".".join(shared) or "self", tuple(layers))]


def far_apart(statistics: Sequence[Mapping[str, Statistics]], eps: float = 1e-5) -> dict[str, float]:
    """By layer, how far the means of several ranks are apart at the most; only layers that are not all the same."""
    first, found = statistics[0], dict[str, float]()
    for other in statistics[1:]:
        for layer in (each for each in first if each in other):
            if first[layer][0].shape != other[layer][0].shape:
                continue
            if not same_statistics(first[layer], other[layer]):
                shifts = statistics_mismatch(*first[layer], *other[layer], eps=eps)
                shift = max((each for each in shifts if not np.isnan(each)), default=np.inf)  # one of them is all NaN
                found[layer] = max(found.get(layer, 0.0), shift)
    return found
