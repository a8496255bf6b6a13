"""Programs that do the unusual: what can be measured of them is right, and what cannot is left out with a note."""

import math
import warnings
import weakref
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from lightning_diagnostics import GradientNormMonitor
from lightning_diagnostics.callback import is_look
from lightning_diagnostics.callback import trainer as insides
from tests.diagnostics.gradients.reference import (
    Batch,
    Gradients,
    Regression,
    Run,
    Step,
    Twin,
    by_norm,
    compare,
    data,
    loader,
    norm_of,
    times,
    watched,
)
from tests.diagnostics.gradients.test_monitor import Steady, _Seeing, drawn
from tests.diagnostics.gradients.test_precision import Scaled, half
from tests.helpers import accusations, trainer

WRITES = "the norm after clipping, as its step writes into the gradients"
SCALER = "the norm before clipping, as the program has a gradient scaler of its own"


class ByHand(Regression):
    """Manual optimisation with one optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


def plainly(module: Regression, batches: Sequence[Batch], *, clip: float | None = None) -> list[Step]:
    """The steps of the twin, which has its optimizers of the module's own making."""
    name = type(module.optimizer()).__name__
    twin = Twin(module, lambda m: {name: m.optimizer()})
    for index, batch in twin.batches(batches):
        how = by_norm(clip) if clip is not None else None
        twin.step(name, twin.gradients(twin.module.loss(batch)), at=index, clip=how)
    return twin.steps


def recent(monitor: GradientNormMonitor, name: str) -> list[list[Any]]:
    """Step, norm, clip factor, whether it was skipped, and loss, of the last steps."""
    return monitor.room_state()["histories"][name]["recent"]


# Double precision.


class OneWide(Regression):
    """One layer of double precision in a network of single."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8).double(), nn.Tanh(), nn.Linear(8, 3))

    def loss(self, batch: Batch) -> Tensor:
        kind = self.net[2].weight.dtype
        return functional.mse_loss(self.net[2](self.net[:2](batch[0].double()).to(kind)), batch[1].to(kind))


class Sums(Callback):
    """The sum and the sum of squares of weights and their gradients before every step."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[float, float]]] = {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        for layer, part in pl_module.named_modules():
            if not isinstance(part, nn.Linear):
                continue
            weight: Any = part.weight
            for kind, each in (("histogram", weight.grad), ("weights_histogram", weight.detach())):
                wide = each.double()
                sums = float(wide.sum()), float(wide.square().sum())
                self.seen.setdefault(f"gradients/{kind}/{layer}", []).append(sums)


@pytest.mark.parametrize(("make", "precision"), [(Regression, "64-true"), (OneWide, "32-true")])
def test_histograms_of_double_precision(make: type[Regression], precision: str, tmp_path: Path) -> None:
    module, batches, logger, sums = make(), data(3), TensorBoardLogger(tmp_path), Sums()
    monitor = GradientNormMonitor(strict=True, every_n_train_steps=1)
    settings: Any = {"precision": precision, "max_epochs": 1}
    if precision == "64-true":
        batches = [[each.double() for each in batch] for batch in batches]
    trainer(monitor, sums, logger=logger, **settings).fit(module, loader(batches))
    written = drawn(logger)
    assert set(written.Tags()["histograms"]) == set(sums.seen)
    for tag, expected in sums.seen.items():
        found = [(each.histogram_value.sum, each.histogram_value.sum_squares) for each in written.Histograms(tag)]
        wide = module.get_submodule(tag.rpartition("/")[2]).weight.dtype is torch.float64
        near = {"rel": 1e-12, "abs": 1e-14} if wide else {"rel": 1e-5, "abs": 1e-6}
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, **near)
    assert len(recent(monitor, "SGD")) == 3
    assert monitor.findings == []


