"""What is drawn of all that is measured: how often, and which layers."""

from collections.abc import Collection, Mapping


class Pace:
    """How often something is drawn: the first times at once, then once every so many steps on average.

    Args:
        first: How many times at once.
        every: Steps for one more.
    """

    def __init__(self, *, first: int, every: int) -> None:
        self._most, self._every = first, every
        self._left = float(first)
        self._last: int | None = None

    def take(self, step: int) -> bool:
        """Whether it is drawn at this step; a function of the steps asked for alone."""
        if self._last is not None:
            self._left = min(self._most, self._left + (step - self._last) / self._every)
        self._last = step
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Budget:
    """Which layers are drawn, if there are more than may be.

    The choice is made once, of the worst half and others spread over the depth, and changes only when a layer outside
    of it falls ill: curves that come and go cannot be read.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._chosen: list[str] = []

    def choose(self, layers: Mapping[str, float], ill: Collection[str]) -> list[str]:
        """The layers to draw, in the order given.

        Args:
            layers: How bad each is, 0 for well, in the order of the forward pass.
            ill: The names of those with a finding.
        """
        names = list(layers)
        if len(names) <= self._most:
            return names
        chosen = [name for name in self._chosen if name in layers]
        free = self._most - len(chosen)
        if free > 0:
            worst = sorted(layers, key=layers.__getitem__, reverse=True)
            bad = [name for name in worst if name not in chosen and layers[name] > 0]
            chosen += bad[: free - free // 2]
            rest = [name for name in names if name not in chosen]
            free = self._most - len(chosen)
            chosen += [rest[index * len(rest) // free] for index in range(free)]
        for name in names:
            if name in ill and name not in chosen:
                well = [each for each in chosen if each not in ill]
                if well:
                    chosen[chosen.index(well[-1])] = name
        self._chosen = chosen + [name for name in self._chosen if name not in layers]  # of those not seen at this look
        return [name for name in names if name in chosen]
