"""What a look reads of gradients and weights, and that copies of weights are gone after it."""

import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_diagnostics.diagnostics.gradients import looking
from lightning_diagnostics.diagnostics.gradients.looking import Looking, ParameterLook, fetched
from lightning_diagnostics.diagnostics.gradients.measure import picture
from lightning_diagnostics.probes import Deferred


def weight(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype))


def sgd(*parameters: Tensor, lr: Any = 0.5) -> Optimizer:
    return torch.optim.SGD(parameters, lr=lr)


def looked(
    parameters: list[nn.Parameter],
    *,
    optimizer: Optimizer | None = None,
    pictured: bool = False,
    scale: Tensor | None = None,
    move: Callable[[], Any] | None = None,
) -> tuple[list[ParameterLook | None], float | None]:
    """What one look reads, by parameter, and the learning rate."""
    deferred = Deferred()
    reader = Looking(deferred, frozenset(map(id, parameters)) if pictured else frozenset())
    optimizer = optimizer or sgd(*parameters)
    gradients = [p.grad for p in parameters if p.grad is not None]
    look = reader.begin(optimizer, parameters, gradients, scale)
    (move or optimizer.step)()
    reader.end(look)
    assert look.copies == []
    found, rate = fetched(look, deferred.fetch())
    return [found.get(id(parameter)) for parameter in parameters], rate


def only(found: tuple[list[ParameterLook | None], float | None]) -> ParameterLook:
    ((look,), _) = found
    assert look is not None
    return look


# Updates.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_update_is_weight_after_less_weight_before(dtype: torch.dtype) -> None:
    parameter = weight(30, 20, dtype=dtype)
    parameter.grad = weight(30, 20, dtype=dtype, seed=1).detach()
    before = parameter.detach().clone()
    look = only(looked([parameter]))
    assert look.weight == pytest.approx(float(before.double().square().sum()), rel=1e-5)
    assert look.update == pytest.approx(float((parameter.detach() - before).double().square().sum()), rel=1e-5)


def test_what_decays_moves_too() -> None:
    parameter = weight(3, 2)
    parameter.grad = torch.zeros(3, 2)
    look = only(looked([parameter], optimizer=torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.5)))
    assert look.weight is not None
    assert look.update == pytest.approx(0.05**2 * look.weight, rel=1e-5)


def test_weights_of_one_dimension_are_not_copied() -> None:
    bias, matrix = weight(4), weight(2, 2)
    bias.grad, matrix.grad = torch.ones(4), torch.ones(2, 2)
    (first, second), _ = looked([bias, matrix])
    assert first == ParameterLook(0.0)
    assert second is not None
    assert second.update == pytest.approx(4 * 0.25)


def test_parameters_take_turns_if_there_are_too_many_to_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "COPIED", 10)
    parameters = [weight(2, 2), weight(2, 3), weight(2, 1), weight(3, 3)]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    reader, optimizer, turns = Looking(Deferred()), sgd(*parameters), list[list[int]]()
    for _ in range(5):
        look = reader.begin(optimizer, parameters, [torch.ones_like(p) for p in parameters], None)
        turns.append([index for index, p in enumerate(parameters) if id(p) in look.weights])
        assert sum(copy.numel() for _, copy, _ in look.copies) <= 10
        reader.end(look)
    assert turns == [[0, 1], [2], [3], [0, 1], [2]]


def test_of_a_weight_that_is_too_large_rows_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "COPIED", 10)
    parameter = weight(12, 2)
    parameter.grad = torch.ones(12, 2)
    rows = parameter.detach()[::3].clone()
    look = only(looked([parameter]))
    assert look.weight == pytest.approx(float(rows.square().sum()))
    assert look.update == pytest.approx(8 * 0.25)


def test_a_weight_with_one_row_that_is_too_large_keeps_no_other_from_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "COPIED", 10)
    parameters = [weight(1, 20), weight(2, 2)]
    gradients = [torch.ones_like(p) for p in parameters]
    reader, optimizer, turns = Looking(Deferred()), sgd(*parameters), list[list[int]]()
    for _ in range(3):
        look = reader.begin(optimizer, parameters, gradients, None)
        turns.append([index for index, p in enumerate(parameters) if id(p) in look.weights])
    assert turns == [[], [1], []]


