"""Modules and Trainers that a pass cannot serve: a note or silence, and a run as without the monitor."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from typing_extensions import override

from lightning_diagnostics import Finding, GeneralizationGapMonitor, Severity
from lightning_diagnostics.diagnostics.generalization_gap import callback as home
from tests import helpers
from tests.diagnostics.generalization_gap import models
from tests.diagnostics.generalization_gap.models import Batch, Samples, Small, differences, training, validation


def blind(monitor: GeneralizationGapMonitor) -> list[Finding]:
    """The notes on what could not be measured."""
    return [finding for finding in monitor.findings if finding.code == "GAP901"]


class Writes(Small):
    """Writes each batch to a file."""

    home = Path()

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        with (self.home / "predictions.txt").open("a", encoding="utf-8") as lines:
            lines.write(f"{float(logits.sum())}\n")


class Learns(models.Manual):
    """Steps an optimizer in the validation."""

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        with torch.inference_mode(mode=False), torch.enable_grad():
            loss = self(batch[0].clone()).square().mean()
            self.manual_backward(loss)
        self.optimizers()[0].step()  # pyright: ignore[reportIndexIssue]
        self.zero_grad()


class WritesToWeights(Small):
    """Changes a weight by hand."""

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        self.net[0].bias.data.add_(0.001)  # pyright: ignore[reportCallIssue]


class Raises(Small):
    """Knows validation samples only."""

    def __init__(self) -> None:
        super().__init__()
        self.known = set(Samples(models.VALIDATION, seed=1).inputs[:, 0].tolist())

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        if float(batch[0][0, 0]) not in self.known:
            raise KeyError("no such sample")


class RaisesLater(Raises):
    """Does so from the second batch on."""

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        if batch_idx:
            super().score(logits, batch, batch_idx)


class TakesAnIterator(Small):
    """Asks for its batches itself."""

    @override
    def validation_step(self, dataloader_iter: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        batch, batch_idx, _ = next(dataloader_iter)
        super().validation_step(batch, batch_idx)


class Stream(IterableDataset):
    """The samples one after the other."""

    def __init__(self, count: int) -> None:
        self.inner = Samples(count)

    def __iter__(self) -> Iterator[Any]:
        return (self.inner[index] for index in range(len(self.inner)))


def _stream() -> Any:
    return DataLoader(Stream(models.TRAINING), models.BATCH), validation()


NOTED: dict[str, tuple[Callable[[], LightningModule], dict[str, Any], str]] = {
    "writes a file": (Writes, {}, "predictions.txt"),
    "steps an optimizer": (Learns, {}, "lets Adam change weights"),
    "writes to weights": (WritesToWeights, {}, "writes to weights"),
    "raises": (Raises, {}, "KeyError: 'no such sample'"),
    "raises later": (RaisesLater, {}, "KeyError: 'no such sample'"),
    "takes an iterator": (TakesAnIterator, {}, "reads from an iterator"),
    "stream": (Small, {"data": _stream}, "IterableDataset (Stream)"),
}


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor")
@pytest.mark.filterwarnings("ignore:Found `dataloader_iter` argument in the `validation_step`")
@pytest.mark.parametrize("kind", NOTED)
@pytest.mark.parametrize("strict", [True, False])
def test_what_cannot_be_measured_is_a_note_and_the_run_is_the_same(kind: str, strict: bool, tmp_path: Path) -> None:
    make, settings, reason = NOTED[kind]
    told = []
    monitor = GeneralizationGapMonitor(strict=strict)
    for callbacks in ([], [monitor]):
        Writes.home = folder = tmp_path / str(len(callbacks))
        folder.mkdir()
        record, trainer = models.run(make, folder, *callbacks, **{"val_check_interval": 3, **settings})
        assert trainer.current_epoch == 2
        file = folder / "predictions.txt"
        told.append({**record.told(folder), "file": file.read_text() if file.exists() else ""})
    assert differences(*told) == set()
    (note,) = blind(monitor)
    assert note.severity is Severity.INFO
    assert reason in note.message
    assert note.remedy
    assert [finding for finding in monitor.findings if finding.severity > Severity.INFO] == []


class Silent(Small):
    """Logs nothing and gives nothing."""

    @override
    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self(batch[0])


class WithHook(Small):
    """Has a hook for what cannot be read twice."""

    def train_eval_dataloader(self) -> DataLoader:
        """What to read instead."""
        return DataLoader(Samples(), models.BATCH)


def test_a_step_that_logs_nothing_is_passed_over_in_silence(tmp_path: Path) -> None:
    monitor = GeneralizationGapMonitor(strict=True)
    record, _ = models.run(Silent, tmp_path, monitor)
    assert monitor.findings == []
    assert [name for name in record.published if name.startswith("gap/")] == []


def test_a_stream_with_a_hook_is_measured(tmp_path: Path) -> None:
    monitor = GeneralizationGapMonitor(strict=True)
    record, _ = models.run(WithHook, tmp_path, monitor, data=_stream)
    assert blind(monitor) == []
    assert "gap/val_loss" in record.published


class NoValidation(LightningModule):
    """Has no validation at all."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(models.FEATURES, models.CLASSES)

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return self.layer(batch[0]).square().mean()

    @override
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (NoValidation, {"data": lambda: (training(),)}),
        (Small, {"limit_val_batches": 0}),
        (Small, {"fast_dev_run": True}),
        (Small, {"barebones": True}),
        (Small, {"limit_train_batches": 1, "limit_val_batches": 1}),
        (Small, {"check_val_every_n_epoch": 3}),
        (Small, {"overfit_batches": 2}),
    ],
    ids=lambda each: "" if isinstance(each, type) else next(iter(each)),
)
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no")
@pytest.mark.filterwarnings("ignore:You have overridden .* in `LightningModule` but running")
@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled")
@pytest.mark.filterwarnings("ignore:You are trying to `self.log\\(\\)` but `Trainer\\(barebones=True")
def test_unusual_trainers_are_no_obstacle(
    make: Callable[[], LightningModule], settings: dict[str, Any], strict: bool, tmp_path: Path
) -> None:
    monitor = GeneralizationGapMonitor(strict=strict)
    more: dict[str, Any] = dict(settings)
    if "barebones" in more:
        names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "log_every_n_steps")
        more |= dict.fromkeys(names, None) | {"num_sanity_val_steps": None}
    _, trainer = models.run(make, tmp_path, monitor, **more)
    assert trainer.current_epoch == (1 if "fast_dev_run" in settings else 2)
    assert [finding for finding in monitor.findings if finding.code != "GAP802"] == []


