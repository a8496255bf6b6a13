"""What a measurement's fields are called on the screen, and what can be drawn of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache, lru_cache
from typing import Any, cast


@dataclass(frozen=True)
class Quantity:
    """What a number on the screen is.

    Attributes:
        tag: What it is drawn under; ``{layer}`` in it stands for the layer's name.
        unit: Its unit.
        how: How it is computed.
        chart: The title of the chart of the custom-scalars page that it is a line of; None for none. With
            ``{layer}`` in it, each layer has a chart of its own.
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


@dataclass(frozen=True)
class Text:
    """Words, as TensorBoard's Text page shows them.

    Attributes:
        markdown: In the form of ``SummaryWriter.add_text``.
    """

    markdown: str


Drawable = float | Histogram | Image | Text
"""What can be drawn."""


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
    values = ((tag_of(measurement, each), getattr(measurement, name)) for name, each in quantities(measurement).items())
    whole = (Histogram, Image, Text)
    return {tag: value if isinstance(value, whole) else float(value) for tag, value in values if value is not None}


def scalars(values: Mapping[str, Drawable]) -> dict[str, float]:
    """Those of the drawn values that are numbers."""
    return {tag: value for tag, value in values.items() if not isinstance(value, Histogram | Image | Text)}


def tag_of(measurement: Any, quantity: Quantity) -> str:
    """The tag of a field of a measurement."""
    return quantity.tag.format(layer=_allowed(getattr(measurement, "layer", "")))


@lru_cache(maxsize=4096)
def _allowed(name: str) -> str:
    """A name with the characters that loggers allow in a tag."""
    return re.sub(r"[^\w./ -]", "_", name, flags=re.ASCII)
