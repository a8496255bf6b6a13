"""The rules on numbers alone: both sides of each limit, the limit itself, too early, and every word that is said."""

import dataclasses
import itertools
import math
from typing import Any

import pytest

from lightning_diagnostics.diagnostics.activations.measure import Depth, Layer, LayerActivations, NonFinite
from lightning_diagnostics.diagnostics.activations.rules import (
    RULES,
    Limits,
    dead_at_init,
    dead_units,
    dying_units,
    exploding_activations,
    nonfinite_activation,
    saturated_units,
    unwatched_activations,
    vanishing_activations,
)
from lightning_diagnostics.findings import Diagnosis, Rule, Severity, TooEarly

NAN = float("nan")
ABOUT = Layer(
    name="block1.act",
    kind="relu",
    family="rectifier",
    units=100,
    source="net.py:12",
    follows="block1.linear",
    functional=False,
    order=0,
    segment=0,
    trains=True,
    gate=False,
    head=False,
)
HEALTHY = LayerActivations(
    layer="block1.act",
    about=ABOUT,
    samples=2000,
    needed=755,
    looks=40,
    dead=0,
    dead_units=(),
    dead_at_first=0.0,
    since=(),
    shares=(0.0,),
    saturated_looks=0,
    saturated_since=0,
    saturated_least=0.0,
    dead_share=0.0,
    zero_share=0.5,
    mean=NAN,
    std=NAN,
    low=NAN,
    high=NAN,
    signal=NAN,
    saturated_share=None,
    drift=None,
    elements=None,
    histogram=None,
)
# Of the tests; those of the package come from the sweep.
NUMBERS: dict[str, Any] = {
    "share": 0.9,
    "lost_share": 0.6,
    "lost": 0.3,
    "units": 4,
    "at_init_share": 0.5,
    "saturated_share": 0.9,
}
NUMBERS |= {"dying_share": 0.4, "dying_rise": 0.15, "dying_verdicts": 16, "saturated_looks": 8, "layers": 4}
NUMBERS |= {"vanishing_ratio": 1e-4, "exploding_ratio": 1e4, "gain": 2.0}
LIMITS = Limits(**NUMBERS)


def layer(dead: int = 0, *, units: int = 100, first: float | None = 0.0, about: Any = None, **more: Any) -> Any:
    """A layer of which so many units are dead; the n-th of them since step n."""
    known = dataclasses.replace(ABOUT, units=units, **(about or {}))
    numbers = {"dead": dead, "dead_units": tuple(range(min(10, dead))), "since": tuple(range(dead))}
    numbers |= {"dead_share": dead / units, "dead_at_first": first, "shares": (dead / units,)}
    return dataclasses.replace(HEALTHY, about=known, **{**numbers, **more})


def diagnosis(rule: Rule, measured: Any, **limits: float) -> Diagnosis:
    verdict = rule.check(measured, Limits(**{**NUMBERS, **limits}))
    assert isinstance(verdict, Diagnosis)
    return verdict


def speaks(rule: Rule, measured: Any, **limits: float) -> bool:
    return isinstance(rule.check(measured, Limits(**{**NUMBERS, **limits})), Diagnosis)


def test_a_healthy_layer_is_passed_in_silence_by_every_rule_on_layers() -> None:
    assert [rule.check(HEALTHY, LIMITS) for rule in (dead_units, dying_units, saturated_units, dead_at_init)] == [
        *(None, None, None, None),
    ]


def test_no_layer_is_accused_twice_of_its_dead_units() -> None:
    for dead in range(0, 101, 5):
        for first in (0.0, 0.3, 0.5, 0.9, 1.0):
            measured = layer(dead, first=first)
            assert [speaks(rule, measured) for rule in (dead_units, dead_at_init)] != [True, True]


# dead-units.


@pytest.mark.parametrize(("dead", "said"), [(89, False), (90, True), (91, True)])
def test_a_layer_is_dead_from_the_limit_of_its_share_on_whenever_its_units_died(dead: int, said: bool) -> None:
    assert speaks(dead_units, layer(dead, first=dead / 100)) is said


@pytest.mark.parametrize(("dead", "first", "said"), [(59, 0.0, False), (60, 0.0, True), (61, 0.0, True)])
def test_a_layer_that_has_lost_units_is_dead_from_the_lower_limit_on(dead: int, first: float, said: bool) -> None:
    assert speaks(dead_units, layer(dead, first=first)) is said


