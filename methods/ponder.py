"""
A model that learns when to stop thinking from what its answers are worth: PonderNet (Banino et al. 2021, 2107.05407).

Its steps are thoughts here. --method=coconut+ponder, or with any other method whose thoughts come in turn; what looks
at them has to come after it, as in coconut+ponder+simcot.
"""

import math

import torch
from torch.nn import functional as F

import curriculum
from coconut import up_to_last
from config import UserError
from methods import _stopping

PRIOR, PULL = 0.2, 0.01  # a priori each thought is the last one with this chance; weight of the prior
make_model = _stopping.Stopping


def change_row(row, problem, stage, cfg, tok, rng=None):
    """All get as many thoughts as there may be: or short problems would never learn to stop, as they end anyway."""
    if row.extra:
        raise UserError(f"method = {cfg.method!r}: expected ponder before what looks at thoughts")
    most = _stopping.most(stage, cfg)
    return row._replace(n=most, extra=row.extra | {"most": most})


class Objective(curriculum.Objective):
    weights = {"ponder": 1.0, "ce": 0.0}  # cross-entropy is a part of it

    def counts(self, batch):
        return super().counts(batch) | {"ponder": len(batch.n)}

    def losses(self, thinking, batch):
        return super().losses(thinking, batch) | {"ponder": self.ponder(thinking, batch)}

    def ponder(self, thinking, batch):
        """sum_k p_k CE_k + PULL KL(p || q): p_k the chance to stop after k thoughts, q a geometric prior, cut off at n.

        CE_k: the mean over a row's scored tokens if they follow after k thoughts, for which all is read again.
        """
        N, n = thinking.fed.size(1), thinking.n[:, None]  # (B, 1)
        k = torch.arange(N + 1, device=n.device)
        row = torch.arange(len(n), device=n.device).repeat_interleave(N + 1)  # each once for each k
        labels, real = batch.labels[row], up_to_last(batch.labels)[row]
        n_thoughts = torch.arange(N + 1).repeat(len(n)).minimum(batch.n.repeat_interleave(N + 1))
        past = batch.past and batch.past.select(row)
        prefix = batch.prefix[row], batch.prefix_len[row]
        again = self.model.think(*prefix, n_thoughts, batch.suffix[row], real, given=thinking.fed[row], past=past)
        logits = self.model.head(again.predicting[:, :-1])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        nats = F.cross_entropy(logits.mT, labels, reduction="none")  # (B (N+1), S)
        nats = (nats.sum(1) / (labels != -100).sum(1)).view(-1, N + 1)
        log_p = _stopping.chances(self.model.stop_head(thinking.states)[..., 0], n)
        log_q = (k.to(log_p.dtype) * math.log(1 - PRIOR)).expand_as(log_p).masked_fill(k > n, -math.inf).log_softmax(1)
        nats, log_p, log_q = (x[k <= n] for x in (nats, log_p, log_q))
        return (log_p.exp() * (nats + PULL * (log_p - log_q))).sum()
