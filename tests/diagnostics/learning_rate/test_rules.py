"""The rules on numbers alone: both sides of each limit, the limit itself, too early, and every word that is said."""

import dataclasses
import json
import math
from typing import Any

import pytest

from lightning_diagnostics import WarmupCooldownScheduler
from lightning_diagnostics.diagnostics.learning_rate.measure import (
    Changed,
    Course,
    Doubled,
    Endless,
    Fit,
    SchedulerPlan,
    Spent,
    Stepping,
)
from lightning_diagnostics.diagnostics.learning_rate.rules import (
    RULES,
    Limits,
    changed_plan,
    cooldown_over,
    doubled_schedule,
    no_end,
    overlapping_plan,
    restarting_schedule,
    schedule_in_wrong_unit,
    scheduler_never_stepped,
    scheduler_overruns,
    unfinished_schedule,
    unwatched_rate,
    vanished_rate,
    warmup_never_ends,
)
from lightning_diagnostics.findings import Diagnosis, Rule, Severity, TooEarly, limit_table
from lightning_diagnostics.findings.rule import SECTIONS

INF = float("inf")
# Of the tests, and exact in binary; those of the package come from the sweep, from arithmetic and from convention.
NUMBERS: dict[str, Any] = {"warmup_steps": 20, "warmup_rise": 4.0, "unit_match": 0.25, "unit_ratio": 8.0}
NUMBERS |= {"warmup_late": 0.25}
NUMBERS |= {"idle_epochs": 3, "idle_steps": 50, "vanished_ratio": 2.0**-10, "vanished_share": 0.25}
NUMBERS |= {"unfinished_share": 0.75, "restarted_ratio": 1.25, "doubled_factor": 2.0}

STEPS = tuple(range(0, 64, 8))
RISING = Course("Adam", STEPS, tuple(0.01 * 2**place for place in range(8)), 64)
FALLING = Course("Adam", STEPS, (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03, 2.0**-10, 0.0), 64)
BY_EPOCH = SchedulerPlan("OneCycleLR", "Adam", "epoch", 160, True, False, 10, 160, 640, 10)
BY_STEP = SchedulerPlan("CosineAnnealingLR", "SGD", "step", 10, True, True, 640, 640, 640, 10)
OVERRUN = SchedulerPlan("OneCycleLR", "Adam", "step", 100, True, False, 120, 120, 120, 2, 101, "ValueError: too far.")
IDLE = Stepping("StepLR", "Adam-1", False, 42, 3)
CROWDED = Fit(50, 20, 64)
SPENT = Spent(40, 60, 60, 0.0)
DOUBLED = Doubled("Adam", 10, 0, 2.0, 1.0)
ENDLESS = Endless("the cooldown of 0.2", "", later=False)
CHANGED = Changed(12, 0.25, 0.5, "a warmup over 48 steps", "a warmup over 24 steps")


def but(measured: Any, **changes: Any) -> Any:
    """The same measurement, but for something."""
    return dataclasses.replace(measured, **changes)


def verdict(rule: Rule, measured: Any, **limits: float) -> Any:
    return rule.check(measured, Limits(**{**NUMBERS, **limits}))


def diagnosis(rule: Rule, measured: Any, **limits: float) -> Diagnosis:
    found = verdict(rule, measured, **limits)
    assert isinstance(found, Diagnosis)
    return found


# warmup-never-ends.


def test_a_rate_that_rises_all_along_is_described_whole() -> None:
    assert diagnosis(warmup_never_ends, RISING) == Diagnosis(
        Severity.WARNING,
        "Adam",
        0,
        "The learning rate of Adam rises from 0.01 to 1.28 over the 64 steps of the run, and in their last fifth "
        "still: its warmup takes all of it "
        "(its schedule).",
        "give the warmup fewer steps than the run has; a scheduler that counts steps needs "
        '{"scheduler": scheduler, "interval": "step"} in configure_optimizers.',
        {"first_rate": 0.01, "last_rate": 1.28, "steps": 64, "warmup-never-ends.rise": 4.0},
    )


def test_what_a_rate_is_made_of_is_said() -> None:
    assert "(times a factor)." in diagnosis(warmup_never_ends, but(RISING, cause="times a factor")).message


