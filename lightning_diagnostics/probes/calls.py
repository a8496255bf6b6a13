"""Which activations a forward pass calls, as modules and as functions, under which name, and on which tensor."""

import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from typing_extensions import override

from lightning_diagnostics.probes.graphs import grad_fn, node_number
from lightning_diagnostics.probes.kinds import (
    PASSES_ON,
    PRODUCTS,
    ROOT,
    Kind,
    Role,
    is_known,
    role_of_call,
    role_of_module,
)
from lightning_diagnostics.probes.names import source
from lightning_diagnostics.probes.reach import GraphTooLarge, parts_of_graph
from lightning_diagnostics.probes.readings import plain_tensor
from lightning_diagnostics.probes.watch import Watch

_CHECKS = 8  # looks at which a site is placed in the graph


@dataclass(eq=False)
class Site:
    """A place of the model where an activation is called: a layer of the diagnosis.

    Attributes:
        name: Path of the module, or of the module that makes the call, a slash and the function.
        kind: The activation.
        axis: Where its units lie in its output.
        source: File and line of the call.
        follows: The module with weights, or the norm, that the signal came through last; empty if unknown.
        functional: Whether it is a call, not a module.
        order: Its place in the forward pass it was first seen in.
        segment: How many norms came before it in that pass.
        trains: Whether gradients flow through it.
        gate: Whether its output was seen to multiply something.
        leaves: Whether the next weights after it are in another part of the model than itself and those before it.
        head: Whether it was seen between the last weights and the loss, and nowhere else; None if that is not known.
        reached: Whether a loss was seen to come from it; None if no backward pass was announced.
        checked: At how many looks that was asked.
    """

    name: str
    kind: Kind
    axis: int
    source: str
    follows: str
    functional: bool
    order: int
    segment: int
    trains: bool = False
    gate: bool = False
    leaves: bool = False
    head: bool | None = None
    reached: bool | None = None
    checked: int = 0


class _Signal(NamedTuple):
    """What the forward pass last went through that has weights or normalises."""

    path: str
    shape: torch.Size | None
    axis: int | None

    def fits(self, output: Tensor) -> bool:
        """Whether an output has the same units, if perhaps fewer places (after pooling)."""
        shape, axis = self.shape, self.axis
        if shape is None or axis is None or len(shape) != output.dim() or not shape:
            return False
        return shape == output.shape or (output.dim() > 1 and shape[axis] == output.shape[axis])


_NO_SIGNAL = _Signal("", None, None)


