"""What is drawn and judged, against the same by plain torch in 64 bits."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_diagnostics.diagnostics.batch_norm.measure import (
    Part,
    far_apart,
    of_batches,
    of_update,
    together,
    without_start,
)

SEEDS = range(5)
NAN = float("nan")
KINDS = [(nn.BatchNorm1d, (16, 5)), (nn.BatchNorm1d, (8, 5, 7)), (nn.BatchNorm2d, (4, 5, 3, 6))]
KINDS = [*KINDS, (nn.BatchNorm3d, (2, 5, 3, 2, 4))]
SHAPES = ["1d", "1d-of-sequences", "2d", "3d"]


def draw(shape: tuple[int, ...], seed: int, *, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    """Inputs whose channels differ, in 64 bits."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    channels = torch.arange(1, shape[1] + 1, dtype=torch.float64).view(-1, *[1] * (len(shape) - 2))
    return numbers * channels * scale + mean * channels


def statistics(norm: Any) -> Any:
    return norm.running_mean.double().numpy().copy(), norm.running_var.double().numpy().copy()


def part(inputs: Tensor) -> Part:
    """What is kept of a batch: positions, mean and mean squared difference from it."""
    axes = [axis for axis in range(inputs.dim()) if axis != 1]
    variance, mean = torch.var_mean(inputs, axes, unbiased=False)
    return inputs.numel() // inputs.shape[1], mean.numpy(), variance.numpy()


def medians(norm: Any, inputs: Tensor) -> tuple[float, float]:
    """What is expected of inputs and a norm, by plain torch; the mean of an even number of channels needs numpy."""
    columns = inputs.transpose(0, 1).flatten(1)
    mean, variance = columns.mean(1), columns.var(1, unbiased=False)
    shift = (mean - norm.running_mean).abs() / (norm.running_var + norm.eps).sqrt()
    ratio = ((variance + norm.eps) / (norm.running_var + norm.eps)).log().abs()
    return float(np.median(shift)), float(np.median(ratio))


# Batches.


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("kind", "shape"), KINDS, ids=SHAPES)
def test_batches_are_as_far_from_running_statistics_as_all_their_rows_together(
    kind: Any, shape: tuple[int, ...], seed: int
) -> None:
    norm = kind(5, eps=1e-3).double()
    norm(draw(shape, seed))
    batches = [draw(shape, 100 * seed + index, mean=index, scale=1 + index) for index in range(1, 4)]
    found = of_batches(statistics(norm), [part(batch) for batch in batches], eps=norm.eps)
    assert found == pytest.approx(medians(norm, torch.cat(batches)), rel=1e-10)


def test_batches_of_different_lengths_weigh_by_their_rows() -> None:
    norm = nn.BatchNorm1d(5).double()
    batches = [draw((30, 5), 0), draw((2, 5), 1, mean=9.0)]
    found = of_batches(statistics(norm), [part(batch) for batch in batches], eps=norm.eps)
    assert found == pytest.approx(medians(norm, torch.cat(batches)), rel=1e-10)


def test_the_mean_of_a_batch_far_from_zero_costs_no_digits_of_its_variance() -> None:
    norm = nn.BatchNorm1d(5).double()
    batches = [draw((16, 5), seed) + 1e6 for seed in range(3)]
    found = of_batches(statistics(norm), [part(batch) for batch in batches], eps=norm.eps)
    assert found == pytest.approx(medians(norm, torch.cat(batches)), rel=1e-8)


def test_a_batch_that_is_what_the_norm_applies_is_no_shift_and_no_ratio() -> None:
    norm = nn.BatchNorm1d(5, momentum=1.0).double()
    inputs = draw((1000, 5), 3, mean=2.0)
    norm(inputs)
    shift, ratio = of_batches(statistics(norm), [part(inputs)], eps=norm.eps)
    assert shift == pytest.approx(0.0, abs=1e-12)
    assert ratio == pytest.approx(math.log(1000 / 999), rel=1e-3)  # torch keeps the unbiased variance


def test_channels_that_are_nan_are_left_out_and_nan_alone_gives_nan() -> None:
    running = np.zeros(2), np.ones(2)
    inputs = draw((64, 2), 0, mean=3.0)
    inputs[5, 1] = NAN
    found = of_batches(running, [part(inputs)], eps=1e-9)
    expected = inputs[:, 0].mean().abs(), inputs[:, 0].var(unbiased=False).log().abs()
    assert found == pytest.approx([float(each) for each in expected], rel=1e-6)
    inputs[5, 0] = NAN
    assert all(map(math.isnan, of_batches(running, [part(inputs)], eps=1e-9)))


