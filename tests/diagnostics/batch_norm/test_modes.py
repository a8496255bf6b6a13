"""Which modules are in training mode, where that flipped, what is frozen, and what is put right."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_diagnostics.diagnostics.batch_norm.modes import Flip, Modes, versions

HERE, THERE = Flip("set here", "between", 3), Flip("set there", "inside", 4)


class Net(nn.Module):
    """A backbone and a head, each with a norm and a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout())
        self.head = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4, affine=False), nn.ReLU(), nn.Dropout())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def modes(root: nn.Module, *, begun: bool = True) -> Modes:
    """Of a model whose first training batch begins, if wanted."""
    known = Modes()
    known.take_up(root)
    if begun:
        known.begin_training()
    return known


def test_norms_and_dropouts_are_known_by_their_paths() -> None:
    known = modes(Net())
    assert list(known.norms) == ["backbone.1", "head.1"]
    assert list(known.noises) == ["backbone.2", "head.3"]
    assert list(known.everything)[:3] == ["self", "backbone", "backbone.0"]
    assert known.training() == {"backbone.1", "backbone.2", "head.1", "head.3"}


def test_names_know_nothing_of_a_compiler() -> None:
    net = Net()
    net.backbone = torch.compile(net.backbone, backend="eager")  # type: ignore[assignment]  # as users do
    known = modes(net)
    assert list(known.norms) == ["backbone.1", "head.1"]
    assert known.everything["backbone"] is net.backbone
    assert list(modes(torch.compile(Net(), backend="eager")).norms) == ["backbone.1", "head.1"]  # type: ignore[arg-type]


# Flips.


def test_a_module_that_never_flipped_is_as_it_was_from_the_start() -> None:
    known = modes(Net())
    known.note(HERE)
    assert known.flip("head.1") == Flip()


def test_a_flip_is_that_at_which_the_mode_was_first_seen_to_differ() -> None:
    net = Net()
    known = modes(net)
    net.head.eval()
    known.note(HERE)
    known.note(THERE)
    assert (known.flip("head.1"), known.flip("head.3"), known.flip("backbone.1")) == (HERE, HERE, Flip())
    assert known.training() == {"backbone.1", "backbone.2"}


def test_the_last_flip_counts() -> None:
    net = Net()
    known = modes(net)
    for mode, flip in ((False, HERE), (True, THERE)):
        net.train(mode)
        known.note(flip)
    assert known.flip("head.1") == THERE


def test_what_flips_and_flips_back_unseen_has_not_flipped() -> None:
    net = Net()
    known = modes(net)
    net.eval().train()
    known.note(HERE)
    assert known.flip("head.1") == Flip()


def test_taking_up_again_forgets_no_flip_and_no_mode_that_nobody_noted() -> None:
    net = Net()
    known = modes(net)
    net.head.eval()
    known.note(HERE)
    net.backbone.eval()
    net.extra = nn.Dropout()
    known.take_up(net)
    assert known.flip("head.1") == HERE
    assert known.training() == {"backbone.1", "backbone.2", "extra"}, "the backbone was training when last noted"
    known.note(THERE)
    assert (known.flip("backbone.1"), known.flip("head.1"), known.flip("extra")) == (THERE, HERE, Flip())


def test_a_module_that_is_gone_is_asked_for_no_more() -> None:
    net = Net()
    known = modes(net)
    net.head = nn.Linear(8, 1)  # type: ignore[assignment]  # as users do
    net.eval()
    known.take_up(net)
    known.note(HERE)
    assert list(known.norms) == ["backbone.1"]
    assert known.fell_asleep() == ["backbone.1", "backbone.2"]


def test_an_evaluation_is_set_aside_and_what_was_known_comes_back() -> None:
    net = Net()
    known = modes(net)
    net.head.eval()
    known.note(HERE)
    bring_back = known.set_aside()
    assert known.flip("head.1") == Flip(), "an evaluation begins with no flip"
    net.train()
    known.note(THERE)
    assert known.flip("head.1") == THERE
    net.backbone.eval()
    known.take_up(net)
    bring_back()
    assert known.flip("head.1") == HERE
    assert known.training() == {"backbone.1", "backbone.2"}
    known.note(THERE)
    assert (known.flip("head.1"), known.flip("backbone.1")) == (THERE, THERE), "what the evaluation left otherwise"


