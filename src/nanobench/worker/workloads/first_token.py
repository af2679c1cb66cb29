"""The time to the first token of an engine that only generates whole outputs: calls of one token, beside the timed repetitions.

They run before the whole calls of a block that would have a timestamp per token, and become a repetition of a kind of its own.
So that nobody can skip their work, they have fresh prompts, and the output of the last one is checked after the launch.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from nanobench.models import _sdpa as sdpa
from nanobench.records import Repetition
from nanobench.worker.workloads.base import Block
from nanobench.worker.workloads.outputs import Output
from nanobench.worker.workloads.prompts import FIRST_TOKEN

if TYPE_CHECKING:
    from nanobench.worker.workloads.generate import Generate


def time_first_token(workload: "Generate", block: Block) -> Repetition:
    """One repetition of calls of one token. Their prompts are not those of the block's whole calls."""
    seed, calls, rows = block.prompt_seed ^ FIRST_TOKEN, workload.calls, workload.point.batch_size
    workload.shifts = []
    workload.lay_out_prompts(seed)

    def run_prefills(timestamps: list[Any], timestamped: bool) -> None:
        for call in range(calls):
            workload.draw_prompt(call)
            workload.engine.prefill(workload.input_BT)

    with sdpa.use_backend(workload.arm.attention):
        plain = replace(block, timestamped=False)
        timed = workload.run(run_prefills, plain, kind="first_token", tokens=calls * rows, prompt_seed=seed)
    if workload.keeps_outputs:
        token_B1 = workload.new_BN[:, :1].to("cpu", torch.int32, copy=True)
        workload.outputs.keep([Output(block.number, calls - 1, calls, seed, workload.shifts[-1], token_B1)])
    return timed
