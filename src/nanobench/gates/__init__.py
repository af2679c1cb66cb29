"""The correctness gates: no arm is timed before one passed it."""
