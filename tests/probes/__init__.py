"""Tests of where on a torch model a number is taken."""
