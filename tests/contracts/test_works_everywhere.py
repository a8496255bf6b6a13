"""Promise 8: it works where the user works (the matrix of modes is run by the contracts of promises 1, 5 and 6)."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.tuner import Tuner
from torch.utils._python_dispatch import TorchDispatchMode

from tests.contracts.cells import Cell, outcomes, run
from tests.contracts.situations import Situation, situations
from tests.helpers import (
    AT_WORK,
    KINDS,
    MEMBERS,
    Member,
    accusations,
    alive,
    every_kind,
    every_member_slowly_but_at_work,
    heard,
    trainer,
)
from tests.patients import PATIENTS, LossList, Student, kill_units, loader, put_into_a_sweep

ADVICE = [
    pytest.mark.filterwarnings(f"ignore:{advice}")
    for advice in (
        "You defined a `validation_step` but have no `val_dataloader`",
        "You are trying to `self.log.*barebones",
        "`training_step` returned `None`",
        "`LightningModule.configure_optimizers` returned `None`",
        "Found 1 module.* in eval mode at the start of training",
        "You requested to overfit but enabled train dataloader shuffling",
        "The .grad attribute of a Tensor that is not a leaf",
    )
]
"""What Lightning and torch say of these very situations."""

pytestmark = ADVICE

OPTIMIZER = "the first optimizer"

EXPECTED = {
    "activations": ("ACT101", "net.2"),
    "batch_norm": ("BN101", "net.1"),
    "expected_performance": ("EVP101", None),
    "gradients": ("GRD103", "net.0"),
    "graph_leak": ("MEM101", "model.losses"),
    "learning_rate": ("LR104", OPTIMIZER),
}
"""What is found in the networks of these situations, by room."""

FEW_STEPS_ARE_ENOUGH = {"batch_norm", "expected_performance", "learning_rate"}
"""Rooms that need no training for their verdict: one validation batch, or steps of whatever kind, will do."""

NAMES = tuple(situations(Path("never written")))
HARDEST = ("plain", "no length, checked in mid-epoch", "two optimizers")
every_situation = pytest.mark.parametrize("name", NAMES)


def _every_member_and_situation(*, third: bool) -> pytest.MarkDecorator:
    """By default each callback in the hardest situations, and perhaps in a third of the others, by turns."""
    every = []
    for (turn, member), (number, name) in itertools.product(enumerate(MEMBERS), enumerate(NAMES)):
        fast = name in HARDEST or (third and (turn + number) % 3 == 0)
        marks = () if member in AT_WORK and fast else pytest.mark.slow
        every.append(pytest.param(member, name, marks=marks, id=f"{member}-{name}"))
    return pytest.mark.parametrize(("member", "name"), every)


def settings_of(situation: Situation) -> dict[str, Any]:
    """The Trainer's arguments."""
    settings = dict(situation.settings)
    if settings.get("barebones"):  # refuses to be told what it switches off
        settings |= {"logger": None, "enable_checkpointing": None, "enable_progress_bar": None}
        settings |= {"enable_model_summary": None, "log_every_n_steps": None}
    return settings


def _train(
    member: Member, situation: Situation, *beside: Callback, sick: bool
) -> tuple[Any, Student, Trainer, list[Any]]:
    diagnostic, settings = member(), settings_of(situation)
    run = trainer(diagnostic, *beside, *settings.pop("callbacks", []), **settings)
    module = situation.kind(sick=sick)
    if sick and isinstance(module.net, torch.nn.Sequential):
        SICKEN.get(member.room, _nothing)(module)
    data = situation.data or {"train_dataloaders": loader(), "val_dataloaders": loader(2, shuffle=False)}
    with heard() as records:
        run.fit(situation.prepare(module), **data)
    return diagnostic, module, run, records


