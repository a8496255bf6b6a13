"""Which training data are read in a real run, how often each, and that the run does not notice."""

import functools
import random
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)
from typing_extensions import override

from lightning_diagnostics.callback.undisturbed import undisturbed
from lightning_diagnostics.diagnostics.generalization_gap.data import UnreadableError, batch_form, find
from tests.diagnostics.generalization_gap.rows import COUNT, Reader, Rows, Scribe, Stream, fit, numbers, with_hook

ALL = list(range(COUNT))


class Odd(Sampler[int]):
    """The user's own sampler, which does not survive being asked."""

    asked = 0

    def __iter__(self) -> Iterator[int]:
        type(self).asked += 1
        return iter(range(1, COUNT, 2))

    def __len__(self) -> int:
        return COUNT // 2


class Pairs:
    """A batch sampler of the user's own."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[list[int]]:
        indices = list(self.sampler)
        return iter([indices[at : at + 2] for at in range(0, len(indices), 2)])

    def __len__(self) -> int:
        return -(-len(self.sampler) // 2)


class Loader(DataLoader):
    """A subclass that loads as its parent does."""


class Doubling(DataLoader):
    """A subclass that changes batches."""

    def __iter__(self) -> Any:
        return ([2 * x, y] for x, y in super().__iter__())


class Whole(Dataset):
    """Gives batches of itself."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.full((3, 2), float(index)), torch.zeros(3)


class Listed(Rows):
    """Is asked for lists of indices."""

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        x = torch.tensor([float(each) for each in index])
        return torch.stack([x, 0 * x], dim=1), x.long()


# Which samples.

_SUBSET = [3, 5, 8, 13, 21, 34, 55]
LOADERS = {
    "plain": (lambda: DataLoader(Rows(), batch_size=8, shuffle=True), ALL),
    "sequential": (lambda: DataLoader(Rows(), batch_size=8), ALL),
    "drop_last": (lambda: DataLoader(Rows(), batch_size=8, shuffle=True, drop_last=True), ALL),
    "sequential, drop_last": (lambda: DataLoader(Rows(), batch_size=8, drop_last=True), ALL[:56]),
    "weighted": (
        lambda: DataLoader(Rows(), batch_size=8, sampler=WeightedRandomSampler([0.0] * 11 + [1.0] * 50, 40)),
        ALL[11:],
    ),
    "subset": (lambda: DataLoader(Rows(), batch_size=2, sampler=SubsetRandomSampler(_SUBSET)), _SUBSET),
    "a list": (lambda: DataLoader(Rows(), batch_size=2, sampler=_SUBSET), _SUBSET),
    "a Subset": (lambda: DataLoader(Subset(Rows(), _SUBSET), batch_size=2, shuffle=True), _SUBSET),
    "with replacement": (
        lambda: DataLoader(Rows(), batch_size=8, sampler=RandomSampler(Rows(), replacement=True, num_samples=9)),
        ALL,
    ),
    "unknown sampler": (lambda: DataLoader(Rows(), batch_size=8, sampler=Odd()), ALL),
    "batch sampler": (
        lambda: DataLoader(Rows(), batch_sampler=BatchSampler(SubsetRandomSampler(_SUBSET), 3, False)),
        _SUBSET,
    ),
    "own batch sampler": (lambda: DataLoader(Rows(), batch_sampler=Pairs(SubsetRandomSampler(_SUBSET))), _SUBSET),
    "own batch sampler without one": (
        lambda: DataLoader(Rows(), batch_sampler=[[1, 2], [3]]),
        ALL,
    ),
    "subclass": (lambda: Loader(Rows(), batch_size=8, shuffle=True), ALL),
    "lists of indices": (
        lambda: DataLoader(Listed(), sampler=BatchSampler(RandomSampler(Rows()), 8, False), batch_size=None),
        ALL,
    ),
    "2 workers": (lambda: DataLoader(Rows(), batch_size=8, shuffle=True, num_workers=2, prefetch_factor=3), ALL),
    "persistent workers": (
        lambda: DataLoader(Rows(), batch_size=8, shuffle=True, num_workers=2, persistent_workers=True, timeout=20),
        ALL,
    ),
}


