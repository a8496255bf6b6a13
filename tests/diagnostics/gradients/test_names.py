"""What optimizers are called: as ``LearningRateMonitor`` calls them, and alike if one takes the place of another."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_diagnostics import GradientNormMonitor
from tests.helpers import fit, trainer
from tests.patients import Student


class _MadeAnew(Student):
    """A new optimizer in every epoch, which Lightning does not know."""

    def __init__(self) -> None:
        super().__init__(manual=True)

    def on_train_epoch_start(self) -> None:
        self.own = torch.optim.SGD(self.parameters(), lr=0.01)

    def step_by_hand(self, loss: Tensor, batch_idx: int) -> None:
        self.manual_backward(loss)
        self.own.step()
        self.own.zero_grad()

    def configure_optimizers(self) -> Any:
        return None


class _TwoOfAKind(Student):
    def __init__(self) -> None:
        super().__init__(manual=True)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = nn.functional.mse_loss(self(batch[0]).squeeze(-1), batch[1])
        self.log("train_loss", loss)
        self.step_by_hand(loss, batch_idx)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.01) for part in (self.net[0], self.net[1:])]


@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
def test_an_optimizer_that_is_made_anew_keeps_its_name() -> None:
    monitor = GradientNormMonitor(strict=True)
    fit(trainer(monitor, max_epochs=4), _MadeAnew())
    assert {name: history.steps for name, history in monitor._histories.items()} == {"SGD": 4 * 8}


def test_two_of_a_kind_are_told_apart() -> None:
    monitor = GradientNormMonitor(strict=True)
    fit(trainer(monitor, max_epochs=1), _TwoOfAKind())
    assert {name: history.steps for name, history in monitor._histories.items()} == {"SGD": 8, "SGD-1": 8}
