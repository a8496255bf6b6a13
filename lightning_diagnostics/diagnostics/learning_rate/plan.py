"""What the learning rate is multiplied with at each step: arguments and the ends of a run in, factors out. No torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from lightning_diagnostics.callback.trainer import STEPS, Axis
from lightning_diagnostics.statistics import (
    CooldownShape,
    WarmupShape,
    cooldown_factor,
    untuned_warmup_steps,
    warmup_factor,
)

Preset = Literal["wsd", "linear_to_zero", "trapezoid"]

REST = "rest"
"""A cooldown that begins where the warmup ends."""

PRESETS: Mapping[str, tuple[Any, CooldownShape]] = MappingProxyType(
    {"wsd": (0.2, "1-sqrt"), "linear_to_zero": (REST, "linear"), "trapezoid": (0.2, "linear")}
)
"""Cooldown and its shape: Haegele et al. (2024), Bergsma et al. (2025), and Zhai et al. (2022)."""

BY_TIME = "max_time"
"""The source of an end that is reckoned from time."""

_CAP = 10  # the automatic warmup takes a tenth of the run at the most


@dataclass(frozen=True)
class Wish:
    """What was asked for.

    Attributes:
        warmup: Steps, a fraction of the run, ``"auto"``, or None.
        warmup_shape: How it rises.
        cooldown: Steps, a fraction of the run, `REST`, or None.
        cooldown_shape: How it falls.
        floor: The factor that it falls to.
    """

    warmup: int | float | Literal["auto"] | None
    warmup_shape: WarmupShape
    cooldown: int | float | Literal["rest"] | None
    cooldown_shape: CooldownShape
    floor: float

    @property
    def acts(self) -> bool:
        """Whether anything was asked for."""
        return bool(self.warmup or self.cooldown)


@dataclass(frozen=True)
class Started:
    """A cooldown that was begun by hand.

    Attributes:
        at: Where, on the first axis.
        length: How long it takes.
    """

    at: int
    length: int


@dataclass(frozen=True)
class Curve:
    """The factor over the run, for the groups of optimizers that have the same automatic warmup.

    Attributes:
        wish: What was asked for.
        own: Length of the warmup in steps of the optimizer itself; None if it has none in these.
        shared: Lengths of the warmup on axes of the run: the place of the axis, and the length.
        falls: Cooldowns: the place of the axis, where it begins, and how long it takes.
    """

    wish: Wish
    own: float | None
    shared: tuple[tuple[int, float], ...]
    falls: tuple[tuple[int, float, float], ...]

    def factor(self, own: int, places: Sequence[float]) -> float:
        """What a learning rate is multiplied with.

        A warmup may be bounded in several ways, by steps of the optimizer and by a share of the run: the one that is
        further on holds. Of several ends of the run, the nearest does.

        Args:
            own: Steps that the optimizer itself has made.
            places: How far the run is, on each axis.
        """
        shape = self.wish.warmup_shape
        rising = 1.0 if self.own is None and not self.shared else 0.0
        if self.own is not None:
            rising = warmup_factor(own, self.own, shape=shape)
        for axis, length in self.shared:
            if rising < 1:
                rising = max(rising, warmup_factor(places[axis], length, shape=shape))
        falling = 1.0
        for axis, begins, length in self.falls:
            if places[axis] > begins:
                progress = (places[axis] - begins) / length
                cooled = cooldown_factor(progress, shape=self.wish.cooldown_shape, floor=self.wish.floor)
                falling = min(falling, cooled)
        return rising * falling


@dataclass(frozen=True)
class Plan:
    """The factors of one run.

    Attributes:
        wish: What was asked for.
        axes: The ways in which the run is counted, with their ends; the first is that of lengths in steps.
        started: The cooldown that was begun by hand; of it and the one at the end, the one that is further on holds.
        late: Whether the end was not known yet when the first step was made: then no share of the run bounds the
            warmup, which would jump.
    """

    wish: Wish
    axes: tuple[Axis, ...]
    started: Started | None = None
    late: bool = False

    @property
    def main(self) -> Axis:
        """The way of counting that tells of the end; the first if none does."""
        return next((axis for axis in self.axes if axis.end < math.inf), self.axes[0])

    def warmup_steps(self, axis: Axis, beta2: float | None) -> float:
        """Length of the warmup on an axis; 0 for none.

        Args:
            axis: One of the run's.
            beta2: The decay rate of the optimizer's average of squared gradients; None if it has none.
        """
        lengths = (self._own(beta2), self._share(axis, beta2))
        return min((length for length in lengths if length is not None), default=0)

    def cooldown_steps(self, axis: Axis, beta2: float | None) -> float:
        """Length of the cooldown at the end of an axis, which begins after the warmup; 0 for none."""
        before = 0 if self.late else self.warmup_steps(axis, beta2)  # which was made without knowing of the end
        return max(0, min(self.cooldown_wanted(axis, beta2), axis.end - before))

    def cooldown_wanted(self, axis: Axis, beta2: float | None) -> float:
        """Length of the cooldown that was asked for, whether it fits or not."""
        wanted = self.wish.cooldown
        if not wanted or axis.end == math.inf:
            return 0
        if wanted == REST:
            return axis.end - self.warmup_steps(axis, beta2)
        return round(wanted * axis.end) if isinstance(wanted, float) else int(wanted)

    def curve(self, beta2: float | None) -> Curve:
        """The factor over the run.

        Args:
            beta2: The decay rate of the optimizer's average of squared gradients; None if it has none.
        """
        lengths = [(place, self._share(axis, beta2)) for place, axis in enumerate(self.axes)]
        shared = tuple((place, length) for place, length in lengths if length is not None)
        cooled = [(place, axis.end, self.cooldown_steps(axis, beta2)) for place, axis in enumerate(self.axes)]
        falls = tuple((place, end - length, length) for place, end, length in cooled if length)
        if self.started is not None:  # the other goes on, should it have begun: the rate does not rise again
            falls = (*falls, (0, self.started.at, self.started.length))
        return Curve(self.wish, self._own(beta2), shared, falls)

    def ahead(self, beta2: float | None) -> Curve:
        """The factor over the first axis alone, as far as it is known now."""
        return replace(self, axes=self.axes[:1]).curve(beta2)

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"wish": asdict(self.wish), "axes": [asdict(axis) for axis in self.axes], "late": self.late}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], started: Started | None) -> "Plan":
        """The plan of a checkpoint."""
        return cls(Wish(**plain["wish"]), tuple(Axis(**axis) for axis in plain["axes"]), started, plain["late"])

    def _own(self, beta2: float | None) -> float | None:
        """Length of the warmup in steps of the optimizer itself."""
        wanted = self.wish.warmup
        if wanted == "auto":
            return None if beta2 is None else untuned_warmup_steps(beta2)
        return wanted if isinstance(wanted, int) and wanted else None

    def _share(self, axis: Axis, beta2: float | None) -> float | None:
        """Length of the warmup as a share of the run; of time, which tells little of steps at first, there is none."""
        wanted = self.wish.warmup
        if axis.end == math.inf or axis.source == BY_TIME or self.late:
            return None
        if wanted == "auto":
            return None if beta2 is None else axis.end // _CAP
        return round(wanted * axis.end) if isinstance(wanted, float) else None


def described(plan: Plan, beta2: float | None, *, timed: bool = False) -> str:
    """A plan in words.

    Args:
        plan: The plan.
        beta2: The decay rate of the optimizer's average of squared gradients; None if it has none.
        timed: Whether the time of the run is limited.
    """
    axis, asked = plan.main, plan.wish
    length = plan.warmup_steps(axis, beta2)
    if length:
        own = isinstance(asked.warmup, int) and axis.unit != STEPS
        rise = f"{asked.warmup_shape} warmup over {length:.0f} {'steps of each optimizer' if own else axis.unit}"
        if asked.warmup == "auto":
            capped = length < untuned_warmup_steps(beta2) if beta2 is not None else False
            rise += " (a tenth of the run)" if capped else f" (2 / (1 - beta2) of {beta2}, Ma & Yarats 2021)"
    elif asked.warmup == "auto" and beta2 is None:
        rise = "no automatic warmup, which is Adam's (give steps)"
    elif isinstance(asked.warmup, float) and axis.end == math.inf:
        rise = f"no warmup (of {asked.warmup:g} of a run whose steps are not known: give steps)"
    else:
        rise = "no warmup"
    if plan.started is not None:
        first, steps = plan.started.at, plan.started.length
        return f"{rise}, {asked.cooldown_shape} cooldown from {first} over {steps} {plan.axes[0].unit}, begun by hand"
    cooled = plan.cooldown_steps(axis, beta2)
    if cooled:
        fall = f"{asked.cooldown_shape} cooldown from {axis.end - cooled:.0f} to {axis.end:.0f} by {axis.source}"
        return f"{rise}, {fall}" + (f" to {asked.floor:g}" if asked.floor else "") + (" or max_time" if timed else "")
    if asked.cooldown and timed:
        return f"{rise}, {asked.cooldown_shape} cooldown over the last {asked.cooldown} of max_time"
    if asked.cooldown and axis.end == math.inf:
        return f"{rise}, no cooldown as the end of the run is not known"
    return f"{rise}, no cooldown"


def wish(
    warmup: object, warmup_shape: object, cooldown: object, cooldown_shape: object, floor: object, preset: object
) -> Wish:
    """Check the arguments.

    Raises:
        TypeError: if one is of the wrong kind.
        ValueError: if a value is not allowed, or a preset is given along with what it stands for.
    """
    length("warmup", warmup, words=("auto",), most="less than 1")
    length("cooldown", cooldown, words=(), most="1 or less")
    shape("warmup_shape", warmup_shape, get_args(WarmupShape))
    shape("cooldown_shape", cooldown_shape, get_args(CooldownShape))
    if isinstance(floor, bool) or not isinstance(floor, int | float):
        raise TypeError(f"floor={floor!r}: expected a number from 0 to 1")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor={floor!r}: allowed is 0 to 1")
    if preset is not None:
        shape("preset", preset, (*get_args(Preset), None))
        if cooldown not in (DEFAULTS["cooldown"], None) or cooldown_shape != DEFAULTS["cooldown_shape"]:
            raise ValueError(
                f"preset={preset!r} with cooldown={cooldown!r} and cooldown_shape={cooldown_shape!r}: "
                "a preset sets these two; give the one or the others"
            )
        cooldown, cooldown_shape = PRESETS[str(preset)]
    if isinstance(warmup, float) and isinstance(cooldown, float) and warmup + cooldown > 1:
        raise ValueError(f"warmup={warmup!r} and cooldown={cooldown!r}: allowed are together at most 1, the whole run")
    warmup, cooldown = _plain(warmup), _plain(cooldown)
    return Wish(warmup, warmup_shape, cooldown, cooldown_shape, float(floor))  # pyright: ignore[reportArgumentType]  # checked above


DEFAULTS: Mapping[str, Any] = MappingProxyType({"cooldown": 0.2, "cooldown_shape": "1-sqrt"})


def _plain(value: Any) -> Any:
    """A number of Python's own, which a checkpoint may hold; numpy's are derived from it."""
    return float(value) if isinstance(value, float) else int(value) if isinstance(value, int) else value


def length(name: str, value: object, *, words: tuple[str, ...], most: str) -> None:
    """Check a length: whole steps, or a fraction of the run.

    Raises:
        TypeError: if it is of the wrong kind.
        ValueError: if it is not allowed.
    """
    allowed = ", ".join(
        [f"a whole number of steps, a fraction of the run (more than 0, {most})", *map(repr, words), "None"]
    )
    if value is None or (isinstance(value, str) and value in words):
        return
    if isinstance(value, str):
        raise ValueError(f"{name}={value!r}: allowed are {allowed}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={value!r}: expected {allowed}")
    fits = value < 1 or (value == 1 and most != "less than 1")
    if value < 0 or (isinstance(value, float) and not (value > 0 and fits)):
        raise ValueError(f"{name}={value!r}: allowed are {allowed}")


def shape(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Check a word.

    Raises:
        ValueError: if it is not known.
    """
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: allowed are {', '.join(map(repr, allowed))}")
