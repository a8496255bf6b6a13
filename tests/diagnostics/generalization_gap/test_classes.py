"""Which class is predicted for which: against scikit-learn and torchmetrics, and what is no class."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_precision,
    multiclass_recall,
)

from lightning_diagnostics import tensorboard
from lightning_diagnostics.diagnostics.generalization_gap.class_scores import ClassScores, ConfusionMatrix
from lightning_diagnostics.diagnostics.generalization_gap.classes import (
    MOST_CLASSES,
    PREDICTIONS,
    TARGETS,
    ClassTally,
    Confusion,
    picture,
    scores,
)

CLASSES = 5


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tallied(*batches: tuple[Tensor, Tensor]) -> Confusion:
    tally = ClassTally()
    for predicted, target in batches:
        assert tally.update({"preds": predicted, "target": target}, None) is None
    state = tally.state()
    assert state is not None
    assert tally.problem is None
    return state


def refused(outputs: Any, batch: Any = None) -> str:
    tally = ClassTally()
    problem = tally.update(outputs, batch)
    assert problem is not None
    assert tally.problem == problem
    assert tally.state() is None
    return problem


# Against other implementations.


def noisy(samples: int, seed: int, *, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Scores that are often right, of all classes but the last."""
    target = torch.randint(classes - 1, (samples,), generator=random(seed))
    own = torch.nn.functional.one_hot(target, classes)
    return own + 0.8 * torch.randn(samples, classes, generator=random(seed + 1)), target


def test_the_numbers_of_several_batches_are_those_of_scikit_learn_and_torchmetrics() -> None:
    batches = [noisy(samples, seed) for seed, samples in enumerate((40, 40, 17, 1))]
    found = tallied(*batches)
    predicted = torch.cat([each.argmax(1) for each, _ in batches])
    target = torch.cat([each for _, each in batches])
    np.testing.assert_array_equal(found, confusion_matrix(target, predicted, labels=range(CLASSES)))
    theirs = multiclass_confusion_matrix(predicted, target, num_classes=CLASSES)
    np.testing.assert_array_equal(found, theirs)
    ours = scores(found)
    precision, recall, _, _ = precision_recall_fscore_support(
        target, predicted, labels=range(CLASSES), zero_division=np.nan
    )
    of_class = {"num_classes": CLASSES, "average": None}
    for name, reference, other in (
        ("precision", precision, multiclass_precision(predicted, target, **of_class)),
        ("recall", recall, multiclass_recall(predicted, target, **of_class)),
    ):
        values = [getattr(each, name) for each in ours]
        assert values == [None if np.isnan(each) else pytest.approx(each, abs=1e-12) for each in reference]
        assert [value or 0 for value in values] == pytest.approx(other.tolist(), abs=1e-6)
    assert ours[-1].recall is None  # of no sample
    assert ours[-1].precision == 0


def test_images_of_classes_are_counted_by_the_pixel() -> None:
    shown = torch.randn(2, CLASSES, 7, 6, generator=random())
    target = torch.randint(CLASSES, (2, 7, 6), generator=random(1))
    expected = confusion_matrix(target.flatten(), shown.argmax(1).flatten(), labels=range(CLASSES))
    for predicted, true in ((shown, target), (shown, target.unsqueeze(1)), (shown.argmax(1, keepdim=True), target)):
        np.testing.assert_array_equal(tallied((predicted, true)), expected)


# What predictions may be.

PAIR = {"target": torch.tensor([0, 1, 1, 0]), "expected": [[1, 1], [0, 2]]}


@pytest.mark.parametrize(
    "predicted",
    [
        *(torch.tensor(kind) for kind in ([0, 1, 1, 1], [False, True, True, True], [0.1, 0.6, 0.9, 0.51])),
        *(torch.tensor(kind) for kind in ([-3.0, 0.1, 2.0, 0.4], [[0.1], [0.6], [0.9], [0.51]])),
        torch.tensor([0.2, 0.7, 0.9, 0.8], dtype=torch.bfloat16),
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]),
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]).half(),
        torch.tensor([[0], [1], [1], [1]]),
    ],
)
@pytest.mark.parametrize("true", [Tensor.long, Tensor.bool, Tensor.int, lambda x: x.unsqueeze(1)])
def test_two_classes_in_any_form_are_counted(predicted: Tensor, true: Callable[[Tensor], Tensor]) -> None:
    target = true(PAIR["target"])
    assert tallied((predicted, target)) == PAIR["expected"]


