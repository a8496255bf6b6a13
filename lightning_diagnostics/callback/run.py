"""What the diagnostics of one Trainer share: the journal, and the places where it is shown."""

import contextlib
import json
import logging
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lightning_diagnostics import tensorboard
from lightning_diagnostics.callback import loggers, terminal
from lightning_diagnostics.callback.namespaces import Trainer
from lightning_diagnostics.callback.record import Record, append
from lightning_diagnostics.callback.roll_call import RollCall
from lightning_diagnostics.callback.trainer import epoch_end_step, experiments, run_folder
from lightning_diagnostics.findings import Change, Finding, Journal, Severity

logger = logging.getLogger("lightning_diagnostics")

LAYOUT_RUN = "diagnostics"
"""The run beside the user's that holds the layout of the custom-scalars page, and nothing else."""

FOLDER = "the run's folder"
"""What is said to be broken where neither the record nor the findings file can be written."""

RANK = "global_rank"
"""The evidence that names the rank which alone has seen a finding."""


class Run:
    """One training run as its diagnostics see it together.

    A diagnostic joins at ``setup``, announces what it watches when training starts, enters what it finds, and leaves;
    the last to announce has the start line printed, the last to leave the summary. Shows on rank zero only, holds no
    open file and no strong reference to the Trainer, and can be copied at any moment.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.journal = Journal()
        self._trainer: weakref.ref[Trainer] | None = weakref.ref(trainer)
        self._members: list[str] = []
        self._announced: list[str] = []
        self._undecided: list[str] = []
        self._broken: set[str] = set()
        self._drawn_at: dict[str, int] = {}
        self._laid_out: dict[str, dict[str, tensorboard.Chart]] = {}  # by category, by title
        self._carried = False
        self._record = Record()
        self._roll_call = RollCall()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_trainer": None}  # a weak reference cannot be pickled

    @property
    def trainer(self) -> Trainer | None:
        """The Trainer, while it lives (and in the process that it lives in)."""
        return self._trainer() if self._trainer is not None else None

    def serves(self, trainer: Trainer) -> bool:
        """Whether this is the run of that Trainer."""
        return self.trainer is trainer

    def join(self, member: str, terms: str) -> None:
        """A diagnostic takes part from here on; the terms are what its like in other processes have to be told, too."""
        if not self._members:
            self._announced, self._undecided = [], []
        if self.trainer is not None:
            self._roll_call.enter(self.trainer, len(self._members), member, terms)
        self._members.append(member)

    def is_whole(self, member: str) -> bool:
        """Whether all processes have this diagnostic, so that they can exchange what it knows."""
        return self.trainer is not None and self._roll_call.complete(self.trainer, member)

    def carry(self, findings: list[Finding]) -> None:
        """Take over the findings of the checkpoint that is resumed."""
        self.journal.adopt(findings)
        self._carried = self._carried or bool(findings)

    def tell(self, enabled_by: str, settings: Mapping[str, Any]) -> None:
        """A suite says which way it was switched on, before its diagnostics announce themselves."""
        self._record.enabled_by, self._record.settings = enabled_by, settings

    def announce(self, name: str, text: str, step: int) -> None:
        """A diagnostic says what it watches and what it cannot see."""
        self._announced.append(text)
        self._record.diagnostics[name] = text
        if len(self._announced) < len(self._members):
            return
        terminal.set_up()
        self._outlet("the log", lambda _: logger.info("watching %s", "; ".join(self._announced)))
        self._record.start(step)
        self._outlet(FOLDER, self._write_record)
        if self._carried:
            self._carried = False
            for finding in self.journal.findings:
                self._write(finding, "carried")
            self._draw(step)

    def show(self, finding: Finding, change: Change, *, step: int) -> None:
        """Bring a change of the journal to the terminal, the findings file and the loggers."""
        if change is Change.UPDATED:
            return
        if self._shows() and change in (Change.OPENED, Change.WORSENED) and finding.severity > Severity.INFO:
            self._outlet("the log", lambda _: terminal.say(finding))
        self._write(finding, change.value)
        self._draw(step)

    def adopt(self, theirs: list[Finding], rank: int) -> None:
        """On rank zero, show what only another rank has seen."""
        trainer = self.trainer
        if trainer is None or not trainer.is_global_zero or rank == trainer.global_rank:
            return
        known = {finding.key: finding for finding in self.journal.findings}
        for finding in theirs:
            mine = known.get(finding.key)
            if mine is None or _worse(mine, finding) or mine.evidence.get(RANK) == rank:
                seen = replace(finding, evidence={**finding.evidence, RANK: rank})
                self.show(*self.journal.merge(seen), step=epoch_end_step(trainer))

    def is_own(self, finding: Finding) -> bool:
        """Whether no other rank of this run has made a finding (after a resume there may be fewer ranks)."""
        trainer, rank = self.trainer, finding.evidence.get(RANK)
        return trainer is None or rank == trainer.global_rank or rank not in range(trainer.world_size)

    def draw(self, values: Mapping[str, tensorboard.Drawable], *, step: int, late: bool = False) -> None:
        """Send numbers to every logger (late ones to none of a table), and histograms to those that can show them.

        One that fails does not keep the others from theirs. Several looks can fall on one step of the axis
        (accumulation): there a tag is drawn once, the first time.
        """
        values = {tag: value for tag, value in values.items() if self._drawn_at.get(tag) != step}
        if not values:
            return
        self._drawn_at.update(dict.fromkeys(values, step))
        for index, one in enumerate(self.trainer.loggers if self.trainer is not None else ()):
            if late and loggers.is_table(one):
                continue
            self._outlet(f"logger {index}", lambda _, one=one: loggers.draw(one, values, step=step))

    def draw_ahead(self, values: Mapping[str, tensorboard.Drawable], *, step: int) -> None:
        """Send numbers of a later step to the loggers of TensorBoard, which takes steps in any order."""
        for index, one in enumerate(self.trainer.loggers if self.trainer is not None else ()):
            self._outlet(f"logger {index}", lambda _, one=one: loggers.draw_ahead(one, values, step=step))

    def fill_hp_metric(self, value: float, *, step: int) -> None:
        """Give the HParams page of TensorBoard the score of the run, where nothing else does."""
        for index, one in enumerate(self.trainer.loggers if self.trainer is not None else ()):
            self._outlet(f"logger {index}", lambda _, one=one: loggers.fill_hp_metric(one, value, step=step))

    def lay_out(
        self, category: str, charts: Mapping[str, tensorboard.Chart], *, filled: Mapping[str, tensorboard.Chart]
    ) -> None:
        """Arrange curves on TensorBoard's custom-scalars page; again only if there is one more.

        Args:
            category: What the charts stand under.
            charts: By title, in the order of the page.
            filled: Those of them that have curves, and those that only measurements have, which come last.
        """
        known = self._laid_out.get(category, {})
        merged = {
            title: charts[title] if title in charts and not one.band else _merged(known.get(title), one)
            for title, one in filled.items()
        }
        if all(title in known and known[title] == chart for title, chart in merged.items()):
            return
        merged = {**known, **merged}
        titles = dict.fromkeys((*charts, *merged))
        self._laid_out[category] = {title: merged[title] for title in titles if title in merged}
        self._outlet("the layout in TensorBoard", lambda trainer: _write_layout(trainer, self._laid_out))

    def leave(self, member: str, step: int, undecided: list[str], ending: str) -> None:
        """A diagnostic is done; the last one closes the run."""
        if member not in self._members:
            return
        self._members.remove(member)
        self._roll_call.leave(member)
        self._undecided += undecided
        if self._members or not self._announced or not self._shows():
            return
        findings = self.journal.findings
        text = terminal.summary(findings, steps=step, undecided=self._undecided, ending=ending)
        self._outlet("the log", lambda _: logger.info("%s", text))
        for finding in findings:
            self._write(finding, "ended")
        if findings:
            self._draw(step)
        self._record.end(ending, step)  # last: whoever reads that the run is over has all of it
        self._outlet(FOLDER, self._write_record)

    def _shows(self) -> bool:
        """Whether this process is the one that shows."""
        trainer = self.trainer
        return trainer is not None and trainer.is_global_zero

    def _draw(self, step: int) -> None:
        """Show the findings in every logger that has a place for them."""
        findings = self.journal.findings
        for index, one in enumerate(self.trainer.loggers if self.trainer is not None else ()):
            name = f"the findings in logger {index}"
            self._outlet(name, lambda _, one=one: loggers.write_findings(one, findings, step=step))

    def _write_record(self, trainer: Trainer) -> None:
        folder = run_folder(trainer)
        if folder is not None:
            self._record.write(folder)

    def _write(self, finding: Finding, event: str) -> None:
        def write(trainer: Trainer) -> None:
            line = json.dumps({"event": event, **finding.to_dict()}, allow_nan=False, default=str)
            folder = run_folder(trainer)
            if folder is not None:
                self._record.begin(folder)
                append(folder, line + "\n")

        self._outlet(FOLDER, write)

    def _outlet(self, name: str, act: Callable[[Trainer], None]) -> None:
        """Act on rank zero; an outlet that fails (disk full, logger closed) is reported once and not tried again."""
        trainer = self.trainer
        if trainer is None or not trainer.is_global_zero or name in self._broken:
            return
        try:
            act(trainer)
        except Exception:  # promise 2: it never kills the run
            self._broken.add(name)
            with contextlib.suppress(Exception):  # the log may be what is broken
                logger.exception("%s cannot be written and is switched off; training goes on", name)


def _merged(known: tensorboard.Chart | None, more: tensorboard.Chart) -> tensorboard.Chart:
    """A chart with the lines of both; one with the edges of its band takes the place of the bare one."""
    tags = (*(known.tags if known is not None else ()), *more.tags)
    if not more.band:
        return tensorboard.Chart(tuple(dict.fromkeys(tags)))
    threes: dict[str, tuple[str, str, str]] = {}
    for line, low, high in zip(tags[::3], tags[1::3], tags[2::3], strict=True):
        if line not in threes or low != line:
            threes[line] = (line, low, high)
    return tensorboard.Chart(tuple(tag for three in threes.values() for tag in three), band=True)


def _write_layout(trainer: Trainer, categories: Mapping[str, Mapping[str, tensorboard.Chart]]) -> None:
    for writer in tensorboard.text_writers(experiments(trainer)):
        folder = getattr(writer, "log_dir", None) or getattr(writer, "logdir", None)
        if isinstance(folder, str):
            tensorboard.write_layout(f"{folder.rstrip('/')}/{LAYOUT_RUN}", categories)


def _worse(mine: Finding, theirs: Finding) -> bool:
    """Whether another rank's finding of the same key is open where ours is closed, or else the more severe one."""
    return (mine.status == "open", mine.severity) < (theirs.status == "open", theirs.severity)
