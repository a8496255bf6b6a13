"""Records that were edited, cut off or named by somebody else, and other places where an attack once came through."""

import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_diagnostics import from_folder
from lightning_diagnostics.cli import commands
from lightning_diagnostics.diagnostics.expected_performance import report
from lightning_diagnostics.diagnostics.expected_performance.records import FOLDER, read, write
from lightning_diagnostics.statistics import best_of_n_spread
from tests.diagnostics.expected_performance import made
from tests.diagnostics.expected_performance.models import Scripted, expected, files, fit, record, records, trainer
from tests.diagnostics.expected_performance.test_runs import Elsewhere
from tests.helpers import heard

SCORES = [0.9, 0.91, 0.92, 0.93, 0.94, 0.95]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of six trials."""
    return made.keep(made.trials(SCORES), tmp_path / "runs")


def spoil(folder: Path, text: str) -> Path:
    """Put a file among the records of a sweep that is none; gives its path."""
    place = folder / "odd" / FOLDER / "odd.json"
    place.parent.mkdir(parents=True)
    place.write_text(text)
    return place


def edited(**changes: Any) -> str:
    """A record that somebody has edited; a text that begins with @ goes in as it is, without quotes."""
    text = json.dumps({**made.trial(50, 0.5).to_dict(), **changes})
    for value in (*changes.values(), *changes.get("hyperparameters", {}).values()):
        if isinstance(value, str) and value.startswith("@"):
            text = text.replace(json.dumps(value), value[1:])
    return text


def command(*words: str | Path) -> Any:
    """What the command shows, which ends well and says nothing beside."""
    done = CliRunner().invoke(commands, ["tuning-curve", *map(str, words)])
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


# Files that are no records.


def test_the_command_says_which_record_it_has_left_out(folder: Path) -> None:
    place = spoil(folder, '{"run_id": "cut o')
    text = command(folder)
    assert "6 trials" in text.splitlines()[0]
    assert f"Left out since they cannot be read: 1 record, e.g. {place} is not JSON (" in text
    (curve,) = json.loads(command(folder, "--format", "json"))["curves"]
    assert len(curve["trials"]) == 6
    (unreadable,) = curve["unreadable"]
    assert unreadable.startswith(f"{place} is not JSON (")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"score": 10**400}, "score is 1000"),
        ({"score": "@1e999"}, "is not JSON (1e999 is too large)"),
        ({"score": "@NaN"}, "is not JSON (NaN is no JSON)"),
        ({"seconds": 1e308}, "seconds is 1e+308"),
        ({"beat": 10**400}, "beat is 1000"),
        ({"silence": "@-1e999"}, "is not JSON (-1e999 is too large)"),
        ({"devices": 10**400}, "devices is 1000"),
        ({"pid": 10**400}, "pid is 1000"),
        ({"hyperparameters": {"lr": "@NaN"}}, "is not JSON (NaN is no JSON)"),
        ({"hyperparameters": {"lr": "@1e999"}}, "is not JSON (1e999 is too large)"),
        ({"batch_means": ["a"] * 12}, "batch_means is ['a', 'a'"),
        ({"batch_means": [None]}, "batch_means is [None]"),
        ({"batch_means": [10**400]}, "batch_means is [1000"),
        ({"batch_sizes": [True]}, "batch_sizes is [True]"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_no_run_writes_is_refused_with_the_file_named(changes: dict[str, Any], words: str, folder: Path) -> None:
    place = spoil(folder, edited(**changes))
    found = read(str(folder))
    assert len(found.trials) == 6
    assert list(found.unreadable) == [str(place)]
    assert found.unreadable[str(place)].startswith(words)
    assert len(found.unreadable[str(place)]) < 200
    assert f"{place} {words}" in command(folder)
    json.loads(command(folder, "--format", "json"), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "text", ["", "[1]", edited(score="@1e999"), edited(batch_means=["a"] * 12, batch_sizes=[1] * 12, score=1)]
)
def test_a_record_that_cannot_be_read_is_a_note_at_the_end_of_a_run(text: str, tmp_path: Path) -> None:
    place = spoil(tmp_path / "runs", text)
    callback = expected()
    with heard() as said:
        fit(trainer(callback, tmp_path), Scripted())
    assert [each for each in said if each.levelno > logging.INFO] == []
    (note,) = [found for found in callback.findings if found.code == "EVP901"]
    assert note.message.startswith(f"1 record below {tmp_path / 'runs'} cannot be read; {place}: ")
    assert callback.curve is not None
    assert len(callback.curve.trials) == 1


# Names.


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes there")
def test_a_folder_whose_name_is_no_text_breaks_no_run(tmp_path: Path) -> None:
    last = expected(min_trials=1)
    with heard() as said:
        for number, callback in enumerate((expected(), last)):
            logger = CSVLogger(tmp_path, name="runs", version=os.fsdecode(b"v\xe9_%d" % number))
            fit(trainer(callback, tmp_path, logger=logger), Scripted())
    assert [each for each in said if each.levelno > logging.INFO] == []
    assert last.curve is not None
    assert len(last.curve.trials) == 2
    (note,) = [found for found in last.findings if found.code == "EVP901"]
    assert "cannot be read or drawn (OSError: TensorBoard writes into no folder whose name is not UTF-8" in note.message
    assert "2 trials" in command(tmp_path)


def test_a_name_that_is_no_text_is_shown_and_drawn(folder: Path, tmp_path: Path) -> None:
    write(replace(made.trial(51, 0.99), number=None), str(folder / "v\udce9_1"))
    write(replace(made.trial(52, 0.98), number="\udcff"), str(folder / "other"))
    assert "best 0.99 (v?_1)" in command(folder)
    command(folder, "--tensorboard", tmp_path / "drawn")
    command(folder, "--format", "png", "--output", tmp_path / "curve.png")
    json.loads(command(folder, "--format", "json"))


@pytest.mark.parametrize("odd", ["\x1b[2J\x1b[31mred", "one\ntwo", "\r", "\x07", "\u202eturned"], ids=ascii)
def test_what_moves_the_cursor_is_not_printed(odd: str, tmp_path: Path) -> None:
    known = {"sweep": odd, "hyperparameters": {odd: odd}}
    some = [*made.trials(SCORES, **known), replace(made.trial(60, 0.99, **known), number=odd)]
    some += [made.trial(61, None, "failed", reason=odd, **known)]
    few, many = made.keep(some[5:], tmp_path / f"few{odd}"), made.keep(some, tmp_path / f"many{odd}")
    spoil(many, "{")
    for words in ([few], [many], [many, few, "--min-trials", "1"]):
        shown = command(*words)
        assert all(each.isprintable() for line in shown.split("\n") for each in line)
        assert "one\ntwo" not in shown


# Places.


def test_an_address_of_this_machine_is_written_and_read(tmp_path: Path) -> None:
    address = f"file://{tmp_path}/logs"
    for number in range(2):
        logger = TensorBoardLogger(address, name="runs", version=number)
        fit(trainer(callback := expected(), tmp_path, logger=logger), Scripted((number / 10,)))
        assert "EVP901" not in [found.code for found in callback.findings]
        assert callback.curve is not None
        assert len(callback.curve.trials) == number + 1
    assert [path.parents[1] for path in files(tmp_path)] == [
        tmp_path / "logs/runs/version_0",
        tmp_path / "logs/runs/version_1",
    ]
    assert len(from_folder(address).trials) == len(from_folder(f"{address}/runs/").trials) == 2
    assert command(address).splitlines()[0].startswith("Sweep logs: 2 trials")


def test_a_bucket_may_be_called_as_its_protocol_is(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    try:
        write(made.trial(1, 0.5), "memory://memory-data/a/version_0")
        (found,) = read("memory://memory-data/a").trials
        assert found.folder == "memory://memory-data/a/version_0"
    finally:
        fsspec.filesystem("memory").rm("/memory-data", recursive=True)


def test_where_an_address_has_folders_they_are_made(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    write(made.trial(1, 0.5), f"local://{tmp_path}/runs/version_0")
    assert [path.parents[1] for path in files(tmp_path)] == [tmp_path / "runs" / "version_0"]
    (found,) = read(f"local://{tmp_path}/runs").trials
    assert (found.score, found.folder) == (0.5, f"local://{tmp_path}/runs/version_0")


def test_a_sweep_is_not_compared_with_itself(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    for other in (folder, f"{folder}/", folder / "." / ".." / folder.name, tmp_path / "link"):
        done = CliRunner().invoke(commands, ["tuning-curve", str(folder), str(other)])
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr == f"Error: {str(folder)!r} is given twice: allowed are two different sweeps\n"


def test_a_program_that_goes_elsewhere_keeps_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)

    class Goes(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            os.chdir(elsewhere)

    callback = expected(min_trials=1)
    fit(trainer(callback, tmp_path, Goes(), logger=Elsewhere(tmp_path, "logs", 0)), Scripted())
    assert Path.cwd() == elsewhere
    assert record(tmp_path)["status"] == "completed"
    assert files(tmp_path)[0].parents[1] == tmp_path / "logs" / "version_0"
    assert callback.curve is not None
    assert [each.status for each in callback.curve.trials] == ["completed"]
    assert files(elsewhere) == []


def test_a_curve_that_is_written_again_leaves_no_more_files(folder: Path, tmp_path: Path) -> None:
    command(folder, "--tensorboard", tmp_path / "drawn")
    before = len(list((tmp_path / "drawn").iterdir()))
    command(folder, "--tensorboard", tmp_path / "drawn")
    assert len(list((tmp_path / "drawn").iterdir())) == before == 2


# Numbers.


@pytest.mark.parametrize("largest", [1e154, 1e300, 1e308])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_spread_of_huge_scores_is_a_number(largest: float, mode: Any) -> None:
    small = np.array([0.0, 1.0, 2.0, 5.0, 9.0, 10.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = best_of_n_spread(small * (largest / 10), mode=mode)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found / (largest / 10), best_of_n_spread(small, mode=mode), rtol=1e-9)


def test_the_curve_of_a_search_with_losses_that_blew_up_is_shown(tmp_path: Path) -> None:
    some = made.trials([1.0, 2.0, 3.0, 4.0, 1e300, 1e308], metric="val_loss", mode="min")
    folder = made.keep(some, tmp_path / "runs")
    (curve,) = json.loads(command(folder, "--format", "json"), parse_constant=pytest.fail)["curves"]
    assert [at["n"] for at in curve["curve"]] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(at[name]) for at in curve["curve"] for name in ("mean", "mean_unbiased", "spread"))
    command(folder, "--tensorboard", tmp_path / "drawn")


def test_remarks_count_what_they_name() -> None:
    hour = 3600.0
    silent = [made.trial(10 + n, None, "running", beat=made.NOW - 2 * hour) for n in range(2)]
    gone = made.trial(12, None, "running", beat=made.NOW - 25 * hour)
    broken = made.trial(13, None, "failed", reason="ValueError")
    curve = made.curve([*made.trials(SCORES), *silent, gone, broken])
    lines = report.remarks(curve)
    assert (curve.n_failed, curve.n_lost, len(curve.failures)) == (2, 3, 2)
    assert lines[0].startswith("2 trials failed (killed, ValueError): ")
    assert lines[1] == "3 trials lost: stopped without a word."


# Neighbours.


class Grows(Scripted):
    """Logs a metric more from the second epoch on, for which the logger writes its table anew."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.current_epoch:
            self.log("later", 1.0)
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_a_run_that_ends_does_not_break_another_one_in_the_same_table(tmp_path: Path) -> None:
    """As where two processes that began at the same moment were given the same version."""

    def logger() -> CSVLogger:
        return CSVLogger(tmp_path, name="runs", version="same", flush_logs_every_n_steps=1)

    neighbour = trainer(expected(sweep="a"), tmp_path, logger=logger(), log_every_n_steps=1)

    class Neighbour(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 0:
                fit(neighbour, Scripted())

    run = trainer(expected(sweep="a"), tmp_path, Neighbour(), logger=logger(), log_every_n_steps=1)
    fit(run, Grows())
    table = (tmp_path / "runs" / "same" / "metrics.csv").read_text().splitlines()
    assert sorted(table[0].split(",")) == ["epoch", "later", "step", "val_acc"]
    assert [plain["status"] for plain in records(tmp_path)] == ["completed", "completed"]


def test_a_run_is_complete_for_others_before_its_training_is_torn_down(tmp_path: Path) -> None:
    """Killed while it saves its last checkpoint it has its score."""
    seen: list[str] = []

    class Looks(Callback):
        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(record(tmp_path)["status"])

    fit(trainer(expected(), tmp_path, Looks()), Scripted())
    assert seen == ["completed"]


# Tools around.


class Learns(Scripted):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()


def test_what_the_command_line_notes_for_itself_is_no_hyperparameter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path)}}, "max_epochs": 1}
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of what Lightning calls there
    monkeypatch.setattr(sys, "argv", ["train.py", "--model.lr=0.25"])
    cli = LightningCLI(
        Learns,
        run=False,
        seed_everything_default=False,
        save_config_callback=None,
        trainer_defaults={
            **settings,
            **quiet,
            "callbacks": expected(),
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
        },
    )
    assert "_instantiator" in cli.model.hparams_initial
    fit(cli.trainer, cli.model)
    assert record(tmp_path)["hyperparameters"] == {"lr": 0.25}


