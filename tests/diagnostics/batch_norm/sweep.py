"""The sweep over healthy networks, as a table: how near each of them comes to the limits of the rules.

``python -m tests.diagnostics.batch_norm.sweep [name ...]``
"""

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Trainer
from typing_extensions import override

from lightning_diagnostics import BatchNormGuard
from lightning_diagnostics.diagnostics.batch_norm import rules as room
from lightning_diagnostics.diagnostics.batch_norm.measure import LayerStatistics
from lightning_diagnostics.findings import Rule, TooEarly
from tests.diagnostics.batch_norm.data import Program, train
from tests.diagnostics.batch_norm.networks import NETWORKS
from tests.helpers import accusations

SEEDS = (0, 1, 2)
WEIGHTS = (0.5, 0.1, 0.03, 0.01, 0.001, 0.0)
"""Bins of the weight that initial values still have in running statistics: at least this."""


@dataclass
class Extremes:
    """The largest values at any validation of a run, over all norms that are judged.

    Attributes:
        layers: How many norms were judged.
        shift: Mean shift, without what the values at the start of the run still weigh.
        ratio: Log ratio of variances, without it.
        train_shift: Mean shift of training batches.
        train_ratio: Log ratio of variances of training batches.
        smallest: The smallest batch; None if none was seen.
        change: The largest change of predictions; None if no batch was tried.
        drift: Shift of norms whose weights are frozen.
        why: Why a batch could not be tried.
        settling: By bin of `WEIGHTS`, the largest shift and log ratio of norms whether they have settled or not.
        few: The same where there were fewer rows than a verdict takes.
    """

    layers: int = 0
    shift: float = 0.0
    ratio: float = 0.0
    train_shift: float = 0.0
    train_ratio: float = 0.0
    smallest: int | None = None
    change: float | None = None
    drift: float = 0.0
    why: str = ""
    settling: dict[float, tuple[float, float]] = field(default_factory=dict)
    few: tuple[float, float] = (0.0, 0.0)


class Measuring(BatchNormGuard):
    """Keeps the extremes of what its rules are given."""

    def __init__(self, **more: Any) -> None:
        super().__init__(strict=True, **more)
        self.extremes = Extremes()
        self.judged = set[str]()

    @override
    def _take_up_statistics(self, trainer: Trainer, evaluated: Sequence[Any], step: int) -> None:
        super()._take_up_statistics(trainer, evaluated, step)
        worst = self.extremes
        if self._change is not None:
            worst.change = max(worst.change or 0.0, self._change)
        worst.why = worst.why or "; ".join(self._cannot.values())

    @override
    def judge(self, trainer: Trainer, rule: Rule, measured: Any, *, step: int) -> Any:
        if rule.name == "frozen-but-drifting":
            self.extremes.drift = max(self.extremes.drift, measured.shift)
        return super().judge(trainer, rule, measured, step=step)

    @override
    def _draw(self, trainer: Trainer, layers: Sequence[LayerStatistics], step: int) -> None:
        super()._draw(trainer, layers, step)
        settling = any(room.is_settling(layer, self._limits) for layer in layers)
        for layer in layers:
            self._keep(layer, judged=not settling)

    def _keep(self, layer: LayerStatistics, *, judged: bool) -> None:
        worst, limits = self.extremes, self._limits
        if layer.smallest_batch is not None:
            worst.smallest = min(worst.smallest or layer.smallest_batch, layer.smallest_batch)
        if layer.mean_shift is None or layer.log_variance_ratio is None or not (layer.trained or layer.averaged):
            return
        both = layer.mean_shift, layer.log_variance_ratio
        updates = layer.since or 0
        left = 0.0 if layer.momentum is None or layer.since is None else (1 - layer.momentum) ** updates
        if layer.samples < limits.samples:
            if left <= limits.settled:
                worst.few = _larger(worst.few, both)
            return
        weight = next((weight for weight in WEIGHTS if left >= weight), 0.0)
        worst.settling[weight] = _larger(worst.settling.get(weight, (0.0, 0.0)), both)
        if not judged or isinstance(room.statistics_mismatch.check(layer, limits), TooEarly):
            return
        if layer.settled_shift is not None and layer.settled_ratio is not None and left <= limits.settled:
            both = min(both[0], layer.settled_shift), min(both[1], layer.settled_ratio)
        self.judged.add(layer.layer)
        worst.layers = len(self.judged)
        worst.shift, worst.ratio = _larger((worst.shift, worst.ratio), both)
        training = layer.train_mean_shift or 0.0, layer.train_log_variance_ratio or 0.0
        worst.train_shift, worst.train_ratio = _larger((worst.train_shift, worst.train_ratio), training)