@pytest.mark.parametrize("name", LOADERS)
def test_every_sample_that_can_be_drawn_is_read_once(name: str) -> None:
    make, expected = LOADERS[name]
    reader = Reader()
    fit(reader, make())
    assert sorted(reader.rows) == expected
    assert (reader.found[0].size, reader.shares) == (len(expected), [len(expected)])
    assert not reader.found[0].augments
    assert reader.rows != sorted(reader.rows), "in a random order"


def test_the_source_is_told_and_what_is_not_known() -> None:
    told = {}
    for name in ("plain", "unknown sampler", "subset", "sequential, drop_last"):
        reader = Reader()
        fit(reader, LOADERS[name][0]())
        told[name] = reader.found[0].source
    assert told == {
        "plain": "the dataset of the training loader",
        "unknown sampler": "the dataset of the training loader (all of it, since what Odd draws is not known)",
        "subset": "the dataset of the training loader (those of its sampler)",
        "sequential, drop_last": "the dataset of the training loader (its first 56 samples, the others are not used)",
    }


def test_a_users_sampler_is_never_asked() -> None:
    counts = []
    for reader in (None, Reader()):
        Odd.asked = 0
        fit(reader, DataLoader(Rows(), batch_size=8, sampler=Odd()))
        counts.append(Odd.asked)
    assert counts == [1, 1]


@pytest.mark.parametrize(("given", "sizes"), [(None, [8] * 7 + [5]), (30, [30, 30, 1])])
def test_batches_are_as_large_as_asked_for_or_as_in_training(given: int | None, sizes: list[int]) -> None:
    reader = Reader(batch_size=given)
    fit(reader, DataLoader(Rows(), batch_size=8, shuffle=True, drop_last=True))
    assert reader.sizes == sizes


def test_a_batch_size_of_none_gives_what_the_dataset_gives() -> None:
    reader = Reader(3, batch_size=16)
    fit(reader, DataLoader(Whole(), batch_size=None, shuffle=True))
    assert [tuple(batch[0].shape) for batch in reader.read[0]] == [(3, 2)] * 3
    assert (reader.found[0].size, reader.shares, reader.found[0].unbatched) == (5, [3], True)


FEW = {
    "overfit_batches": ({"overfit_batches": 2}, {}, ALL[:16]),
    "overfit_batches, shuffled": ({"overfit_batches": 2}, {"shuffle": True}, ALL[:16]),
    "limit_train_batches": ({"limit_train_batches": 2}, {}, ALL[:16]),
    "limit_train_batches, a list": ({"limit_train_batches": 2}, {"sampler": [*range(40, 60)]}, [*range(40, 56)]),
    "as a share": ({"limit_train_batches": 0.25}, {}, ALL[:16]),
}


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize(("settings", "more", "expected"), FEW.values(), ids=FEW)
def test_in_a_fixed_order_with_few_batches_only_their_samples_are_read(
    settings: dict[str, Any], more: dict[str, Any], expected: list[int]
) -> None:
    reader = Reader()
    trained = fit(reader, DataLoader(Rows(), batch_size=8, **more), **settings).trained
    assert sorted(reader.rows) == expected == sorted(chain(*trained))


def test_in_a_random_order_with_few_batches_all_samples_are_read() -> None:
    reader = Reader()
    fit(reader, DataLoader(Rows(), batch_size=8, shuffle=True), limit_train_batches=2)
    assert sorted(reader.rows) == ALL


def test_fewer_samples_are_the_first_of_more_and_the_same_each_time() -> None:
    read = {}
    for samples in (5, 20, None):
        reader = Reader(samples)
        fit(reader, DataLoader(Rows(), batch_size=8, shuffle=True), max_epochs=2)
        first, second = ([number for batch in batches for number in numbers(batch)] for batches in reader.read)
        assert first == second
        assert reader.shares == [len(first)] * 2
        read[samples] = first
    assert read[5] == read[None][:5]
    assert read[20] == read[None][:20]
    assert len(set(read[20])) == 20


