"""Healthy programs of rarer kinds: norms of the user's own, hidden teachers, cropped batches, many passes."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from typing_extensions import override

from tests.diagnostics.activations.unusual import Experts
from tests.diagnostics.batch_norm.data import Batch, Classifier, Loaders, Program, digits, images, split
from tests.diagnostics.batch_norm.frozen import _pretrained
from tests.diagnostics.batch_norm.plain import cnn, mlp
from tests.diagnostics.batch_norm.sequences import OfStretches, stretches


class SortsInside(OfStretches):
    """Samples are sorted by length, packed, unpacked, and put back."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru = nn.Embedding(128, 24), nn.GRU(24, 32, batch_first=True)
        self.norm, self.head = nn.BatchNorm1d(32), nn.Linear(32, 2)

    def forward(self, codes: Tensor, lengths: Tensor) -> Tensor:
        lengths, order = lengths.sort(descending=True)
        codes = codes[order, : int(lengths[0])]
        packed, _ = self.gru(pack_padded_sequence(self.embed(codes), lengths.cpu(), batch_first=True))
        hidden = pad_packed_sequence(packed, batch_first=True)[0].sum(1) / lengths[:, None]
        return self.head(self.norm(hidden))[order.argsort()]


class CropsPadding(OfStretches):
    """Batches are cut to their longest sample, whose padding is masked."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Embedding(128, 32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 2)

    def forward(self, codes: Tensor, lengths: Tensor) -> Tensor:
        codes = codes[:, : int(lengths.max())]
        padding = torch.arange(codes.shape[1], device=codes.device) >= lengths[:, None]
        tokens = self.embed(codes)
        tokens = self.norm(tokens + self.attention(tokens, tokens, tokens, key_padding_mask=padding)[0])
        return self.head(tokens.masked_fill(padding[..., None], 0.0).sum(1) / lengths[:, None])


class Scaler(nn.Module):
    """A running mean and variance of the user's own, applied in training too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.register_buffer("count", torch.tensor(1e-4))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            mean, variance, rows = inputs.mean(0), inputs.var(0, unbiased=False), len(inputs)
            delta, total = mean - self.running_mean, self.count + rows
            spread = self.running_var * self.count + variance * rows + delta.square() * self.count * rows / total
            self.running_mean += delta * rows / total
            self.running_var.copy_(spread / total)
            self.count += rows
        return ((inputs - self.running_mean) / (self.running_var + 1e-2).sqrt()).clamp(-5, 5)


class OwnScaler(Classifier):
    def build(self) -> nn.Module:
        return nn.Sequential(Scaler(64), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))


class Fixed(nn.Module):
    """A norm of buffers alone, as detectors have it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.2), ("running_var", 0.1)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, inputs: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return inputs * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


class FixedNorms(Classifier):
    def build(self) -> nn.Module:
        body = [nn.Conv2d(1, 16, 3, padding=1), Fixed(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), Fixed(32), nn.ReLU()]
        return nn.Sequential(*body, nn.Flatten(), nn.Linear(512, 10))


class OwnNorm(nn.BatchNorm2d):
    """A norm of batch norm's kind with a clipped scale, written out."""

    def forward(self, input: Tensor) -> Tensor:
        scaled = functional.batch_norm(
            *(input, self.running_mean, self.running_var, None, None),
            *(self.training, self.momentum or 0.1, self.eps),
        )
        return scaled * self.weight.clamp(0.1, 3)[:, None, None] + self.bias[:, None, None]


class OwnNorms(Classifier):
    def build(self) -> nn.Module:
        body = [nn.Conv2d(1, 16, 3, padding=1), OwnNorm(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), OwnNorm(32)]
        return nn.Sequential(*body, nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))


class FunctionalNorm(Classifier):
    """``F.batch_norm`` with buffers of the module, told of its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.head = nn.Linear(64, 96), nn.Linear(96, 10)
        self.register_buffer("mean", torch.zeros(96))
        self.register_buffer("variance", torch.ones(96))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.batch_norm(self.inward(inputs), self.mean, self.variance, training=self.training)
        return self.head(torch.relu(hidden))


class HiddenTeacher(Classifier):
    """A teacher in a list, lest it is saved, in evaluation mode; its features are compared in the validation too."""

    def __init__(self) -> None:
        super().__init__(mlp())
        teacher = mlp()
        teacher.load_state_dict(_pretrained(False))
        self.hidden = [teacher.requires_grad_(False).eval()]

    def apart(self, inputs: Tensor) -> Tensor:
        """How far the student is from the teacher."""
        return (self(inputs) - self.hidden[0](inputs)).square().mean()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + 0.01 * self.apart(batch[0])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("apart", self.apart(batch[0]))


class Checkpointed(Classifier):
    """Activations are computed again in the backward pass, so norms are called twice."""

    def __init__(self) -> None:
        super().__init__(cnn())

    def forward(self, inputs: Tensor) -> Tensor:
        parts = [self.net[:3], self.net[3:6], self.net[6:]]
        for part in parts:
            inputs = checkpoint(part, inputs, use_reentrant=False)
        return inputs


class TwicePerStep(Classifier):
    """Sharpness-aware: a second pass at weights moved along the gradient."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(functional.cross_entropy(self(batch[0]), batch[1]))
        moves = [0.02 * each.grad / (each.grad.norm() + 1e-8) for each in self.parameters()]
        for weight, move in zip(self.parameters(), moves, strict=True):
            weight.data += move
        optimizer.zero_grad()
        self.manual_backward(functional.cross_entropy(self(batch[0]), batch[1]))
        for weight, move in zip(self.parameters(), moves, strict=True):
            weight.data -= move
        optimizer.step()
        optimizer.zero_grad()