class HistogramByHand(Regression):
    """Remembers the largest gradient of the first layer before its own clipping, and after it."""

    def __init__(self, *, manual: bool) -> None:
        super().__init__()
        self.automatic_optimization = not manual
        self.largest: list[float] = []

    def see(self) -> None:
        self.largest.append(float(self.net[0].weight.grad.abs().max()))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if self.automatic_optimization:
            return self.loss(batch)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        self.see()
        self.clip_gradients(optimizer, gradient_clip_val=0.01)
        self.see()
        optimizer.step()
        return None

    def configure_gradient_clipping(self, optimizer: Optimizer, *args: Any, **settings: Any) -> None:
        self.see()
        self.clip_gradients(optimizer, *args, **settings)
        self.see()


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
def test_histograms_are_before_clipping_and_in_manual_optimisation_after_it(manual: bool, tmp_path: Path) -> None:
    module, logger = HistogramByHand(manual=manual), TensorBoardLogger(tmp_path)
    settings: Any = {} if manual else {"gradient_clip_val": 0.01}
    monitor = GradientNormMonitor(strict=True)
    trainer(monitor, max_epochs=1, logger=logger, **settings).fit(module, loader(data(1)))
    (event,) = drawn(logger).Histograms("gradients/histogram/net.0")
    before, after = module.largest
    assert after < before / 2
    largest = max(event.histogram_value.max, -event.histogram_value.min)
    assert largest == pytest.approx(after if manual else before, rel=1e-6)


# Gradient scalers that nobody told of.

HELD: dict[str, torch.amp.GradScaler] = {}
"""What a program has at the level of its module."""


class OwnScaler(ByHand):
    """A scaler of its own, kept where it pleases."""

    where = ""
    fused = False

    def __init__(self) -> None:
        super().__init__()
        self.amp: Any = {"more": {"scaler": self.make()}} if self.where == "nested" else None

    def make(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=7)

    def scaler(self) -> torch.amp.GradScaler:
        if self.where == "nested":
            return self.amp["more"]["scaler"]
        if self.where == "global":
            return HELD.setdefault("scaler", self.make())
        self.amp = self.amp or self.make()  # in the first step
        return self.amp

    def optimizer(self) -> Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01, fused=self.fused)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer, scaler = self.trainer.optimizers[0], self.scaler()
        optimizer.zero_grad()
        self.manual_backward(scaler.scale(self.loss(batch)))
        scaler.step(optimizer)
        scaler.update()


@pytest.fixture
def _nothing_held() -> Iterator[None]:
    HELD.clear()
    yield
    HELD.clear()


@pytest.mark.usefixtures("_nothing_held")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("place", ["global", "nested", "late"])
def test_a_gradient_scaler_is_seen_wherever_it_is_kept(
    place: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OwnScaler, "where", place)
    monkeypatch.setattr(OwnScaler, "fused", fused)
    module, batches = OwnScaler(), data(24)
    twin = Twin(module, lambda m: {"Adam": torch.optim.Adam(m.parameters(), lr=0.01)})
    for index, batch in twin.batches(batches):
        twin.step("Adam", twin.gradients(twin.module.loss(batch)), at=index, known=False).scaled = fused
    run = watched(module, batches, every=1, window=10)
    assert "gradients/norm/Adam" not in run.curves
    compare(run, twin.steps)
    assert f"Adam: {SCALER}" in run.blind
    assert [finding.code for finding in run.findings] == ["GRD901"]


# Optimizers that write into gradients.


class Writes(Optimizer):
    """Makes its update where the gradients are, as some published optimizers do."""

    def __init__(self, parameters: Any, how: str) -> None:
        super().__init__(parameters, {"lr": 0.05, "how": how})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if group["how"] == "lerp":
                    momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                    parameter.grad.lerp_(momentum.lerp_(parameter.grad, 0.1), 0.9)
                elif group["how"] == "mul":
                    parameter.grad.mul_(0.5)
                else:
                    parameter.grad.data.mul_(0.5)
                parameter.add_(parameter.grad, alpha=-group["lr"])
        return loss


class Written(Regression):
    how = "mul"

    def optimizer(self) -> Optimizer:
        return Writes(self.parameters(), self.how)


writers = pytest.mark.parametrize("how", ["lerp", "mul", "data"])


