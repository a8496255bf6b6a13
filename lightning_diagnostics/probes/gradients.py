"""What is read of gradients: their norms, together, on their device, over whole values whatever holds them."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_foreach_norm: Any = torch._foreach_norm  # pyright: ignore[reportPrivateImportUsage]  # what torch's own clipping calls
_LOW = (torch.float16, torch.bfloat16)
_PLAIN = (torch.float32, torch.float64, *_LOW)
_LONG = 65_536  # elements from which on a sum of squares in float32 loses digits on the CPU (4e-7; of 1e7: 4e-4)
_ROW = 4_096


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, of which each process holds a part."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def copies_of(tensor: Tensor, *, processes: int) -> float:
    """In how many of the processes the same part of a tensor lies; 0 where parts are sums that are still to be added.

    Args:
        tensor: A DTensor, or one that every process has.
        processes: How many train together.
    """
    if not is_sharded(tensor):
        return float(processes)
    mesh, apart = tensor.device_mesh, 1  # pyright: ignore[reportAttributeAccessIssue]  # a DTensor has them
    for axis, placement in enumerate(tensor.placements):  # pyright: ignore[reportAttributeAccessIssue]
        if placement.is_partial():
            return 0.0
        if not placement.is_replicate():  # in stripes, too, as FSDP 2 cuts what tensor parallelism has cut
            apart *= mesh.size(axis)
    return processes / apart


def all_numbers_of(tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """`numbers_of` each tensor, quickly where all are plain; None if any cannot be read."""
    if all(type(each) is Tensor and each.layout is torch.strided and each.dtype in _PLAIN for each in tensors):
        return list(tensors)
    numbers = [numbers_of(each) for each in tensors]
    known = [each for each in numbers if each is not None]
    return known if len(known) == len(numbers) else None


def numbers_of(tensor: Tensor) -> Tensor | None:
    """The numbers behind a parameter or a gradient; None if they cannot be read.

    They are this process's part of a DTensor, the summed values of a sparse gradient, and real and imaginary parts. To
    be called, and used, without gradients being recorded.
    """
    kind = type(tensor)
    if kind is not Tensor and kind is not torch.nn.Parameter:
        if is_sharded(tensor):
            tensor = tensor._local_tensor  # pyright: ignore[reportAttributeAccessIssue]
        elif type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:  # pyright: ignore[reportAttributeAccessIssue]
            return None
    if tensor.layout is not torch.strided:
        if tensor.layout is not torch.sparse_coo:
            return None
        tensor = tensor.coalesce().values()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if tensor.is_meta or tensor.is_nested or not tensor.is_floating_point():
        return None
    return tensor


@dataclass
class Norms:
    """L2 norms of several tensors, on their devices.

    Attributes:
        each: By device: the norms, in the order of ``places``.
        places: By device: which of the tensors each is of.
    """

    each: dict[torch.device, Tensor]
    places: dict[torch.device, list[int]]

    def total(self, weights: Mapping[torch.device, Tensor] | None = None) -> list[Tensor]:
        """The L2 norm of all tensors of a device together, from each device; without waiting for it.

        Args:
            weights: By device: what the norm of each is multiplied with, from `weights_on_devices`; 1 if None.
        """
        with torch.no_grad():
            if weights is None:
                return [_norm(vector) for vector in self.each.values()]
            return [_norm(vector * weights[device]) for device, vector in self.each.items()]

    def weights_on_devices(self, weights: Sequence[float]) -> dict[torch.device, Tensor]:
        """Weights of the tensors where their norms are; to be kept, as bringing them there may wait for the device."""
        return {
            device: torch.tensor([weights[place] for place in self.places[device]], dtype=vector.dtype, device=device)
            for device, vector in self.each.items()
        }


@torch.no_grad()
def l2_norms(tensors: Sequence[Tensor]) -> Norms:
    """The L2 norm of each tensor: one fused call for those of a device and a type, and nothing is waited for.

    In float32, or in the tensors' own type if that is wider; on the CPU long tensors are summed row by row first, lest
    digits be lost. Squares beyond float32 (values above 1e19) give infinity, those below it (1e-23) nothing.

    Args:
        tensors: From `numbers_of`, of any shapes and devices.
    """
    kinds = [(tensor.device, tensor.dtype) for tensor in tensors]
    groups: dict[tuple[torch.device, torch.dtype], Sequence[int]] = {}
    for kind in dict.fromkeys(kinds):
        groups[kind] = [place for place, each in enumerate(kinds) if each == kind]
    each: dict[torch.device, list[Tensor]] = {}
    places: dict[torch.device, list[int]] = {}
    for (device, dtype), members in groups.items():
        chosen = [tensors[place] for place in members]
        wide = torch.float32 if dtype in _LOW else None
        if device.type == "cpu" and dtype != torch.float64:
            chosen = [_rows(tensor) if tensor.numel() > _LONG else tensor for tensor in chosen]
        found = torch.stack(_foreach_norm(chosen, 2, dtype=wide))
        each.setdefault(device, []).append(found)
        places.setdefault(device, []).extend(members)
    whole = {device: parts[0] if len(parts) == 1 else torch.cat(parts) for device, parts in each.items()}
    return Norms(whole, places)


def _rows(tensor: Tensor) -> Tensor:
    """The norms of the rows of a long tensor, without a copy of it unless there are gaps between its values."""
    wide = torch.float32 if tensor.dtype in _LOW else None
    flat = tensor.permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True)).reshape(-1).contiguous()
    even = math.floor(flat.numel() / _ROW) * _ROW
    rows = torch.linalg.vector_norm(flat[:even].view(-1, _ROW), dim=1, dtype=wide)
    return rows if even == flat.numel() else torch.cat([rows, flat[even:].to(rows.dtype)])


def _norm(vector: Tensor) -> Tensor:
    if vector.device.type == "mps":  # has no float64
        return torch.linalg.vector_norm(vector)
    return torch.linalg.vector_norm(vector, dtype=torch.float64)
