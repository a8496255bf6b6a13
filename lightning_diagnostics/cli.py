"""The command ``lightning-diagnostics``: the rules and their pages, the report of a run, and runs under diagnostics.

Whatever is heavy is imported by the command that needs it, so that a page is there at once.
"""

import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn

import click

from lightning_diagnostics import __version__, catalogue
from lightning_diagnostics.findings import Limit, Rule, Severity, limit_table

_PIPED = 80  # columns where there is no terminal to ask
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # exit statuses of shells
_GATE = {"error": Severity.ERROR, "warning": Severity.WARNING, "note": Severity.INFO, "never": None}
_LIGHT = {"preset", "select", "ignore", "baseline"}  # arguments of the suite that are checked without torch
_NO_TERMINATION = ("SIGPIPE", "SIGXFSZ")  # what Python ignores and other programs do not


class Misuse(click.ClickException):
    """An error of the user's: its message comes first, and the exit status is 2."""

    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lightning-diagnostics", message="%(prog)s %(version)s")
def commands() -> None:
    """Diagnose PyTorch Lightning training runs: what is wrong, where, since when, and what to do."""


@commands.command()
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def rules(form: str) -> None:
    """List what can be found: code, name, severities and summary of every rule."""
    from lightning_diagnostics.findings import pages

    every = catalogue.rules()
    click.echo(pages.as_json(every) if form == "json" else pages.listing(every, width=_columns()))


@commands.command()
@click.argument("rule", metavar="CODE-or-NAME")
def explain(rule: str) -> None:
    """Show the page of a rule: what it means, why it matters, what to do, when it is wrong, and its limits."""
    from lightning_diagnostics.findings import pages

    try:
        found = pages.find(rule, catalogue.rules())
    except ValueError as error:
        raise Misuse(str(error)) from None
    page = pages.page(found, _limits(found))
    if not sys.stdout.isatty() or find_spec("rich") is None:
        click.echo(page)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(page))


@commands.command()
@click.argument("run_folder", type=click.Path())
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "markdown", "sarif"]), default="text", show_default=True
)
@click.option(
    "--fail-on",
    type=click.Choice(list(_GATE)),
    default="warning",
    show_default=True,
    help="The mildest open finding that makes the exit status 1.",
)
@click.option("--baseline", type=click.Path(), metavar="FILE", help="Findings that are known, and do not fail.")
@click.option("--write-baseline", type=click.Path(), metavar="FILE", help="Write the open findings as known; exit 0.")
@click.option("--output", type=click.Path(), metavar="FILE", help="Write the report there; - is the standard output.")
def report(
    run_folder: str, form: str, fail_on: str, baseline: str | None, write_baseline: str | None, output: str | None
) -> None:
    """Report what was found in a run, from its folder; the run may go on meanwhile.

    The exit status is 1 if a finding at --fail-on or worse is open and not known to the baseline, 2 if something is
    wrong with the command, and 0 otherwise. What was decided is said on the standard error.
    """
    from lightning_diagnostics.findings import baseline as baselines
    from lightning_diagnostics.findings.gate import gate
    from lightning_diagnostics.findings.records import read_run

    if baseline is not None and write_baseline is not None:
        raise Misuse("--baseline and --write-baseline exclude each other: what is written is every open finding")
    try:
        record = read_run(run_folder)
        known = baselines.read_baseline(baseline) if baseline is not None else None
        _put(_report(record, form, known), output)
        if write_baseline is not None:
            mildest = min(Severity.WARNING, _GATE[fail_on] or Severity.WARNING)
            number = baselines.write_baseline(write_baseline, record.findings, at=mildest)
            click.echo(f"Wrote {number} open finding{'s' * (number != 1)} to {write_baseline}.", err=True)
            return
    except (OSError, ValueError) as error:
        raise Misuse(str(error)) from None
    decision = gate(record, at=_GATE[fail_on], baseline=known)
    click.echo(decision.words(), err=True)
    sys.exit(0 if decision.passed else 1)


