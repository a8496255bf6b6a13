"""Handlers of signals wait until a pass is over: one that saves a checkpoint does not save what the pass has left."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_diagnostics.callback.undisturbed import undisturbed
from lightning_diagnostics.callback.undisturbed.guards import signals_later
from tests.helpers import fit, trainer
from tests.patients import Student

Handler = Callable[[int, Any], None]


@pytest.fixture
def handled() -> Iterator[Callable[..., None]]:
    """Sets handlers of signals, for a test."""
    before: dict[int, Any] = {}

    def handle(number: int, handler: Any) -> None:
        before.setdefault(number, signal.getsignal(number))
        signal.signal(number, handler)

    yield handle
    for number, handler in before.items():
        signal.signal(number, handler)


def _send(number: int) -> None:
    """To this process, which has it at once."""
    os.kill(os.getpid(), number)
    time.sleep(0.001)


def test_a_handler_waits_for_the_end(handled: Callable[..., None]) -> None:
    told: list[Any] = []
    handled(signal.SIGUSR1, lambda number, frame: told.append(signal.Signals(number).name))
    handled(signal.SIGTERM, lambda number, frame: told.append(signal.Signals(number).name))
    handler = signal.getsignal(signal.SIGUSR1)
    with signals_later():
        _send(signal.SIGUSR1)
        _send(signal.SIGTERM)
        told.append("in it")
    assert told == ["in it", "SIGUSR1", "SIGTERM"]
    assert signal.getsignal(signal.SIGUSR1) is handler


def test_a_handler_comes_after_an_error_too(handled: Callable[..., None]) -> None:
    told: list[Any] = []
    handled(signal.SIGUSR1, lambda *_: told.append("handler"))

    def fail() -> None:
        with signals_later():
            _send(signal.SIGUSR1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert told == ["handler"]


def test_an_error_of_a_handler_leaves_the_handlers_as_they_were(handled: Callable[..., None]) -> None:
    def handler(number: int, frame: Any) -> None:
        raise SystemExit(number)

    def act() -> None:
        with signals_later():
            _send(signal.SIGTERM)

    handled(signal.SIGTERM, handler)
    with pytest.raises(SystemExit):
        act()
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM, signal.SIGCHLD], ids=lambda each: each.name)
def test_keys_clocks_and_children_do_not_wait(number: signal.Signals, handled: Callable[..., None]) -> None:
    told: list[str] = []
    handled(number, lambda *_: told.append("handler"))
    with signals_later():
        _send(number)
        told.append("in it")
    assert told == ["handler", "in it"]


@pytest.mark.parametrize("kind", [signal.SIG_DFL, signal.SIG_IGN], ids=["default", "ignored"])
def test_what_has_no_handler_is_left_alone(kind: Any, handled: Callable[..., None]) -> None:
    handled(signal.SIGUSR2, kind)
    with signals_later():
        assert signal.getsignal(signal.SIGUSR2) is kind
    assert signal.getsignal(signal.SIGUSR2) is kind


def test_another_thread_changes_no_handlers(handled: Callable[..., None]) -> None:
    def handler(number: int, frame: Any) -> None: ...

    handled(signal.SIGUSR1, handler)
    seen: list[Any] = []

    def act() -> None:
        with signals_later():
            seen.append(signal.getsignal(signal.SIGUSR1))

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    assert seen == [handler]


# In a run.


class Signalled(Student):
    """Is sent a signal in the midst of what is done once more."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def once_more(self) -> None:
        """Leaves something behind for a while."""
        self.calls += 1
        _send(signal.SIGUSR1)
        self.calls += 1


class OnceMore(Callback):
    """Runs it at the end of each validation, within `undisturbed`."""

    def __init__(self) -> None:
        self.over = 0

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        if not trainer.sanity_checking:
            before = self.over
            with undisturbed(trainer, pl_module):
                module.once_more()
                assert self.over == before
            self.over += 1


def test_a_handler_may_save_a_checkpoint_of_a_run_that_is_as_if_nothing_had_been(
    handled: Callable[..., None], tmp_path: Path
) -> None:
    module, acting, saved = Signalled(), OnceMore(), list[tuple[int, str]]()
    run = trainer(acting, max_epochs=1)

    def save(number: int, frame: Any) -> None:
        file = tmp_path / f"{len(saved)}.ckpt"
        run.save_checkpoint(file)
        saved.append((module.calls, file.name))

    handled(signal.SIGUSR1, save)
    fit(run, module)
    assert saved == [(0, "0.ckpt")]
    assert acting.over == 1
    state = torch.load(tmp_path / "0.ckpt", weights_only=False)["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert signal.getsignal(signal.SIGUSR1) is save
