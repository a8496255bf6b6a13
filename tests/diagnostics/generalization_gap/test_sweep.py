"""Silence over many kinds of healthy networks on real data, each of which has learned; by every criterion."""

import pytest

from tests.diagnostics.generalization_gap.networks import NETWORKS
from tests.diagnostics.generalization_gap.networks_data import Program
from tests.diagnostics.generalization_gap.sweep import CRITERIA, SEEDS, run

NEAREST = ("mid_epoch_every_7_steps", "tumours_bce_alone", "two_tasks", "rare_class_weighted_loss_alone")
NEAREST += ("rare_and_hard", "rare_and_hard_weighted", "noisy_collate", "one_validation_batch")
"""Those that come nearest to a limit, or were accused before the limits were what they are."""

named = {program.name: program for program in NETWORKS}


def leaves_in_peace(program: Program, seed: int) -> None:
    result = run(program, seed)
    assert result.findings == []
    assert program.learned(result.score)


def test_the_sweep_is_as_wide_as_a_rule_needs_that_is_no_preview() -> None:
    assert len(named) == len(NETWORKS) >= 60
    assert len(SEEDS) >= 3
    assert CRITERIA == ("GL", "PQ", "UP")  # patience is what the monitor itself goes by


@pytest.mark.parametrize("name", NEAREST)
def test_a_healthy_network_that_comes_near_to_a_limit_is_left_in_peace(name: str) -> None:
    leaves_in_peace(named[name], 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("program", NETWORKS, ids=lambda program: program.name)
def test_a_healthy_network_is_left_in_peace(program: Program, seed: int) -> None:
    leaves_in_peace(program, seed)
