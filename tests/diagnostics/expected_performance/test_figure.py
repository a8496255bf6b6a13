"""The picture of tuning curves: what is in it, and that the user's own pictures and settings stay as they are."""

import io
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from lightning_diagnostics.diagnostics.expected_performance import figure as module
from lightning_diagnostics.diagnostics.expected_performance.curve import TuningCurve
from tests.diagnostics.expected_performance.made import curve, trial, trials

SCORES = [0.5, 0.7, 0.4, 0.6, 0.8, 0.55]


def labels(axis: Any) -> list[str]:
    return axis.get_legend_handles_labels()[1]


def lines(axis: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.get_lines()}


def test_the_median_its_band_and_the_mean_are_over_trials() -> None:
    found = curve(trials(SCORES))
    page = found.figure()
    assert isinstance(page, Figure)
    (axis,) = page.axes
    assert labels(axis) == ["band of the median", "median best of n", "expected best of n"]
    assert lines(axis) == {
        "median best of n": ([1, 2, 3, 4, 5, 6], list(found.median)),
        "expected best of n": ([1, 2, 3, 4, 5, 6], list(found.mean)),
    }
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.child_axes) == ("trials", "best val_acc", [])
    assert "80% band" in page.get_suptitle()
    low, high = axis.get_ylim()
    values = [*found.mean, *(each or 0.0 for each in found.median)]
    assert low < min(values) < max(values) < high < 1  # the band ends at 1, far from all scores


@pytest.mark.parametrize(("seconds", "unit", "each"), [(1800.0, "hours", 0.5), (30.0, "minutes", 0.5)])
def test_with_times_there_is_a_second_scale_of_device_time(seconds: float, unit: str, each: float) -> None:
    page = curve(trials(SCORES, seconds=seconds)).figure()
    page.draw_without_rendering()
    (axis,) = page.axes
    (top,) = axis.child_axes
    assert unit in top.get_xlabel()
    assert top.get_xlim() == pytest.approx([each * end for end in axis.get_xlim()])


def test_two_sweeps_have_names_and_colors_and_a_part_for_time_where_both_tell_it() -> None:
    one, other = curve(trials(SCORES), name="A"), curve(trials(SCORES[::-1], seconds=3600.0), name="B")
    (axis,) = module.figure([one, other]).axes
    assert labels(axis) == [
        *("A: band of the median", "A: median best of n", "A: expected best of n"),
        *("B: band of the median", "B: median best of n", "B: expected best of n"),
    ]
    assert len({line.get_color() for line in axis.get_lines()}) == 2
    left, right = module.figure([replace(one, hours_per_trial=2.0), other]).axes
    assert left.get_xlabel() == "trials"
    assert "hours" in right.get_xlabel()
    assert lines(right)["A: median best of n"] == ([2, 4, 6, 8, 10, 12], list(one.median))
    assert lines(right)["B: median best of n"] == ([1, 2, 3, 4, 5, 6], list(other.median))
    _, short = module.figure([replace(one, hours_per_trial=0.1), replace(other, hours_per_trial=0.05)]).axes
    assert "minutes" in short.get_xlabel()
    assert lines(short)["A: median best of n"][0] == pytest.approx([6, 12, 18, 24, 30, 36])


def test_too_few_scores_are_points() -> None:
    (axis,) = curve(trials(SCORES[:3])).figure().axes
    assert lines(axis) == {"scores (too few for a curve)": ([1, 2, 3], SCORES[:3])}


@pytest.mark.parametrize(
    "found",
    [
        curve([]),
        curve([trial(0, None, "failed")]),
        curve(trials([0.5] * 6)),
        curve(trials([0.0] * 6)),
        curve([*trials(SCORES), *(trial(20 + n, None, "failed") for n in range(20))]),
        curve(trials([0.01 * n for n in range(100)])),
    ],
    ids=["none", "all failed", "all the same", "all zero", "most failed", "many"],
)
def test_a_picture_is_drawn_of_whatever_there_is(found: TuningCurve) -> None:
    picture = Image.open(io.BytesIO(module.png([found])))
    assert picture.format == "PNG"
    assert min(picture.size) > 300


def test_the_users_figures_and_settings_stay_as_they_are() -> None:
    code = """
import sys
from tests.diagnostics.expected_performance.made import curve, trials
import matplotlib
settings = lambda: {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
before = settings()
curve(trials([0.1, 0.2, 0.3, 0.4, 0.5], seconds=60.0)).figure()
assert settings() == before
assert "matplotlib.pyplot" not in sys.modules
from matplotlib import pyplot
curve(trials([0.1, 0.2, 0.3, 0.4, 0.5], seconds=60.0)).figure()
assert pyplot.get_fignums() == []
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"^a picture needs matplotlib: pip install matplotlib$"):
        curve(trials(SCORES)).figure()
