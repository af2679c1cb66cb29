"""The base prompts of timed calls: other random tokens for every call, the same for all arms of a block.

Inside the clock each call adds a random number to all tokens of its base prompt.
"""

import torch
from torch import Tensor

POISON = 0x5EED
"""What the seed of the poison differs by from that of the prompts."""
FIRST_TOKEN = 0xF125
"""What the seed of calls of one token differs by from that of whole calls."""
MOST = 1024
"""Different prompts of one repetition, at most; further calls read them again."""


def fresh_prompts(seed: int, calls: int, rows: int, length: int, vocab_size: int) -> Tensor:
    """Random tokens [calls, rows, length] on the host; call number `n` reads prompt `n % MOST`.

    The first prompts are the same for any number of calls.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(vocab_size, (rows, length), generator=generator) for _ in range(min(calls, MOST))])


def poison(seed: int, rows: int, length: int, vocab_size: int) -> Tensor:
    """Random tokens [rows, length] on the host, to be written over the output before a repetition: what is not written shows.

    They are possible tokens, because an honest engine may read positions that it has not written yet.
    """
    return torch.randint(vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed ^ POISON))
