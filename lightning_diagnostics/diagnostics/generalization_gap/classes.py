"""Which class is predicted for which: the confusion matrix of a pass, the scores of each class, and a picture."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_diagnostics.diagnostics.generalization_gap.class_scores import ClassScores
from lightning_diagnostics.tensorboard import Image

PREDICTIONS = (
    *("preds", "predictions", "pred", "prediction", "y_pred", "y_hat", "logits", "y_logits"),
    *("probs", "probabilities", "y_prob", "y_score", "scores"),
)
"""What predictions are called in the outputs of a step; the first that is there counts."""

TARGETS = ("target", "targets", "y", "y_true", "labels", "label")
"""What the true classes are called, in the outputs or in the batch."""

MOST_CLASSES = 100
"""With more classes there would be as many curves and too small a picture."""

_SIDE = 400  # pixels that a picture is to have, about
_LARGEST, _SMALLEST = 48, 4  # of a cell, in pixels
_LINE = (215, 215, 215)
_RIGHT, _WRONG = (20, 70, 170), (40, 40, 40)

Confusion = list[list[int]]
"""How many samples of a class (row) were predicted to be of a class (column)."""


class ClassTally:
    """The confusion matrix of one pass, summed up on the device.

    Predictions may be scores of shape (samples, classes, ...), class numbers of the shape of the targets, or, of two
    classes, probabilities or logits of shape (samples,) or (samples, 1, ...). The classes of targets are numbers from 0
    on; samples with a negative one are left out. Of what are no classes nothing is counted, and it says why.

    Scores and numbers for two classes are summed up without a transfer, but for one that asks after the first batch
    whether its targets are classes; class numbers take one for each batch, since how many classes there are is unknown.

    Attributes:
        problem: Why nothing can be said of the pass; None if all is well. What only shows at the end is known after
            `state`.

    Example:
        >>> tally = ClassTally()
        >>> tally.update({"preds": torch.tensor([0, 1, 1]), "target": torch.tensor([0, 1, 0])}, None)
        >>> tally.state()
        [[1, 1], [0, 1]]
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self._classes = 0  # that the sums have place for
        self._kind: str | None = None
        self._sums: Tensor | None = None  # for each threshold a flat matrix, and last how many targets were no classes
        self._outside: Tensor | None = None  # whether numbers for two classes are logits

    @torch.no_grad()
    def update(self, outputs: Any, batch: Any) -> str | None:
        """Count a batch.

        Args:
            outputs: What the step returned: a mapping (or an object with fields) with predictions under one of
                `PREDICTIONS` and true classes under one of `TARGETS`.
            batch: Where the true classes are looked for if they are not in the outputs: under those names, or as the
                second of two parts.

        Returns:
            None if it was counted; else why not, and then all of the pass is not, for its numbers would not be of all
            samples.
        """
        if self.problem is None:
            self.problem = self._count(outputs, batch)
        return self.problem

    def state(self) -> Confusion | None:
        """The confusion matrix so far, in plain numbers; None if nothing was counted or there is a problem."""
        if self.problem is not None or self._sums is None:
            return None
        sums = self._sums.cpu()
        if bool(sums[0, -1]):
            self.problem = self._not_classes()
            return None
        of_logits = self._outside is not None and bool(self._outside)
        return sums[1 if of_logits else 0, :-1].view(self._classes, self._classes).tolist()

    @staticmethod
    def merge(states: Iterable[Confusion | None]) -> Confusion | None:
        """The sum of several, of the ranks say; None if there is none. One of fewer classes lacks the last ones.

        Example:
            >>> ClassTally.merge([[[1]], None, [[1, 2], [3, 4]]])
            [[2, 2], [3, 4]]
        """
        known = [np.asarray(state, dtype=np.int64) for state in states if state]
        if not known:
            return None
        size = max(map(len, known))
        return np.sum([np.pad(each, (0, size - len(each))) for each in known], axis=0).tolist()

    def _count(self, outputs: Any, batch: Any) -> str | None:
        predicted = _found(outputs, PREDICTIONS)
        if predicted is None:
            return "`validation_step` returned no predictions (a mapping with 'preds' and 'target')"
        target = _found(outputs, TARGETS)
        target = _of_batch(batch) if target is None else target
        if target is None:
            return "`validation_step` returned predictions and no true classes (under 'target')"
        predicted, target = _alike(predicted, target)
        if not target.numel():
            return None
        kind = _kind(predicted, target)
        if kind is None:
            return f"predictions of shape {_shape(predicted)} are not those of targets of shape {_shape(target)}"
        if self._kind not in (None, kind):
            return f"predictions were {self._kind} first and {kind} later"
        if target.is_floating_point() and kind != _TWO:
            return "the targets are not whole numbers, so they are no classes"
        return self._add(kind, predicted, target)

    def _add(self, kind: str, predicted: Tensor, target: Tensor) -> str | None:
        classes = _classes(kind, predicted, target)
        if classes > MOST_CLASSES:
            return f"there are {classes:,} classes, and scores are drawn of {MOST_CLASSES} at most"
        if kind == _SCORES and self._classes not in (0, classes):
            return f"there were scores of {self._classes} classes first and of {classes} later"
        is_first, self._kind = self._sums is None, kind
        self._make_room(classes, target.device)
        if kind == _TWO:
            outside = ((predicted < 0) | (predicted > 1)).any()
            self._outside = outside if self._outside is None else self._outside.to(outside.device) | outside
            choices = [predicted > 0.5, predicted > 0]
        else:
            choices = [predicted.argmax(1) if kind == _SCORES else predicted]
        for row, chosen in enumerate(choices):
            self._add_to(row, chosen.to(target.device).reshape(-1).long(), target.reshape(-1))
        assert self._sums is not None
        return self._not_classes() if is_first and bool(self._sums[0, -1]) else None

    def _add_to(self, row: int, chosen: Tensor, target: Tensor) -> None:
        assert self._sums is not None
        number = target.long()
        left_out = (target < 0) & (number == target)
        fits = (number == target) & (number >= 0) & (number < self._classes) & (chosen >= 0) & (chosen < self._classes)
        last = self._sums.shape[1] - 1
        cell = torch.where(fits, number * self._classes + chosen, last)
        # Not `bincount`, through which torchmetrics counts: on a GPU that waits for the device.
        self._sums[row].index_add_(0, cell.to(self._sums.device), (~left_out).long().to(self._sums.device))

    def _make_room(self, classes: int, device: torch.device) -> None:
        """Make the sums as large as that many classes need."""
        old, size = self._sums, self._classes
        if old is not None and classes <= size:
            return
        thresholds = 2 if self._kind == _TWO else 1
        self._sums = torch.zeros(thresholds, classes**2 + 1, dtype=torch.long, device=device)
        self._classes = classes
        if old is not None:
            self._sums[:, -1] = old[:, -1]
            square = self._sums[:, :-1].view(thresholds, classes, classes)
            square[:, :size, :size] = old[:, :-1].view(thresholds, size, size)

    def _not_classes(self) -> str:
        return f"there are targets or predictions that are no classes from 0 to {self._classes - 1}"


