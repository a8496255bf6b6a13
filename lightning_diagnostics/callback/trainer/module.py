"""The user's module: what it overrides, and whether it is compiled."""

import sys

from torch import nn

from lightning_diagnostics.callback.namespaces import LightningModule


def is_overridden(module: LightningModule, hook: str) -> bool:
    """Whether the user's module has a hook of its own."""
    return getattr(type(module), hook, None) is not getattr(LightningModule, hook, None)


def steps(module: LightningModule, step: str, hook: str) -> str:
    """What of the user's module runs between a callback's hooks of a batch: its step, and its own hook before that."""
    return f"{step} or {hook}" if is_overridden(module, hook) else step


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
