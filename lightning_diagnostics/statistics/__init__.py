"""Floor 1: tensors or arrays in, numbers out. Knows no module, step or layer name."""

from lightning_diagnostics.statistics.best_of_n import (
    LARGEST_EXACT,
    BandMethod,
    Estimator,
    Mode,
    best_of_n_spread,
    cdf_band,
    expected_validation_performance,
    ld_pointwise_coverage,
    tuning_curve_band,
)
from lightning_diagnostics.statistics.channels import statistics_mismatch
from lightning_diagnostics.statistics.gradients import gradient_noise
from lightning_diagnostics.statistics.histograms import ks_distance, merge_histograms
from lightning_diagnostics.statistics.intervals import (
    accuracy_difference_interval,
    accuracy_interval,
    mean_difference_interval,
    mean_of_batches,
    paired_difference_interval,
    samples_for_half_width,
    t_quantile,
)
from lightning_diagnostics.statistics.memory import projected_share
from lightning_diagnostics.statistics.moments import ExponentialMoments, Moments, spread
from lightning_diagnostics.statistics.overfitting import (
    generalization_loss,
    progress_quotient,
    since_improvement,
    successive_rises,
    training_progress,
)
from lightning_diagnostics.statistics.schedules import (
    CooldownShape,
    WarmupShape,
    cooldown_factor,
    untuned_warmup_steps,
    warmup_cooldown_factor,
    warmup_factor,
)
from lightning_diagnostics.statistics.silence import false_silence, samples_needed, silence_bound

__all__ = [
    "LARGEST_EXACT",
    "BandMethod",
    "CooldownShape",
    "Estimator",
    "ExponentialMoments",
    "Mode",
    "Moments",
    "WarmupShape",
    "accuracy_difference_interval",
    "accuracy_interval",
    "best_of_n_spread",
    "cdf_band",
    "cooldown_factor",
    "expected_validation_performance",
    "false_silence",
    "generalization_loss",
    "gradient_noise",
    "ks_distance",
    "ld_pointwise_coverage",
    "mean_difference_interval",
    "mean_of_batches",
    "merge_histograms",
    "paired_difference_interval",
    "progress_quotient",
    "projected_share",
    "samples_for_half_width",
    "samples_needed",
    "silence_bound",
    "since_improvement",
    "spread",
    "statistics_mismatch",
    "successive_rises",
    "t_quantile",
    "training_progress",
    "tuning_curve_band",
    "untuned_warmup_steps",
    "warmup_cooldown_factor",
    "warmup_factor",
]
