"""The monitor in real runs: bad arguments, a resume, copies, compilers, what is drawn, and what is left."""

import copy
import gc
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_diagnostics import GradientNormMonitor
from lightning_diagnostics.diagnostics.gradients import looking
from tests.helpers import accusations, alive, heard, held, trainer
from tests.patients import ForgottenBackbone, Student

# Bad arguments.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every_n_train_steps": 0}, ValueError, "every_n_train_steps=0: allowed is 1 or more"),
        ({"every_n_train_steps": 2.5}, TypeError, "every_n_train_steps=2.5: expected a whole number of 1 or more"),
        ({"window": 9}, ValueError, "window=9: allowed is 10 or more"),
        ({"window": True}, TypeError, "window=True: expected a whole number of 10 or more"),
        ({"max_layers": 0}, ValueError, "max_layers=0: allowed is 1 or more"),
        ({"max_layers": "3"}, TypeError, "max_layers='3': expected a whole number of 1 or more"),
        ({"histograms": 1}, TypeError, "histograms=1: allowed are True and False"),
        ({"histograms": None}, TypeError, "histograms=None: allowed are True and False"),
        ({"on_finding": "shout"}, ValueError, "on_finding='shout': "),
        ({"at": "info"}, ValueError, "at='info': "),
        ({"limits": {"exploding-gradient.factr": 1.0}}, ValueError, "'exploding-gradient.factr'"),
        (
            {"limits": {"exploding-gradient.factor": 0.5}},
            ValueError,
            "limit 'exploding-gradient.factor' is 0.5: allowed is 1 to inf",
        ),
        (
            {"limits": {"GRD102.batches": 0}},
            ValueError,
            "limit 'missing-gradient.batches' is 0: allowed is 1 to inf",
        ),
        (
            {"limits": {"vanishing-gradient.looks": 2.5}},
            ValueError,
            "limit 'vanishing-gradient.looks' is 2.5: expected a whole number",
        ),
    ],
)
def test_a_bad_argument_is_quoted_with_its_name_and_what_is_allowed(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        GradientNormMonitor(**arguments)


@pytest.mark.parametrize("window", [10, 11, 10_000])
def test_the_least_that_is_allowed_is(window: int) -> None:
    monitor = GradientNormMonitor(every_n_train_steps=1, window=window, max_layers=1, histograms=False)
    assert (monitor.every_n_train_steps, monitor.window, monitor.max_layers) == (1, window, 1)


def test_arguments_are_keywords_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        GradientNormMonitor(50)  # type: ignore[misc]


# Runs that are the same in every step.


class Steady(LightningModule):
    """Draws nothing at random after it was made, so that a resumed run takes the steps of an unbroken one."""

    def __init__(self, *, forgets: bool = False, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2))
        self.forgets = forgets

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1]) * (1 + batch_idx % 3)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam((self.net[2] if self.forgets else self.net).parameters(), lr=0.01)


def steady_loader(batches: int = 10) -> DataLoader:
    draw = torch.Generator().manual_seed(2)
    rows = TensorDataset(torch.randn(4 * batches, 4, generator=draw), torch.randn(4 * batches, 2, generator=draw))
    return DataLoader(rows, batch_size=4, shuffle=False)


def monitor(**more: Any) -> GradientNormMonitor:
    return GradientNormMonitor(**{"strict": True, "window": 12, "histograms": False, **more})


def told(watched: GradientNormMonitor) -> list[tuple[Any, ...]]:
    return [(f.code, f.where, f.first_step, f.status, f.message) for f in watched.findings]


CLIP = {"gradient_clip_val": 0.05}


# A resume.


@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("every", [1, 50])
def test_a_run_that_was_resumed_at_an_epochs_end_has_the_moments_and_findings_of_an_unbroken_one(
    every: int, forgets: bool, tmp_path: Path
) -> None:
    limits = {"vanishing-gradient.looks": 25}  # more than the second part has
    unbroken, first, second = (monitor(every_n_train_steps=every, limits=limits) for _ in range(3))
    trainer(unbroken, max_epochs=4, **CLIP).fit(Steady(forgets=forgets), steady_loader())
    begun = trainer(first, max_epochs=2, **CLIP)
    begun.fit(Steady(forgets=forgets), steady_loader())
    begun.save_checkpoint(tmp_path / "half.ckpt")
    resumed = trainer(second, max_epochs=4, **CLIP)
    resumed.fit(Steady(forgets=forgets), steady_loader(), ckpt_path=tmp_path / "half.ckpt")
    assert resumed.global_step == 40
    assert second.room_state() == unbroken.room_state()
    assert told(second) == told(unbroken)
    assert bool(accusations(second)) is forgets
    (history,) = second.room_state()["histories"].values()
    assert history["steps"] == 40
    assert len(history["recent"]) == 12


