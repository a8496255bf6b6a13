"""Ways to make an autograd graph, and the marks of one that stand for a training step each."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_diagnostics.probes import GraphMarks

ALL = 10_000
"""More nodes than any of these graphs has."""


class Scale(torch.autograd.Function):
    """A custom function that saves what it needs as it should."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return inputs * weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        inputs, weight = ctx.saved_tensors
        return grads[0] * weight, (grads[0] * inputs).sum()


def plain() -> Tensor:
    return nn.Linear(3, 1)(torch.ones(2, 3)).relu().mean()


def custom() -> Tensor:
    return Scale.apply(torch.ones(3), torch.ones((), requires_grad=True)).sum()


def anomaly() -> Tensor:
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        return plain()


def compiled() -> Tensor:
    return torch.compile(_NET, backend="aot_eager")(torch.ones(2, 3)).mean()


def checkpointed() -> Tensor:
    return checkpoint(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.ones(2, 3), use_reentrant=False).mean()


def recurrent() -> Tensor:
    return nn.LSTM(3, 2)(torch.ones(5, 1, 3))[0].mean()


_NET = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
every_graph = pytest.mark.parametrize(
    "compute", [plain, custom, anomaly, compiled, checkpointed, recurrent], ids=lambda make: make.__name__
)


def alive(marks: GraphMarks, *, before: int = 10**9) -> list[int]:
    """The ticks of the steps whose graphs are told to be alive."""
    return [mark.tick for mark in marks.alive(before=before)]


def step(marks: GraphMarks, tick: int, loss: Tensor, *, most: int = ALL) -> Tensor:
    """Mark a loss as that of a step, and go on to the next; gives the loss."""
    marks.begin(tick, 100 + tick)
    marks.mark_loss(loss.grad_fn, most=most)
    marks.begin(tick + 1, 101 + tick)  # as in a run: the mark of the step now belongs to its graph alone
    return loss
