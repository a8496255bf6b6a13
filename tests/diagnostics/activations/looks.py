"""Layers and readings made by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_diagnostics.diagnostics.activations.measure import Layer, LayerReading


def about(name: str = "act", *, units: int = 4, family: str = "rectifier", **more: Any) -> Layer:
    known = {"name": name, "kind": "relu", "family": family, "units": units, "source": "net.py:1", "follows": ""}
    known |= {"functional": False, "order": 0, "segment": 0, "trains": True, "gate": False}
    known |= {"leaves": False, "head": False}
    return Layer(**{**known, **more})


def reading(count: Sequence[float], *, samples: int = 10, std: float = 1.0, **more: Any) -> LayerReading:
    """Of a layer whose units each have so many active outputs, and outputs of such a spread."""
    positions = more.pop("positions", samples)
    numbers = {
        "mean": np.zeros(len(count)),
        "squares": np.full(len(count), std**2 * positions),
        "low": 0.0,
        "high": 1.0,
    }
    words = {"samples": samples, "positions": positions, **numbers, "count": np.array(count, float)}
    words |= {"low": 0.0, "high": 1.0, "histogram": None}
    return LayerReading(**{**words, **more})
