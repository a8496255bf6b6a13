"""The filters of the first convolution: which one it is, and every pixel of the picture."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_diagnostics.diagnostics.gradients.filters import filters, first_convolution
from lightning_diagnostics.tensorboard import Image

LINE = (60, 100, 180)
ZOOM = 4


def pixels(picture: Image | None) -> np.ndarray:
    """Of shape (height, width, 3)."""
    assert picture is not None
    return np.frombuffer(picture.pixels, dtype=np.uint8).reshape(picture.height, picture.width, 3)


def tile(sheet: np.ndarray, row: int, column: int, height: int, width: int) -> np.ndarray:
    """A tile without its frame, one pixel for each weight."""
    top, left = row * (height * ZOOM + 2) + 1, column * (width * ZOOM + 2) + 1
    whole = sheet[top : top + height * ZOOM, left : left + width * ZOOM]
    small = whole[::ZOOM, ::ZOOM]
    np.testing.assert_array_equal(whole, small.repeat(ZOOM, 0).repeat(ZOOM, 1))
    return small


def stretched(weights: torch.Tensor) -> np.ndarray:
    low, high = weights.min(), weights.max()
    return ((weights - low) / (high - low) * 255).round().numpy().astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_without_colours_every_channel_of_every_filter_is_a_grey_tile(channels: int) -> None:
    weight = torch.randn(3, channels, 2, 5, generator=torch.Generator().manual_seed(0))
    sheet = pixels(filters(weight))
    columns = {1: 2, 2: 3, 4: 4}[channels]
    assert sheet.shape == (-(-3 * channels // columns) * 10, columns * 22, 3)
    for index, expected in enumerate(weight.flatten(0, 1)):
        found = tile(sheet, index // columns, index % columns, 2, 5)
        np.testing.assert_array_equal(found, np.repeat(stretched(expected)[..., None], 3, axis=2))


def test_with_three_channels_every_filter_is_a_tile_in_colour() -> None:
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    sheet = pixels(filters(weight))
    assert sheet.shape == (2 * 14, 3 * 14, 3)
    for index, expected in enumerate(weight):
        found = tile(sheet, index // 3, index % 3, 3, 3)
        np.testing.assert_array_equal(found, stretched(expected).transpose(1, 2, 0))


def test_every_tile_has_a_line_around_it_and_a_place_without_one_is_filled_with_its_colour() -> None:
    sheet = pixels(filters(torch.randn(3, 1, 3, 3)))
    assert sheet.shape == (28, 28, 3)
    for place in ((0, slice(None)), (13, slice(None)), (14, slice(None)), (27, slice(None)), (slice(None), 14)):
        assert (sheet[place] == LINE).all()
    assert (sheet[14:, 14:] == LINE).all()


@pytest.mark.parametrize(("count", "shown"), [(63, 63), (64, 64), (65, 64), (200, 64)])
def test_sixty_four_tiles_are_shown(count: int, shown: int) -> None:
    weight = torch.zeros(count, 1, 2, 2)
    weight[:, :, 0, 0] = 1.0
    sheet = pixels(filters(weight))
    assert sheet.shape == (80, 80, 3)
    assert int((sheet == 255).all(axis=2).sum()) == shown * ZOOM**2


def test_a_filter_without_a_range_is_black_and_each_has_a_range_of_its_own() -> None:
    weight = torch.stack([torch.full((1, 2, 2), 3.0), torch.tensor([[[0.0, 1e-3], [0.0, 5e-4]]])])
    sheet = pixels(filters(weight))
    assert (tile(sheet, 0, 0, 2, 2) == 0).all()
    np.testing.assert_array_equal(tile(sheet, 0, 1, 2, 2)[..., 0], [[0, 255], [0, 128]])


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_filters_that_are_not_finite_are_not_drawn(broken: float) -> None:
    weight = torch.ones(2, 3, 3, 3)
    weight[1, 2, 1, 1] = broken
    assert filters(weight) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_filters_of_any_type_are_drawn_and_not_written_to(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.tensor([[[[0.0, 1.0], [0.5, 0.25]]]], dtype=dtype))
    before = weight.detach().clone()
    np.testing.assert_array_equal(tile(pixels(filters(weight)), 0, 0, 2, 2)[..., 0], [[0, 255], [128, 64]])
    assert torch.equal(weight, before)
    assert weight.grad is None


def test_the_first_convolution_with_more_than_points_is_chosen() -> None:
    net = nn.Sequential(nn.Conv1d(3, 4, 3), nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 2, 3)), nn.Conv2d(2, 2, 5))
    found = first_convolution(net)
    assert found is not None
    assert found[0] == "2.0"
    assert found[1] is net[2][0].weight


def test_a_model_without_one_has_none() -> None:
    assert first_convolution(nn.Sequential(nn.Linear(2, 2), nn.Conv1d(2, 2, 3), nn.Conv2d(2, 2, 1))) is None


def test_the_name_of_the_compiler_is_left_out() -> None:
    found = first_convolution(nn.ModuleDict({"net": torch.compile(nn.Sequential(nn.Conv2d(3, 4, 3)), backend="eager")}))
    assert found is not None
    assert found[0] == "net.0"


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_convolution_whose_channels_are_not_known_yet_is_passed_over() -> None:
    assert first_convolution(nn.Sequential(nn.LazyConv2d(4, 3))) is None
