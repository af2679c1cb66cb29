"""Columns of cells.parquet: those of every cell, those of generation, those of training."""
