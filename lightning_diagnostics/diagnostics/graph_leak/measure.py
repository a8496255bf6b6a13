"""From marks and holders to plain numbers: which steps' graphs are alive, where they hang, and what they weigh."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import Node

from lightning_diagnostics.diagnostics.graph_leak.holders import LONGEST, Kind, Spot, search
from lightning_diagnostics.probes import GraphMark, GraphMarks, graph_nodes, saved_storages, storage
from lightning_diagnostics.tensorboard import quantity

NODE_BYTES = 500
"""What a graph node weighs after its backward has freed the tensors it saved.

Measured: an MLP's step retained 3,000 times grows the resident size by 530 bytes a node on CPU (torch 2.13).
"""

_MOST_NODES = 20_000  # searched for marks at one place
_MOST_WEIGHED = 5_000  # and weighed there; the growth of a larger graph is that of its newest part
_SHALLOW = 256  # nodes looked at to see whether a tensor hangs on an old step at all


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
        "0 is usual, 1 where something still holds the last step's output",
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
        steps_left: Training batches still to come; inf for a run without an end.
        free_bytes: Memory free on the device that holds most of it; None if unknown.
        custom: Custom ``torch.autograd.Function`` nodes in the retained graphs.
    """

    where: str | None
    name: str
    kind: Kind
    holder: str
    members: tuple[str, ...]
    tensors: int
    elements: int
    operations: tuple[str, ...]
    steps: int
    every_step: bool
    first_step: int
    nodes_per_step: float
    bytes_per_step: float
    exact: bool
    bound: int | None
    steps_left: float
    free_bytes: float | None
    custom: tuple[str, ...] = ()


@dataclass
class Holding:
    """The tensors found under one attribute or variable; lives only while a measurement is made.

    Attributes:
        anchor: The path to the attribute or variable, or to the object whose attributes are taken together.
        family: Whether it is several attributes taken together.
        visited: The containers and objects that the search opened, by the pieces of their path.
        spots: Where the tensors are that old steps hang on.
        tensors: These tensors.
        steps: The old steps, by tick.
        others: Tensors under the same attribute whose graph shows no old step: young ones, and those between looks.
    """

    anchor: str
    family: bool
    visited: dict[tuple[str, ...], object]
    spots: list[Spot] = field(default_factory=list[Spot])
    tensors: list[Tensor] = field(default_factory=list[Tensor])
    steps: dict[int, GraphMark] = field(default_factory=dict[int, GraphMark])
    others: list[tuple[Spot, Tensor]] = field(default_factory=list[tuple[Spot, Tensor]])

    def add(self, spot: Spot, tensor: Tensor, reached: Iterable[GraphMark]) -> None:
        """One more tensor and steps that hang on it."""
        self.spots.append(spot)
        self.tensors.append(tensor)
        self.steps.update((mark.tick, mark) for mark in reached)

    @property
    def where(self) -> tuple[str, ...]:
        """The path to what holds all of the tensors: to one of them, or to the innermost container of several."""
        first, *others = (spot.pieces for spot in self.spots)
        shared = first
        for pieces in others:
            same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(shared, pieces, strict=False))
            shared = tuple(piece for piece, _ in same)
        return tuple(itertools.takewhile(lambda piece: piece != "[...]", shared))


def holdings(roots: Mapping[str, object], marks: GraphMarks, *, before: int, steps: int) -> list[Holding]:
    """Where the graphs of old steps are held, by attribute.

    Attributes that hold fewer than ``steps`` old steps each, but as many together with their siblings, are taken
    together under the object they are attributes of.

    Args:
        roots: Objects to search, by the expression that evaluates to them.
        marks: The marks in the graphs.
        before: Ticks from this on are not old.
        steps: Old steps that make a holder.
    """
    found: dict[str, Holding] = {}
    visited: dict[tuple[str, ...], object] = {}
    for spot, tensor in search(roots, visited):
        first = next(_reached([tensor], marks, before=before, most=_SHALLOW), None)
        holding = found.setdefault(_anchor(spot), Holding(_anchor(spot), False, visited))
        if first is None:
            holding.others.append((spot, tensor))
        else:
            holding.add(spot, tensor, [first])
    for holding in found.values():
        if 0 < len(holding.steps) < steps:
            reached = _reached(holding.tensors, marks, before=before, most=_MOST_NODES)
            holding.steps.update((mark.tick, mark) for mark in reached)
    large = [holding for holding in found.values() if len(holding.steps) >= steps]
    return large or [family for family in _families(found.values()) if len(family.steps) >= steps]