@pytest.mark.parametrize(("first", "said"), [(0.25, True), (0.26, False), (0.24, True)])
def test_at_the_lower_limit_enough_units_must_have_died_in_this_run(first: float, said: bool) -> None:
    assert speaks(dead_units, layer(60, first=first), lost=0.35) is said


def test_dead_units_are_described_whole() -> None:
    assert diagnosis(dead_units, layer(70, first=0.1, samples=2048)) == Diagnosis(
        severity=Severity.WARNING,
        where="block1.act",
        first_step=59,  # the step at which the sixtieth of a hundred fell silent
        message="70 of 100 units (70%) are dead: each was off on all of the last 755 training samples or more; over "
        "the first looks it was 10%.",
        remedy="(a) lower the learning rate, or warm it up; (b) put a norm between block1.linear and it; (c) use an "
        "activation with a slope on both sides, such as nn.LeakyReLU.",
        evidence={
            "dead_share": 0.7,
            "dead_units": "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...",
            "units": 100,
            "samples_seen": 2048,
            "silent_for_samples": 755,
            "activity_below": 0.00396,
            "activation": "relu",
            "source": "net.py:12",
            "follows": "block1.linear",
            "dead-units.lost_share": 0.6,
            "dead_at_first": 0.1,
        },
    )


def test_a_layer_whose_units_are_all_dead_is_an_error_that_names_the_initialisation() -> None:
    said = diagnosis(dead_units, layer(5, units=5, first=1.0, about={"follows": ""}))
    assert said == Diagnosis(
        severity=Severity.ERROR,
        where="block1.act",
        first_step=4,  # of five units the fifth makes nine in ten
        message="All 5 units are dead: each was off on all of the last 755 training samples or more, and nothing of "
        "the input gets through.",
        remedy="(a) look at the initialisation of the layer before it, its bias above all; (b) scale the inputs to "
        "mean 0 and variance 1; (c) put a norm before the activation.",
        evidence={
            "dead_share": 1.0,
            "dead_units": "0, 1, 2, 3, 4",
            "units": 5,
            "samples_seen": 2000,
            "silent_for_samples": 755,
            "activity_below": 0.00396,
            "activation": "relu",
            "source": "net.py:12",
            "dead-units.share": 0.9,
            "dead_at_first": 1.0,
        },
    )


def test_all_but_one_unit_is_a_warning() -> None:
    assert diagnosis(dead_units, layer(99)).severity is Severity.WARNING


@pytest.mark.parametrize(("dead", "first_step"), [(90, 89), (100, 89)])
def test_the_first_step_is_that_at_which_the_limit_was_crossed(dead: int, first_step: int) -> None:
    assert diagnosis(dead_units, layer(dead)).first_step == first_step


def test_a_lower_limit_is_crossed_earlier_and_is_quoted() -> None:
    said = diagnosis(dead_units, layer(20, first=0.2), share=0.15)
    assert (said.first_step, said.evidence["dead-units.share"]) == (14, 0.15)


def test_dead_units_wait_for_samples_and_then_for_looks() -> None:
    early = {"dead_share": None, "dead_at_first": None}
    assert dead_units.check(layer(100, samples=754, looks=20, **early), LIMITS) == TooEarly(754, 755, "samples")
    assert dead_units.check(layer(100, samples=755, looks=7, **early), LIMITS) == TooEarly(7, 8, "looks")
    assert dying_units.check(layer(100, samples=7, **early), LIMITS) is None
    assert dead_at_init.check(layer(100, samples=7, **early), LIMITS) is None


@pytest.mark.parametrize("family", ["saturating", "other"])
def test_what_has_no_dead_units_is_never_too_early(family: str) -> None:
    assert dead_units.check(layer(0, about={"family": family}, dead_share=None, samples=1), LIMITS) is None


@pytest.mark.parametrize(
    "about",
    [{"trains": False}, {"functional": True, "head": True}],
    ids=["frozen", "loss"],
)
@pytest.mark.parametrize("rule", [dead_units, dying_units, dead_at_init])
def test_units_whose_death_does_not_matter_are_not_told_of(rule: Rule, about: dict[str, Any]) -> None:
    dying = {"shares": tuple(step / 20 for step in range(20))}
    for dead in (95, 100):
        assert rule.check(layer(dead, first=0.9, about=about, **dying), LIMITS) is None


