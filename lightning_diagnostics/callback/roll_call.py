"""The roll call: which diagnostics all processes of a run have, so that none waits for one that never comes."""

import logging

from lightning_diagnostics.callback import terminal
from lightning_diagnostics.callback.namespaces import Trainer
from lightning_diagnostics.callback.trainer import process_count, shared_count

logger = logging.getLogger("lightning_diagnostics")

_CALLS = "calls"
"""How many roll calls are over; it keeps the numbers of one fit apart from those of the next."""


class RollCall:
    """Counts, for each diagnostic of a run, the processes that have it, too.

    Processes may differ: the environment variable is set on one node only, a file is missing on another, a program
    makes the callback on rank zero alone. An exchange that not all of them take part in would hang the run. So each
    calls out what it has while callbacks are set up, which Lightning has every process finish before training starts,
    and from then on all read the same number.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._leads: set[str] = set()  # what this process was the first to call out
        self._complete: dict[str, bool] = {}

    def enter(self, trainer: Trainer, place: int, member: str, terms: str) -> None:
        """Call out a diagnostic; those of one place in the order and of the same terms belong together."""
        name = f"{shared_count(trainer, _CALLS)}/{place}/{member}/{terms}"
        if shared_count(trainer, name, add=1) == 1:
            self._leads.add(member)
        self._names[member] = name

    def leave(self, member: str) -> None:
        """The run of a diagnostic is over (the process that keeps the numbers may be gone)."""
        self._names.pop(member, None)
        self._leads.discard(member)
        self._complete.pop(member, None)

    def complete(self, trainer: Trainer, member: str) -> bool:
        """Whether every process has this diagnostic; asked once in a run, where one process says so if not."""
        if member not in self._names:  # a fault of ours kept it from being called out
            return False
        if member not in self._complete:
            count, processes = shared_count(trainer, self._names[member]), process_count(trainer)
            self._complete[member] = count % processes == 0  # more if a fit before had nothing to train
            if member in self._leads:
                shared_count(trainer, _CALLS, add=1)
                if not self._complete[member]:
                    _warn(member, count, processes)
        return self._complete[member]


def _warn(member: str, count: int, processes: int) -> None:
    terminal.set_up()
    logger.warning(
        "%s is not alike in all processes (%d of %d have it at this place and with these arguments): each goes by "
        "itself, only rank zero shows what it finds, and no finding ends the run. Switch the diagnostics on alike in "
        "all of them.",
        *(member, count, processes),
    )
