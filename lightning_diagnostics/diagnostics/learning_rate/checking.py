"""What is put before the rules: the plan of a run and what its schedulers will do, as measurements."""

import math
from collections.abc import Iterator, Sequence

from torch.optim import Optimizer

from lightning_diagnostics.diagnostics.learning_rate.foresight import Foreseen
from lightning_diagnostics.diagnostics.learning_rate.measure import Course, Doubled, Fit, SchedulerPlan
from lightning_diagnostics.diagnostics.learning_rate.names import beta2
from lightning_diagnostics.diagnostics.learning_rate.plan import Plan


def scheduler_plans(foreseen: Foreseen, names: Sequence[str], *, open_ended: bool) -> Iterator[SchedulerPlan]:
    """How far each scheduler will come.

    Args:
        foreseen: What was found out.
        names: Of the optimizers, by their place.
        open_ended: Whether the run may well end before (early stopping, a limit of time).
    """
    for seen in foreseen.schedulers:
        yield SchedulerPlan(
            name=seen.name,
            optimizer=names[seen.optimizer],
            interval=seen.interval,
            length=seen.length,
            whole=seen.whole,
            periodic=seen.periodic,
            calls=seen.calls,
            steps=seen.run.steps,
            batches=seen.run.batches,
            epochs=seen.run.epochs,
            raises_at=seen.raises_at,
            error=seen.error,
            open_ended=open_ended,
        )


def fit(plan: Plan, optimizer: Optimizer) -> Fit:
    """Whether warmup and cooldown fit into the run."""
    axis, rate2 = plan.main, beta2(optimizer, optimizer.param_groups[0])
    return Fit(plan.warmup_steps(axis, rate2), plan.cooldown_wanted(axis, rate2), axis.end, axis.unit)


def course(foreseen: Foreseen, plan: Plan, place: int, optimizer: Optimizer, name: str) -> Course:
    """The planned rate of the group of an optimizer that has the highest."""
    curves = {rate2: plan.ahead(rate2) for rate2 in _betas(optimizer)}
    known = {rate2: [curve.factor(step, [step]) for step in foreseen.steps] for rate2, curve in curves.items()}
    factors = [known[beta2(optimizer, group)] for group in optimizer.param_groups]
    rates = (
        max((own * by[index] for own, by in zip(at[place], factors, strict=True)), default=0.0)
        for index, at in enumerate(foreseen.rates)
    )
    cause = "its schedule times the factor of warmup and cooldown" if plan.wish.acts else "its schedule"
    return Course(name, tuple(foreseen.steps), tuple(rates), foreseen.until, cause)


def doubled(foreseen: Foreseen, plan: Plan, place: int, optimizer: Optimizer, name: str) -> Doubled:
    """What the program's own rates do over the steps of the warmup and of the cooldown."""
    axis, rate2 = plan.main, beta2(optimizer, optimizer.param_groups[0])
    warmup, cooldown = plan.warmup_steps(axis, rate2), plan.cooldown_steps(axis, rate2)
    own = {step: max(at[place], default=0.0) for step, at in zip(foreseen.steps, foreseen.rates, strict=True)}
    first, last = own[foreseen.steps[0]], own[foreseen.steps[-1]]
    warm = next((rate for step, rate in own.items() if step >= warmup), last)
    cool = next((rate for step, rate in own.items() if step >= axis.end - cooldown), last)
    return Doubled(name, warmup, cooldown, _over(warm, first), _over(last, cool))


def _betas(optimizer: Optimizer) -> set[float | None]:
    return {beta2(optimizer, group) for group in optimizer.param_groups}


def _over(value: float, base: float) -> float:
    if base:
        return value / base
    return math.inf if value else 1.0
