"""Batches of every phase, the trainer's step, and a gate that catches steps that do something else."""

import copy
import itertools
import re
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from nanobench import registry, schema
from nanobench.engines._compiler import Compiler
from nanobench.errors import Skip, UserError
from nanobench.gates import training as training_gate
from nanobench.models._foreign import UncachedAdapter
from nanobench.probes import memory
from nanobench.records import Verdict
from nanobench.roofline import flops
from nanobench.schema import PHASES, Arm, Point
from nanobench.training.data import IGNORED, BatchStream, Corpus, TokenCounts
from nanobench.training.trainer import Trainer

CPU = torch.device("cpu")
NANOS = [name for name in registry.presets() if name.endswith("-nano")]
TEXT = Path(__file__).parents[1] / "README.md"


def phase(name, batch_size=4, seq_len=32, vocab=256, seed=0, parts=1):
    return BatchStream(name, Corpus.synthetic(vocab, seed), batch_size, seq_len, seed, CPU, parts)


def point(name="gpt2-nano", **fields):
    plain = {"dtype": "float32", "device": "cpu", "threads": 2, "batch_size": 4, "seq_len": 32, "phase": "pretrain"}
    return Point(model=name, **{**plain, "data": "synthetic", "optimizer": "adamw", "grad_accum": 1, **fields})


@pytest.fixture
def captured(compile_with):
    """Compiled arms are captured whole, and run without inductor."""
    compile_with("aot_eager")


def model(name="gpt2-nano"):
    torch.manual_seed(0)
    return registry.find("models", name)()


def trainer_of(asked=None, arm=None, adapter=None):
    arm = arm or Arm()
    return Trainer(adapter or model(), asked or point(), arm, Compiler(arm.compile_mode))


def gated(asked=None, arm=None, spoil=None):
    """The gate's verdict on a trainer, perhaps one with a fault."""
    asked = asked or point()
    adapter = model(asked.model)
    numbered = phase(asked.phase, asked.batch_size, asked.seq_len, parts=asked.grad_accum)
    steps = [numbered.step(number) for number in range(training_gate.STEPS)]
    arm = arm or Arm()
    expected = training_gate.expect(adapter, steps, asked, arm.param_dtype)
    trainer = trainer_of(asked, arm, copy.deepcopy(adapter))
    if spoil:
        spoil(trainer)
    trajectory = training_gate.run_steps(trainer, steps, adapter)
    verdict = training_gate.judge(trajectory, expected)
    if not arm.is_lossy:
        return verdict
    return training_gate.judge_lossy(verdict, trajectory, training_gate.expect(adapter, steps, asked).trajectory)


def batch_of(numbered, number=0):
    (batch,) = numbered.step(number).batches
    return batch


@pytest.mark.parametrize("name", PHASES)
def test_a_step_is_known_by_its_number(name):
    first, again, other = (batch_of(phase(name), number) for number in (3, 3, 4))
    assert torch.equal(first.tokens_BT, again.tokens_BT)
    assert not (first.tokens_BT.shape == other.tokens_BT.shape and torch.equal(first.tokens_BT, other.tokens_BT))


def lengths_of(batch):
    return (batch.targets_BT != IGNORED).sum(dim=1).tolist()


@pytest.mark.parametrize("name", PHASES)
def test_targets_are_the_next_tokens_and_padding_carries_no_loss(name):
    batch = batch_of(phase(name))
    for tokens_T, targets_T, length in zip(batch.tokens_BT, batch.targets_BT, lengths_of(batch), strict=True):
        assert torch.equal(targets_T[: length - 1], tokens_T[1:length])
        assert (targets_T[:length] != IGNORED).all()
        assert (targets_T[length:] == IGNORED).all()
    assert batch.useful == sum(lengths_of(batch))


