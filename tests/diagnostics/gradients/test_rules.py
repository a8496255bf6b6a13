"""The rules on numbers alone: both sides of each limit, the limit itself, too early, and every word that is said."""

import dataclasses
import json
import math
from typing import Any

import pytest

from lightning_diagnostics.diagnostics.gradients.measure import (
    Depth,
    Excursions,
    NonFinite,
    OptimizerGradients,
    Untrained,
)
from lightning_diagnostics.diagnostics.gradients.rules import (
    RULES,
    Limits,
    always_clipped,
    bouncing_gradient,
    exploding_gradient,
    missing_gradient,
    nonfinite_gradient,
    parameter_not_optimized,
    stuck_gradient,
    unwatched_gradients,
    vanishing_gradient,
)
from lightning_diagnostics.findings import Diagnosis, Rule, Severity, TooEarly, limit_table
from lightning_diagnostics.findings.rule import SECTIONS
from lightning_diagnostics.tensorboard import quantities

NAN, INF = float("nan"), float("inf")
# Of the tests; those of the package come from the sweep and from arithmetic.
NUMBERS: dict[str, Any] = {"missing_batches": 6, "missing_steps": 3, "unoptimized_batches": 5}
NUMBERS |= {"vanishing_ratio": 0.01, "vanishing_update": 0.1, "vanishing_looks": 3, "vanishing_layers": 4}
NUMBERS |= {"exploding_factor": 50.0, "exploding_steps": 3, "exploding_past": 20, "exploding_surge": 5.0}
NUMBERS |= {"stuck_share": 0.001, "stuck_loss": 0.5, "stuck_steps": 4, "bouncing_cv": 2.0}
NUMBERS |= {"clipped_share": 0.75, "clipped_factor": 0.0625}

BROKEN = NonFinite("Adam", 12, "net.2.weight", 3, 8, 0.5, 11, clipping=False)
UNTRAINED = Untrained("net.0", ("net.0.weight", "net.0.bias"), 1234, "Adam", 6, 3, 7)
ALONE = Untrained("head.scale", ("head.scale",), 1, "Adam", 6, 3, 0)
MANY = tuple(f"net.{index}.weight" for index in range(6))
DEEP = Depth("SGD", "net.0.weight", "net.10.weight", 6, (0.001, 0.00987, 0.0001), (0.01, 0.02, 0.0876), 40)
AWAY = Excursions("SGD", (10, 14, 19), 1234.5678, 2.345, 9.87654321, 4.0)
SURGE = Excursions("SGD", (10, 14), 1234.5678, 2.345, 987.654321, 4.0, (14,))
CALM = OptimizerGradients(
    layer="Adam",
    step=99,
    since=92,
    window=8,
    values=8,
    judged=8,
    median_factor=1.0,
    first_mean=2.0,
    first_loss=4.0,
    loss=1.0,
    earlier_loss=1.5,
    zero_steps=0,
    **{**dict.fromkeys(quantities(OptimizerGradients)), "mean": 1.0, "cv": 0.5, "clipped_share": 0.0},
)


def but(measured: Any, **changes: Any) -> Any:
    """The same measurement, but for something."""
    return dataclasses.replace(measured, **changes)


STUCK = but(CALM, mean=0.0012345, first_mean=2.0, loss=3.0)
BOUNCING = but(CALM, cv=2.3456, loss=1.5, earlier_loss=1.25)
CLIPPED = but(CALM, clipped_share=0.875, median_factor=0.5)


def verdict(rule: Rule, measured: Any, **limits: float) -> Any:
    return rule.check(measured, Limits(**{**NUMBERS, **limits}))


def diagnosis(rule: Rule, measured: Any, **limits: float) -> Diagnosis:
    found = verdict(rule, measured, **limits)
    assert isinstance(found, Diagnosis)
    return found


# nonfinite-gradient.


def test_a_gradient_that_breaks_at_one_parameter_is_described_whole() -> None:
    assert diagnosis(nonfinite_gradient, BROKEN) == Diagnosis(
        Severity.ERROR,
        "net.2.weight",
        12,
        "The gradient that Adam was given is not finite, in 3 of 8 parameters.",
        "look at what comes after net.2.weight in the forward pass: sqrt or norm at 0, a division, where().",
        {"optimizer": "Adam", "parameters": 8, "not_finite": 3, "last_finite_step": 11, "loss": 0.5},
    )


