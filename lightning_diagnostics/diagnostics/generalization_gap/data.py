"""Finding the training data to evaluate on: those of a hook, or else those of the training loaders."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.callback.undisturbed import CannotRestoreError, undisturbed
from lightning_diagnostics.diagnostics.generalization_gap.drawing import drawn
from lightning_diagnostics.diagnostics.generalization_gap.forms import batch_form, without_widths
from lightning_diagnostics.diagnostics.generalization_gap.reading import (
    HOOK,
    IndexedData,
    IteratedData,
    TrainingData,
    UnreadableError,
    words,
)

__all__ = ["HOOK", "TrainingData", "UnreadableError", "batch_form", "find"]

_MEND = f"Have `{HOOK}()` return one DataLoader of training data, or another iterable of batches."
_Shard = tuple[int, int]


def find(
    trainer: Trainer, pl_module: LightningModule, *, batch_size: int | None, like: tuple[Any, ...] | None = None
) -> TrainingData:
    """The training data of a run. Nothing of the training loaders is iterated.

    No random number is drawn, except by a hook.

    Args:
        trainer: A Trainer that is fitting.
        pl_module: Its module.
        batch_size: Samples in a batch; None for as many as in training.
        like: The `batch_form` of a validation batch: of several loaders the first that gives such batches is read.
            None for the first loader.

    Raises:
        UnreadableError: if there are none that can be read.
    """
    shard = insides.shard(trainer)
    for home, name in ((pl_module, "the module"), (getattr(trainer, "datamodule", None), "the data module")):
        hook = getattr(home, HOOK, None)
        if callable(hook):
            return _of_hook(hook, f"{HOOK}() of {name}", batch_size, shard)
    loaders = insides.training_loaders(trainer)
    if not loaders:
        raise UnreadableError("the Trainer has no training loader")
    if len(loaders) > 1:
        return _of_several(trainer, pl_module, loaders, batch_size, shard, like)
    return _of_loader(*loaders[0], "the dataset of the training loader", batch_size, shard)


def _of_hook(hook: Callable[[], Any], source: str, batch_size: int | None, shard: _Shard) -> TrainingData:
    try:
        found = hook()
    except Exception as fault:
        raise UnreadableError(f"{source} raises {words(fault)}", _MEND) from fault
    kind = type(found).__name__
    if isinstance(found, list | tuple) and len(found) == 1 and isinstance(found[0], DataLoader):
        found = found[0]
    if (
        isinstance(found, DataLoader)
        and not isinstance(found.dataset, IterableDataset)
        and not _goes_its_own_way(found)
    ):
        return _indexed(found, None, source, batch_size, shard)
    several = isinstance(found, list | tuple) and any(isinstance(each, DataLoader) for each in found)
    if several or isinstance(found, Mapping) or hasattr(found, "flattened"):
        raise UnreadableError(f"{source} returns several loaders (a {kind})", _MEND)
    if not isinstance(found, Iterable) or isinstance(found, str | bytes | Tensor):
        raise UnreadableError(f"{source} returns something else than a loader ({kind})", _MEND)
    return IteratedData(source, hook, found, shard[1])


def _of_several(
    trainer: Trainer,
    pl_module: LightningModule,
    loaders: list[tuple[Any, float]],
    batch_size: int | None,
    shard: _Shard,
    like: tuple[Any, ...] | None,
) -> TrainingData:
    """The first loader whose batches have a form; a precision plugin may have changed the widths of numbers in it."""
    forms: list[tuple[TrainingData, tuple[Any, ...]]] = []
    for number, (loader, most) in enumerate(loaders, start=1):
        try:
            data = _of_loader(
                loader, most, f"the dataset of training loader {number} of {len(loaders)}", batch_size, shard
            )
            if like is None:
                return data
            with undisturbed(trainer, pl_module, data=data.datasets, guard=False):
                form = data.form()
        except (UnreadableError, CannotRestoreError):
            continue
        if form is not None:
            forms.append((data, form))
    if like is not None:
        same = [data for data, form in forms if form == like]
        same += [data for data, form in forms if without_widths(form) == without_widths(like)]
        if same:
            return same[0]
    raise UnreadableError(f"none of the {len(loaders)} training loaders gives batches like those of validation")


def _of_loader(loader: Any, most: float, source: str, batch_size: int | None, shard: _Shard) -> IndexedData:
    kind = type(loader).__name__
    if not isinstance(loader, DataLoader):
        raise UnreadableError(f"the training loader is no DataLoader of torch ({kind})")
    if isinstance(loader.dataset, IterableDataset):
        reading = "reading it for an evaluation would not give what training is given, or would move it on"
        raise UnreadableError(f"the training data are an IterableDataset ({type(loader.dataset).__name__}): {reading}")
    if _goes_its_own_way(loader):
        raise UnreadableError(f"the training loader ({kind}) has an `__iter__` of its own, which may change batches")
    return _indexed(loader, most, source, batch_size, shard)


def _goes_its_own_way(loader: DataLoader) -> bool:
    """Whether a subclass may give other batches than a plain loader of its dataset."""
    ways = (getattr(type(loader), name) for name in ("__iter__", "_get_iterator"))
    return any(not way.__module__.startswith(("torch.utils.data", "torchdata.")) for way in ways)


def _indexed(loader: DataLoader, most: float | None, source: str, batch_size: int | None, shard: _Shard) -> IndexedData:
    try:
        found = drawn(loader, most=most)
    except TypeError as fault:
        raise UnreadableError(f"{source} cannot be read: {fault}") from fault
    source = f"{source} ({found.note})" if found.note else source
    return IndexedData(source, loader, found, batch_size=batch_size, shard=shard)
