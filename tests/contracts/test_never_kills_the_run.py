"""Promise 2: a fault of a diagnostic is reported once, the diagnostic falls silent, and training goes on.

It speaks through its logger only: pytest turns every warning into an error, which would end the runs of this file.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from tests.contracts.cells import CONCLUDES_ON_RANK_ZERO, Cell, run
from tests.contracts.planting import RANK_SITES, SITES, TEMPLATES, PlantedError, own_hooks, planted
from tests.helpers import (
    AT_WORK,
    LOGGER,
    Member,
    accusations,
    alive,
    every_kind,
    every_kind_at_work,
    fit,
    heard,
    trainer,
)
from tests.patients import BATCHES, PATIENTS, Student, loader, of_room

MEASURES_WITH_ALL = {"generalization_gap"}
"""Rooms whose numbers are of all ranks together: if one is switched off, they have none, and say so."""

every_site = pytest.mark.parametrize(("member", "site"), SITES, ids=str)


def _sick(member: Member) -> Student:
    return of_room(member.room)[0].make(sick=True)


def _settings(member: Member) -> dict[str, Any]:
    return of_room(member.room)[0].settings


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Member], Path]:
    """A checkpoint of each callback after its first epoch, so that resuming is a place for faults too."""
    made: dict[str, Path] = {}

    def make(member: Member) -> Path:
        if str(member) not in made:
            first = fit(trainer(member(), max_epochs=1, **_settings(member)), _sick(member))
            made[str(member)] = tmp_path_factory.mktemp("first") / "first.ckpt"
            first.save_checkpoint(made[str(member)])
        return made[str(member)]

    return make


def _everything(diagnostic: Callback, module: Student, checkpoint: Path, folder: Path, **settings: Any) -> Trainer:
    """Resume, fit to the end of the third epoch with checkpoints, validate, test and predict."""
    run = trainer(diagnostic, max_epochs=3, enable_checkpointing=True, default_root_dir=folder, **settings)
    fit(run, module, ckpt_path=checkpoint)
    for act in (run.validate, run.test, run.predict):
        act(module, loader(2, shuffle=False), **({} if act == run.predict else {"verbose": False}))
    return run


@every_site
def test_a_fault_switches_the_diagnostic_off_and_training_goes_on(
    member: Member, site: str, checkpoints: Callable[[Member], Path], tmp_path: Path
) -> None:
    faulty = planted(member.kind, site)
    diagnostic, module = member(kind=faulty, strict=False), _sick(member)
    with heard() as records:
        run = _everything(diagnostic, module, checkpoints(member), tmp_path, **_settings(member))
    assert run.global_step == 3 * BATCHES
    assert faulty.raised > 0, "the fault was never reached"
    reports = [record for record in records if record.exc_info]
    runs = len(member.kind.stages) if site == "detach" else 1  # what fails in it is not switched off
    assert [(r.levelno, str(r.exc_info[1])) for r in reports] == [(logging.ERROR, f"planted in {site}")] * runs
    assert member.name in reports[0].getMessage()
    blind = [
        f for f in diagnostic.findings if f.code == member.kind.blind_rule.code and f"planted in {site}" in f.message
    ]
    assert len(blind) == 1
    assert alive(module) == set()


@every_site
def test_strict_raises_the_fault_instead(
    member: Member, site: str, checkpoints: Callable[[Member], Path], tmp_path: Path
) -> None:
    faulty = member(kind=planted(member.kind, site))
    with pytest.raises(PlantedError, match=f"planted in {site}"):
        _everything(faulty, _sick(member), checkpoints(member), tmp_path, **_settings(member))


@pytest.mark.parametrize(("member", "site", "rank"), RANK_SITES)
def test_a_fault_on_one_rank_leaves_no_rank_waiting(member: Member, site: str, rank: int) -> None:
    faulty = planted(member.kind, site, when=lambda: torch.distributed.get_rank() == rank)
    both = run(Cell(processes=2), of_room(member.room)[0], member(kind=faulty, strict=False), sick=True)
    assert [outcome.steps for outcome in both] == [2 * BATCHES] * 2
    said = [[text for level, text in each.log if level == "ERROR" and "failed in" in text] for each in both]
    saves = not member.kind.state_outlives_run
    reached = site != "load_room_state" and (saves or site != "room_state")  # nothing is saved or resumed in this run
    reached = reached and not any(word in site for word in ("test", "predict"))  # nor tested
    assert len(said[rank]) == reached
    assert said[1 - rank] == []
    notes = [[f["message"] for f in each.findings if f["code"] == member.kind.blind_rule.code] for each in both]
    if member.room in CONCLUDES_ON_RANK_ZERO:
        assert bool(both[0].diagnosed) == (rank == 1 or not reached or site in _AFTER_THE_VERDICT)
        return
    blind = notes[0] and any("not every process" in note for note in notes[1 - rank])
    assert both[1 - rank].diagnosed or (member.room in MEASURES_WITH_ALL and blind)  # by the rank that is well, and
    assert both[0].diagnosed == both[1 - rank].diagnosed  # shown by rank zero, whichever failed


_AFTER_THE_VERDICT = {"detach", "undecided", "room_state", "on_test_end"}
"""Where a room that concludes when the run is over has its findings already."""


@pytest.mark.parametrize("fault", [PlantedError, KeyboardInterrupt], ids=lambda fault: fault.__name__)
@every_kind_at_work
def test_a_fault_while_a_run_breaks_off_leaves_the_users_own_as_it_is(
    member: Member, fault: type[BaseException]
) -> None:
    faulty, broken = planted(member.kind, "break_off"), planted(Student, "training_step", fault=fault)
    diagnostic, module = member(kind=faulty, strict=False), broken()
    with heard() as records, pytest.raises(SystemExit if fault is KeyboardInterrupt else fault) as raised:
        fit(trainer(diagnostic), module)
    if fault is PlantedError:
        assert str(raised.value) == "planted in training_step"
    assert faulty.raised == 1
    assert [str(record.exc_info[1]) for record in records if record.exc_info] == ["planted in break_off"]
    assert alive(module) == set()


@every_kind
def test_a_room_leaves_to_the_base_what_must_not_be_switched_off(member: Member) -> None:
    # A hook that a room defines is skipped once it failed. What the base does in these must happen all the same: the
    # merging of ranks is collective, and leaving lets go of everything. Rooms have the templates instead.
    kept = {
        "setup",
        "on_train_start",
        "on_train_epoch_end",
        *(f"on_{stage}_{which}" for stage in ("validation", "test", "predict") for which in ("start", "epoch_end")),
        "teardown",
        "on_exception",
        "state_dict",
        "load_state_dict",
    }
    assert kept & set(own_hooks(member.kind)) == set()


# Outlets that cannot be written to.


class _FullDisk(TensorBoardLogger):
    """Takes the user's scalars; whatever else is written fails as on a full disk."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if not metrics.keys() <= {"train_loss", "val_loss", "epoch", "hp_metric"}:
            raise OSError(28, "No space left on device")
        super().log_metrics(metrics, step)


