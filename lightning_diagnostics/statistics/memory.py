"""How far growth is from the end of what is free."""


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
