"""A terminal to write to, and what is to be seen on it."""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.helpers import LOGGER


@contextmanager
def screen() -> Iterator[io.StringIO]:
    """Both streams of a terminal in one, in a process whose logging nobody has set up."""
    root, stream, streams = logging.getLogger(), io.StringIO(), (sys.stdout, sys.stderr)
    before = (root.handlers[:], LOGGER.handlers[:], LOGGER.propagate, LOGGER.level)
    root.handlers, LOGGER.handlers, LOGGER.propagate = [], [], True
    LOGGER.setLevel(logging.NOTSET)
    sys.stdout = sys.stderr = stream
    try:
        yield stream
    finally:
        sys.stdout, sys.stderr = streams
        root.handlers, LOGGER.handlers, LOGGER.propagate = before[0], before[1], before[2]
        LOGGER.setLevel(before[3])


def shown(text: str) -> list[str]:
    """The lines of a terminal that understands carriage returns and the way up, as tqdm uses them."""
    lines, row, column = [""], 0, 0
    for piece in text.replace("\x1b[A", "\x0b"):
        if piece == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif piece == "\r":
            column = 0
        elif piece == "\x0b":
            row = max(0, row - 1)
        else:
            lines[row] = lines[row].ljust(column)[:column] + piece + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]
