"""Baselines: what is written, what is read back, and what is said about a file that is none."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from lightning_diagnostics.findings import Finding, Severity, read_baseline, write_baseline
from lightning_diagnostics.findings.baseline import is_known
from lightning_diagnostics.findings.gate import gate
from lightning_diagnostics.findings.records import RUNNING, RunRecord

INFO, WARNING, ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR


def _found(where: str | None = "model.a", severity: Severity = WARNING, **more: Any) -> Finding:
    words: dict[str, Any] = {"first_step": 3, "last_step": 9, "message": "Sick.", "remedy": "mend it."}
    return Finding(**{"code": "TST101", "name": "ill", "severity": severity, "where": where, **words, **more})


EVERY = [
    _found("model.b", ERROR),
    _found("model.a"),
    _found(None, INFO),
    _found("gone", ERROR, status="closed"),
    _found(None, code="TST100"),
]


# Writing.


def test_open_findings_are_written_one_a_line_in_the_order_of_code_and_place(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    assert write_baseline(path, EVERY) == 3
    assert path.read_text().splitlines() == [
        "{",
        '  "version": 1,',
        '  "findings": [',
        '    {"code": "TST100", "name": "ill", "where": null, "severity": "WARNING"},',
        '    {"code": "TST101", "name": "ill", "where": "model.a", "severity": "WARNING"},',
        '    {"code": "TST101", "name": "ill", "where": "model.b", "severity": "ERROR"}',
        "  ]",
        "}",
    ]


def test_notes_are_written_where_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    assert write_baseline(path, EVERY, at=INFO) == 4
    assert read_baseline(path)["TST101", ""] is INFO


def test_a_baseline_of_a_healthy_run_is_empty_and_json(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    assert write_baseline(path, []) == 0
    assert json.loads(path.read_text()) == {"version": 1, "findings": []}
    assert read_baseline(path) == {}


def test_the_order_in_which_findings_come_changes_no_byte(tmp_path: Path) -> None:
    texts = []
    for findings in (EVERY, EVERY[::-1]):
        write_baseline(tmp_path / "known.json", findings)
        texts.append((tmp_path / "known.json").read_bytes())
    assert texts[0] == texts[1]


def test_what_was_there_is_replaced_through_a_link_too_and_nothing_else_is_left(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("something else")
    link.symlink_to(real)
    write_baseline(link, EVERY)
    assert link.is_symlink()
    assert len(read_baseline(real)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "real.json"]


def test_a_new_file_has_the_rights_that_other_new_files_have(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_baseline(tmp_path / "known.json", [])
    assert (tmp_path / "known.json").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("where", ["modèle.d['ä\"|\\']", "half \ud800 of a pair", "line\nbreak"])
def test_every_place_comes_back(tmp_path: Path, where: str) -> None:
    write_baseline(tmp_path / "known.json", [_found(where)])
    assert read_baseline(tmp_path / "known.json") == {("TST101", where): WARNING}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is a folder; a baseline is a file"),
        ("pipe", "is a device or a pipe; a baseline is a file"),
        ("none/known.json", "cannot be written (No such file or directory)"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, name: str, reason: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = os.path.join(tmp_path, name)
    with pytest.raises(OSError, match=f"^{re.escape(f'baseline {path!r}: {reason}')}$"):
        write_baseline(path, EVERY)
    assert [each.name for each in tmp_path.iterdir()] == ["pipe"]


# Reading.


def _read(folder: Path, text: str) -> str:
    """What is said about a file with this text."""
    path = folder / "known.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^baseline ") as caught:
        read_baseline(path)
    head, tail = (
        f"baseline {str(path)!r}: ",
        f"; write it anew with: lightning-diagnostics report RUN_FOLDER --write-baseline {path}",
    )
    said = str(caught.value)
    assert said.startswith(head)
    assert said.endswith(tail)
    return said[len(head) : -len(tail)]


def _entries(*entries: Any) -> str:
    return json.dumps({"version": 1, "findings": entries})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not JSON (Expecting value: line 1 column 1 (char 0))"),
        ("[1, 2]", "holds [1, 2]: expected an object with 'version' and 'findings'"),
        ('{"findings": []}', "has the version None: allowed is 1"),
        ('{"version": 2, "findings": []}', "has the version 2: allowed is 1"),
        ('{"version": 1}', "has the findings None: expected a list"),
        ('{"version": 1, "findings": {}}', "has the findings {}: expected a list"),
        (_entries("ACT101"), "finding 1: 'ACT101': expected an object with 'code', 'where' and 'severity'"),
        (_entries({"severity": "ERROR"}), "finding 1: code is None: expected one such as 'ACT101'"),
        (
            _entries({"code": "A", "severity": "INFO"}, {"code": "A", "where": 3, "severity": "INFO"}),
            "finding 2: where is 3: expected a place such as 'block1.act', or null for the run",
        ),
        (
            _entries({"code": "A", "where": "b", "severity": "fatal"}),
            "finding 1: unknown severity 'fatal': allowed are 'info', 'warning', 'error'",
        ),
        (_entries({"code": "A"}), "finding 1: unknown severity '': allowed are 'info', 'warning', 'error'"),
    ],
)
def test_a_file_that_is_no_baseline_is_named_with_what_is_wrong_and_how_to_write_one(
    tmp_path: Path, text: str, reason: str
) -> None:
    assert _read(tmp_path, text) == reason


def test_a_file_that_is_not_there_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    how = "write one with: lightning-diagnostics report RUN_FOLDER --write-baseline FILE"
    with pytest.raises(FileNotFoundError) as caught:
        read_baseline(tmp_path / "none.json")
    assert str(caught.value) == f"baseline {str(tmp_path / 'none.json')!r}: no such file; {how}"
    with pytest.raises(IsADirectoryError) as folder:
        read_baseline(tmp_path)
    assert str(folder.value) == f"baseline {str(tmp_path)!r}: is a folder; {how}"


@pytest.mark.parametrize("path", [True, 1, ["known.json"]])
def test_what_is_no_path_is_not_opened_since_a_number_is_an_open_file(
    path: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TypeError) as caught:
        read_baseline(path)
    assert str(caught.value) == f"baseline={path!r}: expected the path of a file"
    print("the standard output is open still")  # noqa: T201
    assert capfd.readouterr().out == "the standard output is open still\n"


def test_what_a_user_adds_is_passed_over_and_the_worst_of_two_entries_counts(tmp_path: Path) -> None:
    entry = {"code": "A", "where": None, "severity": "error", "reason": "agreed"}
    content = {"version": 1, "owner": "us", "findings": [entry, {**entry, "severity": "WARNING"}]}
    (tmp_path / "known.json").write_text("\ufeff" + json.dumps(content), encoding="utf-8")  # as some editors save it
    assert read_baseline(tmp_path / "known.json") == {("A", ""): ERROR}


# What is known, and the gate.


@pytest.mark.parametrize(
    ("known", "now", "holds"), [(WARNING, INFO, True), (WARNING, WARNING, True), (WARNING, ERROR, False)]
)
def test_a_finding_is_known_up_to_its_severity(known: Severity, now: Severity, holds: bool) -> None:
    assert is_known(_found(severity=now), {("TST101", "model.a"): known}) is holds
    assert not is_known(_found("model.b", now), {("TST101", "model.a"): known})


@pytest.mark.parametrize(
    ("at", "places"),
    [(INFO, ["model.b", "model.a", None]), (WARNING, ["model.b", "model.a"]), (ERROR, ["model.b"]), (None, [])],
)
def test_the_gate_counts_open_findings_from_its_severity_on(at: Severity | None, places: list[str | None]) -> None:
    decision = gate(RunRecord("run", tuple(EVERY[:4])), at=at)
    assert [finding.where for finding in decision.failing] == places
    assert decision.passed is (not places)


def test_the_gate_says_what_failed_it() -> None:
    record = RunRecord("run", tuple(EVERY[:2]))
    assert gate(record, at=ERROR).words() == "Gate (error): failed by 1 open finding: TST101 ill at model.b."
    known = {("TST101", "model.b"): ERROR}
    assert gate(record, at=WARNING, baseline=known).words() == (
        "Gate (warning or worse): failed by 1 open finding: TST101 ill at model.a. Known to the baseline: 1."
    )


def test_the_gate_names_five_of_many() -> None:
    record = RunRecord("run", tuple(_found(None, code=f"TST10{n}") for n in range(7)))
    named = ", ".join(f"TST10{n} ill" for n in range(5))
    assert gate(record, at=INFO).words() == f"Gate (note or worse): failed by 7 open findings: {named}, 2 more."


@pytest.mark.parametrize(
    ("at", "status", "words"),
    [
        (WARNING, "finished", "Gate (warning or worse): passed."),
        (WARNING, RUNNING, "Gate (warning or worse): passed so far; the run goes on."),
        (None, RUNNING, "Gate: off, nothing fails."),
    ],
)
def test_the_gate_says_that_it_passed(at: Severity | None, status: str, words: str) -> None:
    assert gate(RunRecord("run", (), status=status), at=at).words() == words
