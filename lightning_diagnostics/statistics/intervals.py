"""How sure one can be of an accuracy, of a mean of batches, and of the difference of two."""

import math
from collections.abc import Sequence
from fractions import Fraction
from statistics import NormalDist
from typing import Literal

from lightning_diagnostics.statistics._arguments import probability, series

Batches = tuple[Sequence[float], Sequence[float]]
"""The means of batches, and their weights (how many samples each has)."""


def accuracy_interval(
    correct: float,
    total: float,
    *,
    confidence: float = 0.95,
    method: Literal["wilson", "clopper-pearson"] = "wilson",
) -> tuple[float, float]:
    """A confidence interval of a share of independent samples, such as an accuracy.

    Args:
        correct: Samples that count, from 0 to ``total``.
        total: Samples, 1 or more. They have to be independent: frames of one film, or copies that a sampler adds, make
            the interval too narrow.
        confidence: Of the interval, between 0 and 1.
        method: ``"wilson"`` (Wilson 1927) has the stated coverage on average over accuracies, less at some;
            ``"clopper-pearson"`` (1934) has it or more at every one, and is wider.

    Returns:
        The lower and the upper end, both shares from 0 to 1.

    Raises:
        ValueError: if an argument is outside of that.

    Example:
        >>> low, high = accuracy_interval(50, 100)
        >>> round(low, 3), round(high, 3)
        (0.404, 0.596)
    """
    # Validate the arguments.
    _count("correct", correct, "total", total)
    probability("confidence", confidence)
    if method not in ("wilson", "clopper-pearson"):
        raise ValueError(f'method={method!r}: allowed is "wilson" or "clopper-pearson"')

    # Compute the ends.
    return (_wilson if method == "wilson" else _clopper_pearson)(correct, total, confidence)


def _wilson(correct: float, total: float, confidence: float) -> tuple[float, float]:
    """The roots of ``|share - p| = z * sqrt(p * (1 - p) / total)``."""
    # Not of (1 + confidence) / 2, where a confidence near 1 would be lost to rounding.
    square = NormalDist().inv_cdf((1 - confidence) / 2) ** 2 / total
    share = correct / total
    middle, half = share + square / 2, math.sqrt(square * (share * (1 - share) + square / 4))
    low = (middle - half) / (1 + square) if correct else 0.0
    return low, (middle + half) / (1 + square) if correct < total else 1.0


def _clopper_pearson(correct: float, total: float, confidence: float) -> tuple[float, float]:
    """Where each tail of the binomial distribution has half of what the confidence leaves."""
    from scipy.special import betaincinv  # pyright: ignore[reportMissingTypeStubs] # it has none

    tail = (1 - confidence) / 2
    low = float(betaincinv(correct, total - correct + 1, tail)) if correct else 0.0
    # Not at 1 - tail, where a confidence near 1 would be lost to rounding.
    high = 1.0 - float(betaincinv(total - correct, correct + 1, tail)) if correct < total else 1.0
    return low, high


def accuracy_difference_interval(
    correct: float, total: float, other_correct: float, other_total: float, *, confidence: float = 0.95
) -> tuple[float, float]:
    """A confidence interval of the difference of two shares of independent samples.

    Newcombe (1998), method 10: from the Wilson intervals of both. The samples of one must not be those of the other.

    Args:
        correct: Samples of the one that count, from 0 to ``total``.
        total: Samples of the one, 1 or more.
        other_correct: The same of the other, which is subtracted.
        other_total: Its samples.
        confidence: Of the interval, between 0 and 1.

    Returns:
        The lower and the upper end of ``correct / total - other_correct / other_total``, from -1 to 1.

    Raises:
        ValueError: if an argument is outside of that.

    Example:
        >>> low, high = accuracy_difference_interval(980, 1000, 90, 100)
        >>> round(low, 3), round(high, 3)
        (0.034, 0.155)
    """
    # Validate the arguments.
    _count("correct", correct, "total", total)
    _count("other_correct", other_correct, "other_total", other_total)
    probability("confidence", confidence)

    # Compute the ends.
    one, other = correct / total, other_correct / other_total
    low, high = _wilson(correct, total, confidence)
    other_low, other_high = _wilson(other_correct, other_total, confidence)
    below, above = math.hypot(one - low, other_high - other), math.hypot(high - one, other - other_low)
    return max(-1.0, one - other - below), min(1.0, one - other + above)


def mean_of_batches(means: Sequence[float], weights: Sequence[float]) -> tuple[float, float, int]:
    """The mean of all samples from the means of batches, and how sure it is.

    With sizes as weights, each squared difference of a batch is as many times as large as the squared error of one
    sample; so the standard error of the mean is the root of ``sum(w * (x - mean)**2) / ((k - 1) * sum(w))``. That holds
    for batches of independent samples.

    Args:
        means: Of two batches or more, finite.
        weights: Samples of each batch, more than 0.

    Returns:
        The mean weighted by size, its standard error in the same unit, and the degrees of freedom ``k - 1``.

    Raises:
        ValueError: if there are fewer than two batches, not as many weights, or a number outside of that.

    Example:
        >>> mean_of_batches([1.0, 2.0, 4.0], [8, 8, 4])
        (2.0, 0.7745966692414834, 2)
    """
    # Validate the arguments.
    _batches("means", means, "weights", weights)

    # Compute the moments, in two passes, so that no spread is lost beside a large mean.
    total = math.fsum(weights)
    mean = math.fsum(weight * each for each, weight in zip(means, weights, strict=True)) / total
    squares = math.fsum(weight * (each - mean) ** 2 for each, weight in zip(means, weights, strict=True))
    degrees = len(means) - 1
    return mean, math.sqrt(squares / total / degrees), degrees


