"""What is wrong with modes and running statistics: numbers in, findings out. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_diagnostics.findings import Diagnosis, Severity, TooEarly, Verdict, limit, rule
from lightning_diagnostics.findings.finding import Plain

if TYPE_CHECKING:
    from lightning_diagnostics.diagnostics.batch_norm.dependence import Dependence
    from lightning_diagnostics.diagnostics.batch_norm.measure import (
        Design,
        Drift,
        LayerStatistics,
        Momentum,
        RankDifference,
        Reuse,
        SmallBatch,
        WrongMode,
    )

_SWEEP = "the sweep over healthy networks (docs: limits)"
_NAMED = 3  # modules that a message names


@dataclass(frozen=True)
class Limits:
    """The limits of this room."""

    batches: int = limit(
        2,
        key="eval-mode-in-training.batches",
        meaning="training batches in a row, from their start to their end, in which a module was in evaluation mode",
        source="convention: one batch may be a phase of a program that changes modes by itself",
        low=1,
    )
    looks: int = limit(
        2,
        key="frozen-but-drifting.looks",
        meaning="looks at which running statistics moved while the weights stood still",
        source="convention: the weights have to be seen twice to stand still",
        low=2,
    )
    shift: float = limit(
        1.0,
        key="statistics-mismatch.shift",
        meaning="median over channels of the distance between running mean and mean of validation batches, in running "
        "standard deviations",
        source=_SWEEP,
        low=1e-3,
    )
    log_ratio: float = limit(
        2.5,
        key="statistics-mismatch.log_ratio",
        meaning="median over channels of |log(variance of validation batches / running variance)|",
        source=_SWEEP,
        low=1e-3,
    )
    samples: int = limit(
        16,
        key="statistics-mismatch.samples",
        meaning="rows of validation batches behind a verdict",
        source="arithmetic: the mean of 16 rows has a standard error of a quarter of a standard deviation",
        low=2,
    )
    settled: float = limit(
        0.01,
        key="statistics-mismatch.settled",
        meaning="weight that the initial values may still have in the running statistics, (1 - momentum) ** updates",
        source="convention: one per cent, which default momentum reaches after 44 updates",
        low=1e-9,
        high=1.0,
    )
    patience: int = limit(
        500,
        key="statistics-mismatch.patience",
        meaning="updates after which a verdict is made even if the momentum is so small that they have not settled",
        source="arithmetic: eleven times what the default momentum takes",
        low=1,
    )
    rows: int = limit(
        4,
        key="tiny-batch.rows",
        meaning="rows of the median training batch of one process, at the most",
        source="Wu & He 2018 (Group Normalization), table 2: ResNet-50 loses 1.2 points with 8 images a GPU, 3.7 "
        "with 4, 11.1 with 2",
        low=1,
    )
    small_looks: int = limit(
        3,
        key="tiny-batch.looks",
        meaning="training batches that were looked at before a verdict",
        source="convention: the median of three",
        low=1,
    )
    ranks_shift: float = limit(
        0.1,
        key="ranks-differ.shift",
        meaning="difference of running statistics between two processes while they evaluate: of the means in standard "
        "deviations, or log ratio of the variances, median over channels; any difference is a note",
        source="arithmetic: if each process keeps its own with default momentum, running means differ by 0.08 in the "
        "median with 8 rows a batch, by 0.03 with 64",
    )
    change: float = limit(
        0.001,
        key="batch-dependent-prediction.change",
        meaning="root mean square change of predictions when other samples of the batch are replaced, as a share of "
        "their standard deviation over samples",
        source="arithmetic: in the networks of the sweep predictions that should not change are equal to the last bit; "
        "a thousandth is above the rounding of 32 bits and below what a batch of a thousand does to its statistics",
    )
    momentum_low: float = limit(
        1e-3,
        key="extreme-momentum.low",
        meaning="momentum below this",
        source="arithmetic: the initial values keep one per cent for 4,600 updates",
        high=1.0,
    )
    momentum_high: float = limit(
        0.5,
        key="extreme-momentum.high",
        meaning="momentum above this",
        source="arithmetic: the last batch weighs more than all before it; 0.9 and 0.99 are the other convention, in "
        "which momentum is the weight of the past",
        high=1.0,
    )


@rule(code="BN101", name="train-mode-in-evaluation", severities=(Severity.ERROR,))
def train_mode_in_evaluation(measured: "WrongMode", limits: Limits) -> Verdict:
    """Batch norm normalises by the batch while the model is evaluated.

    ## What it means
    In training mode a batch norm uses the mean and variance of the batch, and moves its running statistics. In
    evaluation it has to use the running statistics. The finding names the modules, the evaluation, and where the mode
    flipped: before the first batch (a mode hook of the module is overridden, or a hook or callback calls ``train()``),
    inside the step, or not at all: then the module is not registered, or a call has ``training=True`` written out.

    ## Why it matters
    The prediction for a sample depends on what else is in its batch, so the metric depends on batch size and order,
    and is often too good (sorted classes) or too bad (small batches). What is learned from validation data goes into
    the model: its running statistics move.

    ## What to do
    Remove the ``train()`` call; Lightning has put the model in evaluation mode and restores it. Keep modules in
    ``nn.ModuleList`` and ``nn.ModuleDict``, not in lists and dicts. Pass ``training=self.training`` to functions.
    ``BatchNormGuard(fix=True)`` puts modules into the right mode meanwhile.

    ## When it is wrong
    Test-time adaptation moves statistics on purpose. So does an evaluation that recomputes them from data inside of
    ``validation_step``: do that in ``on_validation_start``.
    """
    del limits
    was = "were" if len(measured.layers) > 1 else "was"
    moved = "; the running statistics moved" if measured.moved else ""
    if measured.cause == "hard-coded":
        says = f" at {measured.source}" if measured.source else ""
        text = f"{_names(measured)} normalised by the batch in the {measured.stage}: the call{says} asks for training"
    elif measured.cause == "values":
        text = f"The running statistics of {_names(measured)} moved in the {measured.stage}, in evaluation mode"
        moved = ""
    else:
        text = f"{_names(measured)} {was} in training mode in the {measured.stage}{_place(measured)}"
    message = f"{text}{moved}.{_mended(measured)}"
    return Diagnosis(Severity.ERROR, measured.where, measured.step, message, _mode_remedy(measured), _of_mode(measured))


@rule(code="BN102", name="eval-mode-in-training", severities=(Severity.WARNING,))
def eval_mode_in_training(measured: "WrongMode", limits: Limits) -> Verdict:
    """Modules that were in training mode when training began are in evaluation mode while it goes on.

    ## What it means
    Batch norm does not update its running statistics and does not use those of the batch, or dropout is off, since a
    step of the run on. The usual cause is an ``eval()`` without a ``train()`` after it: Lightning calls ``train()``
    neither at the start nor in an epoch.

    ## Why it matters
    The network trains as another network: without the regularisation that was asked for, and with statistics that no
    longer follow the weights.

    ## What to do
    Call ``train()`` where the other work is done, or leave the modes to Lightning. ``BatchNormGuard(fix=True)`` puts
    modules back at the start of the next batch.

    ## When it is wrong
    What is in evaluation mode at the first training batch, and what has no parameter that requires a gradient, counts
    as frozen on purpose and is not accused. Batch norm that is frozen later, while its weight and bias still learn, is
    told from a mistake by its owner only: freeze the weights too, or ignore the finding for these modules.
    """
    if measured.batches < limits.batches and not measured.mended:
        return TooEarly(measured.batches, limits.batches, "batches")
    was = "are" if len(measured.layers) > 1 else "is"
    evidence = {"batches": measured.batches, "eval-mode-in-training.batches": limits.batches, **_of_mode(measured)}
    since = "" if measured.mended else f", for {measured.batches} batches now"
    message = f"{_names(measured)} {was} in evaluation mode in training{_place(measured)}{since}.{_mended(measured)}"
    remedy = (
        "call self.train() after what needs self.eval(), or freeze weight and bias too if that is meant."
        if measured.cause != "inside"
        else f"remove the eval() call from {measured.step_name}, or call train() after it."
    )
    return Diagnosis(Severity.WARNING, measured.where, measured.step, message, remedy, evidence)


@rule(code="BN103", name="frozen-but-drifting", severities=(Severity.INFO, Severity.WARNING))
def frozen_but_drifting(measured: "Drift", limits: Limits) -> Verdict:
    """The weights of a batch norm are frozen, and its running statistics move all the same.

    ## What it means
    ``requires_grad = False`` stops the weights. Running statistics are buffers: they move with every forward pass in
    training mode, and the batch's own are used.

    ## Why it matters
    A backbone that is meant to stay as it was becomes another one; its features in evaluation are not those that the
    head was trained on, and a saved backbone is not the one that was loaded.

    ## What to do
    Put the norms into evaluation mode too, after every ``train()``: ``for m in backbone.modules(): if isinstance(m,
    nn.modules.batchnorm._BatchNorm): m.eval()``. Lightning's ``BaseFinetuning.freeze(backbone, train_bn=False)`` does
    what is needed.

    ## When it is wrong
    Adapting statistics to new data with frozen weights (AdaBN) is a method of its own. A teacher whose weights follow
    a student's is not accused: its weights move. If the layer before the norm learns, the norm's own weights are all
    that is frozen, as in ``affine=False``, which harms nothing: a note.
    """
    if measured.looks < limits.looks:
        return TooEarly(measured.looks, limits.looks, "looks")
    have, their = ("have", "their") if len(measured.layers) > 1 else ("has", "its")
    message = (
        f"{_names(measured)} {have} frozen weights, and {their} running statistics move: the means by "
        f"{measured.shift:.2g} standard deviations so far."
    )
    remedy = "call eval() on these norms as well, after every train(); or BaseFinetuning.freeze(..., train_bn=False)."
    evidence: dict[str, Plain] = {
        "looks": measured.looks,
        "frozen-but-drifting.looks": limits.looks,
        "mean_shift": _number(measured.shift),
        **_listed(measured.layers),
    }
    severity = Severity.INFO if measured.alone else Severity.WARNING
    return Diagnosis(severity, measured.where, measured.step, message, remedy, evidence)


@rule(code="BN104", name="statistics-mismatch", severities=(Severity.WARNING,))
def statistics_mismatch(measured: "LayerStatistics", limits: Limits) -> Verdict:
    """The running statistics of a batch norm are far from those of the data that it is evaluated on.

    ## What it means
    In evaluation a batch norm subtracts the running mean and divides by the running standard deviation. What comes in
    at validation has another mean, or another variance, in most of its channels.

    ## Why it matters
    The layers behind it get inputs that they never saw in training; the validation metric is that of another network.

    ## What to do
    It depends on the cause, which the message names where it can be told. Averaged weights (SWA, EMA) need statistics
    of their own: ``torch.optim.swa_utils.update_bn``, or averaged buffers. A very small ``momentum`` never arrives. If
    training batches agree with the running statistics and validation batches do not, the inputs are prepared in two
    ways: compare normalisation, scaling and channel order. If neither agree, the weights move faster than the
    statistics: a lower learning rate, larger batches, or statistics recomputed before validation.

    ## When it is wrong
    A validation set from another domain is another domain, and so are the first few batches of one that is sorted by
    class (``limit_val_batches``). Norms that were in evaluation mode in training are not
    judged: the network was trained with these very statistics. The first updates of a run are not either, and what
    the values at its start still weigh later is taken out: it matters where variances are small.
    """
    shift, ratio = measured.mean_shift, measured.log_variance_ratio
    if shift is None or ratio is None or not (measured.trained or measured.averaged):
        return None
    if measured.samples < limits.samples:
        return TooEarly(measured.samples, limits.samples, "validation rows")
    needed = _settles_after(measured, limits)
    updates = _updates(measured)
    if updates < needed and not (measured.averaged and (measured.stale or not updates)):
        return TooEarly(updates, needed, "updates")
    if not _is_off(shift, ratio, limits) or is_settling(measured, limits):
        return None
    of = f" of {_some(measured.layers)}" if len(measured.layers) > 1 else ""
    message = (
        f"The running statistics{of} do not fit the validation data: its mean is {shift:.2g} standard deviations away "
        f"and its variance {_times(ratio)} (medians over channels). {_mismatch_cause(measured, limits)}"
    ).strip()
    evidence: dict[str, Plain] = {
        "mean_shift": _number(shift),
        "statistics-mismatch.shift": limits.shift,
        "log_variance_ratio": _number(ratio),
        "statistics-mismatch.log_ratio": limits.log_ratio,
        "validation_rows": measured.samples,
        "updates": measured.updates,
        "momentum": measured.momentum,
        "train_mean_shift": None if measured.train_mean_shift is None else _number(measured.train_mean_shift),
        "train_log_variance_ratio": None
        if measured.train_log_variance_ratio is None
        else _number(measured.train_log_variance_ratio),
    }
    remedy = _mismatch_remedy(measured, limits)
    evidence |= _listed(measured.layers)
    where = measured.where or measured.layer
    return Diagnosis(Severity.WARNING, where, measured.step, message, remedy, evidence)


@rule(code="BN105", name="tiny-batch", severities=(Severity.INFO, Severity.WARNING))
def tiny_batch(measured: "SmallBatch", limits: Limits) -> Verdict:
    """Batch norm computes its statistics from very few samples.

    ## What it means
    Per process (batch norm does not look at other processes) a training batch has this many rows. Accumulating
    gradients does not change it.

    ## Why it matters
    The statistics of so few samples are noise. Training goes on with it, since each batch is normalised by its own;
    validation uses the average of that noise. Wu & He (2018) measured with ResNet-50 on ImageNet 23.6 % errors with 32
    images a GPU, 24.8 % with 8, 27.3 % with 4 and 34.7 % with 2.

    ## What to do
    Larger batches per process, ``SyncBatchNorm`` over processes (``Trainer(sync_batchnorm=True)``), group norm or layer
    norm in its place, or frozen batch norm when fine-tuning. If only the last batch of the epoch is small:
    ``drop_last=True``.

    ## When it is wrong
    One small batch at the end of an epoch is a note. Rows are counted along the first axis: a few long sequences, or
    large images, make more values than rows, which makes variance within a sample exact and that between samples not.
    """
    smallest, usual = measured.smallest * measured.synchronized, measured.usual * measured.synchronized
    if smallest > limits.rows:
        return None
    if measured.looks < limits.small_looks:
        return TooEarly(measured.looks, limits.small_looks, "looks")
    often = usual <= limits.rows
    rows = f"{usual:g}" if often else f"{smallest}"
    compute = "compute" if len(measured.layers) > 1 else "computes"
    which = "a usual training batch has" if often else "the smallest training batch had"
    message = f"{_names(measured)} {compute} statistics from few samples: {which} {rows} row{'s' * (rows != '1')}."
    evidence: dict[str, Plain] = {
        "median_rows": usual,
        "tiny-batch.rows": limits.rows,
        "smallest_rows": smallest,
        "looks": measured.looks,
        **_listed(measured.layers),
    }
    remedy = (
        "larger batches per process, SyncBatchNorm over processes, or group norm in place of batch norm."
        if often
        else "drop the last, incomplete batch: DataLoader(drop_last=True)."
    )
    severity = Severity.WARNING if often else Severity.INFO
    return Diagnosis(severity, measured.where, measured.step, message, remedy, evidence)


@rule(code="BN106", name="ranks-differ", severities=(Severity.INFO, Severity.WARNING))
def ranks_differ(measured: "RankDifference", limits: Limits) -> Verdict:
    """The running statistics are not the same in all processes while they evaluate.

    ## What it means
    Each process has updated its own, and nothing has made them equal before the evaluation. By default
    ``DistributedDataParallel`` broadcasts the buffers of rank zero before a forward pass; not so with
    ``broadcast_buffers=False``, and not in Lightning's manual optimisation, which leaves DDP no occasion.

    ## Why it matters
    The processes evaluate different networks, and the metric is an average over them. The checkpoint has the
    statistics of rank zero, so it scores otherwise when it is loaded.

    ## What to do
    ``Trainer(sync_batchnorm=True)``, which computes them together; or leave DDP's broadcast of buffers on, with
    automatic optimisation; or average the buffers before validation.

    ## When it is wrong
    Statistics that are local on purpose (domains split over processes, federated training) differ by design. Small
    differences, as batches of one data set make them, are a note.
    """
    severity = Severity.WARNING if measured.shift > limits.ranks_shift else Severity.INFO
    message = (
        f"The running statistics of {_names(measured)} differ between the {measured.ranks} processes in evaluation, by "
        f"{measured.shift:.2g} standard deviations."
    )
    remedy = "Trainer(sync_batchnorm=True), or DDP's own broadcast of buffers, which needs automatic optimisation."
    evidence: dict[str, Plain] = {
        "largest_difference": _number(measured.shift),
        "ranks-differ.shift": limits.ranks_shift,
        "processes": measured.ranks,
        **_listed(measured.layers),
    }
    return Diagnosis(severity, measured.where, measured.step, message, remedy, evidence)


@rule(code="BN107", name="batch-dependent-prediction", severities=(Severity.INFO, Severity.WARNING))
def batch_dependent_prediction(measured: "Dependence", limits: Limits) -> Verdict:
    """In evaluation, the prediction for a sample depends on the other samples of its batch, or on its place in it.

    ## What it means
    The calls of modules in a step of the evaluation were made again on up to 31 samples of a batch, with half of them
    replaced by others, and what came out for the samples that stayed was compared. It changed. The finding names the
    first module whose output changed while what goes into it did not; ``self`` is code in the ``forward`` of the
    LightningModule.

    ## Why it matters
    The metric depends on batch size, order and the company a sample is in; a model that serves one request at a time
    predicts otherwise.

    ## What to do
    If batch norm is in training mode, that is a finding of its own. Otherwise look in the module named for
    statistics over axis 0 (``x.mean(0)``, ``softmax(dim=0)``), for a ``view`` or ``reshape`` that moves values between
    samples where ``transpose`` is meant, and for recurrent layers and attention without ``batch_first=True``.

    ## When it is wrong
    Models that compare the samples of a batch by design (attention between samples) do depend on it. So do
    ``BatchNorm(track_running_stats=False)``, which makes it a note, and 8-bit dynamic quantisation, a little.
    """
    if measured.change <= limits.change:
        return None
    known = ("batch_norm",)
    designed = bool(measured.designed) and (measured.where in measured.designed or measured.where.endswith(known))
    on, done = "the other samples of its batch", "others replaced"
    if measured.cause == "place":
        on, done = "its place in the batch", "all moved on by one place"
    message = (
        f"In the {measured.stage} the prediction for a sample depends on {on}: with {done}, the output of "
        f"{_some(measured.outputs)} changes by {_percent(measured.change)} of its spread. It begins in "
        f"{'code of the LightningModule itself' if measured.where == 'self' else measured.where}."
    )
    remedy = "look there for statistics over axis 0, a reshape that mixes samples, or a layer without batch_first=True."
    if designed:
        remedy = "it has no running statistics: track_running_stats=True if predictions should not depend on the batch."
    elif measured.wrong:
        remedy = f"first mend train-mode-in-evaluation at {_some(measured.wrong)}, which does this."
    evidence: dict[str, Plain] = {
        "change": _number(measured.change),
        "batch-dependent-prediction.change": limits.change,
        "stage": measured.stage,
        "samples": measured.samples,
        "outputs": ", ".join(measured.outputs),
    }
    severity = Severity.INFO if designed else Severity.WARNING
    return Diagnosis(severity, measured.where, measured.step, message, remedy, evidence)


@rule(code="BN108", name="dropout-in-evaluation", severities=(Severity.INFO, Severity.WARNING))
def dropout_in_evaluation(measured: "WrongMode", limits: Limits) -> Verdict:
    """Dropout is active while the model is evaluated.

    ## What it means
    A dropout module is in training mode, or a function draws noise because ``training`` is True: that is the default of
    ``F.dropout``, and ``F.scaled_dot_product_attention(dropout_p=...)`` does not know a mode at all.

    ## Why it matters
    Metrics are noisy and too low, and two evaluations of one model differ.

    ## What to do
    Remove the ``train()`` call, register the module, or pass ``training=self.training`` (and ``dropout_p=p if
    self.training else 0.0``).

    ## When it is wrong
    Monte Carlo dropout draws on purpose. While predicting it is a note; in a validation or test, ignore the finding.
    """
    del limits
    severity = Severity.INFO if measured.stage == "prediction" else Severity.WARNING
    be = "were" if len(measured.layers) > 1 else "was"
    if measured.cause == "hard-coded":
        line = f" at {measured.source}" if measured.source else ""
        message = f"{_names(measured)} drew noise in the {measured.stage}: the call{line} has it on, whatever the mode."
        remedy = _function_remedy(measured.kind)
    else:
        message = f"{_names(measured)} {be} active in the {measured.stage}{_place(measured)}.{_mended(measured)}"
        remedy = _mode_remedy(measured)
    return Diagnosis(severity, measured.where, measured.step, message, remedy, _of_mode(measured))


@rule(code="BN801", name="reused-norm", severities=(Severity.INFO,))
def reused_norm(measured: "Reuse", limits: Limits) -> Verdict:
    """One batch norm is called more than once in a training step.

    ## What it means
    Its running statistics are an average over all that goes through it: over both views, real and generated images,
    or time steps.

    ## Why it matters
    If these differ, the average fits none of them, and evaluation normalises all by the wrong statistics.

    ## What to do
    Nothing where it is meant: SimSiam, the discriminator of a GAN and weight sharing do it by design. Otherwise a norm
    for each use.

    ## When it is wrong
    It is a note, and accuses nobody.
    """
    del limits
    if measured.calls < 2:
        return None
    is_called = "are called" if len(measured.layers) > 1 else "is called"
    message = (
        f"{_names(measured)} {is_called} {measured.calls} times in a training step, with one set of running statistics."
    )
    remedy = "nothing where it is meant; else a norm for each use."
    return Diagnosis(Severity.INFO, measured.where, measured.step, message, remedy, {"calls": measured.calls})


@rule(code="BN802", name="batch-statistics-in-evaluation", severities=(Severity.INFO,))
def batch_statistics_in_evaluation(measured: "Design", limits: Limits) -> Verdict:
    """A batch norm has no running statistics, so it normalises by the batch in evaluation too.

    ## What it means
    It was made with ``track_running_stats=False``, or is a call of ``F.batch_norm`` without statistics.

    ## Why it matters
    Predictions depend on what else is in the batch, and a batch of one gives zeros or an error.

    ## What to do
    ``track_running_stats=True``; or instance norm or group norm, which normalise each sample by itself.

    ## When it is wrong
    Some image translation networks want it so. Instance norm is not noted.
    """
    del limits
    at = f" at {measured.source}" if measured.source else ""
    has, normalises = ("have", "normalise") if len(measured.layers) > 1 else ("has", "normalises")
    message = (
        f"{_names(measured)}{at} {has} no running statistics and {normalises} by the batch in the {measured.stage}."
    )
    remedy = "track_running_stats=True, or instance or group norm, if predictions should not depend on the batch."
    return Diagnosis(Severity.INFO, measured.where, measured.step, message, remedy)


@rule(code="BN803", name="extreme-momentum", severities=(Severity.INFO,))
def extreme_momentum(measured: "Momentum", limits: Limits) -> Verdict:
    """The momentum of a batch norm is so large, or so small, that its running statistics are no average of the run.

    ## What it means
    In PyTorch ``momentum`` is the weight of the *new* batch (default 0.1); in other libraries it is that of the past
    (0.9, 0.99).

    ## Why it matters
    With 0.9 the running statistics are those of the last batch, and validation is as noisy as one batch. With 0.0001
    they are still the initial values after a thousand batches.

    ## What to do
    Use one minus the value, if it came from another library.

    ## When it is wrong
    Very long runs with large models use small values on purpose. It is a note.
    """
    if limits.momentum_low <= measured.momentum <= limits.momentum_high:
        return None
    names = _names(measured)
    if measured.momentum > limits.momentum_high:
        message = f"{names}: momentum={measured.momentum:g} gives the last batch that weight in running statistics."
    else:
        left = (1 - measured.momentum) ** measured.updates
        said = f"after {measured.updates} updates the initial values weigh {left:.0%}"
        message = f"{names}: momentum={measured.momentum:g}, {said}."
    remedy = "use a larger momentum (0.1 is the default): it is the weight of the new batch."
    if measured.momentum > limits.momentum_high:
        remedy = f"momentum is the weight of the new batch: {1 - measured.momentum:g}, if it came from another library."
    evidence: dict[str, Plain] = {"momentum": measured.momentum, "updates": measured.updates}
    return Diagnosis(Severity.INFO, measured.where, measured.step, message, remedy, evidence)


@rule(code="BN901", name="unwatched-modes", severities=(Severity.INFO,))
def unwatched_modes(measured: object, limits: Limits) -> Verdict:
    """Something about modes, statistics or predictions could not be seen, so nothing can be said about it.

    ## What it means
    Calls inside compiled and scripted code are not seen from outside; there modes and running statistics are compared
    at the start and the end of batches. A batch whose samples cannot be told apart cannot be tried with other samples.

    ## Why it matters
    Silence about what was not watched is not a clean bill of health.

    ## What to do
    What the message says; nothing, where these parts are known to be well.

    ## When it is wrong
    It is a note, and accuses nobody.
    """
    del measured, limits
    return None  # a note that the callback makes itself


RULES = (
    train_mode_in_evaluation,
    eval_mode_in_training,
    frozen_but_drifting,
    statistics_mismatch,
    tiny_batch,
    ranks_differ,
    batch_dependent_prediction,
    dropout_in_evaluation,
    reused_norm,
    batch_statistics_in_evaluation,
    extreme_momentum,
    unwatched_modes,
)


# Words.


def _names(measured: "WrongMode | Drift | SmallBatch | RankDifference | Reuse | Design | Momentum") -> str:
    """The modules of a finding, as the beginning of a sentence."""
    layers, kind = measured.layers, getattr(measured, "kind", "")
    if len(layers) == 1:
        return f"{layers[0]} ({kind})" if kind else layers[0]
    return _some(layers)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _listed(layers: Sequence[str]) -> dict[str, Plain]:
    return {"modules": len(layers), "names": ", ".join(layers)} if len(layers) > 1 else {}


def _place(measured: "WrongMode") -> str:
    return f": {measured.place}" if measured.place else ""


def _mended(measured: "WrongMode") -> str:
    return " fix=True has put it right for this stage." if measured.mended else ""


def _of_mode(measured: "WrongMode") -> dict[str, Plain]:
    found: dict[str, Plain] = {"stage": measured.stage, "batch": measured.batch, **_listed(measured.layers)}
    for name in ("place", "source"):
        if getattr(measured, name):
            found[name] = getattr(measured, name)
    if measured.moved:
        found["running_statistics_moved"] = True
    if measured.mended:
        found["mended"] = True
    return found


def _mode_remedy(measured: "WrongMode") -> str:
    """What to do about a mode in evaluation, by its cause."""
    step, hook = measured.step_name, measured.step_name.removesuffix("_step")
    return {
        "inside": f"remove the train() call from {step}: Lightning puts the model in evaluation mode and restores it.",
        "hook": f"have on_{hook}_model_eval call self.eval(), or remove your own version of it.",
        "before": f"look for train() in on_{hook}_start, on_{hook}_epoch_start and callbacks, and remove it.",
        "between": f"look for train() in on_{hook}_batch_start, on_{hook}_batch_end and callbacks, and remove it.",
        "unregistered": "register the module: nn.ModuleList and nn.ModuleDict in place of lists and dicts, so that "
        "eval() reaches it.",
        "hard-coded": "pass training=self.training in place of training=True.",
        "values": "look for train() and eval() around a call, for F.batch_norm(training=True), or for code that writes "
        "to these buffers in the step.",
    }.get(measured.cause, f"look for train() in {step} and in what it calls, and remove it.")


def _function_remedy(function: str) -> str:
    if "attention" in function:
        return "pass dropout_p=p if self.training else 0.0."
    return (
        f"pass training=self.training: {function} draws by default, or is told to."
        if function == "dropout"
        else ("pass training=self.training.")
    )


def _settles_after(measured: "LayerStatistics", limits: Limits) -> int:
    """Updates after which the initial values do not matter any more, or a verdict is made all the same."""
    momentum = measured.momentum
    if momentum is None and measured.updates is None:  # a norm of the user's own, of which nothing is known
        momentum = 0.1
    if momentum is None or momentum >= 1:  # a cumulative average; the last batch
        return 1
    if momentum <= 0:
        return limits.patience
    return min(limits.patience, math.ceil(math.log(limits.settled) / math.log(1 - momentum)))


def is_settling(measured: "LayerStatistics", limits: Limits) -> bool:
    """Whether a norm is off by no more than what the values at the start of the run still weigh, which is little."""
    if measured.mean_shift is None or measured.log_variance_ratio is None or not _arrived(measured, limits):
        return False
    shift, ratio = measured.mean_shift, measured.log_variance_ratio
    if measured.settled_shift is None or measured.settled_ratio is None or not _is_off(shift, ratio, limits):
        return False
    return not _is_off(min(shift, measured.settled_shift), min(ratio, measured.settled_ratio), limits)


def _is_off(shift: float, ratio: float, limits: Limits) -> bool:
    return shift > limits.shift or ratio > limits.log_ratio  # NaN, of a network that has diverged, is neither


def _updates(measured: "LayerStatistics") -> int:
    """How many updates there were in this run, as far as they are counted."""
    counts = (measured.since, measured.updates, measured.step)
    return next(count for count in counts if count is not None)


def _agrees(measured: "LayerStatistics", limits: Limits) -> bool | None:
    """Whether training batches agree with the running statistics; None if that was not seen."""
    shift, ratio = measured.train_mean_shift, measured.train_log_variance_ratio
    if shift is None or ratio is None:
        return None
    return shift <= limits.shift / 2 and ratio <= limits.log_ratio / 2


def _arrived(measured: "LayerStatistics", limits: Limits) -> bool:
    """Whether the updates so far have outweighed the initial values."""
    if measured.momentum is None or measured.updates is None:
        return True
    updates = _updates(measured)
    return updates >= 1 and (1 - min(measured.momentum, 1.0)) ** updates <= limits.settled


def _mismatch_cause(measured: "LayerStatistics", limits: Limits) -> str:
    if measured.averaged:
        never = "never moved in this run" if measured.stale else "were not computed with them"
        return f"Its weights are an average of others, and its running statistics {never}."
    if not _arrived(measured, limits):
        left = (1 - (measured.momentum or 0.0)) ** _updates(measured)
        return f"With momentum={measured.momentum:g} the initial values still weigh {left:.0%}."
    agrees = _agrees(measured, limits)
    if agrees:
        return "They do fit the training data."
    return "They do not fit the training data either." if agrees is False else ""


def _mismatch_remedy(measured: "LayerStatistics", limits: Limits) -> str:
    if measured.averaged:
        return (
            "give averaged weights their own statistics: torch.optim.swa_utils.update_bn(loader, model), or average "
            "the buffers too (use_buffers=True)."
        )
    if not _arrived(measured, limits):
        return "use a larger momentum (0.1 is the default): it is the weight of the new batch."
    if _agrees(measured, limits):
        return (
            "(a) prepare validation inputs as training inputs are (normalisation, scaling, channel order); or (b) if "
            "averaged weights are evaluated, recompute the statistics for them (swa_utils.update_bn); or (c) validate "
            "on more than a few batches of a sorted data set."
        )
    return "a lower learning rate, larger batches, or statistics recomputed before validation (swa_utils.update_bn)."


def _times(log_ratio: float) -> str:
    return f"{math.exp(min(log_ratio, 50.0)):.3g} times as large or as small"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"


def _number(value: float) -> Plain:
    return float(f"{value:.3g}") if math.isfinite(value) else None
