"""What each callback costs: a Lightning training step with it over one without it, measured in turns in one process.

    MALLOC_ARENA_MAX=1 python tests/benchmarks/cost.py [--pairs 15] [--callback GraphLeakDetector] [workload ...]
    MALLOC_ARENA_MAX=1 python tests/benchmarks/cost.py --inside [--callback GraphLeakDetector] [workload ...]
    MALLOC_ARENA_MAX=1 python tests/benchmarks/cost.py --validation [--callback BatchNormGuard] [workload ...]
    MALLOC_ARENA_MAX=1 python tests/benchmarks/cost.py --gradients [--pairs 15] [workload ...]
    MALLOC_ARENA_MAX=1 python tests/benchmarks/cost.py --gap [--pairs 15] [workload ...]
    MALLOC_ARENA_MAX=1 python tests/benchmarks/cost.py --learning-rate [--inside] [--pairs 15] [workload ...]
    MALLOC_ARENA_MAX=1 python tests/benchmarks/cost.py --sweep [--pairs 15] [workload ...]

Prints, for each workload, the median ratio of processor time over the pairs with its quartiles, for an A/A pair (what
the method itself cannot tell from 1), for the defaults, and for a look at every step. ``--inside`` reads the clock in
every hook instead, which tells microseconds that the ratio of two runs cannot: the time in hooks of the median step,
and of the costliest twentieth (looks), each as 1 + its share of a bare step. ``--validation`` measures a validation of
100 batches by itself. ``--gradients`` measures, in one process and in turns, ``GradientNormMonitor`` in several ways
beside what is used in its place: Lightning's ``grad_norm`` logged from ``on_before_optimizer_step``, and
``wandb.watch`` offline, whose other process is not counted. ``--gap`` gives the time of a pass over a subset of the
training data over that of the validation itself, of as many samples in as many batches (100), with its eight batches in
training mode and without them. ``--learning-rate`` measures ``WarmupCooldownScheduler`` in the middle of a warmup,
between warmup and cooldown, and only watching, in turns, or by ``--inside`` in its hooks. ``--sweep`` measures what
``ExpectedValidationPerformance`` adds to a step, to a validation of 100 batches whose score is a new best one, and to
the end of a run in a sweep of 10, 100, 1,000 and 10,000 trials, with the picture and without it.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from inspect import signature
from typing import Any
from unittest.mock import patch

import torch
import wandb
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import grad_norm
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from workloads import WORKLOADS, Workload

from lightning_diagnostics import (
    ExpectedValidationPerformance,
    GeneralizationGapMonitor,
    GradientNormMonitor,
    WarmupCooldownScheduler,
)
from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.catalogue import callbacks
from lightning_diagnostics.diagnostics.expected_performance import drawing
from lightning_diagnostics.diagnostics.expected_performance.records import write
from lightning_diagnostics.diagnostics.expected_performance.trials import Trial
from lightning_diagnostics.diagnostics.gradients import callback as monitor
from lightning_diagnostics.diagnostics.learning_rate.scaling import Scaling

_VALIDATED = 100  # batches
_NEEDED: Mapping[str, Mapping[str, Any]] = {"ExpectedValidationPerformance": {"monitor": "val_loss"}}  # arguments
_WARM_UP = 12  # batches not timed: first batches, and the looks that every epoch begins with


class Timed(LightningModule):
    """A classifier whose steps are timed from the start of one batch to the start of the next."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.network = workload.network()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


