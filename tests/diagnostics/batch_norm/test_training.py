"""What looks of training say of each norm, on real forward passes."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_diagnostics.diagnostics.batch_norm.measure import Drift, SmallBatch
from lightning_diagnostics.diagnostics.batch_norm.modes import Modes
from lightning_diagnostics.diagnostics.batch_norm.training import TrainingLooks, epsilon, momentum_of, recent
from lightning_diagnostics.probes import NormWatch, RunningStatistics
from lightning_diagnostics.statistics import statistics_mismatch


class Looked:
    """A model and what looks at its training see."""

    def __init__(self, net: nn.Module, *, watched: bool = True) -> None:
        self.net, self.watched = net, watched
        self.looks = TrainingLooks()
        self.modes = Modes()
        self.modes.take_up(net)
        self.watch = NormWatch({})
        self.step = 0

    def look(self, *batches: Tensor, act: Callable[[Tensor], Any] | None = None, passes: int = 1) -> None:
        """A training batch that is looked at, of one or more forward passes."""
        before = RunningStatistics(self.modes.norms)
        if self.watched:
            self.watch.start(self.net, functional=False, running=lambda: True)
        for batch in batches:
            (act or self.net)(batch)
        after = RunningStatistics(self.modes.norms)
        self.looks.take(self.modes, before, after, self.watch.norms, step=self.step, passes=passes)
        self.watch.stop()
        self.step += 1


def net(**more: Any) -> Any:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, **more), nn.ReLU(), nn.BatchNorm1d(8))


def rows(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


# Rows.


def test_the_rows_of_norms_are_those_of_the_looks_with_their_steps() -> None:
    looked = Looked(net())
    for count in (16, 8, 2):
        looked.look(rows(count))
    assert looked.looks.rows == {"1": [(16, 0), (8, 1), (2, 2)], "3": [(16, 0), (8, 1), (2, 2)]}
    assert looked.looks.small_batches(looked.modes, 4) == [
        SmallBatch("1", ("1",), smallest=2, usual=8, looks=3, synchronized=1, step=2),
        SmallBatch("3", ("3",), smallest=2, usual=8, looks=3, synchronized=1, step=2),
    ]


def test_the_first_of_the_smallest_batches_says_the_step_and_the_median_may_lie_between_two() -> None:
    looked = Looked(net())
    for count in (16, 3, 3, 4):
        looked.look(rows(count))
    (small, _) = looked.looks.small_batches(looked.modes, 1)
    assert (small.smallest, small.usual, small.step) == (3, 3.5, 1)


def test_the_smallest_of_several_passes_counts() -> None:
    looked = Looked(net())
    looked.look(rows(16), rows(5))
    assert looked.looks.rows["1"] == [(5, 0)]


def test_a_norm_in_evaluation_mode_computes_nothing_of_rows() -> None:
    looked = Looked(net())
    looked.net[1].eval()
    looked.look(rows(16))
    assert looked.looks.rows == {"3": [(16, 0)]}
    assert looked.looks.trained == {"3"}


def test_synchronized_norms_have_the_rows_of_all_processes() -> None:
    looked = Looked(nn.SyncBatchNorm.convert_sync_batchnorm(net()))
    looked.looks.rows = {"1": [(2, 0)], "gone": [(2, 0)]}  # it wants a GPU to run
    assert [each.synchronized for each in looked.looks.small_batches(looked.modes, 4)] == [4, 1]


# Norms that move, and by what.


def test_a_norm_that_moves_is_trained_and_one_that_does_not_is_not() -> None:
    looked = Looked(net())
    looked.net.eval()
    looked.look(rows(16))
    assert looked.looks.trained == set()
    looked.net[3].train()
    looked.look(rows(16))
    assert looked.looks.trained == {"3"}
    assert recent(looked.looks.shifts.get("1", [])) is None


@pytest.mark.parametrize("momentum", [0.1, 0.01, 1.0])
@pytest.mark.parametrize("watched", [True, False])
def test_how_far_a_training_batch_is_from_the_running_statistics_is_told_from_its_update(
    momentum: float, watched: bool
) -> None:
    model = net(momentum=momentum, eps=1e-2).double()
    looked = Looked(model, watched=watched)
    batch = 5 * rows(64).double()
    inputs = model[0](batch)
    expected = statistics_mismatch(np.zeros(8), np.ones(8), *_columns(inputs), eps=1e-2)
    looked.look(batch)
    assert recent(looked.looks.shifts.get("1", [])) == pytest.approx(expected, rel=1e-6)


def _columns(inputs: Tensor) -> Any:
    return inputs.mean(0).detach().numpy(), inputs.var(0).detach().numpy()


def test_the_last_batches_count_by_their_median() -> None:
    looked = Looked(net())
    looked.looks.shifts["1"] = [(9.0, 9.0)] * 7
    for seed in range(3):
        looked.look(rows(64, seed))
    seen = looked.looks.shifts["1"]
    assert len(seen) == 8
    assert seen[:5] == [(9.0, 9.0)] * 5
    assert recent(looked.looks.shifts.get("1", [])) == (9.0, 9.0)
    looked.looks.shifts["1"] = [(1.0, 4.0), (2.0, 9.0), (6.0, 5.0)]
    assert recent(looked.looks.shifts.get("1", [])) == (2.0, 5.0)


@pytest.mark.parametrize("momentum", [None, 0.0, 1.5, -0.5])
def test_a_norm_whose_updates_have_no_fixed_weight_tells_nothing_of_its_batch(momentum: float | None) -> None:
    looked = Looked(net(momentum=momentum))
    looked.look(rows(64))
    assert recent(looked.looks.shifts.get("1", [])) is None
    assert ("1" in looked.looks.trained) is (momentum != 0), "with momentum 0 nothing moves"


def test_two_passes_are_not_one_update() -> None:
    looked = Looked(net())
    looked.look(rows(64), rows(64))
    assert recent(looked.looks.shifts.get("1", [])) is None
    assert looked.looks.trained == {"1", "3"}


def test_a_batch_with_nan_is_an_update_and_tells_nothing() -> None:
    looked = Looked(net())
    looked.look(rows(64) * math.nan)
    assert looked.looks.trained == {"1", "3"}
    assert recent(looked.looks.shifts.get("1", [])) is None
    looked.look(rows(64) * math.nan)
    assert recent(looked.looks.shifts.get("1", [])) is None


# Reuse.


def test_a_norm_that_is_called_more_than_once_in_a_step_is_counted_at_its_most() -> None:
    looked = Looked(net())
    looked.look(rows(64))
    assert looked.looks.calls == {}
    looked.look(*[rows(64)] * 3)
    looked.look(*[rows(64)] * 2)
    assert looked.looks.calls == {"1": 3, "3": 3}


@pytest.mark.parametrize(("passes", "calls"), [(1, {"1": 4, "3": 4}), (2, {"1": 2, "3": 2}), (4, {}), (5, {})])
def test_an_optimizer_that_has_the_step_run_again_reuses_nothing(passes: int, calls: dict[str, int]) -> None:
    looked = Looked(net())
    looked.look(*[rows(64)] * 4, passes=passes)
    assert looked.looks.calls == calls


def test_a_norm_without_running_statistics_has_none_to_be_reused() -> None:
    looked = Looked(net(track_running_stats=False))
    looked.look(rows(64), rows(64))
    assert looked.looks.calls == {"3": 2}
    assert looked.looks.rows["1"] == [(64, 0)]


# Frozen norms.


def test_a_frozen_norm_that_moves_drifts_from_where_it_was_first_seen() -> None:
    looked = Looked(net().requires_grad_(False))
    looked.step = 10
    for seed in range(3):
        looked.look(10 + rows(64, seed))
    one, other = looked.looks.drifts(looked.modes)
    moved = statistics_mismatch(
        np.zeros(8),
        np.ones(8),
        looked.net[1].running_mean.double().numpy(),
        looked.net[1].running_var.double().numpy(),
        eps=1e-5,
    )[0]
    assert one == Drift("1", ("1",), looks=3, shift=pytest.approx(moved, rel=1e-6), alone=False, step=10)  # type: ignore[arg-type]  # pytest compares
    assert other.layers == ("3",)
    assert looked.looks.drifting == {"1", "3"}


def test_the_first_look_at_a_drift_is_one() -> None:
    looked = Looked(net().requires_grad_(False))
    looked.look(rows(64))
    assert [each.looks for each in looked.looks.drifts(looked.modes)] == [1, 1]


def test_a_frozen_norm_in_evaluation_mode_does_not_drift() -> None:
    looked = Looked(net().requires_grad_(False))
    looked.net.eval()
    for _ in range(3):
        looked.look(rows(64))
    assert looked.looks.drifts(looked.modes) == []


def test_a_norm_behind_a_layer_that_learns_is_frozen_alone() -> None:
    looked = Looked(net())
    looked.net[1].requires_grad_(False)
    for _ in range(2):
        looked.look(rows(64))
    (drift,) = looked.looks.drifts(looked.modes)
    assert (drift.where, drift.alone) == ("1", True)


def test_the_weights_of_a_teacher_that_follow_its_student_do_not_stand_still() -> None:
    looked = Looked(net().requires_grad_(False))
    looked.look(rows(64))
    for each in looked.net.parameters():
        each.data.lerp_(torch.rand_like(each), 0.01)
    for _ in range(3):
        looked.look(rows(64))
    assert looked.looks.drifts(looked.modes) == []
    assert looked.looks._thawed == {"1", "3"}


def test_a_norm_that_is_thawed_drifts_no_more_and_frozen_again_begins_anew() -> None:
    looked = Looked(net())
    looked.net[1].requires_grad_(False)
    for _ in range(3):
        looked.look(rows(64))
    looked.net[1].requires_grad_(True)
    looked.look(rows(64))
    assert looked.looks.drifts(looked.modes) == []
    looked.net[1].requires_grad_(False)
    looked.look(rows(64))
    (drift,) = looked.looks.drifts(looked.modes)
    assert (drift.looks, drift.step) == (1, 4)


def test_a_norm_without_weights_is_frozen_with_what_it_is_in() -> None:
    looked = Looked(nn.Sequential(net(affine=False), nn.Linear(8, 1)))
    looked.net[0].requires_grad_(False)
    for _ in range(2):
        looked.look(rows(64))
    assert [each.where for each in looked.looks.drifts(looked.modes)] == ["0.1", "0.3"]


def test_a_copy_of_the_looks_does_not_share_them() -> None:
    looked = Looked(net())
    looked.look(rows(64))
    twin = copy.deepcopy(looked.looks)
    looked.look(rows(64))
    assert (len(twin.rows["1"]), len(looked.looks.rows["1"])) == (1, 2)


# What norms say of themselves.


@pytest.mark.parametrize(
    ("norm", "momentum", "eps"),
    [
        (nn.BatchNorm1d(2), 0.1, 1e-5),
        (nn.BatchNorm1d(2, momentum=1, eps=1), 1.0, 1.0),
        (nn.BatchNorm1d(2, momentum=None, eps=0.0), None, 1e-5),
        (nn.Linear(1, 1), None, 1e-5),
    ],
)
def test_momentum_and_eps_are_the_norms_own_if_it_has_any(norm: nn.Module, momentum: float | None, eps: float) -> None:
    assert (momentum_of(norm), epsilon(norm)) == (momentum, eps)
    assert type(epsilon(norm)) is float
