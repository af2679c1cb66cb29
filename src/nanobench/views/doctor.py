"""What is damaged in the files of runs, in words and as data."""

import shlex
from collections.abc import Sequence

from nanobench.records import JsonObject
from nanobench.results.doctor import Finding
from nanobench.views import format


def line(found: Finding) -> str:
    """A problem and its fix."""
    problem = found.problem
    return f"{found.where or problem.path} {problem.what}; {'repaired' if found.repaired else 'fix'}: {problem.fix}"


def summary(found: Sequence[Finding], runs: int, results: str) -> str:
    """How many problems there were, and how to repair those that are left."""
    repaired = sum(each.repaired for each in found)
    can_be = any(each.problem.repair and not each.repaired for each in found)
    end = f"; repair with: nanobench doctor --repair {shlex.quote(results)}" if can_be else ""
    return f"{format.count(runs, 'run')} examined, {format.count(len(found), 'problem')}, {repaired} repaired{end}"


def document(found: Finding) -> JsonObject:
    """A problem for programs."""
    problem = found.problem
    return {"path": found.where or str(problem.path), "problem": problem.what, "fix": problem.fix, "repaired": found.repaired}
