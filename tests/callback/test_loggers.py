"""Loggers other than TensorBoard's: what they get, and what the run itself logs, read back from their files."""

import csv
import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import groupby
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from typing_extensions import override

from lightning_diagnostics import ActivationMonitor, Finding, GraphLeakDetector, tensorboard
from lightning_diagnostics.callback.loggers import COLUMNS, WANDB_BUCKETS, bounded
from lightning_diagnostics.tensorboard import Histogram
from tests.callback.scripted import Scripted, close, diagnose
from tests.helpers import fit, heard, trainer
from tests.patients import BATCHES, RunningLoss, Student

OURS = ("activations/", "graph_leak/", "diagnostics/")
AXES = ("activations/step", "graph_leak/step")
EVERY_STEP = {"log_every_n_steps": 1}
SELDOM = {"log_every_n_steps": 3, "accumulate_grad_batches": 2}
BY_DEFAULT = {"log_every_n_steps": 50}
NAMESPACES = ("lightning.pytorch.loggers", "pytorch_lightning.loggers")

Rows = list[dict[str, Any]]
Curves = dict[str, dict[int, float]]


class Validated(RunningLoss):
    """Sick; logs its loss in steps and over the validation.

    Args:
        own: Called with the Trainer in every training step, for what a program logs by itself.
    """

    def __init__(self, own: Any = lambda trainer: None) -> None:
        super().__init__(sick=True)
        self.own = own

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        self.own(self.trainer)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", nn.functional.mse_loss(self(batch[0]).squeeze(-1), batch[1]))


