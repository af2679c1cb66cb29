"""The checks of a self-test that was kept: its two runs stand beside each other in one folder."""

from dataclasses import dataclass

from nanobench.analysis.report import Study
from nanobench.results import finder, status, store
from nanobench.results.store import Run
from nanobench.sweep import selftest
from nanobench.sweep.selftest import CellSummary, Check
from nanobench.views import format
from nanobench.views import selftest as words

SAME, DELAYED = "same", "delayed"
"""Folders of the two runs of a self-test."""
VERDICTS = {True: "passed", False: "FAILED", None: "not run"}


@dataclass(frozen=True)
class Selftest:
    """The checks with their verdicts, and what they mean for a user's own sweeps."""

    checks: list[tuple[Check, str]]
    meaning: list[str]

    @property
    def sentence(self) -> str:
        """How many checks passed, and which did not."""
        failed = [check.name for check, _ in self.checks if check.passed is False]
        passed = sum(check.passed is True for check, _ in self.checks)
        open_ones = len(self.checks) - passed - len(failed)
        parts = [f"{passed} passed", f"{len(failed)} failed", *([f"{open_ones} not run"] if open_ones else [])]
        found = f"{format.count(len(self.checks), 'check')} of the self-test: {', '.join(parts)}"
        return f"{found}; failed: {', '.join(failed)}." if failed else f"{found}."


def selftest_of(study: Study) -> Selftest | None:
    """The self-test that a run is a part of; None for another run, and where the other part is missing."""
    folders = [study.folder.resolve().parent / name for name in (SAME, DELAYED)]
    if study.info.command != "selftest" or not all(Run(folder).info_file.exists() for folder in folders):
        return None
    same, delayed = (list(map(CellSummary.of, store.records(finder.load(folder)))) for folder in folders)
    if not same or not delayed:
        return None
    launches = selftest.launches_for(same, min(selftest.FOUND)) or selftest.MOST_LAUNCHES
    causes = status.count_causes(cell.disturbed_by for cell in [*same, *delayed])
    checks = [(check, VERDICTS[check.passed]) for check in selftest.check(same, delayed)]
    return Selftest(checks, words.trust(selftest.spread(same), launches, selftest.resolution(same), causes))
