"""`GraphLeakDetector`: graphs kept alive across steps, the attribute that holds them, and the one-line fix."""

import dataclasses
import gc
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_diagnostics.callback import At, DiagnosticCallback, OnFinding, is_look, whole_number
from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.diagnostics.graph_leak import holders, measure
from lightning_diagnostics.diagnostics.graph_leak.growth import Ahead, Growth
from lightning_diagnostics.diagnostics.graph_leak.outputs import OutputWatch
from lightning_diagnostics.diagnostics.graph_leak.rules import (
    Limits,
    retained_activations,
    retained_graph,
    unwatched_graphs,
)
from lightning_diagnostics.diagnostics.graph_leak.search import user_modules
from lightning_diagnostics.findings import Finding
from lightning_diagnostics.probes import GraphMarks, memory_free, memory_in_use

LEADING_BATCHES = 10
"""Batches at the start of every epoch that are marked in depth: what is stored from the first on is found in them."""

_ROOT_NODES = 4  # of a loss: scaling, division by the accumulation, the user's loss, one below
_ALL_NODES = 100_000  # of a look; marking a node costs a small part of computing it, so this bounds memory, not time
_FIRST_PAUSE, _LONGEST_PAUSE = 32, 8_192  # batches between searches; it doubles when a collection freed the graphs


