"""Whether a run that says that it is running still lives."""

import os
import socket
from typing import Any

from lightning_diagnostics.diagnostics.expected_performance.trials import Trial

LOST_AFTER = 24 * 3600.0
"""Seconds without a sign of life after which a run counts as failed, even if it might still be alive elsewhere."""


def here() -> dict[str, Any]:
    """Which process this is, as `is_lost` needs it."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "kernel": _kernel(), "born": _process(pid)[1]}


def is_lost(trial: Trial, *, now: float, silence: float) -> bool:
    """Whether a run that has not said how it ended lives no more.

    Of a process of this machine that is known. Of one elsewhere it is concluded from its silence.

    Args:
        trial: Its record.
        now: The time, in seconds since 1970.
        silence: Seconds without a sign of life after which it is taken for lost; ten times its longest silence so far,
            if that is more.
    """
    if trial.status != "running":
        return False
    lives = is_alive(trial)
    if lives is not None:
        return not lives
    return now - trial.beat > max(silence, _PATIENCE * trial.silence)


_PATIENCE = 10


def is_alive(trial: Trial) -> bool | None:
    """Whether the process of a run lives; None if it is not one of this very machine, boot and container."""
    mine = here()
    if not trial.kernel or (trial.host, trial.kernel) != (mine["host"], mine["kernel"]):
        return None
    try:
        os.kill(trial.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        pass
    state, born = _process(trial.pid)
    if not state:  # hidden from us
        return None
    return state not in ("Z", "X") and born == trial.born  # else another process has its number by now


def is_certain(trial: Trial, *, now: float) -> bool:
    """Whether a run that is lost can be counted as failed: its process is gone, or it has been silent for a day."""
    return is_alive(trial) is False or now - trial.beat > LOST_AFTER


def _kernel() -> str:
    """Which boot and which container this is, where Linux tells it; empty elsewhere."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process(pid: int) -> tuple[str, int]:
    """The state of a process and when it began, where Linux tells it; an empty state if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            words = file.read().rpartition(")")[2].split()  # the name before it may have anything in it
        return words[0], int(words[19])
    except (OSError, IndexError, ValueError):
        return "", 0
