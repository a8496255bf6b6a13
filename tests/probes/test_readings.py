"""What is read of activations: every number against a slow second computation in 64 bits."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_diagnostics.probes import BUCKETS, Reading, Readings, readings
from lightning_diagnostics.probes.kinds import Family
from lightning_diagnostics.probes.readings import SAMPLE, SATURATED

OPEN = (-math.inf, math.inf)
FAMILIES: tuple[tuple[Family, tuple[float, float]], ...] = (
    ("rectifier", (0.0, math.inf)),
    ("smooth", OPEN),
    ("saturating", (-1.0, 1.0)),
    ("saturating", (0.0, 1.0)),
    ("other", OPEN),
)
every_family = pytest.mark.parametrize(("family", "ends"), FAMILIES, ids=lambda value: str(value))
SHAPES = {
    "one": ((7,), 1),
    "features": ((6, 5), 1),
    "features-last": ((6, 5), -1),
    "sequence": ((4, 3, 5), -1),
    "signal": ((4, 5, 3), 1),
    "image": ((3, 5, 2, 4), 1),
    "image-last": ((3, 2, 4, 5), -1),
    "volume": ((2, 5, 2, 3, 2), 1),
    "one-sample": ((1, 5), 1),
    "one-unit": ((6, 1), 1),
}
every_shape = pytest.mark.parametrize(("shape", "axis"), SHAPES.values(), ids=SHAPES)


def outputs(shape: tuple[int, ...], family: Family, ends: tuple[float, float], *, seed: int = 0) -> Tensor:
    """Such as an activation of the family makes, with some at its ends."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if family == "rectifier":
        return values.relu()
    if family == "saturating":
        middle, half = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
        return middle + half * (3 * values).tanh()
    return values


def by_unit(output: Tensor, axis: int) -> NDArray[np.float64]:
    """The values in 64 bits, a row for each unit."""
    values = output.detach().to(torch.float64).numpy()
    if values.ndim == 1:
        return values[None, :]
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def slow_count(rows: NDArray[np.float64], family: Family, ends: tuple[float, float]) -> NDArray[np.float64]:
    if family == "rectifier":
        return (rows > 0).sum(axis=1)
    if family == "smooth":
        return np.abs(rows).sum(axis=1)
    if family == "saturating":
        middle, half = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
        return (np.abs(rows - middle) / half >= SATURATED).sum(axis=1)
    return np.zeros(len(rows))


def read(
    *taken: Tensor, axis: int = 1, family: Family = "rectifier", ends: tuple[float, float] = (0.0, math.inf)
) -> list[Reading]:
    """The readings of outputs that were taken under one key."""
    taking = Readings(histograms=True)
    for output in taken:
        taking.take(5, output, axis=axis, family=family, ends=ends)
    found = taking.collect()
    assert list(found) == [5]
    return found[5]


def assert_right(
    reading: Reading, output: Tensor, axis: int, family: Family, ends: tuple[float, float], rtol: float = 1e-5
) -> None:
    rows = by_unit(output, axis)
    assert reading.positions == rows.shape[1]
    np.testing.assert_allclose(reading.mean, rows.mean(axis=1), rtol=rtol, atol=1e-6)
    squares = np.square(rows - rows.mean(axis=1, keepdims=True)).sum(axis=1)
    np.testing.assert_allclose(reading.squares, squares, rtol=rtol, atol=1e-6)
    np.testing.assert_allclose(reading.count, slow_count(rows, family, ends), rtol=1e-5, atol=1e-6)
    assert (reading.low, reading.high) == (rows.min(), rows.max())


def counted(output: Tensor, family: Family) -> NDArray[np.float32]:
    """The values that belong into a histogram: of rectifiers only those that are on."""
    values = output.float().numpy().ravel()
    return values[np.isfinite(values) & ((values > 0) | (family != "rectifier"))]


def edges(reading: Reading, *, signed: bool) -> NDArray[np.float64]:
    end = 2.0**reading.exponent
    return np.linspace(-end if signed else 0.0, end, BUCKETS + 1)


# Every number.


@every_family
@every_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_every_number_of_a_unit_is_that_of_a_slow_second_computation(
    dtype: torch.dtype, shape: tuple[int, ...], axis: int, family: Family, ends: tuple[float, float]
) -> None:
    output = outputs(shape, family, ends).to(dtype)
    (reading,) = read(output, axis=axis, family=family, ends=ends)
    assert_right(reading, output, axis, family, ends)


