"""Steps of training: batches, ranks and the trainer that workloads and gates share."""