def test_an_evaluation_that_puts_all_back_leaves_no_flip() -> None:
    net = Net()
    known = modes(net)
    bring_back = known.set_aside()
    net.eval()
    known.note(HERE)
    net.train()
    bring_back()
    known.note(THERE)
    assert known.flip("head.1") == Flip()


def test_a_module_that_came_in_the_evaluation_is_known_by_the_mode_it_has() -> None:
    net = Net()
    known = modes(net)
    bring_back = known.set_aside()
    net.extra = nn.Dropout().eval()
    known.take_up(net)
    bring_back()
    assert "extra" not in known.training()


# Asleep in training.


def test_norms_and_dropouts_that_fell_into_evaluation_mode_are_asleep() -> None:
    net = Net()
    known = modes(net)
    assert known.fell_asleep() == []
    net.eval()
    assert known.fell_asleep() == [], "it has not been noted"
    known.note(HERE)
    assert known.fell_asleep() == ["backbone.1", "head.1", "backbone.2", "head.3"]


def test_what_was_asleep_at_the_first_batch_is_meant_to_be() -> None:
    net = Net()
    net.backbone.eval()
    known = modes(net)
    net.eval()
    known.note(HERE)
    assert known.fell_asleep() == ["head.1", "head.3"]


def test_a_flip_before_the_first_batch_is_none() -> None:
    net = Net()
    known = modes(net, begun=False)
    net.eval()
    known.note(HERE)
    assert known.flip("head.1") == HERE
    assert known.fell_asleep() == [], "training has not begun"
    known.begin_training()
    assert (known.flip("head.1"), known.fell_asleep()) == (Flip(), [])


def test_what_is_frozen_is_not_asleep() -> None:
    net = Net()
    known = modes(net)
    net.eval()
    net.backbone.requires_grad_(False)
    known.note(HERE)
    assert known.fell_asleep() == ["head.1", "head.3"]


def test_a_module_that_came_later_is_not_asleep() -> None:
    net = Net()
    known = modes(net)
    net.extra = nn.BatchNorm1d(4).eval()
    known.take_up(net)
    known.note(HERE)
    assert known.fell_asleep() == []


# The sanity check.


@pytest.mark.parametrize("training", [True, False])
def test_what_the_sanity_check_has_left_in_evaluation_mode_is_asleep_at_the_first_batch(training: bool) -> None:
    net = Net()
    net.backbone.train(training)
    known = modes(net, begun=False)
    known.begin_sanity_check()
    net.eval()
    known.end_sanity_check()
    known.note(HERE)
    known.begin_training()
    left = ["backbone.1", "head.1", "backbone.2", "head.3"] if training else ["head.1", "head.3"]
    assert known.fell_asleep() == left
    assert {known.flip(path) for path in left} == {Flip("left so by the sanity check", "between")}
    known.wake(left)
    assert [net.backbone.training, net.head.training, net.training] == [training, True, True]


def test_what_is_put_back_after_the_sanity_check_is_not_asleep() -> None:
    net = Net()
    known = modes(net, begun=False)
    known.begin_sanity_check()
    net.eval()
    known.end_sanity_check()
    net.train()
    known.note(HERE)
    known.begin_training()
    assert (known.fell_asleep(), known.flip("head.1")) == ([], Flip())


def test_what_is_put_to_sleep_after_the_sanity_check_is_meant_to_be() -> None:
    net = Net()
    known = modes(net, begun=False)
    known.begin_sanity_check()
    known.end_sanity_check()
    net.eval()
    known.note(HERE)
    known.begin_training()
    assert known.fell_asleep() == []


