"""Numbers that a module gathers in lists for a hook of its own, and their training twins."""

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as in the programs that are run
from torch.utils.data import DataLoader, TensorDataset

from lightning_diagnostics import GeneralizationGapMonitor
from lightning_diagnostics.diagnostics.generalization_gap.gathered import Gathered, gathered, lengths, mean
from tests.helpers import trainer

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def test_numbers_of_every_kind_are_summed_up() -> None:
    module = nn.Module()
    module.losses = [torch.tensor(1.0), torch.tensor([2.0], dtype=torch.float64)]
    module.counts = [1, 2.5]
    module.outs = [{"loss": torch.tensor(1.0), "name": "a"}, {"loss": 3.0, "name": "b"}]
    module.by_set = {"val": [4.0], 1: [torch.tensor(5)]}
    assert gathered(module) == {
        "losses": Gathered(3.0, 2),
        "counts": Gathered(3.5, 2),
        "outs[:]['loss']": Gathered(4.0, 2),
        "by_set['val']": Gathered(4.0, 1),
        "by_set[1]": Gathered(5.0, 1),
    }


def test_other_things_are_passed_over() -> None:
    module = nn.Module()
    module.mixed = [1.0, "a"]
    module.wide = [torch.zeros(2)]
    module.flags = [True]
    module.empty = []
    module.nested = [[1.0]]
    module._private = [1.0]
    assert gathered(module) == {}


def test_only_what_came_after_is_taken() -> None:
    module = nn.Module()
    module.losses = [1.0, 2.0]
    before = lengths(module)
    module.losses += [10.0]
    module.later = [7.0]
    assert gathered(module, behind=before) == {"losses": Gathered(10.0, 1), "later": Gathered(7.0, 1)}


def test_the_mean_is_that_of_the_numbers_of_all_processes() -> None:
    assert mean([Gathered(3.0, 1), Gathered(3.0, 2)]) == 2.0
    assert mean([Gathered(0.0, 0)]) is None
    assert mean([Gathered(float("nan"), 1)]) is None


class Gathers(LightningModule):
    """Computes its validation loss in a hook, from what it has gathered."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.net = nn.Linear(4, 1)
        self.kept: Any = {"loss": []} if kind == "dict" else []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        loss = F.mse_loss(self.net(batch[0]), batch[1])
        if self.kind == "dict":
            self.kept["loss"].append(loss)
        else:
            self.kept.append({"loss": loss, "size": len(batch[0])} if self.kind == "list of dicts" else loss)

    def on_validation_epoch_end(self) -> None:
        if self.kind == "list of dicts":
            losses = [each["loss"] for each in self.kept]
        else:
            losses = self.kept["loss"] if self.kind == "dict" else self.kept
        self.log("val_loss", torch.stack(losses).mean())
        losses.clear() if self.kind == "dict" else self.kept.clear()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


@pytest.mark.parametrize("kind", ["list", "dict", "list of dicts"])
@pytest.mark.parametrize("sanity", [0, 2], ids=["no sanity check", "sanity check"])
def test_a_loss_that_a_hook_makes_of_a_list_has_a_training_twin(kind: str, sanity: int) -> None:
    module = Gathers(kind)
    monitor = GeneralizationGapMonitor(train_pass="full", strict=True)
    run = trainer(monitor, num_sanity_val_steps=sanity)
    training = DataLoader(TensorDataset(X[:24], Y[:24]), batch_size=8)
    run.fit(module, training, DataLoader(TensorDataset(X[24:], Y[24:]), batch_size=8))
    with torch.no_grad():
        expected = F.mse_loss(module.net(X[:24]), Y[:24])  # three batches of eight
        loss = F.mse_loss(module.net(X[24:]), Y[24:])
    metrics = run.callback_metrics
    torch.testing.assert_close(metrics["gap/training/val_loss"], expected)
    torch.testing.assert_close(metrics["gap/val_loss"], loss - expected)
    assert (module.kept["loss"] if kind == "dict" else module.kept) == []
