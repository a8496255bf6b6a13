"""One look: hooks and mode up, every activation read, and down again."""

import contextlib
import re
import warnings
import weakref
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import isfinite, isnan
from typing import Any

import torch
from torch import Tensor, nn

from lightning_diagnostics.callback import trainer as insides
from lightning_diagnostics.callback.namespaces import LightningModule, Trainer
from lightning_diagnostics.diagnostics.activations.measure import Layer, LayerReading, Look, layer_reading
from lightning_diagnostics.diagnostics.activations.nonfinite import Origin, find_origin
from lightning_diagnostics.probes import Blind, CallWatch, Readings, Site, activation_modules, blind_parts, grad_fn

_LEARNING = 8  # looks at which calls are watched though none is known; after them, at the first of every epoch only
_HOOKED = "Using `torch.compile.module.` when there are global hooks"  # torch warns of what we do knowingly


class Looking:
    """Reads the activations of a training step, from `begin` to `end`.

    Args:
        include: Patterns of layer names, of which one must match; empty for all.
        exclude: Patterns of layer names, of which none may match.
        eager: Whether the steps that are looked at run without compiled code.
        names: The names given to layers so far, by what tells them apart; taken up and added to.
    """

    def __init__(self, *, include: Sequence[str], exclude: Sequence[str], eager: bool, names: dict[str, str]) -> None:
        self._include, self._exclude, self._eager = tuple(include), tuple(exclude), eager
        self._watch = CallWatch(self._take, names)
        self._readings: Readings | None = None
        self._keys: dict[str, int] = {}  # under which the readings of a layer are found
        self._units: dict[str, int] = {}
        self._layers: dict[str, Layer] = {}
        self._flags: dict[str, tuple[bool | None, ...]] = {}  # of the sites, when that was last looked up
        self._wanted: dict[str, bool] = {}
        self._stance: contextlib.ExitStack | None = None
        self._looks = 0
        self._functional = True
        self._frames = 0
        self._parts, self._whole = Blind(), False
        self._samples: int | None = None
        self._lengths: dict[str, int] = {}
        self._origin: Origin | None = None
        self.announced = False
        """Whether a backward pass was announced in the last look."""
        self.varying: set[str] = set()
        """Layers whose number of units is not the same from call to call; they are not read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _another, (self._include, self._exclude, self._eager, self._watch.names)

    @property
    def on(self) -> bool:
        """Whether a look is going on."""
        return self._readings is not None

    # A run.

    def prepare(self, module: LightningModule) -> str:
        """A run begins: gives what is watched and what cannot be seen, in words."""
        self._parts = blind_parts(module)
        self._whole = insides.is_wholly_compiled(module)
        self._frames = insides.compiled_frames()
        modules = [path for path in activation_modules(module) if self._wants(path)]
        if self._compiled:
            inside = tuple(f"{path}." for path in self._parts.compiled)
            modules = [] if self._whole else [path for path in modules if not f"{path}.".startswith(inside)]
        self._functional = self._functional and not self._compiled
        calls = "calls of functions as they are met" if self._functional else "no calls of functions"
        text = f"{len(modules)} activation module{'s' * (len(modules) != 1)} and {calls}"
        return "; ".join([text, *(f"blind in {what}" for what in self.blind)])

    @property
    def _compiled(self) -> bool:
        return not self._eager and (self._whole or bool(self._parts.compiled))

    @property
    def blind(self) -> list[str]:
        """What cannot be seen, in words."""
        parts = self._parts
        found: list[str] = []
        if not self._eager and self._whole:
            found.append("the compiled model")
        elif not self._eager and parts.compiled:
            found.append(f"compiled parts ({_listed(parts.compiled)}) and calls of functions beside them")
        if parts.scripted:
            found.append(f"scripted parts ({_listed(parts.scripted)})")
        if parts.fused:
            found.append(f"recurrent kernels ({_listed(parts.fused)})")
        if not self._functional and not self._compiled:
            found.append("calls of functions, since a function that was compiled while training may be among them")
        if unreadable := self._watch.unreadable - self._units.keys():
            found.append(f"outputs that cannot be read ({_listed(sorted(unreadable))})")
        if self.varying:
            found.append(f"layers whose number of units varies ({_listed(sorted(self.varying))})")
        return found

    # A look.

    def begin(self, trainer: Trainer, module: LightningModule, batch: Any, *, first: bool, histograms: bool) -> None:
        """Start to look.

        Args:
            trainer: The Trainer.
            module: The model.
            batch: The batch of this step, whose samples are counted.
            first: Whether this is the first batch of an epoch.
            histograms: Whether histograms are computed.
        """
        self.cancel()
        if self._compiled and (self._whole or not self._looks):
            self._looks += 1  # not in the step in which torch compiles: it would compile the hooks with it
            return
        self._readings = Readings(histograms=histograms)
        self._keys, self._lengths, self._origin, self.announced = {}, {}, None, False
        self._samples = batch_size(batch)
        functional = self._functional and (first or self._looks < _LEARNING or self._watch.has_calls)
        self._looks += 1
        alive = weakref.ref(trainer)

        def running() -> bool:
            trainer = alive()
            return trainer is not None and not trainer.interrupted and bool(trainer.training)

        self._stance = contextlib.ExitStack()
        if self._eager:
            self._stance.enter_context(torch.compiler.set_stance("force_eager"))
        self._stance.enter_context(_quiet(_HOOKED))
        self._watch.start(module, functional=functional, running=running)

    def see_loss(self, module: nn.Module, loss: Tensor, *, scaled: bool) -> None:
        """A backward pass is about to begin, and the look goes on after it: ask at once whether its loss is finite.

        Args:
            module: The model.
            loss: The loss, with its graph.
            scaled: Whether it was scaled for 16 bits: then it may overflow in a healthy run, and the step is skipped.
        """
        self.announced = True
        self._watch.see_loss(grad_fn(loss))
        self._search(module, loss, float(loss.detach().float().sum()), scaled=scaled)

    def _search(self, module: nn.Module, loss: Tensor, value: float, *, scaled: bool) -> None:
        """If a loss is not finite, look for what made it so."""
        if self._origin is None and (isnan(value) if scaled else not isfinite(value)):
            self._origin = find_origin(grad_fn(loss), self._watch.made(), module)

    def end(
        self, module: nn.Module, loss: Tensor | None = None, *, step: int, drawn: bool, scaled: bool = False
    ) -> tuple[Look, dict[str, Layer], Origin | None]:
        """Stop looking: what was read, what is known of the layers, and what made a loss infinite if one was.

        Args:
            module: The model.
            loss: The loss whose backward pass is about to begin, if that ends the look; it comes with the one transfer.
            step: On the axis of ``self.log``.
            drawn: Whether the look is to be drawn.
            scaled: As for `see_loss`.
        """
        assert self._readings is not None
        readings, self._readings = self._readings, None
        if loss is not None:
            self.announced = True
            self._watch.see_loss(grad_fn(loss))
            readings.take_along(loss.detach().float().sum())
        self._unhook()
        found = readings.collect()
        if loss is not None:
            self._search(module, loss, readings.along[0], scaled=scaled)
        self._watch.settle()
        self._close()
        sites = {site.name: site for site in self._watch.sites}
        layer_readings: dict[str, LayerReading] = {}
        for name, key in self._keys.items():
            samples = self._samples if self._samples is not None else self._lengths[name]
            signed = sites[name].kind.family != "rectifier"
            layer_readings[name] = layer_reading(found[key], samples=samples, signed=signed)
        layers = {name: self._layer(sites[name]) for name in layer_readings}
        origin, self._origin = self._origin, None
        if self._functional and not self._eager and insides.compiled_frames() > self._frames:
            self._functional = False  # from here on, lest every look makes torch compile that function again
        return Look(step, drawn, layer_readings), layers, origin

    def _layer(self, site: Site) -> Layer:
        """What is known of a layer; made anew only when more is known of it."""
        known = self._layers.get(site.name)
        flags = (site.trains, site.gate, site.leaves, site.head, site.reached)
        if known is None or self._flags[site.name] != flags:
            self._flags[site.name] = flags
            known = self._layers[site.name] = Layer.of(site, self._units[site.name])
        return known

    def cancel(self) -> None:
        """Stop looking and forget what was read."""
        self._readings = None
        self._close()

    def _unhook(self) -> None:
        """Nothing more is seen; what was seen is still known."""
        stance, self._stance = self._stance, None
        if stance is not None:
            stance.close()
        self._watch.unhook()

    def _close(self) -> None:
        self._unhook()
        self._watch.stop()

    def _take(self, site: Site, output: Tensor) -> None:
        """An activation was called."""
        name = site.name
        if self._readings is None or name in self.varying or not self._wants(name):
            return
        units = 1 if output.dim() == 1 else output.shape[site.axis]
        if self._units.setdefault(name, units) != units:
            self.varying.add(name)
            return
        if name not in self._lengths:
            self._lengths[name] = output.shape[0]
            self._keys[name] = len(self._keys)
        kind = site.kind
        self._readings.take(self._keys[name], output, axis=site.axis, family=kind.family, ends=(kind.low, kind.high))

    def _wants(self, name: str) -> bool:
        if name not in self._wanted:
            included = not self._include or any(fnmatchcase(name, pattern) for pattern in self._include)
            self._wanted[name] = included and not any(fnmatchcase(name, pattern) for pattern in self._exclude)
        return self._wanted[name]


def _another(include: tuple[str, ...], exclude: tuple[str, ...], eager: bool, names: dict[str, str]) -> Looking:
    return Looking(include=include, exclude=exclude, eager=eager, names=names)


def batch_size(batch: Any) -> int | None:
    """The length of the first tensor in a batch; None if there is none (graphs: how many there are)."""
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.dim() else None
    graphs = getattr(batch, "num_graphs", None)
    if isinstance(graphs, int):
        return graphs
    items: Any = ()
    if isinstance(batch, Mapping):
        items = batch.values()
    elif isinstance(batch, list | tuple):
        items = batch
        lengths = {item.shape[0] for item in items if isinstance(item, Tensor) and item.dim()}
        if len(lengths) > 1:  # of one sample each
            return len(items)
    return next((size for item in items if (size := batch_size(item)) is not None), None)


@contextlib.contextmanager
def _quiet(message: str) -> Any:
    """Without one warning of torch, which would end a run under ``-W error``; other filters stay as they are.

    Not by ``warnings.filterwarnings``, which has every warning that was given once be given again.
    """
    filters: Any = warnings.filters
    added = ("ignore", re.compile(message), UserWarning, None, 0)
    filters.insert(0, added)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # somebody has set up the filters anew
            filters.remove(added)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f", and {len(names) - 3} more" if len(names) > 3 else "")
