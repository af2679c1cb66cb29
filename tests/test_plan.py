"""From options to trials: what is refused before a worker starts, what `auto` means, and in which order all is run."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, fields, replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanobench.errors import UserError
from nanobench.records import Description
from nanobench.schema import Arm, GPTShape, Point, Trial
from nanobench.sweep import plan as planning
from nanobench.sweep.axes import AUTOMATIC
from nanobench.sweep.estimate import expected_s
from nanobench.sweep.options import GateOptions, SweepOptions, TrainOptions
from nanobench.sweep.plan import Plan, describe_request

GIB = 2**30
SIZES = {"gpt2-nano": 256, "gpt2-char": 256, "gpt2-mini": 1024, "gpt2": 1024}


def shape(block_size):
    return asdict(
        GPTShape(
            architecture="gpt2",
            n_layer=2,
            n_head=2,
            n_kv_head=2,
            n_embd=64,
            vocab_size=256,
            block_size=block_size,
            n_params=10**6,
        )
    )


def machine(device="cpu", gpus=()):
    """What a worker would say of a machine."""
    return {
        "device": device,
        "gpus": list(gpus),
        "identity": {"hash": "0123456789ab"},
        "available_bytes": 8 * GIB,
        "matmul_flops_per_s": 1e12,
        "models": {name: shape(block_size) for name, block_size in SIZES.items()},
    }


def make_plan(options, description, *find):
    return planning.make_plan(options, Description.from_json(description), *find)


def plan_of(description=None, kind=SweepOptions, **asked):
    options = kind(**asked)
    describe_request(options)
    return make_plan(options, description or machine())


def refusal(call, *arguments, **named):
    """The message of the UserError that a call raises."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message
    return message


def many_points(seed=0, launches=4):
    return plan_of(batch="1-16*2", prompt_len="8,32,200", new_tokens="2,16,64", seed=seed, launches=launches)


# What is asked of a worker


def test_the_question_gives_each_kind_of_device_its_own_default_model():
    asked = describe_request(GateOptions(device="cuda:1", model="gpt2-nano,auto,my_lab.my_gpt:build"))
    assert asked == {
        "device": "cuda:1",
        "models": {
            "cpu": ["gpt2-nano", "gpt2-mini", "my_lab.my_gpt:build"],
            "cuda": ["gpt2-nano", "gpt2", "my_lab.my_gpt:build"],
        },
        "members": {"engines": ["uncached", "cached"], "samplers": ["greedy"], "optimizers": []},
        "texts": [],
    }


def test_a_text_is_asked_for_with_each_tokenizer_and_refused_where_a_model_lacks_its_tokens(tmp_path):
    path = str(tmp_path / "text")
    asked = TrainOptions(data=f"synthetic,{path}", tokenizer="bytes,gpt2", model="gpt2-nano", seq_len="64")
    assert describe_request(asked)["texts"] == [[path, "bytes"], [path, "gpt2"]]
    found = {f"bytes {path}": {"tokens": 65, "largest": 3}, f"gpt2 {path}": {"tokens": 65, "largest": 3}}
    assert len(make_plan(asked, {**machine(), "texts": found}).points) == 3 * 2
    found[f"bytes {path}"]["tokens"] = 64
    short = refusal(make_plan, asked, {**machine(), "texts": found})
    assert "has 64 tokens, too few for --seq-len 64 and the token after it; give --seq-len 63 or less" in short
    found[f"bytes {path}"]["tokens"] = 65
    found[f"gpt2 {path}"]["largest"] = machine()["models"]["gpt2-nano"]["vocab_size"]
    assert "as gpt2 has token" in refusal(make_plan, asked, {**machine(), "texts": found})


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"dtype": "float16"}, "dtype 'float16' is not for training: its gradients vanish"),
        ({"compile_mode": "off,freeze"}, "compile mode 'freeze' is not for training"),
        ({"phase": "sft"}, "unknown phase 'sft'"),
        ({"checkpointing": "on"}, "unknown checkpointing 'on'"),
        ({"optimizer_kernel": "fuse"}, "unknown optimizer kernel 'fuse'; did you mean 'fused'?"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; did you mean 'adamw'?"),
        ({"seq_len": "4096", "model": "gpt2-nano"}, "seq_len 4096 > block_size"),
        ({"grad_accum": "0"}, "--grad-accum 0 is below 1"),
    ],
)
def test_what_cannot_be_trained_is_refused(asked, words):
    assert words in refusal(plan_of, kind=TrainOptions, **asked)


