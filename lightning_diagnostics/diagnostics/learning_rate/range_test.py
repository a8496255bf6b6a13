"""The result of Lightning's ``LearningRateFinder``, for TensorBoard."""

import io
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from lightning_diagnostics.diagnostics.learning_rate.measure import RangeTest
from lightning_diagnostics.tensorboard import Image, Text


def range_tests(finders: Sequence[Any]) -> list[Any]:
    """The results that the callbacks have."""
    found = (getattr(finder, "optimal_lr", None) for finder in finders)
    return [each for each in found if each is not None and each.results.get("lr")]


def curves(result: Any) -> Mapping[int, RangeTest]:
    """Loss and rate by step of the test; a loss that is not finite is left out."""
    pairs = zip(result.results["loss"], result.results["lr"], strict=False)
    return {
        step: RangeTest(float(loss) if math.isfinite(loss) else None, float(rate), picture=None, summary=None)
        for step, (loss, rate) in enumerate(pairs)
    }


def summary(result: Any, *, step: int) -> RangeTest:
    """The picture, and what came of it in words."""
    rates = result.results["lr"]
    best = _suggestion(result)
    said = "no suggestion: too few losses" if best is None else f"suggested rate: **{best:.3g}**"
    text = f"Range test over {len(rates)} steps, from {rates[0]:.3g} to {rates[-1]:.3g}, seen at step {step}: {said}"
    return RangeTest(loss=None, rate=None, picture=_picture(result), summary=Text(text))


def _suggestion(result: Any) -> float | None:
    """The rate where the loss falls fastest; Lightning logs an error where there are too few losses."""
    finite = [loss for loss in result.results["loss"][10:-1] if math.isfinite(loss)]
    return float(result.suggestion()) if len(finite) > 1 else None


def _picture(result: Any) -> Image | None:
    """Lightning's own plot, with a canvas of its own, so that no window and no setting of pyplot is touched."""
    if find_spec("matplotlib") is None:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image as Pillow

    figure = Figure(figsize=(6.4, 4.0), layout="tight")
    canvas = FigureCanvasAgg(figure)
    result.plot(suggest=_suggestion(result) is not None, ax=figure.add_subplot())
    file = io.BytesIO()
    canvas.print_png(file)
    with Pillow.open(file) as picture:
        plain = picture.convert("RGB")
    return Image(plain.width, plain.height, plain.tobytes())
