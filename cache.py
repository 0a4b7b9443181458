"""
The KV cache of model.py: what a GPT has read so far, so that the next position costs one position.

Generating, it is a buffer that is written to. In training, gradients flow through it; there it also sees to it that
thoughts, which are single positions one after the other, cost little more than their share of a plain pass (Shared).
Nothing in here changes any result, but for rounding. Shapes as in model.py.
"""

import copy
import math

import torch
from torch.nn import functional as F


class Gathered(torch.autograd.Function):
    """The identity on W, before all its uses.

    Autograd runs a node when everything that used its output has been run. So by then each PutAside has left its x and
    dy, and one product gives all thoughts' share of W's gradient.
    """

    @staticmethod
    def forward(ctx, w, aside):
        ctx.aside, ctx.dtype = aside, w.dtype
        kind = w.device.type  # autocast casts a weight once and keeps it, but not one that comes out of a Function
        return w.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else w.view_as(w)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.to(ctx.dtype)
        if ctx.aside:
            x, dy = (torch.cat(several, -2) for several in zip(*ctx.aside))
            ctx.aside.clear()
            in_place = grad.dim() == 2 and grad.dtype == dy.dtype  # saves another walk over W
            grad = grad.addmm_(dy.mT, x) if in_place else grad + dy.mT @ x
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
        x, w = ctx.saved_tensors
        ctx.aside.append((x.detach(), dy))  # x with its history would lead back to here: nothing would ever be freed
        return dy @ w, None, None


class Shared:
    """A matrix W that all passes of a step use: a weight, or the prefix's keys or values.

    With one position per row, the time for x W^T goes into reading W from memory. A gradient of W for each thought
    would be written, read and added up: three more trips. So thoughts put x and dy aside: one product for all.
    """

    def __init__(self, w):
        self.aside = None if torch.compiler.is_compiling() else []  # a compiler has its own ways
        self.w = w if self.aside is None else Gathered.apply(w, self.aside)

    def product(self, x):
        """x (..., in) times the transpose of W (..., out, in)."""
        x = x.to(self.w.dtype)
        return x @ self.w.mT if self.aside is None else PutAside.apply(x, self.w, self.aside)


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


class LayerCache:
    """One layer's keys and values of all positions read so far; while gradients are wanted, its weights as Shared."""

    def __init__(self, size):
        self.size = size
        self.k, self.v = None, None  # without gradients: buffers (B, nh, size, hs)
        self.prefix = None  # with gradients: the first pass's keys (B, nh, P, hs) and values (B, nh, hs, P) as Shared,
        self.since = []  # and (k, v^T) of each pass since then: (B, nh, T, hs), (B, nh, hs, T)
        self.weights = {}  # {linear layer: its weight as Shared}

    def copy(self):
        """With the same tensors; what is added to one is not added to the other."""
        twin = copy.copy(self)
        twin.since, twin.weights = list(self.since), dict(self.weights)
        return twin

    def write(self, k, v, end):
        """Write keys and values (B, nh, T, hs) of the positions that end at `end`; returns those of all positions."""
        if self.k is None:
            shape = (k.size(0), k.size(1), self.size, k.size(3))
            self.k, self.v = k.new_empty(shape), v.new_empty(shape)
        self.k[:, :, end - k.size(2) : end] = k
        self.v[:, :, end - v.size(2) : end] = v
        return self.k[:, :, :end], self.v[:, :, :end]

    def attend(self, q, k, v, mask, dropout):
        """softmax(q k^T / sqrt(hs)) v over all positions, for q, k, v (B, nh, T, hs) of those being read."""
        if not torch.is_grad_enabled():
            k, v = self.write(k, v, end=k.size(2) if mask is None else mask.size(3))
        elif self.prefix is None:  # autograd needs what it has seen as it was: nothing is written into it from now on
            self.prefix = Shared(k.contiguous()), Shared(v.contiguous().mT)
        else:
            self.since.append((k, v.mT))
            ks, vs = zip(*self.since)
            if torch.compiler.is_compiling():  # each length of the list would be compiled anew
                ks, vs = (torch.cat(ks, 2),), (torch.cat(vs, 3),)
                self.since = [(ks[0], vs[0])]
            if k.size(2) == 1:
                return self.attend_once(q, ks, vs, mask, dropout)
            k, v = torch.cat((self.prefix[0].w, *ks), 2), torch.cat((self.prefix[1].w, *vs), 3).mT
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None)

    def attend_once(self, q, ks, vs, mask, dropout):
        """The same for a single position, such as a thought: nothing is copied, but for a moment what came since."""
        product = (lambda x, d, *w: x @ torch.cat(w, d).mT) if torch.compiler.is_compiling() else Joined.apply
        scores = torch.cat((self.prefix[0].product(q), product(q, 2, *ks)), -1) / math.sqrt(q.size(-1))  # (B, nh, 1, K)
        p = F.dropout(scores.masked_fill(~mask, -math.inf).softmax(-1), dropout).to(q.dtype)
        P = self.prefix[0].w.size(2)
        return self.prefix[1].product(p[..., :P]) + product(p[..., P:], 3, *vs)

    def linear(self, layer, x):
        """layer(x), for one of the layer's linear layers and x (B, T, in)."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return layer(x)
        if layer not in self.weights:
            self.weights[layer] = Shared(layer.weight)
        if x.size(1) > 1:
            return F.linear(x, self.weights[layer].w, layer.bias)
        y = self.weights[layer].product(x[:, 0])
        return (y + layer.bias.to(y.dtype))[:, None]


class KVCache:
    """What has been read so far: keys and values in each layer, and which of the positions are real.

    A position is real unless it is padding, or a thought that the row does not have. Whatever is not real is never
    attended to and takes up no position number: this is why rows of different length can share a batch.
    `size` is the number of positions that will be read altogether.
    """

    def __init__(self, n_layer, size):
        self.layers = [LayerCache(size) for _ in range(n_layer)]
        self.real = None  # (B, K) bool

    def detach(self, rows, h):
        """No gradient goes into what these rows (B,), bool on the CPU, have read last; nor into h (B, ...)."""

        def stop(x):  # where() would keep the whole graph, even if nothing goes into it
            where = rows.to(x.device).view(-1, *[1] * (x.dim() - 1))
            return x.detach() if rows.all() else torch.where(where, x.detach(), x) if rows.any() else x

        for layer in self.layers:
            layer.since[-1] = tuple(map(stop, layer.since[-1]))  # those before have been cut off already
        return stop(h)

    def select(self, rows):
        """From now on the rows are these, (M,) int64: some are dropped, or repeated. Only without gradients."""
        self.real = self.real[rows]
        for layer in self.layers:
            layer.k, layer.v = layer.k[rows], layer.v[rows]
