"""What is wrong with a sweep, or worth to know about it: numbers in, findings out. No torch."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_diagnostics.findings import Diagnosis, Severity, Verdict, limit, rule
from lightning_diagnostics.statistics import accuracy_difference_interval, paired_difference_interval

if TYPE_CHECKING:
    from lightning_diagnostics.diagnostics.expected_performance.measure import Lead, Reading

_NAMED = 3  # how many trials a message names


@dataclass(frozen=True)
class Limits:
    """The limits of this room."""

    silence: float = limit(
        1800.0,
        key="lost-trials.silence",
        meaning="seconds without a sign of life after which a run of another machine is taken for lost; ten times its "
        "longest silence so far, if that is more",
        source="arithmetic: a run shows a sign of life every minute, unless one batch takes longer; thirty of them",
        low=180.0,
    )
    confidence: float = limit(
        0.95,
        key="best-within-noise.confidence",
        meaning="confidence of the interval of the difference of two trials on the same validation samples",
        source="convention: 95 per cent",
        low=0.5,
        high=0.9999,
    )
    batches: int = limit(
        10,
        key="best-within-noise.batches",
        meaning="parts of a validation from which on two trials are compared part by part",
        source="convention: ten, for which Student's t asks for 2.3 standard errors",
        low=2,
    )


@rule(code="EVP101", name="lost-trials", severities=(Severity.WARNING,))
def lost_trials(measured: "Reading", limits: Limits) -> Verdict:
    """Trials of the sweep stopped without a word.

    ## What it means
    The records of the trials named say that they run, but they do not: their process is gone, or they have shown no
    sign of life for half an hour and for ten times as long as ever before. A run that ends by itself says so, by an
    exception too. These were killed: out of memory, a limit of the scheduler, `kill -9`, a machine that went down.

    ## Why it matters
    They are part of what the search has cost, and they vanish from most tables of results. If they were killed because
    of what they tried (large models run out of memory), the search has not seen that part of its space at all, and the
    best of the others is taken for the best of all.

    ## What to do
    Look at the log of the job for the reason. Resume them from their last checkpoint (`trainer.fit(ckpt_path=...)`): a
    resumed run goes on with its own record. If they are to be forgotten, delete their folders.

    ## When it is wrong
    A run on another machine that stands still for longer than half an hour and goes on later (a suspended laptop, a
    preempted job) is taken for lost meanwhile. Its record is right again with its next sign of life. A run that was
    resumed with other hyperparameters or another seed than its checkpoint has is another trial, and the first stays
    lost. Searches that end trials by a kill (the hyperband of W&B does) look like this, too.
    """
    if not measured.lost:
        return None
    names, many = _names(measured.lost), len(measured.lost)
    gone = "their processes are gone" if many > 1 else "its process is gone"
    silent = f"the last sign of life is {_duration(measured.silent)} old"
    some = f"{measured.gone} of the processes are gone"
    why = gone if measured.gone == many else some if measured.gone else silent
    return Diagnosis(
        Severity.WARNING,
        None,
        measured.step,
        f"{_many(many, 'trial')} of {measured.total} stopped without a word: {names} ({why}).",
        f"look at the log of the job, and resume {'it' if many == 1 else 'them'} from the last checkpoint, or delete "
        f"{'its' if many == 1 else 'their'} folder{'s' * (many != 1)}.",
        {
            "lost": many,
            "gone": measured.gone,
            "trials": measured.total,
            "seconds since the last was heard of": round(measured.silent),
        },
    )


@rule(code="EVP801", name="too-few-trials", severities=(Severity.INFO,))
def too_few_trials(measured: "Reading", limits: Limits) -> Verdict:
    """The sweep has too few scores for a curve: they are listed instead.

    ## What it means
    Fewer trials than `min_trials` (five, unless told otherwise) have a score. A curve of so few says no more than the
    scores themselves, and its band nothing at all (Dodge et al. 2019 advise to list them).

    ## Why it matters
    The best of three is a lucky draw or an unlucky one. What a search of this kind is worth shows with more of them.

    ## What to do
    Nothing while the sweep goes on: the next run that ends draws the curve. Report the scores, not only the best.

    ## When it is wrong
    It is about runs that were found. With `sweep=` or `folder=` the callback finds those that are kept elsewhere.
    """
    if measured.scored >= measured.needed:
        return None
    return Diagnosis(
        Severity.INFO,
        None,
        measured.step,
        f"{_many(measured.scored, 'trial')} of the sweep {'has' if measured.scored == 1 else 'have'} a score, and a "
        f"curve takes {measured.needed}: the scores are listed instead.",
        "nothing while the sweep goes on; else report all scores, and not the best alone.",
        {"scores": measured.scored, "min_trials": measured.needed},
    )


@rule(code="EVP802", name="failed-trials", severities=(Severity.INFO,))
def failed_trials(measured: "Reading", limits: Limits) -> Verdict:
    """Some trials of the sweep failed.

    ## What it means
    They ended by an exception, their metric was never a finite number, or they were lost for certain.

    ## Why it matters
    A failed trial is part of what the search has cost. Left out, the search looks cheaper and surer than it is.

    ## What to do
    Say how many failed beside the best score. The curve counts them as `failed=` says: `"worst"` (the median and its
    band know them as worse than all others), a number such as the score of a constant predictor, or `"drop"`.

    ## When it is wrong
    Trials that failed by a mistake that has been mended since are no part of the search: delete their folders.
    """
    if not measured.failed:
        return None
    reasons = ", ".join(f"{number} x {word}" for word, number in Counter(measured.failed).most_common(_NAMED))
    many = len(measured.failed)
    ended = many + measured.scored
    return Diagnosis(
        Severity.INFO,
        None,
        measured.step,
        f"{many} of {ended} trials failed ({reasons}).",
        "report how many failed beside the best score; failed= says what they count as in the curve.",
        {"failed": many, "scored": measured.scored, "rate": round(many / ended, 4)},
    )


@rule(code="EVP803", name="mixed-metrics", severities=(Severity.INFO,))
def mixed_metrics(measured: "Reading", limits: Limits) -> Verdict:
    """Runs beside this one have another metric, or another mode.

    ## What it means
    The folder, or the sweep, has records whose score is of another metric than this run's, or which take the smallest
    value of it for the best where this one takes the largest. They are no part of the curve.

    ## Why it matters
    Their scores cannot be compared. If they are meant to be trials of one sweep, the curve lacks them.

    ## What to do
    Give the same `monitor=` and `mode=` to all runs of a sweep, and different sweeps a name each: `sweep="..."`.

    ## When it is wrong
    Where runs of different kinds share a folder on purpose it says only that they do.
    """
    if not measured.others:
        return None
    words = ", ".join(f"{number} of {name}" for name, number in sorted(measured.others.items()))
    return Diagnosis(
        Severity.INFO,
        None,
        measured.step,
        f"{_many(sum(measured.others.values()), 'run')} beside this one of {measured.metric} ({measured.mode}) "
        f"{'is' if sum(measured.others.values()) == 1 else 'are'} left out of the curve: {words}.",
        "give all runs of one sweep the same monitor= and mode=, and each sweep a name (sweep=).",
        {"left out": sum(measured.others.values()), "trials": measured.total},
    )


@rule(code="EVP804", name="test-set-reused", severities=(Severity.INFO,))
def reused_test_set(measured: "Reading", limits: Limits) -> Verdict:
    """More than one trial of the sweep was evaluated on test data.

    ## What it means
    After training, `trainer.test` was run for more than one trial, or the metric by which trials are compared is one of
    test data by its name.

    ## Why it matters
    Who sees the test score of every trial chooses by it, knowingly or not. The best of n test scores is as optimistic
    as the best of n validation scores, and nothing is left to tell what the chosen model is worth.

    ## What to do
    Choose by validation data, and run `trainer.test` once, with the trial that was chosen.

    ## When it is wrong
    Where test scores are only kept, and nobody looks at them before the choice, nothing is lost.
    """
    by_name = measured.metric.partition("/")[0].lower().startswith("test") and measured.scored > 1
    if measured.tested < 2 and not by_name:
        return None
    what = (
        f"trials are compared by {measured.metric}, a metric of test data by its name"
        if by_name
        else f"{measured.tested} of {measured.total} trials were evaluated on test data"
    )
    return Diagnosis(
        Severity.INFO,
        None,
        measured.step,
        f"{what[0].upper()}{what[1:]}: the best of them is as optimistic as the best of their validation scores.",
        "choose by validation data, and run trainer.test once, with the trial that was chosen.",
        {"tested": measured.tested, "trials": measured.total, "metric": measured.metric},
    )


@rule(code="EVP805", name="best-within-noise", severities=(Severity.INFO,))
def best_within_noise(measured: "Reading", limits: Limits) -> Verdict:
    """The lead of the best trial is smaller than what its validation samples can show.

    ## What it means
    Two trials are compared over the same parts of the same validation data: the mean of the differences, with its 95
    per cent interval (Student's t). Where a run has fewer than ten batches of validation, and the metric is an
    accuracy, Wilson's intervals of both shares are taken instead (Newcombe 1998), as if they were of different samples.
    For the next best trial at least that interval has zero in it.

    ## Why it matters
    On other samples of the same kind another of these trials may well be the best. The more of them there are, the more
    of the best score is luck: measured again on new data, it would be lower.

    ## What to do
    Compare the first few on more validation data, or by several seeds each. Else take the cheapest of them.

    ## When it is wrong
    Samples that depend on one another (frames of one film) make intervals too narrow, so it may be silent where it
    should speak. Where validation data are shuffled, parts of two runs are not of the same samples, and the intervals
    are wider than they have to be. It says nothing of luck in the seeds, of which there is more.
    """
    if measured.scored < measured.needed:
        return None
    known = [(lead, _interval(lead, measured.mode, limits)) for lead in measured.leads]
    within = [(lead, ends) for lead, ends in known if ends is not None and ends[0] <= 0]
    if not within or known[0][1] is None or known[0][1][0] > 0:
        return None
    lead, (low, high) = measured.leads[0], known[0][1]
    behind = "level with it" if lead.by == 0 else f"{lead.by:.4g} behind"
    return Diagnosis(
        Severity.INFO,
        None,
        measured.step,
        f"The best trial ({measured.best}) is not told from {_many(len(within), 'other')} of {measured.scored} by its "
        f"validation samples: the next one ({lead.over}) is {behind} in {measured.metric}, and the samples tell the "
        f"difference as {low:.4g} to {high:.4g} ({limits.confidence:.0%}).",
        "compare these on more data or over several seeds, or take the cheapest.",
        {
            "lead": lead.by,
            "within": len(within),
            "interval low": round(low, 6),
            "interval high": round(high, 6),
            "samples": lead.samples,
        },
    )


def _interval(lead: "Lead", mode: str, limits: Limits) -> tuple[float, float] | None:
    """What the validation samples tell of a lead, an advantage being positive; None if they tell nothing."""
    if lead.paired is not None and len(lead.paired[0]) >= limits.batches:
        one, other, sizes = lead.paired
        _, low, high = paired_difference_interval(one, other, sizes, confidence=limits.confidence)
    elif lead.correct is not None and lead.samples is not None:
        best, second = lead.correct
        low, high = accuracy_difference_interval(best, lead.samples, second, lead.samples, confidence=limits.confidence)
    else:
        return None
    return (-high, -low) if mode == "min" else (low, high)


@rule(code="EVP806", name="mixed-search-spaces", severities=(Severity.INFO,))
def mixed_search_spaces(measured: "Reading", limits: Limits) -> Verdict:
    """The trials of the curve do not have the same hyperparameters.

    ## What it means
    Some trials have names of hyperparameters that others lack, so they may be of different searches. They are in one
    curve all the same.

    ## Why it matters
    The curve says what the best of n draws from one space of settings is worth. Of a mixture of two searches it says
    nothing about either.

    ## What to do
    Give each search a name (`sweep="..."`), or a folder of its own.

    ## When it is wrong
    Where a hyperparameter exists only for some values of another one (the momentum of SGD), it is one space.
    """
    if len(measured.spaces) < 2:
        return None
    words = "; ".join(f"{number} with {name}" for name, number in sorted(measured.spaces.items()))
    return Diagnosis(
        Severity.INFO,
        None,
        measured.step,
        f"The trials do not have the same hyperparameters: {words}.",
        "give each search a name (sweep=) or a folder of its own, unless this is one space with conditions.",
        {"sets": len(measured.spaces), "trials": measured.total},
    )


@rule(code="EVP807", name="non-random-search", severities=(Severity.INFO,))
def non_random_search(measured: "Reading", limits: Limits) -> Verdict:
    """The trials are not independent draws, as the curve takes them to be.

    ## What it means
    The search that proposed them learns from earlier trials (TPE, Gaussian processes), goes through a grid, or stops
    trials that begin badly (pruning, or a person who interrupts a run).

    ## Why it matters
    The expected best of n is about n random draws. A search that learns puts its good trials last, and a grid has each
    value as often as it was written down: shuffled, neither is what n trials of it would give. Where trials are pruned,
    those that are left were chosen by how they began.

    ## What to do
    Read the curve as that of a random search over the settings that were tried, or compare searches by running each
    several times. A random search with as many trials gives a curve that means what it says.

    ## When it is wrong
    All combinations of a few values are taken for a grid, even if a random search happened to draw each once.
    """
    if not measured.searches or measured.scored < measured.needed:
        return None
    found = ", ".join(each for each in measured.searches if each != "random")
    return Diagnosis(
        Severity.INFO,
        None,
        measured.step,
        f"The search was not random ({found}), and the curve takes trials for independent draws.",
        "read the curve with care, or run a random search for one that means what it says.",
        {"search": found, "trials": measured.total},
    )


@rule(code="EVP901", name="unrecorded-trial", severities=(Severity.INFO,))
def unrecorded_trial(measured: object, limits: Limits) -> Verdict:
    """This run is not recorded as a trial, or not all of it is.

    ## What it means
    No callback says which metric the score is of, nothing was logged under that name, the run has no folder to keep its
    record in, or the record could not be written or read.

    ## Why it matters
    The run is missing from the curve of its sweep, which looks cheaper than it was.

    ## What to do
    The message says which it is. Name the metric, `ExpectedValidationPerformance(monitor="val_loss")`, give the Trainer
    a logger, or the callback a folder.

    ## When it is wrong
    Where no sweep is meant it can be ignored.
    """
    return None


def _names(names: tuple[str, ...]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def _many(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


RULES = (
    lost_trials,
    too_few_trials,
    failed_trials,
    mixed_metrics,
    reused_test_set,
    best_within_noise,
    mixed_search_spaces,
    non_random_search,
    unrecorded_trial,
)
"""All rules of this room, the note of blindness last."""
