"""Optimizers; one file per optimizer. `build(parameters, fused=...)` gives a torch.optim.Optimizer."""
