"""Findings, curves, histograms and layout in TensorBoard: read back from the event file, and rendered as it does."""

import html
import re
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image as Pillow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.custom_scalar import layout_pb2
from torch import Tensor
from torch.nn import Linear, ReLU, Sequential, Tanh
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from lightning_diagnostics import ActivationMonitor, Finding, GraphLeakDetector, Severity, tensorboard
from lightning_diagnostics.diagnostics.activations.measure import LayerActivations, Overview
from tests.helpers import fit, trainer
from tests.patients import BATCHES, LossList, RunningLoss, Student, loader

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of the HTML sanitizer that TensorBoard carries with it
    from tensorboard import plugin_util

TAG = "diagnostics/findings/text_summary"
TOLD = 6  # the step at which a graph kept since step 0 is told of
ROWS = ["name", "where", "when", "what is wrong", "what to do", "how we know"]


def _finding(text: str = "text", **more: Any) -> Finding:
    words: dict[str, Any] = {"severity": Severity.WARNING, "evidence": {"holder": text}, "where": text}
    words |= {"first_step": 3, "last_step": 9, "message": text, "remedy": text}
    return Finding(code="TST101", name="some-illness", **{**words, **more})


def _shown(markdown: str) -> tuple[str, list[list[str]]]:
    """What a reader of TensorBoard sees: the text before the tables, and the right column of the table of each finding.

    That the left column is as it should be, and that nothing stands between and after the tables, is checked here.
    """
    before, *tables = plugin_util.markdown_to_safe_html(markdown).split("<table>")
    return re.sub("</?p>", "", before).strip(), [_right_column(table) for table in tables]


def _right_column(table: str) -> list[str]:
    inside, after = table.split("</table>")
    rows = [
        re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.DOTALL) for row in re.findall(r"<tr>(.*?)</tr>", inside, re.DOTALL)
    ]
    assert after.strip() == ""
    assert [left for left, _ in rows] == ROWS
    return [_seen(right) for _, right in rows]


def _column(*findings: Finding, row: str) -> list[str]:
    """One row's words for each of the findings."""
    _, tables = _shown(tensorboard.findings_table(findings))
    return [table[ROWS.index(row)] for table in tables]


def _seen(cell: str) -> str:
    """The text of a cell; any markup but that of code is kept, so that it is noticed."""
    return html.unescape(re.sub(r"</?code>", "", cell))


def _events(folder: str) -> EventAccumulator:
    return EventAccumulator(folder, size_guidance={"tensors": 0, "scalars": 0}).Reload()


def _tables(folder: str) -> list[tuple[int, list[list[str]]]]:
    """Step and tables of every record of the findings in the event file."""
    events = _events(folder)
    if TAG not in events.Tags()["tensors"]:
        return []
    return [(e.step, _shown(e.tensor_proto.string_val[0].decode())[1]) for e in events.Tensors(TAG)]


# The table.


@pytest.mark.parametrize(
    "text",
    [
        *("a|b", r"a\|b", r"ends with \ "[:-1], "a || b", "`a|b`", "|", "<b>bold</b>", "train.<locals>.<lambda>"),
        *("&lt;", "a & b", "__init__", "self.__dict__['a']", "_x_ _y_", "x * y * z", "**bold**", "`code`"),
        *("[a](http://b)", "outs[0](x)", "![a](b)", "http://b", "# a", "- a", "1. a", "self.running_loss += loss"),
        *("\\_a\\_", "a_", "~a~", "'a' \"b\"", "Größe ≤ µ", "<script>alert(1)</script>", "&#124;"),
    ],
)
def test_a_finding_is_shown_letter_for_letter(text: str) -> None:
    seen = ["WARNING: TST101 some-illness", text, "steps 3 to 9 (open)", text, text, f"holder = {text}"]
    assert _shown(tensorboard.findings_table([_finding(text)])) == ("", [seen])
    assert _shown(tensorboard.findings_table([_finding(text), _finding(text)])) == ("2 findings", [seen, seen])


@pytest.mark.parametrize("break_", ["\n", "\r\n", "\r", "\n\n", "\n| --- |\n", "\v", "\u2028"])
def test_a_line_break_does_not_break_a_row(break_: str) -> None:
    assert _column(_finding(f"one{break_}two"), row="what is wrong") == [" ".join(f"one{break_}two".split())]


