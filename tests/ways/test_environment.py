"""``LIGHTNING_DIAGNOSTICS``: scripts that know nothing of us, and are not changed."""

from typing import Any

import pytest

from tests.ways.desk import EVERY, IN_LIGHT, KNOWN, SUITE, VARIABLE, Desk, Done, listed

FILES = {
    "settings.yaml": "preset: light\nactivations: {every_n_train_steps: 3}\n",
    "cli.yaml": "diagnostics: {preset: light, graph_leak: false}\n",
    "broken.yaml": "preset: [a\n",
    "list.yaml": "- 1\n",
    "name.yaml": "presett: light\n",
}
THEIRS = ["Roll", "ModelCheckpoint"]
MANY = """
import sys
from lightning.pytorch import Trainer, seed_everything
from networks import Net, Roll, loader
{imports}

def trainer(*callbacks, epochs=1):
    quiet = {{"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}}
    return Trainer(accelerator="cpu", max_epochs=epochs, callbacks=[*callbacks, Roll()], **quiet)

{program}
"""


def script(program: str, imports: str = "") -> str:
    """A script that makes Trainers with ``trainer(*callbacks)``."""
    return MANY.format(program=program, imports=imports)


@pytest.fixture(autouse=True)
def _files(request: pytest.FixtureRequest) -> None:
    for name in ("desk", "other_desk", "fresh_desk"):
        if name in request.fixturenames:
            request.getfixturevalue(name).files = dict(FILES)


def test_the_line_is_typed_into_a_shell(fresh_desk: Desk, without: Done) -> None:
    done = fresh_desk.good("plain.py", env={VARIABLE: "standard"})
    assert done.said("while") == listed("Roll", "Diagnostics", *EVERY, "ModelCheckpoint")
    assert done.said("after") == ["Roll", "Diagnostics", "ModelCheckpoint"]
    assert done.said("weights") == without.said("weights")
    assert done.found >= KNOWN
    assert done.record["enabled_by"] == f"{VARIABLE}=standard"


@pytest.mark.parametrize("desk_of", ["desk", "other_desk"])
@pytest.mark.parametrize("env", [{}, {VARIABLE: ""}], ids=["unset", "empty"])
def test_unset_nothing_of_ours_is_loaded(env: dict[str, str], desk_of: str, request: pytest.FixtureRequest) -> None:
    desk: Desk = request.getfixturevalue(desk_of)
    done = desk.good("plain.py", env=env)
    assert done.said("loaded") == ["lightning_diagnostics", "lightning_diagnostics.autoload"]
    assert done.said("while") == done.said("after") == THEIRS
    assert done.records == []


@pytest.mark.parametrize(
    ("value", "settings"),
    [
        ("standard", {"preset": "standard"}),
        ("light", {"preset": "light"}),
        ("thorough", {"preset": "thorough"}),
        ("on", {"preset": "standard"}),
        ("1", {"preset": "standard"}),
        ("off", None),
        ("0", None),
        ("OFF", None),
        ("preset=off", None),
        ("graph_leak", {"preset": "standard", "graph_leak": True}),
        ("GraphLeakDetector", {"preset": "standard", "graph_leak": True}),
        ("MEM101", {"preset": "standard", "select": ["MEM101"]}),
        ("retained-graph:model.*", {"preset": "standard", "select": ["retained-graph:model.*"]}),
        ("activations.every_n_train_steps=3", {"preset": "standard", "activations": {"every_n_train_steps": 3}}),
        (
            "thorough,graph_leak.min_age=3,ignore=dead-units:encoder*",
            {"preset": "thorough", "graph_leak": {"min_age": 3}, "ignore": ["dead-units:encoder*"]},
        ),
        ("limits.dead-units.share=0.8", {"preset": "standard", "limits": {"dead-units.share": 0.8}}),
        ("{preset: light, graph_leak: {min_age: 3}}", {"preset": "light", "graph_leak": {"min_age": 3}}),
        ('{"activations": false}', {"preset": "standard", "activations": False}),
        ("settings.yaml", {"preset": "light", "activations": {"every_n_train_steps": 3}}),
        ("cli.yaml", {"preset": "light", "graph_leak": False}),
    ],
)
def test_what_the_variable_may_say(value: str, settings: dict[str, Any] | None, desk: Desk, without: Done) -> None:
    done = desk.good("plain.py", env={VARIABLE: value})
    assert done.said("weights") == without.said("weights")
    assert [name for name in done.said("while") if name not in ("Diagnostics", *EVERY)] == THEIRS
    if settings is None:
        assert done.said("while") == THEIRS
        assert done.records == done.ours == []
        return
    assert settings.items() <= done.settings.items()
    assert done.record["enabled_by"] == f"{VARIABLE}={value}"
    if "select" in settings or settings.get("graph_leak") is True:
        assert done.children == ["GraphLeakDetector"]
        assert done.found == {("MEM101", "model.running_loss", 0)}
    else:
        left_out = {"graph_leak": "MEM", "activations": "ACT"}
        families = tuple(family for room, family in left_out.items() if settings.get(room) is False)
        assert done.found & KNOWN == {found for found in KNOWN if not found[0].startswith(families or "none")}


