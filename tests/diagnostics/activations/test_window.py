"""What the looks of a run add up to, against a slow second computation that remembers every look."""

import dataclasses
import io
import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from lightning_diagnostics.diagnostics.activations.callback import _in_pairs, _merged
from lightning_diagnostics.diagnostics.activations.measure import Layer, LayerReading, Look
from lightning_diagnostics.diagnostics.activations.rules import Limits, vanishing_activations
from lightning_diagnostics.diagnostics.activations.window import DEEP, RECENT, Window
from lightning_diagnostics.statistics import samples_needed
from tests.diagnostics.activations.looks import about, reading

LIMITS = {"activity": 0.1, "alpha": 0.05, "saturated": 0.9}
SEEDS = range(12)


def window(*layers: Layer, **limits: float) -> Window:
    made = Window(**{**LIMITS, **limits})
    made.know({layer.name: layer for layer in layers})
    return made


def look(step: int, *, drawn: bool = True, **readings: LayerReading) -> Look:
    return Look(step, drawn, readings)


# Death, in general.


class Slow:
    """Remembers every look at one layer and counts backwards."""

    def __init__(self, units: int) -> None:
        self.units, self.needed = units, samples_needed(units, activity=0.1, alpha=0.05)
        self.looks: list[tuple[int, int, list[bool]]] = []
        self.dead = [False] * units
        self.onset: list[int | None] = [None] * units
        self.revival: list[int | None] = [None] * units
        self.first: float | None = None

    def update(self, step: int, samples: int, active: list[bool]) -> None:
        self.looks.append((step, samples, active))
        for unit in range(self.units):
            silent: list[tuple[int, int]] = []
            for at, size, was_active in reversed(self.looks):
                if was_active[unit]:
                    break
                silent.append((at, size))
            dead = len(silent) >= RECENT and sum(size for _, size in silent) >= self.needed
            if self.dead[unit] and not dead:
                self.revival[unit] = step
            self.onset[unit] = silent[-1][0] if dead else None
            self.dead[unit] = dead
        if self.first is None and self.complete:
            self.first = sum(self.dead) / self.units

    @property
    def complete(self) -> bool:
        return len(self.looks) >= RECENT and sum(size for _, size, _ in self.looks) >= self.needed


@pytest.mark.parametrize("seed", SEEDS)
def test_deaths_onsets_and_revivals_are_those_of_a_count_over_all_looks(seed: int) -> None:
    draw = random.Random(seed)
    layers = {f"l{index}": Slow(draw.randint(1, 7)) for index in range(4)}
    made = window(*(about(name, units=slow.units) for name, slow in layers.items()))
    mood = {(name, unit): True for name, slow in layers.items() for unit in range(slow.units)}
    step = 0
    for _ in range(150):
        step += draw.randint(1, 9)
        readings = {}
        for name, slow in layers.items():
            if draw.random() < 0.2 and name != "l0":
                continue  # not called in this step
            for unit in range(slow.units):
                if draw.random() < 0.06:
                    mood[name, unit] = not mood[name, unit]
            samples = draw.randint(1, 12)
            active = [mood[name, unit] and draw.random() < 0.9 for unit in range(slow.units)]
            readings[name] = reading([draw.randint(1, 5) * on for on in active], samples=samples)
            slow.update(step, samples, active)
        made.update(Look(step, False, readings))
        for name, slow in layers.items():
            if not slow.looks:
                continue
            assert made.units(name) == (slow.onset, slow.revival)
            measured = made.layer(name)
            assert measured.dead_share == (sum(slow.dead) / slow.units if slow.complete else None)
            assert measured.dead_at_first == slow.first
            assert measured.since == tuple(sorted(at for at in slow.onset if at is not None))
            assert measured.dead_units == tuple(unit for unit in range(slow.units) if slow.dead[unit])
            assert (measured.looks, measured.needed) == (len(slow.looks), slow.needed)
            assert measured.samples == sum(samples for _, samples, _ in slow.looks)


