"""What a step should cost: operations and bytes, limits of the machine, and the prediction from both."""
