"""Silence over many kinds of healthy programs on real data, each of which has learned."""

import pytest

from lightning_diagnostics import BatchNormGuard
from tests.diagnostics.batch_norm.data import Program, train
from tests.diagnostics.batch_norm.networks import NETWORKS
from tests.helpers import accusations

pytestmark = pytest.mark.filterwarnings("ignore")

SEEDS = (0, 1, 2)
FAST = ("mlp", "cnn_sgd", "finetuning_no_bn", "Adversarial", "PackedLstm", "EveryDropout", "nested_tuples", "Compiled")

named = {program.name: program for program in NETWORKS}


def leaves_in_peace(program: Program, seed: int, **settings: int | str) -> None:
    guard = BatchNormGuard(strict=True, **settings)
    score = train(program, seed, guard)
    assert accusations(guard) == []
    assert score >= program.bar


def test_the_sweep_is_as_wide_as_a_rule_needs_that_is_no_preview() -> None:
    assert len(named) == len(NETWORKS) >= 36
    assert len(SEEDS) >= 3


@pytest.mark.parametrize("name", FAST)
def test_a_healthy_program_is_left_in_peace_when_all_is_looked_at(name: str) -> None:
    leaves_in_peace(named[name], 0, every_n_train_steps=1, batch_dependence="every")


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("program", NETWORKS, ids=lambda program: program.name)
def test_a_healthy_program_is_left_in_peace(program: Program, seed: int) -> None:
    leaves_in_peace(program, seed)
