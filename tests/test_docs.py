"""What the documentation says is so: its code runs, its tables are the rules', its commands are what is checked."""

import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_diagnostics import Diagnostics, DiagnosticsCLI, catalogue
from lightning_diagnostics import __all__ as public
from lightning_diagnostics.findings import Rule, Severity
from tests.diagnostics.activations.networks import NETWORKS
from tests.diagnostics.batch_norm import networks as norms
from tests.diagnostics.expected_performance.sweep import SEARCHES
from tests.diagnostics.generalization_gap import networks as gaps
from tests.diagnostics.gradients import networks as gradients
from tests.diagnostics.learning_rate import networks as rates

REPOSITORY = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
COMMAND = str(BIN / "lightning-diagnostics")
SHELL_HERE = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}  # an environment need not be activated
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = [
    *("README.md", "docs/index.md", "docs/how-to.md", "docs/generalization-gap.md", "docs/learning-rate.md"),
    "docs/expected-performance.md",
]
LINES_OF = ["README.md", "docs/index.md", "docs/switch-on.md", "docs/command-line.md"]


def between(marker: str) -> str:
    """The text of the README between two comments."""
    return README.split(f"<!-- {marker}: begin -->\n")[1].split(f"<!-- {marker}: end -->")[0]


def _text(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def blocks(page: str, kind: str = "python") -> list[str]:
    """The blocks of a page, without those that are set in from the left."""
    return re.findall(rf"^```(?:{kind})\n(.*?)^```", _text(page), re.MULTILINE | re.DOTALL)


def severities(rule: Rule) -> str:
    *others, worst = ("note" if severity is Severity.INFO else str(severity) for severity in rule.severities)
    return f"{', '.join(others)} or {worst}" if others else worst


def test_the_readme_lists_the_rules() -> None:
    rows = [f"| {rule.code} | `{rule.name}` | {severities(rule)} | {rule.summary} |" for rule in catalogue.rules()]
    assert between("findings").splitlines()[2:] == rows


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)


TRAIN = """
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel

class Leaking(BoringModel):
    def __init__(self):
        super().__init__()
        self.losses = []

    def training_step(self, batch, batch_idx):
        self.losses.append(super().training_step(batch, batch_idx)["loss"])
        return self.losses[-1]

if __name__ == "__main__":
    LightningCLI(Leaking)
"""
COMMANDS = {line for page in PAGES for line in re.findall(r"^python train.py fit .*", _text(page), re.MULTILINE)}


