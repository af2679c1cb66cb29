"""Instruments: clocks, memory, sensors and counters, and the identity of the machine."""