@commands.command("tuning-curve")
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER [FOLDER]")
@click.option("--metric", metavar="NAME", help="What the scores are of, if the runs have several.")
@click.option("--mode", type=click.Choice(["min", "max"]), help="Which way it is better, if the runs have both.")
@click.option("--sweep", "sweeps", multiple=True, metavar="NAME", help="Which sweep; twice to compare two of a folder.")
@click.option(
    "--failed", default="worst", show_default=True, metavar="worst|drop|NUMBER", help="What a failure counts."
)
@click.option("--confidence", type=float, default=0.8, show_default=True, help="Of the band.")
@click.option("--band", type=click.Choice(["ld", "ld-highest-density", "ks", "dkw"]), default="ld", show_default=True)
@click.option(
    "--min-trials", type=click.IntRange(1), default=5, show_default=True, help="How many scores a curve takes."
)
@click.option("--format", "form", type=click.Choice(["text", "json", "png"]), default="text", show_default=True)
@click.option("--output", type=click.Path(), metavar="FILE", help="Write it there; - is the standard output.")
@click.option("--tensorboard", type=click.Path(), metavar="OUT", help="Write the curve there, for TensorBoard, too.")
def tuning_curve(
    folders: Sequence[str],
    metric: str | None,
    mode: str | None,
    sweeps: Sequence[str],
    failed: str,
    confidence: float,
    band: str,
    min_trials: int,
    form: str,
    output: str | None,
    tensorboard: str | None,
) -> None:
    """Show what the best of n trials is worth, from the runs below FOLDER; of two sweeps, which beats the other.

    Runs are recorded by ExpectedValidationPerformance; they may go on meanwhile. Two sweeps are those of two folders,
    or of one folder with --sweep given twice.
    """
    from lightning_diagnostics.diagnostics.expected_performance import showing

    options: dict[str, Any] = {"metric": metric, "mode": mode, "confidence": confidence, "band": band}
    try:
        options |= {"failed": showing.policy(failed), "min_trials": min_trials}
        curves, comparison = showing.curves(showing.places(folders, sweeps), **options)
        if tensorboard is not None:
            try:
                showing.write(curves, tensorboard)
            except OSError as error:
                why = error.strerror or error
                raise type(error)(f"--tensorboard {tensorboard!r} cannot be written ({why})") from None
        if form == "png":
            _put_bytes(showing.png(curves), output)
        else:
            _put(showing.text(curves, comparison) if form == "text" else showing.json(curves, comparison), output)
    except (ImportError, OSError, ValueError) as error:
        raise Misuse(str(error)) from None


