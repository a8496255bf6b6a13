"""In which order the parameters of a model receive their gradients, and how long those are on this process alone."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from lightning_diagnostics.probes.gradients import l2_norms, numbers_of


class Arrivals:
    """Watches one or more backward passes through a hook on each parameter, which is gone when they end.

    A backward pass reaches the last layer first, whatever the order in which the layers were made. Under
    ``DistributedDataParallel`` a gradient that arrives is still this process's own: it is averaged later.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._order: dict[int, int] = {}
        self._norms: list[Tensor] = []

    @property
    def on(self) -> bool:
        """Whether it watches."""
        return bool(self._handles)

    def begin(self, parameters: Iterable[nn.Parameter], *, local: bool) -> None:
        """Watch from here on.

        Args:
            parameters: Those to be watched; what is no leaf, needs no gradient or has no values yet is left out.
            local: Whether the norms of the gradients are taken as they arrive.
        """
        self.end()
        self._order, self._norms = {}, []
        see = self._seeing(local)
        for parameter in parameters:
            if parameter.is_leaf and parameter.requires_grad and not is_lazy(parameter):
                self._handles.append(parameter.register_post_accumulate_grad_hook(see))

    def _seeing(self, local: bool) -> Callable[[Any], None]:
        order, found = self._order, self._norms  # not self: whoever copies a parameter copies nothing of this

        def see(parameter: Tensor) -> None:
            order.setdefault(id(parameter), len(order))
            if local and parameter.grad is not None:
                with torch.no_grad():
                    numbers = numbers_of(parameter.grad)
                    if numbers is not None:
                        found.extend(l2_norms([numbers]).total())

        return see

    def divide(self, scale: Tensor | None) -> None:
        """A backward pass is over whose loss was multiplied by a scale."""
        if scale is not None:
            with torch.no_grad():
                self._norms[:] = [norm / scale.to(norm.device) for norm in self._norms]

    def end(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @property
    def order(self) -> dict[int, int]:
        """The place of each parameter, by its ``id``, in the order in which gradients arrived."""
        return self._order

    def local_norm(self) -> Tensor | None:
        """The L2 norm of all gradients as they arrived, of shape (1,); None if none did or they are spread."""
        if not self._norms or len({each.device for each in self._norms}) > 1:
            return None
        return torch.linalg.vector_norm(torch.stack(self._norms)).reshape(1)