# Several training loaders.


def _several() -> dict[str, DataLoader]:
    """Two of them, of which the second has batches like those of validation."""
    return {"a": DataLoader(Whole(), batch_size=1), "b": DataLoader(Rows(), batch_size=8, shuffle=True)}


MODES = ("min_size", "max_size", "max_size_cycle")
SEVERAL = {
    "dict": _several,
    "list": lambda: [*_several().values()],
    **{mode: lambda mode=mode: CombinedLoader([*_several().values()], mode) for mode in MODES},
}
LIKE = batch_form(next(iter(DataLoader(Rows(), batch_size=2))))


@pytest.mark.parametrize("name", SEVERAL)
def test_of_several_loaders_the_one_with_batches_like_those_of_validation_is_read(name: str) -> None:
    reader = Reader(like=LIKE)
    fit(reader, SEVERAL[name]())
    assert sorted(reader.rows) == ALL
    assert reader.found[0].source == "the dataset of training loader 2 of 2"


def test_of_several_loaders_the_first_is_read_if_nothing_is_said() -> None:
    reader = Reader()
    fit(reader, SEVERAL["dict"]())
    assert reader.found[0].source == "the dataset of training loader 1 of 2"


@pytest.mark.parametrize(
    ("mode", "settings", "expected"),
    [
        ("min_size", {}, 16),
        ("max_size", {}, COUNT),
        ("max_size_cycle", {"limit_train_batches": 3}, 24),
    ],
)
def test_of_several_loaders_in_a_fixed_order_what_no_epoch_reaches_is_not_read(
    mode: Any, settings: dict[str, Any], expected: int
) -> None:
    reader = Reader()
    loaders = [DataLoader(Rows(), batch_size=8), DataLoader(Rows(16), batch_size=8)]
    fit(reader, CombinedLoader(loaders, mode), **settings)
    assert sorted(reader.rows) == ALL[:expected]


def test_a_precision_that_changes_validation_batches_is_seen_through() -> None:
    reader = Reader(like=batch_form([torch.zeros(4, 2, dtype=torch.float64), torch.zeros(4, dtype=torch.long)]))
    fit(reader, _several())
    assert sorted(reader.rows) == ALL


# The hook.

HOOK = "train_eval_dataloader() of the module"


