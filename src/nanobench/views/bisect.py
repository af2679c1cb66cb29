"""The search for the commit that made it slower, in words and as one JSON document."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from nanobench.results.decision import Decision
from nanobench.sweep import revision
from nanobench.sweep.bisect import Found
from nanobench.views import ab, format


def plan(commits: int, minutes: str) -> str:
    """What the search will take."""
    steps = max(1, commits - 1).bit_length() + 1
    return f"{format.count(commits, 'commit')}; about {format.count(steps, 'comparison')} of up to {minutes} minutes"


def named(commit: str) -> str:
    """A commit with its subject."""
    return f"{commit[:10]} {revision.git('log', '-1', '--format=%s', commit) or ''}".rstrip()


def judged(commit: str, found: Decision, threshold: float) -> str:
    """The answer for one commit."""
    return f"{named(commit)}: {ab.sentence(found, threshold)}"


def lines(found: Found, good: str, bad: str) -> Iterator[str]:
    """The end of the search."""
    names = [named(commit) for commit in found.suspects]
    if not names:
        answer = next(iter(found.judged.values())).answer
        yield f"{bad} was not found to be slower than {good}: {answer}; there is nothing to search"
    elif len(names) == 1:
        yield f"the first slow commit: {names[0]}"
    else:
        yield "one of these commits made it slower; those before the last have no answer:"
        yield from (f"  {name}" for name in names)


def document(found: Found) -> dict[str, Any]:
    """All of it for programs."""
    return {
        "suspects": found.suspects,
        "judged": [{"commit": commit, **asdict(decision)} for commit, decision in found.judged.items()],
    }
