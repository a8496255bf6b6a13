"""Floor 4: what a measurement's fields are called on the screen, and the one writer of event files."""

import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, lru_cache
from math import isfinite
from typing import Any, Protocol, cast

from lightning_diagnostics.findings import Finding
from lightning_diagnostics.findings.report import findings_table

FINDINGS_TAG = "diagnostics/findings"
"""The tag of the findings in TensorBoard's Text tab."""


@dataclass(frozen=True)
class Quantity:
    """What a number on the screen is.

    Attributes:
        tag: What it is drawn under; ``{layer}`` in it stands for the layer's name.
        unit: Its unit.
        how: How it is computed.
        chart: The title of the chart of the custom-scalars page that it is a line of; None for none.
        band: The fields that are the lower and the upper edge of a band around that line; None for none.
    """

    tag: str
    unit: str
    how: str
    chart: str | None = None
    band: tuple[str, str] | None = None


@dataclass(frozen=True)
class Histogram:
    """Counts in buckets, as TensorBoard's Histograms and Distributions pages show them.

    Attributes:
        edges: One more than there are buckets.
        counts: In each bucket.
        low: The smallest value.
        high: The largest value.
        total: The sum of the values.
        squares: The sum of their squares.
    """

    edges: tuple[float, ...]
    counts: tuple[float, ...]
    low: float
    high: float
    total: float
    squares: float


@dataclass(frozen=True)
class Image:
    """A picture, as TensorBoard's Images page shows it.

    Attributes:
        width: In pixels.
        height: In pixels.
        pixels: Red, green and blue of each pixel, row by row.
    """

    width: int
    height: int
    pixels: bytes

    def png(self) -> bytes:
        """The picture as a file."""
        from io import BytesIO

        from PIL import Image as Pillow  # TensorBoard needs it, too

        file = BytesIO()
        Pillow.frombytes("RGB", (self.width, self.height), self.pixels).save(file, "PNG")
        return file.getvalue()


Drawable = float | Histogram | Image
"""What can be drawn."""


@dataclass(frozen=True)
class Chart:
    """A chart of the custom-scalars page.

    Attributes:
        tags: Patterns of the tags in it; of one with a band, tags in threes: line, lower and upper edge.
        band: Whether lines have bands around them.
    """

    tags: tuple[str, ...]
    band: bool = False


def quantity(*, tag: str, unit: str, how: str, chart: str | None = None, band: tuple[str, str] | None = None) -> Any:
    """A field of a measurement that is drawn (the arguments are those of `Quantity`)."""
    return field(metadata={"quantity": Quantity(tag, unit, how, chart, band)})


def quantities(measurement: Any) -> dict[str, Quantity]:
    """The drawn fields of a measurement, or of its class, by field name."""
    return _quantities(measurement if isinstance(measurement, type) else type(measurement))


@cache
def _quantities(kind: Any) -> dict[str, Quantity]:
    return {f.name: cast(Quantity, f.metadata["quantity"]) for f in fields(kind) if "quantity" in f.metadata}


def drawn(measurement: Any) -> dict[str, Drawable]:
    """The values of a measurement by tag; a field that is None could not be measured and is left out."""
    values = ((_tag(measurement, each), getattr(measurement, name)) for name, each in quantities(measurement).items())
    whole = (Histogram, Image)
    return {tag: value if isinstance(value, whole) else float(value) for tag, value in values if value is not None}


def scalars(values: Mapping[str, Drawable]) -> dict[str, float]:
    """Those of the drawn values that are numbers."""
    return {tag: value for tag, value in values.items() if not isinstance(value, Histogram | Image)}


