"""Where a trial runs; one file per place."""
