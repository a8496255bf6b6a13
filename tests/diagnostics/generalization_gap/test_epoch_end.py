"""Metrics that the user's own hook computes at the end of a validation: their twins are those of plain torch."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC
from typing_extensions import override

from tests.diagnostics.generalization_gap import models
from tests.diagnostics.generalization_gap.brute import Brute, everything, mean_loss, run, scores, share
from tests.diagnostics.generalization_gap.models import CLASSES, Batch, Small

# What is computed in a hook.


class InTheHook(Small):
    """Several metrics that are computed in the hook; two of them agree at first."""

    def __init__(self) -> None:
        super().__init__()
        self.one = MulticlassAccuracy(CLASSES, average="micro")
        self.other = MulticlassAccuracy(CLASSES, average="micro")
        self.ranking = MulticlassAUROC(CLASSES)

    @override
    def score(self, logits: Tensor, batch: Batch, batch_idx: int) -> None:
        self.one.update(logits, batch[1])
        self.other.update(logits.roll(1, 1) if self.current_epoch else logits, batch[1])
        self.ranking.update(logits, batch[1])

    @override
    def on_validation_epoch_end(self) -> None:
        for name, metric in (("val_rolled_acc", self.other), ("val_acc", self.one), ("val_auroc", self.ranking)):
            self.log(name, metric.compute())
            metric.reset()


def in_the_hook(module: Any, data: list[Any]) -> dict[str, float]:
    """The numbers of `InTheHook`."""
    found = scores(module, data)
    logits, targets = torch.cat([one for one, *_ in found]), torch.cat([one for _, one, _ in found])
    rolled = logits.roll(1, 1) if module.current_epoch else logits
    names = ("val_loss", "val_acc", "val_auroc")
    own = {name: value for name, value in everything(module, data).items() if name in names}
    return {**own, "val_rolled_acc": float((rolled.argmax(1) == targets).double().mean())}


def test_metrics_that_a_hook_computes_have_twins_of_their_own(tmp_path: Path) -> None:
    brute = Brute(in_the_hook)
    monitor = run(InTheHook, tmp_path, brute, max_epochs=3)
    rolled = [each["val_rolled_acc"] for each in brute.validation]
    assert rolled[:2] == [each["val_acc"] for each in brute.validation[:2]]
    assert rolled[2] != brute.validation[2]["val_acc"]
    for name in brute.training[0]:
        assert brute.agrees(name, large=name != "val_loss") == 6
    assert [finding for finding in monitor.findings if finding.code == "GAP901"] == []


class Scaled(models.Computes):
    """Its hook logs what no metric comes to."""

    @override
    def on_validation_epoch_end(self) -> None:
        self.log("val_percent_acc", 100 * self.accuracy.compute())
        super().on_validation_epoch_end()


def test_what_cannot_be_followed_has_no_twin_and_a_note(tmp_path: Path) -> None:
    brute = Brute(lambda module, data: {"val_loss": mean_loss(module, data), "val_acc": share(module, data)})
    monitor = run(Scaled, tmp_path, brute)
    assert brute.agrees("val_loss") == brute.agrees("val_acc", large=True) == 4
    (note,) = (finding for finding in monitor.findings if finding.code == "GAP901")
    assert "val_percent_acc cannot be measured on training data" in note.message
    assert all("gap/val_percent_acc" not in published for published in brute.published)