class GraphLeakDetector(DiagnosticCallback):
    """Finds autograd graphs of earlier steps that are still alive, and names who holds them.

    ``self.running_loss += loss`` keeps the graph of every step. The detector puts a mark into the graph of each step
    and sees, from the lifetime of the graph's nodes and not from guesses about memory, which steps' graphs are still
    alive. When several are, it searches the objects of the run (the module, callbacks, loggers, optimizers, schedulers
    and data) and the user's Python modules for the holder and reports the path to it, the growth per step and the fix.
    A finding is made in the seventh step of a leak if what is kept hangs close to the loss, else two steps after the
    fifth look that saw it.

    What it costs: between looks the marking of four graph nodes and one check of a list a step (some 30 µs). At a
    look (the first ten batches of an epoch, its last one, at least eight spread over it, and every
    ``every_n_train_steps``) and in the batch after it all nodes of the graph are marked, at 1 to 3 µs each, a small
    part of what computing them costs. A search costs 5 to 50 ms, beside large data kept as Python objects up to a
    second, and happens only when graphs are kept, ever more rarely. No hook stays on the model; a step that calls
    ``loss.backward()`` itself is watched through a global forward hook, at looks only.

    What is drawn, at looks: ``graph_leak/graphs_alive`` (steps), ``graph_leak/memory_in_use`` (MiB).

    Findings: ``retained-graph`` (MEM101), ``retained-activations`` (MEM102); note ``unwatched-graphs`` (MEM901).

    Args:
        every_n_train_steps: A batch is looked at at least this often, counted within the epoch.
        min_age: Graphs of the last ``min_age - 1`` steps are never counted. 2 suits every program that does not keep
            graphs on purpose; truncated back-propagation over k batches needs k + 1.
        on_finding: What to do about a finding: ``"report"`` it, ``"stop"`` training after the batch, or ``"raise"`` a
            ``FindingError``. With several processes the ranks agree on it at the end of the epoch or of a validation.
        at: The severity from which ``"stop"`` and ``"raise"`` act: ``"warning"`` or ``"error"``.
        limits: Limits to override, by name, e.g. ``{"retained-graph.steps": 8}``.
        strict: Raise our own faults instead of switching off (for tests).

    Raises:
        ValueError: if a word or a limit is not known, or a value is not allowed.
        TypeError: if a value is of the wrong kind.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_diagnostics import GraphLeakDetector
        >>> trainer = Trainer(callbacks=[GraphLeakDetector()], logger=False, enable_checkpointing=False)
    """

    rules = (retained_graph, retained_activations)
    blind_rule = unwatched_graphs
    default_limits = Limits()
    presets: ClassVar[Mapping[str, Mapping[str, Any] | None]] = {
        "light": {"every_n_train_steps": 500},
        "thorough": {"every_n_train_steps": 10},
    }

    def __init__(
        self,
        *,
        every_n_train_steps: int = 50,
        min_age: int = 2,
        on_finding: OnFinding = "report",
        at: At = "warning",
        limits: dict[str, float] | None = None,
        strict: bool = False,
    ) -> None:
        # Validate the arguments.
        whole_number("every_n_train_steps", every_n_train_steps, low=1)
        whole_number("min_age", min_age, low=1)
        super().__init__(on_finding=on_finding, at=at, limits=limits, strict=strict)

        # Set up a detector that has seen nothing.
        self.every_n_train_steps = every_n_train_steps
        self.min_age = min_age
        self._places: dict[str, str] = {}  # by attribute: the path it was first reported under
        self._since: int | None = None  # carried over a resume: the oldest step whose graph was alive
        self._reset()

    def _reset(self) -> None:
        """Forget everything about the steps of this process."""
        self._marks = GraphMarks()
        self._outputs = OutputWatch(self._marks)
        self._tick = -1  # training batches begun in this process, less one
        self._checked = -1  # the tick of the last check
        self._first_step = -1  # of this process, on the axis of ``self.log``
        self._look = self._deep = False
        self._announced = True  # whether Lightning announced a backward pass in this step
        self._unannounced = 0
        self._blind: Finding | None = None  # the note that nothing was seen, while that is so
        self._growth = Growth(steps=self._limits.steps)
        self._weighed: dict[str, measure.Retention] = {}  # by attribute: the last measurement
        self._pause = _FIRST_PAUSE
        self._short_pause = self._limits.steps  # after a search that found old graphs, too few at each place
        self._next_search = 0

    # The life of a run.

    @override
    def forget(self) -> None:
        self._places, self._since = {}, None

    @override
    def attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reset()

    @override
    def detach(self) -> None:
        self._marks.clear()
        self._outputs.stop()

    @override
    def watching(self, trainer: Trainer, pl_module: LightningModule) -> str:
        text = f"the autograd graph of every step (in depth every {self.every_n_train_steps} batches or more often)"
        if not pl_module.automatic_optimization:
            text += "; steps that call loss.backward() themselves are seen at looks only"
            if insides.is_compiled(pl_module):
                text += ", and not at all in a compiled model: blind there"
        return text

    @override
    def undecided(self) -> list[str]:
        if not 1 < self._growth.alive < self._limits.steps or self.findings:
            return []
        return [
            f"graphs of {self._growth.alive} earlier steps were alive at the end, a verdict needs {self._limits.steps}"
        ]

    # A step.

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._end_of_step(trainer, pl_module)
        self._tick += 1
        if batch_idx == 0 and self._growth.begin_epoch(self._tick) and self._open_findings():
            self._next_search = min(self._next_search, self._tick)  # it may now be projected over the run
        step = insides.log_step(trainer)
        if self._tick == 0:
            self._first_step = step
        self._check(trainer, pl_module, now=self._tick, step=step)
        self._marks.begin(self._tick, step)
        self._announced = False
        length = insides.batches_per_epoch(trainer)
        look = batch_idx < LEADING_BATCHES or is_look(batch_idx, batches=length, every=self.every_n_train_steps)
        self._deep = look or self._look  # the batch after a look too, lest a habit of every second batch go unseen
        self._look = look
        if look:
            self._draw_liveness(trainer, pl_module, step)
            self._watch_outputs(trainer, pl_module)

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._announced = True
        self._marks.mark_loss(loss.grad_fn, most=_ALL_NODES if self._deep else _ROOT_NODES)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._outputs.stop()

    @override
    def epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_of_step(trainer, pl_module)
        self._check(trainer, pl_module, now=self._tick + 1, step=insides.epoch_end_step(trainer))

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._open_findings() and self._growth.alive >= self._limits.steps:  # the numbers as they are at the end
            before = self._tick + 2 - self.min_age
            self._search(trainer, pl_module, before=before, step=insides.epoch_end_step(trainer))

    # Steps that call backward themselves.

    def _end_of_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the steps that announced no backward pass; say, once, that nothing was seen of them."""
        if self._blind is not None and self._marks.marked:
            self.close(self._blind, step=insides.log_step(trainer))
            self._blind = None
        if self._announced:
            return
        self._announced = True  # said of this step
        self._unannounced += 1
        if self._unannounced == LEADING_BATCHES and not self._marks.marked:
            shows_none = " (a compiled model shows none)" if insides.is_compiled(pl_module) else ""
            self._blind = self.note_blind(
                trainer,
                f"in {LEADING_BATCHES} steps no autograd graph was seen: no backward pass was announced, and no output "
                f"of a module showed one{shows_none}.",
                "call self.manual_backward(loss) in place of loss.backward(); a step that returns None has no graph.",
                since=self._first_step,
            )

    def _watch_outputs(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the modules' outputs once a manual step has ended without announcing a backward pass.

        Not before: a hook that is there when ``torch.compile`` first sees a function keeps it from compiling.
        """
        if self._unannounced and not pl_module.automatic_optimization and not insides.is_compiled(pl_module):
            self._outputs.start(trainer)

    # Old graphs.

    def _check(self, trainer: Trainer, pl_module: LightningModule, *, now: int, step: int) -> None:
        """Count the old steps whose graphs are alive when step ``now`` begins, and act on their number."""
        before = now - self.min_age + 1
        if now == self._checked:  # at the end of the epoch
            return
        self._checked = now
        seen = [(mark.tick, mark.stands_for) for mark in self._marks.alive(before=before)]
        count = sum(steps for _, steps in seen)
        if self._growth.update([tick for tick, _ in seen], count=count, look=self._look):
            for finding in self._open_findings() if self._look else ():
                self.still(finding, step=step)
            if now >= self._next_search:
                self._search(trainer, pl_module, before=before, step=step)
                self._next_search = now + self._pause
        elif self._growth.quiet(self._limits.closes_after):
            for finding in self._open_findings():
                self.close(finding, step=step)

    def _ahead(self, trainer: Trainer) -> tuple[Ahead, float]:
        """How far growth is projected, and the training batches until then."""
        left, epoch = insides.batches_left(trainer), insides.batches_per_epoch(trainer)
        return self._growth.ahead(self._tick, left=left, epoch=epoch)

    def _search(self, trainer: Trainer, pl_module: LightningModule, *, before: int, step: int) -> None:
        """Find what holds the old graphs and put it before the rules."""
        found, proven = self._measure(trainer, pl_module, before=before)
        if not found and proven:  # several places with too few steps each: one of them will have enough
            self._pause = min(self._short_pause, _LONGEST_PAUSE)
            self._short_pause *= 2
            return
        if not found:
            if gc.isenabled():  # else collecting is the user's own affair, and what cycles hold cannot be told
                gc.collect()
            old = self._marks.alive(before=before)
            if len(old) < self._limits.steps or not gc.isenabled():
                self._pause = min(2 * max(self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
                return
            found = [measure.unheld(old, ahead=self._ahead(trainer))]
            del old
        self._pause = max(_FIRST_PAUSE, 3 * self._growth.alive)  # what is known to be sick is weighed ever more rarely
        for retention in found:
            for rule in self.rules:
                self.judge(trainer, rule, retention, step=step)

    def _measure(
        self, trainer: Trainer, pl_module: LightningModule, *, before: int
    ) -> tuple[list[measure.Retention], bool]:
        """What each holder keeps alive, and whether old graphs are held anywhere; no tensor outlives this call."""
        device = pl_module.device
        free = {each.type: memory_free(each) for each in (torch.device("cpu"), device)}
        own = measure.own_storages(pl_module)
        far = self._ahead(trainer)
        roots = _roots(trainer, pl_module)
        with torch._C.DisableTorchFunctionSubclass():  # what a subclass of Tensor does is code of the user
            found, proven = holders.holdings(roots, self._marks, before=before, steps=self._limits.steps)
            weighed = [measure.weigh(each, self._marks, before=before, own=own, free=free, ahead=far) for each in found]
        return [self._placed(each.anchor, kept) for each, kept in zip(found, weighed, strict=True)], proven

    def _placed(self, anchor: str, measured: measure.Retention) -> measure.Retention:
        """The measurement under the path and the first step that this attribute was first reported with.

        Growth goes on under another key or in another list of the same attribute, and in another process after a
        resume, but it is the same finding.
        """
        where = self._places.setdefault(anchor, measured.where or anchor)
        before = self._weighed.get(anchor)
        if before is not None and not measured.exact:  # when it was smaller, it was weighed whole or to a larger part
            best = max(before, measured, key=lambda each: (each.exact, each.nodes_per_step))
            measured = dataclasses.replace(
                measured, nodes_per_step=best.nodes_per_step, bytes_per_step=best.bytes_per_step, exact=best.exact
            )
        self._weighed[anchor] = measured
        first_step = measured.first_step
        if self._since is not None and first_step == self._first_step:
            first_step = min(first_step, self._since)
        return dataclasses.replace(measured, where=where, first_step=first_step)

    def _open_findings(self) -> list[Finding]:
        own = {rule.code for rule in self.rules}
        return [finding for finding in self.findings if finding.status == "open" and finding.code in own]

    # Drawing and resuming.

    def _draw_liveness(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        if not (trainer.is_global_zero and trainer.loggers):
            return
        used = memory_in_use(pl_module.device)
        measured = measure.Liveness(
            graphs_alive=sum(mark.stands_for for mark in self._marks.alive(before=self._tick)),
            memory_in_use=None if used is None else used / 2**20,
        )
        self.draw(trainer, measured, step=step)

    @override
    def room_state(self) -> dict[str, Any]:
        old = self._marks.alive(before=self._tick - self.min_age + 2)
        since = old[0].step if old else None
        if since is not None and self._since is not None and since == self._first_step:
            since = self._since
        return {"places": dict(self._places), "since": since}

    @override
    def load_room_state(self, state: Mapping[str, Any]) -> None:
        self._places = dict(state["places"])
        self._since = state["since"]


def _roots(trainer: Trainer, pl_module: LightningModule) -> dict[str, object]:
    """Where a search begins: the user's objects, by the expression that evaluates to them."""
    roots: dict[str, object] = {"model": pl_module}
    for index, callback in enumerate(trainer.callbacks):  # pyright: ignore[reportAttributeAccessIssue]  # typed by a mixin
        if not isinstance(callback, DiagnosticCallback):
            roots[f"trainer.callbacks[{index}]"] = callback
    roots |= {f"trainer.loggers[{index}]": logger for index, logger in enumerate(trainer.loggers)}
    roots |= {f"trainer.optimizers[{index}]": each for index, each in enumerate(trainer.optimizers)}
    for index, config in enumerate(trainer.lr_scheduler_configs):
        roots[f"trainer.lr_scheduler_configs[{index}].scheduler"] = config.scheduler
    roots["trainer.datamodule"] = getattr(trainer, "datamodule", None)
    roots |= {"trainer.train_dataloader": trainer.train_dataloader, "trainer.val_dataloaders": trainer.val_dataloaders}
    modules = {f"sys.modules[{name!r}]": module for name, module in user_modules(roots.values()).items()}
    return {"type(model)": type(pl_module), **roots, **modules}
