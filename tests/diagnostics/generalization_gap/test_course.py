"""The course of many validations through the rules: noise is no overfitting, and what rises is found."""

import json
import math
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from lightning_diagnostics import statistics
from lightning_diagnostics.diagnostics.generalization_gap.baseline import Constant
from lightning_diagnostics.diagnostics.generalization_gap.caption import caption
from lightning_diagnostics.diagnostics.generalization_gap.course import Around, Course, Settings
from lightning_diagnostics.diagnostics.generalization_gap.measure import Onset, Samples, Value
from lightning_diagnostics.diagnostics.generalization_gap.rules import Limits, overconfident, overfitting
from lightning_diagnostics.diagnostics.generalization_gap.scoring import Score
from lightning_diagnostics.diagnostics.generalization_gap.tally import Series
from lightning_diagnostics.findings import Diagnosis

BATCHES = 12
LIMITS = Limits()
NAMES = {rule: rule.name for rule in (overfitting, overconfident)}


def _value(number: float, batches: int = BATCHES) -> Value:
    """A mean over batches, of which the hard ones are always the same."""
    means = tuple(number * (0.75 + 0.5 * index / (batches - 1)) for index in range(batches))
    return Value(number, 10 * batches, Series("mean", number, 10.0 * batches, means, (10.0,) * batches))


def _course(**more: Any) -> Course:
    how: dict[str, Any] = {"monitor": None, "directions": {}, "criterion": "patience", "patience": 5}
    return Course(Settings(**{**how, "minimum": 0.001, "strip": 5, **more}), LIMITS)


def _told(course: Course, scores: list[Score], step: int) -> list[tuple[str, Diagnosis]]:
    """What the two rules say of one validation."""
    around = Around(step, {}, Constant(), augments=False, differ=False)
    course.add(scores, around)
    said: list[tuple[str, Diagnosis]] = []
    for question in course.questions(scores, around):
        if question.rule in NAMES and question.measured is not None:
            verdict = question.rule.check(question.measured, LIMITS)
            if isinstance(verdict, Diagnosis):
                said.append((NAMES[question.rule], verdict))
    return said


def _found(curves: Iterator[tuple[float, float]] | list[tuple[float, float]]) -> int:
    """How often overfitting is said of a validation loss and its twin."""
    course, count = _course(), 0
    for step, (validation, training) in enumerate(curves):
        score = Score("val_loss", 0, _value(validation), _value(training))
        count += sum(name == "overfitting" for name, _ in _told(course, [score], step))
    return count


def _falling_alike(draw: Random, noise: float) -> Iterator[tuple[float, float]]:
    """Two losses that fall to a plateau alike, and vary from epoch to epoch with the weights."""
    for epoch in range(100):
        course = 0.5 + math.exp(-epoch / 15) - 0.0005 * epoch
        yield course * math.exp(draw.gauss(0.0, noise)), 0.95 * course * math.exp(draw.gauss(0.0, noise))


@pytest.mark.parametrize("noise", [0.01, 0.02, 0.03, 0.05])
def test_a_plateau_that_varies_from_epoch_to_epoch_is_no_overfitting(noise: float) -> None:
    assert sum(_found(_falling_alike(Random(seed), noise)) > 0 for seed in range(50)) <= 1


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.02])
def test_a_textbook_rise_is_found(noise: float) -> None:
    for seed in range(10):
        draw = Random(seed)
        losses = [(0.5 + (epoch - 20) ** 2 / 1000, math.exp(-epoch / 20)) for epoch in range(60)]
        assert _found([(one * math.exp(draw.gauss(0.0, noise)), other) for one, other in losses]) > 0


