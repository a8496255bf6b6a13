"""What is seen of every optimizer step: norms before and after clipping, kept on their devices until a look."""

import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from lightning_diagnostics.diagnostics.gradients.looking import Look, Looking
from lightning_diagnostics.probes import (
    Deferred,
    Norms,
    Slot,
    all_numbers_of,
    copies_of,
    is_sharded,
    l2_norms,
    numbers_of,
    steps_within,
)

_SCALER_STEP = torch.amp.GradScaler.step.__code__
_TOGETHER = 16  # sets of parameters that had gradients together, of which the shares are kept
_VECTORS = 1_048_576  # numbers that may wait between two looks; beyond, the norms of single parameters are not kept


@dataclass(eq=False)
class Measured:
    """Gradients of one optimizer, as they were at one moment.

    Attributes:
        keys: The ``id`` of each parameter that had one.
        norm: Their L2 norm together, by device.
        vector: The norm of each, and which of ``keys`` each is of; empty if there is no room for them.
        marks: What tells whether they were changed since: each, not kept alive (an ``id`` may be another's by then),
            and how often it had been written to.
    """

    keys: tuple[int, ...]
    norm: tuple[Slot, ...]
    vector: tuple[tuple[Slot, tuple[int, ...]], ...]
    marks: tuple[tuple[weakref.ref[Tensor], int], ...]


@dataclass(eq=False)
class OptimizerStep:
    """One step of one optimizer.

    Attributes:
        name: Of the optimizer.
        step: On the axis of ``self.log``.
        batch: Training batches before it, in this process.
        before: The gradients before clipping; None if that could not be seen.
        after: The gradients that the optimizer was given; None if that could not be seen.
        loss: The last loss before it.
        first: The norm of the first of its micro-batches, by device; how many these are, by which Lightning divides
            each loss; and the samples of one and of all.
        divided: By how much Lightning has divided the loss.
        scaled: Whether a gradient scaler was at work.
        stepped: Whether the optimizer ran; a scaler skips it where gradients are not finite.
        look: What a look has read beside it.
        doubted: Whether ``after`` was read again although nothing tells of a change.
    """

    name: str
    step: int
    batch: int
    before: Measured | None = None
    after: Measured | None = None
    loss: Slot | None = None
    first: tuple[tuple[Slot, ...], int, int, int] | None = None
    divided: int = 1
    scaled: bool = False
    stepped: bool = False
    look: Look | None = None
    doubted: bool = False

    @property
    def gradients(self) -> Measured | None:
        """Those before clipping, or as the optimizer got them where these were not seen."""
        return self.before or self.after


@dataclass(eq=False)
class _Open:
    """A step that is under way."""

    measured: Measured | None = None
    unclipped: Measured | None = None  # in manual optimisation: as a backward pass of Lightning's left them
    after: Measured | None = None
    evaluations: int = 0
    begun: bool = False  # whether the optimizer's own step has begun
    waits: bool = False  # for the closure that it was given
    hidden: bool = False  # whether gradients carry a scale that nobody told of
    depth: int = 0
    scaled: bool = False
    look: Look | None = None
    doubted: bool = False


