"""A step that is run once more in a real validation leaves no trace, whatever it does and however it ends."""

import argparse
import functools
import json
import logging
import queue
import random
import re
import threading
import types
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as in the programs that are run
from torch.utils.data import TensorDataset
from torchmetrics import CatMetric, MeanMetric, MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC

from lightning_diagnostics.callback.undisturbed import (
    CannotRestoreError,
    ExchangeError,
    LearningError,
    Traces,
    undisturbed,
)
from lightning_diagnostics.callback.undisturbed import kept as place
from tests.helpers import fit, trainer
from tests.patients import Student, loader

ANSWER_WITHIN = timedelta(seconds=30)  # a deadlock ends as an error


class UserError(Exception):
    """Of the user's step."""


class AverageMeter:
    """As in the examples of PyTorch."""

    def __init__(self) -> None:
        self.value, self.count, self.seen = 0.0, 0, [1.0]

    def update(self, value: float) -> None:
        self.value += value
        self.count += 1
        self.seen.append(value)

    def __call__(self) -> float:
        return self.value / self.count


class Slots:
    """Has no dictionary."""

    __slots__ = ("value",)


class Keeper(Student):
    """Has state of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 1
        self.name = "name"
        self.total = torch.zeros(3)
        self.outputs: list[Any] = [torch.zeros(2), 3]
        self.by_name: dict[str, Any] = {"a": [1], "b": torch.ones(2)}
        self.ordered = OrderedDict(a=1, b=2)
        self.counter = Counter("aab")
        self.lists: defaultdict[str, list[int]] = defaultdict(list, {"a": [1]})
        self.ids = {1, 2}
        self.recent: deque[float] = deque([1.0, 2.0], maxlen=2)
        self.raw = bytearray(b"ab")
        self.nested = {"a": [{"b": ({"c": [1]}, torch.zeros(1))}]}
        self.pair = ([1], torch.zeros(1))
        self.array = np.zeros(3)
        self.arrays = [np.zeros(2)]
        self.fixed = np.broadcast_to(np.ones(1), (3,))
        self.meter = AverageMeter()
        self.meters = {"a": AverageMeter()}
        self.slots = Slots()
        self.function = F.relu
        self.metric, self.accuracy, self.all = MeanMetric(), BinaryAccuracy(), CatMetric()
        self.metrics = MetricCollection({"accuracy": BinaryAccuracy(), "area": BinaryAUROC()})
        self.metric.update(1.0)
        self.all.update(1.0)
        self.draws = torch.Generator().manual_seed(1)
        self.numpy_draws = np.random.default_rng(1)
        self.numpy_state_draws = np.random.RandomState(1)
        self.python_draws = random.Random(1)
        self.register_buffer("broken", torch.tensor([1.0, float("nan")]))
        self.register_buffer("sparse", torch.eye(3).to_sparse())
        self.lazy = nn.LazyBatchNorm1d()


# What there is to be changed.


def plain(value: Any) -> Any:
    """A value as numbers and names that can be compared."""
    if isinstance(value, Tensor):
        if torch.nn.parameter.is_lazy(value):
            return "lazy"
        return str(value.dtype), value.detach().to_dense().numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return type(value).__name__, [(key, plain(each)) for key, each in value.items()]
    if isinstance(value, list | tuple | deque):
        return type(value).__name__, [plain(each) for each in value]
    if isinstance(value, torch.Generator):
        return plain(value.get_state())
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return str(value.get_state())
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, AverageMeter):
        return plain(vars(value))
    if isinstance(value, set | bytearray):
        return value.copy()
    return value if isinstance(value, bool | int | float | str | type(None)) else id(value)


def state(module: nn.Module) -> Any:
    """All that modules have, by name, with whatever holds it."""
    return {
        path: {
            **{name: plain(value) for name, value in vars(part).items() if name not in ("_trainer", "_modules")},
            "holders": {
                name: id(value) for name, value in vars(part).items() if isinstance(value, list | dict | Tensor)
            },
            "buffers": {name: id(value) for name, value in part._buffers.items()},
        }
        for path, part in module.named_modules()
    }


def generators() -> Any:
    return plain([torch.get_rng_state(), np.random.get_state(), str(random.getstate())])


class Here(Callback):
    """Acts in the middle of the first batch of a validation, undisturbed."""

    def __init__(self, act: Callable[[Any, Any], Any], *, look: Callable[[Any], Any] = state, **options: Any) -> None:
        self.act, self.look, self.options = act, look, options
        self.before: Any = None
        self.within: Any = None
        self.after: Any = None
        self.fault: BaseException | None = None

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.before is not None:
            return
        self.before = self.look(pl_module)
        try:
            with undisturbed(trainer, pl_module, **self.options):
                try:
                    self.act(pl_module, batch[0])
                finally:
                    self.within = self.look(pl_module)
        except BaseException as fault:  # noqa: BLE001  # it is looked at by the test
            self.fault = fault
        self.after = self.look(pl_module)


STAGES: dict[str, Callable[[Trainer, LightningModule], Any]] = {
    "validate": lambda run, module: run.validate(module, loader(1, shuffle=False), verbose=False),
    "fit": lambda run, module: fit(run, module, batches=1),
}


def validated(here: Here, module: LightningModule, *, stage: str = "validate", **settings: Any) -> Here:
    """The callback after a run, in which it must have acted."""
    run = trainer(here, **{"max_epochs": 1, "num_sanity_val_steps": 0, **settings})
    STAGES[stage](run, module)
    assert here.before is not None
    return here


def check(here: Here) -> None:
    """It changed something, and nothing is changed."""
    if here.fault is not None:
        raise here.fault
    assert here.within != here.before, "it does nothing that could be seen"
    assert here.after == here.before


# What a step may leave.


def again(module: Keeper, x: Tensor) -> None:
    module.validation_step((x, x[:, 0]), 0)
    module.count = 2


LEAVES: dict[str, Callable[[Any, Tensor], Any]] = {
    "step": again,
    "buffer": lambda m, x: m.net[1].running_mean.add_(1),
    "buffer-with-nan": lambda m, x: m.broken.fill_(2.0),
    "sparse-buffer": lambda m, x: m.sparse.mul_(2),
    "buffer-moved-by-batch-norm": lambda m, x: F.batch_norm(
        m.net[0](x), m.net[1].running_mean, m.net[1].running_var, training=True
    ),
    "buffer-rebound": lambda m, x: setattr(m.net[1], "running_mean", torch.ones(8)),
    "buffer-new": lambda m, x: m.register_buffer("fresh_buffer", torch.ones(2)),
    "buffer-removed": lambda m, x: delattr(m.net[1], "running_mean"),
    "train": lambda m, x: m.train(),
    "train-of-one": lambda m, x: m.net[3].train(),
    "train-and-forward": lambda m, x: m.train()(x),
    "number": lambda m, x: setattr(m, "count", 5),
    "text": lambda m, x: setattr(m, "name", "other"),
    "attribute-new": lambda m, x: setattr(m, "fresh", 1),
    "attribute-new-of-a-submodule": lambda m, x: setattr(m.net[2], "fresh", x),
    "attribute-removed": lambda m, x: delattr(m, "count"),
    "attribute-of-another-kind": lambda m, x: setattr(m, "outputs", None),
    "tensor-in-place": lambda m, x: m.total.add_(1),
    "tensor-rebound": lambda m, x: setattr(m, "total", m.total + 1),
    "list-longer": lambda m, x: m.outputs.append(x),
    "list-shorter": lambda m, x: m.outputs.clear(),
    "list-item": lambda m, x: m.outputs.__setitem__(1, 4),
    "list-rebound": lambda m, x: setattr(m, "outputs", [*m.outputs, x]),
    "tensor-in-a-list": lambda m, x: m.outputs[0].add_(1),
    "dict-longer": lambda m, x: m.by_name.update(c=1),
    "dict-shorter": lambda m, x: m.by_name.pop("a"),
    "dict-order": lambda m, x: m.ordered.move_to_end("a"),
    "list-in-a-dict": lambda m, x: m.by_name["a"].append(2),
    "tensor-in-a-dict": lambda m, x: m.by_name["b"].mul_(2),
    "counter": lambda m, x: m.counter.update("a"),
    "defaultdict": lambda m, x: m.lists["b"].append(1),
    "list-in-a-defaultdict": lambda m, x: m.lists["a"].append(1),
    "set": lambda m, x: m.ids.add(3),
    "deque": lambda m, x: m.recent.append(3.0),
    "bytearray": lambda m, x: m.raw.extend(b"c"),
    "deep": lambda m, x: m.nested["a"][0]["b"][0]["c"].append(2),
    "tensor-deep": lambda m, x: m.nested["a"][0]["b"][1].add_(1),
    "list-in-a-tuple": lambda m, x: m.pair[0].append(1),
    "tensor-in-a-tuple": lambda m, x: m.pair[1].add_(1),
    "array": lambda m, x: m.array.__setitem__(0, 1.0),
    "array-in-a-list": lambda m, x: m.arrays[0].fill(2.0),
    "array-rebound": lambda m, x: setattr(m, "array", m.array + 1),
    "object": lambda m, x: m.meter.update(2.0),
    "object-in-a-dict": lambda m, x: m.meters["a"].update(2.0),
    "object-with-more": lambda m, x: setattr(m.meter, "fresh", 1),
    "object-with-less": lambda m, x: delattr(m.meter, "count"),
    "metric": lambda m, x: m.metric.update(x.mean()),
    "metric-forward": lambda m, x: m.metric(x.mean()),
    "metric-reset": lambda m, x: m.metric.reset(),
    "metric-computed": lambda m, x: m.metric.compute(),
    "accuracy": lambda m, x: m.accuracy(x[:, 0].sigmoid(), (x[:, 1] > 0).int()),
    "list-metric": lambda m, x: m.all.update(x),
    "list-metric-reset": lambda m, x: m.all.reset(),
    "collection": lambda m, x: m.metrics.update(x[:, 0].sigmoid(), (x[:, 1] > 0).int()),
    "generator": lambda m, x: torch.rand(2, generator=m.draws),
    "numpy-generator": lambda m, x: m.numpy_draws.random(),
    "numpy-random-state": lambda m, x: m.numpy_state_draws.rand(),
    "python-generator": lambda m, x: m.python_draws.random(),
}


@pytest.mark.parametrize("act", LEAVES.values(), ids=LEAVES)
def test_what_a_step_leaves_is_put_back_in_a_validation_in_inference_mode(act: Callable[[Any, Tensor], Any]) -> None:
    check(validated(Here(act), Keeper()))


@pytest.mark.parametrize("act", LEAVES.values(), ids=LEAVES)
@pytest.mark.parametrize("inference_mode", [True, False])
def test_what_a_step_leaves_is_put_back_in_the_validation_of_a_fit(
    act: Callable[[Any, Tensor], Any], inference_mode: bool
) -> None:
    check(validated(Here(act), Fitted(), stage="fit", inference_mode=inference_mode))


class Fitted(Keeper):
    """Without what an optimizer cannot have."""

    def __init__(self) -> None:
        super().__init__()
        self.lazy = nn.Identity()  # type: ignore[assignment]  # a lazy parameter has no shape to be optimised


@pytest.mark.parametrize(
    "draw",
    [
        *(lambda m, x: torch.rand(1), lambda m, x: np.random.rand(), lambda m, x: random.random()),
        *(lambda m, x: torch.manual_seed(3), lambda m, x: F.dropout(x)),
    ],
    ids=["torch", "numpy", "python", "seed", "dropout"],
)
def test_generators_of_random_numbers_are_put_back(draw: Callable[[Any, Tensor], Any]) -> None:
    check(validated(Here(draw, look=lambda module: generators()), Student()))


def test_a_step_that_ran_undisturbed_gives_what_it_gives_when_it_runs_again() -> None:
    outputs = []

    def step(module: Any, x: Tensor) -> None:
        module.train()
        outputs.append(module(x))

    class Twice(Here):
        def on_validation_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, *args: Any) -> None:
            for _ in range(3):
                with undisturbed(trainer, pl_module):
                    step(pl_module, batch[0])
            self.before = outputs

    validated(Twice(step), Student())
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_objects_that_are_held_twice_are_put_back_once_and_circles_end() -> None:
    module = Keeper()
    module.by_name["self"] = module.by_name
    module.outputs.append(module.outputs)
    module.meter.owner = module.meter  # type: ignore[attr-defined]  # a circle

    def act(m: Any, x: Tensor) -> None:
        m.by_name["c"] = 1
        m.outputs.append(1)
        m.meter.update(1.0)

    def look(m: Any) -> Any:
        return len(m.by_name), len(m.outputs), m.meter.count

    check(validated(Here(act, look=look), module))


# What must not be touched.


class Graphs(Student):
    """Keeps a tensor with a graph, as a training step leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []

    def keep(self, loss: Tensor, output: Tensor) -> None:
        self.source = output.detach().requires_grad_()
        self.hidden = torch.exp(self.source)  # its backward needs its output as it was
        self.hidden_nan = torch.exp(self.source * float("nan"))
        self.kept = [self.hidden]