@pytest.mark.parametrize("name", PHASES)
def test_a_load_counts_what_the_batches_hold(name):
    step = phase(name, parts=3).step(0)
    tokens, attended_positions, seen = 0, 0, 0
    for batch in step.batches:
        rows, width = batch.tokens_BT.shape
        tokens += rows * width
        attended_positions += rows * width * width
        seen += sum(sum(range(1, length + 1)) for length in lengths_of(batch))
    assert step.counts == TokenCounts(tokens, sum(batch.useful for batch in step.batches), attended_positions, seen)


@pytest.mark.parametrize("name", PHASES)
def test_rows_are_not_copies(name):
    batch = batch_of(phase(name, batch_size=16))
    assert len({tuple(row.tolist()) for row in batch.tokens_BT}) == 16


def test_widths_are_full_except_where_a_batch_is_padded_to_its_longest():
    widths = {name: {batch_of(phase(name), number).tokens_BT.shape[1] for number in range(8)} for name in PHASES}
    assert widths["pretrain"] == widths["sft-padded"] == {32}
    assert len(widths["sft-dynamic"]) > 1
    assert all(batch_of(phase("pretrain"), number).useful == 4 * 32 for number in range(4))


def test_conversations_have_the_stated_lengths():
    lengths = lengths_of(batch_of(phase("sft-padded", batch_size=4000, seq_len=1000, vocab=4)))
    assert statistics.median(lengths) == pytest.approx(350, rel=0.05)
    assert min(lengths) >= 8
    assert max(lengths) == 1000


def test_the_same_conversations_in_both_sft_phases():
    dynamic, padded = (batch_of(phase(name), 2) for name in ("sft-dynamic", "sft-padded"))
    width = dynamic.tokens_BT.shape[1]
    assert torch.equal(dynamic.tokens_BT, padded.tokens_BT[:, :width])
    assert dynamic.useful == padded.useful


def test_ranks_share_a_step_between_them():
    whole = phase("sft-dynamic", parts=4).step(7)
    parts = [phase("sft-dynamic", parts=4).step(7, rank, 2) for rank in range(2)]
    joined = [batch for part in parts for batch in part.batches]
    assert all(torch.equal(a.tokens_BT, b.tokens_BT) for a, b in zip(whole.batches, joined, strict=True))
    assert all(part.counts == whole.counts for part in parts)


def test_a_text_is_its_bytes(tmp_path):
    (tmp_path / "text").write_text("hello, world")
    assert bytes(Corpus.of_text(tmp_path / "text", "bytes").tokens_N.tolist()) == b"hello, world"


def test_a_text_is_read_by_tiktoken_where_it_is_installed(tmp_path, monkeypatch):
    class Encoding:
        def encode_ordinary(self, text):
            return [len(word) for word in text.split()]

    fake = type("tiktoken", (), {"get_encoding": staticmethod({"words": Encoding()}.__getitem__)})
    monkeypatch.setitem(__import__("sys").modules, "tiktoken", fake)
    (tmp_path / "text").write_text("a bb ccc " * 4)
    assert Corpus.of_text(tmp_path / "text", "words").tokens_N.tolist() == [1, 2, 3] * 4
    with pytest.raises(UserError, match="'none' is not installed"):
        Corpus.of_text(tmp_path / "text", "none")


def test_a_text_that_cannot_serve_is_refused(tmp_path):
    (tmp_path / "short").write_text("hi")
    with pytest.raises(UserError, match="cannot be read"):
        Corpus.of_text(tmp_path / "none", "bytes")
    with pytest.raises(UserError, match="has 2 tokens"):
        Corpus.of_text(tmp_path / "short", "bytes")


@pytest.mark.parametrize("name", NANOS)
@pytest.mark.parametrize("phase_name", PHASES)
def test_a_step_is_a_plain_loops(name, phase_name):
    verdict = gated(point(name, phase=phase_name))
    assert verdict.verdict is Verdict.EXACT, verdict.note


