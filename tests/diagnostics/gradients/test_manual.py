"""Manual optimisation: every number of every step is that of a float64 twin, or a note says what is not measured."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
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
    times,
    watched,
)

NO_BACKWARD = "the norm before clipping, as it was not seen after Lightning's backward pass"
cadences = pytest.mark.parametrize("every", [1, 50])


class ByHand(Regression):
    """Runs backward through Lightning; ``change`` is what it does to the gradients then."""

    of = 1

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def change(self, optimizer: Any) -> None:
        """Nothing."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.loss(batch) / self.of)
        if (batch_idx + 1) % self.of == 0:
            self.change(optimizer)
            optimizer.step()
            optimizer.zero_grad()


def plainly(
    module: Regression, batches: Sequence[Batch], *, clip: Clip | None = None, of: int = 1, known: bool = True
) -> list[Step]:
    """The steps of the twin; the axis of Lightning's logs counts batches in manual optimisation."""
    twin = Twin(module, lambda m: {"SGD": m.optimizer()})
    summed: Gradients = {}
    for index, batch in twin.batches(batches):
        summed = add(summed, twin.gradients(twin.module.loss(batch)), 1 / of)
        if (index + 1) % of == 0:
            twin.step("SGD", summed, at=index, clip=clip, known=known)
            summed = {}
    return twin.steps


@cadences
def test_manual_backward(every: int) -> None:
    module, batches = ByHand(), data(40)
    steps = plainly(module, batches)
    run = watched(module, batches, every=every)
    compare(run, steps)
    assert not run.accused
    assert "norm" not in run.blind


@cadences
@pytest.mark.parametrize("of", [2, 3])
def test_accumulation(of: int, every: int) -> None:
    module, batches = ByHand(), data(40)
    module.of = of
    steps = plainly(module, batches, of=of)
    run = watched(module, batches, every=every)
    compare(run, steps)
    assert "gradients/noise_scale/SGD" not in run.curves


class ByLightning(ByHand):
    def change(self, optimizer: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.6, gradient_clip_algorithm="norm")


class ByValue(ByHand):
    def change(self, optimizer: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="value")


class ByTorch(ByHand):
    def change(self, optimizer: Any) -> None:
        nn.utils.clip_grad_norm_(self.parameters(), 0.6)


class ByHandOut(ByHand):
    """In place of the gradients there are others."""

    def change(self, optimizer: Any) -> None:
        for parameter in self.parameters():
            assert parameter.grad is not None
            parameter.grad = parameter.grad * 0.5


class Twice(ByHand):
    """The last of them may lie where the first did, and have its ``id``."""

    def build(self) -> nn.Module:
        return nn.Linear(6, 3, bias=False)

    def change(self, optimizer: Any) -> None:
        for factor in (4.0, 0.125):
            for parameter in self.parameters():
                assert parameter.grad is not None
                parameter.grad = parameter.grad * factor


class ByData(ByHand):
    """Written where autograd does not count it."""

    def change(self, optimizer: Any) -> None:
        for parameter in self.parameters():
            assert parameter.grad is not None
            parameter.grad.data.mul_(0.5)


class ByHook(ByHand):
    """Its own hook, which Lightning calls within the step."""

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        nn.utils.clip_grad_norm_(self.parameters(), 0.6)


CLIPS: dict[type[ByHand], Clip] = {
    ByLightning: by_norm(0.6),
    ByValue: by_value(0.1),
    ByTorch: by_norm(0.6),
    ByHandOut: times(0.5),
    Twice: times(0.5),
    ByHook: by_norm(0.6),
    ByData: times(0.5),
}


@cadences
@pytest.mark.parametrize("of", [1, 2])
@pytest.mark.parametrize("make", list(CLIPS))
def test_clipping(make: type[ByHand], of: int, every: int) -> None:
    module, batches = make(), data()
    module.of = of
    steps = plainly(module, batches, clip=CLIPS[make], of=of)
    run = watched(module, batches, every=every, window=12)
    compare(run, steps)
    assert any(step.factor is not None and step.factor < 0.9 for step in steps)
    assert not run.accused


class ByDataLater(ByData):
    """Not in the first batches."""

    def change(self, optimizer: Any) -> None:
        self.batch = getattr(self, "batch", -1) + 1
        if self.batch > 6:
            super().change(optimizer)


def test_what_is_written_without_a_trace_is_seen_from_the_next_look_on() -> None:
    module, batches = ByDataLater(), data(40)
    twin = Twin(module, lambda m: {"SGD": m.optimizer()})
    for index, batch in twin.batches(batches):
        twin.step("SGD", twin.gradients(twin.module.loss(batch)), at=index, clip=times(0.5) if index > 6 else None)
    run = watched(module, batches, every=50)  # looks at every fifth batch
    for step in twin.steps[7:10]:
        step.after = step.before
    compare(run, twin.steps)
    assert "SGD: the norm after clipping before step 10, as gradients are written into by .data" in run.blind


