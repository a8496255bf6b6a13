"""The sweep over healthy networks, as a table: how near each of them comes to the limits of the rules.

``python -m tests.diagnostics.generalization_gap.sweep [name ...]``

Without names all healthy ones; sick ones are called by name, or all of them with ``sick`` (their twins: ``twins``).
"""

import logging
import math
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any

import torch
from lightning.pytorch import Trainer
from typing_extensions import override

from lightning_diagnostics import GeneralizationGapMonitor
from lightning_diagnostics.diagnostics.generalization_gap.measure import Advantage, Baseline, ModeGap, Onset
from lightning_diagnostics.diagnostics.generalization_gap.rules import overfitting
from lightning_diagnostics.findings import Diagnosis, Rule
from tests.diagnostics.generalization_gap import sick
from tests.diagnostics.generalization_gap.networks import NETWORKS
from tests.diagnostics.generalization_gap.networks_data import Program, train
from tests.helpers import accusations

SEEDS = (0, 1, 2)
PROCESSES = 2
CRITERIA = ("GL", "PQ", "UP")


@dataclass
class Extremes:
    """The values of a run that come nearest to the limits, over all metrics.

    Attributes:
        validations: How many there were.
        rise: The largest rise of the validation loss above its best, as a share, after the patience, while training
            fell.
        sure: The same beyond noise, as the rule sees it: halved where there are too few batches to tell.
        worse: The largest worsening of the metric beside it, as a share, where the loss had risen so far beyond noise.
        good: The largest sure advantage of validation over training in enough validations in a row, over the limit.
        excess: How much higher the loss is in evaluation mode, as a multiple, in three validations in a row at least,
            while it is higher by the least that counts.
        lasted: Over how many steps evaluation mode was the worse by both limits.
        equal: In how many validations in a row none of them was better, at most.
        early: The criteria that the rule would accuse by.
    """

    validations: int = 0
    rise: float = -math.inf
    sure: float = -math.inf
    worse: float = -math.inf
    good: float = -math.inf
    excess: float = -math.inf
    lasted: int = 0
    equal: int = 0
    early: dict[str, str] = field(default_factory=dict[str, str])


class Measuring(GeneralizationGapMonitor):
    """Keeps the extremes of what its rules are given."""

    def __init__(self, **more: Any) -> None:
        super().__init__(strict=True, time_budget=1.0, **more)
        self.extremes = Extremes()
        self._modes: dict[str, list[float]] = {}

    @override
    def judge(self, trainer: Trainer, rule: Rule, measured: Any, *, step: int) -> Any:
        self.extremes.validations = self._course.validations
        if isinstance(measured, Onset):
            self._onset(measured)
        elif isinstance(measured, Advantage) and measured.validations >= self._limits.good_validations:
            scale = 0.1 if measured.share else abs(measured.training)
            self.extremes.good = max(self.extremes.good, -measured.high / scale / self._limits.good_margin)
        elif isinstance(measured, ModeGap):
            self._mode(measured)
        elif isinstance(measured, Baseline):
            self.extremes.equal = max(self.extremes.equal, measured.validations)
        return super().judge(trainer, rule, measured, step=step)

    def _onset(self, measured: Onset) -> None:
        """Judge by the other criteria, too."""
        worst, curve = self.extremes, self._course._watched[measured.metric]
        assert curve.best is not None
        for criterion in CRITERIA:
            score = replace(curve, criterion=criterion)._score(curve.best)
            other = replace(measured, criterion=criterion, score=score)
            verdict = overfitting.check(other, self._limits)
            if isinstance(verdict, Diagnosis):
                worst.early.setdefault(criterion, f"{measured.metric} {measured.step} after {measured.since}")
        learned, training = measured.training_best, measured.training_now
        if measured.since < measured.patience or learned is None or training is None or not measured.best:
            return
        if learned - training <= self._limits.fall * abs(learned):
            return
        rise = (measured.now - measured.best) / abs(measured.best)
        worst.rise = max(worst.rise, rise)
        if not (measured.low > 0 if measured.low is not None else measured.steady):
            return
        least = self._limits.rise * (1 if measured.low is not None else 2)
        worst.sure = max(worst.sure, rise * self._limits.rise / least)
        if rise > least and measured.partner_best and measured.partner_now is not None:
            change = measured.partner_now - measured.partner_best
            worse = -change if curve.direction == "max" else change
            worst.worse = max(worst.worse, worse / abs(measured.partner_best))

    def _mode(self, measured: ModeGap) -> None:
        worst, first = self.extremes, abs(self._course._first_losses[measured.metric])
        more = measured.evaluation_mode - measured.training_mode
        values = self._modes.setdefault(measured.metric, [])
        values.append(more / abs(measured.training_mode) if more > self._limits.mode_least * first else -math.inf)
        if len(values) >= self._limits.mode_validations:
            worst.excess = max(worst.excess, min(values[-self._limits.mode_validations :]))
        worst.lasted = max(worst.lasted, measured.lasted)


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
    found += [f"GAP101 by {criterion} at {about}" for criterion, about in monitor.extremes.early.items()]
    notes = sorted({f.code for f in monitor.findings if f not in accused})
    return Result(score, seconds, monitor.extremes, found, notes)


