"""What of a model calls its activations where Python does not see it, and the modules that do not."""

from dataclasses import dataclass

import torch
from torch import nn

from lightning_diagnostics.probes.kinds import COMPILED, ROOT, role_of_module


@dataclass(frozen=True)
class Blind:
    """What of a model cannot be watched from outside.

    Attributes:
        compiled: Paths of compiled modules.
        scripted: Paths of scripted modules.
        fused: Paths of recurrent modules whose kernels apply their activations inside.
    """

    compiled: tuple[str, ...] = ()
    scripted: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()


def blind_parts(root: nn.Module) -> Blind:
    """The parts of a model whose activations are not called from Python, outermost ones only."""
    compiled: list[str] = []
    scripted: list[str] = []
    fused: list[str] = []
    inside: list[str] = []
    for path, module in root.named_modules():
        if any(path.startswith(outer + ".") for outer in inside):
            continue
        if COMPILED in module._modules or getattr(module, "_compiled_call_impl", None) is not None:
            compiled.append(path or ROOT)
        elif isinstance(module, torch.jit.ScriptModule):
            scripted.append(path or ROOT)
        elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
            fused.append(path or ROOT)
        else:
            continue
        inside.append(path)
    return Blind(tuple(compiled), tuple(scripted), tuple(fused))


def activation_modules(root: nn.Module) -> list[str]:
    """The paths of a model's activation modules."""
    return [
        path
        for path, module in root.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
        and (role := role_of_module(module)) is not None
        and role.activation is not None
    ]
