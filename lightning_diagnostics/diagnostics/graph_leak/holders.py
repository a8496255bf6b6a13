"""From tensors to holders: which attribute or variable the graphs of old steps hang on."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from lightning_diagnostics.diagnostics.graph_leak.search import Spot, search
from lightning_diagnostics.probes import GraphMark, GraphMarks, grad_fn, graph_nodes

_MOST_NODES = 20_000  # searched for marks at one place
_SHALLOW = 256  # nodes looked at to see whether a tensor hangs on an old step at all


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
        all: All tensors with a graph under the attribute, in the order they were met: also young ones, and those of
            steps that went unmarked.
    """

    anchor: str
    family: bool
    visited: dict[tuple[str, ...], object]
    spots: list[Spot] = field(default_factory=list[Spot])
    tensors: list[Tensor] = field(default_factory=list[Tensor])
    steps: dict[int, GraphMark] = field(default_factory=dict[int, GraphMark])
    all: list[tuple[Spot, Tensor]] = field(default_factory=list[tuple[Spot, Tensor]])

    def add(self, spot: Spot, tensor: Tensor, first: GraphMark | None) -> None:
        """One more tensor, and the nearest old step in its graph if there is one."""
        self.all.append((spot, tensor))
        if first is not None:
            self.spots.append(spot)
            self.tensors.append(tensor)
            self.steps[first.tick] = first

    def completed(self, marks: GraphMarks, before: int, steps: int) -> bool:
        """Whether it holds ``steps`` old steps, looked at more closely if that was not seen at once."""
        if 0 < len(self.steps) < steps:
            marked = reached(self.tensors, marks, before=before)
            self.steps.update((mark.tick, mark) for mark in marked)
        return len(self.steps) >= steps and (not self.family or len(set(self.members)) >= steps)

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the attributes of a family."""
        return tuple(dict.fromkeys("".join(spot.pieces[: spot.home]) for spot in self.spots)) if self.family else ()

    @property
    def where(self) -> tuple[str, ...]:
        """The path to what holds all of the tensors: to one of them, or to the innermost container of several."""
        first, *others = (spot.pieces for spot in self.spots)
        shared = first
        for pieces in others:
            same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(shared, pieces, strict=False))
            shared = tuple(piece for piece, _ in same)
        return tuple(itertools.takewhile(lambda piece: piece != "[...]", shared))


def holdings(roots: Mapping[str, object], marks: GraphMarks, *, before: int, steps: int) -> tuple[list[Holding], bool]:
    """Where the graphs of old steps are held, and whether they are held anywhere at all.

    A holder is the attribute or variable that holds ``steps`` old steps. Where none does, it is the outermost attribute
    around several that do together (closures in a list), else the object of which several attributes do.

    Args:
        roots: Objects to search, by the expression that evaluates to them.
        marks: The marks in the graphs.
        before: Graphs whose last backward pass was at this tick or later are not old.
        steps: Old steps that make a holder.
    """
    visited: dict[tuple[str, ...], object] = {}
    met = [
        (spot, tensor, next(reached([tensor], marks, before=before, most=_SHALLOW), None))
        for spot, tensor in search(roots, visited)
    ]
    proven = any(first is not None for _, _, first in met)
    for place in (_anchor, _home, _owner):
        found: dict[str, Holding] = {}
        for spot, tensor, first in met:
            holding = found.setdefault(place(spot), Holding(place(spot), place is _owner, visited))
            holding.add(spot, tensor, first)
        large = [holding for holding in found.values() if holding.completed(marks, before, steps)]
        if large:
            return large, proven
    return [], proven


def _anchor(spot: Spot) -> str:
    """What a tensor's holder goes by: the attribute or variable it is under; all gradients of a model are one."""
    if spot.kind == "gradient":
        return f"the gradients of {spot.pieces[0]}"
    return "".join(spot.pieces[: spot.anchor])


def _home(spot: Spot) -> str:
    return "".join(spot.pieces[: spot.home])


def _owner(spot: Spot) -> str:
    return "".join(spot.pieces[: max(spot.home - 1, 1)])


def reached(
    tensors: Iterable[Tensor], marks: GraphMarks, *, before: int, most: int = _MOST_NODES
) -> Iterator[GraphMark]:
    """The marks of old steps on the graphs of ``tensors``, nearest first."""
    for node in graph_nodes([grad_fn(tensor) for tensor in tensors], most=most):
        mark = marks.of(node)
        if mark is not None and mark.outlived(before):
            yield mark
