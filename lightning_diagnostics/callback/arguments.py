"""Checks of arguments, with errors that quote the value and say what is allowed."""

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from typing import Any

from lightning_diagnostics.callback import terminal

logger = logging.getLogger("lightning_diagnostics")

_PARSER = "jsonargparse"
_CALLER = "jsonargparse._cli"  # calls a function of the user's, who makes things there himself
_SAID = "_lightning_diagnostics_said"  # on an error that has been put into the log


class ConfigurationError(ValueError):
    """An argument that does not fit the run, found when the run is set up: nothing has been trained yet."""


def on_the_command_line() -> bool:
    """Whether an object is being made by a parser of command lines, Lightning's CLI for one."""
    frame = sys._getframe()
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] == _PARSER:
            return module != _CALLER
        frame = frame.f_back
    return False


def explained(init: Callable[..., None]) -> Callable[..., None]:
    """An ``__init__`` whose error is also a line of the log where a parser would hide it amid its own guesses."""

    @functools.wraps(init)
    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except (OSError, TypeError, ValueError) as fault:
            if on_the_command_line() and not getattr(fault, _SAID, False):
                setattr(fault, _SAID, True)
                terminal.set_up()
                logger.error("%s: %s", type(self).__name__, fault)
            raise

    return call


def wide(init: Callable[..., None]) -> inspect.Signature:
    """The arguments of an ``__init__`` as a parser is to read them: any text is taken, too.

    So a wrong value comes to the ``__init__``, which says what is allowed; a parser says it below a page of usage.
    """
    signature = inspect.signature(init)
    return signature.replace(parameters=[_wide(each) for each in signature.parameters.values()])


def _wide(parameter: inspect.Parameter) -> inspect.Parameter:
    kind = parameter.annotation
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or kind is inspect.Parameter.empty or isinstance(kind, str):
        return parameter
    return parameter.replace(annotation=kind | str)


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
