"""Where in the autograd graph of a step a layer stands: before a loss, behind weights, or out of its reach."""

from typing import Any, cast

from torch.autograd.graph import Node

from lightning_diagnostics.probes.graphs import ACCUMULATE_GRAD, graph_nodes, node_number

_WHOLE_GRAPH = 100_000  # nodes, of a graph that is walked to its beginning


class GraphTooLarge(Exception):  # noqa: N818  # it is no error of anybody's
    """A graph has too many nodes to be walked."""


def parts_of_graph(root: Node | None) -> tuple[set[int], set[int]]:
    """The numbers of the nodes before and behind the parameters, seen from a loss.

    Args:
        root: The ``grad_fn`` of the loss.

    Returns:
        The nodes that the loss comes from without any weight in between, and only so; and those that are reached
        through weights (a layer whose outputs are penalised is among these, though the loss sees it directly too).

    Raises:
        GraphTooLarge: if there are too many nodes to tell.
    """
    heads = {} if root is None else {root: None}
    behind: dict[Node, None] = {}
    queue = list(heads)
    for node in queue:
        children = [child for child, _ in node.next_functions if child is not None]
        if any(_is_weight(child) for child in children):
            del heads[node]
            behind.update((child, None) for child in children if not _is_weight(child))
            continue
        for child in children:
            if child not in heads and len(queue) < _WHOLE_GRAPH:
                heads[child] = None
                queue.append(child)
    hidden = {node_number(node) for node in graph_nodes(behind, most=_WHOLE_GRAPH)}
    if max(len(queue), len(hidden)) >= _WHOLE_GRAPH:
        raise GraphTooLarge
    return {node_number(node) for node in heads} - hidden, hidden


def is_parameter(node: Node | None, *, dims: int = 0, depth: int = 4) -> bool:
    """Whether a node gives a parameter, or what was made of parameters alone (cast, transposed, normalised).

    Args:
        node: The node.
        dims: How many dimensions the parameter has at least.
        depth: How many nodes may lie between.
    """
    if node is None or depth == 0:
        return False
    if type(node) is ACCUMULATE_GRAD:
        return cast(Any, node).variable.dim() >= dims
    children = node.next_functions
    return bool(children) and all(is_parameter(child, dims=dims, depth=depth - 1) for child, _ in children)


def _is_weight(node: Node) -> bool:
    """Whether a node gives the weight of a layer; losses are scaled by parameters of fewer dimensions, too."""
    return is_parameter(node, dims=2)
