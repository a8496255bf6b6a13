"""Whether the prediction for a sample depends on the others in its batch: the same calls with others in their place."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from lightning_diagnostics.probes import ROOT, Call, Kept, SampleWatch, Sketch

_PRIMES = (31, 29, 23, 19, 17, 13, 11)  # samples that are tried: primes, lest another axis of a tensor be as long
_FEW = 4  # samples, up to which they are not looked for along the second axis: it may be channels
_FINE = 1e-5  # the rounding of a dtype, above which it has 16 bits
_ROUNDINGS, _COARSE_ROUNDINGS = 100.0, 2.0  # of a dtype (of 16 bits), below which two numbers are the same
SECONDS = 5.0
"""That a call may take to be made four times more, and that those of a step may take before no more is begun."""
_AGAIN = 10.0  # times what two runs of the same batch differ by


class CannotTryError(Exception):
    """Why a batch cannot be tried."""


class TooSlowError(CannotTryError):
    """A call takes too long to be made again, in any batch."""


class Traces(Protocol):
    """What a call may leave, and how to take it back in between."""

    def drew(self) -> bool:
        """Whether a random number has been drawn."""
        ...

    def restore(self) -> None:
        """Put everything back."""
        ...


@dataclass(frozen=True)
class Dependence:
    """What came of a trial.

    Attributes:
        stage: Of which the step was run.
        change: By how much predictions change, as a share of their spread over samples (root mean square).
        cause: Whether the other samples matter, or the place in the batch.
        where: The module whose output is the first to change while what goes into it does not.
        outputs: The modules whose outputs were compared.
        samples: How many samples were in the batch.
        step: On the axis of ``self.log``.
        designed: The norms that can but normalise by the batch.
        wrong: The norms that were found in training mode.
    """

    stage: str
    change: float
    cause: Literal["samples", "place"]
    where: str
    outputs: tuple[str, ...]
    samples: int
    step: int = 0
    designed: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """A call of a module that can be made again without a trace.

    Attributes:
        model: The model.
        call: The call; its arguments have `Sampled` in the place of tensors with samples.
        traces: What the call is made in.
        stage: The name of the evaluation.
        names: The names of modules outside of the model, as they were given.
        length: How many samples it was given.
        stacked: Whether samples are stacked along the first axis for certain.
    """

    model: nn.Module
    call: Kept
    traces: Traces
    stage: str
    names: dict[str, str]
    length: int
    stacked: bool

    def compare(self, samples: int | None = None) -> Dependence | None:
        """Try the call: None if no prediction depends on what else is in the batch.

        Half of the samples stay where they are, and the others are replaced by copies of their neighbours, so that
        lengths that are sorted stay sorted; then the other half. Last, all samples move on by one place, if nothing
        random is drawn and the samples are stacked for certain.

        Args:
            samples: How many samples are tried: of the first, a prime number, or else all.

        Raises:
            CannotTryError: if nothing comes out that has one row for each sample, replacing changes nothing, or the
                call fails with other samples.
            TooSlowError: if it takes too long.
        """
        count = samples or next((prime for prime in _PRIMES if prime <= self.length), self.length)
        every = _Way(torch.arange(count), slice(None), "samples")
        try:
            begun = time.perf_counter()
            control, drew = self._run(every)
            taken = time.perf_counter() - begun
        except CannotTryError:
            if count == self.length:
                raise
            return self.compare(self.length)  # it may want whole batches
        if taken > SECONDS:
            raise TooSlowError(f"a call of {control[-1].path} takes {taken:.0f} s, and would be made four times more")
        if not any(call.outermost and call.outputs for call in control):
            raise CannotTryError("no module that the step calls gives one row of numbers per sample")
        again, _ = self._run(every)
        noise = [_change(a, b, every.rows) for a, b in _pairs(control, again)]
        any_moved, worst = False, None
        for keep in _halves(count):
            way = _Way(_sources(keep), keep, "samples")
            calls, _ = self._run(way)
            any_moved = any_moved or any(_change(a, b, ~keep) > 0 for a, b in _pairs(control, calls))
            found = self._verdict(control, calls, noise, way)
            if found is not None and (worst is None or found.change > worst[0].change):
                worst = found, way
        if worst is not None:
            return self._located(worst[0], worst[1], every)
        if not any_moved:
            raise CannotTryError("other samples in the batch do not change any output of a module")
        return None if drew or not self.stacked else self._moved_on(control, noise, every)

    def _moved_on(self, control: list[Call], noise: Sequence[float], every: "_Way") -> Dependence | None:
        """Whether it matters in which place of the batch a sample is."""
        way = _Way(every.order.roll(1), slice(None), "place")
        try:
            calls, _ = self._run(way)
        except CannotTryError:  # a batch that has to be sorted, say
            return None
        found = self._verdict(control, calls, noise, way)
        return None if found is None else self._located(found, way, every)

    def _run(self, way: "_Way", *, deep: bool = False) -> tuple[list[Call], bool]:
        """What modules made of the samples, in their own places, and whether random numbers were drawn."""
        self.traces.restore()
        for module, training in self.call.training:
            if hasattr(module, "training"):
                module.training = training
        watch = SampleWatch(dict(self.names), len(way.order), deep=deep)
        args, kwargs = _filled((self.call.args, self.call.kwargs), way.order)
        watch.start(self.model, functional=False, running=lambda: True)
        try:
            self._make(args, kwargs)
            watch.unhook()
            drew, calls = self.traces.drew(), list(watch.calls)
        finally:
            watch.stop()
        return ([_reordered(call, way.order) for call in calls] if way.cause == "place" else calls), drew

    def _make(self, args: Any, kwargs: Any) -> None:
        try:
            self.call.module(*args, **kwargs)
        except Exception as fault:  # it may want whole batches, or to exchange something
            said = f"{type(fault).__name__}: {fault}"
            raise CannotTryError(f"{type(self.call.module).__name__} fails with other samples ({said})") from fault

    def _verdict(
        self, control: Sequence[Call], calls: Sequence[Call], noise: Sequence[float], way: "_Way"
    ) -> Dependence | None:
        found: dict[str, float] = {}
        for (a, b), floor in zip(_pairs(control, calls), noise, strict=False):
            change = _change(a, b, way.rows)
            if a.outermost and change > _AGAIN * floor:
                found[a.path] = max(change, found.get(a.path, 0.0))
        if not found:
            return None
        return Dependence(self.stage, max(found.values()), way.cause, ROOT, tuple(found), len(way.order))

    def _located(self, found: Dependence, way: "_Way", every: "_Way") -> Dependence:
        """The same, with the first module whose output changes while what goes into it does not."""
        control, calls = (self._run(each, deep=True)[0] for each in (every, way))
        guilty = (
            a.path for a, b in _pairs(control, calls) if _change(a, b, way.rows) > 0 and _inputs(a, b, way.rows) <= 0
        )
        return replace(found, where=next(guilty, found.outputs[0]))


@dataclass(frozen=True)
class _Way:
    """One way of filling the places of a batch.

    Attributes:
        order: Which sample stands in each place.
        rows: The places that are compared.
        cause: What it tells.
    """

    order: Tensor
    rows: Any
    cause: Literal["samples", "place"]


def _pairs(one: Sequence[Call], other: Sequence[Call]) -> list[tuple[Call, Call]]:
    """The calls of two passes that belong together, up to where they part."""
    pairs: list[tuple[Call, Call]] = []
    for a, b in zip(one, other, strict=False):
        if a.path != b.path:
            break
        pairs.append((a, b))
    return pairs


def _change(one: Call, other: Call, rows: Any) -> float:
    """How much the outputs of a call differ in some rows: the largest of its tensors, see `_difference`."""
    return max((_difference(a, b, rows) for a, b in zip(one.outputs, other.outputs, strict=False)), default=0.0)


def _inputs(one: Call, other: Call, rows: Any) -> float:
    return max((_difference(a, b, rows) for a, b in zip(one.inputs, other.inputs, strict=False)), default=0.0)


def _difference(one: Sketch, other: Sketch, rows: Any) -> float:
    """Root mean square difference over some rows, as a share of the spread over all rows; 0 if it is but rounding."""
    if one.product.shape != other.product.shape or not bool((one.product.isfinite() & other.product.isfinite()).all()):
        return 0.0
    apart = (one.product - other.product)[rows].abs()
    roundings = _ROUNDINGS if one.epsilon < _FINE else _COARSE_ROUNDINGS
    rounding = roundings * one.epsilon * one.size[rows]
    if not bool((apart > rounding).any()):
        return 0.0
    spread = max(float(one.product.std()), float(rounding.mean()))
    return float(apart.square().mean().sqrt()) / spread if spread > 0 else 0.0


def _reordered(call: Call, order: Tensor) -> Call:
    """A call with its samples back in their places."""
    back = torch.argsort(order)

    def put(sketch: Sketch) -> Sketch:
        index = back.to(sketch.product.device)
        return Sketch(sketch.product[index], sketch.size[index], sketch.epsilon)

    return Call(
        call.path, call.outermost, call.predicts, [put(each) for each in call.inputs], [put(e) for e in call.outputs]
    )


def _halves(count: int) -> tuple[Tensor, Tensor]:
    """Which samples stay: about half of them without a pattern, and the others."""
    draw = torch.Generator().manual_seed(count)
    first = torch.randperm(count, generator=draw) < max(1, count // 2)
    return first, ~first


def _sources(keep: Tensor) -> Tensor:
    """What stands in each place: the sample itself if it stays, else the nearest before it that stays, or after it."""
    places = torch.arange(len(keep))
    before = torch.where(keep, places, torch.full_like(places, -1)).cummax(0).values
    return torch.where(before >= 0, before, places[keep][0])


# Batches.


class AmbiguousError(Exception):
    """A tensor may have the samples along one axis or another, or none."""


Identity = tuple[int, tuple[int, ...], tuple[int, ...]]
"""Memory, shape and strides of a tensor."""


def identity(tensor: Tensor) -> Identity:
    """What tells a tensor of the batch from others, views of it too."""
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


@dataclass(frozen=True)
class Samples:
    """Where the samples of a batch lie.

    Attributes:
        count: How many there are.
        stacked: Whether they lie along the first axis of every tensor of the batch, for certain.
        stacks: The tensors for which that is certain, or that have nothing else (labels, lengths).
    """

    count: int
    stacked: bool
    stacks: frozenset[Identity] = frozenset()

    def axis(self, tensor: Tensor) -> int | None:
        """The axis of a tensor that they lie along; None if it has none.

        Raises:
            AmbiguousError: if another axis may be as long by chance: where there is but one, where two are, where it is
                the second of two, and where there are so few samples that it may be the channels.
        """
        if identity(tensor) in self.stacks:
            return 0
        axes = [axis for axis in range(min(tensor.dim(), 2)) if tensor.shape[axis] == self.count]
        if not axes:
            return None
        second = axes == [1] and (self.count <= _FEW or tensor.dim() < 3)
        if len(axes) > 1 or tensor.dim() == 1 or second:
            raise AmbiguousError
        return axes[0]

    def kept(self, call: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The arguments of a call, copied, with the samples marked; None if there are none, or that is not certain."""
        args, kwargs = call
        try:
            marked = [_marked(each, self) for each in args]
            named = {name: _marked(each, self) for name, each in kwargs.items()}
        except Exception:  # noqa: BLE001  # what is not certain, or cannot be made anew, is not tried
            return None
        if not any(has for _, has in (*marked, *named.values())):
            return None
        return tuple(each for each, _ in marked), {name: each for name, (each, _) in named.items()}