@pytest.mark.parametrize(
    "about",
    [{"functional": True, "head": None}, {"functional": False, "head": False}, {"functional": True, "head": False}],
    ids=["no-backward", "module-within", "call-within"],
)
def test_what_lies_within_the_network_is_told_of(about: dict[str, Any]) -> None:
    assert speaks(dead_units, layer(95, about=about))


def test_an_output_layer_is_told_of_only_if_it_is_wholly_dead() -> None:
    rising_shares = {"shares": rising(0.2, 0.7)}
    for dead, said in ((60, False), (99, False), (100, True)):
        assert speaks(dead_units, layer(dead, first=0.0, about={"head": True})) is said
        assert not speaks(dead_at_init, layer(dead, first=0.9, about={"head": True}))
    assert not speaks(dying_units, layer(70, first=0.5, about={"head": True}, **rising_shares))
    assert speaks(dying_units, layer(70, first=0.5, **rising_shares))


@pytest.mark.parametrize(("units", "said"), [(3, False), (4, True), (5, True)])
def test_a_layer_of_a_few_units_is_not_judged(units: int, said: bool) -> None:
    assert speaks(dead_units, layer(units, units=units)) is said
    assert speaks(dead_units, layer(units, units=units), units=6) is False


# dying-units.


def dying(shares: tuple[float, ...], **more: Any) -> Any:
    return layer(round(shares[-1] * 100), **{"shares": shares, **more})


def rising(low: float, high: float, number: int = 16) -> tuple[float, ...]:
    """Shares that stay low over the first half and then rise evenly to the high one, a hundredth at a time."""
    half = number // 2
    return tuple(
        low if index < half else round(low + (high - low) * (index - half) / (number - 1 - half), 4)
        for index in range(number)
    )


def test_dying_units_are_described_whole() -> None:
    said = diagnosis(dying_units, dying(rising(0.2, 0.5), samples=9000))
    assert said == Diagnosis(
        severity=Severity.WARNING,
        where="block1.act",
        first_step=20,  # the first death after the middle of the run
        message="50 of 100 units (50%) are dead, 30% of the layer died over the later half of the run so far, and it "
        "goes on.",
        remedy="(a) lower the learning rate, or warm it up; (b) put a norm between block1.linear and it; (c) use an "
        "activation with a slope on both sides, such as nn.LeakyReLU.",
        evidence={
            "dead_share": 0.5,
            "dead_units": "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...",
            "units": 100,
            "samples_seen": 9000,
            "silent_for_samples": 755,
            "activity_below": 0.00396,
            "activation": "relu",
            "source": "net.py:12",
            "follows": "block1.linear",
            "rise": 0.3,
            "dying-units.rise": 0.15,
            "rise_in_last_quarter": 0.171,
        },
    )


@pytest.mark.parametrize(("number", "said"), [(15, False), (16, True), (17, True)])
def test_a_trend_takes_verdicts(number: int, said: bool) -> None:
    assert speaks(dying_units, dying(rising(0.2, 0.5, number))) is said


@pytest.mark.parametrize(("now", "said"), [(0.39, False), (0.40, True), (0.41, True)])
def test_a_rise_is_told_of_from_a_share_on(now: float, said: bool) -> None:
    assert speaks(dying_units, dying(rising(0.1, now))) is said


@pytest.mark.parametrize(("before", "said"), [(0.375, False), (0.25, True), (0.125, True)])
def test_a_rise_is_told_of_from_its_limit_on(before: float, said: bool) -> None:
    assert speaks(dying_units, dying(rising(before, 0.5)), dying_rise=0.25) is said


@pytest.mark.parametrize(("quarter", "said"), [(0.45, False), (0.375, True), (0.35, True)])
def test_a_rise_that_slows_down_is_not_told_of(quarter: float, said: bool) -> None:
    shares = (*[0.125] * 9, 0.2, 0.3, quarter, 0.46, 0.47, 0.48, 0.5)
    assert shares[-5] == quarter  # where the last quarter begins
    assert speaks(dying_units, dying(shares)) is said


