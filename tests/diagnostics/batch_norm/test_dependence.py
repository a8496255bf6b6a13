"""Whether a prediction depends on its batch, on plain modules; where samples lie in batches of every form."""

import random
import re
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as in the programs that are tried
from torch.utils.data import DataLoader

from lightning_diagnostics import BatchNormGuard
from lightning_diagnostics.diagnostics.batch_norm import dependence, trying
from lightning_diagnostics.diagnostics.batch_norm.dependence import (
    AmbiguousError,
    CannotTryError,
    Dependence,
    Sampled,
    Samples,
    TooSlowError,
    Trial,
    _filled,
    _halves,
    _sources,
    find_samples,
)
from lightning_diagnostics.diagnostics.batch_norm.trying import Trying
from lightning_diagnostics.probes import CallKeeper
from tests.helpers import trainer

SIZES = [2, 3, 5, 8, 32]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Networks.


class Does(nn.Module):
    """A module that computes a function; it has a weight, and so predicts."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x * self.weight)


class Model(nn.Module):
    """Layers between two others, which are healthy."""

    def __init__(self, *parts: nn.Module, features: int = 6) -> None:
        super().__init__()
        self.before = nn.Linear(features, features)
        self.parts = nn.Sequential(*parts)
        self.after = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.parts(self.before(x)))


class First(nn.Module):
    """The first of what a layer gives."""

    def __init__(self, layer: nn.Module, **more: Any) -> None:
        super().__init__()
        self.layer, self.more = layer, more

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, **self.more)[0]


class SelfAttention(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self, **more: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, **more)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Positions(nn.Module):
    """Adds a learned vector by the place along an axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.table = nn.Embedding(64, 6)

    def forward(self, x: Tensor) -> Tensor:
        places = self.table(torch.arange(x.shape[self.axis]))
        return x + (places if self.axis == 1 else places.unsqueeze(1))


