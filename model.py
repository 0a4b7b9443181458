"""
GPT-2, and the loop in which it thinks without words (Coconut, "Chain of Continuous Thought", arXiv 2412.06769).

In this order: plain GPT-2, which reads (GPT2); the method, which feeds hidden states back (Coconut); GPT is both. GPT2
knows nothing of thoughts, and Coconut nothing of GPT-2 but that it can embed, read and predict. Not here: what is fed
back (feedback.py), what a row of the training data is made of (curriculum.py), what is scored (losses.py). In shapes,
    B  rows of a batch            P  tokens of the prefix (question <bot>)      V  vocabulary size
    T  positions in one pass      N  thoughts of the row that has most          C  n_embd = nh * hs
    K  positions read so far      S  tokens of the suffix (<eot> steps answer)  nh, hs  heads and their size
"""

import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from feedback import make_feedback

# ---------------------------------------------------------------- GPT-2


@dataclass
class GPTConfig:
    """The defaults are OpenAI's smallest GPT-2 (124M parameters)."""

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    block_size: int = 1024  # positions that a row may use: prefix + thoughts + suffix
    vocab_size: int = 50257
    dropout: float = 0.0
    fixed_positions: bool = False  # sinusoids as position embeddings, which are not trained
    feedback: str = "last"  # what is fed back as the next thought: a name of feedback.py
    # how to train it: these three are no part of the model, and may be changed at any time
    gradient_checkpointing: bool = False  # compute activations again in the backward pass instead of keeping them
    backprop_thoughts: int | None = None  # no gradient goes into a row's thoughts but the last so many; None: all
    compile: bool = False  # torch.compile


class Past(NamedTuple):
    """What has been read. It is never changed, so it can be kept, forked, and read on from more than once."""

    real: torch.Tensor  # (B, K) bool: which positions count. Padding does not, nor a thought that a row does not have
    layers: tuple  # of each layer: (k, v) of each pass so far, (B, nh, T, hs)

    def map_layers(self, function):
        """The same, with function(((k, v), ...) of a layer) as its new passes."""
        return self._replace(layers=tuple(map(function, self.layers)))

    def select(self, rows):
        """The past of these rows, (M,) int64: some left out, or repeated."""
        return Past(self.real[rows], self.layers).map_layers(
            lambda passes: tuple((k[rows], v[rows]) for k, v in passes)
        )


class CausalSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x, mask, past=()):
        """x (B, T, C), and ((k, v), ...) of the passes before -> the same two, with this pass."""
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.n_head, -1).transpose(1, 2) for t in self.c_attn(x).split(C, 2))  # (B, nh, T, hs)
        past = self.remember(past, k, v)
        y = self.attend(q, past, mask).transpose(1, 2).reshape(B, T, C)  # heads side by side again
        return F.dropout(self.c_proj(y), self.dropout, self.training), past

    def remember(self, past, k, v):
        return (*past, (k, v))

    def attend(self, q, past, mask):
        """softmax(q k^T / sqrt(hs)) v over the keys of all passes; mask (B, 1, T, K) bool, None: plainly causal."""
        k, v = (torch.cat(passes, 2) for passes in zip(*past))  # (B, nh, K, hs)
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None)


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):
        x = F.gelu(self.c_fc(x), approximate="tanh")  # OpenAI's GELU; the exact one would change pretrained outputs
        return F.dropout(self.c_proj(x), self.dropout, self.training)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.mlp = MLP(config)

    def forward(self, x, mask, past=()):
        y, past = self.attn(self.ln_1(x), mask, past)
        x = x + y
        return x + self.mlp(self.ln_2(x)), past


@lru_cache
def compiled_block():
    """Block.__call__ for training, compiled once for all blocks and lengths."""
    torch._dynamo.config.recompile_limit = 32  # prefix, first and further thoughts, suffix: some variants of each
    return torch.compile(Block.__call__, dynamic=True)


def visible(real, T):
    """(B, 1, T, K) bool: the last T of K positions see what is real, up to their own place."""
    K = real.size(1)
    causal = torch.ones(T, K, dtype=torch.bool, device=real.device).tril(K - T)
    return (causal & real[:, None, :])[:, None]


