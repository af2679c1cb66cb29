"""Runs in the format of pytest-benchmark, whose `compare` and whose dashboards then read them."""

import statistics
from collections.abc import Iterable
from typing import Any

import numpy as np

from nanobench import __version__
from nanobench.records import LaunchRecord
from nanobench.results.cell import Cell
from nanobench.results.derive import cells_of
from nanobench.results.repetitions import call_s
from nanobench.results.run_info import RunInfo

FENCE = 1.5
"""Tukey's fences, in interquartile ranges."""


def document(runs: Iterable[tuple[RunInfo, list[LaunchRecord]]]) -> dict[str, Any]:
    """A file of pytest-benchmark: a benchmark per cell, a round per timed call."""
    runs = list(runs)
    info = runs[-1][0]
    source = info.description.code.get("nanobench")
    cells = [(each, cell) for each, launches in runs for cell in cells_of(launches) if cell.untimestamped]
    return {
        "machine_info": {**info.description.identity, "node": info.description.state.get("hostname", "")},
        "commit_info": {
            "id": (source and source.commit) or "unversioned",
            "time": info.started_at,
            "author_time": info.started_at,
            "dirty": bool(source and source.dirty),
            "project": "nanobench",
            "branch": "(unknown)",
        },
        "benchmarks": [benchmark(each, cell) for each, cell in cells],
        "datetime": info.started_at,
        "version": f"nanobench {__version__}",
    }


def benchmark(info: RunInfo, cell: Cell) -> dict[str, Any]:
    """One cell. Its rounds are the calls that no timestamps disturbed, in seconds."""
    point = cell.point
    length = f"s{point.seq_len}" if point.trains else f"p{point.prompt_len}-n{point.new_tokens}"
    name = f"{point.model}[{cell.arm.label}-b{point.batch_size}-{length}]"
    return {
        "group": f"{point.model} b{point.batch_size} {length}",
        "name": name,
        "fullname": f"nanobench {info.command}::{name}",
        "params": {**vars(point), **vars(cell.arm)},
        "param": None,
        "extra_info": {"launches": len(cell.steady_by_launch)},
        "options": {
            "disable_gc": True,
            "timer": "perf_counter",
            "min_rounds": 1,
            "max_time": 0.0,
            "min_time": 0.0,
            "warmup": True,
        },
        "stats": {**stats([call_s(each) for each in cell.untimestamped]), "iterations": 1},
    }


def stats(seconds: list[float]) -> dict[str, Any]:
    """The figures that pytest-benchmark keeps of a benchmark's rounds."""
    first, middle, third = (float(value) for value in np.percentile(seconds, (25, 50, 75)))
    mean, spread = statistics.fmean(seconds), statistics.stdev(seconds) if len(seconds) > 1 else 0.0
    low, high = first - FENCE * (third - first), third + FENCE * (third - first)
    beyond = sum(not low <= each <= high for each in seconds)
    unusual = sum(abs(each - mean) > spread for each in seconds)
    return {
        "min": min(seconds),
        "max": max(seconds),
        "mean": mean,
        "stddev": spread,
        "rounds": len(seconds),
        "median": middle,
        "iqr": third - first,
        "q1": first,
        "q3": third,
        "iqr_outliers": beyond,
        "stddev_outliers": unusual,
        "outliers": f"{unusual};{beyond}",
        "ld15iqr": min(each for each in seconds if each >= low),
        "hd15iqr": max(each for each in seconds if each <= high),
        "ops": 1 / mean,
        "total": sum(seconds),
        "data": seconds,
    }
