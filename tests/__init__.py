"""The tests: a mirror of the package, and the contracts that hold for every registered callback."""