@pytest.mark.parametrize(("last", "found"), [(0.03999, False), (0.04, False), (0.0401, True)])
def test_a_rise_is_more_than_its_limit(last: float, found: bool) -> None:
    rates = (0.01, 0.01, 0.01, 0.02, 0.02, 0.02, 0.02, last)
    assert (verdict(warmup_never_ends, but(RISING, rates=rates)) is not None) == found


def test_a_rise_from_zero_is_one() -> None:
    found = diagnosis(warmup_never_ends, but(RISING, rates=(0.0, *RISING.rates[1:])))
    assert "rises from 0 to 1.28 over" in found.message


@pytest.mark.parametrize(
    "rates",
    [
        (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 0.63),
        (0.01, 0.02, 0.04, 0.03, 0.16, 0.32, 0.64, 1.28),
        (0.01, 0.02, 0.04, 0.08, 0.16, 0.16, 0.16, 0.16),
        (0.01,) * 8,
    ],
    ids=["falls at last", "falls once", "is held from the middle on", "is held"],
)
def test_a_warmup_that_ends_is_none_that_does_not(rates: tuple[float, ...]) -> None:
    assert verdict(warmup_never_ends, but(RISING, rates=rates)) is None


@pytest.mark.parametrize("rule", [warmup_never_ends, vanished_rate])
@pytest.mark.parametrize(("total", "found"), [(19, False), (20, True), (21, True)])
def test_the_course_of_a_run_that_only_tries_the_program_out_is_not_judged(rule: Rule, total: int, found: bool) -> None:
    measured = but(RISING if rule is warmup_never_ends else FALLING, total=total)
    assert (verdict(rule, measured) is not None) == found


@pytest.mark.parametrize("rule", [warmup_never_ends, vanished_rate])
def test_one_rate_is_no_course(rule: Rule) -> None:
    assert verdict(rule, Course("Adam", (0,), (0.0,), 64)) is None


def test_a_run_that_is_resumed_may_have_begun_with_more() -> None:
    assert verdict(warmup_never_ends, but(RISING, steps=tuple(step + 1 for step in STEPS))) is None


# schedule-in-wrong-unit.


def test_a_length_in_steps_that_is_counted_in_epochs_is_described_whole() -> None:
    assert diagnosis(schedule_in_wrong_unit, BY_EPOCH) == Diagnosis(
        Severity.WARNING,
        "Adam",
        0,
        "OneCycleLR of Adam is 160 long, as many as the run has optimizer steps, but is stepped after each epoch: 10 "
        "times in all.",
        'return {"scheduler": scheduler, "interval": "step"} from configure_optimizers.',
        {
            "length": 160,
            "stepped": 10,
            "optimizer_steps": 160,
            "batches": 640,
            "epochs": 10,
            "schedule-in-wrong-unit.match": 0.25,
        },
    )


def test_a_length_in_epochs_that_is_counted_in_steps_is_described_whole() -> None:
    said = diagnosis(schedule_in_wrong_unit, BY_STEP)
    assert said.message == (
        "CosineAnnealingLR of SGD is 10 long, as many as the run has epochs, but is stepped after each optimizer step: "
        "640 times in all."
    )
    assert said.remedy == "give its length in optimizer steps, self.trainer.estimated_stepping_batches."


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_length_in_batches_is_found_with_either_interval(interval: str) -> None:
    calls = {"epoch": 10, "step": 80}[interval]
    said = diagnosis(schedule_in_wrong_unit, but(BY_EPOCH, interval=interval, length=640, calls=calls, steps=80))
    after = {"epoch": "epoch: 10", "step": "optimizer step: 80"}[interval]
    assert said.message == (
        f"OneCycleLR of Adam is 640 long, as many as the run has batches, but is stepped after each {after} times in "
        "all."
    )


@pytest.mark.parametrize(
    ("length", "found"), [(119, False), (120, True), (160, True), (200, True), (201, False), (1000, False)]
)
def test_a_length_matches_up_to_its_limit(length: int, found: bool) -> None:
    assert (verdict(schedule_in_wrong_unit, but(BY_EPOCH, length=length, batches=160)) is not None) == found


@pytest.mark.parametrize(("calls", "found"), [(19, True), (20, True), (21, False)])
def test_a_scheduler_is_much_longer_than_it_is_stepped(calls: int, found: bool) -> None:
    assert (verdict(schedule_in_wrong_unit, but(BY_EPOCH, calls=calls)) is not None) == found


