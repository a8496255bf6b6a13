"""The loggers, and where they write."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from lightning_diagnostics.callback.namespaces import LightningModule, Trainer


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


def versions_folder(trainer: Trainer) -> str | None:
    """The folder in which the first logger that has a folder keeps its versions. To be called on rank zero only."""
    own = run_folder(trainer)
    for logger in trainer.loggers:
        if getattr(logger, "log_dir", None) == own and isinstance(getattr(logger, "root_dir", None), str):
            return str(logger.root_dir)  # pyright: ignore[reportAttributeAccessIssue]  # of TensorBoard's and of CSV's
    return None if own is None else own.rstrip("/").rpartition("/")[0] or "."


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
