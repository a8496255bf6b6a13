"""The rules of a sweep on readings that are made: whole messages, both sides of each limit, and how sure a note is."""

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from lightning_diagnostics.diagnostics.expected_performance import rules
from lightning_diagnostics.diagnostics.expected_performance.measure import Lead, Reading
from lightning_diagnostics.diagnostics.expected_performance.reading import reading, standing
from lightning_diagnostics.diagnostics.expected_performance.rules import RULES, Limits
from lightning_diagnostics.diagnostics.expected_performance.trials import Trial
from lightning_diagnostics.findings import Diagnosis, Rule, Severity
from tests.diagnostics.expected_performance.made import curve, trial, trials

HEALTHY = Reading(
    step=7,
    metric="val_acc",
    mode="max",
    scored=6,
    needed=5,
    failed=(),
    lost=(),
    gone=0,
    silent=0.0,
    others={},
    spaces={"lr": 6},
    searches=(),
    tested=0,
    total=6,
    best="a",
    leads=(),
)


def diagnosis(rule: Rule, *, limits: Limits | None = None, **changes: Any) -> Diagnosis:
    found = rule.check(replace(HEALTHY, **changes), limits or Limits())
    assert isinstance(found, Diagnosis)
    assert (found.where, found.first_step) == (None, 7)
    return found


def test_nothing_is_said_of_a_healthy_sweep() -> None:
    assert [rule.check(HEALTHY, Limits()) for rule in RULES] == [None] * len(RULES)


def test_only_lost_trials_are_more_than_a_note() -> None:
    assert [rule.name for rule in RULES if rule.severities != (Severity.INFO,)] == ["lost-trials"]


# Whole messages.

MESSAGES: list[tuple[Rule, dict[str, Any], str, str, dict[str, Any]]] = [
    (
        rules.lost_trials,
        {"lost": ("3",), "silent": 1900.4},
        "1 trial of 6 stopped without a word: 3 (the last sign of life is 32 min old).",
        "look at the log of the job, and resume it from the last checkpoint, or delete its folder.",
        {"lost": 1, "gone": 0, "trials": 6, "seconds since the last was heard of": 1900},
    ),
    (
        rules.lost_trials,
        {"lost": ("a", "b", "c", "d", "e"), "gone": 5},
        "5 trials of 6 stopped without a word: a, b, c and 2 more (their processes are gone).",
        "look at the log of the job, and resume them from the last checkpoint, or delete their folders.",
        {"lost": 5, "gone": 5, "trials": 6, "seconds since the last was heard of": 0},
    ),
    (
        rules.too_few_trials,
        {"scored": 1},
        "1 trial of the sweep has a score, and a curve takes 5: the scores are listed instead.",
        "nothing while the sweep goes on; else report all scores, and not the best alone.",
        {"scores": 1, "min_trials": 5},
    ),
    (
        rules.failed_trials,
        {"failed": ("OutOfMemoryError", "killed", "OutOfMemoryError"), "total": 9},
        "3 of 9 trials failed (2 x OutOfMemoryError, 1 x killed).",
        "report how many failed beside the best score; failed= says what they count as in the curve.",
        {"failed": 3, "scored": 6, "rate": 0.3333},
    ),
    (
        rules.mixed_metrics,
        {"others": {"val_loss (min)": 2, "val_acc (min)": 1}},
        "3 runs beside this one of val_acc (max) are left out of the curve: 1 of val_acc (min), 2 of val_loss (min).",
        "give all runs of one sweep the same monitor= and mode=, and each sweep a name (sweep=).",
        {"left out": 3, "trials": 6},
    ),
    (
        rules.mixed_metrics,
        {"others": {"val_loss (min)": 1}},
        "1 run beside this one of val_acc (max) is left out of the curve: 1 of val_loss (min).",
        "give all runs of one sweep the same monitor= and mode=, and each sweep a name (sweep=).",
        {"left out": 1, "trials": 6},
    ),
    (
        rules.reused_test_set,
        {"tested": 2},
        "2 of 6 trials were evaluated on test data: the best of them is as optimistic as the best of their validation "
        "scores.",
        "choose by validation data, and run trainer.test once, with the trial that was chosen.",
        {"tested": 2, "trials": 6, "metric": "val_acc"},
    ),
    (
        rules.reused_test_set,
        {"metric": "test_acc"},
        "Trials are compared by test_acc, a metric of test data by its name: the best of them is as optimistic as the "
        "best of their validation scores.",
        "choose by validation data, and run trainer.test once, with the trial that was chosen.",
        {"tested": 0, "trials": 6, "metric": "test_acc"},
    ),
    (
        rules.best_within_noise,
        {"leads": (Lead("b", 0.02, None, (90, 88), 100), Lead("c", 0.3, None, (90, 60), 100))},
        "The best trial (a) is not told from 1 other of 6 by its validation samples: the next one (b) is 0.02 behind "
        "in val_acc, and the samples tell the difference as -0.06961 to 0.11 (95%).",
        "compare these on more data or over several seeds, or take the cheapest.",
        {"lead": 0.02, "within": 1, "interval low": -0.069615, "interval high": 0.110041, "samples": 100},
    ),
    (
        rules.mixed_search_spaces,
        {"spaces": {"momentum": 2, "none of these": 4}},
        "The trials do not have the same hyperparameters: 2 with momentum; 4 with none of these.",
        "give each search a name (sweep=) or a folder of its own, unless this is one space with conditions.",
        {"sets": 2, "trials": 6},
    ),
    (
        rules.non_random_search,
        {"searches": ("TPESampler", "pruning")},
        "The search was not random (TPESampler, pruning), and the curve takes trials for independent draws.",
        "read the curve with care, or run a random search for one that means what it says.",
        {"search": "TPESampler, pruning", "trials": 6},
    ),
]


