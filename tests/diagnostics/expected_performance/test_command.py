"""The command ``lightning-diagnostics tuning-curve`` as a user has it: records on disk, files, exit statuses."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_diagnostics import from_folder
from lightning_diagnostics.cli import commands
from lightning_diagnostics.diagnostics.expected_performance.comparison import compare
from lightning_diagnostics.diagnostics.expected_performance.curve import TuningCurve
from tests.diagnostics.expected_performance.made import keep, trial, trials
from tests.test_cli import bad, good

HOUR = 3600.0
GOOD = [0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.9, 0.9]
POOR = [0.1, 0.2, 0.15, 0.12, 0.1, 0.2, 0.21, 0.18] * 8
SERIES = {"median": "median", "median_low": "low", "median_high": "high"} | {
    name: name for name in ("mean", "mean_unbiased", "spread")
}


def named(some: list[Any], sweep: str | None = None) -> list[Any]:
    """Trials of a sweep, each with a name of its own."""
    return [replace(each, sweep=sweep, run_id=f"{sweep}-{each.run_id}") for each in some]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of eight trials, and one that failed."""
    return keep([*trials(GOOD, seconds=HOUR), trial(20, None, "failed", reason="ValueError")], tmp_path / "good")


@pytest.fixture
def poor(tmp_path: Path) -> Path:
    return keep(trials(POOR, seconds=HOUR), tmp_path / "poor")


def asked(*words: str | Path) -> Any:
    """The command in this process, which is quicker: exit status, output, what went wrong."""
    return CliRunner().invoke(commands, ["tuning-curve", *map(str, words)])


