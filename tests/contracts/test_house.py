"""The house: what loads what, who may use whom, who touches the Trainer's insides, and what stands at the top level."""

import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from lightning_diagnostics import _REGISTRY, catalogue
from lightning_diagnostics import __all__ as public_names
from lightning_diagnostics.findings.rule import SECTIONS

ROOT = Path(__file__).parents[2]
PACKAGE = Path(str(files("lightning_diagnostics")))
HEAVY = ("torch", "lightning", "pytorch_lightning", "numpy", "scipy", "tensorboard")


# What is loaded.


def _loads(*modules: str) -> set[str]:
    """Which of the heavy packages importing these modules loads, in a fresh process."""
    code = f"import sys\nfor m in {modules!r}: __import__(m)\nprint(*[h for h in {HEAVY!r} if h in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


LIGHT = (
    *("lightning_diagnostics", "lightning_diagnostics.catalogue", "lightning_diagnostics.findings"),
    *(f"lightning_diagnostics.diagnostics.{room}.rules" for room in catalogue.rooms()),
    *(f"lightning_diagnostics.{name}" for name in ("autoload", "cli", "settings")),
)


def test_root_catalogue_and_rules_load_neither_torch_nor_lightning() -> None:
    assert _loads(*LIGHT) == set()


def test_asking_for_the_rules_and_for_a_finding_loads_neither() -> None:
    code = "import lightning_diagnostics as d, sys; from lightning_diagnostics import catalogue; catalogue.rules()"
    code += f"; d.Finding, dir(d); print(*[h for h in {HEAVY!r} if h in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_module_that_loads_torch_is_caught() -> None:
    assert "torch" in _loads("lightning_diagnostics.probes")


# Who may use whom.


