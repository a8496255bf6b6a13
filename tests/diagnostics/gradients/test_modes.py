"""Automatic optimisation: every number of every step is that of a float64 twin, trained without Lightning."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from tests.diagnostics.gradients.reference import (
    Batch,
    Clip,
    Gradients,
    Regression,
    Step,
    Twin,
    add,
    by_norm,
    by_value,
    compare,
    data,
    network,
    norm_of,
    watched,
)

cadences = pytest.mark.parametrize(("every", "window", "length"), [(1, 12, 20), (50, 100, 40)], ids=["each", "default"])


def plainly(
    module: Regression, batches: Sequence[Batch], *, name: str = "SGD", clip: Clip | None = None, of: int = 1
) -> list[Step]:
    """The steps of the twin, with gradients of ``of`` batches added up."""
    twin = Twin(module, lambda m: {name: m.optimizer()})
    summed: Gradients = {}
    micro: list[Gradients] = []
    for index, batch in twin.batches(batches):
        micro.append(twin.gradients(twin.module.loss(batch)))
        summed = add(summed, micro[-1], 1 / of)
        if (index + 1) % of == 0 or index == len(batches) - 1:
            rows = len(batch[0])
            first = (norm_of(list(micro[0].values())) ** 2, rows, rows * of) if len(micro) == of > 1 else None
            twin.step(name, summed, at=len(twin.steps), clip=clip, first=first)
            summed, micro = {}, []
    return twin.steps


# Optimizers.


class Adam(Regression):
    def optimizer(self) -> Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class AdamW(Regression):
    def optimizer(self) -> Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.1, foreach=True)


class Momentum(Regression):
    def optimizer(self) -> Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)


class Groups(Regression):
    """The largest of two learning rates is that of the second group."""

    def optimizer(self) -> Optimizer:
        return torch.optim.SGD(
            [{"params": self.net[0].parameters(), "lr": 0.01}, {"params": self.net[2].parameters(), "lr": 0.03}]
        )


class Maximizes(Regression):
    def loss(self, batch: Batch) -> Tensor:
        return -super().loss(batch)

    def optimizer(self) -> Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, maximize=True, foreach=True)


@cadences
@pytest.mark.parametrize("make", [Regression, Adam, AdamW, Momentum, Maximizes])
def test_one_optimizer(make: type[Regression], every: int, window: int, length: int) -> None:
    module, batches = make(), data(length)
    steps = plainly(module, batches, name=type(module.optimizer()).__name__)
    run = watched(module, batches, every=every, window=window)
    compare(run, steps)
    assert not run.blind
    assert not run.accused


def test_some_parameters_are_in_no_optimizer_and_groups_differ() -> None:
    module, batches = Groups(), data(12)
    steps = plainly(module, batches)
    run = watched(module, batches)
    compare(run, steps)
    assert steps[0].rate == 0.03
    assert set(steps[0].layers) == {"net.0", "net.2"}


class Scheduled(Regression):
    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer()
        falls = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falls, "interval": "step"}}


@pytest.mark.parametrize("every", [1, 50])
def test_the_learning_rate_is_that_of_the_step(every: int) -> None:
    module, batches = Scheduled(), data()
    twin = Twin(module, lambda m: {"SGD": m.optimizer()})
    for index, batch in twin.batches(batches):
        twin.step("SGD", twin.gradients(twin.module.loss(batch)), at=index)
        twin.optimizers["SGD"].param_groups[0]["lr"] *= 0.9
    compare(watched(module, batches, every=every), twin.steps)


# Clipping.

CLIPS: dict[str, tuple[Clip, dict[str, Any]]] = {
    "norm": (by_norm(0.8), {"gradient_clip_val": 0.8}),
    "value": (by_value(0.1), {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}),
}


@cadences
@pytest.mark.parametrize("way", list(CLIPS))
def test_clipping(way: str, every: int, window: int, length: int) -> None:
    clip, settings = CLIPS[way]
    module, batches = Regression(), data(length)
    steps = plainly(module, batches, clip=clip)
    run = watched(module, batches, every=every, window=window, **settings)
    compare(run, steps)
    share = run.curves["gradients/clipped_share/SGD"]
    assert 0.2 < share[max(share)] < (1 if way == "norm" else 1.01)
    assert not run.blind
    assert not run.accused


class ClipsByItself(Regression):
    """Half of every gradient, and of one that is long a quarter."""

    def configure_gradient_clipping(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                assert parameter.grad is not None
                if name == "net.0.weight":
                    parameter.grad = parameter.grad * 0.25
                else:
                    parameter.grad.mul_(0.5)


def a_quarter_of_the_first(gradients: Gradients) -> Gradients:
    return {name: each * (0.25 if name == "net.0.weight" else 0.5) for name, each in gradients.items()}


class WritesData(Regression):
    """Where autograd does not count it."""

    def configure_gradient_clipping(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        for name, parameter in self.named_parameters():
            assert parameter.grad is not None
            parameter.grad.data.mul_(0.25 if name == "net.0.weight" else 0.5)


class ChangesBeforeTheStep(Regression):
    """By the module's own hook."""

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        ClipsByItself.configure_gradient_clipping(self, optimizer)


