"""Which activations of a forward pass are seen, once each, and under which name: every spelling, and what is none."""

import copy
import gc
import inspect
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as in the programs that are watched
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from lightning_diagnostics.probes import CallWatch, Site, activation_modules, blind_parts, node_number, parts_of_graph
from lightning_diagnostics.probes.kinds import KINDS

FILE = __file__.rpartition("/")[2]


class StopError(Exception):
    """Raised in the middle of a pass."""


class Watched:
    """What a `CallWatch` has seen, call by call; the watch is over at the end of the ``with``."""

    def __init__(self, module: nn.Module, *, functional: bool = True, names: dict[str, str] | None = None) -> None:
        self.module, self.functional = module, functional
        self.calls: list[Site] = []
        self.outputs: list[Tensor] = []
        self.keep = False
        self.watch = CallWatch(self.take, {} if names is None else names)
        self.running = True

    def take(self, site: Site, output: Tensor) -> None:
        self.calls.append(site)
        if self.keep:
            self.outputs.append(output.clone())

    def __enter__(self) -> "Watched":
        self.watch.start(self.module, functional=self.functional, running=lambda: self.running)
        return self

    def __exit__(self, *_: Any) -> None:
        self.watch.stop()

    @property
    def names(self) -> list[str]:
        """Of all calls, in their order."""
        return [site.name for site in self.calls]


def seen(act: Callable[[], Any], module: nn.Module | None = None, **more: Any) -> list[Site]:
    """What is seen of an act, call by call."""
    with Watched(nn.Identity() if module is None else module, **more) as watched:
        act()
    return watched.calls


def named(module: nn.Module, *inputs: Tensor) -> list[str]:
    """The names of all calls of one pass."""
    return [site.name for site in seen(lambda: module(*inputs), module)]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    assert not hooks._global_forward_hooks
    assert not hooks._global_forward_pre_hooks
    assert _get_current_function_mode_stack() == []


# Every spelling is seen once.

