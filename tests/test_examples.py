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


def found(run: Path) -> set[tuple[str, str, str]]:
    """Code, place and severity of all that was found in a run."""
    lines = (run / "version_0/findings.jsonl").read_text(encoding="utf-8").splitlines()
    return {(event["code"], event["where"], event["severity"]) for event in map(json.loads, lines)}


def shown(marker: str) -> list[str]:
    """The lines of a block of the README."""
    block = re.search(rf"<!-- {marker}: begin -->\n```text\n(.*?)\n```", README, re.DOTALL)
    assert block is not None
    return block[1].splitlines()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder of short runs of the digits programs, and what each wrote to the terminal."""
    folder = tmp_path_factory.mktemp("digits")
    terminal = run(
        "digits.py", "healthy", "leaking", "--epochs=1", f"--logdir={folder}", f"--plot={folder / 'memory.png'}"
    )
    healthy, leaking = re.split(r"(?<=no findings\.)", terminal, maxsplit=1)
    dying = run("digits.py", "dying", "--epochs=4", f"--logdir={folder}")
    terminals = {"healthy": healthy, "leaking": leaking, "dying": dying, "accuracies": terminal}
    for name in ("normed", "forgetting", "forgotten"):
        terminals[name] = run("digits.py", name, "--epochs=1", f"--logdir={folder}")
    terminals["overfitting"] = run("digits.py", "overfitting", "--epochs=8", f"--logdir={folder}")
    return folder, terminals


def test_every_example_is_tested() -> None:
    examples = {"digits.py", "digits_cli.py", "search.py", "transformer.py"}
    assert {path.name for path in (REPOSITORY / "examples").glob("*.py")} == examples


def test_digits_finds_its_leak(digits: tuple[Path, dict[str, str]]) -> None:
    assert found(digits[0] / "leaking") == {("MEM101", "model.norm_sum", "WARNING")}


def test_digits_finds_its_dead_layer(digits: tuple[Path, dict[str, str]]) -> None:
    assert found(digits[0] / "dying") == {("ACT101", "head/relu", "WARNING")}


def test_digits_finds_its_validation_in_training_mode(digits: tuple[Path, dict[str, str]]) -> None:
    assert found(digits[0] / "forgetting") == {
        ("BN101", "features.1", "ERROR"),
        ("BN101", "head.conv.1", "ERROR"),
        ("BN107", "features.1", "WARNING"),
    }


def test_digits_finds_its_layer_that_no_optimizer_has(digits: tuple[Path, dict[str, str]]) -> None:
    assert found(digits[0] / "forgotten") == {("GRD103", "features", "WARNING")}


def test_digits_finds_its_overfitting(digits: tuple[Path, dict[str, str]]) -> None:
    assert found(digits[0] / "overfitting") == {("GAP101", "val_loss", "WARNING")}


def test_digits_prints_the_lines_that_the_readme_shows(digits: tuple[Path, dict[str, str]]) -> None:
    leak, death, mode, untrained, onset = shown("output")
    wrong, fix = re.split(r"(?= Fix: )", leak)  # between them stands the share of memory, where it is worth a word
    assert [line for line in digits[1]["leaking"].splitlines() if line.startswith(wrong) and line.endswith(fix)]
    numbers = re.compile(r"\d+(?=[ %)])")  # of this run: another processor rounds otherwise
    lines = [numbers.sub("#", line) for line in digits[1]["dying"].splitlines()]
    assert numbers.sub("#", death) in lines
    assert mode in digits[1]["forgetting"].splitlines()
    assert untrained in digits[1]["forgotten"].splitlines()
    numbers = re.compile(r"\d+\.\d+")
    lines = [numbers.sub("#", line) for line in digits[1]["overfitting"].splitlines()]
    assert numbers.sub("#", onset) in lines


def test_digits_mended_has_no_findings(digits: tuple[Path, dict[str, str]]) -> None:
    for name in ("healthy", "normed"):
        assert not (digits[0] / name / "version_0/findings.jsonl").exists()
        assert "WARNING" not in digits[1][name]
    assert "WARNING" in digits[1]["leaking"]
    assert "WARNING" in digits[1]["dying"]
    assert "WARNING" in digits[1]["forgotten"]


def test_digits_draws_the_memory(digits: tuple[Path, dict[str, str]]) -> None:
    assert (digits[0] / "memory.png").stat().st_size > 10_000


def test_digits_learns_the_same_with_and_without_the_leak(digits: tuple[Path, dict[str, str]]) -> None:
    accuracies = dict(re.findall(r"^(\w+): val_acc (\S+)$", digits[1]["accuracies"], re.MULTILINE))
    assert accuracies["healthy"] == accuracies["leaking"]


def test_digits_knows_its_networks() -> None:
    command = [sys.executable, REPOSITORY / "examples/digits.py", "sick"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "sick: allowed are healthy, leaking, dying, normed, forgetting, forgotten" in done.stderr


@pytest.mark.slow
def test_digits_finds_nothing_without_the_mistakes_in_ten_epochs(tmp_path: Path) -> None:
    said = run("digits.py", "healthy", "normed", f"--logdir={tmp_path}")
    assert said.count("Run finished at step 449: no findings.") == 2


def test_digits_cli_trains_and_says_nothing_of_us(tmp_path: Path) -> None:
    config = REPOSITORY / "examples/digits_cli.yaml"
    said = run("digits_cli.py", "fit", f"--config={config}", f"--trainer.default_root_dir={tmp_path}")
    assert "max_epochs=5` reached" in said
    assert "diagnos" not in said
    assert not list(tmp_path.rglob("*.json*"))


def test_digits_cli_knows_nothing_of_us() -> None:
    for name in ("digits_cli.py", "digits_cli.yaml"):
        text = (REPOSITORY / "examples" / name).read_text(encoding="utf-8")
        assert "lightning_diagnostics" not in text


def test_transformer_warms_up_over_a_tenth_of_the_run_and_draws_both(tmp_path: Path) -> None:
    said = run("transformer.py", "--steps=30", f"--logdir={tmp_path}", f"--plot={tmp_path / 'warmup.png'}")
    assert re.findall(r"^(\w+): largest loss of the first tenth \S+ times the first, ", said, re.MULTILINE) == [
        "plain",
        "warmup",
    ]
    assert "AdamW: no warmup, 1-sqrt cooldown from 24 to 30" in said
    assert "AdamW: linear warmup over 3 steps (a tenth of the run), 1-sqrt cooldown from 24 to 30" in said
    assert (tmp_path / "warmup.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 3])
def test_transformer_spikes_without_a_warmup_and_not_with_it(seed: int, tmp_path: Path) -> None:
    said = run("transformer.py", f"--seed={seed}", f"--logdir={tmp_path}")
    spikes = dict(re.findall(r"^(\w+): largest loss of the first tenth (\S+) times the first, ", said, re.MULTILINE))
    assert float(spikes["plain"]) > 2
    assert float(spikes["warmup"]) < 1.05


def test_search_has_the_same_curve_of_its_records_and_of_its_study(tmp_path: Path) -> None:
    said = run("search.py", "--trials=6", f"--logdir={tmp_path}")
    heads = re.findall(r"^Sweep digits: 6 trials, val_acc \(max\), best (\S+) \(trial (\d)\); .*$", said, re.MULTILINE)
    assert len(heads) == 2
    assert heads[0] == heads[1]
    assert "They agree; only Optuna's times are longer." in said
    records = [json.loads(path.read_text("utf-8")) for path in tmp_path.glob("digits/*/expected_performance/*.json")]
    assert sorted(record["number"] for record in records) == list("012345")
    assert {record["sweep_from"] for record in records} == {"Optuna"}
    assert len({record["pid"] for record in records}) == 2


@pytest.mark.slow
def test_search_has_trials_that_fail_by_nature(tmp_path: Path) -> None:
    said = run("search.py", f"--logdir={tmp_path}")
    (records, study) = re.findall(r"^(\d) trials? failed \((?:\d x )?(?:FloatingPointError|FAIL)\)", said, re.MULTILINE)
    assert records == study
    assert int(records) >= 1
    assert "They agree; only Optuna's times are longer." in said
