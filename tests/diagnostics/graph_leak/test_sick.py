"""Every kind of holder is found within ten steps, under a path that evaluates to it, with the fix for that case."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from lightning_diagnostics import Finding, GraphLeakDetector, Severity
from tests.diagnostics.graph_leak import elsewhere, sick
from tests.helpers import trainer

EXTRA = {"callback": [sick.KeepsOutputs]}
DATA = {"data module": sick.Data}

pytestmark = pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph=True will create a reference")


class Watches(Callback):
    """Notes in which batch the first finding stood there, and what its path led to then."""

    def __init__(self, detector: GraphLeakDetector) -> None:
        self.detector = detector
        self.batch: int | None = None
        self.holder = ""  # its type: whoever kept the holder itself would be a second one

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.batch is None and self.detector.findings:
            self.batch = args[-1]
            where = self.detector.findings[0].where
            names = {"model": pl_module, "trainer": trainer, "sys": sys}
            self.holder = type(eval(where, names)).__name__ if where else ""


def train(name: str, **settings: Any) -> tuple[list[Finding], Watches]:
    """Ten steps of a sick program."""
    sick.HISTORY.clear()
    elsewhere.HISTORY.clear()
    sick.OfTheClass.losses.clear()
    detector = GraphLeakDetector(strict=True)
    watches = Watches(detector)
    extra = [cls() for cls in EXTRA.get(name, [])]
    run = trainer(*extra, detector, watches, **{"max_epochs": 1, **settings})
    data = DATA[name]() if name in DATA else sick.batches()
    run.fit(sick.SICK[name].make(), data)
    return detector.findings, watches


@pytest.mark.parametrize("name", sick.SICK)
def test_a_holder_is_found_within_ten_steps_and_its_path_evaluates_to_it(name: str) -> None:
    case = sick.SICK[name]
    findings, watches = train(name)
    first = 1 if name.startswith("raw ") else 0  # what is not announced is watched from the second step on
    assert [(f.code, f.where, f.first_step, f.status) for f in findings] == [(case.code, case.where, first, "open")]
    assert findings[0].severity is Severity.WARNING
    assert case.remedy in findings[0].remedy
    assert watches.batch is not None
    assert watches.batch < 10
    assert watches.holder == case.holder


@pytest.mark.parametrize(
    "settings",
    [{"accumulate_grad_batches": 4}, {"precision": "bf16-mixed"}, {"gradient_clip_val": 0.1}, {"detect_anomaly": True}],
    ids=str,
)
@pytest.mark.parametrize("name", ["running sum", "list of outputs"])
def test_a_holder_is_found_in_every_mode_of_training(name: str, settings: dict[str, Any]) -> None:
    findings, _ = train(name, **settings)
    assert [(f.code, f.where, f.first_step) for f in findings] == [(sick.SICK[name].code, sick.SICK[name].where, 0)]


def test_a_list_that_is_cleared_at_the_end_of_every_epoch_is_one_finding_that_stays_open() -> None:
    findings, _ = train("list of an epoch", max_epochs=5)
    assert [(f.where, f.status, f.first_step) for f in findings] == [("model.losses", "open", 0)]
    assert findings[0].last_step >= 40


def test_the_numbers_of_a_finding_are_those_of_the_end_of_the_run() -> None:
    findings, _ = train("list of losses", max_epochs=5)
    assert findings[0].evidence["retained_steps"] == 49  # all but the last, which is young
    assert findings[0].evidence["tensors"] == 50
    assert findings[0].last_step == 49


def test_a_bounded_window_is_a_note_and_is_closed_when_it_has_stopped_growing() -> None:
    detector = GraphLeakDetector(strict=True)
    trainer(detector, max_epochs=14).fit(sick.Window(), sick.batches())
    assert [(f.where, f.severity, f.status) for f in detector.findings] == [
        ("model.window", Severity.INFO, "closed"),
    ]


def test_min_age_leaves_those_alone_who_keep_graphs_on_purpose() -> None:
    detector = GraphLeakDetector(strict=True, min_age=52)
    trainer(detector, max_epochs=14).fit(sick.Window(), sick.batches())
    assert detector.findings == []


def test_two_holders_are_two_findings() -> None:
    class Both(sick.Outputs):
        running_loss: Any = 0.0

        def keep(self, loss: Any, logits: Any) -> None:
            super().keep(loss, logits)
            self.running_loss += loss

    detector = GraphLeakDetector(strict=True)
    trainer(detector, max_epochs=1).fit(Both(), sick.batches())
    assert {(f.code, f.where) for f in detector.findings} == {
        ("MEM101", "model.running_loss"),
        ("MEM102", "model.outputs"),
    }


def test_a_leak_that_begins_late_is_found_at_looks() -> None:
    class Late(sick.Outputs):
        def keep(self, loss: Any, logits: Any) -> None:
            if self.global_step >= 33:
                super().keep(loss, logits)

    detector = GraphLeakDetector(strict=True)
    trainer(detector, max_epochs=6).fit(Late(), sick.batches())
    assert [(f.code, f.where, f.first_step) for f in detector.findings] == [("MEM102", "model.outputs", 33)]


def test_attributes_that_raise_when_they_are_read_are_passed_over() -> None:
    class Evil:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    class Touchy(sick.Losses):
        def __init__(self) -> None:
            super().__init__()
            self.__dict__["evil"] = Evil()

        @property
        def broken(self) -> None:
            raise ZeroDivisionError

    detector = GraphLeakDetector(strict=True)
    trainer(detector, max_epochs=1).fit(Touchy(), sick.batches())
    assert [f.where for f in detector.findings] == ["model.losses"]


def test_the_curve_of_living_graphs_never_falls_while_they_are_kept(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    detector = GraphLeakDetector(strict=True)
    run = trainer(detector, max_epochs=1, logger=logger)
    run.fit(sick.Losses(), DataLoader([*sick.batches()] * 80, batch_size=None))
    rows = csv.DictReader((tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines())
    drawn = [float(row["graph_leak/graphs_alive"]) for row in rows]
    assert drawn == sorted(drawn)
    assert drawn[-1] == pytest.approx(799, abs=8)
