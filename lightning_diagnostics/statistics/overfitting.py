"""What two series of losses, one value of each for an epoch, say of overfitting (Prechelt 1998)."""

import math
from collections.abc import Sequence

from lightning_diagnostics.statistics._arguments import series


def generalization_loss(validation: Sequence[float]) -> float:
    """How far the last validation loss is above the lowest so far, in per cent (Prechelt 1998, GL).

    Args:
        validation: Validation losses from the first to the last, one or more, all more than 0: it is a quotient, which
            says nothing of a loss that can be negative.

    Returns:
        ``100 * (last / lowest - 1)``; 0 where the last is the lowest.

    Raises:
        ValueError: if there is no loss, or one that is not a finite number above 0.

    Example:
        >>> round(generalization_loss([1.0, 0.8, 0.9]), 6)
        12.5
    """
    # Validate the arguments.
    _some("validation", validation)
    series("validation", validation, positive=True)

    # Compute the loss.
    lowest = min(validation)
    return 100 * (validation[-1] - lowest) / lowest


def training_progress(training: Sequence[float], *, strip: int = 5) -> float | None:
    """How much the mean training loss of the last strip is above its lowest, per mille (Prechelt 1998, P_k).

    It is high while the loss falls or jumps, and 0 when it stands still.

    Args:
        training: Training losses from the first to the last, all more than 0.
        strip: Losses in a strip, 1 or more.

    Returns:
        ``1000 * (mean / lowest - 1)`` over the last ``strip`` losses; None if there are fewer.

    Raises:
        ValueError: if an argument is outside of that.

    Example:
        >>> round(training_progress([9.0, 1.5, 1.0], strip=2), 6)
        250.0
    """
    # Validate the arguments.
    _strip(strip)
    series("training", training, positive=True)

    # Compute the progress.
    last = training[-strip:]
    if len(last) < strip:
        return None
    lowest = min(last)
    # The differences, not the sum: equal losses come to exactly 0.
    return 1000 * math.fsum(each - lowest for each in last) / (strip * lowest)


def progress_quotient(validation: Sequence[float], training: Sequence[float], *, strip: int = 5) -> float | None:
    """The generalization loss over the training progress (Prechelt 1998, PQ), which he asks for at the ends of strips.

    Args:
        validation: As for `generalization_loss`.
        training: As for `training_progress`.
        strip: Losses in a strip, 1 or more.

    Returns:
        The quotient of per cent and per mille; ``inf`` where the validation loss is above its lowest and training
        stands still; None where neither moves, or training has fewer losses than a strip.

    Raises:
        ValueError: if an argument is outside of that.

    Example:
        >>> round(progress_quotient([1.0, 0.8, 0.9], [9.0, 1.5, 1.0], strip=2), 6)
        0.05
    """
    # Validate the arguments.
    loss, progress = generalization_loss(validation), training_progress(training, strip=strip)

    # Compute the quotient.
    if progress is None:
        return None
    if progress == 0:
        return math.inf if loss > 0 else None
    return loss / progress


def successive_rises(validation: Sequence[float], *, strip: int = 5) -> int:
    """In how many strips in a row the validation loss has risen (Prechelt 1998: the largest s for which UP_s holds).

    A strip is ``strip`` losses, counted from the first; it has risen if the loss at its end is above that at the end of
    the strip before. So the first strip cannot, and losses after the last whole strip do not count.

    Args:
        validation: Validation losses from the first to the last; they may be negative.
        strip: Losses in a strip, 1 or more.

    Returns:
        The number of strips, counted back from the last whole one; 0 where that has not risen.

    Raises:
        ValueError: if ``strip`` is less than 1, or a loss is not finite.

    Example:
        >>> successive_rises([3.0, 1.0, 1.0, 2.0, 9.0, 3.0, 0.0], strip=2)
        2
    """
    # Validate the arguments.
    _strip(strip)
    series("validation", validation)

    # Compute the number.
    ends = validation[strip - 1 :: strip]
    rises = 0
    while rises < len(ends) - 1 and ends[-1 - rises] > ends[-2 - rises]:
        rises += 1
    return rises


def since_improvement(values: Sequence[float], *, minimum: float = 0.001) -> tuple[int, int]:
    """Where a series that should fall was at its best, and how many values came since.

    Args:
        values: From the first to the last, one or more.
        minimum: By what share of the best a value must be below it to be the new best, 0 or more, less than 1. What is
            better by less does not count, nor does NaN.

    Returns:
        The index of the best, and the number of values after it. Patience of p is at its end when that number is p.

    Raises:
        ValueError: if there is no value, or ``minimum`` is outside of that.

    Example:
        >>> since_improvement([1.0, 0.5, 0.4999, 0.6], minimum=0.01)
        (1, 2)
    """
    # Validate the arguments.
    _some("values", values)
    if not 0 <= minimum < 1:
        raise ValueError(f"minimum={minimum!r}: allowed is 0 or more and less than 1")

    # Compute the place. The share is of the best's size: of a best below 0, better is further below.
    best = 0
    for index, value in enumerate(values):
        least = minimum * abs(values[best]) if math.isfinite(values[best]) else 0.0
        if math.isnan(values[best]) or value < values[best] - least:
            best = index
    return best, len(values) - 1 - best


def _some(name: str, values: Sequence[float]) -> None:
    if not len(values):
        raise ValueError(f"{name}=[]: expected one number or more")


def _strip(strip: int) -> None:
    if not strip >= 1:
        raise ValueError(f"strip={strip!r}: allowed is 1 or more")