def _anchor(spot: Spot) -> str:
    """What a tensor's holder goes by: the attribute or variable it is under; all gradients of a model are one."""
    if spot.kind == "gradient":
        return f"the gradients of {spot.pieces[0]}"
    return "".join(spot.pieces[: spot.anchor])


def _families(small: Iterable[Holding]) -> list[Holding]:
    """Holdings taken together by the object whose attributes they are."""
    families: dict[str, Holding] = {}
    for holding in small:
        if not holding.spots:
            continue
        spot = holding.spots[0]
        owner = "".join(spot.pieces[: spot.anchor - 1])
        family = families.setdefault(owner, Holding(owner, True, holding.visited))
        for each, tensor in zip(holding.spots, holding.tensors, strict=True):
            family.add(each, tensor, holding.steps.values())
    return list(families.values())


def _reached(tensors: Iterable[Tensor], marks: GraphMarks, *, before: int, most: int) -> Iterator[GraphMark]:
    """The marks of old steps on the graphs of ``tensors``, nearest first."""
    for node in graph_nodes([t.grad_fn for t in tensors], most=most):
        mark = marks.of(node)
        if mark is not None and mark.tick < before and mark.backward:
            yield mark


def weigh(
    holding: Holding, marks: GraphMarks, *, own: Mapping[int, int], steps_left: float, free: Mapping[str, float | None]
) -> Retention:
    """What one holding keeps alive, in plain numbers.

    Args:
        holding: The holding.
        marks: The marks in the graphs.
        own: Storages that exist anyway (parameters, buffers).
        steps_left: Training batches still to come.
        free: Free memory by device type.
    """
    where, newest = holding.where, holding.tensors[-1]
    value = holding.visited.get(where, newest)
    tensors = holding.tensors + [tensor for spot, tensor in holding.others if spot.pieces[: len(where)] == where]
    nodes, saved, ticks = _walked(tensors, marks)
    held = {address: size for tensor in tensors for address, size in storage(tensor).items()}
    walked = max(ticks) - min(ticks) + 1  # not their number: between looks a step may go unmarked
    span = max(ticks | holding.steps.keys()) - min(holding.steps) + 1
    graph = nodes * NODE_BYTES + sum(
        size for address, size in saved.items() if address not in own and address not in held
    )
    spot = holding.spots[-1]
    return Retention(
        where="".join(where),
        name=spot.name,
        kind=spot.kind,
        holder=type(value).__name__,
        members=tuple(each.name for each in holding.spots) if holding.family else (),
        tensors=len(tensors),
        elements=max(t.numel() for t in tensors),
        operations=tuple(node.name() for node in graph_nodes([newest.grad_fn], most=2)),
        steps=len(holding.steps),
        every_step=_gapless(holding.steps),
        first_step=min(mark.step for mark in holding.steps.values()),
        nodes_per_step=nodes / walked,
        bytes_per_step=graph / walked + sum(size for address, size in held.items() if address not in own) / span,
        exact=nodes < _MOST_WEIGHED and len(tensors) < LONGEST,
        bound=getattr(value, "maxlen", None),
        steps_left=steps_left,
        free_bytes=free.get(newest.device.type),
        custom=tuple(sorted({name for mark in holding.steps.values() for name in mark.custom})),
    )


def _walked(tensors: list[Tensor], marks: GraphMarks) -> tuple[int, dict[int, int], set[int]]:
    """Nodes of the graphs of ``tensors``, the newest first, what they still save, and the ticks of the steps met."""
    nodes, saved, ticks, seen = 0, dict[int, int](), set[int](), set[Node]()
    for tensor in reversed(tensors):
        for node in graph_nodes([tensor.grad_fn], most=_MOST_WEIGHED - nodes, seen=seen):
            nodes += 1
            saved.update(saved_storages(node))
            mark = marks.of(node)
            if mark is not None:
                ticks.add(mark.tick)  # young steps too: they weigh as much
        if nodes >= _MOST_WEIGHED:
            break
    return nodes, saved, ticks


def unheld(old: list[GraphMark], *, steps_left: float) -> Retention:
    """Old steps that are alive without a Python path to them."""
    return Retention(
        where=None,
        name="",
        kind="attribute",
        holder="",
        members=(),
        tensors=0,
        elements=0,
        operations=(),
        steps=len(old),
        every_step=_gapless([mark.tick for mark in old]),
        first_step=min(mark.step for mark in old),
        nodes_per_step=float("nan"),
        bytes_per_step=float("nan"),
        exact=False,
        bound=None,
        steps_left=steps_left,
        free_bytes=None,
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
