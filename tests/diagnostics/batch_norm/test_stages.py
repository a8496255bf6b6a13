"""Every stage, alone and after training; several loaders; compiled and scripted modules; and where a mode flipped."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_diagnostics import BatchNormGuard, Finding
from tests.diagnostics.batch_norm import sick
from tests.diagnostics.batch_norm.sick import NORMS, Batch, Patient
from tests.helpers import accusations, alive, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),  # torch, of a whole module
]

NAMES = {"fit": "validation", "validate": "validation", "test": "test", "predict": "prediction"}


def _enter(run: Trainer, entry: str, module: LightningModule, loaders: Any = None) -> None:
    training, evaluation = sick.digits()
    evaluation = evaluation if loaders is None else loaders
    if entry == "fit":
        run.fit(module, training, evaluation)
    elif entry == "predict":
        run.predict(module, evaluation)
    else:
        getattr(run, entry)(module, evaluation, verbose=False)


def examined(entry: str, module: LightningModule, loaders: Any = None, **settings: Any) -> BatchNormGuard:
    """One epoch of training, or one evaluation, with a guard."""
    guard = BatchNormGuard(strict=True)
    run = trainer(guard, **{"max_epochs": 1, "num_sanity_val_steps": 0, **settings})
    _enter(run, entry, module, loaders)
    assert alive(module) == set()
    return guard


def of(guard: BatchNormGuard, code: str = "BN101") -> list[Finding]:
    """Its findings of one kind."""
    return [finding for finding in guard.findings if finding.code == code]


# Stages.


@pytest.mark.parametrize("inference", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("entry", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("make", [sick.TrainsAtTheStart, sick.LeavesModesAlone, sick.TrainsAtEveryBatch])
def test_each_stage_alone_is_told_by_its_name(make: Callable[..., Patient], entry: str, inference: bool) -> None:
    guard = examined(entry, sick.made(make, sick=True), inference_mode=inference)
    stage = NAMES[entry]
    assert {finding.where for finding in of(guard)} == set(NORMS)
    assert all(finding.evidence["stage"] == stage for finding in of(guard))
    assert all(f"in the {stage}" in finding.message for finding in of(guard))
    assert [finding.where for finding in of(guard, "BN108")] == [sick.DROPOUT]
    assert {f.code for f in guard.findings} <= {"BN101", "BN107", "BN108"}


@pytest.mark.parametrize("entry", ["fit", "validate", "test", "predict"])
def test_its_healthy_twin_is_left_in_peace_in_each_stage(entry: str) -> None:
    assert examined(entry, sick.made(sick.TrainsAtTheStart, sick=False)).findings == []


class Sane(Patient):
    """Training mode in the sanity check only."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        if self.sick and self.trainer.sanity_checking:
            self.train()
        super().score(name, batch, batch_idx)


def test_the_sanity_check_is_a_stage_of_its_own_and_a_finding_of_it_is_taken_back() -> None:
    guard = examined("fit", sick.made(Sane, sick=True), num_sanity_val_steps=2)
    assert {finding.where for finding in of(guard)} == set(NORMS)
    assert all("in the sanity check" in finding.message for finding in of(guard))


def test_a_sick_sanity_check_is_told_at_its_step_and_once() -> None:
    guard = examined("fit", sick.made(sick.TrainsInTheStep, sick=True), num_sanity_val_steps=2)
    assert [finding.where for finding in of(guard)] == list(NORMS)
    assert all(finding.first_step == 0 for finding in of(guard))


@pytest.mark.parametrize("entry", ["validate", "test", "predict"])
def test_an_evaluation_after_training_with_the_same_trainer_is_examined_too(entry: str) -> None:
    guard = BatchNormGuard(strict=True)
    run = trainer(guard, max_epochs=1, num_sanity_val_steps=0)
    module = sick.made(sick.TrainsAtTheStart, sick=False)
    _enter(run, "fit", module)
    assert guard.findings == []
    module.sick = True
    _enter(run, entry, module)
    assert {finding.where for finding in of(guard)} == set(NORMS)
    assert all(NAMES[entry] in finding.message for finding in of(guard))


@pytest.mark.parametrize("entry", ["validate", "test", "predict"])
def test_another_model_in_the_same_trainer_is_not_accused_of_the_first_ones_mistakes(entry: str) -> None:
    guard = BatchNormGuard(strict=True)
    run = trainer(guard, max_epochs=1, num_sanity_val_steps=0)
    _enter(run, "fit", sick.made(sick.TrainsAtTheStart, sick=True))
    assert of(guard) != []
    _enter(run, entry, sick.made(sick.TrainsAtTheStart, sick=False))
    assert [finding for finding in accusations(guard) if finding.status == "open"] == []


