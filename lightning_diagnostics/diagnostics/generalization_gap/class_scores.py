"""What is drawn of each class, and of the classes that are taken for each other."""

from dataclasses import dataclass

from lightning_diagnostics.tensorboard import Image, quantity


@dataclass(frozen=True)
class ClassScores:
    """How well one class is recognised in validation.

    Attributes:
        layer: The class: its name, or its number.
    """

    layer: str
    precision: float | None = quantity(
        tag="gap/precision/{layer}",
        unit="share of predictions",
        how="of the validation samples that were predicted to be of the class, the share that is of it; as "
        "torchmetrics' MulticlassPrecision with average=None; none for a class that was never predicted",
        chart="precision by class",
    )
    recall: float | None = quantity(
        tag="gap/recall/{layer}",
        unit="share of samples",
        how="of the validation samples of the class, the share that was predicted to be of it; as torchmetrics' "
        "MulticlassRecall with average=None; none for a class without samples",
        chart="recall by class",
    )


@dataclass(frozen=True)
class ConfusionMatrix:
    """Which classes are taken for which."""

    image: Image | None = quantity(
        tag="gap/confusion_matrix",
        unit="share of the samples of a class",
        how="a row for each true class from the top, a column for each predicted one from the left, the darker the "
        "larger the share of the row (by its square root, so that rare confusions are seen): right ones in blue on "
        "the diagonal, wrong ones in grey; the row of a class without samples is empty",
    )
