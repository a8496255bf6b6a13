"""Promise 9: a wrong argument is refused at construction, by an error that quotes it and names the argument."""

import inspect
import math
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from lightning_diagnostics.callback import one_of
from lightning_diagnostics.findings import limit_table
from tests.helpers import KINDS, Member, every_kind


class _Foreign:
    """Nothing that an argument could be."""

    def __repr__(self) -> str:
        return "<something foreign>"


def _of_annotation(annotation: Any) -> list[list[Any]]:
    """What is wrong for each member of an annotation; wrong for a union is what is wrong for all of it."""
    if get_origin(annotation) in (Union, UnionType):
        return [wrong for part in get_args(annotation) for wrong in _of_annotation(part)]
    if get_origin(annotation) is Literal:
        words = get_args(annotation)
        return [["no-such-word", "", 7, ["report"], None, *(word.swapcase() for word in words)]]
    wrong: dict[Any, list[Any]] = {
        bool: ["yes", 1, 0, None, []],
        int: [-1, -(10**9), 1.5, "3", "many", True, [3], math.nan, math.inf],
        float: ["many", "0.5", True, [0.5], math.nan],
        str: [3, [], b"word"],
    }
    if get_origin(annotation) is Sequence:  # of strings: a string alone would be read letter by letter
        return [[3, "word", [3], ["word", ""], {"a": "mapping"}]]
    return [wrong.get(annotation, [3, "word", ["a list"]])] if annotation is not NoneType else []


def _wrong_values(annotation: Any, default: Any) -> list[Any]:
    parts = _of_annotation(annotation)
    optional = NoneType in get_args(annotation)
    values = parts[0] if len(parts) == 1 else []
    return [_Foreign(), *(value for value in values if not (optional and value is None) and value is not default)]


def _wrong_limits(kind: Any) -> Iterator[tuple[Any, str]]:
    """Limits that are refused, with what the message quotes."""
    yield {"no-such-limit": 1.0}, "no-such-limit"
    yield {3: 1.0}, "3"
    for key, (_, known) in limit_table(kind.default_limits).items():
        for value in ("many", None, True, [1], math.nan, known.low - 1, known.high + 1, _Foreign()):
            if value != math.inf:
                yield {key: value}, repr(value)
        if isinstance(known.default, int):
            yield {key: known.low + 0.5}, repr(known.low + 0.5)


FREE_TEXT = {"sweep"}
"""Arguments of kinds that have no annotation, a name among them."""


def _cases() -> Iterator[Any]:
    for member in KINDS:
        hints = get_type_hints(member.kind.__init__)
        for name, parameter in inspect.signature(member.kind).parameters.items():
            for value in _wrong_values(str | None if name in FREE_TEXT else hints[name], parameter.default):
                yield pytest.param(member, name, value, repr(value), id=f"{member}-{name}-{value!r}")
        for value, quoted in _wrong_limits(member.kind):
            yield pytest.param(member, "limits", value, quoted, id=f"{member}-limits-{value!r}")


def _refused(kind: Any, name: str, value: Any, quoted: str) -> None:
    with pytest.raises((ValueError, TypeError)) as refusal:
        kind(**{name: value})
    message = str(refusal.value)
    assert quoted in message
    assert name.removesuffix("s") in message
    assert any(word in message for word in ("allowed", "expected")), f"{message!r} does not say what would be right"


@pytest.mark.parametrize(("member", "name", "value", "quoted"), list(_cases()))
def test_a_wrong_value_is_refused_and_quoted(member: Member, name: str, value: Any, quoted: str) -> None:
    _refused(member.kind, name, value, quoted)


@every_kind
def test_all_arguments_are_keyword_only(member: Member) -> None:
    parameters = inspect.signature(member.kind).parameters.values()
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}


@every_kind
def test_every_callback_takes_the_common_words(member: Member) -> None:
    assert {"on_finding", "at", "limits", "strict"} <= set(inspect.signature(member.kind).parameters)


@every_kind
def test_an_unknown_argument_is_refused_by_name(member: Member) -> None:
    with pytest.raises(TypeError, match="no_such_argument"):
        member.kind(no_such_argument=1)  # type: ignore[call-arg]


@every_kind
def test_every_argument_is_documented(member: Member) -> None:
    text = inspect.cleandoc(member.kind.__doc__ or "").partition("Args:")[2]
    assert [name for name in inspect.signature(member.kind).parameters if f"\n    {name}: " not in text] == []


@every_kind
def test_what_is_allowed_is_taken(member: Member) -> None:
    hints = get_type_hints(member.kind.__init__)
    words = {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}
    for name, allowed in words.items():
        for word in allowed:
            assert getattr(member.kind(**{name: word}), name) == word
    for key, (_, known) in limit_table(member.kind.default_limits).items():
        member.kind(limits={key: known.low})
        member.kind(limits={key: known.default})


# The tests of the test.


class _TakesAnything:
    def __init__(self, *, every_n_train_steps: int = 1) -> None:
        self.every_n_train_steps = every_n_train_steps


class _Mumbles:
    def __init__(self, *, every_n_train_steps: int = 1) -> None:
        raise ValueError("bad argument")


@pytest.mark.parametrize("culprit", [_TakesAnything, _Mumbles])
def test_a_callback_without_a_clear_refusal_is_caught(culprit: Any) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        _refused(culprit, "every_n_train_steps", -1, "-1")


def test_the_words_of_a_refusal() -> None:
    with pytest.raises(ValueError, match=r"^at='fatal': allowed are 'warning', 'error'$"):
        one_of("at", "fatal", ("warning", "error"))