def _train_in_validation(module: Student) -> None:
    """Put the norm of a `Student` into training mode before each validation batch."""
    norm = module.net[1]

    def train(batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        norm.train()

    module.on_validation_batch_start = train  # type: ignore[method-assign]  # whatever its class is


def _forget_a_layer(module: Student) -> None:
    """Take the first layer of a `Student` from its optimizer."""
    made, forgotten = module.configure_optimizers, {id(parameter) for parameter in module.net[0].parameters()}

    def configure_optimizers() -> Any:
        optimizers = made()
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            for group in optimizer.param_groups:
                group["params"][:] = [each for each in group["params"] if id(each) not in forgotten]
        return optimizers

    module.configure_optimizers = configure_optimizers  # type: ignore[method-assign]  # whatever its class is


def _never_step_the_scheduler(module: Student) -> None:
    """Give the first optimizer of a `Student` a scheduler, and have the module take on its steps and make none."""
    made = module.configure_optimizers

    def configure_optimizers() -> Any:
        optimizers = made()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(optimizers[0], 0.9)]

    module.configure_optimizers = configure_optimizers  # type: ignore[method-assign]  # whatever its class is
    module.__class__ = type(type(module).__name__, (type(module),), {"lr_scheduler_step": lambda *args: None})


def _lose_a_sibling(module: Student) -> None:
    """Put the run of a `Student` into a sweep of which one run was killed."""
    module.on_fit_start = lambda: put_into_a_sweep(module)  # type: ignore[method-assign]  # whatever its class is


def _nothing(module: Student) -> None:
    """The classes of these situations are sick enough."""


SICKEN: dict[str, Callable[[Student], None]] = {
    "activations": kill_units,
    "batch_norm": _train_in_validation,
    "expected_performance": _lose_a_sibling,
    "gradients": _forget_a_layer,
    "learning_rate": _never_step_the_scheduler,
}


@every_situation
def test_a_healthy_network_trains_unaccused_by_all_together(name: str, tmp_path: Path) -> None:
    first, *others = KINDS
    beside = [member() for member in others]
    diagnostic, module, run, records = _train(first, situations(tmp_path)[name], *beside, sick=False)
    assert run.state.finished
    assert [accusations(each) for each in (diagnostic, *beside)] == [[]] * len(KINDS)
    assert [record.getMessage() for record in records if record.levelname not in ("DEBUG", "INFO")] == []
    assert alive(module) == set()


@_every_member_and_situation(third=False)
def test_a_healthy_network_trains_unaccused(member: Member, name: str, tmp_path: Path) -> None:
    diagnostic, module, run, records = _train(member, situations(tmp_path)[name], sick=False)
    assert run.state.finished
    assert accusations(diagnostic) == []
    assert [record.getMessage() for record in records if record.levelname not in ("DEBUG", "INFO")] == []
    assert alive(module) == set()


@_every_member_and_situation(third=True)
def test_a_sick_network_is_diagnosed(member: Member, name: str, tmp_path: Path) -> None:
    situation = situations(tmp_path)[name]
    diagnostic, module, run, _ = _train(member, situation, sick=True)
    assert run.state.finished
    assert alive(module) == set()
    expected = EXPECTED.get(member.room)
    if expected is not None:  # what the networks of these situations suffer from
        enough = situation.enough or member.room in FEW_STEPS_ARE_ENOUGH
        seen = enough and member.room not in situation.unseen
        code, where = expected
        if where == OPTIMIZER:
            where = type(run.optimizers[0]).__name__ if run.optimizers else None
        found = [(f.code, f.where) for f in accusations(diagnostic)]
        harm = [("BN107", "net.1")]  # of the mode, where a batch can be tried
        assert [each for each in found if each not in harm] == [(code, where)] * seen


@every_kind
def test_the_start_and_the_end_are_said_once_in_every_situation(member: Member, tmp_path: Path) -> None:
    *_, records = _train(member, situations(tmp_path)["checked in mid-epoch"], sick=False)
    assert [record.getMessage().split()[0] for record in records] == ["watching", "Run"]


class WithARate(Student):
    """Healthy, with a learning rate to search for."""

    lr = 1e-3

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


@every_kind
def test_a_learning_rate_search_is_no_obstacle(member: Member, tmp_path: Path) -> None:
    diagnostic, module = member(), WithARate()
    run = trainer(diagnostic, default_root_dir=tmp_path)
    data = {"train_dataloaders": loader(), "val_dataloaders": loader(2, shuffle=False)}
    Tuner(run).lr_find(module, **data, num_training=10)
    run.fit(module, **data)
    assert run.state.finished
    assert accusations(diagnostic) == []
    assert alive(module) == set()


