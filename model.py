"""
GPT-2, as plain as nanoGPT's, but that what has been read, the past, can be passed in and out.

    gpt = GPT.from_pretrained("gpt2")                         # or a folder, or a file model.safetensors
    states, past = gpt.read(gpt.embed(tokens))                # reads a text; logits = gpt.head(states[-1])
    thought = states[-1][:, -1:]                              # its last hidden state ...
    states, past = gpt.read(thought, past=past)               # ... is read as if it were the next token: a thought

This file needs nothing but torch, so it can be copied into another project. In the shapes,
    B  rows of a batch        T  positions in one pass      V  vocabulary size       C  n_embd = nh * hs
                              K  positions read so far      nh, hs  heads and their size
"""

import json
import math
import os
import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class GPTConfig:
    """The defaults are OpenAI's smallest GPT-2 (124M parameters)."""

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    block_size: int = 1024  # positions that a row may use
    vocab_size: int = 50257
    dropout: float = 0.0


class Past(NamedTuple):
    """What has been read. It is never changed, so it can be kept, forked, and read on from more than once."""

    real: torch.Tensor  # (B, K) bool: which positions count; padding does not, and takes up no position
    layers: tuple  # of each layer: (k, v) of each pass so far, (B, nh, T, hs)

    def select(self, rows):
        """The past of these rows, (M,) int64: some left out, or repeated."""
        layers = tuple(tuple((k[rows], v[rows]) for k, v in passes) for passes in self.layers)
        return Past(self.real[rows], layers)


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
        k, v = (torch.cat(tensors, 2) for tensors in zip(*past))  # of all passes: (B, nh, K, hs)
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


def visible(real, T):
    """(B, 1, T, K) bool: the last T of K positions see what is real (B, K), up to their own place."""
    K = real.size(1)
    causal = torch.ones(T, K, dtype=torch.bool, device=real.device).tril(K - T)
    return (causal & real[:, None, :])[:, None]


class GPT(nn.Module):
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

    def read(self, x, real=None, past=None):
        """Read input embeddings x (B, T, C) as the continuation of a past.

        real (B, T) bool: which of them count; None: all. Without a past, rows are right-padded. Returns (states, past):
        the hidden states as a list, of the input and after each block, (B, T, C), the last one after ln_f; where not
        real they mean nothing. IndexError (on a GPU: a device-side assert) if a row is longer than block_size.
        """
        if real is None:
            real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        seen = real if past is None else torch.cat((past.real, real), 1)  # (B, K)
        position = seen.cumsum(1)[:, -x.size(1) :] - 1  # (B, T)
        mask = None if past is None else visible(seen, x.size(1))  # None: plainly causal; padding comes later
        x = F.dropout(x + self.wpe(position.clamp(min=0)), self.config.dropout, self.training)
        states, layers = [x], []
        for i, block in enumerate(self.h):
            x, passes = block(x, mask, () if past is None else past.layers[i])
            states.append(x)
            layers.append(passes)
        states[-1] = self.ln_f(x)
        return states, Past(seen, tuple(layers))

    def grow_vocab(self, vocab_size, like=None):
        """Make room for vocab_size tokens. New ones start as copies of token `like`, or as the mean of all."""
        old = self.wte.weight.detach()
        new = (old.mean(0) if like is None else old[like]).expand(max(0, vocab_size - len(old)), -1)
        self.wte = nn.Embedding.from_pretrained(torch.cat((old, new)), freeze=False)
        self.config.vocab_size = len(self.wte.weight)

    @classmethod
    def from_pretrained(cls, source, dropout=0.0):
        """A GPT with the weights of a name in SIZES, a folder with model.safetensors, or such a file.

        That is how OpenAI's weights are published, and how transformers saves a GPT-2; config.json beside them is
        needed for sizes other than OpenAI's. ValueError or FileNotFoundError if they are not there, or not a GPT-2's.
        """
        path = find_weights(source)
        config = read_config(os.path.join(os.path.dirname(path), "config.json"))
        tensors = {name.removeprefix("transformer."): t for name, t in read_safetensors(path).items()}
        tensors = {name: t for name, t in tensors.items() if not re.search(r"\.attn\.(masked_)?bias$", name)}
        head = tensors.pop("lm_head.weight", None)
        if head is not None and not torch.equal(head, tensors.get("wte.weight", head)):
            raise ValueError(f"{path}: lm_head.weight differs from wte.weight, but a GPT-2's head is tied")
        return cls.from_tensors(tensors, config.get("n_head"), path, dropout)

    @classmethod
    def from_tensors(cls, tensors, n_head, source, dropout=0.0):
        """A GPT of {name: tensor}, named and transposed as in OpenAI's files, and nothing else among them.

        n_head None: as in OpenAI's models of that size. source: for messages. ValueError if the tensors do not fit.
        """
        if not {"wte.weight", "wpe.weight"} <= tensors.keys():
            raise ValueError(f"{source}: not the weights of a GPT-2: no wte.weight and wpe.weight in it")
        (vocab_size, n_embd), block_size = tensors["wte.weight"].shape, len(tensors["wpe.weight"])
        n_layer = len({name.split(".")[1] for name in tensors if name.startswith("h.")})
        for layers, heads, width in SIZES.values():
            if n_head is None and (layers, width) == (n_layer, n_embd):
                n_head = heads
        if type(n_head) is not int or n_head < 1 or n_embd % n_head:
            raise ValueError(f"{source}: n_head is {n_head}; a config.json beside it should say how many heads it has")
        with torch.device("meta"):  # shapes only: the values come from the file
            model = cls(GPTConfig(n_layer, n_head, n_embd, block_size, vocab_size, dropout))
        tensors = {name: t.T if is_projection(name) and t.dim() == 2 else t for name, t in tensors.items()}
        return fill(model, tensors, f"{source}: not the weights of a GPT-2")


