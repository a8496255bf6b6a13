"""Warmup and cooldown on top of any learning-rate schedule, and what is wrong with a schedule before it runs."""
