"""The running sums of a pass, read at the ends of blocks: exact means, few blocks, and one transfer."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_diagnostics.callback.trainer import Logged
from lightning_diagnostics.diagnostics.generalization_gap.tally import MOST_BLOCKS, Series, Tally, together

Batches = list[tuple[float, int]]


def _mean(name: str, batches: Iterable[tuple[float, int]], loader: int = 0) -> Logged:
    """What Lightning has of a mean after these batches of values and sizes."""
    batches = list(batches)
    total = torch.tensor(sum(value * size for value, size in batches))
    weight = torch.tensor(float(sum(size for _, size in batches)))
    return Logged(name, "validation_step", loader, "mean", total, weight)


def _read(batches: Batches) -> Series:
    tally = Tally()
    for end in range(1, len(batches) + 1):
        tally.note([_mean("loss", batches[:end])])
    return tally.read()["loss"]


BATCHES: Batches = [(float(index % 7) + 0.5 * (index % 3), 32 - (index % 5)) for index in range(1000)]


@pytest.mark.parametrize("number", [1, 2, MOST_BLOCKS, MOST_BLOCKS + 1, MOST_BLOCKS + 2, 2 * MOST_BLOCKS + 3, 1000])
def test_the_blocks_are_few_and_are_the_batches_in_a_row(number: int) -> None:
    batches = BATCHES[:number]
    series = _read(batches)
    stride = 1
    while number // stride > MOST_BLOCKS:
        stride *= 2
    blocks = [batches[start : start + stride] for start in range(0, number, stride)]
    assert series.weights == tuple(sum(size for _, size in block) for block in blocks)
    exact = [math.fsum(value * size for value, size in block) / sum(size for _, size in block) for block in blocks]
    assert series.means == pytest.approx(exact, rel=1e-5)
    assert len(blocks) <= MOST_BLOCKS + 1


@pytest.mark.parametrize("number", [1, 5, 129, 1000])
def test_the_mean_is_that_of_all_samples(number: int) -> None:
    batches = BATCHES[:number]
    series = _read(batches)
    size = sum(size for _, size in batches)
    assert series.weight == size == sum(series.weights)
    assert series.value == pytest.approx(sum(value * size for value, size in batches) / size, rel=1e-6)
    parts = zip(series.means, series.weights, strict=True)
    assert sum(mean * weight for mean, weight in parts) / size == pytest.approx(series.value, rel=1e-9)


def test_loaders_one_after_the_other_have_blocks_of_their_own() -> None:
    tally = Tally()
    first, second = [(1.0, 2), (3.0, 2)], [(10.0, 4), (20.0, 4), (30.0, 2)]
    for end in range(1, 3):
        tally.note([_mean("loss/dataloader_idx_0", first[:end], 0)])
    for end in range(1, 4):
        tally.note([_mean("loss/dataloader_idx_0", first, 0), _mean("loss/dataloader_idx_1", second[:end], 1)])
    read = tally.read()
    assert read["loss/dataloader_idx_0"] == Series("mean", 2.0, 4.0, (1.0, 3.0), (2.0, 2.0), 0)
    assert read["loss/dataloader_idx_1"] == Series("mean", 18.0, 10.0, (10.0, 20.0, 30.0), (4.0, 4.0, 2.0), 1)


def test_what_is_logged_after_the_last_batch_is_read_too() -> None:
    tally = Tally()
    tally.note([_mean("loss", [(1.0, 2)])])
    tally.finish([_mean("loss", [(1.0, 2)]), _mean("late", [(5.0, 1)])])
    assert tally.read() == {
        "loss": Series("mean", 1.0, 2.0, (1.0,), (2.0,)),
        "late": Series("mean", 5.0, 1.0, (5.0,), (1.0,)),
    }


@pytest.mark.parametrize(("reduction", "value"), [("sum", 7.0), ("min", -1.0), ("max", 9.0)])
def test_what_is_no_mean_has_no_blocks(reduction: str, value: float) -> None:
    tally = Tally()
    for total in (100.0, value):
        tally.note([Logged("count", "validation_step", 0, reduction, torch.tensor(total))])
    assert tally.read() == {"count": Series(reduction, value, 0.0)}


def test_objects_of_torchmetrics_are_passed_over() -> None:
    tally = Tally()
    tally.note([Logged("accuracy", "validation_step", 0, "metric"), _mean("loss", [(1.0, 2)])])
    assert list(tally.read()) == ["loss"]


def test_nothing_logged_is_nothing() -> None:
    tally = Tally()
    assert tally.read() == {}
    tally.note([])
    assert tally.read() == {}


def test_a_batch_that_is_not_finite_is_seen() -> None:
    series = _read([(1.0, 2), (math.nan, 2), (3.0, 2)])
    assert math.isnan(series.value)
    assert not series.finite
    assert _read([(1.0, 2), (3.0, 2)]).finite
    assert not _read([(1.0, 2), (math.inf, 2)]).finite


def test_a_mean_of_nothing_is_no_number() -> None:
    assert math.isnan(_read([(1.0, 0)]).value)


class _Transfers(TorchDispatchMode):
    """Counts what brings values from their device: ``.item()``, ``.tolist()`` and copies to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.name()] += 1
        return func(*args, **(kwargs or {}))


def test_the_sums_come_in_one_piece_and_no_batch_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    lists: list[int] = []
    tolist = Tensor.tolist

    def counted(self: Tensor) -> Any:
        lists.append(self.numel())
        return tolist(self)

    monkeypatch.setattr(Tensor, "tolist", counted)
    entries = [[_mean("loss", BATCHES[:end]), _mean("error", BATCHES[:end])] for end in range(1, 101)]
    tally = Tally()
    with _Transfers() as noting:
        for each in entries:
            tally.note(each)
    assert noting.count == Counter()
    with _Transfers() as reading:
        tally.read()
    assert lists == [100 * 2 * 2]
    assert reading.count["aten::_local_scalar_dense"] == 0
    assert reading.count["aten::stack"] == 1


# Of several processes.


def test_the_mean_of_all_processes_is_that_of_their_samples() -> None:
    one, other = _read([(1.0, 30), (2.0, 10)]), _read([(5.0, 20)])
    both = together([one, other])
    assert both == Series("mean", 150 / 60, 60.0, (1.0, 2.0, 5.0), (30.0, 10.0, 20.0))
    assert together([one]) == one


@pytest.mark.parametrize(("reduction", "value"), [("sum", 5.0), ("min", 1.0), ("max", 4.0)])
def test_what_is_no_mean_is_put_together_as_it_is_reduced(reduction: str, value: float) -> None:
    both = together([Series(reduction, 1.0, 0.0, loader=2), Series(reduction, 4.0, 0.0, loader=2)])
    assert both == Series(reduction, value, 0.0, loader=2)


def test_without_samples_of_any_process_there_is_no_mean() -> None:
    assert math.isnan(together([Series("mean", math.nan, 0.0)] * 2).value)


@pytest.mark.parametrize("series", [_read(BATCHES[:5]), Series("sum", 3.0, 0.0, loader=1)], ids=lambda s: s.reduction)
def test_a_series_is_plain_and_back(series: Series) -> None:
    assert Series.of(json.loads(json.dumps(series.plain()))) == series
