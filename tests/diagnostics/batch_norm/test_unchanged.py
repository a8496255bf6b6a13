"""With the guard a run is the same to the last bit: odd modules whose steps leave traces, and are run once more."""

import copy
import csv
import random
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from lightning_diagnostics import BatchNormGuard
from lightning_diagnostics.diagnostics.batch_norm import callback as home
from lightning_diagnostics.diagnostics.batch_norm import trying
from tests.contracts.cells import digest
from tests.diagnostics.batch_norm import sick
from tests.diagnostics.batch_norm.sick import Batch, Patient
from tests.helpers import alive, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]


# Odd modules.


class Metrics(Patient):
    """Metrics of torchmetrics, logged as objects, and a collection of them."""

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__(sick=sick)
        self.accuracy = MulticlassAccuracy(10)
        self.several = MetricCollection({"a": MulticlassAccuracy(10, top_k=2), "c": MulticlassConfusionMatrix(10)})
        self.mean = MeanMetric()

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        logits = self(batch[0])
        self.accuracy(logits, batch[1])
        self.several.update(logits, batch[1])
        self.mean.update(functional.cross_entropy(logits, batch[1]))
        self.log(f"{name}_accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log(f"{name}_mean", self.mean)

    def on_validation_epoch_end(self) -> None:
        found = self.several.compute()
        self.log("val_top", found["a"])
        self.log("val_trace", found["c"].diagonal().sum().float())
        self.several.reset()

    def on_test_epoch_end(self) -> None:
        self.several.reset()


class MetricsInAList(Patient):
    """Metrics that are no submodules."""

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__(sick=sick)
        self.metrics: Any = [MulticlassAccuracy(10)]

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        self.metrics[0].update(self(batch[0]), batch[1])

    def on_validation_epoch_end(self) -> None:
        self.log("val_accuracy", self.metrics[0].compute())
        self.metrics[0].reset()

    def on_test_epoch_end(self) -> None:
        self.log("test_accuracy", self.metrics[0].compute())
        self.metrics[0].reset()


@dataclass
class Average:
    """A running average of the user's."""

    total: float = 0.0
    count: int = 0
    history: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        """Take up a value."""
        self.total, self.count = self.total + value, self.count + 1
        self.history.append(value)


class Collects(Patient):
    """Lists, dicts, sets, queues, counters, arrays, tensors and objects that the step adds to."""

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__(sick=sick)
        self.outputs: list[Tensor] = []
        self.nested: dict[str, Any] = {"rows": [], "deep": {"seen": []}}
        self.by_class: Any = defaultdict(list)
        self.ordered: Any = OrderedDict()
        self.counts: Any = Counter()
        self.recent: Any = deque(maxlen=3)
        self.classes: set[int] = set()
        self.steps = 0
        self.best = float("inf")
        self.running = torch.zeros(10)
        self.array = np.zeros(10)
        self.average = Average()
        self.pair = ([], {})
        self.net.calls = 0
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        logits = self(batch[0])
        loss = functional.cross_entropy(logits, batch[1])
        self.outputs.append(logits.detach())
        self.nested["rows"].append(batch_idx)
        self.nested["deep"]["seen"].append(float(loss))
        for label in batch[1].tolist():
            self.by_class[label].append(batch_idx)
        self.ordered[batch_idx] = float(loss)
        self.ordered.move_to_end(batch_idx, last=False)
        self.counts.update(batch[1].tolist())
        self.recent.append(float(loss))
        self.classes |= set(batch[1].tolist())
        self.steps += 1
        self.best = min(self.best, float(loss))
        self.running += logits.detach().mean(0)
        self.array += logits.detach().mean(0).numpy()
        self.average.add(float(loss))
        self.pair[0].append(1)
        self.pair[1][batch_idx] = name
        self.net.calls += 1
        self.seen += len(logits)
        setattr(self, f"made_in_{batch_idx}", self.steps)
        super().score(name, batch, batch_idx)

    def kept(self) -> dict[str, Any]:
        """All of it, in plain values."""
        names = ("outputs", "nested", "ordered", "steps", "best", "running", "pair", "made_in_0", "made_in_3")
        found = {name: getattr(self, name) for name in names}
        found |= {"by_class": dict(self.by_class), "counts": sorted(self.counts.items())}
        found |= {"recent": list(self.recent), "classes": sorted(self.classes), "array": self.array.tolist()}
        return {**found, "average": vars(self.average), "calls": self.net.calls}


class Draws(Patient):
    """Every generator is drawn from."""

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__(sick=sick)
        self.own = torch.Generator().manual_seed(3)
        self.numpys = np.random.default_rng(3)
        self.pythons = random.Random(3)

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        noise = torch.rand(()) + np.random.rand() + random.random() + torch.rand((), generator=self.own)
        noise = noise + self.numpys.random() + self.pythons.random()
        self.log(f"{name}_noise", noise)
        super().score(name, (batch[0] + 0.01 * torch.randn_like(batch[0]), batch[1]), batch_idx)


class Logs(Patient):
    """Logs in every way that there is, prints, and writes to the experiment itself."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        loss = functional.cross_entropy(self(batch[0]), batch[1])
        self.log(f"{name}_step", loss, on_step=True, on_epoch=False)
        self.log(f"{name}_both", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log_dict({f"{name}_a": loss, f"{name}_b": loss * 2}, reduce_fx="max")
        self.print("printed", batch_idx)
        sys.stdout.write(f"and so {batch_idx}\n")
        for logger in self.loggers:
            logger.log_metrics({f"{name}_by_hand": float(loss)}, step=batch_idx)
            if hasattr(logger.experiment, "add_scalar"):
                logger.experiment.add_scalar(f"{name}_by_experiment", float(loss), batch_idx)


class ChangesTheBatch(Patient):
    """The batch is changed in place."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        batch[0].mul_(0.5).add_(0.1)
        batch.append(batch[1].clone())
        batch[1].clamp_(max=8)
        super().score(name, batch, batch_idx)


class ChangesWeights(Patient):
    """Tensors of the module are replaced and written to in the step: a memory, as in few-shot learning."""

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__(sick=sick)
        self.register_buffer("memory", torch.zeros(4, 64))
        self.register_buffer("later", None)

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        self.memory = torch.cat([self.memory[1:], batch[0][:1]])
        self.later = batch[0].mean(0)
        self.memory[0] += 1
        super().score(name, (batch[0] + 1e-3 * self.memory.mean(0), batch[1]), batch_idx)


class Stops(Patient):
    """The step asks the Trainer to stop."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        super().score(name, batch, batch_idx)
        if self.current_epoch and batch_idx == 3:
            self.trainer.should_stop = True


class NeedsWholeBatches(Patient):
    """The step fails with a batch of another length."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        assert len(batch[0]) in (8, 64)
        self.steps = getattr(self, "steps", 0) + 1
        super().score(name, batch, batch_idx)


class Fails(Patient):
    """The step fails for all batches but those that it knows."""

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.known = batch[0].sum()

    on_test_batch_start = on_validation_batch_start

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        self.tries = getattr(self, "tries", 0) + 1
        if not hasattr(self, "known") or not torch.equal(self.known, batch[0].sum()):
            raise LookupError("another batch")
        super().score(name, batch, batch_idx)


class Takes(Patient):
    """Gradients are taken in the validation, as for an adversarial attack."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            inputs = batch[0].clone().requires_grad_()
            loss = functional.cross_entropy(self(inputs), batch[1].clone())
            (slope,) = torch.autograd.grad(loss, inputs)
        super().score(name, [batch[0] + 0.05 * slope.sign(), batch[1]], batch_idx)


class Hooked(Patient):
    """Hooks of the user's own count calls."""

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__(sick=sick)
        self.activations: dict[str, Tensor] = {}
        self.net[0].register_forward_hook(self.keep)

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """The hook."""
        self.activations[str(len(self.activations))] = output.detach().mean()


class Sublog(Patient):
    """A LightningModule in a LightningModule."""

    def __init__(self, *, sick: bool = False) -> None:
        super().__init__(sick=sick)
        self.inner = Patient()

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        self.log(f"{name}_inner", self.inner(batch[0]).mean())
        super().score(name, batch, batch_idx)


ODD = (
    *(Patient, Metrics, MetricsInAList, Collects, Draws, Logs, ChangesTheBatch, ChangesWeights, Stops),
    *(NeedsWholeBatches, Fails, Takes, Hooked, Sublog),
)
ILL = (
    *(sick.TrainsInTheStep, sick.TrainsAtTheStart, sick.TrainsAtEveryBatch, sick.LeavesModesAlone, sick.Scripted),
    *(sick.KeepsNormsInAList, sick.FunctionThatTrains, sick.NormByHand, sick.MovesBuffers, sick.OfInstances),
    *(sick.EvaluatesInTheStep, sick.ForgetsTrainAtTheEpochEnd, sick.Frozen, sick.Averaged, sick.CentresOverTheBatch),
    *(sick.DropsAlways, sick.DropsInAttention, sick.RecurrentDropout, sick.Lazy, sick.NoStatistics, sick.Reuses),
)


# A run and what it leaves.


def _seen(module: Patient, into: list[str]) -> None:
    """Have every batch that a hook of the evaluation is given written down as it is."""
    for hook in ("validation_step", "test_step", "predict_step"):
        step = getattr(module, hook)

        def noted(batch: Any, batch_idx: int, *args: Any, step: Any = step) -> Any:
            if module.trainer.validate_loop is not None and not _is_trial():
                into.append(f"{batch_idx} {digest(list(batch))}")
            return step(batch, batch_idx, *args)

        noted.__name__ = hook
        object.__setattr__(module, hook, noted)


def _is_trial() -> bool:
    """Whether this is an extra call: loggers are stood in for."""
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "compare":
            return True
        frame = frame.f_back
    return False


def written(folder: Path) -> list[tuple[str, str, str]]:
    """What a CSV logger has of the user's."""
    rows: list[dict[str, str]] = []
    for file in folder.rglob("metrics.csv"):
        with file.open(encoding="utf-8", newline="") as lines:
            rows += csv.DictReader(lines)
    cells = ((row["step"], name, value) for row in rows for name, value in sorted(row.items()))
    ours = ("batch_norm/", "step", "epoch")
    return [(step, name, value) for step, name, value in cells if value and not name.startswith(ours)]


def drawn(folder: Path) -> list[Any]:
    """What a TensorBoard logger has of the user's: name, step and value."""
    events = EventAccumulator(str(folder / "tensorboard" / "version_0"), size_guidance={"scalars": 0})
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if not name.startswith(("batch_norm/", "epoch"))]
    return [(name, each.step, each.value) for name in sorted(names) for each in events.Scalars(name)]


