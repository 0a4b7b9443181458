"""
The Llama family as a second base model: Llama, SmolLM2, Mistral, Qwen2.5, Qwen3. embed, read, head as in model.py.

    model = Llama.from_pretrained("smollm2-135m")    (or qwen2.5-0.5b, qwen3-0.6b, hf:owner/name, a folder)

What differs from GPT-2: RMSNorm instead of LayerNorm, positions are rotations of queries and keys instead of something
that is added to the input, several query heads share the keys and values of one head, the MLP is a gated one, and few
biases are left. The parameters' names are those in Hugging Face's files, without their "model.". In the shapes,
    B  rows of a batch          C   n_embd                           nh  query heads
    T  positions in one pass    hs  head_dim, not always C / nh      ng  n_kv_head: heads of keys and values
    K  positions read so far    V   vocabulary size
"""

import math
import sys
from dataclasses import dataclass, fields

import torch
from torch import nn
from torch.nn import functional as F

from config import UserError, option
from model import Past, fill, visible
from pretrained.hub import find, one_line, read, refuse, some, unwrap


@dataclass
class LlamaConfig:
    """The defaults are those of SmolLM2-135M."""

    n_layer: int = 30
    n_head: int = 9
    n_kv_head: int = 3  # n_head / n_kv_head query heads share keys and values; 0: each has its own
    head_dim: int = 64  # 0: n_embd / n_head
    n_embd: int = 576
    n_inner: int = 1536  # the MLP's width; 0: 8/3 n_embd, which makes its three matrices as large as GPT-2's two
    block_size: int = 8192  # positions that a row may use; no weight depends on it
    vocab_size: int = 49152
    rope_theta: float = 1e5  # the slowest rotation turns once in about 2 pi rope_theta positions
    rope_scaling: dict | None = None  # Llama 3.1's, {name in SCALING: number}: see stretch()
    norm_eps: float = 1e-5
    qkv_bias: bool = False  # Qwen2.5
    qk_norm: bool = False  # Qwen3
    tie: bool = True  # the output head is the token embedding
    dropout: float = 0.0

    def __post_init__(self):
        self.n_kv_head = self.n_kv_head or self.n_head
        self.head_dim = self.head_dim or self.n_embd // self.n_head
        self.n_inner = self.n_inner or 8 * self.n_embd // 3
        if self.n_head % self.n_kv_head:
            raise UserError(f"n_head={self.n_head} is not a multiple of n_kv_head={self.n_kv_head}")
        if self.head_dim % 2:
            raise UserError(f"head_dim={self.head_dim} is odd, but its halves are rotated together")


def rotate(x, cos, sin):
    """x (B, heads, T, hs), turned by its positions' angles, whose cos and sin are (B, 1, T, hs/2).

    Element i and element i + hs/2 are a point in the plane (as in Hugging Face's files; the paper has 2i and 2i + 1).
    """
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).type_as(x)


