"""What is an activation, as a module or as a call, and along which axis of a tensor its units lie."""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

ROOT = "self"
"""What the model itself is called, in the name of a call that it makes outside of its submodules."""

COMPILED = "_orig_mod"
"""What ``torch.compile`` puts between a module and its name."""

Family = Literal["rectifier", "smooth", "saturating", "other"]


@dataclass(frozen=True)
class Kind:
    """A kind of activation function.

    Attributes:
        name: As ``torch.nn.functional`` calls it.
        family: ``"rectifier"``: exactly zero when off. ``"smooth"``: nearly zero when off. ``"saturating"``: flat at
            both ends of its range. ``"other"``: never off and without ends.
        low: The lower end of its range, where it has one.
        high: The upper end of its range, where it has one.
    """

    name: str
    family: Family
    low: float = float("-inf")
    high: float = float("inf")


RELU = Kind("relu", "rectifier", 0.0)
_SMOOTH = {name: Kind(name, "smooth") for name in ("gelu", "silu", "mish", "hardswish")}
_OTHER = {
    name: Kind(name, "other")
    for name in (
        *("leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "softplus", "logsigmoid"),
        *("hardshrink", "softshrink", "tanhshrink", "threshold", "glu"),
    )
}
KINDS: Mapping[str, Kind] = {
    "relu": RELU,
    "relu6": Kind("relu6", "rectifier", 0.0, 6.0),
    "clamp": Kind("clamp", "rectifier", 0.0),
    "sigmoid": Kind("sigmoid", "saturating", 0.0, 1.0),
    "hardsigmoid": Kind("hardsigmoid", "saturating", 0.0, 1.0),
    "tanh": Kind("tanh", "saturating", -1.0, 1.0),
    "hardtanh": Kind("hardtanh", "saturating", -1.0, 1.0),
    "softsign": Kind("softsign", "saturating", -1.0, 1.0),
    **_SMOOTH,
    **_OTHER,
}
"""By name."""

_MODULES: dict[type[nn.Module], str] = {
    getattr(nn, kind): name
    for kind, name in (
        *(("ReLU", "relu"), ("ReLU6", "relu6"), ("Sigmoid", "sigmoid"), ("Hardsigmoid", "hardsigmoid")),
        *(("Tanh", "tanh"), ("Hardtanh", "hardtanh"), ("Softsign", "softsign"), ("GELU", "gelu"), ("SiLU", "silu")),
        *(("Mish", "mish"), ("Hardswish", "hardswish"), ("LeakyReLU", "leaky_relu"), ("PReLU", "prelu")),
        *(("RReLU", "rrelu"), ("ELU", "elu"), ("SELU", "selu"), ("CELU", "celu"), ("Softplus", "softplus")),
        *(("LogSigmoid", "logsigmoid"), ("Hardshrink", "hardshrink"), ("Softshrink", "softshrink")),
        *(("Tanhshrink", "tanhshrink"), ("Threshold", "threshold"), ("GLU", "glu")),
    )
}


def _functions() -> dict[Callable[..., Any], str]:
    """Every spelling of an activation as a function or a method, in place or not."""
    found: dict[Callable[..., Any], str] = {}
    for name in KINDS:
        for home in (functional, torch, Tensor):
            for spelling in (name, f"{name}_"):
                function = getattr(home, spelling, None)
                if callable(function):
                    found[function] = name
    found[torch.special.expit] = "sigmoid"
    for home in (torch, Tensor):
        for spelling in ("clamp", "clamp_", "clamp_min", "clamp_min_", "clip", "clip_"):
            function = getattr(home, spelling, None)
            if callable(function):
                found[function] = "clamp"
    return found


_FUNCTIONS = _functions()
_PRODUCERS: dict[Callable[..., Any], int] = {
    functional.linear: -1,
    functional.bilinear: -1,
    **{getattr(functional, f"conv{which}{n}d"): 1 for which in ("", "_transpose") for n in (1, 2, 3)},
}
_NORMS: dict[Callable[..., Any], int] = {
    function: axis
    for name, axis in (
        *(("batch_norm", 1), ("instance_norm", 1), ("group_norm", 1), ("local_response_norm", 1)),
        *(("layer_norm", -1), ("rms_norm", -1), ("normalize", -1)),
    )
    if (function := getattr(functional, name, None)) is not None
}
PRODUCTS = frozenset(
    {
        *(Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__, Tensor.mul, Tensor.mul_, torch.mul),
        *(Tensor.lerp, Tensor.lerp_, torch.lerp, Tensor.addcmul, Tensor.addcmul_, torch.addcmul),
    }
)
"""Functions that multiply element by element: what a gate's output goes into."""


PASSES_ON = frozenset(
    {
        *(Tensor.__add__, Tensor.__radd__, Tensor.add, torch.add, Tensor.__rsub__, Tensor.__sub__, torch.rsub),
        *(
            Tensor.to,
            Tensor.float,
            Tensor.half,
            Tensor.bfloat16,
            Tensor.type_as,
            Tensor.repeat,
            torch.clone,
            Tensor.clone,
        ),
    }
)
"""Functions whose output is a gate if one of their inputs is."""


@dataclass(frozen=True)
class Role:
    """What a module or a function does to the signal.

    Attributes:
        activation: The kind of activation that it is.
        axis: Where the units of its output lie, for what has weights or normalises.
        norm: Whether it sets the scale of the signal anew.
    """

    activation: Kind | None = None
    axis: int | None = None
    norm: bool = False


_CHANNELS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LocalResponseNorm)
_FEATURES = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.Embedding, nn.EmbeddingBag)


