"""Promise 3: between looks no module, tensor or mode is hooked, nothing is transferred, and a step costs the same.

Two hooks of torch's optimizers are allowed, which run once a step whatever the model: there is no other way to see the
steps of a program that calls ``optimizer.step()`` itself.

A transfer shows on any device as the operation behind ``.item()``, ``bool()`` and ``float()`` of a tensor, so that one
is counted. What only a GPU shows (``.cpu()``, a synchronisation) is not seen here.
"""

from collections import Counter
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_diagnostics.callback import is_look
from tests.helpers import Member, alive, every_kind_at_work, fit, trainer
from tests.patients import ByHand, Student

BATCHES = 64
FEW = 64
"""Operations: room for one fused norm and its bookkeeping, none for a loop over the layers of a real network."""
ONCE_A_STEP = {
    *("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks"),
    *("optimizer 0._optimizer_step_pre_hooks", "optimizer 0._optimizer_step_post_hooks"),
}
TRANSFER = "aten._local_scalar_dense.default"


def _between_looks(batch_idx: int) -> bool:
    """In the second half, since a diagnostic may look more often where an epoch begins."""
    return batch_idx > BATCHES // 2 and not is_look(batch_idx, batches=BATCHES, every=50)


def _peeking(kind: type[Student]) -> Any:
    """A network that notes, within its steps and between looks, what is alive."""

    class Peeking(kind):
        def __init__(self) -> None:
            super().__init__()
            self.seen: dict[int, set[str]] = {}

        def keep(self, loss: Tensor, output: Tensor) -> None:
            self.peek()

        def on_after_backward(self) -> None:
            self.peek()

        def peek(self) -> None:
            batch_idx = self.trainer.fit_loop.epoch_loop.batch_idx
            if _between_looks(batch_idx):
                self.seen[batch_idx] = self.seen.get(batch_idx, set()) | alive(self)

    return Peeking()


class _Operations(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))


class _Begins(Callback):
    """First in the list: counts the operations of every step, callbacks' included."""

    def __init__(self) -> None:
        self.steps: dict[int, Counter[str]] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.mode = _Operations()
        self.mode.__enter__()


class _Ends(Callback):
    """Last in the list: ends the counting."""

    def __init__(self, begins: _Begins) -> None:
        self.begins = begins

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.begins.mode.__exit__(None, None, None)
        if _between_looks(batch_idx):
            self.begins.steps[batch_idx] = self.begins.mode.count


def _operations(module: Student, *callbacks: Callback) -> dict[int, Counter[str]]:
    begins = _Begins()
    fit(trainer(begins, *callbacks, _Ends(begins), max_epochs=1), module, batches=BATCHES)
    assert len(begins.steps) > BATCHES // 4
    return begins.steps


def _extra(*callbacks: Callback, kind: type[Student] = Student) -> list[Counter[str]]:
    """The operations of the callbacks in each step between looks: those with them less those without."""
    plain, ours = _operations(kind()), _operations(kind(), *callbacks)
    return [ours[step] - plain[step] for step in plain]


every_way = pytest.mark.parametrize("kind", [Student, ByHand], ids=lambda kind: kind.__name__)


@every_way
@every_kind_at_work
def test_between_looks_no_hook_and_no_mode_is_alive(member: Member, kind: type[Student]) -> None:
    module = _peeking(kind)
    fit(trainer(member(), max_epochs=1), module, batches=BATCHES)
    assert len(module.seen) > BATCHES // 4
    assert set().union(*module.seen.values()) <= ONCE_A_STEP


@every_way
@every_kind_at_work
def test_between_looks_nothing_is_transferred(member: Member, kind: type[Student]) -> None:
    assert [step[TRANSFER] for step in _extra(member(), kind=kind) if TRANSFER in step] == []


@every_way
@every_kind_at_work
def test_between_looks_every_step_costs_the_same_few_operations(member: Member, kind: type[Student]) -> None:
    extra = _extra(member(), kind=kind)
    assert extra == extra[:1] * len(extra)
    assert extra[0].total() <= FEW


# The tests of the test.


class _Hooks(Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.handle = pl_module.net[2].register_forward_hook(lambda module, args, output: None)


class _HooksEveryModule(_Hooks):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.handle = torch.nn.modules.module.register_module_forward_hook(lambda module, args, output: None)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.handle.remove()


class _HooksAnOptimizer(Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.optimizers[0].register_step_post_hook(lambda optimizer, args, kwargs: None)


class _HooksAParameter(Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.net[0].weight.register_hook(lambda gradient: None)


class _EntersAMode(Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.mode = _Operations()
        self.mode.__enter__()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.mode.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("culprit", "betrayed_by"),
    [
        (_Hooks(), "net.2._forward_hooks"),
        (_HooksEveryModule(), "_global_forward_hooks"),
        (_HooksAnOptimizer(), "optimizer 0._optimizer_step_post_hooks"),
        (_HooksAParameter(), "net.0.weight._backward_hooks"),
        (_EntersAMode(), "dispatch mode _Operations"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Callback) else "",
)
def test_a_hook_or_mode_that_stays_is_caught(culprit: Callback, betrayed_by: str) -> None:
    module = _peeking(Student)
    fit(trainer(culprit, max_epochs=1), module, batches=BATCHES)
    assert betrayed_by in set().union(*module.seen.values())


class _ReadsTheLoss(Callback):
    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        loss.item()


class _KeepsGrowing(Callback):
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for _ in range(batch_idx):
            torch.zeros(1).add_(1)


def test_a_transfer_in_every_step_is_caught() -> None:
    assert all(step[TRANSFER] == 1 for step in _extra(_ReadsTheLoss()))


def test_work_that_grows_is_caught() -> None:
    extra = _extra(_KeepsGrowing())
    assert extra != extra[:1] * len(extra)
