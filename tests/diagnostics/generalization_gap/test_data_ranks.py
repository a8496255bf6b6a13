"""Two processes: together they read every sample once, and their training does not notice."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, DistributedSampler, SubsetRandomSampler
from typing_extensions import override

from tests.diagnostics.generalization_gap.rows import COUNT, Reader, Rows, Scribe, fit, with_hook

ALL = list(range(COUNT))


@pytest.fixture(autouse=True)
def _no_child_left() -> Iterator[None]:
    before = set(torch.multiprocessing.active_children())  # a loader of another test may keep its workers for a while
    yield
    assert set(torch.multiprocessing.active_children()) <= before


class Diary(Reader):
    """Writes down what came of its process, which has no other way to bring it home.

    Args:
        folder: Where.
        reads: Whether it reads.
        samples: How many.
    """

    def __init__(self, folder: Path, samples: int | None = None, *, reads: bool = True) -> None:
        super().__init__(samples)
        self.folder, self.reads = folder, reads

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.reads:
            super().on_validation_epoch_end(trainer, pl_module)

    @override
    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        told: dict[str, Any] = {"trained": pl_module.trained, "weight": pl_module.layer.weight.tolist()}
        if self.reads:
            told |= {"read": self.rows, "share": self.shares[0], "size": self.found[0].size}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(told))


def _both(diary: Diary, train: Any, module: Scribe | None = None, **settings: Any) -> list[dict[str, Any]]:
    strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=30))
    fit(diary, train, module, devices=2, strategy=strategy, **settings)
    return [json.loads((diary.folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def _parts(samples: int | None, folder: Path, train: Any, module: Scribe | None = None, **settings: Any) -> Any:
    """What was read by both, how much by each, and how much there is."""
    zero, one = _both(Diary(folder, samples), train, module, **settings)
    assert [len(told["read"]) for told in (zero, one)] == [zero["share"], one["share"]]
    assert zero["size"] == one["size"]
    return sorted(zero["read"] + one["read"]), (zero["share"], one["share"]), zero["size"]


def test_every_sample_is_read_once_by_one_of_two_processes(tmp_path: Path) -> None:
    loader = DataLoader(Rows(), batch_size=8, shuffle=True)
    assert _parts(None, tmp_path, loader) == (ALL, (31, 30), COUNT)


def test_of_few_samples_each_process_has_its_share(tmp_path: Path) -> None:
    read, shares, _ = _parts(5, tmp_path, DataLoader(Rows(), batch_size=8))
    assert (len(set(read)), shares) == (5, (3, 2))


def test_a_process_without_a_share_reads_nothing(tmp_path: Path) -> None:
    read, shares, _ = _parts(1, tmp_path, DataLoader(Rows(), batch_size=8, num_workers=1))
    assert (len(read), shares) == (1, (1, 0))


def test_the_users_sampler_is_found_in_what_lightning_makes_of_it(tmp_path: Path) -> None:
    subset = [1, 2, 3, 5, 8, 13, 21]
    loader = DataLoader(Rows(), batch_size=2, sampler=SubsetRandomSampler(subset))
    assert _parts(None, tmp_path, loader) == (subset, (4, 3), 7)


def test_a_loader_of_the_hook_is_spread_over_processes_too(tmp_path: Path) -> None:
    module = with_hook(lambda: DataLoader(Rows(9), batch_size=2))
    assert _parts(None, tmp_path, DataLoader(Rows(), batch_size=8), module) == ([*range(9)], (5, 4), 9)


def test_when_overfitting_only_the_samples_of_both_processes_first_batches_are_read(tmp_path: Path) -> None:
    zero, one = _both(Diary(tmp_path), DataLoader(Rows(), batch_size=4), overfit_batches=2)
    trained = {number for told in (zero, one) for batch in told["trained"] for number in batch}
    assert sorted(zero["read"] + one["read"]) == sorted(trained) == ALL[:16]


class OwnPart(Scribe):
    """A module that spreads its data itself, in their order, and leaves out a last one that not all can have."""

    def train_dataloader(self) -> DataLoader:
        rows = Rows(9)
        return DataLoader(rows, 2, sampler=DistributedSampler(rows, 2, self.global_rank, shuffle=False, drop_last=True))


@pytest.mark.slow
def test_what_a_distributed_sampler_in_a_fixed_order_leaves_out_is_not_read(tmp_path: Path) -> None:
    assert _parts(None, tmp_path, None, OwnPart(), use_distributed_sampler=False) == ([*range(8)], (4, 4), 8)


def test_the_training_of_two_processes_is_the_same_with_and_without(tmp_path: Path) -> None:
    told = []
    for reads in (False, True):
        diary = Diary(tmp_path, reads=reads)
        both = _both(diary, DataLoader(Rows(noise=0.1), batch_size=4, shuffle=True), max_epochs=2, val_check_interval=2)
        told.append([(each["trained"], each["weight"]) for each in both])
    assert told[0] == told[1]
    assert told[0][0] != told[0][1]
