"""Calibration: the attainable limits of a machine, measured in passes of synthetic models."""