@pytest.mark.parametrize(("rule", "changes", "message", "remedy", "evidence"), MESSAGES)
def test_what_is_said_is_said_in_whole_sentences(
    rule: Rule, changes: dict[str, Any], message: str, remedy: str, evidence: dict[str, Any]
) -> None:
    found = diagnosis(rule, **changes)
    assert (found.message, found.remedy, found.evidence) == (message, remedy, evidence)
    assert found.severity == (Severity.WARNING if rule is rules.lost_trials else Severity.INFO)


# Both sides of each limit.


@pytest.mark.parametrize(
    ("rule", "speaks", "is_silent"),
    [
        (rules.too_few_trials, {"scored": 4}, {"scored": 5}),
        (rules.too_few_trials, {"scored": 5, "needed": 6}, {"scored": 1, "needed": 1}),
        (rules.reused_test_set, {"tested": 2}, {"tested": 1}),
        (rules.reused_test_set, {"metric": "Test/acc"}, {"metric": "val/test"}),
        (rules.reused_test_set, {"metric": "test_acc", "scored": 2}, {"metric": "test_acc", "scored": 1}),
        (rules.mixed_search_spaces, {"spaces": {"a": 1, "b": 1}}, {"spaces": {}}),
        (rules.non_random_search, {"searches": ("grid",), "scored": 5}, {"searches": ("grid",), "scored": 4}),
    ],
)
def test_a_rule_speaks_on_one_side_of_its_limit(rule: Rule, speaks: dict[str, Any], is_silent: dict[str, Any]) -> None:
    diagnosis(rule, **speaks)
    assert rule.check(replace(HEALTHY, **is_silent), Limits()) is None


# The best within noise: what a lead has to be, and how often the note is right.


def noise(lead: Lead, *more: Lead, **changes: Any) -> Any:
    limits = Limits(**{name: changes.pop(name) for name in ("confidence", "batches") if name in changes})
    return rules.best_within_noise.check(replace(HEALTHY, leads=(lead, *more), **changes), limits)


def paired(ahead: list[float]) -> Lead:
    ones = tuple(0.5 + 0.1 * math.sin(n) for n in range(len(ahead)))
    others = tuple(one - each for one, each in zip(ones, ahead, strict=True))
    return Lead("b", abs(sum(ahead)) / len(ahead), (ones, others, (10.0,) * len(ahead)), None, None)


def test_a_lead_on_every_part_is_real_and_one_that_comes_and_goes_is_not() -> None:
    assert noise(paired([0.01] * 12)) is None
    assert noise(paired([0.01 + 0.001 * (-1) ** n for n in range(12)])) is None
    assert noise(paired([0.01 + 0.1 * (-1) ** n for n in range(12)])) is not None


