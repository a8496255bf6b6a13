"""Those who watch ``gap/<metric>`` see that of the same validation, wherever they stand in the list of callbacks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from typing_extensions import override

from lightning_diagnostics import Diagnostics, GeneralizationGapMonitor
from tests.diagnostics.generalization_gap import models
from tests.diagnostics.generalization_gap.brute import Brute, mean_loss, share


class Stopping(EarlyStopping):
    """Writes down what it sees."""

    def __init__(self, **more: Any) -> None:
        super().__init__("gap/val_loss", mode="min", **{"patience": 100, **more})
        self.seen: list[float] = []

    @override
    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        self.seen.append(float(trainer.callback_metrics["gap/val_loss"]))
        super()._run_early_stopping_check(trainer)


def _ours(kind: str) -> Any:
    return Diagnostics(strict=True) if kind == "suite" else GeneralizationGapMonitor(strict=True)


def _both(module: Any, data: list[Any]) -> dict[str, float]:
    return {"val_loss": mean_loss(module, data), "val_acc": share(module, data)}


@pytest.mark.parametrize("settings", [{}, {"val_check_interval": 0.5}, {"num_sanity_val_steps": 0}], ids=str)
@pytest.mark.parametrize("make", [models.Computes, pytest.param(models.Logs, marks=pytest.mark.slow)])
@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", ["monitor", "suite"])
def test_the_gap_is_there_in_time(
    kind: str, place: str, make: Callable[[], LightningModule], settings: dict[str, Any], tmp_path: Path
) -> None:
    stopping = Stopping()
    keeping = ModelCheckpoint(tmp_path / "kept", monitor="gap/val_acc", mode="min", save_top_k=-1)
    watching = [stopping, keeping]
    callbacks = [*watching, _ours(kind)] if place == "before" else [_ours(kind), *watching]
    brute = Brute(_both)
    more = {"enable_checkpointing": True, "max_epochs": 3, **settings}
    models.run(make, tmp_path, *callbacks, brute, **more)
    losses = [one["val_loss"] - other["val_loss"] for one, other in zip(brute.validation, brute.training, strict=True)]
    accuracies = [
        one["val_acc"] - other["val_acc"] for one, other in zip(brute.training, brute.validation, strict=True)
    ]
    assert len(losses) == (6 if "val_check_interval" in settings else 3)
    assert stopping.seen == pytest.approx(losses, abs=1e-5)
    kept = sorted(float(score) for score in keeping.best_k_models.values())
    assert kept == pytest.approx(sorted(accuracies), abs=1e-5)
    assert float(keeping.best_model_score or 0.0) == pytest.approx(min(accuracies), abs=1e-5)


def test_it_is_still_there_at_the_end_of_the_training_epoch(tmp_path: Path) -> None:
    stopping = Stopping(check_on_train_epoch_end=True)
    record, _ = models.run(models.Computes, tmp_path, stopping, GeneralizationGapMonitor(strict=True), max_epochs=3)
    assert len(stopping.seen) == 3
    assert stopping.seen[-1] == record.published["gap/val_loss"]


def test_training_ends_when_the_gap_has_not_become_smaller(tmp_path: Path) -> None:
    stopping = Stopping(patience=1)
    _, trainer = models.run(models.Small, tmp_path, stopping, GeneralizationGapMonitor(strict=True), max_epochs=20)
    assert trainer.current_epoch == len(stopping.seen) < 20
    assert stopping.seen[-1] >= min(stopping.seen)
    assert stopping.stopped_epoch == trainer.current_epoch - 1


def test_without_a_pass_nothing_is_published(tmp_path: Path) -> None:
    monitor = GeneralizationGapMonitor(strict=True, train_pass="off")
    record, _ = models.run(models.Small, tmp_path, monitor)
    assert [name for name in record.published if name.startswith("gap/")] == []
