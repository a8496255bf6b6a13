"""Silence over many kinds of healthy searches, of few trials and many: nobody is accused, and notes say what is so."""

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from lightning_diagnostics.findings import Severity
from tests.diagnostics.expected_performance.models import Scripted, expected, fit, trainer
from tests.diagnostics.expected_performance.sweep import SEARCHES, SEEDS, SIZES, Search, judged
from tests.helpers import accusations

every_search = pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.name)


def test_the_sweep_is_as_wide_as_a_rule_needs_that_is_no_preview() -> None:
    assert len({search.name for search in SEARCHES}) == len(SEARCHES) >= 30
    assert (len(SIZES), len(SEEDS)) == (4, 5)


@every_search
def test_a_healthy_search_is_left_in_peace(search: Search) -> None:
    for size in SIZES:
        for seed in SEEDS:
            said = judged(search.trials(size, seed), search.metric, search.mode)
            assert {code for code, severity in said.items() if severity > Severity.INFO} == set()


@every_search
def test_a_note_says_what_is_so(search: Search) -> None:
    for size in SIZES:
        for seed in SEEDS:
            trials = search.trials(size, seed)
            said = judged(trials, search.metric, search.mode)
            scored = [each for each in trials if each.status == "completed" and each.score is not None]
            gone = [
                each for each in trials if each.status == "failed" or (each.diverged and each.status == "completed")
            ]
            assert ("EVP801" in said) == (len(scored) < 5)
            assert ("EVP802" in said) == bool(gone)
            assert not {"EVP803", "EVP804"} & set(said)
            assert "EVP805" not in said or len(scored) >= 5
            assert "EVP807" not in said or search.search != "random" or search.pruning


REAL: dict[str, tuple[list[float], tuple[int, ...]]] = {
    "accuracies": ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], ()),
    "two fail": ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], (1, 3)),
    "one diverges": ([0.1, 0.2, math.nan, 0.4, 0.5, 0.6], (2,)),
}
"""Scores of runs, and which of them count as failed."""


class BrokenError(Exception):
    """What a run fails by."""


def _break() -> None:
    raise BrokenError


@pytest.mark.parametrize("name", REAL)
def test_real_runs_one_after_the_other_are_left_in_peace(name: str, tmp_path: Path) -> None:
    scores, failed = REAL[name]
    curves: list[Any] = []
    for number, score in enumerate(scores):
        callback, breaks = expected(mode="max"), number in failed and math.isfinite(score)
        module = Scripted([score], faults={"training_step": _break} if breaks else {}, saved={"lr": 0.01 * number})
        with pytest.raises(BrokenError) if breaks else nullcontext():
            fit(trainer(callback, tmp_path, max_epochs=1), module)
        assert accusations(callback) == []
        curves.append(callback.curve)
    last = curves[-1]
    assert (len(last.trials), last.n_failed) == (len(scores), len(failed))
    kept = [score for number, score in enumerate(scores) if number not in failed]
    assert sorted(last.scores) == pytest.approx(kept)
