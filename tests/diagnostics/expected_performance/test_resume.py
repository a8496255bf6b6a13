"""A resumed run is the same trial; runs that only begin at one checkpoint are trials of their own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_diagnostics.diagnostics.expected_performance.records import read
from tests.diagnostics.expected_performance.models import (
    BATCHES,
    BY_VALUES,
    Scripted,
    expected,
    files,
    fit,
    record,
    records,
    rounded,
    trainer,
)


def first(folder: Path, *, scores: Any = (0.1, 0.5), saved: Any = None, **arguments: Any) -> Path:
    """Train for two epochs; gives the checkpoint of their end."""
    run = fit(trainer(expected(**arguments), folder, max_epochs=2), Scripted(scores, saved=saved))
    run.save_checkpoint(folder / "first.ckpt")
    return folder / "first.ckpt"


def resume(checkpoint: Path, folder: Path, *, scores: Any, saved: Any = None, **arguments: Any) -> Any:
    """Go on for a third epoch; gives the callback."""
    callback = expected(**arguments)
    fit(trainer(callback, folder), Scripted(scores, saved=saved), ckpt_path=str(checkpoint), **BY_VALUES)
    return callback


@pytest.mark.parametrize(("score", "best", "step"), [(0.3, 0.5, 2 * BATCHES - 1), (0.7, 0.7, 3 * BATCHES - 1)])
def test_a_resumed_run_is_the_same_trial(score: float, best: float, step: int, tmp_path: Path) -> None:
    checkpoint = first(tmp_path)
    before = record(tmp_path)
    callback = resume(checkpoint, tmp_path, scores=(score,))
    old, new = files(tmp_path)
    assert (old.parents[1].name, new.parents[1].name) == ("version_0", "version_1")
    assert old.name == new.name
    (trial,) = read(str(tmp_path)).trials
    assert trial.folder == str(new.parents[1])
    assert (trial.run_id, trial.started) == (before["run_id"], before["started"])
    assert (trial.score, trial.score_step, trial.status) == (rounded(best), step, "completed")
    assert trial.seconds > before["seconds"]
    assert len(callback.curve.trials) == 1


def test_in_its_own_folder_it_overwrites_its_record(tmp_path: Path) -> None:
    checkpoint = first(tmp_path)
    logger = CSVLogger(tmp_path, name="runs", version=0)
    with pytest.warns(UserWarning, match="exists and is not empty"):
        fit(trainer(expected(), tmp_path, logger=logger), Scripted((0.7,)), ckpt_path=str(checkpoint))
    assert (record(tmp_path)["score"], record(tmp_path)["status"]) == (rounded(0.7), "completed")


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_that_failed_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    class Fails(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 2:
                raise RuntimeError("a fault")

    saves = ModelCheckpoint(tmp_path / "saved", save_last=True)
    with pytest.raises(RuntimeError, match="a fault"):
        fit(trainer(expected(), tmp_path, saves, Fails(), enable_checkpointing=True), Scripted((0.1, 0.5)))
    before = record(tmp_path)
    assert (before["status"], before["reason"]) == ("failed", "RuntimeError")
    again = trainer(expected(), tmp_path, ModelCheckpoint(tmp_path / "saved"), enable_checkpointing=True)
    fit(again, Scripted((0.3,)), ckpt_path=str(tmp_path / "saved" / "last.ckpt"))
    (trial,) = read(str(tmp_path)).trials
    assert (trial.run_id, trial.status, trial.reason) == (before["run_id"], "completed", "")
    assert trial.score == rounded(0.5)


def test_time_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_diagnostics.diagnostics.expected_performance import recording

    now = [0.0]
    monkeypatch.setattr(recording.time, "monotonic", lambda: now[0])

    class Passes(Scripted):
        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            now[0] += 10.0

    run = fit(trainer(expected(), tmp_path, max_epochs=2), Passes())
    now[0] += 1000.0
    run.save_checkpoint(tmp_path / "first.ckpt")
    assert record(tmp_path)["seconds"] == 20.0 * BATCHES
    now[0] = 5.0  # another process, another clock
    fit(trainer(expected(), tmp_path), Passes(), ckpt_path=str(tmp_path / "first.ckpt"))
    (trial,) = read(str(tmp_path)).trials
    assert trial.seconds == 30.0 * BATCHES


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"saved": {"lr": 0.1}}, {"saved": {"lr": 0.2}}),
        ({"sweep": "a"}, {"sweep": "b"}),
        ({"mode": "max"}, {"mode": "min"}),
        ({"monitor": "val_acc"}, {"monitor": "val_loss"}),
    ],
    ids=("hyperparameters", "sweep", "mode", "metric"),
)
def test_another_trial_that_begins_at_its_checkpoint_is_one_of_its_own(
    before: dict[str, Any], after: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = first(tmp_path, **before)
    resume(checkpoint, tmp_path, scores=(0.3,), **after)
    one, other = records(tmp_path)
    assert one["run_id"] != other["run_id"]
    assert (one["score"], other["score"]) in [
        (rounded(0.5), rounded(0.3)),
        (rounded(0.5), None),  # of a metric that is not logged
    ]


def test_another_seed_is_another_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    checkpoint = first(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "2")
    resume(checkpoint, tmp_path, scores=(0.3,))
    assert [(plain["seed"], plain["score"]) for plain in records(tmp_path)] == [(1, rounded(0.5)), (2, rounded(0.3))]


def test_settings_that_a_file_does_not_tell_apart_are_the_same(tmp_path: Path) -> None:
    saved = {"betas": (0.9, 0.999), "rate": torch.tensor(0.1), "layers": {"a": [1, 2]}}
    checkpoint = first(tmp_path, saved=saved)
    resume(checkpoint, tmp_path, scores=(0.3,), saved={**saved, "rate": torch.tensor(0.1)})
    assert len(read(str(tmp_path)).trials) == 1


def test_many_trials_from_one_checkpoint(tmp_path: Path) -> None:
    checkpoint = first(tmp_path / "pretraining", monitor="val_loss")
    for number in range(3):
        resume(checkpoint, tmp_path / "tuning", scores=(0.3,), saved={"lr": number})
    found = read(str(tmp_path / "tuning")).trials
    assert len({trial.run_id for trial in found}) == 3
    assert [trial.hyperparameters["lr"] for trial in found] == [0, 1, 2]


def test_from_the_checkpoint_of_a_completed_run_it_goes_on(tmp_path: Path) -> None:
    checkpoint = first(tmp_path)
    assert torch.load(checkpoint, weights_only=True)["callbacks"]  # by plain values alone
    before = record(tmp_path)
    resume(checkpoint, tmp_path, scores=(0.7,))
    (trial,) = read(str(tmp_path)).trials  # the newer of one trial
    assert (trial.run_id, trial.score, trial.resumed_step) == (before["run_id"], rounded(0.7), 2 * BATCHES - 1)


def test_trials_that_differ_in_nothing_that_is_saved_are_told_apart_by_where_they_departed(tmp_path: Path) -> None:
    checkpoint = first(tmp_path)
    for score in (0.6, 0.9, 0.7, 0.3):
        callback = resume(checkpoint, tmp_path, scores=(score,))
    found = read(str(tmp_path)).trials
    # Each has the best of its way, of which the epochs before the checkpoint are a part.
    assert sorted(trial.score for trial in found) == [rounded(0.5), rounded(0.6), rounded(0.7), rounded(0.9)]
    assert len({trial.run_id for trial in found}) == 4
    assert len(callback.curve.trials) == 4


def test_a_copy_of_a_folder_is_no_trial(tmp_path: Path) -> None:
    resume(first(tmp_path), tmp_path, scores=(0.7,))
    shutil.copytree(tmp_path / "runs" / "version_1", tmp_path / "kept" / "version_1")
    assert [trial.score for trial in read(str(tmp_path)).trials] == [rounded(0.7)]


def test_a_run_that_was_killed_beyond_its_checkpoint_goes_on_as_one_trial(tmp_path: Path) -> None:
    checkpoint = first(tmp_path)
    former = resume(checkpoint, tmp_path, scores=(0.9,)).trial
    for path in files(tmp_path):
        plain = json.loads(path.read_text())
        if plain["last_step"] == former.last_step:
            path.write_text(json.dumps({**plain, "status": "running"}))
    resume(checkpoint, tmp_path, scores=(0.6,))
    (trial,) = read(str(tmp_path)).trials
    assert trial.score == rounded(0.6)


def test_a_checkpoint_after_the_run_holds_it_as_completed(tmp_path: Path) -> None:
    states = torch.load(first(tmp_path), weights_only=True)["callbacks"]
    (state,) = (value for name, value in states.items() if "ExpectedValidationPerformance" in name)
    plain = record(tmp_path)
    assert state["room"]["trial"] == plain


def test_a_second_fit_goes_on_with_the_same_record(tmp_path: Path) -> None:
    module = Scripted((0.1, 0.5, 0.3, 0.8))
    run = fit(trainer(expected(), tmp_path), module)
    before = record(tmp_path)
    run.fit_loop.max_epochs = 4
    fit(run, module)
    after = record(tmp_path)
    assert after["run_id"] == before["run_id"]
    assert (after["score"], after["score_step"]) == (rounded(0.8), 4 * BATCHES - 1)
    assert after["seconds"] > before["seconds"]


def test_the_same_callback_in_a_second_trainer_is_a_new_trial(tmp_path: Path) -> None:
    callback = expected()
    for scores in ((0.5,), (0.3,)):
        fit(trainer(callback, tmp_path), Scripted(scores))
    one, other = records(tmp_path)
    assert one["run_id"] != other["run_id"]
    assert (one["score"], other["score"]) == (rounded(0.5), rounded(0.3))
    assert other["seconds"] < one["seconds"] + other["seconds"]
    assert len(callback.curve.trials) == 2  # pyright: ignore[reportOptionalMemberAccess]


def test_a_state_without_a_record_is_a_new_trial(tmp_path: Path) -> None:
    run = fit(trainer(None, tmp_path, max_epochs=2), Scripted((0.1, 0.5)))
    run.save_checkpoint(tmp_path / "first.ckpt")
    resume(tmp_path / "first.ckpt", tmp_path, scores=(0.3,))
    assert record(tmp_path)["score"] == rounded(0.3)


def test_a_record_of_a_later_version_in_a_checkpoint_does_not_end_the_run(tmp_path: Path) -> None:
    checkpoint = first(tmp_path)
    whole = torch.load(checkpoint, weights_only=True)
    for name, value in whole["callbacks"].items():
        if "ExpectedValidationPerformance" in name:
            value["room"]["trial"] |= {"version": 9, "more": [1], "status": "paused"}
    torch.save(whole, checkpoint)
    resume(checkpoint, tmp_path, scores=(0.3,))
    assert len(records(tmp_path)) == 2
    assert records(tmp_path)[1]["score"] == rounded(0.3)
