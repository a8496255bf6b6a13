"""What every watch of a pass does: it stays out of the way, and what goes wrong in it is raised when it stops."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as in the programs that are watched
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from lightning_diagnostics.probes.watch import Watch


class FaultError(Exception):
    """Of the watch."""


class UserError(Exception):
    """Of the user's step."""


class Diary(Watch):
    """Writes down what it sees; falls ill at a word of it."""

    def __init__(self, *, fails_at: str = "", functions: tuple[Any, ...] = (F.relu,)) -> None:
        super().__init__({})
        self.fails_at, self.functions = fails_at, functions
        self.seen: list[str] = []

    def write(self, word: str) -> None:
        self.seen.append(word)
        if word == self.fails_at:
            raise FaultError(word)

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.write(f"+{self._names.path(module, self._stack)}")

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.write(f"-{self._names.path(module, self._stack)}")

    def wants(self, function: Callable[..., Any]) -> bool:
        return function in self.functions

    def see_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        self._guard(self.write, function.__name__)


class Calls(nn.Module):
    """Weights, and an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.linear(x))


def yes() -> bool:
    return True


X = torch.ones(3, 4)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    assert not hooks._global_forward_hooks
    assert not hooks._global_forward_pre_hooks
    assert _get_current_function_mode_stack() == []


def test_modules_are_seen_as_they_are_entered_and_left_and_calls_in_between() -> None:
    watch, net = Diary(), nn.Sequential(Calls())
    watch.start(net, functional=True, running=yes)
    net(X)
    watch.stop()
    assert watch.seen == ["+self", "+0", "+0.linear", "-0.linear", "relu", "-0", "-self"]
    net(X)
    assert len(watch.seen) == 7, "it has stopped"


def test_calls_are_seen_if_they_are_wanted() -> None:
    watch, net = Diary(), Calls()
    watch.start(net, functional=False, running=yes)
    net(X)
    watch.stop()
    assert "relu" not in watch.seen


def test_a_model_is_hooked_nowhere() -> None:
    watch, net = Diary(), nn.Sequential(Calls())
    watch.start(net, functional=True, running=yes)
    assert [name for part in net.modules() for name, value in vars(part).items() if "hooks" in name and value] == []
    watch.stop()


# Faults.


@pytest.mark.parametrize("word", ["+self", "+0.linear", "-0.linear", "relu", "-self"])
def test_a_fault_is_raised_by_stop_and_not_in_the_users_step(word: str) -> None:
    watch, net = Diary(fails_at=word), nn.Sequential(Calls())
    expected = net(X)
    watch.start(net, functional=True, running=yes)
    assert torch.equal(net(X), expected)
    seen = list(watch.seen)
    net(X)
    assert watch.seen == seen, "it watches no more"
    with pytest.raises(FaultError, match=word.replace("+", r"\+")):
        watch.stop()
    watch.stop()
    assert seen[-1] == word


def test_after_a_fault_it_can_be_started_again() -> None:
    watch, net = Diary(fails_at="+0"), nn.Sequential(Calls())
    watch.start(net, functional=True, running=yes)
    net(X)
    with pytest.raises(FaultError):
        watch.start(net, functional=True, running=yes)
    watch.fails_at = ""
    watch.seen.clear()
    watch.start(net, functional=True, running=yes)
    net(X)
    watch.stop()
    assert len(watch.seen) == 7


def test_an_error_of_the_user_is_the_users_and_the_next_pass_is_seen() -> None:
    class Breaks(nn.Module):
        broken = True

        def forward(self, x: Tensor) -> Tensor:
            if self.broken:
                raise UserError
            return x

    watch, net = Diary(), nn.Sequential(nn.Identity(), Breaks())
    watch.start(net, functional=True, running=yes)
    with pytest.raises(UserError):
        net(X)
    net[1].broken = False
    watch.seen.clear()
    net(X)
    watch.stop()
    assert watch.seen == ["+self", "+0", "-0", "+1", "-1", "-self"]


# When it is over.


def test_unhooked_it_sees_nothing_more_and_knows_what_it_saw() -> None:
    watch, net = Diary(), Calls()
    watch.start(net, functional=True, running=yes)
    net(X)
    watch.unhook()
    assert not hooks._global_forward_hooks
    assert _get_current_function_mode_stack() == []
    net(X)
    assert len(watch.seen) == 5
    watch.unhook()
    watch.stop()


def test_a_run_that_broke_off_is_noticed_by_the_next_pass() -> None:
    watch, net, alive = Diary(), Calls(), [True]
    watch.start(net, functional=True, running=lambda: alive[0])
    net(X)
    alive[0] = False
    net(X)
    assert len(watch.seen) == 5
    assert not hooks._global_forward_hooks
    watch.stop()


def test_a_run_is_asked_for_at_the_outermost_modules_alone() -> None:
    asked = []

    def running() -> bool:
        asked.append(1)
        return True

    watch, net = Diary(), nn.Sequential(Calls(), Calls())
    watch.start(net, functional=True, running=running)
    net(X)
    watch.stop()
    assert len(asked) == 1


# What is not the user's forward.


@pytest.mark.parametrize("reentrant", [True, False])
def test_the_recomputation_of_a_checkpoint_is_not_seen(reentrant: bool) -> None:
    watch, net = Diary(), Calls()
    watch.start(net, functional=False, running=yes)
    checkpoint(net, torch.ones(3, 4, requires_grad=True), use_reentrant=reentrant).sum().backward()
    watch.stop()
    assert watch.seen == ["+self", "+linear", "-linear", "-self"]


# Other modes.


class Other(TorchFunctionMode):
    """A mode of the user's."""

    seen = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        type(self).seen += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("act", ["stop", "unhook"])
def test_a_mode_that_the_user_has_set_meanwhile_stays(act: str) -> None:
    watch, net = Diary(), Calls()
    watch.start(net, functional=True, running=yes)
    with Other():
        net(X)
        getattr(watch, act)()
        (left,) = _get_current_function_mode_stack()
        assert isinstance(left, Other)
    watch.stop()
    assert "relu" in watch.seen


def test_what_a_watch_does_itself_is_seen_by_no_mode() -> None:
    class Computes(Diary):
        def write(self, word: str) -> None:
            torch.ones(2).sum()
            super().write(word)

    watch, net = Computes(), Calls()
    with Other():
        watch.start(net, functional=True, running=yes)
        before = Other.seen
        F.relu(X)
        counted = Other.seen - before
        watch.stop()
        before = Other.seen
        F.relu(X)
        assert Other.seen - before == counted


# Fused kernels.


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
    ],
    ids=["layer", "encoder"],
)
def test_a_network_with_a_fused_kernel_computes_the_same_to_the_last_bit(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(make(), nn.Linear(8, 8), Calls2()).eval()
    x = torch.randn(5, 7, 8)
    with torch.no_grad():
        expected = net(x)
        watch = Diary()
        watch.start(net, functional=True, running=yes)
        out = net(x)
        assert len(_get_current_function_mode_stack()) == 1, "it is back"
        watch.stop()
    assert torch.equal(out, expected)
    assert watch.seen[-4:] == ["+2", "relu", "-2", "-self"]


class Calls2(nn.Module):
    """An activation after it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


def test_a_fused_kernel_that_fails_leaves_the_mode_in_place() -> None:
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    watch = Diary()
    with torch.no_grad():
        watch.start(net, functional=True, running=yes)
        with pytest.raises(Exception, match="8"):
            net(torch.randn(5, 7, 3))
        assert len(_get_current_function_mode_stack()) == 1
    watch.stop()
