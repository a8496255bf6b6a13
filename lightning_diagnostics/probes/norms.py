"""Which modules normalise with statistics or draw noise while training, and what they do when they are called."""

import inspect
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy
from typing_extensions import override

from lightning_diagnostics.probes.kinds import COMPILED, ROOT
from lightning_diagnostics.probes.names import source
from lightning_diagnostics.probes.readings import plain_tensor
from lightning_diagnostics.probes.watch import Watch

_BATCH, _INSTANCE = nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm
_SCRIPTED = frozenset(f"{sync}BatchNorm{d}" for sync in ("", "Sync") for d in ("", "1d", "2d", "3d"))


def kind_of(module: nn.Module) -> str:
    """What a module is called in a message, a scripted one too."""
    return str(getattr(module, "original_name", None) or type(module).__name__)


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises by the batch while training.

    Batch norms of every kind, scripted ones too, instance norms that track statistics, and modules of the user that
    keep a ``running_mean`` and a ``running_var``.
    """
    if isinstance(module, _BATCH):
        return True
    if isinstance(module, torch.jit.ScriptModule):
        return kind_of(module) in _SCRIPTED
    buffers = module._buffers
    return buffers.get("running_mean") is not None and buffers.get("running_var") is not None


def running_statistics(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """The running mean and variance of a norm; None if it has none, or none yet (lazy)."""
    mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
    if not isinstance(mean, Tensor) or not isinstance(variance, Tensor) or is_lazy(mean):
        return None
    return (mean, variance) if mean.dim() == 1 and mean.shape == variance.shape else None


def obeys_mode(module: nn.Module) -> bool:
    """Whether ``training`` is known to decide what a norm does: a class of the user may not ask it."""
    return isinstance(module, torch.jit.ScriptModule | _BATCH | _INSTANCE) and not by_design(module)


def by_design(module: nn.Module) -> bool:
    """Whether a norm can but normalise by the batch, having no running statistics."""
    return getattr(module, "running_mean", None) is None and not isinstance(module, _INSTANCE)


def is_random(module: nn.Module) -> bool:
    """Whether a module draws noise while training: dropout of every kind, and modules that have it inside."""
    if isinstance(module, nn.RNNBase):
        return module.dropout > 0 and module.num_layers > 1
    if isinstance(module, nn.MultiheadAttention):
        return module.dropout > 0
    if not _may_draw(module) or any(True for _ in module.children()):
        return False
    chances = (getattr(module, name, None) for name in ("p", "drop_prob", "prob", "rate"))
    return next((each for each in chances if isinstance(each, int | float)), None) != 0


def _may_draw(module: nn.Module) -> bool:
    """Whether it is of a kind that draws noise, if perhaps with the chance zero."""
    if isinstance(module, torch.jit.ScriptModule):
        return "dropout" in kind_of(module).lower()
    kind = type(module)
    if kind not in _noisy:
        known = issubclass(kind, nn.RNNBase | nn.MultiheadAttention | nn.modules.dropout._DropoutNd)
        _noisy[kind] = known or "dropout" in kind.__name__.lower() or kind.__name__ in _PATHS
    return _noisy[kind]


_noisy: weakref.WeakKeyDictionary[type[nn.Module], bool] = weakref.WeakKeyDictionary()  # classes come and go
_PATHS = frozenset({"DropPath", "StochasticDepth", "DropBlock", "DropBlock2d", "DropBlock3d"})


def paths(root: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model by path, `ROOT` for itself, without what ``torch.compile`` puts in between.

    Scripted modules that were frozen (``torch.jit.freeze``) are left out: they have no mode any more.
    """
    found: dict[str, nn.Module] = {}
    for path, module in root.named_modules():
        if hasattr(module, "training"):
            found.setdefault(".".join(part for part in path.split(".") if part != COMPILED) or ROOT, module)
    return found


# Calls.


