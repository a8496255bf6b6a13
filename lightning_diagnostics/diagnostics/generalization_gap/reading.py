"""Training data that can be read any number of times, by loaders of our own."""

import contextlib
import functools
import hashlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler
from typing_extensions import override

from lightning_diagnostics.diagnostics.generalization_gap.drawing import Drawn, batching
from lightning_diagnostics.diagnostics.generalization_gap.forms import alike, batch_form, rows

HOOK = "train_eval_dataloader"
"""What a module or a data module may define: a loader of training data to evaluate on."""

ADVICE = f"Define `{HOOK}()` on the module or the data module; it returns a loader of training data to evaluate on."
_SEED = 0
_CHUNK = 4096


class UnreadableError(Exception):
    """Training data cannot be read for an evaluation.

    Attributes:
        reason: What cannot be read, and why; a clause.
        remedy: What to do; a sentence.
    """

    def __init__(self, reason: str, remedy: str = ADVICE) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


class TrainingData:
    """Training data that can be read any number of times.

    Attributes:
        source: Where they come from, in words.
        size: Samples of all processes together; None if unknown.
        datasets: What reading may change.
        workers: Processes that load them, at most.
        augments: Whether a sample is not the same each time; known after `probe`.
        unbatched: Whether what counts as a sample may be a whole batch, since the loader's ``batch_size`` is None.
    """

    def __init__(self, source: str, size: int | None, datasets: tuple[object, ...], workers: int) -> None:
        self.source, self.size, self.datasets, self.workers = source, size, datasets, workers
        self.augments = self.unbatched = False

    def probe(self) -> None:
        """Read two samples twice, with other random numbers, and set ``augments``. Moves the generators on.

        Raises:
            UnreadableError: if they cannot be read.
        """
        with _named(self.source):
            self.augments = self._varies()

    def batches(self, samples: int | None) -> Iterator[Any]:
        """The batches of this process's share of the first samples of a fixed random order, as collated.

        Args:
            samples: How many samples all processes read together; None for all.

        Raises:
            UnreadableError: where one cannot be read.
        """
        read = self._read(samples)
        while True:
            with _named(self.source):
                try:
                    batch = next(read)
                except StopIteration:
                    return
            yield batch

    def share(self, samples: int | None) -> int | None:
        """How many samples this process reads then; None if unknown."""
        raise NotImplementedError

    def _read(self, samples: int | None) -> Iterator[Any]:
        raise NotImplementedError

    def _varies(self) -> bool:
        raise NotImplementedError