class ChangesAfterBackward(Regression):
    """Before anything is measured: these are the gradients."""

    def on_after_backward(self) -> None:
        ClipsByItself.configure_gradient_clipping(self, self.trainer.optimizers[0])


@cadences
@pytest.mark.parametrize("make", [ClipsByItself, WritesData, ChangesBeforeTheStep])
def test_hooks_of_the_module_that_change_gradients(
    make: type[Regression], every: int, window: int, length: int
) -> None:
    module, batches = make(), data(length)
    steps = plainly(module, batches, clip=a_quarter_of_the_first)
    run = watched(module, batches, every=every, window=window)
    compare(run, steps)
    assert not run.blind
    assert not run.accused


def test_what_is_changed_right_after_the_backward_pass_is_the_gradient() -> None:
    module, batches = ChangesAfterBackward(), data()
    twin = Twin(module, lambda m: {"SGD": m.optimizer()})
    for index, batch in twin.batches(batches):
        twin.step("SGD", a_quarter_of_the_first(twin.gradients(twin.module.loss(batch))), at=index)
    compare(watched(module, batches), twin.steps)


class Weights(Callback):
    """The weights before and after every batch of SGD: what it was given is their difference over the rate."""

    def __init__(self) -> None:
        self.before: list[Tensor] = []
        self.given: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.before = [p.detach().double() for p in pl_module.parameters()]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        moved = [p.detach().double() - old for p, old in zip(pl_module.parameters(), self.before, strict=True)]
        self.given.append(norm_of(moved) / trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("way", list(CLIPS))
def test_the_clipped_norm_is_what_the_weights_tell(way: str) -> None:
    weights, batches = Weights(), data()
    run = watched(Regression(), batches, weights, **CLIPS[way][1])
    assert list(run.curves["gradients/norm_after_clipping/SGD"].values()) == pytest.approx(weights.given, rel=2e-5)


class Nesterov(Regression):
    """Its step may write the momentum into the gradients."""

    foreach: bool | None = None
    decay = 0.0

    def optimizer(self) -> Optimizer:
        more: Any = {"momentum": 0.9, "nesterov": True, "foreach": self.foreach, "weight_decay": self.decay}
        return torch.optim.SGD(self.parameters(), lr=0.02, **more)


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("foreach", [None, False, True])
def test_nesterov_momentum_is_never_taken_for_the_gradient(foreach: bool | None, decay: float, clips: bool) -> None:
    module, batches = Nesterov(), data()
    module.foreach, module.decay = foreach, decay
    steps = plainly(module, batches, clip=by_norm(0.8) if clips else None)
    run = watched(module, batches, **(CLIPS["norm"][1] if clips else {}))
    if foreach and clips and not decay:  # what it was given is gone when its step is over
        for step in steps:
            step.after = None
        assert "the norm after clipping, as its step writes into the gradients" in run.blind
    else:
        assert not run.blind
    compare(run, steps)


class OldStyle(torch.optim.SGD):
    """An optimizer that adds its decay to the gradients, as many of old do."""

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    gradient = parameter.grad.data
                    gradient.add_(parameter.data, alpha=0.1)
                    parameter.data.add_(gradient, alpha=-group["lr"])
        return loss


class ByOldStyle(Regression):
    old = True

    def optimizer(self) -> Optimizer:
        more: Any = {} if self.old else {"weight_decay": 0.1}
        return (OldStyle if self.old else torch.optim.SGD)(self.parameters(), lr=0.05, **more)


def test_what_an_optimizer_makes_of_its_gradients_is_no_clipping() -> None:
    module, batches = ByOldStyle(), data()
    module.old = False
    steps = plainly(module, batches, name="OldStyle")
    module.old = True
    compare(watched(module, batches), steps)


# Accumulation.


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("of", [2, 3])
@pytest.mark.parametrize(("every", "window"), [(1, 10), (50, 100)])
def test_accumulation(of: int, every: int, window: int, clips: bool) -> None:
    module, batches = Regression(), data(43)  # a multiple of neither
    steps = plainly(module, batches, of=of, clip=by_norm(0.5) if clips else None)
    settings: dict[str, Any] = {"gradient_clip_val": 0.5} if clips else {}
    run = watched(module, batches, every=every, window=window, accumulate_grad_batches=of, **settings)
    assert steps[-1].first is None
    assert steps[-2].first is not None
    assert "gradients/noise_scale/SGD" in run.curves
    compare(run, steps)


def test_accumulation_over_epochs() -> None:
    module, batches = Regression(), data(7)
    twin = Twin(module, lambda m: {"SGD": m.optimizer()})
    for _ in range(3):  # each epoch ends with a step of a single batch
        summed: Gradients = {}
        for index, batch in twin.batches(batches):
            summed = add(summed, twin.gradients(twin.module.loss(batch)), 1 / 3)
            if index in (2, 5, 6):
                twin.step("SGD", summed, at=len(twin.steps))
                summed = {}
    compare(watched(module, batches, accumulate_grad_batches=3, max_epochs=3), twin.steps)


# Programs that do not step, or not with everything.


class SkipsSome(Regression):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return None if batch_idx % 5 == 2 else self.loss(batch)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("every", [1, 50])
def test_batches_without_a_loss_are_no_steps(every: int) -> None:
    module, batches = SkipsSome(), data()
    twin = Twin(module, lambda m: {"SGD": m.optimizer()})
    for index, batch in twin.batches(batches):
        if index % 5 != 2:
            twin.step("SGD", twin.gradients(twin.module.loss(batch)), at=index)
    run = watched(module, batches, every=every)
    compare(run, twin.steps)
    assert not run.accused


class StepsEveryOther(Regression):
    """Its own ``optimizer_step`` lets the optimizer rest in every other batch."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if batch_idx % 2:
            optimizer_closure()
        else:
            optimizer.step(closure=optimizer_closure)


@pytest.mark.parametrize("every", [1, 50])
def test_batches_in_which_the_optimizer_rests_are_no_steps(every: int) -> None:
    module, batches = StepsEveryOther(), data(21)
    twin = Twin(module, lambda m: {"SGD": m.optimizer()})
    for index, batch in twin.batches(batches):
        if index % 2 == 0:
            twin.step("SGD", twin.gradients(twin.module.loss(batch)), at=index)
    compare(watched(module, batches, every=every), twin.steps)


class Frozen(Regression):
    def build(self) -> nn.Module:
        net = network()
        net[0].requires_grad_(False)
        return net


def test_frozen_parts_have_no_numbers() -> None:
    module, batches = Frozen(), data()
    steps = plainly(module, batches)
    run = watched(module, batches)
    compare(run, steps)
    assert set(steps[0].layers) == {"net.2", "net.4"}
    assert not run.blind
    assert not run.accused


class Thaws(Frozen):
    """The first layer is frozen, and in no optimizer, until batch 7."""

    def optimizer(self) -> Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.05)

    def thaw(self, optimizer: Optimizer) -> None:
        self.net[0].requires_grad_(True)
        optimizer.add_param_group({"params": list(self.net[0].parameters()), "lr": 0.2})

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 7:
            self.thaw(self.trainer.optimizers[0])


@pytest.mark.parametrize("every", [1, 50])
def test_a_group_that_comes_later_counts_from_then_on(every: int) -> None:
    module, batches = Thaws(), data()
    twin = Twin(module, lambda m: {"SGD": m.optimizer()})
    for index, batch in twin.batches(batches):
        if index == 7:
            twin.module.thaw(twin.optimizers["SGD"])
        twin.step("SGD", twin.gradients(twin.module.loss(batch)), at=index)
    assert ["net.0" in step.layers for step in twin.steps] == [index >= 7 for index in range(20)]
    run = watched(module, batches, every=every)
    compare(run, twin.steps)
    assert not run.accused


class Nothing(Regression):
    """The loss does not depend on the weights for some batches: the gradient is exactly zero."""

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) * batch[0][0, 1].ne(0)


def test_a_gradient_of_zero_is_a_number() -> None:
    module, batches = Nothing(), data()
    steps = plainly(module, batches)
    run = watched(module, batches, gradient_clip_val=1000.0)
    compare(run, steps)
    assert [step.norm == 0 for step in steps] == [index // 2 % 4 >= 2 for index in range(20)]
    assert run.curves["gradients/clip_factor/SGD"][4] == 1.0
    assert run.curves["gradients/zero_share/SGD"][4] == 1.0


# LBFGS.


class Quasi(Regression):
    def optimizer(self) -> Optimizer:
        return torch.optim.LBFGS(self.parameters(), lr=0.05, max_iter=3)


def test_lbfgs_is_measured_at_its_first_evaluation() -> None:
    module, batches = Quasi(), data(15)
    twin = Twin(module, lambda m: {"LBFGS": m.optimizer()})
    for index, batch in twin.batches(batches):

        def closure(batch: Batch = batch) -> Tensor:
            loss = twin.module.loss(batch)
            for name, each in twin.gradients(loss).items():
                twin.module.get_parameter(name).grad = each
            return loss

        twin.step("LBFGS", twin.gradients(twin.module.loss(batch)), at=index, closure=closure)
    run = watched(module, batches)
    compare(run, twin.steps, within=1e-3, ratios=1e-2, loose=1e-2)
    assert "LBFGS: the norm after clipping, as the optimizer evaluates the loss several times" in run.blind
    assert not run.accused


# Tensors of other kinds.


class Table(Regression):
    """Rows of a table are used several times in a batch, so that sparse gradients hold them more than once."""

    def build(self) -> nn.Module:
        return nn.ModuleDict({"table": nn.Embedding(11, 6, sparse=True), "head": network_head()})

    def loss(self, batch: Batch) -> Tensor:
        rows = batch[0].abs().mul(3).long().clamp(max=10)
        return functional.mse_loss(self.net["head"](self.net["table"](rows).mean(1)), batch[1])


def network_head() -> nn.Module:
    return nn.Linear(6, 3)


class OnlyTable(Table):
    def build(self) -> nn.Module:
        return nn.ModuleDict({"table": nn.Embedding(11, 3, sparse=True), "head": nn.Identity()})

    def optimizer(self) -> Optimizer:
        return torch.optim.SparseAdam(list(self.parameters()), lr=0.01)


@pytest.mark.parametrize("of", [1, 2])
@pytest.mark.parametrize("make", [Table, OnlyTable])
def test_sparse_gradients_are_summed_by_row_first(make: type[Regression], of: int) -> None:
    module, batches = make(), data()
    steps = plainly(module, batches, name=type(module.optimizer()).__name__, of=of)
    run = watched(module, batches, accumulate_grad_batches=of)
    compare(run, steps)
    gradient = module.net["table"].weight.grad
    assert gradient is not None
    assert gradient.is_sparse
    assert steps[0].zeros["net.table"][0] > 0


class Complex(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.phase = nn.Parameter(torch.randn(6, 6, dtype=torch.complex64))

    def loss(self, batch: Batch) -> Tensor:
        turned = (batch[0].to(self.phase.dtype) @ self.phase).abs()
        return functional.mse_loss(self.net(turned), batch[1])


def test_complex_gradients_count_with_both_parts() -> None:
    module, batches = Complex(), data()
    steps = _named(plainly(module, batches))
    compare(watched(module, batches), steps)


def _named(steps: list[Step]) -> list[Step]:
    """The root is called as everywhere."""
    for step in steps:
        for numbers in (step.layers, step.zeros, step.ratios):
            if "" in numbers:
                numbers["self"] = numbers.pop("")  # type: ignore[assignment]
    return steps


class Image(Regression):
    """Weights and gradients whose memory is not in the order of their elements."""

    def build(self) -> nn.Module:
        net = nn.Sequential(nn.Unflatten(1, (6, 1, 1)), nn.Conv2d(6, 200, 5, padding=2), nn.Tanh(), nn.Flatten())
        return nn.Sequential(*net, nn.Linear(200, 3)).to(memory_format=torch.channels_last)

    def optimizer(self) -> Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_channels_last() -> None:
    module, batches = Image(), data(12)
    assert not module.net[1].weight.is_contiguous()
    steps = plainly(module, batches, clip=by_norm(0.5))
    compare(watched(module, batches, gradient_clip_val=0.5), steps)


@pytest.mark.parametrize("change", ["before", "after", "rate"])
def test_a_number_that_is_off_by_little_is_told(change: str) -> None:
    module, batches = Regression(), data()
    wrong = plainly(module, batches)
    setattr(wrong[0], change, getattr(wrong[0], change) * 1.0001)
    with pytest.raises(AssertionError):
        compare(watched(module, batches, every=50), wrong)


@pytest.mark.parametrize(("change", "layer"), list(itertools.product(("layers", "ratios"), ("net.0", "net.4"))))
def test_so_is_one_of_a_layer(change: str, layer: str) -> None:
    module, batches = Regression(), data()
    wrong = plainly(module, batches)
    getattr(wrong[0], change)[layer] *= 1.01
    with pytest.raises(AssertionError, match=layer):
        compare(watched(module, batches, every=50), wrong)
