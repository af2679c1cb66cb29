"""The control process: plans a sweep, starts workers, keeps what they say. It never imports torch."""
