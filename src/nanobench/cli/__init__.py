"""The command line: parse, call, print. Heavy imports stand inside the commands that need them, so that --help is quick."""

from nanobench.cli import explain, fit, foretell, measure, reach, results, show, spend, trust
from nanobench.cli.base import app

__all__ = ["app", "explain", "fit", "foretell", "measure", "reach", "results", "show", "spend", "trust"]
