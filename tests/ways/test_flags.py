"""Flags and YAML of Lightning's own command line, in projects that know nothing of us."""

import re
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from lightning_diagnostics import catalogue
from tests.ways.desk import EVERY, IN_LIGHT, KNOWN, SUITE, Desk, Done, listed

OF = "--trainer.callbacks."
GRAPHS = "--trainer.callbacks+=lightning_diagnostics.GraphLeakDetector"
ACTIVATIONS = "--trainer.callbacks+=lightning_diagnostics.ActivationMonitor"


@dataclass(frozen=True)
class Project:
    """A user's project: his command line, and the callbacks of his YAML in the order in which Lightning has them."""

    name: str
    before: tuple[str, ...]
    after: tuple[str, ...] = ("SaveConfigCallback", "ModelCheckpoint")

    @property
    def fit(self) -> tuple[str, ...]:
        """The words of ``python`` that train."""
        return (f"{self.name}.py", "fit", "--config", f"{self.name}.yaml")

    def __str__(self) -> str:
        return self.name


PROJECTS = (
    Project("datamodule", ("EarlyStopping", "LearningRateMonitor", "Roll")),
    Project("subclass", ("Roll", "LearningRateMonitor")),
)
DATAMODULE, SUBCLASS = PROJECTS
every_project = pytest.mark.parametrize("project", PROJECTS, ids=str)


@pytest.mark.slow
@every_project
def test_the_word_is_typed_into_a_shell(project: Project, fresh_desk: Desk) -> None:
    assert fresh_desk.good(*project.fit, SUITE).found >= KNOWN


