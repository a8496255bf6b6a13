"""Tests of the findings, the rules that make them, and the journal."""