class Kept:
    """What plain modules may leave: their states, and torch's random numbers."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.state = {name: value.clone() for name, value in model.state_dict().items()}
        self.random = torch.get_rng_state()

    def drew(self) -> bool:
        return not torch.equal(torch.get_rng_state(), self.random)

    def restore(self) -> None:
        self.model.load_state_dict(self.state)
        torch.set_rng_state(self.random)


def trials(
    model: nn.Module,
    batch: Any,
    *,
    step: Callable[[Any], Any] | None = None,
    stacked: bool = True,
    batch_size: int | None = None,
) -> list[Trial]:
    """The calls that a step makes with a batch, to be tried."""
    samples = find_samples(batch, batch_size=batch_size, stacked=stacked)
    keeper = CallKeeper({}, samples.kept)
    keeper.start(model, functional=False, running=lambda: True)
    try:
        (step or model)(batch)
        keeper.unhook()
        calls = list(keeper.calls)
    finally:
        keeper.stop()
    traces = Kept(model)
    return [Trial(model, call, traces, "validation", {}, samples.count, samples.stacked) for call in calls]


@torch.no_grad()
def compared(model: nn.Module, batch: Any, **settings: Any) -> Dependence | None:
    """What comes of the only call of a step, with samples that are stacked, as of a loader of the usual kind."""
    (trial,) = trials(model, batch, **settings)
    try:
        return trial.compare()
    finally:
        trial.traces.restore()


# Sick.


def bn_in_train_mode() -> nn.Module:
    return nn.BatchNorm1d(6)


ROWS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "batch-norm-in-training-mode": (bn_in_train_mode, "parts.0", "samples"),
    "batch-norm-without-statistics": (lambda: nn.BatchNorm1d(6, track_running_stats=False), "parts.0", "samples"),
    "centred-over-the-batch": (lambda: Does(lambda x: x - x.mean(0)), "parts.0", "samples"),
    "softmax-over-the-batch": (lambda: Does(lambda x: x.softmax(0)), "parts.0", "samples"),
    "scaled-by-the-largest": (lambda: Does(lambda x: x / x.norm()), "parts.0", "samples"),
    "cumsum-over-the-batch": (lambda: Does(lambda x: x.cumsum(0)), "parts.0", "samples"),
    "each-with-its-neighbour": (lambda: Does(lambda x: x + x.roll(1, 0)), "parts.0", "samples"),
    "pairs": (lambda: Does(lambda x: x + torch.cat([x[1:], x[-1:]])), "parts.0", "samples"),
    "rows-and-columns-confused": (lambda: Does(lambda x: x.reshape(x.shape[1], -1).T), "parts.0", "samples"),
    "place-in-the-batch": (
        lambda: Does(lambda x: x + torch.linspace(0, 1, len(x)).unsqueeze(1)),
        "parts.0",
        "place",
    ),
}
SEQUENCES: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "lstm-without-batch-first": (lambda: First(nn.LSTM(6, 6)), "parts.0.layer", "samples"),
    "gru-without-batch-first": (lambda: First(nn.GRU(6, 6)), "parts.0.layer", "samples"),
    "attention-without-batch-first": (SelfAttention, "parts.0.attention", "samples"),
    "encoder-without-batch-first": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, 0.0), 1, enable_nested_tensor=False),
        "parts.0.layers.0.self_attn",
        "samples",
    ),
    "positions-along-the-batch": (lambda: Positions(0), "parts.0.table", "place"),
    "view-in-place-of-transpose": (
        lambda: Does(lambda x: x.reshape(x.shape[1], x.shape[0], -1).transpose(0, 1)),
        "parts.0",
        "samples",
    ),
    "normalised-over-batch-and-time": (
        lambda: Does(lambda x: (x - x.mean((0, 1))) / x.std((0, 1))),
        "parts.0",
        "samples",
    ),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("make", "where", "cause"), ROWS.values(), ids=ROWS)
def test_what_mixes_rows_is_named(make: Callable[[], nn.Module], where: str, cause: str, size: int) -> None:
    torch.manual_seed(0)
    found = compared(Model(make()), draw(size, 6))
    assert found is not None
    assert (found.where, found.cause) == (where, cause)
    assert found.change > 0.001
    assert (found.stage, found.outputs) == ("validation", ("self",))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("make", "where", "cause"), SEQUENCES.values(), ids=SEQUENCES)
def test_what_mixes_sequences_is_named(make: Callable[[], nn.Module], where: str, cause: str, size: int) -> None:
    torch.manual_seed(0)
    model = Model(make())
    model.eval()
    found = compared(model, draw(size, 7, 6))
    assert found is not None
    assert (found.where, found.cause) == (where, cause)
    assert found.change > 0.001


@torch.no_grad()
def test_each_call_is_tried_by_itself_and_code_between_them_is_not() -> None:
    model = nn.ModuleDict({"one": nn.Linear(6, 6), "other": nn.Linear(6, 1), "sick": nn.BatchNorm1d(1)})

    def step(x: Tensor) -> None:
        hidden = model["one"](x)
        model["sick"](model["other"](hidden - hidden.mean(0)))

    found = [trial.compare() for trial in trials(model, draw(8, 6), step=step)]
    assert [None if each is None else (each.where, each.outputs) for each in found] == [
        *(None, None),
        ("sick", ("sick",)),
    ]


def test_a_module_of_the_model_is_named_when_it_is_called_by_itself() -> None:
    model = nn.ModuleDict({"net": Model(bn_in_train_mode())})
    found = compared(model, draw(8, 6), step=lambda x: model["net"](x))
    assert found is not None
    assert (found.where, found.outputs) == ("net.parts.0", ("net",))


def test_the_first_guilty_module_is_named_and_not_those_behind_it() -> None:
    found = compared(Model(nn.Linear(6, 6), bn_in_train_mode(), nn.ReLU(), bn_in_train_mode()), draw(8, 6))
    assert found is not None
    assert found.where == "parts.1"


def test_a_module_without_weights_may_be_guilty_but_does_not_predict() -> None:
    guilty = Does(lambda x: x - x.mean(0))
    del guilty.weight
    guilty.weight = 1.0  # type: ignore[assignment]  # no parameter
    found = compared(Model(guilty), draw(8, 6))
    assert found is not None
    assert (found.where, found.outputs) == ("parts.0", ("self",))


def test_the_change_is_a_share_of_the_spread_whatever_the_units() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 1), Does(lambda x: x + 0.1 * x.mean(0)))
    batch = draw(32, 6)
    one = compared(model, batch)
    model[1].function = lambda x: 1000 * (x + 0.1 * x.mean(0))
    other = compared(model, batch)
    assert one is not None
    assert other is not None
    assert other.change == pytest.approx(one.change, rel=1e-3)
    assert 0.001 < one.change < 0.1


def test_what_is_kept_of_a_step_does_not_change_it() -> None:
    model = Model(bn_in_train_mode(), nn.Dropout())
    batch = draw(8, 6)
    kept = batch.clone()
    torch.manual_seed(0)
    expected = model(batch)
    given: list[Tensor] = []
    torch.manual_seed(0)
    with torch.no_grad():
        (trial,) = trials(model, batch, step=lambda x: given.append(model(x)))
    assert torch.equal(given[0], expected)
    assert trial.compare() is not None
    assert torch.equal(batch, kept)


def test_a_call_that_writes_into_its_arguments_does_not_write_into_the_users() -> None:
    class Writes(nn.Linear):
        def forward(self, x: Tensor, count: Tensor) -> Tensor:
            count.add_(1)
            return super().forward(x.mul_(2))

    model = Writes(6, 6)
    batch = draw(8, 6), torch.zeros(3)
    with torch.no_grad():
        (trial,) = trials(model, batch[0], step=lambda x: model(x, batch[1]))
        left = [each.clone() for each in batch]
        assert trial.compare() is None
    assert all(torch.equal(a, b) for a, b in zip(batch, left, strict=True))


def test_what_a_call_leaves_is_put_back_before_the_next() -> None:
    class Counts(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, 6)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return super().forward(x) * self.count

    assert compared(Counts(), draw(8, 6)) is None


@torch.no_grad()
def test_modules_are_in_the_mode_that_they_were_called_in() -> None:
    model = Model(bn_in_train_mode())

    def step(x: Tensor) -> None:
        model.train()(x)
        model.eval()(x)
        model.train()

    one, other = (trial.compare() for trial in trials(model, draw(8, 6), step=step))
    assert one is not None
    assert one.where == "parts.0"
    assert other is None


# Healthy.


class Several(nn.Module):
    """Gives its predictions in some form."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(6, 3), nn.Linear(6, 2)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.one(x), self.other(x))


