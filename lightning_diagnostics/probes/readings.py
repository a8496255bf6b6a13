"""What is read of activations: arithmetic on their device, together for those of one shape, and one transfer."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_diagnostics.probes.kinds import Family

BUCKETS = 64
"""Of a histogram."""

SATURATED = 0.99
"""How far out an output is saturated, on the scale on which the ends of the range are -1 and 1.

There the derivative of tanh, and of the sigmoid, is below 2 % of its largest value.
"""

SAMPLE = 4_096
"""The most elements of one call that go into a histogram."""

_EXPONENT = 100  # at the most, lest a scale overflow; all of a layer that is smaller falls into one bucket
_SMALL = 65_536  # elements; smaller outputs are copied and computed together, larger ones at once
_CHUNK = 4_194_304  # elements computed at a time, which bounds the memory that a look takes
_PENDING = 1_048_576  # elements of copies that wait


@dataclass(eq=False)
class Reading:
    """What was read of one call, or of a part of a large one, in numbers on the host.

    Attributes:
        positions: Values per unit: samples times places (of an image, of a sequence).
        mean: Of each unit.
        squares: Sum of squared differences from that mean, of each unit.
        count: Of each unit: rectifiers: positive outputs; smooth ones: sum of absolute outputs; saturating ones:
            saturated outputs; others: 0.
        low: The smallest output; of a rectifier 0.
        high: The largest output.
        exponent: The histogram reaches to two to this power, from its negative or from 0 (rectifiers).
        histogram: Elements in each of `BUCKETS` buckets of equal width; None where none was asked for.
    """

    positions: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    count: NDArray[np.float64]
    low: float
    high: float
    exponent: int = 0
    histogram: NDArray[np.float64] | None = None


class _Group(NamedTuple):
    """Calls that are computed together: alike in all of this."""

    shape: torch.Size
    axis: int
    family: Family
    ends: tuple[float, float]
    dtype: torch.dtype
    device: torch.device


class Readings:
    """Takes the outputs of a pass one by one and keeps no reference to them; `collect` gives the numbers.

    Args:
        histograms: Whether to compute histograms as well.
    """

    def __init__(self, *, histograms: bool) -> None:
        self._histograms = histograms
        self._waiting: dict[_Group, tuple[list[int], list[Tensor]]] = {}
        self._waits = 0
        self._results: dict[torch.device, list[Tensor]] = {}
        self._along: dict[torch.device, list[Tensor]] = {}
        self.along: list[float] = []
        """The numbers that came along, once collected."""
        self._layout: dict[torch.device, list[tuple[list[int], int, int, bool]]] = {}

    def take(self, key: int, output: Tensor, *, axis: int, family: Family, ends: tuple[float, float]) -> None:
        """Take an output.

        Args:
            key: What the reading is to be found under.
            output: A detached tensor of floating-point numbers, of shape (samples, units, ...) or (..., units).
            axis: Where its units lie: 1, or -1 for the last.
            family: Of the activation.
            ends: Of its range.
        """
        elements = output.numel()
        group = _Group(output.shape, axis, family, ends, output.dtype, output.device)
        if elements > _SMALL:
            units = _by_units(output, axis)
            for index, part in enumerate(_parts(units)):
                sampled = units.unsqueeze(0) if self._histograms and index == 0 else None
                self._compute(group, [key], part.unsqueeze(0), sampled)
            return
        waiting = self._waiting.get(group)
        if waiting is None:
            waiting = self._waiting[group] = ([], [])
        waiting[0].append(key)
        waiting[1].append(output.clone())
        self._waits += elements
        if self._waits > _PENDING:
            self._flush()

    def take_along(self, number: Tensor) -> None:
        """Take a detached number of one element that is to come with the rest, in `along`."""
        self._along.setdefault(number.device, []).append(number.reshape(1))

    def collect(self) -> dict[int, list[Reading]]:
        """Everything taken, by key; one transfer from each device."""
        found: dict[int, list[Reading]] = {}
        with torch.no_grad():
            self._flush()
            for device in dict.fromkeys([*self._results, *self._along]):
                along = self._along.get(device, [])
                numbers = torch.cat([*self._results.get(device, []), *along]).cpu().double().numpy()
                self._unpack(numbers, self._layout.get(device, []), found)
                self.along += numbers[len(numbers) - len(along) :].tolist()
        self._results, self._layout, self._along = {}, {}, {}
        return found

    def _flush(self) -> None:
        for group, (keys, copies) in self._waiting.items():
            outputs = torch.stack(copies)
            sampled = outputs if self._histograms else None
            self._compute(group, keys, _all_by_units(outputs, group.axis), sampled)
        self._waiting, self._waits = {}, 0

    def _compute(self, group: _Group, keys: list[int], values: Tensor, sampled: Tensor | None) -> None:
        """Compute the numbers of calls; ``sampled``: what their histograms are made of, if they have any."""
        units = unit_sums(values, group.family, group.ends)
        high = values.amax(dim=(1, 2, 3))
        # A rectifier has no outputs below 0, and NaN shows in the largest.
        whole = [torch.zeros_like(high) if group.family == "rectifier" else values.amin(dim=(1, 2, 3)), high]
        parts = [units.flatten()]
        if sampled is not None:
            exponent, counts = histogram(sampled, signed=group.family != "rectifier")
            whole.append(exponent)
            parts.append(counts.flatten())
        parts += [each.to(units.dtype) for each in whole]
        self._results.setdefault(group.device, []).extend(parts)
        positions = values.shape[1] * values.shape[3]
        self._layout.setdefault(group.device, []).append((keys, positions, values.shape[2], sampled is not None))

    def _unpack(
        self, numbers: Any, layout: list[tuple[list[int], int, int, bool]], found: dict[int, list[Reading]]
    ) -> None:
        at = 0

        def cut(*shape: int) -> Any:
            nonlocal at
            size = math.prod(shape)
            at += size
            return numbers[at - size : at].reshape(shape)

        for keys, positions, units, sampled in layout:
            calls = len(keys)
            mean, squares, count = cut(3, calls, units)
            histograms = cut(calls, BUCKETS) if sampled else [None] * calls
            low, high = cut(2, calls).tolist()
            exponents = cut(calls).astype(int).tolist() if sampled else [0] * calls
            for i, key in enumerate(keys):
                reading = Reading(
                    positions, mean[i], squares[i], count[i], low[i], high[i], exponents[i], histograms[i]
                )
                found.setdefault(key, []).append(reading)


def _by_units(output: Tensor, axis: int) -> Tensor:
    """An output as (samples, units, places), without a copy where its layout allows it."""
    if output.dim() == 1:
        return output.view(-1, 1, 1)
    if output.dim() == 2 or axis == -1:
        return output.reshape(-1, output.shape[-1], 1)
    if output.dim() > 3 and not output.is_contiguous() and output.movedim(1, -1).is_contiguous():  # channels last
        return output.movedim(1, -1).reshape(-1, output.shape[1], 1)
    return output.reshape(output.shape[0], output.shape[1], -1)


def _all_by_units(outputs: Tensor, axis: int) -> Tensor:
    """The same for several outputs of one shape: (calls, samples, units, places)."""
    calls = outputs.shape[0]
    if outputs.dim() == 2:
        return outputs.view(calls, -1, 1, 1)
    if outputs.dim() == 3 or axis == -1:
        return outputs.reshape(calls, -1, outputs.shape[-1], 1)
    return outputs.reshape(calls, outputs.shape[1], outputs.shape[2], -1)


def _parts(values: Tensor) -> Iterator[Tensor]:
    """An output by samples, and by places where one sample is large, as parts that are computed one by one."""
    for samples in values.split(max(1, _CHUNK * values.shape[0] // values.numel())):
        yield from samples.split(max(1, _CHUNK * samples.shape[2] // samples.numel()), dim=2)


def unit_sums(values: Tensor, family: Family, ends: tuple[float, float]) -> Tensor:
    """Mean, squared differences from it, and what is counted, of every unit of several calls.

    The sums are taken of differences from each unit's first value, so that a small spread beside a large mean is not
    lost to rounding.

    Args:
        values: Of shape (calls, samples, units, places).
        family: What is counted, see `Reading`.
        ends: Of the activation's range.

    Returns:
        Of shape (3, calls, units), in float32 or wider.
    """
    wide = values if values.dtype in (torch.float32, torch.float64) else values.float()
    positions = wide.shape[1] * wide.shape[3]
    places = (1, 3) if wide.shape[3] > 1 else (1,)
    first = wide[:, :1, :, :1]
    scratch = wide - first
    sums = scratch.sum(dim=places)
    squares = scratch.mul_(scratch).sum(dim=places)
    if family == "rectifier":
        count = torch.sign(wide, out=scratch).sum(dim=places)
    elif family == "smooth":
        count = torch.abs(wide, out=scratch).sum(dim=places)
    elif family == "saturating":
        middle, half = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
        count = torch.sub(wide, middle, out=scratch).abs_().ge_(SATURATED * half).sum(dim=places)
    else:
        count = torch.zeros_like(sums)
    shape = (wide.shape[0], wide.shape[2])
    sums, squares, count = (each.reshape(shape) for each in (sums, squares, count))
    mean = first.reshape(shape) + sums / positions
    return torch.stack([mean, (squares - sums * sums / positions).clamp_(min=0), count])


def histogram(values: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Histograms of several calls, on their device, without waiting for it.

    They reach to a power of two, so that two of them can be added exactly (`merge_histograms` in the statistics).

    Args:
        values: Of shape (calls, ...). Of each call at most `SAMPLE` elements are counted, evenly spread; those that
            are not finite are left out.
        signed: Whether the buckets begin at the negative of where they end, or at 0; then zeros are left out too.

    Returns:
        The exponents of the ends, of shape (calls,), and the counts, of shape (calls, `BUCKETS`).
    """
    flat = values.reshape(values.shape[0], -1)
    if flat.shape[1] > SAMPLE:
        flat = flat[:, :: _stride(flat.shape[1])]
    flat = flat.float()
    counted = flat.isfinite() if signed else flat.isfinite() & (flat > 0)
    flat = torch.where(counted, flat, 0.0)
    largest = flat.abs().amax(dim=1)  # frexp would give its exponent, but not on every device
    exponent = torch.log2(largest).floor_().add_(1).clamp_(-_EXPONENT, _EXPONENT)
    exponent = torch.where(largest > 0, exponent, 0.0)
    scale = torch.exp2(-exponent) * (BUCKETS // 2 if signed else BUCKETS)
    index = flat.mul_(scale.unsqueeze(1)).floor_().add_(BUCKETS // 2 if signed else 0).clamp_(0, BUCKETS - 1)
    calls = torch.arange(flat.shape[0], device=flat.device).unsqueeze(1) * (BUCKETS + 1)
    index = torch.where(counted, index.long(), BUCKETS) + calls
    # Not bincount, which makes the host wait for the device; whole numbers in float32 are exact in any order.
    counts = torch.zeros(flat.shape[0] * (BUCKETS + 1), dtype=torch.float32, device=flat.device)
    counts.scatter_add_(0, index.flatten(), torch.ones_like(flat).flatten())
    return exponent, counts.view(-1, BUCKETS + 1)[:, :BUCKETS]


def _stride(elements: int) -> int:
    """The smallest step that leaves at most `SAMPLE` elements and falls on all units and places alike."""
    stride = -(-elements // SAMPLE)
    while math.gcd(stride, elements) > 1:
        stride += 1
    return stride


def plain_tensor(tensor: Tensor) -> Tensor | None:
    """A tensor that arithmetic can be done on, detached; None for one that only looks like it.

    Subclasses that change what operations do (sharded, batched by ``vmap``, nested), sparse, complex and whole-numbered
    ones, and those without storage are not read.
    """
    if type(tensor) not in (Tensor, nn.Parameter):
        if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:  # pyright: ignore[reportAttributeAccessIssue]  # it has one
            return None
        tensor = tensor.as_subclass(Tensor)
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # pyright: ignore[reportAttributeAccessIssue]  # untyped
        return None
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_meta or not tensor.is_floating_point():
        return None
    return tensor.detach()
