"""What became of drafted tokens, as numbers."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DraftCounts:
    """What an engine that drafts tokens counts in the decode steps of a repetition. None for other engines.

    A token at a position is accepted if all drafted tokens before it are accepted, too.
    """

    target_passes: int | None = None
    """passes of the model, each over the newest token and those that were drafted after it"""
    drafted_by_position: tuple[float, ...] | None = None
    """passes before which a token was drafted at the first position, at the second, ..."""
    accepted_by_position: tuple[float, ...] | None = None
    """how many of them accepted it, mean over rows, each row on its own"""
    kept_by_position: tuple[float, ...] | None = None
    """how many of them accepted it in all rows: then it is kept"""
    draft_s: float | None = None
    """seconds in which tokens were drafted; only of timestamped repetitions"""


@dataclass(frozen=True, kw_only=True)
class DraftFacts:
    """What an engine says of its drafts. None for engines that draft nothing."""

    synthetic: str | None = None
    """in words, why some tokens of the output are not the model's; None for all engines whose output is the model's"""
    drafting: str | None = None
    """how the engine drafts tokens: a roofline.speculation.Drafting as JSON"""
