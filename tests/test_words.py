"""The word list: docs, help, messages and docstrings use plain technical English.

`python tests/test_words.py` lists all findings, grouped per file.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").rglob("*.md"))
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
SOURCES = sorted((ROOT / "src").rglob("*.py"))

HIDDEN = "¤"
"""Stands for each character of a text that is no prose: code spans, link targets, TOML values."""


class Word(NamedTuple):
    """A pattern, where a space matches a line break too, and what to write instead."""

    pattern: str
    instead: str
    alone: bool = False
    """also where it is a whole string literal without a space: a table head or a JSON key, not an identifier"""


WORDS = [
    # Old-fashioned words
    Word(r"mend(s|ed|ing)?", "fix", alone=True),
    Word(r"(reckon(s|ed|ing)?|foretell(s|ing)?|foretold)", "predict, compute", alone=True),
    Word(r"(un|dis)?believ(e|es|ed|ing|able)", "reliable (unreliable)", alone=True),
    Word(r"weigh(s|ed|ing)?", "measure, measured", alone=True),
    Word(r"told apart", "distinguished"),
    Word(r"told", "reported, known"),
    Word(r"(does|do|did) not tell", "does not report"),
    Word(r"tells? of", "report(s)"),
    Word(r"asked", "requested, checked, compared"),
    Word(r"strangers?", "independent script, other people", alone=True),
    Word(r"seldom", "rarely"),
    Word(r"anew", "again"),
    Word(r"dearer", "more expensive"),
    Word(r"likel(ier|iest)", "more (most) likely"),
    Word(r"lone", "single", alone=True),
    Word(
        r"whence|thence|hither|thither|thereof|wherein|whereby|whilst|lest|alas|shall|unto|thrice|perchance|nought",
        "(leave out)",
    ),
    Word(r"in a hurry", "with --quick, fast"),
    Word(r"cry wolf", "raise false alarms"),
    Word(r"of (ours|yours)", "our own, your own"),
    Word(r"less (one|1)", "minus 1"),
    Word(r"at hand", "available, installed; this machine"),
    Word(r"come along", "are included"),
    Word(r"leave (it|them) away", "remove it"),
    Word(r"(bring|brings|brought) (it|them|its process|the process|the others|the worker) down", "crash, crashed"),
    # Phrases
    Word(r"(hold|holds|held|holding)( \S+){0,4}? against", "compare(d) with"),
    Word(r"by hand", "manually set, hand-written"),
    Word(r"what is here", "environment"),
    Word(r"what there is", "run nanobench --help for usage"),
    Word(r"what (this|the|a) machine (is and how it is|reach(es|ed))", "identity and state; attainable limits"),
    Word(r"what (it|that|each|this) does to the numbers", "effect on results"),
    Word(r"no \S+ is called", "unknown engine 'x'"),
    Word(r"somebody's hand", "a manual kill"),
    Word(r"nobody's", "charged to no arm"),
    Word(r"nothing is said (of|about)", "no conclusion for X vs Y"),
    Word(r"nothing here explains|explained by nothing", "cause unknown"),
    Word(r"(hold|holds) (1(?= ?[:;.,)])|the truth)|intervals? (hold|holds) 1", "contain(s) 1, contain(s) the true value"),
    Word(r"(not|never) judged", "excluded from conclusions"),
    Word(r"(find|finds|found|finding) (no|its|their) memory|(?<=[:|] )no memory", "run(s) out of memory, fit(s) in memory"),
    Word(r"floors? (lie|lies|lay)|for the datasheet's floors", "the datasheet minimum is N times lower"),
    Word(r"(?<=,) for (no|they|it (is|has|was))", "because"),
    Word(r"how sure (is|that|are|it)", "with what uncertainty"),
    Word(r"one that suffices", "smallest that saturates throughput"),
    Word(r"intervals? then says?", "intervals then cover"),
    Word(r"look(s|ed)? (at )?again", "search again, measure again"),
    Word(r"whatever was found before", "ignore the cached answer"),
    Word(r"whose truth is known|truth is known", "whose true result is known"),
    Word(r"(its|their|what) makers?|makers? (say|says|promise|promises|print|prints)", "vendor"),
    # Field terms
    Word(r"(over|of|between|by|brief|first|two) (the )?looks", "drift checks"),
    Word(
        r"(a|one|each|every|the|no|further|earlier|last|first|another) try|(of|all|by|other|these|the) tries", "trial, attempt"
    ),
    Word(r"^tries$", "suggestions", alone=True),
    Word(r"(picking|choosing) the largest logit", "argmax"),
    Word(
        r"(draw|draws) (at random|again|from|above|nothing|tokens?|a token)|tokens? (is|are|was|were)( not)? drawn|drawn as",
        "sample",
    ),
    Word(r"(its|the|a|an|first|second) draws?(?! (of|to|from) )|its draws?", "sample(s)"),
    Word(r"(?<!AI )products(?! (and total|of (the )?(factors|ratios)))", "matmuls"),
    Word(r"(a|one|its|the) product(?:'s)? (rate|waits|with few)|weights of one product", "matmul"),
    Word(r"(a|wide|with|,) head of( weights)?|head, attention|a wide head", "lm_head"),
    Word(
        r"marks? (tax|per token|cost|at every token)|(with|without|carr(y|ies)|takes?|host|its|their|puts?|two) marks?",
        "timestamp",
    ),
    Word(r"(un)?marked (repetitions?|calls?|ones?)|a mark|marks are|marking every", "timestamp"),
    Word(r"null (contrast|low|high|ratio|\[95)", "A/A contrast"),
    # The projects that the published figures come from
    Word(
        r"the seeds(?! (of|are|for|that|in) )|seeds'|the seed (study|benchmarks?|tables?|repository|repositories|project)",
        "published baselines",
    ),
]
OLD_COLUMNS = {
    "marks_s": "token_times_s",
    "marked": "timestamped",
    "mark_tax": "timestamp_overhead",
    "mark_tax_lo": "timestamp_overhead_lo",
    "mark_tax_hi": "timestamp_overhead_hi",
    "mark_cost_s": "timestamp_cost_s",
    "contexts": "attended_positions",
    "noise": "relative_iqr",
    "advice": "ci_advice",
    "null_ratio": "aa_ratio",
    "null_lo": "aa_ratio_lo",
    "null_hi": "aa_ratio_hi",
    "throttle": "clock_event_reasons",
    "throttled": "quota_throttled_periods",
    "device_busy": "gpu_busy_fraction",
    "graphs": "compiled_graphs",
}
"""Old column -> new one; pages use the new one. The changelog has both."""


@dataclass(frozen=True)
class Finding:
    """A word of the list, where it is, and what to write instead."""

    place: str
    line: int
    found: str
    instead: str

    def __str__(self) -> str:
        return f"{self.place}:{self.line}: {self.found!r} -> {self.instead}"


def compiled(word: Word) -> re.Pattern[str]:
    """The pattern between word boundaries; a space of it also matches a line break with its indent, quote or list mark."""
    gap = r"(?:[ \t]+|[ \t]*\n[ \t>#*]*)"
    # A lookbehind has a fixed width: its space stays one.
    parts = re.split(r"(\(\?<[=!][^)]*\))", word.pattern)
    spaced = "".join(part if part.startswith("(?<") else part.replace(" ", gap) for part in parts)
    return re.compile(rf"(?<![\w/.\-{HIDDEN}])(?:{spaced})(?![\w\-{HIDDEN}]|[/.]\w)", re.IGNORECASE)


PATTERNS = [(compiled(word), word) for word in WORDS]


def findings_in(text: str, place: str, first_line: int = 1, alone: bool = False) -> Iterator[Finding]:
    """The words of the list in a text; `alone` for a literal without a space."""
    taken: list[tuple[int, int]] = []
    for pattern, word in PATTERNS:
        if alone and not word.alone:
            continue
        for match in pattern.finditer(text):
            if any(start < match.end() and match.start() < end for start, end in taken):
                continue
            taken.append(match.span())
            found = " ".join(match.group().split())
            yield Finding(place, first_line + text.count("\n", 0, match.start()), found, word.instead)


# What is prose in each kind of source


def hide(match: re.Match[str]) -> str:
    """As many placeholders, with the line breaks where they are."""
    return re.sub(r"[^\n]", HIDDEN, match.group())


def without_code(text: str) -> str:
    """A text without code spans and addresses."""
    text = re.sub(r"(?<!`)(`+)(?!`)(?:[^`\n]|(?<!\n)\n(?!\n))+?\1(?!`)", hide, text)
    return re.sub(r"https?://\S+", hide, text)


def markdown_prose(text: str) -> str:
    """A page without code spans and link targets. Fenced blocks stay as they are: their comments and output are read too."""
    parts = re.split(r"(^ *```.*?^ *```[^\n]*$)", text, flags=re.MULTILINE | re.DOTALL)
    link = re.compile(r"(?<=\])\([^)\n]*\)")
    return "".join(part if number % 2 else link.sub(hide, without_code(part)) for number, part in enumerate(parts))


def toml_prose(text: str) -> str:
    """The comments of a TOML file."""
    lines = []
    for line in text.splitlines():
        quote, begin = "", len(line)
        for column, letter in enumerate(line):
            if quote:
                quote = "" if letter == quote else quote
            elif letter in "\"'":
                quote = letter
            elif letter == "#":
                begin = column
                break
        lines.append(HIDDEN * begin + re.sub("^#", " ", line[begin:]))
    return "\n".join(lines)


def markdown_findings(text: str, place: str) -> list[Finding]:
    """The words of the list in a page, and old names of columns in its code spans."""
    found = list(findings_in(markdown_prose(text), place))
    if place != "CHANGELOG.md":
        for number, line in enumerate(text.splitlines(), 1):
            spans = [span for span in re.findall(r"`([^`]+)`", line) if span in OLD_COLUMNS]
            found += [Finding(place, number, f"`{span}`", f"`{OLD_COLUMNS[span]}`") for span in spans]
    return found


def toml_findings(text: str, place: str) -> list[Finding]:
    """The words of the list in the comments of a TOML file."""
    return list(findings_in(toml_prose(text), place))


def literals(tree: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """The string literals of a module; an f-string is one, with {} for what it is filled with."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.JoinedStr):
            parts = (str(part.value) if isinstance(part, ast.Constant) else "{}" for part in child.values)
            yield child, "".join(parts)
            for part in child.values:
                if isinstance(part, ast.FormattedValue):
                    yield from literals(part)
        elif isinstance(child, ast.Constant):
            if isinstance(child.value, str):
                yield child, child.value
        else:
            yield from literals(child)


