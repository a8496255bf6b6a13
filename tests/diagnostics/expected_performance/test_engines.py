"""Searches that other libraries keep: real studies of Optuna, real and made results of Ray Tune."""

import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lightning_diagnostics import from_optuna, from_ray
from lightning_diagnostics.statistics import expected_validation_performance

# Optuna.


def _memory(folder: Path) -> Any:
    optuna = pytest.importorskip("optuna")
    return optuna.storages.InMemoryStorage()


def _sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'studies.db'}"


def _journal(folder: Path) -> Any:
    optuna = pytest.importorskip("optuna")
    from optuna.storages.journal import JournalFileBackend

    return optuna.storages.JournalStorage(JournalFileBackend(str(folder / "journal.log")))


every_storage = pytest.mark.parametrize("storage", [_memory, _sqlite, _journal], ids=["memory", "sqlite", "journal"])


@pytest.fixture
def optuna() -> Iterator[Any]:
    module = pytest.importorskip("optuna")
    before = module.logging.get_verbosity()
    module.logging.set_verbosity(module.logging.ERROR)
    yield module
    module.logging.set_verbosity(before)


def _objective(optuna: Any, trial: Any) -> float:
    """One that fails, is pruned, or has no number at some trials."""
    value: float = trial.suggest_float("lr", 0.0, 1.0)
    trial.suggest_categorical("kind", ["a", "b"])
    if trial.number == 2:
        raise RuntimeError("out of memory")
    if trial.number == 3:
        trial.report(0.99, 1)
        raise optuna.TrialPruned
    odd: dict[int, float] = {4: math.nan, 5: math.inf}
    return odd.get(trial.number, value)


def _study(optuna: Any, storage: Any, **more: Any) -> Any:
    """A random search of twelve trials, one more that runs, and one that waits."""
    study = optuna.create_study(
        study_name="mine", storage=storage, sampler=optuna.samplers.RandomSampler(seed=0), **more
    )
    study.optimize(lambda trial: _objective(optuna, trial), n_trials=12, catch=(RuntimeError,))
    study.ask()
    study.enqueue_trial({"lr": 0.5})
    return study


@every_storage
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_study_is_read_wherever_it_is_stored(optuna: Any, tmp_path: Path, storage: Any, direction: str) -> None:
    kept = storage(tmp_path)
    study = _study(optuna, kept, direction=direction)
    again = optuna.load_study(study_name="mine", storage=kept, sampler=optuna.samplers.RandomSampler())
    mode: Any = direction[:3]
    scores = [each.value for each in study.trials if each.value is not None and each.number not in (3, 5)]
    assert len(scores) == 8
    best = max(scores) if mode == "max" else min(scores)
    for found in (from_optuna(study), from_optuna(again)):
        assert (found.name, found.metric, found.mode) == ("mine", "value", mode)
        assert found.scores == tuple(scores)
        assert (found.n_failed, found.n_pruned, found.n_running, found.n_lost, found.n_unscored) == (3, 1, 1, 0, 0)
        assert found.n_trials == 11
        assert [each.score for each in found.trials[2:6]] == [None] * 4  # the one that is pruned has a value of its own
        assert found.mean == tuple(expected_validation_performance(scores, mode=mode))
        assert found.median == tuple(
            None if value != value else value
            for value in expected_validation_performance(scores, mode=mode, estimator="median", failed=3)
        )
        assert found.best is not None
        assert found.best.score == best
        assert [dict(each.hyperparameters) for each in found.trials[:12]] == [each.params for each in study.trials[:12]]
        assert "3 trials failed (2 x FAIL, value was never finite)" in str(found)


def test_the_policies_of_failure_are_those_of_every_curve(optuna: Any) -> None:
    study = _study(optuna, None, direction="maximize")
    assert from_optuna(study, failed="drop").n_trials == 8
    imputed = from_optuna(study, failed=0.25)
    assert (imputed.scores[2], imputed.scores.count(0.25), imputed.n_trials) == (0.25, 3, 11)
    assert from_optuna(study, band="dkw", confidence=0.9, min_trials=9).is_enough is False


def test_hours_are_those_that_the_study_tells(optuna: Any) -> None:
    study = _study(optuna, None)
    spent = sum(each.duration.total_seconds() for each in study.trials if each.duration) / 3600
    assert from_optuna(study).hours_per_trial == pytest.approx(spent / 11)


