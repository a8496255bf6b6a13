"""A run that keeps the record of itself."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from lightning_diagnostics.diagnostics.expected_performance import alive, records
from lightning_diagnostics.diagnostics.expected_performance.batches import Batches
from lightning_diagnostics.diagnostics.expected_performance.trials import Mode, Status, Trial

BEAT = 60.0
"""Seconds between two signs of life, unless a batch takes longer."""


class Recording:
    """The record of one run: what is in it, and when it is written.

    It is written when the run begins, at each new best score, at least every `BEAT` seconds while batches go by, and
    when the run is over. It holds no tensor and no object of the run.
    """

    def __init__(self, metric: str, mode: Mode) -> None:
        self.trial = Trial(uuid.uuid4().hex, metric, mode, started=_now())
        self.is_on = False
        self._folder: str | None = None
        self._carried = 0.0  # seconds of training before this process, or before this fit
        self._began = 0.0
        self._is_unsaved = False
        self._written = 0.0  # of the clock that only goes forward

    def take_up(self, plain: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        """Go on with the record of a checkpoint, if it is that of this very trial.

        Many trials may start from one checkpoint: these have other hyperparameters, another seed, or another place in
        the sweep, and are trials of their own. Those that are alike in all of that are told apart when they are read.
        """
        try:
            before = Trial.from_dict(plain)
        except ValueError:  # there is none, or one of a version that kept something else
            return
        if any(getattr(before, name) != value for name, value in identity.items()):
            return
        own, self._carried = self.trial, before.seconds
        self.trial = replace(before, status="running", reason="", resumed_step=before.last_step or 0)
        if self.is_on:  # it has begun as another
            now = {name: getattr(own, name) for name in ("sweep_from", "search", "devices")}
            self.trial = replace(self.trial, **now, **alive.here())
            self._write()
            if self._folder is not None:
                records.remove(own, self._folder)

    def begin(self, folder: str | None, **facts: Any) -> None:
        """The run begins, or goes on in another fit.

        Args:
            folder: That of the run; None in processes that do not write.
            facts: What is known of it, by the names of `Trial`.

        Raises:
            OSError: if the record cannot be written.
        """
        self.is_on, self._folder, self._began = True, folder, time.monotonic()
        self._written = self._began
        self.trial = replace(self.trial, status="running", reason="", **facts, **alive.here())
        self._write()

    def know(self, **facts: Any) -> None:
        """More is known of it; it is written with the next sign of life."""
        self.trial = replace(self.trial, **facts)

    def read(self, value: float, step: int, *, samples: int | None, batches: Batches | None) -> None:
        """The metric has a new value.

        Args:
            value: Of the metric.
            step: The training step.
            samples: Behind the value.
            batches: What is known of its parts.
        """
        self.trial = replace(self.trial, readings=self.trial.readings + 1, last_step=step)
        if self.trial.better(value):
            means, sizes = ([], []) if batches is None else batches.read()
            more = {"validation_samples": samples, "batch_means": means, "batch_sizes": sizes}
            self.trial = replace(self.trial, score=value, score_step=step, **more)
            self._write()

    def beat(self) -> None:
        """The run lives. Costs a look at the clock, unless it is time to say so."""
        if self.is_on and time.monotonic() - self._written >= BEAT:
            self._write()

    def end(self, status: Status, reason: str = "") -> None:
        """The run is over. Once more, if it could not be written."""
        if self.is_on:
            self.trial = replace(self.trial, status=status, reason=reason)
            try:
                self._write()
            finally:
                self.is_on, self._carried = False, self.trial.seconds
        elif self._is_unsaved:
            self._write()

    def give_up(self) -> None:
        """Nobody goes on with the record: let the run have no score, lest it be taken for one that was killed."""
        if self.is_on:
            self.trial = replace(self.trial, score=None, score_step=None, readings=0)
            self.end("completed", "the recording broke off")

    def tested(self) -> None:
        """The run was evaluated on test data."""
        self.trial = replace(self.trial, tests=self.trial.tests + 1)
        if self._folder is not None:
            records.write(self.trial, self._folder)

    def state(self) -> dict[str, Any]:
        """What a checkpoint has of it: the record as it stands, as if it were written now."""
        return replace(self.trial, seconds=self._seconds()).to_dict()

    def _seconds(self) -> float:
        return self._carried + (time.monotonic() - self._began if self.is_on else 0.0)

    def _write(self) -> None:
        now = time.monotonic()
        silence = max(self.trial.silence, now - self._written)
        self._written = now
        self.trial = replace(self.trial, seconds=self._seconds(), beat=time.time(), silence=silence)
        self._is_unsaved = True
        if self._folder is not None:
            records.write(self.trial, self._folder)
        self._is_unsaved = False


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
