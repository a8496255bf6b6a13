"""Lightning's own instruments beside the callback: what they show is what is used, and they are left as they were."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder, LearningRateMonitor
from torch.optim import Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from lightning_diagnostics import GradientNormMonitor
from tests import helpers
from tests.diagnostics.learning_rate.models import (
    BATCHES,
    ByHand,
    Notebook,
    Program,
    data,
    factor,
    own_rates,
    rates,
    restart,
    scaler,
    schedule,
    times,
    train,
)
from tests.diagnostics.learning_rate.test_start_cooldown import Ask
from tests.diagnostics.learning_rate.test_used_rates import Overflows

TOTAL = 30
either_way = pytest.mark.parametrize("first", [True, False])


def in_order(one: Callback, other: Callback, first: bool) -> list[Callback]:
    return [one, other] if first else [other, one]


def stepped(program: Program) -> Any:
    optimizer = program.spied(Adam, program.groups(lr=0.02), lr=0.05)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": StepLR(optimizer, 4, 0.5), "interval": "step"}}


def of_group(program: Program, index: int, groups: int = 2) -> list[float]:
    return rates(program.used)[index::groups]


class Metrics(Callback):
    """Keeps what the monitor puts among the metrics, at the end of each batch."""

    def __init__(self, name: str) -> None:
        self.name, self.seen = name, list[float]()

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.seen.append(float(trainer.callback_metrics[self.name]))


@either_way
@pytest.mark.parametrize("interval", ["step", None])
def test_the_monitor_logs_the_used_rate_of_each_step(interval: Any, first: bool) -> None:
    program, notebook = Program(stepped), Notebook()
    monitor, metrics = LearningRateMonitor(interval, log_momentum=True, log_weight_decay=True), Metrics("lr-Adam/pg1")
    train(program, *in_order(monitor, schedule(), first), metrics, max_epochs=3, logger=notebook)
    for index in range(2):
        assert notebook.values(f"lr-Adam/pg{index + 1}") == of_group(program, index)
    assert [step for step, _ in notebook.curves["lr-Adam/pg1"]] == list(range(TOTAL))
    assert set(notebook.values("lr-Adam/pg1-momentum")) == {0.9}
    assert set(notebook.values("lr-Adam/pg1-weight_decay")) == {0}
    assert metrics.seen == [float(torch.tensor(rate)) for rate in of_group(program, 0)]


@either_way
def test_the_monitor_logs_the_used_rate_of_an_epochs_first_step(first: bool) -> None:
    program, notebook = Program(stepped), Notebook()
    train(program, *in_order(LearningRateMonitor("epoch"), schedule(), first), max_epochs=3, logger=notebook)
    for index in range(2):
        assert notebook.values(f"lr-Adam/pg{index + 1}") == of_group(program, index)[::BATCHES]


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")  # the monitor's own
@either_way
def test_the_monitor_and_a_tensor(first: bool) -> None:
    def configure(program: Program) -> Any:
        return program.spied(lr=torch.tensor(0.1))

    program, notebook = Program(configure), Notebook()
    train(program, *in_order(LearningRateMonitor("step"), schedule(), first), max_epochs=3, logger=notebook)
    assert [float(rate) for rate in notebook.values("lr-SGD")] == rates(program.used)


def test_the_monitor_and_steps_that_the_scaler_skips() -> None:
    program, notebook = Overflows(), Notebook()
    train(program, schedule(), LearningRateMonitor("step"), max_epochs=3, logger=notebook, **scaler())
    assert notebook.values("lr-SGD") == [0.1 * factor(step, TOTAL) for step in range(TOTAL)]
    assert len(program.used) < TOTAL


def test_the_monitor_and_accumulation() -> None:
    program, notebook = Program(), Notebook()
    train(program, schedule(), LearningRateMonitor("step"), max_epochs=6, logger=notebook, accumulate_grad_batches=2)
    assert notebook.values("lr-SGD")[::2] == rates(program.used)


@either_way
def test_the_monitor_by_hand(first: bool) -> None:
    def configure(program: Program) -> Any:
        return [program.spied(Adam, program.net[0].parameters()), program.spied(params=program.net[2].parameters())]

    program, notebook = ByHand(configure), Notebook()
    train(program, *in_order(LearningRateMonitor("step"), schedule(), first), max_epochs=3, logger=notebook)
    assert notebook.values("lr-Adam") == of_group(program, 0)
    assert notebook.values("lr-SGD") == of_group(program, 1)


@either_way
def test_the_monitor_and_a_cooldown_that_begins_where_nothing_was_to_act(first: bool) -> None:
    program, notebook, callback = Program(), Notebook(), schedule(warmup=None, cooldown=None)
    callbacks = in_order(LearningRateMonitor("step"), callback, first)
    train(program, *callbacks, Ask(callback, steps=5), max_epochs=3, logger=notebook)
    assert notebook.values("lr-SGD") == rates(program.used)
    assert 0 < rates(program.used)[13] < 0.1


@either_way
def test_the_monitor_is_afterwards_as_it_was(first: bool) -> None:
    monitor, callback, other = LearningRateMonitor("step"), schedule(), LearningRateMonitor("step")
    train(Program(), other, logger=Notebook())
    trainer: Any = helpers.trainer(*in_order(monitor, callback, first), logger=Notebook())
    listed = list(trainer.callbacks)
    program = Program()
    restart(program)
    trainer.fit(program, data())
    assert all(one is other for one, other in zip(trainer.callbacks, listed, strict=True))
    assert set(vars(monitor)) == set(vars(other))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_monitor_is_as_it_was_after_an_error(error: type[BaseException]) -> None:
    class Fails(Program):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 4:
                raise error
            return super().training_step(batch, batch_idx)

    monitor = LearningRateMonitor("step")
    with pytest.raises((error, SystemExit)):
        train(Fails(), monitor, schedule(), logger=Notebook())
    assert not {"on_train_batch_start", "on_train_epoch_start"} & set(vars(monitor))


def test_two_monitors_and_one_of_another_class() -> None:
    class Mine(LearningRateMonitor):
        pass

    program, notebook, other = Program(), Notebook(), Notebook()
    train(program, LearningRateMonitor("step"), schedule(), Mine("step"), max_epochs=3, logger=[notebook, other])
    twice = [rate for rate in rates(program.used) for _ in range(2)]
    assert notebook.values("lr-SGD") == other.values("lr-SGD") == twice


# GradientNormMonitor.


@either_way
@pytest.mark.parametrize("kind", [Program, ByHand])
def test_the_monitor_of_gradients_draws_the_used_rate(kind: type[Program], first: bool) -> None:
    program, notebook = kind(), Notebook()
    norms = GradientNormMonitor(every_n_train_steps=1, strict=True)
    train(program, *in_order(norms, schedule(), first), max_epochs=3, logger=notebook)
    drawn = notebook.values("gradients/learning_rate/SGD")
    assert len(drawn) == TOTAL
    assert drawn == pytest.approx(rates(program.used), rel=1e-6)


# The range test.


class Tuned(Program):
    """Has a rate that the range test sets."""

    def __init__(self) -> None:
        super().__init__(lambda program: program.spied(lr=program.lr))
        self.lr = 0.1


class Midway(LearningRateFinder):
    """Runs in the middle of training, too."""

    def on_fit_start(self, *args: Any, **kwargs: Any) -> None:
        return

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            self.lr_find(trainer, pl_module)


def found(finder: LearningRateFinder) -> tuple[Sequence[float], Sequence[float], Any]:
    result = finder.optimal_lr
    assert result is not None
    return result.results["lr"], result.results["loss"], result.suggestion()


def finder(kind: type[LearningRateFinder] = LearningRateFinder) -> LearningRateFinder:
    return kind(min_lr=1e-4, max_lr=0.5, num_training_steps=20, early_stop_threshold=None)


@either_way
def test_the_range_test_finds_what_it_finds_without_the_callback(first: bool, tmp_path: Any) -> None:
    plain, ours, one, other = Tuned(), Tuned(), finder(), finder()
    train(plain, one, max_epochs=3, default_root_dir=tmp_path)
    train(ours, *in_order(other, schedule(), first), max_epochs=3, default_root_dir=tmp_path)
    assert found(one) == found(other)
    assert len(found(one)[0]) == 20
    assert ours.lr == plain.lr == found(one)[2]
    made = plain.used[20:]  # an older Lightning (2.5.0) makes fewer steps after the test, and at the rate from before
    assert made in ([(step, plain.lr) for step in range(TOTAL)], [(step, 0.1) for step in range(TOTAL - BATCHES)])
    assert ours.used[:20] == plain.used[:20]
    assert ours.used[20:] == times(made, len(made))


@either_way
def test_a_range_test_in_the_middle_of_training(first: bool, tmp_path: Any) -> None:
    plain, ours, one, other = Tuned(), Tuned(), finder(Midway), finder(Midway)
    train(plain, one, max_epochs=3, default_root_dir=tmp_path)
    train(ours, *in_order(other, schedule(), first), max_epochs=3, default_root_dir=tmp_path)
    assert found(one)[0] == found(other)[0]
    tested = len(plain.used) - TOTAL
    assert tested == 10  # Lightning ends it at the twentieth step of all
    assert ours.used[BATCHES : BATCHES + tested] == plain.used[BATCHES : BATCHES + tested]
    expected = [0.1] * BATCHES + [ours.lr] * (TOTAL - BATCHES)
    made = ours.used[:BATCHES] + ours.used[BATCHES + tested :]
    assert made == [(step, rate * factor(step, TOTAL)) for step, rate in enumerate(expected)]


def test_a_plateau_of_a_metric_that_the_run_makes() -> None:
    def configure(program: Program) -> Any:
        optimizer = program.spied(lr=0.4)
        one = ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": one, "monitor": "loss", "interval": "step"}}

    class Logs(Program):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            assert loss is not None
            self.log("loss", loss)
            return loss

    program, notebook = Logs(configure), Notebook()
    trainer = train(program, schedule(), LearningRateMonitor("step"), max_epochs=3, logger=notebook)
    assert rates(program.used) == [own[0] * factor(step, TOTAL) for step, own in enumerate(program.read)]
    assert notebook.values("lr-SGD") == rates(program.used)
    assert own_rates(trainer)[0] < 0.4
