"""Which rules are asked and which findings are wanted, by the words of ``select`` and ``ignore``."""

from typing import Any

import pytest

from lightning_diagnostics.findings import Diagnosis, Rule, Selection, Severity, Verdict, choices, is_rule, unknown_word

PAGE = "\n".join(["An illness.", *(f"## {s}\ntext" for s in ("What it means", "Why it matters"))])


def _rule(code: str, name: str, **more: Any) -> Rule:
    def check(measured: Any, limits: Any) -> Verdict:
        return Diagnosis(Severity.WARNING, None, 0, "sick", "mend it")

    return Rule(code, name, (Severity.WARNING,), PAGE, check, **more)


DEAD = _rule("ACT101", "dead-units", aliases=("dead-relu",))
DYING = _rule("ACT102", "dying-units")
LEAK = _rule("MEM101", "retained-graph")
NEW = _rule("ACT199", "odd-units", preview=True)
BLIND = _rule("ACT901", "unwatched-activations")
RULES = (DEAD, DYING, LEAK, NEW, BLIND)


def _select(*words: str) -> Selection:
    return Selection(select=choices("select", words, RULES))


def _ignore(*words: str) -> Selection:
    return Selection(ignore=choices("ignore", words, RULES))


def _asked(selection: Selection) -> list[str]:
    return [rule.code for rule in RULES if selection.asks(rule)]


def _wanted(selection: Selection, rule: Rule, where: str | None, severity: Severity = Severity.WARNING) -> bool:
    return selection.wants(rule, where, severity)


def test_without_a_word_every_rule_but_a_preview_is_asked_and_everything_is_wanted() -> None:
    assert _asked(Selection()) == ["ACT101", "ACT102", "MEM101", "ACT901"]
    assert _wanted(Selection(), DEAD, "block.act")


@pytest.mark.parametrize("word", ["ACT101", "act101", "dead-units", "Dead-Units", "dead-relu", " dead-units"])
def test_a_rule_goes_by_code_name_and_former_name_in_any_case(word: str) -> None:
    assert _asked(_select(word)) == ["ACT101"]


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["ACT"], ["ACT101", "ACT102", "ACT901"]),
        (["act", "MEM101"], ["ACT101", "ACT102", "MEM101", "ACT901"]),
        (["all"], ["ACT101", "ACT102", "MEM101", "ACT901"]),
        (["all", "odd-units"], ["ACT101", "ACT102", "MEM101", "ACT199", "ACT901"]),
        (["ACT199"], ["ACT199"]),
        (["odd-units:encoder*"], ["ACT199"]),
        ([], []),
    ],
)
def test_families_all_and_previews(words: list[str], asked: list[str]) -> None:
    assert _asked(_select(*words)) == asked


def test_a_pattern_of_places_is_one_of_a_shell_and_tells_capitals_apart() -> None:
    selection = _select("dead-units:encoder*", "dead-units:*.act/relu", "MEM101")
    assert [_wanted(selection, DEAD, where) for where in ("encoder.0", "a.act/relu", "decoder", "Encoder", None)] == [
        *(True, True, False, False, False)
    ]
    assert _wanted(selection, LEAK, "model.losses")
    assert _asked(selection) == ["ACT101", "MEM101"]


def test_ignoring_a_rule_and_a_place() -> None:
    selection = _ignore("dead-units", "dying-units:decoder*", "MEM101:*")
    assert _asked(selection) == ["ACT102", "MEM101", "ACT901"]
    assert not _wanted(selection, DYING, "decoder.act")
    assert _wanted(selection, DYING, "encoder.act")
    assert not _wanted(selection, LEAK, "model.losses")
    assert not _wanted(selection, LEAK, None)


def test_ignore_goes_before_select() -> None:
    selection = Selection(select=choices("select", ["ACT"], RULES), ignore=choices("ignore", ["ACT101"], RULES))
    assert _asked(selection) == ["ACT102", "ACT901"]


def test_a_note_of_blindness_is_made_unless_it_is_ignored_by_name() -> None:
    assert _select("MEM101").wants(BLIND, None, Severity.INFO, always=True)
    assert not _select("MEM101").wants(BLIND, None, Severity.INFO)
    assert not _ignore("unwatched-activations").wants(BLIND, None, Severity.INFO, always=True)


def test_what_is_known_is_not_wanted_until_it_gets_worse() -> None:
    selection = Selection(known={("ACT101", "head"): Severity.WARNING, ("MEM101", ""): Severity.ERROR})
    assert not _wanted(selection, DEAD, "head")
    assert _wanted(selection, DEAD, "head", Severity.ERROR)
    assert _wanted(selection, DEAD, "tail")
    assert _wanted(selection, DYING, "head")
    assert not _wanted(selection, LEAK, None, Severity.ERROR)


def test_one_string_may_hold_several_words() -> None:
    assert choices("select", "dead-units:enc*, MEM101 ACT102", RULES) == choices(
        "select", ["dead-units:enc*", "MEM101", "ACT102"], RULES
    )


@pytest.mark.parametrize("word", ["dead-units", "ACT", "all", "dead-relu:a*"])
def test_what_names_rules(word: str) -> None:
    assert is_rule(word, RULES)


@pytest.mark.parametrize("word", ["", "dead", "ACT1", "standard", ":a", "A"])
def test_what_names_none(word: str) -> None:
    assert not is_rule(word, RULES)


ALLOWED = (
    "allowed are ACT101 (dead-units), ACT102 (dying-units), MEM101 (retained-graph), ACT199 (odd-units), "
    "ACT901 (unwatched-activations); families of codes (ACT, MEM); and 'all'"
)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dead-unit"], f"select='dead-unit': no such rule (did you mean 'dead-units'?); {ALLOWED}"),
        (["act102", "xyz:a*"], f"select='xyz:a*': no such rule; {ALLOWED}"),
        (["ACT1"], f"select='ACT1': no such rule (did you mean 'ACT901'?); {ALLOWED}"),
        (
            ["dead-units:"],
            "select='dead-units:': expected a pattern of places after the colon, e.g. 'dead-units:encoder*'",
        ),
    ],
)
def test_an_unknown_word_is_quoted_with_what_is_near_and_what_is_allowed(words: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the whole message is compared
        choices("select", words, RULES)
    assert str(caught.value) == message


@pytest.mark.parametrize("words", [3, {"dead-units": 1}, [1], b"ACT101", {"ACT101"}])
def test_other_kinds_are_refused(words: Any) -> None:
    with pytest.raises(TypeError) as caught:
        choices("ignore", words, RULES)
    assert str(caught.value) == f"ignore={words!r}: expected codes or names of rules, e.g. ['dead-units', 'MEM101']"


def test_a_former_name_that_is_near_is_offered() -> None:
    assert "did you mean 'dead-relu'?" in unknown_word("dead-rel", RULES)