class ManyClosures(Classifier):
    """LBFGS calls the step several times for each batch."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 10)))

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), max_iter=4, line_search_fn="strong_wolfe")


class Carried(Classifier):
    """A state is carried from batch to batch and detached; it starts anew when the size changes."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.norm, self.head = nn.GRU(8, 32, batch_first=True), nn.BatchNorm1d(32), nn.Linear(32, 10)
        self.state: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        state = self.state
        if state is None or state.shape[1] != len(inputs):
            state = inputs.new_zeros(1, len(inputs), 32)
        hidden, state = self.gru(inputs.view(-1, 8, 8), 0.1 * state)
        self.state = state.detach()
        return self.head(self.norm(hidden[:, -1]))

    def on_validation_start(self) -> None:
        self.state = None


class Samples(Callback):
    """Predictions are looked at in evaluation mode between batches of training, and each mode is put back."""

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % 5 == 0:
            pl_module.eval()
            with torch.no_grad():
                pl_module(batch[0][:3])
            pl_module.train()


def ragged(samples: Any) -> Any:
    """Images of several sizes in a list, and a dict for each."""
    crops = [image[:, : 6 + index % 3, :] for index, (image, _) in enumerate(samples)]
    return crops, [{"label": label, "name": f"image {index}"} for index, (_, label) in enumerate(samples)]


def crops() -> Loaders:
    """Loaders of images of several sizes."""
    training, validation = images()()
    return (
        DataLoader(training.dataset, 32, shuffle=True, collate_fn=ragged, drop_last=True),
        DataLoader(validation.dataset, 32, collate_fn=ragged),
    )


class Detector(Classifier):
    """Takes lists of images, pads them to one size, and gives a dict for each while it is evaluated."""

    def __init__(self) -> None:
        super().__init__(cnn())

    def forward(self, crops: list[Tensor]) -> Any:
        logits = self.net(torch.stack([functional.pad(each, (0, 0, 0, 8 - each.shape[1])) for each in crops]))
        return logits if self.training else [{"scores": row.softmax(0), "label": row.argmax()} for row in logits]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), torch.stack([each["label"] for each in batch[1]]))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pairs = list(zip(self(batch[0]), batch[1], strict=True))
        right = [float(found["label"] == known["label"]) for found, known in pairs]
        self.log("score", torch.tensor(right).mean(), batch_size=len(right))


class Prototypes(Classifier):
    """Classes are told by the nearest mean of training codes, computed when a validation starts."""

    def __init__(self) -> None:
        super().__init__(mlp())

    def on_validation_start(self) -> None:
        inputs, labels, *_ = split()
        codes = self.net(inputs)
        self.means = torch.stack([codes[labels == label].mean(0) for label in range(10)])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        right = torch.cdist(self(batch[0]), self.means).argmin(1) == batch[1]
        self.log("score", right.float().mean())


BF16 = {"precision": "bf16-mixed"}
PROGRAMS = (
    Program(SortsInside, stretches, 3, 0.55),
    Program(CropsPadding, stretches, 3, 0.55),
    Program(CropsPadding, stretches, 3, 0.55, "CropsPaddingBf16", BF16),
    Program(Experts, digits(), 6, 0.6, "ExpertsBf16", BF16),
    Program(OwnScaler, digits(), 5, 0.85),
    Program(FixedNorms, images(), 5, 0.85),
    Program(OwnNorms, images(), 5, 0.85),
    Program(FunctionalNorm, digits(), 5, 0.85),
    Program(HiddenTeacher, digits(), 5, 0.85),
    Program(Checkpointed, images(), 5, 0.85),
    Program(TwicePerStep, digits(), 5, 0.85),
    Program(ManyClosures, digits(1400), 20, 0.8),
    Program(Carried, digits(), 6, 0.6),
    Program(lambda: Classifier(mlp()), digits(), 5, 0.85, "looks_between", callbacks=lambda: [Samples()]),
    Program(Detector, crops, 4, 0.7),
    Program(Prototypes, digits(), 5, 0.85),
)
