"""From marks and holders to plain numbers: which steps' graphs are alive, where they hang, and what they weigh."""

import itertools
import math
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from torch.autograd.graph import Node

from lightning_diagnostics.diagnostics.graph_leak.growth import Ahead
from lightning_diagnostics.diagnostics.graph_leak.holders import Holding, reached
from lightning_diagnostics.diagnostics.graph_leak.search import LONGEST, Kind, container, length
from lightning_diagnostics.probes import GraphMark, GraphMarks, grad_fn, graph_nodes, saved_storages, storage
from lightning_diagnostics.tensorboard import quantity

NODE_BYTES = 500
"""What a graph node weighs after its backward has freed the tensors it saved.

Measured: an MLP's step retained 3,000 times grows the resident size by 530 bytes a node on CPU (torch 2.13).
"""

_MOST_WEIGHED = 5_000  # and weighed there; the growth of a larger graph is that of its newest part


@dataclass(frozen=True)
class Liveness:
    """What is drawn, at a look.

    Attributes:
        graphs_alive: Earlier training steps whose autograd graph is alive.
        memory_in_use: Memory in use.
    """

    graphs_alive: int = quantity(
        tag="graph_leak/graphs_alive",
        unit="steps",
        how="earlier training steps of which at least one marked autograd node is alive when the next step begins; "
        "0 is usual, 1 where something still holds the last step's output; from some 500 on to within a few",
    )
    memory_in_use: float | None = quantity(
        tag="graph_leak/memory_in_use",
        unit="MiB",
        how="bytes of the device's allocator in use, for the CPU the resident size of the process, over 2**20",
    )


@dataclass(frozen=True)
class Retention:
    """Graphs that are kept alive at one place (or, with ``where=None``, at a place that was not found).

    Attributes:
        where: A Python expression that evaluates to the holder.
        name: The attribute or variable, e.g. ``"running_loss"``.
        kind: What sort of thing it is.
        holder: Its type, e.g. ``"list"``.
        container: The built-in container that it is or derives from, e.g. ``"dict"``; empty for anything else.
        direct: Whether the tensors are items of that container, not deeper inside.
        chained: Whether one tensor alone hangs on several old steps, as a running sum or a carried state does.
        members: Where several attributes are taken together, their names.
        tensors: How many tensors with a graph are under it.
        elements: Elements of the largest of them.
        operations: The last operation of the newest of them and the one before it, by their nodes' names.
        steps: Old steps it keeps alive, as far as marks tell.
        every_step: Whether they are all steps of their span; between looks a step may go unmarked.
        first_step: The oldest of them, on the axis of ``self.log``.
        nodes_per_step: Graph nodes it grows by.
        bytes_per_step: Bytes it grows by: its tensors, what nodes still save, and `NODE_BYTES` for each node.
        exact: Whether all of it was weighed; else the numbers are lower bounds.
        bound: The most tensors it can hold (a deque's ``maxlen``); None without a bound.
        ahead: How far the growth is projected: to the end of the run, or of the epoch (until it has outlived one), or
            until it is cleared (once it was).
        steps_ahead: Training batches until then; inf for a run or an epoch without an end.
        free_bytes: Memory free on the device that holds most of it; None if unknown.
        custom: Custom ``torch.autograd.Function`` nodes in the retained graphs.
    """

    where: str | None
    steps: int
    every_step: bool
    first_step: int
    ahead: Ahead
    steps_ahead: float
    name: str = ""
    kind: Kind = "attribute"
    holder: str = ""
    container: str = ""
    direct: bool = False
    chained: bool = False
    members: tuple[str, ...] = ()
    tensors: int = 0
    elements: int = 0
    operations: tuple[str, ...] = ()
    nodes_per_step: float = math.nan
    bytes_per_step: float = math.nan
    exact: bool = True
    bound: int | None = None
    free_bytes: float | None = None
    custom: tuple[str, ...] = ()


