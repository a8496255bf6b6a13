"""What `GradientNormMonitor` measures, finds, and leaves alone."""
