"""Which metric a run is scored by: said before anything is trained."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_diagnostics import ExpectedValidationPerformance
from tests.diagnostics.expected_performance.models import Scripted, fit, record, rounded, rows, trainer


def saves(monitor: str | None, mode: Any = "max", **more: Any) -> ModelCheckpoint:
    return ModelCheckpoint(monitor=monitor, mode=mode, **more)


def stops(monitor: str, mode: Any = "max") -> EarlyStopping:
    return EarlyStopping(monitor, mode=mode)


class Two(Scripted):
    """Logs a second metric, of a name that says nothing."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.log("val_thing", self.score)


@pytest.mark.parametrize(
    ("callbacks", "arguments", "metric", "mode"),
    [
        ([saves("val_acc")], {}, "val_acc", "max"),
        ([stops("val_thing"), saves("val_acc")], {}, "val_acc", "max"),
        ([saves("val_thing", "min"), stops("val_acc")], {}, "val_thing", "min"),
        ([saves(None), stops("val_acc")], {}, "val_acc", "max"),
        ([saves("val_acc"), saves("val_acc", every_n_epochs=2)], {}, "val_acc", "max"),
        ([saves("val_acc", "min")], {}, "val_acc", "min"),  # who watches it knows, whatever its name
        ([saves("val_acc", "min")], {"mode": "max"}, "val_acc", "max"),
        ([saves("val_thing")], {"monitor": "val_acc"}, "val_acc", "max"),
        ([saves("val_acc"), stops("val_thing", "min")], {"monitor": "val_thing"}, "val_thing", "min"),
        ([], {"monitor": "val_acc"}, "val_acc", "max"),
        ([], {"monitor": "val_thing", "mode": "min"}, "val_thing", "min"),
    ],
)
def test_the_metric_and_its_mode(
    callbacks: list[Any], arguments: dict[str, Any], metric: str, mode: str, tmp_path: Path
) -> None:
    callback = ExpectedValidationPerformance(strict=True, **arguments)
    checkpoints = any(isinstance(each, ModelCheckpoint) for each in callbacks)
    fit(trainer(callback, tmp_path, *callbacks, enable_checkpointing=checkpoints, max_epochs=2), Two())
    plain = record(tmp_path)
    assert (plain["metric"], plain["mode"]) == (metric, mode)
    assert plain["score"] == rounded(0.5 if mode == "max" else 0.1)


@pytest.mark.parametrize(
    ("callbacks", "arguments", "words"),
    [
        (
            [],
            {},
            "monitor=None: no ModelCheckpoint and no EarlyStopping says which metric a run is scored by; "
            "name it, e.g. monitor='val_thing' (there are 'val_thing')",
        ),
        (
            [saves("val_acc"), saves("val_thing")],
            {},
            "monitor=None: callbacks watch several metrics (there are 'val_acc', 'val_thing'); name one",
        ),
        (
            [stops("val_acc"), stops("val_thing")],
            {},
            "monitor=None: callbacks watch several metrics (there are 'val_acc', 'val_thing'); name one",
        ),
        (
            [],
            {"monitor": "val_thing"},
            "mode=None: whether 'val_thing' shall be large or small is not known from its name or from a callback "
            "that watches it; allowed are 'min' and 'max' (validation logs 'val_thing')",
        ),
    ],
    ids=("none", "checkpoints", "stoppings", "mode"),
)
@pytest.mark.parametrize("strict", [False, True])
def test_what_is_not_known_is_an_error_before_anything_is_trained(
    callbacks: list[Any], arguments: dict[str, Any], words: str, strict: bool, tmp_path: Path
) -> None:
    def trained() -> None:
        raise AssertionError("it is trained")

    callback = ExpectedValidationPerformance(strict=strict, **arguments)
    checkpoints = any(isinstance(each, ModelCheckpoint) for each in callbacks)
    run = trainer(callback, tmp_path, *callbacks, enable_checkpointing=checkpoints)
    before = list(run.callbacks)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # its whole text is asked below
        fit(run, Two(faults={"configure_optimizers": trained, "training_step": trained}))
    assert str(raised.value) == words
    assert not list(tmp_path.rglob("expected_performance"))
    assert not list(tmp_path.rglob("*.jsonl"))
    assert callback.trial is None
    assert callback.findings == []
    assert run.callbacks == before  # pyright: ignore[reportAttributeAccessIssue]


def test_after_an_error_the_same_trainer_can_be_mended(tmp_path: Path) -> None:
    callback = ExpectedValidationPerformance(strict=True)
    run = trainer(callback, tmp_path)
    with pytest.raises(ValueError, match="monitor=None"):
        fit(run, Scripted())
    callback.monitor = "val_acc"
    fit(run, Scripted())
    assert (record(tmp_path)["status"], record(tmp_path)["score"]) == ("completed", rounded(0.5))


@pytest.mark.parametrize("run", ["validate", "test", "predict"])
def test_nothing_is_asked_where_nothing_is_trained(run: str, tmp_path: Path) -> None:
    callback = ExpectedValidationPerformance(strict=True)
    done = trainer(callback, tmp_path)
    module = Scripted()
    module.predict_step = lambda batch, *_: batch  # pyright: ignore[reportAttributeAccessIssue]
    getattr(done, run)(module, rows(4), **({} if run == "predict" else {"verbose": False}))
    assert callback.findings == []
