"""
What stop and ponder share: a model that says itself when it has thought enough, by a head on the states, a logit each.
"""

import torch
from torch import nn
from torch.nn import functional as F

from coconut import Coconut


class Stopping(Coconut):
    """In generate(), unless may_stop is False, a row thinks until the chance that it has ended exceeds 1/2."""

    may_stop = True
    generating = False

    def __init__(self, base, cfg, tok):
        super().__init__(base, cfg.feedback)
        self.stop_head = nn.Linear(base.config.n_embd, 1)
        nn.init.zeros_(self.stop_head.weight)
        nn.init.constant_(self.stop_head.bias, -2)  # at first it goes on, in seven of eight cases

    def generate(self, *args, **settings):
        self.generating = True
        try:
            return super().generate(*args, **settings)
        finally:
            self.generating = False

    def make_thoughts(self, h, n, past):
        if not (self.generating and self.may_stop):
            return super().make_thoughts(h, n, past)
        N, n = int(n.max()), n.to(h[-1].device)
        fed, places = [h[-1][:, :0]], [h]
        going_on = 1.0  # the chance that it has not ended yet, (B,) from the first thought on
        for i in range(N):
            going_on = going_on * (1 - self.stop_head(h[-1])[:, 0, 0].sigmoid())  # (B,)
            n = n.where(going_on > 0.5, n.clamp(max=i))  # whoever has probably ended has i thoughts at most
            if int(n.max()) <= i:
                break
            fed.append(self.feedback(h, self, i))
            if i < N - 1:
                h, past = self.read(fed[-1], (i < n)[:, None], past)
                places.append(h)
        return torch.cat(fed, 1), n, places, past


def most(stage, cfg):
    """The most thoughts that a row may have at this stage: when it answers, the stage is only a limit."""
    return cfg.c_thought * min(stage, cfg.max_latent_stage)


def chances(logits, n):
    """log of the chance to stop after 0, 1, ..., N thoughts, (B, N+1), from the stop head's logits (B, N+1).

    n (B, 1): after so many thoughts a row stops in any case; what comes later in it means nothing.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    goes_on = F.pad(F.logsigmoid(-logits).cumsum(1)[:, :-1], (1, 0))  # so far it has not stopped
    k = torch.arange(logits.size(1), device=logits.device)
    return goes_on + F.logsigmoid(logits).masked_fill(k == n, 0)
