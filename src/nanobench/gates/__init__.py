"""Correctness gates: an arm is timed only after it has passed its gate."""