@dataclass(eq=False)
class StepWatch:
    """Sees every optimizer step of a model through two hooks of torch's optimizers and through what it is told.

    Nothing is waited for and nothing is transferred: the numbers are in ``deferred``.

    Args:
        deferred: Where numbers wait.
        looking: Reads more at a look.
        automatic: Whether Lightning optimises, or the module itself.
        clips: Whether Lightning, or the module's own hook, clips, or another callback may.
        scaled: Whether Lightning has a gradient scaler.
        processes: How many train together.
        sharded: Whether parameters are spread over them.
        divided: By how much Lightning divides every loss (accumulation).
        distrusted: Optimizers whose gradients are written into where autograd does not see it (``.data``).
    """

    deferred: Deferred
    looking: Looking
    automatic: bool = True
    processes: int = 1
    sharded: bool = False
    clips: bool = False
    scaled: bool = False
    divided: int = 1
    steps: list[OptimizerStep] = field(default_factory=list)
    blind: dict[str, None] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    distrusted: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._guard: Callable[..., Any] | None = None
        self._handles: list[RemovableHandle] = []
        self._open: dict[int, _Open] = {}
        self._unclipped: dict[int, Measured] = {}
        self._micro: tuple[Slot, ...] | None = None
        self._loss: Tensor | None = None
        self._weights: dict[tuple[int, ...], dict[torch.device, Tensor] | None] = {}
        self._looked: dict[int, int] = {}
        self._members: frozenset[int] = frozenset()
        self._looks = 0
        self._step = self.batch = 0
        self.looked = False  # whether a step of this batch was looked at
        self._optimizers: dict[int, weakref.ref[Optimizer]] = {}

    # What it is told.

    def start(self, optimizers: Sequence[Optimizer], members: frozenset[int], *, guard: Callable[..., Any]) -> None:
        """Watch the optimizers of a model.

        Args:
            optimizers: Those that are known; others are taken up when they first step.
            members: The ``id`` of every parameter of the model.
            guard: Calls what it is given and lets no fault out.
        """
        self.stop()
        self._guard = guard
        self._members = members
        for optimizer in optimizers:
            self._take_up(optimizer)
        self._handles = [
            register_optimizer_step_pre_hook(self._hook("_before")),
            register_optimizer_step_post_hook(self._hook("_after")),
        ]

    def know(self, members: frozenset[int]) -> None:
        """The model's parameters by ``id``, of which there may be more by now."""
        self._members = members

    def stop(self) -> None:
        """Watch no longer, and let go of all that waits."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._open, self._unclipped, self.steps = [], {}, {}, []
        self._guard = None
        self._weights = {}
        self._micro = self._loss = None
        self.deferred.clear()

    def begin_batch(self, step: int, *, look: bool) -> None:
        """A training batch begins; ``look``: whether the next step of each optimizer is to be looked at."""
        self._step = step
        self._looks += look
        self.looked = False
        self._loss = None
        self._unclipped = {}

    def settle(self) -> None:
        """What was begun and did not come to its end was skipped."""
        for number in list(self._open):
            self._abandon(number)

    def end_batch(self) -> None:
        """A training batch ends."""
        self.settle()
        self.batch += 1

    @property
    def waits(self) -> bool:
        """Whether steps wait to be taken up."""
        return bool(self.steps or self._open)

    def see_loss(self, loss: Tensor, scale: Tensor | None) -> None:
        """A backward pass begins from a loss of one element, which a scaler may have multiplied."""
        with torch.no_grad():
            numbers = numbers_of(loss)
            if numbers is not None and numbers.numel() == 1:  # the scale itself moves on when the step is over
                self._loss = numbers.detach() if scale is None else numbers.detach() / scale.to(numbers.device)

    def see_micro_batch(self, optimizer: Optimizer, scale: Tensor | None) -> None:
        """The gradients of the first of several micro-batches have been computed."""
        measured = self._measure(optimizer, scale)
        self._micro = None if measured is None else measured.norm

    def see_backward(self, scale: Tensor | None) -> None:
        """In manual optimisation: a backward pass has run, and nothing has clipped its gradients yet."""
        for optimizer in self.known():
            number = id(optimizer)
            known = self._unclipped.get(number)
            if known is None or not self._is_unchanged(optimizer, known):
                measured = self._measure(optimizer, scale)
                if measured is not None:
                    self._unclipped[number] = measured

    def before_step(self, optimizer: Optimizer, scale: Tensor | None) -> None:
        """Lightning's ``on_before_optimizer_step``: in automatic optimisation gradients are unclipped.

        They are unscaled, too, where an optimizer does not do that itself, in its step.
        """
        scaled = scale is not None
        if not getattr(optimizer, "_step_supports_amp_scaling", False):
            scale = None
        for inner in self.known():  # a wrapper's step runs that of another, whose closure Lightning told of
            opened = self._open.get(id(inner))
            if inner is not optimizer and opened is not None and opened.begun and opened.waits:
                opened.evaluations += 1
                if opened.measured is None:
                    self._see(inner, opened, scale)
        if not self._take_up(optimizer):
            return
        number = id(optimizer)
        opened = self._open.get(number)
        if opened is not None and not opened.begun:  # of a step that a scaler has skipped
            self._abandon(number)
            opened = None
        opened = opened or self._open.setdefault(number, _Open(scaled=scaled))
        opened.evaluations += 1
        if opened.measured is None:
            self._see(optimizer, opened, scale)

    def see_loss_late(self, loss: Tensor) -> None:
        """A batch ends with this loss, which nobody told of before (a backward pass of the program's own)."""
        missing = [step for step in self.steps if step.batch == self.batch and step.loss is None]
        if missing:
            self.see_loss(loss, None)
            slot = self._put_loss()
            for step in missing:
                step.loss = slot

    def complete(self, batches: int, *, samples: int, of: int) -> None:
        """The step that was made last is of so many micro-batches.

        Args:
            batches: How many.
            samples: Of one.
            of: Of all, of every rank.
        """
        if self._micro is not None and self.steps and self.steps[-1].batch == self.batch:
            self.steps[-1].first = (self._micro, batches, samples, of)
        self._micro = None

    # What the hooks see.

    def _hook(self, name: str) -> Callable[..., None]:
        """A hook that holds nothing of ours, should nobody remove it."""
        alive = weakref.ref(self)

        def hook(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            watch = alive()
            if watch is not None and watch._guard is not None:
                watch._guard(getattr(watch, name), optimizer, args, kwargs)

        return cast(Callable[..., None], torch.compiler.disable(hook))

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._take_up(optimizer):
            return
        opened = self._open.setdefault(id(optimizer), _Open())
        if opened.depth >= steps_within(optimizer):  # tried again, after it raised
            opened = self._open[id(optimizer)] = _Open()
        opened.depth += 1
        if opened.depth > 1:  # a step that calls the one of its parent class
            return
        opened.begun = True
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
        scale = getattr(optimizer, "grad_scale", None)
        opened.scaled = opened.scaled or scale is not None
        if closure is not None:  # it computes the gradients, and Lightning's says so (`before_step`)
            opened.waits = True
            return
        if opened.measured is None:
            self._see(optimizer, opened, scale)
        else:
            opened.after = self._changed(optimizer, opened.measured, scale)

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        opened = self._open.get(id(optimizer))
        if opened is None or not opened.depth:
            return
        opened.depth -= 1
        if opened.depth:
            return
        if opened.measured is None:  # a closure of the user's own
            self._see(optimizer, opened, None)
            if opened.look is not None and opened.waits:
                opened.look.copies, opened.look.weights = [], {}
                self._note_blind(
                    "update ratios, as the program gives its optimizer a closure of its own", id(optimizer)
                )
        elif opened.evaluations > 1:  # clipped at every evaluation: none of them is what moved the weights
            opened.after = None
        elif opened.after is None:
            opened.after = opened.measured
            if opened.evaluations and self.clips:  # else only its own step could have changed them
                opened.after = self._clipped(optimizer, opened.measured)
                untold = opened.after is opened.measured and not _writes_gradients(optimizer)
                if untold and opened.look is not None:
                    opened.after, opened.doubted = self._measure(optimizer, None), True
        if opened.look is not None:
            self.looking.end(opened.look)
        del self._open[id(optimizer)]
        self._enter(id(optimizer), opened, stepped=True)

    # What is read.

    def _see(self, optimizer: Optimizer, opened: _Open, scale: Tensor | None) -> None:
        """The gradients that a step begins with."""
        unclipped = self._unclipped.get(id(optimizer))
        if unclipped is not None and not self.scaled and _in_a_scaler():
            unclipped, opened.hidden = None, True
            self._note_blind("the norm before clipping, as the program has a gradient scaler of its own", id(optimizer))
        opened.unclipped = unclipped
        if unclipped is None or not self._is_unchanged(optimizer, unclipped):
            opened.measured = self._measure(optimizer, scale)
        elif self._is_due(optimizer):
            opened.measured, opened.doubted = self._measure(optimizer, scale), True
        else:
            opened.measured = unclipped
        if opened.measured is not None:
            self._begin_look(optimizer, opened, scale)

    def _begin_look(self, optimizer: Optimizer, opened: _Open, scale: Tensor | None) -> None:
        number = id(optimizer)
        if self._is_due(optimizer) and opened.look is None:
            self._looked[number] = self._looks
            parameters, gradients = _with_gradients(optimizer)
            opened.look = self.looking.begin(optimizer, parameters, gradients, scale)

    def _is_due(self, optimizer: Optimizer) -> bool:
        """Whether its next step is to be looked at."""
        return self._looked.get(id(optimizer), 0) < self._looks

    def _changed(self, optimizer: Optimizer, measured: Measured, scale: Tensor | None) -> Measured | None:
        """The gradients as they are now, measured again only if they were changed."""
        return measured if self._is_unchanged(optimizer, measured) else self._measure(optimizer, scale)

    def _clipped(self, optimizer: Optimizer, measured: Measured) -> Measured | None:
        """What an optimizer was given after Lightning's clipping, read when its step is over."""
        if _writes_gradients(optimizer):
            self._note_blind("the norm after clipping, as its step writes into the gradients", id(optimizer))
            return None
        return self._changed(optimizer, measured, None)

    def _measure(self, optimizer: Optimizer, scale: Tensor | None) -> Measured | None:
        parameters, gradients = _with_gradients(optimizer)
        if not gradients:
            return None
        with torch.no_grad():
            numbers = all_numbers_of(gradients)
            if numbers is None:
                self._note_blind("gradients that hold no plain numbers", id(optimizer))
                return None
            keys = tuple(map(id, parameters))
            found = l2_norms(numbers)
            weights = self._shares(keys, gradients, found) if self.sharded else None
            if self.sharded and weights is None:
                self._note_blind("gradients that are still to be added up over ranks", id(optimizer))
                return None
            if scale is not None:
                for device, vector in found.each.items():
                    found.each[device] = vector / scale.to(device, non_blocking=True)
            norm = tuple(map(self.deferred.put, found.total(weights)))
            vector = ()
            if self.deferred.size < _VECTORS:
                vector = tuple(
                    (self.deferred.put(each), tuple(keys[place] for place in found.places[device]))
                    for device, each in found.each.items()
                )
        return Measured(keys, norm, vector, tuple((weakref.ref(each), each._version) for each in gradients))

    def _shares(
        self, keys: tuple[int, ...], gradients: list[Tensor], found: Norms
    ) -> dict[torch.device, Tensor] | None:
        """What to multiply norms with, so that the squares of all processes sum up to that of the whole.

        None if a gradient is still to be added up. It is brought to the device once for those that come together.
        """
        if keys not in self._weights:
            copies = [copies_of(gradient, processes=self.processes) for gradient in gradients]
            kept = self._weights if len(self._weights) < _TOGETHER else {}
            self._weights = {**kept, keys: found.weights_on_devices([n**-0.5 for n in copies]) if all(copies) else None}
        return self._weights[keys]

    def _is_unchanged(self, optimizer: Optimizer, measured: Measured) -> bool:
        """Whether the gradients are those that were measured, and not written into since."""
        gradients = _with_gradients(optimizer)[1]
        if len(gradients) != len(measured.marks):
            return False
        if self.names.get(id(optimizer)) in self.distrusted:
            return False
        if self.sharded and any(map(is_sharded, gradients)):  # DTensors do not count what writes into many at once
            return False
        pairs = zip(gradients, measured.marks, strict=True)
        return all(mark() is each and writes == each._version for each, (mark, writes) in pairs)

    # Entering.

    def _enter(self, number: int, opened: _Open, *, stepped: bool) -> None:
        measured = opened.measured
        if measured is None:
            return
        self._unclipped.pop(number, None)
        known = measured if self.automatic and opened.evaluations > 0 else opened.unclipped
        step = OptimizerStep(self.names[number], self._step, self.batch, loss=self._put_loss(), look=opened.look)
        step.divided = self.divided
        step.before, step.after = known, opened.after or measured
        if opened.evaluations > 1:
            step.after = None
            self._note_blind("the norm after clipping, as the optimizer evaluates the loss several times", number)
        elif self.automatic and opened.evaluations > 0:
            step.after = opened.after
        elif known is None and not opened.hidden:
            self._note_blind("the norm before clipping, as it was not seen after Lightning's backward pass", number)
        if not stepped:
            step.after = None
        step.doubted = opened.doubted
        step.scaled, step.stepped = opened.scaled, stepped
        self.steps.append(step)
        self.looked = self.looked or step.look is not None

    def _note_blind(self, what: str, number: int) -> None:
        self.blind.setdefault(f"{self.names[number]}: {what}")

    def _put_loss(self) -> Slot | None:
        return None if self._loss is None else self.deferred.put(self._loss.clone())

    def _abandon(self, number: int) -> None:
        opened = self._open.pop(number)
        if opened.scaled and opened.measured is not None:
            opened.look = None
            self._enter(number, opened, stepped=False)

    def known(self) -> list[Optimizer]:
        """The optimizers that move weights of the model, as far as they are known by now."""
        return [optimizer for each in self._optimizers.values() if (optimizer := each()) is not None]

    def _take_up(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer moves weights of the model; a new one is given a name."""
        number = id(optimizer)
        if number in self._optimizers and self._optimizers[number]() is optimizer:
            return True
        keys = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if not keys & self._members:
            return False
        self.names[number] = self._name(type(optimizer).__name__)
        self._optimizers[number] = weakref.ref(optimizer)
        return True

    def _name(self, kind: str) -> str:
        """A name for an optimizer: that of one of its class that is gone (made anew in every epoch), or a new one."""
        alike = [key for key, name in self.names.items() if name == kind or name.rpartition("-")[0] == kind]
        gone = next((key for key in alike if self._optimizers[key]() is None), None)
        if gone is not None:
            del self._optimizers[gone]
            return self.names.pop(gone)
        return f"{kind}-{len(alike)}" if alike else kind


def _with_gradients(optimizer: Optimizer) -> tuple[list[Tensor], list[Tensor]]:
    pairs = [(p, p.grad) for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return [p for p, _ in pairs], [g for _, g in pairs]


def _in_a_scaler() -> bool:
    """Whether a gradient scaler makes the step that is under way."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is _SCALER_STEP:
            return True
        frame = frame.f_back
    return False


def _writes_gradients(optimizer: Optimizer) -> bool:
    """Whether a step of torch's own leaves other gradients behind than it was given."""
    if not isinstance(optimizer, SGD):
        return False
    groups = [group for group in optimizer.param_groups if group["nesterov"] and not group["weight_decay"]]
    return any(group["foreach"] or (group["foreach"] is None and _on_device(group["params"])) for group in groups)


def _on_device(parameters: Sequence[Tensor]) -> bool:
    return any(parameter.device.type != "cpu" for parameter in parameters)