@pytest.fixture
def hydra() -> Iterator[Any]:
    """Makes the job of a multirun that runs now."""
    pytest.importorskip("hydra")
    from hydra import compose, initialize
    from hydra.core.hydra_config import HydraConfig

    def job(number: int, *words: str) -> None:
        known = ("hydra.mode=MULTIRUN", f"hydra.job.num={number}", f"hydra.job.id={number}", "hydra.runtime.cwd=.")
        with initialize(version_base=None, config_path=None):
            settings = compose(overrides=[*known, *words], return_hydra_config=True)
        HydraConfig.instance().set_config(settings)

    yield job
    HydraConfig.instance().cfg = None


def test_a_multirun_of_hydra_is_named_by_its_whole_folder(hydra: Any, tmp_path: Path) -> None:
    """Two that are called alike in different folders log into one, since the program does not change its folder."""
    last = {}
    for place in ("out/a/lr", "out/b/lr"):
        for number in range(2):
            hydra(number, f"hydra.sweep.dir={place}")
            last[place] = callback = expected()
            fit(trainer(callback, tmp_path), Scripted((number / 10,)))
    assert {place: (callback.curve.name, len(callback.curve.trials)) for place, callback in last.items()} == {
        "out/a/lr": ("out/a/lr", 2),
        "out/b/lr": ("out/b/lr", 2),
    }
    assert len(from_folder(tmp_path, sweep="out/a/lr").trials) == 2
