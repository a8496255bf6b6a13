"""The rules on numbers alone: both sides of each limit, the limit itself, too early, and every word that is said."""

import dataclasses
import json
import math
from typing import Any

import pytest

from lightning_diagnostics.diagnostics.batch_norm.dependence import Dependence
from lightning_diagnostics.diagnostics.batch_norm.measure import (
    Design,
    Drift,
    LayerStatistics,
    Momentum,
    RankDifference,
    Reuse,
    SmallBatch,
    WrongMode,
)
from lightning_diagnostics.diagnostics.batch_norm.rules import (
    RULES,
    Limits,
    batch_dependent_prediction,
    batch_statistics_in_evaluation,
    dropout_in_evaluation,
    eval_mode_in_training,
    extreme_momentum,
    frozen_but_drifting,
    is_settling,
    ranks_differ,
    reused_norm,
    statistics_mismatch,
    tiny_batch,
    train_mode_in_evaluation,
    unwatched_modes,
)
from lightning_diagnostics.findings import Diagnosis, Rule, Severity, TooEarly
from lightning_diagnostics.findings.rule import SECTIONS

NAN, INF = float("nan"), float("inf")
# Of the tests; those of the package come from the sweep and from arithmetic.
NUMBERS: dict[str, Any] = {"batches": 2, "looks": 2, "shift": 1.0, "log_ratio": 2.0, "samples": 16, "settled": 0.01}
NUMBERS |= {"patience": 500, "rows": 4, "small_looks": 3, "ranks_shift": 0.1, "change": 0.001}
NUMBERS |= {"momentum_low": 1e-3, "momentum_high": 0.5}
LIMITS = Limits(**NUMBERS)

ONE, TWO = ("net.1",), ("net.1", "net.4")
MANY = ("net.1", "net.4", "net.7", "net.10", "net.13")
ALL = "net.1, net.4, net.7, net.10, net.13"

WRONG = WrongMode(
    where="net.1",
    layers=ONE,
    kind="BatchNorm1d",
    stage="validation",
    step_name="validation_step",
    place="",
    cause="unknown",
    step=12,
    batch=3,
)
ASLEEP = dataclasses.replace(WRONG, stage="training", step_name="training_step", batches=2, batch=0)
DRIFT = Drift(where="net.1", layers=ONE, looks=2, shift=0.1234, alone=False, step=7)
STATISTICS = LayerStatistics(
    layer="net.1",
    kind="BatchNorm1d",
    mean_shift=0.5,
    log_variance_ratio=0.5,
    train_mean_shift=None,
    train_log_variance_ratio=None,
    smallest_batch=64,
    updates=100,
    momentum=0.1,
    samples=128,
    trained=True,
    step=99,
)
SMALL = SmallBatch(where="net.1", layers=ONE, smallest=2, usual=2, looks=8, synchronized=1, step=5)
APART = RankDifference(where="net.1", layers=ONE, shift=0.2345, ranks=2, step=9)
DEPENDS = Dependence(
    stage="validation", change=0.25, cause="samples", where="net.1", outputs=("net",), samples=31, step=4
)
REUSED = Reuse(where="net.1", layers=ONE, calls=2, step=3)
DESIGN = Design(where="net.1", layers=ONE, kind="BatchNorm1d", source="", stage="test", step=6)
MOMENTUM = Momentum(where="net.1", layers=ONE, momentum=0.9, updates=40, step=8)


def but(measured: Any, **changes: Any) -> Any:
    """The same measurement, but for something."""
    return dataclasses.replace(measured, **changes)


def diagnosis(rule: Rule, measured: Any, **limits: float) -> Diagnosis:
    verdict = rule.check(measured, Limits(**{**NUMBERS, **limits}))
    assert isinstance(verdict, Diagnosis)
    return verdict


def speaks(rule: Rule, measured: Any, **limits: float) -> bool:
    return isinstance(rule.check(measured, Limits(**{**NUMBERS, **limits})), Diagnosis)


# train-mode-in-evaluation.


def test_a_norm_in_training_mode_in_validation_is_described_whole() -> None:
    measured = but(WRONG, place="set inside validation_step, in batch 3", cause="inside", moved=True)
    assert diagnosis(train_mode_in_evaluation, measured) == Diagnosis(
        severity=Severity.ERROR,
        where="net.1",
        first_step=12,
        message="net.1 (BatchNorm1d) was in training mode in the validation: set inside validation_step, in batch 3; "
        "the running statistics moved.",
        remedy="remove the train() call from validation_step: Lightning puts the model in evaluation mode and restores "
        "it.",
        evidence={
            "stage": "validation",
            "batch": 3,
            "place": "set inside validation_step, in batch 3",
            "running_statistics_moved": True,
        },
    )


