"""Gradient norms and their variance, what they do to the weights, and gradients that are missing or broken."""
