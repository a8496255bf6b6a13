"""Two processes: what one rank alone sees is shown by rank zero, and acted on by both, with none left waiting."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed
import torch.multiprocessing
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from typing_extensions import override

from lightning_diagnostics import Finding, GraphLeakDetector, Severity
from lightning_diagnostics.findings import FindingError
from tests.helpers import fit, heard, trainer
from tests.patients import Student

ANSWER_WITHIN = timedelta(seconds=30)  # a deadlock ends as an error
EPOCH = 10  # batches of each rank
ERROR = {"retained-graph.share_of_free": 0.0}  # a limit that makes an error of every leak
ALWAYS = range(2 * EPOCH)
SOON = {"retained-graph.closes_after": 4}  # a limit that has a finding taken back soon


class LeakOn(Student):
    """Keeps the graphs of some steps on some ranks, and is healthy on the others.

    Args:
        steps: By rank, the steps whose graphs are kept; the next step after them drops them all.
    """

    def __init__(self, **steps: range) -> None:
        super().__init__()
        self.steps = steps
        self.outs: list[Tensor] = []

    def keep(self, loss: Tensor, output: Tensor) -> None:
        if self.global_step in self.steps.get(f"rank{self.global_rank}", ()):
            self.outs.append(loss)
        else:
            self.outs.clear()


class Diary(Callback):
    """Writes down what came of its process: a forked child has no other way to bring it home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: list[Any] = []

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self.write(trainer, "finished")

    def write(self, trainer: Trainer, ending: str) -> None:
        (detector,) = (c for c in trainer.callbacks if isinstance(c, GraphLeakDetector))
        told = {
            "ending": ending,
            "steps": trainer.global_step,
            "findings": [finding.to_dict() for finding in detector.findings],
            "log": [f"{record.levelname} {record.getMessage()}" for record in self.records],
        }
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(told))


