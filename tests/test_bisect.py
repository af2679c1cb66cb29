"""The search for the first slow commit: over any history, with commits that cannot be judged."""

import math

import pytest

from nanobench.errors import UserError
from nanobench.results import out_folder
from nanobench.results.decision import Answer, Decision
from nanobench.sweep import bisect
from nanobench.views import bisect as views
from test_revision import git

SIXTEEN = [f"c{number:02d}" for number in range(16)]


def judge_of(first_bad, broken=()):
    """Commits from `first_bad` on are slower; the broken ones compute something else."""

    def judge(commit):
        if commit in broken:
            return Decision(Answer.DIFFERENT)
        return Decision(Answer.SLOWER if commit >= first_bad else Answer.SAME)

    return judge


@pytest.mark.parametrize("first_bad", SIXTEEN)
def test_the_first_slow_commit_is_found_in_four_steps_among_sixteen(first_bad):
    found = bisect.search(SIXTEEN, judge_of(first_bad))
    assert found.suspects == [first_bad]
    assert len(found.judged) <= math.ceil(math.log2(len(SIXTEEN)))


@pytest.mark.parametrize("answer", [Answer.DIFFERENT, Answer.FAILED, Answer.UNDECIDED])
def test_a_commit_that_cannot_be_judged_is_skipped_and_named(answer):
    found = bisect.search(SIXTEEN, lambda commit: Decision(answer) if commit == "c07" else judge_of("c11")(commit))
    assert found.suspects == ["c11"]
    assert found.judged["c07"].answer is answer


def test_commits_that_cannot_be_judged_beside_the_slow_one_are_suspects_too():
    found = bisect.search(SIXTEEN, judge_of("c09", broken=("c07", "c08")))
    assert found.suspects == ["c07", "c08", "c09"]


def test_where_none_can_be_judged_all_are_suspects():
    found = bisect.search(SIXTEEN[:4], lambda commit: Decision(Answer.FAILED))
    assert found.suspects == SIXTEEN[:4]


def test_without_time_all_that_are_left_are_suspects():
    answers = iter((True, True, False))
    found = bisect.search(SIXTEEN, judge_of("c11"), lambda: next(answers))
    assert found.suspects == ["c08", "c09", "c10", "c11"]
    assert list(found.judged) == ["c07", "c11"]


@pytest.mark.parametrize("answer", [Answer.SAME, Answer.DIFFERENT, Answer.UNDECIDED, Answer.FAILED])
def test_a_last_commit_that_is_not_slower_ends_the_search(answer):
    found = bisect.find(SIXTEEN, lambda commit: Decision(answer))
    assert (found.suspects, list(found.judged)) == ([], ["c15"])
    assert found.is_open == (answer is Answer.UNDECIDED)


def test_several_suspects_leave_the_search_open():
    assert bisect.find(SIXTEEN, judge_of("c09", broken=("c07", "c08"))).is_open
    assert not bisect.find(SIXTEEN, judge_of("c09")).is_open


@pytest.mark.parametrize("command", ["bisect", "selftest"])
def test_a_folder_that_holds_the_runs_of_another_search_is_refused(tmp_path, command):
    (tmp_path / "out" / "c07" / "raw").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds another run; give another --out$"):
        out_folder.choose(str(tmp_path / "out"), command)
    assert out_folder.choose(str(tmp_path / "out"), "kv-sweep") == tmp_path / "out"


def test_one_commit_needs_no_search():
    assert bisect.search(["only"], lambda commit: pytest.fail("judged")).suspects == ["only"]


def test_the_end_names_the_slow_commit_and_those_that_were_skipped():
    found = bisect.search(SIXTEEN, judge_of("c11", broken=("c07",)))
    assert list(views.lines(found, dict.fromkeys(SIXTEEN, "subject"), "good", "bad")) == [
        "the first slow commit: c11 subject",
        "skipped:",
        "  c07 subject: different outputs",
    ]


def test_commits_are_listed_from_old_to_new(tmp_path, monkeypatch):
    git(tmp_path, "init")
    for number in range(4):
        (tmp_path / "file").write_text(str(number))
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-m", str(number))
    monkeypatch.chdir(tmp_path)
    expected = {git(tmp_path, "rev-parse", name): subject for name, subject in (("HEAD~1", "2"), ("HEAD", "3"))}
    assert list(bisect.commits_between("HEAD~2", "HEAD").items()) == list(expected.items())
    for good, bad, message in (
        ("HEAD", "HEAD~1", "no commits"),
        ("nothing", "HEAD", "unknown revision 'nothing'"),
        (".", "HEAD", "."),
    ):
        with pytest.raises(UserError, match=message):
            bisect.commits_between(good, bad)
