"""What a constant predictor comes to, against the same computed with plain torch."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_diagnostics.diagnostics.generalization_gap.baseline import MOST_CLASSES, Constant, Targets, constant

INPUTS = torch.zeros(6, 3)


def _state(*targets: Any) -> dict[str, Any] | None:
    counted = Targets()
    for each in targets:
        counted.update((INPUTS, each))
    return counted.state()


def _draw(seed: int, classes: int = 5) -> Tensor:
    return torch.randint(0, classes, (64,), generator=torch.Generator().manual_seed(seed)) ** 2 % classes


def test_of_classes_it_is_the_most_frequent_and_their_entropy() -> None:
    batches = [_draw(seed) for seed in range(5)]
    whole = torch.cat(batches)
    shares = torch.bincount(whole).double() / len(whole)
    found = constant([_state(*batches)])
    assert found.share == pytest.approx(float(shares.max()))
    logits = shares.log().expand(len(whole), -1)  # the best constant for a cross entropy
    assert found.cross_entropy == pytest.approx(float(functional.cross_entropy(logits, whole)))
    assert found.squared_error is None


@pytest.mark.parametrize("shape", [(6,), (6, 1)], ids=str)
def test_of_numbers_it_is_their_variance(shape: tuple[int, ...]) -> None:
    batches = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 100 for seed in range(5)]
    whole = torch.cat(batches).double()
    found = constant([_state(*batches)])
    assert found.squared_error == pytest.approx(float(((whole - whole.mean()) ** 2).mean()))
    assert (found.share, found.cross_entropy) == (None, None)


@pytest.mark.parametrize(
    "batches", [[_draw(1), _draw(2)], [torch.randn(9), torch.randn(4)]], ids=["classes", "numbers"]
)
def test_that_of_two_processes_is_that_of_all_their_samples(batches: list[Tensor]) -> None:
    parts, whole = constant([_state(each) for each in batches]), constant([_state(*batches)])
    for name in ("share", "cross_entropy", "squared_error"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name))
    assert parts != Constant()


@pytest.mark.parametrize("name", ["target", "labels", "y"])
def test_a_batch_may_be_a_mapping(name: str) -> None:
    counted = Targets()
    counted.update({"x": INPUTS, name: torch.tensor([0, 1, 1, 1])})
    assert constant([counted.state()]).share == 0.75


def test_classes_less_than_none_are_not_counted() -> None:
    assert constant([_state(torch.tensor([-100, 0, 1, 1, 1, -1]))]).share == 0.75


@pytest.mark.parametrize(
    "batch",
    [
        INPUTS,
        (INPUTS,),
        (INPUTS, INPUTS, torch.zeros(6)),
        {"x": INPUTS},
        {"y": torch.zeros(6), "label": torch.zeros(6)},
        (INPUTS, "words"),
        (INPUTS, torch.tensor(1)),
        (INPUTS, torch.zeros(0)),
        (INPUTS, torch.randn(6, 2)),
        (INPUTS, torch.zeros(6, dtype=torch.complex64)),
        (INPUTS, torch.arange(MOST_CLASSES + 1)),
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_what_cannot_be_told_for_certain_is_unknown_for_all(batch: Any) -> None:
    counted = Targets()
    counted.update(batch)
    counted.update((INPUTS, torch.tensor([0.5, 1.5])))
    assert counted.state() is None
    assert constant([_state(torch.tensor([0.5, 1.5])), counted.state()]) == Constant()


def test_classes_and_numbers_do_not_go_together() -> None:
    assert _state(torch.tensor([0, 1]), torch.tensor([0.5, 1.5])) is None
    assert constant([_state(torch.tensor([0, 1])), _state(torch.tensor([0.5, 1.5]))]) == Constant()


def test_without_batches_nothing_is_known() -> None:
    assert Targets().state() is None
    assert constant([]) == constant([None]) == Constant()


def test_what_is_told_to_other_processes_is_plain() -> None:
    for targets in (torch.tensor([0, 1, 1]), torch.randn(5)):
        assert json.loads(json.dumps(_state(targets)))
