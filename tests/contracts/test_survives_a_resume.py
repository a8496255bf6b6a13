"""Promise 7: a resumed run is diagnosed as an unbroken one, and no checkpoint is harmed."""

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from tests.contracts.cells import Cell, Outcome, Recorder
from tests.contracts.planting import SITES, planted
from tests.helpers import (
    AT_WORK,
    KINDS,
    MEMBERS,
    Member,
    diagnosed,
    every_kind_at_work,
    every_member_slowly_but_at_work,
    fit,
    trainer,
)
from tests.patients import BATCHES, PATIENTS, Diagnosed, LossList, Patient, Student, loader, of_room


class LateLossList(LossList):
    """Falls ill at step 10."""

    def keep(self, loss: Tensor, output: Tensor) -> None:
        self.losses.append(loss if self.sick and self.global_step >= 10 else loss.item())


pytestmark = [
    # Lightning's advice: parts of a run share a folder or have one each, and few loaders can be resumed in mid-epoch.
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

every_site = pytest.mark.parametrize(
    ("member", "site"),
    [
        pytest.param(*site, marks=pytest.mark.slow if site[0].acts else (), id="-".join(map(str, site)))
        for site in SITES
    ],
)
"""Every place for a fault; those of callbacks that act at the slow level."""

LATE = Patient("graph_leak", LateLossList, frozenset({("MEM101", "model.losses", 10)}))


@functools.cache
def _unbroken(member: Member, patient: Patient, batches: int, epochs: int) -> frozenset[Diagnosed]:
    diagnostic = member()
    fit(trainer(diagnostic, max_epochs=epochs, **patient.settings), patient.make(sick=True), batches=batches)
    return frozenset(diagnosed(diagnostic.findings))


def _resumed(
    member: Member, patient: Patient, batches: int, stops: list[int], folder: Path, *, after_fit: bool = False
) -> set[Diagnosed]:
    """What is found by a run that is stopped at the end of these epochs; each part is made of new objects."""
    checkpoint = None
    for epochs in stops:
        diagnostic, saving = member(), ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
        run = trainer(diagnostic, saving, max_epochs=epochs, enable_checkpointing=True, **patient.settings)
        fit(run, patient.make(sick=True), batches=batches, ckpt_path=checkpoint)
        checkpoint = folder / f"epoch={epochs - 1}.ckpt"
        if after_fit:
            run.save_checkpoint(checkpoint)
    return diagnosed(diagnostic.findings)


WAYS = {
    "after a verdict": (8, [1, 4]),
    "twice": (8, [2, 3, 4]),
    "before a verdict": (4, [1, 6]),
    "twice before a verdict": (3, [1, 2, 8]),
}
"""Batches in an epoch, and the epochs at whose end a part of the run is over."""


def _resumes() -> Iterator[Any]:
    """Every callback, patient and way: by default all ways for one illness that it knows, the hardest for others."""
    for member, patient, way, after_fit in itertools.product(MEMBERS, [*PATIENTS, LATE], WAYS, (False, True)):
        own, hardest = patient.room == member.room, way == "twice before a verdict"
        first = own and patient is of_room(member.room)[0]
        slow = member not in AT_WORK or not (first or (hardest and (own or not after_fit)))
        saved = "save_checkpoint after fit" if after_fit else "ModelCheckpoint"
        marks = pytest.mark.slow if slow else ()
        yield pytest.param(member, patient, *WAYS[way], after_fit, marks=marks, id=f"{member}-{patient}-{way}-{saved}")


@pytest.mark.parametrize(("member", "patient", "batches", "stops", "after_fit"), list(_resumes()))
def test_a_resumed_run_is_diagnosed_as_an_unbroken_one(
    member: Member, patient: Patient, batches: int, stops: list[int], after_fit: bool, tmp_path: Path
) -> None:
    unbroken = _unbroken(member, patient, batches, stops[-1])
    if patient.room == member.room:
        assert unbroken == patient.findings
    assert _resumed(member, patient, batches, stops, tmp_path, after_fit=after_fit) == unbroken


def _part_with_two_processes(member: Member, folder: Path, epochs: int, checkpoint: Path | None) -> list[Outcome]:
    """One part of a run in two processes, which saves its last epoch."""
    folder.mkdir()
    patient, saving = of_room(member.room)[0], ModelCheckpoint(folder, filename="end")
    recorder, logger = Recorder(folder), CSVLogger(folder, name="csv", version=0)
    settings = {**Cell(processes=2).settings(), **patient.settings, "logger": logger, "enable_checkpointing": True}
    run = trainer(member(), saving, recorder, max_epochs=epochs, **settings)
    data = {"train_dataloaders": loader(2 * BATCHES), "val_dataloaders": loader(4, shuffle=False)}
    return recorder.fit(run, patient.make(sick=True), **data, ckpt_path=checkpoint)


@every_kind_at_work
def test_with_two_processes_a_resumed_run_is_diagnosed_as_an_unbroken_one(member: Member, tmp_path: Path) -> None:
    unbroken = _part_with_two_processes(member, tmp_path / "unbroken", 3, None)
    _part_with_two_processes(member, tmp_path / "first", 1, None)
    resumed = _part_with_two_processes(member, tmp_path / "second", 3, tmp_path / "first" / "end.ckpt")
    assert [outcome.diagnosed for outcome in resumed] == [outcome.diagnosed for outcome in unbroken]
    assert unbroken[0].diagnosed == of_room(member.room)[0].findings


@every_member_slowly_but_at_work
def test_a_checkpoint_from_the_middle_of_an_epoch_can_be_resumed(member: Member, tmp_path: Path) -> None:
    saving: dict[str, Any] = {"filename": "{step}", "every_n_train_steps": 3, "save_top_k": -1}
    fit(trainer(member(), ModelCheckpoint(tmp_path, **saving), enable_checkpointing=True), LossList(sick=True))
    for step in (3, 9):
        again = ModelCheckpoint(tmp_path, **saving)
        run = trainer(member(), again, enable_checkpointing=True)
        assert fit(run, LossList(sick=True), ckpt_path=tmp_path / f"step={step}.ckpt").global_step == 16


@every_kind_at_work
def test_a_checkpoint_goes_with_and_without_the_callback(member: Member, tmp_path: Path) -> None:
    first = tmp_path / "first.ckpt"
    fit(trainer(member(), max_epochs=1), Student()).save_checkpoint(first)
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint need to be provided"):
        without = fit(trainer(max_epochs=2), Student(), ckpt_path=first)
    second = tmp_path / "second.ckpt"
    without.save_checkpoint(second)
    assert fit(trainer(member(), max_epochs=3), Student(), ckpt_path=second).current_epoch == 3


@every_site
def test_a_checkpoint_of_a_run_with_a_fault_is_resumed_by_a_sound_callback(
    member: Member, site: str, tmp_path: Path
) -> None:
    saving: dict[str, Any] = {"filename": "{epoch}", "save_top_k": -1}
    broken = member(kind=planted(member.kind, site), strict=False)
    run = trainer(broken, ModelCheckpoint(tmp_path, **saving), max_epochs=1, enable_checkpointing=True)
    fit(run, LossList(sick=True)).save_checkpoint(tmp_path / "after.ckpt")
    for name in ("epoch=0", "after"):
        sound = trainer(member(), ModelCheckpoint(tmp_path, **saving), enable_checkpointing=True)
        assert fit(sound, LossList(sick=True), ckpt_path=tmp_path / f"{name}.ckpt").current_epoch == 2


# The test of the test.


def test_a_run_that_forgets_is_caught(tmp_path: Path) -> None:
    sound = next(member for member in KINDS if member.room == LATE.room)

    class Forgets(sound.kind):  # type: ignore[name-defined,misc]
        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            return

    member = Member(sound.name, Forgets)
    assert _resumed(member, LATE, 8, [2, 4], tmp_path) != _unbroken(member, LATE, 8, 4)