def layout(*measurements: Any) -> dict[str, Chart]:
    """The charts of the custom-scalars page that measurements ask for, by title.

    Of a measurement's class these are all of its charts; of a measurement only those that it has a value for. A chart
    with bands takes tags and no patterns, so only a measurement can fill it.
    """
    banded = {
        each.chart for measurement in measurements for each in quantities(measurement).values() if each.band is not None
    }
    charts: dict[str, dict[str, None]] = {}
    threes: dict[str, dict[tuple[str, ...], None]] = {}
    for measurement in measurements:
        named = quantities(measurement)
        for name, each in named.items():
            if each.chart is None or not (isinstance(measurement, type) or getattr(measurement, name) is not None):
                continue
            if each.chart in banded:
                lines = threes.setdefault(each.chart, {})
                if not isinstance(measurement, type):
                    edges = [edge for edge in each.band or () if getattr(measurement, edge) is not None]
                    around = [named[edge] for edge in edges] if len(edges) == 2 else [each, each]
                    lines[tuple(_tag(measurement, one) for one in (each, *around))] = None
            else:
                charts.setdefault(each.chart, {})[_pattern(each.tag)] = None
    found = {title: Chart(tuple(patterns)) for title, patterns in charts.items()}
    found |= {title: Chart(tuple(tag for three in each for tag in three), band=True) for title, each in threes.items()}
    order = [each.chart for measurement in measurements for each in quantities(measurement).values()]
    return {title: found[title] for title in dict.fromkeys(order) if title in found}


def _tag(measurement: Any, quantity: Quantity) -> str:
    return quantity.tag.format(layer=_allowed(getattr(measurement, "layer", "")))


@cache
def _pattern(tag: str) -> str:
    pattern = re.escape(tag).replace(re.escape("{layer}"), ".+")
    return f"^(.+-)?{pattern}$"  # a logger may put a prefix before it


@lru_cache(maxsize=4096)
def _allowed(name: str) -> str:
    """A name with the characters that loggers allow in a tag."""
    return re.sub(r"[^\w./ -]", "_", name, flags=re.ASCII)


class TextWriter(Protocol):
    """What is used of a ``SummaryWriter`` (of torch or of tensorboardX)."""

    def add_text(self, tag: str, text_string: str, global_step: int | None = ...) -> None:
        """Write markdown under a tag."""
        ...

    def flush(self) -> None:
        """Bring everything to the disk."""
        ...


def text_writers(experiments: Iterable[object]) -> list[TextWriter]:
    """Those of the loggers' experiments that are SummaryWriters.

    Lightning's stand-in on other ranks answers to every name, so the class is asked, not the object.
    """
    return [cast(TextWriter, e) for e in experiments if callable(getattr(type(e), "add_text", None))]


def write_values(experiment: object, values: Mapping[str, Drawable], *, step: int) -> bool:
    """Write numbers, histograms and pictures in one record; False if the experiment is no SummaryWriter of torch.

    Written one by one, as ``SummaryWriter`` does it, each number takes 50 µs and each histogram 320 µs.
    """
    if not _is_torch_writer(experiment):
        return False
    from tensorboard.compat.proto.summary_pb2 import (  # made by protobuf at run time, so no type checker knows them
        HistogramProto,  # pyright: ignore[reportAttributeAccessIssue]
        Summary,  # pyright: ignore[reportAttributeAccessIssue]
    )

    records: list[Any] = []
    for tag, value in values.items():
        if isinstance(value, Histogram):
            records.append(Summary.Value(tag=tag, histo=_proto(HistogramProto, value)))
        elif isinstance(value, Image):
            size = {"width": value.width, "height": value.height, "colorspace": 3}
            records.append(Summary.Value(tag=tag, image=Summary.Image(**size, encoded_image_string=value.png())))
        else:
            records.append(Summary.Value(tag=tag, simple_value=value))
    writer = cast(Any, experiment)
    writer._get_file_writer().add_summary(Summary(value=records), step)
    return True


def write_histograms(experiment: object, values: Mapping[str, Drawable], *, step: int) -> None:
    """Write the histograms through a writer that can (tensorboardX's, say), and nothing through others."""
    if not callable(getattr(type(experiment), "add_histogram_raw", None)):
        return
    for tag, value in values.items():
        if isinstance(value, Histogram):
            ends, counts = list(value.edges[1:]), list(value.counts)
            cast(Any, experiment).add_histogram_raw(
                tag, value.low, value.high, sum(counts), value.total, value.squares, ends, counts, step
            )


