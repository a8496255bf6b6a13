"""The order of arrival of real backward passes, the norms as they arrive, and that no hook is left."""

import copy
import gc
import io
import weakref

import pytest
import torch
from torch import Tensor, nn

from lightning_diagnostics.probes import Arrivals


class Crossed(nn.Module):
    """Its layers are made in another order than they are called in; one of them is never called."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(3, 1)
        self.first = nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)
        self.middle = nn.Linear(3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.middle(self.first(inputs)))


def backward(module: nn.Module) -> None:
    module(torch.ones(5, 4)).square().mean().backward()


def layers(arrivals: Arrivals, module: nn.Module) -> list[str]:
    """The names of the layers in the order in which their gradients arrived."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    ordered = sorted(arrivals.order, key=lambda key: arrivals.order[key])
    assert sorted(arrivals.order.values()) == list(range(len(ordered)))
    return list(dict.fromkeys(names[key].partition(".")[0] for key in ordered))


def hooks(module: nn.Module) -> list[str]:
    return [name for name, p in module.named_parameters() if getattr(p, "_post_accumulate_grad_hooks", None)]


def norm(module: nn.Module) -> float:
    gradients = [p.grad.double().reshape(-1) for p in module.parameters() if p.grad is not None]
    return float(torch.cat(gradients).norm())


def test_gradients_arrive_from_the_loss_backwards_whatever_was_made_first() -> None:
    module, arrivals = Crossed(), Arrivals()
    arrivals.begin(module.parameters(), local=False)
    assert arrivals.on
    assert len(hooks(module)) == 8
    backward(module)
    assert layers(arrivals, module) == ["last", "middle", "first"]
    assert arrivals.local_norm() is None


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_the_place_of_a_parameter_is_that_of_its_first_gradient(passes: int) -> None:
    module, arrivals = Crossed(), Arrivals()
    arrivals.begin(module.parameters(), local=False)
    for _ in range(passes):
        backward(module)
    order = dict(arrivals.order)
    module.unused(torch.ones(1, 2)).sum().backward()
    assert layers(arrivals, module) == ["last", "middle", "first", "unused"]
    assert {key: arrivals.order[key] for key in order} == order


def test_the_norm_of_what_arrived_is_that_of_all_gradients_together() -> None:
    module, arrivals = Crossed(), Arrivals()
    arrivals.begin(module.parameters(), local=True)
    assert arrivals.local_norm() is None
    backward(module)
    found = arrivals.local_norm()
    assert found is not None
    assert found.shape == (1,)
    assert not found.requires_grad
    assert float(found) == pytest.approx(norm(module), rel=1e-6)


def test_what_is_done_to_gradients_later_does_not_change_the_norm() -> None:
    module, arrivals = Crossed(), Arrivals()
    arrivals.begin(module.parameters(), local=True)
    backward(module)
    before = norm(module)
    nn.utils.clip_grad_norm_(module.parameters(), before / 10)
    found = arrivals.local_norm()
    assert found is not None
    assert float(found) == pytest.approx(before, rel=1e-6)


def test_after_the_end_nothing_is_seen_and_no_hook_is_left() -> None:
    module, arrivals = Crossed(), Arrivals()
    arrivals.begin(module.parameters(), local=True)
    backward(module)
    arrivals.end()
    assert not arrivals.on
    assert hooks(module) == []
    seen, found = dict(arrivals.order), arrivals.local_norm()
    backward(module)
    module.unused(torch.ones(1, 2)).sum().backward()
    assert arrivals.order == seen
    assert found is not None
    again = arrivals.local_norm()
    assert again is not None
    assert float(again) == float(found)
    arrivals.end()


def test_a_new_beginning_forgets_what_was_and_doubles_no_hook() -> None:
    module, arrivals = Crossed(), Arrivals()
    arrivals.begin(module.parameters(), local=True)
    module.unused(torch.ones(1, 2)).sum().backward()
    arrivals.begin(module.parameters(), local=False)
    assert arrivals.order == {}
    assert all(len(p._post_accumulate_grad_hooks) == 1 for p in module.parameters())
    backward(module)
    assert layers(arrivals, module) == ["last", "middle", "first"]
    assert arrivals.local_norm() is None


def test_parameters_without_a_gradient_and_tensors_that_are_no_leaves_are_left_out() -> None:
    module, arrivals = Crossed(), Arrivals()
    module.middle.requires_grad_(False)
    computed = module.first.weight * 2
    arrivals.begin([*module.parameters(), computed], local=False)
    assert [name for name in hooks(module) if name.startswith("middle")] == []
    assert len(hooks(module)) == 6
    backward(module)
    assert layers(arrivals, module) == ["last", "first"]


def test_hooks_are_taken_away_after_a_backward_pass_that_failed() -> None:
    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, inputs: Tensor) -> Tensor:
            return inputs.clone()

        @staticmethod
        def backward(ctx: object, *gradients: Tensor) -> Tensor:
            raise RuntimeError("planted")

    module, arrivals = Crossed(), Arrivals()
    arrivals.begin(module.parameters(), local=True)
    with pytest.raises(RuntimeError, match=r"^planted$"):
        module.last(Breaks.apply(module.middle(module.first(torch.ones(5, 4))))).sum().backward()
    assert layers(arrivals, module) == ["last"]
    arrivals.end()
    assert hooks(module) == []


def test_a_sparse_gradient_arrives_with_its_norm() -> None:
    table, arrivals = nn.Embedding(10, 2, sparse=True), Arrivals()
    arrivals.begin(table.parameters(), local=True)
    table(torch.tensor([3, 3])).sum().backward()
    found = arrivals.local_norm()
    assert found is not None
    assert float(found) == pytest.approx(8**0.5, rel=1e-6)


def test_the_hooks_hold_no_gradient_and_no_watcher() -> None:
    module, arrivals = Crossed(), Arrivals()
    arrivals.begin(module.parameters(), local=True)
    backward(module)
    gradient = module.first.weight.grad
    assert gradient is not None
    alive, watcher = weakref.ref(gradient), weakref.ref(arrivals)
    del gradient
    module.zero_grad()
    del arrivals
    gc.collect()
    assert alive() is None
    assert watcher() is None
    backward(module)  # hooks whose watcher is gone harm nobody


def test_a_copy_of_the_module_carries_no_hook_and_can_be_written_to_a_file() -> None:
    module, arrivals = Crossed(), Arrivals()
    arrivals.begin(module.parameters(), local=True)
    twin = copy.deepcopy(module)
    assert hooks(twin) == []
    backward(twin)
    assert arrivals.order == {}
    torch.save(module.state_dict(), io.BytesIO())
