"""Promise 6: after a run, however it ended, nothing of a callback is left; nor does a copy of the network carry any."""

import copy
import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from tests.contracts.cells import every_cell, every_cell_but_plain_slowly, outcomes
from tests.contracts.planting import HOOKS, PlantedError, planted
from tests.helpers import (
    MEMBERS,
    Member,
    alive,
    every_kind_at_work,
    every_member_slowly,
    every_member_slowly_but_at_work,
    fit,
    heard,
    held,
    trainer,
)
from tests.patients import PATIENTS, ByHand, LossList, Student, loader, of_room

every_way = pytest.mark.parametrize("kind", [Student, ByHand, LossList], ids=lambda kind: kind.__name__)


def _clean(diagnostic: Any, module: Student, run: Any) -> None:
    """What must hold once a run is over."""
    assert alive(module) == set()
    assert held(diagnostic) == []
    assert [type(callback) for callback in run.callbacks] == run.callbacks_before
    copy.deepcopy(diagnostic)


def _trainer(*callbacks: Callback, **settings: Any) -> Any:
    run: Any = trainer(*callbacks, **settings)
    run.callbacks_before = [type(callback) for callback in run.callbacks]
    return run


@every_cell
@every_member_slowly
def test_every_cell_of_the_matrix_leaves_no_hook_and_no_mode(member: Member, cell: Any) -> None:
    for patient in of_room(member.room):
        for outcome in outcomes(cell, PATIENTS.index(patient), MEMBERS.index(member), sick=True):
            assert outcome.left == set()


@every_cell_but_plain_slowly
@every_member_slowly
def test_with_the_illnesses_of_others_it_leaves_no_hook_and_no_mode_either(member: Member, cell: Any) -> None:
    for patient in (each for each in PATIENTS if each.room != member.room):
        for outcome in outcomes(cell, PATIENTS.index(patient), MEMBERS.index(member), sick=True):
            assert outcome.left == set()


@every_way
@every_member_slowly_but_at_work
def test_after_one_fit_and_after_a_second(member: Member, kind: type[Student]) -> None:
    diagnostic, module = member(), kind(sick=True)
    run = fit(_trainer(diagnostic), module)
    _clean(diagnostic, module, run)
    run.fit_loop.max_epochs = 4
    fit(run, module)
    assert run.current_epoch == 4
    _clean(diagnostic, module, run)


@every_member_slowly_but_at_work
def test_one_callback_serves_two_trainers_in_turn(member: Member) -> None:
    diagnostic = member()
    for _ in range(2):
        module = LossList(sick=True)
        with heard() as records:
            run = fit(_trainer(diagnostic), module)
        _clean(diagnostic, module, run)
        assert ["watching" in record.getMessage() for record in records].count(True) == 1
        assert ["Run finished" in record.getMessage() for record in records].count(True) == 1


@pytest.mark.parametrize("act", ["validate", "test", "predict"])
@every_member_slowly_but_at_work
def test_after_validate_test_and_predict_alone(member: Member, act: str) -> None:
    diagnostic, module = member(), Student()
    run = _trainer(diagnostic)
    with heard() as records:
        getattr(run, act)(module, loader(2, shuffle=False))
    _clean(diagnostic, module, run)
    said = ["watching", "Run"] if act in member.kind.stages else []
    assert [record.getMessage().split()[0] for record in records] == said


def _outlive(diagnostic: Any, make: Callable[[], Student]) -> set[str]:
    """What of a run the callback keeps alive after it."""
    module = make()
    run = fit(_trainer(diagnostic), module)
    witnesses = [weakref.ref(module), weakref.ref(run), weakref.ref(run.optimizers[0])]
    del module, run
    gc.collect()
    return {type(kept).__name__ for kept in (witness() for witness in witnesses) if kept is not None}


@every_way
@every_member_slowly_but_at_work
def test_nothing_keeps_network_and_trainer_alive(member: Member, kind: type[Student]) -> None:
    assert _outlive(member(), lambda: kind(sick=True)) == set()


# Runs that end early.

_CALLED_IN_A_FIT = [
    name for name in HOOKS if not any(word in name for word in ("test", "predict", "load", "state_dict", "exception"))
]
_PER_STEP = ("train_batch", "backward", "optimizer_step", "zero_grad", "_step", "forward", "step_by_hand")
_MODULE_HOOKS = (
    *("configure_optimizers", "forward", "training_step", "step_by_hand", "on_after_backward", "optimizer_step"),
    *("validation_step", "on_train_epoch_end", "on_validation_model_eval", "transfer_batch_to_device", "setup"),
)


def _third_time(name: str) -> Callable[[], bool]:
    """From the third step of the run on, or at once where there is none."""
    calls: list[int] = []

    def when() -> bool:
        calls.append(1)
        return len(calls) >= (3 if any(word in name for word in _PER_STEP) else 1)

    return when


def _ended(run: Any, module: Student, fault: type[BaseException]) -> None:
    with pytest.raises(SystemExit if fault is KeyboardInterrupt else fault):
        fit(run, module)


faults = pytest.mark.parametrize("fault", [PlantedError, KeyboardInterrupt], ids=lambda fault: fault.__name__)


def _in_the_network() -> Iterator[Any]:
    """Networks, places and faults; by default each network with one fault, and the product at the slow level."""
    for kind, place, fault in itertools.product((LossList, ByHand), _MODULE_HOOKS, (PlantedError, KeyboardInterrupt)):
        if kind is ByHand and place in ("on_after_backward", "optimizer_step"):
            continue  # Lightning does not announce these to a step that calls backward itself
        if kind is LossList and place == "step_by_hand":
            continue  # of manual optimisation only
        marks = () if (kind is LossList) == (fault is PlantedError) else pytest.mark.slow
        yield pytest.param(place, kind, fault, marks=marks, id=f"{place}-{kind.__name__}-{fault.__name__}")