def test_synthetic_data_has_no_tokenizer_and_no_point_twice():
    points = plan_of(kind=TrainOptions, tokenizer="bytes,gpt2").points
    assert [point.tokenizer for point in points] == ["", ""]


def test_points_of_training_rise_in_their_work():
    points = plan_of(kind=TrainOptions, batch="8,2", grad_accum="1,16", seq_len="64,32", model="gpt2-nano").points
    assert [point.step_tokens for point in points] == sorted(point.step_tokens for point in points)
    assert all(point.trains for point in points)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_a_device_that_may_exist_is_asked_for(device):
    assert describe_request(GateOptions(device=device))["device"] == device


@pytest.mark.parametrize(
    ("asked", "fragments"),
    [
        ({"model": "gpt3"}, ["unknown model 'gpt3'", "did you mean 'gpt2'?", "--model my_pkg.my_mod:build"]),
        ({"engine": "uncached,cahced"}, ["unknown engine 'cahced'", "did you mean 'cached'?"]),
        ({"sampler": "gredy"}, ["unknown sampler 'gredy'", "did you mean 'greedy'?"]),
        ({"dtype": "float23"}, ["unknown dtype 'float23'", "did you mean 'float32'?"]),
        ({"dtype": "int8"}, ["unknown dtype 'int8'", "available: float32, bfloat16, float16"]),
        ({"compile_mode": "defualt"}, ["unknown compile mode 'defualt'", "did you mean 'default'?"]),
        ({"device": "cudda"}, ["unknown device 'cudda'", "did you mean 'cuda'?"]),
        ({"device": "cuda:x"}, ["unknown device 'cuda:x'", "did you mean 'cuda:0'?"]),
        ({"device": "cpu,cuda"}, ["unknown device 'cpu,cuda'"]),
        ({"isolation": "spwan"}, ["unknown isolation 'spwan'", "did you mean 'spawn'?"]),
        ({"launches": 0}, ["--launches 0", "give 1 or more"]),
        ({"launches": -2}, ["--launches -2", "give 1 or more"]),
        ({"timeout": 0.0}, ["--timeout 0", "give seconds, like 600"]),
        ({"timeout": -5.0}, ["--timeout -5", "give seconds, like 600"]),
        ({"timeout": float("nan")}, ["--timeout nan", "give seconds, like 600"]),
        ({"timeout": float("inf")}, ["--timeout inf", "give seconds, like 600"]),
        ({"batch": "0"}, ["--batch 0"]),
        ({"memory_limit": "4 parsecs"}, ["--memory-limit '4 parsecs'", "write 4GiB"]),
        ({"target_ci": "narrow"}, ["--target-ci 'narrow'", "write 2% or 0.02"]),
        ({"max_seconds": "0"}, ["--max-seconds '0'", "like 4"]),
    ],
    ids=str,
)
def test_a_mistake_that_needs_no_machine_is_one_line_with_a_suggestion(asked, fragments):
    message = refusal(describe_request, SweepOptions(**asked))
    assert all(fragment in message for fragment in fragments)


@pytest.mark.parametrize("name", ["batch", "prompt_len", "engine", "sampler"])
def test_auto_is_refused_where_nothing_is_automatic(name):
    assert "auto" in refusal(plan_of, **{name: "auto"})


NOT_OF_POINTS = ("attention", "batch_size", "window", "draft_len")


