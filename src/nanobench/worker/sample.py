"""One prompt through several engines, and what the reference says of every token.

The reference is the uncached forward pass in a wider dtype, as in the gate. A token is compared with the one that the reference
chooses after the same tokens of the same engine, so what follows a difference is compared too. Samplers start from one seed, so
that the reference and every engine that uses one random number per token choose with the same numbers.
"""

import math
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from nanobench import registry
from nanobench.continuation import Continuation, TokenDifference
from nanobench.engines._compiler import Compiler
from nanobench.errors import Skip, UserError
from nanobench.gates import generation as generation_gate
from nanobench.models import _packed_linear as packed_linear
from nanobench.models.base import Adapter
from nanobench.probes import memory
from nanobench.records import JsonObject, Status
from nanobench.samplers.base import Sampler
from nanobench.schema import REFERENCE_DTYPE, GPTShape, Point
from nanobench.training import tokenizer as tokenizers
from nanobench.training.tokenizer import Tokenizer
from nanobench.worker.arms import outcome_of
from nanobench.worker.workloads.generate import load

HALVINGS = 40
"""Shares of the tolerance that are tried, each halfway between two earlier ones."""


def take(request: JsonObject) -> JsonObject:
    """The tokens of a prompt, its continuation by the reference, and those by the engines. A mistake of the user is returned as
    `user_error`.
    """
    point = Point(**request["point"])
    torch.set_num_threads(point.threads)
    try:
        with memory.limited(request["memory_limit_bytes"]):
            return continuations(request, point)
    except UserError as error:
        return {"user_error": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"user_error": f"model {point.model!r} cannot be sampled: {outcome_of(error).reason}"}


def continuations(request: JsonObject, point: Point) -> JsonObject:
    """See `take`. Raises UserError for a prompt that the tokenizer or the model cannot read."""
    tokenizer, adapter = tokenizers.find(request["tokenizer"]), load(point, request["seed"])
    prompt_1T = prompt_of(request["prompt"], tokenizer, adapter.shape, point).to(point.device)
    point = replace(point, prompt_len=prompt_1T.shape[1])
    with torch.inference_mode():
        wide = generation_gate.cast(adapter, getattr(torch, REFERENCE_DTYPE[point.dtype]))
        packed_linear.pack(adapter.module)
        judge = Judge(adapter, wide, request["sampler"], prompt_1T, point, request["seed"])
        reference = judge.continue_prompt()
        arms = [of_engine(name, judge, tokenizer) for name in request["engines"]]
    first = Continuation(engine="reference", tokens=tuple(reference), parts=parts_of(tokenizer, reference, None))
    return {"prompt": prompt_1T[0].tolist(), "reference": asdict(first), "engines": [asdict(each) for each in arms]}


def prompt_of(text: str, tokenizer: Tokenizer, shape: GPTShape, point: Point) -> Tensor:
    """The tokens [1, T] of a prompt. Raises UserError where the model cannot read them."""
    tokens_T = tokenizer.encode(text.encode(), "--prompt")
    room = shape.block_size - point.new_tokens
    if not len(tokens_T):
        raise UserError("--prompt has no tokens; give the text to continue, like --prompt 'Once upon a time'")
    if int(tokens_T.max()) >= shape.vocab_size:
        what = f"--prompt has token {int(tokens_T.max())}, but the vocabulary of {point.model} is {shape.vocab_size}"
        raise UserError(f"{what}; give a model with a larger vocabulary, or another --tokenizer")
    if len(tokens_T) > room:
        what = f"--prompt has {len(tokens_T)} tokens; with {point.new_tokens} new ones that is more than block_size"
        fewer = f"--new-tokens {shape.block_size - len(tokens_T)} or less, or " if len(tokens_T) < shape.block_size else ""
        fix = f"give {fewer}a prompt of {room} tokens or less"
        raise UserError(f"{what} {shape.block_size} of {point.model}; {fix}")
    return tokens_T[None]


def of_engine(name: str, judge: "Judge", tokenizer: Tokenizer) -> Continuation:
    """The continuation by an engine. An exception in it becomes the status. Raises UserError for one without build()."""
    try:
        tokens = judge.run(name)
        outside = next((token for token in tokens if not 0 <= token < judge.adapter.shape.vocab_size), None)
        if outside is not None:
            reason = f"{outside} is not a token: the vocabulary is {judge.adapter.shape.vocab_size}"
            return Continuation(engine=name, status=Status.WRONG, reason=reason, tokens=tuple(tokens))
        tolerance, first, wrong = judge.compare(tokens)
    except UserError:
        raise
    except Exception as error:
        if not isinstance(error, Skip):
            traceback.print_exc()
        outcome = outcome_of(error)
        return Continuation(engine=name, status=outcome.status, reason=outcome.reason)
    parts = parts_of(tokenizer, tokens, first)
    return Continuation(engine=name, tokens=tuple(tokens), parts=parts, tolerance=finite(tolerance), first=first, wrong=wrong)


def parts_of(tokenizer: Tokenizer, tokens: Sequence[int], first: TokenDifference | None) -> tuple[str, ...] | None:
    """See Continuation.parts."""
    cut = len(tokens) if first is None else first.place
    parts = [tokenizer.decode(part) for part in (tokens[:cut], tokens[cut : cut + 1], tokens[cut + 1 :])]
    return None if None in parts else tuple(str(part) for part in parts)


