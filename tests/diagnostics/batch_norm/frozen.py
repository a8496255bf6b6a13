"""Healthy programs whose norms are frozen on purpose, or whose weights are averaged with statistics that fit."""

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, callbacks
from lightning.pytorch.callbacks import BaseFinetuning, StochasticWeightAveraging
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from typing_extensions import Self, override

from tests.diagnostics.batch_norm.data import Batch, Classifier, Program, digits, images, split
from tests.diagnostics.batch_norm.plain import FAST, SGD, cnn, mlp


@cache
def _pretrained(image: bool) -> dict[str, Tensor]:
    """The weights of a network that has learned to tell odd digits from even ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = cnn() if image else mlp()
    inputs, labels, *_ = split(image=image)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    with torch.enable_grad(), torch.inference_mode(mode=False):
        for rows in torch.arange(len(inputs)).split(32) * 5:
            loss = functional.cross_entropy(net(inputs[rows]), labels[rows] % 2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


class Backbone(Classifier):
    def __init__(self, *, image: bool = True) -> None:
        super().__init__()
        whole = cnn() if image else mlp()
        whole.load_state_dict(_pretrained(image))
        self.backbone = whole[:-1]
        self.head = nn.Linear(32 if image else 96, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.backbone(inputs))

    @property
    def norms(self) -> list[nn.Module]:
        """The norms of the backbone."""
        return [each for each in self.backbone.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([each for each in self.parameters() if each.requires_grad], lr=5e-3)


class EvalFromTheStart(Backbone):
    """Norms are put into evaluation mode when training starts; their weights learn."""

    def on_fit_start(self) -> None:
        for norm in self.norms:
            norm.eval()


class WhollyFrozen(Backbone):
    """The backbone learns nothing and stays in evaluation mode."""

    def __init__(self, *, image: bool = True) -> None:
        super().__init__(image=image)
        self.backbone.requires_grad_(False)
        self.backbone.eval()


class EvalEveryEpoch(Backbone):
    """The backbone is put into evaluation mode at the start of every epoch."""

    def __init__(self, *, image: bool = True) -> None:
        super().__init__(image=image)
        self.backbone.requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        self.backbone.eval()


class TrainOverridden(Backbone):
    """``train()`` of the module leaves its norms in evaluation mode."""

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for norm in self.norms:
            norm.eval()
        return self

    def on_fit_start(self) -> None:
        self.train()


class EvalInTheStep(Backbone):
    """A frozen backbone is put into evaluation mode by every step, under ``no_grad``."""

    def __init__(self, *, image: bool = True) -> None:
        super().__init__(image=image)
        self.backbone.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        self.backbone.eval()
        with torch.no_grad():
            features = self.backbone(inputs)
        return self.head(features)


class FrozenLater(Backbone):
    def on_train_epoch_start(self) -> None:
        if self.current_epoch >= 2:
            self.backbone.requires_grad_(False)
            self.backbone.eval()


class Thaw(BaseFinetuning):
    """Lightning's own way: frozen before training, some of it learns from the third epoch on."""

    def __init__(self, *, train_bn: bool) -> None:
        super().__init__()
        self._train_bn = train_bn

    @override
    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.backbone, train_bn=self._train_bn)

    @override
    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        if epoch == 2:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, train_bn=self._train_bn)


class Averaged(Classifier):
    """An average of the weights is evaluated, its statistics recomputed before each validation."""

    def __init__(self, *, use_buffers: bool = False) -> None:
        super().__init__(cnn(), SGD)
        average = get_ema_multi_avg_fn(0.95)
        self.average = AveragedModel(self.net, multi_avg_fn=average, use_buffers=use_buffers)
        self.use_buffers = use_buffers

    def on_train_batch_end(self, *_: Any) -> None:
        self.average.update_parameters(self.net)

    def on_train_epoch_end(self) -> None:
        if not self.use_buffers:
            self.average.train()
            update_bn((batch[0] for batch in self.trainer.train_dataloader), self.average)

    def on_validation_epoch_start(self) -> None:
        if not self.use_buffers and not self.trainer.sanity_checking:
            update_bn((batch[0] for batch in self.trainer.train_dataloader), self.average)
            self.average.eval()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("plain", (self(batch[0]).argmax(1) == batch[1]).float().mean())
        self.log("score", (self.average(batch[0]).argmax(1) == batch[1]).float().mean())