RECIPES = [
    ({"optimizer": "sgd"}, {}),
    ({"optimizer": "muon"}, {}),
    ({"optimizer": "muon"}, {"optimizer_kernel": "foreach"}),
    ({}, {"optimizer_kernel": "foreach"}),
    ({}, {"checkpointing": "checkpointed"}),
    ({}, {"cross_entropy": "chunked"}),
    ({"dtype": "bfloat16", "grad_accum": 2}, {"cross_entropy": "chunked"}),
    ({"grad_accum": 3}, {}),
    ({"grad_accum": 2}, {"checkpointing": "checkpointed"}),
    ({"dtype": "bfloat16"}, {}),
    ({}, {"attention": "sdpa-math"}),
]


@pytest.mark.parametrize(("asked", "arm"), RECIPES, ids=str)
@pytest.mark.parametrize("phase_name", ["pretrain", "sft-dynamic"])
def test_every_recipe_takes_the_plain_loops_steps(asked, arm, phase_name):
    verdict = gated(point(phase=phase_name, **asked), Arm(**arm))
    assert verdict.verdict is Verdict.EXACT, verdict.note


@pytest.mark.parametrize(
    ("phase_name", "arm"),
    [
        *(pytest.param(name, {}, marks=[pytest.mark.slow] * (name != PHASES[0])) for name in PHASES),
        *(
            pytest.param(name, {"checkpointing": "checkpointed"}, marks=[pytest.mark.slow] * (name != PHASES[-1]))
            for name in PHASES
        ),
    ],
    ids=str,
)
def test_a_compiled_step_is_a_plain_loops(captured, phase_name, arm):
    verdict = gated(point(phase=phase_name), Arm(compile_mode="default", **arm))
    assert verdict.verdict is Verdict.EXACT, verdict.note


def test_a_compiled_step_in_chunks_is_a_plain_loops(captured):
    verdict = gated(point(), Arm(compile_mode="default", cross_entropy="chunked"))
    assert verdict.verdict is Verdict.EXACT, verdict.note


def forgets(name):
    def spoil(trainer):
        setattr(trainer.optimizer, name, lambda *_, **__: None)

    return spoil


def counts_padding(trainer):
    def loss(tokens_BT, targets_BT):
        return F.cross_entropy(adapter.forward(tokens_BT).flatten(0, 1), targets_BT.clamp(min=0).flatten())

    adapter, trainer.loss = trainer.loss.adapter, loss


def copies_rows(trainer):
    loss = trainer.loss
    trainer.loss = lambda tokens_BT, targets_BT: loss(tokens_BT[:1].expand_as(tokens_BT), targets_BT[:1].expand_as(targets_BT))


def sees_the_answer(trainer):
    loss = trainer.loss
    trainer.loss = lambda tokens_BT, targets_BT: loss(targets_BT.clamp(min=0), targets_BT)


def forgets_a_part(trainer):
    step = trainer.step
    trainer.step = lambda whole: step(type(whole)(whole.batches[:1], whole.counts))


FAULTS = {
    "skips the optimizer": (forgets("step"), "pretrain", "loss"),
    "adds up old gradients": (forgets("zero_grad"), "pretrain", "weights|loss"),
    "counts padding": (counts_padding, "sft-padded", "loss"),
    "copies rows": (copies_rows, "pretrain", "loss|gradients"),
    "sees the answer": (sees_the_answer, "pretrain", "loss|gradients"),
    "forgets a part of an accumulated batch": (forgets_a_part, "pretrain", "loss|gradients"),
}


@pytest.mark.parametrize(
    ("fault", "compile_mode"),
    [
        *((fault, "off") for fault in FAULTS),
        *((fault, "default") for fault in ("skips the optimizer", "copies rows")),
        *(
            pytest.param(fault, "default", marks=pytest.mark.slow)
            for fault in FAULTS
            if fault not in ("skips the optimizer", "copies rows")
        ),
    ],
)
def test_the_gate_catches(captured, fault, compile_mode):
    spoil, phase_name, words = FAULTS[fault]
    verdict = gated(point(phase=phase_name, grad_accum=2), Arm(compile_mode=compile_mode), spoil)
    assert verdict.verdict is Verdict.WRONG
    assert any(word in verdict.note for word in words.split("|")), verdict.note


