"""Programs that look like a mistake and are none: nobody is accused, in any stage."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import BaseFinetuning, StochasticWeightAveraging
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from lightning_diagnostics import BatchNormGuard
from tests.diagnostics.batch_norm import sick
from tests.diagnostics.batch_norm.sick import Batch, Patient
from tests.helpers import accusations, trainer

try:
    from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
except ImportError:  # of an older Lightning
    EMAWeightAveraging = WeightAveraging = None  # type: ignore[assignment,misc]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


# Frozen on purpose.


class FrozenInTheConstructor(Patient):
    """The norms are in evaluation mode from the start, and their weights learn."""

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__(sick=sick)
        self.net[1].eval()
        self.net[5].eval()


class FrozenAtTrainStart(Patient):
    """The same, done in ``on_train_start``."""

    def on_train_start(self) -> None:
        self.net[1].eval()


class FrozenByTrain(Patient):
    """``train()`` leaves the norms in evaluation mode."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.net[1].eval()
        return self

    def on_fit_start(self) -> None:
        self.train()


class FrozenLater(Patient):
    """Weights and mode of the backbone are frozen from the second epoch on."""

    def on_train_epoch_start(self) -> None:
        if self.current_epoch:
            self.net[:4].eval().requires_grad_(False)


class HeadForgotten(FrozenLater):
    """The same, and the dropout of the head in evaluation mode by mistake."""

    def build(self) -> nn.Module:
        return nn.Sequential(*super().build()[:7], nn.Sequential(nn.Dropout(0.1), nn.Linear(16, 10)))

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.current_epoch:
            self.net[7].eval()


class FrozenWholly(Patient):
    """A backbone in evaluation mode, without gradients, in every step."""

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__(sick=sick)
        self.net[:2].requires_grad_(False)

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        self.net[:2].eval()
        return super().training_step(batch, batch_idx)

    def on_fit_start(self) -> None:
        self.net[:2].eval()


class Finetunes(BaseFinetuning):
    """Lightning's own way: the backbone is frozen, and learns from the second epoch on."""

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.net[:4], train_bn=False)

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[:4], optimizer, lr=0.01)


class Finetuned(Patient):
    """What is fine-tuned so."""

    def configure_callbacks(self) -> list[Callback]:
        return [Finetunes()]


# Other norms.


class OtherNorms(Patient):
    """Instance norm, group norm, layer norm and local response norm."""

    def build(self) -> nn.Module:
        return nn.Sequential(
            *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.InstanceNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)),
            *(nn.GroupNorm(2, 8), nn.LocalResponseNorm(2), nn.Flatten(), nn.Linear(128, 32), nn.LayerNorm(32)),
            nn.Linear(32, 10),
        )


class InstancesTrackNothing(Patient):
    """Instance norm that is in training mode in evaluation does the same as else."""

    def build(self) -> nn.Module:
        norm = nn.Sequential(nn.Unflatten(1, (8, 8)), nn.InstanceNorm1d(8, affine=True), nn.Flatten())
        return nn.Sequential(norm, nn.Linear(64, 10))

    def on_validation_start(self) -> None:
        self.net[0].train()


# Adversarial.


class Gan(LightningModule):
    """Batch norm in generator and discriminator, which sees real and generated images in one step."""

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 64), nn.Sigmoid())
        self.judge = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.LeakyReLU(), nn.Linear(32, 1))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        first, second = self.optimizers()
        made = self.generator(torch.randn(len(batch[0]), 8))
        self.toggle_optimizer(second)
        real, false = self.judge(batch[0]), self.judge(made.detach())
        self.manual_backward(functional.softplus(-real).mean() + functional.softplus(false).mean())
        second.step()
        second.zero_grad()
        self.untoggle_optimizer(second)
        self.toggle_optimizer(first)
        self.manual_backward(functional.softplus(-self.judge(made)).mean())
        first.step()
        first.zero_grad()
        self.untoggle_optimizer(first)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        made = self.generator(torch.randn(len(batch[0]), 8))
        self.log("val_loss", functional.softplus(self.judge(made)).mean() + self.judge(batch[0]).mean())

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(each.parameters(), 1e-3) for each in (self.generator, self.judge)]