def test_names_and_rules_together_add_up(desk: Desk) -> None:
    done = desk.good("plain.py", env={VARIABLE: "GraphLeakDetector,dead-units"})
    assert done.children == ["ActivationMonitor", "GraphLeakDetector"]
    assert done.found == KNOWN


@pytest.mark.parametrize("value", ["thorough", "graph_leak", "settings.yaml"])
def test_scripts_of_the_other_package(value: str, other_desk: Desk, without: Done) -> None:
    done = other_desk.good("plain.py", env={VARIABLE: value})
    assert done.said("weights") == without.said("weights")
    assert ("MEM101", "model.running_loss", 0) in done.found
    assert done.record["enabled_by"] == f"{VARIABLE}={value}"
    assert done.record["status"] == "finished"


@pytest.mark.parametrize("desk_of", ["desk", "other_desk"])
@pytest.mark.parametrize("project", ["datamodule", "subclass"])
def test_command_lines(project: str, desk_of: str, without: Done, request: pytest.FixtureRequest) -> None:
    desk: Desk = request.getfixturevalue(desk_of)
    words = (f"{project}.py", "fit", "--config", f"{project}.yaml")
    done = desk.good(*words, env={VARIABLE: "standard"})
    assert done.said("weights") == without.said("weights")
    assert done.children == listed(*EVERY)
    assert done.found >= KNOWN
    assert done.record["enabled_by"] == f"{VARIABLE}=standard"
    flagged = desk.good(*words, SUITE, "--trainer.callbacks.preset=light", env={VARIABLE: "thorough"})
    assert (flagged.children, flagged.found) == (list(IN_LIGHT), done.found)
    assert (flagged.record["enabled_by"], flagged.settings) == ("--trainer.callbacks", {"preset": "light"})


# Never twice.


def test_a_suite_that_the_user_lists_goes_before(desk: Desk) -> None:
    program = "trainer(Diagnostics(preset='light')).fit(Net(), loader(640), loader(64))"
    done = desk.good(script(program, "from lightning_diagnostics import Diagnostics"), env={VARIABLE: "thorough"})
    assert done.said("while") == ["Diagnostics", *IN_LIGHT, "Roll", "Diagnostics", "ModelCheckpoint"]
    assert (done.record["enabled_by"], done.settings) == ("the callbacks of the Trainer", {"preset": "light"})
    assert sum("MEM101" in line for line in done.ours) == 1


def test_a_diagnostic_that_the_user_lists_is_his(desk: Desk) -> None:
    program = "trainer(GraphLeakDetector(min_age=3)).fit(Net(), loader(640), loader(64))"
    done = desk.good(script(program, "from lightning_diagnostics import GraphLeakDetector"), env={VARIABLE: "on"})
    assert sorted(done.children) == sorted(EVERY)
    assert done.found >= KNOWN
    assert done.record["enabled_by"] == f"{VARIABLE}=on"
    assert sum("MEM101" in line for line in done.ours) == 1


def test_two_trainers_each_have_theirs(desk: Desk) -> None:
    program = "for _ in range(2):\n    trainer().fit(Net(), loader(640), loader(64))"
    done = desk.good(script(program), env={VARIABLE: "standard"})
    assert done.said("while") == 2 * listed("Roll", "Diagnostics", *EVERY, "ModelCheckpoint")
    assert [record["status"] for record in done.records] == 2 * ["finished"]
    assert sum(line.startswith("WARNING: MEM101") for line in done.ours) == 2
    assert sum("Run finished" in line for line in done.ours) == 2


def test_one_trainer_fits_twice_and_validates(desk: Desk) -> None:
    program = "t = trainer()\nt.fit(Net(), loader(640), loader(64))\nt.validate(Net(), loader(64), verbose=False)\n"
    program += "t.fit_loop.max_epochs = 2\nt.fit(Net(), loader(640), loader(64))\nprint('end:', len(t.callbacks))"
    done = desk.good(script(program), env={VARIABLE: "standard"})
    assert done.said("while") == 2 * listed("Roll", "Diagnostics", *EVERY, "ModelCheckpoint")
    assert done.said("end") == ["3"]
    assert sum("Run finished" in line for line in done.ours) == 3  # two fits and an evaluation
    assert done.record["status"] == "finished"


