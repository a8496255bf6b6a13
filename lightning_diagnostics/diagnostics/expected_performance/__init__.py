"""What the best of n trials of a search is worth: a record of each run, and the curve over all of them."""
