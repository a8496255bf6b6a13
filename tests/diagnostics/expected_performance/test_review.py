"""What reviewers have found wrong once: each in the smallest set-up that shows it."""

import enum
import io
import json
import math
import os
import sys
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightning_diagnostics.diagnostics.expected_performance import alive, records
from lightning_diagnostics.diagnostics.expected_performance.alive import here, is_alive, is_certain, is_lost
from lightning_diagnostics.diagnostics.expected_performance.comparison import compare
from lightning_diagnostics.diagnostics.expected_performance.engines import from_folder
from lightning_diagnostics.diagnostics.expected_performance.measure import Lead, Reading
from lightning_diagnostics.diagnostics.expected_performance.reading import reading, standing
from lightning_diagnostics.diagnostics.expected_performance.rules import (
    Limits,
    best_within_noise,
    failed_trials,
    too_few_trials,
)
from lightning_diagnostics.diagnostics.expected_performance.sweeps import VARIABLE
from lightning_diagnostics.diagnostics.expected_performance.trials import Trial
from lightning_diagnostics.diagnostics.expected_performance.values import plain
from lightning_diagnostics.findings import Diagnosis
from tests.diagnostics.expected_performance.made import curve, keep, trial, trials
from tests.diagnostics.expected_performance.models import (
    BATCHES,
    BY_VALUES,
    VALIDATED,
    Scripted,
    expected,
    files,
    fit,
    record,
    rounded,
    trainer,
)
from tests.diagnostics.expected_performance.models import (
    records as recorded,
)

