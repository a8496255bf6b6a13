"""Which way a metric is better, and which metrics are judged together."""

from typing import Any

import pytest
from torchmetrics import MeanSquaredError, SumMetric
from torchmetrics.classification import BinaryAccuracy

from lightning_diagnostics.callback.directions import direction
from lightning_diagnostics.diagnostics.generalization_gap.directions import is_named, losses, partner


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("val_loss", "min"),
        ("valLoss", "min"),
        ("val/loss/dataloader_idx_1", "min"),
        ("val_myloss", "min"),
        ("val_rmse", "min"),
        ("valError", "min"),
        ("val_acc", "max"),
        ("Validation.Accuracy", "max"),
        ("val_f1", "max"),
        ("valAUROC", "max"),
        ("val_auroc", "max"),
        ("val_score", "max"),
        ("score_loss", "min"),  # a loss, whatever of
        ("accumulated", None),
        ("space", None),
        ("val_x", None),
        ("epoch", None),
    ],
)
def test_the_words_of_a_name_tell(name: str, way: str | None) -> None:
    assert direction(name, told={}, watched={}) == way


@pytest.mark.parametrize(("metric", "way"), [(BinaryAccuracy(), "max"), (MeanSquaredError(), "min")], ids=str)
def test_an_object_of_torchmetrics_tells_before_its_name(metric: Any, way: str) -> None:
    assert direction("val_x", told={}, watched={}, metric=metric) == way
    assert direction("val_loss", told={}, watched={}, metric=metric) == way


def test_one_that_does_not_know_leaves_it_to_the_name() -> None:
    assert direction("val_loss", told={}, watched={}, metric=SumMetric()) == "min"


def test_the_user_goes_before_callbacks_and_those_before_the_rest() -> None:
    accuracy = BinaryAccuracy()
    assert direction("val_acc", told={}, watched={"val_acc": "min"}, metric=accuracy) == "min"
    assert direction("val_acc", told={"val_acc": "max"}, watched={"val_acc": "min"}) == "max"
    assert direction("val_acc", told={"other": "min"}, watched={"another": "min"}, metric=accuracy) == "max"


def test_what_is_said_of_a_metric_is_said_of_it_for_all_loaders() -> None:
    name = "val_x/dataloader_idx_1"
    assert direction(name, told={"val_x": "max"}, watched={}) == "max"
    assert direction(name, told={"val_x": "max", name: "min"}, watched={}) == "min"


@pytest.mark.parametrize(
    ("directions", "monitor", "found"),
    [
        ({"val_acc": "max", "val_loss": "min"}, None, ["val_loss"]),
        ({"val_mse": "min", "val_loss": "min"}, None, ["val_loss"]),
        ({"val_mse": "min", "val_mae": "min"}, None, ["val_mse"]),
        ({"val_acc": "max", "val_x": None}, None, []),
        ({"val_mse": "min", "val_loss": "min"}, "val_mse", ["val_mse"]),
        ({"val_mse": "min", "val_loss": "min"}, "val_other", []),
        ({"val_acc": "max", "val_loss": "min"}, "val_acc", ["val_acc"]),
        ({"val_x": None, "val_loss": "min"}, "val_x", []),
        ({"val_recon_loss": "min", "val_kl_loss": "min", "val_loss": "min"}, None, ["val_loss"]),
        ({"aux_loss": "min", "loss/val_epoch": "min"}, None, ["loss/val_epoch"]),
        ({"val_recon_loss": "min", "val_kl_loss": "min"}, None, ["val_recon_loss"]),
        (
            {"a_loss/dataloader_idx_0": "min", "a_loss/dataloader_idx_1": "min", "a_mse/dataloader_idx_1": "min"},
            None,
            ["a_loss/dataloader_idx_0", "a_loss/dataloader_idx_1"],
        ),
        (
            {"a_loss/dataloader_idx_0": "min", "a_mse/dataloader_idx_0": "min", "a_mse/dataloader_idx_1": "min"},
            "a_mse",
            ["a_mse/dataloader_idx_0", "a_mse/dataloader_idx_1"],
        ),
    ],
)
def test_of_each_loader_one_loss_is_watched(directions: dict[str, Any], monitor: str | None, found: list[str]) -> None:
    assert losses(directions, monitor) == found


@pytest.mark.parametrize(
    ("watched", "found"), [([], "val_loss"), (["val_kl_loss"], "val_kl_loss"), (["val_mse"], "val_loss")]
)
def test_a_loss_that_callbacks_watch_goes_before_the_others(watched: list[str], found: str) -> None:
    assert losses(
        {"val_recon_loss": "min", "val_mse": "min", "val_kl_loss": "min", "val_loss": "min"}, None, watched
    ) == [found]


@pytest.mark.parametrize(
    ("name", "monitor", "named"),
    [
        ("val_loss", "val_loss", True),
        ("val_loss/dataloader_idx_1", "val_loss", True),
        ("val_loss/dataloader_idx_1", "val_loss/dataloader_idx_1", True),
        ("val_loss/dataloader_idx_1", "val_loss/dataloader_idx_0", False),
        ("val_losses", "val_loss", False),
        ("val_loss", None, False),
    ],
)
def test_a_metric_is_named_for_one_loader_or_for_all(name: str, monitor: str | None, named: bool) -> None:
    assert is_named(name, monitor) == named


@pytest.mark.parametrize(
    ("directions", "watched", "found"),
    [
        ({"val_loss": "min", "val_f1": "max", "val_acc": "max"}, [], "val_acc"),
        ({"val_loss": "min", "val_f1": "max", "val_acc": "max"}, ["val_f1"], "val_f1"),
        ({"val_loss": "min", "val_mae": "min"}, ["val_mae"], "val_mae"),
        ({"val_loss": "min", "val_mae": "min"}, [], None),
        ({"val_loss": "min", "val_f1": "max"}, ["val_loss"], "val_f1"),
        ({"val_loss": "min", "val_x": None}, ["val_x"], None),
        ({"val_loss": "min", "val_acc/dataloader_idx_1": "max"}, [], None),
        ({"val_loss": "min"}, [], None),
    ],
)
def test_the_metric_beside_a_loss_is_the_one_that_is_watched_else_an_accuracy(
    directions: dict[str, Any], watched: list[str], found: str | None
) -> None:
    assert partner("val_loss", directions, watched) == found
