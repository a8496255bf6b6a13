"""Promise 5: a healthy run is not accused; and, lest silence be mistaken for it, a sick one is."""

import logging
from collections.abc import Iterable
from typing import Any

import pytest
from lightning.pytorch import Callback

from lightning_diagnostics import GraphLeakDetector, Severity, catalogue
from lightning_diagnostics.diagnostics.graph_leak.rules import retained_graph
from lightning_diagnostics.findings import Diagnosis
from tests.contracts.cells import (
    CONCLUDES_ON_RANK_ZERO,
    Cell,
    Outcome,
    every_cell,
    every_meeting,
    every_meeting_of_its_own,
    outcomes,
    run,
)
from tests.helpers import MEMBERS, Member, every_member_slowly
from tests.patients import PATIENTS, Patient, of_room


def _loud(outcome: Outcome) -> list[tuple[str, str]]:
    return [record for record in outcome.log if record[0] not in ("DEBUG", "INFO")]


def _nobody_accuses(ranks: Iterable[Outcome]) -> None:
    for outcome in ranks:
        assert outcome.diagnosed == set()
        assert _loud(outcome) == []


def _rank_zero_says(ranks: Iterable[Outcome], *, lines: int) -> None:
    first, *others = ranks
    assert len(_loud(first)) == lines
    assert all(outcome.log == [] for outcome in others)


@every_meeting
def test_the_healthy_twin_is_not_accused(member: Member, patient: Patient, cell: Cell) -> None:
    _nobody_accuses(outcomes(cell, PATIENTS.index(patient), MEMBERS.index(member), sick=False))


@every_meeting_of_its_own
def test_the_sick_one_is_diagnosed_by_its_own_room_in_every_process(
    member: Member, patient: Patient, cell: Cell
) -> None:
    first, *others = outcomes(cell, PATIENTS.index(patient), MEMBERS.index(member), sick=True)
    assert first.diagnosed == patient.findings
    for outcome in others:
        assert outcome.diagnosed == (set() if member.room in CONCLUDES_ON_RANK_ZERO else patient.findings)


@every_cell
@every_member_slowly
def test_a_finding_is_said_once_and_by_rank_zero_only(member: Member, cell: Cell) -> None:
    for patient in of_room(member.room):
        ranks = outcomes(cell, PATIENTS.index(patient), MEMBERS.index(member), sick=True)
        _rank_zero_says(ranks, lines=len(patient.findings))


@pytest.mark.parametrize("room", catalogue.rooms())
def test_every_room_has_a_patient(room: str) -> None:
    assert any(True for _ in of_room(room)), (
        f"add a sick network and its healthy twin for {room!r} to tests/patients.py"
    )


# The tests of the test.


class _Accuses(GraphLeakDetector):
    """Finds an illness in every network."""

    def epoch_end(self, trainer: Any, pl_module: Any) -> None:
        diagnosis = Diagnosis(Severity.WARNING, "model", 0, "It is ill.", "Mend it.")
        self._enter(trainer, retained_graph, diagnosis, step=trainer.global_step)


class _Speaks(Callback):
    """Says the same in every process, so many times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        for _ in range(self.times):
            logging.getLogger("lightning_diagnostics").warning("It is ill.")


@pytest.mark.parametrize("culprit", [_Accuses(strict=True), _Speaks(1)], ids=["accuses", "speaks"])
def test_a_false_alarm_is_caught(culprit: Callback) -> None:
    with pytest.raises(AssertionError):
        _nobody_accuses(run(Cell(), PATIENTS[0], culprit))


@pytest.mark.parametrize(("processes", "times"), [(1, 2), (2, 1)], ids=["twice", "by every rank"])
def test_a_finding_that_is_said_more_than_once_is_caught(processes: int, times: int) -> None:
    with pytest.raises(AssertionError):
        _rank_zero_says(run(Cell(processes=processes), PATIENTS[0], _Speaks(times)), lines=1)