@dataclass
class Output:
    """As of a library of language models."""

    logits: Tensor
    loss: Tensor | None = None


class Pair(NamedTuple):
    """Two predictions."""

    one: Tensor
    other: Tensor


FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda a, b: (a, b),
    "list": lambda a, b: [a, [b]],
    "dict": lambda a, b: {"a": a, "b": {"c": b}},
    "dataclass": lambda a, b: Output(a, None),
    "namedtuple": lambda a, b: Pair(a, b),
    "words-and-numbers": lambda a, b: {"a": a, "n": 3, "s": "s", "none": None},
}
ELSEWHERE = torch.Generator()
"""A generator that nobody puts back, so that two runs of one batch differ."""

HEALTHY: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 6)),
    "batch-norm-in-evaluation-mode": lambda: nn.BatchNorm1d(6).eval(),
    "layer-norm": lambda: nn.LayerNorm(6),
    "group-norm": lambda: nn.GroupNorm(2, 6),
    "softmax": lambda: Does(lambda x: x.softmax(1)),
    "similarity-of-all-pairs": lambda: Similar(),
    "dropout-in-training-mode": lambda: nn.Dropout(),
    "sampling": lambda: Does(lambda x: x + torch.randn_like(x)),
    "bernoulli": lambda: Does(lambda x: x + torch.bernoulli(x.sigmoid())),
    "numbers-from-elsewhere": lambda: Does(lambda x: x + torch.rand(x.shape, generator=ELSEWHERE)),
    "large-numbers": lambda: Does(lambda x: x * 1e30),
}
HEALTHY_SEQUENCES: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: First(nn.LSTM(6, 6, batch_first=True)),
    "gru": lambda: First(nn.GRU(6, 6, batch_first=True)),
    "attention": lambda: SelfAttention(batch_first=True),
    "positions": lambda: Positions(1),
    "layer-norm": lambda: nn.LayerNorm(6),
    "instance-norm": lambda: nn.InstanceNorm1d(7, affine=True),
    "conv": lambda: nn.Conv1d(7, 7, 3, padding=1),
    "cumsum-over-time": lambda: Does(lambda x: x.cumsum(1)),
    "noise-over-time": lambda: nn.Sequential(nn.Dropout1d(), nn.Linear(6, 6)).train(),
}


class Similar(nn.Module):
    """Compares all samples with all others, beside the predictions."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.scores: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        out = self.linear(x)
        self.scores = out @ out.T
        return out


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", HEALTHY.values(), ids=HEALTHY)
def test_what_keeps_rows_apart_is_passed_in_silence(make: Callable[[], nn.Module], size: int) -> None:
    torch.manual_seed(0)
    assert compared(Model(make()), draw(size, 6)) is None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", HEALTHY_SEQUENCES.values(), ids=HEALTHY_SEQUENCES)
def test_what_keeps_sequences_apart_is_passed_in_silence(make: Callable[[], nn.Module], size: int) -> None:
    torch.manual_seed(0)
    assert compared(Model(make()), draw(size, 7, 6)) is None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [True, False])
def test_an_encoder_with_a_padding_mask_is_passed_in_silence(masked: bool, size: int) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(6, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model = nn.Sequential(encoder).eval()
    padding = torch.arange(9).unsqueeze(0) >= torch.randint(2, 10, (size, 1))

    def step(batch: Any) -> None:
        encoder(src=batch[0], src_key_padding_mask=batch[1] if masked else None)

    assert compared(model, (draw(size, 9, 6), padding), step=step) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_networks_of_any_precision_are_passed_in_silence(dtype: torch.dtype, size: int) -> None:
    torch.manual_seed(0)
    model = Model(nn.Linear(6, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 6)).to(dtype)
    assert compared(model, draw(size, 6).to(dtype)) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_networks_of_any_precision_that_mix_samples_are_named(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    found = compared(Model(bn_in_train_mode()).to(dtype), draw(8, 6).to(dtype))
    assert found is not None
    assert found.where == "parts.0"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("sick", [True, False], ids=["sick", "healthy"])
def test_outputs_of_every_form_are_compared(form: Callable[[Tensor, Tensor], Any], sick: bool) -> None:
    torch.manual_seed(0)
    parts = [bn_in_train_mode()] if sick else []
    found = compared(nn.Sequential(*parts, Several(form)), draw(8, 6))
    assert (None if found is None else found.where) == ("0" if sick else None)


@pytest.mark.parametrize("sick", [True, False], ids=["sick", "healthy"])
def test_a_convolution_of_images_is_told_from_one_whose_norm_trains(sick: bool) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4).train(sick)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    found = compared(model, draw(8, 3, 9, 9))
    assert (None if found is None else found.where) == ("1" if sick else None)


def test_a_loss_is_not_tried() -> None:
    model = nn.ModuleDict({"net": nn.Linear(6, 3), "loss": nn.CrossEntropyLoss(torch.ones(3), reduction="none")})

    def step(batch: Any) -> None:
        scores = model["net"](batch[0])
        model["loss"](scores / scores.norm(), batch[1])

    assert compared(model, (draw(8, 6), torch.arange(8) % 3), step=step) is None


def test_a_random_place_is_no_place() -> None:
    assert compared(Model(Does(lambda x: x + torch.rand(len(x), 1))), draw(8, 6)) is None


def test_places_are_not_tried_where_samples_may_lie_along_another_axis() -> None:
    model, batch = Model(Positions(0)), draw(8, 7, 6)
    assert compared(model, batch, stacked=False, batch_size=8) is None
    assert compared(model, batch) is not None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sick", [True, False], ids=["sick", "healthy"])
def test_what_differs_by_rounding_is_the_same(sick: bool, size: int) -> None:
    torch.manual_seed(0)
    share = 0.01 if sick else 1e-7
    found = compared(Model(Does(lambda x: x + share * x.mean(0))), draw(size, 6))
    assert (found is not None) is sick


# Arguments.


class Given(nn.Module):
    """Takes its samples in whatever form."""

    def __init__(self, rows: Callable[..., Tensor], *, sick: bool) -> None:
        super().__init__()
        self.rows = rows
        self.linear = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6).train(sick)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.norm(self.linear(self.rows(*args, **kwargs)))


@dataclass
class Computed:
    """Has a field that it is not made with."""

    x: Tensor
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = 6


@dataclass(frozen=True)
class Frozen:
    """Cannot be set."""

    x: Tensor
    words: list[str]


class Graph:
    """A class that is not known."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