@every_kind
def test_all_together_find_what_each_finds_alone(member: Member) -> None:
    together = [each() for each in MEMBERS if each.arguments == member.arguments]
    trainer(*together).fit(LossList(sick=True), loader(), loader(2, shuffle=False))
    alone = member()
    trainer(alone).fit(LossList(sick=True), loader(), loader(2, shuffle=False))
    same = next(each for each in together if type(each) is member.kind)
    assert {finding.key for finding in same.findings} == {finding.key for finding in alone.findings}


# Which steps are looked at: of step, epoch and cadence only.


def _same_looks(plain: list[tuple[int, str]], other: list[tuple[int, str]]) -> None:
    common = {tag for _, tag in plain} & {tag for _, tag in other}  # some numbers are known in some modes only
    assert common
    assert {step for step, _ in plain} == {step for step, _ in other}
    assert [each for each in other if each[1] in common] == [each for each in plain if each[1] in common]


DRAWS_LATE = {"expected_performance"}
"""Rooms that draw at the end of a run alone, which tables of CSV do not get."""


@pytest.mark.parametrize("cell", [Cell(processes=2), Cell(precision="bf16-mixed")], ids=str)
@every_member_slowly_but_at_work
def test_the_same_steps_are_looked_at_whatever_the_mode(member: Member, cell: Cell) -> None:
    index = MEMBERS.index(member)
    plain, other = (outcomes(each, 0, index, sick=True)[0].drawn for each in (Cell(), cell))
    if member.room in DRAWS_LATE:
        assert plain == other == []
    else:
        _same_looks(plain, other)


# A look does no collective.


class _Collectives(TorchDispatchMode):
    """Counts the collectives of the training steps; the first callback in the list and, as `ends`, the last."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.count = folder, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.namespace == "c10d"
        return func(*args, **(kwargs or {}))


def _collectives(folder: Path, *callbacks: Callback) -> list[str]:
    """How many collectives the steps of each of two ranks made."""
    folder.mkdir()
    mode = _Collectives(folder)
    begins = LambdaCallback(on_train_batch_start=lambda *args: mode.__enter__())
    ends = LambdaCallback(
        on_train_batch_end=lambda *args: mode.__exit__(None, None, None),
        on_train_end=lambda trainer, _: (folder / str(trainer.global_rank)).write_text(str(mode.count)),
    )
    run = trainer(begins, *callbacks, ends, **Cell(processes=2).settings())
    run.fit(LossList(sick=True), loader(16), loader(4, shuffle=False))
    return [(folder / str(rank)).read_text() for rank in range(2)]


@every_member_slowly_but_at_work
def test_a_look_does_no_collective(member: Member, tmp_path: Path) -> None:
    assert _collectives(tmp_path / "with", member()) == _collectives(tmp_path / "without")


# The tests of the test.


class _MeetsInEveryStep(Callback):
    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        torch.distributed.all_gather_object([None] * 2, trainer.global_rank)


def test_a_collective_in_a_step_is_caught(tmp_path: Path) -> None:
    assert _collectives(tmp_path / "with", _MeetsInEveryStep()) != _collectives(tmp_path / "without")


class _LooksByPrecision(Callback):
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.precision == "32-true" or batch_idx % 2:
            trainer.logger.log_metrics({"mine": 1.0}, step=trainer.global_step)


def test_looks_that_depend_on_the_mode_are_caught() -> None:
    drawn = [run(cell, PATIENTS[0], _LooksByPrecision())[0].drawn for cell in (Cell(), Cell(precision="bf16-mixed"))]
    assert min(map(len, drawn)) > 0
    with pytest.raises(AssertionError):
        _same_looks(*drawn)


class _NeedsALength(Student):
    def on_train_start(self) -> None:
        len(self.trainer.train_dataloader)


def test_a_situation_that_is_not_mastered_is_caught(tmp_path: Path) -> None:
    situation = situations(tmp_path)["no length"]
    situation.kind = _NeedsALength
    with pytest.raises(TypeError, match="len"):
        _train(MEMBERS[0], situation, sick=False)
