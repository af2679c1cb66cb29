"""The predicted cost of a step: operations and bytes, limits of the machine, and the prediction from both."""