def test_where_small_is_better_the_best_one_is_behind_in_numbers() -> None:
    assert noise(paired([-0.01] * 12), mode="min", metric="val_loss") is None
    within = noise(paired([-0.01 + 0.1 * (-1) ** n for n in range(12)]), mode="min", metric="val_loss")
    low, high = within.evidence["interval low"], within.evidence["interval high"]
    assert low < 0 < 0.01 < high
    assert low + high == pytest.approx(0.02)  # an advantage is positive


def test_fewer_parts_than_the_limit_tell_nothing() -> None:
    waves = [0.01 + 0.1 * (-1) ** n for n in range(10)]
    assert noise(paired(waves)) is not None
    assert noise(paired(waves[:9])) is None
    assert noise(paired(waves[:9]), batches=9) is not None


def test_parts_are_more_telling_than_counts() -> None:
    parts = paired([0.01] * 12)
    counts = Lead("b", 0.01, None, (90, 89), 100)
    assert noise(counts) is not None
    assert noise(replace(counts, paired=parts.paired)) is None


def test_a_higher_confidence_takes_a_longer_lead() -> None:
    lead = Lead("b", 0.1, None, (90, 80), 100)
    assert noise(lead, confidence=0.9) is None
    assert noise(lead, confidence=0.99) is not None


def test_a_lead_over_the_next_one_that_is_known_is_enough() -> None:
    sure, unsure = Lead("b", 0.3, None, (90, 60), 100), Lead("c", 0.3, None, (90, 89), 100)
    unknown = Lead("d", 0.001, None, None, None)
    assert noise(sure, unsure) is None
    assert noise(unknown, unsure) is None
    barely = Lead("e", 0.12, None, (90, 78), 100)
    assert noise(unsure, unknown, barely, sure).evidence["within"] == 1
    assert noise(Lead("b", 0.0, None, (90, 90), 100)).message.count("(b) is level with it in val_acc") == 1


def test_with_too_few_scores_it_is_too_early() -> None:
    lead = Lead("b", 0.0, None, (90, 90), 100)
    assert noise(lead, scored=4) is None
    assert noise(lead, scored=5) is not None


SAMPLES, REPEATS = 1000, 200


def _two(draw: np.random.Generator, shares: tuple[float, float], *, parts: int) -> list[Trial]:
    """Two trials with these true accuracies; some samples are harder than others, for both."""
    ease = draw.normal(size=SAMPLES)
    found: list[Trial] = []
    for number, share in enumerate(shares):
        signal = ease + draw.normal(size=SAMPLES)
        correct = signal > -math.sqrt(2) * NormalDist().inv_cdf(share)
        means = correct.reshape(parts, -1).mean(axis=1).tolist() if parts else []
        sizes = [SAMPLES / parts] * parts if parts else []
        more = {"batch_means": means, "batch_sizes": sizes, "validation_samples": SAMPLES}
        found.append(trial(number, float(correct.mean()), **more))
    return found


def _speaks(shares: tuple[float, float], *, parts: int) -> float:
    """How often the note is made of two trials."""
    draw, often = np.random.default_rng(0), 0
    for _ in range(REPEATS):
        some = _two(draw, shares, parts=parts)
        measured = reading(curve(some, min_trials=2), some, step=0, silence=1800.0)
        often += rules.best_within_noise.check(measured, Limits()) is not None
    return often / REPEATS


by_parts_or_counts = pytest.mark.parametrize("parts", [0, 20], ids=["by counts", "by parts"])


@by_parts_or_counts
def test_of_two_trials_far_apart_in_truth_nothing_is_said(parts: int) -> None:
    assert _speaks((0.9, 0.8), parts=parts) == 0


@by_parts_or_counts
def test_of_two_trials_as_good_in_truth_it_is_nearly_always_said(parts: int) -> None:
    assert _speaks((0.8, 0.8), parts=parts) >= 0.9  # 95 per cent, but for chance


def test_by_parts_it_is_said_less_often_of_two_that_differ_a_little() -> None:
    assert _speaks((0.82, 0.79), parts=20) < _speaks((0.82, 0.79), parts=0) - 0.1


# What the rules are given.


