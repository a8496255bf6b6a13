"""Promise 10: every number on the screen is declared by a measurement and lies on the axis of the user's own curves."""

import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lightning_diagnostics import Finding
from lightning_diagnostics.tensorboard import FINDINGS_TAG, Quantity, quantities
from tests.contracts.cells import Cell
from tests.helpers import AS_TOLD, KINDS, MEMBERS, Member, every_kind, every_member_slowly_but_at_work, fit, trainer
from tests.patients import PATIENTS, Patient, Student, of_room

USERS = {"train_loss", "train_loss_step", "train_loss_epoch", "val_loss", "epoch", "hp_metric"}
ALLOWED = re.compile(r"[A-Za-z0-9._/ -]+")


def _declared(member: Member) -> dict[str, Quantity]:
    """The drawn fields of the room's measurements, by tag; ``{...}`` in a tag stands for a place."""
    room = member.kind.__module__.rpartition(".")[0]
    kinds = [kind for _, kind in inspect.getmembers(import_module(f"{room}.measure"), inspect.isclass)]
    drawn = [quantity for kind in kinds if is_dataclass(kind) for quantity in quantities(kind).values()]
    return {quantity.tag: quantity for quantity in drawn}


def _pattern(tag: str) -> str:
    return re.sub(r"\\\{\w+\\\}", ".+", re.escape(tag))


def _read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0})
    return events.Reload()


def _drawn(folder: Path, patient: Patient | Student, *callbacks: Callback, **settings: Any) -> EventAccumulator:
    """What is drawn of a network, or of a sick one."""
    logger = TensorBoardLogger(folder, name="", version="")
    if isinstance(patient, Patient):
        patient, settings = patient.make(sick=True), {**patient.settings, **settings}
    fit(trainer(*callbacks, logger=logger, **settings), patient)
    return _read(folder)


def _undeclared(member: Member, events: EventAccumulator) -> set[str]:
    patterns = [_pattern(tag) for tag in _declared(member)]
    ours = {*events.Tags()["scalars"], *events.Tags()["histograms"]} - USERS
    return {tag for tag in ours if not any(re.fullmatch(pattern, tag) for pattern in patterns)}


def _steps(events: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in events.Scalars(tag)]


def _off_the_axis(events: EventAccumulator) -> set[str]:
    """The tags with a step at which the user's own curve of the training loss has no point."""
    axis = set(_steps(events, "train_loss"))
    return {tag for tag in set(events.Tags()["scalars"]) - USERS if not set(_steps(events, tag)) <= axis}


def _out_of_order(events: EventAccumulator) -> set[str]:
    """The tags whose steps go back, or stand still."""
    ours = {tag: _steps(events, tag) for tag in set(events.Tags()["scalars"]) - USERS}
    return {tag for tag, steps in ours.items() if steps != sorted(set(steps))}


def _never_drawn(member: Member, tags: set[str]) -> set[str]:
    return {tag for tag in _declared(member) if not any(re.fullmatch(_pattern(tag), drawn) for drawn in tags)}


def _missing(events: EventAccumulator, findings: list[Finding]) -> list[str]:
    """The codes of the findings that are not in the table as it stands at the end."""
    last = events.Tensors(f"{FINDINGS_TAG}/text_summary")[-1].tensor_proto.string_val[0].decode()
    return [finding.code for finding in findings if finding.code not in last]


def _all_tags_below(folder: Path) -> set[str]:
    """Of all event files of a run: what does not lie over steps is in a folder below its own."""
    return {tag for file in folder.rglob("events.out.tfevents.*") for tag in _all_tags(_read(file.parent))}


def _all_tags(events: EventAccumulator) -> set[str]:
    tags = {tag for kind in ("scalars", "tensors", "histograms", "images") for tag in events.Tags()[kind]}
    return {tag.removesuffix("/text_summary") for tag in tags}  # which TensorBoard's writers put after that of a text


class Convolutional(Student):
    """Healthy; sees its rows as images, and tells those with a large target from the others."""

    lr = 1e-2  # where Lightning's LearningRateFinder puts what it has found

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 4, 2), nn.Flatten(), nn.ReLU(), nn.Linear(4, 1)
        )

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        super().validation_step(batch, batch_idx)
        predicted, large = self(batch[0]).squeeze(-1) > 0, batch[1] > 0
        self.log("val_acc", (predicted == large).float().mean())
        return {"preds": predicted.long(), "target": large.long()}


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"accumulate_grad_batches": 3},
    "checked": {"val_check_interval": 3},
}
every_way = pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)


def _shown() -> Iterator[Any]:
    """Every callback, patient and way; by default one way alone with the illnesses of others."""
    for member, patient, way in itertools.product(MEMBERS, PATIENTS, WAYS):
        fast = member in KINDS and (patient.room == member.room or way == "plain")
        marks = () if fast else pytest.mark.slow
        yield pytest.param(member, patient, WAYS[way], marks=marks, id=f"{member}-{patient}-{way}")


