"""Promise 5: a healthy run is not accused; and, lest silence be mistaken for it, a sick one is."""

import pytest

from lightning_diagnostics import catalogue
from tests.contracts.cells import Cell, Outcome, every_cell, outcomes
from tests.helpers import MEMBERS, Member, every_member_slowly
from tests.patients import PATIENTS, Patient, of_room

every_patient = pytest.mark.parametrize("patient", PATIENTS, ids=str)


def _loud(outcome: Outcome) -> list[tuple[str, str]]:
    return [record for record in outcome.log if record[0] not in ("DEBUG", "INFO")]


@every_cell
@every_patient
@every_member_slowly
def test_the_healthy_twin_is_not_accused(member: Member, patient: Patient, cell: Cell) -> None:
    for outcome in outcomes(cell, PATIENTS.index(patient), MEMBERS.index(member), sick=False):
        assert outcome.diagnosed == set()
        assert _loud(outcome) == []


@every_cell
@every_patient
@every_member_slowly
def test_the_sick_one_is_diagnosed_by_its_own_room_in_every_process(
    member: Member, patient: Patient, cell: Cell
) -> None:
    if patient.room != member.room:
        pytest.skip("an illness of another room")
    for outcome in outcomes(cell, PATIENTS.index(patient), MEMBERS.index(member), sick=True):
        assert outcome.diagnosed == patient.findings


@every_cell
@every_member_slowly
def test_a_finding_is_said_once_and_by_rank_zero_only(member: Member, cell: Cell) -> None:
    for patient in of_room(member.room):
        first, *others = outcomes(cell, PATIENTS.index(patient), MEMBERS.index(member), sick=True)
        assert len(_loud(first)) == len(patient.findings)
        assert all(outcome.log == [] for outcome in others)


@pytest.mark.parametrize("room", catalogue.rooms())
def test_every_room_has_a_patient(room: str) -> None:
    assert any(True for _ in of_room(room)), (
        f"add a sick network and its healthy twin for {room!r} to tests/patients.py"
    )