def said(*words: str | Path) -> str:
    """What the command says where it fails."""
    done = asked(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    return done.stderr.removesuffix("\n")


# What it shows.


def test_the_installed_command_prints_the_curve_of_a_folder(folder: Path) -> None:
    assert good("tuning-curve", folder) == f"{from_folder(folder)}\n"
    assert good("tuning-curve", folder).startswith("Sweep good: 9 trials, val_acc (max), best 0.95 (trial 5); ")
    assert bad("tuning-curve", folder / "none") == f"Error: folder {str(folder / 'none')!r}: no such folder"


def test_neither_torch_nor_lightning_is_loaded(folder: Path, poor: Path, tmp_path: Path) -> None:
    every = [
        [folder],
        [folder, poor, "--format", "json"],
        [folder, "--format", "png", "--output", tmp_path / "x.png", "--tensorboard", tmp_path / "x"],
    ]
    code = f"""
import sys
from lightning_diagnostics.cli import commands
for words in {[[*map(str, words)] for words in every]!r}:
    commands(["tuning-curve", *words], standalone_mode=False)
assert not {{"torch", "lightning", "pytorch_lightning", "torchmetrics"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_for_programs_there_is_nothing_but_json(folder: Path) -> None:
    found = json.loads(asked(folder, "--format", "json").stdout)
    (curve,) = found["curves"]
    assert (found["comparison"], curve) == (None, json.loads(json.dumps(from_folder(folder).to_dict())))


def test_options_are_those_of_the_curve(folder: Path) -> None:
    words = ["--failed", "0.1", "--confidence", "0.9", "--band", "ks", "--min-trials", "3"]
    (curve,) = json.loads(asked(folder, "--format", "json", *words).stdout)["curves"]
    assert curve["scores"] == [*GOOD, 0.1]
    assert [curve[name] for name in ("failed", "confidence", "band", "min_trials")] == [0.1, 0.9, "ks", 3]
    (curve,) = json.loads(asked(folder, "--format", "json", "--failed", "drop").stdout)["curves"]
    assert (curve["failed"], curve["n_trials"]) == ("drop", 8)


def test_a_picture_goes_to_a_file_or_to_the_standard_output(folder: Path, tmp_path: Path) -> None:
    assert asked(folder, "--format", "png", "--output", tmp_path / "a.png").stdout == ""
    content = (tmp_path / "a.png").read_bytes()
    assert Image.open(io.BytesIO(content)).format == "PNG"
    for output in ([], ["--output", "-"]):
        assert asked(folder, "--format", "png", *output).stdout_bytes == content


def test_text_and_json_go_to_a_file_if_one_is_named(folder: Path, tmp_path: Path) -> None:
    for form in ("text", "json"):
        printed = asked(folder, "--format", form).stdout
        assert asked(folder, "--format", form, "--output", tmp_path / form).stdout == ""
        assert (tmp_path / form).read_text(encoding="utf-8") == printed


def test_a_metric_a_mode_or_a_sweep_is_chosen(tmp_path: Path) -> None:
    others = [
        *trials([0.5] * 6, metric="val_loss", mode="min"),
        *trials([0.7] * 7, metric="val_loss", mode="max"),
        *trials(GOOD),
        *(replace(each, sweep="other") for each in trials([0.6] * 5)),
    ]
    keep([replace(each, run_id=f"run-{place}") for place, each in enumerate(others)], tmp_path)
    none, loss = ["--sweep", ""], ["--metric", "val_loss"]
    for words, count in (
        ([*none, *loss, "--mode", "min"], 6),
        ([*none, *loss, "--mode", "max"], 7),
        ([*none, "--metric", "val_acc"], 8),
        (["--sweep", "other"], 5),
    ):
        (curve,) = json.loads(asked(tmp_path, "--format", "json", *words).stdout)["curves"]
        assert len(curve["scores"]) == count
    assert asked(tmp_path, "--sweep", "other").stdout.startswith("Sweep other: 5 trials, ")


def test_files_that_are_no_records_are_left_out_and_said(folder: Path) -> None:
    before = asked(folder).stdout.splitlines()
    for name, content in (("a", ""), ("b", "{"), ("c", "[]"), ("d", '{"run_id": 3}')):
        (folder / "version_0" / "expected_performance" / f"{name}.json").write_text(content)
    headline, said, *rest = asked(folder).stdout.splitlines()
    assert [headline, *rest] == before
    assert said.startswith("Left out since they cannot be read: 4 records, e.g. ")
    assert "a.json is not JSON" in said


# Two sweeps.


def test_two_folders_are_compared(folder: Path, poor: Path) -> None:
    lead = str(compare(from_folder(folder), from_folder(poor)))
    assert "At equal budget good beats poor from n = " in lead
    assert asked(folder, poor).stdout == f"{from_folder(folder)}\n\n{from_folder(poor)}\n\n{lead}\n"
    found = json.loads(asked(folder, poor, "--format", "json").stdout)
    assert [curve["name"] for curve in found["curves"]] == ["good", "poor"]
    assert found["comparison"]["words"] == lead
    assert {each["winner"] for each in found["comparison"]["by_trials"]} == {"good"}
    assert {each["winner"] for each in found["comparison"]["by_hours"]} == {"good"}


def test_two_sweeps_of_one_folder_are_compared(tmp_path: Path) -> None:
    keep([*named(trials(GOOD), "A"), *named(trials(POOR), "B")], tmp_path)
    words = asked(tmp_path, "--sweep", "A", "--sweep", "B").stdout
    assert words.startswith("Sweep A: 8 trials")
    assert "\n\nSweep B: 64 trials" in words
    assert "At equal budget A beats B from n = " in words
    assert asked(tmp_path, tmp_path, "--sweep", "A", "--sweep", "B").stdout == words


def test_two_folders_of_one_name_are_told_by_their_paths(folder: Path, poor: Path, tmp_path: Path) -> None:
    for place, source in (("a", folder), ("b", poor)):
        (tmp_path / place).mkdir()
        source.rename(tmp_path / place / "logs")
    one, other = tmp_path / "a" / "logs", tmp_path / "b" / "logs"
    assert f"At equal budget {one} beats {other} from n = " in asked(one, other).stdout
    assert asked(one, other, "--tensorboard", tmp_path / "out").exit_code == 0
    found = [read(each) for each in sorted((tmp_path / "out").iterdir())]
    assert [each.Scalars("evp/mean")[0].value > 0.5 for each in found] == [True, False]


# TensorBoard.


def read(folder: Path) -> EventAccumulator:
    """What TensorBoard has of the only run in a folder."""
    events = EventAccumulator(str(folder), {"scalars": 0, "images": 0, "tensors": 0})
    return events.Reload()


def check(folder: Path, curve: TuningCurve) -> None:
    """The scalars, the table and the picture of a run are those of a curve."""
    events = read(folder)
    assert events.Tags()["images"] == ["evp/tuning_curve"]
    assert Image.open(io.BytesIO(events.Images("evp/tuning_curve")[0].encoded_image_string)).format
    (table,) = events.Tensors("evp/table/text_summary")
    assert curve.metric in table.tensor_proto.string_val[0].decode()
    for tag, name in SERIES.items():
        drawn = {event.step: event.value for event in events.Scalars(f"evp/{tag}")}
        known = {n: value for n, value in enumerate(getattr(curve, name), start=1) if value is not None}
        assert {n: drawn[n] for n in known} == pytest.approx(known, rel=1e-6)
        assert all(drawn[n] != drawn[n] for n in drawn.keys() - known)  # NaN: TensorBoard draws nothing there
    times = [event.wall_time for event in events.Scalars("evp/mean")]
    hours = curve.hours_per_trial or 0.0
    assert [later - times[0] for later in times] == pytest.approx(
        [3600 * hours * n for n in range(len(times))], abs=0.01
    )


def test_tensorboard_reads_the_curve_back(folder: Path, tmp_path: Path) -> None:
    words = asked(folder, "--tensorboard", tmp_path / "out").stdout
    assert words == asked(folder).stdout
    check(tmp_path / "out", from_folder(folder))


def test_tensorboard_has_a_run_for_each_of_two_sweeps(folder: Path, poor: Path, tmp_path: Path) -> None:
    assert asked(folder, poor, "--tensorboard", tmp_path / "out").exit_code == 0
    for place in (folder, poor):
        check(tmp_path / "out" / place.name, from_folder(place))


def test_too_few_scores_are_a_table_in_tensorboard(tmp_path: Path) -> None:
    keep(trials(GOOD[:3]), tmp_path / "runs")
    asked(tmp_path / "runs", "--tensorboard", tmp_path / "out")
    events = read(tmp_path / "out")
    assert events.Tags()["scalars"] == []
    assert (
        b"Too few scores for a curve (3 of 5)" in events.Tensors("evp/table/text_summary")[0].tensor_proto.string_val[0]
    )


# What goes wrong.


def test_a_folder_without_a_record_is_said(tmp_path: Path) -> None:
    words = f"Error: folder {str(tmp_path)!r} has no record of a run below it: see ExpectedValidationPerformance"
    assert said(tmp_path) == words
    torn = tmp_path / "version_0" / "expected_performance" / "x.json"
    torn.parent.mkdir(parents=True)
    torn.write_text("{")
    assert said(tmp_path) == words.replace(": see", " (1 files are no records): see")


def test_what_there_is_to_choose_from_is_named(tmp_path: Path) -> None:
    some = [*trials(GOOD[:2]), replace(trial(5, 0.3), metric="val_f1"), replace(trial(6, 0.3), mode="min")]
    keep(some, tmp_path)
    head = f"Error: the runs below {str(tmp_path)!r} have more than one"
    assert said(tmp_path) == f"{head} metric: allowed is metric= one of 'val_acc' (3), 'val_f1' (1)"
    assert said(tmp_path, "--metric", "val_acc") == f"{head} mode: allowed is mode= one of 'max' (2), 'min' (1)"
    allowed = f"allowed for the runs below {str(tmp_path)!r} is one of"
    assert said(tmp_path, "--metric", "acc") == f"Error: metric='acc': {allowed} 'val_acc' (3), 'val_f1' (1)"
    assert said(tmp_path, "--sweep", "x") == f"Error: sweep='x': {allowed} '' (no sweep: 4)"
    keep(named(trials(GOOD), "A"), tmp_path / "more")
    assert said(tmp_path) == f"{head} sweep: allowed is sweep= one of '' (no sweep: 4), 'A' (8)"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--failed", "best"], "--failed 'best': allowed are 'worst', 'drop', and a number"),
        (
            ["--failed", "nan"],
            "failed=nan: allowed are 'worst', 'drop', and a finite number, the score it counts as",
        ),
        (["--confidence", "1"], "confidence=1.0: allowed is more than 0 and less than 1"),
        (["--confidence", "nan"], "confidence=nan: allowed is more than 0 and less than 1"),
    ],
)
def test_an_option_that_is_not_allowed_is_quoted(folder: Path, words: list[str], error: str) -> None:
    assert said(folder, *words) == f"Error: {error}"


def test_at_most_two_sweeps_are_compared(folder: Path, poor: Path) -> None:
    three = "Error: 3 sweeps are given: allowed are one, or two to compare"
    assert said(folder, poor, folder) == three
    assert said(folder, "--sweep", "a", "--sweep", "b", "--sweep", "c") == three
    odd = "Error: --sweep is given 1 times: allowed is as often as there are folders, or never"
    assert said(folder, poor, "--sweep", "a") == odd


def test_sweeps_that_cannot_be_compared_are_said(folder: Path, tmp_path: Path) -> None:
    keep(trials(POOR, metric="val_f1"), tmp_path / "other")
    keep(trials(POOR[:2]), tmp_path / "short")
    words = "'good' has 'val_acc' (max) and 'other' has 'val_f1' (max): allowed are two sweeps of one metric and mode"
    assert said(folder, tmp_path / "other") == f"Error: {words}"
    assert said(folder, tmp_path / "short") == "Error: 'short' has 2 scores: allowed is 5 or more (min_trials)"


def test_what_cannot_be_written_is_said(folder: Path, tmp_path: Path) -> None:
    for form in ("text", "json", "png"):
        words = said(folder, "--format", form, "--output", tmp_path / "none" / "x")
        assert (
            words == f"Error: --output {str(tmp_path / 'none' / 'x')!r} cannot be written (No such file or directory)"
        )
    (tmp_path / "file").write_text("")
    words = f"Error: --tensorboard {str(tmp_path / 'file')!r} cannot be written (File exists)"
    assert said(folder, "--tensorboard", tmp_path / "file") == words


def test_without_matplotlib_it_is_said_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert said(folder, "--format", "png") == "Error: a picture needs matplotlib: pip install matplotlib"
    assert asked(folder).exit_code == 0


@pytest.mark.parametrize(
    "words",
    [[], ["--format", "svg"], ["--mode", "up"], ["--band", "bca"], ["--min-trials", "0"], ["--confidence", "x"]],
)
def test_misuse_is_two(folder: Path, words: list[str]) -> None:
    assert asked(*([folder] if words else []), *words).exit_code == 2