def test_names_with_underscores_can_be_searched_for_in_the_raw_text() -> None:
    assert "model.running_loss" in tensorboard.findings_table([_finding("model.running_loss")])


def test_every_finding_is_a_table_in_the_order_given_and_a_note_is_called_one_and_comes_last() -> None:
    closed = _finding(where=None, status="closed", severity=Severity.ERROR, evidence={})
    note = _finding(severity=Severity.INFO)
    count, (first, second, last) = _shown(tensorboard.findings_table([note, _finding(), closed]))
    assert count == "2 findings, 1 note"
    assert [table[0].split(":")[0] for table in (first, second, last)] == ["WARNING", "ERROR", "note"]
    assert second[1:3] == ["the run", "steps 3 to 9 (closed)"]
    assert second[5] == ""


def test_evidence_of_any_kind_and_a_single_step_are_told_in_words() -> None:
    assert _column(_finding(evidence={"a": 1, "b": None}), row="how we know") == ["a = 1, b = None"]
    assert _column(_finding(last_step=3), row="when") == ["step 3 (open)"]


@pytest.mark.parametrize(
    ("findings", "notes", "count"),
    [
        *((1, 0, ""), (0, 1, ""), (2, 0, "2 findings"), (1, 1, "1 finding, 1 note")),
        *((3, 1, "3 findings, 1 note"), (1, 2, "1 finding, 2 notes"), (0, 2, "no findings, 2 notes")),
    ],
)
def test_more_than_one_finding_is_counted(findings: int, notes: int, count: str) -> None:
    every = [_finding()] * findings + [_finding(severity=Severity.INFO)] * notes
    assert _shown(tensorboard.findings_table(every))[0] == count


def test_without_findings_the_table_says_so() -> None:
    assert tensorboard.findings_table([]) == "No findings."


def test_the_last_record_is_the_whole_table_and_is_on_the_disk_at_once(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path) as writer:
        findings = []
        for step in range(12):  # more than TensorBoard samples of a text
            findings.append(_finding(f"place {step}"))
            tensorboard.write_findings([writer], findings, step=step)
            step_read, tables = _tables(str(tmp_path))[-1]
            assert step_read == step
            assert [table[1] for table in tables] == [f"place {index}" for index in range(step + 1)]


def test_curves_and_charts_are_written_without_tensorflow_even_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tensorboard.compat.tf", None)  # what TensorBoard hands out there has other files
    tensorboard.write_run(str(tmp_path / "run"), [(1, 0.0, {"evp/median": 0.5})])
    chart = tensorboard.Chart(("evp/median",))
    tensorboard.write_layout(str(tmp_path / "charts"), {"curve": {"median": chart}})
    for place in ("run", "charts"):
        (file,) = (tmp_path / place).iterdir()
        assert file.stat().st_size > 0


def test_only_experiments_that_are_summary_writers_are_written_to(tmp_path: Path) -> None:
    class AnswersToEverything:
        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: None

    with SummaryWriter(tmp_path) as writer:
        assert tensorboard.text_writers([AnswersToEverything(), writer, object(), None]) == [writer]


# Quantities.


@dataclass(frozen=True)
class _Measured:
    name: str
    count: int | None = tensorboard.quantity(tag="room/count", unit="steps", how="counted")
    share: float | None = tensorboard.quantity(tag="room/share", unit="1", how="divided")


def test_the_drawn_fields_of_a_measurement_are_described_and_the_others_are_not() -> None:
    count, share = (
        tensorboard.Quantity(*q) for q in (("room/count", "steps", "counted"), ("room/share", "1", "divided"))
    )
    for measured in (_Measured, _Measured("a", 1, 2.0)):
        assert tensorboard.quantities(measured) == {"count": count, "share": share}


def test_zero_is_drawn_and_what_could_not_be_measured_is_not() -> None:
    assert tensorboard.drawn(_Measured("a", 0, None)) == {"room/count": 0.0}
    assert type(tensorboard.drawn(_Measured("a", 0, None))["room/count"]) is float


@dataclass(frozen=True)
class _OfLayer:
    layer: str
    mean: float = tensorboard.quantity(tag="room/mean/{layer}", unit="1", how="divided", chart="mean by layer")
    std: float | None = tensorboard.quantity(tag="room/std/{layer}", unit="1", how="rooted", chart="mean by layer")
    spread: tensorboard.Histogram | None = tensorboard.quantity(tag="room/spread/{layer}", unit="1", how="counted")
    low: float = tensorboard.quantity(tag="room/low.all", unit="1", how="compared", chart="low")


