"""What `GeneralizationGapMonitor` measures, finds, and leaves alone."""