CALLS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "F.relu": (lambda x: F.relu(x), "relu"),
    "F.relu-in-place": (lambda x: F.relu(x, inplace=True), "relu"),
    "F.relu_": (lambda x: F.relu_(x), "relu"),
    "torch.relu": (lambda x: torch.relu(x), "relu"),
    "torch.relu_": (lambda x: torch.relu_(x), "relu"),
    "x.relu": (lambda x: x.relu(), "relu"),
    "x.relu_": (lambda x: x.relu_(), "relu"),
    "x.clamp(min=0)": (lambda x: x.clamp(min=0), "clamp"),
    "x.clamp(0)": (lambda x: x.clamp(0), "clamp"),
    "x.clamp(0.0, 6.0)": (lambda x: x.clamp(0.0, 6.0), "clamp"),
    "x.clamp_(min=0)": (lambda x: x.clamp_(min=0), "clamp"),
    "torch.clamp(x, min=0)": (lambda x: torch.clamp(x, min=0), "clamp"),
    "torch.clamp(input=x)": (lambda x: torch.clamp(input=x, min=0.0, max=None), "clamp"),
    "torch.clamp(x, 0)": (lambda x: torch.clamp(x, 0), "clamp"),
    "torch.clamp_": (lambda x: torch.clamp_(x, min=0), "clamp"),
    "x.clamp_min": (lambda x: x.clamp_min(0), "clamp"),
    "x.clamp_min(min=)": (lambda x: x.clamp_min(min=0), "clamp"),
    "x.clamp_min_": (lambda x: x.clamp_min_(0), "clamp"),
    "torch.clamp_min": (lambda x: torch.clamp_min(x, 0), "clamp"),
    "torch.clamp_min_": (lambda x: torch.clamp_min_(x, 0), "clamp"),
    "x.clip": (lambda x: x.clip(0), "clamp"),
    "x.clip_": (lambda x: x.clip_(min=0), "clamp"),
    "torch.clip": (lambda x: torch.clip(x, min=0), "clamp"),
    "F.relu6": (lambda x: F.relu6(x), "relu6"),
    "F.leaky_relu": (lambda x: F.leaky_relu(x, 0.1), "leaky_relu"),
    "F.leaky_relu_": (lambda x: F.leaky_relu_(x, 0.1), "leaky_relu"),
    "F.prelu": (lambda x: F.prelu(x, torch.tensor([0.1])), "prelu"),
    "torch.prelu": (lambda x: torch.prelu(x, torch.tensor([0.1])), "prelu"),
    "F.rrelu": (lambda x: F.rrelu(x), "rrelu"),
    "F.elu": (lambda x: F.elu(x), "elu"),
    "F.elu_": (lambda x: F.elu_(x), "elu"),
    "F.selu": (lambda x: F.selu(x), "selu"),
    "torch.selu_": (lambda x: torch.selu_(x), "selu"),
    "F.celu": (lambda x: F.celu(x), "celu"),
    "F.gelu": (lambda x: F.gelu(x), "gelu"),
    "F.gelu-tanh": (lambda x: F.gelu(x, approximate="tanh"), "gelu"),
    "F.silu": (lambda x: F.silu(x), "silu"),
    "F.silu-in-place": (lambda x: F.silu(x, inplace=True), "silu"),
    "F.mish": (lambda x: F.mish(x), "mish"),
    "F.hardswish": (lambda x: F.hardswish(x), "hardswish"),
    "F.sigmoid": (lambda x: F.sigmoid(x), "sigmoid"),
    "torch.sigmoid": (lambda x: torch.sigmoid(x), "sigmoid"),
    "x.sigmoid": (lambda x: x.sigmoid(), "sigmoid"),
    "x.sigmoid_": (lambda x: x.sigmoid_(), "sigmoid"),
    "F.hardsigmoid": (lambda x: F.hardsigmoid(x), "hardsigmoid"),
    "F.tanh": (lambda x: F.tanh(x), "tanh"),
    "torch.tanh": (lambda x: torch.tanh(x), "tanh"),
    "x.tanh": (lambda x: x.tanh(), "tanh"),
    "x.tanh_": (lambda x: x.tanh_(), "tanh"),
    "F.hardtanh": (lambda x: F.hardtanh(x), "hardtanh"),
    "F.hardtanh_": (lambda x: F.hardtanh_(x), "hardtanh"),
    "F.softsign": (lambda x: F.softsign(x), "softsign"),
    "F.softplus": (lambda x: F.softplus(x), "softplus"),
    "F.logsigmoid": (lambda x: F.logsigmoid(x), "logsigmoid"),
    "F.threshold": (lambda x: F.threshold(x, 0.1, 20.0), "threshold"),
    "F.hardshrink": (lambda x: F.hardshrink(x), "hardshrink"),
    "F.softshrink": (lambda x: F.softshrink(x), "softshrink"),
    "F.tanhshrink": (lambda x: F.tanhshrink(x), "tanhshrink"),
    "F.glu": (lambda x: F.glu(x), "glu"),
}


