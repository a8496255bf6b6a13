"""Which way a metric is better."""

import re
from collections.abc import Mapping
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
