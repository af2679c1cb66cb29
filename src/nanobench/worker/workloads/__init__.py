"""The timed work of an arm: generation or training."""