@pytest.mark.filterwarnings("ignore:.*is experimental")
def test_one_objective_of_several_is_chosen_and_has_its_name(optuna: Any) -> None:
    study = optuna.create_study(
        directions=["minimize", "maximize"], sampler=optuna.samplers.RandomSampler(seed=0), study_name="two"
    )
    study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 1 - trial.params["x"]), n_trials=6)
    values = [each.values for each in study.trials]
    assert (from_optuna(study).metric, from_optuna(study).mode) == ("value", "min")
    study.set_metric_names(["val_loss", "val_acc"])
    one, other = from_optuna(study), from_optuna(study, objective=1)
    assert (one.metric, one.mode, one.scores) == ("val_loss", "min", tuple(x for x, _ in values))
    assert (other.metric, other.mode, other.scores) == ("val_acc", "max", tuple(y for _, y in values))
    assert (one.low[-1], other.high[-1]) == (0, 1)  # what a loss and an accuracy can be
    with pytest.raises(ValueError, match=r"^objective=2: allowed is 0 to 1$"):
        from_optuna(study, objective=2)


@pytest.mark.parametrize(
    ("sampler", "searches", "random"),
    [("RandomSampler", ("random",), True), ("TPESampler", ("TPESampler",), False), (None, ("TPESampler",), False)],
)
def test_a_search_is_random_where_the_sampler_is(
    optuna: Any, sampler: str | None, searches: tuple[str, ...], random: bool
) -> None:
    study = optuna.create_study(sampler=sampler and getattr(optuna.samplers, sampler)())
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)
    found = from_optuna(study)
    assert (found.searches, found.is_random) == (searches, random)


def test_a_grid_is_known_even_if_the_study_is_loaded_without_its_sampler(optuna: Any, tmp_path: Path) -> None:
    storage = _sqlite(tmp_path)
    grid = optuna.samplers.GridSampler({"x": [0.1, 0.2, 0.3, 0.4, 0.5]})
    study = optuna.create_study(study_name="grid", storage=storage, sampler=grid)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)
    found = from_optuna(optuna.load_study(study_name="grid", storage=storage))
    assert (found.searches, found.is_random) == (("GridSampler",), False)


def test_trials_that_a_person_has_put_in_are_no_draws(optuna: Any) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial({"x": 0.5})
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)
    found = from_optuna(study)
    assert (found.searches, found.is_random) == (("enqueued", "random"), False)


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution should be")
def test_a_study_is_plain_values_for_programs(optuna: Any) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(
        lambda trial: trial.suggest_float("x", 0, 1) + len(trial.suggest_categorical("layers", [(8, 8)])), n_trials=5
    )
    plain = json.loads(json.dumps(from_optuna(study).to_dict(), allow_nan=False))
    assert plain["trials"][0]["hyperparameters"]["layers"] == "[8, 8]"
    assert from_optuna(optuna.create_study()).best is None


@pytest.mark.parametrize("thing", ["study", None, [0.1]])
def test_what_is_no_study_is_quoted(thing: Any) -> None:
    with pytest.raises(TypeError, match=f"^study={re.escape(repr(thing))}: expected a study of Optuna$"):
        from_optuna(thing)


# Ray Tune, made: what we read of its results.


class Frame(dict[str, Any]):
    """Columns of numbers, as a data frame has them."""


@dataclass
class Result:
    """Of one trial."""

    metrics: dict[str, Any] | None
    metrics_dataframe: Frame | None
    config: dict[str, Any] | None = None
    error: Exception | None = None
    path: str = ""


@dataclass
class Told:
    """What Ray keeps of a trial beside its result."""

    status: str


@dataclass
class Analysis:
    """What Ray keeps of a search."""

    trials: list[Told]
    default_metric: str | None = "acc"
    default_mode: str | None = "max"


@dataclass
class Results:
    """Of a search."""

    results: list[Result]
    experiment_path: str = "/storage/exp"
    _experiment_analysis: Analysis | None = field(default_factory=lambda: Analysis([]))

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def get_dataframe(self) -> Any:
        raise NotImplementedError


def result(number: int, scores: Sequence[float | None], *, error: Exception | None = None, **config: Any) -> Result:
    last = {"trial_id": f"abc_{number:05d}", "timestamp": 1_700_000_060 + number, "time_total_s": 60.0, "acc": None}
    column = {} if error else {"acc": list(scores)}
    return Result(
        {**last, "acc": scores[-1] if scores else None}, Frame(column), config, error, f"/storage/exp/{number}"
    )


TUNED = Results([result(n, [0.1 * n, 0.1 * n + 0.05, 0.1 * n - 0.05], lr=0.1 * n) for n in (3, 1, 2, 5, 4)])