# Frozen.


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        (lambda net: None, set()),
        (lambda net: net.backbone[1].requires_grad_(False), {"backbone.1"}),
        (lambda net: net.backbone[1].weight.requires_grad_(False), set()),
        (lambda net: net.backbone[0].requires_grad_(False), set()),
        (lambda net: net.backbone.requires_grad_(False), {"backbone.1", "backbone.2"}),
        (lambda net: net.head.requires_grad_(False), {"head.1", "head.3"}),
        (lambda net: net.requires_grad_(False), {"backbone.1", "backbone.2", "head.1", "head.3"}),
    ],
    ids=["nothing", "norm", "half-of-a-norm", "layer-before", "backbone", "head-without-affine", "all"],
)
def test_a_module_is_frozen_if_it_or_what_it_is_in_has_no_weight_that_learns(
    freeze: Callable[[Any], Any], frozen: set[str]
) -> None:
    net = Net()
    freeze(net)
    known = modes(net)
    assert {path for path in (*known.norms, *known.noises) if known.is_frozen(path)} == frozen


def test_the_weights_of_a_norm_are_its_own_or_those_of_the_nearest_module_around_it() -> None:
    net = Net()
    known = modes(net)

    def same(one: list[Tensor], other: Any) -> bool:
        return [id(each) for each in one] == [id(each) for each in other]

    assert same(known.weights("backbone.1"), net.backbone[1].parameters())
    assert same(known.weights("head.1"), net.head.parameters())
    assert same(known.weights("nowhere"), net.parameters())
    assert same(modes(nn.Sequential(nn.Linear(1, 1), nn.Dropout())).weights("self"), []) is False


def test_a_model_without_a_weight_is_not_frozen() -> None:
    net = nn.Sequential(nn.BatchNorm1d(4, affine=False))
    known = modes(net)
    assert known.weights("0") == []
    assert not known.is_frozen("0")