DAY = 24 * 3600.0
HOUR = 3600.0
SCORES = [0.5, 0.7, 0.4, 0.6, 0.8]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine is around."""
    for name in (VARIABLE, "WANDB_SWEEP_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("wandb", "ray.tune", "hydra.core.hydra_config"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def raising(error: BaseException, after: int = 0) -> Callable[[], None]:
    """Raises an error, after so many calls without one."""
    left = [after]

    def act() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise error

    return act


# A resumed run is one trial.


class Late(SingleDeviceStrategy):
    """Restores a checkpoint when the run is set up, as strategies that shard do."""

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True


@pytest.mark.filterwarnings("ignore:.*exists and is not empty")
@pytest.mark.parametrize("version", [0, 1])
def test_a_run_that_is_restored_late_goes_on_with_its_record(version: int, tmp_path: Path) -> None:
    run = fit(trainer(expected(), tmp_path, max_epochs=2, strategy=Late(device="cpu")), Scripted((0.1, 0.5)))
    before = record(tmp_path)
    run.save_checkpoint(tmp_path / "first.ckpt")
    callback: Any = expected()
    logger = CSVLogger(tmp_path, name="runs", version=version)
    again = trainer(callback, tmp_path, logger=logger, strategy=Late(device="cpu"))
    fit(again, Scripted((0.3,)), ckpt_path=str(tmp_path / "first.ckpt"), **BY_VALUES)
    assert [path.name for path in files(tmp_path)] == [f"{before['run_id']}.json"] * (1 + version)
    assert len(callback.curve.trials) == 1
    (trial,) = callback.curve.trials
    assert (trial.status, trial.score, trial.started) == ("completed", rounded(0.5), before["started"])
    assert trial.seconds > before["seconds"]


def test_a_run_that_is_restored_late_from_another_trial_keeps_its_own_record(tmp_path: Path) -> None:
    run = fit(trainer(expected(), tmp_path, max_epochs=2, strategy=Late(device="cpu")), Scripted(saved={"lr": 0.1}))
    run.save_checkpoint(tmp_path / "first.ckpt")
    callback: Any = expected()
    other = trainer(callback, tmp_path, strategy=Late(device="cpu"))
    fit(other, Scripted((0.3,), saved={"lr": 0.2}), ckpt_path=str(tmp_path / "first.ckpt"), **BY_VALUES)
    assert len({path.name for path in files(tmp_path)}) == 2
    assert [each.score for each in callback.curve.trials] == [rounded(0.5), rounded(0.3)]


# Signs of life.


def running(beat: float = 0.0, **more: Any) -> Trial:
    """A trial that says that it runs."""
    return trial(7, None, "running", **{"beat": beat, **more})


needs_proc = pytest.mark.skipif(not here()["kernel"], reason="this system does not tell of processes")


@needs_proc
@pytest.mark.parametrize("silent", [2 * HOUR, 2 * DAY, 365 * DAY])
def test_a_process_that_lives_is_never_lost_however_long_it_is_silent(silent: float) -> None:
    now = time.time()
    mine, another = running(now - silent, **here()), running(now - silent)
    assert [is_lost(each, now=now, silence=1800.0) for each in (mine, another)] == [False, True]
    found = curve([*trials(SCORES), mine], now=now)
    assert (found.n_running, found.n_lost, found.n_failed, found.n_trials) == (1, 0, 0, 5)


@needs_proc
def test_a_process_whose_entry_is_hidden_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = running(**here())
    assert is_alive(mine) is True
    monkeypatch.setattr(alive, "_process", lambda pid: ("", 0))
    assert is_alive(mine) is None
    assert not is_lost(mine, now=1799.0, silence=1800.0)
    assert is_lost(mine, now=1801.0, silence=1800.0)
    assert not is_certain(mine, now=DAY - 1)
    assert is_alive(running(**{**here(), "pid": 2**22 + 1})) is False  # it is gone, whatever may be hidden


@needs_proc
def test_a_process_of_another_user_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = running(**here())

    def refuse(pid: int, signal: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(alive.os, "kill", refuse)
    assert is_alive(theirs) is True
    monkeypatch.setattr(alive, "_process", lambda pid: ("", 0))
    assert is_alive(theirs) is None


def test_where_the_system_does_not_tell_of_processes_silence_alone_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive, "_kernel", lambda: "")
    monkeypatch.setattr(alive, "_process", lambda pid: ("", 0))
    monkeypatch.setattr(alive.os, "kill", lambda pid, signal: pytest.fail("on Windows that would end the process"))
    for pid in (os.getpid(), 2**22 + 1):
        sibling = running(**{**here(), "pid": pid})
        assert is_alive(sibling) is None
        assert not is_lost(sibling, now=1799.0, silence=1800.0)
        assert is_lost(sibling, now=1801.0, silence=1800.0)
        assert [is_certain(sibling, now=now) for now in (DAY - 1, DAY + 1)] == [False, True]


# The lead of the best trial.

READING = Reading(
    step=0,
    metric="val_acc",
    mode="max",
    scored=5,
    needed=5,
    failed=(),
    lost=(),
    gone=0,
    silent=0.0,
    others={},
    spaces={},
    searches=(),
    tested=0,
    total=5,
    best="a",
    leads=(),
)
PARTS = tuple(0.5 + 0.001 * (number % 3) for number in range(12))
HIGHER = tuple(0.6 + 0.001 * (number % 4) for number in range(12))


@pytest.mark.parametrize(
    ("mode", "best", "other", "is_said"),
    [
        ("max", HIGHER, PARTS, False),
        ("max", PARTS, HIGHER, True),
        ("min", PARTS, HIGHER, False),
        ("min", HIGHER, PARTS, True),
    ],
)
def test_parts_that_contradict_the_lead_do_not_tell_trials_apart(
    mode: Any, best: tuple[float, ...], other: tuple[float, ...], is_said: bool
) -> None:
    lead = Lead("b", 0.1, (best, other, (8.0,) * 12), None, 96)
    found = best_within_noise.check(replace(READING, mode=mode, leads=(lead,)), Limits())
    assert isinstance(found, Diagnosis) is is_said
    if isinstance(found, Diagnosis):  # an advantage of the best is positive, and this is none
        low, high = (float(str(found.evidence[name])) for name in ("interval low", "interval high"))
        assert -0.11 < low < high < -0.09


@pytest.mark.parametrize(("processes", "parts"), [(1, 2), (2, 0)])
def test_of_several_processes_no_parts_are_kept(processes: int, parts: int, tmp_path: Path) -> None:
    strategy = SingleDeviceStrategy(device="cpu")
    strategy.world_size = processes  # what Lightning tells of a job, without starting one
    fit(trainer(expected(), tmp_path, strategy=strategy), Scripted())
    assert record(tmp_path)["score"] == rounded(0.5)
    assert len(record(tmp_path)["batch_means"]) == len(record(tmp_path)["batch_sizes"]) == parts


def rivals(parts: list[float], *changes: dict[str, Any]) -> int:
    """How many rivals the best trial has among others of its score and its parts but for some changes."""
    known = {"hyperparameters": {"lr": 0.1}, "seed": 1, "batch_means": parts, "batch_sizes": [8.0] * len(parts)}
    some = [trial(number, 0.95, **{**known, **change}) for number, change in enumerate([{}, *changes])]
    return len(reading(curve(some), some, step=0, silence=1800.0).leads)


def test_different_trials_that_are_level_are_rivals_and_a_twin_is_none() -> None:
    other, reseeded = {"hyperparameters": {"lr": 0.2}}, {"seed": 2}
    assert rivals([0.95], other, reseeded) == 2
    assert rivals([1.0, 1.0], other, reseeded) == 2
    assert rivals([0.95], {}) == 1  # one part tells too little for a twin
    assert rivals([0.9, 1.0], {}) == 0
    assert rivals([0.9, 1.0], {}, other) == 1


# Hyperparameters.


class Kind(enum.IntEnum):
    """A number with a name."""

    A = 1


class Word(str):
    """A text of a class of its own."""

    __slots__ = ()


class Share(float):
    """A number of a class of its own."""

    __slots__ = ()


def test_hyperparameters_are_plain_values_whatever_their_class() -> None:
    given = {
        "a": np.float64(0.1),
        "b": np.int64(3),
        "c": np.bool_(True),
        "d": np.str_("adam"),
        "e": Word("sgd"),
        "f": Share(0.5),
        "g": np.float64(math.nan),
        "kind": Kind.A,
    }
    found = plain(given)
    assert {type(value) for value in found.values()} <= {bool, int, float, str}
    kind = found.pop("kind")
    assert kind == str(Kind.A)
    assert found == {"a": 0.1, "b": 3, "c": True, "d": "adam", "e": "sgd", "f": 0.5, "g": "nan"}
    kept = io.BytesIO()
    torch.save(trial(hyperparameters={**found, "kind": kind}).to_dict(), kept)
    kept.seek(0)
    assert torch.load(kept, weights_only=True)["hyperparameters"] == {**found, "kind": kind}


# Who says what the sweep is.


@pytest.mark.parametrize("kind", ["FixedTrial", "FrozenTrial"])
def test_a_trial_of_optuna_without_a_study_is_no_sweep(kind: str, tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    made = {"FixedTrial": lambda: optuna.trial.FixedTrial({"lr": 0.1})}
    made["FrozenTrial"] = lambda: optuna.trial.create_trial(value=1.0)
    callback: Any = expected(sweep=made[kind]())
    assert callback.sweep is None
    fit(trainer(callback, tmp_path), Scripted())
    assert (record(tmp_path)["sweep"], record(tmp_path)["sweep_from"]) == (None, "folder")
    assert callback.curve.name == "runs"


class Ray:
    """What Ray Tune tells a function that it runs, whose folder is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    def get_trial_id(self) -> str:
        return self.folder.name

    def get_experiment_name(self) -> str:
        return self.folder.parent.name

    def get_trial_dir(self) -> str:
        return str(self.folder)


