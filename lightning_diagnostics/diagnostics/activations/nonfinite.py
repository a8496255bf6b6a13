"""Where the first NaN or infinity of a forward pass was made, read from the autograd graph without running it again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from lightning_diagnostics.probes import is_parameter, node_number, saved_tensors

_MOST = 20_000  # nodes; a graph that is larger is searched up to there
_RESULTS = frozenset({"result", "result0", "output", "out", "logsumexp"})  # saved tensors that a node made itself

_LOGARITHMS = frozenset({"log", "log2", "log10", "log1p"})


@dataclass(frozen=True)
class Origin:
    """What made the first value that is not finite.

    Attributes:
        where: The module or call that it belongs to, or that it comes after; None if there is none.
        inside: Whether it belongs to it.
        what: ``"NaN"`` or ``"Inf"``.
        operation: The operation, in the words of torch (``"log"``); empty where it is not known.
        low: The smallest of its inputs; None where it saved none.
        high: The largest of its inputs.
        batch: Whether it came with the batch.
        weights: The parameter that is not finite already; empty if it is none.
    """

    where: str | None
    inside: bool
    what: str
    operation: str = ""
    low: float | None = None
    high: float | None = None
    batch: bool = False
    weights: str = ""


def find_origin(root: Node | None, made: Mapping[int, str], module: nn.Module) -> Origin | None:
    """The operation whose output is the first that is not finite, in the order of the forward pass.

    A node's saved tensors tell what went into it, and those of the nodes after it what came out. An operation that
    saves nothing is known by its neighbours.

    Args:
        root: The ``grad_fn`` of a loss that is not finite, before its backward pass.
        made: The numbers of the nodes at which modules and calls made their outputs, with their names.
        module: The model, whose parameters are named.
    """
    if root is None:
        return None
    if (broken := broken_weights(module)) is not None:
        return broken
    place: dict[Node, str] = {}
    for node in _inputs_first(root):
        sources = [child for child, _ in node.next_functions if child is not None and not is_parameter(child)]
        before = next((place[child] for child in sources if child in place), None)
        here = made.get(node_number(node), before)
        if here is not None:
            place[node] = here
        saved = saved_tensors(node)
        if (output := _made_of(node, saved)) is not None and not _finite(output):
            return _origin(node, output, place, made)
        bad = next(((name, tensor) for name, tensor in saved.items() if _broken(tensor, sources)), None)
        if bad is None:
            continue
        if bad[0] in _RESULTS:
            return _origin(node, bad[1], place, made)
        if not sources:
            return Origin(here, True, _what(bad[1]), batch=True)
        return _origin(sources[0], bad[1], place, made)
    return Origin(place.get(root), False, "NaN or Inf", _operation(root))


def broken_weights(module: nn.Module) -> Origin | None:
    """The first parameter of a model that is not finite, if there is one."""
    name = _broken_parameter(module)
    if not name:
        return None
    return Origin(name.rpartition(".")[0] or None, True, _what(module.get_parameter(name)), weights=name)


def _origin(node: Node, output: Tensor, place: Mapping[Node, str], made: Mapping[int, str]) -> Origin:
    """The node that made an output which is not finite, with the range of the inputs that it saved."""
    inputs = [t for name, t in saved_tensors(node).items() if name not in _RESULTS and _has_range(t)]
    inside = node_number(node) in made
    return Origin(
        place.get(node),
        inside,
        _what(output),
        _operation(node),
        min((float(t.min()) for t in inputs), default=None),
        max((float(t.max()) for t in inputs), default=None),
    )


def _inputs_first(root: Node) -> Iterator[Node]:
    """The nodes behind a root, each after all that it depends on."""
    seen, stack, count = {root}, [(root, iter(root.next_functions))], 0
    while stack:
        node, children = stack[-1]
        child = next((c for c, _ in children if c is not None and c not in seen), None)
        if child is None or count >= _MOST:
            stack.pop()
            yield node
            continue
        seen.add(child)
        count += 1
        stack.append((child, iter(child.next_functions)))


def _made_of(node: Node, saved: Mapping[str, Tensor]) -> Tensor | None:
    """The output of an operation that makes infinities of finite inputs and saves those alone, computed again."""
    operation, inputs = _operation(node), saved.get("self")
    if not all(_finite(tensor) for tensor in saved.values()):
        return None
    if operation in _LOGARITHMS and inputs is not None:
        return getattr(torch, operation)(inputs)
    if operation == "div" and "other" in saved:
        return inputs / saved["other"] if inputs is not None else saved["other"].reciprocal()
    exponent = getattr(node, "_saved_exponent", None)
    if operation == "pow" and inputs is not None and isinstance(exponent, int | float):
        return inputs.pow(exponent)
    return None


def _broken_parameter(module: nn.Module) -> str:
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and not _finite(parameter.detach()):
            return name
    return ""


def _finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel() or tensor.layout is not torch.strided:
        return True
    return bool(tensor.isfinite().all())


def _broken(tensor: Tensor, sources: Sequence[Node]) -> bool:
    """Whether something is not finite; negative infinity that was computed is what masks are made of."""
    return not _finite(tensor) and not (sources and bool((tensor.isfinite() | tensor.isneginf()).all()))


def _has_range(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.numel() > 0 and _finite(tensor)


def _what(tensor: Tensor) -> str:
    return "NaN" if bool(tensor.detach().isnan().any()) else "Inf"


def _operation(node: Node) -> str:
    """The operation that a node is the derivative of: ``LogBackward0`` is of ``log``."""
    name = node.name().rpartition("::")[2]
    return name.rstrip("0123456789").removesuffix("Backward").lower() or name