def _larger(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return max(one[0], other[0]), max(one[1], other[1])


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
    guard = Measuring(**more)
    start = time.perf_counter()
    score = train(program, seed, guard)
    seconds = time.perf_counter() - start
    accused = accusations(guard)
    found = [f"{f.code} at {f.where} ({f.status}, step {f.first_step}): {f.message}" for f in accused]
    notes = sorted({f.code for f in guard.findings if f not in accused})
    return Result(score, seconds, guard.extremes, found, notes)


def table(programs: Sequence[Program]) -> Iterator[str]:
    """The lines of the table, in Markdown."""
    titles = (
        *("network", "score", "norms", "mean shift", "log variance ratio", "train mean shift"),
        *("train log variance ratio", "smallest batch", "prediction change", "notes", "findings"),
    )
    yield "| " + " | ".join(titles) + " |"
    yield "|" + " --- |" * len(titles)
    every: list[Result] = []
    for program in programs:
        runs = [run(program, seed) for seed in SEEDS]
        every += runs
        yield _row(program.name, runs)
        for seed, each in zip(SEEDS, runs, strict=True):
            low = "below its bar" if each.score < program.bar else ""
            about = [f"{each.seconds:.1f} s", f"{each.score:.3f}", low, each.extremes.why, *each.findings]
            print(program.name, seed, *filter(None, about), file=sys.stderr, flush=True)  # noqa: T201  # progress
    yield _row("all", every)
    yield from _settling([each.extremes for each in every])


def _row(name: str, runs: Sequence[Result]) -> str:
    scores = [each.score for each in runs]
    found = [each.extremes for each in runs]
    sizes = [e.smallest for e in found if e.smallest is not None]
    tried = [e.change for e in found if e.change is not None]
    judged = any(e.layers for e in found)
    cells = (
        name,
        f"{min(scores):.2f} to {max(scores):.2f}",
        str(max(e.layers for e in found)),
        f"{max(e.shift for e in found):.3f}" if judged else "-",
        f"{max(e.ratio for e in found):.3f}" if judged else "-",
        f"{max(e.train_shift for e in found):.3f}" if judged else "-",
        f"{max(e.train_ratio for e in found):.3f}" if judged else "-",
        str(min(sizes)) if sizes else "-",
        f"{max(tried):.2g}" if tried else "not tried",
        ", ".join(sorted({note for each in runs for note in each.notes})) or "none",
        "; ".join(sorted({text.split(" (")[0] for each in runs for text in each.findings})) or "none",
    )
    return "| " + " | ".join(cells) + " |"


def _settling(found: Sequence[Extremes]) -> Iterator[str]:
    """How far statistics are off by the weight that their initial values still have."""
    yield ""
    for weight in WEIGHTS:
        seen = [e.settling[weight] for e in found if weight in e.settling]
        if seen:
            shift, ratio = max(each[0] for each in seen), max(each[1] for each in seen)
            yield f"initial values weigh {weight:g} or more: mean shift {shift:.3f}, log variance ratio {ratio:.3f}"
    shift, ratio = max(e.few[0] for e in found), max(e.few[1] for e in found)
    yield f"fewer validation rows than a verdict takes: mean shift {shift:.3f}, log variance ratio {ratio:.3f}"
    yield f"drift of norms whose weights are frozen: {max(e.drift for e in found):.3f}"


def main(names: list[str]) -> None:
    """Print the table, of all or of those named."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("lightning_diagnostics", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    chosen = [program for program in NETWORKS if not names or program.name in names]
    for line in table(chosen):
        print(line, flush=True)  # noqa: T201  # a command line


if __name__ == "__main__":
    main(sys.argv[1:])
