"""`Diagnostics`: all diagnostics as one callback."""

import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

from typing_extensions import override

from lightning_diagnostics import catalogue
from lightning_diagnostics.callback import terminal
from lightning_diagnostics.callback.arguments import explained, on_the_command_line, one_of
from lightning_diagnostics.callback.base import At, DiagnosticCallback, OnFinding, check_common
from lightning_diagnostics.callback.namespaces import Callback, LightningModule, Trainer, adopt
from lightning_diagnostics.callback.order import callbacks_of
from lightning_diagnostics.findings import (
    Finding,
    Selection,
    choices,
    limit_key,
    limit_table,
)
from lightning_diagnostics.findings.baseline import read_baseline
from lightning_diagnostics.settings import merged

logger = logging.getLogger("lightning_diagnostics")

Preset = Literal["light", "standard", "thorough", "off"]
assert get_args(Preset)[:-1] == catalogue.PRESETS


class Diagnostics(Callback):
    """All diagnostics as one callback, each a real callback of the Trainer while a run lasts.

    It gives the findings that its callbacks give by themselves, in one table. It stands back for what is in the
    Trainer's list already: for a diagnostic that is listed by itself, and for a suite that stands before it.

    Args:
        preset: How much is looked at. ``"standard"`` is every diagnostic with its defaults; ``"light"`` looks less
            often and at fewer layers, ``"thorough"`` more often and at more; ``"off"`` does nothing.
        {diagnostics}
        select: Ask these rules only: codes (``"ACT101"``), names (``"dead-units"``), families (``"ACT"``) or ``"all"``,
            each with a pattern of places if wanted (``"dead-units:encoder*"``). A rule in preview is asked only if it
            is named here. That something could not be seen is said all the same.
        ignore: Findings that are not made, in the same words.
        baseline: A file of known findings, which are not made again unless they get worse. It is written by
            ``lightning-diagnostics report FOLDER --write-baseline FILE``.
        limits: Limits to override, by name, e.g. ``{{"dead-units.share": 0.7}}``.
        on_finding: What to do about a finding: ``"report"`` it, ``"stop"`` training after the batch, or ``"raise"`` a
            ``FindingError``. With several processes the ranks agree on it at the end of the epoch or of a validation.
        at: The severity from which ``"stop"`` and ``"raise"`` act: ``"warning"`` or ``"error"``.
        strict: Raise our own faults instead of switching off (for tests).

    Raises:
        OSError: if the baseline cannot be read.
        ValueError: if a word, a name or an option is not known, a value is not allowed, or the file is no baseline.
        TypeError: if a value is of the wrong kind.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_diagnostics import Diagnostics
        >>> suite = Diagnostics(activations={{"every_n_train_steps": 10}}, ignore=["dead-units:decoder*"])
        >>> trainer = Trainer(callbacks=[suite], logger=False, enable_checkpointing=False)
    """

    enabled_by: str
    """Which way it was switched on, for the record of the run."""

    def __init__(
        self,
        *,
        preset: Preset = "standard",
        select: Sequence[str] | str | None = None,
        ignore: Sequence[str] | str | None = None,
        baseline: str | Path | None = None,
        limits: Mapping[str, float] | None = None,
        on_finding: OnFinding = "report",
        at: At = "warning",
        strict: bool = False,
        **diagnostics: bool | Mapping[str, Any] | None,
    ) -> None:
        # Validate the arguments.
        if preset is False:  # how YAML reads "off"
            preset = "off"
        one_of("preset", preset, get_args(Preset))
        check_common(on_finding, at, strict)
        for name, wanted in diagnostics.items():
            _check_keyword(name, wanted)
        rules = catalogue.rules()
        self._selection = Selection(
            select=None if select is None else choices("select", select, rules),
            ignore=choices("ignore", ignore, rules),
            known=None if baseline is None else read_baseline(baseline),
        )
        common = {"on_finding": on_finding, "at": at, "strict": strict}
        own_limits = _limits_by_room(limits)

        # Set up the diagnostics that are asked for.
        adopt()
        self.preset = preset
        self.enabled_by = "--trainer.callbacks" if on_the_command_line() else "the callbacks of the Trainer"
        given = {**diagnostics, "select": select, "ignore": ignore, "baseline": baseline, "limits": limits}
        self._settings = {"preset": preset, **{name: value for name, value in given.items() if value is not None}}
        self._settings |= {"on_finding": on_finding, "at": at}
        self._children: list[DiagnosticCallback] = []
        for room, kind in _kinds().items():
            options = self._options(room, kind, diagnostics.get(room))
            if options is not None:
                child = _made(room, kind, merged({**common, "limits": own_limits.get(room)}, options))
                child.restrict(self._selection)
                self._children.append(child)
        self._listed: list[DiagnosticCallback] = []  # those of the Trainer's list, ours and the user's
        self._inserted: list[DiagnosticCallback] = []

    def _options(
        self, room: str, kind: type[DiagnosticCallback], wanted: bool | Mapping[str, Any] | None
    ) -> dict[str, Any] | None:
        """The arguments of one diagnostic; None if it is left out."""
        if self.preset == "off" or wanted is False:
            return None
        options = kind.presets.get(self.preset, {})
        if not wanted and (options is None or not any(map(self._selection.selects, (*kind.rules, kind.blind_rule)))):
            return None
        return {**kind.only_watching, **(options or {}), **(wanted if isinstance(wanted, Mapping) else {})}

    @property
    def callbacks(self) -> tuple[DiagnosticCallback, ...]:
        """The callbacks that it is made of, whether a run lasts or not, e.g. to ask one for what it alone knows."""
        return tuple(self._children)

    @property
    def findings(self) -> list[Finding]:
        """What was found in the run, by diagnostics that were listed by themselves too, worst first."""
        runs = (callback.table for callback in (*self._inserted, *self._listed))
        return next((list(table) for table in runs if table is not None), [])

    # The life of a run.

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        callbacks = callbacks_of(trainer)
        here = next((place for place, callback in enumerate(callbacks) if callback is self), len(callbacks))
        # Of a run of whose end nobody told us some may be left. Lightning goes along this very list: what stands
        # before us it has set up by now, and nothing may change its index.
        callbacks[here + 1 :] = [callback for callback in callbacks[here + 1 :] if not self._owns(callback)]
        self._inserted = [callback for callback in callbacks[:here] if self._owns(callback)]
        self._listed = [
            callback for callback in callbacks if isinstance(callback, DiagnosticCallback) and not self._owns(callback)
        ]
        aloud = trainer.is_global_zero and stage == "fit"
        if self._stands_back(callbacks, aloud=aloud):
            return
        if not self._children and self.preset != "off":
            _tell("nothing is watched: the arguments (%s) leave no diagnostic", self.enabled_by, aloud=aloud)
        there = [*self._listed, *self._inserted]
        more = [child for child in self._children if not any(isinstance(other, type(child)) for other in there)]
        self._inserted += more
        callbacks[here + 1 : here + 1] = more  # Lightning sets them up next

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for child in self._inserted[:1]:
            child.tell(enabled_by=self.enabled_by, settings=self._settings)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for child in self._withdraw(trainer):
            child.teardown(trainer, pl_module, stage)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        for child in self._withdraw(trainer):
            child.on_exception(trainer, pl_module, exception)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """What Lightning does for the callbacks of its list; after the run ours are in it no more."""
        states: dict[str, Any] = checkpoint.get("callbacks", {})
        for child in self._inserted:
            states.setdefault(child.state_key, child.state_dict())

    def _stands_back(self, callbacks: list[Any], *, aloud: bool) -> bool:
        """Whether there is nothing to do here; a suite that the user listed goes before one that he did not."""
        if not any(callback is self for callback in callbacks):
            return True
        suites = [callback for callback in callbacks if isinstance(callback, Diagnostics)]
        if suites[0] is self:
            return False
        why = "diagnostics are off" if suites[0].preset == "off" else "there is a suite of diagnostics already"
        _tell(f"{why} (%s); the one of %s stands back", suites[0].enabled_by, self.enabled_by, aloud=aloud)
        return True

    def _owns(self, callback: object) -> bool:
        return any(callback is child for child in self._children)

    def _withdraw(self, trainer: Trainer) -> list[DiagnosticCallback]:
        """Take our callbacks out of the Trainer's list; gives those that Lightning will not tell of the end.

        The Trainer gets a new list, since Lightning may be on its way along the old one: it tells those that stand in
        there. That may be a list without ours, which the user has put in its place.
        """
        callbacks = callbacks_of(trainer)
        cast(Any, trainer).callbacks = [callback for callback in callbacks if not self._owns(callback)]
        return [child for child in self._inserted if not any(child is callback for callback in callbacks)]


