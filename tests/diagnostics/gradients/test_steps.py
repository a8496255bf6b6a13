"""Optimizer steps as they are seen by the hooks alone, without a Trainer."""

import gc
import math
import weakref
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_diagnostics.diagnostics.gradients.looking import Looking
from lightning_diagnostics.diagnostics.gradients.steps import Measured, OptimizerStep, StepWatch
from lightning_diagnostics.probes import Deferred, Fetched


def hooks() -> int:
    """How many hooks of all optimizers are alive."""
    home = import_module("torch.optim.optimizer")
    return len(home._global_optimizer_pre_hooks) + len(home._global_optimizer_post_hooks)


@pytest.fixture(autouse=True)
def _no_hook_is_left() -> Iterator[None]:
    assert hooks() == 0
    yield
    assert hooks() == 0


def model(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def give_gradients(module: nn.Module, value: float = 1.0) -> float:
    """The same gradient everywhere; gives its norm."""
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, value)
    return value * math.sqrt(sum(parameter.numel() for parameter in module.parameters()))


class Watched:
    """A watch over one model, and its numbers."""

    def __init__(self, module: nn.Module, *optimizers: Optimizer, guard: Any = None, **words: Any) -> None:
        deferred = Deferred()
        self.watch = StepWatch(deferred, Looking(deferred), **words)
        members = frozenset(map(id, module.parameters()))
        self.watch.start(optimizers, members, guard=guard or (lambda method, *args: method(*args)))
        self.numbers: Fetched | None = None

    def __enter__(self) -> StepWatch:
        return self.watch

    def __exit__(self, *exc: object) -> None:
        self.watch.stop()

    def norms(self) -> list[tuple[str, float | None, float | None]]:
        """Name, norm before clipping and after it, of every step so far."""
        numbers = self.watch.deferred.fetch()
        return [(s.name, _norm(s.before, numbers), _norm(s.after, numbers)) for s in self.watch.steps]


def _norm(measured: Measured | None, numbers: Fetched) -> float | None:
    return None if measured is None else math.hypot(*(n for slot in measured.norm for n in numbers[slot]))


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-6)


def manual(module: nn.Module, *optimizers: Optimizer, **words: Any) -> Watched:
    return Watched(module, *optimizers, automatic=False, **words)


# Which steps are seen.


def test_a_raw_step_is_seen_with_what_the_optimizer_was_given() -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    watched = manual(module, optimizer)
    with watched as watch:
        watch.begin_batch(7, look=False)
        norm = give_gradients(module)
        optimizer.step()
        (step,) = watch.steps
        assert (step.name, step.step, step.batch, step.stepped, step.look) == ("SGD", 7, 0, True, None)
        assert watched.norms() == [("SGD", None, near(norm))]
        (note,) = watch.blind
        assert note == "SGD: the norm before clipping, as it was not seen after Lightning's backward pass"


def test_an_optimizer_of_another_model_is_not_seen() -> None:
    module, other = model(), model(1)
    with manual(module) as watch:
        watch.begin_batch(0, look=True)
        give_gradients(other)
        torch.optim.SGD(other.parameters(), lr=0.1).step()
        assert watch.steps == []
        assert watch.names == {}
        assert watch.known() == []


def test_an_optimizer_that_is_made_later_is_taken_up_when_it_steps() -> None:
    module = model()
    with manual(module) as watch:
        assert watch.known() == []
        late = torch.optim.Adam([module.bias])
        watch.begin_batch(0, look=False)
        give_gradients(module)
        late.step()
        assert [step.name for step in watch.steps] == ["Adam"]
        assert watch.known() == [late]


def test_optimizers_of_one_class_are_numbered_from_the_second_on() -> None:
    module = nn.Sequential(model(), model(), model())
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in module]
    optimizers.insert(2, torch.optim.Adam(module[0].parameters()))
    with manual(module, *optimizers) as watch:
        assert list(watch.names.values()) == ["SGD", "SGD-1", "Adam", "SGD-2"]