@dataclass(eq=False)
class NormCalls:
    """What the calls of one norm came to in a pass.

    Attributes:
        path: Of the module, or of the module that makes the call, a slash and the function.
        kind: The class, or the function.
        registered: Whether it is a module of the model.
        by_batch: Calls that normalised by the statistics of their batch.
        by_running: Calls that normalised by running statistics.
        differentiated: Calls while gradients were enabled.
        designed: Whether it can but normalise by the batch, having no running statistics.
        hard_coded: Whether a call normalised by the batch although the module is in evaluation mode.
        source: File and line, of a function.
        by_mode: Whether the module that calls the function is in training mode, which it may have asked.
        rows: The smallest batch.
        moments: Of each call by running statistics: positions, mean and mean squared difference from it, by channel.
    """

    path: str
    kind: str
    registered: bool
    by_batch: int = 0
    by_running: int = 0
    differentiated: int = 0
    designed: bool = False
    hard_coded: bool = False
    source: str = ""
    by_mode: bool = False
    rows: int | None = None
    moments: list[tuple[int, Tensor, Tensor]] = field(default_factory=list[tuple[int, Tensor, Tensor]])

    @property
    def calls(self) -> int:
        """All of them."""
        return self.by_batch + self.by_running

    def see_rows(self, inputs: Tensor) -> None:
        """Take up the length of a batch."""
        self.rows = inputs.shape[0] if self.rows is None else min(self.rows, inputs.shape[0])


@dataclass(eq=False)
class NoiseCalls:
    """A dropout that drew noise.

    Attributes:
        path: Of the module, or of the module that makes the call, a slash and the function.
        kind: The class, or the function.
        registered: Whether it is a module of the model.
        source: File and line, of a function.
        by_mode: Whether the module that calls the function is in training mode, which it may have asked.
    """

    path: str
    kind: str
    registered: bool
    source: str = ""
    by_mode: bool = False


