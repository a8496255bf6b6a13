"""The values of the metric over the batches of one validation, by which two trials are compared sample for sample."""

import torch
from torch import Tensor

BLOCKS = 32
"""The most parts of a validation whose means are kept."""

_MOST = 8 * BLOCKS


class Batches:
    """What a validation has logged so far, as running sums, which stay on the device until it is over.

    With more than `_MOST` of them every other one is dropped, and only every second one is kept from then on: between
    two running sums lies the sum of what was between them, so that nothing is lost but detail.
    """

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._last: list[Tensor] = []  # one that was not kept
        self._stride = 1
        self._met = 0

    def note(self, total: Tensor, weight: Tensor) -> None:
        """The sum of values times sizes of batches, and the sum of sizes, after another batch."""
        self._met += 1
        sums = torch.stack([total.detach().float(), weight.detach().float()])
        self._last = [sums] if self._met % self._stride else []
        if self._last:
            return
        self._sums.append(sums)
        if len(self._sums) >= _MOST:
            self._sums, self._stride = self._sums[1::2], 2 * self._stride

    def read(self) -> tuple[list[float], list[float]]:
        """The means of the metric over at most `BLOCKS` parts of the validation, and how many samples each has."""
        kept = [*self._sums, *self._last]
        if not kept:
            return [], []
        sums = torch.stack(kept).cpu().double()
        ends = torch.linspace(0, len(sums), min(BLOCKS, len(sums)) + 1).round().long()[1:] - 1
        parts = torch.diff(sums[ends], dim=0, prepend=torch.zeros(1, 2, dtype=torch.float64))
        parts = parts[parts[:, 1] > 0]  # of another loader's batches there is nothing
        if not bool(parts.isfinite().all()):
            return [], []
        return [_short(mean) for mean in (parts[:, 0] / parts[:, 1]).tolist()], [
            _short(w) for w in parts[:, 1].tolist()
        ]


def _short(value: float) -> float:
    """A number with the digits that single precision has."""
    return float(f"{value:.8g}")
