"""All healthy programs of the sweep."""

from tests.diagnostics.activations import dense, images, sequences, unusual
from tests.diagnostics.activations.data import Program

NETWORKS: tuple[Program, ...] = (*dense.PROGRAMS, *images.PROGRAMS, *sequences.PROGRAMS, *unusual.PROGRAMS)
