"""A callback that is told to act does what it was told, to the last bit, and nothing else.

Each acts here beside a module that does the same by its own hand, in every cell of the matrix.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_diagnostics.statistics import cooldown_factor, warmup_cooldown_factor, warmup_factor
from tests.contracts.cells import Cell, Outcome, differences, every_cell, run
from tests.helpers import AS_TOLD, MEMBERS, Member
from tests.patients import BATCHES, Patient, Student

EPOCHS = 2
WARMUP, SHARE = (AS_TOLD["WarmupCooldownScheduler"][name] for name in ("warmup", "cooldown"))


class Scheduled(Student):
    """Its rate falls after every step of its automatic optimisation, and after every epoch by hand."""

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def make_optimizer(self, parameters: Any, **options: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, **options)

    def on_train_epoch_end(self) -> None:
        if not self.automatic_optimization:
            scheduler: Any = self.lr_schedulers()
            scheduler.step()


class WarmsUpAndCoolsDown(Scheduled):
    """The same, and multiplies its rate within the optimizer's step."""

    def make_optimizer(self, parameters: Any, **options: Any) -> torch.optim.Optimizer:
        return _Multiplied(parameters, self.factor, **options)

    def factor(self, made: int) -> float:
        batches = EPOCHS * BATCHES
        if self.automatic_optimization:
            steps = batches // self.trainer.accumulate_grad_batches
            lengths = {"warmup_steps": WARMUP, "cooldown_steps": round(SHARE * steps)}
            return warmup_cooldown_factor(self.trainer.global_step, total_steps=steps, **lengths)
        # A step of this optimizer counts for the warmup, and a batch for the end of the run.
        batch = BATCHES * self.trainer.current_epoch + self.trainer.fit_loop.epoch_loop.batch_idx
        cooldown = round(SHARE * batches)
        return warmup_factor(made, WARMUP) * cooldown_factor((batch - (batches - cooldown)) / cooldown)


class _Multiplied(torch.optim.Adam):
    """Adam whose rate is multiplied while it steps; a step that a gradient scaler skips is none."""

    def __init__(self, parameters: Any, factor: Callable[[int], float], **options: Any) -> None:
        super().__init__(parameters, **options)
        self.factor, self.made = factor, 0

    def step(self, closure: Callable[[], Any] | None = None) -> Tensor | None:
        own = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= self.factor(self.made)
        loss = super().step(closure)
        for group, rate in zip(self.param_groups, own, strict=True):
            group["lr"] = rate
        self.made += 1
        return loss


BY_HAND: dict[str, tuple[type[Student], type[Student]]] = {
    "WarmupCooldownScheduler": (Scheduled, WarmsUpAndCoolsDown),
}
"""A module that leaves the acting to the callback, and one that does it by itself, by the callback's name."""

ACTING = [member for member in MEMBERS if member.acts]
every_acting_member = pytest.mark.parametrize("member", ACTING, ids=str)


def _trained(cell: Cell, kind: type[Student], *callbacks: Any) -> list[Outcome]:
    return run(cell, Patient("", kind, frozenset()), *callbacks)


def _unlike(cell: Cell, one: list[Outcome], other: list[Outcome]) -> list[set[str]]:
    assert len(one) == len(other) == cell.processes
    return [differences(*both) for both in zip(one, other, strict=True)]


@every_cell
@every_acting_member
def test_as_told_it_does_to_the_last_bit_what_a_module_does_by_hand(member: Member, cell: Cell) -> None:
    ours, theirs = BY_HAND[member.name]
    acted = _trained(cell, ours, member())
    assert _unlike(cell, acted, _trained(cell, theirs)) == [set()] * cell.processes
    assert [(outcome.left, outcome.diagnosed) for outcome in acted] == [(set(), set())] * cell.processes


@every_acting_member
def test_told_to_act_and_told_to_watch_it_leaves_a_run_that_differs(member: Member) -> None:
    ours, _ = BY_HAND[member.name]
    (changed,) = _unlike(Cell(), _trained(Cell(), ours, member()), _trained(Cell(), ours, Member("", member.kind)()))
    assert {"state.net.0.weight", "logged metrics"} <= changed
    # What does not follow from the rates is the same.
    assert changed.isdisjoint({"batches", "rng.torch", "rng.numpy", "rng.python", "modes", "steps"})


def test_every_callback_that_acts_as_told_has_its_like_by_hand() -> None:
    assert set(BY_HAND) == set(AS_TOLD) == {member.name for member in ACTING}


# The tests of the test.


@pytest.mark.parametrize("cell", [Cell(), Cell(manual=True)], ids=str)
@pytest.mark.parametrize("told", [{"warmup": WARMUP + 1}, {"cooldown": None}, {"floor": 1e-3}], ids=str)
def test_that_it_was_told_otherwise_is_caught(told: dict[str, Any], cell: Cell) -> None:
    member = ACTING[0]
    ours, theirs = BY_HAND[member.name]
    (changed,) = _unlike(cell, _trained(cell, ours, member(**told)), _trained(cell, theirs))
    assert {"state.net.0.weight", "optimizer.0"} <= changed