class Clock(Callback):
    """Reads the processor time when the timed part begins and when training ends."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if batch_idx == _WARM_UP:
            self.begun = time.process_time()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begun = time.process_time()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = self.validated = time.process_time() - self.begun

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = time.process_time() - self.begun


def seconds_per_step(workload: Workload, extra: list[Callback], **options: Any) -> float:
    """Processor time of a training step of a fresh run."""
    torch.manual_seed(0)
    inputs = workload.inputs()
    batch = (inputs, torch.randint(0, 10, (len(inputs),)))
    loader = DataLoader([batch] * (workload.steps + _WARM_UP), batch_size=None)
    clock = Clock()
    _trainer(clock, *extra, **options).fit(Timed(workload), loader)
    return clock.seconds / workload.steps


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """The rows of one batch, over and over."""

    def __init__(self, workload: Workload) -> None:
        self.inputs = workload.inputs()

    def __len__(self) -> int:
        return _VALIDATED * len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index % len(self.inputs)], torch.tensor(0)


class Logged(Timed):
    """Logs its validation loss."""

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", functional.cross_entropy(self.network(batch[0]), batch[1]))


def seconds_of_validation(workload: Workload, extra: list[Callback]) -> float:
    """Processor time of the second validation of a fit, passes over training data included."""
    torch.manual_seed(0)
    rows, clock = Rows(workload), Clock()
    loader = DataLoader(rows, batch_size=len(rows.inputs))
    training = DataLoader(rows, batch_size=len(rows.inputs), shuffle=True)  # else only its first batch could be drawn
    _trainer(clock, *extra, max_epochs=2, limit_train_batches=1, num_sanity_val_steps=0).fit(
        Logged(workload), training, loader
    )
    return clock.validated


def compare_gap(name: str, pairs: int) -> None:
    """Print what a pass costs, in validations."""

    for modes in (False, True):
        with nullcontext() if modes else patch.object(insides, "training_modes", lambda trainer: {}):
            text, bare = compare(
                WORKLOADS[name], lambda: [GeneralizationGapMonitor(time_budget=1.0)], pairs, seconds_of_validation
            )
        what = "with" if modes else "without"
        print(f"{name}: a validation of {bare * 1e3:.0f} ms; {what} training mode {text}", flush=True)  # noqa: T201


def seconds_per_validation(workload: Workload, extra: list[Callback]) -> float:
    """Processor time of a validation of a fresh run."""
    torch.manual_seed(0)
    rows, clock = Rows(workload), Clock()
    loader = DataLoader(rows, batch_size=len(rows.inputs))
    _trainer(clock, *extra).validate(Timed(workload), loader, verbose=False)
    return clock.seconds


def _trainer(*callbacks: Callback, **options: Any) -> Trainer:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"max_epochs": 1, "logger": False}
    return Trainer(callbacks=list(callbacks), accelerator="cpu", **{**quiet, **options})


Measure = Callable[[Workload, list[Callback]], float]


def compare(
    workload: Workload, make: Callable[[], list[Callback]], pairs: int, measure: Measure = seconds_per_step
) -> tuple[str, float]:
    """The ratio with over without in ``pairs`` pairs, and the seconds of a bare step (or validation)."""
    bare, ratios = [], []
    for index in range(pairs):
        turns = [make, list] if index % 2 else [list, make]
        taken = {turn: measure(workload, turn()) for turn in turns}
        bare.append(taken[list])
        ratios.append(taken[make] / taken[list])
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})", statistics.median(bare)


def seconds_inside(workload: Workload, cls: type, **arguments: Any) -> list[float]:
    """Processor time in the hooks of a callback, those it has on optimizers included, batch by batch."""
    taken: list[float] = [0.0]
    within: list[object] = []  # the hooks under way: one that another calls is counted there

    def counted(method: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            begun = time.thread_time()
            within.append(method)
            result = method(*args)
            within.pop()
            if not within:
                taken[-1] += time.thread_time() - begun
            return result

        return call

    def timed(name: str) -> Callable[..., object]:
        def call(self: Callback, *args: object, **kwargs: object) -> object:
            begun = time.thread_time()
            result = getattr(super(kind, self), name)(*args, **kwargs)
            taken[-1] += time.thread_time() - begun
            if name == "on_train_batch_end":
                taken.append(0.0)
            return result

        return call

    hooks = [name for name in vars(Callback) if name.startswith("on_") and "exception" not in name]
    kind = type("Timed", (cls,), {name: timed(name) for name in hooks})
    hooked = {monitor.StepWatch: ("_before", "_after"), Scaling: ("_before", "_after", "_scale", "_restore")}
    with ExitStack() as patched:
        for owner, names in hooked.items():
            patched.enter_context(patch.multiple(owner, **{name: counted(getattr(owner, name)) for name in names}))
        seconds_per_step(workload, [kind(**arguments)])
    return taken[_WARM_UP:-1]


def variants(cls: type) -> dict[str, Callable[[], list[Callback]]]:
    """The ways in which a callback is measured."""
    found: dict[str, Callable[[], list[Callback]]] = {"defaults": lambda: [cls(**_NEEDED.get(cls.__name__, {}))]}
    if "every_n_train_steps" in signature(cls).parameters:
        found["a look at every step"] = lambda: [cls(every_n_train_steps=1)]
    return found


class LoggedNorms(Callback):
    """What Lightning's documentation has for gradient norms."""

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        pl_module.log_dict(grad_norm(pl_module, norm_type=2))


