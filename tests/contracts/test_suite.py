"""The suite keeps the promises of the callbacks that it is made of, and gives the findings that they give."""

import copy
import functools
import itertools
import pickle
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner

from lightning_diagnostics import Diagnostics
from lightning_diagnostics.callback import DiagnosticCallback
from lightning_diagnostics.findings.records import read_run
from tests.contracts.cells import (
    CONCLUDES_ON_RANK_ZERO,
    HARD,
    MATRIX,
    Cell,
    Outcome,
    Recorder,
    differences,
    every_cell,
    outcomes,
    run,
)
from tests.contracts.planting import PlantedError, planted
from tests.contracts.situations import situations
from tests.contracts.test_works_everywhere import ADVICE, NAMES, WithARate, settings_of
from tests.helpers import KINDS, MEMBERS, alive, diagnosed, fit, heard, held, needs, trainer
from tests.patients import BATCHES, LIMITS, PATIENTS, Diagnosed, LossList, Patient, Student, kill_units, loader, of_room

IN_A_RUN = [member.name for member in sorted(KINDS, key=lambda member: not member.kind.goes_first)]
"""The callbacks of a suite in the order in which they are called."""

every_patient = pytest.mark.parametrize("patient", PATIENTS, ids=str)
pytestmark = [
    # Lightning's advice: the parts of a run share a folder.
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    *ADVICE,
]


def suite(**more: Any) -> Diagnostics:
    told = {member.room: needs(member.name) for member in KINDS if needs(member.name)}
    return Diagnostics(**{"strict": True, "limits": LIMITS, **told, **more})


@functools.cache
def of_suite(cell: Cell, patient: int, *, sick: bool) -> tuple[Outcome, ...]:
    return tuple(run(cell, PATIENTS[patient], suite(), sick=sick))


# Promises 1, 5, 6 and 8, in every cell of the matrix.


@every_cell
@pytest.mark.parametrize("sick", [False, True], ids=["healthy", "sick"])
def test_with_and_without_the_suite_a_run_is_the_same_to_the_last_bit(sick: bool, cell: Cell) -> None:
    without, having = outcomes(cell, 0, None, sick=sick), of_suite(cell, 0, sick=sick)
    assert [differences(one, other) for one, other in zip(without, having, strict=True)] == [set()] * cell.processes
    assert [outcome.left for outcome in having] == [set()] * cell.processes


def _patients_and_cells() -> Iterator[Any]:
    """By default every patient in the plain cell, and one of each room in the hard ones."""
    for patient, cell in itertools.product(PATIENTS, MATRIX):
        fast = cell == Cell() or (cell in HARD and patient is of_room(patient.room)[0])
        yield pytest.param(patient, cell, marks=() if fast else pytest.mark.slow, id=f"{patient}-{cell}")


every_patient_and_cell = pytest.mark.parametrize(("patient", "cell"), list(_patients_and_cells()))


@every_patient_and_cell
def test_the_suite_finds_what_its_callbacks_find_alone(patient: Patient, cell: Cell) -> None:
    index = PATIENTS.index(patient)
    alone = [outcomes(cell, index, MEMBERS.index(member), sick=True) for member in KINDS]
    for rank, outcome in enumerate(of_suite(cell, index, sick=True)):
        assert outcome.diagnosed == set().union(*(each[rank].diagnosed for each in alone))
        assert outcome.diagnosed >= patient.findings or (rank and patient.room in CONCLUDES_ON_RANK_ZERO)
        assert outcome.log == [] or rank == 0
    loud = [record for record in of_suite(cell, index, sick=True)[0].log if record[0] not in ("DEBUG", "INFO")]
    assert len(loud) == len(of_suite(cell, index, sick=True)[0].diagnosed)


@every_patient_and_cell
def test_a_healthy_twin_is_not_accused_by_the_suite(patient: Patient, cell: Cell) -> None:
    for outcome in of_suite(cell, PATIENTS.index(patient), sick=False):
        assert outcome.diagnosed == set()


# Promise 6: its callbacks are there while the run lasts, and gone after it, however it ended.


class _Peeks(Callback):
    """Notes which diagnostics are in the Trainer's list in a step, or ends the run there."""

    def __init__(self, end: Callable[[], Any] = lambda: None) -> None:
        self.end = end
        self.seen: list[str] = []

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.seen = [type(c).__name__ for c in trainer.callbacks if isinstance(c, DiagnosticCallback)]
        self.end()


def _raises(fault: BaseException) -> Callable[[], Any]:
    def end() -> None:
        raise fault

    return end


