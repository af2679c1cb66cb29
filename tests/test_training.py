"""Batches of every phase, the trainer's step, and a gate that catches steps that do something else."""

import copy
import statistics
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from nanobench import lookup, schema, training_gate
from nanobench.batches import IGNORED, PHASES, Corpus, Phase
from nanobench.engines.base import Compiler
from nanobench.errors import Skip, UserError
from nanobench.record import Verdict
from nanobench.trainer import Recipe, Trainer

CPU = torch.device("cpu")
TEXT = Path(__file__).parents[1] / "README.md"


def phase(name, batch_size=4, seq_len=32, vocab=256, seed=0):
    return Phase(name, Corpus.synthetic(vocab, seed), batch_size, seq_len, seed, CPU)


@pytest.fixture
def captured(monkeypatch):
    """Compiled arms are captured whole, and run without inductor."""
    monkeypatch.setitem(schema.COMPILE_MODES, "default", {"backend": "aot_eager"})
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def model(name="gpt2-nano"):
    torch.manual_seed(0)
    return lookup.find("models", name)()


def course(recipe=None, name="gpt2-nano", phase_name="pretrain", mode="off", spoil=None):
    """The gate's verdict on a trainer, perhaps one with a fault."""
    recipe = recipe or Recipe()
    adapter = model(name)
    batches = [phase(phase_name).batch(number) for number in range(training_gate.STEPS)]
    expected = training_gate.expect(adapter, batches, recipe)
    trainer = Trainer(copy.deepcopy(adapter), recipe, Compiler(mode), shapes_vary=phase_name == "sft-dynamic")
    if spoil:
        spoil(trainer)
    return training_gate.judge(trainer, batches, expected)


@pytest.mark.parametrize("name", PHASES)
def test_a_batch_is_known_by_its_number(name):
    first, again, other = phase(name).batch(3), phase(name).batch(3), phase(name).batch(4)
    assert torch.equal(first.tokens_BT, again.tokens_BT)
    assert not (first.tokens_BT.shape == other.tokens_BT.shape and torch.equal(first.tokens_BT, other.tokens_BT))


@pytest.mark.parametrize("name", PHASES)
def test_targets_are_the_next_tokens_and_padding_carries_no_loss(name):
    batch = phase(name).batch(0)
    for tokens_T, targets_T, length in zip(batch.tokens_BT, batch.targets_BT, batch.lengths, strict=True):
        assert torch.equal(targets_T[: length - 1], tokens_T[1:length])
        assert (targets_T[:length] != IGNORED).all()
        assert (targets_T[length:] == IGNORED).all()
    assert batch.useful == int((batch.targets_BT != IGNORED).sum())
    assert batch.tokens == batch.tokens_BT.numel()


@pytest.mark.parametrize("name", PHASES)
def test_rows_are_not_copies(name):
    batch = phase(name, batch_size=16).batch(0)
    assert len({tuple(row.tolist()) for row in batch.tokens_BT}) == 16


def test_widths_are_full_except_where_a_batch_is_padded_to_its_longest():
    widths = {name: {phase(name).batch(number).tokens_BT.shape[1] for number in range(8)} for name in PHASES}
    assert widths["pretrain"] == widths["sft-padded"] == {32}
    assert len(widths["sft-dynamic"]) > 1
    assert all(phase("pretrain").batch(number).useful == 4 * 32 for number in range(4))


def test_conversations_have_the_stated_lengths():
    lengths = phase("sft-padded", batch_size=4000, seq_len=1000, vocab=4).batch(0).lengths
    assert statistics.median(lengths) == pytest.approx(350, rel=0.05)
    assert min(lengths) >= 8
    assert max(lengths) == 1000


def test_the_same_conversations_in_both_sft_phases():
    dynamic, padded = phase("sft-dynamic").batch(2), phase("sft-padded").batch(2)
    assert dynamic.lengths == padded.lengths
    width = dynamic.tokens_BT.shape[1]
    assert torch.equal(dynamic.tokens_BT, padded.tokens_BT[:, :width])


def test_parts_of_a_batch_are_its_rows():
    batch = phase("sft-padded").batch(0)
    parts = batch.split(2)
    assert torch.equal(torch.cat([part.tokens_BT for part in parts]), batch.tokens_BT)
    assert sum(part.useful for part in parts) == batch.useful


def test_a_text_is_its_bytes(tmp_path):
    (tmp_path / "text").write_text("hello, world")
    assert bytes(Corpus.of_text(tmp_path / "text", 256).tokens_N.tolist()) == b"hello, world"


