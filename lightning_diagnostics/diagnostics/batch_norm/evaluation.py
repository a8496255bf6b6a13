"""One pass through the data of an evaluation: which modules do what is done in training, and the statistics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_diagnostics.diagnostics.batch_norm.measure import Design, Part, WrongMode, together
from lightning_diagnostics.diagnostics.batch_norm.modes import Flip, Modes, versions
from lightning_diagnostics.probes import (
    NoiseCalls,
    NormCalls,
    NormWatch,
    RunningStatistics,
    Statistics,
    by_design,
    kind_of,
    obeys_mode,
    same_statistics,
)

STAGES = {"sanity_check": "sanity check", "validate": "validation", "test": "test", "predict": "prediction"}
"""What an evaluation is called, by Lightning's name of it."""


@dataclass(eq=False)
class Seen:
    """What one batch has shown.

    Attributes:
        norms: Norms that normalised by the batch.
        noises: Dropouts that drew noise.
        designs: Norms that can but normalise by the batch.
    """

    norms: list[WrongMode] = field(default_factory=list[WrongMode])
    noises: list[WrongMode] = field(default_factory=list[WrongMode])
    designs: list[Design] = field(default_factory=list[Design])


@dataclass(frozen=True)
class _Wrong:
    """One module that did what is done in training."""

    path: str
    kind: str
    flip: Flip
    source: str = ""
    moved: bool = False
    mended: bool = False


@dataclass(frozen=True)
class Evaluated:
    """What a process knows of an evaluation when it is over.

    Attributes:
        running: The running statistics that were applied.
        parts: Those of the batches that were looked at.
        rows: How many rows were behind them.
        shifts: How far the last training batches were from the running statistics.
        wrong: Whether a norm was found in training mode, whose statistics have moved then.
    """

    running: dict[str, Statistics]
    parts: dict[str, list[Part]]
    rows: dict[str, int]
    shifts: dict[str, list[tuple[float, float]]]
    wrong: bool