def _histogram(*counts: float, low: float = 0.1, high: float = 0.9, end: float = 1.0) -> tensorboard.Histogram:
    """From 0 on, in as many buckets as there are counts."""
    edges = tuple(end * index / len(counts) for index in range(len(counts) + 1))
    return tensorboard.Histogram(edges, counts, low, high, 0.5 * sum(counts), 0.25 * sum(counts))


def test_numbers_and_histograms_are_told_apart() -> None:
    histogram = _histogram(1, 2)
    values = tensorboard.drawn(_OfLayer("a", 1.0, None, histogram, 0.0))
    assert values == {"room/mean/a": 1.0, "room/spread/a": histogram, "room/low.all": 0.0}
    assert tensorboard.scalars(values) == {"room/mean/a": 1.0, "room/low.all": 0.0}


@pytest.mark.parametrize(
    ("layer", "tag"),
    [
        *(("block1.act", "block1.act"), ("a/relu.2", "a/relu.2"), ("a b-c_d", "a b-c_d"), ("a:b", "a_b")),
        *(("a[0]", "a_0_"), ("größe", "gr__e"), ("{layer}", "_layer_"), ("<lambda>", "_lambda_"), ("a#1%", "a_1_")),
    ],
)
def test_a_layer_stands_in_a_tag_with_the_characters_that_loggers_allow(layer: str, tag: str) -> None:
    assert list(tensorboard.drawn(_OfLayer(layer, 1.0, None, None, 0.0))) == [f"room/mean/{tag}", "room/low.all"]


def test_a_layout_has_the_charts_of_the_fields_and_patterns_that_match_their_tags_alone() -> None:
    charts = tensorboard.layout(_OfLayer, _Measured)
    assert list(charts) == ["mean by layer", "low"]
    mean, std = charts["mean by layer"].tags
    values = tensorboard.drawn(_OfLayer("block1/relu.2", 1.0, 2.0, _histogram(1, 2), 0.0))
    (low,) = charts["low"].tags
    found = {pattern: [tag for tag in values if re.search(pattern, tag)] for pattern in (mean, std, low)}
    assert list(found.values()) == [["room/mean/block1/relu.2"], ["room/std/block1/relu.2"], ["room/low.all"]]
    assert not re.search(low, "room/low_all")
    assert not any(chart.band for chart in charts.values())


def test_the_layout_of_measurements_has_only_what_they_have_values_for_each_once() -> None:
    one, other = (_OfLayer(name, 1.0, std, None, 0.0) for name, std in (("a", None), ("b", 1.0)))
    mean, low = tensorboard.Chart(("^(.+-)?room/mean/.+$",)), tensorboard.Chart((r"^(.+-)?room/low\.all$",))
    assert tensorboard.layout(one) == {"mean by layer": mean, "low": low}
    both = tensorboard.Chart(("^(.+-)?room/mean/.+$", "^(.+-)?room/std/.+$"))
    assert tensorboard.layout(one, other) == {"mean by layer": both, "low": low}


@dataclass(frozen=True)
class _OfOptimizer:
    layer: str
    norm: float | None = tensorboard.quantity(tag="room/norm/{layer}", unit="1", how="rooted", chart="norm")
    mean: float | None = tensorboard.quantity(
        tag="room/mean/{layer}", unit="1", how="divided", chart="norm", band=("lower", "upper")
    )
    lower: float | None = tensorboard.quantity(tag="room/lower/{layer}", unit="1", how="less")
    upper: float | None = tensorboard.quantity(tag="room/upper/{layer}", unit="1", how="more")
    rate: float | None = tensorboard.quantity(tag="room/rate/{layer}", unit="1", how="read", chart="rate")


def _three(field: str, layer: str = "Adam") -> tuple[str, ...]:
    return (f"room/{field}/{layer}",) * 3


BAND = ("room/mean/Adam", "room/lower/Adam", "room/upper/Adam")
FULL = _OfOptimizer("Adam", norm=1.0, mean=3.0, lower=2.5, upper=3.5, rate=0.1)


