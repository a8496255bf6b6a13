"""Which sweep a run belongs to."""

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

from lightning_diagnostics import ExpectedValidationPerformance
from lightning_diagnostics.diagnostics.expected_performance.engines import from_folder
from lightning_diagnostics.diagnostics.expected_performance.sweeps import VARIABLE
from tests.diagnostics.expected_performance.models import (
    Scripted,
    expected,
    files,
    fit,
    record,
    records,
    rounded,
    trainer,
)

_VARIABLES = (VARIABLE, "WANDB_SWEEP_ID", "WANDB_RUN_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine is around."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in ("wandb", "ray.tune", "hydra.core.hydra_config"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def identity(folder: Path, **arguments: Any) -> tuple[Any, ...]:
    """What the record of a run says of its sweep."""
    fit(trainer(expected(**arguments), folder, max_epochs=1), Scripted())
    plain = records(folder)[-1]
    return tuple(plain[name] for name in ("sweep", "sweep_from", "number", "search"))


def test_nothing_says_what_the_sweep_is(tmp_path: Path) -> None:
    assert identity(tmp_path) == (None, "folder", None, None)


def test_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "environment")
    monkeypatch.setenv("WANDB_SWEEP_ID", "wandb")
    assert identity(tmp_path, sweep="a") == ("a", "sweep=", None, None)


def test_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "b")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert identity(tmp_path) == ("b", "environment", "3", None)


def test_an_empty_variable_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    assert identity(tmp_path) == (None, "folder", None, None)


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_RUN_ID", "run1")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    assert identity(tmp_path) == ("abc", "W&B", "run1", None)


def test_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert identity(tmp_path) == ("12", "SLURM", "3", None)


class Context:
    """What Ray Tune tells a function that it runs."""

    def __init__(self, folder: Path, trial: str | None) -> None:
        self.folder, self.trial = folder, trial

    def get_trial_id(self) -> str | None:
        return self.trial

    def get_experiment_name(self) -> str:
        return "experiment"

    def get_trial_dir(self) -> str:
        return str(self.folder / "experiment" / "trial_1")


def stand_in(monkeypatch: pytest.MonkeyPatch, context: Any) -> None:
    """Put something in Ray's place."""
    module: Any = types.ModuleType("ray.tune")
    module.get_context = lambda: context
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    monkeypatch.setitem(sys.modules, "ray.tune", module)


def test_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Context(tmp_path, "t1"))
    callback = expected()
    for number in (1, 2):  # each has a folder of its own in that of the experiment
        callback = expected()
        place = tmp_path / "experiment" / f"trial_{number}"
        fit(trainer(callback, tmp_path, logger=CSVLogger(place)), Scripted())
    assert {(plain["sweep"], plain["sweep_from"], plain["number"]) for plain in records(tmp_path)} == {
        ("experiment", "Ray", "t1")
    }
    assert callback.curve is not None
    assert len(callback.curve.trials) == 2


@pytest.mark.parametrize("context", [Context(Path(), None), object()], ids=("outside", "broken"))
def test_an_engine_that_says_nothing_or_fails_is_passed_over(
    context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, context)
    assert identity(tmp_path) == (None, "folder", None, None)


# Optuna.


def study(**more: Any) -> Any:
    """A study of Optuna."""
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(study_name="digits", direction="maximize", **more)


def random() -> Any:
    return pytest.importorskip("optuna").samplers.RandomSampler(seed=0)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_study_of_optuna_is_found_without_being_told(jobs: int, tmp_path: Path) -> None:
    search = study(sampler=random())

    def objective(trial: Any) -> float:
        rate = trial.suggest_float("lr", 0.0, 1.0)
        callback = expected()
        fit(trainer(callback, tmp_path / str(trial.number)), Scripted((rate,)))
        assert callback.trial is not None
        assert callback.trial.score is not None
        return callback.trial.score

    search.optimize(objective, n_trials=4, n_jobs=jobs)
    found = records(tmp_path)
    assert {(plain["sweep"], plain["sweep_from"], plain["search"]) for plain in found} == {
        ("digits", "Optuna", "random")
    }
    assert sorted(plain["number"] for plain in found) == ["0", "1", "2", "3"]
    for plain in found:
        done = search.trials[int(plain["number"])]
        assert (plain["hyperparameters"], plain["score"]) == (done.params, done.value)


