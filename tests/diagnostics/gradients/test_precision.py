"""Gradient scalers, low and high precision, and values that float32 sums lose."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from tests.diagnostics.gradients.reference import (
    Batch,
    Clip,
    Regression,
    Run,
    Step,
    Twin,
    by_norm,
    compare,
    data,
    layers_of,
    norm_of,
    ratios_of,
    watched,
)

cadences = pytest.mark.parametrize("every", [1, 50])


def scaler(**more: Any) -> torch.amp.GradScaler:
    """A real one, whose scale changes within a few steps."""
    return torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=4, **more)


def half() -> dict[str, Any]:
    """What makes Lightning train with it on the CPU."""
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler())]}


class Scaled(Regression):
    """Its losses are scaled, but computed in float32, so that float64 takes the same way; ``sick``: overflows there."""

    sick: Sequence[int] = ()
    fused = False
    manual = False

    def __init__(self) -> None:
        super().__init__()
        self.index = -1

    def loss(self, batch: Batch) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().loss(batch)

    def optimizer(self) -> Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01, fused=self.fused)

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        loss = self.loss(batch)
        return loss * 1e38 if batch_idx in self.sick else loss


class ByHand(Scaled):
    """Manual optimisation with Lightning's scaler."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        with torch.autocast("cpu", enabled=False):  # backward passes follow it, too
            self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()
        optimizer.zero_grad()


def plainly(module: Scaled, batches: Sequence[Batch], *, clip: Clip | None = None) -> list[Step]:
    twin = Twin(module, lambda m: {"Adam": torch.optim.Adam(m.parameters(), lr=0.01)})
    for index, batch in twin.batches(batches):
        if index in module.sick:
            twin.steps.append(Step("Adam", index, math.nan, None, {}, {}, {}, 0.01, skipped=True))
        else:
            twin.step("Adam", twin.gradients(twin.module.loss(batch)), at=index, clip=clip)
        twin.steps[-1].scaled = True
    return twin.steps


@cadences
@pytest.mark.parametrize("sick", [(), (3, 11)], ids=["", "overflows"])
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("make", [Scaled, ByHand])
def test_a_scaler_leaves_no_trace(make: type[Scaled], fused: bool, sick: Sequence[int], every: int) -> None:
    module, batches = make(), data(24)
    module.fused, module.sick = fused, sick
    steps = plainly(module, batches)
    run = watched(module, batches, every=every, **half())
    compare(run, steps)
    assert sum(seen[3] for seen in run.recent("Adam")) == len(sick)
    assert not run.accused


@cadences
@pytest.mark.parametrize("sick", [(), (3, 11)], ids=["", "overflows"])
def test_clipping_under_a_scaler(sick: Sequence[int], every: int) -> None:
    module, batches = Scaled(), data(24)
    module.sick = sick
    steps = plainly(module, batches, clip=by_norm(0.6))
    run = watched(module, batches, every=every, gradient_clip_val=0.6, **half())
    compare(run, steps)
    assert not run.blind
    assert not run.accused


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_accumulation_under_a_scaler(fused: bool) -> None:
    module, batches = Scaled(), data(24)
    module.fused = fused
    twin = Twin(module, lambda m: {"Adam": torch.optim.Adam(m.parameters(), lr=0.01)})
    parts = [twin_batch for _, twin_batch in twin.batches(batches)]
    for index in range(12):
        each = [twin.gradients(twin.module.loss(batch)) for batch in parts[2 * index : 2 * index + 2]]
        mean = {name: (each[0][name] + each[1][name]) / 2 for name in each[0]}
        first = (norm_of(list(each[0].values())) ** 2, 8, 16)
        twin.step("Adam", mean, at=index, first=first).scaled = True
    run = watched(module, batches, accumulate_grad_batches=2, **half())
    compare(run, twin.steps)
    assert "gradients/noise_scale/Adam" in run.curves


class OwnScaler(ByHand):
    """A scaler that Lightning does not know."""

    wrapped = False
    lightning = True
    clip = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.scaler = scaler()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        loss = self.scaler.scale(Scaled.training_step(self, batch, batch_idx))
        self.manual_backward(loss) if self.lightning else loss.backward()
        if self.clip:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.parameters(), self.clip)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad()


@cadences
@pytest.mark.parametrize(("fused", "clip"), [(False, 0.0), (False, 0.6), (True, 0.0)])
@pytest.mark.parametrize("lightning", [True, False])
def test_a_scaler_of_the_programs_own(lightning: bool, fused: bool, clip: float, every: int) -> None:
    module, batches = OwnScaler(), data()
    module.lightning, module.fused, module.clip = lightning, fused, clip
    twin = Twin(module, lambda m: {"Adam": torch.optim.Adam(m.parameters(), lr=0.01)})
    for index, batch in twin.batches(batches):
        how = by_norm(clip) if clip else None
        twin.step("Adam", twin.gradients(twin.module.loss(batch)), at=index, clip=how, known=False).scaled = fused
    run = watched(module, batches, every=every)
    compare(run, twin.steps)
    own = "as the program has a gradient scaler of its own"
    assert (own if lightning else "as it was not seen after Lightning's backward pass") in run.blind
    assert not run.accused