def role_of_module(module: nn.Module) -> Role | None:
    """The role of a module; None for one that has none (containers, blocks, modules of the user)."""
    role = _role_of_type(type(module))
    if role is _HARDTANH:
        assert isinstance(module, nn.Hardtanh)
        return Role(_hardtanh(module.min_val, module.max_val))
    return role


_HARDTANH = Role(KINDS["hardtanh"])  # whose ends each module has of its own


_roles: weakref.WeakKeyDictionary[type[nn.Module], Role | None] = weakref.WeakKeyDictionary()  # classes come and go


def _role_of_type(kind: type[nn.Module]) -> Role | None:
    if kind not in _roles:
        _roles[kind] = _new_role(kind)
    return _roles[kind]


def _new_role(kind: type[nn.Module]) -> Role | None:
    for ancestor in kind.__mro__:
        if ancestor in _MODULES:
            return _HARDTANH if ancestor is nn.Hardtanh else Role(KINDS[_MODULES[ancestor]])
    norm = issubclass(kind, (*_NORM_TYPES,)) or "norm" in kind.__name__.lower()
    if issubclass(kind, _CHANNELS):
        return Role(axis=1, norm=norm)
    if issubclass(kind, _FEATURES):
        return Role(axis=-1, norm=norm)
    return Role(axis=-1, norm=True) if norm and kind.__name__.lower().endswith("norm") else None


_NORM_TYPES = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


def role_of_call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Role | None:
    """The role of a call; None for one that has none, such as a ``clamp`` whose lower end is not zero."""
    name = _FUNCTIONS.get(function)
    if name is None:
        if function in _NORMS:
            return Role(axis=_NORMS[function], norm=True)
        return Role(axis=_PRODUCERS[function]) if function in _PRODUCERS else None
    if name == "clamp":
        low = args[1] if len(args) > 1 else kwargs.get("min")
        return Role(KINDS[name]) if isinstance(low, int | float) and low == 0 and _clamp_top(args, kwargs) else None
    if name == "hardtanh" and (len(args) > 1 or kwargs):
        low = args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)
        high = args[2] if len(args) > 2 else kwargs.get("max_val", 1.0)
        return Role(_hardtanh(low, high))
    return Role(KINDS[name])


def _hardtanh(low: float, high: float) -> Kind:
    """A clipped ReLU, where it begins at zero and leaves room for a signal."""
    return Kind("hardtanh", "rectifier" if low == 0 and high > 1 else "saturating", low, high)


def _clamp_top(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a clamp from zero has no upper end, or one that leaves room for a signal (not a probability's 1)."""
    high = args[2] if len(args) > 2 else kwargs.get("max")
    return high is None or (isinstance(high, int | float) and high > 1)


def is_known(function: Callable[..., Any]) -> bool:
    """Whether calls of a function may have a role at all (to be asked of every call, so it is one look-up)."""
    return function in _KNOWN


_KNOWN = frozenset({*_FUNCTIONS, *_PRODUCERS, *_NORMS, *PRODUCTS, *PASSES_ON})
