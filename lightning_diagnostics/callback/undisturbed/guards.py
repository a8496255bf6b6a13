"""Refusing, before it is done, what could not be taken back: learning, exchanging, writing to files."""

import builtins
import contextlib
import functools
import io
import os
import pathlib
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from lightning_diagnostics.callback.undisturbed.errors import ExchangeError, LearningError, WritingError

_COMPILERS = ("torch._inductor", "torch._dynamo", "torch.utils.cpp_extension", "triton", "numba")
_SYSTEMS = ("multiprocessing.util", "multiprocessing.connection")  # they have files of their own
_READERS = ("torch.utils.data",)
_DEVICES = ("/dev/", "/proc/")
_AT_ONCE = ("SIGINT", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGCHLD", "SIGABRT")  # keys, clocks, children
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def alone(*modules: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Within it, what would write to weights of the modules or wait for other processes raises before it does.

    It looks at every operation, for some microseconds each, and does not go with compiled modules.
    """
    return _Alone(*modules)


def refuse_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """What stands in the way of an optimizer."""
    raise LearningError(f"the step lets {type(optimizer).__name__} change weights")


def refuse_logs(logger: Any) -> Callable[..., None]:
    """What stands in for the ``log_metrics`` of a logger."""

    def log_metrics(*args: Any, **kwargs: Any) -> None:
        raise WritingError(getattr(logger, "save_dir", None) or type(logger).__name__, "writes to a logger of its own")

    return log_metrics


def refuse_checkpoint(filepath: Any, *args: Any, **kwargs: Any) -> None:
    """What stands in for ``trainer.save_checkpoint``."""
    raise WritingError(filepath)


@contextlib.contextmanager
def signals_later() -> Iterator[None]:
    """Within it handlers of signals wait for its end, such as the one that saves a checkpoint before a job is requeued.

    ``KeyboardInterrupt``, clocks and children do not wait. Handlers run in the main thread, and so does this.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    handlers = {
        number: handler
        for number in map(signal.Signals, signal.valid_signals() & set(signal.Signals))
        if number.name not in _AT_ONCE and callable(handler := signal.getsignal(number))
    }
    for number in handlers:
        signal.signal(number, lambda received, frame: pending.append(received))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in pending:
            signal.raise_signal(number)


class _Alone(TorchDispatchMode):
    """Raises before anything is exchanged with other processes, or written to a module's weights."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        weights = (weight for module in modules for weight in module.parameters())
        self._weights = {number for weight in weights if (number := storage(weight)) is not None}

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            raise ExchangeError(f"the step exchanges data with other processes ({func.name()})")
        if func._schema.is_mutable and any(
            storage(each) in self._weights for each in _written(func, args, kwargs or {})
        ):
            raise LearningError(f"the step writes to weights ({func.name()})")
        return func(*args, **(kwargs or {}))


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Any]:
    """The tensors that an operation writes to."""
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            yield from value if isinstance(value, list | tuple) else (value,)


def storage(value: Any) -> int | None:
    """What tells the memory of a tensor from that of others; None for what has none of its own."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or torch.nn.parameter.is_lazy(value):
        return None
    try:
        return value.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # a wrapper
        return None


@contextlib.contextmanager
def no_writing() -> Iterator[None]:
    """Within it, what would write, move or remove a file raises `WritingError`, in this thread of this process alone.

    Devices and pipes are written to as ever, and so is what a compiler keeps. Writing to a log of TensorBoard's and
    handing work to the threads and processes of ``concurrent.futures`` count, too, but for those that read data.
    """
    here, active = (os.getpid(), threading.get_ident()), True

    def check(path: Any, what: str = "writes to a file") -> None:
        if not active or here != (os.getpid(), threading.get_ident()) or not _is_file(path):
            return
        if not _runs(_COMPILERS + _SYSTEMS + (_READERS if what == _ELSEWHERE else ())):
            raise WritingError(path, what)

    with contextlib.ExitStack() as stack:
        for owner, name, guard in _ways_to_write():
            stack.enter_context(_replaced(owner, name, guard, check))
        try:
            yield
        finally:
            active = False  # somebody may have kept one of ours


_Check = Callable[..., None]
_ELSEWHERE = "starts work in another thread"
_LATE = {  # those that are imported by need
    "torch.utils.tensorboard.writer": "FileWriter",
    "tensorboardX.writer": "FileWriter",
    "concurrent.futures.thread": "ThreadPoolExecutor",
    "concurrent.futures.process": "ProcessPoolExecutor",
}


def _ways_to_write() -> Iterator[tuple[Any, str, Callable[[Any, _Check], Any]]]:
    yield builtins, "open", _opening
    yield io, "open", _opening
    accessor = getattr(pathlib, "_NormalAccessor", None)  # Python 3.10 keeps its own
    if accessor is not None:
        yield accessor, "open", lambda real, check: staticmethod(_opening(real, check))
        for name in ("unlink", "rename", "replace", "rmdir", "mkdir"):
            guard = _making if name == "mkdir" else _moving
            yield accessor, name, lambda real, check, guard=guard: staticmethod(guard(real, check))
    yield os, "open", _opening_by_flags
    yield os, "mkdir", _making  # os.makedirs calls it
    for name in ("remove", "unlink", "rename", "replace", "rmdir"):
        yield os, name, _moving
    for home, name in _LATE.items():
        kind = getattr(sys.modules.get(home), name, None)
        if kind is not None:
            yield (kind, "add_event", _logging) if name == "FileWriter" else (kind, "submit", _handing_over)
    if hasattr(torch.serialization, "_open_zipfile_writer"):  # of torch.save, which opens files by itself
        yield torch.serialization, "_open_zipfile_writer", _saving


def _opening(real: Any, check: _Check) -> Any:
    @functools.wraps(real)
    def opens(file: Any, mode: Any = "r", *args: Any, **kwargs: Any) -> Any:
        if isinstance(mode, str) and set("wax+") & set(mode):
            check(file)
        return real(file, mode, *args, **kwargs)

    return opens


def _opening_by_flags(real: Any, check: _Check) -> Any:
    @functools.wraps(real)
    def opens(path: Any, flags: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(flags, int) and flags & _WRITES:
            check(path)
        return real(path, flags, *args, **kwargs)

    return opens


def _saving(real: Any, check: _Check) -> Any:
    @functools.wraps(real)
    def opens(name_or_buffer: Any) -> Any:
        check(name_or_buffer)
        return real(name_or_buffer)

    return opens


def _making(real: Any, check: _Check) -> Any:
    @functools.wraps(real)
    def makes(path: Any, *args: Any, dir_fd: int | None = None, **kwargs: Any) -> Any:
        if dir_fd is not None or not os.path.lexists(path):
            check(path, "makes a folder")
        return real(path, *args, dir_fd=dir_fd, **kwargs)

    return makes


def _moving(real: Any, check: _Check) -> Any:
    @functools.wraps(real)
    def moves(*args: Any, **kwargs: Any) -> Any:
        path = args[0] if args else kwargs.get("path", kwargs.get("src"))
        elsewhere = any(name.endswith("dir_fd") and folder is not None for name, folder in kwargs.items())
        if isinstance(path, str | bytes | os.PathLike) and (elsewhere or os.path.lexists(path)):
            check(path, "moves or removes a file")
        return real(*args, **kwargs)

    return moves


def _logging(real: Any, check: _Check) -> Any:
    @functools.wraps(real)
    def adds(self: Any, *args: Any, **kwargs: Any) -> Any:
        check(self.get_logdir())
        return real(self, *args, **kwargs)

    return adds


def _handing_over(real: Any, check: _Check) -> Any:
    @functools.wraps(real)
    def submits(self: Any, *args: Any, **kwargs: Any) -> Any:
        check(type(self).__name__, _ELSEWHERE)
        return real(self, *args, **kwargs)

    return submits


@contextlib.contextmanager
def _replaced(owner: Any, name: str, guard: Callable[[Any, _Check], Any], check: _Check) -> Iterator[None]:
    old = vars(owner)[name]
    ours = guard(getattr(owner, name), check)
    setattr(owner, name, ours)
    try:
        yield
    finally:
        if vars(owner)[name] is ours:  # else somebody has put his own over it
            setattr(owner, name, old)


def _is_file(path: Any) -> bool:
    """Whether it is the path of a file, or of what would be one; not a pipe, a device, or a number of an open one."""
    if not isinstance(path, str | bytes | os.PathLike) or os.fsdecode(path).startswith(_DEVICES):
        return False
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, ValueError):
        return True
    return kind not in (stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFBLK)


def _runs(modules: tuple[str, ...]) -> bool:
    """Whether a Python module is at work: a compiler writes what it makes, which changes no run."""
    frame = sys._getframe()
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if isinstance(name, str) and name.startswith(modules):
            return True
        frame = frame.f_back
    return False
