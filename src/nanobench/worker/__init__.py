"""The measuring process: one trial in one fresh process."""
