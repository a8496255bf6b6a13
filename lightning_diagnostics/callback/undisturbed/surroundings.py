"""What a step may change besides the modules that run: data, optimizers and schedulers, classes and Python modules."""

import io
import random
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from typing_extensions import override

from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.callback.undisturbed.errors import CannotRestoreError
from lightning_diagnostics.callback.undisturbed.kept import (
    DEPTH,
    LONG,
    SMALL,
    Kept,
    small,
)
from lightning_diagnostics.callback.undisturbed.things import (
    SCALARS,
    Restore,
    all_of,
    is_of_a_program,
    is_program,
    is_users,
    nothing,
    parts,
)

_CONTAINERS = (list, tuple, dict, set, frozenset, deque, bytearray)
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_PLAIN = (type(None), *SCALARS, np.generic, *_CONTAINERS, *_GENERATORS)
_OF_A_LOADER = ("dataset", "sampler", "batch_sampler", "generator", "collate_fn")
_MISSING = object()


class Data(Kept):
    """The small state of data: neither large tensors nor large arrays nor long containers are copied."""

    what = "the data"

    @override
    def tensors(self, values: list[Tensor]) -> Restore:
        return super().tensors([each for each in values if small(each)])

    @override
    def array(self, value: Any) -> Restore:
        return super().array(value) if value.nbytes <= SMALL else nothing

    @override
    def contents(self, value: Any, depth: int = DEPTH) -> Restore:
        if isinstance(value, DataLoader):  # its iterator may be in use
            return all_of([self.contents(getattr(value, name, None), depth - 1) for name in _OF_A_LOADER])
        return super().contents(value, depth)

    @override
    def goes_into(self, value: Any) -> bool:
        if parts(value) is not None or isinstance(value, Dataset | Sampler):
            return True
        return hasattr(type(value), "train_dataloader") or is_users(value)

    @override
    def too_many(self) -> Restore:
        return nothing

    @override
    def iterator(self, value: Any) -> Restore:
        return nothing if isinstance(value, io.IOBase) else super().iterator(value)

    @override
    def database(self, value: Any) -> Restore:
        return nothing  # it is read from

    @override
    def container(self, value: Any, depth: int) -> Restore:
        return super().container(value, depth) if len(value) <= LONG else nothing


class _Plain(Data):
    """Plain things and what they hold that is plain, too."""

    what = "the program"

    @override
    def goes_into(self, value: Any) -> bool:
        return False

    @override
    def module(self, module: nn.Module) -> Restore:
        return nothing

    @override
    def optimizer(self, value: Any) -> Restore:
        return nothing

    @override
    def iterator(self, value: Any) -> Restore:
        return nothing


def generators(trainer: Trainer, kept: Kept) -> Restore:
    """What puts the process's generators of random numbers back."""
    device = trainer.strategy.root_device
    restores = [
        kept.generator(torch.get_rng_state, torch.set_rng_state),
        kept.generator(np.random.get_state, np.random.set_state),
        kept.generator(random.getstate, random.setstate),
    ]
    if device.type == "cuda":
        restores.append(
            kept.generator(lambda: torch.cuda.get_rng_state(device), lambda s: torch.cuda.set_rng_state(s, device))
        )
    elif device.type == "mps":
        restores.append(kept.generator(torch.mps.get_rng_state, torch.mps.set_rng_state))
    return all_of(restores)


def schedules(trainer: Trainer, kept: Kept) -> Restore:
    """What puts the options of the optimizers and the state of the schedulers back."""
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    return all_of([kept.contents(each) for each in (*trainer.optimizers, *schedulers)])


def programs(pl_module: LightningModule, modules: Iterable[nn.Module], kept: Data) -> Restore:
    """What puts plain values back: of the users' classes of modules, and of the Python modules with that of the whole.

    A library's are left alone, and so is what is not plain: functions, classes, modules, tensors, objects. While other
    threads of the user's are at work nothing is put back: what they have written meanwhile would be lost.
    """
    if any(map(_is_at_work, threading.enumerate())):
        return nothing
    plain = _Plain()
    plain.share(kept)
    kinds = dict.fromkeys(kind for module in modules for kind in type(module).__mro__ if is_of_a_program(kind))
    own = {kind.__module__ for kind in type(pl_module).__mro__ if kind in kinds}
    homes = [sys.modules[name] for name in sorted(own)]
    return all_of([_plain_values(owner, plain) for owner in (*kinds, *homes)])


def _plain_values(owner: Any, plain: _Plain) -> Restore:
    """What puts the plain values of a class or a Python module back."""
    known = set(vars(owner))
    old = {name: value for name, value in vars(owner).items() if _is_plain(name, value)}
    contents = all_of(_tolerant(plain, value) for value in old.values())

    def restore() -> None:
        for name, value in old.items():
            if vars(owner).get(name, _MISSING) is not value:
                setattr(owner, name, value)
        for name in [name for name, value in vars(owner).items() if name not in known and _is_plain(name, value)]:
            delattr(owner, name)
        contents()

    return restore


def _tolerant(plain: _Plain, value: Any) -> Restore:
    try:
        return plain.contents(value)
    except CannotRestoreError:  # a container that does not let itself be looked at is left alone
        return nothing


def _is_plain(name: str, value: Any) -> bool:
    return not name.startswith("__") and isinstance(value, _PLAIN)  # such are Python's and the compiler's


def _is_at_work(thread: threading.Thread) -> bool:
    """Whether another thread runs a function of the user's, or will when its time has come."""
    if thread is threading.current_thread() or thread is threading.main_thread():
        return False
    asked = (type(thread), getattr(thread, "_target", None), getattr(thread, "function", None))  # that of a timer
    if any(map(is_of_a_program, asked)):
        return True
    frame = sys._current_frames().get(thread.ident or 0)
    return any(is_program(each.f_globals.get("__name__", "")) for each, _ in traceback.walk_stack(frame))  # of a pool