def _tell(text: str, *ways: str, aloud: bool) -> None:
    """Say what the suite does about itself."""
    terminal.set_up()
    logger.log(logging.INFO if aloud else logging.DEBUG, text, *ways)


# What a keyword may be.


def _kinds() -> dict[str, type[DiagnosticCallback]]:
    """The registered callbacks by the keyword that stands for each."""
    callbacks = catalogue.callbacks()
    return {room: callbacks[name] for room, name in catalogue.names().items()}


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    return {name: each for name, each in inspect.signature(kind).parameters.items() if name != "self"}


def _check_keyword(name: str, wanted: object) -> None:
    """Check one keyword of a diagnostic and the names of its options."""
    kinds = _kinds()
    if name not in kinds:
        allowed = ", ".join(map(repr, (*_OWN, *kinds)))
        raise TypeError(f"unknown argument {name!r}: allowed are {allowed}")
    if not isinstance(wanted, bool | Mapping | None):
        raise TypeError(f"{name}={wanted!r}: expected True, False, or a mapping of options")
    known = _parameters(kinds[name])
    for option in wanted if isinstance(wanted, Mapping) else ():
        if option not in known:
            raise ValueError(f"{name}: unknown option {option!r}: allowed are {', '.join(map(repr, known))}")


def _limits_by_room(limits: Mapping[str, float] | None) -> dict[str, dict[str, float]]:
    """The limits of each room among those given for all.

    Raises:
        TypeError: if ``limits`` is no mapping.
        ValueError: if no room has a limit of that name.
    """
    if limits is None:
        return {}
    if not isinstance(limits, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # users have no type checker
        raise TypeError(f"limits={limits!r}: expected a mapping from the name of a limit to its value")
    rules = catalogue.rules()
    homes = {key: room for room, kind in _kinds().items() for key in limit_table(kind.default_limits)}
    found: dict[str, dict[str, float]] = {}
    for word, value in limits.items():
        key = limit_key(word, rules)
        if key not in homes:
            raise ValueError(f"unknown limit {word!r}: allowed are {', '.join(map(repr, homes))}")
        found.setdefault(homes[key], {})[key] = value
    return found


def _made(room: str, kind: type[DiagnosticCallback], arguments: dict[str, Any]) -> DiagnosticCallback:
    """A diagnostic; what is wrong with its options is said with its keyword."""
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as fault:
        fault.args = (f"{room}: {fault}",)
        raise


# The signature and the page have a line for each diagnostic, so that a new one edits neither.

_OWN = tuple(name for name, each in _parameters(Diagnostics).items() if each.kind is inspect.Parameter.KEYWORD_ONLY)


def _signature() -> inspect.Signature:
    """The arguments as Lightning's command line reads them.

    Their kinds are wide, so that a wrong value comes to `Diagnostics`, which says what is allowed.
    """
    own = _parameters(Diagnostics)
    wide: dict[str, Any] = {
        "preset": str | bool,
        "select": list[str] | str | None,
        "ignore": list[str] | str | None,
        "baseline": str | None,
        "limits": dict[str, Any] | str | None,
        "on_finding": str,
        "at": str,
        "strict": bool | str,
    }
    ordered = [own[name].replace(annotation=wide.get(name, own[name].annotation)) for name in _OWN]
    rooms = [
        inspect.Parameter(
            room, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=bool | dict[str, Any] | str | None
        )
        for room in catalogue.rooms()
    ]
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Signature([this, ordered[0], *rooms, *ordered[1:]])


def _page(page: str) -> str:
    """The docstring with an entry for each diagnostic."""
    entries = []
    for room, kind in _kinds().items():
        options = ", ".join(f"``{name}``" for name in _parameters(kind))
        entries.append(
            f"{room}: False leaves `{kind.__name__}` out, True has it in whatever the preset and ``select`` say, and a "
            f"mapping sets its options: {options}."
        )
    return inspect.cleandoc(page).format(diagnostics="\n    ".join(entries))


Diagnostics.__doc__ = _page(Diagnostics.__doc__ or "")
Diagnostics.__init__ = explained(Diagnostics.__init__)
Diagnostics.__init__.__signature__ = _signature()  # pyright: ignore[reportFunctionMemberAccess]  # what inspect reads
