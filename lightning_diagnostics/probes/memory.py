"""Memory of a device, in bytes."""

import os

import torch


def memory_in_use(device: torch.device) -> int | None:
    """Bytes in use: of the device's allocator, for the CPU the resident size of this process; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if device.type == "cpu":
        return _proc_pages("/proc/self/statm")
    return None


def memory_free(device: torch.device) -> int | None:
    """Bytes that are free on the device, for the CPU available to new programs; None if unknown."""
    if device.type == "cuda":
        return (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
    if device.type == "cpu":
        return _proc_available("/proc/meminfo")
    return None


def _proc_pages(path: str) -> int | None:
    """The resident size that Linux states in ``/proc/self/statm``."""
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _proc_available(path: str) -> int | None:
    """The available memory that Linux states in ``/proc/meminfo``."""
    try:
        with open(path, encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None
