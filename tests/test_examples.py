"""The examples do what the documentation says they do."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def run(example: str, *arguments: object) -> str:
    """What an example writes to the terminal."""
    command = [sys.executable, REPOSITORY / "examples" / example, *map(str, arguments)]
    quiet = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "COLUMNS": "100"}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **quiet})
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the terminal of a short run of both digits programs."""
    folder = tmp_path_factory.mktemp("digits")
    return folder, run("digits.py", "--epochs=1", f"--logdir={folder}", f"--plot={folder / 'memory.png'}")


def test_every_example_is_tested() -> None:
    assert {path.name for path in (REPOSITORY / "examples").glob("*.py")} == {"digits.py"}


def test_digits_finds_its_leak(digits: tuple[Path, str]) -> None:
    folder, _ = digits
    lines = (folder / "leaking/version_0/findings.jsonl").read_text(encoding="utf-8").splitlines()
    found = {(event["code"], event["where"], event["first_step"]) for event in map(json.loads, lines)}
    assert found == {("MEM101", "model.norm_sum", 0)}


def test_digits_prints_the_line_that_the_readme_shows(digits: tuple[Path, str]) -> None:
    shown = re.search(r"<!-- output: begin -->\n```text\n(.*)\n```", README)
    assert shown is not None
    wrong, fix = re.split(r"(?= Fix: )", shown[1])  # between them stands the share of memory, where it is worth a word
    assert [line for line in digits[1].splitlines() if line.startswith(wrong) and line.endswith(fix)]


def test_digits_mended_has_no_findings(digits: tuple[Path, str]) -> None:
    folder, terminal = digits
    assert not (folder / "healthy/version_0/findings.jsonl").exists()
    healthy, leaking = terminal.split("1 finding:")[0].split("no findings.")
    assert "WARNING" not in healthy
    assert "WARNING" in leaking


def test_digits_draws_the_memory(digits: tuple[Path, str]) -> None:
    assert (digits[0] / "memory.png").stat().st_size > 10_000


def test_digits_learns_the_same_with_and_without_the_leak(digits: tuple[Path, str]) -> None:
    accuracies = dict(re.findall(r"^(\w+): val_acc (\S+)$", digits[1], re.MULTILINE))
    assert accuracies["healthy"] == accuracies["leaking"]


@pytest.mark.slow
def test_digits_finds_nothing_without_the_leak_in_ten_epochs(tmp_path: Path) -> None:
    assert "Run finished at step 449: no findings." in run("digits.py", "--healthy", f"--logdir={tmp_path}")
