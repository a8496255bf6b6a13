"""Floor 4: what a measurement's fields are called on the screen, and the one writer of event files."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
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
    """

    tag: str
    unit: str
    how: str
    chart: str | None = None


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


def quantity(*, tag: str, unit: str, how: str, chart: str | None = None) -> Any:
    """A field of a measurement that is drawn (the arguments are those of `Quantity`)."""
    return field(metadata={"quantity": Quantity(tag, unit, how, chart)})


def quantities(measurement: Any) -> dict[str, Quantity]:
    """The drawn fields of a measurement, or of its class, by field name."""
    return {f.name: cast(Quantity, f.metadata["quantity"]) for f in fields(measurement) if "quantity" in f.metadata}


def drawn(measurement: Any) -> dict[str, float | Histogram]:
    """The values of a measurement by tag; a field that is None could not be measured and is left out."""
    layer = _allowed(getattr(measurement, "layer", ""))
    values = (
        (each.tag.format(layer=layer), getattr(measurement, name)) for name, each in quantities(measurement).items()
    )
    return {tag: value if isinstance(value, Histogram) else float(value) for tag, value in values if value is not None}


def scalars(values: Mapping[str, float | Histogram]) -> dict[str, float]:
    """Those of the drawn values that are numbers."""
    return {tag: value for tag, value in values.items() if not isinstance(value, Histogram)}


def layout(*measurements: Any) -> dict[str, list[str]]:
    """The charts of the custom-scalars page that measurements ask for: titles, and patterns of the tags in them.

    Of a measurement's class these are all of its charts; of a measurement only those that it has a value for.
    """
    charts: dict[str, dict[str, None]] = {}
    for measurement in measurements:
        for name, each in quantities(measurement).items():
            if each.chart is not None and (isinstance(measurement, type) or getattr(measurement, name) is not None):
                pattern = re.escape(each.tag).replace(re.escape("{layer}"), ".+")
                charts.setdefault(each.chart, {})[f"^(.+-)?{pattern}$"] = None  # a logger may put a prefix before it
    return {title: list(patterns) for title, patterns in charts.items()}


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


def write_values(experiment: object, values: Mapping[str, float | Histogram], *, step: int) -> bool:
    """Write numbers and histograms in one record; False if the experiment is no SummaryWriter of torch.

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
        else:
            records.append(Summary.Value(tag=tag, simple_value=value))
    writer = cast(Any, experiment)
    writer._get_file_writer().add_summary(Summary(value=records), step)
    return True


def write_histograms(experiment: object, values: Mapping[str, float | Histogram], *, step: int) -> None:
    """Write the histograms through a writer that can (tensorboardX's, say), and nothing through others."""
    if not callable(getattr(type(experiment), "add_histogram_raw", None)):
        return
    for tag, value in values.items():
        if isinstance(value, Histogram):
            ends, counts = list(value.edges[1:]), list(value.counts)
            cast(Any, experiment).add_histogram_raw(
                tag, value.low, value.high, sum(counts), value.total, value.squares, ends, counts, step
            )


def write_layout(folder: str, categories: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """Write a layout of the custom-scalars page into a run of its own.

    The last layout of a run erases the one before, the user's too; those of different runs are shown together.
    """
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder, filename_suffix=".layout") as writer:
        writer.add_custom_scalars(
            {
                category: {title: ["Multiline", list(tags)] for title, tags in charts.items()}
                for category, charts in categories.items()
            }
        )


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
