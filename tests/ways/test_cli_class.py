"""`DiagnosticsCLI` and `DiagnosticsFlags`: scripts whose command line is ours."""

import json
from typing import Any

import pytest
import yaml

from lightning_diagnostics import catalogue
from tests.ways.desk import EVERY, IN_LIGHT, KNOWN, SCRIPTS, VARIABLE, Desk, Done, listed

FIT = ("suite_cli.py", "fit", "--config", "datamodule.yaml")
BEFORE, AFTER = ["EarlyStopping", "LearningRateMonitor", "Roll"], ["SaveConfigCallback", "ModelCheckpoint"]
OFF: dict[str, Any] = {"preset": "off"}
FILES = {
    "settings.yaml": "preset: light\nactivations: {every_n_train_steps: 3}\n",
    "thorough.yaml": "diagnostics: {preset: thorough, graph_leak: false, ignore: ['dead-units:encoder*']}\n",
    "off.yaml": "diagnostics: off\n",
    "on.yaml": "diagnostics: on\n",
    "word.yaml": "diagnostics: thorough\n",
    "another.yaml": "diagnostics: deep\n",
    "fast.yaml": "diagnostics: {preset: fast}\n",
    "name.yaml": "diagnostics: {presett: light}\n",
    "list.yaml": "- 1\n",
    "broken.yaml": "preset: [a\n",
}
THOROUGH = {"preset": "thorough", "graph_leak": False, "ignore": ["dead-units:encoder*"]}
LIGHT = {"preset": "light", "activations": {"every_n_train_steps": 3}}


@pytest.fixture(autouse=True)
def _files(desk: Desk) -> None:
    desk.files = dict(FILES)


def _in_effect(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


@pytest.mark.slow
def test_the_flag_is_typed_into_a_shell(fresh_desk: Desk) -> None:
    assert fresh_desk.good(*FIT, "--diagnostics=standard").found >= KNOWN


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        ("", {"preset": "standard"}),
        ("--diagnostics", {"preset": "standard"}),
        ("--diagnostics --trainer.max_epochs=1", {"preset": "standard"}),
        ("--diagnostics=standard", {"preset": "standard"}),
        ("--diagnostics thorough", {"preset": "thorough"}),
        ("--diagnostics.preset=light", {"preset": "light"}),
        ("--diagnostics=off", OFF),
        ("--diagnostics off", OFF),
        ("--diagnostics=false", OFF),
        (
            "--diagnostics.activations.every_n_train_steps=10",
            {"preset": "standard", "activations": {"every_n_train_steps": 10}},
        ),
        (
            "--diagnostics=thorough --diagnostics.activations.every_n_train_steps=3",
            {"preset": "thorough", "activations": {"every_n_train_steps": 3}},
        ),
        (
            "--diagnostics.activations.every_n_train_steps=3 --diagnostics=thorough",
            {"preset": "thorough", "activations": {"every_n_train_steps": 3}},
        ),
        ("--diagnostics.graph_leak=false", {"preset": "standard", "graph_leak": False}),
        ("--diagnostics.ignore+=ACT --diagnostics.ignore+=MEM", {"preset": "standard", "ignore": ["ACT", "MEM"]}),
        ("--diagnostics.limits.dead-units.share=0.8", {"preset": "standard", "limits": {"dead-units.share": 0.8}}),
        ("--diagnostics=settings.yaml", LIGHT),
        ("--diagnostics settings.yaml", LIGHT),
        ("--diagnostics=settings.yaml --diagnostics.preset=thorough", {**LIGHT, "preset": "thorough"}),
        ("--diagnostics=thorough.yaml", THOROUGH),
        ("--diagnostics=MEM101", {"preset": "standard", "select": ["MEM101"]}),
        ("--diagnostics={preset:light}", {"preset": "light"}),
        ("--config thorough.yaml", THOROUGH),
        ("--config thorough.yaml --diagnostics=light", {**THOROUGH, "preset": "light"}),
        ("--config thorough.yaml --diagnostics=off", OFF),
        ("--config off.yaml", OFF),
        ("--config off.yaml --diagnostics=light", {"preset": "light"}),
        ("--config off.yaml --diagnostics", {"preset": "standard"}),
        ("--config=on.yaml", {"preset": "standard"}),
    ],
)
def test_flags_and_files_say_what_the_suite_does(
    flags: str, settings: dict[str, Any], desk: Desk, without: Done
) -> None:
    words = [word.replace("{preset:light}", "{preset: light}") for word in flags.split()]
    done = desk.good(*FIT, *words)
    assert done.said("weights") == without.said("weights")
    assert [name for name in done.said("while") if name not in EVERY] == [*BEFORE, "Diagnostics", *AFTER]
    if settings["preset"] == "off":
        assert done.children == done.records == done.ours == []
        return
    assert done.record["enabled_by"] == "--diagnostics"
    assert done.settings == settings
    assert _in_effect(done.config["diagnostics"]) == {"on_finding": "report", "at": "warning", "strict": False} | (
        settings
    )


