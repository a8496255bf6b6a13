"""`DiagnosticsFlags`: flags for the suite, for a command line of Lightning's."""

import inspect
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from lightning_diagnostics import catalogue
from lightning_diagnostics.callback.namespaces import adopt
from lightning_diagnostics.callback.suite import Diagnostics

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser

KEY = "diagnostics"
"""What the suite's flags begin with (``--diagnostics.preset``) and what it is called in a file."""

_FLAG = f"--{KEY}"
_WORDS = {**{preset: preset for preset in catalogue.PRESETS}, "on": "standard", "true": "standard"}
_WORDS |= {"off": "off", "false": "off"}


class DiagnosticsFlags:
    """What `DiagnosticsCLI` adds to a command line, to be mixed into one of your own.

    ``class CLI(DiagnosticsFlags, LightningCLI)`` works with the ``LightningCLI`` of ``lightning.pytorch`` and with that
    of ``pytorch_lightning``. Where that class has an ``add_arguments_to_parser`` or a ``parse_arguments`` of its own,
    it has to call ``super()``'s.

    The suite is on unless it is switched off, with ``--diagnostics=off``. To have it off until a flag switches it on,
    call ``parser.set_defaults({"diagnostics.preset": "off"})`` in ``add_arguments_to_parser``, after ``super()``'s.
    """

    config: Any
    config_init: Any
    parser: Any

    def add_arguments_to_parser(self, parser: "LightningArgumentParser") -> None:
        """Add the suite's flags to a parser."""
        super().add_arguments_to_parser(parser)  # pyright: ignore[reportAttributeAccessIssue]  # of LightningCLI
        adopt()
        catalogue.callbacks()  # a short name is known to the parser once its class has been imported
        parser.add_lightning_class_args(Diagnostics, KEY)

    def parse_arguments(self, parser: "LightningArgumentParser", args: Any) -> None:
        """Parse the command line; one word after ``--diagnostics`` is a preset."""
        if args is None:
            self.config = parser.parse_args(spelled_out(sys.argv[1:]))
        else:
            args = spelled_out(args) if isinstance(args, Sequence) and not isinstance(args, str) else args
            super().parse_arguments(parser, args)  # pyright: ignore[reportAttributeAccessIssue]  # of LightningCLI
        self._check_suite()

    def _check_suite(self) -> None:
        """Check the suite's arguments before anything is made, so that what is wrong with them is said alone."""
        settings = _of_subcommand(self.config)
        if settings[KEY] in (None, False):  # a file may say "diagnostics: off"
            settings[KEY] = type(settings)(preset="off")
        try:
            Diagnostics(**settings[KEY])
        except (OSError, TypeError, ValueError) as fault:
            _refuse(f"{_FLAG}: {fault}")

    def instantiate_classes(self) -> None:
        """Make the model, the data and the Trainer, which has the suite in its list."""
        super().instantiate_classes()  # pyright: ignore[reportAttributeAccessIssue]  # of LightningCLI
        _of_subcommand(self.config_init)[KEY].enabled_by = _FLAG


def spelled_out(args: Sequence[str]) -> list[str]:
    """A command line with ``--diagnostics=WORD``, ``--diagnostics WORD`` and ``--diagnostics`` as a preset.

    A word that is no preset, and a flag that the suite does not have, end the program with an error.
    """
    found: list[str] = []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        name, equals, word = arg.partition("=")
        if name == _FLAG and not equals:
            word = rest.pop(0) if rest and not rest[0].startswith("-") else "on"
        if name == _FLAG:
            arg = _spelled_out(word)
        elif name.startswith(f"{_FLAG}."):
            _check_flag(name)
        found.append(arg)
    return found


def _spelled_out(word: str) -> str:
    """What ``--diagnostics=WORD`` stands for: a preset, or arguments in a file or a mapping."""
    if word.lower() in _WORDS:
        return f"{_FLAG}.preset={_WORDS[word.lower()]}"
    if word.startswith("{") or os.path.isfile(word):
        return f"{_FLAG}={word}"
    return _refuse(f"{_FLAG}={word}: allowed are {', '.join(_WORDS)}, and a YAML file with the suite's arguments")


def _check_flag(name: str) -> None:
    argument = name.removeprefix(f"{_FLAG}.").partition(".")[0].removesuffix("+")
    known = list(inspect.signature(Diagnostics).parameters)
    if argument not in (*known, "help"):
        _refuse(f"{name}: no such flag; allowed are {', '.join(f'{_FLAG}.{each}' for each in known)}")


def _refuse(why: str) -> NoReturn:
    """End the program as a parser does, without the pages of usage that hide the reason."""
    sys.stderr.write(f"error: {why}\n")
    raise SystemExit(2)


def _of_subcommand(config: Any) -> Any:
    """The part of a configuration that belongs to the subcommand, if there is one."""
    subcommand = config.get("subcommand")
    return config[subcommand] if subcommand else config
