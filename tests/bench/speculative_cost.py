"""Does the cost model of speculative decoding hold? Predicted against measured speedup over acceptance and draft length.

    python tests/bench/speculative_cost.py [TARGET] [DRAFT] [ROWS]

The acceptance is **synthetic**: every row accepts each drafted token with a given probability, whatever it is, so that the cost
can be studied with random weights. The passes of draft and target are real; the tokens are not those of the target, and nothing
is gated. Plain decoding, a draft pass and a verification pass are timed in turns with the speculative calls.

With acceptance a, draft length K and B rows that advance together, a step writes sum of a**(i * B) for i from 0 to K tokens. It
takes K draft passes and one target pass over K + 1 tokens. Prints a table in Markdown.
"""

import math
import random
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from nanobench.engines import speculative
from nanobench.engines._compiler import Compiler
from nanobench.engines.cached import build as build_cached
from nanobench.engines.speculative import Speculative
from nanobench.models._packed_linear import pack
from nanobench.registry import find
from nanobench.samplers.greedy import greedy
from nanobench.schema import Point

ACCEPTANCE, LENGTHS = (0.6, 0.8, 0.95), (2, 4, 8)
BLOCKS, NEW, PROMPT = 15, 64, 50


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def call(engine: Speculative, prompt_BT: Tensor) -> int:
    """One call; returns its steps."""
    engine.prefill(prompt_BT)
    generated, steps = 1, 0
    while generated < NEW:
        generated, steps = generated + engine.step(), steps + 1
    return steps


def accepting(share: float, drawn: random.Random) -> Callable[[Tensor, Tensor], Tensor]:
    """Accepts drafted tokens by chance."""

    def accept(logits_BTV: Tensor, drafted_BK: Tensor) -> Tensor:
        rows, number = drafted_BK.shape
        chosen_BT, kept = logits_BTV.argmax(-1), number
        for _ in range(rows):
            mine = 0
            while mine < number and drawn.random() < share:
                mine += 1
            kept = min(kept, mine)
        return torch.cat((drafted_BK[:, :kept], chosen_BT[:, kept : kept + 1]), dim=1)

    return accept


class Study:
    """A target, its draft, and plain decoding."""

    def __init__(self, target_name: str, draft_name: str, rows: int) -> None:
        torch.manual_seed(0)
        self.target, self.draft_name, self.rows = find("models", target_name)(), draft_name, rows
        self.target.module.eval().requires_grad_(False)
        pack(self.target.module)
        names = {"model": target_name, "dtype": "float32", "device": "cpu", "threads": torch.get_num_threads()}
        self.point = Point(**names, batch_size=rows, prompt_len=PROMPT, new_tokens=NEW)
        self.prompt_BT = torch.randint(self.target.shape.vocab_size, (rows, PROMPT))
        self.plain = build_cached(self.target, greedy, self.point, Compiler("off"))

    def row(self, number: int, share: float) -> str:
        """A line of the table for a draft length and an acceptance."""
        off, middle = Compiler("off"), PROMPT + NEW // 2
        engine = speculative.build(self.target, greedy, self.point, off, draft=self.draft_name, draft_len=number)
        block_BT = torch.randint(self.target.shape.vocab_size, (self.rows, number + 1))
        works: dict[str, Callable[[], object]] = {
            "plain": lambda: call(self.plain, self.prompt_BT),
            "speculative": lambda: steps.append(call(engine, self.prompt_BT)),
            "prefill": lambda: engine.prefill(self.prompt_BT),
            "verify": lambda: engine.logits(block_BT, middle, last_only=False),
            "draft": lambda: engine.draft.propose(engine.tokens_BN, middle, number),
        }
        times: dict[str, list[float]] = {name: [] for name in works}
        steps: list[int] = []
        rule, speculative.accept_greedy = speculative.accept_greedy, accepting(share, random.Random(f"{share} {number}"))
        for _ in range(BLOCKS):
            for name, work in works.items():
                engine.draft.keep(middle)
                times[name].append(seconds(work))
        speculative.accept_greedy = rule
        return self.compared(number, share, times, [(NEW - 1) / each for each in steps])

    def compared(self, number: int, share: float, times: dict[str, list[float]], tokens: list[float]) -> str:
        """Prediction and measurement as a line."""
        typical = {name: statistics.median(values) for name, values in times.items()}
        expected = sum(share ** (i * self.rows) for i in range(number + 1))
        predicted_s = typical["prefill"] + (NEW - 1) / expected * (typical["draft"] + typical["verify"])
        ratios = [plain / mine for plain, mine in zip(times["plain"], times["speculative"], strict=True)]
        low, measured, high = statistics.quantiles(ratios, n=4)
        predicted = typical["plain"] / predicted_s
        error = math.expm1(abs(math.log(measured / predicted)))
        written = f"{statistics.mean(tokens):.2f} (expected {expected:.2f})"
        return f"| {share} | {number} | {written} | {predicted:.2f} | {measured:.2f} [{low:.2f}, {high:.2f}] | {error:.0%} |"


def main() -> None:
    """Measures and prints."""
    target_name, draft_name = sys.argv[1:3] if len(sys.argv) > 2 else ("gpt2-char", "gpt2-nano")
    study = Study(target_name, draft_name, int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    print(f"synthetic acceptance; {target_name} drafted by {draft_name}, batch {study.rows}, {study.point.threads} threads\n")
    print("| acceptance | draft length | tokens per step | predicted speedup | measured [quartiles] | error |")
    print("|--:|--:|--:|--:|--:|--:|")
    with torch.inference_mode():
        for number in LENGTHS:
            for share in ACCEPTANCE:
                print(study.row(number, share), flush=True)


if __name__ == "__main__":
    main()