@pytest.mark.parametrize(("calls", "found"), [(79, False), (80, True), (81, True)])
def test_a_scheduler_is_stepped_much_more_often_than_it_is_long(calls: int, found: bool) -> None:
    assert (verdict(schedule_in_wrong_unit, but(BY_STEP, calls=calls)) is not None) == found


@pytest.mark.parametrize(("epochs", "found"), [(7, False), (8, True), (10, True), (13, True), (14, False)])
def test_a_cosine_matches_the_epochs_up_to_its_limit(epochs: int, found: bool) -> None:
    assert (verdict(schedule_in_wrong_unit, but(BY_STEP, epochs=epochs)) is not None) == found


def test_a_warmup_over_as_many_steps_as_there_are_epochs_is_left_in_peace() -> None:
    assert verdict(schedule_in_wrong_unit, but(BY_STEP, name="LinearLR", whole=False)) is None


@pytest.mark.parametrize(("in_each", "found"), [(7, True), (8, False), (10, False), (13, False), (14, True)])
def test_a_cosine_as_long_as_an_epoch_is_one_on_purpose(in_each: int, found: bool) -> None:
    measured = but(BY_STEP, steps=10 * in_each, batches=10 * in_each, calls=10 * in_each)
    assert (verdict(schedule_in_wrong_unit, measured, unit_ratio=2.0) is not None) == found


def test_a_cosine_that_is_counted_in_epochs_is_not_told_that_it_has_as_many() -> None:
    assert verdict(schedule_in_wrong_unit, but(BY_STEP, interval="epoch")) is None


@pytest.mark.parametrize("change", [{"length": None}, {"length": 0}, {"calls": 0}, {"steps": 19}])
def test_without_a_length_or_a_run_nothing_is_said_of_units(change: dict[str, Any]) -> None:
    assert verdict(schedule_in_wrong_unit, but(BY_EPOCH, **change)) is None


@pytest.mark.parametrize(("steps", "found"), [(19, False), (20, True)])
def test_units_of_a_run_that_only_tries_the_program_out_are_not_judged(steps: int, found: bool) -> None:
    measured = but(BY_EPOCH, steps=steps, length=steps, calls=2, epochs=2)
    assert (verdict(schedule_in_wrong_unit, measured) is not None) == found


# scheduler-overruns.


def test_an_error_to_come_is_described_whole() -> None:
    assert diagnosis(scheduler_overruns, OVERRUN) == Diagnosis(
        Severity.ERROR,
        "Adam",
        0,
        "OneCycleLR of Adam will raise an error after optimizer step 101 of 120: ValueError: too far.",
        "give it the length of the run, self.trainer.estimated_stepping_batches, or end the run before.",
        {"raises_at": 101, "steps": 120, "stepped": 120},
    )


def test_a_scheduler_that_raises_nothing_is_left_in_peace() -> None:
    assert verdict(scheduler_overruns, but(OVERRUN, raises_at=None)) is None


def test_an_overrun_that_the_run_may_not_come_to_is_a_note() -> None:
    said = diagnosis(scheduler_overruns, but(OVERRUN, open_ended=True))
    assert said.severity is Severity.INFO
    assert "after optimizer step 101 of 120, unless the run ends before: ValueError: too far." in said.message


# scheduler-never-stepped.


def test_a_scheduler_that_nobody_steps_is_described_whole() -> None:
    assert diagnosis(scheduler_never_stepped, IDLE) == Diagnosis(
        Severity.WARNING,
        "Adam-1",
        0,
        "StepLR of Adam-1 has not been stepped once in 42 training batches and 3 epochs: the learning rate stays where "
        "it began.",
        "call self.lr_schedulers().step() after the optimizer's step or at the end of an epoch: where the module "
        "optimises by hand, Lightning does not.",
        {"batches": 42, "epochs": 3, "scheduler-never-stepped.epochs": 3},
    )


@pytest.mark.parametrize(("epochs", "found"), [(0, False), (2, False), (3, True), (4, True)])
def test_a_scheduler_is_given_some_epochs_before_it_is_missed(epochs: int, found: bool) -> None:
    said = verdict(scheduler_never_stepped, but(IDLE, epochs=epochs))
    assert isinstance(said, Diagnosis) if found else said == TooEarly(epochs, 3, "epochs")