class Calls(nn.Module):
    """A call after weights; the call is on a line of its own, whose number is known."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.linear(x))


@pytest.mark.parametrize(("call", "name"), CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("grad", [True, False], ids=["trains", "no-grad"])
def test_every_spelling_of_a_call_is_seen_once_where_it_stands(
    call: Callable[[Tensor], Tensor], name: str, grad: bool
) -> None:
    net = nn.Sequential(Calls(call))
    with torch.set_grad_enabled(grad):
        (site,) = seen(lambda: net(torch.ones(3, 4)), net)
    assert (site.name, site.kind, site.functional) == (f"0/{name}", KINDS[name], True)
    assert site.source == f"{FILE}:{inspect.getsourcelines(call)[1]}"
    assert site.trains == grad
    if name != "glu":  # whose output has another shape than that of the weights
        assert (site.follows, site.axis) == ("0.linear", -1)


MODULES = {
    "ReLU": nn.ReLU(),
    "ReLU-in-place": nn.ReLU(inplace=True),
    **{kind.__name__: kind() for kind in (nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.Hardtanh, nn.Softsign)},
    **{kind.__name__: kind() for kind in (nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.LeakyReLU, nn.PReLU, nn.RReLU)},
    **{kind.__name__: kind() for kind in (nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.LogSigmoid, nn.Hardshrink)},
    **{kind.__name__: kind() for kind in (nn.Softshrink, nn.Tanhshrink, nn.GLU)},
    "Threshold": nn.Threshold(0.1, 20.0),
    "SiLU-in-place": nn.SiLU(inplace=True),
    "LeakyReLU-in-place": nn.LeakyReLU(inplace=True),
}


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
@pytest.mark.parametrize("functional", [True, False])
def test_every_activation_module_is_seen_once_and_not_as_the_call_within(module: nn.Module, functional: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 6), module)
    (site,) = seen(lambda: net(torch.ones(3, 4)), net, functional=functional)
    name = next(n for n in KINDS if n.replace("_", "") == type(module).__name__.lower())
    assert (site.name, site.kind, site.functional, site.trains) == ("1", KINDS[name], False, True)
    assert activation_modules(net) == ["1"]


def test_every_activation_module_that_torch_has_is_known_or_left_out_on_purpose() -> None:
    spread = {"Softmax", "Softmax2d", "LogSoftmax", "Softmin", "MultiheadAttention"}  # over all units, not of each
    kinds = {name for name in nn.modules.activation.__all__ if name not in spread}
    assert kinds == {type(module).__name__ for module in MODULES.values()}


def test_a_users_subclass_of_an_activation_is_one() -> None:
    class Capped(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x).clamp_max(3)

    assert named(nn.Sequential(nn.Linear(4, 6), Capped()), torch.ones(3, 4)) == ["1"]


@pytest.mark.parametrize(
    "call",
    [
        *(lambda x: x.clamp(min=-1), lambda x: x.clamp(max=0), lambda x: x.clamp(1e-8), lambda x: x.clamp(0, 1)),
        *(lambda x: torch.clamp(x, min=torch.zeros(4)), lambda x: x.clamp_min(1e-6), lambda x: x.clamp_max(0)),
        *(lambda x: x.exp(), lambda x: x.softmax(1), lambda x: F.dropout(x), lambda x: x.abs(), lambda x: x + x),
    ],
)
def test_what_is_no_activation_is_not_seen(call: Callable[[Tensor], Tensor]) -> None:
    assert seen(lambda: call(torch.ones(3, 4))) == []


def test_the_ends_of_a_hardtanh_are_its_own() -> None:
    net = nn.Sequential(nn.Hardtanh(-2.0, 3.0))
    ends = [
        (site.kind.low, site.kind.high)
        for call in (net, lambda x: F.hardtanh(x, -2.0, 3.0), lambda x: F.hardtanh(x, -2.0, max_val=3.0))
        for site in seen(lambda call=call: call(torch.ones(3, 4)), net)
    ]
    assert ends == [(-2.0, 3.0)] * 3


# Where the units lie.


class Sequence(nn.Module):
    """Weights, a functional activation after them."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layer(x))


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        *((nn.Linear(4, 5), (3, 4), -1), (nn.Linear(4, 5), (3, 7, 4), -1), (nn.Linear(4, 5), (3, 2, 7, 4), -1)),
        *((nn.Conv1d(4, 5, 1), (3, 4, 7), 1), (nn.Conv2d(4, 5, 1), (3, 4, 7, 7), 1)),
        *((nn.ConvTranspose2d(4, 5, 1), (3, 4, 7, 7), 1), (nn.Conv3d(4, 5, 1), (3, 4, 2, 2, 2), 1)),
        *((nn.BatchNorm2d(4), (3, 4, 7, 7), 1), (nn.GroupNorm(2, 4), (3, 4, 7), 1)),
        *((nn.LayerNorm(4), (3, 7, 4), -1), (nn.LazyLinear(5), (3, 7, 4), -1)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_the_units_lie_where_the_layer_before_has_them(layer: nn.Module, shape: tuple[int, ...], axis: int) -> None:
    net = Sequence(layer)
    net(torch.ones(shape))  # lazy ones become what they are
    (site,) = seen(lambda: net(torch.ones(shape)), net)
    assert (site.name, site.axis, site.follows) == ("self/relu", axis, "layer")


@pytest.mark.parametrize(("shape", "axis"), [((3, 4), 1), ((3, 7, 4), -1), ((3, 4, 5, 5), 1)])
def test_without_a_layer_before_units_lie_where_they_mostly_do(shape: tuple[int, ...], axis: int) -> None:
    (site,) = seen(lambda: F.relu(torch.ones(shape)))
    assert (site.axis, site.follows) == (axis, "")


def test_functional_weights_say_where_units_lie_too() -> None:
    weight = torch.ones(5, 4)
    (site,) = seen(lambda: F.relu(F.linear(torch.ones(2, 3, 6, 4), weight)))
    assert (site.axis, site.follows) == (-1, "self/linear")
    (site,) = seen(lambda: F.relu(F.conv1d(torch.ones(2, 4, 6), weight[:, :, None])))
    assert (site.axis, site.follows) == (1, "self/conv1d")


def test_a_pooling_between_leaves_the_units_where_they_are() -> None:
    net = nn.Sequential(nn.Conv1d(1, 2, 3), nn.MaxPool1d(2), nn.ReLU())
    (site,) = seen(lambda: net(torch.ones(1, 1, 8)), net)
    assert (site.axis, site.follows) == (1, "0")


class ChannelNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1)


