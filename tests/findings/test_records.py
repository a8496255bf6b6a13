"""What a run left in its folder: read while it goes on, and what is said about folders that are no run's."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lightning_diagnostics.findings import Finding, Severity
from lightning_diagnostics.findings.records import FINDINGS_FILE, RECORD_FILE, RunRecord, read_run

RECORD: dict[str, Any] = {
    "version": 1,
    "package": "0.1.0",
    "status": "running",
    "step": 120,
    "started": "2025-06-01T10:00:00+00:00",
    "ended": None,
    "enabled_by": "LIGHTNING_DIAGNOSTICS=standard",
    "settings": {"preset": "standard"},
    "diagnostics": {"ActivationMonitor": "2 of 3 layers"},
}


def found(where: str | None = "model.a", severity: Severity = Severity.WARNING, **more: Any) -> Finding:
    words: dict[str, Any] = {"first_step": 3, "last_step": 9, "message": "Sick.", "remedy": "mend it."}
    return Finding(**{"code": "TST101", "name": "ill", "severity": severity, "where": where, **words, **more})


def line(finding: Finding, event: str = "opened", **more: Any) -> str:
    return json.dumps({"event": event, **finding.to_dict(), **more}) + "\n"


def write_run(folder: Path, *lines: str, record: dict[str, Any] | None = RECORD) -> Path:
    """A run's folder, with the findings file if there are lines for it."""
    folder.mkdir(parents=True, exist_ok=True)
    if lines:
        (folder / FINDINGS_FILE).write_text("".join(lines))
    if record is not None:
        (folder / RECORD_FILE).write_text(json.dumps(record))
    return folder


def said(folder: Path | str, kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as caught:
        read_run(folder)
    return str(caught.value)


# What is read.


def test_a_record_is_read_whole(tmp_path: Path) -> None:
    expected = RunRecord(
        *(str(tmp_path), (), {}, "running", 120, "2025-06-01T10:00:00+00:00", None, "LIGHTNING_DIAGNOSTICS=standard"),
        *({"preset": "standard"}, {"ActivationMonitor": "2 of 3 layers"}),
    )
    assert read_run(write_run(tmp_path)) == expected


def test_a_run_that_goes_on_has_come_as_far_as_its_findings_say(tmp_path: Path) -> None:
    assert read_run(write_run(tmp_path / "a", line(found(last_step=300)))).step == 300
    finished = {**RECORD, "status": "finished"}
    assert read_run(write_run(tmp_path / "b", line(found(last_step=300)), record=finished)).step == 120


def test_an_old_run_has_findings_alone_and_the_rest_is_unknown(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, line(found()), record=None))
    assert run == RunRecord(str(tmp_path), (found(),), {("TST101", "model.a"): 1})


def test_the_last_line_of_a_code_and_place_wins_and_its_number_is_kept(tmp_path: Path) -> None:
    worse, closed = found(severity=Severity.ERROR, last_step=20), found("model.b", status="closed")
    lines = [line(found()), line(found("model.b")), "\n", line(worse, "worsened"), line(closed, "closed")]
    run = read_run(write_run(tmp_path, *lines))
    assert run.findings == (worse, closed)
    assert run.lines == {worse.key: 4, closed.key: 5}


def test_findings_are_in_the_journals_order(tmp_path: Path) -> None:
    closed = found("closed", Severity.ERROR, status="closed")
    note, later, early, error = (
        found(None, Severity.INFO),
        found("b", first_step=5),
        found("c"),
        found("z", Severity.ERROR),
    )
    run = read_run(write_run(tmp_path, *map(line, (closed, note, later, early, error))))
    assert run.findings == (error, early, later, note, closed)


@pytest.mark.parametrize("cut", range(1, len(line(found("model.b"))) - 1, 17))
def test_half_a_last_line_is_passed_over_while_the_run_goes_on(tmp_path: Path, cut: int) -> None:
    run = read_run(write_run(tmp_path, line(found()), line(found("model.b"))[:cut]))
    assert run.findings == (found(),)


def test_a_whole_last_line_without_its_end_counts(tmp_path: Path) -> None:
    assert len(read_run(write_run(tmp_path, line(found()), line(found("model.b"))[:-1])).findings) == 2


def test_what_a_later_version_adds_is_passed_over(tmp_path: Path) -> None:
    lines = [line(found(), "silenced", colour="red"), '{"event": "paused", "step": 3}\n']
    run = read_run(write_run(tmp_path, *lines, record={**RECORD, "version": 2, "mood": "good"}))
    assert run.findings == (found(),)
    assert run.step == 120


def test_a_number_that_json_lacks_becomes_a_word(tmp_path: Path) -> None:
    (finding,) = read_run(write_run(tmp_path, line(found(evidence={"share": float("nan")})))).findings
    assert finding.evidence == {"share": "NaN"}


def test_the_findings_file_stands_for_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path, line(found()))
    assert read_run(tmp_path / FINDINGS_FILE) == read_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert read_run(FINDINGS_FILE) == read_run(".")