def _programs() -> dict[str, Program]:
    ill = [case.program(sick=True) for case in sick.CASES]
    well = [replace(case.program(sick=False), label=f"{case}_twin") for case in sick.CASES]
    return {program.name: program for program in (*NETWORKS, *ill, *well)}


def run_named(name: str, seed: int) -> Result:
    """The same in a process of its own."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for logger in ("lightning_diagnostics", "lightning.pytorch"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    return run(_programs()[name], seed)


def table(programs: Sequence[Program]) -> Iterator[str]:
    """The lines of the table, in Markdown: of healthy ones the largest of all seeds, of sick ones the smallest."""
    titles = (
        *("network", "score", "validations", "rise", "rise beyond noise", "worse", "validation better"),
        *("evaluation mode worse", "for steps", "no better than constant", "notes", "findings"),
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
                low = "" if program.learned(each.score) else "BEYOND ITS BAR"
                about = [f"{each.seconds:.1f} s", f"{each.score:.3f}", low, *each.notes, *each.findings]
                print(program.name, seed, *filter(None, about), file=sys.stderr, flush=True)  # noqa: T201  # progress


def _row(program: Program, runs: Sequence[Result]) -> str:
    scores, found = [each.score for each in runs], [each.extremes for each in runs]
    nearest = min if program.name in {str(case) for case in sick.CASES} else max
    cells = (
        program.name,
        f"{min(scores):.3g} to {max(scores):.3g}",
        str(max(each.validations for each in found)),
        _percent(nearest(each.rise for each in found)),
        _percent(nearest(each.sure for each in found)),
        _percent(nearest(each.worse for each in found)),
        _short(nearest(each.good for each in found)),
        _short(nearest(each.excess for each in found)),
        str(nearest(each.lasted for each in found)),
        str(nearest(each.equal for each in found)),
        ", ".join(sorted({note for each in runs for note in each.notes})) or "none",
        "; ".join(sorted({text.split(" (")[0] for each in runs for text in each.findings})) or "none",
    )
    return "| " + " | ".join(cells) + " |"


def _percent(value: float) -> str:
    return f"{100 * value:.2g}%" if math.isfinite(value) else "-"


def _short(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "-"


def main(names: list[str]) -> None:
    """Print the table, of all or of those named."""
    known = _programs()
    groups = {"sick": [str(case) for case in sick.CASES], "twins": [f"{case}_twin" for case in sick.CASES]}
    chosen = [each for name in names for each in groups.get(name, [name])] or [each.name for each in NETWORKS]
    for line in table([known[name] for name in chosen]):
        print(line, flush=True)  # noqa: T201  # a command line


if __name__ == "__main__":
    main(sys.argv[1:])
