"""The parameters of a model by name: which layer each belongs to, and what those of a group have in common."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lightning_diagnostics.probes import ROOT

_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


@dataclass(frozen=True)
class Parameter:
    """What is known of a parameter besides its numbers.

    Attributes:
        name: In the model, without the names of wrappers.
        layer: The path of the module that has it.
        elements: How many, of all processes together; a complex one counts as two.
        matrix: Whether it has two dimensions or more, and so is neither a bias nor the scale of a norm.
        table: Whether it is a table of embeddings, of which a batch uses some rows.
        trains: Whether it requires a gradient.
        half_ulp: Half of the spacing of its type, relative to a value at the low end of it; None for 32 bits and more.
    """

    name: str
    layer: str
    elements: int
    matrix: bool
    table: bool
    trains: bool
    half_ulp: float | None


def parameters_of(module: nn.Module) -> dict[int, Parameter]:
    """The parameters of a model in the order of their registration, by ``id``; a shared one under its first name."""
    found: dict[int, Parameter] = {}
    for path, part in module.named_modules():
        layer = _plain(path)
        for name, parameter in part._parameters.items():  # named_parameters() takes four times as long
            if parameter is None or id(parameter) in found:
                continue
            lazy = isinstance(parameter, UninitializedParameter)  # its shape is known after the first batch
            found[id(parameter)] = Parameter(
                f"{layer}.{name}" if layer else name,
                layer or ROOT,
                0 if lazy else parameter.numel() * (2 if parameter.is_complex() else 1),
                not lazy and parameter.dim() >= 2,
                isinstance(part, nn.Embedding | nn.EmbeddingBag),
                parameter.requires_grad,
                _half_ulp(parameter),
            )
    return found


def outermost(affected: Collection[str], all_of_them: Collection[str]) -> dict[str, list[str]]:
    """The outermost modules all of whose parameters are affected, or else the parameters themselves.

    Args:
        affected: Names of parameters.
        all_of_them: The names of all that could be.

    Returns:
        The affected parameters by module, or by parameter, in the order given; a module that is the whole model is
        called as everywhere.

    Example:
        >>> outermost(["a.0.weight", "a.1.weight", "b.bias"], ["a.0.weight", "a.1.weight", "b.weight", "b.bias"])
        {'a': ['a.0.weight', 'a.1.weight'], 'b.bias': ['b.bias']}
    """
    spared = {prefix for name in all_of_them if name not in affected for prefix in _prefixes(name)}
    found: dict[str, list[str]] = {}
    for name in affected:
        place = next((prefix for prefix in _prefixes(name) if prefix not in spared), name)
        found.setdefault(place or ROOT, []).append(name)
    return found


def by_layer(parameters: Mapping[int, Parameter]) -> dict[str, list[Parameter]]:
    """The parameters of each layer, in the order of registration."""
    found: dict[str, list[Parameter]] = {}
    for parameter in parameters.values():
        found.setdefault(parameter.layer, []).append(parameter)
    return found


def _prefixes(name: str) -> list[str]:
    """The paths of the modules that a parameter is in, outermost first."""
    parts = name.split(".")[:-1]
    return [".".join(parts[:length]) for length in range(len(parts) + 1)]


def _plain(path: str) -> str:
    return ".".join(part for part in path.split(".") if part not in _WRAPPERS)


def _half_ulp(parameter: Tensor) -> float | None:
    if not parameter.dtype.is_floating_point or parameter.dtype.itemsize >= 4:
        return None
    return torch.finfo(parameter.dtype).eps / 2