def run(
    logger: Any, *callbacks: Any, module: Callable[[], LightningModule] = Validated, **settings: Any
) -> tuple[float, ...]:
    """Train from the same seeds; gives the next draw of every generator."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    fit(trainer(*callbacks, logger=logger, **settings), module())
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def both() -> tuple[GraphLeakDetector, ActivationMonitor]:
    return GraphLeakDetector(strict=True), ActivationMonitor(strict=True)


# Weights & Biases.


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """W&B without a network and with all its files in the test's folder; no process of it is left."""
    for name in ("DIR", "CONFIG_DIR", "CACHE_DIR", "DATA_DIR", "ARTIFACT_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path))
    for name, value in {"MODE": "offline", "SILENT": "true", "CONSOLE": "off", "ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.chdir(tmp_path)
    module = pytest.importorskip("wandb", reason="wandb is not installed (the extra `loggers`)")
    yield module
    end(module)
    assert _children("wandb") == []


def end(wandb: Any) -> None:
    """End the run, and the process that writes its file: only then the file is whole."""
    wandb.finish()
    wandb.teardown()


def _children(name: str) -> list[str]:
    """The command lines of this process's children that have a word in them (Linux)."""
    asked = ["ps", "-o", "args=", "--ppid", str(os.getpid())]
    return [line for line in subprocess.run(asked, capture_output=True, text=True).stdout.splitlines() if name in line]


def wandb_logger(folder: Path, namespace: str = NAMESPACES[0], **more: Any) -> Any:
    folder.mkdir(exist_ok=True)
    return import_module(namespace).WandbLogger(offline=True, save_dir=str(folder), project="project", **more)


def wandb_records(folder: Path) -> Iterator[Any]:
    """The records of the one .wandb file: chunks of records in blocks of 32 KiB, as LevelDB's log has them."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.rglob("*.wandb")
    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last chunk
            yield Record.FromString(record)
            record = b""


def wandb_rows(folder: Path) -> Rows:
    """The history of the one run in a folder."""
    rows = []
    for record in wandb_records(folder):
        if record.WhichOneof("record_type") == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                first, *inner = item.nested_key or [item.key]
                value = json.loads(item.value_json)
                if inner:
                    row.setdefault(first, {})[inner[0]] = value
                else:
                    row[first] = value
            rows.append(row)
    return rows


def theirs(rows: Rows) -> Rows:
    """The rows without what is ours and without the clock; a row of ours alone is none of theirs."""
    left = [{k: v for k, v in row.items() if not k.startswith((*OURS, "_timestamp", "_runtime"))} for row in rows]
    return [row for row in left if row.keys() - {"_step", "trainer/global_step"}]


def wandb_curves(rows: Rows) -> Curves:
    """Our numbers by tag and by the axis that they are drawn over."""
    curves: Curves = {}
    for row in rows:
        for tag, value in row.items():
            if tag.startswith(OURS) and tag not in AXES and not isinstance(value, dict):
                curves.setdefault(tag, {})[row[f"{tag.split('/')[0]}/step"]] = value
    return curves


def csv_rows(logger: Any) -> Rows:
    with open(Path(logger.log_dir) / "metrics.csv", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def csv_curves(logger: Any) -> Curves:
    curves: Curves = {}
    for row in csv_rows(logger):
        for tag in row.keys() - {"step"}:
            curves.setdefault(tag, {})[int(row["step"])] = row[tag]
    return {tag: curve for tag, curve in curves.items() if tag.startswith(OURS)}


def _own_rows(run: Trainer) -> None:
    run.logger.experiment.log({"mine": float(run.global_step)})


def _own_steps(run: Trainer) -> None:
    run.logger.experiment.log({"mine": float(run.global_step)}, step=run.global_step)


def _own_epochs(run: Trainer) -> None:
    run.logger.experiment.log({"mine": float(run.global_step)}, step=run.current_epoch)


def _half_rows(run: Trainer) -> None:
    run.logger.experiment.log({"half": float(run.global_step)}, commit=False)


@pytest.mark.parametrize(
    ("own", "settings"),
    [
        *((None, EVERY_STEP), (None, SELDOM), (None, BY_DEFAULT), (_own_steps, SELDOM)),
        *((own, BY_DEFAULT) for own in (_own_rows, _own_steps, _own_epochs, _half_rows)),
    ],
)
def test_in_wandb_every_row_of_the_run_is_what_it_is_without_us(
    own: Any, settings: dict[str, Any], wandb: Any, tmp_path: Path
) -> None:
    draws, rows = [], []
    for name, callbacks in (("without", ()), ("with", both())):
        module = partial(Validated, own) if own else Validated
        draws.append(run(wandb_logger(tmp_path / name), *callbacks, module=module, **settings))
        end(wandb)
        rows.append(theirs(wandb_rows(tmp_path / name)))
    assert draws[0] == draws[1]
    assert rows[0] == rows[1]
    assert rows[0]


class _Intruder(Callback):
    """Logs as callbacks of Lightning do."""

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any, **more: Any) -> None:
        trainer.logger.log_metrics({"activations/x": 1.0}, step=trainer.global_step)


def test_a_row_of_its_own_would_have_wandb_drop_what_the_program_logs(wandb: Any, tmp_path: Path) -> None:
    run(wandb_logger(tmp_path / "run"), _Intruder(), module=partial(Validated, _own_steps), **SELDOM)
    end(wandb)
    mine = [row["mine"] for row in theirs(wandb_rows(tmp_path / "run")) if "mine" in row]
    assert mine != list(range(BATCHES))


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("settings", [EVERY_STEP, SELDOM], ids=["every step", "seldom"])
def test_in_wandb_our_numbers_stand_at_the_step_that_they_were_measured_at(
    settings: dict[str, Any], namespace: str, wandb: Any, tmp_path: Path
) -> None:
    table = import_module(namespace).CSVLogger(tmp_path, name="table")
    run([wandb_logger(tmp_path / "run", namespace), table], *both(), **settings)
    end(wandb)
    drawn, expected = wandb_curves(wandb_rows(tmp_path / "run")), csv_curves(table)
    assert drawn.keys() == expected.keys() >= {"graph_leak/graphs_alive", "activations/mean/net.2"}
    for tag, curve in drawn.items():  # a row has the last value that there was until its step
        latest = {at: max(step for step in expected[tag] if step <= at) for at in curve}
        assert curve == {at: expected[tag][step] for at, step in latest.items()}, tag
        assert max(latest.values()) == max(expected[tag])
    steps = list(range(2 * BATCHES)) if settings is EVERY_STEP else [2, 3, 5, 7]
    assert list(drawn["graph_leak/graphs_alive"]) == steps


def test_wandb_is_told_once_which_axis_our_numbers_are_drawn_over(wandb: Any, tmp_path: Path) -> None:
    run(wandb_logger(tmp_path / "run"), *both())
    end(wandb)
    records = [r.metric for r in wandb_records(tmp_path / "run") if r.WhichOneof("record_type") == "metric"]
    told = [(metric.name, metric.step_metric) for metric in records if metric.name.startswith(OURS)]
    of_ours = {tag: f"{tag.split('/')[0]}/step" for tag in wandb_curves(wandb_rows(tmp_path / "run"))}
    assert set(of_ours.items()) <= set(told)
    assert len(told) == len(set(told))


def test_a_prefix_stands_before_our_tags_too(wandb: Any, tmp_path: Path) -> None:
    run(wandb_logger(tmp_path / "run", prefix="first"), *both())
    end(wandb)
    last = {tag: value for row in wandb_rows(tmp_path / "run") for tag, value in row.items()}
    assert {"first-train_loss", "first-graph_leak/graphs_alive", "first-graph_leak/step"} <= last.keys()
    assert last["first-activations/histogram/net.2"]["_type"] == "histogram"


def test_a_run_that_logs_nothing_itself_has_our_last_look(wandb: Any, tmp_path: Path) -> None:
    run(wandb_logger(tmp_path / "run"), *both(), module=Student, limit_val_batches=0, **BY_DEFAULT)
    end(wandb)
    assert list(wandb_curves(wandb_rows(tmp_path / "run"))["graph_leak/graphs_alive"]) == [2 * BATCHES - 1]


def test_wandb_gets_the_histograms(wandb: Any, tmp_path: Path) -> None:
    board, tag = TensorBoardLogger(tmp_path, name="board"), "activations/histogram/net.2"
    run([wandb_logger(tmp_path / "run"), board], *both())
    end(wandb)
    rows = [row for row in wandb_rows(tmp_path / "run") if tag in row]
    events = EventAccumulator(board.log_dir, size_guidance={"histograms": 0}).Reload().Histograms(tag)
    assert len(rows) == len(events) >= 8
    for row, event in zip(rows, events, strict=True):
        histogram = row[tag]
        assert histogram["_type"] == "histogram"
        assert row["activations/step"] == event.step
        assert sum(histogram["values"]) == row["activations/histogram_elements/net.2"] == event.histogram_value.num
        assert [count for count in histogram["values"] if count] == [c for c in event.histogram_value.bucket if c]
        assert set(event.histogram_value.bucket_limit) <= set(histogram["bins"])


def _histogram(edges: tuple[float, ...], counts: tuple[float, ...], low: float = 0.0, high: float = 1.0) -> Histogram:
    return Histogram(edges, counts, low=low, high=high, total=0.0, squares=0.0)


@pytest.mark.parametrize(
    ("histogram", "expected"),
    [
        (_histogram((0, 1, 2), (3, 4)), ([3, 4], [0, 1, 2])),
        (_histogram((-inf, 1, inf), (3, 4), low=-5, high=9), ([3, 4], [-5, 1, 9])),
        (_histogram((-inf, 1, 2, inf), (3, 4, 5), low=-inf, high=inf), ([3, 4, 5], [1, 1, 2, 2])),
        (_histogram((-inf, inf), (3,), low=-1, high=inf), ([3], [-1, -1])),
        (_histogram((-inf, inf), (3,), low=-inf, high=inf), ([3], [0, 0])),
    ],
)
def test_the_edges_of_a_histogram_in_wandb_are_finite(
    histogram: Histogram, expected: tuple[list[float], list[float]]
) -> None:
    assert bounded(histogram) == expected


@pytest.mark.parametrize("buckets", [1, WANDB_BUCKETS, WANDB_BUCKETS + 1, 2 * WANDB_BUCKETS, 5 * WANDB_BUCKETS + 7])
def test_a_histogram_of_any_number_of_buckets_is_taken_by_wandb(buckets: int, wandb: Any) -> None:
    counts = tuple(float(count) for count in range(buckets))
    some, edges = bounded(_histogram(tuple(float(edge) for edge in range(buckets + 1)), counts))
    wandb.Histogram(np_histogram=(some, edges))
    assert sum(some) == sum(counts)
    assert (edges[0], edges[-1]) == (0, buckets)
    for start, end, count in zip(edges, edges[1:], some, strict=False):
        assert count == sum(counts[int(start) : int(end)])
    assert len(some) == buckets or buckets > WANDB_BUCKETS


SCRIPT = {
    1: [diagnose(where="model.a")],
    3: [diagnose(where=None, first_step=2, evidence={"n": 1, "text": "a | b"})],
    9: [close],
}


def wandb_tables(folder: Path) -> list[list[list[Any]]]:
    """The rows of the findings' table, each time that it stands in the history."""
    tables = [row["diagnostics/findings"] for row in wandb_rows(folder) if "diagnostics/findings" in row]
    read = []
    for table in tables:
        (path,) = folder.rglob(Path(table["path"]).name)
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content["columns"] == list(COLUMNS)
        read.append(content["data"])
    return read


def _cells(finding: Finding) -> list[Any]:
    evidence = ", ".join(f"{name} = {value}" for name, value in finding.evidence.items())
    first = [finding.label, f"{finding.code} {finding.name}", finding.where or "the run", finding.status]
    return [*first, finding.first_step, finding.last_step, finding.message, finding.remedy, evidence]


def test_wandb_gets_a_table_of_the_findings_when_one_changes_and_no_oftener(wandb: Any, tmp_path: Path) -> None:
    scripted = Scripted(SCRIPT)
    run(wandb_logger(tmp_path / "run"), scripted)
    end(wandb)
    tables = wandb_tables(tmp_path / "run")
    assert [[row[2:4] for row in table] for table in tables] == [
        [["model.a", "open"]],
        [["model.a", "open"], ["the run", "open"]],
        [["model.a", "closed"], ["the run", "closed"]],
        [["model.a", "closed"], ["the run", "closed"]],  # at the end
    ]
    assert tables[-1] == [_cells(finding) for finding in scripted.findings]
    assert len(list((tmp_path / "run").rglob("*.table.json"))) == 5  # two were closed in one row


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_run_of_wandb_that_the_user_ends_is_no_fault(epoch: int, wandb: Any, tmp_path: Path) -> None:
    class Ends(RunningLoss):
        def on_train_epoch_end(self) -> None:
            if self.current_epoch == epoch:
                wandb.finish()

    with heard() as records:
        run(wandb_logger(tmp_path / "run"), *both(), module=partial(Ends, sick=True), limit_val_batches=0, **BY_DEFAULT)
    assert [record.getMessage() for record in records if record.exc_info] == []
    end(wandb)
    assert [row[0][2] for row in wandb_tables(tmp_path / "run")] == ["model.running_loss"]


def test_wandb_that_is_switched_off_is_no_fault(wandb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with heard() as records:
        run(import_module(NAMESPACES[0]).WandbLogger(save_dir=str(tmp_path)), *both())
    assert [record.getMessage() for record in records if record.exc_info] == []
    assert list(tmp_path.rglob("*.wandb")) == []


# MLflow.


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """MLflow with a file store, which its newer versions only allow if asked to, and without its telemetry."""
    for name in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/unused")
    monkeypatch.chdir(tmp_path)
    module = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed (the extra `loggers`)")
    yield module
    module.set_tracking_uri("")


def mlflow_logger(folder: Path, namespace: str = NAMESPACES[0], **more: Any) -> Any:
    """A logger whose run is there already, since making one draws from Python's generator, now more and now less."""
    logger = import_module(namespace).MLFlowLogger(tracking_uri=f"file:{folder}", **more)
    assert logger.run_id
    return logger


def mlflow_curves(logger: Any) -> dict[str, list[tuple[int, float]]]:
    """The curves, ours under the tags that other loggers have them under."""
    client = logger.experiment
    tags = client.get_run(logger.run_id).data.metrics
    curves = {tag: [(m.step, m.value) for m in client.get_metric_history(logger.run_id, tag)] for tag in tags}
    ours = tuple(tag.replace("/", ".") for tag in OURS)
    return {tag.replace(".", "/", 1) if tag.startswith(ours) else tag: curve for tag, curve in curves.items()}


def mlflow_artifacts(logger: Any, folder: Path) -> dict[str, str]:
    (home,) = folder.rglob(f"{logger.run_id}/artifacts")
    return {file.relative_to(home).as_posix(): file.read_text("utf-8") for file in home.rglob("*") if file.is_file()}


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("settings", [EVERY_STEP, SELDOM], ids=["every step", "seldom"])
def test_mlflow_gets_every_number_at_its_step_and_the_runs_own_are_what_they_are_without_us(
    settings: dict[str, Any], namespace: str, mlflow: Any, tmp_path: Path
) -> None:
    table = import_module(namespace).CSVLogger(tmp_path, name="table")
    plain, ours = (mlflow_logger(tmp_path / name, namespace) for name in ("without", "with"))
    draws = [run(plain, **settings), run([ours, table], *both(), **settings)]
    assert draws[0] == draws[1]
    drawn = mlflow_curves(ours)
    assert {tag: curve for tag, curve in drawn.items() if not tag.startswith(OURS)} == mlflow_curves(plain)
    expected = {tag: list(curve.items()) for tag, curve in csv_curves(table).items()}
    assert {tag: curve for tag, curve in drawn.items() if tag.startswith(OURS)} == expected
    assert len(drawn["graph_leak/graphs_alive"]) == (2 * BATCHES if settings is EVERY_STEP else BATCHES)


def test_a_metric_of_the_users_may_be_called_as_a_folder_of_ours(mlflow: Any, tmp_path: Path) -> None:
    class Clashes(Student):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log_dict({name.rstrip("/"): float(batch_idx) for name in OURS})
            return super().training_step(batch, batch_idx)

    logger = mlflow_logger(tmp_path / "store")
    with heard() as records:
        fit(trainer(*both(), logger=logger, log_every_n_steps=1), Clashes())
    assert [record.getMessage() for record in records if record.exc_info] == []
    drawn = mlflow_curves(logger)
    for name in OURS:
        assert [value for _, value in drawn[name.rstrip("/")]] == 2 * [float(index) for index in range(BATCHES)]
    assert drawn["graph_leak/graphs_alive"]


def test_mlflow_has_the_findings_as_they_are_in_two_artifacts(mlflow: Any, tmp_path: Path) -> None:
    scripted, logger, seen = Scripted(SCRIPT), mlflow_logger(tmp_path / "store"), []
    module = partial(Validated, lambda _: seen.append(mlflow_artifacts(logger, tmp_path / "store")))
    run(logger, scripted, module=module)
    last = mlflow_artifacts(logger, tmp_path / "store")
    assert last.keys() == {"diagnostics/findings.md", "diagnostics/findings.json"}
    assert last["diagnostics/findings.md"] == tensorboard.findings_table(scripted.findings)
    assert [Finding.from_dict(each) for each in json.loads(last["diagnostics/findings.json"])] == scripted.findings
    counts = [len(json.loads(artifacts.get("diagnostics/findings.json", "[]"))) for artifacts in seen]
    assert [(count, len(list(steps))) for count, steps in groupby(counts)] == [(0, 1), (1, 2), (2, 13)]


def test_the_findings_file_lies_where_mlflow_and_wandb_keep_checkpoints_and_mlflow_still_reads_its_store(
    mlflow: Any, wandb: Any, tmp_path: Path
) -> None:
    logger = mlflow_logger(tmp_path / "store")
    run(logger, Scripted(SCRIPT))
    assert [e.name for e in logger.experiment.search_experiments()] == ["lightning_logs", "Default"]
    assert [r.info.run_id for r in logger.experiment.search_runs([logger.experiment_id])] == [logger.run_id]
    run(wandb_logger(tmp_path / "run", id="identity"), Scripted(SCRIPT))
    files = {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("findings.jsonl")}
    assert files == {f"store/{logger.experiment_id}/{logger.run_id}", "run/project/identity"}


def test_a_store_of_mlflow_that_fails_is_switched_off_alone_and_told_of_once(mlflow: Any, tmp_path: Path) -> None:
    logger = mlflow_logger(tmp_path / "store")
    home = Path(logger.experiment.get_run(logger.run_id).info.artifact_uri.removeprefix("file:")).parent
    home.joinpath("metrics/graph_leak.graphs_alive").mkdir(parents=True)  # a folder where a file has to be
    home.joinpath("artifacts/diagnostics").write_text("")  # and a file where a folder has to be
    boards = [TensorBoardLogger(tmp_path, name=name) for name in ("first", "last")]
    with heard() as records:
        run([boards[0], logger, boards[1]], GraphLeakDetector(strict=True))
    faults = [record.getMessage().split(" cannot")[0] for record in records if record.exc_info]
    assert faults == ["logger 1", "the findings in logger 1"]
    assert len(home.joinpath("metrics/train_loss").read_text().splitlines()) == 2 * BATCHES
    for board in boards:
        events = EventAccumulator(board.log_dir).Reload()
        assert len(events.Scalars("graph_leak/graphs_alive")) == 2 * BATCHES
        assert "diagnostics/findings/text_summary" in events.Tags()["tensors"]


# CSV, several at once, and none of them.


@dataclass(frozen=True)
class _Told:
    words: tensorboard.Text = tensorboard.quantity(tag="room/words", unit="words", how="told")
    number: float | None = tensorboard.quantity(tag="room/number", unit="1", how="counted")


@pytest.mark.parametrize("number", [2.0, None])
def test_a_text_is_for_tensorboard_and_no_fault_elsewhere(
    number: float | None, wandb: Any, mlflow: Any, tmp_path: Path
) -> None:
    board, table = TensorBoardLogger(tmp_path, name="board"), CSVLogger(tmp_path, name="table")
    store, other = mlflow_logger(tmp_path / "store"), wandb_logger(tmp_path / "run")
    told = _Told(tensorboard.Text("*words*"), number)
    scripted = Scripted({3: [lambda callback, trainer, step: callback.draw(trainer, told, step=step)]})
    with heard() as records:
        run([table, other, store, board], scripted)
    end(wandb)
    assert [record.getMessage() for record in records if record.exc_info] == []
    events = EventAccumulator(board.log_dir).Reload()
    (text,) = events.Tensors("room/words/text_summary")
    assert (text.step, text.tensor_proto.string_val[0]) == (3, b"*words*")
    history = [row for row in wandb_rows(tmp_path / "run") if any(tag.startswith("room/") for tag in row)]
    expected = {"room/number"} if number else set()
    found = [mlflow_curves(store), *csv_rows(table), *history]
    tags = {tag.replace("room.", "room/") for each in found for tag in each if tag.startswith("room")}
    assert tags - {"room/step"} == expected
    assert bool(history) == bool(number)


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("settings", [EVERY_STEP, SELDOM, BY_DEFAULT], ids=["every step", "seldom", "by default"])
def test_in_a_csv_file_the_runs_own_rows_are_what_they_are_without_us(
    settings: dict[str, Any], namespace: str, tmp_path: Path
) -> None:
    plain, ours = (import_module(namespace).CSVLogger(tmp_path, name=name) for name in ("without", "with"))
    draws = [run(plain, **settings), run(ours, *both(), **settings)]
    assert draws[0] == draws[1]
    assert [row for row in csv_rows(ours) if not any(tag.startswith(OURS) for tag in row)] == csv_rows(plain)
    assert (Path(ours.log_dir) / "findings.jsonl").exists()


def test_several_loggers_at_once_each_get_what_they_take(wandb: Any, mlflow: Any, tmp_path: Path) -> None:
    board, table = TensorBoardLogger(tmp_path, name="board"), CSVLogger(tmp_path, name="table")
    store, other = mlflow_logger(tmp_path / "store"), wandb_logger(tmp_path / "run")
    leaks, activations = both()
    with heard() as records:
        run([table, other, store, board], leaks, activations)
    end(wandb)
    assert [record.getMessage() for record in records if record.exc_info] == []
    tags = set(csv_curves(table))
    events = EventAccumulator(board.log_dir).Reload().Tags()
    for drawn in (set(events["scalars"]), set(mlflow_curves(store)), set(wandb_curves(wandb_rows(tmp_path / "run")))):
        assert {tag for tag in drawn if tag.startswith(OURS)} == tags
    assert events["histograms"] == ["activations/histogram/net.2"]
    assert "diagnostics/findings/text_summary" in events["tensors"]
    assert wandb_tables(tmp_path / "run")[-1] == [_cells(finding) for finding in leaks.findings]
    text = mlflow_artifacts(store, tmp_path / "store")["diagnostics/findings.md"]
    assert text == tensorboard.findings_table(leaks.findings)
    assert [path.parent for path in tmp_path.rglob("findings.jsonl")] == [Path(table.log_dir)]


IMPORTS = """
import sys
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tests.callback.test_loggers import Validated, both, run
for kind in (CSVLogger, TensorBoardLogger):
    run(kind(sys.argv[1]), *both())
print(*(name for name in ("wandb", "mlflow") if name in sys.modules))
"""


def test_neither_wandb_nor_mlflow_is_imported_for_other_loggers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1].strip() == ""
