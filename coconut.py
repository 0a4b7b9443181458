"""
The method: a language model that thinks without words (Coconut, "Chain of Continuous Thought", arXiv 2412.06769).

    model = Coconut(GPT(config))          # or around any base with embed, mix, head, read, config, as model.py's GPT

Coconut.think is section 3 of the paper: read the question, feed the last hidden state back as the next input, n times,
read what follows. Elsewhere: what is fed back (feedback.py), what is trained (curriculum.py). In the shapes,
    B  rows of a batch        P  tokens of the prefix (question <bot>)              C  width of the model
    V  vocabulary size        N  thoughts of the row that has most                  S  tokens of the suffix
"""

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from feedback import make_feedback


class Thinking(NamedTuple):
    """What Coconut.think returns. A row with n < N thoughts has its own first; the rest means nothing.

    That is, of N thoughts those count where torch.arange(N) < n[:, None].
    """

    fed: torch.Tensor  # (B, N, C) the thoughts: what was fed back
    n: torch.Tensor  # (B,) how many each row has
    layers: list  # the hidden states after the prefix, thought 1, ..., thought N, of each layer, (B, N+1, C)
    after: list  # those after each token of the suffix, of each layer, (B, S, C)
    predicting: torch.Tensor  # (B, S+1, C) those that predict suffix[:, 0], suffix[:, 1], ..., and what follows
    past: object  # for going on: what the model has read (model.Past)

    @property
    def states(self):
        """(B, N+1, C): of the last layer, from which the head predicts."""
        return self.layers[-1]