@pytest.mark.parametrize("line", [*sorted(COMMANDS), "python train.py fit --config=page.yaml"])
def test_the_command_lines_of_how_to_and_the_configuration_work(line: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN, encoding="utf-8")
    (tmp_path / "page.yaml").write_text(blocks("docs/how-to.md", "yaml")[0], encoding="utf-8")
    command = [sys.executable, *line.split()[1:], "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "MEM101 retained-graph at model.losses" in done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which the lines of the pages work: the program, the files that the pages name, and a run of it."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(REPOSITORY / "examples/digits_cli.py", folder / "train.py")
    shutil.copy(REPOSITORY / "examples/digits_cli.yaml", folder / "config.yaml")
    for block in blocks("docs/switch-on.md", "yaml|python"):
        if named := re.match(r"# (\S+\.(?:yaml|py))\n", block):
            (folder / named[1]).write_text(block, encoding="utf-8")
    words = ["fit", "--config=config.yaml", "--trainer.callbacks+=lightning_diagnostics.Diagnostics"]
    subprocess.run([sys.executable, "train.py", *words], cwd=folder, check=True, capture_output=True)
    shutil.copytree(folder / "lightning_logs/version_0", folder / "lightning_logs/version_1")
    known = ["report", "lightning_logs/version_0", "--write-baseline", "known.json"]
    subprocess.run([COMMAND, *known], cwd=folder, check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder
    sys.modules.pop("train", None)


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder as the working directory, with nothing switched on."""
    monkeypatch.chdir(project)
    monkeypatch.delenv("LIGHTNING_DIAGNOSTICS", raising=False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # the program sets it
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # what Lightning calls is deprecated there
    return project


def shell_lines(page: str) -> list[str]:
    """The lines that a page would have typed, but those that install."""
    return [line for block in blocks(page, "bash") for line in block.splitlines() if " install " not in line]


EVERY_LINE = list(dict.fromkeys(line for page in LINES_OF for line in shell_lines(page)))
TRAINING = [line for line in EVERY_LINE if re.match(r"(LIGHTNING_DIAGNOSTICS=.* )?python (train|cli)\.py", line)]
SHELL = [line for line in EVERY_LINE if line not in TRAINING]


@pytest.mark.parametrize("line", TRAINING)
def test_a_training_line_switches_on_what_there_is(
    line: str, here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from lightning.pytorch.cli import LightningCLI
    from train import Classifier, Digits

    from lightning_diagnostics.callback import DiagnosticCallback

    words = shlex.split(line)
    if words[0] != "python":
        monkeypatch.setenv(*words.pop(0).split("=", maxsplit=1))
    kind = {"train.py": LightningCLI, "cli.py": DiagnosticsCLI}[words[1]]
    monkeypatch.setattr(sys, "argv", [word for word in words[1:] if word != "fit"])
    if re.search("help|print_config", line):
        with pytest.raises(SystemExit, match=r"^0$"):
            kind(Classifier, Digits, run=False)
        return
    made = kind(Classifier, Digits, run=False, save_config_callback=None)
    (ours,) = [each for each in made.trainer.callbacks if isinstance(each, Diagnostics | DiagnosticCallback)]
    assert isinstance(ours, Diagnostics) == ("Monitor" not in line and "Scheduler" not in line)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("line", SHELL)
def test_a_shell_line_works(line: str, here: Path) -> None:
    command, ran, _ = line.partition(" -- ")  # what is run is not: the program was run before, and torchrun elsewhere
    done = subprocess.run(
        f"{command} -- echo started" if ran else line,
        shell=True,
        cwd=here,
        capture_output=True,
        text=True,
        env=SHELL_HERE,
    )
    fails = "report" in line and "baseline" not in line and "--fail-on error" not in line
    assert done.returncode == fails, done.stderr
    assert done.stdout.strip() or "--output" in line


def test_the_code_of_the_page_on_switching_on_runs(here: Path) -> None:
    *code, other_package = blocks("docs/switch-on.md")
    for block in code:
        exec(compile(block, "switch-on.md", "exec"), {"__name__": "page", "Diagnostics": Diagnostics})
    done = subprocess.run([sys.executable, "-c", other_package], cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_flags_of_its_own_can_be_off_until_they_are_asked_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from train import Classifier, Digits

    names: dict[str, Any] = {}
    exec(next(block for block in blocks("docs/switch-on.md") if "DiagnosticsFlags" in block), names)
    presets = {}
    for word in ("light", None):
        monkeypatch.setattr(sys, "argv", ["train.py", *([f"--diagnostics={word}"] if word else [])])
        made = names["CLI"](Classifier, Digits, run=False, save_config_callback=None)
        (suite,) = [each for each in made.trainer.callbacks if isinstance(each, Diagnostics)]
        presets[word] = suite.preset
    assert presets == {"light": "light", None: "off"}


@pytest.mark.parametrize(
    ("words", "way"),
    [
        ("python train.py fit --config config.yaml --config watch.yaml", "--trainer.callbacks"),
        ("python cli.py fit --config config.yaml --diagnostics=thorough", "--diagnostics"),
        ("lightning-diagnostics run -- python train.py fit --config config.yaml", "LIGHTNING_DIAGNOSTICS="),
    ],
)
@pytest.mark.slow
def test_a_run_says_which_way_it_was_switched_on(words: str, way: str, here: Path, tmp_path: Path) -> None:
    subprocess.run(
        [*words.split(), f"--trainer.default_root_dir={tmp_path}"],
        env=SHELL_HERE,
        check=True,
        capture_output=True,
        text=True,
    )
    report = [COMMAND, "report", tmp_path / "lightning_logs/version_0"]
    shown = subprocess.run(report, check=False, capture_output=True, text=True)
    assert shown.returncode == 1
    assert "ACT101 dead-units" in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith(f"Enabled by {way}")


def test_the_page_of_the_command_has_every_option_that_there_is() -> None:
    from lightning_diagnostics.cli import commands

    page = _text("docs/command-line.md")
    for name, command in commands.commands.items():
        assert f"\n## {name}: " in page
        for option in command.params:
            assert all(word in page for word in option.opts if word.startswith("--"))


def test_the_form_of_the_json_is_that_of_the_report(here: Path) -> None:
    report = [COMMAND, "report", "lightning_logs/version_0", "--format=json", "--fail-on=never"]
    plain = json.loads(subprocess.run(report, check=True, capture_output=True, text=True).stdout)
    form = _text("docs/command-line.md").split("### The form of the JSON")[1].split("\n## ")[0]
    assert set(plain) <= set(re.findall(r"`(\w+)`", form))


def test_the_snippet_of_a_pipeline_is_of_lines_that_work() -> None:
    (block,) = blocks("docs/command-line.md", "yaml")
    train, gate, upload = yaml.safe_load(block)
    assert train["run"].startswith("lightning-diagnostics run -- ")
    assert gate["run"].split("--fail-on")[0].strip() in SHELL
    assert upload["with"]["sarif_file"] == gate["run"].split()[-1]


def test_the_tutorial_shows_the_lines_of_the_example() -> None:
    example = _text("examples/digits.py")
    for block in blocks("docs/tutorial.md"):
        for line in block.splitlines():
            assert line.strip() in example or "Trainer(..." in line


@pytest.mark.parametrize("marker", ["tests", "example"])
def test_ci_runs_the_lines_of_the_readme(marker: str) -> None:
    script = _text(".ci/run")
    readme_line = script.split("readme_line() ")[1].splitlines()[0]
    shell = f"readme_line() {readme_line}\nreadme_line {marker}"
    line = subprocess.run(["bash", "-c", shell], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    assert f"```bash\n{line}```\n" == between(marker)
    assert len(line.splitlines()) == 1
    assert f'eval "$(readme_line {marker})"' in script


def test_every_check_of_ci_is_documented() -> None:
    script = _text(".ci/run")
    page = _text("docs/contributing.md")
    for command in ("ruff check .", "ruff format --check .", "pyright", "lint-imports", "pytest -m browser"):
        assert f"\n{command}" in script
        assert f"`{command}`" in page


def test_every_public_name_is_on_the_api_page() -> None:
    page = _text("docs/api.md")
    assert set(re.findall(r"auto(?:class|function):: (\w+)", page.split("## Statistics")[0])) == set(public)


def test_links_between_files_lead_somewhere() -> None:
    for page in [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


SWEEPS = (
    ("sweep", NETWORKS),
    ("batch norm sweep", norms.NETWORKS),
    ("gradients sweep", gradients.NETWORKS),
    ("generalization gap sweep", gaps.NETWORKS),
    ("learning rate sweep", rates.NETWORKS),
    ("expected performance sweep", SEARCHES),
)


@pytest.mark.parametrize(("name", "programs"), SWEEPS)
def test_the_sweep_on_the_page_is_that_of_the_tests(name: str, programs: Sequence[Any]) -> None:
    table = _text("docs/limits.md").split(f"<!-- {name}: begin -->\n")[1].split(f"<!-- {name}: end -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n")[2:] if line]
    assert [row[0] for row in rows] == [program.name for program in programs]
    assert {row[-1] for row in rows} == {"none"}


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the diagnostic of docs/add-a-diagnostic.md in it."""
    copy = tmp_path_factory.mktemp("added")
    for name in ("lightning_diagnostics", "tests"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", copy)
    for block in blocks("docs/add-a-diagnostic.md", "python|text"):
        if named := re.match(r"# (\S+\.py)\n", block):
            file = copy / named[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.removeprefix(named[0]), encoding="utf-8")
        elif block.startswith("class ConstantLoss(Student)"):
            insert(copy / "tests/patients.py", block + "\n\n", before="Diagnosed = ")
        elif "_patient(" in block:
            insert(copy / "tests/patients.py", block, after="PATIENTS = (\n")
        else:
            insert(copy / "lightning_diagnostics/__init__.py", block, after="_REGISTRY = {\n")
            insert(copy / "lightning_diagnostics/__init__.py", '"ConstantLossDetector", ', after="__all__ = [")
    return copy


def insert(file: Path, text: str, *, before: str = "", after: str = "") -> None:
    old = file.read_text(encoding="utf-8")
    anchor = before or after
    assert old.count(anchor) == 1, f"{anchor!r} is not once in {file.name}"
    file.write_text(old.replace(anchor, text + anchor if before else anchor + text), encoding="utf-8")


def pytest_in(copy: Path, *arguments: str) -> str:
    """The last line of pytest, run in the copy."""
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout.splitlines()[-1]


def test_the_added_diagnostic_passes_its_tests(added: Path) -> None:
    assert pytest_in(added, "tests/diagnostics/test_constant_loss.py").startswith("5 passed")


def test_the_added_diagnostic_is_part_of_the_suite_and_the_command(added: Path) -> None:
    program = """
import sys
from lightning_diagnostics import Diagnostics, cli
from lightning_diagnostics.settings import parse
print([type(each).__name__ for each in Diagnostics(**parse("thorough,constant_loss"))._children], flush=True)
sys.argv = ["lightning-diagnostics", "explain", "constant-loss"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=added, capture_output=True, text=True)
    made, page = done.stdout.split("\n", maxsplit=1)
    assert made == "['ConstantLossDetector']", done.stderr
    assert page.startswith("# LOS101 constant-loss")


def test_the_added_diagnostic_keeps_the_floors_apart(added: Path) -> None:
    linter = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run([sys.executable, "-c", linter, "--no-cache"], cwd=added, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "kept, 0 broken" in done.stdout


@pytest.mark.slow
def test_the_added_diagnostic_passes_the_contracts(added: Path) -> None:
    assert "passed" in pytest_in(added, "tests/contracts", "-k", "ConstantLoss or constant or test_house")
