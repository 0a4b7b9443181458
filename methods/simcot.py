"""
SIM-CoT (2509.20317): Coconut, and a second model has to write each step, from the thoughts that stand for it alone.

The second model begins as a copy of the first, and is not used once that is trained. Without one, the model's own head
can be asked for the first token of each step: --method=coconut+sets.
"""

import copy

import torch
from torch.nn import functional as F

import curriculum
from config import UserError


def change_row(row, problem, stage, cfg, tok, rng=None):
    """With what each group of c thoughts stands for: a step, the last group for all that are left."""
    c, steps = max(1, cfg.c_thought), row.replaced
    last = row.n // c - 1
    steps = [sum(steps[k : k + 1 if k < last else None], []) for k in range(last + 1)]
    longest = max((c + len(step) for step in steps), default=0)
    if longest > cfg.block_size:
        needed = f"{longest} positions, but block_size is {cfg.block_size}"
        raise UserError(f"{tok.decode(problem.question)[:60]!r}: to write a step from its thoughts takes {needed}")
    return row._replace(extra=row.extra | {"steps": steps})


class Objective(curriculum.Objective):
    weights = {"decoder": 1.0}

    def __init__(self, model, cfg, tok):
        super().__init__(model, cfg, tok)
        self.decoder = copy.deepcopy(model.base)

    def counts(self, batch):
        return super().counts(batch) | {"decoder": (batch.extra["steps"][..., :1] >= 0).sum()}

    def losses(self, thinking, batch):
        return super().losses(thinking, batch) | {"decoder": self.decode(thinking, batch.extra["steps"])}

    def decode(self, thinking, steps):
        """The mean cross-entropy of a step's tokens, in nats, summed over the steps; steps (B, G, W), -1: nothing."""
        if not (steps >= 0).any():
            return 0.0 * thinking.states.sum()  # nothing to write; a zero that has a gradient
        B, G, _ = steps.shape
        written = steps[..., 0] >= 0  # (B, G)
        text = steps[written]  # (M, W)
        thoughts = thinking.fed.view(B, G, -1, thinking.fed.size(-1))[written]  # (M, c, C), as they were fed back
        x = torch.cat((thoughts, self.decoder.embed(text[:, :-1].clamp(min=0))), 1)  # (M, c+W-1, C)
        states, _ = self.decoder.read(x)  # what is filled up comes last: nothing that is scored sees it
        scored = text >= 0
        logits = self.decoder.head(states[-1][:, thoughts.size(1) - 1 :][scored])  # only what is to be said
        nats = F.cross_entropy(logits, text[scored], reduction="none")
        return (nats / scored.sum(1, keepdim=True).expand_as(scored)[scored]).sum()