def test_an_accuracy_that_falls_is_found_and_said_in_its_own_numbers() -> None:
    course, said = _course(monitor="val_acc", patience=3), list[tuple[str, Diagnosis]]()
    for step, number in enumerate([0.5, 0.625, 0.75, 0.625, 0.5, 0.5, 0.5]):
        twin = _value(0.5 + step / 16)
        scores = [Score("val_loss", 0, _value(1.0), _value(1.0)), Score("val_acc", 0, _value(number), twin)]
        said += _told(course, scores, step)
    assert [name for name, _ in said] == ["overfitting"] * 2
    finding = said[-1][1]
    assert (finding.where, finding.first_step) == ("val_acc", 2)
    assert finding.message == (
        "val_acc was best at step 2 (0.75) and has gone to 0.5 in the 4 validations since (the mean of the last 3). On "
        "training data val_acc has got better meanwhile, from 0.625 to 0.8125."
    )
    numbers = {"best": 0.75, "now": 0.5, "rise": 0.3333, "training_at_onset": 0.625, "training": 0.8125}
    assert numbers.items() <= finding.evidence.items()


def test_a_metric_that_is_not_there_or_has_no_direction_is_said() -> None:
    for monitor, told in [
        ("val_acc", None),
        ("val_los", "no validation metric is called 'val_los': there are 'val_loss', 'val_acc', 'val_x'"),
        ("val_x", "whether val_x shall be small or large is not known: directions={'val_x': 'min'} says it"),
    ]:
        course = _course(monitor=monitor)
        assert course.unknown() is None, "before anything has been seen"
        scores = [Score(name, 0, _value(0.5), _value(0.5)) for name in ("val_loss", "val_acc", "val_x")]
        _told(course, scores, 1)
        assert course.unknown() == told
        if told:
            assert _told(course, scores, 2) == []
            assert course.undecided() == []


def test_a_resumed_course_asks_the_same() -> None:
    draw = Random(1)
    curves = list(_falling_alike(draw, 0.03))
    whole, first, resumed = _course(monitor="val_acc"), _course(monitor="val_acc"), _course(monitor="val_acc")

    def asked(course: Course, step: int) -> list[Any]:
        validation, training = curves[step]
        scores = [Score("val_acc", 0, _value(validation / 2), _value(training / 2))]
        around = Around(step, {}, Constant(), augments=False, differ=False)
        course.add(scores, around)
        return [(each.rule.name, each.where, each.measured, each.lasting) for each in course.questions(scores, around)]

    for step in range(30):
        assert asked(whole, step) == asked(first, step)
    resumed.load(json.loads(json.dumps(first.plain())))
    onsets = 0
    for step in range(30, 40):
        questions = asked(resumed, step)
        assert questions == asked(whole, step)
        onsets += any(isinstance(measured, Onset) and measured.large for _, _, measured, _ in questions)
    assert onsets > 0


@pytest.mark.parametrize(
    ("value", "samples", "correct"),
    [
        (0.75, 80, 60),
        (60.0009 / 80, 80, None),  # more than float32 leaves open
        (60.00007 / 80, 80, 60),
        (0.5 + 0.02 / 10**6, 10**6, None),  # a hundredth of a sample at most, however many there are
        (0.5 + 0.009 / 10**6, 10**6, 500_000),
        (1.25, 80, None),
        (math.nan, 80, None),
        (0.5, 0, None),
    ],
)
def test_a_share_of_samples_is_a_whole_number_of_them(value: float, samples: int, correct: int | None) -> None:
    assert Value(value, samples).correct == correct


def test_how_many_samples_would_do_is_told_from_those_of_the_metric_itself() -> None:
    course = _course()
    for step, losses in enumerate([(1.0, 1.0), (0.99, 0.99)]):
        scores = [
            Score(f"val_loss/dataloader_idx_{loader}", loader, _value(loss, 12 * (1 + loader)), _value(0.5))
            for loader, loss in enumerate(losses)
        ]
        gaps = course.add(scores, Around(step, {}, Constant(), augments=False, differ=False))
    text = caption(gaps, course.widths, course.samples, Samples(training=1, validation=1)).text
    needed: list[int] = []
    for gap, count in zip(gaps, (120, 240), strict=True):
        width, change = course.widths[gap.layer], gap.validation_change
        assert course.samples[gap.layer] == count
        assert width is not None
        assert change is not None
        needed.append(statistics.samples_for_half_width(count, width, abs(change)))
    assert all(f"| {each:,} |" in str(text) for each in needed)
    assert needed[0] != needed[1]