def _contracts(folder: Path) -> str:
    """What import-linter says about a tree; empty if all contracts hold."""
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([linter, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the package, with its configuration, for trespasses."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "lightning_diagnostics", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_floors_are_held_apart(house: Path) -> None:
    assert _contracts(house) == ""


@pytest.mark.parametrize(
    ("where", "trespass"),
    [
        ("statistics/moments.py", "import lightning_diagnostics.callback"),
        ("statistics/moments.py", "import lightning.pytorch"),
        ("probes/graphs.py", "from lightning_diagnostics.findings import Finding"),
        ("probes/graphs.py", "import tensorboard"),
        ("tensorboard/charts.py", "import lightning_diagnostics.callback"),
        ("catalogue.py", "import torch"),
        ("findings/finding.py", "import torch"),
        ("findings/journal.py", "import lightning_diagnostics.tensorboard"),
        ("callback/run.py", "import lightning_diagnostics.diagnostics.graph_leak.callback"),
        ("diagnostics/graph_leak/rules.py", "import torch"),
        ("diagnostics/graph_leak/rules.py", "import lightning_diagnostics.diagnostics.another"),
    ],
)
def test_a_trespass_is_caught(house: Path, where: str, trespass: str) -> None:
    neighbour = house / "lightning_diagnostics" / "diagnostics" / "another"
    neighbour.mkdir()
    (neighbour / "__init__.py").write_text('"""Another room."""\n')
    path = house / "lightning_diagnostics" / where
    path.write_text(f"{path.read_text()}\n{trespass}\n")
    assert "BROKEN" in _contracts(house)


# Who touches the Trainer's insides.

_INSIDES = re.compile(
    r"trainer\._\w|\b(?:fit_loop|validate_loop|test_loop|predict_loop|epoch_loop|\w*_connector)\b"
    r"|strategy\._\w|lightning\.pytorch\.(?:loops|trainer\.connectors|strategies)"
)


def _touch_the_insides(package: Path) -> set[str]:
    sources = {path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    return {name for name, text in sources.items() if _INSIDES.search(text)}


def test_one_place_alone_touches_the_trainers_insides() -> None:
    assert {name.rpartition("/")[0] for name in _touch_the_insides(PACKAGE)} == {"callback/trainer"}


@pytest.mark.parametrize(
    "line",
    [
        "trainer._callback_connector",
        "run = trainer.fit_loop",
        "self.trainer._logger_connector",
        "trainer.strategy._lightning_module",
        "from lightning.pytorch.loops import _TrainingEpochLoop",
    ],
)
def test_another_file_that_does_is_caught(house: Path, line: str) -> None:
    path = house / "lightning_diagnostics" / "callback" / "looks.py"
    path.write_text(f"{path.read_text()}\n{line}\n")
    assert "callback/looks.py" in _touch_the_insides(house / "lightning_diagnostics")


# What stands where.

FLOORS = {"statistics", "probes", "findings", "tensorboard", "callback"}
TOP_OF_PACKAGE = {"__init__", "catalogue", "settings", "cli", "autoload", "diagnostics", "py.typed", *FLOORS}
TOP_OF_REPOSITORY = {
    *("pyproject.toml", "README.md", "lightning_diagnostics", "tests", "examples", "docs"),
    *("LICENSE", "CHANGELOG.md", "constraints.txt"),
}
ROOM = {"__init__.py", "measure.py", "rules.py", "callback.py"}


def _strangers(names: set[str], allowed: set[str]) -> set[str]:
    return {name for name in names if name not in allowed and not name.startswith(".")}


def _tracked() -> set[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return set(done.stdout.splitlines())


def test_nothing_else_stands_at_the_top_of_the_package() -> None:
    names = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert _strangers(names, TOP_OF_PACKAGE) == set()


def test_nothing_else_stands_at_the_top_of_the_repository() -> None:
    assert _strangers({path.partition("/")[0] for path in _tracked()}, TOP_OF_REPOSITORY) == set()


def test_a_stranger_at_the_top_is_caught() -> None:
    assert _strangers({"utils", "statistics", ".hidden"}, TOP_OF_PACKAGE) == {"utils"}
    assert _strangers({"setup.py", "docs", ".ci"}, TOP_OF_REPOSITORY) == {"setup.py"}


@pytest.mark.parametrize("room", catalogue.rooms())
def test_every_room_has_its_three_files_and_a_registered_callback(room: str) -> None:
    assert {path.name for path in (PACKAGE / "diagnostics" / room).glob("*.py")} >= ROOM
    assert f"lightning_diagnostics.diagnostics.{room}.callback" in _REGISTRY.values()


def test_every_room_is_registered() -> None:
    folders = {path.name for path in (PACKAGE / "diagnostics").iterdir() if (path / "__init__.py").exists()}
    assert folders == set(catalogue.rooms())


# The registry and the rules.


def test_the_registry_is_what_is_public() -> None:
    assert sorted(_REGISTRY) == sorted(public_names)


def test_codes_and_names_of_rules_are_unique() -> None:
    rules = catalogue.rules()
    for words in ([rule.code for rule in rules], [word for rule in rules for word in (rule.name, *rule.aliases)]):
        assert len(words) == len(set(words))


@pytest.mark.parametrize("rule", catalogue.rules(), ids=lambda rule: rule.code)
def test_every_rule_has_code_name_and_page(rule: catalogue.Rule) -> None:
    assert re.fullmatch(r"(ACT|GRD|GAP|BN|MEM|LR|EVP|INI|LOS|DAT)\d{3}", rule.code)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.name)
    assert rule.summary.endswith(".")
    assert all(len(rule.section(heading).split()) >= 5 for heading in SECTIONS)
    assert list(rule.severities) == sorted(set(rule.severities))


@pytest.mark.parametrize("name", sorted(catalogue.callbacks()))
def test_every_callback_owns_rules_of_its_room_and_a_note_of_blindness(name: str) -> None:
    kind = catalogue.callbacks()[name]
    known = {rule.code for rule in catalogue.rules()}
    assert {rule.code for rule in (*kind.rules, kind.blind_rule)} <= known
    assert [str(severity) for severity in kind.blind_rule.severities] == ["INFO"]
