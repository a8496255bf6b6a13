"""Passes are as long as they are: on a busy machine the time budget would have them read fewer samples."""

import pytest

from lightning_diagnostics.diagnostics.generalization_gap import training


@pytest.fixture(autouse=True)
def _no_haste(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]  # pytest uses it
    monkeypatch.setattr(training, "FREE_SECONDS", 60.0)
