"""What modules make of each sample, in two numbers: where samples lie, and what is left out."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAccuracy

from lightning_diagnostics.probes import CallKeeper, Kept, SampleWatch, sketches
from lightning_diagnostics.probes.samples import is_predictor, tensors


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


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7), (3, 5), (2, 5, 3), (5, 1)])
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
        *(torch.ones(4, 4), torch.ones(2, 3, 4), torch.ones(3), torch.ones(()), torch.ones(4, 0)),
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
    assert all(call.predicts for call in calls)
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

    assert [call.predicts for call in watched(Net(), draw(5, 3))] == [False, True]


@pytest.mark.parametrize("name", ["Loss", "FocalLoss", "MyCriterion", "LossOfPairs"])
def test_a_module_that_is_called_a_loss_does_not_predict(name: str) -> None:
    assert not is_predictor(type(name, (nn.Linear,), {})(3, 3))


def test_a_model_that_is_called_after_its_loss_predicts() -> None:
    assert is_predictor(type("ModelWithLoss", (nn.Sequential,), {})(nn.Linear(3, 3)))


def test_networks_predict_whether_they_have_weights_or_not_and_metrics_do_not() -> None:
    assert all(map(is_predictor, (nn.Linear(3, 3), nn.ReLU(), nn.Sequential(), nn.ModuleDict())))
    assert not any(map(is_predictor, (MeanMetric(), BinaryAccuracy(), nn.MSELoss(), nn.CrossEntropyLoss())))


def test_a_pass_is_forgotten_when_it_stops_and_not_before() -> None:
    net, watch = nn.Linear(3, 4), SampleWatch({}, 5, deep=True)
    watch.start(net, functional=False, running=lambda: True)
    net(draw(5, 3))
    watch.unhook()
    assert len(watch.calls) == 1
    watch.stop()
    assert watch.calls == []


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


# Keeping calls.


def kept(step: Callable[[], Any], root: nn.Module, copied: Callable[[Any], Any] = lambda given: given) -> list[Kept]:
    """The calls that a step makes."""
    keeper = CallKeeper({}, copied)
    keeper.start(root, functional=False, running=lambda: True)
    try:
        step()
        return list(keeper.calls)
    finally:
        keeper.stop()


def test_the_calls_that_no_module_makes_are_kept_with_their_arguments() -> None:
    net = nn.ModuleDict({"one": nn.Sequential(nn.Linear(3, 4), nn.ReLU()), "other": nn.Linear(4, 2)})
    x = draw(5, 3)
    calls = kept(lambda: net["other"](input=net["one"](x)), net)
    assert [call.module for call in calls] == [net["one"], net["other"]]
    assert calls[0].args[0] is x
    assert calls[0].kwargs == {}
    assert calls[1].args == ()
    assert torch.equal(calls[1].kwargs["input"], net["one"](x))


def test_losses_and_metrics_are_not_kept_nor_what_they_call() -> None:
    net = nn.ModuleDict({"net": nn.Linear(3, 1), "loss": nn.MSELoss(), "metric": MeanMetric()})
    x = draw(5, 3)

    def step() -> None:
        out = net["net"](x)
        net["loss"](out, x[:, :1])
        net["metric"](out)

    assert [call.module for call in kept(step, net)] == [net["net"]]


def test_calls_that_are_of_no_interest_are_not_kept() -> None:
    net = nn.Linear(3, 4)
    assert kept(lambda: net(draw(5, 3)), net, lambda given: None) == []


def test_what_is_kept_is_what_the_copy_is() -> None:
    net, x = nn.Linear(3, 4), draw(5, 3)
    (call,) = kept(lambda: net(x), net, lambda given: (("copied",), {"given": given}))
    assert call.args == ("copied",)
    assert call.kwargs["given"][0][0] is x


def test_no_more_than_sixteen_calls_of_a_step_are_kept() -> None:
    net = nn.Linear(3, 4)
    assert len(kept(lambda: [net(draw(5, 3)) for _ in range(20)], net)) == 16


def test_the_modes_of_modules_are_those_of_each_call() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout().eval())

    def step() -> None:
        net(draw(5, 3))
        net.eval()(draw(5, 3))

    one, other = kept(step, net)
    assert one.training == [(net, True), (net[0], True), (net[1], False)]
    assert [training for _, training in other.training] == [False] * 3


def test_the_mode_is_that_which_a_call_leaves() -> None:
    class Changes(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.train()
            return super().forward(x)

    net = Changes(3, 3).eval()
    (call,) = kept(lambda: net(draw(5, 3)), net)
    assert call.training == [(net, True)]


def test_a_call_behind_one_that_fails_is_kept() -> None:
    net = nn.Sequential(nn.Linear(3, 4))

    def step() -> None:
        with pytest.raises(RuntimeError):
            net(draw(5, 2))
        net(draw(5, 3))

    call = kept(step, net)[-1]
    assert call.module is net
    assert call.args[0].shape == (5, 3)


def test_a_copy_that_fails_is_a_fault_of_the_keeper_alone() -> None:
    net = nn.Linear(3, 4)

    def copied(given: Any) -> Any:
        raise RuntimeError("no copy")

    keeper = CallKeeper({}, copied)
    keeper.start(net, functional=False, running=lambda: True)
    assert net(draw(5, 3)).shape == (5, 4)
    with pytest.raises(RuntimeError, match="no copy"):
        keeper.stop()