def write_layout(folder: str, categories: Mapping[str, Mapping[str, Chart]]) -> None:
    """Write a layout of the custom-scalars page into a run of its own.

    The last layout of a run erases the one before, the user's too; those of different runs are shown together. Which is
    the last is told by the names of the files. Those of a ``SummaryWriter`` end in a plain number, by which of two that
    were written within a second the tenth comes before the ninth; so the file is given a name here.
    """
    from tensorboard.compat import tf  # the part of it that TensorBoard brings along
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.compat.proto.summary_pb2 import (
        Summary,  # pyright: ignore[reportAttributeAccessIssue]
        SummaryMetadata,  # pyright: ignore[reportAttributeAccessIssue]
    )
    from tensorboard.compat.proto.tensor_pb2 import TensorProto  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.plugins.custom_scalar import layout_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    proto = cast(Any, layout_pb2)  # made by protobuf at run time

    def drawn_as(title: str, chart: Chart) -> Any:
        if not chart.band:
            return proto.Chart(title=title, multiline=proto.MultilineChartContent(tag=list(chart.tags)))
        threes = zip(chart.tags[::3], chart.tags[1::3], chart.tags[2::3], strict=True)
        series = [proto.MarginChartContent.Series(value=v, lower=low, upper=high) for v, low, high in threes]
        return proto.Chart(title=title, margin=proto.MarginChartContent(series=series))

    layout = proto.Layout(
        category=[
            proto.Category(title=category, chart=[drawn_as(title, chart) for title, chart in charts.items()])
            for category, charts in _parted(categories)
        ]
    )
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="custom_scalars"))
    tensor = TensorProto(dtype="DT_STRING", string_val=[layout.SerializeToString()])
    record = Summary.Value(tag="custom_scalars__config__", tensor=tensor, metadata=metadata)
    now, gfile = time.time_ns(), cast(Any, tf).io.gfile
    gfile.makedirs(folder)
    with gfile.GFile(f"{folder}/events.out.tfevents.{now // 10**9:010d}.{now:020d}.layout", "wb") as file:
        events = RecordWriter(file)
        for content in ({"file_version": "brain.Event:2"}, {"summary": Summary(value=[record])}):
            events.write(Event(wall_time=now / 1e9, **content).SerializeToString())


def _parted(categories: Mapping[str, Mapping[str, Chart]]) -> Iterator[tuple[str, dict[str, Chart]]]:
    """Each chart with bands in a category of its own before the others': TensorBoard shows them below all others."""
    for category, charts in categories.items():
        plain = {title: chart for title, chart in charts.items() if not chart.band}
        yield from ((title, {title: chart}) for title, chart in charts.items() if chart.band)
        if plain:
            yield category, plain


def _is_torch_writer(experiment: object) -> bool:
    module = sys.modules.get("torch.utils.tensorboard")
    return module is not None and isinstance(experiment, module.SummaryWriter)


def _proto(kind: Any, histogram: Histogram) -> Any:
    """TensorBoard's form: upper ends of buckets and counts; the first bucket begins at min, the last ends at max.

    So empty buckets at both ends are left out, lest one end before it begins.
    """
    full = [index for index, number in enumerate(histogram.counts) if number] or [0]
    first, last = full[0], full[-1]
    ends = histogram.edges[first + 1 : last + 2]
    low = max(histogram.low, histogram.edges[first]) if isfinite(histogram.low) else histogram.edges[first]
    high = min(histogram.high, ends[-1]) if isfinite(histogram.high) else ends[-1]
    counts = histogram.counts[first : last + 1]
    return kind(
        min=low,
        max=high,
        num=sum(counts),
        sum=histogram.total,
        sum_squares=histogram.squares,
        bucket_limit=ends,
        bucket=counts,
    )


def write_findings(writers: Sequence[TextWriter], findings: Sequence[Finding], *, step: int) -> None:
    """Draw the findings.

    TensorBoard keeps a sample of the records of a tag and always the last, so each record has all of them.
    """
    for writer in writers:
        writer.add_text(FINDINGS_TAG, findings_table(findings), step)
        writer.flush()
