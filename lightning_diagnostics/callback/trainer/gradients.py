"""What happens to gradients between the backward pass and the step."""

import torch

from lightning_diagnostics.callback.namespaces import Callback, LightningModule, Trainer
from lightning_diagnostics.callback.order import callbacks_of
from lightning_diagnostics.callback.trainer.module import is_overridden


def loss_scale(trainer: Trainer) -> torch.Tensor | None:
    """What Lightning's gradient scaler multiplies losses with, on its device and not waited for; None without one."""
    scaler = trainer.scaler
    if scaler is None or not scaler.is_enabled():
        return None
    return scaler._get_scale_async()


def clips(trainer: Trainer, module: LightningModule) -> bool:
    """Whether Lightning clips gradients, or the user's module or callbacks may, before an optimizer is given them."""
    own = is_overridden(module, "configure_gradient_clipping")
    return bool(trainer.gradient_clip_val) or own or _hooks_before_step(trainer, module)


def clip_norm(trainer: Trainer, module: LightningModule) -> float | None:
    """The norm that Lightning itself clips to, if nothing else changes the gradients before a step."""
    own = is_overridden(module, "configure_gradient_clipping") or _hooks_before_step(trainer, module)
    if own or trainer.gradient_clip_algorithm not in (None, "norm"):
        return None
    return float(trainer.gradient_clip_val) if trainer.gradient_clip_val else None


def _hooks_before_step(trainer: Trainer, module: LightningModule) -> bool:
    """Whether the module or another callback has something to do between a backward pass and the step."""
    hook = "on_before_optimizer_step"
    others = [each for each in callbacks_of(trainer) if not type(each).__module__.startswith("lightning_diagnostics.")]
    plain = getattr(Callback, hook)
    return is_overridden(module, hook) or any(
        hook in vars(each) or getattr(type(each), hook, plain) is not plain for each in others
    )