class IndexedData(TrainingData):
    """Samples of a dataset with indices, in a random order that is always the same.

    Args:
        source: Where they come from, in words.
        loader: A loader that gives such batches; nothing of it is iterated.
        drawn: The samples that it can draw.
        batch_size: Samples in a batch; None for as many as it has.
        shard: Which part is this process's, of how many.
    """

    def __init__(
        self, source: str, loader: DataLoader, drawn: Drawn, *, batch_size: int | None, shard: tuple[int, int]
    ) -> None:
        super().__init__(source, drawn.count, _read_from(loader), loader.num_workers)
        made = batching(loader)
        self.unbatched = made.way == "single"
        self._way, self._batch_size = made.way, 1 if self.unbatched else batch_size or made.size or 1
        self._loader, self._drawn, self._shard = loader, drawn, shard

    @override
    def share(self, samples: int | None) -> int:
        return len(range(self._drawn.count)[:samples][slice(*self._part())])

    def form(self) -> tuple[Any, ...] | None:
        """The form of a batch of one sample; None if there is none."""
        with _named(self.source):
            return next((batch_form(batch) for batch in self._make(self._order[:1], 1)), None)

    @override
    def _read(self, samples: int | None) -> Iterator[Any]:
        indices = self._order[:samples][slice(*self._part())]
        return iter(self._make(indices, self._batch_size)) if len(indices) else iter(())

    def _part(self) -> tuple[int, None, int]:
        return self._shard[0], None, self._shard[1]

    @functools.cached_property
    def _order(self) -> Tensor:
        """All samples: fewer are the first of these."""
        small = self._drawn.count < 1 << 31
        generator = torch.Generator().manual_seed(_SEED)
        order = torch.randperm(self._drawn.count, generator=generator, dtype=torch.int32 if small else torch.int64)
        return order if self._drawn.indices is None else self._drawn.indices[order]

    def _make(self, indices: Tensor, size: int, *, workers: int | None = None, collate: Any = None) -> DataLoader:
        """A loader of samples, as the training loader has them, in no more processes than there are batches."""
        own, order = self._loader, _Order(indices)
        workers = min(own.num_workers, -(-len(indices) // size) if workers is None else workers)
        more: dict[str, Any] = {}
        if workers:
            more = {name: getattr(own, name) for name in ("multiprocessing_context", "prefetch_factor", "timeout")}
        return DataLoader(
            own.dataset,
            batch_size=size if self._way == "collated" else None,
            sampler=BatchSampler(order, size, drop_last=False) if self._way == "listed" else order,
            num_workers=workers,
            collate_fn=collate or own.collate_fn,
            pin_memory=own.pin_memory and collate is None,
            worker_init_fn=own.worker_init_fn,
            generator=torch.Generator().manual_seed(_SEED),
            **more,
        )

    @override
    def _varies(self) -> bool:
        """A sample differs the second time, or random numbers were drawn for it, where it was loaded."""
        two = self._order[:2]
        if not len(two):
            return False
        watched = _Watched(self._loader.collate_fn)
        size = 1 if self.unbatched else len(two)
        seen = list(self._make(torch.cat([two, two]), size, workers=1, collate=watched))  # one has them all, in order
        half = len(seen) // 2
        drew = seen[half - 1][1] != seen[-1][1]
        return drew or not all(alike(a[0], b[0]) for a, b in zip(seen[:half], seen[half:], strict=True))


class IteratedData(TrainingData):
    """Batches that a hook gives in its own order; each process has what its own hook gives.

    Args:
        source: Where they come from, in words.
        hook: Gives something to iterate over.
        found: What it gave.
        shards: Over how many processes the samples are spread.
    """

    def __init__(self, source: str, hook: Callable[[], Any], found: Iterable[Any], shards: int) -> None:
        workers = found.num_workers if isinstance(found, DataLoader) else 0
        super().__init__(source, None, _read_from(found), workers)
        self._hook, self._found, self._shards = hook, found, shards

    @override
    def share(self, samples: int | None) -> None:
        return None

    @override
    def _read(self, samples: int | None) -> Iterator[Any]:
        read, enough = 0, None if samples is None else -(-samples // self._shards)
        batches = self._anew()
        while enough is None or read < enough:
            try:
                batch = next(batches)
            except StopIteration:
                return
            read += rows(batch)
            yield batch

    def _anew(self) -> Iterator[Any]:
        """From the start: an iterator serves one reading only, and the hook is asked for another."""
        once = isinstance(self._found, Iterator)
        return iter(self._hook() if once else self._found)

    @override
    def _varies(self) -> bool:
        """The first batch differs the second time. An order that is not fixed counts as well."""
        first = [list(itertools.islice(self._anew(), 1)) for _ in range(2)]
        return not alike(*first)


class _Order(Sampler[int]):
    """Indices of a tensor, few at a time as numbers: of millions of samples a list would be large."""

    def __init__(self, indices: Tensor) -> None:
        self._indices = indices

    @override
    def __iter__(self) -> Iterator[int]:
        for chunk in self._indices.split(_CHUNK):
            yield from chunk.tolist()

    def __len__(self) -> int:
        return len(self._indices)


class _Watched:
    """Collates, and says where the generators of random numbers are afterwards (in a worker: its own)."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate

    def __call__(self, samples: Any) -> tuple[Any, str]:
        batch = self._collate(samples)
        _, keys, position, *_ = np.random.get_state()
        states = (torch.get_rng_state().numpy().tobytes(), keys, position, random.getstate())
        return batch, hashlib.sha256(b"".join(_encoded(each) for each in states)).hexdigest()


def _encoded(state: Any) -> bytes:
    return (
        state
        if isinstance(state, bytes)
        else state.tobytes()
        if isinstance(state, np.ndarray)
        else repr(state).encode()
    )


def _read_from(found: object) -> tuple[object, ...]:
    """What reading may change: datasets, and what makes batches of their samples."""
    if not isinstance(found, DataLoader):
        return tuple(_datasets(found))
    return *_datasets(found.dataset), found.collate_fn, found.worker_init_fn


def _datasets(dataset: object) -> list[object]:
    """A dataset and those in it."""
    found = [dataset]
    for outer in found:
        for value in getattr(outer, "__dict__", {}).values():
            inner = value if isinstance(value, list | tuple) and value and isinstance(value[0], Dataset) else [value]
            found += [each for each in inner if isinstance(each, Dataset) and all(each is not old for old in found)]
    return found


@contextlib.contextmanager
def _named(source: str) -> Iterator[None]:
    """An error of the user's dataset is told as what it is."""
    try:
        yield
    except UnreadableError:
        raise
    except Exception as fault:
        raise UnreadableError(f"{source} cannot be read ({words(fault)})") from fault


def words(fault: Exception) -> str:
    """An error in one line; of one that a worker passes on, the last."""
    kind, text = type(fault).__name__, str(fault).strip()
    last = text.splitlines()[-1].strip() if text else ""
    return last if last.startswith(kind) else f"{kind}: {last}" if last else kind
