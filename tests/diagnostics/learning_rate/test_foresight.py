"""The rates that are foreseen are those of the run, step by step; and looking ahead leaves the run as it was."""

import itertools
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim import lr_scheduler
from typing_extensions import override

from lightning_diagnostics import WarmupCooldownScheduler
from lightning_diagnostics.diagnostics.learning_rate import foresight
from tests.diagnostics.learning_rate import networks
from tests.diagnostics.learning_rate.networks import adam, by, momentum
from tests.diagnostics.learning_rate.networks_data import Program, Regression, Size, rows, table, train
from tests.helpers import accusations, trainer

pytestmark = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")

Curves = dict[str, dict[int, float]]

SHORT, ACCUMULATED, UNEVEN = Size(4, 12), Size(5, 12, 4), Size(4, 11, 4)
WATCHING = dict(WarmupCooldownScheduler.only_watching)
ACTING = {"warmup": 7, "cooldown": 0.25}
BY_NAME = {program.name: program for program in networks.NETWORKS}
FORESEEN = (
    *("step_30_60_90", "multi_step", "exponential", "cosine_by_epoch", "cosine_with_floor", "cosine_every_other_epoch"),
    *("warmup_over_five_epochs", "warmup_then_cosine_by_epoch", "waves_by_epoch", "cosine_by_step", "waves_by_step"),
    *("warm_restarts", "one_cycle", "one_cycle_three_phases", "cyclic", "polynomial", "linear_to_zero"),
    *("warmup_then_cosine_by_step", "warmup_times_decay", "two_intervals", "cosine_every_tenth_step"),
    *("multiplicative", "hugging_face_linear", "inverse_square_root", "twice_to_zero", "layer_wise_decay"),
    *("a_head_that_is_thawed", "tensor_rates", "no_scheduler"),
)


def drawn(folder: Path, size: Size, program: Program, arguments: dict[str, Any]) -> tuple[Curves, Curves]:
    """Train with a look at every step; gives what was planned and what was used, by group and step."""
    board = TensorBoardLogger(folder)
    settings = {"logger": board, **program.settings(size)}
    program = replace(program, settings=lambda size: settings)
    train(program, size, lambda: WarmupCooldownScheduler(strict=True, every_n_train_steps=1, **arguments))
    return curves(Path(board.log_dir))


def curves(folder: Path) -> tuple[Curves, Curves]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    found: dict[str, Curves] = {"planned": {}, "used": {}}
    for tag in events.Tags()["scalars"]:
        room, _, rest = tag.partition("/")
        kind, _, group = rest.partition("/")
        if room == "learning_rate" and kind in found:
            found[kind][group] = {each.step: each.value for each in events.Scalars(tag)}
    return found["planned"], found["used"]


@pytest.mark.parametrize("acting", [False, True], ids=["watching", "acting"])
@pytest.mark.parametrize("name", FORESEEN)
def test_what_is_planned_is_what_is_used(name: str, acting: bool, tmp_path: Path) -> None:
    size = SHORT if len(name) % 2 else ACCUMULATED
    planned, used = drawn(tmp_path, size, BY_NAME[name], ACTING if acting else WATCHING)
    assert planned == used
    assert {tuple(curve) for curve in planned.values()} == {tuple(range(size.steps))}
    if name != "no_scheduler" or acting:
        assert any(len(set(curve.values())) > 1 for curve in planned.values())


def test_there_are_as_many_schedules_as_a_claim_needs() -> None:
    assert len(set(FORESEEN)) >= 15


@pytest.mark.slow
@pytest.mark.parametrize("acting", [False, True], ids=["watching", "acting"])
@pytest.mark.parametrize("size", [SHORT, ACCUMULATED, UNEVEN, Size(1, 30), Size(20, 1)], ids=str)
@pytest.mark.parametrize("name", FORESEEN)
def test_what_is_planned_is_what_is_used_in_runs_of_all_sizes(
    name: str, size: Size, acting: bool, tmp_path: Path
) -> None:
    planned, used = drawn(tmp_path, size, BY_NAME[name], ACTING if acting else WATCHING)
    assert planned == used
    assert {tuple(curve) for curve in planned.values()} == {tuple(range(size.steps))}


@pytest.mark.parametrize("name", ["one_cycle", "cosine_every_other_epoch", "a_head_that_is_thawed"])
def test_an_epoch_whose_last_batches_make_a_step_of_their_own_is_foreseen(name: str, tmp_path: Path) -> None:
    planned, used = drawn(tmp_path, UNEVEN, BY_NAME[name], ACTING)
    assert planned == used
    assert {tuple(curve) for curve in planned.values()} == {tuple(range(12))}


@pytest.mark.parametrize("acting", [False, True], ids=["watching", "acting"])
@pytest.mark.parametrize("frequency", [3, 4, 5])
@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_the_frequency_is_foreseen(interval: str, frequency: int, acting: bool, tmp_path: Path) -> None:
    def configure(module: Regression) -> Any:
        optimizer = adam(module)
        return by(optimizer, lr_scheduler.StepLR(optimizer, 1, 0.5), interval, frequency=frequency)

    planned, used = drawn(tmp_path, Size(7, 11, 2), Program(configure), ACTING if acting else WATCHING)
    assert planned == used
    assert len(set(planned["AdamW"].values())) > 1


def test_two_optimizers_are_foreseen_apart_where_lightning_steps_both(tmp_path: Path) -> None:
    """Lightning allows this in manual optimisation only: what is planned is the factor times the rates of now."""
    planned, _ = drawn(tmp_path, SHORT, replace(BY_NAME["adversaries_by_step"], configure=_two_rates), WATCHING)
    assert {name: set(curve.values()) for name, curve in planned.items()} == {
        "Adam": {np.float32(0.25)},
        "SGD": {np.float32(0.5)},
    }


def _two_rates(module: Regression) -> Any:
    first, _, last = module.net
    return [torch.optim.Adam(first.parameters(), lr=0.25), torch.optim.SGD(last.parameters(), lr=0.5)]


@pytest.mark.parametrize("acting", [False, True], ids=["watching", "acting"])
@pytest.mark.parametrize("name", ["one_cycle", "warmup_then_cosine_by_epoch", "two_intervals", "layer_wise_decay"])
def test_after_a_resume_the_rest_is_foreseen(name: str, acting: bool, tmp_path: Path) -> None:
    program, size = BY_NAME[name], SHORT
    arguments = ACTING if acting else WATCHING
    boards = [TensorBoardLogger(tmp_path / part) for part in ("first", "second")]

    def go(board: Any, **more: Any) -> Any:
        ours = WarmupCooldownScheduler(strict=True, every_n_train_steps=1, **arguments)
        return trainer(ours, **{"logger": board, "max_epochs": size.epochs, **more})

    torch.manual_seed(0)
    checkpoint = tmp_path / "half.ckpt"
    stopped = go(boards[0])
    stopped.callbacks.append(SavesAndStops(27, checkpoint))  # in the middle of an epoch
    stopped.fit(Regression(program.configure, size), rows(size))
    go(boards[1]).fit(Regression(program.configure, size), rows(size), ckpt_path=checkpoint)
    _, before = curves(Path(boards[0].log_dir))
    planned, used = curves(Path(boards[1].log_dir))
    assert planned == used
    assert {tuple(curve) for curve in planned.values()} == {tuple(range(27, 48))}
    whole = {name: {**before[name], **used[name]} for name in used}
    assert whole == drawn(tmp_path / "whole", size, program, arguments)[1]


class SavesAndStops(Callback):
    """Ends a run at a step, where it leaves a checkpoint."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    @override
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


# Looking ahead leaves no trace.


def weights(configure: Callable[[Any], Any], ours: Any, size: Size = SHORT, kind: type[Regression] = Regression) -> Any:
    """Train; gives the weights, and the random numbers that come next."""
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    module = kind(configure, size)
    run = trainer(*([ours] if ours is not None else []), max_epochs=size.epochs)
    run.fit(module, rows(size))
    numbers = (torch.rand(1).item(), np.random.rand(), random.random())
    return [each.tolist() for each in module.parameters()], [group["lr"] for group in _groups(run)], numbers


def _groups(run: Any) -> list[dict[str, Any]]:
    return [group for optimizer in run.optimizers for group in optimizer.param_groups]


class Counting:
    """A function with a state: its own calls count."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, step: int) -> float:
        self.calls += 1
        return 1 / self.calls


def with_state(module: Regression) -> Any:
    optimizer = adam(module)
    return by(optimizer, lr_scheduler.LambdaLR(optimizer, Counting()), "step")


def with_a_closure(module: Regression) -> Any:
    """State that a function has in what it encloses."""
    optimizer, calls = adam(module), [0]

    def factor(step: int) -> float:
        calls[0] += 1
        return 1 / calls[0]

    return by(optimizer, lr_scheduler.LambdaLR(optimizer, factor), "step")


def with_a_generator(module: Regression) -> Any:
    optimizer, draw = adam(module), np.random.default_rng(1)
    return by(optimizer, lr_scheduler.LambdaLR(optimizer, lambda step: draw.uniform(0.5, 1.0)), "step")


def with_a_default(module: Regression) -> Any:
    """State that a function has in its own defaults."""
    optimizer, calls = adam(module), itertools.count(1)
    return by(optimizer, lr_scheduler.LambdaLR(optimizer, lambda step, calls=calls: 1 / next(calls)), "step")


def with_chance(module: Regression) -> Any:
    """Draws from all global generators."""
    optimizer = adam(module)

    def factor(step: int) -> float:
        return (torch.rand(1).item() + np.random.rand() + random.random()) / 3

    return by(optimizer, lr_scheduler.LambdaLR(optimizer, factor), "step")


def with_the_module(module: Regression) -> Any:
    """Counts in the module, and reads its weights."""
    optimizer, layer = adam(module), cast(Any, module.net[0])
    layer.asked = 0

    def factor(step: int) -> float:
        layer.asked += 1
        return 1 / (layer.asked + layer.weight.norm().item())

    return by(optimizer, lr_scheduler.LambdaLR(optimizer, factor), "step")


class HoldsAll(lr_scheduler.LRScheduler):
    """A scheduler of the program's own, with the module, the Trainer and a list."""

    def __init__(self, optimizer: Any, module: Regression) -> None:
        self.module, self.log = module, list[float]()
        self.trainer = module.trainer
        super().__init__(optimizer)

    @override
    def get_lr(self) -> list[Any]:
        self.log.append(cast(Any, self.module.net[2]).bias.sum().item())
        return [base / len(self.log) for base in self.base_lrs]


def with_all(module: Regression) -> Any:
    optimizer = adam(module)
    return by(optimizer, HoldsAll(optimizer, module), "step")


def with_momentum(module: Regression) -> Any:
    optimizer = momentum(module)
    return by(optimizer, lr_scheduler.OneCycleLR(optimizer, 4e-2, total_steps=module.size.steps), "step")


DISTURBED = (with_state, with_a_closure, with_a_generator, with_a_default, with_chance, with_the_module, with_all)


@pytest.mark.parametrize("configure", [*DISTURBED, with_momentum], ids=lambda configure: configure.__name__)
def test_looking_ahead_leaves_the_run_as_it_was_to_the_bit(configure: Any) -> None:
    plain = weights(configure, None)
    assert weights(configure, WarmupCooldownScheduler(strict=True, **WATCHING)) == plain


def test_a_scheduler_keeps_its_optimizer_and_the_optimizer_its_groups() -> None:
    seen: list[Any] = []

    class Keeps(Regression):
        @override
        def on_train_start(self) -> None:
            (config,) = self.trainer.lr_scheduler_configs
            seen.append((config.scheduler.optimizer is self.trainer.optimizers[0], config.scheduler.last_epoch))
            seen.append(self.trainer.optimizers[0].param_groups[0]["params"][0] is self.net[0].weight)

    weights(with_momentum, WarmupCooldownScheduler(strict=True), kind=Keeps)
    assert seen == [(True, 0), True]


# What cannot be foreseen.


class Fails(lr_scheduler.LRScheduler):
    """Fails when it is stepped before the run has begun."""

    def __init__(self, optimizer: Any, module: Regression) -> None:
        self.module = module
        super().__init__(optimizer)

    @override
    def get_lr(self) -> list[Any]:
        if self.last_epoch and not self.module.trainer.global_step:
            raise RuntimeError("there is no step yet")
        return [base / (1 + self.last_epoch) for base in self.base_lrs]


class Uncopied(lr_scheduler.LambdaLR):
    """Holds what cannot be copied."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__(optimizer, lambda step: 1 / (1 + step))

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot be copied")


class Slow(lr_scheduler.LambdaLR):
    """Takes long for a step."""

    def __init__(self, optimizer: Any) -> None:
        self.asleep = 0.0
        super().__init__(optimizer, lambda step: 1 / (1 + step))

    @override
    def get_lr(self) -> list[Any]:
        time.sleep(self.asleep)
        return super().get_lr()


def notes(kind: Callable[[Any, Regression], Any], **settings: Any) -> list[str]:
    """What is said of a schedule that cannot be foreseen; the run itself goes on."""

    def configure(module: Regression) -> Any:
        optimizer = adam(module)
        return by(optimizer, kind(optimizer, module), "step")

    ours = WarmupCooldownScheduler(strict=True, **WATCHING)
    module = Regression(configure, SHORT)
    before = module.loss(table(64)).item()
    run = trainer(ours, **{"max_epochs": SHORT.epochs, **settings})
    run.fit(module, rows(SHORT))
    assert run.global_step > 0
    assert module.loss(table(64)).item() < before
    assert accusations(ours) == []
    return [finding.message for finding in ours.findings if finding.code == "LR901"]


def test_a_schedule_that_fails_ahead_of_the_run_is_not_foreseen() -> None:
    (said,) = notes(Fails)
    assert said == "not foreseen: the schedule (Fails (RuntimeError: there is no step yet))."


def test_a_scheduler_that_cannot_be_copied_is_not_foreseen() -> None:
    assert notes(lambda optimizer, module: Uncopied(optimizer)) == [
        "not foreseen: Uncopied, of which no copy can be made (TypeError)."
    ]


def test_a_slow_schedule_is_foreseen_as_far_as_time_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foresight, "_MOST", 3999)
    monkeypatch.setattr(foresight, "_START", 256)
    board = TensorBoardLogger(tmp_path)

    def configure(module: Regression) -> Any:
        optimizer = adam(module)
        return by(optimizer, lr_scheduler.CosineAnnealingLR(optimizer, 4000), "step")

    ours = WarmupCooldownScheduler(strict=True, **WATCHING)
    run = trainer(ours, Stops(), logger=board, max_epochs=-1, max_steps=4000)
    run.fit(Regression(configure, SHORT), rows(SHORT))
    (said,) = [finding.message for finding in ours.findings if finding.code == "LR901"]
    assert said == "not foreseen: the schedule after step 256, for the time it takes."
    planned, _ = curves(Path(board.log_dir))
    assert max(planned["AdamW"]) == 240  # every twentieth of the steps up to that one
    assert {finding.code for finding in ours.findings} == {"LR901"}


class Stops(Callback):
    """Ends the run with its first batch."""

    @override
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = True


def test_a_slow_scheduler_takes_no_more_time_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asleep: list[float] = []
    monkeypatch.setattr(time, "sleep", asleep.append)
    clock = itertools.count()  # it is read at the start and after each step
    monkeypatch.setattr(foresight, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(foresight, "_SECONDS", 2.0)

    def kind(optimizer: Any, module: Regression) -> Any:
        found = Slow(optimizer)
        found.asleep = 1.0
        return found

    (said,) = notes(kind, max_epochs=-1, max_steps=600)
    assert "not foreseen: the schedule after step 3, for the time it takes." in said
    assert asleep == [0.0, *[1.0] * (3 + 600)]  # the first where it is made


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (networks.plateau, "not foreseen: ReduceLROnPlateau, which waits for a metric."),
        (networks.plateau_and_warmup, "not foreseen: ReduceLROnPlateau, which waits for a metric."),
    ],
)
def test_a_schedule_that_waits_for_a_metric_is_not_foreseen(kind: Any, said: str) -> None:
    ours = WarmupCooldownScheduler(strict=True, **WATCHING)
    train(Program(kind), SHORT, lambda: ours)
    assert [finding.message for finding in ours.findings if finding.code == "LR901"] == [said]


def test_a_schedule_that_the_module_steps_is_not_foreseen() -> None:
    ours = WarmupCooldownScheduler(strict=True, **WATCHING)
    train(BY_NAME["adversaries_by_step"], SHORT, lambda: ours)
    (said,) = [finding.message for finding in ours.findings if finding.code == "LR901"]
    assert said == "not foreseen: LinearLR, which the module steps by itself."


def test_of_a_run_without_an_end_nothing_is_foreseen_and_nothing_is_drawn(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path)
    ours = WarmupCooldownScheduler(strict=True, **WATCHING)
    run = trainer(ours, Stops(), logger=board, max_epochs=-1)
    run.fit(Regression(networks.warm_restarts_by_epoch, SHORT), rows(SHORT))
    planned, used = curves(Path(board.log_dir))
    assert planned == {}
    assert list(used) == ["AdamW"]
    assert ours.findings == []


def test_the_length_of_a_scheduler_is_its_own() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    assert foresight.own_length(lr_scheduler.OneCycleLR(optimizer, 0.1, epochs=3, steps_per_epoch=7)) == 21
    assert foresight.own_length(lr_scheduler.CosineAnnealingLR(optimizer, 13)) == 13
    assert foresight.own_length(lr_scheduler.PolynomialLR(optimizer, 17)) == 17
    assert foresight.own_length(lr_scheduler.LinearLR(optimizer, 0.5, total_iters=5)) == 5
    assert foresight.own_length(lr_scheduler.ConstantLR(optimizer, total_iters=6)) == 6
    assert foresight.own_length(lr_scheduler.StepLR(optimizer, 3)) is None
    parts = [lr_scheduler.LinearLR(optimizer, 0.5, total_iters=5), lr_scheduler.CosineAnnealingLR(optimizer, 20)]
    assert foresight.own_length(lr_scheduler.SequentialLR(optimizer, parts, [8])) == 28
    parts = [lr_scheduler.LinearLR(optimizer, 0.5, total_iters=5), lr_scheduler.StepLR(optimizer, 2)]
    assert foresight.own_length(lr_scheduler.SequentialLR(optimizer, parts, [8])) is None
