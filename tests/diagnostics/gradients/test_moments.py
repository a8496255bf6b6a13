"""Moments, averages, ratios and noise scale of given gradients: exact numbers, worked out by hand and in fractions."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_diagnostics.diagnostics.gradients.history import History, Taken
from lightning_diagnostics.statistics import ExponentialMoments, spread
from tests.diagnostics.gradients.reference import Batch, Regression, Run, data, watched

NORMS = [1.0, 1.2, 0.9, 1.1, 5.0, 1.3, 1.0, 0.8, 1.1, 1.05]
WINDOW_4 = [
    # Mean, sample variance and coefficient of variation of the last four of them, at each.
    (1.0, None, None),
    (1.1, 0.02, 0.128564869306645),
    (1.0333333333333334, 0.023333333333333334, 0.14782502241793033),
    (1.05, 0.016666666666666666, 0.12295185226055291),
    (2.05, 3.8833333333333333, 0.9612768295191839),
    (2.075, 3.8291666666666666, 0.9430485112167629),
    (2.1, 3.7533333333333334, 0.9225486404266915),
    (2.025, 3.9758333333333336, 0.9846662618411635),
    (1.05, 0.043333333333333335, 0.19825390471106025),
    (0.9875, 0.017291666666666667, 0.13316231086970043),
]
ALL_TEN = (1.445, 1.58025)  # mean and sample variance
SEEDED = {  # values and decay: mean and variance of the seeded recursion, at each
    (1.0, 2.0, 4.0, 3.0, 0.5, 1.5, 0.9): [
        (1.0, 0.0),
        (1.1, 0.09),
        (1.39, 0.8379),
        (1.551, 0.987399),
        (1.4459, 0.98807319),
        (1.45131, 0.8895292839),
    ],
    (10.0, 9.0, 8.0, 7.0, 0.99): [(10.0, 0.0), (9.99, 0.0099), (9.9701, 0.04900599), (9.940399, 0.135848720799)],
}


def history(norms: Sequence[float], window: int) -> History:
    """One that took steps of these norms."""
    found = History("SGD", window, factor=100.0, past=50)
    for step, norm in enumerate(norms):
        found.take(Taken("SGD", step, step, norm**2, norm**2, {}, ()))
    return found


@pytest.mark.parametrize("last", range(10))
def test_moments_are_of_the_last_steps(last: int) -> None:
    mean, variance, cv = WINDOW_4[last]
    assert spread(NORMS[max(0, last - 3) : last + 1]) == (
        pytest.approx(mean, rel=1e-9),
        variance and pytest.approx(variance, rel=1e-9),
        cv and pytest.approx(cv, rel=1e-9),
    )


def test_a_window_forgets_what_left_it() -> None:
    measured = history([1e6, *NORMS], 10).measured()
    assert measured.mean == pytest.approx(ALL_TEN[0], rel=1e-9)
    assert measured.variance == pytest.approx(ALL_TEN[1], rel=1e-9)
    assert measured.cv == pytest.approx(math.sqrt(ALL_TEN[1]) / ALL_TEN[0], rel=1e-9)
    assert (measured.since, measured.step, measured.values) == (1, 10, 10)


def test_nine_steps_are_too_few_for_a_variance_and_ten_are_not() -> None:
    few, enough = history(NORMS[:9], 100).measured(), history(NORMS, 100).measured()
    assert (few.mean, few.variance, few.cv, few.average_variance) == (None, None, None, None)
    assert enough.variance == pytest.approx(ALL_TEN[1], rel=1e-9)


def test_a_constant_norm_has_no_variance() -> None:
    measured = history([2.0] * 20, 10).measured()
    assert (measured.mean, measured.variance, measured.cv) == (2.0, 0.0, 0.0)


def test_a_spread_beside_a_large_mean_is_kept() -> None:
    measured = history([100000.1, 100000.2, 100000.3, 100000.4] * 3, 12).measured()
    assert measured.mean == pytest.approx(100000.25, rel=1e-12)
    assert measured.variance == pytest.approx(0.0125 * 12 / 11, rel=1e-7)  # three times each of the four


def test_norms_that_are_not_finite_are_in_no_moment() -> None:
    measured = history([*NORMS[:5], math.nan, *NORMS[5:], math.inf], 100).measured()
    assert (measured.mean, measured.variance) == (pytest.approx(ALL_TEN[0]), pytest.approx(ALL_TEN[1]))
    assert measured.average == pytest.approx(history(NORMS, 100).measured().average, rel=1e-12)


@pytest.mark.parametrize("case", list(SEEDED), ids=["0.9", "0.99"])
def test_the_exponential_average_is_seeded_with_the_first(case: tuple[float, ...]) -> None:
    *values, decay = case
    moments = ExponentialMoments(decay)
    for value, (mean, variance) in zip(values, SEEDED[case], strict=True):
        moments = moments.update(value)
        assert moments.mean == pytest.approx(mean, rel=1e-9)
        assert moments.variance == pytest.approx(variance, rel=1e-9)


def test_its_decay_is_that_of_the_window() -> None:
    assert history([1.0, 2.0], 19).measured().average == pytest.approx(1.1, rel=1e-12)  # 1 - 2 / 20 = 0.9
    assert history([10.0, 9.0, 8.0, 7.0], 199).measured().average == pytest.approx(9.940399, rel=1e-12)


# Of given gradients, through a whole run.


class Given(Regression):
    """Its gradients are the means of what its batches hold, whatever its weights are."""

    def __init__(self, start: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.net = nn.ParameterList([torch.tensor(each, dtype=torch.float64) for each in start])

    def optimizer(self) -> Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def loss(self, batch: Batch) -> Tensor:
        flat = torch.cat([parameter.reshape(-1) for parameter in self.net])
        return (batch[0] @ flat).mean()


def given(module: Regression, samples: Sequence[Sequence[float]], *, rows: int = 1, **settings: Any) -> Run:
    """A run whose batches are ``rows`` of these samples each."""
    whole = torch.tensor(samples, dtype=torch.float64)
    batches = [[part, part] for part in whole.split(rows)]
    return watched(module, batches, precision="64-true", **settings)


def test_norms_become_moments() -> None:
    run = given(Given([[0.0]]), [[norm] for norm in (*NORMS, -1.0)], window=10)
    assert list(run.curves["gradients/norm/SGD"].values()) == [*NORMS, 1.0]
    assert run.curves["gradients/norm_mean/SGD"][9] == pytest.approx(ALL_TEN[0], rel=1e-9)
    assert run.curves["gradients/norm_variance/SGD"][9] == pytest.approx(ALL_TEN[1], rel=1e-9)
    assert min(run.curves["gradients/norm_mean/SGD"]) == 9


def test_three_tensors_have_one_norm() -> None:
    run = given(Given([[0.0, 0.0], [0.0, 0.0, 0.0], [0.0]]), [[3.0, 4.0, 0.0, 0.0, 12.0, 1.0]])
    assert run.curves["gradients/norm/SGD"][0] == pytest.approx(13.038404810405298, rel=1e-12)
    assert run.curves["gradients/zero_share/SGD"][0] == pytest.approx(1 / 3, rel=1e-12)


class Decays(Given):
    """A weight of two dimensions, whose updates include the decay."""

    decay = 0.01

    def __init__(self, start: Sequence[float]) -> None:
        super().__init__([start])
        self.net = nn.ParameterList([self.net[0].detach()[:, None]])

    def optimizer(self) -> Optimizer:
        beta = 0.999 if self.decay else 0.95
        return torch.optim.AdamW(self.parameters(), lr=self.rate, betas=(0.9, beta), weight_decay=self.decay)

    @property
    def rate(self) -> float:
        return 0.01 if self.decay else 0.001


def test_the_update_ratio_includes_decay() -> None:
    run = given(Decays([1.0, -2.0]), [[0.5, -0.1], [0.4, 0.3], [-0.2, 0.1], [8.0, 0.0]])
    assert list(run.curves["gradients/update_ratio/net"].values()) == pytest.approx(
        [0.006419501157566733, 0.004971991302589324, 0.003453245450106245, 0.003428363384897511], rel=1e-9
    )
    assert list(run.curves["gradients/norm/AdamW"].values()) == pytest.approx(
        [0.5099019513592785, 0.5, 0.22360679774997896, 8.0], rel=1e-12
    )


def test_the_update_ratio_without_decay() -> None:
    module = Decays([0.3, 0.3, 0.3])
    module.decay = 0.0
    run = given(module, [[1e-4, 1e-2, 1.0]] * 3)
    assert list(run.curves["gradients/update_ratio/net"].values()) == pytest.approx(
        [0.003333221114777161, 0.003344368634914354, 0.0033555909680871594], rel=1e-9
    )


# The noise scale: by the first micro-batch of each step.

TWO_AND_TWO = [[1.0, 0.0], [3.0, 2.0], [-1.0, 4.0], [2.0, 1.0]]


def accumulated(samples: Sequence[Sequence[float]], *, rows: int, of: int, times: int = 10) -> dict[int, float] | None:
    """The curve of the noise scale."""
    run = given(Given([[0.0] * len(samples[0])]), [*samples] * times, rows=rows, accumulate_grad_batches=of)
    return run.curves.get("gradients/noise_scale/SGD")


def test_the_noise_scale_of_two_micro_batches_of_two() -> None:
    # Signal 17/4 and noise 3/2, from squared norms 5 and 37/8.
    assert accumulated(TWO_AND_TWO, rows=2, of=2) == {9: pytest.approx(1.5 / 4.25, rel=1e-9)}


def test_signal_and_noise_are_averaged_apart() -> None:
    """Five steps of one kind, and then five of another: weights fall off by 0.99 a step."""
    other = [[4.0, 1.0], [0.0, 1.0], [1.0, 0.0], [3.0, 2.0]]  # squares 5, 5: signal 5, noise 0
    found = accumulated([*TWO_AND_TWO * 5, *other * 5], rows=2, of=2, times=1)
    early, late = (sum(0.99**n for n in ages) for ages in (range(5, 10), range(5)))
    assert found == {9: pytest.approx(1.5 * early / (4.25 * early + 5 * late), rel=1e-9)}


def test_no_noise_is_a_scale_of_zero() -> None:
    assert accumulated([[1.0, 1.0]] * 4, rows=2, of=2) == {9: pytest.approx(0.0, abs=1e-12)}


@pytest.mark.parametrize(
    ("samples", "rows", "of"),
    [
        ([[1.0], [1.0], [-1.0], [-1.0]], 2, 2),  # pure noise: the signal comes out at -1
        ([[1.0], [2.0], [3.0], [6.0]], 1, 4),  # the noise comes out at -32/3
    ],
    ids=["signal", "noise"],
)
def test_a_negative_estimate_is_not_drawn(samples: Sequence[Sequence[float]], rows: int, of: int) -> None:
    assert accumulated(samples, rows=rows, of=of) is None


def test_nine_steps_are_too_few_for_a_noise_scale() -> None:
    assert accumulated(TWO_AND_TWO, rows=2, of=2, times=9) is None


def test_without_micro_batches_there_is_none() -> None:
    run = watched(Regression(), data(20))
    assert not [name for name in run.curves if "noise" in name]
