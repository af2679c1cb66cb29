"""Instruments: clocks, memory, and what this machine is."""