@pytest.mark.parametrize(("looks", "dead"), [(RECENT - 1, None), (RECENT, 0.25), (RECENT + 1, 0.25)])
def test_a_verdict_takes_looks_however_many_samples_each_has(looks: int, dead: float | None) -> None:
    made = window(about())
    for step in range(looks):
        made.update(look(step, act=reading([1, 0, 1, 1], samples=10_000)))
    assert made.layer("act").dead_share == dead


def test_a_verdict_takes_samples_however_many_looks_there_are() -> None:
    made, needed = window(about()), samples_needed(4, activity=0.1)
    for step in range(needed):
        assert made.layer("act").dead_share is None if step else True
        made.update(look(step, act=reading([1, 0, 1, 1], samples=1, positions=196)))
    assert made.layer("act").dead_share == 0.25
    assert made.layer("act").samples == needed


def test_a_unit_that_was_active_once_needs_the_whole_evidence_anew() -> None:
    made = window(about())
    for step in range(20):
        made.update(look(step, act=reading([1, step == 9, 1, 1])))
        assert made.layer("act").dead == (step == 8 or step >= 17) or step < 8
    assert made.units("act") == ([None, 10, None, None], [None, 9, None, None])


def test_a_layer_is_needed_more_samples_the_wider_it_is() -> None:
    made = window(about("narrow", units=4), about("wide", units=400))
    made.update(look(0, narrow=reading([1] * 4), wide=reading([1] * 400)))
    assert [made.layer(name).needed for name in ("narrow", "wide")] == [
        *(samples_needed(4, activity=0.1), samples_needed(400, activity=0.1)),
    ]


def test_of_many_dead_units_the_first_are_named() -> None:
    made = window(about(units=30))
    for step in range(10):
        made.update(look(step, act=reading([0.0] * 30)))
    assert made.layer("act").dead_units == tuple(range(10))
    assert made.layer("act").dead == 30


# Families.


def test_a_smooth_unit_is_off_at_and_below_a_fortieth_of_its_layers_mean() -> None:
    counts = [100.0, 100.0, 100.0, 0.0]
    low = 0.025 * 300 / 4  # of the mean of all, with the unit at zero
    made = window(about(units=5, family="smooth"))
    for step in range(RECENT + 5):
        made.update(look(step, act=reading([*counts, low])))
    mean = (300 + low) / 5
    assert low > 0.025 * mean
    assert made.layer("act").dead_units == (3,)
    made = window(about(units=5, family="smooth"))
    exactly = 0.025 * 300 / (5 - 0.025)  # x with x = 0.025 (300 + x) / 5
    for step in range(RECENT + 5):
        made.update(look(step, act=reading([*counts, exactly * (1 - 1e-9)])))
    assert made.layer("act").dead_units == (3, 4)


def test_a_smooth_layer_that_is_zero_everywhere_is_dead() -> None:
    made = window(about(family="smooth"))
    for step in range(RECENT):
        made.update(look(step, act=reading([0.0] * 4)))
    assert made.layer("act").dead_share == 1.0


@pytest.mark.parametrize("family", ["saturating", "other"])
def test_other_families_have_no_dead_units(family: str) -> None:
    made = window(about(family=family))
    for step in range(3 * RECENT):
        made.update(look(step, act=reading([0.0] * 4)))
    measured = made.layer("act", reading([0.0] * 4))
    assert (measured.dead, measured.dead_share, measured.dead_at_first, measured.zero_share) == (0, None, None, None)


def test_a_look_that_is_not_finite_proves_no_silence() -> None:
    made = window(about())
    for step in range(20):
        broken = {"high": math.nan} if step == 12 else {}
        made.update(look(step, act=reading([1, 0, 1, 1], **broken)))
    assert made.units("act")[0] == [None, None, None, None]


