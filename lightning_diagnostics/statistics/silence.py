"""What silence on a number of samples says of a unit."""

import math

from lightning_diagnostics.statistics._arguments import probability


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
    probability("confidence", confidence)

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
    probability("activity", activity)

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
    probability("activity", activity)
    probability("alpha", alpha)

    # Compute the number.
    one = -math.expm1(math.log1p(-alpha) / units)
    samples = math.ceil(math.log(one) / math.log1p(-activity))
    fewer = max(1, samples - 1)  # rounding may have made it one too many
    return fewer if false_silence(units, fewer, activity=activity) <= alpha else samples
