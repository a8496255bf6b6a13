"""What a step between looks costs: so many fused norms, and no operation more for a model of many layers."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from lightning.pytorch import Callback
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from lightning_diagnostics import GradientNormMonitor
from lightning_diagnostics.callback import is_look
from tests import helpers
from tests.diagnostics.gradients.reference import Batch, Regression, data, loader

BATCHES = 32
FUSED = "aten._foreach_norm.Scalar"


class Layers(Regression):
    """As many layers as asked for."""

    layers: int

    def __init__(self, layers: int) -> None:
        self.__dict__["layers"] = layers
        super().__init__()

    @override
    def build(self) -> nn.Module:
        return nn.Sequential(*(nn.Linear(6, 6) for _ in range(self.layers)), nn.Linear(6, 3))


class ByHand(Layers):
    """Manual optimisation; ``clip`` cuts gradients between the backward pass and the step."""

    clip = False

    def __init__(self, layers: int) -> None:
        super().__init__(layers)
        self.automatic_optimization = False

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        if self.clip:
            self.clip_gradients(optimizer, gradient_clip_val=0.01)
        optimizer.step()


class Clipped(ByHand):
    clip = True


class Operations(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))


class Begins(Callback):
    """First in the list: counts the operations of every batch, callbacks' included."""

    def __init__(self) -> None:
        self.batches: dict[int, Counter[str]] = {}

    @override
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.mode = Operations()
        self.mode.__enter__()


class Ends(Callback):
    """Last in the list."""

    def __init__(self, begins: Begins) -> None:
        self.begins = begins

    @override
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.begins.mode.__exit__(None, None, None)
        self.begins.batches[batch_idx] = self.begins.mode.count


def operations(module: Regression, *callbacks: Callback, **settings: Any) -> list[Counter[str]]:
    """Of each batch."""
    begins = Begins()
    trainer = helpers.trainer(begins, *callbacks, Ends(begins), max_epochs=1, **settings)
    trainer.fit(module, loader(data(BATCHES)))
    return list(begins.batches.values())


def extra(kind: type[Layers], layers: int, of: int, **settings: Any) -> list[Counter[str]]:
    """The monitor's own operations between looks, from one optimizer step to the next: of the ``of`` batches."""
    plain = operations(kind(layers), **settings)
    ours = operations(kind(layers), GradientNormMonitor(strict=True), **settings)
    steps: list[Counter[str]] = []
    for begin in range(0, BATCHES, of):
        members = range(begin, begin + of)
        if begin and not any(is_look(each, batches=BATCHES, every=50) for each in (begin - 1, *members)):
            steps.append(sum((ours[each] - plain[each] for each in members), Counter()))
    return steps


def fused(steps: Sequence[Counter[str]]) -> list[int]:
    return [step[FUSED] for step in steps]


@pytest.mark.parametrize(
    ("kind", "of", "settings", "norms"),
    [
        (Layers, 1, {}, 1),
        (Layers, 1, {"gradient_clip_val": 0.01}, 2),
        (Layers, 1, {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}, 2),
        (Layers, 2, {"accumulate_grad_batches": 2}, 2),
        (Layers, 2, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.01}, 3),
        (ByHand, 1, {}, 1),
        (Clipped, 1, {}, 2),
    ],
    ids=[
        "automatic",
        "clipped",
        "clipped by value",
        "accumulated",
        "accumulated, clipped",
        "manual",
        "manual, clipped",
    ],
)
def test_a_step_between_looks_costs_as_many_fused_norms_as_gradients_change(
    kind: type[Layers], of: int, settings: Any, norms: int
) -> None:
    few, many = (extra(kind, layers, of, **settings) for layers in (2, 40))
    assert len(few) >= 4
    assert fused(few) == fused(many) == [norms] * len(few)
    assert few == many  # no operation for each layer