@pytest.mark.parametrize("norm", [ChannelNorm(), nn.LayerNorm([2, 6, 6])], ids=["over channels", "over all"])
def test_a_norm_over_an_image_leaves_the_channels_where_they_are(norm: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.ReLU())
    (site,) = seen(lambda: net(torch.ones(1, 1, 8, 8)), net)
    assert site.axis == 1


def test_norms_begin_a_stretch_of_their_own() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    sites = seen(lambda: net(torch.ones(2, 4)), net)
    assert [(site.order, site.segment) for site in sites] == [(0, 0), (1, 1), (2, 1)]


# Names.


class Twice(nn.Module):
    """Two calls on two lines, after one layer each."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x))
        return torch.relu(self.two(x))


class Loop(nn.Module):
    """One line that is called after each of several layers."""

    def __init__(self, layers: int = 3, *, shared: bool = False) -> None:
        super().__init__()
        first = nn.Linear(4, 4)
        self.layers = nn.ModuleList([first if shared else nn.Linear(4, 4) for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


def test_calls_are_named_after_the_module_that_makes_them_and_numbered_by_place() -> None:
    net = nn.Sequential(Twice(), nn.Sequential(Twice()))
    assert named(net, torch.ones(2, 4)) == ["0/relu", "0/relu.2", "1.0/relu", "1.0/relu.2"]


def test_one_line_after_several_layers_is_a_layer_after_each() -> None:
    net = Loop()
    sites = seen(lambda: net(torch.ones(2, 4)), net)
    assert [(site.name, site.follows) for site in sites] == [
        *(("self/relu", "layers.0"), ("self/relu.2", "layers.1"), ("self/relu.3", "layers.2")),
    ]
    assert len({site.source for site in sites}) == 1


def test_one_line_after_one_layer_that_is_called_again_is_one_layer() -> None:
    assert named(Loop(shared=True), torch.ones(2, 4)) == ["self/relu"] * 3


def test_different_functions_count_by_themselves() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(x)
            x = torch.tanh(x)
            x = F.gelu(x)
            return x.tanh()

    assert named(Both(), torch.ones(2, 4)) == ["self/relu", "self/tanh", "self/gelu", "self/tanh.2"]


def test_a_shared_module_is_a_layer_after_each_layer_that_it_follows() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.one(x))
            x = self.act(self.two(x))
            return self.act(self.two(x))

    net = Shared()
    sites = seen(lambda: net(torch.ones(2, 4)), net)
    assert [site.name for site in sites][:2] == ["act", "act/2"]
    assert [site.follows for site in sites] == ["one", "two", "two"]


def test_the_feed_forward_of_a_transformer_layer_is_a_layer() -> None:
    net = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0))
    (site,) = seen(lambda: net(torch.randn(2, 5, 8)), net)
    assert (site.name, site.axis, site.follows) == ("0/relu", -1, "0.linear1")
    assert site.source.startswith("transformer.py:")
    net.eval()
    with torch.no_grad():  # where torch has a kernel for the whole layer
        assert named(net, torch.randn(2, 5, 8)) == []


def test_what_is_called_outside_of_the_submodules_is_called_after_the_module_itself() -> None:
    net = Twice()
    assert [site.name for site in seen(lambda: F.relu(net.one(torch.ones(2, 4))), net)] == ["self/relu"]
    assert [site.name for site in seen(lambda: nn.ReLU()(torch.ones(2)), net)] == ["self/ReLU"]


def test_a_module_that_is_not_registered_goes_by_its_class_within_its_caller() -> None:
    class Hides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = [nn.Sequential(nn.Linear(4, 4), nn.Tanh())]

        def forward(self, x: Tensor) -> Tensor:
            return self.hidden[0](x)

    (name,) = named(nn.Sequential(Hides()), torch.ones(2, 4))
    assert name.startswith("0/")
    assert name.endswith("/Tanh")


def test_a_module_that_is_registered_while_the_watch_goes_on_is_known_by_its_path() -> None:
    net = nn.Sequential(nn.Linear(4, 4))

    def act() -> None:
        net.append(nn.ReLU())
        net(torch.ones(2, 4))

    assert [site.name for site in seen(act, net)] == ["1"]


def test_names_are_kept_over_watches_whatever_is_met_first() -> None:
    net, names = Twice(), dict[str, str]()
    assert [site.name for site in seen(lambda: net(torch.ones(2, 4)), net, names=names)] == ["self/relu", "self/relu.2"]
    kept = dict(names)

    def second_only() -> None:
        net.one.register_forward_hook(lambda *_: (_ for _ in ()).throw(StopError()))
        with pytest.raises(StopError):
            net(torch.ones(2, 4))

    assert seen(second_only, net, names=names) == []
    net.one._forward_hooks.clear()
    watched = Watched(net, names=names)
    with watched:
        torch.relu(torch.ones(2, 4))  # a third place
        net(torch.ones(2, 4))
    assert watched.names == ["self/relu.3", "self/relu", "self/relu.2"]
    assert kept.items() <= names.items()


def test_a_second_pass_under_one_watch_adds_no_names() -> None:
    net = Twice()
    with Watched(net) as watched:
        net(torch.ones(2, 4))
        net(torch.ones(2, 4))
    assert watched.names == ["self/relu", "self/relu.2"] * 2


# What is read, and what is not.


def test_the_output_is_read_as_it_is_made_not_as_it_is_changed_afterwards() -> None:
    def act() -> None:
        torch.ones(2, 3).relu().mul_(0)

    watched = Watched(nn.Identity())
    watched.keep = True
    with watched:
        act()
    assert watched.outputs[0].tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("backward", [lambda loss: loss.backward(), lambda loss: torch.autograd.backward(loss)])
def test_the_recomputation_of_a_checkpoint_is_not_a_second_call(
    reentrant: bool, backward: Callable[[Tensor], None]
) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Twice())

    def act() -> None:
        backward(checkpoint(net, torch.ones(2, 4, requires_grad=True), use_reentrant=reentrant).sum())

    assert [site.name for site in seen(act, net)] == ["1", "2/relu", "2/relu.2"]


def test_calls_under_vmap_are_known_and_said_to_be_unreadable() -> None:
    with Watched(nn.Identity()) as watched:
        torch.vmap(F.relu)(torch.ones(2, 3))
    assert watched.calls == []
    assert watched.watch.unreadable == {"self/relu"}


def test_a_functional_call_of_a_module_is_seen_under_its_names() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Twice())
    values = {name: torch.zeros_like(value) for name, value in net.named_parameters()}
    sites = seen(lambda: torch.func.functional_call(net, values, (torch.ones(2, 4),)), net)
    assert [site.name for site in sites] == ["1", "2/relu", "2/relu.2"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(2, 3).to_sparse(),
        lambda: torch.ones(2, 3, device="meta"),
    ],
    ids=["sparse", "meta"],
)
def test_an_output_that_cannot_be_read_is_said_to_be_so(make: Callable[[], Tensor]) -> None:
    with Watched(nn.Identity()) as watched:
        torch.relu(make())
    assert watched.calls == []
    assert watched.watch.unreadable == {"self/relu"}


@pytest.mark.parametrize(
    "output",
    [torch.ones(0, 3), torch.tensor(1.0), torch.ones(2, dtype=torch.int64)],
    ids=["of no sample", "a loss", "an index"],
)
def test_what_is_no_layer_is_passed_over(output: Tensor) -> None:
    with Watched(nn.Identity()) as watched:
        torch.relu(output)
    assert watched.calls == []
    assert watched.watch.unreadable == set()


class ReluLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class GatedNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x) / x.norm()


def test_calls_in_a_users_subclass_of_a_layer_are_seen() -> None:
    assert named(nn.Sequential(ReluLinear(4, 4), GatedNorm()), torch.ones(3, 4)) == ["0/relu", "1/silu"]


def test_a_harmless_subclass_of_a_tensor_is_read() -> None:
    class Named(Tensor):
        pass

    (site,) = seen(lambda: torch.ones(2, 3).as_subclass(Named).relu())
    assert site.name == "self/relu"


def test_scripted_compiled_and_recurrent_parts_are_told_of_as_what_cannot_be_seen() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.script = _scripted(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
            self.fast = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), backend="eager")
            self.own = nn.Sequential(nn.ReLU())
            self.own.compile(backend="eager")
            self.rnn = nn.Sequential(nn.LSTM(4, 4), nn.ReLU())

    parts = Parts()
    blind = blind_parts(parts)
    assert blind.scripted == ("script",)
    assert blind.compiled == ("fast", "own")
    assert blind.fused == ("rnn.0",)
    assert "rnn.1" in activation_modules(parts)
    assert not any(path.startswith("script") for path in activation_modules(parts))


def test_nothing_inside_of_a_scripted_module_is_seen_and_nothing_fails() -> None:
    net = nn.Sequential(_scripted(nn.Sequential(nn.Linear(4, 4), nn.ReLU())), nn.ReLU())
    assert named(net, torch.ones(2, 4)) == ["1"]


def _scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # new versions of torch advise against it
        return torch.jit.script(module)


# Gates and heads.


def test_what_is_multiplied_with_something_is_a_gate_and_the_others_are_not() -> None:
    def act() -> None:
        x = torch.ones(2, 3)
        _ = x.sigmoid() * x
        _ = x * x.tanh()
        _ = torch.mul(x, torch.sigmoid(x))
        x.sigmoid().mul_(x)
        _ = x.tanh() + x

    assert [site.gate for site in seen(act)] == [True, True, True, True, False]


def test_what_lies_between_the_last_weights_and_the_loss_is_the_head() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2), nn.Sigmoid())
    with Watched(net) as watched:
        loss = net(torch.ones(3, 4)).sum()
        assert [site.head for site in watched.calls] == [None, None]
        watched.watch.see_loss(loss.grad_fn)
        watched.watch.settle()
    assert [(site.name, site.head) for site in watched.calls] == [("1", False), ("3", True)]


def test_what_was_once_seen_before_the_last_weights_is_no_head() -> None:
    net, act = nn.Linear(4, 4), nn.Tanh()
    watched = Watched(nn.ModuleList([net, act]))
    for compute in (lambda: net(act(torch.ones(3, 4) * net.bias)), lambda: act(net.bias * torch.ones(3, 4))):
        with watched:
            loss = compute().sum()
            watched.watch.see_loss(loss.grad_fn)
            watched.watch.settle()
    assert {site.head for site in watched.calls} == {False}


def test_each_of_several_losses_of_a_step_has_its_own_head() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    with Watched(net) as watched:
        real = F.relu(1 - net(torch.ones(3, 4))).mean()
        fake = F.relu(1 + net(torch.ones(3, 4))).mean()
        for loss in (real, fake):
            watched.watch.see_loss(loss.grad_fn)
        watched.watch.settle()
    assert {site.name: site.head for site in watched.calls} == {"1": False, "self/relu": True, "self/relu.2": True}


def test_the_nodes_before_the_weights_and_behind_them_are_told_apart() -> None:
    assert parts_of_graph(None) == (set(), set())
    first, second = nn.Linear(4, 4), nn.Linear(4, 2)
    hidden = first(torch.ones(3, 4)).relu()
    made = [second(hidden)]
    for step in (Tensor.tanh, Tensor.square, Tensor.mean):
        made.append(step(made[-1]))
    numbers = [node_number(value.grad_fn) for value in made if value.grad_fn is not None]
    heads, behind = parts_of_graph(made[-1].grad_fn)
    assert heads == set(numbers[1:])
    assert node_number(hidden.grad_fn) in behind
    penalised, behind = parts_of_graph((made[-1] + hidden.mean()).grad_fn)
    assert node_number(hidden.grad_fn) in behind - penalised


def test_a_scalar_that_is_learned_is_no_weight() -> None:
    net, scale = nn.Linear(4, 2), nn.Parameter(torch.ones(()))
    output = net(torch.ones(3, 4)).sigmoid()
    heads, _ = parts_of_graph((scale.exp() * output.mean()).grad_fn)
    assert node_number(output.grad_fn) in heads


def test_what_no_loss_comes_from_is_told_from_a_layer() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with Watched(net) as watched:
        logits = net(torch.ones(3, 4))
        torch.sigmoid(logits)  # for a metric
        watched.watch.see_loss(logits.mean().grad_fn)
        watched.watch.settle()
    assert {site.name: site.reached for site in watched.calls} == {"1": True, "self/sigmoid": False}


def test_a_transformer_in_evaluation_computes_the_same_under_a_look() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    inputs = torch.randn(2, 5, 8)
    padding = torch.tensor([[False, False, False, True, True], [False] * 5])

    def output() -> Tensor:
        with torch.no_grad():
            return net(inputs, src_key_padding_mask=padding)

    expected = output()
    with Watched(net) as watched:
        seen_under_a_look = output()
        after = F.relu(inputs)
    assert torch.equal(expected, seen_under_a_look)
    assert [site.name for site in watched.calls] == ["self/relu"], after  # the mode is back after it


def test_the_nodes_of_a_pass_are_known_by_what_made_them() -> None:
    net = Loop(2)
    with Watched(net) as watched:
        output = net(torch.ones(2, 4))
        made = watched.watch.made()
    assert output.grad_fn is not None
    assert made[node_number(output.grad_fn)] == "self/relu.2"
    assert list(made.values()) == ["layers.0", "self/relu", "layers.1", "self/relu.2"]
    assert watched.watch.made() == {}


# Coming and going.


def test_nothing_is_seen_before_the_start_or_after_the_end() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Twice())
    net(torch.ones(2, 4))
    with Watched(net) as watched:
        pass
    net(torch.ones(2, 4))
    assert watched.calls == []


def test_without_the_function_mode_modules_are_seen_and_calls_are_not() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Twice())
    with Watched(net, functional=False) as watched:
        assert _get_current_function_mode_stack() == []
        net(torch.ones(2, 4))
    assert watched.names == ["1"]
    assert not watched.watch.has_calls


def test_a_watch_that_was_forgotten_ends_itself_when_the_run_is_over() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Twice())
    with Watched(net) as watched:
        watched.running = False
        net(torch.ones(2, 4))
        assert not hooks._global_forward_hooks
        torch.relu(torch.ones(2))
    assert watched.calls == []


def test_an_exception_in_a_forward_leaves_no_hook_and_no_wrong_name() -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise StopError

    net = nn.ModuleDict({"breaks": nn.Sequential(Breaks()), "well": Twice()})

    def act() -> None:
        with pytest.raises(StopError):
            net["breaks"](torch.ones(2, 4))
        net["well"](torch.ones(2, 4))
        F.relu(torch.ones(2))

    assert [site.name for site in seen(act, net)] == ["well/relu", "well/relu.2", "self/relu"]
    with pytest.raises(StopError), Watched(net):
        net["breaks"](torch.ones(2, 4))


def test_an_interrupt_in_a_forward_leaves_no_hook() -> None:
    class Interrupts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyboardInterrupt

    net = nn.Sequential(Interrupts(), nn.ReLU())
    watched = Watched(net)
    with pytest.raises(KeyboardInterrupt), watched:
        net(torch.ones(2, 4))
    with watched:
        net[1](torch.ones(2, 4))
    assert watched.names == ["1"]


def test_a_fault_in_taking_is_raised_at_the_end_and_never_into_the_users_step() -> None:
    def take(site: Site, output: Tensor) -> None:
        raise StopError

    for act in (lambda: nn.ReLU()(torch.ones(2)), lambda: F.relu(torch.ones(2))):
        watch = CallWatch(take, {})
        watch.start(nn.Identity(), functional=True, running=lambda: True)
        assert act().tolist() == [1.0, 1.0]
        assert not hooks._global_forward_hooks
        with pytest.raises(StopError):
            watch.stop()
        watch.stop()  # said once


def test_a_default_device_that_is_set_in_the_step_stays_and_the_mode_goes() -> None:
    try:
        with Watched(nn.Identity()) as watched:
            torch.set_default_device("cpu")
            F.relu(torch.ones(2, 3))
        stack = _get_current_function_mode_stack()
        assert [type(mode).__name__ for mode in stack] == ["DeviceContext"]
        assert torch.get_default_device().type == "cpu"
    finally:
        torch.set_default_device(None)
    assert watched.names == ["self/relu"]


def test_modes_that_the_user_left_over_ours_stay_in_their_order() -> None:
    class Mine(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    below, above, top = Mine(), Mine(), Mine()
    with below:
        watched = Watched(nn.Identity())
        watched.__enter__()
        with above, top:
            F.relu(torch.ones(2, 3))
            watched.__exit__()
            assert _get_current_function_mode_stack() == [below, above, top]
            F.relu(torch.ones(2, 3))
    assert watched.names == ["self/relu"]


def test_starting_again_does_not_see_twice() -> None:
    watched = Watched(nn.Identity())
    with watched, watched:
        F.relu(torch.ones(2, 3))
        nn.ReLU()(torch.ones(2, 3))
    assert len(watched.calls) == 2


def test_a_copy_of_the_module_taken_in_mid_pass_carries_nothing() -> None:
    class Copies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
            self.box: dict[str, nn.Module] = {}

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.net(x))
            self.box["copy"] = copy.deepcopy(self.net)
            return x

    net = Copies()
    with Watched(net) as watched:
        net(torch.ones(2, 4))
    net.box["copy"](torch.ones(2, 4))
    assert watched.names == ["net.1", "self/relu"]
    for part in (*net.modules(), *net.box["copy"].modules()):
        assert not [name for name, value in vars(part).items() if name.endswith("_hooks") and value]


def test_a_copy_of_a_watch_has_no_part_in_the_model() -> None:
    names: dict[str, str] = {}
    watch = CallWatch(_ignore, names)
    net = nn.Sequential(nn.ReLU())
    watch.start(net, functional=True, running=lambda: True)
    net(torch.ones(2, 3))
    other = copy.deepcopy(watch)
    watch.stop()
    assert (other.sites, other.names) == ([], names)


def _ignore(site: Site, output: Tensor) -> None:
    pass


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def _remembered(net: nn.Module) -> list[weakref.ref[Tensor]]:
    """References to all that the modules of a network will put out, which keep nothing alive."""
    outputs: list[weakref.ref[Tensor]] = []
    for module in net.modules():
        module.register_forward_hook(lambda module, args, output: outputs.append(weakref.ref(output)))
    return outputs


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("grad", [True, False])
def test_no_output_is_kept_while_the_watch_goes_on(grad: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), Twice())
    outputs = _remembered(net)
    with Watched(net), torch.set_grad_enabled(grad):
        net(torch.ones(2, 4)).sigmoid()
        assert len(outputs) == 6
        assert [ref() for ref in outputs] == [None] * 6


@pytest.mark.usefixtures("no_collector")
def test_nothing_of_a_graph_is_kept_after_the_end() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), Twice())
    outputs = _remembered(net)
    with Watched(net) as watched:
        net(torch.ones(2, 4)).sigmoid()
    assert [ref() for ref in outputs] == [None] * 6
    assert watched.watch.made() == {}


def test_watching_changes_no_number() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Dropout(), Twice(), nn.RReLU())
    results = []
    for watching in (False, True):
        torch.manual_seed(1)
        net.zero_grad()
        x = torch.randn(8, 4)
        if watching:
            with Watched(net):
                loss = net(x).square().sum()
        else:
            loss = net(x).square().sum()
        loss.backward()
        results.append([loss, *(p.grad.clone() for p in net.parameters()), torch.get_rng_state()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
