"""A run is the same to the last bit with a monitor and without, and a monitor that leaves a trace is caught."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from typing_extensions import override

from lightning_diagnostics import GeneralizationGapMonitor
from lightning_diagnostics.callback.undisturbed import kept
from lightning_diagnostics.diagnostics.generalization_gap import passing
from tests.diagnostics.generalization_gap import models
from tests.diagnostics.generalization_gap.models import Small, differences, training, validation

pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:The ``compute`` method of metric"),  # an error would hide what it leaves
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.{3} before .optimizer.step"),
]


@dataclass
class Case:
    """A way of training.

    Attributes:
        make: Gives the module.
        data: Gives the loaders.
        callbacks: Make those that are there with the monitor and without.
        settings: Of the Trainer.
    """

    make: Callable[[], LightningModule] = Small
    data: Callable[[], Any] | None = None
    callbacks: tuple[Callable[[], Any], ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def told(self, folder: Path, *monitors: Any) -> tuple[dict[str, Any], models.Record]:
        """Run it; gives what there was and the record."""
        callbacks = [make() for make in self.callbacks]
        record, _ = models.run(self.make, folder, *callbacks, *monitors, data=self.data, **self.settings)
        return record.told(folder), record


def _loaders(
    noise: str = "", *, workers: int = 0, persistent: bool = False, own: bool = False, **more: Any
) -> Callable[[], Any]:
    def make() -> Any:
        settings = {"num_workers": workers, "persistent_workers": persistent, **more}
        generator: Any = {"generator": torch.Generator().manual_seed(7)} if own else {}
        return training(noise=noise, **settings, **generator), validation(**settings)

    return make


def _combined() -> Any:
    several = {"one": training(), "other": training(35, noise="torch")}
    return CombinedLoader(several, "max_size_cycle"), validation()


def _averaging() -> Any:
    from lightning.pytorch import callbacks

    kind = getattr(callbacks, "WeightAveraging", None)
    if kind is None:
        pytest.skip("this Lightning has no WeightAveraging")
    return kind(avg_fn=lambda old, new, _: old + 0.5 * (new - old))


def _averaging_exponentially() -> Any:
    from lightning.pytorch import callbacks

    kind = getattr(callbacks, "EMAWeightAveraging", None)
    if kind is None:
        pytest.skip("this Lightning has no EMAWeightAveraging")
    return kind(decay=0.5, update_every_n_steps=1)


OFTEN = {"val_check_interval": 2}
CASES = {
    "plain": Case(),
    "every second batch": Case(settings=OFTEN),
    "twice an epoch": Case(settings={"val_check_interval": 0.5}),
    "workers": Case(data=_loaders("torch", workers=2), settings=OFTEN),
    "persistent workers": Case(data=_loaders("own", workers=2, persistent=True), settings=OFTEN),
    "frozen norm": Case(models.Frozen, settings=OFTEN),
    "noise of torch": Case(data=_loaders("torch"), settings=OFTEN),
    "noise of numpy": Case(data=_loaders("numpy"), settings=OFTEN),
    "noise of random": Case(data=_loaders("random"), settings=OFTEN),
    "noise of the dataset": Case(data=_loaders("own"), settings=OFTEN),
    "order of a generator": Case(data=_loaders("torch", own=True), settings=OFTEN),
    "appends": Case(models.Appends, settings=OFTEN),
    "computes": Case(models.Computes, settings=OFTEN),
    "logs objects": Case(models.Logs, settings=OFTEN),
    "collection": Case(models.Collects, settings=OFTEN),
    "collection in the hook": Case(models.CollectsInTheHook, settings=OFTEN),
    "metrics of metrics": Case(models.Wraps, settings=OFTEN),
    "draws": Case(models.Draws, settings=OFTEN),
    "manual, two optimizers": Case(models.Manual, settings=OFTEN),
    "schedule in the validation": Case(models.Schedules, settings=OFTEN),
    "averaged by hand": Case(callbacks=(models.Averages,), settings=OFTEN),
    "averaged": Case(callbacks=(_averaging,), settings=OFTEN),
    "averaged exponentially": Case(callbacks=(_averaging_exponentially,), settings=OFTEN),
    "accumulation": Case(models.Appends, settings={"accumulate_grad_batches": 3, **OFTEN}),
    "bf16": Case(models.Logs, settings={"precision": "bf16-mixed", **OFTEN}),
    "gradient checkpointing": Case(models.Checkpointed, settings=OFTEN),
    "new loaders": Case(data=_loaders("torch"), settings={"reload_dataloaders_every_n_epochs": 1}),
    "several loaders": Case(models.Several, data=_combined, settings=OFTEN),
    "without inference mode": Case(models.Appends, settings={"inference_mode": False, **OFTEN}),
    "several validation loaders": Case(data=lambda: (training(), [validation(), validation(17, seed=2)])),
}
SLOWLY = {
    "compiled": Case(models.Compiled, settings=OFTEN),
    **{
        f"{name}, two workers": Case(case.make, _loaders("numpy", workers=2), case.callbacks, case.settings)
        for name, case in CASES.items()
        if case.data is None
    },
}
every_case = pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(case, id=name) for name, case in CASES.items()),
        *(pytest.param(case, id=name, marks=pytest.mark.slow) for name, case in SLOWLY.items()),
    ],
)


def _monitor(**more: Any) -> GeneralizationGapMonitor:
    return GeneralizationGapMonitor(strict=True, **more)


@every_case
def test_the_run_is_the_same_to_the_last_bit(case: Case, tmp_path: Path) -> None:
    without, _ = case.told(tmp_path / "without")
    monitor = _monitor()
    having, record = case.told(tmp_path / "with", monitor)
    assert differences(without, having) == set()
    assert any(name.startswith("gap/val_loss") for name in record.published), monitor.findings


@pytest.mark.parametrize("train_pass", ["full", "off"])
def test_it_is_the_same_with_other_passes(train_pass: str, tmp_path: Path) -> None:
    case = Case(models.Appends, _loaders("own"), settings=OFTEN)
    without, _ = case.told(tmp_path / "without")
    having, record = case.told(tmp_path / "with", _monitor(train_pass=train_pass, per_class=True))
    assert differences(without, having) == set()
    assert ("gap/val_loss" in record.published) == (train_pass == "full")


def test_it_is_the_same_with_a_monitor_first_or_last(tmp_path: Path) -> None:
    def made(*callbacks: Any, folder: str) -> dict[str, Any]:
        return models.run(models.Appends, tmp_path / folder, *callbacks, **OFTEN)[0].told(tmp_path / folder)

    without = made(models.Averages(), folder="without")
    assert differences(without, made(_monitor(), models.Averages(), folder="first")) == set()
    assert differences(without, made(models.Averages(), _monitor(), folder="last")) == set()


def test_what_metrics_hold_is_not_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    notes: list[list[str]] = []
    for most in (3000, 100):  # bytes; what a metric gathers of 200 samples is 4000
        monkeypatch.setattr(kept, "_MOST_BYTES", most)
        monitor = _monitor()
        data = {"data": lambda: (training(200), validation(200)), "max_epochs": 1, "logger": False}
        models.run(models.Logs, tmp_path, monitor, **data)
        notes.append([finding.message for finding in monitor.findings if finding.code == "GAP901"])
    assert notes[0] == []
    assert "not all of it could be put back" in notes[1][0]


# The tests of the test.


def _grows(trainer: Trainer, module: Any) -> None:
    module.rows.append(torch.zeros(1, models.CLASSES))


def _maps(trainer: Trainer, module: Any) -> None:
    module.by_batch[99] = 0.0


def _counts(trainer: Trainer, module: Any) -> None:
    module.seen[0] += 1


def _calls(trainer: Trainer, module: Any) -> None:
    module.calls += 1


def _weighs(trainer: Trainer, module: Any) -> None:
    module.net[0].weight.data[0, 0] += 1e-6


def _moves_statistics(trainer: Trainer, module: Any) -> None:
    module.net[1].running_mean[0] += 1e-6


def _optimizes(trainer: Trainer, module: Any) -> None:
    next(iter(trainer.optimizers[0].state.values()))["exp_avg"].view(-1)[0] += 1e-6


def _adds_gradient(trainer: Trainer, module: Any) -> None:
    weight = module.net[4].bias
    weight.grad = torch.ones_like(weight)


def _updates(trainer: Trainer, module: Any) -> None:
    module.accuracy.tp = module.accuracy.tp + 1


def _counts_updates(trainer: Trainer, module: Any) -> None:
    module.accuracy._update_count += 1


def _stays_in_training(trainer: Trainer, module: Any) -> None:
    module.net[3].train()


def _logs(trainer: Trainer, module: Any) -> None:
    entry: object = next(iter(trainer.fit_loop.epoch_loop.val_loop._results.values()))
    vars(entry).update(value=vars(entry)["value"] + 1, _computed=None)  # Lightning has asked for it already


def _draws_for_data(trainer: Trainer, module: Any) -> None:
    trainer.train_dataloader.dataset.own.random()  # pyright: ignore[reportOptionalMemberAccess]


def _schedules(trainer: Trainer, module: Any) -> None:
    trainer.lr_scheduler_configs[0].scheduler.step()  # pyright: ignore[reportCallIssue]  # not on a plateau


def _moves_order(trainer: Trainer, module: Any) -> None:
    torch.rand((), generator=trainer.train_dataloader.generator)  # pyright: ignore[reportOptionalMemberAccess]


def _draws(trainer: Trainer, module: Any) -> None:
    torch.rand(())


def _draws_of_numpy(trainer: Trainer, module: Any) -> None:
    np.random.rand()


def _draws_of_python(trainer: Trainer, module: Any) -> None:
    models.random.random()


APPENDS, METRICS = Case(models.Appends, settings=OFTEN), Case(models.Computes, settings=OFTEN)
TRACES: dict[str, tuple[Any, Case, str]] = {
    "list": (_grows, APPENDS, "own."),
    "dict": (_maps, APPENDS, "own."),
    "counter": (_counts, APPENDS, "own."),
    "number": (_calls, APPENDS, "own."),
    "weight": (_weighs, APPENDS, "state.net.0.weight"),
    "buffer": (_moves_statistics, APPENDS, "state.net.1.running_mean"),
    "optimizer": (_optimizes, APPENDS, "optimizer.0"),
    "gradient": (_adds_gradient, Case(settings={"accumulate_grad_batches": 3, **OFTEN}), "gradient.net.4.bias"),
    "metric": (_updates, METRICS, "own.accuracy"),
    "updates of a metric": (_counts_updates, METRICS, "own.accuracy"),
    "mode": (_stays_in_training, APPENDS, "modes"),
    "logged": (_logs, APPENDS, "callback_metrics"),
    "data": (_draws_for_data, Case(data=_loaders("own"), settings=OFTEN), "data.0"),
    "order": (_moves_order, Case(data=_loaders(own=True), settings=OFTEN), "order.0"),
    "schedule": (_schedules, Case(models.Manual, settings=OFTEN), "schedule.0"),
    "torch": (_draws, APPENDS, "rng.torch"),
    "numpy": (_draws_of_numpy, APPENDS, "rng.numpy"),
    "python": (_draws_of_python, APPENDS, "rng.python"),
}


@pytest.mark.parametrize("kind", TRACES)
def test_a_trace_is_noticed(kind: str, tmp_path: Path) -> None:
    leave, case, name = TRACES[kind]

    class Careless(GeneralizationGapMonitor):
        @override
        def evaluation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            super().evaluation_end(trainer, pl_module)
            if not trainer.sanity_checking:
                leave(trainer, pl_module)

    once = Case(case.make, case.data, case.callbacks, {**case.settings, "max_epochs": 1})
    without, _ = once.told(tmp_path / "without")
    having, _ = once.told(tmp_path / "with", Careless(strict=True))
    found = differences(without, having)
    assert any(each.partition(" ")[2].endswith(name) for each in found), found


class _Nothing:
    """Puts nothing back."""

    def restore(self) -> None:
        pass


@contextmanager
def _careless(*args: Any, **more: Any) -> Any:
    yield _Nothing()


@contextmanager
def _mixed_up(trainer: Trainer, module: LightningModule) -> Any:
    yield passing.insides.Apart(trainer, module)


PROTECTIONS: dict[str, tuple[Any, str, Any, Case, str]] = {
    "undisturbed": (passing, "undisturbed", _careless, APPENDS, "own."),
    "logging apart": (passing.insides, "logging_apart", _mixed_up, APPENDS, "callback_metrics"),
}


@pytest.mark.parametrize("kind", PROTECTIONS)
def test_a_pass_without_a_protection_is_noticed(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home, attribute, stand_in, case, name = PROTECTIONS[kind]
    without, _ = case.told(tmp_path / "without")
    monkeypatch.setattr(home, attribute, stand_in)
    having, _ = case.told(tmp_path / "with", GeneralizationGapMonitor())
    assert any(each.endswith(name) for each in differences(without, having))


def test_a_run_is_the_same_as_itself(tmp_path: Path) -> None:
    case = CASES["noise of the dataset"]
    assert differences(case.told(tmp_path / "one")[0], case.told(tmp_path / "two")[0]) == set()