@pytest.mark.parametrize("description", [machine("cpu"), machine("cuda", ["H100"])], ids=["cpu", "cuda"])
@pytest.mark.parametrize("name", [name for name in AUTOMATIC if name not in NOT_OF_POINTS])
def test_every_kind_of_device_knows_what_is_automatic(description, name):
    kinds = [kind for kind in (SweepOptions, TrainOptions) if hasattr(kind, name)]
    assert kinds
    for kind in kinds:
        assert "auto" not in {getattr(point, name) for point in plan_of(description, kind, **{name: "auto"}).points}


def test_an_automatic_batch_size_is_asked_for_with_the_arms_and_stands_once():
    asked = []

    def find(point, arms):
        asked.append((point.batch_size, len(arms)))
        return 4

    plan = make_plan(TrainOptions(batch="4,auto,2", compile=True), machine(), find)
    assert [point.batch_size for point in plan.points] == [2, 4]
    assert asked == [(0, 2)]
    assert "nanobench autobatch" in refusal(plan_of, kind=TrainOptions, batch="auto")


# What is too much for a machine


def test_more_ranks_than_cores_are_refused_on_a_cpu(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3}, raising=False)
    assert {point.world_size for point in plan_of(kind=TrainOptions, nproc="1,2").points} == {1, 2}
    for call, *more in ((plan_of, machine()), (lambda **options: describe_request(TrainOptions(device="cpu", **options)),)):
        words = refusal(call, *more, nproc="2,999999", **({"kind": TrainOptions} if more else {}))
        assert "--nproc 999999 on cpu: each rank needs its own core; choose at most 2," in words
    assert "at most 1 ranks" in refusal(plan_of, machine("cuda", ["H100"]), kind=TrainOptions, nproc="2")


