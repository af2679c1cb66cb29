"""What was measured: files, repetitions, cells and the columns derived from them."""