class _ClosedWriter(TensorBoardLogger):
    @property
    def experiment(self) -> Any:
        writer = super().experiment
        writer.add_text = _refuse
        return writer


def _refuse(*args: Any, **kwargs: Any) -> None:
    raise OSError(28, "No space left on device")


def _blocked(folder: Path) -> TensorBoardLogger:
    """The run's folder has a folder where the findings file should be."""
    logger = TensorBoardLogger(folder)
    (Path(logger.log_dir) / "findings.jsonl").mkdir(parents=True)
    return logger


def _full(folder: Path) -> TensorBoardLogger:
    """The findings file lies on a device that is always full."""
    logger = TensorBoardLogger(folder)
    Path(logger.log_dir).mkdir(parents=True)
    (Path(logger.log_dir) / "findings.jsonl").symlink_to("/dev/full")
    return logger


@pytest.mark.parametrize("make_logger", [_FullDisk, _ClosedWriter, _blocked, _full], ids=lambda make: make.__name__)
@every_kind_at_work
def test_an_outlet_that_cannot_be_written_ends_neither_run_nor_diagnosis(
    member: Member, make_logger: Callable[[Path], Any], tmp_path: Path
) -> None:
    if make_logger is _full and not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    patient, diagnostic = of_room(member.room)[0], member()
    run = trainer(diagnostic, logger=make_logger(tmp_path), **patient.settings)
    with heard() as records:
        fit(run, patient.make(sick=True))
    assert run.global_step == 2 * BATCHES
    assert len([record for record in records if record.exc_info]) == 1
    assert len(accusations(diagnostic)) == len(patient.findings)


