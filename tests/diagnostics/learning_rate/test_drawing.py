"""What is drawn, and where: tags, charts, groups, and how much of it."""

import csv
import itertools
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch import nn
from torch.optim import lr_scheduler
from typing_extensions import override

from lightning_diagnostics import WarmupCooldownScheduler
from lightning_diagnostics.callback import is_look
from lightning_diagnostics.diagnostics.learning_rate.drawing import drawn_groups, used
from lightning_diagnostics.diagnostics.learning_rate.measure import Used
from tests.diagnostics.learning_rate.networks import adam, by, cosine_by_step, layer_wise_decay, no_scheduler
from tests.diagnostics.learning_rate.networks_data import ByHand, Regression, Size, rows
from tests.helpers import trainer

SIZE = Size(3, 20)
WATCHING = dict(WarmupCooldownScheduler.only_watching)


class Stops(Callback):
    """Ends the run at a step."""

    def __init__(self, step: int = 1) -> None:
        self.step = step

    @override
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.step


def run(configure: Any, *loggers: Any, kind: type[Regression] = Regression, stop: int = 0, **settings: Any) -> Any:
    """Train; gives the callback."""
    own = {key: settings.pop(key) for key in ("warmup", "cooldown", "every_n_train_steps") if key in settings}
    ours = WarmupCooldownScheduler(**{"strict": True, **WATCHING, **own})
    fitted = trainer(
        ours, *([Stops(stop)] if stop else []), **{"logger": list(loggers), "max_epochs": SIZE.epochs, **settings}
    )
    torch.manual_seed(0)
    fitted.fit(kind(configure, SIZE), rows(SIZE))
    return ours


def read(board: TensorBoardLogger) -> EventAccumulator:
    return EventAccumulator(board.log_dir, size_guidance={"scalars": 0}).Reload()


def tags(board: TensorBoardLogger) -> set[str]:
    return {tag for tag in read(board).Tags()["scalars"] if tag.startswith("learning_rate/")}


def test_what_only_watches_draws_the_plan_and_what_is_used(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    run(cosine_by_step, board)
    assert tags(board) == {"learning_rate/planned/AdamW", "learning_rate/used/AdamW"}


def test_what_acts_draws_its_factor_too(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    run(no_scheduler, board, warmup=10, cooldown=20, every_n_train_steps=1)
    assert tags(board) == {f"learning_rate/{word}/AdamW" for word in ("planned", "used", "factor")}
    events = read(board)
    factors = {each.step: each.value for each in events.Scalars("learning_rate/factor/AdamW")}
    rates = {each.step: each.value for each in events.Scalars("learning_rate/used/AdamW")}
    assert list(factors) == list(rates) == list(range(60))
    assert (factors[0], factors[9], factors[39]) == (pytest.approx(0.1), 1.0, 1.0)
    assert rates == {step: pytest.approx(1e-2 * factor, rel=1e-6) for step, factor in factors.items()}


def test_groups_have_the_names_that_they_were_given(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    run(layer_wise_decay, board)
    groups = {f"AdamW/layer{place}" for place in range(4)}
    assert tags(board) == {f"learning_rate/{word}/{group}" for word in ("planned", "used") for group in groups}


@pytest.mark.parametrize("every", [1, 7, 50])
def test_what_is_used_is_drawn_at_looks(every: int, tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    run(cosine_by_step, board, every_n_train_steps=every, max_epochs=1)
    looks = [step for step in range(20) if is_look(step, batches=20, every=every)]
    assert [each.step for each in read(board).Scalars("learning_rate/used/AdamW")] == looks


def test_in_manual_optimisation_the_plan_is_drawn_over_batches(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    run(no_scheduler, board, kind=ByHand, warmup=10, cooldown=20, every_n_train_steps=1)
    events = read(board)
    planned, used = (
        {each.step: each.value for each in events.Scalars(tag)}
        for tag in ("learning_rate/planned/AdamW", "learning_rate/used/AdamW")
    )
    assert planned == used
    assert list(planned) == list(range(60))


# The charts.


def charts(folder: Path, board: TensorBoardLogger) -> dict[str, list[str]]:
    """Tags by title, of the layout that was written last."""
    (file,) = {each.parent for each in folder.rglob("events.out*") if each.parent != Path(board.log_dir)}
    events = EventAccumulator(str(file), size_guidance={"tensors": 0}).Reload().Tensors("custom_scalars__config__")
    layout = cast(Any, layout_pb2).Layout.FromString(events[-1].tensor_proto.string_val[0])
    (category,) = [each for each in layout.category if each.title == "learning rate"]
    return {chart.title: list(chart.multiline.tag) for chart in category.chart}


def test_the_plan_and_what_is_used_share_a_chart_for_each_group(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    run(layer_wise_decay, board, warmup=10)
    found = charts(tmp_path, board)
    assert list(found) == [
        "factor of warmup and cooldown",
        *(f"learning rate: AdamW/layer{place}" for place in range(4)),
    ]
    assert found["learning rate: AdamW/layer2"] == [
        "^(.+-)?learning_rate/planned/AdamW/layer2$",
        "^(.+-)?learning_rate/used/AdamW/layer2$",
    ]
    assert found["factor of warmup and cooldown"] == ["^(.+-)?learning_rate/factor/.+$"]


def test_what_only_watches_has_no_chart_of_factors(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    run(cosine_by_step, board)
    assert list(charts(tmp_path, board)) == ["learning rate: AdamW"]


# How many groups.


class Deep(Regression):
    """Has a group for each of thirty layers."""

    def __init__(self, configure: Any, size: Size) -> None:
        super().__init__(configure, size)
        self.more = nn.ModuleList(nn.Linear(2, 2) for _ in range(30))


def a_group_for_each_layer(module: Regression) -> Any:
    layers = cast(Any, module).more
    groups = [
        {"params": each.parameters(), "lr": 1e-3 * (1 + place), "name": f"layer{place}"}
        for place, each in enumerate(layers)
    ]
    return torch.optim.SGD([*groups, {"params": module.net.parameters(), "lr": 1e-2, "name": "net"}])


def test_of_many_groups_twelve_are_drawn_the_first_and_the_last_among_them(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    run(a_group_for_each_layer, board, kind=Deep, warmup=10)
    for word in ("planned", "used", "factor"):
        found = {tag.rpartition("/")[2] for tag in tags(board) if f"/{word}/" in tag}
        assert len(found) == 12
        assert {"layer0", "net"} <= found
    assert len(charts(tmp_path, board)) == 13


@pytest.mark.parametrize(("groups", "expected"), [(1, 1), (11, 11), (12, 12), (13, 12), (500, 12)])
def test_groups_are_drawn_evenly_spread(groups: int, expected: int) -> None:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)]} for _ in range(groups)], lr=0.1)
    places = [index for _, index, _ in drawn_groups({0: optimizer}, ["SGD"])]
    assert len(places) == len(set(places)) == expected
    assert (places[0], places[-1]) == (0, groups - 1)
    steps = [later - earlier for earlier, later in itertools.pairwise(places)]
    assert not steps or max(steps) - min(steps) <= 1


def test_the_groups_of_all_optimizers_count_together() -> None:
    optimizers = {place: torch.optim.SGD([{"params": [torch.zeros(1)]} for _ in range(10)], lr=0.1) for place in (0, 2)}
    found = drawn_groups(optimizers, ["SGD", "of another kind", "SGD-1"])
    assert len(found) == 12
    assert {name.partition("/")[0] for _, _, name in found} == {"SGD", "SGD-1"}
    assert {place for place, _, _ in found} == {0, 2}


def test_a_group_without_a_rate_or_of_later_on_is_left_out() -> None:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)]} for _ in range(3)], lr=0.1)
    found = used({0: [torch.tensor(0.5), None]}, {0: [0.25]}, {0: optimizer}, ["SGD"])
    assert found == [Used("SGD/pg1", 0.5, 0.25)]
    assert used({0: [0.5, 0.75]}, {}, {0: optimizer}, ["SGD"])[1] == Used("SGD/pg2", 0.75, None)


