"""Modules that fell into evaluation mode while training goes on: counting the batches, and putting them back."""

from collections.abc import Iterator, Mapping, Sequence

from lightning_diagnostics.diagnostics.batch_norm.measure import WrongMode, together
from lightning_diagnostics.diagnostics.batch_norm.modes import Flip, Modes
from lightning_diagnostics.probes import kind_of

_VAIN = 2  # batches in a row in which the step undid what was mended, after which it is not mended any more


class Asleep:
    """The norms and dropouts that were in training mode at the first batch, are not now, and are not frozen.

    Args:
        modes: Of the model.
    """

    def __init__(self, modes: Modes) -> None:
        self._modes = modes
        self._at_start: list[str] = []
        self._batches: dict[str, int] = {}
        self._woken: list[str] = []
        self._in_vain: dict[str, int] = {}
        self._awake: set[str] = set()  # what the last look has seen to do what is done in training, whatever its mode

    def begin(self) -> None:
        """A batch begins, after what was to be put back was."""
        self._at_start = self._modes.fell_asleep()

    def wake(self) -> list[WrongMode]:
        """Put modules back into training mode, but for those that the step itself puts to sleep every time."""
        asleep = self._modes.fell_asleep()
        self._in_vain = {path: self._in_vain.get(path, 0) + (path in self._woken) for path in asleep}
        self._woken = [path for path in asleep if self._in_vain.get(path, 0) < _VAIN]
        flips = {path: self._modes.flip(path) for path in self._woken}
        self._modes.wake(self._woken)
        return list(self._places(self._woken, flips, batches=1, mended=True))

    def see(self, slept: set[str], drew: set[str]) -> None:
        """What a look has seen: which norms used their running statistics, and which dropouts drew noise.

        A norm that is not called, or is put into training mode for its call, is well, until the next look.
        """
        self._awake = {path for path in self._modes.norms if path not in slept} | drew

    def end(self, *, limit: int) -> tuple[set[str], list[WrongMode]]:
        """A batch has ended: what slept all through it, and those of whom that is to be judged.

        Args:
            limit: Batches after which nothing new is learned.
        """
        if not self._at_start and not self._batches:
            return set(), []
        now = (set(self._at_start) & set(self._modes.fell_asleep())) - self._awake
        self._batches = {path: self._batches.get(path, 0) + 1 for path in self._at_start if path in now}
        due = {path: count for path, count in self._batches.items() if count <= limit}
        flips = {path: self._modes.flip(path) for path in due}
        found: list[WrongMode] = []
        for count in sorted(set(due.values())):
            members = [path for path in due if due[path] == count]
            found += self._places(members, flips, batches=count)
        return now, found

    def _places(
        self, asleep: Sequence[str], flips: Mapping[str, Flip], *, batches: int, mended: bool = False
    ) -> Iterator[WrongMode]:
        for flip in dict.fromkeys(flips[path] for path in asleep):
            for where, layers in together([path for path in asleep if flips[path] == flip]):
                kind = kind_of(self._modes.everything[layers[0]])
                yield WrongMode(
                    *(where, layers, kind, "training", "training_step", flip.place, flip.cause, flip.step),
                    batches=batches,
                    mended=mended,
                )