def test_tensors_that_were_not_written_to_are_not_touched() -> None:
    def look(module: Any) -> Any:
        tensors = (module.hidden, module.hidden_nan, *module.kept, *module.buffers())
        return [(each._version, id(each), each.grad_fn is None) for each in tensors]

    here = validated(Here(lambda m, x: None, look=look), Graphs(), stage="fit")
    assert here.fault is None
    assert here.after == here.before


def test_a_graph_can_still_be_walked_back() -> None:
    module = Graphs()

    class Backward(Here):
        def on_validation_batch_start(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
            super().on_validation_batch_start(trainer, pl_module, *args)
            if pl_module.source.grad is None:  # once
                with torch.enable_grad():
                    pl_module.hidden.sum().backward()
                    pl_module.hidden_nan.sum().backward()

    def act(module: Any, x: Tensor) -> None:
        module.validation_step((x, x[:, 0]), 0)

    here = validated(Backward(act, look=lambda module: 0), module, stage="fit", inference_mode=False)
    assert here.fault is None
    assert module.source.grad is not None


def test_parameters_and_submodules_stay_the_very_same() -> None:
    def look(module: Any) -> Any:
        return [id(each) for each in (*module.parameters(), *module.modules(), *module.buffers())]

    here = validated(Here(again, look=look), Keeper())
    assert here.fault is None
    assert here.after == here.before


def test_data_and_datamodules_among_the_attributes_are_not_looked_at() -> None:
    class Holds(Student):
        def __init__(self) -> None:
            super().__init__()
            self.data = TensorDataset(torch.zeros(2, 2))
            self.loader = loader(1)

    def act(module: Any, x: Tensor) -> None:
        module.data.tensors[0].add_(1)

    here = validated(Here(act, look=lambda module: float(module.data.tensors[0].sum())), Holds())
    assert (here.before, here.after) == (0.0, 4.0), "it would be too much to copy"


def test_submodules_that_are_scripted_are_put_back() -> None:
    class Scripted(Student):
        def __init__(self) -> None:
            super().__init__()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                self.part = torch.jit.script(nn.BatchNorm1d(4))

    def act(module: Any, x: Tensor) -> None:
        module.part.train()
        module.part(x)

    def look(module: Any) -> Any:
        return module.part.training, plain(dict(module.part.state_dict()))

    check(validated(Here(act, look=look), Scripted()))


# Logs, loggers, prints, and a wish to stop.


class Logs(Student):
    """Logs what it is told to, besides its own."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log_dict({"a": 1.0, "b": 2.0})


def logs(module: Any, x: Tensor) -> None:
    module.log("val_loss", 100.0)
    module.log_dict({"a": 100.0, "new": 1.0})
    module.log("metric", MeanMetric())
    for each in module.trainer.loggers:
        each.log_metrics({"direct": 1.0}, step=0)
        each.log_hyperparams({"direct": 1})
        each.experiment.add_scalar("direct", 1.0, 0)
        each.save()
    assert module.logger is not None
    module.logger.experiment.add_scalar("direct", 1.0, 0)


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_is_logged(tmp_path: Path, stage: str) -> None:
    found = []
    for name, act in (("healthy", lambda m, x: None), ("logs", logs)):
        seed_everything(0, verbose=False)
        csv = CSVLogger(tmp_path, name=name, version=0)
        board = TensorBoardLogger(tmp_path, name=f"{name}-board", version=0)
        here = Here(act, look=lambda module: list(module.trainer.loggers))
        run = trainer(here, max_epochs=1, num_sanity_val_steps=0, logger=[csv, board])
        STAGES[stage](run, Logs())
        assert here.fault is None
        assert here.after == here.before == [csv, board]
        file = tmp_path / name / "version_0" / "metrics.csv"
        found.append((dict(run.callback_metrics), dict(run.logged_metrics), file.read_text()))
        assert set(vars(run.lightning_module)) & {"log", "log_dict"} == set()
    healthy, ill = found
    assert ill == healthy
    assert "direct" not in healthy[2]


def test_a_log_of_the_objects_own_is_put_back() -> None:
    module = Student()
    own = module.log
    module.log = own  # type: ignore[method-assign]  # a user's wrapper
    here = validated(Here(lambda m, x: m.log("x", 1.0), look=lambda m: vars(m)["log"] is own), module)
    assert (here.fault, here.within, here.after) == (None, False, True)


def test_a_lightning_module_inside_of_another_logs_nothing_either() -> None:
    class Outer(Student):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Student()

    here = validated(Here(lambda m, x: m.inner.log("x", 1.0), look=lambda m: 0), Outer())
    assert here.fault is None


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    def act(module: Any, x: Tensor) -> None:
        print("printed")  # noqa: T201  # as users do
        module.print("printed")
        logging.getLogger("user").critical("said")

    here = validated(Here(act, look=lambda module: logging.root.manager.disable), Student())
    assert here.fault is None
    assert (here.before, here.within, here.after) == (0, logging.CRITICAL, 0)
    assert "printed" not in capsys.readouterr().out
    assert [record for record in caplog.records if record.name == "user"] == []
    logging.getLogger("user").critical("said")
    assert [record.message for record in caplog.records if record.name == "user"] == ["said"]


@pytest.mark.parametrize("before", [True, False])
def test_a_wish_to_stop_is_forgotten_and_an_earlier_one_is_not(before: bool) -> None:
    def act(module: Any, x: Tensor) -> None:
        module.trainer.should_stop = not before

    class Wishes(Here):
        def on_validation_batch_start(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
            trainer.should_stop = before
            super().on_validation_batch_start(trainer, pl_module, *args)

    check(validated(Wishes(act, look=lambda module: module.trainer.should_stop), Student()))


# However it ends.


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt, SystemExit, StopIteration])
def test_all_is_put_back_after_an_error_which_goes_on(error: type[BaseException]) -> None:
    def act(module: Any, x: Tensor) -> None:
        ends = {"buffer-removed", "attribute-removed", "attribute-of-another-kind", "object-with-less"}
        ends |= {"dict-shorter", "list-shorter"}
        for name in sorted(LEAVES.keys() - ends):  # after which the others would fail
            LEAVES[name](module, x)
        module.trainer.should_stop = True
        torch.rand(1)
        raise error("here")

    def look(module: Any) -> Any:
        return state(module), generators(), module.trainer.should_stop, logging.root.manager.disable

    here = validated(Here(act, look=look), Keeper())
    fault, here.fault = here.fault, None
    assert isinstance(fault, error)
    check(here)


def test_within_each_other_they_put_back_what_each_found() -> None:
    def act(module: Any, x: Tensor) -> None:
        module.count = 2
        with undisturbed(module.trainer, module):
            module.count = 3
            module.log("x", 1.0)
        assert module.count == 2

    check(validated(Here(act), Keeper()))


# Weights and gradients.


def stepped(module: Any, kind: Callable[..., torch.optim.Optimizer], **more: Any) -> None:
    weight = module.net[0].weight
    weight.grad = torch.ones_like(weight)
    kind([weight], lr=0.1, **more).step()


@torch.enable_grad()
def decayed(module: Any) -> None:
    torch._foreach_mul_([each.detach() for each in module.parameters()], 0.5)


WRITES: dict[str, Callable[[Any, Tensor], Any]] = {
    "add": lambda m, x: m.net[0].weight.add_(1),
    "data": lambda m, x: m.net[0].weight.data.add_(1),
    "detached": lambda m, x: m.net[0].weight.detach().mul_(2),
    "copy": lambda m, x: m.net[0].bias.copy_(torch.ones_like(m.net[0].bias)),
    "fill": lambda m, x: nn.init.zeros_(m.net[0].weight),
    "normal": lambda m, x: m.net[0].reset_parameters(),
    "row": lambda m, x: m.net[0].weight[0].zero_(),
    "item": lambda m, x: m.net[0].weight.__setitem__((0, 0), 1.0),
    "view": lambda m, x: m.net[0].weight.view(-1).t().zero_(),
    "out": lambda m, x: torch.ones(m.net[0].bias.shape, out=m.net[0].bias.data),
    "foreach": lambda m, x: decayed(m),
    "sgd": lambda m, x: stepped(m, torch.optim.SGD),
    "adam": lambda m, x: stepped(m, torch.optim.Adam),
    "foreach-adam": lambda m, x: stepped(m, torch.optim.Adam, foreach=True),
    "fused-adam": lambda m, x: stepped(m, torch.optim.Adam, fused=True),
}


def weights(module: Any) -> Any:
    return [(id(each), each.data_ptr(), each._version, plain(each.data)) for each in module.parameters()]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("act", WRITES.values(), ids=WRITES)
def test_weights_are_not_written_to(act: Callable[[Any, Tensor], Any], stage: str) -> None:
    @torch.no_grad()
    def quietly(module: Any, x: Tensor) -> None:
        act(module, x)

    here = validated(Here(quietly, look=weights), Student(), stage=stage)
    assert isinstance(here.fault, LearningError), here.fault
    assert str(here.fault).startswith(("the step writes to weights (aten::", "the step lets "))
    assert here.before == here.within == here.after, "it is refused before it is done"


def test_a_step_that_goes_on_after_a_refusal_has_not_written_either() -> None:
    @torch.no_grad()
    def act(module: Any, x: Tensor) -> None:
        for write in WRITES.values():
            with pytest.raises(LearningError):
                write(module, x)
        module(x)

    here = validated(Here(act, look=weights), Student())
    assert here.fault is None
    assert here.before == here.within == here.after


def test_weights_are_not_loaded() -> None:
    def act(module: Any, x: Tensor) -> None:
        module.load_state_dict({name: value + 1 for name, value in module.state_dict().items()})

    here = validated(Here(act, look=weights), Student())
    assert "the step writes to weights (aten::copy_)" in str(here.fault), "torch makes an error of its own of it"
    assert here.before == here.within == here.after


SWAPS: dict[str, Callable[[Any, Tensor], Any]] = {
    "data": lambda m, x: setattr(m.net[0].weight, "data", torch.ones_like(m.net[0].weight)),
    "vector": lambda m, x: nn.utils.vector_to_parameters(torch.ones(10_000), m.parameters()),
    "frozen": lambda m, x: m.net[0].weight.requires_grad_(False),
}


@pytest.mark.parametrize("act", SWAPS.values(), ids=SWAPS)
def test_weights_that_are_swapped_for_others_are_refused_or_put_back(act: Callable[[Any, Tensor], Any]) -> None:
    def look(module: Any) -> Any:
        return weights(module), [each.requires_grad for each in module.parameters()]

    here = validated(Here(act, look=look), Student())
    assert here.fault is None or isinstance(here.fault, LearningError)
    assert here.after == here.before


def test_what_is_no_weight_may_be_written_to() -> None:
    def act(module: Any, x: Tensor) -> None:
        x.clone().add_(module.net[0].weight.sum())
        module.net[0].weight.detach().clone().zero_()
        module.net[1].running_mean.add_(1)
        module.net[0].weight.t().contiguous().mul_(2)

    check(validated(Here(act), Student()))


def gradients(module: Any) -> Any:
    return [(id(each.grad), None if each.grad is None else plain(each.grad)) for each in module.parameters()]


class Accumulates(Here):
    """There are gradients, as in the middle of an accumulation."""

    def on_validation_batch_start(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if self.before is None:
            for parameter in [*pl_module.parameters()][1:]:  # the first has none
                parameter.grad = torch.ones_like(parameter)
        super().on_validation_batch_start(trainer, pl_module, *args)


@torch.enable_grad()
def backward(module: Any, x: Tensor) -> None:
    assert all(each.grad is None for each in module.parameters())
    module(x).sum().backward()


GRADIENTS: dict[str, Callable[[Any, Tensor], Any]] = {
    "backward": backward,
    "set": lambda m, x: setattr(m.net[0].bias, "grad", torch.zeros_like(m.net[0].bias)),
    "zeroed": lambda m, x: m.zero_grad(),
    "cleared": lambda m, x: m.zero_grad(set_to_none=False),
    "nothing": lambda m, x: None,
}


@pytest.mark.parametrize("act", GRADIENTS.values(), ids=GRADIENTS)
def test_gradients_are_set_aside_and_put_back(act: Callable[[Any, Tensor], Any]) -> None:
    here = Accumulates(act, look=gradients)
    check(validated(here, Student(), stage="fit", inference_mode=False))
    assert here.before[0] == (id(None), None)
    assert here.before[1] != (id(None), None)


def test_gradients_are_put_back_after_an_error() -> None:
    def act(module: Any, x: Tensor) -> None:
        backward(module, x)
        raise UserError

    here = validated(Accumulates(act, look=gradients), Student(), stage="fit", inference_mode=False)
    assert isinstance(here.fault, UserError)
    assert here.after == here.before != here.within


# In between.


class Between(Callback):
    """Acts in the middle of the first batch of a validation, with what takes it back."""

    def __init__(self, act: Callable[[Traces, Any, Tensor], Any]) -> None:
        self.act = act
        self.done = False

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if not self.done:
            with undisturbed(trainer, pl_module) as traces:
                self.act(traces, pl_module, batch[0])
            self.done = True


def between(act: Callable[[Traces, Any, Tensor], Any], module: LightningModule) -> None:
    here = Between(act)
    trainer(here, max_epochs=1, num_sanity_val_steps=0).validate(module, loader(1, shuffle=False), verbose=False)
    assert here.done


@pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES)
def test_what_is_left_can_be_taken_back_in_between_again_and_again(leave: Callable[[Any, Tensor], Any]) -> None:
    def act(traces: Traces, module: Any, x: Tensor) -> None:
        before = state(module)
        for _ in range(3):
            leave(module, x)
            assert state(module) != before
            traces.restore()
            assert state(module) == before

    between(act, Keeper())


def test_passes_begin_with_the_same_random_numbers_after_each_restore() -> None:
    def act(traces: Traces, module: Any, x: Tensor) -> None:
        seen = []
        for _ in range(3):
            traces.restore()
            seen.append((torch.rand(1).item(), np.random.rand(), random.random(), module.numpy_state_draws.rand()))
        assert seen[0] == seen[1] == seen[2]

    between(act, Keeper())


DRAWS: dict[str, Callable[[Any, Tensor], Any]] = {
    "torch": lambda m, x: torch.rand(1),
    "dropout": lambda m, x: F.dropout(x),
    "numpy": lambda m, x: np.random.rand(),
    "python": lambda m, x: random.random(),
    "own-torch": lambda m, x: torch.rand(1, generator=m.draws),
    "own-numpy": lambda m, x: m.numpy_draws.random(),
    "own-numpy-state": lambda m, x: m.numpy_state_draws.rand(),
    "own-python": lambda m, x: m.python_draws.random(),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_it_is_known_whether_a_number_was_drawn_since_the_last_restore(draw: Callable[[Any, Tensor], Any]) -> None:
    def act(traces: Traces, module: Any, x: Tensor) -> None:
        for _ in range(2):
            module(x)
            module.count = 5
            assert not traces.drew()
            draw(module, x)
            assert traces.drew()
            traces.restore()
            assert not traces.drew()

    between(act, Keeper())


def test_logs_and_exchanges_stay_off_after_a_restore() -> None:
    def act(traces: Traces, module: Any, x: Tensor) -> None:
        traces.restore()
        module.log("new", 1.0)
        with pytest.raises(LearningError), torch.no_grad():
            module.net[0].weight.add_(1)

    module = Student()
    between(act, module)
    assert "new" not in module.trainer.callback_metrics


# What is of the standard library.


STANDARD: dict[str, Callable[[], Any]] = {
    "queue": queue.Queue,
    "simple-queue": queue.SimpleQueue,
    "lock": threading.Lock,
    "reentrant-lock": threading.RLock,
    "condition": threading.Condition,
    "event": threading.Event,
    "local": threading.local,
    "logger": lambda: logging.getLogger("user"),
    "path": lambda: Path("here"),
    "pattern": lambda: re.compile("a"),
    "pool": lambda: ThreadPoolExecutor(1),
    "partial": lambda: functools.partial(int, "3"),
}


@pytest.mark.parametrize("make", STANDARD.values(), ids=STANDARD)
def test_objects_of_the_standard_library_are_left_alone(make: Callable[[], Any]) -> None:
    module = Student()
    module.helper = {"a": make()}
    module.other = make()

    def look(m: Any) -> Any:
        return id(m.helper["a"]), id(m.other)

    here = validated(Here(lambda m, x: m(x), look=look), module)
    assert here.fault is None
    assert here.after == here.before


def test_a_queue_keeps_what_was_put_into_it_and_still_works() -> None:
    module = Student()
    module.waiting = queue.Queue()
    module.waiting.put(1)
    here = validated(Here(lambda m, x: m.waiting.put(2), look=lambda m: m.waiting.qsize()), module)
    assert (here.fault, here.before, here.after) == (None, 1, 2)
    assert [module.waiting.get(timeout=1) for _ in range(2)] == [1, 2]
    module.waiting.task_done()


def test_a_lock_that_is_held_is_still_held() -> None:
    module = Student()
    module.lock = threading.Lock()
    with module.lock:
        here = validated(Here(lambda m, x: None, look=lambda m: m.lock.locked()), module)
    assert (here.fault, here.before, here.after) == (None, True, True)


def test_a_plain_namespace_is_put_back() -> None:
    module = Student()
    module.settings, module.options = types.SimpleNamespace(a=1), argparse.Namespace(a=1)

    def act(m: Any, x: Tensor) -> None:
        m.settings.a = m.options.a = 2

    check(validated(Here(act, look=lambda m: (m.settings.a, m.options.a)), module))


# What cannot be put back is said before anything has run.


def refused(module: LightningModule, words: str) -> None:
    ran = []
    here = validated(Here(lambda m, x: ran.append(1), look=lambda m: (state(m), generators())), module)
    assert isinstance(here.fault, CannotRestoreError)
    assert str(here.fault) == words
    assert ran == []
    assert here.after == here.before


def sparse(size: int) -> Tensor:
    """As of a graph, whose neighbours are few."""
    places = torch.zeros(2, 1, dtype=torch.int64)
    return torch.sparse_coo_tensor(places, torch.ones(1), (size, size), check_invariants=True)


@pytest.mark.parametrize(
    ("add", "much"),
    [
        (lambda m, size: m.register_buffer("large", torch.zeros(size, dtype=torch.uint8)), True),
        (lambda m, size: setattr(m, "large", torch.zeros(size, dtype=torch.uint8)), True),
        (lambda m, size: setattr(m, "large", [{"a": torch.zeros(size, dtype=torch.uint8)}]), True),
        (lambda m, size: setattr(m, "large", np.zeros(size, dtype=np.uint8)), True),
        (lambda m, size: m.register_parameter("large", nn.Parameter(torch.zeros(size))), False),
        (lambda m, size: m.register_buffer("large", sparse(size)), False),
    ],
    ids=["buffer", "attribute", "nested", "array", "parameter", "sparse"],
)
def test_more_than_may_be_copied_is_refused(
    add: Callable[[Any, int], Any], much: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "_MOST_BYTES", 1 << 20)
    module = Student()
    add(module, 1 << 20)
    if much:  # with what a Student has itself it is more
        refused(module, "the module has more than 1 MiB in its buffers and attributes")
    else:
        assert validated(Here(lambda m, x: None, look=lambda m: 0), module).fault is None


def test_as_much_as_may_be_copied_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Student()
    module.buffered = torch.zeros(1000, dtype=torch.uint8)
    size = 1000 + sum(each.numel() * each.element_size() for each in module.buffers())
    monkeypatch.setattr(place, "_MOST_BYTES", size)
    assert validated(Here(lambda m, x: None), module).fault is None
    monkeypatch.setattr(place, "_MOST_BYTES", size - 1)
    refused(module, "the module has more than 0 MiB in its buffers and attributes")


def test_more_things_than_may_be_copied_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "_MOST_ITEMS", 1000)
    module = Student()
    module.outputs = [[] for _ in range(900)]
    assert validated(Here(lambda m, x: None), module).fault is None
    module.outputs = [[] for _ in range(1001)]
    refused(module, "the module has more than 1,000 things in its attributes")


def test_long_lists_of_numbers_are_no_things() -> None:
    module = Student()
    module.paths = [str(index) for index in range(200_000)]
    here = Here(lambda m, x: m.paths.pop(), look=lambda m: (len(m.paths), m.paths[-1]))
    check(validated(here, module))


def test_outputs_that_were_gathered_are_put_back_and_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "_MOST_BYTES", 1 << 20)
    module = Student()
    module.outputs = [{"preds": torch.zeros(1 << 14)} for _ in range(place.GATHERED + 1)]  # 4 MiB

    def gather(m: Any, inputs: Tensor) -> None:
        m.outputs.append({"preds": inputs})
        m.outputs[0]["more"] = 1

    check(validated(Here(gather, look=lambda m: (len(m.outputs), dict(m.outputs[0]).keys())), module))
    module.outputs.pop()
    refused(module, "the module has more than 1 MiB in its buffers and attributes")


def test_a_gathered_output_that_is_written_to_is_said() -> None:
    module = Student()
    module.outputs = [torch.zeros(place.SMALL + 1, dtype=torch.uint8) for _ in range(place.GATHERED + 1)]
    fault = validated(Here(lambda m, x: m.outputs[3].add_(1)), module).fault
    assert isinstance(fault, CannotRestoreError)
    assert str(fault) == "a tensor in a long list of the module was written to"


@pytest.mark.parametrize(
    ("iterator", "kind"),
    [
        (lambda: iter([1, 2]), "list_iterator"),
        (lambda: (each for each in [1]), "generator"),
        (lambda: zip([1], [2], strict=True), "zip"),
    ],
    ids=["list", "generator", "zip"],
)
def test_an_iterator_cannot_be_put_back(iterator: Callable[[], Iterator[Any]], kind: str) -> None:
    module = Student()
    module.source = iterator()
    refused(module, f"the module has an iterator among its attributes ({kind})")
    module.source = {"a": [iterator()]}
    refused(module, f"the module has an iterator among its attributes ({kind})")


# Two processes.


def reduce(module: Any, x: Tensor) -> None:
    torch.distributed.all_reduce(x.clone())


EXCHANGES: dict[str, Callable[[Any, Tensor], Any]] = {
    "all_reduce": reduce,
    "all_gather": lambda m, x: torch.distributed.all_gather([x.clone(), x.clone()], x),
    "all_gather_object": lambda m, x: torch.distributed.all_gather_object([None, None], 1),
    "broadcast": lambda m, x: torch.distributed.broadcast(x.clone(), 0),
    "barrier": lambda m, x: torch.distributed.barrier(),
    "module": lambda m, x: m.all_gather(x),
    "strategy": lambda m, x: m.trainer.strategy.reduce(x.mean()),
    "metric": lambda m, x: m.metric(x.mean()) and m.metric.compute(),
    "functional": lambda m, x: torch.distributed.nn.functional.all_reduce(x.clone()),
}


class Meets(Callback):
    """Has one rank, or both, exchange data in a validation, and writes down what came of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done = False

    def ends(self, trainer: Trainer, pl_module: LightningModule, act: Callable[[Any, Tensor], Any], x: Tensor) -> str:
        """What comes of an exchange, in words."""
        try:
            with warnings.catch_warnings(), undisturbed(trainer, pl_module):
                warnings.simplefilter("ignore", FutureWarning)
                act(pl_module, x)
        except Exception as fault:  # noqa: BLE001  # it is written down
            return f"{type(fault).__name__}: {fault}"
        return "nothing"

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *args: Any) -> None:
        if self.done:
            return
        self.done = True
        told = {name: self.ends(trainer, pl_module, act, batch[0]) for name, act in EXCHANGES.items()}
        if trainer.global_rank == 0:  # one rank alone: nobody answers
            told["alone"] = self.ends(trainer, pl_module, reduce, batch[0])
        with undisturbed(trainer, pl_module):
            pl_module.log("x", 1.0, sync_dist=True)
        together = torch.ones(1)
        torch.distributed.all_reduce(together)
        told["after"] = str(together.item())
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(told))


def test_a_step_that_would_wait_for_other_processes_is_stopped_before_it_does(tmp_path: Path) -> None:
    class Measures(Student):
        def __init__(self) -> None:
            super().__init__()
            self.metric = MeanMetric()

    strategy = DDPStrategy(start_method="fork", timeout=ANSWER_WITHIN)
    settings = {"max_epochs": 1, "num_sanity_val_steps": 0}
    fit(trainer(Meets(tmp_path), devices=2, strategy=strategy, **settings), Measures(), batches=2)
    assert torch.multiprocessing.active_children() == []
    for rank in range(2):
        told = json.loads((tmp_path / f"rank{rank}.json").read_text())
        for name in EXCHANGES:
            words = f"{ExchangeError.__name__}: the step exchanges data with other processes ("
            assert told[name].startswith(words), (name, told[name])
        assert told.get("alone") == (told["all_reduce"] if rank == 0 else None)
        assert told["after"] == "2.0"
    assert "(c10d::allreduce_)" in told["all_reduce"]


def test_one_process_exchanges_with_nobody() -> None:
    here = validated(Here(lambda m, x: m.all_gather(x), look=lambda m: 0), Student())
    assert here.fault is None
