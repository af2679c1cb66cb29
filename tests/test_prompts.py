"""Prompts of real text: how they are made and made again, which files can be read, and what a text means for a run."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import SMALL
from nanobench.errors import UserError
from nanobench.gates.generation import Reference
from nanobench.probes.clock import HostClock
from nanobench.records import MEASURED
from nanobench.results import finder
from nanobench.schema import Arm, Point
from nanobench.sweep import autobatch, code
from nanobench.sweep.batch_search import SearchConfig
from nanobench.sweep.options import TOKENIZERS, GateOptions, SweepOptions, TrainOptions, help_of
from nanobench.sweep.plan import describe_request
from nanobench.training import tokenizer as tokenizers
from nanobench.training.data import Corpus
from nanobench.worker import output_check
from nanobench.worker.workloads import generate
from nanobench.worker.workloads.base import Block
from nanobench.worker.workloads.generate import Generate
from nanobench.worker.workloads.prompts import ONE_IN, RandomPrompts, TextPrompts, fresh_prompts, prompts_of
from test_plan import machine, make_plan, plan_of, refusal

POINT = Point(model="gpt2-nano", dtype="float32", device="cpu", threads=1, batch_size=3, prompt_len=16, new_tokens=4)
CPU = torch.device("cpu")
TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind. "


def model_of(vocab_size):
    return SimpleNamespace(shape=SimpleNamespace(vocab_size=vocab_size))


def text_prompts(text, vocab_size=256, **changed):
    return TextPrompts(model_of(vocab_size), replace(POINT, **changed), torch.tensor(list(text.encode())))


def written(prompts, seed, call, number):
    prompt_BT = torch.empty((prompts.point.batch_size, prompts.point.prompt_len), dtype=torch.long)
    prompts.write(prompts.bases(seed, call + 1), call, number, prompt_BT)
    return prompt_BT


# How prompts are made


def test_a_prompt_of_text_is_a_window_of_the_text_behind_an_eighth_of_random_tokens():
    prompts = text_prompts(TEXT)
    assert prompts.lead == 16 // ONE_IN == 2
    for number in (0, 1, 255, 256, 5 * 256 + 7, prompts.numbers - 1):
        for row in written(prompts, 7, 2, number).tolist():
            assert bytes(row[2:]).decode() in TEXT


def test_the_number_moves_the_window_and_changes_the_random_tokens():
    prompts = text_prompts(TEXT)
    windows = len(TEXT) - 14 + 1
    random_CBK, starts_CB = prompts.bases(7, 3)
    found = written(prompts, 7, 2, 5 * 256 + 9)
    assert torch.equal(found[:, :2], (random_CBK[2] + 9) % 256)
    starts = [(int(start) + 5) % windows for start in starts_CB[2]]
    assert [bytes(row).decode() for row in found[:, 2:].tolist()] == [TEXT[start : start + 14] for start in starts]


def test_a_row_can_become_every_window_with_every_random_token():
    prompts = text_prompts("\0\1\2\3\2\1\0", vocab_size=4, prompt_len=4, batch_size=1)
    found = {tuple(written(prompts, 7, 0, number)[0].tolist()) for number in range(prompts.numbers)}
    assert len(found) == prompts.numbers == 4 * 5
    assert {row[0] for row in found} == {0, 1, 2, 3}
    assert {row[1:] for row in found} == {(0, 1, 2), (1, 2, 3), (2, 3, 2), (3, 2, 1), (2, 1, 0)}


def test_a_text_may_be_as_short_as_the_prompt_and_a_prompt_a_single_token():
    whole = written(text_prompts(TEXT[:16]), 7, 0, 3)
    assert {bytes(row[2:]).decode() for row in whole.tolist()} <= {TEXT[:14], TEXT[1:15], TEXT[2:16]}
    single = text_prompts("abc", prompt_len=1)
    assert single.lead == 0
    assert {bytes(row).decode() for n in range(3) for row in written(single, 7, 0, n * 256).tolist()} == {"a", "b", "c"}


def test_bases_differ_from_call_to_call_and_the_first_are_the_same_for_any_number():
    prompts = text_prompts(TEXT * 20)
    some, more = prompts.bases(7, 3), prompts.bases(7, 5)
    assert all(torch.equal(one, other[:3]) for one, other in zip(some, more, strict=True))
    assert len({tuple(windows.tolist()) for windows in more[1]}) == 5
    assert not torch.equal(prompts.bases(8, 3)[1], some[1])


def test_a_prompt_is_written_where_it_always_lies_also_in_inference_mode():
    prompts, prompt_BT = text_prompts(TEXT), torch.empty((3, 16), dtype=torch.long)
    address = prompt_BT.data_ptr()
    with torch.inference_mode():
        prompts.write(prompts.bases(7, 1), 0, 300, prompt_BT)
    assert prompt_BT.data_ptr() == address
    assert torch.equal(prompt_BT, written(prompts, 7, 0, 300))


def test_without_a_text_prompts_are_random_tokens_and_the_number_is_added_to_all():
    prompts = prompts_of(model_of(50), POINT, CPU)
    assert {type(prompts_of(model_of(50), replace(POINT, data=data), CPU)) for data in ("", "synthetic")} == {RandomPrompts}
    assert (prompts.numbers, prompts.untimed(0)) == (50, None)
    assert torch.equal(written(prompts, 7, 2, 9), (fresh_prompts(7, 3, 3, 16, 50)[2] + 9) % 50)


def test_the_gate_reads_text_too_and_the_same_in_every_launch():
    prompts = text_prompts(TEXT)
    assert torch.equal(prompts.untimed(3), prompts.untimed(3))
    assert not torch.equal(prompts.untimed(3), prompts.untimed(4))
    assert all(bytes(row[2:]).decode() in TEXT for row in prompts.untimed(3).tolist())
    adapter = generate.load(POINT, seed=0)
    assert torch.equal(Reference(adapter, POINT, 3, prompts.untimed(3)).prompt_BT, prompts.untimed(3))


class Noting:
    """Notes the prompts that an engine reads."""

    def __init__(self, engine):
        self.engine, self.seen = engine, []

    def prefill(self, prompt_BT):
        self.seen.append(prompt_BT.clone())
        self.engine.prefill(prompt_BT)

    def __getattr__(self, name):
        return getattr(self.engine, name)


@pytest.mark.parametrize("data", ["", "text"])
def test_the_check_makes_the_prompt_of_every_call_again(tmp_path, data):
    """From what a file of outputs holds: the seed of the block and the number that was drawn inside the clock."""
    (tmp_path / "text").write_text(TEXT * 5)
    point = replace(POINT, data=str(tmp_path / "text") if data else "", tokenizer="bytes" if data else "")
    adapter = generate.load(point, seed=0)
    prompts = prompts_of(adapter, point, CPU)
    with torch.inference_mode():
        reference = Reference(adapter, point, 0, prompts.untimed(0))
        arm = Generate(adapter, reference, point, Arm(engine="cached"), HostClock(), prompts=prompts)
        arm.build()
        arm.engine, arm.calls = Noting(arm.engine), 3
        for number in range(2):
            block = Block(number, timestamped=False, prompt_seed=100 + number)
            arm.lay_out(block)
            arm.time("steady", number, block)
        arm.keep_outputs()
        outputs = list(arm.outputs)
        again = [output_check.prompt_of(output, point, prompts_of(adapter, point, CPU)) for output in outputs]
    assert len(again) == 6
    assert all(torch.equal(one, seen) for one, seen in zip(again, arm.engine.seen, strict=True))
    assert len({tuple(prompt.flatten().tolist()) for prompt in again}) == 6


# Files


def tokens(data, name, what="file"):
    return tokenizers.find(name).encode(data, what).tolist()


def npy(array, tmp_path):
    np.save(tmp_path / "ids.npy", array, allow_pickle=True)
    return (tmp_path / "ids.npy").read_bytes()


@pytest.mark.parametrize("text", ["1 2 30", "1,2,30", "[1, 2, 30]", " 1\n2\t30\n", "[1,\n2,\n30]\n", "01, 2 , 30,"])
def test_token_ids_stand_between_white_space_or_commas_or_in_a_json_list(text):
    assert tokens(text.encode(), "ids") == [1, 2, 30]


@pytest.mark.parametrize("kind", ["uint16", "int64", ">i4"])
def test_token_ids_of_numpy_may_have_any_type_of_whole_numbers(tmp_path, kind):
    assert tokens(npy(np.array([1, 2, 30], dtype=kind), tmp_path), "ids") == [1, 2, 30]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"1 2 x", "'x' is not a token id"),
        (b"1 -2", "'-2' is not a token id"),
        (b"1.5", "'1.5' is not a token id"),
        (b"[[1, 2]]", "'[1' is not a token id"),
        (b"9" * 5000, "is not a token id"),
        (b"2147483648", "is not a token id"),
        (b"To be, or not to be", "'To' is not a token id"),
        (b"\xff\xfe1 2", "is not UTF-8 (byte 0)"),
        (b"\x93NUMPY\x01\x00and no more", "is a damaged .npy file"),
    ],
)
def test_what_is_no_token_id_is_refused_in_one_line(data, words):
    message = refusal(tokens, data, "ids")
    assert words in message
    assert len(message) < 300


def test_an_array_of_other_things_is_refused_and_no_pickle_is_loaded(tmp_path):
    assert "float64 in 1 dim" in refusal(tokens, npy(np.array([1.0]), tmp_path), "ids")
    assert "int64 in 2 dim" in refusal(tokens, npy(np.array([[1], [2]]), tmp_path), "ids")
    assert "has -1, which is not a token id" in refusal(tokens, npy(np.array([3, -1]), tmp_path), "ids")

    class Hostile:
        def __reduce__(self):
            return open, (str(tmp_path / "written"), "w")

    data = npy(np.array([Hostile()], dtype=object), tmp_path)
    assert "is a damaged .npy file (ValueError: Object arrays cannot be loaded" in refusal(tokens, data, "ids")
    assert not (tmp_path / "written").exists()


def test_a_tokenizer_is_read_from_its_file(tmp_path):
    package = pytest.importorskip("tokenizers")
    made = package.Tokenizer(package.models.WordLevel({"to": 0, "be": 1, "or": 2, "[UNK]": 3}, unk_token="[UNK]"))
    made.pre_tokenizer = package.pre_tokenizers.Whitespace()
    path = str(tmp_path / "tokenizer.json")
    made.save(path)
    assert tokens(b"to be or not", path) == [0, 1, 2, 3]
    assert tokenizers.find(path).decode([0, 1]) == "to be"
    assert tokenizers.find(path).decode([0, 99]) is None
    (tmp_path / "broken.json").write_text("{")
    for name in ("broken.json", "nowhere.json"):
        assert f"{name} cannot be read" in refusal(tokens, b"to be", str(tmp_path / name))


def test_tokens_become_text_again_where_they_are_text():
    assert tokenizers.find("bytes").decode(list("fin é".encode())) == "fin é"
    assert tokenizers.find("bytes").decode([104, 255]) == "h\\xff"
    assert tokenizers.find("bytes").decode([104, 256]) is None
    assert tokenizers.find("ids").decode([104]) is None


def test_a_text_that_is_not_utf_8_can_be_read_as_bytes_only(tmp_path, monkeypatch):
    encoding = SimpleNamespace(encode_ordinary=lambda text: [len(text)] * 20)
    monkeypatch.setitem(__import__("sys").modules, "tiktoken", SimpleNamespace(get_encoding=lambda name: encoding))
    path = tmp_path / "text"
    path.write_bytes(b"some words \xff and more")
    assert Corpus.of_text(path, "bytes").tokens_N.tolist() == list(path.read_bytes())
    with pytest.raises(UserError, match=r"is not UTF-8 \(byte 11\); give a text in UTF-8, or --tokenizer bytes"):
        Corpus.of_text(path, "words")


# Plans and identities


def test_a_text_is_described_with_its_tokenizer_and_becomes_part_of_the_points():
    asked = GateOptions(prompts="a,synthetic", tokenizer="bytes,ids", batch="1", model="gpt2-nano")
    assert describe_request(asked)["texts"] == [["a", "bytes"], ["a", "ids"]]
    texts = {f"{name} a": {"tokens": 100, "largest": 255} for name in ("bytes", "ids")}
    points = make_plan(asked, {**machine(), "texts": texts}).points
    assert [(point.data, point.tokenizer) for point in points] == [("a", "bytes"), ("a", "ids"), ("synthetic", "")]


def test_synthetic_prompts_are_the_default_and_leave_points_as_they_were():
    (point,) = plan_of(batch="1", model="gpt2-nano").points
    assert (point.data, point.tokenizer) == ("", "")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"tokens": 49, "largest": 3}, "a as bytes has 49 tokens, too few for --prompt-len 50; give --prompt-len 49 or less"),
        ({"tokens": 50, "largest": 256}, "a as bytes has token 256, but the vocabulary of gpt2-nano is 256; give a model"),
    ],
)
def test_a_text_that_is_too_short_or_has_unknown_tokens_is_refused(found, words):
    description = {**machine(), "texts": {"bytes a": found}}
    message = refusal(make_plan, GateOptions(prompts="a", batch="1", model="gpt2-nano"), description)
    assert words in message
    assert "--data" not in message


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a text and the file of a tokenizer."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text(TEXT * 5)
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    "point", [replace(POINT, data="text"), replace(POINT, data="text", seq_len=16, prompt_len=0, new_tokens=0)]
)
def test_a_text_and_the_file_of_a_tokenizer_belong_to_the_identity_of_a_run(here, point):
    point = replace(point, tokenizer="tokenizer.json")
    before = code.code_of([point], [Arm()])
    assert set(before) == {"nanobench", "text", "tokenizer.json"}
    for name in ("text", "tokenizer.json"):
        (here / name).write_text(f"other {name}")
        now = code.code_of([point], [Arm()])
        with pytest.raises(UserError, match=rf"{re.escape(name)} changed"):
            code.refuse_resume("run", before, now)
        before = now


def test_a_file_with_the_name_of_a_tokenizer_is_not_taken_for_one(here):
    (here / "bytes").write_text("no tokenizer")
    assert set(code.code_of([replace(POINT, data="text", tokenizer="bytes")], [Arm()])) == {"nanobench", "text"}


def test_a_batch_size_is_kept_for_the_text_that_it_was_found_with(here):
    def kept(data="text"):
        return autobatch.file_of(replace(POINT, data=data, tokenizer="bytes"), (Arm(),), SearchConfig(), "auto")

    before = kept()
    assert kept() == before
    (here / "text").write_text("another text")
    assert kept() != before


def test_both_kinds_of_sweep_take_the_same_tokenizers():
    for kind in (SweepOptions, TrainOptions):
        assert help_of(kind, "tokenizer").endswith(f": {TOKENIZERS}")


# Runs

ONE = ("--model", "zoo:lively", *SMALL[2:], "--max-seconds", 0.4, "--launches", 1, "--out", "run")


def test_text_is_measured_checked_and_named_in_the_rows_and_another_text_is_no_resume(nanobench_here, here):
    asked = ("--batch", 2, "--prompts", "text", "--dry-run")
    card = nanobench_here("kv-sweep", *ONE, *asked, cwd=here, code=0).stdout
    assert "prompts of text; tokens bytes" in " ".join(card.split())
    nanobench_here("kv-sweep", *ONE, "--batch", 2, "--prompts", "text", cwd=here, code=0)
    cells = pd.read_parquet(here / "run" / "cells.parquet")
    assert set(zip(cells["data"], cells["tokenizer"], strict=True)) == {("text", "bytes")}
    assert set(cells["status"]) <= set(MEASURED)
    assert (cells["checked_calls"] >= 2).all()
    assert set(finder.load(here / "run")["data"]) == {"text"}
    (here / "text").write_text(TEXT * 6)
    refused = nanobench_here("kv-sweep", "--resume", "run", cwd=here, code=2)
    assert "text changed" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_token_ids_are_verified(nanobench_here, here):
    (here / "ids").write_text(json.dumps(list(range(64))))
    asked = ("--model", "fakes:tiny", "--prompt-len", 8, "--new-tokens", 4, "--threads", 1, "--batch", 2)
    done = nanobench_here("verify", *asked, "--prompts", "ids", "--tokenizer", "ids", "--json", cwd=here, code=0)
    cells = json.loads(done.stdout.strip().splitlines()[-1])["cells"]
    assert [(cell["data"], cell["tokenizer"], cell["gate"]) for cell in cells] == [("ids", "ids", "exact")] * 2


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--prompts", "nowhere"), "nowhere cannot be read"),
        (("--prompts", "text", "--tokenizer", "nowhere.json"), "nowhere.json cannot be read"),
        (("--prompts", "text", "--tokenizer", "ids"), "'The' is not a token id"),
        (("--prompts", "text", "--prompt-len", 500), "text as bytes has 360 tokens, too few for --prompt-len 500"),
        (("--prompts", "text", "--model", "fakes:tiny"), "but the vocabulary of fakes:tiny is 64"),
    ],
)
def test_a_file_that_cannot_serve_gets_one_line(nanobench_here, here, asked, words):
    asked = ("--model", "gpt2-mini", "--prompt-len", 8, *asked, "--new-tokens", 4, "--batch", 1)
    done = nanobench_here("kv-sweep", *asked, cwd=here, code=2)
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in here.iterdir()) == ["text", "tokenizer.json"]


def test_an_engine_that_knows_the_file_by_heart_is_wrong(nanobench_here, here):
    engines = "uncached,cached,zoo:text_by_heart"
    asked = ("--batch", 4, "--new-tokens", 12, "--engine", engines, "--prompts", "text")
    nanobench_here("kv-sweep", *ONE, *asked, cwd=here, code=1)
    cells = finder.load(here / "run").set_index("arm")
    cheat = cells.loc["zoo:text_by_heart"]
    assert cheat["status"] == "wrong", cheat["reason"]
    assert "is not the reference's choice" in cheat["reason"]
    assert cheat[["output_tok_s", "speedup", "ttft_s"]].isna().all()
    assert set(cells.loc[["uncached", "cached"], "status"]) <= set(MEASURED)
