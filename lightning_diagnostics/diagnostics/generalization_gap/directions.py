"""Which way a metric is better, and which metrics are judged together."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

Direction = Literal["min", "max"]

_SMALL = (
    *("loss", "err", "error", "mse", "mae", "rmse", "mape", "smape", "perplexity", "ppl", "wer", "cer", "nll", "bce"),
    *("ce", "kl", "fid", "distance", "entropy", "brier", "ece", "hinge", "lpips", "bpc", "bpb"),
)
_LARGE = (
    *(
        "acc",
        "accuracy",
        "f1",
        "f1score",
        "auc",
        "auroc",
        "auprc",
        "precision",
        "recall",
        "iou",
        "miou",
        "dice",
        "bleu",
        "rouge",
    ),
    *("map", "r2", "score", "corr", "pearson", "spearman", "kappa", "mcc", "ap", "psnr", "ssim", "hit", "ndcg", "mrr"),
    *("em", "fbeta", "specificity", "sensitivity", "jaccard", "top1", "top5", "reward", "return"),
)


def direction(
    name: str, *, told: Mapping[str, str], watched: Mapping[str, str], metric: Any = None
) -> Direction | None:
    """Whether a metric shall be small or large; None if that is not known.

    Args:
        name: The metric.
        told: What the user has said.
        watched: What callbacks that watch a metric have been told.
        metric: The object of torchmetrics, if it is one.
    """
    plain = name.partition("/dataloader_idx_")[0]
    for known in (told, watched):
        said = known.get(name, known.get(plain))
        if said is not None:
            return "max" if said == "max" else "min"
    higher = getattr(metric, "higher_is_better", None)
    if isinstance(higher, bool):
        return "max" if higher else "min"
    words = set(re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", plain).lower()))
    if any(word in words or word + "s" in words for word in _SMALL) or any(
        word.endswith(("loss", "losses")) for word in words
    ):
        return "min"
    return "max" if any(word in words for word in _LARGE) else None


def losses(directions: Mapping[str, Direction | None], monitor: str | None, watched: Collection[str] = ()) -> list[str]:
    """The metrics whose onset of overfitting is looked for: of each loader one.

    Args:
        directions: Of every metric, in the order of logging.
        monitor: The one that the user has named; by default it is a loss that callbacks watch, else the one that is
            called just that, else the first.
        watched: What callbacks watch.
    """
    if monitor is not None:
        chosen = [name for name, one in directions.items() if one and is_named(name, monitor)]
    else:
        small = [name for name, one in directions.items() if one == "min"]
        chosen = sorted(small, key=lambda name: ("loss" not in name.lower(), name not in watched, not _is_plain(name)))
    found: dict[str, str] = {}
    for name in chosen:
        found.setdefault(_loader(name), name)
    return list(found.values())


def is_named(name: str, monitor: str | None) -> bool:
    """Whether a metric is the one that the user has named, for one loader or for all."""
    return monitor is not None and monitor in (name, name.partition("/dataloader_idx_")[0])


def _is_plain(name: str) -> bool:
    """Whether it is the loss, and not a part of it."""
    words = re.split(r"[^a-z]+", name.partition("/dataloader_idx_")[0].lower())
    return set(words) <= {"loss", "val", "valid", "validation", "dev", "eval", "epoch"}


def partner(loss: str, directions: Mapping[str, Direction | None], watched: Iterable[str]) -> str | None:
    """The metric that has to get worse, too: one that callbacks watch, else an accuracy, else one to be large."""
    same = {name: one for name, one in directions.items() if name != loss and one and _loader(name) == _loader(loss)}
    large = [name for name, one in same.items() if one == "max"]
    ordered = [*(name for name in watched if name in same), *sorted(large, key=lambda name: "acc" not in name.lower())]
    return ordered[0] if ordered else None


def _loader(name: str) -> str:
    return name.partition("/dataloader_idx_")[2]
