"""What the suite is made of: presets, keywords, words, limits, a baseline; and what it writes down."""

import inspect
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch.multiprocessing
from lightning.pytorch.loggers import CSVLogger

from lightning_diagnostics import ActivationMonitor, Diagnostics, GraphLeakDetector, Severity, catalogue
from lightning_diagnostics.callback import DiagnosticCallback
from lightning_diagnostics.callback.record import Record
from lightning_diagnostics.findings import limit_table
from lightning_diagnostics.findings.baseline import write_baseline
from lightning_diagnostics.findings.records import RECORD_FILE, read_run
from tests.callback.scripted import Scripted, blind, diagnose
from tests.helpers import KINDS, Member, diagnosed, every_kind, fit, heard, trainer
from tests.patients import DeadReLU, LossList, Student, kill_units


class Both(LossList):
    """Dead units and a leak."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"sick": True, **kwargs})
        kill_units(self)


EVERY = list(catalogue.names().values())
OTHERS = [member.room for member in KINDS if member.room != "activations"]
DEAD, LEAK = ("ACT101", "net.2", 0), ("MEM101", "model.losses", 0)


def found(module: Student | None = None, **arguments: Any) -> set[tuple[str, str | None, int]]:
    """What a suite finds in a network that has two illnesses, or in another."""
    suite = Diagnostics(strict=True, **arguments)
    fit(trainer(suite, max_epochs=1), module or Both())
    return diagnosed(suite.findings)


def children(**arguments: Any) -> dict[str, DiagnosticCallback]:
    return {type(child).__name__: child for child in Diagnostics(**arguments).callbacks}


# Its signature.


def test_it_has_a_keyword_for_every_registered_diagnostic_and_no_other() -> None:
    parameters = inspect.signature(Diagnostics).parameters
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters.values())
    own = {"preset", "select", "ignore", "baseline", "limits", "on_finding", "at", "strict"}
    assert set(parameters) - own == set(catalogue.rooms())
    assert [name for name in parameters if name in catalogue.rooms()] == catalogue.rooms()


@every_kind
def test_its_page_names_every_diagnostic_with_its_options(member: Member) -> None:
    page = inspect.getdoc(Diagnostics) or ""
    entry = re.search(rf"^    {member.room}: (.*(?:\n        .*)*)", page, re.MULTILINE)
    assert entry is not None
    assert f"`{member.name}`" in entry[1]
    assert all(f"``{option}``" in entry[1] for option in inspect.signature(member.kind).parameters)
    assert "{" not in page.replace('{"', "")


# Presets and keywords.


def test_the_standard_is_every_diagnostic_with_its_defaults() -> None:
    made = children()
    assert list(made) == [member.name for member in KINDS]
    for member in KINDS:
        plain = member.kind(**member.kind.only_watching)
        for name in inspect.signature(member.kind).parameters:
            if hasattr(plain, name):
                assert getattr(made[member.name], name) == getattr(plain, name)


@every_kind
def test_light_looks_less_and_thorough_more_often(member: Member) -> None:
    light, standard, thorough = (children(preset=preset).get(member.name) for preset in catalogue.PRESETS)
    if not member.kind.presets:  # it measures nothing of its own
        assert _options(light) == _options(standard) == _options(thorough)
        return
    if not hasattr(standard, "every_n_train_steps"):  # it looks when the user does
        assert light is None
        assert _options(standard) != _options(thorough)
        return
    looks = [getattr(each, "every_n_train_steps", 0) for each in (light, standard, thorough)]
    assert looks[0] > looks[1] > looks[2]


def _options(diagnostic: Any) -> dict[str, Any]:
    return {name: getattr(diagnostic, name, None) for name in inspect.signature(type(diagnostic)).parameters}


@every_kind
def test_presets_are_of_known_names_and_options(member: Member) -> None:
    assert set(member.kind.presets) <= set(catalogue.PRESETS) - {"standard"}
    for options in member.kind.presets.values():
        assert set(options or ()) <= set(inspect.signature(member.kind).parameters)


def test_off_is_nothing_at_all() -> None:
    for off in ("off", False):
        assert children(preset=off, activations=True) == {}
    with heard() as records:
        fit(trainer(Diagnostics(preset="off"), max_epochs=1), Both())
    assert records == []


def test_a_suite_that_is_off_is_said_to_be_where_another_stands_back_for_it() -> None:
    with heard() as records:
        fit(trainer(Diagnostics(preset="off"), Diagnostics(), max_epochs=1), Both())
    way = "the callbacks of the Trainer"
    assert [record.getMessage() for record in records] == [f"diagnostics are off ({way}); the one of {way} stands back"]


@pytest.mark.parametrize("arguments", [dict.fromkeys(catalogue.rooms(), False), {"select": []}], ids=str)
def test_that_nothing_is_watched_is_said_unless_it_is_off(arguments: dict[str, Any]) -> None:
    with heard() as records:
        fit(trainer(Diagnostics(**arguments), max_epochs=1), Both())
    said = "nothing is watched: the arguments (the callbacks of the Trainer) leave no diagnostic"
    assert [record.getMessage() for record in records] == [said]


def test_a_keyword_leaves_a_diagnostic_out_or_sets_its_options_over_the_preset() -> None:
    made = children(preset="thorough", graph_leak=False, activations={"max_layers": 3})
    monitor = made["ActivationMonitor"]
    assert isinstance(monitor, ActivationMonitor)
    assert list(made) == [name for name in EVERY if name != "GraphLeakDetector"]
    assert (monitor.every_n_train_steps, monitor.max_layers) == (10, 3)


def test_a_diagnostic_that_a_preset_leaves_out_is_there_when_its_keyword_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GraphLeakDetector, "presets", {"light": None})
    light = [member.name for member in KINDS if member.kind.presets.get("light", {}) is not None]
    assert list(children(preset="light")) == light
    assert "GraphLeakDetector" not in light
    assert set(children(preset="light", graph_leak=True)) == {*light, "GraphLeakDetector"}
    assert list(children(preset="light", **dict.fromkeys(catalogue.rooms(), True))) == EVERY
    leak = children(preset="light", graph_leak={"min_age": 3})["GraphLeakDetector"]
    assert isinstance(leak, GraphLeakDetector)
    assert leak.min_age == 3


def test_the_common_arguments_reach_every_diagnostic_and_options_go_before_them() -> None:
    made = children(on_finding="stop", at="error", strict=True, graph_leak={"on_finding": "report"})
    assert {name: (each.on_finding, each.at, each.strict) for name, each in made.items()} == {
        name: ("report" if name == "GraphLeakDetector" else "stop", "error", True) for name in EVERY
    }


# Words.


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {DEAD, LEAK}),
        ({"select": ["dead-units"]}, {DEAD}),
        ({"select": "MEM"}, {LEAK}),
        ({"select": ["ACT101:net*", "MEM101:other"]}, {DEAD}),
        ({"ignore": ["ACT101"]}, {LEAK}),
        ({"ignore": "retained-graph:model.*"}, {DEAD}),
        ({"ignore": ["dead-units:encoder*", "MEM102"]}, {DEAD, LEAK}),
        ({"select": []}, set()),
    ],
    ids=lambda each: str(sorted(each) if isinstance(each, set) else each),  # in the same order in every process
)
def test_select_and_ignore(arguments: dict[str, Any], expected: set[Any]) -> None:
    assert found(**arguments) == expected


def test_a_diagnostic_of_whose_rules_none_is_asked_is_left_out_unless_its_keyword_asks() -> None:
    assert list(children(select=["MEM101"])) == ["GraphLeakDetector"]
    assert list(children(select=["MEM101"], activations=True)) == ["ActivationMonitor", "GraphLeakDetector"]
    assert list(children(ignore=["ACT"])) == EVERY  # its charts are wanted still
    assert children(select=[]) == {}
    for member in KINDS:
        assert list(children(select=[member.kind.blind_rule.code])) == [member.name]


def test_what_is_ignored_neither_acts_nor_is_told_nor_written(tmp_path: Path) -> None:
    suite = Diagnostics(strict=True, ignore=["ACT101", "BN901", "MEM101"], on_finding="raise")
    with heard() as records:
        fit(trainer(suite, logger=CSVLogger(tmp_path)), Both())
    assert [record.getMessage().split()[0] for record in records] == ["watching", "Run"]
    assert records[-1].getMessage().startswith("Run finished at step 15: no findings")
    assert list(tmp_path.rglob("findings.jsonl")) == []


class _Previews(Scripted):
    """Its rule is a preview."""

    rules = (Scripted.rules[0].__class__(**{**vars(Scripted.rules[0]), "preview": True}),)


def test_a_preview_is_asked_when_it_is_selected_and_a_note_is_made_unless_it_is_ignored() -> None:
    from lightning_diagnostics.findings import Selection, choices

    rules = (*_Previews.rules, Scripted.blind_rule)
    script = {1: [lambda callback, run, step: diagnose()(callback, run, step), blind]}

    def codes(selection: Selection) -> list[str]:
        scripted = _Previews({1: [blind]})
        scripted.script = {
            1: [lambda c, run, step: c.judge(run, _Previews.rules[0], _sick(), step=step), *script[1][1:]]
        }
        scripted.restrict(selection)
        fit(trainer(scripted, max_epochs=1), Student())
        return [finding.code for finding in scripted.findings]

    assert codes(Selection()) == ["TST901"]
    assert codes(Selection(select=choices("select", ["all"], rules))) == ["TST901"]
    assert codes(Selection(select=choices("select", ["some-illness"], rules))) == ["TST101", "TST901"]
    assert codes(Selection(ignore=choices("ignore", ["TST901"], rules))) == []


def _sick() -> Any:
    from lightning_diagnostics.findings import Diagnosis

    return Diagnosis(Severity.WARNING, "model.a", 1, "It is sick.", "mend it.")


# Limits.


def test_limits_go_to_the_diagnostic_that_has_them_by_name_or_code() -> None:
    assert found(limits={"dead-units.share": 1.0, "MEM101.steps": 12}) == {DEAD}
    assert found(limits={"retained-graph.steps": 3}) == {DEAD, LEAK}


def limits_of(callback: DiagnosticCallback) -> dict[str, float]:
    table = limit_table(callback.default_limits)
    return {key: getattr(callback._limits, item.name) for key, (item, _) in table.items()}


def test_limits_among_the_options_of_a_diagnostic_go_before_those_for_all_and_leave_the_others() -> None:
    given = {"dead-units.share": 0.7, "dying-units.share": 0.8, "retained-graph.steps": 12}
    made = children(limits=given, activations={"limits": {"ACT101.share": 0.9}}, graph_leak={"min_age": 3})
    assert limits_of(made["ActivationMonitor"]).items() >= {"dead-units.share": 0.9, "dying-units.share": 0.8}.items()
    assert limits_of(made["GraphLeakDetector"])["retained-graph.steps"] == 12
    with pytest.raises(TypeError, match="activations: limits=3: expected a mapping"):
        Diagnostics(limits=given, activations={"limits": 3})


def test_every_limit_of_every_diagnostic_can_be_set() -> None:
    for member in KINDS:
        for key, (_, described) in limit_table(member.kind.default_limits).items():
            assert member.name in children(limits={key: described.default})


# A baseline.


def test_what_a_baseline_knows_is_not_found_again_until_it_gets_worse(tmp_path: Path) -> None:
    suite = Diagnostics(strict=True)
    fit(trainer(suite, max_epochs=1), Both())
    known = tmp_path / "known.json"
    assert write_baseline(known, suite.findings) == 2
    assert found(baseline=known) == set()
    assert found(baseline=str(known)) == set()
    milder = json.loads(known.read_text())
    for each in milder["findings"]:
        each["severity"] = "WARNING"
    known.write_text(json.dumps(milder))
    severities = {finding.code: finding.severity for finding in suite.findings if finding.severity > Severity.INFO}
    assert severities == {"ACT101": Severity.ERROR, "MEM101": Severity.WARNING}
    assert found(baseline=known) == {DEAD}


def test_findings_of_a_checkpoint_that_are_ignored_now_are_not_carried_on(tmp_path: Path) -> None:
    fit(trainer(Diagnostics(strict=True), max_epochs=1), Both()).save_checkpoint(tmp_path / "a.ckpt")
    suite = Diagnostics(strict=True, ignore=["dead-units"])
    fit(trainer(suite, max_epochs=2), Both(), ckpt_path=tmp_path / "a.ckpt")
    assert diagnosed(suite.findings) == {LEAK}


# What is written down.


def test_the_record_of_a_run_says_what_was_enabled_and_which_way(tmp_path: Path) -> None:
    options: dict[str, Any] = {"preset": "light", **dict.fromkeys(OTHERS, False)}
    suite = Diagnostics(strict=True, **options, ignore=["ACT801"], limits={"ACT101.share": 0.9})
    during: list[dict[str, Any]] = []

    class Reads(DeadReLU):
        def on_train_epoch_end(self) -> None:
            during.append(json.loads((tmp_path / "run" / RECORD_FILE).read_text()))

    logger = CSVLogger(tmp_path, name="", version="run")
    fit(trainer(suite, logger=logger, max_epochs=1), Reads(sick=True))
    first, last = during[0], json.loads((tmp_path / "run" / RECORD_FILE).read_text())
    assert (first["status"], first["ended"]) == ("running", None)
    assert (last["status"], last["step"]) == ("finished", 7)
    assert first["started"] == last["started"] <= last["ended"]
    assert last["enabled_by"] == "the callbacks of the Trainer"
    assert last["settings"] == {
        **options,
        "ignore": ["ACT801"],
        "limits": {"ACT101.share": 0.9},
        "on_finding": "report",
        "at": "warning",
    }
    assert list(last["diagnostics"]) == ["ActivationMonitor"]
    assert diagnosed(list(read_run(tmp_path / "run").findings)) == {DEAD}
    assert Diagnostics(**last["settings"])._settings == last["settings"]


def test_the_record_of_callbacks_by_themselves_and_of_a_run_that_is_ended(tmp_path: Path) -> None:
    suite = Diagnostics(strict=True, on_finding="raise", select=["MEM"])
    logger = CSVLogger(tmp_path, name="", version="suite")
    with pytest.raises(Exception, match="retained-graph"):
        fit(trainer(suite, logger=logger), Both())
    assert read_run(tmp_path / "suite").status == "ended by FindingError"
    fit(trainer(ActivationMonitor(), logger=CSVLogger(tmp_path, name="", version="alone")), Student())
    alone = read_run(tmp_path / "alone")
    assert (alone.enabled_by, alone.settings, alone.status) == ("the callbacks of the Trainer", None, "finished")
    assert isinstance(alone.diagnostics, Mapping)
    assert list(alone.diagnostics) == ["ActivationMonitor"]


def test_a_suite_that_a_function_makes_is_not_one_of_the_command_line() -> None:
    """A program may be called by a parser as a whole; what is wrong there reaches it as it is."""

    def program(preset: str = "standard") -> str:
        return Diagnostics(preset=preset).enabled_by  # type: ignore[arg-type]

    call = jsonargparse.auto_cli if hasattr(jsonargparse, "auto_cli") else jsonargparse.CLI  # as older versions call it
    assert call(program, args=[]) == "the callbacks of the Trainer"
    with heard() as records, pytest.raises(ValueError, match="preset='fast'"):
        call(program, args=["--preset=fast"])
    assert records == []


def test_what_an_earlier_run_found_in_the_same_folder_is_not_of_this_run(tmp_path: Path) -> None:
    def logger() -> CSVLogger:
        return CSVLogger(tmp_path, name="", version="run")

    first, second = Diagnostics(strict=True), Diagnostics(strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Lightning's: the folder is not empty
        fit(trainer(first, max_epochs=1, logger=logger()), Both()).save_checkpoint(tmp_path / "a.ckpt")
        assert diagnosed(list(read_run(tmp_path / "run").findings)) == {DEAD, LEAK}
        fit(trainer(second, max_epochs=1, logger=logger()), Student())
        assert read_run(tmp_path / "run").findings == ()
        resumed = trainer(Diagnostics(strict=True), max_epochs=2, logger=logger())
        fit(resumed, Both(), ckpt_path=tmp_path / "a.ckpt")
    assert diagnosed(list(read_run(tmp_path / "run").findings)) == {DEAD, LEAK}
    resumed.fit_loop.max_epochs = 3
    fit(resumed, Both())
    assert diagnosed(list(read_run(tmp_path / "run").findings)) == {DEAD, LEAK}


def test_what_an_earlier_run_was_killed_in_the_middle_of_spoils_no_line_of_this_one(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "findings.jsonl").write_text('{"event": "opened"}\n{"event": "opened", "co')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Lightning's: the folder is not empty
        fit(trainer(Diagnostics(strict=True), max_epochs=1, logger=CSVLogger(tmp_path, name="", version="run")), Both())
    assert diagnosed(list(read_run(folder).findings)) == {DEAD, LEAK}
    assert json.loads((folder / RECORD_FILE).read_text())["first_line"] == 3


def _write(rank: int, folder: Path) -> None:
    for _ in range(500):
        Record(enabled_by=str(rank)).write(str(folder))


def test_two_processes_that_write_one_record_do_not_take_each_others_draft(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(_write, (tmp_path,), nprocs=2, start_method="fork")
    assert [path.name for path in tmp_path.iterdir()] == [RECORD_FILE]


# Bad input.

WORDS = "'light', 'standard', 'thorough', 'off'"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"preset": "fast"}, ValueError, f"preset='fast': allowed are {WORDS}"),
        ({"preset": None}, ValueError, f"preset=None: allowed are {WORDS}"),
        ({"preset": ["light"]}, ValueError, f"preset=['light']: allowed are {WORDS}"),
        ({"on_finding": "shout"}, ValueError, "on_finding='shout': allowed are 'report', 'stop', 'raise'"),
        ({"at": "info", "preset": "off"}, ValueError, "at='info': allowed are 'warning', 'error'"),
        ({"strict": 1}, TypeError, "strict=1: allowed are True and False"),
        ({"activations": 3}, TypeError, "activations=3: expected True, False, or a mapping of options"),
        ({"activations": {"every": 3}}, ValueError, "activations: unknown option 'every': allowed are 'every_n_train_"),
        ({"graph_leak": {"min_age": 0}}, ValueError, "graph_leak: min_age=0: allowed is 1 or more"),
        ({"graph_leak": {"min_age": "x"}}, TypeError, "graph_leak: min_age='x': expected a whole number of 1 or more"),
        ({"select": "dead-unit"}, ValueError, "select='dead-unit': no such rule (did you mean 'dead-units'?); allowed"),
        ({"ignore": [3]}, TypeError, "ignore=[3]: expected codes or names of rules, e.g. ['dead-units', 'MEM101']"),
        ({"limits": {"dead-units.shares": 1}}, ValueError, "unknown limit 'dead-units.shares': allowed are 'dead-un"),
        ({"limits": {"dead-units.share": 3}}, ValueError, "activations: limit 'dead-units.share' is 3: allowed is 0 t"),
        ({"limits": 3}, TypeError, "limits=3: expected a mapping from the name of a limit to its value"),
        ({"baseline": "no/such"}, FileNotFoundError, "baseline 'no/such': no such file; write one with: lightning-di"),
        ({"activation": False}, TypeError, "unknown argument 'activation': allowed are 'preset', 'select', 'ignore', "),
    ],
    ids=str,
)
def test_bad_input_is_quoted_with_what_is_allowed(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        Diagnostics(**arguments)
    assert str(caught.value).startswith(message)


def test_it_takes_no_positional_arguments() -> None:
    with pytest.raises(TypeError, match="positional"):
        Diagnostics("light")  # type: ignore[misc]  # what is refused
