"""Engines: they generate tokens in a prefill and decode steps; one file per engine.

No engine uses a clock or waits for the device.
"""
