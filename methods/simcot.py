"""
SIM-CoT (2509.20317): Coconut, and a second model has to write each step, from the thoughts that stand for it alone.

The second model begins as a copy of the first, and is not used once that is trained. --decoder=head does without it:
the state before the thoughts of a step should predict the first token of that step.
"""

import copy

import torch
from torch.nn import functional as F

import curriculum
from config import UserError, option

settings = {
    "decoder": (str, option("model", "what decodes thoughts: a second model, or the model's own head",
                            ("model", "head"))),
}  # fmt: skip


def change_row(row, problem, stage, cfg, tok, rng=None):
    """With what each group of c thoughts stands for: a step, the last group for all that are left."""
    c, steps = max(1, cfg.c_thought), row.replaced
    if cfg.decoder == "head":
        if stage <= cfg.max_latent_stage and steps == problem.steps[: len(steps)]:
            steps = problem.steps  # the last state stands before the step that is written next
        else:
            steps = steps[: cfg.max_latent_stage]
        first = {k * c: step[0] for k, step in enumerate(steps) if step}
        return row._replace(extra=row.extra | {"first": [first.get(i, -1) for i in range(row.n + 1)]})
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
        self.decoder = copy.deepcopy(model.base) if cfg.decoder == "model" else None

    def counts(self, batch):
        decoded = batch.extra["steps"][..., :1] if self.decoder else batch.extra["first"]
        return super().counts(batch) | {"decoder": (decoded >= 0).sum()}

    def losses(self, thinking, batch):
        decode, wanted = (self.decode, "steps") if self.decoder else (self.head, "first")
        return super().losses(thinking, batch) | {"decoder": decode(thinking, batch.extra[wanted])}

    def head(self, thinking, first):
        """Cross-entropy, in nats, of first (B, N+1), the tokens that the states should predict, -1: any."""
        asked = first >= 0
        return F.cross_entropy(self.model.head(thinking.states[asked]), first[asked], reduction="sum")

    def decode(self, thinking, steps):
        """The mean cross-entropy of a step's tokens, in nats, summed over the steps; steps (B, G, W), -1: nothing."""
        if not (steps >= 0).any():
            return 0.0 * thinking.states.sum()  # nothing to write; a zero that has a gradient
        B, G, _ = steps.shape
        row, group = (steps[..., 0] >= 0).nonzero(as_tuple=True)  # (M,) each
        thoughts = thinking.fed.view(B, G, -1, thinking.fed.size(-1))  # (B, G, c, C)
        thoughts = thoughts[row, group]  # (M, c, C), read as they were fed back
        text, c = steps[row, group], thoughts.size(1)  # (M, W)
        scored = text >= 0
        x = torch.cat((thoughts, self.decoder.embed(text[:, :-1].clamp(min=0))), 1)  # (M, c+W-1, C)
        real = torch.cat((torch.ones_like(thoughts[..., 0], dtype=torch.bool), scored[:, :-1]), 1)
        states, _ = self.decoder.read(x, real)
        logits = self.decoder.head(states[-1][:, c - 1 :][scored])  # only where there is something to write
        nats = F.cross_entropy(logits, text[scored], reduction="none")
        return (nats / scored.sum(1, keepdim=True).expand_as(scored)[scored]).sum()
