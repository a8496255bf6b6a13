"""The matrix of modes: each cell is run once per callback and patient, and the contracts read what came of it."""

import csv
import functools
import hashlib
import itertools
import pickle
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from lightning_diagnostics import Diagnostics
from lightning_diagnostics.callback import DiagnosticCallback
from tests import helpers
from tests.patients import PATIENTS, Diagnosed, Patient, loader

ANSWER_WITHIN = timedelta(seconds=30)
"""How long two processes wait for each other before a deadlock is called one."""


@dataclass(frozen=True)
class Cell:
    """One way of training."""

    manual: bool = False
    processes: int = 1
    precision: str = "32-true"
    accumulate: int = 1

    def __str__(self) -> str:
        way = "manual" if self.manual else "automatic"
        return f"{way}-{self.processes}p-{self.precision}-acc{self.accumulate}"

    def settings(self) -> dict[str, Any]:
        """The Trainer's arguments. fp16 has a real gradient scaler, which Lightning gives the CPU only by hand."""
        settings: dict[str, Any] = {"devices": self.processes}
        if self.processes > 1:
            settings["strategy"] = DDPStrategy(start_method="fork", timeout=ANSWER_WITHIN)
        if self.precision == "16-mixed":
            settings["plugins"] = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]
        else:
            settings["precision"] = self.precision
        if not self.manual:
            settings["accumulate_grad_batches"] = self.accumulate
        return settings


FAST = (
    Cell(),
    Cell(manual=True, precision="bf16-mixed", accumulate=4),
    Cell(precision="16-mixed", accumulate=4),
    Cell(manual=True, precision="16-mixed"),
    Cell(processes=2, accumulate=4),
    Cell(manual=True, processes=2, precision="bf16-mixed"),
)
"""Every value of every axis at least twice; these run always."""

MATRIX = tuple(
    Cell(*axes) for axes in itertools.product((False, True), (1, 2), ("32-true", "bf16-mixed", "16-mixed"), (1, 4))
)
HARD = (Cell(), Cell(precision="16-mixed", accumulate=4), Cell(manual=True, processes=2, precision="bf16-mixed"))
"""Every value of every axis at least once: where each callback meets the illnesses of the others, too."""


def _cells(always: tuple[Cell, ...]) -> pytest.MarkDecorator:
    """All cells, those but some at the slow level."""
    every = [pytest.param(cell, marks=() if cell in always else pytest.mark.slow) for cell in MATRIX]
    return pytest.mark.parametrize("cell", every, ids=str)


every_cell = _cells(FAST)
every_cell_but_plain_slowly = _cells((Cell(),))


def _meetings(*, own: bool) -> Iterator[Any]:
    for member, patient, cell in itertools.product(helpers.MEMBERS, PATIENTS, MATRIX):
        if own and patient.room != member.room:
            continue
        always = FAST if patient.room == member.room else HARD
        marks = () if member in helpers.KINDS and cell in always else pytest.mark.slow
        yield pytest.param(member, patient, cell, marks=marks, id=f"{member}-{patient}-{cell}")


every_meeting = pytest.mark.parametrize(("member", "patient", "cell"), list(_meetings(own=False)))
"""Each callback, patient and cell; by default its own illnesses in `FAST` cells, and those of others in `HARD` ones."""
every_meeting_of_its_own = pytest.mark.parametrize(("member", "patient", "cell"), list(_meetings(own=True)))

USER_METRICS = ("train_loss", "val_loss")

PUBLISHED = "gap/"
"""How the names begin of what we add to ``trainer.callback_metrics``."""

CONCLUDES_ON_RANK_ZERO = {"expected_performance"}
"""Rooms whose findings are of files, which rank zero alone reads when the run is over."""


@dataclass
class Outcome:
    """What came of a run in one process, in plain values.

    Attributes:
        digests: Of weights, buffers, optimizer states, generators, batches and metrics, by name.
        metrics: The user's lines in the CSV logger's file (rank zero).
        drawn: What the callbacks drew into it: steps and names.
        findings: The callback's findings as dicts.
        log: Level and text of every record of our logger.
        left: Hooks and modes alive at the end.
        steps: Optimizer steps made.
    """

    digests: dict[str, str]
    findings: list[dict[str, Any]]
    log: list[tuple[str, str]]
    left: set[str]
    steps: int
    metrics: list[str] = field(default_factory=list)
    drawn: list[tuple[int, str]] = field(default_factory=list)

    @property
    def diagnosed(self) -> set[Diagnosed]:
        """Code, place and first step of what is more than a note."""
        return {(f["code"], f["where"], f["first_step"]) for f in self.findings if f["severity"] != "INFO"}


