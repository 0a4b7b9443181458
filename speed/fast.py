"""
--speed=fast: the same numbers sooner, on a CPU, for models whose weights are larger than its caches (docs/speed.md).

With one position per row, x W^T costs what reading W costs, and a gradient of W for each thought three more such trips.
So each thought stores its input and its output's gradient, one product then gives the weight's gradient. (A GPU waits
for launches instead: there it is off.)
"""

import torch
from torch import nn
from torch.nn import functional as F

from config import UserError
from model import CausalSelfAttention

STEP = None  # while a model thinks with gradients: {W: (the same for all its uses, what they have put aside)}


class Gathered(torch.autograd.Function):
    """The identity on W, before all its uses: when autograd runs it backward, each of them has left its x and dy."""

    @staticmethod
    def forward(ctx, w, aside):
        ctx.aside = aside
        return w.view_as(w)

    @staticmethod
    def backward(ctx, grad):
        pairs = [pair for task, *pair in ctx.aside if task == torch._C._current_graph_task_id()]
        if pairs:
            x, dy = (torch.cat(several, -2) for several in zip(*pairs))
            grad = grad + dy.mT @ x
        return grad, None


class PutAside(torch.autograd.Function):
    """x W^T, but what W's gradient is computed from is put aside, with the number of the backward pass."""

    @staticmethod
    def forward(ctx, x, w, aside):
        ctx.save_for_backward(x, w)
        ctx.aside = aside
        return x @ w.mT

    @staticmethod
    def backward(ctx, dy):
        if torch.is_grad_enabled():  # autograd would leave out what has no history here, and say nothing
            raise RuntimeError("create_graph=True: second derivatives need a model without fast.speed_up")
        x, w = ctx.saved_tensors  # x with its history would lead back to here, and never be freed
        ctx.aside.append((torch._C._current_graph_task_id(), x.detach(), dy))
        return dy @ w, None, None


def gathered(w, transpose=False):
    if w not in STEP:
        STEP[w] = Gathered.apply(w.mT if transpose else w.contiguous(), aside := []), aside
    return STEP[w]


class Linear(nn.Linear):
    def forward(self, x):
        if STEP is None or x.dim() != 3 or x.size(1) > 1:
            return super().forward(x)
        y = PutAside.apply(x[:, 0], *gathered(self.weight))[:, None]
        return y if self.bias is None else y + self.bias


class Attention(CausalSelfAttention):
    def attend(self, q, past, mask):
        if STEP is None or len(past) == 1:
            return super().attend(q, past, mask)
        (k, v), *since = past  # what was read first is not copied
        since_k, since_v = (torch.cat(passes, 2) for passes in zip(*since))
        scores = torch.cat((PutAside.apply(q, *gathered(k)), q @ since_k.mT), -1) / q.size(-1) ** 0.5
        p = F.dropout(scores.masked_fill(~mask, -torch.inf).softmax(-1), self.dropout, self.training)  # (B, nh, T, K)
        return PutAside.apply(p[..., : k.size(2)], *gathered(v, transpose=True)) + p[..., k.size(2) :] @ since_v


class FastThinking:
    fast = True  # for recompute.py and compiled.py, which do not go together with this

    def think(self, prefix, *args, **settings):
        global STEP
        plain = torch.is_autocast_enabled("cpu") or prefix.is_cuda
        STEP = None if plain or not torch.is_grad_enabled() else {}
        try:
            return super().think(prefix, *args, **settings)
        finally:
            STEP = None


def speed_up(model):
    """Give a model and its layers classes that think faster on a CPU; second derivatives are then an error.

    The attention of pretrained/llama.py is left as it is: where heads share their keys there is less to copy, and
    nothing was gained.
    """
    if any("forward" in vars(block) for block in model.base.h):
        raise UserError("speed: fast goes together with neither recompute nor compiled: expected one of them")
    for module in model.modules():
        module.__class__ = {nn.Linear: Linear, CausalSelfAttention: Attention}.get(type(module), type(module))
    model.__class__ = type(type(model).__name__, (FastThinking, type(model)), {})
    return model
