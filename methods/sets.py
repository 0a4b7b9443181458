"""
It is known what a thought should hold, a set of tokens: so it is told, and the true thoughts can be given for a start.

CoT2's continuous supervision (Gozeten et al. 2025, 2505.23648), which a search from random weights is learned with
(configs/prosqa_scratch.py). --thought_targets says which sets:
    walks   in a graph, the nodes where a walk of 1, 2, ... steps from the root can end (with --task=graphs)
    steps   the first token of the step that the next thoughts stand for
    tokens  at the thoughts that stand for a step, its tokens, one for each
"""

import torch
from torch.nn import functional as F

import curriculum
from coconut import up_to_last
from config import UserError, option, upstairs
from curriculum import for_stage
from methods._feedbacks import membership
from methods._hits import hits

EMPTY = -2  # as the only token of a set: there is none in it. Without any, [], a state may predict whatever it likes
settings = {
    "thought_targets": (str, option("steps", "what thoughts should predict", ("walks", "steps", "tokens"))),
    "teacher_forcing": (tuple[float, ...], option((0.0,), "share of steps that start from the true thoughts", least=0,
                                                  most=1)),
    "rounds": (tuple[int, ...], option((0,), "teacher forcing: the true thoughts are replaced by the model's own up to "
                                       "so many times, all at once", least=0, most=1000)),
}  # fmt: skip


def draw(cfg, index, rng):
    """In a step thoughts are the model's own, -1, or the true ones, replaced so many times."""
    if rng.random() >= for_stage(cfg.teacher_forcing, index):
        return {"rounds": -1}
    return {"rounds": int(rng.integers(for_stage(cfg.rounds, index) + 1))}


def change_row(row, problem, stage, cfg, tok, rng=None):
    """With the sets that the states after the prefix and each of n thoughts should predict."""
    if not cfg.c_thought:
        raise UserError("the method sets is for thoughts, but c_thought=0")
    if cfg.thought_targets == "walks":
        if cfg.task != "graphs":
            raise UserError("thought_targets=walks is for graphs, which --task=graphs and --names say how to read")
        reached = upstairs("tasks", "graphs").walks(problem.question, row.n, cfg, tok)
        targets = [found or [EMPTY] for found in reached] + [[]]
        return row._replace(extra=row.extra | {"targets": targets})
    steps, c = row.replaced[: cfg.max_latent_stage], cfg.c_thought
    if stage <= cfg.max_latent_stage and row.replaced == problem.steps[: len(row.replaced)]:
        steps = problem.steps  # the last state stands before the step that is written next
    if cfg.thought_targets == "tokens":
        sets = {k * c + j + 1: [token] for k, step in enumerate(steps) for j, token in enumerate(step[:c])}
    else:
        sets = {k * c: step[:1] for k, step in enumerate(steps)}
    return row._replace(extra=row.extra | {"targets": [sets.get(i, []) for i in range(row.n + 1)]})


def members_of(targets, like):
    """Sets of tokens (..., W) as 0 or 1 for each token (..., V); like: a tensor (..., V)."""
    n_tokens = like.size(-1)
    found = torch.zeros(*targets.shape[:-1], n_tokens + 1, dtype=like.dtype, device=targets.device)
    return found.scatter_(-1, targets.where(targets >= 0, n_tokens), 1.0)[..., :n_tokens]


def asked_for(targets):
    """For targets (..., W): whether there is a token to predict; whether the set is known, though it may be empty."""
    return (targets >= 0).any(-1), (targets != -1).any(-1)


class Objective(curriculum.Objective):
    """Losses: the shares that a state gives to the tokens of its set, and whether each is a member."""

    weights = {"sets": 1.0, "members": 0.0}

    def counts(self, batch):
        asked, told = asked_for(batch.extra["targets"])
        return super().counts(batch) | {"sets": asked.sum(), "members": told.sum()}

    def think(self, batch):
        rounds = int(batch.extra["rounds"][0]) if "rounds" in batch.extra else -1
        if rounds < 0:
            return super().think(batch)
        segments = batch.prefix, batch.prefix_len, batch.n, batch.suffix, up_to_last(batch.labels)
        thoughts = self.true_thoughts(batch.extra["targets"][:, :-1])
        thinking = self.model.think(*segments, given=thoughts, past=batch.past)
        for _ in range(rounds):  # each time one more thought is the model's own: after n times, all of them
            thoughts = self.model.feedback([layer[:, :-1] for layer in thinking.layers], self.model)
            thinking = self.model.think(*segments, given=thoughts, past=batch.past)
        return thinking

    def true_thoughts(self, targets):
        """What is fed back once the model is sure of its sets, (B, N, C): the mean (soft) or the sum of embeddings."""
        sets = members_of(targets, next(self.model.parameters()).new_empty(self.model.config.vocab_size))
        if self.task.cfg.feedback.startswith("soft"):
            sets = sets / sets.sum(-1, keepdim=True).clamp(min=1)
        return self.model.mix(sets) + self.model.feedback.vectors(0, targets.size(1))

    def losses(self, thinking, batch):
        losses, targets = super().losses(thinking, batch), batch.extra["targets"]
        if "sets" in self.weights:
            losses["sets"] = self.shares(thinking.states, targets)
        if "members" in self.weights:
            losses["members"] = self.memberships(thinking.states, targets)
        return losses

    def logits(self, states):
        """In float32 at least: of bfloat16's, sums and logarithms would not be exact enough."""
        logits = self.model.head(states)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def shares(self, states, targets):
        """Cross-entropy, in nats, between what a state predicts and the uniform distribution over its set."""
        asked, _ = asked_for(targets)
        log_p = self.logits(states[asked]).log_softmax(-1)  # (M, V)
        wanted = members_of(targets[asked], log_p)
        return -(wanted / wanted.sum(-1, keepdim=True) * log_p).sum()

    def memberships(self, states, targets):
        """Whether a token is in the set or not: binary cross-entropy, summed over the vocabulary.

        Each member counts by itself, the least likely one most; and a membership, unlike a share of 1, says the same of
        a node whether there are two of them or ten.
        """
        _, told = asked_for(targets)
        logits = self.logits(states[told])  # (M, V)
        wanted = members_of(targets[told], logits)
        return F.binary_cross_entropy_with_logits(membership(logits), wanted, reduction="sum")


def measure(model, problems, stage, cfg, tok):
    """How often the likeliest token is right, of the state before each thought; with tokens, of the state at it."""
    at = int(cfg.thought_targets == "tokens")
    return hits(model, problems, stage, cfg, tok, lambda batch: batch.extra["targets"][:, at:], first=at)