def test_a_course_begins_where_it_is_told_to():
    adapter, steps = model(), [phase("pretrain").step(number) for number in range(2)]
    trainer = trainer_of(adapter=copy.deepcopy(adapter))
    first, again = (training_gate.run_steps(trainer, steps, adapter) for _ in range(2))
    assert first.losses == again.losses
    assert torch.equal(first.weight_change, again.weight_change)
    assert first.weight_change.abs().max() > 0


def test_the_loss_falls_over_fifty_steps_on_a_real_text():
    text = BatchStream("pretrain", Corpus.of_text(TEXT, "bytes"), 8, 64, 0, CPU)
    trainer = trainer_of()
    losses = [trainer.step(text.step(number)).item() for number in range(50)]
    assert statistics.mean(losses[-5:]) < 0.8 * statistics.mean(losses[:5])


def test_checkpointing_needs_a_list_of_blocks():
    adapter = model()
    adapter.module.blocks = torch.nn.Sequential(*adapter.module.blocks)
    with pytest.raises(Skip, match="one ModuleList of"):
        trainer_of(arm=Arm(checkpointing="checkpointed"), adapter=adapter)


def test_a_model_with_a_loss_of_its_own_has_no_chunked_one():
    adapter = UncachedAdapter(torch.nn.Linear(2, 2), shape=model().shape)
    with pytest.raises(Skip, match="use --cross-entropy full"):
        trainer_of(arm=Arm(cross_entropy="chunked"), adapter=adapter)


def test_in_chunks_the_logits_of_a_batch_are_never_in_memory_at_once():
    adapter = registry.find("models", "gpt2:n_layer=1,n_head=1,n_embd=8,vocab_size=4096,block_size=64")()
    batch = batch_of(phase("pretrain", seq_len=64, vocab=4096))
    logits = 4 * batch.tokens_BT.numel() * 4096

    def peak(kind):
        trainer = trainer_of(arm=Arm(cross_entropy=kind), adapter=copy.deepcopy(adapter))
        loss = partial(trainer.loss, batch.tokens_BT, batch.targets_BT)
        return memory.allocator_peak(lambda: loss().backward(), CPU)[1]

    assert peak("full") > 2 * logits
    assert peak("chunked") < logits


NARROW = Arm(param_dtype="bfloat16")


@pytest.mark.parametrize(
    ("optimizer", "kernel"),
    [("adamw", "fused"), ("adamw", "foreach"), ("sgd", "foreach"), ("muon", "fused"), ("muon", "foreach")],
)
def test_narrow_parameters_are_lossy_and_say_how_far_they_are_from_float32(optimizer, kernel):
    asked = point(dtype="bfloat16", optimizer=optimizer, grad_accum=2)
    verdict = gated(asked, replace(NARROW, optimizer_kernel=kernel))
    assert verdict.verdict is Verdict.LOSSY, verdict.note
    assert re.match(
        r"from float32 parameters: losses within \S+, change of the weights off by \S+; 3 steps match", verdict.note
    )


def test_all_of_a_narrow_arm_is_narrow():
    trainer = trainer_of(point(dtype="bfloat16"), NARROW)
    trainer.step(phase("pretrain").step(0))
    state = [each for kept in trainer.optimizer.state.values() for each in kept.values() if each.ndim]
    assert {each.dtype for each in (*trainer.parameters, *state)} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_loop_of_narrow_parameters_rounds_after_each_step(dtype):
    adapter, steps = model(), [phase("pretrain").step(number) for number in range(2)]
    narrow = training_gate.reference_loop(adapter, steps, point(dtype="bfloat16"), dtype, param_dtype="bfloat16")
    wide = training_gate.reference_loop(adapter, steps, point(dtype="bfloat16"), dtype)
    assert narrow.losses[0] == pytest.approx(wide.losses[0], rel=1e-2)
    rounded = training_gate.flatten(list(adapter.module.parameters())).bfloat16().float()
    ends = rounded + narrow.weight_change
    assert torch.equal(ends.bfloat16().float(), ends)
    assert training_gate.relative_error(narrow.weight_change, wide.weight_change) > 0.05


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("factor", [0, 3])
def test_a_wrong_step_of_narrow_parameters_is_caught(optimizer, factor):
    def spoil(trainer):
        for group in trainer.optimizer.param_groups:
            group["lr"] = factor * group["lr"]

    verdict = gated(point(dtype="bfloat16", optimizer=optimizer), replace(NARROW, optimizer_kernel="foreach"), spoil)
    assert verdict.verdict is Verdict.WRONG, verdict.note
    assert verdict.note.startswith("weights off by"), verdict.note