def test_a_chart_with_a_band_has_tags_in_threes_and_a_line_without_one_is_its_own_edges() -> None:
    assert tensorboard.layout(FULL) == {
        "norm": tensorboard.Chart((*_three("norm"), *BAND), band=True),
        "rate": tensorboard.Chart(("^(.+-)?room/rate/.+$",)),
    }


@pytest.mark.parametrize("edges", [(None, None), (2.5, None), (None, 3.5)])
def test_a_band_without_both_of_its_edges_is_a_line(edges: tuple[float | None, float | None]) -> None:
    charts = tensorboard.layout(_OfOptimizer("Adam", None, 3.0, *edges, None))
    assert charts == {"norm": tensorboard.Chart(_three("mean"), band=True)}


def test_the_bands_of_several_measurements_are_on_one_chart_each_once() -> None:
    one, other = (_OfOptimizer(name, 1.0, None, None, None, None) for name in ("a b", "c:d"))
    charts = tensorboard.layout(one, other, one)
    assert charts == {"norm": tensorboard.Chart((*_three("norm", "a b"), *_three("norm", "c_d")), band=True)}


def test_of_a_class_a_chart_with_bands_is_named_and_empty() -> None:
    charts = tensorboard.layout(_OfOptimizer)
    assert list(charts) == ["norm", "rate"]
    assert charts["norm"] == tensorboard.Chart((), band=True)


# What was written is read back.


def _read(folder: Path) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Step and value of all scalars, and step and fields of all histograms."""
    events = EventAccumulator(str(folder), size_guidance={"histograms": 0, "scalars": 0}).Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    histograms = {
        tag: [(e.step, e.histogram_value) for e in events.Histograms(tag)] for tag in events.Tags()["histograms"]
    }
    return scalars, histograms


def test_values_written_in_one_record_are_read_back_as_those_written_one_by_one(tmp_path: Path) -> None:
    full = _histogram(1, 0, 3, 2, low=0.125, high=0.875)
    values = {"a/x": 1.5, "a/nan": float("nan"), "a/inf": float("inf"), "a/tiny": 1e-30, "h/one": full, "h/two": full}
    for folder in ("one record", "one by one"):
        with SummaryWriter(tmp_path / folder) as writer:
            for step in (3, 7):
                if folder == "one record":
                    assert tensorboard.write_values(writer, values, step=step)
                    continue
                for tag, value in tensorboard.scalars(values).items():
                    writer.add_scalar(tag, value, step)
                tensorboard.write_histograms(writer, values, step=step)
    one, other = (_read(tmp_path / folder) for folder in ("one record", "one by one"))
    assert repr(one) == repr(other)  # NaN is not equal to itself
    assert [step for step, _ in one[0]["a/x"]] == [3, 7]
    (_, histogram), _ = one[1]["h/one"]
    assert list(histogram.bucket) == [1, 0, 3, 2]
    assert list(histogram.bucket_limit) == [0.25, 0.5, 0.75, 1.0]
    assert (histogram.min, histogram.max, histogram.num) == (0.125, 0.875, 6)
    assert (histogram.sum, histogram.sum_squares) == (3.0, 1.5)


def test_empty_buckets_at_the_ends_are_left_out_and_none_ends_before_it_begins(tmp_path: Path) -> None:
    histogram = _histogram(0, 0, 4, 0, 1, 0, 0, 0, low=0.26, high=0.6)
    with SummaryWriter(tmp_path) as writer:
        tensorboard.write_values(writer, {"h": histogram, "nothing": _histogram(0, 0)}, step=0)
    _, read = _read(tmp_path)
    value = read["h"][0][1]
    assert (list(value.bucket_limit), list(value.bucket)) == ([0.375, 0.5, 0.625], [4, 0, 1])
    assert value.min < value.bucket_limit[0]
    assert value.bucket_limit[-2] < value.max
    assert read["nothing"][0][1].num == 0


def test_a_histogram_of_outputs_that_are_not_all_finite_has_finite_ends(tmp_path: Path) -> None:
    for low, high in ((float("nan"), float("nan")), (float("-inf"), float("inf"))):
        with SummaryWriter(tmp_path / str(low)) as writer:
            tensorboard.write_values(writer, {"h": _histogram(0, 2, 1, 0, low=low, high=high)}, step=0)
        _, read = _read(tmp_path / str(low))
        assert (read["h"][0][1].min, read["h"][0][1].max) == (0.25, 0.75)


def test_what_is_no_summary_writer_is_not_written_to(tmp_path: Path) -> None:
    class AnswersToEverything:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    for experiment in (AnswersToEverything(), None, object()):
        assert tensorboard.write_values(experiment, {"a": 1.0}, step=0) is False
        tensorboard.write_histograms(experiment, {"a": _histogram(1, 2)}, step=0)


def _layouts(folder: Path) -> list[Any]:
    """The layouts in the event files of one run."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    if "custom_scalars__config__" not in events.Tags()["tensors"]:
        return []
    return [
        layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
        for event in events.Tensors("custom_scalars__config__")
    ]