class Data(LightningDataModule):
    """Gives both kinds of training data."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Rows(), batch_size=8, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Rows(4), batch_size=2)


class DataWithHook(Data):
    def train_eval_dataloader(self) -> Any:
        return DataLoader(Rows(7), batch_size=2, drop_last=True)


def test_the_hook_of_the_data_module_is_used_and_that_of_the_module_before_it() -> None:
    told = []
    for data, module in (
        (Data(), Scribe()),
        (DataWithHook(), Scribe()),
        (DataWithHook(), with_hook(lambda: DataLoader(Rows(9), batch_size=2))),
    ):
        reader = Reader()
        fit(reader, data, module)
        told.append((reader.found[0].source, sorted(reader.rows)))
    assert told == [
        ("the dataset of the training loader", ALL),
        ("train_eval_dataloader() of the data module", [*range(7)]),
        (HOOK, [*range(9)]),
    ]


ITERABLES = {
    "an IterableDataset": lambda: DataLoader(Stream(), batch_size=4),
    "an IterableDataset and workers": lambda: DataLoader(Stream(), batch_size=4, num_workers=1),
    "a list of batches": lambda: list(DataLoader(Rows(), batch_size=4)),
    "a generator": lambda: (batch for batch in DataLoader(Rows(), batch_size=4)),
}


@pytest.mark.parametrize("name", ITERABLES)
@pytest.mark.parametrize(("samples", "expected"), [(None, ALL), (10, ALL[:12])])
def test_what_else_the_hook_gives_is_read_as_it_is_until_there_is_enough(
    name: str, samples: int | None, expected: list[int]
) -> None:
    reader = Reader(samples)
    fit(reader, DataLoader(Stream(), batch_size=8), with_hook(ITERABLES[name]), max_epochs=2)
    assert [[number for batch in read for number in numbers(batch)] for read in reader.read] == [expected] * 2
    assert (reader.found[0].size, reader.shares, reader.found[0].augments) == (None, [None, None], False)


def test_a_loader_that_changes_batches_is_read_as_it_is_if_the_hook_gives_it() -> None:
    reader = Reader()
    fit(reader, DataLoader(Rows(), batch_size=8), with_hook(lambda: Doubling(Rows(), batch_size=8)))
    assert reader.rows == [2 * number for number in ALL]


# What cannot be read.


def _raise() -> Any:
    raise RuntimeError("no disk\n")


BAD_HOOKS = {
    "several loaders": (lambda: [DataLoader(Rows()), DataLoader(Rows())], "returns several loaders (a list)"),
    "a dict of loaders": (lambda: {"a": DataLoader(Rows())}, "returns several loaders (a dict)"),
    "combined": (lambda: CombinedLoader([DataLoader(Rows())]), "returns several loaders (a CombinedLoader)"),
    "None": (lambda: None, "returns something else than a loader (NoneType)"),
    "a dataset": (Rows, "returns something else than a loader (Rows)"),
    "a tensor": (lambda: torch.zeros(3), "returns something else than a loader (Tensor)"),
    "an error": (_raise, "raises RuntimeError: no disk"),
}


def _refused(train: Any, module: Scribe | None = None, *, like: Any = None) -> UnreadableError:
    """What `find` or reading raises in a run."""
    told: list[UnreadableError] = []

    class Refused(Reader):
        def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            try:
                super().on_validation_epoch_end(trainer, pl_module)
            except UnreadableError as error:
                told.append(error)

    fit(Refused(like=like), train, module, num_sanity_val_steps=0)
    return told[0]


@pytest.mark.parametrize("name", BAD_HOOKS)
def test_a_hook_that_gives_no_single_loader_is_told_so(name: str) -> None:
    hook, reason = BAD_HOOKS[name]
    error = _refused(DataLoader(Rows(), batch_size=8), with_hook(hook))
    assert error.reason == f"{HOOK} {reason}"
    assert error.remedy.startswith("Have `train_eval_dataloader()` return one DataLoader")


class Unsized(Dataset):
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return Rows()[index]


class Broken(Rows):
    """One row cannot be read by an index of ours: its sampler gives other keys."""

    @override
    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        return super().__getitem__(index[0])


class Keys(Sampler[tuple[int]]):
    def __iter__(self) -> Iterator[tuple[int]]:
        return iter([(1,), (2,)])

    def __len__(self) -> int:
        return 2


BAD_LOADERS = {
    "iterable": (
        lambda: DataLoader(Stream(), batch_size=4),
        "the training data are an IterableDataset (Stream): reading it for an evaluation would not give what training "
        "is given, or would move it on",
    ),
    "no DataLoader": (
        lambda: _Batches(),
        "the training loader is no DataLoader of torch (_Batches)",
    ),
    "its own way": (
        lambda: Doubling(Rows(), batch_size=4),
        "the training loader (Doubling) has an `__iter__` of its own, which may change batches",
    ),
    "no length": (
        lambda: DataLoader(Unsized(), batch_size=4, sampler=Odd()),
        "the dataset of the training loader cannot be read: the dataset has no length",
    ),
    "other keys": (
        lambda: DataLoader(Broken(), batch_size=2, sampler=Keys()),
        "the dataset of the training loader (all of it, since what Keys draws is not known) cannot be read (TypeError: "
        "'int' object is not subscriptable)",
    ),
    "other keys in a worker": (
        lambda: DataLoader(Broken(), batch_size=2, sampler=Keys(), num_workers=1),
        "the dataset of the training loader (all of it, since what Keys draws is not known) cannot be read (TypeError: "
        "'int' object is not subscriptable)",
    ),
}


class _Batches:
    """Batches without a loader."""

    def __iter__(self) -> Iterator[Any]:
        return iter(DataLoader(Rows(), batch_size=8))


@pytest.mark.parametrize("name", BAD_LOADERS)
def test_training_data_that_cannot_be_read_say_why_and_name_the_hook(name: str) -> None:
    make, reason = BAD_LOADERS[name]
    error = _refused(make())
    assert error.reason == reason
    assert error.remedy.startswith("Define `train_eval_dataloader()`")


def test_several_loaders_none_of_which_gives_batches_like_validation_say_so() -> None:
    error = _refused(_several(), like=batch_form({"x": torch.zeros(2)}))
    assert error.reason == "none of the 2 training loaders gives batches like those of validation"


# Augmentation.


class Flip(Rows):
    """Is augmented once in a thousand: two samples are the same each time, and yet numbers are drawn."""

    def __init__(self, draw: Any) -> None:
        super().__init__()
        self.draw = draw

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.draw()
        return super().__getitem__(index)


def _collate_with_noise(samples: Any) -> Any:
    x, y = torch.utils.data.default_collate(samples)
    return x + 1e-3 * torch.rand(()), y


_OWN = np.random.default_rng(0)
AUGMENTED = {
    "the samples": lambda workers: DataLoader(Rows(noise=1.0), batch_size=8, num_workers=workers),
    "the batches": lambda workers: DataLoader(
        Rows(), batch_size=8, collate_fn=_collate_with_noise, num_workers=workers
    ),
    "unbatched": lambda workers: DataLoader(Rows(noise=1.0), batch_size=None, num_workers=workers),
    **{
        f"rarely, by {name}": lambda workers, draw=draw: DataLoader(Flip(draw), batch_size=8, num_workers=workers)
        for name, draw in (("torch", lambda: torch.rand(1)), ("numpy", np.random.rand), ("Python", random.random))
    },
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", AUGMENTED)
def test_augmentation_is_seen_where_numbers_are_drawn_and_where_samples_differ(name: str, workers: int) -> None:
    reader = Reader(1)
    fit(reader, AUGMENTED[name](workers))
    assert reader.found[0].augments


def test_augmentation_by_a_generator_of_the_datasets_own_is_seen_by_the_difference() -> None:
    class Own(Rows):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            x, y = super().__getitem__(index)
            return x + _OWN.random() / 100, y

    reader = Reader(1)
    fit(reader, DataLoader(Own(), batch_size=8))
    assert reader.found[0].augments


def test_values_that_are_not_numbers_are_no_augmentation() -> None:
    class Missing(Rows):
        def __getitem__(self, index: int) -> Any:
            x, y = super().__getitem__(index)
            return x, y, torch.tensor(torch.nan), float("nan"), str(index), [np.float64("nan")]

    reader = Reader(1)
    fit(reader, DataLoader(Missing(), batch_size=8))
    assert not reader.found[0].augments


# The run.


class _Draws(Callback):
    """The negative control."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        torch.rand(1)