Outcome = dict[str, Any]


def outcome(make: Callable[..., Patient], folder: Path, entry: str = "fit", *guards: Any, **settings: Any) -> Outcome:
    """Run it from fixed seeds; gives digests of everything."""
    module = sick.made(make, sick=True)
    seen: list[str] = []
    _seen(module, seen)
    loggers = [CSVLogger(folder, name="csv", version=0), TensorBoardLogger(folder, name="tensorboard", version=0)]
    loaders = sick.digits()
    if entry == "fit":
        run = sick.run(module, *guards, data=loaders, logger=loggers, max_epochs=2, num_sanity_val_steps=2, **settings)
        output = None
    else:
        run = trainer(*guards, logger=loggers, **settings)
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
        more = {} if entry == "predict" else {"verbose": False}
        output = getattr(run, entry)(module, loaders[1], **more)
    state = np.random.get_state()
    parts: Outcome = {f"state.{name}": value for name, value in module.state_dict().items()}
    parts |= {f"gradient.{name}": each.grad for name, each in module.named_parameters() if each.grad is not None}
    parts |= {f"metric.{name}": value for name, value in run.callback_metrics.items()}
    parts |= {"rng.torch": torch.get_rng_state(), "rng.numpy": [state[0], state[1].tolist(), *state[2:]]}
    parts |= {"rng.python": random.getstate(), "modes": [each.training for each in module.modules()]}
    parts |= {"csv": written(folder), "tensorboard": drawn(folder), "output": output, "seen": seen}
    parts |= {"steps": run.global_step, "stopped": run.should_stop, "attributes": sorted(vars(module))}
    parts |= {"attached": sorted(vars(module.net)) if not isinstance(module.net, torch.jit.ScriptModule) else []}
    if isinstance(module, sick.KeepsNormsInAList):
        parts["blocks"] = [dict(each.named_buffers()) for each in module.blocks]
    for name in ("steps", "tries", "activations"):
        parts[name] = getattr(module, name, None)
    if isinstance(module, Collects):
        parts |= {f"kept.{name}": value for name, value in module.kept().items()}
    if isinstance(module, Draws):
        parts |= {"own": module.own.get_state(), "numpys": str(module.numpys.bit_generator.state)}
        parts |= {"pythons": module.pythons.getstate()}
    assert alive(module) - {"net.0._forward_hooks"} == set()
    return {name: digest(value) for name, value in parts.items()}


