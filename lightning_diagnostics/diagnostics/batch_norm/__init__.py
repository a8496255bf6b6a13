"""Modes, running statistics, and predictions that depend on the batch."""
