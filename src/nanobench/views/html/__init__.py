"""Pages of HTML: one file each, which needs no network, for a run, for several runs, and for a search of a batch size."""
