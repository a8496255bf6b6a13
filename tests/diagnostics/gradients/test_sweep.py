"""Silence over many kinds of healthy networks on real data, each of which has learned."""

import pytest

from lightning_diagnostics import GradientNormMonitor
from tests.diagnostics.gradients.networks import NETWORKS
from tests.diagnostics.gradients.networks_data import Program, train
from tests.helpers import accusations

SEEDS = (0, 1, 2)
EVERY_STEP = ("lbfgs_wolfe", "Finetuned", "ReZeroSgd", "RareWordsTwoOptimizers", "Toggled", "TeacherWithGradient")
AT_LOOKS = (("heads_that_are_rare", 2), ("LoRaSgd", 0), ("SummedOverTime", 0), ("heavier_tails", 1))
AT_LOOKS += (("SparseReward", 0), ("Bootstrap", 0), ("DeepQInOptimizer", 0), ("potential_with_last_bias", 0))
AT_LOOKS += (("deep_zero_head", 1),)
"""Those that come nearest to a limit, with the seed that does."""
RESTLESS = ("interpolating_with_spikes", "batches_of_one_adam", "LoRaSgd", "TopOne", "Stochastic", "SparseReward")
RESTLESS += ("heavier_tails", "deep_zero_head", "Bootstrap", "sixteen_plain_layers", "potential_with_last_bias")

named = {program.name: program for program in NETWORKS}


def leaves_in_peace(program: Program, seed: int, **settings: int) -> None:
    monitor = GradientNormMonitor(strict=True, **settings)
    score = train(program, seed, monitor)
    assert accusations(monitor) == []
    assert score >= program.bar


def test_the_sweep_is_as_wide_as_a_rule_needs_that_is_no_preview() -> None:
    assert len(named) == len(NETWORKS) >= 60
    assert len(SEEDS) >= 3


@pytest.mark.parametrize("name", EVERY_STEP)
def test_a_healthy_network_is_left_in_peace_when_every_step_is_looked_at(name: str) -> None:
    leaves_in_peace(named[name], 0, every_n_train_steps=1)


@pytest.mark.parametrize(("name", "seed"), AT_LOOKS)
def test_a_healthy_network_that_comes_near_to_a_limit_is_left_in_peace(name: str, seed: int) -> None:
    leaves_in_peace(named[name], seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", RESTLESS)
def test_a_healthy_network_that_is_restless_is_left_in_peace_when_every_step_is_looked_at(name: str) -> None:
    leaves_in_peace(named[name], 0, every_n_train_steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("program", NETWORKS, ids=lambda program: program.name)
def test_a_healthy_network_is_left_in_peace(program: Program, seed: int) -> None:
    leaves_in_peace(program, seed)
