"""Training and validation on the same footing: the numbers that are drawn and judged."""

import math
from dataclasses import dataclass
from typing import Literal

from lightning_diagnostics import statistics
from lightning_diagnostics.diagnostics.generalization_gap.class_scores import ClassScores as ClassScores
from lightning_diagnostics.diagnostics.generalization_gap.class_scores import ConfusionMatrix as ConfusionMatrix
from lightning_diagnostics.diagnostics.generalization_gap.tally import Series
from lightning_diagnostics.tensorboard import Text, quantity

FEWEST_BATCHES = 10
"""Batches from which on their means tell how sure a mean is; with fewer no band is drawn."""

CONFIDENCE = 0.95
"""Of the bands that are drawn."""

_CHART = "{layer}: training, validation and gap"
_CHANGES = "{layer}: change since the last validation"


@dataclass(frozen=True)
class Value:
    """What one metric has come to over one set of samples.

    Attributes:
        value: The metric.
        samples: How many samples it is of, of all processes.
        series: Its means by block, if it is a mean of what was logged for each batch.
    """

    value: float
    samples: int
    series: Series | None = None

    @property
    def correct(self) -> int | None:
        """The number of samples that it is the share of; None if it is no such share."""
        near = round(self.value * self.samples) if math.isfinite(self.value) else 0
        whole = abs(self.value * self.samples - near) <= min(1e-6 * self.samples, 0.01)  # float32 knows no more
        return near if self.samples and whole and 0 <= self.value <= 1 else None


@dataclass(frozen=True)
class Band:
    """An interval with the number that it is around."""

    low: float
    high: float


def difference(one: Value, other: Value, *, share: bool, confidence: float = CONFIDENCE) -> Band | None:
    """The interval of the difference of two metrics over different samples; None if they do not tell how sure they are.

    Args:
        one: Of one set.
        other: Of the other, which is subtracted.
        share: Whether the metric is a share of samples.
        confidence: Of the interval.
    """
    if share and one.correct is not None and other.correct is not None:
        return Band(
            *statistics.accuracy_difference_interval(
                one.correct, one.samples, other.correct, other.samples, confidence=confidence
            )
        )
    if not share and _enough(one) and _enough(other):
        assert one.series is not None
        assert other.series is not None
        _, low, high = statistics.mean_difference_interval(
            (one.series.means, one.series.weights), (other.series.means, other.series.weights), confidence=confidence
        )
        return Band(low, high)
    return None


def rise(now: Series | None, before: Series | None, *, fewest: int) -> Band | None:
    """The interval of the change of a mean between two passes over the same batches; None with too few of them."""
    if now is None or before is None or now.weights != before.weights or len(now.means) < fewest:
        return None
    if not (now.finite and before.finite):
        return None
    _, low, high = statistics.paired_difference_interval(now.means, before.means, now.weights, confidence=CONFIDENCE)
    return Band(low, high)


def resolution(value: Value, *, share: bool) -> float | None:
    """Half the width of the interval of a metric, which is what its samples can tell apart at best."""
    if share and value.correct is not None:
        low, high = statistics.accuracy_interval(value.correct, value.samples, confidence=CONFIDENCE)
        return (high - low) / 2
    if not share and _enough(value):
        assert value.series is not None
        _, error, degrees = statistics.mean_of_batches(value.series.means, value.series.weights)
        return error * statistics.t_quantile((1 + CONFIDENCE) / 2, degrees)
    return None


def _enough(value: Value) -> bool:
    return value.series is not None and value.series.finite and len(value.series.means) >= FEWEST_BATCHES


@dataclass(frozen=True)
class MetricGap:
    """One validation metric, its training twin, and what lies between.

    The gap is positive where training is better: validation less training for what shall be small (and for metrics of
    which it is not known), training less validation for what shall be large.

    Attributes:
        layer: The name of the metric.
    """

    layer: str
    training: float | None = quantity(
        tag="gap/training/{layer}",
        unit="that of the metric",
        how="the module's own validation_step over training data, in evaluation mode, with the weights of this moment",
        chart=_CHART,
    )
    validation: float | None = quantity(
        tag="gap/validation/{layer}",
        unit="that of the metric",
        how="over the validation data, as logged; a mean is that of the samples of all processes",
        chart=_CHART,
    )
    gap: float | None = quantity(
        tag="gap/{layer}",
        unit="that of the metric",
        how="validation less training (training less validation, if it shall be large), both in evaluation mode",
        chart=_CHART,
        band=("gap_low", "gap_high"),
    )
    gap_low: float | None = quantity(
        tag="gap/low/{layer}",
        unit="that of the metric",
        how="lower end of the 95 % interval of the gap: Newcombe 1998 for shares of samples, Welch's t over the means "
        "of ten or more batches for other means",
    )
    gap_high: float | None = quantity(
        tag="gap/high/{layer}", unit="that of the metric", how="upper end of the 95 % interval of the gap"
    )
    mode: float | None = quantity(
        tag="gap/mode/{layer}",
        unit="that of the metric",
        how="how much worse evaluation mode is than training mode, on the same training batches with the same weights: "
        "with it the gap is that of the usual curves",
        chart="how much worse evaluation mode is on training data",
    )
    training_change: float | None = quantity(
        tag="gap/training_change/{layer}",
        unit="that of the metric",
        how="training twin less that of the validation before",
        chart=_CHANGES,
    )
    validation_change: float | None = quantity(
        tag="gap/validation_change/{layer}",
        unit="that of the metric",
        how="validation metric less that of the validation before",
        chart=_CHANGES,
    )


