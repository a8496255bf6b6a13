"""Tests of the glue between Lightning and the diagnostics."""
