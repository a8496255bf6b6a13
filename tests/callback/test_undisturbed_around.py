# ruff: noqa: SIM115  # files are opened that must not open
"""A pass of the user's step leaves no trace around the module either: in data, schedules, classes, globals, files."""

import builtins
import contextlib
import io
import os
import pickle
import random
import shutil
import sqlite3
import sys
import sysconfig
import tempfile
import threading
import types
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.optim import lr_scheduler
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset
from torch.utils.tensorboard import FileWriter, SummaryWriter

from lightning_diagnostics.callback.undisturbed import (
    CannotRestoreError,
    LearningError,
    Traces,
    WritingError,
    alone,
    kept,
    undisturbed,
)
from tests.callback.test_undisturbed import STAGES, Here, UserError, check, plain, validated, weights
from tests.patients import Student, loader

Act = Callable[[Any], Any]

# Data.


class Augment:
    """Draws from a generator of its own, and counts."""

    def __init__(self) -> None:
        self.draws, self.count, self.seen = np.random.default_rng(1), 0, [0]


class Images(Dataset):
    """Has small state of every kind, and much data."""

    def __init__(self) -> None:
        self.count, self.name = 0, "name"
        self.draws = torch.Generator().manual_seed(1)
        self.numpy_draws = np.random.default_rng(1)
        self.state_draws = np.random.RandomState(1)
        self.python_draws = random.Random(1)
        self.items, self.by_name, self.ids = [1], {"a": [1]}, {1}
        self.transform = Augment()
        self.transforms = [Augment()]
        self.inputs, self.array = torch.zeros(4, 65), np.zeros(129)  # more than 1 KiB
        self.weights, self.times = torch.zeros(4, 64), np.zeros(128)  # not more
        self.paths = ["path"] * 20_000
        self.cache: dict[int, Tensor] = {index: torch.zeros(1) for index in range(10_001)}

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return self.inputs[index]


def small(data: Images) -> Any:
    """What has to be put back."""
    own = {name: value for name, value in vars(data).items() if name not in ("inputs", "array", "paths", "cache")}
    augment = [(plain(each.draws), each.count, list(each.seen)) for each in (data.transform, *data.transforms)]
    del own["transform"], own["transforms"]
    return plain(own), augment


LEAVES: dict[str, Act] = {
    "number": lambda d: setattr(d, "count", 1),
    "text": lambda d: setattr(d, "name", "other"),
    "new": lambda d: setattr(d, "fresh", 1),
    "generator": lambda d: torch.rand(1, generator=d.draws),
    "numpy-generator": lambda d: d.numpy_draws.random(),
    "random-state": lambda d: d.state_draws.rand(),
    "python-generator": lambda d: d.python_draws.random(),
    "list": lambda d: d.items.append(2),
    "dict": lambda d: d.by_name.update(b=1),
    "list-in-a-dict": lambda d: d.by_name["a"].append(1),
    "set": lambda d: d.ids.add(2),
    "small-tensor": lambda d: d.weights.add_(1),
    "small-array": lambda d: d.times.fill(1),
    "generator-of-a-transform": lambda d: d.transform.draws.random(),
    "number-of-a-transform": lambda d: setattr(d.transforms[0], "count", 2),
    "list-of-a-transform": lambda d: d.transform.seen.append(2),
}


