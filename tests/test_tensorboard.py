"""The findings in TensorBoard: read back from the event file, and rendered as TensorBoard renders them."""

import html
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lightning_diagnostics import Finding, GraphLeakDetector, Severity, tensorboard
from tests.helpers import fit, trainer
from tests.patients import BATCHES, LossList, RunningLoss, Student

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of the HTML sanitizer that TensorBoard carries with it
    from tensorboard import plugin_util

TAG = "diagnostics/findings/text_summary"
TOLD = 6  # the step at which a graph kept since step 0 is told of
ROWS = ["finding", "where", "when", "what is wrong", "what to do", "how we know"]


def _finding(text: str = "text", **more: Any) -> Finding:
    words: dict[str, Any] = {"severity": Severity.WARNING, "evidence": {"holder": text}, "where": text}
    words |= {"first_step": 3, "last_step": 9, "message": text, "remedy": text}
    return Finding(code="TST101", name="some-illness", **{**words, **more})


def _shown(markdown: str) -> tuple[str, list[list[str]]]:
    """What a reader of TensorBoard sees: the text before the tables, and the right column of the table of each finding.

    That the left column is as it should be, and that nothing stands between and after the tables, is checked here.
    """
    before, *tables = plugin_util.markdown_to_safe_html(markdown).split("<table>")
    return re.sub("</?p>", "", before).strip(), [_right_column(table) for table in tables]


def _right_column(table: str) -> list[str]:
    inside, after = table.split("</table>")
    rows = [
        re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.DOTALL) for row in re.findall(r"<tr>(.*?)</tr>", inside, re.DOTALL)
    ]
    assert after.strip() == ""
    assert [left for left, _ in rows] == ROWS
    return [_seen(right) for _, right in rows]


def _column(*findings: Finding, row: str) -> list[str]:
    """One row's words for each of the findings."""
    _, tables = _shown(tensorboard.findings_table(findings))
    return [table[ROWS.index(row)] for table in tables]


def _seen(cell: str) -> str:
    """The text of a cell; any markup but that of code is kept, so that it is noticed."""
    return html.unescape(re.sub(r"</?code>", "", cell))


def _events(folder: str) -> EventAccumulator:
    return EventAccumulator(folder, size_guidance={"tensors": 0, "scalars": 0}).Reload()


def _tables(folder: str) -> list[tuple[int, list[list[str]]]]:
    """Step and tables of every record of the findings in the event file."""
    events = _events(folder)
    if TAG not in events.Tags()["tensors"]:
        return []
    return [(e.step, _shown(e.tensor_proto.string_val[0].decode())[1]) for e in events.Tensors(TAG)]


# The table.


@pytest.mark.parametrize(
    "text",
    [
        *("a|b", r"a\|b", r"ends with \ "[:-1], "a || b", "`a|b`", "|", "<b>bold</b>", "train.<locals>.<lambda>"),
        *("&lt;", "a & b", "__init__", "self.__dict__['a']", "_x_ _y_", "x * y * z", "**bold**", "`code`"),
        *("[a](http://b)", "outs[0](x)", "![a](b)", "http://b", "# a", "- a", "1. a", "self.running_loss += loss"),
        *("\\_a\\_", "a_", "~a~", "'a' \"b\"", "Größe ≤ µ", "<script>alert(1)</script>", "&#124;"),
    ],
)
def test_a_finding_is_shown_letter_for_letter(text: str) -> None:
    seen = ["WARNING: TST101 some-illness", text, "steps 3 to 9 (open)", text, text, f"holder = {text}"]
    assert _shown(tensorboard.findings_table([_finding(text)])) == ("", [seen])
    assert _shown(tensorboard.findings_table([_finding(text), _finding(text)])) == ("2 findings", [seen, seen])


@pytest.mark.parametrize("break_", ["\n", "\r\n", "\r", "\n\n", "\n| --- |\n", "\v", "\u2028"])
def test_a_line_break_does_not_break_a_row(break_: str) -> None:
    assert _column(_finding(f"one{break_}two"), row="what is wrong") == [" ".join(f"one{break_}two".split())]


def test_names_with_underscores_can_be_searched_for_in_the_raw_text() -> None:
    assert "model.running_loss" in tensorboard.findings_table([_finding("model.running_loss")])


def test_every_finding_is_a_table_in_the_order_given_and_a_note_is_called_one_and_comes_last() -> None:
    closed = _finding(where=None, status="closed", severity=Severity.ERROR, evidence={})
    note = _finding(severity=Severity.INFO)
    count, (first, second, last) = _shown(tensorboard.findings_table([note, _finding(), closed]))
    assert count == "2 findings, 1 note"
    assert [table[0].split(":")[0] for table in (first, second, last)] == ["WARNING", "ERROR", "note"]
    assert second[1:3] == ["the run", "steps 3 to 9 (closed)"]
    assert second[5] == ""


def test_evidence_of_any_kind_and_a_single_step_are_told_in_words() -> None:
    assert _column(_finding(evidence={"a": 1, "b": None}), row="how we know") == ["a = 1, b = None"]
    assert _column(_finding(last_step=3), row="when") == ["step 3 (open)"]


