"""Healthy programs that differ in how they are run: loaders, batches, precision, metrics, compiled parts."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from tests.diagnostics.batch_norm.data import Batch, Classifier, Data, Loaders, Program, digits, images, split
from tests.diagnostics.batch_norm.plain import cnn, mlp


class Dense(Classifier):
    """What most programs here share is a dense network."""

    def build(self) -> nn.Module:
        return mlp()


class Metrics(Dense):
    """Metrics are updated and computed by hand, and logged as objects."""

    def __init__(self) -> None:
        super().__init__()
        kinds = {"f1": MulticlassF1Score(10), "accuracy": MulticlassAccuracy(10)}
        self.metrics, self.score, self.loss = MetricCollection(kinds), MulticlassAccuracy(10), MeanMetric()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self(batch[0])
        self.metrics.update(logits, batch[1])
        self.score(logits, batch[1])
        self.loss(functional.cross_entropy(logits, batch[1]))
        self.log("score", self.score)
        self.log("val_loss", self.loss)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.metrics.compute())
        self.metrics.reset()


class Lists(Dense):
    """Outputs are collected in a list, which the end of the epoch empties."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []
        self.seen = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.outputs.append(self(batch[0]).argmax(1) == batch[1])
        self.seen += len(batch[0])

    def on_validation_epoch_end(self) -> None:
        every = torch.cat(self.outputs)
        if len(every) != self.seen:
            raise RuntimeError("samples were counted that are not there")
        self.log("score", every.float().mean())
        self.outputs.clear()
        self.seen = 0


class ByHand(Dense):
    """Manual optimisation with a scheduler."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer = self.optimizers()
        loss = functional.cross_entropy(self(batch[0]), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def on_train_epoch_end(self) -> None:
        self.lr_schedulers().step()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]


class SeveralSets(Dense):
    """One validation as it is, one sorted by class, one of brighter digits."""

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        right = (self(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("score" if dataloader_idx == 0 else f"score_{dataloader_idx}", right, add_dataloader_idx=False)


def several() -> tuple[Any, Any]:
    """One loader to train on, three to validate on."""
    training, first = digits()()
    return training, [first, digits(valid=50, by_class=True)()[1], digits(valid=100, scale=lambda x: x * 1.2)()[1]]


class Named(NamedTuple):
    inputs: Tensor
    labels: Tensor


class Digits(Dataset[Any]):
    """Samples as dicts, named tuples, or nested tuples with words in them."""

    def __init__(self, shape: str, *, validate: bool) -> None:
        self.shape = shape
        inputs, labels, new, known = split()
        self.inputs, self.labels = (new, known) if validate else (inputs, labels)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        inputs, label = self.inputs[index], self.labels[index]
        if self.shape == "dict":
            return {"image": inputs, "label": label, "about": {"index": index, "name": f"digit {index}"}}
        if self.shape == "named":
            return Named(inputs, label)
        return (inputs, (label, f"digit {index}")), float(inputs.mean())


def shaped(shape: str) -> Loaders:
    """Loaders of samples of a shape."""
    training, validation = Digits(shape, validate=False), Digits(shape, validate=True)
    return DataLoader(training, 64, shuffle=True, drop_last=True), DataLoader(validation, 64)


class Shaped(Dense):
    """Takes apart batches of every shape."""

    def unpacked(self, batch: Any) -> Batch:
        """Inputs and labels."""
        if isinstance(batch, dict):
            return [batch["image"], batch["label"]]
        if isinstance(batch, Named):
            return [batch.inputs, batch.labels]
        (inputs, (labels, names)), brightness = batch
        if not (len(names) == len(inputs) == len(brightness)):
            raise RuntimeError("a batch is not whole")
        return [inputs, labels]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(self.unpacked(batch), batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        inputs, labels = self.unpacked(batch)
        self.log("score", (self(inputs).argmax(1) == labels).float().mean(), batch_size=len(labels))


class Stream(IterableDataset[Any]):
    """Samples one after another, of a number that is not told."""

    def __init__(self, *, validate: bool) -> None:
        inputs, labels, new, known = split()
        self.pair = (new, known) if validate else (inputs, labels)

    def __iter__(self) -> Iterator[Any]:
        order = torch.randperm(len(self.pair[0])).tolist()
        return ((self.pair[0][index], self.pair[1][index]) for index in order)


def streamed() -> Loaders:
    """Loaders without a length."""
    return DataLoader(Stream(validate=False), 64, drop_last=True), DataLoader(Stream(validate=True), 64)


class Parametrized(Classifier):
    """Weights are normalised as well: spectral norm and weight norm."""

    def build(self) -> nn.Module:
        return nn.Sequential(
            *(parametrizations.spectral_norm(nn.Linear(64, 96)), nn.BatchNorm1d(96), nn.ReLU()),
            *(parametrizations.weight_norm(nn.Linear(96, 96)), nn.BatchNorm1d(96), nn.ReLU()),
            parametrizations.spectral_norm(nn.Linear(96, 10)),
        )

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Lazy(Classifier):
    """Sizes are found in the first pass, before or in the run."""

    def __init__(self, *, warm: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.LazyConv2d(16, 3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten()),
            *(nn.LazyLinear(48), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(10)),
        )
        if warm:
            self.net(torch.rand(4, 1, 8, 8))


class Scripted(Classifier):
    def build(self) -> nn.Module:
        head = nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 10))
        return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), torch.jit.script(head))


class Compiled(Classifier):
    """A part of the network is compiled."""

    def build(self) -> nn.Module:
        body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.1))
        return nn.Sequential(torch.compile(body, backend="eager"), nn.Flatten(), nn.Linear(1024, 10))


class CompiledStep(Dense):
    """``forward`` of the whole is compiled in place."""

    def __init__(self) -> None:
        super().__init__()
        self.net.compile(backend="eager")


class Unused(Dense):
    """A part with norms is never called, another only in training."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = mlp()
        self.auxiliary = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        extra = functional.cross_entropy(self.auxiliary(batch[0]), batch[1])
        return super().training_step(batch, batch_idx) + 0.3 * extra