def differences(one: Outcome, other: Outcome) -> set[str]:
    """The names of what is not the same."""
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def _compared(make: Callable[..., Patient], folder: Path, entry: str, **settings: Any) -> set[str]:
    without = outcome(make, folder / "without", entry, **settings)
    guard = BatchNormGuard(strict=True, batch_dependence="every", every_n_train_steps=1)
    return differences(without, outcome(make, folder / "with", entry, guard, **settings))


named: Any = {"ids": lambda kind: kind.__name__}


@pytest.mark.parametrize("make", [*ODD, *(pytest.param(each, marks=pytest.mark.slow) for each in ILL)], **named)
def test_training_is_the_same_to_the_last_bit(make: Callable[..., Patient], tmp_path: Path) -> None:
    assert _compared(make, tmp_path, "fit") == set()


@pytest.mark.slow
@pytest.mark.parametrize("make", ODD, **named)
def test_it_is_the_same_without_inference_mode(make: Callable[..., Patient], tmp_path: Path) -> None:
    assert _compared(make, tmp_path, "fit", inference_mode=False) == set()


@pytest.mark.parametrize("entry", ["validate", pytest.param("test", marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", ODD, **named)
def test_an_evaluation_alone_is_the_same(make: Callable[..., Patient], entry: str, tmp_path: Path) -> None:
    assert _compared(make, tmp_path, entry) == set()


@pytest.mark.parametrize("make", [Patient, sick.TrainsAtTheStart, sick.DropsAlways, sick.KeepsNormsInAList], **named)
def test_predictions_are_the_same(make: Callable[..., Patient], tmp_path: Path) -> None:
    assert _compared(make, tmp_path, "predict") == set()


def test_what_is_printed_is_printed_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    outcome(Logs, tmp_path / "without", "validate")
    without = capsys.readouterr().out
    outcome(Logs, tmp_path / "with", "validate", BatchNormGuard(strict=True))
    assert without.count("printed") == 4
    assert capsys.readouterr().out.count("printed") == 4


# The tests of the test.


def test_the_odd_modules_are_really_tried_with_other_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trials: list[str] = []

    class Counted(trying.Trying):
        def compare(self, *args: Any) -> Any:
            trials.append("")
            return super().compare(*args)

    monkeypatch.setattr(home, "Trying", Counted)
    for make in ODD:
        trials.clear()
        guard = BatchNormGuard(strict=True)
        outcome(make, tmp_path / make.__name__, "validate", guard)
        assert trials
        blind = [finding for finding in guard.findings if finding.code == "BN901"]
        derived = make in (
            Draws,
            ChangesWeights,
            Takes,
        )  # 64 features in a batch of 64, and not the tensor of the loader
        assert bool(blind) == derived, make


class CountsItsCalls(Patient):
    """Its ``forward`` counts and draws."""

    steps = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.steps += 1
        return super().forward(inputs) + 0 * torch.rand(1).item()


class Aside(torch.nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(64)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return self.norm(inputs)


def test_a_module_that_no_attribute_leads_to_is_put_back_too(tmp_path: Path) -> None:
    def buffers(*guards: Any) -> list[Tensor]:
        torch.manual_seed(0)
        aside = Aside()  # in training mode

        class CallsAside(Patient):
            def score(self, name: str, batch: Batch, batch_idx: int) -> None:
                aside(batch[0])
                super().score(name, batch, batch_idx)

        outcome(CallsAside, tmp_path / str(len(guards)), "validate", *guards)
        return list(aside.buffers())

    guard = BatchNormGuard(strict=True)
    assert all(map(torch.equal, buffers(), buffers(guard)))
    assert ("BN107", "self/BatchNorm1d") in {(finding.code, finding.where) for finding in guard.findings}


class _Careless:
    """Puts nothing back."""

    def drew(self) -> bool:
        return False

    def restore(self) -> None:
        pass


def test_a_guard_that_puts_nothing_back_is_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextmanager
    def careless(*args: Any) -> Any:
        yield _Careless()

    right = outcome(CountsItsCalls, tmp_path / "without", "validate")
    careful = outcome(CountsItsCalls, tmp_path / "careful", "validate", BatchNormGuard(strict=True))
    assert differences(right, careful) == set()
    monkeypatch.setattr(trying, "undisturbed", careless)
    wrong = outcome(CountsItsCalls, tmp_path / "careless", "validate", BatchNormGuard(strict=True))
    assert {"steps", "rng.torch"} <= differences(right, wrong)


def test_a_run_is_the_same_as_itself(tmp_path: Path) -> None:
    assert differences(outcome(Patient, tmp_path / "one"), outcome(Patient, tmp_path / "two")) == set()


def test_a_copy_of_a_guard_that_has_run_holds_no_part_of_the_model(tmp_path: Path) -> None:
    guard = BatchNormGuard(strict=True)
    outcome(Collects, tmp_path, "fit", guard)
    twin = copy.deepcopy(guard)
    assert {finding.key for finding in twin.findings} == {finding.key for finding in guard.findings}