def lists(x: Tensor) -> defaultdict[str, list[Tensor]]:
    made: defaultdict[str, list[Tensor]] = defaultdict(list)
    made["x"].append(x)
    return made


GIVEN: dict[str, tuple[Callable[[nn.Module, Tensor], Any], Callable[..., Tensor]]] = {
    "keyword": (lambda m, x: m(x=x), lambda *, x: x),
    "keywords": (lambda m, x: m(x, scale=x[:, :1]), lambda x, scale: x * scale),
    "dict": (lambda m, x: m({"a": {"x": x}}), lambda given: given["a"]["x"]),
    "tuple": (lambda m, x: m((x, [x])), lambda given: given[0] + given[1][0]),
    "defaultdict": (lambda m, x: m(lists(x)), lambda given: given["x"][0] + len(given["absent"])),
    "ordered": (lambda m, x: m(OrderedDict(x=x)), lambda given: given["x"]),
    "field-without-init": (lambda m, x: m(Computed(x)), lambda given: given.x[:, : given.size]),
    "frozen": (lambda m, x: m(Frozen(x, ["a"] * 8)), lambda given: given.x),
    "named-tuple": (lambda m, x: m(Pair(x, x)), lambda given: given.one),
    "list-of-samples": (lambda m, x: m(list(x)), torch.stack),
    "tuple-of-samples": (lambda m, x: m(tuple(x)), torch.stack),
    "list-of-dicts": (lambda m, x: m([{"x": row} for row in x]), lambda given: torch.stack([e["x"] for e in given])),
    "ragged": (
        lambda m, x: m([row[: 1 + index % 3] for index, row in enumerate(x)]),
        lambda given: torch.stack([F.pad(row, (0, 6 - len(row))) for row in given]),
    ),
    "number": (lambda m, x: m(x, 2), lambda x, times: x * times),
    "size": (lambda m, x: m(x, len(x)), lambda x, size: x.reshape(size, 6)),
    "shape": (lambda m, x: m(x, x.shape), lambda x, shape: x.reshape(shape)),
    "words": (lambda m, x: m(x, "s", None, mode=True), lambda x, *_, mode: x),
    "function": (lambda m, x: m(x, torch.tanh), lambda x, act: act(x)),
    "not-samples": (lambda m, x: m(x, torch.ones(6)), lambda x, weight: x * weight),
    "time-first": (lambda m, x: m(torch.stack([x, x, x])), lambda x: x.mean(0)),
}


@pytest.mark.parametrize("size", [8, 31, 40])
@pytest.mark.parametrize("sick", [True, False], ids=["sick", "healthy"])
@pytest.mark.parametrize(("call", "rows"), GIVEN.values(), ids=GIVEN)
def test_calls_with_arguments_of_every_form_are_tried(
    call: Callable[[nn.Module, Tensor], Any], rows: Callable[..., Tensor], sick: bool, size: int
) -> None:
    torch.manual_seed(0)
    model = Given(rows, sick=sick)
    found = compared(model, draw(size, 6), step=lambda x: call(model, x))
    assert (None if found is None else found.where) == ("norm" if sick else None)


def pooled(scores: Callable[..., Tensor]) -> nn.Module:
    """One row for each sample, whatever the axes of what goes in."""
    return Given(scores, sick=False)


def causal(x: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, attn_mask=mask).mean(1)