def test_a_layout_is_read_back_with_its_charts(tmp_path: Path) -> None:
    tensorboard.write_layout(
        str(tmp_path), {"room": tensorboard.layout(_OfLayer), "other": {"a": tensorboard.Chart(("b",))}}
    )
    (layout,) = _layouts(tmp_path)
    room, other = layout.category
    assert (room.title, other.title) == ("room", "other")
    assert [(chart.title, list(chart.multiline.tag)) for chart in room.chart] == [
        ("mean by layer", ["^(.+-)?room/mean/.+$", "^(.+-)?room/std/.+$"]),
        ("low", [r"^(.+-)?room/low\.all$"]),
    ]


def test_a_layout_with_bands_is_read_back_with_value_lower_and_upper_edge(tmp_path: Path) -> None:
    tensorboard.write_layout(str(tmp_path), {"room": tensorboard.layout(FULL)})
    (layout,) = _layouts(tmp_path)
    assert [category.title for category in layout.category] == ["norm", "room"]
    norm, rate = (chart for category in layout.category for chart in category.chart)
    assert (norm.title, norm.WhichOneof("content")) == ("norm", "margin")
    series = [(each.value, each.lower, each.upper) for each in norm.margin.series]
    assert series == [_three("norm"), BAND]
    assert (rate.title, rate.WhichOneof("content")) == ("rate", "multiline")
    assert list(rate.multiline.tag) == ["^(.+-)?room/rate/.+$"]


def test_a_band_whose_tags_do_not_come_in_threes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        tensorboard.write_layout(str(tmp_path), {"room": {"norm": tensorboard.Chart(BAND[:2], band=True)}})


# Pictures.

PICTURE = tensorboard.Image(2, 3, bytes(range(18)))
"""Two pixels wide and three high, each of another colour."""


def _pixels(png: bytes) -> tuple[tuple[int, int], str, bytes]:
    with Pillow.open(BytesIO(png)) as picture:
        return picture.size, picture.mode, picture.tobytes()


def test_a_picture_as_a_file_has_its_size_and_every_pixel() -> None:
    assert _pixels(PICTURE.png()) == ((2, 3), "RGB", bytes(range(18)))


def test_a_picture_is_drawn_and_is_no_number() -> None:
    @dataclass(frozen=True)
    class _Seen:
        layer: str
        picture: tensorboard.Image | None = tensorboard.quantity(tag="room/picture/{layer}", unit="1", how="drawn")
        number: float = tensorboard.quantity(tag="room/number/{layer}", unit="1", how="counted")

    values = tensorboard.drawn(_Seen("net.0", PICTURE, 1))
    assert values == {"room/picture/net.0": PICTURE, "room/number/net.0": 1.0}
    assert values["room/picture/net.0"] is PICTURE
    assert tensorboard.scalars(values) == {"room/number/net.0": 1.0}
    assert tensorboard.drawn(_Seen("net.0", None, 1)) == {"room/number/net.0": 1.0}


def test_a_picture_written_with_numbers_is_read_back_with_size_and_pixels(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path) as writer:
        assert tensorboard.write_values(writer, {"a": 1.0, "p": PICTURE}, step=7)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    (read,) = events.Images("p")
    assert (read.step, read.width, read.height) == (7, 2, 3)
    assert _pixels(read.encoded_image_string) == ((2, 3), "RGB", bytes(range(18)))
    assert [event.value for event in events.Scalars("a")] == [1.0]


# Real runs.


class _Arranged(Student):
    """Arranges its own curves."""

    def on_train_start(self) -> None:
        self.logger.experiment.add_custom_scalars({"mine": {"loss": ["Multiline", ["train_loss"]]}})


