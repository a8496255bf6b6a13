"""Programs at the edge of what is healthy, each of which was accused once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from typing_extensions import override

from lightning_diagnostics import BatchNormGuard
from lightning_diagnostics.diagnostics.batch_norm.measure import LayerStatistics, without_start
from lightning_diagnostics.diagnostics.batch_norm.rules import Limits, is_settling, statistics_mismatch
from lightning_diagnostics.findings import Diagnosis, TooEarly
from tests.diagnostics.batch_norm.data import train
from tests.diagnostics.batch_norm.networks import NETWORKS
from tests.helpers import accusations

pytestmark = pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start")

named = {program.name: program for program in NETWORKS}


EDGES = (
    ("Lazy", 0),  # its buffers are made in the sanity check
    ("MostlyConstant", 0),  # what the initial variance still weighs is much beside a variance of zero
    ("SmallInputs", 0),
    ("RarelyActive", 1),
    ("AverageByHand", 2),  # the statistics that are copied have not settled
    ("new_domain", 0),  # norms that were updated often before this run
    ("new_domain_dense", 0),
)


@pytest.mark.parametrize(("name", "seed"), EDGES)
def test_it_is_left_in_peace(name: str, seed: int) -> None:
    guard = BatchNormGuard(strict=True)
    train(named[name], seed, guard)
    assert accusations(guard) == []


# What the values at the start still weigh.

OFF = LayerStatistics(
    *("net.1", "BatchNorm1d", 0.1, 5.0, None, None, 64),
    momentum=0.1,
    samples=64,
    trained=True,
    updates=50,
    since=50,
    settled_shift=0.1,
    settled_ratio=0.3,
)


def test_without_the_start_running_statistics_are_those_of_the_batches() -> None:
    start, batch = (np.zeros(3), np.ones(3)), (np.array([1.0, 2.0, 3.0]), np.array([0.0, 1e-3, 4.0]))
    running = start
    for _ in range(44):
        running = (0.9 * running[0] + 0.1 * batch[0], 0.9 * running[1] + 0.1 * batch[1])
    mean, variance = without_start(running, start, 0.9**44)
    np.testing.assert_allclose(mean, batch[0])
    np.testing.assert_allclose(variance, batch[1], atol=1e-12)


def test_a_variance_below_nothing_is_nothing() -> None:
    assert without_start((np.zeros(1), np.zeros(1)), (np.zeros(1), np.ones(1)), 0.1)[1] == 0


def test_a_norm_that_is_off_by_what_its_start_still_weighs_is_settling() -> None:
    assert is_settling(OFF, Limits())
    assert statistics_mismatch.check(OFF, Limits()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"settled_ratio": 5.0},
        {"settled_shift": 9.0, "mean_shift": 9.0},
        {"settled_ratio": None, "settled_shift": None},
        {"momentum": 1e-3, "updates": 600, "since": 600},
    ],
    ids=["off-all-the-same", "mean", "unknown", "never-arrives"],
)
def test_a_norm_that_is_off_by_more_is_accused(changes: dict[str, float | None]) -> None:
    measured = replace(OFF, **changes)  # pyright: ignore[reportArgumentType]  # each is what the field is
    assert not is_settling(measured, Limits())
    assert isinstance(statistics_mismatch.check(measured, Limits()), Diagnosis)


def test_updates_before_this_run_do_not_count() -> None:
    measured = replace(OFF, updates=1000, since=5)
    assert statistics_mismatch.check(measured, Limits()) == TooEarly(5, 44, "updates")


@pytest.mark.parametrize(("stale", "updates"), [(True, 20), (False, 0)])
def test_averaged_weights_whose_statistics_are_not_updated_are_accused_at_once(stale: bool, updates: int) -> None:
    measured = replace(OFF, trained=False, averaged=True, stale=stale, since=updates, settled_ratio=None)
    assert isinstance(statistics_mismatch.check(measured, Limits()), Diagnosis)


def test_averaged_weights_whose_statistics_follow_wait_until_these_have_settled() -> None:
    measured = replace(OFF, trained=False, averaged=True, since=20)
    assert statistics_mismatch.check(measured, Limits()) == TooEarly(20, 44, "updates")


# What is known of the training.


class Keeping(BatchNormGuard):
    """Keeps what is known of each norm at each validation."""

    def __init__(self) -> None:
        super().__init__(strict=True)
        self.layers: list[LayerStatistics] = []

    @override
    def _draw(self, trainer: Any, layers: Sequence[LayerStatistics], step: int) -> None:
        super()._draw(trainer, layers, step)
        self.layers += layers


def test_an_update_that_a_checkpoint_does_twice_tells_nothing_of_the_batch() -> None:
    guard = Keeping()
    train(named["Checkpointed"], 0, guard)
    assert len(guard.layers) >= 12
    assert {layer.train_mean_shift for layer in guard.layers} == {None}
    assert guard.layers[-1].since == 2 * 22 * 5


def test_a_norm_that_does_not_count_its_updates_is_judged_by_the_steps() -> None:
    guard = Keeping()
    train(named["OwnNorms"], 0, guard)
    late = [layer for layer in guard.layers if layer.step > 0]
    assert late
    assert {(layer.since, layer.updates) for layer in late} == {(None, None)}
    off = replace(late[-1], mean_shift=2.0)
    assert isinstance(statistics_mismatch.check(off, Limits()), Diagnosis)
