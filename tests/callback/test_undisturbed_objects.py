"""What a user's step may leave in objects of unusual kinds: subclasses of containers, slots, functions, long lists."""

import dataclasses
import functools
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from typing_extensions import override

from lightning_diagnostics.callback.undisturbed import CannotRestoreError, kept
from tests.callback.test_undisturbed import Here, check, plain, validated
from tests.patients import Student

# Subclasses of containers with methods of their own.


class Meter(dict):
    """Its methods take other arguments."""

    def update(self, key: str, value: float) -> None:  # type: ignore[override]
        self[key] = self.get(key, 0.0) + value

    def clear(self, key: str) -> None:  # type: ignore[override]
        del self[key]

    def keys(self) -> Any:
        return ["no key"]

    def __iter__(self) -> Any:
        return iter(self.keys())

    def __missing__(self, key: str) -> float:
        return 0.0

    def __setitem__(self, key: str, value: float) -> None:
        super().__setitem__(key, 2 * value)


class Sorted(OrderedDict):
    """Doubles."""

    def __setitem__(self, key: str, value: float) -> None:
        super().__setitem__(key, 2 * value)


class History(list):
    """Has a sum."""

    total = 0.0

    def extend(self, *values: float) -> None:  # type: ignore[override]
        for value in values:
            self.append(value)
        self.total += sum(values)

    def __getitem__(self, index: Any) -> Any:
        return f"entry {index}"

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError("it only grows")


class Names(set):
    """Its methods take other arguments."""

    def update(self, first: int, second: int) -> None:  # type: ignore[override]
        self.add(first + second)


class Recent(deque):
    """Is made of nothing."""

    def __init__(self) -> None:
        super().__init__([1], 2)

    def extend(self, first: int, second: int) -> None:  # type: ignore[override]
        self.append(first + second)


class Raw(bytearray):
    """Its methods take other arguments."""

    def clear(self, first: int) -> None:  # type: ignore[override]
        self[:] = b""


@dataclasses.dataclass(slots=True)
class Stats:
    """Has no dictionary."""

    count: int = 0
    seen: list[int] = dataclasses.field(default_factory=list)
    last: int = dataclasses.field(init=False)


@dataclasses.dataclass(slots=True)
class MoreStats(Stats):
    """Has slots of its own and those of its base."""

    more: int = 0


def counter() -> Callable[[], int]:
    count = 0

    def function() -> int:
        nonlocal count
        count += 1
        return count

    return function


def closure(value: Any) -> Callable[[], Any]:
    def function() -> Any:
        return value

    return function


def gathers(into: list[int] = [], *, more: list[int] = []) -> tuple[list[int], list[int]]:  # noqa: B006
    return into, more


def noise(x: Any, draws: np.random.Generator) -> float:
    return draws.random()


def draws() -> np.random.Generator:
    return np.random.default_rng(1)


class Odd(Student):
    """Has one of each."""

    def __init__(self) -> None:
        super().__init__()
        self.meter, self.sorted = Meter(a=1.0), Sorted(a=1.0)
        self.history, self.names, self.recent, self.raw = History([1.0]), Names({1}), Recent(), Raw(b"ab")
        self.history.notes = ["note"]
        self.stats, self.more_stats, self.all_stats = Stats(), MoreStats(), [Stats()]
        self.web_hooks_sent = 0
        self.counts = [torch.zeros(()) for _ in range(100)]
        self.arrays = [np.zeros(2) for _ in range(100)]
        self.layers = [nn.BatchNorm1d(400) for _ in range(100)]
        self.counter = counter()
        self.partial = functools.partial(noise, draws=draws())
        self.partial_of_a_module = functools.partial(nn.BatchNorm1d(4))
        self.method_of_an_object = Stats().seen.append
        self.holder = History()
        self.method = self.holder.extend
        self.draw = draws().random
        self.closure = closure(draws())
        self.gathers = gathers


def look(m: Any) -> Any:
    known = [list(dict.items(m.meter)), list(dict.items(m.sorted)), list.copy(m.history), set(m.names), list(m.recent)]
    stats = [(s.count, list(s.seen), getattr(s, "last", None)) for s in (m.stats, m.more_stats, *m.all_stats)]
    function = [m.counter.__closure__[0].cell_contents, vars(m.counter).copy(), plain(m.closure())]
    partial = [plain(m.partial.keywords), plain(m.partial_of_a_module.func.running_mean)]
    methods = [list(m.method_of_an_object.__self__), list.copy(m.holder), plain(m.draw.__self__), plain(m.gathers())]
    numbers = [m.web_hooks_sent, float(m.counts[3]), float(m.arrays[3][0]), int(m.layers[3].num_batches_tracked)]
    own = [m.history.total, list(m.history.notes), vars(m.meter).copy()]
    return known, bytes(m.raw), stats, m.more_stats.more, function, partial, methods, numbers, own


