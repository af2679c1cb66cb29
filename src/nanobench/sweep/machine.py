"""Whether a record comes from a machine like that of the plan: times of unlike machines are never mixed.

See docs/decisions/0039-one-identity-per-run.md.
"""

from dataclasses import dataclass
from pathlib import Path

from nanobench.records import JsonObject, Status
from nanobench.sweep.executors.base import Executor, Progress, WorkerResult, at_once


def node_of(result: WorkerResult) -> str | None:
    """The name of the machine that answered; None where it does not say."""
    here = (result.record or {}).get("machine")
    return here["node"] if here else None


def differences(was: JsonObject, found: JsonObject) -> list[str]:
    """The facts of an identity that are not those of another one, in words."""
    return [f"{name} is {value}, not {was[name]}" for name, value in found.items() if name in was and was[name] != value]


@dataclass(frozen=True)
class SameMachine:
    """Meets Executor. An answer from a machine with another identity than the plan's becomes an error with the reason."""

    executor: Executor
    identity: JsonObject
    """of the machine that the plan was made for"""

    def run(self, request: JsonObject, folder: Path, log: Path, timeout_s: float, progress: Progress) -> WorkerResult:
        """See Executor.run."""
        result = self.executor.run(request, folder, log, timeout_s, progress)
        here = (result.record or {}).get("machine") or {}
        other = differences(self.identity, here.get("facts", {}))
        if not other:
            return result
        unlike = f"{here['node']} is not like the machine that the plan was made for ({'; '.join(other)})"
        return WorkerResult(None, Status.ERROR, f"{unlike}: its times are not kept")

    def at_once(self, device: str) -> int:
        """See base.at_once."""
        return at_once(self.executor, device)

    def close(self) -> None:
        """See Executor.close."""
        self.executor.close()
