"""The filters of the first convolution as a picture."""

import math

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_diagnostics.probes import is_sharded
from lightning_diagnostics.tensorboard import Image

_TILES = 64
_LINE = (60, 100, 180)  # blue, around each tile: a grey line would look like a weight
_ZOOM = 4  # screen pixels for a weight: filters of three by three would be hard to see


def first_convolution(module: nn.Module) -> tuple[str, Tensor] | None:
    """The path and the weights of the first convolution over images, in the order of registration; None if none is."""
    for path, part in module.named_modules():
        if not isinstance(part, nn.Conv2d) or is_lazy(part.weight):
            continue
        if part.weight.dim() != 4 or is_sharded(part.weight):
            continue
        if min(part.weight.shape) > 0 and max(part.weight.shape[2:]) > 1:
            return path.replace("_orig_mod.", ""), part.weight
    return None


@torch.no_grad()
def filters(weight: Tensor) -> Image | None:
    """Filters side by side, each stretched to its own range; None if they are not finite.

    Args:
        weight: Of shape (filters, channels, height, width). With three channels they are shown in colour, else there is
            a tile for every channel of every filter, 64 tiles at the most.
    """
    colour = weight.shape[1] == 3
    tiles = weight if colour else weight.flatten(0, 1).unsqueeze(1)
    tiles = tiles[:_TILES].detach().float().cpu()
    if not bool(tiles.isfinite().all()):
        return None
    low, high = (end.view(-1, 1, 1, 1) for end in torch.aminmax(tiles.flatten(1), dim=1))
    tiles = (tiles - low) / (high - low).clamp_min(1e-12) * 255
    tiles = tiles.expand(-1, 3, -1, -1).repeat_interleave(_ZOOM, 2).repeat_interleave(_ZOOM, 3)
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    height, width = tiles.shape[2] + 2, tiles.shape[3] + 2
    framed = tiles.new_tensor(_LINE).view(1, 3, 1, 1).repeat(rows * columns, 1, height, width)
    framed[: len(tiles), :, 1:-1, 1:-1] = tiles
    sheet = framed.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    pixels = sheet.round().to(torch.uint8).contiguous()
    return Image(pixels.shape[1], pixels.shape[0], pixels.numpy().tobytes())