# Updates.


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("momentum", [0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize(("kind", "shape"), KINDS, ids=SHAPES)
def test_what_an_update_moves_tells_of_its_batch(kind: Any, shape: tuple[int, ...], momentum: float, seed: int) -> None:
    norm = kind(5, momentum=momentum).double()
    norm(draw(shape, seed))  # not the initial values
    before = statistics(norm)
    applied = nn.Module()
    applied.running_mean, applied.running_var = norm.running_mean.clone(), norm.running_var.clone()
    applied.eps = norm.eps
    inputs = draw(shape, seed + 50, mean=1.5, scale=3.0)
    norm(inputs)
    shift, ratio = of_update(before, statistics(norm), momentum=momentum, eps=norm.eps)
    columns = inputs.transpose(0, 1).flatten(1)
    expected = (
        medians(applied, inputs)[0],
        float(np.median(((columns.var(1) + norm.eps) / (applied.running_var + norm.eps)).log().abs())),
    )
    assert (shift, ratio) == pytest.approx(expected, rel=1e-6)


def test_an_update_that_moves_nothing_is_no_shift() -> None:
    at = np.ones(3), np.ones(3)
    assert of_update(at, at, momentum=0.1, eps=1e-5) == (0.0, 0.0)


def test_rounding_makes_no_variance_below_zero() -> None:
    before, after = (np.zeros(1), np.ones(1)), (np.zeros(1), np.array([0.9 - 1e-9]))  # a batch of -1e-8
    assert of_update(before, after, momentum=0.1, eps=1e-5)[1] == pytest.approx(math.log(1e5), rel=1e-5)


def test_an_update_by_nan_gives_nan() -> None:
    found = of_update((np.zeros(2), np.ones(2)), (np.full(2, NAN), np.full(2, NAN)), momentum=0.1, eps=1e-5)
    assert all(map(math.isnan, found))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("updates", [1, 5, 44])
def test_statistics_without_their_start_are_those_of_the_batches_alone(updates: int, seed: int) -> None:
    norm = nn.BatchNorm1d(5, momentum=0.1).double()
    norm.running_mean.fill_(7.0)
    norm.running_var.fill_(1e3)
    start = statistics(norm)
    alone = np.zeros(5), np.zeros(5)
    for index in range(updates):
        inputs = draw((16, 5), 100 * seed + index)
        norm(inputs)
        batch = inputs.mean(0).numpy(), inputs.var(0).numpy()
        alone = 0.9 * alone[0] + 0.1 * batch[0], 0.9 * alone[1] + 0.1 * batch[1]
    left = 0.9**updates
    mean, variance = without_start(statistics(norm), start, left)
    assert mean == pytest.approx(alone[0] / (1 - left), abs=1e-9)
    assert variance == pytest.approx(alone[1] / (1 - left), abs=1e-9)


def test_a_variance_without_its_start_is_not_below_zero_and_nan_stays() -> None:
    mean, variance = without_start((np.zeros(2), np.array([0.1, NAN])), (np.zeros(2), np.ones(2)), 0.5)
    assert mean.tolist() == [0.0, 0.0]
    assert variance[0] == 0.0
    assert math.isnan(variance[1])


# Places.


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_few_layers_are_a_place_each(count: int) -> None:
    layers = [f"net.{index}" for index in range(count)]
    assert together(layers) == [(layer, (layer,)) for layer in layers]


@pytest.mark.parametrize(
    ("layers", "where"),
    [
        (["net.0", "net.1", "net.2", "net.3", "net.4"], "net"),
        (["net.a.0", "net.a.1", "net.a.2", "net.a.3", "net.a.4"], "net.a"),
        (["net.a.0", "net.b.0", "net.c.0", "net.d.0", "net.ab.0"], "net"),
        (["net1.0", "net2.0", "net3.0", "net4.0", "net5.0"], "self"),
        (["net", "net.0", "net.1", "net.2", "net.3"], "net"),
        (["net.1/batch_norm", "net.2/batch_norm", "net.3/batch_norm", "net.4/batch_norm", "net.5/batch_norm"], "net"),
    ],
    ids=["children", "deeper", "names-that-begin-alike", "nothing-shared", "itself", "functions"],
)
def test_many_layers_are_the_module_that_they_are_in(layers: list[str], where: str) -> None:
    assert together(layers) == [(where, tuple(layers))]


def test_how_many_are_many_can_be_told() -> None:
    assert together(["a.0", "a.1"], most=1) == [("a", ("a.0", "a.1"))]


# Ranks.


def held(mean: float, variance: float = 1.0, channels: int = 3) -> Any:
    return np.full(channels, mean), np.full(channels, variance)


def test_statistics_that_are_the_same_on_all_ranks_are_not_apart() -> None:
    assert far_apart([{"a": held(1.0), "b": held(NAN)}] * 3) == {}
    assert far_apart([{"a": held(1.0)}]) == {}


def test_a_layer_is_as_far_apart_as_its_farthest_rank() -> None:
    ranks = [{"a": held(0.0), "b": held(0.0)}, {"a": held(3.0), "b": held(0.0)}, {"a": held(1.0), "b": held(0.0)}]
    assert far_apart(ranks, eps=1e-12) == pytest.approx({"a": 3.0})


def test_variances_alone_can_be_apart() -> None:
    assert far_apart([{"a": held(0.0)}, {"a": held(0.0, 8.0)}], eps=1e-12) == pytest.approx({"a": math.log(8)})


def test_the_smallest_difference_counts() -> None:
    (shift,) = far_apart([{"a": held(1.0)}, {"a": held(np.nextafter(1.0, 2.0))}]).values()
    assert 0 <= shift < 1e-12


def test_layers_that_only_one_rank_has_or_of_other_sizes_are_passed_over() -> None:
    assert far_apart([{"a": held(0.0), "c": held(0.0)}, {"b": held(1.0), "c": held(1.0, channels=5)}]) == {}


@pytest.mark.parametrize("broken", [0, 1])
def test_a_rank_that_has_diverged_alone_is_apart_beyond_all_bounds(broken: int) -> None:
    ranks = [{"a": held(0.0)}, {"a": held(0.0)}]
    ranks[broken] = {"a": held(NAN, NAN)}
    assert far_apart(ranks) == {"a": math.inf}


def test_means_that_are_nan_do_not_hide_variances_that_are_apart() -> None:
    assert far_apart([{"a": held(NAN)}, {"a": held(0.0, 8.0)}], eps=1e-12) == pytest.approx({"a": math.log(8)})
