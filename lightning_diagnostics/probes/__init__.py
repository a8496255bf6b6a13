"""Floor 2: where on a torch model a number is taken. Knows torch.nn only."""

from lightning_diagnostics.probes.calls import (
    Blind,
    CallWatch,
    Site,
    activation_modules,
    blind_parts,
    is_parameter,
    node_number,
    parts_of_graph,
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
    "Blind",
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
    "is_parameter",
    "memory_free",
    "memory_in_use",
    "node_number",
    "parts_of_graph",
    "saved_storages",
    "saved_tensors",
    "storage",
]