@pytest.mark.parametrize(("place", "kind", "fault"), list(_in_the_network()))
@every_kind_at_work
def test_after_a_fault_in_the_network(
    member: Member, place: str, kind: type[Student], fault: type[BaseException]
) -> None:
    faulty = planted(kind, place, fault=fault, when=_third_time(place))
    diagnostic, module = member(), faulty(sick=True)
    run = _trainer(diagnostic, max_epochs=1)
    _ended(run, module, fault)
    assert faulty.raised >= 1
    _clean(diagnostic, module, run)


_ENDS = [
    pytest.param(True, PlantedError, id="before ours-PlantedError"),
    pytest.param(False, KeyboardInterrupt, id="after ours-KeyboardInterrupt"),
    pytest.param(True, KeyboardInterrupt, id="before ours-KeyboardInterrupt", marks=pytest.mark.slow),
    pytest.param(False, PlantedError, id="after ours-PlantedError", marks=pytest.mark.slow),
]
"""Each side of ours and each fault once; the product at the slow level."""


@pytest.mark.parametrize(("first", "fault"), _ENDS)
@pytest.mark.parametrize("place", _CALLED_IN_A_FIT)
@every_kind_at_work
def test_after_a_fault_in_another_callback(
    member: Member, place: str, first: bool, fault: type[BaseException], tmp_path: Path
) -> None:
    faulty = planted(Callback, place, fault=fault, when=_third_time(place))
    diagnostic, module = member(), LossList(sick=True)
    callbacks = [faulty(), diagnostic] if first else [diagnostic, faulty()]
    run = _trainer(*callbacks, max_epochs=1, enable_checkpointing="save" in place, default_root_dir=tmp_path)
    _ended(run, module, fault)
    assert faulty.raised == 1
    _clean(diagnostic, module, run)


@pytest.mark.parametrize("kind", [LossList, ByHand], ids=lambda kind: kind.__name__)
@every_kind_at_work
def test_after_a_fault_while_a_fault_is_handled(member: Member, kind: type[Student]) -> None:
    diagnostic, module = member(), planted(kind, "training_step", when=_third_time("_step"))()
    run = _trainer(diagnostic, planted(Callback, "on_exception")(), max_epochs=1)
    with pytest.raises(PlantedError, match="planted in on_exception"):
        fit(run, module)
    _clean(diagnostic, module, run)


OF_TWO_RUNS = {"EVP801", "EVP802"}
"""Notes on a run that lies beside another, that failed: they are few, and one has failed."""


def _watched_as_ever(diagnostic: Any) -> None:
    """A new run says what it always says, once, and is clean at its end."""
    module = Student()
    with heard() as records:
        run = fit(_trainer(diagnostic), module)
    assert [record.getMessage().split()[0] for record in records] == ["watching", "Run"]
    assert {finding.code for finding in diagnostic.findings} <= OF_TWO_RUNS
    _clean(diagnostic, module, run)


@faults
@every_kind_at_work
def test_a_run_after_an_interrupted_one_is_watched_as_ever(member: Member, fault: type[BaseException]) -> None:
    diagnostic = member()
    _ended(_trainer(diagnostic), planted(LossList, "training_step", fault=fault, when=_third_time("_step"))(), fault)
    _watched_as_ever(diagnostic)


@pytest.mark.parametrize("kind", [LossList, ByHand], ids=lambda kind: kind.__name__)
@every_kind_at_work
def test_a_run_after_one_of_whose_end_we_were_not_told_is_watched_as_ever(member: Member, kind: type[Student]) -> None:
    # A callback before ours fails in its own on_exception: Lightning then calls nobody else. What is left of such a
    # run is gone at the latest when the next one ends.
    diagnostic, module = member(), planted(kind, "training_step", when=_third_time("_step"))()
    with pytest.raises(PlantedError, match="planted in on_exception"):
        fit(_trainer(planted(Callback, "on_exception")(), diagnostic), module)
    _watched_as_ever(diagnostic)


# The tests of the test.


class _Keeps(Callback):
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.kept = outputs["loss"].detach() if outputs else None
        self.module = pl_module


class _AddsACallback(Callback):
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        trainer.callbacks.append(Callback())


class _HooksUntilTheEnd(Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.handle = torch.nn.modules.module.register_module_forward_hook(lambda module, args, output: None)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.handle.remove()


def test_a_callback_that_keeps_tensor_and_module_is_caught() -> None:
    culprit = _Keeps()
    fit(trainer(culprit), Student())
    assert {"Tensor", "Student"} <= set(held(culprit))


def test_a_callback_that_keeps_network_and_trainer_alive_is_caught() -> None:
    assert {"Student", "Trainer"} <= _outlive(_Keeps(), Student)


def test_a_callback_that_adds_another_is_caught() -> None:
    culprit, module = _AddsACallback(), Student()
    run = fit(_trainer(culprit), module)
    with pytest.raises(AssertionError):
        _clean(culprit, module, run)


def test_a_hook_that_outlives_an_interrupt_is_caught() -> None:
    culprit, module = _HooksUntilTheEnd(), planted(Student, "training_step", fault=KeyboardInterrupt)()
    _ended(_trainer(culprit), module, KeyboardInterrupt)
    try:
        assert alive(module) == {"_global_forward_hooks"}
    finally:
        culprit.handle.remove()
