"""
Seq-VCR (2411.02344), against collapse: each dimension of the states should vary over the batch, by itself.

A loss beside any method's that thinks, such as --method=coconut+seq_vcr. It belongs to a batch and is no sum over its
rows: each micro-batch of each process has its own.
"""

import torch
from torch import nn

import curriculum

WIDTH, L_1, L_2 = 2048, 1.0, 0.004  # of the projection; weights of the two terms


class Objective(curriculum.Objective):
    weights = {"seq_vcr": 1.0}

    def __init__(self, model, cfg, tok):
        super().__init__(model, cfg, tok)
        self.project = nn.Linear(model.config.n_embd, WIDTH)  # trained by this loss only

    def counts(self, batch):
        return super().counts(batch) | {"seq_vcr": 1}

    def losses(self, thinking, batch):
        return super().losses(thinking, batch) | {"seq_vcr": self.spread(thinking)}

    @torch.autocast("cpu", enabled=False)  # in bfloat16 a difference of large sums says nothing
    @torch.autocast("cuda", enabled=False)
    def spread(self, thinking):
        """The mean, over the states after the prefix and each thought, and over dimensions i of their covariance C, of
        L_1 max(0, 1 - sqrt(C_ii + 0.001)) + L_2 sum_{j != i} C_ij^2."""
        found = []
        for k in range(thinking.states.size(1)):
            has = thinking.n >= k
            x = self.project(thinking.states[has, k].to(self.project.weight.dtype))  # (M, D)
            x = (x - x.mean(0)) / max(1, len(x) - 1) ** 0.5  # now C = x^T x, and has the same norm as x x^T
            variance = x.square().sum(0)  # (D,)
            too_small = (1 - (variance + 0.001).sqrt()).clamp(min=0).sum()
            shared = (x @ x.T).square().sum() - variance.square().sum()
            found.append((L_1 * too_small + L_2 * shared) / x.size(1))
        return sum(found) / len(found)
