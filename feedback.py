"""
What is fed back: from the hidden states at one position to the input at the next, which is a thought.

`--feedback=NAME` chooses, `--feedback=layer:-2+soft:0.5` adds two. A new one is a function here, and its name in
FEEDBACKS; what later papers feed back, and each other, stands in methods/_feedbacks.py. A function gets
    states  the hidden states at the last position, h_0 to h_L, (B, 1, C) each: the input, after each block, and in the
            last place after the final LayerNorm; (B, M, C) where M thoughts are made at once
    model   for what needs its head or its embeddings
and the numbers that stand in its name, such as 0.5; it returns the next input, as large as the states are. How often:
Coconut.make_thoughts in coconut.py. What has weights of its own, which are saved with the model, is a class, as Vector.
"""

import inspect
import math

import torch
from torch import nn

from config import UserError, names_in, nearest, upstairs


def last(states, model):
    """h_L: the paper's (section 3)."""
    return states[-1]


def layer(states, model, index=-2):
    """h_index, another layer's; counted from the end, -1 would be `last`."""
    return states[int(index)]


def zero(states, model):
    """Nothing: a control. A thought is then a position to compute at, and no more."""
    return torch.zeros_like(states[-1])


def embedding(states, model):
    """h_0, the input itself, once more."""
    return states[0]


def soft(states, model, temperature: (0.001, 1000) = 1, top_p: (0.001, 1) = 1):
    """sum_w p(w) E(w): what the model would say, as a mean (CoT2, 2505.23648; Soft Thinking, 2505.15778).

    top_p < 1: without the unlikeliest tokens, of less than 1 - top_p together.
    """
    p, order = (model.head(states[-1]) / temperature).softmax(-1).sort(-1, descending=True)
    p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0)  # the first token is always kept
    return model.mix(torch.zeros_like(p).scatter(-1, order, p / p.sum(-1, keepdim=True)))


class Vector(nn.Module):
    """A learned vector for each thought, the same for all questions.

    Alone it is a control that thinks nothing; with another, such as last+vector, it tells thoughts apart, as learned
    positions do. It begins as zero.
    """

    MOST = 64  # all thoughts after these share the last one

    def __init__(self, n_embd):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(self.MOST, n_embd))

    def forward(self, states, model, first):
        """first: the number of the first of these thoughts."""
        return self.of(first, states[-1].size(1)).expand_as(states[-1])

    def of(self, first, M):
        """Those of the thoughts number first, first + 1, ... (M, C)."""
        number = torch.arange(first, first + M, device=self.weight.device)
        return self.weight[number.clamp(max=self.MOST - 1)]


FEEDBACKS = {"last": last, "layer": layer, "zero": zero, "embedding": embedding, "soft": soft, "vector": Vector}


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
    try:
        return Feedback([make_part(part, n_embd, n_layer) for part in name.split("+")])
    except UserError as e:
        raise UserError(f"feedback = {name!r}: {e}") from None


def make_part(part, n_embd, n_layer):
    """The module of one part of a name; a number whose argument has no annotation may be any."""
    kind, *texts = part.split(":")
    known = FEEDBACKS
    if kind not in FEEDBACKS and "_feedbacks" in names_in("methods"):
        known = FEEDBACKS | upstairs("methods", "_feedbacks").FEEDBACKS
    if kind not in known:
        raise UserError(f"{kind!r} is none of {', '.join(known)}{nearest(kind, known)}")
    found, numbers = known[kind], []
    has_weights = isinstance(found, type)
    arguments = [*inspect.signature(found).parameters.values()][1 if has_weights else 2 :]
    if len(texts) > len(arguments):
        raise UserError(f"{kind} takes {len(arguments) or 'no'} numbers")
    for text, argument in zip(texts, arguments):
        least, most = (-math.inf, math.inf) if argument.annotation is argument.empty else argument.annotation
        try:
            numbers.append(float(text))
        except ValueError:
            numbers.append(math.nan)
        if not least <= numbers[-1] <= most:
            raise UserError(f"{argument.name} = {text}, expected a number from {least} to {most}")
    if kind == "layer" and not all(x.is_integer() and -n_layer - 1 <= x <= n_layer for x in numbers):
        raise UserError(f"{part}: the model's states are h_0 to h_{n_layer}")
    return found(n_embd, *numbers) if has_weights else Function(found, numbers)
