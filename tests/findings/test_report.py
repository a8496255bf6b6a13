"""A run as text, markdown, JSON and SARIF, and the pages of the rules."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_diagnostics import catalogue
from lightning_diagnostics.findings import Finding, Severity, limit_table, pages, report
from lightning_diagnostics.findings.records import RunRecord
from lightning_diagnostics.findings.sarif import sarif

ILL = Finding(
    code="ACT101",
    name="dead-units",
    severity=Severity.ERROR,
    where="block1.act",
    first_step=3,
    last_step=80,
    message="Most units are dead.",
    remedy="warm up.",
    evidence={"share": 0.93, "dead-units.share": 0.9},
)
MILD = replace(ILL, where="self/relu.2", severity=Severity.WARNING, last_step=3)
NOTE = replace(ILL, code="MEM901", name="unwatched-graphs", severity=Severity.INFO, where=None, message="Blind.")
GONE = replace(ILL, where="gone", status="closed")
RUN = RunRecord(
    folder="logs/version 3",
    findings=(ILL, MILD, NOTE, GONE),
    lines={ILL.key: 4, MILD.key: 2, NOTE.key: 7, GONE.key: 9},
    status="finished",
    step=120,
    started="2025-06-01T10:00:00+00:00",
    ended="2025-06-01T11:00:00+00:00",
    enabled_by="callbacks of the Trainer",
    diagnostics={"ActivationMonitor": "2 of 3 layers"},
)
KNOWN = {MILD.key: Severity.WARNING, ILL.key: Severity.WARNING, GONE.key: Severity.ERROR}  # it was milder there


# Text.


def test_the_text_has_how_the_run_stands_the_table_what_to_do_and_who_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)  # as where it is not installed
    assert report.text(RUN).splitlines() == [
        "Run logs/version 3 finished at step 120: 3 findings, 1 note:",
        "  severity | finding | where | steps | status",
        "  ERROR | ACT101 dead-units | block1.act | 3-80 | open",
        "  WARNING | ACT101 dead-units | self/relu.2 | 3-3 | open",
        "  note | MEM901 unwatched-graphs | the run | 3-80 | open",
        "  ERROR | ACT101 dead-units | gone | 3-80 | closed",
        "Fix for block1.act: warm up.",
        "Fix for self/relu.2: warm up.",
        "Note MEM901: Blind.",
        "Fix for gone: warm up.",
        "Watched by ActivationMonitor: 2 of 3 layers.",
        "Enabled by callbacks of the Trainer.",
    ]


@pytest.mark.parametrize(
    ("more", "head"),
    [
        ({"status": "running"}, "Run x goes on (or was killed) at step 7: no findings."),
        ({"status": "ended by KeyboardInterrupt"}, "Run x ended by KeyboardInterrupt at step 7: no findings."),
        ({"status": "finished", "step": None}, "Run x finished: no findings."),
        ({"step": None}, "Run x: no findings."),
    ],
)
def test_a_run_without_findings_is_one_line_however_it_stands(more: dict[str, Any], head: str) -> None:
    assert report.text(RunRecord("x", (), **{"step": 7, **more})) == head


def test_what_the_baseline_knows_is_said_and_nothing_else() -> None:
    lines = [line for line in report.text(RUN, baseline=KNOWN).splitlines() if "baseline" in line]
    assert lines == ["Known to the baseline: ACT101 dead-units at self/relu.2."]


# Markdown.


def test_the_markdown_has_a_heading_the_tables_and_who_watched() -> None:
    parts = report.markdown(replace(RUN, folder="a|b"), baseline=KNOWN).split("\n\n")
    assert parts[0] == "## Run <code>a&#124;b</code> finished at step 120"
    assert "\n\n".join(parts[1:-1]) == report.findings_table(RUN.findings)
    assert parts[-1].splitlines() == [
        "- known to the baseline: ACT101 <code>self/relu.2</code>",
        "- watched by ActivationMonitor: 2 of 3 layers",
        "- enabled by callbacks of the Trainer",
    ]


def test_the_markdown_of_a_run_of_which_nothing_is_known_is_two_lines() -> None:
    assert report.markdown(RunRecord("x", ())) == "## Run <code>x</code>\n\nNo findings."


# JSON.


def test_the_json_is_of_the_form_that_is_documented() -> None:
    assert json.loads(report.as_json(RUN, baseline=KNOWN)) == {
        "version": 1,
        "folder": "logs/version 3",
        "status": "finished",
        "step": 120,
        "started": "2025-06-01T10:00:00+00:00",
        "ended": "2025-06-01T11:00:00+00:00",
        "enabled_by": "callbacks of the Trainer",
        "diagnostics": {"ActivationMonitor": "2 of 3 layers"},
        "counts": {"error": 1, "warning": 1, "note": 1, "closed": 1},
        "findings": [
            {**ILL.to_dict(), "known": False},
            {**MILD.to_dict(), "known": True},
            {**NOTE.to_dict(), "known": False},
            {**GONE.to_dict(), "known": True},
        ],
    }


def test_the_json_of_a_run_of_which_nothing_is_known_has_the_same_keys() -> None:
    plain = json.loads(report.as_json(RunRecord("x", ())))
    assert list(plain) == list(json.loads(report.as_json(RUN)))
    assert plain["counts"] == {"error": 0, "warning": 0, "note": 0, "closed": 0}
    assert [plain[name] for name in ("status", "step", "diagnostics")] == [None, None, None]


# SARIF.


def _log(run: RunRecord = RUN, **more: Any) -> dict[str, Any]:
    return json.loads(sarif(run, catalogue.rules(), version="0.1.0", **more))


def _results(run: RunRecord = RUN, **more: Any) -> list[dict[str, Any]]:
    return _log(run, **more)["runs"][0]["results"]


def test_the_log_is_of_the_standards_version_and_names_its_driver() -> None:
    log = _log()
    (run,) = log["runs"]
    assert (log["version"], log["$schema"].rpartition("/")[2]) == ("2.1.0", "sarif-2.1.0.json")
    driver = run["tool"]["driver"]
    assert (driver["name"], driver["version"]) == ("lightning-diagnostics", "0.1.0")
    assert run["properties"] == {"folder": "logs/version 3", "status": "finished", "step": 120}


def test_a_result_has_all_that_a_reader_needs() -> None:
    assert _results()[0] == {
        "ruleIndex": 0,
        "ruleId": "ACT101",
        "level": "error",
        "message": {"text": "Most units are dead. Fix: warm up."},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": "logs/version%203/findings.jsonl"},
                    "region": {"startLine": 4},
                },
                "logicalLocations": [{"fullyQualifiedName": "block1.act", "kind": "member"}],
            }
        ],
        "partialFingerprints": {"codeAndPlace/v1": "8c129c91751ce4ad13b4eac2515753e3de19eab7e2cc95cd285919d93de24b4c"},
        "properties": {
            "evidence": {"share": 0.93, "dead-units.share": 0.9},
            "first_step": 3,
            "last_step": 80,
            "status": "open",
        },
    }


def test_closed_findings_are_left_out_and_levels_are_the_standards() -> None:
    results = _results()
    assert [result["level"] for result in results] == ["error", "warning", "note"]
    assert results[2]["locations"][0]["logicalLocations"] == [{"name": "the run"}]


def test_what_the_baseline_knows_is_suppressed() -> None:
    suppressed = [result.get("suppressions") for result in _results(baseline=KNOWN)]
    assert suppressed == [None, [{"kind": "external", "justification": "known to the baseline"}], None]


def test_every_result_points_at_its_rule_and_every_rule_has_its_page() -> None:
    (run,) = _log()["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rules[result["ruleIndex"]]["id"] for result in run["results"]] == [r["ruleId"] for r in run["results"]]
    assert [rule["id"] for rule in rules] == ["ACT101", "MEM901"]
    known = {rule.code: rule for rule in catalogue.rules()}
    for rule in rules:
        page = known[rule["id"]].page
        assert rule["help"] == {"text": page, "markdown": page}
        assert rule["shortDescription"]["text"] == page.splitlines()[0]
        assert rule["fullDescription"]["text"].split() == known[rule["id"]].section("What it means").split()
    assert [rule["name"] for rule in rules] == ["dead-units", "unwatched-graphs"]
    assert [rule["defaultConfiguration"]["level"] for rule in rules] == ["error", "note"]


def test_a_finding_of_a_rule_that_is_not_known_has_its_code_and_name() -> None:
    (run,) = _log(RunRecord("x", (replace(ILL, code="ACT777", name="new-illness"),)))["runs"]
    assert run["tool"]["driver"]["rules"] == [{"id": "ACT777", "name": "new-illness"}]
    assert run["results"][0]["ruleId"] == "ACT777"
    assert "region" not in run["results"][0]["locations"][0]["physicalLocation"]


def test_fingerprints_are_of_code_and_place_alone() -> None:
    def prints(*findings: Finding) -> list[str]:
        return [result["partialFingerprints"]["codeAndPlace/v1"] for result in _results(RunRecord("x", findings))]

    first, same, place, code, run = prints(
        ILL,
        replace(ILL, first_step=50, last_step=90, severity=Severity.WARNING, message="x", evidence={}),
        MILD,
        replace(ILL, code="ACT102"),
        replace(ILL, where=None),
    )
    assert first == same
    assert len({first, place, code, run}) == 4


def test_an_absolute_folder_is_an_address(tmp_path: Path) -> None:
    (result,) = _results(RunRecord(str(tmp_path), (ILL,)))
    location = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert location == {"uri": f"{tmp_path.as_uri()}/findings.jsonl"}


def test_a_healthy_run_is_a_log_without_results() -> None:
    (run,) = _log(RunRecord("x", ()))["runs"]
    assert run["results"] == run["tool"]["driver"]["rules"] == []


# Pages.


def test_every_rule_is_listed_within_the_width_with_its_whole_summary() -> None:
    listed = pages.listing(catalogue.rules(), width=60)
    assert max(len(line) for line in listed.splitlines() if line.startswith(" ")) <= 60
    words = " ".join(listed.split())
    for rule in catalogue.rules():
        severities = ", ".join(severity.level for severity in rule.severities)
        assert f"{rule.code} {rule.name} ({severities}) {rule.summary}" in words


def test_a_preview_is_marked_wherever_a_rule_is_shown() -> None:
    preview = replace(catalogue.rules()[0], preview=True, aliases=("old-name",))
    assert pages.listing([preview], width=80).splitlines()[0] == "ACT101  dead-units  (warning, error; preview)"
    (plain,) = json.loads(pages.as_json([preview]))["rules"]
    assert (plain["preview"], plain["aliases"]) == (True, ["old-name"])
    shown = pages.page(preview, [])
    assert "Reported as: warning, error. A preview: asked only where it is selected. Once called: old-name." in shown


@pytest.mark.parametrize("word", ["ACT101", "act101", "dead-units", "DEAD-Units", " dead-units ", "Old-Name"])
def test_a_rule_is_found_by_code_name_and_former_name_in_any_case(word: str) -> None:
    every = [replace(catalogue.rules()[0], aliases=("old-name",)), *catalogue.rules()[1:]]
    assert pages.find(word, every) is every[0]


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("retained-grahp", "near it are MEM101 (retained-graph)"),
        ("MEM1O1", "near it are MEM101 (retained-graph)"),
        ("zzz", "nothing is near it"),
    ],
)
def test_an_unknown_rule_is_quoted_beside_what_is_near(word: str, near: str) -> None:
    every = [rule for rule in catalogue.rules() if rule.code in ("MEM101", "ACT102")]
    with pytest.raises(ValueError, match=r"^unknown rule ") as caught:
        pages.find(word, every)
    assert str(caught.value) == f"unknown rule {word!r}: {near}; all are listed by: lightning-diagnostics rules"


def test_a_page_ends_with_the_limits_of_its_rule_and_of_no_other() -> None:
    rule = next(rule for rule in catalogue.rules() if rule.code == "MEM101")
    from lightning_diagnostics.diagnostics.activations.rules import Limits as Others
    from lightning_diagnostics.diagnostics.graph_leak.rules import Limits

    own = [described for _, described in limit_table(Limits).values()]
    others = [described for _, described in limit_table(Others).values()]
    shown = pages.page(rule, [*own, *others])
    assert shown.startswith(
        f"# MEM101 retained-graph\n\n{rule.page}\n\n## Severity\n\nReported as: note, warning, error.\n"
    )
    words = " ".join(shown.partition("## Limits")[2].split())
    assert all(f"- `{each.key}` = {each.default}: {each.meaning}. Source: {each.source}." in words for each in own)
    assert not any(each.key in shown for each in others)
    assert shown.endswith('\n\nChange one by `limits={"retained-graph.steps": VALUE}`.')


def test_a_rule_without_limits_has_no_part_for_them() -> None:
    rule = next(rule for rule in catalogue.rules() if rule.code == "MEM901")
    assert "## Limits" not in pages.page(rule, [])