@commands.command(
    context_settings={"allow_interspersed_args": False},
    epilog="\b\nExample: lightning-diagnostics run --preset light -- torchrun --nproc-per-node 2 train.py",
)
@click.option("--preset", type=click.Choice(catalogue.PRESETS), help="How much is looked at.  [default: standard]")
@click.option("--select", multiple=True, metavar="WORD", help="Ask this rule only (code, name, or name:place-pattern).")
@click.option("--ignore", multiple=True, metavar="WORD", help="Leave this rule out.")
@click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE", help="E.g. activations.every_n_train_steps=10."
)
@click.option("--config", type=click.Path(), metavar="FILE.yaml", help="The arguments of Diagnostics; options win.")
@click.option("--baseline", type=click.Path(), metavar="FILE", help="Findings that are known, and not reported.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
def run(
    preset: str | None,
    select: Sequence[str],
    ignore: Sequence[str],
    options: Sequence[str],
    config: str | None,
    baseline: str | None,
    command: Sequence[str],
) -> None:
    """Run a training command under diagnostics, without a change of its code.

    The environment variable LIGHTNING_DIAGNOSTICS is set for COMMAND, which then takes the place of this process: its
    signals and its exit status are its own.
    """
    from lightning_diagnostics import settings
    from lightning_diagnostics.autoload import VARIABLE

    given = {"preset": preset, "select": _words(select), "ignore": _words(ignore), "baseline": baseline}
    try:
        asked: dict[str, Any] = {name: value for name, value in given.items() if value not in (None, [])}
        for option in options:
            settings.put(asked, option)
        below = {"preset": "standard", **(settings.read(config) if config is not None else {})}
        value = _checked(settings.merged(below, asked))
    except (OSError, TypeError, ValueError) as error:
        raise Misuse(str(error)) from None
    _become(command, {**os.environ, VARIABLE: value})


def main() -> None:
    """Run the command."""
    for name in _NO_TERMINATION:  # so that `| head` ends us quietly, and a command that we become is as without us
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # the lines of a table are not in every encoding
    commands(prog_name="lightning-diagnostics")


def _columns() -> int:
    return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else _PIPED


def _limits(rule: Rule) -> list[Limit]:
    """The limits of the room that a rule stands in."""
    limits = getattr(import_module(rule.check.__module__), "Limits", None)
    return [] if limits is None else [described for _, described in limit_table(limits).values()]


def _report(record: Any, form: str, known: Any) -> str:
    """A run in one of the formats."""
    from lightning_diagnostics.findings import report
    from lightning_diagnostics.findings.sarif import sarif

    if form == "sarif":
        return sarif(record, catalogue.rules(), version=__version__, baseline=known)
    make = {"text": report.text, "json": report.as_json, "markdown": report.markdown}[form]
    return make(record, baseline=known)


def _put(text: str, path: str | None) -> None:
    """Write a report to a file, or to the standard output."""
    if path in (None, "-"):
        click.echo(text)
        return
    try:
        with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text + "\n")
    except OSError as error:
        raise type(error)(f"--output {path!r} cannot be written ({error.strerror})") from None


def _put_bytes(content: bytes, path: str | None) -> None:
    """Write a picture to a file, or to a standard output that is no terminal."""
    if path in (None, "-"):
        if sys.stdout.isatty():
            raise ValueError("--format png writes a picture: give --output FILE")
        sys.stdout.buffer.write(content)
        return
    try:
        with open(path, "wb") as file:
            file.write(content)
    except OSError as error:
        raise type(error)(f"--output {path!r} cannot be written ({error.strerror})") from None


def _words(options: Sequence[str]) -> list[str]:
    """The words of an option that may be repeated; commas separate them too."""
    return [word.strip() for option in options for word in option.split(",") if word.strip()]


def _checked(arguments: dict[str, Any]) -> str:
    """The arguments of the suite as the environment variable holds them, if the suite takes them."""
    from lightning_diagnostics import settings
    from lightning_diagnostics.findings import read_baseline

    baseline = arguments.get("baseline")
    if baseline is not None:
        if baseline and isinstance(baseline, str):
            arguments["baseline"] = os.path.abspath(baseline)  # the command may change its folder
        read_baseline(arguments["baseline"])
    settings.check(arguments)
    if arguments.keys() - _LIGHT:
        from lightning_diagnostics.callback.suite import Diagnostics  # knows the options of each diagnostic

        Diagnostics(**arguments)
    return json.dumps(arguments)


def _become(command: Sequence[str], environment: dict[str, str]) -> NoReturn:
    """Let a command take the place of this process; where that cannot be, wait for it."""
    try:
        if os.name == "posix":
            os.execvpe(command[0], list(command), environment)
        import subprocess

        sys.exit(subprocess.run(list(command), env=environment, check=False).returncode)
    except FileNotFoundError:
        hint = f" (a script of Python: python {command[0]})" if command[0].endswith(".py") else ""
        click.echo(f"Error: command {command[0]!r} not found{hint}", err=True)
        sys.exit(_NOT_FOUND)
    except OSError as error:
        click.echo(f"Error: command {command[0]!r} cannot be run ({error.strerror})", err=True)
        sys.exit(_NOT_EXECUTABLE)


if __name__ == "__main__":
    main()