def test_a_replay_leaves_the_state_that_it_starts_from():
    adapter, steps = model(), [phase("pretrain").step(number) for number in range(2)]
    trainer = trainer_of(point(optimizer="muon"), adapter=copy.deepcopy(adapter))
    trainer.step(steps[0])
    state = copy.deepcopy(trainer.optimizer.state_dict()["state"])
    before = training_gate.flatten(trainer.parameters)
    recording = training_gate.Recording(
        [1], trainer.step(steps[1]).item(), before, training_gate.flatten(trainer.parameters), state
    )
    kept = copy.deepcopy(state)
    assert training_gate.judge_replay(adapter, steps[1:], point(optimizer="muon"), recording) is None
    assert all(torch.equal(state[place][name], each) for place, entry in kept.items() for name, each in entry.items())


def test_narrow_parameters_compute_in_their_own_dtype():
    with pytest.raises(Skip, match="give --dtype bfloat16"):
        trainer_of(point(dtype="float32"), NARROW)


def test_muon_takes_the_matrices_of_the_blocks():
    trainer = trainer_of(point(optimizer="muon"))
    muon, adamw = trainer.optimizer.parts
    blocks = {id(each) for each in trainer.loss.model.blocks.parameters() if each.ndim == 2}
    assert blocks
    assert {id(each) for each in muon.param_groups[0]["params"]} == blocks
    assert len(adamw.param_groups[0]["params"]) + len(blocks) == len(trainer.parameters)


def test_muon_has_matrices_alone_or_others_alone():
    for size, kind in (((4, 4), torch.optim.Muon), ((4,), torch.optim.AdamW)):
        optimizer = registry.find("optimizers", "muon")([torch.nn.Parameter(torch.zeros(size))], fused=True)
        assert [type(part) for part in optimizer.parts] == [kind]


def test_a_muon_that_goes_the_wrong_way_is_caught():
    def spoil(trainer):
        for group in trainer.optimizer.param_groups:
            group["lr"] = 1.2 * group["lr"]

    verdict = gated(point(optimizer="muon"), spoil=spoil)
    assert verdict.verdict is Verdict.WRONG, verdict.note


@pytest.mark.parametrize("name", [*NANOS, "gpt2-mini"])
def test_the_closed_form_knows_that_chunks_compute_logits_twice(name):
    assert_closed_form(name, "pretrain", Arm(attention="sdpa-math", cross_entropy="chunked"))


@pytest.mark.parametrize(
    ("name", "phase_name", "checkpointing"),
    itertools.product([*NANOS, "gpt2-mini"], PHASES, schema.CHECKPOINTING),
)
def test_a_step_executes_what_the_closed_form_says(name, phase_name, checkpointing):
    assert_closed_form(name, phase_name, Arm(attention="sdpa-math", checkpointing=checkpointing))


def assert_closed_form(name, phase_name, arm):
    from torch.utils.flop_counter import FlopCounterMode

    adapter = model(name)
    step = phase(phase_name, batch_size=2, parts=2).step(0)
    trainer = trainer_of(point(name, grad_accum=2), arm, adapter)
    with FlopCounterMode(display=False) as counter:
        trainer.step(step)
    again = arm.checkpointing != "off", arm.cross_entropy != "full"
    predicted = flops.training_flops(adapter.shape, step.counts.tokens, step.counts.attended_positions, *again)
    assert counter.get_total_flops() == pytest.approx(predicted, rel=0.02)
