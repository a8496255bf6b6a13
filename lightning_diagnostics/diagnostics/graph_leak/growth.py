"""How the number of old graphs develops from step to step: it grows, is let go, or stays. Bookkeeping, no torch."""

from typing import Literal

Ahead = Literal["run", "epoch", "clearing"]
"""How far growth is projected: to the end of the run, of the epoch, or until what is kept is cleared."""

_QUIET_LOOKS = 3  # what hangs deep is marked at looks only, so quiet is counted in looks as well as in steps


class Growth:
    """What is known of the old graphs from their ticks alone.

    Args:
        steps: Old graphs that must be alive at once before they count.
    """

    def __init__(self, *, steps: int) -> None:
        self.alive = 0
        """Old graphs alive at the last update."""
        self._steps = steps
        self._span = (-1, -1)  # ticks of the oldest and the newest of them
        self._most = 0  # the largest number of them since there were enough
        self._longest = 0  # the longest span after which the oldest was let go
        self._epoch = 0  # tick of the first batch of this epoch
        self._quiet_steps, self._quiet_looks = 0, 0  # since the last growth

    def begin_epoch(self, tick: int) -> bool:
        """An epoch begins; tells whether what is kept has outlived the one in which it began to be kept."""
        outlived = -1 < self._epoch <= self._span[0]
        self._epoch = tick
        return outlived

    def update(self, ticks: list[int], *, count: int, look: bool) -> bool:
        """Take up the old graphs alive; tells whether there are enough of them, and more than ever since there were.

        A container of bounded size lets go of one for each that it takes in; a leak does not.

        Args:
            ticks: Their ticks, oldest first.
            count: How many there are; more than the ticks where one stands for several.
            look: Whether this step is a look.
        """
        self.alive = len(ticks)
        self._quiet_steps += 1
        self._quiet_looks += look
        enough = len(ticks) >= self._steps
        span = (ticks[0], ticks[-1]) if enough else (-1, -1)
        if span[0] != self._span[0] and self._span[0] > -1:
            self._longest = max(self._longest, self._span[1] - self._span[0] + 1)
        grew = enough and count > self._most
        self._most = max(self._most, count) if enough else 0
        self._span = span
        if grew:
            self._quiet_steps, self._quiet_looks = 0, 0
        return grew

    def quiet(self, steps: int) -> bool:
        """Whether there was no growth for ``steps`` steps and some looks; true once in so many steps."""
        return self._quiet_steps % steps == 0 and self._quiet_looks >= _QUIET_LOOKS

    def ahead(self, tick: int, *, left: float, epoch: int | None) -> tuple[Ahead, float]:
        """How far growth is to be projected, and the training batches until then.

        What was once let go will be again. What has not yet outlived an epoch may be a list that is cleared at its
        end, as many programs do.

        Args:
            tick: The current batch.
            left: Training batches still to come.
            epoch: Batches in an epoch; None if unknown.
        """
        if self._span[1] - self._span[0] < self._longest:
            return "clearing", min(left, self._longest)
        if epoch is not None and self._span[0] >= self._epoch:
            return "epoch", min(left, max(0, epoch - (tick - self._epoch)))
        return "run", left