def test_many_norms_in_training_mode_are_described_whole() -> None:
    measured = but(WRONG, where="net", layers=MANY, stage="sanity check", mended=True)
    assert diagnosis(train_mode_in_evaluation, measured) == Diagnosis(
        severity=Severity.ERROR,
        where="net",
        first_step=12,
        message="net.1, net.4, net.7 and 2 more were in training mode in the sanity check. fix=True has put it right "
        "for this stage.",
        remedy="look for train() in validation_step and in what it calls, and remove it.",
        evidence={"stage": "sanity check", "batch": 3, "modules": 5, "names": ALL, "mended": True},
    )


def test_a_norm_whose_call_asks_for_training_is_described_whole() -> None:
    measured = but(WRONG, cause="hard-coded", source="net.py:12", stage="test", step_name="test_step")
    assert diagnosis(train_mode_in_evaluation, measured) == Diagnosis(
        severity=Severity.ERROR,
        where="net.1",
        first_step=12,
        message="net.1 (BatchNorm1d) normalised by the batch in the test: the call at net.py:12 asks for training.",
        remedy="pass training=self.training in place of training=True.",
        evidence={"stage": "test", "batch": 3, "source": "net.py:12"},
    )
    nowhere = diagnosis(train_mode_in_evaluation, but(measured, source="", moved=True))
    assert nowhere.message == (
        "net.1 (BatchNorm1d) normalised by the batch in the test: the call asks for training; the running statistics "
        "moved."
    )


def test_statistics_that_moved_in_evaluation_mode_are_described_whole() -> None:
    measured = but(WRONG, cause="values", moved=True, stage="prediction", step_name="predict_step", kind="Own")
    assert diagnosis(train_mode_in_evaluation, measured) == Diagnosis(
        severity=Severity.ERROR,
        where="net.1",
        first_step=12,
        message="The running statistics of net.1 (Own) moved in the prediction, in evaluation mode.",
        remedy="look for train() and eval() around a call, for F.batch_norm(training=True), or for code that writes "
        "to these buffers in the step.",
        evidence={"stage": "prediction", "batch": 3, "running_statistics_moved": True},
    )


REMEDIES = {
    "inside": "remove the train() call from test_step: Lightning puts the model in evaluation mode and restores it.",
    "hook": "have on_test_model_eval call self.eval(), or remove your own version of it.",
    "before": "look for train() in on_test_start, on_test_epoch_start and callbacks, and remove it.",
    "between": "look for train() in on_test_batch_start, on_test_batch_end and callbacks, and remove it.",
    "unregistered": "register the module: nn.ModuleList and nn.ModuleDict in place of lists and dicts, so that eval() "
    "reaches it.",
    "hard-coded": "pass training=self.training in place of training=True.",
    "values": "look for train() and eval() around a call, for F.batch_norm(training=True), or for code that writes "
    "to these buffers in the step.",
    "unknown": "look for train() in test_step and in what it calls, and remove it.",
}


@pytest.mark.parametrize(("cause", "remedy"), REMEDIES.items(), ids=REMEDIES)
def test_the_remedy_of_a_mode_fits_its_cause(cause: str, remedy: str) -> None:
    measured = but(WRONG, cause=cause, stage="test", step_name="test_step")
    assert diagnosis(train_mode_in_evaluation, measured).remedy == remedy


def test_the_remedy_names_the_hooks_of_the_stage_it_is_found_in() -> None:
    measured = but(WRONG, cause="before", stage="prediction", step_name="predict_step")
    assert diagnosis(train_mode_in_evaluation, measured).remedy == (
        "look for train() in on_predict_start, on_predict_epoch_start and callbacks, and remove it."
    )


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (TWO, "net.1, net.4"),
        (MANY[:3], "net.1, net.4, net.7"),
        (MANY[:4], "net.1, net.4, net.7 and 1 more"),
    ],
)
def test_three_modules_are_named_and_the_others_counted(layers: tuple[str, ...], names: str) -> None:
    said = diagnosis(train_mode_in_evaluation, but(WRONG, layers=layers))
    assert said.message == f"{names} were in training mode in the validation."
    assert (said.evidence["modules"], said.evidence["names"]) == (len(layers), ", ".join(layers))


def test_a_module_without_a_known_class_goes_by_its_name_alone() -> None:
    said = diagnosis(train_mode_in_evaluation, but(WRONG, kind=""))
    assert said.message == "net.1 was in training mode in the validation."
    assert said.evidence == {"stage": "validation", "batch": 3}


# eval-mode-in-training.