class Watched(Callback):
    """``wandb.watch`` of gradients and parameters at every step; the process that writes is not counted."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        os.environ["WANDB_SILENT"] = "true"
        self._run = wandb.init(mode="offline", dir=tempfile.mkdtemp(), settings=wandb.Settings(x_disable_stats=True))
        self._run.watch(pl_module, log="all", log_freq=1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self._run.log({})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._run.unwatch(pl_module)
        self._run.finish()


def gradient_ways() -> dict[str, tuple[Callable[[], list[Callback]], int, float | None]]:
    """By name: what makes the callbacks, the cadence of looks (0: as the callback has it), and the clipping value."""
    return {
        "bare": (list, 0, None),
        "an empty callback": (lambda: [Callback()], 0, None),
        "between looks": (lambda: [GradientNormMonitor()], 1_000_000, None),
        "a look in 10": (lambda: [GradientNormMonitor(every_n_train_steps=10)], 10, None),
        "defaults": (lambda: [GradientNormMonitor()], 0, None),
        "a look at every step": (lambda: [GradientNormMonitor(every_n_train_steps=1)], 1, None),
        "bare, clipping": (list, 0, 1.0),
        "clipping, between looks": (lambda: [GradientNormMonitor()], 1_000_000, 1.0),
        "grad_norm and log_dict": (lambda: [LoggedNorms()], 0, None),
        "wandb.watch": (lambda: [Watched()], 0, None),
    }


def _looks_each(cadence: int) -> AbstractContextManager[object]:
    """Looks at every so many batches and at no others; 0: as the monitor has it."""
    if not cadence:
        return nullcontext()
    return patch.object(monitor, "is_look", lambda index, **_: index % cadence == 0)


def compare_gradients(name: str, rounds: int) -> None:
    """Print the medians, with quartiles, of all ways over the bare step of the same round."""
    workload = WORKLOADS[name]
    ways = gradient_ways()
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for index in range(rounds):
        for way in list(ways) if index % 2 else reversed(ways):
            make, cadence, clip = ways[way]
            with _looks_each(cadence), tempfile.TemporaryDirectory() as folder:
                options = {"logger": TensorBoardLogger(folder), "log_every_n_steps": 1, "gradient_clip_val": clip}
                taken[way].append(seconds_per_step(workload, make(), **options))
    bases = {way: "bare, clipping" if way.startswith("clipping") else "bare" for way in list(ways)[1:]}
    print_ratios(name, taken, bases)


def print_ratios(name: str, taken: Mapping[str, list[float]], bases: Mapping[str, str]) -> None:
    """Print the median, with quartiles, of each way over another one, round by round."""
    print(f"{name}: a bare step takes {statistics.median(taken['bare']) * 1e3:.2f} ms", flush=True)  # noqa: T201
    for way, base in bases.items():
        ratios = [with_it / without for with_it, without in zip(taken[way], taken[base], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        print(f"{name}: {way}: {middle:.3f} ({low:.3f} to {high:.3f})", flush=True)  # noqa: T201


def rate_ways(workload: Workload) -> dict[str, Mapping[str, Any]]:
    """Arguments of `WarmupCooldownScheduler` by what it does in the steps that are timed."""
    return {
        "in mid-warmup": {"warmup": workload.steps + _WARM_UP, "cooldown": None},
        "in the stable phase": {"warmup": None, "cooldown": 1},
        "only watching": WarmupCooldownScheduler.only_watching,
    }


def scheduled(arguments: Mapping[str, Any]) -> list[Callback]:
    return [WarmupCooldownScheduler(**arguments, strict=True)]


def compare_rates(name: str, rounds: int) -> None:
    """Print the medians, with quartiles, of the ways of `WarmupCooldownScheduler` over the bare step of a round."""
    workload = WORKLOADS[name]
    ways: dict[str, Callable[[], list[Callback]]] = {"bare": list, "an empty callback": lambda: [Callback()]}
    for way, arguments in rate_ways(workload).items():
        ways[way] = partial(scheduled, arguments)
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for index in range(rounds):
        for way in list(ways) if index % 2 else reversed(ways):
            with tempfile.TemporaryDirectory() as folder:
                taken[way].append(seconds_per_step(workload, ways[way](), logger=TensorBoardLogger(folder)))
    print_ratios(name, taken, {way: "bare" for way in ways if way != "bare"})


def sweep_callback(folder: str) -> list[Callback]:
    return [ExpectedValidationPerformance(monitor="val_loss", folder=folder, strict=True)]


class Ends(ExpectedValidationPerformance):
    """Reads the clock before and after all that is done at the end of a run."""

    seconds = 0.0

    def wind_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        begun = time.perf_counter()
        super().wind_up(trainer, pl_module)
        self.seconds = time.perf_counter() - begun


def seconds_of_end(workload: Workload, folder: str) -> float:
    """Wall time of the end of a run whose siblings have their records below a folder."""
    rows, ends = Rows(workload), Ends(monitor="val_loss", folder=folder, strict=True)
    loader = DataLoader(rows, batch_size=len(rows.inputs))
    logger = TensorBoardLogger(folder)
    _trainer(ends, limit_train_batches=1, limit_val_batches=1, logger=logger).fit(Logged(workload), loader, loader)
    return ends.seconds


def compare_sweeps(name: str, rounds: int) -> None:
    """Print what a record costs in the hooks of a step and in a validation, and what the end of a run costs."""
    workload = WORKLOADS[name]
    with tempfile.TemporaryDirectory() as folder:
        bare = seconds_per_step(workload, [])
        measured = {"an empty callback": (Callback, {})}
        measured["a record"] = (ExpectedValidationPerformance, {"monitor": "val_loss", "folder": folder})
        for what, (cls, given) in measured.items():
            middle = statistics.median(seconds_inside(workload, cls, **given))
            print(f"{name}: {what}, a step of {bare * 1e3:.2f} ms: {middle * 1e6:.0f} us", flush=True)  # noqa: T201
        text, bare = compare(workload, lambda: sweep_callback(folder), rounds, seconds_of_validation)
        print(f"{name}: a validation of {bare * 1e3:.0f} ms: {text}", flush=True)  # noqa: T201
    for count in (10, 100, 1000, 10_000):
        with tempfile.TemporaryDirectory() as folder:
            for index in range(count - 1):
                settings = {"learning_rate": 0.001 * index, "width": index}
                score, run = 1 + (index * 7919 % 1000) / 1000, f"{index:032x}"
                mine = Trial(run, "val_loss", "min", "completed", score=score, readings=9, hyperparameters=settings)
                write(mine, f"{folder}/lightning_logs/trial_{index}")
            with_picture = seconds_of_end(workload, folder)
            with patch.object(drawing, "picture", side_effect=ImportError):
                without = seconds_of_end(workload, folder)
            text = f"{with_picture:.2f} s, without the picture {without:.2f} s"
        print(f"{name}: the end of a run in a sweep of {count}: {text}", flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--callback", choices=sorted(callbacks()), action="append")
    parser.add_argument("--inside", action="store_true")
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--gradients", action="store_true")
    parser.add_argument("--gap", action="store_true")
    parser.add_argument("--learning-rate", action="store_true")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning_diagnostics"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in options.workloads:
        workload = WORKLOADS[name]
        if options.gradients:
            compare_gradients(name, options.pairs)
            continue
        if options.sweep:
            compare_sweeps(name, options.pairs)
            continue
        if options.gap:
            compare_gap(name, options.pairs)
            continue
        if options.inside:
            measured: dict[str, tuple[type, Mapping[str, Any]]] = {"an empty callback": (Callback, {})}
            if options.learning_rate:
                measured |= {way: (WarmupCooldownScheduler, given) for way, given in rate_ways(workload).items()}
            else:
                measured |= {
                    each: (callbacks()[each], _NEEDED.get(each, {})) for each in options.callback or sorted(callbacks())
                }
            bare = seconds_per_step(workload, [])
            for what, (cls, given) in measured.items():
                *_, costly = statistics.quantiles(taken := seconds_inside(workload, cls, **given), n=20)
                shares = (f"{each * 1e6:.0f} us ({1 + each / bare:.4f})" for each in (statistics.median(taken), costly))
                print(f"{name}: {what}, a step of {bare * 1e3:.2f} ms: {', at looks '.join(shares)}")  # noqa: T201
            continue
        if options.learning_rate:
            compare_rates(name, options.pairs)
            continue
        measure, what = (seconds_per_validation, "validation") if options.validation else (seconds_per_step, "step")
        text, bare = compare(workload, lambda: [Callback()], options.pairs, measure)
        print(f"{name}: a bare {what} takes {bare * 1e3:.2f} ms; an empty callback {text}", flush=True)  # noqa: T201
        for callback in options.callback or sorted(callbacks()):
            for variant, make in variants(callbacks()[callback]).items():
                text, _ = compare(workload, make, options.pairs, measure)
                print(f"{name}: {callback}, {variant}: {text}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