def weigh(
    holding: Holding,
    marks: GraphMarks,
    *,
    before: int,
    own: Mapping[int, int],
    free: Mapping[str, float | None],
    ahead: tuple[Ahead, float],
) -> Retention:
    """What one holding keeps alive, in plain numbers.

    Args:
        holding: The holding.
        marks: The marks in the graphs.
        before: Graphs whose last backward pass was at this tick or later are not old.
        own: Storages that exist anyway (parameters, buffers).
        free: Free memory by device type.
        ahead: How far the growth is projected, and the training batches until then.
    """
    where, newest = holding.where, holding.tensors[-1]
    value = holding.visited.get(where, newest)
    tensors = [tensor for spot, tensor in holding.all if spot.pieces[: len(where)] == where]
    walk = _walk(tensors, marks)
    held = {address: size for tensor in tensors for address, size in storage(tensor).items()}
    span = max(walk.ticks | holding.steps.keys()) - min(holding.steps) + 1
    walked = max(span * walk.opened / len(tensors) if len(tensors) > 1 else walk.span, 1)
    graph = walk.nodes * NODE_BYTES
    graph += sum(size for address, size in walk.saved.items() if address not in own and address not in held)
    spot = holding.spots[-1]
    direct = len(spot.pieces) == len(where) + 1
    return Retention(
        where="".join(where),
        name=spot.name,
        kind=spot.kind,
        holder=type(value).__name__,
        members=tuple(member.rpartition(".")[2] for member in holding.members),
        container=container(type(value)),
        direct=direct,
        chained=len(set(itertools.islice((m.tick for m in reached([newest], marks, before=before)), 64))) > 1,
        tensors=max(len(tensors), length(value) if direct else 0),
        elements=max(t.numel() for t in tensors),
        operations=tuple(type(node).__name__ for node in graph_nodes([grad_fn(newest)], most=2)),
        steps=len(holding.steps),
        every_step=_gapless(holding.steps),
        first_step=min(mark.step for mark in holding.steps.values()),
        nodes_per_step=walk.nodes / walked,
        bytes_per_step=graph / walked + sum(size for address, size in held.items() if address not in own) / span,
        exact=walk.opened == len(tensors) < LONGEST and walk.nodes < _MOST_WEIGHED,
        bound=cast("deque[object]", value).maxlen if issubclass(type(value), deque) else None,
        ahead=ahead[0],
        steps_ahead=ahead[1],
        free_bytes=free.get(newest.device.type),
        custom=tuple(sorted({name for mark in holding.steps.values() for name in mark.custom})),
    )


@dataclass
class _Walk:
    """What was met in the graphs of some tensors, the newest first.

    Attributes:
        opened: Tensors whose graphs were walked.
        nodes: Nodes of these graphs.
        saved: Storages that the nodes still save.
        ticks: Steps whose marks were met, young ones too: they weigh as much.
    """

    opened: int = 0
    nodes: int = 0
    saved: dict[int, int] = field(default_factory=dict[int, int])
    ticks: set[int] = field(default_factory=set[int])

    @property
    def span(self) -> int:
        """Steps from the first mark to the last; not their number, since between looks a step may go unmarked."""
        return max(self.ticks) - min(self.ticks) + 1 if self.ticks else 1


def _walk(tensors: list[Tensor], marks: GraphMarks) -> _Walk:
    """Walk the graphs of ``tensors``, the newest first, as far as is affordable."""
    walk, seen = _Walk(), set[Node]()
    for tensor in reversed(tensors):
        if walk.nodes >= _MOST_WEIGHED:
            break
        walk.opened += 1
        for node in graph_nodes([grad_fn(tensor)], most=_MOST_WEIGHED - walk.nodes, seen=seen):
            walk.nodes += 1
            walk.saved.update(saved_storages(node))
            mark = marks.of(node)
            if mark is not None:
                walk.ticks.add(mark.tick)
    return walk


def unheld(old: list[GraphMark], *, ahead: tuple[Ahead, float]) -> Retention:
    """Old steps that are alive without a path to them."""
    return Retention(
        where=None,
        steps=len(old),
        every_step=_gapless([mark.tick for mark in old]),
        first_step=min(mark.step for mark in old),
        ahead=ahead[0],
        steps_ahead=ahead[1],
        exact=False,
        custom=tuple(sorted({name for mark in old for name in mark.custom})),
    )


def _gapless(ticks: Collection[int]) -> bool:
    return len(ticks) == max(ticks) - min(ticks) + 1


def own_storages(module: torch.nn.Module) -> dict[int, int]:
    """The storages of a module's parameters and buffers."""
    found: dict[int, int] = {}
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        found.update(storage(tensor))
    return found
