"""Limits: what an override may be, and what is said about one that may not."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import pytest

from lightning_diagnostics.findings import Limit, limit, limit_table, override_limits


@dataclass(frozen=True)
class Limits:
    """A whole number without an upper end, a share, and an age that may be infinite."""

    steps: int = limit(5, key="some-illness.steps", meaning="steps", source="arithmetic", low=1)
    share: float = limit(0.5, key="some-illness.share", meaning="a share", source="a sweep", high=1.0)
    few: int = limit(3, key="other-illness.few", meaning="few", source="a paper", low=2, high=9)


def test_without_overrides_the_limits_are_the_defaults() -> None:
    assert override_limits(Limits(), None) == override_limits(Limits(), {}) == Limits(5, 0.5, 3)


def test_an_override_replaces_the_limit_it_names_and_no_other() -> None:
    assert override_limits(Limits(), {"some-illness.share": 0.25}) == Limits(5, 0.25, 3)
    assert override_limits(Limits(), {"some-illness.steps": 8, "other-illness.few": 2}) == Limits(8, 0.5, 2)


def test_an_override_adds_to_those_made_before_and_leaves_the_original_as_it_is() -> None:
    default = Limits()
    first = override_limits(default, {"some-illness.steps": 8})
    assert override_limits(first, {"some-illness.share": 1}) == Limits(8, 1, 3)
    assert default == Limits(5, 0.5, 3)


@pytest.mark.parametrize("value", [8, 8.0])
def test_an_int_stays_an_int_also_where_a_command_line_gives_a_float(value: float) -> None:
    steps = override_limits(Limits(), {"some-illness.steps": value}).steps
    assert steps == 8
    assert type(steps) is int


def test_a_limit_without_an_upper_end_may_be_infinite_so_that_it_is_never_crossed() -> None:
    assert override_limits(Limits(), {"some-illness.steps": math.inf}).steps == math.inf


@pytest.mark.parametrize(
    ("key", "value"), [("some-illness.share", 0.0), ("some-illness.share", 1.0), ("other-illness.few", 9)]
)
def test_the_ends_of_the_range_are_allowed(key: str, value: float) -> None:
    assert value in dataclasses.astuple(override_limits(Limits(), {key: value}))


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("some-illness.share", -1e-9, "0 to 1"),
        ("some-illness.share", 1.0000001, "0 to 1"),
        ("some-illness.share", math.nan, "0 to 1"),
        ("some-illness.share", math.inf, "0 to 1"),
        ("some-illness.steps", 0, "1 to inf"),
        ("other-illness.few", 1, "2 to 9"),
        ("other-illness.few", 10, "2 to 9"),
        ("other-illness.few", math.inf, "2 to 9"),
        ("some-illness.steps", -math.inf, "a whole number"),
        ("some-illness.steps", math.nan, "a whole number"),
        ("some-illness.steps", 2.5, "a whole number"),
    ],
)
def test_a_value_outside_of_what_is_allowed_is_quoted_beside_what_is(key: str, value: float, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"^limit '{key}' is {value!r}: (allowed is|expected) {allowed}$"):
        override_limits(Limits(), {key: value})


@pytest.mark.parametrize("value", ["0.5", True, None, [0.5]])
@pytest.mark.parametrize("key", ["some-illness.share", "some-illness.steps"])
def test_a_value_that_is_no_number_is_quoted(key: str, value: Any) -> None:
    with pytest.raises(TypeError) as caught:
        override_limits(Limits(), {key: value})
    assert str(caught.value) == f"limit {key!r} is {value!r}: expected a number"


@pytest.mark.parametrize("key", ["some-illness.stepz", "steps", "other-illness.steps", ""])
def test_an_unknown_limit_is_quoted_beside_all_that_there_are(key: str) -> None:
    with pytest.raises(ValueError, match=r"^unknown limit ") as caught:
        override_limits(Limits(), {"some-illness.steps": 8, key: 1})
    known = "'some-illness.steps', 'some-illness.share', 'other-illness.few'"
    assert str(caught.value) == f"unknown limit {key!r}: allowed are {known}"


@pytest.mark.parametrize("overrides", [0.5, "some-illness.steps=8", [("some-illness.steps", 8)]])
def test_overrides_that_are_no_mapping_are_quoted(overrides: Any) -> None:
    with pytest.raises(TypeError) as caught:
        override_limits(Limits(), overrides)
    assert str(caught.value) == f"limits={overrides!r}: expected a mapping from the name of a limit to its value"


def test_the_table_gives_every_limit_by_its_key_with_what_it_means_and_where_it_is_from() -> None:
    table = limit_table(Limits)
    assert {key: field.name for key, (field, _) in table.items()} == {
        "some-illness.steps": "steps",
        "some-illness.share": "share",
        "other-illness.few": "few",
    }
    assert table["other-illness.few"][1] == Limit("other-illness.few", 3, "few", "a paper", 2, 9)
