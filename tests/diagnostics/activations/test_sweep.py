"""Silence over many kinds of healthy networks on real data, each of which has learned."""

import pytest

from lightning_diagnostics import ActivationMonitor
from tests.diagnostics.activations.data import Program, train
from tests.diagnostics.activations.networks import NETWORKS
from tests.helpers import accusations

SEEDS = (0, 1, 2)
FAST = ("three_layers_adamw", "Excited", "RowsAsTokens", "Adversarial", "LstmByHand")
EVERY_STEP = (*FAST, "eight_plain_layers", "PoolAfterRelu", "NormFreeResNet", "Gpt", "Variational", "EmptyExperts")

named = {program.name: program for program in NETWORKS}


def leaves_in_peace(program: Program, seed: int, **settings: int) -> None:
    monitor = ActivationMonitor(strict=True, **settings)
    score = train(program, seed, monitor)
    assert accusations(monitor) == []
    assert score >= program.bar


def test_the_sweep_is_as_wide_as_a_rule_needs_that_is_no_preview() -> None:
    assert len(named) == len(NETWORKS) >= 30
    assert len(SEEDS) >= 3


@pytest.mark.parametrize("name", FAST)
def test_a_healthy_network_is_left_in_peace_when_every_step_is_looked_at(name: str) -> None:
    leaves_in_peace(named[name], 0, every_n_train_steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS[1:])
@pytest.mark.parametrize("name", EVERY_STEP)
def test_healthy_networks_are_left_in_peace_when_every_step_is_looked_at(name: str, seed: int) -> None:
    leaves_in_peace(named[name], seed, every_n_train_steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("program", NETWORKS, ids=lambda program: program.name)
def test_a_healthy_network_is_left_in_peace(program: Program, seed: int) -> None:
    leaves_in_peace(program, seed)