def fill(model, tensors, error):
    """A model that has shapes only, with the weights {name: tensor}. ValueError(error: ...) unless they are its own."""
    try:
        model.load_state_dict({name: t.float().contiguous() for name, t in tensors.items()}, assign=True)
    except RuntimeError as e:
        which = " ".join(str(e).partition(":")[2].split())  # after "Error(s) in loading state_dict for GPT:"
        raise ValueError(f"{error}: {which[:300]}") from None
    return model


# ---------------------------------------------------------------- OpenAI's weights

# name: (layers, heads, width)
SIZES = {"gpt2": (12, 12, 768), "gpt2-medium": (24, 16, 1024), "gpt2-large": (36, 20, 1280), "gpt2-xl": (48, 25, 1600)}
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
          "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
          "I64": torch.int64}  # fmt: skip
COMPUTED = {  # what a config.json may say of these: this is what is computed here
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


def is_projection(name):
    """Whether OpenAI's files hold this matrix transposed. (attn.c_proj is square: no shape would give it away.)"""
    return re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", name) is not None


def find_weights(source):
    """The path of the model.safetensors that a name, a folder or a file stands for."""
    if source in SIZES:
        from download import gpt2_weights  # the only thing that needs another file of the project

        return gpt2_weights(source)
    path = os.path.join(source, "model.safetensors") if os.path.isdir(source) else source
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file; expected {', '.join(SIZES)}, a folder or a .safetensors file")
    return path


def read_config(path):
    """A config.json as a dict, {} if there is none; ValueError if it is another model's. null is as good as nothing."""
    if not os.path.exists(path):
        return {}
    try:
        with open(path, encoding="utf-8") as f:
            config = json.load(f)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a JSON object, {{name: value}}")
    for name, values in COMPUTED.items():
        if config.get(name) not in (None, *values):
            raise ValueError(f"{path}: {name} is {config[name]!r}, but GPT-2 has {values[0]!r}")
    return config


def read_safetensors(path):
    """{name: tensor} of a .safetensors file. ValueError unless header and bytes agree to the last byte.

    The format: 8 bytes little-endian length of the header; the header, JSON {name: {dtype, shape, data_offsets}};
    then the tensors' bytes, one after the other without a hole. Offsets count from the end of the header.
    """
    tensors, end = {}, 0
    try:
        with open(path, "rb") as f:
            length = int.from_bytes(f.read(8), "little")
            size = os.path.getsize(path) - 8 - length  # of the tensors' bytes
            if size < 0:
                raise ValueError(f"a header of {length} bytes is more than the file has")
            header = json.loads(f.read(length))
            header.pop("__metadata__", None)
            for name, info in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                dtype, shape = info["dtype"], info["shape"]
                if dtype not in DTYPES:
                    raise ValueError(f"{name} has the dtype {dtype!r}, expected {' or '.join(DTYPES)}")
                n_bytes = torch.empty(shape, dtype=DTYPES[dtype], device="meta").nbytes
                if info["data_offsets"] != [end, end + n_bytes] or end + n_bytes > size:
                    raise ValueError(f"{name} should be at bytes {end} to {end + n_bytes} of {size}")
                data = bytearray(f.read(n_bytes))
                flat = torch.frombuffer(data, dtype=DTYPES[dtype]) if data else torch.empty(0, dtype=DTYPES[dtype])
                tensors[name], end = flat.view(shape), end + n_bytes
        if end != size:
            raise ValueError(f"the tensors take {end} bytes of {size}")
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as e:
        raise ValueError(f"{path}: not a sound safetensors file: {type(e).__name__}: {str(e)[:150]}") from None
    return tensors
