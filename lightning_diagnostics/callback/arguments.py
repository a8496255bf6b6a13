"""Checks of arguments, with errors that quote the value and say what is allowed."""


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Check that an argument is one of the words allowed.

    Raises:
        ValueError: if it is not; the message quotes it and lists them.
    """
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: allowed are {', '.join(repr(word) for word in allowed)}")


def whole_number(name: str, value: object, *, low: int) -> None:
    """Check that an argument is a whole number of at least ``low``.

    Raises:
        TypeError: if it is not a whole number.
        ValueError: if it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r}: expected a whole number of {low} or more")
    if value < low:
        raise ValueError(f"{name}={value!r}: allowed is {low} or more")