# Several optimizers.


class Gan(Regression):
    """Two nets against each other; the generator steps in every second batch, the discriminator ``often`` in each."""

    toggled = True
    often = 1
    clip = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def build(self) -> nn.Module:
        return nn.ModuleDict({"makes": nn.Linear(6, 3), "judges": nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 1))})

    def made(self, batch: Batch) -> Tensor:
        return self.net["makes"](batch[0]).tanh()

    def of_makes(self, batch: Batch) -> Tensor:
        return functional.softplus(-self.net["judges"](self.made(batch))).mean()

    def of_judges(self, batch: Batch) -> Tensor:
        real, made = (self.net["judges"](each) for each in (batch[1], self.made(batch).detach()))
        return functional.softplus(-real).mean() + functional.softplus(made).mean()

    def optimizer(self) -> list[Optimizer]:
        return [
            torch.optim.Adam(self.net["makes"].parameters(), lr=0.01),
            torch.optim.Adam(self.net["judges"].parameters(), lr=0.02),
        ]

    def move(self, optimizer: Any, loss: Callable[[Batch], Tensor], batch: Batch) -> None:
        if self.toggled:
            self.toggle_optimizer(optimizer)
        value = loss(batch)
        optimizer.zero_grad()
        self.manual_backward(value)
        if self.clip:
            self.clip_gradients(optimizer, gradient_clip_val=self.clip)
        optimizer.step()
        if self.toggled:
            self.untoggle_optimizer(optimizer)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        makes, judges = self.optimizers()  # type: ignore[misc]
        if batch_idx % 2 == 0:
            self.move(makes, self.of_makes, batch)
        for _ in range(self.often):
            self.move(judges, self.of_judges, batch)


@cadences
@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("often", [1, 3])
@pytest.mark.parametrize("toggled", [True, False])
def test_two_optimizers(toggled: bool, often: int, clip: float, every: int) -> None:
    module, batches = Gan(), data(24)
    module.toggled, module.often, module.clip = toggled, often, clip
    twin = Twin(module, lambda m: dict(zip(("Adam", "Adam-1"), m.optimizer(), strict=True)))
    how = by_norm(clip) if clip else None
    for index, batch in twin.batches(batches):
        if index % 2 == 0:
            twin.step("Adam", twin.gradients(twin.module.of_makes(batch)), at=index, clip=how)
        for _ in range(often):
            twin.step("Adam-1", twin.gradients(twin.module.of_judges(batch)), at=index, clip=how)
    run = watched(module, batches, every=every)
    compare(run, twin.steps, within=5e-5)
    assert not run.accused


class TwoLosses(ByHand):
    """Two backward passes for one step."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        self.manual_backward(self.net(batch[0]).square().mean())
        self.clip_gradients(optimizer, gradient_clip_val=0.6)
        optimizer.step()


def test_the_gradients_of_two_backward_passes_are_one() -> None:
    module, batches = TwoLosses(), data()
    twin = Twin(module, lambda m: {"SGD": m.optimizer()})
    for index, batch in twin.batches(batches):
        loss = twin.module.loss(batch) + twin.module.net(batch[0]).square().mean()
        twin.step("SGD", twin.gradients(loss), at=index, clip=by_norm(0.6))
    compare(watched(module, batches), twin.steps)


class Discards(ByHand):
    """What a first backward pass has left is thrown away; what the second leaves may have its ``id``."""

    def build(self) -> nn.Module:
        return nn.Linear(6, 3, bias=False)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.net(batch[0]).square().mean())
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()
        optimizer.zero_grad()


def test_gradients_that_were_thrown_away_do_not_count() -> None:
    module, batches = Discards(), data()
    steps = plainly(module, batches)
    compare(watched(module, batches), steps)


class StepsLate(ByHand):
    """The step is made at the start of the next batch."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        if batch_idx:
            optimizer.step()
            optimizer.zero_grad()
        self.manual_backward(self.loss(batch))


def test_a_step_in_the_next_batch_is_one_of_that() -> None:
    module, batches = StepsLate(), data()
    twin = Twin(module, lambda m: {"SGD": m.optimizer()})
    gradients: Gradients = {}
    for index, batch in twin.batches(batches):
        if index:
            twin.step("SGD", gradients, at=index, known=False)
        gradients = twin.gradients(twin.module.loss(batch))
    run = watched(module, batches)
    known = [seen for seen in run.recent("SGD") if seen[2] is not None]
    if known:  # it may know them, too
        for step in twin.steps:
            step.before = step.after
    compare(run, twin.steps)


# Closures.


