"""`python -m nanobench`: the command line, also from a checkout that is not installed."""

from nanobench.cli import app

app()
