"""What is wrong with gradients: numbers in, findings out. No torch."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_diagnostics.findings import Diagnosis, Severity, TooEarly, Verdict, limit, rule
from lightning_diagnostics.findings.finding import Plain

if TYPE_CHECKING:
    from lightning_diagnostics.diagnostics.gradients.measure import (
        Depth,
        Excursions,
        NonFinite,
        OptimizerGradients,
        Untrained,
    )

_SWEEP = "the sweep over healthy networks (docs: limits)"
_NAMED = 5  # parameters that a finding names


@dataclass(frozen=True)
class Limits:
    """The limits of this room."""

    missing_batches: int = limit(
        64,
        key="missing-gradient.batches",
        meaning="training batches (of all ranks together) without a gradient, before a parameter of an optimizer is "
        "reported, where an epoch ends",
        source="arithmetic: a head that one batch in ten trains is missing from all of 64 once in 850; " + _SWEEP,
        low=1,
    )
    missing_steps: int = limit(
        4,
        key="missing-gradient.steps",
        meaning="steps of its optimizer in those",
        source="arithmetic: an optimizer that rests (a GAN's other half) proves nothing",
        low=1,
    )
    unoptimized_batches: int = limit(
        8,
        key="parameter-not-optimized.batches",
        meaning="training batches in which gradients reach a parameter that no optimizer has, and in which it does not "
        "move",
        source="convention: as many as an epoch has looks; no chance is involved",
        low=1,
    )
    vanishing_ratio: float = limit(
        1e-3,
        key="vanishing-gradient.ratio",
        meaning="root mean square gradient of the weights furthest from the loss over that of the nearest, at each of "
        "the looks",
        source="AUTOTRAINER (Zhang et al. 2021); " + _SWEEP,
        high=1.0,
    )
    vanishing_update: float = limit(
        0.1,
        key="vanishing-gradient.update",
        meaning="update ratio of those weights over the median of all or that of the nearest, whichever is larger, at "
        "each of the looks: an optimizer that scales each weight's step by itself (Adam) learns from small gradients "
        "as well",
        source=_SWEEP,
        high=1.0,
    )
    vanishing_looks: int = limit(
        8,
        key="vanishing-gradient.looks",
        meaning="looks in a row",
        source="arithmetic: as many as an epoch has; zero-initialised branches have no gradient before they step",
        low=1,
    )
    vanishing_steps: int = limit(
        96,
        key="vanishing-gradient.steps",
        meaning="steps that those looks span, about: where an epoch is short, every step is one",
        source="arithmetic: an adapter that begins at zero takes tens of steps to let a gradient through",
        low=1,
    )
    vanishing_middle: float = limit(
        0.3,
        key="vanishing-gradient.middle",
        meaning="root mean square gradient of the median weight over that of the nearest, at each of the looks: a "
        "branch at the side has a small gradient by itself, and those of the other weights are not small",
        source="arithmetic: what shrinks evenly to a thousandth is at a thirtieth in the middle",
        high=1.0,
    )
    vanishing_layers: int = limit(
        4,
        key="vanishing-gradient.layers",
        meaning="weights of two dimensions or more that lie in a row of depth",
        source="arithmetic: with fewer it is no matter of depth",
        low=2,
    )
    exploding_factor: float = limit(
        100.0,
        key="exploding-gradient.factor",
        meaning="norm over the median norm of the window before it, with a loss above all of that window",
        source=_SWEEP,
        low=1.0,
    )
    exploding_steps: int = limit(
        8,
        key="exploding-gradient.steps",
        meaning="such steps within a window",
        source=_SWEEP,
        low=1,
    )
    exploding_surge: float = limit(
        10.0,
        key="exploding-gradient.surge",
        meaning="loss at the step after such a step over the largest loss of the run up to it, above which one such "
        "step is enough",
        source=_SWEEP,
        low=1.0,
    )
    exploding_surge_past: int = limit(
        5,
        key="exploding-gradient.surge_past",
        meaning="steps before such a step, at least",
        source="arithmetic: the median of fewer is that of the first steps, which are unlike the rest",
        low=2,
    )
    exploding_past: int = limit(
        20,
        key="exploding-gradient.past",
        meaning="steps that the window has at least, for a step to be compared with it",
        source="arithmetic: a median of fewer is moved by a few",
        low=2,
    )
    stuck_share: float = limit(
        1e-4,
        key="stuck-gradient.share",
        meaning="mean norm of the window over that of the first window, while the loss has not fallen",
        source=_SWEEP,
        high=1.0,
    )
    stuck_loss: float = limit(
        0.9,
        key="stuck-gradient.loss",
        meaning="mean loss of the window over that of the first window, from which on it has not fallen",
        source=_SWEEP,
    )
    stuck_steps: int = limit(
        10,
        key="stuck-gradient.steps",
        meaning="steps with a gradient of exactly zero, if the window has no others",
        source="convention: as many as a variance takes",
        low=1,
    )
    bouncing_cv: float = limit(
        1.5,
        key="bouncing-gradient.cv",
        meaning="coefficient of variation of the norm over a full window, while the loss does not fall",
        source=_SWEEP,
    )
    clipped_share: float = limit(
        0.99,
        key="always-clipped.share",
        meaning="share of the steps of a full window that were clipped",
        source="arithmetic: one step in a hundred",
        high=1.0,
    )
    clipped_factor: float = limit(
        5e-4,
        key="always-clipped.factor",
        meaning="median clip factor of the window, below which it is a WARNING",
        source=_SWEEP + "; a loss that is summed over time, clipped to 5, is left with a two-hundredth",
        high=1.0,
    )


@rule(code="GRD101", name="nonfinite-gradient", severities=(Severity.ERROR,))
def nonfinite_gradient(measured: "NonFinite", limits: Limits) -> Verdict:
    """An optimizer was given a gradient with NaN or infinity in it.

    ## What it means
    The norm of the gradients of one optimizer step was not finite, and the step was made. Steps that a gradient scaler
    skips are not counted: it tries out scales, and a few of them in a run are as it should be.

    ## Why it matters
    The weights that such a gradient moves are NaN from then on, and with momentum or Adam all later steps are, too.

    ## What to do
    If all parameters have such a gradient, the loss itself is not finite: look for a logarithm or a division of zero,
    an exponential, or an input that is not finite (`ActivationMonitor` names the operation). If it begins at one
    parameter, the derivative of what comes after it is infinite: `sqrt` and `norm` at zero, `atan2`, `where` over a
    branch that is NaN. Otherwise gradient clipping, a smaller learning rate, or a warmup.

    ## When it is wrong
    A norm whose square is beyond float32 (gradients above 1e19) counts as infinite. A program that mends gradients
    within the optimizer itself is accused.
    """
    everywhere = 0 < measured.broken == measured.parameters
    place = "every parameter that has one" if everywhere else None
    if place is None and measured.broken:
        place = f"{measured.broken} of {measured.parameters} parameters"
    what = "after clipping, and finite before it" if measured.clipping else f"in {place or 'a parameter'}"
    loss = measured.loss
    of_loss = loss is not None and not math.isfinite(loss)
    message = (
        f"The gradient that {measured.optimizer} was given is not finite, {what}"
        f"{f'; the loss was {loss:g}' if of_loss else ''}."
    )
    evidence: dict[str, Plain] = {
        "optimizer": measured.optimizer,
        "parameters": measured.parameters,
        "not_finite": measured.broken,
        "last_finite_step": measured.before,
    }
    if loss is not None:
        evidence["loss"] = loss if math.isfinite(loss) else str(loss)
    if measured.clipping:
        remedy = "look at what clips: a norm of 0 in a denominator, or error_if_nonfinite=True in clip_grad_norm_."
    elif of_loss or everywhere or measured.where is None:
        remedy = "find what made the loss NaN or infinite (ActivationMonitor names it); then clip, or lower the rate."
    else:
        remedy = (
            f"look at what comes after {measured.where} in the forward pass: sqrt or norm at 0, a division, where()."
        )
    where = measured.where or measured.optimizer
    return Diagnosis(Severity.ERROR, where, measured.step, message, remedy, evidence)


@rule(code="GRD102", name="missing-gradient", severities=(Severity.WARNING,))
def missing_gradient(measured: "Untrained", limits: Limits) -> Verdict:
    """Parameters that an optimizer has, and that want a gradient, never received one.

    ## What it means
    The optimizer has made its steps, and the gradient of these parameters was None at each of them: no loss depends on
    them, as far as autograd knows.

    ## Why it matters
    They stay as they were initialised. Mostly a `detach()`, `.item()`, `torch.no_grad()`, `argmax` or a conversion to
    NumPy has cut the graph, or a module is built and never called.

    ## What to do
    Look for what cuts the graph between these parameters and the loss. If they are not meant to learn,
    `requires_grad_(False)`; if they are not used, remove them (with DDP they cost `find_unused_parameters=True`).

    ## When it is wrong
    A part that is used later in the run (a second phase, a head of another task) has no gradient until then; the
    finding is taken back when it gets one. Biases of layers that learn, and weights that move without a gradient
    (averages of others), are not judged.
    """
    if measured.batches < limits.missing_batches:
        return TooEarly(measured.batches, limits.missing_batches, "batches")
    if measured.steps < limits.missing_steps:
        return TooEarly(measured.steps, limits.missing_steps, "steps")
    count = len(measured.parameters)
    return Diagnosis(
        Severity.WARNING,
        measured.where,
        measured.since,
        f"{_parameters(measured)} of {measured.optimizer} received no gradient in "
        f"{measured.batches} batches: no loss depends on {'it' if count == 1 else 'them'}.",
        "look for detach(), no_grad(), .item() or argmax between here and the loss, or a module that is never called; "
        "requires_grad_(False) on what is not meant to learn.",
        {
            "parameters": ", ".join(measured.parameters[:_NAMED]) + (", ..." if count > _NAMED else ""),
            "batches": measured.batches,
            "missing-gradient.batches": limits.missing_batches,
            "optimizer_steps": measured.steps,
        },
    )


@rule(code="GRD103", name="parameter-not-optimized", severities=(Severity.WARNING,))
def parameter_not_optimized(measured: "Untrained", limits: Limits) -> Verdict:
    """Gradients are computed for parameters that no optimizer has.

    ## What it means
    These parameters require a gradient and receive one in the backward pass, but none of the optimizers that have made
    a step, or that Lightning knows, has them, and their values do not change.

    ## Why it matters
    They stay as they are: a backbone that was left out of `configure_optimizers`, a layer that was made or replaced
    after the optimizer. Nobody clears their gradients either, which add up for as long as the run lasts.

    ## What to do
    Give them to the optimizer: `torch.optim.AdamW(self.parameters())`, or `add_param_group` for what came later. If
    they are meant to stay as they are, `requires_grad_(False)` saves their gradients' time and memory.

    ## When it is wrong
    A parameter that the program moves by itself, seldom, and was not seen to.
    """
    if measured.batches < limits.unoptimized_batches:
        return TooEarly(measured.batches, limits.unoptimized_batches, "batches")
    count = len(measured.parameters)
    return Diagnosis(
        Severity.WARNING,
        measured.where,
        measured.since,
        f"{_parameters(measured)} {'gets' if count == 1 else 'get'} gradients, but no "
        f"optimizer has {'it' if count == 1 else 'them'}.",
        f"add {'it' if count == 1 else 'them'} to the optimizer in configure_optimizers (self.parameters() has "
        "everything), or requires_grad_(False) on what is meant to stay as it is.",
        {
            "parameters": ", ".join(measured.parameters[:_NAMED]) + (", ..." if count > _NAMED else ""),
            "batches": measured.batches,
            "parameter-not-optimized.batches": limits.unoptimized_batches,
        },
    )


@rule(code="GRD104", name="vanishing-gradient", severities=(Severity.WARNING,))
def vanishing_gradient(measured: "Depth", limits: Limits) -> Verdict:
    """On its way through the layers the gradient shrinks to next to nothing, and the first layers do not learn.

    ## What it means
    At each of the last looks, the root mean square gradient of the weights furthest from the loss was a small part of
    that of the nearest, and their update ratio (the change of the weights over the weights) a small part of the median
    one or of the nearest's, whichever is larger (a head that began at zero is left out as long as it is small), and the
    weights between have small gradients, too. All are ratios within one step: they do not depend on the scale of the
    loss or on the learning rate.

    ## Why it matters
    The first layers stay as they were initialised, and the rest learns from random features.

    ## What to do
    ReLU or its like instead of sigmoid and tanh; an initialisation for the activation; norms between the layers;
    residual connections; for recurrent networks LSTM or GRU. Adam scales the steps of each weight by itself and gets
    on with small gradients.

    ## When it is wrong
    Where the first layers are given a far smaller learning rate on purpose, and their gradients happen to be small,
    too. Tables of embeddings, of which a batch uses some rows, are not judged, nor are models whose weights come and go
    from batch to batch (layers that are dropped, experts).
    """
    if measured.layers < limits.vanishing_layers:
        return None
    looks = len(measured.ratios)
    if looks < limits.vanishing_looks:
        return TooEarly(looks, limits.vanishing_looks, "looks")
    worst, update = max(measured.ratios), max(measured.updates)
    if worst >= limits.vanishing_ratio or update >= limits.vanishing_update:
        return None
    if max(measured.middles, default=0.0) >= limits.vanishing_middle:
        return None
    return Diagnosis(
        Severity.WARNING,
        measured.first,
        measured.since,
        f"The gradient of {measured.first} is at most {worst:.1g} of that of {measured.last}, {measured.layers - 1} "
        f"weights further on, and its update at most {update:.1g} of the median one, or of the nearest if that is "
        "larger: it hardly learns.",
        "ReLU instead of sigmoid or tanh, norms or residual connections between the layers, an initialisation for the "
        "activation; or an optimizer that scales each weight's step, such as Adam.",
        {
            "gradient_ratio": float(f"{worst:.3g}"),
            "vanishing-gradient.ratio": limits.vanishing_ratio,
            "update_ratio": float(f"{update:.3g}"),
            "vanishing-gradient.update": limits.vanishing_update,
            "looks": looks,
            "optimizer": measured.optimizer,
        },
    )


@rule(code="GRD105", name="exploding-gradient", severities=(Severity.WARNING,))
def exploding_gradient(measured: "Excursions", limits: Limits) -> Verdict:
    """The gradient norm jumps far above its own past, and the loss with it.

    ## What it means
    The norm (before clipping) was more than a hundred times the median of the window before, and the loss either went
    to more than ten times the largest of the run at the very next step (once is enough), or was above every loss of
    that window at that step or the next, several times within a window. Large norms alone are no illness: healthy
    networks have single spikes, clipped recurrent ones norms in the hundreds, and a first reward or an outlier raises
    norm and loss at one step.

    ## Why it matters
    Each such step throws the weights off, and what was learned before it is lost; in the end the loss is NaN.

    ## What to do
    `Trainer(gradient_clip_val=1.0)`, or a value near the usual norm on the chart; a smaller learning rate; a warmup. In
    recurrent networks clipping is part of the method (Pascanu et al. 2013).

    ## When it is wrong
    A change of the task in the middle of the run (another data set, another loss) can raise both for a while.
    """
    count, surges = len(measured.steps), measured.surges
    if count < limits.exploding_steps and not surges:
        return None
    steps = surges or measured.steps
    how = f"more than {limits.exploding_factor:g} times its median (up to {measured.largest:.3g}, median "
    how += f"{measured.median:.3g})"
    if surges:
        places = f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} steps"
        loss = f"{measured.loss:.3g}" if math.isfinite(measured.loss) else "NaN or infinity"
        message = (
            f"At {places} the gradient norm was {how}, after which the loss went to {loss}, from at most "
            f"{measured.earlier_loss:.3g} before."
        )
    else:
        message = f"At {count} steps the gradient norm was {how}, and the loss rose above all before it."
    return Diagnosis(
        Severity.WARNING,
        measured.optimizer,
        steps[0],
        message,
        "lower the learning rate, or clip to less than now."
        if measured.clipped
        else f"clip the gradients, say Trainer(gradient_clip_val={float(f'{2 * measured.median:.1g}'):g}), or lower "
        "the learning rate.",
        {
            "steps": ", ".join(map(str, steps[:_NAMED])) + (", ..." if len(steps) > _NAMED else ""),
            "largest_norm": float(f"{measured.largest:.4g}"),
            "median_norm": float(f"{measured.median:.4g}"),
            "loss": _finite(measured.loss),
            "largest_loss_before": _finite(measured.earlier_loss),
            "exploding-gradient.factor": limits.exploding_factor,
            **(
                {"exploding-gradient.surge": limits.exploding_surge}
                if surges
                else {"exploding-gradient.steps": limits.exploding_steps}
            ),
        },
    )


@rule(code="GRD801", name="stuck-gradient", severities=(Severity.INFO,))
def stuck_gradient(measured: "OptimizerGradients", limits: Limits) -> Verdict:
    """The gradient has died down, and the loss has not fallen.

    ## What it means
    Every gradient of the window was zero (or so small, below 1e-23, that its square is); or its mean norm is a
    ten-thousandth of what it was over the first window of the run, and the mean loss is much what it was then.

    ## Why it matters
    A run that has converged has small gradients and a small loss. Small gradients at a large loss mean that the signal
    is cut off: dead or saturated units, a loss that is clamped, a plateau.

    ## What to do
    Look at the activations (`ActivationMonitor`), at the loss function for `clamp` and `relu`, and at the learning rate
    at the time when the norm fell.

    ## When it is wrong
    It is a note: a loss that cannot fall further than it started from (a pretrained network) looks the same.
    """
    if measured.values < limits.stuck_steps:
        return None
    zero = measured.zero_steps == measured.values
    fallen = _quotient(measured.mean, measured.first_mean)
    loss = _quotient(measured.loss, measured.first_loss)
    if not zero and (fallen is None or loss is None or fallen > limits.stuck_share or loss < limits.stuck_loss):
        return None
    if not zero and not (measured.first_loss or 0.0) > 0:  # a share of it says nothing
        return None
    if zero:
        message = f"The gradient of {measured.layer} was zero at each of the last {measured.values} steps."
        evidence: dict[str, Plain] = {"zero_steps": measured.values, "stuck-gradient.steps": limits.stuck_steps}
    else:
        assert fallen is not None
        assert loss is not None
        message = (
            f"The gradient norm of {measured.layer} has fallen to {fallen:.1g} of what it was over the first window, "
            f"and the loss is at {loss:.0%} of what it was then."
        )
        evidence = {
            "norm": float(f"{measured.mean or 0.0:.4g}"),
            "share_of_first": float(f"{fallen:.3g}"),
            "stuck-gradient.share": limits.stuck_share,
            "loss_share": round(loss, 3),
            "stuck-gradient.loss": limits.stuck_loss,
        }
    remedy = "look for dead or saturated units, a clamped loss, or a learning rate that threw the weights off."
    return Diagnosis(Severity.INFO, measured.layer, measured.since, message, remedy, evidence)


@rule(code="GRD802", name="bouncing-gradient", severities=(Severity.INFO,))
def bouncing_gradient(measured: "OptimizerGradients", limits: Limits) -> Verdict:
    """The gradient norm varies by more than its mean, and the loss does not fall.

    ## What it means
    Over a full window the standard deviation of the norm is well above its mean, and the mean loss is not below that of
    the window before.

    ## Why it matters
    The run may be jumping to and fro across a valley, or a few batches may dominate it.

    ## What to do
    A smaller learning rate, larger batches (see the noise scale), gradient clipping; look at the batches with the
    largest norms.

    ## When it is wrong
    It is a note: near interpolation most batches have next to no gradient and a few have some, which is healthy.
    """
    cv, loss, earlier = measured.cv, measured.loss, measured.earlier_loss
    if cv is None or loss is None or earlier is None or cv < limits.bouncing_cv or loss < earlier:
        return None
    return Diagnosis(
        Severity.INFO,
        measured.layer,
        measured.since,
        f"The gradient norm of {measured.layer} varies by {cv:.2g} times its mean, and the loss does not fall "
        f"({earlier:.3g} over the window before, {loss:.3g} over this one).",
        "a smaller learning rate, larger batches, or gradient clipping.",
        {"cv": round(cv, 3), "bouncing-gradient.cv": limits.bouncing_cv, "loss": loss, "loss_before": earlier},
    )


@rule(code="GRD803", name="always-clipped", severities=(Severity.INFO, Severity.WARNING))
def always_clipped(measured: "OptimizerGradients", limits: Limits) -> Verdict:
    """Every step is clipped: the clipping value sets the length of the step, not the gradient.

    ## What it means
    In a full window practically every step was clipped. Where the median clip factor is below a two-thousandth, it is a
    warning.

    ## Why it matters
    SGD with clipping at every step is normalised gradient descent: the learning rate times the clipping value is the
    length of each step. With Adam it changes little. A factor far below a hundredth mostly means that something else is
    meant: clipping in manual optimisation with a gradient scaler, which clips gradients that are still multiplied with
    the scale, or a clipping value that was copied from another loss.

    ## What to do
    Nothing, if that is wanted. Else a clipping value near the usual norm on the chart. With manual optimisation and
    16-bit precision, unscale the gradients before clipping them.

    ## When it is wrong
    It is a note. Large language models are clipped at 1.0 throughout the first part of their training.
    """
    share, factor = measured.clipped_share, measured.median_factor
    if share is None or factor is None or measured.judged < measured.values or share < limits.clipped_share:
        return None
    if not measured.full:
        return TooEarly(measured.judged, measured.window, "steps")
    severe = factor < limits.clipped_factor
    return Diagnosis(
        Severity.WARNING if severe else Severity.INFO,
        measured.layer,
        measured.since,
        f"{share:.0%} of the last {measured.judged} steps of {measured.layer} were clipped, to {factor:.2g} of their "
        "norm in the median.",
        "a larger clipping value, near the norm on the chart; in manual optimisation with a gradient scaler, unscale "
        "before clipping."
        if severe
        else "nothing, if normalised steps are wanted; else a clipping value near the norm on the chart.",
        {
            "clipped_share": round(share, 3),
            "always-clipped.share": limits.clipped_share,
            "median_factor": float(f"{factor:.3g}"),
            "always-clipped.factor": limits.clipped_factor,
        },
    )


@rule(code="GRD901", name="unwatched-gradients", severities=(Severity.INFO,))
def unwatched_gradients(measured: object, limits: Limits) -> Verdict:
    """Gradients, or numbers of them, that cannot be measured rightly, and so are not drawn.

    ## What it means
    A wrong curve is worse than none. Not measured are gradients that lie with a strategy of its own (DeepSpeed, FSDP
    1), the norm before clipping where the program runs its backward passes itself, the norm after clipping of LBFGS.

    ## Why it matters
    Silence about these numbers is not health.

    ## What to do
    `self.manual_backward(loss)` instead of `loss.backward()`; `ModelParallelStrategy` (FSDP 2) instead of FSDP 1.

    ## When it is wrong
    Never: it is a note.
    """
    return None


RULES = (
    nonfinite_gradient,
    missing_gradient,
    parameter_not_optimized,
    vanishing_gradient,
    exploding_gradient,
    stuck_gradient,
    bouncing_gradient,
    always_clipped,
    unwatched_gradients,
)


def _parameters(measured: "Untrained") -> str:
    count, elements = len(measured.parameters), measured.elements
    return f"{count} parameter{'s' * (count > 1)} ({elements:,} weight{'s' * (elements > 1)})"


def _quotient(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base


def _finite(value: float) -> Plain:
    return float(f"{value:.4g}") if math.isfinite(value) else str(value)