@pytest.mark.parametrize("more", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}], ids=str)
def test_the_order_of_training_is_the_same_with_and_without(more: dict[str, Any]) -> None:
    orders = []
    for callback in (None, Reader(), _Draws()):
        data = DataLoader(Rows(noise=0.1), batch_size=8, shuffle=True, **more)
        module = fit(callback, data, max_epochs=3, val_check_interval=2)
        orders.append((module.trained, module.layer.weight.tolist(), torch.rand(1).item()))
    assert len(orders[0][0]) == 24
    assert orders[1] == orders[0]
    assert orders[2] != orders[0]


class _Finds(Callback):
    """Looks for the data, and reads none."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
            data = find(trainer, pl_module, batch_size=None)
            read = data.batches(None)
            assert data.share(None) == COUNT
            assert len(list(read)) == 8
            after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
            assert torch.equal(before[0], after[0])
            assert before[1:] == after[1:]


@pytest.mark.parametrize("workers", [0, 2])
def test_finding_and_reading_draw_no_random_number_of_their_own(workers: int) -> None:
    fit(_Finds(), DataLoader(Rows(), batch_size=8, shuffle=True, num_workers=workers))


def test_no_more_processes_load_than_there_are_batches() -> None:
    class Counting(Reader):
        def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                read = find(trainer, pl_module, batch_size=4).batches(3)
                before = len(torch.multiprocessing.active_children())
                next(read)
                self.shares.append(len(torch.multiprocessing.active_children()) - before)
                read.close()
                self.shares.append(len(torch.multiprocessing.active_children()) - before)

    reader = Counting()
    fit(reader, DataLoader(Rows(), batch_size=8, num_workers=2, persistent_workers=True))
    assert reader.shares == [1, 0]


class Collates:
    """Has state of its own."""

    def __init__(self) -> None:
        self.draws, self.count = np.random.default_rng(0), 0

    def __call__(self, samples: Any) -> Any:
        self.count += 1
        self.draws.random()
        return default_collate(samples)

    def method(self, samples: Any) -> Any:
        return self(samples)


class _Passes(Callback):
    """Reads the data as a monitor does."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        with undisturbed(trainer, pl_module):
            data = find(trainer, pl_module, batch_size=None)
        with undisturbed(trainer, pl_module, data=data.datasets):
            data.probe()
            assert len(list(data.batches(8))) > 0


