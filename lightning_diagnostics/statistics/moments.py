"""Means and variances: merged, of a series that forgets, and of a window."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_diagnostics.statistics._arguments import probability


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
        probability("decay", self.decay)

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