@every_project
def test_one_flag_switches_the_suite_on_beside_the_users_callbacks(project: Project, desk: Desk, without: Done) -> None:
    assert desk.good(*project.fit).said("while") == [*project.before, *project.after]
    done = desk.good(*project.fit, SUITE)
    assert done.said("while") == listed(*project.before, "Diagnostics", *EVERY, *project.after)
    assert done.said("after") == [*project.before, "Diagnostics", *project.after]
    assert done.said("weights") == without.said("weights")
    assert done.found >= KNOWN
    assert done.record["enabled_by"] == "--trainer.callbacks"
    assert done.record["status"] == "finished"
    saved = done.config["trainer"]["callbacks"][-1]
    assert saved["class_path"] == "lightning_diagnostics.Diagnostics"
    assert saved["init_args"]["preset"] == "standard"


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (["preset=thorough"], {"preset": "thorough"}),
        (["preset=off"], None),
        (["activations=false"], {"preset": "standard", "activations": False}),
        (["activations", "false"], {"preset": "standard", "activations": False}),
        (
            ["activations.every_n_train_steps=50", "graph_leak.min_age=3"],
            {"preset": "standard", "activations": {"every_n_train_steps": 50}, "graph_leak": {"min_age": 3}},
        ),
        (
            ["activations=true", "activations.every_n_train_steps=5"],
            {"preset": "standard", "activations": {"every_n_train_steps": 5}},
        ),
        (["limits.dead-units.share=0.8"], {"preset": "standard", "limits": {"dead-units.share": 0.8}}),
        (["limits={dead-units.share: 0.8}"], {"preset": "standard", "limits": {"dead-units.share": 0.8}}),
        (["ignore+=dead-units", "ignore+=MEM"], {"preset": "standard", "ignore": ["dead-units", "MEM"]}),
        (["ignore=[dead-units,MEM]"], {"preset": "standard", "ignore": ["dead-units", "MEM"]}),
        (["ignore=dead-units,MEM"], {"preset": "standard", "ignore": "dead-units,MEM"}),
        (["ignore=dead-units:encoder*"], {"preset": "standard", "ignore": "dead-units:encoder*"}),
        (["select=MEM"], {"preset": "standard", "select": "MEM"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_argument_of_the_suite_is_a_flag(flags: list[str], settings: dict[str, Any] | None, desk: Desk) -> None:
    done = desk.good(*SUBCLASS.fit, SUITE, f"{OF}{flags[0]}", *(_flag(flag) for flag in flags[1:]))
    if settings is None:
        assert done.children == done.records == []
        return
    assert done.settings == settings
    left_out = {catalogue.names()[room] for room, given in settings.items() if given is False}
    ignored = str(settings.get("ignore", ""))
    if "select" in settings:
        assert done.children == ["GraphLeakDetector"]
        assert done.found == {("MEM101", "model.running_loss", 0)}
    else:
        assert done.children == listed(*(name for name in EVERY if name not in left_out))
        expected = {f for f in KNOWN if "MEM" not in ignored or not f[0].startswith("MEM")}
        expected -= {("ACT101", "net.1", 0)} if left_out or re.search("dead-units(?!:)", ignored) else set()
        assert done.found & KNOWN == expected


def _flag(flag: str) -> str:
    return f"{OF}{flag}" if "=" in flag else flag


def test_single_callbacks_are_flags_too(desk: Desk) -> None:
    done = desk.good(
        *DATAMODULE.fit,
        *(GRAPHS, f"{OF}min_age=3", f"{OF}at=error", ACTIVATIONS, f"{OF}every_n_train_steps=7", f"{OF}include+=net*"),
        *(f"{OF}limits.dead-units.share=0.9", f"{OF}histograms=false"),
    )
    assert done.said("while") == [
        *DATAMODULE.before,
        "GraphLeakDetector",
        "ActivationMonitor",
        *DATAMODULE.after,
    ]
    assert done.found >= KNOWN
    graphs, activations = (each["init_args"] for each in done.config["trainer"]["callbacks"][-2:])
    assert (graphs["min_age"], graphs["at"]) == (3, "error")
    given = {"every_n_train_steps": 7, "include": ["net*"], "limits": {"dead-units.share": 0.9}, "histograms": False}
    assert given.items() <= activations.items()
    assert done.record["enabled_by"] == "the callbacks of the Trainer"
    assert done.record["settings"] is None


def test_the_suite_stands_back_for_a_callback_that_is_listed_already(desk: Desk) -> None:
    done = desk.good(*DATAMODULE.fit, GRAPHS, f"{OF}min_age=3", SUITE, f"{OF}preset=light")
    others = [name for name in IN_LIGHT if name != "GraphLeakDetector"]
    assert done.said("while") == [*DATAMODULE.before, "GraphLeakDetector", "Diagnostics", *others, *DATAMODULE.after]
    assert done.found >= KNOWN
    assert len(done.records) == 1
    assert len([line for line in done.ours if "MEM101" in line]) == 1


def test_a_second_suite_stands_back_and_says_so_once(desk: Desk) -> None:
    done = desk.good(*DATAMODULE.fit, SUITE, SUITE, f"{OF}preset=light")
    assert done.said("while") == listed(*DATAMODULE.before, "Diagnostics", *EVERY, "Diagnostics", *DATAMODULE.after)
    assert done.settings == {"preset": "standard"}
    said = "there is a suite of diagnostics already (--trainer.callbacks); the one of --trainer.callbacks stands back"
    assert done.ours.count(f"INFO: {said}") == 1


LISTED = """
trainer:
  callbacks+:
    - class_path: lightning_diagnostics.Diagnostics
      init_args:
        preset: thorough
        activations: {every_n_train_steps: 3}
        graph_leak: {min_age: 3}
        limits: {dead-units.share: 0.8}
        ignore: ["dead-units:encoder*"]
"""
ALSO_SINGLE = "trainer: {callbacks+: lightning_diagnostics.GraphLeakDetector}\n"
GIVEN = {
    "preset": "thorough",
    "activations": {"every_n_train_steps": 3},
    "graph_leak": {"min_age": 3},
    "limits": {"dead-units.share": 0.8},
    "ignore": ["dead-units:encoder*"],
}


@every_project
def test_a_second_file_appends_the_suite_and_flags_override_it(project: Project, desk: Desk) -> None:
    desk.files = {"more.yaml": LISTED}
    done = desk.good(*project.fit, "--config", "more.yaml", f"{OF}preset=light")
    assert done.said("while") == listed(*project.before, "Diagnostics", *IN_LIGHT, *project.after)
    assert done.settings == {**GIVEN, "preset": "light"}
    assert done.found >= KNOWN


def test_the_suite_stands_in_the_users_own_list(desk: Desk) -> None:
    desk.files = {"whole.yaml": LISTED.replace("+", ""), "single.yaml": ALSO_SINGLE}
    done = desk.good(*DATAMODULE.fit, "--config", "whole.yaml", "--trainer.callbacks+=networks.Roll")
    assert done.settings == GIVEN
    done = desk.good(*DATAMODULE.fit, "--config", "single.yaml")
    assert done.children == ["GraphLeakDetector"]


@every_project
def test_what_is_printed_can_be_fed_back(project: Project, desk: Desk) -> None:
    desk.files = {"more.yaml": LISTED}
    words = (*project.fit, "--config", "more.yaml", GRAPHS, f"{OF}every_n_train_steps=9")
    printed = desk.good(*words, "--print_config").out
    desk.files = {"printed.yaml": printed}
    again = (project.fit[0], "fit", "--config", "printed.yaml")
    assert desk.good(*again, "--print_config").out == printed
    desk.files |= {"more.yaml": LISTED}
    first, second = desk.good(*words), desk.good(*again)
    assert first.record["settings"] == second.record["settings"]
    assert first.record["diagnostics"] == second.record["diagnostics"]
    assert (first.found, first.said("while")) == (second.found, second.said("while"))
    saved = yaml.dump(first.config)
    desk.files = {"saved.yaml": saved}
    third = desk.good(project.fit[0], "fit", "--config", "saved.yaml")
    assert (first.found, first.record["settings"]) == (third.found, third.record["settings"])


@pytest.mark.parametrize("name", ["Diagnostics", *EVERY])
def test_the_help_has_a_text_for_every_argument(name: str, desk: Desk) -> None:
    page = desk.good("datamodule.py", "fit", f"{OF}help=lightning_diagnostics.{name}").out
    texts = dict(re.findall(r"^  --trainer\.callbacks\.(\w+) [^\n]*\n {6,}(\S[\s\S]*?)\(type:", page, re.MULTILINE))
    arguments = set(re.findall(r"\[--trainer\.callbacks\.(\w+) ", page))
    assert arguments == texts.keys()
    assert all(len(text.split()) > 3 for text in texts.values())
    assert arguments >= {"on_finding", "at", "limits", "strict"}
    if name == "Diagnostics":
        assert arguments >= {"preset", "select", "ignore", "baseline", *catalogue.rooms()}
        for room, kind in catalogue.names().items():
            assert kind in texts[room]


ALLOWED = "allowed are 'light', 'standard', 'thorough', 'off'"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((SUITE, "preset=fast"), f"Diagnostics: preset='fast': {ALLOWED}"),
        ((SUITE, "activations.every=3"), "Diagnostics: activations: unknown option 'every': allowed are 'every_n_t"),
        ((SUITE, "activations=maybe"), "Diagnostics: activations='maybe': expected True, False, or a mapping of opt"),
        ((SUITE, "activations.every_n_train_steps=x"), "ActivationMonitor: every_n_train_steps='x': expected a whole"),
        ((SUITE, "graph_leak.min_age=0"), "GraphLeakDetector: min_age=0: allowed is 1 or more"),
        ((SUITE, "limits.dead-unit.share=1"), "Diagnostics: unknown limit 'dead-unit.share': allowed are 'dead-uni"),
        ((SUITE, "limits.dead-units.share=a"), "ActivationMonitor: limit 'dead-units.share' is 'a': expected a numb"),
        ((SUITE, "limits=3"), "Diagnostics: limits='3': expected a mapping from the name of a limit to its value"),
        ((SUITE, "ignore+=dead-unit"), "Diagnostics: ignore='dead-unit': no such rule (did you mean 'dead-units'?);"),
        ((SUITE, "select=XYZ"), "Diagnostics: select='XYZ': no such rule; allowed are ACT101 (dead-units), "),
        ((SUITE, "on_finding=shout"), "Diagnostics: on_finding='shout': allowed are 'report', 'stop', 'raise'"),
        ((SUITE, "strict=perhaps"), "Diagnostics: strict='perhaps': allowed are True and False"),
        ((SUITE, "baseline=none.json"), "Diagnostics: baseline 'none.json': no such file; write one with: lightning"),
        ((SUITE, "baseline=datamodule.py"), "Diagnostics: baseline 'datamodule.py': "),
        ((GRAPHS, "every_n_train_steps=x"), "GraphLeakDetector: every_n_train_steps='x': expected a whole number of"),
        ((GRAPHS, "min_age=2.5"), "GraphLeakDetector: min_age='2.5': expected a whole number of 1 or more"),
        ((GRAPHS, "on_finding=shout"), "GraphLeakDetector: on_finding='shout': allowed are 'report', 'stop', 'rai"),
        ((GRAPHS, "limits.steps=1"), "GraphLeakDetector: unknown limit 'steps': allowed are 'retained-graph.steps'"),
        ((ACTIVATIONS, "compiled=fast"), "ActivationMonitor: compiled='fast': allowed are 'skip', 'eager'"),
        ((ACTIVATIONS, "include=net"), "ActivationMonitor: include='net': expected a list of patterns such as "),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_the_first_line_says_which_value_is_wrong_and_what_is_allowed(
    words: tuple[str, str], line: str, desk: Desk
) -> None:
    done = desk.run(*DATAMODULE.fit, words[0], f"{OF}{words[1]}")
    assert done.status == 1
    assert done.first.startswith(f"lightning_diagnostics ERROR: {line}")
    assert len(done.ours) == 1


ARGUMENTS = f"preset, {', '.join(catalogue.rooms())}, select, ignore, baseline, limits, on_finding, at, strict"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            (SUITE, f"{OF}presett=light"),
            f"{OF}presett: Diagnostics has no such argument (did you mean 'preset'?); allowed are {ARGUMENTS}",
        ),
        (
            (GRAPHS, f"{OF}min_age=3", SUITE, f"{OF}graphs=false"),
            f"{OF}graphs: Diagnostics has no such argument (did you mean 'graph_leak'?); allowed are {ARGUMENTS}",
        ),
        (
            ("--trainer.callbacks+", "lightning_diagnostics.GraphLeakDetector", f"{OF}age", "3"),
            f"{OF}age: GraphLeakDetector has no such argument (did you mean 'min_age'?); allowed are every_n_train_",
        ),
        (
            ("--trainer.callbacks+=lightning_diagnostics.Diagnostic",),
            "lightning_diagnostics.Diagnostic: no such class (did you mean 'Diagnostics'?); allowed are Diagnostics, ",
        ),
        (
            ("--config", "wrong_argument.yaml"),
            f"lightning_diagnostics.Diagnostics: presets: Diagnostics has no such argument (did you mean 'preset'?); "
            f"allowed are {ARGUMENTS}",
        ),
        (
            ("--config=wrong_class.yaml",),
            "lightning_diagnostics.Monitor: no such class; allowed are Diagnostics, ActivationMonitor, BatchNormG",
        ),
    ],
    ids=["argument", "of the last", "in words apart", "class", "argument in a file", "class in a file"],
)
def test_the_first_line_says_which_name_is_wrong_and_what_is_allowed(
    words: tuple[str, ...], line: str, desk: Desk
) -> None:
    wrong = {"class_path": "lightning_diagnostics.Diagnostics", "init_args": {"presets": "light"}}
    desk.files = {
        "wrong_argument.yaml": yaml.dump({"trainer": {"callbacks+": [wrong]}}),
        "wrong_class.yaml": yaml.dump({"trainer": {"callbacks+": [{"class_path": "lightning_diagnostics.Monitor"}]}}),
    }
    done = desk.run(*DATAMODULE.fit, *words)
    assert done.status == 2
    assert done.first.startswith(f"lightning_diagnostics ERROR: {line}")
    assert len(done.ours) == 1


def test_the_flags_of_the_users_own_callbacks_are_not_ours_to_judge(desk: Desk) -> None:
    others = ("--trainer.callbacks+=EarlyStopping", f"{OF}monitor=train_loss", f"{OF}patience=50")
    done = desk.run(*DATAMODULE.fit, SUITE, f"{OF}preset=light", *others, "--trainer.max_epochs=1")
    assert done.status == 0, done.err
    assert [line for line in done.ours if line.startswith("ERROR: --trainer")] == []