class TrainsInTheTest(Patient):
    """Training mode in the test alone."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        if name == "test":
            self.net[1].train()
        super().score(name, batch, batch_idx)


def test_an_illness_of_the_test_alone_is_none_of_the_validation() -> None:
    assert examined("fit", TrainsInTheTest()).findings == []
    found = examined("test", TrainsInTheTest())
    assert [finding.where for finding in of(found)] == ["net.1"]
    assert "test_step" in found.findings[0].message


@pytest.mark.parametrize("settings", [{"val_check_interval": 3}, {"val_check_interval": 0.25}, {"max_epochs": 3}])
def test_many_validations_say_it_once(settings: dict[str, Any]) -> None:
    guard = examined("fit", sick.made(sick.TrainsOnePart, sick=True), **settings)
    (finding,) = of(guard)
    assert finding.status == "open"
    assert finding.last_step > finding.first_step


class WellFromTheThirdOn(Patient):
    """Training mode in the first validations only."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        if self.current_epoch < 2:
            self.net[1].train()
        super().score(name, batch, batch_idx)


def test_what_is_well_again_is_taken_back() -> None:
    assert [f.status for f in of(examined("fit", WellFromTheThirdOn(), max_epochs=2))] == ["open"]
    assert [f.status for f in of(examined("fit", WellFromTheThirdOn(), max_epochs=5))] == ["closed"]


# Loaders.


class OnTheSecondLoader(Patient):
    """Training mode for the second loader only."""

    def score(self, name: str, batch: Batch, batch_idx: int) -> None:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log(f"{name}_loss", loss, on_epoch=True)

    def _mode(self, loader: int) -> None:
        if self.sick and loader == 1:
            self.net[5].train()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._mode(dataloader_idx)
        super().validation_step(batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._mode(dataloader_idx)
        super().test_step(batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        self._mode(dataloader_idx)
        return super().predict_step(batch, batch_idx)


@pytest.mark.parametrize("entry", ["fit", "validate", "test", "predict"])
def test_the_second_of_several_loaders_is_examined_too(entry: str) -> None:
    loaders = [sick.digits()[1], sick.digits()[1]]
    (finding,) = of(examined(entry, sick.made(OnTheSecondLoader, sick=True), loaders))
    assert finding.where == "net.5"
    assert examined(entry, sick.made(OnTheSecondLoader, sick=False), loaders).findings == []


def test_a_loader_of_one_batch_and_a_batch_of_one_row_are_no_obstacle() -> None:
    rows = torch.randn(1, 64), torch.zeros(1, dtype=torch.long)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*rows), 4)
    assert accusations(examined("validate", sick.made(Patient, sick=False), loader)) == []
    assert [f.where for f in of(examined("validate", sick.made(sick.OfImages, sick=True), loader))] == ["spot"]


# Where it flipped.