@pytest.mark.parametrize(
    "predicted", [torch.tensor([0.1, 0.6, 0.9, 0.51]), torch.tensor([[-3.0], [0.1], [2.0], [0.4]])]
)
def test_targets_of_two_classes_may_be_floats_as_a_loss_wants_them(predicted: Tensor) -> None:
    target = PAIR["target"].float()
    assert tallied((predicted, target)) == tallied((predicted, target.unsqueeze(1))) == PAIR["expected"]


def test_logits_that_lie_between_zero_and_one_in_some_batch_are_logits_in_all() -> None:
    target = torch.tensor([1, 1])
    assert tallied((torch.tensor([0.2, 0.3]), target)) == [[0, 0], [2, 0]]
    assert tallied((torch.tensor([0.2, 0.3]), target), (torch.tensor([-4.0, 4.0]), target)) == [[0, 0], [1, 3]]
    assert tallied((torch.tensor([0.2, 1.5]), target), (torch.tensor([0.4, 0.0]), target)) == [[0, 0], [1, 3]]


def test_numbers_of_classes_make_room_as_more_of_them_come() -> None:
    first, second = (torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0])), (torch.tensor([3, 0]), torch.tensor([1, 2]))
    assert tallied(first, second) == [[1, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert tallied(second, first) == tallied(first, second)


@pytest.mark.parametrize("left_out", [-100, -1])
def test_samples_with_a_negative_target_are_left_out(left_out: int) -> None:
    target = torch.tensor([0, left_out, 1, left_out])
    for predicted in (torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]), torch.tensor([0.1, 0.1, 0.9, 0.9])):
        assert tallied((predicted, target)) == [[1, 0], [0, 1]]
        nothing = torch.full_like(target, left_out)
        assert sum(map(sum, tallied((predicted, nothing)))) == 0


