"""The sweep over healthy networks, as a table: how near each of them comes to the limits of the rules.

``python -m tests.diagnostics.activations.sweep [name ...]``
"""

import logging
import math
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Trainer
from typing_extensions import override

from lightning_diagnostics import ActivationMonitor
from lightning_diagnostics.diagnostics.activations.measure import LayerActivations
from tests.diagnostics.activations.data import Program, train
from tests.diagnostics.activations.networks import NETWORKS
from tests.helpers import accusations

SEEDS = (0, 1, 2)


@dataclass
class Extremes:
    """The largest values at any verdict of a run, over the layers that are judged.

    Attributes:
        layers: How many layers were read.
        first: Dead share over the first window.
        dead: Dead share.
        lost: Rise of the dead share since the first window.
        lost_to: The dead share at that.
        rise: Rise of the dead share over the later half of the verdicts, if it went on.
        rise_to: The dead share at that.
        saturated: Saturated share, in a stretch of eight looks the least.
        shrunk: Decimal logarithm of what is left of the signal over depth.
        shrunk_gain: Factor from layer to layer at that.
        grown: Decimal logarithm of the growth of the signal over depth.
        grown_gain: Factor from layer to layer at that.
    """

    layers: int = 0
    first: float = 0.0
    dead: float = 0.0
    lost: float = 0.0
    lost_to: float = 0.0
    rise: float = 0.0
    rise_to: float = 0.0
    saturated: float = 0.0
    shrunk: float = 0.0
    shrunk_gain: float = 1.0
    grown: float = 0.0
    grown_gain: float = 1.0
    stretches: dict[str, list[float]] = field(default_factory=dict)


class Measuring(ActivationMonitor):
    """Keeps the extremes of what its rules are given."""

    def __init__(self, **more: Any) -> None:
        super().__init__(strict=True, **more)
        self.extremes = Extremes()

    @override
    def _judge(self, trainer: Trainer) -> None:
        super()._judge(trainer)
        window, worst = self._window, self.extremes
        worst.layers = len(window.seen)
        for name in window.seen:
            self._units(window.layer(name))
        for depth in window.depths():
            if len(depth.layers) < self._limits.layers:
                continue
            rises = [log - depth.log_signals[0] for log in depth.log_signals]
            gain = 10**depth.gain
            if gain < 1 and min(rises) < worst.shrunk:
                worst.shrunk, worst.shrunk_gain = min(rises), gain
            if gain > 1 and max(rises) > worst.grown:
                worst.grown, worst.grown_gain = max(rises), gain

    def _units(self, layer: LayerActivations) -> None:
        about, worst = layer.about, self.extremes
        if layer.dead_share is None or not (about.trains and about.hidden and about.units >= self._limits.units):
            return
        first = layer.dead_at_first or 0.0
        worst.first, worst.dead = max(worst.first, first), max(worst.dead, layer.dead_share)
        if layer.dead_share - first > worst.lost:
            worst.lost, worst.lost_to = layer.dead_share - first, layer.dead_share
        shares = layer.shares
        if len(shares) >= self._limits.dying_verdicts:
            now, rise = shares[-1], shares[-1] - shares[len(shares) // 2]
            if now - shares[-1 - len(shares) // 4] >= rise / 3 and rise > worst.rise:
                worst.rise, worst.rise_to = rise, now

    @override
    def _take_up(self, trainer: Trainer, shared: Any) -> None:
        for _, looks in shared:
            for look, _ in looks:
                self._saturation(look.readings)
        super()._take_up(trainer, shared)

    def _saturation(self, readings: Any) -> None:
        for name, reading in readings.items():
            about = self._layers[name]
            if about.family != "saturating" or about.gate or about.head or about.leaves or not about.trains:
                continue
            stretch = self.extremes.stretches.setdefault(name, [])
            stretch.append(float(reading.count.sum()) / (reading.positions * about.units))
            del stretch[:-8]
            if len(stretch) == 8:
                self.extremes.saturated = max(self.extremes.saturated, min(stretch))


@dataclass(frozen=True)
class Result:
    """What one run gave."""

    score: float
    seconds: float
    extremes: Extremes
    findings: list[str]
    notes: list[str]


def run(program: Program, seed: int, **more: Any) -> Result:
    """Train once."""
    monitor = Measuring(**more)
    start = time.perf_counter()
    score = train(program, seed, monitor)
    seconds = time.perf_counter() - start
    accused = accusations(monitor)
    found = [f"{f.code} at {f.where} ({f.status}, step {f.first_step}): {f.message}" for f in accused]
    notes = [f"{f.code} {f.where}" for f in monitor.findings if f not in accused]
    return Result(score, seconds, monitor.extremes, found, notes)


def table(programs: tuple[Program, ...]) -> Iterator[str]:
    """The lines of the table, in Markdown."""
    titles = (
        *("network", "score", "layers", "dead at first", "dead at most", "lost since (to)", "still rising (to)"),
        *("saturated", "shrinks to (per layer)", "grows to (per layer)", "findings"),
    )
    yield "| " + " | ".join(titles) + " |"
    yield "|" + " --- |" * len(titles)
    for program in programs:
        runs = [run(program, seed) for seed in SEEDS]
        yield _row(program, runs)
        for seed, each in zip(SEEDS, runs, strict=True):
            seconds = f"{each.seconds:.1f} s"
            low = "below its bar" if each.score < program.bar else ""
            print(program.name, seed, seconds, f"{each.score:.3f}", low, *each.notes, *each.findings, file=sys.stderr)  # noqa: T201  # progress


def _row(program: Program, runs: list[Result]) -> str:
    scores = [each.score for each in runs]
    found = [each.extremes for each in runs]
    lost, rise = max(found, key=lambda e: e.lost), max(found, key=lambda e: e.rise)
    shrunk, grown = min(found, key=lambda e: e.shrunk), max(found, key=lambda e: e.grown)
    cells = (
        program.name,
        f"{min(scores):.2f} to {max(scores):.2f}",
        str(max(e.layers for e in found)),
        f"{max(e.first for e in found):.0%}",
        f"{max(e.dead for e in found):.0%}",
        f"{lost.lost:.0%} ({lost.lost_to:.0%})" if lost.lost else "-",
        f"{rise.rise:.0%} ({rise.rise_to:.0%})" if rise.rise else "-",
        f"{max(e.saturated for e in found):.0%}" if any(e.saturated for e in found) else "-",
        f"{10**shrunk.shrunk:.1g} ({shrunk.shrunk_gain:.2f})" if shrunk.shrunk else "-",
        f"{10**grown.grown:.1g} ({grown.grown_gain:.2f})" if not math.isclose(grown.grown, 0) else "-",
        "; ".join(sorted({text.split(" (")[0] for each in runs for text in each.findings})) or "none",
    )
    return "| " + " | ".join(cells) + " |"


def main(names: list[str]) -> None:
    """Print the table, of all or of those named."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("lightning_diagnostics", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    chosen = tuple(program for program in NETWORKS if not names or program.name in names)
    for line in table(chosen):
        print(line, flush=True)  # noqa: T201  # a command line


if __name__ == "__main__":
    main(sys.argv[1:])
