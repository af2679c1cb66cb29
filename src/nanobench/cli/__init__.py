"""The command line: parse, call, print. Heavy imports stand inside the commands that need them, so that --help is quick."""

from nanobench.cli import (
    autobatch,
    calibrate,
    cost,
    env,
    explain,
    list_names,
    predict,
    report,
    selftest,
    sweep,
    verify,
)
from nanobench.cli.app import app

__all__ = [
    "app",
    "autobatch",
    "calibrate",
    "cost",
    "env",
    "explain",
    "list_names",
    "predict",
    "report",
    "selftest",
    "sweep",
    "verify",
]