def python_findings(source: str, place: str) -> list[Finding]:
    """The words of the list in the string literals of a module: docstrings, help, messages."""
    lines, found = source.splitlines(), []
    for node, text in literals(ast.parse(source)):
        first, last = node.lineno, node.end_lineno or node.lineno
        for finding in findings_in(without_code(text), place, first, alone=not re.search(r"\s", text.strip())):
            guess = min(finding.line, last)
            word = finding.found.split()[0]
            line = next((n for n in range(guess, last + 1) if word in lines[n - 1]), guess)
            found.append(Finding(place, line, finding.found, finding.instead))
    return found


def help_texts(command: Any, name: str) -> Iterator[tuple[str, str]]:
    """The place of each help text, and the text: of a click command, its parameters and its subcommands."""
    for attribute in ("help", "short_help", "epilog", "rich_help_panel"):
        if isinstance(text := getattr(command, attribute, None), str):
            yield f"{name} --help", text
    for parameter in command.params:
        for attribute in ("help", "rich_help_panel", "metavar"):
            if isinstance(text := getattr(parameter, attribute, None), str):
                yield f"{name} --help: {'/'.join(parameter.opts)}", text
    for sub_name, sub in getattr(command, "commands", {}).items():
        yield from help_texts(sub, f"{name} {sub_name}")


