"""The one writer of event files."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, Protocol, cast

from lightning_diagnostics.findings import Finding
from lightning_diagnostics.findings.report import findings_table
from lightning_diagnostics.tensorboard.fields import Drawable, Histogram, Image, Text

FINDINGS_TAG = "diagnostics/findings"
"""The tag of the findings in TensorBoard's Text tab."""


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
    """Write values of all kinds in one record; False if the experiment is no SummaryWriter of torch.

    Written one by one, as ``SummaryWriter`` does it, each number takes 50 µs and each histogram 320 µs.
    """
    if not _is_torch_writer(experiment):
        return False
    from tensorboard.compat.proto.summary_pb2 import (  # made by protobuf at run time, so no type checker knows them
        HistogramProto,  # pyright: ignore[reportAttributeAccessIssue]
        Summary,  # pyright: ignore[reportAttributeAccessIssue]
    )
    from torch.utils.tensorboard.summary import text

    records: list[Any] = []
    for tag, value in values.items():
        if isinstance(value, Histogram):
            records.append(Summary.Value(tag=tag, histo=_proto(HistogramProto, value)))
        elif isinstance(value, Image):
            size = {"width": value.width, "height": value.height, "colorspace": 3}
            records.append(Summary.Value(tag=tag, image=Summary.Image(**size, encoded_image_string=value.png())))
        elif isinstance(value, Text):
            records.extend(text(tag, value.markdown).value)  # that which `add_text` writes
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


def write_texts(experiment: object, values: Mapping[str, Drawable], *, step: int) -> None:
    """Write the texts through a writer that can (tensorboardX's, say), and nothing through others."""
    for writer in text_writers([experiment]):
        for tag, value in values.items():
            if isinstance(value, Text):
                writer.add_text(tag, value.markdown, step)


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
