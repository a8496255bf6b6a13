"""Whether the graph of a step is alive is known exactly, and without the collector."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_diagnostics.probes import GraphMarks

ALL = 10_000


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """What dies in these tests dies of its last reference."""
    gc.disable()
    yield
    gc.enable()


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


def _plain() -> Tensor:
    return nn.Linear(3, 1)(torch.ones(2, 3)).relu().mean()


def _custom() -> Tensor:
    return Scale.apply(torch.ones(3), torch.ones((), requires_grad=True)).sum()


def _anomaly() -> Tensor:
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        return _plain()


def _compiled() -> Tensor:
    return torch.compile(_NET, backend="aot_eager")(torch.ones(2, 3)).mean()


def _checkpointed() -> Tensor:
    return checkpoint(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.ones(2, 3), use_reentrant=False).mean()


def _recurrent() -> Tensor:
    return nn.LSTM(3, 2)(torch.ones(5, 1, 3))[0].mean()


_NET = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
every_graph = pytest.mark.parametrize(
    "compute", [_plain, _custom, _anomaly, _compiled, _checkpointed, _recurrent], ids=lambda make: make.__name__
)


def _alive(marks: GraphMarks, *, before: int = 10**9) -> list[int]:
    return [mark.tick for mark in marks.alive(before=before)]


def _step(marks: GraphMarks, tick: int, loss: Tensor, *, most: int = ALL) -> Tensor:
    marks.begin(tick, 100 + tick)
    marks.mark_loss(loss.grad_fn, most=most)
    marks.begin(tick + 1, 101 + tick)  # as in a run: the mark of the step now belongs to its graph alone
    return loss


@every_graph
@pytest.mark.parametrize("most", [1, ALL])
def test_the_mark_dies_with_the_graph_and_not_before(compute: Callable[[], Tensor], most: int) -> None:
    marks = GraphMarks()
    loss = _step(marks, 0, compute(), most=most)
    assert _alive(marks) == [0]
    del loss
    assert _alive(marks) == []


@every_graph
def test_the_mark_survives_backward_as_long_as_the_graph_does(compute: Callable[[], Tensor]) -> None:
    marks = GraphMarks()
    loss = _step(marks, 0, compute())
    loss.backward()
    assert _alive(marks) == [0]
    del loss
    assert _alive(marks) == []


@every_graph
def test_the_mark_lives_on_where_only_the_next_steps_graph_holds_it(compute: Callable[[], Tensor]) -> None:
    marks = GraphMarks()
    total = _step(marks, 0, compute())
    total = total + 1
    assert _alive(marks) == [0]
    total = total.detach()
    assert _alive(marks) == []


def test_the_mark_dies_with_the_last_of_its_nodes_whatever_the_order() -> None:
    marks = GraphMarks()
    hidden = nn.Linear(3, 3)(torch.ones(3))
    loss = _step(marks, 0, hidden.sum())
    del loss
    assert _alive(marks) == [0], "the hidden state holds the deeper part"
    del hidden
    assert _alive(marks) == []


def test_what_hangs_deeper_than_the_marks_reach_is_not_seen() -> None:
    marks = GraphMarks()
    hidden = nn.Linear(3, 3)(torch.ones(3))
    loss = _step(marks, 0, hidden.sum(), most=1)
    assert marks.marked == 1
    del loss
    assert _alive(marks) == []
    assert hidden.grad_fn is not None


def test_a_leafs_gradient_accumulator_that_something_else_holds_does_not_count() -> None:
    marks = GraphMarks()
    weight = torch.ones(3, requires_grad=True)
    held = weight.view_as(weight).grad_fn.next_functions[0][0]  # as a DDP reducer does
    loss = _step(marks, 0, (weight * 2).sum())
    assert held.name() == "torch::autograd::AccumulateGrad"
    assert marks.of(held) is None
    del loss
    assert _alive(marks) == []


def test_a_part_of_an_earlier_step_keeps_the_mark_of_that_step() -> None:
    marks = GraphMarks()
    hidden = _step(marks, 0, nn.Linear(3, 3)(torch.ones(3)))
    loss = _step(marks, 1, hidden.sum())
    assert [marks.of(node).tick for node in (loss.grad_fn, hidden.grad_fn)] == [1, 0]
    assert _alive(marks) == [0, 1]
    del hidden
    assert _alive(marks) == [0, 1]
    del loss
    assert _alive(marks) == []


def test_several_losses_of_a_step_are_one_mark_with_its_tick_and_step() -> None:
    marks = GraphMarks()
    marks.begin(7, 107)
    losses = [_plain(), _plain()]
    for loss in losses:
        marks.mark_loss(loss.grad_fn, most=ALL)
    (mark,) = marks.alive(before=8)
    assert (mark.tick, mark.step) == (7, 107)
    assert {id(marks.of(loss.grad_fn)) for loss in losses} == {id(mark)}


def test_only_steps_before_the_tick_asked_for_are_told_oldest_first() -> None:
    marks = GraphMarks()
    kept = [_step(marks, tick, _plain()) for tick in range(4)]
    assert [_alive(marks, before=before) for before in (0, 2, 4)] == [[], [0, 1], [0, 1, 2, 3]]
    del kept[1]
    assert _alive(marks) == [0, 2, 3]


def test_custom_functions_are_told_by_name_each_once() -> None:
    marks = GraphMarks()
    loss = _step(marks, 0, Scale.apply(_custom(), torch.ones((), requires_grad=True)))
    assert marks.of(loss.grad_fn).custom == ("ScaleBackward",)
    plain = _step(marks, 1, _plain())
    assert marks.of(plain.grad_fn).custom == ()


def test_two_sets_of_marks_do_not_see_each_other() -> None:
    ours, theirs = GraphMarks(), GraphMarks()
    loss = _step(ours, 0, _plain())
    _step(theirs, 5, loss)
    assert (_alive(ours), _alive(theirs)) == ([0], [5])


def test_beyond_the_capacity_every_second_mark_is_forgotten_and_never_the_oldest() -> None:
    marks = GraphMarks(capacity=4)
    kept, told = [], []
    for tick in range(8):
        kept.append(_step(marks, tick, _plain()))
        told.append(_alive(marks))
    assert told[:4] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert told[4:] == [[0, 2, 4], [0, 2, 4, 5], [0, 4, 6], [0, 4, 6, 7]]


def test_without_a_graph_or_a_step_nothing_is_marked() -> None:
    marks = GraphMarks()
    loss = _plain()
    marks.mark_loss(loss.grad_fn, most=ALL)  # before the first step
    marks.begin(0, 0)
    marks.mark_loss(None, most=ALL)  # a loss without a graph
    assert marks.marked == 0
    assert _alive(marks) == []


def test_cleared_marks_are_forgotten_although_their_graphs_live() -> None:
    marks = GraphMarks()
    loss = _step(marks, 0, _plain())
    marks.clear()
    assert _alive(marks) == []
    assert loss.grad_fn is not None