class ByClosure(ByHand):
    clip = 0.0

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()

        def closure() -> Tensor:
            loss = self.loss(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            if self.clip:
                self.clip_gradients(optimizer, gradient_clip_val=self.clip)
            return loss

        optimizer.step(closure=closure)


@cadences
@pytest.mark.parametrize("clip", [0.0, 0.6])
def test_a_closure_that_is_evaluated_once(clip: float, every: int) -> None:
    module, batches = ByClosure(), data()
    module.clip = clip
    steps = plainly(module, batches, clip=by_norm(clip) if clip else None)
    run = watched(module, batches, every=every)
    compare(run, steps)
    assert not run.accused


class Quasi(ByClosure):
    def optimizer(self) -> Optimizer:
        return torch.optim.LBFGS(self.parameters(), lr=0.05, max_iter=3)


@cadences
def test_lbfgs_is_measured_at_its_first_evaluation(every: int) -> None:
    module, batches = Quasi(), data(15)
    twin = Twin(module, lambda m: {"LBFGS": m.optimizer()})
    for index, batch in twin.batches(batches):

        def closure(batch: Batch = batch) -> Tensor:
            loss = twin.module.loss(batch)
            for name, each in twin.gradients(loss).items():
                twin.module.get_parameter(name).grad = each
            return loss

        twin.step("LBFGS", twin.gradients(twin.module.loss(batch)), at=index, closure=closure)
    run = watched(module, batches, every=every)
    compare(run, twin.steps, within=1e-3, ratios=1e-2, loose=1e-2)
    assert "LBFGS: the norm after clipping, as the optimizer evaluates the loss several times" in run.blind
    assert not run.accused


# Around Lightning.


class Raw(ByHand):
    """``loss.backward()`` and torch's optimizer: Lightning announces nothing."""

    clip = 0.0
    wrapped = False

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers(use_pl_optimizer=self.wrapped)
        loss = self.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.parameters(), self.clip)
        optimizer.step()
        return loss


@cadences
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("clip", [0.0, 0.6])
def test_a_backward_pass_of_the_programs_own(clip: float, wrapped: bool, every: int) -> None:
    module, batches = Raw(), data()
    module.clip, module.wrapped = clip, wrapped
    steps = plainly(module, batches, clip=by_norm(clip) if clip else None, known=False)
    run = watched(module, batches, every=every)
    compare(run, steps)
    assert "gradients/norm/SGD" not in run.curves
    assert f"SGD: {NO_BACKWARD}" in run.blind
    assert not run.accused


class RawStep(ByHand):
    """Lightning's backward pass, and torch's optimizer."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        nn.utils.clip_grad_norm_(self.parameters(), 0.6)
        optimizer.step()


@cadences
def test_a_step_around_lightning_after_its_backward_pass(every: int) -> None:
    module, batches = RawStep(), data()
    steps = plainly(module, batches, clip=by_norm(0.6))
    run = watched(module, batches, every=every)
    compare(run, steps)
    assert NO_BACKWARD not in run.blind


class OfItsOwn(Raw):
    """The optimizer is not Lightning's."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        if not batch_idx:
            self.moves = [self.optimizer()]
        loss = self.loss(batch)
        self.moves[0].zero_grad()
        loss.backward()
        self.moves[0].step()
        return loss

    def configure_optimizers(self) -> None:
        return None


@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
@cadences
def test_an_optimizer_that_lightning_does_not_know(every: int) -> None:
    module, batches = OfItsOwn(), data()
    steps = plainly(module, batches, known=False)
    run = watched(module, batches, every=every)
    compare(run, steps)
    assert NO_BACKWARD in run.blind
    assert not run.accused


class OthersToo(ByHand):
    """An optimizer of tensors that are none of the model's."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        other = torch.zeros(3, requires_grad=True)
        moves = torch.optim.SGD([other], lr=1.0)
        (other.sum() * 1e6).backward()
        moves.step()
        super().training_step(batch, batch_idx)


def test_optimizers_of_other_tensors_are_left_out() -> None:
    module, batches = OthersToo(), data()
    steps = plainly(module, batches)
    compare(watched(module, batches), steps)


class OwnClosure(ByHand):
    """A closure that Lightning does not hear of: gradients are seen when the step is over."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers(use_pl_optimizer=False)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss(batch)
            loss.backward()
            return loss

        return optimizer.step(closure)


@cadences
def test_a_closure_of_the_programs_own(every: int) -> None:
    module, batches = OwnClosure(), data()
    steps = plainly(module, batches, known=False)
    for step in steps:
        step.ratios = {}
    run = watched(module, batches, every=every)
    compare(run, steps)
    assert NO_BACKWARD in run.blind
    assert "SGD: update ratios, as the program gives its optimizer a closure of its own" in run.blind
