"""Gradients and updates by depth: which weights are compared, and over which looks."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from lightning_diagnostics.diagnostics.gradients.depth import DepthHistory, update_ratio
from lightning_diagnostics.diagnostics.gradients.looking import ParameterLook
from lightning_diagnostics.diagnostics.gradients.measure import Depth
from lightning_diagnostics.diagnostics.gradients.parameters import Parameter

NAN, INF = float("nan"), float("inf")


def weight(name: str, elements: int = 4, *, matrix: bool = True, table: bool = False, trains: bool = True) -> Parameter:
    return Parameter(name, name, elements, matrix, table, trains, None)


WEIGHTS = [weight("a", 4), weight("b", 100), weight("c", 16)]
EACH = {"a": 4 * 0.01**2, "b": 100.0, "c": 16 * 4.0}
"""Squared norms: root mean squares of 0.01, 1 and 2."""


def look(ratio: float | None, before: float = 2.0) -> ParameterLook:
    return ParameterLook(0.0, before**2, None if ratio is None else (ratio * before) ** 2)


LOOKS = {"a": look(0.001), "b": look(0.01), "c": look(0.03)}


@pytest.mark.parametrize(
    ("before", "ratio"),
    [
        (look(0.001), 0.001),
        (look(0.0), 0.0),
        (look(None), None),
        (ParameterLook(0.0, None, 1.0), None),
        (ParameterLook(0.0, 0.0, 1.0), None),
        (ParameterLook(0.0, 1e-16, 1.0), None),
        (ParameterLook(0.0, 1.1e-16, 1.1e-16), 1.0),
        (ParameterLook(0.0, NAN, 1.0), None),
        (None, None),
    ],
)
def test_an_update_ratio_is_of_a_weight_that_is_more_than_nothing(
    before: ParameterLook | None, ratio: float | None
) -> None:
    found = update_ratio(before)
    assert found is None if ratio is None else found == pytest.approx(ratio)


def history(*takes: tuple[int, dict[str, float], dict[str, ParameterLook], list[Parameter]], looks: int = 3) -> Any:
    made = DepthHistory("SGD", looks)
    for take in takes:
        made.take(*take)
    return made


def test_the_first_is_compared_with_the_last() -> None:
    found = history((5, EACH, LOOKS, WEIGHTS)).measured()
    assert found == Depth(
        "SGD", "a", "c", 3, (pytest.approx(0.005),), (pytest.approx(1 / 30),), 5, (pytest.approx(0.5),)
    )


@pytest.mark.parametrize(
    ("nearest", "update"), [(0.02, 0.05), (0.01, 0.1), (0.005, 0.2), (0.0, 1.0), (0.1, 0.01), (None, 2 / 11)]
)
def test_the_update_is_compared_with_the_median_or_the_nearest_whichever_is_larger(
    nearest: float | None, update: float
) -> None:
    looks = {"a": look(0.001), "b": look(0.01), "c": look(nearest)}
    assert history((5, EACH, looks, WEIGHTS)).measured().updates == (pytest.approx(update),)


@pytest.mark.parametrize(("size", "update"), [(0.29, 1 / 4), (0.31, 1 / 20), (30.0, 1 / 20), (None, 2 / 5)])
def test_the_nearest_is_no_measure_while_its_weights_are_far_smaller_than_the_median_ones(
    size: float | None, update: float
) -> None:
    """Root mean squares are 3, 3 and a multiple; an update that is not known leaves the median of two."""
    looks = {"a": look(0.001, 6.0), "b": look(0.004, 30.0)}
    looks["c"] = ParameterLook(0.0, None, 1.0) if size is None else look(0.02, 4 * size)
    found = history((5, EACH, looks, WEIGHTS)).measured()
    assert found.updates == (pytest.approx(update),)


def test_where_all_but_the_nearest_vanish_so_does_the_median() -> None:
    weights = [weight(name) for name in "abcdef"]
    each = {**dict.fromkeys("abcde", 1e-8), "f": 1.0}
    looks = {**dict.fromkeys("abcde", look(1e-6)), "f": look(0.01)}
    found = history((5, each, looks, weights)).measured()
    assert (found.ratios, found.updates) == ((pytest.approx(1e-4),), (pytest.approx(1e-4),))


def test_without_a_look_there_is_nothing() -> None:
    assert history().measured() is None


def test_biases_tables_frozen_weights_and_those_without_a_gradient_are_left_out() -> None:
    others = [weight("bias", matrix=False), weight("table", table=True), weight("frozen", trains=False), weight("idle")]
    each = {**EACH, "bias": 1.0, "table": 1.0, "frozen": 1.0}
    found = history((5, each, LOOKS, [*others, *WEIGHTS, *others])).measured()
    assert (found.first, found.last, found.layers) == ("a", "c", 3)


def test_one_weight_has_no_depth() -> None:
    assert history((5, EACH, LOOKS, WEIGHTS[:1])).measured() is None


def test_the_last_looks_are_kept_with_the_first_of_them() -> None:
    takes = [(step, {**EACH, "a": 4.0 * (step / 100) ** 2}, LOOKS, WEIGHTS) for step in range(1, 6)]
    found = history(*takes).measured()
    assert found.ratios == pytest.approx((0.015, 0.02, 0.025))
    assert found.since == 3


def test_other_ends_begin_anew() -> None:
    wider = {**LOOKS, "d": look(0.01)}
    takes = [(1, EACH, LOOKS, WEIGHTS), (2, EACH, LOOKS, WEIGHTS)]
    grown = history(*takes, (3, {**EACH, "d": 4.0}, wider, [*WEIGHTS, weight("d")])).measured()
    assert (grown.last, grown.layers, len(grown.ratios), grown.since) == ("d", 4, 1, 3)
    assert len(history(*takes).measured().ratios) == 2


@pytest.mark.parametrize(
    ("each", "looks"),
    [
        ({**EACH, "c": 0.0}, LOOKS),
        ({**EACH, "a": NAN}, LOOKS),
        ({**EACH, "c": INF, "a": INF}, LOOKS),
        (EACH, {**LOOKS, "b": look(0.0), "c": look(0.0), "a": look(0.0)}),
        (EACH, {**LOOKS, "a": look(NAN)}),
    ],
)
def test_a_look_without_a_finite_ratio_begins_anew(each: dict[str, float], looks: dict[str, ParameterLook]) -> None:
    made = history((1, EACH, LOOKS, WEIGHTS), (2, EACH, LOOKS, WEIGHTS), (3, each, looks, WEIGHTS))
    assert made.measured() is None
    made.take(4, EACH, LOOKS, WEIGHTS)
    assert (len(made.measured().ratios), made.measured().since) == (1, 4)


@pytest.mark.parametrize("looks", [{}, {"b": look(0.01)}, {**LOOKS, "a": look(None)}])
def test_a_look_at_which_it_was_not_the_first_ones_turn_is_passed_over(looks: dict[str, ParameterLook]) -> None:
    made = history((1, EACH, LOOKS, WEIGHTS), (2, EACH, looks, WEIGHTS), (3, EACH, LOOKS, WEIGHTS))
    assert (len(made.measured().ratios), made.measured().since) == (2, 1)


def test_after_a_resume_it_goes_on() -> None:
    made, resumed = history((1, EACH, LOOKS, WEIGHTS), (2, EACH, LOOKS, WEIGHTS)), history()
    resumed.load(json.loads(json.dumps(made.state())))
    assert resumed.measured() == made.measured()
    for one in (made, resumed):
        one.take(3, {**EACH, "a": 1.0}, LOOKS, WEIGHTS)
        one.take(4, EACH, LOOKS, WEIGHTS)
    assert resumed.measured() == made.measured()
    assert len(resumed.measured().ratios) == 3
    empty = history()
    empty.load(json.loads(json.dumps(history().state())))
    assert empty.measured() is None
    assert math.isfinite(made.measured().ratios[0])


# What is no matter of depth.


def entries(history: Any) -> list[tuple[int, ...]]:
    return [tuple(look) for look in history.state()["looks"]]


def test_looks_that_are_close_together_count_as_one_at_their_worst() -> None:
    made = DepthHistory("SGD", 3, 10)
    for step, first in ((0, 1.0), (3, 4.0), (9, 2.0), (10, 1.0), (19, 1.0), (20, 1.0)):
        made.take(step, {**EACH, "a": EACH["a"] * first}, LOOKS, WEIGHTS)
    found = made.measured()
    assert found is not None
    assert [look[0] for look in entries(made)] == [0, 10, 20]
    assert found.ratios == (pytest.approx(2 * 0.005), pytest.approx(0.005), pytest.approx(0.005))


def test_updates_and_the_middle_of_looks_that_are_close_together_are_the_worst_of_them_too() -> None:
    made = DepthHistory("SGD", 3, 10)
    for step, own, middle in ((0, 0.001, 1.0), (4, 0.003, 1.0), (9, 0.002, 9.0), (10, 0.001, 1.0)):
        made.take(step, {**EACH, "b": EACH["b"] * middle}, {**LOOKS, "a": look(own)}, WEIGHTS)
    found = made.measured()
    assert found is not None
    assert found.updates == (pytest.approx(0.1), pytest.approx(1 / 30))
    assert found.middles == (pytest.approx(1.0), pytest.approx(0.5))
    resumed = DepthHistory("SGD", 3, 10)
    resumed.load(json.loads(json.dumps(made.state())))
    for each in (made, resumed):
        each.take(15, EACH, {**LOOKS, "a": look(0.006)}, WEIGHTS)
    assert resumed.measured() == made.measured()
    assert [entry[0] for entry in entries(resumed)] == [0, 10]


@pytest.mark.parametrize(("zeros", "judged"), [(0.5, True), (0.51, False)])
def test_a_weight_with_mostly_zero_gradients_is_a_table(zeros: float, judged: bool) -> None:
    first = WEIGHTS[0]
    looks = {**LOOKS, "a": replace(LOOKS["a"], zeros=zeros * first.elements)}
    assert (history((5, EACH, looks, WEIGHTS)).measured() is not None) == judged


def test_the_middle_is_that_of_the_median_weight() -> None:
    found = history((5, {**EACH, "b": EACH["b"] * 100}, LOOKS, WEIGHTS)).measured()
    assert found.middles == (pytest.approx(1.0),)  # now the last is