def in_ray(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Stand in for Ray in one trial."""
    context = Ray(folder)
    module: Any = types.ModuleType("ray.tune")
    module.get_context = lambda: context
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    monkeypatch.setitem(sys.modules, "ray.tune", module)


@pytest.mark.parametrize("name", [None, "sweep=", "environment"])
@pytest.mark.parametrize(
    ("after", "code", "ending"),
    [
        (0, None, ("pruned", "ended by Ray")),
        (1, 0, ("pruned", "ended by Ray")),
        (2, 0, ("completed", "")),  # in the last of three epochs
        (2, None, ("completed", "")),
        (0, 1, ("failed", "SystemExit")),
        (2, 1, ("failed", "SystemExit")),
    ],
)
def test_an_exit_of_ray_is_no_failure(
    after: int,
    code: int | None,
    ending: tuple[str, str],
    name: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_ray(monkeypatch, tmp_path / "experiment" / "trial_1")
    if name == "environment":
        monkeypatch.setenv(VARIABLE, "a")
    run = trainer(expected(sweep="a" if name == "sweep=" else None), tmp_path)
    with pytest.raises(SystemExit):
        fit(run, Scripted(faults={"on_validation_epoch_end": raising(SystemExit(code), after)}))
    found = record(tmp_path)
    assert (found["status"], found["reason"]) == ending
    assert (found["sweep"], found["sweep_from"]) == (("experiment", "Ray") if name is None else ("a", name))


class Reports(Callback):
    """Is ended by Ray in its last report."""

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.callback_metrics and trainer.current_epoch == 2:
            raise SystemExit(0)


@pytest.mark.parametrize("is_first", [False, True])
def test_the_last_score_counts_whether_it_is_reported_before_or_after_it_is_read(
    is_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_ray(monkeypatch, tmp_path / "experiment" / "trial_1")
    callback: Any = expected()
    some = (Reports(), callback) if is_first else (callback, Reports())
    with pytest.raises(SystemExit):
        fit(trainer(None, tmp_path, *some), Scripted((0.1, 0.2, 0.9)))
    found = record(tmp_path)
    assert (found["status"], found["score"], found["score_step"]) == ("completed", rounded(0.9), 3 * BATCHES - 1)
    assert (found["validation_samples"], len(found["batch_means"])) == (VALIDATED, 2)


@pytest.mark.parametrize("after", [0, 2])
def test_an_exit_without_ray_is_a_failure(after: int, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        fit(
            trainer(expected(), tmp_path),
            Scripted(faults={"on_validation_epoch_end": raising(SystemExit(None), after)}),
        )
    assert (record(tmp_path)["status"], record(tmp_path)["reason"]) == ("failed", "SystemExit")


def test_trials_of_ray_meet_though_their_loggers_write_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves: list[Any] = []
    for name in ("trial_1", "trial_2"):
        in_ray(monkeypatch, tmp_path / "storage" / "experiment" / name)
        callback: Any = expected()
        fit(trainer(callback, tmp_path / "session" / name), Scripted())
        curves.append(callback.curve)
    homes = [path.parents[1].relative_to(tmp_path).as_posix() for path in files(tmp_path)]
    assert homes == ["storage/experiment/trial_1", "storage/experiment/trial_2"]
    assert [len(each.trials) for each in curves] == [1, 2]
    assert len(from_folder(tmp_path / "storage" / "experiment").trials) == 2


def test_runs_of_experiments_below_its_folder_are_no_siblings_of_an_unnamed_run(tmp_path: Path) -> None:
    keep(trials(SCORES), tmp_path / "digits")
    keep(trials(SCORES[:1]), tmp_path / "deeper" / "letters")
    numbers: list[int] = []
    for version in ("mine", "another"):
        callback: Any = expected()
        fit(trainer(callback, tmp_path, logger=CSVLogger(tmp_path, name="", version=version)), Scripted())
        numbers.append(len(callback.curve.trials))
    assert numbers == [1, 2]


def test_in_a_named_sweep_they_are_siblings_at_any_depth(tmp_path: Path) -> None:
    keep(trials(SCORES, sweep="a"), tmp_path / "digits")
    callback: Any = expected(sweep="a")
    fit(trainer(callback, tmp_path, logger=CSVLogger(tmp_path, name="", version="mine")), Scripted())
    assert len(callback.curve.trials) == 6


# Folders.


def test_a_folder_of_the_user_is_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    callback: Any = expected(folder="~/sweeps")
    fit(trainer(callback, tmp_path, logger=False), Scripted())
    (path,) = files(tmp_path)
    assert path.parents[1] == tmp_path / "home" / "sweeps"
    assert list((tmp_path / "here").iterdir()) == []
    assert len(callback.curve.trials) == 1


def test_a_folder_that_is_given_as_an_address_is_written_and_read(tmp_path: Path) -> None:
    address = f"file://{tmp_path}/far/away"
    some = trials(SCORES)
    for each in some:
        records.write(each, f"{address}/{each.run_id}")
    found = records.read(f"file://{tmp_path}/far")
    assert [each.score for each in found.trials] == SCORES
    assert [each.folder for each in found.trials] == [f"{tmp_path}/far/away/{each.run_id}" for each in some]
    assert sorted(path.name for path in files(tmp_path)) == sorted(f"{each.run_id}.json" for each in some)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == files(tmp_path)
    records.remove(some[0], f"{address}/{some[0].run_id}")
    assert len(records.read(address).trials) == 4


def test_runs_keep_their_records_at_an_address_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    curves: list[Any] = []
    for _ in range(2):
        callback: Any = expected(folder=f"file://{tmp_path}/sweep")
        fit(trainer(callback, tmp_path / "runs"), Scripted())
        curves.append(callback.curve)
        assert "EVP901" not in {each.code for each in callback.findings}
    assert {path.parents[1] for path in files(tmp_path)} == {tmp_path / "sweep"}
    assert [len(each.trials) for each in curves] == [1, 2]
    assert list((tmp_path / "here").iterdir()) == []


def test_a_run_below_an_address_of_this_machine_keeps_its_own_record(tmp_path: Path) -> None:
    fit(trainer(expected(folder=f"file://{tmp_path}"), tmp_path), Scripted())
    (path,) = files(tmp_path)
    assert path.parents[1] == tmp_path / "runs" / "version_0"


def test_records_that_cannot_be_read_are_said_beside_the_curve(tmp_path: Path) -> None:
    keep(trials(SCORES), tmp_path)
    whole = from_folder(tmp_path)
    (tmp_path / "version_0" / records.FOLDER / "broken.json").write_text("{")
    found = from_folder(tmp_path)
    assert (whole.unreadable, len(found.unreadable), found.scores) == ((), 1, whole.scores)
    line = "Left out since they cannot be read: 1 record, e.g. "
    assert line in str(found)
    assert "broken.json" in str(found)
    assert line not in str(whole)
    assert json.loads(json.dumps(found.to_dict()))["unreadable"] == list(found.unreadable)


# The curve.


@pytest.mark.parametrize(("scored", "failures"), [(3, 3), (0, 6), (4, 1), (5, 1)])
def test_a_score_that_a_failure_counts_as_makes_no_curve(scored: int, failures: int) -> None:
    some = [*trials(SCORES[:scored]), *(trial(10 + number, None, "failed") for number in range(failures))]
    found = curve(some, failed=0.1)
    assert len(found.scores) == scored + failures
    assert found.is_enough is (scored >= 5)
    note = too_few_trials.check(reading(found, some, step=0, silence=1800.0), Limits())
    assert isinstance(note, Diagnosis) is (scored < 5)


def test_what_each_trial_costs_is_the_time_of_all_for_each_that_counts() -> None:
    some = [*trials(SCORES, seconds=HOUR), *(trial(10 + n, None, "pruned", seconds=HOUR / 2) for n in range(15))]
    assert "Each trial that counts costs 2.5 h of a device on average (that of failed" in str(curve(some))


def test_the_rate_of_failures_is_one_number() -> None:
    some = [
        *trials(SCORES[:2]),
        *(trial(number, None, "failed") for number in (2, 3)),
        trial(4, 0.9, "pruned"),
        trial(5, 0.9, "running"),
        *(trial(6 + number, 0.9, metric="val_loss", mode="min") for number in range(5)),
    ]
    note = failed_trials.check(reading(curve(some), some, step=0, silence=1800.0), Limits())
    assert isinstance(note, Diagnosis)
    assert note.message.startswith("2 of 4 trials failed")
    assert note.evidence["rate"] == standing(curve(some), None).failure_rate == 0.5


@pytest.mark.parametrize(("searches", "drawn"), [(["random"] * 6, 1.0), (["random", *[None] * 5], None)])
def test_draws_are_independent_only_if_all_trials_say_so(searches: list[Any], drawn: float | None) -> None:
    some = [trial(number, 0.1 * number, search=search) for number, search in enumerate(searches)]
    assert standing(curve(some), None).iid_assumption == drawn
    assert ("as those of a random search are (not known here)" in str(curve(some))) is (drawn is None)


# Two sweeps.


def test_two_sweeps_of_one_name_are_told_apart() -> None:
    low, high = (curve(trials([score] * 10), name="a", band="dkw") for score in (0.2, 0.8))
    found = compare(low, high)
    assert {(lead.winner, lead.loser) for lead in found.trials} == {("a (2)", "a (1)")}
    assert "a (2) beats a (1)" in str(found)
    assert {(lead.winner, lead.loser) for lead in compare(high, low).trials} == {("a (1)", "a (2)")}
    assert (low.name, high.name) == ("a", "a")


def test_a_device_time_that_is_too_small_for_one_trial_is_said() -> None:
    cheap, dear = (
        curve(trials(SCORES, seconds=minutes * 60.0), name=name) for name, minutes in (("cheap", 1), ("dear", 50))
    )
    line = str(compare(cheap, dear)).splitlines()[1]
    assert "up to 5 min of a device one of the two has not a single trial" in line
    assert "neither beats" not in line


# The end of a run.


class TrialPruned(Exception):  # noqa: N818  # as Optuna calls it
    """Named as Optuna's."""


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("a fault"), "failed"), (TrialPruned(), "pruned"), (KeyboardInterrupt(), "pruned")],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_a_run_that_fails_or_is_pruned_draws_the_curve_too(error: BaseException, status: str, tmp_path: Path) -> None:
    keep(trials(SCORES), tmp_path / "runs")
    callback: Any = expected()
    with pytest.raises(BaseException):  # noqa: B017, PT011  # Lightning makes an exit of an interrupt
        fit(trainer(callback, tmp_path), Scripted(faults={"training_step": raising(error, 1)}))
    assert callback.trial.status == status
    assert callback.curve is not None
    assert [each.status for each in callback.curve.trials].count(status) == 1
    assert len(callback.curve.trials) == 6
    drawn = tmp_path / "runs" / "version_5" / records.FOLDER / callback.trial.run_id[:8]
    assert len(list(drawn.glob("events.out.tfevents.*.run"))) == 1
    assert ("EVP802" in {each.code for each in callback.findings}) is (status == "failed")