@dataclass(frozen=True)
class Sampled:
    """A tensor, or a list, with samples.

    Attributes:
        value: A copy.
        axis: Along which they lie; None for the items of a list.
    """

    value: Any
    axis: int | None

    def take(self, order: Tensor) -> Any:
        """The samples in an order, copied."""
        if self.axis is None:
            return type(self.value)(_copied(self.value[index]) for index in order.tolist())
        return self.value.index_select(self.axis, order.to(self.value.device))


def find_samples(batch: Any, *, batch_size: int | None, stacked: bool) -> Samples:
    """Where the samples of a batch lie.

    Raises:
        CannotTryError: if that cannot be told for certain, or there is one sample only.
    """
    found = [each for each in _leaves(batch) if isinstance(each, Tensor) and not each.is_nested and each.dim()]
    if not found:
        raise CannotTryError("a batch holds no tensor")
    if stacked:
        lengths = {tensor.shape[0] for tensor in found}
        if len(lengths) > 1:
            raise CannotTryError("the tensors of a batch have different numbers of samples")
        count = lengths.pop()
    elif batch_size is None:
        raise CannotTryError("the loader does not say how many samples a batch has")
    else:
        count = batch_size
    if count < 2:
        raise CannotTryError("a batch holds one sample only")
    dense = (tensor for tensor in found if tensor.layout == torch.strided)
    sure = (tensor for tensor in dense if stacked or (tensor.dim() == 1 and len(tensor) == count))  # labels, lengths
    return Samples(count, stacked, frozenset(map(identity, sure)))