@every_kind
def test_a_logger_that_fails_does_not_keep_the_next_from_its_numbers(member: Member, tmp_path: Path) -> None:
    loggers = [_FullDisk(tmp_path / "full"), CSVLogger(tmp_path / "good")]
    fit(trainer(member(), logger=loggers), Student())
    alone = CSVLogger(tmp_path / "alone")
    fit(trainer(member(), logger=alone), Student())
    heads = [(Path(logger.log_dir) / "metrics.csv").read_text().splitlines()[0] for logger in (loggers[1], alone)]
    assert heads[0] == heads[1]


# The tests of the test.


def test_the_same_fault_in_a_plain_callback_kills_the_run() -> None:
    faulty = planted(Callback, "on_train_batch_end")
    run = trainer(faulty())
    with pytest.raises(PlantedError):
        fit(run, Student())
    assert run.global_step == 1


def test_the_same_fault_on_one_rank_in_a_plain_callback_kills_the_run_of_both() -> None:
    faulty = planted(Callback, "on_train_batch_end", when=lambda: torch.distributed.get_rank() == 1)
    with pytest.raises(Exception, match="planted in on_train_batch_end"):
        run(Cell(processes=2), PATIENTS[0], faulty())


def test_a_handler_that_raises_ends_what_speaks_to_it_unguarded() -> None:
    refuses = _Refuses()
    LOGGER.addHandler(refuses)
    try:
        with pytest.raises(PlantedError, match="ill"):
            LOGGER.error("ill")
    finally:
        LOGGER.removeHandler(refuses)


def test_a_logger_on_a_full_disk_fails(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        _FullDisk(tmp_path).log_metrics({"another": 1.0}, step=0)


@pytest.mark.parametrize("logger", [_blocked, _full], ids=lambda make: make.__name__)
def test_a_blocked_findings_file_fails(logger: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space|Is a directory"):
        (Path(logger(tmp_path).log_dir) / "findings.jsonl").write_text("line\n")


def test_there_are_faults_to_plant() -> None:
    assert len(SITES) > len(AT_WORK) * len(TEMPLATES)


class _Refuses(logging.Handler):
    """Fails on whatever it is given, as a handler does that turns warnings into errors."""

    def emit(self, record: logging.LogRecord) -> None:
        raise PlantedError(record.getMessage())


@every_kind
def test_a_handler_of_the_users_that_raises_costs_its_lines_and_nothing_else(member: Member) -> None:
    refuses, diagnostic = _Refuses(logging.INFO), member(strict=False)
    patient = of_room(member.room)[0]
    LOGGER.addHandler(refuses)
    before = LOGGER.level
    LOGGER.setLevel(logging.INFO)
    try:
        fit(trainer(diagnostic, **patient.settings), patient.make(sick=True))
    finally:
        LOGGER.removeHandler(refuses)
        LOGGER.setLevel(before)
    assert accusations(diagnostic)
    assert not diagnostic._off
