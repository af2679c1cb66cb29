"""Training shared by workloads and gates: batches, ranks and the trainer."""