def _leaves(value: Any) -> Iterator[Any]:
    """What lies in nested mappings, lists, tuples and dataclasses."""
    if isinstance(value, Mapping):
        inner: Any = value.values()
    elif isinstance(value, list | tuple):
        inner = value
    elif is_dataclass(value) and not isinstance(value, type):
        inner = [getattr(value, each.name) for each in fields(value)]
    else:
        yield value
        return
    for each in inner:
        yield from _leaves(each)


def _marked(value: Any, samples: Samples) -> tuple[Any, bool]:
    """A copy with `Sampled` in the place of what has samples, and whether anything has."""
    if isinstance(value, Tensor):
        plain = value.layout == torch.strided and not value.is_nested
        axis = samples.axis(value) if plain else None
        copied = value.detach().clone()
        return (copied, False) if axis is None else (Sampled(copied, axis), True)
    if type(value) in (list, tuple) and len(value) == samples.count and all(map(_is_item, value)):
        tensors = [each for each in value if isinstance(each, Tensor)]
        if not any(samples.axis(each) is not None for each in tensors):
            if tensors and samples.count <= _FEW:  # a pair of states, say
                raise AmbiguousError
            return Sampled(type(value)(_copied(each) for each in value), None), True  # one item for each sample
    return _rebuilt(value, lambda each: _marked(each, samples))