def test_our_layout_lies_in_a_run_of_its_own_and_the_users_is_not_erased(logger: TensorBoardLogger) -> None:
    fit(trainer(ActivationMonitor(strict=True), logger=logger), _Arranged())
    folder = Path(logger.log_dir)
    assert [[category.title for category in layout.category] for layout in _layouts(folder)] == [["mine"]]
    ours = _layouts(folder / "diagnostics")
    assert [[category.title for category in layout.category] for layout in ours] == [["activations"]] * len(ours)
    assert _read(folder / "diagnostics") == ({}, {})


def test_every_chart_of_the_layout_has_a_line_and_each_quantity_that_asks_for_one_a_chart(
    logger: TensorBoardLogger,
) -> None:
    module = Student()
    module.net.append(Tanh())
    limits = {"dead-units.activity": 0.5}
    fit(trainer(ActivationMonitor(strict=True, every_n_train_steps=1, limits=limits), logger=logger), module)
    tags, _ = _read(Path(logger.log_dir))
    layouts = [layout.category[0].chart for layout in _layouts(Path(logger.log_dir) / "diagnostics")]
    assert [len(charts) for charts in layouts] == sorted({len(charts) for charts in layouts})  # again if there are more
    found = {chart.title: list(chart.multiline.tag) for chart in layouts[-1]}
    assert found.keys() == tensorboard.layout(Overview, LayerActivations).keys()
    for pattern in (pattern for patterns in found.values() for pattern in patterns):
        assert any(re.search(pattern, tag) for tag in tags), pattern


class _Remembering(Student):
    """Keeps the outputs of its activation of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[np.ndarray[Any, Any]] = []
        self.net[2].register_forward_hook(lambda module, args, output: self.keep_output(output))

    def keep_output(self, output: Tensor) -> None:
        if self.trainer.training:
            self.kept.append(output.detach().numpy().copy())


def test_the_histograms_of_a_run_have_the_counts_of_its_outputs(logger: TensorBoardLogger) -> None:
    module = _Remembering()
    fit(trainer(ActivationMonitor(strict=True, every_n_train_steps=1), logger=logger), module)
    scalars, histograms = _read(Path(logger.log_dir))
    assert list(histograms) == ["activations/histogram/net.2"]
    read = histograms["activations/histogram/net.2"]
    elements = dict(scalars["activations/histogram_elements/net.2"])
    assert len(read) >= 8
    for step, value in read:
        on = module.kept[step][module.kept[step] > 0]
        assert value.num == elements[step] == sum(value.bucket) == len(on)
        assert value.max == on.max()
        width = 2.0 ** np.frexp(on.max())[1] / 64
        limits = np.array(value.bucket_limit)
        np.testing.assert_array_equal(limits / width, np.round(limits / width))
        counts, _ = np.histogram(on, [limits[0] - width, *limits])
        np.testing.assert_array_equal(value.bucket, counts)
        assert value.sum / value.num == pytest.approx(module.kept[step].mean(), rel=1e-5)


def test_histograms_can_be_switched_off(logger: TensorBoardLogger) -> None:
    fit(trainer(ActivationMonitor(strict=True, histograms=False), logger=logger), Student())
    scalars, histograms = _read(Path(logger.log_dir))
    assert histograms == {}
    assert "activations/mean/net.2" in scalars
    assert "activations/histogram_elements/net.2" not in scalars


class _Deep(Student):
    """Forty layers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Sequential(Linear(4, 8), *(ReLU() for _ in range(40)), Linear(8, 1))


