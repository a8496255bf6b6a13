"""The sweep over healthy networks, as a table: how near each of them comes to the limits of the rules.

``python -m tests.diagnostics.gradients.sweep [name ...]``
"""

import logging
import math
import statistics
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import torch
from lightning.pytorch import Trainer
from typing_extensions import override

from lightning_diagnostics import GradientNormMonitor
from lightning_diagnostics.diagnostics.gradients.collecting import Collected
from lightning_diagnostics.diagnostics.gradients.history import History, Taken
from lightning_diagnostics.diagnostics.gradients.measure import Depth, Excursions, OptimizerGradients
from lightning_diagnostics.findings import Rule
from tests.diagnostics.gradients.networks import NETWORKS
from tests.diagnostics.gradients.networks_data import Program, train
from tests.helpers import accusations

SEEDS = (0, 1, 2)
FACTORS = (10.0, 30.0, 100.0)
PROCESSES = 2


@dataclass
class Extremes:
    """The values of a run that come nearest to the limits, over all optimizers.

    Attributes:
        layers: How many weights lie in a row of depth.
        ratio: The smallest gradient of the first weight over the last, in a stretch of eight looks the largest.
        ratio_update: The update ratio of the first weight over the median or that of the last, in that stretch at most.
        update: The same in the stretch that comes nearest to both limits at once.
        update_ratio: The gradient ratio in it.
        away: By factor, the steps of a window whose norm was that far above the median before it, at most.
        risen: Those of them at which the loss rose above all of that window, at most.
        clipped: Share of the steps of a full window that were clipped, at most.
        factor: The smallest median clip factor of such a window.
        spike: The largest norm over the median of the window before it, while the loss rose above all of that window.
        run_spike: The same while the loss rose above all of the run before it, from five steps on.
        run_rise: The largest loss over all of the run before it, where the norm is over 30 times its median.
        leap: The largest norm over that median, where the next loss was above all of the run by the factor of a surge.
        leap_rise: The largest next loss over all of the run up to it, where the norm was an excursion.
        cv: The largest coefficient of variation over a full window.
        bouncing: The same while the loss does not fall.
        fallen: The mean norm of a window over that of the first, at least.
        stuck: The same while the loss is as large as then.
    """

    layers: int = 0
    ratio: float = math.inf
    ratio_update: float = math.inf
    update: float = math.inf
    update_ratio: float = math.inf
    away: dict[float, int] = field(default_factory=lambda: dict.fromkeys(FACTORS, 0))
    risen: dict[float, int] = field(default_factory=lambda: dict.fromkeys(FACTORS, 0))
    clipped: float | None = None
    factor: float = 1.0
    spike: float = 0.0
    run_spike: float = 0.0
    run_rise: float = 0.0
    leap: float = 0.0
    leap_rise: float = 0.0
    cv: float = 0.0
    bouncing: float = 0.0
    fallen: float = math.inf
    stuck: float = math.inf


class Measuring(GradientNormMonitor):
    """Keeps the extremes of what its rules are given."""

    def __init__(self, **more: Any) -> None:
        super().__init__(strict=True, **more)
        self.extremes = Extremes()
        self.twins: dict[tuple[str, float], History] = {}
        self.seen: dict[str, list[Taken]] = {}

    @override
    def judge(self, trainer: Trainer, rule: Rule, measured: Any, *, step: int) -> Any:
        if isinstance(measured, Depth):
            self._depth(measured)
        elif isinstance(measured, OptimizerGradients):
            self._optimizer(measured)
        return super().judge(trainer, rule, measured, step=step)

    @override
    def _take_up(self, trainer: Trainer, collected: Sequence[Collected]) -> None:
        super()._take_up(trainer, collected)
        for one in collected:
            self._spikes(self.seen.setdefault(one.taken.name, []), one.taken)
            for factor in FACTORS:
                known = (one.taken.name, factor)
                if known not in self.twins:
                    self.twins[known] = History(known[0], self.window, factor, self._limits.exploding_past)
                self.twins[known].take(one.taken)
        for (_, factor), history in self.twins.items():
            self._excursions(factor, history.excursions(), history)

    def _spikes(self, before: list[Taken], taken: Taken) -> None:
        """Judge the step before the last, whose next loss is known by now."""
        before.append(taken)
        if len(before) < 7:
            return
        *past, spike, after = before
        norms = [one.norm for one in past[-self.window :] if math.isfinite(one.norm)]
        losses = [one.loss for one in past if one.loss is not None and math.isfinite(one.loss)]
        after_all = [math.inf if one.loss is None or math.isnan(one.loss) else one.loss for one in (spike, after)]
        if not norms or not losses or spike.loss is None or not math.isfinite(spike.norm):
            return
        factor, worst, limits = spike.norm / (statistics.median(norms) or math.inf), self.extremes, self._limits
        rise = max(after_all) / max(losses) if max(losses) > 0 else 0.0
        if max(after_all) > max(losses):
            worst.run_spike = max(worst.run_spike, factor)
            if factor > FACTORS[1]:
                worst.run_rise = max(worst.run_rise, rise)
        most = max(*losses, spike.loss)
        leap = after_all[1] / most if most > 0 else 0.0
        if leap > limits.exploding_surge:
            worst.leap = max(worst.leap, factor)
        if factor > limits.exploding_factor:
            worst.leap_rise = max(worst.leap_rise, leap)
        if len(norms) >= self._limits.exploding_past and max(after_all) > max(losses[-self.window :]):
            worst.spike = max(worst.spike, factor)

    def _excursions(self, factor: float, measured: Excursions, history: History) -> None:
        worst = self.extremes
        first = history._recent[0].step if history._recent else 0
        away = sum(each.step >= first for each in history._away)
        worst.away[factor] = max(worst.away[factor], away)
        worst.risen[factor] = max(worst.risen[factor], len(measured.steps))

    def _depth(self, measured: Depth) -> None:
        worst, limits = self.extremes, self._limits
        worst.layers = max(worst.layers, measured.layers)
        if measured.layers < limits.vanishing_layers or len(measured.ratios) < limits.vanishing_looks:
            return
        ratio, update = max(measured.ratios), max(measured.updates)
        if ratio < worst.ratio:
            worst.ratio, worst.ratio_update = ratio, update

        def distance(ratio: float, update: float) -> float:
            return max(ratio / limits.vanishing_ratio, update / limits.vanishing_update)

        if distance(ratio, update) < distance(worst.update_ratio, worst.update):
            worst.update_ratio, worst.update = ratio, update

    def _optimizer(self, measured: OptimizerGradients) -> None:
        worst = self.extremes
        if measured.clipped_share is not None and measured.full:
            worst.clipped = max(worst.clipped or 0.0, measured.clipped_share)
            worst.factor = min(worst.factor, measured.median_factor or 1.0)
        if measured.cv is not None and measured.values >= measured.window:
            worst.cv = max(worst.cv, measured.cv)
            loss, earlier = measured.loss, measured.earlier_loss
            if loss is not None and earlier is not None and loss >= earlier:
                worst.bouncing = max(worst.bouncing, measured.cv)
        if measured.mean is not None and measured.first_mean:
            fallen = measured.mean / measured.first_mean
            worst.fallen = min(worst.fallen, fallen)
            if measured.loss is not None and measured.first_loss:
                share = measured.loss / measured.first_loss
                if share >= self._limits.stuck_loss:
                    worst.stuck = min(worst.stuck, fallen)


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
    notes = sorted({f.code for f in monitor.findings if f not in accused})
    return Result(score, seconds, monitor.extremes, found, notes)


