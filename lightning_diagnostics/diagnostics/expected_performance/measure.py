"""What is drawn of a sweep, and what its rules are given."""

from collections.abc import Mapping
from dataclasses import dataclass

from lightning_diagnostics.tensorboard import quantity

_CHART = "best of n trials"


@dataclass(frozen=True)
class CurvePoint:
    """A tuning curve at one number of trials. The axis is n, the number of trials, and not the training step."""

    median: float | None = quantity(
        tag="evp/median",
        unit="of the metric",
        how="median best of n draws with replacement from the scores; failed trials are worse than all others "
        "(Lourie et al. 2024)",
        chart=_CHART,
        band=("median_low", "median_high"),
    )
    median_low: float | None = quantity(
        tag="evp/median_low",
        unit="of the metric",
        how="lower end of the band around the median, for all n at once; NaN where nothing bounds it",
    )
    median_high: float | None = quantity(
        tag="evp/median_high",
        unit="of the metric",
        how="upper end of the band around the median, for all n at once; NaN where nothing bounds it",
    )
    mean: float | None = quantity(
        tag="evp/mean",
        unit="of the metric",
        how="expected best of n draws with replacement from the scores, so of n trials that have one (plug-in, Dodge "
        "et al. 2019)",
        chart="expected best of n trials",
    )
    mean_unbiased: float | None = quantity(
        tag="evp/mean_unbiased",
        unit="of the metric",
        how="mean best over all sets of n of the trials that have a score (Tang et al. 2020)",
        chart="expected best of n trials",
    )
    spread: float | None = quantity(
        tag="evp/spread",
        unit="of the metric",
        how="standard deviation of the best of n draws with replacement; of one search, and no error of the curve",
    )
    hours: float | None = quantity(
        tag="evp/hours",
        unit="device-hours",
        how="n times the device-hours of all trials, failed and pruned ones included, for each that counts (failed "
        "ones do unless they are dropped)",
    )


@dataclass(frozen=True)
class Standing:
    """A sweep as it stands when one of its runs ends. The axis is the training step."""

    score: float | None = quantity(
        tag="evp/score",
        unit="of the metric",
        how="the best value of the metric in this run",
    )
    best: float | None = quantity(
        tag="evp/best",
        unit="of the metric",
        how="the best score of all trials of the sweep that have completed",
    )
    expected_best: float | None = quantity(
        tag="evp/expected_best",
        unit="of the metric",
        how="expected best of as many trials as have a score (plug-in, Dodge et al. 2019)",
    )
    n_trials: float | None = quantity(tag="evp/n_trials", unit="trials", how="trials of the sweep that count")
    n_failed: float | None = quantity(
        tag="evp/n_failed", unit="trials", how="trials that failed, whose metric was never finite, or that were lost"
    )
    n_pruned: float | None = quantity(
        tag="evp/n_pruned", unit="trials", how="trials that were stopped before their end; they do not count"
    )
    failure_rate: float | None = quantity(
        tag="evp/failure_rate", unit="share", how="failed trials among those that failed or have a score"
    )
    iid_assumption: float | None = quantity(
        tag="evp/iid_assumption",
        unit="0 or 1",
        how="1 where the search is known to be random, 0 where it is known not to be; none where it is not known",
    )


@dataclass(frozen=True)
class Lead:
    """By how much the best trial is ahead of another.

    Attributes:
        over: The name of the other.
        by: The difference of their scores, more than 0.
        paired: The difference over the parts of one validation: these of the best trial, these of the other, and how
            many samples each has; None if they did not validate on the same parts, or keep none.
        correct: Where the metric is an accuracy, how many samples the best trial has right, and the other.
        samples: Behind each of the two scores; None if they differ or are not known.
    """

    over: str
    by: float
    paired: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]] | None
    correct: tuple[int, int] | None
    samples: int | None


@dataclass(frozen=True)
class Reading:
    """What the rules are given about a sweep, when one of its runs ends.

    Attributes:
        step: The training step of that.
        metric: What the scores are of.
        mode: Whether they shall be ``"min"`` or ``"max"``.
        scored: How many trials have a score.
        needed: How many a curve takes.
        failed: Why trials failed, for each that did.
        lost: The names of trials that stopped without a word.
        gone: Of how many of these the process is known to be gone.
        silent: Seconds since the last of these was heard of.
        others: How many trials of the sweep have another metric or mode, by that.
        spaces: How many trials have each set of names of hyperparameters, by what the set has and others lack.
        searches: How trials were proposed, where it was not random.
        tested: How many trials were evaluated on test data.
        total: How many trials the sweep has.
        best: The name of the best trial.
        leads: Of the best trial over each other that has a score, the next best first.
    """

    step: int
    metric: str
    mode: str
    scored: int
    needed: int
    failed: tuple[str, ...]
    lost: tuple[str, ...]
    gone: int
    silent: float
    others: Mapping[str, int]
    spaces: Mapping[str, int]
    searches: tuple[str, ...]
    tested: int
    total: int
    best: str
    leads: tuple[Lead, ...]
