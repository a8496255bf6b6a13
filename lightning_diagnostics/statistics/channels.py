"""How far the statistics of channels are from one another."""

from typing import Any


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
