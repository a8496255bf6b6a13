"""Promise 6: neither a copy of the network nor one of the callback, taken in mid-look, carries what is not its own."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from tests.helpers import Member, alive, every_member_slowly_but_at_work, fit, held, trainer
from tests.patients import BATCHES, ByHand, LossList, Student

every_way = pytest.mark.parametrize("kind", [Student, ByHand, LossList], ids=lambda kind: kind.__name__)


def _during(kind: type[Student], act: Callable[[Any], Any]) -> Any:
    """A network that acts on itself in the middle of its first and of its seventh step, and keeps what came of it."""

    class During(kind):
        made: list[Any] = []  # noqa: RUF012  # one network of this class is made

        def keep(self, loss: Tensor, output: Tensor) -> None:
            super().keep(loss, output)
            if self.trainer.fit_loop.epoch_loop.batch_idx in (0, 6):
                type(self).made.append(act(self))

    return During(sick=True)


@every_way
@every_member_slowly_but_at_work
def test_a_copy_of_the_network_taken_in_a_step_carries_nothing(member: Member, kind: type[Student]) -> None:
    module = _during(kind, lambda module: copy.deepcopy(module.net))
    fit(trainer(member()), module)
    assert len(module.made) == 4
    for twin in module.made:
        assert alive(twin) == set()
        assert b"lightning_diagnostics" not in pickle.dumps(twin)
        twin.train()(torch.randn(4, 4)).sum().backward()
        torch.optim.SGD(twin.parameters(), lr=0.1).step()


@every_way
@every_member_slowly_but_at_work
def test_a_callback_can_be_pickled_and_copied_before_during_and_after_a_run(
    member: Member, kind: type[Student]
) -> None:
    diagnostic = member()
    module = _during(kind, lambda module: (pickle.loads(pickle.dumps(diagnostic)), copy.deepcopy(diagnostic)))
    copies = [pickle.loads(pickle.dumps(diagnostic)), copy.deepcopy(diagnostic)]
    fit(trainer(diagnostic), module)
    copies += [pickle.loads(pickle.dumps(diagnostic)), copy.deepcopy(diagnostic)]
    copies += [twin for pair in module.made for twin in pair]
    assert len(copies) == 12
    assert diagnostic.findings == copies[2].findings == copies[3].findings
    for twin in copies:
        healthy = Student()
        run = fit(trainer(twin, max_epochs=1), healthy)
        assert run.global_step == BATCHES
        assert alive(healthy) == set()
        assert held(twin) == []


# The tests of the test.


def test_a_copy_that_carries_a_hook_is_caught() -> None:
    class Hooks(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.net.register_forward_hook(lambda module, args, output: None)

    module = _during(Student, lambda module: copy.deepcopy(module.net))
    fit(trainer(Hooks()), module)
    assert alive(module.made[0]) == {"the module._forward_hooks"}


def test_a_callback_whose_copy_carries_the_network_is_caught() -> None:
    culprit = Callback()  # Lightning gives every callback that does not refuse them the network's `log` and `log_dict`
    fit(trainer(culprit), Student())
    assert "Student" in held(copy.deepcopy(culprit))
