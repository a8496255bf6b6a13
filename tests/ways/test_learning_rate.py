"""Warmup and cooldown from the command line: the rates that Lightning's own monitor then logs."""

import math
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.ways.desk import SUITE, VARIABLE, Desk, Done

WARMUP = "--trainer.callbacks+=lightning_diagnostics.WarmupCooldownScheduler"
OF = "--trainer.callbacks."
FIT = ("datamodule.py", "fit", "--config", "datamodule.yaml")
OWN = ("suite_cli.py", "fit", "--config", "datamodule.yaml")
ADAM = ("--optimizer=AdamW", "--optimizer.lr=0.01", "--trainer.max_epochs=4")  # 40 steps
STEPS = 10  # of the plain program, by SGD with a rate of 0.01
SLOW = pytest.mark.slow


def factors(done: Done, name: str = "SGD") -> list[float]:
    """What `LearningRateMonitor` logged at each step, over the rate of the program."""
    (folder,) = done.folder.glob("lightning_logs/version_*")
    points = EventAccumulator(str(folder)).Reload().Scalars(f"lr-{name}")  # two of the first step of an epoch
    rates = {point.step: point.value for point in points}
    assert list(rates) == list(range(len(rates)))
    assert all(point.value == rates[point.step] for point in points)
    return [round(rate / 0.01, 4) for rate in rates.values()]


def cooling(steps: int) -> list[float]:
    """Factors of a cooldown in the shape 1-sqrt."""
    return [round(1 - math.sqrt(step / steps), 4) for step in range(steps)]


def flat(steps: int) -> list[float]:
    return [1.0] * steps


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        pytest.param(["warmup=auto"], [*flat(8), *cooling(2)], marks=SLOW),  # SGD has no beta2
        pytest.param(["warmup=4"], [0.25, 0.5, 0.75, *flat(5), *cooling(2)], marks=SLOW),
        (["warmup", "4"], [0.25, 0.5, 0.75, *flat(5), *cooling(2)]),
        pytest.param(["warmup=0.3"], [0.3333, 0.6667, *flat(6), *cooling(2)], marks=SLOW),
        pytest.param(["warmup=null"], [*flat(8), *cooling(2)], marks=SLOW),
        pytest.param(["warmup=2", "cooldown=null"], [0.5, *flat(9)], marks=SLOW),
        pytest.param(["warmup=null", "cooldown=null"], flat(10), marks=SLOW),
        pytest.param(["cooldown=0.4"], [*flat(6), *cooling(4)], marks=SLOW),
        pytest.param(["cooldown=5"], [*flat(5), *cooling(5)], marks=SLOW),
        (["cooldown=5", "cooldown_shape=linear", "floor=0.5"], [*flat(5), 1.0, 0.9, 0.8, 0.7, 0.6]),
        pytest.param(["warmup=2", "preset=wsd"], [0.5, *flat(7), *cooling(2)], marks=SLOW),
        pytest.param(
            ["warmup=5", "preset=linear_to_zero"], [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2], marks=SLOW
        ),
    ],
    ids=lambda value: ",".join(map(str, value)),
)
def test_flags_say_how_the_rate_goes(flags: list[str], expected: list[float], desk: Desk) -> None:
    first, *others = flags
    words = [OF + first] if "=" in first else [OF + first, others.pop()]
    assert factors(desk.good(*FIT, WARMUP, *words, *(OF + each for each in others))) == expected


def test_the_automatic_warmup_is_a_tenth_of_a_short_run_by_adam(desk: Desk) -> None:
    done = desk.good(*FIT, *ADAM, WARMUP, f"{OF}warmup=auto")
    assert factors(done, "AdamW") == [0.25, 0.5, 0.75, *flat(29), *cooling(8)]
    assert "AdamW: linear warmup over 4 steps (a tenth of the run)" in done.err


EVERY_ARGUMENT: dict[str, Any] = {
    "warmup": 0.2,
    "warmup_shape": "cosine",
    "cooldown": 4,
    "cooldown_shape": "mirror-cosine",
    "floor": 0.25,
    "preset": None,
    "every_n_train_steps": 3,
    "on_finding": "stop",
    "at": "error",
    "limits": {"warmup-never-ends.rise": 10},
    "strict": True,
}


OURS = {"class_path": "lightning_diagnostics.WarmupCooldownScheduler", "init_args": EVERY_ARGUMENT}
FILE = {"more.yaml": yaml.dump({"trainer": {"callbacks+": [OURS]}})}


