"""The command line: parse, call, print. Commands import heavy packages when they run, so that --help is quick."""

from nanobench.cli import (
    autobatch,
    calibrate,
    cost,
    env,
    explain,
    export,
    list_names,
    plot,
    predict,
    report,
    run,
    sample,
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
    "export",
    "list_names",
    "plot",
    "predict",
    "report",
    "run",
    "sample",
    "selftest",
    "sweep",
    "verify",
]