# What is wrong with it is said once, and training goes on.


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("fast", "unknown word 'fast': allowed are a preset (light, standard, thorough), 'off', diagnostics ("),
        ("graph_leek", "unknown word 'graph_leek': did you mean 'graph_leak'? allowed are "),
        ("preset=fast", "preset='fast': allowed are 'light', 'standard', 'thorough', 'off'"),
        ("presett=light", "unknown argument 'presett': allowed are preset, "),
        ("standard,light", "preset is given twice, as 'standard' and as 'light': expected one value"),
        ("activations.every=3", "activations: unknown option 'every': allowed are 'every_n_train_steps', "),
        ("activations.every_n_train_steps=x", "activations: every_n_train_steps='x': expected a whole number of 1"),
        ("limits.foo=1", "unknown limit 'foo': allowed are 'dead-units."),
        ("ignore=dead-unit", "ignore='dead-unit': no such rule (did you mean 'dead-units'?); allowed are ACT101"),
        ("on_finding=shout", "on_finding='shout': allowed are 'report', 'stop', 'raise'"),
        ("baseline=none.json", "baseline 'none.json': no such file; write one with: lightning-diagnostics report "),
        ("none.yaml", "the file 'none.yaml' cannot be read (No such file or directory, seen from "),
        ("broken.yaml", "the file 'broken.yaml' is not YAML (while parsing a flow sequence"),
        ("list.yaml", "the file 'list.yaml' holds [1]: expected "),
        ("name.yaml", "unknown argument 'presett': allowed are preset, "),
        ("{a", "the mapping is not YAML (while parsing a flow "),
    ],
)
def test_a_wrong_value_is_said_once_and_training_goes_on(value: str, why: str, desk: Desk, without: Done) -> None:
    program = "trainer()\nseed_everything(1, verbose=False)\ntrainer().fit(Net(), loader(640), loader(64))\n"
    done = desk.good(script(program), env={VARIABLE: value})
    (line,) = done.ours
    assert line.startswith(f"ERROR: {VARIABLE}={value}: {why}")
    assert line.endswith("; training goes on without diagnostics")
    assert "Traceback" not in done.err
    assert done.said("while") == THEIRS
    assert done.said("weights") == without.said("weights")
    assert done.records == []


def test_a_wrong_value_in_a_command_line_of_the_other_package(other_desk: Desk) -> None:
    done = other_desk.good("datamodule.py", "fit", "--config", "datamodule.yaml", env={VARIABLE: "fast"})
    (line,) = done.ours
    assert line.startswith(f"ERROR: {VARIABLE}=fast: unknown word 'fast': allowed are a preset")
    assert done.children == done.records == []


def test_a_user_who_logs_by_himself_gets_the_line_through_his_handlers(desk: Desk) -> None:
    imports = "import logging; logging.basicConfig(format='mine|%(name)s|%(levelname)s|%(message)s')"
    done = desk.good(script("trainer()", imports), env={VARIABLE: "fast"})
    assert done.err.count(f"mine|lightning_diagnostics|ERROR|{VARIABLE}=fast: unknown word 'fast'") == 1
    assert done.ours == []


# Several processes.


def _speaks_once(done: Done) -> None:
    said = [line.partition(":")[2].split()[0] for line in done.ours]
    assert (said.count("watching"), said.count("Run"), said.count("MEM101"), said.count("ACT101")) == (1, 1, 1, 1)
    assert (done.record["status"], done.found & KNOWN) == ("finished", KNOWN)
    assert done.err.count("┏") == 1


def test_two_processes_make_one_report(desk: Desk) -> None:
    done = desk.good("plain.py", "ddp_fork", env={VARIABLE: "standard"})
    _speaks_once(done)
    assert done.said("while") == listed("Roll", "Diagnostics", *EVERY, "ModelCheckpoint")
    (line,) = desk.good("plain.py", "ddp_fork", env={VARIABLE: "fast"}).ours
    assert line.startswith(f"ERROR: {VARIABLE}=fast: unknown word 'fast'")
    assert desk.good("plain.py", "ddp_fork").records == []


def test_two_processes_with_two_suites_say_once_that_one_stands_back(desk: Desk) -> None:
    done = desk.good(
        *("datamodule.py", "fit", "--config", "datamodule.yaml", SUITE),
        *("--trainer.devices=2", "--trainer.strategy=ddp_fork"),
        env={VARIABLE: "thorough"},
    )
    assert sum("stands back" in line for line in done.ours) == 1
    assert done.settings == {"preset": "standard"}


@pytest.mark.slow
@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_processes_that_run_the_script_anew_make_one_report(strategy: str, package: str, fresh_desk: Desk) -> None:
    fresh_desk.package = package
    done = fresh_desk.good("plain.py", strategy, env={VARIABLE: "standard"})
    _speaks_once(done)
    done = fresh_desk.good("plain.py", strategy, env={VARIABLE: "fast"})
    assert [line.partition(" unknown")[0] for line in done.ours] == [f"ERROR: {VARIABLE}=fast:"]
    assert done.records == []