ASIDE: dict[str, tuple[Callable[[nn.Module, Tensor], Any], Callable[..., Tensor]]] = {
    "mask": (
        lambda m, x: m(x, torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()),
        causal,
    ),
    "float-mask": (
        lambda m, x: m(x, nn.Transformer.generate_square_subsequent_mask(x.shape[1])),
        causal,
    ),
    "places": (
        lambda m, x: m(x, torch.arange(x.shape[1])),
        lambda x, places: (x * places.view(1, -1, 1)).mean(1),
    ),
    "weights": (
        lambda m, x: m(x, torch.linspace(0, 1, x.shape[1])),
        lambda x, weights: (x * weights.view(1, -1, 1)).mean(1),
    ),
    "numbers": (
        lambda m, x: m(x, tuple(range(1, 9))),
        lambda x, sizes: x.mean(1) * sizes[0] + x.std(1) * sizes[-1],
    ),
    "list-of-numbers": (
        lambda m, x: m(x, sizes=list(range(1, 9))),
        lambda x, sizes: x.mean(1) * sizes[0] + x.std(1) * sizes[-1],
    ),
    "time-first-view": (
        lambda m, x: m(x.transpose(0, 1)),
        lambda x: (x.cumsum(0) * x.roll(1, 0)).mean(0),
    ),
}


LIKE_SAMPLES = {
    *((name, 8) for name in ("float-mask", "places", "weights", "numbers", "list-of-numbers", "time-first-view")),
    *((name, 7) for name in ("numbers", "list-of-numbers")),
}
"""Those that are taken for samples."""


@pytest.mark.parametrize(
    ("call", "rows", "length"),
    [
        pytest.param(
            *case,
            length,
            id=f"{name}-{length}",
        )
        for name, case in ASIDE.items()
        for length in (7, 8)
    ],
)
def test_arguments_that_are_as_long_as_the_batch_by_chance_are_no_samples(
    call: Callable[[nn.Module, Tensor], Any], rows: Callable[..., Tensor], length: int
) -> None:
    torch.manual_seed(0)
    model = pooled(rows)
    for trial in trials(model, draw(8, length, 6), step=lambda x: call(model, x)):
        assert trial.compare() is None