class Coconut(nn.Module):
    """A base model that can think and write."""

    may_stop = False  # whether generate() lets it end its thinking before the n thoughts that it is given

    def __init__(self, base, feedback="last"):
        super().__init__()
        self.base, self.config = base, base.config
        self.feedback = make_feedback(feedback, base.config.n_embd, base.config.n_layer)

    def embed(self, tokens):
        return self.base.embed(tokens)

    def mix(self, weights):
        return self.base.mix(weights)

    def head(self, h):
        return self.base.head(h)

    def read(self, x, real=None, past=None):
        return self.base.read(x, real, past)

    def bare(self, thoughts):
        """Thoughts (N, C) of a row without what has been added to them in any case: what the head can read."""
        return thoughts - self.feedback.vectors(0, len(thoughts))

    def make_thoughts(self, h, n, past):
        """The thoughts that follow h, the states at the end of the question, (B, 1, C) of each layer.

        Row b has n[b] of them; n (B,) is on the CPU, since the number of passes depends on it, and a GPU would have to
        be waited for. Returns (thoughts (B, N, C), n, [h, the states at thought 1, ...], past). The last thought has
        not been read yet: that is done together with the suffix, so N thoughts cost N + 1 passes.
        """
        N, n = int(n.max()), n.to(h[-1].device, non_blocking=True)
        fed, places = [h[-1][:, :0]], [h]  # (B, 0, C): for torch.cat, if nobody thinks
        for i in range(N):
            # No detach: the loss reaches back through every thought. To cut it off, detach h here, and its keys and
            # values in the past (methods/cut.py).
            fed.append(self.feedback(h, self, i))  # (B, 1, C): the hidden state *is* the next input
            if i < N - 1:
                h, past = self.read(fed[-1], (i < n)[:, None], past)
                places.append(h)
        return torch.cat(fed, 1), n, places, past

    def think(self, prefix, prefix_len, n, suffix, suffix_real=None, given=None, past=None):
        """Section 3 of the paper: read the prefix, think, read the suffix. Shapes as in forward.

        suffix_real (B, S) bool: which tokens of the suffix count; None: all. given (B, N, C): these are the thoughts,
        instead of the model's own. past: go on from there.
        """
        B, device = len(prefix), prefix.device
        row = torch.arange(B, device=device)
        n = torch.as_tensor(n).expand(B)
        if suffix_real is None:
            suffix_real = torch.ones_like(suffix, dtype=torch.bool)

        # 1. Read the question.
        prefix_real = torch.arange(prefix.size(1), device=device) < prefix_len[:, None]  # (B, P)
        states, past = self.read(self.embed(prefix), prefix_real, past)
        h = [layer[row, prefix_len - 1][:, None] for layer in states]  # (B, 1, C) each: at each row's last token

        # 2. Think.
        if given is None:
            fed, n, places, past = self.make_thoughts(h, n, past)
        else:
            fed, n, places = given, n.to(device, non_blocking=True), [h]

        # 3. Read what follows: the thoughts that have not been read yet, then the suffix.
        n_read, N = len(places) - 1, fed.size(1)
        M = N - n_read
        real = torch.arange(n_read, N, device=device) < n[:, None]  # (B, M)
        x = torch.cat((fed[:, n_read:], self.embed(suffix)), 1)  # (B, M+S, C)
        states = [x] * len(h)  # if nothing is left to be read: x is (B, 0, C), and so are they
        if x.size(1) > 0:
            states, past = self.read(x, torch.cat((real, suffix_real), 1), past)
        places.append([layer[:, :M] for layer in states])
        layers = [torch.cat(layer, 1) for layer in zip(*places)]  # (B, N+1, C) each
        after = [layer[:, M:] for layer in states]  # (B, S, C) each
        own = layers[-1][row, n][:, None]  # (B, 1, C): at the row's own last thought
        return Thinking(fed, n, layers, after, torch.cat((own, after[-1]), 1), past)

    def forward(self, prefix, prefix_len, n, suffix, labels=None):
        """Three segments in, loss out (paper section 3).

        prefix      (B, P) int64, right-padded: what is read before thinking; prefix_len (B,) its lengths, each >= 1
        n           int or (B,) int64, on the CPU: continuous thoughts of each row; 0 is a plain GPT-2
        suffix      (B, S) int64, right-padded: what follows the thoughts
        labels      (B, S) int64: the token that suffix[:, j] should have been predicted as, -100 where not scored
        Returns (logits, loss). Without labels: logits (B, S, V), logits[:, j] predicting suffix[:, j] from all before
        it, and None. With labels: logits of the scored positions only, in row-major order, (number scored, V), and
        the mean cross-entropy over them, in nats per token. A row longer than block_size raises
        IndexError (on a GPU: a device-side assert).
        """
        if labels is None:
            return self.head(self.think(prefix, prefix_len, n, suffix).predicting[:, :-1]), None
        logits, nats = self.ce(self.think(prefix, prefix_len, n, suffix, up_to_last(labels)), labels)
        return logits, nats / len(logits)

    def ce(self, thinking, labels):
        """(logits of the scored places, (number scored, V); their cross-entropy, summed, in nats)."""
        scored = labels != -100
        logits = self.head(thinking.predicting[:, :-1][scored])  # the widest matrix of all: only where it is needed
        return logits, F.cross_entropy(logits, labels[scored], reduction="sum")

    @torch.no_grad()
    def generate(self, prefix, prefix_len, n, suffix=None, max_new_tokens=64, return_thoughts=False, given=None, **how):
        """Read the prefix, think, read the suffix (B, S) if there is one (such as <eot>), and write, as `write` says.

        Returns tokens (B, <= max_new_tokens) int64; with return_thoughts also what each row has thought, a list of
        (n_b, C). given: as in think.
        """
        thinking = self.think(prefix, prefix_len, n, prefix[:, :0] if suffix is None else suffix, given=given)
        tokens = self.write(thinking, max_new_tokens, **how)
        if not return_thoughts:
            return tokens
        return tokens, [thoughts[:n] for thoughts, n in zip(thinking.fed, thinking.n.tolist())]

    def write(self, thinking, max_new_tokens, temperature=0.0, top_k=None, eos=None):
        """The tokens that follow what has been thought, (B, <= max_new_tokens) int64.

        temperature 0 takes the likeliest token, and each row is then independent of the others; above 0 tokens are
        drawn from softmax(logits / temperature), from the top_k likeliest if given. A row ends with the token eos, or
        when block_size is reached; in the places after its end stands eos (0 if eos is None).
        """
        past, h = thinking.past, thinking.predicting[:, -1]  # h (B, C)
        tokens = torch.full((len(h), max_new_tokens), eos or 0, device=h.device)
        writing = torch.arange(len(h), device=h.device)  # the rows that have not ended
        for i in range(max_new_tokens):
            token = choose(self.head(h), temperature, top_k)  # (B',) of the rows that are left
            tokens[writing, i] = token
            goes_on = past.real.sum(1) < self.config.block_size
            if eos is not None:
                goes_on = goes_on & (token != eos)
            rows = goes_on.nonzero()[:, 0]
            if len(rows) == 0 or i == max_new_tokens - 1:
                return tokens[:, : i + 1]
            if len(rows) < len(writing):  # the others cost nothing any more
                past, writing, token = past.select(rows), writing[rows], token[rows]
            states, past = self.read(self.embed(token[:, None]), past=past)
            h = states[-1][:, 0]
        return tokens


def up_to_last(labels):
    """Which tokens of a suffix are to be read, (B, S) bool: those up to the last scored one; the rest is padding."""
    return (labels != -100).flip(1).cumsum(1).flip(1) > 0


def choose(logits, temperature, top_k):
    """Tokens (B,) from logits (B, V), as generate says."""
    if temperature == 0:
        return logits.argmax(-1)
    if top_k is not None:
        least = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    logits = logits - logits.max(-1, keepdim=True).values  # at most 0, so that a small temperature makes none +infinite
    return torch.multinomial((logits / max(temperature, 1e-30)).softmax(-1), 1)[:, 0]