@pytest.mark.parametrize("batches", [100, 1000])
def test_the_event_file_of_forty_layers_over_a_thousand_steps_is_bounded(
    logger: TensorBoardLogger, batches: int
) -> None:
    monitor = ActivationMonitor(strict=True, every_n_train_steps=50, max_layers=40)
    batch = [torch.randn(4, 4), torch.randn(4)]
    run = trainer(monitor, logger=logger, max_epochs=1000 // batches, log_every_n_steps=1001, limit_val_batches=0)
    run.fit(_Deep(), DataLoader([batch] * batches, batch_size=None), loader(1, shuffle=False))
    assert run.global_step == 1000
    size = sum(file.stat().st_size for file in Path(logger.log_dir).rglob("*.tfevents*"))
    assert size <= 2_000_000
    scalars, histograms = _read(Path(logger.log_dir))
    assert len(histograms) == 40
    assert len(scalars["activations/mean/net.40"]) >= 20
    assert scalars["activations/mean/net.40"][-1][0] == 999  # the curves end where the run does


def test_layers_beyond_the_budget_are_counted_and_not_drawn(logger: TensorBoardLogger) -> None:
    fit(trainer(ActivationMonitor(strict=True, max_layers=7), logger=logger, max_epochs=1), _Deep())
    scalars, histograms = _read(Path(logger.log_dir))
    assert {value for _, value in scalars["activations/layers_watched"]} == {40.0}
    assert {value for _, value in scalars["activations/layers_not_drawn"]} == {33.0}
    assert len([tag for tag in scalars if tag.startswith("activations/mean/")]) == 7
    assert len(histograms) == 7


@pytest.fixture
def logger(tmp_path: Path) -> TensorBoardLogger:
    return TensorBoardLogger(tmp_path, name="run")


class _Reader(RunningLoss):
    """Reads the findings table from the event file within every training step."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        self.read.append(_tables(self.trainer.logger.log_dir))
        return super().training_step(batch, batch_idx)


def test_the_table_is_right_while_the_run_goes_on(logger: TensorBoardLogger) -> None:
    module, detector = _Reader(sick=True), GraphLeakDetector(strict=True)
    module.read = []
    fit(trainer(detector, logger=logger, max_epochs=1), module)
    assert [bool(tables) for tables in module.read] == [step >= TOLD for step in range(BATCHES)]
    step, (table,) = module.read[-1][-1]
    assert step == TOLD
    assert table[:2] == ["WARNING: MEM101 retained-graph", "model.running_loss"]
    assert table[2].startswith("steps 0 to ")
    assert table[4] == detector.findings[0].remedy


def test_the_last_table_of_a_run_is_that_of_its_findings_at_the_end(logger: TensorBoardLogger) -> None:
    detector = GraphLeakDetector(strict=True)
    run = fit(trainer(detector, logger=logger), LossList(sick=True))
    step, tables = _tables(logger.log_dir)[-1]
    assert step == run.global_step - 1
    assert tables == _shown(tensorboard.findings_table(detector.findings))[1]
    assert tables[0][2] == f"steps 0 to {detector.findings[0].last_step} (open)"


def test_a_healthy_run_has_our_curves_and_no_table(logger: TensorBoardLogger) -> None:
    fit(trainer(GraphLeakDetector(strict=True), logger=logger), Student())
    assert {"graph_leak/graphs_alive", "train_loss"} <= set(_events(logger.log_dir).Tags()["scalars"])
    assert _tables(logger.log_dir) == []


def test_our_curves_lie_under_the_users_on_the_same_steps(logger: TensorBoardLogger) -> None:
    fit(trainer(GraphLeakDetector(strict=True), logger=logger), Student())
    events = _events(logger.log_dir)
    steps = {tag: [e.step for e in events.Scalars(tag)] for tag in ("train_loss", "graph_leak/graphs_alive")}
    assert steps["graph_leak/graphs_alive"] == steps["train_loss"] == list(range(2 * BATCHES))


def test_every_logger_gets_the_curves_and_every_writer_of_event_files_the_table(tmp_path: Path) -> None:
    boards = [TensorBoardLogger(tmp_path, name=name) for name in ("first", "last")]
    table = CSVLogger(tmp_path, name="middle")
    fit(trainer(GraphLeakDetector(strict=True), logger=[boards[0], table, boards[1]]), RunningLoss(sick=True))
    assert "graph_leak/graphs_alive" in (Path(table.log_dir) / "metrics.csv").read_text().splitlines()[0].split(",")
    for board in boards:
        assert "graph_leak/graphs_alive" in _events(board.log_dir).Tags()["scalars"]
        assert _tables(board.log_dir)[-1][1][0][1] == "model.running_loss"


def test_the_last_of_many_layouts_is_the_one_that_is_shown(tmp_path: Path) -> None:
    layouts = [{"one": {f"chart {number}": tensorboard.Chart((f"tag {number}",))}} for number in range(12)]
    for (
        each
    ) in layouts:  # within one second: by the numbers that a SummaryWriter counts, the tenth came before the ninth
        tensorboard.write_layout(str(tmp_path), each)
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    (shown,) = multiplexer.Tensors(".", "custom_scalars__config__")[-1].tensor_proto.string_val
    layout = layout_pb2.Layout.FromString(shown)
    assert [chart.title for category in layout.category for chart in category.chart] == ["chart 11"]