class GPT2(nn.Module):
    """GPT-2 with OpenAI's parameter names. The output head is the token embedding itself (tied), so it has no name."""

    def __init__(self, config):
        super().__init__()
        if config.n_embd % config.n_head:
            raise ValueError(f"n_embd={config.n_embd} is not a multiple of n_head={config.n_head}")
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=1e-5)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.dim() == 2:  # projections into the residual stream start smaller, as 2 * n_layer of them add up
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * config.n_layer) if "c_proj" in name else 0.02)
        if config.fixed_positions:  # after Vaswani et al. 2017: wherever you are, one place on is the same rotation
            frequency = torch.exp(torch.linspace(0, -math.log(200), (config.n_embd + 1) // 2))  # 1, ..., 1/200
            angle = torch.arange(config.block_size)[:, None] * frequency  # 0.1: tokens start with 0.02, and grow to 0.2
            self.wpe.weight.data = 0.1 * torch.cat((angle.sin(), angle.cos()), 1)[:, : config.n_embd]
            self.wpe.weight.requires_grad_(False)

    def embed(self, tokens):
        """Tokens (B, T) -> input embeddings (B, T, C)."""
        return self.wte(tokens)

    def mix(self, weights):
        """Weights of tokens (..., V) -> the weighted sum of their embeddings (..., C)."""
        return weights @ self.wte.weight

    def head(self, h):
        """Hidden states after ln_f (..., C) -> logits over the next token (..., V)."""
        return F.linear(h, self.wte.weight)

    def read(self, x, real, past=None):
        """Read input embeddings x (B, T, C), of which real (B, T) bool count, as the continuation of a past.

        Rows are right-padded where there is no past yet. Returns (states, past): the hidden states as a list, of the
        input and after each block, (B, T, C) each, the last one after ln_f; where not real they mean nothing.
        """
        T, grad = x.size(1), torch.is_grad_enabled()
        seen = real if past is None else torch.cat((past.real, real), 1)  # (B, K)
        position = seen.cumsum(1)[:, -T:] - 1  # the row's own count of real positions
        mask = None if past is None else visible(seen, T)  # None: no query can see the padding, which comes later
        x = F.dropout(x + self.wpe(position.clamp(min=0)), self.config.dropout, self.training)
        states, layers = [x], []
        for i, block in enumerate(self.h):
            run = partial(compiled_block(), block) if self.config.compile and grad else block
            run = partial(checkpoint, run, use_reentrant=False) if self.config.gradient_checkpointing and grad else run
            x, passes = run(x, mask, () if past is None else past.layers[i])
            states.append(x)
            layers.append(passes)
        states[-1] = self.ln_f(x)
        return states, Past(seen, tuple(layers))


# ---------------------------------------------------------------- the method


class Thinking(NamedTuple):
    """What Coconut.think returns. A row with n < N thoughts has its own first; the rest means nothing."""

    fed: torch.Tensor  # (B, N, C) the thoughts: what was fed back
    states: torch.Tensor  # (B, N+1, C) the last hidden states: after the prefix, after thought 1, ..., thought N
    predicting: torch.Tensor  # (B, S+1, C) those that predict suffix[:, 0], suffix[:, 1], ..., and what follows
    past: Past  # for going on


class Coconut:
    """Thinking and writing, for a base model with embed, read, head, and `feedback`, which makes the next thought."""

    def think(self, prefix, prefix_len, n_thoughts, suffix, suffix_real=None, given=None, past=None):
        """Section 3 of the paper: read the prefix, think, read the suffix. Shapes as in forward.

        suffix_real (B, S) bool: which tokens of the suffix count; None: all. given (B, N, C): these are the thoughts,
        instead of the model's own (teacher forcing); all of them are read at once. past: go on from there.
        """
        B, device, m = prefix.size(0), prefix.device, self.config.backprop_thoughts
        n = torch.as_tensor(n_thoughts).expand(B)  # on the CPU, or a GPU would have to be waited for
        N, row = int(n.max()), torch.arange(B, device=device)
        n, n_cpu = n.to(device, non_blocking=True), n
        real = torch.arange(prefix.size(1), device=device) < prefix_len[:, None]
        suffix_real = torch.ones_like(suffix, dtype=torch.bool) if suffix_real is None else suffix_real

        h, past = self.read(self.embed(prefix), real, past)
        h = [layer[row, prefix_len - 1][:, None] for layer in h]  # (B, 1, C) each: at the last token of the prefix
        fed, states = [], [h[-1]]
        for i in range(N - 1 if given is None else 0):
            fed.append(self.feedback(h, self))  # (B, 1, C): the hidden state *is* the next input
            h, past = self.read(fed[-1], (i < n)[:, None], past)
            if m is not None and torch.is_grad_enabled():
                h, past = cut_gradient(i < n_cpu - m, h, past)
            states.append(h[-1])
        # the last thought is read together with the suffix, so that N thoughts cost N + 1 passes
        fed.append(self.feedback(h, self)[:, : min(N, 1)] if given is None else given)
        M, x, real = fed[-1].size(1), torch.cat((fed[-1], self.embed(suffix)), 1), suffix_real
        if M:
            real = torch.cat((torch.arange(N - M, N, device=device) < n[:, None], suffix_real), 1)
        last = x  # (B, 0, C) if there is nothing to read
        if x.size(1):
            h, past = self.read(x, real, past)
            last = h[-1]
        states = torch.cat((*states, last[:, :M]), 1)  # (B, N+1, C)
        predicting = torch.cat((states[row, n][:, None], last[:, M:]), 1)  # a row's own last thought, then the suffix
        return Thinking(torch.cat(fed, 1), states, predicting, past)

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
                 eos=None, return_thoughts=False):  # fmt: skip
        """Read the prefix, think, read the suffix (B, S) if there is one (such as <eot>), and write.

        temperature 0 takes the likeliest token, and each row is then independent of the others; above 0 tokens are
        drawn from softmax(logits / temperature), from the top_k likeliest if given. A row ends with the token eos, or
        when block_size is reached. Returns tokens (B, <= max_new_tokens) int64 with eos (0 if eos is None) in the
        places after a row's end; with return_thoughts also the thoughts that were fed back, (B, N, C), of which the
        first n_b are row b's.
        """
        suffix = prefix[:, :0] if suffix is None else suffix
        thoughts, _, h, past = self.think(prefix, prefix_len, n_thoughts, suffix)
        h, B, nothing = h[:, -1], prefix.size(0), 0 if eos is None else eos  # h (B, C)
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
        return (tokens, thoughts) if return_thoughts else tokens


def counts(labels):
    """Which tokens of a suffix count, (B, S) bool: what comes after the last scored one is padding; nobody sees it."""
    return (labels != -100).flip(1).cumsum(1).flip(1) > 0


def cut_gradient(rows, states, past):
    """The same states and past, but no gradient goes into what these rows (B,), bool on the CPU, have read last."""

    def stop(x):  # where() would keep the whole graph, even if nothing goes into it
        where = rows.to(x.device).view(-1, *[1] * (x.dim() - 1))
        return x.detach() if rows.all() else torch.where(where, x.detach(), x) if rows.any() else x

    past = past.map_layers(lambda passes: (*passes[:-1], tuple(map(stop, passes[-1]))))
    return [stop(x) for x in states], past


def draw(logits, temperature, top_k):
    """Tokens (B,) from logits (B, V), as generate says."""
    if temperature == 0:
        return logits.argmax(-1)
    if top_k is not None:
        least = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    return torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0]


class GPT(Coconut, GPT2):
    """GPT-2 that can think: `model(prefix, prefix_len, n_thoughts, suffix, labels)` and `model.generate(...)`."""

    def __init__(self, config):
        super().__init__(config)
        self.feedback = make_feedback(config.feedback, config.n_embd)

    @classmethod
    def from_pretrained(cls, source, dropout=0.0):
        """A GPT with weights from elsewhere, such as "gpt2"; weights.py says what else source may be."""
        from weights import load_gpt  # which makes a GPT, and so imports this file

        return load_gpt(source, dropout)

    def grow_vocab(self, vocab_size, like=None):
        """Make room for vocab_size tokens. New ones start as copies of token `like`, or as the mean of all."""
        old = self.wte.weight.detach()
        new = (old.mean(0) if like is None else old[like]).expand(max(0, vocab_size - len(old)), -1)
        self.wte = nn.Embedding.from_pretrained(torch.cat((old, new)), freeze=False)
        self.config.vocab_size = len(self.wte.weight)
