"""What holds for every registered callback, now and later, in every mode of the matrix."""
