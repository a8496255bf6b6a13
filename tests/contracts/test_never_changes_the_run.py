"""Promise 1: with and without a callback, a run is the same to the last bit."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from tests.contracts.cells import Cell, differences, every_cell, outcomes, run
from tests.helpers import MEMBERS, Member, every_kind, every_member_that_watches
from tests.patients import PATIENTS, Patient, Student, of_room

FIRST = PATIENTS[0]


@every_cell
@pytest.mark.parametrize("sick", [False, True], ids=["healthy", "sick"])
@every_member_that_watches
def test_every_cell_of_the_matrix_is_bit_identical(member: Member, sick: bool, cell: Cell) -> None:
    without = outcomes(cell, 0, None, sick=sick)
    having = outcomes(cell, 0, MEMBERS.index(member), sick=sick)
    assert [differences(one, other) for one, other in zip(without, having, strict=True)] == [set()] * cell.processes


@every_kind
def test_with_an_illness_of_its_own_it_is_bit_identical(member: Member) -> None:
    patient = of_room(member.room)[0]
    (having,) = run(Cell(), patient, member(), sick=True)
    assert differences(run(Cell(), patient, sick=True)[0], having) == set()
    assert having.diagnosed == patient.findings


@pytest.mark.parametrize("persistent", [False, True])
@every_member_that_watches
def test_with_two_workers_it_is_bit_identical(member: Member, persistent: bool) -> None:
    workers = {"num_workers": 2, "persistent_workers": persistent}
    assert differences(run(Cell(), FIRST, **workers)[0], run(Cell(), FIRST, member(), **workers)[0]) == set()


class DrawnRate(Student):
    """Its schedule draws from all three global generators after every step."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 + 0.1 * (float(torch.rand(())) + float(np.random.rand()) + random.random())
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


@every_member_that_watches
def test_under_a_schedule_that_draws_it_is_bit_identical(member: Member) -> None:
    drawn = Patient("", DrawnRate, frozenset())
    without = run(Cell(), drawn)[0]
    assert differences(without, run(Cell(), drawn, member())[0]) == set()
    assert differences(without, outcomes(Cell(), 0, None, sick=False)[0]) >= {"rng.torch", "rng.numpy", "rng.python"}


@every_member_that_watches
def test_constructing_one_draws_nothing(member: Member) -> None:
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    member()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (str(np.random.get_state()), random.getstate())


# The tests of the test.


class _Draws(Callback):
    """Draws one number in the fourth step."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 4:
            self.draw()


class _Nudges(Callback):
    """Adds 1e-7 to one weight, once."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        with torch.no_grad():
            pl_module.net[0].weight[0, 0] += 1e-7


class _LeavesEvalMode(Callback):
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.net[1].eval()


class _LogsUnderTheUsersName(Callback):
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.logger.log_metrics({"train_loss": 0.0}, step=0)


class _IteratesTheLoader(Callback):
    """Making an iterator draws the base seed of its workers from the global generator."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        loader = trainer.train_dataloader
        assert isinstance(loader, DataLoader)
        iter(loader)


@pytest.mark.parametrize(
    ("culprit", "betrayed_by"),
    [
        (_Draws(lambda: torch.rand(1)), {"rng.torch", "batches", "state.net.0.weight", "logged metrics"}),
        (_Draws(np.random.rand), {"rng.numpy"}),
        (_Draws(random.random), {"rng.python"}),
        (_Nudges(), {"state.net.0.weight", "optimizer.0", "logged metrics"}),
        (_LeavesEvalMode(), {"modes"}),
        (_LogsUnderTheUsersName(), {"logged metrics"}),
        (_IteratesTheLoader(), {"rng.torch", "batches"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Callback) else "",
)
def test_a_callback_that_changes_the_run_is_caught(culprit: Callback, betrayed_by: set[str]) -> None:
    without = outcomes(Cell(), 0, None, sick=False)[0]
    assert betrayed_by <= differences(without, run(Cell(), FIRST, culprit)[0])


def test_a_run_is_the_same_as_itself() -> None:
    assert differences(outcomes(Cell(), 0, None, sick=False)[0], run(Cell(), FIRST)[0]) == set()
