"""
GPT-2 that can think without words (Coconut, "Chain of Continuous Thought", Hao et al. 2024, arXiv 2412.06769).

The GPT-2 of OpenAI, and the latent loop that feeds the last hidden state back as the next input embedding; its keys
and values are kept in cache.py. There is nothing to run in this file; read it top to bottom. In the shapes,
    B  rows of a batch            P  tokens of the prefix (question <bot>)      V  vocabulary size
    T  positions in one pass      N  thoughts of the row that has most          C  n_embd = nh * hs
    K  positions in the cache     S  tokens of the suffix (<eot> steps answer)  nh, hs  heads and their size
"""

import math
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cache import KVCache
from config import UserError
from weights import is_projection, read_weights


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
    # how to train it: these three are no part of the model, and may be changed at any time
    gradient_checkpointing: bool = False  # compute activations again in the backward pass instead of keeping them
    backprop_thoughts: int | None = None  # no gradient goes into a row's thoughts but the last so many; None: all
    compile: bool = False  # torch.compile

    def __post_init__(self):
        if self.n_embd % self.n_head:
            raise UserError(f"n_embd={self.n_embd} is not a multiple of n_head={self.n_head}")


def pick(x, only):
    """Of x (B, T, ...) each row's position only (B,), as (B, 1, ...)."""
    return x[torch.arange(len(x), device=x.device), only][:, None]


class CausalSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x, cache, mask, only=None):
        B, T, C = x.shape
        qkv = cache.linear(self.c_attn, x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, nh, T, hs)
        if only is not None:
            q, T = pick(q.transpose(1, 2), only).transpose(1, 2), 1
        y = cache.attend(q, k, v, mask, self.dropout if self.training else 0.0)
        y = y.transpose(1, 2).reshape(B, T, C)  # heads side by side again
        return F.dropout(cache.linear(self.c_proj, y), self.dropout, self.training)


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x, cache):
        x = cache.linear(self.c_fc, x)
        x = F.gelu(x, approximate="tanh")  # OpenAI's GELU; the exact one would change pretrained outputs
        return F.dropout(cache.linear(self.c_proj, x), self.dropout, self.training)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=1e-5)
        self.mlp = MLP(config)

    def forward(self, x, cache, mask, only=None):
        x = (x if only is None else pick(x, only)) + self.attn(self.ln_1(x), cache, mask, only)
        return x + self.mlp(self.ln_2(x), cache)


def checkpointed(run, block, x, layer, mask, only=None):
    """run(block, x, layer, mask, only), of which only x and the keys and values are kept for the backward pass."""
    before = layer.copy()  # it runs twice, but each time with the cache as it is now

    def run_copy(x):
        after = before.copy()
        return run(block, x, after, mask, only), after

    x, after = checkpoint(run_copy, x, use_reentrant=False)
    layer.__dict__.update(after.__dict__)
    return x


@lru_cache
def compiled_block():
    """Block.__call__ for training, compiled once for all blocks and lengths."""
    torch._dynamo.config.recompile_limit = 32  # prefix, first and further thoughts, suffix, last block: seven at least
    return torch.compile(Block.__call__, dynamic=True)