def test_the_score_of_a_trial_is_its_best_report() -> None:
    found = from_ray(TUNED)
    assert (found.name, found.metric, found.mode) == ("exp", "acc", "max")
    assert found.scores == pytest.approx([0.15, 0.25, 0.35, 0.45, 0.55])
    assert [each.number for each in found.trials] == [f"abc_{n:05d}" for n in (1, 2, 3, 4, 5)]
    assert found.hours_per_trial == pytest.approx(1 / 60)
    assert found.trials[0].started == "2023-11-14T22:13:21+00:00"
    assert dict(found.trials[2].hyperparameters) == {"lr": pytest.approx(0.3)}
    assert found.is_random is None
    lowest = from_ray(TUNED, mode="min")
    assert lowest.scores == pytest.approx([0.05, 0.15, 0.25, 0.35, 0.45])


def test_without_a_course_the_last_report_is_the_score() -> None:
    some = [Result({"trial_id": str(n), "acc": 0.1 * n}, None) for n in range(5)]
    assert from_ray(Results(some)).scores == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_a_trial_with_an_error_or_without_a_number_has_failed() -> None:
    odd = [result(6, [0.9], error=ValueError()), result(7, [math.nan, math.inf]), result(8, [0.6, math.nan, None])]
    found = from_ray(Results([*TUNED.results, *odd]))
    assert (found.n_failed, found.n_unscored) == (2, 0)
    assert found.scores[-1] == 0.6
    assert "2 trials failed (ValueError, acc was never finite)" in str(found)


def test_the_cause_of_an_error_in_a_process_of_ray_is_named() -> None:
    class RayTaskError(Exception):
        cause = MemoryError()

    found = from_ray(Results([*TUNED.results, result(6, [], error=RayTaskError())]))
    assert "1 trial failed (MemoryError)" in str(found)


def test_a_search_that_goes_on_has_trials_that_run_and_trials_that_wait() -> None:
    states = ["TERMINATED", "RUNNING", "PAUSED", "PENDING", "ERROR"]
    found = from_ray(Results(TUNED.results, _experiment_analysis=Analysis([Told(state) for state in states])))
    assert (len(found.trials), found.n_running, found.scores) == (4, 2, pytest.approx((0.35, 0.45)))


def test_settings_of_all_kinds_are_plain_values_for_programs() -> None:
    some = [result(n, [0.1], model={"act": max, "sizes": [8, 8]}, seed=n) for n in range(5)]
    plain = json.loads(json.dumps(from_ray(Results(some)).to_dict(), allow_nan=False))
    expected = {"model/act": "<built-in function max>", "model/sizes": "[8, 8]", "seed": 3}
    assert plain["trials"][3]["hyperparameters"] == expected


@pytest.mark.parametrize(
    ("results", "more", "kind", "message"),
    [
        (None, {}, TypeError, "results=None: expected a ResultGrid of Ray Tune, or the folder of its experiment"),
        ([0.1], {}, TypeError, "results=[0.1]: expected a ResultGrid of Ray Tune, or the folder of its experiment"),
        (
            Results([], _experiment_analysis=None),
            {},
            ValueError,
            "metric=None: it is not known what the search was told; name one that its trials report",
        ),
        (
            Results([], _experiment_analysis=None),
            {"metric": "acc"},
            ValueError,
            "mode=None: allowed are 'min' and 'max'",
        ),
        (TUNED, {"mode": "best"}, ValueError, "mode='best': allowed are 'min' and 'max'"),
    ],
)
def test_what_is_not_known_or_not_allowed_is_quoted(
    results: Any, more: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        from_ray(results, **more)


def test_a_folder_takes_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray.tune", None)
    with pytest.raises(ImportError, match=r"^a folder of Ray Tune needs Ray: pip install 'ray\[tune\]'$"):
        from_ray(tmp_path)


# Ray Tune, real.


@pytest.mark.slow
def test_a_real_search_of_ray_is_read_as_results_and_as_a_folder(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="an extra")
    tune = pytest.importorskip("ray.tune", reason="an extra", exc_type=ImportError)

    def train(config: dict[str, Any]) -> None:
        for gain in (0.0, 0.2, 0.1):
            if config["x"] > 0.55 and gain:
                raise MemoryError
            tune.report({"val_acc": config["x"] + gain})

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        results = tune.Tuner(
            train,
            param_space={"x": tune.grid_search([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), "act": max},
            tune_config=tune.TuneConfig(metric="val_acc", mode="max"),
            run_config=tune.RunConfig(storage_path=str(tmp_path), name="exp", verbose=0),
        ).fit()
    finally:
        ray.shutdown()
    for found in (from_ray(results), from_ray(tmp_path / "exp", metric="val_acc", mode="max")):
        assert (found.name, found.metric, found.mode) == ("exp", "val_acc", "max")
        assert found.scores == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7])
        assert (found.n_failed, found.n_trials) == (1, 6)
        assert "1 trial failed (MemoryError)" in str(found)
        assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["trials"][0]["hyperparameters"]["x"] == 0.1
    with pytest.raises(ValueError, match="No experiment snapshot file"):
        from_ray(tmp_path)
