"""Whether the prediction for a sample depends on the others in its batch: the same step with others in their place."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_diagnostics.probes import ROOT, Call, SampleWatch, Sketch, sketches

SAMPLES = 31
"""Samples that are tried at the most; a prime, lest another axis of a tensor be as long."""

_PRIMES = (31, 29, 23, 19, 17, 13, 11)
_ROUNDINGS, _COARSE_ROUNDINGS = 100.0, 2.0  # of a dtype (of 16 bits), below which two numbers are the same
_SECONDS = 5.0  # that a step may take to be run four times more
_AGAIN = 10.0  # times what two runs of the same batch differ by


class CannotTryError(Exception):
    """Why the batch cannot be tried."""


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


Step = Callable[[Any], Any]


@dataclass(frozen=True)
class Trial:
    """A step that can be run on any batch without a trace.

    Attributes:
        model: The model.
        step: The step, as a function of the batch.
        alone: What to run it in: it puts back what the step changes.
        stage: The name of the evaluation.
        step_name: The name of the step.
        names: The names of modules outside of the model, as they were given.
        mend: Called with a module that is in training mode before it runs, if that is to be put right.
    """

    model: nn.Module
    step: Step
    alone: Callable[[], AbstractContextManager[None]]
    stage: str
    step_name: str
    names: dict[str, str]
    mend: Callable[[nn.Module], None] | None = None

    def compare(self, batch: Any, axes: "Axes") -> Dependence | None:
        """Try a batch: None if no prediction depends on what else is in it.

        Half of the samples stay where they are, and the others are replaced by copies of their neighbours, so that
        lengths that are sorted stay sorted; then the other half. Last, all samples move on by one place, if nothing
        random is drawn and the samples are stacked for certain.

        Raises:
            CannotTryError: if no module with parameters gives one row of numbers per sample, replacing changes nothing,
                or the step takes too long or fails.
        """
        every = _Way(torch.arange(axes.samples), slice(None), "samples")
        begun = time.perf_counter()
        control, drew = self._run(batch, every, axes)
        taken = time.perf_counter() - begun
        if taken > _SECONDS:
            raise CannotTryError(f"one {self.step_name} takes {taken:.0f} s, and it would have to run four times more")
        if not any(call.outermost and call.predicts and call.outputs for call in control):
            raise CannotTryError(f"no module that {self.step_name} calls gives one row of numbers per sample")
        again, _ = self._run(batch, every, axes)
        noise = [_change(a, b, every.rows) for a, b in _pairs(control, again)]
        any_moved, worst = False, None
        for keep in _halves(axes.samples):
            way = _Way(_sources(keep), keep, "samples")
            calls, _ = self._run(batch, way, axes)
            any_moved = any_moved or any(_change(a, b, ~keep) > 0 for a, b in _pairs(control, calls))
            found = self._verdict(control, calls, noise, way)
            if found is not None and (worst is None or found.change > worst[0].change):
                worst = found, way
        if worst is not None:
            return self._located(worst[0], batch, axes, worst[1])
        if not any_moved:
            raise CannotTryError("other samples in the batch do not change any output of a module")
        return None if drew or not axes.stacked else self._moved_on(batch, axes, control, noise)

    def _moved_on(self, batch: Any, axes: "Axes", control: list[Call], noise: Sequence[float]) -> Dependence | None:
        """Whether it matters in which place of the batch a sample is."""
        way = _Way(torch.arange(axes.samples).roll(1), slice(None), "place")
        try:
            calls, _ = self._run(batch, way, axes)
        except CannotTryError:  # a batch that has to be sorted, say
            return None
        found = self._verdict(control, calls, noise, way)
        return None if found is None else self._located(found, batch, axes, way)

    def _run(self, batch: Any, way: "_Way", axes: "Axes", *, deep: bool = False) -> tuple[list[Call], bool]:
        """What modules made of the samples, in their own places, and whether random numbers were drawn."""
        count = len(way.order)
        watch = SampleWatch(dict(self.names), count, deep=deep, mend=self.mend)
        with self.alone():
            before = torch.get_rng_state()
            watch.start(self.model, functional=False, running=lambda: True)
            try:
                output = self._step(_taken(batch, way.order, axes))
                watch.unhook()
                drew = not torch.equal(before, torch.get_rng_state())
                calls = list(watch.calls)
            finally:
                watch.stop()
        if self.stage == "prediction":
            calls.append(Call(ROOT, True, True, [], sketches(output, count)))
        return ([_reordered(call, way.order) for call in calls] if way.cause == "place" else calls), drew

    def _step(self, batch: Any) -> Any:
        try:
            return self.step(batch)
        except Exception as fault:  # the user's step may want whole batches, or to exchange something
            said = f"{type(fault).__name__}: {fault}"
            raise CannotTryError(f"{self.step_name} fails with other samples ({said})") from fault

    def _verdict(
        self, control: Sequence[Call], calls: Sequence[Call], noise: Sequence[float], way: "_Way"
    ) -> Dependence | None:
        found: dict[str, float] = {}
        for (a, b), floor in zip(_pairs(control, calls), noise, strict=False):
            change = _change(a, b, way.rows)
            if a.outermost and a.predicts and change > _AGAIN * floor:
                found[a.path] = max(change, found.get(a.path, 0.0))
        if not found:
            return None
        return Dependence(self.stage, max(found.values()), way.cause, ROOT, tuple(found), len(way.order))

    def _located(self, found: Dependence, batch: Any, axes: "Axes", way: "_Way") -> Dependence:
        """The same, with the first module whose output changes while what goes into it does not."""
        every = _Way(torch.arange(axes.samples), slice(None), "samples")
        control, calls = (self._run(batch, each, axes, deep=True)[0] for each in (every, way))
        guilty = (
            a.path for a, b in _pairs(control, calls) if _change(a, b, way.rows) > 0 and _inputs(a, b, way.rows) <= 0
        )
        return replace(found, where=next(guilty, ROOT))


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
    roundings = _ROUNDINGS if one.epsilon < 1e-5 else _COARSE_ROUNDINGS
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


@dataclass(frozen=True)
class Axes:
    """Where the samples of a batch lie.

    Attributes:
        length: Samples in the batch.
        samples: Those of them that are tried.
        stacked: Whether they lie along the first axis of every tensor, for certain.
    """

    length: int
    samples: int
    stacked: bool

    def of(self, tensor: Tensor) -> int | None:
        """The axis of a tensor; None if it has none."""
        if self.stacked:
            return 0 if tensor.dim() and tensor.shape[0] == self.length else None
        axes = [axis for axis in range(min(tensor.dim(), 2)) if tensor.shape[axis] == self.length]
        return axes[0] if axes else None


def find_axes(batch: Any, *, batch_size: int | None, stacked: bool) -> Axes:
    """Where the samples of a batch lie.

    Raises:
        CannotTryError: if that cannot be told for certain, or there is one sample only.
    """
    leaves = list(_leaves(batch))
    strange = [each for each in leaves if not isinstance(each, Tensor | str | int | float | bool | bytes | None)]
    if strange:
        raise CannotTryError(f"a batch holds an object of the class {type(strange[0]).__name__}")
    found = [each for each in leaves if isinstance(each, Tensor) and each.dim()]
    if not found:
        raise CannotTryError("a batch holds no tensor")
    if stacked:
        lengths = {tensor.shape[0] for tensor in found}
        if len(lengths) > 1:
            raise CannotTryError("the tensors of a batch have different numbers of samples")
        length = lengths.pop()
    elif batch_size is None:
        raise CannotTryError("the loader does not say how many samples a batch has")
    else:
        length = batch_size
        if any(list(tensor.shape[:2]).count(length) > 1 for tensor in found):
            raise CannotTryError(f"two axes of a tensor in a batch are {length} long, and either may be the samples")
        if not any(length in tensor.shape[:2] for tensor in found):
            raise CannotTryError(f"no tensor of a batch has the loader's {length} samples along its first two axes")
    if length < 2:
        raise CannotTryError("a batch holds one sample only")
    return Axes(length, next((prime for prime in _PRIMES if prime <= length), length), stacked)


def _leaves(value: Any) -> list[Any]:
    """What lies in nested mappings, lists, tuples and dataclasses."""
    if isinstance(value, Mapping):
        return [leaf for each in value.values() for leaf in _leaves(each)]
    if isinstance(value, list | tuple):
        return [leaf for each in value for leaf in _leaves(each)]
    if is_dataclass(value) and not isinstance(value, type):
        return [leaf for each in fields(value) for leaf in _leaves(getattr(value, each.name))]
    return [value]


def _taken(value: Any, order: Tensor, axes: Axes) -> Any:
    """A batch of the samples in an order, copied."""
    if isinstance(value, Tensor):
        axis = axes.of(value)
        return value.clone() if axis is None else value.index_select(axis, order.to(value.device))
    if isinstance(value, Mapping):
        made = {key: _taken(each, order, axes) for key, each in value.items()}
        return made if type(value) is dict else type(value)(made)  # pyright: ignore[reportCallIssue]  # mappings take one
    if isinstance(value, list | tuple):
        if len(value) == axes.length and not any(isinstance(each, Tensor) and axes.of(each) == 0 for each in value):
            items = [value[index] for index in order.tolist()]  # one item per sample
        else:
            items = [_taken(each, order, axes) for each in value]
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*items)
        return type(value)(items)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _taken(getattr(value, each.name), order, axes) for each in fields(value)})
    return value
