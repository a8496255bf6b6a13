"""Silence over many kinds of healthy schedules, in runs of several lengths, watching and acting."""

from typing import Any

import pytest

from lightning_diagnostics import WarmupCooldownScheduler
from tests.diagnostics.learning_rate.networks import NETWORKS
from tests.diagnostics.learning_rate.networks_data import Program, train
from tests.helpers import accusations

NEAREST = (
    *(("own_table", 0, True), ("by_hand_every_fifth_epoch", 1, False), ("by_hand_half_an_epoch", 0, False)),
    *(("by_chance", 1, False), ("planned_hugging_face_for_50_steps", 0, False), ("long_warmup", 2, False)),
    *(("warmup_of_ten_steps", 2, False), ("a_last_stretch_of_zero", 0, True), ("slowly_rising", 1, False)),
    *(("one_cycle_with_linear_to_zero", 0, True), ("resumed_one_cycle", 1, False), ("half_of_a_recipe", 0, True)),
    *(("adversaries_by_step", 1, True), ("timm_cosine", 0, True), ("stream_by_steps", 0, True), ("lbfgs", 2, True)),
)
"""Those that come nearest to a limit, or were accused once; with the size, and whether the callback acts."""

named = {program.name: program for program in NETWORKS}

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*IterableDataset.*has `__len__` defined.*",
    "ignore:You're resuming from a checkpoint that ended",
)


def leaves_in_peace(program: Program, place: int, *, acting: bool, **more: Any) -> None:
    arguments = program.acting if acting else dict(WarmupCooldownScheduler.only_watching)
    score, ours = train(
        program, program.sizes[place], lambda: WarmupCooldownScheduler(strict=True, **arguments, **more)
    )
    assert [finding for each in ours for finding in accusations(each)] == []
    assert score <= program.bar


def test_the_sweep_is_as_wide_as_a_rule_needs_that_is_no_preview() -> None:
    assert len(named) == len(NETWORKS) >= 45
    assert {len(program.sizes) for program in NETWORKS} == {3}


@pytest.mark.parametrize(("name", "place", "acting"), NEAREST)
def test_a_healthy_schedule_that_comes_near_to_a_limit_is_left_in_peace(name: str, place: int, acting: bool) -> None:
    leaves_in_peace(named[name], place, acting=acting)


@pytest.mark.slow
@pytest.mark.parametrize("acting", [False, True], ids=["watching", "acting"])
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("program", NETWORKS, ids=lambda program: program.name)
def test_a_healthy_schedule_is_left_in_peace(program: Program, place: int, acting: bool) -> None:
    leaves_in_peace(program, place, acting=acting)
