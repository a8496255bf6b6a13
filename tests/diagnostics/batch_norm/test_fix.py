"""``fix=True`` gives the correct program, to the last bit, and leaves no mode behind that was not there."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_diagnostics import BatchNormGuard, Diagnostics, Finding, Severity, catalogue
from tests.contracts.cells import digest
from tests.diagnostics.batch_norm import sick
from tests.diagnostics.batch_norm.sick import Batch, Patient
from tests.helpers import accusations, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]


class FewTrains(Patient):
    """``train()`` in the evaluation, of what is in training mode and of what is not."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        if self.sick:
            self.net.train(batch_idx % 2 == 1)
        super().score(name, batch, batch_idx)


class TrainsNestedPart(Patient):
    """A container is put into training mode, and all that is in it."""

    def build(self) -> nn.Module:
        net = super().build()
        return nn.Sequential(nn.Sequential(net[:4], net[4:6]), net[6:])

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        if self.sick:
            self.net[0].train()
        super().score(name, batch, batch_idx)


class TrainsBetweenTwoCalls(Patient):
    """``train()`` between two calls of the model in a step."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        self.log(f"{name}_first", self(batch[0]).mean())
        if self.sick:
            self.net[1].train()
        super().score(name, batch, batch_idx)


class AsksForItsMode(Patient):
    """The step is another in training mode."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.net(inputs + 0.1) if self.training else self.net(inputs)

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        if self.sick:
            self.train()
        super().score(name, batch, batch_idx)


class WithOwnTrain(Patient):
    """``train()`` is the user's own, and has an effect besides."""

    calls = 0

    def train(self, mode: bool = True) -> Any:
        self.calls += 1
        return super().train(mode)

    def on_validation_start(self) -> None:
        if self.sick:
            self.net.train()

    on_test_start = on_predict_start = on_validation_start


EVERYWHERE = (
    sick.TrainsInTheStep,
    sick.TrainsInALaterBatch,
    sick.TrainsAndPutsBack,
    sick.TrainsOnePart,
    sick.LeavesModesAlone,
    sick.TrainsAtTheStart,
    sick.TrainsAtTheEpochStart,
    sick.TrainsAtEveryBatch,
    sick.DropoutTrains,
    sick.RecurrentDropout,
    sick.OfImages,
    sick.OfInstances,
    sick.Scripted,
    FewTrains,
    TrainsNestedPart,
    TrainsBetweenTwoCalls,
    WithOwnTrain,
)
"""In every kind of evaluation."""

FEW = (sick.TrainsInTheStep, sick.LeavesModesAlone, sick.TrainsAtTheStart, sick.TrainsAtEveryBatch, sick.Scripted)


def few_at_once(makes: tuple[Any, ...]) -> list[Any]:
    """As parameters: all but a few are slow."""
    return [make if make in FEW else pytest.param(make, marks=pytest.mark.slow) for make in makes]


IN_FIT = (
    *EVERYWHERE,
    sick.TrainsBetweenBatches,
    sick.TrainsByACallback,
    sick.ForgetsTrainAtTheEpochEnd,
    sick.ForgetsTrainAfterValidation,
)
"""While training."""


OTHERS = ("batch_norm/", "step", "epoch")
"""Columns that are not the user's: Lightning adds the epoch to what we draw, too."""


def logged(folder: Path) -> list[tuple[str, str, str]]:
    """What the user's program has logged, in its order."""
    (file,) = folder.rglob("metrics.csv")
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    cells = ((row["step"], name, value) for row in rows for name, value in sorted(row.items()))
    return [(step, name, value) for step, name, value in cells if value and not name.startswith(OTHERS)]


def result(run: Trainer, module: Patient, folder: Path) -> dict[str, str]:
    """Digests of all that a program gives."""
    return {
        **{name: digest(value) for name, value in module.state_dict().items()},
        **{name: digest(value) for name, value in run.callback_metrics.items()},
        "optimizers": digest([each.state_dict() for each in run.optimizers]),
        "random numbers": digest(torch.get_rng_state()),
        "logged": digest(logged(folder)),
    }


def modes(module: nn.Module) -> dict[str, bool]:
    """By path."""
    return {path: each.training for path, each in module.named_modules()}


def train(module: Patient, folder: Path, *callbacks: Any, **settings: Any) -> dict[str, str]:
    """Two epochs with a sanity check."""
    more = {"max_epochs": 2, "num_sanity_val_steps": 2, **settings}
    run = sick.run(module, *callbacks, logger=CSVLogger(folder, version=0), **more)
    return result(run, module, folder)


def evaluate(entry: str, module: Patient, folder: Path, *callbacks: Any) -> Any:
    """Run one kind of evaluation alone; gives what came of it."""
    run = trainer(*callbacks, logger=CSVLogger(folder, version=0))
    _, loader = sick.digits()
    torch.manual_seed(3)
    with torch.no_grad():  # statistics that differ from those of a batch
        for each in module.modules():
            if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d):
                each.running_mean += 0.3
    if entry == "predict":
        return digest([run.predict(module, loader), torch.get_rng_state(), list(module.state_dict().values())])
    getattr(run, entry)(module, loader, verbose=False)
    return result(run, module, folder)


