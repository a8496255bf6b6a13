"""The bookkeeping of old graphs on numbers alone: a leak grows, a buffer fills, an epoch clears."""

import math

import pytest

from lightning_diagnostics.diagnostics.graph_leak.growth import Growth


def update(growth: Growth, ticks: range) -> bool:
    return growth.update(list(ticks), count=len(ticks), look=True)


@pytest.mark.parametrize(("alive", "grew"), [(4, False), (5, True), (6, True)])
def test_growth_begins_when_enough_are_alive(alive: int, grew: bool) -> None:
    assert update(Growth(steps=5), range(alive)) is grew


def test_a_leak_grows_at_every_step_and_a_full_buffer_at_none() -> None:
    leak, buffer = Growth(steps=5), Growth(steps=5)
    assert [update(leak, range(tick)) for tick in range(5, 40)] == [True] * 35
    assert [update(buffer, range(max(0, tick - 10), tick)) for tick in range(5, 40)] == [True] * 6 + [False] * 29


def test_a_tick_that_stands_for_several_counts_as_several() -> None:
    growth = Growth(steps=5)
    assert growth.update([0, 2, 4, 6, 8], count=9, look=True)
    assert not growth.update([0, 2, 4, 6, 8], count=9, look=True)
    assert growth.update([0, 2, 4, 6, 9], count=10, look=True)


def test_quiet_needs_steps_and_looks() -> None:
    seen, unseen = Growth(steps=5), Growth(steps=5)
    for growth, look in ((seen, True), (unseen, False)):
        for _ in range(64):
            growth.update([], count=0, look=look)
    assert seen.quiet(64)
    assert not unseen.quiet(64)


def test_growth_is_projected_to_the_epochs_end_then_to_the_runs_end_and_to_the_next_clearing() -> None:
    growth = Growth(steps=5)
    assert not growth.begin_epoch(0)
    update(growth, range(8))
    assert growth.ahead(8, left=1000, epoch=20) == ("epoch", 12)
    assert growth.ahead(8, left=math.inf, epoch=None) == ("run", math.inf)
    assert growth.begin_epoch(20)
    assert growth.ahead(20, left=980, epoch=20) == ("run", 980)
    update(growth, range(0))
    update(growth, range(20, 26))
    assert growth.ahead(26, left=974, epoch=20) == ("clearing", 8)
