"""One pass through the data of an evaluation: what does what is done in training, since where, and the statistics."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as in the programs that are watched

from lightning_diagnostics.diagnostics.batch_norm.evaluation import Evaluation, Seen
from lightning_diagnostics.diagnostics.batch_norm.measure import Design, WrongMode, of_batches
from lightning_diagnostics.diagnostics.batch_norm.modes import Flip, Modes
from lightning_diagnostics.probes import NormWatch

FILE = __file__.rpartition("/")[2]


class Net(nn.Module):
    """Two norms and a dropout, and what a test does beside them."""

    def __init__(self, beside: Callable[["Net", Tensor], Any] | None = None) -> None:
        super().__init__()
        self.first, self.norm, self.act = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()
        self.drop, self.second = nn.Dropout(), nn.BatchNorm1d(4)
        self.beside = beside

    def forward(self, x: Tensor) -> Tensor:
        if self.beside is not None:
            self.beside(self, x)
        return self.second(self.drop(self.act(self.norm(self.first(x)))))


class Evaluated:
    """An evaluation of a model, batch by batch."""

    def __init__(self, net: nn.Module, *, watched: bool = True, overridden: bool = False, **more: Any) -> None:
        self.net = net
        self.modes = Modes()
        self.modes.take_up(net)
        self.watch = NormWatch({}) if watched else None
        kinds = {"stage": "validation", "hook": "validation", "broadcast": False, **more}
        self.of = Evaluation(
            self.modes,
            **kinds,
            inside=f"{kinds['hook']}_step",
            overridden=overridden,
            watch=self.watch,
        )

    def batch(
        self,
        index: int,
        *,
        act: Callable[[], Any] | None = None,
        look: bool = True,
        rows: int = 16,
        functional: bool = True,
    ) -> Seen:
        self.of.begin(index, look=look)
        if self.watch is not None and look:
            self.watch.moments = True
            self.watch.start(self.net, functional=functional, running=lambda: True)
        inputs = torch.randn(rows, 4)
        with torch.no_grad():
            (act or (lambda: self.net(inputs)))()
        return self.of.end(index, step=7)


def is_nothing(seen: Seen) -> bool:
    return (seen.norms, seen.noises, seen.designs) == ([], [], [])


def wrong(where: str = "norm", kind: str = "BatchNorm1d", **more: Any) -> WrongMode:
    return WrongMode(
        **{
            "where": where,
            "layers": (where,),
            "kind": kind,
            "stage": "validation",
            "step_name": "validation_step",
            "place": "set before the first batch",
            "cause": "before",
            "step": 7,
            "moved": kind.startswith("Batch"),
            **more,
        }
    )


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "compiled"])
def test_a_model_in_evaluation_mode_shows_nothing(watched: bool) -> None:
    evaluated = Evaluated(Net().eval(), watched=watched)
    assert all(is_nothing(evaluated.batch(index)) for index in range(3))


# Modes.


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "compiled"])
@pytest.mark.parametrize(
    ("overridden", "place", "cause"),
    [
        (False, "set before the first batch", "before"),
        (True, "on_validation_model_eval is overridden and leaves it so", "hook"),
    ],
)
def test_a_model_that_is_in_training_mode_from_the_start_is_told_of_whole(
    watched: bool, overridden: bool, place: str, cause: str
) -> None:
    evaluated = Evaluated(Net(), watched=watched, overridden=overridden)
    seen = evaluated.batch(0)
    assert seen.norms == [wrong("norm", place=place, cause=cause), wrong("second", place=place, cause=cause)]
    assert seen.noises == [wrong("drop", "Dropout", place=place, cause=cause)]
    assert seen.designs == []


def test_a_mode_that_flips_after_the_start_and_before_the_first_batch_is_a_hooks() -> None:
    evaluated = Evaluated(Net().eval(), overridden=True)
    evaluated.net.train()
    assert evaluated.batch(0).norms[0] == wrong()


def test_a_mode_that_flips_between_batches_is_told_of_with_both() -> None:
    evaluated = Evaluated(Net().eval())
    for index in (0, 1):
        assert is_nothing(evaluated.batch(index))
    evaluated.net.norm.train()
    (seen,) = evaluated.batch(2).norms
    assert seen == wrong(place="set between batches 1 and 2, by a hook or a callback", cause="between", batch=2)


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "compiled"])
def test_a_step_that_calls_train_is_told_of(watched: bool) -> None:
    evaluated = Evaluated(Net().eval(), watched=watched)
    evaluated.batch(0)

    def step() -> None:
        evaluated.net.train()
        evaluated.net(torch.randn(16, 4))

    seen = evaluated.batch(1, act=step)
    inside = {"place": "set inside validation_step, in batch 1", "cause": "inside", "batch": 1}
    assert seen.norms == [wrong("norm", **inside), wrong("second", **inside)]
    assert (seen.noises == [wrong("drop", "Dropout", **inside)]) is watched, "without a look no dropout is seen to run"
    (again, _) = evaluated.batch(2).norms
    assert (again.place, again.batch) == ("set inside validation_step, in batch 1", 2)


def test_a_step_that_calls_train_and_eval_is_told_of() -> None:
    evaluated = Evaluated(Net().eval())

    def step() -> None:
        evaluated.net.norm.train()
        evaluated.net(torch.randn(16, 4))
        evaluated.net.norm.eval()

    (seen,) = evaluated.batch(0, act=step).norms
    assert seen == wrong(place="set inside validation_step, in batch 0, and put back", cause="inside")


def test_a_norm_in_training_mode_that_is_not_called_is_not_told_of() -> None:
    evaluated = Evaluated(Net().eval())
    evaluated.net.norm.train()
    evaluated.net.drop.train()
    assert is_nothing(evaluated.batch(0, act=lambda: evaluated.net.second(torch.randn(16, 4))))


def test_where_calls_cannot_be_seen_a_flag_is_enough() -> None:
    evaluated = Evaluated(Net().eval(), watched=False)
    evaluated.net.norm.train()
    evaluated.net.drop.train()
    seen = evaluated.batch(0, act=lambda: None)
    assert seen.norms == [wrong(moved=False)]
    assert seen.noises == [wrong("drop", "Dropout")]


def test_a_batch_that_is_not_looked_at_still_shows_norms_that_move_and_modules_that_were_seen_to_run() -> None:
    evaluated = Evaluated(Net().eval())
    evaluated.batch(0)
    evaluated.net.train()
    seen = evaluated.batch(1, look=False)
    assert [each.where for each in seen.norms] == ["norm", "second"]
    assert [each.moved for each in seen.norms] == [True, True], "the count of batches was written to"


def test_a_norm_without_a_count_that_moves_is_seen_at_a_look_alone() -> None:
    net = Net().eval()
    net.norm.num_batches_tracked = None
    evaluated = Evaluated(net, watched=False)

    def step() -> None:
        with torch.no_grad():
            net.norm.running_mean += 1

    assert is_nothing(evaluated.batch(0, act=step, look=False))
    (seen,) = evaluated.batch(1, act=step).norms
    assert seen == wrong(place="", cause="values", batch=1)


def scripted(*parts: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(nn.Sequential(*parts))


@pytest.mark.parametrize("called", [True, False])
def test_a_scripted_norm_in_training_mode_is_told_of_if_it_is_called(called: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 4), scripted(nn.BatchNorm1d(4), nn.Dropout())).eval()
    evaluated = Evaluated(net)
    evaluated.batch(0, act=None if called else lambda: net[0](torch.randn(8, 4)))
    net[1].train()
    seen = evaluated.batch(1, act=None if called else lambda: net[0](torch.randn(8, 4)))
    if not called:
        assert is_nothing(seen)
        return
    place = "set between batches 0 and 1, by a hook or a callback"
    assert seen.norms == [wrong("1.0", place=place, cause="between", batch=1)]
    assert seen.noises == [wrong("1.1", "Dropout", place=place, cause="between", batch=1)]


# Calls.


def test_a_call_that_asks_for_training_is_told_of_with_its_line() -> None:
    net = Net(lambda own, x: F.batch_norm(x, own.norm.running_mean, own.norm.running_var, training=True)).eval()
    (seen,) = Evaluated(net).batch(0).norms
    assert (seen.where, seen.kind, seen.cause, seen.moved) == ("norm", "batch_norm", "hard-coded", True)
    assert seen.source.startswith(f"{FILE}:")


def test_a_module_that_eval_does_not_reach_is_told_of() -> None:
    hidden = [nn.BatchNorm1d(4), nn.Dropout()]
    seen = Evaluated(Net(lambda own, x: hidden[1](hidden[0](x))).eval()).batch(0)
    place, cause = "it is no part of the model that eval() reaches", "unregistered"
    assert seen.norms == [wrong("self/BatchNorm1d", place=place, cause=cause, moved=False)]
    assert seen.noises == [wrong("self/Dropout", "Dropout", place=place, cause=cause)]


def test_a_function_that_draws_is_told_of_with_its_line() -> None:
    (seen,) = Evaluated(Net(lambda own, x: F.dropout(x)).eval()).batch(0).noises
    assert (seen.where, seen.kind, seen.cause) == ("self/dropout", "dropout", "hard-coded")
    assert seen.source.startswith(f"{FILE}:")


def test_a_function_is_seen_only_where_functions_are_watched() -> None:
    net = Net(lambda own, x: F.dropout(x)).eval()
    assert is_nothing(Evaluated(net).batch(0, functional=False))


def test_norms_without_running_statistics_are_designs() -> None:
    net = Net(lambda own, x: F.batch_norm(x, None, None, training=True)).eval()
    net.norm = nn.BatchNorm1d(4, track_running_stats=False)
    seen = Evaluated(net).batch(0)
    assert (seen.norms, seen.noises) == ([], [])
    function, module = seen.designs
    assert module == Design("norm", ("norm",), "BatchNorm1d", "", "validation", 7)
    assert (function.where, function.kind) == ("self/batch_norm", "batch_norm")
    assert function.source.startswith(f"{FILE}:")


# Groups.


def test_many_norms_that_flipped_at_one_place_are_one_finding_in_the_order_of_the_model() -> None:
    net = nn.Sequential(*[nn.BatchNorm1d(4) for _ in range(6)], nn.Dropout())
    for watched in (True, False):
        seen = Evaluated(nn.Sequential(net), watched=watched).batch(0)
        (norms,), (noise,) = seen.norms, seen.noises
        assert (norms.where, norms.layers) == ("0", tuple(f"0.{index}" for index in range(6)))
        assert noise.where == "0.6"


def test_norms_that_flipped_at_different_places_are_different_findings() -> None:
    net = nn.Sequential(*[nn.BatchNorm1d(4) for _ in range(10)])
    evaluated = Evaluated(nn.Sequential(net.eval()))
    evaluated.batch(0)
    net[:5].train()
    evaluated.batch(1)
    net[5:].train()
    one, other = evaluated.batch(2).norms
    assert (one.layers, other.layers) == (
        tuple(f"0.{index}" for index in range(5)),
        tuple(f"0.{index}" for index in range(5, 10)),
    )
    assert one.place == "set between batches 0 and 1, by a hook or a callback"
    assert other.place == "set between batches 1 and 2, by a hook or a callback"


# Mending.


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "compiled"])
def test_what_was_mended_is_told_of_once_with_where_it_was_set(watched: bool) -> None:
    evaluated = Evaluated(Net(), watched=watched)
    of, flip = evaluated.of, Flip("set here", "between")
    of.begin(0, look=True)
    of.mended = {"norm": flip, "drop": flip}
    evaluated.net.eval()
    evaluated.modes.mend(lambda path: True)
    if evaluated.watch is not None:
        evaluated.watch.start(evaluated.net, functional=True, running=lambda: True)
    evaluated.net(torch.randn(16, 4))
    seen = of.end(0, step=7)
    mended = {"place": "set here", "cause": "between", "mended": True}
    assert seen.norms == [wrong(moved=False, **mended)]
    assert seen.noises == [wrong("drop", "Dropout", **mended)]
    assert of.mended == {}


def test_a_flip_seen_in_the_middle_of_a_step_is_inside_of_it() -> None:
    evaluated = Evaluated(Net().eval())
    evaluated.of.begin(3, look=False)
    evaluated.net.train()
    evaluated.of.note_inside()
    assert evaluated.of.flip("norm") == Flip("set inside validation_step, in batch 3", "inside")


# Processes.


def test_buffers_that_are_broadcast_are_written_to_and_that_is_no_finding() -> None:
    evaluated = Evaluated(Net().eval(), broadcast=True, watched=False)

    def broadcast() -> None:
        with torch.no_grad():
            evaluated.net.norm.running_mean.fill_(2.0)
            evaluated.net.norm.num_batches_tracked.add_(1)

    assert is_nothing(evaluated.batch(0, act=broadcast))
    assert [each.where for each in evaluated.batch(1, act=broadcast).norms] == [], "it writes the same again"
    evaluated.net.norm.train()
    (seen,) = evaluated.batch(2).norms
    assert seen.moved


# Modes around it.


def test_closing_brings_back_the_training_around_it() -> None:
    net = Net()
    known = Modes()
    known.take_up(net)
    known.begin_training()
    net.norm.eval()
    known.note(Flip("set in training", "between", 3))
    of = Evaluation(
        known,
        stage="validation",
        hook="validation",
        inside="validation_step",
        overridden=False,
        watch=None,
        broadcast=False,
    )
    net.eval()
    of.begin(0, look=False)
    of.end(0, step=7)
    of.close()
    assert known.flip("norm") == Flip("set in training", "between", 3)
    assert known.fell_asleep() == ["norm"]


# Statistics.


@pytest.mark.parametrize("moments", [True, False])
def test_the_statistics_of_the_batches_that_were_looked_at_are_those_of_plain_torch(moments: bool) -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5))
    net(torch.randn(8, 3, 4, 4))
    evaluated = Evaluated(net.eval())
    batches = [index + torch.randn(rows, 3, 4, 4) * (1 + index) for index, rows in enumerate((8, 8, 2))]
    for index, each in enumerate(batches):
        evaluated.of.begin(index, look=True)
        assert evaluated.watch is not None
        evaluated.watch.moments = moments
        evaluated.watch.start(net, functional=False, running=lambda: True)
        net(each)
        evaluated.of.end(index, step=0)
    running, parts = evaluated.of.statistics()
    assert np.allclose(running["0"][0], net[0].running_mean.numpy())
    assert np.allclose(running["2"][1], net[2].running_var.numpy())
    if not moments:
        assert (parts, evaluated.of.rows) == ({}, {})
        return
    assert evaluated.of.rows == {"0": 18, "2": 18}
    assert [count for count, *_ in parts["2"]] == [8 * 16, 8 * 16, 2 * 16]
    whole = torch.cat(batches).double().transpose(0, 1).flatten(1)
    mean, variance = whole.mean(1).numpy(), whole.var(1, unbiased=False).numpy()
    shift = np.median(np.abs(mean - running["0"][0]) / np.sqrt(running["0"][1] + 1e-5))
    ratio = np.median(np.abs(np.log((variance + 1e-5) / (running["0"][1] + 1e-5))))
    assert of_batches(running["0"], parts["0"], eps=1e-5) == pytest.approx((shift, ratio), rel=1e-5)


def test_what_normalises_by_the_batch_leaves_no_statistics() -> None:
    evaluated = Evaluated(Net())
    evaluated.batch(0)
    running, parts = evaluated.of.statistics()
    assert (set(running), parts) == ({"norm", "second"}, {})