@pytest.mark.parametrize(
    ("steps", "epochs", "found"), [(49, 1, False), (50, 1, True), (51, 1, True), (50, 0, False), (1, 3, True)]
)
def test_at_the_end_of_a_run_an_epoch_of_some_batches_is_enough(steps: int, epochs: int, found: bool) -> None:
    said = verdict(scheduler_never_stepped, but(IDLE, steps=steps, epochs=epochs, ended=True))
    assert isinstance(said, Diagnosis) if found else said == TooEarly(epochs, 3, "epochs")


@pytest.mark.parametrize("change", [{"stepped": True}, {"steps": 0}])
def test_a_scheduler_that_is_stepped_or_whose_optimizer_is_not_is_left_in_peace(change: dict[str, Any]) -> None:
    assert verdict(scheduler_never_stepped, but(IDLE, **change)) is None


# vanished-rate.


def test_a_rate_that_vanishes_is_described_whole() -> None:
    assert diagnosis(vanished_rate, FALLING) == Diagnosis(
        Severity.WARNING,
        "Adam",
        0,
        "The learning rate of Adam is below 0.001 in the last 25% of the run, from step 48 on: nothing is learned "
        "there (its schedule).",
        "have the schedule end with the run (self.trainer.estimated_stepping_batches steps), and see whether it is "
        "stepped after each epoch or each step.",
        {"highest_rate": 1.0, "share": 0.25, "vanished-rate.share": 0.25},
    )


def test_a_rate_of_zero_is_said_to_be_that() -> None:
    said = diagnosis(vanished_rate, but(FALLING, rates=(0.0,) * 8))
    assert said.message == "The learning rate of Adam is 0 throughout the run: nothing is learned."
    assert said.evidence["highest_rate"] == 0.0


@pytest.mark.parametrize(("rate", "found"), [(2.0**-11, True), (2.0**-10, True), (2.0**-9, False)])
def test_a_rate_has_vanished_at_its_limit(rate: float, found: bool) -> None:
    rates = (*FALLING.rates[:6], rate, rate)
    assert (verdict(vanished_rate, but(FALLING, rates=rates)) is not None) == found


@pytest.mark.parametrize(("low", "found"), [(1, False), (2, True), (3, True)])
def test_a_share_of_the_run_is_without_a_rate(low: int, found: bool) -> None:
    rates = (*(1.0,) * (8 - low), *(0.0,) * low)
    assert (verdict(vanished_rate, but(FALLING, rates=rates)) is not None) == found


def test_the_rate_is_measured_against_the_highest_and_not_the_first() -> None:
    assert verdict(vanished_rate, but(FALLING, rates=(2.0**-10, *(1.0,) * 5, 2.0**-10, 2.0**-10))) is not None
    assert verdict(vanished_rate, but(FALLING, rates=tuple(1e-9 * rate for rate in RISING.rates))) is None


def test_a_rate_that_begins_late_has_not_vanished() -> None:
    assert verdict(vanished_rate, but(FALLING, rates=(0.0,) * 4 + (1.0,) * 4)) is None


def test_the_share_is_one_of_the_whole_run_and_not_of_what_is_left_of_it() -> None:
    late = but(FALLING, steps=tuple(range(48, 64, 2)), rates=(1.0,) * 2 + (0.0,) * 6)
    assert verdict(vanished_rate, late) is None
    assert diagnosis(vanished_rate, late, vanished_share=0.1).evidence["share"] == 0.188


# overlapping-plan.


@pytest.mark.parametrize(
    ("warmup", "became"),
    [(50, "the cooldown is cut to 14"), (64, "there is no cooldown"), (70, "there is no cooldown")],
)
def test_lengths_that_do_not_fit_are_described_whole(warmup: int, became: str) -> None:
    assert diagnosis(overlapping_plan, but(CROWDED, warmup=warmup)) == Diagnosis(
        Severity.WARNING,
        None,
        0,
        f"A warmup of {warmup} and a cooldown of 20 steps do not fit into a run of 64: {became}.",
        'give them as fractions of the run (warmup=0.05, cooldown=0.2), or warmup="auto", or train longer.',
        {"warmup": warmup, "cooldown": 20, "total": 64},
    )


