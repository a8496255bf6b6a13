"""Limits: every number that a rule compares with, its meaning, and where it comes from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Any, TypeVar, cast

from lightning_diagnostics.findings.rule import Rule

LimitsT = TypeVar("LimitsT")


@dataclass(frozen=True)
class Limit:
    """One limit as the docs show it.

    Attributes:
        key: How a user names it: rule, dot, quantity (``"retained-graph.steps"``).
        default: Its value unless overridden; an int stays an int.
        meaning: What is compared with it.
        source: The paper, calculation or measurement it comes from.
        low: The smallest value allowed.
        high: The largest value allowed.
    """

    key: str
    default: float
    meaning: str
    source: str
    low: float = 0.0
    high: float = math.inf


def limit(default: float, *, key: str, meaning: str, source: str, low: float = 0.0, high: float = math.inf) -> Any:
    """A field of a frozen dataclass of limits (the arguments are those of `Limit`)."""
    return field(default=default, metadata={"limit": Limit(key, default, meaning, source, low, high)})


def limit_table(limits: Any) -> dict[str, tuple[Field[Any], Limit]]:
    """The fields of a dataclass of limits (or of an instance), by the key that a user writes."""
    table: dict[str, tuple[Field[Any], Limit]] = {}
    for item in fields(limits):
        described = cast(Limit, item.metadata["limit"])
        assert item.default is not MISSING
        table[described.key] = (item, described)
    return table


def override_limits(limits: LimitsT, overrides: Mapping[str, float] | None, *, rules: Sequence[Rule] = ()) -> LimitsT:
    """Limits with some of them replaced.

    Args:
        limits: An instance of a frozen dataclass whose fields are made by `limit`.
        overrides: New values by key, e.g. ``{"retained-graph.steps": 8}``; the code of the rule or a former name may
            stand for its name (``"MEM101.steps"``).
        rules: The rules that the limits are of.

    Raises:
        TypeError: if ``overrides`` is no mapping, or a value is no number.
        ValueError: if a key is unknown, or a value lies outside of what is allowed.
    """
    # Validate the arguments.
    if overrides is None:
        return limits
    if not isinstance(overrides, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # users have no type checker
        raise TypeError(f"limits={overrides!r}: expected a mapping from the name of a limit to its value")
    table = limit_table(limits)
    changes: dict[str, float] = {}
    for word, value in overrides.items():
        key = limit_key(word, rules)
        if key not in table:
            raise ValueError(f"unknown limit {word!r}: allowed are {', '.join(repr(known) for known in table)}")
        item, described = table[key]
        changes[item.name] = _checked(described, value)

    # Compute the new limits.
    return replace(cast(Any, limits), **changes)


def limit_key(word: str, rules: Sequence[Rule]) -> str:
    """The key of a limit by the name of its rule, also where a code or a former name stands in ``word``."""
    head, dot, quantity = str(word).partition(".")
    named = (rule.name for rule in rules if head.lower() in {each.lower() for each in (rule.code, *rule.aliases)})
    return f"{next(named, head)}{dot}{quantity}"


def _checked(described: Limit, value: object) -> float:
    """``value`` if it may stand for the limit, else an error that says what may."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"limit {described.key!r} is {value!r}: expected a number")
    whole = isinstance(described.default, int)
    if whole and value != math.inf and not float(value).is_integer():
        raise ValueError(f"limit {described.key!r} is {value!r}: expected a whole number")
    if not described.low <= value <= described.high:
        raise ValueError(f"limit {described.key!r} is {value!r}: allowed is {described.low:g} to {described.high:g}")
    return int(value) if whole and value != math.inf else value