class Recorder(Callback):
    """Stands last in the list and writes the `Outcome` of its process to a file when everything is torn down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch[0].clone())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        ours = [c for c in trainer.callbacks if isinstance(c, DiagnosticCallback | Diagnostics)]
        outcome = Outcome(
            digests={**digests(trainer, pl_module), "batches": digest(self.batches)},
            findings=[finding.to_dict() for callback in ours for finding in callback.findings],
            log=[(record.levelname, record.getMessage()) for record in self.records],
            left=helpers.alive(pl_module),
            steps=trainer.global_step,
        )
        (self.folder / f"rank{trainer.global_rank}.pickle").write_bytes(pickle.dumps(outcome))

    def fit(self, trainer: Trainer, pl_module: LightningModule, **loaders: Any) -> list[Outcome]:
        """Train from fixed seeds and give the outcome of every rank."""
        seed_everything(1, verbose=False)
        with helpers.heard() as self.records:
            trainer.fit(pl_module, **loaders)
        files = sorted(self.folder.glob("rank*.pickle"))
        assert len(files) == trainer.world_size
        outcomes = [pickle.loads(file.read_bytes()) for file in files]
        written = logged(self.folder)
        outcomes[0].metrics = [f"{step},{name},{value}" for step, name, value in written if name in USER_METRICS]
        outcomes[0].drawn = [(step, name) for step, name, _ in written if name not in (*USER_METRICS, "epoch")]
        return outcomes


def digest(value: Any) -> str:
    """A fingerprint of nested plain values and tensors, exact to the bit."""
    if isinstance(value, Tensor):
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8)
        value = (str(value.dtype), tuple(value.shape), flat.numpy().tobytes())
    elif isinstance(value, dict):
        value = [(key, digest(item)) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        value = [digest(item) for item in value]
    return hashlib.sha256(repr(value).encode()).hexdigest()


def digests(trainer: Trainer, pl_module: LightningModule) -> dict[str, str]:
    """Everything that a callback must not change, by name."""
    parts: dict[str, Any] = {f"state.{name}": value for name, value in pl_module.state_dict().items()}
    parts |= {f"optimizer.{i}": optimizer.state_dict() for i, optimizer in enumerate(trainer.optimizers)}
    parts |= {f"gradient.{name}": p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
    metrics = trainer.callback_metrics.items()
    parts |= {f"metric.{name}": value for name, value in metrics if not name.startswith(PUBLISHED)}
    state = np.random.get_state()
    parts |= {"rng.torch": torch.get_rng_state(), "rng.numpy": [state[0], state[1].tolist(), *state[2:]]}
    parts |= {"rng.python": random.getstate(), "modes": [m.training for m in pl_module.modules()]}
    parts |= {"scaler": getattr(trainer.scaler, "state_dict", dict)(), "steps": trainer.global_step}
    return {name: digest(value) for name, value in parts.items()}


def logged(folder: Path) -> list[tuple[int, str, str]]:
    """Step, name and value of everything in the CSV logger's file, in its order."""
    with (folder / "csv" / "version_0" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [(int(row["step"]), name, value) for row in rows for name, value in row.items() if value and name != "step"]


def differences(one: Outcome, other: Outcome) -> set[str]:
    """The names of what is not bit-identical."""
    names = one.digests.keys() | other.digests.keys()
    changed = {name for name in names if one.digests.get(name) != other.digests.get(name)}
    return changed | ({"logged metrics"} if one.metrics != other.metrics else set())


def run(cell: Cell, patient: Patient, *callbacks: Any, sick: bool = False, **loader_settings: Any) -> list[Outcome]:
    """Train a patient, or its healthy twin, in one cell from fixed seeds; gives the outcome of every rank."""
    seed_everything(0, verbose=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recorder = Recorder(folder)
        module = patient.make(sick=sick, manual=cell.manual, accumulate=cell.accumulate if cell.manual else 1)
        logger = CSVLogger(folder, name="csv", version=0)
        # So many batches that every process sees enough of them.
        data = {"train_dataloaders": loader(8 * cell.processes, **loader_settings)}
        data["val_dataloaders"] = loader(2 * cell.processes, shuffle=False)
        fitting = helpers.trainer(*callbacks, recorder, logger=logger, **cell.settings(), **patient.settings)
        return recorder.fit(fitting, module, **data)


@functools.cache
def outcomes(cell: Cell, patient: int, member: int | None, *, sick: bool) -> tuple[Outcome, ...]:
    """The same, remembered: by the place of the patient in `PATIENTS` and of the callback in `MEMBERS`."""
    callbacks = [] if member is None else [helpers.MEMBERS[member]()]
    return tuple(run(cell, PATIENTS[patient], *callbacks, sick=sick))
