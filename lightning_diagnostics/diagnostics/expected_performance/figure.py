"""Tuning curves as a picture, by number of trials and by device-hours. Needs matplotlib."""

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_diagnostics.diagnostics.expected_performance.curve import TuningCurve


def figure(curves: "Sequence[TuningCurve]") -> "Figure":
    """The curves of one or two sweeps with their bands.

    Of one sweep the device time of n trials stands above the picture. Two have a second part for it, since at equal
    time they are at different numbers of trials. It is made without ``pyplot``, so that no window opens and the user's
    own figures and settings stay as they are.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise ImportError("a picture needs matplotlib: pip install matplotlib") from None

    alone = len(curves) == 1
    timed = all(curve.is_enough and curve.hours_per_trial is not None for curve in curves)
    parts = 2 if timed and not alone else 1
    unit, per_hour = _time_unit(curves)
    page = Figure(figsize=(5.4 * parts, 4), layout="constrained")  # TensorBoard shows it as 340 pixels at first
    axes: list[Any] = list(page.subplots(1, parts, squeeze=False, sharey=True)[0])
    for index, curve in enumerate(curves):
        for axis, scale in zip(axes, (None, per_hour), strict=False):
            _draw(axis, curve, f"C{index}", per_hour=scale, alone=alone)
    axes[0].set_ylim(*_range(curves))
    axes[0].set_xlabel("trials")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel(f"best {curves[0].metric}")
    free = "lower right" if curves[0].mode == "max" else "upper right"  # to look for it takes seconds of 10,000 trials
    axes[0].legend(loc=free, fontsize="small")
    if timed and alone:
        each = (curves[0].hours_per_trial or 1.0) * per_hour
        axes[0].secondary_xaxis("top", functions=(lambda n: n * each, lambda time: time / each)).set_xlabel(unit)
    elif timed:
        axes[1].set_xlabel(unit)
    if any(curve.is_enough for curve in curves):
        title = f"Best of n trials; the {curves[0].confidence:.0%} band holds for all n at once"
        page.suptitle(title, fontsize="medium")
    return page


def png(curves: "Sequence[TuningCurve]") -> bytes:
    """The picture as a file.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    file = io.BytesIO()
    figure(curves).savefig(file, format="png", dpi=110)
    return file.getvalue()


def _draw(axis: Any, curve: "TuningCurve", color: str, *, per_hour: float | None, alone: bool) -> None:
    """One curve: its median with the band, and its mean; over device time in units of so many per hour, or trials."""

    def at(numbers: Sequence[float | None]) -> tuple[list[float], list[float]]:
        """Over the budget: of trials that have a score there are fewer than trials that were paid for."""
        paid = curve.n_trials / len(numbers)
        spots = [n * paid for n in range(1, len(numbers) + 1)]
        x = [n if per_hour is None else n * (curve.hours_per_trial or 0.0) * per_hour for n in spots]
        return x, [math.nan if y is None else y for y in numbers]

    name = "" if alone else f"{curve.name}: "
    if not curve.is_enough:
        axis.plot(
            range(1, len(curve.scores) + 1), curve.scores, "o", color=color, label=f"{name}scores (too few for a curve)"
        )
        return
    marker = "." if len(curve.median) <= 50 else None
    x, low = at(curve.low)
    _, high = at(curve.high)
    axis.fill_between(x, low, high, step=None, color=color, alpha=0.15, linewidth=0, label=f"{name}band of the median")
    axis.plot(*at(curve.median), color=color, marker=marker, label=f"{name}median best of n")
    axis.plot(*at(curve.mean), color=color, linestyle="--", label=f"{name}expected best of n")
    axis.grid(visible=True, alpha=0.3)


def _time_unit(curves: "Sequence[TuningCurve]") -> tuple[str, float]:
    """The unit in which the device time of sweeps is shown, and how many of it an hour has."""
    longest = max(curve.hours(max(1, curve.n_trials)) or 0.0 for curve in curves)
    if longest >= 2:
        return "device-hours", 1.0
    return ("device-minutes", 60.0) if longest >= 2 / 60 else ("device-seconds", 3600.0)


def _range(curves: "Sequence[TuningCurve]") -> tuple[float, float]:
    """From the smallest to the largest value of the curves with a margin: a band may end at a bound of the metric."""
    every = (value for curve in curves for value in (*curve.median, *curve.mean) if value is not None)
    listed = (value for curve in curves if not curve.is_enough for value in curve.scores)
    values = [*every, *listed] or [0.0]
    low, high = min(values), max(values)
    margin = 0.1 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin
