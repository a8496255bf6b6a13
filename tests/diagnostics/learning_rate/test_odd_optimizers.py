"""Optimizers and programs that do not do as the others: rates stay exact, and the program's own stay its own."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from tests import helpers
from tests.diagnostics.learning_rate.models import (
    BATCHES,
    ByHand,
    Program,
    by_hand,
    data,
    factor,
    own_rates,
    rates,
    restart,
    same,
    schedule,
    spied,
    train,
    weights,
)

TOTAL = 30


# Optimizers around and under others.


class SharpnessAware(Optimizer):
    """Climbs before it descends, with an optimizer inside that has the same groups."""

    def __init__(self, base: Any) -> None:
        super().__init__(base.param_groups, {})
        self.base = base
        self.param_groups = base.param_groups

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # one of torch's overloads
        loss = torch.enable_grad()(closure)()
        places = [p for group in self.param_groups for p in group["params"]]
        climbs = [0.05 * p.grad / (p.grad.norm() + 1e-12) for p in places]
        for place, climb in zip(places, climbs, strict=True):
            place.add_(climb)
        torch.enable_grad()(closure)()
        for place, climb in zip(places, climbs, strict=True):
            place.sub_(climb)
        self.base.step()
        return loss


def test_a_wrapper_that_shares_its_groups_and_runs_the_closure_twice() -> None:
    program = Program(lambda program: SharpnessAware(program.spied(params=program.groups(lr=0.05))))
    trainer = train(program, schedule(), max_epochs=3)
    assert program.used == [(step, rate * factor(step, TOTAL)) for step in range(TOTAL) for rate in (0.1, 0.05)]
    assert program.read == [[0.1, 0.05]] * 2 * TOTAL  # in each closure
    assert own_rates(trainer) == [0.1, 0.05]


class Derived(SGD):
    """Has a step of its own that calls the one of its parent."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class TwiceDerived(Derived):
    """Has one more, and runs the closure itself."""

    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        super().step()
        return loss


@pytest.mark.parametrize("kind", [Derived, TwiceDerived])
@pytest.mark.parametrize("program", [Program, ByHand])
def test_a_step_that_calls_the_one_of_its_parent(kind: type[Optimizer], program: type[Program]) -> None:
    SGD([nn.Parameter(torch.zeros(1))])  # of which torch makes the steps of all parents call hooks
    Derived([nn.Parameter(torch.zeros(1))])
    ours = program(lambda program: program.spied(kind))
    trainer = train(ours, schedule(), max_epochs=3)
    assert ours.used == [(step, 0.1 * by_hand(step, step, TOTAL)) for step in range(TOTAL)]
    assert ours.read == [[0.1]] * TOTAL
    assert own_rates(trainer) == [0.1]


def test_the_optimizer_inside_is_stepped_alone_in_between() -> None:
    """The inner one is none of the Trainer's: its own steps are not multiplied."""

    class Alone(ByHand):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.go(self.optimizers(), batch)
            self.go(inner[0], batch)

    inner: list[Any] = []

    def configure(program: Program) -> Any:
        inner.append(program.spied(lr=0.05))
        return program.spied()

    program = Alone(configure)
    train(program, schedule(), max_epochs=3)
    assert rates(program.used)[::2] == [0.1 * by_hand(step, step, TOTAL) for step in range(TOTAL)]
    assert rates(program.used)[1::2] == [0.05] * TOTAL


class Duck:
    """Steps as an optimizer does and is none of torch's."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.param_groups, self.defaults, self.state = optimizer.param_groups, optimizer.defaults, optimizer.state

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        self.optimizer.zero_grad(*args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict)


def test_an_optimizer_without_hooks_is_left_alone_and_noted() -> None:
    program, callback = Program(lambda program: Duck(program.spied())), schedule()
    train(program, callback, max_epochs=3)
    assert program.used == [(step, 0.1) for step in range(TOTAL)]
    (note,) = (finding for finding in callback.findings if finding.code == "LR901")
    assert "Duck has no hooks, so that its rate is not multiplied" in note.message


# Steps that fail, and steps that set the rate.


class Fails(SGD):
    """Raises an error in some steps, before or after its arithmetic."""

    calls = 0
    late = False

    def step(self, closure: Any = None) -> Any:
        self.calls += 1
        if not self.late and self.calls % 4 == 0:
            raise ArithmeticError("not this time")
        value = super().step(closure)
        if self.late and self.calls % 4 == 0:
            raise ArithmeticError("not this time")
        return value


class FailsLate(Fails):
    """Raises it after its arithmetic."""

    late = True


class FailsInside(SGD):
    """Raises it within the arithmetic of torch's own step."""

    calls = 0

    def _init_group(self, group: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls % 4 == 0:
            raise ArithmeticError("not this time")
        return super()._init_group(group, *args, **kwargs)


def goes_on(program: ByHand, batch: Any, batch_idx: int) -> None:
    optimizer: Any = program.optimizers()
    try:
        program.go(optimizer, batch)
    except ArithmeticError:
        program.used.append((-1, 0.0))


def tries_again(program: ByHand, batch: Any, batch_idx: int) -> None:
    goes_on(program, batch, batch_idx)
    if program.used[-1][0] < 0:
        program.go(program.optimizers(), batch)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("act", [goes_on, tries_again])
@pytest.mark.parametrize("kind", [Fails, FailsLate, FailsInside])
def test_a_step_that_fails_while_the_program_goes_on(
    kind: type[Optimizer], act: Callable[[Any, Any, int], None], first: bool
) -> None:
    if first:  # torch's own step calls hooks already when the class below gets its own
        SGD([nn.Parameter(torch.zeros(1))])
    program = ByHand(lambda program: program.spied(kind), act)
    trainer = train(program, schedule(cooldown=None, warmup=100), max_epochs=3)
    assert own_rates(trainer) == [0.1]
    assert program.read == [[0.1]] * TOTAL
    made, expected, failed = 0, [], 0
    for number, (step, _) in enumerate(program.used):
        after = program.used[number + 1][0] if number + 1 < len(program.used) else 0
        if step < 0:
            failed += 1
            expected.append(0.0)
            continue
        expected.append(0.1 * by_hand(made, 0, 10**6, warmup=100))
        made += after >= 0 or kind is Fails  # one that fails when its rate has been read is not counted
    assert failed >= 7
    assert rates(program.used) == expected


class Restless(SGD):
    """Sets its rate by itself in its step."""

    calls = 0

    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        self.calls += 1
        for group in self.param_groups:
            group["lr"] = 0.01 * self.calls
        super().step()
        return loss


@pytest.mark.parametrize("program", [Program, ByHand])
def test_an_optimizer_that_sets_its_rate_by_itself_has_its_way_and_is_noted(program: type[Program]) -> None:
    plain, ours, callback = (*(program(lambda p: p.spied(Restless)) for _ in range(2)), schedule())
    train(plain, max_epochs=3)
    trainer = train(ours, callback, max_epochs=3)
    assert ours.used == plain.used
    assert ours.read == plain.read
    assert own_rates(trainer) == [0.01 * TOTAL]
    (note,) = (finding for finding in callback.findings if finding.code == "LR901")
    assert "Restless sets its rate by itself in its step" in note.message


class NewOptimizer(Callback):
    """Gives the Trainer another optimizer after the first epoch."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            self.old = trainer.optimizers[0]
            trainer.optimizers = [self.make()]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", [Program, ByHand])
def test_an_optimizer_that_takes_the_place_of_another_is_multiplied(kind: type[Program], first: bool) -> None:
    program = kind()
    new = NewOptimizer(lambda: program.spied(Adam, lr=0.02))
    train(program, *([new, schedule(warmup=15)] if first else [schedule(warmup=15), new]), max_epochs=3)
    bases = [0.1] * BATCHES + [0.02] * (TOTAL - BATCHES)
    assert rates(program.used) == [rate * by_hand(step, step, TOTAL, warmup=15) for step, rate in enumerate(bases)]
    old: Any = new.old
    assert not old._optimizer_step_pre_hooks


# Copies.


class Copies(Callback):
    """Takes copies of the optimizer and of the module in a hook of the eighth batch, and steps them."""

    def __init__(self, take: Callable[[Any], Any], hook: str) -> None:
        self.take, self.found = take, list[tuple[float, dict[str, Any]]]()
        setattr(self, hook, self.copy)

    def copy(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step != 3:
            return
        optimizer, module = self.take((trainer.optimizers[0], trainer.lightning_module.net))
        place = optimizer.param_groups[0]["params"][0]
        place.grad = torch.ones_like(place)
        before = place.detach().clone()
        optimizer.step()
        self.found.append((float((before - place.detach())[0, 0]), weights(module)))
        assert not module._forward_hooks
        assert optimizer.param_groups[0]["lr"] == 0.125


TAKE: dict[str, Callable[[Any], Any]] = {
    "copied": copy.deepcopy,
    "pickled": lambda both: pickle.loads(pickle.dumps(both)),
}


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end"])
@pytest.mark.parametrize("how", TAKE)
def test_a_copy_has_the_programs_own_rates_and_no_hooks(how: str, hook: str) -> None:
    def configure(program: Program) -> Any:
        return SGD(program.parameters(), lr=0.125)

    plain, ours, copies = Program(configure), Program(configure), Copies(TAKE[how], hook)
    train(plain, schedule(), max_epochs=3)
    trainer = train(ours, schedule(), copies, max_epochs=3)
    ((moved, _),) = copies.found
    assert moved == pytest.approx(0.125, rel=1e-6)
    assert same(weights(ours), weights(plain))
    assert own_rates(trainer) == [0.125]


def test_the_callback_can_be_copied_and_pickled_in_mid_run() -> None:
    class Takes(Callback):
        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            copy.deepcopy(callback)
            pickle.loads(pickle.dumps(callback))

    program, callback = Program(), schedule()
    train(program, callback, Takes(), max_epochs=3)
    assert program.used == [(step, 0.1 * factor(step, TOTAL)) for step in range(TOTAL)]


# Checkpoints.

HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_train_epoch_end",
)


class Keeps(Callback):
    """Saves a checkpoint in every hook, and on an error."""

    def __init__(self, path: Path) -> None:
        self.path, self.rates = path, list[float]()
        for hook in (*HOOKS, "on_exception"):
            setattr(self, hook, self.keep)

    def keep(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        trainer.save_checkpoint(self.path)
        kept = torch.load(self.path)
        self.rates += [float(group["lr"]) for state in kept["optimizer_states"] for group in state["param_groups"]]


class Saves(Program):
    """Saves a checkpoint in `training_step`."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (keeps,) = (each for each in self.trainer.callbacks if isinstance(each, Keeps))  # pyright: ignore[reportAttributeAccessIssue]  # Lightning types callbacks by a mixin
        keeps.keep(self.trainer)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("first", [True, False])
def test_a_checkpoint_holds_the_programs_own_rates_wherever_it_is_saved(
    tensor: bool, first: bool, tmp_path: Path
) -> None:
    def configure(program: Program) -> Any:
        return program.spied(lr=torch.tensor(0.125) if tensor else 0.125)

    program, keeps = Saves(configure), Keeps(tmp_path / "kept.ckpt")
    train(program, *([keeps, schedule()] if first else [schedule(), keeps]), max_epochs=1)
    assert len(keeps.rates) == (len(HOOKS) - 1) * BATCHES + 1 + BATCHES
    assert set(keeps.rates) == {0.125}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", [Program, ByHand])
def test_a_checkpoint_of_a_run_that_is_interrupted_in_the_middle_of_a_step(
    kind: type[Program], first: bool, tensor: bool, error: type[BaseException], tmp_path: Path
) -> None:
    def configure(program: Program) -> Any:
        def interrupt(rate: float) -> None:
            program.note(rate)
            if len(program.used) == 4:
                raise error

        rate = torch.tensor(0.125) if tensor else 0.125
        return spied(SGD, interrupt)(program.groups(), lr=rate)

    program, keeps = kind(configure), Keeps(tmp_path / "kept.ckpt")
    for hook in HOOKS:
        delattr(keeps, hook)
    trainer = helpers.trainer(*([keeps, schedule()] if first else [schedule(), keeps]), max_epochs=3)
    restart(program)
    with pytest.raises((error, SystemExit)):
        trainer.fit(program, data())
    assert program.used[-1][1] == (float(torch.tensor(0.125) * (2 / 6)) if tensor else 0.125 * (2 / 6))
    assert keeps.rates == [0.125, 0.125]
    assert own_rates(trainer) == [0.125, 0.125]


class KeepsInside(SGD):
    """Is asked for its state in the middle of its own step."""

    def _init_group(self, group: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.asked = [float(one["lr"]) for one in self.state_dict()["param_groups"]]
        return super()._init_group(group, *args, **kwargs)


@pytest.mark.parametrize("tensor", [False, True])
def test_a_state_that_is_asked_for_within_the_step_holds_the_programs_own_rates(tensor: bool) -> None:
    def configure(program: Program) -> Any:
        rate = torch.tensor(0.125) if tensor else 0.125
        return program.spied(KeepsInside, program.groups(lr=0.5), lr=rate)

    program = Program(configure)
    trainer = train(program, schedule(warmup=100), max_epochs=1)
    optimizer: Any = trainer.optimizers[0]
    assert optimizer.asked == [0.125, 0.5]
    assert rates(program.used)[0] == pytest.approx(0.00125)


# Compiled programs.


def test_a_compiled_module() -> None:
    program = Program()
    program.net.compile(backend="eager")
    train(program, schedule(), max_epochs=3)
    assert program.used == [(step, 0.1 * factor(step, TOTAL)) for step in range(TOTAL)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, of what it imports and reads while it compiles
def test_a_compiled_step() -> None:
    def configure(program: Program) -> Any:
        return SGD(program.parameters(), lr=torch.tensor(0.1))

    def compiled(program: Program) -> Any:
        optimizer: Any = configure(program)
        optimizer.step = torch.compile(optimizer.step, backend="eager")
        return optimizer

    ours, twin, plain = ByHand(compiled), ByHand(configure), ByHand(configure)
    trainer = train(ours, schedule(), max_epochs=3)
    train(twin, schedule(), max_epochs=3)
    train(plain, max_epochs=3)
    for name, weight in weights(ours).items():  # what is compiled rounds in another way
        assert torch.allclose(weight, weights(twin)[name], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(weight, weights(plain)[name], rtol=1e-2)
    assert own_rates(trainer) == own_rates(plain.trainer)