def finite(value: float) -> float | None:
    """A number that JSON has; None for another one."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Judge:
    """The reference of one prompt: the model in the wider dtype, and the sampler."""

    adapter: Adapter
    wide: Adapter
    sampler_name: str
    prompt_1T: Tensor
    point: Point
    seed: int

    @property
    def is_greedy(self) -> bool:
        """Whether no random number decides."""
        return self.sampler_name == "greedy"

    def new_sampler(self) -> Sampler:
        """A sampler that was not used yet."""
        sampler: Sampler = registry.find("samplers", self.sampler_name)()
        return sampler

    def new_generator(self) -> torch.Generator:
        """Random numbers from the seed on."""
        return torch.Generator(device=self.prompt_1T.device).manual_seed(self.seed)

    def run(self, name: str) -> list[int]:
        """The tokens that an engine generates, its random numbers from the seed on. Raises Skip for synthetic ones."""
        engine = registry.find("engines", name)(self.adapter, self.new_sampler(), self.point, Compiler("off"))
        if reason := getattr(engine, "synthetic", None):
            raise Skip(f"with {reason} its text is not the model's")
        torch.manual_seed(self.seed)
        generator = getattr(engine, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(self.seed)
        tokens_1N = generation_gate.run_free(engine, self.prompt_1T, self.point.new_tokens)
        tokens: list[int] = tokens_1N[0, self.point.prompt_len : self.point.total_len].tolist()
        return tokens

    def continue_prompt(self) -> list[int]:
        """The tokens that the reference generates."""
        sampler, generator, sequence_1S = self.new_sampler(), self.new_generator(), self.prompt_1T
        for _ in range(self.point.new_tokens):
            logits_1V = self.wide.forward(sequence_1S, last_only=True)[:, -1]
            sequence_1S = torch.cat((sequence_1S, self.choose(sampler, logits_1V, generator)), dim=1)
        tokens: list[int] = sequence_1S[0, self.point.prompt_len :].tolist()
        return tokens

    def choose(self, sampler: Sampler, logits_1V: Tensor, generator: torch.Generator) -> Tensor:
        """The sampler's token [1, 1]. A random number in float64 would not be the one that an engine gets in float32."""
        return sampler(logits_1V if self.is_greedy else logits_1V.float(), generator)

    def compare(self, tokens: list[int]) -> tuple[float, TokenDifference | None, TokenDifference | None]:
        """The tolerance of a logit, the first token that is not the reference's choice, and the first that rounding cannot
        explain.
        """
        new_1N = torch.tensor([tokens], device=self.prompt_1T.device)
        sequence_1S, places = torch.cat((self.prompt_1T, new_1N[:, :-1]), dim=1), list(range(len(tokens)))
        logits_1NV = generation_gate.logits_at(self.wide, sequence_1S, self.point.prompt_len, places)
        own_1NV = generation_gate.own_logits(self.adapter, sequence_1S, self.point.prompt_len, places)
        tolerance = generation_gate.tolerance(own_1NV, logits_1NV, self.point.dtype)
        sampler, generator, first = self.new_sampler(), self.new_generator(), None
        for place, token in enumerate(tokens):
            before = generator.get_state()
            chosen = int(self.choose(sampler, logits_1NV[:, place], generator))
            if chosen != token:
                found = self.difference(place, token, chosen, logits_1NV[:, place], tolerance, before)
                first = first or found
                if not found.is_rounding:
                    return tolerance, first, found
        return tolerance, first, None

    def difference(
        self, place: int, token: int, chosen: int, logits_1V: Tensor, tolerance: float, before: Tensor
    ) -> TokenDifference:
        """A token that the reference does not choose. `before` is the state of the random numbers before the choice."""
        largest, second = logits_1V[0].topk(2).values.tolist()
        below = largest - logits_1V[0, token].item()
        explained = below <= tolerance if self.is_greedy else self.may_choose(token, chosen, logits_1V, tolerance / 2, before)
        margin = finite(largest - second)
        return TokenDifference(
            place=place, token=token, chosen=chosen, margin=margin, below=finite(below), is_rounding=explained
        )

    def may_choose(self, token: int, chosen: int, logits_1V: Tensor, slack: float, before: Tensor) -> bool:
        """Whether the sampler chooses a token, with the same random numbers, from logits that each differ by up to `slack`."""
        sampler, generator = self.new_sampler(), self.new_generator()

        def chosen_with(change_V: Tensor) -> int:
            generator.set_state(before)
            return int(self.choose(sampler, logits_1V + slack * change_V, generator))

        numbers_V = torch.arange(logits_1V.shape[1], device=logits_1V.device)
        # A sampler that takes the largest of noisy logits.
        if chosen_with(2.0 * (numbers_V == token).double() - 1.0) == token:
            return True
        # A sampler that inverts the cumulative sum: what all tokens up to one gain, the others lose.
        is_before = token < chosen
        gains_V = numbers_V <= token if is_before else numbers_V >= token
        share, step = 1.0, 0.5
        for _ in range(HALVINGS):
            now = chosen_with(share * torch.where(gains_V, 1.0, -1.0).double())
            is_past = (now < token) == is_before
            if now == token or (share == 1.0 and not is_past):
                return now == token
            share, step = share - step if is_past else share + step, step / 2
        return False
