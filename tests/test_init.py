"""
Weights that look a fact up from the beginning (init.py).
"""

import torch

from init import induction
from model import GPT, GPTConfig


def attention(block, x, head):
    """Where each position looks (T, T), with one head of a block that gets x (T, C)."""
    (T, C), hs = x.shape, x.size(1) // block.attn.n_head
    q, k, _ = block.attn.c_attn(block.ln_1(x)).split(C, 1)
    part = slice(head * hs, (head + 1) * hs)
    scores = q[:, part] @ k[:, part].T / hs**0.5
    return scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(1)


@torch.no_grad()
def test_what_follows_a_token_is_found_at_once():
    """Catches a rotation the wrong way round, heads that are mixed up, and keys that do not fit what was written."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(2, 2, 128, 100, 60))
    induction(model)
    names, ranks = torch.randperm(50), []
    for place in range(0, 50, 2):  # pairs "a b", and in the end somebody asks for an a
        x = model.wte(torch.cat((names, names[place : place + 1]))) + model.wpe.weight[:51]
        after = model.h[0](x[None], None)[0][0]
        found = sum(attention(model.h[1], after, head)[-1, :50] for head in (0, 1))
        ranks.append((found > found[place + 1]).sum().item())
    back = attention(model.h[0], x, 0)
    assert back.diagonal(-1)[1:].mean() > 0.7  # head 0 of the first layer looks at the place before
    assert attention(model.h[0], x, 1).diagonal(-1).mean() < 0.2  # the other one does not
    assert sum(ranks) / 25 < 12 and ranks.count(0) > 2, ranks  # untrained; by chance 24.5, and half a one