def test_a_norm_that_fell_asleep_is_described_whole() -> None:
    measured = but(ASLEEP, place="set between training batches 4 and 5", cause="between", batches=3)
    assert diagnosis(eval_mode_in_training, measured) == Diagnosis(
        severity=Severity.WARNING,
        where="net.1",
        first_step=12,
        message="net.1 (BatchNorm1d) is in evaluation mode in training: set between training batches 4 and 5, for 3 "
        "batches now.",
        remedy="call self.train() after what needs self.eval(), or freeze weight and bias too if that is meant.",
        evidence={
            "batches": 3,
            "eval-mode-in-training.batches": 2,
            "stage": "training",
            "batch": 0,
            "place": "set between training batches 4 and 5",
        },
    )


def test_a_step_that_calls_eval_is_named() -> None:
    said = diagnosis(eval_mode_in_training, but(ASLEEP, cause="inside", layers=TWO, where="net"))
    assert said.message == "net.1, net.4 are in evaluation mode in training, for 2 batches now."
    assert said.remedy == "remove the eval() call from training_step, or call train() after it."
    assert said.evidence["names"] == "net.1, net.4"


def test_what_was_mended_is_told_of_at_once() -> None:
    said = diagnosis(eval_mode_in_training, but(ASLEEP, mended=True, batches=1))
    assert said.message == (
        "net.1 (BatchNorm1d) is in evaluation mode in training. fix=True has put it right for this stage."
    )
    assert said.evidence["mended"] is True


@pytest.mark.parametrize(("batches", "limit", "said"), [(1, 2, False), (2, 2, True), (3, 2, True), (2, 3, False)])
def test_one_batch_in_evaluation_mode_is_too_early(batches: int, limit: int, said: bool) -> None:
    verdict = eval_mode_in_training.check(but(ASLEEP, batches=batches), Limits(**{**NUMBERS, "batches": limit}))
    assert isinstance(verdict, Diagnosis) is said
    assert said or verdict == TooEarly(batches, limit, "batches")


# frozen-but-drifting.


def test_a_frozen_norm_that_drifts_is_described_whole() -> None:
    assert diagnosis(frozen_but_drifting, DRIFT) == Diagnosis(
        severity=Severity.WARNING,
        where="net.1",
        first_step=7,
        message="net.1 has frozen weights, and its running statistics move: the means by 0.12 standard deviations so "
        "far.",
        remedy="call eval() on these norms as well, after every train(); or BaseFinetuning.freeze(..., "
        "train_bn=False).",
        evidence={"looks": 2, "frozen-but-drifting.looks": 2, "mean_shift": 0.123},
    )


def test_many_frozen_norms_that_drift_are_described_whole() -> None:
    said = diagnosis(frozen_but_drifting, but(DRIFT, where="net", layers=MANY, looks=5, shift=12.0))
    assert said.where == "net"
    assert said.message == (
        "net.1, net.4, net.7 and 2 more have frozen weights, and their running statistics move: the means by 12 "
        "standard deviations so far."
    )
    assert said.evidence == {
        "looks": 5,
        "frozen-but-drifting.looks": 2,
        "mean_shift": 12.0,
        "modules": 5,
        "names": ALL,
    }


@pytest.mark.parametrize(("looks", "said"), [(1, False), (2, True), (3, True)])
def test_weights_have_to_stand_still_at_some_looks(looks: int, said: bool) -> None:
    verdict = frozen_but_drifting.check(but(DRIFT, looks=looks), LIMITS)
    assert isinstance(verdict, Diagnosis) is said
    assert said or verdict == TooEarly(looks, 2, "looks")


def test_a_norm_whose_own_weights_alone_are_frozen_is_a_note() -> None:
    assert diagnosis(frozen_but_drifting, but(DRIFT, alone=True)).severity is Severity.INFO


def test_a_shift_that_is_no_number_is_none_in_evidence() -> None:
    assert diagnosis(frozen_but_drifting, but(DRIFT, shift=INF)).evidence["mean_shift"] is None


# statistics-mismatch.


def mismatch(**changes: Any) -> Any:
    """Statistics that do not fit."""
    return but(STATISTICS, **{"mean_shift": 3.456, "log_variance_ratio": math.log(8), **changes})


def test_statistics_that_fit_are_passed_in_silence() -> None:
    assert statistics_mismatch.check(STATISTICS, LIMITS) is None