LAYOUTS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "channels-last": (lambda x: x.to(memory_format=torch.channels_last), 1),
    "every-second": (lambda x: x[:, :, ::2], 1),
    "transposed": (lambda x: x.transpose(2, 3), 1),
    "units-moved": (lambda x: x.movedim(1, 2), 1),
    "expanded": (lambda x: x[:1].expand(4, -1, -1, -1), 1),
    "flipped": (lambda x: x.flip(0), -1),
    "offset": (lambda x: x[1:, 1:], 1),
    "parameter": (lambda x: torch.nn.Parameter(x).detach(), 1),
}


@pytest.mark.parametrize(("lay", "axis"), LAYOUTS.values(), ids=LAYOUTS)
def test_the_layout_in_memory_makes_no_difference(lay: Callable[[Tensor], Tensor], axis: int) -> None:
    output = lay(outputs((4, 6, 5, 7), "rectifier", OPEN))
    (reading,) = read(output, axis=axis)
    assert_right(reading, output, axis, "rectifier", OPEN)
    assert reading.histogram is not None
    assert reading.histogram.sum() == len(counted(output, "rectifier"))


def test_a_volume_with_its_channels_last_is_read_by_channel() -> None:
    output = outputs((2, 6, 3, 4, 5), "smooth", OPEN).to(memory_format=torch.channels_last_3d)
    (reading,) = read(output, family="smooth", ends=OPEN)
    assert_right(reading, output, 1, "smooth", OPEN)


@pytest.mark.parametrize("offset", [1e3, -1e5])
@pytest.mark.parametrize("samples", [32, 20_000], ids=["together", "at-once"])
def test_a_tiny_spread_beside_a_large_mean_is_not_lost(samples: int, offset: float) -> None:
    steps = torch.randint(-4, 5, (samples, 8), generator=torch.Generator().manual_seed(1))
    output = offset + steps / 64  # exact in 32 bits
    (reading,) = read(output, family="other", ends=OPEN)
    rows = by_unit(output, 1)
    np.testing.assert_allclose(reading.mean, rows.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(reading.squares / samples, rows.var(axis=1), rtol=1e-3)


def test_constant_units_have_no_spread_at_all() -> None:
    (reading,) = read(torch.tensor([0.1, 1e6, 3.3e-5]).repeat(1000, 1), family="other", ends=OPEN)
    assert reading.squares.tolist() == [0.0, 0.0, 0.0]


@every_family
def test_a_large_output_is_read_at_once_and_in_parts_that_add_up(
    family: Family, ends: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "_CHUNK", 100_000)
    output = outputs((50, 7, 31, 29), family, ends)  # 314,650 elements
    found = read(output, family=family, ends=ends)
    assert len(found) > 1
    at = 0
    for reading in found:
        samples = reading.positions // (31 * 29)
        assert_right(reading, output[at : at + samples], 1, family, ends, rtol=1e-4)
        at += samples
    assert at == 50


def test_an_output_just_too_large_to_wait_is_read_like_others() -> None:
    for samples in (8192, 8193):  # 65,536 elements and more
        output = outputs((samples, 8), "rectifier", OPEN)
        (reading,) = read(output)
        assert_right(reading, output, 1, "rectifier", OPEN, rtol=1e-4)


# Many calls.


def test_many_small_calls_that_are_computed_together_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "_PENDING", 500)  # so that some are computed before the others are taken
    taking, taken = Readings(histograms=True), []
    for index in range(60):
        family, ends = FAMILIES[index % len(FAMILIES)]
        shape, axis = list(SHAPES.values())[index % len(SHAPES)]
        dtype = [torch.float32, torch.float64, torch.bfloat16][index % 3]
        output = outputs(shape, family, ends, seed=index).to(dtype)
        taken.append((index % 40, output, axis, family, ends))
        taking.take(index % 40, output, axis=axis, family=family, ends=ends)
    found = taking.collect()
    assert sorted(found) == list(range(40))
    for key, *one in taken:
        rows = by_unit(one[0], one[1])
        mine = [r for r in found[key] if r.mean.shape == (len(rows),) and np.allclose(r.mean, rows.mean(axis=1))]
        assert_right(mine[0], *one)
    assert sum(map(len, found.values())) == 60


