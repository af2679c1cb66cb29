"""What a user may write for an option, and the one line that says what is wrong with it."""

from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanobench.errors import UserError
from nanobench.schema import Arm, Point
from nanobench.sweep import keywords
from nanobench.sweep.ab_options import AbOptions
from nanobench.sweep.autobatch_options import AutobatchOptions
from nanobench.sweep.axes import read_axis, with_window
from nanobench.sweep.config_file import from_toml
from nanobench.sweep.options import (
    ISOLATIONS,
    GateOptions,
    SweepOptions,
    TimedOptions,
    TrainOptions,
    changed_options,
)
from nanobench.sweep.tune_options import TuneOptions
from nanobench.sweep.values import read_list, read_memory_limit, read_positive, read_share

fixed = settings(derandomize=True, deadline=None, database=None)


def refusal(call, *arguments):
    """The message of the UserError that a call raises."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def numbers(text):
    return read_list("--batch", text, int)


def axes_of(options):
    return options.axes


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("93", [93]),
        ("1,4,8", [1, 4, 8]),
        ("8,4,1", [8, 4, 1]),
        (" 1 ,4,  8 ", [1, 4, 8]),
        ("4,4,1,4", [4, 1]),
        ("1-64*2", [1, 2, 4, 8, 16, 32, 64]),
        ("1-100*3", [1, 3, 9, 27, 81]),
        ("8-64+8", [8, 16, 24, 32, 40, 48, 56, 64]),
        ("8-23+8", [8, 16]),
        ("5-5*2", [5]),
        ("5-5+1", [5]),
        ("1-8*2,93,6-10+2", [1, 2, 4, 8, 93, 6, 10]),
    ],
)
def test_a_list_gives_each_number_once_in_the_order_written(text, values):
    assert numbers(text) == values


def test_a_list_of_names_keeps_their_order_without_spaces_or_repeats():
    assert read_list("engine", "uncached, cached ,uncached,cached-cat", str) == ["uncached", "cached", "cached-cat"]


def test_auto_stands_beside_values_where_the_device_decides():
    assert read_axis("new_tokens", "--new-tokens", "auto, 4") == ["auto", 4]
    assert read_axis("dtype", "--dtype", "float16,auto") == ["float16", "auto"]


@pytest.mark.parametrize(
    ("text", "named", "mend"),
    [
        ("0", "0", "whole numbers from 1 up"),
        ("00", "00", "whole numbers from 1 up"),
        ("0-8*2", "0-8*2", "whole numbers from 1 up"),
        ("4,x", "'x'", "write 4, or 1,4,8, or a range: 1-64*2 (doubling), 8-64+8 (stepping)"),
        ("-3", "'-3'", "write 4, or 1,4,8"),
        ("1.5", "'1.5'", "write 4, or 1,4,8"),
        ("1-64", "'1-64'", "write 4, or 1,4,8"),
        ("1-64*", "'1-64*'", "write 4, or 1,4,8"),
        ("1 4", "'1 4'", "write 4, or 1,4,8"),
        ("Auto", "'Auto'", "write 4, or 1,4,8"),
        ("", "''", "write values between commas, like 1,4,8"),
        ("1,,2", "'1,,2'", "write values between commas, like 1,4,8"),
        ("1,2,", "'1,2,'", "write values between commas, like 1,4,8"),
        ("64-1*2", "'64-1*2'", "write a rising range like 1-64*2 or 8-64+8"),
        ("64-8+8", "'64-8+8'", "write a rising range"),
        ("1-64*1", "'1-64*1'", "write a rising range"),
        ("1-64*0", "'1-64*0'", "write a rising range"),
        ("1-64+0", "'1-64+0'", "write a rising range"),
        ("1000001", "1000001", "is above 1,000,000"),
        ("9" * 5000, "9" * 37 + "... is above 1,000,000", "give a smaller number"),
        ("1-" + "9" * 5000 + "*2", "9" * 37, "give a smaller number"),
        ("1-2*" + "9" * 5000, "9" * 37, "give a smaller number"),
        ("1-1001+1", "'1-1001+1'", "more than 1,000 values; use larger steps"),
        ("1-1000+1,1001", "lists", "more than 1,000 values; give fewer"),
        ("²", "'²'", "write 4, or 1,4,8"),
        ("٣", "'٣'", "write 4, or 1,4,8"),
    ],
)
def test_a_bad_list_is_answered_with_its_option_the_bad_value_and_the_mend(text, named, mend):
    message = refusal(numbers, text)
    assert message.startswith("--batch ")
    assert named in message
    assert mend in message


@fixed
@given(st.text("0123456789,-*+ .ax", max_size=7))
def test_whatever_is_typed_is_either_whole_numbers_from_1_up_each_once_or_one_line(text):
    try:
        values = numbers(text)
    except UserError:
        assert refusal(numbers, text).startswith("--batch ")
    else:
        assert all(type(value) is int and value >= 1 for value in values)
        assert len(set(values)) == len(values)


@fixed
@given(st.integers(1, 50), st.integers(0, 500), st.integers(2, 5), st.integers(1, 40))
def test_a_range_begins_at_its_first_and_ends_at_the_last_value_that_is_not_beyond(first, more, factor, step):
    last = first + more
    doubling, stepping = numbers(f"{first}-{last}*{factor}"), numbers(f"{first}-{last}+{step}")
    assert doubling[0] == stepping[0] == first
    assert all(b == a * factor for a, b in pairwise(doubling))
    assert all(b == a + step for a, b in pairwise(stepping))
    assert doubling[-1] <= last < doubling[-1] * factor
    assert stepping[-1] <= last < stepping[-1] + step


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("4GiB", 4 * 2**30),
        ("4gib", 4 * 2**30),
        ("500MB", 500_000_000),
        ("500 MB", 500_000_000),
        ("1.5KiB", 1536),
        ("2TiB", 2 * 2**40),
        ("7B", 7),
        ("123456", 123456),
        ("none", None),
        ("auto", 99),
    ],
)
def test_a_memory_limit_is_read_as_bytes(text, limit):
    assert read_memory_limit(text, 99) == limit


def test_an_automatic_memory_limit_may_be_none():
    assert read_memory_limit("auto", None) is None


@pytest.mark.parametrize(
    "text", ["4 parsecs", "0GiB", "0.0MB", "-1GiB", "", "GiB", "4GiB please", "1e9", "nan", "0.1B", "2000000TiB"]
)
def test_a_memory_limit_that_is_no_size_is_refused_with_an_example(text):
    message = refusal(read_memory_limit, text, 99)
    assert f"--memory-limit {text!r}" in message
    assert "write 4GiB, 500MiB, or none" in message


def test_a_positive_number_is_read_and_auto_means_the_default():
    assert read_positive("max-seconds", "0.02", 0.05) == 0.02
    assert read_positive("max-seconds", "auto", 0.05) == 0.05


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "five", "", "1000001", "1e300"])
def test_what_is_no_number_above_0_is_refused_with_an_example(text):
    message = refusal(read_positive, "max-seconds", text, 0.05)
    assert f"--max-seconds {text!r}" in message
    assert "write one, like 0.05" in message


def test_a_share_is_read_as_a_number_and_in_percent():
    assert [read_share("target-ci", text, 0.05) for text in ("0.02", "2%", "1e-6", "auto")] == [0.02, 0.02, 1e-6, 0.05]


@pytest.mark.parametrize("text", ["0", "0%", "-1%", "1", "100%", "inf", "nan%", "five", "", "%", "2 % of it"])
def test_what_is_no_share_is_refused_with_an_example(text):
    assert refusal(read_share, "target-ci", text, 0.05) == (
        f"--target-ci {text!r} is not a share above 0 and below 1; write 2% or 0.02"
    )


def test_every_field_of_a_point_and_an_arm_is_an_axis_except_the_one_device():
    names = {field.name for config_class in (Point, Arm) for field in fields(config_class)}
    generation, training = set(GateOptions().axes), set(TrainOptions().axes)
    # The window is an argument of the model, the draft length one of an engine.
    assert generation | training == names - {"device", "side"} | {"window", "draft_len"}
    only_generated = {"prompt_len", "new_tokens", "shared_prompt", "engine", "draft_len", "sampler", "weights", "kv_cache"}
    assert generation - training == only_generated


def test_the_default_axes_are_those_of_the_help():
    axes = GateOptions().axes
    assert axes["batch_size"] == [1, 4, 8, 16, 32, 64, 93]
    assert axes["engine"] == ["uncached", "cached"]
    assert axes["compile_mode"] == ["off"]
    assert axes["new_tokens"] == ["auto"]


def test_compile_means_off_and_default_and_is_refused_beside_another_compile_mode():
    assert GateOptions(compile=True).axes["compile_mode"] == ["off", "default"]
    assert GateOptions(compile=True, compile_mode="off,default").axes["compile_mode"] == ["off", "default"]
    with pytest.raises(UserError, match="drop it, or write --compile-mode off,dynamic"):
        _ = GateOptions(compile=True, compile_mode="dynamic").axes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            AbOptions(base="a", new="b", seq_len="128"),
            "--seq-len is for training; leave it out, or measure",
        ),
        (AbOptions(base="a", new="b", train=True, weights="int8"), "--weights is for generation; leave it out, or measure"),
        (AbOptions(base="a", new="b", train=True, engine="uncached"), "--engine is for generation"),
        (
            AutobatchOptions(mode="generate", nproc="2"),
            "--nproc is for training; leave it out, or measure",
        ),
        (AutobatchOptions(sampler="top-k"), "--sampler is for generation; leave it out, or measure generation with --mode gen"),
    ],
)
def test_an_option_of_the_other_work_is_refused(options, message):
    with pytest.raises(UserError) as caught:
        options.as_sweep()
    assert message in str(caught.value)


def test_an_option_without_a_default_is_read_from_a_file_and_from_keywords(tmp_path):
    (tmp_path / "a.toml").write_text("max-ttft = 0.5\nmax-tpot = 1\n")
    assert from_toml(tmp_path / "a.toml", TuneOptions, "tune") == {"max_ttft": 0.5, "max_tpot": 1.0}
    assert keywords.read(TuneOptions, "tune", {"max_ttft": 2}).max_ttft == 2.0
    (tmp_path / "a.toml").write_text("max-ttft = 'soon'\n")
    assert "max-ttft = 'soon' is not of type float; write max-ttft = 0.5" in refusal(
        from_toml, tmp_path / "a.toml", TuneOptions, "tune"
    )
    with pytest.raises(UserError, match=r"--max-memory 'much' is not a size; write 4GiB"):
        TuneOptions(max_memory="much").limits()


def test_a_model_of_one_side_leaves_the_other_its_own():
    named = AbOptions(base="uncached", new="cached", model="gpt2-nano", new_arg=["model=llama-nano"])
    assert [side.changes["model"] for side in named.sides()] == ["gpt2-nano", "llama-nano"]
    mixed = AbOptions(base="cached", new="llama-nano", model="gpt2-nano")
    assert [side.changes["model"] for side in mixed.sides()] == ["gpt2-nano", "llama-nano"]
    both = AbOptions(base="cached", new="uncached", model="gpt2-nano")
    assert ["model" in side.changes for side in both.sides()] == [False, False]
    follows = AbOptions(base="cached", new="llama-nano")
    assert ["model" in side.changes for side in follows.sides()] == [False, True]


def test_a_model_in_memory_has_no_window_of_ours():
    with pytest.raises(UserError, match="give a model in memory its windows yourself"):
        with_window("object:lab.GPT-0123456789ab", "32")


def test_ab_takes_one_model():
    with pytest.raises(UserError, match="ab compares one arm on each side; give one model"):
        AbOptions(base="uncached", new="cached", model="gpt2-nano,gpt2-mini").as_sweep()


@pytest.mark.parametrize("argument", ["dtype=float16", "compile_mode=freeze"])
def test_a_side_that_trains_refuses_what_training_refuses(argument):
    asked = AbOptions(base="gpt2-nano", new="llama-nano", train=True, new_arg=[argument])
    with pytest.raises(UserError, match="is not for training"):
        asked.refuse()


def test_an_axis_names_a_field_with_dashes_or_underscores_and_wins_over_the_option():
    axes = GateOptions(batch="1", prompt_len="7", axis=["batch_size=2,4", " prompt-len =8-16+8", "sampler=greedy"]).axes
    assert axes["batch_size"] == [2, 4]
    assert axes["prompt_len"] == [8, 16]
    assert axes["sampler"] == ["greedy"]


@pytest.mark.parametrize(
    ("axis", "fragments"),
    [
        ("batch_size", ["--axis 'batch_size'", "no '='", "--axis batch_size=1,4,8"]),
        ("bach_size=1", ["unknown field 'bach_size'", "did you mean 'batch_size'?"]),
        ("zzz=1", ["unknown field 'zzz'", "available: model, batch_size"]),
        ("batch_size=0", ["batch_size 0"]),
        ("batch_size=", ["batch_size ''"]),
        ("=1", ["unknown field ''"]),
    ],
)
def test_a_wrong_axis_is_answered_with_the_field_meant(axis, fragments):
    message = refusal(axes_of, GateOptions(axis=[axis]))
    assert all(fragment in message for fragment in fragments)


@pytest.mark.parametrize("field", ["prompt_len", "engine", "sampler"])
def test_auto_is_refused_where_no_device_decides(field):
    message = refusal(axes_of, GateOptions(axis=[f"{field}=auto"]))
    assert message.startswith(f"--axis {field} does not accept auto (auto works for: model, dtype, ")
    assert message.endswith("write the values")


def test_axes_are_read_once_and_are_no_part_of_the_request():
    options = GateOptions(batch="1,2")
    assert options.axes is options.axes
    assert options == GateOptions(batch="1,2")
    assert changed_options(options) == {"batch": "1,2"}


def test_only_commands_that_time_anything_do_more_than_the_gates():
    kinds = (GateOptions, TimedOptions, SweepOptions, TrainOptions)
    assert [kind.gate_only for kind in kinds] == [True, False, False, False]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SweepOptions(calibration="maybe"), "unknown calibration 'maybe'"),
        (SweepOptions(launches=0), "--launches 0 is below 1"),
        (TrainOptions(target_ci="x"), "--target-ci 'x' is not a share above 0 and below 1"),
        (TrainOptions(dtype="float16"), "dtype 'float16' is not for training"),
        (GateOptions(device="gpu"), "unknown device 'gpu'"),
        (SweepOptions(seed=-1), "--seed -1 is not between 0 and 2147483647"),
        (SweepOptions(seed=2**31), "--seed 2147483648 is not between"),
        (SweepOptions(model="a:b:c"), "'a:b:c': 'c' is not key=value; write arguments like n_layer=6,n_head=4"),
        (SweepOptions(engine="a.:b"), "'a.:b' is not module:function"),
        (AutobatchOptions(margin=1.5), "--margin 1.5 is not above 0 and at most 1"),
        (AutobatchOptions(mode="trian"), "unknown mode 'trian'; did you mean 'train'?"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_options_check_themselves(options, words):
    assert words in refusal(type(options).validate, options)


def test_only_what_differs_from_the_defaults_was_asked():
    assert changed_options(GateOptions()) == {}
    asked = {"batch": "1", "quick": True, "axis": ["sampler=greedy"], "timeout": 60.0}
    assert changed_options(SweepOptions(**asked)) == asked


def test_every_option_has_a_help_and_a_panel():
    assert all(field.metadata["help"] and field.metadata["panel"] for field in fields(SweepOptions))


def test_the_default_isolation_is_one_of_the_choices():
    assert GateOptions().isolation in ISOLATIONS


def toml(tmp_path, text, kind=SweepOptions, command="kv-sweep"):
    path = tmp_path / "sweep.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return from_toml(path, kind, command)


def test_toml_lists_and_numbers_stand_for_their_text(tmp_path):
    options = toml(
        tmp_path,
        """
        command = "kv-sweep"
        batch = [1, 4, "8-16*2"]
        engine = ["uncached", "cached"]
        prompt_len = 50
        target_ci = 0.01
        memory_limit = "4GiB"
        timeout = 600
        seed = 3
        quick = true
        axis = ["sampler=greedy", "threads=1,2"]
        """,
    )
    assert options == {
        "batch": "1,4,8-16*2",
        "engine": "uncached,cached",
        "prompt_len": "50",
        "target_ci": "0.01",
        "memory_limit": "4GiB",
        "timeout": 600.0,
        "seed": 3,
        "quick": True,
        "axis": ["sampler=greedy", "threads=1,2"],
    }
    assert type(options["timeout"]) is float
    assert SweepOptions(**options).axes["batch_size"] == [1, 4, 8, 16]


def test_one_axis_in_toml_needs_no_list(tmp_path):
    assert toml(tmp_path, 'axis = "threads=1,2"') == {"axis": ["threads=1,2"]}


def test_toml_keys_are_written_with_dashes_or_underscores(tmp_path):
    assert toml(tmp_path, "prompt-len = 5\nnew_tokens = 6\nno-plot = true") == {
        "prompt_len": "5",
        "new_tokens": "6",
        "no_plot": True,
    }


def test_an_empty_toml_file_asks_for_nothing(tmp_path):
    assert toml(tmp_path, "# nothing") == {}


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("bacth = 1", ["'bacth'", "did you mean 'batch'?", "sweep.toml"]),
        ("promt_len = 1", ["'promt_len'", "did you mean 'prompt-len'?"]),
        ('command = "verify"', ["sweep.toml is for verify, not for kv-sweep", "nanobench run "]),
        ("batch = = 1", ["sweep.toml is not TOML", "line 1"]),
        ("batch = 1\nbatch = 2", ["sweep.toml is not TOML"]),
        (b'model = "\xff"', ["sweep.toml is not TOML"]),
        ('quick = "yes"', ["quick = 'yes'", "bool"]),
        ("quick = 1", ["quick = 1", "bool"]),
        ('launches = "five"', ["launches = 'five'", "int"]),
        ("launches = 2.5", ["launches = 2.5", "int"]),
        ("launches = true", ["launches = True", "int"]),
        ('timeout = "long"', ["timeout = 'long'", "float"]),
        ("timeout = true", ["timeout = True", "float"]),
        ("batch = true", ["batch = True", "str"]),
        ("batch = {from = 1}", ["batch = {'from': 1}", "str"]),
        ("launches = " + "9" * 5000, ["sweep.toml is not TOML"]),
        ("batch = " + "[" * 5000, ["sweep.toml is not TOML"]),
        ("timeout = 1" + "0" * 400, ["is not of type float"]),
        ('out = "a\\u0000b"', ["out contains a NUL character"]),
        ('axis = ["batch_size=1\\u0000"]', ["axis contains a NUL character"]),
        ("#" * 1_000_001, ["is not a file of at most 1,000,000 bytes"]),
    ],
)
def test_a_wrong_toml_file_is_answered_with_its_name_the_key_and_the_value(tmp_path, text, fragments):
    message = refusal(toml, tmp_path, text)
    assert all(fragment in message for fragment in fragments)


def test_an_option_of_another_command_is_unknown(tmp_path):
    assert "'launches'" in refusal(toml, tmp_path, "launches = 3", GateOptions, "verify")


def test_a_missing_toml_file_is_answered_with_its_path_and_where_to_look(tmp_path):
    message = refusal(from_toml, tmp_path / "none.toml", SweepOptions, "kv-sweep")
    assert f"{tmp_path / 'none.toml'} cannot be read: No such file" in message
    assert "nanobench list configs" in message


def test_a_device_is_no_toml_file():
    assert "/dev/zero is not a file" in refusal(from_toml, Path("/dev/zero"), SweepOptions, "kv-sweep")


def test_a_folder_is_no_toml_file(tmp_path):
    assert f"{tmp_path} cannot be read" in refusal(from_toml, tmp_path, SweepOptions, "kv-sweep")
