"""What the ranks bring together, without processes: which of their numbers belong to each other, and what is kept."""

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_diagnostics import GradientNormMonitor
from lightning_diagnostics.callback import is_look
from lightning_diagnostics.diagnostics.gradients.collecting import Collected
from lightning_diagnostics.diagnostics.gradients.history import Taken
from lightning_diagnostics.diagnostics.gradients.looking import ParameterLook
from tests import helpers
from tests.diagnostics.gradients.reference import Batch, Regression, data, loader

NOWHERE: Any = SimpleNamespace()
"""Of a Trainer or a module nothing is asked here."""

# The noise.

Pair = tuple[int, float, int]
"""Batch, squared norm on one rank, and its samples."""


def noises(
    whole: Mapping[int, tuple[str, float]], *local: Sequence[Pair], processes: int | None = None
) -> list[tuple[float, float, float, float]]:
    """What of the ranks' own gradients is taken up: squares of a small and a big batch, and their sizes."""
    monitor = GradientNormMonitor(strict=True)
    monitor._watch.processes = processes or len(local)
    history = monitor._histories["SGD"] = monitor._new_history("SGD")
    found: list[tuple[float, float, float, float]] = []
    history.take_noise = lambda *squares, small, big: found.append((*squares, small, big))  # type: ignore[method-assign]
    monitor._whole = dict(whole)
    monitor._take_noise([{"steps": [], "local": list(pairs)} for pairs in local])
    assert monitor._whole == {}
    return found


WHOLE = {index: ("SGD", 10.0 + index) for index in (0, 5, 10)}


def test_norms_of_the_ranks_are_averaged_by_batch() -> None:
    one, other = ([(index, start + index, 8) for index in WHOLE] for start in (20.0, 30.0))
    assert noises(WHOLE, one, other) == [(25.0 + index, 10.0 + index, 8, 16) for index in WHOLE]


@pytest.mark.parametrize("lacks", [0, 5, 10])
def test_a_batch_that_one_rank_lacks_shifts_no_other(lacks: int) -> None:
    one = [(index, 20.0 + index, 8) for index in WHOLE]
    other = [(index, 30.0 + index, 8) for index in WHOLE if index != lacks]
    expected = [(25.0 + index, 10.0 + index, 8, 16) for index in WHOLE if index != lacks]
    assert noises(WHOLE, one, other) == expected
    assert noises(WHOLE, other, one) == expected


def test_batches_of_different_sizes_tell_nothing() -> None:
    one = [(index, 20.0, 8) for index in WHOLE]
    assert noises(WHOLE, one, [(0, 30.0, 8), (5, 30.0, 7), (10, 30.0, 8)]) == [
        (25.0, 10.0, 8, 16),
        (25.0, 20.0, 8, 16),
    ]


@pytest.mark.parametrize("processes", [2, 3])
def test_all_ranks_are_needed(processes: int) -> None:
    pairs = [(0, 20.0, 8)]
    assert len(noises(WHOLE, pairs, pairs, processes=processes)) == (processes == 2)
    assert noises(WHOLE, pairs) == []


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_not_finite_tells_nothing(broken: float) -> None:
    assert noises({0: ("SGD", 1.0)}, [(0, broken, 8)], [(0, 2.0, 8)]) == []
    assert noises({0: ("SGD", broken)}, [(0, 2.0, 8)], [(0, 2.0, 8)]) == []


def test_a_batch_without_a_joint_gradient_and_an_optimizer_that_is_not_known_tell_nothing() -> None:
    pairs = [(0, 20.0, 8), (3, 20.0, 8)]
    assert noises({0: ("Adam", 1.0), 3: ("SGD", 9.0)}, pairs, pairs) == [(20.0, 9.0, 8, 16)]
    assert noises({}, pairs, pairs) == []


class AsOneOfTwo(GradientNormMonitor):
    """Measures as a rank of several does that average their gradients."""

    def attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().attach(trainer, pl_module)
        self._averaged = True