@pytest.mark.parametrize(("now", "first", "said"), [(1.0, 0.9, False), (0.7, 0.0, False), (0.7, 0.5, True)])
def test_a_layer_that_is_called_dead_is_not_called_dying(now: float, first: float, said: bool) -> None:
    measured = dying(rising(0.2, now), dead_at_first=first)
    assert speaks(dying_units, measured) is said
    assert speaks(dead_units, measured) is not said


# dead-at-init.


@pytest.mark.parametrize(("first", "said"), [(0.49, False), (0.5, True), (0.51, True)])
def test_units_that_were_dead_from_the_first_looks_on_are_noted(first: float, said: bool) -> None:
    assert speaks(dead_at_init, layer(50, first=first)) is said


def test_dead_at_init_is_described_whole() -> None:
    assert diagnosis(dead_at_init, layer(3, units=6, first=0.5, about={"follows": ""})) == Diagnosis(
        severity=Severity.INFO,
        where="block1.act",
        first_step=0,
        message="50% of the 6 units were dead over the first looks.",
        remedy="nothing, if the result is good; else scale the inputs, look at the biases, or put a norm before the "
        "layer.",
        evidence={
            "dead_at_first": 0.5,
            "dead-at-init.share": 0.5,
            "dead_share": 0.5,
            "dead_units": "0, 1, 2",
            "units": 6,
            "samples_seen": 2000,
            "silent_for_samples": 755,
            "activity_below": 0.00396,
            "activation": "relu",
            "source": "net.py:12",
        },
    )


def test_units_that_all_came_back_to_life_are_noted_since_the_first_step() -> None:
    assert diagnosis(dead_at_init, layer(0, first=0.8)).first_step == 0


def test_before_the_first_window_nothing_is_noted_of_it() -> None:
    assert dead_at_init.check(layer(50, first=None), LIMITS) is None


# saturated-units.


def saturated(looks: int = 8, least: float = 0.95, **about: Any) -> Any:
    kind = {"kind": "tanh", "family": "saturating", **about}
    return layer(0, about=kind, dead_share=None, saturated_looks=looks, saturated_since=30, saturated_least=least)


def test_saturated_units_are_described_whole() -> None:
    assert diagnosis(saturated_units, saturated(9, 0.9567)) == Diagnosis(
        severity=Severity.WARNING,
        where="block1.act",
        first_step=30,
        message="At least 95 % of the outputs of this tanh lie at the ends of its range, where its slope is next to "
        "nothing.",
        remedy='scale what goes into it: (a) nn.init.xavier_uniform_(weight, gain=nn.init.calculate_gain("tanh")) in '
        "block1.linear; (b) a norm before it; (c) a smaller learning rate if it came in the run.",
        evidence={
            "saturated_share": 0.9567,
            "saturated-units.share": 0.9,
            "looks": 9,
            "activation": "tanh",
            "source": "net.py:12",
            "follows": "block1.linear",
        },
    )


def test_the_remedy_names_no_gain_that_torch_does_not_know() -> None:
    said = diagnosis(saturated_units, saturated(kind="softsign", follows=""))
    assert said.remedy.startswith("scale what goes into it: (a) smaller weights in the layer before it; (b) a norm")


@pytest.mark.parametrize(("looks", "verdict"), [(7, TooEarly(7, 8, "looks")), (0, None)])
def test_a_short_stretch_of_saturation_is_too_early_and_none_is_health(looks: int, verdict: TooEarly | None) -> None:
    assert saturated_units.check(saturated(looks), LIMITS) == verdict


@pytest.mark.parametrize("looks", [8, 9])
def test_a_stretch_of_saturation_is_told_of_from_its_limit_on(looks: int) -> None:
    assert speaks(saturated_units, saturated(looks))
    assert not speaks(saturated_units, saturated(looks), saturated_looks=10)


@pytest.mark.parametrize("about", [{"trains": False}, {"gate": True}, {"head": True}], ids=str)
def test_what_is_meant_to_lie_at_an_end_is_not_judged(about: dict[str, Any]) -> None:
    assert saturated_units.check(saturated(100, **about), LIMITS) is None


# The scale over depth.


