"""Which modules are in training mode, where that flipped, and putting it right."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_diagnostics.probes import ROOT, is_norm, is_random, paths


@dataclass(frozen=True)
class Flip:
    """Where a module came into the mode that it is in.

    Attributes:
        place: As the end of a sentence; empty if it was so from the start.
        cause: See `lightning_diagnostics.diagnostics.batch_norm.measure.WrongMode`.
        step: At which that was, on the axis of ``self.log``.
    """

    place: str = ""
    cause: str = "unknown"
    step: int = 0


class Modes:
    """The modes of a model's norms and dropouts, and where each flipped last."""

    def __init__(self) -> None:
        self.everything: dict[str, nn.Module] = {}
        """All modules by path."""
        self.norms: dict[str, nn.Module] = {}
        """Those that normalise by the batch while training."""
        self.noises: dict[str, nn.Module] = {}
        """Those that draw noise while training."""
        self._watched: list[tuple[str, nn.Module]] = []
        self._known: list[bool] = []
        self._flips: dict[str, Flip] = {}
        self._baseline: dict[str, bool] = {}
        self._left: dict[str, bool] = {}
        self._mended: list[nn.Module] = []

    def take_up(self, root: nn.Module) -> None:
        """Look which modules there are; flips of those that are known stay known."""
        before = dict(zip((path for path, _ in self._watched), self._known, strict=True))
        self.everything = paths(root)
        self.norms = {path: module for path, module in self.everything.items() if is_norm(module)}
        self.noises = {path: module for path, module in self.everything.items() if is_random(module)}
        self._watched = list({**self.norms, **self.noises}.items())
        self._known = [before.get(path, bool(module.training)) for path, module in self._watched]

    def note(self, flip: Flip) -> None:
        """Look at all modes: what differs from before has flipped here."""
        now = [bool(module.training) for _, module in self._watched]
        if now == self._known:
            return
        for (path, _), before, after in zip(self._watched, self._known, now, strict=True):
            if before != after:
                self._flips[path] = flip
        self._known = now

    def flip(self, path: str) -> Flip:
        """Where a module came into its mode, as far as it was noted."""
        return self._flips.get(path, Flip())

    def set_aside(self) -> Callable[[], None]:
        """An evaluation begins; gives what brings back, after it, what was known of the training around it."""
        known, flips = dict(zip((path for path, _ in self._watched), self._known, strict=True)), self._flips
        self._flips = {}
        self._known = [bool(module.training) for _, module in self._watched]

        def bring_back() -> None:
            self._known = [known.get(path, bool(module.training)) for path, module in self._watched]
            self._flips = flips

        return bring_back

    def training(self) -> set[str]:
        """The norms and dropouts that were in training mode when that was last noted."""
        return {path for (path, _), training in zip(self._watched, self._known, strict=True) if training}

    # Training.

    def begin_sanity_check(self) -> None:
        """The sanity check begins, for `end_sanity_check`."""
        self._left = {path: bool(module.training) for path, module in self.everything.items()}

    def end_sanity_check(self) -> None:
        """The sanity check is over: what it has left in evaluation mode is not meant to be."""
        self._left = {path: was for path, was in self._left.items() if was and not self._is_training(path)}

    def begin_training(self) -> None:
        """The first batch begins: what is in evaluation mode now is meant to be, if the sanity check did not do it."""
        left = {path for path in self._left if not self._is_training(path)}
        self._baseline = {path: path in left or self._is_training(path) for path in self.everything}
        self._flips = dict.fromkeys(left, Flip("left so by the sanity check", "between"))

    def _is_training(self, path: str) -> bool:
        module = self.everything.get(path)
        return module is not None and bool(module.training)

    def fell_asleep(self) -> list[str]:
        """Norms and dropouts in evaluation mode that were not so at the first batch, and are not frozen."""
        asleep = [path for (path, _), training in zip(self._watched, self._known, strict=True) if not training]
        meant = (self.is_frozen, self._follows_frozen)
        return [path for path in asleep if self._baseline.get(path, False) and not any(each(path) for each in meant)]

    def _follows_frozen(self, path: str) -> bool:
        """Whether a module has no parameter, and all that come before it in the module that it is in are frozen."""
        module, parent = self.everything[path], self.everything.get(path.rpartition(".")[0] or ROOT)
        if parent is None or any(True for _ in module.parameters()):
            return False
        before: list[Tensor] = []
        for each in parent.children():
            if each is module:
                break
            before += each.parameters()
        return bool(before) and not any(weight.requires_grad for weight in before)

    def is_frozen(self, path: str) -> bool:
        """Whether no parameter of a module requires a gradient; if it has none, none of the module that it is in."""
        weights = self.weights(path)
        return bool(weights) and not any(weight.requires_grad for weight in weights)

    def weights(self, path: str) -> list[Tensor]:
        """The parameters of a module, or of the nearest one around it that has any."""
        for place in (path, *_outward(path)):
            module = self.everything.get(place)
            found: list[Tensor] = [] if module is None else list(module.parameters())
            if found:
                return found
        return []

    def follows_learning(self, path: str) -> bool:
        """Whether the module with parameters that is registered before a norm is learning."""
        last: list[Tensor] = []
        for place, module in self.everything.items():
            if place == path:
                break
            own: list[Tensor] = list(module.parameters(recurse=False))
            last = own if own and place not in self.norms else last
        return any(weight.requires_grad for weight in last)

    def wake(self, asleep: Sequence[str]) -> None:
        """Put modules that fell asleep back into training mode, and what they are in."""
        inside = {outer for path in asleep for outer in _outward(path)}
        for path in (*asleep, *inside):
            if self._baseline.get(path, False) and path in self.everything:
                _set_mode(self.everything[path], training=True)
        self._known = [bool(module.training) for _, module in self._watched]

    # Evaluation.

    def mend(self, wants: Callable[[str], bool]) -> None:
        """Put all modules into evaluation mode, but for what is not wanted; `restore` puts them back."""
        for path, module in self.everything.items():
            if module.training and wants(path):
                self._mended.append(module)
                _set_mode(module, training=False)
        self._known = [bool(module.training) for _, module in self._watched]

    def restore(self) -> None:
        """Put back what was mended, and is as it was left."""
        mended, self._mended = self._mended, []
        for module in mended:
            _set_mode(module, training=True)


def _set_mode(module: nn.Module, *, training: bool) -> None:
    """The flag alone: ``train()`` may be the user's own, and reaches what is inside."""
    module.training = training


def _outward(path: str) -> Iterator[str]:
    """The modules around one, up to the model itself."""
    while "." in path:
        path = path.rpartition(".")[0]
        yield path
    yield ROOT


def versions(norms: Mapping[str, nn.Module]) -> dict[str, int]:
    """How often each norm's count of batches was written to: without a transfer, since the count is not read.

    Lazy norms that have not run are left out: their first pass sets the count to zero, in evaluation too.
    """
    ran = ((path, norm) for path, norm in norms.items() if not any(map(is_lazy, norm.buffers(recurse=False))))
    counts = ((path, getattr(norm, "num_batches_tracked", None)) for path, norm in ran)
    return {path: count._version for path, count in counts if isinstance(count, Tensor) and not count.is_inference()}
