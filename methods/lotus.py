"""
LOTUS (2606.31779): all thoughts at once, each made again in its own place; each should name one token of its step.

A step is a block of c thoughts, one for each of its tokens. All begin as <pause> and a vector of their own.
"""

from torch.nn import functional as F

import curriculum
from config import option
from feedback import Vector
from methods._hits import hits
from methods._parallel import Parallel

base = "no_curriculum"
settings = {"passes": (int, option(6, "how often all thoughts are made again", least=1, most=1000))}


class InPlace(Parallel):
    def __init__(self, base, cfg, tok):
        super().__init__(base, cfg, tok)
        self.own = Vector(base.config.n_embd)

    def start(self, N):
        return super().start(N) + self.own.of(0, N)

    def again(self, h, states):
        """The next thoughts, (B, N, C), from the states at all N, of each layer."""
        return self.start(states[-1].size(1)) + self.feedback(states, self)

    def bare(self, thoughts):
        return super().bare(thoughts) - self.start(len(thoughts))[0]


make_model = InPlace


def change_row(row, problem, stage, cfg, tok, rng=None):
    """With the token that each thought should name, -1: none."""
    c = cfg.c_thought
    blocks = [(step + [-1] * c)[:c] for step in row.replaced[: cfg.max_latent_stage]]
    tokens = sum(blocks, []) + [-1] * row.n
    return row._replace(extra=row.extra | {"tokens": tokens[: row.n]})


class Objective(curriculum.Objective):
    weights = {"step_tokens": 0.05}

    def counts(self, batch):
        return super().counts(batch) | {"step_tokens": (batch.extra["tokens"] >= 0).sum()}

    def losses(self, thinking, batch):
        tokens = batch.extra["tokens"]  # (B, N)
        asked = tokens >= 0
        logits = self.model.head(thinking.states[:, 1:][asked])  # of the states at the thoughts, not before them
        nats = F.cross_entropy(logits, tokens[asked], reduction="sum")
        return super().losses(thinking, batch) | {"step_tokens": nats}


def measure(model, problems, stage, cfg, tok):
    return hits(model, problems, stage, cfg, tok, lambda batch: batch.extra["tokens"][..., None], first=1)
