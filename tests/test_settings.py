"""The arguments of the suite as words, in a mapping and in a file."""

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_diagnostics import Diagnostics, catalogue
from lightning_diagnostics.settings import OFF, ON, parse, put

PRESETS = "light, standard, thorough"
DIAGNOSTICS = ", ".join(catalogue.rooms())


@pytest.mark.parametrize("word", [*OFF, "OFF", " Off ", "preset=off", "preset=false", "{preset: off}", "0"])
def test_off(word: str) -> None:
    assert parse(word) is None


@pytest.mark.parametrize("word", [*ON, "ON", " standard "])
def test_on_is_the_standard(word: str) -> None:
    assert parse(word) == {"preset": "standard"}


OTHERS = {room: False for room in catalogue.rooms() if room != "graph_leak"}
LEAKS = [rule.code for rule in catalogue.rules("graph_leak") if not rule.preview]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("light", {"preset": "light"}),
        ("Thorough", {"preset": "thorough"}),
        ("graph_leak", {"graph_leak": True, **OTHERS}),
        ("GraphLeakDetector", {"graph_leak": True, **OTHERS}),
        ("activations, graph_leak", {**OTHERS, "graph_leak": True, "activations": True}),
        ("light,graph_leak", {"preset": "light", "graph_leak": True, **OTHERS}),
        ("graph_leak,graph_leak.min_age=3", {"graph_leak": {"min_age": 3}, **OTHERS}),
        ("activations,graph_leak.min_age=3", {**OTHERS, "graph_leak": {"min_age": 3}, "activations": True}),
        ("dead-units,MEM101", {"select": ["dead-units", "MEM101"]}),
        ("ACT dead-units:enc*", {"select": ["ACT", "dead-units:enc*"]}),
        ("all", {"select": ["all"]}),
        ("dead-units,graph_leak", {"graph_leak": True, "select": ["dead-units", *LEAKS]}),
        (
            "GraphLeakDetector,dead-units,select=ACT102",
            {"graph_leak": True, "select": ["dead-units", *LEAKS, "ACT102"]},
        ),
        ("standard,ignore=dead-units:a*,ignore=MEM", {"preset": "standard", "ignore": ["dead-units:a*", "MEM"]}),
        ("ignore=[dead-units, 'MEM']", {"ignore": ["dead-units", "MEM"]}),
        ("activations=false", {"activations": False}),
        ("activations=false,activations.max_layers=3", {"activations": {"max_layers": 3}}),
        (
            "activations.include=['a*', b],activations.histograms=no",
            {"activations": {"include": ["a*", "b"], "histograms": False}},
        ),
        ("limits.dead-units.share=0.8", {"limits": {"dead-units.share": 0.8}}),
        (
            "limits.dead-units.alpha=1e-5,limits.MEM101.steps=8",
            {"limits": {"dead-units.alpha": 1e-5, "MEM101.steps": 8}},
        ),
        ("activations.limits.dead-units.share=1", {"activations": {"limits": {"dead-units.share": 1}}}),
        ("on_finding=stop,at=error", {"on_finding": "stop", "at": "error"}),
        ("baseline=some/known.json", {"baseline": "some/known.json"}),
        ("{preset: light, ignore: [MEM]}", {"preset": "light", "ignore": ["MEM"]}),
        ('{"limits": {"dead-units.alpha": 1e-05}}', {"limits": {"dead-units.alpha": 1e-5}}),
        ("preset=light,preset=light", {"preset": "light"}),
    ],
)
def test_words_and_mappings(text: str, arguments: dict[str, Any]) -> None:
    assert parse(text) == arguments


@pytest.mark.parametrize("name", ["a.yaml", "a.yml", "A.YAML", "a.json"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "as for DiagnosticsCLI"])
def test_a_file(name: str, wrapped: bool, tmp_path: Path) -> None:
    arguments = {"preset": "light", "graph_leak": {"min_age": 3}}
    content = {"diagnostics": arguments} if wrapped else arguments
    (tmp_path / name).write_text(json.dumps(content), encoding="utf-8-sig")  # as some editors save
    assert parse(str(tmp_path / name)) == arguments


