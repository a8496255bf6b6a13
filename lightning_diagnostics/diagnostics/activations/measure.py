"""From readings to plain numbers: what is drawn of a layer, and what its rules judge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_diagnostics.probes import Reading, Site
from lightning_diagnostics.statistics import Moments, merge_histograms
from lightning_diagnostics.tensorboard import Histogram, quantity


@dataclass(frozen=True)
class Layer:
    """What is known of a layer besides its numbers.

    Attributes:
        name: The module's path, or the calling module's path, a slash and the function.
        kind: The activation, as ``torch.nn.functional`` calls it.
        family: See `lightning_diagnostics.probes.Kind`.
        units: Features, or channels of a convolution.
        source: File and line of the call.
        follows: The module that the signal came through last; empty if unknown.
        functional: Whether it is a call, not a module.
        order: Its place in the forward pass.
        segment: How many norms came before it in the pass.
        trains: Whether gradients flow through it, from a loss.
        gate: Whether its output multiplies something.
        head: Whether it stands between the last weights and the loss; None if that could not be seen.
        leaves: Whether the next weights are in another part of the model.
    """

    name: str
    kind: str
    family: str
    units: int
    source: str
    follows: str
    functional: bool
    order: int
    segment: int
    trains: bool
    gate: bool
    head: bool | None
    leaves: bool = False

    @classmethod
    def of(cls, site: Site, units: int) -> "Layer":
        """What a site says of its layer."""
        kind = (site.kind.name, site.kind.family)
        trains = site.trains and site.reached is not False
        place = (site.source, site.follows, site.functional, site.order, site.segment)
        return cls(site.name, *kind, units, *place, trains, site.gate, site.head, site.leaves)

    @property
    def hidden(self) -> bool:
        """Whether it lies within the network: not a loss that is written with an activation, such as a hinge."""
        return not (self.functional and self.head)


@dataclass(eq=False)
class LayerReading:
    """What one look has read of a layer.

    Attributes:
        samples: Samples of the batch behind it (not positions: those of one sample depend on each other).
        positions: Values per unit.
        mean: Of each unit.
        squares: Sum of squared differences from it, of each unit.
        count: See `lightning_diagnostics.probes.Reading`.
        low: The smallest output.
        high: The largest output.
        histogram: Exponent and counts; None at a look without.
    """

    samples: int
    positions: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    count: NDArray[np.float64]
    low: float
    high: float
    histogram: tuple[int, Sequence[float]] | None

    def merge(self, other: "LayerReading", *, signed: bool) -> "LayerReading":
        """Both together, as if one process had seen the samples of both."""
        positions, mean, squares = _merged(
            Moments(self.positions, self.mean, self.squares), Moments(other.positions, other.mean, other.squares)
        )
        histogram = self.histogram or other.histogram
        if self.histogram is not None and other.histogram is not None:
            histogram = merge_histograms(self.histogram, other.histogram, signed=signed)
        return LayerReading(
            self.samples + other.samples,
            positions,
            mean,
            squares,
            self.count + other.count,
            float(np.minimum(self.low, other.low)),  # keeps NaN
            float(np.maximum(self.high, other.high)),
            histogram,
        )

    @property
    def finite(self) -> bool:
        """Whether no output was NaN or infinite."""
        return isfinite(self.low) and isfinite(self.high)


def _merged(one: Moments, other: Moments) -> tuple[int, Any, Any]:
    with np.errstate(all="ignore"):  # NaN and infinity are numbers to be shown
        both = one.merge(other)
    return both.count, both.mean, both.squares


def layer_reading(calls: Sequence[Reading], *, samples: int, signed: bool) -> LayerReading:
    """What the calls of one layer in one look come to."""
    whole = None
    for call in calls:
        histogram = None if call.histogram is None else (call.exponent, call.histogram.tolist())
        sums = (call.positions, call.mean, call.squares, call.count)
        part = LayerReading(0, *sums, call.low, call.high, histogram)
        whole = part if whole is None else whole.merge(part, signed=signed)
    assert whole is not None
    whole.samples = min(samples, whole.positions)
    return whole


@dataclass(frozen=True)
class Look:
    """What one look has read, of this rank or of all.

    Attributes:
        step: On the axis of ``self.log``.
        drawn: Whether it is to be drawn.
        readings: By layer.
    """

    step: int
    drawn: bool
    readings: Mapping[str, LayerReading]


@dataclass(frozen=True)
class LayerActivations:
    """What is drawn of a layer, and what its rules judge.

    Attributes:
        layer: Its name.
        about: What else is known of it.
        samples: Training samples that a unit called dead was silent on, at least.
        needed: As many as that takes in a layer of this width.
        looks: Looks at this layer so far.
        dead: How many units are dead.
        dead_units: The first of them.
        dead_at_first: The dead share over the first window; None before there was one.
        since: The steps from which on the dead units are silent, in rising order.
        shares: The dead share at earlier verdicts and now, oldest first.
        saturated_looks: For how many looks in a row the saturated share has been above the limit.
        saturated_since: The first step of those.
        saturated_least: The least saturated share at those.
    """

    layer: str
    about: Layer
    samples: int
    needed: int
    looks: int
    dead: int
    dead_units: tuple[int, ...]
    dead_at_first: float | None
    since: tuple[int, ...]
    shares: tuple[float, ...]
    saturated_looks: int
    saturated_since: int
    saturated_least: float
    dead_share: float | None = quantity(
        tag="activations/dead_share/{layer}",
        unit="share of units",
        chart="dead share by layer",
        how="units (features, or channels at all positions) that were off on every training sample of the window, over "
        "all units of the layer; off is: not positive (ReLU and its like), mean absolute output at most 0.025 of the "
        "layer's (GELU, SiLU, Mish, Hardswish; Sokar et al. 2023); the window is the last looks, as many as "
        "Šidák's bound needs; on several ranks dead on all of them",
    )
    zero_share: float | None = quantity(
        tag="activations/zero_share/{layer}",
        unit="share of outputs",
        chart="sparsity by layer",
        how="outputs that are exactly zero over all outputs of the look (sparsity; healthy networks have much of it)",
    )
    mean: float = quantity(tag="activations/mean/{layer}", unit="output", how="mean of all outputs of the look")
    std: float = quantity(
        tag="activations/std/{layer}",
        unit="output",
        chart="scale by layer",
        how="standard deviation of all outputs of the look",
    )
    low: float | None = quantity(
        tag="activations/min/{layer}", unit="output", how="smallest output of the look; not of ReLU and its like"
    )
    high: float = quantity(tag="activations/max/{layer}", unit="output", how="largest output of the look")
    signal: float = quantity(
        tag="activations/signal/{layer}",
        unit="output",
        chart="signal by layer",
        how="root mean square, over units, of the standard deviation of a unit's outputs over samples and positions: "
        "what of the input still gets through, without what the biases add",
    )
    saturated_share: float | None = quantity(
        tag="activations/saturated_share/{layer}",
        unit="share of outputs",
        chart="saturated share by layer",
        how="outputs within 1 % of half the range from an end of it (tanh beyond 0.99, sigmoid below 0.005 or above "
        "0.995), where the derivative is below 2 % of its largest value",
    )
    drift: float | None = quantity(
        tag="activations/drift/{layer}",
        unit="distance, 0 to 1",
        chart="drift between epochs by layer",
        how="Kolmogorov-Smirnov distance between the histograms of the first batch of this epoch and of the last one",
    )
    elements: float | None = quantity(
        tag="activations/histogram_elements/{layer}",
        unit="outputs",
        how="outputs that the histogram was made of: at most 4,096 of each call, evenly spread; finite ones only, of "
        "ReLU and its like only those above 0",
    )
    histogram: Histogram | None = quantity(
        tag="activations/histogram/{layer}",
        unit="output",
        how="64 buckets of equal width up to a power of two, from its negative or (ReLU and its like) from 0; outputs "
        "of ReLU and its like that are exactly 0 are left out (zero_share counts them)",
    )


@dataclass(frozen=True)
class Overview:
    """What is drawn of all layers together.

    Attributes:
        layers: How many were seen.
        left_out: How many of them are not drawn.
        worst: The largest dead share.
    """

    layers: int = quantity(
        tag="activations/layers_watched", unit="layers", how="layers whose activations were read at this look"
    )
    left_out: int = quantity(
        tag="activations/layers_not_drawn",
        unit="layers",
        how="layers that are watched and judged, but not drawn, to stay within max_layers",
    )
    worst: float | None = quantity(
        tag="activations/worst_dead_share",
        unit="share of units",
        chart="worst dead share",
        how="the largest dead share of a layer",
    )


@dataclass(frozen=True)
class Depth:
    """The scale of one stretch of layers without a norm between them.

    Attributes:
        layers: In the order of the forward pass.
        log_signals: Of every layer the decimal logarithm of its signal, at the healthiest of the looks.
        gain: The median, over the layers, of the step from one logarithm to the next.
        looks: Looks at which all of these layers were seen, among the last.
        since: The first step of those.
        reported_at: The layer at which it was reported before; None if it was not.
    """

    layers: tuple[str, ...]
    log_signals: tuple[float, ...]
    gain: float
    looks: int
    since: int
    reported_at: str | None = None


@dataclass(frozen=True)
class NonFinite:
    """An output that is NaN or infinite.

    Attributes:
        where: The module or call that made it, or that was the last before it was made.
        inside: Whether it made it.
        what: ``"NaN"`` or ``"Inf"``.
        operation: The operation of the graph that made it; empty where only the layer is known.
        low: The smallest of its inputs; None where they could not be read.
        high: The largest of its inputs.
        batch: Whether it came with the batch.
        weights: The parameter that is not finite already; empty if there is none.
        step: On the axis of ``self.log``.
        before: The last look at which all was finite; None if there was none.
    """

    where: str | None
    inside: bool
    what: str
    operation: str
    low: float | None
    high: float | None
    batch: bool
    weights: str
    step: int
    before: int | None
