"""Whether the graph of a step is alive is known exactly, and without the collector."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_diagnostics.probes import GraphMarks
from tests.probes.graphs import ALL, Scale, alive, custom, every_graph, plain, step


@every_graph
@pytest.mark.parametrize("most", [1, ALL])
def test_the_mark_dies_with_the_graph_and_not_before(compute: Callable[[], Tensor], most: int) -> None:
    marks = GraphMarks()
    loss = step(marks, 0, compute(), most=most)
    assert alive(marks) == [0]
    del loss
    assert alive(marks) == []


@every_graph
def test_the_mark_survives_backward_as_long_as_the_graph_does(compute: Callable[[], Tensor]) -> None:
    marks = GraphMarks()
    loss = step(marks, 0, compute())
    loss.backward()
    assert alive(marks) == [0]
    del loss
    assert alive(marks) == []


@every_graph
def test_the_mark_lives_on_where_only_the_next_steps_graph_holds_it(compute: Callable[[], Tensor]) -> None:
    marks = GraphMarks()
    total = step(marks, 0, compute())
    total = total + 1
    assert alive(marks) == [0]
    total = total.detach()
    assert alive(marks) == []


def test_the_mark_dies_with_the_last_of_its_nodes_whatever_the_order() -> None:
    marks = GraphMarks()
    hidden = nn.Linear(3, 3)(torch.ones(3))
    loss = step(marks, 0, hidden.sum())
    del loss
    assert alive(marks) == [0], "the hidden state holds the deeper part"
    del hidden
    assert alive(marks) == []


def test_what_hangs_deeper_than_the_marks_reach_is_not_seen() -> None:
    marks = GraphMarks()
    hidden = nn.Linear(3, 3)(torch.ones(3))
    loss = step(marks, 0, hidden.sum(), most=1)
    assert marks.marked == 1
    del loss
    assert alive(marks) == []
    assert hidden.grad_fn is not None


def test_a_leafs_gradient_accumulator_that_something_else_holds_does_not_count() -> None:
    marks = GraphMarks()
    weight = torch.ones(3, requires_grad=True)
    held = weight.view_as(weight).grad_fn.next_functions[0][0]  # as a DDP reducer does
    loss = step(marks, 0, (weight * 2).sum())
    assert held.name() == "torch::autograd::AccumulateGrad"
    assert marks.of(held) is None
    del loss
    assert alive(marks) == []


def test_a_part_of_an_earlier_step_keeps_the_mark_of_that_step() -> None:
    marks = GraphMarks()
    hidden = step(marks, 0, nn.Linear(3, 3)(torch.ones(3)))
    loss = step(marks, 1, hidden.sum())
    assert [marks.of(node).tick for node in (loss.grad_fn, hidden.grad_fn)] == [1, 0]
    assert alive(marks) == [0, 1]
    del hidden
    assert alive(marks) == [0, 1]
    del loss
    assert alive(marks) == []


def test_several_losses_of_a_step_are_one_mark_with_its_tick_and_step() -> None:
    marks = GraphMarks()
    marks.begin(7, 107)
    losses = [plain(), plain()]
    for loss in losses:
        marks.mark_loss(loss.grad_fn, most=ALL)
    (mark,) = marks.alive(before=8)
    assert (mark.tick, mark.step) == (7, 107)
    assert {id(marks.of(loss.grad_fn)) for loss in losses} == {id(mark)}


def test_only_steps_before_the_tick_asked_for_are_told_oldest_first() -> None:
    marks = GraphMarks()
    kept = [step(marks, tick, plain()) for tick in range(4)]
    assert [alive(marks, before=before) for before in (0, 2, 4)] == [[], [0, 1], [0, 1, 2, 3]]
    del kept[1]
    assert alive(marks) == [0, 2, 3]


def test_custom_functions_are_told_by_name_each_once() -> None:
    marks = GraphMarks()
    loss = step(marks, 0, Scale.apply(custom(), torch.ones((), requires_grad=True)))
    assert marks.of(loss.grad_fn).custom == ("ScaleBackward",)
    without = step(marks, 1, plain())
    assert marks.of(without.grad_fn).custom == ()


def test_two_sets_of_marks_do_not_see_each_other() -> None:
    ours, theirs = GraphMarks(), GraphMarks()
    loss = step(ours, 0, plain())
    step(theirs, 5, loss)
    assert (alive(ours), alive(theirs)) == ([0], [5])


def test_beyond_the_capacity_every_second_mark_is_forgotten_and_never_the_oldest() -> None:
    marks = GraphMarks(capacity=4)
    kept, told = [], []
    for tick in range(8):
        kept.append(step(marks, tick, plain()))
        told.append(alive(marks))
    assert told[:4] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert told[4:] == [[0, 2, 4], [0, 2, 4, 5], [0, 4, 6], [0, 4, 6, 7]]


def test_without_a_graph_or_a_step_nothing_is_marked() -> None:
    marks = GraphMarks()
    loss = plain()
    marks.mark_loss(loss.grad_fn, most=ALL)  # before the first step
    marks.begin(0, 0)
    marks.mark_loss(None, most=ALL)  # a loss without a graph
    assert marks.marked == 0
    assert alive(marks) == []


def test_cleared_marks_are_forgotten_although_their_graphs_live() -> None:
    marks = GraphMarks()
    loss = step(marks, 0, plain())
    marks.clear()
    assert alive(marks) == []
    assert loss.grad_fn is not None


def test_a_copy_has_no_part_in_the_graphs_and_marks_its_own() -> None:
    marks = GraphMarks()
    loss = step(marks, 0, plain())
    twin = copy.deepcopy(marks)
    assert alive(twin) == []
    other = step(twin, 5, plain())
    assert (alive(marks), alive(twin)) == ([0], [5])
    assert loss.requires_grad
    assert other.requires_grad
