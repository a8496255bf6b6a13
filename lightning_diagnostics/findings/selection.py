"""Which rules are asked, and which of their findings are wanted: ``select``, ``ignore``, and a baseline."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from lightning_diagnostics.findings.finding import Severity
from lightning_diagnostics.findings.rule import Rule

EVERYTHING = "all"
"""The word for every rule that is not a preview."""


@dataclass(frozen=True)
class Choice:
    """What one word of ``select`` or ``ignore`` stands for.

    Attributes:
        codes: The rules.
        places: A pattern of places as in a shell; None for every place.
    """

    codes: frozenset[str]
    places: str | None

    def covers(self, code: str, where: str | None) -> bool:
        """Whether a finding of this code at this place is meant."""
        return code in self.codes and (self.places is None or fnmatchcase(where or "", self.places))


@dataclass(frozen=True)
class Selection:
    """Which rules a diagnostic asks, and which of their findings it keeps to itself.

    Attributes:
        select: The only rules that are asked; None for all that are not a preview.
        ignore: Findings that are not made.
        known: Findings of a baseline by code and place, with the severity up to which they are known.
    """

    select: tuple[Choice, ...] | None = None
    ignore: tuple[Choice, ...] = ()
    known: Mapping[tuple[str, str], Severity] | None = None

    def selects(self, rule: Rule) -> bool:
        """Whether a rule is among those that are wanted, somewhere at least."""
        if self.select is None:
            return not rule.preview
        return any(rule.code in choice.codes for choice in self.select)

    def asks(self, rule: Rule) -> bool:
        """Whether a rule is asked at all."""
        return self.selects(rule) and not any(
            rule.code in choice.codes and choice.places is None for choice in self.ignore
        )

    def wants(self, rule: Rule, where: str | None, severity: Severity, *, always: bool = False) -> bool:
        """Whether a finding is to be made.

        Args:
            rule: Its rule.
            where: Its place.
            severity: How bad it is.
            always: Whether it is made unless it is ignored by name, as notes of blindness are.
        """
        if any(choice.covers(rule.code, where) for choice in self.ignore):
            return False
        if always:
            return True
        if self.select is not None and not any(choice.covers(rule.code, where) for choice in self.select):
            return False
        known = (self.known or {}).get((rule.code, where or ""))
        return known is None or severity > known


def choices(argument: str, words: Sequence[str] | str | None, rules: Sequence[Rule]) -> tuple[Choice, ...]:
    """What the words of ``select`` or ``ignore`` stand for.

    Args:
        argument: Its name, for errors.
        words: Each the code, the name or a former name of a rule (``"ACT101"``, ``"dead-units"``), a family of codes
            (``"ACT"``) or ``"all"``, alone or with a pattern of places (``"dead-units:encoder*"``). One string may hold
            several with commas between them.
        rules: The rules there are.

    Raises:
        TypeError: if ``words`` is not a string or a sequence of strings.
        ValueError: if a word is not known.
    """
    if isinstance(words, str):
        words = [word for word in re.split(r"[,\s]+", words) if word]
    if not isinstance(words, Sequence | None) or not all(isinstance(word, str) for word in words or ()):  # pyright: ignore[reportUnnecessaryIsInstance]  # users have no type checker
        raise TypeError(f"{argument}={words!r}: expected codes or names of rules, e.g. ['dead-units', 'MEM101']")
    return tuple(_choice(argument, word, rules) for word in words or ())


def _choice(argument: str, word: str, rules: Sequence[Rule]) -> Choice:
    """What one word stands for."""
    name, _, places = word.partition(":")
    codes = _codes(name, rules)
    if not codes:
        raise ValueError(f"{argument}={word!r}: {unknown_word(name, rules)}")
    if places == "" and ":" in word:
        raise ValueError(f"{argument}={word!r}: expected a pattern of places after the colon, e.g. '{name}:encoder*'")
    return Choice(codes, places or None)


def _codes(name: str, rules: Sequence[Rule]) -> frozenset[str]:
    """The codes of the rules that a word names; empty if it names none."""
    name = name.strip().lower()
    exact = [r.code for r in rules if name in {each.lower() for each in (r.code, r.name, *r.aliases)}]
    if exact:
        return frozenset(exact)
    released = [rule.code for rule in rules if not rule.preview]
    if name == EVERYTHING:
        return frozenset(released)
    return frozenset(code for code in released if family(code).lower() == name)


def family(code: str) -> str:
    """The letters that a code begins with, e.g. ``"ACT"``."""
    return code.rstrip("0123456789")


def is_rule(word: str, rules: Sequence[Rule]) -> bool:
    """Whether a word of ``select`` or ``ignore`` names rules, with a pattern of places or without."""
    return bool(_codes(word.partition(":")[0], rules))


def unknown_word(name: str, rules: Sequence[Rule]) -> str:
    """What is said of a word that names no rule: what is near, and what is allowed."""
    names = [word for rule in rules for word in (rule.code, rule.name, *rule.aliases)]
    near = get_close_matches(name.lower(), [word.lower() for word in names], n=1)
    meant = next((word for word in names if near and word.lower() == near[0]), None)
    hint = f" (did you mean {meant!r}?)" if meant else ""
    known = ", ".join(f"{rule.code} ({rule.name})" for rule in rules)
    families = ", ".join(sorted({family(rule.code) for rule in rules}))
    return f"no such rule{hint}; allowed are {known}; families of codes ({families}); and {EVERYTHING!r}"
