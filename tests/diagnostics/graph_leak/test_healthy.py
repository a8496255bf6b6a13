"""Silence over 500 steps where nothing is wrong, and what is said where nothing could be seen."""

import gc
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor
from torch.nn import functional

from lightning_diagnostics import GraphLeakDetector, Severity
from tests.diagnostics.graph_leak import healthy, networks, sick
from tests.helpers import trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore:Using backward\\(\\) with create_graph=True will create a reference",
    "ignore:`training_step` returned `None`",
)


PROGRAMS = (*healthy.HEALTHY, *networks.NETWORKS)
SEEDS = (0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow))


def test_the_sweep_is_as_wide_as_a_rule_needs_that_is_no_preview() -> None:
    assert len(set(PROGRAMS)) >= 30
    assert len(SEEDS) >= 3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", PROGRAMS, ids=lambda cls: cls.__name__)
def test_a_healthy_program_is_left_in_peace_for_500_steps(make: type[LightningModule], seed: int) -> None:
    torch.manual_seed(seed)
    detector = GraphLeakDetector(strict=True)
    trainer(detector, max_epochs=50).fit(make(), sick.batches())
    assert detector.findings == []


def test_a_healthy_program_is_left_in_peace_under_accumulation() -> None:
    detector = GraphLeakDetector(strict=True)
    trainer(detector, max_epochs=50, accumulate_grad_batches=4).fit(healthy.Classifier(), sick.batches())
    assert detector.findings == []


def test_what_only_cycles_hold_costs_few_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    collections = []
    collect = gc.collect
    monkeypatch.setattr(gc, "collect", lambda *args: collections.append(1) or collect(*args))
    trainer(GraphLeakDetector(strict=True), max_epochs=50).fit(healthy.Cycles(), sick.batches())
    ours = len(collections)
    collections.clear()
    trainer(max_epochs=50).fit(healthy.Cycles(), sick.batches())
    assert 1 <= ours - len(collections) <= 5  # steps 6, 38, 102, 230 and 486


class Blind(sick.Classifier):
    """Calls backward itself, and computes without calling a module."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        first = self.net[0]
        loss = functional.linear(batch[0], first.weight, first.bias).square().mean()
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class CompiledRaw(Blind):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend="eager")

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        functional.cross_entropy(self.net(batch[0]), batch[1]).backward()
        optimizer.step()


class NoGraph(sick.Classifier):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return None


@pytest.mark.parametrize("make", [Blind, CompiledRaw, NoGraph])
def test_a_program_that_shows_no_graph_is_noted_once(make: type[LightningModule]) -> None:
    detector = GraphLeakDetector(strict=True)
    trainer(detector, max_epochs=3).fit(make(), sick.batches())
    (note,) = detector.findings
    assert (note.code, note.severity, note.where) == ("MEM901", Severity.INFO, None)
    assert (note.first_step, note.status) == (0, "open")
    assert ("a compiled model shows none" in note.message) == (make is CompiledRaw)


def test_the_note_is_closed_when_graphs_are_seen_after_all() -> None:
    class LongEpisodes(sick.Classifier):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss if self.trainer.fit_loop.epoch_loop.total_batch_idx % 20 == 19 else None

    detector = GraphLeakDetector(strict=True)
    trainer(detector, max_epochs=3).fit(LongEpisodes(), sick.batches())
    assert [(f.code, f.status) for f in detector.findings] == [("MEM901", "closed")]


def test_a_run_too_short_for_a_verdict_says_so(caplog: pytest.LogCaptureFixture) -> None:
    detector = GraphLeakDetector(strict=True)
    with caplog.at_level("INFO", logger="lightning_diagnostics"):
        trainer(detector, max_epochs=1, limit_train_batches=4).fit(sick.RunningLoss(), sick.batches())
    assert detector.findings == []
    assert "Too early to say: graphs of 3 earlier steps were alive at the end, a verdict needs 5." in caplog.text


def test_the_hook_of_a_run_that_broke_off_untold_removes_itself() -> None:
    class BreaksOff(sick.RawBackward):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            super().training_step(batch, batch_idx)
            raise RuntimeError("in the step")

    class FailsToo(Callback):
        def on_exception(self, *args: Any) -> None:
            raise RuntimeError("and on telling of it")

    module = BreaksOff()
    with pytest.raises(RuntimeError, match="and on telling of it"):
        trainer(FailsToo(), GraphLeakDetector(strict=True), max_epochs=1).fit(module, sick.batches())
    module.net(torch.ones(1, 8))
    assert not torch.nn.modules.module._global_forward_hooks
