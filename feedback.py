"""
What is fed back: from the hidden states at one position to the input at the next, which is a thought.

`--feedback=NAME` chooses, `--feedback=layer:-2+suppressed:0.5` adds two. A new one is a function in FEEDBACKS; or, if
it has weights of its own, which are saved with the model, a class in MODULES. Each gets
    states  the hidden states at the last position, h_0 to h_L, (B, 1, C) each: the input, after each block, and in the
            last place after the final LayerNorm; (B, M, C) where M thoughts are made at once
    model   for what needs its head or its embeddings
    first   (a class only) the number of the first of these thoughts
and returns the next input, as large as they are. How often: Coconut.make_thoughts in coconut.py.
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


def members(states, model, sharpness=1.0):
    """sum_w m_w E(w), m = sigmoid(sharpness (z - 4)): each token is a member of a set, or not (methods/sets.py).

    The sum and not the mean: in a mean of many, each would be drowned by the position that is added to it.
    """
    return model.mix((sharpness * membership(model.head(states[-1]))).sigmoid())


def membership(logits):
    """The logit of "is a member" for each token: shifted by 4, so that an untrained model's sets are nearly empty."""
    return logits - 4


class Projection(nn.Module):
    """LayerNorm(W_2 GELU(W_1 dropout(h_L))): CODI's (2502.21074)."""

    def __init__(self, n_embd, dropout=0.0):
        super().__init__()
        layers = nn.Linear(n_embd, n_embd), nn.GELU(), nn.Linear(n_embd, n_embd), nn.LayerNorm(n_embd)
        self.layers = nn.Sequential(nn.Dropout(dropout), *layers)

    def forward(self, states, model, first):
        return self.layers(states[-1])


class Gate(nn.Module):
    """a e + sqrt(1 - a^2) i h: the likeliest token's embedding e, and more and more of the mean h (HRPO, 2505.18454).

    h = sum p E / sqrt(sum p^2), r and i = sigmoid(W e + b), a = exp(-8 softplus(-L) r), which begins near 1.
    """

    def __init__(self, n_embd):
        super().__init__()
        self.r, self.i = nn.Linear(n_embd, n_embd), nn.Linear(n_embd, n_embd)
        self.L = nn.Parameter(torch.full((n_embd,), 7.4))  # a = 0.995 where r = 1

    def forward(self, states, model, first):
        p = model.head(states[-1]).softmax(-1)
        e, h = model.embed(p.argmax(-1)), model.mix(p / p.square().sum(-1, keepdim=True).sqrt())
        a = (-8 * F.softplus(-self.L) * self.r(e).sigmoid()).exp()
        return a * e + (1 - a.square()).sqrt() * self.i(e).sigmoid() * h


class Vector(nn.Module):
    """A learned vector for each thought, the same for all questions.

    Alone it is a control that thinks nothing; with another, such as last+vector, it tells thoughts apart, as learned
    positions do. It begins as zero.
    """

    def __init__(self, n_embd):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(MOST_VECTORS, n_embd))

    def forward(self, states, model, first):
        return self.of(first, states[-1].size(1)).expand_as(states[-1])

    def of(self, first, M):
        """Those of the thoughts number first, first + 1, ... (M, C)."""
        number = torch.arange(first, first + M, device=self.weight.device)
        return self.weight[number.clamp(max=MOST_VECTORS - 1)]


MOST_VECTORS = 64  # all thoughts after these share the last one
FEEDBACKS = {f.__name__: f for f in (last, layer, suppressed, zero, embedding, soft, fusion, members)}
MODULES = {"projection": Projection, "gate": Gate, "vector": Vector}
BOUNDS = {  # what the numbers in a name must be, by the names of the arguments, yours among them
    "index": float.is_integer,
    "start": lambda x: 0 <= x < 1,
    "temperature": lambda x: 0 < x < math.inf,
    "top_p": lambda x: 0 < x <= 1,
    "share": lambda x: 0 <= x <= 1,
    "sharpness": lambda x: 0 < x < math.inf,
    "dropout": lambda x: 0 <= x < 1,
}


class Feedback(nn.Module):
    """What a name such as last or last+soft:0.5 stands for: the sum of its parts."""

    def __init__(self, parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, states, model, first=0):
        """The thoughts number first, first + 1, ... (B, M, C), from the states before them, (B, M, C) of each layer."""
        return sum(part(states, model, first) for part in self.parts)

    def vectors(self, first, M):
        """What has been added to these thoughts, whatever the question, (M, C), or 0."""
        return sum(part.of(first, M) for part in self.parts if isinstance(part, Vector))


class Function(nn.Module):
    """A function of FEEDBACKS with the numbers that stand in its name."""

    def __init__(self, function, numbers):
        super().__init__()
        self.function, self.numbers = function, numbers

    def forward(self, states, model, first):
        return self.function(states, model, *self.numbers)


def make_feedback(name, n_embd, n_layer=10**9):
    """The Feedback of a name such as "last", "layer:-2" or "last+soft:0.5"; UserError if there is none."""
    return Feedback([make_part(part, name, n_embd, n_layer) for part in name.split("+")])


def make_part(part, name, n_embd, n_layer):
    """The module of one part of a name."""
    kind, *numbers = part.split(":")
    if kind not in FEEDBACKS.keys() | MODULES.keys():
        raise UserError(f"feedback = {name!r}, expected some of {', '.join((*FEEDBACKS, *MODULES))}")
    function = FEEDBACKS.get(kind) or MODULES[kind]
    others = (None, None) if kind in FEEDBACKS else (None,)  # states and model, or n_embd
    try:
        numbers = [float(number) for number in numbers]
        given = inspect.signature(function).bind(*others, *numbers).arguments
        if not all(BOUNDS[name](given[name]) for name in BOUNDS.keys() & given.keys()):
            raise ValueError
    except (ValueError, TypeError):
        raise UserError(f"feedback = {name!r}: these numbers do not belong to {kind}") from None
    if not -n_layer - 1 <= given.get("index", 0) <= n_layer:
        raise UserError(f"feedback = {name!r}, but the model's states are h_0 to h_{n_layer}")
    return Function(function, numbers) if kind in FEEDBACKS else function(n_embd, *numbers)
