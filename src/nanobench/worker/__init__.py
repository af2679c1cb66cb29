"""The measuring process: each trial runs in a fresh process."""
