"""The course of a run's validations: the numbers of each that are drawn, and what the rules are asked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from lightning_diagnostics.callback.directions import Direction, direction
from lightning_diagnostics.diagnostics.generalization_gap import directions, measure
from lightning_diagnostics.diagnostics.generalization_gap.baseline import Constant
from lightning_diagnostics.diagnostics.generalization_gap.history import Moment, Streak, Watched
from lightning_diagnostics.diagnostics.generalization_gap.measure import MetricGap
from lightning_diagnostics.diagnostics.generalization_gap.rules import (
    Limits,
    gap_within_noise,
    mode_gap,
    overconfident,
    overfitting,
    standing,
    underfitting,
    validation_too_good,
)
from lightning_diagnostics.diagnostics.generalization_gap.scoring import Score
from lightning_diagnostics.findings import Rule, TooEarly

Kind = Literal["share", "cross entropy", "squared error"]


@dataclass(frozen=True)
class Settings:
    """How overfitting is looked for.

    Attributes:
        monitor: The metric; None for the validation loss of each loader.
        directions: Which way metrics are better, as the user has said.
        criterion: When it is declared.
        patience: Validations without a better one.
        minimum: What counts as better, as a share of the best.
        strip: Validations in one of Prechelt's strips.
    """

    monitor: str | None
    directions: Mapping[str, str]
    criterion: Literal["patience", "GL", "PQ", "UP"]
    patience: int
    minimum: float
    strip: int


@dataclass(frozen=True)
class Around:
    """What is known of one validation beside its scores.

    Attributes:
        step: At which it was.
        watched: What callbacks watch, and which way.
        constant: What a constant predictor comes to.
        augments: Whether training samples are not the same each time.
        differ: Whether the two modes come to different numbers.
    """

    step: int
    watched: Mapping[str, str]
    constant: Constant
    augments: bool
    differ: bool


@dataclass(frozen=True)
class Question:
    """What one rule is asked.

    Attributes:
        rule: The rule.
        where: The metric that it is asked about.
        measured: The numbers; None if there is nothing to ask, and a finding is to be taken back.
        lasting: Whether a finding stays although the rule does not hold just now.
    """

    rule: Rule
    where: str
    measured: object | None
    lasting: bool = False


class Course:
    """What is remembered of the validations of a run.

    Args:
        settings: How overfitting is looked for.
        limits: Of the room.
    """

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._settings, self._limits = settings, limits
        self.validations = 0
        self.widths: dict[str, float | None] = {}
        """Half the width of the interval of each validation metric."""
        self.samples: dict[str, int] = {}
        """How many samples each is of."""
        self._watched: dict[str, Watched] = {}
        self._streaks: dict[str, Streak] = {}  # by rule and metric
        self._before: dict[str, tuple[float | None, float]] = {}  # training and validation at the one before
        self._first_losses: dict[str, float] = {}  # the first of the training batches, of each loss
        self._no_shares: set[str] = set()  # metrics that were no share of samples at some validation
        self._of_another_kind: set[str] = set()  # losses that were far above that of a constant predictor
        self._told: dict[str, Direction | None] = {}

    def add(self, scores: list[Score], around: Around) -> list[MetricGap]:
        """One more validation; gives what is drawn of it."""
        self.validations += 1
        said = self._settings.directions
        self._told = {
            each.name: direction(each.name, told=said, watched=around.watched, metric=each.metric) for each in scores
        }
        self._no_shares |= {each.name for each in scores if not self._is_share(each)}
        return [self._gap(each, around) for each in scores]

    def _gap(self, score: Score, around: Around) -> MetricGap:
        training, validation, direction = score.training, score.validation, self._told[score.name]
        share, sign = self._is_share(score), -1.0 if direction == "max" else 1.0
        gap, band = None, None
        if training is not None:
            gap = sign * (validation.value - training.value)
            band = measure.difference(*_apart(score, direction), share=share)
        mode = None if around.differ or training is None else 0.0
        if score.modes is not None:
            mode = sign * (score.modes[1].value - score.modes[0].value)
        twin, before = None if training is None else training.value, self._before.get(score.name)
        self._before[score.name] = (twin, validation.value)
        self.samples[score.name] = validation.samples
        self.widths[score.name] = measure.resolution(validation, share=share)
        return MetricGap(
            layer=score.name,
            training=twin,
            validation=validation.value,
            gap=gap,
            gap_low=None if band is None else band.low,
            gap_high=None if band is None else band.high,
            mode=mode,
            training_change=None if twin is None or before is None or before[0] is None else twin - before[0],
            validation_change=None if before is None else validation.value - before[1],
        )

    def _is_share(self, score: Score) -> bool:
        """Whether a metric has been a share of samples at every validation so far."""
        if "loss" in score.name.lower() or score.name in self._no_shares:
            return False
        return score.validation.correct is not None and (score.training is None or score.training.correct is not None)

    def questions(self, scores: list[Score], around: Around) -> Iterator[Question]:
        """What the rules are asked about the validation that was added last."""
        yield from self._onsets({each.name: each for each in scores}, around)
        for score in scores:
            if score.training is not None and self._told[score.name] is not None:
                yield from self._of_gap(score, around)
            if score.modes is not None and score.name in self._watched and self._told[score.name] == "min":
                yield self._of_modes(score, around)
        yield from self._of_baselines(scores, around)

    def _onsets(self, scores: dict[str, Score], around: Around) -> Iterator[Question]:
        for name in self._followed(around):
            large = self._told[name] == "max"
            partner = None if large else directions.partner(name, self._told, around.watched)
            score, other = scores[name], scores.get(partner or "")
            curve = self._watched.setdefault(name, self._curve(name))
            training = score.training
            beside = (None, None) if other is None else (other.name, other.validation)
            best = curve.add(
                Moment(around.step, score.validation, None if training is None else training.value, *beside),
                None if other is None else self._told[other.name],
                samples=0 if training is None else training.samples,
            )
            share = other is not None and self._is_share(other)
            onset = None if best else curve.onset(share=share, fewest=self._limits.batches)
            for rule in (overfitting, overconfident):
                yield Question(rule, name, onset, lasting=not best)

    def _followed(self, around: Around) -> list[str]:
        """The metrics whose onset of overfitting is looked for."""
        return directions.losses(self._told, self._settings.monitor, around.watched)

    def unknown(self) -> str | None:
        """What is wrong with the metric that the user has named; None if nothing is."""
        monitor = self._settings.monitor
        named = [name for name in self._told if directions.is_named(name, monitor)]
        if monitor is None or not self._told or any(self._told[name] for name in named):
            return None
        if named:
            return f"whether {monitor} shall be small or large is not known: directions={{{monitor!r}: 'min'}} says it"
        return f"no validation metric is called {monitor!r}: there are {', '.join(map(repr, self._told))}"

    def _curve(self, name: str) -> Watched:
        how, large = self._settings, self._told.get(name) == "max"
        return Watched(name, how.patience, how.minimum, how.criterion, how.strip, large)

    def _of_gap(self, score: Score, around: Around) -> Iterator[Question]:
        training, validation, name = score.training, score.validation, score.name
        assert training is not None
        share, apart = self._is_share(score), _apart(score, self._told[name])
        sure = measure.difference(*apart, share=share, confidence=self._limits.good_confidence)
        good = sure is not None and sure.high < 0 and not around.augments
        streak = self._streak(validation_too_good, name, good, around)
        if sure is not None:
            advantage = measure.Advantage(
                name,
                streak.since,
                streak.count,
                training.value,
                validation.value,
                share,
                sure.high,
                self._limits.good_confidence,
                training.samples,
                validation.samples,
            )
            lasting = streak.missed < self._limits.good_validations
            yield Question(validation_too_good, name, advantage, lasting)
        band = measure.difference(*apart, share=share)
        streak = self._streak(gap_within_noise, name, band is not None and band.low <= 0 <= band.high, around)
        if band is not None and name in self._watched:
            gap, half = abs(validation.value - training.value), (band.high - band.low) / 2
            noise = measure.Noise(name, streak.since, streak.count, gap, half, training.samples, validation.samples)
            yield Question(gap_within_noise, name, noise, streak.missed < self._limits.noise_validations)

    def _of_modes(self, score: Score, around: Around) -> Question:
        assert score.modes is not None
        in_training, in_evaluation = score.modes
        first = self._first_losses.setdefault(score.name, in_training.value)
        more, limits = in_evaluation.value - in_training.value, self._limits
        much = more > limits.mode_excess * abs(in_training.value) and more > limits.mode_least * abs(first)
        streak = self._streak(mode_gap, score.name, much, around)
        band = measure.rise(in_evaluation.series, in_training.series, fewest=2)
        measured = measure.ModeGap(
            score.name,
            streak.since,
            streak.count,
            in_training.value,
            in_evaluation.value,
            len(in_evaluation.series.means) if in_evaluation.series is not None else 0,
            None if band is None else band.low,
            around.step - streak.since if streak.count else 0,
        )
        return Question(mode_gap, score.name, measured, streak.missed < self._limits.mode_validations)

    def _of_baselines(self, scores: list[Score], around: Around) -> Iterator[Question]:
        found: list[measure.Baseline] = []
        for score in scores:
            is_loss, share = score.name in self._watched, self._is_share(score)
            kind, number = _constant_of(score.name, around.constant, is_loss=is_loss, share=share)
            if score.training is not None and not score.loader and kind is not None and number is not None:
                found.append(measure.Baseline(score.name, -1, 0, around.step, kind, score.training.value, number))
        stands = [standing(each, self._limits) for each in found]
        agreed = any(stand == "equal" and each.kind != "share" for each, stand in zip(found, stands, strict=True))
        found = [replace(each, agreed=agreed) for each in found]
        stands = [standing(each, self._limits) for each in found]
        for one, stand in zip(found, stands, strict=True):
            if stand == "another kind" and one.kind != "share":
                self._of_another_kind.add(one.metric)
            alike = stand == "equal" and "better" not in stands and one.metric not in self._of_another_kind
            streak = self._streak(underfitting, one.metric, alike, around)
            measured = replace(one, step=streak.since, validations=streak.count) if alike else None
            yield Question(underfitting, one.metric, measured)

    def _streak(self, rule: Rule, where: str, holds: bool, around: Around) -> Streak:
        streak = self._streaks.setdefault(f"{rule.code} {where}", Streak())
        streak.update(holds, step=around.step)
        return streak

    def undecided(self) -> list[str]:
        """What it was too early to say, where the validation loss is above its best."""
        said: list[str] = []
        for each in self._watched.values():
            onset = each.onset(share=False, fewest=self._limits.batches)
            risen = onset is not None and onset.now - onset.best > self._limits.rise * abs(onset.best)
            verdict = overfitting.check(onset, self._limits) if risen else None
            if isinstance(verdict, TooEarly):
                said.append(f"overfitting of {each.metric}: {verdict.have} of the {verdict.need} validations needed")
        return said

    def plain(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        return {
            "watched": {name: each.plain() for name, each in self._watched.items()},
            "streaks": {key: [each.count, each.since, each.missed] for key, each in self._streaks.items()},
            "validations": self.validations,
            "before": {name: list(each) for name, each in self._before.items()},
            "first_losses": dict(self._first_losses),
            "no_shares": sorted(self._no_shares),
            "of_another_kind": sorted(self._of_another_kind),
        }

    def load(self, plain: Mapping[str, Any]) -> None:
        """Take up what `plain` wrote."""
        self._watched = {name: self._curve(name) for name in plain["watched"]}
        for name, curve in self._watched.items():
            curve.load(plain["watched"][name])
        self._streaks = {key: Streak(*each) for key, each in plain["streaks"].items()}
        self.validations = plain["validations"]
        self._before = {name: (training, validation) for name, (training, validation) in plain["before"].items()}
        self._first_losses, self._no_shares = dict(plain["first_losses"]), set(plain["no_shares"])
        self._of_another_kind = set(plain["of_another_kind"])


def _apart(score: Score, direction: Direction | None) -> tuple[measure.Value, measure.Value]:
    """The metric of the two sets, the one first from which the other is subtracted for the gap."""
    assert score.training is not None
    return (score.training, score.validation) if direction == "max" else (score.validation, score.training)


def _constant_of(name: str, best: Constant, *, is_loss: bool, share: bool) -> tuple[Kind | None, float | None]:
    """What of a constant predictor a metric is compared with, and its number."""
    words = name.lower()
    if share and "acc" in words:
        return "share", best.share
    if "mse" in words:
        return "squared error", best.squared_error
    if is_loss and "loss" in words:
        if best.cross_entropy is not None:
            return "cross entropy", best.cross_entropy
        return "squared error", best.squared_error
    return None, None
