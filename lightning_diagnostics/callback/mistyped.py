"""Flags and files of Lightning's command line that name what we do not have, said in a line of their own.

The parser says it too, but at the end of pages of usage and amid what else it has tried.
"""

import inspect
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches

from lightning_diagnostics import catalogue
from lightning_diagnostics.callback import terminal
from lightning_diagnostics.callback.arguments import on_the_command_line
from lightning_diagnostics.callback.configs import CONFIGS, content_of

logger = logging.getLogger("lightning_diagnostics")

_FLAG = "--trainer.callbacks"
_OF_THE_PARSER = ("class_path", "init_args", "dict_kwargs", "help")  # which follow the flag, too
_PACKAGE = __name__.partition(".")[0]
_said: set[str] = set()


def check_class(name: str) -> None:
    """Say that there is no such class, if a flag or a file of this process asks for it."""
    if not on_the_command_line():
        return
    path = f"{_PACKAGE}.{name}"
    if any(arg.endswith(path) for arg in sys.argv) or any(path == each for each, _ in _in_files(sys.argv)):
        _say(f"{path}: no such class", name, ["Diagnostics", *catalogue.names().values()])


def check_arguments(kind: type) -> None:
    """Say what flags and files of this process give to a class of ours that it has no argument for."""
    if not on_the_command_line():
        return
    name, known = kind.__name__, list(inspect.signature(kind).parameters)
    given = [(f"{_FLAG}.{argument}", argument) for argument in flags_of(name, sys.argv)]
    for path, arguments in _in_files(sys.argv):
        if path in (name, f"{_PACKAGE}.{name}"):
            given += [(f"{path}: {argument}", argument) for argument in arguments]
    for source, argument in given:
        if argument not in known:
            _say(f"{source}: {name} has no such argument", argument, known)


def flags_of(name: str, args: Sequence[str]) -> Iterator[str]:
    """The arguments that a command line gives to a class: flags are of the callback that was added last."""
    last = ""
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        flag, equals, value = arg.partition("=")
        if flag.removesuffix("+") == _FLAG:
            last = (value if equals else following).rpartition(".")[2]
        elif flag.startswith(f"{_FLAG}.") and last == name:
            argument = flag.removeprefix(f"{_FLAG}.").partition(".")[0].removesuffix("+")
            if argument not in _OF_THE_PARSER:
                yield argument


def _in_files(args: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Class paths in the files of a command line, and the names of the arguments beside each."""
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        flag, equals, value = arg.partition("=")
        if flag in CONFIGS:
            yield from _classes(content_of(value if equals else following))


def _classes(content: object) -> Iterator[tuple[str, list[str]]]:
    if isinstance(content, Mapping):
        if isinstance(content.get("class_path"), str):
            arguments = content.get("init_args")
            yield content["class_path"], [str(each) for each in arguments] if isinstance(arguments, Mapping) else []
        for value in content.values():
            yield from _classes(value)
    elif isinstance(content, list):
        for value in content:
            yield from _classes(value)


def _say(what: str, word: str, known: Sequence[str]) -> None:
    """Put it into the log, once."""
    if what in _said:
        return
    _said.add(what)
    near = get_close_matches(word, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    terminal.set_up()
    logger.error("%s%s; allowed are %s", what, hint, ", ".join(known))
