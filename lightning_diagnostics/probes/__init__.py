"""Floor 2: where on a torch model a number is taken. Knows torch.nn only."""

from lightning_diagnostics.probes.arrivals import Arrivals
from lightning_diagnostics.probes.blind import Blind, activation_modules, blind_parts
from lightning_diagnostics.probes.calls import CallWatch, Site
from lightning_diagnostics.probes.deferred import Deferred, Fetched, Slot
from lightning_diagnostics.probes.gradients import Norms, all_numbers_of, copies_of, is_sharded, l2_norms, numbers_of
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
from lightning_diagnostics.probes.kinds import ROOT
from lightning_diagnostics.probes.memory import memory_free, memory_in_use
from lightning_diagnostics.probes.norms import (
    NoiseCalls,
    NormCalls,
    NormWatch,
    by_design,
    is_norm,
    is_random,
    kind_of,
    obeys_mode,
    paths,
    running_statistics,
)
from lightning_diagnostics.probes.optimizers import steps_within, used_rates, will_scale
from lightning_diagnostics.probes.reach import is_parameter, parts_of_graph
from lightning_diagnostics.probes.readings import BUCKETS, Reading, Readings, histogram
from lightning_diagnostics.probes.running import RunningStatistics, Statistics, same_statistics
from lightning_diagnostics.probes.samples import Call, CallKeeper, Kept, SampleWatch, Sketch, sketches

__all__ = [
    "BUCKETS",
    "ROOT",
    "Arrivals",
    "Blind",
    "Call",
    "CallKeeper",
    "CallWatch",
    "Deferred",
    "Fetched",
    "GraphMark",
    "GraphMarks",
    "Kept",
    "NoiseCalls",
    "NormCalls",
    "NormWatch",
    "Norms",
    "Reading",
    "Readings",
    "RunningStatistics",
    "SampleWatch",
    "Site",
    "Sketch",
    "Slot",
    "Statistics",
    "activation_modules",
    "all_numbers_of",
    "blind_parts",
    "by_design",
    "copies_of",
    "grad_fn",
    "graph_nodes",
    "histogram",
    "is_norm",
    "is_parameter",
    "is_random",
    "is_sharded",
    "kind_of",
    "l2_norms",
    "memory_free",
    "memory_in_use",
    "node_number",
    "numbers_of",
    "obeys_mode",
    "parts_of_graph",
    "paths",
    "running_statistics",
    "same_statistics",
    "saved_storages",
    "saved_tensors",
    "sketches",
    "steps_within",
    "storage",
    "used_rates",
    "will_scale",
]
