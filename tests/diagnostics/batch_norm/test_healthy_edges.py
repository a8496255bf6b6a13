"""Programs at the edge of what is healthy, each of which was accused once."""

import pytest

from lightning_diagnostics import BatchNormGuard
from tests.diagnostics.batch_norm.data import train
from tests.diagnostics.batch_norm.networks import NETWORKS
from tests.helpers import accusations

named = {program.name: program for program in NETWORKS}


@pytest.mark.parametrize("name", ["Lazy"])
def test_it_is_left_in_peace(name: str) -> None:
    guard = BatchNormGuard(strict=True)
    train(named[name], 0, guard)
    assert accusations(guard) == []