def depth(*logs: float, gain: float | None = None, names: str = "abcdefgh") -> Depth:
    steps = [high - low for low, high in itertools.pairwise(logs)]
    gain = sorted(steps)[len(steps) // 2] if gain is None else gain
    return Depth(tuple(names[: len(logs)]), logs, gain, 8, 40)


def test_a_growing_signal_is_described_whole_where_it_crosses_the_limit() -> None:
    assert diagnosis(exploding_activations, depth(0.0, 1.5, 3.0, 4.5, 6.0)) == Diagnosis(
        severity=Severity.WARNING,
        where="d",
        first_step=40,
        message="Over 4 layers from a on, the signal has grown by a factor of 3.2e+04; from layer to layer by 32.",
        remedy="initialise for the activation (nn.init.kaiming_normal_ for ReLU, nn.init.xavier_normal_ for tanh), or "
        "put a norm between the layers.",
        evidence={
            "ratio": 31600.0,
            "exploding-activations.ratio": 1e4,
            "gain_per_layer": 31.6,
            "layers": 5,
            "first_layer": "a",
        },
    )


def test_a_shrinking_signal_is_described_whole_where_it_crosses_the_limit() -> None:
    assert diagnosis(vanishing_activations, depth(1.0, -1.0, -3.0, -5.0)) == Diagnosis(
        severity=Severity.WARNING,
        where="c",
        first_step=40,
        message="Over 3 layers from a on, the signal has shrunk by a factor of 1e+04; from layer to layer by 1e+02.",
        remedy="initialise for the activation (nn.init.kaiming_normal_ for ReLU, nn.init.xavier_normal_ for tanh), or "
        "put a norm between the layers.",
        evidence={
            "ratio": 0.0001,
            "vanishing-activations.ratio": 1e-4,
            "gain_per_layer": 0.01,
            "layers": 4,
            "first_layer": "a",
        },
    )


BOTH = pytest.mark.parametrize(("rule", "sign"), [(exploding_activations, 1), (vanishing_activations, -1)])


@BOTH
@pytest.mark.parametrize(("last", "said"), [(3.99, False), (4.0, True), (4.01, True)])
def test_the_signal_must_have_changed_by_the_limit(rule: Rule, sign: int, last: float, said: bool) -> None:
    logs = [sign * last * index / 3 for index in range(3)] + [sign * last]
    assert speaks(rule, depth(*logs)) is said
    assert not speaks(rule, depth(*(-log for log in logs)))


@BOTH
@pytest.mark.parametrize(("layers", "said"), [(3, False), (4, True), (5, True)])
def test_a_trend_over_depth_takes_layers(rule: Rule, sign: int, layers: int, said: bool) -> None:
    assert speaks(rule, depth(*(sign * 3.0 * index for index in range(layers)))) is said


@BOTH
@pytest.mark.parametrize(("gain", "said"), [(0.3010, False), (math.log10(2.0), True), (0.3011, True)])
def test_one_layer_alone_is_no_trend(rule: Rule, sign: int, gain: float, said: bool) -> None:
    logs = (0.0, sign * 5.0, sign * 5.0, sign * 5.0)
    assert speaks(rule, depth(*logs, gain=sign * gain)) is said


@BOTH
def test_the_limits_over_depth_can_be_set(rule: Rule, sign: int) -> None:
    measured = depth(*(sign * 0.5 * index for index in range(4)))
    assert not speaks(rule, measured)
    assert speaks(rule, measured, vanishing_ratio=0.05, exploding_ratio=20.0)
    assert not speaks(rule, measured, vanishing_ratio=0.05, exploding_ratio=20.0, gain=4.0)


@BOTH
@pytest.mark.parametrize(("reported", "where"), [("c", "c"), ("e", "e"), ("elsewhere", "d"), (None, "d")])
def test_a_stretch_that_was_reported_stays_where_it_was(rule: Rule, sign: int, reported: str, where: str) -> None:
    measured = dataclasses.replace(depth(*(sign * 1.5 * index for index in range(5))), reported_at=reported)
    assert diagnosis(rule, measured).where == where


# nonfinite-activation.


def broken(**more: Any) -> NonFinite:
    words = {"where": "net.log", "inside": True, "what": "NaN", "operation": "log", "low": -1.2345, "high": 2.5}
    return NonFinite(**{**words, "batch": False, "weights": "", "step": 12, "before": 11, **more})


def test_what_made_the_first_nan_is_described_whole() -> None:
    assert diagnosis(nonfinite_activation, broken()) == Diagnosis(
        severity=Severity.ERROR,
        where="net.log",
        first_step=12,
        message="In net.log, log made the first NaN of the forward pass, from inputs between -1.23 and 2.5.",
        remedy="keep the argument away from zero: clamp(min=eps) or + eps inside of it.",
        evidence={"value": "NaN", "operation": "log", "input_min": -1.23, "input_max": 2.5, "last_finite_look": 11},
    )


def test_weights_that_are_nan_already_are_described_whole() -> None:
    said = diagnosis(nonfinite_activation, broken(where="net.0", operation="", weights="net.0.weight", low=None))
    assert said == Diagnosis(
        severity=Severity.ERROR,
        where="net.0",
        first_step=12,
        message="net.0.weight has NaN already: it began in an earlier step, after step 11.",
        remedy="look at every step to see where it begins: every_n_train_steps=1; a smaller learning rate, clipping.",
        evidence={"value": "NaN", "weights": "net.0.weight", "last_finite_look": 11},
    )
    first = diagnosis(nonfinite_activation, broken(weights="net.0.weight", before=None))
    assert first.message == "net.0.weight has NaN already: it began in an earlier step."


@pytest.mark.parametrize(("where", "place"), [("net.0", "net.0"), (None, "the model")])
def test_a_batch_that_is_broken_already_is_described_whole(where: str | None, place: str) -> None:
    said = diagnosis(nonfinite_activation, broken(where=where, what="Inf", batch=True))
    assert said.message == f"The batch that goes into {place} has Inf already."
    assert said.remedy == ("look at the data: missing values, divisions by a standard deviation of zero, augmentation.")
    assert said.evidence == {"value": "Inf", "last_finite_look": 11}


@pytest.mark.parametrize(
    ("where", "inside", "place"),
    [("net.0", True, "In net.0"), ("net.0", False, "After net.0"), (None, False, "In the loss")],
)
def test_a_place_is_within_a_module_after_it_or_in_the_loss(where: str | None, inside: bool, place: str) -> None:
    said = diagnosis(nonfinite_activation, broken(where=where, inside=inside, what="Inf", low=None))
    assert (said.where, said.message) == (where, f"{place}, log made the first Inf of the forward pass.")
    assert "input_max" not in said.evidence


def test_a_layer_whose_output_alone_is_known_is_described_whole() -> None:
    said = diagnosis(nonfinite_activation, broken(operation="", low=None, high=None))
    assert said.message == "In net.log, the output has the first NaN of the forward pass."
    assert said.remedy == (
        "bound the inputs, or compute this in 32 bits; torch.autograd.set_detect_anomaly(True) shows the line."
    )
    assert said.evidence == {"value": "NaN", "last_finite_look": 11}


@pytest.mark.parametrize(
    ("operation", "remedy"),
    [
        *(("div", "away from zero"), ("sqrt", "away from zero"), ("linalgvectornorm", "away from zero")),
        *(("exp", "subtract the maximum"), ("softmax", "subtract the maximum"), ("mul", "bound the inputs")),
    ],
)
def test_the_remedy_fits_the_operation(operation: str, remedy: str) -> None:
    assert remedy in diagnosis(nonfinite_activation, broken(operation=operation)).remedy


def test_a_step_before_which_all_was_finite_may_be_the_first() -> None:
    assert diagnosis(nonfinite_activation, broken(before=0)).evidence["last_finite_look"] == 0
    assert "last_finite_look" not in diagnosis(nonfinite_activation, broken(before=None)).evidence


# All of them.


def test_the_note_on_what_is_not_watched_is_made_by_no_number() -> None:
    assert unwatched_activations.check(HEALTHY, LIMITS) is None


def test_every_number_of_evidence_is_one_that_json_can_hold() -> None:
    said = [diagnosis(dead_units, layer(90)), diagnosis(dying_units, dying(rising(0.2, 0.5)))]
    said += [diagnosis(saturated_units, saturated()), diagnosis(nonfinite_activation, broken())]
    for value in (value for each in said for value in each.evidence.values()):
        assert isinstance(value, str) or math.isfinite(value)


def test_the_rules_are_eight_and_each_has_a_code_of_its_own() -> None:
    assert len({rule.code for rule in RULES}) == len({rule.name for rule in RULES}) == 8
