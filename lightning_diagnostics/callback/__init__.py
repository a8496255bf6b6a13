"""Floor 5: shared Lightning glue."""

from lightning_diagnostics.callback.arguments import one_of, whole_number
from lightning_diagnostics.callback.base import At, DiagnosticCallback, OnFinding
from lightning_diagnostics.callback.looks import is_look

__all__ = ["At", "DiagnosticCallback", "OnFinding", "is_look", "one_of", "whole_number"]
