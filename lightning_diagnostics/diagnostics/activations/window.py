"""What the looks of a run add up to: since when each unit is silent, on how many samples, and how layers behave."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_diagnostics.diagnostics.activations.measure import Depth, Layer, LayerActivations, LayerReading, Look
from lightning_diagnostics.diagnostics.activations.rules import LOOKS
from lightning_diagnostics.statistics import ks_distance, merge_histograms, samples_needed
from lightning_diagnostics.tensorboard import Histogram

RECENT = LOOKS
"""Looks that a verdict needs at least."""

DEEP = 24
"""Looks that a verdict on scale by depth rests on: deep plain networks grow out of it in fewer (the sweep)."""

_DORMANT = 0.025  # of the layer's mean absolute output, Sokar et al. 2023
_SHARES = 64  # verdicts that are kept for the trend
_SPREAD = 8  # values of a unit, of which there is a standard deviation worth the name
_TINY = 1e-38  # a signal of exactly 0 has vanished, and has a logarithm all the same
_HUGE = 1e38  # so has one whose square is more than 32 bits can hold
_GONE = -37.9  # that logarithm, and a little
_FAINT = -5.0  # the logarithm of a signal that may be lost to rounding in the next layer, beside the biases
_NAMED = 10  # dead units that a finding names


@dataclass
class Shares:
    """The dead shares at a layer's verdicts, evenly spread over all of them, and the newest.

    Attributes:
        kept: Of every ``stride``-th verdict, from the first on.
        stride: It doubles when there are too many.
        count: Verdicts so far.
        newest: The last of them.
    """

    kept: list[float] = field(default_factory=list[float])
    stride: int = 1
    count: int = 0
    newest: float = 0.0

    def add(self, share: float) -> None:
        """Take up one more verdict."""
        if self.count % self.stride == 0:
            self.kept.append(share)
        if len(self.kept) > _SHARES:
            self.kept, self.stride = self.kept[::2], 2 * self.stride
        self.count, self.newest = self.count + 1, share

    @property
    def values(self) -> tuple[float, ...]:
        """What is kept, the newest last."""
        last_is_kept = (self.count - 1) % self.stride == 0
        return tuple(self.kept) if last_is_kept else (*self.kept, self.newest)


class Window:
    """The state of all layers over the looks of a run; holds numbers only.

    Everything per unit lies in flat arrays over the units of all layers, so that a look costs a few operations
    however many layers there are.

    Args:
        activity: The least share of samples on which a living unit is active.
        alpha: The chance of a false verdict for a layer.
        saturated: The share of saturated outputs from which on a layer counts as saturated.
    """

    def __init__(self, *, activity: float, alpha: float, saturated: float) -> None:
        self._activity = activity
        self._alpha = alpha
        self._limit = saturated
        self.layers: dict[str, Layer] = {}
        self._row: dict[str, int] = {}
        self._offsets = np.zeros(1, np.int64)
        self._known_places: tuple[tuple[str, ...], tuple[NDArray[np.int64], ...]] | None = None
        # Of each layer.
        self._needed = np.zeros(0, np.int64)
        self._family = np.zeros(0, np.int64)
        self._samples = np.zeros(0, np.int64)
        self._looks = np.zeros(0, np.int64)
        self._first = np.zeros(0)  # the dead share over the first window
        self._signal = np.zeros((0, DEEP))  # of the last looks, the newest last
        self._saturated = np.zeros((0, 3))  # since which step in one stretch, for how many looks, the least share
        self._at = np.zeros((0, DEEP), np.int64)  # their steps
        self._shares: dict[str, Shares] = {}
        self._epoch: dict[str, tuple[int, list[float]]] = {}  # the histogram of the last epoch's first batch
        self._drift: dict[str, float] = {}
        # Of each unit.
        self._active_samples = np.zeros(0, np.int64)  # of the layer, when it was last active
        self._active_look = np.zeros(0, np.int64)
        self._since = np.zeros(0, np.int64)  # the first step of its silence, -1 while it is active
        self._onset = np.zeros(0, np.int64)  # the first step of its last death, -1 for none
        self._revival = np.zeros(0, np.int64)  # the step at which it last came back to life, -1 for none
        self._dead = np.zeros(0, bool)

    @property
    def seen(self) -> list[str]:
        """The layers that were read, in the order in which they were first."""
        return list(self._row)

    # Looks.

    def know(self, layers: Mapping[str, Layer]) -> None:
        """Take up what has been learned of layers; flags that were once seen stay."""
        for name, new in layers.items():
            old = self.layers.get(name)
            if old is new:
                continue
            if old is not None and old != new:
                heads = [head for head in (old.head, new.head) if head is not None]
                head = all(heads) if heads else None
                flags = {"trains": old.trains or new.trains, "gate": old.gate or new.gate}
                flags |= {"leaves": old.leaves or new.leaves, "head": head}
                new = Layer(**{**vars(old), **flags})
            self.layers[name] = new

    def update(self, look: Look) -> None:
        """Take up one look."""
        for name, reading in look.readings.items():
            if name not in self._row:
                self._add(name, reading)
        if not look.readings:
            return
        readings = list(look.readings.values())
        rows, units, starts, of_layer, cells = self._places(tuple(look.readings))
        positions = np.array([reading.positions for reading in readings])
        squares = np.concatenate([reading.squares for reading in readings])
        count = np.concatenate([reading.count for reading in readings])
        finite = np.array([reading.finite for reading in readings])

        with np.errstate(all="ignore"):
            signal = np.sqrt(np.add.reduceat(squares, starts) / (positions * units))
            saturated = np.add.reduceat(count, starts) / (positions * units)
        signal = np.where(np.isfinite(signal), signal, _HUGE)  # the squares of finite outputs that overflowed
        self._shift(self._signal, rows, np.where(finite & (positions >= _SPREAD), signal, np.nan))
        self._count_saturation(rows, np.where(finite, saturated, 0.0), look.step)
        self._shift(self._at, rows, look.step)
        self._samples[rows] += np.array([reading.samples for reading in readings])
        self._looks[rows] += 1
        active = self._active(count, starts, units, of_layer, self._family[rows], ~finite)
        self._count_silence(cells, rows[of_layer], active, look.step)
        for row in rows[(self._first[rows] < 0) & self._complete(rows)].tolist():
            self._first[row] = self._dead[self._cells(row)].mean()

    def _places(self, names: tuple[str, ...]) -> tuple[NDArray[np.int64], ...]:
        """Where the numbers of these layers lie; the same from look to look where the same layers are seen."""
        if self._known_places is None or self._known_places[0] != names:
            rows = np.array([self._row[name] for name in names])
            units = np.diff(self._offsets)[rows]
            starts = np.concatenate([[0], np.cumsum(units)[:-1]])
            of_layer = np.repeat(np.arange(len(rows)), units)
            cells = self._offsets[rows][of_layer] + np.arange(len(of_layer)) - starts[of_layer]
            self._known_places = names, (rows, units, starts, of_layer, cells)
        return self._known_places[1]

    def _active(
        self,
        count: NDArray[np.float64],
        starts: NDArray[np.int64],
        units: NDArray[np.int64],
        of_layer: NDArray[np.int64],
        family: NDArray[np.int64],
        unknown: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Which units were active in a look; those that cannot be off, and those of a broken layer, always are."""
        active = count > 0
        if (family == 1).any():
            with np.errstate(all="ignore"):
                usual = np.add.reduceat(count, starts) / units
            active = np.where(family[of_layer] == 1, count > _DORMANT * usual[of_layer], active)
        return active | (family[of_layer] == 2) | unknown[of_layer]

    def _count_silence(
        self, cells: NDArray[np.int64], rows: NDArray[np.int64], active: NDArray[np.bool_], step: int
    ) -> None:
        samples, looks = self._samples[rows], self._looks[rows]
        since, was_dead = self._since[cells], self._dead[cells]
        since = np.where(active, -1, np.where(since < 0, step, since))
        self._since[cells] = since
        self._active_samples[cells] = last = np.where(active, samples, self._active_samples[cells])
        self._active_look[cells] = last_look = np.where(active, looks, self._active_look[cells])
        dead = (samples - last >= self._needed[rows]) & (looks - last_look >= RECENT)
        self._onset[cells] = np.where(dead & ~was_dead, since, self._onset[cells])
        self._revival[cells] = np.where(was_dead & ~dead, step, self._revival[cells])
        self._dead[cells] = dead

    def _count_saturation(self, rows: NDArray[np.int64], share: NDArray[np.float64], step: int) -> None:
        since, looks, least = self._saturated[rows].T
        begun = looks > 0
        stretch = [np.where(begun, since, step), looks + 1, np.where(begun, np.minimum(least, share), share)]
        self._saturated[rows] = np.where(share >= self._limit, stretch, 0.0).T

    def remember(self, names: Sequence[str]) -> None:
        """Keep the dead shares of this moment for the trend."""
        for name in names:
            if self._complete(self._row[name]):
                share = float(self._dead[self._cells(self._row[name])].mean())
                self._shares.setdefault(name, Shares()).add(share)

    def begin_epoch(self, look: Look) -> None:
        """Compare the histograms of an epoch's first batch with those of the last epoch's."""
        for name, reading in look.readings.items():
            if reading.histogram is None or not sum(reading.histogram[1]):
                continue
            new = (reading.histogram[0], [float(count) for count in reading.histogram[1]])
            old = self._epoch.get(name)
            if old is not None:
                signed = self.layers[name].family != "rectifier"
                empty = [0.0] * len(new[1])
                one = merge_histograms(old, (new[0], empty), signed=signed)
                other = merge_histograms(new, (old[0], empty), signed=signed)
                self._drift[name] = ks_distance(one[1], other[1])
            self._epoch[name] = new

    # What they add up to.

    def layer(self, name: str, reading: LayerReading | None = None) -> LayerActivations:
        """What is known of a layer, with the numbers of one look where a reading is given."""
        about, row = self.layers[name], self._row[name]
        cells = self._cells(row)
        dead = np.flatnonzero(self._dead[cells])
        complete, silences = bool(self._complete(row)), np.sort(self._onset[cells][dead])
        dies, saturates = about.family in ("rectifier", "smooth"), about.family == "saturating"
        since, stretch, least = self._saturated[row].tolist()
        first = float(self._first[row])
        return LayerActivations(
            layer=name,
            about=about,
            samples=int(self._samples[row]),
            needed=int(self._needed[row]),
            looks=int(self._looks[row]),
            dead=len(dead),
            dead_units=tuple(dead[:_NAMED].tolist()),
            dead_at_first=first if dies and first >= 0 else None,
            since=tuple(silences.tolist()),
            shares=self._shares[name].values if name in self._shares else (),
            saturated_looks=int(stretch) if saturates else 0,
            saturated_since=int(since),
            saturated_least=least,
            dead_share=len(dead) / about.units if dies and complete else None,
            **self._of_look(name, about, reading),
        )

    def _of_look(self, name: str, about: Layer, reading: LayerReading | None) -> dict[str, Any]:
        nothing = float("nan")
        if reading is None:
            keys = ("mean", "std", "high", "signal")
            optional = ("low", "zero_share", "saturated_share", "drift", "elements", "histogram")
            return {**dict.fromkeys(keys, nothing), **dict.fromkeys(optional, None)}
        outputs = reading.positions * about.units
        counted = float(reading.count.sum()) / outputs
        with np.errstate(all="ignore"):
            mean = float(reading.mean.mean())
            within = float(reading.squares.sum()) / outputs
            between = float(np.square(reading.mean - mean).mean())
        drawn = None
        if reading.histogram is not None:
            drawn = _histogram(
                reading, signed=about.family != "rectifier", mean=mean, square=within + between + mean**2
            )
        return {
            "mean": mean,
            "std": (within + between) ** 0.5,
            "low": None if about.family == "rectifier" else reading.low,
            "high": reading.high,
            "signal": within**0.5,
            "zero_share": 1 - counted if about.family == "rectifier" else None,
            "saturated_share": counted if about.family == "saturating" else None,
            "drift": self._drift.pop(name, None),
            "elements": None if drawn is None else float(sum(drawn.counts)),
            "histogram": drawn,
        }

    def depths(self, names: Collection[str] | None = None) -> list[Depth]:
        """The stretches of hidden layers that no norm separates, in the order of the forward pass.

        Args:
            names: The layers to consider; all if None.
        """
        names = self._row if names is None else names
        stretches: dict[int, list[Layer]] = {}
        for layer in sorted(self.layers.values(), key=lambda layer: layer.order):
            if layer.hidden and layer.trains and layer.name in names and _passes_on(layer):
                stretches.setdefault(layer.segment, []).append(layer)
        return [depth for stretch in stretches.values() if (depth := self._depth(stretch)) is not None]

    def _depth(self, stretch: list[Layer]) -> Depth | None:
        rows = [self._row[layer.name] for layer in stretch]
        looks = int(self._looks[rows].min())
        if len(rows) < 2 or looks < DEEP:
            return None
        with np.errstate(all="ignore"):
            logs = np.log10(np.clip(self._signal[rows], _TINY, _HUGE))
        if not np.isfinite(logs).all() or (logs <= _GONE).all():
            return None
        alive = _before_death(logs)
        if alive < 2:
            return None
        logs, stretch = logs[:alive], stretch[:alive]
        gains = np.array([_median_step(signals) for signals in logs.T])
        healthiest = int(np.argmin(np.abs(gains)))
        return Depth(
            tuple(layer.name for layer in stretch),
            tuple(logs[:, healthiest].tolist()),
            float(gains[healthiest]),
            DEEP,
            int(self._at[rows].min()),
        )

    def units(self, name: str) -> tuple[list[int | None], list[int | None]]:
        """Of every unit the first step of its present silence if it is dead, and the step of its last revival."""
        cells = self._cells(self._row[name])
        onset = np.where(self._dead[cells], self._onset[cells], -1)
        onsets, revivals = ([None if step < 0 else step for step in a.tolist()] for a in (onset, self._revival[cells]))
        return onsets, revivals

    # Layers.

    def _complete(self, rows: Any) -> Any:
        """Whether there is enough evidence for a verdict on units."""
        return (self._samples[rows] >= self._needed[rows]) & (self._looks[rows] >= RECENT)

    def _cells(self, row: int) -> slice:
        return slice(int(self._offsets[row]), int(self._offsets[row + 1]))

    def _add(self, name: str, reading: LayerReading) -> None:
        units = len(reading.count)
        family = {"rectifier": 0, "smooth": 1}.get(self.layers[name].family, 2)
        self._row[name] = len(self._row)
        self._offsets = np.append(self._offsets, self._offsets[-1] + units)
        self._needed = np.append(self._needed, samples_needed(units, activity=self._activity, alpha=self._alpha))
        self._family = np.append(self._family, family)
        self._first = np.append(self._first, -1.0)
        for array in ("_samples", "_looks"):
            setattr(self, array, np.append(getattr(self, array), 0))
        for array, empty in (("_signal", np.nan), ("_saturated", 0.0), ("_at", 0)):
            old = getattr(self, array)
            setattr(self, array, np.vstack([old, np.full((1, old.shape[1]), empty, old.dtype)]))
        for array, empty in _OF_UNITS.items():
            setattr(self, array, np.append(getattr(self, array), np.full(units, empty)))

    @staticmethod
    def _shift(recent: NDArray[Any], rows: NDArray[np.int64], newest: Any) -> None:
        recent[rows, :-1] = recent[rows, 1:]
        recent[rows, -1] = newest

    # Resuming.

    def state(self) -> dict[str, Any]:
        """Plain values and tensors from which `load` makes the same window."""
        return {
            "layers": [dict(vars(self.layers[name])) for name in self._row],
            "arrays": {name: torch.from_numpy(getattr(self, name).copy()) for name in (*_OF_LAYERS, *_OF_UNITS)},
            "shares": {name: {**vars(s), "kept": list(s.kept)} for name, s in self._shares.items()},
            "epoch": {name: [exponent, list(counts)] for name, (exponent, counts) in self._epoch.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        self._known_places = None
        self.layers = {layer["name"]: Layer(**layer) for layer in state["layers"]}
        self._row = {name: row for row, name in enumerate(self.layers)}
        self._offsets = np.cumsum([0, *(layer.units for layer in self.layers.values())])
        for name, tensor in state["arrays"].items():
            setattr(self, name, tensor.numpy().copy())
        self._shares = {n: Shares(**{**plain, "kept": list(plain["kept"])}) for n, plain in state["shares"].items()}
        self._epoch = {name: (exponent, list(counts)) for name, (exponent, counts) in state["epoch"].items()}


_OF_LAYERS = ("_needed", "_family", "_samples", "_looks", "_first", "_signal", "_saturated", "_at")
_OF_UNITS: dict[str, Any] = {
    "_active_samples": 0,
    "_active_look": 0,
    "_since": -1,
    "_onset": -1,
    "_revival": -1,
    "_dead": False,
}


def _before_death(logs: NDArray[np.float64]) -> int:
    """How many layers come before the first that is dead: without a signal, of one that came in."""
    died = (logs[1:] <= _GONE) & (logs[:-1] > _FAINT)
    layers = np.flatnonzero(died.any(axis=1))
    return int(layers[0]) + 1 if len(layers) else len(logs)


def _median_step(logs: NDArray[np.float64]) -> float:
    """The median step from layer to layer; from nothing to nothing is no step."""
    steps = np.diff(logs)[(logs[:-1] > _GONE) | (logs[1:] > _GONE)]
    return float(np.median(steps)) if len(steps) else 0.0


def _passes_on(layer: Layer) -> bool:
    """Whether the scale of what goes in shows in what comes out; a gate is no part of the stream, nor is a sigmoid."""
    return layer.family != "saturating" or (layer.kind in ("tanh", "hardtanh", "softsign") and not layer.gate)


def _histogram(reading: LayerReading, *, signed: bool, mean: float, square: float) -> Histogram:
    assert reading.histogram is not None
    exponent, counts = reading.histogram
    end, size = 2.0**exponent, len(counts)
    start = -end if signed else 0.0
    edges = tuple(start + (end - start) * index / size for index in range(size + 1))
    number = float(sum(counts))
    return Histogram(edges, tuple(float(c) for c in counts), reading.low, reading.high, mean * number, square * number)
