"""What arguments must be, and the words where they are not."""

import math
from collections.abc import Sequence


def probability(name: str, value: float) -> None:
    """Raise where ``value`` is not between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name}={value!r}: allowed is more than 0 and less than 1")


def series(name: str, values: Sequence[float], *, positive: bool = False) -> None:
    """Raise where one of ``values`` is not finite, or is not more than 0 where it has to be."""
    for index, value in enumerate(values):
        if not (math.isfinite(value) and (value > 0 or not positive)):
            allowed = "a finite number, more than 0" if positive else "a finite number"
            raise ValueError(f"{name}[{index}]={value!r}: allowed is {allowed}")
