"""How far a lossy arm is from its float model: KL, top tokens, matching tokens and bits per byte of known distributions."""

import math
from dataclasses import replace

import pytest
import torch

from nanobench.engines._compiler import Compiler
from nanobench.engines.cached import Cached
from nanobench.engines.uncached import build as build_uncached
from nanobench.gates import divergence
from nanobench.gates.divergence import Lossy, Text
from nanobench.gates.generation import Reference, run_free
from nanobench.models import _lossy as lossy
from nanobench.records import Gate, Verdict
from nanobench.samplers.greedy import greedy
from nanobench.schema import BYTES, Arm, Point
from nanobench.stats.divergence import Divergence
from nanobench.worker.workloads import generate
from nanobench.worker.workloads.prompts import RandomPrompts, prompts_of, text_of

POINT = Point(model="nanochat-nano", dtype="float32", device="cpu", threads=1, batch_size=3, prompt_len=6, new_tokens=5)


@pytest.fixture(autouse=True)
def no_gradients():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def test_the_kl_divergence_is_that_of_the_definition():
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
    expected = 0.5 * math.log(2) + 0.25 * math.log(1) + 0.25 * math.log(0.5)
    found = divergence.kl(p.log().expand(2, 4, 3), q.log().expand(2, 4, 3) + 7)
    assert found.shape == (2, 4)
    torch.testing.assert_close(found, torch.full((2, 4), expected, dtype=torch.float64), atol=1e-7, rtol=0)


def test_equal_distributions_have_none_and_impossible_tokens_count_nothing():
    logits_RV = torch.randn(3, 8)
    assert divergence.kl_of(logits_RV, logits_RV + 3).max() < 1e-12
    logits_RV[:, 2] = float("-inf")
    assert divergence.kl_of(logits_RV, logits_RV).max() < 1e-12


def test_equally_likely_tokens_are_equal_choices():
    logits = torch.tensor([[1.0, 2.0, 2.0], [3.0, 0.0, 0.0]])
    assert divergence.chooses(logits, torch.tensor([2, 1])).tolist() == [True, False]


def arms(weights="int8", point=POINT, engine=Cached):
    """The float model's reference, and an arm with such weights."""
    adapter, arm = generate.load(point, seed=0), Arm(engine="cached", weights=weights)
    made = adapter if weights == "float" else lossy.measured(adapter, arm)
    return Lossy(engine(made, greedy, point, Compiler("off")), made, Reference(adapter, point, seed=0))


def measured(arm, text=None):
    tokens_BN = run_free(arm.engine, arm.float_reference.prompt_BT, arm.float_reference.point.new_tokens)
    return divergence.measure(arm, tokens_BN, text)


def test_the_float_model_does_not_differ_from_itself():
    found = measured(arms("float"))
    assert found.kl_max_nats < 1e-9
    assert found.top1_agreement == 1
    assert found.matching_tokens == POINT.new_tokens


def test_fewer_bits_are_further_away():
    eight, four = measured(arms("int8")), measured(arms("int4"))
    assert 0 < eight.kl_nats < four.kl_nats / 10
    assert eight.kl_nats <= eight.kl_max_nats
    assert four.top1_agreement < 1 or four.kl_nats > 1e-4
    assert 0 <= four.matching_tokens <= POINT.new_tokens


def test_matching_tokens_are_those_before_the_first_difference():
    arm = arms("float")
    tokens_BN = run_free(arm.engine, arm.float_reference.prompt_BT, POINT.new_tokens)
    assert divergence.matching(arm.float_reference, tokens_BN) == 5
    tokens_BN[1, POINT.prompt_len + 2] = (tokens_BN[1, POINT.prompt_len + 2] + 1) % 256
    assert divergence.matching(arm.float_reference, tokens_BN) == pytest.approx((5 + 2 + 5) / 3)


def test_an_engine_without_logits_is_measured_by_the_pass_of_its_model():
    class Silent(Cached):
        logits_BV = property(lambda self: None, lambda self, value: None)

    assert measured(arms(engine=Silent)).kl_nats == pytest.approx(measured(arms()).kl_nats, rel=0.1)


