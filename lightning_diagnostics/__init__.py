"""Diagnose PyTorch Lightning training runs: what is wrong, where, since when, how we know, and what to do.

This file is the registry. A public name is a line in ``_REGISTRY``; a callback that has a line there is tested by
every contract, documented in the catalogue and part of the suite. Names are imported when first used, so that
importing the package loads neither torch nor Lightning.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_diagnostics.callback.command_line import DiagnosticsCLI
    from lightning_diagnostics.callback.flags import DiagnosticsFlags
    from lightning_diagnostics.callback.suite import Diagnostics
    from lightning_diagnostics.diagnostics.activations.callback import ActivationMonitor
    from lightning_diagnostics.diagnostics.batch_norm.callback import BatchNormGuard
    from lightning_diagnostics.diagnostics.expected_performance.callback import ExpectedValidationPerformance
    from lightning_diagnostics.diagnostics.expected_performance.comparison import compare
    from lightning_diagnostics.diagnostics.expected_performance.curve import TuningCurve
    from lightning_diagnostics.diagnostics.expected_performance.engines import from_folder, from_optuna, from_ray
    from lightning_diagnostics.diagnostics.generalization_gap.callback import GeneralizationGapMonitor
    from lightning_diagnostics.diagnostics.gradients.callback import GradientNormMonitor
    from lightning_diagnostics.diagnostics.graph_leak.callback import GraphLeakDetector
    from lightning_diagnostics.diagnostics.learning_rate.callback import WarmupCooldownScheduler
    from lightning_diagnostics.findings import Finding, Severity

__version__ = "0.1.0"

_REGISTRY = {
    "ActivationMonitor": "lightning_diagnostics.diagnostics.activations.callback",
    "BatchNormGuard": "lightning_diagnostics.diagnostics.batch_norm.callback",
    "Diagnostics": "lightning_diagnostics.callback.suite",
    "DiagnosticsCLI": "lightning_diagnostics.callback.command_line",
    "DiagnosticsFlags": "lightning_diagnostics.callback.flags",
    "ExpectedValidationPerformance": "lightning_diagnostics.diagnostics.expected_performance.callback",
    "Finding": "lightning_diagnostics.findings",
    "GeneralizationGapMonitor": "lightning_diagnostics.diagnostics.generalization_gap.callback",
    "GradientNormMonitor": "lightning_diagnostics.diagnostics.gradients.callback",
    "GraphLeakDetector": "lightning_diagnostics.diagnostics.graph_leak.callback",
    "Severity": "lightning_diagnostics.findings",
    "TuningCurve": "lightning_diagnostics.diagnostics.expected_performance.curve",
    "WarmupCooldownScheduler": "lightning_diagnostics.diagnostics.learning_rate.callback",
    "compare": "lightning_diagnostics.diagnostics.expected_performance.comparison",
    "from_folder": "lightning_diagnostics.diagnostics.expected_performance.engines",
    "from_optuna": "lightning_diagnostics.diagnostics.expected_performance.engines",
    "from_ray": "lightning_diagnostics.diagnostics.expected_performance.engines",
}

__all__ = [
    "ActivationMonitor",
    "BatchNormGuard",
    "Diagnostics",
    "DiagnosticsCLI",
    "DiagnosticsFlags",
    "ExpectedValidationPerformance",
    "Finding",
    "GeneralizationGapMonitor",
    "GradientNormMonitor",
    "GraphLeakDetector",
    "Severity",
    "TuningCurve",
    "WarmupCooldownScheduler",
    "compare",
    "from_folder",
    "from_optuna",
    "from_ray",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    parsing = "jsonargparse" in sys.modules and not name.startswith("_")
    if name not in _REGISTRY:
        if parsing:
            import_module("lightning_diagnostics.callback.mistyped").check_class(name)
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; its public names are {', '.join(__all__)}"
        )
    value = getattr(import_module(_REGISTRY[name]), name)
    if namespaces := sys.modules.get("lightning_diagnostics.callback.namespaces"):
        namespaces.adopt()  # a package may have come since; so that it is asked each time, the name is not kept
    if parsing and isinstance(value, type):
        import_module("lightning_diagnostics.callback.mistyped").check_arguments(value)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_REGISTRY})
