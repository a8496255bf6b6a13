"""Floor 2: where on a torch model a number is taken. Knows torch.nn only."""

from lightning_diagnostics.probes.blind import Blind, activation_modules, blind_parts
from lightning_diagnostics.probes.calls import CallWatch, Site
from lightning_diagnostics.probes.graphs import (
    GraphMark,
    GraphMarks,
    grad_fn,
    graph_nodes,
    node_number,
    saved_storages,
    saved_tensors,
    storage,
)
from lightning_diagnostics.probes.memory import memory_free, memory_in_use
from lightning_diagnostics.probes.reach import is_parameter, parts_of_graph
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
