"""What `WarmupCooldownScheduler` multiplies, foresees, finds, and leaves alone."""