# Averages and teachers.


class MeanTeacher(Patient):
    """A teacher in training mode, without gradients, whose weights follow the student's; it is what is evaluated."""

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__(sick=sick)
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        with torch.no_grad():
            goal = self.teacher(batch[0] + 0.05 * torch.randn_like(batch[0])).softmax(1)
        logits = self(batch[0])
        return functional.cross_entropy(logits, batch[1]) + functional.mse_loss(logits.softmax(1), goal)

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        for old, new in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
            old.lerp_(new, 0.1)

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        self.log(f"{name}_loss", functional.cross_entropy(self.teacher(batch[0]), batch[1]))


class UpdatesStatistics(Patient):
    """Statistics of averaged weights are recomputed before each validation."""

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__(sick=sick)
        self.average = torch.optim.swa_utils.AveragedModel(self.net).requires_grad_(False)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.average.update_parameters(self.net)

    def on_validation_start(self) -> None:
        if not self.trainer.sanity_checking and self.trainer.state.fn == "fit":
            with torch.inference_mode(False):
                torch.optim.swa_utils.update_bn(self.trainer.train_dataloader, self.average)
            self.average.eval()

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        self.log(f"{name}_loss", functional.cross_entropy(self.average(batch[0]), batch[1]))


def _with(make: Callable[[], Callback]) -> type[Patient]:
    class Averaging(Patient):
        def configure_callbacks(self) -> list[Callback]:
            return [make()]

    return Averaging


# Samples that see each other, in training or by right.


class Contrastive(Patient):
    """InfoNCE over the batch in training; each sample by itself in evaluation."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        one, two = (functional.normalize(self(batch[0] + 0.1 * torch.randn_like(batch[0]))) for _ in range(2))
        return functional.cross_entropy(one @ two.t() / 0.1, torch.arange(len(one)))

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        self.log(f"{name}_norm", functional.normalize(self(batch[0])).abs().mean())


class ContrastiveInValidation(Contrastive):
    """The loss of the validation compares samples; the embedding of each is its own."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        one, two = functional.normalize(self(batch[0])), functional.normalize(self(batch[0] * 0.9))
        self.log(f"{name}_loss", functional.cross_entropy(one @ two.t() / 0.1, torch.arange(len(one))))


def lengths_of(inputs: Tensor) -> Tensor:
    """A length for each sample, from the sample itself."""
    return 2 + (inputs[:, 20] * 16).long() % 7