EXACT = Gate(Verdict.EXACT, "forced logits within tolerance", digest="abc")


@pytest.mark.parametrize(
    ("kl", "limit", "verdict", "words"),
    [
        (0.02, None, Verdict.LOSSY, "KL from the float model 0.02 nats, 75% of top tokens equal; forced logits within"),
        (0.02, 0.05, Verdict.LOSSY, "KL from the float model 0.02 nats"),
        (0.02, 0.01, Verdict.WRONG, "KL divergence from the float model 0.02 nats is above --max-kl 0.01"),
        (math.nan, None, Verdict.WRONG, "KL divergence from the float model nan nats is not finite"),
    ],
)
def test_a_lossy_arm_is_never_exact_and_wrong_beyond_the_limit(kl, limit, verdict, words):
    found = divergence.judge(EXACT, Divergence(kl_nats=kl, top1_agreement=0.75), limit)
    assert found.verdict is verdict
    assert found.note.startswith(words)
    assert found.digest == "abc"


def test_a_wrong_arm_stays_wrong():
    wrong = replace(EXACT, verdict=Verdict.WRONG)
    assert divergence.judge(wrong, Divergence(kl_nats=0.0, top1_agreement=1.0), None) is wrong


# A text
class Knows:
    """A model that knows which token follows: the next number, with probability `sure`."""

    def __init__(self, adapter, sure):
        self.module, self.shape, self.sure = adapter.module, adapter.shape, sure

    def forward(self, idx_BT, targets_BT=None, last_only=False):
        vocab_size = self.shape.vocab_size
        idx_BT = idx_BT[:, -1:] if last_only else idx_BT
        rest = math.log((1 - self.sure) / (vocab_size - 1))
        logits_BTV = torch.full((*idx_BT.shape, vocab_size), rest)
        return logits_BTV.scatter(-1, ((idx_BT + 1) % vocab_size).unsqueeze(-1), math.log(self.sure))


def knowing(float_sure, arm_sure):
    """An arm and a float model that know a text with these probabilities."""
    adapter = generate.load(POINT, seed=0)
    models = [Knows(adapter, sure) for sure in (float_sure, arm_sure)]
    engine = build_uncached(models[1], greedy, POINT, Compiler("off"))
    return Lossy(engine, models[1], Reference(models[0], POINT, seed=0))


def counting(rows=7):
    return torch.arange(11).expand(rows, 11) + torch.arange(rows)[:, None]


def test_bits_per_byte_are_those_of_the_probabilities():
    """Seven rows of five tokens, three at once; a token has two bytes."""
    found = divergence.bits_per_byte(knowing(0.5, 0.25), Text(counting(), follow_bytes=70))
    assert found["float_bits_per_byte"] == pytest.approx(0.5)
    assert found["bits_per_byte"] == pytest.approx(1.0)


def test_a_model_that_does_not_know_the_text_has_none():
    assert divergence.bits_per_byte(knowing(1 / 256, 0.5), Text(counting(), follow_bytes=70)) == {}
    assert divergence.bits_per_byte(knowing(0.5, 0.5), Text(counting(), follow_bytes=0)) == {}
    assert measured(arms(), Text(torch.randint(256, (3, 11)), follow_bytes=15)).bits_per_byte is None


def test_rows_of_a_text_lie_at_even_distances(tmp_path):
    (tmp_path / "text.txt").write_bytes(bytes(range(200)))
    point = replace(POINT, data=str(tmp_path / "text.txt"), tokenizer=BYTES)
    adapter = generate.load(POINT, seed=0)
    text = text_of(prompts_of(adapter, point, torch.device("cpu")), point)
    assert text.tokens_RS.shape == (16, 11)
    assert text.tokens_RS[:, 0].tolist()[:3] == [0, 12, 25]
    assert text.tokens_RS[-1].tolist() == list(range(189, 200))
    assert text.follow_bytes == 16 * 5
    assert text_of(RandomPrompts(adapter, POINT), POINT) is None
    assert text_of(prompts_of(adapter, point, torch.device("cpu")), replace(point, new_tokens=195)) is None
