"""A fixture for pytest: a test of a user's project that says that a change is not slower.

pytest finds it by the entry point `nanobench`; nothing heavy is imported before a test uses it.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nanobench.api.comparisons import Compared, ab

UNDECIDED = ("skip", "fail")
THRESHOLD = 0.02


@dataclass(frozen=True)
class Question:
    """Two sides that a test compares. They are measured when something is asserted of them."""

    base: Any
    new: Any
    options: dict[str, Any]
    folder: Path
    """where the runs are kept"""
    asked: list[Compared] = field(default_factory=list)
    """the comparisons so far"""

    def compare(self, threshold: float | None = None) -> Compared:
        """Measures both sides until it is decided whether they differ by more than a share: this one, that of the question, or
        2 %.
        """
        run = tempfile.mkdtemp(prefix="ab-", dir=self.folder)
        options = {"out": run, "threshold": str(THRESHOLD), **self.options}
        found = ab(self.base, self.new, **options | ({} if threshold is None else {"threshold": str(threshold)}))
        self.asked.append(found)
        return found

    def assert_not_slower(self, threshold: float | None = None, undecided: str = "skip") -> Compared:
        """Fails the test where NEW is slower by more than `threshold`, computes something else, or does not run.

        Where nothing could be decided, the test is skipped with the reason, or fails with `undecided="fail"`.
        """
        __tracebackhide__ = True
        if undecided not in UNDECIDED:
            raise ValueError(f"undecided={undecided!r} is not one of {', '.join(UNDECIDED)}")
        found = self.compare(threshold)
        if found.decision == "need more" and undecided == "skip":
            pytest.skip(f"nanobench could not decide: {self.sentence(found)}")
        if found.decision != "keep":
            pytest.fail(f"nanobench: {found.answer}: {self.sentence(found)}", pytrace=False)
        return found

    @staticmethod
    def sentence(found: Compared) -> str:
        """Both sides, the ratio with its interval, and the reason."""
        ratio = "" if found.ratio is None else f"{found.ratio:.3f}x [{found.low:.3f}, {found.high:.3f}]"
        launches = f"{found.launches} launches"
        return "; ".join(filter(None, [f"{found.base} against {found.new}", ratio, launches, found.reason]))


@pytest.fixture
def nanobench_ab(tmp_path: Path) -> Callable[..., Question]:
    """Compares two sides: `nanobench_ab(base="my_gpt:old", new="my_gpt:new", batch=8).assert_not_slower(threshold=0.05)`.

    Further keywords are those of `nanobench.ab`.
    """

    def ask(base: Any, new: Any, **options: Any) -> Question:
        return Question(base, new, options, tmp_path)

    return ask
