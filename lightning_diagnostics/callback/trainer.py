"""What is read of the Trainer's insides: the one file that may, so that a change in Lightning is mended here."""

import contextlib
import inspect
import math
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.distributed
from torch import nn

from lightning_diagnostics.callback.namespaces import Callback, LightningModule, Trainer


def log_step(trainer: Trainer) -> int:
    """The step at which Lightning's ``self.log`` draws values of the current batch (it is not ``global_step``)."""
    return int(getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step))


def epoch_end_step(trainer: Trainer) -> int:
    """The step at which ``self.log`` draws values of the epoch that just ended."""
    return max(0, log_step(trainer) - 1)


def batches_per_epoch(trainer: Trainer) -> int | None:
    """Training batches in an epoch; None for loaders without a length."""
    batches = trainer.num_training_batches
    return None if batches == math.inf else int(batches)


def batches_left(trainer: Trainer) -> float:
    """Training batches still to come by ``max_epochs`` and ``max_steps``; ``inf`` when neither bounds the run.

    ``max_steps`` counts optimizer steps, of which this run has so far made ``global_step`` in its batches.
    """
    loop = trainer.fit_loop
    done = max(loop.epoch_loop.total_batch_idx + 1, 1)
    left = math.inf
    if loop.max_epochs is not None and loop.max_epochs >= 0:
        left = trainer.num_training_batches * loop.max_epochs - done
    if loop.max_steps >= 0:
        stepped = trainer.global_step / done
        left = min(left, (loop.max_steps - trainer.global_step) / stepped if stepped else math.inf)
    return max(0.0, left)


def run_folder(trainer: Trainer) -> str | None:
    """The folder of this run, that of the first logger that has one. To be called on rank zero only.

    ``trainer.log_dir`` is not used because it is a collective call. A logger without a ``log_dir`` (MLflow, W&B) gives
    the folder in which ``ModelCheckpoint`` would save.
    """
    for logger in trainer.loggers:
        folder = getattr(logger, "log_dir", None)
        if isinstance(folder, str | os.PathLike) and os.fspath(folder):
            return str(os.fspath(folder))
        save_dir = getattr(logger, "save_dir", None)
        if isinstance(save_dir, str | os.PathLike) and isinstance(logger.version, str | int):
            version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
            return os.path.join(os.fspath(save_dir), str(logger.name), version)
    return None


def experiments(trainer: Trainer) -> list[object]:
    """The loggers' experiments (SummaryWriter and the like)."""
    found = (getattr(logger, "experiment", None) for logger in trainer.loggers)
    return [experiment for experiment in found if experiment is not None]


def plain_writer(logger: Any) -> object | None:
    """The SummaryWriter of a TensorBoard logger that writes what it is given and nothing else; None for others."""
    if getattr(type(logger).log_metrics, "__module__", "") not in _TENSORBOARD_LOGGERS or getattr(
        logger, "_prefix", ""
    ):
        return None
    return getattr(logger, "experiment", None)


_TENSORBOARD_LOGGERS = frozenset(
    f"{package}.loggers.tensorboard"
    for package in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")
)


def process_count(trainer: Trainer) -> int:
    """The number of processes that train together and can exchange objects."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready and trainer.world_size > 1 else 1


def gather(trainer: Trainer, value: Any) -> list[Any]:
    """A plain value of every rank, in the order of ranks. A collective: every rank must call it."""
    count = process_count(trainer)
    if count == 1:
        return [value]
    values: list[Any] = [None] * count
    torch.distributed.all_gather_object(values, value)
    return values


def shared_count(trainer: Trainer, name: str, *, add: int = 0) -> int:
    """Add to a number that all processes share, and give it. No collective: it waits for no other process."""
    count = process_count(trainer)
    if count == 1:
        return 1
    try:
        store = torch.distributed.distributed_c10d._get_default_store()
        return int(store.add(f"lightning_diagnostics/{name}", add))
    except Exception:  # noqa: BLE001  # a backend that keeps none (MPI): as if all were alike
        return count


def stop(trainer: Trainer) -> None:
    """Ask for an end after the current batch."""
    trainer.should_stop = True


def is_wholly_compiled(module: LightningModule) -> bool:
    """Whether the LightningModule itself was compiled, its steps included."""
    return getattr(module, "_compiler_ctx", None) is not None


def compiled_frames() -> int:
    """How many functions ``torch.compile`` has met in this process so far."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else int(dynamo.counters["frames"]["total"])