LEAVES: dict[str, Callable[[Any, Tensor], Any]] = {
    "dict": lambda m, x: m.meter.update("a", 1.0),
    "dict-longer": lambda m, x: m.meter.update("b", 1.0),
    "dict-attribute": lambda m, x: setattr(m.meter, "fresh", 1),
    "ordered": lambda m, x: m.sorted.update(b=1.0),
    "ordered-order": lambda m, x: (m.sorted.update(b=1.0), m.sorted.move_to_end("a")),
    "list": lambda m, x: m.history.extend(2.0, 3.0),
    "list-attribute": lambda m, x: setattr(m.history, "total", 5.0),
    "list-in-an-attribute": lambda m, x: m.history.notes.append("more"),
    "set": lambda m, x: m.names.update(2, 3),
    "deque": lambda m, x: m.recent.extend(2, 3),
    "bytearray": lambda m, x: m.raw.clear(1),
    "slot": lambda m, x: setattr(m.stats, "count", 1),
    "slot-in-a-list": lambda m, x: setattr(m.all_stats[0], "count", 1),
    "list-in-a-slot": lambda m, x: m.stats.seen.append(1),
    "slot-new": lambda m, x: setattr(m.stats, "last", 1),
    "slot-of-a-base": lambda m, x: setattr(m.more_stats, "count", 1),
    "slot-of-its-own": lambda m, x: setattr(m.more_stats, "more", 1),
    "hooks-in-the-name": lambda m, x: setattr(m, "web_hooks_sent", 1),
    "tensor-in-a-long-list": lambda m, x: m.counts[3].add_(1),
    "array-in-a-long-list": lambda m, x: m.arrays[3].fill(1),
    "small-buffer-in-a-long-list": lambda m, x: m.layers[3].num_batches_tracked.add_(1),
    "closure": lambda m, x: m.counter(),
    "generator-in-a-closure": lambda m, x: m.closure().random(),
    "function": lambda m, x: setattr(m.counter, "calls", 1),
    "partial": lambda m, x: m.partial(x),
    "module-in-a-partial": lambda m, x: m.partial_of_a_module(x[:, :4]),
    "method-of-a-library": lambda m, x: m.method_of_an_object(1),
    "method": lambda m, x: m.method(1.0),
    "method-of-a-generator": lambda m, x: m.draw(),
    "default": lambda m, x: m.gathers()[0].append(1),
    "default-by-keyword": lambda m, x: m.gathers()[1].append(1),
}


@pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES)
def test_unusual_objects_are_put_back(leave: Callable[[Any, Tensor], Any]) -> None:
    check(validated(Here(leave, look=look), Odd()))


def test_a_slot_that_was_emptied_is_filled_again() -> None:
    module = Odd()
    module.stats.last = 1
    check(validated(Here(lambda m, x: delattr(m.stats, "last"), look=look), module))


def test_large_arrays_in_a_long_list_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_MOST_BYTES", 100 << 10)
    module = Student()
    module.arrays = [np.zeros(kept.SMALL + 1, np.uint8) for _ in range(100)]
    here = validated(Here(lambda m, x: m.arrays[0].fill(1), look=lambda m: int(m.arrays[0][0])), module)
    assert (here.fault, here.before, here.after) == (None, 0, 1)
    module.arrays = [np.zeros(kept.SMALL, np.uint8) for _ in range(101)]
    here = validated(Here(lambda m, x: None, look=lambda m: 0), module)
    assert isinstance(here.fault, CannotRestoreError)


class Images(Dataset):
    """Has a transform."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    @override
    def __getitem__(self, index: int) -> Any:
        return self.transform(index)


@pytest.mark.parametrize(
    "make",
    [
        lambda: functools.partial(noise, draws=draws()),
        lambda: (lambda own: lambda index: own.random())(draws()),
        counter,
    ],
    ids=["partial", "closure", "counter"],
)
def test_transforms_of_a_dataset_give_afterwards_what_they_would_have_given(make: Callable[[], Any]) -> None:
    function = make()
    transform = (lambda index: function()) if make is counter else function
    data, expected = Images(transform), make()
    here = validated(Here(lambda m, x: [data[0], data[1]], look=lambda m: 0, data=[data]), Student())
    assert here.fault is None
    assert data[2] == (expected() if make is counter else expected(2))
