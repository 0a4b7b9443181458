"""
What is scored: from what a model has thought about a batch to named losses.

Each loss is a sum and a count. A step divides the sum over all of its micro-batches and processes by the count over all
of them, so it does not matter how its rows are divided up. `--losses=ce,NAME:0.5` chooses and weighs them; a new one is
a function and a line in LOSSES. What is trained only here (a decoder, a projection) is a module of Objective: it is
saved in ckpt.pt, to go on with, but is no part of the model in best.pt.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn
from torch.nn import functional as F

from coconut import counts


class Loss(NamedTuple):
    count: Callable  # (batch) -> by how much a sum is divided; it must not depend on the model
    total: Callable  # (model, thinking, batch) -> the sum, a tensor; thinking: see coconut.Thinking


def ce(model, thinking, batch):
    """Cross-entropy of the suffix's scored tokens, in nats (paper section 3)."""
    scored = batch.labels != -100
    logits = model.head(thinking.predicting[:, :-1][scored])  # the widest matrix of all: only where it is needed
    return F.cross_entropy(logits, batch.labels[scored], reduction="sum")


LOSSES = {
    "ce": Loss(lambda batch: (batch.labels != -100).sum(), ce),
}


def parse_losses(names):
    """{name: weight} of names such as ("ce", "thoughts:0.5"); ValueError for one that is not there."""
    weights = {}
    for text in names:
        name, _, weight = text.partition(":")
        if name not in LOSSES:
            raise ValueError(f"losses = {text!r}, expected NAME or NAME:WEIGHT with a name of {', '.join(LOSSES)}")
        weights[name] = float(weight or 1)
    return weights


class Objective(nn.Module):
    """A model with what it is trained for; this is what several processes wrap (parallel.py)."""

    def __init__(self, model, losses=("ce",)):
        super().__init__()
        self.model, self.weights = model, parse_losses(losses)

    def counts(self, batch):
        """{name: count} of a batch, known before the model has seen it."""
        return {name: LOSSES[name].count(batch) for name in self.weights}

    def forward(self, batch):
        """{name: (sum, count)} of a batch."""
        thinking = self.model.think(batch.prefix, batch.prefix_len, batch.n, batch.suffix, counts(batch.labels))
        return {name: (LOSSES[name].total(self.model, thinking, batch), n) for name, n in self.counts(batch).items()}

    def own_state(self):
        """The weights that are not the model's."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("model.")}