def test_saturation_is_counted_in_looks_in_a_row() -> None:
    made = window(about(family="saturating"))
    for step, share in enumerate([0.95, 0.5, 0.9, 0.99, 0.92, 0.93]):
        made.update(look(10 * step, act=reading([share * 10] * 4)))
    measured = made.layer("act")
    assert (measured.saturated_looks, measured.saturated_since) == (4, 20)
    assert measured.saturated_least == pytest.approx(0.9)
    made.update(look(60, act=reading([8.9] * 4)))
    assert made.layer("act").saturated_looks == 0


def test_the_limit_of_saturation_is_a_whole_layers() -> None:
    made = window(about(family="saturating"))
    made.update(look(0, act=reading([10, 10, 10, 6])))  # 0.9 of all outputs
    assert made.layer("act").saturated_looks == 1
    made.update(look(1, act=reading([10, 10, 10, 5])))
    assert made.layer("act").saturated_looks == 0


# What is known of a layer.


def test_what_was_once_seen_of_a_layer_stays() -> None:
    made = window(about(trains=False, head=None))
    for new, known in [
        ({"trains": True, "gate": False, "leaves": False, "head": True}, (True, False, False, True)),
        ({"trains": False, "gate": True, "leaves": False, "head": None}, (True, True, False, True)),
        ({"trains": False, "gate": False, "leaves": True, "head": False}, (True, True, True, False)),
        ({"trains": False, "gate": False, "leaves": False, "head": True}, (True, True, True, False)),
    ]:
        made.know({"act": about(**new)})
        after = made.layers["act"]
        assert (after.trains, after.gate, after.leaves, after.head) == known


def test_layers_are_listed_in_the_order_in_which_they_were_read() -> None:
    made = window(about("a"), about("b"), about("c"))
    made.update(look(0, c=reading([1] * 4)))
    made.update(look(1, a=reading([1] * 4), c=reading([1] * 4)))
    assert made.seen == ["c", "a"]


def test_a_look_that_saw_nothing_changes_nothing() -> None:
    made = window(about())
    made.update(look(0))
    assert made.seen == []


# Numbers of a look.


def test_the_numbers_of_a_look_are_those_of_all_its_outputs() -> None:
    draw = np.random.default_rng(0)
    outputs = np.maximum(draw.normal([0, 1, 2], [1, 2, 3], size=(500, 3)), 0)
    mean = outputs.mean(axis=0)
    sums = {"mean": mean, "squares": np.square(outputs - mean).sum(axis=0), "low": 0.0, "high": outputs.max()}
    read = reading((outputs > 0).sum(axis=0), samples=500, **sums)
    made = window(about(units=3))
    made.update(look(0, act=read))
    measured = made.layer("act", read)
    assert measured.mean == pytest.approx(outputs.mean())
    assert measured.std == pytest.approx(outputs.std())
    assert measured.signal == pytest.approx(np.sqrt(np.square(outputs.std(axis=0)).mean()))
    assert measured.zero_share == pytest.approx((outputs == 0).mean())
    assert (measured.low, measured.high) == (None, outputs.max())
    assert (measured.saturated_share, measured.drift, measured.elements, measured.histogram) == (None,) * 4


def test_without_a_reading_there_are_no_numbers_of_a_look() -> None:
    made = window(about())
    made.update(look(0, act=reading([1] * 4)))
    measured = made.layer("act")
    assert all(math.isnan(value) for value in (measured.mean, measured.std, measured.high, measured.signal))
    assert (measured.zero_share, measured.histogram) == (None, None)


def test_a_histogram_has_the_edges_of_its_exponent() -> None:
    counts = [0.0] * 62 + [3.0, 5.0]
    read = reading([1] * 4, histogram=(-2, counts), high=0.24)
    for family, start in (("rectifier", 0.0), ("smooth", -0.25)):
        made = window(about(family=family))
        made.update(look(0, act=read))
        measured = made.layer("act", read)
        assert measured.elements == 8.0
        assert measured.histogram is not None
        assert measured.histogram.counts == tuple(counts)
        np.testing.assert_allclose(measured.histogram.edges, np.linspace(start, 0.25, 65), atol=1e-15)


