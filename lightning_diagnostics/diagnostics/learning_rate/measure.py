"""What is measured of learning rates: plain numbers, each with its tag, unit and how it is computed."""

from dataclasses import dataclass, field

from lightning_diagnostics.tensorboard import Image, Text, quantity

_CHART = "learning rate: {layer}"


@dataclass(frozen=True)
class Used:
    """The rate of one group of an optimizer's parameters, in one step.

    Attributes:
        layer: The name of the group, as Lightning's ``LearningRateMonitor`` has it, without ``lr-``.
        rate: With which the step was made.
        factor: What the program's own rate was multiplied with; None if nothing was asked for.
    """

    layer: str
    rate: float = quantity(
        tag="learning_rate/used/{layer}",
        unit="learning rate",
        how="the rate with which the optimizer made this step: the program's own, as its schedulers set it, times the "
        "factor of warmup and cooldown",
        chart=_CHART,
    )
    factor: float | None = quantity(
        tag="learning_rate/factor/{layer}",
        unit="factor",
        how="what the program's own rate was multiplied with at this step (Ma & Yarats 2021 for the length of an "
        "automatic warmup, Haegele et al. 2024 for the shape 1-sqrt)",
        chart="factor of warmup and cooldown",
    )


@dataclass(frozen=True)
class Planned:
    """The rate that is planned for one group, drawn before the first step.

    Attributes:
        layer: The name of the group.
        rate: At one step.
    """

    layer: str
    rate: float = quantity(
        tag="learning_rate/planned/{layer}",
        unit="learning rate",
        how="what the rate will be at this step: the program's schedulers, stepped ahead on a copy, times the factor "
        "of warmup and cooldown; what waits for a metric is taken to leave the rate as it is",
        chart=_CHART,
    )


@dataclass(frozen=True)
class RangeTest:
    """The learning-rate range test of Lightning's ``LearningRateFinder``, at one of its steps.

    Attributes:
        loss: Its loss.
        rate: Its rate.
        picture: Loss over rate, as Lightning draws it.
        summary: What came of it.
    """

    loss: float | None = quantity(
        tag="learning_rate/range_test/loss",
        unit="loss",
        how="smoothed loss of the range test (Smith 2017) at its step, as Lightning's LearningRateFinder gives it",
        chart="learning-rate range test: loss",
    )
    rate: float | None = quantity(
        tag="learning_rate/range_test/rate",
        unit="learning rate",
        how="learning rate of the range test at its step",
        chart="learning-rate range test: rate",
    )
    picture: Image | None = quantity(
        tag="learning_rate/range_test",
        unit="loss over learning rate",
        how="plot of Lightning's LearningRateFinder, with its suggestion; where matplotlib is installed",
    )
    summary: Text | None = quantity(
        tag="learning_rate/range_test/summary",
        unit="words",
        how="range of the test and the rate that Lightning's LearningRateFinder suggests: where the loss falls fastest",
    )


@dataclass(frozen=True)
class Course:
    """The planned rate of one optimizer over the run: of its group with the highest.

    Attributes:
        optimizer: Its name.
        steps: Some steps, evenly spread, from the first of the run to its last.
        rates: At each of them.
        total: Steps of the run.
        cause: What its rates are made of.
    """

    optimizer: str
    steps: tuple[int, ...]
    rates: tuple[float, ...]
    total: int
    cause: str = "its schedule"


@dataclass(frozen=True)
class SchedulerPlan:
    """How far one scheduler will come.

    Attributes:
        name: Of its class.
        optimizer: The name of its optimizer.
        interval: ``"step"`` or ``"epoch"``: after what Lightning steps it.
        length: Its own steps after which it is through; None if it has no such length.
        whole: Whether that is by its nature the length of a run.
        periodic: Whether it rises again beyond that.
        calls: How often it will have been stepped when the run ends.
        steps: Optimizer steps of the run.
        batches: Training batches of the run.
        epochs: Epochs of the run.
        raises_at: The optimizer step after which it raises an error; None if it does not.
        error: What it says.
        open_ended: Whether the run may well end before (early stopping, a limit of time).
    """

    name: str
    optimizer: str
    interval: str
    length: int | None
    whole: bool
    periodic: bool
    calls: int
    steps: int
    batches: int
    epochs: int
    raises_at: int | None = None
    error: str = ""
    open_ended: bool = False


@dataclass(frozen=True)
class Fit:
    """Whether warmup and cooldown fit into a run.

    Attributes:
        warmup: Steps of the warmup.
        cooldown: Steps of the cooldown that was asked for.
        total: Steps of the run.
        unit: What is counted.
    """

    warmup: float
    cooldown: float
    total: float
    unit: str = "steps"


@dataclass(frozen=True)
class Stepping:
    """Whether a scheduler that the module steps by itself is stepped at all.

    Attributes:
        name: Of its class.
        optimizer: The name of its optimizer.
        stepped: Whether it has been, in this run.
        steps: Training batches of this run so far, if the optimizer has made a step.
        epochs: Whole epochs of this run so far.
        ended: Whether the run is over.
    """

    name: str
    optimizer: str
    stepped: bool
    steps: int
    epochs: int
    ended: bool = False


@dataclass(frozen=True)
class Spent:
    """A cooldown that was begun by hand and is over.

    Attributes:
        began: The step at which it was begun.
        ended: The step from which on the rate is at its floor.
        step: The step now.
        floor: The factor that is left.
    """

    began: int
    ended: int
    step: int
    floor: float


@dataclass(frozen=True)
class Doubled:
    """What the program's own schedule does where the factor does the same.

    Attributes:
        optimizer: The name of its optimizer.
        warmup: Steps of our warmup.
        cooldown: Steps of our cooldown.
        rise: Own rate at the end of our warmup over that of the first step.
        fall: Own rate at the last step over that at the beginning of our cooldown.
    """

    optimizer: str
    warmup: float
    cooldown: float
    rise: float
    fall: float


@dataclass(frozen=True)
class Endless:
    """A run whose end nobody knows.

    Attributes:
        cooldown: The cooldown that was asked for.
        warmup: The warmup, if it was asked for as a fraction of the run.
        later: Whether it will be known when the first epoch has ended, the loader having no length.
    """

    cooldown: str
    warmup: str
    later: bool


@dataclass(frozen=True)
class Changed:
    """A resumed run whose plan is another one than that of its checkpoint.

    Attributes:
        step: Where it goes on.
        before: The factor that the old plan has there.
        now: The factor that the new plan has there.
        old: The old plan in words.
        new: The new plan in words.
    """

    step: int
    before: float
    now: float
    old: str = field(default="")
    new: str = field(default="")
