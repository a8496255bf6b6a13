"""Floor 1: tensors or arrays in, numbers out. Knows no module, step or layer name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any


def projected_share(per_step: float, *, steps: float, free: float) -> float:
    """The share of the free memory that steady growth will have taken.

    Args:
        per_step: Growth, in bytes a step.
        steps: How many steps are still to come; ``inf`` for a run without an end.
        free: What is free now, in bytes.

    Returns:
        ``per_step * steps / free``; ``inf`` where nothing is free or the run has no end, 0 where nothing grows.

    Raises:
        ValueError: if an argument is negative or NaN.

    Example:
        >>> projected_share(1000.0, steps=5000, free=10e6)
        0.5
    """
    # Validate the arguments.
    for name, value in (("per_step", per_step), ("steps", steps), ("free", free)):
        if not value >= 0:
            raise ValueError(f"{name}={value!r}: allowed is 0 or more")

    # Compute the share.
    if per_step == 0 or steps == 0:
        return 0.0
    return per_step * steps / free if free > 0 else float("inf")


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared differences from the mean: what a variance is made of.

    Merging two gives what one pass over all values would have given (Chan, Golub & LeVeque 1979, pairwise update), up
    to rounding. The fields are numbers, or arrays of one shape that are merged element by element.

    Attributes:
        count: How many values.
        mean: Their mean.
        squares: The sum of their squared differences from the mean.
    """

    count: Any
    mean: Any
    squares: Any

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both together; both must have at least one value.

        Example:
            >>> Moments(2, 1.0, 2.0).merge(Moments(1, 4.0, 0.0))
            Moments(count=3, mean=2.0, squares=8.0)
        """
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        squares = self.squares + other.squares + apart * apart * (self.count * other.count / count)
        return Moments(count, mean, squares)

    @property
    def variance(self) -> Any:
        """The mean squared difference from the mean (of these values, not of what they are a sample of)."""
        return self.squares / self.count


@dataclass(frozen=True)
class ExponentialMoments:
    """Mean and variance of a series in which older values count exponentially less.

    The recursion of West (1979) and Finch (2009), seeded with the first value: from ``mean = x`` and ``variance = 0``
    on, ``d = x - mean``, ``mean += (1 - decay) * d`` and ``variance = decay * (variance + (1 - decay) * d**2)``. It
    does not cancel where the mean is large beside the spread, as the mean of squares less the square of the mean does.

    Attributes:
        decay: The weight of the past, between 0 and 1; ``decay = 0.98`` remembers about 99 values.
        mean: NaN before the first value.
        variance: The weighted mean squared difference from the mean; 0 after one value.
        count: Values so far.
    """

    decay: float = 0.98
    mean: float = math.nan
    variance: float = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        _probability("decay", self.decay)

    def update(self, value: float) -> "ExponentialMoments":
        """The moments after one more value.

        Example:
            >>> ExponentialMoments(0.9).update(1.0).update(2.0).mean
            1.1
        """
        if not self.count:
            return ExponentialMoments(self.decay, float(value), 0.0, 1)
        apart = value - self.mean
        mean = self.mean + (1 - self.decay) * apart
        variance = self.decay * (self.variance + (1 - self.decay) * apart * apart)
        return ExponentialMoments(self.decay, mean, variance, self.count + 1)


def spread(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean, sample variance and coefficient of variation.

    Args:
        values: One or more finite numbers.

    Returns:
        The mean; the variance over ``len(values) - 1``, None of a single value; its root over the mean, None where the
        mean is 0, too.

    Raises:
        ValueError: if there is no value.

    Example:
        >>> spread([1.0, 1.2])
        (1.1, 0.01999999999999999, 0.12856486930664496)
    """
    # Validate the arguments.
    if not values:
        raise ValueError("values=[]: expected one number or more")

    # Compute the moments, in two passes, so that no spread is lost beside a large mean.
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, variance, math.sqrt(variance) / mean if mean else None