class CallWatch(Watch):
    """Sees the activations of a forward pass while it is switched on.

    Args:
        take: Called with the site and the output. It must not keep the output: an in-place operation may change it,
            and it would stay in memory.
        names: The names given so far, which are kept over a resume; taken up and added to.
    """

    def __init__(self, take: Callable[[Site, Tensor], None], names: dict[str, str]) -> None:
        super().__init__(names)
        self._take = take
        self._places: dict[tuple[str, str], dict[str, Site]] = {}  # by path and what is followed, then by place
        self.unreadable: set[str] = set()
        """Names of sites whose outputs cannot be read (wrapped, sparse, and the like)."""

    @override
    def _reset(self) -> None:
        super()._reset()
        self._met: set[tuple[str, str]] = set()  # in this pass
        self._signal = _NO_SIGNAL
        self._order = self._segment = 0
        self._open: list[Site] = []  # saturating ones since the last weights
        self._ends: list[tuple[int, Site]] = []
        self._announced = False
        self._heads: set[int] = set()
        self._hidden: set[int] = set()
        self._gates: dict[int, tuple[weakref.ref[Tensor], Site]] = {}
        self._made: dict[int, str] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._take, self.names)  # a copy has no part in the hooks and the model of the original

    def made(self) -> dict[int, str]:
        """The graph nodes that made the outputs of this pass, by number, with the names of the modules and calls."""
        return dict(self._made)

    def see_loss(self, root: Node | None) -> None:
        """A backward pass is about to begin: what lies between the last weights and its loss is no hidden layer.

        The graph is not walked once that has been asked often enough of all sites of the pass.
        """
        self._announced = True
        if any(site.checked < _CHECKS for _, site in self._ends):
            try:
                heads, hidden = parts_of_graph(root)
            except GraphTooLarge:
                self._announced = False  # nothing is known
                return
            self._heads |= heads
            self._hidden |= hidden

    def settle(self) -> None:
        """The step is over: tell each site where it stood, if any loss was announced."""
        if not self._announced:
            return
        for number, site in self._ends:
            if site.checked >= _CHECKS:
                continue
            if number in self._hidden:
                site.reached, site.head = True, False
            elif number in self._heads:
                site.reached, site.head = True, site.head is not False
            elif site.reached is None:
                site.reached = False
        for site in {id(site): site for _, site in self._ends}.values():
            site.checked += 1

    @property
    def has_calls(self) -> bool:
        """Whether any call outside of the modules is known."""
        return any(site.functional for site in self.sites)

    @property
    def sites(self) -> list[Site]:
        """Every site seen so far."""
        return [site for places in self._places.values() for site in places.values()]

    # What is seen.

    @override
    def wants(self, function: Callable[..., Any]) -> bool:
        return is_known(function)

    @override
    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        role = role_of_module(module) if isinstance(output, Tensor) else None
        if role is not None:
            self._guard(self._see_module, module, role, output)

    def _see_module(self, module: nn.Module, role: Role, output: Tensor) -> None:
        if role.activation is None:
            self._pass_through(role, self._names.path(module, self._stack), output)
        else:
            self._see_activation(role.activation, self._names.path(module, self._stack), output, functional=False)

    @override
    def see_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """A function of interest was called: what it was is looked up, and what it made is taken."""
        if function in PRODUCTS:
            self._guard(self._see_product, args)
        elif function in PASSES_ON:
            self._guard(self._see_passed_on, args, out)
        elif isinstance(out, Tensor):
            self._guard(self._see_function, function, args, kwargs, out)

    def _see_function(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> None:
        role = role_of_call(function, args, kwargs)
        inside = role_of_module(self._stack[-1]) if self._stack else None
        if role is None or (inside is not None and (inside.activation is not None or role.activation is None)):
            return  # what nn.ReLU or nn.Linear itself calls
        path = self._names.path(self._stack[-1], self._stack) if self._stack else ROOT
        name = role.activation.name if role.activation is not None else function.__name__
        if role.activation is None:
            self._pass_through(role, f"{path}/{name}", output)
        else:
            self._see_activation(role.activation, f"{path}/{name}", output, functional=True)

    def _see_product(self, args: tuple[Any, ...]) -> None:
        for site in self._gates_in(args):
            site.gate = True

    def _see_passed_on(self, args: tuple[Any, ...], output: Any) -> None:
        for site in self._gates_in(args):
            self._gates[id(output)] = weakref.ref(output), site

    def _gates_in(self, args: tuple[Any, ...]) -> Iterator[Site]:
        """The saturating sites whose outputs are among some arguments."""
        for arg in args:
            for tensor in (arg, arg._base) if isinstance(arg, Tensor) else ():  # itself, or what it is a view of
                known = self._gates.get(id(tensor))
                if known is not None and known[0]() is tensor:
                    yield known[1]

    def _pass_through(self, role: Role, path: str, output: Tensor) -> None:
        self._keep_node(path, output)
        for site in self._open:
            site.leaves = _leaves(site, path)
        self._open = []
        self._segment += role.norm
        axis = role.axis
        if role.norm and axis == -1 and self._signal.shape == output.shape:
            axis = self._signal.axis  # a norm over the channels of an image keeps them where they are
        self._signal = _Signal(path, output.shape, axis)

    def _see_activation(self, kind: Kind, path: str, output: Tensor, *, functional: bool) -> None:
        # An expert that got nothing; a loss; an index that is clamped.
        if not output.numel() or not output.dim() or not (output.is_floating_point() or output.is_complex()):
            return
        signal = self._signal if self._signal.fits(output) else _NO_SIGNAL
        site = self._site(kind, path, signal, output, functional=functional)
        self._order += 1
        number = self._keep_node(site.name, output)
        if number is not None:
            site.trains = True
            self._ends.append((number, site))
        if kind.family == "saturating":
            self._open.append(site)
            if self._mode is not None:
                self._gates[id(output)] = weakref.ref(output), site
        plain = plain_tensor(output)
        if plain is None:
            self.unreadable.add(site.name)
        else:
            self._take(site, plain)

    def _site(self, kind: Kind, path: str, signal: _Signal, output: Tensor, *, functional: bool) -> Site:
        """The site of a call; the frames are read only where the module and what it follows do not tell it."""
        short = (path, signal.path)
        places = self._places.setdefault(short, {})
        if not functional and len(places) == 1 and short not in self._met:
            self._met.add(short)
            return next(iter(places.values()))
        self._met.add(short)
        line, place = source()
        if place not in places:
            axis = signal.axis if signal.axis is not None else (-1 if output.dim() == 3 else 1)
            name = self._names.site(path, place, signal.path, functional=functional)
            places[place] = Site(name, kind, axis, line, signal.path, functional, self._order, self._segment)
        return places[place]

    def _keep_node(self, name: str, output: Tensor) -> int | None:
        """Note the number of the node that made an output; the node itself would keep what it saved alive."""
        node = grad_fn(output) if output.requires_grad else None
        if node is None:
            return None
        number = node_number(node)
        self._made[number] = name
        return number


def _leaves(site: Site, to: str) -> bool:
    """Whether a site is in the part of the model that came before it and not in the one that comes after it.

    Parts are attributes by name (``generator``, ``agent.actor``); the items of a list are parts of one.
    """
    own, before, after = (re.split(r"[./]", path) for path in (site.name, site.follows, to))
    for mine, others, theirs in zip(own, before, after, strict=False):
        if mine != theirs:
            return mine == others and not mine.isdigit()
    return False
