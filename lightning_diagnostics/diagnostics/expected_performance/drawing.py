"""A tuning curve as a run of TensorBoard, whose axis is the number of trials."""

import importlib.util
import io
import logging
import math
import time
from dataclasses import replace

from lightning_diagnostics import tensorboard
from lightning_diagnostics.diagnostics.expected_performance.curve import TuningCurve
from lightning_diagnostics.diagnostics.expected_performance.measure import CurvePoint
from lightning_diagnostics.diagnostics.expected_performance.reading import point
from lightning_diagnostics.diagnostics.expected_performance.report import markdown, shown

logger = logging.getLogger("lightning_diagnostics")

CATEGORY = "expected performance"
"""What the charts stand under on the custom-scalars page."""

PICTURE_TAG = "evp/tuning_curve"
"""The tag of the picture in TensorBoard's Images tab."""

TABLE_TAG = "evp/table"
"""The tag of the table in TensorBoard's Text tab."""

_MOST_POINTS = 500


def draw(curve: TuningCurve, folder: str) -> None:
    """Write a curve into a run of its own: scalars by n with their charts, a table, a picture if matplotlib is there.

    The time of each point is that at which so many trials would have been paid for, one after the other: with
    TensorBoard's relative axis the same curves are over device-hours, counted from the end of the first trial.

    Raises:
        OSError: if it cannot be written.
    """
    now = time.time()
    numbers = shown(curve.n_trials, _MOST_POINTS) if curve.is_enough else []
    points = [(n, now + 3600 * (curve.hours(n) or 0.0), tensorboard.drawn(_at(curve, n))) for n in numbers]
    last: dict[str, tensorboard.Drawable] = {TABLE_TAG: tensorboard.Text(markdown(curve))}
    if curve.scores and importlib.util.find_spec("matplotlib") is not None:
        try:
            last[PICTURE_TAG] = picture(curve)
        except Exception as fault:  # noqa: BLE001  # it is an extra, of a package that the user may have broken
            logger.info("the picture of the tuning curve cannot be drawn: %s: %s", type(fault).__name__, fault)
    tensorboard.write_run(folder, [*points, (len(curve.median), now, last)])
    if numbers:  # into the same run: TensorBoard shows none of more than forty, until one is chosen
        charts = tensorboard.layout(*(_at(curve, n) for n in numbers))
        tensorboard.write_layout(folder, {CATEGORY: charts})


def _at(curve: TuningCurve, n: int) -> CurvePoint:
    """A point whose median and band all have a value: TensorBoard draws no band whose three lines differ in steps."""
    at = point(curve, n)
    named = {name: getattr(at, name) for name in ("median", "median_low", "median_high")}
    return replace(at, **{name: math.nan if value is None else value for name, value in named.items()})


def picture(curve: TuningCurve) -> tensorboard.Image:
    """The figure as TensorBoard takes pictures."""
    from PIL import Image  # TensorBoard needs it, too

    from lightning_diagnostics.diagnostics.expected_performance.figure import png

    pixels = Image.open(io.BytesIO(png([curve]))).convert("RGB")
    return tensorboard.Image(pixels.width, pixels.height, pixels.tobytes())
