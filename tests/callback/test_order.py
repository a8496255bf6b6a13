"""A diagnostic that goes first does so from wherever it is listed, and leaves the list as the user made it."""

import copy
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.tuner import Tuner

from lightning_diagnostics import Diagnostics
from lightning_diagnostics.callback import DiagnosticCallback
from lightning_diagnostics.findings.records import read_run
from tests.callback.scripted import Other, Scripted
from tests.helpers import fit, held, trainer
from tests.patients import Student, loader

HOOKS = [name for name in dir(Callback) if name.startswith("on_") or name in ("setup", "teardown")]
ENDS = ("setup", "teardown", "on_exception")
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")  # Lightning's advice


class First(Scripted):
    """Goes first."""

    goes_first = True

    def __init__(self, **more: Any) -> None:
        super().__init__({}, **more)


class Second(First):
    """Another one that goes first."""


class Notes(Callback):
    """A user's callback, which notes every call; two of a run write into one list."""

    def __init__(self, name: str, calls: list[tuple[str, str]]) -> None:
        self.name, self.calls = name, calls

    @property
    def state_key(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name


def _noting(hook: str) -> Callable[..., None]:
    def note(self: Any, *args: Any, **kwargs: Any) -> None:
        self.calls.append((hook, self.name))

    return note


for _hook in HOOKS:
    setattr(Notes, _hook, _noting(_hook))


def noted(kind: type[First], calls: list[tuple[str, str]], **more: Any) -> First:
    """A diagnostic that goes first, and notes every call as `Notes` does."""

    def noting(hook: str) -> Callable[..., Any]:
        def note(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append((hook, kind.__name__))
            return getattr(kind, hook)(self, *args, **kwargs)

        return note

    return type(f"Noted{kind.__name__}", (kind,), {hook: noting(hook) for hook in HOOKS})(**more)


def suite_of(*children: DiagnosticCallback) -> Diagnostics:
    diagnostics = Diagnostics(strict=True)
    diagnostics._children = list(children)
    return diagnostics


class Peeks(Callback):
    """Notes the Trainer's list in the middle of the run, or ends the run there."""

    def __init__(self, fault: BaseException | None = None) -> None:
        self.fault = fault
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        self.seen = list(trainer.callbacks)
        if self.fault is not None:
            raise self.fault


def ended(run: Any, module: Student, fault: BaseException | None = None, **more: Any) -> None:
    """Fit, which ends by the fault, if any."""
    if fault is None:
        fit(run, module, batches=2, **more)
        return
    with pytest.raises((type(fault), SystemExit)):
        fit(run, module, batches=2, **more)


def same(one: list[Any], other: list[Any]) -> bool:
    """Whether two lists hold the very same things."""
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


FAULTS: list[Any] = [None, RuntimeError("mine"), KeyboardInterrupt(), SystemExit(3)]
PLACES = {"first": 0, "middle": 1, "last": 2}


# During the run, and after it.


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize("way", ["alone", "suite"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_it_comes_first_in_every_hook_and_the_list_is_as_it_was_afterwards(
    place: int, way: str, fault: BaseException | None
) -> None:
    calls: list[tuple[str, str]] = []
    first = noted(First, calls)
    peeks = Peeks(fault)
    users: list[Any] = [Notes("a", calls), Notes("b", calls), peeks, Notes("c", calls)]
    listed = [*users]
    listed.insert(place * 2, first if way == "alone" else suite_of(Other({}), first))
    run = trainer(*listed, max_epochs=1)
    before = list(run.callbacks)
    ended(run, Student(), fault)

    assert peeks.seen[0] is first
    assert [each for each in peeks.seen if each in users] == users
    assert same(run.callbacks, before)
    last = "teardown" if fault is None else "on_exception"
    counts = Counter(calls)
    for name in ("a", "b", "c", "First"):
        assert [counts[hook, name] for hook in ("setup", last)] == [1, 1], name
    # Every hook of the run: who was called, in which order, each time.
    order = ["First", "a", "b", "c"]
    for hook in {hook for hook, _ in calls} - {"setup"}:
        names = [name for each, name in calls if each == hook]
        times = counts[hook, "First"]
        if hook == "on_train_batch_start" and fault is not None:
            assert names == order[:3]  # there it ended
        else:
            assert names == order * times, hook


def test_nothing_is_moved_of_diagnostics_that_do_not_go_first() -> None:
    peeks = Peeks()
    run = trainer(peeks, Other({}), max_epochs=1)
    callbacks, before = run.callbacks, list(run.callbacks)
    fit(run, Student(), batches=2)
    assert peeks.seen == before
    assert run.callbacks is callbacks


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize("order", ["axby", "xaby", "xyab", "xayb", "abxy"])
def test_several_go_first_in_their_own_order(order: str, fault: BaseException | None) -> None:
    calls: list[tuple[str, str]] = []
    made = {"a": noted(First, calls), "b": noted(Second, calls), "x": Peeks(fault), "y": Notes("y", calls)}
    run = trainer(*(made[letter] for letter in order), max_epochs=1)
    before = list(run.callbacks)
    ended(run, Student(), fault)
    assert same(made["x"].seen[:2], [made["a"], made["b"]])
    assert same(run.callbacks, before)
    last = "teardown" if fault is None else "on_exception"
    assert [name for hook, name in calls if hook == last] == ["First", "Second", "y"]


def test_what_saves_checkpoints_stays_last(tmp_path: Path) -> None:
    peeks, saving = Peeks(), ModelCheckpoint(tmp_path)
    run = trainer(saving, peeks, First(), max_epochs=1, enable_checkpointing=True)
    before = list(run.callbacks)
    fit(run, Student(), batches=2)
    assert peeks.seen[-1] is saving
    assert same(run.callbacks, before)


def test_a_callback_that_is_listed_before_it_finds_what_it_has_worked_out() -> None:
    class Tells(First):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.callback_metrics["told"] = torch.tensor(1.0)

    class Asks(Callback):
        told: Any = None

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            self.told = trainer.callback_metrics.get("told")

    asks = Asks()
    fit(trainer(EarlyStopping("told", patience=9), asks, Tells(), max_epochs=1, num_sanity_val_steps=0), Student())
    assert float(asks.told) == 1.0


# However it ends, and again.


def test_an_end_in_setup_leaves_the_list_as_it_was() -> None:
    class Fails(Callback):
        def setup(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("in setup")

    calls: list[tuple[str, str]] = []
    for listed in (
        [Notes("a", calls), First(), Notes("b", calls), Fails()],
        [Notes("a", calls), suite_of(Other({}), First()), Notes("b", calls), Fails()],
        [Notes("a", calls), Fails(), First(), Notes("b", calls)],
    ):
        calls.clear()
        run = trainer(*listed)
        before = list(run.callbacks)
        ended(run, Student(), RuntimeError())
        assert same(run.callbacks, before)
        assert Counter(name for hook, name in calls if hook == "on_exception") == {"a": 1, "b": 1}


class Spoils(Callback):
    """Keeps every callback after it from learning of the end."""

    def on_exception(self, *args: Any) -> None:
        raise ValueError("in on_exception")


@pytest.mark.parametrize("way", ["alone", "suite"])
def test_after_an_end_that_a_user_spoils_the_next_run_is_right(way: str) -> None:
    calls: list[tuple[str, str]] = []
    first, peeks, note = noted(First, calls), Peeks(RuntimeError("mine")), Notes("a", calls)
    mine = first if way == "alone" else suite_of(Other({}), first)
    run = trainer(Spoils(), peeks, mine, note, max_epochs=1)
    before = list(run.callbacks)
    ended(run, Student(), ValueError())
    if way == "alone":
        assert same(run.callbacks, before)
    peeks.fault = None
    calls.clear()
    fit(run, Student(), batches=2)
    assert peeks.seen[0] is first
    assert same(run.callbacks, before)
    assert Counter(each for each in calls if each[0] in ENDS) == {
        (hook, name): 1 for hook in ("setup", "teardown") for name in ("First", "a")
    }


@pytest.mark.parametrize("way", ["alone", "suite"])
def test_one_that_was_left_at_the_front_is_put_back_after_the_next_run(way: str) -> None:
    class Dies(First):
        """Ends the run before anyone who could put the list right is told."""

        def on_exception(self, *args: Any) -> None:
            if peeks.fault is not None:
                raise ValueError("in on_exception")
            super().on_exception(*args)

    calls: list[tuple[str, str]] = []
    peeks, note, dies = Peeks(RuntimeError("mine")), Notes("a", calls), Dies()
    run = trainer(peeks, dies if way == "alone" else suite_of(dies, Other({})), note, max_epochs=1)
    before = list(run.callbacks)
    ended(run, Student(), ValueError())
    assert run.callbacks[0] is dies
    peeks.fault = None
    calls.clear()
    fit(run, Student(), batches=2)
    assert [each is dies for each in peeks.seen] == [True] + [False] * (len(peeks.seen) - 1)
    assert same(run.callbacks, before)
    assert Counter(each for each in calls if each[0] in ENDS) == {("setup", "a"): 1, ("teardown", "a"): 1}


def test_one_that_was_left_at_the_front_of_one_trainer_stays_where_another_has_it() -> None:
    class Dies(First):
        def on_exception(self, *args: Any) -> None:
            raise ValueError("in on_exception")

    peeks, dies = Peeks(RuntimeError("mine")), Dies()
    ended(trainer(peeks, dies), Student(), ValueError())
    peeks.fault = None
    run = trainer(dies, peeks, max_epochs=1)
    before = list(run.callbacks)
    fit(run, Student(), batches=2)
    assert same(run.callbacks, before)


def test_a_list_that_the_user_changes_between_two_runs_stays_as_he_has_it() -> None:
    peeks, first = Peeks(), First()
    run = trainer(peeks, first, max_epochs=1)
    fit(run, Student(), batches=2)
    run.callbacks.insert(0, run.callbacks.pop(run.callbacks.index(first)))
    before = list(run.callbacks)
    fit(run, Student(), batches=2)
    assert before[0] is first
    assert same(run.callbacks, before)


@pytest.mark.parametrize("way", ["alone", "suite"])
def test_a_second_fit_a_validation_and_another_trainer(way: str) -> None:
    peeks, first = Peeks(), First()
    mine = first if way == "alone" else suite_of(Other({}), first)
    run = trainer(peeks, mine, max_epochs=1)
    before = list(run.callbacks)
    module = Student()
    for epochs in (1, 2):
        run.fit_loop.max_epochs = epochs
        peeks.seen = []
        fit(run, module, batches=2)
        assert peeks.seen[0] is first
        assert same(run.callbacks, before)
    for act in ("validate", "test", "predict"):
        getattr(run, act)(module, loader(1, shuffle=False))
        assert same(run.callbacks, before)
    others = trainer(Peeks(), peeks, mine, max_epochs=1)
    listed = list(others.callbacks)
    fit(others, Student(), batches=2)
    assert peeks.seen[0] is first
    assert same(others.callbacks, listed)
    assert same(run.callbacks, before)


def test_it_stays_where_it_is_in_a_stage_that_it_takes_no_part_in() -> None:
    class Looks(Callback):
        def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
            seen.extend(trainer.callbacks)

    seen: list[Any] = []
    looks, first = Looks(), First()
    trainer(looks, first).validate(Student(), loader(1, shuffle=False), verbose=False)
    assert same(seen[:2], [looks, first])


def test_callbacks_that_come_and_go_in_mid_run_stay_as_the_user_has_them() -> None:
    class Changes(Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            trainer.callbacks.remove(gone)
            trainer.callbacks.append(come)
            type(self).on_train_batch_start = Callback.on_train_batch_start

    calls: list[tuple[str, str]] = []
    gone, come, first, changes, note = Peeks(), Peeks(), First(), Changes(), Notes("a", calls)
    run = trainer(note, gone, first, changes, max_epochs=1)
    fit(run, Student(), batches=2)
    assert same(run.callbacks, [note, first, changes, come])


# Copies, and what is written.


def test_a_copy_in_mid_run_carries_nothing_and_works(tmp_path: Path) -> None:
    class Copies(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            copies.extend([copy.deepcopy(first), pickle.loads(pickle.dumps(first))])

    copies: list[First] = []
    first = First()
    saving = ModelCheckpoint(tmp_path)
    fit(trainer(saving, Copies(), first, max_epochs=1, enable_checkpointing=True), Student(), batches=1)
    for twin in copies:
        assert held(twin) == []
        peeks = Peeks()
        run = trainer(peeks, twin, max_epochs=1)
        before = list(run.callbacks)
        fit(run, Student(), batches=2)
        assert peeks.seen[0] is twin
        assert same(run.callbacks, before)
    assert len(copies) == 2


def test_a_checkpoint_is_read_whatever_the_order(tmp_path: Path) -> None:
    class Keeps(First):
        kept = 0
        state_outlives_run = True

        def room_state(self) -> dict[str, Any]:
            return {"kept": 7}

        def load_room_state(self, state: Any) -> None:
            self.kept = state["kept"]

    fit(trainer(Peeks(), Keeps(), max_epochs=1), Student(), batches=2).save_checkpoint(tmp_path / "a.ckpt")
    again = Keeps()
    fit(trainer(again, Peeks(), max_epochs=2), Student(), batches=2, ckpt_path=tmp_path / "a.ckpt")
    assert again.kept == 7


def test_a_suite_whose_diagnostics_all_go_first_writes_down_its_settings(tmp_path: Path) -> None:
    class Reads(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            during.append(read_run(tmp_path / "run").settings)

    during: list[Any] = []
    diagnostics = suite_of(First())
    logger = CSVLogger(tmp_path, name="", version="run")
    fit(trainer(Reads(), diagnostics, max_epochs=1, logger=logger), Student(), batches=2)
    assert [settings["preset"] for settings in during] == ["standard"] * 2


def test_of_two_suites_the_one_that_stands_back_moves_nothing() -> None:
    first, second, peeks = First(), First(), Peeks()
    run = trainer(peeks, suite_of(first), suite_of(second), max_epochs=1)
    before = list(run.callbacks)
    fit(run, Student(), batches=2)
    assert peeks.seen[0] is first
    assert not any(each is second for each in peeks.seen)
    assert same(run.callbacks, before)


def test_a_search_for_a_batch_size_or_a_rate_is_no_obstacle(tmp_path: Path) -> None:
    class WithARate(Student):
        lr = 0.01

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    peeks, first = Peeks(), First()
    run = trainer(peeks, first, default_root_dir=tmp_path, max_epochs=1)
    before = list(run.callbacks)
    module = WithARate()
    Tuner(run).lr_find(module, loader(2), loader(1, shuffle=False), num_training=5)
    assert same(run.callbacks, before)
    fit(run, module, batches=2)
    assert peeks.seen[0] is first
    assert same(run.callbacks, before)


# Other processes, and the other package.


class Writes(Callback):
    """Notes in every process who comes first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        name = type(trainer.callbacks[0]).__name__
        (self.folder / str(trainer.global_rank)).write_text(name)


def test_two_processes(tmp_path: Path) -> None:
    strategy = DDPStrategy(start_method="fork")
    run = trainer(Writes(tmp_path), First(), max_epochs=1, devices=2, strategy=strategy)
    before = list(run.callbacks)
    fit(run, Student(), batches=2)
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["First", "First"]
    assert same(run.callbacks, before)


def test_the_other_package() -> None:
    code = """
import warnings
warnings.simplefilter("ignore")
import pytorch_lightning as pl
from pytorch_lightning.demos.boring_classes import BoringModel
import tests.callback.scripted as scripted

class First(scripted.Scripted):
    goes_first = True

class Looks(pl.Callback):
    def on_train_start(self, trainer, module):
        print([type(each).__name__ for each in trainer.callbacks])

quiet = dict(enable_progress_bar=False, enable_model_summary=False, logger=False, enable_checkpointing=False)
run = pl.Trainer(max_steps=1, accelerator="cpu", callbacks=[Looks(), First({})], **quiet)
run.fit(BoringModel())
print([type(each).__name__ for each in run.callbacks])
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['First', 'Looks']", "['Looks', 'First']"]