@pytest.mark.parametrize(("loss", "words"), [(NAN, "nan"), (INF, "inf"), (-INF, "-inf")])
def test_a_loss_that_is_not_finite_is_named_and_blamed(loss: float, words: str) -> None:
    said = diagnosis(nonfinite_gradient, but(BROKEN, broken=8, loss=loss, before=None))
    assert said.message == (
        f"The gradient that Adam was given is not finite, in every parameter that has one; the loss was {words}."
    )
    assert said.remedy == (
        "find what made the loss NaN or infinite (ActivationMonitor names it); then clip, or lower the rate."
    )
    expected = {"optimizer": "Adam", "parameters": 8, "not_finite": 8, "last_finite_step": None, "loss": words}
    assert said.evidence == expected


def test_gradients_that_all_break_at_once_come_from_the_loss_even_if_it_was_not_seen() -> None:
    said = diagnosis(nonfinite_gradient, but(BROKEN, broken=8, loss=None))
    assert said.message == "The gradient that Adam was given is not finite, in every parameter that has one."
    assert said.remedy.startswith("find what made the loss NaN or infinite")
    assert "loss" not in said.evidence


def test_a_parameter_that_is_not_known_is_not_named() -> None:
    said = diagnosis(nonfinite_gradient, but(BROKEN, where=None, broken=0))
    assert said.where == "Adam"  # two optimizers are two findings
    assert said.message == "The gradient that Adam was given is not finite, in a parameter."


def test_clipping_that_breaks_the_gradient_is_described_whole() -> None:
    assert diagnosis(nonfinite_gradient, but(BROKEN, where=None, broken=0, clipping=True)) == Diagnosis(
        Severity.ERROR,
        "Adam",
        12,
        "The gradient that Adam was given is not finite, after clipping, and finite before it.",
        "look at what clips: a norm of 0 in a denominator, or error_if_nonfinite=True in clip_grad_norm_.",
        {"optimizer": "Adam", "parameters": 8, "not_finite": 0, "last_finite_step": 11, "loss": 0.5},
    )


# missing-gradient.


def test_parameters_without_a_gradient_are_described_whole() -> None:
    assert diagnosis(missing_gradient, but(UNTRAINED, batches=20)) == Diagnosis(
        Severity.WARNING,
        "net.0",
        7,
        "2 parameters (1,234 weights) of Adam received no gradient in 20 batches: no loss depends on them.",
        "look for detach(), no_grad(), .item() or argmax between here and the loss, or a module that is never called; "
        "requires_grad_(False) on what is not meant to learn.",
        {
            "parameters": "net.0.weight, net.0.bias",
            "batches": 20,
            "missing-gradient.batches": 6,
            "optimizer_steps": 3,
        },
    )


def test_one_parameter_without_a_gradient_is_told_of_in_the_singular() -> None:
    said = diagnosis(missing_gradient, ALONE)
    assert said.message == "1 parameter (1 weight) of Adam received no gradient in 6 batches: no loss depends on it."


@pytest.mark.parametrize("rule", [missing_gradient, parameter_not_optimized], ids=lambda rule: rule.name)
@pytest.mark.parametrize(("count", "more"), [(4, ""), (5, ""), (6, ", ...")])
def test_five_parameters_are_named(rule: Rule, count: int, more: str) -> None:
    said = diagnosis(rule, but(UNTRAINED, parameters=MANY[:count]))
    assert said.evidence["parameters"] == ", ".join(MANY[: min(count, 5)]) + more
    assert said.message.startswith(f"{count} parameters (1,234 weights) ")


@pytest.mark.parametrize("batches", [5, 6, 7])
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_a_missing_gradient_takes_batches_and_steps(batches: int, steps: int) -> None:
    found = verdict(missing_gradient, but(UNTRAINED, batches=batches, steps=steps))
    if batches < 6:
        assert found == TooEarly(batches, 6, "batches")
    elif steps < 3:
        assert found == TooEarly(steps, 3, "steps")
    else:
        assert isinstance(found, Diagnosis)


# parameter-not-optimized.


def test_parameters_that_no_optimizer_has_are_described_whole() -> None:
    assert diagnosis(parameter_not_optimized, but(UNTRAINED, optimizer=None, steps=0)) == Diagnosis(
        Severity.WARNING,
        "net.0",
        7,
        "2 parameters (1,234 weights) get gradients, but no optimizer has them.",
        "add them to the optimizer in configure_optimizers (self.parameters() has everything), or "
        "requires_grad_(False) on what is meant to stay as it is.",
        {"parameters": "net.0.weight, net.0.bias", "batches": 6, "parameter-not-optimized.batches": 5},
    )


