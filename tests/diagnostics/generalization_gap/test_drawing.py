"""Which samples a loader can draw, where a real run of one loader does not tell."""

from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, SubsetRandomSampler

from lightning_diagnostics.diagnostics.generalization_gap.drawing import drawn
from tests.diagnostics.generalization_gap.rows import COUNT, Rows


class Few(RandomSampler):
    """Draws otherwise than its parent."""

    def __iter__(self) -> Iterator[int]:
        return iter([1, 2])


def test_a_subclass_that_draws_otherwise_is_not_taken_for_its_parent() -> None:
    found = drawn(DataLoader(Rows(), sampler=Few(Rows(7))), most=9)
    assert (found.count, found.note) == (COUNT, "all of it, since what Few draws is not known")


def test_a_sample_that_is_listed_twice_counts_once() -> None:
    found = drawn(DataLoader(Rows(), sampler=SubsetRandomSampler([5, 3, 5])), most=9)
    assert found.indices is not None
    assert (found.count, found.indices.tolist()) == (2, [3, 5])


@pytest.mark.parametrize(("dropping", "count"), [(True, 56), (False, COUNT)])
def test_a_loader_that_others_outlast_comes_to_its_own_end(dropping: bool, count: int) -> None:
    assert drawn(DataLoader(Rows(), batch_size=8, drop_last=dropping), most=100).count == count


@pytest.mark.parametrize(("dropping", "count"), [(True, 60), (False, COUNT)])
def test_a_distributed_sampler_in_a_fixed_order_says_how_far_it_goes(dropping: bool, count: int) -> None:
    sampler = DistributedSampler(Rows(), 4, 0, shuffle=False, drop_last=dropping)
    assert drawn(DataLoader(Rows(), batch_size=5, sampler=sampler), most=100).count == count


def test_the_last_full_batches_of_all_processes_are_of_each_process_own() -> None:
    sampler = DistributedSampler(Rows(), 4, 0, shuffle=False)
    assert drawn(DataLoader(Rows(), batch_size=5, drop_last=True, sampler=sampler), most=100).count == COUNT - 1


def test_without_an_end_a_last_batch_that_is_not_full_counts() -> None:
    assert drawn(DataLoader(Rows(), batch_size=8, drop_last=True), most=None).count == COUNT


def test_no_sampler_is_moved_on() -> None:
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    drawn(DataLoader(Rows(), sampler=RandomSampler(Rows(), generator=generator)), most=100)
    assert torch.equal(generator.get_state(), before)
