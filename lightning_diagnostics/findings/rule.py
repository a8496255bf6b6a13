"""Rules: functions from numbers and limits to a verdict, whose docstring is their page."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_diagnostics.findings.finding import Plain, Severity

SECTIONS = ("What it means", "Why it matters", "What to do", "When it is wrong")
"""The headings that every page has, in this order."""


@dataclass(frozen=True)
class Diagnosis:
    """A rule's verdict that something is wrong (or, at INFO, worth a note). The fields are those of a finding."""

    severity: Severity
    where: str | None
    first_step: int
    message: str
    remedy: str
    evidence: Mapping[str, Plain] = field(default_factory=dict[str, Plain])


@dataclass(frozen=True)
class TooEarly:
    """A rule's verdict that there is too little evidence for one.

    Attributes:
        have: How much evidence there is.
        need: How much a verdict needs.
        unit: What is counted, e.g. ``"steps"``.
    """

    have: int
    need: int
    unit: str


Verdict = Diagnosis | TooEarly | None
"""None means healthy."""


@dataclass(frozen=True)
class Rule:
    """An illness: its code, its name, its page, and the function that recognises it.

    Attributes:
        code: Stable for ever, e.g. ``"MEM101"``.
        name: The illness, not the cure.
        severities: What it may be reported as, mildest first.
        check: ``check(measured, limits) -> Verdict``; None for a note that the callback makes itself.
        page: Markdown: a summary line and the four `SECTIONS`.
        aliases: Names that it once had.
        preview: Not yet swept over healthy networks, and so not asked yet.
    """

    code: str
    name: str
    severities: tuple[Severity, ...]
    page: str
    check: Callable[[Any, Any], Verdict]
    aliases: tuple[str, ...] = ()
    preview: bool = False

    @property
    def summary(self) -> str:
        """The first line of the page."""
        return self.page.splitlines()[0]

    def section(self, heading: str) -> str:
        """The text under one of the `SECTIONS`."""
        return _sections(self.page)[heading]


def rule(
    *, code: str, name: str, severities: tuple[Severity, ...], aliases: tuple[str, ...] = (), preview: bool = False
) -> Callable[[Callable[[Any, Any], Verdict]], Rule]:
    """Make a rule of a function; its docstring becomes the page.

    Raises:
        ValueError: if the docstring lacks one of the `SECTIONS`, or has them out of order.
    """

    def decorate(check: Callable[[Any, Any], Verdict]) -> Rule:
        page = inspect.cleandoc(check.__doc__ or "")
        found = tuple(_sections(page))
        if found != SECTIONS:
            raise ValueError(f"the page of {name!r} has the sections {found}: expected {SECTIONS}")
        return Rule(code, name, severities, page, check, aliases, preview)

    return decorate


def _sections(page: str) -> dict[str, str]:
    """The texts of a page by heading; a heading stands on a line of its own after ``## ``."""
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)[1:]
    return {heading: text.strip() for heading, text in zip(parts[::2], parts[1::2], strict=True)}