_COLLATES: dict[str, Callable[[Collates], Any]] = {
    "object": lambda own: own,
    "method": lambda own: own.method,
    "partial": lambda own: functools.partial(own),
    "closure": lambda own: lambda samples: own(samples),
}


@pytest.mark.parametrize("hook", [False, True])
@pytest.mark.parametrize("name", _COLLATES)
def test_what_collates_is_afterwards_as_it_was(name: str, hook: bool) -> None:
    own, other = Collates(), Collates()
    data = (Doubling if hook else DataLoader)(Rows(), batch_size=8, collate_fn=_COLLATES[name](own))
    module = with_hook(lambda: data) if hook else Scribe()
    fit(_Passes(), DataLoader(Rows(), batch_size=8) if hook else data, module)
    assert own.count == (0 if hook else 8)
    for _ in range(own.count):
        other.draws.random()
    assert own.draws.random() == other.draws.random()


# Forms.


def _example() -> dict[str, Any]:
    return {"x": torch.zeros(4, 3), "meta": {"name": ["a", "b", "c", "d"], "size": np.zeros(4)}}


def test_the_form_of_a_batch_knows_no_sizes() -> None:
    short = {"x": torch.zeros(2, 5), "meta": {"name": ["a", "b"], "size": np.zeros(2)}}
    assert hash(batch_form(short)) == hash(batch_form(_example()))
    assert batch_form(short) == batch_form(_example())
    boxes = ([torch.zeros(3, 2, 2)] * 4, [{"boxes": torch.zeros(5, 4)}] * 4)
    assert batch_form(boxes) == batch_form((boxes[0][:1], boxes[1][:1]))


OTHERS = {
    "another key": {**_example(), "y": 1},
    "another dtype": {**_example(), "x": torch.zeros(4, 3, dtype=torch.long)},
    "another dimension": {**_example(), "x": torch.zeros(4, 3, 1)},
    "another type": [torch.zeros(4, 3)],
    "another array": {**_example(), "meta": {"name": ["a"], "size": np.zeros(4, dtype=int)}},
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_form_of_a_batch_tells_structures_apart(name: str) -> None:
    assert batch_form(OTHERS[name]) != batch_form(_example())


def test_a_pair_of_tensors_is_not_a_triple() -> None:
    pair = [torch.zeros(2, 3), torch.zeros(2, 3)]
    assert batch_form(pair) != batch_form([*pair, torch.zeros(2, 3)])


class _Point(NamedTuple):
    image: Tensor
    label: Tensor


def test_a_tuple_has_the_form_of_a_list_and_a_named_tuple_its_own() -> None:
    pair = [torch.zeros(2, 3), torch.zeros(2)]
    assert batch_form(tuple(pair)) == batch_form(pair)
    assert batch_form({"a": (pair, 1)}) == batch_form({"a": [tuple(pair), 1]})
    assert batch_form(_Point(*pair)) != batch_form(pair)
