"""What stands in TensorBoard, read back from the event files."""

import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_diagnostics.diagnostics.expected_performance.curve import TuningCurve
from lightning_diagnostics.diagnostics.expected_performance.drawing import CATEGORY, draw
from tests.diagnostics.expected_performance.models import Scripted, expected, fit, rounded, trainer

CURVE = ("median", "mean", "mean_unbiased", "spread", "hours")
"""What each point of a curve has, beside its band."""


@pytest.fixture
def bucket() -> Iterator[str]:
    """A folder of its own in an object store."""
    name = uuid.uuid4().hex
    yield f"memory://{name}"
    store = fsspec.filesystem("memory")
    if store.exists(f"/{name}"):
        store.rm(f"/{name}", recursive=True)


def events(folder: Path) -> Any:
    """What is in the event files of one run."""
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0}).Reload()


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    """The steps and values of a tag."""
    return [(each.step, each.value) for each in events(folder).Scalars(tag)]


def runs(folder: Path) -> list[Path]:
    """The folders that TensorBoard takes for runs."""
    return sorted({file.parent for file in folder.rglob("*tfevents*")})


def sweep(folder: Path, count: int, **arguments: Any) -> list[Any]:
    """So many runs, each with a worse score than the one before it."""
    callbacks: list[Any] = []
    for number in range(count):
        callbacks.append(expected(**{"min_trials": 3, **arguments}))
        logger = TensorBoardLogger(folder, name="runs")
        fit(trainer(callbacks[-1], folder, logger=logger), Scripted((0.9 - number / 10,), saved={"lr": number}))
    return callbacks


def place(callback: Any, folder: Path, number: int) -> Path:
    """Where a run draws its curve."""
    return folder / "runs" / f"version_{number}" / "expected_performance" / callback.trial.run_id[:8]


def close(found: list[tuple[int, float]], values: Any) -> bool:
    """Whether found points are the values at n = 1, 2, ..., as 32 bits have them; none is NaN."""
    return [n for n, _ in found] == list(range(1, len(values) + 1)) and all(
        value == rounded(wanted) if wanted is not None else math.isnan(value)
        for (_, value), wanted in zip(found, values, strict=True)
    )


def test_each_run_has_the_curve_as_of_its_end_in_a_run_of_its_own(tmp_path: Path) -> None:
    callbacks = sweep(tmp_path, 4)
    for number, callback in enumerate(callbacks):
        curve: TuningCurve = callback.curve
        assert len(curve.scores) == number + 1
        if number == 0:  # alone it is no sweep
            assert not place(callback, tmp_path, number).exists()
            continue
        home = place(callback, tmp_path, number)
        assert len(list(home.iterdir())) == 1 + (number >= 2)  # with the charts
        tags = events(home).Tags()["scalars"]
        if number < 2:
            assert tags == []
            assert events(home).Tags()["tensors"] == ["evp/table/text_summary"]
            continue
        assert set(tags) == {f"evp/{name}" for name in (*CURVE, "median_low", "median_high")}
        for name in CURVE[:-1]:
            assert close(scalars(home, f"evp/{name}"), getattr(curve, name)), name
        assert close(scalars(home, "evp/median_low"), curve.low)
        assert close(scalars(home, "evp/median_high"), curve.high)
        assert close(scalars(home, "evp/hours"), [curve.hours(n) for n in range(1, number + 2)])


def test_the_curve_has_a_table_a_picture_and_charts(tmp_path: Path) -> None:
    callback = sweep(tmp_path, 3)[-1]
    found = events(place(callback, tmp_path, 2))
    (table,) = found.Tensors("evp/table/text_summary")
    text = table.tensor_proto.string_val[0].decode()
    assert text.startswith("Sweep")
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")] == [
        *("n", "---", "1", "2", "3")
    ]
    assert found.Tags()["images"] == ["evp/tuning_curve"]
    (layout,) = found.Tensors("custom_scalars__config__")
    assert CATEGORY.encode() in layout.tensor_proto.string_val[0]
    assert b"evp/median_low" in layout.tensor_proto.string_val[0]


def test_how_the_sweep_stands_is_drawn_at_the_last_step_of_the_run(tmp_path: Path) -> None:
    sweep(tmp_path, 3)
    home = tmp_path / "runs" / "version_2"
    curve_tags = {f"evp/{name}" for name in CURVE}
    assert not curve_tags & set(events(home).Tags()["scalars"])  # n is no step of training
    assert scalars(home, "evp/score") == [(8, rounded(0.7))]
    assert scalars(home, "evp/best") == [(8, rounded(0.9))]
    assert scalars(home, "evp/n_trials") == [(8, 3.0)]


