"""Which object of torchmetrics is behind a name that the user's own hook logs."""

import torch
from torchmetrics import MeanMetric, Metric

from lightning_diagnostics.diagnostics.generalization_gap import metrics
from lightning_diagnostics.diagnostics.generalization_gap.names import PROVEN, Names
from lightning_diagnostics.diagnostics.generalization_gap.passing import Snapshot

CPU = torch.device("cpu")


def _found(**values: float) -> dict[str, Metric]:
    """Means that come to these values."""
    found: dict[str, Metric] = {}
    for path, value in values.items():
        found[path] = MeanMetric()
        found[path].update(torch.tensor(value))
    return found


def _learn(names: Names, values: dict[str, float], *processes: dict[str, float], rank: int = 0) -> None:
    each = [_found(**process) for process in processes]
    seen = [Snapshot(states={path: metrics.state(metric) for path, metric in found.items()}) for found in each]
    names.learn(values, each[0], seen, CPU, rank=rank)


def test_the_metric_that_comes_to_the_same_number_is_the_one() -> None:
    names = Names()
    _learn(names, {"val_a": 0.5, "val_b": 0.75}, {"one": 0.75, "two": 0.5})
    assert (names.path("val_a"), names.path("val_b"), names.path("val_c")) == ("two", "one", None)


def test_of_several_that_agree_the_next_validation_tells() -> None:
    names = Names()
    _learn(names, {"val_a": 0.5}, {"one": 0.5, "two": 0.5})
    assert names.path("val_a") == "one"
    assert names.wanted
    _learn(names, {"val_a": 0.25}, {"one": 0.5, "two": 0.25})
    assert names.path("val_a") == "two"


def test_one_that_does_not_agree_any_more_was_not_it() -> None:
    names = Names()
    _learn(names, {"val_a": 0.5}, {"one": 0.5, "two": 0.5})
    _learn(names, {"val_a": 0.25}, {"one": 1.0, "two": 1.0})
    assert names.path("val_a") is None


def test_a_chance_match_is_lost_at_the_next_validation() -> None:
    names = Names()
    _learn(names, {"val_best": 0.5}, {"acc": 0.5})
    assert names.path("val_best") == "acc"
    _learn(names, {"val_best": 0.5}, {"acc": 0.25})
    assert names.path("val_best") is None
    _learn(names, {"val_best": 0.75}, {"acc": 0.75})
    assert names.path("val_best") is None, "it is not asked again"


def test_states_are_wanted_for_the_first_validations() -> None:
    names = Names()
    for _ in range(PROVEN):
        assert names.wanted
        _learn(names, {"val_a": 0.5}, {"one": 0.5})
    assert not names.wanted
    _learn(names, {"val_a": 0.25}, {"one": 0.5})  # not looked at any more
    assert names.path("val_a") == "one"


def test_states_are_wanted_on_while_several_agree() -> None:
    names = Names()
    for _ in range(PROVEN + 3):
        _learn(names, {"val_a": 0.5}, {"one": 0.5, "two": 0.5})
        assert names.wanted
    _learn(names, {"val_a": 0.25}, {"one": 0.5, "two": 0.25})
    assert not names.wanted


def test_without_numbers_of_a_hook_no_states_are_wanted_until_there_is_one() -> None:
    names = Names()
    _learn(names, {}, {"one": 0.5})
    assert not names.wanted
    names.learn({"val_a": 0.5}, {}, [Snapshot()], CPU)  # late: there are no states yet
    assert names.wanted
    _learn(names, {"val_a": 0.5}, {"one": 0.5})
    assert names.path("val_a") == "one"


def test_the_number_may_be_that_of_the_own_process() -> None:
    for rank, path in ((0, "two"), (1, "one")):
        names = Names()
        _learn(names, {"val_a": 0.75}, {"one": 0.5, "two": 0.75}, {"one": 0.75, "two": 0.25}, rank=rank)
        assert names.path("val_a") == path


def test_the_number_is_that_of_all_processes() -> None:
    names = Names()
    _learn(names, {"val_a": 0.75}, {"one": 0.5, "two": 0.75}, {"one": 1.0, "two": 0.25})
    assert names.path("val_a") == "one"


def test_a_metric_that_one_process_has_not_seen_is_not_the_one() -> None:
    names, found = Names(), _found(one=0.5)
    seen = [Snapshot(states={"one": metrics.state(found["one"])}), Snapshot(states={"one": None})]
    names.learn({"val_a": 0.5}, found, seen, CPU)
    assert names.path("val_a") is None


def test_equal_is_what_float32_takes_for_it() -> None:
    names = Names()
    _learn(names, {"val_a": 0.500002, "val_b": 0.5001}, {"one": 0.5})
    assert (names.path("val_a"), names.path("val_b")) == ("one", None)
