"""The graph of a module's output, to which a backward pass may come or not."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_diagnostics.probes import GraphMarks
from tests.probes.graphs import alive, every_graph, plain


def _output(marks: GraphMarks, tick: int, output: Tensor) -> Tensor:
    marks.begin(tick, tick)
    marks.mark_output(output.grad_fn, most=2)
    marks.begin(tick + 1, tick + 1)
    return output


@every_graph
def test_an_output_is_told_from_its_backward_pass_on_until_its_graph_dies(compute: Callable[[], Tensor]) -> None:
    marks = GraphMarks()
    output = _output(marks, 0, compute())
    assert alive(marks) == [], "it waits for a backward pass"
    loss = output * 2
    loss.backward()
    assert alive(marks) == [0]
    del loss
    assert alive(marks) == [0]
    del output
    assert alive(marks) == []


def test_a_backward_pass_of_a_later_step_does_not_make_a_graph_younger() -> None:
    marks = GraphMarks()
    output = _output(marks, 0, torch.ones(3, requires_grad=True).exp())
    output.sum().backward(retain_graph=True)
    marks.begin(5, 5)
    output.sum().backward()
    assert [mark.tick for mark in marks.alive(before=2)] == [0]


def test_a_backward_pass_beside_an_output_is_none_of_its_own() -> None:
    marks = GraphMarks()
    hidden = nn.Linear(3, 3)(torch.ones(3))
    output = _output(marks, 0, hidden.exp())
    hidden.sum().backward()
    assert alive(marks) == []
    assert output.requires_grad


def test_gradients_that_are_asked_for_by_hand_are_a_backward_pass() -> None:
    marks = GraphMarks()
    weight = torch.ones(3, requires_grad=True)
    output = _output(marks, 0, weight.exp())
    torch.autograd.grad(output.sum(), weight)
    assert alive(marks) == [0]


def test_an_output_without_a_graph_and_one_before_the_first_step_are_passed_over() -> None:
    marks = GraphMarks()
    marks.mark_output(plain().grad_fn, most=2)
    marks.begin(0, 0)
    marks.mark_output(None, most=2)
    assert marks.marked == 0