class Evaluation:
    """One pass through the data of an evaluation.

    Args:
        modes: Of the model.
        stage: A value of `STAGES`.
        hook: What its hooks are called after: ``"validation"``, ``"test"`` or ``"predict"``.
        inside: What runs between the start of a batch and its end, in words.
        overridden: Whether the user's module puts itself into evaluation mode.
        watch: What sees the calls; None where they cannot be seen (compiled code).
        broadcast: Whether buffers are broadcast in the first forward pass: then they are written to, and may move.
    """

    def __init__(
        self,
        modes: Modes,
        *,
        stage: str,
        hook: str,
        inside: str,
        overridden: bool,
        watch: NormWatch | None,
        broadcast: bool,
    ) -> None:
        self._broadcast = broadcast
        self.stage, self.hook, self.step_name = stage, hook, f"{hook}_step"
        self._runs = inside
        self.modes, self.watch = modes, watch
        self.parts: dict[str, list[tuple[int, Tensor, Tensor]]] = {}
        self.rows: dict[str, int] = {}
        self.mended: dict[str, Flip] = {}
        self._begins = Flip(f"on_{hook}_model_eval is overridden and leaves it so", "hook")
        if not overridden:
            self._begins = Flip("set before the first batch", "before")
        self._called: set[str] | None = None if watch is None else set()
        self._training: set[str] = set()
        self._versions: dict[str, int] = {}
        self._before: RunningStatistics | None = None
        self._batch = 0
        self._any = False  # whether there has been a batch
        self.close = modes.set_aside()
        """To be called when it is over."""

    # A batch.

    def begin(self, batch_idx: int, *, look: bool) -> None:
        """A batch begins."""
        self._batch = batch_idx
        between = Flip(f"set between batches {batch_idx - 1} and {batch_idx}, by a hook or a callback", "between")
        if not batch_idx:
            between = Flip("set between two loaders, by a hook or a callback", "between")
        self.modes.note(between if self._any else Flip("set before the first batch", "before"))
        self._any = True
        self._training = self.modes.training()
        self._versions = {} if self._broadcast else versions(self.modes.norms)
        self._before = RunningStatistics(self.modes.norms) if look and not (self._broadcast and not batch_idx) else None

    def end(self, batch_idx: int, *, step: int) -> Seen:
        """A batch has ended: what it has shown; one transfer at a look."""
        norms: dict[str, NormCalls] = {}
        noises: dict[str, NoiseCalls] = {}
        if self.watch is not None:
            self.watch.unhook()
            norms, noises = self.watch.norms, self.watch.noises
        self.note_inside()
        moved = self._moved()
        for path, calls in norms.items():
            self._take(path, calls)
        if self._called is not None and self.watch is not None:
            self._called |= norms.keys() | noises.keys() | self.watch.scripted
        designs = together([path for path, calls in norms.items() if calls.designed])
        seen = Seen(
            self._grouped(self._wrong_norms(norms, moved), batch_idx, step),
            self._grouped(self._wrong_noises(noises), batch_idx, step),
            [
                Design(where, layers, norms[layers[0]].kind, norms[layers[0]].source, self.stage, step)
                for where, layers in designs
            ],
        )
        if self.watch is not None:
            self.watch.stop()
        self.mended = {}
        return seen

    def _wrong_norms(self, norms: Mapping[str, NormCalls], moved: set[str]) -> dict[str, _Wrong]:
        """Norms that normalised by the batch: by their calls, by their modes, or because their statistics moved."""
        wrong: dict[str, _Wrong] = {}
        for path, calls in norms.items():
            if calls.hard_coded:
                flip = _MODE if calls.by_mode else _HARD_CODED
                wrong[path] = _Wrong(path, calls.kind, flip, calls.source, path in moved)
            elif calls.by_batch and not calls.designed:
                flip = self._flip(path) if calls.registered else _UNREGISTERED
                wrong[path] = _Wrong(path, calls.kind, flip, moved=path in moved, mended=path in self.mended)
        whole, at_all = self._training & self.modes.training(), self._training | self.modes.training()
        for path, module in self.modes.norms.items():
            if path in wrong:
                continue
            by_flag = path in whole and obeys_mode(module) and not by_design(module) and self._is_called(path)
            if path in moved or by_flag or (path in self.mended and self._is_called(path)):
                flip = self._flip(path) if path in at_all or path in self.mended else Flip("", "values")
                wrong[path] = _Wrong(path, kind_of(module), flip, "", path in moved, path in self.mended)
        return wrong

    def _wrong_noises(self, noises: Mapping[str, NoiseCalls]) -> dict[str, _Wrong]:
        """Dropouts that drew noise: by their calls, or by their modes."""
        wrong: dict[str, _Wrong] = {}
        for path, calls in noises.items():
            flip = self._flip(path) if calls.registered else _UNREGISTERED
            if calls.source:
                flip = _MODE if calls.by_mode else _HARD_CODED
            wrong[path] = _Wrong(path, calls.kind, flip, calls.source, mended=path in self.mended)
        whole = self._training & self.modes.training()
        for path, module in self.modes.noises.items():
            if path not in wrong and (path in self.mended or (path in whole and self._is_called(path))):
                wrong[path] = _Wrong(path, kind_of(module), self._flip(path), mended=path in self.mended)
        return wrong

    def note_inside(self) -> None:
        """Modes are looked at in the middle of a step, or after it."""
        self.modes.note(self._inside)

    @property
    def _inside(self) -> Flip:
        return Flip(f"set inside {self._runs}, in batch {self._batch}", "inside")

    def _is_called(self, path: str) -> bool:
        """Whether a module takes part in the evaluation, as far as that can be seen."""
        if self._called is None or path in self._called:
            return True
        scripted = isinstance(self.modes.everything.get(path), torch.jit.ScriptModule)
        return scripted and any(path.startswith(f"{outer}.") for outer in self._called)

    def flip(self, path: str) -> Flip:
        """Where a module that is in training mode came into it."""
        found = self.modes.flip(path)
        return found if found.place else self._begins

    def _flip(self, path: str) -> Flip:
        """Where a module that was in training mode came into it."""
        if path in self.mended:
            return self.mended[path]
        if path in self.modes.training():
            return self.flip(path)
        return Flip(f"{self._inside.place}, and put back", self._inside.cause)

    def _moved(self) -> set[str]:
        """Norms whose running statistics were written to in this batch: by their values at a look, else by their count.

        A count that was written to tells of an update only of a norm that was in training mode: weights may be swapped.
        """
        if self._before is None:
            in_training = self._training | self.modes.training()
            now = versions(self.modes.norms)
            written = {path for path, version in now.items() if self._versions.get(path, version) != version}
            return written & in_training
        after = RunningStatistics(self.modes.norms)
        if self._before.same(after):
            return set()
        old, new = self._before.read_with(after)
        return {path for path in old.keys() & new.keys() if not same_statistics(old[path], new[path])}

    def _take(self, path: str, calls: NormCalls) -> None:
        if calls.moments:
            self.parts.setdefault(path, []).extend(calls.moments)
            self.rows[path] = self.rows.get(path, 0) + (calls.rows or 0)

    def _grouped(self, wrong: Mapping[str, _Wrong], batch_idx: int, step: int) -> list[WrongMode]:
        """Modules that came into their mode in one way are one finding, if they are many."""
        groups: dict[tuple[Any, ...], list[_Wrong]] = {}
        for each in wrong.values():
            groups.setdefault((each.flip, each.source, each.mended), []).append(each)
        found: list[WrongMode] = []
        for members in groups.values():
            known = {each.path: each for each in members}
            for where, layers in together(list(known)):
                first = known[layers[0]]
                found.append(
                    WrongMode(
                        where=where,
                        layers=layers,
                        kind=first.kind,
                        stage=self.stage,
                        step_name=self.step_name,
                        place=first.flip.place,
                        cause=first.flip.cause,
                        step=step,
                        source=first.source,
                        batch=batch_idx,
                        moved=any(known[path].moved for path in layers),
                        mended=first.mended,
                    )
                )
        return found

    # The whole pass.

    def statistics(self) -> tuple[dict[str, Statistics], dict[str, list[Part]]]:
        """The running statistics that were applied, and those of the batches that were looked at; one transfer each."""
        running = RunningStatistics(self.modes.norms).read()
        flat = [each for calls in self.parts.values() for _, mean, variance in calls for each in (mean, variance)]
        if not flat:
            return running, {}
        device = flat[0].device
        values = torch.cat([each.to(device, torch.float32) for each in flat]).cpu().double().numpy()
        parts: dict[str, list[Part]] = {}
        start = 0

        def take(size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
            nonlocal start
            start += size
            return values[start - size : start]

        for path, calls in self.parts.items():
            parts[path] = [(count, take(len(mean)), take(len(variance))) for count, mean, variance in calls]
        return running, parts


_HARD_CODED = Flip("", "hard-coded")
_MODE = Flip()  # of the module that calls a function: where that flipped is not noted
_UNREGISTERED = Flip("it is no part of the model that eval() reaches", "unregistered")
