"""All healthy programs of the sweep."""

from tests.diagnostics.batch_norm import edges, frozen, loops, pairs, plain, sequences
from tests.diagnostics.batch_norm.data import Program

NETWORKS: tuple[Program, ...] = (
    *(*plain.PROGRAMS, *frozen.PROGRAMS, *pairs.PROGRAMS),
    *(*sequences.PROGRAMS, *loops.PROGRAMS, *edges.PROGRAMS),
)
