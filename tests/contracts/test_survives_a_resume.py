"""Promise 7: a resumed run is diagnosed as an unbroken one, and no checkpoint is harmed."""

import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from tests.contracts.cells import Cell, Outcome, Recorder
from tests.contracts.planting import SITES, planted, site_name
from tests.helpers import KINDS, Member, diagnosed, every_kind, every_member, every_member_slowly, fit, trainer
from tests.patients import BATCHES, PATIENTS, Diagnosed, LossList, Patient, Student, loader, of_room


class LateLossList(LossList):
    """Falls ill at step 10."""

    def keep(self, loss: Tensor, output: Tensor) -> None:
        self.losses.append(loss if self.sick and self.global_step >= 10 else loss.item())


pytestmark = [
    # Lightning's advice: the parts of a run share a folder here or have one each, and few loaders can be resumed in mid-epoch.
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

LATE = Patient("graph_leak", LateLossList, frozenset({("MEM101", "model.losses", 10)}))

every_patient = pytest.mark.parametrize("patient", [*PATIENTS, LATE], ids=str)


def _unbroken(member: Member, patient: Patient, batches: int, epochs: int) -> set[Diagnosed]:
    diagnostic = member()
    fit(trainer(diagnostic, max_epochs=epochs), patient.make(sick=True), batches=batches)
    return diagnosed(diagnostic.findings)


def _resumed(
    member: Member, patient: Patient, batches: int, stops: list[int], folder: Path, *, after_fit: bool = False
) -> set[Diagnosed]:
    """What is found by a run that is stopped at the end of these epochs; each part is made of new objects."""
    checkpoint = None
    for epochs in stops:
        diagnostic, saving = member(), ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
        run = trainer(diagnostic, saving, max_epochs=epochs, enable_checkpointing=True)
        fit(run, patient.make(sick=True), batches=batches, ckpt_path=checkpoint)
        checkpoint = folder / f"epoch={epochs - 1}.ckpt"
        if after_fit:
            run.save_checkpoint(checkpoint)
    return diagnosed(diagnostic.findings)


@pytest.mark.parametrize("after_fit", [False, True], ids=["ModelCheckpoint", "save_checkpoint after fit"])
@pytest.mark.parametrize(
    ("batches", "stops"),
    [(8, [1, 4]), (8, [2, 3, 4]), (4, [1, 6]), (3, [1, 2, 8])],
    ids=["after a verdict", "twice", "before a verdict", "twice before a verdict"],
)
@every_patient
@every_member_slowly
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
    saving = ModelCheckpoint(folder, filename="end")
    recorder, logger = Recorder(folder), CSVLogger(folder, name="csv", version=0)
    settings = {**Cell(processes=2).settings(), "logger": logger, "enable_checkpointing": True}
    run = trainer(member(), saving, recorder, max_epochs=epochs, **settings)
    data = {"train_dataloaders": loader(2 * BATCHES), "val_dataloaders": loader(4, shuffle=False)}
    return recorder.fit(run, of_room(member.room)[0].make(sick=True), **data, ckpt_path=checkpoint)


@every_kind
def test_with_two_processes_a_resumed_run_is_diagnosed_as_an_unbroken_one(member: Member, tmp_path: Path) -> None:
    unbroken = _part_with_two_processes(member, tmp_path / "unbroken", 3, None)
    _part_with_two_processes(member, tmp_path / "first", 1, None)
    resumed = _part_with_two_processes(member, tmp_path / "second", 3, tmp_path / "first" / "end.ckpt")
    assert [outcome.diagnosed for outcome in resumed] == [outcome.diagnosed for outcome in unbroken]
    assert unbroken[0].diagnosed == of_room(member.room)[0].findings


@every_member
def test_a_checkpoint_from_the_middle_of_an_epoch_can_be_resumed(member: Member, tmp_path: Path) -> None:
    saving: dict[str, Any] = {"filename": "{step}", "every_n_train_steps": 3, "save_top_k": -1}
    fit(trainer(member(), ModelCheckpoint(tmp_path, **saving), enable_checkpointing=True), LossList(sick=True))
    for step in (3, 9):
        again = ModelCheckpoint(tmp_path, **saving)
        run = trainer(member(), again, enable_checkpointing=True)
        assert fit(run, LossList(sick=True), ckpt_path=tmp_path / f"step={step}.ckpt").global_step == 16


@every_kind
def test_a_checkpoint_goes_with_and_without_the_callback(member: Member, tmp_path: Path) -> None:
    first = tmp_path / "first.ckpt"
    fit(trainer(member(), max_epochs=1), Student()).save_checkpoint(first)
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint need to be provided"):
        without = fit(trainer(max_epochs=2), Student(), ckpt_path=first)
    second = tmp_path / "second.ckpt"
    without.save_checkpoint(second)
    assert fit(trainer(member(), max_epochs=3), Student(), ckpt_path=second).current_epoch == 3


@pytest.mark.parametrize(("member", "site"), SITES, ids=site_name)
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


# What stands in a checkpoint.


def _not_plain(value: Any, path: str = "state") -> list[str]:
    """The places in a state that hold what a checkpoint must not: subclasses of plain types included."""
    if type(value) is dict:
        keys = [f"{path} key {key!r}" for key in value if type(key) not in (str, int)]
        return keys + [bad for key, item in value.items() for bad in _not_plain(item, f"{path}[{key!r}]")]
    if type(value) is list:
        return [bad for i, item in enumerate(value) for bad in _not_plain(item, f"{path}[{i}]")]
    if type(value) is Tensor:
        fine = value.device.type == "cpu" and not value.requires_grad
    else:
        fine = value is None or type(value) in (str, int, float, bool)
    return [] if fine else [f"{path}: {type(value).__name__}"]


class _Inspects(Callback):
    """Looks at a callback's state within every step, too."""

    def __init__(self, diagnostic: Any) -> None:
        self.diagnostic = diagnostic
        self.bad: list[str] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.bad += _not_plain(self.diagnostic.state_dict())


@every_patient
@every_member
def test_the_state_is_plain_before_during_and_after_a_run(member: Member, patient: Patient) -> None:
    diagnostic = member()
    assert _not_plain(diagnostic.state_dict()) == []
    inspects = _Inspects(diagnostic)
    fit(trainer(diagnostic, inspects), patient.make(sick=True))
    assert inspects.bad == []
    assert _not_plain(diagnostic.state_dict()) == []


def _checkpoint(path: Path, *callbacks: Any) -> Path:
    fit(trainer(*callbacks, max_epochs=1), LossList(sick=True)).save_checkpoint(path)
    return path


@every_member
def test_a_checkpoint_loads_with_weights_only(member: Member, tmp_path: Path) -> None:
    diagnostic = member()
    loaded = torch.load(_checkpoint(tmp_path / "a.ckpt", diagnostic), weights_only=True)
    assert loaded["callbacks"][diagnostic.state_key] == diagnostic.state_dict()


_WITHOUT_US = """
import sys, warnings

class Blocks:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "lightning_diagnostics":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocks())
warnings.simplefilter("ignore")
import torch
for weights_only in (True, False):
    torch.load(sys.argv[1], weights_only=weights_only)
from tests.patients import LossList
LossList.load_from_checkpoint(sys.argv[1])
assert not any(name.startswith("lightning_diagnostics") for name in sys.modules)
"""


def _load_without_us(path: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT_US, str(path)], cwd=root, capture_output=True, text=True, check=False
    )


