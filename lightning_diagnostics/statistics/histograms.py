"""Histograms that are merged and compared."""

from collections.abc import Sequence
from itertools import accumulate


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
