"""One prompt and what each engine continues it with, for a terminal: the first difference stands between marks."""

from collections.abc import Sequence

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from nanobench.continuation import Continuation, TokenDifference
from nanobench.records import Verdict
from nanobench.sweep.sample import Sample, verdict_of
from nanobench.views import format

OPENING, CLOSING = "»", "«"
"""Around the token that is the first difference: they are there without colours, too."""
STYLES = {Verdict.EXACT: "green", Verdict.ROUNDING: "yellow", Verdict.LOSSY: "yellow", Verdict.WRONG: "red", None: "dim"}


def page(sample: Sample) -> Group:
    """The prompt, the reference's continuation, and that of each engine."""
    blocks: list[Text | Padding] = [Text(head(sample)), *block(Text("prompt", "bold"), Text(printable(sample.options.prompt)))]
    reference = Text(f"reference ({sample.reference_dtype}, uncached)", "bold")
    blocks += block(reference, continuation_text(sample.reference))
    for each in sample.engines:
        title = Text.assemble((each.engine, "bold"), (f": {conclusion(each, sample)}", STYLES[verdict_of(each)]))
        blocks += block(title, continuation_text(each))
    return Group(*blocks)


def block(title: Text, body: Text) -> list[Text | Padding]:
    """A title, and below it a text with a margin, if there is one."""
    return [title, Padding.indent(body, 2)] if body.plain else [title]


def head(sample: Sample) -> str:
    """What was run, in one line."""
    options, point = sample.options, sample.point
    sampled = "greedy" if options.sampler == "greedy" else f"{options.sampler} with seed {options.seed}"
    lengths = f"{format.count(len(sample.prompt), 'prompt token')} ({options.tokenizer}), {point.new_tokens} new"
    return f"{point.model} in {point.dtype} on {point.device}, {sampled}: {lengths}"


def continuation_text(found: Continuation) -> Text:
    """The text of a continuation, or its token ids where the tokens are no text; the first difference between marks."""
    before, token, after = parts_of(found)
    if found.first is None:
        return Text(before + token + after)
    return Text.assemble(before, (f"{OPENING}{token}{CLOSING}", f"bold {STYLES[verdict_of(found)]}"), after)


def parts_of(found: Continuation) -> Sequence[str]:
    """What stands before the first difference, there and after it, in printable characters."""
    if found.parts is not None:
        return [printable(part) for part in found.parts]
    place = len(found.tokens) if found.first is None else found.first.place
    before, token, after = (
        " ".join(map(str, part)) for part in (found.tokens[:place], found.tokens[place : place + 1], found.tokens[place + 1 :])
    )
    return [before + " " * bool(before and token), token, " " * bool(after) + after]


def printable(text: str) -> str:
    """A text whose line breaks, control characters and the like are written as Python writes them: a model may put out any."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def conclusion(found: Continuation, sample: Sample) -> str:
    """The verdict on an engine, in words."""
    if found.reason is not None:
        return f"{found.status}, {found.reason}"
    if found.first is None:
        return "exact, every token is the reference's choice"
    words = f"{verdict_of(found)}, {difference(found.first, found, sample)}"
    if found.wrong is None or found.wrong == found.first:
        return words
    return f"{words}; {difference(found.wrong, found, sample)}"


def difference(each: TokenDifference, found: Continuation, sample: Sample) -> str:
    """A difference, its margin, and whether rounding explains it."""
    tolerance, margin, below = (format.text(value, "logit") for value in (found.tolerance, each.margin, each.below))
    where = f"token {each.place + 1} is {each.token}, the reference chooses {each.chosen}"
    largest = f"its two largest logits differ by {margin}"
    if sample.options.sampler == "greedy":
        why = f"the logit of {each.token} is {below} below the largest"
    else:
        why = f"logits within the tolerance {'can' if each.is_rounding else 'cannot'} lead to it with the same random number"
    explained = "rounding can explain it" if each.is_rounding else "rounding cannot explain it"
    return f"{where}; {largest}, {why}: {explained} (tolerance {tolerance})"
