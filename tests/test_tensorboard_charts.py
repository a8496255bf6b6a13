"""A chart for each layer, charts with bands side by side, and texts: read back from the event files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch.utils.tensorboard import SummaryWriter

from lightning_diagnostics import tensorboard
from tests.callback.scripted import Act, Scripted
from tests.helpers import fit, trainer
from tests.patients import Student


@dataclass(frozen=True)
class _Gap:
    """As of a metric, which the field `layer` names."""

    layer: str
    gap: float | None = tensorboard.quantity(
        tag="gap/{layer}", unit="1", how="subtracted", chart="{layer}: gap", band=("low", "high")
    )
    low: float | None = tensorboard.quantity(tag="gap_low/{layer}", unit="1", how="less")
    high: float | None = tensorboard.quantity(tag="gap_high/{layer}", unit="1", how="more")
    train: float | None = tensorboard.quantity(tag="train/{layer}", unit="1", how="read", chart="{layer}: gap")
    change: float | None = tensorboard.quantity(tag="change/{layer}", unit="1", how="divided", chart="changes")
    first: float | None = tensorboard.quantity(tag="first/{layer}", unit="1", how="read", chart="{layer}: times")
    last: float | None = tensorboard.quantity(tag="last/{layer}", unit="1", how="read", chart="{layer}: times")


@dataclass(frozen=True)
class _Told:
    caption: tensorboard.Text | None = tensorboard.quantity(tag="room/caption", unit="words", how="told")
    number: float | None = tensorboard.quantity(tag="room/number", unit="1", how="counted", chart="numbers")


def _gap(layer: str, **more: float) -> _Gap:
    values = dict.fromkeys(("gap", "low", "high", "train", "change", "first", "last"))
    return _Gap(layer, **{**values, **more})


def _line(tag: str) -> tuple[str, str, str]:
    return (tag, tag, tag)


BAND = {"gap": 1.0, "low": 0.5, "high": 1.5}
CHANGES = tensorboard.Chart(("^(.+-)?change/.+$",))


# A chart for each.


def test_a_title_with_a_place_for_the_layer_makes_a_chart_of_each_measurement() -> None:
    acc, loss = _gap("val acc", **BAND, train=1.0), _gap("loss_{layer}", train=1.0, change=0.0)
    assert tensorboard.layout(acc, loss) == {
        "val acc: gap": tensorboard.Chart(
            ("gap/val acc", "gap_low/val acc", "gap_high/val acc", *_line("train/val acc")), band=True
        ),
        "loss_{layer}: gap": tensorboard.Chart(_line("train/loss__layer_"), band=True),
        "changes": CHANGES,
    }


def test_a_chart_without_bands_for_each_has_the_tags_of_its_own_layer_alone() -> None:
    charts = tensorboard.layout(_gap("a.b", first=1.0, last=2.0), _gap("c", last=2.0))
    assert charts == {
        "a.b: times": tensorboard.Chart((r"^(.+-)?first/a\.b$", r"^(.+-)?last/a\.b$")),
        "c: times": tensorboard.Chart(("^(.+-)?last/c$",)),
    }


def test_of_a_class_such_charts_are_left_out() -> None:
    assert tensorboard.layout(_Gap) == {"changes": CHANGES}
    assert list(tensorboard.layout(_Gap, _gap("a", train=1.0))) == ["changes", "a: gap"]


# Charts with bands side by side.


def _layouts(folder: Path) -> list[dict[str, list[str]]]:
    """The titles of the charts by category, of every layout that was written to a run."""
    files = sorted(folder.iterdir())
    return [
        {category.title: [chart.title for chart in category.chart] for category in _layout(file).category}
        for file in files
    ]


def _layout(file: Path) -> Any:
    (event,) = EventAccumulator(str(file), size_guidance={"tensors": 0}).Reload().Tensors("custom_scalars__config__")
    return layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])


def _banded(*titles: str) -> dict[str, tensorboard.Chart]:
    return {title: tensorboard.Chart(_line("a"), band=True) for title in titles}


@pytest.mark.parametrize(
    ("charts", "expected"),
    [
        ({**_banded("a"), "plain": CHANGES}, {"a": ["a"], "room": ["plain"]}),
        ({"plain": CHANGES, **_banded("a", "b")}, {"room": ["a", "b"], "room: more": ["plain"]}),
        (_banded("a", "b", "c"), {"room": ["a", "b", "c"]}),
        ({"plain": CHANGES}, {"room": ["plain"]}),
    ],
)
def test_several_charts_with_bands_stand_together_and_none_below_plain_ones(
    charts: dict[str, tensorboard.Chart], expected: dict[str, list[str]], tmp_path: Path
) -> None:
    tensorboard.write_layout(str(tmp_path), {"room": charts, "other": {"last": CHANGES}})
    (found,) = _layouts(tmp_path)
    assert found == {**expected, "other": ["last"]}
    assert list(found) == [*expected, "other"]


# Texts.

WORDS = tensorboard.Text("**64** of *1,797* samples\n\n| a | b |\n|---|---|\n| ä | <b> |")


def _texts(folder: Path, tag: str) -> list[tuple[int, str]]:
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    assert tag in events.PluginTagToContent("text")
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in events.Tensors(tag)]


def test_a_text_is_drawn_and_is_no_number() -> None:
    assert tensorboard.drawn(_Told(WORDS, 2)) == {"room/caption": WORDS, "room/number": 2.0}
    assert tensorboard.drawn(_Told(None, None)) == {}
    assert tensorboard.scalars(tensorboard.drawn(_Told(WORDS, 2))) == {"room/number": 2.0}


def test_a_text_written_with_numbers_is_read_back_as_one_of_add_text(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "ours") as writer:
        assert tensorboard.write_values(writer, {"a": 1.0, "room/caption": WORDS, "b": 2.0}, step=7)
    with SummaryWriter(tmp_path / "theirs") as writer:
        writer.add_text("room/caption", WORDS.markdown, 7)
    with SummaryWriter(tmp_path / "one by one") as writer:
        tensorboard.write_texts(writer, {"a": 1.0, "room/caption": WORDS}, step=7)
    for name in ("ours", "theirs", "one by one"):
        assert _texts(tmp_path / name, "room/caption/text_summary") == [(7, WORDS.markdown)]
    events = EventAccumulator(str(tmp_path / "ours")).Reload()
    assert [events.Scalars(tag)[0].value for tag in ("a", "b")] == [1.0, 2.0]
    assert EventAccumulator(str(tmp_path / "one by one")).Reload().Tags()["scalars"] == []


# A real run.


def _lays_out(*measurements: object) -> Act:
    def act(callback: Scripted, trainer: Trainer, step: int) -> None:
        callback.draw(trainer, *measurements, step=step)
        callback.lay_out("room", *measurements)

    return act


def test_in_a_run_the_charts_of_later_layers_come_after_the_first_and_none_goes(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="run")
    acc, bare = _gap("acc", **BAND, change=0.0), _gap("loss", gap=1.0)
    script = {
        1: [_lays_out(acc, _Told(WORDS, 1.0))],
        2: [_lays_out(acc)],
        3: [_lays_out(bare, _gap("acc", first=1.0))],
        4: [_lays_out(_gap("loss", **BAND), _gap("acc", last=1.0))],
        5: [_lays_out(acc, bare)],
    }
    fit(trainer(Scripted(script), logger=logger), Student())
    folder = Path(logger.log_dir) / "diagnostics"
    assert _layouts(folder) == [
        {"acc: gap": ["acc: gap"], "room": ["changes", "numbers"]},
        {"room": ["acc: gap", "loss: gap"], "room: more": ["changes", "numbers", "acc: times"]},
        {"room": ["acc: gap", "loss: gap"], "room: more": ["changes", "numbers", "acc: times"]},
    ]
    loss, (first, last) = _last(folder, "loss: gap"), _last(folder, "acc: times").multiline.tag
    assert [(each.value, each.lower, each.upper) for each in loss.margin.series] == [
        ("gap/loss", "gap_low/loss", "gap_high/loss")
    ]
    assert (first, last) == ("^(.+-)?first/acc$", "^(.+-)?last/acc$")
    assert _texts(Path(logger.log_dir), "room/caption/text_summary") == [(1, WORDS.markdown)]


def _last(folder: Path, title: str) -> Any:
    layout = _layout(sorted(folder.iterdir())[-1])
    return next(chart for category in layout.category for chart in category.chart if chart.title == title)