class Padded(Patient):
    """A transformer over sequences of several lengths, with a mask of the padding."""

    def build(self) -> nn.Module:
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        return nn.Linear(8, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        padding = torch.arange(8)[None] >= lengths_of(inputs)[:, None]
        rows = inputs.view(-1, 8, 8).masked_fill(padding[..., None], 0.0)
        hidden = self.encoder(rows, src_key_padding_mask=padding)
        return self.net(hidden.masked_fill(padding[..., None], 0.0).sum(1) / lengths_of(inputs)[:, None])


class PaddedToTheLongest(Padded):
    """The padding is cut to the longest sample of the batch."""

    def forward(self, inputs: Tensor) -> Tensor:
        lengths = lengths_of(inputs)
        rows = inputs.view(-1, 8, 8)[:, : int(lengths.max())]
        padding = torch.arange(rows.shape[1])[None] >= lengths[:, None]
        hidden = self.encoder(rows, src_key_padding_mask=padding)
        return self.net(hidden.masked_fill(padding[..., None], 0.0).sum(1) / lengths[:, None])


class Packed(Patient):
    """A recurrent layer over packed sequences."""

    def build(self) -> nn.Module:
        self.rnn = nn.GRU(8, 16, batch_first=True)
        return nn.Linear(16, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        packed = pack_padded_sequence(inputs.view(-1, 8, 8), lengths_of(inputs), batch_first=True, enforce_sorted=False)
        return self.net(self.rnn(packed)[1][0])


class Attention(nn.Module):
    """Attention whose dropout obeys the mode."""

    def forward(self, rows: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(rows, rows, rows, dropout_p=0.1 if self.training else 0.0)


class AttendsRightly(Patient):
    """Dropout in attention, as it should be."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Unflatten(1, (8, 8)), Attention(), nn.Flatten(), nn.Linear(64, 10))


class EvaluatesInBetween(Patient):
    """The training step looks at the network in evaluation mode, and puts every mode back."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        before = {module: module.training for module in self.modules()}
        self.eval()
        with torch.no_grad():
            self(batch[0])
        for module, training in before.items():
            module.training = training
        return super().training_step(batch, batch_idx)


SILENT: dict[str, type[Any]] = {
    each.__name__: each
    for each in (
        *(FrozenInTheConstructor, FrozenAtTrainStart, FrozenByTrain, FrozenLater, FrozenWholly, Finetuned),
        *(OtherNorms, InstancesTrackNothing, Gan, MeanTeacher, UpdatesStatistics),
        *(Contrastive, ContrastiveInValidation, Padded, PaddedToTheLongest, Packed, AttendsRightly),
        EvaluatesInBetween,
    )
}
SILENT["stochastic weight averaging"] = _with(lambda: StochasticWeightAveraging(0.05, swa_epoch_start=2))
if WeightAveraging is not None:
    SILENT["averaged weights and buffers"] = _with(lambda: WeightAveraging(use_buffers=True))
    SILENT["moving average of weights and buffers"] = _with(lambda: EMAWeightAveraging(decay=0.9, use_buffers=True))

a_third = pytest.mark.parametrize(
    "name", [name if i % 3 == 0 else pytest.param(name, marks=pytest.mark.slow) for i, name in enumerate(SILENT)]
)


@a_third
def test_nobody_is_accused_in_training_and_validation(name: str) -> None:
    guard = BatchNormGuard(strict=True, every_n_train_steps=1, batch_dependence="every")
    module = sick.made(SILENT[name], sick=False)
    run = sick.run(module, guard, data=sick.digits(batches=20), max_epochs=4, num_sanity_val_steps=2)
    assert run.state.finished
    assert [str(finding) for finding in accusations(guard)] == []
    assert {finding.code for finding in guard.findings} <= {"BN801", "BN103"}


@pytest.mark.parametrize("name", [name for name in SILENT if name != "Gan"])
@pytest.mark.parametrize(
    "entry", ["validate", *(pytest.param(each, marks=pytest.mark.slow) for each in ("test", "predict"))]
)
def test_nobody_is_accused_in_an_evaluation_alone(name: str, entry: str) -> None:
    guard = BatchNormGuard(strict=True)
    run = trainer(guard)
    getattr(run, entry)(sick.made(SILENT[name], sick=False), sick.digits()[1])
    assert guard.findings == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SILENT)
def test_fix_mends_nothing(name: str) -> None:
    without, mended = sick.made(SILENT[name], sick=False), sick.made(SILENT[name], sick=False)
    sick.run(without, max_epochs=3)
    sick.run(mended, BatchNormGuard(strict=True, fix=True), max_epochs=3)
    assert [each.training for each in mended.modules()] == [each.training for each in without.modules()]
    state = without.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in mended.state_dict().items())


def test_what_learns_beside_it_and_is_asleep_is_accused_all_the_same() -> None:
    guard = BatchNormGuard(strict=True)
    sick.run(sick.made(HeadForgotten, sick=False), guard, max_epochs=2)
    assert [(finding.code, finding.where) for finding in accusations(guard)] == [("BN102", "net.7.0")]