def test_of_joint_gradients_those_of_looks_alone_are_kept() -> None:
    monitor = AsOneOfTwo(strict=True, histograms=False)
    helpers.trainer(monitor, max_epochs=1).fit(Regression(), loader(data(80)))
    looks = [index for index in range(80) if is_look(index, batches=80, every=50)]
    assert len(looks) < 12
    assert list(monitor._whole) == looks
    assert [index for index, _, _ in monitor._shared] == looks
    for index, square, size in monitor._shared:  # alone, the rank's own gradient is the joint one
        assert (square, size) == (pytest.approx(monitor._whole[index][1], rel=1e-5), 8)
    monitor._take_noise([monitor.share()])
    assert monitor._whole == {}
    assert monitor._shared == []


class Spare(Regression):
    """A part that the optimizer does not have gets gradients, too."""

    def build(self) -> nn.Module:
        self.spare = nn.Linear(3, 3)
        return super().build()

    def loss(self, batch: Batch) -> Tensor:
        return (self.spare(self.net(batch[0])) - batch[1]).square().mean()

    def optimizer(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.05)


def test_a_ranks_own_gradient_is_that_of_the_optimizer() -> None:
    monitor = AsOneOfTwo(strict=True, histograms=False)
    helpers.trainer(monitor, max_epochs=1).fit(Spare(), loader(data(8)))
    assert len(monitor._shared) == 8
    for index, square, _ in monitor._shared:
        assert square == pytest.approx(monitor._whole[index][1], rel=1e-5)


# Steps of which each rank has a part.


def step(batch: int, square: float, name: str = "SGD", *, looked: bool = False, **each: float) -> Collected:
    taken = Taken(name, batch, batch, square, square, each, ("a",), 1.0)
    return Collected(taken, {"a": ParameterLook(1.0)} if looked else None, 0.1 if looked else None)


class Parts(GradientNormMonitor):
    """Writes down what is taken up of two ranks."""

    def __init__(self) -> None:
        super().__init__(strict=True)
        self.found: list[tuple[str, int, float | None]] = []
        self._watch.sharded, self._watch.processes = True, 2

    def _take_up(self, trainer: Trainer, collected: Sequence[Collected]) -> None:
        self.found += [(one.taken.name, one.taken.batch, one.taken.before) for one in collected]

    def _judge_parameters(self, trainer: Trainer, step: int) -> None:
        """Nothing."""


def joined(one: Sequence[Collected], other: Sequence[Collected]) -> list[Any]:
    monitor = Parts()
    trainer: Any = SimpleNamespace(
        global_step=0, fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=0))
    )
    monitor.take_in(trainer, NOWHERE, [{"steps": list(each), "local": []} for each in (one, other)])
    return monitor.found


def test_parts_of_a_step_are_added_up() -> None:
    one = [step(3, 1.0), step(3, 2.0, "Adam"), step(4, 3.0)]
    other = [step(3, 10.0), step(3, 20.0, "Adam"), step(4, 30.0)]
    assert joined(one, other) == [("SGD", 3, 11.0), ("Adam", 3, 22.0), ("SGD", 4, 33.0)]


def test_steps_of_another_batch_or_optimizer_are_never_added_up() -> None:
    one = [step(3, 1.0), step(4, 2.0), step(5, 3.0)]
    assert joined(one, [step(3, 10.0), step(5, 20.0), step(5, 30.0)]) == [
        ("SGD", 3, 11.0),
        ("SGD", 5, 33.0),
    ]
    assert joined(one, [step(3, 10.0), step(4, 20.0, "Adam")]) == [("SGD", 3, 11.0)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_norms_of_single_parameters_are_kept_for_looks_and_broken_steps_alone(value: float) -> None:
    plain, looked, broken = step(3, 5.0, a=2.0, b=3.0), step(3, 5.0, looked=True, a=2.0), step(3, 5.0, a=value, b=3.0)
    assert plain.trimmed() == step(3, 5.0)
    assert plain.trimmed().taken.named == ("a",)
    assert looked.trimmed() is looked
    assert broken.trimmed() is broken