@writers
def test_without_clipping_nothing_that_a_step_writes_is_taken_for_it(how: str) -> None:
    module, batches = Written(), data(24)
    module.how = how
    run = watched(module, batches, window=10)
    compare(run, plainly(module_of(how), batches))
    assert {seen[2] for seen in run.recent("Writes")} == {1.0}
    assert run.findings == []


def module_of(how: str) -> Written:
    """The same module as it was before training."""
    made = Written()
    made.how = how
    return made


@writers
@pytest.mark.parametrize("clip", [0.6, 100.0])
def test_with_clipping_the_norm_after_it_is_left_out_where_steps_write(how: str, clip: float) -> None:
    module, batches = module_of(how), data(24)
    steps = plainly(module, batches, clip=clip)
    for step in steps:
        step.after = None
    run = watched(module, batches, window=10, gradient_clip_val=clip)
    compare(run, steps)
    assert run.blind == f"not measured: Writes: {WRITES}."
    assert [finding.code for finding in run.findings] == ["GRD901"]


class Adam(Regression):
    def optimizer(self) -> Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


@pytest.mark.parametrize("every", [1, 50])
def test_with_clipping_the_norm_after_it_stays_where_steps_do_not_write(every: int) -> None:
    module, batches = Adam(), data(24)
    steps = plainly(module, batches, clip=0.6)
    run = watched(module, batches, every=every, window=10, gradient_clip_val=0.6)
    compare(run, steps)
    assert not run.blind
    assert "gradients/norm_after_clipping/Adam" in run.curves


class Halves(Callback):
    """Of the user."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        for parameter in pl_module.parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(0.5)


@pytest.mark.parametrize("clip", [None, 0.4])
def test_what_a_callback_of_the_users_does_to_gradients_is_measured(clip: float | None) -> None:
    module, batches = Adam(), data(12)
    twin = Twin(module, lambda m: {"Adam": m.optimizer()})

    def change(gradients: Gradients) -> Gradients:
        halved = times(0.5)(gradients)
        return halved if clip is None else by_norm(clip)(halved)

    for index, batch in twin.batches(batches):
        twin.step("Adam", twin.gradients(twin.module.loss(batch)), at=index, clip=change)
    run = watched(module, batches, Halves(), gradient_clip_val=clip)
    compare(run, twin.steps)
    assert max(seen[2] for seen in run.recent("Adam")) == pytest.approx(0.5)
    assert not run.blind


# Many optimizers, and gradients that break.


class Parts(LightningModule):
    """Parts that have nothing to do with each other: an optimizer for each; the gradients do not depend on weights.

    Args:
        count: How many.
        broken: Part and batches with a gradient of NaN.
        rests: Part and the batch from which on it makes no step.
    """

    def __init__(self, count: int, broken: dict[int, Sequence[int]], rests: dict[int, int] | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.parts = nn.ModuleList(nn.Linear(6, 3) for _ in range(count))
        self.broken, self.rests = broken, rests or {}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        for index, (part, optimizer) in enumerate(zip(self.parts, optimizers, strict=True)):
            if batch_idx >= self.rests.get(index, math.inf):
                continue
            optimizer.zero_grad()
            breaks = batch_idx in self.broken.get(index, ())
            hook: Any = part.weight.register_hook(
                lambda gradient, breaks=breaks: gradient * math.nan if breaks else None
            )
            self.manual_backward(part(batch[0]).mean())
            hook.remove()
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.01) for part in self.parts]


def broken_of(run: Run) -> list[tuple[str | None, int, str]]:
    """Place, first step and status of the gradients that are not finite."""
    return [(f.where, f.first_step, f.status) for f in run.findings if f.code == "GRD101"]


@pytest.mark.parametrize("every", [1, 50])
def test_a_gradient_that_breaks_is_found_beyond_the_optimizers_that_are_drawn(every: int) -> None:
    run = watched(Parts(14, {12: range(21, 30)}), data(30), every=every)
    assert broken_of(run) == [("parts.12.weight", 21, "open")]
    assert len(run.histories) == 8
    assert "optimizers beyond the first 8, but for gradients that are not finite" in run.blind


def test_broken_gradients_of_two_optimizers_are_two_findings_that_close_apart() -> None:
    module = Parts(2, {0: [10], 1: [15]}, rests={0: 11})
    run = watched(module, data(60))
    assert broken_of(run) == [("parts.0.weight", 10, "open"), ("parts.1.weight", 15, "closed")]


# A model that grows.


class Grows(ByHand):
    """Has one layer more from the second epoch on, with an optimizer of its own, whose rate is zero at first."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: list[float] = []

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.extra = nn.Linear(6, 6)
            self.own = torch.optim.SGD(self.extra.parameters(), lr=0.0)

    def loss(self, batch: Batch) -> Tensor:
        inputs = self.extra(batch[0]) if hasattr(self, "extra") else batch[0]
        return functional.mse_loss(self.net(inputs), batch[1])

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        super().training_step(batch, batch_idx)
        if hasattr(self, "extra"):
            self.norms.append(norm_of([p.grad for p in self.extra.parameters() if p.grad is not None]))
            self.own.step()
            self.own.zero_grad()
            if len(self.norms) == 30:
                self.own.param_groups[0]["lr"] = 0.01


