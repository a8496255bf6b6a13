"""Learning rates that are multiplied while an optimizer steps, and are the user's own at any other time."""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_diagnostics.probes import steps_within, will_scale


@dataclass(eq=False)
class _Scaled:
    """A rate that is multiplied at the moment.

    Attributes:
        group: Whose it is.
        base: The user's own rate.
        now: What was written in its place.
        version: Of a tensor that was written into: tells whether anybody has written into it since.
    """

    group: dict[str, Any]
    base: Any
    now: Any
    version: int | None = None

    def is_untouched(self) -> bool:
        rate = self.group.get("lr")
        if self.version is None:
            return rate is self.now or (not isinstance(rate, Tensor) and rate == self.now)
        return rate is self.now and self.now._version == self.version

    def put_back(self) -> None:
        if self.version is None:
            self.group["lr"] = self.base
        else:
            with torch.no_grad():
                self.now.copy_(self.base)


@dataclass(eq=False)
class _Step:
    """A step that is under way."""

    depth: int = 0
    factors: Sequence[float] = ()
    scaled: list[_Scaled] = field(default_factory=list)


class Scaling:
    """Multiplies the learning rates of optimizers in the very step, by hooks of torch's optimizers.

    Schedulers, checkpoints and the program never see a rate that is multiplied: a closure is run with the user's own
    rates, and so is everything before and after the step. A step that a gradient scaler skips is never begun.

    Args:
        factors: Gives the factor of each group of an optimizer, for the step that it makes next.
        guard: Calls what it is given and lets no fault out.
    """

    def __init__(self, factors: Callable[[Optimizer], Sequence[float]], guard: Callable[..., Any]) -> None:
        self._factors, self._guard = factors, guard
        self._optimizers: list[weakref.ref[Optimizer]] = []
        self._handles: list[RemovableHandle] = []
        self._open: dict[int, _Step] = {}
        self._places: dict[int, int] = {}
        self.made: dict[int, int] = {}
        """Steps that each optimizer has made, by its place."""
        self.overwritten: set[int] = set()
        """Places of optimizers that have set a rate of their own in a step."""
        self.unreachable: set[int] = set()
        """Places of optimizers that have no hooks."""
        self.looks = False
        """Whether the rates of the next steps are asked for."""
        self.used: dict[int, list[Any]] = {}
        """The rates of the last step of each optimizer that was asked for; tensors are copies."""
        self.last: dict[int, list[float]] = {}
        """The factors of that step."""

    def start(self, optimizers: Iterable[Optimizer], made: Mapping[int, int]) -> None:
        """Take up the optimizers of a run, in their order.

        Args:
            optimizers: Of the Trainer.
            made: Steps that each has made before, by its place.
        """
        self.stop()
        self.made = dict(made)
        for place, optimizer in enumerate(optimizers):
            if not _has_hooks(optimizer):
                self.unreachable.add(place)
                continue
            self._optimizers.append(weakref.ref(optimizer))
            self.made.setdefault(place, 0)
            self._places[id(optimizer)] = place
            over = optimizer.register_step_post_hook(self._hook(self._after, place))
            hooks: Any = optimizer._optimizer_step_post_hooks
            hooks.move_to_end(over.id, last=False)  # before one that steps a scheduler
            self._handles += [
                optimizer.register_step_pre_hook(self._hook(self._before, place)),
                over,
                optimizer.register_state_dict_post_hook(self._saved_hook()),
            ]
            will_scale(optimizer, self._told(optimizer))

    def serves(self, optimizers: Sequence[Any]) -> bool:
        """Whether these are the optimizers that were taken up."""
        if not self._optimizers:  # nothing is multiplied
            return True
        ours = [each() for each in self._optimizers]
        theirs = [each for each in optimizers if _has_hooks(each)]
        return len(ours) == len(theirs) and all(one is other for one, other in zip(ours, theirs, strict=True))

    def settle(self) -> None:
        """No step is under way: what one that failed has left is put back."""
        for number in list(self._open):
            self._restore(number)
            del self._open[number]

    def stop(self) -> None:
        """Let go of all optimizers, with their own rates."""
        self.settle()
        for handle in self._handles:
            handle.remove()
        for alive in self._optimizers:
            optimizer = alive()
            if optimizer is not None:
                will_scale(optimizer, None)
        self._handles, self._optimizers, self._places = [], [], {}
        self.unreachable = set()

    def made_by(self, optimizer: Optimizer) -> int:
        """Steps that an optimizer has made."""
        return self.made.get(self._places.get(id(optimizer), -1), 0)

    # The hooks.

    def _hook(self, act: Callable[..., Any], place: int) -> Callable[..., Any]:
        """A hook that holds nothing of ours, should nobody remove it."""
        method = weakref.WeakMethod(act)
        guard = self._weak_guard()

        def hook(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            alive = method()
            return None if alive is None else guard(alive, place, optimizer, args, kwargs)

        return cast(Callable[..., Any], torch.compiler.disable(hook))

    def _weak_guard(self) -> Callable[..., Any]:
        alive = weakref.ref(self)

        def guard(act: Callable[..., Any], *args: Any) -> Any:
            ours = alive()
            return None if ours is None else ours._guard(act, *args)

        return guard

    def _told(self, optimizer: Optimizer) -> Callable[[], Sequence[float]]:
        ours, theirs = weakref.ref(self), weakref.ref(optimizer)

        def factors() -> Sequence[float]:
            scaling, known = ours(), theirs()
            return () if scaling is None or known is None else scaling._guard(scaling._factors, known) or ()

        return factors

    def _saved_hook(self) -> Callable[..., None]:
        alive = weakref.ref(self)

        def hook(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
            scaling = alive()
            if scaling is not None:
                scaling._guard(scaling._give_own_rates, optimizer, state_dict)

        return hook

    def _before(
        self, place: int, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Any] | None:
        number = id(optimizer)
        step = self._open.setdefault(number, _Step())
        if step.depth and step.depth >= steps_within(optimizer):  # the last one raised, and the program went on
            self._restore(number)
            step = self._open[number] = _Step()
        step.depth += 1
        if step.depth > 1:  # a step that calls the one of its parent class
            return None
        step.factors = self._factors(optimizer)
        if all(factor == 1.0 for factor in step.factors) and not self.looks:
            return None
        self._scale(optimizer, step)
        if self.looks:
            self.last[place] = list(step.factors)
            self.used[place] = [_copy(group.get("lr")) for group in optimizer.param_groups]
        if not step.scaled:
            return None
        return self._with_own_rates(optimizer, step, args, kwargs)

    def _after(self, place: int, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        number = id(optimizer)
        step = self._open.get(number)
        if step is None:
            return
        step.depth -= 1
        if step.depth:
            return
        if not self._restore(number):
            self.overwritten.add(place)
        del self._open[number]
        self.made[place] = self.made.get(place, 0) + 1

    def _with_own_rates(
        self, optimizer: Optimizer, step: _Step, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Any] | None:
        """The arguments of a step whose closure, if there is one, runs with the user's own rates."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            return None

        def call(*given: Any, **named: Any) -> Any:
            self._guard(self._restore, id(optimizer))
            value = closure(*given, **named)
            self._guard(self._scale, optimizer, step)
            return value

        if "closure" in kwargs:
            return args, {**kwargs, "closure": call}
        return (*args[:1], call, *args[2:]), kwargs

    # The rates.

    def _scale(self, optimizer: Optimizer, step: _Step) -> None:
        if len(step.factors) != len(optimizer.param_groups):  # the closure has added one
            step.factors = self._factors(optimizer)
        known: dict[int, _Scaled] = {}  # a tensor may be the rate of several groups
        for group, factor in zip(optimizer.param_groups, step.factors, strict=True):
            rate = group.get("lr")
            if rate is None or factor == 1.0:
                continue
            if not isinstance(rate, Tensor) or rate.requires_grad:  # a rate that is learned is not written into
                scaled = _Scaled(group, rate, rate * factor)
                group["lr"] = scaled.now
            elif id(rate) in known:
                continue
            else:
                base = rate.detach().clone()
                with torch.no_grad():
                    rate.mul_(factor)
                scaled = known[id(rate)] = _Scaled(group, base, rate, rate._version)
            step.scaled.append(scaled)

    def _restore(self, number: int) -> bool:
        """Put the user's own rates back; False if somebody has set others meanwhile, which stay."""
        step = self._open.get(number)
        if step is None:
            return True
        untouched = True
        for scaled in step.scaled:
            if scaled.is_untouched():
                scaled.put_back()
            else:
                untouched = False
        step.scaled = []
        return untouched

    def _give_own_rates(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
        """Have a checkpoint hold the user's own rates, were it made in the middle of a step."""
        step = self._open.get(id(optimizer))
        if step is None or not step.scaled:
            return
        own = {id(scaled.now if scaled.version is not None else scaled.group): scaled.base for scaled in step.scaled}
        for group, saved in zip(optimizer.param_groups, state_dict["param_groups"], strict=True):
            key = id(group["lr"]) if isinstance(group.get("lr"), Tensor) else id(group)
            if key in own:
                saved["lr"] = own[key]


def _has_hooks(optimizer: Any) -> bool:
    """Whether it is an optimizer of torch's, and was made as one."""
    return isinstance(optimizer, Optimizer) and "_optimizer_step_post_hooks" in vars(optimizer)


def _copy(rate: Any) -> Any:
    return rate.detach().clone() if isinstance(rate, Tensor) else rate