def gradient_noise(small_square: float, big_square: float, *, small: float, big: float) -> tuple[float, float]:
    """What two batch sizes tell of the true gradient and of the noise on it (McCandlish et al. 2018, appendix A.1).

    Both estimates are unbiased; their quotient is not. So each is to be averaged over steps by itself, and then
    ``noise / signal`` is the simple noise scale, in samples: the batch size at which noise and signal are alike. It
    has no value where the averaged signal is not positive.

    Args:
        small_square: Squared L2 norm of the mean gradient of ``small`` samples, or the mean of several such.
        big_square: Squared L2 norm of the mean gradient of ``big`` samples.
        small: Samples in a small batch, > 0.
        big: Samples in the big batch, more than ``small``.

    Returns:
        The signal ``|G|^2 = (big * big_square - small * small_square) / (big - small)``, and the noise ``tr(Sigma) =
        (small_square - big_square) / (1 / small - 1 / big)`` of one sample. Either may be negative by chance.

    Raises:
        ValueError: if the sizes are not as described.

    Example:
        >>> signal, noise = gradient_noise(5.75, 4.625, small=2, big=4)
        >>> signal, noise, round(noise / signal, 4)
        (3.5, 4.5, 1.2857)
    """
    # Validate the arguments.
    if not small > 0:
        raise ValueError(f"small={small!r}: allowed is more than 0")
    if not big > small:
        raise ValueError(f"big={big!r}: allowed is more than small={small!r}")

    # Compute the estimates.
    signal = (big * big_square - small * small_square) / (big - small)
    return signal, (small_square - big_square) / (1 / small - 1 / big)


def statistics_mismatch(
    mean: Any, variance: Any, other_mean: Any, other_variance: Any, *, eps: float
) -> tuple[float, float]:
    """How far statistics by channel are from those that a norm applies, as medians over the channels.

    The median, since a channel that is off for most inputs has a variance of nearly nothing, and any input is many
    standard deviations away from that.

    Args:
        mean: Means that are applied, an array of shape (channels,).
        variance: Variances that are applied, of the same shape.
        other_mean: Means that are compared with them.
        other_variance: Variances that are compared with them.
        eps: What the norm adds to a variance, > 0.

    Returns:
        The median of ``|other_mean - mean| / sqrt(variance + eps)``, in standard deviations, and the median of
        ``|log((other_variance + eps) / (variance + eps))|``; over the channels where these are finite, NaN if none is.

    Raises:
        ValueError: if ``eps`` is not positive, or there is no channel.

    Example:
        >>> shift, ratio = statistics_mismatch([0.0, 0.0, 1.0], [1.0] * 3, [0.5, 2.0, 1.0], [1.0, 4.0, 1.0], eps=1e-5)
        >>> round(shift, 3), round(ratio, 3)
        (0.5, 0.0)
    """
    import numpy as np

    # Validate the arguments.
    if not eps > 0:
        raise ValueError(f"eps={eps!r}: allowed is more than 0")
    arrays = [np.asarray(each, dtype=np.float64) for each in (mean, variance, other_mean, other_variance)]
    if not arrays[0].size:
        raise ValueError(f"mean={mean!r}: expected one channel or more")

    # Compute the medians.
    applied_mean, applied, met_mean, met = arrays
    with np.errstate(all="ignore"):  # what is not finite is left out below
        shift = np.abs(met_mean - applied_mean) / np.sqrt(applied + eps)
        ratio = np.abs(np.log((met + eps) / (applied + eps)))
    medians = (np.median(kept) if (kept := each[np.isfinite(each)]).size else np.nan for each in (shift, ratio))
    one, other = medians
    return float(one), float(other)


def silence_bound(samples: int, *, confidence: float = 0.95) -> float:
    """How often a unit that was silent on all of ``samples`` independent samples may be active at the most.

    The exact upper confidence limit ``1 - (1 - confidence)**(1 / samples)`` of a proportion of which nothing was seen;
    for large samples and 95 % it is nearly ``3 / samples``, the rule of three (Hanley & Lippman-Hand 1983).

    Args:
        samples: Samples seen, 1 or more.
        confidence: Of the limit, between 0 and 1.

    Raises:
        ValueError: if an argument is outside of that.

    Example:
        >>> round(silence_bound(300), 5)
        0.00994
    """
    # Validate the arguments.
    if not samples >= 1:
        raise ValueError(f"samples={samples!r}: allowed is 1 or more")
    _probability("confidence", confidence)

    # Compute the limit.
    return -math.expm1(math.log1p(-confidence) / samples)


