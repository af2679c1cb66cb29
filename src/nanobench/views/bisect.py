"""The search for the commit that made it slower, in words and as one JSON document."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from nanobench.results.decision import Answer, Decision
from nanobench.sweep.bisect import Found
from nanobench.views import ab, format

NO_SPEED = (Answer.DIFFERENT, Answer.FAILED, Answer.UNDECIDED)
"""Answers of commits that the search skips."""


def plan(commits: int, minutes: str) -> str:
    """What the search will take."""
    steps = max(1, commits - 1).bit_length() + 1
    return f"{format.count(commits, 'commit')}; about {format.count(steps, 'comparison')} of up to {minutes} minutes"


def judged(commit: str, subject: str, found: Decision, threshold: float) -> str:
    """The answer for one commit."""
    return f"{commit[:10]} {subject}: {ab.sentence(found, threshold)}"


def lines(found: Found, subjects: Mapping[str, str], good: str, bad: str) -> Iterator[str]:
    """The end of the search."""
    names = [f"{commit[:10]} {subjects[commit]}" for commit in found.suspects]
    if not names:
        answer = next(iter(found.judged.values())).answer
        yield f"{bad} was not found to be slower than {good}: {answer}; there is nothing to search"
    elif len(names) == 1:
        yield f"the first slow commit: {names[0]}"
    else:
        yield "one of these commits made it slower; those before the last have no answer:"
        yield from (f"  {name}" for name in names)
    skipped = [commit for commit, decision in found.judged.items() if decision.answer in NO_SPEED]
    if names and skipped:
        yield "skipped:"
        yield from (f"  {commit[:10]} {subjects[commit]}: {found.judged[commit].answer}" for commit in skipped)


def document(found: Found) -> dict[str, Any]:
    """All of it for programs."""
    return {
        "suspects": found.suspects,
        "judged": [{"commit": commit, **asdict(decision)} for commit, decision in found.judged.items()],
    }
