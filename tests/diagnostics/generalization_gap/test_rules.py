"""The rules on numbers alone: both sides of each limit, the limit itself, too early, and what is said in full."""

from dataclasses import replace
from typing import Any

import pytest

from lightning_diagnostics.diagnostics.generalization_gap.measure import Advantage, Baseline, ModeGap, Noise, Onset
from lightning_diagnostics.diagnostics.generalization_gap.rules import (
    Limits,
    gap_within_noise,
    mode_gap,
    overconfident,
    overfitting,
    underfitting,
    unmeasured_gap,
    validation_too_good,
)
from lightning_diagnostics.findings import Diagnosis, Rule, Severity, TooEarly

# Of the tests: sums of powers of two, so that a limit can be hit.
NUMBERS: dict[str, Any] = {"rise": 0.125, "fall": 0.0625, "worse": 0.0625, "gl": 5.0, "pq": 1.0, "up": 3}
NUMBERS |= {"good_validations": 3, "good_margin": 0.25, "mode_validations": 3, "mode_steps": 100, "mode_soon": 8.0}
NUMBERS |= {"mode_excess": 0.5, "under_validations": 4, "under_steps": 50, "under_margin": 0.0625, "under_far": 0.125}
NUMBERS |= {"noise": 4.0, "under_frequent": 0.875, "noise_validations": 3}
LIMITS = Limits(**NUMBERS)

ONSET = Onset("val_loss", False, 40, 9, 3, 3, 3, "patience", None, 1.0, 1.5, 0.0625, 0.25, False, 0.5, 0.25)
BESIDE = {"partner": "val_acc", "partner_best": 0.75, "partner_now": 0.5, "partner_low": 0.125}
WITH = replace(ONSET, **BESIDE)
GOOD = Advantage("val_loss", 30, 3, 2.0, 1.0, False, -0.75, 0.999, 128, 64)
MODES = ModeGap("val_loss", 20, 3, 0.5, 1.0, 8, 0.25, 100)
EQUAL = Baseline("val_loss", 10, 4, 50, "cross entropy", 1.0, 1.0)
NOISE = Noise("val_loss", 5, 3, 0.125, 0.25, 128, 64)


def holds(rule: Rule, measured: Any, **more: Any) -> bool:
    """Whether a rule says anything of numbers, some of which are other ones."""
    verdict = rule.check(replace(measured, **more), LIMITS)
    assert verdict is None or isinstance(verdict, Diagnosis)
    return verdict is not None


# Overfitting.


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, True),
        ({"since": 2}, False),
        ({"since": 4}, True),
        ({"now": 1.125}, False),  # the limit itself
        ({"now": 1.126, "noise": 0.0}, True),
        ({"noise": 0.125}, False),  # the limit itself
        ({"noise": 0.124}, True),
        ({"now": 1.2}, False),  # within four times the noise
        ({"low": 0.0}, False),
        ({"low": 1e-9}, True),
        ({"low": -0.1}, False),
        ({"training_now": 0.46875}, False),  # the limit itself
        ({"training_now": 0.468}, True),
        ({"training_now": 0.6}, False),
        ({"training_best": None}, False),
        ({"training_now": None}, False),
        ({"best": -1.0, "now": -0.875}, False),  # shares are those of sizes
        ({"best": -1.0, "now": -0.5}, True),
    ],
    ids=str,
)
def test_a_loss_that_rises_by_more_than_noise_while_training_falls_is_overfitting(
    change: dict[str, Any], found: bool
) -> None:
    assert holds(overfitting, ONSET, **change) == found


@pytest.mark.parametrize(
    ("change", "found"),
    [({"now": 1.25, "steady": True}, False), ({"now": 1.26, "steady": True}, True), ({"steady": False}, False)],
    ids=str,
)
def test_with_too_few_batches_a_rise_has_to_be_steady(change: dict[str, Any], found: bool) -> None:
    assert holds(overfitting, ONSET, **{"low": None, **change}) == found


