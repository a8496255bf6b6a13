"""Wrong arguments are refused at construction, in words that quote them and say what is allowed."""

from typing import Any

import pytest

from lightning_diagnostics import GeneralizationGapMonitor


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"train_pass": "half"}, ValueError, "train_pass='half': allowed are 'subset', 'full', 'off'"),
        ({"criterion": "gl"}, ValueError, "criterion='gl': allowed are 'patience', 'GL', 'PQ', 'UP'"),
        ({"patience": 0}, ValueError, "patience=0: allowed is 1 or more"),
        ({"patience": 2.5}, TypeError, "patience=2.5: expected a whole number of 1 or more"),
        ({"strip": 1}, ValueError, "strip=1: allowed is 2 or more"),
        ({"min_relative_improvement": -0.1}, ValueError, "min_relative_improvement=-0.1: allowed is 0 to 1"),
        ({"min_relative_improvement": "1"}, TypeError, "min_relative_improvement='1': expected a number"),
        ({"time_budget": 0}, ValueError, "time_budget=0: allowed is 1e-06 to 1"),
        ({"time_budget": True}, TypeError, "time_budget=True: expected a number"),
        ({"per_class": 1}, TypeError, "per_class=1: allowed are True and False"),
        ({"monitor": 3}, TypeError, "monitor=3: expected the name of a metric, or None"),
        (
            {"directions": {"val_x": "up"}},
            ValueError,
            "directions: 'val_x' is 'up': allowed are 'min' and 'max'",
        ),
        (
            {"directions": ["val_x"]},
            TypeError,
            "directions=['val_x']: expected a mapping from the name of a metric to 'min' or 'max'",
        ),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused_in_these_words(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as refusal:
        GeneralizationGapMonitor(**arguments)
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    "arguments",
    [{"patience": 1}, {"strip": 2}, {"min_relative_improvement": 0}, {"time_budget": 1}, {"directions": {"a": "max"}}],
    ids=str,
)
def test_the_limits_themselves_are_allowed(arguments: dict[str, Any]) -> None:
    monitor = GeneralizationGapMonitor(**arguments)
    assert {name: getattr(monitor, name) for name in arguments} == arguments
