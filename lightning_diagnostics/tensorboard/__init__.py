"""Floor 4: what a measurement's fields are called on the screen, and the one writer of event files."""

from lightning_diagnostics.findings.report import findings_table
from lightning_diagnostics.tensorboard.charts import (
    Chart,
    layout,
    write_layout,
)
from lightning_diagnostics.tensorboard.events import (
    FINDINGS_TAG,
    TextWriter,
    text_writers,
    write_findings,
    write_histograms,
    write_run,
    write_texts,
    write_values,
)
from lightning_diagnostics.tensorboard.fields import (
    Drawable,
    Histogram,
    Image,
    Quantity,
    Text,
    drawn,
    quantities,
    quantity,
    scalars,
)

__all__ = [
    "FINDINGS_TAG",
    "Chart",
    "Drawable",
    "Histogram",
    "Image",
    "Quantity",
    "Text",
    "TextWriter",
    "drawn",
    "findings_table",
    "layout",
    "quantities",
    "quantity",
    "scalars",
    "text_writers",
    "write_findings",
    "write_histograms",
    "write_layout",
    "write_run",
    "write_texts",
    "write_values",
]