def _clean(diagnostics: Diagnostics, module: Student, run: Any, before: list[Any]) -> None:
    assert run.callbacks == before
    assert alive(module) == set()
    assert held(diagnostics) == []


@pytest.mark.parametrize("place", [0, 1], ids=["first", "last"])
@pytest.mark.parametrize("fault", [None, RuntimeError("mine"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_after_a_run_its_callbacks_are_gone(fault: BaseException | None, place: int) -> None:
    diagnostics, module, peeks = suite(), LossList(sick=True), _Peeks(_raises(fault) if fault else lambda: None)
    listed: list[Callback] = [peeks]
    listed.insert(place, diagnostics)
    again = trainer(*listed)
    before = list(again.callbacks)
    if fault is None:
        fit(again, module)
    else:
        with pytest.raises((type(fault), SystemExit)):
            fit(again, module)
    assert peeks.seen == IN_A_RUN
    _clean(diagnostics, module, again, before)


def test_one_suite_serves_two_fits_and_two_trainers() -> None:
    diagnostics, module = suite(), LossList(sick=True)
    first = trainer(diagnostics)
    before = list(first.callbacks)
    fit(first, module)
    first.fit_loop.max_epochs = 4
    with heard() as records:
        fit(first, module)
    assert first.current_epoch == 4
    _clean(diagnostics, module, first, before)
    assert [record.getMessage().split()[0] for record in records] == ["watching", "Run"]
    second, healthy = trainer(diagnostics), Student()
    fit(second, healthy)
    assert diagnosed(diagnostics.findings) == set()


@pytest.mark.parametrize("act", ["validate", "test", "predict"])
def test_after_validate_test_and_predict_alone_its_callbacks_are_gone(act: str) -> None:
    diagnostics, module = suite(), Student()
    again = trainer(diagnostics)
    before = list(again.callbacks)
    with heard() as records:
        getattr(again, act)(module, loader(2, shuffle=False))
    _clean(diagnostics, module, again, before)
    assert [record.getMessage().split()[0] for record in records] == ["watching", "Run"]
    assert "1 batch norm" in records[0].getMessage()  # what is of training only has no part in it


def test_a_run_whose_end_nobody_told_the_suite_of_leaves_nothing_to_the_next() -> None:
    class Spoils(Callback):
        """Keeps every callback after it from learning of the end."""

        spoiled = False

        def on_exception(self, *args: Any) -> None:
            type(self).spoiled = True
            raise RuntimeError("in on_exception")

    diagnostics, module, peeks = suite(), LossList(sick=True), _Peeks(_raises(ValueError("mine")))
    again = trainer(Spoils(), diagnostics, peeks)
    before = list(again.callbacks)
    with pytest.raises(RuntimeError, match="in on_exception"):
        fit(again, module)
    assert Spoils.spoiled
    peeks.end = lambda: None
    with heard() as records:
        fit(again, module)
    assert peeks.seen == IN_A_RUN
    assert records[-1].getMessage().startswith("Run finished"), "this time they were told"
    _clean(diagnostics, module, again, before)


@pytest.mark.parametrize("fault", [None, ValueError("mine")], ids=repr)
def test_a_list_that_the_user_replaces_in_mid_run_leaves_nothing_alive(
    fault: BaseException | None, tmp_path: Path
) -> None:
    class Replaces(Callback):
        """Puts a list of his own in the place of the Trainer's in mid-step, and so leaves ours out."""

        def on_before_zero_grad(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == BATCHES - 1:
                trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, DiagnosticCallback)]
                if fault is not None:
                    raise fault

    diagnostics, module = suite(), LossList(sick=True)
    logger = CSVLogger(tmp_path, name="", version="run")
    again = trainer(diagnostics, Replaces(), max_epochs=1, logger=logger)
    before = list(again.callbacks)
    with pytest.raises(ValueError, match="mine") if fault else nullcontext():
        fit(again, module)
    _clean(diagnostics, module, again, before)
    assert read_run(tmp_path / "run").status == ("ended by ValueError" if fault else "finished")


# Promise 2: a fault in one of them is the fault of that one.


def test_a_fault_in_one_switches_that_one_off_and_the_others_go_on() -> None:
    diagnostics, module = Diagnostics(), LossList(sick=True)
    broken = next(each for each in KINDS if each.room == "activations")
    diagnostics._children = [
        planted(type(child), "on_train_batch_start")() if isinstance(child, broken.kind) else child
        for child in diagnostics._children
    ]
    with heard() as records:
        fit(trainer(diagnostics), module)
    errors = [record for record in records if record.exc_info]
    assert [type(record.exc_info[1]) for record in errors] == [PlantedError]
    assert diagnosed(diagnostics.findings) == {("MEM101", "model.losses", 0)}


# Promise 7: resume and checkpoints.


@functools.cache
def _unbroken(patient: Patient) -> frozenset[Diagnosed]:
    diagnostics = suite()
    fit(trainer(diagnostics, max_epochs=3, **patient.settings), patient.make(sick=True))
    return frozenset(diagnosed(diagnostics.findings))


_WAYS: dict[str, Callable[[], list[Any]]] = {
    "suite": lambda: [suite()],
    "callbacks": lambda: [member() for member in KINDS],
}


_RESUMES = (("suite", "suite"), ("suite", "callbacks"), ("callbacks", "suite"))


def _resumes() -> Iterator[Any]:
    """Every patient, way to resume and to save; by default each way once for a patient, saved in turns."""
    for (number, patient), (way, (first, second)), after_fit in itertools.product(
        enumerate(PATIENTS), enumerate(_RESUMES), (False, True)
    ):
        marks = () if after_fit == bool((number + way) % 2) else pytest.mark.slow
        saved = "save_checkpoint after fit" if after_fit else "ModelCheckpoint"
        yield pytest.param(patient, first, second, after_fit, marks=marks, id=f"{patient}-{first}-{second}-{saved}")


@pytest.mark.parametrize(("patient", "first", "second", "after_fit"), list(_resumes()))
def test_a_resumed_run_is_diagnosed_as_an_unbroken_one_whichever_way(
    patient: Patient, first: str, second: str, after_fit: bool, tmp_path: Path
) -> None:
    saving = ModelCheckpoint(tmp_path, filename="end")
    settings = {"enable_checkpointing": True, **patient.settings}
    before = trainer(*_WAYS[first](), saving, max_epochs=1, **settings)
    fit(before, patient.make(sick=True))
    if after_fit:
        before.save_checkpoint(tmp_path / "end.ckpt")
    watching = _WAYS[second]()
    again = trainer(*watching, ModelCheckpoint(tmp_path, filename="again"), max_epochs=3, **settings)
    fit(again, patient.make(sick=True), ckpt_path=tmp_path / "end.ckpt")
    found = {each for callback in watching for each in diagnosed(callback.findings)}
    assert found == _unbroken(patient) == patient.findings


def test_a_checkpoint_is_the_one_that_the_callbacks_make_alone(tmp_path: Path) -> None:
    saved = []
    for name, way in _WAYS.items():
        again = trainer(*way())
        fit(again, LossList(sick=True)).save_checkpoint(tmp_path / name)
        saved.append(torch.load(tmp_path / name, weights_only=True)["callbacks"])
    assert saved[0].keys() == saved[1].keys() == {member().state_key for member in KINDS}
    assert [saved[0][key]["findings"] for key in saved[0]] == [saved[1][key]["findings"] for key in saved[0]]


def test_a_run_of_weights_alone_can_be_saved(tmp_path: Path) -> None:
    fit(trainer(suite()), Student()).save_checkpoint(tmp_path / "weights", weights_only=True)
    assert "callbacks" not in torch.load(tmp_path / "weights", weights_only=True)


def test_it_can_be_pickled_and_copied_before_during_and_after_a_run() -> None:
    diagnostics = suite()
    copies = [pickle.loads(pickle.dumps(diagnostics)), copy.deepcopy(diagnostics)]
    peeks = _Peeks(lambda: copies.append(copy.deepcopy(diagnostics)))
    fit(trainer(diagnostics, peeks, max_epochs=1), LossList(sick=True), batches=3)
    copies += [pickle.loads(pickle.dumps(diagnostics)), copy.deepcopy(diagnostics)]
    assert len(copies) == 7
    for twin in copies:
        healthy = Student()
        again = trainer(twin, max_epochs=1)
        before = list(again.callbacks)
        fit(again, healthy)
        _clean(twin, healthy, again, before)
        assert again.global_step == BATCHES


# It stands back.


@pytest.mark.parametrize("order", [1, -1], ids=["suite first", "suite last"])
@pytest.mark.parametrize("member", KINDS, ids=str)
def test_it_stands_back_for_a_callback_that_is_listed(member: Any, order: int) -> None:
    class Own(member.kind):  # one of the user's own making, too
        pass

    for listed in (member(), Own(strict=True, **needs(member.name))):
        diagnostics, peeks = suite(), _Peeks()
        fit(trainer(*[diagnostics, listed][::order], peeks, max_epochs=1), LossList(sick=True))
        assert sorted(peeks.seen) == sorted([each.name for each in KINDS if each != member] + [type(listed).__name__])
        table = {finding.key for finding in diagnostics.findings}
        assert {finding.key for finding in listed.findings} <= table
        assert ("MEM101", "model.losses") in table


def test_of_two_suites_the_first_acts_and_the_other_says_that_it_stands_back() -> None:
    first, second, peeks = suite(), suite(preset="thorough"), _Peeks()
    second.enabled_by = "LIGHTNING_DIAGNOSTICS=thorough"
    with heard() as records:
        again = fit(trainer(first, second, peeks, max_epochs=1), LossList(sick=True))
        again.validate(Student(), loader(2, shuffle=False), verbose=False)
    assert peeks.seen == IN_A_RUN
    said = [record.getMessage() for record in records if "stands back" in record.getMessage()]
    assert said == [
        "there is a suite of diagnostics already (the callbacks of the Trainer); "
        "the one of LIGHTNING_DIAGNOSTICS=thorough stands back"
    ]
    assert [record.getMessage().split()[0] for record in records].count("watching") == 2  # a fit, and an evaluation
    assert first.findings == second.findings != []


def test_a_suite_that_the_module_brings_works_too() -> None:
    class Brings(LossList):
        def configure_callbacks(self) -> list[Callback]:
            return [diagnostics]

    diagnostics = suite()
    again = trainer()
    fit(again, Brings(sick=True))
    assert ("MEM101", "model.losses") in {finding.key for finding in diagnostics.findings}
    assert [callback for callback in again.callbacks if isinstance(callback, DiagnosticCallback)] == []


# Promise 8: every way in which people train.


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_in_every_situation_it_finds_what_can_be_seen_there(name: str, tmp_path: Path) -> None:
    for sick in (False, True):
        situation, diagnostics = situations(tmp_path / str(sick))[name], suite()
        settings = settings_of(situation)
        module = situation.kind(sick=sick)
        dies = sick and isinstance(module.net, torch.nn.Sequential)
        if dies:
            kill_units(module)
        again = trainer(diagnostics, *settings.pop("callbacks", []), **settings)
        before = list(again.callbacks)
        data = situation.data or {"train_dataloaders": loader(), "val_dataloaders": loader(2, shuffle=False)}
        again.fit(situation.prepare(module), **data)
        assert again.state.finished
        _clean(diagnostics, module, again, before)
        expected = {"graph_leak": ("MEM101", "model.losses"), **({"activations": ("ACT101", "net.2")} if dies else {})}
        seen = {expected[room] for room in expected if sick and situation.enough and room not in situation.unseen}
        assert {(code, where) for code, where, _ in diagnosed(diagnostics.findings)} == seen


def test_a_search_for_a_learning_rate_is_no_obstacle(tmp_path: Path) -> None:
    diagnostics, module = suite(), WithARate()
    again = trainer(diagnostics, default_root_dir=tmp_path)
    before = list(again.callbacks)
    data = {"train_dataloaders": loader(), "val_dataloaders": loader(2, shuffle=False)}
    Tuner(again).lr_find(module, **data, num_training=10)
    again.fit(module, **data)
    assert again.state.finished
    _clean(diagnostics, module, again, before)
    assert diagnosed(diagnostics.findings) == set()


# Acting, in one process and in two.


@pytest.mark.parametrize("processes", [1, 2])
def test_stop_stops_the_run(processes: int, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    logger = CSVLogger(tmp_path, name="csv", version=0)
    settings = {**Cell(processes=processes).settings(), "logger": logger}
    again = trainer(suite(on_finding="stop"), recorder, max_epochs=3, **settings)
    data = {"train_dataloaders": loader(BATCHES * processes), "val_dataloaders": loader(4, shuffle=False)}
    for outcome in recorder.fit(again, LossList(sick=True), **data):
        assert 0 < outcome.steps < 3 * BATCHES
        assert outcome.diagnosed == {("MEM101", "model.losses", 0)}


# The test of the test.


def test_a_suite_that_forgets_its_callbacks_is_caught() -> None:
    class Forgets(Diagnostics):
        def _withdraw(self, trainer: Any) -> list[Any]:
            return []

    diagnostics, module = Forgets(strict=True), LossList()
    again = trainer(diagnostics, max_epochs=1)
    before = list(again.callbacks)
    fit(again, module)
    with pytest.raises(AssertionError):
        _clean(diagnostics, module, again, before)
