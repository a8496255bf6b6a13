"""Searches in which one thing is not as it should be: it is found, and nothing else; and not in the twin."""

import pytest

from lightning_diagnostics.diagnostics.expected_performance.rules import RULES
from tests.diagnostics.expected_performance.sick import CASES, Case
from tests.diagnostics.expected_performance.sweep import judged

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def test_every_rule_has_a_case() -> None:
    assert {case.code for case in CASES} == {rule.code for rule in RULES[:-1]}


@every_case
def test_what_is_wrong_is_found_and_nothing_else(case: Case) -> None:
    said = judged(case.trials(sick=True), "val_acc", "max")
    assert set(said) == {case.code, *case.others}
    assert said[case.code] == case.severity


@every_case
def test_nothing_is_found_in_the_twin(case: Case) -> None:
    assert set(judged(case.trials(sick=False), "val_acc", "max")) == case.twins
