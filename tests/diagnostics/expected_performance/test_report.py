"""A curve in words, for programs and for TensorBoard: as it is read, and in a form that only grows."""

import json
from typing import Any

import pytest

from lightning_diagnostics.diagnostics.expected_performance import report
from tests.diagnostics.expected_performance.made import NOW, curve, trial, trials

SCORES = [0.5, 0.75, 0.25, 1.0, 0.625]
SETTINGS = {"lr": 0.1, "depth": 2}
MIXED = [
    *trials(SCORES, seconds=1800.0, hyperparameters=SETTINGS),
    trial(5, None, "failed", reason="ValueError"),
    trial(6, 0.9, "pruned"),
    trial(7, 0.9, "running"),
    trial(8),
]
FEW = [
    *trials(SCORES[:2], hyperparameters=SETTINGS),
    trial(5, None, "failed", reason="ValueError", hyperparameters=dict.fromkeys("abcdefg", 1)),
    trial(6, None, "failed", reason="ValueError"),
    trial(7, None, readings=2),
    trial(9, 0.3, "running", beat=NOW - 90_000),
]


def test_a_curve_reads_in_a_terminal() -> None:
    assert (
        str(curve(MIXED, name="mine"))
        == """\
Sweep mine: 9 trials, val_acc (max), best 1 (trial 3); the expected best of 5 is 0.907, that of one trial 0.625.
1 trial failed (ValueError): worse than all others for the median and its band; the means are of those with a score.
1 trial pruned: not counted, but for the time spent.
1 trial still running: not counted.
1 trial ended without a value of val_acc: not counted.
The search was not random (pruning): a curve takes trials for independent draws, so read it with care.
The band is around the median best of n, for all n at once, at 80% or more (exact, Learned-Miller and DeStefano).
Each trial that counts costs 25 min of a device on average (that of failed and pruned ones included).

n  device time    mean  unbiased   spread  median        band
1       25 min   0.625     0.625     0.25     0.5      - to 1
2       50 min   0.765       0.8  0.20712    0.75   0.25 to 1
3       1.25 h   0.835    0.8875  0.17649    0.75    0.5 to 1
4      1.667 h  0.8778      0.95  0.15522       1    0.5 to 1
5      2.083 h   0.907         1   0.1383       1    0.5 to 1
6        2.5 h       -         -        -       1  0.625 to 1"""
    )


def test_too_few_scores_are_listed_the_best_first_with_what_they_were_of() -> None:
    assert (
        str(curve(FEW))
        == """\
6 trials, val_acc (max), best 0.75 (trial 1).
4 trials failed (2 x ValueError, killed, val_acc was never finite): no scores of their own.
1 trial lost: stopped without a word.
Too few scores for a curve (2 of 5): they are listed instead.

        0.75  completed  1  (lr=0.1, depth=2)
         0.5  completed  0  (lr=0.1, depth=2)
         0.3  lost       9
           -  failed     5  (a=1, b=1, c=1, d=1, e=1, ...)
           -  failed     6
           -  failed     7"""
    )
    lowest = curve(trials(SCORES[:3], mode="min", metric="val_loss"), mode="min", metric="val_loss")
    assert [line.split()[0] for line in report.listing(lowest)] == ["0.25", "0.5", "0.75"]


def test_of_many_that_are_listed_there_are_twenty() -> None:
    lines = report.listing(curve([trial(n, None, "failed") for n in range(23)]))
    assert (len(lines), lines[-1]) == (21, "... and 3 more")


@pytest.mark.parametrize(
    ("failed", "words"),
    [
        ("worst", "1 trial failed (ValueError): worse than all others for the median and its band; the means"),
        ("drop", "1 trial failed (ValueError): dropped, which is optimistic."),
        (0.1, "1 trial failed (ValueError): counted as 0.1."),
    ],
)
def test_it_is_said_what_a_failure_counts_as(failed: Any, words: str) -> None:
    assert words in str(curve(MIXED, failed=failed))


@pytest.mark.parametrize(
    ("band", "name"),
    [
        ("ld", "exact, Learned-Miller and DeStefano"),
        ("ks", "Kolmogorov-Smirnov"),
        ("dkw", "DKW"),
        ("ld-highest-density", "ld-highest-density"),
    ],
)
def test_the_band_has_a_name_and_a_confidence(band: Any, name: str) -> None:
    line = f"The band is around the median best of n, for all n at once, at 95% or more ({name})."
    assert line in str(curve(MIXED, band=band, confidence=0.95))


