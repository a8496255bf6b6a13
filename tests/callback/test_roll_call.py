"""Processes that do not have the same diagnostics: each goes by itself, and none is left waiting."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy

from lightning_diagnostics import ActivationMonitor, Diagnostics, GraphLeakDetector
from lightning_diagnostics.callback.base import DiagnosticCallback
from lightning_diagnostics.findings import Finding
from lightning_diagnostics.findings.records import read_run
from tests.contracts.cells import ANSWER_WITHIN
from tests.helpers import KINDS, fit, heard, trainer
from tests.patients import BATCHES, LossList

LEAK = ("MEM101", "model.losses")
EPOCHS = 2
Make = Callable[[int], list[Callback]]


def _suite(**more: Any) -> Diagnostics:
    return Diagnostics(**{"strict": True, **more})


def _train(folder: Path, rank: int, makes: list[Make]) -> None:
    """What one process of torchrun's does: a fit for each list of callbacks, in one group of processes."""
    told = []
    for number, make in enumerate(makes):
        callbacks, logger = make(rank), CSVLogger(folder, name="csv", version=number)
        run: Trainer = trainer(*callbacks, devices=2, strategy=DDPStrategy(timeout=ANSWER_WITHIN), logger=logger)
        with heard() as records:
            fit(run, LossList(sick=True), batches=2 * BATCHES)
        findings: list[Finding] = [f for c in callbacks if hasattr(c, "findings") for f in c.findings]  # type: ignore[attr-defined]
        log = [record.getMessage() for record in records]
        told.append({"steps": run.global_step, "findings": [f.key for f in findings], "log": log})
        assert not any(isinstance(c, DiagnosticCallback) for c in run.callbacks if c not in callbacks)
    (folder / f"rank{rank}.json").write_text(json.dumps(told))


def _process(rank: int, folder: Path, port: int, makes: list[Make]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {name: str(rank) for name in ("RANK", "LOCAL_RANK")}
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    _train(folder, rank, makes)


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Callable[..., list[list[dict[str, Any]]]]]:
    """Gives what each fit of each process told."""

    def start(*makes: Make) -> list[list[dict[str, Any]]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.multiprocessing.start_processes(_process, (tmp_path, port, list(makes)), nprocs=2, start_method="fork")
        return [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]

    yield start
    assert torch.multiprocessing.active_children() == []


def _unlike(told: list[dict[str, Any]]) -> list[str]:
    """Which diagnostics were said not to be alike, by all processes together."""
    return sorted(line.split()[0] for each in told for line in each["log"] if "is not alike in all" in line)


def _only_on(rank: int, **more: Any) -> Make:
    return lambda this: [_suite(**more)] if this == rank else []


NAMES = [member.name for member in KINDS]
BY_PRESET = [member for member in KINDS if member.kind.presets]
LIGHT = [member.name for member in BY_PRESET if member.kind.presets["light"] is not None]
UNLIKE: dict[str, tuple[Make, list[str]]] = {
    "on rank zero only": (_only_on(0), NAMES),
    "on rank one only": (_only_on(1), NAMES),
    "stops, on one": (_only_on(0, on_finding="stop"), NAMES),
    "one stops": (lambda rank: [_suite(on_finding=("stop", "report")[rank])], [*NAMES, *NAMES]),
    "other presets": (
        lambda rank: [_suite(preset=("light", "thorough")[rank])],
        [*LIGHT, *(member.name for member in BY_PRESET)],
    ),
    "other limits": (
        lambda rank: [_suite(limits={"retained-graph.closes_after": 4 + rank})],
        ["GraphLeakDetector", "GraphLeakDetector"],
    ),
    "one has one less": (lambda rank: [_suite(activations=False if rank else None)], [*NAMES, *NAMES[1:]]),
    "another order": (
        lambda rank: [GraphLeakDetector(strict=True), ActivationMonitor(strict=True)][:: 1 - 2 * rank],
        2 * ["ActivationMonitor", "GraphLeakDetector"],
    ),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_processes_that_are_not_alike_are_told_of_and_train_to_the_end(name: str, train: Any, tmp_path: Path) -> None:
    make, unlike = UNLIKE[name]
    both = [each for (each,) in train(make)]
    assert [told["steps"] for told in both] == [EPOCHS * BATCHES] * 2
    assert _unlike(both) == sorted(unlike)
    for rank, told in enumerate(both):
        assert (list(LEAK) in told["findings"]) == bool(make(rank))
    assert (tmp_path / "csv" / "version_0" / "diagnostics.json").is_file() == bool(make(0))


def test_processes_that_are_alike_are_not_told_of_in_any_fit(train: Any, tmp_path: Path) -> None:
    alike: Make = lambda rank: [_suite()]  # noqa: E731
    missing = _only_on(0)
    idle: Make = lambda rank: [_suite(), _Ends()]  # noqa: E731
    zero, one = train(alike, missing, alike, _only_on(1), missing, idle, alike)
    assert [_unlike([a, b]) for a, b in zip(zero, one, strict=True)] == [[], NAMES, [], NAMES, NAMES, [], []]
    assert [told["steps"] for told in zero] == [EPOCHS * BATCHES] * 5 + [0, EPOCHS * BATCHES]
    assert {finding.key for finding in read_run(tmp_path / "csv" / "version_6").findings} >= {LEAK}


class _Ends(Callback):
    """Leaves nothing to train."""

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        trainer.fit_loop.max_epochs = 0


def test_with_other_words_for_what_is_shown_the_processes_are_alike(train: Any) -> None:
    both = [each for (each,) in train(lambda rank: [_suite(ignore=["ACT101"] if rank else None)])]
    assert _unlike(both) == []