def _measured(some: list[Trial], **more: Any) -> Reading:
    return reading(curve(some, **more), some, step=3, silence=1800.0)


def test_a_reading_has_what_the_trials_have() -> None:
    some = [
        *trials([0.5, 0.75, 0.25], tests=1, validation_samples=8, hyperparameters={"lr": 1}),
        trial(3, None, "failed", reason="ValueError", hyperparameters={"lr": 1, "momentum": 2}),
        trial(4, None, readings=1, hyperparameters={"lr": 1}),
        trial(5, 0.1, metric="val_loss", mode="min"),
    ]
    found = _measured(some)
    assert (found.step, found.metric, found.mode, found.scored, found.needed) == (3, "val_acc", "max", 3, 5)
    assert (found.failed, found.lost) == (("ValueError", "val_acc was never finite"), ())
    assert (found.others, found.spaces) == ({"val_loss (min)": 1}, {"none of these": 4, "momentum": 1})
    assert (found.searches, found.tested, found.total, found.best) == ((), 3, 6, "1")
    assert found.leads == (Lead("0", 0.25, None, (6, 4), 8), Lead("2", 0.5, None, (6, 2), 8))


@pytest.mark.parametrize(
    ("change", "correct", "samples"),
    [
        (lambda t: t, (6, 4), 8),
        (lambda t: replace(t, validation_samples=None), None, None),
        (lambda t: replace(t, validation_samples=8 + int(t.number)), None, None),
        (lambda t: replace(t, score=t.score + 0.01), None, 8),
        (lambda t: replace(t, score=t.score + 1e-7), (6, 4), 8),
    ],
    ids=["whole", "not known", "different", "no whole number of samples", "rounded"],
)
def test_samples_that_are_right_are_known_of_an_accuracy_alone(
    change: Callable[[Any], Trial], correct: Any, samples: int | None
) -> None:
    some = [change(each) for each in trials([0.5, 0.75], validation_samples=8)]
    (lead,) = _measured(some).leads
    assert (lead.correct, lead.samples) == (correct, samples)
    losses = [replace(each, metric="val_loss") for each in trials([0.5, 0.75], validation_samples=8)]
    (lead,) = reading(curve(losses, metric="val_loss"), losses, step=0, silence=1800.0).leads
    assert (lead.correct, lead.samples) == (None, 8)


def test_trials_are_compared_part_by_part_where_these_are_of_the_same_sizes() -> None:
    one, other = trials([0.5, 0.75], batch_means=[0.5, 0.6], batch_sizes=[8.0, 4.0])
    other = replace(other, batch_means=[0.7, 0.8])
    (lead,) = _measured([one, other]).leads
    assert lead.paired == ((0.7, 0.8), (0.5, 0.6), (8.0, 4.0))
    (lead,) = _measured([one, replace(other, batch_sizes=[8.0, 3.0])]).leads
    assert lead.paired is None


def test_a_trial_that_is_the_best_one_once_more_is_no_rival() -> None:
    some = trials([0.75, 0.75, 0.5], batch_means=[0.7, 0.8], batch_sizes=[8.0, 4.0])
    some[2] = replace(some[2], batch_means=[0.5, 0.5])
    (lead,) = _measured(some).leads
    assert lead.by == 0.25


def test_what_is_drawn_of_a_sweep_at_the_end_of_a_run() -> None:
    some = [
        *trials([0.5, 0.7, 0.4, 0.6, 0.8], search="random"),
        trial(5, None, "failed", search="random"),
        trial(6, 0.9, "running"),
        trial(7, search="random"),
    ]
    found = standing(curve(some), 0.4)
    assert (found.score, found.best, found.n_trials, found.n_failed, found.n_pruned) == (0.4, 0.8, 6, 1, 0)
    assert found.expected_best == curve(some).mean[-1]
    assert found.failure_rate == pytest.approx(1 / 6)
    assert found.iid_assumption == 1
    pruned = standing(curve([*some, trial(8, None, "pruned")]), None)
    assert (pruned.iid_assumption, pruned.n_pruned, pruned.score) == (0, 1, None)
    none = standing(curve(trials([0.5])), 0.5)
    assert (none.expected_best, none.failure_rate, none.iid_assumption) == (None, 0, None)
    assert standing(curve([]), None).failure_rate is None