class GPT(nn.Module):
    """GPT-2 with OpenAI's parameter names. The output head is the token embedding itself (tied), so it has no name."""

    def __init__(self, config):
        super().__init__()
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

    @classmethod
    def from_pretrained(cls, source, dropout=0.0):
        """A GPT with weights from elsewhere, such as "gpt2"; weights.py says what else source may be.

        Its config follows from the tensors' shapes. UserError if they are not exactly those of a GPT-2.
        """
        tensors, shape = read_weights(source)
        with torch.device("meta"):  # shapes only: the values come from the file
            model = cls(GPTConfig(**shape, dropout=dropout))
        tensors = {k: (t.T if is_projection(k) else t).contiguous().float() for k, t in tensors.items()}
        ours = model.state_dict()
        wrong = [f"no {k}" for k in ours if k not in tensors] + [f"unknown {k}" for k in tensors if k not in ours]
        wrong += [f"{k} is {[*t.shape]}" for k, t in tensors.items() if k in ours and t.shape != ours[k].shape]
        if wrong:
            raise UserError(f"{source}: not the weights of a GPT-2: {', '.join(wrong[:5])}{', ...' * (len(wrong) > 5)}")
        model.load_state_dict(tensors, assign=True)
        return model

    def grow_vocab(self, vocab_size, like=None):
        """Make room for vocab_size tokens. New ones start as copies of token `like`, or as the mean of all."""
        old = self.wte.weight.detach()
        new = (old.mean(0) if like is None else old[like]).expand(max(0, vocab_size - len(old)), -1)
        self.wte = nn.Embedding.from_pretrained(torch.cat((old, new)), freeze=False)
        self.config.vocab_size = len(self.wte.weight)

    def head(self, h):
        """Hidden states (..., C) -> logits over the next token (..., V)."""
        return F.linear(h, self.wte.weight)

    def read(self, x, real, cache, only=None):
        """Read input embeddings x (B, T, C) as the continuation of what the cache holds.

        real (B, T) bool says which of them count. The first call's rows are right-padded, with at least one real
        position each. Returns the hidden states after ln_f, (B, T, C); where not real they mean nothing. If only one
        state of each row is wanted, the last real one, say where: only (B,) gives (B, 1, C) and saves most of a block.
        """
        T, past = x.size(1), cache.real
        K = T if past is None else past.size(1) + T
        cache.real = real if past is None else torch.cat((past, real), 1)  # (B, K)
        position = cache.real.cumsum(1)[:, K - T :] - 1  # the row's own count of real positions
        x = x + self.wpe(position)
        x = F.dropout(x, self.config.dropout, self.training)
        mask = None  # at first, causal attention is enough: right padding comes after everything real
        if past is not None:  # later, query i sees the keys up to its own place, K - T + i, if they are real
            causal = torch.ones(T, K, dtype=torch.bool, device=x.device).tril(K - T)
            mask = (causal & cache.real[:, None, :])[:, None]  # (B, 1, T, K)
        grad = torch.is_grad_enabled()
        run = compiled_block() if self.config.compile and grad else Block.__call__
        run = partial(checkpointed, run) if self.config.gradient_checkpointing and grad else run
        for block, layer in zip(self.h[:-1], cache.layers):
            x = run(block, x, layer, mask)
        if only is not None:  # in the last block the other positions are no more than keys and values
            mask = cache.real[:, None, None]  # (B, 1, 1, K)
        return self.ln_f(run(self.h[-1], x, cache.layers[-1], mask, only))

    def think(self, prefix, prefix_len, n_thoughts, suffix, suffix_real, room=0):
        """The method: read the prefix, think, read the suffix. Shapes as in forward; room: positions read later on.

        Returns
        - the thoughts that were fed back, (B, N, C), of which the first n_b are row b's;
        - the hidden states (B, S+1, C) that predict suffix[:, 0], suffix[:, 1], ..., and what follows the suffix;
        - the cache, for going on.
        """
        B, P = prefix.shape
        row = torch.arange(B, device=prefix.device)
        n_cpu = torch.as_tensor(n_thoughts).expand(B).cpu()  # (B,); what decides here must not wait for a GPU
        N, n, m = int(n_cpu.max()), n_cpu.to(prefix.device), self.config.backprop_thoughts
        cache = KVCache(self.config.n_layer, size=P + N + suffix.size(1) + room)
        real = torch.arange(P, device=prefix.device) < prefix_len[:, None]
        states = [self.read(self.wte(prefix), real, cache, only=prefix_len - 1)[:, 0]]  # (B, C)
        for i in range(N - 1):
            h = self.read(states[-1][:, None], (i < n)[:, None], cache)  # the hidden state *is* the next input
            if m is not None:
                h = cache.detach(i < n_cpu - m, h)
            states.append(h[:, 0])
        x, real = self.wte(suffix), suffix_real
        if N > 0:  # the last thought shares the suffix's pass, so that N thoughts cost N + 1 passes
            x = torch.cat((states[-1][:, None], x), 1)
            real = torch.cat(((N - 1 < n)[:, None], real), 1)
        h = self.read(x, real, cache) if x.size(1) else x  # (B, S+1, C), or (B, S, C) if N = 0
        if N > 0:
            states.append(h[:, 0])
            h = h[:, 1:]
        states = torch.stack(states, 1)  # (B, N+1, C): what follows the prefix, thought 1, ..., thought N
        # a row with n < N thoughts ends with states[n]; those after it are its neighbours' business, and masked
        return states[:, :N], torch.cat((states[row, n][:, None], h), 1), cache

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
            suffix_real = torch.ones_like(suffix, dtype=torch.bool)
        else:  # whatever comes after the last scored token is padding: nothing that is scored can see it
            suffix_real = (labels != -100).flip(1).cumsum(1).flip(1) > 0
        _, h, _ = self.think(prefix, prefix_len, n_thoughts, suffix, suffix_real)
        h = h[:, :-1]  # (B, S, C): what follows the suffix is not asked for
        if labels is None:
            return self.head(h), None
        scored = labels != -100
        logits = self.head(h[scored])  # the head is the widest matrix of all: use it only where it is needed
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
        if suffix is None:
            suffix = prefix[:, :0]
        suffix_real = torch.ones_like(suffix, dtype=torch.bool)
        thoughts, h, cache = self.think(prefix, prefix_len, n_thoughts, suffix, suffix_real, room=max_new_tokens)
        h = h[:, -1]  # (B, C)
        B, nothing = prefix.size(0), 0 if eos is None else eos
        tokens = torch.full((B, max_new_tokens), nothing, device=prefix.device)
        writing, length = torch.arange(B, device=prefix.device), 0  # the rows that have not ended, and how far they are
        while length < max_new_tokens:
            logits = self.head(h)  # (B', V) of the rows that are left
            if temperature == 0:
                token = logits.argmax(-1)
            else:
                if top_k is not None:
                    least = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]
                    logits = logits.masked_fill(logits < least, -math.inf)
                token = torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0]
            tokens[writing, length] = token
            length += 1
            goes_on = (token != nothing if eos is not None else True) & (cache.real.sum(1) < self.config.block_size)
            rows = goes_on.nonzero()[:, 0]
            if not len(rows) or length == max_new_tokens:
                break
            if len(rows) < len(writing):  # the others cost nothing any more
                cache.select(rows)
                writing, token = writing[rows], token[rows]
            h = self.read(self.wte(token)[:, None], torch.ones_like(token, dtype=torch.bool)[:, None], cache)[:, 0]
        tokens = tokens[:, :length]
        return (tokens, thoughts) if return_thoughts else tokens