class _Unused(Steady):
    """An optimizer has a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def test_what_waits_for_a_gradient_goes_on_waiting_after_a_resume(tmp_path: Path) -> None:
    limits = {"missing-gradient.batches": 35}
    unbroken, first, second = (monitor(limits=limits) for _ in range(3))
    trainer(unbroken, max_epochs=4).fit(_Unused(), steady_loader())
    begun = trainer(first, max_epochs=2)
    begun.fit(_Unused(), steady_loader())
    begun.save_checkpoint(tmp_path / "half.ckpt")
    trainer(second, max_epochs=4).fit(_Unused(), steady_loader(), ckpt_path=tmp_path / "half.ckpt")
    assert told(first) == []
    assert [(f.code, f.where) for f in accusations(second)] == [("GRD102", "unused")]
    assert told(second) == told(unbroken)


class _Saves(Callback):
    """A checkpoint in mid-epoch."""

    def __init__(self, path: Path, at: int) -> None:
        self.path, self.at = path, at

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.at and not self.path.exists():
            trainer.save_checkpoint(self.path)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("at", [13, 15])
def test_a_run_that_was_resumed_in_mid_epoch_has_the_moments_of_an_unbroken_one(at: int, tmp_path: Path) -> None:
    path, alike = tmp_path / "mid.ckpt", DataLoader([(torch.ones(2, 4), torch.ones(2, 2))] * 10, batch_size=None)
    unbroken, resumed = monitor(every_n_train_steps=1), monitor(every_n_train_steps=1)
    trainer(unbroken, _Saves(path, at), max_epochs=3, **CLIP).fit(Steady(), alike)
    again = trainer(resumed, max_epochs=3, **CLIP)
    again.fit(Steady(), alike, ckpt_path=path)
    assert again.global_step == 30
    one, other = (each.room_state()["histories"]["Adam"] for each in (resumed, unbroken))
    assert one["steps"] == other["steps"] == 30
    assert [seen[:2] for seen in one["recent"]] == [seen[:2] for seen in other["recent"]]
    assert one["average"] == other["average"]
    assert one["first"] == other["first"]


# A second fit.


def test_a_second_fit_of_another_model_begins_anew() -> None:
    both, alone = monitor(every_n_train_steps=1), monitor(every_n_train_steps=1)
    run = trainer(both, max_epochs=2)
    sick = Steady(forgets=True)
    run.fit(sick, steady_loader())
    assert {(f.code, f.status) for f in accusations(both)} == {("GRD103", "open")}
    run.fit_loop.max_epochs = 4
    healthy = Steady(width=5)
    run.fit(healthy, steady_loader())
    assert {(f.code, f.status) for f in accusations(both)} == {("GRD103", "closed")}
    trainer(alone, max_epochs=2).fit(Steady(width=5), steady_loader())
    one, other = (each.room_state()["histories"]["Adam"] for each in (both, alone))
    assert [seen[1] for seen in one["recent"]] == [seen[1] for seen in other["recent"]]
    assert one["steps"] == other["steps"] == 20
    assert alive(sick) == alive(healthy) == set()


def test_a_second_fit_of_the_same_model_goes_on() -> None:
    watched, module = monitor(every_n_train_steps=1), Steady()
    run = trainer(watched, max_epochs=1)
    run.fit(module, steady_loader())
    run.fit_loop.max_epochs = 2
    run.fit(module, steady_loader())
    assert watched.room_state()["histories"]["Adam"]["steps"] == 20


# Endings.


@pytest.mark.parametrize("hook", ["training_step", "on_before_backward", "on_after_backward", "on_before_zero_grad"])
@pytest.mark.parametrize("ending", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("at", [0, 3])
def test_whatever_ends_a_run_no_hook_is_left(hook: str, ending: type[BaseException], at: int) -> None:
    module, watched = Steady(), monitor(every_n_train_steps=1)
    plain = getattr(module, hook)

    def ends(*args: Any) -> Any:
        if module.trainer.global_step >= at:
            raise ending("planted")
        return plain(*args)

    setattr(module, hook, ends)
    with pytest.raises((ending, SystemExit)):
        trainer(watched, max_epochs=1).fit(module, steady_loader())
    assert alive(module) == set()
    assert held(watched) == []


# Copies.


class _Copies(Callback):
    """Copies module and optimizer within the step that is looked at, and lets both copies train on."""

    def __init__(self) -> None:
        self.left: list[set[str]] = []
        self.steps: list[int] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        twin, moves = copy.deepcopy((pl_module.net, optimizer))
        torch.save(optimizer.state_dict(), io.BytesIO())
        hooks = {name for name, value in vars(moves).items() if name.endswith("_hooks") and value}
        found = {name for name, p in twin.named_parameters() if getattr(p, "_post_accumulate_grad_hooks", None)}
        self.left.append(hooks | found)
        twin(torch.ones(2, 4)).sum().backward()
        moves.step()


def test_a_copy_of_module_and_optimizer_in_mid_look_carries_nothing_and_is_not_counted() -> None:
    watched, alone, copies = monitor(every_n_train_steps=1), monitor(every_n_train_steps=1), _Copies()
    trainer(watched, copies, max_epochs=1).fit(Steady(), steady_loader())
    trainer(alone, max_epochs=1).fit(Steady(), steady_loader())
    assert copies.left == [set()] * 10
    assert watched.room_state()["histories"] == alone.room_state()["histories"]


def test_a_copy_of_the_monitor_has_no_part_in_the_run() -> None:
    watched, copies = monitor(every_n_train_steps=1), list[GradientNormMonitor]()

    class Takes(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            copies.append(copy.deepcopy(watched))

    trainer(watched, Takes(), max_epochs=1).fit(Steady(), steady_loader())
    assert held(copies[3]) == []
    assert copies[3].room_state()["histories"]["Adam"]["steps"] == 4
    trainer(copies[3], max_epochs=1).fit(Steady(), steady_loader())
    assert watched.room_state()["histories"]["Adam"]["steps"] == 10


# Compilers.


class _InOneGraph(nn.Module):
    """The network of a `Steady`, compiled; what breaks the graph is an error."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.first, self.between, self.last = parts
        self.compile(backend="eager", fullgraph=True)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.between(self.first(inputs)))


