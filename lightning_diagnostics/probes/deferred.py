"""Numbers that stay on their device until they are asked for, and then come in one transfer."""

from dataclasses import dataclass

import torch
from torch import Tensor

_PAGE = 256  # tensors that wait one by one, before they are put together on their device


@dataclass(frozen=True)
class Slot:
    """Where numbers are to be found, once fetched.

    Attributes:
        device: The device that they wait on.
        start: The place of the first.
        size: How many they are.
    """

    device: torch.device
    start: int
    size: int


class Fetched:
    """Numbers on the host, by the slot that they were given."""

    def __init__(self, numbers: dict[torch.device, list[float]]) -> None:
        self._numbers = numbers

    def __getitem__(self, slot: Slot) -> list[float]:
        return self._numbers[slot.device][slot.start : slot.start + slot.size]


class Deferred:
    """Takes small tensors one by one, and gives all of their numbers at once: one transfer from each device.

    Taking one does no arithmetic and waits for nothing; every 256th time what waits is put together on the device.
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._waiting: dict[torch.device, list[Tensor]] = {}
        self._sizes: dict[torch.device, int] = {}

    @property
    def size(self) -> int:
        """How many numbers wait."""
        return sum(self._sizes.values())

    def put(self, numbers: Tensor) -> Slot:
        """Take a detached tensor; it must not be written to any more.

        Args:
            numbers: Of any shape; read as float64.
        """
        device = numbers.device
        waiting = self._waiting.setdefault(device, [])
        start = self._sizes.get(device, 0)
        slot = Slot(device, start, numbers.numel())
        self._sizes[device] = start + slot.size
        waiting.append(numbers)
        if len(waiting) % _PAGE == 0:
            self._waiting[device] = [self._together(waiting)]
        return slot

    def fetch(self, *, keep: bool = False) -> Fetched:
        """Everything that was taken; from then on the slots are given anew, unless it is kept."""
        numbers = {device: self._together(waiting).cpu().tolist() for device, waiting in self._waiting.items()}
        if not keep:
            self._clear()
        return Fetched(numbers)

    def clear(self) -> None:
        """Let go of everything."""
        self._clear()

    @staticmethod
    def _together(waiting: list[Tensor]) -> Tensor:
        with torch.no_grad():
            wide = torch.float32 if waiting[0].device.type == "mps" else torch.float64  # it has none
            return torch.cat([each.reshape(-1).to(wide) for each in waiting])