def test_what_is_known_of_the_search_is_said() -> None:
    unknown = "Takes the trials for independent draws, as those of a random search are (not known here)."
    assert unknown in str(curve(trials(SCORES)))
    assert "random" not in str(curve(trials(SCORES, search="random")))
    assert "The search was not random (TPESampler): " in str(curve(trials(SCORES, search="TPESampler")))


def test_markdown_has_the_same_lines_and_numbers() -> None:
    found = curve(MIXED, name="mine")
    head, remarks, table = report.markdown(found).split("\n\n")
    words, lines = str(found).split("\n\n")
    assert [head, *(line.removeprefix("- ") for line in remarks.splitlines())] == words.splitlines()
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    assert rows[1] == ["---"] * 7
    assert [" ".join(row) for row in rows[:1] + rows[2:]] == [" ".join(line.split()) for line in lines.splitlines()]
    few = report.markdown(curve(FEW)).split("\n\n")[-1].splitlines()
    assert [line.removeprefix("    ") for line in few] == report.listing(curve(FEW))


# For programs.

KEYS = {
    *("name", "metric", "mode", "n_trials", "n_failed", "n_pruned", "n_running", "n_lost", "n_unscored", "failed"),
    *("confidence", "band", "hours_per_trial", "is_random", "min_trials", "searches", "best", "scores", "curve"),
    *("trials", "unreadable"),
}
POINT = {"n", "hours", "mean", "mean_unbiased", "spread", "median", "low", "high"}


def test_the_form_for_programs_is_stable() -> None:
    whole = json.loads(report.as_json([curve(MIXED, name="mine")]))
    assert (set(whole), whole["version"], whole["comparison"]) == ({"version", "curves", "comparison"}, 1, None)
    (found,) = whole["curves"]
    assert set(found) == KEYS
    assert [found[f"n_{what}"] for what in ("trials", "failed", "pruned", "running", "lost", "unscored")] == [
        *(6, 1, 1, 1, 0, 1)
    ]
    assert (found["scores"], found["failed"], found["is_random"]) == (SCORES, "worst", False)
    assert found["best"] == {"score": 1.0, "run_id": "run-3", "folder": ""}
    assert [set(point) for point in found["curve"]] == [POINT] * 6
    first, last = found["curve"][0], found["curve"][-1]
    assert first == {
        "n": 1,
        "hours": pytest.approx(25 / 60),
        "mean": 0.625,
        "mean_unbiased": 0.625,
        "spread": 0.25,
        "median": 0.5,
        "low": None,
        "high": 1.0,
    }
    assert (last["n"], last["mean"], last["median"]) == (6, None, 1.0)
    statuses = [each["status"] for each in found["trials"]]
    assert statuses == [*(["completed"] * 5), "failed", "pruned", "running", "completed"]
    assert found["trials"][0]["hyperparameters"] == SETTINGS


def test_programs_get_no_curve_of_too_few_and_no_best_of_none() -> None:
    (few,) = json.loads(report.as_json([curve(FEW)]))["curves"]
    assert (few["curve"], few["scores"], few["n_failed"], few["n_lost"]) == ([], SCORES[:2], 4, 1)
    assert few["trials"][-1]["status"] == "lost"
    (none,) = json.loads(report.as_json([curve([])]))["curves"]
    assert (none["best"], none["curve"], none["trials"], none["hours_per_trial"]) == (None, [], [], None)


def test_infinite_ends_of_a_band_are_null_for_programs() -> None:
    found = json.loads(report.as_json([curve(trials(SCORES, metric="reward"), metric="reward")]))
    assert found["curves"][0]["curve"][-1]["high"] is None


# The rows of a table, and times.


@pytest.mark.parametrize(("count", "most"), [(1, 20), (20, 20), (21, 20), (100, 20), (10_000, 20), (10_000, 500)])
def test_rows_are_all_or_ever_fewer_from_the_first_to_the_last(count: int, most: int) -> None:
    found = report.shown(count, most)
    assert (found[0], found[-1]) == (1, count)
    assert found == sorted(set(found))
    assert len(found) == count if count <= most else len(found) <= most


@pytest.mark.parametrize(
    ("hours", "words"),
    [(2.5, "2.5 h"), (1.0, "1 h"), (0.5, "30 min"), (1 / 60, "1 min"), (1 / 90, "40 s"), (1e-6, "0.0036 s")],
)
def test_device_time_is_in_the_unit_that_reads_best(hours: float, words: str) -> None:
    assert report.time(hours) == words