def test_a_configuration_may_come_through_a_pipe(desk: Desk) -> None:
    """As of ``--config <(make_config)``: it can be read once."""
    program = """import os, runpy, sys, threading
os.mkfifo("pipe")
texts = open("datamodule.yaml").read(), ""  # who reads again has nothing
threading.Thread(target=lambda: [open("pipe", "w").write(text) for text in texts], daemon=True).start()
sys.argv = ["script.py", "fit", "--config", "pipe", "--diagnostics=light"]
runpy.run_path("suite_cli.py", run_name="__main__")
"""
    assert desk.good(program).settings == {"preset": "light"}


@pytest.mark.parametrize("flags", ["--diagnostics=thorough --diagnostics.ignore+=MEM", "--diagnostics=off"])
def test_what_is_printed_can_be_fed_back(flags: str, desk: Desk) -> None:
    words = (*FIT, "--config", "thorough.yaml", *flags.split())
    printed = desk.good(*words, "--print_config").out
    again = ("suite_cli.py", "fit", "--config", "printed.yaml")
    desk.files["printed.yaml"] = printed
    assert desk.good(*again, "--print_config").out == printed
    first, second = desk.good(*words), desk.good(*again)
    assert [record["settings"] for record in first.records] == [record["settings"] for record in second.records]
    assert first.said("while") == second.said("while")
    assert yaml.safe_load(printed)["diagnostics"] == first.config["diagnostics"]


def test_the_help_says_what_every_flag_does(desk: Desk) -> None:
    page = desk.good("suite_cli.py", "fit", "--help").out
    start = page.index("\n  --diagnostics WORDS")
    part = page[start : page.index("\n\n", start)]
    assert "A preset (light, standard, thorough), off, " in part
    for name in ("preset", "select", "ignore", "baseline", "limits", "on_finding", "at", "strict", *catalogue.rooms()):
        text = part.partition(f"\n  --diagnostics.{name}")[2].partition("(type:")[0]
        assert len(text.split()) > 7, name


def test_our_callbacks_have_short_names(desk: Desk) -> None:
    done = desk.good(*FIT, "--trainer.callbacks+=GraphLeakDetector", "--trainer.callbacks.min_age=3")
    others = [name for name in EVERY if name != "GraphLeakDetector"]
    assert done.said("while") == listed(*BEFORE, "GraphLeakDetector", "Diagnostics", *others, *AFTER)
    assert done.found >= KNOWN
    done = desk.good(*FIT, "--diagnostics=light", "--trainer.callbacks+=Diagnostics")
    assert done.record["enabled_by"] == "--trainer.callbacks"
    assert done.children == listed(*EVERY)


def test_it_goes_before_the_environment_which_may_be_switched_off_so(desk: Desk) -> None:
    env = {VARIABLE: "thorough"}
    done = desk.good(*FIT, "--diagnostics=light", env=env)
    assert (done.settings, done.children) == ({"preset": "light"}, list(IN_LIGHT))
    done = desk.good(*FIT, "--diagnostics=off", env=env)
    assert done.children == done.records == []


def test_a_command_line_for_any_model(desk: Desk, without: Done) -> None:
    done = desk.good("suite_subclass.py", "fit", "--config", "subclass.yaml", "--diagnostics=thorough")
    assert done.said("while") == listed("Roll", "LearningRateMonitor", "Diagnostics", *EVERY, *AFTER)
    assert done.said("weights") == without.said("weights")
    assert (done.settings, done.record["enabled_by"]) == ({"preset": "thorough"}, "--diagnostics")


@pytest.mark.parametrize("desk_of", ["desk", "other_desk"])
def test_a_command_line_with_flags_of_its_own(desk_of: str, request: pytest.FixtureRequest) -> None:
    """It does not call ``super()``'s where it adds them, has the suite off by default, and runs nothing by itself."""
    desk: Desk = request.getfixturevalue(desk_of)
    words = ("own_cli.py", "--config", "datamodule.yaml", "--tag=mine")
    done = desk.good(*words)
    assert done.said("tag") == ["mine"]
    assert done.children == done.records == []
    done = desk.good(*words, "--diagnostics", "--diagnostics.activations.every_n_train_steps=3")
    assert done.said("tag") == ["mine"]
    assert done.found >= KNOWN
    assert done.settings == {"preset": "standard", "activations": {"every_n_train_steps": 3}}
    assert done.record["enabled_by"] == "--diagnostics"


