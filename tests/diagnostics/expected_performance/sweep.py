"""Healthy searches of many kinds, as a table: what is said of them, and how often.

``python -m tests.diagnostics.expected_performance.sweep [name ...]``
"""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

from lightning_diagnostics.diagnostics.expected_performance.curve import SILENCE, tuning_curve
from lightning_diagnostics.diagnostics.expected_performance.reading import reading
from lightning_diagnostics.diagnostics.expected_performance.rules import RULES, Limits
from lightning_diagnostics.diagnostics.expected_performance.trials import Trial
from lightning_diagnostics.findings import Diagnosis, Severity

SIZES = (1, 3, 10, 60)
SEEDS = range(5)
PARTS = 20
"""Batches of a validation."""

Score = Callable[[Random], float]


@dataclass(frozen=True)
class Search:
    """A healthy search.

    Attributes:
        name: What it is called.
        score: Of one trial.
        metric: What it is of.
        mode: Whether it shall be small or large.
        search: How trials are proposed, where that is known.
        settings: The hyperparameters of a trial, by its number.
        failing: The share of trials that fail.
        diverging: The share whose metric is never finite.
        pruning: The share that is pruned.
        running: How many still run.
        changes: What else is to be said of a trial, by its number.
    """

    name: str
    score: Score
    metric: str = "val_acc"
    mode: Any = "max"
    search: str | None = "random"
    settings: Callable[[Random, int], dict[str, Any]] = lambda draw, _: {"lr": 10 ** draw.uniform(-4, -1), "seed": 1}
    failing: float = 0.0
    diverging: float = 0.0
    pruning: float = 0.0
    running: int = 0
    changes: Callable[[Trial, Random, int], Trial] = lambda trial, *_: trial

    def trials(self, size: int, seed: int) -> list[Trial]:
        """So many of its trials, and those that still run."""
        draw = Random(f"{self.name} {size} {seed}")
        return [self._trial(draw, number, runs=number >= size) for number in range(size + self.running)]

    def _trial(self, draw: Random, number: int, *, runs: bool) -> Trial:
        score, fate = self.score(draw), draw.random()
        status: Any = "completed"
        reason, now = "", time.time()
        for share, other, why in ((self.failing, "failed", "OutOfMemoryError"), (self.pruning, "pruned", "")):
            if 0 <= fate < share:
                status, reason = other, why
            fate -= share
        gone = 0 <= fate < self.diverging
        trial = Trial(
            *(f"run-{number}", self.metric, self.mode, "running" if runs else status, "" if runs else reason),
            score=None if gone or status == "failed" else score,
            readings=3,
            number=str(number),
            search=self.search,
            seconds=draw.uniform(100, 1000),
            hyperparameters=self.settings(draw, number),
            beat=now - draw.uniform(0, 100),
            silence=100.0,
            host="elsewhere",
        )
        return self.changes(trial, draw, number)


def judged(trials: Sequence[Trial], metric: str, mode: Any, **more: Any) -> dict[str, Severity]:
    """What is said of a search at the end of one of its runs, by code."""
    curve = tuning_curve(trials, metric=metric, mode=mode, **more)
    measured = reading(curve, trials, step=0, silence=SILENCE)
    verdicts = {rule.code: rule.check(measured, Limits()) for rule in RULES[:-1]}
    return {code: verdict.severity for code, verdict in verdicts.items() if isinstance(verdict, Diagnosis)}


# Scores.


def accuracy(mean: float, spread: float, samples: int = 1000) -> Score:
    """The share of samples that trials have right, which are so much better and worse in truth."""

    def score(draw: Random) -> float:
        share = min(0.999, max(0.001, draw.gauss(mean, spread)))
        return sum(draw.random() < share for _ in range(samples)) / samples

    return score


def bimodal(draw: Random) -> float:
    """Most learn, and some stay at chance."""
    return accuracy(0.9, 0.01)(draw) if draw.random() < 0.7 else accuracy(0.1, 0.001)(draw)


def loss(draw: Random) -> float:
    return math.exp(draw.gauss(-1, 0.5))


def heavy(draw: Random) -> float:
    """A few losses are a thousand times the others."""
    return draw.paretovariate(0.7)


def by_accuracy(trial: Trial, *_: Any, samples: int = 1000) -> Trial:
    return replace(trial, validation_samples=samples)


def by_batches(trial: Trial, draw: Random, _: int, *, hard: Sequence[float] = ()) -> Trial:
    """The metric over the batches of the validation, of which some are harder than others for all."""
    if trial.score is None:
        return trial
    hard = hard or [0.05 * math.sin(7 * part) for part in range(PARTS)]
    means = [trial.score + each + draw.gauss(0, 0.01) for each in hard]
    return replace(trial, batch_means=means, batch_sizes=[50.0] * PARTS, validation_samples=1000)


def slowly(trial: Trial, *_: Any) -> Trial:
    """Its batches take a quarter of an hour, and the last one two hours."""
    return replace(trial, silence=900.0, beat=time.time() - 7200)


# Settings.


def of_adam(draw: Random, number: int) -> dict[str, Any]:
    """One hyperparameter that is there for some values of another."""
    common = {"lr": 10 ** draw.uniform(-4, -1)}
    return {**common, "optimizer": "sgd", "momentum": 0.9} if draw.random() < 0.5 else {**common, "optimizer": "adam"}