def test_one_parameter_that_no_optimizer_has_is_told_of_in_the_singular() -> None:
    said = diagnosis(parameter_not_optimized, but(ALONE, optimizer=None))
    assert said.message == "1 parameter (1 weight) gets gradients, but no optimizer has it."


@pytest.mark.parametrize(("batches", "said"), [(0, False), (4, False), (5, True), (6, True)])
def test_a_parameter_without_an_optimizer_takes_batches(batches: int, said: bool) -> None:
    found = verdict(parameter_not_optimized, but(UNTRAINED, batches=batches, steps=0))
    assert isinstance(found, Diagnosis) if said else found == TooEarly(batches, 5, "batches")


# vanishing-gradient.


def test_a_gradient_that_vanishes_is_described_whole() -> None:
    assert diagnosis(vanishing_gradient, DEEP) == Diagnosis(
        Severity.WARNING,
        "net.0.weight",
        40,
        "The gradient of net.0.weight is at most 0.01 of that of net.10.weight, 5 weights further on, and its update "
        "at most 0.09 of the median one, or of the nearest if that is larger: it hardly learns.",
        "ReLU instead of sigmoid or tanh, norms or residual connections between the layers, an initialisation for the "
        "activation; or an optimizer that scales each weight's step, such as Adam.",
        {
            "gradient_ratio": 0.00987,
            "vanishing-gradient.ratio": 0.01,
            "update_ratio": 0.0876,
            "vanishing-gradient.update": 0.1,
            "looks": 3,
            "optimizer": "SGD",
        },
    )


@pytest.mark.parametrize(("ratio", "said"), [(0.00999, True), (0.01, False), (0.0101, False)])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_gradient_has_to_be_small_at_every_look(place: int, ratio: float, said: bool) -> None:
    ratios = tuple(ratio if index == place else 1e-6 for index in range(3))
    assert (verdict(vanishing_gradient, but(DEEP, ratios=ratios)) is not None) is said


@pytest.mark.parametrize(("update", "said"), [(0.0999, True), (0.1, False), (0.101, False)])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_update_has_to_be_small_at_every_look_too(place: int, update: float, said: bool) -> None:
    updates = tuple(update if index == place else 1e-6 for index in range(3))
    assert (verdict(vanishing_gradient, but(DEEP, updates=updates)) is not None) is said


@pytest.mark.parametrize(("looks", "said"), [(1, False), (2, False), (3, True), (4, True)])
def test_a_vanishing_gradient_takes_looks(looks: int, said: bool) -> None:
    found = verdict(vanishing_gradient, but(DEEP, ratios=(1e-6,) * looks, updates=(1e-6,) * looks))
    assert isinstance(found, Diagnosis) if said else found == TooEarly(looks, 3, "looks")


@pytest.mark.parametrize(("layers", "said"), [(3, False), (4, True), (5, True)])
def test_a_few_layers_are_no_matter_of_depth_however_few_looks_there_are(layers: int, said: bool) -> None:
    assert (verdict(vanishing_gradient, but(DEEP, layers=layers)) is not None) is said
    early = verdict(vanishing_gradient, but(DEEP, layers=layers, ratios=(1e-6,), updates=(1e-6,)))
    assert early == (TooEarly(1, 3, "looks") if said else None)


# exploding-gradient.


def test_a_gradient_that_explodes_is_described_whole() -> None:
    assert diagnosis(exploding_gradient, AWAY) == Diagnosis(
        Severity.WARNING,
        "SGD",
        10,
        "At 3 steps the gradient norm was more than 50 times its median (up to 1.23e+03, median 2.35), and the loss "
        "rose above all before it.",
        "clip the gradients, say Trainer(gradient_clip_val=5), or lower the learning rate.",
        {
            "steps": "10, 14, 19",
            "largest_norm": 1235.0,
            "median_norm": 2.345,
            "loss": 9.877,
            "largest_loss_before": 4.0,
            "exploding-gradient.factor": 50.0,
            "exploding-gradient.steps": 3,
        },
    )


def test_a_single_step_that_threw_the_loss_up_is_described_whole() -> None:
    assert diagnosis(exploding_gradient, SURGE) == Diagnosis(
        Severity.WARNING,
        "SGD",
        14,
        "At step 14 the gradient norm was more than 50 times its median (up to 1.23e+03, median 2.35), after which the "
        "loss went to 988, from at most 4 before.",
        "clip the gradients, say Trainer(gradient_clip_val=5), or lower the learning rate.",
        {
            "steps": "14",
            "largest_norm": 1235.0,
            "median_norm": 2.345,
            "loss": 987.7,
            "largest_loss_before": 4.0,
            "exploding-gradient.factor": 50.0,
            "exploding-gradient.surge": 5.0,
        },
    )