# Like the correct program.


@pytest.mark.parametrize("make", IN_FIT, ids=lambda kind: kind.__name__)
def test_metrics_weights_and_buffers_are_those_of_the_correct_program(
    make: Callable[..., Patient], tmp_path: Path
) -> None:
    right = train(sick.made(make, sick=False), tmp_path / "right")
    guard = BatchNormGuard(strict=True, fix=True)
    mended = train(sick.made(make, sick=True), tmp_path / "mended", guard)
    assert {name for name in right if right[name] != mended[name]} == set()
    assert accusations(guard) != []
    assert all("fix=True has put it right" in finding.message for finding in accusations(guard))


@pytest.mark.parametrize("make", few_at_once(IN_FIT), ids=lambda kind: kind.__name__)
def test_without_fix_they_are_not(make: Callable[..., Patient], tmp_path: Path) -> None:
    right = train(sick.made(make, sick=False), tmp_path / "right")
    guard = BatchNormGuard(strict=True)
    assert train(sick.made(make, sick=True), tmp_path / "sick", guard)["logged"] != right["logged"]
    assert accusations(guard) != []


@pytest.mark.parametrize("entry", ["validate", "test", "predict"])
@pytest.mark.parametrize("make", few_at_once(EVERYWHERE), ids=lambda kind: kind.__name__)
def test_an_evaluation_alone_is_that_of_the_correct_program(
    make: Callable[..., Patient], entry: str, tmp_path: Path
) -> None:
    in_score = make.score is not Patient.score  # type: ignore[attr-defined]
    if entry == "predict" and in_score:
        pytest.skip("it is no illness of its predictions")
    right = evaluate(entry, sick.made(make, sick=False), tmp_path / "right")
    guard = BatchNormGuard(strict=True, fix=True)
    mended = evaluate(entry, sick.made(make, sick=True), tmp_path / "mended", guard)
    assert mended == right
    assert {f.code for f in guard.findings} & {"BN101", "BN108"}
    assert evaluate(entry, sick.made(make, sick=True), tmp_path / "sick") != right, "it is sick without us"


def test_a_step_that_asks_for_the_mode_itself_is_put_right_where_it_asks(tmp_path: Path) -> None:
    right = evaluate("validate", sick.made(AsksForItsMode, sick=False), tmp_path / "right")
    mended = evaluate("validate", sick.made(AsksForItsMode, sick=True), tmp_path / "mended", BatchNormGuard(fix=True))
    assert mended == right


@pytest.mark.parametrize("make", [sick.TrainsInTheStep, sick.TrainsAtTheStart, sick.TrainsAtEveryBatch])
def test_it_holds_with_gradients_in_evaluation_too(make: Callable[..., Patient], tmp_path: Path) -> None:
    right = train(sick.made(make, sick=False), tmp_path / "right", inference_mode=False)
    mended = train(sick.made(make, sick=True), tmp_path / "mended", BatchNormGuard(fix=True), inference_mode=False)
    assert mended == right


@pytest.mark.parametrize("make", [sick.TrainsInTheStep, sick.TrainsAtTheStart, sick.TrainsAtEveryBatch])
def test_it_holds_when_validated_in_mid_epoch(make: Callable[..., Patient], tmp_path: Path) -> None:
    right = train(sick.made(make, sick=False), tmp_path / "right", val_check_interval=3)
    mended = train(sick.made(make, sick=True), tmp_path / "mended", BatchNormGuard(fix=True), val_check_interval=3)
    assert mended == right


# Modes.


@pytest.mark.parametrize("make", few_at_once(IN_FIT[:-2]), ids=lambda kind: kind.__name__)
def test_the_modes_after_the_run_are_those_without_it(make: Callable[..., Patient], tmp_path: Path) -> None:
    without, mended = sick.made(make, sick=True), sick.made(make, sick=True)
    train(without, tmp_path / "without")
    train(mended, tmp_path / "mended", BatchNormGuard(strict=True, fix=True))
    assert modes(mended) == modes(without)