@pytest.mark.parametrize("every", [1, 50])
def test_a_layer_that_is_added_later_is_measured_from_its_first_step_on(every: int) -> None:
    module = Grows()
    run = watched(module, data(20), every=every, max_epochs=3)
    assert len(module.norms) == 40
    assert set(run.histories) == {"SGD", "SGD-1"}
    assert [seen[0] for seen in run.recent("SGD-1")] == list(range(20, 60))
    assert [seen[1] for seen in run.recent("SGD-1")] == pytest.approx(module.norms, rel=1e-5)
    assert run.accused == []


# Optimizers around optimizers.


class Ahead:
    """Every third step goes back half the way; the step is that of another optimizer, which is given the closure."""

    def __init__(self, inner: Optimizer) -> None:
        self.wrap(inner)

    def wrap(self, inner: Optimizer) -> None:
        self.inner, self.made = inner, 0
        self.param_groups, self.state, self.defaults = inner.param_groups, inner.state, inner.defaults
        self.slow = [p.detach().clone() for group in inner.param_groups for p in group["params"]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(state_dict)

    def step(self, closure: Any = None) -> Any:
        loss = self.inner.step(closure)
        self.look_back()
        return loss

    def look_back(self) -> None:
        self.made += 1
        if self.made % 3 == 0:
            fast = [p for group in self.inner.param_groups for p in group["params"]]
            with torch.no_grad():
                for slow, parameter in zip(self.slow, fast, strict=True):
                    parameter.copy_(slow.lerp_(parameter, 0.5))


class AheadOfKind(Ahead, Optimizer):
    """The same, and an optimizer by its class."""

    def __init__(self, inner: Optimizer) -> None:
        self.wrap(inner)
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = {}, {}  # type: ignore[assignment]


class Wrapped(Regression):
    wrapper: Any = Ahead

    def configure_optimizers(self) -> Any:
        return self.wrapper(torch.optim.Adam(self.parameters(), lr=0.01))


@pytest.mark.parametrize("every", [1, 50])
@pytest.mark.parametrize("clip", [None, 0.6])
@pytest.mark.parametrize("wrapper", [Ahead, AheadOfKind])
def test_the_steps_of_a_wrapped_optimizer_are_seen_before_and_after_clipping(
    wrapper: Any, clip: float | None, every: int
) -> None:
    module, batches = Wrapped(), data(24)
    module.wrapper = wrapper
    twin = Twin(module, lambda m: {"Adam": torch.optim.Adam(m.parameters(), lr=0.01)})
    around, how = Ahead(twin.optimizers["Adam"]), by_norm(clip) if clip is not None else None
    for index, batch in twin.batches(batches):
        twin.step("Adam", twin.gradients(twin.module.loss(batch)), at=index, clip=how)
        around.look_back()
    run = watched(module, batches, every=every, gradient_clip_val=clip)
    compare(run, twin.steps)
    assert run.findings == []


class AheadWithHooks(AheadOfKind):
    """An optimizer in full, whose own step has the hooks of torch, too."""

    def __init__(self, inner: Optimizer) -> None:
        Optimizer.__init__(self, inner.param_groups, {})
        self.wrap(inner)


@pytest.mark.parametrize("clip", [None, 0.6])
def test_a_wrapper_with_hooks_of_its_own_has_the_numbers_of_what_it_wraps(clip: float | None) -> None:
    plain, full = Wrapped(), Wrapped()
    full.wrapper = AheadWithHooks
    one, other = (watched(each, data(24), every=50, gradient_clip_val=clip) for each in (plain, full))
    assert set(other.histories) == {"Adam", "AheadWithHooks"}
    for name in other.histories:
        assert other.recent(name) == one.recent("Adam")
    assert {seen[2] is None for seen in one.recent("Adam")} == {False}
    assert other.findings == []


# Steps without gradients.


class Nothing(Regression):
    """The first batch has no loss."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return self.loss(batch) if batch_idx else None


class NothingByHand(ByHand):
    """The first batch has a step and no gradients."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        if batch_idx:
            self.manual_backward(self.loss(batch))
        optimizer.step()


@pytest.mark.parametrize("make", [Nothing, NothingByHand])
def test_a_step_without_gradients_is_none_and_the_next_one_is_looked_at(make: type[Regression]) -> None:
    module, batches = make(), data(80)
    assert not is_look(1, batches=80, every=50)
    twin = Twin(module, lambda m: {"SGD": m.optimizer()})
    for index, batch in twin.batches(batches):
        if index:
            twin.step("SGD", twin.gradients(twin.module.loss(batch)), at=index)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`training_step` returned `None`")
        run = watched(module, batches, every=50)
    compare(run, twin.steps)
    assert list(run.curves["gradients/update_ratio/net.0"])[:2] == [1, 10]
    assert run.findings == []


# Checkpoints between looks.


class Saves(Callback):
    """A checkpoint at a step, when its batch is over."""

    def __init__(self, path: Path, at: int) -> None:
        self.path, self.at = path, at

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.at and not self.path.exists():
            trainer.save_checkpoint(self.path)


def same(batches: int = 400) -> DataLoader:
    return DataLoader([(torch.ones(2, 4), torch.ones(2, 2))] * batches, batch_size=None)


def lone(**more: Any) -> GradientNormMonitor:
    return GradientNormMonitor(**{"strict": True, "window": 100, "histograms": False, **more})


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_checkpoint_between_looks_has_every_step(tmp_path: Path) -> None:
    path, unbroken, resumed = tmp_path / "mid.ckpt", lone(), lone()
    assert [i for i in range(40, 140) if is_look(i, batches=400, every=50)] == [50, 100]
    trainer(unbroken, Saves(path, 70), max_steps=130, max_epochs=-1).fit(Steady(), same())
    trainer(resumed, max_steps=130, max_epochs=-1).fit(Steady(), same(), ckpt_path=path)
    one, other = (each.room_state()["histories"]["Adam"] for each in (resumed, unbroken))
    assert one["steps"] == other["steps"] == 130
    assert [seen[0] for seen in one["recent"]] == list(range(30, 130))
    assert [seen[1] for seen in one["recent"]] == pytest.approx([seen[1] for seen in other["recent"]], rel=1e-6)
    assert one["average"] == pytest.approx(other["average"], rel=1e-6)
    assert one["first"] == pytest.approx(other["first"], rel=1e-6)


class SavesWithin(Steady):
    """Saves a checkpoint in the middle of a step."""

    path: Path
    at = 7

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if self.automatic_optimization:
            self.save(batch_idx)
            return loss
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.save(batch_idx)
        optimizer.step()
        return None

    def save(self, batch_idx: int) -> None:
        if batch_idx == self.at:
            self.trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("at", [0, 7, 10])
@pytest.mark.parametrize("manual", [False, True])
def test_a_checkpoint_in_the_middle_of_a_step_loses_none(manual: bool, at: int, tmp_path: Path) -> None:
    norms: list[list[float]] = []
    for place in (at, -1):
        module, monitor = SavesWithin(), lone()
        module.automatic_optimization, module.path, module.at = not manual, tmp_path / "in.ckpt", place
        trainer(monitor, max_epochs=1).fit(module, same(20))
        assert [seen[0] for seen in recent(monitor, "Adam")] == list(range(20))
        assert [finding.code for finding in monitor.findings] == []
        norms.append([seen[1] for seen in recent(monitor, "Adam")])
    assert norms[0] == norms[1]
    saved = torch.load(tmp_path / "in.ckpt", weights_only=False)["callbacks"]
    (room,) = (state["room"] for name, state in saved.items() if "GradientNormMonitor" in name)
    assert {name: history["steps"] for name, history in room["histories"].items()} == ({"Adam": at} if at else {})


# Learning rates.


class Rates(Regression):
    """One rate is a tensor, the other a number."""

    rates: tuple[float, float] = (0.01, 0.01)

    def optimizer(self) -> Optimizer:
        first, last = self.rates
        groups: Any = [
            {"params": self.net[0].parameters(), "lr": torch.tensor(first)},
            {"params": self.net[2].parameters(), "lr": last},
        ]
        return torch.optim.Adam(groups, foreach=False)


@pytest.mark.parametrize("rates", [(0.001, 0.1), (0.1, 0.001)])
def test_the_largest_rate_is_drawn_whether_it_is_a_tensor_or_not(rates: tuple[float, float]) -> None:
    module = Rates()
    module.rates = rates
    run = watched(module, data(4))
    assert list(run.curves["gradients/learning_rate/Adam"].values()) == pytest.approx([0.1] * 4)


# Steps that are tried again.


class Fails(torch.optim.SGD):
    """Raises once, before its parent's step or in it."""

    fails = ""

    def step(self, closure: Any = None) -> Any:
        if self.fails == "before":
            raise RuntimeError("planted")
        return super().step(closure)


class FailsTwice(Fails):
    """A further class with a step of its own."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class Retries(ByHand):
    kind: type[Fails] = Fails

    def optimizer(self) -> Optimizer:
        return self.kind(self.parameters(), lr=0.05)

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        if batch_idx in (0, 3, 4):
            optimizer.optimizer.fails = "before"
            with pytest.raises(RuntimeError, match=r"^planted$"):
                optimizer.step()
            optimizer.optimizer.fails = ""
        optimizer.step()


@pytest.mark.parametrize("every", [1, 50])
@pytest.mark.parametrize("kind", [Fails, FailsTwice])
def test_a_step_that_is_tried_again_counts_once(kind: type[Fails], every: int) -> None:
    module, batches = Retries(), data(24)
    module.kind = kind
    steps = plainly(module, batches)
    run = watched(module, batches, every=every)
    compare(run, steps)
    assert run.findings == []


class Centred(torch.optim.SGD):
    """Evaluates the loss itself, and takes the mean out of what it was given before its parent's step."""

    centres = True

    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for parameter in [p for group in self.param_groups for p in group["params"]]:
            if self.centres and parameter.dim() > 1:
                parameter.grad.sub_(parameter.grad.mean(1, keepdim=True))
        super().step()
        return loss


class ByCentred(Regression):
    centres = True

    def optimizer(self) -> Optimizer:
        made = Centred(self.parameters(), lr=0.05)
        made.centres = self.centres
        return made


@pytest.mark.parametrize("every", [1, 50])
@pytest.mark.parametrize(("centres", "clip"), [(True, None), (False, None), (False, 0.6)])
def test_a_step_that_evaluates_the_loss_before_its_parents_counts_once(
    centres: bool, clip: float | None, every: int
) -> None:
    module, batches = ByCentred(), data(24)
    module.centres = centres
    steps = plainly(module, batches, clip=clip)
    run = watched(module, batches, every=every, gradient_clip_val=clip)
    compare(run, steps)
    assert run.findings == []


# Losses.


class Overflows(Scaled):
    """Of some batches a gradient overflows, while the loss is as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.losses.append(float(loss.detach()))
        if batch_idx in self.sick:
            for parameter in self.parameters():
                hook: Any = parameter.register_hook(lambda gradient: gradient * math.inf)
                self.hooks.append(hook)
        return loss

    def on_train_start(self) -> None:
        self.hooks: list[Any] = []

    def on_train_batch_end(self, *args: Any) -> None:
        for hook in self.hooks:
            hook.remove()


@pytest.mark.parametrize("every", [1, 50])
@pytest.mark.parametrize("fused", [False, True])
def test_the_loss_of_a_step_that_the_scaler_skipped_is_unscaled(fused: bool, every: int) -> None:
    module = Overflows()
    module.sick, module.fused = (3, 11), fused
    run = watched(module, data(24), every=every, **half())
    assert [index for index, seen in enumerate(run.recent("Adam")) if seen[3]] == [3, 11]
    assert [seen[4] for seen in run.recent("Adam")] == pytest.approx(module.losses, rel=1e-5)


@pytest.mark.parametrize("scaled", [False, True])
def test_the_loss_of_an_accumulation_is_the_undivided_one(scaled: bool) -> None:
    module = Overflows()
    run = watched(module, data(24), accumulate_grad_batches=4, **(half() if scaled else {}))
    assert [seen[4] for seen in run.recent("Adam")] == pytest.approx(module.losses[3::4], rel=1e-5)


# Parameters that are never reached.


class Idle(nn.Linear):
    """Neither its bias nor its scale has a gradient."""

    def __init__(self) -> None:
        super().__init__(6, 3)
        self.logit_scale = nn.Parameter(torch.ones(1))

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight)


class HasIdle(Regression):
    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), Idle())


def test_a_scale_without_a_gradient_is_missing_one_beside_a_layer_that_learns_and_a_bias_is_not() -> None:
    run = watched(HasIdle(), data(80))
    assert run.accused == [("GRD102", "net.2.logit_scale")]


class Judged(GradientNormMonitor):
    """Writes down at which batch parameters are judged."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.judged: list[int] = []

    def _judge_parameters(self, trainer: Trainer, step: int) -> None:
        self.judged.append(trainer.fit_loop.epoch_loop.batch_idx)
        super()._judge_parameters(trainer, step)


@pytest.mark.parametrize("ranks", [1, 64])
def test_in_a_long_epoch_parameters_are_judged_before_its_end(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    home = import_module("lightning_diagnostics.diagnostics.gradients.callback")
    several = SimpleNamespace(**{**vars(insides), "process_count": lambda _: ranks})
    monkeypatch.setattr(home, "insides", several)
    monitor = Judged(strict=True, histograms=False)
    rows = TensorDataset(torch.ones(1200, 6), torch.ones(1200, 3))
    trainer(monitor, max_epochs=1).fit(HasIdle(), DataLoader(rows))
    assert monitor._watch.processes == ranks
    assert monitor.judged == [500, 1000, 1199]
    (finding,) = accusations(monitor)
    assert (finding.code, finding.where, finding.last_step) == ("GRD102", "net.2.logit_scale", 1199)


def test_on_finding_stop_ends_a_long_epoch_in_which_a_gradient_is_missing() -> None:
    monitor = GradientNormMonitor(strict=True, histograms=False, on_finding="stop")
    rows = TensorDataset(torch.ones(1200, 6), torch.ones(1200, 3))
    run = trainer(monitor, max_epochs=1)
    run.fit(HasIdle(), DataLoader(rows))
    assert run.global_step == 501


# Pictures.


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_filters_of_many_short_epochs_are_drawn_at_a_pace(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    images = DataLoader(TensorDataset(torch.randn(8, 1, 6, 6)), batch_size=1)
    trainer(lone(), logger=logger, max_epochs=40).fit(_Seeing(1), images)
    steps = [image.step for image in drawn(logger).Images("gradients/filters/first")]
    assert steps[:4] == [7, 15, 23, 31]
    assert 0 < steps[4] - steps[3] <= 200
    assert len(steps) <= 4 + 320 // 200 + 1


# Strategies.


class FSDPStrategy:
    """By name."""


class Fast(FSDPStrategy):
    """Of somebody's own."""


class ModelParallelStrategy:
    """Whose gradients can be read."""


@pytest.mark.parametrize(
    ("strategy", "name"), [(FSDPStrategy, "FSDPStrategy"), (Fast, "Fast"), (ModelParallelStrategy, "")]
)
def test_a_strategy_hides_gradients_if_the_one_that_it_is_made_from_does(strategy: type[Any], name: str) -> None:
    several: Any = SimpleNamespace(strategy=strategy())
    assert insides.hidden_gradients(several) == name


# Endings.


def tensors_in(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """The tensors that an object of ours keeps, in whatever it is made of; not those of the Trainer."""
    if id(value) in seen or isinstance(value, Trainer | nn.Module | weakref.ref):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in [*value.keys(), *value.values()]:
            yield from tensors_in(each, seen)
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from tensors_in(each, seen)
    elif type(value).__module__.startswith(("lightning_diagnostics", "collections")):
        parts = dict(getattr(value, "__dict__", {}))
        yield from tensors_in(list(value) if type(value).__name__ == "deque" else parts, seen)


class Local(GradientNormMonitor):
    """Takes the norms of this process alone, as under several."""

    def attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().attach(trainer, pl_module)
        self._averaged = True


class Ends(Overflows):
    """Is over at some batch, before its step or after it."""

    at = 8
    hook = "training_step"

    def end(self, hook: str, batch_idx: int) -> None:
        if (hook, batch_idx) == (self.hook, self.at):
            raise RuntimeError(self.message)

    message = "planted"

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        self.end("training_step", batch_idx)
        return super().training_step(batch, batch_idx)

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        self.end("on_before_zero_grad", self.trainer.fit_loop.epoch_loop.batch_idx)


@pytest.mark.parametrize("hook", ["training_step", "on_before_zero_grad", "never"])
@pytest.mark.parametrize("scaled", [False, True])
def test_when_the_run_is_over_no_tensor_is_kept(scaled: bool, hook: str) -> None:
    monitor, module = Local(strict=True, histograms=False, every_n_train_steps=4), Ends()
    module.hook = hook
    run = trainer(monitor, max_epochs=1, **(half() if scaled else {}))
    if hook == "never":
        run.fit(module, loader(data(20)))
    else:
        with pytest.raises(RuntimeError, match=r"^planted$"):
            run.fit(module, loader(data(20)))
    assert list(tensors_in(vars(monitor), set())) == []
    assert list(tensors_in({"found": (torch.ones(1), [torch.ones(2)])}, set())) != []


def test_shares_of_sharded_gradients_are_let_go_of() -> None:
    watch = GradientNormMonitor(strict=True)._watch
    watch._weights[(1,)] = {torch.device("cpu"): torch.ones(1)}
    assert len(list(tensors_in(watch, set()))) == 1
    watch.stop()
    assert list(tensors_in(watch, set())) == []


class WindsUp(GradientNormMonitor):
    """Writes down whether it took up what waited."""

    wound = 0

    def wind_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.wound += 1
        super().wind_up(trainer, pl_module)


@pytest.mark.parametrize(
    ("message", "steps"), [("planted", 8), ("CUDA error: device-side assert triggered\nfurther lines", 6)]
)
def test_after_an_error_of_the_device_nothing_is_fetched_from_it(message: str, steps: int) -> None:
    monitor, module = WindsUp(strict=True, histograms=False), Ends()
    module.message = message
    with pytest.raises(RuntimeError) as told:
        trainer(monitor, max_epochs=1).fit(module, loader(data(40)))
    assert str(told.value) == message
    assert monitor.wound == (message == "planted")
    assert monitor.room_state()["histories"]["Adam"]["steps"] == steps
    assert not monitor._watch.waits
    assert not monitor._deferred.size