def test_a_file_has_every_argument(desk: Desk) -> None:
    desk.files = FILE
    done = desk.good(*FIT, "--config", "more.yaml")
    assert factors(done) == [0.5, *flat(6), 0.7348, 0.625, 0.5152]
    assert done.config["trainer"]["callbacks"][-1] == OURS


@SLOW
def test_a_file_with_every_argument_can_be_printed_and_fed_back(desk: Desk) -> None:
    desk.files = FILE
    first = desk.good(*FIT, "--config", "more.yaml")
    printed = desk.good(*FIT, "--config", "more.yaml", "--print_config").out
    assert yaml.safe_load(printed)["trainer"]["callbacks"][-1] == OURS
    desk.files = {"printed.yaml": printed}
    again = desk.good("datamodule.py", "fit", "--config", "printed.yaml")
    assert again.config["trainer"]["callbacks"][-1] == OURS
    assert factors(again) == factors(first)
    assert again.said("weights") == first.said("weights")


LENGTHS = "allowed are a whole number of steps, a fraction of the run (more than 0, less than 1), 'auto', None"


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("warmup=fast", f"warmup='fast': {LENGTHS}"),
        pytest.param("warmup=1.5", f"warmup=1.5: {LENGTHS}", marks=SLOW),
        pytest.param("warmup=-3", f"warmup=-3: {LENGTHS}", marks=SLOW),
        pytest.param(
            "cooldown=auto",
            "cooldown='auto': allowed are a whole number of steps, a fraction of the run (more than 0, ",
            marks=SLOW,
        ),
        pytest.param(
            "cooldown_shape=sqrt",
            "cooldown_shape='sqrt': allowed are '1-sqrt', 'linear', 'cosine', 'square', 'mirror-",
            marks=SLOW,
        ),
        pytest.param("preset=swd", "preset='swd': allowed are 'wsd', 'linear_to_zero', 'trapezoid', None", marks=SLOW),
        pytest.param("floor=2", "floor=2", marks=SLOW),
    ],
)
def test_the_first_line_says_which_value_is_wrong_and_what_is_allowed(flag: str, line: str, desk: Desk) -> None:
    done = desk.run(*FIT, WARMUP, OF + flag)
    assert done.status == 1
    assert done.first.startswith(f"lightning_diagnostics ERROR: WarmupCooldownScheduler: {line}")


def test_a_misspelt_argument_is_named(desk: Desk) -> None:
    done = desk.run(*FIT, WARMUP, f"{OF}warm_up=3")
    assert done.status == 2
    assert "warm_up: WarmupCooldownScheduler has no such argument (did you mean 'warmup'?)" in done.first


@SLOW
def test_the_suite_leaves_rates_alone(desk: Desk) -> None:
    assert factors(desk.good(*FIT, SUITE)) == flat(STEPS)
    assert factors(desk.good(*OWN)) == flat(STEPS)


def test_the_suite_warms_up_when_it_is_told(desk: Desk) -> None:
    assert factors(desk.good(*FIT, SUITE, f"{OF}learning_rate.warmup=4")) == [0.25, 0.5, 0.75, *flat(7)]


def test_a_command_line_with_our_flags_warms_up(desk: Desk) -> None:
    done = desk.good(*OWN, *ADAM, "--diagnostics.learning_rate.warmup=auto")
    assert factors(done, "AdamW") == [0.25, 0.5, 0.75, *flat(37)]
    assert done.settings["learning_rate"] == {"warmup": "auto"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("standard", flat(STEPS), marks=SLOW),
        pytest.param("learning_rate.warmup=4", [0.25, 0.5, 0.75, *flat(7)], marks=SLOW),
        pytest.param(
            "standard,learning_rate.warmup=4,learning_rate.cooldown=0.2",
            [0.25, 0.5, 0.75, *flat(5), *cooling(2)],
            marks=SLOW,
        ),
        pytest.param("{learning_rate: {warmup: 4, cooldown: null}}", [0.25, 0.5, 0.75, *flat(7)], marks=SLOW),
        pytest.param("learning_rate.warmup=null", flat(STEPS), marks=SLOW),
        ("learning_rate.preset=wsd", [*flat(8), *cooling(2)]),
        pytest.param("learning_rate.preset=trapezoid,learning_rate.warmup=2", [0.5, *flat(8), 0.5], marks=SLOW),
    ],
)
def test_the_environment_variable_warms_up(value: str, expected: list[float], desk: Desk) -> None:
    assert factors(desk.good(*FIT, env={VARIABLE: value})) == expected
