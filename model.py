"""
GPT-2, as plain as nanoGPT's, but that what has been read can be passed in and out: keys and values of the past.

The class GPT2 reads: it knows nothing of thoughts. GPT is a GPT2 that can think, by the loop in coconut.py. In shapes,
    B  rows of a batch        T  positions in one pass      V  vocabulary size       C  n_embd = nh * hs
                              K  positions read so far      nh, hs  heads and their size
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from coconut import Coconut, ThinkingConfig
from pretrained.weights import load, read_weights


@dataclass
class GPTConfig(ThinkingConfig):
    """The defaults are OpenAI's smallest GPT-2 (124M parameters)."""

    model = "gpt2"  # no field: what settings.py calls it
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    block_size: int = 1024  # positions that a row may use: prefix + thoughts + suffix
    vocab_size: int = 50257
    dropout: float = 0.0
    gradient_checkpointing: bool = False  # training: compute activations again instead of keeping them


class Past(NamedTuple):
    """What has been read. It is never changed, so it can be kept, forked, and read on from more than once."""

    real: torch.Tensor  # (B, K) bool: which positions count. Padding does not, nor a thought that a row does not have
    layers: tuple  # of each layer: (k, v) of each pass so far, (B, nh, T, hs)

    def map_layers(self, function):
        """The same, with function(((k, v), ...) of a layer) as its new passes."""
        return self._replace(layers=tuple(map(function, self.layers)))

    def select(self, rows):
        """The past of these rows, (M,) int64: some left out, or repeated."""
        fork = self.map_layers(lambda passes: tuple((k[rows], v[rows]) for k, v in passes))
        return fork._replace(real=self.real[rows])

    def repeat(self, times):
        """Each row so many times. Their keys and values stand there once, (B / times, nh, T, hs): see attend."""
        return self._replace(real=self.real.repeat_interleave(times, 0))


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
        past = (*past, (k, v))
        y = self.attend(q, past, mask).transpose(1, 2).reshape(B, T, C)  # heads side by side again
        return F.dropout(self.c_proj(y), self.dropout, self.training), past

    def attend(self, q, past, mask):
        """softmax(q k^T / sqrt(hs)) v over the keys of all passes; mask (B, 1, T, K) bool, None: plainly causal."""
        past = [[x.repeat_interleave(len(q) // len(x), 0) if len(x) < len(q) else x for x in kv] for kv in past]
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


def place(real, past):
    """(which of all positions count, (B, K); the numbers of the new ones, (B, T), counting only those that do).

    real (B, T): which of the T new ones count.
    """
    seen = real if past is None else torch.cat((past.real, real), 1)
    number = seen.cumsum(1)[:, seen.size(1) - real.size(1) :] - 1
    return seen, number.clamp(min=0)


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
        input and after each block, (B, T, C), the last after ln_f; where not real they mean nothing.
        """
        T, recompute = x.size(1), self.config.gradient_checkpointing and torch.is_grad_enabled()
        seen, position = place(real, past)
        mask = None if past is None else visible(seen, T)  # None: no query can see the padding, which comes later
        x = F.dropout(x + self.wpe(position), self.config.dropout, self.training)
        states, layers = [x], []
        for i, block in enumerate(self.h):
            run = partial(checkpoint, block, use_reentrant=False) if recompute else block
            x, passes = run(x, mask, () if past is None else past.layers[i])
            states.append(x)
            layers.append(passes)
        states[-1] = self.ln_f(x)
        return states, Past(seen, tuple(layers))


class GPT(Coconut, GPT2):
    """GPT-2 that can think: `model(prefix, prefix_len, n_thoughts, suffix, labels)` and `model.generate(...)`."""

    @classmethod
    def from_pretrained(cls, source, dropout=0.0):
        """A GPT with weights from elsewhere, such as "gpt2"; pretrained/weights.py says what else source may be.

        Its config follows from the tensors' shapes. UserError if they are not those of a GPT-2.
        """
        tensors, shape = read_weights(source)
        with torch.device("meta"):  # shapes only: the values come from the file
            model = cls(GPTConfig(**shape, dropout=dropout))
        return load(model, tensors)

    def grow_vocab(self, vocab_size, like=None):
        """Make room for vocab_size tokens. New ones start as copies of token `like`, or as the mean of all."""
        old = self.wte.weight.detach()
        new = (old.mean(0) if like is None else old[like]).expand(max(0, vocab_size - len(old)), -1)
        self.wte = nn.Embedding.from_pretrained(torch.cat((old, new)), freeze=False)
        self.config.vocab_size = len(self.wte.weight)
