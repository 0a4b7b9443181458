"""
Losses that train something of their own, beside the model. They are modules, made with (model), and called like others.

What they train is saved in ckpt.pt, to go on with, but is no part of the model in best.pt (losses.py).
"""

import dataclasses

import torch
from torch import nn
from torch.nn import functional as F


class Decoder(nn.Module):
    """A second model that has to write each step, from the thoughts that stand for it alone (SIM-CoT, 2509.20317).

    It begins as a copy of the model, and is not used once that is trained. A group of thoughts, which are read as they
    were fed back, is its prefix. The loss of a group is the mean cross-entropy of its tokens, in nats.
    """

    def __init__(self, model):
        super().__init__()
        plain = {"feedback": "last", "thought_positions": "none", "stop": "", "passes": 0, "in_place": False}
        with torch.device("meta"):  # shapes only: the values follow
            self.model = type(model)(dataclasses.replace(model.config, **plain))
        weights = {k: v.detach().clone() for k, v in model.state_dict().items() if not k.startswith(model.OWN)}
        self.model.load_state_dict(weights, assign=True)

    def forward(self, model, thinking, batch):
        if batch.steps is None or (batch.steps < 0).all():  # nothing to write; a zero that has a gradient
            return 0.0 * thinking.states.sum()
        (B, G, _), N = batch.steps.shape, thinking.fed.size(1)
        row, group = (batch.steps[..., 0] >= 0).nonzero(as_tuple=True)  # (M,) each
        thoughts = thinking.fed.view(B, G, N // G, -1)[row, group]  # (M, c, C)
        text = batch.steps[row, group]  # (M, W)
        scored = text >= 0
        real = torch.cat((torch.ones_like(thoughts[..., 0], dtype=torch.bool), scored[:, :-1]), 1)
        states, _ = self.model.read(torch.cat((thoughts, self.model.embed(text[:, :-1].clamp(min=0))), 1), real)
        logits = self.model.head(states[-1][:, N // G - 1 :][scored])  # only where there is something to write
        nats = F.cross_entropy(logits, text[scored], reduction="none")
        return (nats / scored.sum(1, keepdim=True).expand_as(scored)[scored]).sum()


class SeqVCR(nn.Module):
    """Against collapse: each dimension of a projection of the states should vary over the batch, by itself.

    The mean, over the states after the prefix and each thought, and over dimensions i of their covariance C, of
    l_1 max(0, 1 - sqrt(C_ii + 0.001)) + l_2 sum_{j != i} C_ij^2 (Seq-VCR, 2411.02344). It belongs to a batch and is no
    sum over its rows: each micro-batch of each process has its own.
    """

    def __init__(self, model, width=2048, l_1=1.0, l_2=0.004):
        super().__init__()
        self.project, self.l_1, self.l_2 = nn.Linear(model.config.n_embd, width), l_1, l_2

    @torch.autocast("cpu", enabled=False)  # in bfloat16 a difference of large sums says nothing
    @torch.autocast("cuda", enabled=False)
    def forward(self, model, thinking, batch):
        found = []
        for k in range(thinking.states.size(1)):
            x = self.project(thinking.states[thinking.n >= k, k].to(self.project.weight.dtype))  # (M, D)
            x = (x - x.mean(0)) / max(1, len(x) - 1) ** 0.5  # now C = x^T x, and has the same norm as x x^T
            variance = x.square().sum(0)
            spread, shared = (1 - (variance + 0.001).sqrt()).clamp(min=0).sum(), (x @ x.T).square().sum()
            found.append((self.l_1 * spread + self.l_2 * (shared - variance.square().sum())) / x.size(1))
        return sum(found) / len(found)
