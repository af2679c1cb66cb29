"""Min-p sampling: keeps the tokens that have at least p times the probability of the most probable one."""

import torch


class MinP:
    def __init__(self, p, temperature):
        self.p, self.temperature = p, temperature

    def probabilities(self, logits_BV):
        probs_BV = torch.softmax(logits_BV / self.temperature, dim=-1)
        kept_BV = probs_BV.masked_fill(probs_BV < self.p * probs_BV.amax(-1, keepdim=True), 0.0)
        return kept_BV / kept_BV.sum(-1, keepdim=True)

    def __call__(self, logits_BV, generator):
        probs_BV = self.probabilities(logits_BV.float())
        noise_BV = torch.empty_like(probs_BV).exponential_(generator=generator)
        return (probs_BV / noise_BV).argmax(-1, keepdim=True)


def build(*, p=0.05, temperature=1.0):
    return MinP(p, temperature)
