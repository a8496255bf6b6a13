"""Which sweep a run belongs to: what the user says, or the environment, or the engine that started the run."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

VARIABLE = "LIGHTNING_DIAGNOSTICS_SWEEP_ID"
"""The environment variable that names the sweep."""


@dataclass(frozen=True)
class Sweep:
    """A sweep as one of its runs knows it.

    Attributes:
        name: What it is called; None if nothing says so: then it is the runs below a folder.
        said_by: What has said so.
        engine: Which engine is around, whoever has named the sweep; empty if there is none.
        number: What it calls this trial.
        search: How it proposes trials, e.g. ``"random"``; None if that is not known.
        folder: Where it keeps its runs; None if it does not say.
        place: The folder in there that it has made for this trial; None if it has made none.
        parameters: What it has proposed for this trial.
    """

    name: str | None = None
    said_by: str = "folder"
    engine: str = ""
    number: str | None = None
    search: str | None = None
    folder: str | None = None
    place: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])


def find(given: Any, callbacks: list[Any]) -> Sweep:
    """The sweep of the run that is set up now.

    In this order: what the user gives, the environment variable `VARIABLE`, and the engine around us: Optuna, Ray, W&B,
    Hydra, SLURM. What an engine knows beside the name is taken whoever gives the name.

    Args:
        given: The argument ``sweep``: a name, a trial or a study of Optuna, or None.
        callbacks: Of the Trainer: that of Optuna for pruning knows its trial.
    """
    engines = [engine for make in _ENGINES if (engine := _asked(make, given, callbacks)) is not None]
    known = replace(engines[0], engine=engines[0].said_by) if engines else Sweep()
    if isinstance(given, str):
        return _named(given, "sweep=", known)
    if given is not None and known.said_by == "Optuna":
        return known
    if os.environ.get(VARIABLE):
        return _named(os.environ[VARIABLE], "environment", known)
    return known


def _named(name: str, said_by: str, known: Sweep) -> Sweep:
    return replace(known, name=name, said_by=said_by)


def _asked(make: Any, given: Any, callbacks: list[Any]) -> Sweep | None:
    """What one engine says. They are other people's programs: one that fails says nothing."""
    try:
        return make(given, callbacks)
    except Exception:  # noqa: BLE001
        return None


def is_optunas(thing: object) -> bool:
    """Whether it is a trial or a study of Optuna."""
    return type(thing).__module__.partition(".")[0] == "optuna"


def _optuna(given: Any, callbacks: list[Any]) -> Sweep | None:
    held = (getattr(each, "_trial", None) for each in callbacks)
    trial = next((each for each in (given, *held, _optunas_own()) if each is not None and is_optunas(each)), None)
    if trial is None:
        return None
    study = getattr(trial, "study", trial)
    if trial is study:
        return Sweep(str(study.study_name), "Optuna", search=searcher(study.sampler))
    return Sweep(
        str(study.study_name),
        "Optuna",
        number=str(trial.number),
        search=searcher(study.sampler),
        parameters=dict(trial.params),
    )


def _optunas_own() -> Any:
    """The trial whose objective is running: Optuna tells it to nobody but the objective, from this frame."""
    if "optuna" not in sys.modules:
        return None
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "optuna.study._optimize" and "trial" in frame.f_locals:
            return frame.f_locals["trial"]
        frame = frame.f_back
    return None


def searcher(sampler: object) -> str:
    """What a search of Optuna is called: ``"random"``, or by the name of its sampler."""
    name = type(sampler).__name__
    return "random" if name == "RandomSampler" else name


def _ray(given: Any, callbacks: list[Any]) -> Sweep | None:
    if "ray" not in sys.modules or "ray.tune" not in sys.modules:
        return None
    context = sys.modules["ray.tune"].get_context()
    trial = context.get_trial_id()
    if not trial:
        return None
    place = str(context.get_trial_dir()).rstrip("/")
    here = os.path.isdir(place)  # of a bucket Ray gives a path without its scheme
    return Sweep(
        str(context.get_experiment_name()),
        "Ray",
        number=str(trial),
        folder=os.path.dirname(place) if here else None,
        place=place if here else None,
    )


def _wandb(given: Any, callbacks: list[Any]) -> Sweep | None:
    run = getattr(sys.modules.get("wandb"), "run", None)
    name = os.environ.get("WANDB_SWEEP_ID") or getattr(run, "sweep_id", None)
    return Sweep(str(name), "W&B", number=os.environ.get("WANDB_RUN_ID") or getattr(run, "id", None)) if name else None


def _hydra(given: Any, callbacks: list[Any]) -> Sweep | None:
    package = sys.modules.get("hydra.core.hydra_config")
    if package is None or not package.HydraConfig.initialized():
        return None
    config = package.HydraConfig.get()
    if config.mode is None or config.mode.name != "MULTIRUN":
        return None
    folder = os.path.join(config.runtime.cwd, config.sweep.dir)
    sweeper = str(config.sweeper.get("_target_", "")).rpartition(".")[2]
    search = "grid" if sweeper == "BasicSweeper" else sweeper or None
    return Sweep(config.sweep.dir, "Hydra", number=str(config.job.num), search=search, folder=folder)


def _slurm(given: Any, callbacks: list[Any]) -> Sweep | None:
    name = os.environ.get("SLURM_ARRAY_JOB_ID")
    return Sweep(name, "SLURM", number=os.environ.get("SLURM_ARRAY_TASK_ID")) if name else None


_ENGINES = (_optuna, _ray, _wandb, _hydra, _slurm)