@pytest.mark.parametrize(("member", "patient", "settings"), list(_shown()))
def test_every_scalar_is_declared_and_on_the_users_axis(
    member: Member, patient: Patient, settings: dict[str, Any], tmp_path: Path
) -> None:
    events = _drawn(tmp_path, patient, member(), **settings)
    assert _undeclared(member, events) == set()
    assert _off_the_axis(events) == set()
    assert {tag for tag in _all_tags(events) if not ALLOWED.fullmatch(tag)} == set()


@every_way
@every_member_slowly_but_at_work
def test_no_step_goes_back_and_none_is_drawn_twice(member: Member, settings: dict[str, Any], tmp_path: Path) -> None:
    assert _out_of_order(_drawn(tmp_path, Student(), member(), **settings)) == set()


@every_member_slowly_but_at_work
def test_every_declared_number_is_drawn_for_some_patient(member: Member, tmp_path: Path) -> None:
    seed_everything(0, verbose=False)  # whether a noise scale can be told depends on the draws
    tags: set[str] = set()
    scaled = Cell(precision="16-mixed", accumulate=2)
    for patient in of_room(member.room):
        tags |= _all_tags(_drawn(tmp_path / str(patient), patient, member()))
        tags |= _all_tags_below(tmp_path / str(patient))
        # What only a gradient scaler, accumulation, images or half-precision weights have.
        tags |= _all_tags(_drawn(tmp_path / f"{patient} scaled", patient, member(), **scaled.settings()))
    images = {"precision": "bf16-true", "accumulate_grad_batches": 2, "max_epochs": 4}
    # What only the most thorough way draws, and what it draws of its acting and of other callbacks.
    most = member(**{**(member.kind.presets.get("thorough") or {}), **AS_TOLD.get(member.name, {})})
    beside = [make() for make in BESIDE.get(member.room, ())]
    tags |= _all_tags(_drawn(tmp_path / "images", Convolutional(), *beside, most, default_root_dir=tmp_path, **images))
    assert _never_drawn(member, tags) == set()


BESIDE: dict[str, list[Callable[[], Callback]]] = {
    "learning_rate": [lambda: LearningRateFinder(num_training_steps=30)],
}
"""Callbacks of Lightning's whose results a room draws."""

FAMILIES = {"expected_performance": "evp", "generalization_gap": "gap"}
"""How tags begin, by room, where not with its name: with what users write, as in ``monitor="gap/val_loss"``."""


@every_kind
def test_every_declared_number_says_what_it_is(member: Member) -> None:
    for quantity in _declared(member).values():
        assert quantity.tag.startswith(f"{FAMILIES.get(member.room, member.room)}/")
        assert quantity.unit
        assert len(quantity.how.split()) >= 5
        assert ALLOWED.fullmatch(re.sub(r"\{\w+\}", "place", quantity.tag))


@every_member_slowly_but_at_work
def test_the_findings_stand_in_the_text_tab(member: Member, tmp_path: Path) -> None:
    patient, diagnostic = of_room(member.room)[0], member()
    events = _drawn(tmp_path, patient, diagnostic)
    assert diagnostic.findings
    assert _missing(events, diagnostic.findings) == []


# The tests of the test.


class _Draws(Callback):
    """Draws one more number."""

    def __init__(self, tag: str, step: int) -> None:
        self.tag, self.step = tag, step

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({self.tag: 1.0}, step=self.step)


@every_kind
def test_a_number_that_nobody_declared_is_caught(member: Member, tmp_path: Path) -> None:
    events = _drawn(tmp_path, Student(), member(), _Draws("graph_leak/undeclared", 0))
    assert _undeclared(member, events) == {"graph_leak/undeclared"}


@every_kind
def test_a_number_off_the_axis_is_caught(member: Member, tmp_path: Path) -> None:
    events = _drawn(tmp_path, Student(), member(), _Draws("late", 10_000))
    assert _off_the_axis(events) == {"late"}


@pytest.mark.parametrize("step", [1, 3], ids=["back", "twice"])
def test_a_number_drawn_out_of_order_is_caught(step: int, tmp_path: Path) -> None:
    assert _out_of_order(_drawn(tmp_path, Student(), _Draws("mine", 3), _Draws("mine", step))) == {"mine"}


@every_kind
def test_a_number_that_is_never_drawn_is_caught(member: Member) -> None:
    first, *others = _declared(member)
    assert _never_drawn(member, set(others)) == {first}


def test_a_finding_that_the_text_tab_lacks_is_caught(tmp_path: Path) -> None:
    diagnostic = KINDS[0]()
    events = _drawn(tmp_path, of_room(KINDS[0].room)[0], diagnostic)
    unseen = replace(diagnostic.findings[0], code="XYZ999")
    assert _missing(events, [*diagnostic.findings, unseen]) == ["XYZ999"]


def test_a_tag_that_loggers_refuse_is_caught() -> None:
    assert [bool(ALLOWED.fullmatch(tag)) for tag in ("a/b.c-d_e 1", "a:b", "a#b", "a(b)", "ä")] == [True, *[False] * 4]


def test_a_place_in_a_declared_tag_stands_for_any() -> None:
    assert re.fullmatch(_pattern("room/{layer}/share"), "room/block1.act/share")
    assert not re.fullmatch(_pattern("room/{layer}/share"), "room/block1.act/scale")
