"""`DiagnosticsFlags`: flags for the suite, for a command line of Lightning's."""

import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from lightning_diagnostics import catalogue
from lightning_diagnostics.callback.configs import CONFIGS, content_of
from lightning_diagnostics.callback.namespaces import adopt
from lightning_diagnostics.callback.suite import Diagnostics
from lightning_diagnostics.settings import parse

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser

KEY = "diagnostics"
"""What the suite's flags begin with (``--diagnostics.preset``) and what it is called in a file."""

_FLAG = f"--{KEY}"
_HELP = (
    f"A preset ({', '.join(catalogue.PRESETS)}), off, the names or codes of what is wanted, or a YAML file with the "
    "arguments below. On if it is not given."
)
_SUBCOMMANDS = ("fit", "validate", "test", "predict")


class DiagnosticsFlags:
    """What `DiagnosticsCLI` adds to a command line, to be mixed into one of your own.

    ``class CLI(DiagnosticsFlags, LightningCLI)`` works with the ``LightningCLI`` of ``lightning.pytorch`` and with that
    of ``pytorch_lightning``. Where that class has a ``parse_arguments`` of its own, it has to call ``super()``'s.

    The suite is on unless it is switched off, with ``--diagnostics=off``. To have it off until a flag switches it on,
    call ``parser.set_defaults({"diagnostics.preset": "off"})`` in ``add_arguments_to_parser``.
    """

    config: Any
    config_init: Any
    parser: Any

    def add_core_arguments_to_parser(self, parser: "LightningArgumentParser") -> None:
        """Add the suite's flags to a parser (not where users add theirs, who need not call ``super()``'s there)."""
        super().add_core_arguments_to_parser(parser)  # pyright: ignore[reportAttributeAccessIssue]  # of LightningCLI
        adopt()
        catalogue.callbacks()  # a short name is known to the parser once its class has been imported
        parser.add_lightning_class_args(Diagnostics, KEY)
        flag = next(action for action in parser._actions if action.dest == KEY)  # argparse has no public way to it
        flag.metavar, flag.help = "WORDS", _HELP

    def parse_arguments(self, parser: "LightningArgumentParser", args: Any) -> None:
        """Parse the command line; what follows ``--diagnostics`` is read as the environment variable is."""
        if args is None:
            self.config = parser.parse_args(spelled_out(sys.argv[1:]))
        else:
            if isinstance(args, Mapping):
                _check_content("args", args)
            elif isinstance(args, Sequence) and not isinstance(args, str):
                args = spelled_out(args)
            super().parse_arguments(parser, args)  # pyright: ignore[reportAttributeAccessIssue]  # of LightningCLI
        self._check_suite()

    def _check_suite(self) -> None:
        """Check the suite's arguments before anything is made, so that what is wrong with them is said alone."""
        settings = _of_subcommand(self.config)
        if settings[KEY] in (None, False, True):  # a file may say "diagnostics: off", or "on"
            arguments = {name: each.default for name, each in inspect.signature(Diagnostics).parameters.items()}
            settings[KEY] = type(settings)(**{**arguments, "preset": "standard" if settings[KEY] else "off"})
        try:
            Diagnostics(**settings[KEY])
        except (OSError, TypeError, ValueError) as fault:
            _refuse(f"{_FLAG}: {fault}")

    def instantiate_classes(self) -> None:
        """Make the model, the data and the Trainer, which has the suite in its list."""
        super().instantiate_classes()  # pyright: ignore[reportAttributeAccessIssue]  # of LightningCLI
        _of_subcommand(self.config_init)[KEY].enabled_by = _FLAG


def spelled_out(args: Sequence[str]) -> list[str]:
    """A command line in which what follows ``--diagnostics`` is a preset or a mapping of arguments.

    What the suite does not know, there or in a file of ``--config``, ends the program with an error.
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
            _check_name(name.removeprefix(f"{_FLAG}."), name, f"{_FLAG}.")
        elif name in CONFIGS and (equals or rest):
            _check_file(word if equals else rest[0])
        found.append(arg)
    return found


def _spelled_out(word: str) -> str:
    """What ``--diagnostics=WORD`` stands for: a preset, or a mapping of arguments."""
    if not word:
        _refuse(f"{_FLAG}=: allowed are {', '.join(catalogue.PRESETS)}, off, and a YAML file with the arguments")
    try:
        arguments = parse(word)
    except (OSError, TypeError, ValueError) as fault:
        _refuse(f"{_FLAG}={word}: {fault}")
    if arguments is None:
        arguments = {"preset": "off"}
    if arguments.keys() == {"preset"}:
        return f"{_FLAG}.preset={arguments['preset']}"  # leaves what stands in files as it is
    return f"{_FLAG}={json.dumps(arguments)}"


def _check_name(name: str, source: str, prefix: str = "") -> None:
    """Refuse an argument that the suite does not have."""
    known = list(inspect.signature(Diagnostics).parameters)
    if name.partition(".")[0].removesuffix("+") not in (*known, "help"):
        _refuse(f"{source}: no such argument; allowed are {', '.join(prefix + each for each in known)}")


def _check_file(path: str) -> None:
    """Refuse what a file of ``--config`` says of the suite, where the parser would not say what to write."""
    _check_content(path, content_of(path))


def _check_content(source: str, content: object) -> None:
    """Refuse what is no mapping of the suite's arguments."""
    for settings in _of_file(content):
        if isinstance(settings, Mapping):
            for name in settings:
                _check_name(str(name), f"{source}: {KEY}: {name}")
        elif settings not in (None, True, False):
            _refuse(f"{source}: {KEY}: {settings}: write {KEY}: {{preset: {_preset_like(settings)}}}")


def _preset_like(settings: object) -> object:
    """What is meant to be a preset, or else an example of one."""
    return settings if settings in (*catalogue.PRESETS, "off") else catalogue.PRESETS[1]


def _of_file(content: object) -> Iterator[object]:
    """What a file says of the suite, for all subcommands or for one."""
    if isinstance(content, Mapping):
        parts = (content, *(content.get(subcommand) for subcommand in _SUBCOMMANDS))
        yield from (part[KEY] for part in parts if isinstance(part, Mapping) and KEY in part)


def _refuse(why: str) -> NoReturn:
    """End the program as a parser does, without the pages of usage that hide the reason."""
    sys.stderr.write(f"error: {why}\n")
    raise SystemExit(2)


def _of_subcommand(config: Any) -> Any:
    """The part of a configuration that belongs to the subcommand, if there is one."""
    subcommand = config.get("subcommand")
    return config[subcommand] if subcommand else config
