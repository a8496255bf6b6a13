"""A finding: severities and their words, the line, and the way to JSON and back."""

import dataclasses
import json
import pickle
from typing import Any

import pytest

from lightning_diagnostics.findings import Finding, FindingError, Severity

FULL = Finding(
    code="MEM101",
    name="retained-graph",
    severity=Severity.ERROR,
    where="model.running_loss",
    first_step=3,
    last_step=40,
    message="Graphs are kept.",
    remedy="detach them.",
    status="closed",
    evidence={"steps": 5, "share": 0.25, "exact": True, "holder": "ä|\n", "bound": None},
)
WHOLE_RUN = dataclasses.replace(FULL, where=None, status="open", severity=Severity.INFO, evidence={})
MILDEST_FIRST = ["INFO", "WARNING", "ERROR"]


def test_severities_are_ordered_from_note_to_error() -> None:
    assert [severity.name for severity in sorted(Severity)] == MILDEST_FIRST
    assert Severity.INFO < Severity.WARNING < Severity.ERROR


@pytest.mark.parametrize("name", MILDEST_FIRST)
def test_a_severity_is_parsed_in_any_case_and_printed_as_its_name(name: str) -> None:
    assert Severity.parse(name) is Severity.parse(name.lower()) is Severity.parse(name.title()) is Severity[name]
    assert str(Severity[name]) == f"{Severity[name]}" == name
    assert Severity.parse(Severity[name].level) is Severity[name]


@pytest.mark.parametrize("word", ["fatal", "", "warn", " warning", 20, None])
def test_an_unknown_severity_is_quoted_beside_those_that_there_are(word: Any) -> None:
    with pytest.raises(ValueError, match=r"allowed are 'info', 'warning', 'error'$") as caught:
        Severity.parse(word)
    assert repr(word) in str(caught.value)


@pytest.mark.parametrize("finding", [FULL, WHOLE_RUN])
def test_a_finding_goes_through_json_and_comes_back_equal(finding: Finding) -> None:
    text = json.dumps(finding.to_dict(), allow_nan=False)
    back = Finding.from_dict(json.loads(text))
    assert back == finding
    assert type(back.severity) is Severity


def test_the_plain_form_names_every_field_and_holds_nothing_but_plain_values() -> None:
    plain = FULL.to_dict()
    assert plain.keys() == {field.name for field in dataclasses.fields(Finding)}
    assert type(plain["severity"]) is str
    assert type(plain["evidence"]) is dict


def test_the_plain_form_shares_nothing_with_the_finding() -> None:
    FULL.to_dict()["evidence"]["steps"] = 99
    assert FULL.evidence["steps"] == 5
    plain = FULL.to_dict()
    back = Finding.from_dict(plain)
    plain["evidence"]["steps"] = 99
    assert back.evidence["steps"] == 5


def test_keys_of_a_later_version_are_passed_over() -> None:
    assert Finding.from_dict({**FULL.to_dict(), "confidence": 0.9, "event": "opened"}) == FULL


@pytest.mark.parametrize("missing", sorted(FULL.to_dict()))
def test_a_plain_form_that_lacks_a_key_is_refused_by_its_name(missing: str) -> None:
    plain = FULL.to_dict()
    del plain[missing]
    with pytest.raises(KeyError, match=missing):
        Finding.from_dict(plain)


def test_the_line_says_what_where_since_when_and_what_to_do() -> None:
    expected = "MEM101 retained-graph at model.running_loss (since step 3): Graphs are kept. Fix: detach them."
    assert FULL.line() == expected


def test_the_line_of_a_finding_about_the_whole_run_names_no_place() -> None:
    assert WHOLE_RUN.line() == "MEM101 retained-graph (since step 3): Graphs are kept. Fix: detach them."


def test_findings_are_the_same_one_by_code_and_place_alone() -> None:
    later = dataclasses.replace(FULL, first_step=30, severity=Severity.WARNING, message="Other words.", status="open")
    assert later.key == FULL.key
    assert dataclasses.replace(FULL, where="model.losses").key != FULL.key
    assert dataclasses.replace(FULL, code="MEM102").key != FULL.key
    assert WHOLE_RUN.key != FULL.key


def test_a_finding_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.status = "open"  # type: ignore[misc]  # what the test is about


def test_the_error_says_the_line_and_carries_the_finding_through_a_pickle() -> None:
    error = FindingError(FULL)
    assert str(error) == FULL.line()
    assert isinstance(error, RuntimeError)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is FindingError
    assert back.finding == FULL
    assert str(back) == FULL.line()