def test_statistics_that_do_not_fit_are_described_whole() -> None:
    measured = mismatch(train_mean_shift=2.0, train_log_variance_ratio=0.12345)
    assert diagnosis(statistics_mismatch, measured) == Diagnosis(
        severity=Severity.WARNING,
        where="net.1",
        first_step=99,
        message="The running statistics do not fit the validation data: its mean is 3.5 standard deviations away and "
        "its variance 8 times as large or as small (medians over channels). They do not fit the training data either.",
        remedy="a lower learning rate, larger batches, or statistics recomputed before validation "
        "(swa_utils.update_bn).",
        evidence={
            "mean_shift": 3.46,
            "statistics-mismatch.shift": 1.0,
            "log_variance_ratio": 2.08,
            "statistics-mismatch.log_ratio": 2.0,
            "validation_rows": 128,
            "updates": 100,
            "momentum": 0.1,
            "train_mean_shift": 2.0,
            "train_log_variance_ratio": 0.123,
        },
    )


def test_statistics_of_many_norms_that_do_not_fit_are_described_whole() -> None:
    said = diagnosis(statistics_mismatch, mismatch(where="net", layers=MANY))
    assert said.where == "net"
    assert said.message == (
        "The running statistics of net.1, net.4, net.7 and 2 more do not fit the validation data: its mean is 3.5 "
        "standard deviations away and its variance 8 times as large or as small (medians over channels)."
    )
    assert (said.evidence["modules"], said.evidence["names"]) == (5, ALL)
    assert (said.evidence["train_mean_shift"], said.evidence["train_log_variance_ratio"]) == (None, None)


def test_inputs_that_are_prepared_in_two_ways_are_described_whole() -> None:
    said = diagnosis(statistics_mismatch, mismatch(train_mean_shift=0.1, train_log_variance_ratio=0.1))
    assert said.message.endswith("(medians over channels). They do fit the training data.")
    assert said.remedy == (
        "(a) prepare validation inputs as training inputs are (normalisation, scaling, channel order); or (b) if "
        "averaged weights are evaluated, recompute the statistics for them (swa_utils.update_bn); or (c) validate "
        "on more than a few batches of a sorted data set."
    )


@pytest.mark.parametrize(
    ("stale", "words"), [(True, "never moved in this run"), (False, "were not computed with them")]
)
def test_averaged_weights_with_statistics_of_others_are_described_whole(stale: bool, words: str) -> None:
    measured = mismatch(averaged=True, stale=stale, trained=False, updates=0, train_mean_shift=0.0)
    said = diagnosis(statistics_mismatch, measured)
    assert said.message.endswith(f"Its weights are an average of others, and its running statistics {words}.")
    assert said.remedy == (
        "give averaged weights their own statistics: torch.optim.swa_utils.update_bn(loader, model), or average the "
        "buffers too (use_buffers=True)."
    )


def test_statistics_that_never_arrive_are_described_whole() -> None:
    said = diagnosis(statistics_mismatch, mismatch(momentum=0.001, updates=500))
    assert said.message.endswith("(medians over channels). With momentum=0.001 the initial values still weigh 61%.")
    assert said.remedy == "use a larger momentum (0.1 is the default): it is the weight of the new batch."
    never = diagnosis(statistics_mismatch, mismatch(momentum=0.0, updates=500))
    assert never.message.endswith("With momentum=0 the initial values still weigh 100%.")


@pytest.mark.parametrize(
    ("shift", "ratio", "said"),
    [
        *((0.99, 0.0, False), (1.0, 0.0, False), (1.01, 0.0, True)),
        *((0.0, 1.99, False), (0.0, 2.0, False), (0.0, 2.01, True)),
        *((1.0, 2.0, False), (1.01, 2.01, True)),
    ],
)
def test_mean_and_variance_have_a_limit_each(shift: float, ratio: float, said: bool) -> None:
    assert speaks(statistics_mismatch, but(STATISTICS, mean_shift=shift, log_variance_ratio=ratio)) is said


@pytest.mark.parametrize(("shift", "ratio"), [(NAN, NAN), (NAN, 0.0), (0.0, NAN), (None, 9.0), (9.0, None)])
def test_statistics_that_are_no_number_are_not_judged(shift: float | None, ratio: float | None) -> None:
    measured = but(STATISTICS, mean_shift=shift, log_variance_ratio=ratio)
    assert statistics_mismatch.check(measured, LIMITS) is None


def test_a_variance_beyond_all_bounds_is_still_a_number_of_times() -> None:
    said = diagnosis(statistics_mismatch, mismatch(log_variance_ratio=1e6))
    assert "its variance 5.18e+21 times as large or as small" in said.message


@pytest.mark.parametrize(("samples", "said"), [(15, False), (16, True), (17, True)])
def test_a_few_validation_rows_are_too_early(samples: int, said: bool) -> None:
    verdict = statistics_mismatch.check(mismatch(samples=samples), LIMITS)
    assert isinstance(verdict, Diagnosis) is said
    assert said or verdict == TooEarly(samples, 16, "validation rows")