@pytest.mark.parametrize(("warmup", "found"), [(43, False), (44, False), (45, True)])
def test_lengths_may_fill_the_run(warmup: int, found: bool) -> None:
    assert (verdict(overlapping_plan, but(CROWDED, warmup=warmup)) is not None) == found


@pytest.mark.parametrize(("total", "found"), [(19, False), (20, True)])
def test_lengths_of_a_run_that_only_tries_the_program_out_are_not_judged(total: int, found: bool) -> None:
    assert (verdict(overlapping_plan, but(CROWDED, total=total)) is not None) == found


def test_a_warmup_alone_overlaps_nothing() -> None:
    assert verdict(overlapping_plan, but(CROWDED, warmup=80, cooldown=0)) is None


def test_a_run_without_an_end_has_room_for_all() -> None:
    assert verdict(overlapping_plan, but(CROWDED, total=INF)) is None


def test_what_is_counted_is_said() -> None:
    assert "a cooldown of 20 batches do" in diagnosis(overlapping_plan, but(CROWDED, unit="batches")).message


# cooldown-over.


def test_a_cooldown_that_is_over_is_described_whole() -> None:
    assert diagnosis(cooldown_over, SPENT) == Diagnosis(
        Severity.WARNING,
        None,
        60,
        "The cooldown that was begun at step 40 was over at step 60, and training goes on with a learning rate of 0.",
        "end the run (trainer.should_stop = True), or give the cooldown a floor above 0.",
        {"began": 40, "ended": 60},
    )


@pytest.mark.parametrize(
    ("step", "floor", "found"), [(59, 0.0, False), (60, 0.0, True), (61, 0.0, True), (61, 0.01, False)]
)
def test_a_cooldown_is_over_where_its_factor_is_zero(step: int, floor: float, found: bool) -> None:
    assert (verdict(cooldown_over, but(SPENT, step=step, floor=floor)) is not None) == found


# The notes.


def test_an_unfinished_schedule_is_described_whole() -> None:
    assert diagnosis(unfinished_schedule, but(BY_EPOCH, length=40)) == Diagnosis(
        Severity.INFO,
        "Adam",
        0,
        "OneCycleLR of Adam will come to 10 of its 40 steps in this run.",
        "give it the length of the run, if the run is not to be continued.",
        {"length": 40, "stepped": 10, "unfinished-schedule.share": 0.75},
    )


@pytest.mark.parametrize(("calls", "found"), [(29, True), (30, False), (31, False)])
def test_a_schedule_is_finished_up_to_its_limit(calls: int, found: bool) -> None:
    assert (verdict(unfinished_schedule, but(BY_EPOCH, length=40, calls=calls)) is not None) == found


@pytest.mark.parametrize("change", [{"length": None}, {"whole": False}])
def test_a_schedule_that_is_not_meant_for_the_run_need_not_be_finished(change: dict[str, Any]) -> None:
    assert verdict(unfinished_schedule, but(BY_EPOCH, **change)) is None


def test_a_cosine_that_rises_again_is_described_whole() -> None:
    assert diagnosis(restarting_schedule, but(BY_STEP, length=40, calls=100)) == Diagnosis(
        Severity.INFO,
        "SGD",
        0,
        "CosineAnnealingLR of SGD falls for 40 of its steps and is stepped 100 times: in between the rate rises again.",
        "give it the length of the run as T_max; for restarts there is CosineAnnealingWarmRestarts.",
        {"length": 40, "stepped": 100, "restarting-schedule.ratio": 1.25},
    )


@pytest.mark.parametrize(("calls", "found"), [(49, False), (50, False), (51, True)])
def test_a_cosine_may_be_stepped_a_little_more(calls: int, found: bool) -> None:
    assert (verdict(restarting_schedule, but(BY_STEP, length=40, calls=calls)) is not None) == found


@pytest.mark.parametrize("change", [{"length": None}, {"periodic": False}])
def test_what_is_no_cosine_does_not_rise_again(change: dict[str, Any]) -> None:
    assert verdict(restarting_schedule, but(BY_STEP, **change)) is None


