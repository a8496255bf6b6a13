"""The one writer of event files."""

import contextlib
import os
import sys
import time
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
    writer = cast(Any, experiment)
    writer._get_file_writer().add_summary(_summary(values), step)
    return True


def write_run(folder: str, points: Iterable[tuple[int, float, Mapping[str, Drawable]]]) -> None:
    """Write values into a run of their own, whose axis is not the training step.

    What was written there before is replaced: TensorBoard would draw both, as one line that goes back.

    Args:
        folder: Of the run; it becomes one by this.
        points: Step, time (in seconds since 1970) and values of each.

    Raises:
        OSError: if it cannot be written.
    """
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.compat.tensorflow_stub.io import gfile  # an installed TensorFlow knows fewer places
    from tensorboard.summary.writer.record_writer import RecordWriter

    try:
        folder.encode()
    except UnicodeEncodeError:
        raise OSError(f"TensorBoard writes into no folder whose name is not UTF-8: {folder!a}") from None
    now = time.time_ns()
    gfile.makedirs(folder)
    before = [name for name in gfile.listdir(folder) if name.endswith(_REPLACED)]
    with gfile.GFile(f"{folder}/events.out.tfevents.{now // 10**9:010d}.{now:020d}{_RUN}", "wb") as file:
        events = RecordWriter(file)
        events.write(Event(wall_time=now / 1e9, file_version="brain.Event:2").SerializeToString())
        for step, at, values in points:
            events.write(Event(wall_time=at, step=step, summary=_summary(values)).SerializeToString())
    for name in before:
        with contextlib.suppress(FileNotFoundError):  # another process has replaced it meanwhile
            _remove(f"{folder}/{os.path.basename(name)}")


_RUN = ".run"  # how the names of files end that `write_run` has written
_REPLACED = (_RUN, ".layout")  # its charts, too


def _remove(path: str) -> None:
    """Remove a file, in an object store too."""
    if "://" not in path:
        os.remove(path)
        return
    import fsspec

    files, place = fsspec.core.url_to_fs(path)
    files.rm_file(place)


def _summary(values: Mapping[str, Drawable]) -> Any:
    """Values of all kinds as one record."""
    from tensorboard.compat.proto.summary_pb2 import (  # made by protobuf at run time, so no type checker knows them
        HistogramProto,  # pyright: ignore[reportAttributeAccessIssue]
        Summary,  # pyright: ignore[reportAttributeAccessIssue]
        SummaryMetadata,  # pyright: ignore[reportAttributeAccessIssue]
    )
    from tensorboard.compat.proto.tensor_pb2 import TensorProto  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.compat.proto.tensor_shape_pb2 import (
        TensorShapeProto,  # pyright: ignore[reportAttributeAccessIssue]
    )

    records: list[Any] = []
    for tag, value in values.items():
        if isinstance(value, Histogram):
            records.append(Summary.Value(tag=tag, histo=_proto(HistogramProto, value)))
        elif isinstance(value, Image):
            size = {"width": value.width, "height": value.height, "colorspace": 3}
            records.append(Summary.Value(tag=tag, image=Summary.Image(**size, encoded_image_string=value.png())))
        elif isinstance(value, Text):  # as `SummaryWriter.add_text` writes it
            plugin = SummaryMetadata.PluginData(plugin_name="text")
            shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
            words = TensorProto(
                dtype="DT_STRING", string_val=[value.markdown.encode(errors="backslashreplace")], tensor_shape=shape
            )
            metadata = SummaryMetadata(plugin_data=plugin)
            records.append(Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=words))
        else:
            records.append(Summary.Value(tag=tag, simple_value=value))
    return Summary(value=records)


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