def false_silence(units: int, samples: int, *, activity: float) -> float:
    """The probability that at least one of several healthy units is silent on all samples, and so looks dead.

    Args:
        units: Units of the layer, 1 or more.
        samples: Independent samples, 0 or more.
        activity: The probability with which each unit is active on a sample, between 0 and 1.

    Returns:
        ``1 - (1 - (1 - activity)**samples)**units``.

    Raises:
        ValueError: if an argument is outside of that.

    Example:
        >>> round(false_silence(512, 1000, activity=0.01), 4)
        0.0219
    """
    # Validate the arguments.
    if not units >= 1:
        raise ValueError(f"units={units!r}: allowed is 1 or more")
    if not samples >= 0:
        raise ValueError(f"samples={samples!r}: allowed is 0 or more")
    _probability("activity", activity)

    # Compute the probability, without losing small ones to rounding.
    one = math.exp(samples * math.log1p(-activity))
    return 1.0 if one == 1.0 else -math.expm1(units * math.log1p(-one))


def samples_needed(units: int, *, activity: float = 0.01, alpha: float = 0.05) -> int:
    """How many silent samples it takes to call a unit of a layer dead.

    So many that, of ``units`` units that are each active on a share ``activity`` of independent samples, the chance
    that any is silent on all of them is at most ``alpha`` (Šidák 1967): the smallest n with
    ``1 - (1 - (1 - activity)**n)**units <= alpha``.

    Args:
        units: Units of the layer, 1 or more.
        activity: The least activity that counts as alive, between 0 and 1.
        alpha: The chance of a false verdict for the layer, between 0 and 1.

    Raises:
        ValueError: if an argument is outside of that.

    Example:
        >>> samples_needed(512)
        917
    """
    # Validate the arguments.
    if not units >= 1:
        raise ValueError(f"units={units!r}: allowed is 1 or more")
    _probability("activity", activity)
    _probability("alpha", alpha)

    # Compute the number.
    one = -math.expm1(math.log1p(-alpha) / units)
    samples = math.ceil(math.log(one) / math.log1p(-activity))
    fewer = max(1, samples - 1)  # rounding may have made it one too many
    return fewer if false_silence(units, fewer, activity=activity) <= alpha else samples


def merge_histograms(
    one: tuple[int, Sequence[float]], other: tuple[int, Sequence[float]], *, signed: bool
) -> tuple[int, list[float]]:
    """Two histograms that reach to powers of two, as one that reaches to the larger: exact, since buckets only pool.

    Args:
        one: The exponent of the end, and an even number of counts in buckets of equal width.
        other: The same, with as many buckets.
        signed: Whether the buckets begin at the negative of the end, or at 0.

    Raises:
        ValueError: if the numbers of buckets differ.

    Example:
        >>> merge_histograms((0, [1, 2, 3, 4]), (1, [5, 0, 0, 0]), signed=False)
        (1, [8, 7, 0, 0])
    """
    # Validate the arguments.
    if len(one[1]) != len(other[1]):
        raise ValueError(f"{len(one[1])} and {len(other[1])} buckets: expected as many of one as of the other")

    # Compute the counts.
    exponent = max(one[0], other[0])
    wide = (_pooled(counts, exponent - own, signed) for own, counts in (one, other))
    return exponent, [a + b for a, b in zip(*wide, strict=True)]


def _pooled(counts: Sequence[float], doublings: int, signed: bool) -> list[float]:
    """The counts in buckets that reach ``2**doublings`` times as far."""
    pooled, size = [0 * count for count in counts], len(counts)
    middle = size // 2 if signed else 0
    for index, count in enumerate(counts):
        pooled[middle + ((index - middle) >> min(doublings, 64))] += count
    return pooled


def ks_distance(one: Sequence[float], other: Sequence[float]) -> float:
    """The Kolmogorov-Smirnov distance of two histograms over the same buckets.

    Args:
        one: Counts, of which at least one is positive.
        other: The same, with as many buckets.

    Returns:
        The largest difference of their cumulative shares: 0 for the same distribution, 1 for disjoint ones. What
        differs within a bucket is not seen.

    Raises:
        ValueError: if the numbers of buckets differ, or a histogram is empty.

    Example:
        >>> ks_distance([1, 1, 0], [0, 1, 1])
        0.5
    """
    # Validate the arguments.
    if len(one) != len(other):
        raise ValueError(f"{len(one)} and {len(other)} buckets: expected as many of one as of the other")
    total, others = sum(one), sum(other)
    if not (total > 0 and others > 0):
        raise ValueError(f"counts that sum to {total!r} and {others!r}: expected at least one in each histogram")

    # Compute the distance.
    cumulative = zip(accumulate(one), accumulate(other), strict=True)
    return max(abs(a / total - b / others) for a, b in cumulative)


def _probability(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name}={value!r}: allowed is more than 0 and less than 1")