def test_more_threads_than_the_machine_has_are_refused(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    describe_request(SweepOptions(threads="1,4,auto"))
    assert "--threads 5 is more than the 4 cores" in refusal(describe_request, SweepOptions(threads="1,5"))


LONG = {"batch": "1-1000+1", "prompt_len": "1-100+1", "new_tokens": "1-100+1"}


@pytest.mark.parametrize(
    ("kind", "asked", "words", "may_be_confirmed"),
    [
        (SweepOptions, LONG, "10,000,000 points x 2 arms = 20,000,000 cells are more than 1,000; give fewer", False),
        (GateOptions, {**LONG, "yes": True}, "20,000,000 cells are more than 100,000; give fewer", False),
        (SweepOptions, {"launches": 9999999}, "7 points x 9,999,999 launches = 69,999,993 trials are more than 1,000", False),
        (SweepOptions, {"launches": 9999999, "quick": True, "batch": "1-999+1"}, "1,998 cells are more than 1,000", True),
        (TrainOptions, {"launches": 501}, "1,002 trials are more than 1,000; give fewer values or launches", True),
    ],
)
def test_a_plan_that_is_too_large_is_refused_before_it_is_made(monkeypatch, kind, asked, words, may_be_confirmed):
    monkeypatch.setattr(planning, "combinations", None)
    message = refusal(describe_request, kind(**asked))
    assert words in message
    assert ("or confirm the plan with --yes" in message) is may_be_confirmed


def test_a_plan_that_is_large_can_be_confirmed():
    asked = {"batch": "1-999+1", "model": "gpt2-nano", "launches": 1, "max_seconds": "0.01"}
    assert "1,998 cells" in refusal(plan_of, **asked)
    assert len(plan_of(**asked, yes=True).points) == 999


def test_a_plan_that_would_take_more_than_a_day_is_refused_or_confirmed():
    slow, asked = {**machine(), "matmul_flops_per_s": 1e8}, {"batch": "1-500*2", "max_seconds": "10000"}
    words = refusal(plan_of, slow, **asked)
    assert re.search(r"this plan takes about [\d,]+ hours, more than 24; give fewer .* --yes$", words)
    assert plan_of(slow, **asked, yes=True).max_seconds == 10000


# What a plan holds


@pytest.mark.parametrize(
    ("description", "model", "dtype", "new_tokens", "target_ci", "max_seconds", "limit"),
    [
        (machine("cpu"), "gpt2-mini", "float32", 16, 0.05, 4.0, 8 * GIB),
        (machine("cuda", ["H100"]), "gpt2", "bfloat16", 200, 0.01, 20.0, None),
        (machine("cuda:1", ["H100", "H100"]), "gpt2", "bfloat16", 200, 0.01, 20.0, None),
    ],
)
def test_auto_means_what_suits_the_device(description, model, dtype, new_tokens, target_ci, max_seconds, limit):
    plan = plan_of(description)
    assert {point.device for point in plan.points} == {description["device"]}
    assert {(point.model, point.dtype, point.new_tokens) for point in plan.points} == {(model, dtype, new_tokens)}
    assert {point.prompt_len for point in plan.points} == {50}
    assert [point.batch_size for point in plan.points] == [1, 4, 8, 16, 32, 64, 93]
    assert (plan.target_ci, plan.max_seconds, plan.memory_limit_bytes) == (target_ci, max_seconds, limit)
    assert (plan.launches, plan.seed, plan.isolation, plan.gate_only) == (5, 0, "forkserver", False)


def test_the_threads_are_all_cores_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert {point.threads for point in plan_of().points} == {3}
    assert {point.threads for point in plan_of(threads="1,auto").points} == {1, 3}


def test_the_points_are_the_product_of_the_axes_each_once():
    plan = plan_of(
        model="gpt2-nano,gpt2", batch="1,4", prompt_len="8,16", new_tokens="2,3,4", dtype="float32,bfloat16", threads="1,2"
    )
    found = [(p.model, p.batch_size, p.prompt_len, p.new_tokens, p.dtype, p.threads) for p in plan.points]
    every = product(("gpt2-nano", "gpt2"), (1, 4), (8, 16), (2, 3, 4), ("float32", "bfloat16"), (1, 2))
    assert Counter(found) == Counter(every)


def test_a_point_named_twice_is_run_once():
    points = plan_of(model="auto,gpt2-mini", dtype="float32,auto", batch="1,4").points
    assert len(points) == len(set(points)) == 2


def test_the_arms_stand_in_the_order_of_the_engines_and_the_first_is_the_reference():
    plan = plan_of(engine="cached,uncached-full-logits,uncached")
    assert [arm.label for arm in plan.arms] == ["cached", "uncached-full-logits", "uncached"]


def test_compile_gives_each_engine_eager_and_compiled():
    plan = plan_of(compile=True)
    assert plan.arms == tuple(Arm(engine=e, compile_mode=m) for e in ("uncached", "cached") for m in ("off", "default"))
    assert [arm.label for arm in plan.arms] == ["uncached", "uncached default", "cached", "cached default"]


def test_options_reach_the_plan_and_every_trial():
    plan = plan_of(
        seed=7,
        launches=2,
        target_ci="0.2",
        max_seconds="1.5",
        memory_limit="1GiB",
        timeout=60.0,
        isolation="spawn",
        batch="1",
        model="gpt2-nano",
    )
    assert (plan.timeout_s, plan.isolation) == (60.0, "spawn")
    trials = [trial for trials in plan.rounds() for trial in trials]
    for launch, trial in enumerate(trials, start=1):
        assert trial == Trial(
            point=plan.points[0],
            arms=plan.arms,
            launch=launch,
            seed=7,
            target_ci=0.2,
            max_seconds=1.5,
            memory_limit_bytes=GIB,
            identity=plan.identities[0],
        )
    assert len(trials) == 2


def test_the_identity_of_a_trial_follows_machine_model_and_threads_and_nothing_else():
    def identities(description=None, **asked):
        plan = plan_of(description, **{"model": "gpt2-nano", "batch": "1,4", "threads": "2", **asked})
        return {trial.identity for trials in plan.rounds() for trial in trials}

    plain = identities()
    assert len(plain) == 1
    assert identities(engine="cached,uncached", seed=3, prompt_len="8") == plain
    assert len(identities(threads="1,2")) == 2
    other_machine = {**machine(), "identity": {"hash": "another"}}
    other_model = machine()
    other_model["models"]["gpt2-nano"] = {**shape(256), "n_embd": 128}
    assert identities(other_machine).isdisjoint(plain)
    assert identities(other_model).isdisjoint(plain)


def test_a_memory_limit_that_is_asked_for_holds_on_cuda_too():
    assert plan_of(machine("cuda", ["H100"]), memory_limit="2GiB").memory_limit_bytes == 2 * GIB


def test_quick_is_one_launch():
    assert plan_of(quick=True, launches=5).launches == 1


def test_verify_is_one_launch_of_gates_alone():
    plan = plan_of(kind=GateOptions)
    assert (plan.launches, plan.gate_only) == (1, True)
    assert all(trial.gate_only for trials in plan.rounds() for trial in trials)


def test_a_sequence_that_just_fits_is_planned_and_one_token_more_is_refused():
    assert plan_of(model="gpt2-nano", prompt_len="200", new_tokens="56", batch="1").points[0].total_len == 256
    message = refusal(plan_of, model="gpt2-nano", prompt_len="200", new_tokens="57", batch="1")
    for fragment in ("prompt_len 200", "new_tokens 57", "block_size 256 of gpt2-nano", "--new-tokens 56"):
        assert fragment in message


def test_the_smallest_model_decides_how_long_a_sequence_may_be():
    plan_of(model="gpt2", prompt_len="300", batch="1")
    assert "block_size 256 of gpt2-nano" in refusal(plan_of, model="gpt2,gpt2-nano", prompt_len="300", batch="1")


@pytest.mark.parametrize(
    ("device", "gpus", "fragments"),
    [
        ("cuda:1", ["H100"], ["--device cuda:1", "1 CUDA device;", "cuda:0"]),
        ("cuda:2", ["A", "B"], ["--device cuda:2", "2 CUDA devices;", "cuda:0 .. cuda:1"]),
        ("cuda", [], ["--device cuda", "0 CUDA devices", "choose cpu"]),
        ("cuda:0", [], ["--device cuda:0", "choose cpu"]),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(device, gpus, fragments):
    message = refusal(plan_of, machine(device, gpus))
    assert all(fragment in message for fragment in fragments)


# The order of the rounds


def test_every_round_runs_every_point_once():
    plan = many_points()
    rounds = list(plan.rounds())
    assert len(rounds) == 4
    for launch, trials in enumerate(rounds, start=1):
        assert {trial.launch for trial in trials} == {launch}
        assert Counter(trial.point for trial in trials) == Counter(plan.points)


def test_the_first_round_never_runs_a_point_before_one_that_is_smaller_in_every_way():
    def sizes(point):
        return point.batch_size, point.prompt_len, point.new_tokens

    first = [sizes(trial.point) for trial in next(many_points().rounds())]
    for place, size in enumerate(first):
        for later in first[place + 1 :]:
            assert not all(b <= a for a, b in zip(size, later, strict=True))


def test_the_first_round_rises_in_batch_size_whatever_the_order_asked_for():
    plan = plan_of(batch="64,1,93,8")
    assert [trial.point.batch_size for trial in next(plan.rounds())] == [1, 8, 64, 93]


def test_later_rounds_are_shuffled_each_in_its_own_way():
    rounds = [[trial.point for trial in trials] for trials in many_points().rounds()]
    assert all(a != b for place, a in enumerate(rounds) for b in rounds[place + 1 :])


def test_one_seed_gives_one_order_and_another_seed_another():
    assert list(many_points(seed=1).rounds()) == list(many_points(seed=1).rounds())
    one, other = ([[t.point for t in trials] for trials in many_points(seed).rounds()] for seed in (1, 2))
    assert one[0] == other[0]
    assert one[1:] != other[1:]


def test_the_rounds_of_a_plan_can_be_listed_again_and_again():
    plan = many_points()
    assert list(plan.rounds()) == list(plan.rounds())


# Keys and JSON

TRIAL = Trial(
    point=Point(model="gpt2-nano", dtype="float32", device="cpu", threads=2, batch_size=4, prompt_len=8, new_tokens=3),
    arms=(Arm(engine="uncached"), Arm(engine="cached", compile_mode="default")),
    launch=2,
    seed=5,
    target_ci=0.05,
    max_seconds=4.0,
)


def changed(value):
    """Some other value of the same kind."""
    if isinstance(value, bool):
        return not value
    return f"{value}-x" if isinstance(value, str) else (value or 0) + 1


def test_the_keys_of_a_plan_name_one_trial_each_with_twelve_hexadecimal_digits():
    keys = [trial.key for trials in many_points().rounds() for trial in trials]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 12 and int(key, 16) >= 0 for key in keys)


def test_every_field_of_a_trial_a_point_and_an_arm_changes_the_key():
    point, arm = TRIAL.point, TRIAL.arms[1]
    others = [replace(TRIAL, point=replace(point, **{f.name: changed(getattr(point, f.name))})) for f in fields(Point)]
    others += [
        replace(TRIAL, arms=(TRIAL.arms[0], replace(arm, **{f.name: changed(getattr(arm, f.name))}))) for f in fields(Arm)
    ]
    plain = [f.name for f in fields(Trial) if f.name not in ("point", "arms")]
    others += [replace(TRIAL, **{name: changed(getattr(TRIAL, name))}) for name in plain]
    others += [replace(TRIAL, arms=TRIAL.arms[::-1]), replace(TRIAL, arms=TRIAL.arms[:1])]
    assert len({trial.key for trial in (TRIAL, *others)}) == len(others) + 1


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_key_is_the_same_in_every_process(hash_seed):
    code = "import json, sys; from nanobench.schema import Trial; print(Trial.from_json(json.load(sys.stdin)).key)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(asdict(TRIAL)),
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == TRIAL.key


words = st.text('aZ é:.-"\\\n', max_size=8)
whole = st.integers(0, 10**6)
sizes = st.integers(1, 10**4)
positive = st.floats(1e-3, 1e3)
points = st.builds(
    Point, model=words, dtype=words, device=words, threads=whole, batch_size=sizes, prompt_len=sizes, new_tokens=sizes
)
arms = st.lists(st.builds(Arm, engine=words, compile_mode=words, sampler=words), min_size=1, max_size=3, unique=True).map(tuple)
limits = st.none() | st.integers(1, 2**50)


@settings(derandomize=True, deadline=None, database=None, max_examples=50)
@given(
    st.builds(
        Trial,
        point=points,
        arms=arms,
        launch=sizes,
        seed=whole,
        target_ci=positive,
        max_seconds=positive,
        memory_limit_bytes=limits,
        gate_only=st.booleans(),
    )
)
def test_a_trial_survives_json_with_its_key(trial):
    again = Trial.from_json(json.loads(json.dumps(asdict(trial))))
    assert again == trial
    assert again.key == trial.key


@settings(derandomize=True, deadline=None, database=None, max_examples=50)
@given(
    st.builds(
        Plan,
        points=st.lists(points, max_size=3).map(tuple),
        arms=arms,
        launches=st.integers(1, 3),
        seed=whole,
        target_ci=positive,
        max_seconds=positive,
        memory_limit_bytes=limits,
        timeout_s=positive,
        isolation=words,
        gate_only=st.booleans(),
    )
)
def test_a_plan_survives_json_with_all_its_trials(plan):
    again = Plan.from_json(json.loads(json.dumps(asdict(plan))))
    assert again == plan
    assert list(again.rounds()) == list(plan.rounds())


# The time that the card announces


def expected(plan, launch=1, **point):
    return expected_s(plan, replace(plan.points[0], **point), launch, Description.from_json(machine()))


def test_more_work_and_more_phases_are_expected_to_take_longer():
    plan = plan_of(prompt_len="50", new_tokens="100")
    assert expected(plan, batch_size=64) > expected(plan, batch_size=1)
    assert expected(plan, launch=1) > expected(plan, launch=2) > 0
    compiled = plan_of(prompt_len="50", new_tokens="100", compile=True)
    assert expected(compiled, launch=2) > expected(plan, launch=2) + 10
    assert expected(compiled, launch=1) - expected(compiled, launch=2) > 20
    gates = plan_of(kind=GateOptions, prompt_len="50", new_tokens="100")
    assert expected(gates) < expected(plan)
