"""The rules on numbers alone: both sides of each limit, the limit itself, and every word that is said."""

import dataclasses
import math

import pytest

from lightning_diagnostics.diagnostics.graph_leak.measure import Retention
from lightning_diagnostics.diagnostics.graph_leak.rules import Limits, retained_activations, retained_graph
from lightning_diagnostics.findings import Diagnosis, Severity, TooEarly, Verdict

ONE_LOSS = Retention(
    where="model.running_loss",
    name="running_loss",
    kind="attribute",
    holder="Tensor",
    members=(),
    tensors=1,
    elements=1,
    operations=("AddBackward0", "AddBackward0"),
    steps=7,
    every_step=True,
    first_step=3,
    nodes_per_step=12.2,
    bytes_per_step=6100.0,
    exact=True,
    bound=None,
    ahead="run",
    steps_ahead=1000,
    chained=True,
    free_bytes=16e9,
)
OUTPUTS = dataclasses.replace(
    ONE_LOSS,
    where="model.outputs",
    name="outputs",
    holder="list",
    tensors=7,
    elements=320,
    bytes_per_step=2e6,
    container="list",
    direct=True,
    chained=False,
)


def judged(measured: Retention, **limits: float) -> Verdict:
    """The one verdict of the two rules, which never both speak."""
    verdicts = [rule.check(measured, Limits(**limits)) for rule in (retained_graph, retained_activations)]
    assert None in verdicts
    return next((verdict for verdict in verdicts if verdict is not None), None)


def diagnosis(measured: Retention, **limits: float) -> Diagnosis:
    verdict = judged(measured, **limits)
    assert isinstance(verdict, Diagnosis)
    return verdict


def test_a_running_sum_is_described_whole() -> None:
    said = diagnosis(ONE_LOSS)
    assert said == Diagnosis(
        severity=Severity.WARNING,
        where="model.running_loss",
        first_step=3,
        message="A tensor keeps the autograd graphs of 7 earlier steps alive: 12 graph nodes and 6.1 kB a step.",
        remedy="add a number, not a graph: self.running_loss += loss.detach().",
        evidence={
            "retained_steps": 7,
            "retained-graph.steps": 5,
            "tensors": 1,
            "nodes_per_step": 12.2,
            "bytes_per_step": 6100,
            "projected_share_of_free_memory": 0.000381,
            "retained-graph.share_of_free": 0.5,
        },
    )


def test_outputs_that_pile_up_are_described_whole() -> None:
    said = diagnosis(OUTPUTS)
    assert said.severity is Severity.WARNING
    assert said.message == (
        "A list of 7 tensors keeps the autograd graphs of 7 earlier steps alive: 12 graph nodes and 2 MB a step. "
        "Over the rest of the run that is 12% of the memory that is free."
    )
    assert said.remedy == (
        "detaching is not enough, the tensors themselves pile up: reduce them, or "
        "self.outputs.append(output.detach().cpu()) and clear it at the end of the epoch."
    )


def test_scalars_in_a_list_are_a_retained_graph_and_outputs_are_retained_activations() -> None:
    scalars = dataclasses.replace(OUTPUTS, elements=1)
    assert isinstance(retained_graph.check(scalars, Limits()), Diagnosis)
    assert retained_activations.check(scalars, Limits()) is None
    assert isinstance(retained_activations.check(OUTPUTS, Limits()), Diagnosis)
    assert retained_graph.check(OUTPUTS, Limits()) is None


@pytest.mark.parametrize(("steps", "speaks"), [(4, False), (5, True), (6, True)])
def test_nothing_is_said_before_the_limit_of_steps(steps: int, speaks: bool) -> None:
    verdict = judged(dataclasses.replace(ONE_LOSS, steps=steps))
    assert isinstance(verdict, Diagnosis) is speaks
    assert speaks or verdict == TooEarly(steps, 5, "steps")


def test_the_limit_of_steps_can_be_raised() -> None:
    assert judged(ONE_LOSS, steps=8) == TooEarly(7, 8, "steps")


@pytest.mark.parametrize(
    ("bytes_per_step", "severity"),
    [(7.9e6, Severity.WARNING), (8e6, Severity.WARNING), (8.1e6, Severity.ERROR)],
)
def test_growth_beyond_half_of_the_free_memory_is_an_error(bytes_per_step: float, severity: Severity) -> None:
    assert diagnosis(dataclasses.replace(ONE_LOSS, bytes_per_step=bytes_per_step)).severity is severity


def test_a_run_without_an_end_is_projected_over_the_horizon() -> None:
    endless = dataclasses.replace(ONE_LOSS, steps_ahead=math.inf, bytes_per_step=100_000.0)
    said = diagnosis(endless)
    assert said.severity is Severity.ERROR
    assert said.evidence["projected_share_of_free_memory"] == 0.625
    assert said.message.endswith("Over the steps ahead that is 62% of the memory that is free.")
    assert diagnosis(endless, horizon=1000).severity is Severity.WARNING


def test_memory_that_cannot_be_measured_makes_no_error_and_no_claim() -> None:
    said = diagnosis(dataclasses.replace(ONE_LOSS, bytes_per_step=1e12, free_bytes=None))
    assert said.severity is Severity.WARNING
    assert "projected_share_of_free_memory" not in said.evidence


def test_a_bounded_container_is_a_note_unless_what_it_will_hold_does_not_fit() -> None:
    bounded = dataclasses.replace(OUTPUTS, holder="deque", container="deque", bound=107)
    assert diagnosis(bounded).severity is Severity.INFO
    assert "12 graph nodes and 2 MB a step until it holds its maxlen of 107" in diagnosis(bounded).message
    assert diagnosis(dataclasses.replace(bounded, bytes_per_step=81e6)).severity is Severity.ERROR


def test_a_holder_that_was_not_found_is_a_finding_of_the_run_with_the_likely_causes() -> None:
    hidden = dataclasses.replace(
        ONE_LOSS, where=None, nodes_per_step=math.nan, bytes_per_step=math.nan, custom=("MyFnBackward",)
    )
    said = diagnosis(hidden)
    assert said.where is None
    assert said.message == (
        "The autograd graphs of 7 earlier steps are alive, and no attribute or variable that was searched leads to "
        "them."
    )
    assert said.remedy.startswith("(a) MyFnBackward storing tensors on ctx: use ctx.save_for_backward; or (b) a tensor")
    assert said.evidence["custom_functions"] == "MyFnBackward"
    assert all(value == value for value in said.evidence.values())  # NaN is no number that a file of JSON can hold


def test_attributes_of_a_family_are_named() -> None:
    family = dataclasses.replace(ONE_LOSS, where="model", tensors=4, members=("loss_0", "loss_1", "loss_2", "loss_3"))
    said = diagnosis(family)
    assert said.message.startswith("4 attributes (loss_0, loss_1, loss_2, ...) keep the autograd graphs of 7")
    assert said.remedy == "detach what is stored in these attributes: value.detach()."


def test_a_lower_bound_says_so() -> None:
    assert "alive: at least 12 graph nodes" in diagnosis(dataclasses.replace(ONE_LOSS, exact=False)).message
    between_looks = dataclasses.replace(ONE_LOSS, every_step=False)
    assert "the autograd graphs of at least 7 earlier steps alive" in diagnosis(between_looks).message
