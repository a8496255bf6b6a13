"""The autograd graph of a step: its nodes, marks on them that tell how long it lives, and what it saved."""

import functools
import itertools
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

# A leaf's AccumulateGrad node lives as long as the leaf wherever something (a DDP reducer, say) holds on to it, so its
# lifetime says nothing about the graph of a step.
with torch.enable_grad():  # whoever imports this may have switched gradients off
    _leaf = torch.zeros(1, requires_grad=True, device="cpu")
    ACCUMULATE_GRAD: type = type(
        _leaf.view(1).grad_fn.next_functions[0][0]  # pyright: ignore[reportOptionalMemberAccess]  # a view of a leaf has a grad_fn
    )


def graph_nodes(roots: Iterable[Node | None], *, most: int, seen: set[Node] | None = None) -> Iterator[Node]:
    """The nodes of the autograd graph behind ``roots``, breadth first, leaves left out.

    Args:
        roots: ``grad_fn`` of the tensors to start from; None, of a tensor without a graph, is passed over.
        most: How many nodes at the most.
        seen: Nodes that are not to be visited again; takes up those that are.
    """
    seen = set() if seen is None else seen
    queue = deque(dict.fromkeys(root for root in roots if root is not None and root not in seen))
    seen.update(queue)
    while queue and most > 0:
        node = queue.popleft()
        if type(node) is ACCUMULATE_GRAD:
            continue
        yield node
        most -= 1
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                queue.append(child)


@dataclass(eq=False)
class GraphMark:
    """Sits in the graph of one step and dies with its last marked node.

    Attributes:
        tick: Training batch it was made in, counted in this process.
        step: The same on the axis of Lightning's ``self.log``.
        backward: Tick of the first backward pass that went through the graph; None until there was one, for which the
            graph is being kept. Those of later steps, as through a state that is never cut, do not make it younger.
        stands_for: How many steps the mark stands for in the list of those alive, once that was thinned out.
        custom: Names of the custom ``torch.autograd.Function`` nodes that were met.
    """

    tick: int
    step: int
    backward: int | None = None
    stands_for: int = 1
    custom: tuple[str, ...] = ()

    def outlived(self, before: int) -> bool:
        """Whether the first backward pass through the graph was before tick ``before``."""
        return self.backward is not None and self.backward < before


class GraphMarks:
    """Which training steps have an autograd graph that is still alive, known exactly and without the collector.

    A mark is put into ``node.metadata``, a dict that the C++ node owns, and only a weak reference to it is kept here:
    the reference dies when the last marked node of that step is destroyed, whoever held it, Python or C++. One mark
    serves all nodes of a step.

    Measured on torch 2.13: 0.6 µs a node in a tight loop, 1 to 3 µs between the operations of a training step.
    """

    _serial = itertools.count()

    def __init__(self, *, capacity: int = 128) -> None:
        self._key = f"lightning_diagnostics.mark.{next(self._serial)}"
        self._capacity = capacity
        self._entries: list[tuple[int, weakref.ref[GraphMark]]] = []
        self._current: GraphMark | None = None
        self.marked = 0
        """Nodes marked so far."""

    def __getstate__(self) -> dict[str, Any]:
        """Without the steps: a copy has no part in the graphs of this process, nor can it hold weak references."""
        return {**self.__dict__, "_entries": [], "_current": None}

    def begin(self, tick: int, step: int) -> None:
        """Start a new step: nodes marked from here on belong to it."""
        self._current = GraphMark(tick, step)

    def mark_output(self, root: Node | None, *, most: int) -> None:
        """Mark a graph of the current step of which no backward pass is known yet; its own nodes tell of one."""
        mark = self._current
        if root is None or mark is None:
            return

        if self.of(root) is not None:  # seen in this step, or kept from an earlier one
            return
        known = weakref.ref(mark)

        def went_through(grads: object) -> None:
            mark = known()  # held by the nodes alone: a hook that held it would keep the step alive by itself
            if mark is not None and mark.backward is None and self._current is not None:
                mark.backward = self._current.tick

        root.register_prehook(went_through)
        self._mark(root, mark, most)

    def mark_loss(self, root: Node | None, *, most: int) -> None:
        """Mark a graph of the current step that a backward pass is about to go through."""
        mark = self._current
        if root is not None and mark is not None:
            mark.backward = mark.tick
            self._mark(root, mark, most)

    def _mark(self, root: Node, mark: GraphMark, most: int) -> None:
        """Mark up to ``most`` nodes of a graph.

        Parts that carry a mark already (of this step or of an earlier one) keep it.
        """
        key, before, queue = self._key, self.marked, [root]
        for node in queue:  # grows as it goes; the mark itself tells which nodes were visited
            kind = type(node)
            if kind is ACCUMULATE_GRAD or key in (own := _metadata(node)):
                continue
            own[key] = mark
            self.marked += 1
            if _is_custom(kind) and kind.__name__ not in mark.custom:
                mark.custom = (*mark.custom, kind.__name__)
            if self.marked - before >= most:
                break
            queue += [child for child, _ in node.next_functions if child is not None]
        if self.marked > before and (not self._entries or self._entries[-1][0] != mark.tick):
            self._entries.append((mark.tick, weakref.ref(mark)))

    def alive(self, *, before: int) -> list[GraphMark]:
        """The marks of the steps whose graph lives although its first backward pass was before tick ``before``.

        The oldest comes first.

        With more than ``capacity`` of them every second one is forgotten (never the oldest or the newest), so that
        watching a leak does not become one: its neighbour then stands for it.
        """
        self._entries = [entry for entry in self._entries if entry[1]() is not None]
        if len(self._entries) > self._capacity:
            self._thin_out()
        marks = (ref() for tick, ref in self._entries if tick < before)
        return [mark for mark in marks if mark is not None and mark.outlived(before)]

    def _thin_out(self) -> None:
        kept = self._entries[:-1:2]
        for (_, stays), (_, goes) in zip(kept, self._entries[1:-1:2], strict=False):
            mark, dropped = stays(), goes()
            if mark is not None and dropped is not None:
                mark.stands_for += dropped.stands_for
        self._entries = [*kept, self._entries[-1]]

    def of(self, node: Node) -> GraphMark | None:
        """The mark on a node, if it carries one of ours."""
        return _metadata(node).get(self._key)

    def clear(self) -> None:
        """Forget all steps."""
        self._entries.clear()
        self._current = None