@pytest.mark.parametrize(
    ("findings", "notes", "count"),
    [
        *((1, 0, ""), (0, 1, ""), (2, 0, "2 findings"), (1, 1, "1 finding, 1 note")),
        *((3, 1, "3 findings, 1 note"), (1, 2, "1 finding, 2 notes"), (0, 2, "no findings, 2 notes")),
    ],
)
def test_more_than_one_finding_is_counted(findings: int, notes: int, count: str) -> None:
    every = [_finding()] * findings + [_finding(severity=Severity.INFO)] * notes
    assert _shown(tensorboard.findings_table(every))[0] == count


def test_without_findings_the_table_says_so() -> None:
    assert tensorboard.findings_table([]) == "No findings."


def test_the_last_record_is_the_whole_table_and_is_on_the_disk_at_once(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path) as writer:
        findings = []
        for step in range(12):  # more than TensorBoard samples of a text
            findings.append(_finding(f"place {step}"))
            tensorboard.write_findings([writer], findings, step=step)
            step_read, tables = _tables(str(tmp_path))[-1]
            assert step_read == step
            assert [table[1] for table in tables] == [f"place {index}" for index in range(step + 1)]


def test_only_experiments_that_are_summary_writers_are_written_to(tmp_path: Path) -> None:
    class AnswersToEverything:
        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: None

    with SummaryWriter(tmp_path) as writer:
        assert tensorboard.text_writers([AnswersToEverything(), writer, object(), None]) == [writer]


# Quantities.


@dataclass(frozen=True)
class _Measured:
    name: str
    count: int | None = tensorboard.quantity(tag="room/count", unit="steps", how="counted")
    share: float | None = tensorboard.quantity(tag="room/share", unit="1", how="divided")


def test_the_drawn_fields_of_a_measurement_are_described_and_the_others_are_not() -> None:
    count, share = (
        tensorboard.Quantity(*q) for q in (("room/count", "steps", "counted"), ("room/share", "1", "divided"))
    )
    for measured in (_Measured, _Measured("a", 1, 2.0)):
        assert tensorboard.quantities(measured) == {"count": count, "share": share}


def test_zero_is_drawn_and_what_could_not_be_measured_is_not() -> None:
    assert tensorboard.scalars(_Measured("a", 0, None)) == {"room/count": 0.0}
    assert type(tensorboard.scalars(_Measured("a", 0, None))["room/count"]) is float


# Real runs.


@pytest.fixture
def logger(tmp_path: Path) -> TensorBoardLogger:
    return TensorBoardLogger(tmp_path, name="run")


class _Reader(RunningLoss):
    """Reads the findings table from the event file within every training step."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        self.read.append(_tables(self.trainer.logger.log_dir))
        return super().training_step(batch, batch_idx)


def test_the_table_is_right_while_the_run_goes_on(logger: TensorBoardLogger) -> None:
    module, detector = _Reader(sick=True), GraphLeakDetector(strict=True)
    module.read = []
    fit(trainer(detector, logger=logger, max_epochs=1), module)
    assert [bool(tables) for tables in module.read] == [step >= TOLD for step in range(BATCHES)]
    step, (table,) = module.read[-1][-1]
    assert step == TOLD
    assert table[:2] == ["WARNING: MEM101 retained-graph", "model.running_loss"]
    assert table[2].startswith("steps 0 to ")
    assert table[4] == detector.findings[0].remedy


def test_the_last_table_of_a_run_is_that_of_its_findings_at_the_end(logger: TensorBoardLogger) -> None:
    detector = GraphLeakDetector(strict=True)
    run = fit(trainer(detector, logger=logger), LossList(sick=True))
    step, tables = _tables(logger.log_dir)[-1]
    assert step == run.global_step - 1
    assert tables == _shown(tensorboard.findings_table(detector.findings))[1]
    assert tables[0][2] == f"steps 0 to {detector.findings[0].last_step} (open)"


def test_a_healthy_run_has_our_curves_and_no_table(logger: TensorBoardLogger) -> None:
    fit(trainer(GraphLeakDetector(strict=True), logger=logger), Student())
    assert {"graph_leak/graphs_alive", "train_loss"} <= set(_events(logger.log_dir).Tags()["scalars"])
    assert _tables(logger.log_dir) == []


def test_our_curves_lie_under_the_users_on_the_same_steps(logger: TensorBoardLogger) -> None:
    fit(trainer(GraphLeakDetector(strict=True), logger=logger), Student())
    events = _events(logger.log_dir)
    steps = {tag: [e.step for e in events.Scalars(tag)] for tag in ("train_loss", "graph_leak/graphs_alive")}
    assert steps["graph_leak/graphs_alive"] == steps["train_loss"] == list(range(2 * BATCHES))


def test_every_logger_gets_the_curves_and_every_writer_of_event_files_the_table(tmp_path: Path) -> None:
    boards = [TensorBoardLogger(tmp_path, name=name) for name in ("first", "last")]
    table = CSVLogger(tmp_path, name="middle")
    fit(trainer(GraphLeakDetector(strict=True), logger=[boards[0], table, boards[1]]), RunningLoss(sick=True))
    assert "graph_leak/graphs_alive" in (Path(table.log_dir) / "metrics.csv").read_text().splitlines()[0].split(",")
    for board in boards:
        assert "graph_leak/graphs_alive" in _events(board.log_dir).Tags()["scalars"]
        assert _tables(board.log_dir)[-1][1][0][1] == "model.running_loss"
