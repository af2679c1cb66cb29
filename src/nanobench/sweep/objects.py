"""Models that Python holds in memory: plans and rows show a name, a worker gets the file that the model was written to."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nanobench.records import JsonObject
from nanobench.sweep.executors.base import Executor, Progress, WorkerResult, at_once

Files = Mapping[str, str]
"""Name of a model in memory, as rows show it -> how a worker reads it: `object:PATH?sha256=...`."""
NO_FILES: Files = MappingProxyType({})


@dataclass(frozen=True)
class Shipping:
    """Meets Executor. Workers get the files of the models, and their answers show the names."""

    executor: Executor
    files: Files

    def run(self, request: JsonObject, folder: Path, log: Path, timeout_s: float, progress: Progress) -> WorkerResult:
        """See Executor.run."""
        result = self.executor.run(renamed(request, self.files), folder, log, timeout_s, progress)
        names = {file: name for name, file in self.files.items()}
        # The records of arms name no model, and are long.
        is_short = result.record is not None and "arms" not in result.record
        record = renamed(result.record, names) if is_short else result.record
        return replace(result, record=record, reason=renamed(result.reason, names))

    def at_once(self, device: str) -> int:
        """See base.at_once."""
        return at_once(self.executor, device)

    def close(self) -> None:
        """See Executor.close."""
        self.executor.close()


def shipping(executor: Executor, files: Files) -> Executor:
    """An executor whose workers get these files; the executor itself where there are none."""
    return Shipping(executor, files) if files else executor


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """JSON data where each of some names is replaced, wherever a text contains it."""
    if isinstance(value, str):
        for old, new in names.items():
            value = value.replace(old, new)
        return value
    if isinstance(value, dict):
        return {renamed(key, names): renamed(each, names) for key, each in value.items()}
    return [renamed(each, names) for each in value] if isinstance(value, list | tuple) else value
