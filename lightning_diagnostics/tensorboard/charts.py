"""The charts of the custom-scalars page that measurements ask for, and how they are written."""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from lightning_diagnostics.tensorboard.fields import Quantity, quantities, tag_of


@dataclass(frozen=True)
class Chart:
    """A chart of the custom-scalars page.

    Attributes:
        tags: Patterns of the tags in it; of one with a band, tags in threes: line, lower and upper edge.
        band: Whether lines have bands around them.
    """

    tags: tuple[str, ...]
    band: bool = False


def layout(*measurements: Any) -> dict[str, Chart]:
    """The charts of the custom-scalars page that measurements ask for, by title.

    Of a measurement's class these are all of its charts; of a measurement only those that it has a value for. A chart
    with bands takes tags and no patterns, so only a measurement can fill it; a chart for each layer has a title that
    only a measurement can fill, too, and is none of a class.
    """
    every = [(measurement, *each) for measurement in measurements for each in quantities(measurement).items()]
    asked = [(title, *each) for each in every if (title := _title(each[0], each[2])) is not None]
    banded = {title for title, _, _, quantity in asked if quantity.band is not None}
    tags: dict[str, dict[str, None]] = {}
    threes: dict[str, dict[tuple[str, ...], None]] = {}
    for title, measurement, name, quantity in asked:
        is_class = isinstance(measurement, type)
        if not is_class and getattr(measurement, name) is None:
            continue
        if title not in banded:
            shared = title == quantity.chart
            tag = quantity.tag if shared else tag_of(measurement, quantity)
            tags.setdefault(title, {})[_pattern(tag)] = None
            continue
        lines = threes.setdefault(title, {})
        if not is_class:
            lines[_three(measurement, quantity)] = None
    found = {title: Chart(tuple(patterns)) for title, patterns in tags.items()}
    found |= {title: Chart(tuple(tag for three in each for tag in three), band=True) for title, each in threes.items()}
    return {title: found[title] for title in dict.fromkeys(title for title, *_ in asked) if title in found}


def _title(measurement: Any, quantity: Quantity) -> str | None:
    """The title of the chart that a field of a measurement is a line of; None if there is none."""
    if quantity.chart is None or "{layer}" not in quantity.chart:
        return quantity.chart
    return None if isinstance(measurement, type) else quantity.chart.replace("{layer}", measurement.layer)


def _three(measurement: Any, quantity: Quantity) -> tuple[str, ...]:
    """The tags of a line and of the edges of its band; without both edges the line is its own."""
    named = quantities(measurement)
    edges = [edge for edge in quantity.band or () if getattr(measurement, edge) is not None]
    around = [named[edge] for edge in edges] if len(edges) == 2 else [quantity, quantity]
    return tuple(tag_of(measurement, one) for one in (quantity, *around))


@cache
def _pattern(tag: str) -> str:
    pattern = re.escape(tag).replace(re.escape("{layer}"), ".+")
    return f"^(.+-)?{pattern}$"  # a logger may put a prefix before it


def write_layout(folder: str, categories: Mapping[str, Mapping[str, Chart]]) -> None:
    """Write a layout of the custom-scalars page into a run of its own.

    The last layout of a run erases the one before, the user's too; those of different runs are shown together. Which is
    the last is told by the names of the files. Those of a ``SummaryWriter`` end in a plain number, by which of two that
    were written within a second the tenth comes before the ninth; so the file is given a name here.
    """
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.compat.proto.summary_pb2 import (
        Summary,  # pyright: ignore[reportAttributeAccessIssue]
        SummaryMetadata,  # pyright: ignore[reportAttributeAccessIssue]
    )
    from tensorboard.compat.proto.tensor_pb2 import TensorProto  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.compat.tensorflow_stub.io import gfile  # an installed TensorFlow knows fewer places
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
    now = time.time_ns()
    gfile.makedirs(folder)
    with gfile.GFile(f"{folder}/events.out.tfevents.{now // 10**9:010d}.{now:020d}.layout", "wb") as file:
        events = RecordWriter(file)
        for content in ({"file_version": "brain.Event:2"}, {"summary": Summary(value=[record])}):
            events.write(Event(wall_time=now / 1e9, **content).SerializeToString())


def _parted(categories: Mapping[str, Mapping[str, Chart]]) -> Iterator[tuple[str, Mapping[str, Chart]]]:
    """Charts with bands in a category of their own before the others': TensorBoard shows them below all others.

    One alone stands under its own title; several stand under that of the category.
    """
    for category, charts in categories.items():
        banded = {title: chart for title, chart in charts.items() if chart.band}
        plain = {title: chart for title, chart in charts.items() if not chart.band}
        if banded:
            yield next(iter(banded)) if len(banded) == 1 else category, banded
        if plain:
            yield category if len(banded) < 2 else f"{category}: more", plain