@pytest.mark.parametrize(
    ("content", "arguments"),
    [("", {}), ("diagnostics: off", None), ("diagnostics: on", {"preset": "standard"}), ("preset: off", None)],
)
def test_files_of_few_words(content: str, arguments: object, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(content)
    assert parse(str(tmp_path / "a.yaml")) == arguments


def test_what_the_suite_is_given_is_what_it_takes() -> None:
    for text in ("light,graph_leak", "dead-units,MEM", "limits.dead-units.alpha=1e-5", "activations.include=['a*']"):
        Diagnostics(**(parse(text) or {}))


ALLOWED = (
    f"allowed are a preset ({PRESETS}), 'off', diagnostics ({DIAGNOSTICS}), codes and names of rules "
    "(lightning-diagnostics rules lists them), key=value (activations.every_n_train_steps=10), and a YAML file"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", f"unknown word 'fast': {ALLOWED}"),
        ("standart", f"unknown word 'standart': did you mean 'standard'? {ALLOWED}"),
        ("light,dead-unit", f"unknown word 'dead-unit': did you mean 'dead-units'? {ALLOWED}"),
        ("light,thorough", "preset is given twice, as 'light' and as 'thorough': expected one value"),
        ("standard,off", "preset is given twice, as 'standard' and as 'off': expected one value"),
        ("at=error,at=warning", "at is given twice, as 'error' and as 'warning': expected one value"),
        ("preset=fast", "preset='fast': allowed are 'light', 'standard', 'thorough', 'off'"),
        ("preset=[light]", "preset=['light']: allowed are 'light', 'standard', 'thorough', 'off'"),
        ("=3", "option '=3': expected key=value, e.g. activations.every_n_train_steps=10"),
        ("limits.=3", "option 'limits.=3': expected key=value, e.g. activations.every_n_train_steps=10"),
        (
            "[light]",
            f"unknown word '[light]': did you mean 'light'? {ALLOWED}",
        ),
        ("{preset: light", "the mapping is not YAML (while parsing a flow mapping"),
        ("{3: light}", "the mapping holds {3: 'light'}: expected arguments of Diagnostics by name, e.g. preset: tho"),
        ("{presets: light}", "unknown argument 'presets': allowed are preset, select, ignore, baseline, limits, on_f"),
        ("activaions=false", "unknown argument 'activaions': allowed are preset, select, ignore, baseline, limits, o"),
        ("ignore=dead", "ignore='dead': no such rule; allowed are ACT101 (dead-units), "),
    ],
)
def test_what_is_not_understood_is_quoted_with_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is compared
        parse(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, "the file 'PATH' cannot be read (No such file or directory)"),
        ("[1, 2]", ValueError, "the file 'PATH' holds [1, 2]: expected arguments of Diagnostics by name"),
        ("light", ValueError, "the file 'PATH' holds 'light': expected arguments of Diagnostics by name"),
        ("a: [", ValueError, "the file 'PATH' is not YAML (while parsing a flow node"),
        ("every: 3", ValueError, "unknown argument 'every': allowed are preset, "),
        ("select: 3", TypeError, "select=3: expected codes or names of rules, e.g. ['dead-units', 'MEM101']"),
    ],
)
def test_a_bad_file_is_named(content: str | None, error: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error) as caught:
        parse(str(path))
    assert str(caught.value).startswith(message.replace("PATH", str(path)))


def test_a_file_that_is_sought_from_another_folder_is_named_with_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        parse("suite.yaml")
    said = f"the file 'suite.yaml' cannot be read (No such file or directory, seen from {str(tmp_path)!r})"
    assert str(caught.value) == said


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"a\.yaml' is not YAML \("):
        parse(str(tmp_path / "a.yaml"))


def test_an_option_leads_into_what_is_there() -> None:
    arguments: dict[str, Any] = {"activations": True, "ignore": ["MEM"]}
    for option in ("activations.max_layers=3", "activations.limits.dead-units.share=0.5", "ignore=ACT801"):
        put(arguments, option)
    assert arguments == {
        "activations": {"max_layers": 3, "limits": {"dead-units.share": 0.5}},
        "ignore": ["MEM", "ACT801"],
    }