# What is said about files that are broken.


def _broken(**more: Any) -> str:
    return line(found(), **more)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"event": "ope\n', "is not JSON (Invalid control character at at column 15)"),
        ("[1]\n", "holds [1]: expected an object, the event of a finding"),
        ('{"event": "opened"}\n', "code is None: expected a text"),
        (_broken(message=3), "message is 3: expected a text"),
        (_broken(where=3), "where is 3: expected a text or null"),
        (_broken(first_step="3"), "first_step is '3': expected a whole number"),
        (_broken(last_step=True), "last_step is True: expected a whole number"),
        (_broken(status="ajar"), "status is 'ajar': expected 'open' or 'closed'"),
        (_broken(evidence=[1]), "evidence is [1]: expected an object"),
        (_broken(severity="fatal"), "unknown severity 'fatal': allowed are 'info', 'warning', 'error'"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, text: str, reason: str) -> None:
    path = write_run(tmp_path, line(found()), text, line(found())) / FINDINGS_FILE
    reason = (
        reason.replace("Invalid control character at at column 15", _json_says(text)) if "JSON" in reason else reason
    )
    assert said(tmp_path) == f"{str(path)!r}, line 2: {reason}; take the line out to read the others"


def _json_says(text: str) -> str:
    """Pythons differ in their words."""
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads(text.removesuffix("\n"))
    return f"{caught.value.msg} at column {caught.value.colno}"


def test_bytes_that_are_no_text_are_a_broken_line(tmp_path: Path) -> None:
    write_run(tmp_path, line(found()))
    (tmp_path / FINDINGS_FILE).write_bytes(b"\xff\n" + line(found()).encode())
    assert said(tmp_path).startswith(f"{str(tmp_path / FINDINGS_FILE)!r}, line 1: 'utf-8' codec can't decode byte 0xff")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x", " is not JSON (Expecting value: line 1 column 1 (char 0)): expected the record of a run"),
        ("[]", " holds []: expected an object, the record of a run"),
        ('{"step": "x"}', ": step is 'x': expected a whole number or null"),
        ('{"step": true}', ": step is True: expected a whole number or null"),
        ('{"status": 3}', ": status is 3: expected a text or null"),
        ('{"diagnostics": []}', ": diagnostics is []: expected an object or null"),
    ],
)
def test_a_broken_record_is_named(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / RECORD_FILE).write_text(text)
    assert said(tmp_path) == f"{str(tmp_path / RECORD_FILE)!r}{reason}"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / RECORD_FILE).mkdir()
    assert said(tmp_path, IsADirectoryError) == f"{str(tmp_path / RECORD_FILE)!r} cannot be read (Is a directory)"


# What is said about folders that are no run's.


def test_a_folder_that_is_not_there_and_a_file_are_told_apart(tmp_path: Path) -> None:
    path = str(tmp_path / "none")
    assert (
        said(path, FileNotFoundError)
        == f"run folder {path!r}: no such folder; a run's folder is where its logger writes"
    )
    write_run(tmp_path / "version_3")
    expected = f"no such folder; the newest run below {str(tmp_path)!r}: {str(tmp_path / 'version_3')!r}"
    assert said(path, FileNotFoundError) == f"run folder {path!r}: {expected}"
    other = write_run(tmp_path) / RECORD_FILE
    expected = f"run folder {str(other)!r} is a file: allowed are a run's folder and its findings.jsonl"
    assert said(other, NotADirectoryError) == expected


def test_an_address_is_not_looked_up() -> None:
    expected = "run folder 's3://runs/3' is an address: copy diagnostics.json and findings.jsonl to a folder here"
    assert said("s3://runs/3") == expected


def test_a_folder_without_runs_says_so(tmp_path: Path) -> None:
    expected = (
        "has neither diagnostics.json nor findings.jsonl: no run with diagnostics has written into it or below it"
    )
    assert said(tmp_path) == f"run folder {str(tmp_path)!r} {expected}"


def test_the_newest_runs_below_a_folder_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for age, number in enumerate((4, 0, 2, 1, 3)):
        path = write_run(Path(f"logs/version_{number}"), line(found()), record=RECORD if number % 2 else None)
        for each in path.iterdir():
            os.utime(each, (1e9 - age, 1e9 - age))
    write_run(Path(".hidden/run"))
    write_run(Path("a/b/c/d/e/too_deep"))
    expected = "the newest runs below it: 'logs/version_4', 'logs/version_0', 'logs/version_2'"
    assert said(".") == f"run folder '.' has neither diagnostics.json nor findings.jsonl: {expected}"
    expected = "the newest run below it: 'a/b/c/d/e/too_deep'"
    assert said("a/b") == f"run folder 'a/b' has neither diagnostics.json nor findings.jsonl: {expected}"


@pytest.mark.timeout(30)
def test_what_is_no_file_is_not_read_for_it_may_have_no_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FINDINGS_FILE)
    assert said(tmp_path) == f"{str(tmp_path / FINDINGS_FILE)!r} is no file: expected what a run has written"
