"""The diagnostics, one folder each."""
