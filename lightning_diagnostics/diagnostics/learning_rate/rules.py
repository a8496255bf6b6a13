"""What is wrong with a learning-rate schedule: numbers in, findings out. No torch."""

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_diagnostics.findings import Diagnosis, Severity, TooEarly, Verdict, limit, rule

if TYPE_CHECKING:
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

_SWEEP = "the sweep over common schedules (docs: limits)"


@dataclass(frozen=True)
class Limits:
    """The limits of this room."""

    warmup_steps: int = limit(
        100,
        key="warmup-never-ends.steps",
        meaning="optimizer steps that a run has at least, for its schedule to be judged",
        source="convention: a shorter run only tries the program out",
        low=2,
    )
    warmup_rise: float = limit(
        2.0,
        key="warmup-never-ends.rise",
        meaning="planned rate of the last step over that of the first, where it has never fallen in between",
        source="arithmetic: a warmup begins at a fraction of its rate; " + _SWEEP,
        low=1.0,
    )
    warmup_late: float = limit(
        0.2,
        key="warmup-never-ends.late",
        meaning="slope of the planned rate over the last fifth of the run, over its mean slope",
        source="arithmetic: it is 1 for a linear warmup over all of the run, 0.5 for a cosine, and 0 if it is over",
        high=1.0,
    )
    unit_match: float = limit(
        0.1,
        key="schedule-in-wrong-unit.match",
        meaning="relative difference between the length of a scheduler and what the run has of the other unit",
        source="arithmetic: lengths are computed from the same numbers, up to rounding and a warmup; " + _SWEEP,
        high=1.0,
    )
    unit_ratio: float = limit(
        4.0,
        key="schedule-in-wrong-unit.ratio",
        meaning="factor between the length of the scheduler and the times that it is stepped in the run",
        source="arithmetic: an epoch has several steps; " + _SWEEP,
        low=1.0,
    )
    idle_epochs: int = limit(
        10,
        key="scheduler-never-stepped.epochs",
        meaning="epochs that have ended without a step of a scheduler that the module steps by itself",
        source="convention: one that is stepped every few epochs has been stepped by then; " + _SWEEP,
        low=1,
    )
    idle_steps: int = limit(
        100,
        key="scheduler-never-stepped.steps",
        meaning="training batches of a shorter run, of an epoch at least, after which, at its end, the same is said",
        source="convention: a shorter run only tries the program out",
        low=1,
    )
    vanished_ratio: float = limit(
        1e-6,
        key="vanished-rate.ratio",
        meaning="planned rate over the highest of the run, below which nothing is learned",
        source="arithmetic: below the precision of float32 weights at an update ratio of 1e-3 to 1; " + _SWEEP,
        high=1.0,
    )
    vanished_share: float = limit(
        0.1,
        key="vanished-rate.share",
        meaning="share of the run's steps, its last ones, that are below",
        source="convention: a tenth of the run; the last steps of a cooldown to zero are less; " + _SWEEP,
        high=1.0,
    )
    unfinished_share: float = limit(
        0.9,
        key="unfinished-schedule.share",
        meaning="share of its length that a scheduler comes to in the run",
        source="convention: lengths are rounded, and a warmup may stand before them",
        high=1.0,
    )
    restarted_ratio: float = limit(
        1.1,
        key="restarting-schedule.ratio",
        meaning="times that a cosine is stepped over the length of its half wave",
        source="convention: lengths are rounded, and a warmup may stand before them",
        low=1.0,
    )
    doubled_factor: float = limit(
        2.0,
        key="doubled-schedule.factor",
        meaning="factor by which the program's own rate rises over our warmup, or falls over our cooldown",
        source="convention: a half",
        low=1.0,
    )


