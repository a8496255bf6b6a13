"""What each module of a pass makes of each sample of the batch, in two numbers, so that two passes can be compared."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_diagnostics.probes.watch import Watch

_PER_CALL = 16  # tensors of a call's inputs, or outputs, that are compared


@dataclass(frozen=True)
class Sketch:
    """A tensor, by sample.

    Attributes:
        product: With fixed pseudo-random numbers; shape (samples,), float64.
        size: Its norm; shape (samples,), float64.
        epsilon: Of the tensor's dtype.
    """

    product: Tensor
    size: Tensor
    epsilon: float


@dataclass(eq=False)
class Call:
    """One call of a module.

    Attributes:
        path: Of the module.
        outermost: Whether no other module made it.
        predicts: Whether it may make predictions: it is no loss and no metric.
        inputs: Sketches of the tensors that went in.
        outputs: Sketches of the tensors that came out.
    """

    path: str
    outermost: bool
    predicts: bool
    inputs: list[Sketch]
    outputs: list[Sketch]


class SampleWatch(Watch):
    """Sketches what goes in and out of the modules of a pass, in the order in which they return.

    Args:
        names: See `Watch`.
        samples: How many samples there are in the batch.
        deep: Whether that is done for every module; else for what comes out of those that no other module calls.
    """

    def __init__(self, names: dict[str, str], samples: int, *, deep: bool) -> None:
        super().__init__(names)
        self._samples = samples
        self._deep = deep

    @override
    def _reset(self) -> None:
        super()._reset()
        self.calls: list[Call] = []
        self._inputs: list[list[Sketch]] = []

    @override
    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._inputs.append([])
        if self._deep:
            self._guard(self._see_inputs, args)

    @override
    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        inputs = self._inputs.pop()
        if self._deep and kwargs:
            self._guard(self._see_keywords, inputs, kwargs)
        if self._deep or not self._stack:
            self._guard(self._keep, module, inputs, output)

    def _see_inputs(self, args: tuple[Any, ...]) -> None:
        self._inputs[-1].extend(sketches(args, self._samples))

    def _see_keywords(self, inputs: list[Sketch], kwargs: Mapping[str, Any]) -> None:
        inputs.extend(sketches(kwargs, self._samples))

    def _keep(self, module: nn.Module, inputs: list[Sketch], output: Any) -> None:
        predicts = is_predictor(module)
        path = self._names.path(module, self._stack)
        self.calls.append(Call(path, not self._stack, predicts, inputs, sketches(output, self._samples)))


@dataclass(eq=False)
class Kept:
    """A call of a module, to be made again.

    Attributes:
        module: The module.
        args: Its arguments, as the call left them.
        kwargs: Those by name.
        training: The modes of its submodules, as the call left them.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    training: list[tuple[nn.Module, bool]]


class CallKeeper(Watch):
    """Keeps the calls of modules that no other module makes, with their arguments.

    Args:
        names: See `Watch`.
        copied: Makes a copy of the arguments; None if the call is of no interest.
    """

    def __init__(self, names: dict[str, str], copied: Callable[[Any], Any]) -> None:
        super().__init__(names)
        self._copied = copied
        self.calls: list[Kept] = []

    @override
    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        wraps = not self._stack and type(module).__name__ == _WRAPPER
        step = len(self._stack) == 1 and type(self._stack[0]).__name__ == _WRAPPER
        if output is None or wraps or step or self._is_inside(self._stack) or len(self.calls) >= _KEPT:
            return
        if is_predictor(module):
            self._guard(self._keep, module, args, kwargs)

    @staticmethod
    def _is_inside(stack: Sequence[nn.Module]) -> bool:
        """Whether a module is running, other than the wrapper of several processes and the model whose step it runs."""
        return len(stack) > (2 if stack and type(stack[0]).__name__ == _WRAPPER else 0)

    def _keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        copied = self._copied((args, dict(kwargs)))
        if copied is not None:
            modes = [(each, bool(getattr(each, "training", False))) for each in module.modules()]
            self.calls.append(Kept(module, copied[0], copied[1], modes))


def is_predictor(module: nn.Module) -> bool:
    """Whether a module may make predictions: no loss and no metric, as far as its class tells."""
    if hasattr(module, "compute") and hasattr(module, "update"):
        return False
    name = type(module).__name__.lower()
    if not any(word in name for word in _NO_PREDICTORS):
        return True
    return any(True for child in module.children() for _ in child.parameters())  # a model that is called after its loss


_KEPT = 16  # calls of a step
_WRAPPER = "DistributedDataParallel"
_NO_PREDICTORS = ("loss", "criterion")


def sketches(value: Any, samples: int) -> list[Sketch]:
    """Sketches of the tensors in a value that have the samples along one of their first two axes, and one only."""
    found = (sketch for tensor in tensors(value) if (sketch := _sketch(tensor, samples)) is not None)
    return [each for each, _ in zip(found, range(_PER_CALL), strict=False)]


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples, mappings and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield from tensors(getattr(value, each.name, None))


def _sketch(tensor: Tensor, samples: int) -> Sketch | None:
    """None where the samples are along no axis, or along two: what pairs samples depends on both."""
    if tensor.is_nested or tensor.layout != torch.strided:  # a nested tensor has no shape
        return None
    axes = [axis for axis in range(min(tensor.dim(), 2)) if tensor.shape[axis] == samples]
    if len(axes) != 1 or not (tensor.is_floating_point() or tensor.is_complex()):
        return None
    tensor = tensor.detach()
    epsilon = torch.finfo(tensor.dtype).eps
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    rows = tensor.movedim(axes[0], 0).reshape(samples, -1)
    if not rows.shape[1]:
        return None
    exact = rows.to(torch.float32 if rows.device.type == "mps" else torch.float64)
    return Sketch(exact @ _numbers(rows.shape[1], exact), torch.linalg.vector_norm(exact, dim=1), epsilon)


def _numbers(count: int, like: Tensor) -> Tensor:
    """Fixed numbers between -1 and 1 without a pattern, which draw nothing from a generator."""
    places = torch.arange(1, count + 1, device=like.device, dtype=like.dtype)
    return torch.cos(places * places * math.sqrt(2.0))
