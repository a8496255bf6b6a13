"""From what was seen to plain numbers: what is drawn of an optimizer and of a layer, and what the rules judge."""

from dataclasses import dataclass

from lightning_diagnostics.diagnostics.gradients.looking import Picture
from lightning_diagnostics.tensorboard import Histogram, Image, quantity


@dataclass(frozen=True)
class OptimizerGradients:
    """What is drawn of the gradients of one optimizer, and what its notes judge.

    All norms are L2, of gradients that are unscaled, averaged over ranks, and of whole (unsharded) parameters; each is
    of one optimizer step, never of a part of an accumulation.

    Attributes:
        layer: The optimizer: its class, with a number from the second of that class on, as ``LearningRateMonitor`` has
            it.
        step: The last step that is in these numbers, on the axis of ``self.log``.
        since: The first step in the window.
        window: Steps that a full window has.
        values: Finite norms in the window.
        judged: Steps in the window of which it is known whether they were clipped.
        median_factor: The median of the clip factors in the window.
        first_mean: The mean norm over the first window of the run; None before it was full.
        first_loss: The mean loss over that window; None where losses are not seen.
        loss: The mean loss over the window.
        earlier_loss: The mean loss over the window before this one.
        zero_steps: Steps in the window whose gradient was exactly zero.
    """

    layer: str
    step: int
    since: int
    window: int
    values: int
    judged: int
    median_factor: float | None
    first_mean: float | None
    first_loss: float | None
    loss: float | None
    earlier_loss: float | None
    zero_steps: int
    norm: float | None = quantity(
        tag="gradients/norm/{layer}",
        unit="L2 norm",
        how="norm of all gradients of the optimizer at this step, before clipping, unscaled, after the reduction over "
        "ranks; of LBFGS at its first evaluation; none where backward passes are not run by Lightning",
        chart="gradient norm",
    )
    norm_after: float | None = quantity(
        tag="gradients/norm_after_clipping/{layer}",
        unit="L2 norm",
        how="the same of the gradients that the optimizer was given, measured after clipping; none for a step that "
        "evaluates the loss several times (LBFGS) or was skipped",
        chart="gradient norm",
    )
    mean: float | None = quantity(
        tag="gradients/norm_mean/{layer}",
        unit="L2 norm",
        how="mean of the norm over the last `window` optimizer steps (before clipping; as the optimizer got it where "
        "that is not seen), from ten steps on; steps whose norm is not finite are left out",
        chart="gradient norm",
        band=("lower", "upper"),
    )
    lower: float | None = quantity(
        tag="gradients/norm_band_low/{layer}", unit="L2 norm", how="norm_mean less one standard deviation, or 0"
    )
    upper: float | None = quantity(
        tag="gradients/norm_band_high/{layer}", unit="L2 norm", how="norm_mean and one standard deviation"
    )
    variance: float | None = quantity(
        tag="gradients/norm_variance/{layer}",
        unit="squared L2 norm",
        how="sample variance (n - 1) of the norm over the window, from ten steps on; the variance of a number, not of "
        "the gradient",
        chart="gradient-norm variance",
    )
    cv: float | None = quantity(
        tag="gradients/norm_cv/{layer}",
        unit="share",
        how="coefficient of variation: standard deviation over mean, over the window, from ten steps on",
        chart="coefficient of variation of the gradient norm",
    )
    average: float | None = quantity(
        tag="gradients/norm_average/{layer}",
        unit="L2 norm",
        how="exponential average of the norm, decay 1 - 2 / (window + 1), seeded with the first (West 1979, Finch "
        "2009)",
    )
    average_variance: float | None = quantity(
        tag="gradients/norm_average_variance/{layer}",
        unit="squared L2 norm",
        how="variance around that average, weighted alike, from ten steps on",
        chart="gradient-norm variance",
    )
    largest: float | None = quantity(
        tag="gradients/norm_largest/{layer}",
        unit="L2 norm",
        how="the largest norm of the steps since the last look that was drawn",
    )
    clipped_share: float | None = quantity(
        tag="gradients/clipped_share/{layer}",
        unit="share of steps",
        how="steps of the window whose norm after clipping was below 0.99999 of that before, over those where both are "
        "known",
        chart="clipped and skipped steps",
    )
    clip_factor: float | None = quantity(
        tag="gradients/clip_factor/{layer}",
        unit="share",
        how="norm after clipping over norm before, at this step; 1 if it was not clipped",
        chart="clip factor",
    )
    skipped_share: float | None = quantity(
        tag="gradients/skipped_share/{layer}",
        unit="share of steps",
        how="steps of the window that the gradient scaler skipped, over all; none without a scaler",
        chart="clipped and skipped steps",
    )
    zero_share: float | None = quantity(
        tag="gradients/zero_share/{layer}",
        unit="share of gradients",
        how="elements of the gradients of this step that are exactly zero, over all (rows that a sparse gradient "
        "leaves out are zeros)",
        chart="zero gradients",
    )
    noise_scale: float | None = quantity(
        tag="gradients/noise_scale/{layer}",
        unit="samples",
        how="simple noise scale (McCandlish et al. 2018, appendix A.1): exponential averages (decay 0.99) of noise and "
        "signal, from the first of the accumulated micro-batches (or from the ranks, at looks) and the whole batch; "
        "none where there is neither, before ten such steps, or where signal or noise come out negative",
        chart="gradient noise scale",
    )
    rate: float | None = quantity(
        tag="gradients/learning_rate/{layer}",
        unit="learning rate",
        how="the largest learning rate of the optimizer's groups at this step",
        chart="learning rate",
    )

    @property
    def full(self) -> bool:
        """Whether it rests on a full window."""
        return self.judged >= self.window