def _metadata(node: Any) -> dict[str, Any]:
    """The dict that a graph node owns (torch's own typing takes the attribute for a method)."""
    return node.metadata


def saved_storages(node: Node) -> dict[int, int]:
    """Bytes of the tensors that a node saved for its backward and has not freed yet, by storage address.

    Reading a saved tensor runs the user's unpack hook where there is one (activation checkpointing recomputes its
    forward there, off-loading moves data), so tensors packed by a hook are left out.
    """
    found: dict[int, int] = {}
    if _is_custom(type(node)):  # what its author stored on ctx without save_for_backward
        for value in vars(node).values():
            found |= storage(value) if isinstance(value, Tensor) else {}
    for name in _saved_names(type(node)):
        try:
            raw: Any = getattr(node, name)
        except RuntimeError:  # a custom Function's tensors after its backward has freed them
            continue
        for saved in raw if isinstance(raw, list | tuple) else (raw,):
            found.update(_unhooked(saved))
    return found


@functools.cache
def _is_custom(kind: type[Node]) -> bool:
    return issubclass(kind, torch.autograd.function.BackwardCFunction)


@functools.cache
def _saved_names(kind: type[Node]) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("_raw_saved_"))


def saved_tensors(node: Node) -> dict[str, Tensor]:
    """The tensors that a node of torch's own saved for its backward, by name; those packed by a hook are left out."""
    found: dict[str, Tensor] = {}
    if _is_custom(type(node)):
        return found
    for name in _saved_names(type(node)):
        try:
            saved: Any = getattr(node, name)
            data = saved.data if getattr(saved, "unpack_hook", saved) is None else None
        except RuntimeError:  # freed
            continue
        if isinstance(data, Tensor):
            found[name.removeprefix("_raw_saved_")] = data.detach()
    return found


def _unhooked(saved: Any) -> dict[int, int]:
    """The storage of a SavedTensor that no hook packed; nothing where that cannot be told (torch before 2.9)."""
    if saved is None or not hasattr(saved, "unpack_hook") or saved.unpack_hook is not None:
        return {}
    data = saved.data
    return storage(data) if isinstance(data, Tensor) else {}


def grad_fn(tensor: Tensor) -> Node | None:
    """The node that made a tensor; None for a leaf, and for a view that torch will not say it of any more."""
    try:
        return tensor.grad_fn
    except RuntimeError:
        return None


def node_number(node: Node) -> int:
    """The number that autograd gave a node when it was made: unique in its thread, and nothing is kept by it."""
    return node._sequence_nr()


def storage(tensor: Tensor) -> dict[int, int]:
    """A tensor's storage address and its bytes; empty for tensors without storage (meta, wrapper subclasses)."""
    try:
        store = tensor.untyped_storage()
        address, size = store.data_ptr(), store.nbytes()  # a meta tensor has a size and no address
        return {address: size} if address and size else {}
    except (RuntimeError, NotImplementedError, ValueError):  # ValueError: a lazy parameter that was never called
        return {}