# Drift.


def _epochs(*histograms: tuple[int, list[float]], family: str = "rectifier") -> list[float | None]:
    made, drifts = window(about(family=family)), []
    for step, histogram in enumerate(histograms):
        read = reading([1] * 4, histogram=histogram)
        made.update(look(step, act=read))
        made.begin_epoch(look(step, act=read))
        drifts.append(made.layer("act", read).drift)
        assert made.layer("act", read).drift is None  # told once
    return drifts


def test_drift_is_told_from_the_second_epoch_on() -> None:
    assert _epochs((0, [4, 0, 0, 0]), (0, [4, 0, 0, 0]), (0, [0, 0, 0, 2])) == [None, 0.0, 1.0]


def test_drift_between_histograms_of_different_ends_is_measured_at_the_wider() -> None:
    assert _epochs((0, [2, 0, 2, 0]), (1, [2, 2, 0, 0])) == [None, 0.0]
    assert _epochs((1, [2, 2, 0, 0]), (0, [0, 0, 0, 4])) == [None, 0.5]
    assert _epochs((0, [0, 0, 4, 0]), (1, [0, 0, 4, 0]), family="smooth") == [None, 0.0]


def test_an_epoch_whose_first_batch_has_no_histogram_is_passed_over() -> None:
    made = window(about())
    drifts = []
    for histogram in ((0, [1, 0]), None, (0, [0, 0]), (0, [0, 1])):
        read = reading([1] * 4, histogram=histogram)
        made.update(look(0, act=read))
        made.begin_epoch(look(0, act=read))
        drifts.append(made.layer("act", read).drift)
    assert drifts == [None, None, None, 1.0]


# Depth.


def deep(number: int = 4, **more: Any) -> list[Layer]:
    return [about(f"l{index}", order=index, **more) for index in range(number)]


def signals(made: Window, step: int, *stds: float, names: Sequence[str] = ()) -> None:
    known = names or [f"l{index}" for index in range(len(stds))]
    made.update(Look(step, False, {n: reading([1] * 4, std=s) for n, s in zip(known, stds, strict=True)}))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_scale_over_depth_is_that_of_the_healthiest_of_the_last_looks(seed: int) -> None:
    draw = random.Random(seed)
    made, looks = window(*deep(5)), []
    for step in range(40):
        stds = [10 ** draw.uniform(-3, 3) for _ in range(5)]
        looks.append((100 + step, stds))
        signals(made, *looks[-1][:1], *stds)
    medians = {}
    for at, (_, stds) in enumerate(looks[-DEEP:]):
        logs = [math.log10(std) for std in stds]
        medians[at] = statistics.median(logs[index + 1] - logs[index] for index in range(4))
    best = min(medians, key=lambda at: abs(medians[at]))
    (depth,) = made.depths()
    assert depth.gain == pytest.approx(medians[best])
    np.testing.assert_allclose(depth.log_signals, np.log10(looks[-DEEP:][best][1]), atol=1e-12)
    assert (depth.layers, depth.since) == (("l0", "l1", "l2", "l3", "l4"), looks[-DEEP][0])


def test_there_is_no_depth_before_enough_looks() -> None:
    made = window(*deep())
    for step in range(DEEP):
        assert made.depths() == []
        signals(made, step, 1, 2, 4, 8)
    assert len(made.depths()) == 1


