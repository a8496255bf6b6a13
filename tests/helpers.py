"""The registered callbacks as test parameters, tiny real runs, and what hooks and modes are alive."""

import io
import logging
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from inspect import signature
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from lightning_diagnostics import Finding, Severity, catalogue
from lightning_diagnostics.callback import DiagnosticCallback
from lightning_diagnostics.findings import limit_table
from tests.patients import BATCHES, LIMITS, loader

LOGGER = logging.getLogger("lightning_diagnostics")


@dataclass(frozen=True, eq=False)  # each is itself, whatever its arguments hold
class Member:
    """A registered callback with arguments to construct it with."""

    name: str
    kind: type[DiagnosticCallback]
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def room(self) -> str:
        """The folder of the diagnostic."""
        return self.kind.__module__.split(".")[-2]

    @property
    def acts(self) -> bool:
        """Whether it acts on the run, as it was told."""
        return self.arguments == AS_TOLD.get(self.name)

    def __call__(self, *, kind: type[Any] | None = None, **more: Any) -> Any:
        """A new callback, for short runs; ``strict``, and watching only, unless told otherwise."""
        limits = {key: LIMITS[key] for key in limit_table(self.kind.default_limits) if key in LIMITS}
        ours = {"strict": True, "limits": limits, **self.kind.only_watching, **needs(self.name)}
        return (kind or self.kind)(**{**ours, **self.arguments, **more})

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{key}={value}" for key, value in self.arguments.items())])


_FOLDERS = tempfile.TemporaryDirectory(prefix="sweeps")  # gone when the process ends


def needs(name: str) -> dict[str, Any]:
    """What a callback must be told to have something to do in these runs, which have no logger and no checkpoints."""
    if name != "ExpectedValidationPerformance":
        return {}
    return {"monitor": "val_loss", "folder": tempfile.mkdtemp(dir=_FOLDERS.name), "pool_folder": True}


AS_TOLD: dict[str, dict[str, Any]] = {"WarmupCooldownScheduler": {"warmup": 3, "cooldown": 0.3}}
"""Arguments with which a callback acts on the run: then all contracts hold but those of an unchanged run."""


def _members() -> Iterator[Member]:
    for name, kind in catalogue.callbacks().items():
        yield Member(name, kind)
        if "every_n_train_steps" in signature(kind).parameters:
            yield Member(name, kind, {"every_n_train_steps": 1})
        if name in AS_TOLD:
            yield Member(name, kind, AS_TOLD[name])


MEMBERS = tuple(_members())
KINDS = tuple(member for member in MEMBERS if not member.arguments)
"""Each callback once, with its defaults, watching only."""
AT_WORK = tuple(member for member in MEMBERS if member in KINDS or member.acts)
"""Each callback once, and once more if it can be told to act."""


def _slow_but(some: tuple[Member, ...]) -> pytest.MarkDecorator:
    """All members, those but some at the slow level."""
    every = [pytest.param(member, marks=() if member in some else pytest.mark.slow) for member in MEMBERS]
    return pytest.mark.parametrize("member", every, ids=str)


every_member_slowly = _slow_but(KINDS)
every_member_slowly_but_at_work = _slow_but(AT_WORK)
every_member_that_watches = pytest.mark.parametrize("member", [m for m in MEMBERS if not m.acts], ids=str)
every_kind = pytest.mark.parametrize("member", KINDS, ids=str)
every_kind_at_work = pytest.mark.parametrize("member", AT_WORK, ids=str)


def trainer(*callbacks: Any, **settings: Any) -> Trainer:
    """A quiet Trainer on the CPU for two epochs, without a logger and without checkpoints unless asked for."""
    quiet = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return Trainer(callbacks=list(callbacks), **{**quiet, **settings})


def fit(run: Trainer, module: LightningModule, *, batches: int = BATCHES, **more: Any) -> Trainer:
    """Train and validate on short loaders that draw from the global generators; gives the Trainer."""
    run.fit(module, loader(batches), loader(2, shuffle=False), **more)
    return run


def accusations(callback: DiagnosticCallback) -> list[Finding]:
    """The findings that are more than a note."""
    return [finding for finding in callback.findings if finding.severity > Severity.INFO]


def diagnosed(findings: list[Finding]) -> set[tuple[str, str | None, int]]:
    """Code, place and first step of what is more than a note."""
    return {(f.code, f.where, f.first_step) for f in findings if f.severity > Severity.INFO}


@contextmanager
def heard() -> Iterator[list[logging.LogRecord]]:
    """The records of our logger (a handler of its own, since a forked child has no other way to bring them home)."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = records.append  # type: ignore[method-assign]  # the shortest handler that keeps records
    level = LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        yield records
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)


def held(diagnostic: Any) -> list[str]:
    """The tensors, modules, optimizers and Trainers that would be pickled with an object, by kind."""
    found: list[str] = []

    class Finder(pickle.Pickler):
        def persistent_id(self, value: Any) -> None:
            if isinstance(value, torch.Tensor | nn.Module | Trainer | torch.optim.Optimizer):
                found.append(type(value).__name__)

    Finder(io.BytesIO()).dump(diagnostic)
    return found


def alive(module: LightningModule) -> set[str]:
    """Every hook and mode that is alive now: of the module, its tensors and optimizers, and of the process."""
    return {*_module_hooks(module), *_tensor_hooks(module), *_optimizer_hooks(module), *_global_hooks(), *_modes()}


def _module_hooks(module: nn.Module) -> Iterator[str]:
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name.endswith("_hooks") and value:
                yield f"{path or 'the module'}.{name}"


def _tensor_hooks(module: nn.Module) -> Iterator[str]:
    for path, tensor in (*module.named_parameters(), *module.named_buffers()):
        for name in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            if getattr(tensor, name, None):
                yield f"{path}.{name}"


def _optimizer_hooks(module: LightningModule) -> Iterator[str]:
    attached = getattr(module, "_trainer", None)
    for index, optimizer in enumerate(attached.optimizers if attached is not None else ()):
        for name, value in vars(optimizer).items():
            if "step_p" in name and name.endswith("_hooks") and value:
                yield f"optimizer {index}.{name}"


def _global_hooks() -> Iterator[str]:
    # torch.optim deletes its submodule's name after importing it
    for home in map(import_module, ("torch.nn.modules.module", "torch.optim.optimizer")):
        for name, value in vars(home).items():
            if name.startswith("_global_") and name.endswith("_hooks") and value:
                yield name


def _modes() -> Iterator[str]:
    yield from (f"function mode {type(mode).__name__}" for mode in _get_current_function_mode_stack())
    yield from (f"dispatch mode {type(mode).__name__}" for mode in _get_current_dispatch_mode_stack())
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
        yield "saved-tensors hooks"
    if torch.is_anomaly_enabled():
        yield "anomaly mode"
