"""The processes that train together, and what each of them has."""

from typing import Any

import torch
import torch.distributed

from lightning_diagnostics.callback.namespaces import Trainer


def process_count(trainer: Trainer) -> int:
    """The number of processes that train together and can exchange objects."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready and trainer.world_size > 1 else 1


def gather(trainer: Trainer, value: Any) -> list[Any]:
    """A plain value of every rank, in the order of ranks. A collective: every rank must call it."""
    count = process_count(trainer)
    if count == 1:
        return [value]
    values: list[Any] = [None] * count
    torch.distributed.all_gather_object(values, value)
    return values


def shared_count(trainer: Trainer, name: str, *, add: int = 0) -> int:
    """Add to a number that all processes share, and give it. No collective: it waits for no other process."""
    count = process_count(trainer)
    if count == 1:
        return 1
    try:
        store = torch.distributed.distributed_c10d._get_default_store()
        return int(store.add(f"lightning_diagnostics/{name}", add))
    except Exception:  # noqa: BLE001  # a backend that keeps none (MPI): as if all were alike
        return count


def averages_over_ranks(trainer: Trainer) -> bool:
    """Whether gradients are averaged over processes of which each has the whole model."""
    return process_count(trainer) > 1 and isinstance(trainer.model, torch.nn.parallel.DistributedDataParallel)


def hidden_gradients(trainer: Trainer) -> str:
    """The strategy that keeps gradients where they cannot be read whole; empty if they can."""
    names = [kind.__name__ for kind in type(trainer.strategy).__mro__]
    return names[0] if any(word in name for name in names for word in ("FSDPStrategy", "DeepSpeed")) else ""


def is_sharded(trainer: Trainer) -> bool:
    """Whether the weights are spread over the processes, so that no process can run the model by itself."""
    return any(name in type(trainer.strategy).__name__ for name in ("FSDP", "DeepSpeed", "ModelParallel"))


def is_device_lost(exception: BaseException) -> bool:
    """Whether an error leaves a device or a group of processes behind that would not answer."""
    distributed = torch.distributed.is_available() and isinstance(exception, torch.distributed.DistError)
    return distributed or "CUDA error" in str(exception)