class _Doubled(torch.optim.SGD):
    """Calls the step of its parent class, which torch's hooks see, too."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad.mul_(10)
        return super().step(closure)


def test_a_step_that_calls_that_of_its_parent_class_is_one_step() -> None:
    module = model()
    optimizer = _Doubled(module.parameters(), lr=0.1)
    watched = manual(module, optimizer)
    with watched as watch:
        watch.begin_batch(0, look=True)
        norm = give_gradients(module)
        optimizer.step()
        assert len(watch.steps) == 1
        assert watched.norms() == [("_Doubled", None, near(norm))]
        assert watch.steps[0].look is not None
        assert not watch.waits or watch._open == {}


def test_a_step_in_which_the_optimizer_fails_is_no_step_and_the_next_one_is() -> None:
    class Fails(torch.optim.SGD):
        fail = True

        def step(self, closure: Any = None) -> Any:
            if self.fail:
                raise RuntimeError("planted")
            return super().step(closure)

    module = model()
    optimizer = Fails(module.parameters(), lr=0.1)
    watched = manual(module, optimizer)
    with watched as watch:
        watch.begin_batch(0, look=True)
        norm = give_gradients(module)
        with pytest.raises(RuntimeError, match=r"^planted$"):
            optimizer.step()
        watch.end_batch()
        assert watch.steps == []
        assert not watch.waits
        optimizer.fail = False
        watch.begin_batch(1, look=False)
        optimizer.step()
        watch.end_batch()
        assert [(step.step, step.batch) for step in watch.steps] == [(1, 1)]
        assert watched.norms() == [("Fails", None, near(norm))]


def test_a_step_without_any_gradient_is_none() -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with manual(module, optimizer) as watch:
        watch.begin_batch(0, look=True)
        optimizer.step()
        watch.end_batch()
        assert watch.steps == []
        assert watch._open == {}


def test_parameters_without_a_gradient_are_left_out() -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with manual(module, optimizer) as watch:
        watch.begin_batch(0, look=False)
        module.bias.grad = torch.ones(2)
        optimizer.step()
        assert watch.steps[0].after is not None
        assert watch.steps[0].after.keys == (id(module.bias),)


# Before clipping and after it.


def automatic_step(
    watch: StepWatch, module: nn.Module, optimizer: Optimizer, clip: Callable[[], Any] = lambda: None
) -> None:
    """As Lightning makes it: a closure that is evaluated by the optimizer."""

    def closure() -> Tensor:
        give_gradients(module, 2.0)
        watch.before_step(optimizer, None)
        clip()
        return torch.ones(())

    optimizer.step(closure)


def test_in_automatic_optimisation_both_norms_are_measured_around_the_clipping() -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    watched, norm = Watched(module, optimizer, clips=True), 2 * math.sqrt(8)
    with watched as watch:
        watch.begin_batch(0, look=False)
        automatic_step(watch, module, optimizer, lambda: nn.utils.clip_grad_norm_(module.parameters(), 0.5))
        automatic_step(watch, module, optimizer)
        assert watched.norms() == [("SGD", near(norm), near(0.5)), ("SGD", near(norm), near(norm))]
        first, second = watch.steps
        assert first.before is not first.after
        assert second.before is second.after  # nothing was changed, nothing measured twice
        assert watch.blind == {}


def test_gradients_that_are_replaced_are_measured_again() -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    watched = Watched(module, optimizer, clips=True)

    def replace() -> None:
        for parameter in module.parameters():
            assert parameter.grad is not None
            parameter.grad = parameter.grad / 4

    with watched as watch:
        watch.begin_batch(0, look=False)
        automatic_step(watch, module, optimizer, replace)
        assert watched.norms() == [("SGD", near(2 * math.sqrt(8)), near(0.5 * math.sqrt(8)))]


def test_an_optimizer_that_evaluates_the_loss_several_times_has_no_norm_after_clipping() -> None:
    module = model()
    optimizer = torch.optim.LBFGS(module.parameters(), lr=0.1, max_iter=4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = module(torch.ones(4, 3)).square().sum()
        loss.backward()
        watch.before_step(optimizer, None)
        return loss

    watched = Watched(module, optimizer)
    with watched as watch:
        watch.begin_batch(0, look=False)
        module(torch.ones(4, 3)).square().sum().backward()
        norm = float(torch.cat([p.grad.reshape(-1) for p in module.parameters() if p.grad is not None]).norm())
        optimizer.step(closure)
        assert watched.norms() == [("LBFGS", near(norm), None)]
        assert list(watch.blind) == [
            "LBFGS: the norm after clipping, as the optimizer evaluates the loss several times"
        ]


def test_in_manual_optimisation_the_norm_before_clipping_is_that_after_the_backward_pass() -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    watched = manual(module, optimizer)
    with watched as watch:
        watch.begin_batch(0, look=False)
        norm = give_gradients(module)
        watch.see_backward(None)
        nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        optimizer.step()
        assert watched.norms() == [("SGD", near(norm), near(0.5))]
        assert watch.blind == {}


def test_a_scale_is_taken_out_of_what_a_backward_pass_left() -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    watched = manual(module, optimizer)
    with watched as watch:
        watch.begin_batch(0, look=False)
        norm = give_gradients(module, 1024.0)
        watch.see_backward(torch.tensor(1024.0))
        give_gradients(module)
        optimizer.step()
        assert watched.norms() == [("SGD", near(norm / 1024), near(norm / 1024))]


def test_what_was_seen_before_clipping_is_of_its_own_batch() -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    watched = manual(module, optimizer)
    with watched as watch:
        watch.begin_batch(0, look=False)
        give_gradients(module, 5.0)
        watch.see_backward(None)
        watch.end_batch()
        watch.begin_batch(1, look=False)
        norm = give_gradients(module)
        optimizer.step()
        assert watched.norms() == [("SGD", None, near(norm))]


def test_a_step_that_a_scaler_leaves_out_is_entered_as_not_made() -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with Watched(module, optimizer) as watch:
        watch.begin_batch(3, look=True)
        give_gradients(module, math.inf)
        watch.before_step(optimizer, torch.tensor(2.0))
        assert watch.waits
        watch.end_batch()
        (step,) = watch.steps
        assert (step.step, step.stepped, step.scaled, step.after, step.look) == (3, False, True, None, None)


# Losses.


def test_the_loss_of_a_step_is_unscaled_and_the_last_before_it() -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with manual(module, optimizer) as watch:
        for index, (losses, scale) in enumerate([((3.0, 8.0), None), ((8.0,), torch.tensor(4.0)), ((), None)]):
            watch.begin_batch(index, look=False)
            give_gradients(module)
            for loss in losses:
                watch.see_loss(torch.tensor([loss]), scale)
            optimizer.step()
            watch.end_batch()
        numbers = watch.deferred.fetch()
        assert [step.loss and numbers[step.loss] for step in watch.steps] == [[8.0], [2.0], None]


def test_a_loss_of_several_elements_is_none() -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with manual(module, optimizer) as watch:
        watch.begin_batch(0, look=False)
        watch.see_loss(torch.ones(2), None)
        give_gradients(module)
        optimizer.step()
        assert watch.steps[0].loss is None


def test_a_loss_that_is_known_at_the_end_of_the_batch_is_that_of_its_steps() -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with manual(module, optimizer) as watch:
        for index in range(2):
            watch.begin_batch(index, look=False)
            give_gradients(module)
            optimizer.step()
            if index:
                watch.see_loss_late(torch.tensor(2.5))
            watch.end_batch()
        numbers = watch.deferred.fetch()
        assert [step.loss and numbers[step.loss] for step in watch.steps] == [None, [2.5]]


# Micro-batches.


def test_the_first_micro_batch_stands_with_the_step_that_it_is_part_of() -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with manual(module, optimizer) as watch:
        watch.begin_batch(0, look=False)
        norm = give_gradients(module)
        watch.see_micro_batch(optimizer, None)
        give_gradients(module, 3.0)
        optimizer.step()
        watch.complete(2, samples=4, of=8)
        optimizer.step()
        watch.complete(2, samples=4, of=8)  # of no first one
        first, second = watch.steps
        assert first.first is not None
        slots, *sizes = first.first
        assert sizes == [2, 4, 8]
        assert second.first is None
        assert watch.deferred.fetch()[slots[0]] == [near(norm)]


# What is left.


def test_after_it_stopped_nothing_is_seen_and_everything_is_let_go_of() -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    watched = manual(module, optimizer)
    watch = watched.watch
    watch.begin_batch(0, look=True)
    give_gradients(module)
    optimizer.step()
    assert hooks() == 2
    watch.stop()
    assert hooks() == 0
    assert (watch.steps, watch.waits, watch.deferred.size) == ([], False, 0)
    optimizer.step()
    assert watch.steps == []


def test_starting_again_leaves_two_hooks() -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with manual(module, optimizer) as watch:
        watch.start([optimizer], frozenset(map(id, module.parameters())), guard=lambda method, *args: method(*args))
        assert hooks() == 2
        watch.begin_batch(0, look=False)
        give_gradients(module)
        optimizer.step()
        assert len(watch.steps) == 1
        assert list(watch.names.values()) == ["SGD"]


def test_hooks_whose_watch_is_gone_do_nothing() -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    watched = manual(module, optimizer)
    handles, alive = list(watched.watch._handles), weakref.ref(watched.watch)
    del watched
    gc.collect()
    assert alive() is None
    give_gradients(module)
    before = module.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(module.weight, before)
    for handle in handles:
        handle.remove()


def test_the_watch_keeps_no_optimizer_alive() -> None:
    module = model()
    with manual(module, torch.optim.SGD(module.parameters(), lr=0.1)) as watch:
        gc.collect()
        assert watch.known() == []


def test_every_call_from_a_hook_goes_through_the_guard() -> None:
    module, calls = model(), list[str]()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with manual(module, optimizer, guard=lambda method, *args: calls.append(method.__name__)) as watch:
        watch.begin_batch(0, look=False)
        give_gradients(module)
        optimizer.step()
        assert calls == ["_before", "_after"]
        assert watch.steps == []


def test_of_too_many_numbers_between_looks_only_the_totals_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_diagnostics.diagnostics.gradients.steps._VECTORS", 8)
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    watched = manual(module, optimizer)
    with watched as watch:
        norm = give_gradients(module)
        for index in range(6):
            watch.begin_batch(index, look=False)
            optimizer.step()
            watch.end_batch()
        kept = [bool(_given(step).vector) for step in watch.steps]
        assert kept[0]
        assert not kept[-1]
        assert [norms[2] for norms in watched.norms()] == [near(norm)] * 6


def _given(step: OptimizerStep) -> Measured:
    assert step.after is not None
    return step.after


def _three_steps(*, compiled: bool, seen: bool) -> tuple[list[Any], list[Tensor]]:
    """What was seen of three steps of Adam, and the weights after them."""
    torch.compiler.reset()
    module = model()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
    watched = manual(module, optimizer)
    if not seen:
        watched.watch.stop()
    with watched as watch:
        for index in range(3):
            watch.begin_batch(index, look=index == 1)
            give_gradients(module, 1.0 + index)
            step()
            watch.end_batch()
        looks = [one.look is not None for one in watch.steps]
        return [looks, watched.norms()], [p.detach().clone() for p in module.parameters()]


# What torch says of its own modules while it compiles an optimizer.
@pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated:DeprecationWarning")
def test_compiled_steps_are_seen_and_made_as_they_are_without_us() -> None:
    plain, _ = _three_steps(compiled=False, seen=True)
    found, weights = _three_steps(compiled=True, seen=True)
    nothing, without = _three_steps(compiled=True, seen=False)
    assert found == plain
    assert found[0] == [False, True, False]
    assert nothing == [[], []]
    assert all(map(torch.equal, weights, without))
