"""Small programs that keep graphs alive, one for each way of holding them, as users write them."""

import functools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import CatMetric

from tests.diagnostics.graph_leak import elsewhere

HISTORY: list[Tensor] = []


def batches() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(80, 8, generator=generator), torch.randint(0, 3, (80,), generator=generator)
    return DataLoader(TensorDataset(inputs, labels), batch_size=8)


class Classifier(LightningModule):
    """The healthy program that the others go wrong from."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        logits = self.net(batch[0])
        loss = functional.cross_entropy(logits, batch[1])
        self.keep(loss, logits)
        return loss

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        """Nothing."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class RunningLoss(Classifier):
    running_loss: Any = 0.0

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.running_loss += loss


class RunningBuffer(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.total = self.total + loss


class MovingAverage(Classifier):
    average: Any = 0.0

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.average = 0.9 * self.average + 0.1 * loss


class Losses(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.losses.append(loss)


class LossesOfAnEpoch(Losses):
    def on_train_epoch_end(self) -> None:
        self.losses.clear()


class Outputs(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.outputs.append(logits)


class NestedElement(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, list[Any]] = {"train": [1, "two", None, 0.0]}

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.history["train"][3] = self.history["train"][3] + loss


class NestedContainer(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, dict[str, list[Any]]] = {"train": {"loss": []}}

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.history["train"]["loss"].append({"value": loss})


class ByStep(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.by_step: dict[int, Tensor] = {}

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.by_step[self.global_step] = loss


class Unordered(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[Tensor] = set()

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.seen.add(loss)


class OneAttributeAStep(Classifier):
    def keep(self, loss: Tensor, logits: Tensor) -> None:
        setattr(self, f"loss_{self.global_step}", loss)


class OfASubmodule(Classifier):
    def keep(self, loss: Tensor, logits: Tensor) -> None:
        first = self.net[0]
        first.total = getattr(first, "total", 0) + loss


class Recorder:
    """An object of the user's, without a __dict__."""

    __slots__ = ("records",)

    def __init__(self) -> None:
        self.records: list[Tensor] = []


class OfAnObject(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.recorder = Recorder()

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.recorder.records.append(loss)


class OfTheClass(Classifier):
    losses: list[Tensor] = []  # noqa: RUF012  # the mistake itself

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.losses.append(loss)


class DefaultArgument(Classifier):
    def keep(self, loss: Tensor, logits: Tensor, seen: list[Tensor] = []) -> None:  # noqa: B006  # the mistake itself
        seen.append(loss)


class InAFunction(Classifier):
    def __init__(self) -> None:
        super().__init__()
        collected: list[Tensor] = []

        def remember(loss: Tensor) -> None:
            collected.append(loss)

        self.remember = remember

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.remember(loss)


def in_a_local_class() -> LightningModule:
    losses: list[Tensor] = []

    class Local(Classifier):
        def keep(self, loss: Tensor, logits: Tensor) -> None:
            losses.append(loss)

    return Local()


class InAPartial(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.remember = functools.partial(list.append, [])

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.remember(loss)


class GlobalVariable(Classifier):
    def keep(self, loss: Tensor, logits: Tensor) -> None:
        HISTORY.append(loss)


class GlobalElsewhere(Classifier):
    def keep(self, loss: Tensor, logits: Tensor) -> None:
        elsewhere.HISTORY.append(loss)


class ForwardHook(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.features: list[Tensor] = []
        self.net[0].register_forward_hook(lambda module, args, output: self.features.append(output))


class Metric(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.all_losses = CatMetric()

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.all_losses.update(loss)


class Concatenation(Classifier):
    all_logits: Any = None

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.all_logits = logits if self.all_logits is None else torch.cat([self.all_logits, logits])


class Distributions(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.policies: list[Any] = []

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.policies.append(torch.distributions.Categorical(logits=logits))


class Recurrent(Classifier):
    """Truncated back-propagation whose state is never cut."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(8, 8, batch_first=True)
        self.hidden: Any = None
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        features, self.hidden = self.rnn(batch[0][:, None], self.hidden)
        self.back(functional.cross_entropy(self.net(features[:, 0]), batch[1]))

    def back(self, loss: Tensor) -> None:
        self.manual_backward(loss, retain_graph=True)


class RawRecurrent(Recurrent):
    """The same; each backward pass goes through the graphs of all earlier steps, and Lightning announces none."""

    def back(self, loss: Tensor) -> None:
        loss.backward(retain_graph=True)


class Manual(Losses):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        loss, optimizer = super().training_step(batch, batch_idx), self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class RawBackward(Manual):
    """Calls backward and the optimizer itself: Lightning announces nothing."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        loss = Losses.training_step(self, batch, batch_idx)
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class GradientsWithGraph(Manual):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.manual_backward(Classifier.training_step(self, batch, batch_idx), create_graph=True)
        self.optimizers().step()

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        """Nothing: the gradients keep the graphs."""


class TensorHook(Classifier):
    """A hook that uses the tensor it is registered on: held by C++ alone, and by no collection freed."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        hidden = self.net[0](batch[0])
        hidden.register_hook(lambda grad: grad * hidden.detach().norm())
        return functional.cross_entropy(self.net[2](hidden), batch[1])


class ReturnsFeatures(Classifier):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        logits = self.net(batch[0])
        return {"loss": functional.cross_entropy(logits, batch[1]), "logits": logits}


class KeepsOutputs(Callback):
    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        self.kept.append(outputs["logits"])


class Data(LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []

    def train_dataloader(self) -> Any:
        return batches()


class TellsTheData(Classifier):
    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.trainer.datamodule.losses.append(loss)


class Window(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.window: deque[Tensor] = deque(maxlen=50)

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        self.window.append(loss)


@dataclass(frozen=True)
class Sick:
    """A sick program and what must be found in it.

    Attributes:
        make: Makes the module.
        code: The finding.
        where: The path to the holder, which must evaluate.
        holder: The type it evaluates to.
        remedy: A part of the fix.
    """

    make: Callable[[], LightningModule]
    code: str
    where: str | None
    holder: str
    remedy: str


HERE = "sys.modules['tests.diagnostics.graph_leak.sick']"
THERE = "sys.modules['tests.diagnostics.graph_leak.elsewhere']"
SICK = {
    "running sum": Sick(RunningLoss, "MEM101", "model.running_loss", "Tensor", "self.running_loss += loss.detach()"),
    "running sum in a buffer": Sick(RunningBuffer, "MEM101", "model.total", "Tensor", "self.total += value.detach()"),
    "moving average": Sick(
        MovingAverage, "MEM101", "model.average", "Tensor", "decay * self.average + (1 - decay) * value.detach()"
    ),
    "list of losses": Sick(Losses, "MEM101", "model.losses", "list", "self.losses.append(loss.detach())"),
    "list of an epoch": Sick(LossesOfAnEpoch, "MEM101", "model.losses", "list", "self.losses.append(loss.detach())"),
    "list of outputs": Sick(Outputs, "MEM102", "model.outputs", "list", "self.outputs.append(output.detach().cpu())"),
    "element of a list in a dict": Sick(
        NestedElement, "MEM101", "model.history['train'][3]", "Tensor", "self.history['train'][3] += value.detach()"
    ),
    "list in dicts": Sick(
        NestedContainer,
        "MEM101",
        "model.history['train']['loss']",
        "list",
        "loss.detach() in self.history['train']['loss']",
    ),
    "dict by step": Sick(ByStep, "MEM101", "model.by_step", "dict", "self.by_step[key] = value.detach()"),
    "set": Sick(Unordered, "MEM101", "model.seen", "set", "self.seen.add(value.detach())"),
    "an attribute a step": Sick(OneAttributeAStep, "MEM101", "model", "OneAttributeAStep", "value.detach()"),
    "submodule": Sick(OfASubmodule, "MEM101", "model.net[0].total", "Tensor", "self.net[0].total += value.detach()"),
    "object with slots": Sick(OfAnObject, "MEM101", "model.recorder.records", "list", "self.recorder.records.append("),
    "class attribute": Sick(OfTheClass, "MEM101", "type(model).losses", "list", "losses.append(loss.detach())"),
    "default argument": Sick(
        DefaultArgument, "MEM101", "type(model).keep.__defaults__[0]", "list", "seen.append(value.detach())"
    ),
    "closure": Sick(
        InAFunction,
        "MEM101",
        "model.remember.__closure__[0].cell_contents",
        "list",
        "collected.append(value.detach())",
    ),
    "closure of a local class": Sick(
        in_a_local_class,
        "MEM101",
        "type(model).keep.__closure__[0].cell_contents",
        "list",
        "losses.append(loss.detach())",
    ),
    "partial": Sick(InAPartial, "MEM101", "model.remember.args[0]", "list", "value.detach()"),
    "module global": Sick(GlobalVariable, "MEM101", f"{HERE}.HISTORY", "list", "HISTORY.append(value.detach())"),
    "global elsewhere": Sick(GlobalElsewhere, "MEM101", f"{THERE}.HISTORY", "list", "HISTORY.append(value.detach())"),
    "forward hook": Sick(ForwardHook, "MEM102", "model.features", "list", "self.features.append("),
    "torchmetrics state": Sick(
        Metric, "MEM101", "model.all_losses.value", "list", "self.all_losses.update(value.detach())"
    ),
    "concatenation": Sick(
        Concatenation, "MEM101", "model.all_logits", "Tensor", "self.all_logits = self.all_logits.detach()"
    ),
    "distributions": Sick(Distributions, "MEM102", "model.policies", "list", "output.detach().cpu() in self.policies"),
    "undetached state": Sick(Recurrent, "MEM101", "model.hidden", "Tensor", "self.hidden = self.hidden.detach()"),
    "manual optimisation": Sick(Manual, "MEM101", "model.losses", "list", "self.losses.append(loss.detach())"),
    "raw backward": Sick(RawBackward, "MEM101", "model.losses", "list", "self.losses.append(loss.detach())"),
    "raw undetached state": Sick(
        RawRecurrent, "MEM101", "model.hidden", "Tensor", "self.hidden = self.hidden.detach()"
    ),
    "gradients with graph": Sick(GradientsWithGraph, "MEM101", "model.net", "Sequential", "optimizer.zero_grad()"),
    "tensor hook": Sick(TensorHook, "MEM101", None, "", "a tensor hook"),
    "callback": Sick(
        ReturnsFeatures, "MEM102", "trainer.callbacks[0].kept", "list", "trainer.callbacks[0].kept.append("
    ),
    "data module": Sick(
        TellsTheData, "MEM101", "trainer.datamodule.losses", "list", "trainer.datamodule.losses.append("
    ),
}
