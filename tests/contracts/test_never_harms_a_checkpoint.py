"""Promise 7: what is saved is plain, and every checkpoint loads with weights_only=True and without this package."""

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
from torch import Tensor

from tests.contracts.cells import digest
from tests.helpers import KINDS, Member, every_member_slowly, every_member_slowly_but_at_work, fit, trainer
from tests.patients import PATIENTS, LossList, Patient

every_patient = pytest.mark.parametrize("patient", PATIENTS, ids=str)


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
@every_member_slowly
def test_the_state_is_plain_before_during_and_after_a_run(member: Member, patient: Patient) -> None:
    diagnostic = member()
    assert _not_plain(diagnostic.state_dict()) == []
    inspects = _Inspects(diagnostic)
    fit(trainer(diagnostic, inspects, **patient.settings), patient.make(sick=True))
    assert inspects.bad == []
    assert _not_plain(diagnostic.state_dict()) == []


def _checkpoint(path: Path, *callbacks: Any) -> Path:
    fit(trainer(*callbacks, max_epochs=1), LossList(sick=True)).save_checkpoint(path)
    return path


@every_member_slowly_but_at_work
def test_a_checkpoint_loads_with_weights_only(member: Member, tmp_path: Path) -> None:
    diagnostic = member()
    loaded = torch.load(_checkpoint(tmp_path / "a.ckpt", diagnostic), weights_only=True)
    assert digest(loaded["callbacks"][diagnostic.state_key]) == digest(diagnostic.state_dict())


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