def test_a_text_that_cannot_serve_is_refused(tmp_path):
    (tmp_path / "short").write_text("hi")
    with pytest.raises(UserError, match="cannot be read"):
        Corpus.of_text(tmp_path / "none", 256)
    with pytest.raises(UserError, match="holds 2 bytes"):
        Corpus.of_text(tmp_path / "short", 256)
    with pytest.raises(UserError, match="needs 256 tokens and the model has 100"):
        Corpus.of_text(TEXT, 100)


@pytest.mark.parametrize("name", ["gpt2-nano", "nanochat-nano"])
@pytest.mark.parametrize("phase_name", PHASES)
def test_a_step_is_a_plain_loops(name, phase_name):
    verdict = course(name=name, phase_name=phase_name)
    assert verdict.verdict is Verdict.EXACT, verdict.note


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(optimizer="sgd"),
        Recipe(fused=False),
        Recipe(checkpointing=True),
        Recipe(accumulate=2),
        Recipe(accumulate=4, checkpointing=True),
        Recipe(dtype="bfloat16"),
    ],
    ids=str,
)
@pytest.mark.parametrize("phase_name", ["pretrain", "sft-padded"])
def test_every_recipe_takes_the_plain_loops_steps(recipe, phase_name):
    verdict = course(recipe, phase_name=phase_name)
    assert verdict.verdict is Verdict.EXACT, verdict.note


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(checkpointing=True)], ids=str)
@pytest.mark.parametrize("phase_name", PHASES)
def test_a_compiled_step_is_a_plain_loops(captured, recipe, phase_name):
    verdict = course(recipe, phase_name=phase_name, mode="default")
    assert verdict.verdict is Verdict.EXACT, verdict.note


def forgets(name):
    def spoil(trainer):
        setattr(trainer.optimizer, name, lambda *_, **__: None)

    return spoil


def counts_padding(trainer):
    def loss(tokens_BT, targets_BT):
        return F.cross_entropy(trainer.adapter.forward(tokens_BT).flatten(0, 1), targets_BT.clamp(min=0).flatten())

    trainer.loss = loss


def copies_rows(trainer):
    loss = trainer.loss
    trainer.loss = lambda tokens_BT, targets_BT: loss(tokens_BT[:1].expand_as(tokens_BT), targets_BT[:1].expand_as(targets_BT))


def sees_the_answer(trainer):
    loss = trainer.loss
    trainer.loss = lambda tokens_BT, targets_BT: loss(targets_BT.clamp(min=0), targets_BT)


FAULTS = {
    "skips the optimizer": (forgets("step"), "pretrain", "loss"),
    "adds up old gradients": (forgets("zero_grad"), "pretrain", "weights|loss"),
    "counts padding": (counts_padding, "sft-padded", "loss"),
    "copies rows": (copies_rows, "pretrain", "loss|gradients"),
    "sees the answer": (sees_the_answer, "pretrain", "loss|gradients"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_gate_catches(fault):
    spoil, phase_name, words = FAULTS[fault]
    verdict = course(phase_name=phase_name, spoil=spoil)
    assert verdict.verdict is Verdict.WRONG
    assert any(word in verdict.note for word in words.split("|")), verdict.note


def test_after_the_gate_a_trainer_is_as_new():
    adapter, batches = model(), [phase("pretrain").batch(number) for number in range(2)]
    trainer = Trainer(adapter, Recipe(), Compiler("off"), shapes_vary=False)
    first = training_gate.taken(trainer, batches)
    again = training_gate.taken(trainer, batches)
    assert first.losses == again.losses
    assert torch.equal(first.moved, again.moved)
    assert first.moved.abs().max() > 0


def test_the_loss_falls_over_fifty_steps_on_a_real_text():
    corpus = Corpus.of_text(TEXT, 256)
    text = Phase("pretrain", corpus, 8, 64, 0, CPU)
    trainer = Trainer(model(), Recipe(), Compiler("off"), shapes_vary=False)
    losses = [trainer.step(text.batch(number)).item() for number in range(50)]
    assert statistics.mean(losses[-5:]) < 0.8 * statistics.mean(losses[:5])


def test_checkpointing_needs_a_list_of_blocks():
    adapter = model()
    adapter.module.blocks = torch.nn.Sequential(*adapter.module.blocks)
    with pytest.raises(Skip, match="one list of"):
        Trainer(adapter, Recipe(checkpointing=True), Compiler("off"), shapes_vary=False)