class Predictions(Dense):
    """Features are computed once more in evaluation mode after each epoch, and the mode is put back."""

    def on_train_epoch_end(self) -> None:
        self.eval()
        with torch.no_grad():
            self.net(split()[2])
        self.train()


class Doubled(Dense):
    """Inputs are of 64 bits, as the weights are."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs.double())


class GroupedPixels(Classifier):
    """Images are cut in patches that go along the batch axis through a norm, and come back."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU())
        self.head = nn.Linear(128, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        patches = functional.unfold(inputs, 4, stride=4).transpose(1, 2)
        return self.head(self.patch(patches.reshape(-1, 16)).view(len(inputs), -1))


def _run(label: str, data: Data, epochs: int = 4, make: Any = Dense, bar: float = 0.85, **settings: Any) -> Program:
    return Program(make, data, epochs, bar, label, settings)


PROGRAMS = (
    Program(Metrics, digits()),
    Program(Lists, digits()),
    Program(ByHand, digits()),
    Program(SeveralSets, several),
    Program(Shaped, partial(shaped, "dict"), label="dicts"),
    Program(Shaped, partial(shaped, "named"), label="named_tuples"),
    Program(Shaped, partial(shaped, "nested"), label="nested_tuples"),
    Program(Dense, streamed, label="streams"),
    Program(Parametrized, digits()),
    Program(Lazy, images(), 3),
    Program(partial(Lazy, warm=True), images(), 3, label="LazyButWarm"),
    Program(Scripted, digits()),
    Program(Compiled, images(), 5, 0.85),
    Program(CompiledStep, digits()),
    Program(Unused, digits()),
    Program(Predictions, digits()),
    Program(GroupedPixels, images(), 6, 0.85),
    _run("accumulated", digits(16), accumulate_grad_batches=4),
    _run("bf16", digits(), precision="bf16-mixed"),
    _run("bf16_convolutions", images(), make=lambda: Classifier(cnn()), precision="bf16-mixed"),
    _run("bf16_true", digits(), bar=0.6, precision="bf16-true"),
    _run("double", digits(), precision="64-true", make=Doubled),
    _run("every_five_steps", digits(), val_check_interval=5),
    _run("every_other_epoch", digits(), 6, check_val_every_n_epoch=2),
    _run("by_class", digits(by_class=True)),
    _run("by_class_one_batch", digits(by_class=True, valid=30), limit_val_batches=1, bar=0.3),
    _run("batches_of_one", digits(valid=1), limit_val_batches=40, bar=0.8),
    _run("no_sanity_check", digits(), num_sanity_val_steps=0),
    _run("clipped", digits(), gradient_clip_val=0.5),
)