# Precision.


class Spied(Regression):
    """Writes down its own gradients and weights as Lightning hands them to the optimizer, for a sum in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        named = dict(self.named_parameters())
        gradients = {name: p.grad.detach().clone() for name, p in named.items() if p.grad is not None}
        self.seen.append((gradients, {name: p.detach().clone() for name, p in named.items()}))

    def loss(self, batch: Batch) -> Tensor:
        kind = next(self.parameters()).dtype
        return functional.mse_loss(self.net(batch[0].to(kind)).float(), batch[1].float())

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 500), nn.Tanh(), nn.Linear(500, 3))


def spied(run: Run, name: str = "SGD", rate: float = 0.05) -> list[Step]:
    """The steps by what the module has written down."""
    found: list[Step] = []
    seen = [*run.module.seen, (None, {name: p.detach() for name, p in run.module.named_parameters()})]
    for index, (gradients, weights) in enumerate(seen[:-1]):
        norm = norm_of(list(gradients.values()))
        layers = {layer: norm_of(list(each.values())) for layer, each in layers_of(gradients).items()}
        zeros = {
            layer: (sum(int((g == 0).sum()) for g in each.values()), sum(g.numel() for g in each.values()))
            for layer, each in layers_of(gradients).items()
        }
        wide = [{key: each.double() for key, each in values.items()} for values in (weights, seen[index + 1][1])]
        found.append(Step(name, index, norm, norm, layers, zeros, ratios_of(*wide), rate))
    return found


@cadences
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "32-true", "64-true"])
def test_norms_have_more_digits_than_gradients(precision: Any, every: int) -> None:
    module, batches = Spied(), data()
    run = watched(module, batches, every=every, precision=precision)
    half_ulp = {name: points for name, points in run.curves.items() if "half_ulp" in name}
    for name in half_ulp:
        del run.curves[name]
    kind = module.seen[0][0]["net.0.weight"].dtype
    assert kind == {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(precision, torch.float32)
    # The update of bfloat16 weights is itself a difference of such; both sides take it of the same numbers.
    digits = 1e-12 if precision == "64-true" else 1e-6
    compare(run, spied(run), within=digits, ratios=4e-3 if precision == "bf16-true" else 1e-5, loose=1e-4)
    low = precision == "bf16-true"
    assert set(half_ulp) == {f"gradients/update_half_ulp/net.{layer}" for layer in (0, 2) if low}
    assert {value for points in half_ulp.values() for value in points.values()} <= {2.0**-8}


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_low_precision_is_near_float64(precision: str) -> None:
    module, batches = Spied(), data()
    twin = Twin(module, lambda m: {"SGD": m.optimizer()})
    for index, batch in twin.batches(batches):
        twin.step("SGD", twin.gradients(twin.module.loss(batch)), at=index)
    run = watched(module, batches, **(half() if precision == "16-mixed" else {"precision": precision}))
    norms = [seen[1] for seen in run.recent("SGD")]
    assert norms == pytest.approx([step.norm for step in twin.steps], rel=2e-2)


# Size.


class Given(Regression):
    """The gradients are those that it is told."""

    def __init__(self, *gradients: Tensor) -> None:
        super().__init__()
        self.net = nn.ParameterList([torch.zeros_like(each) for each in gradients])
        self.given = gradients

    def loss(self, batch: Batch) -> Tensor:
        return sum(((p * g).sum() for p, g in zip(self.net, self.given, strict=True)), batch[0].sum() * 0)  # type: ignore[return-value]

    def optimizer(self) -> Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def shuffled(shape: Sequence[int], scale: float = 1.0) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(2)).add_(1.0).mul_(scale)


SHAPES: dict[str, Callable[[], Tensor]] = {
    "long": lambda: shuffled([10_000_003]),
    "wide": lambda: shuffled([2, 5_000_000]),
    "turned": lambda: shuffled([5_000, 2_000]).t(),
    "channels last": lambda: shuffled([64, 64, 50, 50]).to(memory_format=torch.channels_last),
    "one row, turned": lambda: shuffled([10_000_000, 1]).t(),
    "every other": lambda: shuffled([2_000, 10_000])[:, ::2],
    "bfloat16": lambda: shuffled([10_000_000]).bfloat16(),
    "large": lambda: shuffled([1_000_000], 1e15),
    "small": lambda: shuffled([1_000_000], 1e-15),
}


@pytest.mark.parametrize("shape", list(SHAPES))
def test_sums_of_many_squares_lose_no_digits(shape: str) -> None:
    gradient = SHAPES[shape]()
    expected = float((gradient.double() ** 2).sum().sqrt())
    run = watched(Given(gradient), data(1))
    assert run.recent("SGD")[0][1] == pytest.approx(expected, rel=2e-6)
    assert run.curves["gradients/norm_after_clipping/SGD"][0] == pytest.approx(expected, rel=2e-6)
    assert run.curves["gradients/layer_norm/net"][0] == pytest.approx(expected, rel=2e-6)