@pytest.mark.parametrize(
    ("change", "worse"),
    [
        ({}, True),
        ({"partner_now": 0.703125}, False),  # the limit itself
        ({"partner_now": 0.703}, True),
        ({"partner_noise": 0.0625}, False),  # the limit itself
        ({"partner_noise": 0.0624}, True),
        ({"partner_low": 0.0}, False),
        ({"partner_low": None, "partner_steady": True}, True),
        ({"partner_low": None}, False),
    ],
    ids=str,
)
def test_a_metric_beside_the_loss_tells_overfitting_from_overconfidence(change: dict[str, Any], worse: bool) -> None:
    assert holds(overfitting, WITH, **change) == worse
    assert holds(overconfident, WITH, **change) != worse


@pytest.mark.parametrize("change", [{"since": 2}, {"now": 1.125}, {"low": 0.0}, {"training_now": 0.5}], ids=str)
def test_a_loss_that_does_not_rise_is_not_overconfident_either(change: dict[str, Any]) -> None:
    assert not holds(overconfident, WITH, partner_now=0.75, **change)


def test_without_a_metric_beside_the_loss_nothing_is_said_of_confidence() -> None:
    assert not holds(overconfident, ONSET)


@pytest.mark.parametrize(
    ("criterion", "limit", "at_the_limit"), [("GL", 5.0, False), ("PQ", 1.0, False), ("UP", 3.0, True)]
)
def test_a_criterion_of_prechelt_has_to_hold_beside_the_patience(
    criterion: str, limit: float, at_the_limit: bool
) -> None:
    def found(score: float | None, since: int = 3) -> bool:
        return holds(overfitting, ONSET, criterion=criterion, score=score, since=since)

    assert [found(limit - 0.5), found(limit), found(limit + 0.5)] == [False, at_the_limit, True]
    assert not found(None)
    assert not found(limit + 0.5, since=2)


@pytest.mark.parametrize(("validations", "early"), [(3, True), (4, False)])
def test_before_the_patience_it_is_too_early(validations: int, early: bool) -> None:
    verdict = overfitting.check(replace(ONSET, validations=validations), LIMITS)
    assert (verdict == TooEarly(validations, 4, "validations")) == early
    assert overconfident.check(replace(WITH, partner_now=0.75, validations=3), LIMITS) is None


# The others.


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, True),
        ({"validations": 2}, False),
        ({"high": -0.5}, False),  # the limit itself
        ({"high": -0.501}, True),
        ({"high": 0.1}, False),
        ({"share": True, "training": 0.5, "validation": 0.75, "high": -0.025}, False),
        ({"share": True, "training": 0.5, "validation": 0.75, "high": -0.0251}, True),
        ({"training": -2.0, "validation": -3.0, "high": -0.5}, False),
    ],
    ids=str,
)
def test_validation_that_is_better_by_more_than_a_margin_is_too_good(change: dict[str, Any], found: bool) -> None:
    assert holds(validation_too_good, GOOD, **change) == found


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, True),
        ({"validations": 2}, False),
        ({"low": 0.0}, False),
        ({"low": 1e-9}, True),
        ({"low": None}, False),  # of one batch nothing is known
        ({"lasted": 99}, False),
        ({"lasted": 99, "evaluation_mode": 4.5}, False),  # the limit itself
        ({"lasted": 99, "evaluation_mode": 4.51}, True),
    ],
    ids=str,
)
def test_evaluation_mode_that_is_worse_for_long_or_by_far_is_a_gap_of_modes(
    change: dict[str, Any], found: bool
) -> None:
    assert holds(mode_gap, MODES, **change) == found