def is_compiled(module: LightningModule) -> bool:
    """Whether the module or a submodule was compiled, or ``torch.compile`` any function in this process."""
    if is_wholly_compiled(module) or compiled_frames():
        return True
    return any(_is_compiled(part) for part in module.modules())


def _is_compiled(part: nn.Module) -> bool:
    return "_orig_mod" in part._modules or getattr(part, "_compiled_call_impl", None) is not None


# Gradients.


def loss_scale(trainer: Trainer) -> torch.Tensor | None:
    """What Lightning's gradient scaler multiplies losses with, on its device and not waited for; None without one."""
    scaler = trainer.scaler
    if scaler is None or not scaler.is_enabled():
        return None
    return scaler._get_scale_async()


def clips(trainer: Trainer, module: LightningModule) -> bool:
    """Whether Lightning clips gradients, or the user's module or callbacks may, before an optimizer is given them."""
    own = is_overridden(module, "configure_gradient_clipping")
    return bool(trainer.gradient_clip_val) or own or _hooks_before_step(trainer, module)


def clip_norm(trainer: Trainer, module: LightningModule) -> float | None:
    """The norm that Lightning itself clips to, if nothing else changes the gradients before a step."""
    own = is_overridden(module, "configure_gradient_clipping") or _hooks_before_step(trainer, module)
    if own or trainer.gradient_clip_algorithm not in (None, "norm"):
        return None
    return float(trainer.gradient_clip_val) if trainer.gradient_clip_val else None


def _callbacks(trainer: Trainer) -> list[Any]:
    return getattr(trainer, "callbacks", [])


def _hooks_before_step(trainer: Trainer, module: LightningModule) -> bool:
    """Whether the module or another callback has something to do between a backward pass and the step."""
    hook = "on_before_optimizer_step"
    others = [each for each in _callbacks(trainer) if not type(each).__module__.startswith("lightning_diagnostics.")]
    plain = getattr(Callback, hook)
    return is_overridden(module, hook) or any(
        hook in vars(each) or getattr(type(each), hook, plain) is not plain for each in others
    )


def is_device_lost(exception: BaseException) -> bool:
    """Whether an error leaves a device or a group of processes behind that would not answer."""
    distributed = torch.distributed.is_available() and isinstance(exception, torch.distributed.DistError)
    return distributed or "CUDA error" in str(exception)


def accumulation(trainer: Trainer, batch_idx: int) -> tuple[int, int]:
    """The place of a batch among those whose gradients are accumulated, from 0, and how many these are."""
    of = trainer.accumulate_grad_batches
    return batch_idx % of, of


def batch_size(trainer: Trainer, batch: Any) -> int | None:
    """Samples in a training batch; None if it is not certain (no loader that says it, or another number)."""
    combined: Any = trainer.fit_loop._combined_loader
    loaders = combined.flattened if combined is not None else []
    size = getattr(loaders[0], "batch_size", None) if len(loaders) == 1 else None
    tensors = list(_tensors(batch))
    return size if isinstance(size, int) and tensors and all(len(each) == size for each in tensors) else None


def _tensors(batch: Any) -> Iterator[torch.Tensor]:
    """The tensors of a batch, those of no dimension left out."""
    if isinstance(batch, torch.Tensor):
        if batch.dim():
            yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from _tensors(value)


def averages_over_ranks(trainer: Trainer) -> bool:
    """Whether gradients are averaged over processes of which each has the whole model."""
    return process_count(trainer) > 1 and isinstance(trainer.model, torch.nn.parallel.DistributedDataParallel)


def hidden_gradients(trainer: Trainer) -> str:
    """The strategy that keeps gradients where they cannot be read whole; empty if they can."""
    names = [kind.__name__ for kind in type(trainer.strategy).__mro__]
    return names[0] if any(word in name for name in names for word in ("FSDPStrategy", "DeepSpeed")) else ""


# Evaluation.

STAGES = {"sanity_check": "validation", "validate": "validation", "test": "test", "predict": "predict"}
"""What the hooks and steps of a stage are called after."""


def is_overridden(module: LightningModule, hook: str) -> bool:
    """Whether the user's module has a hook of its own."""
    return getattr(type(module), hook, None) is not getattr(LightningModule, hook, None)


def steps(module: LightningModule, step: str, hook: str) -> str:
    """What of the user's module runs between a callback's hooks of a batch: its step, and its own hook before that."""
    return f"{step} or {hook}" if is_overridden(module, hook) else step


