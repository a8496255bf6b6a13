"""Several validation loaders, and batches of other kinds."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from tests.diagnostics.generalization_gap import models
from tests.diagnostics.generalization_gap.brute import Brute, mean_loss, run
from tests.diagnostics.generalization_gap.models import Batch, Samples, Small, training, validation

# Loaders and batches.


@pytest.mark.parametrize("apart", [True, False])
def test_each_validation_loader_has_a_pass_as_large_as_it_is(apart: bool, tmp_path: Path) -> None:
    class Loaders(Small):
        @override
        def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
            loss = functional.cross_entropy(self(batch[0]), batch[1])
            name = "loss" if apart else f"loss_{dataloader_idx}"
            self.log(name, loss, add_dataloader_idx=apart)

    counts = (models.VALIDATION, 17)
    for loader, count in enumerate(counts):
        folder = tmp_path / str(loader)
        brute = Brute(lambda module, data: {"loss": mean_loss(module, data)}, count, loader=loader)
        run(Loaders, folder, brute, data=lambda: (training(), [validation(), validation(counts[1], seed=2)]))
        name = f"loss/dataloader_idx_{loader}" if apart else f"loss_{loader}"
        assert brute.agrees(name, "loss") == 4


class AsDicts(Dataset):
    """The same samples as dicts."""

    def __init__(self, inner: Samples) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        inputs, target = self.inner[index]
        return {"features": inputs, "label": target}


class TakesDicts(Small):
    """Takes batches that are dicts."""

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return super().training_step((batch["features"], batch["label"]), batch_idx)

    @override
    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        super().validation_step((batch["features"], batch["label"]), batch_idx)


def test_batches_may_be_dicts(tmp_path: Path) -> None:
    def data() -> Any:
        train, val = AsDicts(Samples()), AsDicts(Samples(models.VALIDATION, seed=1))
        return DataLoader(train, models.BATCH, shuffle=True), DataLoader(val, models.BATCH)

    def expected(module: Any, data: list[Any]) -> dict[str, float]:
        return {"val_loss": mean_loss(module, [(batch["features"], batch["label"]) for batch in data])}

    brute = Brute(expected)
    run(TakesDicts, tmp_path, brute, data=data)
    assert brute.agrees("val_loss") == 4
