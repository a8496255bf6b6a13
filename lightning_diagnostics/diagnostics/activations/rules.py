"""What is wrong with activations: numbers in, findings out. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_diagnostics.findings import Diagnosis, Severity, TooEarly, Verdict, limit, rule
from lightning_diagnostics.findings.finding import Plain
from lightning_diagnostics.statistics import silence_bound

if TYPE_CHECKING:
    from lightning_diagnostics.diagnostics.activations.measure import Depth, Layer, LayerActivations, NonFinite

LOOKS = 8
"""Looks that a verdict on units needs at least: as many as every epoch has, so that one batch proves nothing."""

_SWEEP = "the sweep over healthy networks (docs: limits)"


@dataclass(frozen=True)
class Limits:
    """The limits of this room."""

    activity: float = limit(
        0.01,
        key="dead-units.activity",
        meaning="share of the training samples on which a living unit is active at the least; with alpha it says how "
        "many samples a verdict takes",
        source="SageMaker Debugger's threshold for inactive neurons, 1 %",
        low=1e-6,
        high=0.99,
    )
    alpha: float = limit(
        0.05,
        key="dead-units.alpha",
        meaning="chance that a layer whose units are all that active has one that looks dead (Šidák)",
        source="convention: 5 %",
        low=1e-9,
        high=0.99,
    )
    share: float = limit(
        0.9,
        key="dead-units.share",
        meaning="share of a layer's units that are dead, whenever they died",
        source=_SWEEP,
        high=1.0,
    )
    lost_share: float = limit(
        0.7,
        key="dead-units.lost_share",
        meaning="share of a layer's units that are dead, if as many as dead-units.lost died in this run",
        source=_SWEEP,
        high=1.0,
    )
    lost: float = limit(
        0.3,
        key="dead-units.lost",
        meaning="rise of the dead share since the first window",
        source=_SWEEP,
        high=1.0,
    )
    units: int = limit(
        8,
        key="dead-units.units",
        meaning="units that a layer has at least for its dead share to be judged",
        source="arithmetic: in a narrower layer one unit more or less is an eighth or more of it, as much as lies "
        "between the sweep and the limit (there, squeeze-and-excite layers of four units have three dead ones)",
        low=1,
    )
    at_init_share: float = limit(
        0.5,
        key="dead-at-init.share",
        meaning="dead share over the first window",
        source=_SWEEP,
        high=1.0,
    )
    dying_share: float = limit(
        0.4,
        key="dying-units.share",
        meaning="dead share from which on a rise is reported",
        source=_SWEEP,
        high=1.0,
    )
    dying_rise: float = limit(
        0.25,
        key="dying-units.rise",
        meaning="rise of the dead share over the later half of the verdicts",
        source=_SWEEP,
        high=1.0,
    )
    dying_last_quarter: float = limit(
        1 / 3,
        key="dying-units.last_quarter",
        meaning="share of that rise in the last quarter of the verdicts; with less of it, it comes to its end",
        source="arithmetic: a steady rise has a half there, one that slows down evenly to nothing a quarter",
        high=1.0,
    )
    dying_verdicts: int = limit(
        16,
        key="dying-units.verdicts",
        meaning="verdicts (one every eight looks, and where an epoch ends) that a trend takes",
        source="arithmetic: four points in the last quarter",
        low=4,
    )
    saturated_share: float = limit(
        0.8,
        key="saturated-units.share",
        meaning="share of the outputs that are saturated, at each look of a stretch",
        source=_SWEEP,
        low=0.01,
        high=1.0,
    )
    saturated_looks: int = limit(
        8,
        key="saturated-units.looks",
        meaning="looks in a row that such a stretch has at least",
        source="arithmetic: an epoch has at least eight looks",
        low=1,
    )
    layers: int = limit(
        4,
        key="vanishing-activations.layers",
        meaning="layers without a norm between them that a trend over depth takes",
        source="arithmetic: fewer have too few steps for a median",
        low=2,
    )
    vanishing_ratio: float = limit(
        1e-4,
        key="vanishing-activations.ratio",
        meaning="what is left of the first layer's signal, at each of the last 24 looks",
        source=_SWEEP,
        high=1.0,
    )
    exploding_ratio: float = limit(
        1e4,
        key="exploding-activations.ratio",
        meaning="growth of the signal over the first layer's, at each of the last 24 looks",
        source=_SWEEP,
        low=1.0,
    )
    gain: float = limit(
        1.25,
        key="vanishing-activations.gain",
        meaning="factor by which the signal shrinks (or grows) from layer to layer, in the median: one layer alone is "
        "no trend",
        source="arithmetic: 41 such layers make a factor of 10,000",
        low=1.0,
    )


@rule(code="ACT101", name="dead-units", severities=(Severity.WARNING, Severity.ERROR))
def dead_units(measured: "LayerActivations", limits: Limits) -> Verdict:
    """Most units of a layer are off on every training sample, and no gradient reaches them any more.

    ## What it means
    A unit (a feature, or a channel at all its positions) is dead if it was off on every training sample of the window:
    never positive for ReLU and its like, nearly zero beside its layer for GELU, SiLU, Mish and Hardswish. The window
    holds as many samples as it takes to tell a dead unit from a rare one. Zeros in one batch are not death but
    sparsity, which is another number.

    ## Why it matters
    The gradient of a ReLU that is off is zero: the weights of a dead unit stay as they are, and the layer is as narrow
    as what is left of it. If all of its units are dead, nothing of the input gets through.

    ## What to do
    Dead from the first step on: look at the initialisation, above all at biases that are strongly negative, and at the
    scale of the inputs. Died in the run: a smaller learning rate or a warmup, gradient clipping; in a layer without a
    norm before it, add one. LeakyReLU, GELU or SiLU have a gradient where a ReLU has none.

    ## When it is wrong
    Healthy networks have dead units, often half of a layer (see the sweep in the documentation): the limits are above
    what was measured there. A layer that is sparse on purpose, or is asked only about data that this run does not
    have, may be above them. Samples that are not shuffled prove less than their number says.
    """
    if not _mortal(measured, limits):
        return None
    too_early = _too_early(measured)
    if too_early is not None:
        return too_early
    share = measured.dead_share or 0.0
    lost = share - (measured.dead_at_first or 0.0)
    if share >= limits.share:
        crossed, key = limits.share, "dead-units.share"
    elif share >= limits.lost_share and lost >= limits.lost:
        crossed, key = limits.lost_share, "dead-units.lost_share"
    else:
        return None
    gone = measured.dead == measured.about.units
    if measured.about.head and not gone:  # outputs that are never on: the black border of images
        return None
    evidence = {**_evidence(measured), key: crossed, "dead_at_first": round(measured.dead_at_first or 0.0, 3)}
    silent = f"was off on all of the last {measured.needed} training samples or more"
    if gone:
        message = f"All {measured.about.units} units are dead: each {silent}, and nothing of the input gets through."
    else:
        message = (
            f"{measured.dead} of {measured.about.units} units ({share:.0%}) are dead: each {silent}; "
            f"over the first looks it was {measured.dead_at_first or 0.0:.0%}."
        )
    first_step = measured.since[min(_units_in(crossed, measured), measured.dead) - 1]
    return Diagnosis(
        Severity.ERROR if gone else Severity.WARNING,
        measured.layer,
        first_step,
        message,
        _revive(measured, died=lost >= limits.lost),
        evidence,
    )


@rule(code="ACT102", name="dying-units", severities=(Severity.WARNING,))
def dying_units(measured: "LayerActivations", limits: Limits) -> Verdict:
    """More and more units of a layer die, and it has not stopped.

    ## What it means
    The share of dead units has risen over the later half of the run so far, and is still rising.

    ## Why it matters
    At this pace the layer will be dead before the run is over; while it goes on, the learning rate can still be
    lowered.

    ## What to do
    A smaller learning rate or a warmup; gradient clipping; a norm before the activation; weight decay that does not
    pull on the biases.

    ## When it is wrong
    Layers that are wide for their task lose units early on and then keep what they need; this is why a rise that slows
    down is not reported.
    """
    if _too_early(measured) is not None or not _mortal(measured, limits) or measured.about.head:
        return None
    shares = measured.shares
    if len(shares) < limits.dying_verdicts:
        return None
    now, half, quarter = shares[-1], shares[len(shares) // 2], shares[-1 - len(shares) // 4]
    rise = now - half
    if now < limits.dying_share or rise < limits.dying_rise or now - quarter < rise * limits.dying_last_quarter:
        return None
    if dead_units.check(measured, limits) is not None:  # dead, not dying
        return None
    return Diagnosis(
        Severity.WARNING,
        measured.layer,
        measured.since[min(_units_in(half, measured), measured.dead - 1)],
        f"{measured.dead} of {measured.about.units} units ({now:.0%}) are dead, {rise:.0%} of the layer died over the "
        "later half of the run so far, and it goes on.",
        _revive(measured, died=True),
        {
            **_evidence(measured),
            "rise": round(rise, 3),
            "dying-units.rise": limits.dying_rise,
            "rise_in_last_quarter": round(now - quarter, 3),
        },
    )


@rule(code="ACT103", name="saturated-units", severities=(Severity.WARNING,))
def saturated_units(measured: "LayerActivations", limits: Limits) -> Verdict:
    """Nearly all outputs of a tanh or sigmoid lie at the ends of its range, where it has no slope.

    ## What it means
    The inputs of the activation are so large that it is flat there: beyond 0.99 the derivative of tanh is below 2 %.

    ## Why it matters
    The gradient of everything before this layer is multiplied by that slope: the layers before it learn next to
    nothing.

    ## What to do
    Scale the inputs; initialise with the gain of the activation (``nn.init.calculate_gain("tanh")``); put a norm before
    it; a smaller learning rate if it came in the run; or an activation without ends.

    ## When it is wrong
    Outputs that are meant to lie at an end are not judged: gates (what multiplies something), what comes after the last
    weights, and what leaves one part of the model for another (a generator's image, an actor's action). An activation
    that is binary on purpose, say before a straight-through estimator, is accused.
    """
    about = measured.about
    judged = about.trains and not (about.gate or about.head or about.leaves)
    if not judged or not measured.saturated_looks:
        return None
    if measured.saturated_looks < limits.saturated_looks:
        return TooEarly(measured.saturated_looks, limits.saturated_looks, "looks")
    share = measured.saturated_least
    return Diagnosis(
        Severity.WARNING,
        measured.layer,
        measured.saturated_since,
        f"At least {math.floor(100 * share)} % of the outputs of this {measured.about.kind} lie at the ends of its "
        "range, where its slope is next to nothing.",
        f"scale what goes into it: {_scale(measured.about)}.",
        {
            "saturated_share": round(share, 4),
            "saturated-units.share": limits.saturated_share,
            "looks": measured.saturated_looks,
            **_place(measured.about),
        },
    )


@rule(code="ACT104", name="exploding-activations", severities=(Severity.WARNING,))
def exploding_activations(measured: "Depth", limits: Limits) -> Verdict:
    """From layer to layer the signal grows, by a large factor in all.

    ## What it means
    The signal of a layer is how much its outputs differ from sample to sample. In a stretch of layers without a norm
    between them it grows from each to the next.

    ## Why it matters
    Gradients grow with it; a small change of the first weights throws the output about, and with 16-bit numbers it
    overflows.

    ## What to do
    Initialise for the activation (``nn.init.kaiming_normal_`` for ReLU, ``xavier`` for tanh); put norms between the
    layers; scale residual branches.

    ## When it is wrong
    Where the scale is wanted, as in a network that predicts large numbers. Residual streams that a norm follows are not
    judged across it.
    """
    return _over_depth(measured, limits, grows=True)


@rule(code="ACT105", name="vanishing-activations", severities=(Severity.WARNING,))
def vanishing_activations(measured: "Depth", limits: Limits) -> Verdict:
    """From layer to layer the signal shrinks, until next to nothing of the input is left.

    ## What it means
    The signal of a layer is how much its outputs differ from sample to sample; what the biases add is the same for all
    and does not count. In a stretch of layers without a norm between them it shrinks from each to the next.

    ## Why it matters
    The last layers see the same for every sample, and the gradient of the first ones shrinks by the same factors: the
    network learns its biases and nothing else.

    ## What to do
    Initialise for the activation (``nn.init.kaiming_normal_`` for ReLU, ``xavier`` for tanh); put norms between the
    layers, or residual connections around them.

    ## When it is wrong
    Deep plain networks with torch's own initialisation are near it in their first steps, and grow out of it when they
    learn: this is why it must hold at each of the last 24 looks.
    """
    return _over_depth(measured, limits, grows=False)


@rule(code="ACT106", name="nonfinite-activation", severities=(Severity.ERROR,))
def nonfinite_activation(measured: "NonFinite", limits: Limits) -> Verdict:
    """The output of a module or call is NaN or infinite although its inputs are finite.

    ## What it means
    This is the first place of the forward pass where numbers stop being finite: a logarithm or a division of zero, an
    overflow, or weights that are NaN already.

    ## Why it matters
    NaN spreads to everything that comes after it, and with the next step of the optimizer to all weights; nothing
    recovers from that.

    ## What to do
    Look at the range of the inputs that the finding states. Keep arguments of ``log``, ``sqrt`` and divisions away from
    zero (``clamp(min=eps)`` inside, ``torch.log1p``, ``log_softmax``); under 16 bits compute sums and exponentials in
    32. If weights are NaN already, it began in an earlier step: look at every step (``every_n_train_steps=1``).

    ## When it is wrong
    Infinities on purpose, such as a mask of ``-inf`` before a softmax, are not reported as long as the loss is finite.
    """
    del limits
    evidence: dict[str, Plain] = {"value": measured.what}
    if measured.weights:
        since = f", after step {measured.before}" if measured.before is not None else ""
        message = f"{measured.weights} has {measured.what} already: it began in an earlier step{since}."
        remedy = "look at every step to see where it begins: every_n_train_steps=1; a smaller learning rate, clipping."
        evidence |= {"weights": measured.weights}
    elif measured.batch:
        message = f"The batch that goes into {measured.where or 'the model'} has {measured.what} already."
        remedy = "look at the data: missing values, divisions by a standard deviation of zero, augmentation."
    else:
        place = f"{'In' if measured.inside else 'After'} {measured.where}" if measured.where else "In the loss"
        made = f"{measured.operation} made the first" if measured.operation else "the output has the first"
        message = f"{place}, {made} {measured.what} of the forward pass"
        if measured.operation:
            evidence |= {"operation": measured.operation}
        if measured.low is not None and measured.high is not None:
            message += f", from inputs between {measured.low:.3g} and {measured.high:.3g}"
            evidence |= {"input_min": float(f"{measured.low:.3g}"), "input_max": float(f"{measured.high:.3g}")}
        message += "."
        remedy = _finite_remedy(measured)
    if measured.before is not None:
        evidence |= {"last_finite_look": measured.before}
    return Diagnosis(Severity.ERROR, measured.where, measured.step, message, remedy, evidence)


@rule(code="ACT801", name="dead-at-init", severities=(Severity.INFO,))
def dead_at_init(measured: "LayerActivations", limits: Limits) -> Verdict:
    """Many units of a layer were dead from the first looks on.

    ## What it means
    They were off on every sample of the first window, before training can have killed them.

    ## Why it matters
    The layer is narrower than it looks. Networks train well like this (up to half of a layer was measured in healthy
    ones), so it is a note.

    ## What to do
    Nothing, if the result is good. Otherwise scale the inputs to mean 0 and variance 1, look at the initialisation of
    the biases, or put a norm before the activation.

    ## When it is wrong
    With a learning rate that is far too large units die in the first steps and are counted here.
    """
    if _too_early(measured) is not None or not _mortal(measured, limits) or measured.about.head:
        return None
    first = measured.dead_at_first
    if first is None or first < limits.at_init_share or dead_units.check(measured, limits) is not None:
        return None
    return Diagnosis(
        Severity.INFO,
        measured.layer,
        measured.since[0] if measured.since else 0,
        f"{first:.0%} of the {measured.about.units} units were dead over the first looks.",
        "nothing, if the result is good; else scale the inputs, look at the biases, or put a norm before the layer.",
        {"dead_at_first": round(first, 3), "dead-at-init.share": limits.at_init_share, **_evidence(measured)},
    )


@rule(code="ACT901", name="unwatched-activations", severities=(Severity.INFO,))
def unwatched_activations(measured: object, limits: Limits) -> Verdict:
    """The activations of some parts of the model could not be seen, so nothing can be said about them.

    ## What it means
    Compiled and scripted modules do not call their activations from Python; the kernels of ``nn.LSTM``, ``nn.GRU`` and
    ``nn.RNN`` apply them inside; a custom ``autograd.Function`` or extension shows none, nor do ``torch.maximum(x, 0)``
    and ``torch.where(x > 0, x, 0)``; layers inside a reentrant checkpoint are read but not judged, since they run
    without gradients; tensors that are sharded,
    sparse or wrapped by ``vmap`` are not read. A monitor that failed says so here too.

    ## Why it matters
    Silence about what was not watched is not a clean bill of health.

    ## What to do
    For a compiled model, ``compiled="eager"`` runs the steps that are looked at without the compiled code (their
    numerics may differ in the last bits). Check the patterns of ``include`` and ``exclude``.

    ## When it is wrong
    A model without activation functions has nothing to be seen.
    """
    del measured, limits
    return None  # a note that the callback makes itself


RULES = (
    dead_units,
    dying_units,
    saturated_units,
    exploding_activations,
    vanishing_activations,
    nonfinite_activation,
    dead_at_init,
    unwatched_activations,
)


def _too_early(measured: "LayerActivations") -> TooEarly | None:
    """What evidence is missing for a verdict on units that can die."""
    if measured.dead_share is not None:
        return None
    if measured.samples < measured.needed:
        return TooEarly(measured.samples, measured.needed, "samples")
    return TooEarly(measured.looks, LOOKS, "looks")


def _mortal(measured: "LayerActivations", limits: Limits) -> bool:
    """Whether the death of units would matter: they can die, are trained, lie within the network, and are several."""
    about = measured.about
    dies = about.family in ("rectifier", "smooth") and about.trains and about.hidden
    return dies and about.units >= limits.units


def _units_in(share: float, measured: "LayerActivations") -> int:
    """How many units it takes to make up a share of a layer."""
    return math.ceil(share * measured.about.units - 1e-9)


def _evidence(measured: "LayerActivations") -> dict[str, Plain]:
    share = measured.dead_share or 0.0
    return {
        "dead_share": round(share, 4),
        "dead_units": ", ".join(map(str, measured.dead_units)) + (", ..." if measured.dead > 10 else ""),
        "units": measured.about.units,
        "samples_seen": measured.samples,
        "silent_for_samples": measured.needed,
        "activity_below": float(f"{silence_bound(max(1, measured.needed)):.3g}"),
        **_place(measured.about),
    }


def _place(about: "Layer") -> dict[str, Plain]:
    place: dict[str, Plain] = {"activation": about.kind, "source": about.source}
    return {**place, "follows": about.follows} if about.follows else place


def _before(about: "Layer") -> str:
    return about.follows or "the layer before it"


def _revive(measured: "LayerActivations", *, died: bool) -> str:
    about = measured.about
    if died:
        return (
            f"(a) lower the learning rate, or warm it up; (b) put a norm between {_before(about)} and it; (c) use an "
            "activation with a slope on both sides, such as nn.LeakyReLU."
        )
    return (
        f"(a) look at the initialisation of {_before(about)}, its bias above all; (b) scale the inputs to mean 0 and "
        "variance 1; (c) put a norm before the activation."
    )


def _scale(about: "Layer") -> str:
    gain = f'nn.init.xavier_uniform_(weight, gain=nn.init.calculate_gain("{about.kind}"))'
    init = (
        f"(a) {gain} in {_before(about)}"
        if about.kind in ("tanh", "sigmoid")
        else f"(a) smaller weights in {_before(about)}"
    )
    return f"{init}; (b) a norm before it; (c) a smaller learning rate if it came in the run"


def _over_depth(measured: "Depth", limits: Limits, *, grows: bool) -> Verdict:
    """Whether the signal grows (or shrinks) steadily, and where it has crossed the limit."""
    if len(measured.layers) < limits.layers:
        return None
    sign = 1 if grows else -1
    ratio = limits.exploding_ratio if grows else limits.vanishing_ratio
    if sign * measured.gain < math.log10(limits.gain):
        return None
    logs = measured.log_signals
    at = _crossing([sign * (log - logs[0]) for log in logs], abs(math.log10(ratio)))
    if at is None:
        return None
    if measured.reported_at in measured.layers:  # the crossing moves as the run goes on; the finding stays
        at = measured.layers.index(measured.reported_at)
    factor = 10 ** (logs[at] - logs[0])
    word, verb = ("exploding", "grown") if grows else ("vanishing", "shrunk")
    return Diagnosis(
        Severity.WARNING,
        measured.layers[at],
        measured.since,
        f"Over {at + 1} layers from {measured.layers[0]} on, the signal has {verb} by a factor of "
        f"{factor if grows else 1 / factor:.2g}; from layer to layer by {10 ** abs(measured.gain):.2g}.",
        "initialise for the activation (nn.init.kaiming_normal_ for ReLU, nn.init.xavier_normal_ for tanh), or put a "
        "norm between the layers.",
        {
            "ratio": float(f"{factor:.3g}"),
            f"{word}-activations.ratio": ratio,
            "gain_per_layer": float(f"{10**measured.gain:.3g}"),
            "layers": len(measured.layers),
            "first_layer": measured.layers[0],
        },
    )


def _crossing(rises: Sequence[float], limit: float) -> int | None:
    return next((index for index, rise in enumerate(rises) if rise >= limit), None)


def _finite_remedy(measured: "NonFinite") -> str:
    operation = measured.operation.lower()
    if any(word in operation for word in ("log", "sqrt", "div", "pow", "reciprocal", "norm")):
        return "keep the argument away from zero: clamp(min=eps) or + eps inside of it."
    if "exp" in operation or "softmax" in operation:
        return "subtract the maximum first (torch.logsumexp, log_softmax do), or clamp the argument."
    return "bound the inputs, or compute this in 32 bits; torch.autograd.set_detect_anomaly(True) shows the line."