def test_layers_are_ordered_as_they_were_called_and_parted_by_norms() -> None:
    layers = [about(f"l{index}", order=5 - index, segment=(5 - index) // 3) for index in range(6)]
    made = window(*layers)
    for step in range(DEEP):
        signals(made, step, 1, 1, 1, 1, 1, 1)
    assert [depth.layers for depth in made.depths()] == [("l5", "l4", "l3"), ("l2", "l1", "l0")]


@pytest.mark.parametrize(
    "left_out", [{"trains": False}, {"functional": True, "head": True}, {"family": "saturating"}], ids=str
)
def test_what_is_not_trained_not_hidden_or_has_ends_is_left_out_of_the_depth(left_out: dict[str, Any]) -> None:
    layers = deep()
    layers[1] = dataclasses.replace(layers[1], **left_out)
    made = window(*layers)
    for step in range(DEEP):
        signals(made, step, 1, 1, 1, 1)
    assert [depth.layers for depth in made.depths()] == [("l0", "l2", "l3")]


@pytest.mark.parametrize("gone", [1, 3, 8])
def test_a_signal_that_is_wholly_gone_has_vanished(gone: int) -> None:
    stds = [10.0 ** (-2 * index) for index in range(4)] + [0.0] * gone
    made = window(*deep(len(stds)))
    for step in range(DEEP):
        signals(made, step, *stds)
    assert [verdict.where for depth in made.depths() if (verdict := vanishing_activations.check(depth, Limits()))] == [
        "l2"
    ]


def test_one_layer_has_no_depth() -> None:
    made = window(*deep(1))
    for step in range(DEEP):
        signals(made, step, 1)
    assert made.depths() == []


def test_a_look_that_was_not_finite_is_no_scale() -> None:
    made = window(*deep())
    for step in range(DEEP):
        readings = {f"l{index}": reading([1] * 4, std=1) for index in range(4)}
        if step == 3:
            readings["l2"].high = math.nan
        made.update(Look(step, False, readings))
    assert made.depths() == []


def test_squares_that_overflow_are_those_of_a_large_signal() -> None:
    made = window(*deep(5))
    for step in range(DEEP):
        signals(made, step, 1, 1e6, 1e12, 1e18, math.nan)
    (depth,) = made.depths()
    assert depth.log_signals == (0, 6, 12, 18, 38)


# The trend.


def test_the_shares_are_those_of_every_moment_that_was_remembered_from_the_first_verdict_on() -> None:
    made = window(about())
    for step in range(30):
        made.update(look(step, act=reading([1, 1, step < 5, step < 15])))
        made.remember(["act"])
    assert made.layer("act").shares == tuple([0.0] * 5 + [0.25] * 10 + [0.5] * 8)


@pytest.mark.parametrize("number", [1, 64, 65, 66, 128, 129, 300, 900])
def test_the_shares_of_a_long_run_are_evenly_spread_over_it_and_the_newest_is_there(number: int) -> None:
    made = window(about(units=1000), activity=0.5)
    for step in range(number + RECENT - 1):
        made.update(look(step, act=reading([float(unit >= step) for unit in range(1000)], samples=50)))
        made.remember(["act"])
    shares = [round(1000 * share) for share in made.layer("act").shares]
    dying = list(range(number))  # one a look
    stride = next(2**power for power in range(9) if len(dying[:: 2**power]) <= 64)
    assert shares[-1] == dying[-1] == made.layer("act").dead
    assert shares[: len(dying[::stride])] == dying[::stride]
    assert len(shares) <= 65


# Resuming.


def _random_looks(seed: int, number: int) -> list[Look]:
    draw = random.Random(seed)
    looks = []
    for step in range(number):
        counts = {
            name: [float(draw.randint(0, 3) * (draw.random() < 0.3)) for _ in range(units)]
            for name, units in (("a", 3), ("b", 5), ("c", 2))
            if name == "a" or draw.random() < 0.8
        }
        histogram = (draw.randint(-2, 2), [float(draw.randint(0, 9)) for _ in range(8)])
        readings = {
            name: reading(count, samples=9, std=draw.uniform(0.1, 2), histogram=histogram)
            for name, count in counts.items()
        }
        looks.append(Look(3 * step, False, readings))
    return looks


def _run(made: Window, looks: Sequence[Look]) -> None:
    for index, each in enumerate(looks):
        made.update(each)
        if index % 10 == 0:
            made.begin_epoch(each)
        made.remember(list(each.readings))


def _everything(made: Window) -> list[Any]:
    return [
        *([dataclasses.astuple(made.layer(name))[:14] for name in made.seen], made.depths()),
        *([made.units(name) for name in made.seen], sorted(map(str, made.layers.values()))),
    ]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("at", [0, 1, 37, 60])
def test_a_window_that_was_saved_and_loaded_goes_on_as_if_nothing_had_been(at: int, seed: int) -> None:
    layers = [about("a", units=3), about("b", units=5, family="smooth"), about("c", units=2, family="saturating")]
    looks = _random_looks(seed, 90)
    unbroken, before, after = window(*layers), window(*layers), window()
    _run(unbroken, looks[:at])
    _run(before, looks[:at])
    file = io.BytesIO()
    torch.save(before.state(), file)
    file.seek(0)
    after.load(torch.load(file, weights_only=True))
    after.know({layer.name: layer for layer in layers})
    assert str(_everything(after)) == str(_everything(unbroken)) or at == 0
    rest = looks[at:]
    _run(unbroken, rest)
    _run(after, rest)
    assert str(_everything(after)) == str(_everything(unbroken))


def test_a_state_is_not_changed_by_what_comes_after_it() -> None:
    layers = [about("a", units=3), about("b", units=5), about("c", units=2)]
    made = window(*layers)
    looks = _random_looks(0, 60)
    _run(made, looks[:30])
    state = made.state()
    before = str(state)
    _run(made, looks[30:])
    assert str(state) == before
    other = window()
    other.load(state)
    _run(other, looks[30:])
    assert str(state) == before


# Ranks, and looks that wait for them.


def test_looks_of_several_ranks_become_one_with_the_samples_of_all() -> None:
    known = {"act": about(), "only": about("only")}
    one = look(7, drawn=False, act=reading([1, 0, 0, 2], samples=3))
    other = look(7, act=reading([0, 0, 4, 1], samples=5), only=reading([1, 1, 1, 1]))
    merged = _merged([one, other], known)
    assert (merged.step, merged.drawn, list(merged.readings)) == (7, True, ["act", "only"])
    assert merged.readings["act"].count.tolist() == [1, 0, 4, 3]
    assert merged.readings["act"].samples == 8
    assert merged.readings["only"] is other.readings["only"]


@pytest.mark.parametrize("number", [0, 1, 2, 5, 8])
def test_of_looks_that_wait_too_long_two_and_two_are_put_together(number: int) -> None:
    known = {"act": about()}
    waiting = [
        (look(10 * index, drawn=index == 3, act=reading([index, 0, 1, 0], samples=2)), index == 4)
        for index in range(number)
    ]
    pairs = _in_pairs(waiting, known)
    assert len(pairs) == (number + 1) // 2
    assert [each.step for each, _ in pairs] == [20 * index for index in range(len(pairs))]
    assert [each.drawn for each, _ in pairs] == [index == 1 for index in range(len(pairs))]
    assert [first for _, first in pairs] == [index == 2 for index in range(len(pairs))]
    assert sum(each.readings["act"].samples for each, _ in pairs) == 2 * number
    assert sum(each.readings["act"].count[0] for each, _ in pairs) == sum(range(number))


def test_thinning_out_keeps_the_evidence_for_a_death() -> None:
    known = {"act": about()}
    waiting = [(look(step, act=reading([1, step < 20, 1, 0])), step == 0) for step in range(100)]
    for _ in range(2):
        made = window(about())
        for each, _ in waiting:
            made.update(each)
        assert made.units("act")[0] == [None, 20, None, 0]
        assert made.layer("act").samples == 1000
        waiting = _in_pairs(waiting, known)