@pytest.mark.parametrize(
    ("kind", "value", "constant", "found"),
    [
        ("cross entropy", 1.0, 1.0, True),
        ("cross entropy", 0.9375, 1.0, True),  # the limit itself
        ("cross entropy", 0.937, 1.0, False),
        ("cross entropy", 1.125, 1.0, True),  # the limit itself
        ("cross entropy", 1.126, 1.0, False),
        ("squared error", 4.0, 4.0, True),
        ("squared error", 3.7, 4.0, False),
        ("squared error", 0.0, 0.0, False),  # nothing to be learned
        ("share", 0.5, 0.5, True),
        ("share", 0.53125, 0.5, True),  # the limit itself
        ("share", 0.532, 0.5, False),
        ("share", 1.0, 1.0, False),
        ("share", 0.875, 0.875, True),  # the limit itself
        ("share", 0.876, 0.876, False),  # one class is all but everything
        ("cross entropy", 0.1, 0.1, True),
    ],
)
def test_what_is_no_better_than_a_constant_predictor_is_underfitting(
    kind: str, value: float, constant: float, found: bool
) -> None:
    assert holds(underfitting, EQUAL, kind=kind, value=value, constant=constant) == found


@pytest.mark.parametrize(
    ("change", "verdict"),
    [({"validations": 3}, TooEarly(3, 4, "validations")), ({"trained": 49}, TooEarly(49, 50, "steps"))],
    ids=str,
)
def test_before_some_validations_and_steps_nothing_is_said_of_underfitting(
    change: dict[str, Any], verdict: TooEarly
) -> None:
    assert underfitting.check(replace(EQUAL, **change), LIMITS) == verdict


@pytest.mark.parametrize(("validations", "found"), [(2, False), (3, True), (4, True)])
def test_a_gap_that_has_zero_in_its_interval_for_long_is_a_note(validations: int, found: bool) -> None:
    assert holds(gap_within_noise, NOISE, validations=validations) == found


def test_what_was_not_measured_is_said_by_the_callback_alone() -> None:
    assert unmeasured_gap.check(object(), LIMITS) is None


# Every word.

WORDS: list[tuple[Rule, Any, Severity, int, str, str, dict[str, Any]]] = [
    (
        overfitting,
        WITH,
        Severity.WARNING,
        40,
        "val_loss was best at step 40 (1) and has gone to 1.5 in the 3 validations since (the mean of the last 3), and "
        "val_acc has gone from 0.75 to 0.5. On training data val_loss has got better meanwhile, from 0.5 to 0.25.",
        "keep the checkpoint of step 40 (ModelCheckpoint(monitor='val_loss')) and stop there; more data, augmentation, "
        "weight decay or dropout put the onset off.",
        {
            "rise": 0.5,
            "overfitting.rise": 0.125,
            "rise_at_least": 0.25,
            "noise": 0.0625,
            "overfitting.noise": 4,
            "patience": 3,
            "val_acc_at_onset": 0.75,
            "val_acc": 0.5,
            "training_at_onset": 0.5,
            "training": 0.25,
        },
    ),
    (
        overfitting,
        replace(ONSET, large=True, best=-0.75, now=-0.5, noise=0.0, training_best=-0.75, training_now=-1.0, last=2),
        Severity.WARNING,
        40,
        "val_loss was best at step 40 (0.75) and has gone to 0.5 in the 3 validations since (the mean of the last 2). "
        "On training data val_loss has got better meanwhile, from 0.75 to 1.",
        "keep the checkpoint of step 40 (ModelCheckpoint(monitor='val_loss')) and stop there; more data, augmentation, "
        "weight decay or dropout put the onset off.",
        {"best": 0.75, "now": 0.5, "rise": 0.3333, "training_at_onset": 0.75, "training": 1.0},
    ),
    (
        overfitting,
        replace(ONSET, criterion="PQ", score=2.0),
        Severity.WARNING,
        40,
        "val_loss was best at step 40 (1) and has gone to 1.5 in the 3 validations since (the mean of the last 3). On "
        "training data val_loss has got better meanwhile, from 0.5 to 0.25.",
        "keep the checkpoint of step 40 (ModelCheckpoint(monitor='val_loss')) and stop there; more data, augmentation, "
        "weight decay or dropout put the onset off.",
        {"PQ": 2.0, "overfitting.pq": 1.0},
    ),
    (
        validation_too_good,
        GOOD,
        Severity.WARNING,
        30,
        "val_loss is better on validation than on training data, both in evaluation mode: 1 against 2 at the last of 3 "
        "validations, by at least 0.75 with 99.9% confidence.",
        "look for training samples in the validation set, and for a validation set that is easier than the task.",
        {"training": 2.0, "validation": 1.0, "least_advantage": 0.75, "training_samples": 128},
    ),
    (
        mode_gap,
        MODES,
        Severity.WARNING,
        20,
        "val_loss of the same 8 training batches, with the same weights, is 1 in evaluation mode and 0.5 in training "
        "mode.",
        "look at running statistics of batch norm (BatchNormGuard), and for code that asks self.training.",
        {"evaluation_mode": 1.0, "training_mode": 0.5, "mode-gap.excess": 0.5, "batches": 8},
    ),
    (
        underfitting,
        EQUAL,
        Severity.WARNING,
        10,
        "val_loss on training data is that of a constant predictor at 4 validations in a row: 1 where the entropy of "
        "the classes is 1.",
        "fit ten samples first; then look at the learning rate, the scale of the inputs, and whether inputs and labels "
        "belong together.",
        {"training": 1.0, "constant_predictor": 1.0, "kind": "cross entropy", "steps": 50, "underfitting.steps": 50},
    ),
    (
        overconfident,
        replace(WITH, partner_now=0.75),
        Severity.INFO,
        40,
        "val_loss was best at step 40 (1) and is 1.5 now, but val_acc has not got worse by more than chance (0.75, now "
        "0.75): surer of the same mistakes.",
        "if probabilities are used, scale the temperature or smooth the labels; else watch the accuracy.",
        {"best": 1.0, "now": 1.5, "val_acc": 0.75},
    ),
    (
        gap_within_noise,
        NOISE,
        Severity.INFO,
        5,
        "The gap of val_loss cannot be told from none: 0.125, give or take 0.25, with 64 validation and 128 training "
        "samples.",
        "more validation samples, if it has to be known any better.",
        {"gap": 0.125, "half_width": 0.25, "validations": 3, "gap-within-noise.validations": 3},
    ),
]