def test_the_only_sample_of_a_batch_may_have_lost_its_dimension() -> None:
    batch = (torch.eye(3)[[2, 0]], torch.tensor([2, 1]))
    one = (torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1]))
    assert tallied(batch, one) == [[0, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert tallied((torch.tensor(0.9), torch.tensor([1]))) == [[0, 0], [0, 1]]


def test_an_empty_batch_changes_nothing() -> None:
    empty = (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    assert tallied((torch.eye(2), torch.tensor([0, 1])), empty) == [[1, 0], [0, 1]]
    tally = ClassTally()
    assert tally.update({"preds": empty[0], "target": empty[1]}, None) is None
    assert tally.state() is None


# Where they are found.


class _Named(NamedTuple):
    logits: Tensor
    labels: Tensor


class _Reversed(NamedTuple):
    labels: Tensor
    inputs: Tensor


@dataclass
class _Fields:
    y_hat: Tensor
    y: Tensor


def _forms() -> list[Any]:
    predicted, target = torch.eye(2), torch.tensor([0, 1])
    named = [({one: predicted, other: target, "loss": None}, None) for one in PREDICTIONS for other in TARGETS]
    alone = {"preds": predicted}
    return [
        *named,
        *((_Named(predicted, target), None), (_Fields(predicted, target), None)),
        *((alone, (torch.zeros(2, 3), target)), (alone, [torch.zeros(2, 3), target]), (alone, {"labels": target})),
        (alone, _Reversed(target, torch.ones(2, dtype=torch.long))),
        *((alone, _Fields(predicted, target)), ({"target": target, **alone}, (torch.zeros(2), torch.tensor([1, 0])))),
    ]


@pytest.mark.parametrize(("outputs", "batch"), _forms())
def test_predictions_and_true_classes_go_by_their_usual_names(outputs: Any, batch: Any) -> None:
    tally = ClassTally()
    assert tally.update(outputs, batch) is None
    assert tally.state() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("outputs", [None, torch.tensor(0.5), {"loss": torch.tensor(0.5)}, {"preds": [0, 1]}, 3])
def test_a_step_without_predictions_is_told_what_it_lacks(outputs: Any) -> None:
    batch = (torch.zeros(2, 3), torch.tensor([0, 1]))
    assert refused(outputs, batch) == (
        "`validation_step` returned no predictions (a mapping with 'preds' and 'target')"
    )


@pytest.mark.parametrize("batch", [None, torch.zeros(2), (torch.zeros(2),), {"x": torch.zeros(2)}, (1, 2, 3), "ab"])
def test_predictions_without_true_classes_are_told_what_they_lack(batch: Any) -> None:
    found = refused({"preds": torch.eye(2)}, batch)
    assert found == "`validation_step` returned predictions and no true classes (under 'target')"


# What is no class.


@pytest.mark.parametrize(
    ("predicted", "target", "why"),
    [
        (torch.eye(3), torch.eye(3), "predictions of shape (3, 3) are not those of targets of shape (3, 3)"),
        (torch.eye(3), torch.tensor([0, 1]), "predictions of shape (3, 3) are not those of targets of shape (2)"),
        (torch.eye(3), torch.tensor([0.0, 1.0, 2.0]), "the targets are not whole numbers, so they are no classes"),
        (torch.tensor([0, 1]), torch.tensor([0.0, 1.0]), "the targets are not whole numbers, so they are no classes"),
        *(
            (torch.tensor([0.2, 0.7]), true, "there are targets or predictions that are no classes from 0 to 1")
            for true in (torch.tensor([0.2, 0.9]), torch.tensor([-0.5, 1.0]), torch.tensor([0, 2]))
        ),
        (
            torch.tensor([0.2]),
            torch.tensor([float("nan")]),
            "there are targets or predictions that are no classes from 0 to 1",
        ),
        (torch.eye(3), torch.tensor([0, 1, 3]), "there are targets or predictions that are no classes from 0 to 2"),
        (
            torch.tensor([0, -1]),
            torch.tensor([0, 1]),
            "there are targets or predictions that are no classes from 0 to 1",
        ),
        (torch.zeros(1, 101), torch.tensor([0]), "there are 101 classes, and scores are drawn of 100 at most"),
        (torch.tensor([0]), torch.tensor([49_999]), "there are 50,000 classes, and scores are drawn of 100 at most"),
    ],
)
def test_what_is_no_class_is_not_counted_and_says_why(predicted: Tensor, target: Tensor, why: str) -> None:
    assert refused({"preds": predicted, "target": target}) == why


def test_a_hundred_classes_are_counted() -> None:
    assert len(tallied((torch.zeros(1, MOST_CLASSES), torch.tensor([99])))) == MOST_CLASSES
    assert len(tallied((torch.tensor([0]), torch.tensor([MOST_CLASSES - 1])))) == MOST_CLASSES


@pytest.mark.parametrize(
    ("predicted", "target", "why"),
    [
        (torch.eye(4), torch.tensor([0, 1, 2, 3]), "there were scores of 2 classes first and of 4 later"),
        (
            torch.tensor([0, 1]),
            torch.tensor([0, 1]),
            "predictions were scores of classes first and numbers of classes later",
        ),
    ],
)
def test_a_batch_that_does_not_fit_the_others_spoils_the_pass(predicted: Tensor, target: Tensor, why: str) -> None:
    tally = ClassTally()
    assert tally.update({"preds": torch.eye(2), "target": torch.tensor([0, 1])}, None) is None
    assert tally.state() == [[1, 0], [0, 1]]
    assert tally.update({"preds": predicted, "target": target}, None) == why
    assert tally.update({"preds": torch.eye(2), "target": torch.tensor([0, 1])}, None) == why
    assert tally.state() is None


def test_a_target_that_is_no_class_in_a_later_batch_shows_at_the_end() -> None:
    tally = ClassTally()
    for last in (1, 2, 1):
        assert tally.update({"preds": torch.eye(2), "target": torch.tensor([0, last])}, None) is None
    assert tally.problem is None
    assert tally.state() is None
    assert tally.problem == "there are targets or predictions that are no classes from 0 to 1"


# What it leaves alone.


def test_nothing_of_a_batch_is_kept_or_changed() -> None:
    weights = torch.eye(2, requires_grad=True)
    predicted, target = weights * 2, torch.tensor([0, 1])
    tally = ClassTally()
    tally.update({"preds": predicted, "target": target}, None)
    kept = [each for each in vars(tally).values() if isinstance(each, Tensor)]
    assert len(kept) == 1
    assert not kept[0].requires_grad
    assert kept[0].numel() == 5
    assert predicted.grad_fn is not None
    assert target.tolist() == [0, 1]


# Exchange between ranks.


def test_states_of_different_sizes_are_summed_up_and_those_without_any_left_out() -> None:
    assert ClassTally.merge([[[1, 2], [3, 4]], None, [[5]], [[1, 1, 1]] * 3]) == [[7, 3, 1], [4, 5, 1], [1, 1, 1]]
    assert ClassTally.merge([None, None]) is None
    assert ClassTally.merge([]) is None


def test_the_shares_of_two_ranks_merged_are_the_whole() -> None:
    batches = [noisy(20, seed) for seed in range(4)]
    halves = [tallied(*batches[:2]), None, tallied(*batches[2:])]
    assert ClassTally.merge(halves) == tallied(*batches)


# What is drawn.


def test_classes_go_by_their_names_where_there_are_any() -> None:
    confusion = [[2, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert scores(confusion, ["cat", "dog"]) == [
        ClassScores("cat", 2 / 3, 1.0),
        ClassScores("dog", None, 0.0),
        ClassScores("2", None, None),
    ]
    drawn = [tensorboard.drawn(each) for each in scores(confusion, ["cat", "dog"])]
    assert drawn == [{"gap/precision/cat": 2 / 3, "gap/recall/cat": 1.0}, {"gap/recall/dog": 0.0}, {}]
    assert list(tensorboard.layout(ClassScores)) == ["precision by class", "recall by class"]


def pixels(image: tensorboard.Image) -> np.ndarray:
    return np.frombuffer(image.pixels, dtype=np.uint8).reshape(image.height, image.width, 3)


BLUE, LINE, WHITE = (20, 70, 170), (215, 215, 215), (255, 255, 255)


def cells(confusion: Confusion) -> np.ndarray:
    """The colour in each cell, each of which is of one colour."""
    size, sheet = len(confusion), pixels(picture(confusion))
    step = (len(sheet) - 1) // size
    inner = sheet[:-1, :-1].reshape(size, step, size, step, 3)[:, 1:, :, 1:]
    assert (inner == inner[:, :1, :, :1]).all()
    return inner[:, 0, :, 0]


def test_a_cell_is_the_darker_the_larger_its_share_of_the_row() -> None:
    found = cells([[96, 4, 0], [25, 0, 75], [0, 0, 0]])
    grey = [tuple(round(255 - 215 * share**0.5) for _ in range(3)) for share in (0.04, 0.25, 0.75)]
    right = tuple(round(255 + (ink - 255) * 0.96**0.5) for ink in BLUE)
    expected = [[right, grey[0], WHITE], [grey[1], WHITE, grey[2]], [WHITE, WHITE, WHITE]]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(cells([[7]]), [[BLUE]])


def test_there_are_thin_lines_between_cells_and_blue_ones_around_the_diagonal() -> None:
    sheet = pixels(picture([[0, 1], [1, 0]]))
    assert sheet.shape == (99, 99, 3)
    expected = np.empty((99, 99, 3))
    expected[:] = LINE
    for corner in (0, 49):
        expected[corner : corner + 50, corner : corner + 50] = BLUE
    for row in (1, 50):
        for column in (1, 50):
            expected[row : row + 48, column : column + 48] = WHITE if row == column else (40, 40, 40)
    np.testing.assert_array_equal(sheet, expected)


@pytest.mark.parametrize(("classes", "side"), [(1, 50), (10, 411), (33, 430), (100, 501)])
def test_a_picture_is_neither_small_nor_large(classes: int, side: int) -> None:
    image = picture([[1] * classes] * classes)
    assert (image.width, image.height) == (side, side)
    assert tensorboard.drawn(ConfusionMatrix(image)) == {"gap/confusion_matrix": image}