def test_a_checkpoint_of_all_callbacks_together_loads_where_this_package_is_not(tmp_path: Path) -> None:
    done = _load_without_us(_checkpoint(tmp_path / "all.ckpt", *(member() for member in KINDS)))
    assert done.returncode == 0, done.stderr


# The tests of the test.


class _Word(Enum):
    OPEN = "open"


class _Level(IntEnum):
    HIGH = 1


@dataclass
class _Record:
    step: int


_NOT_PLAIN = [
    *(_Word.OPEN, _Level.HIGH, _Record(1), deque([1]), np.float64(1.0), np.zeros(1), (1, 2), {1}, b"1"),
    *({(1, 2): 3}, torch.nn.Parameter(torch.zeros(1)), torch.zeros(1, device="meta"), torch.zeros(1).requires_grad_()),
]


@pytest.mark.parametrize("value", _NOT_PLAIN, ids=lambda value: type(value).__name__)
def test_what_is_not_plain_is_caught(value: Any) -> None:
    assert len(_not_plain({"room": [{"value": value}]})) == 1


class _SavesAFinding(Callback):
    """Saves an object of this package."""

    def state_dict(self) -> dict[str, Any]:
        from lightning_diagnostics import Severity

        return {"severity": Severity.ERROR}


def test_a_checkpoint_that_needs_this_package_is_caught(tmp_path: Path) -> None:
    path = _checkpoint(tmp_path / "bad.ckpt", _SavesAFinding())
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path, weights_only=True)
    done = _load_without_us(path)
    assert done.returncode != 0


def test_a_run_that_forgets_is_caught(tmp_path: Path) -> None:
    class Forgets(KINDS[0].kind):  # type: ignore[name-defined,misc]
        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            return

    member = Member(KINDS[0].name, Forgets)
    assert _resumed(member, LATE, 8, [2, 4], tmp_path) != _unbroken(member, LATE, 8, 4)