def test_copies_are_gone_after_the_look() -> None:
    parameter = weight(3, 3)
    parameter.grad = torch.ones(3, 3)
    reader = Looking(Deferred())
    look = reader.begin(sgd(parameter), [parameter], [parameter.grad], None)
    alive = weakref.ref(look.copies[0][1])
    reader.end(look)
    gc.collect()
    assert alive() is None


# Zeros.


def test_zeros_are_counted() -> None:
    parameter = weight(2, 3)
    parameter.grad = torch.tensor([[0.0, -0.0, 1.0], [float("nan"), 0.0, 1e-38]])
    assert only(looked([parameter])).zeros == 3


def test_rows_that_a_sparse_gradient_leaves_out_are_zeros() -> None:
    table = nn.Embedding(10, 3, sparse=True)
    table(torch.tensor([1, 1, 4])).sum().backward()
    assert only(looked([table.weight])).zeros == 24


# Learning rates.


@pytest.mark.parametrize(
    ("rates", "largest"),
    [
        ([0.1], 0.1),
        ([0.1, 0.3, 0.2], 0.3),
        ([torch.tensor(0.25)], 0.25),
        ([torch.tensor([0.25]), torch.tensor(0.5)], 0.5),
    ],
)
def test_the_learning_rate_is_the_largest_of_the_groups(rates: list[Any], largest: float) -> None:
    parameters = [weight(2, 2) for _ in rates]
    for parameter in parameters:
        parameter.grad = torch.ones(2, 2)
    groups = [{"params": [parameter], "lr": 0.1} for parameter in parameters]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    _, rate = looked(parameters, optimizer=optimizer, move=lambda: None)
    assert rate == pytest.approx(largest)


def test_an_optimizer_without_a_learning_rate_has_none() -> None:
    parameter = weight(2, 2)
    parameter.grad = torch.ones(2, 2)
    optimizer = sgd(parameter)
    del optimizer.param_groups[0]["lr"]
    assert looked([parameter], optimizer=optimizer, move=lambda: None)[1] is None


# Histograms.


@pytest.mark.parametrize("scale", [1.0, 64.0])
def test_histograms_are_those_of_the_unscaled_gradient_and_of_the_weight_before_the_step(scale: float) -> None:
    parameter = weight(20, 10)
    gradient = weight(20, 10, seed=1).detach()
    parameter.grad = gradient * scale
    before = parameter.detach().clone()
    look = only(looked([parameter], pictured=True, scale=torch.tensor(scale) if scale != 1 else None))
    for drawn, values in ((picture(look.gradients), gradient), (picture(look.weights), before)):
        assert drawn is not None
        plain = values.double().numpy().ravel()
        assert (drawn.low, drawn.high) == pytest.approx((plain.min(), plain.max()), rel=1e-6)
        assert drawn.total == pytest.approx(plain.sum(), rel=1e-4)
        assert drawn.squares == pytest.approx((plain**2).sum(), rel=1e-5)
        assert drawn.edges[0] == -drawn.edges[-1]
        assert math.log2(drawn.edges[-1]).is_integer()
        np.testing.assert_array_equal(drawn.counts, np.histogram(plain, np.array(drawn.edges))[0])


def test_without_being_asked_for_there_are_no_histograms() -> None:
    parameter = weight(2, 2)
    parameter.grad = torch.ones(2, 2)
    look = only(looked([parameter]))
    assert (look.gradients, look.weights) == (None, None)
    assert picture(None) is None


def test_an_empty_weight_has_no_histogram_and_does_no_harm() -> None:
    parameter = nn.Parameter(torch.ones(0, 3))
    parameter.grad = torch.ones(0, 3)
    look = only(looked([parameter], pictured=True))
    assert (look.zeros, look.gradients, look.weight, look.update) == (0.0, None, 0.0, 0.0)


def test_a_weight_that_cannot_be_read_is_passed_over() -> None:
    parameter, other = nn.Parameter(torch.ones(2, 2, device="meta")), weight(2, 2)
    other.grad = torch.ones(2, 2)
    reader, optimizer = Looking(Deferred()), sgd(other)
    look = reader.begin(optimizer, [parameter, other], [torch.ones(2, 2, device="meta"), other.grad], None)
    assert list(look.zeros) == list(look.weights) == [id(other)]