class Stateful(nn.Module):
    """Is given the state that it begins with."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 6, batch_first=True)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        return self.lstm(x, state)[0]


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 32])
def test_a_state_that_is_given_is_passed_in_silence(size: int) -> None:
    torch.manual_seed(0)
    model = Stateful()
    state = draw(1, size, 6, seed=1), draw(1, size, 6, seed=2)
    found = trials(model, draw(size, 7, 6), step=lambda x: model(x, state))
    assert len(found) == (size > 4)  # else it may be channels
    assert [each.compare() for each in found] == [None] * len(found)


@pytest.mark.parametrize("make", [lambda: Pair(1, 2), lambda: (1, 2), lambda: [1, 2]])  # type: ignore[arg-type]
def test_two_numbers_are_not_those_of_two_samples(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model = Given(lambda x, numbers: x * numbers[0] + x.flip(1) * numbers[1], sick=False)
    assert compared(model, draw(2, 6), step=lambda x: model(x, make())) is None


def test_a_call_that_writes_into_one_item_for_each_sample_does_not_write_into_the_users() -> None:
    given = [{"x": row} for row in draw(8, 6)]
    model = Given(lambda items: torch.stack([item["x"].mul_(2) for item in items]), sick=False)
    with torch.no_grad():
        (trial,) = trials(model, draw(8, 6), step=lambda x: model(given))
        left = [item["x"].clone() for item in given]
        assert trial.compare() is None
    assert all(torch.equal(item["x"], row) for item, row in zip(given, left, strict=True))


def test_items_that_the_step_writes_into_later_are_kept_as_they_were() -> None:
    model = Given(torch.stack, sick=True)

    def step(x: Tensor) -> None:
        rows = list(x.clone())
        model(rows)
        for row in rows:
            row.zero_()

    found = compared(model, draw(8, 6), step=step)
    assert found is not None
    assert found.where == "norm"


def test_what_goes_in_by_keyword_goes_in() -> None:
    class Centres(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            return self.head(input=hidden - hidden.mean(0))

    found = compared(Centres(), draw(8, 6))
    assert found is not None
    assert found.where == "self"


def test_a_call_that_wants_the_whole_batch_gets_it() -> None:
    model = Given(lambda x, size: x.reshape(size, 6), sick=True)
    found = compared(model, draw(40, 6), step=lambda x: model(x, len(x)))
    assert found is not None
    assert found.samples == 40


def test_a_call_with_no_samples_that_are_known_is_not_kept() -> None:
    model = Given(lambda given: given.x, sick=True)
    assert trials(model, draw(8, 6), step=lambda x: model(Graph(x))) == []
    assert trials(model, draw(8, 6), step=lambda x: model(Graph(torch.ones(3, 6)))) == []


def test_arguments_are_kept_as_the_step_gave_them() -> None:
    model = Model(nn.ReLU())

    def step(x: Tensor) -> None:
        given = x.clone()
        model(given)
        given.zero_()  # all samples would be one

    assert compared(model, draw(8, 6), step=step) is None


# What cannot be tried.


def cannot(model: nn.Module, batch: Any, words: str, **settings: Any) -> None:
    with pytest.raises(CannotTryError, match=f"^{re.escape(words)}$"):
        compared(model, batch, **settings)


def test_a_call_that_fails_with_other_samples_cannot_be_tried() -> None:
    class Once(nn.Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 1:
                raise ValueError("17 is not 16")
            return super().forward(x)

    cannot(Once(6, 1), draw(8, 6), "Once fails with other samples (ValueError: 17 is not 16)")


def test_a_call_that_gives_no_rows_cannot_be_tried() -> None:
    words = "no module that the step calls gives one row of numbers per sample"
    cannot(Model(Does(lambda x: x.mean(0))), draw(8, 6), words)
    assert trials(Does(lambda x: None), draw(8, 6)) == []
    assert trials(nn.Linear(6, 1), draw(8, 6), step=lambda x: None) == []


def test_a_call_that_does_not_look_at_its_samples_cannot_be_tried() -> None:
    words = "other samples in the batch do not change any output of a module"
    cannot(Model(), torch.ones(8, 6), words)
    for constant in (0.0, float("nan")):
        cannot(Model(Does(lambda x, constant=constant: x * constant)), draw(8, 6), words)


def test_a_call_that_takes_long_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    model = Does(lambda x: calls.append(1) or x)
    monkeypatch.setattr(dependence, "SECONDS", 0.0)
    with pytest.raises(TooSlowError, match=r"^a call of self takes 0 s, and would be made four times more$"):
        compared(model, draw(8, 6))
    assert len(calls) == 2


def test_of_calls_that_take_too_long_together_no_more_are_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Many(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(nn.Sequential(nn.Linear(32, 2)) for _ in range(3))
            for index, part in enumerate(self.parts):
                part.register_forward_hook(lambda *args, index=index: calls.append(index))

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            for part in self.parts:
                part(batch)

    monkeypatch.setattr(trying, "SECONDS", 0.0)
    guard = BatchNormGuard(strict=True)
    loader = DataLoader(RandomDataset(32, 16), batch_size=16)
    trainer(guard).validate(Many(), loader, verbose=False)
    assert [calls.count(index) for index in range(3)] == [6, 1, 1]
    calls.clear()
    monkeypatch.setattr(dependence, "SECONDS", 0.0)
    trainer(BatchNormGuard(strict=True)).validate(Many(), loader, verbose=False)
    assert [calls.count(index) for index in range(3)] == [2, 1, 1]


def test_a_batch_that_has_to_be_sorted_is_tried_but_not_by_place() -> None:
    class Packs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(6, 6, batch_first=True)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)  # it wants them sorted
            return self.lstm(packed)[1][0][-1] + torch.arange(len(x)).unsqueeze(1)

    model = Packs()
    batch = draw(8, 7, 6), torch.tensor([7, 7, 6, 5, 5, 4, 3, 1])
    assert compared(model, batch, step=lambda given: model(*given)) is None


def test_an_interrupt_is_the_users() -> None:
    class Interrupted(nn.Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 1:
                raise KeyboardInterrupt
            return super().forward(x)

    with pytest.raises(KeyboardInterrupt):
        compared(Interrupted(6, 1), draw(8, 6))


# In a Trainer.


class Tries(Callback):
    """Tries the first batch of a validation."""

    def __init__(self) -> None:
        self.trying: Trying | None = None
        self.found: Dependence | None = None
        self.reason: str | None = None

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.trying = Trying(trainer, pl_module, batch, dataloader_idx, {})

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        assert self.trying is not None
        try:
            self.found = self.trying.compare(trainer, pl_module, "validation")
        except CannotTryError as fault:
            self.reason = str(fault)


class Validates(LightningModule):
    """Validates a network; it holds generators of its own."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.draws = torch.Generator().manual_seed(1)
        self.numpy_draws = np.random.default_rng(1)
        self.state_draws = np.random.RandomState(1)
        self.python_draws = random.Random(1)
        self.before = nn.Linear(6, 6)
        self.net = Does(lambda x: function(self, x))
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.before(x))

    def validation_step(self, x: Tensor, batch_idx: int) -> None:
        self.steps += 1
        self(x)


def tried(module: LightningModule, size: int = 8) -> Tries:
    torch.manual_seed(0)
    tries = Tries()
    data = torch.utils.data.DataLoader(draw(size, 6), batch_size=size)  # type: ignore[arg-type]  # rows
    trainer(tries, max_epochs=1).validate(module, data, verbose=False)
    return tries


DRAWS: dict[str, Callable[[Any, Tensor], Any]] = {
    "torch": lambda m, x: torch.rand(len(x)),
    "numpy": lambda m, x: np.random.rand(len(x)),
    "python": lambda m, x: [random.random() for _ in x],
    "own-torch": lambda m, x: torch.rand(len(x), generator=m.draws),
    "own-numpy": lambda m, x: m.numpy_draws.random(len(x)),
    "own-numpy-state": lambda m, x: m.state_draws.rand(len(x)),
    "own-python": lambda m, x: [m.python_draws.random() for _ in x],
}


