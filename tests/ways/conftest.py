"""Where users' scripts run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ways.desk import Desk, Done
from tests.ways.workshop import Workshop, python

collect_ignore = ["scripts"]  # they import one another, as a user's do


def _workshop(package: str) -> Iterator[Workshop]:
    shop = Workshop(f"{package}.cli", "torch.utils.tensorboard", "tqdm", "rich.table")
    yield shop
    shop.close()


@pytest.fixture(scope="session")
def lightning_shop() -> Iterator[Workshop]:
    yield from _workshop("lightning.pytorch")


@pytest.fixture(scope="session")
def other_shop() -> Iterator[Workshop]:
    yield from _workshop("pytorch_lightning")


@pytest.fixture
def desk(tmp_path: Path, lightning_shop: Workshop) -> Desk:
    """Of a user of ``lightning``."""
    return Desk(tmp_path, lightning_shop.run)


@pytest.fixture
def other_desk(tmp_path: Path, other_shop: Workshop) -> Desk:
    """Of a user of ``pytorch_lightning``."""
    return Desk(tmp_path, other_shop.run, "pytorch_lightning")


@pytest.fixture
def fresh_desk(tmp_path: Path) -> Desk:
    """Of a user of ``lightning``, whose scripts run in processes that have imported nothing yet."""
    return Desk(tmp_path, python)


@pytest.fixture(scope="session")
def without(lightning_shop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The run of the plain script without anything of ours."""
    return Desk(tmp_path_factory.mktemp("without"), lightning_shop.run).good("plain.py")
