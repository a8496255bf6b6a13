"""The onset in real runs of given numbers: what is watched, what is said, what is published, and what callbacks see."""

import math
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from typing_extensions import override

from lightning_diagnostics import GeneralizationGapMonitor
from tests.diagnostics.generalization_gap.scripted import alike, fit, rising

OVERFITTING, OVERCONFIDENT, BLIND = "GAP101", "GAP801", "GAP901"


def _codes(monitor: GeneralizationGapMonitor) -> list[tuple[str, str | None, str]]:
    return [(each.code, each.where, each.status) for each in monitor.findings]


class Open(Callback):
    """Writes down which findings are open, and what is published, after each validation."""

    def __init__(self) -> None:
        self.codes: list[set[str]] = []
        self.published: list[dict[str, float]] = []

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch:
            self._note(trainer)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(trainer)

    def _note(self, trainer: Trainer) -> None:
        monitors: list[Any] = [each for each in trainer.callbacks if isinstance(each, GeneralizationGapMonitor)]  # pyright: ignore[reportAttributeAccessIssue]
        findings = [each for monitor in monitors for each in monitor.findings]
        self.codes.append({each.code for each in findings if each.status == "open"})
        self.published.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def test_a_rise_is_overfitting_at_the_step_of_the_onset() -> None:
    monitor = fit({"val_loss": rising(12)}, more={"patience": 3})
    (finding,) = monitor.findings
    assert (finding.code, finding.where, finding.first_step) == (OVERFITTING, "val_loss", 4 * 12 - 1)


def test_an_accuracy_that_is_named_is_followed_in_its_own_numbers() -> None:
    accuracy = [0.5, 0.625, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5]
    monitor = fit(
        {"val_loss": alike(*[1.0] * 8), "val_acc": (accuracy, [0.5 + 0.05 * epoch for epoch in range(8)])},
        more={"monitor": "val_acc", "patience": 3},
    )
    (finding,) = [each for each in monitor.findings if each.code == OVERFITTING]
    assert finding.where == "val_acc"
    assert (
        "val_acc was best at step 35 (0.75) and has gone to 0.55 in the 5 validations since (the mean"
        in finding.message
    )
    assert finding.message.endswith("On training data val_acc has got better meanwhile, from 0.6 to 0.8.")


@pytest.mark.parametrize(
    ("monitor", "words"),
    [
        ("val_los", "no validation metric is called 'val_los': there are 'val_loss'"),
        ("val_thing", "whether val_thing shall be small or large is not known"),
    ],
)
def test_a_monitor_that_cannot_be_followed_is_a_note(monitor: str, words: str) -> None:
    watcher = fit({"val_loss": rising(12), "val_thing": rising(12)}, more={"monitor": monitor, "patience": 3})
    (note,) = watcher.findings
    assert note.code == BLIND
    assert words in note.message


def test_of_a_loss_and_its_parts_the_loss_is_watched() -> None:
    flat = alike(*[1.0] * 12)
    curves = {"val_recon_loss": flat, "val_kl_loss": flat, "val_loss": rising(12)}
    assert [where for code, where, _ in _codes(fit(curves, more={"patience": 3})) if code == OVERFITTING] == [
        "val_loss"
    ]
    curves = {"val_recon_loss": rising(12), "val_kl_loss": rising(12), "val_loss": flat}
    assert [where for code, where, _ in _codes(fit(curves, more={"patience": 3})) if code == OVERFITTING] == []


def test_a_metric_that_begins_late_makes_no_warning() -> None:
    late = (None, None, None, None, 0.5, 0.5, 0.5, 0.5)
    monitor = fit(
        {"val_loss": ([1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0], [0.9**n for n in range(8)]), "val_acc": (late, late)},
        more={"patience": 4},
    )
    assert [code for code, *_ in _codes(monitor) if code in (OVERFITTING, OVERCONFIDENT)] == []


@pytest.mark.parametrize("recovers", [False, True])
def test_overfitting_and_overconfident_are_never_open_together(recovers: bool) -> None:
    epochs = 24
    falling = [0.75 if epoch < 12 else 0.75 - 0.02 * (epoch - 12) for epoch in range(epochs)]
    accuracy = [0.75 if 0 < epoch < 4 or epoch > 10 else 0.5 for epoch in range(epochs)] if recovers else falling
    watcher = Open()
    monitor = fit({"val_loss": rising(epochs), "val_acc": (accuracy, [0.75] * epochs)}, watcher, more={"patience": 3})
    assert len(watcher.codes) == epochs
    seen = [each & {OVERFITTING, OVERCONFIDENT} for each in watcher.codes]
    assert {OVERFITTING} in seen
    assert {OVERCONFIDENT} in seen
    assert {OVERFITTING, OVERCONFIDENT} not in seen
    assert sorted(code for code, *_ in _codes(monitor) if code != BLIND) == [OVERFITTING, OVERCONFIDENT]


def test_a_loss_that_is_no_number_has_a_gap_that_is_none() -> None:
    watcher = Open()
    fit({"val_loss": ([1.0, 1.0, math.nan, 1.0], [0.5, 0.5, 0.5, 0.5])}, watcher)
    gaps = [each["gap/val_loss"] for each in watcher.published]
    assert gaps == pytest.approx([0.5, 0.5, math.nan, 0.5], abs=1e-3, nan_ok=True)
    twins = [each["gap/training/val_loss"] for each in watcher.published]
    assert twins == pytest.approx([0.5, 0.5, math.nan, 0.5], abs=1e-3, nan_ok=True)


def test_early_stopping_on_the_gap_sees_that_it_is_no_number() -> None:
    stopping = EarlyStopping("gap/val_loss", mode="min", patience=100, check_finite=True)
    fit({"val_loss": ([1.0, 1.0, math.nan, 1.0, 1.0], [0.5] * 5)}, stopping)
    assert stopping.stopped_epoch == 2


@pytest.mark.parametrize(
    "losses", [([math.nan, 1.0, 1.0], [0.5] * 3), ([1.0] * 3, [math.nan] * 3)], ids=["validation", "training"]
)
def test_early_stopping_sees_so_at_the_first_validation_too(losses: Any) -> None:
    stopping = EarlyStopping("gap/val_loss", mode="min", patience=100, check_finite=True)
    watcher = Open()
    fit({"val_loss": losses}, stopping, watcher)
    assert [math.isnan(each["gap/val_loss"]) for each in watcher.published] == [True]