def test_a_trial_of_optuna_that_is_pruned_or_fails(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    search = study()

    def objective(trial: Any) -> float:
        error = {0: None, 1: optuna.TrialPruned(), 2: RuntimeError("a fault")}[trial.number]

        def act() -> None:
            if error is not None:
                raise error

        fit(trainer(expected(), tmp_path), Scripted(faults={"on_validation_epoch_end": act}))
        return 0.5

    search.optimize(objective, n_trials=3, catch=RuntimeError)
    assert [each.state.name for each in search.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    status = {plain["number"]: plain["status"] for plain in records(tmp_path)}
    assert status == {"0": "completed", "1": "pruned", "2": "failed"}
    curve = from_folder(tmp_path, sweep="digits")
    assert (curve.n_failed, curve.n_pruned, len(curve.scores)) == (1, 1, 1)
    assert curve.is_random is False


@pytest.mark.parametrize("way", ["sweep=trial", "callback", "sweep=study"])
def test_a_trial_that_is_asked_for_and_told(way: str, tmp_path: Path) -> None:
    search = study(sampler=random())
    trial = search.ask()
    trial.suggest_float("lr", 0.0, 1.0)

    class Prunes(Callback):  # as that of optuna-integration
        def __init__(self) -> None:
            self._trial = trial

    given = {"sweep=trial": trial, "sweep=study": search}.get(way)
    callback = expected() if given is None else expected(sweep=given)
    fit(trainer(callback, tmp_path, *([Prunes()] if way == "callback" else [])), Scripted())
    plain = record(tmp_path)
    known = ("digits", "Optuna", None if way == "sweep=study" else "0", "random")
    assert tuple(plain[name] for name in ("sweep", "sweep_from", "number", "search")) == known
    assert plain["hyperparameters"] == ({} if way == "sweep=study" else trial.params)
    search.tell(trial, 0.5)


def test_hyperparameters_that_are_saved_come_before_those_proposed(tmp_path: Path) -> None:
    trial = study().ask()
    trial.suggest_float("lr", 0.0, 1.0)
    fit(trainer(expected(sweep=trial), tmp_path), Scripted(saved={"rate": 0.3}))
    assert record(tmp_path)["hyperparameters"] == {"rate": 0.3}


@pytest.mark.parametrize("sweep", [3, True, ["a"], object()])
def test_what_is_no_sweep_is_refused(sweep: Any) -> None:
    with pytest.raises(TypeError, match="sweep="):
        ExpectedValidationPerformance(sweep=sweep)


# Folders.


def test_runs_of_one_folder_and_other_sweeps_are_apart(tmp_path: Path) -> None:
    curves: list[Any] = []
    for sweep in (None, "a", "b", "a", None):
        callback = expected(sweep=sweep)
        fit(trainer(callback, tmp_path), Scripted())
        curves.append(callback.curve)
    assert [(curve.name, len(curve.trials)) for curve in curves] == [
        *(("runs", 1), ("a", 1), ("b", 1), ("a", 2), ("runs", 2))
    ]


APP = """
import hydra
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import CSVLogger
from pathlib import Path
from tests.diagnostics.expected_performance.models import Scripted, expected, fit, trainer

@hydra.main(version_base=None, config_path=None, config_name="settings")
def main(settings):
    callback = expected(min_trials=1)
    folder = HydraConfig.get().runtime.output_dir
    fit(trainer(callback, Path("."), logger=CSVLogger(folder)), Scripted((settings.lr,), saved={"lr": settings.lr}))
    Path(folder, "curve.txt").write_text(f"{callback.curve.name} {len(callback.curve.trials)}")

if __name__ == "__main__":
    from hydra.core.config_store import ConfigStore
    ConfigStore.instance().store("settings", {"lr": 0.3})
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("multi", [True, False])
def test_hydra(multi: bool, tmp_path: Path) -> None:
    pytest.importorskip("hydra")
    (tmp_path / "app.py").write_text(APP)
    arguments = ["-m", "lr=0.1,0.2"] if multi else ["lr=0.1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "app.py", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = records(tmp_path)
    if not multi:
        assert [(plain["sweep"], plain["sweep_from"]) for plain in found] == [(None, "folder")]
        return
    home = files(tmp_path)[0].parents[4]  # .../multirun/DATE/TIME/0/lightning_logs/version_0/expected_performance/x
    name = str(home.relative_to(tmp_path))
    assert {(plain["sweep"], plain["sweep_from"], plain["search"]) for plain in found} == {(name, "Hydra", "grid")}
    assert {(plain["number"], plain["score"]) for plain in found} == {("0", rounded(0.1)), ("1", rounded(0.2))}
    assert [path.read_text() for path in sorted(tmp_path.rglob("curve.txt"))] == [f"{name} {n}" for n in (1, 2)]