CONFIG = yaml.safe_load((SCRIPTS / "datamodule.yaml").read_text())


@pytest.mark.parametrize(
    ("args", "settings"),
    [
        (["fit", "--config", "datamodule.yaml", "--diagnostics=thorough"], {"preset": "thorough"}),
        (["fit", "--config=datamodule.yaml", "--diagnostics", "light"], {"preset": "light"}),
        ({"subcommand": "fit", "fit": {**CONFIG, "diagnostics": {"preset": "light"}}}, {"preset": "light"}),
        ({"subcommand": "fit", "fit": {**CONFIG, "diagnostics": False}}, OFF),
        ({"subcommand": "fit", "fit": CONFIG}, {"preset": "standard"}),
    ],
    ids=["words", "two words", "mapping", "off", "nothing"],
)
def test_words_that_come_from_the_script(args: object, settings: dict[str, Any], desk: Desk) -> None:
    done = desk.good("suite_args.py", json.dumps(args))
    if settings == OFF:
        assert done.children == done.records == []
    else:
        assert (done.settings, done.record["enabled_by"]) == (settings, "--diagnostics")


def test_words_from_the_script_that_are_wrong(desk: Desk) -> None:
    done = desk.run("suite_args.py", json.dumps({"subcommand": "fit", "fit": {**CONFIG, "diagnostics": "thorough"}}))
    assert (done.status, done.err) == (
        2,
        "error: args: diagnostics: thorough: write diagnostics: {preset: thorough}\n",
    )


ARGUMENTS = f"preset, {', '.join(catalogue.rooms())}, select, ignore, baseline, limits, on_finding, at, strict"
PRESETS = "allowed are 'light', 'standard', 'thorough', 'off'"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--diagnostics=fast", "--diagnostics=fast: unknown word 'fast': allowed are a preset (light, standard, thor"),
        ("--diagnostics=graph_leek", "--diagnostics=graph_leek: unknown word 'graph_leek': did you mean 'graph_leak'?"),
        ("--diagnostics=", "--diagnostics=: allowed are light, standard, thorough, off, and a YAML file with the arg"),
        ("--diagnostics.presett=light", "--diagnostics.presett: no such argument; allowed are --diagnostics.preset, "),
        ("--diagnostics.preset=fast", f"--diagnostics: preset='fast': {PRESETS}"),
        ("--diagnostics.activations.every=3", "--diagnostics: activations: unknown option 'every': allowed are 'eve"),
        ("--diagnostics.activations=maybe", "--diagnostics: activations='maybe': expected True, False, or a mapping"),
        ("--diagnostics.limits.foo=1", "--diagnostics: unknown limit 'foo': allowed are 'dead-units."),
        ("--diagnostics.baseline=none", "--diagnostics: baseline 'none': no such file; write one with: lightning-di"),
        ("--diagnostics=none.yaml", "--diagnostics=none.yaml: the file 'none.yaml' cannot be read (No such file or d"),
        ("--diagnostics=list.yaml", "--diagnostics=list.yaml: the file 'list.yaml' holds [1]: expected "),
        ("--diagnostics=broken.yaml", "--diagnostics=broken.yaml: the file 'broken.yaml' is not YAML (while parsing"),
        ("--diagnostics=name.yaml", "--diagnostics=name.yaml: unknown argument 'presett': allowed are preset, select"),
        ("--diagnostics=fast.yaml", f"--diagnostics=fast.yaml: preset='fast': {PRESETS}"),
        ("--config word.yaml", "word.yaml: diagnostics: thorough: write diagnostics: {preset: thorough}"),
        ("--config=another.yaml", "another.yaml: diagnostics: deep: write diagnostics: {preset: standard}"),
        ("--config name.yaml", f"name.yaml: diagnostics: presett: no such argument; allowed are {ARGUMENTS}"),
        ("--config fast.yaml", f"--diagnostics: preset='fast': {PRESETS}"),
    ],
)
def test_the_one_line_of_an_error_says_what_is_wrong_and_what_is_allowed(flags: str, line: str, desk: Desk) -> None:
    done = desk.run(*FIT, *flags.split())
    assert done.status == 2
    assert done.err.startswith(f"error: {line}")
    assert done.err.count("\n") == 1


def test_a_module_of_the_other_package_is_refused(other_desk: Desk) -> None:
    done = other_desk.run("suite_cli.py", "fit", "--config", "datamodule.yaml")
    assert done.status == 1
    assert done.err.splitlines()[-1] == (
        "TypeError: model_class=Net is a class of pytorch_lightning, and DiagnosticsCLI is a command line of "
        "lightning.pytorch: write class CLI(lightning_diagnostics.DiagnosticsFlags, pytorch_lightning.cli.LightningCLI)"
        " and call that"
    )
