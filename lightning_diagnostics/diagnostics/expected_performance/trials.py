"""One run of a sweep, as its record tells it."""

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

VERSION = 1
"""The version of the record's form."""

Mode = Literal["min", "max"]
Status = Literal["running", "completed", "failed", "pruned", "lost"]


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        run_id: Its own; a resumed run keeps it.
        metric: The validation metric that its score is of.
        mode: Whether that shall be ``"min"`` or ``"max"``.
        status: ``"running"``, ``"completed"``, ``"failed"``, ``"pruned"``, or, as others see a run that was killed,
            ``"lost"``.
        reason: Why it failed or was pruned; empty if it was not.
        score: The best value of the metric so far; None if there is none that is finite.
        score_step: The training step of that, on the axis of Lightning's ``self.log``.
        readings: How often the metric was read, finite or not.
        last_step: The training step of the last reading; None if there is none.
        resumed_step: That of the checkpoint with which a run went on with this trial; None if none did.
        sweep: What the sweep is called; None if nothing has said so.
        sweep_from: What has said so: ``"sweep="``, ``"environment"``, ``"Optuna"``, ``"Ray"``, ``"W&B"``, ``"Hydra"``,
            ``"SLURM"``, or ``"folder"``.
        number: What the sweep calls this trial; None if that is not known.
        search: How the sweep proposes trials, e.g. ``"random"`` or ``"TPESampler"``; None if that is not known.
        started: When, in ISO 8601 and UTC.
        seconds: Wall time of training, that before a resume included.
        devices: How many trained.
        hyperparameters: By name, as the logger has them.
        seed: Of ``seed_everything``; None if that was not called.
        training_samples: In an epoch; None if unknown.
        validation_samples: Behind the score; None if unknown.
        batch_means: The metric over parts of that validation, at most some thirty; empty if unknown.
        batch_sizes: How many samples each part has.
        tests: How often the run was evaluated on test data.
        beat: When it was last heard of, in seconds since 1970.
        silence: The longest time between two signs of life, in seconds.
        host: The machine it runs on.
        pid: Its process there.
        kernel: Which numbers of processes these are: of which boot and which container.
        born: When the process began, in ticks of that kernel.
        folder: Where the record was read; not in the file itself.
        is_crowded: Whether other trials have their records there, too; not in the file itself.
    """

    run_id: str
    metric: str
    mode: Mode
    status: Status = "running"
    reason: str = ""
    score: float | None = None
    score_step: int | None = None
    readings: int = 0
    last_step: int | None = None
    resumed_step: int | None = None
    sweep: str | None = None
    sweep_from: str = "folder"
    number: str | None = None
    search: str | None = None
    started: str = ""
    seconds: float = 0.0
    devices: int = 1
    hyperparameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seed: int | None = None
    training_samples: int | None = None
    validation_samples: int | None = None
    batch_means: list[float] = field(default_factory=list[float])
    batch_sizes: list[float] = field(default_factory=list[float])
    tests: int = 0
    beat: float = 0.0
    silence: float = 0.0
    host: str = ""
    pid: int = 0
    kernel: str = ""
    born: int = 0
    folder: str = ""
    is_crowded: bool = False

    @property
    def name(self) -> str:
        """What it is called in lists: by the sweep, or by its folder."""
        named = "" if self.is_crowded else os.path.basename(self.folder.rstrip("/"))
        return self.number or named or self.run_id[:8]

    @property
    def diverged(self) -> bool:
        """Whether its metric was read and was never a finite number."""
        return self.score is None and self.readings > 0

    def better(self, value: float) -> bool:
        """Whether a value is finite and better than the best so far."""
        if not math.isfinite(value):
            return False
        return self.score is None or (value > self.score if self.mode == "max" else value < self.score)

    def goes_on_with(self, former: "Trial") -> bool:
        """Whether this record is the former one of the same run, continued or copied.

        It is not where that run had completed, and this one departs from a checkpoint before its end: then several
        runs have departed from one checkpoint, and each is a trial.
        """
        if self.beat == former.beat or self.resumed_step is None:
            return True
        if former.status != "completed" or former.last_step is None:
            return True
        return former.last_step <= self.resumed_step + 1  # the last reading may come after the last checkpoint

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON and for checkpoints."""
        plain = {name: value for name, value in asdict(self).items() if name not in _NOT_KEPT}
        return {"version": VERSION, **plain}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], *, folder: str = "") -> "Trial":
        """The trial that `to_dict` wrote; keys of a later version are passed over.

        Raises:
            ValueError: if it is no such thing.
        """
        names = {each.name for each in fields(cls)} - set(_NOT_KEPT)
        known = {name: value for name, value in plain.items() if name in names}
        for name, (kind, words) in _KINDS.items():
            value = known.get(name)
            if (name in known or name in _NEEDED) and (not isinstance(value, kind) or isinstance(value, bool)):
                raise ValueError(f"{name} is {value!r}: expected {words}")
        for name, allowed in _WORDS.items():
            if known[name] not in allowed:
                raise ValueError(f"{name} is {known[name]!r}: expected one of {', '.join(allowed)}")
        for name, most in _MOST_NUMBERS.items():
            value = known.get(name)
            if value is not None and not abs(value) <= most:
                raise ValueError(f"{name} is {str(value)[:_SHOWN]}: expected a finite number of at most {most:g}")
        for name in ("batch_means", "batch_sizes"):
            if not all(type(each) in (int, float) and abs(each) <= sys.float_info.max for each in known.get(name, ())):
                raise ValueError(f"{name} is {str(known[name])[:_SHOWN]}: expected a list of finite numbers")
        return cls(**{**known, "folder": folder})


_KINDS: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(("run_id", "metric", "mode", "status", "reason", "sweep_from", "host"), (str, "a text")),
    **dict.fromkeys(("started", "kernel"), (str, "a text")),
    **dict.fromkeys(("sweep", "number", "search"), (str | None, "a text or null")),
    **dict.fromkeys(("score",), (int | float | None, "a number or null")),
    **dict.fromkeys(("seconds", "beat", "silence"), (int | float, "a number")),
    **dict.fromkeys(("readings", "devices", "tests", "pid", "born"), (int, "a whole number")),
    **dict.fromkeys(("score_step", "last_step", "resumed_step", "seed"), (int | None, "a whole number or null")),
    **dict.fromkeys(("training_samples", "validation_samples"), (int | None, "a whole number or null")),
    "hyperparameters": (dict, "an object"),
    **dict.fromkeys(("batch_means", "batch_sizes"), (list, "a list of numbers")),
}
_NOT_KEPT = ("folder", "is_crowded")
_NEEDED = ("run_id", "metric", "mode", "status")
_MOST_NUMBERS = {
    "score": sys.float_info.max,
    **dict.fromkeys(("seconds", "beat", "silence", "devices"), 1e12),
    "pid": 2**31 - 1,  # of the kernel's numbers
}
_SHOWN = 40  # letters of a value that is not allowed
_WORDS = {"mode": ("min", "max"), "status": ("running", "completed", "failed", "pruned")}