@pytest.mark.parametrize(
    ("freeze", "follows"),
    [
        (lambda net: None, True),
        (lambda net: net[0].requires_grad_(False), False),
        (lambda net: net[1].requires_grad_(False), True),
        (lambda net: net[2].requires_grad_(False), True),
    ],
    ids=["nothing", "layer-before", "the-norm", "layer-after"],
)
def test_a_norm_follows_learning_if_the_layer_before_it_learns(freeze: Callable[[Any], Any], follows: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    freeze(net)
    assert modes(net).follows_learning("1") is follows


def test_the_norm_before_a_norm_is_no_layer_and_a_first_norm_follows_nothing() -> None:
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    net[1].requires_grad_(False)
    known = modes(net)
    assert [known.follows_learning(path) for path in ("0", "2", "3")] == [False, False, False]


# Putting right.


def asleep(net: nn.Module) -> Modes:
    known = modes(net)
    net.eval()
    known.note(HERE)
    return known


def test_waking_puts_modules_and_what_they_are_in_into_training_mode_and_nothing_else() -> None:
    net = Net()
    known = asleep(net)
    known.wake(["head.1", "head.3"])
    awake = [path for path, module in known.everything.items() if module.training]
    assert awake == ["self", "head", "head.1", "head.3"]
    assert known.fell_asleep() == ["backbone.1", "backbone.2"]


def test_waking_leaves_asleep_what_was_so_at_the_first_batch() -> None:
    net = Net()
    net.head.training = False
    known = asleep(net)
    known.wake(["head.1"])
    assert (net.head.training, net.head[1].training, net.training) == (False, True, True)


def test_waking_is_no_flip() -> None:
    net = Net()
    known = asleep(net)
    known.wake(known.fell_asleep())
    known.note(THERE)
    assert known.flip("head.1") == HERE


class Counted(nn.Dropout):
    """Counts how often its own ``train`` is called, which the user has written."""

    calls = 0

    def train(self, mode: bool = True) -> "Counted":
        type(self).calls += 1
        return super().train(mode)


def test_the_users_own_train_is_not_called() -> None:
    net = nn.Sequential(nn.Linear(4, 4), Counted())
    known = asleep(net)
    calls = Counted.calls
    known.wake(["1"])
    known.mend(lambda path: True)
    known.restore()
    assert Counted.calls == calls
    assert net[1].training


def test_mending_puts_what_is_wanted_into_evaluation_mode_and_restoring_puts_it_back() -> None:
    net = Net()
    known = modes(net)
    net.backbone[2].eval()
    known.mend(lambda path: path != "head.3")
    assert [path for path, module in known.everything.items() if module.training] == ["head.3"]
    assert known.training() == {"head.3"}
    known.restore()
    assert [path for path, module in known.everything.items() if not module.training] == ["backbone.2"]


def test_mending_twice_restores_all_of_it_once() -> None:
    net = Net()
    known = modes(net)
    known.mend(lambda path: path.startswith("head"))
    known.mend(lambda path: True)
    known.restore()
    assert all(module.training for module in net.modules())
    net.eval()
    known.restore()
    assert not any(module.training for module in net.modules()), "there is nothing left to put back"


def test_a_mended_module_has_not_flipped() -> None:
    net = Net()
    known = modes(net)
    known.mend(lambda path: True)
    known.note(HERE)
    assert known.flip("head.1") == Flip()


# Scripted modules.


def scripted(*parts: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(nn.Sequential(*parts))


def test_scripted_modules_are_known_mended_restored_and_woken() -> None:
    net = nn.Sequential(nn.Linear(4, 4), scripted(nn.BatchNorm1d(4), nn.Dropout()))
    known = modes(net)
    assert (list(known.norms), list(known.noises)) == (["1.0"], ["1.1"])
    assert known.training() == {"1.0", "1.1"}
    known.mend(lambda path: True)
    assert [path for path, module in known.everything.items() if module.training] == []
    before = versions(known.norms)
    net(torch.randn(8, 4))
    assert versions(known.norms) == before, "the flag is what the scripted code asks for"
    known.restore()
    assert all(module.training for module in known.everything.values())


def test_scripted_modules_fall_asleep_and_are_woken() -> None:
    net = nn.Sequential(nn.Linear(4, 4), scripted(nn.BatchNorm1d(4), nn.Dropout()))
    known = asleep(net)
    assert known.flip("1.0") == HERE
    assert known.fell_asleep() == ["1.0", "1.1"]
    known.wake(["1.0"])
    assert known.training() == {"1.0"}


def test_what_is_inside_of_a_scripted_module_is_mended_and_restored_by_itself() -> None:
    net = scripted(nn.BatchNorm1d(4), nn.Dropout(), nn.Dropout())
    getattr(net, "2").eval()
    known = modes(nn.Sequential(net))
    known.mend(lambda path: path != "0.1")
    assert [path for path, module in known.everything.items() if module.training] == ["0.1"]
    known.restore()
    assert [path for path, module in known.everything.items() if not module.training] == ["0.2"]


def test_a_scripted_module_that_was_frozen_has_no_mode() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        frozen = torch.jit.freeze(scripted(nn.BatchNorm1d(4), nn.Dropout()).eval())
    net = nn.Sequential(frozen, nn.Dropout())
    known = modes(net)
    assert list(known.everything) == ["self", "1"]
    assert known.training() == {"1"}
    known.mend(lambda path: True)
    assert not net[1].training


# Versions.


def test_a_norm_that_trains_is_written_to_and_one_that_does_not_is_not() -> None:
    net = Net()
    known = modes(net)
    before = versions(known.norms)
    net(torch.randn(8, 4))
    between = versions(known.norms)
    assert all(between[path] > before[path] for path in ("backbone.1", "head.1"))
    net.eval()
    net(torch.randn(8, 4))
    assert versions(known.norms) == between


def test_norms_that_count_nothing_have_no_version() -> None:
    assert versions({"a": nn.BatchNorm1d(4, track_running_stats=False)}) == {}
    with torch.inference_mode():
        assert versions({"a": nn.BatchNorm1d(4)}) == {}


def test_a_lazy_norm_is_first_written_to_by_itself() -> None:
    norm = nn.LazyBatchNorm1d().eval()
    assert versions({"a": norm}) == {}
    norm(torch.randn(8, 4))
    before = versions({"a": norm})
    norm(torch.randn(8, 4))
    assert versions({"a": norm}) == before
    norm.train()(torch.randn(8, 4))
    assert versions({"a": norm})["a"] > before["a"]
