"""What is wrong between training and validation: numbers in, findings out. No torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lightning_diagnostics.findings import Diagnosis, Severity, TooEarly, Verdict, limit, rule
from lightning_diagnostics.findings.finding import Plain

if TYPE_CHECKING:
    from lightning_diagnostics.diagnostics.generalization_gap.measure import Advantage, Baseline, ModeGap, Noise, Onset

_SWEEP = "the sweep over healthy networks (docs: limits)"


@dataclass(frozen=True)
class Limits:
    """The limits of this room."""

    rise: float = limit(
        0.05,
        key="overfitting.rise",
        meaning="rise of the validation loss above its best, as a share of the best",
        source="Prechelt 1998: stop when the generalization loss is above 5 per cent (GL_5)",
    )
    fall: float = limit(
        0.001,
        key="overfitting.fall",
        meaning="fall of the training loss since the validation loss was best, as a share of what it was then",
        source="convention: what counts as an improvement of the validation loss",
        low=1e-9,
        high=1.0,
    )
    worse: float = limit(
        0.01,
        key="overfitting.worse",
        meaning="worsening of the metric beside the loss since the loss was best, as a share of what it was then",
        source=_SWEEP,
    )
    batches: int = limit(
        4,
        key="overfitting.batches",
        meaning="validation batches from which on their differences tell whether a rise is more than the noise of the "
        "samples; with fewer each of the last validations has to be worse than the best",
        source="convention: with four, Student's t asks for 3.2 standard errors",
        low=2,
    )
    noise: float = limit(
        4.0,
        key="overfitting.noise",
        meaning="rise of the validation loss, and worsening of the metric beside it, in standard deviations of the "
        "curve around its course from one validation to the next",
        source="simulation: the best of a hundred validations that vary by chance is 2.5 standard deviations below "
        "their mean, and the mean of the last five varies by half of one",
    )
    gl: float = limit(
        5.0,
        key="overfitting.gl",
        meaning='generalization loss in per cent, with criterion="GL"',
        source="Prechelt 1998, whose values are 1 to 5",
        low=1e-9,
    )
    pq: float = limit(
        1.0,
        key="overfitting.pq",
        meaning='generalization loss over training progress, with criterion="PQ"',
        source="Prechelt 1998, whose values are 0.5 to 3",
        low=1e-9,
    )
    up: int = limit(
        3,
        key="overfitting.up",
        meaning='strips in a row at whose end the validation loss was higher, with criterion="UP"',
        source="Prechelt 1998, whose values are 2 to 8",
        low=1,
    )
    good_validations: int = limit(
        3,
        key="validation-too-good.validations",
        meaning="validations in a row in which validation was better than training",
        source="convention: three",
        low=1,
    )
    good_margin: float = limit(
        0.1,
        key="validation-too-good.margin",
        meaning="by how much at least, by the end of the interval that is nearer to none: of a loss as a share of the "
        "training loss, of a share of samples in absolute terms, in tenths",
        source=_SWEEP,
    )
    good_confidence: float = limit(
        0.999,
        key="validation-too-good.confidence",
        meaning="confidence of the interval that has to lie on the side of validation",
        source="arithmetic: two random halves of one data set differ by chance, and do so at every validation alike",
        low=0.5,
        high=0.9999999,
    )
    mode_validations: int = limit(
        3,
        key="mode-gap.validations",
        meaning="validations in a row in which evaluation mode was the worse",
        source="convention: three",
        low=1,
    )
    mode_steps: int = limit(
        500,
        key="mode-gap.steps",
        meaning="steps over which evaluation mode was the worse, unless it is much worse",
        source="the sweep over healthy networks (docs: limits): norms with a momentum of 0.01 lag for 356 steps",
        low=0,
    )
    mode_soon: float = limit(
        10.0,
        key="mode-gap.soon",
        meaning="the excess from which on evaluation mode is much worse",
        source="the sweep over healthy networks (docs: limits): 3.8 at most where norms lag, 18 where they are ill",
        low=1e-9,
    )
    mode_excess: float = limit(
        0.5,
        key="mode-gap.excess",
        meaning="how much higher the loss of the same training batches is in evaluation mode, as a share of that in "
        "training mode",
        source=_SWEEP,
        low=1e-9,
    )
    mode_least: float = limit(
        0.05,
        key="mode-gap.least",
        meaning="how much higher it is at least, as a share of the first training loss that was measured",
        source=_SWEEP,
    )
    under_validations: int = limit(
        10,
        key="underfitting.validations",
        meaning="validations in a row in which no metric was better than a constant predictor",
        source=_SWEEP,
        low=1,
    )
    under_steps: int = limit(
        100,
        key="underfitting.steps",
        meaning="steps before a verdict",
        source="convention: a hundred, lest validations after every batch be taken for a while",
        low=1,
    )
    under_margin: float = limit(
        0.01,
        key="underfitting.margin",
        meaning="by how much the training metric has to be better than that of a constant predictor, as a share of "
        "what there is to gain",
        source="convention: one per cent",
    )
    under_frequent: float = limit(
        0.9,
        key="underfitting.frequent",
        meaning="share of the most frequent class above which an accuracy is asked only where the loss is that of a "
        "constant predictor, too",
        source="arithmetic: with rare classes a network that ranks well may still name none of them",
        high=1.0,
    )
    under_far: float = limit(
        0.1,
        key="underfitting.far",
        meaning="by how much a training metric may be worse than that of a constant predictor: a loss as a share of "
        "the latter, a share of samples as a share of what there is to gain; a loss that was ever further off is taken "
        "for one of another kind",
        source="convention: ten per cent",
    )
    noise_validations: int = limit(
        5,
        key="gap-within-noise.validations",
        meaning="validations in a row in which the interval of the gap had zero in it",
        source="convention: five",
        low=1,
    )


@rule(code="GAP101", name="overfitting", severities=(Severity.WARNING,))
def overfitting(measured: "Onset", limits: Limits) -> Verdict:
    """Validation gets worse while training gets better.

    ## What it means
    The validation loss was best at the step named (the onset). It has not got better by a tenth of a per cent since, in
    as many validations as the patience; the mean of that many last ones is more than five per cent above the best, and
    by more than the loss varies from one validation to the next, and from batch to batch. Over the same time the loss
    on training data has gone on falling, measured the same way: in evaluation mode, with the weights of the same
    moment. If there is another metric (the one that `ModelCheckpoint` or
    `EarlyStopping` watches, or an accuracy), it is worse, too, than when the loss was best. With `criterion="GL"`,
    `"PQ"` or `"UP"` one of Prechelt's criteria (1998) has to hold beside the patience.

    ## Why it matters
    From the onset on the network learns what is peculiar to the training samples. Every further epoch costs time and
    accuracy, and the last checkpoint is worse than one that was thrown away.

    ## What to do
    Take the checkpoint of the onset (`ModelCheckpoint(monitor=...)` keeps it), and stop there the next time:
    `GeneralizationGapMonitor(on_finding="stop")` does so after the patience. Against overfitting itself: more data or
    augmentation, weight decay, dropout, a smaller network.

    ## When it is wrong
    Very long runs can fall again after a long rise ("double descent"); then it is closed when a new best is reached.
    """
    verdict = _undecided(measured)
    if verdict is not None:
        return verdict
    if not (_has_risen(measured, limits) and _is_learning(measured, limits)):
        return None
    if measured.partner is not None and not _is_worse(measured, limits):
        return None
    beside = ""
    if measured.partner is not None:
        beside = f", and {measured.partner} has gone from {measured.partner_best:.4g} to {measured.partner_now:.4g}"
    best, now, at_best, training = map(
        measured.shown, (measured.best, measured.now, measured.training_best, measured.training_now)
    )
    return Diagnosis(
        Severity.WARNING,
        measured.metric,
        measured.step,
        f"{measured.metric} was best at step {measured.step} ({best:.4g}) and has gone to {now:.4g} in the "
        f"{measured.since} validations since (the mean of the last {measured.last}){beside}. On training data "
        f"{measured.metric} has got better meanwhile, from {at_best:.4g} to {training:.4g}.",
        f"keep the checkpoint of step {measured.step} (ModelCheckpoint(monitor={measured.metric!r})) and stop there; "
        "more data, augmentation, weight decay or dropout put the onset off.",
        _evidence(measured, limits),
    )


@rule(code="GAP102", name="validation-too-good", severities=(Severity.WARNING,))
def validation_too_good(measured: "Advantage", limits: Limits) -> Verdict:
    """Validation is better than training, though both are measured the same way.

    ## What it means
    Training and validation data went through the same `validation_step`, in evaluation mode, with the same weights, and
    validation came out better at several validations in a row, by more than the number of samples explains. On the
    usual curves this is common (dropout, a running average); on the same footing it is not: a network knows its
    training samples better. If reading a training sample draws random numbers (augmentation), nothing is said.

    ## Why it matters
    Then the validation set is not a sample of the same problem: training samples or their near duplicates stand in it,
    or it is easier than the data that the network is meant for. The validation number is too good to be believed.

    ## What to do
    Look for the same samples in both sets (duplicates, frames of one film, one patient in both), and compare their
    shares of classes. If training labels are known to be noisy, or hard samples are mined, it is meant to be so.

    ## When it is wrong
    Training data that is transformed, but without random numbers; noisy training labels with a clean validation set.
    """
    if measured.validations < limits.good_validations:
        return None
    if measured.share:
        least, how = 0.1 * limits.good_margin, f"{measured.validation:.1%} against {measured.training:.1%}"
    else:
        least = limits.good_margin * abs(measured.training)
        how = f"{measured.validation:.4g} against {measured.training:.4g}"
    if measured.high >= -least:
        return None
    return Diagnosis(
        Severity.WARNING,
        measured.metric,
        measured.since,
        f"{measured.metric} is better on validation than on training data, both in evaluation mode: {how} at the last "
        f"of {measured.validations} validations, by at least {-measured.high:.3g} with {measured.confidence:.1%} "
        "confidence.",
        "look for training samples in the validation set, and for a validation set that is easier than the task.",
        {
            "training": _short(measured.training),
            "validation": _short(measured.validation),
            "least_advantage": _short(-measured.high),
            "validation-too-good.margin": limits.good_margin,
            "validations": measured.validations,
            "validation-too-good.validations": limits.good_validations,
            "training_samples": measured.training_samples,
            "validation_samples": measured.validation_samples,
        },
    )


@rule(code="GAP103", name="mode-gap", severities=(Severity.WARNING,))
def mode_gap(measured: "ModeGap", limits: Limits) -> Verdict:
    """The network is much worse in evaluation mode, on the very same training batches.

    ## What it means
    The same training batches with the same weights were run in both modes. In evaluation mode their loss is higher by
    more than half, at several validations in a row and over five hundred steps, which is more than the noise of the
    batches; if it is more than ten times higher, the steps do not count. So the gap to the validation curve is none of
    generalisation: something does in evaluation mode what it does not do in training.

    ## Why it matters
    The network is used in evaluation mode. What is lost between the modes is lost in every prediction, and no
    regularisation brings it back.

    ## What to do
    Nearly always it is batch norm: running statistics that are behind (a momentum too small, too few updates), are
    frozen, or come from other data than the batches now; `BatchNormGuard` says which. Else look for code that asks
    `self.training`, and for dropout that is scaled at the wrong place.

    ## When it is wrong
    A network that is meant to adapt to its batch, or that evaluates a moving average of its weights while that is far
    behind.
    """
    if measured.validations < limits.mode_validations:
        return None
    more = measured.evaluation_mode - measured.training_mode
    if measured.lasted < limits.mode_steps and more <= limits.mode_soon * abs(measured.training_mode):
        return None
    if measured.low is None or measured.low <= 0:  # of one batch, or of a list of the module's own, nothing is known
        return None
    return Diagnosis(
        Severity.WARNING,
        measured.metric,
        measured.since,
        f"{measured.metric} of the same {measured.batches} training batches, with the same weights, is "
        f"{measured.evaluation_mode:.4g} in evaluation mode and {measured.training_mode:.4g} in training mode.",
        "look at running statistics of batch norm (BatchNormGuard), and for code that asks self.training.",
        {
            "evaluation_mode": _short(measured.evaluation_mode),
            "training_mode": _short(measured.training_mode),
            "mode-gap.excess": limits.mode_excess,
            "validations": measured.validations,
            "mode-gap.validations": limits.mode_validations,
            "lasted": measured.lasted,
            "mode-gap.steps": limits.mode_steps,
            "batches": measured.batches,
        },
    )


@rule(code="GAP104", name="underfitting", severities=(Severity.WARNING,))
def underfitting(measured: "Baseline", limits: Limits) -> Verdict:
    """On its own training data the network is no better than a predictor that does not look at its input.

    ## What it means
    At ten validations in a row, after a hundred steps, the metric of training data, in evaluation mode, was what a
    constant predictor comes to: the share of the most frequent class, the entropy of the frequencies of the classes
    (for a cross entropy), or the variance of the targets (for a squared error). The targets were counted in the very
    samples that were scored. If there are several such metrics, none of them was better. Where one class has more than
    nine tenths of the samples, the accuracy counts only if the loss says the same.

    ## Why it matters
    Nothing was learned from the input. The usual curves hide it: a loss falls for an epoch, to the frequencies of the
    classes, and an accuracy of 90 % can be the share of one class.

    ## What to do
    Train on ten samples until they are fitted: if that fails, look for a learning rate that is far too large or too
    small, inputs that are not scaled, labels that are shuffled against inputs, dead units (`ActivationMonitor`),
    weights that are in no optimizer (`GradientNormMonitor`).

    ## When it is wrong
    Targets that nothing in the input tells of. A loss of another kind that happens to come to the same number: the
    finding says which one was assumed.
    """
    if measured.validations < limits.under_validations:
        return TooEarly(measured.validations, limits.under_validations, "validations")
    if measured.trained < limits.under_steps:
        return TooEarly(measured.trained, limits.under_steps, "steps")
    if standing(measured, limits) != "equal":
        return None
    if measured.kind == "share":
        how = f"{measured.value:.1%} where always naming the most frequent class gives {measured.constant:.1%}"
    else:
        what = {"cross entropy": "the entropy of the classes", "squared error": "the variance of the targets"}
        how = f"{measured.value:.4g} where {what[measured.kind]} is {measured.constant:.4g}"
    return Diagnosis(
        Severity.WARNING,
        measured.metric,
        measured.step,
        f"{measured.metric} on training data is that of a constant predictor at {measured.validations} validations in "
        f"a row: {how}.",
        "fit ten samples first; then look at the learning rate, the scale of the inputs, and whether inputs and labels "
        "belong together.",
        {
            "training": _short(measured.value),
            "constant_predictor": _short(measured.constant),
            "kind": measured.kind,
            "underfitting.margin": limits.under_margin,
            "validations": measured.validations,
            "underfitting.validations": limits.under_validations,
            "steps": measured.trained,
            "underfitting.steps": limits.under_steps,
        },
    )


@rule(code="GAP801", name="overconfident", severities=(Severity.INFO,))
def overconfident(measured: "Onset", limits: Limits) -> Verdict:
    """The validation loss rises, but the metric beside it does not get worse.

    ## What it means
    As with `overfitting` the validation loss has risen since its best while the training loss fell, but the accuracy
    (or the metric that callbacks watch) is as good as it was. The network is wrong about the same samples, only surer
    of it.

    ## Why it matters
    The probabilities are not to be trusted (Guo et al. 2017); the classes are. Early stopping on the loss would stop
    such a run too soon.

    ## What to do
    If probabilities are used: temperature scaling after training, label smoothing, or stop at the step named. If not,
    nothing: watch the accuracy.

    ## When it is wrong
    It is a note. Where the accuracy has few samples, a small loss of it is not seen.
    """
    if _undecided(measured) is not None or measured.partner is None:
        return None
    if not (_has_risen(measured, limits) and _is_learning(measured, limits)) or _is_worse(measured, limits):
        return None
    return Diagnosis(
        Severity.INFO,
        measured.metric,
        measured.step,
        f"{measured.metric} was best at step {measured.step} ({measured.shown(measured.best):.4g}) and is "
        f"{measured.shown(measured.now):.4g} now, but {measured.partner} has not got worse by more than chance "
        f"({measured.partner_best:.4g}, now {measured.partner_now:.4g}): surer of the same mistakes.",
        "if probabilities are used, scale the temperature or smooth the labels; else watch the accuracy.",
        _evidence(measured, limits),
    )


@rule(code="GAP802", name="gap-within-noise", severities=(Severity.INFO,))
def gap_within_noise(measured: "Noise", limits: Limits) -> Verdict:
    """The gap between training and validation is smaller than what the samples can show.

    ## What it means
    At several validations in a row the 95 % interval of the gap had zero in it.

    ## Why it matters
    Nothing can be said about generalisation from it, in either direction, and differences of this size between two runs
    say nothing either.

    ## What to do
    Nothing, if the gap need not be known any better. Else more validation samples: the interval shrinks with the square
    root of their number.

    ## When it is wrong
    It is a note. A gap that is really there can be shown by more samples.
    """
    if measured.validations < limits.noise_validations:
        return None
    return Diagnosis(
        Severity.INFO,
        measured.metric,
        measured.since,
        f"The gap of {measured.metric} cannot be told from none: {measured.gap:.3g}, give or take "
        f"{measured.half_width:.3g}, with {measured.validation_samples} validation and {measured.training_samples} "
        "training samples.",
        "more validation samples, if it has to be known any better.",
        {
            "gap": _short(measured.gap),
            "half_width": _short(measured.half_width),
            "validations": measured.validations,
            "gap-within-noise.validations": limits.noise_validations,
        },
    )


@rule(code="GAP901", name="unmeasured-gap", severities=(Severity.INFO,))
def unmeasured_gap(measured: object, limits: Limits) -> Verdict:
    """Training data could not be measured as validation data is, or not every metric could.

    ## What it means
    There is no second set of numbers to compare with: the training data cannot be read a second time, the module's
    `validation_step` does not take training batches or does something that could not be undone, or a metric is made in
    a way that cannot be followed. The note says which.

    ## Why it matters
    Where nothing is measured, nothing is found.

    ## What to do
    Give the module or the data module a method `train_eval_dataloader()` that returns a loader of training data as
    `validation_step` wants it; or turn the pass off with `train_pass="off"`.

    ## When it is wrong
    Never: it says what was not seen.
    """
    return None


RULES = (
    overfitting,
    validation_too_good,
    mode_gap,
    underfitting,
    overconfident,
    gap_within_noise,
    unmeasured_gap,
)


RULES = (
    overfitting,
    validation_too_good,
    mode_gap,
    underfitting,
    overconfident,
    gap_within_noise,
    unmeasured_gap,
)
"""All rules of this room; the last is what it says when it cannot see."""


def standing(measured: "Baseline", limits: Limits) -> Literal["better", "equal", "another kind"]:
    """How a training metric stands to that of a constant predictor; one that is far worse measures something else."""
    if measured.kind == "share" and measured.constant > limits.under_frequent and not measured.agreed:
        return "another kind"
    if measured.kind == "share":
        gain, room = measured.value - measured.constant, 1 - measured.constant
    else:
        gain, room = measured.constant - measured.value, measured.constant
    if gain > limits.under_margin * room or not room:  # with one class there is nothing to gain
        return "better"
    return "equal" if gain >= -limits.under_far * room else "another kind"


def _undecided(measured: "Onset") -> TooEarly | None:
    """Whether the criterion has not been met, or cannot be yet."""
    need = measured.patience + 1
    return TooEarly(measured.validations, need, "validations") if measured.validations < need else None


def _has_met(measured: "Onset", limits: Limits) -> bool:
    if measured.criterion == "patience" or measured.since < measured.patience:
        return measured.since >= measured.patience
    least = {"GL": limits.gl, "PQ": limits.pq, "UP": float(limits.up)}[measured.criterion]
    if measured.score is None:
        return False
    return measured.score >= least if measured.criterion == "UP" else measured.score > least


def _has_risen(measured: "Onset", limits: Limits) -> bool:
    """Whether the validation loss is above its best by more than a little and by more than noise."""
    least = max(limits.rise * abs(measured.best), limits.noise * measured.noise)
    if not _has_met(measured, limits) or not measured.now - measured.best > least:
        return False
    return measured.low > 0 if measured.low is not None else measured.steady


def _is_learning(measured: "Onset", limits: Limits) -> bool:
    """Whether the training loss has gone on falling."""
    if measured.training_best is None or measured.training_now is None:
        return False
    return measured.training_best - measured.training_now > limits.fall * abs(measured.training_best)


def _is_worse(measured: "Onset", limits: Limits) -> bool:
    """Whether the metric beside the loss has got worse by more than a little and by more than noise."""
    assert measured.partner_best is not None
    assert measured.partner_now is not None
    least = max(limits.worse * abs(measured.partner_best), limits.noise * measured.partner_noise)
    if abs(measured.partner_now - measured.partner_best) <= least:
        return False
    return measured.partner_low > 0 if measured.partner_low is not None else measured.partner_steady


def _evidence(measured: "Onset", limits: Limits) -> dict[str, Plain]:
    met: dict[str, Plain] = {"patience": measured.patience}
    if measured.criterion != "patience":
        least = {"GL": limits.gl, "PQ": limits.pq, "UP": limits.up}[measured.criterion]
        met = {measured.criterion: _short(measured.score), f"overfitting.{measured.criterion.lower()}": least}
    beside: dict[str, Plain] = {}
    if measured.partner is not None:
        beside = {
            measured.partner: _short(measured.partner_now),
            f"{measured.partner}_at_onset": _short(measured.partner_best),
        }
    return {
        "onset": measured.step,
        "best": _short(measured.shown(measured.best)),
        "now": _short(measured.shown(measured.now)),
        "rise": _short((measured.now - measured.best) / abs(measured.best) if measured.best else None),
        "overfitting.rise": limits.rise,
        "noise": _short(measured.noise),
        "overfitting.noise": limits.noise,
        "rise_at_least": _short(measured.low),
        "validations_since": measured.since,
        **met,
        "training_at_onset": _short(measured.shown(measured.training_best)),
        "training": _short(measured.shown(measured.training_now)),
        **beside,
    }


def _short(value: float | None) -> float | None:
    return None if value is None or value != value else float(f"{value:.4g}")
