"""What arguments must be, and the words where they are not."""


def probability(name: str, value: float) -> None:
    """Raise where ``value`` is not between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name}={value!r}: allowed is more than 0 and less than 1")