@pytest.mark.parametrize(
    ("momentum", "needed"), [(0.1, 44), (0.5, 7), (0.9, 2), (0.001, 500), (0.0, 500), (1.0, 1), (None, 1)]
)
def test_initial_values_may_take_their_time_by_the_momentum(momentum: float | None, needed: int) -> None:
    for updates in (needed - 1, needed, needed + 1):
        verdict = statistics_mismatch.check(mismatch(momentum=momentum, updates=updates), LIMITS)
        assert isinstance(verdict, Diagnosis) is (updates >= needed)
        assert updates >= needed or verdict == TooEarly(updates, needed, "updates")


def test_patience_ends_sooner_if_it_is_told_to() -> None:
    measured = mismatch(momentum=0.001, updates=20)
    assert statistics_mismatch.check(measured, LIMITS) == TooEarly(20, 500, "updates")
    assert speaks(statistics_mismatch, measured, patience=20)


def test_updates_that_nobody_counted_are_not_waited_for() -> None:
    said = diagnosis(statistics_mismatch, mismatch(updates=None))
    assert said.evidence["updates"] is None
    assert "initial values" not in said.message


@pytest.mark.parametrize(
    ("since", "updates", "step", "counted"), [(43, 500, 500, 43), (None, 43, 500, 43), (None, None, 43, 43)]
)
def test_updates_are_those_of_the_run_if_they_are_counted(
    since: int | None, updates: int | None, step: int, counted: int
) -> None:
    measured = mismatch(since=since, updates=updates, step=step, momentum=None if updates is None else 0.1)
    assert statistics_mismatch.check(measured, LIMITS) == TooEarly(counted, 44, "updates")
    later = {"since": 44} if since is not None else {"updates": 44} if updates is not None else {"step": 44}
    assert speaks(statistics_mismatch, but(measured, **later))


@pytest.mark.parametrize(
    ("stale", "since", "said"), [(True, 5, True), (False, 0, True), (False, 5, False), (False, 44, True)]
)
def test_averaged_weights_wait_only_where_statistics_move_with_them(stale: bool, since: int, said: bool) -> None:
    measured = mismatch(averaged=True, trained=False, stale=stale, since=since)
    verdict = statistics_mismatch.check(measured, LIMITS)
    assert isinstance(verdict, Diagnosis) is said
    assert said or verdict == TooEarly(since, 44, "updates")


@pytest.mark.parametrize(
    ("settled_shift", "settled_ratio", "said"),
    [
        *((0.99, 1.99, False), (1.0, 2.0, False), (1.01, 1.0, True), (0.0, 2.01, True)),
        *((None, 0.0, True), (0.0, None, True), (NAN, NAN, True)),
    ],
)
def test_what_initial_values_still_weigh_after_a_while_accuses_nobody(
    settled_shift: float | None, settled_ratio: float | None, said: bool
) -> None:
    measured = mismatch(settled_shift=settled_shift, settled_ratio=settled_ratio)
    assert speaks(statistics_mismatch, measured) is said
    assert is_settling(measured, LIMITS) is not said


def test_statistics_that_fit_or_have_not_arrived_are_not_settling() -> None:
    settled = {"settled_shift": 0.0, "settled_ratio": 0.0}
    assert not is_settling(but(STATISTICS, **settled), LIMITS)
    assert not is_settling(mismatch(momentum=0.001, updates=500, **settled), LIMITS)
    assert speaks(statistics_mismatch, mismatch(momentum=0.001, updates=500, **settled)), "they never arrive"


def test_a_norm_that_was_not_seen_to_train_is_judged_only_if_its_weights_are_averaged() -> None:
    assert statistics_mismatch.check(mismatch(trained=False), LIMITS) is None
    assert statistics_mismatch.check(mismatch(trained=False, samples=1), LIMITS) is None
    assert speaks(statistics_mismatch, mismatch(trained=False, averaged=True))


@pytest.mark.parametrize(
    ("shift", "ratio", "fit"),
    [
        *((0.49, 0.99, True), (0.5, 1.0, True), (0.51, 1.0, False), (0.5, 1.01, False)),
        *((None, 0.0, None), (0.0, None, None)),
    ],
)
def test_training_batches_agree_up_to_half_of_the_limits(
    shift: float | None, ratio: float | None, fit: bool | None
) -> None:
    said = diagnosis(statistics_mismatch, mismatch(train_mean_shift=shift, train_log_variance_ratio=ratio))
    ends = {True: " They do fit the training data.", False: " They do not fit the training data either.", None: ""}
    assert said.message.endswith(f"(medians over channels).{ends[fit]}")


# tiny-batch.


