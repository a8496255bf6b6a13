"""Promise 3 at a look: the numbers of all layers and the loss come in one transfer; nothing else is waited for."""

from collections import Counter
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_diagnostics import ActivationMonitor
from tests.helpers import fit, trainer
from tests.patients import BATCHES, DeadReLU, SaturatedTanh, Student

ONE_NUMBER = "aten._local_scalar_dense.default"
"""What ``.item()``, ``float(tensor)`` and ``if tensor`` do: each has the host wait for the device."""


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))


class _Begins(Callback):
    """First in the list: counts the operations of every step, the callbacks' included."""

    def __init__(self) -> None:
        self.waits: list[int] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.mode = _Operations()
        self.mode.__enter__()


class _Ends(Callback):
    """Last in the list."""

    def __init__(self, begins: _Begins) -> None:
        self.begins = begins

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.begins.mode.__exit__(None, None, None)
        self.begins.waits.append(self.begins.mode.count[ONE_NUMBER])


class _Peeks(ActivationMonitor):
    """Asks for the loss by itself."""

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Tensor) -> None:
        float(loss.detach())
        super().on_before_backward(trainer, pl_module, loss)


def _waits(kind: type[Student], *callbacks: Callback) -> list[int]:
    begins = _Begins()
    fit(trainer(begins, *callbacks, _Ends(begins), max_epochs=1), kind(sick=True))
    assert len(begins.waits) == BATCHES
    return begins.waits


@pytest.mark.parametrize("kind", [Student, DeadReLU, SaturatedTanh])
def test_at_a_look_no_number_is_waited_for_by_itself(kind: type[Student]) -> None:
    assert _waits(kind, ActivationMonitor(strict=True, every_n_train_steps=1)) == _waits(kind)


def test_a_monitor_that_asks_for_one_number_more_is_caught() -> None:
    waits = _waits(Student, _Peeks(strict=True, every_n_train_steps=1))
    assert [ours - plain for ours, plain in zip(waits, _waits(Student), strict=True)] == [1] * BATCHES
