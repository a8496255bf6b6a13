"""Where the first NaN or infinity was made: known operations in known places, read from the graph alone."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_diagnostics.diagnostics.activations.nonfinite import Origin, find_origin
from lightning_diagnostics.probes import CallWatch


class Act(nn.Module):
    """Does something to its input, between two layers."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


def network(act: Callable[[Tensor], Tensor]) -> nn.Sequential:
    """Its first layer puts out 2 and -2 on ones; the others add up."""
    net = nn.Sequential(nn.Linear(2, 2), Act(act), nn.Linear(2, 2), nn.LeakyReLU(), nn.Linear(2, 1))
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    net[0].load_state_dict({"weight": torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), "bias": torch.zeros(2)})
    return net


def origin(net: nn.Module, batch: Tensor, loss: Callable[[Tensor], Tensor] = Tensor.sum) -> Origin | None:
    """What is told of the loss of a network."""
    watch = CallWatch(lambda site, output: None, {})
    watch.start(net, functional=True, running=lambda: True)
    made = loss(net(batch))
    assert not made.isfinite()
    found = find_origin(made.grad_fn, watch.made(), net)
    watch.stop()
    return found


@pytest.mark.parametrize(
    ("act", "operation", "what", "low", "high"),
    [
        (lambda x: x.log(), "log", "NaN", -2.0, 2.0),
        (lambda x: (x - 2).log2(), "log2", "NaN", -4.0, 0.0),
        (lambda x: (x + 2).log(), "log", "Inf", 0.0, 4.0),
        (lambda x: 1 / (x + 2), "reciprocal", "Inf", None, None),
        (lambda x: (x * 60).exp(), "exp", "Inf", None, None),
        (lambda x: x.sqrt(), "sqrt", "NaN", None, None),
        (lambda x: (x + 2) ** -1.0, "pow", "Inf", 0.0, 4.0),
    ],
    ids=["log", "log2", "log-of-zero", "reciprocal", "exp", "sqrt", "pow"],
)
def test_an_operation_that_made_it_is_named_with_its_inputs_and_its_place(
    act: Callable[[Tensor], Tensor], operation: str, what: str, low: float | None, high: float | None
) -> None:
    found = origin(network(act), torch.ones(3, 2))
    assert found is not None
    assert (found.where, found.inside) == ("0", False)
    assert (found.operation, found.what, found.batch, found.weights) == (operation, what, False, "")
    assert low is None or (found.low, found.high) == (low, high)


def test_an_overflow_within_a_layer_is_told_to_be_inside_of_it() -> None:
    net = network(lambda x: x * 1e38)
    found = origin(net, torch.full((3, 2), 10.0))
    assert found is not None
    assert found.what == "Inf"
    assert found.where in ("0", "2")  # what is too large by a factor, or the weights that add up what is not


def test_a_loss_that_makes_it_comes_after_the_last_layer() -> None:
    found = origin(network(lambda x: x), torch.ones(3, 2), lambda output: (output - output).log().mean())
    assert found == Origin("4", False, "Inf", "log", 0.0, 0.0)


@pytest.mark.parametrize(("value", "what"), [(math.nan, "NaN"), (math.inf, "Inf"), (-math.inf, "Inf")])
def test_a_batch_that_is_broken_already_is_told_to_be(value: float, what: str) -> None:
    batch = torch.ones(3, 2)
    batch[1, 0] = value
    found = origin(network(lambda x: x), batch)
    assert found is not None
    assert (found.batch, found.what, found.weights, found.where) == (True, what, "", "0")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_parameter_that_is_broken_already_is_named(value: float) -> None:
    net = network(lambda x: x)
    with torch.no_grad():
        net[2].bias[0] = value
    found = origin(net, torch.ones(3, 2))
    assert found == Origin("2", True, "NaN" if math.isnan(value) else "Inf", weights="2.bias")


def test_infinities_on_purpose_before_it_are_not_taken_for_it() -> None:
    def masked(x: Tensor) -> Tensor:
        scores = x.masked_fill(torch.tensor([True, False]), -math.inf)
        return scores.softmax(1) * x

    found = origin(network(masked), torch.ones(3, 2), lambda output: (output - output).log().mean())
    assert found is not None
    assert (found.where, found.operation) == ("4", "log")


def test_of_two_the_first_is_named() -> None:
    found = origin(network(lambda x: x.log().exp()), torch.ones(3, 2), lambda output: output.log().mean())
    assert found is not None
    assert (found.where, found.operation, found.what) == ("0", "log", "NaN")


def test_without_a_graph_nothing_is_told() -> None:
    assert find_origin(None, {}, nn.Identity()) is None


def test_looking_for_it_changes_no_gradient() -> None:
    net, batch = network(lambda x: x.log()), torch.ones(3, 2)
    results = []
    for looking in (False, True):
        net.zero_grad()
        loss = net(batch).sum()
        if looking:
            find_origin(loss.grad_fn, {}, net)
        loss.backward()
        results.append([str(parameter.grad) for parameter in net.parameters()])
    assert results[0] == results[1]


def test_a_mask_before_a_log_softmax_is_not_taken_for_it() -> None:
    def masked(x: Tensor) -> Tensor:
        scores = x.masked_fill(torch.tensor([True, False]), -math.inf).log_softmax(1)
        return torch.where(scores.isinf(), torch.zeros(()), scores)

    found = origin(network(masked), torch.ones(3, 2), lambda output: (output - output).log().mean())
    assert found is not None
    assert (found.where, found.operation) == ("4", "log")


def test_zero_over_zero_is_no_infinity() -> None:
    found = origin(network(lambda x: (x + 2) / (x + 2)), torch.ones(3, 2))
    assert found is not None
    assert (found.where, found.operation, found.what) == ("0", "div", "NaN")
