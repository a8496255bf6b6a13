"""Floor 2: where on a torch model a number is taken. Knows torch.nn only."""

from lightning_diagnostics.probes.calls import (
    CallWatch,
    Site,
    activation_modules,
    blind_parts,
    head_nodes,
    is_weight,
    node_number,
)
from lightning_diagnostics.probes.graphs import (
    GraphMark,
    GraphMarks,
    grad_fn,
    graph_nodes,
    saved_storages,
    saved_tensors,
    storage,
)
from lightning_diagnostics.probes.memory import memory_free, memory_in_use
from lightning_diagnostics.probes.readings import BUCKETS, Reading, Readings

__all__ = [
    "BUCKETS",
    "CallWatch",
    "GraphMark",
    "GraphMarks",
    "Reading",
    "Readings",
    "Site",
    "activation_modules",
    "blind_parts",
    "grad_fn",
    "graph_nodes",
    "head_nodes",
    "is_weight",
    "memory_free",
    "memory_in_use",
    "node_number",
    "saved_storages",
    "saved_tensors",
    "storage",
]