def test_a_table_gets_no_column_at_the_end_of_a_run(tmp_path: Path) -> None:
    """With one more, Lightning writes the file anew, and raises where another process has the same file."""
    for _ in range(2):
        fit(trainer(expected(), tmp_path), Scripted())
    text = (tmp_path / "runs" / "version_1" / "metrics.csv").read_text()
    assert not [name for name in text.splitlines()[0].split(",") if name.startswith("evp/")]


def test_a_second_fit_leaves_one_curve(tmp_path: Path) -> None:
    sweep(tmp_path, 3)
    callback, module = expected(min_trials=3), Scripted((0.1, 0.1, 0.1, 0.2))
    run = fit(trainer(callback, tmp_path, logger=TensorBoardLogger(tmp_path, name="runs")), module)
    run.fit_loop.max_epochs = 4
    fit(run, module)
    assert callback.curve is not None
    assert close(scalars(place(callback, tmp_path, 3), "evp/mean"), callback.curve.mean)


def test_a_curve_that_is_drawn_again_replaces_the_one_before_and_nothing_of_others(tmp_path: Path) -> None:
    curve = sweep(tmp_path / "sweep", 3)[-1].curve
    home = tmp_path / "home"
    home.mkdir()
    (home / "events.out.tfevents.1.of-others").write_bytes(b"")
    for _ in range(2):
        draw(curve, str(home))
    assert close(scalars(home, "evp/mean"), curve.mean)
    assert (home / "events.out.tfevents.1.of-others").exists()


def test_so_it_is_in_an_object_store(bucket: str, tmp_path: Path) -> None:
    curve = sweep(tmp_path, 3)[-1].curve
    files = fsspec.filesystem("memory")
    for _ in range(2):
        draw(curve, f"{bucket}/run")
        assert len([name for name in files.find(f"{bucket}/run") if name.endswith(".run")]) == 1


# The HParams page.


def hp_metric(folder: Path) -> list[float]:
    return [value for _, value in scalars(folder, "hp_metric")]


def test_the_score_is_the_metric_of_the_hparams_page(tmp_path: Path) -> None:
    sweep(tmp_path, 2)
    for number in range(2):
        home = tmp_path / "runs" / f"version_{number}"
        assert hp_metric(home)[-1] == rounded(0.9 - number / 10)
        assert "_hparams_/session_start_info" in events(home).summary_metadata


def test_a_metric_that_the_module_logs_itself_is_left_alone(tmp_path: Path) -> None:
    class Own(Scripted):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx)
            self.log("hp_metric", 42.0)

    fit(trainer(expected(), tmp_path, logger=TensorBoardLogger(tmp_path, name="runs")), Own(saved={"lr": 0.1}))
    assert set(hp_metric(tmp_path / "runs" / "version_0")[1:]) == {42.0}


def test_metrics_that_the_user_gives_the_page_are_left_alone(tmp_path: Path) -> None:
    class Own(Scripted):
        def on_train_start(self) -> None:
            logger: Any = self.logger
            logger.log_hyperparams({"lr": 0.1}, {"hp/own": 0.5})

    logger = TensorBoardLogger(tmp_path, name="runs", default_hp_metric=False)
    fit(trainer(expected(), tmp_path, logger=logger), Own())
    tags = events(tmp_path / "runs" / "version_0").Tags()["scalars"]
    assert "hp/own" in tags
    assert "hp_metric" not in tags


def test_without_hyperparameters_there_is_no_metric_of_theirs(tmp_path: Path) -> None:
    fit(trainer(expected(), tmp_path, logger=TensorBoardLogger(tmp_path, name="runs")), Scripted())
    assert "hp_metric" not in events(tmp_path / "runs" / "version_0").Tags()["scalars"]


def test_a_run_without_tensorboard_draws_its_curve_too(tmp_path: Path) -> None:
    callback: Any = None
    for _ in range(3):
        callback = expected(min_trials=3)
        fit(trainer(callback, tmp_path, logger=CSVLogger(tmp_path, name="runs")), Scripted())
    assert runs(tmp_path)[-1] in {path.parent for path in tmp_path.rglob("*tfevents*")}
    homes = {place(each, tmp_path, 2) for each in [callback]}
    assert homes <= set(runs(tmp_path))
    assert close(scalars(homes.pop(), "evp/mean"), callback.curve.mean)


@pytest.mark.slow
def test_a_sweep_of_twenty_is_forty_runs_at_most_and_none_has_two_curves(tmp_path: Path) -> None:
    callbacks = sweep(tmp_path, 20)
    assert len(runs(tmp_path)) <= 40
    for number, callback in enumerate(callbacks[2:], start=2):
        assert close(scalars(place(callback, tmp_path, number), "evp/mean"), callback.curve.mean)
