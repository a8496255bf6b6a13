"""What modules make of each sample, in two numbers: where samples lie, and what is left out."""

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from lightning_diagnostics.probes import SampleWatch, sketches
from lightning_diagnostics.probes.samples import tensors


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    assert not hooks._global_forward_hooks
    assert not hooks._global_forward_pre_hooks


# Sketches.


def test_a_sketch_has_the_norm_of_each_sample() -> None:
    x = draw(5, 3, 2)
    (sketch,) = sketches(x, 5)
    assert torch.allclose(sketch.size, x.double().flatten(1).norm(dim=1))
    assert sketch.product.shape == (5,)
    assert sketch.product.dtype == sketch.size.dtype == torch.float64


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7), (3, 5), (2, 3, 5), (2, 5, 3), (5, 1)])
def test_a_sample_is_sketched_by_itself_along_whatever_axis(shape: tuple[int, ...]) -> None:
    x = draw(*shape)
    axis = shape.index(5)
    (before,) = sketches(x, 5)
    changed = x.clone()
    changed.select(axis, 2).add_(0.5)
    (after,) = sketches(changed, 5)
    assert (before.product != after.product).tolist() == [False, False, True, False, False]
    order = torch.tensor([4, 2, 0, 1, 3])
    (moved,) = sketches(x.index_select(axis, order), 5)
    assert torch.allclose(moved.product, before.product[order], rtol=1e-12)
    assert torch.allclose(moved.size, before.size[order], rtol=1e-12)


def test_values_that_change_places_change_a_sketch() -> None:
    x = draw(5, 64)
    (before,), (after,) = sketches(x, 5), sketches(x.roll(1, 1), 5)
    assert not torch.isclose(before.product, after.product).any()
    assert torch.allclose(before.size, after.size)


@pytest.mark.parametrize("shift", [1.0, -3.0])
def test_a_sketch_is_moved_by_a_constant(shift: float) -> None:
    for count in range(1, 200):
        (sketch,) = sketches(torch.full((200, count), shift), 200)
        assert sketch.product.abs().min() > 1e-3


@pytest.mark.parametrize(
    ("dtype", "epsilon"),
    [
        *((torch.float64, 2.0**-52), (torch.float32, 2.0**-23), (torch.bfloat16, 2.0**-7), (torch.float16, 2.0**-10)),
        (torch.complex64, 2.0**-23),
    ],
)
def test_a_sketch_knows_the_rounding_of_its_dtype(dtype: torch.dtype, epsilon: float) -> None:
    (sketch,) = sketches(torch.ones(5, 2).to(dtype), 5)
    assert sketch.epsilon == epsilon
    assert torch.allclose(sketch.size, torch.tensor(2.0, dtype=torch.float64).sqrt())


def test_both_parts_of_complex_numbers_count() -> None:
    for change in (1.0, 1j):
        x = draw(5, 2).to(torch.complex64)
        (before,), (after,) = sketches(x, 5), sketches(x + change, 5)
        assert (before.product != after.product).all()


@pytest.mark.parametrize(
    "value",
    [
        *(torch.ones(4, 4), torch.ones(4, 3, 4), torch.ones(3), torch.ones(()), torch.ones(4, 0)),
        *(torch.ones(4, 2, dtype=torch.int64), torch.ones(4, 2, dtype=torch.bool), torch.eye(4, 3).to_sparse()),
        *(None, 3, "four", [], {}, object()),
    ],
)
def test_what_tells_nothing_of_samples_is_left_out(value: Any) -> None:
    assert sketches(value, 4) == []


def test_a_sketch_needs_no_gradient_and_draws_no_number() -> None:
    before = torch.get_rng_state()
    (sketch,) = sketches(torch.ones(4, 2, requires_grad=True), 4)
    assert not sketch.product.requires_grad
    assert torch.equal(before, torch.get_rng_state())


@dataclass
class Output:
    """As of a library of language models."""

    logits: Tensor
    extra: Any = None


def test_tensors_are_found_in_values_of_every_form() -> None:
    one, two, three, four = (torch.full((2,), float(index)) for index in range(4))
    value = {"a": one, "b": [two, (three, None)], "c": Output(four, "text"), "kind": Output, "n": 3}
    assert [int(each[0]) for each in tensors(value)] == [0, 1, 2, 3]
    assert list(tensors(OrderedDict(x=one))) == [one]


