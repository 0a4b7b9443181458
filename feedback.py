"""
What is fed back: from the hidden states at one position to the input at the next, which is a thought.

`--feedback=NAME` chooses, `--feedback=layer:-2+suppressed:0.5` adds two. A new one is a function and its name in
FEEDBACKS, or a module if it has weights of its own: they are saved with the model. Each gets
    states  the hidden states at the last position, h_0 to h_L, (B, 1, C) each: the input, after each block, and in the
            last place after the final LayerNorm
    model   for what needs its head or its embeddings
and returns the next input, (B, 1, C). How often that is done is the business of Coconut.think in coconut.py.
"""

import inspect
import math

import torch
from torch import nn
from torch.nn import functional as F

from config import UserError


def last(states, model):
    """h_L: the paper's (section 3)."""
    return states[-1]


def layer(states, model, index=-2.0):
    """h_index, another layer's; counted from the end, -1 would be `last`."""
    return states[int(index)]


def suppressed(states, model, start=0.5):
    """sum over l >= floor(start (L + 1)) of h_{l+1} [h_{l+1} - h_l < -0.1]: what later layers take away.

    After wassname/coconut. The mask carries no gradient. In a shallow model it may be empty: 2 layers, start 0.75.
    """
    first = math.floor(start * len(states))
    pairs = list(zip(states, states[1:]))[first:]
    return sum((h * (h - before < -0.1) for before, h in pairs), torch.zeros_like(states[-1]))


def zero(states, model):
    """Nothing: a control. A thought is then a position to compute at, and no more."""
    return torch.zeros_like(states[-1])


def embedding(states, model):
    """h_0, the input itself, once more."""
    return states[0]


def likely(logits, top_p):
    """softmax of logits (..., V) without the unlikeliest tokens, of less than 1 - top_p together; renormalised."""
    p, order = logits.softmax(-1).sort(-1, descending=True)
    p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0)  # the first token is always kept
    return torch.zeros_like(p).scatter(-1, order, p / p.sum(-1, keepdim=True))


def soft(states, model, temperature=1.0, top_p=1.0):
    """sum_w p(w) E(w): what the model would say, as a mean (CoT2, 2505.23648; Soft Thinking, 2505.15778)."""
    return model.mix(likely(model.head(states[-1]) / temperature, top_p))


def fusion(states, model, share=0.6):
    """share h_L + (1 - share) sum_w p(w) E(w), p cut at top-p 0.9 (LT-Tuning, 2602.10229)."""
    return share * states[-1] + (1 - share) * soft(states, model, top_p=0.9)


def membership(logits):
    """The logit of "is a member" for each token. At first no logit is near 4, and so every set is all but empty."""
    return logits - 4


def members(states, model, sharpness=1.0):
    """sum_w m_w E(w), m = sigmoid(sharpness z): a token is a member or not; small errors are not passed on (losses.py).

    The sum and not the mean: in a mean of many, each would be drowned by the position that is added to it.
    """
    return model.mix((sharpness * membership(model.head(states[-1]))).sigmoid())


def known(sets, model):
    """The thoughts that are fed back where it is known what they should be (teacher forcing).

    From sets of tokens (B, N, V), 0 or 1: what `members` makes of them once it is sure, or `soft` (a mean).
    """
    mean = model.config.feedback.partition(":")[0] == "soft"
    return model.mix(sets / sets.sum(-1, keepdim=True).clamp(min=1) if mean else sets)


class Projection(nn.Module):
    """LayerNorm(W_2 GELU(W_1 dropout(h_L))): CODI's (2502.21074)."""

    def __init__(self, n_embd, dropout=0.0):
        super().__init__()
        layers = nn.Linear(n_embd, n_embd), nn.GELU(), nn.Linear(n_embd, n_embd), nn.LayerNorm(n_embd)
        self.layers = nn.Sequential(nn.Dropout(dropout), *layers)

    def forward(self, states, model):
        return self.layers(states[-1])


class Gate(nn.Module):
    """a e + sqrt(1 - a^2) i h: the likeliest token's embedding e, and more and more of the mean h (HRPO, 2505.18454).

    h = sum p E / sqrt(sum p^2), r and i = sigmoid(W e + b), a = exp(-8 softplus(-L) r), which begins near 1.
    """

    def __init__(self, n_embd):
        super().__init__()
        self.r, self.i = nn.Linear(n_embd, n_embd), nn.Linear(n_embd, n_embd)
        self.L = nn.Parameter(torch.full((n_embd,), 7.4))  # a = 0.995 where r = 1

    def forward(self, states, model):
        p = model.head(states[-1]).softmax(-1)
        e, h = model.embed(p.argmax(-1)), model.mix(p / p.square().sum(-1, keepdim=True).sqrt())
        a = (-8 * F.softplus(-self.L) * self.r(e).sigmoid()).exp()
        return a * e + (1 - a.square()).sqrt() * self.i(e).sigmoid() * h


# what the numbers in a name must be
BOUNDS = {
    "index": float.is_integer,
    "start": lambda x: 0 <= x < 1,
    "temperature": lambda x: 0 < x < math.inf,
    "top_p": lambda x: 0 < x <= 1,
    "share": lambda x: 0 <= x <= 1,
    "sharpness": lambda x: 0 < x < math.inf,
    "dropout": lambda x: 0 <= x < 1,
}
FEEDBACKS = {f.__name__: f for f in (last, layer, suppressed, zero, embedding, soft, fusion, members)}
MODULES = {"projection": Projection, "gate": Gate}


class Feedback(nn.Module):
    """A function of FEEDBACKS with the numbers that stand in its name, or a sum of others."""

    def __init__(self, function, *numbers, parts=()):
        super().__init__()
        self.function, self.numbers, self.parts = function, numbers, nn.ModuleList(parts)

    def forward(self, states, model):
        if self.parts:
            return sum(part(states, model) for part in self.parts)
        return self.function(states, model, *self.numbers)


def make_feedback(name, n_embd, n_layer=10**9):
    """The module of a name such as "last", "layer:-2" or "last+soft:0.5"; UserError if there is none."""
    if "+" in name:
        return Feedback(None, parts=[make_feedback(part, n_embd, n_layer) for part in name.split("+")])
    kind, *numbers = name.split(":")
    if kind not in FEEDBACKS.keys() | MODULES.keys():
        raise UserError(f"feedback = {name!r}, expected some of {', '.join((*FEEDBACKS, *MODULES))}")
    function = FEEDBACKS.get(kind) or MODULES[kind]
    try:
        numbers = [float(number) for number in numbers]
        given = inspect.signature(function).bind(*[None] * (2 if kind in FEEDBACKS else 1), *numbers).arguments
        if not all(BOUNDS[name](given[name]) for name in BOUNDS.keys() & given.keys()):
            raise ValueError
    except (ValueError, TypeError):
        raise UserError(f"feedback = {name!r}: these numbers do not belong to {kind}") from None
    if not -n_layer - 1 <= given.get("index", 0) <= n_layer:
        raise UserError(f"feedback = {name!r}, but the model's states are h_0 to h_{n_layer}")
    return Feedback(function, *numbers) if kind in FEEDBACKS else function(n_embd, *numbers)