class Wraps(Dataset):
    """As users wrap a dataset in another."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset


class Holds(LightningDataModule):
    """Keeps its datasets."""

    def __init__(self, dataset: Any) -> None:
        super().__init__()
        self.parts = {"train": dataset}


WRAPPED: dict[str, Callable[[Images], Any]] = {
    "plain": lambda data: data,
    "subset": lambda data: Subset(data, [0, 1]),
    "concatenated": lambda data: ConcatDataset([Subset(data, [0]), TensorDataset(torch.zeros(3))]),
    "wrapped": lambda data: Wraps(Subset(data, [0])),
    "loader": lambda data: DataLoader(Subset(data, [0])),
    "datamodule": Holds,
    "list": lambda data: [data],
}


@pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES)
def test_the_small_state_of_data_is_put_back(leave: Act) -> None:
    data = Images()
    check(validated(Here(lambda m, x: leave(data), look=lambda m: small(data), data=[data]), Student()))


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_so_it_is_of_data_that_is_wrapped(wrap: Callable[[Images], Any]) -> None:
    data = Images()

    def act(module: Any, x: Tensor) -> None:
        for leave in LEAVES.values():
            leave(data)

    check(validated(Here(act, look=lambda m: small(data), data=[wrap(data)]), Student()))


def test_data_that_is_not_given_is_not_looked_at() -> None:
    data = Images()
    here = validated(Here(lambda m, x: data.items.append(2), look=lambda m: small(data)), Student())
    assert here.fault is None
    assert here.after == here.within != here.before


def test_the_data_itself_is_neither_copied_nor_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Images()

    def act(module: Any, x: Tensor) -> None:
        data.inputs.add_(1)
        data.array += 1
        data.shared += 1
        data.paths.append("more")
        data.cache[20_000] = torch.ones(1)

    def look(module: Any) -> Any:
        return float(data.inputs.sum()), float(data.array.sum()), float(data.shared), len(data.paths), len(data.cache)

    module = Student()
    data.shared = torch.zeros(1).share_memory_()
    monkeypatch.setattr(kept, "_MOST_BYTES", 2 << 10)
    here = validated(Here(act, look=look, data=[data]), module)
    assert here.fault is None
    assert here.before == (0, 0, 0, 20_000, 10_001)
    assert here.after == here.within == (260, 129, 1, 20_001, 10_002)


def test_a_loader_that_is_in_use_stays_in_use() -> None:
    data = DataLoader(TensorDataset(torch.arange(4.0)), persistent_workers=True, num_workers=1)
    running = iter(data)
    next(running)
    here = validated(Here(lambda m, x: next(running), look=lambda m: data._iterator is running, data=[data]), Student())
    assert (here.fault, here.before, here.after) == (None, True, True)
    assert [float(batch[0]) for batch in running] == [2.0, 3.0]
    running._shutdown_workers()


def test_an_iterator_among_data_is_refused_and_an_open_file_is_not(tmp_path: Path) -> None:
    data = Images()
    data.source = iter([1])
    ran = []
    here = validated(Here(lambda m, x: ran.append(1), look=lambda m: 0, data=[Wraps(data)]), Student())
    assert isinstance(here.fault, CannotRestoreError)
    assert str(here.fault) == "the data has an iterator among its attributes (list_iterator)"
    assert ran == []
    (tmp_path / "rows").write_text("1\n2\n")
    with open(tmp_path / "rows") as data.source:
        here = validated(Here(lambda m, x: ran.append(1), look=lambda m: 0, data=[data]), Student())
    assert (here.fault, ran) == (None, [1])


def test_more_things_than_may_be_looked_at_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_MOST_ITEMS", 1000)
    data = Images()
    data.many = [[] for _ in range(2000)]
    here = validated(Here(lambda m, x: setattr(data, "count", 1), look=lambda m: data.count, data=[data]), Student())
    check(here)


def test_it_is_known_whether_data_drew_a_number() -> None:
    data = Images()
    told = []

    class Asks(Here):
        def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            with undisturbed(trainer, pl_module, data=[data]) as traces:
                self.before = traces
                for draw in (lambda: None, data.transform.draws.random, lambda: torch.rand(1)):
                    draw()
                    told.append(traces.drew())
                    traces.restore()

    here = validated(Asks(lambda m, x: None), Student())
    assert isinstance(here.before, Traces)
    assert told == [False, True, True]


# Logs.


@pytest.mark.parametrize("own", [True, False])
def test_logs_are_left_to_the_caller_if_asked_for(own: bool) -> None:
    module = Student()
    here = validated(Here(lambda m, x: m.log("told", 1.0), look=lambda m: 0, logs=own), module)
    assert here.fault is None
    assert ("told" in module.trainer.callback_metrics) is own


# Schedules.


class Factor:
    """Counts how often it was asked."""

    asked = 0

    def __call__(self, epoch: int) -> float:
        self.asked += 1
        return 0.5**epoch


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "step": lambda o: lr_scheduler.StepLR(o, 1),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, Factor()),
    "one-cycle": lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=100),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.StepLR(o, 1), lr_scheduler.StepLR(o, 2)], milestones=[50]
    ),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
}


class Plans(Student):
    """Has a schedule, which its step may go along."""

    def __init__(self, plan: Callable[[Any], Any]) -> None:
        super().__init__()
        self.plan = plan

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=torch.tensor(0.5), momentum=0.5)
        return [optimizer], [self.plan(optimizer)]


def schedule(module: Any) -> Any:
    groups = [{**group, "params": len(group["params"])} for group in module.trainer.optimizers[0].param_groups]
    return plain(groups), pickle.dumps(module.lr_schedulers().state_dict())


@pytest.mark.filterwarnings("ignore:.*EPOCH_DEPRECATION|.*epoch parameter in `scheduler.step")
@pytest.mark.parametrize("plan", SCHEDULES.values(), ids=SCHEDULES)
def test_a_step_of_a_schedule_is_taken_back(plan: Callable[[Any], Any]) -> None:
    check(validated(Here(lambda m, x: m.lr_schedulers().step(), look=schedule), Plans(plan), stage="fit"))


def _plateau(module: Any) -> Any:
    scheduler = module.held
    return scheduler.best, scheduler.num_bad_epochs, scheduler.last_epoch, scheduler.optimizer.param_groups[0]["lr"]


def test_so_it_is_of_a_schedule_that_the_module_holds() -> None:
    module = Plans(SCHEDULES["step"])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    module.held = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)

    def act(m: Any, x: Tensor) -> None:
        m.held.step(1.0)
        m.held.step(2.0)

    check(validated(Here(act, look=_plateau), module, stage="fit"))


OPTIONS: dict[str, Act] = {
    "number": lambda o: o.param_groups[0].update(momentum=0.9),
    "tensor": lambda o: o.param_groups[0]["lr"].fill_(3.0),
    "new": lambda o: o.param_groups[0].update(fresh=1),
    "group": lambda o: o.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]}),
    "weight": lambda o: o.param_groups[0]["params"].pop(),
}


@pytest.mark.parametrize("act", OPTIONS.values(), ids=OPTIONS)
def test_options_of_optimizers_are_put_back(act: Act) -> None:
    here = Here(lambda m, x: act(m.trainer.optimizers[0]), look=schedule)
    check(validated(here, Plans(SCHEDULES["step"]), stage="fit"))


# Files.

WRITES: dict[str, Callable[[Path, Any], Any]] = {
    "open": lambda path, m: open(path, "w"),
    "append": lambda path, m: open(str(path), mode="a"),
    "exclusive": lambda path, m: open(os.fsencode(path), "xb"),
    "io": lambda path, m: io.open(path, "w"),  # noqa: UP020  # another name of it
    "write_text": lambda path, m: path.write_text("text"),
    "touch-and-open": lambda path, m: path.open("wb"),
    "os": lambda path, m: os.open(path, os.O_WRONLY | os.O_CREAT),
    "numpy": lambda path, m: np.save(str(path), np.ones(1)),
    "torch": lambda path, m: torch.save(torch.ones(1), str(path)),
    "torch-path": lambda path, m: torch.save(torch.ones(1), path),
    "torch-legacy": lambda path, m: torch.save(torch.ones(1), path, _use_new_zipfile_serialization=False),
    "checkpoint": lambda path, m: m.trainer.save_checkpoint(path),
    "temporary": lambda path, m: tempfile.NamedTemporaryFile(dir=path.parent),
}


@pytest.mark.parametrize("name", WRITES)
def test_writing_to_a_file_is_refused_before_it_is_done(name: str, tmp_path: Path) -> None:
    here = validated(
        Here(lambda m, x: WRITES[name](tmp_path / "file", m), look=lambda m: os.listdir(tmp_path)), Student()
    )
    assert isinstance(here.fault, WritingError)
    where = str(tmp_path) if name == "temporary" else str(tmp_path / "file")
    assert str(here.fault).startswith(f"the step writes to a file ({where}")
    assert here.fault.path.startswith(where)
    assert here.before == here.within == here.after == []
    again = pickle.loads(pickle.dumps(here.fault))
    assert (str(again), again.path) == (str(here.fault), here.fault.path)


MOVES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "remove": (lambda path: os.remove(path / "file"), "moves or removes a file"),
    "unlink": (lambda path: os.unlink(str(path / "file")), "moves or removes a file"),
    "unlink-of-a-path": (lambda path: (path / "file").unlink(), "moves or removes a file"),
    "rename": (lambda path: os.rename(path / "file", path / "other"), "moves or removes a file"),
    "rename-by-keyword": (lambda path: os.rename(src=path / "file", dst=path / "other"), "moves or removes a file"),
    "replace": (lambda path: (path / "file").replace(path / "other"), "moves or removes a file"),
    "move": (lambda path: shutil.move(path / "file", path / "other"), "moves or removes a file"),
    "rmdir": (lambda path: os.rmdir(path / "empty"), "moves or removes a file"),
    "rmtree": (lambda path: shutil.rmtree(path / "full"), "moves or removes a file"),
    "mkdir": (lambda path: os.mkdir(path / "new"), "makes a folder"),
    "mkdir-of-a-path": (lambda path: (path / "new").mkdir(), "makes a folder"),
    "makedirs": (lambda path: os.makedirs(path / "new" / "more"), "makes a folder"),
}


@pytest.mark.parametrize("name", MOVES)
def test_moving_and_removing_files_is_refused_before_it_is_done(name: str, tmp_path: Path) -> None:
    move, words = MOVES[name]
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("text")
    here = validated(Here(lambda m, x: move(tmp_path), look=lambda m: sorted(map(str, tmp_path.rglob("*")))), Student())
    assert isinstance(here.fault, WritingError)
    assert str(here.fault).startswith(f"the step {words} (")
    assert "file" in here.fault.path or here.fault.path.startswith(str(tmp_path))
    assert here.before == here.within == here.after
    assert len(here.before) == 4
    again = pickle.loads(pickle.dumps(here.fault))
    assert (str(again), again.path) == (str(here.fault), here.fault.path)


def test_what_changes_no_file_goes_on_as_it_would(tmp_path: Path) -> None:
    def act(module: Any, x: Tensor) -> None:
        os.makedirs(tmp_path, exist_ok=True)
        (tmp_path / "none").unlink(missing_ok=True)
        with pytest.raises(FileExistsError):
            os.mkdir(tmp_path)
        with pytest.raises(FileNotFoundError):
            os.rename(tmp_path / "none", tmp_path / "other")

    assert validated(Here(act, look=lambda m: 0), Student()).fault is None


def test_a_log_of_tensorboard_of_the_users_own_is_not_written(tmp_path: Path) -> None:
    module = Student()
    module.writer = SummaryWriter(str(tmp_path))
    here = validated(Here(lambda m, x: m.writer.add_scalar("name", 1.0), look=lambda m: 0), module)
    module.writer.close()
    assert isinstance(here.fault, WritingError)
    assert here.fault.path == str(tmp_path)
    (file,) = tmp_path.iterdir()
    assert b"name" not in file.read_bytes()


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_work_is_not_handed_to_others(kind: Any) -> None:
    done: list[int] = []
    with kind(1) as pool:
        here = validated(Here(lambda m, x: pool.submit(done.append, 1), look=lambda m: 0), Student())
    assert isinstance(here.fault, WritingError)
    assert str(here.fault) == f"the step starts work in another thread ({kind.__name__})"
    assert done == []


def test_data_may_be_read_by_others() -> None:
    with ThreadPoolExecutor(1) as pool:

        class Slow(Dataset):
            def __len__(self) -> int:
                return 2

            def __getitem__(self, index: int) -> int:
                return pool.submit(lambda: index + 1).result()

        got: list[list[int]] = []
        act = lambda m, x: got.extend(batch.tolist() for batch in DataLoader(Slow(), batch_size=2))  # noqa: E731
        assert validated(Here(act, look=lambda m: 0), Student()).fault is None
    assert got == [[1, 2]]


def test_a_logger_that_the_module_holds_by_itself_logs_nothing(tmp_path: Path) -> None:
    module = Student()
    module.part = torch.nn.Linear(1, 1)
    module.part.own = CSVLogger(str(tmp_path))

    def act(m: Any, x: Tensor) -> None:
        m.part.own.log_metrics({"a": 1.0}, 0)

    here = validated(Here(act, look=lambda m: len(m.part.own.experiment.metrics)), module)
    assert isinstance(here.fault, WritingError)
    assert str(here.fault) == f"the step writes to a logger of its own ({tmp_path})"
    assert here.before == here.within == here.after == 0
    act(module, torch.ones(1))
    assert len(module.part.own.experiment.metrics) == 1


def test_a_database_of_the_modules_is_refused_and_one_of_the_datas_is_not() -> None:
    module, data = Student(), Images()
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        data.rows = connection
        assert validated(Here(lambda m, x: None, look=lambda m: 0, data=[data]), module).fault is None
        module.rows = [connection]
        ran: list[int] = []
        here = validated(Here(lambda m, x: ran.append(1), look=lambda m: 0), module)
    assert isinstance(here.fault, CannotRestoreError)
    assert str(here.fault) == "the module has a database among its attributes (Connection)"
    assert ran == []


def test_a_file_that_is_there_is_not_emptied(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    for mode in ("w", "r+", "a"):
        here = validated(Here(lambda m, x, mode=mode: open(file, mode), look=lambda m: file.read_text()), Student())
        assert isinstance(here.fault, WritingError)
        assert here.before == here.after == "text"


def test_what_is_no_file_is_written_to_and_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    os.mkfifo(tmp_path / "pipe")

    def act(module: Any, x: Tensor) -> None:
        assert (tmp_path / "file").read_text() == "text"
        os.close(os.open(tmp_path / "file", os.O_RDONLY))
        with open(os.devnull, "w") as null:
            null.write("text")
        os.close(os.open(os.devnull, os.O_RDWR))
        torch.save(x, io.BytesIO())
        ends = os.pipe()
        with open(ends[1], "w") as into, open(ends[0]) as out:
            into.write("text")
            into.flush()
            assert out.read(4) == "text"
        os.close(os.open(tmp_path / "pipe", os.O_RDWR))
        with pytest.raises(FileNotFoundError):
            open(tmp_path / "none")
        with pytest.raises(TypeError):
            open(3.0, "w")  # type: ignore[call-overload]

    here = validated(Here(act, look=lambda m: 0), Student())
    if here.fault is not None:
        raise here.fault


def test_other_threads_write(tmp_path: Path) -> None:
    def act(module: Any, x: Tensor) -> None:
        writing = threading.Thread(target=lambda: (tmp_path / "file").write_text("text"))
        writing.start()
        writing.join()

    here = validated(Here(act, look=lambda m: os.listdir(tmp_path)), Student())
    assert (here.fault, here.after) == (None, ["file"])


class Caches(TensorDataset):
    """Writes in its worker."""

    def __init__(self, folder: Path) -> None:
        super().__init__(torch.arange(4.0))
        self.folder = folder

    def __getitem__(self, index: int) -> Any:
        (self.folder / str(index)).write_text("text")
        return super().__getitem__(index)


def test_workers_of_a_loader_work_and_write(tmp_path: Path) -> None:
    got = []

    def act(module: Any, x: Tensor) -> None:
        got.extend(float(batch[0]) for batch in DataLoader(Caches(tmp_path), num_workers=2))

    here = validated(Here(act, look=lambda m: len(os.listdir(tmp_path))), Student())
    assert (here.fault, got, here.after) == (None, [0.0, 1.0, 2.0, 3.0], 4)


def test_what_a_compiler_keeps_is_written(tmp_path: Path) -> None:
    home: dict[str, Any] = {"__name__": "torch._inductor.codecache"}
    exec("def keep(path):\n    path.write_text('text')", home)
    here = validated(Here(lambda m, x: home["keep"](tmp_path / "file"), look=lambda m: os.listdir(tmp_path)), Student())
    assert (here.fault, here.after) == (None, ["file"])


def _ways() -> list[Any]:
    files = [builtins.open, io.open, os.open, os.mkdir, os.remove, os.unlink, os.rename, os.replace, os.rmdir]
    others = [torch.serialization._open_zipfile_writer, FileWriter.add_event]
    return [*files, *others, ThreadPoolExecutor.submit, ProcessPoolExecutor.submit]


@pytest.mark.parametrize("error", [None, UserError, KeyboardInterrupt])
def test_afterwards_files_are_written_as_before(error: type[BaseException] | None, tmp_path: Path) -> None:
    before = _ways()
    taken = []

    def act(module: Any, x: Tensor) -> None:
        assert not any(one is other for one, other in zip(_ways(), before, strict=True))
        with undisturbed(module.trainer, module):
            taken.append(builtins.open)
        with pytest.raises(WritingError):
            (tmp_path / "file").write_text("text")
        taken.append(builtins.open)
        if error is not None:
            raise error

    here = validated(Here(act, look=lambda m: 0), Student())
    assert isinstance(here.fault, error or type(None))
    assert all(one is other for one, other in zip(_ways(), before, strict=True))
    for opens in taken:  # somebody kept it
        with opens(tmp_path / "file", "w") as file:
            file.write("text")


def test_what_somebody_else_has_put_over_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "open", builtins.open)
    mine = []

    def act(module: Any, x: Tensor) -> None:
        ours = builtins.open
        mine.append(lambda *args, **kwargs: ours(*args, **kwargs))
        builtins.open = mine[0]

    here = validated(Here(act, look=lambda m: 0), Student())
    assert here.fault is None
    assert builtins.open is mine[0]
    with open(os.devnull, "w") as null:
        null.write("text")


# The guard.


def test_without_the_guard_no_mode_is_on_and_it_can_be_had_for_a_part() -> None:
    modes: list[int] = []

    def act(module: Any, x: Tensor) -> None:
        modes.append(len(_get_current_dispatch_mode_stack()))
        with alone(module):
            modes.append(len(_get_current_dispatch_mode_stack()))
        with alone(module), torch.no_grad(), pytest.raises(LearningError, match="writes to weights"):
            module.net[0].weight.add_(1)
        modes.append(len(_get_current_dispatch_mode_stack()))
        module.net[0].weight.grad = torch.ones_like(module.net[0].weight)
        with pytest.raises(LearningError, match="lets SGD"):
            torch.optim.SGD(module.parameters(), lr=0.1).step()

    here = validated(Here(act, look=weights, guard=False), Student(), stage="fit")
    assert here.fault is None
    assert modes == [0, 1, 0]
    assert here.before == here.after


# The program.

COUNT = 0
SEEN: list[Any] = [1]
BY_NAME: dict[str, Any] = {"a": [1]}
KNOWN: set[int] = {1}
DRAWS = np.random.default_rng(1)
NOTHING: Any = None


def function() -> int:
    return 1


class Meter:
    """Is no plain thing."""

    value = 0


METER = Meter()
METERS = [METER]


class Base(Student):
    """Counts for all."""

    total = 0


class Counts(Base):
    """Keeps things in its class."""

    count, name = 0, "name"
    outputs: list[Any] = []  # noqa: RUF012  # as users have it
    by_name: dict[str, Any] = {"a": [1]}  # noqa: RUF012
    kind: Any = Meter


class Layer(torch.nn.Module):
    """A part of the module that counts, too."""

    count = 0


def program() -> Any:
    own = [COUNT, SEEN, BY_NAME, KNOWN, plain(DRAWS), NOTHING, "FRESH" in globals(), Layer.count, Base.total]
    names = ("count", "name", "outputs", "by_name", "fresh")
    return plain(own), [plain(getattr(Counts, name, "none")) for name in names]


def _global(**values: Any) -> None:
    globals().update(values)


LEFT: dict[str, Callable[[], Any]] = {
    "number": lambda: _global(COUNT=1),
    "list": lambda: SEEN.append(2),
    "list-rebound": lambda: _global(SEEN=[]),
    "list-in-a-dict": lambda: BY_NAME["a"].append(2),
    "set": lambda: KNOWN.add(2),
    "generator": lambda: DRAWS.random(),
    "from-nothing": lambda: _global(NOTHING=torch.ones(1)),
    "new": lambda: _global(FRESH=1),
    "class-number": lambda: setattr(Counts, "count", 1),
    "class-text": lambda: setattr(Counts, "name", "other"),
    "class-list": lambda: Counts.outputs.append(1),
    "class-list-in-a-dict": lambda: Counts.by_name["a"].append(1),
    "class-new": lambda: setattr(Counts, "fresh", 1),
    "class-of-a-part": lambda: setattr(Layer, "count", 1),
    "base": lambda: setattr(Base, "total", 1),
}


@pytest.mark.parametrize("leave", LEFT.values(), ids=LEFT)
def test_plain_values_of_classes_and_of_the_python_module_are_put_back(leave: Callable[[], Any]) -> None:
    module = Counts()
    module.part = Layer()
    check(validated(Here(lambda m, x: leave(), look=lambda m: program()), module))


def test_what_is_not_plain_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    here = sys.modules[__name__]
    for owner, name in ((here, "function"), (here, "METER"), (Counts, "kind"), (Meter, "value")):
        monkeypatch.setattr(owner, name, getattr(owner, name))

    def act(module: Any, x: Tensor) -> None:
        here.function, here.METER, Counts.kind = len, Meter(), Student  # type: ignore[attr-defined]
        METERS[0].value = 3

    def look(module: Any) -> Any:
        return id(function), id(METER), id(Counts.kind), METERS[0].value

    found = validated(Here(act, look=look), Counts())
    METERS[0].__dict__.clear()
    assert found.fault is None
    assert found.after == found.within != found.before


def test_what_a_compiler_keeps_among_the_globals_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the namespace of builtins, which cannot be emptied even for a moment."""
    library = types.ModuleType("some_library")
    monkeypatch.setitem(sys.modules, "some_library", library)
    monkeypatch.setitem(globals(), "NAMESPACE", vars(library))
    monkeypatch.setitem(globals(), "__compiled", {})
    del globals()["__compiled"]

    def act(module: Any, x: Tensor) -> None:
        library.value = 1  # type: ignore[attr-defined]
        globals()["__compiled"] = {}

    found = validated(Here(act, look=lambda m: (hasattr(library, "value"), "__compiled" in globals())), Counts())
    assert (found.fault, found.before, found.after) == (None, (False, False), (True, True))


def test_classes_of_a_library_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    library = types.ModuleType("some_library")
    library.__file__ = os.path.join(sysconfig.get_paths()["purelib"], "some_library.py")
    monkeypatch.setitem(sys.modules, "some_library", library)
    kind = type("Part", (torch.nn.Module,), {"__module__": "some_library", "count": 0})
    module = Student()
    module.part = kind()
    found = validated(Here(lambda m, x: setattr(kind, "count", 1), look=lambda m: kind.count), module)
    assert (found.fault, found.before, found.after) == (None, 0, 1)


# All together.


@pytest.mark.parametrize("stage", STAGES)
def test_a_whole_pass_over_training_data_leaves_nothing(stage: str) -> None:
    """With everything on, a real step over a loader of its own."""
    data = loader(2).dataset

    def act(module: Any, x: Tensor) -> None:
        module.eval()
        for index, batch in enumerate(DataLoader(data, batch_size=8)):
            module.validation_step(batch, index)
            module.count = index

    check(validated(Here(act, data=[data], guard=False), Student(), stage=stage))