def test_an_error_that_a_finding_raises_keeps_the_curve_and_the_other_findings(tmp_path: Path) -> None:
    found: list[list[str]] = []
    for choice in ("report", "raise"):
        place = tmp_path / choice
        keep([trial(0, 0.5), trial(1, None, "running", beat=0.0)], place / "runs")  # killed long ago
        callback: Any = expected(on_finding=choice)
        fit(trainer(callback, place), Scripted())
        found.append(sorted(each.code for each in callback.findings))
        drawn = place / "runs" / "version_2" / records.FOLDER / callback.trial.run_id[:8]
        assert len(list(drawn.glob("events.out.tfevents.*.run"))) == 1
    assert found[0] == found[1] == ["EVP101", "EVP801", "EVP802"]


class Breaks(Callback):
    """Fails when everything is over."""

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        raise RuntimeError("a fault")


@pytest.mark.parametrize("is_first", [False, True])
def test_a_fault_of_others_after_training_leaves_a_trial_completed(is_first: bool, tmp_path: Path) -> None:
    callback: Any = expected()
    some = (Breaks(), callback) if is_first else (callback, Breaks())
    with pytest.raises(RuntimeError, match="a fault"):
        fit(trainer(None, tmp_path, *some), Scripted())
    (found,) = recorded(tmp_path)
    assert (found["status"], found["reason"], found["score"]) == ("completed", "", rounded(0.5))
    assert [each.status for each in callback.curve.trials] == ["completed"]
