"""Running statistics at one moment, as they are in the modules."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_diagnostics.probes import RunningStatistics


def norms() -> dict[str, nn.Module]:
    """Norms of different sizes with different statistics."""
    found: dict[str, nn.Module] = {"a": nn.BatchNorm1d(3), "b": nn.BatchNorm2d(1), "c": nn.BatchNorm1d(7)}
    draw = torch.Generator().manual_seed(1)
    for norm in found.values():
        for name in ("running_mean", "running_var"):
            buffer = getattr(norm, name)
            buffer.copy_(torch.rand(buffer.shape, generator=draw))
    return found


def check(read: Any, layers: dict[str, nn.Module]) -> None:
    assert list(read) == list(layers)
    for path, norm in layers.items():
        for values, name in zip(read[path], ("running_mean", "running_var"), strict=True):
            assert values.dtype == np.float64
            assert np.array_equal(values, getattr(norm, name).double().numpy(), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_statistics_are_read_as_they_are(dtype: torch.dtype) -> None:
    layers = {path: norm.to(dtype) for path, norm in norms().items()}
    check(RunningStatistics(layers).read(), layers)


def test_a_moment_does_not_change_with_the_modules() -> None:
    layers, same = norms(), norms()
    moment = RunningStatistics(layers)
    for norm in layers.values():
        norm.running_mean.add_(1)
    check(moment.read(), same)


def test_two_moments_are_read_together() -> None:
    layers, old = norms(), norms()
    before = RunningStatistics(layers)
    layers["b"].running_var.mul_(3)
    one, other = before.read_with(RunningStatistics(layers))
    check(one, old)
    check(other, layers)


def test_moments_of_different_norms_are_read_together() -> None:
    layers = norms()
    before = RunningStatistics({"a": layers["a"]})
    one, other = before.read_with(RunningStatistics(layers))
    check(one, {"a": layers["a"]})
    check(other, layers)
    none, other = RunningStatistics({}).read_with(RunningStatistics(layers))
    assert none == {}
    check(other, layers)


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_the_smallest_change_is_no_sameness(name: str) -> None:
    layers = norms()
    before = RunningStatistics(layers)
    assert before.same(RunningStatistics(layers))
    buffer = getattr(layers["c"], name)
    buffer[6] = torch.nextafter(buffer[6], torch.tensor(9.0))
    assert not before.same(RunningStatistics(layers))


def test_nan_is_the_same_as_nan() -> None:
    layers = norms()
    layers["a"].running_mean[0] = float("nan")
    before = RunningStatistics(layers)
    assert before.same(RunningStatistics(layers))
    layers["a"].running_mean[1] = float("nan")
    assert not before.same(RunningStatistics(layers))


def test_moments_of_other_norms_are_not_the_same() -> None:
    layers = norms()
    whole = RunningStatistics(layers)
    assert not whole.same(RunningStatistics({"a": layers["a"]}))
    assert not whole.same(RunningStatistics({"a": layers["a"], "b": layers["c"], "c": layers["b"]}))


def test_norms_without_statistics_are_left_out() -> None:
    plain = nn.BatchNorm1d(3)
    layers = {
        "none": nn.BatchNorm1d(3, track_running_stats=False),
        "plain": plain,
        "lazy": nn.LazyBatchNorm1d(),
        "linear": nn.Linear(2, 2),
    }
    check(RunningStatistics(layers).read(), {"plain": plain})


def test_no_norms_have_no_statistics() -> None:
    assert RunningStatistics({}).read() == {}
    assert RunningStatistics({}).same(RunningStatistics({}))
