"""What follows from the cells: pure functions of a DataFrame."""