@pytest.mark.parametrize(("loss", "word"), [(NAN, "nan"), (INF, "inf")])
def test_several_steps_that_end_in_no_number_are_described_whole(loss: float, word: str) -> None:
    said = diagnosis(exploding_gradient, but(SURGE, surges=(3, 4, 6), steps=(4,), loss=loss))
    assert said.message == (
        "At 3 steps the gradient norm was more than 50 times its median (up to 1.23e+03, median 2.35), after which the "
        "loss went to NaN or infinity, from at most 4 before."
    )
    assert (said.first_step, said.evidence["steps"], said.evidence["loss"]) == (3, "3, 4, 6", word)


def test_a_surge_is_told_of_rather_than_steps_that_are_counted() -> None:
    said = diagnosis(exploding_gradient, but(AWAY, surges=(14,)))
    assert (said.first_step, said.evidence["steps"]) == (14, "14")
    assert "exploding-gradient.steps" not in said.evidence
    assert "exploding-gradient.surge" not in diagnosis(exploding_gradient, AWAY).evidence


@pytest.mark.parametrize(("count", "said"), [(0, False), (2, False), (3, True), (4, True)])
def test_single_excursions_are_no_illness(count: int, said: bool) -> None:
    found = verdict(exploding_gradient, but(AWAY, steps=tuple(range(count))))
    assert isinstance(found, Diagnosis) if said else found is None


@pytest.mark.parametrize(("count", "words"), [(5, "0, 1, 2, 3, 4"), (6, "0, 1, 2, 3, 4, ...")])
def test_five_steps_are_named(count: int, words: str) -> None:
    assert diagnosis(exploding_gradient, but(AWAY, steps=tuple(range(count)))).evidence["steps"] == words


@pytest.mark.parametrize(("loss", "words"), [(NAN, "nan"), (INF, "inf")])
def test_a_loss_that_is_no_number_is_a_word_in_the_evidence(loss: float, words: str) -> None:
    assert diagnosis(exploding_gradient, but(AWAY, loss=loss)).evidence["loss"] == words


@pytest.mark.parametrize(("median", "value"), [(0.0123, "0.02"), (0.5, "1"), (43.0, "90"), (1e-5, "2e-05")])
def test_the_value_to_clip_at_is_twice_the_median_with_one_digit(median: float, value: str) -> None:
    remedy = diagnosis(exploding_gradient, but(AWAY, median=median)).remedy
    assert remedy == f"clip the gradients, say Trainer(gradient_clip_val={value}), or lower the learning rate."


# stuck-gradient.


def test_a_gradient_that_died_down_is_described_whole() -> None:
    assert diagnosis(stuck_gradient, STUCK) == Diagnosis(
        Severity.INFO,
        "Adam",
        92,
        "The gradient norm of Adam has fallen to 0.0006 of what it was over the first window, and the loss is at 75% "
        "of what it was then.",
        "look for dead or saturated units, a clamped loss, or a learning rate that threw the weights off.",
        {
            "norm": 0.001234,
            "share_of_first": 0.000617,
            "stuck-gradient.share": 0.001,
            "loss_share": 0.75,
            "stuck-gradient.loss": 0.5,
        },
    )


def test_a_gradient_of_exactly_zero_is_described_whole() -> None:
    measured = but(CALM, values=6, zero_steps=6, mean=0.0, first_mean=None, loss=None)
    assert diagnosis(stuck_gradient, measured) == Diagnosis(
        Severity.INFO,
        "Adam",
        92,
        "The gradient of Adam was zero at each of the last 6 steps.",
        "look for dead or saturated units, a clamped loss, or a learning rate that threw the weights off.",
        {"zero_steps": 6, "stuck-gradient.steps": 4},
    )


@pytest.mark.parametrize(("values", "said"), [(0, False), (3, False), (4, True), (5, True)])
def test_zeros_take_steps(values: int, said: bool) -> None:
    measured = but(CALM, values=values, zero_steps=values, mean=0.0)
    assert (verdict(stuck_gradient, measured) is not None) is said


def test_one_step_with_a_gradient_is_enough_to_be_alive() -> None:
    assert verdict(stuck_gradient, but(CALM, zero_steps=7, mean=0.1)) is None


