"""
The method: a language model that thinks without words (Coconut, "Chain of Continuous Thought", arXiv 2412.06769).

Coconut.think is section 3 of the paper: read the question, feed the last hidden state back as the next input, n times,
read what follows. It works with any base model that has embed, read and head, such as model.py's. Elsewhere: what is
fed back (feedback.py), what rows are made of (curriculum.py), what is scored (losses.py). In shapes,
    B  rows of a batch        P  tokens of the prefix (question <bot>)              C  width of the model
    V  vocabulary size        N  thoughts of the row that has most                  S  tokens of the suffix
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from feedback import make_feedback

MOST_VECTORS = 64  # thoughts with a vector of their own; all after them share the last one


@dataclass(kw_only=True)
class ThinkingConfig:
    """What a base model's config says about thinking."""

    feedback: str = "last"  # what is fed back as the next thought, a name of feedback.py
    thought_positions: str = "none"  # thoughts differ by their places only; "learned": by vectors, too
    stop: str = ""  # how a head that says when to stop thinking is trained; without one: ""
    passes: int = 0  # thoughts come all at once, in so many passes; 0: one after the other
    in_place: bool = False  # a pass makes thought i from its own states (LOTUS); else from those before (PCCoT)
    pause: int = 0  # the number of <pause>, as which all thoughts begin if there are passes
    # how to train it, no part of the model: no gradient goes into a row's thoughts but the last so many; None: all
    backprop_thoughts: int | None = None


class Thinking(NamedTuple):
    """What Coconut.think returns. A row with n < N thoughts has its own first; the rest means nothing."""

    fed: torch.Tensor  # (B, N, C) the thoughts: what was fed back
    n: torch.Tensor  # (B,) how many each row has
    layers: list  # the hidden states after the prefix, thought 1, ..., thought N, of each layer, (B, N+1, C)
    after: list  # those after each token of the suffix, of each layer, (B, S, C)
    predicting: torch.Tensor  # (B, S+1, C) those that predict suffix[:, 0], suffix[:, 1], ..., and what follows
    past: object  # for going on: what the model has read (model.Past)
    teacher: "Thinking | None" = None  # what was thought about Batch.teacher (losses.py)

    @property
    def states(self):
        """(B, N+1, C): of the last layer, from which the head predicts."""
        return self.layers[-1]

    def before(self, place):
        """The states, of each layer, (B, C), that predict suffix[:, place], for place (B,) int64."""
        row, inside = torch.arange(len(place), device=place.device), (place > 0)[:, None]
        pairs = zip(self.layers, self.after)
        return [torch.where(inside, after[row, place - 1], thought[row, self.n]) for thought, after in pairs]