@rule(code="LR101", name="warmup-never-ends", severities=(Severity.WARNING,))
def warmup_never_ends(measured: "Course", limits: Limits) -> Verdict:
    """The learning rate is planned to rise until the run ends.

    ## What it means
    The schedule was stepped ahead on a copy before the first step. The rate rises from the first step to the last and
    never falls: the run ends before its warmup does.

    ## Why it matters
    The rate that was chosen is never used, or in the last step only, and nothing is cooled down. The run learns as with
    a fraction of its rate, and the loss is worse without any sign of why.

    ## What to do
    Give the warmup a length that fits: `warmup="auto"` takes a tenth of the run at the most. Where the module has a
    scheduler of its own, look at how often Lightning steps it: after each epoch, unless `configure_optimizers` returns
    `{"scheduler": scheduler, "interval": "step"}`.

    ## When it is wrong
    A schedule that is meant to rise (a range test by hand, an exponential rise) is accused. So is a run that is only
    the beginning of a longer one, whose `max_steps` or `max_epochs` is not the end.
    """
    rates = measured.rates
    if measured.total < limits.warmup_steps or len(rates) < 2 or measured.steps[0] > 0:
        return None
    rises = all(later >= earlier for earlier, later in itertools.pairwise(rates))
    if not rises or rates[-1] <= limits.warmup_rise * rates[0]:
        return None
    fifth = max(1, len(rates) // 5)
    late = (rates[-1] - rates[-1 - fifth]) / fifth * (len(rates) - 1) / (rates[-1] - rates[0])
    if late < limits.warmup_late:  # it is over, or as good as over: an exponential one never ends
        return None
    return Diagnosis(
        Severity.WARNING,
        measured.optimizer,
        0,
        f"The learning rate of {measured.optimizer} rises from {rates[0]:.3g} to {rates[-1]:.3g} over the "
        f"{measured.total} steps of the run, and in their last fifth still: its warmup takes all of it "
        f"({measured.cause}).",
        "give the warmup fewer steps than the run has; a scheduler that counts steps needs "
        '{"scheduler": scheduler, "interval": "step"} in configure_optimizers.',
        {
            "first_rate": rates[0],
            "last_rate": rates[-1],
            "steps": measured.total,
            "warmup-never-ends.rise": limits.warmup_rise,
        },
    )


@rule(code="LR102", name="schedule-in-wrong-unit", severities=(Severity.WARNING,))
def schedule_in_wrong_unit(measured: "SchedulerPlan", limits: Limits) -> Verdict:
    """A scheduler counts epochs where its length is in steps, or the other way round.

    ## What it means
    A scheduler has a length (`total_steps`, `T_max`, `total_iters`). It is stepped once an epoch but as long as the run
    has steps (or batches), or it is stepped after each step but as long as the run has epochs.

    ## Why it matters
    Lightning steps a scheduler after each *epoch* unless it is told otherwise. A one-cycle schedule over 10,000 steps
    then makes a few of its steps and never leaves its warmup; a cosine over 100 epochs that is stepped after each batch
    goes up and down a hundred times.

    ## What to do
    Return `{"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}` from
    `configure_optimizers` for a scheduler that counts steps, and give lengths in what it is stepped by:
    `self.trainer.estimated_stepping_batches` for steps (it knows of accumulation), `self.trainer.max_epochs` for
    epochs.

    ## When it is wrong
    Where a length agrees with the other unit by chance. A part of a schedule that is short on purpose (a linear warmup
    over some steps) is not judged by the number of epochs, nor is a cosine as long as an epoch has steps. A `LambdaLR`
    (the schedules of Hugging Face's transformers) tells no length: in the wrong unit it is not seen here.
    """
    length = measured.length
    if not length or not measured.calls or measured.steps < limits.warmup_steps:
        return None
    others: dict[str, int] = {}
    remedy = "give its length in optimizer steps, self.trainer.estimated_stepping_batches."
    if length >= limits.unit_ratio * measured.calls:
        others = {"batches": measured.batches}
        if measured.interval == "epoch":
            others = {"optimizer steps": measured.steps, **others}
            remedy = 'return {"scheduler": scheduler, "interval": "step"} from configure_optimizers.'
    elif measured.interval == "step" and measured.whole and measured.calls >= limits.unit_ratio * length:
        in_each = (
            measured.steps / measured.epochs if measured.epochs else 0.0
        )  # a wave for each epoch is one on purpose
        others = {} if in_each and abs(length / in_each - 1) <= limits.unit_match else {"epochs": measured.epochs}
    unit = next((unit for unit, count in others.items() if abs(length / count - 1) <= limits.unit_match), None)
    if unit is None:
        return None
    after = "epoch" if measured.interval == "epoch" else "optimizer step"
    return Diagnosis(
        Severity.WARNING,
        measured.optimizer,
        0,
        f"{measured.name} of {measured.optimizer} is {length} long, as many as the run has {unit}, but is stepped "
        f"after each {after}: {measured.calls} times in all.",
        remedy,
        {
            "length": length,
            "stepped": measured.calls,
            "optimizer_steps": measured.steps,
            "batches": measured.batches,
            "epochs": measured.epochs,
            "schedule-in-wrong-unit.match": limits.unit_match,
        },
    )


@rule(code="LR103", name="scheduler-overruns", severities=(Severity.INFO, Severity.ERROR))
def scheduler_overruns(measured: "SchedulerPlan", limits: Limits) -> Verdict:
    """A scheduler will raise an error in the middle of the run.

    ## What it means
    The schedule was stepped ahead on a copy before the first step, as often as Lightning will step it. The copy raised
    an error: mostly a `OneCycleLR` that is stepped more often than its `total_steps`. Where the run may well end before
    (`EarlyStopping`, a limit of time), it is a note.

    ## Why it matters
    The run will end with that error, hours from now, and what it learned since the last checkpoint is lost.

    ## What to do
    Give the scheduler the length of the run: `total_steps=self.trainer.estimated_stepping_batches`. A run that is
    resumed with more epochs than it was planned for needs a new scheduler, or `WarmupCooldownScheduler`, whose length
    follows the run's.

    ## When it is wrong
    Where the run is ended before by hand.
    """
    if measured.raises_at is None:
        return None
    return Diagnosis(
        Severity.INFO if measured.open_ended else Severity.ERROR,
        measured.optimizer,
        0,
        f"{measured.name} of {measured.optimizer} will raise an error after optimizer step {measured.raises_at} of "
        f"{measured.steps}{', unless the run ends before' if measured.open_ended else ''}: {measured.error}",
        "give it the length of the run, self.trainer.estimated_stepping_batches, or end the run before.",
        {"raises_at": measured.raises_at, "steps": measured.steps, "stepped": measured.calls},
    )


@rule(code="LR104", name="scheduler-never-stepped", severities=(Severity.WARNING,))
def scheduler_never_stepped(measured: "Stepping", limits: Limits) -> Verdict:
    """A scheduler was configured, and nobody steps it.

    ## What it means
    The module optimises by hand, or overrides `lr_scheduler_step`, so that Lightning leaves its schedulers to it.
    Epochs have ended, the optimizer has made steps, and the scheduler none.

    ## Why it matters
    The learning rate stays where it began. The schedule is in the program, in its hyperparameters and in the paper, but
    not in the run.

    ## What to do
    Call `self.lr_schedulers().step()` in `training_step` after the optimizer's step, or in `on_train_epoch_end`.

    ## When it is wrong
    A scheduler that is to begin late (after ten epochs or more), or in a run that ends before it does, is accused.
    """
    if measured.stepped or not measured.steps:
        return None
    over = measured.ended and measured.epochs and measured.steps >= limits.idle_steps
    if measured.epochs < limits.idle_epochs and not over:
        return TooEarly(measured.epochs, limits.idle_epochs, "epochs")
    return Diagnosis(
        Severity.WARNING,
        measured.optimizer,
        0,
        f"{measured.name} of {measured.optimizer} has not been stepped once in {measured.steps} training batches and "
        f"{measured.epochs} epochs: the learning rate stays where it began.",
        "call self.lr_schedulers().step() after the optimizer's step or at the end of an epoch: where the module "
        "optimises by hand, Lightning does not.",
        {
            "batches": measured.steps,
            "epochs": measured.epochs,
            "scheduler-never-stepped.epochs": limits.idle_epochs,
        },
    )


@rule(code="LR105", name="vanished-rate", severities=(Severity.WARNING,))
def vanished_rate(measured: "Course", limits: Limits) -> Verdict:
    """The learning rate is planned to be as good as zero for a good part of the run.

    ## What it means
    The schedule was stepped ahead on a copy before the first step. For the last tenth of the run or more, the highest
    rate of the optimizer's groups is less than a millionth of the highest of the run; or it is zero, and still was
    after the first hundred batches.

    ## Why it matters
    Nothing is learned in those steps: an update is smaller than the rounding of the weights. The time is lost, and a
    loss that has stopped falling looks like the model's best.

    ## What to do
    Look at what the schedule counts: a decay that is meant for epochs (`ExponentialLR(gamma=0.95)`, `StepLR`) but
    stepped after each batch is over within the first epoch (`"interval": "epoch"`). A schedule to zero should end with
    the run: `self.trainer.estimated_stepping_batches`.

    ## When it is wrong
    A program that sets its rates by itself while it runs, in spite of its scheduler, is accused.
    """
    if measured.total < limits.warmup_steps or len(measured.rates) < 2:
        return None
    highest = max(measured.rates)
    floor = limits.vanished_ratio * highest
    tail = itertools.takewhile(lambda rate: rate <= floor, reversed(measured.rates))  # before it, it may begin late
    low = measured.steps[len(measured.steps) - len(list(tail)) :]
    left = 1 - measured.steps[0] / measured.total  # of a run that is resumed
    share = len(low) / len(measured.rates) * left
    if share < limits.vanished_share:
        return None
    return Diagnosis(
        Severity.WARNING,
        measured.optimizer,
        0,
        f"The learning rate of {measured.optimizer} is below {floor:.1g} in the last {share:.0%} of the run, from step "
        f"{low[0]} on: nothing is learned there ({measured.cause})."
        if highest
        else f"The learning rate of {measured.optimizer} is 0 throughout the run: nothing is learned.",
        "have the schedule end with the run (self.trainer.estimated_stepping_batches steps), and see whether it is "
        "stepped after each epoch or each step.",
        {"highest_rate": highest, "share": round(share, 3), "vanished-rate.share": limits.vanished_share},
    )


@rule(code="LR106", name="overlapping-plan", severities=(Severity.WARNING,))
def overlapping_plan(measured: "Fit", limits: Limits) -> Verdict:
    """Warmup and cooldown together are longer than the run.

    ## What it means
    The lengths that were asked for do not fit into the run. The warmup is as it was asked for; the cooldown begins
    where it ends, and is shorter than it was asked for, or left out.

    ## Why it matters
    The rate that was chosen is never held, and the cooldown is too short to bring the loss down.

    ## What to do
    Give lengths as fractions (`warmup=0.05`, `cooldown=0.2`), or `warmup="auto"`, which takes a tenth of the run at the
    most; or train longer.

    ## When it is wrong
    Where the run is only a trial of the program; runs of a few steps are not judged.
    """
    fits = measured.warmup + measured.cooldown <= measured.total
    if measured.total < limits.warmup_steps or not measured.cooldown or fits:  # a warmup alone: warmup-never-ends
        return None
    left = max(0, measured.total - measured.warmup)
    became = f"the cooldown is cut to {left:g}" if left else "there is no cooldown"
    return Diagnosis(
        Severity.WARNING,
        None,
        0,
        f"A warmup of {measured.warmup:g} and a cooldown of {measured.cooldown:g} {measured.unit} do not fit into a "
        f"run of {measured.total:g}: {became}.",
        'give them as fractions of the run (warmup=0.05, cooldown=0.2), or warmup="auto", or train longer.',
        {"warmup": measured.warmup, "cooldown": measured.cooldown, "total": measured.total},
    )


@rule(code="LR107", name="cooldown-over", severities=(Severity.WARNING,))
def cooldown_over(measured: "Spent", limits: Limits) -> Verdict:
    """A cooldown that was begun by hand is over, and training goes on with a rate of zero.

    ## What it means
    `start_cooldown()` was called. Its steps are made, the rate has come to its floor of 0, and the run has not ended.

    ## Why it matters
    Nothing is learned any more.

    ## What to do
    End the run (`trainer.should_stop = True`), or give the cooldown a floor above 0.

    ## When it is wrong
    It is not: what is multiplied with 0 is 0.
    """
    if measured.step < measured.ended or measured.floor > 0:
        return None
    return Diagnosis(
        Severity.WARNING,
        None,
        measured.ended,
        f"The cooldown that was begun at step {measured.began} was over at step {measured.ended}, and training goes on "
        "with a learning rate of 0.",
        "end the run (trainer.should_stop = True), or give the cooldown a floor above 0.",
        {"began": measured.began, "ended": measured.ended},
    )


@rule(code="LR801", name="unfinished-schedule", severities=(Severity.INFO,))
def unfinished_schedule(measured: "SchedulerPlan", limits: Limits) -> Verdict:
    """A scheduler will not come to its end in this run.

    ## What it means
    Its length is more than the times that it is stepped until the run ends.

    ## Why it matters
    The rate at the end is higher than the schedule was made for. That is as it should be where the run will be resumed.

    ## What to do
    Give the scheduler the length of the run, or the run the length of the scheduler.

    ## When it is wrong
    Where the run is a part of a longer one.
    """
    length = measured.length
    if not length or not measured.whole or measured.calls >= limits.unfinished_share * length:
        return None
    return Diagnosis(
        Severity.INFO,
        measured.optimizer,
        0,
        f"{measured.name} of {measured.optimizer} will come to {measured.calls} of its {length} steps in this run.",
        "give it the length of the run, if the run is not to be continued.",
        {"length": length, "stepped": measured.calls, "unfinished-schedule.share": limits.unfinished_share},
    )


@rule(code="LR802", name="restarting-schedule", severities=(Severity.INFO,))
def restarting_schedule(measured: "SchedulerPlan", limits: Limits) -> Verdict:
    """A cosine will be stepped beyond its lowest point, from where the rate rises again.

    ## What it means
    `CosineAnnealingLR` falls for `T_max` of its steps and then rises for as many.

    ## Why it matters
    The run ends, or goes on for long, with a rate that rises, which few intend.

    ## What to do
    Give it the length of the run as `T_max`. Where restarts are wanted, `CosineAnnealingWarmRestarts` says so.

    ## When it is wrong
    Where a wave is wanted.
    """
    length = measured.length
    if not length or not measured.periodic or measured.calls <= limits.restarted_ratio * length:
        return None
    return Diagnosis(
        Severity.INFO,
        measured.optimizer,
        0,
        f"{measured.name} of {measured.optimizer} falls for {length} of its steps and is stepped {measured.calls} "
        "times: in between the rate rises again.",
        "give it the length of the run as T_max; for restarts there is CosineAnnealingWarmRestarts.",
        {"length": length, "stepped": measured.calls, "restarting-schedule.ratio": limits.restarted_ratio},
    )


@rule(code="LR803", name="doubled-schedule", severities=(Severity.INFO,))
def doubled_schedule(measured: "Doubled", limits: Limits) -> Verdict:
    """The program's own schedule warms up, or cools down, where `WarmupCooldownScheduler` does the same.

    ## What it means
    The factor of `WarmupCooldownScheduler` is multiplied with the rate that the program sets. Both rise at the
    beginning, or both fall at the end.

    ## Why it matters
    Two linear warmups over the same steps make a quadratic one. That may be wanted.

    ## What to do
    Leave one of them out: `warmup=None` or `cooldown=None`.

    ## When it is wrong
    Where both are wanted, it is no fault.
    """
    rises = measured.warmup > 1 and measured.rise >= limits.doubled_factor
    falls = measured.cooldown > 1 and measured.fall <= 1 / limits.doubled_factor
    if not (rises or falls):
        return None
    what = " and ".join(["warmup"] * rises + ["cooldown"] * falls)
    return Diagnosis(
        Severity.INFO,
        measured.optimizer,
        0,
        f"The schedule of {measured.optimizer} has a {what} of its own: its rate and the factor are multiplied.",
        f"if that is not wanted: {', '.join(f'{each}=None' for each in what.split(' and '))}.",
        {
            "own_rise": measured.rise if math.isfinite(measured.rise) else "from 0",
            "own_fall": measured.fall,
            "doubled-schedule.factor": limits.doubled_factor,
        },
    )


@rule(code="LR804", name="no-end", severities=(Severity.INFO,))
def no_end(measured: "Endless", limits: Limits) -> Verdict:
    """A cooldown was asked for, and nobody knows when the run will end.

    ## What it means
    Neither `max_steps` nor `max_epochs` (with a loader that has a length, or an epoch that has ended) nor `max_time`
    tells where the run ends. There is no cooldown; a warmup that is a fraction of the run is left out, too.

    ## Why it matters
    A cooldown brings the loss down at the end, and has to begin before it.

    ## What to do
    Give the Trainer `max_steps`, `max_epochs` or `max_time`; or call `start_cooldown()` when the run is to end.

    ## When it is wrong
    It is not: the end of such a run cannot be known.
    """
    if not measured.cooldown and not measured.warmup:
        return None
    left_out = " and ".join(each for each in (measured.warmup, measured.cooldown) if each)
    return Diagnosis(
        Severity.INFO,
        None,
        0,
        f"The end of this run is not known: it is trained without {left_out}"
        + (" until its first epoch has ended." if measured.later and not measured.warmup else "."),
        "give the Trainer max_steps, max_epochs or max_time; or call start_cooldown() when the run is to end.",
    )


@rule(code="LR805", name="changed-plan", severities=(Severity.INFO,))
def changed_plan(measured: "Changed", limits: Limits) -> Verdict:
    """A resumed run has another plan than its checkpoint.

    ## What it means
    The run was resumed with another length or other arguments. The factor is that of a run which had them from the
    first step on; so at the step where it goes on, the rate jumps.

    ## Why it matters
    A run whose cooldown had begun goes back to its full rate when it is made longer; a warmup that is a fraction of the
    run becomes longer with it.

    ## What to do
    Nothing, if that is wanted. Give the warmup in steps, so that it does not depend on the length of the run.

    ## When it is wrong
    It is not; where the factor does not change at that step, nothing is said.
    """
    if abs(measured.now - measured.before) <= 1e-9:
        return None
    return Diagnosis(
        Severity.INFO,
        None,
        measured.step,
        f"The run goes on at step {measured.step} with a factor of {measured.now:.3g} in place of "
        f"{measured.before:.3g}: the plan was {measured.old}, and is {measured.new}.",
        "nothing, if that is wanted; a warmup in steps does not depend on the length of the run.",
        {"factor_before": measured.before, "factor_now": measured.now},
    )


@rule(code="LR901", name="unwatched-rate", severities=(Severity.INFO,))
def unwatched_rate(measured: None, limits: Limits) -> Verdict:
    """A rate cannot be scaled, or a schedule cannot be foreseen.

    ## What it means
    An optimizer has no hooks (it is none of torch's), has no learning rate, or sets it by itself in its step; or a
    schedule depends on what only the run will tell: a metric, the module's own calls, a function that fails.

    ## Why it matters
    Silence is not health there, and a rate that cannot be scaled is not warmed up.

    ## What to do
    The note says what is left out. A wrapper around an optimizer should derive from `torch.optim.Optimizer`.

    ## When it is wrong
    It is not: what is left out is not known.
    """
    return None


RULES = (
    warmup_never_ends,
    schedule_in_wrong_unit,
    scheduler_overruns,
    scheduler_never_stepped,
    vanished_rate,
    overlapping_plan,
    cooldown_over,
    unfinished_schedule,
    restarting_schedule,
    doubled_schedule,
    no_end,
    changed_plan,
    unwatched_rate,
)
"""All rules of this room, the note of blindness last."""