class Detector(GraphLeakDetector):
    """Has its end by a finding written down: in a forked child Lightning calls no ``on_exception``."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**{"strict": True, **more})

    @override
    def _meet(self, trainer: Trainer, pl_module: Any) -> None:
        try:
            super()._meet(trainer, pl_module)
        except FindingError as error:
            (diary,) = (c for c in trainer.callbacks if isinstance(c, Diary))
            diary.write(trainer, f"FindingError at {error.finding.where}")
            torch.distributed.barrier()  # a child that is gone has the launcher end the others
            raise


@pytest.fixture(autouse=True)
def _no_child_left() -> Iterator[None]:
    yield
    assert torch.multiprocessing.active_children() == []


def _fit(folder: Path, detector: Detector, module: Student) -> list[dict[str, Any]]:
    """Two epochs in two processes; gives what each wrote down."""
    diary, logger = Diary(folder), CSVLogger(folder, name="csv", version=0)
    strategy = DDPStrategy(start_method="fork", timeout=ANSWER_WITHIN)
    run = trainer(detector, diary, devices=2, strategy=strategy, logger=logger)
    try:
        with heard() as diary.records:
            fit(run, module, batches=2 * EPOCH)
    except torch.multiprocessing.ProcessRaisedException as error:
        assert "FindingError" in str(error)  # noqa: PT017  # a run that does not raise is welcome here too
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def _said(told: dict[str, Any]) -> list[str]:
    """What a rank said while training."""
    return [line for line in told["log"] if line.startswith(("WARNING", "ERROR"))]


def _events(folder: Path) -> list[str]:
    lines = (folder / "csv" / "version_0" / "findings.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


def test_what_only_rank_one_sees_is_shown_by_rank_zero_at_the_end_of_the_epoch(tmp_path: Path) -> None:
    zero, one = _fit(tmp_path, Detector(), LeakOn(rank1=ALWAYS))
    (finding,) = zero["findings"]
    assert (finding["code"], finding["where"], finding["first_step"]) == ("MEM101", "model.outs", 0)
    assert finding["evidence"]["global_rank"] == 1
    assert len(_said(zero)) == 1
    assert [line.split(" ")[1] for line in zero["log"]] == ["watching", "MEM101", "Run"]
    assert one["log"] == [], "the other rank has no terminal"
    assert _events(tmp_path) == ["opened", "ended"]
    assert [told["steps"] for told in (zero, one)] == [2 * EPOCH] * 2


def test_what_only_rank_zero_sees_names_no_rank_and_is_said_at_once(tmp_path: Path) -> None:
    zero, one = _fit(tmp_path, Detector(), LeakOn(rank0=ALWAYS))
    assert "global_rank" not in zero["findings"][0]["evidence"]
    assert len(_said(zero)) == 1
    assert (one["findings"], one["log"]) == ([], [])
    assert _events(tmp_path) == ["opened", "ended"]


@pytest.mark.parametrize("rank", [0, 1])
def test_stop_ends_the_run_of_both_ranks_at_the_end_of_the_epoch(rank: int, tmp_path: Path) -> None:
    both = _fit(tmp_path, Detector(on_finding="stop"), LeakOn(**{f"rank{rank}": ALWAYS}))
    assert [(told["ending"], told["steps"]) for told in both] == [("finished", EPOCH)] * 2


@pytest.mark.parametrize("rank", [0, 1])
def test_raise_ends_the_run_of_both_ranks_where_they_meet(rank: int, tmp_path: Path) -> None:
    detector = Detector(on_finding="raise", at="error", limits=ERROR)
    both = _fit(tmp_path, detector, LeakOn(**{f"rank{rank}": ALWAYS}))
    assert [(told["ending"], told["steps"]) for told in both] == [("FindingError at model.outs", EPOCH)] * 2


def test_a_finding_below_the_severity_asked_for_ends_no_run(tmp_path: Path) -> None:
    both = _fit(tmp_path, Detector(on_finding="raise", at="error"), LeakOn(rank1=ALWAYS))
    assert [(told["ending"], told["steps"]) for told in both] == [("finished", 2 * EPOCH)] * 2


def test_rank_zero_does_not_take_back_what_another_rank_still_sees(tmp_path: Path) -> None:
    detector = Detector(limits=SOON, every_n_train_steps=1)
    zero, _ = _fit(tmp_path, detector, LeakOn(rank1=ALWAYS))
    assert zero["findings"][0]["status"] == "open"
    assert _events(tmp_path) == ["opened", "ended"]


def test_rank_zero_takes_back_what_the_other_rank_has_taken_back(tmp_path: Path) -> None:
    detector = Detector(limits=SOON, every_n_train_steps=1)
    zero, _ = _fit(tmp_path, detector, LeakOn(rank1=range(EPOCH)))
    assert zero["findings"][0]["status"] == "closed"
    assert _events(tmp_path) == ["opened", "closed", "ended"]


def test_rank_zero_goes_on_with_what_another_rank_sees_when_its_own_is_over(tmp_path: Path) -> None:
    detector = Detector(limits=SOON, every_n_train_steps=1)
    zero, _ = _fit(tmp_path, detector, LeakOn(rank0=range(7), rank1=ALWAYS))
    assert _events(tmp_path) == ["opened", "closed", "reopened", "ended"]
    assert zero["findings"][0]["evidence"]["global_rank"] == 1
    assert len(_said(zero)) == 1


def test_rank_zero_does_not_take_back_its_own_because_another_ranks_is_over(tmp_path: Path) -> None:
    detector = Detector(limits=SOON, every_n_train_steps=1)
    zero, _ = _fit(tmp_path, detector, LeakOn(rank0=ALWAYS, rank1=range(7)))
    assert zero["findings"][0]["status"] == "open"
    assert _events(tmp_path) == ["opened", "ended"]


class Carried(Detector):
    """Resumes with a finding that the program, mended meanwhile, does not make again."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        assert self._run is not None
        old = Finding("MEM101", "retained-graph", Severity.WARNING, "model.outs", 0, 9, "It leaked.", "None needed.")
        self._run.carry([old])


def test_a_finding_that_is_only_carried_into_a_resumed_run_ends_it_on_no_rank(tmp_path: Path) -> None:
    for told in _fit(tmp_path, Carried(on_finding="raise"), LeakOn()):
        assert told["ending"] == "finished"
        assert [finding["where"] for finding in told["findings"]] == ["model.outs"]
