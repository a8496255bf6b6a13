"""Numbers that wait on their device: each comes home under its slot, all in one transfer."""

import gc
import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_diagnostics.probes import Deferred, Slot

PAGE = 256
"""Tensors that are put together at a time."""


class Calls(TorchDispatchMode):
    """Counts the calls of operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("count", [1, 2, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE + 7])
def test_every_number_comes_home_under_its_slot(count: int) -> None:
    deferred = Deferred()
    slots = {index: deferred.put(torch.arange(index % 5, dtype=torch.float64) + index) for index in range(count)}
    assert deferred.size == sum(index % 5 for index in range(count))
    numbers = deferred.fetch()
    assert {index: numbers[slot] for index, slot in slots.items()} == {
        index: [float(index + place) for place in range(index % 5)] for index in range(count)
    }


def test_a_slot_says_where_and_how_many() -> None:
    deferred, cpu = Deferred(), torch.device("cpu")
    assert deferred.put(torch.ones(2, 3)) == Slot(cpu, 0, 6)
    assert deferred.put(torch.ones(())) == Slot(cpu, 6, 1)
    assert deferred.put(torch.ones(0)) == Slot(cpu, 7, 0)
    assert deferred.size == 7
    numbers = deferred.fetch()
    assert numbers[Slot(cpu, 5, 2)] == [1.0, 1.0]  # a part of what was put: of vectors single numbers are asked for
    assert numbers[Slot(cpu, 7, 0)] == []


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool]
)
def test_numbers_of_any_type_are_read_in_64_bits(dtype: torch.dtype) -> None:
    deferred, value = Deferred(), torch.tensor([0.0, 1.0]).to(dtype)
    wide = deferred.put(torch.tensor(1 + 2**-50, dtype=torch.float64))
    slot = deferred.put(value)
    numbers = deferred.fetch()
    assert numbers[slot] == [0.0, 1.0]
    assert numbers[wide] == [1 + 2**-50]


def test_what_is_not_finite_comes_home_as_it_is() -> None:
    deferred = Deferred()
    slot = deferred.put(torch.tensor([math.inf, -math.inf, math.nan]))
    up, down, nan = deferred.fetch()[slot]
    assert (up, down) == (math.inf, -math.inf)
    assert math.isnan(nan)


def test_after_a_transfer_and_after_letting_go_slots_are_given_anew() -> None:
    deferred = Deferred()
    first = deferred.put(torch.ones(3))
    numbers = deferred.fetch()
    assert deferred.size == 0
    assert deferred.put(torch.zeros(3)) == first
    assert numbers[first] == [1.0, 1.0, 1.0]
    deferred.clear()
    assert deferred.size == 0
    assert deferred.put(torch.full((3,), 2.0)) == first
    assert deferred.fetch()[first] == [2.0, 2.0, 2.0]


def test_taking_does_no_arithmetic_and_every_256th_is_put_together() -> None:
    deferred, values = Deferred(), [torch.ones(()) for _ in range(PAGE)]
    with Calls() as calls:
        for value in values[:-1]:
            deferred.put(value)
        assert calls.names == []
        deferred.put(values[-1])
        assert calls.names.count("cat") == 1


def test_what_was_put_together_is_let_go_of() -> None:
    deferred = Deferred()
    for _ in range(PAGE - 1):
        deferred.put(torch.ones(()))
    value = torch.ones(())
    alive = weakref.ref(value)
    deferred.put(value)
    del value
    gc.collect()
    assert alive() is None
    assert deferred.size == PAGE


@pytest.mark.parametrize("count", [1, 700])
def test_there_is_one_transfer_of_all_that_waits(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    transfers: list[int] = []
    plain = Tensor.cpu

    def cpu(self: Tensor) -> Tensor:
        transfers.append(self.numel())
        return plain(self)

    monkeypatch.setattr(Tensor, "cpu", cpu)
    deferred = Deferred()
    for _ in range(count):
        deferred.put(torch.ones(2))
    assert transfers == []
    deferred.fetch()
    assert transfers == [2 * count]
    deferred.fetch()
    assert transfers == [2 * count]


def test_what_is_put_together_records_no_gradient() -> None:
    deferred, weight = Deferred(), torch.ones(2, requires_grad=True)
    slot = deferred.put((weight * 2).detach())
    with torch.enable_grad():
        for _ in range(PAGE):
            deferred.put(weight)
        assert not any(each.requires_grad for each in deferred._waiting[slot.device][:1])
        assert deferred.fetch()[slot] == [2.0, 2.0]


def test_what_is_kept_is_fetched_again_and_keeps_its_slots() -> None:
    deferred = Deferred()
    first = deferred.put(torch.tensor([1.0, 2.0]))
    assert deferred.fetch(keep=True)[first] == [1.0, 2.0]
    assert deferred.size == 2
    second = deferred.put(torch.tensor(3.0))
    numbers = deferred.fetch()
    assert (numbers[first], numbers[second]) == ([1.0, 2.0], [3.0])
    assert deferred.size == 0