def test_small_batches_are_described_whole() -> None:
    assert diagnosis(tiny_batch, but(SMALL, usual=3.5)) == Diagnosis(
        severity=Severity.WARNING,
        where="net.1",
        first_step=5,
        message="net.1 computes statistics from few samples: a usual training batch has 3.5 rows.",
        remedy="larger batches per process, SyncBatchNorm over processes, or group norm in place of batch norm.",
        evidence={"median_rows": 3.5, "tiny-batch.rows": 4, "smallest_rows": 2, "looks": 8},
    )


def test_one_small_batch_is_a_note_described_whole() -> None:
    assert diagnosis(tiny_batch, but(SMALL, smallest=1, usual=32.0, layers=TWO, where="net")) == Diagnosis(
        severity=Severity.INFO,
        where="net",
        first_step=5,
        message="net.1, net.4 compute statistics from few samples: the smallest training batch had 1 row.",
        remedy="drop the last, incomplete batch: DataLoader(drop_last=True).",
        evidence={
            "median_rows": 32.0,
            "tiny-batch.rows": 4,
            "smallest_rows": 1,
            "looks": 8,
            "modules": 2,
            "names": "net.1, net.4",
        },
    )


@pytest.mark.parametrize(("rows", "words"), [(1, "1 row."), (2, "2 rows."), (4, "4 rows.")])
def test_rows_are_counted_in_words(rows: int, words: str) -> None:
    said = diagnosis(tiny_batch, but(SMALL, smallest=rows, usual=float(rows)))
    assert said.message.endswith(f"a usual training batch has {words}")


@pytest.mark.parametrize(("smallest", "said"), [(3, True), (4, True), (5, False)])
def test_a_batch_is_small_up_to_the_limit(smallest: int, said: bool) -> None:
    assert speaks(tiny_batch, but(SMALL, smallest=smallest, usual=32.0)) is said


@pytest.mark.parametrize(
    ("usual", "severity"), [(3.5, Severity.WARNING), (4.0, Severity.WARNING), (4.5, Severity.INFO)]
)
def test_small_batches_accuse_if_they_are_usual(usual: float, severity: Severity) -> None:
    assert diagnosis(tiny_batch, but(SMALL, usual=usual)).severity is severity


@pytest.mark.parametrize(("processes", "said"), [(1, True), (2, True), (3, False)])
def test_synchronized_norms_have_the_rows_of_all_processes(processes: int, said: bool) -> None:
    assert speaks(tiny_batch, but(SMALL, synchronized=processes)) is said


@pytest.mark.parametrize(("looks", "said"), [(2, False), (3, True), (4, True)])
def test_a_median_takes_looks(looks: int, said: bool) -> None:
    verdict = tiny_batch.check(but(SMALL, looks=looks), LIMITS)
    assert isinstance(verdict, Diagnosis) is said
    assert said or verdict == TooEarly(looks, 3, "looks")
    assert tiny_batch.check(but(SMALL, looks=looks, smallest=64), LIMITS) is None, "a large batch is never too early"


# ranks-differ.


def test_statistics_that_differ_between_processes_are_described_whole() -> None:
    assert diagnosis(ranks_differ, but(APART, where="net", layers=TWO)) == Diagnosis(
        severity=Severity.WARNING,
        where="net",
        first_step=9,
        message="The running statistics of net.1, net.4 differ between the 2 processes in evaluation, by 0.23 standard "
        "deviations.",
        remedy="Trainer(sync_batchnorm=True), or DDP's own broadcast of buffers, which needs automatic optimisation.",
        evidence={
            "largest_difference": 0.234,
            "ranks-differ.shift": 0.1,
            "processes": 2,
            "modules": 2,
            "names": "net.1, net.4",
        },
    )


@pytest.mark.parametrize(
    ("shift", "severity"),
    [(0.0, Severity.INFO), (0.09, Severity.INFO), (0.1, Severity.INFO), (0.11, Severity.WARNING)],
)
def test_any_difference_is_a_note_and_a_large_one_accuses(shift: float, severity: Severity) -> None:
    assert diagnosis(ranks_differ, but(APART, shift=shift)).severity is severity


# batch-dependent-prediction.


def test_a_prediction_that_depends_on_other_samples_is_described_whole() -> None:
    assert diagnosis(batch_dependent_prediction, DEPENDS) == Diagnosis(
        severity=Severity.WARNING,
        where="net.1",
        first_step=4,
        message="In the validation the prediction for a sample depends on the other samples of its batch: with others "
        "replaced, the output of net changes by 25% of its spread. It begins in net.1.",
        remedy="look there for statistics over axis 0, a reshape that mixes samples, or a layer without "
        "batch_first=True.",
        evidence={
            "change": 0.25,
            "batch-dependent-prediction.change": 0.001,
            "stage": "validation",
            "samples": 31,
            "outputs": "net",
        },
    )


