"""The command that finds the commit that made it slower: bisect."""

import json

import typer

from nanobench.cli.app import announce_worker, command, make_console, printer
from nanobench.sweep.ab_options import BisectOptions


@command(BisectOptions, "bisect")
def bisect(options: BisectOptions) -> None:
    """Which commit made it slower? Compares commits between GOOD and BAD with GOOD, each until it is decided.

    Commits that do not run or compute something else are skipped and named. Exit code 0: the commit was found; 1: BAD is not
    slower than GOOD, computes something else, or does not run; 3: BAD is undecided, or several commits may be the first slow
    one.
    """
    options.refuse()
    from nanobench.results import out_folder
    from nanobench.results.decision import Decision
    from nanobench.sweep import bisect as search
    from nanobench.sweep import device_lock
    from nanobench.views import bisect as views

    say = printer(make_console())
    commits = search.commits_between(options.base, options.new)
    say(views.plan(len(commits), options.max_minutes))
    folder = out_folder.choose(options.out, "bisect")
    announce_worker(make_console())

    def tell(commit: str, found: Decision) -> None:
        say(views.judged(commit, commits[commit], found, options.threshold_log()))

    with device_lock.hold(device_lock.guess(options.device), options.wait, say):
        found = search.run(options, list(commits), folder, tell)
    for line in views.lines(found, commits, options.base, options.new):
        say(line)
    if options.json:
        typer.echo(json.dumps(views.document(found), allow_nan=False))
    raise typer.Exit(0 if len(found.suspects) == 1 else 3 if found.is_open else 1)
