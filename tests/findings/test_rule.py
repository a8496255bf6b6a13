"""Rules: a page without its sections is no page."""

from collections.abc import Callable
from typing import Any

import pytest

from lightning_diagnostics.findings import Rule, Severity, rule
from lightning_diagnostics.findings.rule import SECTIONS

PAGE = """Something is wrong.

    ## What it means
    Two lines,
    and ## no heading.

    ## Why it matters
    Because.

    ## What to do
    This:

        ## a line of code, indented, is no heading

    ## When it is wrong
    Never.
    """


def _check(page: str | None) -> Callable[[Any, Any], None]:
    def check(measured: Any, limits: Any) -> None:
        del measured, limits

    check.__doc__ = page
    return check


def _rule(page: str | None, **more: Any) -> Rule:
    return rule(code="TST101", name="some-illness", severities=(Severity.WARNING,), **more)(_check(page))


def _without(heading: str) -> str:
    return PAGE.replace(f"## {heading}", "A line instead of a heading")


def test_a_rule_is_its_function_its_names_and_its_page() -> None:
    check = _check(PAGE)
    made = rule(code="TST101", name="some-illness", severities=(Severity.INFO, Severity.ERROR))(check)
    assert (made.code, made.name, made.severities) == ("TST101", "some-illness", (Severity.INFO, Severity.ERROR))
    assert made.check is check
    assert (made.aliases, made.preview) == ((), False)
    assert made.summary == "Something is wrong."


def test_old_names_and_the_preview_are_kept() -> None:
    made = _rule(PAGE, aliases=("old-name",), preview=True)
    assert made.aliases == ("old-name",)
    assert made.preview is True


def test_a_section_is_the_text_under_its_heading_without_the_indentation_of_the_code() -> None:
    made = _rule(PAGE)
    assert made.section("What it means") == "Two lines,\nand ## no heading."
    assert made.section("What to do") == "This:\n\n    ## a line of code, indented, is no heading"
    assert made.section("When it is wrong") == "Never."


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_page_without_one_of_its_sections_is_refused(heading: str) -> None:
    with pytest.raises(ValueError, match="'some-illness'") as caught:
        _rule(_without(heading))
    expected, found = str(SECTIONS), str(tuple(section for section in SECTIONS if section != heading))
    assert str(caught.value).endswith(f"has the sections {found}: expected {expected}")


def test_a_page_whose_sections_are_out_of_order_is_refused() -> None:
    swapped = PAGE.replace("Why it matters", "?").replace("What to do", "Why it matters").replace("?", "What to do")
    with pytest.raises(ValueError, match=r"'What to do', 'Why it matters'.*: expected"):
        _rule(swapped)


def test_a_page_with_a_section_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'See also'\): expected"):
        _rule(PAGE + "\n    ## See also\n    Another.\n")


@pytest.mark.parametrize("page", [None, "", "Something is wrong."])
def test_a_function_without_a_page_is_refused(page: str | None) -> None:
    with pytest.raises(ValueError, match=r"has the sections \(\): expected"):
        _rule(page)