# Who gets it.


def test_only_tensorboard_gets_the_plan(tmp_path: Path) -> None:
    board, file = TensorBoardLogger(tmp_path), CSVLogger(tmp_path / "file")
    run(cosine_by_step, board, file, warmup=10, every_n_train_steps=1, stop=30)
    assert max(each.step for each in read(board).Scalars("learning_rate/planned/AdamW")) == 59
    with (Path(file.log_dir) / "metrics.csv").open(encoding="utf-8") as text:
        lines = list(csv.DictReader(text))
    assert max(int(line["step"]) for line in lines) <= 30
    assert "learning_rate/planned/AdamW" not in lines[0]
    assert {"learning_rate/used/AdamW", "learning_rate/factor/AdamW"} <= set(lines[0])
    assert [int(line["step"]) for line in lines if line["learning_rate/used/AdamW"]] == list(range(30))


def test_without_a_logger_nothing_is_drawn_and_all_is_judged() -> None:
    def configure(module: Regression) -> Any:
        optimizer = adam(module)
        return by(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, 200), "step")

    ours = run(configure, logger=False)
    assert {finding.code for finding in ours.findings} == {"LR801"}


# How much.


def slowly(module: Regression) -> Any:
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.StepLR(optimizer, 100, 0.99), "step")


def test_a_million_planned_steps_are_drawn_in_some_two_hundred_points(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    run(no_scheduler, board, warmup=0.1, cooldown=0.2, max_epochs=-1, max_steps=1_000_000, stop=3)
    planned = read(board).Scalars("learning_rate/planned/AdamW")
    assert 200 <= len(planned) <= 202
    assert (planned[0].step, planned[-1].step) == (0, 999_999)
    assert planned[-1].value > 0
    assert sum(file.stat().st_size for file in Path(board.log_dir).rglob("events.out*")) < 40_000


@pytest.mark.parametrize(
    ("length", "points"), [(60, 60), (200, 200), (399, 399), (400, 201), (2_000, 201), (20_050, 202)]
)
def test_a_schedule_is_drawn_in_as_many_points_whatever_its_length(length: int, points: int, tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    run(slowly, board, warmup=0.1, max_epochs=-1, max_steps=length, stop=3)
    planned = read(board).Scalars("learning_rate/planned/AdamW")
    assert (len(planned), planned[0].step, planned[-1].step) == (points, 0, length - 1)


def test_twelve_groups_of_a_million_steps_are_bounded_too(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    run(a_group_for_each_layer, board, kind=Deep, warmup=0.1, max_epochs=-1, max_steps=1_000_000, stop=3)
    assert sum(file.stat().st_size for file in Path(board.log_dir).rglob("events.out*")) < 250_000