def test_what_happens_to_an_output_after_it_was_taken_changes_nothing() -> None:
    for samples in (4, 20_000):
        output = torch.ones(samples, 8)
        taking = Readings(histograms=True)
        taking.take(0, output, axis=1, family="rectifier", ends=OPEN)
        output.zero_()
        (reading,) = taking.collect()[0]
        assert reading.count.tolist() == [samples] * 8


def test_taking_changes_no_output() -> None:
    for family, ends in FAMILIES:
        for shape in ((4, 5), (20_000, 8)):
            output = outputs(shape, family, ends)
            before = output.clone()
            read(output, family=family, ends=ends)
            assert torch.equal(output, before)


def test_what_was_collected_is_not_given_again() -> None:
    taking = Readings(histograms=False)
    taking.take(0, torch.ones(2, 3), axis=1, family="other", ends=OPEN)
    assert list(taking.collect()) == [0]
    assert taking.collect() == {}
    taking.take(1, torch.ones(2, 3), axis=1, family="other", ends=OPEN)
    assert list(taking.collect()) == [1]


def test_no_histogram_is_made_that_was_not_asked_for() -> None:
    taking = Readings(histograms=False)
    taking.take(0, torch.ones(2, 3), axis=1, family="other", ends=OPEN)
    (reading,) = taking.collect()[0]
    assert (reading.histogram, reading.exponent) == (None, 0)
    assert reading.mean.tolist() == [1.0, 1.0, 1.0]


# What is not finite.


