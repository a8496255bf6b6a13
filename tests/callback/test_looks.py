"""Which batches are looked at: properties over every length of an epoch."""

import itertools

import pytest

from lightning_diagnostics.callback import is_look
from lightning_diagnostics.callback.looks import SPREAD

LENGTHS = range(8, 501)
NEVER = 10**9
"""A cadence that no epoch reaches."""


def _looks(batches: int, *, every: int = NEVER) -> list[int]:
    return [index for index in range(batches) if is_look(index, batches=batches, every=every)]


def test_the_first_and_the_last_batch_of_every_epoch_are_looked_at() -> None:
    assert {(looks[0], looks[-1] - batches) for batches in range(1, 501) for looks in [_looks(batches)]} == {(0, -1)}


def test_there_are_at_least_eight_looks_in_every_epoch_that_has_eight_batches() -> None:
    assert SPREAD == 8
    assert min(len(_looks(batches)) for batches in LENGTHS) == 8


@pytest.mark.parametrize("batches", range(1, 8))
def test_of_a_shorter_epoch_every_batch_is_looked_at(batches: int) -> None:
    assert _looks(batches) == list(range(batches))


def test_there_are_fewer_than_twice_as_many_looks_as_are_asked_for() -> None:
    assert max(len(_looks(batches)) for batches in LENGTHS) == 2 * SPREAD - 1


def test_no_gap_between_looks_is_longer_than_an_eighth_of_the_epoch() -> None:
    for batches in LENGTHS:
        looks = _looks(batches)
        gaps = [after - before for before, after in itertools.pairwise(looks)]
        assert max(gaps) <= batches / SPREAD
        assert len(set(gaps[:-1])) == 1, "they are spread evenly, the last one excepted"


@pytest.mark.parametrize("batches", [500, None])
@pytest.mark.parametrize("every", [1, 7, 50, 499])
def test_every_batch_of_the_cadence_is_looked_at_whatever_the_length(batches: int | None, every: int) -> None:
    assert all(is_look(index, batches=batches, every=every) for index in range(0, 500, every))


@pytest.mark.parametrize("batches", [8, 333, 500])
def test_a_cadence_adds_looks_and_takes_none_away(batches: int) -> None:
    assert set(_looks(batches, every=7)) == set(_looks(batches)) | set(range(0, batches, 7))


def test_an_epoch_of_unknown_length_is_looked_at_in_powers_of_two_and_at_the_cadence() -> None:
    looks = [index for index in range(200) if is_look(index, batches=None, every=60)]
    assert looks == [0, 1, 2, 4, 8, 16, 32, 60, 64, 120, 128, 180]


def test_an_epoch_of_unknown_length_has_eight_looks_as_soon_as_it_has_65_batches() -> None:
    looks = [index for index in range(65) if is_look(index, batches=None, every=NEVER)]
    assert len(looks) == 8
    assert looks[-1] == 64


def test_an_epoch_that_grows_longer_than_announced_is_still_looked_at() -> None:
    assert is_look(96, batches=64, every=NEVER)