def is_sharded(trainer: Trainer) -> bool:
    """Whether the weights are spread over the processes, so that no process can run the model by itself."""
    return any(name in type(trainer.strategy).__name__ for name in ("FSDP", "DeepSpeed", "ModelParallel"))


def evaluation_batches(trainer: Trainer, loader: int) -> int | None:
    """Batches of a loader of the evaluation that is running; None if unknown."""
    loop: Any = _evaluation_loop(trainer)
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
    combined: Any = getattr(_evaluation_loop(trainer), "_combined_loader", None)
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
    combined: Any = getattr(_evaluation_loop(trainer), "_combined_loader", None)
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


@contextlib.contextmanager
def without_loggers(trainer: Trainer) -> Iterator[None]:
    """Within it the Trainer's loggers are such that write nothing, and a wish to stop is forgotten."""
    package = sys.modules[LightningModule.__module__.partition(".core")[0] + ".loggers.logger"]
    loggers, stopping = trainer.loggers, trainer.should_stop
    trainer.loggers = [package.DummyLogger() for _ in loggers]
    try:
        yield
    finally:
        trainer.loggers, trainer.should_stop = loggers, stopping


def loggers_of(modules: Iterable[nn.Module]) -> list[Any]:
    """The loggers that modules hold by themselves, among their attributes."""
    packages = (sys.modules.get(name) for name in ("lightning.fabric.loggers", "lightning_fabric.loggers"))
    kinds = tuple(package.Logger for package in packages if package is not None)
    held = (value for module in modules for value in vars(module).values() if isinstance(value, kinds))
    return list({id(logger): logger for logger in held}.values())


def _evaluation_loop(trainer: Trainer) -> Any:
    if trainer.state.fn == "fit":
        return trainer.fit_loop.epoch_loop.val_loop
    return {"validate": trainer.validate_loop, "test": trainer.test_loop, "predict": trainer.predict_loop}.get(
        str(trainer.state.fn.value) if trainer.state.fn is not None else ""
    )


# What a validation logs.


@dataclass(frozen=True)
class Logged:
    """What has been logged under one name so far, in the validation that is running.

    Attributes:
        name: As in ``trainer.callback_metrics``.
        hook: What logged it, such as ``"validation_step"``.
        loader: The index of the loader it belongs to; 0 if there is one.
        reduction: ``"mean"``, ``"sum"``, ``"min"``, ``"max"``, or ``"metric"`` for an object of torchmetrics.
        total: The running sum of values times weights (or their sum, least or largest), on its device.
        weight: The running sum of weights, which are the sizes of the batches; None where there are none.
        metric: The object of torchmetrics.
    """

    name: str
    hook: str
    loader: int
    reduction: str
    total: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    metric: Any = None


def logged(trainer: Trainer) -> list[Logged]:
    """What the validation that is running has logged so far for its end. Waits for no device."""
    return _logged(_evaluation_loop(trainer)._results)


def _logged(results: Any) -> list[Logged]:
    found: list[Logged] = []
    for each in results.values():
        meta = each.meta
        if each.has_reset or not meta.on_epoch:
            continue
        apart = meta.add_dataloader_idx and meta.dataloader_idx is not None
        name = f"{meta.name}/dataloader_idx_{meta.dataloader_idx}" if apart else str(meta.name)
        common = (name, str(meta.fx).partition(".")[0], int(meta.dataloader_idx or 0))
        if not each.is_tensor:
            found.append(Logged(*common, "metric", metric=each.value))
        elif each.value.numel() == 1:
            kinds = {"mean": meta.is_mean_reduction, "sum": meta.is_sum_reduction, "max": meta.is_max_reduction}
            reduction = next((kind for kind, holds in kinds.items() if holds), "min")
            weight = each.cumulated_batch_size if meta.is_mean_reduction else None
            found.append(Logged(*common, reduction, each.value, weight))
    return found