class _Compiled(Steady):
    def __init__(self) -> None:
        super().__init__()
        self.net = _InOneGraph(*self.net)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def test_a_compiled_model_has_the_same_numbers_and_the_same_weights(recwarn: pytest.WarningsRecorder) -> None:
    found: list[Any] = []
    for kind in (Steady, _Compiled):
        torch.compiler.reset()
        module, watched = kind(), monitor(every_n_train_steps=1)
        with heard() as records:
            trainer(watched, max_epochs=1, **CLIP).fit(module, steady_loader())
        found.append((watched.room_state(), told(watched), [record.getMessage() for record in records]))
        without = kind()
        trainer(max_epochs=1, **CLIP).fit(without, steady_loader())
        assert all(map(torch.equal, module.state_dict().values(), without.state_dict().values()))
    assert found[0][1:] == found[1][1:]
    one, other = (state["histories"]["Adam"]["recent"] for state, *_ in found)
    assert [seen[1] for seen in one] == pytest.approx([seen[1] for seen in other], rel=1e-5)
    assert [str(w.message) for w in recwarn if "graph break" in str(w.message).lower()] == []


# Memory.


def _tensors() -> int:
    gc.collect()
    return sum(issubclass(type(each), Tensor) for each in gc.get_objects())


class _Counts(Callback):
    """How many tensors there are at the end of some steps."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.counts = steps, list[int]()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step in self.steps:
            self.counts.append(_tensors())


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_between_looks_no_more_tensors_wait_than_a_page_of_them() -> None:
    counts, watched = _Counts(100, 1950), monitor(every_n_train_steps=10_000)
    batch = (torch.ones(2, 4), torch.ones(2, 2))
    run = trainer(watched, counts, max_epochs=1, max_steps=2000)
    run.fit(Steady(), DataLoader([batch] * 16_000, batch_size=None))
    early, late = counts.counts
    assert late - early < 300
    assert watched.room_state()["histories"]["Adam"]["steps"] == 2000


class _Weights(Callback):
    """The copies of weights that are alive at the end of every batch."""

    def __init__(self, watched: GradientNormMonitor) -> None:
        self.watched, self.left = watched, list[int]()

    def on_train_batch_end(self, *args: Any) -> None:
        self.left.append(self._copies())

    def _copies(self) -> int:
        gc.collect()
        looks = [each for each in gc.get_objects() if type(each) is looking.Look]
        return sum(len(look.copies) for look in looks)


def test_copies_of_weights_are_gone_after_a_look() -> None:
    watched = monitor(every_n_train_steps=1)
    counts = _Weights(watched)
    trainer(watched, counts, max_epochs=1).fit(Steady(), steady_loader())
    assert counts.left == [0] * 10
    assert watched.room_state()["depths"]["Adam"]["looks"] != []


# What is drawn.


def drawn(logger: TensorBoardLogger) -> EventAccumulator:
    return EventAccumulator(logger.log_dir, size_guidance={"histograms": 0, "scalars": 0, "images": 0}).Reload()


class _Deep(Steady):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), *(nn.Linear(4, 4) for _ in range(8)), nn.Linear(4, 2))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.parametrize("layers", [1, 3, 30])
def test_so_many_layers_are_drawn_and_all_are_judged(layers: int, tmp_path: Path) -> None:
    logger, watched = TensorBoardLogger(tmp_path), monitor(max_layers=layers, histograms=True)
    trainer(watched, logger=logger, max_epochs=1).fit(_Deep(), steady_loader())
    tags = drawn(logger).Tags()
    count = min(layers, 10)
    assert len([tag for tag in tags["scalars"] if tag.startswith("gradients/layer_norm/")]) == count
    assert len([tag for tag in tags["histograms"] if tag.startswith("gradients/histogram/")]) == count
    assert watched.room_state()["depths"]["SGD"]["ends"][2] == 10


@pytest.mark.parametrize("histograms", [True, False])
def test_histograms_can_be_switched_off(histograms: bool, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    trainer(monitor(histograms=histograms), logger=logger, max_epochs=1).fit(Steady(), steady_loader())
    layers = ("net.0", "net.2")
    expected = {f"gradients/{kind}/{layer}" for kind in ("histogram", "weights_histogram") for layer in layers}
    assert set(drawn(logger).Tags()["histograms"]) == (expected if histograms else set())


class _Seeing(LightningModule):
    """A convolution over images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(channels, 6, 3)
        self.head = nn.LazyLinear(1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.head(self.first(batch[0]).relu().flatten(1)).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize(("channels", "size"), [(1, (42, 28)), (3, (42, 28)), (4, (70, 70))])
def test_the_filters_of_the_first_convolution_are_drawn_once_an_epoch(
    channels: int, size: tuple[int, int], tmp_path: Path
) -> None:
    logger, watched = TensorBoardLogger(tmp_path), monitor()
    images = DataLoader(TensorDataset(torch.randn(16, channels, 6, 6)), batch_size=4)
    trainer(watched, logger=logger, max_epochs=2).fit(_Seeing(channels), images)
    read = drawn(logger).Images("gradients/filters/first")
    assert [(image.step, image.width, image.height) for image in read] == [(3, *size), (7, *size)]
    assert accusations(watched) == []
    assert watched.room_state()["histories"]["SGD"]["steps"] == 8


def test_other_loggers_get_numbers_and_no_pictures(tmp_path: Path) -> None:
    table = CSVLogger(tmp_path)
    images = DataLoader(TensorDataset(torch.randn(16, 3, 6, 6)), batch_size=4)
    module = _Seeing(3)
    module.head = nn.Linear(96, 1)
    with heard() as records:
        trainer(monitor(), logger=table, max_epochs=1).fit(module, images)
    header = (Path(table.log_dir) / "metrics.csv").read_text().splitlines()[0]
    assert "gradients/norm/SGD" in header
    assert "filters" not in header
    assert [record for record in records if record.exc_info] == []


# Findings of a run.


def test_a_forgotten_backbone_is_told_of_in_whole() -> None:
    watched = monitor()
    trainer(watched, max_epochs=1).fit(ForgottenBackbone(sick=True), _rows(), _rows())
    assert [(f.code, f.where, f.first_step) for f in accusations(watched)] == [
        ("GRD103", "net.0", 0),
        ("GRD103", "net.1", 0),
    ]
    assert accusations(watched)[0].message == "2 parameters (40 weights) get gradients, but no optimizer has them."


def test_a_healthy_network_is_watched_in_silence() -> None:
    watched = monitor()
    trainer(watched, max_epochs=1).fit(Student(), _rows(), _rows())
    assert watched.findings == []


def _rows() -> DataLoader:
    draw = torch.Generator().manual_seed(0)
    rows = TensorDataset(torch.randn(160, 4, generator=draw), torch.randn(160, generator=draw))
    return DataLoader(rows, batch_size=8)
