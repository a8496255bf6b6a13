"""Which modules and calls normalise by the batch or draw noise, in every spelling, and what their inputs are like."""

import copy
import gc
import inspect
import pickle
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as in the programs that are watched
from torch.nn.modules import module as hooks
from torch.overrides import _get_current_function_mode_stack

from lightning_diagnostics.probes import (
    ROOT,
    NormWatch,
    by_design,
    is_norm,
    is_random,
    kind_of,
    obeys_mode,
    paths,
    running_statistics,
)

FILE = __file__.rpartition("/")[2]


def scripted(module: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(module)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    assert not hooks._global_forward_hooks
    assert not hooks._global_forward_pre_hooks
    assert _get_current_function_mode_stack() == []


# Kinds of norms.


class Own(nn.Module):
    """A norm of the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(3))
        self.register_buffer("running_var", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.running_mean) / (self.running_var + 1e-5).sqrt()


class MeanOnly(nn.Module):
    """Keeps a mean and no variance."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(3))
        self.register_buffer("running_var", None)


class Subclass(nn.BatchNorm2d):
    """As of a library of vision models."""


# By kind: whether it is a norm, whether it has statistics, whether its mode decides, whether it has none by design.
NORMS: dict[str, tuple[nn.Module, bool, bool, bool, bool]] = {
    "BatchNorm1d": (nn.BatchNorm1d(3), True, True, True, False),
    "BatchNorm2d": (nn.BatchNorm2d(3), True, True, True, False),
    "BatchNorm3d": (nn.BatchNorm3d(3), True, True, True, False),
    "SyncBatchNorm": (nn.SyncBatchNorm(3), True, True, True, False),
    "BatchNorm1d-without-affine": (nn.BatchNorm1d(3, affine=False), True, True, True, False),
    "BatchNorm1d-untracked": (nn.BatchNorm1d(3, track_running_stats=False), True, False, False, True),
    "Subclass": (Subclass(3), True, True, True, False),
    "LazyBatchNorm1d": (nn.LazyBatchNorm1d(), True, False, True, False),
    "LazyBatchNorm2d": (nn.LazyBatchNorm2d(), True, False, True, False),
    "LazyBatchNorm3d": (nn.LazyBatchNorm3d(), True, False, True, False),
    "InstanceNorm1d-tracked": (nn.InstanceNorm1d(3, track_running_stats=True), True, True, True, False),
    "InstanceNorm2d-tracked": (nn.InstanceNorm2d(3, track_running_stats=True), True, True, True, False),
    "InstanceNorm3d-tracked": (nn.InstanceNorm3d(3, track_running_stats=True), True, True, True, False),
    "InstanceNorm2d": (nn.InstanceNorm2d(3), False, False, True, False),
    "LazyInstanceNorm2d-tracked": (nn.LazyInstanceNorm2d(), True, False, True, False),
    "Own": (Own(), True, True, False, False),
    "MeanOnly": (MeanOnly(), False, False, False, False),
    "LayerNorm": (nn.LayerNorm(3), False, False, False, True),
    "GroupNorm": (nn.GroupNorm(1, 3), False, False, False, True),
    "Linear": (nn.Linear(3, 3), False, False, False, True),
}


@pytest.mark.parametrize(("module", "norm", "statistics", "obeys", "designed"), NORMS.values(), ids=NORMS)
def test_every_kind_of_norm_is_known(
    module: nn.Module, norm: bool, statistics: bool, obeys: bool, designed: bool
) -> None:
    assert is_norm(module) is norm
    assert (running_statistics(module) is not None) is statistics
    assert obeys_mode(module) is obeys
    if norm:
        assert by_design(module) is designed


def test_every_batch_norm_and_instance_norm_that_torch_has_is_tried() -> None:
    named = {*nn.modules.batchnorm.__all__, *nn.modules.instancenorm.__all__}
    assert {name for name in named if not name.startswith("LazyInstance")} <= {name.split("-")[0] for name in NORMS}


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
def test_scripted_batch_norm_is_known(kind: type[nn.Module]) -> None:
    norm = scripted(kind(3))  # type: ignore[call-arg]  # they take a number
    assert is_norm(norm)
    assert obeys_mode(norm)
    assert not by_design(norm)
    assert running_statistics(norm) is not None
    assert kind_of(norm) == kind.__name__
    untracked = scripted(kind(3, track_running_stats=False))  # type: ignore[call-arg]
    assert (is_norm(untracked), obeys_mode(untracked), by_design(untracked)) == (True, False, True)


def test_other_scripted_modules_are_no_norms() -> None:
    assert not is_norm(scripted(nn.Linear(3, 3)))
    assert kind_of(scripted(nn.Linear(3, 3))) == "Linear"


def test_a_lazy_norm_has_statistics_once_it_has_run() -> None:
    norm = nn.LazyBatchNorm1d()
    assert running_statistics(norm) is None
    norm(torch.randn(4, 5))
    assert is_norm(norm)
    found = running_statistics(norm)
    assert found is not None
    assert found[0] is norm.running_mean


def test_statistics_of_another_form_are_none() -> None:
    own = Own()
    own.running_var = torch.ones(4)
    assert running_statistics(own) is None
    own.running_mean, own.running_var = torch.zeros(1, 3), torch.ones(1, 3)
    assert running_statistics(own) is None


def test_paths_are_those_of_the_model_without_a_compilers() -> None:
    net = nn.Sequential(nn.Linear(3, 3), torch.compile(nn.Sequential(nn.BatchNorm1d(3)), backend="eager"))  # type: ignore[arg-type]
    assert list(paths(net)) == [ROOT, "0", "1", "1.0"]
    assert paths(net)["1.0"] is net[1]._orig_mod[0]


# Kinds of noise.


class DropPath(nn.Module):
    """As of a library of vision models."""

    def __init__(self, drop_prob: float | None = 0.1) -> None:
        super().__init__()
        self.drop_prob = drop_prob


class StochasticDepth(nn.Module):
    """As of another."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p


class VariationalDropout(nn.Module):
    """Does not say with which chance."""


class MlpWithDropout(nn.Module):
    """Has one inside."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout()


DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
NOISES: dict[str, tuple[nn.Module, bool]] = {
    **{kind.__name__: (kind(0.1), True) for kind in DROPOUTS},
    **{f"{kind.__name__}-of-nothing": (kind(0.0), False) for kind in DROPOUTS},
    "Dropout-of-everything": (nn.Dropout(1), True),
    "LSTM": (nn.LSTM(3, 3, num_layers=2, dropout=0.1), True),
    "LSTM-of-one-layer": (nn.LSTM(3, 3), False),
    "LSTM-without": (nn.LSTM(3, 3, num_layers=2), False),
    "GRU": (nn.GRU(3, 3, num_layers=2, dropout=0.1), True),
    "RNN": (nn.RNN(3, 3, num_layers=2, dropout=0.1), True),
    "MultiheadAttention": (nn.MultiheadAttention(4, 2, dropout=0.1), True),
    "MultiheadAttention-without": (nn.MultiheadAttention(4, 2), False),
    "DropPath": (DropPath(), True),
    "DropPath-of-nothing": (DropPath(0.0), False),
    "DropPath-unknown": (DropPath(None), True),
    "StochasticDepth": (StochasticDepth(0.2), True),
    "VariationalDropout": (VariationalDropout(), True),
    "MlpWithDropout": (MlpWithDropout(), False),
    "RReLU": (nn.RReLU(), False),
    "Linear": (nn.Linear(3, 3), False),
    "TransformerEncoderLayer": (nn.TransformerEncoderLayer(4, 2), False),
}


@pytest.mark.parametrize(("module", "random"), NOISES.values(), ids=NOISES)
def test_every_kind_of_dropout_is_known(module: nn.Module, random: bool) -> None:
    assert is_random(module) is random
    assert is_random(module.eval()) is random, "whatever the mode"


def test_every_dropout_that_torch_has_is_tried() -> None:
    assert {kind.__name__ for kind in DROPOUTS} == set(nn.modules.dropout.__all__)


def test_scripted_dropout_is_known() -> None:
    assert is_random(scripted(nn.Dropout(0.1)))
    assert not is_random(scripted(nn.Dropout(0.0)))
    assert not is_random(scripted(nn.Linear(2, 2)))


def test_the_chance_may_change_meanwhile() -> None:
    drop = nn.Dropout(0.0)
    assert not is_random(drop)
    drop.p = 0.5
    assert is_random(drop)


# Calls.


class Calls(nn.Module):
    """A call, beside a norm whose statistics it may use."""

    def __init__(self, call: Callable[["Calls", Tensor], Any]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.call = call

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


class Seen:
    """What a watch has seen of one pass."""

    def __init__(
        self, net: nn.Module, *inputs: Any, functional: bool = True, moments: bool = False, mend: Any = None
    ) -> None:
        watch = NormWatch({}, mend)
        watch.moments = moments
        watch.start(net, functional=functional, running=lambda: True)
        try:
            self.out = net(*(inputs or (torch.ones(6, 4),)))
            watch.unhook()
            self.norms, self.noises = dict(watch.norms), dict(watch.noises)
        finally:
            watch.stop()


def of_call(call: Callable[[Calls, Tensor], Any], *, training: bool = False) -> Seen:
    return Seen(nn.Sequential(Calls(call)).train(training))


BATCH_NORMS: dict[str, tuple[Callable[[Calls, Tensor], Any], str, bool, bool]] = {
    "positional": (
        lambda own, x: F.batch_norm(x, own.norm.running_mean, own.norm.running_var, None, None, True),
        *("0.norm", True, False),
    ),
    "keyword": (
        lambda own, x: F.batch_norm(
            running_var=own.norm.running_var, training=True, input=x, running_mean=own.norm.running_mean
        ),
        *("0.norm", True, False),
    ),
    "torch": (
        lambda own, x: torch.batch_norm(
            x, None, None, own.norm.running_mean, own.norm.running_var, True, 0.1, 1e-5, False
        ),
        *("0.norm", True, False),
    ),
    "default": (
        lambda own, x: F.batch_norm(x, own.norm.running_mean, own.norm.running_var),
        *("0.norm", False, False),
    ),
    "no-statistics": (lambda own, x: F.batch_norm(x, None, None, training=True), "0/batch_norm", True, True),
    "torch-no-statistics": (
        lambda own, x: torch.batch_norm(x, None, None, None, None, True, 0.1, 1e-5, False),
        *("0/batch_norm", True, True),
    ),
    "of-nobody": (
        lambda own, x: F.batch_norm(x, torch.zeros(4), torch.ones(4), training=True),
        *("0/batch_norm", True, False),
    ),
}


@pytest.mark.parametrize(("call", "path", "by_batch", "designed"), BATCH_NORMS.values(), ids=BATCH_NORMS)
def test_every_spelling_of_batch_norm_is_seen_once(
    call: Callable[[Calls, Tensor], Any], path: str, by_batch: bool, designed: bool
) -> None:
    seen = of_call(call)
    (calls,) = seen.norms.values()
    assert (calls.path, calls.kind, calls.registered) == (path, "batch_norm", True)
    assert (calls.by_batch, calls.by_running, calls.calls) == (int(by_batch), int(not by_batch), 1)
    assert (calls.designed, calls.hard_coded) == (designed, by_batch and not designed)
    lines, first = inspect.getsourcelines(call)
    assert calls.source in {f"{FILE}:{first + index}" for index in range(len(lines))}
    assert calls.rows == 6
    assert seen.noises == {}


def test_a_function_called_twice_at_one_place_is_one_and_at_two_places_two() -> None:
    def twice(own: Calls, x: Tensor) -> None:
        for _ in range(2):
            F.batch_norm(x, None, None, training=True)
        F.batch_norm(x[:3], None, None, training=True)

    found = of_call(twice).norms
    assert [(path, calls.by_batch, calls.rows) for path, calls in found.items()] == [
        ("0/batch_norm", 2, 6),
        ("0/batch_norm.2", 1, 3),
    ]


@pytest.mark.parametrize("training", [True, False])
def test_a_module_is_seen_as_itself_and_not_as_the_call_within(training: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train(training)
    (calls,) = Seen(net).norms.values()
    assert (calls.path, calls.kind, calls.registered, calls.source) == ("1", "BatchNorm1d", True, "")
    assert (calls.by_batch, calls.by_running) == (int(training), int(not training))
    assert (calls.designed, calls.hard_coded, calls.rows) == (False, False, 6)


class HardCoded(nn.BatchNorm1d):
    """Asks for no mode."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True)


@pytest.mark.parametrize("training", [True, False])
def test_a_norm_that_always_normalises_by_the_batch_is_seen_to(training: bool) -> None:
    (calls,) = Seen(nn.Sequential(HardCoded(4)).train(training)).norms.values()
    assert (calls.path, calls.by_batch, calls.by_running, calls.hard_coded) == ("0", 1, 0, not training)
    assert calls.source.startswith(FILE) is not training


def test_a_norm_without_running_statistics_normalises_by_the_batch_by_design() -> None:
    (calls,) = Seen(nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)).eval()).norms.values()
    assert (calls.by_batch, calls.by_running, calls.designed, calls.hard_coded) == (1, 0, True, False)


def test_a_norm_of_the_users_is_not_accused_for_its_flag() -> None:
    own = Own().train()
    (calls,) = Seen(nn.Sequential(own), torch.ones(6, 3)).norms.values()
    assert (calls.kind, calls.by_batch, calls.by_running) == ("Own", 0, 1)


def test_gradients_are_noted() -> None:
    net = nn.Sequential(nn.BatchNorm1d(4))
    assert Seen(net).norms["0"].differentiated == 1
    with torch.no_grad():
        assert Seen(net).norms["0"].differentiated == 0


@pytest.mark.parametrize("training", [True, False])
def test_modules_that_nobody_registered_are_seen(training: bool) -> None:
    class Hides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = [nn.BatchNorm1d(4).train(training), nn.Dropout().train(training), nn.BatchNorm1d(4)]

        def forward(self, x: Tensor) -> Tensor:
            for each in self.hidden:
                x = each(x)
            return x

    seen = Seen(nn.Sequential(Hides()).eval())
    assert [(path, calls.registered, calls.by_batch) for path, calls in seen.norms.items()] == [
        ("0/BatchNorm1d", False, int(training)),
        ("0/BatchNorm1d.2", False, 1),
    ]
    assert [(path, noise.registered, noise.kind) for path, noise in seen.noises.items()] == (
        [("0/Dropout", False, "Dropout")] if training else []
    )


def test_norms_inside_of_scripted_modules_are_not_seen() -> None:
    seen = Seen(nn.Sequential(scripted(nn.Sequential(nn.BatchNorm1d(4), nn.Dropout()))))
    assert (seen.norms, seen.noises) == ({}, {})


# Noise.

DRAWS: dict[str, tuple[Callable[[Calls, Tensor], Any], str]] = {
    "default": (lambda own, x: F.dropout(x), "dropout"),
    "p": (lambda own, x: F.dropout(x, 0.1), "dropout"),
    "True": (lambda own, x: F.dropout(x, 0.1, True), "dropout"),
    "training=True": (lambda own, x: F.dropout(x, p=0.1, training=True), "dropout"),
    "in-place": (lambda own, x: F.dropout(x, inplace=True), "dropout"),
    "torch": (lambda own, x: torch.dropout(x, 0.1, True), "dropout"),
    "torch-train": (lambda own, x: torch.dropout(x, 0.1, train=True), "dropout"),
    "torch-in-place": (lambda own, x: torch.dropout_(x, 0.1, True), "dropout_"),
    "dropout1d": (lambda own, x: F.dropout1d(x), "dropout1d"),
    "dropout2d": (lambda own, x: F.dropout2d(x.view(6, 4, 1, 1)), "dropout2d"),
    "dropout3d": (lambda own, x: F.dropout3d(x.view(6, 4, 1, 1, 1)), "dropout3d"),
    "alpha": (lambda own, x: F.alpha_dropout(x, training=True), "alpha_dropout"),
    "feature-alpha": (lambda own, x: F.feature_alpha_dropout(x, 0.5, True), "feature_alpha_dropout"),
    "torch-alpha": (lambda own, x: torch.alpha_dropout(x, 0.5, True), "alpha_dropout"),
    "attention": (
        lambda own, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1),
        "scaled_dot_product_attention",
    ),
    "attention-positional": (
        lambda own, x: F.scaled_dot_product_attention(x, x, x, None, 0.1),
        "scaled_dot_product_attention",
    ),
}
SILENT: dict[str, Callable[[Calls, Tensor], Any]] = {
    "False": lambda own, x: F.dropout(x, 0.1, False),
    "training=False": lambda own, x: F.dropout(x, training=False),
    "self.training": lambda own, x: F.dropout(x, training=own.training),
    "p=0": lambda own, x: F.dropout(x, p=0.0),
    "p=0-positional": lambda own, x: F.dropout(x, 0, True),
    "alpha-default": lambda own, x: F.alpha_dropout(x),
    "feature-alpha-default": lambda own, x: F.feature_alpha_dropout(x),
    "torch-train": lambda own, x: torch.dropout(x, 0.1, train=False),
    "attention": lambda own, x: F.scaled_dot_product_attention(x, x, x),
    "attention-0": lambda own, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.0),
    "rrelu": lambda own, x: F.rrelu(x, training=True),
    "rand": lambda own, x: x + torch.rand_like(x),
}


@pytest.mark.parametrize(("call", "name"), DRAWS.values(), ids=DRAWS)
def test_every_call_that_draws_is_seen_where_it_stands(call: Callable[[Calls, Tensor], Any], name: str) -> None:
    seen = of_call(call)
    (noise,) = seen.noises.values()
    assert (noise.path, noise.kind, noise.registered) == (f"0/{name}", name, True)
    lines, first = inspect.getsourcelines(call)
    assert noise.source in {f"{FILE}:{first + index}" for index in range(len(lines))}
    assert seen.norms == {}


@pytest.mark.parametrize("call", SILENT.values(), ids=SILENT)
def test_a_call_that_draws_nothing_or_by_no_dropout_is_not_seen(call: Callable[[Calls, Tensor], Any]) -> None:
    assert of_call(call).noises == {}


class McDropout(nn.Dropout):
    """Asks for no mode."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, True)


@pytest.mark.parametrize("training", [True, False])
def test_a_dropout_that_always_draws_is_seen_to(training: bool) -> None:
    seen = Seen(nn.Sequential(McDropout(0.5), McDropout(0.0)).train(training))
    (noise,) = seen.noises.values()
    assert (noise.path, noise.kind) == (("0", "McDropout") if training else ("0/dropout", "dropout"))
    assert noise.source.startswith(FILE) is not training


@pytest.mark.parametrize("draws", [True, False])
def test_what_is_said_of_a_call_is_what_it_does(draws: bool) -> None:
    for call in (call for call, _ in DRAWS.values()) if draws else SILENT.values():
        if call in (SILENT["rrelu"], SILENT["rand"]):
            continue
        before = torch.get_rng_state()
        call(Calls(call).eval(), torch.ones(6, 4))
        assert torch.equal(before, torch.get_rng_state()) is not draws


@pytest.mark.parametrize(("module", "random"), NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("training", [True, False])
def test_a_module_that_draws_is_seen_as_itself_while_training(module: nn.Module, random: bool, training: bool) -> None:
    if type(module).__module__ == __name__:
        module.forward = lambda x: F.dropout(x, float(random), training)  # type: ignore[assignment,method-assign]
    net = nn.Sequential(module).train(training)
    shape = {"Dropout1d": (6, 4, 2), "Dropout2d": (6, 4, 2, 2), "Dropout3d": (6, 4, 2, 2, 2)}
    inputs = torch.ones(shape.get(type(module).__name__, (6, 3)))
    if isinstance(module, nn.MultiheadAttention):
        x = torch.ones(6, 2, 4)
        net.forward = lambda _: module(x, x, x, need_weights=False)  # type: ignore[method-assign]
    elif isinstance(module, nn.TransformerEncoderLayer):
        inputs = torch.ones(6, 2, 4)
    elif isinstance(module, MlpWithDropout):
        module.forward = module.drop.forward  # type: ignore[method-assign]
    seen = Seen(net, inputs)
    if isinstance(module, nn.TransformerEncoderLayer):
        layer = ["0.self_attn", "0.dropout1", "0.dropout", "0.dropout2"]
        assert list(seen.noises) == (layer if training else [])
    elif isinstance(module, MlpWithDropout):
        assert [noise.source != "" for noise in seen.noises.values()] == ([True] if training else [])
    else:
        expected = [("0", type(module).__name__, True, "")] if random and training else []
        assert [(n.path, n.kind, n.registered, n.source) for n in seen.noises.values()] == expected


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_is_seen_once_whichever_way_it_computes(need_weights: bool) -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            return self.attention(x, x, x, need_weights=need_weights)

    net = Attends()
    assert list(Seen(net, torch.ones(2, 6, 4)).noises) == ["attention"]
    assert Seen(net.eval(), torch.ones(2, 6, 4)).noises == {}


def test_functions_are_seen_only_if_that_is_asked_for() -> None:
    net = nn.Sequential(Calls(lambda own, x: F.dropout(F.batch_norm(x, None, None, training=True))), nn.Dropout())
    seen = Seen(net, functional=False)
    assert (list(seen.norms), list(seen.noises)) == ([], ["1"])


# Moments.


@pytest.mark.parametrize("shape", [(16, 5), (8, 5, 7), (4, 5, 3, 6), (2, 5, 3, 2, 4), (1, 5, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_moments_are_those_of_torch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    torch.manual_seed(0)
    inputs = (torch.randn(shape) * 3 + 100).to(dtype)
    norm = kind(5).to(dtype).eval()
    ((count, mean, variance),) = Seen(nn.Sequential(norm), inputs, moments=True).norms["0"].moments
    axes = [axis for axis in range(len(shape)) if axis != 1]
    expected = torch.var_mean(inputs.double(), axes, unbiased=False)
    assert count == inputs.numel() // 5
    assert torch.allclose(mean.double(), expected[1], rtol=1e-6)
    assert torch.allclose(variance.double(), expected[0], rtol=1e-4)


def test_moments_need_no_gradient_and_leave_the_inputs_as_they_are() -> None:
    inputs = torch.randn(8, 4, requires_grad=True)
    kept = inputs.detach().clone()
    ((_, mean, variance),) = Seen(nn.Sequential(nn.BatchNorm1d(4)).eval(), inputs, moments=True).norms["0"].moments
    assert not mean.requires_grad
    assert not variance.requires_grad
    assert torch.equal(inputs, kept)


def test_each_call_has_its_moments() -> None:
    norm = nn.BatchNorm1d(4).eval()
    moments = Seen(nn.Sequential(norm, norm), moments=True).norms["0"].moments
    assert [float(mean[0]) for _, mean, _ in moments] == [1.0, pytest.approx(1.0, abs=1e-4)]


@pytest.mark.parametrize(
    ("net", "inputs", "moments"),
    [
        (nn.BatchNorm1d(4), torch.ones(6, 4), True),
        (nn.BatchNorm1d(4).eval(), torch.ones(6, 4), False),
        (nn.BatchNorm1d(4, track_running_stats=False).eval(), torch.ones(6, 4), True),
        (nn.BatchNorm1d(4).eval(), torch.ones(0, 4), True),
    ],
    ids=["training", "not-asked-for", "no-statistics", "empty"],
)
def test_where_there_is_nothing_to_compare_there_are_no_moments(net: nn.Module, inputs: Tensor, moments: bool) -> None:
    assert Seen(nn.Sequential(net), inputs, moments=moments).norms["0"].moments == []


def test_the_smallest_batch_of_a_norm_counts_and_one_without_rows_does_not() -> None:
    class Thrice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.InstanceNorm1d(4, track_running_stats=True)

        def forward(self, x: Tensor) -> None:
            for each in (x, x[:2], x[:5]):
                self.norm(each)

    calls = Seen(Thrice(), torch.ones(6, 4, 3)).norms["norm"]
    assert (calls.rows, calls.calls) == (2, 3)


# Mending.


def test_modules_in_training_mode_are_put_right_before_they_run() -> None:
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout())

    def mend(module: nn.Module) -> None:
        module.training = False

    seen = Seen(net, torch.ones(6, 4), mend=mend)
    assert not any(module.training for module in net.modules())
    assert int(net[0].num_batches_tracked) == 0
    assert torch.equal(seen.out, torch.ones(6, 4) / (1 + 1e-5) ** 0.5)


# It stays out of the way.


def test_a_fault_inside_is_raised_by_stop_and_not_in_the_users_forward() -> None:
    class Odd(nn.BatchNorm1d):
        def __getattr__(self, name: str) -> Any:
            if name == "running_var" and inspect.stack()[1].function == "running_statistics":
                raise RuntimeError("odd")
            return super().__getattr__(name)

    net, watch = nn.Sequential(Odd(4)).eval(), NormWatch({})
    watch.start(net, functional=True, running=lambda: True)
    net(torch.ones(6, 4))
    with pytest.raises(RuntimeError, match=r"^odd$"):
        watch.stop()


def test_a_pass_is_forgotten_when_it_stops() -> None:
    net, watch = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout()), NormWatch({})
    watch.start(net, functional=True, running=lambda: True)
    net(torch.ones(6, 4))
    assert (list(watch.norms), list(watch.noises)) == (["0"], ["1"])
    watch.stop()
    assert (watch.norms, watch.noises) == ({}, {})


def test_numbers_and_draws_of_a_watched_pass_are_those_of_any_other() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), Calls(lambda own, x: F.dropout(x)))
    twin = copy.deepcopy(net)
    x = torch.randn(6, 4)
    torch.manual_seed(1)
    expected = twin(x)
    torch.manual_seed(1)
    assert torch.equal(Seen(net, x, moments=True).out, expected)
    assert torch.equal(net[1].running_var, twin[1].running_var)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda watch: pickle.loads(pickle.dumps(watch))])
def test_a_copy_of_a_watch_has_the_names_alone(copied: Callable[[NormWatch], NormWatch]) -> None:
    net, watch = nn.Sequential(Calls(lambda own, x: F.dropout(x))), NormWatch({})
    watch.start(net, functional=True, running=lambda: True)
    net(torch.ones(6, 4))
    twin = copied(watch)
    assert (twin.names, twin.norms, twin.noises) == (watch.names, {}, {})
    assert list(twin.names.values()) == ["0/dropout"]
    twin.stop()
    assert list(watch.noises) == ["0/dropout"]
    watch.stop()


def test_a_class_of_the_users_is_not_kept_alive() -> None:
    kind = type("PassingDropout", (nn.Module,), {})
    assert is_random(kind())
    passing = weakref.ref(kind)
    del kind
    gc.collect()
    assert passing() is None
