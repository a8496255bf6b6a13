"""Programs with one realistic mistake each: the right finding at the right metric and step, silence on the twin."""

import math
from typing import Any, Literal

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_diagnostics import Finding, GeneralizationGapMonitor
from lightning_diagnostics.diagnostics.generalization_gap.baseline import Targets, constant
from tests.diagnostics.generalization_gap import sick
from tests.diagnostics.generalization_gap.networks_data import monitor, train
from tests.helpers import accusations

CASES = {str(case): case for case in sick.CASES}
QUICK = ("diabetes_large", "easy_duplicates", "norm_that_lags", "rate_next_to_nothing")
SEEDS = (0, 1, 2)
ONSETS = tuple(name for name, case in CASES.items() if case.codes & {"GAP101", "GAP801"})
RUNS = [
    pytest.param(case, seed, marks=() if name in QUICK and not seed else pytest.mark.slow, id=f"{name}-{seed}")
    for name, case in CASES.items()
    for seed in SEEDS
]
every_run = pytest.mark.parametrize(("case", "seed"), RUNS)


class Curve(Callback):
    """Writes down the validation loss of each step, from what the Trainer tells callbacks."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.losses[trainer.global_step - 1] = float(trainer.callback_metrics["val_loss"])


def examined(case: sick.Case, seed: int, *, ill: bool, **more: Any) -> tuple[GeneralizationGapMonitor, Curve, float]:
    """The monitor after a run, the validation losses, and the score."""
    ours, curve = monitor(**more), Curve()
    score = train(case.program(sick=ill), seed, ours, curve)
    return ours, curve, score


def assert_names_the_best_step(finding: Finding, curve: Curve) -> None:
    """It is the step of the lowest loss, but for what is no improvement (a tenth of a per cent)."""
    lowest = min(curve.losses.values())
    assert curve.losses[finding.first_step] <= lowest * 1.001
    assert finding.evidence["best"] == pytest.approx(curve.losses[finding.first_step], rel=1e-3)


@every_run
def test_a_mistake_is_found_at_its_metric_and_nothing_else_is(case: sick.Case, seed: int) -> None:
    ours, curve, _ = examined(case, seed, ill=True)
    right = [f for f in ours.findings if f.code in case.codes and f.status == "open"]
    assert right
    assert {f.where for f in right} <= case.where
    assert {f.code for f in accusations(ours)} <= case.codes | case.others
    for finding in right:
        if finding.code in ("GAP101", "GAP801"):
            assert_names_the_best_step(finding, curve)


@every_run
def test_the_repaired_twin_learns_and_is_left_in_peace(case: sick.Case, seed: int) -> None:
    ours, _, score = examined(case, seed, ill=False)
    assert accusations(ours) == []
    assert case.program(sick=False).learned(score)


@pytest.mark.parametrize("criterion", ["GL", "PQ", "UP"])
def test_prechelts_criteria_name_the_onset_of_the_textbook_run(criterion: Literal["GL", "PQ", "UP"]) -> None:
    case = CASES["diabetes_large"]
    ours, curve, _ = examined(case, 1, ill=True, criterion=criterion)
    (finding,) = [f for f in ours.findings if f.code == "GAP101"]
    assert_names_the_best_step(finding, curve)
    assert criterion in finding.evidence


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["GL", "PQ", "UP"])
@pytest.mark.parametrize("name", ONSETS)
def test_what_prechelts_criteria_say_is_the_onset(name: str, criterion: Literal["GL", "PQ", "UP"]) -> None:
    ours, curve, _ = examined(CASES[name], 0, ill=True, criterion=criterion)
    for finding in ours.findings:
        if finding.code in ("GAP101", "GAP801"):
            assert_names_the_best_step(finding, curve)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_two_classes_as_numbers_are_compared_with_their_entropy(shape: tuple[int, ...]) -> None:
    targets = Targets()
    targets.update([torch.zeros(4, 3), torch.tensor([0.0, 1.0, 1.0, 1.0]).view(shape)])
    best = constant([targets.state()])
    assert best.share == 0.75
    assert best.cross_entropy == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert best.squared_error is None


def test_several_outputs_of_two_classes_have_no_one_constant() -> None:
    targets = Targets()
    targets.update([torch.zeros(4, 3), torch.ones(4, 2)])
    assert targets.state() is None