def run_named(name: str, seed: int) -> Result:
    """The same in a process of its own."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for logger in ("lightning_diagnostics", "lightning.pytorch"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    return run(next(program for program in NETWORKS if program.name == name), seed)


def table(programs: Sequence[Program]) -> Iterator[str]:
    """The lines of the table, in Markdown."""
    titles = (
        *("network", "score", "weights", "first/last (update)", "nearest (update)", "steps far above", "loss rose"),
        *("highest, loss over window", "highest, loss over run (rise)", "then leapt (rise)"),
        *("clipped (factor)", "CV", "CV, loss not falling", "norm fell to", "at a large loss", "notes", "findings"),
    )
    yield "| " + " | ".join(titles) + " |"
    yield "|" + " --- |" * len(titles)
    tasks = [(program.name, seed) for program in programs for seed in SEEDS]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        results = pool.map(run_named, *zip(*tasks, strict=True))
        for program in programs:
            runs = [next(results) for _ in SEEDS]
            yield _row(program, runs)
            for seed, each in zip(SEEDS, runs, strict=True):
                low = "BELOW ITS BAR" if each.score < program.bar else ""
                about = [f"{each.seconds:.1f} s", f"{each.score:.3f}", low, *each.notes, *each.findings]
                print(program.name, seed, *filter(None, about), file=sys.stderr, flush=True)  # noqa: T201  # progress


def _row(program: Program, runs: Sequence[Result]) -> str:
    scores = [each.score for each in runs]
    found = [each.extremes for each in runs]
    lowest = min(found, key=lambda e: e.ratio)
    nearest = min(found, key=lambda e: max(e.update_ratio * 10, e.update))
    clipped = [e.clipped for e in found if e.clipped is not None]
    fell, stuck = min(e.fallen for e in found), min(e.stuck for e in found)
    cells = (
        program.name,
        f"{min(scores):.2f} to {max(scores):.2f}",
        str(max(e.layers for e in found)),
        f"{lowest.ratio:.2g} ({lowest.ratio_update:.2g})" if math.isfinite(lowest.ratio) else "-",
        f"{nearest.update_ratio:.2g} ({nearest.update:.2g})" if math.isfinite(nearest.update) else "-",
        " / ".join(str(max(e.away[factor] for e in found)) for factor in FACTORS),
        " / ".join(str(max(e.risen[factor] for e in found)) for factor in FACTORS),
        f"{max(e.spike for e in found):.2g}",
        f"{max(e.run_spike for e in found):.2g} ({max(e.run_rise for e in found):.2g})",
        f"{max(e.leap for e in found):.2g} ({max(e.leap_rise for e in found):.2g})",
        f"{max(clipped):.0%} ({min(e.factor for e in found):.2g})" if clipped else "-",
        f"{max(e.cv for e in found):.2f}",
        f"{max(e.bouncing for e in found):.2f}" if any(e.bouncing for e in found) else "-",
        f"{fell:.1g}" if math.isfinite(fell) else "-",
        f"{stuck:.1g}" if math.isfinite(stuck) else "-",
        ", ".join(sorted({note for each in runs for note in each.notes})) or "none",
        "; ".join(sorted({text.split(" (")[0] for each in runs for text in each.findings})) or "none",
    )
    return "| " + " | ".join(cells) + " |"


def main(names: list[str]) -> None:
    """Print the table, of all or of those named."""
    chosen = [program for program in NETWORKS if not names or program.name in names]
    for line in table(chosen):
        print(line, flush=True)  # noqa: T201  # a command line


if __name__ == "__main__":
    main(sys.argv[1:])