@every_family
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("samples", [6, 20_000], ids=["together", "at-once"])
def test_a_value_that_is_not_finite_shows_in_the_extremes_and_spoils_no_other_unit(
    samples: int, bad: float, family: Family, ends: tuple[float, float]
) -> None:
    if family == "rectifier" and bad < 0:
        return  # none puts that out
    output = outputs((samples, 5), family, ends)
    output[2, 3] = bad
    (reading,) = read(output, family=family, ends=ends)
    assert not (math.isfinite(reading.low) and math.isfinite(reading.high))
    assert math.isnan(reading.high) == math.isnan(bad)
    well = [0, 1, 2, 4]
    rows = by_unit(output, 1)[well]
    np.testing.assert_allclose(reading.mean[well], rows.mean(axis=1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(reading.count[well], slow_count(rows, family, ends), rtol=1e-4)
    assert not np.isfinite(reading.mean[3])
    (beside,) = read(output[3:], family=family, ends=ends)
    assert math.isfinite(beside.low + beside.high)


def test_only_finite_values_are_in_a_histogram() -> None:
    output = torch.tensor([[math.nan, 0.7, math.inf], [-math.inf, 0.2, 0.9]])
    (reading,) = read(output, family="smooth", ends=OPEN)
    assert reading.histogram is not None
    expected, _ = np.histogram(np.float32([0.7, 0.2, 0.9]), edges(reading, signed=True))
    np.testing.assert_array_equal(reading.histogram, expected)


def test_a_histogram_of_nothing_finite_is_empty() -> None:
    (reading,) = read(torch.full((3, 4), math.nan), family="smooth", ends=OPEN)
    assert reading.histogram is not None
    assert reading.histogram.sum() == 0
    assert math.isnan(reading.low)


# Histograms.


@pytest.mark.parametrize("scale", [1e-28, 1e-4, 0.5, 1.0, 2.0, 3.7, 1e5, 1e28])
@pytest.mark.parametrize(("family", "signed"), [("rectifier", False), ("smooth", True)])
def test_a_histogram_is_numpys_on_the_stated_edges(family: Family, signed: bool, scale: float) -> None:
    values = torch.randn(100, 13, generator=torch.Generator().manual_seed(3)).clamp(-1, 1) * scale
    output = values if signed else values.relu()
    (reading,) = read(output, family=family, ends=OPEN)
    assert reading.histogram is not None
    expected, _ = np.histogram(counted(output, family), edges(reading, signed=signed))
    np.testing.assert_array_equal(reading.histogram, expected)
    assert reading.histogram.sum() == len(counted(output, family))
    assert 2.0 ** (reading.exponent - 1) <= output.abs().max().item() < 2.0**reading.exponent  # no wider than needed


def test_values_on_the_edges_belong_to_the_bucket_that_begins_there() -> None:
    output = (torch.arange(-32, 32) / 32).reshape(8, 8)
    (reading,) = read(torch.cat([output, torch.full((1, 8), 0.999)]), family="other", ends=OPEN)
    assert reading.histogram is not None
    reached = np.array([1] * 63 + [9])
    assert reading.exponent == 1  # -1 lies within (-2, 2) only
    np.testing.assert_array_equal(reading.histogram[16:48].reshape(32), reached.reshape(32, 2).sum(axis=1))


def test_zeros_are_in_the_histogram_of_all_but_rectifiers() -> None:
    for family, expected in (("rectifier", []), ("smooth", [BUCKETS // 2])):
        (reading,) = read(torch.zeros(3, 4), family=family, ends=OPEN)
        assert reading.histogram is not None
        assert (reading.exponent, np.flatnonzero(reading.histogram).tolist()) == (0, expected)
        assert reading.histogram.sum() == 12 * len(expected)


@pytest.mark.parametrize("family", ["rectifier", "smooth"])
@pytest.mark.parametrize(("value", "bucket"), [(3e38, -1), (1e-37, None), (1e-45, None)])
def test_values_at_the_ends_of_what_a_number_can_be_are_counted_in_the_outermost_buckets(
    value: float, bucket: int | None, family: Family
) -> None:
    (reading,) = read(torch.tensor([[value, value], [value, 0.0]]), family=family, ends=OPEN)
    assert reading.histogram is not None
    first = 0 if family == "rectifier" else BUCKETS // 2
    assert reading.histogram[first if bucket is None else bucket] >= 3
    assert reading.histogram.sum() == (3 if family == "rectifier" else 4)


def test_each_of_the_calls_that_are_computed_together_has_its_own_histogram() -> None:
    found = read(torch.full((4, 4), 0.4), torch.full((4, 4), 100.0), torch.zeros(4, 4))
    assert [r.exponent for r in found] == [-1, 7, 0]
    assert [np.flatnonzero(r.histogram).tolist() for r in found] == [[51], [50], []]


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        *(((SAMPLE + 1, 1), 1), ((1000, 64), 1), ((4096, 64), 1), ((64, 128, 14, 14), 1), ((32, 197, 384), -1)),
        *(((2310, 30), 1), ((17, 3, 101, 97), 1), ((8, 510, 8, 16), 1)),
    ],
    ids=str,
)
def test_of_a_large_output_at_most_a_sample_is_counted_evenly_spread_over_the_units(
    shape: tuple[int, ...], axis: int
) -> None:
    units = shape[axis]
    index = torch.arange(units).view([units if place == axis % len(shape) else 1 for place in range(len(shape))])
    output = (index + 0.5).expand(shape) / units  # each unit has a value of its own
    (reading,) = read(output, axis=axis)
    assert reading.histogram is not None
    size = reading.histogram.sum()
    assert SAMPLE / 4 < size <= SAMPLE
    everything, _ = np.histogram(output.numpy(), edges(reading, signed=False))
    of_bucket, _ = np.histogram((np.arange(units) + 0.5) / units, edges(reading, signed=False))
    share = size * everything / output.numel()
    assert (np.abs(reading.histogram - share) <= of_bucket + 1).all()  # each unit as often as any other, up to once


def test_the_sample_is_spread_over_all_samples_of_the_batch() -> None:
    output = torch.arange(4096.0).add(0.5).div(4096).view(-1, 1).expand(4096, 64)
    (reading,) = read(output)
    assert reading.histogram is not None
    assert np.ptp(reading.histogram) <= 2


@pytest.mark.parametrize("elements", [SAMPLE + 1, 2**18, 2 * 3 * 5 * 7 * 11 * 13 * 17, 999_983])
def test_the_stride_of_a_sample_shares_no_factor_with_the_elements(elements: int) -> None:
    stride: Any = readings._stride(elements)
    assert math.gcd(stride, elements) == 1
    assert -(-elements // stride) <= SAMPLE


def test_an_output_that_is_read_in_parts_has_no_more_in_its_histogram_than_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readings, "_CHUNK", 100_000)
    output = torch.arange(400_000.0).div(400_000).view(-1, 10)
    found = read(output)
    assert len(found) > 1
    assert SAMPLE / 4 < sum(r.histogram.sum() for r in found if r.histogram is not None) <= SAMPLE
