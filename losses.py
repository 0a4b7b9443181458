"""
What is scored: from what a model has thought about a batch to named losses.

Each loss is a sum and a count. A step divides the sum over all of its micro-batches and processes by the count over all
of them, so it does not matter how its rows are divided up. `--losses=ce,NAME:0.5` chooses and weighs them; a new one is
a function and a line in LOSSES. What is trained only here (a decoder, a projection) is a module of Objective: it is
saved in ckpt.pt, to go on with, but is no part of the model in best.pt.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from batches import ANYTHING
from coconut import counts
from feedback import known, membership


class Loss(NamedTuple):
    count: Callable  # (batch) -> by how much a sum is divided; it must not depend on the model
    total: Callable  # (model, thinking, batch) -> the sum, a tensor; thinking: see coconut.Thinking


def ce(model, thinking, batch):
    """Cross-entropy of the suffix's scored tokens, in nats (paper section 3)."""
    scored = batch.labels != -100
    logits = model.head(thinking.predicting[:, :-1][scored])  # the widest matrix of all: only where it is needed
    return F.cross_entropy(logits, batch.labels[scored], reduction="sum")


def member_of(targets, like):
    """Sets of tokens as in Batch.targets (..., W), as 0 or 1 for each token (..., V); like: a tensor (..., V)."""
    n_tokens = like.size(-1)
    found = torch.zeros(*targets.shape[:-1], n_tokens + 1, dtype=like.dtype, device=targets.device)
    return found.scatter_(-1, targets.where(targets >= 0, n_tokens), 1.0)[..., :n_tokens]


def thoughts(model, thinking, batch):
    """Cross-entropy, in nats, between what a state predicts and the uniform distribution over what it should.

    CoT2's continuous supervision (Gozeten et al. 2025, 2505.23648). Of a single token it is the usual loss; an empty
    set has none.
    """
    asked = batch.targets[..., 0] >= 0
    log_p = model.head(thinking.states[asked]).log_softmax(-1)  # (M, V)
    target = member_of(batch.targets[asked], log_p)
    return -(target / target.sum(-1, keepdim=True) * log_p).sum()


def members(model, thinking, batch):
    """Whether a token is in the set or not: binary cross-entropy, summed over the vocabulary.

    Each member counts by itself, the least likely one most; and a membership, unlike a share of 1, says the same of a
    node whether there are two of them or ten.
    """
    asked = batch.targets[..., 0] != ANYTHING
    logits = model.head(thinking.states[asked])  # (M, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # sums in bfloat16 would not be exact enough
    logits, target = membership(logits), member_of(batch.targets[asked], logits)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum")


LOSSES = {
    "ce": Loss(lambda batch: (batch.labels != -100).sum(), ce),
    "thoughts": Loss(lambda batch: (batch.targets[..., 0] >= 0).sum(), thoughts),
    "members": Loss(lambda batch: (batch.targets[..., 0] != ANYTHING).sum(), members),
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
        model, given, past = self.model, None, None
        if batch.shared is not None:
            real = torch.arange(batch.shared.size(1), device=batch.shared.device) < batch.shared_len[:, None]
            past = model.read(model.embed(batch.shared), real)[1].repeat(len(batch.n) // len(real))
        if batch.given is not None:
            weights = next(model.parameters()).new_empty(model.config.vocab_size)
            given = known(member_of(batch.targets[:, :-1], weights), model)
        segments = batch.prefix, batch.prefix_len, batch.n, batch.suffix, counts(batch.labels)
        thinking = model.think(*segments, given=given, past=past)
        for _ in range(batch.given or 0):  # each time one more thought is the model's own: after n times, all of them
            given = model.feedback([layer[:, :-1] for layer in thinking.layers], model)
            thinking = model.think(*segments, given=given, past=past)
        return {name: (LOSSES[name].total(self.model, thinking, batch), n) for name, n in self.counts(batch).items()}

    def own_state(self):
        """The weights that are not the model's."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("model.")}