@pytest.mark.parametrize(("mean", "said"), [(0.0019, True), (0.002, True), (0.0021, False)])
@pytest.mark.parametrize("few", [3, 4])
def test_the_norm_is_stuck_up_to_the_limit(mean: float, said: bool, few: int) -> None:
    found = verdict(stuck_gradient, but(STUCK, mean=mean, values=few))
    assert (found is not None) is (said and few >= 4)


@pytest.mark.parametrize(("loss", "said"), [(1.9, False), (2.0, True), (2.1, True)])
def test_a_loss_that_has_fallen_is_no_plateau(loss: float, said: bool) -> None:
    assert (verdict(stuck_gradient, but(STUCK, loss=loss)) is not None) is said


@pytest.mark.parametrize(
    "unknown", [{"first_mean": None}, {"first_mean": 0.0}, {"first_loss": None}, {"first_loss": 0.0}, {"loss": None}]
)
def test_nothing_is_stuck_without_a_first_window_to_compare_with(unknown: dict[str, Any]) -> None:
    assert verdict(stuck_gradient, but(STUCK, **unknown)) is None


# bouncing-gradient.


def test_a_gradient_that_bounces_is_described_whole() -> None:
    assert diagnosis(bouncing_gradient, BOUNCING) == Diagnosis(
        Severity.INFO,
        "Adam",
        92,
        "The gradient norm of Adam varies by 2.3 times its mean, and the loss does not fall (1.25 over the window "
        "before, 1.5 over this one).",
        "a smaller learning rate, larger batches, or gradient clipping.",
        {"cv": 2.346, "bouncing-gradient.cv": 2.0, "loss": 1.5, "loss_before": 1.25},
    )


@pytest.mark.parametrize(("cv", "said"), [(1.99, False), (2.0, True), (2.01, True), (None, False)])
def test_a_norm_bounces_from_the_limit_on(cv: float | None, said: bool) -> None:
    assert (verdict(bouncing_gradient, but(BOUNCING, cv=cv)) is not None) is said


@pytest.mark.parametrize(("loss", "said"), [(1.24, False), (1.25, True), (1.26, True), (None, False)])
def test_a_loss_that_falls_may_have_any_norms(loss: float | None, said: bool) -> None:
    assert (verdict(bouncing_gradient, but(BOUNCING, loss=loss)) is not None) is said


def test_without_a_window_before_nothing_bounces() -> None:
    assert verdict(bouncing_gradient, but(BOUNCING, earlier_loss=None)) is None


# always-clipped.


def test_steps_that_are_all_clipped_are_a_note_described_whole() -> None:
    assert diagnosis(always_clipped, CLIPPED) == Diagnosis(
        Severity.INFO,
        "Adam",
        92,
        "88% of the last 8 steps of Adam were clipped, to 0.5 of their norm in the median.",
        "nothing, if normalised steps are wanted; else a clipping value near the norm on the chart.",
        {
            "clipped_share": 0.875,
            "always-clipped.share": 0.75,
            "median_factor": 0.5,
            "always-clipped.factor": 0.0625,
        },
    )


def test_steps_that_are_clipped_to_next_to_nothing_are_described_whole() -> None:
    assert diagnosis(always_clipped, but(CLIPPED, clipped_share=1.0, median_factor=0.0012345)) == Diagnosis(
        Severity.WARNING,
        "Adam",
        92,
        "100% of the last 8 steps of Adam were clipped, to 0.0012 of their norm in the median.",
        "a larger clipping value, near the norm on the chart; in manual optimisation with a gradient scaler, unscale "
        "before clipping.",
        {
            "clipped_share": 1.0,
            "always-clipped.share": 0.75,
            "median_factor": 0.00123,
            "always-clipped.factor": 0.0625,
        },
    )


@pytest.mark.parametrize(("share", "said"), [(0.74, False), (0.75, True), (0.76, True), (None, False)])
def test_steps_are_always_clipped_from_the_limit_on(share: float | None, said: bool) -> None:
    assert (verdict(always_clipped, but(CLIPPED, clipped_share=share)) is not None) is said


@pytest.mark.parametrize(
    ("factor", "severity"), [(0.0624, Severity.WARNING), (0.0625, Severity.INFO), (0.0626, Severity.INFO)]
)
def test_a_factor_below_the_limit_is_a_warning(factor: float, severity: Severity) -> None:
    assert diagnosis(always_clipped, but(CLIPPED, median_factor=factor)).severity is severity