class Flips(Callback):
    """Puts the model into training mode where it is told to."""

    def __init__(self, hook: str, batch: int = 0) -> None:
        def flip(trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            if not args or args[-1] == batch or (len(args) > 1 and args[-2] == batch):
                pl_module.train()

        setattr(self, hook, flip)


@pytest.mark.parametrize(
    ("hook", "place", "first"),
    [
        ("on_validation_start", "set before the first batch", True),
        ("on_validation_start", "set before the first batch", False),
        ("on_validation_epoch_start", "set before the first batch", True),
        ("on_validation_epoch_start", "set before the first batch", False),
        ("on_validation_batch_end", "set between batches 1 and 2, by a hook or a callback", False),
    ],
)
def test_a_callback_that_flips_a_mode_is_placed(hook: str, place: str, first: bool) -> None:
    guard, flips = BatchNormGuard(strict=True), Flips(hook, batch=1)
    sick.run(sick.made(Patient, sick=False), *((flips, guard) if first else (guard, flips)))
    assert {finding.where for finding in of(guard)} == set(NORMS)
    assert all(place in finding.message for finding in of(guard))


@pytest.mark.parametrize(
    ("entry", "place"),
    [("validate", "inside validation_step, in batch 0"), ("test", "inside test_step, in batch 0")],
)
def test_the_step_is_called_by_its_name(entry: str, place: str) -> None:
    guard = examined(entry, sick.made(sick.TrainsInTheStep, sick=True))
    assert all(place in finding.message for finding in of(guard))
    assert all(f"remove the train() call from {entry.removesuffix('ate')}" in f.remedy for f in of(guard))


@pytest.mark.parametrize("batch", [0, 1, 2, 3])
def test_the_batch_of_the_flip_is_named(batch: int) -> None:
    class FromBatch(Patient):
        def score(self, name: str, batch_: Batch, batch_idx: int) -> None:
            if batch_idx == batch:
                self.net[1].train()
            super().score(name, batch_, batch_idx)

    (finding,) = of(examined("validate", FromBatch()))
    assert f"inside validation_step, in batch {batch}" in finding.message
    assert finding.evidence["batch"] == batch


def test_a_flip_in_a_batch_that_is_not_looked_at_is_found_by_its_mode() -> None:
    class Late(Patient):
        def score(self, name: str, batch: Batch, batch_idx: int) -> None:
            if batch_idx == 7:
                self.net[1].train()
            super().score(name, batch, batch_idx)

    rows = sick.digits()[1].dataset
    loader = torch.utils.data.DataLoader(rows, 10)  # twenty batches, of which 0, 1, 2, 10 and 19 are looked at
    (finding,) = of(examined("validate", Late(), loader))
    assert "inside validation_step, in batch 7" in finding.message


# Compiled and scripted.


class LogsOutsideTheGraph(sick.TrainsAtTheStart):
    """The compiler of torch 2.13 cannot trace Lightning's ``self.log``, with or without us."""

    log = torch.compiler.disable(LightningModule.log)


def _compile_net(module: Patient) -> Any:
    module.net = torch.compile(module.net, backend="eager")
    return module


def _compile_in_place(module: Patient) -> Any:
    module.net.compile(backend="eager")
    return module


def _compile_module(module: Patient) -> Any:
    return torch.compile(module, backend="eager")


compiles = pytest.mark.parametrize("prepare", [_compile_net, _compile_in_place, _compile_module])


@compiles
@pytest.mark.parametrize("fix", [False, True])
def test_a_compiled_model_in_training_mode_is_found(prepare: Callable[[Patient], Any], fix: bool) -> None:
    guard = BatchNormGuard(strict=True, fix=fix)
    sick.run(prepare(sick.made(LogsOutsideTheGraph, sick=True)), guard)
    assert {finding.where for finding in of(guard)} == set(NORMS)
    assert all("before the first batch" in finding.message for finding in of(guard))
    assert all(("fix=True" in finding.message) == fix for finding in of(guard))
    assert [finding.where for finding in of(guard, "BN108")] == [sick.DROPOUT]


@compiles
@pytest.mark.parametrize("fix", [False, True])
def test_a_compiled_model_that_is_well_is_left_in_peace(prepare: Callable[[Patient], Any], fix: bool) -> None:
    guard = BatchNormGuard(strict=True, fix=fix)
    sick.run(prepare(sick.made(LogsOutsideTheGraph, sick=False)), guard)
    assert accusations(guard) == []
    assert [finding.code for finding in guard.findings] == ["BN901"]


@pytest.mark.parametrize("prepare", [_compile_net, _compile_in_place])
def test_what_the_step_flips_in_a_compiled_net_is_found_and_not_said_to_be_mended(
    prepare: Callable[[Patient], Any],
) -> None:
    guard = BatchNormGuard(strict=True, fix=True)
    run = trainer(guard, limit_val_batches=1)
    run.validate(prepare(sick.made(sick.TrainsInTheStep, sick=True)), sick.digits()[1], verbose=False)
    assert {finding.where for finding in of(guard)} == set(NORMS)
    assert not any("fix=True" in finding.message for finding in of(guard))


class ScriptedPart(Patient):
    """A scripted part with norm and dropout in it, in training mode in the validation."""

    def build(self) -> nn.Module:
        net = super().build()
        part = torch.jit.script(nn.Sequential(nn.BatchNorm1d(64), nn.Dropout(0.2)))
        return nn.Sequential(part, net)

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.jit.optimized_execution(False):  # else it fails in inference mode once it has run with gradients
            return super().forward(inputs)

    def on_validation_start(self) -> None:
        if self.sick:
            self.net[0].train()


@pytest.mark.parametrize("fix", [False, True])
def test_norm_and_dropout_inside_of_a_scripted_part_are_found(fix: bool) -> None:
    guard = BatchNormGuard(strict=True, fix=fix)
    sick.run(sick.made(ScriptedPart, sick=True), guard)
    assert [finding.where for finding in of(guard)] == ["net.0.0"]
    assert [finding.where for finding in of(guard, "BN108")] == ["net.0.1"]
    assert all(("fix=True" in finding.message) == fix for finding in accusations(guard) if finding.code != "BN107")


@pytest.mark.parametrize("fix", [False, True])
def test_a_scripted_part_that_is_well_is_left_in_peace(fix: bool) -> None:
    guard = BatchNormGuard(strict=True, fix=fix)
    sick.run(sick.made(ScriptedPart, sick=False), guard)
    assert accusations(guard) == []
