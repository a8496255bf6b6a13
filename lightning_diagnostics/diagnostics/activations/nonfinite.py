"""Where the first NaN or infinity of a forward pass was made, read from the autograd graph without running it again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from lightning_diagnostics.probes import node_number, saved_tensors

_MOST = 20_000  # nodes; a graph that is larger is searched up to there
_RESULTS = frozenset({"result", "result0", "output", "out", "logsumexp"})  # saved tensors that a node made itself


@dataclass(frozen=True)
class Origin:
    """What made the first value that is not finite.

    Attributes:
        where: The module or call that it belongs to, or that it comes after; None if there is none.
        what: ``"NaN"`` or ``"Inf"``.
        operation: The operation, in the words of torch (``"log"``).
        low: The smallest of its inputs; None where it saved none.
        high: The largest of its inputs.
        weights: The parameter that is not finite already; empty if it is none.
    """

    where: str | None
    what: str
    operation: str
    low: float | None
    high: float | None
    weights: str


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
    broken = _broken_parameter(module)
    if broken:
        return Origin(broken.rpartition(".")[0] or None, _what(module.get_parameter(broken)), "", None, None, broken)
    place: dict[Node, str] = {}
    for node in _inputs_first(root):
        children = [child for child, _ in node.next_functions if child is not None]
        before = next((place[child] for child in children if child in place), None)
        here = made.get(node_number(node), before)
        if here is not None:
            place[node] = here
        bad = next(((name, t) for name, t in saved_tensors(node).items() if not _finite(t)), None)
        if bad is None:
            continue
        name, tensor = bad
        guilty = node if name in _RESULTS else next((child for child in children if _makes(child)), None)
        if guilty is None:
            return Origin(None, _what(tensor), "the batch", None, None, "")
        inputs = [t for name, t in saved_tensors(guilty).items() if name not in _RESULTS and _finite(t)]
        low = min((float(t.min()) for t in inputs), default=None)
        high = max((float(t.max()) for t in inputs), default=None)
        return Origin(_owner(guilty, place, made), _what(tensor), _operation(guilty), low, high, "")
    return Origin(place.get(root), "NaN or Inf", _operation(root), None, None, "")


def _owner(node: Node, place: Mapping[Node, str], made: Mapping[int, str]) -> str | None:
    return made.get(node_number(node), place.get(node))


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


def _makes(node: Node) -> bool:
    return node.name().rpartition("::")[2] != "AccumulateGrad"


def _broken_parameter(module: nn.Module) -> str:
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and not _finite(parameter.detach()):
            return name
    return ""


def _finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel() or tensor.layout is not torch.strided:
        return True
    return bool(tensor.isfinite().all())


def _what(tensor: Tensor) -> str:
    return "NaN" if bool(tensor.detach().isnan().any()) else "Inf"


def _operation(node: Node) -> str:
    """The operation that a node is the derivative of: ``LogBackward0`` is of ``log``."""
    name = node.name().rpartition("::")[2]
    return name.rstrip("0123456789").removesuffix("Backward").lower() or name