@dataclass(frozen=True)
class LayerGradients:
    """What is drawn of one layer: the parameters of one module.

    Attributes:
        layer: The path of the module.
    """

    layer: str
    norm: float | None = quantity(
        tag="gradients/layer_norm/{layer}",
        unit="L2 norm",
        how="norm of the gradients of the layer's own parameters at this step, unscaled, after the reduction over "
        "ranks, before clipping (as the optimizer got them where that is not seen)",
        chart="gradient norm by layer",
    )
    zero_share: float | None = quantity(
        tag="gradients/layer_zero_share/{layer}",
        unit="share of gradients",
        how="elements of those gradients that are exactly zero",
    )
    update_ratio: float | None = quantity(
        tag="gradients/update_ratio/{layer}",
        unit="share of the weights",
        how="norm of the layer's weights after the step less those before, over the norm before: decay, momentum and "
        "learning rate included; weights of two dimensions or more with a norm above 1e-8 (healthy runs are near "
        "1e-3); of a weight of more than 16 million elements, of evenly spread rows",
        chart="update ratio by layer",
    )
    half_ulp: float | None = quantity(
        tag="gradients/update_half_ulp/{layer}",
        unit="share of the weights",
        how="half of the spacing of the weights' type, relative: an update below it is lost to rounding; of weights "
        "with fewer than 32 bits",
        chart="update ratio by layer",
    )
    gradients: Histogram | None = quantity(
        tag="gradients/histogram/{layer}",
        unit="gradient",
        how="gradients of the layer's largest parameter, unscaled, before clipping (in manual optimisation as the "
        "optimizer got them): at most 4,096, evenly spread, in 64 buckets up to a power of two",
    )
    weights: Histogram | None = quantity(
        tag="gradients/weights_histogram/{layer}",
        unit="weight",
        how="that parameter before the step: at most 4,096 weights, evenly spread, in 64 buckets up to a power of two",
    )


@dataclass(frozen=True)
class Filters:
    """The first convolution, to be looked at.

    Attributes:
        layer: Its path.
    """

    layer: str
    picture: Image | None = quantity(
        tag="gradients/filters/{layer}",
        unit="weight",
        how="filters of the first convolution at the end of the epoch, each stretched to its own range; at most 64; in "
        "colour where it has three input channels, else a tile for each channel",
    )


def picture(drawn: Picture | None) -> Histogram | None:
    """A histogram as it is drawn."""
    if drawn is None:
        return None
    end, buckets = 2.0**drawn.exponent, len(drawn.counts)
    edges = tuple(end * (2 * index / buckets - 1) for index in range(buckets + 1))
    return Histogram(edges, drawn.counts, drawn.low, drawn.high, drawn.total, drawn.squares)


# What the rules judge.


@dataclass(frozen=True)
class NonFinite:
    """An optimizer step with a gradient that is not finite.

    Attributes:
        optimizer: Its name.
        step: On the axis of ``self.log``.
        where: The first parameter that the backward pass reached with such a gradient; None if that is not known (the
            finding is at the optimizer then).
        broken: How many parameters have such a gradient.
        parameters: How many have any.
        loss: The loss of that step; None if it was not seen.
        before: The last step at which all gradients were finite; None if there was none.
        clipping: The norm before clipping was finite, and that after was not.
    """

    optimizer: str
    step: int
    where: str | None
    broken: int
    parameters: int
    loss: float | None
    before: int | None
    clipping: bool


@dataclass(frozen=True)
class Untrained:
    """Parameters that do not learn.

    Attributes:
        where: The outermost module all of whose parameters these are, or the parameter.
        parameters: Their names.
        elements: How many weights they are.
        optimizer: The optimizer that has them; None if none has.
        batches: Training batches that this rests on, of all ranks together.
        steps: Steps of that optimizer.
        since: The first step of the run.
    """

    where: str
    parameters: tuple[str, ...]
    elements: int
    optimizer: str | None
    batches: int
    steps: int
    since: int


@dataclass(frozen=True)
class Depth:
    """Gradients and updates by depth, over the last looks.

    Attributes:
        optimizer: That all of these weights are of.
        first: The name of the weight that is furthest from the loss.
        last: The name of the weight that is nearest to it.
        layers: How many weights lie between them, both counted.
        ratios: At each of the last looks, oldest first: the root mean square gradient of the first over that of the
            last.
        updates: The update ratio of the first at those looks, over the median of all or that of the last, whichever is
            larger: where all layers but a few vanish, the median does, too. The last counts only if its weights are not
            far smaller than the median ones: a head that began at zero moves fast for its size.
        since: The first of those looks.
        middles: At those looks, the root mean square gradient of the median weight over that of the last.
    """

    optimizer: str
    first: str
    last: str
    layers: int
    ratios: tuple[float, ...]
    updates: tuple[float, ...]
    since: int
    middles: tuple[float, ...] = ()


@dataclass(frozen=True)
class Excursions:
    """Steps at which the gradient was far above its own past, and the loss rose above its own.

    Attributes:
        optimizer: Its name.
        steps: Those of the last window.
        largest: The largest norm of them.
        median: The median norm of the window before it.
        loss: The loss at that step, or after it.
        earlier_loss: The largest loss of the window before it; for a surge of the run up to it.
        surges: Of these, or before there was a past to count by, those after which the loss was at once far above all
            of the run; then the numbers are of the largest of them.
        clipped: Whether gradients of the window were clipped.
    """

    optimizer: str
    steps: tuple[int, ...]
    largest: float
    median: float
    loss: float
    earlier_loss: float
    surges: tuple[int, ...] = ()
    clipped: bool = False