@pytest.mark.parametrize("entry", ["validate", "test"])
def test_an_evaluation_alone_has_no_pass(entry: str) -> None:
    class Tested(models.Appends):
        def test_step(self, batch: Batch, batch_idx: int) -> None:
            self.log("test_loss", self(batch[0]).square().mean())

    monitor = GeneralizationGapMonitor(strict=True)
    trainer = helpers.trainer(monitor)
    module = Tested()
    getattr(trainer, entry)(module, validation(), verbose=False)
    assert monitor.findings == []
    assert [name for name in trainer.callback_metrics if "gap" in name] == []
    assert module.calls == (3 if entry == "validate" else 0)


def test_an_evaluation_after_the_training_has_no_pass_either(tmp_path: Path) -> None:
    monitor = GeneralizationGapMonitor(strict=True)
    _, trainer = models.run(models.Appends, tmp_path, monitor)
    module: Any = trainer.lightning_module
    before, findings = module.calls, list(monitor.findings)
    trainer.validate(module, validation(), verbose=False)
    assert module.calls == before + 3
    assert monitor.findings == findings
    assert [name for name in trainer.callback_metrics if "gap" in name] == []


def test_a_fault_of_ours_ends_the_monitor_and_not_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fault(*args: Any) -> Any:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(home.Scoring, "scores", fault)
    without = models.run(models.Appends, tmp_path / "without")[0].told(tmp_path / "without")
    with helpers.heard() as records:
        record, trainer = models.run(models.Appends, tmp_path / "with", GeneralizationGapMonitor())
    assert trainer.current_epoch == 2
    assert differences(without, record.told(tmp_path / "with")) == set()
    assert len([each for each in records if each.exc_info]) == 1
    with pytest.raises(ZeroDivisionError, match="planted"):
        models.run(models.Appends, tmp_path / "strict", GeneralizationGapMonitor(strict=True))