@pytest.mark.parametrize(
    ("change", "what", "remedy"),
    [
        ({}, "warmup", "warmup=None"),
        ({"warmup": 0, "cooldown": 8, "fall": 0.5}, "cooldown", "cooldown=None"),
        ({"cooldown": 8, "fall": 0.25}, "warmup and cooldown", "warmup=None, cooldown=None"),
    ],
)
def test_a_schedule_that_does_the_same_is_described_whole(change: dict[str, Any], what: str, remedy: str) -> None:
    measured = but(DOUBLED, **change)
    assert diagnosis(doubled_schedule, measured) == Diagnosis(
        Severity.INFO,
        "Adam",
        0,
        f"The schedule of Adam has a {what} of its own: its rate and the factor are multiplied.",
        f"if that is not wanted: {remedy}.",
        {"own_rise": measured.rise, "own_fall": measured.fall, "doubled-schedule.factor": 2.0},
    )


@pytest.mark.parametrize(("rise", "found"), [(1.99, False), (2.0, True), (INF, True)])
def test_an_own_warmup_rises_by_its_limit(rise: float, found: bool) -> None:
    assert (verdict(doubled_schedule, but(DOUBLED, rise=rise)) is not None) == found


@pytest.mark.parametrize(("fall", "found"), [(0.51, False), (0.5, True), (0.0, True)])
def test_an_own_cooldown_falls_by_its_limit(fall: float, found: bool) -> None:
    assert (verdict(doubled_schedule, but(DOUBLED, rise=1.0, cooldown=8, fall=fall)) is not None) == found


@pytest.mark.parametrize(("warmup", "cooldown"), [(0, 0), (1, 1)])
def test_nothing_is_doubled_where_nothing_is_multiplied(warmup: int, cooldown: int) -> None:
    assert verdict(doubled_schedule, but(DOUBLED, warmup=warmup, cooldown=cooldown, fall=0.1)) is None


def test_a_rise_from_zero_is_told_in_a_word_that_a_record_can_hold() -> None:
    assert diagnosis(doubled_schedule, but(DOUBLED, rise=INF)).evidence["own_rise"] == "from 0"


@pytest.mark.parametrize(
    ("change", "left_out"),
    [
        ({}, "the cooldown of 0.2"),
        ({"warmup": "the warmup of 0.1"}, "the warmup of 0.1 and the cooldown of 0.2"),
        ({"cooldown": "", "warmup": "the warmup of 0.1"}, "the warmup of 0.1"),
    ],
)
def test_a_run_without_an_end_is_described_whole(change: dict[str, Any], left_out: str) -> None:
    assert diagnosis(no_end, but(ENDLESS, **change)) == Diagnosis(
        Severity.INFO,
        None,
        0,
        f"The end of this run is not known: it is trained without {left_out}.",
        "give the Trainer max_steps, max_epochs or max_time; or call start_cooldown() when the run is to end.",
    )


def test_an_end_that_will_be_known_is_told() -> None:
    message = diagnosis(no_end, but(ENDLESS, later=True)).message
    assert message.endswith("without the cooldown of 0.2 until its first epoch has ended.")


def test_a_run_without_an_end_that_was_to_have_neither_is_left_in_peace() -> None:
    assert verdict(no_end, but(ENDLESS, cooldown="")) is None


def test_another_plan_is_described_whole() -> None:
    assert diagnosis(changed_plan, CHANGED) == Diagnosis(
        Severity.INFO,
        None,
        12,
        "The run goes on at step 12 with a factor of 0.5 in place of 0.25: the plan was a warmup over 48 steps, and is "
        "a warmup over 24 steps.",
        "nothing, if that is wanted; a warmup in steps does not depend on the length of the run.",
        {"factor_before": 0.25, "factor_now": 0.5},
    )


@pytest.mark.parametrize(
    ("now", "found"), [(0.25, False), (0.25 + 1e-10, False), (0.25 + 1e-8, True), (0.25 - 1e-8, True)]
)
def test_another_plan_with_the_same_factor_is_left_in_peace(now: float, found: bool) -> None:
    assert (verdict(changed_plan, but(CHANGED, now=now)) is not None) == found


def test_the_note_on_what_is_not_watched_is_made_by_no_number() -> None:
    assert verdict(unwatched_rate, object()) is None


# All of them.