class NormWatch(Watch):
    """Sees the norms and dropouts of a pass, and whether they do what is done in training.

    Args:
        names: See `Watch`.
        mend: Called with a module that is in training mode before it runs, if it is to be put right; in evaluation.
    """

    def __init__(self, names: dict[str, str], mend: Callable[[nn.Module], None] | None = None) -> None:
        super().__init__(names)
        self._mend = mend
        self.moments = False
        """Whether the statistics of the inputs are taken."""

    @override
    def _reset(self) -> None:
        super()._reset()
        self.norms: dict[str, NormCalls] = {}
        self.noises: dict[str, NoiseCalls] = {}
        self.scripted: set[str] = set()
        """Scripted modules that were called; what is called inside of them is not seen."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.names,)  # a copy has no part in the hooks and the model of the original

    @override
    def wants(self, function: Callable[..., Any]) -> bool:
        return function in _FUNCTIONS

    @override
    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        scripted = isinstance(module, torch.jit.ScriptModule)  # nothing inside of it is seen
        if scripted:
            self.scripted.add(self._names.path(module, self._stack))
        elif is_norm(module):
            self._guard(self._see_norm, module, args)
        elif module.training and is_random(module):
            path = self._names.path(module, self._stack)
            self.noises.setdefault(path, NoiseCalls(path, kind_of(module), self._names.knows(module)))
        if self._mend is not None and getattr(module, "training", False):
            self._mend(module)

    @override
    def see_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        self._guard(self._see_function, function, args, kwargs)

    def _see_norm(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        path = self._names.path(module, self._stack)
        calls = self.norms.setdefault(path, NormCalls(path, kind_of(module), self._names.knows(module)))
        calls.designed = by_design(module)
        by_batch = calls.designed or (module.training and obeys_mode(module))
        self._count(calls, by_batch)
        if args and isinstance(args[0], Tensor):
            self._see_inputs(module, calls, args[0], by_batch)

    @override
    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        if args or not isinstance(kwargs.get("input"), Tensor) or not is_norm(module):
            return
        calls = self.norms.get(self._names.path(module, self._stack))
        if calls is not None:
            by_batch = calls.designed or (module.training and obeys_mode(module))
            self._guard(self._see_inputs, module, calls, kwargs["input"], by_batch)

    def _see_inputs(self, module: nn.Module, calls: NormCalls, given: Tensor, by_batch: bool) -> None:
        inputs = plain_tensor(given)
        if inputs is None or inputs.dim() < 2:
            return
        calls.see_rows(inputs)
        running = running_statistics(module)
        fits = running is not None and inputs.is_floating_point() and inputs.shape[1] == running[0].shape[0]
        if self.moments and fits and not by_batch and inputs.numel():
            calls.moments.append(_moments(inputs))

    def _count(self, calls: NormCalls, by_batch: bool) -> None:
        calls.by_batch += by_batch
        calls.by_running += not by_batch
        calls.differentiated += torch.is_grad_enabled()

    def _see_function(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        inside = self._stack[-1] if self._stack else None
        path = self._names.path(inside, self._stack) if inside is not None else ROOT
        if function in _NORMS:
            self._see_norm_function(function, args, kwargs, inside, path)
        elif not (inside is not None and inside.training and is_random(inside)) and _draws(function, args, kwargs):
            line, place = source()
            name = self._names.site(f"{path}/{function.__name__}", place, "", functional=True)
            self.noises.setdefault(name, NoiseCalls(name, function.__name__, True, line, self._in_training(inside)))

    def _in_training(self, inside: nn.Module | None) -> bool:
        """Whether the module that calls a function is in training mode; outside of any, the model."""
        module = self._names.root if inside is None else inside
        return module is not None and module.training

    def _see_norm_function(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        inside: nn.Module | None,
        path: str,
    ) -> None:
        given = _bound(function, args, kwargs)
        by_batch, stats = bool(given.get("training")), given.get("running_mean") is not None
        if inside is not None and is_norm(inside):
            calls = self.norms[path]
            if by_batch and not inside.training and not calls.designed:
                calls.hard_coded, calls.source = True, source()[0]
                calls.by_running, calls.by_batch = calls.by_running - 1, calls.by_batch + 1
            return
        line, place = source()
        name = self._names.owner(given.get("running_mean"))  # of the module whose statistics are used
        if name is None:
            name = self._names.site(f"{path}/{function.__name__}", place, "", functional=True)
        calls = self.norms.setdefault(name, NormCalls(name, function.__name__, True))
        calls.source = line
        calls.designed = by_batch and not stats
        calls.hard_coded = calls.hard_coded or (by_batch and stats)
        calls.by_mode = self._in_training(inside)
        self._count(calls, by_batch)
        inputs = plain_tensor(given["input"]) if isinstance(given.get("input"), Tensor) else None
        if inputs is not None and inputs.dim() > 1:
            calls.see_rows(inputs)


def _moments(inputs: Tensor) -> tuple[int, Tensor, Tensor]:
    """Positions, mean and mean squared difference from it, by channel: what batch norm computes while training."""
    inputs = inputs if inputs.dtype == torch.float64 else inputs.float()
    others = [axis for axis in range(inputs.dim()) if axis != 1]
    mean = inputs.mean(others)
    centred = inputs - mean.view(-1, *[1] * (inputs.dim() - 2))
    return inputs.numel() // inputs.shape[1], mean, centred.square_().mean(others)


# Functions.

_NORMS: dict[Callable[..., Any], tuple[str, ...]] = {
    functional.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training"),
    torch.batch_norm: ("input", "weight", "bias", "running_mean", "running_var", "training"),
}
_NOISES = frozenset(
    getattr(home, name)
    for home in (functional, torch)
    for name in (
        *("dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "alpha_dropout_"),
        *("feature_dropout", "feature_dropout_", "feature_alpha_dropout", "feature_alpha_dropout_"),
    )
    if callable(getattr(home, name, None))
)
_ATTENTION = functional.scaled_dot_product_attention
_FUNCTIONS = frozenset({*_NORMS, *_NOISES, _ATTENTION})


def _bound(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(_NORMS[function], args, strict=False)), **kwargs}


def _draws(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of dropout draws noise."""
    if function is _ATTENTION:
        chance = args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)
        return bool(chance)
    chance = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    training = args[2] if len(args) > 2 else kwargs.get("train", kwargs.get("training", _default(function)))
    return bool(chance) and bool(training)


def _default(function: Callable[..., Any]) -> bool:
    """What ``training`` is if it is not given: True for ``dropout``, False for ``alpha_dropout``."""
    try:
        return bool(inspect.signature(function).parameters["training"].default)
    except (KeyError, ValueError):
        return False