@pytest.mark.parametrize(
    ("rule", "measured", "severity", "step", "message", "remedy", "evidence"),
    [pytest.param(*words, id=f"{words[0].name}-{number}") for number, words in enumerate(WORDS)],
)
def test_every_word_of_a_finding(
    rule: Rule, measured: Any, severity: Severity, step: int, message: str, remedy: str, evidence: dict[str, Any]
) -> None:
    verdict = rule.check(measured, LIMITS)
    assert isinstance(verdict, Diagnosis)
    assert (verdict.severity, verdict.where, verdict.first_step) == (severity, "val_loss", step)
    assert verdict.message == message
    assert verdict.remedy == remedy
    assert evidence.items() <= verdict.evidence.items()


def test_shares_are_said_in_per_cent() -> None:
    good = replace(GOOD, share=True, training=0.5, validation=0.75, high=-0.1)
    verdict = validation_too_good.check(good, LIMITS)
    assert isinstance(verdict, Diagnosis)
    assert "75.0% against 50.0%" in verdict.message
    verdict = underfitting.check(replace(EQUAL, kind="share", value=0.5, constant=0.5), LIMITS)
    assert isinstance(verdict, Diagnosis)
    assert verdict.message.endswith("50.0% where always naming the most frequent class gives 50.0%.")


@pytest.mark.parametrize(
    ("constant", "agreed", "found"),
    [(0.875, False, True), (0.9375, False, False), (0.9375, True, True)],
    ids=["at the limit", "a rare class", "a rare class, and the loss says so, too"],
)
def test_an_accuracy_of_rare_classes_is_asked_only_beside_a_loss(constant: float, agreed: bool, found: bool) -> None:
    measured = Baseline("val_acc", 10, 100, 10_000, "share", constant, constant, agreed=agreed)
    assert (underfitting.check(measured, LIMITS) is not None) == found