@pytest.mark.parametrize(("judged", "said"), [(1, False), (7, False), (8, True), (9, True)])
def test_clipping_is_judged_over_a_full_window(judged: int, said: bool) -> None:
    found = verdict(always_clipped, but(CLIPPED, judged=judged, values=min(judged, 8)))
    assert isinstance(found, Diagnosis) if said else found == TooEarly(judged, 8, "steps")


def test_a_window_of_which_some_steps_are_not_known_to_be_clipped_is_not_judged() -> None:
    assert verdict(always_clipped, but(CLIPPED, judged=7, values=8)) is None
    assert verdict(always_clipped, but(CLIPPED, median_factor=None)) is None


# All of them.

SICK = [
    *((nonfinite_gradient, but(BROKEN, loss=NAN)), (missing_gradient, UNTRAINED), (parameter_not_optimized, UNTRAINED)),
    *((vanishing_gradient, DEEP), (exploding_gradient, but(AWAY, loss=INF)), (stuck_gradient, STUCK)),
    (exploding_gradient, but(SURGE, loss=NAN)),
    *((bouncing_gradient, BOUNCING), (always_clipped, CLIPPED)),
]
HEALTHY = [(rule, CALM) for rule in (stuck_gradient, bouncing_gradient, always_clipped)]
HEALTHY += [(vanishing_gradient, but(DEEP, ratios=(0.5,) * 3)), (exploding_gradient, but(AWAY, steps=(10,)))]


def test_the_note_on_what_is_not_watched_is_made_by_no_number() -> None:
    assert verdict(unwatched_gradients, object()) is None


def test_every_rule_but_that_note_is_tried_here() -> None:
    assert {rule.code for rule, _ in SICK} == {rule.code for rule in RULES} - {unwatched_gradients.code}
    assert len({rule.code for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES) == 9


@pytest.mark.parametrize(("rule", "measured"), HEALTHY, ids=[rule.name for rule, _ in HEALTHY])
def test_health_is_passed_in_silence(rule: Rule, measured: Any) -> None:
    assert verdict(rule, measured) is None


@pytest.mark.parametrize(("rule", "measured"), SICK, ids=[rule.name for rule, _ in SICK])
def test_what_is_said_is_json_of_an_allowed_severity_with_the_limits_it_crossed(rule: Rule, measured: Any) -> None:
    said = diagnosis(rule, measured)
    json.dumps(dict(said.evidence), allow_nan=False)
    assert said.severity in rule.severities
    assert said.message.endswith(".")
    assert said.remedy.endswith(".")
    limits = {key: value for key, value in said.evidence.items() if "." in key}
    table = limit_table(Limits)
    assert bool(limits) is (rule is not nonfinite_gradient)
    assert all(key.startswith(rule.name) and value == NUMBERS[table[key][0].name] for key, value in limits.items())


def test_every_limit_is_of_a_rule_and_lies_within_its_own_bounds() -> None:
    names = {rule.name for rule in RULES}
    for key, (field, described) in limit_table(Limits).items():
        assert key.partition(".")[0] in names
        assert described.low <= described.default <= described.high
        assert math.isfinite(getattr(Limits(), field.name))


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_every_page_has_a_summary_and_words_under_each_heading(rule: Rule) -> None:
    assert rule.summary.endswith(".")
    assert all(rule.section(heading) for heading in SECTIONS)


@pytest.mark.parametrize(("middle", "found"), [(0.2999, True), (0.3, False)])
def test_a_branch_at_the_side_is_no_matter_of_depth(middle: float, found: bool) -> None:
    assert (verdict(vanishing_gradient, but(DEEP, middles=(0.01, middle, 0.02))) is not None) == found


def test_who_clips_already_is_told_something_else() -> None:
    assert diagnosis(exploding_gradient, AWAY).remedy.startswith("clip the gradients")
    clipped = diagnosis(exploding_gradient, but(AWAY, clipped=True))
    assert clipped.remedy == "lower the learning rate, or clip to less than now."


def test_without_norms_of_single_parameters_no_place_is_made_up() -> None:
    found = diagnosis(nonfinite_gradient, but(BROKEN, where=None, broken=0, parameters=0))
    assert found.message == "The gradient that Adam was given is not finite, in a parameter."
    assert "None" not in found.remedy


def test_of_a_negative_loss_no_share_is_taken() -> None:
    assert verdict(stuck_gradient, but(STUCK, first_loss=1.0, loss=5.0)) is not None
    assert verdict(stuck_gradient, but(STUCK, first_loss=-1.0, loss=-5.0)) is None