def t_quantile(share: float, degrees: float) -> float:
    """The quantile of Student's t distribution.

    Args:
        share: Of the distribution below it, between 0 and 1; ``(1 + confidence) / 2`` for an interval.
        degrees: Of freedom, more than 0; need not be whole.

    Raises:
        ValueError: if an argument is outside of that.

    Example:
        >>> round(t_quantile(0.975, 9), 4)
        2.2622
    """
    from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs] # it has none

    # Validate the arguments.
    probability("share", share)
    if not degrees > 0:
        raise ValueError(f"degrees={degrees!r}: allowed is more than 0")

    # Compute the quantile.
    return float(stdtrit(degrees, share))


def mean_difference_interval(one: Batches, other: Batches, *, confidence: float = 0.95) -> tuple[float, float, float]:
    """The difference of two means over different samples, with a confidence interval (Welch 1947).

    Args:
        one: The means of the batches, and their weights, as for `mean_of_batches`.
        other: The same of what is subtracted; it may have more or fewer batches.
        confidence: Of the interval, between 0 and 1. It is approximate where losses have a long tail and one has far
            fewer samples than the other: of 80 log-normal losses against 512, an interval of 95 % covers 93 %.

    Returns:
        The difference ``one - other``, and the lower and the upper end of its interval.

    Raises:
        ValueError: if an argument is outside of that.

    Example:
        >>> difference, low, high = mean_difference_interval(([2.0, 3.0, 4.0], [1] * 3), ([1.0, 2.0], [1] * 2))
        >>> difference, round(low, 2), round(high, 2)
        (1.5, -0.99, 3.99)
    """
    # Validate the arguments.
    _batches("one[0]", one[0], "one[1]", one[1])
    _batches("other[0]", other[0], "other[1]", other[1])
    probability("confidence", confidence)

    # Compute the ends, with the degrees of freedom of Welch and Satterthwaite.
    mean, error, degrees = mean_of_batches(*one)
    other_mean, other_error, other_degrees = mean_of_batches(*other)
    both = math.hypot(error, other_error)
    if both == 0:
        return _around(mean - other_mean, 0.0, 1.0, confidence)
    share, rest = (error / both) ** 2, (other_error / both) ** 2
    return _around(mean - other_mean, both, 1 / (share**2 / degrees + rest**2 / other_degrees), confidence)


def paired_difference_interval(
    one: Sequence[float], other: Sequence[float], weights: Sequence[float], *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """The difference of two means over the same batches, with a confidence interval (Student's t of the differences).

    Far narrower than `mean_difference_interval` where what is hard for one is hard for the other.

    Args:
        one: The means of the batches, two or more.
        other: Of the same batches in the same order, which are subtracted.
        weights: Samples of each batch, more than 0.
        confidence: Of the interval, between 0 and 1.

    Returns:
        The difference ``one - other``, and the lower and the upper end of its interval.

    Raises:
        ValueError: if an argument is outside of that.

    Example:
        >>> difference, low, high = paired_difference_interval([1.5, 2.5, 9.5], [1.0, 2.25, 9.0], [8, 8, 8])
        >>> round(difference, 3), round(low, 3), round(high, 3)
        (0.417, 0.058, 0.775)
    """
    # Validate the arguments.
    _batches("one", one, "weights", weights)
    _batches("other", other, "weights", weights)
    probability("confidence", confidence)

    # Compute the ends.
    differences = [a - b for a, b in zip(one, other, strict=True)]
    return _around(*mean_of_batches(differences, weights), confidence)


def samples_for_half_width(total: int, half_width: float, wanted: float) -> int:
    """How many samples would make an interval as narrow as wanted: its width falls with the root of their number.

    Args:
        total: Samples that the interval was computed from, 1 or more.
        half_width: Half of its width, 0 or more.
        wanted: Half of the width that it should have, more than 0.

    Returns:
        The smallest number n with ``half_width * sqrt(total / n) <= wanted``, 1 or more; it may be less than
        ``total``.

    Raises:
        ValueError: if an argument is outside of that.

    Example:
        >>> samples_for_half_width(100, 0.098, 0.01)
        9604
    """
    # Validate the arguments.
    if not total >= 1:
        raise ValueError(f"total={total!r}: allowed is 1 or more")
    if not (half_width >= 0 and math.isfinite(half_width)):
        raise ValueError(f"half_width={half_width!r}: allowed is a finite number, 0 or more")
    if not (wanted > 0 and math.isfinite(wanted)):
        raise ValueError(f"wanted={wanted!r}: allowed is a finite number, more than 0")

    # Compute the number, without taking one more for what the quotient has lost to rounding.
    exact = total * (Fraction(half_width) / Fraction(wanted)) ** 2
    return max(1, math.ceil(exact * (1 - Fraction(1, 10**12))))


def _around(middle: float, error: float, degrees: float, confidence: float) -> tuple[float, float, float]:
    half = error * -t_quantile((1 - confidence) / 2, degrees)
    return middle, middle - half, middle + half


def _count(name: str, value: float, of: str, total: float) -> None:
    if not (total >= 1 and math.isfinite(total)):
        raise ValueError(f"{of}={total!r}: allowed is a finite number, 1 or more")
    if not 0 <= value <= total:
        raise ValueError(f"{name}={value!r}: allowed is 0 to {of}={total!r}")


def _batches(name: str, means: Sequence[float], of: str, weights: Sequence[float]) -> None:
    if len(means) < 2:
        raise ValueError(f"{name}={list(means)!r}: expected two batches or more")
    if len(means) != len(weights):
        raise ValueError(f"{len(means)} {name} and {len(weights)} {of}: expected as many of one as of the other")
    series(name, means)
    series(of, weights, positive=True)