def _is_item(value: Any) -> bool:
    """Whether it looks like a sample, and not like a size."""
    return isinstance(value, Tensor | str | Mapping)


def _copied(value: Any) -> Any:
    """A copy of a nested value, with its tensors."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return _rebuilt(value, lambda each: (_copied(each), False))[0]


def _filled(value: Any, order: Tensor) -> Any:
    """A copy with the samples in an order."""

    def fill(each: Any) -> tuple[Any, bool]:
        if isinstance(each, Sampled):
            return each.take(order), True
        return (each.clone(), False) if isinstance(each, Tensor) else _rebuilt(each, fill)

    return fill(value)[0]


def _rebuilt(value: Any, act: Callable[[Any], tuple[Any, bool]]) -> tuple[Any, bool]:
    """A nested value with what ``act`` makes of its items, and whether any of them has samples."""
    if isinstance(value, Sampled):
        return act(value)
    if isinstance(value, Mapping):
        items = {key: act(each) for key, each in value.items()}
        new: Any = {key: each for key, (each, _) in items.items()}
        if type(value) is not dict:
            made: Any = copy(value)
            for key, each in new.items():
                made[key] = each
            new = made
        return new, any(has for _, has in items.values())
    if isinstance(value, list | tuple):
        pairs = [act(each) for each in value]
        inner = [each for each, _ in pairs]
        new = type(value)(*inner) if hasattr(value, "_fields") else type(value)(inner)
        return new, any(has for _, has in pairs)
    if is_dataclass(value) and not isinstance(value, type):
        made, has_any = copy(value), False
        for each in fields(value):
            new, has = act(getattr(value, each.name))
            object.__setattr__(made, each.name, new)
            has_any = has_any or has
        return made, has_any
    return value, False
