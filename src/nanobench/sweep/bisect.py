"""Which commit made it slower: a binary search over the commits between a good and a bad one.

Each commit is judged by an A/B comparison against the good one. Commits that cannot be judged are skipped: they may then be
among several suspects. The user's checkout is not touched.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from nanobench.errors import UserError
from nanobench.results.decision import Answer, Decision
from nanobench.sweep import ab, revision
from nanobench.sweep.ab_options import AbOptions, BisectOptions
from nanobench.sweep.values import read_minutes

GOOD = (Answer.SAME, Answer.FASTER)
Judge = Callable[[str], Decision]
"""The answer for a commit, compared with the good one."""


@dataclass
class Found:
    """The end of a search."""

    suspects: list[str] = field(default_factory=list)
    """the first bad commit; several where those between have no answer, oldest first; none where the last is not slower"""
    judged: dict[str, Decision] = field(default_factory=dict)
    """commit -> its answer, in the order of the search"""

    @property
    def is_open(self) -> bool:
        """Whether more launches or more time could name the commit: there are several suspects, or the last is undecided."""
        last = next(iter(self.judged.values()))
        return len(self.suspects) > 1 or last.answer is Answer.UNDECIDED


def commits_between(good: str, bad: str) -> dict[str, str]:
    """Commit -> its subject, for those after `good` up to `bad` along first parents, oldest first. Raises UserError where there
    are none.
    """
    for text in (good, bad):
        if not revision.is_revision(text) or text == revision.WORKING_TREE:
            raise UserError(f"unknown revision {text!r}; give a branch, a tag or a commit of this repository")
    listed = revision.git("log", "--reverse", "--first-parent", "--format=%H %s", f"{good}..{bad}")
    if not listed:
        raise UserError(f"no commits from {good!r} to {bad!r}; give an older and a newer commit of one branch")
    return {line.partition(" ")[0]: line.partition(" ")[2] for line in listed.splitlines()}


def find(commits: Sequence[str], judge: Judge, has_time: Callable[[], bool] = lambda: True) -> Found:
    """Judges the last commit, and searches for the first slow one if that is slow."""
    last = judge(commits[-1])
    if last.answer is not Answer.SLOWER:
        return Found(judged={commits[-1]: last})
    found = search(commits, judge, has_time)
    return Found(found.suspects, {commits[-1]: last, **found.judged})


def search(commits: Sequence[str], judge: Judge, has_time: Callable[[], bool] = lambda: True) -> Found:
    """The first commit that is slower. The last is known to be bad, the one before the first is good.

    A commit that cannot be judged is left out; its nearest neighbour is judged instead. Without time, all that may be the first
    slow commit are suspects.
    """
    found, unknown = Found(), set[int]()
    good, bad = -1, len(commits) - 1
    while True:
        inside = [index for index in range(good + 1, bad) if index not in unknown]
        if not inside or not has_time():
            found.suspects = list(commits[good + 1 : bad + 1])
            return found
        middle = min(inside, key=lambda index: abs(index - (good + bad) / 2))
        decision = found.judged[commits[middle]] = judge(commits[middle])
        if decision.answer is Answer.SLOWER:
            bad = middle
        elif decision.answer in GOOD:
            good = middle
        else:
            unknown.add(middle)


def run(options: BisectOptions, commits: Sequence[str], folder: Path, tell: Callable[[str, Decision], None]) -> Found:
    """Searches on a device that is held, as `find` does. `tell` is called with each commit and its answer.

    Raises UserError where the good revision cannot run; a commit that cannot run is a failure of its own.
    """
    end = time.monotonic() + 60 * read_minutes(options.budget, "budget")
    shared = AbOptions(**{each.name: getattr(options, each.name) for each in fields(AbOptions)})

    def judge(commit: str) -> Decision:
        try:
            decision = ab.compare(replace(shared, new=commit, out=""), folder / commit[:10]).over_all
        except ab.SideError as error:
            if error.side == ab.NAMES[0]:
                raise
            decision = Decision(Answer.FAILED, reason=str(error))
        tell(commit, decision)
        return decision

    return find(commits, judge, lambda: time.monotonic() < end)
