"""Autograd graphs of earlier steps that are still alive, and who holds them."""