class AverageByHand(Classifier):
    """Weights are averaged, and buffers copied; the copy is what is evaluated."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.slow = copy.deepcopy(self.net).requires_grad_(False).eval()

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.slow.eval()
        return self

    @torch.no_grad()
    def on_train_batch_end(self, *_: Any) -> None:
        for slow, fast in zip(self.slow.parameters(), self.net.parameters(), strict=True):
            slow.lerp_(fast, 0.1)
        for slow, fast in zip(self.slow.buffers(), self.net.buffers(), strict=True):
            slow.copy_(fast)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("score", (self.slow(batch[0]).argmax(1) == batch[1]).float().mean())


class Swapped(Callback):
    """Averaged weights and buffers are put in for the validation, and taken out after it."""

    def __init__(self) -> None:
        self.average: dict[str, Tensor] = {}

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        for name, value in pl_module.state_dict().items():
            old = self.average.setdefault(name, value.detach().clone())
            old.lerp_(value, 0.1) if old.is_floating_point() else old.copy_(value)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.own = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
        pl_module.load_state_dict(self.average or self.own)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.load_state_dict(self.own)


class MeanTeacher(Classifier):
    """A teacher's weights follow; it is in training mode under ``no_grad``, or in evaluation mode with buffers."""

    def __init__(self, *, evaluates: bool = False) -> None:
        super().__init__(mlp())
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)
        self.evaluates = evaluates
        if evaluates:
            self.teacher.eval()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        with torch.no_grad():
            goal = self.teacher(batch[0] + 0.1 * torch.randn_like(batch[0])).softmax(1)
            for slow, fast in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 0.05)
            if self.evaluates:
                for slow, fast in zip(self.teacher.buffers(), self.net.buffers(), strict=True):
                    slow.copy_(fast)
        logits = self(batch[0])
        return functional.cross_entropy(logits, batch[1]) + functional.mse_loss(logits.softmax(1), goal)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("teacher", (self.teacher(batch[0]).argmax(1) == batch[1]).float().mean())


class Distilled(Classifier):
    """A frozen teacher in evaluation mode, trained before, and a small student."""

    def __init__(self) -> None:
        super().__init__(mlp(wide=32))
        self.teacher = mlp()
        self.teacher.load_state_dict(_pretrained(False))
        self.teacher.requires_grad_(False).eval()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return (
            super().training_step(batch, batch_idx) + 0.01 * (self(batch[0]) - self.teacher(batch[0])).square().mean()
        )


def inverted(inputs: Tensor) -> Tensor:
    """Black on white."""
    return 4 - 4 * inputs


def _averaging(label: str, callback: Callable[[], Callback], epochs: int = 6, optimizer: Any = SGD) -> Program:
    return Program(
        lambda: Classifier(cnn(), optimizer), images(32), epochs, 0.85, label, callbacks=lambda: [callback()]
    )


def _by_lightning() -> tuple[Program, ...]:
    """Weights averaged by the callbacks for it, which Lightning older than 2.6 has not, or not both of them."""
    if not hasattr(callbacks, "EMAWeightAveraging"):
        return ()
    average, moving = callbacks.WeightAveraging, callbacks.EMAWeightAveraging
    return (
        _averaging("weight_averaging", average),
        _averaging("weight_averaging_own_buffers", partial(average, use_buffers=False)),
        _averaging("ema_0.95", partial(moving, decay=0.95)),
        _averaging("ema_0.95_own_buffers", partial(moving, decay=0.95, use_buffers=False)),
        _averaging("ema_0.99", partial(moving, decay=0.99), 10),
        _averaging("ema_0.99_own_buffers", partial(moving, decay=0.99, use_buffers=False), 10),
        _averaging("ema_0.99_from_later_on", partial(moving, decay=0.99, update_starting_at_epoch=2), 8),
        _averaging("ema_0.9_sgd_0.5", partial(moving, decay=0.9), 6, FAST),
    )


PROGRAMS = (
    Program(EvalFromTheStart, images(), 4, 0.6),
    Program(partial(EvalFromTheStart, image=False), digits(), 4, 0.6, "EvalFromTheStartDense"),
    Program(WhollyFrozen, images(), 4, 0.4),
    Program(EvalEveryEpoch, images(), 4, 0.4),
    Program(TrainOverridden, images(), 4, 0.6),
    Program(EvalInTheStep, images(), 4, 0.4),
    Program(Backbone, images(rows=320, scale=inverted), 20, 0.3, "new_domain"),
    Program(partial(Backbone, image=False), digits(rows=320, scale=inverted), 20, 0.5, "new_domain_dense"),
    Program(FrozenLater, images(), 6, 0.6),
    Program(Backbone, images(), 5, 0.6, "finetuning_train_bn", callbacks=lambda: [Thaw(train_bn=True)]),
    Program(Backbone, images(), 5, 0.6, "finetuning_no_bn", callbacks=lambda: [Thaw(train_bn=False)]),
    _averaging("stochastic_averaging", partial(StochasticWeightAveraging, swa_lrs=0.05, swa_epoch_start=0.5), 8),
    *_by_lightning(),
    _averaging("swapped_by_hand", Swapped),
    Program(Averaged, images(32), 6, 0.85),
    Program(partial(Averaged, use_buffers=True), images(32), 6, 0.85, "AveragedBuffers"),
    Program(AverageByHand, digits(), 5, 0.85),
    Program(MeanTeacher, digits(), 5),
    Program(partial(MeanTeacher, evaluates=True), digits(), 5, 0.9, "MeanTeacherInEvaluation"),
    Program(Distilled, digits(), 5, 0.8),
)
