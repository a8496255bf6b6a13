"""The rules as the command line shows them: the list of all, and the page of one."""

import json
import textwrap
from collections.abc import Sequence
from difflib import get_close_matches

from lightning_diagnostics.findings.limits import Limit
from lightning_diagnostics.findings.rule import Rule

VERSION = 1
"""The version of the JSON's form."""

_NEAR = 3  # how many words an error offers


def find(word: str, rules: Sequence[Rule]) -> Rule:
    """The rule of a code, a name or a former name, in any case.

    Raises:
        ValueError: if there is none.
    """
    named = {each.lower(): rule for rule in rules for each in (rule.code, rule.name, *rule.aliases)}
    if word.strip().lower() in named:
        return named[word.strip().lower()]
    near = [f"{named[each].code} ({each})" for each in get_close_matches(word.lower(), _names(rules), n=_NEAR)]
    near = near or [f"{named[each].code} ({named[each].name})" for each in _near_codes(word, rules)]
    hint = f"near it are {', '.join(near)}" if near else "nothing is near it"
    raise ValueError(f"unknown rule {word!r}: {hint}; all are listed by: lightning-diagnostics rules")


def listing(rules: Sequence[Rule], *, width: int) -> str:
    """All rules, each with code, name, severities and summary, in lines of at most ``width`` characters."""
    return "\n".join(_entry(rule, width) for rule in rules)


def as_json(rules: Sequence[Rule]) -> str:
    """All rules for programs: ``version`` (1) and ``rules``, each with what `listing` shows of it and its aliases."""
    plain = [
        {
            "code": rule.code,
            "name": rule.name,
            "severities": [severity.name for severity in rule.severities],
            "summary": rule.summary,
            "aliases": list(rule.aliases),
            "preview": rule.preview,
        }
        for rule in rules
    ]
    return json.dumps({"version": VERSION, "rules": plain}, indent=2)


def page(rule: Rule, limits: Sequence[Limit]) -> str:
    """The page of a rule in markdown, with its limits below.

    Args:
        rule: The rule.
        limits: Those of its room; the ones named after another rule are left out.
    """
    facts = [f"Reported as: {_severities(rule)}."]
    facts += ["A preview: asked only where it is selected."] if rule.preview else []
    facts += [f"Once called: {', '.join(rule.aliases)}."] if rule.aliases else []
    parts = [f"# {rule.code} {rule.name}", rule.page, "## Severity", " ".join(facts)]
    own = [limit for limit in limits if limit.key.startswith(f"{rule.name}.")]
    if own:
        parts += ["## Limits", "\n".join(map(_described, own))]
        parts.append(f'Change one by `limits={{"{own[0].key}": VALUE}}`.')
    return "\n\n".join(parts)


def _names(rules: Sequence[Rule]) -> list[str]:
    return [name.lower() for rule in rules for name in (rule.name, *rule.aliases)]


def _near_codes(word: str, rules: Sequence[Rule]) -> list[str]:
    return get_close_matches(word.lower(), [rule.code.lower() for rule in rules], n=_NEAR)


def _entry(rule: Rule, width: int) -> str:
    """A line with what a rule is called, and its summary below."""
    head = f"{rule.code}  {rule.name}  ({_severities(rule)}{'; preview' if rule.preview else ''})"
    return "\n".join(
        [head, *textwrap.wrap(rule.summary, width, initial_indent="        ", subsequent_indent="        ")]
    )


def _severities(rule: Rule) -> str:
    return ", ".join(severity.level for severity in rule.severities)


def _described(limit: Limit) -> str:
    """One limit as an item of a list, in lines as long as those of a page."""
    words = f"`{limit.key}` = {limit.default}: {limit.meaning}. Source: {limit.source}."
    return textwrap.fill(words, 120, initial_indent="- ", subsequent_indent="  ", break_long_words=False)