class Coconut:
    """Thinking and writing, for a base model with embed, read and head."""

    # of its config, what is not the base model's
    SETTINGS = "feedback", "thought_positions", "stop", "passes", "in_place"
    OWN = "feedback.", "thought_vectors", "stop_head."  # how the parameters begin that a base model does not have

    def __init__(self, config):
        super().__init__(config)
        self.equip()

    def equip(self):
        """What thinking needs beside the base model, new, as the config says."""
        c = self.config
        self.feedback = make_feedback(c.feedback, c.n_embd, c.n_layer)
        self.stop_head = nn.Linear(c.n_embd, 1) if c.stop else None  # logit of the chance that thinking ends here
        if c.stop:
            nn.init.zeros_(self.stop_head.weight)
            nn.init.constant_(self.stop_head.bias, -2)  # at first it goes on, in seven of eight cases
        learned = c.thought_positions == "learned" or c.in_place  # added to the thoughts; they begin as nothing
        self.thought_vectors = nn.Parameter(torch.zeros(MOST_VECTORS, c.n_embd)) if learned else None

    def next_thoughts(self, states, first):
        """The thoughts number first, first + 1, ... (B, M, C) from the states before them, (B, M, C) of each layer."""
        return self.numbered(self.feedback(states, self), first)

    def numbered(self, thoughts, first=0):
        """Thoughts with their vectors added, if they have any."""
        if self.thought_vectors is None:
            return thoughts
        index = torch.arange(first, first + thoughts.size(1), device=thoughts.device)
        return thoughts + self.thought_vectors[index.clamp(max=MOST_VECTORS - 1)]

    def bare(self, thoughts):
        """Thoughts (N, C) of a row without what was added to them, <pause> and vectors: what the head can read."""
        thoughts = thoughts - self.numbered(torch.zeros_like(thoughts)[None])[0]
        pause = torch.tensor([[self.config.pause]], device=thoughts.device)
        return thoughts - self.embed(pause)[0] if self.config.in_place else thoughts

    def at_once(self, h, n, N, past):
        """N thoughts in parallel, (B, N, C), of which a row has n: passes times over, each from the ones before.

        PCCoT (2506.18582): all begin as <pause> tokens; then thought i comes from the states at thought i - 1, and the
        first from h, those at the end of the prefix, (B, 1, C). After N passes it is as if they had come in turn.
        LOTUS (2606.31779), in_place: each comes from its own states, added to what it began as.
        """
        real = torch.arange(N, device=n.device) < n[:, None]
        pause = self.embed(torch.full((1, 1), self.config.pause, device=n.device))
        thoughts = self.numbered(pause.expand(len(n), N, -1))
        for _ in range(self.config.passes):
            states, _ = self.read(thoughts, real, past)
            if self.config.in_place:
                thoughts = pause + self.next_thoughts(states, 0)
                continue
            before = [torch.cat((start, layer[:, :-1]), 1) for start, layer in zip(h, states)]
            thoughts = self.next_thoughts(before, 0)
        return thoughts

    def think(self, prefix, prefix_len, n_thoughts, suffix, suffix_real=None, given=None, past=None, may_stop=False):
        """Section 3 of the paper: read the prefix, think, read the suffix. Shapes as in forward.

        suffix_real (B, S) bool: which tokens of the suffix count; None: all. given (B, N, C): these are the thoughts,
        instead of the model's own (teacher forcing); all of them are read at once, without passes. past: go on from
        there. may_stop: a row ends its thinking, after n_thoughts at most, when the stop head has said so with a
        probability of 1/2.
        """
        B, device, m = prefix.size(0), prefix.device, self.config.backprop_thoughts
        n = torch.as_tensor(n_thoughts).expand(B)  # on the CPU, or a GPU would have to be waited for
        N, row = int(n.max()), torch.arange(B, device=device)
        n, n_cpu = n.to(device, non_blocking=True), n
        real = torch.arange(prefix.size(1), device=device) < prefix_len[:, None]
        suffix_real = torch.ones_like(suffix, dtype=torch.bool) if suffix_real is None else suffix_real

        h, past = self.read(self.embed(prefix), real, past)
        h = [layer[row, prefix_len - 1][:, None] for layer in h]  # (B, 1, C) each: at the last token of the prefix
        if self.config.passes and N and given is None:
            given = self.at_once(h, n, N, past)
        # fed: thoughts that have been read; unread (B, M, C): those that are read with the suffix, so that N thoughts
        # cost N + 1 passes: the last one, or all given ones
        fed, layers, unread, going_on = [], [h], h[-1][:, :0] if given is None else given, 1.0
        for i in range(N if given is None else 0):
            if may_stop:
                going_on = going_on * (1 - self.stop_head(h[-1])[:, 0, 0].sigmoid())  # (B,)
                n = n.where(going_on > 0.5, n.clamp(max=i))
                if int(n.max()) <= i:
                    break
            fed.append(self.next_thoughts(h, i))  # (B, 1, C): the hidden state *is* the next input
            if i == N - 1:
                unread = fed.pop()
                break
            real = (i < n)[:, None]
            h, past = self.read(fed[-1], real, past)
            if m is not None and torch.is_grad_enabled():
                h, past = cut_gradient(i < n_cpu - m, h, past)
            layers.append(h)
        fed, M = torch.cat((*fed, unread), 1), unread.size(1)
        N = fed.size(1)
        real = torch.arange(N - M, N, device=device) < n[:, None]  # (B, M)
        x, h = torch.cat((unread, self.embed(suffix)), 1), [unread[:, :0]] * len(h)  # (B, 0, C), if nothing is left
        if x.size(1):
            h, past = self.read(x, torch.cat((real, suffix_real), 1), past)
        layers = [torch.cat(several, 1) for several in zip(*layers, [layer[:, :M] for layer in h])]  # (B, N+1, C)
        after = [layer[:, M:] for layer in h]
        predicting = torch.cat((layers[-1][row, n][:, None], after[-1]), 1)  # its own last thought, then the suffix
        return Thinking(fed, n, layers, after, predicting, past)

    def forward(self, prefix, prefix_len, n_thoughts, suffix, labels=None):
        """Three segments in, loss out (paper section 3).

        prefix      (B, P) int64, right-padded: what is read before thinking; prefix_len (B,) its lengths, each >= 1
        n_thoughts  int or (B,) int64: continuous thoughts of each row; 0 is a plain GPT-2
        suffix      (B, S) int64, right-padded: what follows the thoughts
        labels      (B, S) int64: the token that suffix[:, j] should have been predicted as, -100 where not scored
        Returns (logits, loss). Without labels: logits (B, S, V), logits[:, j] predicting suffix[:, j] from all before
        it, and None. With labels: logits of the scored positions only, in row-major order, (number scored, V), and
        the mean cross-entropy over them, in nats per token. A row longer than block_size raises
        IndexError (on a GPU: a device-side assert).
        """
        if labels is None:
            return self.head(self.think(prefix, prefix_len, n_thoughts, suffix).predicting[:, :-1]), None
        thinking, scored = self.think(prefix, prefix_len, n_thoughts, suffix, counts(labels)), labels != -100
        logits = self.head(thinking.predicting[:, :-1][scored])  # the widest matrix of all: only where it is needed
        return logits, F.cross_entropy(logits, labels[scored])

    @torch.no_grad()
    def generate(self, prefix, prefix_len, n_thoughts, suffix=None, max_new_tokens=64, temperature=0.0, top_k=None,
                 eos=None, return_thoughts=False, given=None, may_stop=False):  # fmt: skip
        """Read the prefix, think, read the suffix (B, S) if there is one (such as <eot>), and write.

        temperature 0 takes the likeliest token, and each row is then independent of the others; above 0 tokens are
        drawn from softmax(logits / temperature), from the top_k likeliest if given. A row ends with the token eos, or
        when block_size is reached. Returns tokens (B, <= max_new_tokens) int64 with eos (0 if eos is None) in the
        places after a row's end; with return_thoughts also what each row has thought, a list of (n_b, C). See think for
        given and may_stop.
        """
        suffix = prefix[:, :0] if suffix is None else suffix
        thinking = self.think(prefix, prefix_len, n_thoughts, suffix, given=given, may_stop=may_stop)
        past, h = thinking.past, thinking.predicting[:, -1]  # h (B, C)
        B, nothing = len(prefix), 0 if eos is None else eos
        tokens = torch.full((B, max_new_tokens), nothing, device=prefix.device)
        writing, length = torch.arange(B, device=prefix.device), 0  # the rows that have not ended, and how far they are
        while length < max_new_tokens:
            token = draw(self.head(h), temperature, top_k)  # (B',) of the rows that are left
            tokens[writing, length] = token
            length += 1
            goes_on = (token != nothing if eos is not None else True) & (past.real.sum(1) < self.config.block_size)
            rows = goes_on.nonzero()[:, 0]
            if not len(rows) or length == max_new_tokens:
                break
            if len(rows) < len(writing):  # the others cost nothing any more
                past, writing, token = past.select(rows), writing[rows], token[rows]
            states, past = self.read(self.embed(token[:, None]), torch.ones_like(token[:, None]).bool(), past)
            h = states[-1][:, 0]
        tokens = tokens[:, :length]
        if not return_thoughts:
            return tokens
        return tokens, [thoughts[:n] for thoughts, n in zip(thinking.fed, thinking.n.tolist())]


def counts(labels):
    """Which tokens of a suffix count, (B, S) bool: what comes after the last scored one is padding; nobody sees it."""
    return (labels != -100).flip(1).cumsum(1).flip(1) > 0


def cut_gradient(rows, states, past):
    """The same states and past, but no gradient goes into what these rows (B,), bool on the CPU, have read last."""
    its_rows = rows.to(states[0].device, non_blocking=True)  # once, and a GPU is not waited for

    def cut(x):  # where() would keep the whole graph, even if nothing goes into it
        where = its_rows.view(-1, *[1] * (x.dim() - 1))
        return x.detach() if rows.all() else torch.where(where, x.detach(), x) if rows.any() else x

    past = past.map_layers(lambda passes: (*passes[:-1], tuple(map(cut, passes[-1]))))
    return [cut(x) for x in states], past


def draw(logits, temperature, top_k):
    """Tokens (B,) from logits (B, V), as generate says."""
    if temperature == 0:
        return logits.argmax(-1)
    if top_k is not None:
        least = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    logits = logits - logits.max(-1, keepdim=True).values  # at most 0, so that a small temperature makes none +infinite
    return torch.multinomial((logits / max(temperature, 1e-30)).softmax(-1), 1)[:, 0]