def help_findings(command: Any, name: str) -> list[Finding]:
    """The words of the list in the help of a command and all below it, each place and word once."""
    found = [finding for place, text in help_texts(command, name) for finding in findings_in(without_code(text), place)]
    return list(dict.fromkeys(found))


def nanobench_command() -> Any:
    """The click command of nanobench."""
    import typer.main

    import nanobench.cli

    return typer.main.get_command(nanobench.cli.app)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def report(found: list[Finding]) -> str:
    return "\n".join(map(str, found))


# The texts of the project


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_a_page_uses_the_words_of_the_field(path):
    found = markdown_findings(path.read_text(), relative(path))
    assert not found, report(found)


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
def test_a_config_uses_the_words_of_the_field(path):
    found = toml_findings(path.read_text(), relative(path))
    assert not found, report(found)


def test_help_uses_the_words_of_the_field():
    found = help_findings(nanobench_command(), "nanobench")
    assert not found, report(found)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_docstrings_and_messages_use_the_words_of_the_field(path):
    found = python_findings(path.read_text(), relative(path))
    assert not found, report(found)


# The checker itself


def test_a_word_is_found_in_a_page_with_line_word_and_replacement():
    (found,) = markdown_findings("# Title\n\nThe problem and the mend.\n", "x.md")
    assert str(found) == "x.md:3: 'mend' -> fix"


def test_a_phrase_is_found_across_a_line_break_and_in_a_fence():
    text = "Counts are held\nagainst chances.\n\n```\nnanobench x  # the mend\n```\n\nset by hand\n"
    assert [(each.line, each.found) for each in markdown_findings(text, "x.md")] == [
        (5, "mend"),
        (1, "held against"),
        (8, "by hand"),
    ]