UNFINISHED, AGAIN = but(BY_EPOCH, length=40), but(BY_STEP, length=40, calls=100)
SICK = [
    *((warmup_never_ends, RISING), (schedule_in_wrong_unit, BY_EPOCH), (schedule_in_wrong_unit, BY_STEP)),
    *((scheduler_overruns, OVERRUN), (scheduler_never_stepped, IDLE), (vanished_rate, FALLING)),
    *((overlapping_plan, CROWDED), (cooldown_over, SPENT), (unfinished_schedule, UNFINISHED)),
    *((restarting_schedule, AGAIN), (doubled_schedule, but(DOUBLED, rise=INF)), (no_end, ENDLESS)),
    (changed_plan, CHANGED),
]
WITHOUT_A_LIMIT = {scheduler_overruns, overlapping_plan, cooldown_over, no_end, changed_plan}
OVERRIDES = [
    *(("warmup_steps", 65, warmup_never_ends, RISING), ("warmup_steps", 65, vanished_rate, FALLING)),
    *(("warmup_steps", 65, overlapping_plan, CROWDED), ("warmup_steps", 161, schedule_in_wrong_unit, BY_EPOCH)),
    *(("warmup_rise", 200.0, warmup_never_ends, RISING), ("unit_ratio", 17.0, schedule_in_wrong_unit, BY_EPOCH)),
    *(("unit_ratio", 65.0, schedule_in_wrong_unit, BY_STEP), ("idle_epochs", 4, scheduler_never_stepped, IDLE)),
    ("unit_match", 0.0625, schedule_in_wrong_unit, but(BY_EPOCH, length=180)),
    ("idle_steps", 60, scheduler_never_stepped, but(IDLE, epochs=2, steps=59, ended=True)),
    *(("vanished_ratio", 2.0**-11, vanished_rate, FALLING), ("vanished_share", 0.375, vanished_rate, FALLING)),
    *(
        ("unfinished_share", 0.25, unfinished_schedule, UNFINISHED),
        ("restarted_ratio", 2.5, restarting_schedule, AGAIN),
    ),
    ("doubled_factor", 2.125, doubled_schedule, DOUBLED),
    ("warmup_late", 0.5, warmup_never_ends, but(RISING, rates=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 6.5, 6.75))),
]


def test_every_rule_but_that_note_is_tried_here() -> None:
    assert {rule.code for rule, _ in SICK} == {rule.code for rule in RULES} - {unwatched_rate.code}
    assert len({rule.code for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES) == 13


@pytest.mark.parametrize(("rule", "measured"), SICK, ids=[rule.name for rule, _ in SICK])
def test_what_is_said_is_json_of_an_allowed_severity_with_the_limits_it_crossed(rule: Rule, measured: Any) -> None:
    said = diagnosis(rule, measured)
    json.dumps(dict(said.evidence), allow_nan=False)
    assert said.severity in rule.severities
    assert said.message.endswith(".")
    assert said.remedy.endswith(".")
    limits = {key: value for key, value in said.evidence.items() if "." in key}
    table = limit_table(Limits)
    assert bool(limits) is (rule not in WITHOUT_A_LIMIT)
    assert all(key.startswith(rule.name) and value == NUMBERS[table[key][0].name] for key, value in limits.items())


def test_every_limit_is_overridden_here() -> None:
    assert {name for name, *_ in OVERRIDES} == {field.name for field in dataclasses.fields(Limits)} == set(NUMBERS)


@pytest.mark.parametrize(
    ("name", "value", "rule", "measured"), OVERRIDES, ids=[f"{name}-{rule.name}" for name, _, rule, _ in OVERRIDES]
)
def test_a_limit_can_be_overridden(name: str, value: float, rule: Rule, measured: Any) -> None:
    diagnosis(rule, measured)
    assert not isinstance(verdict(rule, measured, **{name: value}), Diagnosis)
    (key,) = [key for key, (field, _) in limit_table(Limits).items() if field.name == name]
    ours = WarmupCooldownScheduler(limits={key: value})
    assert getattr(ours._limits, name) == value


def test_every_limit_is_of_a_rule_and_lies_within_its_own_bounds() -> None:
    names = {rule.name for rule in RULES}
    for key, (field, described) in limit_table(Limits).items():
        assert key.partition(".")[0] in names
        assert described.low <= described.default <= described.high
        assert math.isfinite(getattr(Limits(), field.name))


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_every_page_has_a_summary_and_words_under_each_heading(rule: Rule) -> None:
    assert rule.summary.endswith(".")
    assert all(rule.section(heading) for heading in SECTIONS)