def stretch(frequency, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    """Llama 3.1's frequencies (hs/2,) for a context longer than the original one, `factor` times at most.

    Rotations that turn less than low_freq_factor times within the original context are slowed down by the factor, those
    that turn more than high_freq_factor times stay, and between the two it is a mixture.
    """
    turns = original_max_position_embeddings * frequency / (2 * math.pi)
    quick = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
    return quick * frequency + (1 - quick) * frequency / factor


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean of x^2 + eps) * weight, over the last dimension."""

    def forward(self, x):  # under autocast x may be bfloat16: only with a weight like it is there one fast kernel
        return F.rms_norm(x, self.normalized_shape, self.weight.type_as(x), self.eps)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.head_dim, self.dropout = config.head_dim, config.dropout
        wide, narrow = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
        self.q_proj = nn.Linear(config.n_embd, wide, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.n_embd, narrow, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.n_embd, narrow, bias=config.qkv_bias)
        self.o_proj = nn.Linear(wide, config.n_embd, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x, cos, sin, mask, past=()):
        B, T, _ = x.shape
        q, k, v = (proj(x).view(B, T, -1, self.head_dim) for proj in (self.q_proj, self.k_proj, self.v_proj))
        q = rotate(self.q_norm(q).transpose(1, 2), cos, sin)  # (B, nh, T, hs)
        k = rotate(self.k_norm(k).transpose(1, 2), cos, sin)  # (B, ng, T, hs)
        past = (*past, (k, v.transpose(1, 2)))
        y = self.attend(q, past, mask).transpose(1, 2).reshape(B, T, -1)  # heads side by side again
        return F.dropout(self.o_proj(y), self.dropout, self.training), past

    def attend(self, q, past, mask):
        """softmax(q k^T / sqrt(hs)) v over the keys of all passes, each for nh / ng heads of q; mask as in model.py."""
        k, v = (torch.cat(passes, 2) for passes in zip(*past))  # (B, ng, K, hs)
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None, enable_gqa=True)


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dropout = config.dropout
        self.gate_proj = nn.Linear(config.n_embd, config.n_inner, bias=False)
        self.up_proj = nn.Linear(config.n_embd, config.n_inner, bias=False)
        self.down_proj = nn.Linear(config.n_inner, config.n_embd, bias=False)

    def forward(self, x):
        x = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # SwiGLU
        return F.dropout(x, self.dropout, self.training)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.input_layernorm = RMSNorm(config.n_embd, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.n_embd, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x, cos, sin, mask, past=()):
        y, past = self.self_attn(self.input_layernorm(x), cos, sin, mask, past)
        x = x + y
        return x + self.mlp(self.post_attention_layernorm(x)), past


class Llama(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.n_embd, config.norm_eps)
        if not config.tie:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.dim() == 2:  # projections into the residual stream start smaller, as 2 * n_layer of them add up
                residual = "o_proj" in name or "down_proj" in name
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * config.n_layer) if residual else 0.02)

    @classmethod
    def from_pretrained(cls, source, dropout=0.0):
        """A model with weights from elsewhere: a folder, hf:owner/name[@revision], or a name such as "qwen3-0.6b".

        Its sizes are those of config.json. UserError if that asks for something that is not computed here, or if the
        tensors are not exactly those of such a model.
        """
        found, config, where = read(source)
        if where == source:
            raise UserError(f"{source}: no config.json beside the weights, which do not tell everything")
        sizes = read_sizes(config, where)
        with one_line(source, found, "the model that config.json describes"):
            tensors, others = unwrap(found, "layers.0.input_layernorm.weight", "embed_tokens.weight", sizes["tie"])
            with torch.device("meta"):  # shapes only: the values come from the file
                model = cls(LlamaConfig(**sizes, dropout=dropout))
            fill(model, tensors, source)
        if others:
            print(f"{source}: left out, since a Llama has no such parts: {some(others)}", file=sys.stderr)
        return model

    @property
    def h(self):
        """The blocks, by GPT-2's name."""
        return self.layers

    def grow_vocab(self, vocab_size, like=None):
        """Make room for vocab_size tokens. New ones start as copies of token `like`, or as the mean of all."""
        for matrix in [self.embed_tokens] if self.config.tie else [self.embed_tokens, self.lm_head]:
            old = matrix.weight.detach()
            new = (old.mean(0) if like is None else old[like]).expand(max(0, vocab_size - len(old)), -1)
            matrix.weight = nn.Parameter(torch.cat((old, new)))
        self.config.vocab_size = len(matrix.weight)

    def embed(self, tokens):
        """Tokens (B, T) -> input embeddings (B, T, C)."""
        return self.embed_tokens(tokens)

    def mix(self, weights):
        """Weights of tokens (..., V) -> the weighted sum of their embeddings (..., C)."""
        return weights @ self.embed_tokens.weight

    def head(self, h):
        """Hidden states after the final norm (..., C) -> logits over the next token (..., V)."""
        return F.linear(h, self.embed_tokens.weight if self.config.tie else self.lm_head.weight)

    def read(self, x, real=None, past=None):
        """Read input embeddings x (B, T, C) as the continuation of a past; real (B, T) bool: which of them count.

        As in model.py, but nothing is added to x: positions are angles. A past has ng heads of keys, already rotated.
        """
        if real is None:
            real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        seen = real if past is None else torch.cat((past.real, real), 1)  # (B, K)
        position = seen.cumsum(1)[:, -x.size(1) :] - 1  # (B, T)
        mask = None if past is None else visible(seen, x.size(1))  # None: no query can see the padding, which is later
        cos, sin = self.rotation(position.clamp(min=0))
        x = F.dropout(x, self.config.dropout, self.training)
        states, layers = [x], []
        for i, block in enumerate(self.layers):
            x, passes = block(x, cos, sin, mask, () if past is None else past.layers[i])
            states.append(x)
            layers.append(passes)
        states[-1] = self.norm(x)
        return states, Past(seen, tuple(layers))

    def rotation(self, position):
        """cos and sin (B, 1, T, hs/2) of the angles position / theta^(2i/hs), for position (B, T)."""
        hs = self.config.head_dim
        # always in float32: a bfloat16 cannot tell position 256 from 257
        frequency = 1 / self.config.rope_theta ** (torch.arange(0, hs, 2, device=position.device) / hs)  # (hs/2,)
        if self.config.rope_scaling:
            frequency = stretch(frequency, **self.config.rope_scaling)
        angle = position[:, None, :, None] * frequency
        return angle.cos(), angle.sin()