@dataclass(frozen=True)
class Samples:
    """How many samples the numbers are of."""

    training: int | None = quantity(
        tag="gap/training_samples", unit="samples", how="training samples of the pass, of all processes"
    )
    validation: int | None = quantity(
        tag="gap/validation_samples", unit="samples", how="validation samples, of all processes, without padding"
    )


@dataclass(frozen=True)
class Caption:
    """The numbers of one validation in words."""

    text: Text | None = quantity(
        tag="gap/resolution",
        unit="table",
        how="each metric with its training twin, the gap, its 95 % interval, half the width of the 95 % interval of "
        "the validation metric (Wilson for shares of samples, Student's t over the means of batches for others), its "
        "change since the validation before, and how many samples would make the half width as small as that",
    )


@dataclass(frozen=True)
class Onset:
    """A validation loss since it was best.

    Of a metric that shall be large, ``best``, ``now`` and those of training are its negative.

    Attributes:
        metric: Its name.
        large: Whether it shall be large.
        step: At which it was best.
        validations: How many there have been.
        since: How many of them came after the best.
        patience: After how many without a better one it is asked.
        last: How many of the last ones the means below are of.
        criterion: How it is asked: ``"patience"``, ``"GL"``, ``"PQ"`` or ``"UP"``.
        score: What the criterion comes to; None if it cannot be told.
        best: The loss at the best.
        now: The mean loss of the last validations.
        noise: The standard deviation of the loss around its course, from one validation to the next.
        low: The least that it has risen by, with 97.5 % confidence, as far as the batches tell; None with too few.
        steady: Whether it was worse than the best in each of the last ``patience`` validations.
        training_best: The training twin when the loss was best; None if unknown.
        training_now: The mean training twin of the last validations.
        partner: The metric that counts beside it, if there is one.
        partner_best: That metric when the loss was best.
        partner_now: Its mean of the last validations.
        partner_noise: Its standard deviation around its course.
        partner_low: The least that it has worsened by, with 97.5 % confidence; None if that is not known.
        partner_steady: Whether it was worse than then in each of the last ``patience`` validations.
    """

    metric: str
    large: bool
    step: int
    validations: int
    since: int
    patience: int
    last: int
    criterion: Literal["patience", "GL", "PQ", "UP"]
    score: float | None
    best: float
    now: float
    noise: float
    low: float | None
    steady: bool
    training_best: float | None
    training_now: float | None
    partner: str | None = None
    partner_best: float | None = None
    partner_now: float | None = None
    partner_noise: float = 0.0
    partner_low: float | None = None
    partner_steady: bool = False

    def shown(self, value: float | None) -> float | None:
        """A value of the metric as it is logged."""
        return -value if self.large and value is not None else value


@dataclass(frozen=True)
class Advantage:
    """Validation that is better than training.

    Attributes:
        metric: Its name.
        since: The step of the first of the validations in a row in which it was.
        validations: How many they are.
        training: The training twin.
        validation: The metric.
        share: Whether it is a share of samples.
        high: The upper end of the interval of the gap.
        confidence: Of that interval.
        training_samples: How many samples the twin is of.
        validation_samples: How many samples the metric is of.
    """

    metric: str
    since: int
    validations: int
    training: float
    validation: float
    share: bool
    high: float
    confidence: float
    training_samples: int
    validation_samples: int


@dataclass(frozen=True)
class ModeGap:
    """A loss of the same training batches in both modes.

    Attributes:
        metric: Its name.
        since: The step of the first of the validations in a row in which evaluation mode was the worse.
        validations: How many they are.
        training_mode: The loss in training mode.
        evaluation_mode: The loss in evaluation mode.
        batches: Of how many batches.
        low: The lower end of the interval of the difference; None with too few batches.
        lasted: How many steps the network was trained since the first of them.
    """

    metric: str
    since: int
    validations: int
    training_mode: float
    evaluation_mode: float
    batches: int
    low: float | None
    lasted: int


@dataclass(frozen=True)
class Baseline:
    """Training data against a predictor that knows nothing of its input.

    Attributes:
        metric: The metric.
        step: Of the first of the validations in a row in which it was no better.
        validations: How many they are.
        trained: How many steps the network was trained.
        kind: ``"share"`` (the most frequent class), ``"cross entropy"`` (of the frequencies of the classes) or
            ``"squared error"`` (the variance of the targets).
        value: The metric over training data.
        constant: What the best constant predictor comes to.
        agreed: Whether a loss of the same training data is that of a constant predictor.
    """

    metric: str
    step: int
    validations: int
    trained: int
    kind: Literal["share", "cross entropy", "squared error"]
    value: float
    constant: float
    agreed: bool = False


@dataclass(frozen=True)
class Noise:
    """A gap that cannot be told from nothing.

    Attributes:
        metric: Its name.
        since: The step of the first of the validations in a row in which it could not.
        validations: How many they are.
        gap: The gap.
        half_width: Of its interval.
        training_samples: How many samples the twin is of.
        validation_samples: How many samples the metric is of.
    """

    metric: str
    since: int
    validations: int
    gap: float
    half_width: float
    training_samples: int
    validation_samples: int