_SCORES, _NUMBERS, _TWO = "scores of classes", "numbers of classes", "numbers for two classes"


def _kind(predicted: Tensor, target: Tensor) -> str | None:
    """What predictions are, by their shape and type; None if they do not go with the targets."""
    if predicted.shape == target.shape:
        if not predicted.is_floating_point():
            return _NUMBERS
        return _TWO if predicted.dim() == 1 else None  # of more it could be one number for each of several labels
    if not predicted.is_floating_point() or predicted.dim() != target.dim() + 1:
        return None
    if predicted.shape[:1] + predicted.shape[2:] != target.shape:
        return None
    return _TWO if predicted.shape[1] == 1 else _SCORES


def _alike(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the dimensions that a step may have squeezed away, and without those that it left over."""
    predicted, target = torch.atleast_1d(predicted), torch.atleast_1d(target)
    if target.dim() > 1 and target.shape[1] == 1 and predicted.dim() in (target.dim(), target.dim() - 1):
        target = target.squeeze(1)
    if not predicted.is_floating_point() and predicted.dim() == target.dim() + 1 and predicted.shape[1] == 1:
        predicted = predicted.squeeze(1)
    if predicted.dim() == target.dim() == 1 and target.numel() == 1 and predicted.numel() > 1:
        predicted = predicted.unsqueeze(0)  # scores of the only sample of a batch
    return predicted, target


def _classes(kind: str, predicted: Tensor, target: Tensor) -> int:
    if kind == _NUMBERS:
        return max(int(torch.stack([predicted.max().cpu(), target.max().cpu()]).max()) + 1, 1)
    return 2 if kind == _TWO else predicted.shape[1]


def _found(values: Any, names: Sequence[str]) -> Tensor | None:
    """The first tensor under one of the names, in a mapping or in the fields of an object."""
    if dataclasses.is_dataclass(values) or hasattr(values, "_fields"):  # a named tuple has them
        values = {name: getattr(values, name, None) for name in names}
    if not isinstance(values, Mapping):
        return None
    return next((values[name] for name in names if isinstance(values.get(name), Tensor)), None)


def _of_batch(batch: Any) -> Tensor | None:
    found = _found(batch, TARGETS)
    if found is None and isinstance(batch, Sequence) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return batch[1]
    return found


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"


def scores(confusion: Confusion, names: Sequence[str] | None = None) -> list[ClassScores]:
    """Precision and recall of each class.

    Args:
        confusion: The state of a `ClassTally`.
        names: Of the classes; else they go by their numbers.

    Example:
        >>> [(each.layer, each.precision, each.recall) for each in scores([[3, 1], [0, 0]])]
        [('0', 1.0, 0.75), ('1', 0.0, None)]
    """
    counts = np.asarray(confusion, dtype=np.int64)
    found = zip(np.diagonal(counts).tolist(), counts.sum(0).tolist(), counts.sum(1).tolist(), strict=True)
    return [
        ClassScores(
            names[index] if names is not None and index < len(names) else str(index),
            precision=right / predicted if predicted else None,
            recall=right / samples if samples else None,
        )
        for index, (right, predicted, samples) in enumerate(found)
    ]


def picture(confusion: Confusion) -> Image:
    """A confusion matrix as a picture: true classes are rows; the darker a cell, the larger its share of the row."""
    counts = np.asarray(confusion, dtype=np.float64)
    size = len(counts)
    cell = min(max(_SIDE // size, _SMALLEST), _LARGEST)
    level = np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1))[..., None]
    ink = np.where(np.eye(size, dtype=bool)[..., None], _RIGHT, _WRONG)
    colours = 255 + (ink - 255) * level
    tiles = np.empty((size, cell + 1, size, cell + 1, 3))
    tiles[:] = _LINE
    tiles[:, 1:, :, 1:] = colours[:, None, :, None]
    side = size * (cell + 1)
    sheet = np.empty((side + 1, side + 1, 3))
    sheet[:] = _LINE  # the lines at the right and at the bottom
    sheet[:side, :side] = tiles.reshape(side, side, 3)
    for start in range(0, side, cell + 1):  # so that the diagonal is seen where nothing on it is right
        ends, along = [start, start + cell + 1], slice(start, start + cell + 2)
        sheet[ends, along] = _RIGHT
        sheet[along, ends] = _RIGHT
    pixels = sheet.round().astype(np.uint8)
    return Image(side + 1, side + 1, pixels.tobytes())
