"""The sweep over healthy schedules, as a table: how near each of them comes to the limits of the rules.

``python -m tests.diagnostics.learning_rate.sweep [name ...]``
"""

import itertools
import logging
import math
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch
from lightning.pytorch import Trainer
from typing_extensions import override

from lightning_diagnostics import WarmupCooldownScheduler
from lightning_diagnostics.diagnostics.learning_rate.measure import Course, SchedulerPlan, Stepping
from lightning_diagnostics.findings import Rule
from tests.diagnostics.learning_rate.networks import NETWORKS
from tests.diagnostics.learning_rate.networks_data import Program, Size, train
from tests.helpers import accusations

ACTING = (False, True)
PROCESSES = 2


@dataclass
class Extremes:
    """The values of a run that come nearest to the limits, over all optimizers and schedulers.

    Attributes:
        total: Steps of the run.
        rise: The planned rate of the last step over that of the first, where it never falls and rises to the end.
        low: Share of the run in which the planned rate is as good as zero.
        longest: The longest a scheduler is, in multiples of the times that it is stepped.
        shortest: The shortest one that is by its nature as long as a run.
        idle: Epochs that ended before a scheduler that is stepped by hand was stepped, at most.
    """

    total: int = 0
    rise: float = 1.0
    low: float = 0.0
    longest: float = 0.0
    shortest: float | None = None
    idle: int = 0


class Measuring(WarmupCooldownScheduler):
    """Keeps the extremes of what its rules are given."""

    def __init__(self, **more: Any) -> None:
        super().__init__(strict=True, **more)
        self.extremes = Extremes()

    @override
    def judge(self, trainer: Trainer, rule: Rule, measured: Any, *, step: int) -> Any:
        worst = self.extremes
        if isinstance(measured, Course):
            self._course(measured)
        elif isinstance(measured, SchedulerPlan) and measured.length and measured.calls:
            ratio = measured.length / measured.calls
            worst.longest = max(worst.longest, ratio)
            if measured.whole:
                worst.shortest = min(worst.shortest or ratio, ratio)
        elif isinstance(measured, Stepping) and not measured.stepped:
            worst.idle = max(worst.idle, measured.epochs)
        return super().judge(trainer, rule, measured, step=step)

    def _course(self, measured: Course) -> None:
        worst, rates = self.extremes, measured.rates
        worst.total = max(worst.total, measured.total)
        rises = all(later >= earlier for earlier, later in itertools.pairwise(rates))
        if rises and rates[-1] > rates[len(rates) // 2]:
            worst.rise = max(worst.rise, rates[-1] / rates[0] if rates[0] else math.inf)
        floor = self._limits.vanished_ratio * max(rates)
        worst.low = max(worst.low, sum(rate <= floor for rate in rates) / len(rates))


@dataclass(frozen=True)
class Result:
    """What one run gave."""

    score: float
    seconds: float
    extremes: list[Extremes]
    findings: list[str]
    notes: list[str]


def run(program: Program, size: Size, *, acting: bool) -> Result:
    """Train once; the callback only watches, or acts as well."""
    arguments = program.acting if acting else dict(WarmupCooldownScheduler.only_watching)
    start = time.perf_counter()
    score, ours = train(program, size, lambda: Measuring(**arguments))
    seconds = time.perf_counter() - start
    accused = [finding for each in ours for finding in accusations(each)]
    found = [f"{f.code} at {f.where} ({f.status}, step {f.first_step}): {f.message}" for f in accused]
    notes = sorted({f.code for each in ours for f in each.findings if f not in accused})
    return Result(score, seconds, [each.extremes for each in ours], found, notes)


def run_named(name: str, place: int, acting: bool) -> Result:
    """The same in a process of its own."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for logger in ("lightning_diagnostics", "lightning.pytorch"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    program = next(program for program in NETWORKS if program.name == name)
    return run(program, program.sizes[place], acting=acting)


def table(programs: Sequence[Program]) -> Iterator[str]:
    """The lines of the table, in Markdown."""
    titles = ("program", "loss fell to", "steps", "rises to", "as good as zero", "length over stepped")
    titles += ("idle epochs", "notes, watching", "notes, acting", "findings")
    yield "| " + " | ".join(titles) + " |"
    yield "|" + " --- |" * len(titles)
    ways = [(place, acting) for acting in ACTING for place in range(3)]
    tasks = [(program.name, *way) for program in programs for way in ways]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        results = pool.map(run_named, *zip(*tasks, strict=True))
        for program in programs:
            runs = [next(results) for _ in ways]
            yield _row(program, runs)
            for (place, acting), each in zip(ways, runs, strict=True):
                high = "ABOVE ITS BAR" if not each.score <= program.bar else ""
                about = [f"{each.seconds:.1f} s", f"{each.score:.3f}", high, *each.notes, *each.findings]
                words = [program.name, str(program.sizes[place]), "acting" * acting, *about]
                print(*filter(None, words), file=sys.stderr, flush=True)  # noqa: T201  # progress


def _row(program: Program, runs: Sequence[Result]) -> str:
    scores = [each.score for each in runs]
    found = [extremes for each in runs for extremes in each.extremes]
    shortest = [each.shortest for each in found if each.shortest is not None]
    longest = max(each.longest for each in found)
    watching, acting = (
        ", ".join(sorted({note for each in some for note in each.notes})) or "none" for some in (runs[:3], runs[3:])
    )
    cells = (
        program.name,
        f"{min(scores):.2g} to {max(scores):.2g}",
        ", ".join(dict.fromkeys(str(each.total) for each in found if each.total)) or "-",
        _rise(max(each.rise for each in found)),
        f"{max(each.low for each in found):.1%}" if any(each.low for each in found) else "-",
        f"{min(shortest, default=longest):.2g} to {longest:.2g}" if longest else "-",
        str(max(each.idle for each in found)) if any(each.idle for each in found) else "-",
        *(watching, acting),
        "; ".join(sorted({text.split(" (")[0] for each in runs for text in each.findings})) or "none",
    )
    return "| " + " | ".join(cells) + " |"


def _rise(rise: float) -> str:
    return "-" if rise == 1 else f"{rise:.2g}" if math.isfinite(rise) else "from 0"


def main(names: list[str]) -> None:
    """Print the table, of all or of those named."""
    chosen = [program for program in NETWORKS if not names or program.name in names]
    for line in table(chosen):
        print(line, flush=True)  # noqa: T201  # a command line


if __name__ == "__main__":
    main(sys.argv[1:])
