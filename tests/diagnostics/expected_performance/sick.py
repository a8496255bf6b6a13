"""Searches in which one thing is not as it should be, and their twins in which it is."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lightning_diagnostics import Severity
from lightning_diagnostics.diagnostics.expected_performance.alive import here
from lightning_diagnostics.diagnostics.expected_performance.trials import Trial
from tests.diagnostics.expected_performance.made import trial

MINUTE, HOUR = 60.0, 3600.0
SCORES = (0.30, 0.45, 0.60, 0.75, 0.90, 0.20)


@dataclass(frozen=True)
class Case:
    """A search of six trials that have completed, random and of one kind, unless it says otherwise.

    Attributes:
        name: What it is called.
        make: Its trials, from six healthy ones; sick or not.
        code: What is to be found.
        others: What else is said of it.
        twins: What is said of the twin.
        severity: Of what is to be found.
    """

    name: str
    make: Callable[..., list[Trial]]
    code: str
    others: frozenset[str] = frozenset()
    twins: frozenset[str] = frozenset()
    severity: Severity = Severity.INFO

    def trials(self, *, sick: bool) -> list[Trial]:
        """The search, or its twin."""
        healthy = [
            trial(number, score, search="random", hyperparameters={"lr": 0.1 / (1 + number)}, beat=time.time())
            for number, score in enumerate(SCORES)
        ]
        return self.make(healthy, sick=sick)

    def __str__(self) -> str:
        return self.name


def _running(silent: float, **more: Any) -> Trial:
    """One more that says it runs, and was last heard of so many seconds ago."""
    settings = {"search": "random", "hyperparameters": {"lr": 0.5}}
    return trial(6, 0.5, "running", **{"beat": time.time() - silent, **settings, **more})


def killed_here(some: list[Trial], *, sick: bool) -> list[Trial]:
    """Its process on this machine is gone; or is this one."""
    mine = here()
    return [*some, _running(1.0, **({**mine, "pid": 2**22 + 1} if sick else mine))]


def silent_elsewhere(some: list[Trial], *, sick: bool) -> list[Trial]:
    return [*some, _running((31 if sick else 29) * MINUTE)]


def silent_for_long(some: list[Trial], *, sick: bool) -> list[Trial]:
    """Its batches take ten minutes."""
    return [*some, _running((110 if sick else 90) * MINUTE, silence=10 * MINUTE)]


def killed_days_ago(some: list[Trial], *, sick: bool) -> list[Trial]:
    last = _running(50 * HOUR)
    return [*some, last if sick else replace(last, status="completed")]


def all_killed(some: list[Trial], *, sick: bool) -> list[Trial]:
    """A scheduler has ended the job of all of them."""
    return [replace(each, status="running", beat=time.time() - (HOUR if sick else MINUTE)) for each in some]


def one_of_another_metric_killed(some: list[Trial], *, sick: bool) -> list[Trial]:
    return [*some, _running(HOUR if sick else MINUTE, metric="val_loss", mode="min")]


def few(some: list[Trial], *, sick: bool) -> list[Trial]:
    return some[: 4 if sick else 5]


def some_failed(some: list[Trial], *, sick: bool) -> list[Trial]:
    return [*some, trial(6, None, "failed" if sick else "pruned", hyperparameters={"lr": 1.0}, search="random")]


def some_diverged(some: list[Trial], *, sick: bool) -> list[Trial]:
    last = trial(6, None if sick else 0.5, readings=4, hyperparameters={"lr": 1.0}, search="random")
    return [*some, last]


def two_metrics(some: list[Trial], *, sick: bool) -> list[Trial]:
    return [*some, trial(6, 0.5, metric="val_f1" if sick else "val_acc", search="random", hyperparameters={"lr": 1.0})]


def two_modes(some: list[Trial], *, sick: bool) -> list[Trial]:
    return [*some, trial(6, 0.5, mode="min" if sick else "max", search="random", hyperparameters={"lr": 1.0})]


def tested(some: list[Trial], *, sick: bool) -> list[Trial]:
    """Two of them, or only the best one."""
    return [replace(each, tests=int(number == 4 or (sick and number == 0))) for number, each in enumerate(some)]


def near_on_few_samples(some: list[Trial], *, sick: bool) -> list[Trial]:
    """The best is three of twenty samples ahead; or as large a share of ten thousand, which can tell it."""
    return [replace(each, validation_samples=20 if sick else 10_000) for each in some]


def as_good_by_batches(some: list[Trial], *, sick: bool) -> list[Trial]:
    """Where one is better the other is worse; or it is a little better everywhere."""
    second = replace(some[4], run_id="second", number="second", score=0.89)
    ahead = [(-1) ** part * 0.2 for part in range(12)] if sick else [0.01] * 12
    hard = [0.9 + 0.05 * (part % 3) for part in range(12)]
    pairs = ((some[4], hard), (second, [one - each for one, each in zip(hard, ahead, strict=True)]))
    best = [replace(each, batch_means=means, batch_sizes=[8.0] * 12) for each, means in pairs]
    return [*some[:4], *best]


def two_spaces(some: list[Trial], *, sick: bool) -> list[Trial]:
    return [
        replace(each, hyperparameters={"width" if sick and n < 2 else "lr": 0.1 + n}) for n, each in enumerate(some)
    ]


def by_tpe(some: list[Trial], *, sick: bool) -> list[Trial]:
    return [replace(each, search="TPESampler" if sick else "random") for each in some]


def by_grid(some: list[Trial], *, sick: bool) -> list[Trial]:
    """All six combinations, or one of them twice."""
    settings = [{"lr": lr, "depth": depth} for lr in (0.1, 0.2, 0.3) for depth in (1, 2)]
    settings[-1] = settings[-1] if sick else settings[0]
    return [replace(each, search=None, hyperparameters=own) for each, own in zip(some, settings, strict=True)]


FAILED, FEW, PRUNED = frozenset({"EVP802"}), frozenset({"EVP801"}), frozenset({"EVP807"})
MIXED = frozenset({"EVP803"})
WARNING = Severity.WARNING

CASES = (
    Case("killed_here", killed_here, "EVP101", FAILED, severity=WARNING),
    Case("silent_elsewhere", silent_elsewhere, "EVP101", severity=WARNING),
    Case("silent_for_long", silent_for_long, "EVP101", severity=WARNING),
    Case("killed_days_ago", killed_days_ago, "EVP101", FAILED, severity=WARNING),
    Case("all_killed", all_killed, "EVP101", FEW, FEW, severity=WARNING),
    Case("one_of_another_metric_killed", one_of_another_metric_killed, "EVP101", MIXED, MIXED, severity=WARNING),
    Case("few", few, "EVP801"),
    Case("some_failed", some_failed, "EVP802", twins=PRUNED),
    Case("some_diverged", some_diverged, "EVP802"),
    Case("two_metrics", two_metrics, "EVP803"),
    Case("two_modes", two_modes, "EVP803"),
    Case("tested", tested, "EVP804"),
    Case("near_on_few_samples", near_on_few_samples, "EVP805"),
    Case("as_good_by_batches", as_good_by_batches, "EVP805"),
    Case("two_spaces", two_spaces, "EVP806"),
    Case("by_tpe", by_tpe, "EVP807"),
    Case("by_grid", by_grid, "EVP807"),
)