@pytest.mark.parametrize("draws", DRAWS.values(), ids=DRAWS)
def test_random_numbers_by_place_are_passed_in_silence_whoever_draws_them(
    draws: Callable[[Any, Tensor], Any],
) -> None:
    tries = tried(Validates(lambda m, x: x + torch.as_tensor(draws(m, x), dtype=x.dtype).unsqueeze(1)))
    assert (tries.found, tries.reason) == (None, None)


@pytest.mark.parametrize("draws", DRAWS.values(), ids=DRAWS)
def test_what_mixes_samples_is_named_beside_random_numbers(draws: Callable[[Any, Tensor], Any]) -> None:
    def function(module: Any, x: Tensor) -> Tensor:
        return x.cumsum(0) + torch.as_tensor(draws(module, x), dtype=x.dtype).unsqueeze(1)

    found = tried(Validates(function)).found
    assert found is not None
    assert (found.where, found.cause, found.outputs) == ("net", "samples", ("self",))


def test_fixed_numbers_by_place_are_named_in_a_trainer() -> None:
    found = tried(Validates(lambda m, x: x + torch.linspace(0, 1, len(x)).unsqueeze(1))).found
    assert found is not None
    assert (found.where, found.cause, found.outputs) == ("net", "place", ("self",))


def test_the_users_step_runs_once_and_weights_are_not_written_to() -> None:
    def function(module: Any, x: Tensor) -> Tensor:
        if module.net.calls:
            module.before.weight.data.add_(1)
        module.net.calls.append(1)
        return x.cumsum(0)

    module = Validates(function)
    module.net.calls = []
    weight = module.before.weight.detach().clone()
    tries = tried(module)
    assert tries.found is None
    assert tries.reason == (
        "Validates fails with other samples (LearningError: the step writes to weights (aten::add_.Tensor))"
    )
    assert (module.steps, module.net.calls) == (1, [1])
    assert torch.equal(module.before.weight, weight)


# Which samples stay.


