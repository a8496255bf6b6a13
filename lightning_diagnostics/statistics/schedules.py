"""By how much a learning rate is multiplied while a run warms up and cools down."""

import math
from typing import Literal, get_args

WarmupShape = Literal["linear", "exponential", "cosine"]
CooldownShape = Literal["1-sqrt", "linear", "cosine", "square", "mirror-cosine"]


def untuned_warmup_steps(beta2: float) -> int:
    """Length of a warmup for Adam that needs no tuning (Ma & Yarats 2021, "On the adequacy of untuned warmup").

    It is the time over which the average of squared gradients forgets: before that, steps are as large as those of a
    sign and do not know how uncertain the gradient is.

    Args:
        beta2: The decay rate of the average of squared gradients, more than 0 and less than 1.

    Returns:
        ``2 / (1 - beta2)`` in steps, rounded.

    Raises:
        ValueError: if ``beta2`` is outside of that.

    Example:
        >>> untuned_warmup_steps(0.999)
        2000
    """
    # Validate the arguments.
    if not 0 < beta2 < 1:
        raise ValueError(f"beta2={beta2!r}: allowed is more than 0 and less than 1")

    # Compute the length.
    return round(2 / (1 - beta2))  # the quotient is 1999.9... for 0.999


def warmup_factor(step: float, warmup_steps: float, *, shape: WarmupShape = "linear") -> float:
    """The factor of a warmup at one step.

    With ``s = step + 1`` and ``W = warmup_steps`` it is ``s / W`` (linear) and ``(1 - cos(pi * s / W)) / 2`` (cosine),
    both 1 from the last of the ``W`` steps on, or ``1 - exp(-2 * s / W)`` (exponential), which has come to 0.86 by then
    and goes on. It is never 0. With ``W = 2 / (1 - beta2)``, the linear and the exponential one are the untuned warmups
    of Ma & Yarats (2021).

    Args:
        step: The optimizer step, from 0; or another measure of how far the run is.
        warmup_steps: How many steps the warmup takes; 0 for none, ``inf`` where it has no end.
        shape: ``"linear"``, ``"exponential"`` or ``"cosine"``.

    Returns:
        More than 0 and at most 1 (0 where the warmup has no end).

    Raises:
        ValueError: if ``step`` or ``warmup_steps`` is negative or not a number, or the shape is not known.
    """
    # Validate the arguments.
    _at_least_zero("step", step)
    _at_least_zero("warmup_steps", warmup_steps)
    _one_of("warmup_shape", shape, get_args(WarmupShape))

    # Compute the factor.
    if warmup_steps == 0:
        return 1.0
    done = (step + 1) / warmup_steps
    if shape == "exponential":
        return -math.expm1(-2 * done)
    if done >= 1:
        return 1.0
    return done if shape == "linear" else (1 - math.cos(math.pi * done)) / 2


def cooldown_factor(progress: float, *, shape: CooldownShape = "1-sqrt", floor: float = 0.0) -> float:
    """The factor of a cooldown.

    With ``p = progress`` it falls from 1 to 0 as ``1 - sqrt(p)`` (Haegele et al. 2024), ``1 - p`` (linear),
    ``(1 + cos(pi * p)) / 2`` (cosine), ``1 - p**2`` (square), or ``2 * (1 - p) - (1 + cos(pi * p)) / 2``
    (mirror-cosine), and is then stretched to end at the floor.

    Args:
        progress: How much of the cooldown is over; 0 and less is before it, 1 and more is after it.
        shape: ``"1-sqrt"``, ``"linear"``, ``"cosine"``, ``"square"`` or ``"mirror-cosine"``.
        floor: The factor at its end, from 0 to 1.

    Returns:
        From ``floor`` to 1.

    Raises:
        ValueError: if ``progress`` is not a number, the floor is outside of that, or the shape is not known.
    """
    # Validate the arguments.
    if math.isnan(progress):
        raise ValueError(f"progress={progress!r}: allowed is a number")
    _one_of("cooldown_shape", shape, get_args(CooldownShape))
    if not 0 <= floor <= 1:
        raise ValueError(f"floor={floor!r}: allowed is 0 to 1")

    # Compute the factor.
    if progress <= 0:
        return 1.0
    if progress >= 1:
        return float(floor)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    value = {
        "1-sqrt": 1 - math.sqrt(progress),
        "linear": 1 - progress,
        "cosine": cosine,
        "square": 1 - progress**2,
        "mirror-cosine": 2 * (1 - progress) - cosine,
    }[shape]
    return value * (1 - floor) + floor


def warmup_cooldown_factor(
    step: float,
    *,
    total_steps: float,
    warmup_steps: float = 0,
    cooldown_steps: float = 0,
    warmup_shape: WarmupShape = "linear",
    cooldown_shape: CooldownShape = "1-sqrt",
    floor: float = 0.0,
) -> float:
    """The factor of a learning rate that warms up over the first steps of a run and cools down over the last.

    It is `warmup_factor` times `cooldown_factor`. The first step has a factor of more than 0, and so has the last one;
    the floor is reached at ``step == total_steps``, which is after the run.

    Args:
        step: The optimizer step, from 0.
        total_steps: Optimizer steps of the run; ``inf`` if it has no end.
        warmup_steps: Of these, the first ones that warm up.
        cooldown_steps: Of these, the last ones that cool down; 0 if the run has no end.
        warmup_shape: ``"linear"``, ``"exponential"`` or ``"cosine"``; see `warmup_factor`.
        cooldown_shape: ``"1-sqrt"``, ``"linear"``, ``"cosine"``, ``"square"`` or ``"mirror-cosine"``; see
            `cooldown_factor`.
        floor: The factor at the end of the cooldown, from 0 to 1.

    Returns:
        From 0 to 1.

    Raises:
        ValueError: if a number is negative or not a number, a shape is not known, warmup and cooldown do not both fit
            into the run, or a run without an end is to cool down.

    Example:
        >>> [warmup_cooldown_factor(step, total_steps=6, warmup_steps=2, cooldown_steps=2) for step in range(5)]
        [0.5, 1.0, 1.0, 1.0, 1.0]
        >>> round(warmup_cooldown_factor(5, total_steps=6, warmup_steps=2, cooldown_steps=2), 3)
        0.293
    """
    # Validate the arguments.
    _at_least_zero("total_steps", total_steps)
    _at_least_zero("cooldown_steps", cooldown_steps)
    if cooldown_steps and math.isinf(total_steps):
        raise ValueError(f"cooldown_steps={cooldown_steps!r}: allowed is 0 where total_steps={total_steps!r}")
    if warmup_steps + cooldown_steps > total_steps:
        raise ValueError(
            f"warmup_steps={warmup_steps!r} and cooldown_steps={cooldown_steps!r}: allowed are together at most "
            f"total_steps={total_steps!r}"
        )

    # Compute the factor.
    progress = (step - (total_steps - cooldown_steps)) / cooldown_steps if cooldown_steps else 0.0
    cooling = cooldown_factor(progress, shape=cooldown_shape, floor=floor)
    return warmup_factor(step, warmup_steps, shape=warmup_shape) * cooling


def _at_least_zero(name: str, value: float) -> None:
    if not value >= 0:  # nor is a value that is no number
        raise ValueError(f"{name}={value!r}: allowed is 0 or more")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: allowed are {', '.join(map(repr, allowed))}")