# what configs and flags may say of one that begins with random weights, and what checkpoint.base_classes finds
settings = {
    "n_kv_head": (int, option(0, "heads of keys and values, which others share; 0: n_head", least=0, most=1000)),
    "head_dim": (int, option(0, "width of a head; 0: n_embd / n_head", least=0, most=100_000)),
    "n_inner": (int, option(0, "width of the MLP; 0: 8/3 n_embd", least=0, most=10**6)),
    "rope_theta": (float, option(10000.0, "the slowest rotation's period, in 2 pi positions", least=1)),
}
base_classes = Llama, LlamaConfig


# ---------------------------------------------------------------- from Hugging Face's files

# what a config.json may say, since this is what is computed here
COMPUTED = {
    "model_type": ("llama", "mistral", "qwen2", "qwen3"),
    "hidden_act": ("silu",),
    "rope_type": ("default", "llama3"),
    "partial_rotary_factor": (1.0,),
    "rope_interleaved": (False,),
    "attention_bias": (False,),  # Qwen2.5 has its biases without saying so; true would mean one more, on o_proj
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "layer_types": ({"full_attention"},),
}
NAMES = {  # of LlamaConfig's fields in a config.json
    "num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "num_key_value_heads": "n_kv_head",
    "head_dim": "head_dim", "hidden_size": "n_embd", "intermediate_size": "n_inner", "vocab_size": "vocab_size",
    "max_position_embeddings": "block_size", "rope_theta": "rope_theta", "rms_norm_eps": "norm_eps",
}  # fmt: skip
MISSING = {"num_key_value_heads": 0, "head_dim": 0, "rope_theta": 10000.0, "rms_norm_eps": 1e-6}  # what that means
SCALING = "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"


def read_number(config, where, name, kind):
    """A number above 0 in a config.json, as a `kind`, int or float."""
    value = config.get(name)
    if value is None and name in MISSING:
        return MISSING[name]
    if type(value) not in (int, kind) or not value > 0:
        raise UserError(f"{where}: {name} is {value!r}, expected a {'whole ' * (kind is int)}number above 0")
    return kind(value)


def read_sizes(config, where):
    """The fields of LlamaConfig that a config.json tells. UserError if it asks for what is not computed here."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}  # transformers prefers the older one
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        raise UserError(f"{where}: rope_scaling is {rope!r}, expected {{name: value}}, the same for all layers")
    config = {"model_type": None, "rope_type": rope.get("type", "default")} | config | rope  # "type" is its old name
    if config.get("layer_types"):
        config["layer_types"] = set(config["layer_types"])
    refuse(config, where, COMPUTED)
    if config["model_type"] == "mistral":  # there no number would mean 4096
        refuse({"sliding_window": 4096} | config, where, {"sliding_window": (None,)})
    kinds = {field.name: field.type for field in fields(LlamaConfig)}
    sizes = {field: read_number(config, where, name, kinds[field]) for name, field in NAMES.items()}
    if config["rope_type"] == "llama3":
        sizes["rope_scaling"] = {name: read_number(config, where, name, float) for name in SCALING}
    return sizes | {
        "qkv_bias": config["model_type"] == "qwen2",
        "qk_norm": config["model_type"] == "qwen3",
        "tie": bool(config.get("tie_word_embeddings")),
    }


def is_llama(source):
    """Whether the config.json beside the weights says that they are one of these; source as in from_pretrained."""
    return find(source)[1].get("model_type") in COMPUTED["model_type"]