@pytest.mark.parametrize("count", range(2, 40))
def test_halves_are_complementary_and_not_empty(count: int) -> None:
    one, other = _halves(count)
    assert torch.equal(one, ~other)
    assert (int(one.sum()), int(other.sum())) == (count // 2, count - count // 2)
    assert torch.equal(one, _halves(count)[0]), "it draws nothing from a generator"


@pytest.mark.parametrize("count", range(2, 40))
def test_the_others_are_replaced_by_their_neighbours_in_order(count: int) -> None:
    for keep in _halves(count):
        order = _sources(keep)
        places = torch.arange(count)
        assert torch.equal(order[keep], places[keep])
        assert bool((order[~keep] != places[~keep]).all())
        assert bool(keep[order].all()), "of those that stay"
        assert bool((order.diff() >= 0).all()), "what is sorted stays sorted"


# Batches.


@dataclass(frozen=True)
class Batch:
    """As of a library of graphs."""

    x: Tensor
    words: list[str]


Point = namedtuple("Point", ["x", "y"])  # both kinds are in use
ORDER = torch.tensor([2, 0, 0])
X = torch.arange(12.0).reshape(4, 3)
SAMPLES = Samples(4, stacked=True)


def taken(value: Any, samples: Samples = SAMPLES) -> Any:
    """Some of the samples of arguments."""
    kept = samples.kept(((), {"value": value}))
    assert kept is not None
    return _filled(kept, ORDER)[1]["value"]


def test_samples_are_taken_out_of_arguments_of_every_form() -> None:
    words = ["a", "b", "c", "d"]
    given = {
        "tensor": X,
        "pair": (X, X.long()),
        "point": Point(X, words),
        "named": Pair(X, X),
        "list": [X, [X]],
        "words": words,
        "targets": [{"box": X[0]}, {"box": X[1]}, {"box": X[2]}, {"box": X[3]}],
        "class": Batch(X, words),
        "computed": Computed(X),
        "ordered": OrderedDict(x=X),
        "lists": lists(X),
        "of-no-sample": torch.ones(7),
        "number": 4,
        "text": "abcd",
        "none": None,
    }
    some = taken(given)
    rows = X[ORDER]
    assert torch.equal(some["tensor"], rows)
    assert torch.equal(some["pair"][0], rows)
    assert isinstance(some["pair"], tuple)
    assert torch.equal(some["pair"][1], rows.long())
    assert isinstance(some["point"], Point)
    assert torch.equal(some["point"].x, rows)
    assert some["point"].y == ["c", "a", "a"]
    assert isinstance(some["named"], Pair)
    assert torch.equal(some["list"][1][0], rows)
    assert some["words"] == ["c", "a", "a"]
    assert [each["box"].tolist() for each in some["targets"]] == rows.tolist()
    assert isinstance(some["class"], Batch)
    assert torch.equal(some["class"].x, rows)
    assert some["class"].words == ["c", "a", "a"]
    assert isinstance(some["computed"], Computed)
    assert torch.equal(some["computed"].x, rows)
    assert some["computed"].size == 6
    assert isinstance(some["ordered"], OrderedDict)
    assert isinstance(some["lists"], defaultdict)
    assert some["lists"].default_factory is list
    assert torch.equal(some["lists"]["x"][0], rows)
    assert torch.equal(some["of-no-sample"], torch.ones(7))
    assert some["of-no-sample"] is not given["of-no-sample"]
    assert (some["number"], some["text"], some["none"]) == (4, "abcd", None)
    assert given["computed"].x is X
    assert given["lists"]["x"][0] is X
    assert given["class"].words is words


def test_as_many_tensors_as_samples_are_not_taken_for_one_each() -> None:
    some = taken([X, X + 1, X + 2, X + 3])
    assert len(some) == 4
    assert torch.equal(some[3], (X + 3)[ORDER])


@pytest.mark.parametrize("value", [torch.ones(3, 3), {"a": [1, 2]}, (), None, Graph(X), [Graph(X)], torch.ones(())])
def test_arguments_without_samples_are_not_kept(value: Any) -> None:
    assert SAMPLES.kept(((value,), {})) is None
    assert SAMPLES.kept(((), {"value": value})) is None


def test_arguments_that_cannot_be_made_anew_are_not_kept() -> None:
    class Closed(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            raise TypeError("closed")

    assert SAMPLES.kept(((Closed(x=X),), {})) is None


def test_a_sample_may_stand_for_another() -> None:
    assert torch.equal(Sampled(X.T, 1).take(ORDER), X.T[:, ORDER])
    assert Sampled(("a", "b", "c"), None).take(ORDER) == ("c", "a", "a")


def _axis(samples: Samples, tensor: Tensor) -> Any:
    try:
        return samples.axis(tensor)
    except AmbiguousError:
        return "?"


def test_samples_may_lie_along_the_second_axis() -> None:
    wide = torch.ones(3, 7)
    samples = find_samples((wide, torch.ones(7)), batch_size=7, stacked=False)
    assert (samples.count, samples.stacked) == (7, False)
    given = (wide.T, torch.ones(3, 3, 7), torch.ones(()), torch.ones(2, 7, 4), wide, torch.ones(7, 7), torch.ones(7))
    assert [_axis(samples, each) for each in given] == [0, None, None, 1, "?", "?", "?"]


def test_few_samples_are_not_looked_for_along_the_second_axis() -> None:
    for count in (2, 3, 4):
        samples = Samples(count, stacked=False)
        assert _axis(samples, torch.ones(count, 9)) == 0
        assert _axis(samples, torch.ones(9, count, 9)) == "?", "channels, maybe"
    assert _axis(Samples(5, stacked=False), torch.ones(9, 5, 9)) == 1


def test_of_two_axes_that_are_as_long_the_first_has_the_samples_of_a_tensor_of_the_batch() -> None:
    batch = torch.ones(7, 7, 3)
    samples = find_samples(batch, batch_size=7, stacked=True)
    assert _axis(samples, batch) == 0
    assert _axis(samples, batch.clone()) == "?"
    assert _axis(samples, batch.transpose(0, 1)) == "?"
    assert _axis(find_samples(batch, batch_size=7, stacked=False), batch) == "?"


@pytest.mark.parametrize("form", [lambda x: x, lambda x: (x, x[:, 0]), lambda x: {"a": [x]}, lambda x: (x, "s", 1)])
@pytest.mark.parametrize("stacked", [True, False])
def test_the_samples_of_a_batch_are_found(form: Callable[[Tensor], Any], stacked: bool) -> None:
    samples = find_samples(form(X), batch_size=4, stacked=stacked)
    assert (samples.count, samples.stacked) == (4, stacked)


def test_stacked_samples_are_counted_and_not_believed() -> None:
    assert find_samples(X[:3], batch_size=4, stacked=True).count == 3


@pytest.mark.parametrize(
    ("length", "samples"),
    [(3, 3), (10, 10), (11, 11), (12, 11), (16, 13), (30, 29), (31, 31), (32, 31), (100, 31)],
)
def test_as_many_samples_are_tried_as_the_largest_prime_that_fits(length: int, samples: int) -> None:
    found = compared(Model(bn_in_train_mode()), draw(length, 6))
    assert found is not None
    assert found.samples == samples


@pytest.mark.parametrize(
    ("batch", "size", "stacked", "words"),
    [
        (["a", 3], 4, True, "a batch holds no tensor"),
        (torch.ones(()), 4, False, "a batch holds no tensor"),
        (Graph(X), 4, True, "a batch holds no tensor"),
        ((X, X[:3]), 4, True, "the tensors of a batch have different numbers of samples"),
        (X, None, False, "the loader does not say how many samples a batch has"),
        (X[:1], 1, True, "a batch holds one sample only"),
        (X[:1], 1, False, "a batch holds one sample only"),
        (X[:0], 4, True, "a batch holds one sample only"),
    ],
)
def test_a_batch_whose_samples_cannot_be_told_apart_cannot_be_tried(
    batch: Any, size: int | None, stacked: bool, words: str
) -> None:
    with pytest.raises(CannotTryError, match=f"^{re.escape(words)}$"):
        find_samples(batch, batch_size=size, stacked=stacked)


def test_functions_that_mix_samples_are_found_whoever_calls_them() -> None:
    found = compared(Model(Does(lambda x: F.batch_norm(x, None, None, training=True))), draw(8, 6))
    assert found is not None
    assert found.where == "parts.0"