def test_no_more_than_sixteen_tensors_of_a_call_are_compared() -> None:
    assert len(sketches([torch.ones(4, 2)] * 17, 4)) == 16
    assert len(sketches([torch.ones(3)] * 20 + [torch.ones(4, 2)], 4)) == 1, "of those that have samples"


# Watching.


def watched(net: nn.Module, x: Any, *, samples: int = 5, deep: bool = True) -> Any:
    watch = SampleWatch({}, samples, deep=deep)
    watch.start(net, functional=False, running=lambda: True)
    try:
        net(x)
        return list(watch.calls)
    finally:
        watch.stop()


def test_calls_are_kept_in_the_order_in_which_they_return() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    calls = watched(net, draw(5, 3))
    assert [call.path for call in calls] == ["0", "1.0", "1.1", "1", "self"]
    assert [call.outermost for call in calls] == [False] * 4 + [True]
    assert [call.predicts for call in calls] == [True, False, True, True, True]
    assert all(len(call.inputs) == len(call.outputs) == 1 for call in calls)


def test_what_goes_in_and_out_is_that_of_the_module() -> None:
    net, x = nn.Linear(3, 4), draw(5, 3)
    (call,) = watched(net, x)
    assert torch.equal(call.inputs[0].product, sketches(x, 5)[0].product)
    assert torch.equal(call.outputs[0].product, sketches(net(x), 5)[0].product)


def test_inputs_are_those_before_a_module_that_computes_in_place() -> None:
    net = nn.Sequential(nn.ReLU(inplace=True))
    x = -draw(5, 3).abs()
    expected = sketches(x, 5)[0].product
    calls = watched(net, x)
    assert torch.equal(calls[0].inputs[0].product, expected)
    assert bool((calls[0].outputs[0].product == 0).all())


def test_a_shallow_watch_keeps_what_comes_out_of_the_outermost_modules() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    (call,) = watched(net, draw(5, 3), deep=False)
    assert (call.path, call.inputs, len(call.outputs)) == ("self", [], 1)
    assert torch.equal(call.outputs[0].product, watched(net, draw(5, 3))[-1].outputs[0].product)


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.CrossEntropyLoss(weight=torch.ones(3))])
def test_a_loss_does_not_predict(loss: nn.Module) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = loss

        def forward(self, x: Tensor) -> Any:
            return self.loss(x, x.softmax(1))

    assert [call.predicts for call in watched(Net(), draw(5, 3))] == [False, False]


def test_a_loss_with_a_weight_of_its_own_is_a_loss() -> None:
    class Learned(nn.MSELoss):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

    net = Learned()
    watch = SampleWatch({}, 5, deep=True)
    watch.start(net, functional=False, running=lambda: True)
    net(draw(5, 3), draw(5, 3))
    assert [call.predicts for call in watch.calls] == [False]
    watch.stop()


def test_a_pass_is_forgotten_when_it_stops_and_not_before() -> None:
    net, watch = nn.Linear(3, 4), SampleWatch({}, 5, deep=True)
    watch.start(net, functional=False, running=lambda: True)
    net(draw(5, 3))
    watch.unhook()
    assert len(watch.calls) == 1
    watch.stop()
    assert watch.calls == []


def test_modules_in_training_mode_are_put_right_before_they_run() -> None:
    net = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5).eval())
    mended = []

    def mend(module: nn.Module) -> None:
        mended.append(module)
        module.training = False

    watch = SampleWatch({}, 5, deep=False, mend=mend)
    watch.start(net, functional=False, running=lambda: True)
    x = draw(5, 3)
    assert torch.equal(net(x), x)
    watch.stop()
    assert mended == [net, net[0]]


def test_an_output_that_cannot_be_sketched_is_a_fault_of_the_watch_alone() -> None:
    class Strange(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return Raises(x)

    class Raises(dict[str, Any]):
        def __init__(self, x: Tensor) -> None:
            super().__init__(x=x)

        def values(self) -> Any:
            raise RuntimeError("no values")

    net, watch = Strange(), SampleWatch({}, 5, deep=True)
    watch.start(net, functional=False, running=lambda: True)
    assert "x" in net(draw(5, 3))
    with pytest.raises(RuntimeError, match="no values"):
        watch.stop()


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_a_nested_tensor_tells_nothing(layout: torch.layout) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=layout)
    assert sketches(nested, 2) == []
