"""
What is scored: from what a model has thought about a batch to named losses.

Each loss is a sum and a count. A step divides the sum over all of its micro-batches and processes by the count over all
of them, so it does not matter how its rows are divided up. `--losses=ce,NAME:0.5` chooses and weighs them; a new one is
a function and a line in LOSSES. What is trained only here (a decoder, a projection) is a module of Objective
(methods/auxiliary.py): it is saved in ckpt.pt, to go on with, but is no part of the model in best.pt.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from batches import ANYTHING
from coconut import counts
from curriculum import losses_of
from feedback import known, membership
from methods.auxiliary import Decoder, SeqVCR


class Loss(NamedTuple):
    count: Callable  # (batch) -> by how much a sum is divided; it must not depend on the model
    total: Callable  # (model, thinking, batch) -> the sum, a tensor; thinking: see coconut.Thinking. Or a module that
    # does this, made with (model), if something is trained for this loss only


def ce(model, thinking, batch):
    """Cross-entropy of the suffix's scored tokens, in nats (paper section 3)."""
    scored = batch.labels != -100
    logits = model.head(thinking.predicting[:, :-1][scored])  # the widest matrix of all: only where it is needed
    return F.cross_entropy(logits, batch.labels[scored], reduction="sum")


def exact(logits):
    """Logits of which sums and logarithms are taken: in bfloat16 (--dtype) these would not be exact enough."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


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
    log_p = exact(model.head(thinking.states[asked])).log_softmax(-1)  # (M, V)
    target = member_of(batch.targets[asked], log_p)
    return -(target / target.sum(-1, keepdim=True) * log_p).sum()


def members(model, thinking, batch):
    """Whether a token is in the set or not: binary cross-entropy, summed over the vocabulary.

    Each member counts by itself, the least likely one most; and a membership, unlike a share of 1, says the same of a
    node whether there are two of them or ten.
    """
    asked = batch.targets[..., 0] != ANYTHING
    logits = exact(model.head(thinking.states[asked]))  # (M, V)
    logits, target = membership(logits), member_of(batch.targets[asked], logits)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum")


def teacher(model, thinking, batch):
    """Cross-entropy of what the teacher writes: the same model, in words."""
    return ce(model, thinking.teacher, batch.teacher)


def distance(model, thinking, batch, first=0):
    """How far the states before the answer are from the teacher's, which get no gradient (CODI, 2502.21074).

    The mean over layers, the input being layer 0, from `first` on, of SmoothL1 / std, averaged over the C dimensions.
    std is the teacher's, over the same C numbers: if it were that of a batch, a row's loss would depend on the others.
    """
    pairs = [*zip(thinking.before(batch.answer), thinking.teacher.before(batch.teacher.answer))][first:]
    found = [F.smooth_l1_loss(own, its.detach(), reduction="none").mean(1) / its.detach().std(1) for own, its in pairs]
    return sum(found).sum() / len(found)


def stop(model, thinking, batch):
    """-log of the chance that the stop head ends the thinking of a row after just n thoughts, as its stage gave it."""
    n = thinking.n[:, None]
    log_p = stop_chances(exact(model.stop_head(thinking.states))[..., 0], n + 1)  # (B, N+1), as if it might go on
    return -log_p.gather(1, n).sum()


def stop_chances(logits, n):
    """log of the chance to stop after 0, 1, ..., N thoughts, (B, N+1), from the stop head's logits (B, N+1).

    n (B, 1): after so many thoughts a row stops in any case; what comes later in it means nothing.
    """
    goes_on = F.pad(F.logsigmoid(-logits).cumsum(1)[:, :-1], (1, 0))  # so far it has not stopped
    k = torch.arange(logits.size(1), device=logits.device)
    return goes_on + F.logsigmoid(logits).masked_fill(k == n, 0)


PRIOR, PULL = 0.2, 0.01  # ponder's: a priori each thought is the last one with this chance; weight of the prior


def ponder(model, thinking, batch):
    """sum_k p_k CE_k + 0.01 KL(p || q): p_k the chance to stop after k thoughts, q a geometric prior, cut off at n.

    PonderNet's (Banino et al. 2021, 2107.05407) with thoughts for its steps. CE_k: the mean over the row's scored
    tokens if they follow after k thoughts, for which everything is read again.
    """
    N, n = thinking.fed.size(1), thinking.n[:, None]  # (B, 1)
    k = torch.arange(N + 1, device=n.device)

    def each(x):  # once for each k
        return x.repeat_interleave(N + 1, 0)

    n_thoughts = torch.arange(N + 1).repeat(len(n)).minimum(each(batch.n))
    prefix, labels, real = (each(batch.prefix), each(batch.prefix_len)), each(batch.labels), each(counts(batch.labels))
    again = model.think(*prefix, n_thoughts, each(batch.suffix), real, given=each(thinking.fed))
    nats = F.cross_entropy(exact(model.head(again.predicting[:, :-1])).mT, labels, reduction="none")  # (B (N+1), S)
    nats = (nats.sum(1) / (labels != -100).sum(1)).view(-1, N + 1)
    log_p = stop_chances(exact(model.stop_head(thinking.states))[..., 0], n)
    log_q = (k.to(log_p.dtype) * math.log(1 - PRIOR)).expand_as(log_p).masked_fill(k > n, -math.inf).log_softmax(1)
    nats, log_p, log_q = (x[k <= n] for x in (nats, log_p, log_q))
    return (log_p.exp() * (nats + PULL * (log_p - log_q))).sum()


LOSSES = {
    "ce": Loss(lambda batch: (batch.labels != -100).sum(), ce),
    "thoughts": Loss(lambda batch: (batch.targets[..., 0] >= 0).sum(), thoughts),
    "members": Loss(lambda batch: (batch.targets[..., 0] != ANYTHING).sum(), members),
    "teacher": Loss(lambda batch: (batch.teacher.labels != -100).sum(), teacher),
    "distance": Loss(lambda batch: torch.tensor(len(batch.n)), distance),
    "distance_layers": Loss(lambda batch: torch.tensor(len(batch.n)), partial(distance, first=1)),
    "decoder": Loss(lambda batch: 0 if batch.steps is None else (batch.steps[..., 0] >= 0).sum(), Decoder),
    "stop": Loss(lambda batch: torch.tensor(len(batch.n)), stop),
    "ponder": Loss(lambda batch: torch.tensor(len(batch.n)), ponder),
    "seq_vcr": Loss(lambda batch: torch.tensor(1), SeqVCR),
}


def trained_on(cfg):
    """The names of the losses that method and settings ask for, as parse_losses takes them."""
    names = losses_of(cfg)
    if cfg.stop == "ponder":  # which is cross-entropy, too
        names = {"ponder": names.pop("ce", "ce").replace("ce", "ponder", 1)} | names
    elif cfg.stop == "classifier":
        names.setdefault("stop", "stop")
    return [*names.values()]


def parse_losses(names):
    """{name: weight} of names such as ("ce", "thoughts:0.5"); ValueError for one that is not there."""
    weights = {}
    for text in names:
        name, _, weight = text.partition(":")
        if name in weights:
            raise ValueError(f"losses = {','.join(names)!r}, expected each name once")
        if name not in LOSSES:
            raise ValueError(f"losses = {text!r}, expected NAME or NAME:WEIGHT with a name of {', '.join(LOSSES)}")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            weights[name] = math.nan
        if not 0 <= weights[name] < math.inf:
            raise ValueError(f"losses = {text!r}, expected NAME:WEIGHT with a weight of at least 0")
    return weights


class Objective(nn.Module):
    """A model with what it is trained for; this is what several processes wrap (speed/parallel.py)."""

    def __init__(self, model, losses=("ce",)):
        super().__init__()
        self.model, self.weights = model, parse_losses(losses)
        modules = {name: LOSSES[name].total for name in self.weights if isinstance(LOSSES[name].total, type)}
        self.parts = nn.ModuleDict({name: module(model) for name, module in modules.items()})

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
            given = model.numbered(known(member_of(batch.targets[:, :-1], weights), model))
        segments = batch.prefix, batch.prefix_len, batch.n, batch.suffix, counts(batch.labels)
        thinking = model.think(*segments, given=given, past=past)
        for _ in range(batch.given or 0):  # each time one more thought is the model's own: after n times, all of them
            given = model.next_thoughts([layer[:, :-1] for layer in thinking.layers], 0)
            thinking = model.think(*segments, given=given, past=past)
        if batch.teacher is not None:
            its = batch.teacher
            its = model.think(its.prefix, its.prefix_len, its.n, its.suffix, counts(its.labels), past=past)
            thinking = thinking._replace(teacher=its)
        totals = {name: self.parts[name] if name in self.parts else LOSSES[name].total for name in self.weights}
        return {name: (totals[name](model, thinking, batch), n) for name, n in self.counts(batch).items()}

    def own_state(self):
        """The weights that are not the model's."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("model.")}
