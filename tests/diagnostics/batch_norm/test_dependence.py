"""Whether a prediction depends on its batch, on plain modules; where samples lie in batches of every form."""

import contextlib
import re
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as in the programs that are tried

from lightning_diagnostics.diagnostics.batch_norm import dependence
from lightning_diagnostics.diagnostics.batch_norm.dependence import (
    SAMPLES,
    Axes,
    CannotTryError,
    Dependence,
    Trial,
    _halves,
    _sources,
    _taken,
    find_axes,
)

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


@contextlib.contextmanager
def state_kept(model: nn.Module) -> Iterator[None]:
    """What a step leaves is put back."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    try:
        yield
    finally:
        model.load_state_dict(before)
        torch.set_rng_state(random)


def trial(model: nn.Module, step: Callable[[Any], Any] | None = None, *, stage: str = "validation") -> Trial:
    return Trial(model, step or model, lambda: state_kept(model), stage, f"{stage}_step", {})


def compared(
    model: nn.Module, batch: Any, *, step: Callable[[Any], Any] | None = None, stage: str = "validation"
) -> Dependence | None:
    """What comes of a batch whose samples are stacked, as of a loader of the usual kind."""
    axes = find_axes(batch, batch_size=None, stacked=True)
    with torch.no_grad():
        return trial(model, step, stage=stage).compare(batch, axes)


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


def test_code_between_modules_is_the_step_itself() -> None:
    model = nn.ModuleDict({"one": nn.Linear(6, 6), "other": nn.Linear(6, 1)})

    def step(x: Tensor) -> None:
        hidden = model["one"](x)
        model["other"](hidden - hidden.mean(0))

    found = compared(model, draw(8, 6), step=step)
    assert found is not None
    assert (found.where, found.outputs) == ("self", ("other",))


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


def test_only_a_small_share_of_a_large_batch_is_tried() -> None:
    batch = draw(100, 6)
    found = compared(Model(bn_in_train_mode()), batch)
    assert found is not None
    assert found.samples == SAMPLES == 31


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


def test_the_step_runs_as_if_it_had_never_run() -> None:
    model = Model(bn_in_train_mode(), nn.Dropout())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    batch = draw(8, 6)
    kept = batch.clone()
    compared(model, batch)
    assert torch.equal(batch, kept)
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_step_that_writes_into_its_batch_does_not_write_into_the_users() -> None:
    model = Model(nn.ReLU())
    batch = draw(8, 6), torch.zeros(3)
    kept = [each.clone() for each in batch]

    def step(given: Any) -> None:
        model(given[0].mul_(2))
        given[1].add_(1)

    with torch.no_grad():
        trial(model, step).compare(batch, Axes(8, 8, False))
    assert all(torch.equal(a, b) for a, b in zip(batch, kept, strict=True))


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
        encoder(batch[0], src_key_padding_mask=batch[1] if masked else None)

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


def test_a_loss_is_no_prediction() -> None:
    class Loss(nn.CrossEntropyLoss):
        pass

    model = nn.ModuleDict({"net": nn.Linear(6, 3), "loss": Loss(weight=torch.ones(3), reduction="none")})

    def step(batch: Any) -> None:
        scores = model["net"](batch[0])
        model["loss"](scores / scores.norm(), batch[1])

    assert compared(model, (draw(8, 6), torch.arange(8) % 3), step=step) is None


@pytest.mark.parametrize("sick", [True, False], ids=["sick", "healthy"])
def test_what_predict_step_gives_back_is_a_prediction(sick: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 3))

    def step(x: Tensor) -> Tensor:
        scores = model(x)
        return scores.softmax(0 if sick else 1)

    found = compared(model, draw(8, 6), step=step, stage="prediction")
    assert (None if found is None else (found.where, found.outputs)) == (("self", ("self",)) if sick else None)
    if sick:
        assert compared(model, draw(8, 6), step=step) is None, "a validation step gives back what it likes"


def test_a_random_place_is_no_place() -> None:
    assert compared(Model(Does(lambda x: x + torch.rand(len(x), 1))), draw(8, 6)) is None


def test_places_are_not_tried_where_samples_may_lie_along_another_axis() -> None:
    model, batch = Model(Positions(0)), draw(8, 7, 6)
    with torch.no_grad():
        assert trial(model).compare(batch, Axes(8, 8, False)) is None
        assert trial(model).compare(batch, Axes(8, 8, True)) is not None


# What cannot be tried.


def cannot(model: nn.Module, batch: Any, step: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(CannotTryError, match=f"^{re.escape(words)}$"):
        compared(model, batch, step=step)


def test_a_step_that_fails_with_other_samples_cannot_be_tried() -> None:
    def step(x: Tensor) -> None:
        raise ValueError("17 is not 16")

    words = "validation_step fails with other samples (ValueError: 17 is not 16)"
    cannot(nn.Linear(6, 1), draw(8, 6), step, words)


def test_a_step_that_calls_no_module_that_gives_rows_cannot_be_tried() -> None:
    model = nn.ModuleList([nn.Linear(6, 1), nn.ReLU()])
    words = "no module that validation_step calls gives one row of numbers per sample"
    for step in (lambda x: None, lambda x: model[1](x), lambda x: model[0](x.mean(0))):
        cannot(model, draw(8, 6), step, words)


def test_a_step_that_does_not_look_at_its_batch_cannot_be_tried() -> None:
    model = nn.Linear(6, 1)
    words = "other samples in the batch do not change any output of a module"
    cannot(model, draw(8, 6), lambda x: model(torch.ones(8, 6)), words)
    cannot(model, torch.ones(8, 6), model, words)
    for constant in (0.0, float("nan")):
        broken = Model(Does(lambda x, constant=constant: x * constant))
        cannot(broken, draw(8, 6), broken, words)


def test_a_step_that_takes_long_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = nn.Linear(6, 1), []

    def step(x: Tensor) -> None:
        calls.append(model(x))

    monkeypatch.setattr(dependence, "_SECONDS", 0.0)
    words = "one validation_step takes 0 s, and it would have to run four times more"
    cannot(model, draw(8, 6), step, words)
    assert len(calls) == 1


def test_a_batch_that_has_to_be_sorted_is_tried_but_not_by_place() -> None:
    model = Model(First(nn.LSTM(6, 6, batch_first=True)))
    lengths = torch.tensor([7, 7, 6, 5, 5, 4, 3, 1])

    def step(batch: Any) -> None:
        packed = nn.utils.rnn.pack_padded_sequence(batch[0], batch[1], batch_first=True)  # it wants them sorted
        model.parts[0].layer(packed)
        model(batch[0])

    assert compared(model, (draw(8, 7, 6), lengths), step=step) is None


def test_an_interrupt_is_the_users() -> None:
    def step(x: Tensor) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compared(nn.Linear(6, 1), draw(8, 6), step=step)


def test_modules_in_training_mode_are_put_right_where_that_is_asked_for() -> None:
    model = Model(bn_in_train_mode())

    def mend(module: nn.Module) -> None:
        model.eval()

    with torch.no_grad():
        assert replace(trial(model), mend=mend).compare(draw(8, 6), Axes(8, 8, True)) is None


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
AXES = Axes(4, 3, True)


def test_samples_are_taken_out_of_batches_of_every_form() -> None:
    words = ["a", "b", "c", "d"]
    batch = {
        "tensor": X,
        "pair": (X, X.long()),
        "point": Point(X, words),
        "named": Pair(X, X),
        "list": [X, [X]],
        "words": words,
        "targets": [{"box": X[0]}, {"box": X[1]}, {"box": X[2]}, {"box": X[3]}],
        "ragged": [X[0, :1], X[1, :2], X[2], X[3]],
        "class": Batch(X, words),
        "ordered": OrderedDict(x=X),
        "of-no-sample": torch.ones(7),
        "number": 3,
        "text": "abcd",
        "none": None,
    }
    taken = _taken(batch, ORDER, AXES)
    rows = X[ORDER]
    assert torch.equal(taken["tensor"], rows)
    assert torch.equal(taken["pair"][0], rows)
    assert isinstance(taken["pair"], tuple)
    assert torch.equal(taken["pair"][1], rows.long())
    assert isinstance(taken["point"], Point)
    assert torch.equal(taken["point"].x, rows)
    assert taken["point"].y == ["c", "a", "a"]
    assert isinstance(taken["named"], Pair)
    assert torch.equal(taken["list"][1][0], rows)
    assert taken["words"] == ["c", "a", "a"]
    assert [each["box"].tolist() for each in taken["targets"]] == rows.tolist()
    assert [len(each) for each in taken["ragged"]] == [3, 1, 1]
    assert isinstance(taken["class"], Batch)
    assert torch.equal(taken["class"].x, rows)
    assert taken["class"].words == ["c", "a", "a"]
    assert isinstance(taken["ordered"], OrderedDict)
    assert torch.equal(taken["of-no-sample"], torch.ones(7))
    assert taken["of-no-sample"] is not batch["of-no-sample"]
    assert (taken["number"], taken["text"], taken["none"]) == (3, "abcd", None)


def test_as_many_tensors_as_samples_are_not_taken_for_one_each() -> None:
    taken = _taken([X, X + 1, X + 2, X + 3], ORDER, AXES)
    assert len(taken) == 4
    assert torch.equal(taken[3], (X + 3)[ORDER])


def test_samples_may_lie_along_the_second_axis() -> None:
    axes = find_axes((X.T, torch.ones(4)), batch_size=4, stacked=False)
    assert axes == Axes(4, 4, False)
    assert torch.equal(_taken(X.T, ORDER, axes), X.T[:, ORDER])
    assert (axes.of(X), axes.of(X.T), axes.of(torch.ones(3, 3, 4)), axes.of(torch.ones(()))) == (0, 1, None, None)


def test_stacked_samples_lie_along_the_first_axis_alone() -> None:
    assert (AXES.of(X), AXES.of(X.T), AXES.of(torch.ones(()))) == (0, None, None)


@pytest.mark.parametrize("form", [lambda x: x, lambda x: (x, x[:, 0]), lambda x: {"a": [x]}, lambda x: (x, "s", 1)])
@pytest.mark.parametrize("stacked", [True, False])
def test_the_samples_of_a_batch_are_found(form: Callable[[Tensor], Any], stacked: bool) -> None:
    assert find_axes(form(X), batch_size=4, stacked=stacked) == Axes(4, 4, stacked)


def test_stacked_samples_are_counted_and_not_believed() -> None:
    assert find_axes(X[:3], batch_size=4, stacked=True) == Axes(3, 3, True)
    assert find_axes(torch.ones(5, 5), batch_size=5, stacked=True) == Axes(5, 5, True)


@pytest.mark.parametrize(
    ("length", "samples"),
    [(2, 2), (10, 10), (11, 11), (12, 11), (16, 13), (30, 29), (31, 31), (32, 31), (1000, 31)],
)
def test_as_many_samples_are_tried_as_the_largest_prime_that_fits(length: int, samples: int) -> None:
    assert find_axes(torch.ones(length, 2), batch_size=None, stacked=True) == Axes(length, samples, True)


class Graph:
    """A class that is not known."""


@pytest.mark.parametrize(
    ("batch", "size", "stacked", "words"),
    [
        ({"x": X, "g": [Graph()]}, 4, True, "a batch holds an object of the class Graph"),
        (["a", 3], 4, True, "a batch holds no tensor"),
        (torch.ones(()), 4, False, "a batch holds no tensor"),
        ((X, X[:3]), 4, True, "the tensors of a batch have different numbers of samples"),
        (X, None, False, "the loader does not say how many samples a batch has"),
        (
            torch.ones(4, 4),
            4,
            False,
            "two axes of a tensor in a batch are 4 long, and either may be the samples",
        ),
        (X, 7, False, "no tensor of a batch has the loader's 7 samples along its first two axes"),
        (X[:1], 1, True, "a batch holds one sample only"),
        (X[:1], 1, False, "a batch holds one sample only"),
        (X[:0], 4, True, "a batch holds one sample only"),
    ],
)
def test_a_batch_whose_samples_cannot_be_told_apart_cannot_be_tried(
    batch: Any, size: int | None, stacked: bool, words: str
) -> None:
    with pytest.raises(CannotTryError, match=f"^{re.escape(words)}$"):
        find_axes(batch, batch_size=size, stacked=stacked)


def test_functions_that_mix_samples_are_found_whoever_calls_them() -> None:
    found = compared(Model(Does(lambda x: F.batch_norm(x, None, None, training=True))), draw(8, 6))
    assert found is not None
    assert found.where == "parts.0"