class Apart:
    """The user's ``validation_step`` run by us, with what it logs kept apart from the validation's own values."""

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self._trainer, self._module, self._loop = trainer, module, _evaluation_loop(trainer)
        self.fresh()

    def fresh(self) -> None:
        """Forget what was logged."""
        self._results = self._loop._results = _quiet(type(self._loop._results))(training=False)
        self._count = 0

    def moved(self, batch: Any, loader: int) -> Any:
        """A batch on the device, as the hooks of the module and the data module make it."""
        batch = self._trainer.precision_plugin.convert_input(batch)
        batch = self._module._on_before_batch_transfer(batch, dataloader_idx=loader)
        return self._trainer.strategy.batch_to_device(batch, dataloader_idx=loader)

    def step(self, batch: Any, loader: int) -> Any:
        """One call, for a batch that is on the device; gives what the step returns."""
        trainer, module, loop, results = self._trainer, self._module, self._loop, self._results
        index = loader if loop._is_sequential and loop.num_dataloaders > 1 else None
        arguments = loop._build_step_args_from_hook_kwargs(
            loop._build_kwargs(batch, self._count, index), "validation_step"
        )
        results.batch, results.batch_size, results.dataloader_idx = batch, None, index
        trainer._logger_connector._current_fx = module._current_fx_name = "validation_step"
        try:
            with evaluation_context(trainer):
                return module.validation_step(*arguments)
        finally:
            self._count += 1
            results.batch = results.batch_size = None

    def logged(self) -> list[Logged]:
        """What was logged since the last `fresh`."""
        return _logged(self._results)


@contextlib.contextmanager
def logging_apart(trainer: Trainer, module: LightningModule) -> Iterator[Apart]:
    """Within it ``validation_step`` can be run again; what the validation has logged is as it was afterwards."""
    loop, connector = _evaluation_loop(trainer), trainer._logger_connector
    results, current, name = loop._results, connector._current_fx, module._current_fx_name
    try:
        yield Apart(trainer, module)
    finally:
        loop._results, connector._current_fx, module._current_fx_name = results, current, name


@cache
def _quiet(kind: Any) -> Any:
    """Lightning's record of logged values, but one that exchanges nothing with other processes."""
    if getattr(kind, "exchanges_nothing", False):
        return kind

    class Quiet(kind):
        exchanges_nothing = True

        def log(self, *arguments: Any, **options: Any) -> None:
            super().log(*arguments, **{**options, "sync_dist": False})

    return Quiet


def takes_an_iterator(trainer: Trainer) -> bool:
    """Whether the module's ``validation_step`` is given the iterator of the loader and not a batch."""
    return "dataloader_iter" in inspect.signature(trainer.lightning_module.validation_step).parameters


def validation_loaders(trainer: Trainer) -> list[Any] | None:
    """The loaders of the validation that is running; None if each batch is made of several loaders' batches."""
    loop: Any = _evaluation_loop(trainer)
    if loop is None or loop._combined_loader is None:
        return []
    loaders = list(loop._combined_loader.flattened)
    return loaders if loop._is_sequential or len(loaders) == 1 else None


def training_modes(trainer: Trainer) -> dict[str, bool]:
    """Whether each module was in training mode before the validation that is running, by its path."""
    return dict(_evaluation_loop(trainer)._module_mode.mode)


def publish(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Give values to those who watch a metric, such as ``EarlyStopping`` and ``ModelCheckpoint``."""
    metrics = trainer._logger_connector._callback_metrics
    metrics.update({name: torch.tensor(value, device=trainer.strategy.root_device) for name, value in values.items()})


def monitored(trainer: Trainer) -> dict[str, str]:
    """What callbacks watch, and whether it shall be ``"min"`` or ``"max"``."""
    found: dict[str, str] = {}
    for each in _callbacks(trainer):
        name, mode = getattr(each, "monitor", None), getattr(each, "mode", None)
        if isinstance(name, str) and mode in ("min", "max"):
            found.setdefault(name, mode)
    return found


# Training data.


def training_loaders(trainer: Trainer) -> list[tuple[Any, float]]:
    """The training loaders as Lightning made them, and how many batches of each an epoch takes at most."""
    combined: Any = trainer.fit_loop._combined_loader
    if combined is None:
        return []
    limits = combined.limits or [math.inf] * len(combined.flattened)
    most = min(limits) if combined._mode == "min_size" else max(limits)
    return [(loader, most) for loader in combined.flattened]


def users_sampler(sampler: Any) -> Any:
    """What Lightning has wrapped so that each process gets its part; itself if nothing is."""
    return getattr(getattr(sampler, "dataset", None), "_sampler", sampler)


def shard(trainer: Trainer) -> tuple[int, int]:
    """Which part of the data is this process's, from 0, and how many parts there are."""
    parts = trainer.distributed_sampler_kwargs or {}
    return int(parts.get("rank", trainer.global_rank)), int(parts.get("num_replicas", trainer.world_size))


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