def of_grid(draw: Random, number: int) -> dict[str, Any]:
    return {"lr": 10.0 ** -(number % 5), "depth": number // 5}


PLAIN = accuracy(0.8, 0.05)

SEARCHES = (
    # Scores.
    Search("accuracies", PLAIN, changes=by_accuracy),
    Search("accuracies_far_apart", accuracy(0.6, 0.2), changes=by_accuracy),
    Search("accuracies_next_to_each_other", accuracy(0.8, 0.005), changes=by_accuracy),
    Search("accuracies_all_the_same_in_truth", accuracy(0.8, 0.0), changes=by_accuracy),
    Search("accuracies_near_one", accuracy(0.995, 0.002), changes=by_accuracy),
    Search("accuracies_at_chance", accuracy(0.1, 0.0), changes=by_accuracy),
    Search("accuracies_of_50_samples", accuracy(0.8, 0.05, 50), changes=partial(by_accuracy, samples=50)),
    Search("accuracies_of_20_samples_with_ties", accuracy(0.9, 0.02, 20), changes=partial(by_accuracy, samples=20)),
    Search("accuracies_by_batches", PLAIN, changes=by_batches),
    Search("accuracies_by_batches_the_same_in_truth", lambda draw: draw.gauss(0.8, 0.001), changes=by_batches),
    Search("accuracies_in_per_cent", lambda draw: 100 * PLAIN(draw), changes=by_accuracy),
    Search("some_at_chance", bimodal, changes=by_accuracy),
    Search("all_equal", lambda draw: 0.5, changes=by_accuracy),
    Search("losses", loss, "val_loss", "min"),
    Search("losses_by_batches", loss, "val_loss", "min", changes=by_batches),
    Search("losses_a_thousand_times_the_others", heavy, "val_loss", "min"),
    Search("perplexities", lambda draw: 20 * math.exp(loss(draw)), "val_ppl", "min"),
    Search("rewards_below_zero", lambda draw: draw.gauss(-200, 50), "reward", "max"),
    Search("f1_scores", lambda draw: draw.betavariate(8, 2), "val_f1", changes=by_accuracy),
    Search("correlations", lambda draw: draw.uniform(-1, 1), "val_pearson", "max"),
    Search("tiny_numbers", lambda draw: 1e-12 * loss(draw), "val_mse", "min"),
    # How trials are proposed.
    Search("search_not_known", PLAIN, search=None),
    Search("tpe", PLAIN, search="TPESampler"),
    Search("grid_that_was_said", PLAIN, search="grid", settings=of_grid),
    Search("grid_that_was_found", PLAIN, search=None, settings=of_grid),
    Search("settings_not_saved", PLAIN, search=None, settings=lambda *_: {}),
    Search("settings_with_conditions", PLAIN, settings=of_adam),
    Search("only_seeds_differ", accuracy(0.8, 0.004), search=None, settings=lambda _, number: {"seed": number}),
    # What becomes of them.
    Search("a_tenth_fails", PLAIN, failing=0.1),
    Search("half_fail", PLAIN, failing=0.5),
    Search("a_tenth_diverges", loss, "val_loss", "min", diverging=0.1),
    Search("all_fail", PLAIN, failing=1.0),
    Search("half_are_pruned", PLAIN, pruning=0.5),
    Search("most_are_pruned_and_some_fail", PLAIN, pruning=0.7, failing=0.1, diverging=0.1),
    Search("four_still_run", PLAIN, running=4),
    Search("one_runs_a_slow_batch", PLAIN, running=1, changes=slowly),
    # What else they have.
    Search("validated_on_different_samples", PLAIN, changes=lambda t, _, n: replace(t, validation_samples=100 + n)),
    Search("one_was_tested", PLAIN, changes=lambda t, _, n: replace(t, tests=int(n == 0))),
    Search("many_devices", PLAIN, changes=lambda t, *_: replace(t, devices=64)),
    Search("without_times", PLAIN, changes=lambda t, *_: replace(t, seconds=0.0)),
    Search("names_of_many_letters", PLAIN, settings=lambda *_: {f"model/{'x' * 200}/{n}": n for n in range(30)}),
)


def table(searches: Sequence[Search]) -> Iterator[str]:
    """The lines of the table, in Markdown: of each search how many of its sweeps have each note."""
    titles = ("search", *(f"notes, {size} trial{'s' * (size != 1)}" for size in SIZES), "findings")
    yield "| " + " | ".join(titles) + " |"
    yield "|" + " --- |" * len(titles)
    for search in searches:
        cells, accused = [search.name], Counter[str]()
        for size in SIZES:
            found = [judged(search.trials(size, seed), search.metric, search.mode) for seed in SEEDS]
            notes = Counter(code for each in found for code in each)
            accused += Counter(code for each in found for code, severity in each.items() if severity > Severity.INFO)
            often = (code if number == len(SEEDS) else f"{code} ({number})" for code, number in sorted(notes.items()))
            cells.append(", ".join(often) or "none")
        yield "| " + " | ".join([*cells, ", ".join(sorted(accused)) or "none"]) + " |"


def main(names: list[str]) -> None:
    """Print the table, of all or of those named."""
    for line in table([search for search in SEARCHES if not names or search.name in names]):
        print(line, flush=True)  # noqa: T201  # a command line


if __name__ == "__main__":
    main(sys.argv[1:])