def test_a_prediction_that_depends_on_its_place_is_described_whole() -> None:
    measured = but(DEPENDS, cause="place", where="self", outputs=("a", "b", "c", "d"), stage="test", change=0.0099)
    said = diagnosis(batch_dependent_prediction, measured)
    assert said.message == (
        "In the test the prediction for a sample depends on its place in the batch: with all moved on by one place, "
        "the output of a, b, c and 1 more changes by 1.0% of its spread. It begins in code of the LightningModule "
        "itself."
    )
    assert said.evidence["outputs"] == "a, b, c, d"


@pytest.mark.parametrize(("change", "words"), [(0.00999, "1.0%"), (0.01, "1%"), (0.1234, "12%"), (3.0, "300%")])
def test_a_change_is_told_in_per_cent(change: float, words: str) -> None:
    assert (
        f"changes by {words} of its spread"
        in diagnosis(batch_dependent_prediction, but(DEPENDS, change=change)).message
    )


@pytest.mark.parametrize(("change", "said"), [(0.0009, False), (0.001, False), (0.0011, True)])
def test_a_prediction_depends_from_a_change_on(change: float, said: bool) -> None:
    assert speaks(batch_dependent_prediction, but(DEPENDS, change=change)) is said


@pytest.mark.parametrize(
    ("where", "designed", "note"),
    [
        *(("net.1", ("net.1",), True), ("net.1", ("net.4",), False), ("net.1", (), False)),
        *(("net/batch_norm", ("net.1",), True), ("net/batch_norm", (), False)),
    ],
)
def test_a_norm_without_running_statistics_is_a_note(where: str, designed: tuple[str, ...], note: bool) -> None:
    said = diagnosis(batch_dependent_prediction, but(DEPENDS, where=where, designed=designed))
    assert said.severity is (Severity.INFO if note else Severity.WARNING)
    assert said.remedy.startswith("it has no running statistics" if note else "look there")
    if note:
        assert said.remedy == (
            "it has no running statistics: track_running_stats=True if predictions should not depend on the batch."
        )


def test_norms_in_training_mode_are_to_be_mended_first() -> None:
    said = diagnosis(batch_dependent_prediction, but(DEPENDS, wrong=("a", "b", "c", "d")))
    assert said.remedy == "first mend train-mode-in-evaluation at a, b, c and 1 more, which does this."
    assert said.severity is Severity.WARNING


# dropout-in-evaluation.


def test_dropout_that_is_active_in_a_validation_is_described_whole() -> None:
    measured = but(WRONG, kind="Dropout", cause="before", place="set before the first batch")
    assert diagnosis(dropout_in_evaluation, measured) == Diagnosis(
        severity=Severity.WARNING,
        where="net.1",
        first_step=12,
        message="net.1 (Dropout) was active in the validation: set before the first batch.",
        remedy="look for train() in on_validation_start, on_validation_epoch_start and callbacks, and remove it.",
        evidence={"stage": "validation", "batch": 3, "place": "set before the first batch"},
    )


def test_many_dropouts_are_described_whole() -> None:
    said = diagnosis(dropout_in_evaluation, but(WRONG, layers=TWO, where="net", cause="inside", mended=True))
    assert said.message == "net.1, net.4 were active in the validation. fix=True has put it right for this stage."
    assert said.remedy.startswith("remove the train() call from validation_step")


def test_a_function_that_draws_whatever_the_mode_is_described_whole() -> None:
    measured = but(WRONG, where="net/dropout", layers=("net/dropout",), kind="dropout", cause="hard-coded")
    said = diagnosis(dropout_in_evaluation, but(measured, source="net.py:9"))
    assert said == Diagnosis(
        severity=Severity.WARNING,
        where="net/dropout",
        first_step=12,
        message="net/dropout (dropout) drew noise in the validation: the call at net.py:9 has it on, whatever the "
        "mode.",
        remedy="pass training=self.training: dropout draws by default, or is told to.",
        evidence={"stage": "validation", "batch": 3, "source": "net.py:9"},
    )
    nowhere = diagnosis(dropout_in_evaluation, measured)
    assert nowhere.message.endswith("the call has it on, whatever the mode.")


@pytest.mark.parametrize(
    ("function", "remedy"),
    [
        ("dropout", "pass training=self.training: dropout draws by default, or is told to."),
        ("alpha_dropout", "pass training=self.training."),
        ("scaled_dot_product_attention", "pass dropout_p=p if self.training else 0.0."),
    ],
)
def test_the_remedy_fits_the_function(function: str, remedy: str) -> None:
    assert diagnosis(dropout_in_evaluation, but(WRONG, kind=function, cause="hard-coded")).remedy == remedy


