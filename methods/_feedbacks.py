"""
What later papers feed back: `--feedback=NAME` finds it here, and the paper's own in feedback.py, which says how.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from feedback import soft


def suppressed(states, model, start: (0, 1) = 0.5):
    """sum over l >= floor(start (L + 1)) of h_{l+1} [h_{l+1} - h_l < -0.1]: what later layers take away.

    After wassname/coconut. The mask carries no gradient. In a shallow model it may be empty: 2 layers, start 0.75.
    """
    first = math.floor(start * len(states))
    pairs = list(zip(states, states[1:]))[first:]
    return sum((h * (h - before < -0.1) for before, h in pairs), torch.zeros_like(states[-1]))


def fusion(states, model, share: (0, 1) = 0.6):
    """share h_L + (1 - share) sum_w p(w) E(w), p cut at top-p 0.9 (LT-Tuning, 2602.10229)."""
    return share * states[-1] + (1 - share) * soft(states, model, top_p=0.9)


def members(states, model, sharpness: (0.001, 1000) = 1):
    """sum_w m_w E(w), m = sigmoid(sharpness (z - 4)): each token is a member of a set, or not (sets.py).

    The sum and not the mean: in a mean of many, each would be drowned by the position that is added to it.
    """
    return model.mix((sharpness * membership(model.head(states[-1]))).sigmoid())


def membership(logits):
    """The logit of "is a member" for each token: shifted by 4, so that an untrained model's sets are nearly empty."""
    return logits - 4


class Projection(nn.Module):
    """LayerNorm(W_2 GELU(W_1 dropout(h_L))): CODI's (2502.21074)."""

    def __init__(self, n_embd, dropout: (0, 1) = 0):
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


FEEDBACKS = {"suppressed": suppressed, "fusion": fusion, "members": members, "projection": Projection, "gate": Gate}
