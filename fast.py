"""
The same numbers sooner, on a CPU. `fast.speed_up(model)` is all that the project knows of this file: without that line
everything works as well. On a GPU it would cost more than it saves: there a thought waits for launches, not for memory.

With one position per row, the time for x W^T goes into reading W from memory. A gradient of W for each thought would be
written, read and added up: three more trips. So thoughts put x and dy aside, and one product serves all of them. The
same holds for the keys and values of the prefix, which are not copied for each thought either.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from model import CausalSelfAttention


def no_graph():
    """What is put aside has no history: autograd would leave it out of a second derivative, and say nothing."""
    if torch.is_grad_enabled():
        raise RuntimeError("create_graph=True: second derivatives need a model without fast.speed_up")


class Gathered(torch.autograd.Function):
    """The identity on W, before all its uses in a step.

    Autograd runs a node when everything that used its output has been run. So by then each PutAside has left its x and
    dy. They are marked with the number of the backward pass, since there can be several through one graph.
    """

    @staticmethod
    def forward(ctx, w, aside):
        ctx.aside = aside
        return w.view_as(w)

    @staticmethod
    def backward(ctx, grad):
        no_graph()
        pairs = [pair for task, *pair in ctx.aside if task == torch._C._current_graph_task_id()]
        ctx.aside.clear()
        if pairs:
            x, dy = (torch.cat(several, -2) for several in zip(*pairs))
            grad = torch.addmm(grad, dy.mT, x) if grad.dim() == 2 else grad + dy.mT @ x
        return grad, None


class PutAside(torch.autograd.Function):
    """x W^T, but what W's gradient is computed from is put aside."""

    @staticmethod
    def forward(ctx, x, w, aside):
        ctx.save_for_backward(x, w)
        ctx.aside = aside
        return x @ w.mT

    @staticmethod
    def backward(ctx, dy):
        no_graph()
        x, w = ctx.saved_tensors
        task = torch._C._current_graph_task_id()
        if ctx.aside and ctx.aside[0][0] != task:
            ctx.aside.clear()  # of a backward pass that did not ask for W's gradient
        ctx.aside.append((task, x.detach(), dy))  # x with its history would lead back to here, and never be freed
        return dy @ w, None, None


class Joined(torch.autograd.Function):
    """x W^T for a W that is put together from pieces along `dim`, of which only the pieces are kept, not each W."""

    @staticmethod
    def forward(ctx, x, dim, *pieces):
        ctx.save_for_backward(x, *pieces)
        ctx.dim = dim
        return x @ torch.cat(pieces, dim).mT

    @staticmethod
    def backward(ctx, dy):
        x, *pieces = ctx.saved_tensors
        grads = (dy.mT @ x).split([p.size(ctx.dim) for p in pieces], ctx.dim)
        return dy @ torch.cat(pieces, ctx.dim), None, *grads


STEP = None  # while a model thinks with gradients: {weight, or keys or values of the prefix: (Gathered, aside)}


def shared(w, transpose=False):
    """(w as all passes of this step use it, where they put aside)."""
    if w not in STEP:
        aside = []
        STEP[w] = Gathered.apply(w.mT if transpose else w.contiguous(), aside), aside
    return STEP[w]


class Linear(nn.Linear):
    def forward(self, x):
        if STEP is None or x.dim() != 3:
            return super().forward(x)
        w, aside = shared(self.weight)
        if x.size(1) > 1:
            return F.linear(x, w, self.bias)
        y = PutAside.apply(x[:, 0], w, aside)[:, None]
        return y if self.bias is None else y + self.bias


class Attention(CausalSelfAttention):
    def remember(self, past, k, v):
        """Generating, keys and values are written to a buffer; a past that has been read on from gets a new one."""
        if torch.is_grad_enabled() or not past:
            return super().remember(past, k, v)
        buffer, end, T = getattr(past[-1][0], "buffer", None), sum(k.size(2) for k, _ in past), k.size(2)
        if buffer is None or buffer["end"] != end or end + T > buffer["k"].size(2):
            old = (torch.cat(passes, 2) for passes in zip(*past))
            buffer = {name: F.pad(t, (0, 0, 0, end // 2 + T + 16)) for name, t in zip("kv", old)}
        buffer["k"][:, :, end : end + T], buffer["v"][:, :, end : end + T] = k, v
        k, v, buffer["end"] = buffer["k"][:, :, : end + T], buffer["v"][:, :, : end + T], end + T
        k.buffer = buffer
        return ((k, v),)

    def attend(self, q, past, mask):
        """For a single position, such as a thought: nothing is copied, but for a moment what came after the prefix."""
        if STEP is None or q.size(2) > 1 or len(past) == 1:
            if len(past) == 1 and mask is not None:
                return F.scaled_dot_product_attention(q, *past[0], mask)
            return super().attend(q, past, mask)
        ((k, v), *since), dropout = past, self.dropout if self.training else 0.0
        ks, vs = zip(*((k, v.mT) for k, v in since))
        (k, k_aside), (v, v_aside) = shared(k), shared(v, transpose=True)
        scores = torch.cat((PutAside.apply(q, k, k_aside), Joined.apply(q, 2, *ks)), -1) / math.sqrt(q.size(-1))
        p = F.dropout(scores.masked_fill(~mask, -math.inf).softmax(-1), dropout)  # (B, nh, 1, K)
        P = k.size(2)
        return PutAside.apply(p[..., :P], v, v_aside) + Joined.apply(p[..., P:], 3, *vs)


class Thinking:
    def think(self, *args, **settings):
        global STEP
        plain = self.config.gradient_checkpointing or self.config.compile or not torch.is_grad_enabled()
        if plain or torch.is_autocast_enabled("cpu") or next(self.parameters()).device.type != "cpu":
            return super().think(*args, **settings)
        STEP = {}
        try:
            return super().think(*args, **settings)
        finally:
            STEP = None


def speed_up(model):
    """Make a model that thinks faster on a CPU; its class, and that of its layers, become subclasses of what they were.

    Second derivatives are then an error.
    """
    for module in model.modules():
        module.__class__ = {nn.Linear: Linear, CausalSelfAttention: Attention}.get(type(module), type(module))
    model.__class__ = type(type(model).__name__, (Thinking, type(model)), {})
    return model
