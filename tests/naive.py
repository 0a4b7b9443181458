"""
More of the slow truth of test_latent.py: another base model, and thoughts that come all at once.

KINDS are the base models that tests/methods, tests/pretrained and tests/speed try.
"""

import math

import torch

import test_latent
from config import TrainConfig
from curriculum import config_class, make_model, make_objective
from model import GPT, GPTConfig
from pretrained.llama import Llama, LlamaConfig
from speed import fast
from test_latent import BLOCK, VOCAB, embeddings, enlarge, naive_gpt, naive_states
from tokenizer import PAUSE

KINDS = ["gpt2", "gpt2 fast", "llama", "llama fast"]
PAUSE_TOKEN = 3


class Tokenizer:
    """Of which methods ask for one token only."""

    def encode_single_token(self, name):
        assert name == PAUSE
        return PAUSE_TOKEN


def make_base(kind, n_layer=2):
    """A random base model; of a Llama's heads two share their keys, whose width is not that of all heads together."""
    sizes = {"n_layer": n_layer, "n_embd": 24, "block_size": BLOCK, "vocab_size": VOCAB}
    if "llama" not in kind:
        return GPT(GPTConfig(n_head=3, **sizes))
    sizes |= {"n_head": 4, "n_kv_head": 2, "head_dim": 10, "n_inner": 40, "rope_theta": 50.0}
    return Llama(LlamaConfig(qkv_bias=True, qk_norm=True, **sizes))


def make_objective_of(kind, cfg, dtype=torch.float64, seed=0, n_layer=2):
    """The Objective of a random model, all of whose weights are large enough to matter."""
    torch.manual_seed(seed)
    model = enlarge(make_model(make_base(kind, n_layer), cfg, Tokenizer()).to(dtype))
    if "fast" in kind:
        fast.speed_up(model)
    return make_objective(model, cfg, Tokenizer()).to(dtype).eval()


def maker_of_models(kind):
    """What test_latent's fixture `tiny` returns, for another kind of base model."""

    def make(feedback="last", **settings):
        return make_objective_of(kind, TrainConfig(feedback=feedback), **settings).model

    return make


def maker_of_objectives(kind):
    """Makes Objectives: make("simcot+seq_vcr", c_thought=2)."""

    def make(method, dtype=torch.float64, n_layer=2, **settings):
        settings["method"] = method
        return make_objective_of(kind, config_class(settings)(**settings), dtype, n_layer=n_layer)

    return make


def naive_llama(base, x, fixed):
    """test_latent.naive_states of a Llama: each head's keys are looked up, each pair of numbers is one complex one."""
    c, states = base.config, [x]

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + c.norm_eps).sqrt() * weight

    def linear(x, layer):
        return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)

    def turn(x):  # angles are computed in float32, as in transformers
        angle = torch.arange(len(x))[:, None] * (1 / c.rope_theta ** (torch.arange(0, c.head_dim, 2) / c.head_dim))
        z = torch.complex(*x.chunk(2, -1)) * torch.complex(angle.cos(), angle.sin())
        return torch.cat((z.real, z.imag), -1)

    causal = torch.ones(len(x), len(x), dtype=torch.bool).tril()
    free = torch.ones(len(x), 1, dtype=torch.bool)
    free[fixed] = False
    for block in base.layers:
        attn, u, heads = block.self_attn, norm(x, block.input_layernorm.weight), []
        for i in range(c.n_head):
            own, shared = (slice(j * c.head_dim, (j + 1) * c.head_dim) for j in (i, i * c.n_kv_head // c.n_head))
            q = turn(norm(linear(u, attn.q_proj)[:, own], attn.q_norm.weight))
            k = turn(norm(linear(u, attn.k_proj)[:, shared], attn.k_norm.weight))
            v = linear(u, attn.v_proj)[:, shared]
            k, v = torch.where(free, k, k.detach()), torch.where(free, v, v.detach())
            heads.append((q @ k.T / math.sqrt(c.head_dim)).masked_fill(~causal, -math.inf).softmax(-1) @ v)
        x = x + linear(torch.cat(heads, -1), attn.o_proj)
        u = norm(x, block.post_attention_layernorm.weight)
        gate = linear(u, block.mlp.gate_proj)
        x = x + linear(gate * gate.sigmoid() * linear(u, block.mlp.up_proj), block.mlp.down_proj)
        states.append(x)
    return [*states[:-1], norm(x, base.norm.weight)]


test_latent.NAIVE_BASES[Llama] = naive_llama


def naive_parallel(model, prefix, n, suffix, in_place=False):
    """What naive_row returns, of thoughts that come all at once: each pass reads everything anew.

    in_place: each thought is made again from its own state, and added to what it began as.
    """
    E, P = embeddings(model), len(prefix)
    starts = [E[PAUSE_TOKEN] + vector for vector in vectors_of(model, n)]
    thoughts = starts
    for _ in range(model.passes if n else 0):
        states = naive_states(model, torch.cat((E[prefix], torch.stack(thoughts))))
        if in_place:
            fed = [feed_back(model, states, P + i, i) for i in range(n)]
            thoughts = [start + thought for start, thought in zip(starts, fed)]
        else:
            thoughts = [feed_back(model, states, P + i - 1, i) for i in range(n)]
    x = torch.cat((E[prefix], *(thought[None] for thought in thoughts), E[suffix]))
    return naive_gpt(model, x)[P + n - 1 :] @ E.T, x[P : P + n]


def vectors_of(model, n):
    """What each of n thoughts begins with, besides <pause>."""
    own = [part.weight for part in model.feedback.parts if hasattr(part, "of")]
    own += [model.own.weight] if hasattr(model, "own") else []
    return [sum(weight[i] for weight in own) for i in range(n)]


def feed_back(model, states, place, i):
    """Thought number i, from the states (T, C) of each layer at a place."""
    return model.feedback([layer[place][None, None] for layer in states], model, i)[0, 0]


def naive_stops(model, prefix, n):
    """The chances to stop after 0, 1, ..., n thoughts, if it has not stopped before."""
    chances, E = [], embeddings(model)
    x = E[prefix]
    for _ in range(n + 1):
        h = naive_gpt(model, x)[-1:]
        chances.append((h @ model.stop_head.weight.T + model.stop_head.bias)[0, 0].sigmoid())
        x = torch.cat((x, h))
    return chances
