"""Floor 1: tensors or arrays in, numbers out. Knows no module, step or layer name."""

from lightning_diagnostics.statistics.channels import statistics_mismatch
from lightning_diagnostics.statistics.gradients import gradient_noise
from lightning_diagnostics.statistics.histograms import ks_distance, merge_histograms
from lightning_diagnostics.statistics.memory import projected_share
from lightning_diagnostics.statistics.moments import ExponentialMoments, Moments, spread
from lightning_diagnostics.statistics.silence import false_silence, samples_needed, silence_bound

__all__ = [
    "ExponentialMoments",
    "Moments",
    "false_silence",
    "gradient_noise",
    "ks_distance",
    "merge_histograms",
    "projected_share",
    "samples_needed",
    "silence_bound",
    "spread",
    "statistics_mismatch",
]