@pytest.mark.parametrize("cause", ["unknown", "hard-coded"])
@pytest.mark.parametrize(
    ("stage", "severity"),
    [("validation", Severity.WARNING), ("test", Severity.WARNING), ("prediction", Severity.INFO)],
)
def test_dropout_while_predicting_is_a_note(cause: str, stage: str, severity: Severity) -> None:
    assert diagnosis(dropout_in_evaluation, but(WRONG, stage=stage, cause=cause)).severity is severity


# Notes.


def test_a_norm_that_is_called_twice_is_described_whole() -> None:
    assert diagnosis(reused_norm, but(REUSED, calls=3)) == Diagnosis(
        severity=Severity.INFO,
        where="net.1",
        first_step=3,
        message="net.1 is called 3 times in a training step, with one set of running statistics.",
        remedy="nothing where it is meant; else a norm for each use.",
        evidence={"calls": 3},
    )


@pytest.mark.parametrize(("calls", "said"), [(1, False), (2, True)])
def test_a_norm_is_reused_from_two_calls_on(calls: int, said: bool) -> None:
    assert speaks(reused_norm, but(REUSED, calls=calls)) is said


@pytest.mark.parametrize(("source", "at"), [("", ""), ("net.py:7", " at net.py:7")])
def test_a_norm_without_running_statistics_is_described_whole(source: str, at: str) -> None:
    assert diagnosis(batch_statistics_in_evaluation, but(DESIGN, source=source)) == Diagnosis(
        severity=Severity.INFO,
        where="net.1",
        first_step=6,
        message=f"net.1 (BatchNorm1d){at} has no running statistics and normalises by the batch in the test.",
        remedy="track_running_stats=True, or instance or group norm, if predictions should not depend on the batch.",
    )


def test_a_momentum_of_another_library_is_described_whole() -> None:
    assert diagnosis(extreme_momentum, MOMENTUM) == Diagnosis(
        severity=Severity.INFO,
        where="net.1",
        first_step=8,
        message="net.1: momentum=0.9 gives the last batch that weight in running statistics.",
        remedy="momentum is the weight of the new batch: 0.1, if it came from another library.",
        evidence={"momentum": 0.9, "updates": 40},
    )


def test_a_momentum_that_never_arrives_is_described_whole() -> None:
    said = diagnosis(extreme_momentum, but(MOMENTUM, momentum=0.0001, updates=1000))
    assert said.message == "net.1: momentum=0.0001, after 1000 updates the initial values weigh 90%."
    assert said.remedy == "use a larger momentum (0.1 is the default): it is the weight of the new batch."


@pytest.mark.parametrize(
    ("momentum", "said"), [(0.0009, True), (0.001, False), (0.1, False), (0.5, False), (0.51, True)]
)
def test_a_momentum_between_the_limits_is_passed_in_silence(momentum: float, said: bool) -> None:
    assert speaks(extreme_momentum, but(MOMENTUM, momentum=momentum)) is said


# All of them.

SICK = [
    *((train_mode_in_evaluation, but(WRONG, moved=True)), (eval_mode_in_training, ASLEEP), (ranks_differ, APART)),
    *((frozen_but_drifting, but(DRIFT, shift=NAN)), (statistics_mismatch, mismatch()), (tiny_batch, SMALL)),
    *((batch_dependent_prediction, DEPENDS), (dropout_in_evaluation, WRONG), (reused_norm, REUSED)),
    *((batch_statistics_in_evaluation, DESIGN), (extreme_momentum, MOMENTUM)),
]


def test_the_note_on_what_is_not_watched_is_made_by_no_number() -> None:
    assert unwatched_modes.check(None, LIMITS) is None


def test_every_rule_but_that_note_is_tried_here() -> None:
    assert {rule.code for rule, _ in SICK} == {rule.code for rule in RULES} - {unwatched_modes.code}
    assert len({rule.code for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES) == 12


@pytest.mark.parametrize(("rule", "measured"), SICK, ids=[rule.name for rule, _ in SICK])
def test_what_is_said_is_json_of_an_allowed_severity_with_the_limit_it_crossed(rule: Rule, measured: Any) -> None:
    said = diagnosis(rule, measured)
    json.dumps(dict(said.evidence), allow_nan=False)
    assert said.severity in rule.severities
    assert said.message.endswith(".")
    assert said.remedy.endswith(".")
    limits = {key for key in said.evidence if "." in key}
    assert all(key.startswith(rule.name) for key in limits)


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_every_page_has_a_summary_and_words_under_each_heading(rule: Rule) -> None:
    assert rule.summary.endswith(".")
    assert all(rule.section(heading) for heading in SECTIONS)
