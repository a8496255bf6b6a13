"""What every watch of a forward pass has in common: hooks of the process, a function mode, faults that stay inside."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode

from lightning_diagnostics.probes.names import Names


class Watch:
    """Sees the modules, and if wanted the functions, that are called while it is switched on.

    Modules are seen by two hooks of the whole process, so that nothing is on the user's modules and a copy of them
    carries nothing; calls by a function mode. Neither raises into the user's step: a fault is raised by `stop`.

    Args:
        names: The names given so far, which are kept over a resume; taken up and added to.
    """

    def __init__(self, names: dict[str, str]) -> None:
        self._names = Names(names)
        self._handles: list[Any] = []
        self._mode: _CallMode | None = None
        self._reset()

    def _reset(self) -> None:
        """Forget the pass."""
        self._stack: list[nn.Module] = []
        self._aside: nn.Module | None = None
        self._faults: list[Exception] = []

    # What a watch of something implements.

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A module is about to run."""

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """A module has run; it is off the stack already."""

    def wants(self, function: Callable[..., Any]) -> bool:
        """Whether calls of a function are of interest (asked of every call)."""
        return False

    def see_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """A function of interest was called."""

    # What it has.

    def start(self, module: nn.Module, *, functional: bool, running: Callable[[], bool]) -> None:
        """Watch until `stop`, or until ``running`` says no.

        Args:
            module: The model; names are paths in it.
            functional: Whether calls are watched too.
            running: Asked in every hook, for a run that broke off without a word.
        """
        self.stop()
        self._names.begin(module)

        stack = self._stack

        def before(module: nn.Module, args: Any) -> None:
            if torch.compiler.is_compiling() or torch._C._current_graph_task_id() != -1:
                return  # a compiler's look, or the recomputation of a checkpoint
            try:
                if not stack and not running():  # asked at the outermost modules only: it takes longer than the rest
                    self._unhook()
                    return
                stack.append(module)
                if isinstance(module, _FAST_PATHS) and _is_frozen(module):
                    self._step_aside(module)
                self._enter(module, args)
            except Exception as fault:  # noqa: BLE001  # see the class
                self._fail(fault)

        def after(module: nn.Module, args: Any, *rest: Any) -> None:
            kwargs, output = rest if len(rest) == 2 else ({}, None)  # torch leaves the first out where forward raised
            if torch.compiler.is_compiling() or not stack or stack[-1] is not module:  # not seen to begin
                return
            stack.pop()
            try:
                if self._aside is module:
                    self._step_back()
                self._leave(module, args, kwargs, output)
            except Exception as fault:  # noqa: BLE001  # see the class
                self._fail(fault)

        hooks = nn.modules.module
        self._handles = [
            hooks.register_module_forward_pre_hook(before),
            hooks.register_module_forward_hook(after, with_kwargs=True, always_call=True),
        ]
        if functional:
            self._mode = _CallMode(self)
            self._mode.__enter__()

    def unhook(self) -> None:
        """Take hooks and mode down; what was seen of the pass is still known."""
        self._unhook()
        if self._mode is not None:
            _take_down(self._mode)
            self._mode = None

    def stop(self) -> None:
        """Take hooks and mode down, forget the pass, and raise what went wrong in it."""
        self.unhook()
        faults = self._faults
        self._reset()
        self._names.end_pass()
        if faults:
            raise faults[0]

    @property
    def names(self) -> dict[str, str]:
        """The names given so far, by what tells the places apart."""
        return self._names.known

    def _step_aside(self, module: nn.Module) -> None:
        """Take the mode away while a module runs that would compute in another way under one."""
        if self._mode is not None and self._aside is None:
            self._aside = module
            _take_down(self._mode)

    def _step_back(self) -> None:
        self._aside = None
        if self._mode is not None:
            _push_mode(self._mode)

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
            with_kwargs = getattr(nn.modules.module, "_global_forward_hooks_with_kwargs", {})
            with_kwargs.pop(handle.id, None)  # which torch forgets, and takes for a hook from then on
        self._handles = []
        if self._mode is not None:
            self._mode.armed = False

    def _guard(self, act: Callable[..., None], *args: Any) -> None:
        """Act outside of every function mode, ours included; a fault ends the watch."""
        try:
            with torch._C.DisableTorchFunction():
                act(*args)
        except Exception as fault:  # noqa: BLE001  # see the class
            self._fail(fault)

    def _fail(self, fault: Exception) -> None:
        self._unhook()
        self._faults.append(fault)


class _CallMode(TorchFunctionMode):
    """Shows a `Watch` the calls of this thread."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch
        self.armed = True

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.armed and self._watch.wants(func) and not torch.compiler.is_compiling():
            self._watch.see_call(func, args, kwargs or {}, out)
        return out


def _take_down(mode: TorchFunctionMode) -> None:
    """Take a mode off the stack, wherever it lies (the user may have set one over it, e.g. a default device)."""
    if not any(each is mode for each in _get_current_function_mode_stack()):
        return
    above: list[Any] = []
    while (top := _pop_mode()) is not mode:
        above.append(top)
    for each in reversed(above):
        _push_mode(each)


# In evaluation they have a fused kernel, which is not used under a function mode and gives other numbers.
_FAST_PATHS = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)


def _is_frozen(module: nn.Module) -> bool:
    grad = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in module.parameters())
    return not module.training and not grad