@pytest.mark.parametrize("entry", ["validate", "test", "predict"])
@pytest.mark.parametrize("make", few_at_once(EVERYWHERE), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("training", [True, False])
def test_the_modes_after_an_evaluation_are_those_without_it(
    make: Callable[..., Patient], entry: str, training: bool, tmp_path: Path
) -> None:
    without, mended = (sick.made(make, sick=True).train(training) for _ in range(2))
    evaluate(entry, without, tmp_path / "without")
    evaluate(entry, mended, tmp_path / "mended", BatchNormGuard(strict=True, fix=True))
    assert modes(mended) == modes(without)


class Breaks(Patient):
    """Something raises in the third batch of the evaluation, all in training mode."""

    def on_validation_start(self) -> None:
        self.net.train()

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        super().score(name, batch, batch_idx)
        if batch_idx == 2:
            self.seen = modes(self)
            raise KeyError("planted")


class BreaksInTheStep(Breaks):
    """The same where ``train()`` is in the step."""

    def on_validation_start(self) -> None:
        pass

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        self.net.train()
        super().score(name, batch, batch_idx)


@pytest.mark.parametrize("make", [Breaks, BreaksInTheStep])
def test_an_exception_in_the_middle_leaves_the_modes_as_without_it(make: type[Breaks], tmp_path: Path) -> None:
    without, mended = sick.made(make, sick=True), sick.made(make, sick=True)
    with pytest.raises(KeyError, match="planted"):
        train(without, tmp_path / "without", num_sanity_val_steps=0)
    with pytest.raises(KeyError, match="planted"):
        train(mended, tmp_path / "mended", BatchNormGuard(strict=True, fix=True), num_sanity_val_steps=0)
    assert modes(mended) == modes(without)
    assert mended.seen != without.seen, "it was mended at that time"


def test_the_users_own_train_is_not_called(tmp_path: Path) -> None:
    without, mended = sick.made(WithOwnTrain, sick=True), sick.made(WithOwnTrain, sick=True)
    train(without, tmp_path / "without")
    train(mended, tmp_path / "mended", BatchNormGuard(strict=True, fix=True))
    assert mended.calls == without.calls


# What it does not touch.


class FrozenWhileTraining(Patient):
    """One norm is in evaluation mode from the start; another is wholly frozen, weights and mode, from epoch two on."""

    def on_train_start(self) -> None:
        self.net[1].eval()

    def on_train_epoch_start(self) -> None:
        if self.current_epoch:
            self.net[5].eval().requires_grad_(False)


def test_what_is_frozen_on_purpose_stays_so(tmp_path: Path) -> None:
    without, guarded = sick.made(FrozenWhileTraining, sick=True), sick.made(FrozenWhileTraining, sick=True)
    guard = BatchNormGuard(strict=True, fix=True)
    settings = {"max_epochs": 3}
    assert train(guarded, tmp_path / "with", guard, **settings) == train(without, tmp_path / "without", **settings)
    assert not guarded.net[1].training
    assert not guarded.net[5].training
    assert accusations(guard) == []


def test_a_healthy_program_is_not_touched(tmp_path: Path) -> None:
    without, guarded = sick.made(Patient, sick=False), sick.made(Patient, sick=False)
    guard = BatchNormGuard(strict=True, fix=True)
    assert train(guarded, tmp_path / "with", guard) == train(without, tmp_path / "without")
    assert guard.findings == []


def _suite(ignore: str) -> tuple[Diagnostics, Callable[[], list[Finding]]]:
    others: dict[str, Any] = {room: False for room in catalogue.rooms() if room != "batch_norm"}
    suite = Diagnostics(batch_norm={"fix": True}, ignore=[ignore], **others)
    return suite, lambda: suite.findings


def test_what_is_ignored_is_not_mended(tmp_path: Path) -> None:
    without, guarded = sick.made(sick.TrainsOnePart, sick=True), sick.made(sick.TrainsOnePart, sick=True)
    suite, found = _suite("train-mode-in-evaluation")
    assert train(guarded, tmp_path / "with", suite) == train(without, tmp_path / "without")
    assert "BN101" not in {finding.code for finding in found()}


def test_what_is_ignored_in_training_is_not_woken(tmp_path: Path) -> None:
    make = sick.ForgetsTrainAtTheEpochEnd
    without, guarded = sick.made(make, sick=True), sick.made(make, sick=True)
    suite, found = _suite("eval-mode-in-training")
    assert train(guarded, tmp_path / "with", suite) == train(without, tmp_path / "without")
    assert [finding for finding in found() if finding.severity > Severity.INFO] == []


def test_what_cannot_be_mended_is_not_said_to_be(tmp_path: Path) -> None:
    guard = BatchNormGuard(strict=True, fix=True)
    train(sick.made(sick.NormThatTrains, sick=True), tmp_path, guard)
    assert any(finding.code == "BN101" for finding in guard.findings)
    assert not any("fix=True" in finding.message for finding in guard.findings)


# What it says.


def test_a_batch_is_told_with_what_it_was_and_that_it_was_mended(tmp_path: Path) -> None:
    guard = BatchNormGuard(strict=True, fix=True)
    train(sick.made(sick.TrainsOnePart, sick=True), tmp_path, guard, num_sanity_val_steps=0)
    (finding,) = accusations(guard)
    assert (finding.code, finding.where) == ("BN101", "net.5")
    assert "set inside validation_step, in batch 0" in finding.message
    assert finding.message.endswith("fix=True has put it right for this stage.")
    assert finding.evidence["mended"] is True
    assert "running_statistics_moved" not in finding.evidence