def test_code_spans_links_and_addresses_are_no_prose():
    text = "`mend` and `a\nmend` [a](docs/mend.md) [b](x#the-mend) https://mend.example/mend\n"
    assert markdown_findings(text, "x.md") == []


def test_an_old_column_is_found_in_a_page_but_not_in_the_changelog():
    (found,) = markdown_findings("The column `mark_tax` says it.", "x.md")
    assert found.instead == "`timestamp_overhead`"
    assert markdown_findings("`mark_tax` is now `timestamp_overhead`.", "CHANGELOG.md") == []


def test_a_word_is_found_in_a_comment_of_a_config_and_not_in_a_value():
    text = '# Batch sizes set by\n# hand.\nname = "the mend # the mend"  # the mend\n'
    assert [(each.line, each.found) for each in toml_findings(text, "x.toml")] == [(3, "mend"), (1, "by hand")]


def test_a_word_is_found_in_help_of_commands_options_and_panels():
    import typer

    app = typer.Typer(help="How to mend it.")

    @app.command(help="Reckons a run.")
    def one(size: int = typer.Option(1, help="looks for it by hand", rich_help_panel="What can be believed")) -> None: ...

    @app.command()
    def two() -> None: ...

    found = help_findings(typer.main.get_command(app), "tool")
    assert {(each.place, each.found) for each in found} >= {
        ("tool --help", "mend"),
        ("tool one --help", "Reckons"),
        ("tool one --help: --size", "by hand"),
        ("tool one --help: --size", "believed"),
    }


def test_the_help_of_every_command_is_read():
    command = nanobench_command()
    places = {place for place, _ in help_texts(command, "nanobench")}
    assert {f"nanobench {name} --help" for name in command.commands} <= places
    assert "nanobench kv-sweep --help: --batch" in places


def test_a_word_is_found_in_docstrings_messages_and_f_strings_of_a_module():
    source = '''"""What was
asked."""
value = f"held {1} against {f'the mend'}"
raise ValueError(
    "one "
    "somebody's hand"
)
told = row["told"]
HEAD = "mend"
"""the `mend` of it"""
'''
    assert [(each.line, each.found) for each in python_findings(source, "x.py")] == [
        (2, "asked"),
        (3, "held {} against"),
        (3, "mend"),
        (6, "somebody's hand"),
        (9, "mend"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "On the other hand, the arm is fast.",
        "The rest is recommended and amended.",
        "The seeds of each rank differ; the seeds are fixed; --seed sets all random seeds.",
        "The weights are weighted; weight decay is 0.1.",
        "A length is drawn from a lognormal distribution, and the plot draws a line.",
        "The workspace holds 1.5 GiB, and each rank holds 16 rows.",
        "It tries each batch size in a process of its own.",
        "nanobench run gpu-seeds; configs/seed-study.toml; docs/seeds.md",
        "Attention looks at all positions of all heads.",
        "The product of the factors is the total.",
        "measured, for example, in float32, and measured for each arm",
        "Marked as predicted; a vertical line marks the knee.",
        "a cloned alone standalone abalone",
    ],
)
def test_plain_english_is_left_alone(text):
    assert [str(each) for each in findings_in(text, "x")] == []


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.pattern)
def test_no_replacement_is_itself_on_the_list(word):
    assert [str(each) for each in findings_in(word.instead, "x")] == []


# The to-do list


def everything() -> Iterator[Finding]:
    """All findings of all texts; what cannot be read is reported on standard error."""
    for path in PAGES:
        yield from markdown_findings(path.read_text(), relative(path))
    for path in CONFIGS:
        yield from toml_findings(path.read_text(), relative(path))
    for path in SOURCES:
        try:
            yield from python_findings(path.read_text(), relative(path))
        except SyntaxError as error:
            print(f"{relative(path)} cannot be parsed: {error}", file=sys.stderr)
    try:
        yield from help_findings(nanobench_command(), "nanobench")
    except Exception as error:
        print(f"the help texts cannot be read: {type(error).__name__}: {error}", file=sys.stderr)


def main() -> int:
    """Prints all findings grouped per file; the exit code is 1 if there are any."""
    places: dict[str, list[Finding]] = {}
    for finding in everything():
        places.setdefault(finding.place, []).append(finding)
    for place, found in places.items():
        print(f"{place} ({len(found)})")
        for each in sorted(found, key=lambda each: each.line):
            print(f"  {each.line}: {each.found!r} -> {each.instead}")
    print(f"{sum(map(len, places.values()))} findings in {len(places)} places")
    return 1 if places else 0


if __name__ == "__main__":
    sys.exit(main())
