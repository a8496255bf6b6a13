"""The result of Lightning's own range test, read back from TensorBoard."""

import copy
import io
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.tuner.tuning import Tuner
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch import Tensor

from lightning_diagnostics import WarmupCooldownScheduler
from lightning_diagnostics.diagnostics.learning_rate import range_test
from tests.diagnostics.learning_rate.networks_data import Regression, Size, rows
from tests.helpers import accusations, trainer

SIZE = Size(2, 40)
PREFIX = "learning_rate/range_test"


class Tuned(Regression):
    """A program whose rate Lightning may set."""

    def __init__(self) -> None:
        super().__init__(_adam, SIZE)
        self.lr = 1e-3


class Breaking(Tuned):
    """The loss is no number from some step of the range test on, and well again after it."""

    def loss(self, batch: Any) -> Tensor:
        high = self._trainer is not None and self.optimizers() and self._rate() > 0.01
        return super().loss(batch) * (math.nan if high else 1.0)

    def _rate(self) -> float:
        return max(group["lr"] for optimizer in self.trainer.optimizers for group in optimizer.param_groups)


def _adam(module: Any) -> Any:
    return torch.optim.Adam(module.parameters(), lr=module.lr)


def read(folder: str) -> EventAccumulator:
    return EventAccumulator(folder, size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def texts(events: EventAccumulator, tag: str) -> list[str]:
    found: Iterator[Any] = iter(events.Tensors(tag))
    return [event.tensor_proto.string_val[0].decode() for event in found]


def fitted(board: Any, finder: LearningRateFinder, module: Tuned | None = None, **arguments: Any) -> Any:
    """Train with a range test at the start; gives the Trainer."""
    ours = WarmupCooldownScheduler(strict=True, **{**WarmupCooldownScheduler.only_watching, **arguments})
    run = trainer(ours, finder, logger=board, max_epochs=SIZE.epochs)
    module = module or Tuned()
    expected = steps_without_ours(copy.deepcopy(finder), copy.deepcopy(module))
    run.fit(module, rows(SIZE))
    assert run.global_step == expected
    assert accusations(ours) == []
    return run


def steps_without_ours(finder: LearningRateFinder, module: Tuned) -> int:
    """How long the run is: 80 steps, but an older Lightning (2.5.0) goes on in the epoch where the test ended."""
    run = trainer(finder, logger=False, max_epochs=SIZE.epochs)
    with torch.random.fork_rng():
        run.fit(module, rows(SIZE))
    assert 40 < run.global_step <= 80
    return run.global_step


@pytest.mark.parametrize("arguments", [{}, {"warmup": 10, "cooldown": 0.2}], ids=["watching", "acting"])
def test_loss_and_rate_picture_and_suggestion_are_drawn(arguments: dict[str, Any], tmp_path: Path) -> None:
    board, finder = TensorBoardLogger(tmp_path), LearningRateFinder(num_training_steps=30)
    fitted(board, finder, **arguments)
    result: Any = finder.optimal_lr
    events = read(board.log_dir)
    for word, key in (("loss", "loss"), ("rate", "lr")):
        drawn = events.Scalars(f"{PREFIX}/{word}")
        assert [each.step for each in drawn] == list(range(len(result.results[key])))
        assert [each.value for each in drawn] == pytest.approx(result.results[key], rel=1e-6)
    (picture,) = events.Images(PREFIX)
    assert (picture.width, picture.height, picture.step) == (640, 400, 0)
    with Image.open(io.BytesIO(picture.encoded_image_string)) as image:
        colours = image.convert("RGB").getcolors(1 << 16)
    assert colours is not None
    assert len(colours) > 20  # there is something on it
    assert any(red > 200 and green < 60 and blue < 60 for _, (red, green, blue) in colours)  # the dot of the suggestion
    first, last = (result.results["lr"][place] for place in (0, -1))
    assert texts(events, f"{PREFIX}/summary/text_summary") == [
        f"Range test over {len(result.results['lr'])} steps, from {first:.3g} to {last:.3g}, seen at step 0: "
        f"suggested rate: **{result.suggestion():.3g}**"
    ]


def test_the_range_test_runs_with_the_rates_of_lightning(tmp_path: Path) -> None:
    found = []
    for arguments in ({}, {"warmup": 10, "cooldown": 0.2}):
        finder = LearningRateFinder(num_training_steps=30)
        torch.manual_seed(1)
        fitted(False, finder, **arguments)
        result: Any = finder.optimal_lr
        found.append((result.results, result.suggestion()))
    assert found[0] == found[1]


def test_the_curves_have_charts_of_their_own(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    fitted(board, LearningRateFinder(num_training_steps=20))
    (folder,) = {file.parent for file in tmp_path.rglob("events.out*") if file.parent != Path(board.log_dir)}
    (event, *_) = read(str(folder)).Tensors("custom_scalars__config__")
    layout = cast(Any, layout_pb2).Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for each in layout.category for chart in each.chart}
    assert charts["learning-rate range test: loss"] == ["^(.+-)?learning_rate/range_test/loss$"]
    assert charts["learning-rate range test: rate"] == ["^(.+-)?learning_rate/range_test/rate$"]


class Twice(LearningRateFinder):
    """Has another result at the end, as of a test that was made in the middle of the run."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        first: Any = self.optimal_lr
        if trainer.current_epoch == 1:
            second = type(first)(first.mode, first.lr_min, first.lr_max, first.num_training)
            second.results = {key: values[:-2] for key, values in first.results.items()}
            self.optimal_lr = second


def test_each_test_is_drawn_once(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    run = fitted(board, Twice(num_training_steps=20))
    summaries = texts(read(board.log_dir), f"{PREFIX}/summary/text_summary")
    assert [text.partition(": ")[0].partition(", from")[0] for text in summaries] == [
        "Range test over 20 steps",
        "Range test over 18 steps",
    ]
    assert ["seen at step 0:" in summaries[0], f"seen at step {run.global_step}:" in summaries[1]] == [True, True]


def test_the_result_of_the_tuner_is_drawn_too(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    ours = WarmupCooldownScheduler(strict=True)
    run = trainer(ours, logger=board, max_epochs=SIZE.epochs)
    module = Tuned()
    result: Any = Tuner(run).lr_find(module, rows(SIZE), num_training=25)
    assert module.lr == result.suggestion() != 1e-3
    run.fit(module, rows(SIZE))
    assert run.global_step == 80
    events = read(board.log_dir)
    assert [each.value for each in events.Scalars(f"{PREFIX}/rate")] == pytest.approx(result.results["lr"], rel=1e-6)
    assert len(events.Images(PREFIX)) == 1
    assert texts(events, f"{PREFIX}/summary/text_summary")[0].endswith(f"suggested rate: **{result.suggestion():.3g}**")
    used = events.Scalars("learning_rate/used/Adam")
    assert used[0].step == 0


def test_without_matplotlib_there_is_no_picture_and_all_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_test, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # to import it fails
    board, finder = TensorBoardLogger(tmp_path), LearningRateFinder(num_training_steps=30)
    fitted(board, finder)
    events = read(board.log_dir)
    assert events.Tags()["images"] == []
    assert len(events.Scalars(f"{PREFIX}/loss")) == len(events.Scalars(f"{PREFIX}/rate")) > 20
    assert "suggested rate: **" in texts(events, f"{PREFIX}/summary/text_summary")[0]


def test_matplotlib_is_left_as_it_was(tmp_path: Path) -> None:
    from matplotlib import pyplot

    before = (pyplot.get_fignums(), pyplot.get_backend())
    fitted(TensorBoardLogger(tmp_path), LearningRateFinder(num_training_steps=20))
    assert (pyplot.get_fignums(), pyplot.get_backend()) == before


def test_a_loss_that_is_not_finite_is_left_out(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    finder = LearningRateFinder(num_training_steps=30, update_attr=False, early_stop_threshold=None)
    fitted(board, finder, Breaking())
    result: Any = finder.optimal_lr
    events = read(board.log_dir)
    finite = [step for step, loss in enumerate(result.results["loss"]) if math.isfinite(loss)]
    assert 0 < len(finite) < len(result.results["loss"])
    assert [each.step for each in events.Scalars(f"{PREFIX}/loss")] == finite
    assert len(events.Scalars(f"{PREFIX}/rate")) == len(result.results["lr"])


def test_a_test_of_too_few_steps_has_no_suggestion(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    fitted(board, LearningRateFinder(num_training_steps=8, update_attr=False))
    (said,) = texts(read(board.log_dir), f"{PREFIX}/summary/text_summary")
    assert said.endswith("seen at step 0: no suggestion: too few losses")


def test_other_loggers_get_no_steps_of_the_range_test(tmp_path: Path) -> None:
    file = CSVLogger(tmp_path)
    fitted(file, LearningRateFinder(num_training_steps=30))
    assert "range_test" not in (Path(file.log_dir) / "metrics.csv").read_text(encoding="utf-8")
