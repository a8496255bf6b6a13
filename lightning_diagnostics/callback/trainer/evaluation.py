"""The evaluation that is running: its stage, its batches, its loaders."""

import contextlib
import inspect
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lightning_diagnostics.callback.namespaces import LightningModule, Trainer

STAGES = {"sanity_check": "validation", "validate": "validation", "test": "test", "predict": "predict"}
"""What the hooks and steps of a stage are called after."""


def evaluation_loop(trainer: Trainer) -> Any:
    """The loop of the evaluation that is running, a validation within training too; None if none is."""
    if trainer.state.fn == "fit":
        return trainer.fit_loop.epoch_loop.val_loop
    return {"validate": trainer.validate_loop, "test": trainer.test_loop, "predict": trainer.predict_loop}.get(
        str(trainer.state.fn.value) if trainer.state.fn is not None else ""
    )


def evaluation_batches(trainer: Trainer, loader: int) -> int | None:
    """Batches of a loader of the evaluation that is running; None if unknown."""
    loop: Any = evaluation_loop(trainer)
    most = loop.max_batches if loop is not None else []
    most = most if isinstance(most, list) else [most]
    return int(most[loader]) if loader < len(most) and most[loader] != math.inf else None


@dataclass(frozen=True)
class Loading:
    """How the batches of a loader come about.

    Attributes:
        batch_size: Samples in a full batch; None if the loader does not say.
        stacked: Whether samples are stacked along the first axis for certain.
    """

    batch_size: int | None
    stacked: bool


def loading(trainer: Trainer, module: LightningModule, loader: int) -> Loading:
    """How the batches of the evaluation that is running come about."""
    combined: Any = getattr(evaluation_loop(trainer), "_combined_loader", None)
    flattened = combined.flattened if combined is not None else []
    one: Any = flattened[loader] if loader < len(flattened) else None
    size = getattr(one, "batch_size", None) or getattr(getattr(one, "batch_sampler", None), "batch_size", None)
    plain = getattr(one, "collate_fn", None) is torch.utils.data.default_collate
    hooks = ("on_before_batch_transfer", "on_after_batch_transfer", "transfer_batch_to_device")
    sources = (type(each) for each in (module, getattr(trainer, "datamodule", None)) if each is not None)
    moved = any(_is_users_own(kind, hook) for kind in sources for hook in hooks)
    return Loading(size if isinstance(size, int) else None, plain and isinstance(size, int) and not moved)


def _is_users_own(kind: type, hook: str) -> bool:
    home = getattr(getattr(kind, hook, None), "__module__", "")
    return not home.startswith(("lightning.", "pytorch_lightning."))


def samples_read(trainer: Trainer, loader: int, batches: int) -> int | None:
    """Samples in the first batches of a loader of the evaluation that is running; None if the loader does not say."""
    combined: Any = getattr(evaluation_loop(trainer), "_combined_loader", None)
    flattened = combined.flattened if combined is not None else []
    one: Any = flattened[loader] if loader < len(flattened) else None
    size, most = getattr(one, "batch_size", None), getattr(getattr(one, "sampler", None), "__len__", None)
    return min(batches * size, int(most())) if isinstance(size, int) and most is not None else None


def evaluation_context(trainer: Trainer) -> contextlib.AbstractContextManager[Any]:
    """What a step of an evaluation runs in, for the precision of the run."""
    return trainer.precision_plugin.val_step_context()


def in_stage(trainer: Trainer, stage: str) -> Callable[[], bool]:
    """Whether the Trainer is still in a stage, without holding it."""
    alive = weakref.ref(trainer)

    def running() -> bool:
        trainer = alive()
        now = None if trainer is None or trainer.interrupted else trainer.state.stage
        return now is not None and now.value == stage

    return running


def takes_an_iterator(trainer: Trainer) -> bool:
    """Whether the module's ``validation_step`` is given the iterator of the loader and not a batch."""
    return "dataloader_iter" in inspect.signature(trainer.lightning_module.validation_step).parameters


def validation_loaders(trainer: Trainer) -> list[Any] | None:
    """The loaders of the validation that is running; None if each batch is made of several loaders' batches."""
    loop: Any = evaluation_loop(trainer)
    if loop is None or loop._combined_loader is None:
        return []
    loaders = list(loop._combined_loader.flattened)
    return loaders if loop._is_sequential or len(loaders) == 1 else None


def training_modes(trainer: Trainer) -> dict[str, bool]:
    """Whether each module was in training mode before the validation that is running, by its path."""
    return dict(evaluation_loop(trainer)._module_mode.mode)


def validation_samples(trainer: Trainer, counted: list[dict[int, int]]) -> dict[int, int]:
    """The samples of the validation that is running, by the index of the loader, without those that only fill up.

    Args:
        trainer: The Trainer.
        counted: Samples in the batches of each process.
    """
    found: dict[int, int] = {}
    for process in counted:
        for loader, number in process.items():
            found[loader] = found.get(loader, 0) + number
    loaders = validation_loaders(trainer) or []
    for loader, one in enumerate(loaders):
        sampler, most = getattr(one, "sampler", None), getattr(getattr(one, "dataset", None), "__len__", None)
        if loader in found and isinstance(sampler, torch.utils.data.DistributedSampler) and most is not None:
            found[loader] = min(found[loader], int(most()))
    return found


def class_names(trainer: Trainer) -> list[str] | None:
    """What the data set of the first validation loader calls its classes (``classes``, as in torchvision)."""
    loaders = validation_loaders(trainer)
    names = getattr(getattr(loaders[0], "dataset", None), "classes", None) if loaders else None
    return list(names) if isinstance(names, list | tuple) and all(isinstance(each, str) for each in names) else None
