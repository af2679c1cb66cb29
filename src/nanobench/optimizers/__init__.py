"""Optimizers; one file per optimizer. `build(parameters, fused=...)` returns a torch.optim.Optimizer."""
